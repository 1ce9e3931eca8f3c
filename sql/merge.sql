-- Merging a guest into an account that exists, and what an administrator says about it, table by table.

create table auth.merge_rules (
    relation regclass primary key,
    rule text not null default 'merge',
    sum_columns name[] not null default '{}',
    -- With its arguments, as text: pg_upgrade does not carry over the OIDs of functions.
    function text,
    user_columns name[] not null default '{}',
    updated_at timestamptz not null default now(),
    constraint merge_rules_rule_is_known check (rule in ('merge', 'keep_account', 'keep_guest', 'ignore', 'sum', 'function')),
    constraint merge_rules_sum_has_columns check ((rule = 'sum') = (sum_columns <> '{}')),
    constraint merge_rules_function_is_named check ((rule = 'function') = (function is not null))
);
comment on table auth.merge_rules is 'What auth.merge_anonymous_user() does with tables, where it differs from the default; written by auth.set_merge_rule()';
comment on column auth.merge_rules.sum_columns is 'Columns that are added up where two rows collide';
comment on column auth.merge_rules.function is 'Function that takes the ids of the guest and of the account, for the rule "function"';
comment on column auth.merge_rules.user_columns is 'Columns that hold the id of a user without a foreign key';

create function auth.set_merge_rule(relation regclass, rule text default 'merge', sum_columns name[] default '{}',
                                    function regprocedure default null, user_columns name[] default '{}') returns void
    language plpgsql security definer set search_path = pg_catalog, auth, pg_temp
as $$
declare
    known constant text[] := array['merge', 'keep_account', 'keep_guest', 'ignore', 'sum', 'function'];
    wrong text;
begin
    if relation is null then
        raise exception 'validation_failed: the table is missing' using errcode = 'PT400';
    end if;
    -- Of tables that were dropped since; another may get their OID some day.
    delete from auth.merge_rules r where not exists (select from pg_class t where t.oid = r.relation);
    if rule is null then
        delete from auth.merge_rules r where r.relation = set_merge_rule.relation;
        return;
    end if;
    if not rule = any (known) then
        raise exception 'validation_failed: "%" is not a merge rule', left(rule, 60)
            using errcode = 'PT400', hint = format('Rules: %s.', array_to_string(known, ', '));
    end if;
    if not exists (select from pg_class t
                    where t.oid = relation and t.relkind in ('r', 'p') and t.relpersistence <> 't'
                      and t.relnamespace not in ('auth'::regnamespace, 'pg_catalog'::regnamespace)) then
        raise exception 'validation_failed: % is not a table of an application', relation using errcode = 'PT400';
    end if;

    sum_columns := coalesce(sum_columns, '{}');
    user_columns := coalesce(user_columns, '{}');
    if (rule = 'sum') <> (sum_columns <> '{}') then
        raise exception 'validation_failed: sum_columns go with the rule "sum", and only with it'
            using errcode = 'PT400', hint = 'For example: auth.set_merge_rule(''cart_items'', ''sum'', array[''quantity'']).';
    end if;
    select c into wrong from unnest(sum_columns) c
     where not exists (select from pg_attribute a join pg_type y on y.oid = a.atttypid
                        where a.attrelid = relation and a.attname = c and a.attnum > 0 and not a.attisdropped
                          and a.attgenerated = ''
                          and exists (select from pg_proc s
                                       where s.proname = 'sum' and s.pronamespace = 'pg_catalog'::regnamespace
                                         and s.proargtypes[0] = y.oid));
    if found then
        raise exception 'validation_failed: "%" is not a column of table % that can be added up', wrong, relation using errcode = 'PT400';
    end if;
    select c into wrong from unnest(user_columns) c
     where not exists (select from pg_attribute a
                        where a.attrelid = relation and a.attname = c and a.attnum > 0 and not a.attisdropped
                          and a.atttypid in ('uuid'::regtype, 'text'::regtype, 'varchar'::regtype));
    if found then
        raise exception 'validation_failed: "%" is not a column of table % that can hold the id of a user', wrong, relation
            using errcode = 'PT400', hint = 'Its type is to be uuid, text or varchar.';
    end if;
    if (rule = 'function') <> (function is not null) then
        raise exception 'validation_failed: a function goes with the rule "function", and only with it'
            using errcode = 'PT400', hint = 'For example: auth.set_merge_rule(''carts'', ''function'', function => ''merge_carts(uuid, uuid)'').';
    end if;
    if function is not null
       and not exists (select from pg_proc p
                        where p.oid = function and p.prokind = 'f' and not p.proretset
                          and p.pronargs = 2 and p.proargtypes[0] = 'uuid'::regtype and p.proargtypes[1] = 'uuid'::regtype) then
        raise exception 'validation_failed: % is not a function that takes the ids of the guest and of the account', function
            using errcode = 'PT400', hint = 'Its arguments are to be (guest uuid, account uuid).';
    end if;
    -- It runs with its owner's rights, which are not everybody's to give who administers the extension.
    if function is not null
       and not exists (select from pg_proc p join pg_class t on t.oid = relation
                        where p.oid = function and (p.proowner = t.relowner or pg_has_role(session_user, p.proowner, 'usage'))) then
        raise exception 'not_function_owner: function % belongs to role "%"', function,
                        (select p.proowner::regrole::text from pg_proc p where p.oid = function)
            using errcode = 'PT403', hint = 'It runs with its owner''s rights: let it have the owner of the table, or log in as its owner, a member of that role or a superuser.';
    end if;

    insert into auth.merge_rules as r (relation, rule, sum_columns, function, user_columns)
    values (relation, rule, sum_columns, function::text, user_columns)
    on conflict on constraint merge_rules_pkey
    do update set rule = excluded.rule, sum_columns = excluded.sum_columns, function = excluded.function,
                  user_columns = excluded.user_columns, updated_at = now();
end
$$;
comment on function auth.set_merge_rule(regclass, text, name[], regprocedure, name[]) is
'Says what auth.merge_anonymous_user() does with a table; replaces what was said before.
Arguments: relation, a table of the application; rule, one of merge (the guest''s rows move; where a unique key collides one row stays), sum (the same, and the row that stays gets the sums of sum_columns), keep_account (the guest''s rows are dropped), keep_guest (the guest''s rows, where it has any, replace the account''s), ignore (the table is not followed), function (a function of the application does it, called as its owner with the ids of guest and account; that is the owner of the table, or the login role has the owner''s rights), or NULL for no rule; user_columns, columns that hold the id of a user without a foreign key.
Errors: validation_failed (PT400), not_function_owner (PT403).
Example: select auth.set_merge_rule(''cart_items'', ''sum'', array[''quantity'']);';

create view auth.owned_tables as
with recursive keys as (
    select c.conrelid as relation, c.confrelid as referenced, c.conkey as numbers, c.conname::text as foreign_key, c.confdeltype as action
      from pg_catalog.pg_constraint c
     where c.contype = 'f' and c.conparentid = 0
       -- conenforced is there from Postgres 18 on.
       and coalesce((pg_catalog.to_jsonb(c) ->> 'conenforced')::boolean, true)
), reached as (
    select k.relation, k.numbers, k.foreign_key, k.action, null::oid as through
      from keys k
     where k.referenced = 'auth.users'::regclass
    union
    select a.attrelid, array[a.attnum], null, null, null
      from auth.merge_rules r
      cross join pg_catalog.unnest(r.user_columns) u(name)
      join pg_catalog.pg_attribute a on a.attrelid = r.relation and a.attname = u.name
     where not exists (select from keys k
                        where k.relation = a.attrelid and k.referenced = 'auth.users'::regclass and k.numbers = array[a.attnum])
), followed as (
    select * from reached
    union
    select k.relation, k.numbers, k.foreign_key, k.action, k.referenced
      from followed f join keys k on k.referenced = f.relation
)
select n.nspname::text as table_schema,
       t.relname::text as table_name,
       c.names as column_name,
       f.foreign_key,
       case when f.through is not null
            then (select pg_catalog.format('%I.%I', tn.nspname, tt.relname)
                    from pg_catalog.pg_class tt join pg_catalog.pg_namespace tn on tn.oid = tt.relnamespace
                   where tt.oid = f.through) end as through,
       case f.action when 'a' then 'NO ACTION' when 'r' then 'RESTRICT' when 'c' then 'CASCADE'
                     when 'n' then 'SET NULL' when 'd' then 'SET DEFAULT' end as on_delete,
       coalesce(r.rule, 'merge') as rule,
       r.sum_columns::text[] as sum_columns,
       r.function,
       i.exists as has_index,
       case when not i.exists then pg_catalog.format('CREATE INDEX ON %I.%I (%s);', n.nspname, t.relname, c.quoted) end as create_index
  from followed f
  join pg_catalog.pg_class t on t.oid = f.relation
  join pg_catalog.pg_namespace n on n.oid = t.relnamespace
  left join auth.merge_rules r on r.relation = f.relation
  cross join lateral (
      select pg_catalog.string_agg(a.attname, ', ' order by k.i) as names,
             pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' order by k.i) as quoted
        from pg_catalog.unnest(f.numbers) with ordinality k(number, i)
        join pg_catalog.pg_attribute a on a.attrelid = f.relation and a.attnum = k.number) c
  cross join lateral (
      -- Whose first columns are those of the key, in any order.
      select exists (select from pg_catalog.pg_index x
                      where x.indrelid = f.relation and x.indpred is null and x.indisvalid
                        and (x.indkey::smallint[])[0:pg_catalog.cardinality(f.numbers) - 1] @> f.numbers
                        and exists (select from pg_catalog.pg_class o join pg_catalog.pg_am m on m.oid = o.relam
                                     where o.oid = x.indexrelid and m.amname in ('btree', 'hash')))) i
 order by 1, 2, 3, 4;
comment on view auth.owned_tables is 'The columns of application tables that hold the id of a user, which a merge and a deletion follow: by which foreign key (none where it was registered with auth.set_merge_rule()), what that does on deletion, the merge rule of the table, and whether an index finds a user''s rows, or else the statement that makes one. Then the columns by which rows hang on those, through which other table: they follow where it has rows that collide, or go, or get another key. Rules hold for these tables as well';

create function auth.merge_anonymous_user(guest_token text, on_conflict text default 'account', dry_run boolean default false) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    -- Keys of rows are passed from statement to statement as text.
    set extra_float_digits = 1
    set datestyle = 'ISO'
    as 'MODULE_PATHNAME', 'anon_auth_merge_anonymous_user';
comment on function auth.merge_anonymous_user(text, text, boolean) is
'Merges a guest into the signed-in account, in one transaction: rows of application tables that hold the guest''s id get the account''s (see auth.owned_tables), user metadata and identities too; then the guest is deleted, unless merge_keep_guests is on. Returns guest, account, on_conflict, guest_deleted, identities (moved, dropped), dry_run and tables: for each its rule, how many rows of the guest were moved and dropped, and how many of the account were kept and replaced.
Arguments: guest_token, an access or refresh token of the guest''s live session; on_conflict, whose row stays where a unique key collides: account or guest; dry_run, true to do it all and roll it back, for the numbers.
Errors: no_authorization (PT401); for the guest''s token bad_jwt, session_not_found, session_expired, user_not_found, refresh_token_not_found, refresh_token_already_used (PT401), user_banned (PT403); validation_failed (PT400), not_anonymous (PT403: only guests are merged), merge_conflict (PT409: names the table and the constraint that forbid it), merge_failed (PT409: names the table and says what its trigger or constraint raised), merge_rule_invalid (PT409), conflict (PT409: others hold the rows), user_still_referenced (PT409).
Example: select auth.merge_anonymous_user($1);';

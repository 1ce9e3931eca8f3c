-- What somebody added to the extension's own tables. Postgres leaves such things out of a dump, because the
-- tables themselves are not dumped; the view lists them with the SQL that makes them again.

create function auth.table_parts()
    returns table (relation text, kind text, name text, definition text)
    language sql stable parallel unsafe set search_path = pg_catalog, auth, pg_temp
as $$
    with ours as (
        select c.oid, c.relname, c.relkind
          from pg_class c
          join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid
                          and d.deptype = 'e' and d.refclassid = 'pg_extension'::regclass
          join pg_extension e on e.oid = d.refobjid and e.extname = 'anon_auth'
         where c.relkind in ('r', 'v')
    )
    select format('auth.%I', o.relname), 'column', a.attname::text,
           format('ALTER TABLE auth.%I ADD COLUMN %I %s%s%s;', o.relname, a.attname,
                  format_type(a.atttypid, a.atttypmod),
                  case when a.attgenerated = 's' then ' GENERATED ALWAYS AS (' || pg_get_expr(f.adbin, f.adrelid) || ') STORED'
                       when f.adbin is not null then ' DEFAULT ' || pg_get_expr(f.adbin, f.adrelid) else '' end,
                  case when a.attnotnull then ' NOT NULL' else '' end)
      from ours o
      join pg_attribute a on a.attrelid = o.oid and a.attnum > 0 and not a.attisdropped
      left join pg_attrdef f on f.adrelid = o.oid and f.adnum = a.attnum
     where o.relkind = 'r'
    union all
    select format('auth.%I', o.relname), 'constraint', k.conname::text,
           format('ALTER TABLE auth.%I ADD CONSTRAINT %I %s;', o.relname, k.conname, pg_get_constraintdef(k.oid))
      from ours o
      join pg_constraint k on k.conrelid = o.oid and k.contype <> 'n'
    union all
    select format('auth.%I', o.relname), 'index', x.relname::text, pg_get_indexdef(i.indexrelid) || ';'
      from ours o
      join pg_index i on i.indrelid = o.oid
      join pg_class x on x.oid = i.indexrelid
     where not exists (select from pg_constraint k where k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x'))
    union all
    select format('auth.%I', o.relname), 'trigger', t.tgname::text, pg_get_triggerdef(t.oid) || ';'
      from ours o
      join pg_trigger t on t.tgrelid = o.oid and not t.tgisinternal
    union all
    select format('auth.%I', o.relname), 'rule', r.rulename::text, pg_get_ruledef(r.oid)
      from ours o
      join pg_rewrite r on r.ev_class = o.oid and r.rulename <> '_RETURN'
    union all
    select format('auth.%I', o.relname), 'policy', p.polname::text,
           format('CREATE POLICY %I ON auth.%I AS %s FOR %s TO %s%s%s;', p.polname, o.relname,
                  case when p.polpermissive then 'PERMISSIVE' else 'RESTRICTIVE' end,
                  case p.polcmd when 'r' then 'SELECT' when 'a' then 'INSERT' when 'w' then 'UPDATE' when 'd' then 'DELETE' else 'ALL' end,
                  (select string_agg(case when r = 0 then 'PUBLIC' else r::regrole::text end, ', ') from unnest(p.polroles) r),
                  coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', ''),
                  coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', ''))
      from ours o
      join pg_policy p on p.polrelid = o.oid
    union all
    select format('auth.%I', o.relname), 'row security', 'enabled', format('ALTER TABLE auth.%I ENABLE ROW LEVEL SECURITY;', o.relname)
      from ours o
      join pg_class c on c.oid = o.oid and c.relrowsecurity
$$;
comment on function auth.table_parts() is 'Columns, constraints, indexes, triggers, rules and policies of the extension''s tables';

-- Filled at the end of the installation script, so it holds what the extension itself made.
create table auth.installed_parts (
    relation text not null,
    kind text not null,
    name text not null,
    primary key (relation, kind, name)
);
comment on table auth.installed_parts is 'Parts of the extension''s tables as it installed them, for auth.customizations';

create view auth.customizations as
select p.relation, p.kind, p.name, p.definition
  from auth.table_parts() p
 where not exists (select from auth.installed_parts i
                    where i.relation = p.relation and i.kind = p.kind and i.name = p.name);
comment on view auth.customizations is 'What was added to the extension''s own tables (columns, constraints, indexes, triggers, rules, policies) and is therefore in no dump, with the SQL to make it again after a restore';

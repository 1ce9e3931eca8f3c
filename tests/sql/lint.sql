-- auth.lint_policies(): which policies let guests in by accident (W7).
\pset format unaligned
begin;
create schema site;
create table site.members (team int, user_id uuid, is_admin boolean);
create table site.profiles (user_id uuid, is_public boolean);
alter table site.profiles enable row level security;
create view site.my_teams with (security_invoker) as select team from site.members where user_id = auth.uid();
create function site.is_permanent() returns boolean language sql stable as 'select auth.is_anonymous() is false';
create function site.is_member(team int) returns boolean language sql stable as 'select true';
create function site.my_team_ids() returns setof int language sql stable as 'select 1';

-- A corpus of policies, each on a table of its own and with the verdict of somebody who knows.
create table corpus (n int generated always as identity, policy text, expected text default '');
insert into corpus (policy, expected) values
-- By accident.
('for select to authenticated using (true)', 'guest_access:warning'),
('for select using (true)', 'guest_access:warning'),
('for insert to authenticated with check (true)', 'guest_access:error'),
('for update to authenticated using (true)', 'guest_access:error'),
('for delete to authenticated using (true)', 'guest_access:error'),
('to authenticated using (true)', 'guest_access:error'),
('for select to authenticated using (auth.uid() is not null)', 'guest_access:warning'),
('for select to authenticated using ((select auth.uid()) is not null)', 'guest_access:warning'),
('for select using (auth.role() = ''authenticated'')', 'guest_access:warning'),
('for select using (auth.jwt()->>''role'' = ''authenticated'')', 'guest_access:warning'),
('for select using (auth.role() in (''authenticated'', ''service_role''))', 'guest_access:warning'),
('for select using (auth.role() = any (''{authenticated,service_role}''))', 'guest_access:warning'),
('for select using (current_user = ''authenticated'')', 'guest_access:warning'),
('for select to authenticated using (published)', 'guest_access:warning'),
('for select to authenticated using (created_at < now())', 'guest_access:warning'),
('for select to authenticated using (auth.is_anonymous() is false or true)', 'guest_access:warning'),
('for select to authenticated using (published or (auth.is_anonymous() is false and published))', 'guest_access:warning'),
('for select to authenticated using (auth.is_anonymous() is not null)', 'guest_access:warning'),
('for select to authenticated using (coalesce(auth.is_anonymous(), false) in (true, false))', 'guest_access:warning'),
('for select to authenticated using (user_id = auth.uid() or published)', 'guest_access:warning'),
('for select to authenticated using (user_id <> auth.uid())', 'guest_access:warning'),
('for select to authenticated using (user_id is distinct from auth.uid())', 'guest_access:warning'),
('for select to authenticated using (auth.jwt() is not null)', 'guest_access:warning'),
('for select to authenticated using (case when auth.is_anonymous() then true else true end)', 'guest_access:warning'),
('for select to authenticated using (''auth.is_anonymous() is false'' is not null /* auth.is_anonymous() is false */)', 'guest_access:warning'),
('for select to authenticated using (exists (select from site.members m where m.team = t.team))', 'guest_access:warning'),
('for select to authenticated using (team in (select m.team from site.members m where m.user_id = auth.uid() or m.is_admin))', 'guest_access:warning'),
('for select to authenticated using (not exists (select from site.members m where m.user_id = auth.uid()))', 'guest_access:warning'),
('for select to authenticated using (coalesce(auth.jwt()->''app_metadata''->>''banned'', ''no'') = ''no'')', 'guest_access:warning'),
('for select to authenticated using (auth.jwt() @> ''{"role": "authenticated"}'')', 'guest_access:warning'),
('for update to authenticated using (auth.uid() is not null) with check (published)', 'guest_access:error'),
('to authenticated using (user_id = auth.uid()) with check (true)', 'guest_access:error'),
('for insert to authenticated with check (user_id = auth.uid() or user_id is null)', 'guest_access:error'),
('for select to authenticated using (num_nonnulls(auth.uid()) > 0)', 'guest_access:warning'),
('for select to authenticated using (auth.jwt()->>''aal'' = ''aal1'')', 'guest_access:warning'),
-- The wrong way round.
('for select to authenticated using (auth.is_anonymous())', 'guests_only:warning'),
('for select to authenticated using ((auth.jwt()->>''is_anonymous'')::boolean)', 'guests_only:warning'),
('for insert to authenticated with check (not (auth.is_anonymous() is false))', 'guests_only:warning'),
('as restrictive for select to authenticated using (auth.is_anonymous())', 'denies_everybody:warning, guests_only:warning'),
-- Guest status is asked for, and makes a difference.
('for select to authenticated using (auth.is_anonymous() is false)', ''),
('for select to authenticated using ((select auth.is_anonymous()) is false)', ''),
('for select to authenticated using (not auth.is_anonymous())', ''),
('for select to authenticated using (auth.is_anonymous() is not true)', ''),
('for select to authenticated using (auth.is_anonymous() = false)', ''),
('for select to authenticated using (auth.is_anonymous() is distinct from true)', ''),
('for insert to authenticated with check ((select (auth.jwt()->>''is_anonymous'')::boolean) is false)', ''),
('for select to authenticated using (auth.jwt()->>''is_anonymous'' = ''false'')', ''),
('for select to authenticated using (auth.jwt()->''is_anonymous'' = ''false'')', ''),
('for select to authenticated using ((auth.jwt()->''is_anonymous'')::boolean is false)', ''),
('for select to authenticated using (auth.jwt() @> ''{"is_anonymous": false}'')', ''),
('for select to authenticated using (auth.jwt() #>> ''{is_anonymous}'' = ''false'')', ''),
('for select to authenticated using (jsonb_extract_path_text(auth.jwt(), ''is_anonymous'') <> ''true'')', ''),
('for select to authenticated using (((auth.jwt())[''is_anonymous''])::boolean is false)', ''),
('for select to authenticated using (coalesce((auth.jwt()->>''is_anonymous'')::boolean, true) = false)', ''),
('for select to authenticated using (published and auth.is_anonymous() is false)', ''),
('for select to authenticated using (published or auth.is_anonymous() is false)', ''),
('for select to authenticated using ((published and auth.is_anonymous() is false) or team = 1)', ''),
('for select to authenticated using (case when auth.is_anonymous() then published else true end)', ''),
('for select to authenticated using (case auth.is_anonymous() when true then false else true end)', ''),
('for select to authenticated using (auth.email() is not null)', ''),
('for select to authenticated using (auth.jwt()->>''email'' <> '''')', ''),
('for select to authenticated using (auth.jwt()->>''email'' like ''%@example.com'')', ''),
('for select to authenticated using (auth.jwt()->''app_metadata''->>''plan'' = ''pro'')', ''),
('for select to authenticated using (auth.jwt()->>''aal'' = ''aal2'')', ''),
-- Rows of one's own.
('to authenticated using (user_id = auth.uid()) with check (user_id = auth.uid())', ''),
('for select to authenticated using (auth.uid() = user_id)', ''),
('for select to authenticated using ((select auth.uid()) = user_id)', ''),
('for select to authenticated using (user_id::text = auth.jwt()->>''sub'')', ''),
('for select to authenticated using (user_id = (auth.jwt()->>''sub'')::uuid)', ''),
('for select to authenticated using (auth.uid() = any (editors))', ''),
('for select to authenticated using (editors @> array[auth.uid()])', ''),
('for select to authenticated using (email = auth.email())', ''),
('for select to authenticated using (lower(email) = auth.jwt()->>''email'')', ''),
('for select to authenticated using (path like auth.uid()::text || ''/%'')', ''),
('for select to authenticated using (starts_with(path, auth.uid()::text))', ''),
('for select to authenticated using ((string_to_array(path, ''/''))[1] = auth.uid()::text)', ''),
('for select to authenticated using (user_id = auth.uid() and published)', ''),
('for select to authenticated using (exists (select from site.members m where m.team = t.team and m.user_id = auth.uid()))', ''),
('for select to authenticated using (team in (select m.team from site.members m where m.user_id = (select auth.uid())))', ''),
('for select to authenticated using (auth.uid() in (select m.user_id from site.members m where m.team = t.team))', ''),
('for select to authenticated using ((select count(*) from site.members m where m.user_id = auth.uid()) > 0)', ''),
('for select to authenticated using ((select m.is_admin from site.members m where m.user_id = auth.uid()))', ''),
('for select to authenticated using (coalesce((select bool_or(m.is_admin) from site.members m where m.user_id = auth.uid()), false))', ''),
('for select to authenticated using (team = any (array(select m.team from site.members m where m.user_id = auth.uid())) and user_id = auth.uid())', ''),
('for select to authenticated using (exists (select from (select * from site.members where user_id = auth.uid()) m join site.profiles p using (user_id)))', ''),
('for update to authenticated using (user_id = auth.uid()) with check (true)', ''),
('for select to authenticated using (false)', ''),
('for select to authenticated using (null)', ''),
-- Not for guests at all.
('for select to service_role using (true)', ''),
('for select to anon using (true)', ''),
-- Nobody but a run could tell.
('for select to authenticated using (site.is_permanent())', 'guest_access_unclear:info'),
('for select to authenticated using (not site.is_permanent())', 'guest_access_unclear:info'),
('for select to authenticated using (site.is_member(team) and published)', 'guest_access_unclear:info'),
('for select to authenticated using (site.is_member(team) or published)', 'guest_access:warning'),
('for select to authenticated using (team in (select m.team from site.my_teams m))', 'guest_access_unclear:info'),
('for select to authenticated using (team in (select site.my_team_ids()))', 'guest_access_unclear:info'),
('for select to authenticated using (exists (select from site.profiles p where p.user_id = user_id))', 'guest_access_unclear:info'),
('for select to authenticated using (auth.jwt()->>''tenant'' = path)', 'guest_access_unclear:info'),
('for select to authenticated using (lower(auth.jwt()->>''is_anonymous'') = ''false'')', 'guest_access_unclear:info'),
-- Other things that are wrong.
('for select to authenticated using (auth.jwt()->''user_metadata''->>''role'' = ''admin'')', 'guest_access:warning, trusts_user_metadata:error'),
('for select to authenticated using (auth.is_anonymous() is false and auth.jwt() #>> ''{user_metadata,role}'' = ''admin'')', 'trusts_user_metadata:error'),
('for select to authenticated using (exists (select from auth.users u where u.id = auth.uid() and u.raw_user_meta_data->>''role'' = ''admin''))', 'trusts_user_metadata:error'),
('for select to authenticated using (user_id = (current_setting(''request.jwt.claims'', true)::json->>''sub'')::uuid)', 'reads_request_settings:warning'),
('for select to authenticated using (nullif(current_setting(''request.jwt.claim.sub'', true), '''')::uuid = user_id)', 'reads_request_settings:warning'),
('for select to authenticated using (current_setting(''request.jwt.claims'')::jsonb->>''role'' = ''authenticated'')', 'guest_access:warning, reads_request_settings:warning'),
('for select to authenticated using (current_setting(''site.mode'') = ''open'')', 'guest_access:warning'),
('as restrictive for insert to authenticated with check (auth.is_anonymous() is false)', 'denies_everybody:warning'),
-- Columns that may be NULL, claims that hold more than a text.
('for select to authenticated using (coalesce(user_id = auth.uid(), true))', 'guest_access:warning'),
('for insert to authenticated with check (coalesce(user_id, auth.uid()) = auth.uid())', 'guest_access:error'),
('for select to authenticated using (coalesce(user_id = auth.uid(), false))', ''),
('for select to authenticated using (auth.jwt()->''app_metadata'' @> ''{"teams": ["a"]}'')', ''),
('for select to authenticated using (auth.jwt()->''app_metadata'' @> ''{}'')', 'guest_access:warning'),
('for select to authenticated using (auth.jwt()->''amr''->0->>''method'' <> ''anonymous'')', 'guest_access_unclear:info');

do $$
declare
    entry record;
    named text;
begin
    for entry in select * from corpus order by n loop
        named := format('t%s', lpad(entry.n::text, 3, '0'));
        execute format('create table site.%I (id int, user_id uuid, team int, published boolean, created_at timestamptz, email text, path text, editors uuid[])', named);
        execute format('alter table site.%I enable row level security', named);
        -- A policy names its table by its own name only.
        execute format('create policy p on site.%I %s', named, replace(entry.policy, 't.team', named || '.team'));
    end loop;
exception when others then
    raise exception '% in: %', sqlerrm, entry.policy;
end
$$;
create table found as select * from auth.lint_policies();
create table judged as
select c.n, c.policy, c.expected, coalesce(string_agg(distinct f.problem || ':' || f.level, ', '), '') as found
  from corpus c
  left join found f on f.schema_name = 'site' and f.table_name = 't' || lpad(c.n::text, 3, '0') and f.problem <> 'evaluated_per_row'
 group by c.n, c.policy, c.expected;
-- W7: every one is judged as expected: no false alarm, nothing missed.
select policy, expected, found from judged where found <> expected order by n;
select count(*) as policies, count(*) filter (where found <> '' and expected = '') as false_alarms, count(*) filter (where found = '' and expected <> '') as missed from judged;

-- W7: each comes with the statement that closes it: made all at once, nothing of the kind is left.
select fix from found where table_name in ('t001', 't006', 't032', 't033', 't092') order by table_name, command;
select count(*) as fixes from found where fix is not null;
do $$
declare
    statement text;
begin
    for statement in select fix from found where fix is not null loop
        execute statement;
    end loop;
end
$$;
select problem, count(*) from auth.lint_policies() where fix is not null group by problem;
rollback;

-- What the rest shows: everything about one table, in short.
create function lint(named text) returns table (policy text, command text, finding text)
language sql as $$
    select policy_name, l.command, problem || ':' || level from auth.lint_policies() l where schema_name = 'site' and table_name = named order by problem, 1, 2
$$;

-- W7, S3: restrictive policies count where they are for the same command and role.
begin;
create schema site;
create table site.news_feed (id int, user_id uuid);
alter table site.news_feed enable row level security;
create policy p on site.news_feed as restrictive for insert to authenticated with check ((select (auth.jwt()->>'is_anonymous')::boolean) is false);
select * from lint('news_feed');
create policy q on site.news_feed for select to authenticated using (true);
create policy r on site.news_feed for insert to authenticated with check (true);
select * from lint('news_feed');
create policy s on site.news_feed as restrictive for select to service_role using (auth.is_anonymous() is false);
create policy t on site.news_feed as restrictive for delete using (auth.is_anonymous() is false);
create policy u on site.news_feed as restrictive for select using (site.news_feed.id > 0);
select * from lint('news_feed');
create policy v on site.news_feed as restrictive for select using (user_id = auth.uid() or auth.is_anonymous() is false);
select * from lint('news_feed');
-- Of a policy for all commands, what is left open; and none is left open by the fixes.
create policy w on site.news_feed using (true);
select * from lint('news_feed');
select fix from auth.lint_policies() where policy_name = 'w' \gexec
select * from lint('news_feed');
rollback;

-- W7: through another role that authenticated has or may take.
begin;
create schema site;
create role readers;
create role strangers;
grant readers to authenticated;
create table site.notes (id int);
alter table site.notes enable row level security;
create policy p on site.notes for select to readers using (true);
create policy q on site.notes for select to strangers using (true);
create policy r on site.notes for select to strangers, authenticated using (true);
select policy_name, problem, fix from auth.lint_policies() order by policy_name;
select fix from auth.lint_policies() \gexec
select policy_name, problem from auth.lint_policies();
rollback;

-- Row-level security that is not on, and what goes around it.
begin;
create schema site;
create table site.dormant (id int);
create policy p on site.dormant to authenticated using (auth.is_anonymous() is false);
create table site.open_to_write (id int);
create table site.open_to_read (id int);
create table site.out_of_reach (id int);
create table site.parent (id int, user_id uuid) partition by list (id);
alter table site.parent enable row level security;
create policy own on site.parent to authenticated using (user_id = auth.uid());
create table site.part_1 partition of site.parent for values in (1);
create table site.part_2 partition of site.parent for values in (2);
create view site.all_rows as select * from site.parent;
create view site.my_rows with (security_invoker = on) as select * from site.parent;
create view site.not_granted as select * from site.parent;
create view site.unguarded as select * from site.open_to_read;
create view site.through_another as select * from site.not_granted;
create materialized view site.copied as select * from site.my_rows;
create view site.others with (security_barrier) as select * from site.parent;
create role other_owner;
grant select on site.parent to other_owner;
alter view site.others owner to other_owner;
grant select on site.all_rows, site.my_rows, site.unguarded, site.through_another, site.copied, site.others, site.open_to_read to authenticated;
grant insert on site.open_to_write to authenticated;
grant update (id) on site.part_2 to authenticated;
grant usage on schema site to authenticated;
create schema closed;
create table closed.notes (id int);
grant insert on closed.notes to authenticated;
create temporary table temporary_notes (id int);
grant insert on temporary_notes to authenticated;
select table_name, problem, level, reason, fix from auth.lint_policies();
select fix from auth.lint_policies() where fix is not null \gexec
select table_name, problem, level from auth.lint_policies();
rollback;

-- Performance: what Postgres computes again for every row.
begin;
create schema site;
create table site.notes (id int, user_id uuid, tenant text);
alter table site.notes enable row level security;
create policy a on site.notes for select to service_role using (user_id = auth.uid() and auth.is_anonymous() is false);
create policy b on site.notes for select to service_role using (tenant = (select auth.jwt()->'app_metadata'->>'tenant'));
create policy c on site.notes for select to service_role using (tenant = auth.jwt()->'app_metadata'->>'tenant');
create policy d on site.notes for select to service_role using (exists (select from site.notes n where n.user_id = (auth.jwt()->>'sub')::uuid));
select policy_name, problem, level from auth.lint_policies();
rollback;

-- More unknowns than can be tried out: it says that it cannot tell.
begin;
create schema site;
create table site.wide (a boolean, b boolean, c boolean, d boolean, e boolean, f boolean, g boolean, h boolean, i boolean, j boolean, k boolean, l boolean);
alter table site.wide enable row level security;
create policy p on site.wide for select to authenticated using (a or b or c or d or e or f or g or h or i or j or k or l);
create policy q on site.wide for insert to authenticated with check (auth.is_anonymous() is false and (a or b or c or d or e or f or g or h or i));
select * from lint('wide');
rollback;

-- N13: names that are no names, and a search_path that lies. Nothing of an application's is run.
begin;
create schema "; drop schema site --";
create table "; drop schema site --"."a ""table"" with ' \ and ☃" (id int);
alter table "; drop schema site --"."a ""table"" with ' \ and ☃" enable row level security;
create policy "ééééééééééééééééééééééééééééééé""" on "; drop schema site --"."a ""table"" with ' \ and ☃" to authenticated using (true);
create policy "ééééééééééééééééééééééééééé_no_guests" on "; drop schema site --"."a ""table"" with ' \ and ☃" as restrictive to service_role using (true);
create schema lies;
create function lies.touch() returns boolean language plpgsql as $$ begin raise exception 'was run as %', current_user; end $$;
create function lies.equals(text, text) returns boolean language sql as 'select lies.touch()';
create operator lies.= (leftarg = text, rightarg = text, function = lies.equals);
create function lies.is_anonymous() returns boolean language sql as 'select lies.touch()';
create function lies.jsonb_to_recordset(jsonb) returns setof record language sql as 'select lies.touch(), lies.touch()';
create table lies.pg_policy (oid oid);
create table lies.checked (name text);
alter table lies.checked enable row level security;
create policy p on lies.checked for select to authenticated using (name operator(lies.=) 'x' and lies.is_anonymous() is false);
create policy q on lies.checked for insert to authenticated with check (lies.touch());
grant usage on schema lies to public;
set local role service_role;
set local search_path = lies, pg_catalog;
select * from auth.lint_policies() where schema_name like ';%';
select policy_name, problem from auth.lint_policies() where schema_name operator(pg_catalog.=) 'lies';
reset role;
set local search_path = public;
select fix from auth.lint_policies() where schema_name like ';%' \gexec
select problem from auth.lint_policies() where schema_name like ';%';
rollback;

-- N10: for administrators only; and it only reads.
begin;
set local role authenticated;
select raised('select auth.lint_policies()'), raised('select auth.policy_findings()');
set local role service_role;
set transaction read only;
select count(*) as findings from auth.lint_policies();
select pg_current_xact_id_if_assigned() as no_transaction_id;
rollback;

-- Policies that are too much for it do not keep it from the others: hundreds of unknowns, and expressions nested deeply.
begin;
create schema site;
create table site.large (n int, b boolean);
alter table site.large enable row level security;
do $$
begin
    execute format('create policy wide on site.large for select to authenticated using (%s)',
                   (select string_agg('n > ' || i, ' or ') from generate_series(1, 500) i));
    execute format('create policy deep on site.large for select to authenticated using (%sb%s)',
                   repeat('not (', 1000), repeat(' is true)', 1000));
end
$$;
select * from lint('large');
rollback;

-- The extension's own tables, and those of other extensions, are none of its business; and without the role
-- authenticated there is nobody to let in.
begin;
create policy p on auth.users for select using (true);
alter role authenticated rename to somebody;
create table notes (id int);
alter table notes enable row level security;
create policy p on notes for select using (true);
select * from auth.lint_policies();
rollback;
drop function lint;

-- anon_auth.evaluate_once: what is evaluated once, that nothing but the speed changes (W5), and that nothing
-- hidden shows.
\pset format unaligned

create table notes (id int primary key, user_id uuid, team text, kind text, level int, body text);
create table events (id int, team text, body text) partition by list (team);
create table events_red partition of events for values in ('red');
create table events_blue partition of events for values in ('blue');
create table events_rest partition of events default;
-- @team and @level stand for a claim each; the second may raise an error.
create function spelt_out(statement text) returns text language sql immutable as $$
    select replace(replace(statement, '@team', '(auth.jwt()->''user_metadata''->>''team'')'),
                   '@level', '(auth.jwt()->''user_metadata''->>''level'')::int')
$$;
select spelt_out(s) from unnest(array[
    'create policy own on notes to authenticated using (user_id = auth.uid() or (auth.jwt()->>''is_anonymous'')::boolean is false)
         with check (team = @team and auth.jwt()->>''aud'' = ''authenticated'')',
    'create policy team on events to authenticated using (team = @team)',
    'create view team_notes with (security_barrier) as select * from notes where team = @team or user_id = auth.uid()',
    'create view checked_notes with (security_invoker) as select * from notes where team = @team with check option']) s
\gexec
alter table notes enable row level security;
alter table events enable row level security;
grant all on notes, events, team_notes, checked_notes to authenticated, anon;
create function stored() returns setof text language sql security definer as $$
    select concat_ws(':', id, team, level, body) from public.notes union all
    select concat_ws(':', 'event', id, team, body) from public.events
$$;

select * from session(auth.sign_in_anonymously('{"team": "red", "level": "2"}')) \gset ada_
select * from session(auth.sign_in_anonymously('{"team": "blue", "level": "high"}')) \gset bob_
update auth.users set is_anonymous = false where id = :'bob_id';
insert into notes values (1, :'ada_id', 'red', 'public', 1, 'a'), (2, :'ada_id', 'red', 'private', 2, 'b'),
    (3, :'bob_id', 'blue', 'public', 3, 'c'), (4, :'bob_id', 'blue', 'private', 4, 'd'), (5, null, 'red', 'public', 5, 'e'),
    (6, :'ada_id', 'blue', 'private', null, 'f');
insert into events values (1, 'red', 'r'), (2, 'blue', 's'), (3, 'red', 't'), (4, 'green', 'u');

-- The rows of a statement, or of stored() after it, or its error. Nothing is left of it.
create function outcome(statement text) returns text language plpgsql as $$
declare
    item record;
    items text[] = '{}';
begin
    begin
        if statement ~* '^(select|with)|returning' then
            for item in execute spelt_out(statement) loop
                items := items || item::text;
            end loop;
        else
            execute spelt_out(statement);
            items := array(select stored());
        end if;
        raise exception sqlstate 'UNDO0';
    exception
        when sqlstate 'UNDO0' then return coalesce((select string_agg(i, ' ' order by i collate "C") from unnest(items) i), 'no rows');
        when others then return sqlstate || ' ' || sqlerrm;
    end;
end
$$;
create function init_plans(statement text, out number int) language plpgsql as $$
declare
    line text;
begin
    number := 0;
    for line in execute 'explain ' || spelt_out(statement) loop
        number := number + (line ~ '^ *InitPlan')::int;
    end loop;
exception when others then
    number := null;  -- planning raises an error
end
$$;
-- Both outcomes where they differ.
create function compared(statement text, out is_same boolean, out is_rewritten boolean, out outcome text) language plpgsql as $$
declare
    init_plans int;
    other text;
begin
    perform set_config('anon_auth.evaluate_once', 'off', true);
    outcome := outcome(statement);
    init_plans := init_plans(statement);
    perform set_config('anon_auth.evaluate_once', 'on', true);
    other := outcome(statement);
    is_same := outcome = other;
    is_rewritten := init_plans(statement) > coalesce(init_plans, 0);
    if not is_same then
        outcome := outcome || ' -> ' || other;
    end if;
end
$$;

create table corpus (id serial, statement text);
grant select on corpus to public;
insert into corpus (statement) values
    -- policies and conditions
    ('select id from notes'),
    ('select id from events'),
    ('select id from notes where team = @team'),
    ('select id from notes where level = @level'),
    ('select id from notes where (auth.jwt()->>''sub'')::uuid = user_id'),
    ('select id from notes where user_id = auth.uid()'),
    ('select id from notes where auth.is_anonymous() and user_id = coalesce(auth.uid(), null)'),
    ('select id from notes where team = any (array[@team, ''green''])'),
    ('select id from notes where team = any (string_to_array(@team || '',green'', '',''))'),
    ('select id from notes where (team, level) = (@team, 2)'),
    ('select id from notes where (team, level) < (@team, @level)'),
    ('select id from notes where row(team, 1) = row(@team, 1) and row(@team) is not null'),
    ('select id from notes where team is distinct from @team'),
    ('select id from notes where random() >= 0 and length(@team) * random() >= 0'),
    ('select id from notes where id = 2 and @team = ''red'''),
    ('select id from notes where nullif(@team, ''red'') is null'),
    ('select id from notes where greatest(@team, team) = team'),
    ('select id from notes where @team::varchar(2) = left(team, 2)'),
    ('select id from notes where (string_to_array(@team, ''e''))[1] = ''r'''),
    ('select id from notes where array[@team]::varchar(1)[] <@ array[left(team, 1)]::varchar[]'),
    -- an error that nobody needs to see
    ('select id from notes where kind in (''public'', ''private'') or level = @level'),
    ('select id from notes where kind = ''public'' or level = @level'),
    ('select id from notes where kind in (''public'', ''private'') or level + @level > 0'),
    ('select id from notes where id = 0 and level = id + @level'),
    ('select id, case when kind = ''none'' then @level else level end from notes'),
    ('select id, coalesce(id, @level) from notes'),
    ('select id, case when true then 1 else @level end from notes'),
    ('select id, case when @team = ''none'' then @level end from notes'),
    ('select id, case when false then 1 / (length(@team) - length(@team)) end from notes'),
    ('select id, @level from notes where id = 0'),
    ('select id, @level from notes limit 0'),
    ('select 1 / (length(@team) - length(@team)) from notes'),
    ('select count(*) from (select id, @level from notes) n'),
    ('select id from notes where level = 1 / 0 * length(@team)'),
    -- target lists
    ('select id, @team, upper(@team), auth.role() from notes'),
    ('select @team, @level'),
    ('select id, case @team when ''red'' then ''is red'' when team then ''is mine'' end from notes'),
    ('select id, case @team when ''red'' then 1 when ''blue'' then 2 end from notes'),
    ('select id, row(@team, id), row(@team) from notes'),
    ('select id, auth.jwt()->''user_metadata''->''team'', pg_typeof(auth.jwt()->''aud'') from notes'),
    ('select id, unnest(string_to_array(@team, ''e'')) from notes'),
    ('select id, array[@team, body], (array[body, @team])[length(@team) - 1] from notes'),
    -- joins
    ('select n.id, m.id from notes n join notes m on m.team = @team and m.id > n.id'),
    ('select n.id, e.id from notes n left join events e on e.team = n.team and n.team = @team'),
    ('select n.id, e.id from notes n full join events e on e.id = n.id where coalesce(n.team, @team) = @team'),
    ('select n.id, s.team from notes n left join (select id, @team as team from events) s on s.id = n.id'),
    ('select n.id from notes n natural join events e where @team is not null'),
    ('select n.id, s.body from notes n, lateral (select n.body || @team as body) s'),
    ('select n.id, i from notes n, generate_series(1, length(@team)) i where i = n.level'),
    ('select n.id, k, v from notes n, jsonb_each_text(auth.jwt()->''user_metadata'') e(k, v) where v = n.team'),
    ('select n.id from notes n, (select @team as team) me where n.team = me.team'),
    ('select n.id from notes n where (n.id, n.team) in (values (1, @team), (3, @team))'),
    ('select n.id from notes n tablesample system (length(@team) + 97) where @team = team'),
    -- sub-queries
    ('select id from notes n where exists (select from events e where e.team = n.team and e.team = @team)'),
    ('select id from notes n where not exists (select from events e where e.id = n.id and @team = ''red'')'),
    ('select id from notes where id not in (select id from events where team = @team)'),
    ('select id from notes where @team in (select team from events)'),
    ('select id from notes where (@team = ''red'') = (select @team = ''red'')'),
    ('select id, (select max(e.id) from events e where e.team = @team and e.id >= n.id) from notes n'),
    ('select id, array(select e.body || @team from events e where e.id > n.id) from notes n'),
    ('select id from notes where (select @team || (select @team)) = @team || team'),
    ('with mine as (select * from notes where team = @team) select a.id from mine a join mine b using (id)'),
    ('with me as materialized (select @team as team) select id from notes join me using (team)'),
    ('with recursive r(i, team) as (select 1, @team union all select i + 1, team from r where i < length(@team)) select * from r'),
    ('with changed as (update notes set level = level + length(@team) where team = @team returning id, level) select * from changed'),
    ('with added as (insert into notes values (10, auth.uid(), @team) returning *) select id, team from added where team = @team'),
    ('select team from notes where team = @team union select @team || ''!'' from events'),
    ('select team from notes intersect select @team from events'),
    ('select id from notes except all select id from events where team = @team'),
    -- grouping, windows, order
    ('select @team, count(*) from notes group by @team'),
    ('select upper(@team), kind, count(*) from notes group by @team, kind'),
    ('select lower(@team || kind), count(*) from notes group by rollup (@team || kind)'),
    ('select upper(team), kind, count(*) from (select @team as team, kind from notes) n group by cube (team, kind)'),
    ('select lower(@team || kind), count(*) from notes group by @team || kind having @team || kind <> ''x'''),
    ('select kind from notes group by kind having count(*) >= length(@team) - 1'),
    ('select count(*) filter (where team = @team), sum(level + length(@team)), string_agg(@team, @team order by id) from notes'),
    ('select count(*) from notes having @team = ''red'''),
    ('select id, sum(level) over (partition by team = @team order by id rows between length(@team) - 2 preceding and current row) from notes'),
    ('select id, lag(@team, length(@team)) over (order by id) from notes'),
    ('select distinct @team, kind from notes order by @team, kind'),
    ('select distinct on (team = @team) team from notes order by team = @team, team'),
    ('select id from notes order by team = @team, id limit length(@team) - 1'),
    ('select id from notes order by @team || body desc offset length(@team) - 2'),
    -- views
    ('select id from team_notes'),
    ('select id from checked_notes where body < @team'),
    ('update checked_notes set body = @team'),
    ('update checked_notes set team = ''green'' where id < 3'),
    ('insert into checked_notes values (10, auth.uid(), @team), (11, auth.uid(), @team)'),
    ('insert into checked_notes select 10, auth.uid(), ''green'''),
    -- writing
    ('select id from notes where team = @team for update'),
    ('select n.id from notes n join events e using (team) where team = @team or n.level = @level for no key update of n'),
    ('update notes set body = @team || body where team = @team'),
    ('update notes set level = @level'),
    ('update notes set level = @level where team = @team'),
    ('update notes set level = @level where level is null and team = @team'),
    ('update notes set level = level + 1 where kind = ''none'' or level + @level > 0 and team = @team'),
    ('update notes set (body, level) = (select @team, length(@team)) where id = 1'),
    ('update notes set team = ''green'''),
    ('update notes n set body = e.body || @team from events e where e.team = n.team and e.team = @team'),
    ('update events set team = ''blue'' where team = @team'),
    ('update events set body = @team returning id, body, @team'),
    ('delete from notes where level = length(@team) - 1 returning id, upper(@team)'),
    ('delete from notes n using events e where e.id = n.id and n.team = @team'),
    ('delete from events'),
    ('insert into notes values (10, auth.uid(), @team, @team) returning id, team, upper(@team)'),
    ('insert into notes values (10, auth.uid(), @team), (11, auth.uid(), upper(@team))'),
    ('insert into notes select id + 10, auth.uid(), @team from notes'),
    ('insert into notes select id + 10, auth.uid(), team from team_notes returning id, @team || id'),
    ('insert into notes select 10, auth.uid(), ''green'''),
    ('insert into notes select id, auth.uid(), @team from notes on conflict (id) do update set body = excluded.team || @team where notes.team = @team'),
    ('insert into notes select id, auth.uid(), @team from notes on conflict do nothing returning id'),
    ('merge into notes n using events e on e.id = n.id and n.team = @team when matched and e.team = @team then update set body = @team || e.body when matched then delete'),
    ('merge into notes n using (select id + 10 as id, @team as team from events) e on e.id = n.id when not matched and e.team = @team then insert values (e.id, auth.uid(), e.team, upper(@team))'),
    ('merge into notes n using events e on e.id = n.id when matched then update set team = ''green''');

-- It is off unless somebody sets it, and anybody may.
begin;
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as ada;
show anon_auth.evaluate_once;
select init_plans('select id from notes') as without;
set local anon_auth.evaluate_once = on;
select init_plans('select id from notes') as with;
rollback;

-- W5: every statement returns, writes or raises the same without and with it.
begin;
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as ada;
select is_same, is_rewritten, outcome, statement from corpus, compared(statement) order by id;
-- Since version 18 this one has another outcome.
select is_same, is_rewritten
  from compared('select upper(@team), kind, count(*), grouping(@team) from notes group by grouping sets ((@team, kind), (kind), ())');
rollback;

-- For a permanent user, one of whose claims is no number. Where two outcomes differ, Postgres evaluates the
-- expression to estimate with it, and so raises an error that no row asks for; a sub-select it does not evaluate.
begin;
set local session authorization app_login;
select auth.authenticate(:'bob_token') = :'bob_id' as bob;
select is_same, outcome, statement from corpus, compared(statement)
 where not is_same or statement ~ '@level' or outcome ~ '^\w{5} ' order by id;
-- For nobody.
select set_config('anon_auth.access_token', '', true);
select count(*) as statements, count(*) filter (where is_same) as same, count(*) filter (where outcome = 'no rows') as no_rows
  from corpus, compared(statement);
rollback;

-- The same with parallel workers: where Postgres would evaluate it before they need it, an expression that may
-- raise an error stays as it is, and the rest is still evaluated once.
create function plan_of(statement text) returns setof text language plpgsql as $$
declare
    line text;
begin
    for line in execute 'explain (costs off) ' || spelt_out(statement) loop
        if line !~ '^ *(->  Result|Params Evaluated|Disabled)' then
            -- Versions differ in how they refer to an init plan.
            line := regexp_replace(line, 'InitPlan \d+( \(returns .*\))?$', 'InitPlan');
            return next regexp_replace(line, '\$\d+|\(InitPlan \d+\)\.col1', '<once>', 'g');
        end if;
    end loop;
end
$$;
begin;
insert into notes select i, null, 'many', 'public', i from generate_series(1000, 30000) i;
analyze notes;
set local session authorization app_login;
set local min_parallel_table_scan_size = 0;
set local parallel_setup_cost = 0;
set local parallel_tuple_cost = 0;
set local max_parallel_workers_per_gather = 2;
set local anon_auth.evaluate_once = on;
select auth.authenticate(:'bob_token') = :'bob_id' as bob;
select plan_of('select count(*) from notes where team <> @team or team = @team and level = @level');
select spelt_out('select count(*), sum(level) from notes where kind <> '''' or level + @level > 0') \gexec
select spelt_out('select count(*), sum(level) from notes n join events e on e.team = @team and n.id > e.id where n.team <> @team') \gexec
select auth.authenticate(:'ada_token') = :'ada_id' as ada;
select count(*), sum(level) from notes;
set local anon_auth.evaluate_once = off;
select count(*), sum(level) from notes;
rollback;

-- What somebody would write by hand. A bare reader stays, in an index condition too.
begin;
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as ada;
set local anon_auth.evaluate_once = on;
select plan_of('select id from notes');
reset session authorization;
select plan_of('select id from notes where (auth.jwt()->>''is_anonymous'')::boolean is false');
select plan_of('select id from events where team = @team');
create index on notes (team);
create index on notes (user_id);
set local enable_seqscan = off;
set local enable_bitmapscan = off;
select plan_of('select id from notes where team = @team');
select plan_of('select id from notes where user_id = auth.uid()');
select plan_of('update notes set level = @level where team = @team');
rollback;

-- N10: a function that tells what it is given is given no row that the policy hides; nor is a view's.
begin;
create function tell(text) returns boolean language plpgsql cost 0.0001 as $$ begin raise notice 'told %', $1; return true; end $$;
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as ada;
set local anon_auth.evaluate_once = on;
select outcome('select id from events where tell(body) and tell(body || @team)');
select outcome('select id from team_notes where tell(body || @team) and kind = ''public''');
rollback;

-- A plan that is kept evaluates anew in each execution: another token, a savepoint, no token.
begin;
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as ada;
set local anon_auth.evaluate_once = on;
set local plan_cache_mode = force_generic_plan;
select spelt_out('prepare kept(text) as select string_agg(id::text, '','' order by id), @team || $1, min($1 || @team) from events where team = @team or body = lower($1)') \gexec
execute kept('A');
savepoint s;
select auth.authenticate(:'bob_token') = :'bob_id' as bob;
execute kept('B');
rollback to s;
execute kept('C');
set local plan_cache_mode = force_custom_plan;
execute kept('D');
select set_config('anon_auth.access_token', '', true);
execute kept('E');
deallocate kept;
rollback;

-- PL/pgSQL: an expression that it evaluates itself, and queries in a loop and in a cursor. A cursor is one
-- execution: it keeps what it has evaluated.
begin;
create function in_plpgsql(other text) returns setof text language plpgsql as $$
declare
    team text;
    is_guest boolean;
    level int = (auth.jwt()->'user_metadata'->>'level')::int;
    teams refcursor;
begin
    for i in 1..3 loop
        is_guest := (auth.jwt()->>'is_anonymous')::boolean;
        if (auth.jwt()->'user_metadata'->>'level')::int = level and is_guest then
            for team in select e.body || (auth.jwt()->'user_metadata'->>'team') from events e loop
                return next i || team;
            end loop;
        end if;
    end loop;
    open teams for select e.id || (auth.jwt()->'user_metadata'->>'team') from events e where e.team = auth.jwt()->'user_metadata'->>'team';
    fetch teams into team;
    return next team;
    perform set_config('anon_auth.access_token', other, true);
    fetch teams into team;
    return next team;
    close teams;
    return next auth.jwt()->'user_metadata'->>'team';
end
$$;
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as ada;
set local anon_auth.evaluate_once = on;
select in_plpgsql(:'bob_token');
rollback;

-- Functions in SQL that are inlined, domains, and functions that must not be moved.
begin;
create domain short as text check (length(value) < 4);
create function own_team() returns text language sql stable as $$ select auth.jwt()->'user_metadata'->>'team' $$;
create function twice(text) returns text language sql immutable as $$ select $1 || $1 $$;
create function unsafe(text) returns text language plpgsql stable parallel unsafe as $$ begin return $1; end $$;
create function changing(text) returns text language plpgsql volatile as $$ begin return $1; end $$;
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as ada;
select compared('select id from notes where team = own_team()');
select compared('select id, twice(@team) from notes where twice(team) = twice(@team)');
select compared('select id from notes where team = @team::short');
select compared('select id from notes where team = unsafe(@team)');
select compared('select id from notes where team = changing(@team)');
select auth.authenticate(:'bob_token') = :'bob_id' as bob;
select compared('select id from notes where team = @team::short');
select compared('select id from notes where id > 0 or team = @team::short');
rollback;

-- pg_stat_statements takes it for the same query.
select bool_and(setting ~ 'pg_stat_statements') as loaded from pg_settings where name = 'shared_preload_libraries';
create extension pg_stat_statements;
select pg_stat_statements_reset() is not null as reset;
select spelt_out('select /* seen */ count(*) from events where team = @team') as seen \gset
:seen;
set anon_auth.evaluate_once = on;
:seen;
reset anon_auth.evaluate_once;
select calls, query from pg_stat_statements where query ~ '/\* seen \*/';
drop extension pg_stat_statements;

drop table corpus;
drop view team_notes, checked_notes;
drop table notes, events;
drop function stored, outcome, init_plans, compared, plan_of, spelt_out;
delete from auth.users;

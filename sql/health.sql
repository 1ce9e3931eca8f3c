-- For monitoring: what is not as it should be.

create function auth.health_checks() returns jsonb
    language c stable parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_health';
comment on function auth.health_checks() is 'What auth.health shows of the extension''s tables and of the catalogs, as a JSON array.
Example: select auth.health_checks();';

-- With the rights of whoever asks, since the owner of this schema may see neither other sessions nor pg_cron's jobs.
create function auth.health_of_server() returns table (name text, value bigint, unit text, status text, description text)
    language plpgsql stable parallel unsafe security invoker set search_path = pg_catalog, pg_temp
as $$
declare
    cron_job oid;
    jobs bigint;
    slots bigint;
begin
    -- Nothing but pg_cron's own table is asked: a view of that name could run anything.
    select c.oid
      into cron_job
      from pg_extension e
      join pg_depend d on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid and d.deptype = 'e'
                      and d.classid = 'pg_class'::regclass
      join pg_class c on c.oid = d.objid and c.relname = 'job'
      join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'cron'
     where e.extname = 'pg_cron' and has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select');
    if cron_job is not null then
        execute 'select count(*) from cron.job where active and database = current_database() and command ~* ''auth\.cleanup'''
           into jobs;
        -- It shows a role its own jobs only.
        if jobs = 0 and row_security_active(cron_job) then
            jobs := null;
        end if;
    end if;
    name := 'cleanup_jobs';
    value := jobs;
    unit := 'jobs';
    status := case jobs when 0 then 'warning' else 'ok' end;
    description := case when jobs is null then 'Jobs of pg_cron that clean up: none that you may see. cleanup_last_run tells whether anything does.'
                        else 'Jobs of pg_cron in this database that clean up. None: SELECT auth.schedule_cleanup();' end;
    return next;

    -- Who may not see other sessions does not see what they are either.
    if pg_has_role('pg_read_all_stats', 'usage') then
        select current_setting('max_worker_processes')::bigint - count(*)
          into slots
          from pg_stat_activity
         where backend_type not in ('client backend', 'walsender', 'autovacuum launcher', 'autovacuum worker', 'background writer',
                                    'checkpointer', 'walwriter', 'walreceiver', 'walsummarizer', 'slotsync worker',
                                    'io worker', 'archiver', 'startup', 'logger');
    end if;
    name := 'free_worker_slots';
    value := slots;
    unit := 'slots';
    status := case when slots < 1 then 'warning' else 'ok' end;
    description := 'Background workers that could be started at this moment. Without one, codes and passwords are refused (worker_unavailable, in the server''s log): raise max_worker_processes.';
    return next;
end
$$;
comment on function auth.health_of_server() is 'What auth.health shows of the server, with the rights of whoever asks.
Example: select * from auth.health_of_server();';

create view auth.health as
select c.name, c.value, c.unit, c.status, c.description
  from jsonb_to_recordset(auth.health_checks()) as c(name text, value bigint, unit text, status text, description text)
union all
select s.name, s.value, s.unit, s.status, s.description
  from auth.health_of_server() s;
comment on view auth.health is
'What to watch, a row for each check: value in its unit (NULL where there is nothing to measure), status (ok, warning, critical), and what it means and what to do. For members of pg_monitor and service_role; works on a standby.
Example: select name, value, unit, description from auth.health where status <> ''ok'';';

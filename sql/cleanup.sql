-- Guests who expired go, in batches, without blocking anyone.

create table auth.cleanup_runs (
    is_last boolean primary key default true check (is_last),
    finished_at timestamptz not null
);
comment on table auth.cleanup_runs is 'When clean-up last went through, to the minute; one row. In no dump: it is about this server.';

create function auth.cleanup_expired_users(batch_size integer default 1000, dry_run boolean default false, recheck_after uuid default null) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    -- A batch holds locks on guests, so it waits only briefly for an application's locks on their rows.
    set lock_timeout = '10ms'
    -- Compiling its small statements takes longer than running them.
    set jit = off
    as 'MODULE_PATHNAME', 'anon_auth_cleanup_expired_users';
comment on function auth.cleanup_expired_users(integer, boolean, uuid) is
'Deletes one batch of expired guests, expired and revoked sessions, expired one-time tokens, old audit entries, messages and used challenges, and returns what it did: deleted, spared and blocked (guests), by_table (why), sessions, one_time_tokens, audit_log_entries, messages, more (whether another batch is waiting), recheck_after (for the next batch).
A guest is expired when all of these hold: created cleanup_age ago, not active for cleanup_inactivity, and (with cleanup_unreachable_only) no live session, device key or code left. Its rows in application tables go or stay as their foreign keys say; a key that forbids the deletion blocks the guest, and with cleanup_spare_owners any row spares it.
Arguments: batch_size, guests at the most, NULL for all; dry_run, true to do it all and roll it back, for the numbers; recheck_after, where to go on with guests that had to be left before: recheck_after of the batch before, NULL for the first.
Errors: validation_failed (PT400).
Example: select auth.cleanup_expired_users(null, dry_run => true);';

-- It commits, so it can be neither SECURITY DEFINER nor have a SET clause; hence nothing in it is left to a search_path.
create procedure auth.cleanup()
    language plpgsql
as $$
declare
    result pg_catalog.jsonb;
begin
    loop
        result := auth.cleanup_expired_users(
            recheck_after => pg_catalog.jsonb_extract_path_text(result, 'recheck_after')::pg_catalog.uuid);
        commit;
        exit when not pg_catalog.jsonb_extract_path_text(result, 'more')::pg_catalog.bool;
    end loop;
end
$$;
comment on procedure auth.cleanup() is
'Deletes everything that has expired, a batch of 1000 guests per transaction; can be stopped and started at any time, and run twice at once. Call it outside a transaction block, by a role that has EXECUTE on it and on auth.cleanup_expired_users(); it need not be a superuser.
Example: call auth.cleanup();';

create function auth.schedule_cleanup(schedule text default '*/10 * * * *') returns bigint
    language plpgsql security invoker set search_path = pg_catalog, auth, pg_temp
as $$
declare
    here constant text := current_database();
    elsewhere text;
    id bigint;
begin
    -- The extension makes its schema itself, so where it is there, nobody else's functions are in "cron".
    if not exists (select from pg_extension where extname = 'pg_cron') then
        begin
            elsewhere := nullif(current_setting('cron.database_name', true), here);
        exception when insufficient_privilege then
            -- Only pg_read_all_settings may see where pg_cron is.
            elsewhere := null;
        end;
        if elsewhere is not null then
            raise exception 'pg_cron_elsewhere: pg_cron runs in database "%", not in "%"', elsewhere, here
                using errcode = 'PT501',
                      hint = format('Run there, as a superuser: SELECT cron.schedule_in_database(%L, %L, %L, %L, %L);',
                                    'anon_auth_cleanup', schedule, 'call auth.cleanup()', here, current_user);
        end if;
        raise exception 'pg_cron_missing: the extension pg_cron is not installed in database "%"', here
            using errcode = 'PT501',
                  hint = format('Either add pg_cron to shared_preload_libraries, set cron.database_name = %L, restart, and run: CREATE EXTENSION pg_cron; '
                                'or, where pg_cron runs in another database, run there as a superuser: SELECT cron.schedule_in_database(%L, %L, %L, %L, %L); '
                                'or have any scheduler run: CALL auth.cleanup();',
                                here, 'anon_auth_cleanup', schedule, 'call auth.cleanup()', here, current_user);
    end if;
    if not has_schema_privilege('cron', 'usage') then
        raise exception 'pg_cron_not_allowed: role "%" may not use pg_cron', current_user
            using errcode = 'PT403',
                  hint = format('Run as a superuser: GRANT USAGE ON SCHEMA cron TO %I;', current_user);
    end if;
    begin
        execute 'select cron.schedule($1, $2, $3)' into id using 'anon_auth_cleanup', schedule, 'call auth.cleanup()';
    exception when invalid_parameter_value or invalid_text_representation or syntax_error or internal_error or raise_exception then
        raise exception 'validation_failed: "%" is not a schedule: %', schedule, sqlerrm
            using errcode = 'PT400',
                  hint = 'Use cron''s five fields, such as "*/10 * * * *".';
    end;
    return id;
end
$$;
comment on function auth.schedule_cleanup(text) is
'Has pg_cron run "call auth.cleanup()" as the current role, and returns the job''s id. Scheduling again replaces the job. The role must be able to log in and needs EXECUTE on auth.cleanup() and auth.cleanup_expired_users() (auth.create_roles() grants both to service_role) and USAGE on schema cron.
Arguments: schedule, in cron''s syntax.
Errors: pg_cron_missing, pg_cron_elsewhere (PT501: the HINT has the statement to run), pg_cron_not_allowed (PT403), validation_failed (PT400).
Example: select auth.schedule_cleanup(''*/10 * * * *'');';

create function auth.unschedule_cleanup() returns boolean
    language plpgsql security invoker set search_path = pg_catalog, auth, pg_temp
as $$
declare
    found_one boolean;
begin
    if not exists (select from pg_extension where extname = 'pg_cron') then
        return false;
    end if;
    -- cron.job shows a role only its own jobs.
    execute 'select bool_or(cron.unschedule(jobid)) from cron.job where jobname = $1 and username = current_user and database = current_database()'
        into found_one using 'anon_auth_cleanup';
    return coalesce(found_one, false);
end
$$;
comment on function auth.unschedule_cleanup() is
'Removes the job that auth.schedule_cleanup() made as the current role; returns whether there was one.
Example: select auth.unschedule_cleanup();';

-- The roles of an API, made on request only: they belong to the cluster, not to this database.

create function auth.create_roles(login_role text default null) returns void
    language plpgsql security invoker set search_path = pg_catalog, auth, pg_temp
as $$
declare
    administration constant text[] := array[
        'auth.setting(text)', 'auth.set_setting(text, text)', 'auth.setting_definitions()', 'auth.table_parts()',
        'auth.import_provider(jsonb)', 'auth.export_provider()',
        'auth.create_signing_key(text)', 'auth.rotate_signing_key(text)', 'auth.import_signing_key(jsonb)',
        'auth.revoke_signing_key(text)', 'auth.seal_signing_keys()',
        'auth.set_identity_provider(text, text, text[], jsonb, text, text[], text, boolean, boolean)',
        'auth.remove_identity_provider(text)', 'auth.refresh_identity_provider_keys(text)',
        'auth.set_guest_provider(text, boolean, interval, integer, text)', 'auth.remove_guest_provider(text)',
        'auth.set_captcha(text, text, text, text, text[], text)', 'auth.remove_captcha(text)',
        'auth.cleanup_expired_users(integer, boolean, uuid)',
        'auth.set_hook(text, regprocedure)', 'auth.hook_definitions()',
        'auth.claim_messages(integer, interval, text)', 'auth.acknowledge_message(uuid)',
        'auth.fail_message(uuid, text, boolean)',
        'auth.schedule_cleanup(text)', 'auth.unschedule_cleanup()',
        'auth.set_merge_rule(regclass, text, name[], regprocedure, name[])',
        'auth.lint_policies()', 'auth.policy_findings()', 'auth.health_checks()', 'auth.health_of_server()'];
    views constant text[] := array[
        'auth.all_settings', 'auth.customizations', 'auth.all_hooks', 'auth.outbox', 'auth.identity_providers',
        'auth.guest_providers', 'auth.owned_tables', 'auth.stats', 'auth.health'];
    item text;
begin
    if login_role is not null and not exists (select from pg_roles where rolname = login_role) then
        raise exception 'validation_failed: there is no role "%"', login_role
            using errcode = 'PT400', hint = format('CREATE ROLE %I LOGIN NOINHERIT;', login_role);
    end if;

    if not exists (select from pg_roles where rolname = 'anon') then
        create role anon nologin noinherit;
        comment on role anon is 'Callers without a user (anon_auth)';
    end if;
    if not exists (select from pg_roles where rolname = 'authenticated') then
        create role authenticated nologin noinherit;
        comment on role authenticated is 'Signed-in users, guests included (anon_auth)';
    end if;
    if not exists (select from pg_roles where rolname = 'service_role') then
        create role service_role nologin noinherit;
        comment on role service_role is 'Administration of anon_auth by trusted servers';
    elsif exists (select from pg_auth_members where roleid = 'service_role'::regrole) then
        raise warning 'role "service_role" has members, who may now administer anon_auth: %',
            (select string_agg(distinct member::regrole::text, ', ') from pg_auth_members where roleid = 'service_role'::regrole);
    end if;

    foreach item in array administration loop
        execute 'grant execute on function ' || item || ' to service_role';
    end loop;
    execute 'grant execute on procedure auth.cleanup() to service_role';
    foreach item in array views loop
        execute 'grant select on ' || item || ' to service_role';
    end loop;
    grant select (name, sealed, sitekey, url, hostnames, action, created_at, updated_at) on auth.captcha_services to service_role;

    if login_role is not null then
        execute format('grant anon, authenticated to %I', login_role);
    end if;
end
$$;
comment on function auth.create_roles(text) is
'Makes the roles anon (callers without a user), authenticated (signed-in users) and service_role (administration) where they are missing, and lets service_role call the administration functions of this schema. Runs with the caller''s rights: call it as a superuser. Warns where service_role was there before and has members.
Arguments: login_role, the role your application or PostgREST connects as; it gets anon and authenticated, which auth.authenticate() switches to.
Errors: validation_failed (PT400: no such role).
Example: select auth.create_roles(''app'');';

-- Last: ownership, privileges, dump registration. Whatever is not granted here, nobody but the owner has.

-- Before the privileges: a dump leaves out those that stand when the extension is made, by grantor.
do $$
declare
    object record;
begin
    for object in
        select case c.relkind when 'v' then 'view' else 'table' end as kind, c.oid::regclass::text as name
          from pg_catalog.pg_class c
          join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
          join pg_catalog.pg_extension e on e.oid = d.refobjid and e.extname = 'anon_auth'
         where c.relkind in ('r', 'v')
        union all
        select 'routine', p.oid::regprocedure::text
          from pg_catalog.pg_proc p
          join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
          join pg_catalog.pg_extension e on e.oid = d.refobjid and e.extname = 'anon_auth'
    loop
        execute pg_catalog.format('alter %s %s owner to anon_auth_owner', object.kind, object.name);
    end loop;
end
$$;

-- PUBLIC has EXECUTE on every new function; and default privileges of whoever installs may have granted anything
-- to anyone.
do $$
declare
    granted record;
begin
    for granted in
        select distinct o.kind, o.name, case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee
          from (select 'table' as kind, oid::regclass::text as name, relacl as acl, relowner as owner
                  from pg_catalog.pg_class
                 where relnamespace = 'auth'::regnamespace and relkind in ('r', 'v')
                union all
                select 'routine', oid::regprocedure::text, coalesce(proacl, pg_catalog.acldefault('f', proowner)), proowner
                  from pg_catalog.pg_proc
                 where pronamespace = 'auth'::regnamespace) o,
               pg_catalog.aclexplode(o.acl) a
         where a.grantee <> o.owner
    loop
        execute pg_catalog.format('revoke all on %s %s from %s', granted.kind, granted.name, granted.grantee);
    end loop;
end
$$;

-- Foreign keys of application tables; the column can be referenced, not read.
grant references (id) on auth.users to public;

-- Readers, for policies.
grant execute on function auth.jwt() to public;
grant execute on function auth.uid() to public;
grant execute on function auth.role() to public;
grant execute on function auth.email() to public;
grant execute on function auth.is_anonymous() to public;
grant execute on function auth.session_id() to public;

-- Client functions; each checks its caller itself.
grant execute on function auth.sign_in_anonymously(jsonb, text, text, text) to public;
grant execute on function auth.refresh_session(text) to public;
grant execute on function auth.sign_out(text) to public;
grant execute on function auth.authenticate(text) to public;
grant execute on function auth.verify_token(text) to public;
grant execute on function auth.pre_request() to public;
grant execute on function auth.pre_config() to public;
grant execute on function auth.get_user() to public;
grant execute on function auth.user_info() to public;
grant execute on function auth.delete_user() to public;
grant execute on function auth.ensure_user() to public;
grant execute on function auth.jwks() to public;
grant execute on function auth.merge_anonymous_user(text, text, boolean) to public;
grant execute on function auth.update_user(jsonb) to public;
grant execute on function auth.verify_otp(text, text, text, text, text) to public;
grant execute on function auth.resend(text) to public;
grant execute on function auth.unlink_identity(uuid) to public;
grant execute on function auth.sign_in_with_password(text, text, text) to public;
grant execute on function auth.create_promotion_code() to public;
grant execute on function auth.redeem_promotion_code(text) to public;
grant execute on function auth.create_transfer_code() to public;
grant execute on function auth.redeem_transfer_code(text) to public;
grant execute on function auth.create_challenge(text) to public;
grant execute on function auth.sign_in_with_device_key(text, jsonb, text) to public;
grant execute on function auth.remove_device_key(text) to public;
grant execute on function auth.link_identity(text, text, text) to public;
grant execute on function auth.sign_in_with_id_token(text, text, text) to public;

-- Monitoring.
grant select on auth.stats, auth.health to pg_monitor;
grant execute on function auth.health_checks(), auth.health_of_server() to pg_monitor;

select pg_catalog.pg_extension_config_dump('auth.users', '');
select pg_catalog.pg_extension_config_dump('auth.identities', '');
select pg_catalog.pg_extension_config_dump('auth.one_time_tokens', '');
select pg_catalog.pg_extension_config_dump('auth.device_keys', '');
select pg_catalog.pg_extension_config_dump('auth.sessions', '');
select pg_catalog.pg_extension_config_dump('auth.session_revocations', '');
select pg_catalog.pg_extension_config_dump('auth.lazy_guests', '');
select pg_catalog.pg_extension_config_dump('auth.settings', '');
select pg_catalog.pg_extension_config_dump('auth.signing_keys', '');
select pg_catalog.pg_extension_config_dump('auth.identity_providers', '');
select pg_catalog.pg_extension_config_dump('auth.guest_providers', '');
select pg_catalog.pg_extension_config_dump('auth.captcha_services', '');
select pg_catalog.pg_extension_config_dump('auth.audit_log_entries', '');
-- A rule of a table that was dropped has nothing but its OID, by which a restore would give it to another.
select pg_catalog.pg_extension_config_dump('auth.merge_rules', 'where exists (select from pg_catalog.pg_class t where t.oid = relation)');
select pg_catalog.pg_extension_config_dump('auth.guesses', '');
select pg_catalog.pg_extension_config_dump('auth.daily_stats', '');
select pg_catalog.pg_extension_config_dump('auth.stat_changes', '');
-- Not auth.workers: its rows are about running processes. Nor auth.used_challenges: see there.
select pg_catalog.pg_extension_config_dump('auth.hooks', '');

-- As the last thing: it holds what the extension itself made.
insert into auth.installed_parts (relation, kind, name)
select relation, kind, name from auth.table_parts();

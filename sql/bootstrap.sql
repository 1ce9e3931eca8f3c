-- The schema and the role that owns everything in it.
--
-- Whoever owns the schema could drop the extension, and whoever may create in it could put a
-- function in front of ours; so a schema that is not ours alone is refused before anything is made.

\echo Use "CREATE EXTENSION anon_auth" to load this file. \quit

do $$
declare
    ours constant text := 'anon_auth_owner';
    intruder text;
begin
    if pg_catalog.getdatabaseencoding() not in ('UTF8', 'SQL_ASCII') then
        raise exception 'unsupported_encoding: anon_auth needs a database with the encoding UTF8, not %', pg_catalog.getdatabaseencoding()
            using errcode = 'feature_not_supported';
    end if;

    select pg_catalog.format('it belongs to role %I', r.rolname)
      into intruder
      from pg_catalog.pg_namespace n
      join pg_catalog.pg_roles r on r.oid = n.nspowner
     where n.nspname = 'auth' and r.rolname not in (current_user, ours);

    if intruder is null then
        select pg_catalog.format('role %s may create objects in it',
                                 case when a.grantee = 0 then 'PUBLIC' else a.grantee::regrole::text end)
          into intruder
          from pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
         where n.nspname = 'auth' and a.privilege_type = 'CREATE' and a.grantee <> n.nspowner
         limit 1;
    end if;

    if intruder is null then
        select pg_catalog.format('it already holds %s', pg_catalog.pg_describe_object(o.classid, o.objid, 0))
          into intruder
          from (select 'pg_catalog.pg_class'::regclass as classid, oid as objid, relnamespace as nsp from pg_catalog.pg_class
                union all
                select 'pg_catalog.pg_proc'::regclass, oid, pronamespace from pg_catalog.pg_proc
                union all
                select 'pg_catalog.pg_type'::regclass, oid, typnamespace from pg_catalog.pg_type where typtype in ('d', 'e', 'r')
                union all
                select 'pg_catalog.pg_operator'::regclass, oid, oprnamespace from pg_catalog.pg_operator) o
          join pg_catalog.pg_namespace n on n.oid = o.nsp and n.nspname = 'auth'
         limit 1;
    end if;

    if intruder is not null then
        raise exception 'schema_in_use: schema "auth" cannot be used by anon_auth: %', intruder
            using errcode = 'duplicate_schema',
                  hint = 'Another product may be using it. anon_auth needs a schema "auth" that is missing or empty and that nobody else can create in: rename or drop the existing one first.';
    end if;

    if not exists (select from pg_catalog.pg_roles where rolname = ours) then
        begin
            create role anon_auth_owner nologin;
            comment on role anon_auth_owner is 'Owns the schema auth of the extension anon_auth. Nobody logs in as it or needs to be a member of it.';
        exception when duplicate_object or unique_violation then
            -- The extension is being created in another database of the cluster, too.
            null;
        end;
    end if;
    if exists (select from pg_catalog.pg_roles
                   where rolname = ours
                     and (rolsuper or rolcanlogin or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication)) then
        raise exception 'owner_role_too_powerful: role "anon_auth_owner" exists and has attributes that the owner of anon_auth must not have'
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'ALTER ROLE anon_auth_owner NOSUPERUSER NOLOGIN NOBYPASSRLS NOCREATEROLE NOCREATEDB NOREPLICATION;';
    elsif exists (select from pg_catalog.pg_auth_members where ours::regrole in (roleid, member)) then
        raise exception 'owner_role_too_powerful: role "anon_auth_owner" exists and has members or is a member: %',
            (select pg_catalog.string_agg(case roleid when ours::regrole then member else roleid end::regrole::text, ', ')
               from pg_catalog.pg_auth_members where ours::regrole in (roleid, member))
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'Its members could read every signing key, and it must have no rights beyond its own schema. REVOKE the memberships.';
    end if;
end
$$;

alter schema auth owner to anon_auth_owner;
grant usage on schema auth to public;
comment on schema auth is 'anon_auth: guests, sessions, signed tokens, and the claims that row-level security checks';

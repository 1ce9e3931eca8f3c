-- What CREATE EXTENSION makes, and when it refuses (design: everything belongs to a role that can do nothing else).
\pset format unaligned
\set SHOW_CONTEXT never

-- The owner: a role without attributes, members or memberships.
select rolcanlogin, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolconnlimit, rolpassword is null as no_password
  from pg_authid where rolname = 'anon_auth_owner';
select count(*) as memberships from pg_auth_members where 'anon_auth_owner'::regrole in (roleid, member) and member <> current_user::regrole;

-- Everything in the schema belongs to it.
select nspowner::regrole from pg_namespace where nspname = 'auth';
select relname as of_another_owner, relowner::regrole from pg_class where relnamespace = 'auth'::regnamespace and relowner <> 'anon_auth_owner'::regrole;
select proname as of_another_owner, proowner::regrole from pg_proc where pronamespace = 'auth'::regnamespace and proowner <> 'anon_auth_owner'::regrole;
select typname as of_another_owner, typowner::regrole from pg_type where typnamespace = 'auth'::regnamespace and typowner <> 'anon_auth_owner'::regrole;
select count(*) > 0 as tables from pg_class where relnamespace = 'auth'::regnamespace and relkind = 'r';

-- N13: a function that runs with its owner's rights has a pinned search_path.
select oid::regprocedure as not_pinned, proconfig from pg_proc
 where pronamespace = 'auth'::regnamespace and prosecdef and not coalesce('search_path=pg_catalog, auth, pg_temp' = any (proconfig), false);
-- So has every other that is written in SQL or PL/pgSQL, but for the procedure that commits, which cannot have one.
select oid::regprocedure as not_pinned from pg_proc
 where pronamespace = 'auth'::regnamespace and prolang <> (select oid from pg_language where lanname = 'c')
   and not coalesce(array_to_string(proconfig, ',') like 'search_path=pg_catalog, %', false);
-- Readers run on every row and in parallel workers: plain, stable, parallel safe, without a setting of their own.
select proname, provolatile, proparallel, prosecdef, proconfig from pg_proc
 where pronamespace = 'auth'::regnamespace and proname in ('jwt', 'uid', 'role', 'email', 'is_anonymous', 'session_id') order by proname;

-- Every table, view and function, the schema and the extension have a comment; a function's has an example.
select relname as without_comment from pg_class where relnamespace = 'auth'::regnamespace and relkind in ('r', 'v') and obj_description(oid, 'pg_class') is null;
select oid::regprocedure as without_comment from pg_proc where pronamespace = 'auth'::regnamespace and obj_description(oid, 'pg_proc') is null;
select oid::regprocedure as without_example from pg_proc
 where pronamespace = 'auth'::regnamespace and prorettype <> 'trigger'::regtype and proname not in ('setting_definitions', 'table_parts', 'import_users', 'prepare_import')
   and obj_description(oid, 'pg_proc') not like '%' || E'\n' || 'Example: %';
select obj_description('auth'::regnamespace, 'pg_namespace') is not null as schema, obj_description(oid, 'pg_extension') is not null as extension
  from pg_extension where extname = 'anon_auth';

-- N10: what everybody may do, all of it.
select 'schema' as object, privilege_type as privilege from pg_namespace, aclexplode(nspacl) where nspname = 'auth' and grantee = 0
 union all
select relname, privilege_type from pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner))) where relnamespace = 'auth'::regnamespace and relkind <> 'i' and grantee = 0
 union all
select format('%s(%s)', relname, attname), privilege_type from pg_attribute join pg_class c on c.oid = attrelid, aclexplode(attacl) where relnamespace = 'auth'::regnamespace and grantee = 0
 union all
select p.oid::regprocedure::text, privilege_type from pg_proc p, aclexplode(coalesce(proacl, acldefault('f', proowner))) where pronamespace = 'auth'::regnamespace and grantee = 0
 order by 1, 2;
-- What service_role may do beyond that, and that nobody else may do anything.
select p.oid::regprocedure::text as object, privilege_type as privilege from pg_proc p, aclexplode(proacl) where pronamespace = 'auth'::regnamespace and grantee = 'service_role'::regrole
 union all
select relname, privilege_type from pg_class, aclexplode(relacl) where relnamespace = 'auth'::regnamespace and grantee = 'service_role'::regrole
 order by 1;
select distinct grantee::regrole as somebody_else
  from (select nspacl from pg_namespace where nspname = 'auth' union all
        select relacl from pg_class where relnamespace = 'auth'::regnamespace union all
        select proacl from pg_proc where pronamespace = 'auth'::regnamespace) acl(acl), aclexplode(acl)
 where grantee not in (0, 'anon_auth_owner'::regrole, 'service_role'::regrole, 'pg_monitor'::regrole);
-- What monitoring may do.
select p.oid::regprocedure::text as object, privilege_type as privilege from pg_proc p, aclexplode(proacl) where pronamespace = 'auth'::regnamespace and grantee = 'pg_monitor'::regrole
 union all
select relname, privilege_type from pg_class, aclexplode(relacl) where relnamespace = 'auth'::regnamespace and grantee = 'pg_monitor'::regrole
 order by 1;
select defaclobjtype as default_privileges from pg_default_acl where defaclnamespace = 'auth'::regnamespace;

-- W11: every table is dumped whole, but the list of what was installed, and what is about this server; of rules of merges,
-- those of tables that there are.
select c.oid::regclass as not_dumped from pg_class c, pg_extension
 where relnamespace = 'auth'::regnamespace and relkind in ('r', 'S') and extname = 'anon_auth' and not c.oid = any (extconfig);
select condition as not_whole from pg_extension, unnest(extcondition) condition where extname = 'anon_auth' and condition <> '';

-- Application tables may reference users; a plain login role needs no more for it than its own table.
begin;
create schema app authorization plain_login;
set local session authorization plain_login;
select raised('create table app.notes (user_id uuid references auth.users (id))') as reference, raised('select id from auth.users') as read;
rollback;

-- The roles of the API: made on request, twice is once, for login roles that exist.
begin;
set local client_min_messages = warning;
select rolname, rolcanlogin, rolsuper, rolinherit, rolbypassrls from pg_roles where rolname in ('anon', 'authenticated', 'service_role') order by 1;
select auth.create_roles('app_login'), auth.create_roles();
select raised('select auth.create_roles($1)', 'nobody "x"');
set local session authorization app_login;
select raised('select auth.create_roles(''app_login'')');
rollback;
select granted.rolname as app_login_may_be from pg_auth_members join pg_roles granted on granted.oid = roleid where member = 'app_login'::regrole order by 1;

-- From here on in a database of its own.
\set here :DBNAME
\set user :USER
create database regress_install;
\c regress_install

-- Only a superuser installs it, whoever owns the database.
begin;
alter database regress_install owner to plain_login;
set local session authorization plain_login;
create extension anon_auth;
rollback;

-- The schema belongs to another role: who could drop it, and the extension with it.
begin;
create role intruder;
create schema auth authorization intruder;
create extension anon_auth;
\echo :SQLSTATE
rollback;

-- Somebody may create in it, and could put a function in front of ours.
begin;
create schema auth;
grant create on schema auth to public;
create extension anon_auth;
\echo :SQLSTATE
rollback;
begin;
create role intruder;
create schema auth;
grant usage, create on schema auth to intruder;
create extension anon_auth;
rollback;

-- It holds the objects of another product: users or jwt(), or whatever else.
begin;
create schema auth;
create table auth.users (id uuid primary key);
create extension anon_auth;
\echo :SQLSTATE
rollback;
begin;
create schema auth;
create function auth.jwt() returns jsonb language sql as 'select null::jsonb';
create extension anon_auth;
rollback;
begin;
create schema auth;
create view auth.sessions as select 1;
create extension anon_auth;
rollback;
begin;
create schema auth;
create type auth.aal_level as enum ('aal1');
create extension anon_auth;
rollback;
begin;
create schema auth;
create domain auth.email as text;
create extension anon_auth;
rollback;

-- The role of the owner is there already, and more powerful than it may be.
begin;
alter role anon_auth_owner createrole;
create extension anon_auth;
\echo :SQLSTATE
rollback;
begin;
alter role anon_auth_owner superuser;
create extension anon_auth;
rollback;
begin;
alter role anon_auth_owner login;
create extension anon_auth;
rollback;
-- It has members, who could read its keys; or it is a member, and would have another role's rights.
begin;
create role auditor;
grant anon_auth_owner to auditor;
create extension anon_auth;
\echo :SQLSTATE
rollback;
begin;
grant pg_read_server_files to anon_auth_owner;
create extension anon_auth;
rollback;

-- N10: default privileges of whoever installs it open nothing.
begin;
create role reporting;
alter default privileges grant all on tables to reporting;
alter default privileges grant all on functions to reporting;
alter default privileges grant all on types to reporting;
alter default privileges grant all on sequences to reporting;
create extension anon_auth;
select count(*) as granted
  from (select nspacl from pg_namespace where nspname = 'auth' union all
        select relacl from pg_class where relnamespace = 'auth'::regnamespace union all
        select typacl from pg_type where typnamespace = 'auth'::regnamespace union all
        select proacl from pg_proc where pronamespace = 'auth'::regnamespace) acl(acl), aclexplode(acl)
 where grantee not in (0, 'anon_auth_owner'::regrole, 'pg_monitor'::regrole);
set local role reporting;
select has_table_privilege('auth.signing_keys', 'select') as reads_keys, has_function_privilege('auth.set_setting(text, text)', 'execute') as changes_settings;
rollback;

-- It goes nowhere else.
begin;
create extension anon_auth schema public;
rollback;
begin;
create extension anon_auth;
alter extension anon_auth set schema public;
rollback;

-- An empty schema of one's own is taken. Nothing is in the tables that a restore could collide with.
begin;
create schema auth;
create extension anon_auth;
select nspowner::regrole from pg_namespace where nspname = 'auth';
create function rows_of(oid) returns bigint language plpgsql as $$
declare
    n bigint;
begin
    execute format('select count(*) from %s', $1::regclass) into n;
    return n;
end
$$;
select c::regclass as not_empty from pg_extension, unnest(extconfig) c where extname = 'anon_auth' and rows_of(c) > 0;
-- It works in the transaction that made it.
select auth.sign_in_anonymously()->>'access_token' as token \gset
select auth.verify_token(:'token')->>'role' as role;
rollback;

-- Installed with a search_path and objects that want to be in the way.
begin;
create schema evil;
create function evil.format(text, text) returns text language plpgsql as $$ begin raise exception 'evil function was run'; end $$;
create function evil.trap(name, name) returns boolean language plpgsql as $$ begin raise exception 'evil operator was run'; end $$;
create operator evil.= (function = evil.trap, leftarg = name, rightarg = name);
set local search_path = evil, pg_catalog;
create extension anon_auth;
select pg_catalog.count(*) as installed from pg_catalog.pg_extension where extname operator(pg_catalog.=) 'anon_auth'::pg_catalog.name;
rollback;

-- DROP EXTENSION with application foreign keys and policies in place is refused; CASCADE keeps the rows.
begin;
create extension anon_auth;
create table notes (user_id uuid default auth.uid() references auth.users (id), body text);
insert into notes (body) values ('kept');
savepoint s;
\set VERBOSITY terse
drop extension anon_auth;
\echo :SQLSTATE
rollback to s;
set local client_min_messages = warning;
drop extension anon_auth cascade;
select body from notes;
select count(*) as foreign_keys from pg_constraint where conrelid = 'notes'::regclass and contype = 'f';
-- And made again, in the same session: it works, with nothing left of before.
create extension anon_auth;
select count(*) as users from auth.users;
select auth.sign_in_anonymously() is not null as signed_in;
drop extension anon_auth;
create extension anon_auth;
select auth.setting('disabled'), auth.sign_in_anonymously() is not null as signed_in;
rollback;

-- Where the extension is missing, its library's settings say nothing and break nothing.
select count(*) as extensions from pg_extension where extname = 'anon_auth';
load 'anon_auth';
select set_config('anon_auth.access_token', 'x', false);

\c :here :user
drop database regress_install with (force);

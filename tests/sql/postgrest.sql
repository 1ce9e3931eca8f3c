-- What PostgREST is given: functions to expose, its configuration, and word of new keys. How it calls them is in the
-- integration tests.
\pset format unaligned
\set SHOW_CONTEXT never

-- N10: one function for each that clients call, one signature a name; no reader, nothing for administrators.
begin;
select * from auth.create_api('api');
select proname as not_one_signature from pg_proc where pronamespace = 'api'::regnamespace group by proname having count(*) > 1;
-- Each has the same arguments, defaults, result and volatility, and runs with its caller's rights.
select a.oid::regprocedure as differs from pg_proc a left join pg_proc o on o.proname = a.proname and o.pronamespace = 'auth'::regnamespace
 where a.pronamespace = 'api'::regnamespace
   and (a.prosecdef or a.proisstrict or a.provolatile is distinct from o.provolatile
        or pg_get_function_arguments(a.oid) is distinct from pg_get_function_arguments(o.oid)
        or pg_get_function_result(a.oid) is distinct from pg_get_function_result(o.oid));
select pg_get_functiondef('api.sign_out(text)'::regprocedure) as an_example;
-- Who may call what: authenticated all, anon what needs no user, others nothing.
select string_agg(proname, ' ' order by proname) as anon from pg_proc where pronamespace = 'api'::regnamespace and has_function_privilege('anon', oid, 'execute');
select proname as not_authenticated from pg_proc where pronamespace = 'api'::regnamespace and not has_function_privilege('authenticated', oid, 'execute');
select proname as others from pg_proc where pronamespace = 'api'::regnamespace and has_function_privilege('plain_login', oid, 'execute');
select has_schema_privilege('anon', 'api', 'usage') as anon, has_schema_privilege('authenticated', 'api', 'usage') as authenticated, has_schema_privilege('plain_login', 'api', 'usage') as others;
-- For OpenAPI: what the function's own comment says, without its schema and without an example in SQL.
select obj_description('api.resend(text)'::regprocedure) as comment;
select oid::regprocedure as without_comment from pg_proc where pronamespace = 'api'::regnamespace and obj_description(oid) is null;

-- Again, as after an update: privileges that somebody changed stay, and so does what was not made by it.
revoke execute on function api.sign_in_with_password(text, text, text) from anon;
create function api.orders() returns int language sql as 'select 1';
create view api.me as select api.get_user();
select count(*) > 0 as made from auth.create_api('api');
select has_function_privilege('anon', 'api.sign_in_with_password(text, text, text)', 'execute') as anon, api.orders();
-- A signature that has changed is replaced, and a function that is not there any more goes.
drop view api.me;
drop function api.get_user(), api.sign_out(text);
create function api.get_user(old boolean) returns int language sql as 'select 1 -- made by auth.create_api()';
create function api.forget_me() returns int language sql as 'select 1 -- made by auth.create_api()';
select count(*) > 0 as made from auth.create_api('api');
select oid::regprocedure, pg_get_function_result(oid) from pg_proc where pronamespace = 'api'::regnamespace and proname in ('get_user', 'forget_me', 'sign_out') order by 1;
-- What a database withholds from everybody is not offered.
revoke execute on function auth.sign_in_with_id_token(text, text, text), auth.link_identity(text, text, text) from public;
select count(*) > 0 as made from auth.create_api('api');
select oid::regprocedure as withheld from pg_proc where pronamespace = 'api'::regnamespace and proname in ('link_identity', 'sign_in_with_id_token');
rollback;

-- N13: where somebody else could put a function of theirs in the place of ours, nothing is made.
begin;
create schema theirs authorization plain_login;
create schema shared;
grant create on schema shared to plain_login;
create schema mine;
create function mine.sign_out(scope text default 'global') returns void language sql as 'select';
create schema planted;
create function planted.sign_out(scope text default 'global') returns void language sql as 'select -- made by auth.create_api()';
alter function planted.sign_out(text) owner to plain_login;
select name, raised('select auth.create_api($1::name)', name) from unnest(array['theirs', 'shared', 'mine', 'planted', 'public', 'auth', 'pg_catalog', 'information_schema', null]) name;
-- Names are quoted, and the caller's search_path and operators run nothing of theirs.
create schema hostile;
create function hostile.format(text, variadic text[]) returns text language plpgsql as $$ begin raise 'HOSTILE'; end $$;
create function hostile.equal(name, name) returns boolean language plpgsql as $$ begin raise 'HOSTILE'; end $$;
create operator hostile.= (leftarg = name, rightarg = name, function = hostile.equal);
set local search_path = hostile, pg_catalog;
select count(*) > 0 as made from auth.create_api('My "API"');
reset search_path;
select has_function_privilege('anon', '"My ""API""".refresh_session(text)', 'execute') as anon;
rollback;

-- The roles have to be there.
begin;
alter role anon rename to anon_renamed;
select raised('select auth.create_api(''api'')');
rollback;

-- Not for clients; whoever is told may make an API in a schema of its own, with its own rights.
begin;
set local session authorization plain_login;
select raised('select auth.create_api(''api'')');
reset session authorization;
grant execute on function auth.create_api(name) to plain_login;
set local session authorization plain_login;
select raised('select auth.create_api(''api'')');
reset session authorization;
create schema api authorization plain_login;
set local session authorization plain_login;
select count(*) > 0 as made from auth.create_api('api');
select distinct proowner::regrole as owner from pg_proc where pronamespace = 'api'::regnamespace;
rollback;

-- The configuration: what to call before each request, and the public keys. In a transaction that cannot write.
begin read only;
select auth.pre_config();
select current_setting('pgrst.db_pre_request') as db_pre_request, current_setting('pgrst.jwt_secret')::jsonb = auth.jwks() as jwt_secret_is_jwks;
rollback;
-- Without public keys, jwt-secret is left to PostgREST's own configuration.
begin;
delete from auth.signing_keys;
set local role anon;
select auth.pre_config();
select nullif(current_setting('pgrst.jwt_secret', true), '') as jwt_secret;
rollback;

-- S19: a request without a token is nobody's, whatever the connection was used for before.
begin;
select access_token as token from jsonb_to_record(auth.sign_in_anonymously()) as session(access_token text) \gset
select set_config('anon_auth.access_token', :'token', false) is not null as set;
select set_config('request.headers', '{"accept": "*/*"}', true) is not null as request, auth.pre_request() is not null as done;
select auth.uid() as nobody;
-- What is for one user's eyes is kept out of caches.
select set_config('request.headers', jsonb_build_object('authorization', 'Bearer ' || :'token')::text, true) is not null as request, auth.pre_request() is not null as done;
select auth.get_user() is not null as user, current_setting('response.headers') as headers;
select set_config('response.headers', '', true) is not null as reset;
select auth.user_info() is not null as user, current_setting('response.headers') as headers;
rollback;

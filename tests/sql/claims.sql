-- What policies and functions see of the caller (S2, S3, S4, W3, N10, N11, N13, N24).
\pset format unaligned

-- S2: the access token is a JWT with these claims, and auth.jwt() returns them.
begin;
select * from session(auth.sign_in_anonymously('{"name": "Ada"}')) \gset ada_
select header(:'ada_token') - 'kid' as header, header(:'ada_token')->>'kid' = kid as kid_is_the_current_key
  from auth.signing_keys where purpose = 'access_token' and status = 'current';
select string_agg(key, ' ' order by key collate "C") as claims from jsonb_object_keys(payload(:'ada_token')) key;
select c->>'iss' as iss, c->>'aud' as aud, c->>'sub' = :'ada_id' as sub, c->>'session_id' = :'ada_session' as session_id,
       c->>'role' as role, c->>'aal' as aal, c->'amr'->0->>'method' as method,
       c->'amr'->0->'timestamp' = c->'iat' as signed_in_now, c->'email' as email, c->'phone' as phone,
       c->'app_metadata' as app_metadata, c->'user_metadata' as user_metadata, c->'is_anonymous' as is_anonymous
  from payload(:'ada_token') c;
select auth.authenticate(:'ada_token') is not null as authenticated;
select auth.jwt() = payload(:'ada_token') as same_claims, pg_typeof(auth.jwt());
rollback;

-- S4: the other readers read the same claims, and are NULL without a valid token.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.uid(), auth.role(), auth.email(), auth.is_anonymous(), auth.session_id(), auth.jwt();
select auth.authenticate(:'ada_token') is not null as authenticated;
select auth.uid() = :'ada_id' as uid, auth.role(), auth.email(), auth.is_anonymous(), auth.session_id() = :'ada_session' as session_id;
reset role;
update auth.users set email = 'ada@example.org', email_confirmed_at = now();
select auth.email();
-- Nothing raises: a token of any kind that is not valid is no token.
select token, set_config('anon_auth.access_token', token, true) is not null as set,
       (select num_nulls(auth.uid(), auth.role(), auth.email(), auth.is_anonymous(), auth.session_id(), auth.jwt())) as nulls
  from unnest(array['', ' ', 'x', '..', 'a.b.c', '{}', 'null']) token;
select set_config('anon_auth.access_token', repeat('x', 1024 * 1024), true) is not null as a_mebibyte;
select num_nulls(auth.uid(), auth.role(), auth.email(), auth.is_anonymous(), auth.session_id(), auth.jwt()) as nulls;
rollback;

-- The token counts for one transaction.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated, auth.uid() = :'ada_id' as at_once;
savepoint s;
select set_config('anon_auth.access_token', '', true) = '' as signed_off, auth.uid() is null as nobody;
rollback to s;
select auth.uid() = :'ada_id' as again;
commit;
select auth.uid() is null as nobody, current_user;
delete from auth.users;

-- What a procedure was given stays what it was, though other users come and go, and transactions end, inside it.
create procedure many_users(first uuid, expected text, others jsonb[], inout unchanged boolean) language plpgsql as $$
declare
    answer jsonb;
begin
    foreach answer in array others loop
        perform set_config('anon_auth.access_token', answer->>'access_token', true);
        perform auth.uid(), auth.jwt();
        commit;
        unchanged := unchanged and first::text = expected;
    end loop;
end
$$;
create function guests(n int) returns jsonb[] language sql as $$ select array_agg(auth.sign_in_anonymously()) from generate_series(1, n) $$;
select * from session(auth.sign_in_anonymously()) \gset ada_
select set_config('anon_auth.access_token', :'ada_token', false) is not null as set;
call many_users(auth.uid(), :'ada_id', guests(60), true);
select set_config('anon_auth.access_token', '', false);
drop procedure many_users;
drop function guests;
delete from auth.users;

-- S3: both policies, unchanged. The restrictive one alone denies all; with a permissive one beside it, a guest
-- may not write, and a permanent user may. Everybody reads.
begin;
create table news_feed (headline text);
alter table news_feed enable row level security;
grant select, insert on news_feed to authenticated;
create policy p on news_feed as restrictive for insert to authenticated with check ((select (auth.jwt()->>'is_anonymous')::boolean) is false);
create policy q on news_feed for select to authenticated using (true);
insert into news_feed values ('Guests are welcome');
select * from session(auth.sign_in_anonymously()) \gset guest_
select * from session(auth.sign_in_anonymously()) \gset member_
update auth.users set is_anonymous = false where id = :'member_id';

set local session authorization app_login;
select auth.authenticate(:'member_token') = :'member_id' as member;
select headline from news_feed;
select raised('insert into news_feed values (''by a member'')') as restrictive_alone;
reset session authorization;
create policy w on news_feed for insert to authenticated with check (true);
set local session authorization app_login;
select auth.authenticate(:'guest_token') = :'guest_id' as guest;
select headline from news_feed;
select raised('insert into news_feed values (''by a guest'')') as guest;
select auth.authenticate(:'member_token') = :'member_id' as member;
select raised('insert into news_feed values (''by a member'')') as member;
select headline from news_feed;
-- Somebody in the role, but without a token: the claim is missing, and that is not "is false".
select set_config('anon_auth.access_token', '', true);
select raised('insert into news_feed values (''by nobody'')') as nobody;
rollback;

-- Rows of one's own: auth.uid() written the naive way.
begin;
create table notes (user_id uuid default auth.uid(), body text);
alter table notes enable row level security;
grant select, insert, update, delete on notes to authenticated, anon;
create policy own on notes using (user_id = auth.uid()) with check (user_id = auth.uid());
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as ada;
insert into notes (body) values ('of Ada');
select auth.authenticate(:'bob_token') = :'bob_id' as bob;
insert into notes (body) values ('of Bob');
select body from notes;
select raised('insert into notes values ($1::uuid, ''not of Bob'')', :'ada_id');
update notes set body = 'changed' returning body;
select set_config('anon_auth.access_token', '', true);
select count(*) as seen_by_nobody from notes;
rollback;

-- A prepared statement follows the token, also with a generic plan.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
set local plan_cache_mode = force_generic_plan;
prepare who(uuid) as select auth.uid() = $1 as it_is;
select auth.authenticate(:'ada_token') is not null as ada;
execute who(:'ada_id');
select auth.authenticate(:'bob_token') is not null as bob;
execute who(:'bob_id');
deallocate who;
rollback;

-- W3: what becomes of session and user is seen at once, whatever the token says; is_anonymous is never stale.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') is not null as authenticated;
reset role;
select auth.is_anonymous(), auth.jwt()->'is_anonymous' as claim;
update auth.users set is_anonymous = false, email = 'ada@example.org', phone = '+4930123456', phone_confirmed_at = now();
-- An address that is not proven is not the user's.
select auth.is_anonymous(), auth.email(), auth.jwt()->'is_anonymous' as is_anonymous, auth.jwt()->'email' as email, auth.jwt()->'phone' as phone;
update auth.users set email_confirmed_at = now();
select auth.email(), auth.jwt()->'email' as email;
savepoint s;
update auth.users set banned_until = clock_timestamp() + interval '1 hour';
select auth.uid() is null as banned;
update auth.users set banned_until = clock_timestamp() - interval '1 hour';
select auth.uid() = :'ada_id' as ban_is_over;
delete from auth.sessions;
select auth.uid() is null as signed_out;
rollback to s;
select auth.uid() = :'ada_id' as back;
insert into auth.session_revocations (session_id, reason) values (:'ada_session', 'test');
select auth.uid() is null as revoked;
rollback to s;
update auth.sessions set refreshed_at = now() - interval '60 days';
select auth.uid() is null as session_expired;
rollback to s;
delete from auth.users;
select auth.uid() is null as deleted;
-- Where the superuser has turned the look-up off, the token alone counts.
set local anon_auth.check_session = off;
select auth.uid() = :'ada_id' as unchecked, auth.is_anonymous();
rollback;

-- N11: request.jwt.claims is not believed.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select jsonb_build_object('sub', :'ada_id', 'role', 'service_role', 'is_anonymous', false)::text as claims \gset
set local session authorization app_login;
set local role authenticated;
select set_config('request.jwt.claims', :'claims', true) is not null as claimed;
select num_nulls(auth.uid(), auth.role(), auth.email(), auth.is_anonymous(), auth.session_id(), auth.jwt()) as nulls;
-- Beside a token, it changes nothing.
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select auth.role(), auth.is_anonymous();
rollback;

-- request.jwt.claims, where the superuser has turned on trust in it: read, but a verified token comes first,
-- and where it names a session, that session has to live.
begin;
set local anon_auth.trust_request_claims = on;
select * from session(auth.sign_in_anonymously()) \gset ada_
select set_config('request.jwt.claims', '{"sub": "00000000-0000-7000-8000-000000000001", "role": "authenticated", "email": "eve@example.org", "is_anonymous": false, "app": [1]}', true) is not null as claimed;
select auth.uid(), auth.role(), auth.email(), auth.is_anonymous(), auth.session_id(), auth.jwt();
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated, auth.uid() = :'ada_id' as token_first;
reset role;
select set_config('anon_auth.access_token', '', true);
select set_config('request.jwt.claims', payload(:'ada_token')::text, true) is not null as claimed;
select auth.uid() = :'ada_id' as live;
delete from auth.sessions;
select auth.uid() is null as signed_out;
-- What is not a claims object is none.
select claims, set_config('request.jwt.claims', claims, true) is not null as claimed, auth.jwt() as jwt
  from unnest(array['', '[]', 'null', '{', '{"sub": "a\u0000b"}', '{"a\u0000b": 1}']) claims;
select set_config('request.jwt.claims', '{"sub": "not a uuid", "role": 1, "is_anonymous": "yes"}', true) is not null as claimed;
select auth.uid(), auth.role(), auth.is_anonymous(), auth.jwt() is not null as jwt;
-- Claims that have run out are none.
select set_config('request.jwt.claims', '{"sub": "00000000-0000-7000-8000-000000000001", "exp": 1}', true) is not null as claimed;
select auth.uid();
rollback;

-- N11: none of the settings that decide about it is for anybody but a superuser.
begin;
set local session authorization app_login;
select name, raised('select set_config($1, $2, true)', name, value)
  from (values ('anon_auth.trust_request_claims', 'on'), ('anon_auth.check_session', 'off'),
               ('anon_auth.switch_role', 'off'), ('anon_auth.key_file', '/dev/zero')) t(name, value);
set local role authenticated;
select name, raised('select set_config($1, $2, true)', name, value)
  from (values ('anon_auth.trust_request_claims', 'on'), ('anon_auth.check_session', 'off'),
               ('anon_auth.switch_role', 'off'), ('anon_auth.key_file', '/dev/zero')) t(name, value);
-- Nor can a new one be made up.
select raised('select set_config(''anon_auth.acess_token'', ''x'', true)');
-- The path of the key file is for superusers to read, too, and the token is in no list.
select left(raised('show anon_auth.key_file'), 5);
select count(*) as listed from pg_settings where name = 'anon_auth.access_token';
rollback;

-- N10: a guest cannot raise itself: no table or view of the schema is open to it.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select relname, privilege
  from pg_class c, unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'trigger']) privilege
 where relnamespace = 'auth'::regnamespace and relkind in ('r', 'v', 'p', 'm', 'f', 'S') and has_table_privilege(c.oid, privilege);
select raised('select * from auth.users');
select raised('update auth.users set is_anonymous = false, role = ''service_role'', raw_app_meta_data = ''{"admin": true}''');
select raised('update auth.sessions set aal = ''aal2''');
select raised('insert into auth.settings values (''disabled'', ''true'')');
select raised('select private_key from auth.signing_keys');
-- Another user's row, or one's own, by way of ON CONFLICT, COPY, a rule, a lock.
select raised('insert into auth.users (id) values ($1::uuid) on conflict (id) do update set is_anonymous = false', :'ada_id');
select raised('lock table auth.users');
select raised('select id from auth.users for update');
select raised('create function auth.uid() returns text language sql as $$ select 1 $$');
select raised('create table auth.mine ()');
-- And no administrator function: what a guest may call is what the application needs.
select string_agg(proname, ' ' order by proname) as may_call
  from pg_proc where pronamespace = 'auth'::regnamespace and has_function_privilege(oid, 'execute');
select raised('select auth.set_setting(''disabled'', ''true'')'), raised('select auth.rotate_signing_key()');
select raised('set local role service_role'), raised('set local role anon_auth_owner');
reset session authorization;
select is_anonymous, role, raw_app_meta_data from auth.users;
rollback;

-- N13, N24: operators, functions, types and tables of a caller's own, in front of search_path, are not run.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
create schema evil authorization app_login;
grant create on database :DBNAME to app_login;
set local session authorization app_login;
create table evil.caught (what text);
create function evil.trap(uuid, uuid) returns boolean language plpgsql as $$ begin raise exception 'evil operator was run as %', current_user; end $$;
create function evil.trap(text, text) returns boolean language plpgsql as $$ begin raise exception 'evil operator was run as %', current_user; end $$;
create function evil.trap(timestamptz, timestamptz) returns boolean language plpgsql as $$ begin raise exception 'evil operator was run as %', current_user; end $$;
create operator evil.= (function = evil.trap, leftarg = uuid, rightarg = uuid);
create operator evil.= (function = evil.trap, leftarg = text, rightarg = text);
create operator evil.> (function = evil.trap, leftarg = timestamptz, rightarg = timestamptz);
create function evil.now() returns timestamptz language plpgsql as $$ begin raise exception 'evil function was run as %', current_user; end $$;
create function evil.clock_timestamp() returns timestamptz language plpgsql as $$ begin raise exception 'evil function was run as %', current_user; end $$;
create function evil.current_setting(text) returns text language plpgsql as $$ begin raise exception 'evil function was run as %', current_user; end $$;
create domain evil.uuid as text check (false);
create domain evil.jsonb as text check (false);
create temporary table users (id uuid, is_anonymous boolean);
create temporary table sessions (id uuid, user_id uuid);
create temporary table settings (name text, value text);
create temporary table signing_keys (kid text);
set local search_path = evil, pg_temp, pg_catalog, public, auth;
select auth.uid() is null as nobody;
select pg_catalog.set_config('anon_auth.access_token', :'ada_token', true) is not null as set;
select auth.uid() operator(pg_catalog.=) :'ada_id'::pg_catalog.uuid as uid, auth.is_anonymous(), auth.role(), auth.email(),
       auth.session_id() operator(pg_catalog.=) :'ada_session'::pg_catalog.uuid as session_id, auth.jwt() is not null as jwt;
-- The trap works.
savepoint trap;
\set SHOW_CONTEXT never
select :'ada_id'::pg_catalog.uuid = :'ada_id'::pg_catalog.uuid;
rollback to trap;
-- Nor do the functions that write run it.
select auth.verify_token(:'ada_token') is not null as verified, auth.get_user() is not null as get_user, auth.user_info() is not null as user_info;
select auth.refresh_session(:'ada_refresh') is not null as refreshed, auth.sign_in_anonymously() is not null as signed_in;
select auth.sign_out('others') is not null as signed_out;
select auth.authenticate(:'ada_token') is not null as authenticated;
select auth.delete_user() is not null as deleted;
set local search_path = public;
reset session authorization;
select count(*) as guests from auth.users;
rollback;

-- N13: the same for what an administrator calls with such a search_path.
begin;
set local client_min_messages = warning;
create schema evil;
create function evil.trap(text, text) returns boolean language plpgsql as $$ begin raise exception 'evil operator was run as %', current_user; end $$;
create operator evil.= (function = evil.trap, leftarg = text, rightarg = text);
create function evil.format(text, text) returns text language plpgsql as $$ begin raise exception 'evil function was run as %', current_user; end $$;
create function evil.format(text, variadic text[]) returns text language plpgsql as $$ begin raise exception 'evil function was run as %', current_user; end $$;
create temporary table users (id uuid);
set local search_path = evil, pg_temp, pg_catalog, public, auth;
select auth.setting('issuer'), auth.set_setting('issuer', 'https://example.org');
select auth.rotate_signing_key() is not null as rotated, auth.jwks() is not null as jwks;
select auth.cleanup_expired_users()->'deleted' as deleted;
select auth.create_roles('app_login');
select count(*) from auth.customizations;
select count(*) > 10 as settings from auth.all_settings;
rollback;

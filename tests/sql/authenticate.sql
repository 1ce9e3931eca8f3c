-- From an access token to the user and role of a transaction (N12, N21).
\pset format unaligned

-- The user's id comes back; user and role are the token's until the transaction ends.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
set local session authorization app_login;
select current_user, auth.uid() is null as nobody;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select current_user, session_user, auth.uid() = :'ada_id' as uid;
-- Another user later in the same transaction.
reset session authorization;
select * from session(auth.sign_in_anonymously()) \gset bob_
set local session authorization app_login;
select auth.authenticate(:'bob_token') = :'bob_id' as authenticated, auth.uid() = :'bob_id' as uid;
rollback;
select current_user, auth.uid() is null as nobody;

-- A savepoint takes user and role back.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
set local session authorization app_login;
savepoint s;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated, current_user;
rollback to s;
select current_user, auth.uid() is null as nobody;
rollback;

-- N21: a login role that may not take the token's role gets an error and the GRANT to run; nobody is signed in.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
set local session authorization plain_login;
select raised('select auth.authenticate($1)', :'ada_token');
select current_user, auth.uid() is null as nobody;
-- The hint helps.
reset session authorization;
GRANT "authenticated" TO "plain_login";
set local session authorization plain_login;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated, current_user;
rollback;

-- N21: a role that may not be taken stays out of reach, whatever the row or an administrator's token says.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
update auth.users set role = 'postgres';
select * from session(auth.refresh_session(:'ada_refresh')) \gset admin_
update auth.users set role = '';
select * from session(auth.refresh_session(:'admin_refresh')) \gset none_
update auth.users set role = 'none';
select * from session(auth.refresh_session(:'none_refresh')) \gset reset_
update auth.users set role = 'O''Brien "x"';
select * from session(auth.refresh_session(:'reset_refresh')) \gset missing_
set local session authorization app_login;
select raised('select auth.authenticate($1)', :'admin_token') as superuser;
select raised('select auth.authenticate($1)', :'none_token') as empty;
-- "none" is what SET ROLE would read as: back to the login role.
select raised('select auth.authenticate($1)', :'reset_token') as "none";
select raised('select auth.authenticate($1)', :'missing_token') as missing;
select current_user, auth.uid() is null as nobody;
rollback;

-- N21: the role was never made.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
alter role authenticated rename to somebody;
set local session authorization app_login;
select raised('select auth.authenticate($1)', :'ada_token');
rollback;

-- anon_auth.switch_role = off: a superuser's choice; then the login role is kept.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
set local anon_auth.switch_role = off;
set local session authorization plain_login;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated, current_user, auth.role();
rollback;

-- N12: a token of a user or session that has ended is refused, each with its reason.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
savepoint s;
delete from auth.sessions;
select raised('select auth.authenticate($1)', :'ada_token') as signed_out;
rollback to s;
delete from auth.users;
select raised('select auth.authenticate($1)', :'ada_token') as deleted;
-- The row of the session alone is not enough.
rollback to s;
alter table auth.users disable trigger delete_dependents;
delete from auth.users;
select raised('select auth.authenticate($1)', :'ada_token') as deleted_without_session;
rollback to s;
update auth.users set banned_until = 'infinity';
select raised('select auth.authenticate($1)', :'ada_token') as banned;
rollback to s;
insert into auth.session_revocations (session_id, reason) values (:'ada_session', 'test');
select raised('select auth.authenticate($1)', :'ada_token') as revoked;
rollback to s;
update auth.sessions set refreshed_at = now() - interval '60 days';
select raised('select auth.authenticate($1)', :'ada_token') as idle;
rollback to s;
select auth.set_setting('session_lifetime', '1 hour');
update auth.sessions set created_at = now() - interval '1 hour';
select raised('select auth.authenticate($1)', :'ada_token') as lifetime;
rollback to s;
-- A session that is somebody else's.
select * from session(auth.sign_in_anonymously()) \gset bob_
update auth.sessions set user_id = :'bob_id' where id = :'ada_session';
select raised('select auth.authenticate($1)', :'ada_token') as of_another;
rollback to s;
-- None of it raised, none of it signs in: with the readers neither.
select auth.authenticate(:'ada_token') = :'ada_id' as good;
rollback;

-- N12: an id is never used again: the guest does not come back by its old tokens, even with a new row.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
delete from auth.users;
insert into auth.users (id) values (:'ada_id');
select raised('select auth.authenticate($1)', :'ada_token'), raised('select auth.refresh_session($1)', :'ada_refresh');
rollback;

-- What is no token at all.
begin;
select raised('select auth.authenticate($1)', null) as "null";
select raised('select auth.authenticate($1)', '') as empty;
select raised('select auth.authenticate($1)', 'x') as "1 byte";
select raised('select auth.authenticate($1)', repeat('x', 8193)) as "over 8 KiB";
select raised('select auth.authenticate($1)', repeat('x', 1024 * 1024)) as "1 MiB";
rollback;

-- Outside a transaction block it warns, since its effect ends with the statement.
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select auth.uid() is null as nobody, current_user;
delete from auth.users;

-- A real connection as the application's login role.
select * from session(auth.sign_in_anonymously()) \gset ada_
\set superuser :USER
\c - app_login
begin;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated, current_user, session_user;
commit;
select current_user, auth.uid() is null as nobody;
\c - plain_login
begin;
select auth.authenticate(:'ada_token');
rollback;
\c - :superuser
delete from auth.users;

-- PostgREST: auth.pre_request() authenticates the bearer token of the request.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
set local session authorization app_login;
select auth.pre_request() is not null as done, auth.uid() is null as nobody;
select set_config('request.headers', jsonb_build_object('authorization', 'Bearer ' || :'ada_token')::text, true) is not null as set;
select auth.pre_request() is not null as done, auth.uid() = :'ada_id' as authenticated, current_user;
reset role;
select set_config('request.headers', jsonb_build_object('Authorization', 'bearer ' || :'ada_token')::text, true) is not null as set;
select auth.pre_request() is not null as done, auth.uid() = :'ada_id' as authenticated, current_user;
rollback;
begin;
select headers, set_config('request.headers', headers, true) is not null as set, raised('select auth.pre_request()')
  from unnest(array['{}', '{"authorization": "Basic eDp5"}', '{"authorization": ""}', '{"authorization": "Bearer"}',
                    '{"authorization": "Bearer "}', '{"authorization": "bearer x"}', '{"authorization": 1}', '[]', 'x']) headers;
rollback;

-- S19: behind PostgREST, an answer with tokens must not be cached.
begin;
select set_config('request.method', 'POST', true);
select auth.sign_in_anonymously()->>'refresh_token' as token \gset
select current_setting('response.headers');
select set_config('response.headers', '[{"X-Other": "1"}]', true);
select auth.refresh_session(:'token') is not null as refreshed, auth.refresh_session(:'token') is not null as again;
select current_setting('response.headers');
rollback;
begin;
select auth.sign_in_anonymously() is not null as signed_in;
select coalesce(current_setting('response.headers', true), '') = '' as elsewhere_nothing_is_set;
rollback;
-- S19: metadata of one guest is not in another's session.
begin;
select auth.sign_in_anonymously('{"secret": "of Ada"}') is not null as ada;
select auth.sign_in_anonymously()::text like '%of Ada%' as shows;
rollback;

-- Sign-out and its scopes (S7, R3, N12).
\pset format unaligned

-- A guest with three sessions. Ways to sign in twice as one guest come with device keys and linked identities;
-- here the two others are made by hand, and their tokens signed with a key that we imported.
create function three_sessions(out id uuid, out first text, out second text, out third text, out refresh text)
language plpgsql as $$
declare
    secret constant bytea := sha256('sign_out');
    ada record;
    claims jsonb;
    header text;
begin
    header := jsonb_build_object('alg', 'HS256', 'typ', 'JWT', 'kid', auth.import_signing_key(
                  jsonb_build_object('kty', 'oct', 'k', base64url(secret))));
    select * from session(auth.sign_in_anonymously()) into ada;
    id := ada.id; first := ada.token; refresh := ada.refresh;
    claims := payload(ada.token);
    insert into auth.sessions (id, user_id, refresh_token_nonce)
    select other, s.user_id, s.refresh_token_nonce
      from auth.sessions s, unnest('{00000000-0000-7000-8000-000000000002, 00000000-0000-7000-8000-000000000003}'::uuid[]) other
     where s.id = ada.session;
    second := signed(header, (claims || '{"session_id": "00000000-0000-7000-8000-000000000002"}')::text, secret);
    third := signed(header, (claims || '{"session_id": "00000000-0000-7000-8000-000000000003"}')::text, secret);
end
$$;

-- S7: global, the default: all sessions of the user, and nobody else's.
begin;
select * from three_sessions() \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
set local session authorization app_login;
select auth.authenticate(:'ada_first') = :'ada_id' as first, auth.authenticate(:'ada_third') = :'ada_id' as third;
select auth.authenticate(:'ada_second') = :'ada_id' as second;
select auth.sign_out();
select auth.uid() is null as nobody_at_once;
select raised('select auth.authenticate($1)', :'ada_first') as first;
select raised('select auth.authenticate($1)', :'ada_second') as second;
select raised('select auth.authenticate($1)', :'ada_third') as third;
select raised('select auth.refresh_session($1)', :'ada_refresh') as refresh;
select raised('select auth.authenticate($1)', :'bob_token') as bob;
reset session authorization;
-- The guest is there, and cannot come back.
select count(*) filter (where id = :'ada_id') as guest from auth.users;
rollback;

-- S7: local: this session.
begin;
select * from three_sessions() \gset ada_
set local session authorization app_login;
select auth.authenticate(:'ada_second') = :'ada_id' as second;
select auth.sign_out('local');
select left(raised('select auth.authenticate($1)', :'ada_first'), 23) as first,
       left(raised('select auth.authenticate($1)', :'ada_second'), 23) as second,
       left(raised('select auth.authenticate($1)', :'ada_third'), 23) as third,
       left(raised('select auth.refresh_session($1)', :'ada_refresh'), 23) as refresh;
rollback;

-- S7: others: all but this one.
begin;
select * from three_sessions() \gset ada_
set local session authorization app_login;
select auth.authenticate(:'ada_first') = :'ada_id' as first;
select auth.sign_out(scope => 'others');
select auth.uid() = :'ada_id' as still_signed_in;
select left(raised('select auth.authenticate($1)', :'ada_second'), 23) as second,
       left(raised('select auth.authenticate($1)', :'ada_third'), 23) as third,
       left(raised('select auth.authenticate($1)', :'ada_first'), 23) as first,
       left(raised('select auth.refresh_session($1)', :'ada_refresh'), 23) as refresh;
rollback;

-- R3, N12: after signing out a guest is not returned by any call.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select auth.sign_out();
select raised('select auth.get_user()'), raised('select auth.user_info()');
select raised('select auth.verify_token($1)', :'ada_token');
select raised('select auth.sign_out()') as again;
select raised('select auth.delete_user()') as delete_user;
select raised('select auth.refresh_session($1)', :'ada_refresh');
reset role;
select auth.set_setting('sign_in_mode', 'reuse');
select raised('select auth.sign_in_anonymously(refresh_token => $1)', :'ada_refresh');
rollback;

-- A sign-out that is rolled back did not happen.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
savepoint s;
select auth.sign_out();
select auth.uid() is null as nobody;
rollback to s;
select auth.uid() = :'ada_id' as signed_in;
rollback;

-- Bad input: nobody signed in, no such scope; nothing is done then.
begin;
select raised('select auth.sign_out()') as nobody;
select * from three_sessions() \gset ada_
select auth.authenticate(:'ada_first') = :'ada_id' as authenticated;
select scope, raised('select auth.sign_out($1)', scope) from unnest(array['', 'all', 'GLOBAL', 'local; drop table auth.users']) scope;
reset role;
select count(*) as sessions from auth.sessions;
-- NULL is the default.
select auth.sign_out(null);
select count(*) as sessions from auth.sessions;
rollback;

drop function three_sessions;

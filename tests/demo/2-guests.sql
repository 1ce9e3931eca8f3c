-- 2. TWO GUESTS
-- From here on we are the application, connected as "app". Ada signs in: no e-mail, no password.
select auth.sign_in_anonymously('{"name": "Ada"}') as ada
\gset
select key, left(value, 72) as value from jsonb_each_text(:'ada');
-- That is the session a client keeps. So does Bob.
select auth.sign_in_anonymously('{"name": "Bob"}') as bob
\gset
select :'ada'::jsonb->>'access_token' as ada_token, :'bob'::jsonb->>'access_token' as bob_token,
       :'ada'::jsonb->>'refresh_token' as ada_refresh, :'ada'::jsonb->'user'->>'id' as ada_id
\gset
-- The access token is a signed JWT with the claims that everyone's tools know.
select key, left(value::text, 60) as value from jsonb_each(auth.verify_token(:'ada_token'));

-- 3. WHO SEES WHAT
-- Ada's transaction: authenticate, then ordinary SQL.
begin;
select auth.authenticate(:'ada_token');
insert into notes (body) values ('Ada: buy milk'), ('Ada: call Bob');
select body, user_id = auth.uid() as mine from notes;
commit;
-- Bob's.
begin;
select auth.authenticate(:'bob_token');
insert into notes (body) values ('Bob: water the plants');
select body, user_id = auth.uid() as mine from notes;
commit;
-- An outsider, without a token.
begin;
set local role anon;
select auth.uid(), auth.is_anonymous();
select body from notes;
commit;
-- Someone who may run any SQL and claims to be Ada, without her token: claims count only when the database
-- itself has verified their signature.
begin;
set local role authenticated;
select set_config('request.jwt.claims', jsonb_build_object('sub', :'ada_id', 'role', 'authenticated')::text, true) is not null as claimed;
select body from notes;
commit;
-- Guests read the news feed. They do not write it: the restrictive policy.
begin;
select auth.authenticate(:'ada_token');
select headline from news_feed;
\set ON_ERROR_STOP off
insert into news_feed (headline) values ('Free milk');
\set ON_ERROR_STOP on
rollback;

-- 4. REFRESH
-- A refresh token is good for one use: Ada gets a new pair of tokens.
select auth.refresh_session(:'ada_refresh') as ada
\gset
select :'ada'::jsonb->>'access_token' as ada_token, :'ada'::jsonb->>'refresh_token' as ada_new_refresh
\gset
select left(:'ada_refresh', 40) as old_token, left(:'ada_new_refresh', 40) as new_token;
-- The old one again, within the reuse interval (a lost answer, a double click): the current token once more.
select auth.refresh_session(:'ada_refresh')->>'refresh_token' = :'ada_new_refresh' as current_token_again;
-- A moment later somebody turns up with the old token. It must have been stolen, from one side or the other.
select pg_sleep(1.5);
\set ON_ERROR_STOP off
select auth.refresh_session(:'ada_refresh');
-- So the whole session is over, although that call failed: for the thief and for Ada alike.
select auth.refresh_session(:'ada_new_refresh');
select auth.authenticate(:'ada_token');
\set ON_ERROR_STOP on

-- 5. SIGN-OUT
-- Bob leaves. His token would be valid for another hour, by its date.
begin;
select auth.authenticate(:'bob_token');
select auth.sign_out();
commit;
-- The next transaction knows better.
\set ON_ERROR_STOP off
begin;
select auth.authenticate(:'bob_token');
rollback;
\set ON_ERROR_STOP on

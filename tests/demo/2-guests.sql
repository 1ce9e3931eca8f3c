-- 2. TWO GUESTS
-- From here on we are the application, connected as "app". Ada signs in: no e-mail, no password. What she gets
-- is a session, and so does Bob.
select auth.sign_in_anonymously('{"name": "Ada"}') as ada \gset
select auth.sign_in_anonymously('{"name": "Bob"}') as bob \gset
select key, left(value, 64) as value from jsonb_each_text(:'ada');
-- The access token is a signed JWT with the claims that everyone's tools know.
select key, left(value::text, 60) as value from jsonb_each(auth.verify_token(:'ada'::jsonb->>'access_token'));

-- 3. WHO SEES WHAT
-- Ada's transaction: authenticate, then ordinary SQL.
begin;
select auth.authenticate(:'ada'::jsonb->>'access_token');
insert into notes (body) values ('Ada: buy milk'), ('Ada: call Bob');
select body, user_id = auth.uid() as mine from notes;
commit;
-- Bob's.
begin;
select auth.authenticate(:'bob'::jsonb->>'access_token');
insert into notes (body) values ('Bob: water the plants');
select body, user_id = auth.uid() as mine from notes;
commit;
-- An outsider, without a token.
begin;
set local role anon;
select auth.uid(), auth.is_anonymous();
select body from notes;
commit;
-- Someone who may run any SQL and says that he is Ada, but does not have her token. Claims count only when the
-- database itself has verified their signature.
begin;
set local role authenticated;
select set_config('request.jwt.claims', jsonb_build_object('sub', :'ada'::jsonb->'user'->'id')::text, true);
select body from notes;
commit;
-- Guests read the news feed. They do not write it: the restrictive policy.
begin;
select auth.authenticate(:'ada'::jsonb->>'access_token');
select headline from news_feed;
\set ON_ERROR_STOP off
insert into news_feed (headline) values ('Free milk');
\set ON_ERROR_STOP on
rollback;

-- 4. REFRESH
-- A refresh token is good for one use: Ada gets a new pair of tokens.
select auth.refresh_session(:'ada'::jsonb->>'refresh_token') as new_ada \gset
select '...' || right(:'ada'::jsonb->>'refresh_token', 32) as old_token,
       '...' || right(:'new_ada'::jsonb->>'refresh_token', 32) as new_token;
-- The old one again, within the reuse interval (an answer got lost, somebody clicked twice): it gets the current
-- token, not yet another one.
select '...' || right(auth.refresh_session(:'ada'::jsonb->>'refresh_token')->>'refresh_token', 32) as current_token;
-- A moment later the old token turns up once more. Ada or a thief: one of them has a copy.
\! sleep 1.5
\set ON_ERROR_STOP off
select auth.refresh_session(:'ada'::jsonb->>'refresh_token');
-- So the session is over, for the thief and for Ada, although that call failed and changed nothing else.
select auth.refresh_session(:'new_ada'::jsonb->>'refresh_token');
select auth.authenticate(:'new_ada'::jsonb->>'access_token');
\set ON_ERROR_STOP on

-- 5. SIGN-OUT
-- Bob leaves. By its date, his access token would be good for another hour.
begin;
select auth.authenticate(:'bob'::jsonb->>'access_token');
select auth.sign_out();
commit;
-- The next transaction knows better.
\set ON_ERROR_STOP off
select auth.authenticate(:'bob'::jsonb->>'access_token');
\set ON_ERROR_STOP on

-- A guest who links what belongs to an account: an error, or a sign-in to that account, and then a merge (A5, S12, C2).
\pset format unaligned
select unlimited_messages();
set client_min_messages = error;
\set jwks '{"keys":[{"kty":"EC","x":"Q28WnVc2fyKhM1sv381xtlsG1NpjpB7GFPSgsn6qIZs","y":"EHtn1ujr-PO2NrYCtvsEM3Ycohlno5tRTCSnAVKHuPw","crv":"P-256","kid":"key-1","alg":"ES256","use":"sig"}]}'
-- For account 248289761001, with the verified address ada@example.org.
\set id_token 'eyJhbGciOiJFUzI1NiIsImtpZCI6ImtleS0xIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjoib3VyLWNsaWVudCIsInN1YiI6IjI0ODI4OTc2MTAwMSIsImlhdCI6MTc2NzIyNTYwMCwiZXhwIjo0MTAyNDQ0ODAwLCJub25jZSI6Im4tMFM2X1d6QTJNaiIsImVtYWlsIjoiYWRhQGV4YW1wbGUub3JnIiwiZW1haWxfdmVyaWZpZWQiOnRydWUsIm5hbWUiOiJBZGEifQ.mwuiVQU__-5DUGMGy2wp8NYnMTeCHzkY0z2LRP9-hGqmAg5ncLTcGJmMhytW-_dXODOX4fw-PZKzRDJEYcnhUA'
\set nonce 'n-0S6_WzA2Mj'
create function sent(out code text, out "to" text) language sql as $$
    select convert_from(secret, 'UTF8')::jsonb->>0, recipient from auth.messages order by created_at desc limit 1
$$;
create table notes (user_id uuid references auth.users (id), body text);
grant select, insert on notes to authenticated;

-- A5: an error unless told otherwise, and the guest goes on.
begin;
insert into auth.users (id, email, email_confirmed_at) values ('00000000-0000-7000-8000-000000000001', 'bob@example.org', now());
select * from session(auth.sign_in_anonymously()) \gset ada_
select set_config('anon_auth.access_token', :'ada_token', true) is not null as signed_in;
select raised('select auth.update_user(''{"email": "bob@example.org"}'')');
select auth.uid() = :'ada_id' as still_ada, (select count(*) from auth.messages) as messages;
rollback;

-- A5: by the code that was sent to the address, the guest signs in to the account, and takes along what it has.
begin;
select auth.set_setting('promotion_conflict', 'login');
insert into auth.users (id, email, email_confirmed_at) values ('00000000-0000-7000-8000-000000000001', 'bob@example.org', now());
select * from session(auth.sign_in_anonymously()) \gset ada_
insert into notes values (:'ada_id', 'of Ada');
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select auth.update_user('{"email": "bob@example.org"}')->>'is_anonymous' as is_anonymous;
reset session authorization;
select * from sent() \gset sent_
select :'sent_to' as "to";
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
savepoint asked;
select raised('select auth.verify_otp(''email_change'', $1)', lpad(((:'sent_code'::int + 1) % 1000000)::text, 6, '0')) as wrong_code;
select auth.verify_otp('email_change', :'sent_code') as answer \gset
select * from session(:'answer') \gset bob_
select :'bob_id' as signed_in_as, :'answer'::jsonb->'user'->'is_anonymous' as is_anonymous, payload(:'bob_token')->'amr'->0->'method' as method;
-- The code is used up; the guest is who it was until it is merged, which takes its own token.
select raised('select auth.verify_otp(''email_change'', $1)', :'sent_code') as again;
select auth.verify_token(:'ada_token')->'is_anonymous' as ada_is_anonymous;
select auth.authenticate(:'bob_token') as authenticated;
select auth.merge_anonymous_user(:'ada_token')->'guest_deleted' as merged;
reset session authorization;
select user_id, body from notes;
select id, email from auth.users;
rollback;

-- Permanent users do not change over: for them it stays an error.
begin;
select auth.set_setting('promotion_conflict', 'login');
insert into auth.users (id, email, email_confirmed_at) values ('00000000-0000-7000-8000-000000000001', 'bob@example.org', now());
select * from session(auth.sign_in_anonymously()) \gset carol_
update auth.users set is_anonymous = false where id = :'carol_id';
select set_config('anon_auth.access_token', :'carol_token', true) is not null as signed_in;
select raised('select auth.update_user(''{"email": "bob@example.org"}'')');
rollback;

-- A5: the same with an account at a provider.
begin;
select auth.set_identity_provider('corp', 'https://issuer.example', '{our-client}', :'jwks') is not null as set;
insert into auth.users (id) values ('00000000-0000-7000-8000-000000000001');
insert into auth.identities (user_id, provider, provider_id) values ('00000000-0000-7000-8000-000000000001', 'corp', '248289761001');
select * from session(auth.sign_in_anonymously()) \gset ada_
insert into notes values (:'ada_id', 'of Ada');
select set_config('anon_auth.access_token', :'ada_token', true) is not null as signed_in;
select raised('select auth.link_identity($1, $2, $3)', 'corp', :'id_token', :'nonce');
select auth.set_setting('promotion_conflict', 'login');
select * from session(auth.link_identity('corp', :'id_token', :'nonce')) \gset bob_
select :'bob_id' as signed_in_as;
select set_config('anon_auth.access_token', :'bob_token', true) is not null as signed_in;
select auth.merge_anonymous_user(:'ada_refresh')->'guest_deleted' as merged;
select user_id, body from notes;
-- What belongs to nobody is linked as ever.
delete from auth.identities;
select * from session(auth.sign_in_anonymously()) \gset carol_
select set_config('anon_auth.access_token', :'carol_token', true) is not null as signed_in;
select auth.link_identity('corp', :'id_token', :'nonce')->'user'->>'id' = :'carol_id' as still_carol;
-- Linking being switched off, there is neither.
select auth.set_setting('manual_linking', 'false');
select * from session(auth.sign_in_anonymously()) \gset dave_
select set_config('anon_auth.access_token', :'dave_token', true) is not null as signed_in;
select raised('select auth.link_identity($1, $2, $3)', 'corp', :'id_token', :'nonce');
rollback;

drop table notes;
drop function sent;
delete from auth.users;
select default_settings();

-- Signing in without credentials (R1, R2, S1, S5, A1, C1), and what a caller may not hand in.
\pset format unaligned

-- R1: no credentials; a new guest with an id of its own and no other metadata.
begin;
set local role anon;
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
reset role;
select :'ada_id' <> :'bob_id' and :'ada_session' <> :'bob_session' and :'ada_refresh' <> :'bob_refresh' as distinct_guests;
select count(*) as guests,
       bool_and(is_anonymous) as are_guests,
       bool_and(num_nulls(email, encrypted_password, email_confirmed_at, phone, phone_confirmed_at, banned_until) = 6) as nothing_known,
       bool_and(raw_user_meta_data = '{}' and raw_app_meta_data = '{}') as no_metadata,
       bool_and(created_at = last_sign_in_at and created_at = updated_at) as same_time,
       bool_and(created_at between clock_timestamp() - interval '1 minute' and clock_timestamp()) as now
  from auth.users;
select count(*) from auth.identities;
-- Ids are of version 7 (RFC 9562): they grow with time.
select bool_and(substr(id::text, 15, 1) = '7') as version_7 from auth.users;
rollback;

-- R1: metadata, where the caller gives some.
begin;
select auth.sign_in_anonymously('{"name": "Ada", "tags": ["a", {"b": null}], "n": 1.50, "text": "\u00e4 \"\\ 😀"}') as session \gset
select :'session'::jsonb->'user'->'user_metadata' as answered, raw_user_meta_data as stored,
       payload(:'session'::jsonb->>'access_token')->'user_metadata' as in_token
  from auth.users;
rollback;

-- S1: a guest carries the role "authenticated", whoever made the call, and the caller keeps its own.
begin;
set local role anon;
select auth.sign_in_anonymously() as session \gset
select current_user, auth.uid() is null as not_authenticated_by_that;
reset role;
select :'session'::jsonb->'user'->>'role' as answered, payload(:'session'::jsonb->>'access_token')->>'role' as in_token, role, aud
  from auth.users;
rollback;

-- S1: "anon" is for callers without a user, and creates none.
begin;
create table public_page (body text);
insert into public_page values ('Welcome');
grant select on public_page to anon;
set local role anon;
select body, auth.uid(), auth.is_anonymous() from public_page;
reset role;
select count(*) as users from auth.users;
rollback;

-- S5: the session that is returned.
begin;
select auth.sign_in_anonymously('{"name": "Ada"}') as session \gset
select string_agg(key, ' ' order by key collate "C") as keys from jsonb_object_keys(:'session'::jsonb) key;
select string_agg(key, ' ' order by key collate "C") as user_keys from jsonb_object_keys(:'session'::jsonb->'user') key;
select s->>'token_type' as token_type,
       s->'expires_in' as expires_in,
       (s->>'expires_at')::bigint = (payload(s->>'access_token')->>'exp')::bigint as expires_at_is_exp,
       (s->>'expires_at')::bigint - (payload(s->>'access_token')->>'iat')::bigint as lifetime,
       abs((s->>'expires_at')::bigint - 3600 - extract(epoch from clock_timestamp())) < 60 as unix_time
  from (select :'session'::jsonb) t(s);
select u->>'aud' as aud, u->>'role' as role, u->>'email' as email, u->>'phone' as phone, u->'app_metadata' as app_metadata,
       u->'user_metadata' as user_metadata, u->'identities' as identities, u->'is_anonymous' as is_anonymous,
       (u->>'created_at')::timestamptz = created_at as created_at,
       (u->>'updated_at')::timestamptz = updated_at as updated_at,
       (u->>'last_sign_in_at')::timestamptz = last_sign_in_at as last_sign_in_at
  from auth.users, (select :'session'::jsonb->'user') t(u)
 where id = (u->>'id')::uuid;
-- Times are ISO 8601 in UTC, whatever the session's settings.
set local timezone = 'Asia/Kathmandu';
set local datestyle = 'SQL, DMY';
select auth.sign_in_anonymously()->'user'->>'created_at' ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00$' as iso_8601;
rollback;

-- S5: expires_in follows the setting.
begin;
select auth.set_setting('access_token_lifetime', '10 minutes');
select s->'expires_in' as expires_in,
       (payload(s->>'access_token')->>'exp')::bigint - (payload(s->>'access_token')->>'iat')::bigint as lifetime
  from auth.sign_in_anonymously() s;
rollback;

-- R2: in mode "new" each sign-in is a new guest, a refresh token or not.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously(refresh_token => :'ada_refresh')) \gset bob_
select :'ada_id' <> :'bob_id' as another_guest, count(*) as guests from auth.users;
select auth.refresh_session(:'ada_refresh') is not null as token_was_not_used;
rollback;

-- R2: in mode "reuse" a valid refresh token brings the same guest back, and is rotated.
begin;
select auth.set_setting('sign_in_mode', 'reuse');
select * from session(auth.sign_in_anonymously('{"name": "Ada"}')) \gset ada_
select * from session(auth.sign_in_anonymously('{"name": "other"}', refresh_token => :'ada_refresh')) \gset again_
select :'ada_id' = :'again_id' as same_guest, :'ada_refresh' <> :'again_refresh' as rotated,
       count(*) as guests, min(raw_user_meta_data->>'name') as name
  from auth.users;
select auth.refresh_session(:'again_refresh') is not null as new_token_works;
-- Without a token it is somebody new.
select auth.sign_in_anonymously()->'user'->>'id' <> :'ada_id' as another_guest, count(*) as before from auth.users;
rollback;

-- R2: with an expired, revoked or foreign token it fails and creates no guest.
begin;
select auth.set_setting('sign_in_mode', 'reuse');
select * from session(auth.sign_in_anonymously()) \gset ada_
savepoint before;
update auth.sessions set refreshed_at = now() - interval '60 days';
select raised('select auth.sign_in_anonymously(refresh_token => $1)', :'ada_refresh') as expired;
rollback to before;
delete from auth.sessions;
select raised('select auth.sign_in_anonymously(refresh_token => $1)', :'ada_refresh') as signed_out;
rollback to before;
delete from auth.users;
select raised('select auth.sign_in_anonymously(refresh_token => $1)', :'ada_refresh') as deleted;
rollback to before;
update auth.users set banned_until = 'infinity';
select raised('select auth.sign_in_anonymously(refresh_token => $1)', :'ada_refresh') as banned;
rollback to before;
select raised('select auth.sign_in_anonymously(refresh_token => $1)', 'garbage') as garbage;
select raised('select auth.sign_in_anonymously(refresh_token => $1)', '') as empty;
select raised('select auth.sign_in_anonymously(refresh_token => $1)', :'ada_token') as access_token;
select count(*) as guests from auth.users;
rollback;

-- A1: the same sub in every session, and after promotion.
begin;
select * from session(auth.sign_in_anonymously()) \gset first_
select * from session(auth.refresh_session(:'first_refresh')) \gset second_
update auth.users set is_anonymous = false, email = 'ada@example.org', email_confirmed_at = now();
select * from session(auth.refresh_session(:'second_refresh')) \gset third_
select payload(:'first_token')->>'sub' = :'first_id'
   and payload(:'second_token')->>'sub' = :'first_id'
   and payload(:'third_token')->>'sub' = :'first_id' as same_sub,
       payload(:'third_token')->'is_anonymous' as is_anonymous, payload(:'third_token')->'email' as email;
rollback;

-- C1: sign in and write, in one transaction.
begin;
create table notes (user_id uuid not null default auth.uid() references auth.users (id), body text);
alter table notes enable row level security;
create policy own on notes to authenticated using (user_id = auth.uid()) with check (user_id = auth.uid());
grant select, insert on notes to authenticated;
set local session authorization app_login;
select auth.sign_in_anonymously()->>'access_token' as token \gset
select auth.authenticate(:'token') is not null as authenticated;
insert into notes (body) values ('the first thing a guest does') returning user_id = auth.uid() as mine, body;
reset session authorization;
rollback;
select count(*) as nothing_left from auth.users;

-- Metadata: at most user_metadata_limit bytes, measured as jsonb shows it.
begin;
select raised('select auth.sign_in_anonymously(jsonb_build_object(''a'', repeat(''x'', 4096 - 9)))') as "4096 bytes";
select raised('select auth.sign_in_anonymously(jsonb_build_object(''a'', repeat(''x'', 4096 - 8)))') as "4097 bytes";
-- Bytes, not characters.
select raised('select auth.sign_in_anonymously(jsonb_build_object(''a'', repeat(''ä'', 2044)))') as "2053 characters";
select auth.set_setting('user_metadata_limit', '2');
select raised('select auth.sign_in_anonymously()'), raised('select auth.sign_in_anonymously(''{"a": 1}'')');
-- Whatever the limit, a token has at most 8 KiB.
select auth.set_setting('user_metadata_limit', '6144');
select raised('select auth.sign_in_anonymously(jsonb_build_object(''a'', repeat(''x'', 6144 - 9)))');
select count(*) as guests from auth.users;
rollback;

-- Metadata: a JSON object, or nothing.
begin;
select data, raised('select auth.sign_in_anonymously($1::jsonb)', data)
  from unnest(array['[]', '[{}]', '"text"', '1', 'true', 'null']) data;
select count(*) as guests from auth.users;
select auth.sign_in_anonymously(null)->'user'->'user_metadata' as of_null;
rollback;

-- Metadata: nesting and numbers that not everybody can read are refused, never mangled.
begin;
select raised('select auth.sign_in_anonymously($1::jsonb)', '{"a": ' || repeat('[', 1000) || repeat(']', 1000) || '}') as deep;
select raised('select auth.sign_in_anonymously($1::jsonb)', '{"a": 1e400}') as huge;
select raised('select auth.sign_in_anonymously($1::jsonb)', '{"a": "\u0000"}') as nul;
select count(*) as guests from auth.users;
select auth.sign_in_anonymously('{"id": 9007199254740993, "max": 18446744073709551615}')->'user'->'user_metadata' as integers;
rollback;
begin;
select auth.sign_in_anonymously('{"digits": 12345678901234567890123, "fraction": 0.1234567890123456789}') is not null as signed_in;
select raw_user_meta_data as stored_exactly from auth.users;
rollback;

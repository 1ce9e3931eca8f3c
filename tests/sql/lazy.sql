-- Lazy guests (A7, W2): a sign-in stores nothing; the guest's rows appear when it first matters; nothing from before
-- brings it back once it has gone (N12, N20).
\pset format unaligned
insert into auth.settings (name, value) values ('guest_storage', 'lazy');
select unlimited_messages();

create table notes (user_id uuid not null default auth.ensure_user() references auth.users (id) on delete cascade, body text);
alter table notes enable row level security;
create policy own_notes on notes to authenticated using (user_id = auth.uid()) with check (user_id = auth.uid());
grant select, insert, delete on notes to authenticated;
-- What is stored of all guests, in rows.
create view stored as
select (select count(*) from auth.users) as users, (select count(*) from auth.sessions) as sessions, (select count(*) from auth.lazy_guests) as ids;

-- W2: a sign-in writes nothing and takes no transaction id; not even a read-only transaction is in its way.
begin transaction read only;
select auth.sign_in_anonymously('{"name": "Ada"}') as answer \gset
select * from session(:'answer') \gset ada_
-- S5: the session is the same as of a guest that is stored.
select string_agg(key, ' ' order by key) as session from jsonb_object_keys(:'answer'::jsonb) key;
select string_agg(key, ' ' order by key) as user from jsonb_object_keys(:'answer'::jsonb->'user') key;
select string_agg(key, ' ' order by key) as claims from jsonb_object_keys(payload(:'ada_token')) key;
-- S2, S4: and so are the readers.
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated, current_user;
select auth.uid() = :'ada_id' as uid, auth.role(), auth.email(), auth.is_anonymous(), auth.session_id() = :'ada_session' as session_id, auth.jwt()->'user_metadata' as metadata;
select auth.verify_token(:'ada_token') = auth.jwt() as verified;
select auth.get_user() = :'answer'::jsonb->'user' as as_at_sign_in;
select info - 'sub' - 'updated_at' as info, info->>'sub' = :'ada_id' as sub from auth.user_info() info;
select count(*) from notes;
-- What writes says so; signing out of no other session writes nothing.
select raised('insert into notes (body) values (''x'')'), raised('select auth.ensure_user()'), raised('select auth.update_user(''{}'')');
select raised('select auth.refresh_session($1)', :'ada_refresh'), raised('select auth.sign_out()'), raised('select auth.delete_user()');
select raised('select auth.sign_out(''others'')');
reset session authorization;
select pg_current_xact_id_if_assigned() as no_transaction_id;
commit;
select * from stored;

-- The readers take no transaction id in a transaction that could have one, nor do a hundred sign-ins.
begin;
select count(auth.sign_in_anonymously(jsonb_build_object('n', n))) from generate_series(1, 100) n;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated, auth.uid() = :'ada_id' as uid;
select pg_current_xact_id_if_assigned() as no_transaction_id;
rollback;
-- REPEATABLE READ and SERIALIZABLE: the same.
begin isolation level serializable, read only, deferrable;
select auth.authenticate(auth.sign_in_anonymously()->>'access_token') = auth.uid() as authenticated;
commit;

-- Two guests are two.
select count(distinct auth.sign_in_anonymously()->'user'->>'id') as guests from generate_series(1, 3);

-- The first refresh stores guest and session as they were at sign-in, and rotates as any refresh does (S6).
begin;
select auth.refresh_session(:'ada_refresh') as answer \gset
select * from session(:'answer') \gset next_
select :'next_id' = :'ada_id' as same_guest, :'next_session' = :'ada_session' as same_session, payload(:'next_token') ? 'lazy' as lazy;
select id = :'ada_id' as id, aud, role, is_anonymous, raw_user_meta_data, raw_app_meta_data, last_sign_in_at = created_at and updated_at = created_at as times,
       created_at < now() as since_sign_in from auth.users;
select id = :'ada_session' as id, refresh_token_counter, method, aal, created_at = (select created_at from auth.users) as created_at, refreshed_at > created_at as refreshed from auth.sessions;
select count(*), bool_and(user_id = :'ada_id' and expires_at > now() + interval '59 days') as until_its_tokens_are_over from auth.lazy_guests;
-- Both access tokens are good, and both show what the row says now.
update auth.users set is_anonymous = false, email = 'ada@example.org', email_confirmed_at = now();
select auth.verify_token(token)->>'email' as email, auth.verify_token(token)->'is_anonymous' as is_anonymous from unnest(array[:'ada_token', :'next_token']) token;
-- The first token once more, in time: the current one. Too late: the session ends.
select auth.refresh_session(:'ada_refresh')->>'refresh_token' = :'next_refresh' as current_one;
select count(*) from (select auth.refresh_session(:'next_refresh')) again;
insert into auth.settings (name, value) values ('refresh_token_reuse_interval', '00:00:00');
select raised('select auth.refresh_session($1)', :'ada_refresh');
rollback;
-- A rollback takes it all back but the end of the session. What was refreshed is no token (N19).
select * from stored;
select raised('select auth.refresh_session($1)', :'ada_refresh'), raised('select auth.verify_token($1)', :'ada_token');
delete from auth.session_revocations;
delete from auth.audit_log_entries;
select raised('select auth.refresh_session($1)', :'next_refresh');
select auth.verify_token(:'ada_token')->>'sub' = :'ada_id' as still_there;

-- R2: reuse of a session that is not stored.
begin;
insert into auth.settings (name, value) values ('sign_in_mode', 'reuse');
select (auth.sign_in_anonymously(refresh_token => :'ada_refresh')->'user'->>'id')::uuid = :'ada_id' as same_guest;
select * from stored;
rollback;

-- C1: sign in, then write, in one transaction: the column's default stores the guest, once.
begin;
select * from session(auth.sign_in_anonymously()) \gset bob_
set local session authorization app_login;
select auth.authenticate(:'bob_token') = :'bob_id' as authenticated;
insert into notes (body) values ('one'), ('two');
insert into notes (body) select 'three';
select count(*) as notes, bool_and(user_id = auth.uid()) as own from notes;
select auth.ensure_user() = :'bob_id' as again;
reset session authorization;
select * from stored;
-- S6: its first refresh token goes on from there.
select * from session(auth.refresh_session(:'bob_refresh')) \gset next_
select auth.verify_token(:'next_token')->>'sub' = :'bob_id' as refreshed, refresh_token_counter from auth.sessions;
rollback;

-- A guest that is stored, a permanent user and nobody.
begin;
delete from auth.settings where name = 'guest_storage';
select * from session(auth.sign_in_anonymously()) \gset eve_
select payload(:'eve_token') ? 'lazy' as lazy;
set local session authorization app_login;
select auth.authenticate(:'eve_token') = :'eve_id' as authenticated;
insert into notes (body) values ('one');
select auth.ensure_user() = :'eve_id' as guest;
reset session authorization;
update auth.users set is_anonymous = false;
select auth.ensure_user() = :'eve_id' as permanent;
update auth.users set banned_until = 'infinity';
select raised('select auth.ensure_user()');
update auth.users set banned_until = null;
set local anon_auth.check_session = off;
select auth.ensure_user() = :'eve_id' as without_look_ups;
set local session authorization plain_login;
select set_config('anon_auth.access_token', '', true);
select raised('select auth.ensure_user()');
select set_config('anon_auth.access_token', 'garbage', true);
select raised('select auth.ensure_user()');
rollback;

-- Whatever else a guest does to itself stores it first.
create function store_by(call text) returns text language plpgsql as $$
declare
    guest record;
    outcome text;
begin
    select * into guest from session(auth.sign_in_anonymously());
    perform auth.authenticate(guest.token);
    reset role;
    outcome := raised(call);
    return format('%s: %s; stored %s', call, outcome,
                  (select row(count(*), (select count(*) from auth.sessions), (select count(*) from auth.lazy_guests)) from auth.users where id = guest.id));
end
$$;
begin;
select store_by('select auth.update_user(''{"data": {"a": 1}}'')');
rollback;
begin;
select store_by('select auth.create_transfer_code()');
rollback;
begin;
select store_by('select auth.create_promotion_code()');
rollback;
begin;
select store_by('select auth.update_user(''{"email": "ada@example.org"}'')');
rollback;
-- What fails stores nothing.
begin;
select store_by('select auth.update_user(''{"data": 1}'')');
select store_by('select auth.unlink_identity(''00000000-0000-0000-0000-000000000000'')');
select store_by('select auth.resend(''email_change'')');
select store_by('select auth.verify_otp(''email_change'', ''000000'')');
select store_by('select auth.link_identity(''google'', ''x'')');
rollback;

-- N12, N20: a guest that signs out before it is stored leaves its id, and no token of it is good again.
create function refused(id uuid, token text, refresh text) returns setof text language plpgsql as $$
begin
    perform set_config('anon_auth.access_token', token, true);
    if auth.uid() is not null or auth.jwt() is not null then
        return next 'the readers know it';
    end if;
    return next raised('select auth.authenticate($1)', token);
    return next raised('select auth.verify_token($1)', token);
    return next raised('select auth.ensure_user()');
    return next raised('select auth.refresh_session($1)', refresh);
    return next raised('select auth.update_user(''{}'')');
    return next raised('select auth.get_user()');
    return next raised('select auth.sign_out()');
    return next raised('select auth.merge_anonymous_user($1)', token);
    if exists (select from auth.users u where u.id = refused.id) then
        return next 'it is stored';
    end if;
end
$$;
create function ended_by(call text) returns setof text language plpgsql as $$
declare
    guest record;
begin
    select * into guest from session(auth.sign_in_anonymously());
    perform set_config('anon_auth.access_token', guest.token, true);
    execute call;
    return query select distinct regexp_replace(r, ' \|.*', '') from refused(guest.id, guest.token, guest.refresh) r order by 1;
end
$$;
begin;
select ended_by('select auth.sign_out()');
select * from stored;
rollback;
begin;
select ended_by('select auth.sign_out(''local'')');
select * from stored;
rollback;
begin;
select ended_by('select auth.delete_user()');
select * from stored;
select action, user_id is not null as user_id from auth.audit_log_entries;
rollback;
-- So does one that is stored and goes, however.
begin;
select ended_by('select auth.ensure_user(), auth.sign_out()');
rollback;
begin;
select ended_by('select auth.ensure_user(); select auth.delete_user()');
rollback;
begin;
select ended_by('select auth.ensure_user(); delete from auth.users');
rollback;
begin;
insert into auth.settings (name, value) values ('cleanup_age', '00:00:00'), ('cleanup_inactivity', '00:00:00'), ('cleanup_unreachable_only', 'false');
select ended_by('select auth.ensure_user(); update auth.users set created_at = now() - interval ''100 days'', last_active_on = null; select auth.cleanup_expired_users()');
rollback;
-- The session alone.
begin;
select ended_by('select auth.ensure_user(); delete from auth.sessions');
rollback;
-- Banned, and by its id alone where it is not stored.
begin;
select ended_by('select auth.ensure_user(); update auth.users set banned_until = ''infinity''');
select ended_by('insert into auth.lazy_guests (user_id, expires_at) values (auth.uid(), now() + interval ''60 days'')');
rollback;
-- A session that was ended because an old token came back, in a transaction that was rolled back.
begin;
select * from session(auth.sign_in_anonymously()) \gset bob_
insert into auth.session_revocations (session_id, reason) values (:'bob_session', 'refresh_token_already_used');
select refused(:'bob_id', :'bob_token', :'bob_refresh');
rollback;

-- A savepoint that is rolled back: the guest is not stored, and can be.
begin;
select * from session(auth.sign_in_anonymously()) \gset bob_
select set_config('anon_auth.access_token', :'bob_token', true) is not null as set;
savepoint s;
select auth.ensure_user() = :'bob_id' as stored;
rollback to s;
select auth.uid() = :'bob_id' as uid;
select * from stored;
savepoint s;
select auth.sign_out();
select auth.uid() is null as nobody;
rollback to s;
select auth.uid() = :'bob_id' as uid, auth.ensure_user() = :'bob_id' as stored;
select * from stored;
rollback;

-- W1, S14, N7: a lazy guest is merged as any other, by either token; a guest that is not stored owns nothing.
begin;
select * from session(auth.sign_in_anonymously('{"theme": "dark"}')) \gset bob_
select * from session(auth.sign_in_anonymously()) \gset eve_
select * from session(auth.sign_in_anonymously()) \gset account_
select set_config('anon_auth.access_token', :'bob_token', true) is not null as set;
insert into notes (body) values ('of bob');
select set_config('anon_auth.access_token', :'account_token', true) is not null as set;
select auth.ensure_user() = :'account_id' as stored;
update auth.users set is_anonymous = false where id = :'account_id';
select raised('select auth.merge_anonymous_user($1)', :'account_token');
select auth.merge_anonymous_user(:'bob_token')->'guest_deleted' as guest_deleted;
select auth.merge_anonymous_user(:'eve_refresh')->'guest_deleted' as guest_deleted;
select user_id = :'account_id' as of_account, body from notes;
select raw_user_meta_data from auth.users;
select * from stored;
select distinct regexp_replace(r, ' \|.*', '') as refused from refused(:'bob_id', :'bob_token', :'bob_refresh') r order by 1;
select distinct regexp_replace(r, ' \|.*', '') as refused from refused(:'eve_id', :'eve_token', :'eve_refresh') r order by 1;
rollback;

-- R3: limits count from sign-in. Until when its tokens can come back is fixed then, whatever the settings say later.
begin;
insert into auth.settings (name, value) values ('session_idle_timeout', '00:00:01'), ('access_token_lifetime', '00:00:01');
select * from session(auth.sign_in_anonymously()) \gset bob_
select pg_sleep(1.1);
select raised('select auth.refresh_session($1)', :'bob_refresh'), raised('select auth.verify_token($1)', :'bob_token');
delete from auth.settings where name in ('session_idle_timeout', 'access_token_lifetime');
select raised('select auth.refresh_session($1)', :'bob_refresh');
rollback;
begin;
insert into auth.settings (name, value) values ('session_lifetime', '00:00:01');
select raised('select auth.verify_token($1)', :'ada_token') = 'no error' or pg_sleep(1.1) is not null as waited;
select raised('select auth.verify_token($1)', :'ada_token'), raised('select auth.refresh_session($1)', :'ada_refresh');
rollback;

-- Clean-up forgets an id a day after its tokens are over.
begin;
insert into auth.lazy_guests (user_id, expires_at)
select gen_random_uuid(), now() - age from unnest(array[interval '25 hours', '23 hours', '-1 hour', '26 hours']) age;
select auth.cleanup_expired_users(1)->'more' as more;
select count(*) from auth.lazy_guests;
select auth.cleanup_expired_users()->'more' as more;
select count(*) from auth.lazy_guests;
rollback;

-- S20: hooks. Creation may be refused, and metadata added, at sign-in; a hook on created guests runs when it is stored.
begin;
create table seen (event text, guest text, metadata jsonb);
create function on_before(event jsonb) returns jsonb language sql as $$
    select '{"user": {"user_metadata": {"lang": "de"}, "app_metadata": {"plan": "free"}}}'::jsonb
$$;
create function on_after(event jsonb) returns jsonb language plpgsql as $$
begin
    insert into public.seen values ('after', event->'user'->>'id', event->'user'->'app_metadata');
    return '{}';
end
$$;
create function on_token(event jsonb) returns jsonb language sql as $$
    select jsonb_build_object('claims', event->'claims' || '{"app_metadata": {}, "user_metadata": {}, "team": "red"}')
$$;
select auth.set_hook('before_user_created', 'on_before(jsonb)'), auth.set_hook('after_user_created', 'on_after(jsonb)'), auth.set_hook('custom_access_token', 'on_token(jsonb)');
select auth.sign_in_anonymously('{"name": "Ada"}') as answer \gset
select * from session(:'answer') \gset bob_
select claims->'app_metadata' as app_metadata, claims->'user_metadata' as user_metadata, claims->>'team' as team, (claims->'lazy') - 'created_at' - 'expires_at' as to_store from payload(:'bob_token') claims;
select * from seen;
-- Whichever token it is stored from, the row is the same.
savepoint s;
select set_config('anon_auth.access_token', :'bob_token', true) is not null as set;
select auth.get_user() = :'answer'::jsonb->'user' as as_at_sign_in;
select auth.ensure_user() = :'bob_id' as stored;
select raw_user_meta_data, raw_app_meta_data, created_at from auth.users \gset by_access_
select event, guest = :'bob_id' as guest, metadata from seen;
rollback to s;
select count(*) from (select auth.refresh_session(:'bob_refresh')) refreshed;
select raw_user_meta_data, raw_app_meta_data, raw_user_meta_data = :'by_access_raw_user_meta_data' and raw_app_meta_data = :'by_access_raw_app_meta_data' and created_at = :'by_access_created_at' as same from auth.users;
select event, guest = :'bob_id' as guest, metadata from seen;
rollback;

-- N10: a hook cannot say that a stored guest is lazy, nor a guest by its metadata.
begin;
create function on_token(event jsonb) returns jsonb language sql as $$
    select jsonb_build_object('claims', event->'claims' || (event->'claims'->'user_metadata'))
$$;
select auth.set_hook('custom_access_token', 'on_token(jsonb)');
select raised('select auth.sign_in_anonymously($1::jsonb)', '{"lazy": {"created_at": 0, "expires_at": 0}}');
delete from auth.settings where name = 'guest_storage';
select raised('select auth.sign_in_anonymously($1::jsonb)', '{"lazy": {"created_at": 0, "expires_at": 0}}');
rollback;

-- N20: a token that says "lazy" and was signed with the right key, but not by a sign-in: it is no session's. (Whoever
-- has the key can sign anything; this is about the rest of what a token says.)
begin;
select auth.import_signing_key('{"kty": "oct", "alg": "HS256", "kid": "test", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}') is not null as imported;
create function lazy_token(changes jsonb) returns text language sql as $$
    select signed('{"alg": "HS256", "typ": "JWT", "kid": "test"}', jsonb_strip_nulls(payload(current_setting('test.token')) || changes)::text, from_base64url('AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow'))
$$;
select set_config('test.token', :'ada_token', true) is not null as set;
select auth.verify_token(lazy_token('{}'))->>'sub' = :'ada_id' as unchanged;
-- A lazy claim that is none.
select raised('select auth.verify_token($1)', lazy_token(jsonb_build_object('lazy', lazy))) from unnest(array['true', '1', '"x"', '[]', '{}', '{"created_at": 1}', '{"created_at": "1", "expires_at": "2"}', '{"created_at": 1.5, "expires_at": 2.5}', '{"created_at": 1e300, "expires_at": 1e300}']::jsonb[]) lazy;
select raised('select auth.verify_token($1)', lazy_token('{"lazy": null}'));
-- Times at the end of what there is.
select raised('select auth.verify_token($1)', lazy_token('{"lazy": {"created_at": 9223372036854775807, "expires_at": 9223372036854775807}}'));
select raised('select auth.verify_token($1)', lazy_token('{"lazy": {"created_at": -9223372036854775808, "expires_at": 9223372036854775807}}'));
select raised('select auth.verify_token($1)', lazy_token('{"lazy": {"created_at": 0, "expires_at": 0}}'));
-- No user, no session, or a rotation that is not the session's: nothing is stored.
select raised('select auth.verify_token($1)', lazy_token('{"sub": null}')), raised('select auth.verify_token($1)', lazy_token('{"session_id": null}'));
select set_config('anon_auth.access_token', lazy_token('{"session_rotation": "AAAAAAAAAAAAAAAA"}'), true) is not null as set;
select raised('select auth.ensure_user()'), raised('select auth.update_user(''{}'')');
select set_config('anon_auth.access_token', lazy_token(jsonb_build_object('session_id', gen_random_uuid())), true) is not null as set;
select raised('select auth.ensure_user()');
select * from stored;
rollback;

-- N11: claims that somebody else verified make no user, and pass for none that is not stored.
begin;
select set_config('request.jwt.claims', payload(:'ada_token')::text, true) is not null as set;
set local anon_auth.trust_request_claims = on;
select auth.uid(), raised('select auth.ensure_user()');
select * from stored;
select auth.refresh_session(:'ada_refresh') is not null as refreshed;
select auth.uid() = :'ada_id' as uid, auth.ensure_user() = :'ada_id' as stored;
rollback;

-- An eager guest's tokens are not lazy: deleted, they make nothing.
begin;
delete from auth.settings where name = 'guest_storage';
select * from session(auth.sign_in_anonymously()) \gset eve_
insert into auth.settings (name, value) values ('guest_storage', 'lazy');
delete from auth.users;
select distinct regexp_replace(r, ' \|.*', '') as refused from refused(:'eve_id', :'eve_token', :'eve_refresh') r order by 1;
select * from stored;
rollback;

-- S21: with the key of its refresh token revoked, a guest that is not stored cannot come back; one that is needs a new session.
begin;
select auth.revoke_signing_key(kid) from auth.signing_keys where purpose = 'refresh_token';
select set_config('anon_auth.access_token', :'ada_token', true) is not null as set;
select auth.uid() = :'ada_id' as until_it_expires;
select raised('select auth.ensure_user()'), raised('select auth.refresh_session($1)', :'ada_refresh');
rollback;

-- N10: nobody but the owner gets at the table.
begin;
set local role authenticated;
select raised('select from auth.lazy_guests'), raised('insert into auth.lazy_guests values (gen_random_uuid(), now())'), raised('delete from auth.lazy_guests');
rollback;

-- Metadata as large as allowed, and larger than a token.
begin;
select auth.refresh_session(auth.sign_in_anonymously(jsonb_build_object('a', repeat('x', 4000)))->>'refresh_token')->'user'->'user_metadata' = jsonb_build_object('a', repeat('x', 4000)) as kept;
select raised('select auth.sign_in_anonymously(jsonb_build_object(''a'', repeat(''x'', 5000)))');
insert into auth.settings (name, value) values ('user_metadata_limit', '6144');
select raised('select auth.sign_in_anonymously(jsonb_build_object(''a'', repeat(''x'', 6000)))');
select raised('select auth.sign_in_anonymously(''[1]'')');
rollback;

-- C5: a guest of a named provider that is not stored lives as long as one that is: by what the provider said at its sign-in.
begin;
select auth.set_guest_provider('kiosk', session_lifetime => '15 minutes') is not null as added;
select * from session(auth.sign_in_anonymously(provider => 'kiosk')) \gset ada_
select * from session(auth.sign_in_anonymously('{"n": 1}', provider => 'kiosk')) \gset bob_
select auth.set_guest_provider('kiosk', session_lifetime => '1 year') is not null as changed;
select * from session(auth.sign_in_anonymously(provider => 'kiosk')) \gset cal_
select set_config('anon_auth.access_token', :'ada_token', true) is not null as set;
select auth.ensure_user() = :'ada_id' as stored;
select auth.remove_guest_provider('kiosk') as removed;
select auth.refresh_session(:'bob_refresh')->'user'->'app_metadata' as app_metadata;
select auth.refresh_session(:'cal_refresh') is not null as refreshed;
select user_id = :'ada_id' as ada, user_id = :'bob_id' as bob, not_after - created_at as lasts from auth.sessions order by 1, 2;
select bool_and(l.expires_at <= s.not_after) as until_its_tokens_are_over from auth.lazy_guests l join auth.sessions s using (user_id);
rollback;
-- Its access token does not outlast its session.
begin;
select auth.set_guest_provider('kiosk', session_lifetime => '1 second') is not null as added;
select * from session(auth.sign_in_anonymously(provider => 'kiosk')) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select pg_sleep(1.1);
select auth.uid();
select distinct regexp_replace(r, ' \|.*', '') as refused from refused(:'ada_id', :'ada_token', :'ada_refresh') r order by 1;
select * from stored;
rollback;

-- Switched off.
begin;
insert into auth.settings (name, value) values ('disabled', 'true');
select raised('select auth.sign_in_anonymously()');
rollback;

select * from stored;
drop table notes;
drop view stored;
drop function refused, ended_by, store_by;
select default_settings();

-- Guest providers: several ways to sign in anonymously, each with a switch and limits of its own (C5).
\pset format unaligned

-- C5: a provider is added, changed in part, and removed.
begin;
select auth.set_guest_provider('kiosk', session_lifetime => '15 minutes') - '{created_at,updated_at}'::text[] as provider;
select auth.set_guest_provider('kiosk', rate_limit => 5) - '{created_at,updated_at}'::text[] as provider;
select auth.set_guest_provider('demo', disabled => true) - '{created_at,updated_at}'::text[] as provider;
select name, disabled, session_lifetime, rate_limit from auth.guest_providers order by name;
select auth.remove_guest_provider('demo') as removed, auth.remove_guest_provider('demo') as again;
select action, payload->>'name' as name from auth.audit_log_entries where action like 'guest_provider%' order by action, name;
-- What makes no sense is refused.
select name, raised('select auth.set_guest_provider($1)', name)
  from (values (1, null), (2, ''), (3, 'Kiosk'), (4, 'a b'), (5, repeat('a', 64)), (6, 'anonymous'), (7, 'email')) t(n, name) order by n;
select lifetime, raised('select auth.set_guest_provider($1, session_lifetime => $2::interval)', 'kiosk', lifetime)
  from (values (1, '0'), (2, '-1 day'), (3, '999 ms'), (4, '36526 days'), (5, '178000000 years')) t(n, lifetime) order by n;
select number, raised('select auth.set_guest_provider($1, rate_limit => $2::int)', 'kiosk', number) from (values ('-1')) t(number);
-- By plain SQL too.
select raised('update auth.guest_providers set session_lifetime = interval ''0''');
select raised('update auth.guest_providers set rate_limit = -1');
select name, disabled, session_lifetime, rate_limit from auth.guest_providers order by name;
rollback;

-- C5: a guest of a named provider says so in its metadata; any other guest is as before.
begin;
select auth.set_guest_provider('kiosk') is not null as added;
select auth.sign_in_anonymously('{"theme": "dark"}', provider => 'kiosk') as session \gset
select * from session(:'session') \gset ada_
select :'session'::jsonb->'user'->'app_metadata' as app_metadata, :'session'::jsonb->'user'->'user_metadata' as user_metadata;
select payload(:'ada_token')->'app_metadata' as claim, payload(:'ada_token')->'amr'->0->'method' as amr;
select raw_app_meta_data, is_anonymous from auth.users where id = :'ada_id';
select * from session(auth.sign_in_anonymously()) \gset bob_
select payload(:'bob_token')->'app_metadata' as claim, payload(:'bob_token')->'amr'->0->'method' as amr;
select not_after from auth.sessions;
-- It stays after a refresh, and when the provider is gone.
select auth.remove_guest_provider('kiosk');
select auth.refresh_session(:'ada_refresh')->'user'->'app_metadata' as app_metadata;
rollback;

-- C5: an unknown provider, and one that is switched off, make nobody a guest. Those who are there stay.
begin;
select auth.set_guest_provider('kiosk') is not null as added;
select * from session(auth.sign_in_anonymously(provider => 'kiosk')) \gset ada_
select auth.set_guest_provider('kiosk', disabled => true)->'disabled' as disabled;
select name, raised('select auth.sign_in_anonymously(provider => $1)', name) from (values ('kiosk'), ('Kiosk'), (''), (repeat('x', 300))) t(name);
select auth.set_setting('sign_in_mode', 'reuse');
select raised('select auth.sign_in_anonymously(provider => ''kiosk'', refresh_token => $1)', :'ada_refresh');
select count(*) as guests from auth.users;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select auth.refresh_session(:'ada_refresh') is not null as refreshed;
-- The others go on, and it can be switched on again.
select auth.sign_in_anonymously() is not null as signed_in;
select auth.set_guest_provider('kiosk', disabled => false)->'disabled' as disabled;
select auth.sign_in_anonymously(provider => 'kiosk') is not null as signed_in;
-- C5, R6: off is off, for all of them.
select auth.set_setting('disabled', 'true');
select raised('select auth.sign_in_anonymously(provider => ''kiosk'')');
rollback;

-- C5: sessions of its guests end when it says, for everybody who looks; refreshing them changes nothing about that.
begin;
select auth.set_guest_provider('kiosk', session_lifetime => '15 minutes') is not null as added;
select * from session(auth.sign_in_anonymously(provider => 'kiosk')) \gset ada_
select not_after - created_at as lasts from auth.sessions where user_id = :'ada_id';
select * from session(auth.refresh_session(:'ada_refresh')) \gset ada_
select not_after - created_at as lasts from auth.sessions where user_id = :'ada_id';
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated, auth.uid() = :'ada_id' as uid;
reset role;
update auth.sessions set not_after = clock_timestamp() - interval '1 microsecond';
select auth.uid(), auth.jwt();
select raised('select auth.authenticate($1)', :'ada_token');
select raised('select auth.verify_token($1)', :'ada_token');
select raised('select auth.refresh_session($1)', :'ada_refresh');
select auth.set_setting('sign_in_mode', 'reuse');
select raised('select auth.sign_in_anonymously(refresh_token => $1)', :'ada_refresh');
select raised('select auth.get_user()');
rollback;
-- Also while a statement runs, or a transaction with a frozen now() (N23).
begin;
select auth.set_guest_provider('kiosk', session_lifetime => '1 second') is not null as added;
select * from session(auth.sign_in_anonymously(provider => 'kiosk')) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select pg_sleep(greatest(0, extract(epoch from not_after - clock_timestamp()))) from auth.sessions where user_id = :'ada_id';
select auth.uid();
select raised('select auth.refresh_session($1)', :'ada_refresh');
rollback;

-- C5: the settings for all apply besides, whichever ends first.
begin;
select auth.set_guest_provider('kiosk', session_lifetime => '1 year') is not null as added;
select * from session(auth.sign_in_anonymously(provider => 'kiosk')) \gset ada_
select auth.set_setting('session_lifetime', '1 hour');
update auth.sessions set created_at = now() - interval '2 hours';
select raised('select auth.verify_token($1)', :'ada_token');
select auth.set_setting('session_lifetime', null);
select auth.verify_token(:'ada_token') is not null as verified;
update auth.sessions set refreshed_at = now() - interval '61 days';
select raised('select auth.verify_token($1)', :'ada_token');
rollback;

-- C5: a guest that signs in once more has that limit again.
begin;
select auth.set_guest_provider('kiosk', session_lifetime => '15 minutes') is not null as added;
select * from session(auth.sign_in_anonymously(provider => 'kiosk')) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select auth.create_transfer_code()->>'transfer_code' as code \gset
select * from session(auth.redeem_transfer_code(:'code')) \gset ada_
select not_after - created_at as lasts from auth.sessions where user_id = :'ada_id';
rollback;

-- C5: clean-up deletes sessions that have ended, and not those that have not.
begin;
select auth.set_guest_provider('kiosk', session_lifetime => '15 minutes') is not null as added;
select * from session(auth.sign_in_anonymously(provider => 'kiosk')) \gset ada_
select * from session(auth.sign_in_anonymously(provider => 'kiosk')) \gset bob_
select * from session(auth.sign_in_anonymously()) \gset eve_
update auth.sessions set not_after = clock_timestamp() where user_id = :'ada_id';
select auth.cleanup_expired_users()->'sessions' as sessions;
select user_id = :'ada_id' as ada, user_id = :'bob_id' as bob, user_id = :'eve_id' as eve from auth.sessions order by 1, 2, 3;
select count(*) as guests from auth.users;
rollback;

-- C5: a guest whose session is over has nothing left to come back with, and goes at the age and idleness that are set,
-- before guests whose sessions last longer.
begin;
select auth.set_setting('cleanup_age', '1 day'), auth.set_setting('cleanup_inactivity', '1 day');
select auth.set_guest_provider('kiosk', session_lifetime => '15 minutes') is not null as added;
select * from session(auth.sign_in_anonymously(provider => 'kiosk')) \gset ada_
select * from session(auth.sign_in_anonymously(provider => 'kiosk')) \gset bob_
select * from session(auth.sign_in_anonymously(provider => 'kiosk')) \gset cal_
select * from session(auth.sign_in_anonymously()) \gset eve_
update auth.users set created_at = now() - interval '3 days';
update auth.sessions set created_at = now() - interval '3 days', not_after = not_after - interval '3 days' where user_id <> :'bob_id';
-- Cal has another session, and it lasts.
insert into auth.sessions (id, user_id) values (gen_random_uuid(), :'cal_id');
select result->'deleted' as deleted, result->'sessions' as sessions, result->'more' as more from auth.cleanup_expired_users() result;
select id = :'bob_id' as bob, id = :'cal_id' as cal, id = :'eve_id' as eve from auth.users order by 1, 2, 3;
select count(*) filter (where user_id = :'cal_id') as cals, count(*) as all from auth.sessions;
-- Not before: its session is kept until then, as what tells of it.
select auth.set_setting('cleanup_age', '7 days');
update auth.sessions set not_after = now() - interval '6 days' where user_id = :'bob_id';
update auth.users set created_at = now() - interval '6 days' where id = :'bob_id';
select result->'deleted' as deleted, result->'sessions' as sessions from auth.cleanup_expired_users() result;
select auth.set_setting('cleanup_age', '5 days');
select result->'deleted' as deleted, result->'sessions' as sessions from auth.cleanup_expired_users() result;
select id = :'bob_id' as bob, id = :'cal_id' as cal, id = :'eve_id' as eve from auth.users order by 1, 2, 3;
rollback;
-- One that a row of an application keeps is reported, and tried again later.
begin;
create table orders (user_id uuid references auth.users);
select auth.set_setting('cleanup_age', '1 day'), auth.set_setting('cleanup_inactivity', '1 day');
select auth.set_guest_provider('kiosk', session_lifetime => '15 minutes') is not null as added;
select * from session(auth.sign_in_anonymously(provider => 'kiosk')) \gset ada_
insert into orders values (:'ada_id');
update auth.users set created_at = now() - interval '3 days';
update auth.sessions set created_at = now() - interval '3 days', not_after = not_after - interval '3 days';
select result->'deleted' as deleted, result->'blocked' as blocked, result->'sessions' as sessions from auth.cleanup_expired_users() result;
delete from orders;
select result->'deleted' as deleted, result->'blocked' as blocked from auth.cleanup_expired_users() result;
rollback;

-- C5, W8: what ended is found by an index that has no entry for anybody else.
select indexdef from pg_indexes where schemaname = 'auth' and indexname = 'sessions_not_after_idx';

-- C5, S20: hooks are told the name.
begin;
create schema app;
create table app.seen (event jsonb);
create function app.note(event jsonb) returns void language sql as $$ insert into app.seen values (event) $$;
select auth.set_hook('before_user_created', 'app.note(jsonb)'), auth.set_hook('after_user_created', 'app.note(jsonb)');
select auth.set_guest_provider('kiosk') is not null as added;
select auth.sign_in_anonymously(provider => 'kiosk') is not null as signed_in;
select event->'metadata'->>'name' as name, event->>'provider' as provider, event->'user'->'app_metadata' as app_metadata from app.seen;
rollback;

-- N10: nobody but an administrator has a say.
begin;
set local role authenticated;
select raised('select auth.set_guest_provider(''kiosk'')');
select raised('select auth.remove_guest_provider(''kiosk'')');
select raised('select * from auth.guest_providers');
set local role service_role;
select auth.set_guest_provider('kiosk') is not null as added;
select name from auth.guest_providers;
select raised('update auth.guest_providers set disabled = true');
rollback;

-- Its rate limit is its own, and counted apart (C5, S16). Other tests' sign-ins are not limited.
begin;
set local request.headers = '{"x-forwarded-for": "192.0.2.77"}';
set local anon_auth.forwarded_header = 'x-forwarded-for';
select auth.set_guest_provider('kiosk', rate_limit => 2) is not null as set, auth.set_guest_provider('free', rate_limit => 0) is not null as set;
select auth.set_setting('sign_in_rate_limit', '1');
select n, raised($$select auth.sign_in_anonymously(provider => 'kiosk')$$) from generate_series(1, 3) n;
select n, raised($$select auth.sign_in_anonymously(provider => 'free')$$) from generate_series(1, 3) n;
select n, raised($$select auth.sign_in_anonymously()$$) from generate_series(1, 2) n;
rollback;

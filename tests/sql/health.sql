-- auth.health: what monitoring asks (W9, W11).
\pset format unaligned
\pset footer off
create function health(variadic names text[]) returns table (name text, value bigint, unit text, status text)
language sql as $$
    select h.name, h.value, h.unit, h.status from unnest(names) with ordinality n(name, i) left join auth.health h using (name) order by n.i
$$;
create function guest(created interval, active interval default null) returns uuid
language sql as $$
    insert into auth.users (id, is_anonymous, created_at, last_active_on)
    values (gen_random_uuid(), true, clock_timestamp() - created, ((clock_timestamp() - active) at time zone 'UTC')::date)
    returning id
$$;

-- W9: all that there is, on a server of which nothing is known yet.
begin;
delete from auth.cleanup_runs;
delete from auth.audit_log_entries;
select name, case when name like '%_age' or name in ('free_worker_slots', 'refused_calls') then value >= 0 else value = 0 end as value, unit, status from auth.health;
select name, description from auth.health where description is null or description = '' or status not in ('ok', 'warning', 'critical');
rollback;

-- Clean-up: that it has run, what it has left to do, and what it had to leave.
begin;
delete from auth.cleanup_runs;
select * from health('cleanup_last_run', 'expired_guests', 'oldest_expired_guest', 'kept_guests');
select guest('1 day') is not null as made;
select * from health('cleanup_last_run');
select guest('91 days') as kept, guest('100 days', '95 days') is not null as expired, guest('95 days', '1 day') is not null as active \gset
insert into auth.device_keys (kid, user_id, public_key) values ('k', guest('99 days'), '{}');
create table orders (owner uuid references auth.users (id));
insert into orders values (:'kept');
select * from health('expired_guests', 'oldest_expired_guest', 'kept_guests');
select auth.set_setting('cleanup_unreachable_only', 'false');
select * from health('expired_guests', 'oldest_expired_guest');
select auth.set_setting('cleanup_unreachable_only', null);
select auth.cleanup_expired_users()->'deleted' as deleted;
select * from health('cleanup_last_run', 'expired_guests', 'oldest_expired_guest', 'kept_guests');
select description from auth.health where name = 'kept_guests';
select auth.set_setting('cleanup_spare_owners', 'true');
select * from health('kept_guests');
update auth.cleanup_runs set finished_at = clock_timestamp() - interval '25 hours';
select status from health('cleanup_last_run');
update auth.cleanup_runs set finished_at = clock_timestamp() - interval '8 days';
select status from health('cleanup_last_run');
-- Not more than it has to count.
insert into auth.users (id, is_anonymous, created_at) select gen_random_uuid(), true, now() - interval '92 days' from generate_series(1, 1500);
select * from health('expired_guests', 'oldest_expired_guest');
rollback;
begin;
insert into auth.sessions (id, user_id, created_at, refreshed_at) select gen_random_uuid(), guest('0'), now(), now() - d * interval '1 day' from generate_series(58, 64, 2) d;
insert into auth.session_revocations (session_id, reason, revoked_at) select gen_random_uuid(), 'test', now() - d * interval '1 day' from generate_series(0, 3) d;
select * from health('ended_sessions', 'revoked_sessions');
rollback;

-- Keys.
begin;
update auth.signing_keys set status_changed_at = now() - interval '366 days' where status = 'current';
select * from health('access_token_key_age', 'refresh_token_key_age', 'unsealed_keys', 'keys_without_key_file');
update auth.signing_keys set sealed = true where purpose = 'refresh_token';
select * from health('unsealed_keys', 'keys_without_key_file');
update auth.signing_keys set status = 'revoked';
select * from health('access_token_key_age', 'unsealed_keys', 'keys_without_key_file');
rollback;

-- Limits that were reached, and messages.
begin;
insert into auth.audit_log_entries (action, created_at) select 'attempt_limit_reached', now() - n * interval '1 hour' from generate_series(1, 30) n;
select * from health('attempt_limits_reached');
insert into auth.audit_log_entries (action) select 'attempt_limit_reached' from generate_series(1, 100) n;
select * from health('attempt_limits_reached');
insert into auth.messages (id, user_id, channel, recipient, purpose, status, secret, sealed, created_at, available_at, expires_at, finished_at)
select gen_random_uuid(), gen_random_uuid(), 'email', 'secret@example.com', 'email_change', status, case status when 'pending' then 's'::bytea end, false, now(), now() + available, now() + expires, case when status <> 'pending' then now() + available end
  from (values ('pending', interval '1 hour', interval '2 hours'), ('pending', '-1 minute', '1 hour'), ('pending', '-20 minutes', '-1 minute'), ('failed', '-1 hour', '1 hour'), ('failed', '-2 days', '-1 day'), ('sent', '-1 hour', '1 hour')) m(status, available, expires);
select name, value between 60 and 200 as value, unit, status from health('message_waiting');
select * from health('messages_failed');
update auth.messages set available_at = now() - interval '6 minutes' where status = 'pending';
select name, value between 360 and 600 as value, unit, status from health('message_waiting');
rollback;

-- Settings that take protection away, for whom.
begin;
create role "a login" login;
alter role "a login" set anon_auth.trust_request_claims = 'yes';
alter role plain_login set anon_auth.check_session = on;
alter role plain_login set anon_auth.switch_role = off;
select name, value, status, description from auth.health where name = 'weakened_settings';
rollback;

-- Who has rights that nobody should have.
begin;
create role prying;
grant anon_auth_owner to prying;
select name, value, status, description from auth.health where name = 'owner_role_members';
grant execute on function auth.import_signing_key(jsonb) to service_role;
grant execute on function auth.claim_messages(integer, interval, text) to prying;
select * from health('changed_objects');
grant select on auth.signing_keys to prying;
grant execute on function auth.set_setting(text, text) to public;
grant select on auth.outbox to authenticated;
select name, value, status, description from auth.health where name = 'changed_objects';
alter function auth.uid() owner to prying;
select * from health('changed_objects');
rollback;

-- W9, N14: for whoever is in pg_monitor and for administration; they see nothing else of it, and no user's data.
begin;
create role watcher in role pg_monitor;
set local role watcher;
select count(*) > 10 as checks, count(*) filter (where name = 'free_worker_slots' and value > 0) as slots from auth.health;
select raised('select * from auth.cleanup_runs'), raised('select * from auth.users');
set local role service_role;
select count(*) > 10 as checks, count(*) filter (where name = 'free_worker_slots' and value is null) as slots from auth.health;
set local role authenticated;
select raised('select * from auth.health'), raised('select auth.health_checks()'), raised('select * from auth.health_of_server()');
rollback;

-- N13: neither the caller's search_path nor a table that only looks like pg_cron's is believed.
begin;
create schema cron authorization plain_login;
create function cron.attack() returns boolean language plpgsql as $$ begin raise exception 'run as %', current_user; end $$;
create view cron.job as select cron.attack() as active, 'call auth.cleanup()'::text as command, current_database() as database;
create schema lies;
create function lies.attack(name, text) returns boolean language plpgsql as $$ begin raise exception 'run as %', current_user; end $$;
create operator lies.= (leftarg = name, rightarg = text, function = lies.attack);
create operator lies.<> (leftarg = name, rightarg = text, function = lies.attack);
set local search_path = lies, pg_catalog;
select count(*) > 10 as checks from auth.health;
set transaction read only;
select count(*) > 10 as checks from auth.health;
rollback;
begin transaction read only;
select count(*) > 10 as checks from auth.health;
select pg_current_xact_id_if_assigned() as no_transaction_id;
rollback;

drop function health, guest;

-- W9, S16: refused calls are counted, whatever becomes of the transaction.
select value as before from auth.health where name = 'refused_calls' \gset
begin;
set local request.headers = '{"x-forwarded-for": "192.0.2.99"}';
set local anon_auth.forwarded_header = 'x-forwarded-for';
select auth.set_setting('sign_in_rate_limit', '1');
select count(*) filter (where raised('select auth.sign_in_anonymously()') like 'PT429 over_request_rate_limit%') as refused from generate_series(1, 4);
rollback;
select value - :before as counted from auth.health where name = 'refused_calls';

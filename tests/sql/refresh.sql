-- Refresh with rotation, and the ends of a session (S6, R3, A4, N12, N19, N23).
\pset format unaligned
set timezone = 'UTC';

-- S6: a refresh returns a session of the same guest and replaces the refresh token.
begin;
select * from session(auth.sign_in_anonymously('{"name": "Ada"}')) \gset ada_
select auth.refresh_session(:'ada_refresh') as answer \gset
select * from session(:'answer') \gset next_
select :'next_id' = :'ada_id' as same_guest, :'next_session' = :'ada_session' as same_session,
       :'next_refresh' <> :'ada_refresh' as rotated, :'next_token' <> :'ada_token' as new_access_token;
select string_agg(key, ' ' order by key collate "C") as keys from jsonb_object_keys(:'answer'::jsonb) key;
select :'answer'::jsonb->'user'->'user_metadata' as user_metadata, :'answer'::jsonb->'user'->'is_anonymous' as is_anonymous;
select count(*) as sessions, max(refresh_token_counter) as refreshed from auth.sessions;
-- The access token from before stays good until it expires.
select raised('select auth.verify_token($1)', :'ada_token') as old_access_token, raised('select auth.verify_token($1)', :'next_token') as new_one;
rollback;

-- S6: in anon's hands, and in an application's: no privilege is needed but the token.
begin;
set local session authorization plain_login;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.refresh_session(:'ada_refresh') is not null as refreshed;
rollback;

-- S6: inside the reuse interval the replaced token gets the current one, however often it is asked for.
begin;
select * from session(auth.sign_in_anonymously()) \gset first_
select * from session(auth.refresh_session(:'first_refresh')) \gset second_
select * from session(auth.refresh_session(:'first_refresh')) \gset again_
select :'again_refresh' = :'second_refresh' as current_one, refresh_token_counter as rotations from auth.sessions;
select * from session(auth.refresh_session(:'second_refresh')) \gset third_
-- The one before the last, too.
select (session(auth.refresh_session(:'first_refresh'))).refresh = :'third_refresh' as of_first,
       (session(auth.refresh_session(:'second_refresh'))).refresh = :'third_refresh' as of_second;
select refresh_token_counter as rotations from auth.sessions;
rollback;

-- S6: later, it ends the whole session, and that stays so although the call fails or is rolled back.
begin;
select auth.set_setting('refresh_token_reuse_interval', '0');
select * from session(auth.sign_in_anonymously()) \gset first_
select * from session(auth.refresh_session(:'first_refresh')) \gset second_
savepoint before;
select raised('select auth.refresh_session($1)', :'first_refresh') as old_token;
rollback to before;
select raised('select auth.refresh_session($1)', :'second_refresh') as current_token;
select raised('select auth.verify_token($1)', :'second_token') as access_token;
select raised('select auth.authenticate($1)', :'first_token') as access_token;
select auth.set_setting('sign_in_mode', 'reuse');
select raised('select auth.sign_in_anonymously(refresh_token => $1)', :'second_refresh') as sign_in;
rollback;
-- It is in the audit log, without a token.
select count(*) as revocations, min(reason) as reason from auth.session_revocations;
select action, user_id = :'first_id' as user_id, payload->>'session_id' = :'first_session' as session_id, payload - 'session_id' as payload
  from auth.audit_log_entries;
-- They were written in a transaction of their own.
delete from auth.session_revocations;
delete from auth.audit_log_entries;

-- S6, N23: at once is inside the interval, a second later is not; that it is all one transaction, whose now() stands
-- still, does not matter.
begin;
select auth.set_setting('refresh_token_reuse_interval', '1 second');
select * from session(auth.sign_in_anonymously()) \gset first_
select * from session(auth.refresh_session(:'first_refresh')) \gset second_
select (session(auth.refresh_session(:'first_refresh'))).refresh = :'second_refresh' as at_once;
select pg_sleep(1.1);
select raised('select auth.refresh_session($1)', :'first_refresh') as later;
rollback;
delete from auth.session_revocations;
delete from auth.audit_log_entries;

-- R3: a guest lives until 60 days have gone by without a refresh.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
update auth.sessions set refreshed_at = clock_timestamp() - interval '60 days' + interval '1 minute';
select raised('select auth.verify_token($1)', :'ada_token') as "a minute before";
savepoint s;
update auth.sessions set refreshed_at = clock_timestamp() - interval '60 days';
select raised('select auth.refresh_session($1)', :'ada_refresh') as refresh;
select raised('select auth.verify_token($1)', :'ada_token') as access_token;
select set_config('anon_auth.access_token', :'ada_token', true) is not null as set, auth.uid() is null as nobody;
select raised('select auth.get_user()') as get_user;
rollback to s;
-- A refresh starts the 60 days again.
select * from session(auth.refresh_session(:'ada_refresh')) \gset next_
select clock_timestamp() - refreshed_at < interval '1 minute' as refreshed_now from auth.sessions;
select raised('select auth.refresh_session($1)', :'next_refresh') as alive;
rollback;

-- A4: the idle timeout is a setting.
begin;
select auth.set_setting('session_idle_timeout', '1 hour');
select * from session(auth.sign_in_anonymously()) \gset ada_
update auth.sessions set refreshed_at = clock_timestamp() - interval '59 minutes';
select raised('select auth.refresh_session($1)', :'ada_refresh') as "59 minutes";
update auth.sessions set refreshed_at = clock_timestamp() - interval '61 minutes';
select raised('select auth.refresh_session($1)', (session(auth.sign_in_anonymously())).refresh) as another_session;
select raised('select auth.refresh_session($1)', :'ada_refresh') as "61 minutes";
-- It counts for sessions that are there, both ways.
select auth.set_setting('session_idle_timeout', '2 hours');
select raised('select auth.refresh_session($1)', :'ada_refresh') as "of 2 hours";
rollback;

-- R3, A4: the total lifetime is off by default; on, no refresh prolongs it.
begin;
select auth.setting('session_lifetime');
select * from session(auth.sign_in_anonymously()) \gset ada_
update auth.sessions set created_at = clock_timestamp() - interval '10 years';
select * from session(auth.refresh_session(:'ada_refresh')) \gset next_
select auth.set_setting('session_lifetime', '30 days');
select raised('select auth.refresh_session($1)', :'next_refresh') as refresh;
select raised('select auth.verify_token($1)', :'next_token') as access_token;
update auth.sessions set created_at = clock_timestamp() - interval '30 days' + interval '1 minute';
select * from session(auth.refresh_session(:'next_refresh')) \gset last_
update auth.sessions set created_at = clock_timestamp() - interval '30 days';
select raised('select auth.refresh_session($1)', :'last_refresh') as refresh;
rollback;

-- N23: an old transaction keeps no session alive: limits are compared with the clock, not with now().
begin;
select auth.set_setting('session_idle_timeout', '1 second');
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') is not null as authenticated;
reset role;
select pg_sleep(1.1);
select auth.uid() is null as nobody, raised('select auth.refresh_session($1)', :'ada_refresh') as refresh;
rollback;

-- R3: what is left of a session says why it cannot go on.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
savepoint s;
update auth.users set banned_until = clock_timestamp() + interval '1 day';
select raised('select auth.refresh_session($1)', :'ada_refresh') as banned;
rollback to s;
delete from auth.users;
select raised('select auth.refresh_session($1)', :'ada_refresh') as deleted;
rollback to s;
delete from auth.sessions;
select raised('select auth.refresh_session($1)', :'ada_refresh') as signed_out;
rollback;

-- What is no refresh token of ours.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select raised('select auth.refresh_session($1)', null) as "null";
select raised('select auth.refresh_session($1)', '') as empty;
select raised('select auth.refresh_session($1)', 'x') as "1 byte";
select raised('select auth.refresh_session($1)', repeat('A', 119)) as right_length;
select raised('select auth.refresh_session($1)', repeat('A', 1024 * 1024)) as "1 MiB";
select raised('select auth.refresh_session($1)', :'ada_token') as access_token;
select raised('select auth.refresh_session($1)', :'ada_refresh' || ' ') as with_a_blank;
select raised('select auth.refresh_session($1)', :'ada_refresh' || '=') as padded;
-- One character changed, at every position in turn.
select raised, count(*)
  from generate_series(1, length(:'ada_refresh')) n,
       raised('select auth.refresh_session($1)',
              overlay(:'ada_refresh' placing case substr(:'ada_refresh', n, 1) when 'A' then 'B' else 'A' end from n for 1))
 group by raised;
select raised('select auth.refresh_session($1)', :'ada_refresh') as itself;
rollback;
select count(*) as revocations from auth.session_revocations;

-- N19: rotations that were rolled back leave no token behind that is, or becomes, valid.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
savepoint s;
select * from session(auth.refresh_session(:'ada_refresh')) \gset one_
select * from session(auth.refresh_session(:'one_refresh')) \gset two_
select * from session(auth.refresh_session(:'two_refresh')) \gset three_
rollback to s;
select raised('select auth.refresh_session($1)', :'one_refresh') as one, raised('select auth.refresh_session($1)', :'three_refresh') as three;
select raised('select auth.verify_token($1)', :'one_token') as access_token;
-- The true token goes on. The counter passes those of the lost ones: still none of them is good, and none is
-- taken for the one that replaced a true one.
select * from session(auth.refresh_session(:'ada_refresh')) \gset next_
select raised('select auth.refresh_session($1)', :'one_refresh') as one, raised('select auth.refresh_session($1)', :'two_refresh') as two;
select raised('select auth.verify_token($1)', :'one_token') as one, raised('select auth.verify_token($1)', :'two_token') as two;
select raised('select auth.verify_token($1)', :'ada_token') as before, raised('select auth.verify_token($1)', :'next_token') as after;
select raised('select auth.refresh_session($1)', :'next_refresh') as true_one;
rollback;

-- N14: what is stored of a refresh token makes none: it is a counter and a random number, and the key is elsewhere.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select position(refresh_token_nonce in from_base64url(:'ada_refresh')) > 0 as nonce_is_part_of_it,
       octet_length(refresh_token_nonce) as nonce, octet_length(from_base64url(:'ada_refresh')) as token
  from auth.sessions;
select count(*) as stored_whole
  from auth.sessions s, auth.users u
 where s::text like '%' || :'ada_refresh' || '%' or u::text like '%' || :'ada_refresh' || '%'
    or s::text like '%' || encode(from_base64url(:'ada_refresh'), 'hex') || '%';
rollback;

-- W8: activity is noted once a day, in the user's row; otherwise a refresh touches the session's row alone.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select last_active_on is null as created_today from auth.users;
select * from session(auth.refresh_session(:'ada_refresh')) \gset next_
select last_active_on is null as still_unset, updated_at = created_at as untouched from auth.users;
update auth.users set created_at = created_at - interval '3 days', updated_at = updated_at - interval '3 days', cleanup_blocked_at = now();
select * from session(auth.refresh_session(:'next_refresh')) \gset last_
select last_active_on = (clock_timestamp() at time zone 'UTC')::date as noted, cleanup_blocked_at is null as not_blocked_any_more,
       last_sign_in_at < clock_timestamp() as last_sign_in_at_kept
  from auth.users;
select ctid as before from auth.users \gset
select auth.refresh_session(:'last_refresh') is not null as refreshed;
select ctid = :'before' as user_row_untouched from auth.users;
rollback;

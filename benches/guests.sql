-- Guests of up to 200 days, all of them active within the last 50: nothing has expired. `guests` says how many.

create extension anon_auth;
-- The rows are right; checking every one of a million would only take time.
set session_replication_role = replica;
insert into auth.users (id, is_anonymous, created_at, last_active_on)
select ('00000000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid, true, now() - interval '200 days' * random(),
       current_date - (i % 50)
  from generate_series(1, :guests) i;
insert into auth.sessions (id, user_id, created_at, refreshed_at)
select u.id, u.id, u.created_at, u.last_active_on from auth.users u;
vacuum (freeze, analyze);

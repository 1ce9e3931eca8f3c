-- :guests who signed in over the last :days days and did nothing since, in the order of time, as sign-in makes them.

-- Indexes come after the rows: that takes less time and gives the same.
create temporary table indexes as
select coalesce('alter table ' || i.indrelid::regclass || ' drop constraint ' || c.conname,
                'drop index ' || i.indexrelid::regclass) as remove,
       coalesce('alter table ' || i.indrelid::regclass || ' add constraint ' || c.conname || ' ' || pg_get_constraintdef(c.oid),
                pg_get_indexdef(i.indexrelid)) as restore
  from pg_index i left join pg_constraint c on c.conindid = i.indexrelid
 where i.indrelid in ('auth.users'::regclass, 'auth.sessions'::regclass);
select remove from indexes \gexec

-- The rows are right; checking every one of millions would only take time.
set session_replication_role = replica;
set maintenance_work_mem = '512MB';
insert into auth.users (id, is_anonymous, created_at, updated_at, last_sign_in_at)
select (lpad(to_hex((date_part('epoch', t) * 1000)::bigint), 12, '0') || substr(gen_random_uuid()::text, 14))::uuid, true, t, t, t
  from (select now() - interval '1 day' * :days * (1 - i / :guests::float8) as t from generate_series(1, :guests) i) times;
insert into auth.sessions (id, user_id, created_at, refreshed_at, refresh_token_nonce)
select (left(id::text, 14) || substr(gen_random_uuid()::text, 15))::uuid, id, created_at, created_at, uuid_send(gen_random_uuid())
  from auth.users where created_at < now();
select restore from indexes \gexec

-- auth.stats: what became of guests, by day (W9). Days are shown as days from today (UTC), -1 being yesterday; what the
-- tests want added up lies two days back, since a day is added up an hour after it is over.
\pset format unaligned
\pset footer off
create function user_of(day int, is_anonymous boolean default true) returns uuid
language sql as $$
    insert into auth.users (id, is_anonymous, created_at)
    values (gen_random_uuid(), is_anonymous, ((clock_timestamp() at time zone 'UTC')::date + day)::timestamp at time zone 'UTC' + interval '23 hours 59 minutes')
    returning id
$$;
-- Days are added up once a minute at the most, so as if that had passed.
create function clean_up() returns jsonb
language sql as $$
    delete from auth.cleanup_runs;
    select auth.cleanup_expired_users()
$$;
create function today() returns date language sql as $$ select (clock_timestamp() at time zone 'UTC')::date $$;
-- Only what is not 0.
create function stats() returns table (day int, is_closed boolean, counts jsonb) language sql as $$
    select s.day - today(), s.is_closed,
           (select jsonb_object_agg(key, value) from jsonb_each(to_jsonb(s) - 'day' - 'is_closed') where value <> '0')
      from auth.stats s order by s.day
$$;
-- What other files left.
delete from auth.users;
delete from auth.daily_stats;
delete from auth.stat_changes;
select * from stats();

-- W9: every way that a guest can go. A sign-in writes nothing but its two rows.
begin;
create temporary table written as select pg_stat_get_xact_tuples_inserted('auth.stat_changes'::regclass) as before;
select * from session(auth.sign_in_anonymously()) \gset stays_
select * from session(auth.sign_in_anonymously()) \gset promoted_
select * from session(auth.sign_in_anonymously()) \gset merged_
select * from session(auth.sign_in_anonymously()) \gset leaves_
select * from session(auth.sign_in_anonymously()) \gset deleted_
select pg_stat_get_xact_tuples_inserted('auth.stat_changes'::regclass) - before as written from written;
select * from stats();
-- Permanent from the start.
insert into auth.users (id, is_anonymous) values (gen_random_uuid(), false);
update auth.users set is_anonymous = false, email = 'ada@example.com', email_confirmed_at = now() where id = :'promoted_id';
select auth.authenticate(:'promoted_token') = :'promoted_id' as promoted;
select auth.merge_anonymous_user(:'merged_token', dry_run => true)->>'guest_deleted' as would_merge;
select auth.merge_anonymous_user(:'merged_token')->>'guest_deleted' as merged;
reset role;
select auth.authenticate(:'leaves_token') = :'leaves_id' as leaves;
select auth.delete_user();
reset role;
delete from auth.users where id = :'deleted_id';
select * from stats();
-- A merge that keeps the guest deletes nobody.
select auth.set_setting('merge_keep_guests', 'true');
select * from session(auth.sign_in_anonymously()) \gset kept_
select auth.authenticate(:'promoted_token') = :'promoted_id' as promoted;
select auth.merge_anonymous_user(:'kept_token')->>'guest_deleted' as merged;
reset role;
select counts->'guests_merged' as merged, counts->'guests_deleted' as deleted from stats();
rollback;

-- W9: clean-up adds up days that are over, once; from then on they stay, whoever goes. Days without anything have no row.
begin;
select user_of(-2) as two, user_of(-5) as five, user_of(-5) as second_of_five, user_of(-5, false) as permanent, user_of(-95) as old \gset
insert into auth.stat_changes (day, guests_promoted) values (today() - 5, 3);
create temporary table before as select * from auth.stats;
select * from stats();
select clean_up()->'deleted' as expired;
-- Nothing else has changed but the one that has expired.
select * from stats();
select count(*) as changes_left from auth.stat_changes where day < today();
select clean_up()->'deleted' as expired;
delete from auth.users where id in (:'two', :'five', :'permanent');
update auth.users set is_anonymous = false where id = :'second_of_five';
select * from stats();
select clean_up()->'deleted' as expired;
select * from stats();
-- An import of users into days that are closed changes nothing; nor does a day in the future.
select user_of(-3) is not null as imported, user_of(3) is not null as future;
select clean_up()->'deleted' as expired;
select * from stats() where day > -5;
rollback;

-- W9: days are added up exactly, also when clean-up did not run for days: what happened to users meanwhile is known.
begin;
select user_of(-4) as comes_back, user_of(-4) as promoted, user_of(-4) as gone, user_of(-4) as stays, user_of(-4, false) as permanent \gset
update auth.users set last_active_on = today() - 3 where id = :'comes_back';
update auth.users set last_active_on = today() - 2 where id = :'comes_back';
update auth.users set updated_at = now() where id = :'comes_back';
update auth.users set last_active_on = today() - 2, is_anonymous = false where id = :'promoted';
delete from auth.users where id in (:'gone', :'permanent');
select * from stats();
create temporary table open_days as select * from auth.stats;
select clean_up()->'deleted' as expired;
select day - today() as day, to_jsonb(s) - 'is_closed' = to_jsonb(o) - 'is_closed' as same, s.is_closed from auth.stats s full join open_days o using (day) order by 1;
-- A change that commits after its day was added up: what happened counts; users were counted as they were then.
insert into auth.stat_changes (day, guests_promoted, guests_created, guests_active) values (today() - 4, 5, 7, 7);
select * from stats() where day < 0;
select clean_up()->'deleted' as expired;
select * from stats() where day < 0;
select count(*) as changes_left from auth.stat_changes where day < today();
-- Not at every batch.
insert into auth.stat_changes (day) values (today() - 3);
select auth.cleanup_expired_users()->'deleted' as expired;
select count(*) as changes_left from auth.stat_changes where day < today();
rollback;

-- W9: a guest that clean-up has to leave is active on the day that it was, once.
begin;
create table kept (owner uuid references auth.users (id));
select auth.set_setting('cleanup_age', '1 day'), auth.set_setting('cleanup_inactivity', '1 day'), auth.set_setting('cleanup_unreachable_only', 'false');
insert into auth.daily_stats (day) values (today() - 6);
insert into kept select user_of(-5);
savepoint before;
-- Closed only after it was left.
update auth.users set cleanup_blocked_at = now();
select * from stats() where day < 0;
update auth.users set cleanup_blocked_at = null;
select * from stats() where day < 0;
update auth.users set cleanup_blocked_at = now();
update auth.users set cleanup_blocked_at = null, last_active_on = today() - 3;
select * from stats() where day < 0;
rollback to before;
select clean_up()->'blocked' as blocked;
select * from stats() where day < 0;
rollback;

-- What a transaction with an old snapshot, or a dry run, does not see it does not add up.
begin isolation level repeatable read;
select user_of(-4) is not null as made;
select clean_up()->'deleted' as expired;
select * from stats();
rollback;
begin;
select user_of(-100) is not null as made;
select auth.cleanup_expired_users(dry_run => true)->'deleted' as would_expire;
select * from stats();
rollback;
-- Times that are none.
begin;
insert into auth.users (id, is_anonymous, created_at) values (gen_random_uuid(), true, '-infinity'), (gen_random_uuid(), true, 'infinity'), (gen_random_uuid(), true, '0100-01-01 BC');
select clean_up()->'deleted' > '0' as expired;
select count(*) as rows from auth.daily_stats;
select count(*) > 0 as shown from auth.stats;
rollback;

-- W9, N10: for monitoring and administration, who see numbers and nothing else.
begin;
create role watcher in role pg_monitor;
select user_of(-2) is not null as made;
set local role watcher;
select count(*) as days from auth.stats;
select raised('select * from auth.daily_stats'), raised('select * from auth.stat_changes'), raised('select * from auth.open_days');
set local role service_role;
select count(*) as days from auth.stats;
set local role authenticated;
select raised('select * from auth.stats');
rollback;

drop function stats;
drop function user_of, today, clean_up;
delete from auth.stat_changes;

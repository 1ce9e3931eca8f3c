-- Expired guests go (R4, R5, S18, W8, W12, C8), with expired sessions, one-time tokens and old audit entries.
\pset format unaligned
set timezone = 'UTC';

-- A guest who signed in and was last active so long ago.
create function guest(name text, created interval, active interval default null) returns uuid
language plpgsql as $$
declare
    ada record;
begin
    select * into ada from session(auth.sign_in_anonymously(jsonb_build_object('name', name)));
    update auth.users set created_at = clock_timestamp() - created, last_active_on = (clock_timestamp() - active)::date where id = ada.id;
    update auth.sessions set created_at = clock_timestamp() - created, refreshed_at = clock_timestamp() - coalesce(active, created) where user_id = ada.id;
    return ada.id;
end
$$;
-- What a batch says it did.
create function did(answer jsonb, out deleted int, out spared int, out blocked int, out sessions int, out one_time_tokens int, out audit_log_entries int, out more boolean)
language sql as $$
    select d.* from jsonb_to_record(answer) d(deleted int, spared int, blocked int, sessions int, one_time_tokens int, audit_log_entries int, more boolean)
$$;
create view left_over as select string_agg(raw_user_meta_data->>'name', ', ' order by raw_user_meta_data->>'name') as guests from auth.users;

-- R4: by default a guest goes 90 days after it was created, if it was not active for 90 days either and has no
-- session, device key or code left to come back with.
begin;
select guest('new', '0'), guest('created 89 days ago', '89 days'), guest('created 91 days ago', '91 days'),
       guest('active 89 days ago', '200 days', '89 days'), guest('active 91 days ago', '200 days', '91 days'), guest('active today', '10 years', '0'),
       guest('signed out', '91 days') as signed_out, guest('with device key', '91 days') as device, guest('with code', '91 days') as code,
       guest('with old code', '91 days') as old_code, guest('permanent', '10 years') as permanent, guest('permanent, old name', '10 years', '9 years') as permanent2 \gset
delete from auth.sessions where user_id = :'signed_out';
insert into auth.device_keys (kid, user_id, public_key) values ('k', :'device', '{}');
insert into auth.one_time_tokens (id, user_id, token_type, token_hash, relates_to, expires_at)
values (gen_random_uuid(), :'code', 'transfer_code', 'a', '', clock_timestamp() + interval '1 minute'), (gen_random_uuid(), :'old_code', 'transfer_code', 'b', '', clock_timestamp());
update auth.users set is_anonymous = false where id in (:'permanent', :'permanent2');
select * from did(auth.cleanup_expired_users());
select * from left_over;
-- Deletion is final: nothing of them is left but the audit entry.
select count(*) as sessions from auth.sessions s where not exists (select from auth.users u where u.id = s.user_id);
select action, user_id, payload->'deleted' as deleted from auth.audit_log_entries;
select * from did(auth.cleanup_expired_users());
rollback;

-- R4: age, inactivity and reachability are separate limits.
begin;
select guest('a: 10 days, active 8 days ago', '10 days', '8 days'), guest('b: 10 days, active 1 day ago', '10 days', '1 day'), guest('c: 5 days, never since', '5 days') \gset
select auth.cleanup_expired_users()->'deleted' as by_default;
select auth.set_setting('cleanup_age', '7 days');
select auth.cleanup_expired_users()->'deleted' as by_age;
select auth.set_setting('cleanup_inactivity', '6 days');
-- Their sessions are live for 60 days.
select auth.cleanup_expired_users()->'deleted' as reachable;
savepoint s;
select auth.set_setting('cleanup_unreachable_only', 'false');
select auth.cleanup_expired_users()->'deleted' as reachable_or_not;
select * from left_over;
rollback to s;
-- With a shorter idle timeout they cannot come back.
select auth.set_setting('session_idle_timeout', '6 days');
select auth.cleanup_expired_users()->'deleted' as unreachable;
select * from left_over;
rollback to s;
-- Nor when a session's total lifetime is over.
select auth.set_setting('session_lifetime', '6 days');
select auth.cleanup_expired_users()->'deleted' as unreachable;
select * from left_over;
rollback to s;
-- Age alone.
select auth.set_setting('cleanup_inactivity', '0'), auth.set_setting('cleanup_unreachable_only', 'off'), auth.set_setting('cleanup_age', '4 days');
select auth.cleanup_expired_users()->'deleted' as all_of_them;
rollback;

-- R4: a guest without a session can be over before the idle timeout of sessions; but a revoked session is none.
begin;
select guest('revoked', '61 days') as revoked \gset
select auth.set_setting('cleanup_age', '1 day'), auth.set_setting('cleanup_inactivity', '1 day');
update auth.sessions set refreshed_at = clock_timestamp() where user_id = :'revoked';
select auth.cleanup_expired_users()->'deleted' as live;
insert into auth.session_revocations (session_id, reason) select id, 'test' from auth.sessions;
select * from did(auth.cleanup_expired_users());
-- What is known of its revocation stays a day, for a session that is not committed yet.
select count(*) as revocations from auth.session_revocations;
update auth.session_revocations set revoked_at = clock_timestamp() - interval '25 hours';
select auth.cleanup_expired_users()->'deleted' as deleted;
select count(*) as revocations from auth.session_revocations;
rollback;

-- N12, R4: no token of a guest who went brings it back.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
update auth.users set created_at = clock_timestamp() - interval '100 days';
update auth.sessions set refreshed_at = clock_timestamp() - interval '100 days';
select auth.cleanup_expired_users()->'deleted' as deleted;
select raised('select auth.authenticate($1)', :'ada_token'), raised('select auth.refresh_session($1)', :'ada_refresh');
rollback;

-- R5: what happens to rows in application tables, their foreign keys say; rows without a key stay.
begin;
create table no_key (owner uuid);
create table cascading (owner uuid references auth.users (id) on delete cascade);
create table set_null (owner uuid references auth.users (id) on delete set null);
create table set_default (owner uuid default null references auth.users (id) on delete set default);
select guest('old', '91 days') as old, guest('new', '0') as new \gset
insert into no_key values (:'old'), (:'new');
insert into cascading values (:'old'), (:'new');
insert into set_null values (:'old'), (:'new');
insert into set_default values (:'old'), (:'new');
select * from did(auth.cleanup_expired_users());
select 'no_key' as "table", count(*), count(owner) as owned from no_key union all
select 'cascading', count(*), count(owner) from cascading union all
select 'set_null', count(*), count(owner) from set_null union all
select 'set_default', count(*), count(owner) from set_default order by 1;
rollback;

-- R5: a key that forbids the deletion, a deferred one too, skips that guest and is reported by table; the others go.
begin;
create schema shop;
create table shop.orders (owner uuid references auth.users (id));
create table shop.bills (owner uuid references auth.users (id) on delete restrict);
create table shop."Late Bills" (payer uuid constraint "pays later" references auth.users (id) deferrable initially deferred);
create table shop.carts (owner uuid references auth.users (id) on delete cascade);
select guest('has order', '91 days') as a, guest('has bill', '91 days') as b, guest('has late bill', '91 days') as c,
       guest('has order and bill', '91 days') as d, guest('has cart', '91 days') as e, guest('has nothing', '91 days') as f \gset
insert into shop.orders values (:'a'), (:'d'), (:'d');
insert into shop.bills values (:'b'), (:'d');
insert into shop."Late Bills" values (:'c');
insert into shop.carts values (:'a'), (:'e');
select * from did(auth.cleanup_expired_users());
select why from jsonb_array_elements(auth.cleanup_expired_users(dry_run => true)->'by_table') why order by why->>'table';
select * from left_over;
-- Those who are left keep everything.
select count(*) as carts from shop.carts;
-- Once nothing keeps them, they go.
delete from shop.orders;
truncate shop."Late Bills";
select * from did(auth.cleanup_expired_users());
select * from left_over;
rollback;

-- R5: a blocked guest never starves those behind it: one at a time, oldest first, all others go.
begin;
create table orders (owner uuid references auth.users (id));
select guest('1: blocked', '99 days') as a, guest('2: blocked', '98 days') as b, guest('3', '97 days'), guest('4', '96 days') \gset
insert into orders values (:'a'), (:'b');
create table batches (n serial, did jsonb);
do $$
declare
    did jsonb;
begin
    loop
        did := auth.cleanup_expired_users(1, recheck_after => (did->>'recheck_after')::uuid);
        insert into batches (did) values (did);
        exit when not (did->>'more')::boolean or (select count(*) from batches) > 20;
    end loop;
end
$$;
select sum((did->>'deleted')::int) as deleted, sum((did->>'blocked')::int) >= 2 as blocked_reported, count(*) < 20 as came_to_an_end from batches;
select * from left_over;
select count(*) as marked from auth.users where cleanup_blocked_at is not null;
rollback;

-- W8: a guest with a device key or a code is stepped over once, not in every batch; later runs look at it after the others.
begin;
select guest('1: device key', '99 days') as a, guest('2: code', '98 days') as b, guest('3', '97 days'), guest('4', '96 days') \gset
insert into auth.device_keys (kid, user_id, public_key) values ('k', :'a', '{}');
insert into auth.one_time_tokens (id, user_id, token_type, token_hash, relates_to, expires_at)
values (gen_random_uuid(), :'b', 'transfer_code', 'a', '', clock_timestamp() + interval '1 hour');
select * from did(auth.cleanup_expired_users(2));
select raw_user_meta_data->>'name' as stepped_over from auth.users where cleanup_blocked_at is not null order by 1;
select * from did(auth.cleanup_expired_users(2));
select * from left_over;
select * from did(auth.cleanup_expired_users());
-- Who is left is not reported as blocked, and goes when the key or the code does.
delete from auth.device_keys;
select auth.cleanup_expired_users()->'deleted' as deleted;
update auth.one_time_tokens set expires_at = clock_timestamp();
select auth.cleanup_expired_users()->'deleted' as deleted;
select * from left_over;
rollback;

-- W8: a guest whose session is live is not lost, even if its last day of activity was never noted.
begin;
select guest('day not noted', '99 days') as a, guest('other', '98 days') \gset
update auth.sessions set refreshed_at = clock_timestamp() where user_id = :'a';
select * from did(auth.cleanup_expired_users());
select * from left_over;
rollback;

-- R4: whatever the extension has of a guest goes with it, and nothing of anybody else's.
begin;
select guest('old', '91 days') as old, guest('new', '0') as new \gset
insert into auth.identities (user_id, provider, provider_id) values (:'old', 'x', 'old'), (:'new', 'x', 'new');
insert into auth.one_time_tokens (id, user_id, token_type, token_hash, relates_to, expires_at)
values (gen_random_uuid(), :'old', 'email_change', 'a', '', clock_timestamp() - interval '1 hour');
insert into auth.messages (id, user_id, channel, recipient, purpose, status, sealed, created_at, available_at, expires_at, finished_at)
select gen_random_uuid(), id, 'email', 'a@example.com', 'email_change', 'sent', false, now(), now(), now(), now() from auth.users;
select auth.set_setting('cleanup_unreachable_only', 'false');
insert into auth.device_keys (kid, user_id, public_key) values ('old', :'old', '{}'), ('new', :'new', '{}');
select * from did(auth.cleanup_expired_users(1));
select count(*) as users, (select string_agg(provider_id, ', ') from auth.identities) as identities, (select count(*) from auth.sessions) as sessions,
       (select count(*) from auth.one_time_tokens) as codes, (select string_agg(kid, ', ') from auth.device_keys) as device_keys,
       (select count(*) from auth.messages) as messages
  from auth.users;
rollback;

-- R5: an application's trigger that refuses blocks its guest only, and is reported; in the batch the others go.
begin;
create table notes (owner uuid references auth.users (id) on delete cascade, locked boolean);
create function refuse() returns trigger language plpgsql as $$ begin if old.locked then raise exception 'this note is locked'; end if; return old; end $$;
create trigger refuse before delete on notes for each row execute function refuse();
select guest('locked', '91 days') as a, guest('unlocked', '91 days') as b, guest('other', '91 days') as c \gset
insert into notes values (:'a', true), (:'b', false);
select auth.cleanup_expired_users() as answer \gset
select * from did(:'answer');
select :'answer'::jsonb->'by_table' as why;
select * from left_over;
select count(*) as notes from notes;
rollback;
-- The same with a constraint trigger that would only fire at commit.
begin;
create table notes (owner uuid references auth.users (id) on delete cascade);
create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
create constraint trigger refuse after delete on notes deferrable initially deferred for each row execute function refuse();
select guest('refused', '91 days') as a, guest('other', '91 days') as b \gset
insert into notes values (:'a');
select auth.cleanup_expired_users() as answer \gset
select * from did(:'answer');
select :'answer'::jsonb->'by_table' as why;
select * from left_over;
commit;
select * from left_over;
drop table notes;
drop function refuse;
delete from auth.users;
delete from auth.audit_log_entries;

-- W12: clean-up can spare guests who own rows, whatever their key's delete action; it says how many, by which table.
begin;
create table carts (owner uuid references auth.users (id) on delete cascade);
create table visits (owner uuid references auth.users (id) on delete set null);
create table orders (owner uuid references auth.users (id));
select guest('has cart', '91 days') as a, guest('has visits', '91 days') as b, guest('has order', '91 days') as c,
       guest('has cart and visits', '91 days') as d, guest('has nothing', '91 days') as e \gset
insert into carts values (:'a'), (:'d');
insert into visits values (:'b'), (:'b'), (:'d');
insert into orders values (:'c');
select auth.set_setting('cleanup_spare_owners', 'true');
select * from did(auth.cleanup_expired_users(dry_run => true));
select auth.cleanup_expired_users() as answer \gset
select * from did(:'answer');
select why from jsonb_array_elements(:'answer'::jsonb->'by_table') why order by why->>'table';
select * from left_over;
select count(*) as carts, (select count(owner) from visits) as visits from carts;
-- Without the setting, the cascading keys count.
select auth.set_setting('cleanup_spare_owners', 'false');
select * from did(auth.cleanup_expired_users());
select * from left_over;
rollback;

-- W12: a dry run does all of it and changes nothing.
begin;
create table carts (owner uuid references auth.users (id) on delete cascade);
create table orders (owner uuid references auth.users (id));
select guest('has cart', '91 days') as a, guest('has order', '91 days') as b, guest('has nothing', '91 days') as c \gset
insert into carts values (:'a');
insert into orders values (:'b');
insert into auth.audit_log_entries (action, created_at) values ('test', now() - interval '91 days');
create table before as select u.*, u.ctid as place from auth.users u;
select auth.cleanup_expired_users(null, true) as dry_run \gset
select * from did(:'dry_run');
select :'dry_run'::jsonb->'by_table' as why;
select count(*) as unchanged from before b join auth.users u on u.ctid = b.place and u.id = b.id and u.cleanup_blocked_at is null;
select count(*) as sessions, (select count(*) from carts) as carts, (select count(*) from auth.audit_log_entries) as audit from auth.sessions;
select auth.cleanup_expired_users(null) - 'recheck_after' = :'dry_run'::jsonb - 'recheck_after' as does_what_it_said;
rollback;

-- S18: the statement of Supabase's documentation, unchanged, as the owner.
begin;
select guest('31 days', '31 days'), guest('29 days', '29 days'), guest('permanent', '31 days') as permanent \gset
update auth.users set is_anonymous = false where id = :'permanent';
set local role anon_auth_owner;
delete from auth.users where is_anonymous is true and created_at < now() - interval '30 days';
reset role;
select * from left_over;
select count(*) as sessions from auth.sessions;
rollback;

-- S18, W8: it is fast: an index finds the guests, in both spellings; and one finds what auth.cleanup() looks for.
create function scans(statement text) returns text
language plpgsql as $$
declare
    plan json;
begin
    execute 'explain (format json) ' || statement into plan;
    return (select string_agg(coalesce(scan[1], scan[2]), ' ') from regexp_matches(plan::text, '"Index Name": "([^"]*)"|"(Seq Scan)"', 'g') scan);
end
$$;
begin;
insert into auth.users (id, is_anonymous, created_at)
select gen_random_uuid(), n % 10 < 8, now() - n * interval '1 minute' from generate_series(1, 100000) n;
insert into auth.sessions (id, user_id) select gen_random_uuid(), id from auth.users limit 10000;
analyze auth.users, auth.sessions;
select scans('delete from auth.users where is_anonymous is true and created_at < now() - interval ''69 days''');
select scans('delete from auth.users where is_anonymous and created_at < now() - interval ''69 days''');
select scans('select from auth.users where is_anonymous and cleanup_blocked_at is null
              and coalesce(last_active_on, (created_at at time zone ''UTC'')::date) <= current_date - 69
              order by coalesce(last_active_on, (created_at at time zone ''UTC'')::date) limit 250');
select scans('select from auth.users where is_anonymous and cleanup_blocked_at is not null and id > ''00000000-0000-7000-8000-000000000001'' order by id limit 250');
select scans('delete from auth.sessions where user_id = ''00000000-0000-7000-8000-000000000001''');
rollback;
drop function scans;

-- Expired and revoked sessions go, the users they belonged to stay; so do live sessions.
begin;
select guest('new', '0'), guest('idle session', '61 days') as idle, guest('revoked session', '1 day') as revoked \gset
insert into auth.session_revocations (session_id, reason) select id, 'test' from auth.sessions where user_id = :'revoked';
insert into auth.session_revocations (session_id, reason, revoked_at) values (gen_random_uuid(), 'of a session that is gone', clock_timestamp() - interval '25 hours');
select * from did(auth.cleanup_expired_users());
select * from left_over;
select count(*) as sessions, (select count(*) from auth.session_revocations) as revocations from auth.sessions;
rollback;
begin;
select guest('young session', '1 day'), guest('old session', '31 days', '1 day') as old \gset
-- Ids tell the time too.
update auth.sessions set id = '00000000-0000-7000-8000-000000000001' where user_id = :'old';
select auth.set_setting('session_lifetime', '30 days');
select auth.cleanup_expired_users()->'sessions' as sessions_beyond_their_lifetime;
select * from left_over;
rollback;

-- Expired one-time tokens and old audit entries go.
begin;
select guest('new', '0') as a \gset
insert into auth.one_time_tokens (id, user_id, token_type, token_hash, relates_to, expires_at)
select gen_random_uuid(), :'a', 'type ' || n, n::text::bytea, '', clock_timestamp() + n * interval '1 minute' from generate_series(-2, 2) n where n <> 0;
insert into auth.audit_log_entries (action, created_at) values ('old', now() - interval '91 days'), ('young', now() - interval '89 days');
select * from did(auth.cleanup_expired_users());
select count(*) as one_time_tokens from auth.one_time_tokens;
select action from auth.audit_log_entries where action <> 'cleanup';
select auth.set_setting('audit_log_retention', '7 days');
select auth.cleanup_expired_users()->'audit_log_entries' as audit_log_entries;
select action from auth.audit_log_entries where action not in ('cleanup', 'setting_changed');
rollback;

-- W8: in batches: "more" says whether to go on, and going on ends.
begin;
select count(guest(n::text, '91 days')) as guests from generate_series(1, 7) n;
create table batches (n serial, did jsonb);
do $$
begin
    loop
        insert into batches (did) values (auth.cleanup_expired_users(3));
        exit when not (select (did->>'more')::boolean from batches order by n desc limit 1) or (select count(*) from batches) > 10;
    end loop;
end
$$;
select did->'deleted' as deleted, did->'more' as more from batches order by n;
rollback;

-- N16, N22: an application's trigger that clean-up sets off runs as the owner of its table.
begin;
create role shop_owner;
create schema shop authorization shop_owner;
grant usage on schema shop to public;
set local session authorization shop_owner;
create table shop.log (n serial, what text);
create function shop.attack() returns trigger language plpgsql as $$
declare
    attempt text;
begin
    foreach attempt in array array['alter role shop_owner superuser', 'select private_key from auth.signing_keys', 'delete from auth.users', 'set role anon_auth_owner'] loop
        begin
            execute attempt;
            insert into shop.log (what) values (attempt || ': done!');
        exception when others then
            insert into shop.log (what) values (format('%s %s, as %s: refused', tg_when, tg_table_name, current_user));
        end;
    end loop;
    return coalesce(new, old);
end $$;
reset session authorization;
create table shop.carts (id int primary key, owner uuid references auth.users (id) on delete cascade);
create table shop.items (cart int references shop.carts on delete cascade);
alter table shop.carts owner to shop_owner;
alter table shop.items owner to shop_owner;
select guest('old', '91 days') as a, guest('new', '0') as b \gset
insert into shop.carts values (1, :'a'), (2, :'b');
insert into shop.items values (1), (2);
create trigger before_delete before delete on shop.carts for each row execute function shop.attack();
create trigger after_delete after delete on shop.carts for each row execute function shop.attack();
create trigger after_statement after delete on shop.carts for each statement execute function shop.attack();
create constraint trigger at_commit after delete on shop.carts deferrable initially deferred for each row execute function shop.attack();
create trigger by_cascade after delete on shop.items for each row execute function shop.attack();
set local role service_role;
select * from did(auth.cleanup_expired_users());
reset role;
select what, count(*) from shop.log group by what order by what;
select * from left_over;
rollback;

-- C8: CALL auth.cleanup() does it all, a transaction per batch; so it is not for a transaction block.
select count(guest(n::text, '91 days')) as guests, guest('new', '0') is not null as new from generate_series(1, 1050) n;
call auth.cleanup();
select * from left_over;
select payload->'deleted' as deleted from auth.audit_log_entries where action = 'cleanup' order by created_at;
call auth.cleanup();
delete from auth.users;
delete from auth.audit_log_entries;
begin;
\set SHOW_CONTEXT never
call auth.cleanup();
rollback;

-- C8: the role that runs it need not be a superuser, and others may not.
begin;
select guest('old', '91 days') is not null as made;
create role janitor in role service_role;
set local role janitor;
select auth.cleanup_expired_users()->'deleted' as deleted;
set local role authenticated;
select raised('select auth.cleanup_expired_users()'), raised('call auth.cleanup()'), raised('select auth.schedule_cleanup()');
rollback;

-- R4, W12: a guest whom a trigger of auth.users does not let go counts as blocked, not as deleted, and holds up no other.
-- Nor does it seem to have deleted itself (R5).
begin;
select guest('kept', '92 days') as kept, guest('old', '91 days') as old \gset
select coalesce(sum(guests_expired), 0) as expired, coalesce(sum(guests_deleted), 0) as deleted from auth.stats \gset
create function keep_user() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger keep_user before delete on auth.users for each row when (old.raw_user_meta_data->>'name' = 'kept') execute function keep_user();
select * from did(auth.cleanup_expired_users(1));
select * from did(auth.cleanup_expired_users(1));
select why - 'table' as why from jsonb_array_elements(auth.cleanup_expired_users()->'by_table') why;
select * from left_over;
select sum(guests_expired) - :expired as expired, sum(guests_deleted) - :deleted as deleted from auth.stats;
select * from session(auth.sign_in_anonymously('{"name": "kept"}')) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select raised('select auth.delete_user()');
select auth.uid() = :'ada_id' as still_there;
drop trigger keep_user on auth.users;
select * from did(auth.cleanup_expired_users());
rollback;

-- Bad input.
begin;
select raised('select auth.cleanup_expired_users(0)') as zero, raised('select auth.cleanup_expired_users(-1)') as negative;
select * from did(auth.cleanup_expired_users(null));
select * from did(auth.cleanup_expired_users(2147483647));
select * from did(auth.cleanup_expired_users(recheck_after => 'ffffffff-ffff-ffff-ffff-ffffffffffff'));
rollback;
-- A key that references another column than the id cannot be followed: it keeps everybody, and its name is said.
begin;
alter table auth.users add constraint id_and_email unique (id, email);
create table odd (owner uuid, email text, constraint odd_key foreign key (owner, email) references auth.users (id, email));
select guest('old', '91 days') is not null as made;
select why->>'error' as error, why->>'blocked' as blocked from jsonb_array_elements(auth.cleanup_expired_users()->'by_table') why;
rollback;

-- C8: without pg_cron in this database, scheduling says what to do, and unscheduling finds nothing.
begin;
select raised('select auth.schedule_cleanup()');
select auth.unschedule_cleanup();
rollback;
-- N13: nor is anything of its name that is not pg_cron's called.
begin;
create schema cron authorization plain_login;
grant usage on schema cron to public;
create function cron.schedule(text, text, text) returns bigint language plpgsql as $$ begin raise exception 'not pg_cron, run as %', current_user; end $$;
create function cron.unschedule(bigint) returns boolean language plpgsql as $$ begin raise exception 'not pg_cron, run as %', current_user; end $$;
create view cron.job as select 1::bigint as jobid, 'anon_auth_cleanup'::text as jobname, current_user::text as username, current_database()::text as database;
select left(raised('select auth.schedule_cleanup()'), 22) as schedule;
select auth.unschedule_cleanup();
rollback;

drop view left_over;
drop function guest, did;
select count(*) as users from auth.users;

-- Merging a guest into an account: who may, what becomes of both, and that it is all or nothing (S14, S15, C2, C6, N7, N18).
\pset format unaligned
set client_min_messages = error;

-- A guest, Ada; an account, Bob. Each test in a transaction that is rolled back.
create table notes (user_id uuid references auth.users (id) on delete cascade, body text);

-- The whole of it, as an application calls it.
begin;
select * from session(auth.sign_in_anonymously('{"theme": "dark", "lang": "de"}')) \gset ada_
select * from session(auth.sign_in_anonymously('{"theme": "light"}')) \gset bob_
update auth.users set is_anonymous = false, raw_app_meta_data = '{"plan": "pro"}' where id = :'bob_id';
update auth.users set raw_app_meta_data = '{"plan": "free", "flag": 1}' where id = :'ada_id';
insert into notes values (:'ada_id', 'of Ada'), (:'bob_id', 'of Bob');
insert into auth.identities (user_id, provider, provider_id) values (:'ada_id', 'github', '1'), (:'ada_id', 'google', '2'), (:'bob_id', 'google', '3');
insert into auth.one_time_tokens (id, user_id, token_type, token_hash, relates_to, expires_at) values (gen_random_uuid(), :'ada_id', 'email', '', '', 'infinity');
insert into auth.device_keys (kid, user_id, public_key) values ('a', :'ada_id', '{}');
set local session authorization app_login;
select auth.authenticate(:'bob_token') = :'bob_id' as authenticated;
-- S14: a dry run reports the same and changes nothing.
select report - 'guest' - 'account' as dry_run, report->>'guest' = :'ada_id' as guest, report->>'account' = :'bob_id' as account
  from auth.merge_anonymous_user(:'ada_token', dry_run => true) report;
reset session authorization;
select count(*) as users, count(*) filter (where is_anonymous) as guests from auth.users;
select count(*) as of_ada from notes where user_id = :'ada_id';
select count(*) as merged from auth.audit_log_entries where action = 'user_merged';
set local session authorization app_login;
select auth.authenticate(:'bob_token') = :'bob_id' as authenticated;
select report - 'guest' - 'account' as report from auth.merge_anonymous_user(:'ada_token') report;
-- The account's own session goes on; N12, N20: the guest's does not, by any token.
select auth.uid() = :'bob_id' as still_bob;
select raised('select auth.authenticate($1)', :'ada_token');
select raised('select auth.refresh_session($1)', :'ada_refresh');
-- N7: a guest twice.
select raised('select auth.merge_anonymous_user($1)', :'ada_token');
select raised('select auth.merge_anonymous_user($1)', :'ada_refresh');
reset session authorization;
select body, user_id = :'bob_id' as of_bob from notes order by body;
-- User metadata of both, the account's where they collide; app metadata stays the account's.
select id = :'bob_id' as bob, raw_user_meta_data, raw_app_meta_data, is_anonymous from auth.users;
select provider, provider_id, user_id = :'bob_id' as of_bob from auth.identities order by 1, 2;
select (select count(*) from auth.one_time_tokens) as codes, (select count(*) from auth.device_keys) as device_keys, (select count(*) from auth.sessions) as sessions;
select action, user_id = :'ada_id' as about_ada, payload->>'account' = :'bob_id' as bob, payload->'tables' as tables from auth.audit_log_entries;
rollback;

-- S15: the refresh token is as good a proof, and the guest's metadata wins where it is told to.
begin;
select * from session(auth.sign_in_anonymously('{"theme": "dark", "lang": "de"}')) \gset ada_
select * from session(auth.sign_in_anonymously('{"theme": "light", "font": "serif"}')) \gset bob_
select set_config('anon_auth.access_token', :'bob_token', true) is not null as signed_in;
select auth.merge_anonymous_user(:'ada_refresh', 'guest') is not null as merged;
select id = :'bob_id' as bob, raw_user_meta_data from auth.users;
rollback;
-- Metadata that would be too large together stay those of whoever wins.
begin;
select * from session(auth.sign_in_anonymously(jsonb_build_object('a', repeat('x', 3000)))) \gset ada_
select * from session(auth.sign_in_anonymously(jsonb_build_object('b', repeat('y', 3000)))) \gset bob_
select set_config('anon_auth.access_token', :'bob_token', true) is not null as signed_in;
select auth.merge_anonymous_user(:'ada_refresh') is not null as merged;
select id = :'bob_id' as bob, jsonb_object_keys(raw_user_meta_data) from auth.users;
rollback;

-- C6: the guest is kept, without its rows or any way to come back.
begin;
select auth.set_setting('merge_keep_guests', 'on');
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
insert into notes values (:'ada_id', 'of Ada');
insert into auth.device_keys (kid, user_id, public_key) values ('a', :'ada_id', '{}');
select set_config('anon_auth.access_token', :'bob_token', true) is not null as signed_in;
select report->'tables' as tables, report->'guest_deleted' as guest_deleted from auth.merge_anonymous_user(:'ada_token') report;
select count(*) as users, count(*) filter (where id = :'ada_id') as ada from auth.users;
select (select count(*) from notes where user_id = :'ada_id') as notes, (select count(*) from auth.device_keys) as device_keys, (select count(*) from auth.sessions where user_id = :'ada_id') as sessions;
select raised('select auth.merge_anonymous_user($1)', :'ada_token'), raised('select auth.refresh_session($1)', :'ada_refresh');
rollback;

-- N7, N18, S15: what is no proof.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
select * from session(auth.sign_in_anonymously()) \gset carol_
update auth.users set is_anonymous = false where id in (:'bob_id', :'carol_id');
insert into notes values (:'ada_id', 'of Ada');
set local session authorization app_login;
select raised('select auth.merge_anonymous_user($1)', :'ada_token') as nobody_signed_in;
select auth.authenticate(:'bob_token') = :'bob_id' as authenticated;
select raised('select auth.merge_anonymous_user($1)', :'ada_id') as id;
select raised('select auth.merge_anonymous_user($1)', :'ada_session') as session_id;
select raised('select auth.merge_anonymous_user($1)', '') as nothing;
select raised('select auth.merge_anonymous_user(null)') as null_;
select raised('select auth.merge_anonymous_user($1)', overlay(:'ada_token' placing 'AAAA' from length(:'ada_token') - 10)) as forged;
select raised('select auth.merge_anonymous_user($1)', overlay(:'ada_refresh' placing 'AAAA' from length(:'ada_refresh') - 10)) as forged_refresh;
select raised('select auth.merge_anonymous_user($1)', :'carol_token') as permanent_user;
select raised('select auth.merge_anonymous_user($1)', :'bob_token') as oneself;
select raised('select auth.merge_anonymous_user($1, $2)', :'ada_token', 'both') as on_conflict;
-- Somebody else's guest cannot be named by claims that the caller makes up.
select set_config('request.jwt.claims', format('{"sub": "%s", "role": "authenticated", "is_anonymous": true}', :'ada_id'), true) is not null as claimed;
select raised('select auth.merge_anonymous_user($1)', current_setting('request.jwt.claims')) as claims;
reset session authorization;
-- Signed out, expired, banned, deleted.
savepoint live;
delete from auth.sessions where user_id = :'ada_id';
select raised('select auth.merge_anonymous_user($1)', :'ada_token') as signed_out, raised('select auth.merge_anonymous_user($1)', :'ada_refresh') as signed_out_refresh;
rollback to live;
update auth.sessions set refreshed_at = now() - interval '61 days' where user_id = :'ada_id';
select raised('select auth.merge_anonymous_user($1)', :'ada_token') as expired, raised('select auth.merge_anonymous_user($1)', :'ada_refresh') as expired_refresh;
rollback to live;
update auth.users set banned_until = 'infinity' where id = :'ada_id';
select raised('select auth.merge_anonymous_user($1)', :'ada_token') as banned, raised('select auth.merge_anonymous_user($1)', :'ada_refresh') as banned_refresh;
rollback to live;
update auth.users set banned_until = 'infinity' where id = :'bob_id';
select raised('select auth.merge_anonymous_user($1)', :'ada_token') as account_banned;
rollback to live;
delete from auth.users where id = :'bob_id';
select raised('select auth.merge_anonymous_user($1)', :'ada_token') as account_deleted;
rollback to live;
update auth.users set is_anonymous = false where id = :'ada_id';
select raised('select auth.merge_anonymous_user($1)', :'ada_token') as promoted;
rollback to live;
-- The look-up of the session being off for tokens of callers does not make a dead session a proof.
set local anon_auth.check_session = off;
delete from auth.sessions where user_id = :'ada_id';
select raised('select auth.merge_anonymous_user($1)', :'ada_token') as signed_out;
rollback to live;
-- A refresh token that was replaced a moment ago is still one; the older ones are not.
select * from session(auth.refresh_session(:'ada_refresh')) \gset next_
select auth.merge_anonymous_user(:'ada_refresh', dry_run => true) is not null as replaced_a_moment_ago;
update auth.sessions set replaced_refresh_tokens = '' where user_id = :'ada_id';
select raised('select auth.merge_anonymous_user($1)', :'ada_token') as older_access_token;
-- Nothing has moved in all this.
select user_id = :'ada_id' as of_ada, body from notes;
rollback;

-- All or nothing: a trigger that fails, a constraint that is violated, a trigger that keeps a row back or puts it back.
begin;
select * from session(auth.sign_in_anonymously('{"lang": "de"}')) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
create table a_first (user_id uuid references auth.users (id));
create table then_this (user_id uuid references auth.users (id), n int);
insert into a_first values (:'ada_id');
insert into then_this values (:'ada_id', 1);
create function make_trouble() returns trigger language plpgsql as $$
begin
    case tg_argv[0]
        when 'fail' then raise exception 'we do not sell to Bob' using detail = 'a secret of the application', hint = 'ask someone';
        when 'keep' then return null;
        when 'put back' then insert into then_this values (old.user_id, 3); return new;
        when 'keep the id' then new.user_id := old.user_id; return new;
        when 'another table' then insert into a_first values (old.user_id); return new;
    end case;
end
$$;
select set_config('anon_auth.access_token', :'bob_token', true) is not null as signed_in;
create function tried(trouble text) returns text language plpgsql as $$
declare
    said text;
begin
    execute format('create trigger make_trouble before update on then_this for each row execute function make_trouble(%L)', trouble);
    said := raised('select auth.merge_anonymous_user($1)', current_setting('test.ada'));
    drop trigger make_trouble on then_this;
    return said;
end
$$;
select set_config('test.ada', :'ada_token', true) is not null as set;
select tried('fail');
select tried('keep');
select tried('put back');
select tried('keep the id');
select tried('another table');
alter table then_this add check (n <> 1 or user_id = :'ada_id');
select raised('select auth.merge_anonymous_user($1)', :'ada_token');
select (select user_id = :'ada_id' from a_first) as first, (select user_id = :'ada_id' from then_this) as then, (select count(*) from auth.users) as users,
       (select raw_user_meta_data from auth.users where id = :'bob_id') as metadata;
select raised('select auth.verify_token($1)', :'ada_token') as ada_goes_on;
rollback;

-- C2: in the transaction in which the account signs in; what comes after undoes it.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
insert into notes values (:'ada_id', 'of Ada');
savepoint signed_in;
select * from session(auth.sign_in_anonymously()) \gset bob_
select set_config('anon_auth.access_token', :'bob_token', true) is not null as signed_in;
select auth.merge_anonymous_user(:'ada_token') is not null as merged;
select 1 / 0 as fails;
rollback to signed_in;
select user_id = :'ada_id' as of_ada from notes;
select auth.verify_token(:'ada_token')->>'sub' = :'ada_id' as ada_goes_on;
rollback;

-- A function of the application: called with both ids, as its owner.
begin;
create role shop_owner;
create schema shop authorization shop_owner;
set local session authorization shop_owner;
create table shop.balance (user_id uuid primary key references auth.users (id), cents int);
create table shop.log (line text);
create function shop.merge_balance(guest uuid, account uuid) returns void language plpgsql as $$
begin
    insert into shop.log values (current_user || ' ' || current_setting('search_path'));
    update shop.balance b set cents = b.cents + g.cents from shop.balance g where b.user_id = account and g.user_id = guest;
    delete from shop.balance where user_id = guest;
end
$$;
create function shop.half_done(guest uuid, account uuid) returns int language sql as 'select 1';
reset session authorization;
-- N22: who may set rules, but has no rights of a superuser, gives none of a superuser's functions.
create function public.of_a_superuser(guest uuid, account uuid) returns void language sql as '';
create role rule_setter login in role service_role;
grant usage on schema shop to service_role;
set local session authorization rule_setter;
set local role service_role;
select raised('select auth.set_merge_rule(''shop.balance'', ''function'', function => ''public.of_a_superuser(uuid, uuid)'')');
select auth.set_merge_rule('shop.balance', 'function', function => 'shop.merge_balance(uuid, uuid)');
reset session authorization;
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
insert into shop.balance values (:'ada_id', 10), (:'bob_id', 200);
select set_config('anon_auth.access_token', :'bob_token', true) is not null as signed_in;
savepoint ready;
select auth.set_merge_rule('shop.balance', 'function', function => 'shop.merge_balance(uuid, uuid)');
select auth.merge_anonymous_user(:'ada_token')->'tables' as tables;
select user_id = :'bob_id' as of_bob, cents from shop.balance;
select * from shop.log;
rollback to ready;
select auth.set_merge_rule('shop.balance', 'function', function => 'shop.half_done(uuid, uuid)');
select raised('select auth.merge_anonymous_user($1)', :'ada_token');
drop function shop.half_done;
select raised('select auth.merge_anonymous_user($1)', :'ada_token');
-- A rule in want of its function is nothing to a guest without rows.
delete from shop.balance where user_id = :'ada_id';
select auth.merge_anonymous_user(:'ada_token')->'tables' as tables;
rollback;

-- C2: the application's own functions are called before and after, in the same transaction, and may refuse.
begin;
create table called (hook text, event jsonb);
create function note_merge(event jsonb) returns void language sql as $$ insert into called values (event->'metadata'->>'name', event) $$;
create function refuse_merge(event jsonb) returns jsonb language sql as $$ select '{"error": {"http_code": 403, "message": "not today"}}'::jsonb $$;
select auth.set_hook('before_merge', 'note_merge(jsonb)'), auth.set_hook('user_merged', 'note_merge(jsonb)');
select * from session(auth.sign_in_anonymously('{"lang": "de"}')) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
insert into notes values (:'ada_id', 'of Ada');
select set_config('anon_auth.access_token', :'bob_token', true) is not null as signed_in;
savepoint ready;
select auth.merge_anonymous_user(:'ada_token') is not null as merged;
select hook, event->'guest'->>'id' = :'ada_id' as guest, event->'guest'->'user_metadata' as guests_metadata, event->'user'->>'id' = :'bob_id' as account,
       event->'tables' as tables, event->'dry_run' as dry_run, event->'guest_deleted' as guest_deleted from called order by 1;
rollback to ready;
select auth.set_hook('before_merge', 'refuse_merge(jsonb)');
select raised('select auth.merge_anonymous_user($1)', :'ada_token');
select auth.set_hook('before_merge', null), auth.set_hook('user_merged', 'refuse_merge(jsonb)');
select raised('select auth.merge_anonymous_user($1)', :'ada_token');
select (select user_id = :'ada_id' from notes) as of_ada, (select count(*) from called) as called, (select count(*) from auth.users) as users;
-- What it does to the users counts.
create function delete_guest(event jsonb) returns void language sql as $$ delete from auth.users where id = (event->'guest'->>'id')::uuid $$;
select auth.set_hook('before_merge', 'delete_guest(jsonb)'), auth.set_hook('user_merged', null);
select raised('select auth.merge_anonymous_user($1)', :'ada_token');
select (select user_id = :'ada_id' from notes) as of_ada, (select count(*) from auth.users) as users;
rollback;

-- R5: an administrator's trigger of auth.users that adds a row as the guest goes: no row is left without its user, by
-- whichever way the guest is deleted.
begin;
create table farewells (user_id uuid references auth.users (id) on delete cascade, who text);
create function say_farewell() returns trigger language plpgsql as $$ begin insert into public.farewells values (old.id, current_user); return old; end $$;
grant insert on farewells to public;
create trigger say_farewell before delete on auth.users for each row execute function say_farewell();
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
select set_config('anon_auth.access_token', :'bob_token', true) is not null as signed_in;
select raised('select auth.merge_anonymous_user($1)', :'ada_token') as merged;
select auth.set_merge_rule('farewells', 'ignore');
select raised('select auth.merge_anonymous_user($1)', :'ada_token') as merged;
select raised('select auth.delete_user()') as deleted;
select auth.set_setting('cleanup_age', '0'), auth.set_setting('cleanup_inactivity', '0'), auth.set_setting('cleanup_unreachable_only', 'false');
select auth.cleanup_expired_users()->>'deleted' as cleaned_up;
select (select count(*) from auth.users) as users, (select count(*) from farewells) as farewells;
rollback;

-- Rules: what is refused, and that the last one counts.
begin;
create table items (user_id uuid references auth.users (id), name text, quantity int, twice int generated always as (quantity * 2) stored, since date,
                    object oid, weight real, price money, patience interval);
create view shown as select * from items;
select raised('select auth.set_merge_rule(''items'', ''replace'')');
select raised('select auth.set_merge_rule(''shown'')');
select raised('select auth.set_merge_rule(''auth.users'')');
select raised('select auth.set_merge_rule(null)');
select raised('select auth.set_merge_rule(''items'', ''sum'')');
select raised('select auth.set_merge_rule(''items'', ''merge'', array[''quantity''])');
select raised('select auth.set_merge_rule(''items'', ''sum'', array[''quantity'', ''name''])');
select raised('select auth.set_merge_rule(''items'', ''sum'', array[''twice''])');
select raised('select auth.set_merge_rule(''items'', ''sum'', array[''object''])');
select raised('select auth.set_merge_rule(''items'', ''sum'', array[''quantity'', ''weight'', ''price'', ''patience''])');
select raised('select auth.set_merge_rule(''items'', ''sum'', array[''nothing''])');
select raised('select auth.set_merge_rule(''items'', user_columns => array[''since''])');
select raised('select auth.set_merge_rule(''items'', ''function'')');
select raised('select auth.set_merge_rule(''items'', function => ''pg_catalog.uuid_eq(uuid, uuid)'')');
select raised('select auth.set_merge_rule(''items'', ''function'', function => ''pg_catalog.upper(text)'')');
select raised('select auth.set_merge_rule(''nowhere'')');
select auth.set_merge_rule('items', 'keep_account'), auth.set_merge_rule('items', 'sum', array['quantity']);
select relation, rule, sum_columns, function, user_columns from auth.merge_rules;
select auth.set_merge_rule('items', null);
select count(*) from auth.merge_rules;
-- The rule of a table that was dropped goes with the next that is set; a merge minds neither it nor a table of another.
create table short_lived (user_id uuid);
select auth.set_merge_rule('short_lived', 'ignore', user_columns => '{user_id}');
drop table short_lived;
select count(*) from auth.owned_tables where table_name = 'short_lived';
select auth.set_merge_rule('items', 'sum', array['quantity']);
select relation, rule from auth.merge_rules;
-- A column that is gone, or has another name, is missed.
alter table items rename quantity to amount;
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
select set_config('anon_auth.access_token', :'bob_token', true) is not null as signed_in;
select raised('select auth.merge_anonymous_user($1)', :'ada_token');
alter table items rename amount to quantity;
select auth.set_merge_rule('items', null);
-- N10: administrators only.
set local role authenticated;
select raised('select auth.set_merge_rule(''items'', ''keep_guest'')');
select raised('table auth.merge_rules'), raised('table auth.owned_tables');
reset role;
set local role service_role;
select auth.set_merge_rule('public.items', 'keep_guest');
select table_name, column_name, foreign_key, on_delete, rule, has_index, create_index from auth.owned_tables where table_name = 'items';
reset role;
create index on items using brin (user_id);
select has_index from auth.owned_tables where table_name = 'items';
create index on items (user_id, name);
select has_index from auth.owned_tables where table_name = 'items';
rollback;

-- A foreign key to another column of auth.users cannot be followed.
begin;
alter table auth.users add constraint by_email unique (email);
create table mails (email text references auth.users (email));
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
select set_config('anon_auth.access_token', :'bob_token', true) is not null as signed_in;
select raised('select auth.merge_anonymous_user($1)', :'ada_token');
rollback;

-- Without a write there is nothing to merge.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
select set_config('anon_auth.access_token', :'bob_token', true) is not null as signed_in;
set local transaction_read_only = on;
select raised('select auth.merge_anonymous_user($1)', :'ada_token');
rollback;

drop table notes;

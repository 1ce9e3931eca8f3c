-- What a user sees and does of its own: get_user, user_info (A2), delete_user (C7, R5).
\pset format unaligned

-- S5: get_user() is the user as the database has it now.
begin;
select auth.sign_in_anonymously('{"name": "Ada"}') as answer \gset
select * from session(:'answer') \gset ada_
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select auth.get_user() = :'answer'::jsonb->'user' as as_at_sign_in;
reset session authorization;
update auth.users set raw_user_meta_data = '{"name": "Ada L."}', raw_app_meta_data = '{"plan": "free"}', email = 'ada@example.org', is_anonymous = false;
insert into auth.identities (user_id, provider, provider_id, identity_data) values (:'ada_id', 'github', '42', '{"login": "ada"}');
select u->'user_metadata' as user_metadata, u->'app_metadata' as app_metadata, u->'email' as email, u->'email_confirmed_at' as email_confirmed_at,
       u->'is_anonymous' as is_anonymous, u->'identities'->0->>'provider' as provider, u->'identities'->0->>'id' as provider_id,
       u->'identities'->0->>'user_id' = :'ada_id' as user_id, u->'identities'->0->'identity_data' as identity_data
  from auth.get_user() u;
-- Nothing secret is in it.
update auth.users set encrypted_password = 'hash of a password';
select auth.get_user()::text like '%hash of%' as shows_password;
rollback;

-- A2: user_info() is {sub, isVerified, isAnonymous} and the field's standard claims.
begin;
select * from session(auth.sign_in_anonymously('{"name": "Ada"}')) \gset ada_
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select info - 'sub' - 'updated_at' as info, info->>'sub' = :'ada_id' as sub, jsonb_typeof(info->'updated_at') as updated_at from auth.user_info() info;
reset session authorization;
update auth.users set email = 'ada@example.org', phone = '+4930123456';
select info - 'sub' - 'updated_at' as unproven from auth.user_info() info;
update auth.users set email_confirmed_at = now(), is_anonymous = false;
select info - 'sub' - 'updated_at' as promoted from auth.user_info() info;
update auth.users set email = null, email_confirmed_at = null, phone_confirmed_at = now();
select info - 'sub' - 'updated_at' as by_phone from auth.user_info() info;
select (auth.user_info()->>'updated_at')::bigint = floor(extract(epoch from updated_at)) as unix_time from auth.users;
rollback;

-- Nobody is signed in.
begin;
select raised('select auth.get_user()'), raised('select auth.user_info()'), raised('select auth.delete_user()');
select set_config('anon_auth.access_token', 'garbage', true);
select raised('select auth.get_user()');
rollback;

-- C7: a guest deletes itself, and nobody else.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select auth.delete_user();
select auth.uid() is null as nobody;
-- N12: no token brings it back.
select raised('select auth.authenticate($1)', :'ada_token');
select raised('select auth.refresh_session($1)', :'ada_refresh');
select raised('select auth.delete_user()') as again;
reset session authorization;
select bool_and(id = :'bob_id') as bob_is_left, count(*) from auth.users;
select count(*) as sessions from auth.sessions;
select action, user_id = :'ada_id' as user_id, payload from auth.audit_log_entries;
rollback;

-- N12: what belongs to a user goes with it, by plain SQL too.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
insert into auth.identities (user_id, provider, provider_id) values (:'ada_id', 'github', '1'), (:'bob_id', 'github', '2');
insert into auth.one_time_tokens (id, user_id, token_type, token_hash, relates_to, expires_at) select gen_random_uuid(), id, 'email_change', id::text::bytea, '', 'infinity' from auth.users;
insert into auth.device_keys (kid, user_id, public_key) values ('a', :'ada_id', '{}'), ('b', :'bob_id', '{}');
delete from auth.users where id = :'ada_id';
select string_agg(part, ' ' order by part) as of_bob_only
  from (select 'identity' from auth.identities where user_id = :'bob_id' union all select 'identity of another' from auth.identities where user_id <> :'bob_id' union all
        select 'session' from auth.sessions where user_id = :'bob_id' union all select 'session of another' from auth.sessions where user_id <> :'bob_id' union all
        select 'code' from auth.one_time_tokens where user_id = :'bob_id' union all select 'code of another' from auth.one_time_tokens where user_id <> :'bob_id' union all
        select 'device key' from auth.device_keys where user_id = :'bob_id' union all select 'device key of another' from auth.device_keys where user_id <> :'bob_id') p(part);
select raised('truncate auth.users'), raised('truncate auth.users cascade');
rollback;

-- C7: only guests: a permanent user's account is not the extension's to delete.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
update auth.users set is_anonymous = false;
select raised('select auth.delete_user()');
select count(*) as users from auth.users;
rollback;

-- R5: the rows of a guest in application tables go, stay or forbid the deletion, as the application's foreign
-- keys say; without one, they stay.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
create table without_key (owner uuid, body text);
create table cascading (owner uuid references auth.users (id) on delete cascade, body text, id int primary key);
create table grandchild (parent int references cascading on delete cascade, body text);
create table set_null (owner uuid references auth.users (id) on delete set null, body text);
create table set_default (owner uuid default null references auth.users (id) on delete set default, body text);
create table set_some (tenant int default 1, owner uuid references auth.users (id) on delete set null (owner), body text);
insert into without_key values (:'ada_id', 'of Ada'), (:'bob_id', 'of Bob');
insert into cascading values (:'ada_id', 'of Ada', 1), (:'bob_id', 'of Bob', 2);
insert into grandchild values (1, 'of Ada'), (2, 'of Bob');
insert into set_null values (:'ada_id', 'of Ada'), (:'bob_id', 'of Bob');
insert into set_default values (:'ada_id', 'of Ada'), (:'bob_id', 'of Bob');
insert into set_some values (7, :'ada_id', 'of Ada');
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select auth.delete_user();
reset session authorization;
select 'without_key' as "table", body, owner = :'ada_id' as of_ada from without_key union all
select 'cascading', body, owner = :'ada_id' from cascading union all
select 'grandchild', body, null from grandchild union all
select 'set_null', body, owner = :'ada_id' from set_null union all
select 'set_default', body, owner = :'ada_id' from set_default union all
select 'set_some', body || tenant, owner = :'ada_id' from set_some
 order by 1, 2;
rollback;

-- R5: a default that is another user: the rows pass to it.
begin;
insert into auth.users (id) values ('00000000-0000-7000-8000-000000000001');
create table notes (owner uuid default '00000000-0000-7000-8000-000000000001' references auth.users (id) on delete set default);
select * from session(auth.sign_in_anonymously()) \gset ada_
insert into notes values (:'ada_id');
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select auth.delete_user();
reset role;
select * from notes;
rollback;

-- R5: a key that forbids the deletion, each in its own way: refused, with the table's name, and nothing is changed.
create function refused(foreign_key text, out refused text, out users bigint, out orders bigint, out cascaded bigint)
language plpgsql as $$
declare
    ada record;
begin
    select * into ada from session(auth.sign_in_anonymously());
    execute 'create table cascaded (owner uuid references auth.users (id) on delete cascade)';
    execute 'create table orders (owner uuid references auth.users (id) ' || foreign_key || ')';
    execute 'insert into cascaded values ($1)' using ada.id;
    execute 'insert into orders values ($1)' using ada.id;
    perform auth.authenticate(ada.token);
    refused := raised('select auth.delete_user()');
    execute 'reset role';
    execute 'select count(*) from auth.users where id = $1' into users using ada.id;
    execute 'select count(*) from orders where owner = $1' into orders using ada.id;
    execute 'select count(*) from cascaded where owner = $1' into cascaded using ada.id;
end
$$;
begin;
select * from refused('');
rollback;
begin;
select * from refused('on delete restrict');
rollback;
begin;
select * from refused('deferrable initially deferred');
rollback;
begin;
select * from refused('on delete no action deferrable initially immediate');
rollback;
drop function refused;

-- R5: the hint helps.
begin;
create table "Orders of 2024" (id int primary key, owner uuid references auth.users (id));
select * from session(auth.sign_in_anonymously()) \gset ada_
insert into "Orders of 2024" values (1, :'ada_id');
select set_config('anon_auth.access_token', :'ada_token', true) is not null as set;
select raised('select auth.delete_user()');
delete from "Orders of 2024";
select raised('select auth.delete_user()');
rollback;

-- R5: deferrable keys are checked at once, so that nothing of the deletion is left for the commit.
begin;
create table notes (owner uuid references auth.users (id) on delete cascade deferrable initially deferred);
create table log (note text);
create function log() returns trigger language plpgsql as $$ begin insert into log values (tg_op || ' by ' || current_user); return null; end $$;
create constraint trigger log after delete on notes deferrable initially deferred for each row execute function log();
select * from session(auth.sign_in_anonymously()) \gset ada_
insert into notes values (:'ada_id');
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select auth.delete_user();
reset role;
select * from log;
rollback;

-- R5: partitions, several keys in one table, and a table that is its own parent.
begin;
create table events (owner uuid references auth.users (id) on delete cascade, day date) partition by range (day);
create table events_2024 partition of events for values from ('2024-01-01') to ('2025-01-01');
create table events_rest partition of events default;
create table messages (author uuid references auth.users (id) on delete cascade, reader uuid references auth.users (id) on delete set null);
create table tree (id int primary key, parent int references tree on delete cascade, owner uuid references auth.users (id) on delete cascade);
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
insert into events values (:'ada_id', '2024-05-05'), (:'ada_id', '2025-05-05'), (:'bob_id', '2024-06-06');
insert into messages values (:'ada_id', :'bob_id'), (:'bob_id', :'ada_id'), (:'ada_id', :'ada_id');
insert into tree values (1, null, :'bob_id'), (2, 1, :'ada_id'), (3, 2, :'bob_id'), (4, 1, :'bob_id');
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select auth.delete_user();
reset role;
select day from events;
select author = :'bob_id' as by_bob, reader from messages;
select id from tree order by id;
rollback;

-- N16, N22: what the application's triggers do, they do as the owner of their table, by cascade too.
begin;
create role shop_owner;
create schema shop authorization shop_owner;
grant usage on schema shop to public;
set local session authorization shop_owner;
create table shop.log (n serial, what text);
create function shop.log() returns trigger language plpgsql as $$
begin
    insert into shop.log (what) values (format('%s %s %s: %s, may read keys: %s, search_path %s', tg_when, tg_op, tg_table_name, current_user,
        has_table_privilege('auth.signing_keys', 'select'), current_setting('search_path')));
    return coalesce(new, old);
end $$;
reset session authorization;
create table shop.carts (id int primary key, owner uuid references auth.users (id) on delete cascade);
create table shop.items (cart int references shop.carts on delete cascade);
create table shop.visits (owner uuid references auth.users (id) on delete set null);
alter table shop.carts owner to shop_owner;
alter table shop.items owner to shop_owner;
alter table shop.visits owner to shop_owner;
select * from session(auth.sign_in_anonymously()) \gset ada_
insert into shop.carts values (1, :'ada_id');
insert into shop.items values (1);
insert into shop.visits values (:'ada_id');
create trigger a before delete on shop.carts for each row execute function shop.log();
create trigger b after delete on shop.carts for each row execute function shop.log();
create trigger c after delete on shop.carts for each statement execute function shop.log();
create trigger a after delete on shop.items for each row execute function shop.log();
create trigger b after delete on shop.items for each statement execute function shop.log();
create trigger a after update on shop.visits for each row execute function shop.log();
create constraint trigger c after update on shop.visits deferrable initially deferred for each row execute function shop.log();
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select auth.delete_user();
reset session authorization;
select what from shop.log order by n;
select current_user, current_setting('search_path') as search_path;
rollback;

-- N16: FORCE ROW LEVEL SECURITY and policies hide no row from the deletion.
begin;
create role shop_owner;
create table notes (owner uuid references auth.users (id) on delete cascade);
alter table notes owner to shop_owner;
alter table notes enable row level security;
alter table notes force row level security;
create policy nothing on notes using (false);
select * from session(auth.sign_in_anonymously()) \gset ada_
insert into notes values (:'ada_id');
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select auth.delete_user();
reset role;
select count(*) as notes from notes;
rollback;

-- R5: a trigger that refuses: the guest stays, with everything.
begin;
create table notes (owner uuid references auth.users (id) on delete cascade);
create function refuse() returns trigger language plpgsql as $$ begin raise exception 'notes are for ever' using errcode = 'P0042'; end $$;
create trigger refuse before delete on notes for each row execute function refuse();
select * from session(auth.sign_in_anonymously()) \gset ada_
insert into notes values (:'ada_id');
select set_config('anon_auth.access_token', :'ada_token', true) is not null as set;
select raised('select auth.delete_user()');
select count(*) as guests, (select count(*) from notes) as notes, auth.uid() = :'ada_id' as signed_in from auth.users;
-- One that keeps the row without a word would leave it without a user: refused too.
create or replace function refuse() returns trigger language plpgsql as $$ begin return null; end $$;
select raised('select auth.delete_user()');
-- So is one that puts it back.
drop trigger refuse on notes;
create function put_back() returns trigger language plpgsql as $$ begin insert into notes values (old.owner); return null; end $$;
create trigger put_back after delete on notes for each row execute function put_back();
select raised('select auth.delete_user()');
select count(*) as guests, (select count(*) from notes) as notes from auth.users;
rollback;

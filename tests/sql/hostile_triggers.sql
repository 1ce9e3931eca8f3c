-- What the owner of an application table may try from a trigger or a type of its own while clean-up or delete_user()
-- deletes a guest (N13, N16, N22, R5). Whatever becomes of the guest: nothing of hers runs with anyone else's rights.
\pset format unaligned
set timezone = 'UTC';
set client_min_messages = error;

-- Mallory owns a schema and what is in it; "mal.loot" says as whom her code was run, and what it could do then.
create role mallory login;
create function attack(statement text) returns void language plpgsql as $$
begin
    execute 'create schema mal authorization mallory';
    execute 'grant usage on schema mal to public';
    set local session authorization mallory;
    execute $setup$
        create table mal.loot (who text);
        grant all on mal.loot to public;
        create table mal.t (user_id uuid references auth.users (id) on delete cascade);
        grant insert, select on mal.t to public;
        create function mal.steal() returns trigger language plpgsql as 'begin insert into mal.loot values (current_user); return coalesce(new, old); end';
    $setup$;
    execute statement;
    reset session authorization;
end
$$;
-- Has a guest with a row in "mal.t" deleted, by clean-up as service_role or a superuser, or by itself, each committed.
-- Notes how often Mallory's code was run as herself, and as whom else; and whether a row is left without its user.
create table tried (as_herself bigint default 0, as_others text[] default '{}', dangling bigint default 0, search_path text);
create view outcome as select as_others, dangling, search_path from tried;
create procedure try(statement text) language plpgsql as $$
declare
    caller text;
    ada record;
    result tried;
begin
    result.as_herself := 0;
    result.dangling := 0;
    foreach caller in array array['service_role', 'superuser', 'guest'] loop
        perform attack(statement);
        select * into ada from session(auth.sign_in_anonymously());
        update auth.users set created_at = clock_timestamp() - interval '200 days' where id = ada.id;
        update auth.sessions set created_at = clock_timestamp() - interval '200 days', refreshed_at = clock_timestamp() - case caller when 'guest' then '0' else interval '200 days' end;
        insert into mal.t values (ada.id);
        commit;
        if caller = 'guest' then
            perform auth.authenticate(ada.token);
            perform raised('select auth.delete_user()');
        elsif caller = 'service_role' then
            set local role service_role;
            perform raised('select auth.cleanup_expired_users()');
        else
            perform raised('select auth.cleanup_expired_users()');
        end if;
        commit;
        result.as_herself := result.as_herself + (select count(*) from mal.loot where who = 'mallory');
        result.as_others := result.as_others || array(select distinct who from mal.loot where who <> 'mallory');
        result.dangling := result.dangling + (select count(*) from mal.t where not exists (select from auth.users u where u.id = t.user_id));
        drop schema mal cascade;
        delete from auth.users;
        delete from auth.audit_log_entries;
        commit;
    end loop;
    result.search_path := current_setting('search_path');
    truncate tried;
    insert into tried select result.*;
end
$$;

-- The tools work: a plain trigger is run as Mallory, by any of the three.
call try($$create trigger steal after delete on mal.t for each row execute function mal.steal()$$);
select as_herself from tried;
table outcome;

-- A search_path that is left behind, with operators in front that the extension's statements might use.
call try($$
    create function mal.eq(uuid, uuid) returns boolean language plpgsql as 'begin insert into mal.loot values (current_user); return pg_catalog.uuid_eq($1, $2); end';
    create operator mal.= (leftarg = uuid, rightarg = uuid, function = mal.eq);
    create function mal.left_behind() returns trigger language plpgsql as
        'begin perform pg_catalog.set_config(''search_path'', ''mal, pg_catalog'', false); return old; end';
    create trigger left_behind before delete on mal.t for each row execute function mal.left_behind();
$$);
table outcome;

-- A foreign key made in the middle of the deletion, whose cascade would fire a trigger.
call try($$
    create function mal.grow() returns trigger language plpgsql as 'begin
        create table mal.t2 (user_id uuid references auth.users (id) on delete cascade);
        create trigger steal after delete on mal.t2 for each row execute function mal.steal();
        insert into mal.t2 values (old.user_id);
        return old; end';
    create trigger grow before delete on mal.t for each row execute function mal.grow();
$$);
table outcome;

-- A cursor that is filled at commit.
call try($$
    create function mal.look() returns int language plpgsql as 'begin insert into mal.loot values (current_user); return 1; end';
    create function mal.hold() returns trigger language plpgsql as
        'begin execute ''declare later cursor with hold for select mal.look()''; return old; end';
    create trigger hold before delete on mal.t for each row execute function mal.hold();
$$);
table outcome;

-- A deferred trigger that defers itself again, so that it outlives her turn.
call try($$
    create table mal.x (n int);
    grant all on mal.x to public;
    create function mal.again() returns trigger language plpgsql as 'begin
        insert into mal.loot values (current_user);
        if new.n < 6 then
            set constraints all deferred;
            insert into mal.x values (new.n + 1);
        end if;
        return null; end';
    create constraint trigger again after insert on mal.x deferrable initially deferred for each row execute function mal.again();
    create function mal.start() returns trigger language plpgsql as 'begin insert into mal.x values (1); return old; end';
    create trigger start before delete on mal.t for each row execute function mal.start();
$$);
table outcome;

-- Another table under the name of one that is followed.
call try($$
    create table mal.u (user_id uuid references auth.users (id) on delete cascade);
    create function mal.swap() returns trigger language plpgsql as 'begin
        drop table mal.u;
        create table mal.u (user_id uuid);
        grant all on mal.u to public;
        create trigger steal after delete on mal.u for each statement execute function mal.steal();
        return old; end';
    create trigger swap before delete on mal.t for each row execute function mal.swap();
$$);
table outcome;

-- Roles: none can be had from a trigger.
call try($$
    create function mal.become() returns trigger language plpgsql as 'declare role text; begin
        foreach role in array array[''anon_auth_owner'', ''postgres'', ''none'', ''service_role''] loop
            begin
                perform set_config(''role'', role, true);
                insert into mal.loot values (current_user);
            exception when others then null;
            end;
            begin
                perform set_config(''session_authorization'', role, true);
                insert into mal.loot values (current_user);
            exception when others then null;
            end;
        end loop;
        return old; end';
    create trigger become before delete on mal.t for each row execute function mal.become();
$$);
table outcome;

-- A row that is put back, in the table or in another one that was dealt with before.
call try($$
    create table mal.a (user_id uuid references auth.users (id) on delete cascade);
    create function mal.put_back() returns trigger language plpgsql as
        'begin insert into mal.a values (old.user_id); insert into mal.t values (old.user_id); return null; end';
    create trigger put_back after delete on mal.t for each row execute function mal.put_back();
$$);
table outcome;

-- R5: errors that look like the server's own, and columns of another type stop
-- neither clean-up nor the server: other guests go.
create function others_go(statement text, name text default 'mal.t') returns boolean language plpgsql as $$
declare
    ada uuid := auth.sign_in_anonymously()->'user'->>'id';
    bob uuid := auth.sign_in_anonymously()->'user'->>'id';
begin
    perform attack(statement);
    update auth.users set created_at = clock_timestamp() - interval '200 days' where id in (ada, bob);
    delete from auth.sessions where user_id in (ada, bob);
    if name is not null then
        execute format('insert into %s values (%L)', name, ada);
    end if;
    execute 'set local role service_role';
    perform auth.cleanup_expired_users();
    execute 'reset role';
    return not exists (select from auth.users where id = bob);
end
$$;
begin;
select others_go($$create function mal.refuse() returns trigger language plpgsql as 'begin raise exception ''no'' using errcode = ''40001''; end';
                   create trigger refuse before delete on mal.t for each row execute function mal.refuse();$$) as serialization_failure;
rollback;
begin;
select others_go($$create function mal.refuse() returns trigger language plpgsql as 'begin raise exception ''no'' using errcode = ''57014''; end';
                   create trigger refuse before delete on mal.t for each row execute function mal.refuse();$$) as query_canceled;
rollback;
begin;
select others_go($$create function mal.refuse() returns trigger language plpgsql as 'begin raise exception ''no'' using errcode = ''XX000''; end';
                   create trigger refuse before delete on mal.t for each row execute function mal.refuse();$$) as internal_error;
rollback;
begin;
select others_go($$create type mal.e as enum ('a');
                   create function mal.to_uuid(mal.e) returns uuid language sql immutable as 'select ''00000000-0000-7000-8000-000000000001''::uuid';
                   reset session authorization;
                   create cast (mal.e as uuid) with function mal.to_uuid(mal.e) as implicit;
                   insert into auth.users (id) values ('00000000-0000-7000-8000-000000000001');
                   set local session authorization mallory;
                   create table mal.v (user_id mal.e references auth.users (id) on delete cascade);$$, null) as other_type;
rollback;

-- A foreign key whose table its own owner cannot read keeps everybody, as it does without the extension; that is
-- reported, and does not fail the batch.
begin;
select others_go($$create table mal.u (user_id uuid references auth.users (id)); revoke all on mal.u from mallory;$$) as others_go;
select why->>'table' as "table", why ? 'blocked' as blocked from jsonb_array_elements(auth.cleanup_expired_users()->'by_table') why;
rollback;

-- N22: a cascade goes on to her table, and would run her trigger with the rights of the owner of the table between.
begin;
create table posts (id int primary key, user_id uuid references auth.users (id) on delete cascade);
grant references on posts to mallory;
select attack($$create table mal.likes (post int references public.posts (id) on delete cascade);
                grant insert on mal.likes to public;
                create trigger steal after delete on mal.likes for each row execute function mal.steal();$$);
insert into auth.users (id, is_anonymous, created_at) values ('00000000-0000-7000-8000-000000000002', true, now() - interval '200 days');
insert into posts values (1, '00000000-0000-7000-8000-000000000002');
insert into mal.likes values (1);
select auth.cleanup_expired_users() is not null as cleaned_up;
select who from mal.loot where who <> 'mallory';
rollback;

-- N13: a trigger finds nothing of the caller's by name, temporary tables included.
begin;
create table notes (user_id uuid references auth.users (id) on delete cascade);
create table notes_log (user_id uuid);
create function log_note() returns trigger language plpgsql as 'begin insert into notes_log values (old.user_id); return null; end';
create trigger log_note after delete on notes for each row execute function log_note();
create temporary table notes_log (user_id uuid);
select * from session(auth.sign_in_anonymously()) \gset ada_
insert into notes values (:'ada_id');
select set_config('anon_auth.access_token', :'ada_token', true) is not null as set;
select auth.delete_user();
select count(*) from public.notes_log;
select count(*) from pg_temp.notes_log;
rollback;

-- N10, N22: a login role with nothing but everybody's rights, and temporary tables.
select * from session(auth.sign_in_anonymously()) \gset ada_
create table guestbook (user_id uuid references auth.users (id) on delete cascade);
create table guestbook_log (user_id uuid);
create function log_guest() returns trigger language plpgsql set search_path = public as 'begin insert into guestbook_log values (old.user_id); return null; end';
create trigger log_guest after delete on guestbook for each row execute function log_guest();
select * from session(auth.sign_in_anonymously()) \gset bob_
insert into guestbook values (:'bob_id');
\set superuser :USER
\c - plain_login
set client_min_messages = error;
create temporary table loot (who text);
create temporary table x (n int);
grant all on loot, x to public;
create function pg_temp.again() returns trigger language plpgsql as $$
begin
    insert into pg_temp.loot values (current_user);
    if new.n < 6 then
        set constraints all deferred;
        insert into pg_temp.x values (new.n + 1);
    end if;
    return null;
end
$$;
create constraint trigger again after insert on x deferrable initially deferred for each row execute function pg_temp.again();
begin;
select set_config('anon_auth.access_token', :'ada_token', true) is not null as set;
insert into x values (0);
select left(raised('select auth.delete_user()'), 0) as whatever;
commit;
select distinct who from loot;
-- N13: nor does a trigger whose function sets a search_path of its own, which would find temporary tables first.
create temporary table guestbook_log (user_id uuid);
begin;
select set_config('anon_auth.access_token', :'bob_token', true) is not null as set;
select raised('select auth.delete_user()');
rollback;
select count(*) from pg_temp.guestbook_log;
\c - :superuser
drop table guestbook, guestbook_log;
drop function log_guest;

-- N16: where a row goes in a merge, keys that were seen to do not act again. A trigger that runs a query with the very
-- same text does not get that: row 99 is referenced, and stays.
create schema same;
create table same.t (id int primary key, user_id uuid unique references auth.users (id) on delete cascade);
create table same.child (t int references same.t on delete restrict);
create function same.delete_too() returns trigger language plpgsql as $$
begin
    if old.id = 1 then
        execute 'delete from only same.t as t using rows from (pg_catalog.unnest($1), pg_catalog.unnest($2)) as p(o, c) where t.tableoid = p.o and t.ctid = p.c::pg_catalog.tid'
            using array['same.t'::regclass::oid], array[(select ctid::text from same.t where id = 99)];
    end if;
    return old;
end
$$;
create trigger delete_too before delete on same.t for each row execute function same.delete_too();
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
update auth.users set is_anonymous = false where id = :'bob_id';
insert into same.t values (1, :'ada_id'), (2, :'bob_id'), (99, null);
insert into same.child values (99);
select set_config('anon_auth.access_token', :'bob_token', true) is not null as set;
-- Postgres 18 names the setting.
select replace(raised('select auth.merge_anonymous_user($1)', :'ada_token'), 'RESTRICT setting of ', '') as raised;
select id from same.t order by id;
rollback;
drop schema same cascade;

drop procedure try;
drop view outcome;
drop table tried;
drop function attack, others_go;
drop role mallory;
delete from auth.users;
delete from auth.audit_log_entries;

-- Merge in schemas of many kinds (W1, S14): what is found, and what becomes of rows that collide.
\pset format unaligned
set client_min_messages = error;

-- A guest, Ada, and an account, Bob. "merge()" is what Bob's application calls; it tells what is not zero.
create function merge(on_conflict text default 'account', dry_run boolean default false)
    returns table ("table" text, rule text, moved int, kept int, dropped int, replaced int) language plpgsql as $$
declare
    report jsonb;
begin
    perform set_config('anon_auth.access_token', current_setting('test.bob'), true);
    report := auth.merge_anonymous_user(current_setting('test.ada'), $1, $2);
    perform set_config('anon_auth.access_token', '', true);
    return query select t."table", t.rule, t.moved, t.kept, t.dropped, t.replaced
      from jsonb_to_recordset(report->'tables') as t("table" text, rule text, moved int, kept int, dropped int, replaced int);
end
$$;
create function ada() returns uuid language sql stable as $$ select (payload(current_setting('test.ada'))->>'sub')::uuid $$;
create function bob() returns uuid language sql stable as $$ select (payload(current_setting('test.bob'))->>'sub')::uuid $$;
create function who(uuid) returns text language sql stable as $$ select case $1 when ada() then 'Ada' when bob() then 'Bob' else $1::text end $$;
select set_config('test.ada', auth.sign_in_anonymously()->>'access_token', false) is not null as ada,
       set_config('test.bob', auth.sign_in_anonymously()->>'access_token', false) is not null as bob;
update auth.users set is_anonymous = false where id = bob();

-- A shop: a cart each, with what is in it; a wish list without doubles; coupons that everybody may use once; orders.
create schema shop;
set search_path = shop, public;
create table carts (id int primary key, user_id uuid not null unique references auth.users (id) on delete cascade);
create table cart_items (cart_id int references carts (id) on delete cascade, product text, quantity int not null, primary key (cart_id, product));
create table wishlist (user_id uuid references auth.users (id) on delete cascade, product text, primary key (user_id, product));
create table coupons (code text, used_by uuid references auth.users (id) on delete cascade);
create unique index once_each on coupons (lower(code), used_by);
create table orders (id int primary key, user_id uuid references auth.users (id), gift_for uuid references auth.users (id));
begin;
insert into carts values (1, ada()), (2, bob());
insert into cart_items values (1, 'apple', 2), (1, 'pear', 1), (2, 'pear', 5), (2, 'fig', 1);
insert into wishlist values (ada(), 'fig'), (ada(), 'kiwi'), (bob(), 'fig');
insert into coupons values ('WELCOME', ada()), ('spring', ada()), ('welcome', bob());
insert into orders values (1, ada(), null), (2, bob(), ada()), (3, ada(), bob()), (4, bob(), null);
savepoint before;
-- W1: what would be followed, and through what.
select table_name, column_name, foreign_key, through, on_delete, rule, has_index, create_index from auth.owned_tables;
-- What is in a cart that goes is not lost: it moves to the one that stays.
select * from merge(dry_run => true);
select count(*) as of_ada from carts where user_id = ada();
select * from merge();
select id, who(user_id) from carts;
select * from cart_items order by 1, 2;
select who(user_id), product from wishlist order by 2;
select code, who(used_by) from coupons order by 1;
select id, who(user_id), who(gift_for) from orders order by 1;
-- S14: the guest's rows stay.
rollback to before;
select * from merge('guest');
select id, who(user_id) from carts;
select * from cart_items order by 1, 2;
select code, who(used_by) from coupons order by 1;
-- Quantities are added up.
rollback to before;
select auth.set_merge_rule('cart_items', 'sum', array['quantity']);
select * from merge() where "table" = 'shop.cart_items';
select * from cart_items order by 1, 2;
-- S14: keep the account's, drop the guest's; what hangs on it goes as its foreign key says.
rollback to before;
select auth.set_merge_rule('carts', 'keep_account');
select * from merge() where "table" like '%cart%';
select * from cart_items order by 1, 2;
-- S14: replace the account's; where the guest has nothing, nothing is replaced.
rollback to before;
select auth.set_merge_rule('carts', 'keep_guest'), auth.set_merge_rule('coupons', 'keep_guest');
delete from coupons where used_by = ada();
select * from merge() where "table" like '%cart%' or "table" = 'shop.coupons';
select id, who(user_id) from carts;
select * from cart_items order by 1, 2;
-- Not followed: then it goes with the guest, or keeps it.
rollback to before;
select auth.set_merge_rule('carts', 'ignore');
select * from merge() where "table" like '%cart%';
rollback to before;
select auth.set_merge_rule('orders', 'ignore');
select raised('select merge()');
select id, who(user_id) from carts;
rollback;
drop schema shop cascade;

-- A chat: members of rooms, and messages that can be written by members only: a key of two columns, one of which
-- is the user, and which says nothing about updates.
create schema chat;
set search_path = chat, public;
create table members (room int, user_id uuid references auth.users (id) on delete cascade, nick text, primary key (room, user_id));
create table a_messages (id int primary key, room int, author uuid references auth.users (id), body text, foreign key (room, author) references members);
create table reactions (message int references a_messages (id) on delete cascade, user_id uuid references auth.users (id) on delete cascade, emoji text, primary key (message, user_id, emoji));
begin;
insert into members values (1, ada(), 'guest'), (2, ada(), 'guest'), (1, bob(), 'Bob');
insert into a_messages values (1, 1, ada(), 'hello'), (2, 1, bob(), 'hi'), (3, 2, ada(), 'anyone here?');
insert into reactions values (1, bob(), '+1'), (2, ada(), '+1'), (2, ada(), ':)'), (2, bob(), '+1');
select * from merge();
select room, who(user_id), nick from members order by 1, 3;
select id, room, who(author) from a_messages order by 1;
select message, who(user_id), emoji from reactions order by 1, 3;
rollback;
-- Each row is counted once, though it gets the key of the other's membership first.
create table reads (room int, reader uuid, up_to int, primary key (room, reader), foreign key (room, reader) references members on delete cascade);
create table visits (room int, visitor uuid, foreign key (room, visitor) references members on delete cascade);
begin;
insert into members values (1, ada(), 'guest'), (2, ada(), 'guest'), (1, bob(), 'Bob');
insert into reads values (1, ada(), 5), (1, bob(), 3), (2, ada(), 9);
insert into visits values (1, ada()), (1, ada()), (2, ada()), (1, bob());
savepoint before;
select table_name, column_name, foreign_key, through, has_index, create_index from auth.owned_tables;
select * from merge();
select room, who(reader), up_to from reads order by 1;
rollback to before;
select * from merge('guest');
select room, who(reader), up_to from reads order by 1;
select room, who(visitor) from visits order by 1;
rollback;
drop schema chat cascade;

-- A tree: a table that references itself, also together with the user; folders of the same name become one.
create schema files;
set search_path = files, public;
create table folders (user_id uuid references auth.users (id) on delete cascade, id int, parent int, name text,
                      primary key (user_id, id), foreign key (user_id, parent) references folders (user_id, id),
                      unique nulls not distinct (user_id, parent, name));
create table nodes (id int primary key, parent int references nodes on delete cascade, user_id uuid references auth.users (id) on delete cascade, name text);
create unique index nodes_name on nodes (user_id, coalesce(parent, 0), name);
begin;
insert into folders values (ada(), 1, null, 'music'), (ada(), 2, 1, 'jazz'), (bob(), 7, null, 'photos');
insert into nodes values (1, null, ada(), 'root'), (2, 1, ada(), 'docs'), (3, 2, ada(), 'a.txt'), (4, 1, ada(), 'pics'),
                         (5, null, bob(), 'root'), (6, 5, bob(), 'docs'), (7, 6, bob(), 'b.txt');
select * from merge();
select who(user_id), id, parent, name from folders order by id;
with recursive path as (select id, name from nodes where parent is null union all select n.id, p.name || '/' || n.name from path p join nodes n on n.parent = p.id)
select name, who(n.user_id) from path join nodes n using (id, name) union all select p.name, who(n.user_id) from path p join nodes n using (id) where n.parent is not null order by 1;
rollback;
drop schema files cascade;

-- Polls, with cascades from table to table.
create schema polls;
set search_path = polls, public;
create table polls (id int primary key, owner uuid references auth.users (id) on delete cascade, slug text, unique (owner, slug));
create table options (id int primary key, poll int references polls on delete cascade, label text, unique (poll, label));
create table votes (option int references options on delete cascade, voter uuid references auth.users (id) on delete cascade, unique (option, voter));
begin;
insert into polls values (1, ada(), 'lunch'), (2, bob(), 'lunch'), (3, ada(), 'dinner');
insert into options values (11, 1, 'soup'), (12, 1, 'pasta'), (21, 2, 'soup'), (31, 3, 'rice');
insert into votes values (11, ada()), (12, bob()), (12, ada()), (21, bob()), (31, ada());
select * from merge();
select id, who(owner), slug from polls order by id;
rollback;
begin;
insert into polls values (1, ada(), 'lunch'), (2, bob(), 'lunch'), (3, ada(), 'dinner');
insert into options values (11, 1, 'soup'), (12, 1, 'pasta'), (21, 2, 'soup'), (31, 3, 'rice');
insert into votes values (11, ada()), (12, bob()), (12, ada()), (21, bob()), (31, ada());
select auth.set_merge_rule('polls', 'keep_account'), auth.set_merge_rule('votes', 'keep_account');
select * from merge();
select option, who(voter) from votes;
rollback;
drop schema polls cascade;

-- Partitions, the user being what they are made by; a partition's own unique key is beyond what the whole table says.
create schema log;
set search_path = log, public;
create table events (user_id uuid not null references auth.users (id) on delete cascade, day date, what text, unique (user_id, day, what)) partition by hash (user_id);
create table events_0 partition of events for values with (modulus 7, remainder 0);
create table events_1 partition of events for values with (modulus 7, remainder 1);
create table events_2 partition of events for values with (modulus 7, remainder 2);
create table events_3 partition of events for values with (modulus 7, remainder 3);
create table events_4 partition of events for values with (modulus 7, remainder 4);
create table events_5 partition of events for values with (modulus 7, remainder 5);
create table events_6 partition of events for values with (modulus 7, remainder 6);
create table by_day (day date, user_id uuid references auth.users (id)) partition by range (day);
create table by_day_2024 partition of by_day for values from ('2024-01-01') to ('2025-01-01') partition by list (user_id);
create table by_day_2024_all partition of by_day_2024 default;
create table by_day_rest partition of by_day default;
begin;
insert into events values (ada(), '2024-05-05', 'login'), (ada(), '2024-05-06', 'login'), (bob(), '2024-05-05', 'login');
insert into by_day values ('2024-05-05', ada()), ('2025-05-05', ada()), ('2025-05-05', bob());
select * from merge();
select who(user_id), day from events order by day;
select who(user_id), day from by_day order by day;
rollback;
drop schema log cascade;

-- A foreign key of a partition alone; and a table that inherits from one that is followed is followed for itself only.
create schema odd;
set search_path = odd, public;
create table whole (id int, user_id uuid) partition by range (id);
create table part partition of whole for values from (0) to (10);
alter table part add foreign key (user_id) references auth.users (id);
create table parent (user_id uuid references auth.users (id));
create table child () inherits (parent);
create table "Odd; name" ("user ""id""" uuid references auth.users (id), unique ("user ""id"""));
begin;
insert into whole values (1, ada());
insert into parent values (ada());
insert into child values (ada());
insert into "Odd; name" values (ada()), (bob());
select * from merge();
select who(user_id) from whole;
select tableoid::regclass, user_id = bob() as of_bob from parent;
rollback;
drop schema odd cascade;

-- Unique keys of every kind: by an expression, for some rows only, of generated columns, by another collation, deferrable,
-- without NULLs being distinct, and one that takes in the user by its condition only.
create schema keys;
set search_path = keys, public;
-- A Postgres that was built without ICU has no collation to which different texts are equal.
select exists (select from pg_collation where collname = 'und-x-icu') as icu \gset
\if :icu
create collation caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
\else
create collation caseless from "C";
\endif
create table t (id int primary key, user_id uuid references auth.users (id), v text, n int, g text generated always as (lower(v)) stored, k text collate caseless);
create function collide(unique_key text) returns text language plpgsql as $$
declare
    result text;
begin
    execute unique_key;
    perform merge();
    select string_agg(t.id::text, ' ' order by id) into result from t;
    raise exception '%', result using errcode = 'ZZ000';
exception when sqlstate 'ZZ000' then
    return result;
end
$$;
insert into t values (1, ada(), 'x', 1, default, 'a'), (2, ada(), 'Y', null, default, 'b'), (3, ada(), 'z', 3, default, 'C'),
                     (5, bob(), 'X', 1, default, 'c'), (6, bob(), 'y', null, default, 'B'), (7, bob(), 'z', 4, default, 'd');
select collide('create unique index on t (user_id, v)') as plain;
select collide('create unique index on t (user_id, lower(v))') as expression;
select collide('create unique index on t ((user_id::text || lower(v)))') as expression_with_the_user;
select collide('create unique index on t (user_id, lower(v)) where n is not null') as partial;
select collide('create unique index on t (user_id, n)') as nulls;
select collide('create unique index on t (user_id, n) nulls not distinct') as nulls_not_distinct;
select collide('create unique index on t (user_id, g)') as generated;
select collide('create unique index on t (user_id, k)') = case when :'icu' then '1 5 6 7' else '1 2 3 5 6 7' end as collation;
select collide('create unique index on t (user_id, k collate "C")') as other_collation;
select collide('alter table t add unique (user_id, v) deferrable initially deferred') as deferrable;
select collide(format('create unique index on t (lower(v)) where user_id = %L', bob())) as by_condition;
select collide('create unique index on t (user_id, v); create unique index on t (user_id, g)') as several;
drop schema keys cascade;

-- Exclusion constraints: which of two rows should go is anybody's guess. So it is refused, by name, before anything
-- moves; a rule of the table says it.
create schema desk;
set search_path = desk, public;
create type textrange as range (subtype = text);
create function one(uuid) returns textrange immutable language sql as $$ select desk.textrange($1::text, $1::text, '[]') $$;
create table a_log (user_id uuid references auth.users (id));
create table bookings (id int, user_id uuid references auth.users (id), during int4range, constraint one_at_a_time exclude using gist (one(user_id) with &&, during with &&));
create table moved_first (n int);
create function moved() returns trigger language plpgsql as 'begin insert into desk.moved_first values (nextval(''desk.moves'')); return new; end';
create sequence moves;
create trigger moved before update on a_log for each row execute function moved();
begin;
insert into a_log values (ada());
insert into bookings values (1, ada(), '[1,3)'), (2, bob(), '[5,7)');
select * from merge() where "table" = 'desk.bookings';
rollback;
select setval('moves', 1);
begin;
insert into a_log values (ada());
insert into bookings values (1, ada(), '[1,6)'), (2, bob(), '[5,7)');
select raised('select merge()');
select nextval('moves') as nothing_moved;
select auth.set_merge_rule('bookings', 'keep_account');
select * from merge() where "table" = 'desk.bookings';
select id, who(user_id) from bookings;
rollback;
drop schema desk cascade;

-- Tables of four owners, each with a foreign key on the next, under row-level security that not even they pass.
create schema owners;
set search_path = owners, public;
create role owner_1; create role owner_2; create role owner_3; create role owner_4;
grant usage on schema owners to owner_1, owner_2, owner_3, owner_4;
create table a (id int primary key, user_id uuid unique references auth.users (id) on delete cascade);
create table b (id int primary key, a int references a on delete cascade, user_id uuid references auth.users (id) on delete cascade);
create table c (id int primary key, b int references b on delete cascade, name text, unique (b, name));
create table d (c int references c on delete cascade deferrable initially deferred, user_id uuid references auth.users (id) on delete cascade deferrable initially deferred);
create table seen (what text, who name default current_user);
create function seen() returns trigger language plpgsql security invoker as $$ begin insert into owners.seen values (tg_table_name || ' ' || tg_op); return coalesce(new, old); end $$;
grant insert on seen to public;
do $$
declare
    t text;
begin
    foreach t in array array['a', 'b', 'c', 'd'] loop
        execute format('create trigger seen after insert or update or delete on %I for each row execute function seen()', t);
        execute format('alter table %1$I enable row level security, force row level security', t);
        execute format('alter table %I owner to owner_%s', t, ascii(t) - 96);
    end loop;
end
$$;
insert into a values (1, ada()), (2, bob());
insert into b values (10, 1, ada()), (20, 2, bob());
insert into c values (100, 10, 'x'), (101, 10, 'y'), (200, 20, 'x');
insert into d values (100, ada()), (101, bob()), (200, ada());
begin;
alter table b add unique (a);
truncate seen;
select * from merge();
select * from seen order by 1, 2;
select * from c order by 1;
select c, who(user_id) from d order by 1;
rollback;
begin;
select auth.set_merge_rule('a', 'keep_account');
truncate seen;
select * from merge();
select * from seen order by 1, 2;
rollback;
-- Another owner's key that follows updates is in nobody's way while what it references stays.
begin;
alter table c drop constraint c_b_fkey, add foreign key (b) references b on update cascade on delete cascade;
alter table b add unique (a);
select * from merge();
select * from c order by 1;
rollback;
drop schema owners cascade;
drop role owner_1, owner_2, owner_3, owner_4;

-- Columns that hold a user's id without a foreign key.
create schema loose;
set search_path = loose, public;
create table notes (owner uuid, body text, unique (owner, body));
create table old_log (user_name text, what text);
begin;
insert into notes values (ada(), 'x'), (bob(), 'x'), (ada(), 'y');
insert into old_log values (ada()::text, 'login');
select * from merge();
select who(owner), body from notes order by 2, 1;
rollback;
begin;
insert into notes values (ada(), 'x'), (bob(), 'x'), (ada(), 'y');
insert into old_log values (ada()::text, 'login');
select auth.set_merge_rule('notes', user_columns => '{owner}'), auth.set_merge_rule('old_log', user_columns => '{user_name}');
select table_schema, table_name, column_name, foreign_key, through, on_delete, rule, has_index, create_index from auth.owned_tables;
select * from merge();
select who(owner), body from notes order by 2, 1;
select user_name = bob()::text as of_bob from old_log;
rollback;
-- A table that inherits such a column is one of its own.
create table archived_notes () inherits (notes);
begin;
insert into archived_notes values (ada(), 'z');
insert into notes values (ada(), 'x');
select auth.set_merge_rule('notes', user_columns => '{owner}');
select raised('select merge()');
select auth.set_merge_rule('archived_notes', user_columns => '{owner}');
select * from merge();
select tableoid::regclass, who(owner), body from notes order by 3;
rollback;
drop schema loose cascade;

-- What a trigger adds to a row that goes, goes too; and what stays under the key of a row that goes, by a default or a trigger, is refused.
create schema late;
set search_path = late, public;
create table carts (id int primary key, user_id uuid not null unique references auth.users (id) on delete cascade);
create table items (cart_id int references carts (id) on delete cascade, product text);
create function add_gift() returns trigger language plpgsql as $$ begin insert into late.items values (old.id, 'gift'); return old; end $$;
begin;
create trigger add_gift before delete on carts for each row execute function add_gift();
insert into carts values (1, ada()), (2, bob());
insert into items values (1, 'tea');
select * from merge();
select * from items;
rollback;
begin;
alter table items drop constraint items_cart_id_fkey, alter cart_id set default 1, add foreign key (cart_id) references carts on delete set default;
insert into carts values (1, ada()), (2, bob());
insert into items values (1, 'tea');
select auth.set_merge_rule('carts', 'keep_account');
select raised('select merge()');
rollback;
begin;
alter table items drop constraint items_cart_id_fkey, add foreign key (cart_id) references carts on delete set null;
create function keep_row() returns trigger language plpgsql as 'begin return null; end';
create trigger keep_row before update on items for each row execute function keep_row();
insert into carts values (1, ada()), (2, bob());
insert into items values (1, 'tea');
select auth.set_merge_rule('carts', 'keep_account');
select raised('select merge()');
rollback;
-- A trigger or a rule that changes another row, in the very words of the merge: the keys of others hold.
create table orders (cart_id int references carts);
begin;
create function delete_other() returns trigger language plpgsql as $$
begin
    if old.id = 1 then
        execute 'delete from only late.carts as t using rows from (pg_catalog.unnest($1), pg_catalog.unnest($2)) as p(o, c) where t.tableoid operator(pg_catalog.=) p.o and t.ctid operator(pg_catalog.=) p.c'
          using array['late.carts'::regclass::oid], array[(select ctid from late.carts where id = 3)];
    end if;
    return old;
end
$$;
create trigger delete_other before delete on carts for each row execute function delete_other();
insert into carts values (1, ada()), (2, bob()), (3, (auth.sign_in_anonymously()->'user'->>'id')::uuid);
insert into orders values (3);
select raised('select merge()');
rollback;
begin;
create rule delete_other as on delete to carts where old.id = 1 do also update carts set id = 30 where id = 3;
insert into carts values (1, ada()), (2, bob()), (3, (auth.sign_in_anonymously()->'user'->>'id')::uuid);
insert into orders values (3);
select raised('select merge()');
rollback;
drop schema late cascade;

-- Columns and tables of any name: those that are SQL's own words, and those that statements of a merge might use.
create schema "only";
set search_path = "only", public;
create table t (o text, c int generated always as (v1 + 1) stored, x1 int, k1 text, v1 int, "user" uuid references auth.users (id) on delete cascade,
                guest uuid, account int, "row id" int, m int, e int, b int, p int, x int, n1 text, o1 text, "t" int, id int primary key,
                check (o1 <> n1 or "user" is null), unique ("user", o, c), unique ("user", "row id"));
create unique index on t ("user", lower(k1), x1) where m = e;
create table m (o1 int references t on delete cascade, n1 int, "only" int references t (id), k int, x1 text, unique (o1, x1), unique (n1, "only"));
create table keys ("select" uuid references auth.users (id), "from" uuid references auth.users (id), "m.o1" text, "where" int, unique ("select", "from", "m.o1"));
begin;
insert into t (id, o, x1, k1, v1, "user", "row id", o1, n1, m, e, "t") values
    (1, 'a', 1, 'K', 5, ada(), 1, '1', '2', 1, 1, 1), (2, 'b', 2, 'L', 6, ada(), 2, '1', '2', 1, 1, 1), (3, 'a', 3, 'M', 5, bob(), 3, '1', '2', 1, 1, 1);
insert into m values (1, 1, 1, 1, 'x'), (3, 1, 3, 1, 'x'), (2, 5, 1, 1, 'y'), (1, 6, 2, 1, 'z');
insert into keys values (ada(), ada(), 'a', 1), (ada(), bob(), 'a', 2), (bob(), bob(), 'b', 3), (null, ada(), 'b', 4);
select auth.set_merge_rule('m', 'sum', '{k}');
select * from merge();
select id, o, c, who("user"), "row id" from t order by id;
select * from m order by n1;
select who("select"), who("from"), "m.o1", "where" from keys order by "where";
rollback;
drop schema "only" cascade;

-- A row that holds both ids in two columns becomes one of the account's at once: a constraint sees no state in between.
-- What the account could not have is refused by name, before anything moves; the application's function knows better.
create schema pairs;
set search_path = pairs, public;
create table gifts (id int, giver uuid references auth.users (id), receiver uuid references auth.users (id), unique (receiver, id));
create table thanks (receiver uuid, gift int, words text, foreign key (receiver, gift) references gifts (receiver, id));
begin;
-- A key of which nothing changes is left alone.
select auth.sign_in_anonymously()->'user'->>'id' as carol \gset
insert into gifts values (1, ada(), :'carol'), (2, :'carol', ada()), (3, ada(), ada()), (4, bob(), ada()), (5, ada(), null);
insert into thanks select receiver, id, 'for ' || id from gifts where receiver is not null;
select * from merge();
select id, who(giver) = 'Bob' as of_bob, who(receiver) = 'Bob' as for_bob from gifts order by id;
select gift, who(receiver) = 'Bob' as of_bob from thanks order by gift;
rollback;
create table friends (u uuid references auth.users (id), v uuid references auth.users (id), since int, primary key (u, v), constraint not_oneself check (u <> v));
create table drafts (owner uuid references auth.users (id), editor uuid references auth.users (id), locked boolean generated always as (owner <> editor) stored,
                     constraint by_owner check (owner = editor), constraint unlocked check (not locked));
create table updates (n int generated always as identity, what text);
create function noted() returns trigger language plpgsql as $$ begin insert into pairs.updates (what) values (tg_table_name); return new; end $$;
create trigger noted before update on drafts for each row execute function noted();
create trigger noted before update on friends for each row execute function noted();
begin;
insert into friends values (ada(), (auth.sign_in_anonymously()->'user'->>'id')::uuid, 1);
insert into drafts values (ada(), ada()), (bob(), bob());
savepoint before;
select * from merge();
select who(owner), who(editor) from drafts;
select what from updates;
rollback to before;
insert into friends values (ada(), bob(), 2), (bob(), ada(), 3);
select raised('select merge()');
select count(*) as of_ada from drafts where owner = ada();
create function merge_friends(guest uuid, account uuid) returns void language sql as $$
    delete from pairs.friends where u in (guest, account) and v in (guest, account);
    update pairs.friends set u = account where u = guest;
    update pairs.friends set v = account where v = guest;
$$;
select auth.set_merge_rule('friends', 'function', function => 'merge_friends(uuid, uuid)');
select * from merge();
rollback;
drop schema pairs cascade;

-- A key with a NULL in it is referenced by nothing.
create schema nothing;
set search_path = nothing, public;
create table codes (user_id uuid references auth.users (id), code text, unique (user_id, code));
create table uses (user_id uuid, code text, foreign key (user_id, code) references codes (user_id, code));
begin;
insert into codes values (ada(), null), (bob(), 'x');
insert into uses values (ada(), null), (bob(), 'x'), (null, 'x');
select * from merge();
select who(user_id), code from codes order by 2;
select count(*) as of_ada from uses where user_id = ada();
rollback;
drop schema nothing cascade;

-- A row that hangs on two rows that move or go is counted once.
create schema twice;
set search_path = twice, public;
create table spots (id int primary key, user_id uuid references auth.users (id), name text, unique (user_id, name));
create table ways (a int references spots on delete cascade, b int references spots on delete cascade, length int);
begin;
insert into spots values (1, ada(), 'home'), (2, ada(), 'work'), (3, bob(), 'home'), (4, bob(), 'work');
insert into ways values (1, 2, 10), (2, 1, 11), (1, 4, 12), (3, 4, 13), (4, 4, 14);
savepoint before;
select * from merge();
select * from ways order by length;
rollback to before;
select auth.set_merge_rule('spots', 'keep_account');
select * from merge();
select * from ways order by length;
rollback to before;
-- A rule that calls a function is one of a table that holds the id.
create function merge_ways(guest uuid, account uuid) returns void language sql as '';
select auth.set_merge_rule('ways', 'function', function => 'merge_ways(uuid, uuid)');
select raised('select merge()');
rollback;
drop schema twice cascade;

-- Keys of types that lose something where they are named without a length, and collations that call different texts equal:
-- what references a row that goes is found whatever its key is.
create schema types;
set search_path = types, public;
\if :icu
create collation caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
\else
create collation caseless from "C";
\endif
create table rooms (user_id uuid references auth.users (id) on delete cascade, code char(5) unique, bits bit(4) unique, name text collate caseless unique, n int, unique (user_id, n));
create table by_code (room char(5) references rooms (code) on delete cascade, n int);
create table by_bits (room bit(4) references rooms (bits), n int);
-- From Postgres 18 on the collation has to be the same.
select case when current_setting('server_version_num')::int < 180000 then '"default"' else 'caseless' end as collation \gset
create table by_name (room text collate :collation references rooms (name) on delete cascade, n int);
begin;
insert into rooms values (ada(), 'abc', '1010', 'News', 1), (bob(), 'bcd', '0101', 'Old', 1);
insert into by_code values ('abc', 1), ('bcd', 2);
insert into by_bits values ('1010', 1), ('0101', 2);
insert into by_name values (case when :'icu' then 'NEWS' else 'News' end, 1), ('Old', 2);
select * from merge();
select c.n, c.room, b.room, a.room from by_code c join by_bits b using (n) join by_name a using (n) order by 1;
rollback;
drop schema types cascade;

-- Several foreign keys of the same column; keys that are generated in part, or wholly from a column that is registered.
create schema generated;
set search_path = generated, public;
create table twice (user_id uuid references auth.users (id) on delete cascade, foreign key (user_id) references auth.users (id));
create table members (room int, user_id uuid references auth.users (id) on delete cascade, kind text default 'm', primary key (room, user_id, kind));
create table messages (id int, room int, author uuid, kind text generated always as ('m') stored, foreign key (room, author, kind) references members (room, user_id, kind));
create table copies (owner uuid, user_id uuid generated always as (owner) stored references auth.users (id));
begin;
insert into twice values (ada());
insert into members values (1, ada()), (1, bob()), (2, ada());
insert into messages values (1, 1, ada()), (2, 1, bob()), (3, 2, ada());
select * from merge();
select id, who(author) from messages order by id;
rollback;
begin;
insert into copies values (ada());
select raised('select merge()');
select auth.set_merge_rule('copies', user_columns => '{owner}');
select * from merge();
select who(owner), who(user_id) from copies;
rollback;
drop schema generated cascade;

-- A trigger that changes the row that is about to go, as one does that counts what hangs on it; one that deletes it.
create schema counted;
set search_path = counted, public;
create table posts (id int primary key, user_id uuid references auth.users (id) on delete cascade, part_of int references posts on delete cascade, comments int default 0);
create table comments (post int references posts on delete cascade, body text);
create function count_comments() returns trigger language plpgsql as $$
begin
    update counted.posts set comments = comments - 1 where id = old.post;
    delete from counted.posts where id = old.post and comments < 0;
    return null;
end
$$;
create trigger count_comments after delete on comments for each row execute function count_comments();
begin;
insert into posts values (1, ada(), null, 2), (2, ada(), 1, 1), (3, bob(), null, 1), (4, null, 2, 1), (5, ada(), null, 0);
insert into comments values (1, 'a'), (1, 'b'), (2, 'c'), (3, 'd'), (4, 'e'), (5, 'f');
savepoint before;
select auth.set_merge_rule('posts', 'keep_account');
select * from merge();
select id, who(user_id), comments from posts;
rollback to before;
select auth.set_merge_rule('posts', 'ignore');
select * from merge();
select id, who(user_id), comments from posts;
rollback;
drop schema counted cascade;

-- A CHECK that calls the extension's functions, which are in nobody's search_path.
create schema checks;
set search_path = checks, public;
create table notes (user_id uuid references auth.users (id), body text, check (auth.is_anonymous() is not true or user_id is null or length(body) < 10));
begin;
insert into notes values (ada(), 'x');
select * from merge();
select who(user_id), body from notes;
rollback;
drop schema checks cascade;

-- NULLs that collide, in columns of all kinds.
create schema nulls;
set search_path = nulls, public;
create domain word as text;
create type pair as (a int, b text);
create table t (id int, user_id uuid references auth.users (id) on delete cascade, a int[], w word, p pair, o text, c char(3));
create unique index on t (user_id, a, w, p, o text_pattern_ops, c) nulls not distinct;
begin;
insert into t values (1, ada(), null, null, null, null, null), (2, bob(), null, null, null, null, null),
                     (3, ada(), '{}', 'x', '(1,)', 'o', 'c'), (4, bob(), '{}', 'x', '(1,)', 'o', 'c'),
                     (5, ada(), '{}', null, '(1,)', 'o', 'c'), (6, bob(), null, null, '(1,)', 'o', 'c'), (7, ada(), null, 'x', '(1,)', null, 'c');
select * from merge();
select id, who(user_id) from t order by id;
rollback;
drop schema nulls cascade;

-- Rows that get the guest's key on the way, in the place of rows that a rule drops, are not the guest's.
create schema passing;
set search_path = passing, public;
create table books (user_id uuid references auth.users (id) on delete cascade, id int, name text, primary key (user_id, id));
create table entries (user_id uuid, book int, n int, foreign key (user_id, book) references books on delete cascade);
begin;
insert into books values (ada(), 1, 'x'), (bob(), 1, 'y'), (ada(), 2, 'z');
insert into entries values (ada(), 1, 1), (ada(), 2, 2), (bob(), 1, 3);
select auth.set_merge_rule('entries', 'keep_account');
select * from merge('guest');
select who(user_id), id, name from books order by id;
select who(user_id), book, n from entries;
rollback;
-- Where a row hangs on two that share the user's id, and one of them collides, it is refused.
create table moves (user_id uuid, source int, target int, foreign key (user_id, source) references books, foreign key (user_id, target) references books);
begin;
insert into books values (ada(), 1, 'x'), (ada(), 2, 'z');
insert into moves values (ada(), 1, 2);
savepoint before;
select * from merge();
select who(user_id), source, target from moves;
rollback to before;
insert into books values (bob(), 1, 'y');
select raised('select merge()');
select who(user_id) = 'Ada' as of_ada, source, target from moves;
rollback;
drop schema passing cascade;

reset search_path;
drop function merge, ada, bob, who;
delete from auth.users;
delete from auth.audit_log_entries;

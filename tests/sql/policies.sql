-- Policies in all the places that a query may put them (W5): the readers are a constant of the query wherever they
-- stand, and follow the token from one query to the next.
\pset format unaligned

-- Two guests, their orders, and the lines of those; both tables are guarded.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
create table orders (id int primary key, user_id uuid not null default auth.uid(), total int);
create table lines (order_id int not null, user_id uuid not null default auth.uid(), item text);
insert into orders select n, case when n % 4 = 0 then :'ada_id' when n % 4 = 1 then :'bob_id' else gen_random_uuid() end::uuid, n from generate_series(1, 400) n;
insert into lines select id, user_id, 'item ' || i from orders, generate_series(1, 3) i;
create index on orders (user_id);
create index on lines (order_id);
analyze orders, lines;
alter table orders enable row level security;
alter table lines enable row level security;
create policy own on orders to authenticated using (user_id = auth.uid()) with check (user_id = auth.uid() and auth.is_anonymous());
create policy own on lines to authenticated using (user_id = auth.uid())
    with check (exists (select from orders o where o.id = order_id and o.user_id = auth.uid()));
grant select, insert, update, delete on orders, lines to authenticated;
create view my_orders with (security_invoker) as select * from orders;
create view all_orders as select id, user_id, auth.uid() as reader from orders;
create view barred with (security_invoker, security_barrier) as select * from orders where total > 100;
grant select, insert on my_orders, all_orders, barred to authenticated;

set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as ada;

-- An index finds the guest's rows, as it would for a constant: the reader is a condition of the index and no filter.
set local enable_seqscan = off;
set local enable_bitmapscan = off;
explain (costs off) select * from orders;
set local enable_seqscan = on;

-- Joins, whichever way they are done: each side shows its own rows only.
set local enable_hashjoin = off;
set local enable_mergejoin = off;
set local enable_material = off;
set local enable_memoize = off;
explain (costs off) select count(*) from orders join lines on order_id = id;
select count(*), sum(total), bool_and(o.user_id = :'ada_id' and l.user_id = :'ada_id') as own from orders o join lines l on order_id = id;
set local enable_nestloop = off;
set local enable_hashjoin = on;
select count(*), sum(total), bool_and(o.user_id = :'ada_id' and l.user_id = :'ada_id') as own from orders o join lines l on order_id = id;
set local enable_hashjoin = off;
set local enable_mergejoin = on;
select count(*), sum(total), bool_and(o.user_id = :'ada_id' and l.user_id = :'ada_id') as own from orders o join lines l on order_id = id;
reset enable_nestloop;
reset enable_hashjoin;
select count(*) from orders o, lateral (select from lines where order_id = o.id offset 2) l;
select count(*) from orders where id in (select order_id from lines) and not exists (select from lines where order_id = orders.id and user_id <> auth.uid());

-- Through views: one that runs as its caller shows the caller's rows; one that runs as its owner shows all that the
-- owner sees, but the readers in it still say who is asking.
select count(*), bool_and(user_id = :'ada_id') as own from my_orders;
select count(*), bool_and(user_id = :'ada_id') as own from barred;
select count(*), count(*) filter (where user_id = :'ada_id') as own, bool_and(reader = :'ada_id') as reader from all_orders;

-- INSERT … SELECT with check: rows of one's own pass, one that is not fails the statement.
insert into orders select id + 1000, user_id, total from orders;
select count(*) from orders;
select raised('insert into orders select 5000 + n, case when n < 50 then auth.uid() else gen_random_uuid() end, n from generate_series(1, 50) n');
select raised('update orders set user_id = $1::uuid where id = 4', :'bob_id');
insert into lines (order_id, item) select id, 'gift' from orders where id > 1000;
select raised('insert into lines (order_id, item) values (1, ''for Bob'')');
insert into my_orders (id, total) select 3000, 1 returning user_id = :'ada_id' as own;
insert into orders (id, total) values (4, 0) on conflict (id) do update set total = -1 returning id, total;
select raised('insert into orders (id, total) values (1, 0) on conflict (id) do update set total = -1');
delete from lines using orders where order_id = id and item = 'gift';
select count(*) from lines;
rollback;

-- A prepared statement is run again after the token changed, with a custom plan and with a generic one; so is a
-- function of the application, whose plans are kept.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
create table notes (user_id uuid, body text);
insert into notes values (:'ada_id', 'of Ada'), (:'ada_id', 'also of Ada'), (:'bob_id', 'of Bob');
create index on notes (user_id);
alter table notes enable row level security;
create policy own on notes to authenticated using (user_id = auth.uid());
grant select on notes to authenticated;
create function bodies() returns text language plpgsql as $$
begin
    return (select string_agg(body, ', ' order by body) from notes);
end
$$;
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as ada;
prepare bodies(text) as select body, auth.uid() = :'ada_id' as ada from notes where body like $1 order by body;
set local plan_cache_mode = force_custom_plan;
execute bodies('%');
set local plan_cache_mode = force_generic_plan;
execute bodies('%');
select bodies();
select auth.authenticate(:'bob_token') = :'bob_id' as bob;
execute bodies('%');
select bodies();
set local plan_cache_mode = force_custom_plan;
execute bodies('%');
select set_config('anon_auth.access_token', '', true);
execute bodies('%');
select bodies();

-- The token changes in mid-transaction, and a rollback to a savepoint brings back the one before, with its rows.
select auth.authenticate(:'ada_token') = :'ada_id' as ada;
savepoint ada;
select auth.authenticate(:'bob_token') = :'bob_id' as bob;
select bodies();
savepoint bob;
select set_config('anon_auth.access_token', 'x', true);
select bodies();
rollback to bob;
select bodies(), auth.uid() = :'bob_id' as bob, auth.jwt()->>'sub' = :'bob_id' as bob_jwt;
rollback to ada;
select bodies(), auth.uid() = :'ada_id' as ada, auth.jwt()->>'sub' = :'ada_id' as ada_jwt;
-- One that failed, the same.
savepoint failed;
select auth.authenticate('x');
rollback to failed;
select bodies();
-- And when a savepoint is released, what was set in it stays.
savepoint released;
select auth.authenticate(:'bob_token') = :'bob_id' as bob;
release released;
select bodies();
deallocate bodies;
rollback;


-- The application of the benchmark: a million documents of a thousand guests, without an index on their owner.

create extension anon_auth;
create role app login noinherit;
create role app_unchecked login noinherit;
select auth.create_roles('app');
select auth.create_roles('app_unchecked');
alter role app_unchecked set anon_auth.check_session = off;

select auth.sign_in_anonymously() as session \gset
select :'session'::jsonb->>'access_token' as access_token, :'session'::jsonb->'user'->>'id' as user_id \gset

-- The guest that reads owns one document in a hundred.
create table documents (id bigint primary key, user_id uuid not null, body text not null);
insert into documents
select i, case when i % 100 = 0 then :'user_id' else '00000000-0000-7000-8000-' || lpad((i % 1000)::text, 12, '0') end::uuid,
       'document ' || i
  from generate_series(1, 1000000) i;

-- The yardstick is a role of its own, whose policy has the guest's id as a literal.
create role yardstick login;
alter table documents enable row level security;
create policy own on documents to authenticated using (user_id = auth.uid());
create policy literal on documents to yardstick using (user_id = :'user_id');
grant select on documents to authenticated, yardstick;

-- What pgbench is told: the token, and the claims that customary readers would take.
create view guest as
select :'access_token'::text as access_token, auth.verify_token(:'access_token')::text as claims;

-- Ids in the order of time, as the extension makes them, so that the yardstick's indexes stay local too.
create function ordered_id() returns uuid language sql volatile as $$
    select (lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0')
            || substr(replace(gen_random_uuid()::text, '-', ''), 13))::uuid
$$;
vacuum (freeze, analyze);

-- Users who come from Supabase Auth. (Those of better-auth are in the integration tests, which run the real thing.)
\pset format unaligned
begin;

-- The columns that matter here, as its migrations make them.
create schema supabase_auth;
create table supabase_auth.users (
    instance_id uuid, id uuid primary key, aud varchar(255), role varchar(255), email varchar(255), encrypted_password varchar(255),
    email_confirmed_at timestamptz, last_sign_in_at timestamptz, raw_app_meta_data jsonb, raw_user_meta_data jsonb,
    is_super_admin boolean, created_at timestamptz, updated_at timestamptz, phone text default null, phone_confirmed_at timestamptz,
    banned_until timestamptz, is_sso_user boolean not null default false, deleted_at timestamptz, is_anonymous boolean not null default false);
create table supabase_auth.identities (
    provider_id text not null, user_id uuid not null, identity_data jsonb not null, provider text not null, last_sign_in_at timestamptz,
    created_at timestamptz, updated_at timestamptz, id uuid primary key default gen_random_uuid(),
    email text generated always as (lower(identity_data->>'email')) stored);
create table supabase_auth.sessions (id uuid primary key, user_id uuid not null, created_at timestamptz, refreshed_at timestamp);
create table supabase_auth.mfa_factors (id uuid primary key, user_id uuid not null);

create function id(n int) returns uuid language sql immutable as $$ select ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid $$;
insert into supabase_auth.users (id, aud, role, email, encrypted_password, email_confirmed_at, phone, phone_confirmed_at, raw_app_meta_data,
                                 raw_user_meta_data, is_anonymous, created_at, updated_at, last_sign_in_at, banned_until, deleted_at, is_super_admin, is_sso_user)
select id(n), 'authenticated', role, email, password, confirmed, phone, phone_confirmed, app, data, guest, '2025-01-01 00:00Z'::timestamptz + n * interval '1 day',
       '2025-03-01 12:00Z', signed_in, banned, deleted, super_admin, sso
  from (values
    -- A password of bcrypt: "correct horse".
    (1, 'authenticated', 'ada@example.org', '$2b$04$co.zxPuQvFqnLtdrfivynOyEQj0fZ.LRQVyl6AWJ/ftQs.ViILzXO', '2025-02-01Z'::timestamptz, null, null::timestamptz, '{"provider": "email", "plan": "gold"}'::jsonb, '{"name": "Ada"}'::jsonb, false, '2025-06-01 10:00Z'::timestamptz, null::timestamptz, null::timestamptz, null::boolean, false),
    -- A phone number, stored without the plus sign.
    (2, 'authenticated', null, null, null, '4930123456', '2025-02-01Z', '{}', '{}', false, null, null, null, null, false),
    -- A guest, and one whose columns are all empty.
    (3, 'authenticated', null, '', null, '', null, '{}', '{"theme": "dark"}', true, null, null, null, null, false),
    (4, null, null, null, null, null, null, null, null, true, null, null, null, null, false),
    -- Nothing is proven, so the password is nobody's.
    (5, 'authenticated', 'bob@example.org', '$2b$04$co.zxPuQvFqnLtdrfivynOyEQj0fZ.LRQVyl6AWJ/ftQs.ViILzXO', null, null, null, '{}', '{}', false, null, null, null, null, false),
    -- The same address once more, as another spelling.
    (6, 'authenticated', 'ADA@example.org', null, '2025-02-02Z', null, null, '{}', '{}', false, null, null, null, null, true),
    (7, 'service_role', 'not an address', '$fbscrypt$v=1,n=14,r=8,p=1$x$y', '2025-02-02Z', '12', '2025-02-02Z', '[]', '"text"', false, null, 'infinity', null, true, false),
    (8, 'authenticated', 'eve@example.org', null, '2025-02-02Z', null, null, '{}', jsonb_build_object('a', repeat('x', 5000)), false, null, null, '2025-05-01Z', null, false)
  ) u(n, role, email, password, confirmed, phone, phone_confirmed, app, data, guest, signed_in, banned, deleted, super_admin, sso);
insert into supabase_auth.identities (id, provider_id, user_id, identity_data, provider, created_at) values
    (id(11), id(1)::text, id(1), '{"email": "ada@example.org"}', 'email', '2025-02-01Z'),
    (id(12), 'g-1', id(1), '{"sub": "g-1", "email": "ada@example.org"}', 'google', '2025-02-01Z'),
    (id(13), 'g-2', id(99), '{}', 'google', '2025-02-01Z');
insert into supabase_auth.sessions values (id(21), id(3), '2025-03-01Z', '2025-07-01 08:00'), (id(22), id(3), '2025-03-02Z', null);
insert into supabase_auth.mfa_factors values (id(31), id(2));

select * from auth.import_supabase('supabase_auth');
select right(id::text, 1) as id, role, email, email_confirmed_at is not null as confirmed, phone, phone_confirmed_at is not null as phone_confirmed,
       left(encrypted_password, 7) as password, is_anonymous as guest, banned_until, created_at at time zone 'UTC' as created, last_active_on
  from auth.users order by id;
select right(id::text, 1) as id, raw_app_meta_data, left(raw_user_meta_data::text, 30) as raw_user_meta_data from auth.users order by id;
select right(user_id::text, 1) as "user", provider, replace(provider_id, user_id::text, 'id') as provider_id,
       identity_data - 'sub' as identity_data from auth.identities order by user_id, provider;

-- The password keeps working, and is hashed anew.
select auth.sign_in_with_password('ada@example.org', 'correct horse')->'user'->>'id' = id(1)::text as is_ada;
select left(encrypted_password, 10) as password from auth.users where id = id(1);
select auth.sign_in_with_password('ada@example.org', 'correct horse')->'user'->>'id' = id(1)::text as is_ada;
select raised($$ select auth.sign_in_with_password('bob@example.org', 'correct horse') $$);

-- Again: nothing changes.
create temp table before as select * from auth.users;
select source_id, problem from auth.import_supabase('supabase_auth') where problem in ('user_exists', 'imported') order by 2, 1;
select count(*) as changed from (table auth.users except table before) c;
-- Who comes later, comes too.
insert into supabase_auth.users (id, email, email_confirmed_at, created_at) values (id(9), 'ada@example.org', now(), now());
select source_id, problem, detail from auth.import_supabase('supabase_auth') where source_id = id(9)::text or problem = 'imported' order by 2;

-- An older version, with fewer tables and columns.
create schema old_auth;
create table old_auth.users (id uuid primary key, email varchar(255), encrypted_password varchar(255), created_at timestamptz);
insert into old_auth.users values (id(50), 'fay@example.org', null, '2020-01-01Z');
select * from auth.import_supabase('old_auth');
select email, email_confirmed_at, is_anonymous, raw_user_meta_data from auth.users where id = id(50);

select raised($$ select * from auth.import_supabase('nowhere') $$) union all
select raised($$ select * from auth.import_supabase(null) $$) union all
select raised($$ select * from auth.import_better_auth('supabase_auth') $$);

-- Ids of better-auth.
select auth.imported_id('0198F1C2-0000-7000-8000-000000000000') as kept, auth.imported_id('DVmCZGG0R6AZ4cgtBsFMZRZawSrSlII3') as made;

-- Reading a source that somebody else owns runs nothing of theirs with rights of the caller's: neither through a view nor
-- through a cast or an index (N16).
create role import_owner;
create schema foreign_auth authorization import_owner;
set local role import_owner;
create function foreign_auth.who(text) returns text language plpgsql immutable as $$ begin assert current_user = 'import_owner', 'ran as ' || current_user; return current_user; end $$;
create type foreign_auth.kind as enum ('a');
create function foreign_auth.to_json(foreign_auth.kind) returns json language sql immutable as $$ select to_json(foreign_auth.who('cast')) $$;
create cast (foreign_auth.kind as json) with function foreign_auth.to_json(foreign_auth.kind);
create table foreign_auth.users (id uuid primary key, created_at timestamptz, kind foreign_auth.kind);
create index on foreign_auth.users ((foreign_auth.who('index')));
alter table foreign_auth.users enable row level security, force row level security;
create view foreign_auth.sessions as select id as user_id, created_at, foreign_auth.who('view') as kind from foreign_auth.users;
reset role;
insert into foreign_auth.users values (id(60), '2020-01-01Z', 'a');
select problem, detail from auth.import_supabase('foreign_auth');

-- Nobody but a superuser; and whoever was granted that reads what is their own.
grant execute on function auth.source_rows(text, text) to import_owner;
set local role import_owner;
select count(*) from auth.source_rows('foreign_auth', 'users');
select raised($$ select auth.source_rows('supabase_auth', 'users') $$);
set local role service_role;
select has_function_privilege(p, 'execute') as may, p::regprocedure from unnest(array['auth.import_supabase(text)', 'auth.import_better_auth(text, boolean)', 'auth.import_users()', 'auth.prepare_import(text, text)', 'auth.source_rows(text, text)']::regprocedure[]) p;
rollback;

-- Users of Supabase Auth and better-auth, taken over from their tables in this database.
--
-- Both functions bring what they find into one form, in temporary tables, and auth.import_users() takes it from
-- there. They run with the rights of the caller, a superuser, and read the source as JSON, so that columns which a
-- version of the source does not have, or has besides, do no harm.

create function auth.normal_address(kind text, address text) returns text
    language c immutable parallel safe strict set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_normal_address';
comment on function auth.normal_address(text, text) is
'An e-mail address or a phone number in the form in which the extension stores it; NULL where it is not one.
Arguments: kind, email or phone; address.
Example: select auth.normal_address(''email'', ''Ada@Example.ORG'');';

create function auth.imported_password(hash text) returns text
    language c immutable parallel safe strict set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_imported_password';
comment on function auth.imported_password(text) is
'A password hash that somebody else made, in the form in which auth.sign_in_with_password() knows it; NULL where it is of no kind that it knows.
Arguments: hash, by bcrypt, by scrypt in the form of better-auth, or by Argon2id as a PHC string.
Example: select auth.imported_password(encrypted_password) is not null from supabase_auth.users;';

create function auth.imported_id(id text) returns uuid
    language sql immutable parallel safe strict set search_path = pg_catalog, auth, pg_temp
as $$
    -- A UUID of version 8 (RFC 9562) where it is none: the first bits of a digest.
    select case when id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then id::uuid
                else encode(set_byte(set_byte(substr(digest, 1, 16),
                                              6, get_byte(digest, 6) & 15 | 128),
                                     8, get_byte(digest, 8) & 63 | 128), 'hex')::uuid end
      from sha256(convert_to('anon_auth imported id' || chr(10) || id, 'UTF8')) digest
$$;
comment on function auth.imported_id(text) is
'The id that a user of better-auth has here: its own where that is a UUID, else a UUID made from it. For columns of application tables that hold such ids.
Arguments: id, as better-auth has it.
Example: alter table orders alter column user_id type uuid using auth.imported_id(user_id);';

create function auth.import_users() returns table (source_table text, source_id text, problem text, detail text)
    language plpgsql security invoker set search_path = pg_catalog, auth, pg_temp
as $$
declare
    metadata_limit constant int := auth.setting('user_metadata_limit')::int;
begin
    analyze pg_temp.incoming_users;
    analyze pg_temp.incoming_identities;

    -- Who is there already is left alone.
    return query
        delete from pg_temp.incoming_users u using auth.users known where known.id = u.id
        returning u.source_table, u.source_id, 'user_exists', format('user %s is here already and was left as it is', u.id);

    -- What a user had and does not bring along.
    return query
        select u.source_table, u.source_id, p.problem, p.detail
          from pg_temp.incoming_users u
          cross join lateral (
              select 'email_invalid', format('"%s" is not an e-mail address; the user arrives without it', left(u.email, 80))
               where u.email is not null and auth.normal_address('email', u.email) is null
              union all
              select 'phone_invalid', format('"%s" is not a phone number; the user arrives without it', left(u.phone, 80))
               where u.phone is not null and auth.normal_address('phone', u.phone) is null
              union all
              select 'password_unknown', 'the password hash is of a kind that is not known; the user needs a new password'
               where u.password is not null and auth.imported_password(u.password) is null
              union all
              select 'role_changed', format('the role "%s" is not taken over; the user arrives as authenticated', left(u.role, 80))
               where u.role not in ('', 'authenticated')
              union all
              select 'metadata_too_large',
                     format('the user metadata has %s bytes, more than user_metadata_limit allows; shorten it, or the user gets no token',
                            octet_length(u.user_metadata::text))
               where octet_length(u.user_metadata::text) > metadata_limit
          ) p(problem, detail)
         order by 2, 3;
    update pg_temp.incoming_users u
       set email = auth.normal_address('email', u.email), phone = auth.normal_address('phone', u.phone),
           password = auth.imported_password(u.password);

    -- Of several who have proven an address, the first keeps it; here already is before all.
    return query
        with claims as (
            select u.id, u.source_table, u.source_id, 'email' as kind, u.email as address,
                   row_number() over (partition by lower(u.email) order by u.created_at, u.id) as place,
                   exists (select from auth.users k where lower(k.email) = lower(u.email) and k.email_confirmed_at is not null) as is_taken
              from pg_temp.incoming_users u where u.email is not null and u.email_confirmed_at is not null
            union all
            select u.id, u.source_table, u.source_id, 'phone', u.phone,
                   row_number() over (partition by u.phone order by u.created_at, u.id),
                   exists (select from auth.users k where k.phone = u.phone and k.phone_confirmed_at is not null)
              from pg_temp.incoming_users u where u.phone is not null and u.phone_confirmed_at is not null
        ), late as (
            select * from claims where is_taken or place > 1
        ), changed as (
            update pg_temp.incoming_users u
               set email = case when exists (select from late l where l.id = u.id and l.kind = 'email') then null else u.email end,
                   phone = case when exists (select from late l where l.id = u.id and l.kind = 'phone') then null else u.phone end
             where u.id in (select id from late)
        )
        select l.source_table, l.source_id, l.kind || '_taken',
               format('another user has proven %s; the user arrives without it', l.address)
          from late l order by 2, 3;

    -- A password is good for nothing without a proven address, and nobody knows whose it is.
    return query
        with changed as (
            update pg_temp.incoming_users u set password = null
             where u.password is not null
               and (u.email is null or u.email_confirmed_at is null) and (u.phone is null or u.phone_confirmed_at is null)
            returning u.source_table, u.source_id
        )
        select c.source_table, c.source_id, 'password_dropped', 'the user has proven no address, so the password was not taken over'
          from changed c order by 2;

    -- Whoever has proven an address has the identity that says so.
    insert into pg_temp.incoming_identities
    select gen_random_uuid(), u.source_table, u.source_id, u.id, a.provider, u.id::text,
           a.data || jsonb_build_object('sub', u.id), u.last_sign_in_at, u.created_at
      from pg_temp.incoming_users u
      cross join lateral (
          select 'email', jsonb_build_object('email', u.email, 'email_verified', true)
           where u.email is not null and u.email_confirmed_at is not null
          union all
          select 'phone', jsonb_build_object('phone', u.phone, 'phone_verified', true)
           where u.phone is not null and u.phone_confirmed_at is not null
      ) a(provider, data);
    return query
        with late as (
            delete from pg_temp.incoming_identities i
             where not exists (select from pg_temp.incoming_users u where u.id = i.user_id)
                or exists (select from auth.identities k where (k.provider_id, k.provider) = (i.provider_id, i.provider))
                or exists (select from pg_temp.incoming_identities o
                            where (o.provider_id, o.provider) = (i.provider_id, i.provider) and o.id < i.id)
            returning i.*
        )
        select l.source_table, l.source_id, 'identity_taken', format('the account "%s" at %s belongs to another user', left(l.provider_id, 80), l.provider)
          from late l
          join pg_temp.incoming_users u on u.id = l.user_id
         order by 2, 4;
    return query
        select null::text, i.provider, 'provider_not_set_up',
               format('%s accounts at this provider arrived; sign-in with them needs auth.set_identity_provider(%L, …)', count(*), i.provider)
          from pg_temp.incoming_identities i
         where i.provider not in ('email', 'phone') and not exists (select from auth.identity_providers p where p.name = i.provider)
         group by i.provider order by 2;

    insert into auth.users (id, aud, email, encrypted_password, email_confirmed_at, phone, phone_confirmed_at, last_sign_in_at,
                            raw_app_meta_data, raw_user_meta_data, is_anonymous, banned_until, created_at, updated_at, last_active_on)
    select u.id, auth.setting('audience'), u.email, u.password, case when u.email is not null then u.email_confirmed_at end,
           u.phone, case when u.phone is not null then u.phone_confirmed_at end, u.last_sign_in_at,
           u.app_metadata, u.user_metadata, u.is_anonymous, u.banned_until, u.created_at, u.updated_at,
           (greatest(u.last_sign_in_at, u.last_active_at) at time zone 'UTC')::date
      from pg_temp.incoming_users u;
    insert into auth.identities (id, user_id, provider, provider_id, identity_data, last_sign_in_at, created_at, updated_at)
    select i.id, i.user_id, i.provider, i.provider_id, i.identity_data, i.last_sign_in_at, i.created_at, i.created_at
      from pg_temp.incoming_identities i;

    return query
        select 'users', null::text, 'imported',
               format('%s permanent users, %s guests, %s identities, %s passwords',
                      count(*) filter (where not u.is_anonymous), count(*) filter (where u.is_anonymous),
                      (select count(*) from pg_temp.incoming_identities), count(u.password))
          from pg_temp.incoming_users u;
    insert into auth.audit_log_entries (action, payload)
    select 'users_imported', jsonb_build_object('users', count(*)) from pg_temp.incoming_users;
    drop table pg_temp.incoming_users, pg_temp.incoming_identities;
end
$$;
comment on function auth.import_users() is
'What auth.import_supabase() and auth.import_better_auth() have in common: takes over the users that they left in temporary tables, and reports.';

create function auth.prepare_import(source_schema text, source_table text) returns void
    language plpgsql security invoker set search_path = pg_catalog, auth, pg_temp set client_min_messages = warning
as $$
begin
    if source_schema is null then
        raise exception 'validation_failed: the schema is missing'
            using errcode = 'PT400', hint = 'Name the schema that holds the tables to import.';
    end if;
    if to_regclass(format('%I.%I', source_schema, source_table)) is null then
        raise exception 'validation_failed: there is no table % in schema "%"', source_table, source_schema
            using errcode = 'PT400', hint = 'Name the schema that holds the tables to import.';
    end if;
    drop table if exists pg_temp.incoming_users, pg_temp.incoming_identities;
    create temp table incoming_users (
        source_table text not null, source_id text not null, id uuid primary key, role text not null default '',
        email text, email_confirmed_at timestamptz, phone text, phone_confirmed_at timestamptz, password text,
        app_metadata jsonb not null, user_metadata jsonb not null, is_anonymous boolean not null, banned_until timestamptz,
        last_sign_in_at timestamptz, last_active_at timestamptz, created_at timestamptz not null, updated_at timestamptz not null);
    create temp table incoming_identities (
        id uuid primary key, source_table text not null, source_id text not null, user_id uuid not null, provider text not null,
        provider_id text not null, identity_data jsonb not null, last_sign_in_at timestamptz, created_at timestamptz not null);
end
$$;
comment on function auth.prepare_import(text, text) is
'Makes the temporary tables that auth.import_users() reads.
Arguments: source_schema, source_table, which has to exist.
Errors: validation_failed (PT400).';

create function auth.source_rows(source_schema text, source_table text) returns setof jsonb
    language c volatile parallel unsafe security invoker set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_source_rows';
comment on function auth.source_rows(text, text) is
'The rows of a table, each as a JSON object, read with the rights of the table''s owner: what views, casts and indexes of somebody else''s run when the table is read gets no rights of the caller''s.
Arguments: source_schema, source_table.
Errors: validation_failed (PT400: no such table), conflict (PT409: somebody changes the table at this moment).
Example: select count(*) from auth.source_rows(''supabase_auth'', ''users'');';

create function auth.import_supabase(source_schema text) returns table (source_table text, source_id text, problem text, detail text)
    language plpgsql security invoker set search_path = pg_catalog, auth, pg_temp
as $$
begin
    perform auth.prepare_import(source_schema, 'users');
    execute format($sql$
        insert into pg_temp.incoming_users
        select 'users', r.id::text, r.id, coalesce(r.role, ''), nullif(r.email, ''), r.email_confirmed_at,
               -- It stores numbers without the plus sign.
               '+' || ltrim(nullif(r.phone, ''), '+'), r.phone_confirmed_at, nullif(r.encrypted_password, ''),
               case when jsonb_typeof(r.raw_app_meta_data) = 'object' then r.raw_app_meta_data else '{}' end,
               case when jsonb_typeof(r.raw_user_meta_data) = 'object' then r.raw_user_meta_data else '{}' end,
               coalesce(r.is_anonymous, false), case when r.deleted_at is null then r.banned_until else 'infinity' end,
               r.last_sign_in_at, s.refreshed_at, coalesce(r.created_at, now()), coalesce(r.updated_at, r.created_at, now())
          from auth.source_rows(%1$L, 'users') u
          cross join lateral jsonb_to_record(u) r(
              id uuid, role text, email text, email_confirmed_at timestamptz, phone text, phone_confirmed_at timestamptz,
              encrypted_password text, raw_app_meta_data jsonb, raw_user_meta_data jsonb, is_anonymous boolean,
              banned_until timestamptz, deleted_at timestamptz, last_sign_in_at timestamptz, created_at timestamptz, updated_at timestamptz)
          left join %2$s s on s.user_id = r.id$sql$, source_schema,
        case when to_regclass(format('%I.sessions', source_schema)) is null then '(select null::uuid as user_id, null::timestamptz as refreshed_at)'
             else format('(select (x->>''user_id'')::uuid as user_id, max(coalesce((x->>''refreshed_at'')::timestamp at time zone ''UTC'', (x->>''created_at'')::timestamptz)) as refreshed_at from auth.source_rows(%L, ''sessions'') x group by 1)', source_schema) end);

    if to_regclass(format('%I.identities', source_schema)) is not null then
        -- An address's identity is made from the user's row, which knows what was proven.
        execute format($sql$
            insert into pg_temp.incoming_identities
            select coalesce(r.id, gen_random_uuid()), 'identities', coalesce(r.id::text, r.provider_id), r.user_id, r.provider, r.provider_id,
                   coalesce(r.identity_data, '{}'), r.last_sign_in_at, coalesce(r.created_at, now())
              from auth.source_rows(%1$L, 'identities') i
              cross join lateral jsonb_to_record(i) r(
                  id uuid, provider_id text, user_id uuid, identity_data jsonb, provider text, last_sign_in_at timestamptz, created_at timestamptz)
             where r.provider not in ('email', 'phone')$sql$, source_schema);
    end if;

    return query execute format($sql$
        select 'users', r.id::text, p.problem, p.detail
          from auth.source_rows(%1$L, 'users') u
          cross join lateral jsonb_to_record(u) r(id uuid, deleted_at timestamptz, is_super_admin boolean, is_sso_user boolean)
          cross join lateral (
              select 'deleted', 'the user was deleted, but its row was kept; it arrives banned for good' where r.deleted_at is not null
              union all
              select 'super_admin', 'is_super_admin is not taken over' where r.is_super_admin
              union all
              select 'sso_user', 'single sign-on by SAML is not taken over; the user cannot sign in until it has another identity' where r.is_sso_user
          ) p(problem, detail)
         order by 2, 3$sql$, source_schema);
    if to_regclass(format('%I.mfa_factors', source_schema)) is not null then
        return query execute format(
            'select ''mfa_factors'', f->>''id'', ''mfa_factor'', format(''the second factor of user %%s is not taken over'', f->>''user_id'') from auth.source_rows(%L, ''mfa_factors'') f order by 2', source_schema);
    end if;
    if to_regclass(format('%I.sessions', source_schema)) is not null then
        return query execute format(
            'select ''sessions'', null::text, ''sessions_not_imported'', format(''%%s sessions end: their users sign in again, and guests cannot come back'', count(*)) from auth.source_rows(%L, ''sessions'') having count(*) > 0', source_schema);
    end if;
    return query select * from auth.import_users();
end
$$;
comment on function auth.import_supabase(text) is
'Takes over the users of Supabase Auth from its tables in a schema of this database: ids, confirmed addresses, passwords (bcrypt; hashed anew at the next sign-in), metadata, guests, bans, identities. Returns a row for each thing that could not be taken over as it was, and one with the counts. Sessions, second factors and SAML are not taken over. Users who are here already are left as they are, so it can be run again. Call it as a superuser.
Arguments: source_schema, such as supabase_auth.
Errors: validation_failed (PT400: no such table).
Example: select * from auth.import_supabase(''supabase_auth'');';

create function auth.import_better_auth(source_schema text default 'public', confirm_addresses boolean default false) returns table (source_table text, source_id text, problem text, detail text)
    language plpgsql security invoker set search_path = pg_catalog, auth, pg_temp
as $$
declare
    plugin record;
begin
    perform auth.prepare_import(source_schema, 'user');
    execute format($sql$
        insert into pg_temp.incoming_users
        select 'user', r.id, auth.imported_id(r.id), '',
               -- A guest's address is made up.
               case when r."emailVerified" or not coalesce(r."isAnonymous", false) then r.email end,
               case when r."emailVerified" or %2$L::boolean and not coalesce(r."isAnonymous", false) then r."updatedAt" end,
               r."phoneNumber", case when r."phoneNumberVerified" then r."updatedAt" end, c.password,
               jsonb_build_object('better_auth_id', r.id) || jsonb_strip_nulls(u - array['id', 'name', 'email', 'emailVerified', 'image',
                   'createdAt', 'updatedAt', 'isAnonymous', 'phoneNumber', 'phoneNumberVerified', 'banned', 'banReason', 'banExpires']),
               jsonb_strip_nulls(jsonb_build_object('name', r.name, 'image', r.image)),
               coalesce(r."isAnonymous", false), case when r.banned then coalesce(r."banExpires", 'infinity') end,
               s.last_sign_in_at, s.last_active_at, r."createdAt", r."updatedAt"
          from auth.source_rows(%1$L, 'user') u
          cross join lateral jsonb_to_record(u) r(
              id text, name text, email text, "emailVerified" boolean, image text, "createdAt" timestamptz, "updatedAt" timestamptz,
              "isAnonymous" boolean, "phoneNumber" text, "phoneNumberVerified" boolean, banned boolean, "banExpires" timestamptz)
          left join (select a->>'userId' as "userId", max(a->>'password') as password from auth.source_rows(%1$L, 'account') a
                      where a->>'providerId' = 'credential' group by 1) c
                 on c."userId" = r.id
          left join (select s->>'userId' as "userId", max((s->>'createdAt')::timestamptz) as last_sign_in_at, max((s->>'updatedAt')::timestamptz) as last_active_at
                       from auth.source_rows(%1$L, 'session') s group by 1) s
                 on s."userId" = r.id$sql$, source_schema, coalesce(confirm_addresses, false));
    execute format($sql$
        insert into pg_temp.incoming_identities
        select gen_random_uuid(), 'account', a.id, auth.imported_id(a."userId"), a."providerId", a."accountId",
               jsonb_build_object('sub', a."accountId"), null, a."createdAt"
          from auth.source_rows(%L, 'account') source
          cross join lateral jsonb_to_record(source) a(id text, "userId" text, "providerId" text, "accountId" text, "createdAt" timestamptz)
         where a."providerId" <> 'credential'$sql$, source_schema);

    for plugin in
        select * from (values ('twoFactor', 'second_factor', 'second factor'), ('passkey', 'passkey', 'passkey')) p(name, problem, what)
         where to_regclass(format('%I.%I', source_schema, p.name)) is not null
    loop
        return query execute format(
            'select %1$L, p->>''id'', %2$L, format(''the %3$s of user %%s is not taken over'', auth.imported_id(p->>''userId'')) from auth.source_rows(%4$L, %1$L) p order by 2',
            plugin.name, plugin.problem, plugin.what, source_schema);
    end loop;
    return query execute format(
        'select ''session'', null::text, ''sessions_not_imported'', format(''%%s sessions end: their users sign in again, and guests cannot come back'', count(*)) from auth.source_rows(%L, ''session'') having count(*) > 0', source_schema);
    return query select * from auth.import_users();
end
$$;
comment on function auth.import_better_auth(text, boolean) is
'Takes over the users of better-auth from the tables that its migrator makes, those of its plugins anonymous, phoneNumber and admin included: confirmed addresses, passwords (scrypt; hashed anew at the next sign-in), guests, bans, accounts at providers; name and image as user metadata, other columns as app metadata. An id that is a UUID stays; auth.imported_id() tells what any other becomes, and app metadata keeps it as better_auth_id. Returns a row for each thing that could not be taken over as it was, and one with the counts. Users who are here already are left as they are, so it can be run again. Call it as a superuser.
Arguments: source_schema, where its tables are; confirm_addresses, true to take e-mail addresses for proven that better-auth never had confirmed: else their users have no way to sign in, but whoever registered with somebody else''s address would have it.
Errors: validation_failed (PT400: no such table).
Example: select * from auth.import_better_auth(''public'');';

-- Users and what hangs on them. Column names follow what Supabase Auth made customary, so that policies,
-- foreign keys and clean-up statements that people already have run unchanged.

create table auth.users (
    id uuid primary key,
    aud text not null default 'authenticated',
    role text not null default 'authenticated',
    email text,
    encrypted_password text,
    email_confirmed_at timestamptz,
    phone text,
    phone_confirmed_at timestamptz,
    last_sign_in_at timestamptz,
    raw_app_meta_data jsonb not null default '{}',
    raw_user_meta_data jsonb not null default '{}',
    is_anonymous boolean not null default false,
    banned_until timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    last_active_on date,
    cleanup_blocked_at timestamptz,
    constraint users_app_meta_data_is_object check (jsonb_typeof(raw_app_meta_data) = 'object'),
    constraint users_user_meta_data_is_object check (jsonb_typeof(raw_user_meta_data) = 'object')
) with (fillfactor = 90);

-- Only a proven address is taken: an unverified claim reserves nothing.
create unique index users_email_key on auth.users (lower(email)) where email_confirmed_at is not null;
create unique index users_phone_key on auth.users (phone) where phone_confirmed_at is not null;
-- Not partial: it serves "where is_anonymous" and "where is_anonymous is true" alike.
create index users_is_anonymous_created_at_idx on auth.users (is_anonymous, created_at);
-- What clean-up walks. Guests that it had to leave are kept out, so they never stand in the way of others.
create index users_idle_guests_idx on auth.users ((coalesce(last_active_on, (created_at at time zone 'UTC')::date)))
    where is_anonymous and cleanup_blocked_at is null;
create index users_left_guests_idx on auth.users (id)
    where is_anonymous and cleanup_blocked_at is not null;

comment on table auth.users is 'One row per user. A guest (anonymous user) has is_anonymous = true and keeps its id when it becomes permanent.';
comment on column auth.users.id is 'UUID version 7, never used again after deletion. Reference it from application tables: REFERENCES auth.users (id).';
comment on column auth.users.aud is 'Audience (aud) of the tokens at the time the user was created';
comment on column auth.users.role is 'Postgres role that auth.authenticate() takes for this user, by tokens issued from now on';
comment on column auth.users.email is 'E-mail address; it counts as the user''s only where email_confirmed_at is set';
comment on column auth.users.encrypted_password is 'Password hash, never a password';
comment on column auth.users.email_confirmed_at is 'When the e-mail address was proven; NULL if it was not';
comment on column auth.users.phone is 'Phone number (E.164); it counts as the user''s only where phone_confirmed_at is set';
comment on column auth.users.phone_confirmed_at is 'When the phone number was proven; NULL if it was not';
comment on column auth.users.last_sign_in_at is 'When the user last signed in (not: refreshed a session)';
comment on column auth.users.raw_app_meta_data is 'Metadata that only administrators write; app_metadata in tokens';
comment on column auth.users.raw_user_meta_data is 'Metadata that the user chose; user_metadata in tokens';
comment on column auth.users.is_anonymous is 'True for a guest';
comment on column auth.users.banned_until is 'The user is refused everywhere until this time; infinity for good';
comment on column auth.users.created_at is 'When the user was created';
comment on column auth.users.updated_at is 'When the user''s own data last changed';
comment on column auth.users.last_active_on is 'Last day (UTC) on which a session of the user was refreshed, moved at most once a day; NULL means the day of created_at';
comment on column auth.users.cleanup_blocked_at is 'When clean-up first had to leave this expired guest, because rows of application tables keep it, or this idle guest, because of a device key or a code; NULL otherwise';

-- The tables below belong to users without a foreign key: a parallel pg_restore loads the tables of an extension
-- in any order, and a foreign key that is there from the start would refuse rows whose user comes later. Rows are
-- added only by functions that update the row of the user as well (so that a deletion with an older snapshot fails
-- and does not miss them), and go with the user by the trigger delete_dependents.

create table auth.identities (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null,
    provider text not null,
    provider_id text not null,
    identity_data jsonb not null default '{}',
    last_sign_in_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint identities_provider_id_provider_key unique (provider_id, provider)
);
create index identities_user_id_idx on auth.identities (user_id);

comment on table auth.identities is 'Ways to sign in that are linked to a user: one row per provider account';
comment on column auth.identities.provider is 'Name of the provider: email, phone, or an OpenID Connect provider';
comment on column auth.identities.provider_id is 'The user''s id at that provider (sub)';
comment on column auth.identities.identity_data is 'What the provider said about the user';

create table auth.one_time_tokens (
    id uuid primary key,
    user_id uuid not null,
    token_type text not null,
    token_hash bytea not null,
    relates_to text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    code_hash bytea,
    constraint one_time_tokens_user_id_token_type_key unique (user_id, token_type),
    constraint one_time_tokens_token_hash_key unique (token_hash)
);
create index one_time_tokens_expires_at_idx on auth.one_time_tokens (expires_at);

comment on table auth.one_time_tokens is 'Single-use codes and link tokens, stored hashed; one of each type per user';
comment on column auth.one_time_tokens.token_type is 'What it is for: email_change, phone_change, promotion_code, transfer_code';
comment on column auth.one_time_tokens.token_hash is 'SHA-256 of the type and the token; the token itself is stored nowhere';
comment on column auth.one_time_tokens.code_hash is 'Of six digits: id of a server key, and a MAC under it of the digits and of whom and what they are for';
comment on column auth.one_time_tokens.relates_to is 'What the code proves: the address it was sent to; empty where it is not about an address';

create table auth.device_keys (
    kid text primary key,
    user_id uuid not null,
    public_key jsonb not null,
    created_at timestamptz not null default now(),
    last_used_at timestamptz
);
create index device_keys_user_id_idx on auth.device_keys (user_id);

comment on table auth.device_keys is 'Public keys with which a user comes back without a session';
comment on column auth.device_keys.kid is 'Key id, which the device chose';
comment on column auth.device_keys.public_key is 'Public key as a JWK (RFC 7517)';
comment on column auth.device_keys.last_used_at is 'When the user last signed in with it; at first, when it was registered';

create function auth.get_user() returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_get_user';
comment on function auth.get_user() is
'The signed-in user as the database has it now: id, aud, role, email, phone, app_metadata, user_metadata, identities, created_at, updated_at, last_sign_in_at, is_anonymous.
Errors: no_authorization (PT401).
Example: select auth.get_user();';

create function auth.user_info() returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_user_info';
comment on function auth.user_info() is
'The signed-in user in the form of OpenID Connect''s UserInfo: sub, isVerified, isAnonymous, and email, email_verified, phone_number, phone_number_verified, updated_at where they apply.
Errors: no_authorization (PT401).
Example: select auth.user_info();';

create function auth.delete_user() returns void
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_delete_user';
comment on function auth.delete_user() is
'Deletes the signed-in guest for good. Each foreign key to auth.users (id) has its delete action applied as the owner of the referencing table; deferrable constraints are checked at once, from here to the end of the transaction.
Errors: no_authorization (PT401), not_anonymous (PT403: only guests delete themselves), user_still_referenced (PT409: names the table whose foreign key forbids it), conflict (PT409: a trigger of auth.users does not let it go).
Example: select auth.delete_user();';

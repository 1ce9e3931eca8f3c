-- Sessions: sign-in, refresh, sign-out. A refresh token has no row of its own: the session row holds the
-- counter and the random nonce of the current one, so a rotation is one update in place (HOT) and there is
-- nothing to purge.

create table auth.sessions (
    id uuid primary key,
    user_id uuid not null,
    created_at timestamptz not null default now(),
    refreshed_at timestamptz not null default now(),
    not_after timestamptz,
    active_on date generated always as ((refreshed_at at time zone 'UTC')::date) stored,
    method text not null default 'anonymous',
    aal text not null default 'aal1',
    refresh_token_counter bigint not null default 0,
    refresh_token_nonce bytea not null default '',
    replaced_refresh_tokens bytea not null default ''
) with (fillfactor = 80);
create index sessions_user_id_idx on auth.sessions (user_id);
-- A day, not a time: an index on refreshed_at itself would make every refresh a non-HOT update.
create index sessions_active_on_idx on auth.sessions (active_on);
-- For clean-up; no entry for the many sessions without an end of their own.
create index sessions_not_after_idx on auth.sessions (not_after) where not_after is not null;

comment on table auth.sessions is 'Live sessions, one row each; signing out deletes the row';
comment on column auth.sessions.refreshed_at is 'When the session was last refreshed; it ends session_idle_timeout after that';
comment on column auth.sessions.not_after is 'When the session ends at the latest, by the session_lifetime of its guest provider; NULL where only the settings apply';
comment on column auth.sessions.active_on is 'Day (UTC) of refreshed_at, for the clean-up';
comment on column auth.sessions.method is 'How the user signed in; amr in tokens (RFC 8176)';
comment on column auth.sessions.aal is 'Authenticator assurance level; aal in tokens';
comment on column auth.sessions.refresh_token_counter is 'Number of the current refresh token';
comment on column auth.sessions.refresh_token_nonce is 'Random part of the current refresh token; worthless without the server''s key';
comment on column auth.sessions.replaced_refresh_tokens is 'Times and nonces of the tokens replaced within refresh_token_reuse_interval or access_token_lifetime, newest first';

-- Without a foreign key and never locked by a caller: rows are written in a transaction of their own, while
-- the caller's transaction holds locks on the session and may yet roll back.
create table auth.session_revocations (
    session_id uuid primary key,
    revoked_at timestamptz not null default clock_timestamp(),
    reason text not null
);
comment on table auth.session_revocations is 'Sessions ended because an old refresh token came back; kept until no token of the session can be good any more';

create function auth.delete_all_but_sessions(users uuid[]) returns void
    language plpgsql set search_path = pg_catalog, auth, pg_temp
as $$
begin
    delete from auth.identities where user_id = any (users);
    delete from auth.one_time_tokens where user_id = any (users);
    delete from auth.device_keys where user_id = any (users);
    delete from auth.messages where user_id = any (users);
end
$$;
comment on function auth.delete_all_but_sessions(uuid[]) is
'For the extension itself: deletes identities, codes, device keys and messages of users who are about to go.
Arguments: users, their ids.
Example: select auth.delete_all_but_sessions(''{}'');';

-- Once per statement, not per row: a clean-up statement may delete a great many users.
create function auth.delete_dependents() returns trigger
    language plpgsql security definer set search_path = pg_catalog, auth, pg_temp
as $$
declare
    -- An array, so that they are found by index, however few there are and whatever the statistics say.
    users constant uuid[] := array(select id from deleted);
begin
    delete from auth.sessions where user_id = any (users);
    perform auth.delete_all_but_sessions(users);
    return null;
end
$$;
comment on function auth.delete_dependents() is 'Trigger: deletes sessions, identities, codes, device keys and messages of deleted users';

create trigger delete_dependents after delete on auth.users
    referencing old table as deleted
    for each statement execute function auth.delete_dependents();
alter table auth.users enable always trigger delete_dependents;

create function auth.refuse_truncate() returns trigger
    language plpgsql set search_path = pg_catalog, auth, pg_temp
as $$
begin
    raise exception 'truncate_not_allowed: auth.users cannot be truncated, since sessions and identities of its users would be left behind'
        using errcode = 'feature_not_supported', hint = 'DELETE FROM auth.users;';
end
$$;
comment on function auth.refuse_truncate() is 'Trigger: refuses TRUNCATE';

create trigger refuse_truncate before truncate on auth.users
    for each statement execute function auth.refuse_truncate();

create function auth.sign_in_anonymously(data jsonb default '{}', captcha_token text default null, refresh_token text default null, provider text default null) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_sign_in_anonymously';
comment on function auth.sign_in_anonymously(jsonb, text, text, text) is
'Signs in without credentials. Creates a guest and returns its session: access_token, token_type, expires_in (seconds), expires_at (Unix time), refresh_token, user. With the setting guest_storage = "lazy" nothing is stored yet, so that it works on a standby as well.
Arguments: data, the guest''s user_metadata (a JSON object, at most user_metadata_limit bytes); captcha_token, what a solved captcha gave (of "altcha": what the widget made of auth.create_challenge(''altcha'')), where the setting captcha or the provider asks for one; refresh_token, where the setting sign_in_mode is "reuse", the token of the guest to come back as; provider, a guest provider of auth.guest_providers, NULL to go by the settings alone.
Errors: anonymous_provider_disabled (PT422), provider_not_found (PT404), over_request_rate_limit (PT429: see sign_in_rate_limit), captcha_failed (PT400), captcha_unavailable (PT503), validation_failed (PT400), and with a refresh_token those of auth.refresh_session().
Example: select auth.sign_in_anonymously(''{"theme": "dark"}'');';

create function auth.refresh_session(refresh_token text) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_refresh_session';
comment on function auth.refresh_session(text) is
'Returns a new session for a refresh token and replaces that token. A token that was replaced less than refresh_token_reuse_interval ago gets the current one; an older one ends the whole session, even if the caller rolls back.
Arguments: refresh_token, as a session returned it.
Errors: refresh_token_not_found, refresh_token_already_used, session_not_found, session_expired (PT401), user_banned (PT403), over_request_rate_limit (PT429: see refresh_rate_limit), worker_unavailable (PT503: an old token came back and the revocation could not be stored; nothing was issued).
Example: select auth.refresh_session($1);';

create function auth.sign_out(scope text default 'global') returns void
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_sign_out';
comment on function auth.sign_out(text) is
'Ends sessions of the signed-in user; their access tokens are refused from the next transaction on. A guest without a device key cannot come back.
Arguments: scope, one of global (all sessions), local (this one), others (all but this one).
Errors: no_authorization (PT401), validation_failed (PT400).
Example: select auth.sign_out(''local'');';

create function auth.authenticate(access_token text) returns uuid
    language c volatile parallel unsafe security invoker
    as 'MODULE_PATHNAME', 'anon_auth_authenticate';
comment on function auth.authenticate(text) is
'Makes the bearer of the token the user of this transaction, for policies and for the functions of this schema, and takes the token''s role (unless anon_auth.switch_role is off). Returns the user''s id. Call it inside a transaction block: its effect ends with the transaction.
Arguments: access_token, as a session returned it; pass it as a bound parameter.
Errors: bad_jwt, session_not_found, session_expired, user_not_found (PT401), user_banned, role_not_allowed (PT403: the HINT has the GRANT to run). Warning: no_active_transaction (25P01).
Example: begin; select auth.authenticate($1); select * from notes; commit;';

create function auth.verify_token(token text) returns jsonb
    language c volatile parallel unsafe security invoker
    as 'MODULE_PATHNAME', 'anon_auth_verify_token';
comment on function auth.verify_token(text) is
'The claims of an access token, after checking its signature, issuer, audience, times, session and user; is_anonymous, email and phone are as the database has them now. Changes nothing.
Arguments: token, an access token.
Errors: bad_jwt, session_not_found, session_expired, user_not_found (PT401), user_banned (PT403).
Example: select auth.verify_token($1)->>''sub'';';

create function auth.pre_request() returns void
    language c volatile parallel unsafe security invoker
    as 'MODULE_PATHNAME', 'anon_auth_pre_request';
comment on function auth.pre_request() is
'For PostgREST''s db-pre-request: authenticates the bearer token of the request''s Authorization header in the database. Without such a header the request stays anonymous.
Errors: those of auth.authenticate(), and bad_jwt (PT401) for an Authorization header that is not "Bearer <token>".
Example: db-pre-request = "auth.pre_request"';

-- OpenID Connect: whose ID tokens are believed, and signing in with them. Keys come from here, never from the
-- network at sign-in.

create table auth.identity_providers (
    name text primary key,
    issuer text not null,
    audiences text[] not null,
    algorithms text[] not null default '{RS256,ES256,EdDSA}',
    nonce_check text not null default 'either',
    trusts_email boolean not null default true,
    enabled boolean not null default true,
    jwks_uri text,
    jwks jsonb,
    jwks_updated_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

comment on table auth.identity_providers is 'OpenID Connect providers whose ID tokens are accepted; see auth.set_identity_provider()';
comment on column auth.identity_providers.name is 'What callers name it by; provider in auth.identities';
comment on column auth.identity_providers.issuer is 'Issuer (iss) of its ID tokens, an https URL';
comment on column auth.identity_providers.audiences is 'Client ids (aud, azp) that its ID tokens may be for';
comment on column auth.identity_providers.algorithms is 'Algorithms that it may sign with';
comment on column auth.identity_providers.nonce_check is 'How a token''s nonce is compared: either, exact, sha256 or optional';
comment on column auth.identity_providers.trusts_email is 'Whether an e-mail address that it calls verified counts as proven';
comment on column auth.identity_providers.enabled is 'Whether its ID tokens are accepted';
comment on column auth.identity_providers.jwks_uri is 'Where its keys are; NULL to ask the issuer (OpenID Connect Discovery)';
comment on column auth.identity_providers.jwks is 'Its public keys (a JWK Set, RFC 7517), without those that cannot be used';
comment on column auth.identity_providers.jwks_updated_at is 'When its keys were last set or fetched';

create function auth.set_identity_provider(
    name text,
    issuer text default null,
    audiences text[] default null,
    jwks jsonb default null,
    jwks_uri text default null,
    algorithms text[] default null,
    nonce_check text default null,
    trusts_email boolean default null,
    enabled boolean default null
) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_set_identity_provider';
comment on function auth.set_identity_provider(text, text, text[], jsonb, text, text[], text, boolean, boolean) is
'Adds an OpenID Connect provider, or changes one, and returns it as it is now. What is NULL stays as it is, or gets its default.
Arguments: name, 1 to 63 of a-z, 0-9, "_", "-" and "."; issuer, the https URL that its ID tokens name (http for a loopback address if a superuser says so); audiences, your client ids there, those of mobile applications included; jwks, its public keys (a JWK Set), if you do not have auth.refresh_identity_provider_keys() fetch them; jwks_uri, where to fetch them, empty to ask the issuer, which is the default; algorithms, some of RS256, ES256, EdDSA (default: all three); nonce_check, how the nonce that the client presents is compared with the token''s: exact, sha256 (the token has the SHA-256 of it in hexadecimal digits, as with Apple and Google), either (default), or optional (as either, but a client may present none); trusts_email, whether an e-mail address that it calls verified counts as proven (default true); enabled (default true).
Errors: validation_failed (PT400), conflict (PT409: another issuer, while users of the old one are linked).
Example: select auth.set_identity_provider(''google'', ''https://accounts.google.com'', array[''1234.apps.googleusercontent.com'']);';

create function auth.remove_identity_provider(name text) returns boolean
    language c volatile parallel unsafe strict security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_remove_identity_provider';
comment on function auth.remove_identity_provider(text) is
'Removes a provider and returns whether there was one. Identities that are linked stay linked, and are of use again only when a provider of that name and issuer is added.
Arguments: name, as in auth.identity_providers.
Example: select auth.remove_identity_provider(''google'');';

create function auth.refresh_identity_provider_keys(name text default null) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_refresh_identity_provider_keys';
comment on function auth.refresh_identity_provider_keys(text) is
'Fetches the keys of providers over HTTPS and returns, by provider, keys (their ids), passed_over (keys that cannot be used, and why), or error. A provider whose keys cannot be had keeps those it has. The server makes the requests, following no redirect, for 10 seconds each at the longest; cancelling the statement ends them. Nothing else of this extension uses the network but captchas (auth.set_captcha()).
Arguments: name, the one provider to ask, whose failure is then raised; NULL for all that are enabled, where each failure is a warning.
Errors: provider_not_found (PT404), provider_unavailable (PT502). Warning: provider_unavailable (58000).
Example: select auth.refresh_identity_provider_keys();';

create function auth.link_identity(provider text, id_token text, nonce text default null) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_link_identity';
comment on function auth.link_identity(text, text, text) is
'Links an account at an OpenID Connect provider to the signed-in user; a guest becomes permanent, with the same id. Returns a new session, and ends all others of the user.
Arguments: provider, its name; id_token, as the provider issued it; nonce, as the client made it, before any hashing. Pass them as bound parameters.
Errors: no_authorization (PT401), provider_not_found (PT404), provider_disabled (PT422), bad_id_token (PT400: says why), identity_already_exists, email_exists (PT422: it, or its verified address, belongs to another user; the session goes on), manual_linking_disabled (PT404), user_banned (PT403), over_request_rate_limit (PT429).
Example: select auth.link_identity(''google'', $1, $2);';

create function auth.sign_in_with_id_token(provider text, id_token text, nonce text default null) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_sign_in_with_id_token';
comment on function auth.sign_in_with_id_token(text, text, text) is
'Signs in with an account at an OpenID Connect provider and returns a session. The user is the one that the account is linked to; else the one with the same e-mail address, which is then linked, if the provider says that it is verified (and trusts_email is on) and the user has proven it here; else, if nobody is signed in, a new permanent user.
Arguments: provider, its name; id_token, as the provider issued it; nonce, as the client made it, before any hashing. Pass them as bound parameters.
Errors: provider_not_found (PT404), provider_disabled (PT422), bad_id_token (PT400: says why), user_banned (PT403), over_request_rate_limit (PT429), already_signed_in (PT409: link the account with auth.link_identity()).
Example: select auth.sign_in_with_id_token(''google'', $1, $2);';

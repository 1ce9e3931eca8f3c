-- Keys that sign access tokens, and those that authenticate refresh tokens.
-- A key goes standby -> current -> previously_used -> revoked. Standby, current and previously used keys verify.

create table auth.signing_keys (
    kid text primary key,
    purpose text not null default 'access_token',
    algorithm text not null,
    status text not null,
    private_key bytea not null,
    sealed boolean not null,
    public_key jsonb,
    created_at timestamptz not null default clock_timestamp(),
    status_changed_at timestamptz not null default clock_timestamp(),
    constraint signing_keys_purpose_check check (purpose in ('access_token', 'refresh_token')),
    constraint signing_keys_algorithm_check check (algorithm in ('HS256', 'RS256', 'ES256', 'EdDSA')),
    constraint signing_keys_status_check check (status in ('standby', 'current', 'previously_used', 'revoked')),
    constraint signing_keys_public_key_check check ((public_key is null) = (algorithm = 'HS256'))
);
create unique index signing_keys_current_key on auth.signing_keys (purpose) where status = 'current';

comment on table auth.signing_keys is 'Keys of access and refresh tokens. Whoever reads an unsealed private key can mint tokens: set anon_auth.key_file to store them sealed.';
comment on column auth.signing_keys.kid is 'Key id; kid in the header of tokens';
comment on column auth.signing_keys.purpose is 'access_token (signs JWTs) or refresh_token (authenticates refresh tokens, never published)';
comment on column auth.signing_keys.status is 'standby (published, not yet used), current (signs), previously_used (verifies only), revoked (refused)';
comment on column auth.signing_keys.private_key is 'Private key: PKCS#8 for RS256, ES256 and EdDSA, the secret itself for HS256; encrypted where sealed';
comment on column auth.signing_keys.sealed is 'Whether private_key is encrypted with the key in anon_auth.key_file (AES-256-GCM-SIV, RFC 8452)';
comment on column auth.signing_keys.public_key is 'Public key as a JWK (RFC 7517); NULL for HS256, whose secret must not be published';

create trigger forget_cached after insert or update or delete or truncate on auth.signing_keys
    for each statement execute function auth.forget_cached();
alter table auth.signing_keys enable always trigger forget_cached;

create function auth.create_signing_key(algorithm text default null) returns text
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_create_signing_key';
comment on function auth.create_signing_key(text) is
'Makes a new standby key, which auth.jwks() publishes at once and auth.rotate_signing_key() puts to use later. Returns its kid.
Arguments: algorithm, one of ES256, EdDSA, RS256, HS256; NULL for the setting signing_algorithm.
Errors: validation_failed (PT400), signing_key_unavailable (PT500: anon_auth.key_file cannot be read).
Example: select auth.create_signing_key(''EdDSA'');';

create function auth.rotate_signing_key(algorithm text default null) returns text
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_rotate_signing_key';
comment on function auth.rotate_signing_key(text) is
'Puts the oldest standby key to use (a new key, if there is none) and returns its kid. The key used so far becomes previously used: tokens it signed stay valid until they expire.
Arguments: algorithm, to take only a standby key of that algorithm, or make one; NULL for any.
Errors: validation_failed (PT400), signing_key_unavailable (PT500).
Example: select auth.rotate_signing_key();';

create function auth.import_signing_key(jwk jsonb) returns text
    language c volatile parallel unsafe strict security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_import_signing_key';
comment on function auth.import_signing_key(jsonb) is
'Stores a private key as a standby key and returns its kid (the JWK''s, or a new one).
Arguments: jwk, a private JWK (RFC 7517) for HS256 (at least 256 bits), RS256 (at least 2048 bits), ES256 or EdDSA (Ed25519); pass it as a bound parameter.
Errors: validation_failed (PT400: never shows key material), conflict (PT409: the kid exists), signing_key_unavailable (PT500).
Example: select auth.import_signing_key($1);';

create function auth.revoke_signing_key(kid text) returns void
    language c volatile parallel unsafe strict security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_revoke_signing_key';
comment on function auth.revoke_signing_key(text) is
'Revokes a key: tokens that it signed are refused from the next transaction on. The current access token key must be replaced first. Revoking the refresh token key ends every session; a new one is made at the next sign-in.
Arguments: kid, as in auth.signing_keys.
Errors: signing_key_not_found (PT404), validation_failed (PT400: the key is current).
Example: select auth.revoke_signing_key(''0198…'');';

create function auth.seal_signing_keys() returns integer
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_seal_signing_keys';
comment on function auth.seal_signing_keys() is
'Encrypts private keys and secrets of captcha services that were stored before anon_auth.key_file was set, and returns how many.
Errors: signing_key_unavailable (PT500: no key file, or it cannot be read).
Example: select auth.seal_signing_keys();';

create function auth.jwks() returns jsonb
    language c stable parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_jwks';
comment on function auth.jwks() is
'The public keys that verify access tokens, as a JWK Set (RFC 7517): standby, current and previously used ones. HS256 keys are secret and never in it.
Example: select auth.jwks();';

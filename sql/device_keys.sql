-- Coming back with a key that the device holds, and the challenges that such keys sign.

-- A challenge has no row until it is used. In no dump: each is bound to its database, so a restored one takes none that
-- was made before.
create table auth.used_challenges (
    challenge_hash bytea primary key,
    expires_at timestamptz not null
);
create index used_challenges_expires_at_idx on auth.used_challenges (expires_at);
comment on table auth.used_challenges is 'Challenges that were used, until they have expired and clean-up comes by';
comment on column auth.used_challenges.challenge_hash is 'SHA-256 of the purpose and the challenge; the challenge itself is stored nowhere';

create function auth.create_challenge(purpose text) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_create_challenge';
comment on function auth.create_challenge(text) is
'A challenge: single use, good for challenge_lifetime, for one purpose only. Writes nothing.
Arguments: purpose, "device" for one that a device key signs (returns token, expires_in in seconds, expires_at as Unix time, expire_at as text) or "altcha" for one that the ALTCHA widget solves (returns algorithm, challenge, maxnumber, salt, signature).
Errors: validation_failed (PT400: no such purpose), signing_key_unavailable (PT500).
Example: select auth.create_challenge(''device'')->>''token'';';

create function auth.sign_in_with_device_key(jws text, data jsonb default '{}', captcha_token text default null) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_sign_in_with_device_key';
comment on function auth.sign_in_with_device_key(text, jsonb, text) is
'Signs in as the user whose device key signed a request, and returns a session. A request that brings an unknown key along (jwk) registers it: for the guest that is signed in, or, where nobody is, for a new guest, which is subject to what auth.sign_in_anonymously() is.
Arguments: jws, a JWS in compact form: header typ "vnd.authgear.anonymous-request", kid (8 to 128 letters, digits, hyphens, underscores), alg (RS256, ES256 or EdDSA), jwk to register; payload challenge (token of auth.create_challenge(''device'')), action "auth", exp (Unix time, at most challenge_lifetime from now), iat; data and captcha_token, of a new guest, as for auth.sign_in_anonymously().
Errors: bad_device_request (PT400: the message says why, not whether the kid is known), captcha_failed (PT400), challenge_expired (PT403: wrong, used or expired), not_anonymous (PT403: only a guest registers a key), user_banned (PT403), anonymous_provider_disabled, device_key_limit_reached (PT422), over_request_rate_limit (PT429: see verify_rate_limit and sign_in_rate_limit), captcha_unavailable (PT503), and those of a token that is set and not good.
Example: select auth.sign_in_with_device_key($1);';

create function auth.remove_device_key(kid text) returns integer
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_remove_device_key';
comment on function auth.remove_device_key(text) is
'Removes a device key of the signed-in user and returns how many it removed. Sessions that were made with it go on.
Arguments: kid, as the device chose it; NULL for all of the user''s keys.
Errors: no_authorization (PT401), user_banned (PT403), device_key_not_found (PT404).
Example: select auth.remove_device_key(null);';

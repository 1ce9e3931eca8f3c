-- Codes that carry a guest to another browser or device.

create function auth.create_promotion_code() returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_create_promotion_code';
comment on function auth.create_promotion_code() is
'A code by which the signed-in guest can be made permanent elsewhere, say on a web page that the application opens. Returns promotion_code, expires_in (seconds), expires_at (Unix time). Single use; good for handover_code_lifetime; a new one voids the one before.
Errors: no_authorization (PT401), not_anonymous, user_banned (PT403), manual_linking_disabled (PT404).
Example: select auth.create_promotion_code()->>''promotion_code'';';

create function auth.redeem_promotion_code(promotion_code text) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_redeem_promotion_code';
comment on function auth.redeem_promotion_code(text) is
'Returns a session of the guest that made the code, in which an address or an identity can be linked to it. The guest''s other sessions go on until then.
Arguments: promotion_code, as auth.create_promotion_code() returned it; or a request that a device key of the guest signed, as auth.sign_in_with_device_key() takes it, with the action "promote".
Errors: otp_expired (PT403: wrong, used or expired, or the guest is permanent already), user_banned (PT403), manual_linking_disabled (PT404), over_request_rate_limit (PT429); for a device key''s request bad_device_request (PT400), challenge_expired, not_anonymous (PT403).
Example: select auth.redeem_promotion_code($1);';

create function auth.create_transfer_code() returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_create_transfer_code';
comment on function auth.create_transfer_code() is
'A short code, to be typed on a second device, that signs the guest in there. Returns transfer_code (ten letters and digits and a hyphen), expires_in (seconds), expires_at (Unix time). Single use; good for handover_code_lifetime; a new one voids the one before.
Errors: no_authorization (PT401), not_anonymous, user_banned (PT403).
Example: select auth.create_transfer_code()->>''transfer_code'';';

create function auth.redeem_transfer_code(transfer_code text) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_redeem_transfer_code';
comment on function auth.redeem_transfer_code(text) is
'Signs in as the guest that made the code and returns a session. The guest''s other sessions go on.
Arguments: transfer_code, as auth.create_transfer_code() returned it; case, hyphens and spaces do not matter.
Errors: otp_expired (PT403: wrong, used or expired, or the guest is permanent by now), user_banned (PT403), over_request_rate_limit (PT429), worker_unavailable (PT503: the attempt could not be counted).
Example: select auth.redeem_transfer_code($1);';

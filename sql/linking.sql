-- How a guest becomes permanent: addresses are claimed and proven, identities are linked and unlinked.

create function auth.update_user(attributes jsonb) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_update_user';
comment on function auth.update_user(jsonb) is
'Changes the signed-in user and returns it as auth.get_user() does, with new_email and new_phone where they are claimed but not proven yet. A new address gets a code and a link, and counts only when auth.verify_otp() has proven it; until then it is reserved for nobody.
Arguments: attributes, a JSON object with any of: email; phone (E.164); password (password_min_length characters to 1024 bytes; only once an address is proven; ends the user''s other sessions); data (an object whose members are added to user_metadata; null removes one).
Errors: no_authorization (PT401), user_banned (PT403), validation_failed (PT400 for a malformed or unknown attribute, PT422 for a password without a proven address), manual_linking_disabled (PT404), email_exists, phone_exists, weak_password, same_password (PT422), over_email_send_rate_limit, over_sms_send_rate_limit (PT429: see otp_resend_interval and otp_message_limit), over_request_rate_limit (PT429), worker_unavailable (PT503: the message could not be counted).
Example: select auth.update_user(''{"email": "ada@example.org"}'');';

create function auth.verify_otp(type text, token text default null, token_hash text default null, email text default null, phone text default null) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_verify_otp';
comment on function auth.verify_otp(text, text, text, text, text) is
'Proves an address that was claimed with auth.update_user(). A guest is permanent from then on. All sessions and codes from before end; returns a new session.
Arguments: type, email_change or phone_change; token, the code of six digits, by the user that it was made for, signed in; or token_hash, from the link, which needs no sign-in as long as the user has proven nothing yet (whoever opens it then has the user for its own: device keys go, too); email or phone, the address that is expected, NULL for any.
Errors: otp_expired (PT403: wrong, used or expired), no_authorization (PT401), user_banned (PT403), email_exists, phone_exists (PT422: somebody else proved it first), manual_linking_disabled (PT404), validation_failed (PT400), over_request_rate_limit (PT429), conflict (PT409: the address became somebody else''s at this moment), worker_unavailable (PT503: the attempt could not be counted).
Example: select auth.verify_otp(''email_change'', ''123456'');';

create function auth.resend(type text) returns void
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_resend';
comment on function auth.resend(text) is
'Sends another code to the address that the signed-in user claims; the code before is void.
Arguments: type, email_change or phone_change.
Errors: no_authorization (PT401), validation_failed (PT400, or PT422 where no address is claimed), over_request_rate_limit (PT429), over_email_send_rate_limit, over_sms_send_rate_limit (PT429: see otp_resend_interval and otp_message_limit), and those of auth.update_user().
Example: select auth.resend(''email_change'');';

create function auth.unlink_identity(identity_id uuid) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_unlink_identity';
comment on function auth.unlink_identity(uuid) is
'Unlinks an identity from the signed-in user, ends the user''s other sessions, and returns the user. An address goes with the last identity that proves it, the password with the last address.
Arguments: identity_id, as in identities of auth.get_user().
Errors: no_authorization (PT401), user_banned (PT403), manual_linking_disabled (PT404), single_identity_not_deletable, identity_not_found (PT422).
Example: select auth.unlink_identity($1);';

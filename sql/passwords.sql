-- Signing in with a password; auth.update_user() sets it.

create function auth.sign_in_with_password(email text default null, password text default null, phone text default null) returns jsonb
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_sign_in_with_password';
comment on function auth.sign_in_with_password(text, text, text) is
'Signs in with a proven address and a password, and returns a session. Takes as long for an unknown address as for a wrong password. Every attempt is counted, whatever becomes of the transaction.
Arguments: email or phone; password, as a bound parameter.
Errors: invalid_credentials (PT400), validation_failed (PT400), user_banned (PT403), over_request_rate_limit (PT429), worker_unavailable (PT503: the attempt could not be counted).
Example: select auth.sign_in_with_password($1, $2);';

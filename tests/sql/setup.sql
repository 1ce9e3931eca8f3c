-- Runs first: the extension, the roles, and what the other files use to say more in fewer words.
create extension anon_auth;

-- What an application connects as, and somebody who may connect and nothing else.
create role app_login login noinherit;
create role plain_login login;
select auth.create_roles('app_login');

-- All settings at their defaults, but for rate limits: all tests come from one client. A file that changes settings for
-- good ends with it.
create function default_settings() returns void language sql as $$
    delete from auth.settings;
    insert into auth.settings (name, value)
    select name, '0' from auth.all_settings where name like '%\_rate\_limit'
$$;
select default_settings();

-- What a statement raises: "SQLSTATE message | hint". Values are bound as $1, $2 and $3, as an application would.
create function raised(statement text, variadic arguments text[] default '{}') returns text
language plpgsql as $$
declare
    hint text;
begin
    execute statement using arguments[1], arguments[2], arguments[3];
    return 'no error';
exception when others then
    get stacked diagnostics hint = pg_exception_hint;
    return sqlstate || ' ' || sqlerrm || coalesce(' | ' || nullif(hint, ''), '');
end
$$;

-- A session as a client holds it. "select * from session(auth.sign_in_anonymously()) \gset ada_" makes it
-- Ada's: :ada_id, :ada_session, :ada_token, :ada_refresh.
create function base64url(bytes bytea) returns text
language sql immutable as $$
    select translate(encode(bytes, 'base64'), E'+/=\n', '-_')
$$;
create function from_base64url(text) returns bytea
language sql immutable as $$
    select decode(rpad(translate($1, '-_', '+/'), (length($1) + 3) / 4 * 4, '='), 'base64')
$$;
create function header(token text) returns jsonb
language sql immutable as $$
    select convert_from(from_base64url(split_part(token, '.', 1)), 'UTF8')::jsonb
$$;
create function payload(token text) returns jsonb
language sql immutable as $$
    select convert_from(from_base64url(split_part(token, '.', 2)), 'UTF8')::jsonb
$$;
create function session(answer jsonb, out id uuid, out session uuid, out token text, out refresh text)
language sql immutable as $$
    select (answer->'user'->>'id')::uuid, (payload(answer->>'access_token')->>'session_id')::uuid,
           answer->>'access_token', answer->>'refresh_token'
$$;

-- Messages are counted whatever becomes of the transaction; files that send many begin with this, and end with
-- default_settings().
create function unlimited_messages() returns void language sql as $$
    insert into auth.settings (name, value)
    select name, '1000' from unnest(array['otp_message_limit', 'otp_message_limit_total', 'otp_message_limit_client']) name
    union all select 'otp_resend_interval', '00:00:00';
$$;

-- Tokens of our own making, signed with HS256 (RFC 7515, appendix A.1; RFC 2104). Header and payload are
-- text, so that they need not be JSON.
create function hmac_sha256(message bytea, secret bytea) returns bytea
language plpgsql immutable as $$
declare
    inner_pad bytea := decode(repeat('36', 64), 'hex');
    outer_pad bytea := decode(repeat('5c', 64), 'hex');
begin
    for i in 0 .. length(secret) - 1 loop
        inner_pad := set_byte(inner_pad, i, get_byte(inner_pad, i) # get_byte(secret, i));
        outer_pad := set_byte(outer_pad, i, get_byte(outer_pad, i) # get_byte(secret, i));
    end loop;
    return sha256(outer_pad || sha256(inner_pad || message));
end
$$;
create function signed(header text, payload text, secret bytea) returns text
language sql immutable as $$
    select message || '.' || base64url(hmac_sha256(convert_to(message, 'UTF8'), secret))
      from (select base64url(convert_to(header, 'UTF8')) || '.' || base64url(convert_to(payload, 'UTF8'))) m(message)
$$;

-- The first signing keys are made at the first sign-in and outlast its transaction; from here on they are there.
begin;
select auth.sign_in_anonymously() is not null as signed_in;
rollback;
select purpose, algorithm, status, sealed from auth.signing_keys order by purpose;
select count(*) as users from auth.users;

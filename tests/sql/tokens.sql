-- Tokens that must be refused (N8, N11, S2), and what verify_token() says of good ones.
\pset format unaligned

-- A key whose secret we know, so that the tokens below are wrong in one thing only: their signatures are good.
create function forger(out kid text, out secret bytea)
language sql as $$
    select auth.import_signing_key(jsonb_build_object('kty', 'oct', 'k', base64url(sha256('tokens')))), sha256('tokens')
$$;
-- Whether a token is taken by any of the three ways in: verify_token(), authenticate(), and the readers.
create function taken(token text) returns text
language plpgsql as $$
declare
    verified text := raised('select auth.verify_token($1)', token);
begin
    if verified = 'no error' then
        return 'taken';
    end if;
    if raised('select auth.authenticate($1)', token) <> verified then
        return 'authenticate() says something else than ' || verified;
    end if;
    perform set_config('anon_auth.access_token', token, true);
    if num_nonnulls(auth.uid(), auth.jwt(), auth.role(), auth.is_anonymous(), auth.session_id(), auth.email()) > 0 then
        return 'a reader takes it';
    end if;
    return verified;
end
$$;

-- The tools work: a token of our own making is taken.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from forger() \gset
select jsonb_build_object('alg', 'HS256', 'typ', 'JWT', 'kid', :'kid') as header, payload(:'ada_token') as payload \gset
select taken(signed(:'header', :'payload', :'secret')), taken(:'ada_token');

-- N8: "alg": none in any case, and other algorithms than the key's.
select alg, taken(signed((:'header'::jsonb || jsonb_build_object('alg', alg))::text, :'payload', :'secret'))
  from unnest(array['none', 'None', 'NONE', 'nOnE', '', 'HS384', 'hs256', 'HS256 ', 'RS256', 'ES256', 'EdDSA', 'PS256']) alg;
select alg, taken(signed((:'header'::jsonb || jsonb_build_object('alg', alg))::text, :'payload', :'secret'))
  from unnest(array['null', '1', '["HS256"]', '{}']::jsonb[]) alg;
select taken(signed((:'header'::jsonb - 'alg')::text, :'payload', :'secret')) as without_alg;
-- Without a signature.
select alg, taken(base64url(convert_to((:'header'::jsonb || jsonb_build_object('alg', alg))::text, 'UTF8')) || '.' || split_part(:'ada_token', '.', 2) || '.')
  from unnest(array['none', 'HS256', 'ES256']) alg;
select taken(split_part(:'ada_token', '.', 1) || '.' || split_part(:'ada_token', '.', 2) || '.') as signature_cut_off,
       taken(split_part(:'ada_token', '.', 1) || '.' || split_part(:'ada_token', '.', 2)) as and_its_dot;

-- N8: HS256 with what everybody can know of the public key as the secret.
select public, taken(signed((:'header'::jsonb || jsonb_build_object('kid', k.kid))::text, :'payload', secret))
  from auth.signing_keys k,
       lateral (values ('x', from_base64url(k.public_key->>'x')), ('x and y', from_base64url(k.public_key->>'x') || from_base64url(k.public_key->>'y')),
                       ('JWK', convert_to(k.public_key::text, 'UTF8')), ('nothing', '')) p(public, secret)
 where k.status = 'current' and k.purpose = 'access_token' and length(secret) <= 64;
-- With the key of refresh tokens: it is not one of access tokens.
select taken(signed((:'header'::jsonb || jsonb_build_object('kid', k.kid))::text, :'payload', k.private_key)) as refresh_token_key
  from auth.signing_keys k where purpose = 'refresh_token';

-- N8: a kid that is not ours, or none; another's secret.
select kid, taken(signed((:'header'::jsonb || jsonb_build_object('kid', kid))::text, :'payload', :'secret'))
  from unnest(array['""', '"x"', '"../../dev/null"', '"'' or true --"', 'null', '1', '[]']::jsonb[]) kid;
select taken(signed((:'header'::jsonb - 'kid')::text, :'payload', :'secret')) as without_kid,
       taken(signed(:'header', :'payload', '')) as empty_secret, taken(signed(:'header', :'payload', sha256('other'))) as other_secret;

-- N8: keys and places of keys in the token: the key is ours to choose.
select name, taken(signed((:'header'::jsonb || jsonb_build_object(name, value))::text, :'payload', :'secret'))
  from (values ('jwk', jsonb_build_object('kty', 'oct', 'k', 'AAAA')), ('jku', '"https://example.org/jwks.json"'),
               ('x5u', '"https://example.org/cert"'), ('x5c', '["AAAA"]')) t(name, value);

-- N8: a wrong typ, an unknown crit, b64.
select typ, taken(signed((:'header'::jsonb || jsonb_build_object('typ', typ))::text, :'payload', :'secret'))
  from unnest(array['"at+jwt"', '"vnd.authgear.anonymous-request"', '""', '"JOSE"', 'null', '1']::jsonb[]) typ;
select taken(signed((:'header'::jsonb - 'typ')::text, :'payload', :'secret')) as without_typ;
select extra, taken(signed((:'header'::jsonb || extra)::text, :'payload', :'secret'))
  from unnest(array['{"crit": ["exp"]}', '{"crit": []}', '{"crit": null}', '{"crit": ["b64"], "b64": false}', '{"b64": true}']::jsonb[]) extra;

-- N8: duplicate members, in the header, in the payload, and deeper.
select taken(signed(rtrim(:'header', '}') || ', "alg": "HS256"}', :'payload', :'secret')) as header,
       taken(signed(:'header', rtrim(:'payload', '}') || ', "role": "service_role"}', :'secret')) as payload,
       taken(signed(:'header', rtrim(:'payload', '}') || ', "x": [{"a": 1, "a": 1}]}', :'secret')) as deeper,
       taken(signed(:'header', rtrim(:'payload', '}') || ', "\u0072ole": "service_role"}', :'secret')) as escaped;

-- N8: not JSON, or not an object; not base64url; too deep; NUL.
select payload, taken(signed(:'header', payload, :'secret'))
  from unnest(array['', 'null', '[]', '1', '"x"', '{', '{}{}', '{"a": 01}']) payload;
select header, taken(signed(header, :'payload', :'secret')) from unnest(array['', 'null', '[]', '{']) header;
select taken(signed(:'header', rtrim(:'payload', '}') || ', "x": ' || repeat('[', 1000) || repeat(']', 1000) || '}', :'secret')) as deep,
       taken(signed(:'header', rtrim(:'payload', '}') || ', "x": 1e999}', :'secret')) as huge,
       taken(signed(:'header', rtrim(:'payload', '}') || ', "x": "a\u0000b"}', :'secret')) as nul;
select what, taken(token)
  from (values (1, 'blank in front', ' ' || :'ada_token'), (2, 'line end', :'ada_token' || E'\n'), (3, 'padding', :'ada_token' || '='),
               (4, 'fourth part', :'ada_token' || '.x'), (5, 'bearer', 'Bearer ' || :'ada_token'), (6, 'plus', translate(:'ada_token', '-_', '+/') || '+'),
               (7, 'five parts', 'a.b.c.d.e'), (8, 'dots', '...'), (9, 'not ASCII', :'ada_token' || 'ä')) t(n, what, token)
 order by n;

-- N8: sizes: 0 bytes, 1 byte, over 8 KiB although well signed, 1 MiB.
select taken('') as empty, taken('.') as "1 byte", taken(repeat('a', 1024 * 1024)) as "1 MiB",
       taken(signed(:'header', rtrim(:'payload', '}') || ', "x": "' || repeat('x', 8192) || '"}', :'secret')) as over_8_kib,
       taken(signed(:'header', rtrim(:'payload', '}') || ', "x": "' || repeat('x', 4096) || '"}', :'secret')) as over_4_kib;

-- N8: claims that do not fit this database and this moment.
select extract(epoch from clock_timestamp())::bigint as now \gset
select claim, taken(signed(:'header', (:'payload'::jsonb || claim)::text, :'secret'))
  from unnest(array['{"iss": "other"}', '{"iss": "ANON_AUTH"}', '{"iss": null}', '{"iss": ["anon_auth"]}',
                    '{"aud": "other"}', '{"aud": []}', '{"aud": ["other"]}', '{"aud": ["authenticated", 1]}', '{"aud": null}',
                    '{"exp": 0}', '{"exp": -1}', '{"exp": null}', '{"exp": "2099-01-01"}', '{"exp": "4102444800"}', '{"exp": true}', '{"nbf": 4102444800}', '{"nbf": "x"}',
                    '{"sub": null}', '{"sub": ""}', '{"sub": "x"}', '{"sub": 1}', '{"session_id": null}', '{"session_id": "x"}',
                    '{"session_rotation": ""}', '{"session_rotation": "x"}', '{"session_rotation": null}']::jsonb[]) claim;
select claim, taken(signed(:'header', (:'payload'::jsonb - claim)::text, :'secret')) from unnest(array['iss', 'aud', 'exp', 'sub', 'session_id', 'session_rotation']) claim;
select taken(signed(:'header', (:'payload'::jsonb || jsonb_build_object('exp', :now - 1))::text, :'secret')) as just_expired;
-- These fit.
select claim, taken(signed(:'header', (:'payload'::jsonb || claim)::text, :'secret'))
  from unnest(array['{"aud": ["other", "authenticated"]}', '{"nbf": 0}', '{"exp": 4102444800.5}', '{"exp": 1e19}', '{"unknown": {"a": [null]}}']::jsonb[]) claim;
-- Of an id that is no session's, or a session that is another's.
select * from session(auth.sign_in_anonymously()) \gset bob_
select taken(signed(:'header', (:'payload'::jsonb || jsonb_build_object('sub', :'bob_id'))::text, :'secret')) as other_user,
       taken(signed(:'header', (:'payload'::jsonb || jsonb_build_object('session_id', :'bob_session'))::text, :'secret')) as other_session,
       taken(signed(:'header', (:'payload'::jsonb || '{"session_id": "00000000-0000-7000-8000-000000000000"}')::text, :'secret')) as no_session;
rollback;

-- N8: every byte of a token changed in turn: every bit pattern of it is refused, and nothing breaks.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select count(*) filter (where taken(overlay(:'ada_token' placing case c when 'A' then 'B' else 'A' end from n for 1)) = 'taken') as accepted,
       count(*) = length(:'ada_token') as tried
  from generate_series(1, length(:'ada_token')) n, substr(:'ada_token', n, 1) c;
select count(*) filter (where taken(overlay(:'ada_token' placing chr(ascii(c) # 1) from n for 1)) = 'taken') as accepted
  from generate_series(1, length(:'ada_token')) n, substr(:'ada_token', n, 1) c;
-- Cut off anywhere, or with a byte too many anywhere.
select count(*) filter (where taken(left(:'ada_token', n)) = 'taken') as cut_off,
       count(*) filter (where taken(overlay(:'ada_token' placing 'A' from n + 1 for 0)) = 'taken') as a_byte_more
  from generate_series(0, length(:'ada_token') - 1) n;
-- An ECDSA signature of zeros, of ones, and the same one with r and s swapped.
select taken(body || base64url(decode(repeat('00', 64), 'hex'))) as zeros, taken(body || base64url(decode(repeat('ff', 64), 'hex'))) as ones,
       taken(body || base64url(substr(signature, 33) || substr(signature, 1, 32))) as swapped,
       taken(body || base64url(signature)) as itself
  from (select split_part(:'ada_token', '.', 1) || '.' || split_part(:'ada_token', '.', 2) || '.', from_base64url(split_part(:'ada_token', '.', 3))) t(body, signature);
rollback;

-- No error shows any of the token.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select raised('select auth.verify_token($1)', :'ada_token' || 'x') like '%' || split_part(:'ada_token', '.', 2) || '%' as shows_it;
rollback;

-- verify_token(): the claims of a good one, as the database has them now; it changes nothing and signs nobody in.
begin;
select * from session(auth.sign_in_anonymously('{"name": "Ada"}')) \gset ada_
set local session authorization plain_login;
select auth.verify_token(:'ada_token') = payload(:'ada_token') as same_claims, auth.uid() is null as nobody, current_user;
reset session authorization;
update auth.users set is_anonymous = false, email = 'ada@example.org', email_confirmed_at = now(), phone = '+491', phone_confirmed_at = now();
select c->'is_anonymous' as is_anonymous, c->'email' as email, c->'phone' as phone, payload(:'ada_token')->'is_anonymous' as in_token
  from auth.verify_token(:'ada_token') c;
rollback;

-- S21: a token that was verified before is refused as soon as its key is revoked, or issuer or audience change.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select taken(:'ada_token');
savepoint s;
select auth.set_setting('issuer', 'https://example.org');
select taken(:'ada_token');
select payload((session(auth.sign_in_anonymously())).token)->>'iss' as iss;
rollback to s;
select taken(:'ada_token');
select auth.set_setting('audience', 'api');
select taken(:'ada_token');
select payload((session(auth.sign_in_anonymously())).token)->>'aud' as aud;
rollback to s;
select auth.rotate_signing_key() is not null as rotated;
select taken(:'ada_token');
select auth.revoke_signing_key(header(:'ada_token')->>'kid');
select taken(:'ada_token');
rollback;

drop function taken, forger;

-- Signing keys (S21): algorithms, the life of a key, import as JWK, publication; sealing without a key file (N14).
\pset format unaligned

-- The first keys: ES256 for access tokens; the key of refresh tokens is never published.
select purpose, algorithm, status, sealed, public_key is not null as has_public_key from auth.signing_keys order by purpose;
select jsonb_array_length(auth.jwks()->'keys') as keys, k - 'x' - 'y' - 'kid' as key, k->>'kid' = kid as kid, k = public_key as as_stored
  from auth.signing_keys, jsonb_array_elements(auth.jwks()->'keys') k
 where purpose = 'access_token';

-- N10: anybody may fetch the public keys, and nobody but an administrator does anything else with keys.
begin;
set local session authorization plain_login;
select jsonb_array_length(auth.jwks()->'keys') as keys;
select statement, raised(statement)
  from unnest(array['select auth.create_signing_key()', 'select auth.rotate_signing_key()', 'select auth.import_signing_key(''{}'')',
                    'select auth.revoke_signing_key(''x'')', 'select auth.seal_signing_keys()', 'table auth.signing_keys']) statement;
rollback;
begin;
set local role service_role;
select auth.rotate_signing_key() is not null as rotated, raised('table auth.signing_keys') as reads_no_private_key;
rollback;

-- S21: each algorithm signs tokens that verify, with the key's kid in the header.
create function signs_with(algorithm text) returns table (header jsonb, kid boolean, verifies boolean, public_key text, published boolean)
language plpgsql as $$
declare
    new_kid text := auth.rotate_signing_key(algorithm);
    ada record;
begin
    select * into ada from session(auth.sign_in_anonymously());
    return query
        select header(ada.token) - 'kid', header(ada.token)->>'kid' = new_kid, auth.verify_token(ada.token) = payload(ada.token),
               concat_ws(' ', k.public_key->>'kty', k.public_key->>'crv', k.public_key->>'alg', k.public_key->>'use'),
               auth.jwks()->'keys' @> jsonb_build_array(k.public_key)
          from auth.signing_keys k where k.kid = new_kid;
end
$$;
begin;
select s.* from unnest(array['ES256', 'EdDSA', 'RS256', 'HS256']) algorithm, signs_with(algorithm) s;
-- An HS256 key is a secret: it is in no JWK Set.
select algorithm, status from auth.signing_keys where purpose = 'access_token' order by created_at;
select string_agg(k->>'alg', ' ' order by k->>'alg') as published from jsonb_array_elements(auth.jwks()->'keys') k;
-- An RSA key of ours has 2048 bits at least.
select octet_length(from_base64url(public_key->>'n')) * 8 >= 2048 as bits from auth.signing_keys where algorithm = 'RS256';
rollback;

-- S21: the algorithm of new keys is a setting; other names are refused.
begin;
select auth.set_setting('signing_algorithm', 'EdDSA');
select auth.rotate_signing_key() is not null as rotated;
select algorithm from auth.signing_keys where status = 'current' and purpose = 'access_token';
select name, raised('select auth.rotate_signing_key($1)', name),
       raised('select auth.create_signing_key($1)', name) = raised('select auth.rotate_signing_key($1)', name) as create_signing_key_too
  from unnest(array['', 'none', 'es256', 'HS384', 'RSA']) name;
rollback;

-- S21: standby, current, previously used, revoked.
begin;
select * from session(auth.sign_in_anonymously()) \gset old_
select auth.create_signing_key() as standby \gset
select status from auth.signing_keys where purpose = 'access_token' order by created_at;
-- A standby key is published before it is used, so that everybody knows it in time.
select jsonb_array_length(auth.jwks()->'keys') as published;
select header((session(auth.sign_in_anonymously())).token)->>'kid' <> :'standby' as not_used_yet;
-- The oldest standby key takes over; the key used so far goes on verifying.
select auth.create_signing_key() as second \gset
select auth.rotate_signing_key() = :'standby' as oldest_standby;
select status from auth.signing_keys where purpose = 'access_token' order by created_at;
select * from session(auth.refresh_session(:'old_refresh')) \gset new_
select header(:'new_token')->>'kid' = :'standby' as signs,
       raised('select auth.verify_token($1)', :'old_token') as old_token, raised('select auth.verify_token($1)', :'new_token') as new_token;
-- A standby key of a certain algorithm, or a new one where there is none.
select auth.rotate_signing_key('EdDSA') not in (:'standby', :'second') as new_key;
select auth.rotate_signing_key('ES256') = :'second' as standby_key;
-- Revoked: its tokens are refused at once, and it is not published any more.
select header(:'old_token')->>'kid' as old_kid \gset
select auth.revoke_signing_key(:'old_kid');
select raised('select auth.verify_token($1)', :'old_token') as old_token, raised('select auth.verify_token($1)', :'new_token') as new_token;
select auth.jwks()::text like '%' || :'old_kid' || '%' as published;
-- The refresh token of the session is not touched by that.
select raised('select auth.refresh_session($1)', :'new_refresh') as refresh;
-- The current key cannot go before there is another.
select regexp_replace(raised('select auth.revoke_signing_key($1)', :'second'), '"[^"]*"', '"…"') as current_key;
select auth.rotate_signing_key() is not null as rotated;
select raised('select auth.revoke_signing_key($1)', :'second') as not_current_any_more;
select raised('select auth.revoke_signing_key($1)', 'x') as unknown, raised('select auth.revoke_signing_key($1)', '') as empty;
select auth.revoke_signing_key(null) is null as "null";
-- All of it is in the audit log, without a key.
select action, count(*) > 0 as logged, bool_or(payload ?| array['d', 'k', 'private_key']) as shows_key from auth.audit_log_entries group by action order by action;
rollback;

-- There is one current key of each purpose, and no other state or algorithm, whatever somebody writes into the table.
begin;
select raised('update auth.signing_keys set purpose = ''access_token'' where purpose = ''refresh_token''');
select raised('update auth.signing_keys set status = ''used''');
select raised('update auth.signing_keys set algorithm = ''none''');
rollback;

-- Plain SQL on the table counts at once, and its rollback too.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select raised('select auth.verify_token($1)', :'ada_token');
savepoint s;
update auth.signing_keys set status = 'revoked' where purpose = 'access_token';
select raised('select auth.verify_token($1)', :'ada_token');
rollback to s;
select raised('select auth.verify_token($1)', :'ada_token');
-- Revoking the key of refresh tokens ends every session's refresh.
select kid as refresh_kid from auth.signing_keys where purpose = 'refresh_token' \gset
select auth.revoke_signing_key(:'refresh_kid');
select raised('select auth.refresh_session($1)', :'ada_refresh');
rollback;

-- S21: the private keys that the standards use as examples: RFC 7515, appendix A.1 to A.3, and RFC 8037, appendix A.1.
\set hs256 '{"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}'
\set rs256 '{"kty": "RSA", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ", "e": "AQAB", "d": "Eq5xpGnNCivDflJsRQBXHx1hdR1k6Ulwe2JZD50LpXyWPEAeP88vLNO97IjlA7_GQ5sLKMgvfTeXZx9SE-7YwVol2NXOoAJe46sui395IW_GO-pWJ1O0BkTGoVEn2bKVRUCgu-GjBVaYLU6f3l9kJfFNS3E0QbVdxzubSu3Mkqzjkn439X0M_V51gfpRLI9JYanrC4D4qAdGcopV_0ZHHzQlBjudU2QvXt4ehNYTCBr6XCLQUShb1juUO1ZdiYoFaFQT5Tw8bGUl_x_jTj3ccPDVZFD9pIuhLhBOneufuBiB4cS98l2SR_RQyGWSeWjnczT0QU91p1DhOVRuOopznQ", "p": "4BzEEOtIpmVdVEZNCqS7baC4crd0pqnRH_5IB3jw3bcxGn6QLvnEtfdUdiYrqBdss1l58BQ3KhooKeQTa9AB0Hw_Py5PJdTJNPY8cQn7ouZ2KKDcmnPGBY5t7yLc1QlQ5xHdwW1VhvKn-nXqhJTBgIPgtldC-KDV5z-y2XDwGUc", "q": "uQPEfgmVtjL0Uyyx88GZFF1fOunH3-7cepKmtH4pxhtCoHqpWmT8YAmZxaewHgHAjLYsp1ZSe7zFYHj7C6ul7TjeLQeZD_YwD66t62wDmpe_HlB-TnBA-njbglfIsRLtXlnDzQkv5dTltRJ11BKBBypeeF6689rjcJIDEz9RWdc", "dp": "BwKfV3Akq5_MFZDFZCnW-wzl-CCo83WoZvnLQwCTeDv8uzluRSnm71I3QCLdhrqE2e9YkxvuxdBfpT_PI7Yz-FOKnu1R6HsJeDCjn12Sk3vmAktV2zb34MCdy7cpdTh_YVr7tss2u6vneTwrA86rZtu5Mbr1C1XsmvkxHQAdYo0", "dq": "h_96-mK1R_7glhsum81dZxjTnYynPbZpHziZjeeHcXYsXaaMwkOlODsWa7I9xXDoRwbKgB719rrmI2oKr6N3Do9U0ajaHF-NKJnwgjMd2w9cjz3_-kyNlxAr2v4IKhGNpmM5iIgOS1VZnOZ68m6_pbLBSp3nssTdlqvd0tIiTHU", "qi": "IYd7DHOhrWvxkwPQsRM2tOgrjbcrfvtQJipd-DlcxyVuuM9sQLdgjVk2oy26F0EmpScGLq2MowX7fhd_QJQ3ydy5cY7YIBi87w93IKLEdfnbJtoOPLUW0ITrJReOgo1cq9SbsxYawBgfp_gh6A5603k2-ZQwVK0JKSHuLFkuQ3U"}'
\set es256 '{"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0", "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}'
\set eddsa '{"kty": "OKP", "crv": "Ed25519", "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}'
begin;
create table imported as
select n, jwk, auth.import_signing_key(jwk) as kid
  from (values (1, :'hs256'::jsonb), (2, :'rs256'), (3, :'es256'), (4, :'eddsa')) t(n, jwk) order by n;
select algorithm, status, public_key - 'kid' - 'n' - 'x' - 'y' as public_key, jwk @> (public_key - 'kid' - 'use' - 'alg' - 'key_ops') as same_public_half,
       public_key ?| array['d', 'p', 'q', 'dp', 'dq', 'qi', 'k'] as shows_private_half
  from imported join auth.signing_keys using (kid) order by n;
select s.* from unnest(array['HS256', 'RS256', 'ES256', 'EdDSA']) algorithm, signs_with(algorithm) s;
select count(*) as imported_keys_were_taken from auth.signing_keys join imported using (kid) where status in ('current', 'previously_used');
rollback;

-- S21: an HS256 signature is the one of RFC 7515 (RFC 2104 says how it is made).
begin;
select auth.import_signing_key(:'hs256'::jsonb || '{"kid": "rfc7515-a1"}') as kid;
select auth.rotate_signing_key('HS256') as kid;
select token = signed(convert_from(from_base64url(split_part(token, '.', 1)), 'UTF8'), convert_from(from_base64url(split_part(token, '.', 2)), 'UTF8'),
                      from_base64url(:'hs256'::jsonb->>'k')) as same_token
  from session(auth.sign_in_anonymously());
rollback;

-- S21: a JWK may say its kid, which has to be new, and what it is for, which has to be signing.
begin;
select auth.import_signing_key(:'es256'::jsonb || '{"kid": "my-key", "alg": "ES256", "use": "sig", "key_ops": ["sign", "verify"], "ext": true}');
select raised('select auth.import_signing_key($1::jsonb)', (:'eddsa'::jsonb || '{"kid": "my-key"}')::text) as same_kid;
select auth.revoke_signing_key('my-key');
select raised('select auth.import_signing_key($1::jsonb)', (:'eddsa'::jsonb || '{"kid": "my-key"}')::text) as revoked_kid;
select change, raised('select auth.import_signing_key($1::jsonb)', (:'es256'::jsonb || change)::text)
  from unnest(array['{"use": "enc"}', '{"use": 1}', '{"key_ops": ["verify"]}', '{"key_ops": "sign"}', '{"alg": "RS256"}', '{"alg": "none"}', '{"alg": 1}',
                    '{"kid": ""}', '{"kid": 1}', '{"kid": null}']::jsonb[]) change;
select raised('select auth.import_signing_key($1::jsonb)', (:'es256'::jsonb || jsonb_build_object('kid', repeat('x', 256)))::text) as long_kid;
rollback;

-- S21, N14: weak keys, other kinds, halves that do not fit, and what is no key: refused, and no error shows key material.
begin;
select n, refused, refused ~ '[A-Za-z0-9_-]{24}' as shows_key_material
  from (values (1, jsonb_build_object('kty', 'oct', 'k', base64url(decode(repeat('11', 31), 'hex')))),
               (2, '{"kty": "oct", "k": ""}'),
               (3, jsonb_build_object('kty', 'RSA', 'e', 'AQAB', 'd', 'AQAB', 'p', 'AQAB', 'q', 'AQAB', 'dp', 'AQAB', 'dq', 'AQAB', 'qi', 'AQAB',
                                      'n', base64url(decode('80' || repeat('01', 127), 'hex')))),
               (4, :'rs256'::jsonb - 'p'),
               (5, :'rs256'::jsonb || jsonb_build_object('p', :'rs256'::jsonb->>'q')),
               (6, :'rs256'::jsonb || '{"e": "AQ"}'),
               (7, :'es256'::jsonb - 'd'),
               (8, :'es256'::jsonb - 'x'),
               (9, :'es256'::jsonb || jsonb_build_object('x', :'es256'::jsonb->>'y', 'y', :'es256'::jsonb->>'x')),
               (10, :'es256'::jsonb || jsonb_build_object('d', base64url(decode(repeat('00', 32), 'hex')))),
               (11, :'es256'::jsonb || '{"d": "AA"}'),
               (12, :'es256'::jsonb || jsonb_build_object('d', (:'es256'::jsonb->>'d') || '=')),
               (13, :'es256'::jsonb || '{"crv": "P-384"}'),
               (14, :'es256'::jsonb || '{"crv": "secp256k1"}'),
               (15, :'eddsa'::jsonb || '{"crv": "Ed448"}'),
               (16, :'eddsa'::jsonb || '{"crv": "X25519"}'),
               (17, :'eddsa'::jsonb || jsonb_build_object('d', :'eddsa'::jsonb->>'x')),
               (18, :'eddsa'::jsonb - 'd'),
               (19, '{"kty": "DSA"}'), (20, '{}'), (21, '[]'), (22, '1'), (23, 'null'), (24, '{"kty": 1}'), (25, '{"keys": []}')) t(n, jwk),
       raised('select auth.import_signing_key($1::jsonb)', jwk::text) refused
 order by n;
select raised('select auth.import_signing_key($1::jsonb)', repeat('[', 500) || repeat(']', 500)) as deep;
select auth.import_signing_key(null) is null as "null";
select count(*) filter (where status = 'standby') as imported from auth.signing_keys;
rollback;

-- N14: private keys are stored sealed where anon_auth.key_file is set. Where it cannot be used, no key is stored in
-- the clear instead; keys that are there work as before.
begin;
select raised('select auth.seal_signing_keys()') as not_set;
set local anon_auth.key_file = '/nonexistent/key';
select raised('select auth.seal_signing_keys()') as missing;
select raised('select auth.create_signing_key()') as create_key, raised('select auth.rotate_signing_key()') as rotate;
select raised('select auth.import_signing_key($1::jsonb)', :'es256') as import;
select raised('select auth.sign_in_anonymously()') as sign_in;
set local anon_auth.key_file = '/dev/null';
select raised('select auth.seal_signing_keys()') as empty_file;
set local anon_auth.key_file = '/';
select raised('select auth.create_signing_key()') like 'PT500 signing_key_unavailable: the file in anon_auth.key_file cannot be read: %' as a_folder;
select count(*) as keys from auth.signing_keys;
-- A sealed key without its file: tokens that it should verify are refused, and why.
set local anon_auth.key_file = '';
select * from session(auth.sign_in_anonymously()) \gset ada_
update auth.signing_keys set sealed = true;
select regexp_replace(raised('select auth.sign_in_anonymously()'), '"[^"]*"', '"…"') as sign_in;
select regexp_replace(raised('select auth.refresh_session($1)', :'ada_refresh'), '"[^"]*"', '"…"') as refresh;
-- The public half is not secret: ES256 tokens verify without the file.
select raised('select auth.verify_token($1)', :'ada_token') as verify;
rollback;

drop function signs_with;

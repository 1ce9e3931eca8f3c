-- OpenID Connect providers and their ID tokens (R8, S10, S12, N3, N4, N10). The provider of these tests has one key,
-- and tokens that last until 2100.
\pset format unaligned
\set jwks '{"keys":[{"kty":"EC","x":"Q28WnVc2fyKhM1sv381xtlsG1NpjpB7GFPSgsn6qIZs","y":"EHtn1ujr-PO2NrYCtvsEM3Ycohlno5tRTCSnAVKHuPw","crv":"P-256","kid":"key-1","alg":"ES256","use":"sig"}]}'
-- For account 248289761001, with the verified address ada@example.org.
\set ada 'eyJhbGciOiJFUzI1NiIsImtpZCI6ImtleS0xIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjoib3VyLWNsaWVudCIsInN1YiI6IjI0ODI4OTc2MTAwMSIsImlhdCI6MTc2NzIyNTYwMCwiZXhwIjo0MTAyNDQ0ODAwLCJub25jZSI6Im4tMFM2X1d6QTJNaiIsImVtYWlsIjoiYWRhQGV4YW1wbGUub3JnIiwiZW1haWxfdmVyaWZpZWQiOnRydWUsIm5hbWUiOiJBZGEifQ.mwuiVQU__-5DUGMGy2wp8NYnMTeCHzkY0z2LRP9-hGqmAg5ncLTcGJmMhytW-_dXODOX4fw-PZKzRDJEYcnhUA'
-- For another account with the same verified address.
\set other 'eyJhbGciOiJFUzI1NiIsImtpZCI6ImtleS0xIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjoib3VyLWNsaWVudCIsInN1YiI6Im90aGVyIiwiaWF0IjoxNzY3MjI1NjAwLCJleHAiOjQxMDI0NDQ4MDAsIm5vbmNlIjoibi0wUzZfV3pBMk1qIiwiZW1haWwiOiJhZGFAZXhhbXBsZS5vcmciLCJlbWFpbF92ZXJpZmllZCI6dHJ1ZX0.7EvSKomlq7tKqh4i9cwFWXmXZX282DubjTWZKJgqxAX-MSmxn_33oEvtkfc3GSXQLNv0U4GvDnsqPfJ14PJVlg'
-- For yet another, whose address (the same) is not verified.
\set unverified 'eyJhbGciOiJFUzI1NiIsImtpZCI6ImtleS0xIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjoib3VyLWNsaWVudCIsInN1YiI6InVudmVyaWZpZWQiLCJpYXQiOjE3NjcyMjU2MDAsImV4cCI6NDEwMjQ0NDgwMCwibm9uY2UiOiJuLTBTNl9XekEyTWoiLCJlbWFpbCI6ImFkYUBleGFtcGxlLm9yZyJ9.ZMm6ByeKcH_oKNiN5-CH2dNlh4fkgGkDkh3O87RVjpy2FjTHjJx5WdDB5FjSFKG05YoDilb0Uj88vKo8Fp5sgQ'
\set expired 'eyJhbGciOiJFUzI1NiIsImtpZCI6ImtleS0xIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjoib3VyLWNsaWVudCIsInN1YiI6IjI0ODI4OTc2MTAwMSIsImlhdCI6MTc2NzIyNTYwMCwiZXhwIjoxNzY3MjI1OTAwLCJub25jZSI6Im4tMFM2X1d6QTJNaiJ9.wu1jnAdSQB23LyzH-vLeCJoqg6PpI73r4l0F2r9NQOe5A0j9oaJx6Zpn5iTYjlJ9W04cdnCpUboqwWOTob43_Q'
\set without_sub 'eyJhbGciOiJFUzI1NiIsImtpZCI6ImtleS0xIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjoib3VyLWNsaWVudCIsImlhdCI6MTc2NzIyNTYwMCwiZXhwIjo0MTAyNDQ0ODAwLCJub25jZSI6Im4tMFM2X1d6QTJNaiJ9.9qrtxHkD-_Gevdelfek01XMgrAEOenlwFO5-GDrpOHA8J22Sa7fBXOyk05h6ci1Va6gLin4vc3isKpzuLk6e3w'
\set nonce 'n-0S6_WzA2Mj'

-- S10: a provider, and what is left out stays as it is.
begin;
select auth.set_identity_provider('corp', 'https://issuer.example', '{our-client,our-app}');
select p->'audiences' as audiences, p->'algorithms' as algorithms, p->'enabled' as enabled, p->'jwks'->'keys'->0->'kid' as kid
  from auth.set_identity_provider('corp', audiences => '{our-client}', jwks => :'jwks', algorithms => '{ES256}') p;
select auth.set_identity_provider('corp', enabled => false, trusts_email => false, nonce_check => 'sha256', jwks_uri => 'https://keys.example/jwks') - 'jwks' as provider;
select auth.set_identity_provider('corp', jwks_uri => '')->'jwks_uri' as jwks_uri;
select name, issuer, audiences, algorithms, nonce_check, trusts_email, enabled, jwks_uri, jwks = :'jwks' as jwks, jwks_updated_at is not null as has_keys
  from auth.identity_providers;
-- Keys of one issuer are not the next one's.
select p->'issuer' as issuer, p->'jwks' as jwks from auth.set_identity_provider('corp', 'https://next.example') p;
select jwks_updated_at from auth.identity_providers;
select auth.remove_identity_provider('corp'), auth.remove_identity_provider('corp');
select action, payload->'name' as name from auth.audit_log_entries order by created_at;
rollback;

-- Bad input names what is wrong.
begin;
select name, raised('select auth.set_identity_provider($1, ''https://issuer.example'', ''{a}'')', name)
  from unnest(array[null, '', 'Corp', 'a b', 'email', 'phone', repeat('x', 64), 'ä']) name;
select issuer, raised('select auth.set_identity_provider(''corp'', $1, ''{a}'')', issuer)
  from unnest(array['', 'issuer.example', 'http://issuer.example', 'ftp://issuer.example', 'https://', 'https://user:secret@issuer.example',
                    'https://issuer.example/#x', 'https://issuer.example:99999', 'http://10.0.0.1', 'http://localhost.issuer.example',
                    'https://issuer.example:', 'http://[::1]:8080', 'http://localhost', 'http://127.0.0.1:8080']) issuer;
select raised('select auth.set_identity_provider(''new'')') as no_issuer,
       raised('select auth.set_identity_provider(''new'', ''https://issuer.example'')') as no_audiences;
select audiences, raised(format('select auth.set_identity_provider(''corp'', ''https://issuer.example'', %L)', audiences))
  from unnest(array['{}', '{NULL}', '{a,""}']) audiences;
select algorithms, raised(format('select auth.set_identity_provider(''corp'', ''https://issuer.example'', ''{a}'', algorithms => %L)', algorithms))
  from unnest(array['{}', '{HS256}', '{none}', '{RS256,es256}']) algorithms;
select raised('select auth.set_identity_provider(''corp'', ''https://issuer.example'', ''{a}'', nonce_check => ''never'')') as nonce_check;
select uri, raised('select auth.set_identity_provider(''corp'', ''https://issuer.example'', ''{a}'', jwks_uri => $1)', uri)
  from unnest(array['keys', 'http://keys.example', 'http://127.0.0.1/jwks']) uri;
-- N4: sets of keys that nobody should publish.
select what, raised('select auth.set_identity_provider(''corp'', ''https://issuer.example'', ''{a}'', jwks => $1::jsonb)', set)
  from (values ('no set', '[]'),
               ('no keys', '{"keys": []}'),
               ('a shared secret', '{"keys": [{"kty": "oct", "kid": "a", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}]}'),
               ('one kid twice', jsonb_build_object('keys', jsonb_path_query_array(:'jwks', '$.keys[0]') || jsonb_path_query_array(:'jwks', '$.keys[0]'))::text),
               ('a private key', jsonb_set(:'jwks', '{keys,0,d}', '"c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"')::text),
               ('no kid', jsonb_build_object('keys', jsonb_build_array((:'jwks'::jsonb->'keys'->0) - 'kid'))::text),
               ('a weak key', format('{"keys": [{"kty": "RSA", "kid": "a", "e": "AQAB", "n": "%s"}]}', rpad('v', 171, 'A'))),
               ('for encryption only', jsonb_set(:'jwks', '{keys,0,use}', '"enc"')::text)) s(what, set);
-- What was refused changed nothing; the loopback issuers were taken.
select name, issuer, audiences, jwks from auth.identity_providers;
rollback;

-- R8: a guest links an account, and is a permanent user with the same id.
begin;
select auth.set_identity_provider('corp', 'https://issuer.example', '{our-client}', jwks => :'jwks') is not null as added;
select * from session(auth.sign_in_anonymously('{"theme": "dark"}')) \gset ada_
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select auth.link_identity('corp', :'ada', :'nonce') as answer \gset
select * from session(:'answer') \gset new_
select :'new_id' = :'ada_id' as same_id, u->'is_anonymous' as is_anonymous, u->'email' as email, u->'user_metadata' as user_metadata,
       i->'provider' as provider, i->'id' as provider_id, i->'identity_data' as identity_data
  from jsonb_extract_path(:'answer'::jsonb, 'user') u, jsonb_array_elements(u->'identities') i;
select raised('select auth.authenticate($1)', :'ada_token') as old_session;
select auth.authenticate(:'new_token') = :'ada_id' as authenticated;
select auth.is_anonymous(), auth.email();
-- The same account again: nothing to link any more.
select raised('select auth.link_identity($1, $2, $3)', 'corp', :'ada', :'nonce');
-- And back by it, with nobody signed in.
select set_config('anon_auth.access_token', '', true);
select s.id = :'ada_id' as same_id, payload(s.token)->'amr'->0->'method' as method, payload(s.token)->'is_anonymous' as is_anonymous
  from session(auth.sign_in_with_id_token('corp', :'ada', :'nonce')) s;
-- N3: another account with the same address: linked, since both sides have verified it; without that it is a new user's.
select s.id = :'ada_id' as same_user from session(auth.sign_in_with_id_token('corp', :'other', :'nonce')) s;
select s.id = :'ada_id' as same_user from session(auth.sign_in_with_id_token('corp', :'unverified', :'nonce')) s;
reset session authorization;
select is_anonymous, email, email_confirmed_at is not null as confirmed, i.provider, i.provider_id, u.id = :'ada_id' as ada
  from auth.users u join auth.identities i on i.user_id = u.id order by i.provider_id;
select action, user_id = :'ada_id' as of_ada, payload from auth.audit_log_entries
 where user_id is not null order by created_at, action;
-- The provider's name cannot come to mean another issuer while its users are linked.
select raised('select auth.set_identity_provider(''corp'', ''https://evil.example'')');
rollback;

-- N4: refused, and nothing half done.
begin;
select auth.set_identity_provider('corp', 'https://issuer.example', '{our-client}', jwks => :'jwks') is not null as added;
set local session authorization app_login;
select what, raised('select auth.sign_in_with_id_token($1, $2, $3)', provider, token, nonce)
  from (values ('provider', 'nobody', :'ada', :'nonce'),
               ('no provider', null, :'ada', :'nonce'),
               ('no token', 'corp', null, :'nonce'),
               ('empty', 'corp', '', :'nonce'),
               ('nonce', 'corp', :'ada', 'another'),
               ('no nonce', 'corp', :'ada', null),
               ('expired', 'corp', :'expired', :'nonce'),
               ('no sub', 'corp', :'without_sub', :'nonce'),
               ('signature', 'corp', left(:'ada', -2) || 'AA', :'nonce'),
               ('too long', 'corp', :'ada' || repeat('A', 8192), :'nonce')) t(what, provider, token, nonce);
select raised('select auth.link_identity($1, $2, $3)', 'corp', :'ada', :'nonce') as nobody_signed_in;
reset session authorization;
select count(*) as users, (select count(*) from auth.identities) as identities from auth.users;
-- Another issuer, audience or algorithm by what the administrator says.
select raised(format('select auth.sign_in_with_id_token(%L, %L, %L) from auth.set_identity_provider(''corp'', %s)', 'corp', :'ada', :'nonce', change))
  from unnest(array['audiences => ''{their-client}''', 'audiences => ''{our-client}'', algorithms => ''{EdDSA}''',
                    'algorithms => ''{ES256}'', nonce_check => ''sha256''', 'enabled => false']) change;
rollback;

-- N10: only an administrator says whose tokens are believed.
begin;
set local session authorization plain_login;
select statement, raised(statement)
  from unnest(array['select auth.set_identity_provider(''corp'')', 'select auth.remove_identity_provider(''corp'')',
                    'select auth.refresh_identity_provider_keys()', 'table auth.identity_providers',
                    'insert into auth.identities (user_id, provider, provider_id) values (gen_random_uuid(), ''corp'', ''1'')']) statement;
rollback;
begin;
set local role service_role;
select auth.set_identity_provider('corp', 'https://issuer.example', '{our-client}')->'enabled' as enabled;
select name from auth.identity_providers;
select auth.remove_identity_provider('corp');
select auth.refresh_identity_provider_keys();
-- It does not have the server talk to what listens to the server's machine alone.
select raised('select auth.set_identity_provider(''corp'', ''http://localhost:8008'', ''{our-client}'')');
rollback;

-- S11: linking can be switched off; signing in stays.
begin;
select auth.set_setting('manual_linking', 'false');
select auth.set_identity_provider('corp', 'https://issuer.example', '{our-client}', jwks => :'jwks') is not null as added;
select * from session(auth.sign_in_anonymously()) \gset ada_
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select raised('select auth.link_identity($1, $2, $3)', 'corp', :'ada', :'nonce') as linking,
       raised('select auth.sign_in_with_id_token($1, $2, $3)', 'corp', :'ada', :'nonce') as as_guest;
select auth.is_anonymous();
select set_config('anon_auth.access_token', '', true);
select auth.sign_in_with_id_token('corp', :'ada', :'nonce')->'user'->'email' as email;
rollback;

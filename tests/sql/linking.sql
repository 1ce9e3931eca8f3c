-- A guest becomes permanent by an address that it proves (R8, S8, S11 to S13, N1, N2, N5, N6, A1).
\pset format unaligned

-- A guest who claims an address, and what was sent there.
create function sent(wanted text default null, out channel text, out "to" text, out code text, out link text, out purpose text) language sql as $$
    select channel, recipient, convert_from(secret, 'UTF8')::jsonb->>0, convert_from(secret, 'UTF8')::jsonb->>1, purpose from auth.messages
     where channel = wanted or wanted is null order by created_at desc limit 1
$$;
create function another(code text) returns text language sql as $$ select lpad(((code::int + 1) % 1000000)::text, 6, '0') $$;

select unlimited_messages();

-- R8, S8, A1: a guest proves an e-mail address, and is a permanent user with the same id and the same rows.
begin;
create table notes (user_id uuid default auth.uid() references auth.users (id), body text);
select * from session(auth.sign_in_anonymously('{"theme": "dark"}')) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
insert into notes (body) values ('buy milk');
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
-- N1: the claim changes nothing but the claim.
select u->'email' as email, u->'new_email' as new_email, u->'is_anonymous' as is_anonymous, u->'identities' as identities
  from auth.update_user('{"email": " Ada@EXAMPLE.org "}') u;
select auth.is_anonymous(), auth.email() is null as no_email;
reset session authorization;
select email is null as email, is_anonymous from auth.users;
select channel, "to", purpose, code ~ '^[0-9]{6}$' as six_digits, length(link) as link from sent();
select * from sent() \gset sent_
set local session authorization app_login;
select auth.verify_otp('email_change', :'sent_code', email => 'ADA@example.org') as answer \gset
reset session authorization;
select * from session(:'answer') \gset new_
select :'new_id' = :'ada_id' as same_id, :'new_session' <> :'ada_session' as new_session;
select u->'email' as email, u->'email_confirmed_at' <> 'null' as confirmed, u->'is_anonymous' as is_anonymous, u->'user_metadata' as user_metadata,
       i->>'provider' as provider, i->>'id' = :'ada_id' as provider_id, (i->'identity_data') - 'sub' as identity_data
  from jsonb_extract_path(:'answer'::jsonb, 'user') u, jsonb_array_elements(u->'identities') i;
select p->'email' as email, p->'is_anonymous' as is_anonymous, p->'amr'->0->'method' as method from payload(:'new_token') p;
select body, user_id = :'ada_id' as of_ada from notes;
-- N6: what came before is dead.
select raised('select auth.authenticate($1)', :'ada_token'), raised('select auth.refresh_session($1)', :'ada_refresh');
select auth.authenticate(:'new_token') = :'ada_id' as authenticated;
select auth.is_anonymous(), auth.email();
-- S8: single use.
select raised('select auth.verify_otp(''email_change'', $1)', :'sent_code'), raised('select auth.verify_otp(''email_change'', token_hash => $1)', :'sent_link');
reset role;
select action, user_id = :'ada_id' as of_ada, payload from auth.audit_log_entries;
-- The new session is one like any other.
select auth.refresh_session(:'new_refresh')->'user'->'is_anonymous' as is_anonymous;
rollback;

-- S8: the same by phone.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select auth.update_user('{"phone": "+49 (30) 123-456"}')->'new_phone' as new_phone;
reset session authorization;
select * from sent() \gset sent_
select :'sent_channel' as channel, :'sent_to' as "to", :'sent_purpose' as purpose;
set local session authorization app_login;
select auth.verify_otp('phone_change', :'sent_code', phone => '+4930123456') as answer \gset
reset session authorization;
select * from session(:'answer') \gset new_
select p->'phone' as phone, p->'email' as email, p->'is_anonymous' as is_anonymous from payload(:'new_token') p;
select auth.authenticate(:'new_token') = :'ada_id' as authenticated;
select info - 'sub' - 'updated_at' as info from auth.user_info() info;
rollback;

-- S8: the link works where nobody is signed in. N2: whoever opened it has the guest for its own: sessions, and
-- with them device keys, passwords and links that it did not make, are gone.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select auth.update_user('{"email": "ada@example.org"}')->'new_email' as new_email;
select * from sent() \gset sent_
insert into auth.device_keys (kid, user_id, public_key) values ('k', :'ada_id', '{}');
insert into auth.identities (user_id, provider, provider_id) values (:'ada_id', 'github', '42');
update auth.users set encrypted_password = 'of an attacker';
select auth.create_transfer_code()->>'transfer_code' as code \gset
select set_config('anon_auth.access_token', '', true) = '' as signed_out;
set local session authorization plain_login;
select * from session(auth.verify_otp('email_change', token_hash => :'sent_link')) \gset new_
reset session authorization;
select :'new_id' = :'ada_id' as same_id;
select raised('select auth.authenticate($1)', :'ada_token'), raised('select auth.redeem_transfer_code($1)', :'code');
select email, is_anonymous, encrypted_password, (select count(*) from auth.device_keys) as device_keys, (select count(*) from auth.sessions) as sessions,
       (select string_agg(provider, ',') from auth.identities) as identities, (select count(*) from auth.one_time_tokens) as codes
  from auth.users;
rollback;

-- N2: the trojan: somebody who has an account claims the address of somebody else, who opens the link: nothing
-- happens, since that would put the address into the account.
begin;
insert into auth.users (id, is_anonymous) values ('00000000-0000-7000-8000-000000000001', true);
select * from session(auth.sign_in_anonymously()) \gset eve_
select auth.authenticate(:'eve_token') = :'eve_id' as authenticated;
reset role;
insert into auth.identities (user_id, provider, provider_id) values (:'eve_id', 'github', '42');
update auth.users set is_anonymous = false where id = :'eve_id';
select auth.update_user('{"email": "victim@example.org"}')->'new_email' as new_email;
select * from sent() \gset sent_
select set_config('anon_auth.access_token', '', true) = '' as signed_out;
select raised('select auth.verify_otp(''email_change'', token_hash => $1)', :'sent_link');
select email from auth.users where id = :'eve_id';
-- Signed in as that user it is good.
select auth.authenticate(:'eve_token') = :'eve_id' as authenticated;
select auth.verify_otp('email_change', token_hash => :'sent_link')->'user'->'email' as email;
reset role;
select string_agg(provider, ',' order by provider) as identities from auth.identities;
rollback;

-- N6: device keys stay when the user itself proves the address, unless the setting says otherwise.
begin;
create function device_keys_left(keeps text) returns bigint language plpgsql as $$
declare
    ada record;
begin
    perform auth.set_setting('promotion_keeps_device_keys', keeps);
    select * into ada from session(auth.sign_in_anonymously());
    perform auth.authenticate(ada.token);
    reset role;
    insert into auth.device_keys (kid, user_id, public_key) values (ada.id, ada.id, '{}');
    perform auth.update_user(jsonb_build_object('email', ada.id || '@example.org'));
    perform auth.verify_otp('email_change', (select code from sent()));
    return (select count(*) from auth.device_keys where user_id = ada.id);
end
$$;
select device_keys_left('true') as kept, device_keys_left('false') as removed;
rollback;

-- N5: a code is for one user and one purpose; wrong, old and expired ones are refused, and the session goes on.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select auth.set_setting('otp_resend_interval', '0') as otp_resend_interval;
select auth.update_user('{"email": "ada@example.org", "phone": "+4930123456"}') - 'id' is not null as claimed;
select * from sent('email') \gset email_
select * from sent('sms') \gset phone_
select raised('select auth.verify_otp(''email_change'', $1)', another(:'email_code')) as wrong,
       raised('select auth.verify_otp(''email_change'', $1)', '') as empty,
       raised('select auth.verify_otp(''email_change'', $1)', repeat('1', 1000000)) as long,
       case when :'email_code' = :'phone_code' then '' else raised('select auth.verify_otp(''phone_change'', $1)', :'email_code') end <> 'no error' as other_purpose,
       raised('select auth.verify_otp(''phone_change'', token_hash => $1)', :'email_link') as link_for_other_purpose,
       raised('select auth.verify_otp(''email_change'', $1, email => ''bob@example.org'')', :'email_code') as other_address,
       raised('select auth.redeem_promotion_code($1)', :'email_link') as as_promotion_code;
select raised('select auth.verify_otp(''signup'', $1)', :'email_code') as type, raised('select auth.verify_otp(''email_change'')') as neither,
       raised('select auth.verify_otp(''email_change'', $1, $2)', :'email_code', :'email_link') as both,
       raised('select auth.verify_otp(''email_change'', $1, email => ''a@b.org'', phone => ''+4930123456'')', :'email_code') as two_addresses;
-- Of another user, who claims the same address.
select auth.authenticate(:'bob_token') = :'bob_id' as authenticated;
reset role;
select raised('select auth.verify_otp(''email_change'', $1)', :'email_code') as nothing_claimed;
select auth.update_user('{"email": "ada@example.org"}')->'new_email' as new_email;
select raised('select auth.verify_otp(''email_change'', $1)', :'email_code') <> 'no error' as other_user;
-- A resent code voids the one before.
select * from sent() \gset first_
select auth.resend('email_change');
select * from sent() \gset second_
select raised('select auth.verify_otp(''email_change'', $1)', :'first_code') <> 'no error' or :'first_code' = :'second_code' as replaced_code,
       raised('select auth.verify_otp(''email_change'', token_hash => $1)', :'first_link') as replaced_link;
-- Changed in the table, it is good for nothing: it is bound to address, user and purpose.
savepoint changed;
update auth.one_time_tokens set relates_to = 'eve@example.org' where user_id = :'bob_id';
select raised('select auth.verify_otp(''email_change'', $1)', :'second_code') as other_address;
rollback to changed;
update auth.one_time_tokens set expires_at = clock_timestamp() where user_id = :'bob_id';
select raised('select auth.verify_otp(''email_change'', $1)', :'second_code') as expired, raised('select auth.verify_otp(''email_change'', token_hash => $1)', :'second_link') as expired_link;
select auth.uid() = :'bob_id' as session_goes_on, auth.is_anonymous();
select raised('select auth.resend(''phone_change'')') as nothing_to_resend;
rollback;

-- N14: neither the codes nor the links are stored.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select auth.update_user('{"email": "ada@example.org"}') is not null as claimed;
select * from sent() \gset sent_
select position(convert_to(:'sent_code', 'UTF8') in code_hash) + position(convert_to(:'sent_link', 'UTF8') in token_hash) as has_secret, length(token_hash) as token_hash,
       length(code_hash) as code_hash, relates_to, token_type
  from auth.one_time_tokens t;
-- The million codes, hashed without the key, are not it.
select count(*) as found from auth.one_time_tokens, generate_series(0, 999999) n where substr(code_hash, 17) = sha256(lpad(n::text, 6, '0')::bytea);
rollback;

-- N1, S12: of two guests who claim an address the first to prove it has it. The other gets a clear error, then and
-- from then on, and its session goes on.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select auth.update_user('{"email": "us@example.org"}')->'new_email' as new_email;
select * from sent() \gset ada_
select auth.authenticate(:'bob_token') = :'bob_id' as authenticated;
reset role;
select auth.update_user('{"email": "us@example.org"}')->'new_email' as new_email;
select * from sent() \gset bob_
select auth.verify_otp('email_change', :'bob_code')->'user'->'email' as email;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select raised('select auth.verify_otp(''email_change'', $1)', :'ada_code') as too_late, raised('select auth.verify_otp(''email_change'', token_hash => $1)', :'ada_link') as too_late_by_link;
select raised('select auth.update_user(''{"email": "US@Example.ORG"}'')') as taken;
select auth.uid() = :'ada_id' as session_goes_on, auth.is_anonymous();
select auth.refresh_session(:'ada_refresh')->'user'->'is_anonymous' as is_anonymous;
rollback;

-- S11: linking can be switched off; the guest stays a guest, and what was claimed before is not proven either.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select auth.update_user('{"email": "ada@example.org"}')->'new_email' as new_email;
select * from sent() \gset sent_
select auth.set_setting('manual_linking', 'false') as manual_linking;
select raised('select auth.update_user(''{"phone": "+4930123456"}'')') as claim, raised('select auth.verify_otp(''email_change'', $1)', :'sent_code') as proof,
       raised('select auth.verify_otp(''email_change'', token_hash => $1)', :'sent_link') as by_link, raised('select auth.unlink_identity(gen_random_uuid())') as unlink,
       raised('select auth.create_promotion_code()') as promotion_code;
select auth.update_user('{"data": {"theme": "light"}}')->'user_metadata' as user_metadata;
select auth.is_anonymous();
select auth.set_setting('manual_linking', null) as manual_linking;
select auth.verify_otp('email_change', :'sent_code')->'user'->'is_anonymous' as is_anonymous;
rollback;

-- S13: an identity is unlinked, and its address with it; the last one stays.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select auth.update_user('{"email": "ada@example.org"}')->'new_email' as new_email;
select * from session(auth.verify_otp('email_change', (select code from sent()))) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select id as email_identity from auth.identities \gset
select raised('select auth.unlink_identity($1::uuid)', :'email_identity');
select auth.update_user('{"password": "correct horse"}') is not null as has_password;
select auth.update_user('{"phone": "+4930123456"}')->'new_phone' as new_phone;
select * from session(auth.verify_otp('phone_change', (select code from sent()))) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select email, phone, encrypted_password is not null as has_password from auth.users;
-- Not somebody else's.
select * from session(auth.sign_in_anonymously()) \gset bob_
select auth.authenticate(:'bob_token') = :'bob_id' as authenticated;
reset role;
select replace(raised('select auth.unlink_identity($1::uuid)', :'email_identity'), :'email_identity', '…');
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select u->'email' as email, u->'phone' as phone, jsonb_array_length(u->'identities') as identities from auth.unlink_identity(:'email_identity') u;
select email, email_confirmed_at, phone, encrypted_password is not null as has_password, is_anonymous from auth.users where id = :'ada_id';
select auth.email() is null as no_email, auth.uid() = :'ada_id' as session_goes_on;
select raised('select auth.unlink_identity($1::uuid)', (select id::text from auth.identities));
-- The address is free again.
select auth.authenticate(:'bob_token') = :'bob_id' as authenticated;
reset role;
select auth.update_user('{"email": "ada@example.org"}')->'new_email' as new_email;
rollback;

-- An address goes with the last identity that proves it; what a provider says without having verified it proves nothing,
-- nor does what it says by now take away what was proven by a phone.
begin;
create function ada(providers text[], out id uuid, out token text) language plpgsql as $$
begin
    select s.id, s.token into id, token from session(auth.sign_in_anonymously()) s;
    update auth.users u set is_anonymous = false, email = 'ada@example.org', email_confirmed_at = now(), phone = '+4930123456', phone_confirmed_at = now(),
                            encrypted_password = 'x' where u.id = ada.id;
    insert into auth.identities (user_id, provider, provider_id, identity_data)
    select ada.id, provider, provider,
           case provider when 'phone' then '{"phone": "+4930123456"}' when 'says' then '{"email": "ada@example.org", "email_verified": false}'
                         when 'moved' then '{"email": "ada@elsewhere.example", "email_verified": true}'
                         else '{"email": "Ada@example.org", "email_verified": true}' end::jsonb
      from unnest(providers) provider;
    perform auth.authenticate(token);
    reset role;
end
$$;
select auth.set_identity_provider(provider, 'https://' || provider || '.example', '{x}', jwks_uri => 'https://keys.example/jwks') is not null as set
  from unnest(array['verified', 'moved', 'says', 'untrusted']) provider;
select auth.set_identity_provider('untrusted', trusts_email => false) is not null as set;
savepoint before;
select * from ada('{email,verified}') \gset ada_
select u->>'email' as email, u->>'phone' as phone from auth.unlink_identity((select i.id from auth.identities i where provider = 'email')) u;
rollback to before;
select * from ada('{email,says,untrusted}') \gset ada_
select u->>'email' as email, u->>'phone' as phone from auth.unlink_identity((select i.id from auth.identities i where provider = 'email')) u;
rollback to before;
select * from ada('{moved,phone}') \gset ada_
select u->>'email' as email, u->>'phone' as phone from auth.unlink_identity((select i.id from auth.identities i where provider = 'phone')) u;
select encrypted_password from auth.users where id = :'ada_id';
rollback;

-- A permanent user changes its address; until the new one is proven, the old one counts.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select auth.update_user('{"email": "old@example.org"}')->'new_email' as new_email;
select * from session(auth.verify_otp('email_change', (select code from sent()))) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select auth.set_setting('manual_linking', 'false') as manual_linking;
select u->'email' as email, u->'new_email' as new_email from auth.update_user('{"email": "new@example.org"}') u;
select auth.email();
select u->'email' as email, u->'new_email' as new_email, jsonb_array_length(u->'identities') as identities, u->'identities'->0->'identity_data'->'email' as identity
  from auth.verify_otp('email_change', (select code from sent())) answer, jsonb_extract_path(answer, 'user') u;
rollback;

-- The address one has already is nothing to prove.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select auth.update_user('{"email": "ada@example.org"}')->'new_email' as new_email;
select * from session(auth.verify_otp('email_change', (select code from sent()))) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select u->'email' as email, u->'new_email' as new_email from auth.update_user('{"email": "ADA@example.org"}') u;
select count(*) as messages from auth.messages;
rollback;

-- S8: the resend interval.
begin;
select auth.set_setting('otp_resend_interval', null) as otp_resend_interval;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select auth.update_user('{"email": "ada@example.org", "phone": "+4930123456"}') is not null as claimed;
select regexp_replace(raised('select auth.resend($1)', type), 'in [0-9]+ s', 'in … s') from unnest(array['email_change', 'phone_change']) type;
select regexp_replace(raised('select auth.update_user(''{"email": "bob@example.org"}'')'), 'in [0-9]+ s', 'in … s') as to_another_address;
select count(*) as messages from auth.messages;
rollback;

-- A code that a proof has made void is not sent any more.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select auth.update_user('{"email": "ada@example.org"}')->'new_email' as new_email;
select auth.update_user('{"phone": "+4930123456"}')->'new_phone' as new_phone;
select auth.claim_messages(channel => 'sms')->0->'sms'->>'otp' as code \gset
select auth.verify_otp('phone_change', :'code')->'user'->>'phone' as phone;
select channel, status, finished_at is not null as is_finished from auth.outbox order by channel;
select auth.claim_messages() as left_to_send;
rollback;

-- N10: what users cannot change about themselves; malformed attributes.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select a, raised('select auth.update_user($1::jsonb)', a)
  from unnest(array['{"role": "service_role"}', '{"is_anonymous": false}', '{"app_metadata": {}}', '{"id": "x"}', '{"email_confirmed_at": "now"}', '[]', 'null', '{"email": 1}',
                    '{"data": []}', '{"email": "x", "": 1}', '{"email": "no address"}', '{"email": "a@b.org", "phone": "0170 1234567"}']) a;
select raised('select auth.update_user(null)') as nothing;
select * from auth.one_time_tokens;
-- Metadata are merged; null removes a member.
select auth.update_user('{"data": {"theme": "dark", "lang": "de", "n": 1.10}}')->'user_metadata' as merged;
select auth.update_user('{"data": {"theme": null, "lang": "en"}}')->'user_metadata' as changed;
select raised_text from raised('select auth.update_user(jsonb_build_object(''data'', jsonb_build_object(''long'', repeat(''x'', 5000))))') raised_text;
rollback;

-- Nobody is signed in.
begin;
select raised('select auth.update_user(''{"email": "ada@example.org"}'')'), raised('select auth.verify_otp(''email_change'', ''123456'')'), raised('select auth.resend(''email_change'')'),
       raised('select auth.unlink_identity(gen_random_uuid())');
select raised('select auth.verify_otp(''email_change'', token_hash => ''garbage'')');
select raised('select auth.verify_otp(null, ''123456'')') as no_type, raised('select auth.resend(''email'')') as unknown_type;
rollback;

select default_settings();
drop function sent, another;

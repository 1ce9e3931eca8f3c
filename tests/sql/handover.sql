-- Codes that carry a guest elsewhere: promotion (A6) and transfer to a second device (W10).
\pset format unaligned
select unlimited_messages();

-- W10: a short code signs the guest in on a second device, once.
begin;
select * from session(auth.sign_in_anonymously('{"theme": "dark"}')) \gset ada_
set local session authorization app_login;
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select answer->>'transfer_code' as code, answer->'expires_in' as expires_in, answer->>'expires_at' as expires_at from auth.create_transfer_code() answer \gset
select :'code' ~ '^[0-9A-HJKMNP-TV-Z]{5}-[0-9A-HJKMNP-TV-Z]{5}$' as code, :'expires_in' as expires_in, :expires_at - extract(epoch from clock_timestamp()) between 298 and 300 as expires_at;
set local session authorization plain_login;
select set_config('anon_auth.access_token', '', true) = '' as nobody;
select auth.redeem_transfer_code(lower(replace(:'code', '-', ' '))) as answer \gset
select * from session(:'answer') \gset second_
select :'second_id' = :'ada_id' as same_guest, :'second_session' <> :'ada_session' as other_session;
select p->'is_anonymous' as is_anonymous, p->'user_metadata' as user_metadata, p->'amr'->0->'method' as method from payload(:'second_token') p;
select raised('select auth.redeem_transfer_code($1)', :'code') as again;
reset session authorization;
-- Both devices are signed in.
select auth.authenticate(:'ada_token') = :'ada_id' as first;
reset role;
select auth.authenticate(:'second_token') = :'ada_id' as second;
reset role;
rollback;

-- A6: a promotion code signs the guest in where it becomes permanent; what came before ends with that.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select answer->>'promotion_code' as code, answer->'expires_in' as expires_in from auth.create_promotion_code() answer \gset
select length(:'code') as length, :'expires_in' as expires_in;
select set_config('anon_auth.access_token', '', true) = '' as nobody;
select * from session(auth.redeem_promotion_code(:'code')) \gset browser_
select :'browser_id' = :'ada_id' as same_guest;
select raised('select auth.redeem_promotion_code($1)', :'code') as again;
select auth.authenticate(:'browser_token') = :'ada_id' as authenticated;
reset role;
select auth.update_user('{"email": "ada@example.org"}')->'new_email' as new_email;
select auth.verify_otp('email_change', (select convert_from(secret, 'UTF8')::jsonb->>0 from auth.messages))->'user'->'is_anonymous' as is_anonymous;
select raised('select auth.authenticate($1)', :'ada_token') as in_the_application;
rollback;

-- N5, N14: stored hashed; each for its own purpose; a new one voids the one before; expired after five minutes by the clock.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select auth.create_transfer_code()->>'transfer_code' as first \gset
select auth.create_transfer_code()->>'transfer_code' as transfer, auth.create_promotion_code()->>'promotion_code' as promotion \gset
select token_type, length(token_hash) as token_hash, code_hash, relates_to, expires_at - created_at as lifetime,
       position(convert_to(:'transfer', 'UTF8') in token_hash) + position(convert_to(:'promotion', 'UTF8') in token_hash) as has_secret
  from auth.one_time_tokens order by token_type;
select raised('select auth.redeem_transfer_code($1)', :'first') as replaced, raised('select auth.redeem_transfer_code($1)', :'promotion') as promotion_as_transfer,
       raised('select auth.redeem_promotion_code($1)', :'transfer') as transfer_as_promotion, raised('select auth.redeem_promotion_code(null)') as nothing,
       raised('select auth.redeem_transfer_code(null)') as no_code, raised('select auth.redeem_transfer_code($1)', repeat('0', 1000000)) as long,
       raised('select auth.verify_otp(''email_change'', token_hash => $1)', :'promotion') as as_link;
update auth.one_time_tokens set expires_at = clock_timestamp();
select raised('select auth.redeem_transfer_code($1)', :'transfer') as transfer, raised('select auth.redeem_promotion_code($1)', :'promotion') as promotion;
rollback;

-- For guests only, and signed in; a guest that has become permanent meanwhile is not to be had by its code.
begin;
select raised('select auth.create_transfer_code()'), raised('select auth.create_promotion_code()');
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select auth.create_transfer_code()->>'transfer_code' as transfer, auth.create_promotion_code()->>'promotion_code' as promotion \gset
update auth.users set is_anonymous = false;
select raised('select auth.create_transfer_code()'), raised('select auth.create_promotion_code()');
select raised('select auth.redeem_transfer_code($1)', :'transfer') as transfer, raised('select auth.redeem_promotion_code($1)', :'promotion') as promotion;
-- N12: nor is a guest that was banned or deleted.
update auth.users set is_anonymous = true, banned_until = 'infinity';
select raised('select auth.redeem_transfer_code($1)', :'transfer') as transfer, raised('select auth.redeem_promotion_code($1)', :'promotion') as promotion;
delete from auth.users;
select raised('select auth.redeem_transfer_code($1)', :'transfer') as transfer, raised('select auth.redeem_promotion_code($1)', :'promotion') as promotion;
rollback;

-- How long they are good is a setting.
begin;
select auth.set_setting('handover_code_lifetime', '1 hour') as lifetime;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select auth.create_transfer_code()->'expires_in' as expires_in;
rollback;
select default_settings();

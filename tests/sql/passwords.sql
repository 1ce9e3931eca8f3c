-- Passwords: set once an address is proven, and signed in with (S9, N2, N10, N14, W3).
\pset format unaligned

-- A permanent user with a proven e-mail address, signed in.
create function permanent(address text, out id uuid, out session uuid, out token text, out refresh text) language plpgsql as $$
declare
    guest record;
begin
    select * into guest from session(auth.sign_in_anonymously());
    perform auth.authenticate(guest.token);
    reset role;
    perform auth.update_user(jsonb_build_object('email', address));
    select * into id, session, token, refresh
      from session(auth.verify_otp('email_change', (select convert_from(secret, 'UTF8')::jsonb->>0 from auth.messages where recipient = address)));
    perform auth.authenticate(token);
    reset role;
end
$$;

-- Attempts are counted whatever becomes of them; here there are many.
insert into auth.settings (name, value) values ('password_attempt_limit', '1000');
select unlimited_messages();

-- S9: no password before an address is proven.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select raised('select auth.update_user(''{"password": "correct horse"}'')') as guest;
select raised('select auth.update_user(''{"email": "ada@example.org", "password": "correct horse"}'')') as with_the_claim;
select auth.update_user('{"email": "ada@example.org"}')->'new_email' as new_email;
select raised('select auth.update_user(''{"password": "correct horse"}'')') as claimed_only;
-- Nor for a permanent user without an address that is proven.
update auth.users set is_anonymous = false, email = 'ada@example.org';
select raised('select auth.update_user(''{"password": "correct horse"}'')') as unproven;
update auth.users set phone = '+4930123456', phone_confirmed_at = now();
select auth.update_user('{"password": "correct horse"}') is not null as with_a_phone;
select auth.sign_in_with_password(phone => '+49 30 123456', password => 'correct horse')->'user'->'phone' as by_phone;
select raised('select auth.sign_in_with_password(''ada@example.org'', ''correct horse'')') as by_unproven_address;
rollback;

-- A password is set and signs in.
begin;
select * from permanent('ada@example.org') \gset ada_
select auth.update_user('{"password": "correct horse"}')::text like '%correct horse%' as shows_password;
set local session authorization app_login;
select auth.sign_in_with_password(' Ada@Example.ORG', 'correct horse') as answer \gset
select * from session(:'answer') \gset new_
select :'new_id' = :'ada_id' as same_user, :'new_session' <> :'ada_session' as new_session;
select p->'amr'->0->'method' as method, p->'is_anonymous' as is_anonymous, p->'email' as email from payload(:'new_token') p;
select auth.authenticate(:'new_token') = :'ada_id' as authenticated;
select auth.uid() = :'ada_id' as uid;
reset session authorization;
-- N14: a hash by Argon2id with the recommended parameters and a salt of its own.
select encrypted_password ~ '^\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$' as hash, last_sign_in_at is not null as last_sign_in_at from auth.users;
select encrypted_password as before from auth.users \gset
select auth.update_user('{"password": "correct horse 2"}') is not null as changed;
select encrypted_password <> :'before' as other_hash from auth.users;
select raised('select auth.sign_in_with_password(''ada@example.org'', ''correct horse'')') as old_password;
select auth.sign_in_with_password('ada@example.org', 'correct horse 2') is not null as new_password;
select string_agg(action, ', ' order by created_at) as audit from auth.audit_log_entries;
rollback;

-- A new password ends the other sessions, not this one.
begin;
select * from permanent('ada@example.org') \gset ada_
select auth.update_user('{"password": "correct horse"}') is not null as set;
select * from session(auth.sign_in_with_password('ada@example.org', 'correct horse')) \gset thief_
select auth.update_user('{"password": "battery staple"}') is not null as changed;
select raised('select auth.authenticate($1)', :'thief_token');
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
rollback;

-- What is no password, and what is not the right one.
begin;
select * from permanent('ada@example.org') \gset ada_
select raised('select auth.update_user(''{"password": "short"}'')') as short, raised('select auth.update_user(''{"password": ""}'')') as empty,
       raised('select auth.update_user(''{"password": "ääääääää"}'')') as eight_characters, raised('select auth.update_user(''{"password": 12345678}'')') as number,
       raised('select auth.update_user(jsonb_build_object(''password'', repeat(''x'', 1000000)))') as million,
       raised('select auth.update_user(jsonb_build_object(''password'', repeat(''x'', 1024)))') as longest;
select raised('select auth.update_user(jsonb_build_object(''password'', repeat(''x'', 1024)))') as same;
select raised('select auth.sign_in_with_password(''ada@example.org'', $1)', repeat('x', 1024)) as right,
       raised('select auth.sign_in_with_password(''ada@example.org'', $1)', repeat('x', 1023)) as wrong,
       raised('select auth.sign_in_with_password(''ada@example.org'', $1)', repeat('x', 1000000)) as million,
       raised('select auth.sign_in_with_password(''ada@example.org'', '''')') as empty,
       raised('select auth.sign_in_with_password(''nobody@example.org'', ''correct horse'')') as unknown,
       raised('select auth.sign_in_with_password(''not an address'', ''correct horse'')') as malformed;
select raised('select auth.sign_in_with_password(password => ''correct horse'')') as no_address, raised('select auth.sign_in_with_password(''ada@example.org'')') as no_password,
       raised('select auth.sign_in_with_password(''ada@example.org'', ''x'', ''+4930123456'')') as two_addresses;
-- Hashes of other kinds match nothing.
update auth.users set encrypted_password = '$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy';
select raised('select auth.sign_in_with_password(''ada@example.org'', $1)', 'correct horse') as bcrypt;
update auth.users set encrypted_password = 'correct horse';
select raised('select auth.sign_in_with_password(''ada@example.org'', $1)', 'correct horse') as plain;
update auth.users set encrypted_password = '$argon2id$v=19$m=4294967295,t=2,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNoaGFzaA';
select raised('select auth.sign_in_with_password(''ada@example.org'', $1)', 'correct horse') as immense;
update auth.users set encrypted_password = '';
select raised('select auth.sign_in_with_password(''ada@example.org'', '''')') as nothing;
rollback;

-- N12: a banned user is told so only with the right password.
begin;
select * from permanent('ada@example.org') \gset ada_
select auth.update_user('{"password": "correct horse"}') is not null as set;
update auth.users set banned_until = 'infinity';
select raised('select auth.sign_in_with_password(''ada@example.org'', ''correct horse'')') as right, raised('select auth.sign_in_with_password(''ada@example.org'', ''wrong'')') as wrong;
rollback;

-- The settings: length and cost. A password is verified with the cost it was hashed with.
begin;
select * from permanent('ada@example.org') \gset ada_
select auth.set_setting('password_min_length', '4') as password_min_length;
select auth.update_user('{"password": "1234"}') is not null as set;
select auth.set_setting('password_hash_memory', '1024') as memory, auth.set_setting('password_hash_iterations', '3') as iterations, auth.set_setting('password_hash_parallelism', '2') as parallelism;
select raised('select auth.sign_in_with_password(''ada@example.org'', ''wrong'')') as wrong, substr(encrypted_password, 1, 30) as hash from auth.users;
select auth.sign_in_with_password('ada@example.org', '1234') is not null as old_cost;
-- It is hashed anew, so that the time a sign-in takes tells nothing.
select substr(encrypted_password, 1, 30) as hash from auth.users;
select auth.sign_in_with_password('ada@example.org', '1234') is not null as new_cost;
select auth.update_user('{"password": "12345"}') is not null as set;
select substr(encrypted_password, 1, 30) as hash from auth.users;
select auth.sign_in_with_password('ada@example.org', '12345') is not null as new_cost;
select raised('select auth.set_setting(''password_hash_memory'', ''1'')');
rollback;

select default_settings();
drop function permanent;

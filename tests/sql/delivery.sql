-- Messages: to a hook, or to an outbox that workers empty (S20, N14). What becomes of the codes: see linking.
\pset format unaligned
select unlimited_messages();

-- Ada, a guest, claims an e-mail address; the code is on its way.
create function claim_address(token text, attributes jsonb) returns text language plpgsql as $$
declare
    answer jsonb;
begin
    perform auth.authenticate(token);
    answer := auth.update_user(attributes);
    reset role;
    return coalesce(answer->>'new_email', answer->>'new_phone');
end
$$;

-- S20: what a worker gets is what the hooks get, and which message it is.
begin;
select auth.set_setting('site_url', 'https://example.org');
select * from session(auth.sign_in_anonymously('{"name": "Ada"}')) \gset ada_
select claim_address(:'ada_token', '{"email": "Ada@Example.org"}'), claim_address(:'ada_token', '{"phone": "+4930123456"}');
select channel, recipient, purpose, status, attempts, last_error, user_id = :'ada_id' as of_ada, available_at = created_at as is_due,
       expires_at between created_at + interval '59 minutes' and created_at + interval '1 hour' as expires_with_code, finished_at
  from auth.outbox order by id;
select auth.claim_messages() as messages \gset
select :'messages'::jsonb->0 as email, :'messages'::jsonb->1 as sms \gset
select string_agg(key, ', ' order by key) as email from jsonb_object_keys(:'email') key;
select string_agg(key, ', ' order by key) as sms from jsonb_object_keys(:'sms') key;
select message->>'channel' as channel, message->>'to' as "to", message->'attempt' as attempt, message->'user'->>'id' = :'ada_id' as of_ada,
       message->'user'->>'new_email' as new_email, message->'user'->>'new_phone' as new_phone,
       (message->>'id')::uuid = id as id, (message->>'created_at')::timestamptz = created_at as created_at, (message->>'expires_at')::timestamptz = expires_at as expires_at
  from (values (:'email'::jsonb), (:'sms')) m(message) join auth.outbox o on o.channel = message->>'channel' order by 1;
select (:'email'::jsonb->'email_data') - array['token', 'token_hash'] as email_data, :'email'::jsonb->'email_data'->>'token' ~ '^\d{6}$' as token,
       length(:'email'::jsonb->'email_data'->>'token_hash') > 40 as token_hash;
select (:'sms'::jsonb->'sms') - 'otp' as sms, :'sms'::jsonb->'sms'->>'otp' ~ '^\d{6}$' as otp;
-- Nobody gets it again while it is leased. N14: once it was sent, the codes are gone.
select auth.claim_messages();
select auth.acknowledge_message((:'email'::jsonb->>'id')::uuid) as acknowledged, auth.acknowledge_message((:'email'::jsonb->>'id')::uuid) as again;
select channel, status, secret is null as erased, finished_at is not null as finished from auth.messages order by recipient;
rollback;

-- Messages are handed out as they come, so many at a time, by channel if asked for.
begin;
select claim_address(session.token, jsonb_build_object('email', n || '@example.org')) as claimed
  from generate_series(1, 5) n, lateral session(auth.sign_in_anonymously(jsonb_build_object('n', n)));
select claim_address(session.token, '{"phone": "+4930123456"}') as claimed from session(auth.sign_in_anonymously());
select jsonb_path_query_array(auth.claim_messages(2), '$[*].to') as first, jsonb_path_query_array(auth.claim_messages(10, '1 minute', 'email'), '$[*].to') as then,
       jsonb_path_query_array(auth.claim_messages(channel => 'sms'), '$[*].to') as sms, auth.claim_messages(channel => 'email') as no_more;
rollback;

-- A message whose worker died is handed out again when the lease ends.
begin;
select claim_address(session.token, '{"email": "ada@example.org"}') as claimed from session(auth.sign_in_anonymously());
select jsonb_array_length(auth.claim_messages(1, '1 second')) as claimed, auth.claim_messages() as leased, pg_sleep(1) is not null as later,
       auth.claim_messages(10, '1 hour')->0->'attempt' as attempt;
select available_at between clock_timestamp() + interval '59 minutes' and clock_timestamp() + interval '1 hour' as leased from auth.outbox;
rollback;

-- One that could not be sent is handed out after 10 seconds, then 20, 40, … up to 15 minutes, and never after its code has expired.
begin;
select auth.set_setting('otp_lifetime', '2 hours');
select claim_address(session.token, '{"email": "ada@example.org"}') as claimed from session(auth.sign_in_anonymously());
select id from auth.outbox \gset
select auth.fail_message(:'id', 'not even claimed') as retried, auth.fail_message(:'id', null, false) as retried, auth.acknowledge_message(:'id') as acknowledged;
select status from auth.outbox;
rollback;
begin;
select auth.set_setting('otp_lifetime', '2 hours');
select claim_address(session.token, '{"email": "ada@example.org"}') as claimed from session(auth.sign_in_anonymously());
select id from auth.outbox \gset
create function attempt() returns text language plpgsql as $$
declare
    retried boolean;
begin
    update auth.messages set available_at = clock_timestamp();
    retried := auth.fail_message((auth.claim_messages()->0->>'id')::uuid, 'refused');
    return (select format('%s, in %s seconds', retried, 10 * round(extract(epoch from available_at - clock_timestamp()) / 10)) from auth.outbox);
end
$$;
select attempt() from generate_series(1, 9);
select status, attempts, last_error from auth.outbox;
update auth.messages set expires_at = clock_timestamp() + interval '5 minutes';
update auth.messages set available_at = clock_timestamp();
select jsonb_array_length(auth.claim_messages()) as claimed, auth.fail_message(:'id', repeat('long ', 200)) as retried;
select status, length(last_error), secret is null as erased from auth.messages;
select auth.fail_message(:'id') as retried, auth.acknowledge_message(:'id') as acknowledged, auth.claim_messages();
rollback;
-- Or it is given up at once.
begin;
select claim_address(session.token, '{"email": "ada@example.org"}') as claimed from session(auth.sign_in_anonymously());
select auth.fail_message((auth.claim_messages()->0->>'id')::uuid, 'no such mailbox', retry => false) as retried;
select status, last_error, secret is null as erased from auth.messages;
rollback;

-- A message expires with its code: nobody gets it, and the code is gone.
begin;
select claim_address(session.token, '{"email": "ada@example.org"}') as claimed from session(auth.sign_in_anonymously());
update auth.messages set expires_at = clock_timestamp() - interval '1 second';
select auth.claim_messages();
select status, secret is null as erased, finished_at = expires_at as finished from auth.messages;
rollback;

-- A newer code takes the place of the message before it, of that user and purpose.
begin;
select auth.set_setting('otp_resend_interval', '0');
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
select claim_address(:'ada_token', '{"email": "ada@example.org"}'), claim_address(:'ada_token', '{"phone": "+4930123456"}'), claim_address(:'bob_token', '{"email": "bob@example.org"}');
select claim_address(:'ada_token', '{"email": "ada2@example.org"}');
select recipient, status, secret is null as erased from auth.messages order by recipient;
select jsonb_path_query_array(auth.claim_messages(), '$[*].to') as messages;
rollback;

-- They go with their user; and what is over, by and by.
begin;
select * from session(auth.sign_in_anonymously()) \gset ada_
select * from session(auth.sign_in_anonymously()) \gset bob_
select claim_address(:'ada_token', '{"email": "ada@example.org"}'), claim_address(:'bob_token', '{"email": "bob@example.org"}');
delete from auth.users where id = :'ada_id';
select recipient, status from auth.outbox;
set local session_replication_role = replica;
alter table auth.users disable trigger delete_dependents;
delete from auth.users where id = :'bob_id';
select auth.claim_messages();
select recipient, status, last_error from auth.outbox;
rollback;
begin;
select claim_address(session.token, jsonb_build_object('email', n || '@example.org')) as claimed
  from generate_series(1, 4) n, lateral session(auth.sign_in_anonymously(jsonb_build_object('n', n)));
select jsonb_array_length(auth.claim_messages()) as claimed;
select auth.acknowledge_message(id) from auth.outbox where recipient in ('1@example.org', '2@example.org') order by id;
update auth.messages set finished_at = now() - interval '8 days' where recipient = '1@example.org';
update auth.messages set expires_at = clock_timestamp() where recipient = '3@example.org';
select auth.cleanup_expired_users()->'messages' as deleted;
select recipient, status, secret is null as erased from auth.messages order by recipient;
select auth.set_setting('message_retention', '0');
select auth.cleanup_expired_users(1)->'messages' as one, auth.cleanup_expired_users()->'messages' as rest;
select recipient, status from auth.outbox;
rollback;

-- What cannot be meant.
select raised('select auth.claim_messages(0)'), raised('select auth.claim_messages(1001)'), raised('select auth.claim_messages(lease => ''0'')'),
       raised('select auth.claim_messages(lease => ''2 days'')'), raised('select auth.claim_messages(lease => null)'), raised('select auth.claim_messages(lease => ''infinity''::text::interval)') ~ '^(22007|PT400) ' as infinite,
       raised('select auth.claim_messages(channel => ''post'')');
select raised('select auth.acknowledge_message(null)'), raised('select auth.fail_message(null)'), auth.acknowledge_message(gen_random_uuid()) as unknown, auth.fail_message(gen_random_uuid()) as unknown;

-- N10: nobody but administrators, and whom they let, sees any of it; and nobody but the extension the codes.
begin;
set local role authenticated;
select raised('select auth.claim_messages()'), raised('select auth.acknowledge_message(gen_random_uuid())'), raised('select auth.fail_message(gen_random_uuid())'),
       raised('select * from auth.outbox'), raised('select * from auth.messages');
set local role service_role;
select raised('select auth.claim_messages()'), raised('select * from auth.outbox'), raised('select * from auth.messages'), raised('delete from auth.messages');
reset role;
select attname as shown_secret from pg_attribute where attrelid = 'auth.outbox'::regclass and attname in ('secret', 'sealed');
rollback;

-- S20: where a hook is set, it gets the message and the outbox does not. N14: whatever it says, it tells the client no code.
begin;
create role mail_owner nologin;
create schema app authorization mail_owner;
create table app.sent (n bigint generated always as identity, event jsonb);
alter table app.sent owner to mail_owner;
create function app.send(event jsonb) returns void language sql as 'insert into app.sent (event) values (event)';
alter function app.send(jsonb) owner to mail_owner;
select auth.set_hook('send_email', 'app.send(jsonb)'), auth.set_hook('send_sms', 'app.send(jsonb)');
select * from session(auth.sign_in_anonymously()) \gset ada_
select claim_address(:'ada_token', '{"email": "ada@example.org"}'), claim_address(:'ada_token', '{"phone": "+4930123456"}');
select count(*) as in_outbox from auth.outbox;
select event->'metadata'->>'name' as name, event->'user'->>'id' = :'ada_id' as of_ada, event->'user'->>'new_email' as new_email, event->'user'->>'new_phone' as new_phone,
       (event->'email_data') - array['token', 'token_hash'] as email_data, (event->'sms') - 'otp' as sms from app.sent order by n;
-- Its code is the one that counts.
select event->'email_data'->>'token' as code from app.sent where event ? 'email_data' \gset
create function redeem(token text, code text) returns text language plpgsql as $$
begin
    perform auth.authenticate(token);
    return auth.verify_otp('email_change', code)->'user'->>'email';
end
$$;
select redeem(:'ada_token', :'code');
rollback;
begin;
create schema app;
create function app.send(event jsonb) returns jsonb language plpgsql as $$
declare
    code text := coalesce(event->'email_data'->>'token', event->'sms'->>'otp');
    hash text := coalesce(event->'email_data'->>'token_hash', '');
begin
    case current_setting('app.how')
        when 'answer' then return jsonb_build_object('error', jsonb_build_object('http_code', 403, 'message', 'refused: ' || code || ' ' || hash));
        when 'raise' then raise exception 'refused: % %', code, hash using errcode = 'PT403', detail = code, hint = hash;
        when 'fail' then raise exception 'failed: % %', code, hash using detail = code, hint = hash;
        when 'cast' then return to_jsonb((code || 'x')::int);
        when 'constraint' then execute format('select * from (values (%L)) v(x) where 1 / (x::int - x::int) = 0', code);
    end case;
    return null;
end
$$;
select auth.set_hook('send_email', 'app.send(jsonb)'), auth.set_hook('send_sms', 'app.send(jsonb)');
select * from session(auth.sign_in_anonymously()) \gset ada_
select how, channel, raised(format('select claim_address(%L, %L) from set_config(''app.how'', %L, true)', :'ada_token', attributes, how))
  from (values (1, 'answer'), (2, 'raise'), (3, 'fail'), (4, 'cast'), (5, 'constraint')) h(n, how),
       (values ('email', '{"email": "ada@example.org"}'), ('sms', '{"phone": "+4930123456"}')) a(channel, attributes)
 order by n, channel;
select count(*) as codes from auth.one_time_tokens;
rollback;

drop function claim_address(text, jsonb);
select default_settings();

-- Hooks (S20, C4): set by an administrator only, run with their owner's rights, and able to refuse.
\pset format unaligned
select unlimited_messages();

-- An owner that may do little, and a table in which hooks note what they saw.
begin;
create role hook_owner nologin;
create schema app authorization hook_owner;
set local role hook_owner;
create table app.seen (n bigint generated always as identity primary key, who text, path text, event jsonb);
create function app.note(event jsonb) returns jsonb language plpgsql as $$
begin
    insert into app.seen (who, path, event) values (current_user, current_setting('search_path'), event);
    return event;
end
$$;
create function app.note_only(event jsonb) returns void language sql as $$
    insert into app.seen (who, path, event) values (current_user, current_setting('search_path'), event)
$$;
create function app.answer(event jsonb) returns jsonb language plpgsql as $$
begin
    return current_setting('app.answer');
end
$$;
create function app.claims(event jsonb) returns jsonb language plpgsql as $$
begin
    return jsonb_build_object('claims', event->'claims' || current_setting('app.claims')::jsonb);
end
$$;
create function app.loop(event jsonb) returns jsonb language plpgsql as $$ begin loop null; end loop; end $$;
create function app.stubborn(event jsonb) returns jsonb language plpgsql as $$
begin
    perform pg_sleep(60);
    return event;
exception when query_canceled then
    return event;
end
$$;
reset role;
-- The answer that the hook app.answer gives, or the claims that app.claims adds; what signing in then says.
create function sign_in_with(answer text) returns text language plpgsql as $$
begin
    perform set_config('app.answer', answer, true), set_config('app.claims', answer, true);
    return raised('select auth.sign_in_anonymously()');
end
$$;
commit;

-- All there are.
select name, function, owner, description from auth.all_hooks;

-- S20: before a user is created, after, and when its token is made: as the owner, each with the customary event.
begin;
select auth.set_hook('before_user_created', 'app.note(jsonb)'), auth.set_hook('after_user_created', 'app.note_only(jsonb)'),
       auth.set_hook('custom_access_token', 'app.note(jsonb)');
select name, function, owner from auth.all_hooks where function is not null;
set local search_path = pg_catalog, public;
select * from session(auth.sign_in_anonymously('{"theme": "dark"}')) \gset ada_
select who, path, event->'metadata'->>'name' as name, (select string_agg(key, ', ' order by key) from jsonb_object_keys(event) key) as members
  from app.seen order by n;
select (select string_agg(key, ', ' order by key) from jsonb_object_keys(event->'metadata') key) as metadata,
       (event->'metadata'->>'uuid')::uuid is not null as uuid, (event->'metadata'->>'time')::timestamptz > now() as time
  from app.seen where n = (select min(n) from app.seen);
select (select string_agg(key, ', ' order by key) from jsonb_object_keys(event->'user') key) as "user", event->>'provider' as provider,
       event->'user'->>'id' = :'ada_id' as id, event->'user'->'user_metadata' as user_metadata
  from app.seen where event->'metadata'->>'name' in ('before-user-created', 'after-user-created') order by n;
select event->>'user_id' = :'ada_id' as user_id, event->>'authentication_method' as method,
       event->'claims' = payload(:'ada_token') as claims
  from app.seen where event->'metadata'->>'name' = 'customize-access-token';
select auth.refresh_session(:'ada_refresh') is not null as refreshed;
select event->>'authentication_method' as method from app.seen order by n desc limit 1;
rollback;

-- The user is there for the hook that comes after it, even where that one is STABLE; and not for the one before.
begin;
create function app.looks(event jsonb) returns jsonb language sql stable security definer as $$
    select jsonb_build_object('error', jsonb_build_object('message',
        (select count(*)::text from auth.users where id = (event->'user'->>'id')::uuid)))
$$;
select auth.set_hook('before_user_created', 'app.looks(jsonb)');
select raised('select auth.sign_in_anonymously()');
select auth.set_hook('before_user_created', null), auth.set_hook('after_user_created', 'app.looks(jsonb)');
select raised('select auth.sign_in_anonymously()');
rollback;

-- C4: what it adds to the metadata is the guest's, in the answer, in the token and in the table.
begin;
select auth.set_hook('before_user_created', 'app.answer(jsonb)');
select sign_in_with('{"user": {"user_metadata": {"theme": "light", "n": 1}, "app_metadata": {"cohort": "a"}}}');
select raw_user_meta_data, raw_app_meta_data from auth.users;
select auth.sign_in_anonymously('{"theme": "dark", "size": 2}') as session \gset
select :'session'::jsonb->'user'->'user_metadata' as user_metadata, :'session'::jsonb->'user'->'app_metadata' as app_metadata,
       payload(:'session'::jsonb->>'access_token')->'user_metadata' as claim;
-- Nothing else of the user is its to change.
select sign_in_with('{"user": {"id": "00000000-0000-0000-0000-000000000001", "is_anonymous": false, "role": "postgres", "email": "x@example.org"}}');
select distinct is_anonymous, role, email from auth.users;
-- Metadata as they were given, to the last digit, where it adds nothing.
select sign_in_with('{}');
select auth.sign_in_anonymously('{"pi": 3.14159265358979323846264338327950288}')->'user'->>'id' as id \gset
select raw_user_meta_data from auth.users where id = :'id';
select sign_in_with('{"user": {"app_metadata": []}}');
select sign_in_with('{"user": {"user_metadata": "x"}}');
rollback;

-- C4: it is told what the caller presented: captcha token, provider, data and address; and can go by any of them.
begin;
create function app.judge(event jsonb) returns jsonb language plpgsql as $$
begin
    insert into app.seen (event) values (event);
    if event->>'captcha_token' is distinct from 'solved' then
        raise exception 'captcha_failed: "%" is no answer', event->>'captcha_token' using errcode = 'PT400', detail = event;
    end if;
    if event->'user'->'user_metadata' ? 'admin' then
        return '{"error": {"http_code": 422, "message": "choose other data"}}';
    end if;
    return jsonb_build_object('user', jsonb_build_object('app_metadata',
        jsonb_build_object('from', event->>'provider', 'address', event->'metadata'->>'ip_address')));
end
$$;
select auth.set_hook('before_user_created', 'app.judge(jsonb)'), auth.set_guest_provider('kiosk') is not null as added;
set local anon_auth.forwarded_header = 'X-Forwarded-For';
set local request.headers = '{"x-forwarded-for": "203.0.113.7"}';
select auth.sign_in_anonymously('{"theme": "dark"}', 'solved', provider => 'kiosk')->'user'->'app_metadata' as app_metadata;
select event->'captcha_token' as captcha_token, event->'provider' as provider, event->'user'->'user_metadata' as data,
       event->'metadata'->>'ip_address' as address, event->'metadata'->>'name' as name from app.seen;
select auth.sign_in_anonymously(captcha_token => 'solved')->'user'->'app_metadata' as app_metadata;
select count(*) as guests from auth.users;
-- Refused, nobody is there; and the token, which may still be good, is in no error.
select raised('select auth.sign_in_anonymously()');
select raised('select auth.sign_in_anonymously(captcha_token => ''unsolved'')');
select raised('select auth.sign_in_anonymously(''{"admin": true}'', ''solved'')');
select raised('select auth.sign_in_anonymously(captcha_token => ''unsolved'', provider => ''demo'')');
select count(*) as guests, (select count(*) from auth.sessions) as sessions from auth.users;
-- C3: the service that is set up is asked first; what it does not let in, no hook sees.
delete from app.seen;
select auth.set_setting('captcha', 'hcaptcha');
select raised('select auth.sign_in_anonymously(captcha_token => ''solved'')');
select count(*) as seen from app.seen;
rollback;

-- S20: a hook refuses, in words of its own; and nothing is done.
begin;
select auth.set_hook('before_user_created', 'app.answer(jsonb)');
select sign_in_with('{"error": {"http_code": 403, "message": "no guests today"}}');
select sign_in_with('{"error": {"message": "without a status"}}');
select sign_in_with('{"error": null}'), sign_in_with('{"decision": "continue"}'), sign_in_with('null');
select auth.set_hook('before_user_created', null), auth.set_hook('after_user_created', 'app.answer(jsonb)');
delete from auth.users;
select sign_in_with('{"error": {"http_code": 429, "message": "too late"}}');
select auth.set_hook('after_user_created', null), auth.set_hook('custom_access_token', 'app.answer(jsonb)');
select sign_in_with('{"error": {"http_code": 451, "message": "not this one"}}');
select count(*) as users from auth.users;
rollback;
-- Or by raising an error with an HTTP status.
begin;
create function app.refuse(event jsonb) returns jsonb language plpgsql as $$
begin
    raise exception 'closed: come back tomorrow' using errcode = current_setting('app.state'), detail = 'a detail', hint = 'a hint';
end
$$;
select auth.set_hook('before_user_created', 'app.refuse(jsonb)');
select state, raised(format('select auth.sign_in_anonymously() from set_config(''app.state'', %L, true)', state))
  from (values (1, 'PT403'), (2, 'PT503'), (3, 'PT200'), (4, 'P0001'), (5, '42501'), (6, '57014'), (7, '40001'), (8, '40P01')) s(n, state)
 order by n;
select count(*) as users from auth.users;
rollback;

-- S20: when a guest becomes permanent, once; a hook that refuses leaves it a guest, with its session and code.
begin;
create function promote(token text, code text) returns text language plpgsql as $$
begin
    perform auth.authenticate(token);
    return (select answer->'user'->>'email' from auth.verify_otp('email_change', code) answer);
end
$$;
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
select auth.update_user('{"email": "ada@example.org"}')->>'new_email' as new_email;
reset role;
select auth.claim_messages()->0->'email_data'->>'token' as code \gset
select auth.set_hook('user_promoted', 'app.answer(jsonb)');
select set_config('app.answer', '{"error": {"http_code": 402, "message": "pay first"}}', true) is not null as set;
select raised('select promote($1, $2)', :'ada_token', :'code');
select is_anonymous, email from auth.users where id = :'ada_id';
select auth.set_hook('user_promoted', 'app.note(jsonb)');
select promote(:'ada_token', :'code');
reset role;
select event->'metadata'->>'name' as name, event->'user'->>'id' = :'ada_id' as ada, event->'user'->'is_anonymous' as is_anonymous, event->'user'->>'email' as email,
       jsonb_path_query_array(event, '$.user.identities[*].provider') as identities, event->>'provider' as provider
  from app.seen;
rollback;

-- Nonsense is a clear error.
begin;
select auth.set_hook('before_user_created', 'app.answer(jsonb)');
select answer, sign_in_with(answer)
  from (values (1, '[]'), (2, '"yes"'), (3, '1'), (4, 'true'), (5, '{"error": "no"}'), (6, '{"error": {}}'), (7, '{"error": {"message": ""}}'),
               (8, '{"error": {"message": 1}}'), (9, '{"error": {"message": "x", "http_code": 200}}'), (10, '{"error": {"message": "x", "http_code": "403"}}'),
               (11, '{"error": {"message": "x", "http_code": 1e400}}'), (12, '{"error": [{"message": "x"}]}'), (13, 'no json')) a(n, answer)
 order by n;
select sign_in_with(repeat('[', 1000) || repeat(']', 1000));
select auth.set_hook('before_user_created', null), auth.set_hook('custom_access_token', 'app.answer(jsonb)');
select answer, sign_in_with(answer)
  from (values (1, 'null'), (2, '{}'), (3, '[]'), (4, '{"claims": null}'), (5, '{"claims": []}')) a(n, answer)
 order by n;
create function app.nothing(event jsonb) returns jsonb language sql as 'select null::jsonb';
select auth.set_hook('custom_access_token', 'app.nothing(jsonb)');
select raised('select auth.sign_in_anonymously()');
select count(*) as users from auth.users;
rollback;

-- Claims: some are fixed, whatever the hook makes of them; others are its own.
begin;
select auth.set_hook('custom_access_token', 'app.claims(jsonb)');
select claims, sign_in_with(claims)
  from (values (1, '{"iss": "x"}'), (2, '{"sub": "00000000-0000-0000-0000-000000000001"}'), (3, '{"aud": ["authenticated"]}'),
               (4, '{"exp": 4102444800}'), (5, '{"iat": 0}'), (6, '{"nbf": 0}'), (7, '{"session_id": null}'), (8, '{"session_rotation": "x"}'),
               (9, '{"is_anonymous": false}'), (10, '{"email": "root@example.org"}'), (11, '{"phone": "+4930123456"}'), (12, '{"aal": "aal2"}'),
               (13, '{"amr": [{"method": "password", "timestamp": 0}]}'), (14, '{"role": null}'), (15, '{"role": ""}'), (16, '{"role": 1}'),
               (17, '{"app_metadata": "x"}'), (18, '{"user_metadata": null}')) c(n, claims)
 order by n;
select count(*) as users from auth.users;
select set_config('app.claims', '{"plan": "free", "role": "service_role", "app_metadata": {"plan": "free"}, "jti": "7"}', true) \gset
select auth.verify_token(auth.sign_in_anonymously('{"theme": "dark"}')->>'access_token') as claims \gset
select :'claims'::jsonb->'plan' as plan, :'claims'::jsonb->'role' as role, :'claims'::jsonb->'app_metadata' as app_metadata, :'claims'::jsonb->'jti' as jti;
select set_config('app.claims', json_build_object('blob', repeat('x', 9000))::text, true) is not null as set \gset
select raised('select auth.sign_in_anonymously()');
rollback;
-- Left out, they are put back; only what is optional stays away.
begin;
create function app.short(event jsonb) returns jsonb language sql as $$
    select jsonb_build_object('claims', jsonb_build_object('role', event->'claims'->'role', 'plan', 'free'))
$$;
select auth.set_hook('custom_access_token', 'app.short(jsonb)');
select string_agg(key, ', ' order by key) as claims
  from jsonb_object_keys(auth.verify_token(auth.sign_in_anonymously('{"theme": "dark"}')->>'access_token')) key;
rollback;

-- A hook that takes too long is ended, also one that does not want to be; the session goes on.
begin;
select auth.set_setting('hook_timeout', '50 ms'), auth.set_hook('before_user_created', 'app.loop(jsonb)');
select raised('select auth.sign_in_anonymously()');
select pg_sleep(0.1);
select auth.set_hook('before_user_created', 'app.stubborn(jsonb)');
select raised('select auth.sign_in_anonymously()');
select pg_sleep(0.1);
select auth.set_setting('hook_timeout', '5 s'), auth.set_hook('before_user_created', 'app.note(jsonb)');
select auth.sign_in_anonymously() is not null as signed_in;
rollback;

-- It does not call itself for ever.
begin;
create function app.again(event jsonb) returns jsonb language plpgsql as $$ begin perform auth.sign_in_anonymously(); return null; end $$;
select auth.set_hook('after_user_created', 'app.again(jsonb)');
select raised('select auth.sign_in_anonymously()');
-- Another hook may be called on the way.
select auth.set_hook('after_user_created', null), auth.set_hook('before_user_created', 'app.answer(jsonb)'), auth.set_hook('custom_access_token', 'app.note(jsonb)');
select sign_in_with('{}');
rollback;

-- Only such functions can be hooks.
begin;
create function app.two(event jsonb, more int default 1) returns jsonb language sql as 'select $1';
create function app.of_json(event json) returns jsonb language sql as 'select null::jsonb';
create function app.text(event jsonb) returns text language sql as 'select ''x''';
create function app.many(event jsonb) returns setof jsonb language sql as 'select $1';
create procedure app.procedure(event jsonb) language sql as '';
create function pg_temp.temporary(event jsonb) returns jsonb language sql as 'select $1';
select name, function, regexp_replace(raised('select auth.set_hook($1, $2::regprocedure)', name, function), 'pg_temp_[0-9]+', 'pg_temp_…') as raised
  from (values (1, 'before_user_created', 'app.two(jsonb, int)'), (2, 'before_user_created', 'app.of_json(json)'), (3, 'before_user_created', 'app.text(jsonb)'),
               (4, 'before_user_created', 'app.many(jsonb)'), (5, 'before_user_created', 'app.procedure(jsonb)'), (6, 'before_user_created', 'pg_temp.temporary(jsonb)'),
               (7, 'before_user_created', 'jsonb_agg(anyelement)'), (8, 'custom_access_token', 'app.note_only(jsonb)'), (9, 'before_user_created', '0'),
               (10, 'before_user_created', '4294967295'), (11, 'no_such_hook', 'app.note(jsonb)'), (12, null, 'app.note(jsonb)')) f(n, name, function)
 order by n;
select count(*) as hooks from auth.all_hooks where function is not null;
rollback;

-- N10: nobody else sets one; and an administrator only what it may run anyway.
begin;
create function public.of_another(event jsonb) returns jsonb language sql as 'select event';
set local role authenticated;
select raised('select auth.set_hook(''custom_access_token'', null)'), left(raised('select * from auth.all_hooks'), 23) as all_hooks, raised('select * from auth.hooks'),
       raised('insert into auth.hooks values (''custom_access_token'', ''app'', ''note'', ''hook_owner'')');
set local role service_role;
select raised('select auth.set_hook(''custom_access_token'', ''app.note(jsonb)'')');
select raised('select auth.set_hook(''custom_access_token'', ''public.of_another(jsonb)'')');
reset role;
alter role service_role inherit;
grant hook_owner to service_role;
set local role service_role;
select auth.set_hook('custom_access_token', 'app.note(jsonb)');
select name, function, owner from auth.all_hooks where function is not null;
reset role;
select action, user_id, payload from auth.audit_log_entries where action = 'hook_set';
rollback;

-- Whoever may create in the schema puts no function of its own in a hook's place; nor does a dropped one let anybody in.
begin;
create role intruder nologin;
select auth.set_hook('before_user_created', 'app.answer(jsonb)');
alter function app.answer(jsonb) owner to intruder;
select sign_in_with('{}');
alter function app.answer(jsonb) owner to hook_owner;
select sign_in_with('{}');
alter function app.answer(jsonb) rename to reply;
select sign_in_with('{}');
create function app.answer(event json) returns jsonb language sql as 'select null::jsonb';
select sign_in_with('{}');
select count(*) as users from auth.users;
-- Set again, it is called.
select auth.set_hook('before_user_created', 'app.reply(jsonb)');
select sign_in_with('{}');
rollback;

-- N13, N16: it gains no rights but its owner's, and leaves nothing behind that has them or others.
begin;
create function app.hostile(event jsonb) returns jsonb language plpgsql as $$
begin
    execute current_setting('app.statement');
    return null;
end
$$;
alter function app.hostile(jsonb) owner to hook_owner;
create table app.checked (n bigint references app.seen deferrable initially deferred);
alter table app.checked owner to hook_owner;
select auth.set_hook('after_user_created', 'app.hostile(jsonb)');
select statement, raised(format('select auth.sign_in_anonymously() from set_config(''app.statement'', %L, true)', statement))
  from (values (1, 'set role postgres'), (2, 'set session authorization postgres'), (3, 'select private_key from auth.signing_keys'), (4, 'update auth.users set is_anonymous = false'),
               (5, 'reset role'), (6, 'set constraints all immediate'), (7, 'insert into app.checked values (1)'), (8, 'create temporary table t (x int)'),
               (9, 'declare c cursor with hold for select 1'), (10, 'listen anon_auth_messages'), (11, 'prepare p as select 1'), (12, 'commit')) s(n, statement)
 order by n;
-- Settings are put back.
select raised('select auth.sign_in_anonymously() from set_config(''app.statement'', ''set search_path = app; set work_mem = ''''1 MB'''''', true)');
select current_setting('search_path') as search_path, current_setting('work_mem') as work_mem, current_user as current_user;
rollback;

-- A look-up of a hook goes by no search_path: nothing shadows what was set.
begin;
create function public.note(event jsonb) returns jsonb language plpgsql as $$ begin raise exception 'shadowed'; end $$;
set local search_path = app, public;
select auth.set_hook('before_user_created', 'note(jsonb)');
set local search_path = public;
select function from auth.all_hooks where name = 'before_user_created';
select auth.sign_in_anonymously() is not null as signed_in;
rollback;

-- Quoted names, too.
begin;
set local client_min_messages = warning;
create schema "My ""Schema";
create function "My ""Schema"."A Hook"(event jsonb) returns jsonb language sql as 'select null::jsonb';
select auth.set_hook('before_user_created', '"My ""Schema"."A Hook"(jsonb)');
select function from auth.all_hooks where name = 'before_user_created';
select auth.sign_in_anonymously() is not null as signed_in;
drop schema "My ""Schema" cascade;
select raised('select auth.sign_in_anonymously()');
rollback;

drop function sign_in_with(text);
set client_min_messages = warning;
drop schema app cascade;
drop role hook_owner;
select default_settings();

-- Prints by how many bytes a call makes a backend grow: FUNCTION|CALLS|BYTES, for every C function of the extension.
-- A function without a call here is listed with -1 for both. Run it as superuser in a database with the extension,
-- with the variable `calls`: of each function, in each of three rounds.
--
-- Each call has a transaction of its own. What a backend holds is what its memory contexts use, and what the
-- operating system gave it; the larger growth counts. What does not grow in each of the rounds, the first of which
-- comes after as many calls to warm up, is no leak.
--
-- To measure another function, add its call below: a query of one text, whose parameter $1 is the text that the
-- call before it returned. The first gets what `start` returns. What takes long is called only a share as often.
\set QUIET on
\pset tuples_only on
\pset format unaligned
set client_min_messages = error;
set synchronous_commit = off;

create temporary table calls (function text primary key, call text not null, start text not null default 'select null',
    share float8 not null default 1);
-- Signs in as somebody new, for calls that end a session.
create function pg_temp.become_somebody() returns boolean language sql as $$
    select set_config('anon_auth.access_token', auth.sign_in_anonymously()->>'access_token', true) <> ''
$$;
-- A call that has to fail: what errors leave behind grows a backend too.
create function pg_temp.refused(call text, argument text default null) returns text language plpgsql as $$
begin
    execute call using argument;
    raise assert_failure using message = call || ' was not refused';
exception when others then
    return argument;
end
$$;

insert into calls (function, call) values
    ('jwt', 'select auth.jwt()::text'),
    ('uid', 'select auth.uid()::text'),
    ('role', 'select auth.role()'),
    ('email', 'select coalesce(auth.email(), ''none'')'),
    ('is_anonymous', 'select auth.is_anonymous()::text'),
    ('session_id', 'select auth.session_id()::text'),
    ('jwt, another token', $$select set_config('anon_auth.access_token', auth.sign_in_anonymously()->>'access_token', true)
                                || auth.jwt()::text || auth.uid()::text$$),
    ('uid, no valid token', $$select set_config('anon_auth.access_token', 'a.b.c', true) || coalesce(auth.uid()::text, 'none')$$),
    ('authenticate, refused', $$select pg_temp.refused('select auth.authenticate($1)', 'a.b.c')$$),
    ('pre_request', $$select auth.pre_request()::text
                        from set_config('request.headers', json_build_object('authorization', 'Bearer ' || current_setting('bench.token'))::text, true) h
                       where h <> ''$$),
    ('get_user', 'select auth.get_user()::text'),
    ('user_info', 'select auth.user_info()::text'),
    ('ensure_user', 'select auth.ensure_user()::text'),
    ('sign_in_anonymously', $$select auth.sign_in_anonymously('{"a": [1, "b"]}')::text$$),
    ('sign_in_anonymously, refused', $$select pg_temp.refused('select auth.sign_in_anonymously(''[]'')')$$),
    ('refresh_session, refused', $$select pg_temp.refused('select auth.refresh_session(''x'')')$$),
    ('sign_out', 'select auth.sign_out()::text where pg_temp.become_somebody()'),
    ('delete_user', 'select auth.delete_user()::text where pg_temp.become_somebody()'),
    ('cleanup_expired_users', 'select auth.cleanup_expired_users(1)::text'),
    ('jwks', 'select auth.jwks()::text'),
    ('setting', $$select auth.setting('issuer')$$),
    ('set_setting', $$select auth.set_setting('audit_log_retention', '90 days')::text$$),
    ('set_setting, refused', $$select pg_temp.refused('select auth.set_setting(''disabled'', ''x'')')$$),
    ('setting_definitions', 'select count(*)::text from auth.setting_definitions()'),
    ('import_provider', $$select auth.import_provider('{"name": "anon-user", "type": "anon-user", "disabled": false}')::text$$),
    ('export_provider', 'select auth.export_provider()::text'),
    ('seal_signing_keys', $$select pg_temp.refused('select auth.seal_signing_keys()')$$),
    ('create_signing_key', $$with old as (delete from auth.signing_keys where status = 'standby')
                             select auth.create_signing_key()$$),
    ('rotate_signing_key', $$with old as (delete from auth.signing_keys where status = 'previously_used' and kid <> current_setting('bench.kid'))
                             select auth.rotate_signing_key()$$),
    ('revoke_signing_key', $$with old as (delete from auth.signing_keys where status = 'revoked')
                             select auth.revoke_signing_key(kid)::text from auth.create_signing_key() kid$$),
    ('import_signing_key', $$with old as (delete from auth.signing_keys where status = 'standby')
                             select auth.import_signing_key('{"kty": "oct", "alg": "HS256", "k": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}')$$);
insert into calls (function, call) values
    ('update_user', $$select auth.update_user('{"data": {"a": [1, "b"]}}')::text$$),
    ('update_user, email', $$select auth.update_user('{"email": "ada@example.com"}')::text$$),
    ('verify_otp, refused', $$select pg_temp.refused('select auth.verify_otp(''email_change'', ''x'')')$$),
    ('unlink_identity, refused', $$select pg_temp.refused('select auth.unlink_identity(gen_random_uuid())')$$),
    ('create_promotion_code', 'select auth.create_promotion_code()::text'),
    ('redeem_promotion_code, refused', $$select pg_temp.refused('select auth.redeem_promotion_code(''x'')')$$),
    ('create_transfer_code', 'select auth.create_transfer_code()::text'),
    ('redeem_transfer_code, refused', $$select pg_temp.refused('select auth.redeem_transfer_code(''x'')')$$),
    ('sign_in_with_password, refused', $$select pg_temp.refused('select auth.sign_in_with_password(''nobody@example.com'', ''x'')')$$),
    ('merge_anonymous_user, refused', $$select pg_temp.refused('select auth.merge_anonymous_user(''x'')')$$),
    ('set_merge_rule, refused', $$select pg_temp.refused('select auth.set_merge_rule(''pg_class'', ''x'')')$$),
    ('claim_messages', 'select auth.claim_messages(1)::text'),
    ('acknowledge_message', 'select auth.acknowledge_message(gen_random_uuid())::text'),
    ('fail_message', 'select auth.fail_message(gen_random_uuid())::text'),
    ('hook_definitions', 'select auth.hook_definitions()::text'),
    ('set_hook', $$select auth.set_hook('user_promoted')::text$$),
    ('set_identity_provider, refused', $$select pg_temp.refused('select auth.set_identity_provider(''x'', ''x'')')$$),
    ('remove_identity_provider', $$select auth.remove_identity_provider('x')::text$$),
    ('refresh_identity_provider_keys', 'select auth.refresh_identity_provider_keys()::text'),
    ('link_identity, refused', $$select pg_temp.refused('select auth.link_identity(''x'', ''a.b.c'')')$$),
    ('sign_in_with_id_token, refused', $$select pg_temp.refused('select auth.sign_in_with_id_token(''x'', ''a.b.c'')')$$),
    ('create_challenge', $$select auth.create_challenge('device')::text$$),
    ('create_challenge, altcha', $$select auth.create_challenge('altcha')::text$$),
    ('sign_in_with_device_key, refused', $$select pg_temp.refused('select auth.sign_in_with_device_key(''a.b.c'')')$$),
    ('remove_device_key, refused', $$select pg_temp.refused('select auth.remove_device_key(''x'')')$$),
    ('set_guest_provider', $$select auth.set_guest_provider('demo', captcha => 'off')::text$$),
    ('remove_guest_provider', $$select auth.remove_guest_provider('x')::text$$),
    ('set_captcha', $$select auth.set_captcha('turnstile', 'secret')::text$$),
    ('remove_captcha', $$select auth.remove_captcha('hcaptcha')::text$$),
    ('normal_address', $$select auth.normal_address('email', 'Ada@Example.org')$$),
    ('imported_password', $$select auth.imported_password('$2b$04$co.zxPuQvFqnLtdrfivynOyEQj0fZ.LRQVyl6AWJ/ftQs.ViILzXO')$$),
    ('source_rows, refused', $$select pg_temp.refused('select auth.source_rows(''nowhere'', ''users'')')$$),
    ('policy_findings', 'select auth.policy_findings()::text'),
    ('health_checks', 'select auth.health_checks()::text');
insert into calls (function, call, start) values
    ('resend', $$select auth.resend('email_change')::text$$, $$select auth.update_user('{"email": "ada@example.com"}')::text$$),
    ('authenticate', 'select $1 where auth.authenticate($1) is not null', 'select current_setting(''bench.token'')'),
    ('verify_token', 'select $1 where auth.verify_token($1) is not null', 'select current_setting(''bench.token'')'),
    ('verify_token, refused', $$select pg_temp.refused('select auth.verify_token($1)', overlay($1 placing 'AAAA' from 200))$$,
     'select current_setting(''bench.token'')'),
    ('refresh_session', $$select auth.refresh_session($1)->>'refresh_token'$$, $$select auth.sign_in_anonymously()->>'refresh_token'$$);
update calls set share = 0.25 where function in
    ('sign_out', 'sign_in_anonymously', 'refresh_session', 'jwt, another token', 'set_setting', 'import_provider');
update calls set share = 0.05 where function in ('delete_user', 'cleanup_expired_users')
                                 or function ~ 'signing_key$|^(health|policy)_'
                                 or function in ('resend', 'update_user, email', 'verify_otp, refused', 'sign_in_with_password, refused');
alter table calls add calls int generated always as (:calls * share) stored;

-- No limits in the way, and no password takes long.
select count(auth.set_setting(name, value)) from (values ('otp_resend_interval', '0'), ('otp_attempt_limit', '1000'),
    ('otp_attempt_limit_total', '100000'), ('otp_message_limit', '1000000'), ('otp_message_limit_total', '1000000'),
    ('otp_message_limit_client', '1000000'), ('password_attempt_limit', '100000'), ('password_hash_memory', '128'),
    ('password_hash_iterations', '1')) settings (name, value) \g /dev/null

-- What clean-up finds: as many as it takes.
insert into auth.users (id, is_anonymous, created_at)
select gen_random_uuid(), true, now() - interval '200 days' from generate_series(1, 4 * (select calls from calls where function = 'cleanup_expired_users'));

create procedure pg_temp.repeat(call text, start text, calls int) language plpgsql as $$
declare
    value text;
begin
    execute start into value;
    commit;
    for i in 1 .. calls loop
        execute call into strict value using value;
        commit;
    end loop;
end
$$;
create function pg_temp.held(out contexts bigint, out resident bigint) language sql volatile as $$
    select (select sum(used_bytes) from pg_backend_memory_contexts),
           1024 * substring(pg_read_file('/proc/self/status') from 'RssAnon:\s+(\d+) kB')::bigint
$$;

create temporary table held as select '' as function, 0 as round, * from pg_temp.held() where false;

select auth.sign_in_anonymously()->>'access_token' as token \gset
select set_config('anon_auth.access_token', :'token', false), set_config('bench.token', :'token', false),
       set_config('bench.kid', kid, false)
  from auth.signing_keys where purpose = 'access_token' and status = 'current' \g /dev/null
select format('call pg_temp.repeat(%L, %L, %s)', call, start, calls),
       format('insert into held select %L, %s, * from pg_temp.held()', function, round)
  from calls, generate_series(0, 3) round order by function, round \gexec

with growth as (
    select function, round, contexts - lag(contexts) over rounds as contexts, resident - lag(resident) over rounds as resident
      from held window rounds as (partition by function order by round)
)
select function, calls, round(greatest(min(contexts), min(resident), 0)::numeric / calls, 3)
  from growth join calls using (function) where round > 0 group by function, calls
union all
select distinct proname, -1, -1
  from pg_proc join pg_language l on l.oid = prolang
 where pronamespace = 'auth'::regnamespace and lanname = 'c' and prorettype <> 'trigger'::regtype
   and proname not in (select split_part(function, ',', 1) from calls)
 order by 3 desc, 1;

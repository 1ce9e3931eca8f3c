-- Calls of one client address are limited by the hour (S16), and a client's address is not what the client says (N15).
\pset format unaligned

-- How many of n calls are not refused for their number. Each call is rolled back.
create function let_in(n integer, statement text, variadic arguments text[] default '{}') returns bigint
language sql as $$
    select count(*) from (select raised(statement, variadic arguments) as answer from generate_series(1, n)) calls
     where answer not like '%over_request_rate_limit: %'
$$;
-- Makes the client's address, as a trusted proxy would.
create function come_from(address text) returns void
language sql as $$
    select set_config('anon_auth.forwarded_header', 'X-Forwarded-For', true),
           set_config('request.headers', jsonb_build_object('x-forwarded-for', address)::text, true)
$$;
-- Whether a call from there is one of those.
create function let_in_from(address text, statement text) returns boolean
language sql as $$
    select come_from(address);
    select let_in(1, statement, 'x') = 1
$$;

-- S16: the limits, as they are by default.
select name, "default" as calls_an_hour, description from auth.all_settings where name like '%\_rate\_limit' order by name;
select raised('select auth.set_setting($1, $2)', 'sign_in_rate_limit', '-1');

-- S16: 30 sign-ins at once; what is rolled back has counted.
begin;
select come_from('192.0.2.0');
select auth.set_setting('sign_in_rate_limit', null);
select let_in(64, 'select auth.sign_in_anonymously()') as signed_in;
select count(*) as guests from auth.users;
rollback;

-- S16: the limit counts as it is at this moment. 15 of 30 are half of 60, and 0 is no limit.
begin;
select come_from('192.0.2.1');
select auth.set_setting('sign_in_rate_limit', null);
select let_in(15, 'select auth.sign_in_anonymously()') as signed_in;
select auth.set_setting('sign_in_rate_limit', '60');
select let_in(64, 'select auth.sign_in_anonymously()') as signed_in;
select auth.set_setting('sign_in_rate_limit', '1000');
select let_in(1, 'select auth.sign_in_anonymously()') as signed_in;
select auth.set_setting('sign_in_rate_limit', '0');
select let_in(64, 'select auth.sign_in_anonymously()') as signed_in;
rollback;

-- S16: behind PostgREST the answer says when to retry, in a header. The hint need not tell of the header that is set.
begin;
set local request.method = 'POST';
select come_from('192.0.2.1');
select auth.set_setting('sign_in_rate_limit', '1');
do $$
declare
    detail text;
begin
    perform auth.sign_in_anonymously();
exception when sqlstate 'PGRST' then
    get stacked diagnostics detail = pg_exception_detail;
    raise notice '% %', sqlerrm::jsonb->>'code', sqlerrm::jsonb->>'message';
    raise notice '%', regexp_replace(sqlerrm::jsonb->>'hint', '\d+', 'N');
    raise notice 'status %, header: %', detail::jsonb->'status', detail::jsonb->'headers'->>'Retry-After' between '1' and '9999';
end
$$;
rollback;

-- S16, N15: one client in every notation; a network of IPv6; nobody else.
begin;
select auth.set_setting('sign_in_rate_limit', '2');
select address, let_in_from(address, 'select auth.sign_in_anonymously()') as signed_in
  from (values (1, '192.0.2.2'), (2, '::ffff:192.0.2.2'), (3, '"[::FFFF:c000:202]:80"'), (4, '192.0.2.2:4711'), (5, '203.0.113.9, 192.0.2.2'),
               (6, '2001:db8:0:1::1'), (7, '[2001:db8:0:1:ffff::1]:443'), (8, '2001:DB8:0:1::2%eth0'), (9, '2001:db8:0:2::1'),
               (10, 'for=192.0.2.2;proto=https'), (11, '192.0.2.3')) t(n, address)
 order by n;
rollback;

-- N15: what is no address counts as the connection's, however it changes. Of seven calls, four get in.
begin;
select auth.set_setting('verify_rate_limit', '4');
select count(*) filter (where let_in_from(address, 'select auth.redeem_promotion_code($1)')) as let_in
  from unnest(array['', 'x', '192.0.2.4,', '192.0.2.256', 'unknown', '[::1', '192.0.2.4 x']) address;
rollback;

-- N15: a header counts only where it is said which; else it is the connection, which has used up its calls.
begin;
select auth.set_setting('verify_rate_limit', '4');
select set_config('request.headers', '{"x-forwarded-for": "192.0.2.4"}', true);
select let_in(5, 'select auth.redeem_promotion_code($1)', 'x') as let_in;
select set_config('request.headers', '', true);
select regexp_replace(raised('select auth.redeem_promotion_code($1)', 'x'), '\d+ minutes', 'N minutes');
set local role anon;
select raised('set anon_auth.forwarded_header = ''X-Forwarded-For''');
rollback;

-- S16: a provider that is switched off takes nothing from the bucket.
begin;
select come_from('192.0.2.5');
select auth.set_setting('sign_in_rate_limit', '1'), auth.set_setting('disabled', 'true');
select let_in(5, 'select auth.sign_in_anonymously()') as refused_otherwise;
select auth.set_setting('disabled', 'false');
select let_in(5, 'select auth.sign_in_anonymously()') as signed_in;
rollback;

-- S16: each kind of call has a limit of its own.
begin;
select come_from('192.0.2.6');
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.authenticate(:'ada_token') = :'ada_id' as authenticated;
reset role;
select unlimited_messages();
select auth.set_setting(name, (3 + row_number() over (order by name))::text) from auth.all_settings where name like '%\_rate\_limit';
select let_in(20, 'select auth.sign_in_anonymously()') as sign_in;
select let_in(20, 'select auth.refresh_session($1)', :'ada_refresh') as refresh;
select let_in(20, 'select auth.sign_in_with_password($1, $2)', 'nobody@example.org', 'secret') as password;
select let_in(20, 'select auth.update_user($1::jsonb)', '{"password": "correct horse"}') as password_again;
select let_in(2, 'select auth.update_user($1::jsonb)', '{"email": "ada@example.org"}') as otp;
select let_in(20, 'select auth.resend($1)', 'email_change') as otp_again;
select let_in(1, 'select auth.update_user($1::jsonb)', '{"data": {}}') as no_otp;
select let_in(2, 'select auth.redeem_transfer_code($1)', 'x') as verify;
select let_in(2, 'select auth.redeem_promotion_code($1)', 'x') as verify;
select let_in(2, 'select auth.link_identity($1, $2)', 'x', 'x') as verify;
select let_in(1, 'select auth.sign_in_with_id_token($1, $2)', 'x', 'x') as verify;
select let_in(20, 'select auth.verify_otp($1, $2)', 'email_change', 'x') as verify;
rollback;

-- S16: mode "reuse" is a refresh.
begin;
select come_from('192.0.2.7');
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.set_setting('sign_in_mode', 'reuse'), auth.set_setting('sign_in_rate_limit', '1'), auth.set_setting('refresh_rate_limit', '3');
select let_in(5, 'select auth.sign_in_anonymously(refresh_token => $1)', :'ada_refresh') as refreshed;
select let_in(5, 'select auth.sign_in_anonymously()') as signed_in;
rollback;

drop function let_in_from, let_in, come_from;

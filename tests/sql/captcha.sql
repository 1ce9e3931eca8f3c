-- Captcha services: how they are set up, and what is refused without asking one (S17, C3, N14). What they answer, and
-- what becomes of it, is tested over real connections.
\pset format unaligned

-- S17: a service is set up, changed in part, and removed; its secret is in no answer.
begin;
select auth.set_captcha('turnstile', '0x4AAA-secret', hostnames => '{www.example.com}', action => 'guest') - '{created_at,updated_at}'::text[] as service;
select auth.set_captcha('hcaptcha', '0x0000-secret', '10000000-ffff-ffff-ffff-000000000001', 'http://127.0.0.1:8080/siteverify') - '{created_at,updated_at}'::text[] as service;
select auth.set_captcha('turnstile', action => '', hostnames => '{}') - '{created_at,updated_at}'::text[] as service;
select auth.set_captcha('hcaptcha', '0x0001-secret', sitekey => '', url => '') - '{created_at,updated_at}'::text[] as service;
select name, convert_from(secret, 'UTF8') as secret, sealed, sitekey, url, hostnames, action from auth.captcha_services order by name;
select action, payload->>'name' as name, payload::text like '%secret%' as with_secret from auth.audit_log_entries where action like 'captcha%' order by 1, 2;
select auth.remove_captcha('hcaptcha') as removed, auth.remove_captcha('hcaptcha') as again;
-- What makes no sense is refused, without a word of the secret.
select service, raised('select auth.set_captcha($1, ''0xsecret'')', service)
  from (values (1, null), (2, ''), (3, 'recaptcha'), (4, 'Turnstile'), (5, repeat('x', 300))) t(n, service) order by n;
select raised('select auth.set_captcha(''hcaptcha'', $1)', secret)
  from (values (1, ''), (2, null), (3, 'a secret'), (4, 'sécret'), (5, E'secret\r\n'), (6, repeat('secret', 100))) t(n, secret) order by n;
select raised('select auth.set_captcha(''turnstile'', sitekey => ''x'')'), raised('select auth.set_captcha(''hcaptcha'', ''0xsecret'', action => ''guest'')');
select raised('select auth.set_captcha(''turnstile'', hostnames => array[''www.example.com'', null])');
select url, raised('select auth.set_captcha(''turnstile'', ''0xsecret'', url => $1)', url)
  from (values (1, 'http://example.com/siteverify'), (2, 'https://user:password@example.com/'), (3, 'ftp://localhost/'), (4, 'siteverify'), (5, 'https://example.com/#a')) t(n, url) order by n;
rollback;

-- N14: whoever may say where the secret is sent does not get at it that way: another URL needs it anew.
begin;
select auth.set_captcha('turnstile', '0x4AAA-secret') is not null as set_up;
set local role service_role;
select raised('select auth.set_captcha(''turnstile'', url => ''https://evil.example/siteverify'')');
select raised('select secret from auth.captcha_services');
select raised('select * from auth.captcha_services');
select name, sealed, sitekey, url, hostnames, action from auth.captcha_services;
select auth.set_captcha('turnstile', '0x4BBB-secret', url => 'https://captcha.example/siteverify')->>'url' as url;
select auth.set_captcha('turnstile', url => 'https://captcha.example/siteverify', action => 'guest')->>'action' as action;
select raised('select auth.set_captcha(''turnstile'', url => '''')');
-- N10: nor does it have the server talk to what listens to the server's machine alone.
select url, raised('select auth.set_captcha(''turnstile'', ''0x4BBB-secret'', url => $1)', url)
  from (values (1, 'http://127.0.0.1:8008/restart'), (2, 'http://[::1]/'), (3, 'http://localhost/')) t(n, url) order by n;
rollback;

-- N14: where the key file cannot be used, no secret is stored in the clear instead.
begin;
set local anon_auth.key_file = '/nonexistent/key';
select raised('select auth.set_captcha(''turnstile'', ''0x4AAA-secret'')');
select count(*) as services from auth.captcha_services;
rollback;

-- N10: nobody but an administrator has a say.
begin;
set local role authenticated;
select raised('select auth.set_captcha(''turnstile'', ''0x4AAA'')');
select raised('select auth.remove_captcha(''turnstile'')');
select raised('select name from auth.captcha_services');
rollback;

-- C3: off unless it is set; a token is no harm then.
begin;
select auth.setting('captcha'), auth.setting('captcha_timeout');
select auth.sign_in_anonymously(captcha_token => 'anything') is not null as signed_in;
rollback;

-- C3: without a token, or a secret, nobody gets in, and nothing is there afterwards.
begin;
select auth.set_setting('captcha', 'turnstile');
select raised('select auth.sign_in_anonymously()');
select raised('select auth.sign_in_anonymously(captcha_token => '''')');
select raised('select auth.sign_in_anonymously(captcha_token => repeat(''x'', 8193))');
select raised('select auth.sign_in_anonymously(captcha_token => ''token'')');
select count(*) as users, (select count(*) from auth.sessions) as sessions from auth.users;
-- What was written by plain SQL and is no captcha refuses too.
select auth.set_guest_provider('kiosk') is not null as added;
update auth.guest_providers set captcha = 'riddle';
select raised('select auth.sign_in_anonymously(captcha_token => ''token'', provider => ''kiosk'')');
-- Nor does a sealed secret help that cannot be opened.
insert into auth.captcha_services (name, secret, sealed) values ('turnstile', '\x00', true);
select raised('select auth.sign_in_anonymously(captcha_token => ''token'')');
-- Metadata that are refused cost no token.
select raised('select auth.sign_in_anonymously(''[]'', captcha_token => ''token'')');
select count(*) as users, (select count(*) from auth.sessions) as sessions from auth.users;
rollback;

-- C3: a guest who comes back with a refresh token has no captcha to solve.
begin;
select auth.set_setting('sign_in_mode', 'reuse');
select * from session(auth.sign_in_anonymously()) \gset ada_
select auth.set_setting('captcha', 'hcaptcha');
select auth.sign_in_anonymously(refresh_token => :'ada_refresh')->'user'->>'id' = :'ada_id' as same;
select raised('select auth.sign_in_anonymously()');
rollback;

-- C5: a guest provider has its own.
begin;
select auth.set_guest_provider('kiosk', captcha => 'off')->'captcha' as kiosk, auth.set_guest_provider('demo', captcha => 'HCAPTCHA')->'captcha' as demo;
select raised('select auth.set_guest_provider(''kiosk'', captcha => ''riddle'')');
select auth.sign_in_anonymously() is not null as signed_in;
select raised('select auth.sign_in_anonymously(provider => ''demo'')');
select auth.set_setting('captcha', 'turnstile');
select raised('select auth.sign_in_anonymously()');
select auth.sign_in_anonymously(provider => 'kiosk') is not null as signed_in;
select raised('select auth.sign_in_anonymously(captcha_token => ''token'', provider => ''demo'')');
rollback;

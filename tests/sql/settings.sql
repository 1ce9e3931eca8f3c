-- Behaviour settings: shown, changed, checked, transactional.
\pset format unaligned
delete from auth.settings;

-- Every setting, like pg_settings.
select name, value, "default", unit, type, allowed, is_changed from auth.all_settings;
select count(*) as without_description from auth.all_settings where coalesce(description, '') = '' or description = name;
select name, auth.setting(name) = value as as_shown from auth.all_settings where auth.setting(name) is distinct from value;

-- Changed, shown, and back to the default with NULL.
begin;
select auth.set_setting('session_idle_timeout', '30 days');
select auth.setting('session_idle_timeout'), value, is_changed from auth.all_settings where name = 'session_idle_timeout';
select name, value from auth.settings;
select auth.set_setting('session_idle_timeout', null);
select auth.setting('session_idle_timeout');
select count(*) as changed from auth.settings;
select action, user_id, payload from auth.audit_log_entries order by created_at;
rollback;

-- The form of a value does not depend on how it was written, nor on the session's IntervalStyle.
begin;
select value, auth.set_setting('session_idle_timeout', value)
  from unnest(array['1 day', '24 hours', '86400', 'P1D', '1440 min', ' 1 day ', '1 month', '1.5 days', '1 day 00:00:01.5', '1 year']) value;
select value, auth.set_setting('disabled', value) from unnest(array['true', 'on', 'YES', '1', 'false', 'Off', 'no', '0']) value;
select auth.set_setting('sign_in_mode', 'REUSE'), auth.set_setting('signing_algorithm', 'eddsa'), auth.set_setting('user_metadata_limit', ' 100 ');
set local intervalstyle = 'iso_8601';
select auth.set_setting('session_lifetime', '2 days 3 hours');
select payload((session(auth.sign_in_anonymously())).token) is not null as in_use;
rollback;

-- A name that does not exist is refused, with those that do.
begin;
select name, raised('select auth.set_setting($1, ''1'')', name) from unnest(array['', 'Disabled', 'session_idle_timeout ', 'anon_auth.disabled']) name;
select raised('select auth.setting($1)', 'nothing');
select raised('select auth.set_setting($1, $2)', null, '1') as "null", auth.setting(null) is null as setting_null;
rollback;

-- A value that a setting cannot have is refused, with what is allowed, and nothing changes.
begin;
select name, value, raised('select auth.set_setting($1, $2)', name, value)
  from (values (1, 'disabled', ''), (2, 'disabled', 'maybe'), (3, 'disabled', '2'),
               (4, 'sign_in_mode', ''), (5, 'sign_in_mode', 'newish'),
               (6, 'signing_algorithm', 'none'), (7, 'signing_algorithm', 'HS384'),
               (8, 'issuer', ''), (9, 'issuer', '  '), (10, 'audience', ''),
               (11, 'user_metadata_limit', '1'), (12, 'user_metadata_limit', '-1'), (13, 'user_metadata_limit', '6145'), (14, 'user_metadata_limit', '4 kB'),
               (15, 'user_metadata_limit', '1e3'), (16, 'user_metadata_limit', '99999999999999999999'), (17, 'user_metadata_limit', '')) t(n, name, value)
 order by n;
-- Intervals: negative, absurd, no interval at all.
select name, value, raised('select auth.set_setting($1, $2)', name, value)
  from (values (1, 'session_idle_timeout', '-1 day'), (2, 'session_idle_timeout', '0'), (3, 'session_idle_timeout', '1 day -2 days'),
               (4, 'session_idle_timeout', '500 milliseconds'), (5, 'session_idle_timeout', '102 years'), (6, 'session_idle_timeout', '178000000 years'), (22, 'session_idle_timeout', 'infinity'),
               (7, 'session_idle_timeout', '999999999999 years'), (8, 'session_idle_timeout', '-infinity'), (9, 'session_idle_timeout', ''),
               (10, 'session_idle_timeout', 'soon'), (11, 'session_idle_timeout', '1 fortnight'), (12, 'session_idle_timeout', E'1 day; drop table x'),
               (13, 'access_token_lifetime', '0'), (14, 'access_token_lifetime', '8 days'), (15, 'access_token_lifetime', '-01:00'),
               (16, 'session_lifetime', '-1 second'), (17, 'refresh_token_reuse_interval', '1 hour 1 second'), (18, 'refresh_token_reuse_interval', '-10 s'),
               (19, 'cleanup_age', '-1 day'), (20, 'cleanup_inactivity', '1000 years'), (21, 'audit_log_retention', '1 hour')) t(n, name, value)
 order by n;
select raised('select auth.set_setting($1, $2)', 'issuer', repeat('x', 1025)) like 'PT400 validation_failed: %' as long_text;
select count(*) as changed from auth.settings;
rollback;

-- Plain SQL on the table is held to the same values.
begin;
select raised('insert into auth.settings (name, value) values (''disabled'', ''true'')') as good;
select raised('insert into auth.settings (name, value) values (''disbled'', ''true'')') as name;
select raised('insert into auth.settings (name, value) values (''issuer'', '''')') as value;
select raised('update auth.settings set value = ''maybe'' where name = ''disabled''') as value;
select raised('update auth.settings set name = ''issuer'', value = ''false'' where name = ''disabled''') as "rename";
select raised('insert into auth.settings (name, value) values (''cleanup_age'', ''24 hours'')') as other_form;
select raised('insert into auth.settings (name, value) values (''cleanup_age'', null)') as "null";
-- It counts at once, too: a row, a change, its end.
select raised('select auth.sign_in_anonymously()') as false_now;
update auth.settings set name = 'disabled', value = 'true';
select raised('select auth.sign_in_anonymously()') as true_now;
delete from auth.settings;
select raised('select auth.sign_in_anonymously()') as default_now;
insert into auth.settings (name, value) values ('disabled', 'true');
truncate auth.settings;
select raised('select auth.sign_in_anonymously()') as truncated;
rollback;

-- The own transaction sees a change at once; a rollback takes it back, to a savepoint too.
begin;
savepoint s;
select auth.set_setting('disabled', 'true');
select raised('select auth.sign_in_anonymously()');
rollback to s;
select auth.setting('disabled'), raised('select auth.sign_in_anonymously()');
select auth.set_setting('disabled', 'true');
rollback;
select auth.setting('disabled');
begin;
select auth.sign_in_anonymously() is not null as signed_in;
rollback;

-- It is seen although another table of the extension changed shape in between.
begin;
create table app_table (user_id uuid references auth.users (id));
select auth.set_setting('disabled', 'true');
select raised('select auth.sign_in_anonymously()');
rollback;

-- N10, N11: only administrators change or read settings; a Postgres setting of that name is nothing.
begin;
set local session authorization app_login;
select raised('select auth.set_setting(''disabled'', ''true'')'), raised('select auth.setting(''disabled'')'), left(raised('table auth.all_settings'), 5) as view;
select left(raised('select set_config(''anon_auth.disabled'', ''true'', true)'), 5) as no_such_setting;
reset session authorization;
set local role service_role;
select auth.set_setting('disabled', 'true');
select count(*) > 10 as shown from auth.all_settings;
select raised('insert into auth.settings (name, value) values (''issuer'', ''x'')');
rollback;
select count(*) as changed from auth.settings;
select default_settings();

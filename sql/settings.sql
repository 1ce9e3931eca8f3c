-- Behaviour settings: transactional, per database, dumped, effective at once in every session.
-- Only values that differ from the default have a row.

create table auth.settings (
    name text primary key,
    value text not null,
    updated_at timestamptz not null default now()
);
comment on table auth.settings is 'Settings that differ from their default; see the view auth.all_settings for all of them';

create function auth.setting_definitions() returns jsonb
    language c immutable parallel safe as 'MODULE_PATHNAME', 'anon_auth_setting_definitions';
comment on function auth.setting_definitions() is 'Name, type, default, unit and description of every setting, as auth.all_settings shows them';

create function auth.check_setting() returns trigger
    language c as 'MODULE_PATHNAME', 'anon_auth_check_setting';
comment on function auth.check_setting() is 'Trigger: refuses a setting that does not exist or a value that it cannot have';

create trigger check_setting before insert or update on auth.settings
    for each row execute function auth.check_setting();

-- Sends an invalidation to every session, also for plain SQL on the table.
create function auth.forget_cached() returns trigger
    language c as 'MODULE_PATHNAME', 'anon_auth_forget_cached';
comment on function auth.forget_cached() is 'Trigger: makes every session re-read what it has cached of the table';

create trigger forget_cached after insert or update or delete or truncate on auth.settings
    for each statement execute function auth.forget_cached();
alter table auth.settings enable always trigger forget_cached;

create view auth.all_settings as
select d.name,
       coalesce(s.value, d."default") as value,
       d."default",
       d.unit,
       d.description,
       s.name is not null as is_changed,
       d.type,
       d.allowed
  from jsonb_to_recordset(auth.setting_definitions())
       as d(name text, type text, "default" text, unit text, allowed text, description text)
  left join auth.settings s on s.name = d.name
 order by d.name;
comment on view auth.all_settings is 'Every setting with its value, default, unit and description, like pg_settings';

create function auth.setting(name text) returns text
    language c stable parallel unsafe strict security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_setting';
comment on function auth.setting(text) is
'Value of a setting.
Arguments: name, as in auth.all_settings.
Errors: validation_failed (PT400: no such setting).
Example: select auth.setting(''access_token_lifetime'');';

create function auth.set_setting(name text, value text) returns text
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_set_setting';
comment on function auth.set_setting(text, text) is
'Changes a setting from the commit on, in every session, and returns its value.
Arguments: name, as in auth.all_settings; value, in the setting''s type (an interval such as "30 days", a boolean, a number of bytes, a word), or NULL for the default.
Errors: validation_failed (PT400: names the setting, the value and what is allowed).
Example: select auth.set_setting(''session_idle_timeout'', ''30 days'');';

create function auth.import_provider(config jsonb) returns jsonb
    language c volatile parallel unsafe strict security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_import_provider';
comment on function auth.import_provider(jsonb) is
'Takes over a provider file of Realm / App Services and returns the configuration that is now in force.
Arguments: config, {"name": "anon-user", "type": "anon-user", "disabled": <boolean>}; any other key is refused.
Errors: validation_failed (PT400: names the key).
Example: select auth.import_provider(''{"name": "anon-user", "type": "anon-user", "disabled": false}'');';

create function auth.export_provider() returns jsonb
    language c stable parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_export_provider';
comment on function auth.export_provider() is
'The provider''s configuration in the form that auth.import_provider() takes.
Example: select auth.export_provider();';


-- A made-up next version: a table, a function, a column, and a default that is another one. See update.sql.
alter table auth.audit_log_entries add column severity text not null default 'info';
comment on column auth.audit_log_entries.severity is 'How much it matters';

create table auth.audit_log_readers (name text primary key);
comment on table auth.audit_log_readers is 'Who has read the audit log';

create function auth.audit_log_size() returns bigint
    language c volatile parallel unsafe security definer set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_audit_log_size';
comment on function auth.audit_log_size() is
'How much there is in the audit log.
Example: select auth.audit_log_size();';

alter table auth.settings alter column updated_at set default clock_timestamp();

select pg_catalog.pg_extension_config_dump('auth.audit_log_readers', '');

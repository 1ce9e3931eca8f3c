-- What is easily forgotten: a comment, owner and privileges, the dump, the list of parts, and a default.
alter table auth.audit_log_entries add column severity text not null default 'info';

create table auth.audit_log_readers (name text primary key);
comment on table auth.audit_log_readers is 'Who has read the audit log';

create function auth.audit_log_size() returns bigint
    language c volatile parallel unsafe security definer
    as 'MODULE_PATHNAME', 'anon_auth_audit_log_size';
comment on function auth.audit_log_size() is
'How much there is in the audit log.
Example: select auth.audit_log_size();';

\echo Use "ALTER EXTENSION anon_auth UPDATE" to load this file. \quit

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

-- What is new belongs to whoever runs the update, and PUBLIC, or whom default privileges name, may use it: here both
-- end. Nothing is revoked of what was there before, since that would take away what administrators have granted.
do $$
declare
    added record;
    grantee text;
begin
    for added in
        select case c.relkind when 'v' then 'view' else 'table' end as kind, c.oid::regclass::text as name, c.relacl as acl
          from pg_catalog.pg_class c
          join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
          join pg_catalog.pg_extension e on e.oid = d.refobjid and e.extname = 'anon_auth'
         where c.relkind in ('r', 'v') and c.relowner <> 'anon_auth_owner'::regrole
        union all
        select 'routine', p.oid::regprocedure::text, coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))
          from pg_catalog.pg_proc p
          join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
          join pg_catalog.pg_extension e on e.oid = d.refobjid and e.extname = 'anon_auth'
         where p.proowner <> 'anon_auth_owner'::regrole
    loop
        execute pg_catalog.format('alter %s %s owner to anon_auth_owner', added.kind, added.name);
        for grantee in
            select distinct case a.grantee when 0 then 'public' else a.grantee::regrole::text end
              from pg_catalog.aclexplode(added.acl) a
             where a.grantee <> current_user::regrole
        loop
            execute pg_catalog.format('revoke all on %s %s from %s', added.kind, added.name, grantee);
        end loop;
    end loop;
end
$$;

select pg_catalog.pg_extension_config_dump('auth.audit_log_readers', '');

-- So that auth.customizations does not take what is new for somebody else's.
insert into auth.installed_parts (relation, kind, name)
select relation, kind, name from auth.table_parts()
 where relation = 'auth.audit_log_readers' or relation = 'auth.audit_log_entries' and name = 'severity';

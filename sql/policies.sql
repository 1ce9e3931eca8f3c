-- A look at the policies of applications: which let guests in by accident.

create function auth.policy_findings() returns jsonb
    language c stable parallel unsafe security invoker set search_path = pg_catalog, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_lint_policies';
comment on function auth.policy_findings() is 'What auth.lint_policies() lists, as a JSON array.
Example: select jsonb_pretty(auth.policy_findings());';

create function auth.lint_policies()
    returns table (schema_name text, table_name text, policy_name text, command text, problem text, level text, reason text, fix text)
    language sql stable parallel unsafe security invoker set search_path = pg_catalog, auth, pg_temp
as $$
    select f.*
      from jsonb_to_recordset(auth.policy_findings())
           as f(schema_name text, table_name text, policy_name text, command text, problem text, level text, reason text, fix text)
     order by array_position(array['error', 'warning', 'info'], f.level), f.schema_name, f.table_name, f.policy_name nulls first, f.problem, f.command
$$;
comment on function auth.lint_policies() is
'Policies that let guests in by accident, and what else is commonly wrong with row-level security: a row for each policy (or table) and problem. It looks at the expressions as Postgres stores them, and runs none.
Columns: level, error (somebody gets at rows who was not meant to), warning (somebody may get at more, or less, than was meant) or info (something to look at); problem, one of guest_access, guest_access_unclear, guests_only, denies_everybody, trusts_user_metadata, reads_request_settings, row_security_off, view_bypasses_policies, evaluated_per_row; reason, in words; fix, the statement that would close it, where one does.
Example: select level, table_name, policy_name, reason, fix from auth.lint_policies() where level <> ''info'';';

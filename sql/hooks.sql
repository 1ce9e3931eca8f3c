-- Hooks: functions of the application that are called at certain moments, and may refuse.

create table auth.hooks (
    name text primary key,
    function_schema text not null,
    function_name text not null,
    function_owner text not null,
    set_at timestamptz not null default clock_timestamp()
);
comment on table auth.hooks is 'Hooks that are set; see the view auth.all_hooks for all there are, and change them with auth.set_hook()';
comment on column auth.hooks.function_schema is 'Schema of the function, whose one argument is jsonb. By name, so that it survives a dump';
comment on column auth.hooks.function_owner is 'Role that owned the function when it was set; a function of another owner is not called in its place';

create trigger forget_cached after insert or update or delete or truncate on auth.hooks
    for each statement execute function auth.forget_cached();
alter table auth.hooks enable always trigger forget_cached;

create function auth.hook_definitions() returns jsonb
    language c immutable parallel safe as 'MODULE_PATHNAME', 'anon_auth_hook_definitions';
comment on function auth.hook_definitions() is
'Name and description of every hook, as auth.all_hooks shows them.
Example: select auth.hook_definitions();';

create view auth.all_hooks as
select d.name,
       case when h.name is not null then format('%I.%I(jsonb)', h.function_schema, h.function_name) end as function,
       h.function_owner as owner,
       d.description,
       h.set_at
  from jsonb_to_recordset(auth.hook_definitions()) as d(name text, description text)
  left join auth.hooks h on h.name = d.name
 order by d.name;
comment on view auth.all_hooks is 'Every hook with the function that is set for it, or NULL';

-- Not SECURITY DEFINER: it has to know who calls it, since it gives the function its owner's rights.
create function auth.set_hook(name text, function regprocedure default null) returns void
    language c volatile parallel unsafe security invoker set search_path = pg_catalog, auth, pg_temp
    as 'MODULE_PATHNAME', 'anon_auth_set_hook';
comment on function auth.set_hook(text, regprocedure) is
'Has a function called at a certain moment from the commit on, in every session. It gets the event (jsonb), runs with its owner''s rights for at most hook_timeout, and refuses by returning {"error": {"http_code": 403, "message": "…"}} or by raising an error with an SQLSTATE of PT400 to PT599.
Arguments: name, as in auth.all_hooks; function, with one argument of type jsonb, returning jsonb (or void, but for custom_access_token), owned by the caller or a role that it is a member of; NULL removes the hook.
Errors: validation_failed (PT400: no such hook, not such a function), not_function_owner (PT403).
Example: select auth.set_hook(''send_email'', ''app.send_email(jsonb)'');';

-- What PostgREST needs: functions to expose, its configuration, and word when that changes. What it calls before
-- each request, auth.pre_request(), is among the sessions.

create function auth.create_api(schema name) returns setof regprocedure
    language plpgsql security invoker set search_path = pg_catalog, auth, pg_temp
as $$
declare
    -- Ends the body of every function made here: such a function is ours to replace and to drop.
    mark constant text := '-- made by auth.create_api()';
    taken text;
    client record;
    existing record;
    is_new boolean;
    wrapper regprocedure;
    made regprocedure[] := '{}';
begin
    if schema is null or schema in ('auth', 'information_schema') or starts_with(schema, 'pg_') then
        raise exception 'validation_failed: an API cannot be made in the schema "%"', schema
            using errcode = 'PT400', hint = 'Choose a schema of its own, such as "api".';
    end if;
    if to_regrole('anon') is null or to_regrole('authenticated') is null then
        raise exception 'validation_failed: the roles "anon" and "authenticated" do not exist'
            using errcode = 'PT400', hint = 'SELECT auth.create_roles();';
    end if;

    if not exists (select from pg_namespace where nspname = schema) then
        execute format('create schema %I', schema);
        execute format('comment on schema %I is %L', schema, 'Functions of anon_auth for clients, made by auth.create_api()');
    else
        -- Whoever owns the schema or may create in it could put a function of their own, which sees passwords
        -- and tokens, where clients expect ours.
        select case when n.nspowner <> to_regrole(quote_ident(current_user))::oid
                    then format('it belongs to role %s', n.nspowner::regrole)
                    else (select format('role %s may create objects in it', case a.grantee when 0 then 'PUBLIC' else a.grantee::regrole::text end)
                            from aclexplode(n.nspacl) a where a.privilege_type = 'CREATE' and a.grantee <> n.nspowner limit 1) end
          into taken
          from pg_namespace n where n.nspname = schema;
        if taken is not null then
            raise exception 'schema_in_use: the schema "%" cannot be used for an API: %', schema, taken
                using errcode = 'PT409', hint = 'Choose another schema, or call this as its owner; nobody else may create in it.';
        end if;
    end if;
    execute format('grant usage on schema %I to anon, authenticated', schema);

    -- What a client calls is what everybody may call and what runs with the rights of this schema's owner: not the
    -- readers, which are for policies, nor what makes a transaction the caller's.
    for client in
        select p.proname as name, p.pronargs, pg_get_function_arguments(p.oid) as arguments,
               pg_get_function_result(p.oid) as result,
               case p.provolatile when 'v' then 'volatile' else 'stable' end as volatility,
               -- What somebody without a token can make use of.
               p.proname ~ '^(sign_in_.*|redeem_.*|.*_challenge|refresh_session|verify_otp|jwks)$' as is_for_anon,
               obj_description(p.oid, 'pg_proc') as comment
          from pg_proc p
          join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
          join pg_extension e on e.oid = d.refobjid and d.refclassid = 'pg_extension'::regclass and e.extname = 'anon_auth'
         where p.prosecdef and has_function_privilege('public', p.oid, 'execute')
         order by p.proname
    loop
        is_new := true;
        for existing in
            select p.oid::regprocedure as function,
                   p.prosrc like '%' || mark and p.proowner = to_regrole(quote_ident(current_user))::oid as is_ours,
                   pg_get_function_arguments(p.oid) = client.arguments and pg_get_function_result(p.oid) = client.result as is_same
              from pg_proc p
             where p.pronamespace = to_regnamespace(quote_ident(schema))::oid and p.proname = client.name
        loop
            if not existing.is_ours then
                raise exception 'conflict: there is a function % already, which auth.create_api() has not made', existing.function
                    using errcode = 'PT409', hint = format('DROP FUNCTION %s; or choose another schema.', existing.function);
            elsif existing.is_same then
                is_new := false;
            else
                -- One signature a name, and CREATE OR REPLACE can change none.
                execute format('drop function %s', existing.function);
            end if;
        end loop;

        execute format('create or replace function %I.%I(%s) returns %s language sql %s parallel unsafe security invoker as %L',
                       schema, client.name, client.arguments, client.result, client.volatility,
                       format('select auth.%I(%s) %s', client.name,
                              (select string_agg('$' || n, ', ' order by n) from generate_series(1, client.pronargs) n), mark));
        select p.oid into strict wrapper from pg_proc p
         where p.pronamespace = to_regnamespace(quote_ident(schema))::oid and p.proname = client.name;
        -- Privileges that somebody changed later are kept.
        if is_new then
            execute format('revoke all on function %s from public', wrapper);
            execute format('grant execute on function %s to authenticated', wrapper);
            if client.is_for_anon then
                execute format('grant execute on function %s to anon', wrapper);
            end if;
        end if;
        -- PostgREST shows it in its OpenAPI description, where an example in SQL is of no use.
        execute format('comment on function %s is %L', wrapper,
                       replace(regexp_replace(client.comment, '\nExample:.*', ''), 'auth.', ''));
        made := made || wrapper;
    end loop;

    -- What this version does not have any more.
    for wrapper in
        select p.oid from pg_proc p
         where p.pronamespace = to_regnamespace(quote_ident(schema))::oid and p.prosrc like '%' || mark
           and p.proowner = to_regrole(quote_ident(current_user))::oid and not p.oid = any (made)
    loop
        execute format('drop function %s', wrapper);
    end loop;
    perform pg_notify('pgrst', 'reload schema');
    return query select unnest(made);
end
$$;
comment on function auth.create_api(name) is
'Makes a function for each function of this extension that clients call, in a schema for PostgREST to expose, so that the schema auth need not be. Each has the same name and arguments, runs with its caller''s rights and may be called by authenticated, and by anon where that makes sense. Run it again after an update of the extension: it replaces what it made before and keeps privileges that you changed. Runs with the caller''s rights. Returns the functions.
Arguments: schema, which is made where it is missing; otherwise it must be the caller''s own, and nobody else may create in it.
Errors: validation_failed (PT400: the schema cannot be used for that, or the roles are missing), schema_in_use (PT409: it is another role''s, or others may create in it), conflict (PT409: a function of the same name exists that was not made by this).
Example: select auth.create_api(''api'');';

create function auth.pre_config() returns void
    language sql volatile parallel unsafe security invoker set search_path = pg_catalog, auth, pg_temp
as $$
    -- Without public keys, as with HS256, the secret is PostgREST's own to configure.
    select set_config('pgrst.db_pre_request', 'auth.pre_request', true),
           case when jsonb_array_length(jwks->'keys') > 0 then set_config('pgrst.jwt_secret', jwks::text, true) end
      from auth.jwks() jwks
$$;
comment on function auth.pre_config() is
'For PostgREST''s db-pre-config: sets pgrst.db_pre_request to auth.pre_request and pgrst.jwt_secret to the public keys, auth.jwks(). Where there are none, as with HS256, jwt-secret stays as PostgREST''s own configuration has it.
Example: db-pre-config = "auth.pre_config"';

create function auth.tell_postgrest() returns trigger
    language plpgsql set search_path = pg_catalog, auth, pg_temp
as $$
begin
    perform pg_notify('pgrst', 'reload config');
    return null;
end
$$;
comment on function auth.tell_postgrest() is 'Trigger: has PostgREST read its configuration again, and with it the public keys';

create trigger tell_postgrest after insert or update or delete or truncate on auth.signing_keys
    for each statement execute function auth.tell_postgrest();

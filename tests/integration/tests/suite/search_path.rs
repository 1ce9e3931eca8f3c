//! Code that a caller puts in front of `search_path`: no look-up of the extension runs it.

use anon_auth_tests::*;

/// A schema with an operator and a function in place of every one of Postgres's that takes usual types, each of
/// which says that it ran; and types and tables of the names that a look-up might use.
const HOSTILE: &str = r#"
    create schema hostile;
    grant usage on schema hostile to public;
    do $$
    declare
        usual constant regtype[] := array['uuid', 'text', 'int4', 'int8', 'bool', 'date', 'timestamptz', 'interval',
                                          'jsonb', 'bytea', 'oid', 'name', 'regclass', '"char"', 'uuid[]', 'text[]'];
        item record;
    begin
        for item in select oprname, oprleft::regtype as l, oprright::regtype as r, oprresult::regtype as result, oid
                      from pg_operator
                     where oprnamespace = 'pg_catalog'::regnamespace and oprkind = 'b'
                       and oprleft = any (usual) and oprright = any (usual) loop
            execute format('create function hostile.op_%s(%s, %s) returns %s language plpgsql as %L',
                           item.oid, item.l, item.r, item.result,
                           'begin raise exception ''HOSTILE operator ran as %'', current_user; end');
            execute format('create operator hostile.%s (leftarg = %s, rightarg = %s, function = hostile.op_%s)',
                           item.oprname, item.l, item.r, item.oid);
        end loop;
        for item in select proname, pg_get_function_arguments(oid) as arguments, pg_get_function_result(oid) as result
                      from pg_proc
                     where pronamespace = 'pg_catalog'::regnamespace and prokind = 'f' and not proretset
                       and proname in ('now', 'clock_timestamp', 'count', 'format', 'set_config', 'current_setting',
                                       'gen_random_uuid', 'to_jsonb', 'to_regclass', 'jsonb_build_object', 'current_database',
                                       'has_schema_privilege', 'timezone', 'date', 'length', 'lower', 'encode', 'decode',
                                       'jsonb_typeof', 'starts_with', 'substr', 'cardinality', 'quote_ident', 'unnest')
                       and prorettype <> 'anyelement'::regtype loop
            begin
                execute format('create function hostile.%I(%s) returns %s language plpgsql as %L',
                               item.proname, item.arguments, item.result,
                               'begin raise exception ''HOSTILE function ran as %'', current_user; end');
            exception when feature_not_supported or invalid_function_definition then null; -- "any"
            end;
        end loop;
    end $$;
    create domain hostile.uuid as pg_catalog.text check (value = 'hostile');
    create domain hostile.text as pg_catalog.int4;
    create domain hostile.jsonb as pg_catalog.int4;
    create domain hostile.timestamptz as pg_catalog.int4;
    create domain hostile.date as pg_catalog.int4;
    create domain hostile.bytea as pg_catalog.int4;
    create table hostile.users (id int); create table hostile.sessions (id int); create table hostile.settings (id int);
    create table hostile.signing_keys (id int); create table hostile.pg_class (id int); create table hostile.pg_constraint (id int);
"#;

#[test]
fn N24_no_code_in_front_of_the_search_path_runs() {
    let db = Database::new();
    let mut admin = db.connect();
    run(&mut admin, HOSTILE);
    let operators: i64 =
        value(&mut admin, "select count(*) from pg_operator where oprnamespace = 'hostile'::regnamespace");
    assert!(operators > 100, "{operators}");
    run(&mut admin, "create table notes (user_id uuid references auth.users (id) on delete cascade)");
    let victim = sign_in(&mut admin);
    let session = sign_in(&mut admin);
    let hostile = |temporary: bool| {
        let mut client = db.connect_as(APP);
        run(&mut client, "set role authenticated; set search_path = hostile, pg_catalog, auth");
        if temporary {
            run(
                &mut client,
                "reset role;
                 create temp table users (id int); create temp table sessions (id int);
                 create temp table session_revocations (id int); create temp table settings (id int);
                 create temp table lazy_guests (id int);
                 create temp table signing_keys (id int); create temp table pg_class (id int);
                 create temp table pg_constraint (id int); create temp table identities (id int);
                 create domain pg_temp.uuid as pg_catalog.int4; create domain pg_temp.bytea as pg_catalog.int4;
                 set role authenticated; set search_path = pg_temp, hostile, pg_catalog, auth",
            );
        }
        client
    };
    // It would run: an unqualified operator is the hostile one.
    let ran = hostile(false)
        .batch_execute("select null is distinct from current_user, current_user = 'a'::pg_catalog.name");
    expect_error(ran, "P0001", "HOSTILE operator");
    // Each call is the first of its connection: that is when its look-ups are planned.
    for temporary in [false, true] {
        for (reader, expected) in [
            ("auth.uid()::pg_catalog.text", session.user.to_string()),
            ("auth.role()", "authenticated".into()),
            ("auth.is_anonymous()::pg_catalog.text", "true".into()),
            ("auth.session_id()::pg_catalog.text", session_id(&mut admin, session.user).to_string()),
            ("pg_catalog.jsonb_extract_path_text(auth.jwt(), 'sub')", session.user.to_string()),
            ("coalesce(auth.email(), 'none')", "none".into()),
        ] {
            let mut client = hostile(temporary);
            let set = "select pg_catalog.set_config('anon_auth.access_token', $1, false)";
            client.query(set, &[&session.access_token]).unwrap();
            assert_eq!(value::<String>(&mut client, &format!("select {reader}")), expected, "{reader}");
        }
        for call in [
            "auth.verify_token($1)",
            "auth.sign_in_anonymously()",
            "auth.refresh_session($1)",
            "auth.get_user()",
            "auth.user_info()",
            "auth.sign_out('others')",
            "auth.jwks()",
            "auth.pre_request()",
            "auth.sign_out()",
            "auth.delete_user()",
        ] {
            let mine = sign_in(&mut admin);
            admin.execute("insert into notes values ($1)", &[&mine.user]).unwrap();
            let mut client = hostile(temporary);
            let mut transaction = client.transaction().unwrap();
            let user = authenticate(&mut transaction, &mine.access_token).expect("authenticate");
            assert_eq!(user, mine.user);
            let token = if call.contains("refresh") { &mine.refresh_token } else { &mine.access_token };
            let sql = format!("select {call}::pg_catalog.text");
            let result =
                if call.contains("$1") { transaction.query(&sql, &[token]) } else { transaction.query(&sql, &[]) };
            result.unwrap_or_else(|error| panic!("{call}: {}", describe(&error)));
            transaction.commit().unwrap();
            assert_eq!(exists(&mut admin, mine.user), call != "auth.delete_user()", "{call}");
        }
    }
    assert!(exists(&mut admin, victim.user));
    let mut job = db.connect();
    run(&mut job, "set search_path = hostile, pg_catalog");
    run(&mut job, "call auth.cleanup()");
    run(&mut job, "select auth.rotate_signing_key(); select auth.cleanup_expired_users(null, true);
                   select auth.set_setting('cleanup_age', '10 days'); select auth.import_provider(auth.export_provider())");
}

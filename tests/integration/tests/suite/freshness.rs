//! What one session changes, another session's next transaction knows.

use anon_auth_tests::*;
use postgres::{Client, IsolationLevel};
use std::time::Duration;
use uuid::Uuid;

#[test]
fn W3_the_next_transaction_of_an_open_session_knows() {
    let db = Database::new();
    let mut admin = db.connect();
    let endings = [
        "delete from auth.sessions where user_id = $1",
        "delete from auth.users where id = $1",
        "update auth.users set banned_until = 'infinity' where id = $1",
        "update auth.sessions set refreshed_at = now() - interval '60 days' where user_id = $1",
        "update auth.sessions set refresh_token_nonce = decode(md5('another'), 'hex') where user_id = $1",
        "insert into auth.session_revocations (session_id, reason) select id, 'test' from auth.sessions where user_id = $1",
    ];
    for ending in endings {
        let guest = sign_in(&mut admin);
        let mut other = db.connect_as(APP);
        set_token(&mut other, &guest.access_token);
        let statement = other.prepare("select auth.uid()").unwrap();
        assert_eq!(uid(&mut other), Some(guest.user));

        let mut open = admin.transaction().unwrap();
        open.execute(ending, &[&guest.user]).unwrap();
        assert_eq!(uid(&mut other), Some(guest.user), "not before the commit: {ending}");
        open.commit().unwrap();
        assert_eq!(uid(&mut other), None, "{ending}");
        assert_eq!(other.query_one(&statement, &[]).unwrap().get::<_, Option<Uuid>>(0), None, "{ending}");
        refresh(&mut other, &guest.refresh_token).expect_err(ending);
    }
}

#[test]
fn W3_a_ban_ends() {
    let db = Database::new();
    let mut admin = db.connect();
    let guest = sign_in(&mut admin);
    let mut other = db.connect_as(APP);
    set_token(&mut other, &guest.access_token);
    let ban = "update auth.users set banned_until = clock_timestamp() + interval '1 second' where id = $1";
    admin.execute(ban, &[&guest.user]).unwrap();
    assert_eq!(uid(&mut other), None);
    expect_error(verify(&mut other, &guest.access_token), "PT403", "user_banned");
    wait_until("the end of the ban", Duration::from_secs(5), || uid(&mut other).is_some());
}

#[test]
fn W3_signing_out_and_deleting_are_seen_everywhere() {
    let db = Database::new();
    let mut app = db.connect_as(APP);
    for (call, is_deleted) in [("select auth.sign_out()", false), ("select auth.delete_user()", true)] {
        let guest = sign_in(&mut app);
        let mut other = db.connect_as(APP);
        set_token(&mut other, &guest.access_token);
        assert_eq!(uid(&mut other), Some(guest.user));
        let mut transaction = app.transaction().unwrap();
        authenticate(&mut transaction, &guest.access_token).unwrap();
        run(&mut transaction, call);
        // In the same transaction, after its own writes.
        assert_eq!(uid(&mut transaction), None, "{call}");
        transaction.commit().unwrap();
        assert_eq!(uid(&mut other), None, "{call}");
        assert_eq!(exists(&mut db.connect(), guest.user), !is_deleted);
    }
}

#[test]
fn W3_promotion_is_seen_at_once() {
    let db = Database::new();
    let mut admin = db.connect();
    run(
        &mut admin,
        "create table posts (n int); grant insert, select on posts to authenticated;
         alter table posts enable row level security;
         create policy everyone on posts to authenticated using (true) with check (true);
         create policy members on posts as restrictive for insert to authenticated
             with check ((select (auth.jwt()->>'is_anonymous')::boolean) is false)",
    );
    let guest = sign_in(&mut admin);
    let mut app = db.connect_as(APP);
    let mut post = |expected: bool| {
        let mut transaction = app.transaction().unwrap();
        authenticate(&mut transaction, &guest.access_token).unwrap();
        let result = transaction.batch_execute("insert into posts values (1)");
        assert_eq!(result.is_ok(), expected, "{result:?}");
        if result.is_ok() {
            let seen = "select (auth.is_anonymous(), auth.email(), auth.jwt()->>'email', nullif(auth.jwt()->>'phone', ''))::text";
            assert_eq!(value::<String>(&mut transaction, seen), "(f,me@example.com,me@example.com,)");
            transaction.commit().unwrap();
        }
    };
    post(false);
    let promote = "update auth.users set is_anonymous = false, email = 'me@example.com', email_confirmed_at = now() where id = $1";
    let mut open = admin.transaction().unwrap();
    open.execute(promote, &[&guest.user]).unwrap();
    post(false);
    open.commit().unwrap();
    post(true);
    // An address that is not proven is nobody's.
    admin.execute("update auth.users set email_confirmed_at = null where id = $1", &[&guest.user]).unwrap();
    let mut other = db.connect_as(APP);
    set_token(&mut other, &guest.access_token);
    assert_eq!(value::<Option<String>>(&mut other, "select auth.email()"), None);
}

#[test]
fn R6_switching_off_is_seen_by_open_sessions() {
    let db = Database::new();
    let mut admin = db.connect();
    let mut other = db.connect_as(APP);
    let guest = sign_in(&mut other);
    run(&mut admin, "begin; select auth.set_setting('disabled', 'true')");
    sign_in(&mut other);
    run(&mut admin, "commit");
    expect_error(try_sign_in(&mut other), "PT422", "anonymous_provider_disabled");
    // In an old snapshot too; and those who are here stay.
    let mut old = other.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().unwrap();
    value::<i64>(&mut old, "select count(*) from pg_class");
    verify(&mut old, &guest.access_token).unwrap();
    run(&mut admin, "update auth.settings set value = 'false' where name = 'disabled'");
    try_sign_in(&mut old).expect("switched on again, by plain SQL");
    old.rollback().unwrap();
    run(&mut admin, "insert into auth.settings values ('issuer', 'somebody else')");
    expect_error(verify(&mut other, &guest.access_token), "PT401", "bad_jwt");
}

#[test]
fn W3_own_writes_and_savepoints() {
    let db = Database::new();
    let mut admin = db.connect();
    let guest = sign_in(&mut admin);
    let mut transaction = admin.transaction().unwrap();
    set_token(&mut transaction, &guest.access_token);
    assert_eq!(uid(&mut transaction), Some(guest.user));
    for (change, reader) in [
        ("update auth.users set is_anonymous = false", "select auth.is_anonymous() is false"),
        ("update auth.users set email = 'a@b', email_confirmed_at = now()", "select auth.email() = 'a@b'"),
        ("delete from auth.sessions", "select auth.uid() is null"),
        ("update auth.users set banned_until = 'infinity'", "select auth.uid() is null"),
        ("delete from auth.users", "select auth.jwt() is null"),
        ("select set_config('anon_auth.access_token', 'none', true)", "select auth.uid() is null"),
        ("update auth.signing_keys set status = 'revoked'", "select true"),
    ] {
        run(&mut transaction, "savepoint before");
        run(&mut transaction, change);
        assert!(value::<bool>(&mut transaction, reader), "after {change}");
        run(&mut transaction, "rollback to before");
        assert_eq!(uid(&mut transaction), Some(guest.user), "after rolling back {change}");
        assert!(value::<bool>(&mut transaction, "select auth.is_anonymous() and auth.email() is null"), "{change}");
    }
    transaction.rollback().unwrap();
}

#[test]
fn W3_repeatable_read_shows_the_latest_too() {
    let db = Database::new();
    let mut admin = db.connect();
    let guest = sign_in(&mut admin);
    let mut other = db.connect_as(APP);
    let mut old = other.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().unwrap();
    set_token(&mut old, &guest.access_token);
    assert_eq!(uid(&mut old), Some(guest.user));
    old.commit().unwrap();
    // Revoked between the snapshot and the first question.
    let mut old = other.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().unwrap();
    value::<i64>(&mut old, "select count(*) from pg_class");
    admin.execute("delete from auth.sessions where user_id = $1", &[&guest.user]).unwrap();
    assert_eq!(uid(&mut old), None);
    old.rollback().unwrap();
}

#[test]
fn W3_parallel_workers_agree() {
    let db = Database::new();
    let mut admin = db.connect();
    let guest = sign_in(&mut admin);
    let rows = "create table rows as select n, case when n % 3 = 0 then $1 else gen_random_uuid() end as user_id
                from generate_series(1, 20000) n";
    run(&mut admin, &rows.replace("$1", &format!("'{}'::uuid", guest.user)));
    run(
        &mut admin,
        "grant select on rows to authenticated; alter table rows enable row level security;
         create policy own on rows to authenticated
             using (user_id = auth.uid() and auth.is_anonymous() and auth.jwt()->>'role' = 'authenticated'); analyze rows;",
    );
    let mut app = db.connect_as(APP);
    let count = "select count(*) from rows where length(user_id::text) > 0";
    let serial = count_as(&mut app, &guest, count);
    assert_eq!(serial, Some(20000 / 3));
    run(
        &mut app,
        "set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0;
         set max_parallel_workers_per_gather = 4",
    );
    let plan: Vec<String> =
        app.query("explain select count(*) from pg_class", &[]).unwrap().iter().map(|r| r.get(0)).collect();
    assert!(!plan.is_empty());
    assert_eq!(count_as(&mut app, &guest, count), serial);
    let mut transaction = app.transaction().unwrap();
    authenticate(&mut transaction, &guest.access_token).unwrap();
    let plan = transaction.query(&format!("explain (analyze, costs off) {count}"), &[]).unwrap();
    let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    assert!(plan.iter().any(|line| line.contains("Workers Launched") && !line.contains(": 0")), "{plan:#?}");
    transaction.rollback().unwrap();

    // Every query in a worker, that of a reader by itself as well.
    let name = if value::<i32>(&mut app, "select current_setting('server_version_num')::int") < 160000 {
        "force_parallel_mode"
    } else {
        "debug_parallel_query"
    };
    run(&mut app, &format!("set {name} = on"));
    assert_eq!(count_as(&mut app, &guest, count), serial);
    set_token(&mut app, &guest.access_token);
    assert_eq!(uid(&mut app), Some(guest.user));
    admin.execute("update auth.users set banned_until = 'infinity' where id = $1", &[&guest.user]).unwrap();
    assert_eq!(uid(&mut app), None);
    assert_eq!(count_as(&mut app, &guest, count), None);
}

/// The count of a transaction as this guest; `None` where the guest is refused.
fn count_as(client: &mut Client, guest: &Session, sql: &str) -> Option<i64> {
    let mut transaction = client.transaction().unwrap();
    authenticate(&mut transaction, &guest.access_token).ok()?;
    let count = value(&mut transaction, sql);
    transaction.commit().unwrap();
    Some(count)
}

#[test]
fn W3_readers_assign_no_transaction_id() {
    let db = Database::new();
    let mut admin = db.connect();
    let guest = sign_in(&mut admin);
    let mut app = db.connect_as(APP);
    let mut transaction = app.transaction().unwrap();
    authenticate(&mut transaction, &guest.access_token).unwrap();
    let all = "select auth.uid() is not null and auth.jwt() is not null and auth.role() is not null
                      and auth.is_anonymous() and auth.session_id() is not null and auth.email() is null";
    assert!(value::<bool>(&mut transaction, all));
    verify(&mut transaction, &guest.access_token).unwrap();
    assert!(value::<bool>(&mut transaction, "select pg_current_xact_id_if_assigned() is null"));
    transaction.commit().unwrap();

    let mut read_only = app.build_transaction().read_only(true).start().unwrap();
    authenticate(&mut read_only, &guest.access_token).unwrap();
    assert_eq!(uid(&mut read_only), Some(guest.user));
    for call in ["auth.sign_out()", "auth.delete_user()", "auth.sign_in_anonymously()", "auth.refresh_session('x')"] {
        let mut inner = read_only.transaction().unwrap();
        expect_error(inner.batch_execute(&format!("select {call}")), "25006", "cannot execute");
        inner.rollback().unwrap();
    }
    read_only.rollback().unwrap();
}

#[test]
fn W3_prepared_statements_follow_the_token() {
    let db = Database::new();
    let mut admin = db.connect();
    run(
        &mut admin,
        "create table notes (user_id uuid, body text); grant select on notes to authenticated;
         alter table notes enable row level security;
         create policy own on notes to authenticated using (user_id = auth.uid())",
    );
    let guests: Vec<_> = (0..4).map(|_| sign_in(&mut admin)).collect();
    for guest in &guests {
        admin.execute("insert into notes values ($1, $1::uuid::text)", &[&guest.user]).unwrap();
    }
    let mut app = db.connect_as(APP);
    let notes = app.prepare("select body from notes").unwrap();
    // Often enough for a generic plan.
    for round in 0..40 {
        let guest = &guests[round % guests.len()];
        let mut transaction = app.transaction().unwrap();
        authenticate(&mut transaction, &guest.access_token).unwrap();
        let rows = transaction.query(&notes, &[]).unwrap();
        let bodies: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(bodies, [guest.user.to_string()]);
        if round % 2 == 0 {
            transaction.commit().unwrap()
        } else {
            transaction.rollback().unwrap()
        }
        assert_eq!(uid(&mut app), None, "the token ends with the transaction");
    }
    // Twice in one transaction.
    let mut transaction = app.transaction().unwrap();
    for guest in &guests {
        set_token(&mut transaction, &guest.access_token);
        run(&mut transaction, "set local role authenticated");
        let rows = transaction.query(&notes, &[]).unwrap();
        assert_eq!(rows[0].get::<_, String>(0), guest.user.to_string());
        run(&mut transaction, "reset role");
    }
    transaction.rollback().unwrap();
}

#[test]
fn W3_a_token_expires_while_the_backend_lives() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("access_token_lifetime", "3 seconds")]);
    let guest = sign_in(&mut admin);
    let mut app = db.connect_as(APP);
    set_token(&mut app, &guest.access_token);
    assert_eq!(uid(&mut app), Some(guest.user));
    let mut old = app.transaction().unwrap();
    assert_eq!(uid(&mut old), Some(guest.user));
    // In an open transaction too, whose now() stands still.
    wait_until("the token's end", Duration::from_secs(6), || uid(&mut old).is_none());
    old.commit().unwrap();
    let text = expect_error(verify(&mut app, &guest.access_token), "PT401", "bad_jwt");
    assert!(text.contains("refresh_session"), "{text}");
    refresh(&mut app, &guest.refresh_token).expect("the session lives on");
}

#[test]
fn W3_the_token_changes_inside_a_query() {
    let db = Database::new();
    let mut admin = db.connect();
    let (one, two) = (sign_in(&mut admin), sign_in(&mut admin));
    let mut app = db.connect_as(APP);
    let mut transaction = app.transaction().unwrap();
    let sql = "select count(*) filter (where uid = case n % 3 when 0 then $3::uuid when 1 then $4::uuid end and jwt->>'sub' = uid::text
                                             and session is not null and guest),
                      count(*) filter (where uid is null and jwt is null and session is null and guest is null)
               from (select n, set_config('anon_auth.access_token', case n % 3 when 0 then $1 when 1 then $2 else 'none' end, true),
                            auth.uid() as uid, auth.jwt() as jwt, auth.session_id() as session, auth.is_anonymous() as guest
                     from generate_series(1, 9000) n offset 0) rows";
    let row = transaction.query_one(sql, &[&one.access_token, &two.access_token, &one.user, &two.user]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (6000, 3000));

    // A cursor that is open across changes.
    set_token(&mut transaction, &one.access_token);
    run(
        &mut transaction,
        "declare rows cursor for select auth.uid(), auth.jwt()->>'sub' from generate_series(1, 10)",
    );
    for session in [&one, &two, &one] {
        set_token(&mut transaction, &session.access_token);
        let rows = transaction.query("fetch 2 from rows", &[]).unwrap();
        assert_eq!(rows[1].get::<_, String>(1), session.user.to_string());
    }
    transaction.commit().unwrap();
    set_token(&mut app, &one.access_token);
    assert_eq!(uid(&mut app), Some(one.user));
    app.batch_execute("discard all").unwrap();
    assert_eq!(uid(&mut app), None, "a pooler's reset takes the identity away");
}

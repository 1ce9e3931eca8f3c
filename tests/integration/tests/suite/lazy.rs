//! Lazy guests: what a sign-in leaves behind (nothing), on a standby too; and that a guest is stored once, and never
//! again once it has gone, whatever happens at the same time.

use anon_auth_tests::*;
use postgres::{Client, Error, GenericClient};
use std::time::Duration;

const NOTES: &str = "create table notes (user_id uuid not null default auth.ensure_user() references auth.users (id) on delete cascade,
                                         body text);
     alter table notes enable row level security; grant select, insert on notes to authenticated;
     create policy own on notes to authenticated using (user_id = auth.uid() and auth.is_anonymous())";

/// A database whose guests are lazy, with a table whose default stores them.
fn lazy_database(server: &Server) -> (Database, Client) {
    let db = Database::on(server);
    let mut admin = db.connect_with(&[("guest_storage", "lazy")]);
    run(&mut admin, NOTES);
    // The keys are made at the first sign-in.
    sign_in(&mut admin);
    (db, admin)
}

/// Users, sessions, and ids of lazy guests.
fn stored(client: &mut impl GenericClient) -> (i64, i64, i64) {
    let count = "select (select count(*) from auth.users), (select count(*) from auth.sessions),
                        (select count(*) from auth.lazy_guests)";
    let row = client.query_one(count, &[]).unwrap();
    (row.get(0), row.get(1), row.get(2))
}

/// Runs `call` as this guest, in a transaction of its own.
fn as_guest(client: &mut Client, guest: &Session, call: &str) -> Result<(), Error> {
    as_guest_in(client, guest, "read committed", call)
}

fn as_guest_in(client: &mut Client, guest: &Session, isolation: &str, call: &str) -> Result<(), Error> {
    let mut transaction = client.transaction()?;
    transaction.batch_execute(&format!("set transaction isolation level {isolation}"))?;
    authenticate(&mut transaction, &guest.access_token)?;
    transaction.batch_execute(call)?;
    transaction.commit()
}

/// Asserts that no token of a guest is good for anything.
#[track_caller]
fn assert_gone(client: &mut Client, guest: &Session) {
    let text = verify(client, &guest.access_token).map(|_| ()).expect_err("the access token is refused");
    assert_eq!(sqlstate(&text), "PT401");
    let text = refresh(client, &guest.refresh_token).map(|_| ()).expect_err("the refresh token is refused");
    assert_eq!(sqlstate(&text), "PT401");
    set_token(client, &guest.access_token);
    assert_eq!(uid(client), None);
    for call in ["auth.ensure_user()", "auth.update_user('{}')", "auth.create_transfer_code()", "auth.sign_out()"] {
        expect_error(client.batch_execute(&format!("select {call}")), "PT401", "");
    }
    run(client, "reset anon_auth.access_token");
}

#[test]
fn A7_W2_thousands_of_sign_ins_leave_no_trace() {
    let server = Server::start(&["autovacuum=off", "checkpoint_timeout=1h", "bgwriter_delay=10s"]);
    let (db, mut admin) = lazy_database(&server);
    let mut app = db.connect_as(APP);
    let sign_ins = |app: &mut Client, n: usize| {
        let statement = app.prepare("select auth.sign_in_anonymously('{\"theme\": \"dark\"}')").unwrap();
        for _ in 0..n {
            app.query(&statement, &[]).unwrap();
        }
    };
    // Catalogs are read, and their pages tidied, once.
    sign_ins(&mut app, 10);
    run(&mut admin, "vacuum");
    run(&mut admin, "checkpoint");
    let state = "select pg_snapshot_xmax(pg_current_snapshot())::text, pg_database_size(current_database()),
                        (pg_current_wal_insert_lsn() - '0/0')::bigint";
    let mut state = || {
        let row = admin.query_one(state, &[]).unwrap();
        (row.get::<_, String>(0), row.get::<_, i64>(1), row.get::<_, i64>(2))
    };
    state();
    let before = state();
    sign_ins(&mut app, 3000);
    let after = state();
    assert_eq!((&after.0, after.1), (&before.0, before.1), "transaction ids, bytes of the database");
    // What the server notes by itself: the transactions in progress, every 15 seconds.
    assert!(after.2 - before.2 < 1000, "{} bytes of WAL", after.2 - before.2);
    assert_eq!(stored(&mut admin), (0, 0, 0));

    // Stored eagerly, each costs hundreds of bytes.
    run(&mut admin, "select auth.set_setting('guest_storage', 'eager')");
    let wal = "select (pg_current_wal_insert_lsn() - '0/0')::bigint";
    let before: i64 = value(&mut admin, wal);
    sign_ins(&mut app, 100);
    assert!(value::<i64>(&mut admin, wal) - before > 100 * 300);
}

#[test]
fn W2_a_standby_signs_guests_in() {
    let primary = Server::start(&[]);
    let (db, mut admin) = lazy_database(&primary);
    let other = sign_in(&mut admin);
    let mut app = db.connect_as(APP);
    as_guest(&mut app, &other, "insert into notes (body) values ('not mine')").unwrap();
    let without_keys = Database::on(&primary);
    without_keys.connect_with(&[("guest_storage", "lazy")]);
    let standby = primary.standby();
    let mut client = standby.connect(&db.name, APP);
    let guest = sign_in(&mut client);
    let session = client
        .query_one("select auth.sign_in_anonymously('{\"n\": 1}')", &[])
        .unwrap()
        .get::<_, serde_json::Value>(0);
    assert_eq!(session["user"]["user_metadata"]["n"], 1);

    let mut early = standby.connect(&without_keys.name, APP);
    expect_error(
        try_sign_in(&mut early),
        "PT500",
        "signing_key_unavailable: there is no current key, and none can be made",
    );

    // Everything that reads works, and a policy lets the guest see its own rows, of which there are none.
    let mut transaction = client.transaction().unwrap();
    assert_eq!(authenticate(&mut transaction, &guest.access_token).unwrap(), guest.user);
    assert_eq!(uid(&mut transaction), Some(guest.user));
    assert!(value::<bool>(
        &mut transaction,
        "select auth.is_anonymous() and auth.session_id() is not null and auth.role() = 'authenticated'
                and auth.get_user()->>'id' = auth.uid()::text and auth.user_info()->>'sub' = auth.uid()::text",
    ));
    assert_eq!(value::<i64>(&mut transaction, "select count(*) from notes"), 0);
    for call in ["auth.ensure_user()", "auth.sign_out()", "auth.update_user('{}')", "auth.create_transfer_code()"] {
        let mut inner = transaction.transaction().unwrap();
        expect_error(inner.batch_execute(&format!("select {call}")), "25006", "cannot execute auth.");
        inner.rollback().unwrap();
    }
    transaction.commit().unwrap();
    expect_error(refresh(&mut client, &guest.refresh_token), "25006", "cannot execute auth.refresh_session()");

    // The primary takes such a guest for its own; the standby follows.
    as_guest(&mut app, &guest, "insert into notes (body) values ('mine')").unwrap();
    let seen = Duration::from_secs(20);
    wait_until("the note", seen, || {
        let mut transaction = client.transaction().unwrap();
        authenticate(&mut transaction, &guest.access_token).unwrap();
        value::<Option<String>>(&mut transaction, "select string_agg(body, ',') from notes").as_deref()
            == Some("mine")
    });
    let next = refresh(&mut app, &guest.refresh_token).unwrap();
    as_guest(&mut app, &next, "select auth.sign_out()").unwrap();
    wait_until("the sign-out", seen, || verify(&mut client, &guest.access_token).is_err());
    // One that signs out without ever having been stored.
    let guest = sign_in(&mut client);
    as_guest(&mut app, &guest, "select auth.sign_out()").unwrap();
    wait_until("the sign-out", seen, || verify(&mut client, &guest.access_token).is_err());

    // Stored eagerly, a sign-in says why it cannot be.
    run(&mut admin, "select auth.set_setting('guest_storage', 'eager')");
    wait_until("the setting", seen, || {
        try_sign_in(&mut client)
            .is_err_and(|error| describe(&error).starts_with("25006: cannot execute auth.sign_in_anonymously() "))
    });
}

#[test]
fn W2_a_parallel_plan_of_a_guest_that_is_not_stored() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("guest_storage", "lazy")]);
    let guest = sign_in(&mut admin);
    run(
        &mut admin,
        &format!(
            "create table rows as select n, case when n % 3 = 0 then '{}'::uuid else gen_random_uuid() end as user_id
             from generate_series(1, 20000) n;
             grant select on rows to authenticated; alter table rows enable row level security;
             create policy own on rows to authenticated
                 using (user_id = auth.uid() and auth.is_anonymous() and auth.jwt()->>'role' = 'authenticated'); analyze rows",
            guest.user
        ),
    );
    let mut app = db.connect_as(APP);
    run(
        &mut app,
        "set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0;
         set max_parallel_workers_per_gather = 4; set parallel_leader_participation = off",
    );
    let mut transaction = app.transaction().unwrap();
    authenticate(&mut transaction, &guest.access_token).unwrap();
    assert_eq!(value::<i64>(&mut transaction, "select count(*) from rows"), 20000 / 3);
    let plan = transaction.query("explain (analyze, costs off) select count(*) from rows", &[]).unwrap();
    let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    assert!(plan.iter().any(|line| line.contains("Workers Launched") && !line.contains(": 0")), "{plan:#?}");
    transaction.rollback().unwrap();
    assert_eq!(stored(&mut admin), (0, 0, 0));
}

#[test]
fn W2_stored_once_however_many_try() {
    let _crowd = crowd();
    let (db, mut admin) = lazy_database(&Server::shared());
    for round in 1..=5 {
        let guest = &sign_in(&mut admin);
        let refreshed = db.at_once(20, APP, |i, client| {
            if i % 2 == 0 {
                as_guest(client, guest, "insert into notes (body) values ('one'), ('two')").unwrap();
                None
            } else {
                Some(refresh(client, &guest.refresh_token).unwrap())
            }
        });
        assert!(refreshed.into_iter().flatten().all(|session| session.user == guest.user));
        assert_eq!(stored(&mut admin), (round, round, round));
        let notes = "select count(*) from notes where user_id = $1";
        assert_eq!(admin.query_one(notes, &[&guest.user]).unwrap().get::<_, i64>(0), 20);
        refresh(&mut admin, &guest.refresh_token).expect("within the reuse interval");
        verify(&mut admin, &guest.access_token).unwrap();
    }
    // Under REPEATABLE READ whoever comes too late is told to come again.
    let guest = &sign_in(&mut admin);
    db.at_once(10, APP, |_, client| {
        while let Err(error) =
            as_guest_in(client, guest, "repeatable read", "insert into notes (body) values ('one')")
        {
            assert_eq!(sqlstate(&error), "40001", "{}", describe(&error));
        }
    });
    assert_eq!(stored(&mut admin), (6, 6, 6));
}

/// Waits until `n` sessions of this database wait for a lock.
fn wait_for_waiters(admin: &mut Client, n: i64) {
    let waiting =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    wait_until("the others to wait", Duration::from_secs(20), || value::<i64>(admin, waiting) == n);
}

/// One transaction stores the guest, or ends it, and is not over; another does the other; then the first ends.
#[test]
fn N20_whoever_comes_second_sees_what_the_first_did() {
    let (db, mut admin) = lazy_database(&Server::shared());
    let store =
        ["insert into notes (body) values ('x')", "select auth.ensure_user()", "select auth.update_user('{}')"];
    let end = ["select auth.sign_out()", "select auth.sign_out('local')", "select auth.delete_user()"];
    let pairs = store.into_iter().flat_map(|store| end.map(|end| (store, end)));
    for (call, isolation) in pairs.flat_map(|pair| [(pair, "read committed"), (pair, "repeatable read")]) {
        for first_stores in [true, false] {
            for first_commits in [true, false] {
                let case = format!("{call:?} {isolation} {first_stores} {first_commits}");
                let guest = &sign_in(&mut admin);
                let (first, second) = if first_stores { call } else { (call.1, call.0) };
                let mut other = db.connect_as(APP);
                let mut transaction = other.transaction().unwrap();
                authenticate(&mut transaction, &guest.access_token).unwrap();
                run(&mut transaction, first);
                let mut client = db.connect_as(APP);
                let result = std::thread::scope(|scope| {
                    let waits = scope.spawn(|| as_guest_in(&mut client, guest, isolation, second));
                    wait_for_waiters(&mut admin, 1);
                    match first_commits {
                        true => transaction.commit().unwrap(),
                        false => transaction.rollback().unwrap(),
                    }
                    waits.join().unwrap()
                });
                let result = result.map_err(|error| (sqlstate(&error).to_owned(), describe(&error)));
                let is_serialization_failure = result.as_ref().is_err_and(|error| error.0 == "40001");
                match (first_commits, first_stores) {
                    // As if it had come alone.
                    (false, _) => assert_eq!(result, Ok(()), "{case}"),
                    (true, true) if isolation == "read committed" => assert_eq!(result, Ok(()), "{case}"),
                    (true, false) if isolation == "read committed" => {
                        let error = result.clone().expect_err(&case);
                        assert!(
                            error.1.contains(": session_not_found: ") || error.1.contains(": no_authorization: "),
                            "{case}: {error:?}"
                        );
                    }
                    (true, _) => assert!(is_serialization_failure, "{case}: {result:?}"),
                }
                let ended = if first_stores { result.is_ok() } else { first_commits };
                if ended {
                    assert_gone(&mut admin, guest);
                } else {
                    assert!(verify(&mut admin, &guest.access_token).is_ok(), "{case}");
                    assert!(refresh(&mut admin, &guest.refresh_token).is_ok(), "{case}");
                }
            }
        }
    }
}

/// The snapshot of a transaction is older than what happened to the guest.
#[test]
fn N20_an_old_snapshot_revives_nobody() {
    let (db, mut admin) = lazy_database(&Server::shared());
    let mut app = db.connect_as(APP);
    for stored in [false, true] {
        for end in ["select auth.sign_out()", "select auth.delete_user()"] {
            for authenticated_before in [false, true] {
                let guest = sign_in(&mut admin);
                let mut old = app.transaction().unwrap();
                run(&mut old, "set transaction isolation level repeatable read; select from pg_class");
                if authenticated_before {
                    authenticate(&mut old, &guest.access_token).unwrap();
                }
                if stored {
                    as_guest(&mut db.connect_as(APP), &guest, "select auth.ensure_user()").unwrap();
                }
                as_guest(&mut db.connect_as(APP), &guest, end).unwrap();
                if authenticated_before {
                    expect_error(old.batch_execute("insert into notes (body) values ('x')"), "PT401", "");
                } else {
                    expect_error(authenticate(&mut old, &guest.access_token), "PT401", "");
                }
                old.rollback().unwrap();
                let mut old = app.transaction().unwrap();
                run(&mut old, "set transaction isolation level repeatable read; select from pg_class");
                expect_error(refresh(&mut old, &guest.refresh_token), "PT401", "");
                old.rollback().unwrap();
                assert_gone(&mut admin, &guest);
            }
        }
    }
    // A sign-out with a snapshot from before the guest was stored ends its session, or says that it could not.
    let guest = sign_in(&mut admin);
    let mut old = app.transaction().unwrap();
    run(&mut old, "set transaction isolation level repeatable read; select from pg_class");
    authenticate(&mut old, &guest.access_token).unwrap();
    as_guest(&mut db.connect_as(APP), &guest, "select auth.ensure_user()").unwrap();
    expect_error(old.batch_execute("select auth.sign_out()"), "40001", "");
    old.rollback().unwrap();
    as_guest(&mut app, &guest, "select auth.sign_out()").unwrap();
    assert_gone(&mut admin, &guest);
}

/// Everything at once: whoever ends the guest and is told that it did has ended it for good.
#[test]
fn N20_whatever_happens_to_a_lazy_guest_at_once() {
    let _crowd = crowd();
    let (db, mut admin) = lazy_database(&Server::shared());
    run(
        &mut admin,
        "select auth.set_setting(name, value) from (values ('cleanup_age', '0'), ('cleanup_inactivity', '0'),
             ('cleanup_unreachable_only', 'false')) s(name, value)",
    );
    let account = sign_in(&mut admin);
    as_guest(&mut admin, &account, "select auth.ensure_user()").unwrap();
    admin.execute("update auth.users set is_anonymous = false where id = $1", &[&account.user]).unwrap();
    let merge = "select auth.merge_anonymous_user($1)";
    for round in 0..24 {
        let guest = &sign_in(&mut admin);
        let isolation = if round % 3 == 0 { "repeatable read" } else { "read committed" };
        let end = round % 6;
        // Shown where the test fails.
        println!("round {round}: end {end}, {isolation}");
        let outcomes = db.at_once(6, "postgres", |i, client| {
            if i < 5 {
                run(client, &format!("set session authorization {APP}"));
            }
            let mut sessions = vec![guest.clone()];
            let ended = match (i, end) {
                (0 | 1, _) => {
                    sessions.extend(refresh(client, &guest.refresh_token));
                    false
                }
                (2 | 3, _) => {
                    let call = [
                        "insert into notes (body) values ('x')",
                        "select auth.update_user('{\"data\": {\"a\": 1}}')",
                    ];
                    let _ = as_guest_in(client, guest, isolation, call[i - 2]);
                    false
                }
                (4, 0 | 1) => as_guest_in(client, guest, isolation, "select auth.sign_out()").is_ok(),
                (4, 2 | 3) => as_guest_in(client, guest, isolation, "select auth.delete_user()").is_ok(),
                (4, 4) => {
                    let mut transaction = client.transaction().unwrap();
                    authenticate(&mut transaction, &account.access_token).unwrap();
                    let token = if round % 4 == 0 { &guest.access_token } else { &guest.refresh_token };
                    transaction.execute(merge, &[token]).is_ok() && transaction.commit().is_ok()
                }
                (5, 5) => {
                    // By plain SQL, as soon as it is there to be deleted.
                    let delete = "delete from auth.users where id = $1";
                    (0..20).any(|_| client.execute(delete, &[&guest.user]).unwrap_or(0) == 1)
                }
                (5, 3) => {
                    run(client, "call auth.cleanup()");
                    false
                }
                _ => false,
            };
            (ended, sessions)
        });
        if outcomes.iter().any(|(ended, _)| *ended) {
            for session in outcomes.iter().flat_map(|(_, sessions)| sessions) {
                assert_gone(&mut admin, session);
            }
        } else {
            // It may have gone before anybody looked; then it stays so.
            let lives = verify(&mut admin, &guest.access_token).is_ok();
            assert_eq!(lives, refresh(&mut admin, &guest.refresh_token).is_ok());
        }
        if !matches!(end, 0 | 1) && outcomes.iter().any(|(ended, _)| *ended) {
            assert!(!exists(&mut admin, guest.user));
        }
        let orphans = "select (select count(*) from auth.sessions s where not exists (select from auth.users u where u.id = s.user_id))
                            + (select count(*) from auth.users u where not exists (select from auth.lazy_guests l where l.user_id = u.id))";
        assert_eq!(value::<i64>(&mut admin, orphans), 0);
    }
}

#[test]
fn W11_a_restored_dump_keeps_out_who_had_gone() {
    let (db, mut admin) = lazy_database(&Server::shared());
    let mut app = db.connect_as(APP);
    let [signed_out, deleted, unstored, stored] = std::array::from_fn(|_| sign_in(&mut admin));
    as_guest(&mut app, &signed_out, "select auth.sign_out()").unwrap();
    as_guest(&mut app, &deleted, "select auth.ensure_user()").unwrap();
    admin.execute("delete from auth.users where id = $1", &[&deleted.user]).unwrap();
    as_guest(&mut app, &stored, "insert into notes (body) values ('mine')").unwrap();
    let dump = new_folder();
    db.server.program("pg_dump", &["-f", &dump.to_string_lossy(), &db.name]);
    let later = sign_in(&mut admin);
    as_guest(&mut app, &later, "select auth.delete_user()").unwrap();

    let restored = Database::empty(&db.server);
    restored
        .server
        .program("psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &restored.name, "-f", &dump.to_string_lossy()]);
    std::fs::remove_file(dump).unwrap();
    let mut admin = restored.connect();
    for guest in [&signed_out, &deleted] {
        assert_gone(&mut admin, guest);
    }
    for guest in [&unstored, &stored] {
        verify(&mut admin, &guest.access_token).unwrap();
        assert_eq!(refresh(&mut admin, &guest.refresh_token).unwrap().user, guest.user);
    }
    // A dump does not know what came after it: as documented, such a guest comes back.
    assert_eq!(refresh(&mut admin, &later.refresh_token).unwrap().user, later.user);
}

/// A server that dies while a guest is being stored has either stored it or not.
#[test]
fn W2_a_crash_while_a_guest_is_stored() {
    let server = Server::start(&[]);
    let (db, mut admin) = lazy_database(&server);
    let (kept, lost) = (sign_in(&mut admin), sign_in(&mut admin));
    let mut app = db.connect_as(APP);
    as_guest(&mut app, &kept, "insert into notes (body) values ('x')").unwrap();
    let mut transaction = app.transaction().unwrap();
    authenticate(&mut transaction, &lost.access_token).unwrap();
    run(&mut transaction, "insert into notes (body) values ('x')");
    server.kill();
    server.recover();
    let mut admin = db.connect();
    assert_eq!(stored(&mut admin), (1, 1, 1));
    for guest in [kept, lost] {
        assert_eq!(refresh(&mut admin, &guest.refresh_token).unwrap().user, guest.user);
    }
    assert_eq!(stored(&mut admin), (2, 2, 2));
}

//! Everything that can happen to one guest, at once: only documented errors, no deadlock, nothing half done.

use anon_auth_tests::*;
use postgres::{Client, Error};
use std::time::{Duration, Instant};

/// How long each race runs.
const LENGTH: Duration = Duration::from_secs(3);

/// What a call may meet whose guest is signed out, banned or deleted meanwhile.
fn assert_documented<T>(result: Result<T, Error>) {
    if let Err(error) = result {
        let text = describe(&error);
        let documented = [
            "session_not_found",
            "session_expired",
            "refresh_token_already_used",
            "refresh_token_not_found",
            "user_banned",
            "user_not_found",
            "not_anonymous",
            "no_authorization",
        ];
        assert!(documented.iter().any(|code| text.contains(&format!(": {code}: "))), "{text}");
    }
}

/// Runs `call` as this guest, in a transaction of its own.
fn as_guest(client: &mut Client, guest: &Session, call: &str) -> Result<(), Error> {
    let mut transaction = client.transaction()?;
    authenticate(&mut transaction, &guest.access_token)?;
    transaction.batch_execute(call)?;
    transaction.commit()
}

#[test]
fn N12_whatever_happens_to_a_guest_at_once() {
    let db = Database::new();
    let mut admin =
        db.connect_with(&[("cleanup_age", "0"), ("cleanup_inactivity", "0"), ("cleanup_unreachable_only", "false")]);
    run(
        &mut admin,
        "create table notes (user_id uuid not null references auth.users (id) on delete cascade);
                     grant insert on notes to authenticated",
    );
    let mut rounds = 0;
    let start = Instant::now();
    while start.elapsed() < LENGTH {
        let guest = &sign_in(&mut admin);
        let notes = format!("insert into notes values ('{}')", guest.user);
        db.at_once(7, "postgres", |i, client| {
            run(client, &format!("set session authorization {}", if i < 5 { APP } else { "postgres" }));
            match i {
                0 => {
                    let mut session = guest.clone();
                    for _ in 0..5 {
                        match refresh(client, &session.refresh_token) {
                            Ok(next) => session = next,
                            error => assert_documented(error),
                        }
                    }
                }
                1 => assert_documented(as_guest(client, guest, "select auth.sign_out()")),
                2 => assert_documented(as_guest(client, guest, "select auth.delete_user()")),
                3 => assert_documented(refresh(client, &guest.refresh_token)),
                4 => {
                    let result = as_guest(client, guest, &notes);
                    if result.as_ref().is_err_and(|error| sqlstate(error) != "23503") {
                        assert_documented(result);
                    }
                }
                5 => run(client, "call auth.cleanup()"),
                _ => run(
                    client,
                    "update auth.users set is_anonymous = false, email = id::text, email_confirmed_at = now()",
                ),
            }
        });
        let orphans = "select (select count(*) from auth.sessions s where not exists (select from auth.users u where u.id = s.user_id))
                            + (select count(*) from notes n where not exists (select from auth.users u where u.id = n.user_id))";
        assert_eq!(value::<i64>(&mut admin, orphans), 0);
        let sessions = admin.query("select from auth.sessions where user_id = $1", &[&guest.user]).unwrap().len();
        assert_eq!(verify(&mut admin, &guest.access_token).is_ok(), sessions == 1 && exists(&mut admin, guest.user));
        run(&mut admin, "delete from auth.users");
        refresh(&mut admin, &guest.refresh_token).expect_err("deleted for good");
        rounds += 1;
    }
    assert!(rounds > 1);
    assert_eq!(
        value::<i64>(&mut admin, "select deadlocks from pg_stat_database where datname = current_database()"),
        0
    );
}

#[test]
fn R2_reuse_at_once_returns_one_guest() {
    let _crowd = crowd();
    let db = Database::new();
    let mut admin = db.connect_with(&[("sign_in_mode", "reuse"), ("refresh_token_reuse_interval", "60 seconds")]);
    let guest = sign_in(&mut admin);
    let again = db.at_once(16, APP, |_, client| {
        let row = client.query_one("select auth.sign_in_anonymously(refresh_token => $1)", &[&guest.refresh_token]);
        let session: Session =
            row.unwrap_or_else(|e| panic!("{}", describe(&e))).get::<_, serde_json::Value>(0).into();
        session.user
    });
    assert!(again.iter().all(|user| *user == guest.user));
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.users"), 1);
}

#[test]
fn S7_a_sign_out_beats_every_refresh() {
    let db = Database::new();
    let mut admin = db.connect();
    for _ in 0..20 {
        let guest = &sign_in(&mut admin);
        let latest = db.at_once(2, APP, |i, client| {
            let mut session = guest.clone();
            if i == 0 {
                as_guest(client, guest, "select auth.sign_out()").unwrap();
            } else {
                while let Ok(next) = refresh(client, &session.refresh_token) {
                    session = next;
                }
            }
            session
        });
        for session in latest {
            expect_error(refresh(&mut admin, &session.refresh_token), "PT401", "session_not_found");
            expect_error(verify(&mut admin, &session.access_token), "PT401", "session_not_found");
        }
    }
}

#[test]
fn W11_create_extension_in_two_databases_at_once() {
    let server = Server::start(&[]);
    let databases = [Database::empty(&server), Database::empty(&server)];
    let barrier = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for database in &databases {
            let client = database.connect();
            scope.spawn(|| {
                let mut client = client;
                let mut transaction = client.transaction().expect("a transaction");
                barrier.wait();
                run(&mut transaction, "create extension anon_auth");
                // The other one waits for this one's role, if it came first.
                sleep(300);
                transaction.commit().expect("it commits");
            });
        }
    });
    for database in &databases {
        let owner: String = value(
            &mut database.connect(),
            "select r.rolname::text from pg_namespace n join pg_roles r on r.oid = n.nspowner where nspname = 'auth'",
        );
        assert_eq!(owner, "anon_auth_owner");
    }
}

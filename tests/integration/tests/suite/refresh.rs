//! Refresh under concurrency, rollback, old snapshots and old clocks.

use anon_auth_tests::*;
use postgres::{Client, IsolationLevel};
use uuid::Uuid;

const REUSE_INTERVAL: &str = "refresh_token_reuse_interval";

fn counter(client: &mut Client, user: Uuid) -> i64 {
    client.query_one("select refresh_token_counter from auth.sessions where user_id = $1", &[&user]).unwrap().get(0)
}

fn revocations(client: &mut Client) -> i64 {
    value(client, "select count(*) from auth.session_revocations")
}

#[test]
fn S6_thirty_two_refreshes_at_once_rotate_once() {
    let _crowd = crowd();
    let db = Database::new();
    let mut admin = db.connect_with(&[(REUSE_INTERVAL, "60 seconds")]);
    let first = sign_in(&mut admin);

    let refreshed = db.at_once(32, APP, |_, client| refresh(client, &first.refresh_token));
    let sessions: Vec<_> = refreshed.into_iter().map(|result| result.expect("inside the interval")).collect();
    assert!(sessions.iter().all(|session| session.refresh_token == sessions[0].refresh_token));
    assert_ne!(sessions[0].refresh_token, first.refresh_token);
    assert!(sessions.iter().all(|session| verify(&mut admin, &session.access_token).is_ok()));
    assert_eq!(counter(&mut admin, first.user), 1, "exactly one rotation");
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.sessions"), 1);

    run(&mut admin, "select auth.set_setting('refresh_token_reuse_interval', '100 milliseconds')");
    sleep(200);
    for result in db.at_once(32, APP, |_, client| refresh(client, &first.refresh_token)) {
        expect_error(result, "PT401", "refresh_token_already_used");
    }
    assert_eq!(revocations(&mut admin), 1);
    assert_eq!(counter(&mut admin, first.user), 1, "nothing was issued");
    let entries = "select count(*) from auth.audit_log_entries where action = 'session_revoked'";
    assert_eq!(value::<i64>(&mut admin, entries), 1);
    let current = &sessions[0];
    expect_error(refresh(&mut admin, &current.refresh_token), "PT401", "refresh_token_already_used");
    expect_error(verify(&mut admin, &current.access_token), "PT401", "session_not_found");
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(value::<i64>(&mut admin, deadlocks), 0);
}

#[test]
fn S6_different_sessions_refresh_side_by_side() {
    let _crowd = crowd();
    let db = Database::new();
    let mut admin = db.connect();
    let sessions: Vec<_> = (0..8).map(|_| sign_in(&mut admin)).collect();
    let rounds = 25;
    let last = db.at_once(8, APP, |i, client| {
        (0..rounds).fold(sessions[i].clone(), |session, _| {
            refresh(client, &session.refresh_token).expect("nobody else has this token")
        })
    });
    for session in &last {
        assert_eq!(counter(&mut admin, session.user), rounds);
        refresh(&mut admin, &session.refresh_token).expect("the last token is good");
    }
}

#[test]
fn S6_a_revocation_survives_rollback_and_error() {
    let db = Database::new();
    let mut admin = db.connect_with(&[(REUSE_INTERVAL, "0")]);
    let mut client = db.connect_as(APP);

    // The call raises, and its own transaction ends with it.
    let old = sign_in(&mut client);
    let new = refresh(&mut client, &old.refresh_token).unwrap();
    sleep(10);
    expect_error(refresh(&mut client, &old.refresh_token), "PT401", "refresh_token_already_used");
    expect_error(refresh(&mut client, &new.refresh_token), "PT401", "refresh_token_already_used");

    // The caller rolls back to a savepoint, carries on, and rolls back as a whole.
    let old = sign_in(&mut client);
    let new = refresh(&mut client, &old.refresh_token).unwrap();
    sleep(10);
    let mut outer = client.transaction().unwrap();
    let mut inner = outer.transaction().unwrap();
    expect_error(refresh(&mut inner, &old.refresh_token), "PT401", "refresh_token_already_used");
    inner.rollback().unwrap();
    expect_error(verify(&mut outer.transaction().unwrap(), &new.access_token), "PT401", "session_not_found");
    outer.rollback().unwrap();
    expect_error(refresh(&mut admin, &new.refresh_token), "PT401", "refresh_token_already_used");

    // A transaction that holds the session's row itself must not wait for itself.
    let old = sign_in(&mut client);
    let new = refresh(&mut client, &old.refresh_token).unwrap();
    let mut transaction = client.transaction().unwrap();
    let newer = refresh(&mut transaction, &new.refresh_token).unwrap();
    sleep(10);
    expect_error(refresh(&mut transaction, &old.refresh_token), "PT401", "refresh_token_already_used");
    transaction.rollback().unwrap();
    for session in [&old, &new, &newer] {
        refresh(&mut admin, &session.refresh_token).expect_err("the whole session is over");
    }
    assert_eq!(revocations(&mut admin), 3);
}

#[test]
fn N19_tokens_of_a_rolled_back_transaction_never_become_valid() {
    let db = Database::new();
    let mut admin = db.connect_with(&[(REUSE_INTERVAL, "1 hour")]);
    let mut client = db.connect_as(APP);
    let mut real = sign_in(&mut client);

    let mut minted = Vec::new();
    let mut transaction = client.transaction().unwrap();
    for _ in 0..1000 {
        let token = minted.last().map_or(&real, |session: &Session| session).refresh_token.clone();
        minted.push(refresh(&mut transaction, &token).unwrap());
    }
    transaction.rollback().unwrap();
    assert_eq!(counter(&mut admin, real.user), 0);
    for session in &minted {
        expect_error(refresh(&mut client, &session.refresh_token), "PT401", "refresh_token_not_found");
        expect_error(verify(&mut client, &session.access_token), "PT401", "session_not_found");
    }

    // Real rotations reach the numbers of the tokens, but not their random part.
    for session in &minted[..5] {
        real = refresh(&mut client, &real.refresh_token).expect("the real token is not touched by the attempts");
        expect_error(refresh(&mut client, &session.refresh_token), "PT401", "refresh_token_not_found");
    }
    verify(&mut client, &real.access_token).unwrap();
    for session in &minted {
        expect_error(verify(&mut client, &session.access_token), "PT401", "session_not_found");
    }
    for session in &minted[5..] {
        expect_error(refresh(&mut client, &session.refresh_token), "PT401", "refresh_token_not_found");
    }
    refresh(&mut client, &minted[0].refresh_token).expect_err("inside the reuse interval, though never replaced");

    // Outside the interval as well.
    let mut real = sign_in(&mut client);
    let mut transaction = client.transaction().unwrap();
    let minted = refresh(&mut transaction, &real.refresh_token).unwrap();
    transaction.rollback().unwrap();
    for _ in 0..2 {
        real = refresh(&mut client, &real.refresh_token).unwrap();
    }
    run(&mut admin, "select auth.set_setting('refresh_token_reuse_interval', '0')");
    sleep(10);
    expect_error(refresh(&mut client, &minted.refresh_token), "PT401", "refresh_token_already_used");
}

#[test]
fn N19_without_a_worker_nothing_is_issued() {
    let server = Server::start(&["max_worker_processes=0"]);
    let db = Database::empty(&server);
    let mut client = db.connect();
    run(&mut client, "create extension anon_auth");
    let text = expect_error(try_sign_in(&mut client), "PT503", "worker_unavailable");
    assert!(text.contains("max_worker_processes"), "{text}");
    assert_eq!(value::<i64>(&mut client, "select count(*) from auth.users"), 0);

    // With CREATE EXTENSION in the same transaction, no worker is needed for the first key.
    run(&mut client, "drop extension anon_auth; begin; create extension anon_auth");
    let old = sign_in(&mut client);
    run(&mut client, "select auth.set_setting('refresh_token_reuse_interval', '0'); commit");
    let new = refresh(&mut client, &old.refresh_token).unwrap();
    sleep(10);
    expect_error(refresh(&mut client, &old.refresh_token), "PT503", "worker_unavailable");
    assert_eq!(counter(&mut client, old.user), 1, "nothing was issued");
    assert_eq!(revocations(&mut client), 0);
    refresh(&mut client, &new.refresh_token).expect("the session was not revoked");
}

#[test]
fn N23_an_old_snapshot_gives_no_new_session() {
    let db = Database::new();
    let mut admin = db.connect();
    let mut client = db.connect_as(APP);
    let cases = [
        ("update auth.users set banned_until = 'infinity' where id = $1", "PT403", "user_banned"),
        ("delete from auth.sessions where user_id = $1", "PT401", "session_not_found"),
        ("delete from auth.users where id = $1", "PT401", "session_not_found"),
    ];
    for (sql, state, code) in cases {
        let session = sign_in(&mut admin);
        let mut old = repeatable_read(&mut client);
        admin.execute(sql, &[&session.user]).unwrap();
        expect_error(refresh(&mut old, &session.refresh_token), state, code);
    }
}

#[test]
fn N23_an_old_snapshot_does_not_rotate_twice() {
    let db = Database::new();
    let mut admin = db.connect_with(&[(REUSE_INTERVAL, "0")]);
    let mut client = db.connect_as(APP);
    let first = sign_in(&mut admin);

    // Rotated by somebody else after the snapshot: the row cannot be changed from here.
    let mut old = repeatable_read(&mut client);
    let second = refresh(&mut admin, &first.refresh_token).unwrap();
    expect_error(refresh(&mut old, &second.refresh_token), "40001", "could not serialize access");
    old.rollback().unwrap();
    assert_eq!(counter(&mut admin, first.user), 1);

    // The replaced token is an old one, whatever the snapshot shows.
    let mut old = repeatable_read(&mut client);
    let third = refresh(&mut admin, &second.refresh_token).unwrap();
    sleep(10);
    expect_error(refresh(&mut old, &second.refresh_token), "PT401", "refresh_token_already_used");
    old.rollback().unwrap();
    expect_error(refresh(&mut admin, &third.refresh_token), "PT401", "refresh_token_already_used");
}

fn repeatable_read(client: &mut Client) -> postgres::Transaction<'_> {
    let mut transaction = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().unwrap();
    value::<i64>(&mut transaction, "select count(*) from pg_class");
    transaction
}

#[test]
fn N23_an_old_transaction_keeps_no_session_alive() {
    for limit in ["session_idle_timeout", "session_lifetime"] {
        let db = Database::new();
        db.connect_with(&[(limit, "1 second")]);
        let mut client = db.connect_as(APP);
        let session = sign_in(&mut client);
        let mut transaction = client.transaction().unwrap();
        value::<bool>(&mut transaction, "select now() is not null");
        sleep(1100);
        let mut inner = transaction.transaction().unwrap();
        expect_error(verify(&mut inner, &session.access_token), "PT401", "session_expired");
        inner.rollback().unwrap();
        expect_error(refresh(&mut transaction, &session.refresh_token), "PT401", "session_expired");
    }
}

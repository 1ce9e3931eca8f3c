//! Rate limits, over many connections: exactly as many get in, whatever becomes of transactions, processes and databases.

use anon_auth_tests::*;
use postgres::Client;
use std::process::Command;
use std::time::Duration;

/// A database with the limits that there are by default.
fn limited(server: &Server) -> Database {
    let db = Database::on(server);
    run(&mut db.connect(), "delete from auth.settings");
    db
}

/// How many of so many clients at once get in; the others are refused for their number.
fn let_in(db: &Database, clients: usize) -> usize {
    let results = db.at_once(clients, APP, |_, client| try_sign_in(client).map_err(|error| code_of(&error)));
    assert!(results.iter().all(|result| result.as_ref().err().is_none_or(|code| code == "over_request_rate_limit")));
    results.iter().filter(|result| result.is_ok()).count()
}

fn guests(db: &Database) -> i64 {
    value(&mut db.connect(), "select count(*) from auth.users")
}

#[test]
fn S16_of_64_at_once_30_get_in() {
    let _crowd = crowd();
    let db = limited(&Server::shared());
    assert_eq!((let_in(&db, 64), let_in(&db, 8), guests(&db)), (30, 0, 30));
    // Another database has other clients. What counted for one that is gone counts for none.
    let other = limited(&db.server);
    assert_eq!(let_in(&other, 40), 30);
    drop(other);
    assert_eq!(let_in(&limited(&db.server), 40), 30);
    // As empty as it was; with this limit, the next call flows in after half an hour.
    run(&mut db.connect(), "select auth.set_setting('sign_in_rate_limit', '2')");
    assert_eq!(let_in(&db, 8), 0);
}

#[test]
fn S16_limits_survive_crashes_and_restarts() {
    for settings in [&["shared_preload_libraries=anon_auth"][..], &["shared_preload_libraries="]] {
        let server = Server::start(settings);
        let db = limited(&server);
        assert_eq!(let_in(&db, 40), 30, "{settings:?}");

        // Postgres makes all shared memory anew when a process of its own is killed.
        let mut victim = db.connect_as(APP);
        let process: i32 = value(&mut victim, "select pg_backend_pid()");
        assert!(Command::new("kill").args(["-9", &process.to_string()]).status().unwrap().success());
        wait_until("the server restarts its processes", Duration::from_secs(60), || {
            victim.batch_execute("select 1").is_err()
                && server.try_connect(&db.name, APP).is_ok_and(|mut client| client.batch_execute("select 1").is_ok())
        });
        assert_eq!(let_in(&db, 40), 30, "{settings:?}");

        server.kill();
        server.recover();
        assert_eq!((let_in(&db, 40), guests(&db)), (30, 90), "{settings:?}");
    }
}

#[test]
fn S16_a_session_that_ends_takes_nothing_along() {
    let _crowd = crowd();
    let db = limited(&Server::shared());
    // The first one makes the memory that all share, and is gone; so are some that were terminated meanwhile.
    assert!(try_sign_in(&mut db.connect_as(APP)).is_ok());
    let mut admin = db.connect();
    for _ in 0..5 {
        let mut client = db.connect_as(APP);
        assert!(try_sign_in(&mut client).is_ok());
        let process: i32 = value(&mut client, "select pg_backend_pid()");
        admin.execute(&format!("select pg_terminate_backend({process})"), &[]).unwrap();
    }
    assert_eq!(let_in(&db, 40), 24);
}

#[test]
fn S16_who_idles_in_a_transaction_stalls_nobody() {
    let db = limited(&Server::shared());
    let mut idle = db.connect_as(APP);
    let mut client = db.connect_as(APP);
    sign_in(&mut client);
    let mut open = idle.transaction().unwrap();
    sign_in(&mut open);
    run(&mut client, "set lock_timeout = '1ms'");
    for _ in 0..28 {
        sign_in(&mut client);
    }
    // Refused while the other one is still open, and not let in because it is rolled back.
    assert_eq!(code_of(&try_sign_in(&mut client).unwrap_err()), "over_request_rate_limit");
    open.rollback().unwrap();
    assert_eq!(code_of(&try_sign_in(&mut idle).unwrap_err()), "over_request_rate_limit");
}

#[test]
fn S16_a_rollback_gives_no_call_back() {
    let db = limited(&Server::shared());
    let mut client = db.connect_as(APP);
    let mut admitted = 0;
    for _ in 0..40 {
        let mut transaction = client.transaction().unwrap();
        admitted += usize::from(try_sign_in(&mut transaction).is_ok());
        transaction.rollback().unwrap();
    }
    assert_eq!((admitted, guests(&db)), (30, 0));
}

#[test]
fn S16_a_refused_call_assigns_no_transaction_id() {
    let db = limited(&Server::shared());
    let mut client = db.connect_as(APP);
    (0..30).for_each(|_| drop(sign_in(&mut client)));
    let mut transaction = client.transaction().unwrap();
    let mut savepoint = transaction.savepoint("s").unwrap();
    let text =
        expect_error(try_sign_in(&mut savepoint), "PT429", "over_request_rate_limit: too many anonymous sign-ins");
    assert!(text.contains("client local") && text.contains("Try again in 2 minutes"), "{text}");
    assert!(
        text.contains("anon_auth.forwarded_header") && text.contains("set_setting('sign_in_rate_limit'"),
        "{text}"
    );
    savepoint.rollback().unwrap();
    let id: Option<String> = value(&mut transaction, "select pg_current_xact_id_if_assigned()::text");
    assert_eq!(id, None);
}

#[test]
fn S16_a_new_limit_counts_at_once_in_open_sessions() {
    let db = limited(&Server::shared());
    let mut admin = db.connect();
    let mut client = db.connect_as(APP);
    let may = |client: &mut Client| try_sign_in(client).map(|_| ()).map_err(|error| code_of(&error));
    assert_eq!(may(&mut client), Ok(()));
    run(&mut admin, "select auth.set_setting('sign_in_rate_limit', '1')");
    assert_eq!(may(&mut client), Err("over_request_rate_limit".into()));
    run(&mut admin, "select auth.set_setting('sign_in_rate_limit', '0')");
    (0..40).for_each(|_| assert_eq!(may(&mut client), Ok(())));
    run(&mut admin, "select auth.set_setting('sign_in_rate_limit', null)");
    // One of 30 was taken; those without a limit were not counted.
    assert_eq!((0..64).filter(|_| may(&mut client).is_ok()).count(), 29);
}

#[test]
fn S16_postgrest_is_told_when_to_retry() {
    let db = limited(&Server::shared());
    let mut client = db.connect_as(APP);
    run(&mut client, r#"set request.headers = '{"x-forwarded-for": "192.0.2.1"}'"#);
    let guest = (0..30).map(|_| sign_in(&mut client)).last().unwrap();
    set_token(&mut client, &guest.access_token);
    let claim = r#"select auth.update_user('{"email": "ada@example.org"}')"#;
    run(&mut client, claim);
    let guess = "select auth.redeem_transfer_code('AAAAA00000')";
    (0..5).for_each(|_| assert_eq!(code_of(&client.batch_execute(guess).unwrap_err()), "otp_expired"));

    // To an application, which may set the header itself, as ever.
    expect_error(client.batch_execute(guess), "PT429", "over_request_rate_limit: ");
    run(&mut client, "set request.method = 'POST'");
    let (sign_in, resend) = ("select auth.sign_in_anonymously()", "select auth.resend('email_change')");
    for (sql, code, seconds) in [
        (sign_in, "over_request_rate_limit: ", 1..=120),
        (guess, "over_request_rate_limit: ", 1..=3600),
        (claim, "over_email_send_rate_limit: ", 1..=60),
        (resend, "over_email_send_rate_limit: ", 1..=60),
    ] {
        let error = client.batch_execute(sql).unwrap_err();
        let error = error.as_db_error().unwrap();
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let (body, answer) = (read(error.message()), read(error.detail().unwrap()));
        assert_eq!((error.code().code(), error.hint()), ("PGRST", None), "{sql}");
        assert_eq!((&body["code"], &body["details"]), (&"PT429".into(), &serde_json::Value::Null), "{sql}");
        assert!(body["message"].as_str().unwrap().starts_with(code), "{sql}: {body}");
        assert!(body["hint"].as_str().unwrap().starts_with("Try again in "), "{sql}: {body}");
        assert_eq!(answer["status"], 429, "{sql}");
        let retry_after: u32 = answer["headers"]["Retry-After"].as_str().unwrap().parse().unwrap();
        assert!(seconds.contains(&retry_after), "{sql}: {retry_after}");
    }
    // Other errors are as they were.
    expect_error(client.batch_execute("select auth.verify_otp('x', 'x')"), "PT400", "validation_failed: ");
}

#[test]
fn N15_what_a_client_writes_into_the_header_moves_nothing() {
    let db = limited(&Server::shared());
    let mut admin = db.connect();
    let come_from = |client: &mut Client, header: &str| {
        let headers = serde_json::json!({"x-forwarded-for": header}).to_string();
        client.execute("select set_config('request.headers', $1, false)", &[&headers]).unwrap();
        try_sign_in(client).is_ok()
    };
    // Nobody said that it is to be believed.
    let mut client = db.connect_as(APP);
    assert_eq!((0..64).filter(|n| come_from(&mut client, &format!("192.0.2.{n}"))).count(), 30);

    let believe =
        format!("alter role {APP} in database {} set anon_auth.forwarded_header = 'X-Forwarded-For'", db.name);
    run(&mut admin, &believe);
    let mut client = db.connect_as(APP);
    assert_eq!((0..64).filter(|n| come_from(&mut client, &format!("192.0.2.{n}, 203.0.113.7"))).count(), 30);
    // The proxy's own entry is malformed or missing: the connection, which has no call left.
    for header in ["", "203.0.113.8,", "203.0.113.256", "x", "[::1"] {
        assert!(!come_from(&mut client, header), "{header}");
    }
    assert!(come_from(&mut client, "203.0.113.8"));
}

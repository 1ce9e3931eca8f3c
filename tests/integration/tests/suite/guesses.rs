//! Guesses at codes and passwords: each counts before it is judged, whatever becomes of the caller's transaction.

use anon_auth_tests::*;
use postgres::error::SqlState;
use postgres::{Client, GenericClient, IsolationLevel};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Guesses of the larger attacks, times `scale()`.
const GUESSES: usize = 2_500;

/// A guest who has claimed an address, and the code that was sent there.
struct Claim {
    guest: Session,
    code: String,
}

impl Claim {
    fn new(admin: &mut Client, client: &mut Client, address: &str) -> Self {
        let guest = sign_in(client);
        let mut transaction = client.transaction().unwrap();
        authenticate(&mut transaction, &guest.access_token).unwrap();
        let attributes = serde_json::json!({"email": address});
        transaction
            .execute("select auth.update_user($1)", &[&attributes])
            .unwrap_or_else(|e| panic!("{}", describe(&e)));
        transaction.commit().unwrap();
        let messages: Value = value(admin, "select auth.claim_messages(1000)");
        let sent = messages.as_array().unwrap().iter().find(|message| message["to"] == address);
        let code = sent.expect("a code was sent")["email_data"]["token"].as_str().unwrap().to_owned();
        Self { guest, code }
    }

    /// A code that is not the one.
    fn wrong(&self, n: usize) -> String {
        let right: usize = self.code.parse().unwrap();
        format!("{:06}", (right + 1 + n % 999_999) % 1_000_000)
    }
}

/// What a guess came to: its error code, or `in`.
fn guess(client: &mut impl GenericClient, code: &str) -> String {
    outcome(client.execute("select auth.verify_otp('email_change', $1)", &[&code]))
}

fn outcome<T>(result: Result<T, postgres::Error>) -> String {
    match result {
        Ok(_) => "in".into(),
        Err(error) if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) => "40001".into(),
        Err(error) => code_of(&error),
    }
}

fn tally(outcomes: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for outcome in outcomes {
        *tally.entry(outcome).or_default() += 1;
    }
    tally
}

/// `counted` guesses were judged wrong, and all others refused.
#[track_caller]
fn assert_limited(outcomes: impl IntoIterator<Item = String>, counted: usize) {
    let tally = tally(outcomes);
    let number = |outcome: &str| tally.get(outcome).copied().unwrap_or(0);
    assert_eq!(number("otp_expired"), counted, "{tally:?}");
    assert!(number("over_request_rate_limit") > 0, "{tally:?}");
    assert_eq!(tally.values().sum::<usize>(), counted + number("over_request_rate_limit"), "{tally:?}");
}

fn attempts(admin: &mut Client) -> i64 {
    value(admin, "select coalesce(sum(count), 0)::bigint from auth.guesses")
}

#[test]
fn N17_guesses_that_are_rolled_back_are_counted() {
    let db = Database::new();
    let mut admin = db.connect();
    let mut client = db.connect_as(APP);
    let levels = [IsolationLevel::ReadCommitted, IsolationLevel::RepeatableRead, IsolationLevel::Serializable];
    for (i, level) in levels.into_iter().enumerate() {
        let claim = Claim::new(&mut admin, &mut client, &format!("rolled-back-{i}@example.org"));
        let outcomes = (0..GUESSES * scale()).map(|n| {
            let mut transaction = client.build_transaction().isolation_level(level).start().unwrap();
            authenticate(&mut transaction, &claim.guest.access_token).unwrap();
            let outcome = guess(&mut transaction, &claim.wrong(n));
            transaction.rollback().unwrap();
            outcome
        });
        assert_limited(outcomes, 5);
        // Not even the right one, now.
        let mut transaction = client.build_transaction().isolation_level(level).start().unwrap();
        authenticate(&mut transaction, &claim.guest.access_token).unwrap();
        assert_eq!(guess(&mut transaction, &claim.code), "over_request_rate_limit");
    }
    let refusals = "select count(*) from auth.audit_log_entries where action = 'attempt_limit_reached'
                    and payload = '{\"kind\": \"code\", \"client\": \"local\"}' and user_id is not null";
    assert_eq!(value::<i64>(&mut admin, refusals), 3, "one for each, though everything was rolled back");
}

#[test]
fn N17_guesses_in_one_old_snapshot_are_counted() {
    let db = Database::new();
    let mut admin = db.connect();
    let mut client = db.connect_as(APP);
    for level in [IsolationLevel::ReadCommitted, IsolationLevel::RepeatableRead] {
        let claim = Claim::new(&mut admin, &mut client, &format!("{level:?}@example.org").to_lowercase());
        // A savepoint for each guess, and a snapshot from before the first.
        let mut transaction = client.build_transaction().isolation_level(level).start().unwrap();
        authenticate(&mut transaction, &claim.guest.access_token).unwrap();
        let outcomes: Vec<_> = (0..200)
            .map(|n| {
                let mut inner = transaction.transaction().unwrap();
                let outcome = guess(&mut inner, &claim.wrong(n));
                inner.rollback().unwrap();
                outcome
            })
            .collect();
        transaction.rollback().unwrap();
        assert_limited(outcomes, 5);
    }
}

#[test]
fn N17_five_hundred_guesses_at_once_do_not_get_in() {
    let _crowd = crowd();
    let db = Database::new();
    let mut admin = db.connect();
    let claim = Claim::new(&mut admin, &mut db.connect_as(APP), "at-once@example.org");
    let outcomes = db.at_once(50, APP, |i, client| {
        set_token(client, &claim.guest.access_token);
        (0..10).map(|n| guess(client, &claim.wrong(10 * i + n))).collect::<Vec<_>>()
    });
    assert_limited(outcomes.into_iter().flatten(), 5);
}

#[test]
fn N17_whoever_guesses_from_many_addresses_guesses_no_more() {
    let db = Database::new();
    let mut admin = db.connect();
    run(
        &mut admin,
        &format!("alter role {APP} in database {} set anon_auth.forwarded_header = 'X-Real-IP'", db.name),
    );
    let mut client = db.connect_as(APP);
    let claim = Claim::new(&mut admin, &mut client, "botnet@example.org");
    set_token(&mut client, &claim.guest.access_token);
    let mut outcomes = Vec::new();
    for n in 0..400 {
        let headers = format!("{{\"x-real-ip\": \"2001:db8:0:{:x}::{n}\"}}", n / 8);
        client.execute("select set_config('request.headers', $1, false)", &[&headers]).unwrap();
        outcomes.push(guess(&mut client, &claim.wrong(n)));
    }
    // It is the user's own code, which nobody else can try.
    assert_limited(outcomes, 5);

    // A transfer code, which anybody can: five from each of the first ten networks.
    let mut outcomes = Vec::new();
    for n in 0..400 {
        let headers = format!("{{\"x-real-ip\": \"2001:db8:1:{:x}::{n}\"}}", n / 8);
        client.execute("select set_config('request.headers', $1, false)", &[&headers]).unwrap();
        outcomes.push(outcome(client.execute("select auth.redeem_transfer_code($1)", &[&format!("AAAAA{n:05}")])));
    }
    let judged: Vec<_> = outcomes.iter().enumerate().filter(|(_, o)| *o == "otp_expired").map(|(n, _)| n).collect();
    assert_eq!(judged, (0..10).flat_map(|network| (0..5).map(move |n| 8 * network + n)).collect::<Vec<_>>());
    assert_limited(outcomes, 50);
}

#[test]
fn N15_only_a_header_that_is_trusted_counts() {
    let db = Database::new();
    let mut admin = db.connect();
    let mut client = db.connect_as(APP);
    // Guesses at transfer codes, which anybody can make; of each, the first half says what is guessed at.
    let with_header = |client: &mut Client, header: &str, first: &str, n: usize| {
        let headers = serde_json::json!({"x-forwarded-for": header}).to_string();
        client.execute("select set_config('request.headers', $1, false)", &[&headers]).unwrap();
        outcome(client.execute("select auth.redeem_transfer_code($1)", &[&format!("{first}{n:05}")]))
    };

    // By default, none.
    let outcomes: Vec<_> = (0..20).map(|n| with_header(&mut client, &format!("192.0.2.{n}"), "AAAAA", n)).collect();
    assert_limited(outcomes, 5);
    for setting in ["anon_auth.forwarded_header = 'X-Forwarded-For'", "anon_auth.trusted_proxies = 2"] {
        let denied = client.batch_execute(&format!("set {setting}"));
        expect_error(denied, "42501", "permission denied to set parameter");
    }

    // One proxy: what is left of its own entry moves nothing, nor does anything malformed.
    run(
        &mut admin,
        &format!("alter role {APP} in database {} set anon_auth.forwarded_header = 'X-Forwarded-For'", db.name),
    );
    let mut client = db.connect_as(APP);
    let spoofed = (0..20).map(|n| format!("192.0.2.{n}, 203.0.113.7{}", if n % 2 == 0 { "" } else { ":99" }));
    let outcomes: Vec<_> =
        spoofed.enumerate().map(|(n, header)| with_header(&mut client, &header, "BBBBB", n)).collect();
    assert_limited(outcomes, 5);
    let malformed = ["", "x", "192.0.2.1,", "192.0.2.256", "unknown", "192.0.2.1 x", "[::1", "192.0.2.1:x"];
    let outcomes: Vec<_> =
        malformed.iter().enumerate().map(|(n, header)| with_header(&mut client, header, "BBBBB", n)).collect();
    assert_limited(outcomes, 5);
    let clients = "select string_agg(payload->>'client', ' ' order by created_at) from auth.audit_log_entries
                   where action = 'attempt_limit_reached'";
    assert_eq!(value::<String>(&mut admin, clients), "local 203.0.113.7 local");
}

#[test]
fn S8_attempts_count_until_their_time_is_up() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("otp_attempt_window", "1 second")]);
    let mut client = db.connect_as(APP);
    let claim = Claim::new(&mut admin, &mut client, "later@example.org");
    set_token(&mut client, &claim.guest.access_token);
    let begun = Instant::now();
    let outcomes: Vec<_> = (0..8).map(|n| guess(&mut client, &claim.wrong(n))).collect();
    if begun.elapsed() < Duration::from_millis(900) {
        assert_limited(outcomes, 5);
    }
    let text =
        client.query("select auth.verify_otp('email_change', $1)", &[&claim.wrong(0)]).map_err(|e| describe(&e));
    if begun.elapsed() < Duration::from_millis(900) {
        let text = text.expect_err("too many");
        assert!(
            text.starts_with("PT429: over_request_rate_limit: ") && text.ends_with("Try again in 1 second."),
            "{text}"
        );
    }
    sleep(1100);
    assert_eq!(guess(&mut client, &claim.wrong(9)), "otp_expired");
    assert_eq!(guess(&mut client, &claim.code), "in");
    assert!(attempts(&mut admin) > 0);
    wait_until("what has expired is deleted", Duration::from_secs(10), || {
        // Each attempt has the worker look after the table.
        outcome(client.execute("select auth.redeem_transfer_code('x')", &[]));
        value::<i64>(&mut admin, "select count(*) from auth.guesses where expires_at < now() - interval '2 seconds'")
            == 0
    });
}

#[test]
fn S9_nobody_is_locked_out_by_others() {
    let db = Database::new();
    let mut admin = db.connect();
    run(
        &mut admin,
        &format!("alter role {APP} in database {} set anon_auth.forwarded_header = 'X-Real-IP'", db.name),
    );
    // Cheap hashes: it is not their cost that is tested.
    run(&mut admin, "select auth.set_setting('password_hash_memory', '8192')");
    let mut client = db.connect_as(APP);
    let claim = Claim::new(&mut admin, &mut client, "victim@example.org");
    set_token(&mut client, &claim.guest.access_token);
    let proven: Value =
        client.query_one("select auth.verify_otp('email_change', $1)", &[&claim.code]).unwrap().get(0);
    set_token(&mut client, proven["access_token"].as_str().unwrap());
    run(&mut client, "select auth.update_user('{\"password\": \"correct horse\"}')");
    let mut try_password = |address: &str, password: &str| {
        let headers = serde_json::json!({"x-real-ip": address}).to_string();
        let mut transaction = client.transaction().unwrap();
        transaction.execute("select set_config('request.headers', $1, true)", &[&headers]).unwrap();
        let sql = "select auth.sign_in_with_password('victim@example.org', $1)";
        outcome(transaction.execute(sql, &[&password]))
    };
    let tally = tally((0..30).map(|n| try_password("192.0.2.1", &format!("guess {n}"))));
    assert_eq!(tally["invalid_credentials"], 10, "{tally:?}");
    assert_eq!(tally["over_request_rate_limit"], 20, "{tally:?}");
    assert_eq!(try_password("192.0.2.1", "correct horse"), "over_request_rate_limit");
    // The owner is elsewhere, and may sign in as often as it likes.
    for _ in 0..30 {
        assert_eq!(try_password("192.0.2.2", "correct horse"), "in");
    }
}

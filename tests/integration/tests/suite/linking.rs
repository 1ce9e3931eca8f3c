//! Linking from many connections: a proof counts once, a guess is counted whatever becomes of it, and whatever else
//! happens to the guest, nothing is half done.

use anon_auth_tests::*;
use postgres::{Client, Error, IsolationLevel};
use serde_json::Value;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A guest who claims an address, and what was sent there.
struct Claim {
    guest: Session,
    code: String,
    link: String,
}

fn claim(admin: &mut Client, address: &str) -> Claim {
    let guest = sign_in(admin);
    as_user(admin, &guest, |t| call(t, "select auth.update_user(jsonb_build_object('email', $1::text))", address))
        .unwrap_or_else(|error| panic!("{}", describe(&error)));
    let (code, link) = sent(admin, guest.user);
    Claim { guest, code, link }
}

fn sent(admin: &mut Client, user: Uuid) -> (String, String) {
    let row = admin
        .query_one(
            "select secret->>0, secret->>1 from (select convert_from(secret, 'UTF8')::jsonb as secret from auth.messages
                                                 where user_id = $1 and status = 'pending') m",
            &[&user],
        )
        .unwrap();
    (row.get(0), row.get(1))
}

/// Another code than the right one, the `n`th.
fn wrong(code: &str, n: usize) -> String {
    format!("{:06}", (code.parse::<usize>().unwrap() + 1 + n) % 1_000_000)
}

/// Runs `work` as this user, in a transaction of its own.
fn as_user<T>(
    client: &mut Client,
    user: &Session,
    work: impl FnOnce(&mut postgres::Transaction) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut transaction = client.transaction()?;
    authenticate(&mut transaction, &user.access_token)?;
    let result = work(&mut transaction)?;
    transaction.commit()?;
    Ok(result)
}

fn call(client: &mut postgres::Transaction, sql: &str, argument: &str) -> Result<Value, Error> {
    client.query_one(sql, &[&argument]).map(|row| row.get(0))
}

const VERIFY: &str = "select auth.verify_otp('email_change', $1)";

/// How many of the results are errors of this code.
fn count<T>(results: &[Result<T, Error>], code: &str) -> usize {
    results.iter().filter(|result| result.as_ref().is_err_and(|error| code_of(error) == code)).count()
}

/// A merge locks the account first, which is older than the guest, and then the guest.
#[test]
fn A5_a_code_that_signs_in_to_an_account_locks_as_a_merge_does() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("promotion_conflict", "login")]);
    for (address, by_link) in [("bob@example.org", false), ("carol@example.org", true)] {
        let account = sign_in(&mut admin);
        let prove =
            "update auth.users set is_anonymous = false, email = $2, email_confirmed_at = now() where id = $1";
        admin.execute(prove, &[&account.user, &address]).unwrap();
        let claim = claim(&mut admin, address);
        let mut merging = db.connect();
        let mut merging = merging.transaction().unwrap();
        let lock = "select from auth.users where id = $1 for update";
        merging.execute(lock, &[&account.user]).unwrap();
        let mut app = db.connect_as(APP);
        std::thread::scope(|scope| {
            let (sql, secret) = match by_link {
                true => ("select auth.verify_otp('email_change', token_hash => $1)", &claim.link),
                false => (VERIFY, &claim.code),
            };
            let verified = scope.spawn(|| as_user(&mut app, &claim.guest, |t| call(t, sql, secret)));
            wait_until("the code waits", Duration::from_secs(10), || {
                value(
                    &mut admin,
                    "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')",
                )
            });
            merging.execute(lock, &[&claim.guest.user]).expect("nobody holds the guest who waits for the account");
            merging.commit().unwrap();
            let answer = verified.join().unwrap().unwrap_or_else(|error| panic!("{}", describe(&error)));
            assert_eq!(answer["user"]["id"], account.user.to_string());
        });
    }
    assert_eq!(
        value::<i64>(&mut admin, "select deadlocks from pg_stat_database where datname = current_database()"),
        0
    );
}

#[test]
fn N5_two_hundred_verifications_of_one_code_at_once_are_one_success() {
    let _crowd = crowd();
    let db = Database::new();
    let mut admin = db.connect_with(&[("otp_attempt_limit", "1000"), ("otp_attempt_limit_total", "1000")]);
    let claim = claim(&mut admin, "ada@example.org");
    let results: Vec<_> = db
        .at_once(40, APP, |_, client| {
            (0..5).map(|_| as_user(client, &claim.guest, |t| call(t, VERIFY, &claim.code))).collect::<Vec<_>>()
        })
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    // Those who come later find the code used up, or the session from before gone.
    assert_eq!(count(&results, "otp_expired") + count(&results, "session_not_found"), 199);
    let user: (bool, i64, i64) = admin
        .query_one("select is_anonymous, (select count(*) from auth.sessions), (select count(*) from auth.identities) from auth.users", &[])
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .unwrap();
    assert_eq!(user, (false, 1, 1));
}

#[test]
fn N5_a_link_opened_by_many_at_once_is_one_success() {
    let _crowd = crowd();
    let db = Database::new();
    let mut admin = db.connect();
    let claim = claim(&mut admin, "ada@example.org");
    let results = db.at_once(40, STRANGER, |_, client| {
        client.query_one("select auth.verify_otp('email_change', token_hash => $1)", &[&claim.link])
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert_eq!(count(&results, "otp_expired"), 39);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.sessions"), 1);
}

#[test]
fn N17_five_hundred_guesses_at_once_do_not_get_in() {
    let _crowd = crowd();
    let db = Database::new();
    let mut admin = db.connect();
    let claim = claim(&mut admin, "ada@example.org");
    let results: Vec<_> = db
        .at_once(25, APP, |i, client| {
            (0..20)
                .map(|j| as_user(client, &claim.guest, |t| call(t, VERIFY, &wrong(&claim.code, i * 20 + j))))
                .collect::<Vec<_>>()
        })
        .into_iter()
        .flatten()
        .collect();
    // Five were judged, the others refused unseen; and so is the right code now.
    assert_eq!((count(&results, "otp_expired"), count(&results, "over_request_rate_limit")), (5, 495));
    let right = as_user(&mut admin, &claim.guest, |t| call(t, VERIFY, &claim.code));
    expect_error(right, "PT429", "over_request_rate_limit: ");
    // The link cannot be guessed, and is good.
    let by_link = admin.query_one("select auth.verify_otp('email_change', token_hash => $1)", &[&claim.link]);
    by_link.unwrap_or_else(|error| panic!("{}", describe(&error)));
}

/// Tries `attempt` so many times, each in a transaction that is rolled back; returns how many attempts were judged:
/// failed with `judged`. All others were refused unseen.
fn judged_in_rolled_back(
    client: &mut Client,
    isolation: IsolationLevel,
    times: usize,
    judged: &str,
    mut attempt: impl FnMut(&mut postgres::Transaction, usize) -> Result<(), Error>,
) -> usize {
    let mut count = 0;
    for i in 0..times {
        let mut transaction = client.build_transaction().isolation_level(isolation).start().unwrap();
        let error = attempt(&mut transaction, i).expect_err("no guess is right");
        transaction.rollback().unwrap();
        match code_of(&error) {
            code if code == judged => count += 1,
            code => assert_eq!(code, "over_request_rate_limit"),
        }
    }
    count
}

#[test]
fn N17_rolled_back_guesses_at_a_code_are_counted() {
    for isolation in [IsolationLevel::ReadCommitted, IsolationLevel::RepeatableRead, IsolationLevel::Serializable] {
        let db = Database::new();
        let mut admin = db.connect();
        let claim = claim(&mut admin, "ada@example.org");
        let mut client = db.connect_as(APP);
        let judged = judged_in_rolled_back(&mut client, isolation, 1000 * scale(), "otp_expired", |t, i| {
            authenticate(t, &claim.guest.access_token)?;
            call(t, VERIFY, &wrong(&claim.code, i)).map(|_| ())
        });
        assert_eq!(judged, 5, "{isolation:?}");
    }
}

#[test]
fn N17_guesses_in_savepoints_of_one_transaction_are_counted() {
    for isolation in [IsolationLevel::ReadCommitted, IsolationLevel::RepeatableRead] {
        let db = Database::new();
        let mut admin = db.connect();
        let claim = claim(&mut admin, "ada@example.org");
        let mut client = db.connect_as(APP);
        let mut transaction = client.build_transaction().isolation_level(isolation).start().unwrap();
        authenticate(&mut transaction, &claim.guest.access_token).unwrap();
        let mut judged = 0;
        for i in 0..50 {
            let mut savepoint = transaction.transaction().unwrap();
            let error = call(&mut savepoint, VERIFY, &wrong(&claim.code, i)).expect_err("no guess is right");
            savepoint.rollback().unwrap();
            judged += usize::from(code_of(&error) == "otp_expired");
        }
        assert_eq!(judged, 5, "{isolation:?}");
    }
}

const CLAIM: &str = "select auth.update_user(jsonb_build_object('email', $1::text))";

/// New guests are to be had for the asking, and each claims the address anew: what bounds their guesses is the number
/// of codes. It is as many for all as it is for one who rolls back.
#[test]
fn N17_many_guests_guess_at_as_many_codes_as_are_sent() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("otp_resend_interval", "0")]);
    let (mut sent_to, mut judged) = (0, 0);
    for i in 0..12 {
        let guest = sign_in(&mut admin);
        match as_user(&mut admin, &guest, |t| call(t, CLAIM, "victim@example.org")) {
            Ok(_) => sent_to += 1,
            Err(error) => assert_eq!(code_of(&error), "over_email_send_rate_limit"),
        }
        for j in 0..8 {
            let guess = as_user(&mut admin, &guest, |t| call(t, VERIFY, &format!("00000{}", (i + j) % 10)));
            judged += usize::from(sent_to > i && code_of(&guess.expect_err("no guess is right")) == "otp_expired");
        }
    }
    assert_eq!((sent_to, judged), (5, 25));
}

/// Somebody who claims an address of another, and tries codes, uses up attempts of its own only.
#[test]
fn S8_nobody_uses_up_the_attempts_of_others() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("otp_resend_interval", "0")]);
    let victim = claim(&mut admin, "victim@example.org");
    for _ in 0..3 {
        let attack = claim(&mut admin, "victim@example.org");
        for i in 0..10 {
            let guess = as_user(&mut admin, &attack.guest, |t| call(t, VERIFY, &wrong(&attack.code, i)));
            guess.expect_err("no guess is right");
        }
    }
    as_user(&mut admin, &victim.guest, |t| call(t, VERIFY, &victim.code)).unwrap();
}

fn come_from(client: &mut Client, address: &str) {
    run(client, "set anon_auth.forwarded_header = 'x-real-ip'");
    let headers = serde_json::json!({"x-real-ip": address}).to_string();
    client.execute("select set_config('request.headers', $1, false)", &[&headers]).unwrap();
}

/// Claims as many addresses, each by a guest of its own, in transactions that are rolled back; returns what came of it.
fn claims_of_guests(client: &mut Client, addresses: impl IntoIterator<Item = String>) -> Vec<String> {
    let claim_one = |address: String| {
        let mut transaction = client.transaction().unwrap();
        let guest = sign_in(&mut transaction);
        authenticate(&mut transaction, &guest.access_token).unwrap();
        let result = call(&mut transaction, CLAIM, &address);
        transaction.rollback().unwrap();
        result.map_or_else(|error| code_of(&error), |_| "sent".into())
    };
    addresses.into_iter().map(claim_one).collect()
}

fn number_of(outcomes: &[String], outcome: &str) -> usize {
    outcomes.iter().filter(|one| *one == outcome).count()
}

#[test]
fn S8_messages_to_one_address_are_limited_whoever_asks() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("otp_resend_interval", "0")]);
    let mut ask = |from: &str, times: usize, address: &str| {
        come_from(&mut admin, from);
        let outcomes = claims_of_guests(&mut admin, (0..times).map(|n| address.replace('#', &n.to_string())));
        assert_eq!(number_of(&outcomes, "sent") + number_of(&outcomes, "over_email_send_rate_limit"), times);
        number_of(&outcomes, "sent")
    };
    // One client, though all of it was rolled back; tags after a plus sign lead to the same mailbox.
    assert_eq!(ask("192.0.2.1", 8, "bombed@example.org"), 5);
    assert_eq!(ask("192.0.2.1", 2, "bombed+tag#@example.org"), 0);
    // From elsewhere the address can still be claimed, until there were too many from anywhere.
    assert_eq!(ask("192.0.2.2", 8, "bombed+tag#@example.org"), 5);
    assert_eq!(ask("192.0.2.3", 8, "bombed@example.org"), 5);
    assert_eq!(ask("192.0.2.4", 8, "bombed@example.org"), 5);
    assert_eq!(ask("192.0.2.5", 8, "bombed@example.org"), 0);
    // A client cannot ask for more by naming many addresses.
    assert_eq!(ask("192.0.2.1", 40, "one-of-#@example.org"), 25);
    assert_eq!(ask("192.0.2.6", 1, "one-of-39@example.org"), 1);

    let refusals = "select count(*) from auth.audit_log_entries
                    where action = 'attempt_limit_reached' and payload->>'kind' = 'message'";
    assert_eq!(value::<i64>(&mut admin, refusals), 6, "one for each limit that was reached");
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.messages"), 0);
    // It is said when to try again; a text message has a limit of its own.
    come_from(&mut admin, "192.0.2.5");
    let guest = sign_in(&mut admin);
    let refused = as_user(&mut admin, &guest, |t| call(t, CLAIM, "bombed@example.org"));
    let text = expect_error(refused, "PT429", "over_email_send_rate_limit: ");
    assert!(text.ends_with("Try again in 60 minutes.") || text.ends_with("Try again in 59 minutes."), "{text}");
    let phone = "select auth.update_user(jsonb_build_object('phone', $1::text))";
    as_user(&mut admin, &guest, |t| call(t, phone, "+4930123456")).unwrap();
}

#[test]
fn S8_an_address_gets_one_message_at_a_time() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("otp_resend_interval", "2 seconds")]);
    let begun = Instant::now();
    claim(&mut admin, "ada@example.org");
    let outcomes = claims_of_guests(&mut admin, vec!["ada@example.org".into(); 5]);
    if begun.elapsed() < Duration::from_secs(2) {
        assert_eq!(number_of(&outcomes, "over_email_send_rate_limit"), 5, "{outcomes:?}");
    }
    // That is no attack.
    let audited = "select count(*) from auth.audit_log_entries where action = 'attempt_limit_reached'";
    assert_eq!(value::<i64>(&mut admin, audited), 0);
    // Another address, meanwhile; and the same one later.
    assert_eq!(claims_of_guests(&mut admin, ["bob@example.org".into()]), ["sent"]);
    sleep(2100);
    assert_eq!(claims_of_guests(&mut admin, ["ada@example.org".into()]), ["sent"]);
}

/// What is wrong with a call shows before a message is counted, or it could not be made again when it is put right.
#[test]
fn S8_a_call_that_is_refused_counts_no_message() {
    let db = Database::new();
    let mut admin = db.connect();
    let guest = sign_in(&mut admin);
    let with_password = r#"select auth.update_user('{"email": "ada@example.org", "password": "correct horse"}')"#;
    let refused = as_user(&mut admin, &guest, |t| t.query_one(with_password, &[]));
    expect_error(refused, "PT422", "validation_failed: ");
    as_user(&mut admin, &guest, |t| call(t, CLAIM, "ada@example.org")).unwrap();
}

#[test]
fn N17_guesses_at_a_password_are_counted_and_lock_nobody_out() {
    let db = Database::new();
    let mut admin = db.connect();
    let ada = permanent(&mut admin, "ada@example.org", "correct horse");
    const SIGN_IN: &str = "select auth.sign_in_with_password('ada@example.org', $1)";
    let mut attacker = db.connect_as(STRANGER);
    let judged =
        judged_in_rolled_back(&mut attacker, IsolationLevel::RepeatableRead, 100, "invalid_credentials", |t, i| {
            call(t, SIGN_IN, &format!("guess {i}")).map(|_| ())
        });
    assert_eq!(judged, 10);
    // By changing it no more can be guessed.
    let by_change = as_user(&mut admin, &ada, |t| {
        call(t, "select auth.update_user(jsonb_build_object('password', $1::text))", "another horse")
    });
    expect_error(by_change, "PT429", "over_request_rate_limit: ");
    // From there, the right one is refused as well; from another address it is not.
    expect_error(attacker.query_one(SIGN_IN, &[&"correct horse"]), "PT429", "over_request_rate_limit: ");
    run(&mut admin, "set anon_auth.forwarded_header = 'x-forwarded-for'; set anon_auth.trusted_proxies = 1");
    run(&mut admin, r#"set request.headers = '{"x-forwarded-for": "192.0.2.1"}'"#);
    let session: Session = admin.query_one(SIGN_IN, &[&"correct horse"]).unwrap().get::<_, Value>(0).into();
    assert_eq!(session.user, ada.user);
    // Whether there is such an account makes no difference.
    let unknown =
        judged_in_rolled_back(&mut attacker, IsolationLevel::ReadCommitted, 20, "invalid_credentials", |t, i| {
            call(t, "select auth.sign_in_with_password('nobody@example.org', $1)", &format!("guess {i}")).map(|_| ())
        });
    assert_eq!(unknown, 10);
}

/// By the answer `same_password`, whoever has a session could guess the password.
#[test]
fn N17_guesses_by_changing_the_password_are_counted() {
    let db = Database::new();
    let mut admin = db.connect();
    let ada = permanent(&mut admin, "ada@example.org", "correct horse");
    let mut set = 0;
    for i in 0..20 {
        let mut transaction = admin.transaction().unwrap();
        authenticate(&mut transaction, &ada.access_token).unwrap();
        let sql = "select auth.update_user(jsonb_build_object('password', $1::text))";
        match call(&mut transaction, sql, &format!("another horse {i}")) {
            Ok(_) => set += 1,
            Err(error) => assert_eq!(code_of(&error), "over_request_rate_limit"),
        }
        transaction.rollback().unwrap();
    }
    // Setting the first one was no guess.
    assert_eq!(set, 10);
}

fn permanent(admin: &mut Client, address: &str, password: &str) -> Session {
    let claim = claim(admin, address);
    let session: Session = as_user(admin, &claim.guest, |t| call(t, VERIFY, &claim.code)).unwrap().into();
    as_user(admin, &session, |t| {
        call(t, "select auth.update_user(jsonb_build_object('password', $1::text))", password)
    })
    .unwrap();
    session
}

#[test]
fn N1_of_two_who_prove_one_address_at_once_one_has_it() {
    let db = Database::new();
    let mut admin = db.connect_with_unlimited_messages();
    for round in 0..10 {
        let address = format!("us{round}@example.org");
        let claims = [claim(&mut admin, &address), claim(&mut admin, &address)];
        let results =
            db.at_once(2, APP, |i, client| as_user(client, &claims[i].guest, |t| call(t, VERIFY, &claims[i].code)));
        assert_eq!((results.iter().filter(|r| r.is_ok()).count(), count(&results, "email_exists")), (1, 1));
        // S12: the session of the other goes on, as a guest's.
        let loser = results.iter().position(Result::is_err).unwrap();
        let claims = verify(&mut admin, &claims[loser].guest.access_token).unwrap();
        assert_eq!(claims["is_anonymous"], true);
    }
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(value::<i64>(&mut admin, deadlocks), 0);
}

#[test]
fn W8_a_promotion_races_clean_up_sign_out_and_deletion() {
    let db = Database::new();
    drop(db.connect_with_unlimited_messages());
    let mut admin =
        db.connect_with(&[("cleanup_age", "0"), ("cleanup_inactivity", "0"), ("cleanup_unreachable_only", "false")]);
    let start = Instant::now();
    let (mut rounds, mut promoted) = (0, 0);
    while start.elapsed() < Duration::from_secs(5) {
        let address = format!("{rounds}@example.org");
        let claim = claim(&mut admin, &address);
        let guest = &claim.guest;
        let results = db.at_once(4, "postgres", |i, client| {
            // The proof takes longest, since it is counted first.
            sleep(if i == 0 { 0 } else { (rounds * i % 8 * 10) as u64 });
            match i {
                0 => as_user(client, guest, |t| call(t, VERIFY, &claim.code)).map(Some),
                1 => as_user(client, guest, |t| t.batch_execute("select auth.sign_out()")).map(|_| None),
                2 => client.batch_execute("call auth.cleanup()").map(|_| None),
                _ => as_user(client, guest, |t| t.batch_execute("select auth.delete_user()")).map(|_| None),
            }
        });
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            let known = [
                "session_not_found",
                "user_not_found",
                "no_authorization",
                "otp_expired",
                "not_anonymous",
                "worker_unavailable",
            ];
            assert!(known.contains(&code_of(error).as_str()), "{}", describe(error));
        }
        let is_permanent = admin
            .query_opt("select is_anonymous, email, encrypted_password from auth.users where id = $1", &[&guest.user])
            .unwrap()
            .map(|row| (row.get::<_, bool>(0), row.get::<_, Option<String>>(1)));
        match &results[0] {
            Ok(answer) => {
                promoted += 1;
                // Whoever came too late finds a permanent user, which neither clean-up nor delete_user() touches.
                assert_eq!(is_permanent, Some((false, Some(address))));
                let session: Session = answer.clone().expect("a session").into();
                verify(&mut admin, &session.access_token).expect("the new session is not one that was signed out");
            }
            Err(_) => assert!(is_permanent.is_none_or(|(is_anonymous, email)| is_anonymous && email.is_none())),
        }
        let left = "select (select count(*) from auth.sessions t where not exists (select from auth.users u where u.id = t.user_id))
                         + (select count(*) from auth.identities t where not exists (select from auth.users u where u.id = t.user_id))
                         + (select count(*) from auth.one_time_tokens t where not exists (select from auth.users u where u.id = t.user_id))
                         + (select count(*) from auth.messages t where not exists (select from auth.users u where u.id = t.user_id))";
        assert_eq!(value::<i64>(&mut admin, left), 0);
        run(&mut admin, "delete from auth.users");
        rounds += 1;
    }
    assert!(promoted > 0 && promoted < rounds, "{promoted} of {rounds}");
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(value::<i64>(&mut admin, deadlocks), 0);
}

/// Somebody who has a session waits for the lock while somebody else proves the address, which ends that session: from
/// then on the account is the prover's alone.
#[test]
fn N2_a_session_that_ends_while_its_call_waits_changes_nothing() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("otp_attempt_limit", "1000"), ("otp_resend_interval", "0")]);
    let attacks = [
        r#"select auth.update_user('{"password": "of the attacker"}')"#,
        r#"select auth.update_user('{"phone": "+4930123456"}')"#,
        r#"select auth.update_user('{"data": {"name": "Eve"}}')"#,
        "select auth.resend('email_change')",
        "select auth.sign_out()",
        "select auth.create_transfer_code()",
        "select auth.create_promotion_code()",
        "select auth.unlink_identity(gen_random_uuid())",
        "select auth.verify_otp('email_change', '000000')",
    ];
    for (i, attack) in attacks.into_iter().enumerate() {
        let claim = claim(&mut admin, &format!("victim{i}@example.org"));
        let mut attacker = db.connect_as(APP);
        run(&mut attacker, &format!("set application_name = 'attacker {i}'; begin"));
        authenticate(&mut attacker, &claim.guest.access_token).unwrap();
        let mut victim = db.connect_as(STRANGER);
        let mut proof = victim.transaction().unwrap();
        let session: Session =
            call(&mut proof, "select auth.verify_otp('email_change', token_hash => $1)", &claim.link).unwrap().into();
        std::thread::scope(|scope| {
            let attacker = scope.spawn(|| attacker.batch_execute(attack));
            let waits = format!(
                "select exists (select from pg_stat_activity where application_name = 'attacker {i}' and wait_event_type = 'Lock')"
            );
            wait_until("the attacker waits", Duration::from_secs(10), || value(&mut admin, &waits));
            proof.commit().unwrap();
            expect_error(attacker.join().unwrap(), "PT401", "session_not_found: ");
        });
        verify(&mut admin, &session.access_token).unwrap_or_else(|error| panic!("{attack}: {}", describe(&error)));
        let changed = "select encrypted_password is not null or raw_user_meta_data <> '{}'
                              or exists (select from auth.one_time_tokens t where t.user_id = u.id)
                         from auth.users u where id = $1";
        assert!(!admin.query_one(changed, &[&claim.guest.user]).unwrap().get::<_, bool>(0), "{attack}");
    }
}

#[test]
fn N23_an_old_transaction_keeps_no_code_alive() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("otp_lifetime", "1 second"), ("handover_code_lifetime", "1 second")]);
    let claim = claim(&mut admin, "ada@example.org");
    let mut client = db.connect_as(APP);
    for isolation in [IsolationLevel::ReadCommitted, IsolationLevel::RepeatableRead] {
        let mut transaction = client.build_transaction().isolation_level(isolation).start().unwrap();
        authenticate(&mut transaction, &claim.guest.access_token).unwrap();
        let answer: Value = value(&mut transaction, "select auth.create_transfer_code()");
        sleep(1100);
        let mut savepoint = transaction.transaction().unwrap();
        expect_error(call(&mut savepoint, VERIFY, &claim.code), "PT403", "otp_expired: ");
        savepoint.rollback().unwrap();
        let transfer_code = answer["transfer_code"].as_str().unwrap();
        let redeemed = call(&mut transaction, "select auth.redeem_transfer_code($1)", transfer_code);
        expect_error(redeemed, "PT403", "otp_expired: ");
        transaction.rollback().unwrap();
    }
}

/// A snapshot from before does not bring back what was used or who was banned since.
#[test]
fn N23_an_old_snapshot_proves_nothing() {
    let db = Database::new();
    let mut admin = db.connect_with_unlimited_messages();
    let sign_in_as = |client: &mut Client, guest: &Session| {
        run(client, "begin isolation level repeatable read");
        authenticate(client, &guest.access_token).unwrap();
        run(client, "select count(*) from pg_class");
    };
    let mut client = db.connect_as(APP);

    // The code was used.
    let used = claim(&mut admin, "used@example.org");
    sign_in_as(&mut client, &used.guest);
    as_user(&mut admin, &used.guest, |t| call(t, VERIFY, &used.code)).unwrap();
    let error = client.query_one(VERIFY, &[&used.code]).expect_err("used");
    assert!(["40001", "PT401", "PT403"].contains(&sqlstate(&error)), "{}", describe(&error));
    run(&mut client, "rollback");

    // The user was banned; with a password that is right.
    let ada = permanent(&mut admin, "ada@example.org", "correct horse");
    run(&mut client, "begin isolation level repeatable read; select count(*) from pg_class");
    admin.execute("update auth.users set banned_until = 'infinity' where id = $1", &[&ada.user]).unwrap();
    let error = client
        .query_one("select auth.sign_in_with_password('ada@example.org', 'correct horse')", &[])
        .expect_err("banned");
    assert!(["40001", "PT403"].contains(&sqlstate(&error)), "{}", describe(&error));
    run(&mut client, "rollback");

    // The address was proven by somebody else.
    let (late, early) = (claim(&mut admin, "one@example.org"), claim(&mut admin, "one@example.org"));
    sign_in_as(&mut client, &late.guest);
    as_user(&mut admin, &early.guest, |t| call(t, VERIFY, &early.code)).unwrap();
    let error = client.query_one(VERIFY, &[&late.code]).expect_err("taken");
    assert!(["40001", "PT422"].contains(&sqlstate(&error)), "{}", describe(&error));
    run(&mut client, "rollback");
    assert_eq!(verify(&mut admin, &late.guest.access_token).unwrap()["is_anonymous"], true);
}

#[test]
fn W3_a_promotion_is_seen_by_the_next_transaction() {
    let db = Database::new();
    let mut admin = db.connect();
    run(
        &mut admin,
        "create table news_feed (body text); alter table news_feed enable row level security;
         grant select, insert on news_feed to authenticated;
         create policy p on news_feed as restrictive for insert to authenticated with check ((select (auth.jwt()->>'is_anonymous')::boolean) is false);
         create policy q on news_feed for all to authenticated using (true)",
    );
    let claim = claim(&mut admin, "ada@example.org");
    let mut client = db.connect_as(APP);
    let write = |client: &mut Client, session: &Session| {
        as_user(client, session, |t| t.batch_execute("insert into news_feed values ('news')"))
    };
    expect_error(write(&mut client, &claim.guest), "42501", "");
    let session: Session = as_user(&mut admin, &claim.guest, |t| call(t, VERIFY, &claim.code)).unwrap().into();
    write(&mut client, &session).unwrap_or_else(|error| panic!("{}", describe(&error)));
    // N6: the token from before is of no use to anybody, without waiting for its end.
    expect_error(write(&mut client, &claim.guest), "PT401", "session_not_found: ");
    expect_error(refresh(&mut client, &claim.guest.refresh_token), "PT401", "session_not_found: ");
}

/// Everything before and after the proof in one transaction, and none of it if that is rolled back.
#[test]
fn C1_a_promotion_that_is_rolled_back_leaves_the_guest() {
    let db = Database::new();
    let mut admin = db.connect();
    let claim = claim(&mut admin, "ada@example.org");
    let mut client = db.connect_as(APP);
    let mut transaction = client.transaction().unwrap();
    authenticate(&mut transaction, &claim.guest.access_token).unwrap();
    let session: Session = call(&mut transaction, VERIFY, &claim.code).unwrap().into();
    authenticate(&mut transaction, &session.access_token).unwrap();
    assert!(!value::<bool>(&mut transaction, "select auth.is_anonymous()"));
    transaction.rollback().unwrap();
    expect_error(verify(&mut client, &session.access_token), "PT401", "session_not_found: ");
    assert_eq!(verify(&mut client, &claim.guest.access_token).unwrap()["is_anonymous"], true);
    // The code is good still: what was rolled back has not used it up.
    as_user(&mut client, &claim.guest, |t| call(t, VERIFY, &claim.code)).unwrap();
}

/// A caller with operators, functions, types and temporary tables of its own in front of Postgres's: nothing of them
/// takes part, neither as the caller nor as the owner of the extension.
#[test]
fn N13_what_is_in_front_of_the_search_path_takes_no_part() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("otp_resend_interval", "0")]);
    run(
        &mut admin,
        "create schema hostile; grant usage on schema hostile to public;
         create function hostile.ran() returns boolean language plpgsql as $$ begin raise exception 'HOSTILE'; end $$;
         create function hostile.same(uuid, uuid) returns boolean language sql as 'select hostile.ran()';
         create function hostile.same(text, text) returns boolean language sql as 'select hostile.ran()';
         create function hostile.same(bytea, bytea) returns boolean language sql as 'select hostile.ran()';
         create operator hostile.= (leftarg = uuid, rightarg = uuid, function = hostile.same);
         create operator hostile.= (leftarg = text, rightarg = text, function = hostile.same);
         create operator hostile.= (leftarg = bytea, rightarg = bytea, function = hostile.same);
         create function hostile.lower(text) returns text language sql as 'select hostile.ran()::text';
         create function hostile.jsonb_each(jsonb, out key text, out value jsonb) returns setof record language sql as 'select hostile.ran()::text, null::jsonb';",
    );
    let connect = |session: Option<&Session>| {
        let mut client = db.connect_as(APP);
        run(
            &mut client,
            "create temp table users (id int); create temp table identities (id int); create temp table sessions (id int);
             create temp table one_time_tokens (id int); create temp table messages (id int); create temp table guesses (id int);
             set search_path = pg_temp, hostile, pg_catalog; begin",
        );
        if let Some(session) = session {
            authenticate(&mut client, &session.access_token).unwrap();
        }
        client
    };
    let commit = |mut client: Client| run(&mut client, "commit");
    expect_error(connect(None).batch_execute("select lower('A') = 'a'"), "P0001", "HOSTILE");

    let guest = sign_in(&mut admin);
    let mut client = connect(Some(&guest));
    run(
        &mut client,
        r#"select auth.update_user('{"email": "ada@example.org", "data": {"name": "Ada", "old": null}}')"#,
    );
    run(&mut client, "select auth.resend('email_change')");
    commit(client);
    let (code, _) = sent(&mut admin, guest.user);
    let mut client = connect(Some(&guest));
    let answer: Value = client.query_one(VERIFY, &[&code]).unwrap().get(0);
    commit(client);
    let ada: Session = answer.into();
    assert_eq!(ada.user, guest.user);
    let mut client = connect(Some(&ada));
    run(&mut client, r#"select auth.update_user('{"password": "correct horse"}')"#);
    let identity = answer_identity(&mut client);
    let refused = client.query_one("select auth.unlink_identity($1)", &[&identity]);
    expect_error(refused, "PT422", "single_identity_not_deletable: ");
    run(&mut client, "rollback");
    let refused = connect(None).query_one("select auth.sign_in_with_password('ADA@example.org', 'wrong')", &[]);
    expect_error(refused, "PT400", "invalid_credentials: ");

    let guest = sign_in(&mut admin);
    for kind in ["transfer", "promotion"] {
        let mut client = connect(Some(&guest));
        let code: String =
            value(&mut client, &format!("select auth.create_{kind}_code() operator(pg_catalog.->>) '{kind}_code'"));
        commit(client);
        let mut client = connect(None);
        let answer: Value =
            client.query_one(&format!("select auth.redeem_{kind}_code($1)"), &[&code]).unwrap().get(0);
        assert_eq!(Session::from(answer).user, guest.user);
    }
}

/// The id of the signed-in user's first identity.
fn answer_identity(client: &mut Client) -> Uuid {
    let user: Value = value(client, "select auth.get_user()");
    user["identities"][0]["identity_id"].as_str().and_then(|id| id.parse().ok()).expect("an identity")
}

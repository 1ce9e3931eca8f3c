//! Device keys over real connections: another library's, attacks on the request, and everything at once.

use anon_auth_core::keys::SigningKey;
use anon_auth_tests::*;
use postgres::{Client, Error};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

const KID: &str = "0F3E5A1C-77E2-4B43-A6C0-5B8A1D2E9F00";

fn count(client: &mut Client, table: &str) -> i64 {
    value(client, &format!("select count(*) from auth.{table}"))
}

/// Runs `call` as this user, in a transaction of its own.
fn as_user<T>(
    client: &mut Client,
    user: &Session,
    call: impl FnOnce(&mut postgres::Transaction) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut transaction = client.transaction()?;
    authenticate(&mut transaction, &user.access_token)?;
    let result = call(&mut transaction)?;
    transaction.commit()?;
    Ok(result)
}

#[test]
fn A3_a_guest_comes_back_by_keys_of_another_library() {
    let db = Database::new();
    let mut admin = db.connect();
    let mut app = db.connect_as(APP);
    let mut node = NodeClient::start();
    for alg in ["RS256", "ES256", "EdDSA"] {
        let jwk = node.ask(json!({"do": "key", "alg": alg}));
        let kid = jwk["kid"].clone();
        // Nobody is signed in: a new guest has the key.
        let payload = json!({"challenge": challenge(&mut app)});
        let request = node.sign(&kid, json!({"jwk": jwk}), payload);
        let first = sign_in_with_device_key(&mut app, &request).unwrap();
        let claims = verify(&mut app, &first.access_token).unwrap();
        assert_eq!((&claims["is_anonymous"], &claims["amr"][0]["method"]), (&json!(true), &json!("anonymous")));

        // With no session left; without the key in the header, and with it, as some clients always send it.
        as_user(&mut app, &first, |t| t.batch_execute("select auth.sign_out()")).unwrap();
        assert_eq!(count(&mut admin, "sessions"), 0);
        run(
            &mut admin,
            "update auth.device_keys set last_used_at = '2000-01-01';
             update auth.users set last_active_on = '2000-01-01', last_sign_in_at = '2000-01-01', cleanup_blocked_at = now()",
        );
        for header in [json!({}), json!({"jwk": jwk})] {
            let payload = json!({"challenge": challenge(&mut app)});
            let request = node.sign(&kid, header, payload);
            let again = sign_in_with_device_key(&mut app, &request).unwrap();
            assert_eq!(again.user, first.user);
            let claims = verify(&mut app, &again.access_token).unwrap();
            assert_eq!((&claims["is_anonymous"], &claims["amr"][0]["method"]), (&json!(true), &json!("device_key")));
            expect_error(sign_in_with_device_key(&mut app, &request), "PT403", "challenge_expired");
        }
        let noted =
            "select bool_and(k.last_used_at > now() - interval '1 h' and u.last_sign_in_at > now() - interval '1 h'
                                     and u.last_active_on > '2000-01-01' and u.cleanup_blocked_at is null)
                     from auth.device_keys k join auth.users u on u.id = k.user_id";
        assert!(value::<bool>(&mut admin, noted));
        run(&mut admin, "delete from auth.users");
        assert_eq!(count(&mut admin, "device_keys"), 0);
    }
}

#[test]
fn A3_a_signed_in_guest_registers_a_key() {
    let db = Database::new();
    let mut admin = db.connect();
    let mut app = db.connect_as(APP);
    let guest = sign_in(&mut app);
    let device = Device::new(KID);
    let registered = as_user(&mut app, &guest, |t| device.register(t)).unwrap();
    assert_eq!(registered.user, guest.user);
    assert_eq!(device.sign_in(&mut app).unwrap().user, guest.user);
    assert_eq!(count(&mut admin, "users"), 1);
    let audited = "select string_agg(action || ' ' || (payload->>'kid'), ', ') from auth.audit_log_entries";
    assert_eq!(value::<String>(&mut admin, audited), format!("device_key_registered {KID}"));

    // Whose token is no good any more is not taken for nobody.
    set_token(&mut app, &guest.access_token);
    run(&mut admin, "delete from auth.sessions");
    expect_error(Device::new("another-key").register(&mut app), "PT401", "session_not_found");
    // A permanent user registers none, and comes back by the one it had as a guest.
    let again = device.sign_in(&mut app).unwrap();
    set_token(&mut app, &again.access_token);
    run(&mut admin, "update auth.users set is_anonymous = false");
    expect_error(Device::new("another-key").register(&mut app), "PT403", "not_anonymous");
    assert_eq!(device.sign_in(&mut app).unwrap().user, guest.user);
    assert_eq!((count(&mut admin, "users"), count(&mut admin, "device_keys")), (1, 1));
}

#[test]
fn A7_A3_a_key_stores_a_lazy_guest() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("guest_storage", "lazy")]);
    let mut app = db.connect_as(APP);
    let guest = sign_in(&mut app);
    let device = Device::new(KID);
    // What fails stores nothing.
    expect_error(
        as_user(&mut app, &guest, |t| t.batch_execute("select auth.remove_device_key('none')")),
        "PT404",
        "",
    );
    assert_eq!(count(&mut admin, "users") + count(&mut admin, "lazy_guests"), 0);
    assert_eq!(as_user(&mut app, &guest, |t| device.register(t)).unwrap().user, guest.user);
    assert_eq!((count(&mut admin, "users"), count(&mut admin, "lazy_guests")), (1, 1));
    // Its first session goes on, until it signs out of it: the key remains.
    let next = refresh(&mut app, &guest.refresh_token).unwrap();
    as_user(&mut app, &next, |t| t.batch_execute("select auth.sign_out()")).unwrap();
    expect_error(refresh(&mut app, &guest.refresh_token), "PT401", "session_not_found");
    expect_error(verify(&mut app, &guest.access_token), "PT401", "session_not_found");
    assert_eq!(device.sign_in(&mut app).unwrap().user, guest.user);
    // A guest that a key makes is stored at once.
    Device::new("another-key").register(&mut app).unwrap();
    assert_eq!((count(&mut admin, "users"), count(&mut admin, "lazy_guests")), (2, 1));
}

#[test]
fn N9_N8_forged_swapped_and_replayed_requests_are_refused() {
    let db = Database::new();
    let mut admin = db.connect();
    let mut app = db.connect_as(STRANGER);
    let device = Device::new(KID);
    let other = Device::new("the-key-of-another");
    let fresh = &challenge(&mut app);
    let altcha: Value = value(&mut app, "select auth.create_challenge('altcha')");
    let now = unix_time();
    let without_its_end = &fresh[..fresh.len() - 1];
    let refresh_token = sign_in(&mut admin).refresh_token;
    run(&mut admin, "delete from auth.users");
    let is_none = json!({});
    let refused = |client: &mut Client, request: &str, code: &str| {
        let state = if code == "challenge_expired" { "PT403" } else { "PT400" };
        let text = expect_error(sign_in_with_device_key(client, request), state, code);
        assert!(
            !text.contains(fresh.as_str()) && (request.is_empty() || !text.contains(request)),
            "no secret in {text}"
        );
    };
    for (header, payload) in [
        (json!({"jwk": other.key.public_jwk(KID)}), is_none.clone()),
        (json!({"kid": other.kid}), is_none.clone()),
        (json!({"typ": "JWT"}), is_none.clone()),
        (json!({"alg": "none"}), is_none.clone()),
        (json!({"alg": "HS256"}), is_none.clone()),
        (json!({"crit": ["exp"]}), is_none.clone()),
        (is_none.clone(), json!({"action": "promote"})),
        (is_none.clone(), json!({"action": null})),
        (is_none.clone(), json!({"exp": null})),
        (is_none.clone(), json!({"exp": now - 1})),
        (is_none.clone(), json!({"exp": now + 3600})),
        (is_none.clone(), json!({"challenge": null})),
    ] {
        refused(&mut app, &device.request(fresh, header, payload), "bad_device_request");
    }
    for wrong in [
        "",
        without_its_end,
        "x",
        altcha["challenge"].as_str().unwrap(),
        altcha["salt"].as_str().unwrap(),
        altcha["signature"].as_str().unwrap(),
        &refresh_token,
    ] {
        refused(&mut app, &device.request(wrong, json!({}), json!({})), "challenge_expired");
    }
    refused(&mut app, "", "bad_device_request");
    refused(&mut app, &"a".repeat(1 << 20), "bad_device_request");
    let tables = ["users", "sessions", "device_keys", "used_challenges", "audit_log_entries"];
    assert_eq!(tables.map(|table| count(&mut admin, table)), [0; 5], "nothing is left of them");

    // None of that has used the challenge up. Once used, it is good for nobody, whatever it was used for.
    let request = device.request(fresh, json!({}), json!({}));
    let guest = sign_in_with_device_key(&mut app, &request).unwrap();
    refused(&mut app, &request, "challenge_expired");
    refused(&mut app, &other.request(fresh, json!({}), json!({})), "challenge_expired");
    refused(&mut app, &device.request(fresh, json!({"jwk": null}), json!({"iat": null})), "challenge_expired");

    // One answer to whoever does not have the key: nobody learns which keys there are.
    let thief = Device { kid: KID.into(), key: SigningKey::generate(device.key.algorithm()).unwrap() };
    let attempts = [
        thief.request(&challenge(&mut app), json!({"jwk": null}), json!({})),
        thief.request(&challenge(&mut app), json!({}), json!({})),
        other.request(&challenge(&mut app), json!({"jwk": null}), json!({})),
        thief.request(&challenge(&mut app), json!({"jwk": device.jwk()}), json!({})),
        // Signed by the right key, which brings another along.
        device.request(&challenge(&mut app), json!({"jwk": thief.jwk()}), json!({})),
    ];
    let answers = attempts
        .map(|request| expect_error(sign_in_with_device_key(&mut app, &request), "PT400", "bad_device_request"));
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(count(&mut admin, "device_keys"), 1);
    assert_eq!(device.sign_in(&mut app).unwrap().user, guest.user);
    let hashed = "select bool_and(length(challenge_hash) = 32 and position($1 in challenge_hash) = 0) from auth.used_challenges";
    assert!(admin.query_one(hashed, &[&fresh.as_bytes()]).unwrap().get::<_, bool>(0));
}

#[test]
fn A3_two_uses_of_one_challenge_give_one_success() {
    let _crowd = crowd();
    let db = Database::new();
    let mut admin = db.connect();
    let known = Device::new(KID);
    let guest = known.register(&mut admin).unwrap();
    for _ in 0..3 {
        let token = challenge(&mut admin);
        let request = known.request(&token, json!({"jwk": null}), json!({}));
        // The same request, and other keys with the same challenge.
        let outcomes = db.at_once(16, APP, |i, client| match i % 2 {
            0 => sign_in_with_device_key(client, &request),
            _ => {
                let device = Device::new(&format!("{}-{i}", &token[60..]));
                sign_in_with_device_key(client, &device.request(&token, json!({}), json!({})))
            }
        });
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        for error in outcomes.into_iter().filter(|outcome| outcome.is_err()) {
            expect_error(error, "PT403", "challenge_expired");
        }
    }
    // A transaction whose snapshot is older than the first use is no second one.
    for isolation in ["repeatable read", "serializable"] {
        let request = known.request(&challenge(&mut admin), json!({"jwk": null}), json!({}));
        let mut old = db.connect_as(APP);
        run(&mut old, &format!("begin isolation level {isolation}; select count(*) from pg_class"));
        assert_eq!(sign_in_with_device_key(&mut admin, &request).unwrap().user, guest.user);
        let error = sign_in_with_device_key(&mut old, &request).unwrap_err();
        assert!(matches!(sqlstate(&error), "40001" | "PT403"), "{}", describe(&error));
    }
    // A use that is rolled back signs nobody in, and is none.
    let request = known.request(&challenge(&mut admin), json!({"jwk": null}), json!({}));
    let mut transaction = admin.transaction().unwrap();
    let undone = sign_in_with_device_key(&mut transaction, &request).unwrap();
    transaction.rollback().unwrap();
    expect_error(verify(&mut admin, &undone.access_token), "PT401", "session_not_found");
    sign_in_with_device_key(&mut admin, &request).unwrap();
}

#[test]
fn N23_no_transaction_keeps_a_challenge_alive() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("challenge_lifetime", "2 s")]);
    let device = Device::new(KID);
    let request = |client: &mut Client| {
        let end = json!({"exp": unix_time() + 2});
        device.request(&challenge(client), json!({}), end)
    };
    let good = request(&mut admin);
    sign_in_with_device_key(&mut admin, &good).unwrap();
    let mut old = db.connect_as(APP);
    run(&mut old, "begin");
    let token = challenge(&mut old);
    sleep(2100);
    run(&mut admin, "select auth.set_setting('challenge_lifetime', null)");
    // The request itself is as fresh as can be.
    let late = device.request(&token, json!({}), json!({}));
    expect_error(sign_in_with_device_key(&mut old, &late), "PT403", "challenge_expired");
}

#[test]
fn N12_N23_who_is_banned_or_gone_gets_no_session() {
    let db = Database::new();
    let mut admin = db.connect();
    let device = Device::new(KID);
    let guest = device.register(&mut admin).unwrap();
    let begin_old = |db: &Database| {
        let mut old = db.connect_as(APP);
        run(&mut old, "begin isolation level repeatable read; select count(*) from pg_class");
        old
    };
    let mut old = begin_old(&db);
    run(&mut admin, "update auth.users set banned_until = 'infinity'");
    let error = device.sign_in(&mut old).unwrap_err();
    assert!(matches!(sqlstate(&error), "40001" | "PT403"), "{}", describe(&error));
    expect_error(device.sign_in(&mut admin), "PT403", "user_banned");
    run(&mut admin, "update auth.users set banned_until = null");

    let mut old = begin_old(&db);
    let removed = as_user(&mut admin, &guest, |t| t.query_one("select auth.remove_device_key($1)", &[&KID])).unwrap();
    assert_eq!(removed.get::<_, i32>(0), 1);
    let error = device.sign_in(&mut old).unwrap_err();
    assert!(matches!(sqlstate(&error), "40001" | "PT400"), "{}", describe(&error));
    expect_error(device.sign_in(&mut admin), "PT400", "bad_device_request");

    // A key that its guest has lost by a merge or a deletion is unknown; the device may begin again with it.
    for end in ["select auth.delete_user()", "merge"] {
        let guest = device.register(&mut admin).unwrap();
        if end == "merge" {
            let target = sign_in(&mut admin);
            admin.execute("update auth.users set is_anonymous = false where id = $1", &[&target.user]).unwrap();
            let sql = "select auth.merge_anonymous_user($1)";
            as_user(&mut admin, &target, |t| t.query_one(sql, &[&guest.access_token]).map(|_| ())).unwrap();
        } else {
            as_user(&mut admin, &guest, |t| t.batch_execute(end)).unwrap();
        }
        expect_error(device.sign_in(&mut admin), "PT400", "bad_device_request");
        assert_ne!(device.register(&mut admin).unwrap().user, guest.user);
        run(&mut admin, "delete from auth.users");
    }
}

#[test]
fn A3_keys_are_limited_and_removed_by_their_user_only() {
    let _crowd = crowd();
    let db = Database::new();
    let mut admin = db.connect_with(&[("device_keys_per_user", "3")]);
    let guest = sign_in(&mut admin);
    let outcomes = db.at_once(8, APP, |i, client| {
        as_user(client, &guest, |t| Device::new(&format!("device-key-{i}")).register(t))
    });
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 3);
    for error in outcomes.into_iter().filter(|outcome| outcome.is_err()) {
        expect_error(error, "PT422", "device_key_limit_reached");
    }
    let kid: String = value(&mut admin, "select min(kid) from auth.device_keys");
    let remove = |client: &mut Client, user: &Session, kid: Option<&str>| -> Result<i32, Error> {
        as_user(client, user, |t| t.query_one("select auth.remove_device_key($1)", &[&kid]).map(|row| row.get(0)))
    };
    let mut app = db.connect_as(APP);
    let stranger = sign_in(&mut app);
    expect_error(remove(&mut app, &stranger, Some(&kid)), "PT404", "device_key_not_found");
    assert_eq!(remove(&mut app, &stranger, None).unwrap(), 0);
    expect_error(app.query_one("select auth.remove_device_key(null)", &[]), "PT401", "no_authorization");
    assert_eq!(remove(&mut app, &guest, Some(&kid)).unwrap(), 1);
    expect_error(remove(&mut app, &guest, Some(&kid)), "PT404", "device_key_not_found");
    assert_eq!(remove(&mut app, &guest, None).unwrap(), 2);
    assert_eq!(count(&mut admin, "device_keys"), 0);
    let removed = "select count(*) from auth.audit_log_entries where action = 'device_key_removed'";
    assert_eq!(value::<i64>(&mut admin, removed), 3);
}

#[test]
fn N6_a_key_carries_its_guest_to_promotion_and_stays_by_setting() {
    for keeps in [true, false] {
        let db = Database::new();
        let mut admin = db.connect_with_unlimited_messages();
        let device = Device::new(KID);
        let guest = device.register(&mut admin).unwrap();
        run(&mut admin, "delete from auth.sessions");
        run(&mut admin, &format!("select auth.set_setting('promotion_keeps_device_keys', '{keeps}')"));
        let request = |client: &mut Client, action: &str| {
            device.request(&challenge(client), json!({"jwk": null}), json!({"action": action}))
        };
        let redeem = |client: &mut Client, code: &str| -> Result<Session, Error> {
            let row = client.query_one("select auth.redeem_promotion_code($1)", &[&code])?;
            Ok(row.get::<_, Value>(0).into())
        };
        // N9: what is signed for one is not good for the other.
        let (auth, promote) = (request(&mut admin, "auth"), request(&mut admin, "promote"));
        expect_error(redeem(&mut admin, &auth), "PT400", "bad_device_request");
        expect_error(sign_in_with_device_key(&mut admin, &promote), "PT400", "bad_device_request");
        let page = redeem(&mut admin, &promote).unwrap();
        assert_eq!(page.user, guest.user);
        expect_error(redeem(&mut admin, &promote), "PT403", "challenge_expired");
        let stranger = Device::new("never-registered");
        let unknown = stranger.request(&challenge(&mut admin), json!({}), json!({"action": "promote"}));
        expect_error(redeem(&mut admin, &unknown), "PT400", "bad_device_request");

        as_user(&mut admin, &page, |t| {
            t.batch_execute("select auth.update_user('{\"email\": \"ada@example.org\"}')")
        })
        .unwrap();
        let code: String = value(
            &mut admin,
            "select convert_from(secret, 'UTF8')::jsonb->>0 from auth.messages where status = 'pending'",
        );
        let verify_otp = "select auth.verify_otp('email_change', $1)";
        as_user(&mut admin, &page, |t| t.query_one(verify_otp, &[&code]).map(|_| ())).unwrap();
        assert!(!value::<bool>(&mut admin, "select is_anonymous from auth.users"));
        let promote = request(&mut admin, "promote");
        if keeps {
            assert_eq!(device.sign_in(&mut admin).unwrap().user, guest.user);
            expect_error(redeem(&mut admin, &promote), "PT403", "not_anonymous");
        } else {
            expect_error(device.sign_in(&mut admin), "PT400", "bad_device_request");
            expect_error(redeem(&mut admin, &promote), "PT400", "bad_device_request");
        }
        run(&mut admin, "select auth.set_setting('manual_linking', 'false')");
        expect_error(redeem(&mut admin, &promote), "PT404", "manual_linking_disabled");
    }
}

#[test]
fn R6_switched_off_no_guest_gets_in_by_a_key() {
    let db = Database::new();
    let mut admin = db.connect();
    let device = Device::new(KID);
    let guest = device.register(&mut admin).unwrap();
    run(&mut admin, "select auth.set_setting('disabled', 'true')");
    expect_error(device.sign_in(&mut admin), "PT422", "anonymous_provider_disabled");
    expect_error(Device::new("another-key").register(&mut admin), "PT422", "anonymous_provider_disabled");
    // Nor as one that is to become permanent: that is a session like any other.
    let promote = |admin: &mut Client| {
        let request = device.request(&challenge(admin), json!({"jwk": null}), json!({"action": "promote"}));
        admin.query_one("select auth.redeem_promotion_code($1)", &[&request])
    };
    expect_error(promote(&mut admin), "PT422", "anonymous_provider_disabled");
    // The switch of the guest's own provider.
    run(
        &mut admin,
        r#"select auth.set_setting('disabled', 'false'), auth.set_guest_provider('kiosk', disabled => true);
           update auth.users set raw_app_meta_data = '{"provider": "kiosk"}'"#,
    );
    expect_error(device.sign_in(&mut admin), "PT422", "anonymous_provider_disabled");
    expect_error(promote(&mut admin), "PT422", "anonymous_provider_disabled");
    run(&mut admin, "select auth.remove_guest_provider('kiosk')");
    assert_eq!(device.sign_in(&mut admin).unwrap().user, guest.user);
    promote(&mut admin).unwrap();
    run(&mut admin, "select auth.set_setting('disabled', 'true')");
    run(&mut admin, "update auth.users set is_anonymous = false");
    assert_eq!(device.sign_in(&mut admin).unwrap().user, guest.user);
}

#[test]
fn N19_a_copy_of_the_database_takes_no_challenge_of_the_original() {
    let db = Database::new();
    let mut admin = db.connect();
    let device = Device::new(KID);
    let guest = device.register(&mut admin).unwrap();
    let requests: Vec<String> =
        (0..2).map(|_| device.request(&challenge(&mut admin), json!({"jwk": null}), json!({}))).collect();
    drop(admin);
    let copy = Database::empty(&db.server);
    let mut postgres = db.server.connect("postgres", db.server.superuser());
    run(&mut postgres, &format!("drop database {}", copy.name));
    run(&mut postgres, &format!("create database {} template {}", copy.name, db.name));
    let mut admin = db.connect();
    sign_in_with_device_key(&mut admin, &requests[0]).unwrap();
    let mut client = copy.connect();
    for request in &requests {
        expect_error(sign_in_with_device_key(&mut client, request), "PT403", "challenge_expired");
    }
    assert_eq!(device.sign_in(&mut client).unwrap().user, guest.user);
}

#[test]
fn N12_whatever_happens_to_a_guest_with_a_key_at_once() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("cleanup_age", "0"), ("cleanup_inactivity", "0")]);
    run(&mut admin, "select auth.set_setting('cleanup_unreachable_only', 'false')");
    let documented = [
        "bad_device_request",
        "no_authorization",
        "session_not_found",
        "user_not_found",
        "not_anonymous",
        "device_key_not_found",
        "user_banned",
        "challenge_expired",
    ];
    let check = |result: Result<(), Error>| {
        if let Err(error) = result {
            let text = describe(&error);
            assert!(documented.iter().any(|code| text.contains(&format!(": {code}: "))), "{text}");
        }
    };
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        let device = Device::new(&Uuid::now_v7().to_string());
        let guest = device.register(&mut admin).unwrap();
        db.at_once(7, "postgres", |i, client| match i {
            0 | 1 => (0..3).for_each(|_| check(device.sign_in(client).map(|_| ()))),
            2 => {
                check(as_user(client, &guest, |t| Device::new(&format!("{}-2", device.kid)).register(t).map(|_| ())))
            }
            3 => check(as_user(client, &guest, |t| t.batch_execute("select auth.remove_device_key(null)"))),
            4 => check(as_user(client, &guest, |t| t.batch_execute("select auth.delete_user()"))),
            5 => check(as_user(client, &guest, |t| t.batch_execute("select auth.sign_out()"))),
            _ => run(client, "call auth.cleanup()"),
        });
        let orphans = "select count(*) from (select user_id from auth.device_keys union all select user_id from auth.sessions) o
                       where not exists (select from auth.users u where u.id = o.user_id)";
        assert_eq!(value::<i64>(&mut admin, orphans), 0);
        run(&mut admin, "delete from auth.users");
    }
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(value::<i64>(&mut admin, deadlocks), 0);
}

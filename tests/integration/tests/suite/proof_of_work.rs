//! ALTCHA's proof of work with the library that its users have: what is made here is solved there, and holds once.

use anon_auth_tests::*;
use postgres::{Client, Error};
use serde_json::{Value, json};

fn with_altcha(db: &Database) -> Client {
    db.connect_with(&[("captcha", "altcha"), ("altcha_max_number", "3000")])
}

/// A challenge made here and solved by altcha-lib, as the widget would send it.
fn solved(client: &mut Client, node: &mut NodeClient, how: &str) -> String {
    let challenge: Value = value(client, "select auth.create_challenge('altcha')");
    let solution = node.ask(json!({"do": how, "challenge": challenge}));
    solution.as_str().expect("it is solved").into()
}

fn sign_in_with(client: &mut Client, solution: &str) -> Result<Session, Error> {
    let sql = "select auth.sign_in_anonymously(captcha_token => $1)";
    client.query_one(sql, &[&solution]).map(|row| row.get::<_, Value>(0).into())
}

#[test]
fn W6_altcha_lib_solves_what_is_made_here() {
    let db = Database::new();
    let mut admin = with_altcha(&db);
    let mut app = db.connect_as(APP);
    let mut node = NodeClient::start();
    for how in ["solve", "solve_as_widget"] {
        for _ in 0..3 {
            let solution = solved(&mut app, &mut node, how);
            sign_in_with(&mut app, &solution).unwrap();
            expect_error(sign_in_with(&mut app, &solution), "PT400", "captcha_failed");
        }
    }
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.users"), 6);
    expect_error(try_sign_in(&mut app), "PT400", "captcha_failed");
}

#[test]
fn W6_one_solution_at_once_makes_one_guest() {
    let db = Database::new();
    let mut admin = with_altcha(&db);
    let mut node = NodeClient::start();
    let solution = solved(&mut admin, &mut node, "solve");
    let outcomes = db.at_once(12, APP, |_, client| sign_in_with(client, &solution));
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for error in outcomes.into_iter().filter(|outcome| outcome.is_err()) {
        expect_error(error, "PT400", "captcha_failed");
    }
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.users"), 1);
}

#[test]
fn W6_one_solution_makes_one_lazy_guest_whatever_is_rolled_back() {
    let db = Database::new();
    let mut admin = with_altcha(&db);
    run(&mut admin, "select auth.set_setting('guest_storage', 'lazy')");
    let mut app = db.connect_as(APP);
    let mut node = NodeClient::start();
    let solution = solved(&mut app, &mut node, "solve");
    // The guest that was made outlives the transaction, and so does the use.
    let mut transaction = app.transaction().unwrap();
    let sql = "select auth.sign_in_anonymously(captcha_token => $1)";
    let guest: Session = transaction.query_one(sql, &[&solution]).unwrap().get::<_, Value>(0).into();
    let id: Option<String> = value(&mut transaction, "select pg_current_xact_id_if_assigned()::text");
    assert_eq!(id, None);
    transaction.rollback().unwrap();
    expect_error(sign_in_with(&mut app, &solution), "PT400", "captcha_failed");
    let request = Device::new("a-device-key").request(&challenge(&mut app), json!({}), json!({}));
    let sql = "select auth.sign_in_with_device_key($1, captcha_token => $2)";
    expect_error(app.query_one(sql, &[&request, &solution]), "PT400", "captcha_failed");
    assert_eq!(refresh(&mut app, &guest.refresh_token).unwrap().user, guest.user);

    let solution = solved(&mut app, &mut node, "solve");
    let outcomes = db.at_once(12, APP, |_, client| sign_in_with(client, &solution));
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.used_challenges"), 0);
}

#[test]
fn W6_a_device_key_makes_no_guest_without_work() {
    let db = Database::new();
    let mut admin = with_altcha(&db);
    let mut app = db.connect_as(APP);
    let mut node = NodeClient::start();
    let device = Device::new("a-device-key");
    expect_error(device.register(&mut app), "PT400", "captcha_failed");
    let solution = solved(&mut app, &mut node, "solve");
    let request = device.request(&challenge(&mut app), json!({}), json!({}));
    let sql = "select auth.sign_in_with_device_key($1, captcha_token => $2)";
    let guest: Session = app.query_one(sql, &[&request, &solution]).unwrap().get::<_, Value>(0).into();
    // Who is a guest already needs none: to come back, or to register another key.
    assert_eq!(device.sign_in(&mut app).unwrap().user, guest.user);
    set_token(&mut app, &guest.access_token);
    assert_eq!(Device::new("another-key").register(&mut app).unwrap().user, guest.user);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.users"), 1);
}

//! Accounts at providers, as an attacker would use them.

use anon_auth_tests::*;
use postgres::Client;
use serde_json::{Value, json};

/// How many rows there are that a failed attempt must not add to.
fn rows(admin: &mut Client) -> (i64, i64, i64) {
    let row = admin
        .query_one(
            "select (select count(*) from auth.users), (select count(*) from auth.identities), (select count(*) from auth.sessions)",
            &[],
        )
        .unwrap();
    (row.get(0), row.get(1), row.get(2))
}

#[test]
fn N4_every_wrong_claim_for_linking_and_for_signing_in() {
    let db = Database::new();
    let mut admin = db.connect();
    let issuer = Issuer::new(&mut admin, "corp");
    let mut app = db.connect_as(APP);
    let guest = sign_in(&mut app);
    let before = rows(&mut admin);
    let good = issuer.token(json!({}));
    let mut stranger = Issuer::new(&mut admin, "stranger");
    stranger.name = "corp".into();
    let wrong = [
        (issuer.token(json!({"iss": "https://corp.example/"})), "another issuer"),
        (issuer.token(json!({"aud": "their-client"})), "another audience"),
        (issuer.token(json!({"aud": ["our-client", "their-client"]})), "no azp"),
        (issuer.token(json!({"azp": "their-client"})), "another client (azp)"),
        (issuer.token(json!({"exp": 1})), "expired"),
        (issuer.token(json!({"iat": 4_000_000_000_i64})), "in the future"),
        (issuer.token(json!({"nbf": 4_000_000_000_i64})), "in the future"),
        (issuer.token(json!({"nonce": "m"})), "nonce is another"),
        (issuer.token(json!({"nonce": null})), "no nonce"),
        (issuer.token(json!({"sub": null})), "no sub"),
        (issuer.token(json!({"sub": ""})), "sub is malformed"),
        (issuer.token(json!({"name": "a\u{0}b"})), "NUL"),
        (stranger.token(json!({})), "signature is wrong"),
        (good[..good.len() - 2].to_owned(), "not valid"),
        (format!("{good}.{good}"), "not valid"),
        (String::new(), "not valid"),
        // A token of our own is no ID token.
        (guest.access_token.clone(), "the provider has no key"),
    ];
    for (token, why) in &wrong {
        let signed_in = sign_in_with_id_token(&mut app, "corp", token, Some("n"));
        let linked = link_identity(&mut app, &guest.access_token, "corp", token, Some("n"));
        for result in [signed_in, linked] {
            let error = expect_error(result, "PT400", "bad_id_token");
            assert!(error.contains(why), "{why}: {error}");
            assert!(token.len() < 50 || !error.contains(&token[20..]), "the error shows the token");
        }
    }
    assert_eq!(rows(&mut admin), before);
    // The guest's session goes on.
    assert_eq!(verify(&mut app, &guest.access_token).unwrap()["is_anonymous"], true);
    refresh(&mut app, &guest.refresh_token).unwrap();
}

#[test]
fn N3_an_address_links_only_when_both_sides_have_verified_it() {
    let db = Database::new();
    let mut admin = db.connect();
    let issuer = Issuer::new(&mut admin, "corp");
    let mut app = db.connect_as(APP);
    let mut sub = 0;
    let mut sign_in_as = |admin: &mut Client, email: &str, verified: Value| {
        sub += 1;
        let token = issuer.token(json!({"sub": sub.to_string(), "email": email, "email_verified": verified}));
        let answer = sign_in_with_id_token(&mut app, "corp", &token, Some("n")).unwrap();
        let user: uuid::Uuid = answer["user"]["id"].as_str().unwrap().parse().unwrap();
        let row = admin
            .query_one(
                "select email, email_confirmed_at is not null, is_anonymous from auth.users where id = $1",
                &[&user],
            )
            .unwrap();
        assert!(!row.get::<_, bool>(2));
        (user, row.get::<_, Option<String>>(0), row.get::<_, bool>(1))
    };
    let mut local = |email: &str, confirmed: &str| -> uuid::Uuid {
        admin
            .query_one(
                &format!(
                    "insert into auth.users (id, email, email_confirmed_at) values (gen_random_uuid(), $1, {confirmed}) returning id"
                ),
                &[&email],
            )
            .unwrap()
            .get(0)
    };
    let proven = local("Jane@example.com", "now()");
    let claimed = local("joe@example.com", "null");
    let mut admin = db.connect();

    // Both: the same user, whatever the case.
    assert_eq!(sign_in_as(&mut admin, "jane@EXAMPLE.com", json!(true)).0, proven);
    assert_eq!(sign_in_as(&mut admin, "JANE@example.com", json!("true")).0, proven);
    // The provider has not: another user, without the address.
    for verified in [json!(false), json!(null), json!("yes"), json!(1)] {
        let (user, email, is_proven) = sign_in_as(&mut admin, "jane@example.com", verified);
        assert!(user != proven && email.is_none() && !is_proven);
    }
    // Nobody has here: another user, and the address is that user's.
    let (user, email, is_proven) = sign_in_as(&mut admin, "joe@example.com", json!(true));
    assert!(user != claimed && email.as_deref() == Some("joe@example.com") && is_proven);
    // The provider is not trusted with addresses.
    run(&mut admin, "select auth.set_identity_provider('corp', trusts_email => false)");
    let (user, email, is_proven) = sign_in_as(&mut admin, "jane@example.com", json!(true));
    assert!(user != proven && email.is_none() && !is_proven);
    // Not an address.
    run(&mut admin, "select auth.set_identity_provider('corp', trusts_email => true)");
    let (_, email, is_proven) = sign_in_as(&mut admin, "not an address", json!(true));
    assert!(email.is_none() && !is_proven);
    // A banned user is not let in this way either.
    run(&mut admin, "update auth.users set banned_until = 'infinity' where email = 'Jane@example.com'");
    let token = issuer.token(json!({"sub": "another", "email": "jane@example.com", "email_verified": true}));
    expect_error(sign_in_with_id_token(&mut app, "corp", &token, Some("n")), "PT403", "user_banned");
    let token = issuer.token(json!({"sub": "1"}));
    expect_error(sign_in_with_id_token(&mut app, "corp", &token, Some("n")), "PT403", "user_banned");
}

#[test]
fn S12_an_account_that_belongs_to_another_user() {
    let db = Database::new();
    let mut admin = db.connect();
    let issuer = Issuer::new(&mut admin, "corp");
    let mut app = db.connect_as(APP);
    let token = issuer.token(json!({"email": "jane@example.com", "email_verified": true}));
    let owner = sign_in_with_id_token(&mut app, "corp", &token, Some("n")).unwrap();

    let guest = sign_in(&mut app);
    let refused = link_identity(&mut app, &guest.access_token, "corp", &token, Some("n"));
    expect_error(refused, "PT422", "identity_already_exists");
    // Another account with an address that is proven by somebody else.
    let other = issuer.token(json!({"sub": "2", "email": "jane@example.com", "email_verified": true}));
    let refused = link_identity(&mut app, &guest.access_token, "corp", &other, Some("n"));
    expect_error(refused, "PT422", "email_exists");
    assert_eq!(verify(&mut app, &guest.access_token).unwrap()["is_anonymous"], true);
    assert_eq!(refresh(&mut app, &guest.refresh_token).unwrap().user, guest.user);

    // A guest who signs in by somebody's account becomes that somebody; by nobody's, it is told to link it.
    let mut transaction = app.transaction().unwrap();
    authenticate(&mut transaction, &guest.access_token).unwrap();
    let answer = sign_in_with_id_token(&mut transaction, "corp", &token, Some("n")).unwrap();
    assert_eq!(answer["user"]["id"], owner["user"]["id"]);
    let free = issuer.token(json!({"sub": "3"}));
    let refused = sign_in_with_id_token(&mut transaction, "corp", &free, Some("n"));
    expect_error(refused, "PT409", "already_signed_in");
    drop(transaction);
    // Nobody is signed in: no linking.
    let refused = app.query_one("select auth.link_identity('corp', $1, 'n')", &[&free]);
    expect_error(refused, "PT401", "no_authorization");
}

#[test]
fn S12_two_guests_link_one_account_at_once() {
    let db = Database::new();
    let mut admin = db.connect();
    let issuer = Issuer::new(&mut admin, "corp");
    for round in 0..5 {
        let guests: Vec<_> = (0..4).map(|_| sign_in(&mut admin)).collect();
        let token = issuer.token(json!({"sub": round.to_string()}));
        let results = db.at_once(guests.len(), APP, |i, client| {
            link_identity(client, &guests[i].access_token, "corp", &token, Some("n"))
        });
        let mut linked = 0;
        for (guest, result) in guests.iter().zip(results) {
            match result {
                Ok(answer) => {
                    linked += 1;
                    assert_eq!(answer["user"]["id"], guest.user.to_string());
                }
                error => {
                    expect_error(error, "PT422", "identity_already_exists");
                    assert_eq!(verify(&mut admin, &guest.access_token).unwrap()["is_anonymous"], true);
                }
            }
        }
        assert_eq!(linked, 1);
    }
}

#[test]
fn N4_a_name_does_not_move_to_another_issuer_with_its_users() {
    let db = Database::new();
    let mut admin = db.connect();
    let issuer = Issuer::new(&mut admin, "corp");
    sign_in_with_id_token(&mut admin, "corp", &issuer.token(json!({})), Some("n")).unwrap();
    let refused = set_provider(&mut admin, "corp", "https://evil.example", &["our-client"]);
    expect_error(refused, "PT409", "conflict");
    // Nor by way of removing it.
    run(&mut admin, "select auth.remove_identity_provider('corp')");
    let refused = set_provider(&mut admin, "corp", "https://evil.example", &["our-client"]);
    expect_error(refused, "PT409", "conflict");
    // The old issuer may come back; its keys have to be set again.
    let again = set_provider(&mut admin, "corp", &issuer.url(), &["our-client"]).unwrap();
    assert_eq!(again["jwks"], Value::Null);
    // Without users a name is free, and keys do not stay for the next issuer.
    let other = Issuer::new(&mut admin, "free");
    let moved = set_provider(&mut admin, "free", "https://evil.example", &["our-client"]).unwrap();
    assert_eq!(moved["jwks"], Value::Null);
    let refused = sign_in_with_id_token(&mut admin, "free", &other.token(json!({})), Some("n"));
    expect_error(refused, "PT400", "bad_id_token");
}

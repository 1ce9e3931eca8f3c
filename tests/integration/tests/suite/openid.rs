//! OpenID Connect with a real provider on loopback: discovery, ID tokens, key rotation.

use anon_auth_tests::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Adds `provider` as "real", with its keys.
fn add(provider: &OpenIdProvider, admin: &mut postgres::Client) -> Value {
    set_provider(admin, "real", &provider.issuer, &["RS256", "ES256", "EdDSA"]).unwrap();
    refresh_keys(admin, Some("real")).unwrap()
}

#[test]
fn S10_R8_a_guest_links_an_account_and_comes_back_by_it() {
    let mut provider = OpenIdProvider::start();
    let db = Database::new();
    let mut admin = db.connect();
    let fetched = add(&provider, &mut admin);
    assert_eq!(fetched["real"]["keys"], json!(["RS256-1", "ES256-1", "EdDSA-1"]));
    assert_eq!(
        fetched["real"]["passed_over"],
        json!([r#"key "ES512-1" is of the kind EC "P-521""#, r#"key "RSA-OAEP-1" is for the use "enc""#])
    );
    run(
        &mut admin,
        "create table notes (user_id uuid not null default auth.uid() references auth.users (id) on delete cascade, body text);
         alter table notes enable row level security;
         create policy own on notes to authenticated using (user_id = auth.uid());
         grant select, insert on notes to authenticated",
    );
    provider.requests();

    let mut app = db.connect_as(APP);
    for client in ["RS256", "ES256", "EdDSA"] {
        let guest = sign_in(&mut app);
        let mut transaction = app.transaction().unwrap();
        authenticate(&mut transaction, &guest.access_token).unwrap();
        run(&mut transaction, "insert into notes (body) values ('mine')");
        transaction.commit().unwrap();

        let claims =
            json!({"sub": client, "email": format!("{client}@Example.com"), "email_verified": true, "name": "Jane"});
        let token = provider.token(client, Some("nonce-1"), claims.clone());
        let linked = link_identity(&mut app, &guest.access_token, "real", &token, Some("nonce-1")).unwrap();
        assert_eq!(linked["user"]["id"], guest.user.to_string());
        assert_eq!(linked["user"]["is_anonymous"], false);
        assert_eq!(linked["user"]["email"], format!("{}@example.com", client.to_lowercase()));
        let identity = &linked["user"]["identities"][0];
        assert_eq!((&identity["provider"], &identity["id"]), (&json!("real"), &json!(client)));
        assert_eq!(identity["identity_data"]["name"], "Jane");
        assert_eq!(identity["identity_data"]["iss"], provider.issuer);
        assert!(identity["identity_data"].get("nonce").is_none());
        // What came before is dead, also the refresh token.
        expect_error(verify(&mut app, &guest.access_token), "PT401", "session_not_found");
        expect_error(refresh(&mut app, &guest.refresh_token), "PT401", "session_not_found");

        // Back again, with nothing but the account at the provider.
        let token = provider.token(client, Some("nonce-2"), claims);
        let session = sign_in_with_id_token(&mut app, "real", &token, Some("nonce-2")).unwrap();
        let claims = verify(&mut app, session["access_token"].as_str().unwrap()).unwrap();
        assert_eq!(claims["sub"], guest.user.to_string());
        assert_eq!(claims["is_anonymous"], false);
        assert_eq!(claims["amr"][0]["method"], "oauth");
        let mut transaction = app.transaction().unwrap();
        authenticate(&mut transaction, session["access_token"].as_str().unwrap()).unwrap();
        assert_eq!(value::<String>(&mut transaction, "select string_agg(body, ',') from notes"), "mine");
        transaction.rollback().unwrap();
    }
    // None of that asked the provider anything.
    let asked = provider.requests();
    assert!(asked.iter().all(|path| !path.contains("jwks") && !path.contains(".well-known")), "{asked:?}");
}

#[test]
fn S10_keys_rotate() {
    let mut provider = OpenIdProvider::start();
    let db = Database::new();
    let mut admin = db.connect();
    add(&provider, &mut admin);
    let mut app = db.connect_as(APP);
    let old = provider.token("ES256", Some("n"), json!({"sub": "jane"}));
    let user = sign_in_with_id_token(&mut app, "real", &old, Some("n")).unwrap()["user"]["id"].clone();

    provider.rotate_keys();
    let new = provider.token("ES256", Some("n"), json!({"sub": "jane"}));
    let refused = expect_error(sign_in_with_id_token(&mut app, "real", &new, Some("n")), "PT400", "bad_id_token");
    assert!(refused.contains(r#"the provider has no key "ES256-2""#), "{refused}");
    assert!(refused.contains("auth.refresh_identity_provider_keys('real')"), "{refused}");

    // In force in sessions and transactions that are open already.
    let mut transaction =
        app.build_transaction().isolation_level(postgres::IsolationLevel::RepeatableRead).start().unwrap();
    run(&mut transaction, "select 1");
    let fetched = refresh_keys(&mut admin, None).unwrap();
    assert_eq!(fetched["real"]["keys"][0], "RS256-2");
    assert_eq!(fetched["real"]["keys"].as_array().unwrap().len(), 6);
    let again = sign_in_with_id_token(&mut transaction, "real", &new, Some("n")).unwrap();
    assert_eq!(again["user"]["id"], user);
    transaction.commit().unwrap();
    assert_eq!(sign_in_with_id_token(&mut app, "real", &old, Some("n")).unwrap()["user"]["id"], user);

    provider.forget_old_keys();
    refresh_keys(&mut admin, Some("real")).unwrap();
    expect_error(sign_in_with_id_token(&mut app, "real", &old, Some("n")), "PT400", "bad_id_token");
    assert_eq!(sign_in_with_id_token(&mut app, "real", &new, Some("n")).unwrap()["user"]["id"], user);
    let kids: Vec<String> = value(
        &mut admin,
        "select array_agg(payload->'keys'->>0 order by created_at) from auth.audit_log_entries
         where action = 'identity_provider_keys_changed'",
    );
    assert_eq!(kids, ["RS256-1", "RS256-2", "RS256-2"]);
}

#[test]
fn N4_real_tokens_for_somebody_else() {
    let mut provider = OpenIdProvider::start();
    let db = Database::new();
    let mut admin = db.connect();
    add(&provider, &mut admin);
    let mut app = db.connect_as(APP);
    let token = provider.token("RS256", Some("n"), json!({"sub": "jane"}));
    let without_nonce = provider.token("RS256", None, json!({"sub": "jane"}));
    let mut refused = |what: &str, token: &str, nonce, why: &str| {
        run(&mut admin, &format!("select auth.set_identity_provider('real', {what})"));
        let error = expect_error(sign_in_with_id_token(&mut app, "real", token, nonce), "PT400", "bad_id_token");
        assert!(error.contains(why), "{error}");
        run(
            &mut admin,
            "select auth.set_identity_provider('real', audiences => '{RS256}', algorithms => '{RS256}', nonce_check => 'either')",
        );
        assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.users"), 0);
        assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.identities"), 0);
    };
    refused("audiences => '{ES256}'", &token, Some("n"), r#"for another audience, "RS256""#);
    refused("algorithms => '{ES256,EdDSA}'", &token, Some("n"), "not allowed to sign with RS256");
    refused("nonce_check => 'exact'", &token, Some("m"), "the token's nonce is another");
    refused("nonce_check => 'sha256'", &token, Some("n"), "the token's nonce is another");
    refused("nonce_check => 'either'", &token, None, "no nonce was given");
    refused("nonce_check => 'optional'", &without_nonce, Some("n"), "the token has no nonce");
    refused("enabled => true", &format!("{token}A"), Some("n"), "not valid");
    // The same keys, another issuer.
    run(
        &mut admin,
        "select auth.set_identity_provider('other', 'https://other.example', '{RS256}', jwks => jwks)
         from auth.identity_providers where name = 'real'",
    );
    let error = expect_error(sign_in_with_id_token(&mut app, "other", &token, Some("n")), "PT400", "bad_id_token");
    assert!(error.contains("another issuer"), "{error}");
    run(&mut admin, "select auth.set_identity_provider('real', enabled => false)");
    expect_error(sign_in_with_id_token(&mut app, "real", &token, Some("n")), "PT422", "provider_disabled");
    run(&mut admin, "select auth.set_identity_provider('real', enabled => true, nonce_check => 'optional')");
    sign_in_with_id_token(&mut app, "real", &without_nonce, None).unwrap();
    run(&mut admin, "select auth.remove_identity_provider('real')");
    expect_error(sign_in_with_id_token(&mut app, "real", &token, Some("n")), "PT404", "provider_not_found");
}

#[test]
fn S10_a_provider_that_misbehaves_keeps_its_keys() {
    let db = Database::new();
    let mut admin = db.connect();
    let key = anon_auth_core::keys::SigningKey::generate(anon_auth_core::algorithm::Algorithm::ES256).unwrap();
    let good = key.public_jwk("key-1").unwrap();
    let jwks = |keys: &[Value]| json!({"keys": keys}).to_string();
    let status = |line: &str| format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n");

    let web = Web::with_jwks(jwks(std::slice::from_ref(&good)));
    set_provider(&mut admin, "web", &web.url, &["our-client"]).unwrap();
    refresh_keys(&mut admin, Some("web")).unwrap();
    assert_eq!(web.requests(), 2);
    let elsewhere = Web::with_jwks(jwks(std::slice::from_ref(&good)));

    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/jwks", listener.local_addr().unwrap())
    };
    let mut weak = good.clone();
    weak["d"] = json!("AQAB");
    let answers = [
        (status("500 Internal Server Error"), "the status is 500"),
        (status("404 Not Found"), "the status is 404"),
        (status("204 No Content"), "the status is 204"),
        (
            format!("HTTP/1.1 302 Found\r\nLocation: {}/jwks\r\nContent-Length: 0\r\n\r\n", elsewhere.url),
            "the status is 302",
        ),
        (json_response("<html>"), "not a JSON object"),
        (json_response(&jwks(&[])), "no key that verifies ID tokens"),
        (json_response(&jwks(&[good.clone(), good.clone()])), "another key has the same kid"),
        (json_response(&jwks(&[good.clone(), json!({"kty": "oct", "kid": "b", "k": "AQAB"})])), "a shared secret"),
        (json_response(&jwks(&[weak])), "the private member d"),
        (json_response(&" ".repeat(300_000)), "body"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{".into(), "cannot be fetched"),
        ("nonsense\r\n\r\n".into(), "cannot be fetched"),
        (String::new(), "cannot be fetched"),
    ];
    for (answer, why) in answers {
        let bad = Web::serve(move |_| Some(answer.clone()));
        admin
            .execute("select auth.set_identity_provider('web', jwks_uri => $1)", &[&format!("{}/jwks", bad.url)])
            .unwrap();
        let error = expect_error(refresh_keys(&mut admin, Some("web")), "PT502", "provider_unavailable");
        assert!(error.contains(why), "{why}: {error}");
    }
    admin.execute("select auth.set_identity_provider('web', jwks_uri => $1)", &[&closed]).unwrap();
    expect_error(refresh_keys(&mut admin, Some("web")), "PT502", "provider_unavailable");
    assert_eq!(elsewhere.requests(), 0);

    // Discovery: a document about somebody else, one without keys, keys at a place that must not be asked.
    for (document, why) in [
        (json!({"issuer": "https://other.example", "jwks_uri": "https://other.example/jwks"}), "as its issuer"),
        (json!({"jwks_uri": "https://other.example/jwks"}), "as its issuer"),
        (json!([]), "not a JSON object"),
    ] {
        let bad = Web::serve(move |_| Some(json_response(&document.to_string())));
        set_provider(&mut admin, "bad", &bad.url, &["our-client"]).unwrap();
        let error = expect_error(refresh_keys(&mut admin, Some("bad")), "PT502", "provider_unavailable");
        assert!(error.contains(why), "{error}");
    }

    // Of all, those that answer are refreshed all the same, and the others are told.
    run(&mut admin, "select auth.set_identity_provider('web', jwks_uri => '')");
    let all = refresh_keys(&mut admin, None).unwrap();
    assert_eq!(all["web"]["keys"], json!(["key-1"]));
    assert!(all["bad"]["error"].as_str().unwrap().starts_with("provider_unavailable: "), "{all}");
    run(&mut admin, "select auth.set_identity_provider('bad', enabled => false)");
    assert!(refresh_keys(&mut admin, None).unwrap().get("bad").is_none());
    expect_error(refresh_keys(&mut admin, Some("nobody")), "PT404", "provider_not_found");
}

#[test]
fn S10_a_provider_that_does_not_answer_can_be_interrupted() {
    let db = Database::new();
    let mut admin = db.connect();
    let silent = Web::serve(|_| None);
    set_provider(&mut admin, "silent", &silent.url, &["our-client"]).unwrap();

    run(&mut admin, "set statement_timeout = '300ms'");
    let start = Instant::now();
    for name in [Some("silent"), None] {
        let error = refresh_keys(&mut admin, name).unwrap_err();
        assert_eq!(sqlstate(&error), "57014", "{}", describe(&error));
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    run(&mut admin, "set statement_timeout = '0'");

    // Cancelled, and ended with its session.
    for end in ["pg_cancel_backend", "pg_terminate_backend"] {
        let mut other = db.connect();
        let pid: i32 = value(&mut other, "select pg_backend_pid()");
        let waiting = std::thread::spawn(move || refresh_keys(&mut other, Some("silent")).map(|_| ()));
        let asked = silent.requests();
        wait_until("the request", Duration::from_secs(5), || silent.requests() > asked || asked > 2);
        let start = Instant::now();
        run(&mut admin, &format!("select {end}({pid})"));
        assert!(waiting.join().unwrap().is_err());
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }
    // And when nobody does, it gives up by itself.
    let start = Instant::now();
    let error = expect_error(refresh_keys(&mut admin, Some("silent")), "PT502", "provider_unavailable");
    assert!(error.contains("timeout"), "{error}");
    assert!((9..14).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.identity_providers where jwks is not null"), 0);
}

/// The id in an answer.
fn user_of(answer: &Value) -> Uuid {
    answer["user"]["id"].as_str().unwrap().parse().unwrap()
}

#[test]
fn S10_first_sign_ins_at_once_make_one_user() {
    let db = Database::new();
    let mut admin = db.connect();
    let issuer = Issuer::new(&mut admin, "one");
    sign_in(&mut admin);
    let users = db.at_once(8, APP, |_, client| {
        let token = issuer.token(json!({"email": "jane@example.com", "email_verified": true}));
        user_of(
            &sign_in_with_id_token(client, "one", &token, Some("n"))
                .unwrap_or_else(|error| panic!("{}", describe(&error))),
        )
    });
    assert!(users.iter().all(|user| *user == users[0]), "{users:?}");
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.users where not is_anonymous"), 1);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.identities"), 1);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.sessions"), 9);
    // The same address, by different accounts.
    let users = db.at_once(8, APP, |i, client| {
        let claims = json!({"sub": format!("other-{i}"), "email": "joe@example.com", "email_verified": true});
        let answer = sign_in_with_id_token(client, "one", &issuer.token(claims), Some("n"));
        user_of(&answer.unwrap_or_else(|error| panic!("{}", describe(&error))))
    });
    assert!(users.iter().all(|user| *user == users[0]), "{users:?}");
}

/// Two first sign-ins by one account, whose address a user has proven here: the second waits for the lock, and finds the
/// account linked.
#[test]
fn S10_a_first_sign_in_that_comes_second_is_no_conflict() {
    let db = Database::new();
    let mut admin = db.connect();
    let issuer = Issuer::new(&mut admin, "one");
    let jane: Uuid = value(
        &mut admin,
        "insert into auth.users (id, email, email_confirmed_at) values (gen_random_uuid(), 'jane@example.com', now()) returning id",
    );
    let token = issuer.token(json!({"email": "jane@example.com", "email_verified": true}));
    let mut first = db.connect_as(APP);
    let mut first = first.transaction().unwrap();
    assert_eq!(user_of(&sign_in_with_id_token(&mut first, "one", &token, Some("n")).unwrap()), jane);
    let mut second = db.connect_as(APP);
    run(&mut second, "set application_name = 'second'");
    std::thread::scope(|scope| {
        let second = scope.spawn(|| sign_in_with_id_token(&mut second, "one", &token, Some("n")));
        let waits = "select exists (select from pg_stat_activity where application_name = 'second' and wait_event_type = 'Lock')";
        wait_until("the second waits", Duration::from_secs(10), || value(&mut admin, waits));
        first.commit().unwrap();
        let answer = second.join().unwrap();
        assert_eq!(user_of(&answer.unwrap_or_else(|error| panic!("{}", describe(&error)))), jane);
    });
    // Linking it once more is one.
    let refused = link_identity(
        &mut db.connect_as(APP),
        &Session::from(sign_in_with_id_token(&mut admin, "one", &token, Some("n")).unwrap()).access_token,
        "one",
        &token,
        Some("n"),
    );
    let text = expect_error(refused, "PT422", "identity_already_exists: ");
    assert!(text.contains("is already linked to this user"), "{text}");
}

#[test]
fn S10_only_certificates_that_the_server_trusts() {
    let key = anon_auth_core::keys::SigningKey::generate(anon_auth_core::algorithm::Algorithm::ES256).unwrap();
    let web = TlsWeb::serve("jwks", &json!({"keys": [key.public_jwk("key-1")]}).to_string());
    let trusting = Server::start_in(&[("SSL_CERT_FILE", &web.certificate().to_string_lossy())], &[]);
    let fetch = |db: &Database, host: &str| {
        let mut admin = db.connect();
        let uri = format!("https://{host}:{}/jwks", web.port);
        let sql =
            "select auth.set_identity_provider('tls', 'https://issuer.example', '{our-client}', jwks_uri => $1)";
        admin.execute(sql, &[&uri]).unwrap();
        refresh_keys(&mut admin, Some("tls"))
    };
    let db = Database::on(&trusting);
    let fetched = fetch(&db, "localhost");
    let other_name = fetch(&db, "127.0.0.1");
    let unknown = fetch(&Database::new(), "localhost");
    assert_eq!(fetched.unwrap()["tls"]["keys"], json!(["key-1"]));
    for refused in [other_name, unknown] {
        let error = expect_error(refused, "PT502", "provider_unavailable");
        assert!(error.contains("certificate"), "{error}");
    }
}

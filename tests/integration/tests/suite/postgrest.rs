//! Behind PostgREST, called as PostgREST calls: see `Postgrest`.

use anon_auth_tests::*;
use serde_json::{Value, json};

/// A database with an API and a table in it that its owners alone see.
fn database() -> Database {
    let db = Database::new();
    run(
        &mut db.connect(),
        "select auth.create_api('api');
         create table notes (user_id uuid not null default auth.uid() references auth.users (id), body text not null);
         alter table notes enable row level security;
         create policy own on notes to authenticated using (user_id = auth.uid()) with check (user_id = auth.uid());
         grant select, insert on notes to authenticated;
         create function api.add_note(body text) returns void language sql as 'insert into notes (body) values ($1)';
         create function api.notes() returns jsonb language sql stable as $$ select coalesce(jsonb_agg(body), '[]') from notes $$;
         create function api.whoami() returns jsonb language sql stable as
             $$ select jsonb_build_object('uid', auth.uid(), 'role', current_user, 'jwt', auth.jwt()) $$",
    );
    db
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn token(session: &Response) -> String {
    text(&session.body["access_token"])
}

/// The status of a response and the code that the message begins with.
fn refusal(response: &Response) -> (u16, String) {
    let message = text(&response.body["message"]);
    (response.status, message.split(':').next().unwrap_or_default().to_owned())
}

#[test]
fn S19_a_guest_from_sign_in_to_sign_out() {
    let db = database();
    let mut api = Postgrest::start(&db, None);
    // No key is there yet; the first sign-in makes it, and PostgREST hears of it.
    assert_eq!(api.keys(), Value::Null);
    let session = api.anonymous("POST", "sign_in_anonymously", json!({"data": {"theme": "dark"}}));
    assert_eq!((session.status, session.header("Cache-Control")), (200, Some("no-store")));
    assert_eq!(session.body["user"]["user_metadata"], json!({"theme": "dark"}));
    assert!(api.notified().contains(&"reload config".to_owned()));

    let other = api.anonymous("POST", "sign_in_anonymously", json!({}));
    for (session, body) in [(&session, "mine"), (&other, "theirs")] {
        let added = api.bearer(&token(session), "POST", "add_note", json!({"body": body}));
        assert_eq!((added.status, added.body), (204, Value::Null));
    }
    // A stable function runs in a read-only transaction, by either method, and so does who is calling.
    for method in ["GET", "POST"] {
        assert_eq!(api.bearer(&token(&session), method, "notes", json!({})).body, json!(["mine"]));
        let me = api.bearer(&token(&session), method, "whoami", json!({})).body;
        assert_eq!((&me["uid"], &me["role"]), (&session.body["user"]["id"], &json!("authenticated")));
        assert_eq!(me["jwt"]["user_metadata"], json!({"theme": "dark"}));
        // The next request on the same connection is nobody's.
        let nobody = api.anonymous(method, "whoami", json!({})).body;
        assert_eq!(nobody, json!({"uid": null, "role": "anon", "jwt": null}));
    }
    let me = api.bearer(&token(&session), "GET", "get_user", json!({}));
    assert_eq!((me.status, me.header("Cache-Control")), (200, Some("no-store")));
    assert_eq!(me.body["id"], session.body["user"]["id"]);

    let refresh_token = json!({"refresh_token": session.body["refresh_token"]});
    // Not by GET: the token would be in logs.
    assert_eq!(api.anonymous("GET", "refresh_session", refresh_token.clone()).status, 405);
    let refreshed = api.anonymous("POST", "refresh_session", refresh_token);
    assert_eq!((refreshed.status, refreshed.header("Cache-Control")), (200, Some("no-store")));

    let out = api.bearer(&token(&refreshed), "POST", "sign_out", json!({"scope": "global"}));
    assert_eq!((out.status, out.body), (204, Value::Null));
    // PostgREST still takes the token; the database does not.
    let refused = api.bearer(&token(&refreshed), "GET", "notes", json!({}));
    assert_eq!(refusal(&refused), (401, "session_not_found".into()));
    assert_eq!(api.bearer(&token(&other), "GET", "notes", json!({})).body, json!(["theirs"]));
}

#[test]
fn N10_a_client_reaches_what_is_made_for_it_and_no_more() {
    let db = database();
    let mut api = Postgrest::start(&db, None);
    let session = api.anonymous("POST", "sign_in_anonymously", json!({}));
    api.notified();
    let token = token(&session);
    for function in ["set_setting", "authenticate", "uid", "create_roles", "rotate_signing_key", "pre_request"] {
        assert_eq!(api.bearer(&token, "POST", function, json!({})).status, 404, "{function}");
    }
    // Without a token, what needs a user is not there to be called.
    for (function, arguments) in
        [("get_user", json!({})), ("delete_user", json!({})), ("update_user", json!({"attributes": {}}))]
    {
        let refused = api.anonymous("POST", function, arguments);
        assert_eq!((refused.status, &refused.body["code"]), (401, &json!("42501")), "{function}");
    }
    // Errors are in the form that PostgREST makes HTTP of.
    let refused = api.anonymous("POST", "refresh_session", json!({"refresh_token": "x"}));
    assert_eq!(refusal(&refused), (401, "refresh_token_not_found".into()));
    let refused = api.anonymous("POST", "sign_in_anonymously", json!({"data": [1]}));
    assert_eq!(refusal(&refused), (400, "validation_failed".into()));
    let refused = api.bearer(&token, "POST", "update_user", json!({"attributes": {"role": "service_role"}}));
    assert_eq!(refusal(&refused), (400, "validation_failed".into()));
    assert_eq!(api.bearer(&token, "POST", "update_user", json!({"data": {}})).status, 404);
    // A header that is no bearer token is not taken for the absence of one.
    let basic = api.request("GET", "whoami", &[("Authorization", "Basic YTpi")], json!({}));
    assert_eq!(refusal(&basic), (401, "bad_jwt".into()));
    let forged = api.bearer(&format!("{token}x"), "GET", "whoami", json!({}));
    assert_eq!((forged.status, &forged.body["code"]), (401, &json!("PGRST301")));
    // What a client claims about itself in other headers counts for nothing.
    let claims = json!({"sub": session.body["user"]["id"], "role": "authenticated"}).to_string();
    let headers = [("request.jwt.claims", claims.as_str()), ("X-User", "admin")];
    assert_eq!(api.request("GET", "whoami", &headers, json!({})).body["uid"], Value::Null);
}

#[test]
fn S21_postgrest_follows_the_keys() {
    let db = database();
    let mut admin = db.connect();
    let mut api = Postgrest::start(&db, None);
    let mut sessions = vec![api.anonymous("POST", "sign_in_anonymously", json!({}))];
    api.notified();
    let once = ["reload config"];
    for algorithm in ["EdDSA", "RS256", "ES256"] {
        admin.execute("select auth.create_signing_key($1)", &[&algorithm]).unwrap();
        // The new key is known before anything is signed with it.
        assert_eq!(api.notified(), once);
        let kid: String = admin.query_one("select auth.rotate_signing_key($1)", &[&algorithm]).unwrap().get(0);
        assert!(api.keys()["keys"].as_array().unwrap().iter().any(|key| key["kid"] == kid.as_str()), "{algorithm}");
        let session = api.anonymous("POST", "sign_in_anonymously", json!({}));
        let me = api.bearer(&token(&session), "GET", "whoami", json!({}));
        assert_eq!(me.body["uid"], session.body["user"]["id"], "{algorithm}");
        assert_eq!(api.notified(), once);
        sessions.push(session);
    }
    // Tokens of earlier keys are good until a key is revoked, for PostgREST as well.
    for session in &sessions {
        assert_eq!(api.bearer(&token(session), "GET", "whoami", json!({})).status, 200);
    }
    admin
        .execute("select auth.revoke_signing_key(kid) from auth.signing_keys where algorithm = 'EdDSA'", &[])
        .unwrap();
    let refused = api.bearer(&token(&sessions[1]), "GET", "whoami", json!({}));
    assert_eq!(refusal(&refused), (401, "bad_jwt".into()));
    assert_eq!(api.notified(), once);
    let refused = api.bearer(&token(&sessions[1]), "GET", "whoami", json!({}));
    assert_eq!((refused.status, &refused.body["code"]), (401, &json!("PGRST301")));
    assert_eq!(api.bearer(&token(&sessions[2]), "GET", "whoami", json!({})).status, 200);
    // A rotation that is rolled back is not announced.
    run(&mut admin, "begin; select auth.rotate_signing_key(); rollback");
    assert!(api.notified().is_empty());
}

#[test]
fn S21_with_HS256_the_secret_is_postgrests_own() {
    let db = database();
    let secret =
        json!({"kty": "oct", "alg": "HS256", "kid": "shared", "k": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"});
    let mut admin = db.connect_with(&[("signing_algorithm", "HS256")]);
    admin.execute("select auth.import_signing_key($1)", &[&secret]).unwrap();
    run(&mut admin, "select auth.rotate_signing_key()");
    let mut api = Postgrest::start(&db, Some(json!({"keys": [secret]})));
    let session = api.anonymous("POST", "sign_in_anonymously", json!({}));
    api.notified();
    let me = api.bearer(&token(&session), "GET", "whoami", json!({}));
    assert_eq!(me.body["uid"], session.body["user"]["id"]);
    // It is in nothing that the database hands out.
    let published = api.anonymous("GET", "jwks", json!({}));
    assert_eq!(published.body, json!({"keys": []}));
}

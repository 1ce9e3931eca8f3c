//! Signing keys under concurrency, and at rest.

use anon_auth_tests::*;
use postgres::Client;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A secret of 256 bits, as a JWK of RFC 7517.
const SECRET_JWK: &str =
    r#"{"kty": "oct", "alg": "HS256", "kid": "imported", "k": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}"#;

fn current_keys(client: &mut Client) -> Vec<String> {
    let rows =
        client.query("select purpose from auth.signing_keys where status = 'current' order by 1", &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[test]
fn S21_the_first_sign_ins_at_once_get_one_key() {
    let _crowd = crowd();
    let db = Database::new();
    let sessions: Vec<_> = db
        .at_once(32, APP, |_, client| try_sign_in(client))
        .into_iter()
        .map(|result| result.unwrap_or_else(|error| panic!("{}", describe(&error))))
        .collect();
    let mut admin = db.connect();
    assert_eq!(current_keys(&mut admin), ["access_token", "refresh_token"]);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.signing_keys"), 2);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.users"), 32);
    // Every backend, those of the race as well as a new one, takes every token.
    let accepted = db.at_once(8, APP, |_, client| {
        sessions.iter().filter(|session| verify(client, &session.access_token).is_ok()).count()
    });
    assert_eq!(accepted, [32; 8]);
    for session in &sessions {
        refresh(&mut admin, &session.refresh_token).unwrap();
    }
}

#[test]
fn S21_an_idle_transaction_with_a_new_key_blocks_no_sign_in() {
    let actions = [
        "select auth.rotate_signing_key()",
        "select auth.create_signing_key('EdDSA')",
        "select auth.import_signing_key('{\"kty\": \"oct\", \"alg\": \"HS256\", \"k\": \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\"}')",
        "select auth.sign_in_anonymously()",
        "select auth.revoke_signing_key(kid) from auth.signing_keys where purpose = 'refresh_token'",
    ];
    let db = Database::new();
    for action in actions {
        // As the very first thing in a database, and in one where keys are in use.
        let fresh = Database::new();
        for db in [&fresh, &db] {
            let mut idle = db.connect();
            run(&mut idle, "begin");
            run(&mut idle, action);
            let mut client = db.connect_as(APP);
            run(&mut client, "set statement_timeout = '10s'");
            let session = try_sign_in(&mut client).unwrap_or_else(|error| panic!("{action}: {}", describe(&error)));
            refresh(&mut client, &session.refresh_token).unwrap();
            let before: bool = value(&mut client, "select jsonb_array_length(auth.jwks()->'keys') > 0");
            assert!(before);
            run(&mut idle, "rollback");
            let again = sign_in(&mut client);
            verify(&mut idle, &again.access_token).unwrap();
            let mut admin = db.connect();
            assert_eq!(current_keys(&mut admin), ["access_token", "refresh_token"], "{action}");
        }
    }
}

#[test]
fn S21_two_rotations_at_once_leave_one_current_key() {
    let db = Database::new();
    let mut admin = db.connect();
    let before = sign_in(&mut admin);
    let results = db.at_once(8, "postgres", |_, client| client.batch_execute("select auth.rotate_signing_key()"));
    assert!(results.iter().any(Result::is_ok));
    for result in results.into_iter().filter(Result::is_err) {
        expect_error(result, "PT409", "conflict");
    }
    assert_eq!(current_keys(&mut admin), ["access_token", "refresh_token"]);
    let after = sign_in(&mut admin);
    for session in [&before, &after] {
        verify(&mut admin, &session.access_token).unwrap();
    }
}

#[test]
fn S21_keys_change_in_every_open_session() {
    let db = Database::new();
    let mut admin = db.connect();
    let mut other = db.connect_as(APP);
    let old = sign_in(&mut admin);
    set_token(&mut other, &old.access_token);
    assert_eq!(uid(&mut other), Some(old.user));
    let old_kid: String = value(&mut admin, "select kid from auth.signing_keys where purpose = 'access_token'");

    // A rotation shows in the other session's next sign-in, and keeps what was signed before.
    let new_kid: String = value(&mut admin, "select auth.rotate_signing_key('EdDSA')");
    let new = sign_in(&mut other);
    let expected = json!({"alg": "EdDSA", "typ": "JWT", "kid": new_kid});
    assert_eq!(header(&mut admin, &new.access_token), expected);
    assert_eq!(uid(&mut other), Some(old.user));

    // Rolled back, a revocation has never been.
    run(&mut admin, "begin");
    admin.query("select auth.revoke_signing_key($1)", &[&old_kid]).unwrap();
    assert_eq!(uid(&mut other), Some(old.user), "not before the commit");
    run(&mut admin, "rollback");
    assert_eq!(uid(&mut other), Some(old.user));

    admin.query("select auth.revoke_signing_key($1)", &[&old_kid]).unwrap();
    assert_eq!(uid(&mut other), None, "in the very next transaction");
    expect_error(verify(&mut other, &old.access_token), "PT401", "bad_jwt");
    verify(&mut other, &new.access_token).unwrap();
    let text =
        expect_error(admin.query("select auth.revoke_signing_key($1)", &[&new_kid]), "PT400", "validation_failed");
    assert!(text.contains("rotate_signing_key"), "{text}");
    expect_error(admin.query("select auth.revoke_signing_key('no such key')", &[]), "PT404", "signing_key_not_found");

    // Plain SQL counts as well, and so does an open transaction's later statement.
    let mut transaction = other.transaction().unwrap();
    verify(&mut transaction, &new.access_token).unwrap();
    run(&mut admin, "update auth.signing_keys set status = 'revoked' where purpose = 'refresh_token'");
    expect_error(refresh(&mut transaction, &new.refresh_token), "PT401", "refresh_token_not_found");
    transaction.rollback().unwrap();
    let latest = sign_in(&mut other);
    refresh(&mut admin, &latest.refresh_token).expect("a new key was made");
}

/// The header of a token (RFC 7515).
fn header(client: &mut Client, token: &str) -> Value {
    let part = token.split('.').next().unwrap();
    let sql = "select convert_from(decode(rpad(translate($1, '-_', '+/'), (length($1) + 3) / 4 * 4, '='), 'base64'), 'utf8')::jsonb";
    client.query_one(sql, &[&part]).unwrap().get(0)
}

fn unsealed(client: &mut Client) -> i64 {
    value(client, "select count(*) from auth.signing_keys where not sealed")
}

#[test]
fn S21_sealed_keys_open_with_their_file_only() {
    let db = Database::new();
    let mut plain = db.connect();
    let first = sign_in(&mut plain);
    plain.execute("select auth.import_signing_key($1::text::jsonb)", &[&SECRET_JWK]).unwrap();
    expect_error(plain.query("select auth.seal_signing_keys()", &[]), "PT500", "signing_key_unavailable");
    assert_eq!(unsealed(&mut plain), 3);
    let secret: Vec<u8> = value(&mut plain, "select private_key from auth.signing_keys where kid = 'imported'");
    assert_eq!(secret, (0..32).collect::<Vec<u8>>(), "in the clear until there is a file");

    let file = KeyFile::new(&[7; 32]);
    file.put_to_use(&db);
    let mut client = db.connect();
    assert_eq!(value::<i32>(&mut client, "select auth.seal_signing_keys()"), 3);
    assert_eq!(value::<i32>(&mut client, "select auth.seal_signing_keys()"), 0);
    assert_eq!(unsealed(&mut client), 0);
    let sealed: Vec<u8> = value(&mut client, "select private_key from auth.signing_keys where kid = 'imported'");
    assert!(!sealed.windows(8).any(|bytes| secret.windows(8).any(|part| part == bytes)));
    let first = refresh(&mut client, &first.refresh_token).unwrap();
    run(&mut client, "select auth.rotate_signing_key('HS256')");
    let secretly_signed = sign_in(&mut client);
    verify(&mut client, &secretly_signed.access_token).unwrap();
    assert_eq!(unsealed(&mut client), 0, "new keys are sealed from the start");

    // Missing, wrong, too short, too long, a folder: nothing is issued, and what needs the key is refused.
    let unusable: [&dyn Fn(); 5] =
        [&|| file.write(&[8; 32]), &|| file.write(&[7; 31]), &|| file.write(&[7; 33]), &|| file.write(b""), &|| {
            file.remove()
        }];
    for make_unusable in unusable {
        make_unusable();
        let mut client = db.connect();
        let texts = [
            expect_error(try_sign_in(&mut client), "PT500", "signing_key_unavailable"),
            expect_error(refresh(&mut client, &first.refresh_token), "PT500", "signing_key_unavailable"),
            expect_error(verify(&mut client, &secretly_signed.access_token), "PT500", "signing_key_unavailable"),
            expect_error(client.query("select auth.rotate_signing_key()", &[]), "PT500", "signing_key_unavailable"),
        ];
        assert!(
            texts.iter().all(|text| !text.contains("signing_key_unavailable: signing_key_unavailable")),
            "{texts:?}"
        );
        set_token(&mut client, &secretly_signed.access_token);
        assert_eq!(uid(&mut client), None, "a reader never raises");
        // A public key needs no secret to verify.
        set_token(&mut client, &first.access_token);
        assert_eq!(uid(&mut client), Some(first.user));
    }
    file.write(&[7; 32]);
    let mut client = db.connect();
    set_token(&mut client, &secretly_signed.access_token);
    assert_eq!(uid(&mut client), Some(secretly_signed.user), "the right file is back");
    refresh(&mut client, &first.refresh_token).unwrap();
}

#[test]
fn S21_a_dump_alone_mints_nothing() {
    let server = Server::start(&[]);
    let file = KeyFile::new(&[9; 32]);
    let db = Database::on(&server);
    file.put_to_use(&db);
    let mut client = db.connect();
    let session = sign_in(&mut client);
    run(&mut client, "select auth.rotate_signing_key('HS256')");
    let signed = sign_in(&mut client);
    assert_eq!(unsealed(&mut client), 0);

    // The thief has the dump and a server of its own, without the file; or with a file of its own.
    let dump = server.program("pg_dump", &[&db.name]);
    let thief = Database::empty(&server);
    restore(&thief, &dump);
    for other in [None, Some(KeyFile::new(&[1; 32]))] {
        if let Some(file) = &other {
            file.put_to_use(&thief);
        }
        let mut client = thief.connect();
        expect_error(try_sign_in(&mut client), "PT500", "signing_key_unavailable");
        expect_error(refresh(&mut client, &session.refresh_token), "PT500", "signing_key_unavailable");
        set_token(&mut client, &signed.access_token);
        assert_eq!(uid(&mut client), None);
    }
    // The owner has both.
    file.put_to_use(&thief);
    let mut client = thief.connect();
    refresh(&mut client, &session.refresh_token).unwrap();
    verify(&mut client, &signed.access_token).unwrap();
}

/// Runs a plain dump in an empty database.
fn restore(db: &Database, dump: &str) {
    let script = new_folder();
    fs::write(&script, dump).unwrap();
    psql(db, &script);
    fs::remove_file(script).unwrap();
}

fn psql(db: &Database, script: &Path) {
    let script = script.to_string_lossy();
    db.server.program("psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &db.name, "-f", &script]);
}

#[test]
fn S21_only_public_keys_are_published() {
    let db = Database::new();
    let mut admin = db.connect();
    sign_in(&mut admin);
    for algorithm in ["ES256", "EdDSA", "RS256", "HS256"] {
        admin.query("select auth.create_signing_key($1)", &[&algorithm]).unwrap();
    }
    let mut anybody = db.connect_as(STRANGER);
    let jwks: Value = value(&mut anybody, "select auth.jwks()");
    let keys = jwks["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 4, "three new ones and the current one, not the secret");
    for key in keys {
        for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
            assert!(key.get(private).is_none(), "{key}");
        }
    }
}

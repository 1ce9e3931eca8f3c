//! No secret shows up where somebody might look.

use anon_auth_tests::*;
use postgres::{Client, Error, NoTls};
use serde_json::Value;
use std::sync::{Arc, Mutex};

/// 32 bytes, in base64url as in a JWK and as `bytea` shows them.
const SECRET: [&str; 2] = ["dGhlIHNlY3JldCB0aGF0IG5vYm9keSBpcyB0byBzZWU", "7468652073656372657420746861742"];

struct Collected {
    secrets: Vec<String>,
    errors: Vec<String>,
}

impl Collected {
    /// A token, and the parts of it that alone would be good for something.
    fn token(&mut self, token: &str) {
        self.secrets.push(token[token.len() - 40..].to_owned());
        self.secrets
            .push(token[..token.len() - 8].chars().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect());
    }

    fn session(&mut self, session: &Session) {
        self.token(&session.access_token);
        self.token(&session.refresh_token);
    }

    fn error<T>(&mut self, result: Result<T, Error>) {
        match result {
            Err(error) => self.errors.push(format!("{error:?} {}", describe(&error))),
            Ok(_) => panic!("a call that has to fail succeeded"),
        }
    }

    fn assert_absent(&self, place: &str, text: &str) {
        for secret in &self.secrets {
            assert!(!text.contains(secret), "{place} holds {secret}");
        }
    }
}

/// Codes on their way: by the outbox, and by a hook that fails and says all it knows.
fn send_codes(admin: &mut Client, app: &mut Client, collected: &mut Collected) {
    let guest = sign_in(app);
    let claim = |app: &mut Client, address: &str| -> Result<(), Error> {
        let mut transaction = app.transaction()?;
        authenticate(&mut transaction, &guest.access_token)?;
        let attributes = serde_json::json!({"email": address});
        transaction.execute("select auth.update_user($1)", &[&attributes])?;
        transaction.commit()
    };
    run(admin, "select auth.set_setting('otp_resend_interval', '0')");
    for outcome in ["auth.acknowledge_message(id)", "auth.fail_message(id, 'refused', false)"] {
        claim(app, "ada@example.org").unwrap();
        let messages: Value = value(admin, "select auth.claim_messages()");
        let data = &messages[0]["email_data"];
        collected.secrets.push(data["token_hash"].as_str().expect("a token hash").to_owned());
        run(admin, &format!("select {outcome} from auth.outbox where status = 'pending'"));
    }
    run(
        admin,
        "create schema app;
         create function app.tell(event jsonb) returns jsonb language plpgsql as $$
             begin
                 raise exception '%', event using detail = event, hint = event->'email_data'->>'token_hash';
             end $$;
         select auth.set_hook('send_email', 'app.tell(jsonb)')",
    );
    for address in ["ada@example.org", "eve@example.org"] {
        let error = claim(app, address).expect_err("the hook fails");
        let text = describe(&error);
        // The event is all there, but for the codes.
        assert!(
            text.contains("hook_failed")
                && text.contains(r#""token": "***""#)
                && text.contains(r#""token_hash": "***""#),
            "{text}"
        );
    }
    run(admin, "select auth.set_hook('send_email', null)");
}

/// Every call with bound parameters, as documented, and every error they can be made to raise.
fn call_everything(db: &Database, admin: &mut Client) -> Collected {
    let mut collected = Collected { secrets: SECRET.map(str::to_owned).to_vec(), errors: Vec::new() };
    let mut app = db.connect_as(APP);
    let mut guests: Vec<_> = (0..6).map(|_| sign_in(&mut app)).collect();
    for guest in &mut guests {
        collected.session(guest);
        *guest = refresh(&mut app, &guest.refresh_token).unwrap();
        collected.session(guest);
        verify(&mut app, &guest.access_token).unwrap();
    }
    for call in
        ["auth.get_user()", "auth.user_info()", "auth.sign_out('others')", "auth.sign_out()", "auth.delete_user()"]
    {
        let guest = sign_in(&mut app);
        collected.session(&guest);
        let mut transaction = app.transaction().unwrap();
        authenticate(&mut transaction, &guest.access_token).unwrap();
        value::<bool>(&mut transaction, "select auth.uid() is not null");
        run(&mut transaction, &format!("select {call}"));
        transaction.commit().unwrap();
        collected.error(verify(&mut app, &guest.access_token.replacen('.', "", 1)));
        set_token(&mut app, &guest.access_token);
        collected.error(app.batch_execute("select auth.sign_out('nowhere')"));
        collected.error(app.batch_execute("select 1 / (auth.uid() is null)::int, 1 / (auth.uid() is not null)::int"));
        set_token(&mut app, "");
    }
    let [banned, deleted, signed_out, old, cut, expired] = &guests[..] else { unreachable!() };
    admin.execute("update auth.users set banned_until = 'infinity' where id = $1", &[&banned.user]).unwrap();
    admin.execute("delete from auth.users where id = $1", &[&deleted.user]).unwrap();
    admin.execute("delete from auth.sessions where user_id = $1", &[&signed_out.user]).unwrap();
    let newer = refresh(&mut app, &old.refresh_token).unwrap();
    collected.session(&newer);
    sleep(20);
    for session in [banned, deleted, signed_out, old] {
        collected.error(refresh(&mut app, &session.refresh_token));
        let mut transaction = app.transaction().unwrap();
        collected.error(authenticate(&mut transaction, &session.access_token));
        transaction.rollback().unwrap();
    }
    collected.error(refresh(&mut app, &cut.refresh_token[1..]));
    collected.error(refresh(&mut app, &format!("{}A", cut.refresh_token)));
    collected.error(refresh(&mut app, &cut.access_token));
    collected.error(verify(&mut app, &cut.access_token[1..]));
    collected.error(verify(&mut app, &format!("{}AA", cut.access_token)));
    collected.error(verify(&mut app, &cut.refresh_token));
    let mut stranger = db.connect_as(STRANGER);
    collected.error(authenticate(&mut stranger, &cut.access_token));
    let headers = serde_json::json!({"authorization": format!("Basic {}", cut.refresh_token)}).to_string();
    let mut transaction = app.transaction().unwrap();
    transaction.query("select set_config('request.headers', $1, true)", &[&headers]).unwrap();
    collected.error(transaction.batch_execute("select auth.pre_request()"));
    transaction.rollback().unwrap();
    let mut read_only = app.build_transaction().read_only(true).start().unwrap();
    collected.error(refresh(&mut read_only, &cut.refresh_token));
    read_only.rollback().unwrap();
    run(admin, "select auth.set_setting('session_idle_timeout', '1 second')");
    sleep(1100);
    collected.error(refresh(&mut app, &expired.refresh_token));
    run(admin, "select auth.set_setting('session_idle_timeout', null)");

    let jwk = format!(r#"{{"kty": "oct", "alg": "HS256", "kid": "secret", "k": "{}"}}"#, SECRET[0]);
    admin.execute("select auth.import_signing_key($1::text::jsonb)", &[&jwk]).unwrap();
    for bad in [
        jwk.clone(),
        jwk.replace("oct", "RSA"),
        jwk.replace("HS256", "none"),
        jwk.replace("\"k\"", "\"d\""),
        jwk.replace("\"kid\": \"secret\"", "\"kid\": 1"),
        format!("\"{}\"", SECRET[0]),
        format!("[\"{}\"]", SECRET[0]),
        jwk.replace("kty", "use"),
    ] {
        collected.error(admin.execute("select auth.import_signing_key($1::text::jsonb)", &[&bad]));
    }
    run(admin, "select auth.rotate_signing_key('HS256')");
    let signed = sign_in(&mut app);
    collected.session(&signed);
    set_token(&mut app, &signed.access_token);
    assert!(uid(&mut app).is_some());
    // What somebody sees who is in the same session.
    let shown: Value = value(&mut app, "select coalesce(jsonb_agg(to_jsonb(s)), '[]') from pg_settings s");
    collected.assert_absent("pg_settings", &shown.to_string());
    let all = app.simple_query("show all").unwrap();
    collected.assert_absent("SHOW ALL", &format!("{all:?}"));
    set_token(&mut app, "");
    send_codes(admin, &mut app, &mut collected);
    run(admin, "call auth.cleanup()");
    collected
}

#[test]
fn N14_no_secret_in_log_statistics_settings_errors_or_tables() {
    let server = Server::start(&["log_statement=none", "log_min_error_statement=error", "log_min_messages=debug1"]);
    let db = Database::on(&server);
    let mut admin = db.connect_with(&[("refresh_token_reuse_interval", "0")]);
    run(&mut admin, "create extension pg_stat_statements");
    let collected = call_everything(&db, &mut admin);
    assert!(collected.errors.len() > 40, "{}", collected.errors.len());

    for error in &collected.errors {
        collected.assert_absent("an error", error);
    }
    let log = std::fs::read_to_string(server.dir().join("log")).unwrap();
    assert!(log.contains("refresh_token_already_used"), "errors are logged");
    collected.assert_absent("the log", &log);
    let statements: String = value(&mut admin, "select string_agg(query, E'\\n') from pg_stat_statements");
    assert!(statements.contains("auth.refresh_session($1)"));
    collected.assert_absent("pg_stat_statements", &statements);
    let activity: String = value(&mut admin, "select string_agg(query, E'\\n') from pg_stat_activity");
    collected.assert_absent("pg_stat_activity", &activity);

    // In the tables: neither a token, nor what a token could be made of without the server's key.
    let relations = admin
        .query(
            "select oid::regclass::text from pg_class
             where relnamespace = 'auth'::regnamespace and relkind in ('r', 'v') and relname <> 'signing_keys'",
            &[],
        )
        .unwrap();
    for row in relations {
        let relation: String = row.get(0);
        let sql = format!("select coalesce(string_agg(t::text, E'\\n'), '') from {relation} t");
        collected.assert_absent(&relation, &value::<String>(&mut admin, &sql));
    }
    let jwks: Value = value(&mut admin, "select auth.jwks()");
    collected.assert_absent("the JWKS", &jwks.to_string());
}

/// How the bytes of a text stand in a printed plan.
fn as_printed(text: &str) -> String {
    text.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn N14_a_printed_plan_holds_no_secret() {
    let db = Database::new();
    let mut admin = db.connect();
    run(
        &mut admin,
        "create schema app;
         create table app.sent (event jsonb);
         create function app.send(event jsonb) returns jsonb language plpgsql as $$
             begin insert into app.sent values (event); return null; end $$",
    );
    let printed = Arc::new(Mutex::new(String::new()));
    let collect = printed.clone();
    let mut app = db
        .server
        .config(&db.name, APP)
        .notice_callback(move |notice| collect.lock().unwrap().push_str(notice.detail().unwrap_or_default()))
        .connect(NoTls)
        .unwrap();
    let guest = sign_in(&mut app);
    for (hook, secret) in [
        ("null", "select convert_from(secret, 'UTF8')::jsonb->>0 from auth.messages where secret is not null"),
        ("'app.send(jsonb)'", "select event->'email_data'->>'token' from app.sent"),
    ] {
        run(&mut admin, &format!("select auth.set_hook('send_email', {hook})"));
        run(&mut admin, "select auth.set_setting('otp_resend_interval', '0')");
        run(
            &mut app,
            "set debug_print_parse = on; set debug_print_rewritten = on; set debug_print_plan = on;
             set debug_pretty_print = off; set client_min_messages = log; set plan_cache_mode = force_custom_plan",
        );
        let mut transaction = app.transaction().unwrap();
        authenticate(&mut transaction, &guest.access_token).unwrap();
        let attributes = serde_json::json!({"email": "ada@example.org"});
        transaction.execute("select auth.update_user($1)", &[&attributes]).unwrap();
        transaction.commit().unwrap();

        let code: String = value(&mut admin, secret);
        assert_eq!(code.len(), 6, "{code}");
        let text = std::mem::take(&mut *printed.lock().unwrap());
        assert!(text.contains("{PLANNEDSTMT") && text.contains("{QUERY"), "the caller's own statements are printed");
        assert!(!text.contains(&as_printed(&code)), "{hook}");
    }
}

/// Drivers that write values into the statement do what the documentation says not to do.
#[test]
fn N14_a_token_that_is_written_out_is_not_in_statistics_for_others() {
    let db = Database::on(&Server::start(&[]));
    let mut admin = db.connect();
    run(&mut admin, "create extension pg_stat_statements; select pg_stat_statements_reset()");
    let mut app = db.connect_as(APP);
    let (careless, curious) = (sign_in(&mut app), sign_in(&mut app));
    let token = &careless.access_token;
    for statements in [
        format!("begin; select auth.authenticate('{token}'); commit"),
        format!("begin; select 1, auth.authenticate('{token}') as user; commit"),
        // Having failed on the way, and anew.
        format!("begin; savepoint s; select auth.authenticate('{token}'), 1 / (auth.uid() is null)::int"),
        format!("rollback; begin; select auth.authenticate('{token}'), 2, auth.uid(); commit"),
        format!(
            "begin; select set_config('request.headers', '{{\"authorization\": \"Bearer {token}\"}}', true); select auth.pre_request(); commit"
        ),
    ] {
        let _ = app.simple_query(&statements);
    }
    let mut transaction = app.transaction().unwrap();
    authenticate(&mut transaction, &curious.access_token).unwrap();
    let seen: String =
        value(&mut transaction, "select coalesce(string_agg(query, e'\n'), '') from pg_stat_statements");
    assert!(!seen.contains(token.as_str()), "{seen}");
    transaction.commit().unwrap();
    let all: String = value(&mut admin, "select string_agg(query, e'\n') from pg_stat_statements where calls > 0");
    assert!(all.contains("auth.authenticate($1)") && !all.contains(token.as_str()), "{all}");
}

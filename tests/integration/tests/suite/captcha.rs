//! Captcha services, asked over real connections: who is let in, and what a service may do.

use anon_auth_tests::*;
use postgres::{Client, Error, GenericClient};
use serde_json::Value;
use std::time::{Duration, Instant};

const SECRET: &str = "0x4AAAAAAAAAAAAAAAAAAAAAAAA-not-to-be-seen";

/// A database whose guests have to solve a captcha of `service`.
fn with_captcha(service: &str, server: &Siteverify) -> (Database, Client) {
    let db = Database::new();
    let mut admin = db.connect_with(&[("captcha", service)]);
    set_captcha(&mut admin, service, &server.url);
    (db, admin)
}

fn set_captcha(admin: &mut Client, service: &str, url: &str) -> Value {
    let sql = "select auth.set_captcha($1, $2, url => $3, hostnames => '{www.example.com}')";
    admin.query_one(sql, &[&service, &SECRET, &url]).unwrap().get(0)
}

fn sign_in_with(client: &mut impl GenericClient, token: &str) -> Result<Session, Error> {
    client
        .query_one("select auth.sign_in_anonymously(captcha_token => $1)", &[&token])
        .map(|row| row.get::<_, Value>(0).into())
}

/// Users, sessions and signing keys: what a sign-in that failed must not leave.
fn rows(admin: &mut Client) -> i64 {
    value(
        admin,
        "select (select count(*) from auth.users) + (select count(*) from auth.sessions) + (select count(*) from auth.signing_keys)",
    )
}

#[test]
fn S17_whoever_has_solved_a_captcha_is_let_in_once() {
    for service in ["turnstile", "hcaptcha"] {
        let server = Siteverify::start(SECRET);
        let (db, mut admin) = with_captcha(service, &server);
        let mut app = db.connect_as(APP);
        for token in ["good", "good-a b+c&d=e%20\u{e9}"] {
            let guest = sign_in_with(&mut app, token).unwrap_or_else(|error| panic!("{}", describe(&error)));
            assert!(exists(&mut admin, guest.user));
            let error = expect_error(sign_in_with(&mut app, token), "PT400", "captcha_failed");
            assert!(error.contains("timeout-or-duplicate"), "{error}");
        }
        expect_error(try_sign_in(&mut app), "PT400", "captcha_failed");
        let forms = server.forms();
        assert_eq!(forms.len(), 4);
        assert_eq!(forms[2]["response"], "good-a b+c&d=e%20\u{e9}");
        // Over a socket without an address there is none to tell.
        assert!(forms.iter().all(|form| form.len() == 2 && form["secret"] == SECRET), "{forms:?}");
        assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.users"), 2);
    }
}

#[test]
fn S17_what_a_service_is_told_and_has_to_tell() {
    let server = Siteverify::start(SECRET);
    let (db, mut admin) = with_captcha("hcaptcha", &server);
    run(&mut admin, "select auth.set_captcha('hcaptcha', sitekey => '10000000-ffff-ffff-ffff-000000000001')");
    let mut app = db.connect();
    run(&mut app, "set anon_auth.forwarded_header = 'X-Forwarded-For'");
    let mut told = |address: &str, token: &str| {
        let headers = serde_json::json!({"x-forwarded-for": address}).to_string();
        app.execute("select set_config('request.headers', $1, false)", &[&headers]).unwrap();
        sign_in_with(&mut app, token).unwrap();
        server.forms().pop().unwrap()
    };
    let form = told("203.0.113.7", "good-1");
    assert_eq!(form["remoteip"], "203.0.113.7");
    assert_eq!(form["sitekey"], "10000000-ffff-ffff-ffff-000000000001");
    assert_eq!(told("::ffff:203.0.113.8", "good-2")["remoteip"], "203.0.113.8");
    // Of an IPv6 address only the network is known.
    assert_eq!(told("2001:db8::1", "good-3").get("remoteip"), None);

    // C3: a good token of another site, or for another action.
    let mut app = db.connect_as(APP);
    let error = expect_error(sign_in_with(&mut app, "elsewhere"), "PT400", "captcha_failed");
    assert!(error.contains("another site"), "{error}");
    run(&mut admin, "select auth.set_setting('captcha', 'turnstile')");
    let error = expect_error(sign_in_with(&mut app, "good-4"), "PT503", "captcha_unavailable");
    assert!(error.contains("the secret for turnstile is not known"), "{error}");
    set_captcha(&mut admin, "turnstile", &server.url);
    sign_in_with(&mut app, "good-5").unwrap();
    run(&mut admin, "select auth.set_captcha('turnstile', action => 'guest')");
    sign_in_with(&mut app, "good-6").unwrap();
    let error = expect_error(sign_in_with(&mut app, "otherwise"), "PT400", "captcha_failed");
    assert!(error.contains("another action"), "{error}");
    assert_eq!(server.forms().pop().unwrap().get("sitekey"), None);
    // Switched off, in sessions already open too.
    run(&mut admin, "select auth.set_setting('captcha', 'off')");
    sign_in(&mut app);
    assert_eq!(server.forms().len(), 7);
}

#[test]
fn C3_a_service_that_misbehaves_lets_nobody_in_and_leaves_nothing() {
    let server = Siteverify::start(SECRET);
    let (db, mut admin) = with_captcha("turnstile", &server);
    run(&mut admin, "select auth.set_setting('captcha_timeout', '1 second')");
    let mut app = db.connect_as(APP);
    for (token, state, code, why) in [
        ("wrong", "PT400", "captcha_failed", "invalid-input-response"),
        ("elsewhere", "PT400", "captcha_failed", "another site"),
        ("broken", "PT503", "captcha_unavailable", "internal-error"),
        ("500", "PT503", "captcha_unavailable", "the status is 500"),
        ("204", "PT503", "captcha_unavailable", "the status is 204"),
        ("redirect", "PT503", "captcha_unavailable", "the status is 307"),
        ("more", "PT503", "captcha_unavailable", ""),
        ("less", "PT503", "captcha_unavailable", "not a JSON object"),
        ("negative", "PT503", "captcha_unavailable", ""),
        ("huge", "PT503", "captcha_unavailable", ""),
        ("html", "PT503", "captcha_unavailable", "not a JSON object"),
        ("twice", "PT503", "captcha_unavailable", "unique members"),
        ("empty", "PT503", "captcha_unavailable", "not a JSON object"),
        ("garbage", "PT503", "captcha_unavailable", ""),
        ("close", "PT503", "captcha_unavailable", ""),
        ("hang", "PT503", "captcha_unavailable", "timeout"),
        ("slow", "PT503", "captcha_unavailable", "timeout"),
        ("slowhead", "PT503", "captcha_unavailable", "timeout"),
    ] {
        let start = Instant::now();
        let error = expect_error(sign_in_with(&mut app, token), state, code);
        assert!(error.contains(why), "{token}: {error}");
        assert!(start.elapsed() < Duration::from_secs(3), "{token}: {:?}", start.elapsed());
        assert!(!error.contains(SECRET) && !error.contains("127.0.0.1"), "{token}: {error}");
        assert_eq!(rows(&mut admin), 0, "{token}");
    }
    assert_eq!(server.forms().len(), 18, "none was asked twice, and no redirect followed");
    // In a transaction that goes on, in a function that catches the error.
    run(
        &mut app,
        "do $$ begin
             perform auth.sign_in_anonymously(captcha_token => 'wrong-2');
         exception when sqlstate 'PT400' then null;
         end $$",
    );
    assert_eq!(rows(&mut admin), 0);
    // Nobody listens; and there is no such host.
    for url in ["http://127.0.0.1:1/siteverify", "https://captcha.invalid/siteverify"] {
        set_captcha(&mut admin, "turnstile", url);
        let error = expect_error(sign_in_with(&mut app, "good"), "PT503", "captcha_unavailable");
        assert!(error.contains("the connection failed"), "{error}");
    }
    // Another secret.
    let other = Siteverify::start("0xAnother");
    set_captcha(&mut admin, "turnstile", &other.url);
    let error = expect_error(sign_in_with(&mut app, "good"), "PT503", "captcha_unavailable");
    assert!(error.contains("invalid-input-secret"), "{error}");
    assert_eq!(rows(&mut admin), 0);
    // And when all is well again, it is at once.
    set_captcha(&mut admin, "turnstile", &server.url);
    sign_in_with(&mut app, "good-again").unwrap();
}

#[test]
fn C3_a_sign_in_that_waits_for_its_captcha_can_be_interrupted() {
    let server = Siteverify::start(SECRET);
    let (db, mut admin) = with_captcha("turnstile", &server);
    run(&mut admin, "select auth.set_setting('captcha_timeout', '30 seconds')");
    for end in ["pg_cancel_backend", "pg_terminate_backend"] {
        let mut app = db.connect_as(APP);
        let pid: i32 = value(&mut app, "select pg_backend_pid()");
        let asked = server.forms().len();
        let waiting = std::thread::spawn(move || {
            let result = sign_in_with(&mut app, &format!("hang-{end}")).map(|_| ());
            (result, app)
        });
        wait_until("the request", Duration::from_secs(5), || server.forms().len() > asked);
        // It holds no lock that anybody waits for, and no transaction id.
        let held: i64 = value(
            &mut admin,
            &format!(
                "select count(*) from pg_locks where pid = {pid} and (locktype <> 'virtualxid' and mode <> 'AccessShareLock')"
            ),
        );
        assert_eq!(held, 0);
        let start = Instant::now();
        run(&mut admin, &format!("select {end}({pid})"));
        let (result, _app) = waiting.join().unwrap();
        let error = result.unwrap_err();
        // A connection that ends with its last message may hide it from the driver.
        let is_ended = ["57014", "57P01"].contains(&sqlstate(&error)) || error.is_closed();
        assert!(is_ended, "{}", describe(&error));
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }
    // One after the other: so many may be left behind, and no more.
    run(&mut admin, "select auth.set_setting('captcha_timeout', '3 seconds')");
    let mut app = db.connect_as(APP);
    run(&mut app, "set statement_timeout = '100ms'");
    for n in 0..8 {
        let error = sign_in_with(&mut app, &format!("hang-{n}")).map(|_| ()).unwrap_err();
        assert_eq!(sqlstate(&error), "57014", "{}", describe(&error));
    }
    let error = expect_error(sign_in_with(&mut app, "good"), "PT503", "captcha_unavailable");
    assert!(error.contains("too many requests of this session"), "{error}");
    assert_eq!(rows(&mut admin), 0);
    // They end within the limit, and then it goes on.
    run(&mut app, "set statement_timeout = 0");
    wait_until("they end", Duration::from_secs(10), || sign_in_with(&mut app, "good").is_ok());
}

#[test]
fn C3_only_a_service_whose_certificate_the_server_trusts() {
    let web = TlsWeb::serve("siteverify", r#"{"success": true, "hostname": "www.example.com"}"#);
    let server = Server::start(&[]);
    let db = Database::on(&server);
    let mut admin = db.connect_with(&[("captcha", "hcaptcha")]);
    let mut app = db.connect_as(APP);
    for host in ["localhost", "127.0.0.1"] {
        set_captcha(&mut admin, "hcaptcha", &format!("https://{host}:{}/siteverify", web.port));
        let error = expect_error(sign_in_with(&mut app, "good"), "PT503", "captcha_unavailable");
        assert!(error.contains("its certificate is not trusted"), "{error}");
        // Where it is asked for, and whose certificate it is, is for the log.
        assert!(!error.contains(host), "{error}");
        assert_eq!(rows(&mut admin), 0);
    }
    let log = std::fs::read_to_string(server.dir().join("log")).unwrap();
    assert!(log.contains("DETAIL:  io: invalid peer certificate"), "{log}");
}

#[test]
fn C5_a_guest_provider_with_a_captcha_of_its_own() {
    let service = Siteverify::start(SECRET);
    let db = Database::new();
    let mut admin = db.connect();
    set_captcha(&mut admin, "turnstile", &service.url);
    run(&mut admin, "select auth.set_guest_provider('demo', captcha => 'turnstile')");
    let mut app = db.connect_as(APP);
    let sql = "select auth.sign_in_anonymously(captcha_token => $1, provider => 'demo')";
    app.query_one(sql, &[&"good"]).unwrap();
    expect_error(app.query_one(sql, &[&"wrong"]), "PT400", "captcha_failed");
    expect_error(app.query_one(sql, &[&None::<&str>]), "PT400", "captcha_failed");
    sign_in(&mut app);
    assert_eq!(service.forms().len(), 2);
    // A change is seen by sessions already open, from the commit on.
    run(&mut admin, "select auth.set_guest_provider('demo', captcha => 'off')");
    app.query_one(sql, &[&None::<&str>]).unwrap();
    let mut change = admin.transaction().unwrap();
    run(&mut change, "select auth.set_guest_provider('demo', disabled => true)");
    app.query_one(sql, &[&None::<&str>]).unwrap();
    change.commit().unwrap();
    expect_error(app.query_one(sql, &[&None::<&str>]), "PT422", "anonymous_provider_disabled");
    run(&mut admin, "select auth.remove_guest_provider('demo')");
    expect_error(app.query_one(sql, &[&None::<&str>]), "PT404", "provider_not_found");
    assert_eq!(service.forms().len(), 2);
}

#[test]
fn N14_the_secret_of_a_captcha_service_is_sealed_with_the_key_file() {
    let service = Siteverify::start(SECRET);
    let (db, mut admin) = with_captcha("turnstile", &service);
    let secret = "select encode(secret, 'escape') from auth.captcha_services where name = 'turnstile'";
    assert_eq!(value::<String>(&mut admin, secret), SECRET);
    let path = new_folder();
    std::fs::write(&path, [7; 32]).unwrap();
    run(&mut admin, &format!("alter database {} set anon_auth.key_file = '{}'", db.name, path.display()));
    let mut admin = db.connect();
    // What was there before, with the keys; and what comes later.
    assert_eq!(value::<i32>(&mut admin, "select auth.seal_signing_keys()"), 1);
    assert!(!value::<String>(&mut admin, secret).contains(SECRET));
    sign_in_with(&mut db.connect_as(APP), "good-1").unwrap();
    assert_eq!(value::<i32>(&mut admin, "select auth.seal_signing_keys()"), 0);
    assert_eq!(set_captcha(&mut admin, "turnstile", &service.url)["sealed"], true);
    assert!(!value::<String>(&mut admin, secret).contains(SECRET));
    let mut app = db.connect_as(APP);
    sign_in_with(&mut app, "good-2").unwrap();
    run(&mut admin, "select auth.set_captcha('turnstile', action => 'guest')");
    sign_in_with(&mut app, "good-3").unwrap();
    // A dump alone does not give it away.
    let dump = db.server.program("pg_dump", &[&db.name]);
    assert!(dump.contains("captcha_services") && !dump.contains(SECRET));
    let hex: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert!(!dump.contains(&hex));
    // Bound to its row: it is not another service's.
    run(
        &mut admin,
        "insert into auth.captcha_services (name, secret, sealed, url) select 'hcaptcha', secret, true, url from auth.captcha_services;
         select auth.set_setting('captcha', 'hcaptcha')",
    );
    let error = expect_error(sign_in_with(&mut app, "good-4"), "PT503", "captcha_unavailable");
    assert!(error.contains("another key file"), "{error}");
    let _ = std::fs::remove_file(&path);
    assert_eq!(service.forms().len(), 3);
}

#[test]
fn N14_no_captcha_secret_or_token_in_log_statistics_or_tables() {
    let server = Server::start(&["log_statement=none", "log_min_error_statement=error", "log_min_messages=debug1"]);
    let service = Siteverify::start(SECRET);
    let db = Database::on(&server);
    let mut admin = db.connect_with(&[("captcha", "turnstile"), ("captcha_timeout", "500 ms")]);
    run(&mut admin, "create extension pg_stat_statements");
    let mut seen = set_captcha(&mut admin, "turnstile", &service.url).to_string();
    let refused = admin.query_one("select auth.set_captcha('turnstile', $1)", &[&format!("{SECRET} ")]);
    seen += &expect_error(refused, "PT400", "validation_failed");
    let refused = admin.query_one("select auth.set_captcha('turnstile', $1, sitekey => 'x')", &[&SECRET]);
    seen += &expect_error(refused, "PT400", "validation_failed");
    let mut app = db.connect_as(APP);
    for kind in ["good", "wrong", "500", "hang", "html", "close", "broken"] {
        let token = format!("{kind}-not-to-be-seen");
        if let Err(error) = sign_in_with(&mut app, &token) {
            seen += &format!("{error:?} {}", describe(&error));
        }
    }
    seen += &std::fs::read_to_string(server.dir().join("log")).unwrap();
    assert!(seen.contains("captcha_unavailable") && seen.contains("captcha_failed"));
    seen += &value::<String>(&mut admin, "select string_agg(query, E'\\n') from pg_stat_statements");
    seen += &value::<String>(&mut admin, "select string_agg(query, E'\\n') from pg_stat_activity");
    for relation in ["auth.all_settings", "auth.audit_log_entries", "auth.users", "auth.sessions", "auth.settings"] {
        seen +=
            &value::<String>(&mut admin, &format!("select coalesce(string_agg(t::text, ' '), '') from {relation} t"));
    }
    assert!(!seen.contains("not-to-be-seen"), "{seen}");
}

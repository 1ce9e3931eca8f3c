//! Messages on their way: many workers at once, and the worker of docs/delivery.md with a real SMTP server.

use anon_auth_tests::*;
use postgres::Client;
use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A new guest that claims an e-mail address.
fn claim_address(app: &mut Client, address: &str) -> Session {
    let guest = sign_in(app);
    let mut transaction = app.transaction().unwrap();
    authenticate(&mut transaction, &guest.access_token).unwrap();
    let attributes = serde_json::json!({"email": address});
    transaction.execute("select auth.update_user($1)", &[&attributes]).unwrap();
    transaction.commit().unwrap();
    guest
}

fn claim_messages(worker: &mut Client, n: i32) -> Vec<Value> {
    let claimed: Value = worker.query_one("select auth.claim_messages($1)", &[&n]).unwrap().get(0);
    claimed.as_array().expect("an array").clone()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

#[test]
fn S20_each_message_goes_to_one_of_many_workers() {
    let db = Database::new();
    drop(db.connect_with_unlimited_messages());
    let mut app = db.connect_as(APP);
    for n in 0..200 {
        claim_address(&mut app, &format!("user{n}@example.org"));
    }
    let _crowd = crowd();
    let claimed = db.at_once(12, db.server.superuser(), |_, worker| {
        let mut mine = Vec::new();
        loop {
            let messages = claim_messages(worker, 3);
            if messages.is_empty() {
                break mine;
            }
            for message in messages {
                worker.execute("select auth.acknowledge_message($1::text::uuid)", &[&text(&message["id"])]).unwrap();
                mine.push(text(&message["to"]));
            }
        }
    });
    let all: Vec<_> = claimed.into_iter().flatten().collect();
    let distinct: HashSet<_> = all.iter().collect();
    assert_eq!((all.len(), distinct.len()), (200, 200));
    let sent: i64 =
        value(&mut db.connect(), "select count(*) from auth.messages where status = 'sent' and secret is null");
    assert_eq!(sent, 200);
}

#[test]
fn S20_a_claim_that_is_rolled_back_was_none_and_nobody_waits_for_it() {
    let db = Database::new();
    drop(db.connect_with_unlimited_messages());
    let (mut app, mut first, mut second) = (db.connect_as(APP), db.connect(), db.connect());
    let guest = claim_address(&mut app, "ada@example.org");
    run(&mut second, "set lock_timeout = '3s'");
    run(&mut app, "set lock_timeout = '3s'");

    run(&mut first, "begin");
    assert_eq!(claim_messages(&mut first, 10).len(), 1);
    assert_eq!(claim_messages(&mut second, 10).len(), 0);
    // Nor does the user, who asks for another code meanwhile.
    let mut transaction = app.transaction().unwrap();
    authenticate(&mut transaction, &guest.access_token).unwrap();
    run(&mut transaction, "select auth.resend('email_change')");
    transaction.commit().unwrap();
    assert_eq!(claim_messages(&mut second, 10).len(), 1);
    run(&mut first, "rollback");
    assert_eq!(claim_messages(&mut second, 10).len(), 1);
}

#[test]
fn S20_a_message_is_there_with_the_commit_and_its_notice_holds_no_secret() {
    let db = Database::new();
    drop(db.connect_with_unlimited_messages());
    let (mut app, mut worker) = (db.connect_as(APP), db.connect());
    run(&mut worker, "listen anon_auth_messages");
    let guest = sign_in(&mut app);
    let mut transaction = app.transaction().unwrap();
    authenticate(&mut transaction, &guest.access_token).unwrap();
    run(&mut transaction, "select auth.update_user('{\"email\": \"ada@example.org\"}')");
    assert_eq!(claim_messages(&mut worker, 10).len(), 0);
    transaction.rollback().unwrap();
    assert_eq!(claim_messages(&mut worker, 10).len(), 0);
    claim_address(&mut app, "ada@example.org");
    let notice = {
        use postgres::fallible_iterator::FallibleIterator;
        worker.notifications().timeout_iter(Duration::from_secs(10)).next().unwrap().expect("a notice")
    };
    assert_eq!((notice.channel(), notice.payload()), ("anon_auth_messages", "email"));
    assert_eq!(claim_messages(&mut worker, 10).len(), 1);
}

#[test]
fn N14_codes_are_sealed_with_the_key_file_and_in_no_dump() {
    let db = Database::new();
    drop(db.connect_with_unlimited_messages());
    let mut admin = db.connect();
    let path = new_folder();
    fs::write(&path, [7u8; 32]).unwrap();
    run(&mut admin, &format!("alter database {} set anon_auth.key_file = '{}'", db.name, path.display()));
    let mut app = db.connect_as(APP);
    claim_address(&mut app, "ada@example.org");
    let mut admin = db.connect();
    let stored: Vec<u8> = value(&mut admin, "select secret from auth.messages where sealed");
    let dump = db.server.program("pg_dump", &[&db.name]);
    assert!(dump.contains("COPY auth.one_time_tokens") && !dump.contains("COPY auth.messages"));

    // With another file it can be opened no more; without any, nothing is given up.
    fs::write(&path, [8u8; 32]).unwrap();
    run(&mut admin, "begin");
    assert_eq!(claim_messages(&mut admin, 10).len(), 0);
    assert_eq!(value::<String>(&mut admin, "select status from auth.outbox"), "failed");
    run(&mut admin, "rollback");
    fs::remove_file(&path).unwrap();
    expect_error(admin.batch_execute("select auth.claim_messages()"), "PT500", "signing_key_unavailable");
    fs::write(&path, [7u8; 32]).unwrap();
    let messages = claim_messages(&mut admin, 10);
    let data = &messages[0]["email_data"];
    for secret in [text(&data["token"]), text(&data["token_hash"])] {
        assert!(
            !stored.windows(secret.len()).any(|window| window == secret.as_bytes()),
            "the code is stored as it is"
        );
        assert!(!dump.contains(&secret), "the code is in the dump");
    }
    fs::remove_file(&path).unwrap();
}

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().expect("the program starts"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An SMTP server on loopback that keeps each mail in a file.
struct Mailbox {
    folder: PathBuf,
    port: u16,
    server: Option<Process>,
}

impl Mailbox {
    /// One that is not started yet.
    fn new() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { folder: new_folder(), port, server: None }
    }

    fn start(&mut self) {
        let address = format!("127.0.0.1:{}", self.port);
        let mut command = Command::new(environment("ANON_AUTH_PYTHON"));
        command.args(["-m", "aiosmtpd", "-n", "-l", &address, "-c", "aiosmtpd.handlers.Mailbox"]).arg(&self.folder);
        self.server = Some(Process::start(&mut command));
        wait_until("the SMTP server", Duration::from_secs(30), || {
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    /// What a mail program shows of the mails: headers by name, and `text`.
    fn mails(&self) -> Vec<Value> {
        const SHOW: &str = "
import email, email.policy, json, pathlib, sys
files = pathlib.Path(sys.argv[1], 'new').iterdir()
mails = [email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in files]
print(json.dumps([dict(mail.items()) | {'text': mail.get_content()} for mail in mails]))";
        let output =
            Command::new(environment("ANON_AUTH_PYTHON")).args(["-c", SHOW]).arg(&self.folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("an array of objects")
    }

    /// The text of the mail to `address`.
    fn text_to(&self, address: &str) -> String {
        let mails = self.mails();
        let mail = mails.iter().find(|mail| mail["To"] == address).unwrap_or_else(|| panic!("no mail to {address}"));
        text(&mail["text"])
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.server = None;
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The worker, as docs/delivery.md has it.
fn documented_worker() -> PathBuf {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/delivery.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("```python\n").expect("the worker");
    let (code, _) = rest.split_once("```").expect("its end");
    let path = new_folder();
    fs::write(&path, code).unwrap();
    path
}

/// Starts it on `db`; which server that is on, tests/run.sh has put into the environment.
fn start_worker(db: &Database, script: &Path, mailbox: &Mailbox) -> Process {
    let mut command = Command::new(environment("ANON_AUTH_PYTHON"));
    command
        .arg(script)
        .env("PGDATABASE", &db.name)
        .env("PGUSER", "it_mailer")
        .env("SMTP_HOST", "127.0.0.1")
        .env("SMTP_PORT", mailbox.port.to_string())
        .env("SMTP_STARTTLS", "no")
        .env("MAIL_FROM", "noreply@example.org");
    Process::start(&mut command)
}

/// What follows `before` in a text, up to the end of the line.
fn after<'a>(text: &'a str, before: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before:?} in {text}"));
    rest.lines().next().unwrap_or_default().trim()
}

#[test]
fn S20_the_documented_worker_delivers_by_smtp() {
    let db = Database::new();
    drop(db.connect_with_unlimited_messages());
    let mut admin = db.connect();
    run(
        &mut admin,
        "create role it_mailer login;
         grant execute on function auth.claim_messages(integer, interval, text), auth.acknowledge_message(uuid),
             auth.fail_message(uuid, text, boolean) to it_mailer;
         select auth.set_setting('site_url', 'https://example.org')",
    );
    let (mut mailbox, script) = (Mailbox::new(), documented_worker());
    let workers = [start_worker(&db, &script, &mailbox), start_worker(&db, &script, &mailbox)];

    // The server is down: the message waits.
    let mut app = db.connect_as(APP);
    let ada = claim_address(&mut app, "Ada@Example.org");
    wait_until("the first attempt", Duration::from_secs(30), || {
        value(&mut admin, "select last_error is not null from auth.outbox")
    });
    let outbox = admin.query_one("select status, attempts, last_error from auth.outbox", &[]).unwrap();
    assert_eq!((outbox.get::<_, &str>(0), outbox.get::<_, i32>(1)), ("pending", 1));
    assert_eq!(outbox.get::<_, &str>(2), "ConnectionRefusedError");

    // It is up again, and there are more.
    mailbox.start();
    run(&mut admin, "update auth.messages set available_at = clock_timestamp()");
    for n in 0..30 {
        claim_address(&mut app, &format!("user{n}@example.org"));
    }
    wait_until("all messages are sent", Duration::from_secs(60), || {
        value(&mut admin, "select count(*) filter (where status = 'sent') = 31 from auth.outbox")
    });
    let mails = mailbox.mails();
    let recipients: HashSet<_> = mails.iter().map(|mail| text(&mail["To"])).collect();
    assert_eq!((mails.len(), recipients.len()), (31, 31));
    assert!(
        mails.iter().all(|mail| mail["From"] == "noreply@example.org" && mail["Auto-Submitted"] == "auto-generated")
    );

    // What came proves the address.
    let mail = mailbox.text_to("ada@example.org");
    let mut transaction = app.transaction().unwrap();
    authenticate(&mut transaction, &ada.access_token).unwrap();
    let code = after(&mail, "Your code: ");
    let answer: Value = transaction.query_one("select auth.verify_otp('email_change', $1)", &[&code]).unwrap().get(0);
    transaction.commit().unwrap();
    assert_eq!(
        (text(&answer["user"]["email"]), text(&answer["user"]["id"])),
        ("ada@example.org".into(), ada.user.to_string())
    );

    // So does the link.
    let mail = mailbox.text_to("user7@example.org");
    let query = after(&mail, "https://example.org/auth/confirm?token_hash=");
    let (token_hash, kind) = query.split_once("&type=").expect("the link has a type");
    let sql = "select auth.verify_otp($1, token_hash => $2)";
    let answer: Value = app.query_one(sql, &[&kind, &token_hash]).unwrap().get(0);
    assert_eq!(answer["user"]["email"], "user7@example.org");
    drop(workers);
    fs::remove_file(script).unwrap();
}

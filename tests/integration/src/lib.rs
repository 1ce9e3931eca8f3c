//! Shared helpers of the integration tests: clusters, databases, sessions, and what is asserted about errors.
//!
//! Most tests share the cluster that `tests/run.sh` starts, each in a database of its own. Those that kill or
//! configure a server start another with `tests/cluster.sh`.

use postgres::{Client, Config, Error, GenericClient, NoTls};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The role that applications connect as; may become `anon` and `authenticated`.
pub const APP: &str = "it_app";
/// A login role that was granted nothing.
pub const STRANGER: &str = "it_stranger";

/// How much larger than by default the large tests are, from the variable `ANON_AUTH_TEST_SCALE`.
pub fn scale() -> usize {
    std::env::var("ANON_AUTH_TEST_SCALE").map_or(1, |text| text.parse().expect("ANON_AUTH_TEST_SCALE is a number"))
}

/// Reads a variable that `tests/run.sh` sets.
pub fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with tests/run.sh integration"))
}

/// Whether this Postgres comes with pg_cron.
pub fn has_pg_cron() -> bool {
    environment("ANON_AUTH_PG_CRON") == "yes"
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A number that no other test of this run has.
fn serial() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Held by tests that open dozens of connections, so that two of them do not exceed `max_connections`.
pub fn crowd() -> MutexGuard<'static, ()> {
    static CROWD: Mutex<()> = Mutex::new(());
    CROWD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running Postgres cluster.
#[derive(Clone)]
pub struct Server {
    /// The folder of its socket.
    pub host: String,
    port: u16,
    user: String,
    /// Removes the cluster when the last copy goes; `None` for the shared one.
    own: Option<Arc<Own>>,
}

struct Own {
    dir: PathBuf,
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = cluster("remove", &self.dir, &[]);
    }
}

fn cluster(command: &str, dir: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(repository().join("tests/cluster.sh"))
        .arg(command)
        .arg(dir)
        .args(arguments)
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("cluster.sh {command}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Server {
    /// The cluster that all tests share.
    pub fn shared() -> Self {
        Self {
            host: environment("PGHOST"),
            port: environment("PGPORT").parse().expect("PGPORT is a number"),
            user: environment("PGUSER"),
            own: None,
        }
    }

    /// A new cluster with these Postgres settings, each `name=value`.
    pub fn start(settings: &[&str]) -> Self {
        let dir = new_folder();
        let printed = cluster("start", &dir, settings).unwrap();
        Self::own(dir, &printed)
    }

    fn own(dir: PathBuf, printed: &str) -> Self {
        let value = |name: &str| {
            let line = printed.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_else(|| panic!("cluster.sh printed no {name}")).to_owned()
        };
        Self {
            host: value("PGHOST"),
            port: value("PGPORT").parse().expect("PGPORT is a number"),
            user: value("PGUSER"),
            own: Some(Arc::new(Own { dir })),
        }
    }

    /// A new streaming standby of this cluster.
    pub fn standby(&self) -> Self {
        let dir = new_folder();
        let printed = cluster("standby", self.dir(), &[&dir.to_string_lossy()]).unwrap();
        Self::own(dir, &printed)
    }

    /// Kills the postmaster with SIGKILL.
    pub fn kill(&self) {
        cluster("kill", self.dir(), &[]).unwrap();
    }

    /// Starts the cluster again.
    pub fn recover(&self) {
        cluster("start", self.dir(), &[]).unwrap();
    }

    /// The folder of a cluster that is not the shared one.
    pub fn dir(&self) -> &Path {
        &self.own.as_ref().expect("the shared cluster is not to be stopped").dir
    }

    /// Connects to `database` as `user`.
    pub fn connect(&self, database: &str, user: &str) -> Client {
        self.try_connect(database, user).unwrap_or_else(|error| panic!("{database}, {user}: {}", describe(&error)))
    }

    /// # Errors
    /// What the server says when it refuses.
    pub fn try_connect(&self, database: &str, user: &str) -> Result<Client, Error> {
        self.config(database, user).connect(NoTls)
    }

    /// How `database` is reached as `user`.
    pub fn config(&self, database: &str, user: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.host).port(self.port).user(user).dbname(database).application_name("anon_auth_tests");
        config
    }

    /// The superuser's name.
    pub fn superuser(&self) -> &str {
        &self.user
    }

    /// Runs one of Postgres's programs against this cluster and returns what it prints.
    pub fn program(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.command(name, arguments).output().expect("the program starts");
        assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// One of Postgres's programs, set to connect to this cluster.
    pub fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(Path::new(&environment("ANON_AUTH_PG_BIN")).join(name));
        command
            .env("PGHOST", &self.host)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", &self.user)
            .env_remove("PGDATABASE")
            .args(arguments);
        command
    }
}

/// A path in the temporary folder that nothing has yet; short, since a socket's path is limited.
pub fn new_folder() -> PathBuf {
    std::env::temp_dir().join(format!("anon_auth_it.{}.{}", std::process::id(), serial()))
}

/// A database with the extension and its roles; dropped at the end.
pub struct Database {
    pub server: Server,
    pub name: String,
}

impl Database {
    /// A new database in the shared cluster.
    pub fn new() -> Self {
        Self::on(&Server::shared())
    }

    /// A new database in `server`.
    pub fn on(server: &Server) -> Self {
        let database = Self::empty(server);
        let mut client = database.connect();
        run(&mut client, "create extension anon_auth");
        prepare_roles(&mut client);
        database
    }

    /// A new database without the extension.
    pub fn empty(server: &Server) -> Self {
        let name = format!("it_{}_{}", std::process::id(), serial());
        let mut client = server.connect("postgres", &server.user);
        run(&mut client, &format!("create database {name}"));
        Self { server: server.clone(), name }
    }

    /// Connects as superuser.
    pub fn connect(&self) -> Client {
        self.server.connect(&self.name, &self.server.user)
    }

    /// Connects as `user`.
    pub fn connect_as(&self, user: &str) -> Client {
        self.server.connect(&self.name, user)
    }

    /// Connects as superuser and sets settings of the extension.
    pub fn connect_with(&self, settings: &[(&str, &str)]) -> Client {
        let mut client = self.connect();
        for (name, value) in settings {
            client.execute("select auth.set_setting($1, $2)", &[name, value]).unwrap_or_else(failed(name));
        }
        client
    }

    /// Runs `work` on `n` connections as `user` that all start at the same moment; results in their order.
    pub fn at_once<T: Send>(&self, n: usize, user: &str, work: impl Fn(usize, &mut Client) -> T + Sync) -> Vec<T> {
        let barrier = Barrier::new(n);
        let (barrier, work) = (&barrier, &work);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..n)
                .map(|i| {
                    scope.spawn(move || {
                        let client = self.server.try_connect(&self.name, user);
                        barrier.wait();
                        work(i, &mut client.expect("the server takes the connection"))
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
        })
    }
}

impl Default for Database {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // With a cluster of its own it goes anyway.
        if self.server.own.is_none()
            && let Ok(mut client) = self.server.try_connect("postgres", &self.server.user)
        {
            let _ = client.batch_execute(&format!("drop database if exists {} with (force)", self.name));
        }
    }
}

/// Makes the roles of the API and the tests' login roles. Roles belong to the cluster: two databases that make
/// them at once would collide.
pub fn prepare_roles(client: &mut Client) {
    static ROLES: Mutex<()> = Mutex::new(());
    let _guard = ROLES.lock().unwrap_or_else(PoisonError::into_inner);
    for role in [APP, STRANGER] {
        let sql = format!(
            "do $$ begin
                 if not exists (select from pg_roles where rolname = '{role}') then create role {role} login noinherit; end if;
             end $$"
        );
        run(client, &sql);
    }
    run(client, &format!("select auth.create_roles('{APP}')"));
}

/// Runs statements that have to succeed.
pub fn run(client: &mut impl GenericClient, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(failed(sql));
}

/// The one value of a query that has to succeed.
pub fn value<T: for<'a> postgres::types::FromSql<'a>>(client: &mut impl GenericClient, sql: &str) -> T {
    client.query_one(sql, &[]).unwrap_or_else(failed(sql)).get(0)
}

fn failed<T>(what: &str) -> impl FnOnce(Error) -> T {
    move |error| panic!("{what}: {}", describe(&error))
}

/// What a client got from a sign-in or a refresh.
#[derive(Clone, Debug)]
pub struct Session {
    pub user: Uuid,
    pub access_token: String,
    pub refresh_token: String,
}

impl From<Value> for Session {
    fn from(answer: Value) -> Self {
        let text = |value: &Value| value.as_str().expect("the answer is complete").to_owned();
        Self {
            user: text(&answer["user"]["id"]).parse().expect("the id is a UUID"),
            access_token: text(&answer["access_token"]),
            refresh_token: text(&answer["refresh_token"]),
        }
    }
}

/// Signs a new guest in.
pub fn sign_in(client: &mut impl GenericClient) -> Session {
    try_sign_in(client).unwrap_or_else(failed("sign-in"))
}

/// # Errors
/// Those of `auth.sign_in_anonymously()`.
pub fn try_sign_in(client: &mut impl GenericClient) -> Result<Session, Error> {
    client.query_one("select auth.sign_in_anonymously()", &[]).map(|row| row.get::<_, Value>(0).into())
}

/// # Errors
/// Those of `auth.refresh_session()`.
pub fn refresh(client: &mut impl GenericClient, token: &str) -> Result<Session, Error> {
    client.query_one("select auth.refresh_session($1)", &[&token]).map(|row| row.get::<_, Value>(0).into())
}

/// # Errors
/// Those of `auth.authenticate()`. Call it inside a transaction.
pub fn authenticate(client: &mut impl GenericClient, token: &str) -> Result<Uuid, Error> {
    client.query_one("select auth.authenticate($1)", &[&token]).map(|row| row.get(0))
}

/// # Errors
/// Those of `auth.verify_token()`.
pub fn verify(client: &mut impl GenericClient, token: &str) -> Result<Value, Error> {
    client.query_one("select auth.verify_token($1)", &[&token]).map(|row| row.get(0))
}

/// Sets the access token for the rest of the connection, as a session-wide pool would.
pub fn set_token(client: &mut impl GenericClient, token: &str) {
    client
        .execute("select set_config('anon_auth.access_token', $1, false)", &[&token])
        .unwrap_or_else(failed("set_config"));
}

/// `auth.uid()` of the next transaction.
pub fn uid(client: &mut impl GenericClient) -> Option<Uuid> {
    value(client, "select auth.uid()")
}

/// The id of a user's only session.
pub fn session_id(client: &mut impl GenericClient, user: Uuid) -> Uuid {
    client
        .query_one("select id from auth.sessions where user_id = $1", &[&user])
        .unwrap_or_else(failed("session"))
        .get(0)
}

/// Whether the user still exists.
pub fn exists(client: &mut impl GenericClient, user: Uuid) -> bool {
    client
        .query_one("select exists (select from auth.users where id = $1)", &[&user])
        .unwrap_or_else(failed("users"))
        .get(0)
}

/// SQLSTATE, message, detail and hint of an error.
pub fn describe(error: &Error) -> String {
    match error.as_db_error() {
        Some(e) => format!(
            "{}: {} | {} | {}",
            e.code().code(),
            e.message(),
            e.detail().unwrap_or_default(),
            e.hint().unwrap_or_default()
        ),
        None => error.to_string(),
    }
}

/// The SQLSTATE of an error of the server.
pub fn sqlstate(error: &Error) -> &str {
    error.code().map_or("", |code| code.code())
}

/// Asserts that a call failed with this SQLSTATE and with a message that begins with `code`; returns the
/// whole error as text.
#[track_caller]
pub fn expect_error<T>(result: Result<T, Error>, state: &str, code: &str) -> String {
    let Err(error) = result else { panic!("expected {state} {code}, but the call succeeded") };
    let text = describe(&error);
    let message = error.as_db_error().map_or("", |error| error.message());
    assert!(sqlstate(&error) == state && message.starts_with(code), "expected {state} {code}, got {text}");
    text
}

/// Asks again until the answer is yes; panics after `limit`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < limit, "waited {limit:?} for: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Pauses this thread, for limits that have to pass.
pub fn sleep(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

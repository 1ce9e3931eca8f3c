//! Shared helpers of the integration tests: clusters, databases, sessions, and what is asserted about errors.
//!
//! Most tests share the cluster that `tests/run.sh` starts, each in a database of its own. Those that kill or
//! configure a server start another with `tests/cluster.sh`.

mod database;
mod device;
mod dump;
mod history;
mod key_file;
mod openid;
mod pooler;
mod postgrest;
mod server;
mod session;
mod siteverify;
mod tls;

pub use database::*;
pub use device::*;
pub use dump::*;
pub use history::*;
pub use key_file::*;
pub use openid::*;
pub use pooler::*;
pub use postgrest::*;
pub use server::*;
pub use session::*;
pub use siteverify::*;
pub use tls::*;

use postgres::{Error, GenericClient};
use serde_json::Value;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

/// Held by tests that open dozens of connections, so that two of them do not exceed `max_connections`.
pub fn crowd() -> MutexGuard<'static, ()> {
    static CROWD: Mutex<()> = Mutex::new(());
    CROWD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs statements that have to succeed.
pub fn run(client: &mut impl GenericClient, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(failed(sql));
}

/// The one value of a query that has to succeed.
pub fn value<T: for<'a> postgres::types::FromSql<'a>>(client: &mut impl GenericClient, sql: &str) -> T {
    client.query_one(sql, &[]).unwrap_or_else(failed(sql)).get(0)
}

/// What to do where something that has to succeed fails: panic with the whole error.
pub fn failed<T>(what: &str) -> impl FnOnce(Error) -> T {
    move |error| panic!("{what}: {}", describe(&error))
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

/// The code that the message of an error begins with.
pub fn code_of(error: &Error) -> String {
    let message = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
    message.split(':').next().unwrap_or_default().to_owned()
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

/// The time in seconds since 1970-01-01 UTC.
pub fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs()
}

/// Puts members into a JSON object; null removes one.
pub fn change(object: &mut Value, changes: &Value) {
    let object = object.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => object.remove(name),
            value => object.insert(name.clone(), value.clone()),
        };
    }
}

/// Pauses this thread, for limits that have to pass.
pub fn sleep(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

//! Others who hold what a merge needs: it lets go and tries again, so that they get on.

use crate::error::{Error, Result, error};
use crate::spi::{self, Statement};
use crate::{catalog, clock, guc, worker};
use pgrx::pg_sys;
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::time::Duration;

/// How long to try again when others hold rows, in microseconds.
const PATIENCE: i64 = 10_000_000;
/// How long to wait for one lock, in milliseconds. Less than it takes others to find that they wait for us and we
/// for them: then we let go, not they.
const LOCK_TIMEOUT: i32 = 200;
/// How long others get to go on; the next time twice as long, since somebody may hold a row for long,
/// and everybody else is to get on with a table that is locked for it.
const PAUSE: Duration = Duration::from_millis(50);
/// How often to try again when another's row came in between.
const RACES: u32 = 3;

/// Tries until nobody else is in the way.
///
/// # Arguments
/// * `body` – one attempt; it is given the tables in whose rows others got in the way
pub fn attempt(mut body: impl FnMut(&BTreeSet<String>) -> Result<Value>) -> Result<Value> {
    // The caller's own limit counts, too.
    let patience = match unsafe { pg_sys::LockTimeout } {
        0 => PATIENCE,
        limit => PATIENCE.min(i64::from(limit) * 1000),
    };
    let give_up = clock::now() + patience;
    let mut contended = BTreeSet::new();
    let (mut races, mut pause) = (0, PAUSE);
    loop {
        let failed = match body(&contended) {
            Ok(report) => return Ok(report),
            Err(failed) => failed,
        };
        // Somebody holds a row, or waits for us as we do for them; or a row came in that collides.
        let is_locked = matches!(failed.sqlstate().as_str(), "40P01" | "55P03") && clock::now() < give_up;
        let is_race = matches!(failed.sqlstate().as_str(), "23505" | "23P01") || failed.has_code("conflict");
        races += u32::from(is_race);
        if !is_locked && (!is_race || races > RACES) {
            return Err(explained(failed));
        }
        contended.extend(failed.table().map(str::to_owned));
        failed.discard();
        worker::pause(pause);
        pause *= 2;
    }
}

/// The error with the table that it is about. The message of the application's own, but not its details: they show
/// rows that the caller may not be allowed to see.
fn explained(failed: Error) -> Error {
    let state = failed.sqlstate();
    let is_the_servers = failed.is_interrupt() || ["40001", "40P01"].contains(&state.as_str());
    let is_the_servers = is_the_servers || ["53", "57", "58", "XX"].iter().any(|class| state.starts_with(class));
    let is_ours = matches!(failed, Error::Ours(_));
    if is_the_servers || is_ours {
        return failed;
    }
    let table = failed.table().map(str::to_owned);
    let explained = match (&table, failed.is_lock_timeout()) {
        (Some(table), true) => locked(&format!("rows of table {table} are")),
        (None, true) => locked("the guest or the account is"),
        (Some(table), false) => error(409, "merge_failed", format!("table {table}: {}", failed.message())).hint(
            "Nothing was changed. A constraint or a trigger of the table is in the way; see auth.set_merge_rule().",
        ),
        (None, false) => return failed,
    };
    failed.discard();
    match table {
        Some(table) => explained.about(&table, ""),
        None => explained,
    }
}

fn locked(what: &str) -> Error {
    error(409, "conflict", format!("{what} locked by somebody else")).hint("Nothing was changed. Try again.")
}

/// Keeps others from writing the tables in whose rows they got in the way, and then runs `body`, which locks the users.
///
/// Those who wrote such a table, and then wait for the users' rows, have to be waited for before those are locked; and
/// nobody must write it anew meanwhile, or there would be no end to it.
pub fn without_writers(tables: &BTreeSet<String>, body: impl FnOnce() -> Result<()>) -> Result<()> {
    if tables.is_empty() {
        return body();
    }
    with_short_waits(|| {
        for table in tables {
            if let Some(relation) = find_table(table)? {
                catalog::lock_against_writers(relation).map_err(|error| error.about(table, ""))?;
            }
        }
        body()
    })
}

/// The table of that qualified and quoted name, in whatever schema: to_regclass() would ask for a right to use it.
fn find_table(name: &str) -> Result<Option<pg_sys::Oid>> {
    static FIND: Statement = Statement::latest(
        c"select t.oid from pg_catalog.pg_class t join pg_catalog.pg_namespace n on n.oid = t.relnamespace
          where pg_catalog.format('%I.%I', n.nspname, t.relname) = $1",
        &[pg_sys::TEXTOID],
    );
    Ok(FIND.first(&[spi::value(name)], |row| Ok(row.get(1)))?.flatten())
}

/// Runs `body` with a short limit on each wait for a lock.
pub fn with_short_waits<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let limit = unsafe { LOCK_TIMEOUT.min((pg_sys::DeadlockTimeout / 2).max(1)) };
    let limit = CString::new(limit.to_string()).unwrap_or_default();
    guc::with(c"lock_timeout", &limit, body)
}

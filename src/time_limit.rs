//! Running something for a limited time, by Postgres's own timers.

use crate::compat;
use crate::error::Result;
use pgrx::pg_sys;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by the timer.
static IS_OVER: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Postgres's number of the timer, once it was registered.
    static TIMER: Cell<Option<i32>> = const { Cell::new(None) };
    static IS_RUNNING: Cell<bool> = const { Cell::new(false) };
}

unsafe extern "C-unwind" {
    // utils/timeout.h, which pgrx leaves out.
    fn RegisterTimeout(id: i32, handler: unsafe extern "C" fn()) -> i32;
    fn enable_timeout_every(id: i32, first: pg_sys::TimestampTz, milliseconds: i32);
    fn disable_timeout(id: i32, keep_indicator: bool);
}

/// Stops the timer, also when a panic unwinds.
struct Timer(i32);

impl Drop for Timer {
    fn drop(&mut self) {
        unsafe { disable_timeout(self.0, false) };
        IS_RUNNING.set(false);
    }
}

/// Runs `body` as `statement_timeout` would: when the time is up, it is cancelled at the next safe point. SQL may
/// catch that and go on, but is cancelled again, every millisecond, until it ends. Within another limited run it has
/// the time that is left of that one.
///
/// # Arguments
/// * `limit` – microseconds
///
/// `Ok(None)` where the time was not enough. The (sub)transaction has to be aborted then, as after any error.
pub fn run<T>(limit: i64, body: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
    if IS_RUNNING.get() {
        return body().map(Some);
    }
    let timer = Timer(timer());
    IS_RUNNING.set(true);
    IS_OVER.store(false, Ordering::Relaxed);
    unsafe { enable_timeout_every(timer.0, pg_sys::GetCurrentTimestamp() + limit, 1) };
    let result = body();
    drop(timer);
    if !IS_OVER.swap(false, Ordering::Relaxed) {
        return result.map(Some);
    }
    // What came too late to be noticed must not cancel whatever comes next.
    unsafe { pg_sys::QueryCancelPending = 0 };
    if let Err(error) = result {
        error.discard();
    }
    Ok(None)
}

fn timer() -> i32 {
    if TIMER.get().is_none() {
        TIMER.set(Some(unsafe { RegisterTimeout(compat::USER_TIMEOUT, time_is_up) }));
    }
    TIMER.get().unwrap_or_default()
}

/// Called by a signal handler of Postgres's, which also wakes up whatever waits.
unsafe extern "C" fn time_is_up() {
    IS_OVER.store(true, Ordering::Relaxed);
    unsafe {
        pg_sys::QueryCancelPending = 1;
        pg_sys::InterruptPending = 1;
    }
}

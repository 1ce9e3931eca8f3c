//! The database's clock, in Postgres's unit and in those of tokens and ids.

use pgrx::pg_sys;

/// Seconds from the Unix epoch to Postgres's, 2000-01-01.
const EPOCH_SECONDS: i64 = 946_684_800;
const SECOND: i64 = 1_000_000;
/// In microseconds.
pub const DAY: i64 = 86_400 * SECOND;

/// The time now, in microseconds since Postgres's epoch. Limits compare with it and never with `now()`, which
/// an old transaction keeps frozen.
pub fn now() -> i64 {
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Whole seconds from now to a time that is to come, at least one.
pub fn seconds_until(time: i64) -> u64 {
    time.saturating_sub(now()).max(1).unsigned_abs().div_ceil(SECOND.unsigned_abs())
}

/// Whole seconds since the Unix epoch, as in tokens (RFC 7519 NumericDate).
pub fn unix_seconds(time: i64) -> i64 {
    time.div_euclid(SECOND) + EPOCH_SECONDS
}

/// The inverse of [`unix_seconds`], saturating.
pub fn from_unix_seconds(seconds: i64) -> i64 {
    seconds.saturating_sub(EPOCH_SECONDS).saturating_mul(SECOND)
}

/// Days since Postgres's epoch, as in the type `date`.
pub fn day(time: i64) -> i32 {
    time.div_euclid(DAY) as i32
}

/// The id that sorts before all that [`new_id`] makes after `time`.
pub fn first_id(time: i64) -> uuid::Uuid {
    let milliseconds = (time.saturating_add(EPOCH_SECONDS * SECOND)).max(0) as u64 / 1000;
    uuid::Builder::from_unix_timestamp_millis(milliseconds + 1, &[0; 10]).into_uuid()
}

/// A new UUID of version 7 (RFC 9562), so that an index on it grows at one end.
pub fn new_id(time: i64) -> uuid::Uuid {
    let nanoseconds = time.rem_euclid(SECOND) as u32 * 1000;
    let time = uuid::Timestamp::from_unix(uuid::NoContext, unix_seconds(time).max(0) as u64, nanoseconds);
    uuid::Uuid::new_v7(time)
}

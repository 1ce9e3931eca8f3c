//! Challenges: made without a row, by anybody and on a standby too; used once, which is a row, or for a guest of whom
//! nothing is stored, a note in shared memory.

use crate::error::{Error, Result, error, invalid};
use crate::function::{Args, writes};
use crate::jsonb::Jsonb;
use crate::spi::{self, Statement};
use crate::{altcha, clock, keys, postgrest, settings, shared_memory, sql_function};
use anon_auth_core::challenge::{self, Database};
use anon_auth_core::rate_limit::Rate;
use pgrx::pg_sys;
use serde_json::json;

/// What a device key signs is for nothing else.
const DEVICE: &str = "device";

/// Where challenges of this session are good.
pub fn database() -> Database {
    unsafe { Database { system: pg_sys::GetSystemIdentifier(), oid: pg_sys::MyDatabaseId.to_u32() } }
}

fn create_challenge(args: &Args) -> Result<Jsonb> {
    let purpose = args.text(0)?.unwrap_or_default();
    postgrest::forbid_caching()?;
    match purpose.as_str() {
        DEVICE => create_for_device(),
        "altcha" => altcha::create(),
        other => {
            Err(invalid(format!("\"{other}\" is not a purpose of a challenge")).hint("Purposes: device, altcha."))
        }
    }
}
sql_function!(anon_auth_create_challenge, create_challenge);

fn create_for_device() -> Result<Jsonb> {
    let lifetime = settings::current()?.challenge_lifetime;
    let (key_id, key) = keys::current_refresh()?;
    let expires_at = clock::now() + lifetime;
    Ok(Jsonb(json!({
        "token": challenge::create(key_id, &key, DEVICE, database(), expires_at),
        "expires_in": lifetime / 1_000_000,
        "expires_at": clock::unix_seconds(expires_at),
        // As Authgear's clients read it.
        "expire_at": crate::json::timestamp(expires_at),
    })))
}

/// Uses up a challenge that a device key has signed.
///
/// # Errors
/// `challenge_expired`, and serialization failures.
pub fn use_up_device(text: &str) -> Result<()> {
    let challenge = challenge::decode(text).map_err(|_| challenge_expired())?;
    let key = keys::all().refresh(challenge.key_id())?.ok_or_else(challenge_expired)?;
    let expires_at = challenge.verify(&key, DEVICE, database()).map_err(|_| challenge_expired())?;
    use_up(DEVICE, text, expires_at)
}

/// Notes that a challenge, which was made here, is used.
///
/// # Arguments
/// * `expires_at` – in microseconds since Postgres's epoch
///
/// # Errors
/// `challenge_expired`, and serialization failures.
pub fn use_up(purpose: &str, challenge: &str, expires_at: i64) -> Result<()> {
    // Of two at once the second waits for the first, and fails unless that is rolled back.
    static INSERT: Statement = Statement::new(
        c"insert into auth.used_challenges (challenge_hash, expires_at) values ($1, $2) on conflict do nothing",
        &[pg_sys::BYTEAOID, pg_sys::TIMESTAMPTZOID],
    );
    writes(c"the use of a challenge");
    let hash = anon_auth_core::code::hash(purpose, challenge);
    let is_unused = INSERT.run(&[spi::value(hash.as_slice()), spi::timestamp(expires_at)])? == 1;
    // After the row: clean-up removes it when the challenge has expired, and not before.
    if is_unused && clock::now() < expires_at { Ok(()) } else { Err(challenge_expired()) }
}

/// The same for what a rollback does not undo, since nothing is stored of it: a rollback does not undo this either. The
/// server notes it in its shared memory, so each server by itself, and until it stops. Locks and writes nothing.
///
/// # Errors
/// `challenge_expired`.
pub fn use_up_for_good(purpose: &str, challenge: &str, expires_at: i64) -> Result<()> {
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32().to_string();
    let now = clock::now();
    // A call an hour, which is as long as `challenge_lifetime` can be.
    let take = || shared_memory::get().buckets.take(&[&database, purpose, challenge], Rate::per_hour(1), now);
    if now < expires_at && take().is_ok() { Ok(()) } else { Err(challenge_expired()) }
}

/// Which of them, is nobody's business.
fn challenge_expired() -> Error {
    error(403, "challenge_expired", "the challenge is wrong or for another purpose, was used before, or has expired")
        .hint("Ask for a new one: SELECT auth.create_challenge('device');")
}

/// Deletes the rows of challenges that have expired; returns how many.
pub fn clean_up(now: i64, batch: i64) -> Result<u64> {
    static EXPIRED: Statement = Statement::planned_for_values(
        c"delete from auth.used_challenges where challenge_hash in (
              select challenge_hash from auth.used_challenges where expires_at <= $1
              order by expires_at limit $2 for update skip locked)",
        &[pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID],
    );
    EXPIRED.run(&[spi::timestamp(now), spi::value(batch)])
}

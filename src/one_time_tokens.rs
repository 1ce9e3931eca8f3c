//! Codes and links that prove something once: made, found again, used up.
//!
//! A user has one of each purpose at the most; a new one replaces the one before. All of this happens under the
//! lock of the user's row, so that two who use one at the same time do not both succeed.

use crate::error::{Result, error};
use crate::spi::{self, Row, Statement};
use crate::{clock, keys, users};
use anon_auth_core::code::{self, Binding};
use pgrx::pg_sys;
use uuid::Uuid;

/// What a code or a link is for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Purpose {
    /// To prove that an e-mail address is the user's.
    EmailChange,
    /// To prove that a phone number is the user's.
    PhoneChange,
    /// To carry a guest to where it is promoted.
    Promotion,
    /// To carry a guest to another device.
    Transfer,
}

impl Purpose {
    /// Its `token_type` in the table; of the first two the customary one.
    pub const fn name(self) -> &'static str {
        match self {
            Purpose::EmailChange => "email_change",
            Purpose::PhoneChange => "phone_change",
            Purpose::Promotion => "promotion_code",
            Purpose::Transfer => "transfer_code",
        }
    }
}

/// A stored code or link. Times are in microseconds since Postgres's epoch.
pub struct OneTimeToken {
    pub user: Uuid,
    purpose: Purpose,
    /// What it proves; empty where it is not about an address.
    pub address: String,
    code_hash: Option<Vec<u8>>,
    pub created_at: i64,
    expires_at: i64,
}

impl OneTimeToken {
    pub fn is_expired(&self) -> bool {
        clock::now() >= self.expires_at
    }

    /// Whether these are its six digits.
    pub fn is_code(&self, code: &str) -> Result<bool> {
        let Some((key_id, mac)) = self.code_hash.as_deref().and_then(|hash| hash.split_first_chunk()) else {
            return Ok(false);
        };
        let binding = Binding { user: self.user, purpose: self.purpose.name(), address: &self.address };
        Ok(keys::all().refresh(Uuid::from_bytes(*key_id))?.is_some_and(|key| binding.verify(&key, code, mac)))
    }

    /// Uses it up.
    pub fn delete(self) -> Result<()> {
        static DELETE: Statement = Statement::latest(
            c"delete from auth.one_time_tokens where user_id = $1 and token_type = $2",
            &[pg_sys::UUIDOID, pg_sys::TEXTOID],
        );
        DELETE.run(&[spi::uuid(self.user), spi::value(self.purpose.name())]).map(|_| ())
    }
}

/// Makes six digits for an address and hands them out together with the token of a link. Both are stored hashed.
///
/// # Arguments
/// * `user` – whose row the caller has locked
/// * `lifetime` – in microseconds
pub fn create_for_address(user: Uuid, purpose: Purpose, address: &str, lifetime: i64) -> Result<(String, String)> {
    let (code, token) = (code::six_digits(), code::link_token());
    let (key_id, key) = keys::current_refresh()?;
    let mac = Binding { user, purpose: purpose.name(), address }.mac(&key, &code);
    store(user, purpose, address, &token, Some(&[key_id.as_bytes(), mac.as_slice()].concat()), lifetime)?;
    Ok((code, token))
}

/// Stores what the caller made up, hashed. Returns when it expires.
///
/// # Arguments
/// * `user` – whose row the caller has locked
/// * `lifetime` – in microseconds
pub fn create(user: Uuid, purpose: Purpose, token: &str, lifetime: i64) -> Result<i64> {
    store(user, purpose, "", token, None, lifetime)
}

fn store(
    user: Uuid,
    purpose: Purpose,
    address: &str,
    token: &str,
    code_hash: Option<&[u8]>,
    lifetime: i64,
) -> Result<i64> {
    static UPSERT: Statement = Statement::new(
        c"insert into auth.one_time_tokens as t
              (id, user_id, token_type, token_hash, code_hash, relates_to, created_at, expires_at)
          values ($1, $2, $3, $4, $5, $6, $7, $8)
          on conflict (user_id, token_type) do update
          set token_hash = excluded.token_hash, code_hash = excluded.code_hash, relates_to = excluded.relates_to,
              created_at = excluded.created_at, expires_at = excluded.expires_at",
        &[
            pg_sys::UUIDOID,
            pg_sys::UUIDOID,
            pg_sys::TEXTOID,
            pg_sys::BYTEAOID,
            pg_sys::BYTEAOID,
            pg_sys::TEXTOID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::TIMESTAMPTZOID,
        ],
    );
    let now = clock::now();
    let expires_at = now + lifetime;
    // So that a deletion of the user with an older snapshot fails, rather than leave this row behind.
    users::note_activity(user, now)?;
    UPSERT.run(&[
        spi::uuid(clock::new_id(now)),
        spi::uuid(user),
        spi::value(purpose.name()),
        spi::value(code::hash(purpose.name(), token).as_slice()),
        spi::value(code_hash),
        spi::value(address),
        spi::timestamp(now),
        spi::timestamp(expires_at),
    ])?;
    Ok(expires_at)
}

/// The user's code or link of this purpose, expired ones included.
pub fn of_user(user: Uuid, purpose: Purpose) -> Result<Option<OneTimeToken>> {
    static SELECT: Statement = Statement::latest(
        c"select user_id, relates_to, code_hash, created_at, expires_at from auth.one_time_tokens
          where user_id = $1 and token_type = $2",
        &[pg_sys::UUIDOID, pg_sys::TEXTOID],
    );
    SELECT.first(&[spi::uuid(user), spi::value(purpose.name())], |row| Ok(read(row, purpose)))
}

/// Locks the user for whom this token was made and returns the token, which is not expired.
///
/// # Arguments
/// * `lock` – locks the user, and whom else it has to
///
/// # Errors
/// `otp_expired`, and serialization failures.
pub fn lock_user_of(
    purpose: Purpose,
    token: &str,
    lock: impl FnOnce(&OneTimeToken) -> Result<()>,
) -> Result<OneTimeToken> {
    static SELECT: Statement = Statement::latest(
        c"select user_id, relates_to, code_hash, created_at, expires_at from auth.one_time_tokens
          where token_hash = $1 and token_type = $2",
        &[pg_sys::BYTEAOID, pg_sys::TEXTOID],
    );
    let hash = code::hash(purpose.name(), token);
    let find =
        || SELECT.first(&[spi::value(hash.as_slice()), spi::value(purpose.name())], |row| Ok(read(row, purpose)));
    if let Some(found) = find()? {
        lock(&found)?;
        // Somebody else may have used it up before the lock was free.
        if let Some(found) = find()?
            && !found.is_expired()
        {
            return Ok(found);
        }
    }
    Err(otp_expired())
}

/// A code or link is wrong, used or expired. Which of them, is nobody's business.
pub fn otp_expired() -> crate::error::Error {
    error(403, "otp_expired", "the code or link is wrong, was used before, or has expired").hint("Ask for a new one.")
}

fn read(row: &Row, purpose: Purpose) -> OneTimeToken {
    let time = |n| row.get::<pgrx::datum::TimestampWithTimeZone>(n).map_or(0, i64::from);
    OneTimeToken {
        user: row.uuid(1),
        purpose,
        address: row.get(2).unwrap_or_default(),
        code_hash: row.get(3),
        created_at: time(4),
        expires_at: time(5),
    }
}

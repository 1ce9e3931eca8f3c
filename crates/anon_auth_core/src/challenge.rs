//! Challenges, which no table holds: when one ends, what it is for and where, is bound by a MAC under a key of the
//! server.
//!
//! A challenge is base64url without padding of 73 bytes:
//! `version (1) | key id (16) | expiry (8, big-endian) | nonce (16) | HMAC-SHA256 (32)`,
//! the MAC being over its purpose, the database, and all that precedes it.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine;
use uuid::Uuid;

use crate::BASE64URL;
use crate::random;
use crate::refresh::RefreshKey;

const VERSION: u8 = 1;
const BODY_LEN: usize = 1 + 16 + 8 + 16;
const TEXT_LEN: usize = ((BODY_LEN + 32) * 4).div_ceil(3);

/// Which database: that it was used, a copy or a restored dump does not know, so it is good in none of them.
#[derive(Clone, Copy)]
pub struct Database {
    /// Of the cluster.
    pub system: u64,
    /// In the cluster.
    pub oid: u32,
}

impl Database {
    fn bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.system.to_be_bytes());
        bytes[8..].copy_from_slice(&self.oid.to_be_bytes());
        bytes
    }
}

/// A new challenge.
///
/// # Arguments
/// * `expires` – any unit, as long as [`Challenge::verify`] is compared with the same
pub fn create(key_id: Uuid, key: &RefreshKey, purpose: &str, database: Database, expires: i64) -> String {
    let mut bytes = Vec::with_capacity(BODY_LEN + 32);
    bytes.push(VERSION);
    bytes.extend_from_slice(key_id.as_bytes());
    bytes.extend_from_slice(&expires.to_be_bytes());
    bytes.extend_from_slice(&random::nonce());
    let mac = hmac::sign(key.mac(), &message(purpose, database, &bytes));
    bytes.extend_from_slice(mac.as_ref());
    BASE64URL.encode(bytes)
}

/// Begins with another text than what else is authenticated with such a key, so that none can stand for another.
fn message(purpose: &str, database: Database, body: &[u8]) -> Vec<u8> {
    let mut message = b"challenge".to_vec();
    message.extend_from_slice(&(purpose.len() as u64).to_be_bytes());
    message.extend_from_slice(purpose.as_bytes());
    message.extend_from_slice(&database.bytes());
    message.extend_from_slice(body);
    message
}

/// A secret for one purpose and one database, made from one of the server's keys.
pub(crate) fn derived_secret(key: &RefreshKey, purpose: &str, database: Database) -> hmac::Tag {
    hmac::sign(key.mac(), &message(purpose, database, b""))
}

/// A challenge whose MAC is **not yet** verified: all that may be used of it is which key to verify it with.
pub struct Challenge(Vec<u8>);

/// Reads a challenge.
pub fn decode(text: &str) -> Result<Challenge, ChallengeError> {
    if text.len() != TEXT_LEN {
        return Err(ChallengeError);
    }
    let bytes = BASE64URL.decode(text).map_err(|_| ChallengeError)?;
    if bytes[0] != VERSION {
        return Err(ChallengeError);
    }
    Ok(Challenge(bytes))
}

impl Challenge {
    /// Which key its MAC claims to be made with.
    pub fn key_id(&self) -> Uuid {
        let mut id = [0; 16];
        id.copy_from_slice(&self.0[1..17]);
        Uuid::from_bytes(id)
    }

    /// When it expires, if `key` made it for this purpose in this database.
    pub fn verify(&self, key: &RefreshKey, purpose: &str, database: Database) -> Result<i64, ChallengeError> {
        let (body, mac) = self.0.split_at(BODY_LEN);
        hmac::verify(key.mac(), &message(purpose, database, body), mac).map_err(|_| ChallengeError)?;
        let mut expires = [0; 8];
        expires.copy_from_slice(&body[17..25]);
        Ok(i64::from_be_bytes(expires))
    }
}

/// It is not a challenge that was made here for this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChallengeError;

impl fmt::Display for ChallengeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the challenge was not made here for this purpose")
    }
}

impl std::error::Error for ChallengeError {}

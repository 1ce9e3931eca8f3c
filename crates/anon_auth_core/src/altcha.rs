//! Proof of work in ALTCHA's first form, which its widget speaks in every version and altcha-lib as `altcha-lib/v1`:
//! find the number that was hashed with a salt.
//!
//! `challenge` is SHA-256 of salt and number, `signature` an HMAC of that, both in hexadecimal. The salt ends in `&`,
//! so that none of its last digits can pass for the number's first, and carries what a verifier needs to know.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::challenge::{Database, derived_secret};
use crate::json;
use crate::random;
use crate::refresh::RefreshKey;

const ALGORITHM: &str = "SHA-256";
const PURPOSE: &str = "altcha";

/// The longest solution that is read, in bytes: two hashes, a salt and a number.
const MAX_SOLUTION_BYTES: usize = 2048;

/// A new challenge, as the widget takes it.
///
/// # Arguments
/// * `max_number` – the number to be found is from 1 to this
/// * `expires` – Unix time
pub fn create(key_id: Uuid, key: &RefreshKey, database: Database, max_number: u32, expires: i64) -> Value {
    let salt = format!("{}?expires={expires}&key={}&", hex(&random::nonce()), key_id.simple());
    let challenge = hash(&salt, 1 + u64::from(random::below(max_number)));
    let signature = sign(key, database, &challenge);
    json!({
        "algorithm": ALGORITHM,
        "challenge": challenge,
        "maxnumber": max_number,
        "salt": salt,
        "signature": signature,
    })
}

/// By a key that is text, as altcha-lib has it.
fn sign(key: &RefreshKey, database: Database, challenge: &str) -> String {
    let secret = hex(derived_secret(key, PURPOSE, database).as_ref());
    hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), challenge.as_bytes()).as_ref())
}

fn hash(salt: &str, number: u64) -> String {
    hex(digest(&SHA256, format!("{salt}{number}").as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A solution that is **not yet** verified: all that may be used of it is which key to verify it with.
pub struct Solution {
    challenge: String,
    salt: String,
    signature: String,
    number: u64,
    expires: i64,
    key_id: Uuid,
}

/// Reads a solution as the widget sends it: base64 of a JSON object.
pub fn decode(text: &str) -> Result<Solution, SolutionError> {
    if text.len() > MAX_SOLUTION_BYTES {
        return Err(SolutionError::Malformed);
    }
    let bytes = STANDARD.decode(text).map_err(|_| SolutionError::Malformed)?;
    let members = json::object(&bytes).map_err(|_| SolutionError::Malformed)?;
    if member(&members, "algorithm")? != ALGORITHM {
        return Err(SolutionError::Algorithm);
    }
    let salt = member(&members, "salt")?;
    let (expires, key_id) = read_salt(salt).ok_or(SolutionError::Malformed)?;
    Ok(Solution {
        challenge: member(&members, "challenge")?.into(),
        salt: salt.into(),
        signature: member(&members, "signature")?.into(),
        number: members.get("number").and_then(Value::as_u64).ok_or(SolutionError::Malformed)?,
        expires,
        key_id,
    })
}

fn member<'a>(members: &'a Map<String, Value>, name: &str) -> Result<&'a str, SolutionError> {
    members.get(name).and_then(Value::as_str).ok_or(SolutionError::Malformed)
}

fn read_salt(salt: &str) -> Option<(i64, Uuid)> {
    let (expires, key) = salt.split_once("?expires=")?.1.strip_suffix('&')?.split_once("&key=")?;
    Some((expires.parse().ok()?, Uuid::try_parse(key).ok()?))
}

impl Solution {
    /// Which key its signature claims to be made with.
    pub fn key_id(&self) -> Uuid {
        self.key_id
    }

    /// Verifies it. What it solved, and when that expires (Unix time).
    pub fn verify(&self, key: &RefreshKey, database: Database) -> Result<(&str, i64), SolutionError> {
        let signature = sign(key, database, &self.challenge);
        verify_slices_are_equal(signature.as_bytes(), self.signature.as_bytes())
            .map_err(|_| SolutionError::NotOurs)?;
        match hash(&self.salt, self.number) == self.challenge {
            true => Ok((&self.challenge, self.expires)),
            false => Err(SolutionError::Wrong),
        }
    }
}

/// Why a solution is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SolutionError {
    /// It is not base64 of such an object.
    Malformed,
    /// Its algorithm is not SHA-256.
    Algorithm,
    /// Its challenge was not made here.
    NotOurs,
    /// It is not the number, or the salt is another.
    Wrong,
}

impl fmt::Display for SolutionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "it is not what the ALTCHA widget sends",
            Self::Algorithm => "its algorithm is not SHA-256",
            Self::NotOurs => "its challenge was not made here",
            Self::Wrong => "it does not solve its challenge",
        })
    }
}

impl std::error::Error for SolutionError {}

//! Refresh tokens, which no table holds: what a token says is bound by a MAC under a key of the server.
//!
//! A token is base64url without padding of 89 bytes:
//! `version (1) | key id (16) | session id (16) | counter (8, big-endian) | nonce (16) | HMAC-SHA256 (32)`,
//! the MAC being over all that precedes it. The nonce is random, so that a counter alone says nothing about the
//! tokens to come.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine;
use uuid::Uuid;

use crate::BASE64URL;
use crate::keys::KeyError;
use crate::random;

const VERSION: u8 = 1;
const BODY_LEN: usize = 1 + 16 + 16 + 8 + 16;
const MAC_LEN: usize = 32;
const TOKEN_LEN: usize = BODY_LEN + MAC_LEN;
/// base64 spends four characters on three bytes.
const TEXT_LEN: usize = (TOKEN_LEN * 4).div_ceil(3);

/// The MAC key of refresh tokens: 32 bytes.
#[derive(Clone)]
pub struct RefreshKey {
    bytes: [u8; 32],
    mac: hmac::Key,
}

impl RefreshKey {
    /// A new random key.
    pub fn generate() -> Self {
        Self::new(random::bytes())
    }

    /// The key that [`bytes`](Self::bytes) gave; anything but 32 bytes is refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes = bytes.try_into().map_err(|_| KeyError::invalid("a refresh token key is 32 bytes long"))?;
        Ok(Self::new(bytes))
    }

    /// The secret itself, to be stored.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn mac(&self) -> &hmac::Key {
        &self.mac
    }

    fn new(bytes: [u8; 32]) -> Self {
        Self { mac: hmac::Key::new(hmac::HMAC_SHA256, &bytes), bytes }
    }
}

impl fmt::Debug for RefreshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshKey")
    }
}

/// What a refresh token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    /// Which [`RefreshKey`] made its MAC.
    pub key_id: Uuid,
    /// The session that it continues.
    pub session_id: Uuid,
    /// How often the session had been refreshed when it was made.
    pub counter: u64,
    /// Random bytes, equal to those in the session's row while the token is the current one.
    pub nonce: [u8; 16],
}

impl RefreshToken {
    /// The token's text, with its MAC under `key`, the key that `key_id` names.
    pub fn encode(&self, key: &RefreshKey) -> String {
        let mut bytes = Vec::with_capacity(TOKEN_LEN);
        bytes.push(VERSION);
        bytes.extend_from_slice(self.key_id.as_bytes());
        bytes.extend_from_slice(self.session_id.as_bytes());
        bytes.extend_from_slice(&self.counter.to_be_bytes());
        bytes.extend_from_slice(&self.nonce);
        bytes.extend_from_slice(hmac::sign(&key.mac, &bytes).as_ref());
        BASE64URL.encode(bytes)
    }
}

/// A token of the right shape, of which nothing may be believed before [`verify`](Self::verify).
pub struct UnverifiedRefreshToken {
    token: RefreshToken,
    body: [u8; BODY_LEN],
    mac: [u8; MAC_LEN],
}

/// Reads a token's shape: its length, its version and strict base64url.
pub fn decode(token: &str) -> Result<UnverifiedRefreshToken, RefreshError> {
    // Before anything is decoded, so that a megabyte costs nothing.
    if token.len() != TEXT_LEN {
        return Err(RefreshError::Malformed);
    }
    let bytes = BASE64URL.decode(token).map_err(|_| RefreshError::Malformed)?;
    let mut rest = bytes.as_slice();
    let body: [u8; BODY_LEN] = *rest.first_chunk().ok_or(RefreshError::Malformed)?;
    let [version] = take(&mut rest)?;
    if version != VERSION {
        return Err(RefreshError::UnknownVersion);
    }
    let token = RefreshToken {
        key_id: Uuid::from_bytes(take(&mut rest)?),
        session_id: Uuid::from_bytes(take(&mut rest)?),
        counter: u64::from_be_bytes(take(&mut rest)?),
        nonce: take(&mut rest)?,
    };
    let mac = take(&mut rest)?;
    Ok(UnverifiedRefreshToken { token, body, mac })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], RefreshError> {
    let (chunk, tail) = rest.split_first_chunk().ok_or(RefreshError::Malformed)?;
    *rest = tail;
    Ok(*chunk)
}

impl UnverifiedRefreshToken {
    /// The key that the token claims was used.
    pub fn key_id(&self) -> Uuid {
        self.token.key_id
    }

    /// What the token says, if `key` made it. Takes the same time whichever byte is wrong.
    pub fn verify(self, key: &RefreshKey) -> Result<RefreshToken, RefreshError> {
        hmac::verify(&key.mac, &self.body, &self.mac).map_err(|_| RefreshError::BadMac)?;
        Ok(self.token)
    }
}

/// Why a refresh token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshError {
    /// It has not the shape of a refresh token.
    Malformed,
    /// It is of a version that this build does not know.
    UnknownVersion,
    /// Its MAC is not the key's.
    BadMac,
}

impl fmt::Display for RefreshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the refresh token is malformed",
            Self::UnknownVersion => "the refresh token is of an unknown version",
            Self::BadMac => "the refresh token was not issued here",
        })
    }
}

impl std::error::Error for RefreshError {}

/// Names a rotation without telling its nonce: 96 bits of the nonce's SHA-256, as base64url.
pub fn fingerprint(nonce: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, nonce);
    BASE64URL.encode(&hash.as_ref()[..12])
}

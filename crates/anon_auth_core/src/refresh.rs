//! Refresh tokens, which no table holds: what a token says is bound by a MAC under a key of the server.
//!
//! A token is base64url without padding of 89 bytes:
//! `version (1) | key id (16) | session id (16) | counter (8, big-endian) | nonce (16) | HMAC-SHA256 (32)`,
//! the MAC being over all that precedes it. The nonce is random, so that a counter alone says nothing about the
//! tokens to come.
//!
//! The first token of a guest of whom nothing is stored brings along what its rows are made of:
//! `version (2) | key id (16) | session id (16) | user id (16) | created at (8) | expires at (8) | metadata | MAC (32)`.
//! Its counter is 0, and its nonce is derived from the session's id with the key, since it must be known where only
//! an access token is at hand. The session's id is random, and whoever has the key can make tokens anyway.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine;
use uuid::Uuid;

use crate::BASE64URL;
use crate::keys::KeyError;
use crate::random;

const VERSION: u8 = 1;
const LAZY_VERSION: u8 = 2;
const MAC_LEN: usize = 32;
const TOKEN_LEN: usize = 1 + 16 + 16 + 8 + 16 + MAC_LEN;
/// Without metadata.
const LAZY_TOKEN_LEN: usize = 1 + 3 * 16 + 2 * 8 + MAC_LEN;
/// The longest token that is made or read, in characters.
pub const MAX_TOKEN_BYTES: usize = 8192;

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
    /// The guest, where nothing was stored of it; then `counter` is 0 and `nonce` is [`lazy_nonce`].
    pub guest: Option<LazyGuest>,
}

/// A guest of whom nothing is stored: what its first refresh token says in place of the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LazyGuest {
    pub user_id: Uuid,
    /// When it signed in; the unit is the caller's.
    pub created_at: i64,
    /// When no token from before its rows is good any more, whatever happens.
    pub expires_at: i64,
    /// Whatever else is to be stored.
    pub metadata: Vec<u8>,
}

/// The nonce of the first refresh token of a session that is not stored.
pub fn lazy_nonce(key: &RefreshKey, session_id: Uuid) -> [u8; 16] {
    // Begins with another byte than a token, so that neither can stand for the other.
    let mac = hmac::sign(&key.mac, &[b"lazy", &session_id.as_bytes()[..]].concat());
    let mut nonce = [0; 16];
    nonce.copy_from_slice(&mac.as_ref()[..16]);
    nonce
}

impl RefreshToken {
    /// The token's text, with its MAC under `key`, the key that `key_id` names. `None` where metadata make it longer
    /// than [`MAX_TOKEN_BYTES`].
    pub fn encode(&self, key: &RefreshKey) -> Option<String> {
        let mut bytes = Vec::with_capacity(LAZY_TOKEN_LEN);
        bytes.push(if self.guest.is_some() { LAZY_VERSION } else { VERSION });
        bytes.extend_from_slice(self.key_id.as_bytes());
        bytes.extend_from_slice(self.session_id.as_bytes());
        match &self.guest {
            None => {
                bytes.extend_from_slice(&self.counter.to_be_bytes());
                bytes.extend_from_slice(&self.nonce);
            }
            Some(guest) => {
                bytes.extend_from_slice(guest.user_id.as_bytes());
                bytes.extend_from_slice(&guest.created_at.to_be_bytes());
                bytes.extend_from_slice(&guest.expires_at.to_be_bytes());
                bytes.extend_from_slice(&guest.metadata);
            }
        }
        bytes.extend_from_slice(hmac::sign(&key.mac, &bytes).as_ref());
        let text = BASE64URL.encode(bytes);
        (text.len() <= MAX_TOKEN_BYTES).then_some(text)
    }
}

/// A token of the right shape, of which nothing may be believed before [`verify`](Self::verify).
pub struct UnverifiedRefreshToken {
    key_id: Uuid,
    body: Vec<u8>,
    mac: [u8; MAC_LEN],
}

/// Reads a token's shape: its length, its version and strict base64url.
pub fn decode(token: &str) -> Result<UnverifiedRefreshToken, RefreshError> {
    // Before anything is decoded, so that a megabyte costs nothing.
    if token.len() > MAX_TOKEN_BYTES {
        return Err(RefreshError::Malformed);
    }
    let mut body = BASE64URL.decode(token).map_err(|_| RefreshError::Malformed)?;
    match body.first() {
        Some(&LAZY_VERSION) if body.len() >= LAZY_TOKEN_LEN => (),
        _ if body.len() != TOKEN_LEN => return Err(RefreshError::Malformed),
        Some(&VERSION) => (),
        _ => return Err(RefreshError::UnknownVersion),
    }
    let mac = *body.last_chunk().ok_or(RefreshError::Malformed)?;
    body.truncate(body.len() - MAC_LEN);
    let key_id = Uuid::from_bytes(take(&mut &body[1..])?);
    Ok(UnverifiedRefreshToken { key_id, body, mac })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], RefreshError> {
    let (chunk, tail) = rest.split_first_chunk().ok_or(RefreshError::Malformed)?;
    *rest = tail;
    Ok(*chunk)
}

impl UnverifiedRefreshToken {
    /// The key that the token claims was used.
    pub fn key_id(&self) -> Uuid {
        self.key_id
    }

    /// What the token says, if `key` made it. Takes the same time whichever byte is wrong.
    pub fn verify(self, key: &RefreshKey) -> Result<RefreshToken, RefreshError> {
        hmac::verify(&key.mac, &self.body, &self.mac).map_err(|_| RefreshError::BadMac)?;
        let mut rest = self.body.as_slice();
        let [version] = take(&mut rest)?;
        let key_id = Uuid::from_bytes(take(&mut rest)?);
        let session_id = Uuid::from_bytes(take(&mut rest)?);
        if version == VERSION {
            let counter = u64::from_be_bytes(take(&mut rest)?);
            return Ok(RefreshToken { key_id, session_id, counter, nonce: take(&mut rest)?, guest: None });
        }
        let guest = LazyGuest {
            user_id: Uuid::from_bytes(take(&mut rest)?),
            created_at: i64::from_be_bytes(take(&mut rest)?),
            expires_at: i64::from_be_bytes(take(&mut rest)?),
            metadata: rest.to_vec(),
        };
        let nonce = lazy_nonce(key, session_id);
        Ok(RefreshToken { key_id, session_id, counter: 0, nonce, guest: Some(guest) })
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

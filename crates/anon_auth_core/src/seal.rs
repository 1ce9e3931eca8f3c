//! Private keys at rest: AES-256-GCM-SIV (RFC 8452), which stays safe should a random nonce ever repeat.
//!
//! A sealed blob is `nonce (12 bytes) | ciphertext | tag (16 bytes)`.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};

/// Why sealing or opening failed. It does not say more, so that it tells an attacker nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealError;

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the sealed data cannot be opened: another key sealed it, it belongs elsewhere, or it was altered",
        )
    }
}

impl std::error::Error for SealError {}

/// Encrypts `plaintext` under `key` and binds it to `aad`, which is not stored: the same bytes must be given to
/// [`open`]. Two calls never give the same blob.
pub fn seal(key: &[u8; 32], plaintext: &[u8], aad: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut ciphertext = plaintext.to_vec();
    let nonce = cipher(key)?.seal_in_place_append_tag(Aad::from(aad), &mut ciphertext).map_err(|_| SealError)?;
    Ok([nonce.as_ref().as_slice(), &ciphertext].concat())
}

/// Gives back what [`seal`] got, if key, `aad` and every bit of `sealed` are those of then.
pub fn open(key: &[u8; 32], sealed: &[u8], aad: &[u8]) -> Result<Vec<u8>, SealError> {
    let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(SealError)?;
    let mut ciphertext = ciphertext.to_vec();
    let plaintext =
        cipher(key)?.open_in_place(Nonce::from(nonce), Aad::from(aad), &mut ciphertext).map_err(|_| SealError)?;
    Ok(plaintext.to_vec())
}

fn cipher(key: &[u8; 32]) -> Result<RandomizedNonceKey, SealError> {
    RandomizedNonceKey::new(&AES_256_GCM_SIV, key).map_err(|_| SealError)
}

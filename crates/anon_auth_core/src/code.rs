//! What is sent to an address, or shown to be typed elsewhere, to prove something once.

use aws_lc_rs::hmac;
use base64::Engine;
use uuid::Uuid;

use crate::BASE64URL;
use crate::digest;
use crate::random;
use crate::refresh::RefreshKey;

/// A code of six digits, each as likely as any other.
pub fn six_digits() -> String {
    format!("{:06}", random::below(1_000_000))
}

/// A token of 256 random bits, for a link: 43 characters of base64url.
pub fn link_token() -> String {
    BASE64URL.encode(random::bytes::<32>())
}

/// Crockford's base 32: without the letters that are taken for digits, and without U.
const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A code of 50 random bits to be typed on another device: two groups of five letters and digits.
pub fn typed() -> String {
    let random: [u8; 10] = random::bytes();
    let letters: String = random.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect();
    format!("{}-{}", &letters[..5], &letters[5..])
}

/// What somebody typed, as [`typed`] would have written it; `None` where it cannot be such a code. Upper and lower
/// case, hyphens and spaces do not matter, and O is 0, I and L are 1.
pub fn read_typed(text: &str) -> Option<String> {
    let mut letters = String::new();
    for character in text.chars().filter(|c| !matches!(c, '-' | ' ')) {
        let letter = match character.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            letter => letter,
        };
        if letters.len() == 10 || !letter.is_ascii() || !LETTERS.contains(&(letter as u8)) {
            return None;
        }
        letters.push(letter);
    }
    (letters.len() == 10).then(|| format!("{}-{}", &letters[..5], &letters[5..]))
}

/// What is stored of a token that cannot be guessed: SHA-256 of its purpose and the token.
pub fn hash(purpose: &str, token: &str) -> [u8; 32] {
    digest::of_parts(&[purpose, token])
}

/// What a code of six digits is for.
pub struct Binding<'a> {
    pub user: Uuid,
    pub purpose: &'a str,
    pub address: &'a str,
}

impl Binding<'_> {
    /// What is stored of a code: a MAC of it and of what it is for. A plain hash would say which of the million
    /// codes it is.
    pub fn mac(&self, key: &RefreshKey, code: &str) -> Vec<u8> {
        hmac::sign(key.mac(), &self.message(code)).as_ref().to_vec()
    }

    /// Whether `mac` is that of `code`. Takes as long either way.
    pub fn verify(&self, key: &RefreshKey, code: &str, mac: &[u8]) -> bool {
        hmac::verify(key.mac(), &self.message(code), mac).is_ok()
    }

    /// Begins with another byte than a refresh token, so that neither can stand for the other.
    fn message(&self, code: &str) -> Vec<u8> {
        let mut message = b"code".to_vec();
        message.extend_from_slice(self.user.as_bytes());
        for part in [self.purpose, self.address, code] {
            message.extend_from_slice(&(part.len() as u64).to_be_bytes());
            message.extend_from_slice(part.as_bytes());
        }
        message
    }
}

//! SHA-256 over several values, with or without a key.

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::hmac;

/// SHA-256 over `parts`.
pub fn of_parts(parts: &[&str]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    add(parts, |bytes| context.update(bytes));
    array(context.finish().as_ref())
}

/// HMAC-SHA256 over `parts`.
pub fn keyed_of_parts(key: &[u8; 32], parts: &[&str]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    add(parts, |bytes| context.update(bytes));
    array(context.sign().as_ref())
}

/// Each part is preceded by its length, so that no two lists of parts are the same text.
fn add(parts: &[&str], mut update: impl FnMut(&[u8])) {
    for part in parts {
        update(&(part.len() as u64).to_be_bytes());
        update(part.as_bytes());
    }
}

fn array(bytes: &[u8]) -> [u8; 32] {
    let mut array = [0; 32];
    array.copy_from_slice(bytes);
    array
}

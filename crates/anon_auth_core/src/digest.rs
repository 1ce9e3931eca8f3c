//! SHA-256 over several values.

use aws_lc_rs::digest::{Context, SHA256};

/// SHA-256 of `parts`, each preceded by its length, so that no two lists of parts are the same text.
pub fn of_parts(parts: &[&str]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

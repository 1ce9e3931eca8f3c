//! Random bytes from the system's generator, through AWS-LC (which notices a fork by itself).

use aws_lc_rs::rand;

/// 16 random bytes that nobody can guess.
pub fn nonce() -> [u8; 16] {
    bytes()
}

pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // AWS-LC ends the process where the system has no entropy to give, so that this cannot fail.
    rand::fill(&mut bytes).expect("the system's random number generator works");
    bytes
}

/// A random number below `limit`, each as likely as any other; 0 where `limit` is.
pub(crate) fn below(limit: u32) -> u32 {
    // Above the last full multiple of the limit the lower numbers would be likelier.
    let fair = u32::MAX - u32::MAX.checked_rem(limit).unwrap_or(0);
    loop {
        let number = u32::from_be_bytes(bytes());
        if number < fair {
            return number.checked_rem(limit).unwrap_or(0);
        }
    }
}

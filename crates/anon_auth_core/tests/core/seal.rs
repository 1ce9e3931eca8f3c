//! Private keys at rest.

use anon_auth_core::seal::{SealError, open, seal};
use proptest::prelude::*;

const KEY: [u8; 32] = [42; 32];

proptest! {
    #[test]
    fn N14_what_was_sealed_opens(key: [u8; 32], plaintext: Vec<u8>, aad: Vec<u8>) {
        let sealed = seal(&key, &plaintext, &aad).unwrap();
        prop_assert_eq!(open(&key, &sealed, &aad), Ok(plaintext));
    }

    #[test]
    fn N14_any_bytes_are_refused_without_a_panic(sealed: Vec<u8>, aad: Vec<u8>) {
        prop_assert_eq!(open(&KEY, &sealed, &aad), Err(SealError));
    }
}

#[test]
fn N14_every_bit_flipped() {
    let sealed = seal(&KEY, b"a private key", b"kid").unwrap();
    for at in 0..sealed.len() {
        for bit in 0..8 {
            let mut sealed = sealed.clone();
            sealed[at] ^= 1 << bit;
            assert_eq!(open(&KEY, &sealed, b"kid"), Err(SealError));
        }
    }
}

#[test]
fn N14_cut_short_or_grown() {
    let sealed = seal(&KEY, b"a private key", b"kid").unwrap();
    for length in 0..sealed.len() {
        assert_eq!(open(&KEY, &sealed[..length], b"kid"), Err(SealError));
    }
    assert_eq!(open(&KEY, &[&sealed[..], &[0]].concat(), b"kid"), Err(SealError));
}

#[test]
fn N14_another_key_or_place() {
    let sealed = seal(&KEY, b"a private key", b"kid").unwrap();
    for bit in 0..256 {
        let mut key = KEY;
        key[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open(&key, &sealed, b"kid"), Err(SealError));
    }
    for aad in [&b""[..], b"ki", b"kid2", b"KID", b"kid\0"] {
        assert_eq!(open(&KEY, &sealed, aad), Err(SealError));
    }
}

#[test]
fn N14_a_blob_hides_what_it_holds_and_never_repeats() {
    let blobs: std::collections::HashSet<_> =
        (0..1000).map(|_| seal(&KEY, b"a private key", b"kid").unwrap()).collect();
    assert_eq!(blobs.len(), 1000);
    for blob in blobs {
        // The nonce, the ciphertext and the tag.
        assert_eq!(blob.len(), 12 + b"a private key".len() + 16);
        assert!(!blob.windows(7).any(|window| window == b"private"));
    }
}

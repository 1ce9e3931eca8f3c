//! Refresh tokens.

use anon_auth_core::random;
use anon_auth_core::refresh::{RefreshError, RefreshKey, RefreshToken, decode};
use proptest::prelude::*;
use uuid::Uuid;

use crate::support::{bytes, text};

fn token() -> RefreshToken {
    RefreshToken {
        key_id: Uuid::from_u128(1),
        session_id: Uuid::from_u128(u128::MAX - 1),
        counter: 7,
        nonce: random::nonce(),
    }
}

fn read(text: &str, key: &RefreshKey) -> Result<RefreshToken, RefreshError> {
    decode(text)?.verify(key)
}

proptest! {
    #[test]
    fn S6_a_token_comes_back_as_it_went_in(
        key_id: u128, session_id: u128, nonce: [u8; 16], secret: [u8; 32],
        counter in prop_oneof![any::<u64>(), Just(0), Just(u64::MAX)],
    ) {
        let key = RefreshKey::from_bytes(&secret).unwrap();
        let token = RefreshToken {
            key_id: Uuid::from_u128(key_id), session_id: Uuid::from_u128(session_id), counter, nonce,
        };
        let text = token.encode(&key);
        prop_assert_eq!(text.len(), 119);
        prop_assert_eq!(decode(&text).unwrap().key_id(), token.key_id);
        prop_assert_eq!(read(&text, &key), Ok(token));
    }

    #[test]
    fn S6_any_text_is_refused_without_a_panic(any in ".{0,200}", right_length in "[A-Za-z0-9_-]{119}", wide in "\\PC{119}") {
        let key = RefreshKey::generate();
        for text in [any, right_length, wide] {
            prop_assert!(read(&text, &key).is_err());
        }
    }
}

/// The layout is fixed: tokens outlive an update of the extension.
#[test]
fn S6_the_layout_does_not_change() {
    let key = RefreshKey::from_bytes(&[7; 32]).unwrap();
    let token = RefreshToken {
        key_id: Uuid::from_bytes([1; 16]),
        session_id: Uuid::from_bytes([2; 16]),
        counter: 3,
        nonce: [4; 16],
    };
    let encoded = bytes(&token.encode(&key));
    let body = [&[1_u8][..], &[1; 16], &[2; 16], &[0, 0, 0, 0, 0, 0, 0, 3], &[4; 16]].concat();
    assert_eq!(encoded[..57], body);
    let mac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &[7; 32]);
    assert_eq!(encoded[57..], *aws_lc_rs::hmac::sign(&mac, &body).as_ref());
}

#[test]
fn S6_every_bit_flipped() {
    let key = RefreshKey::generate();
    let good = token().encode(&key);
    assert!(read(&good, &key).is_ok());
    // Of the value …
    let value = bytes(&good);
    for at in 0..value.len() {
        for bit in 0..8 {
            let mut value = value.clone();
            value[at] ^= 1 << bit;
            let expected = if at == 0 { RefreshError::UnknownVersion } else { RefreshError::BadMac };
            assert_eq!(read(&text(value), &key), Err(expected), "bit {bit} of byte {at}");
        }
    }
    // … and of its text: the last character has two bits to spare.
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut text = good.clone().into_bytes();
            text[at] ^= 1 << bit;
            if let Ok(text) = String::from_utf8(text) {
                assert!(read(&text, &key).is_err(), "bit {bit} of byte {at}");
            }
        }
    }
}

#[test]
fn S6_another_key_is_refused() {
    let text = token().encode(&RefreshKey::generate());
    assert_eq!(read(&text, &RefreshKey::generate()), Err(RefreshError::BadMac));
}

#[test]
fn S6_other_lengths_are_refused() {
    let key = RefreshKey::generate();
    let good = token().encode(&key);
    for length in 0..good.len() {
        assert_eq!(read(&good[..length], &key), Err(RefreshError::Malformed));
    }
    for tail in ["A", "=", "==", " ", "\n", &"A".repeat(1 << 20)] {
        assert_eq!(read(&format!("{good}{tail}"), &key), Err(RefreshError::Malformed));
    }
    let value = bytes(&good);
    assert_eq!(read(&text(&value[1..]), &key), Err(RefreshError::Malformed));
    assert_eq!(read(&text([value.as_slice(), &[0]].concat()), &key), Err(RefreshError::Malformed));
}

#[test]
fn S6_a_key_is_32_bytes() {
    for length in [0, 1, 31, 33, 64, 1 << 20] {
        assert!(RefreshKey::from_bytes(&vec![1; length]).is_err());
    }
    let key = RefreshKey::generate();
    let text = token().encode(&key);
    let again = RefreshKey::from_bytes(key.bytes()).unwrap();
    assert!(read(&text, &again).is_ok());
}

#[test]
fn N14_a_key_does_not_print_itself() {
    let key = RefreshKey::from_bytes(&[171; 32]).unwrap();
    assert_eq!(format!("{key:?}"), "RefreshKey");
}

#[test]
fn N19_nonces_do_not_repeat() {
    let nonces: std::collections::HashSet<_> = (0..10_000).map(|_| random::nonce()).collect();
    assert_eq!(nonces.len(), 10_000);
}

//! Refresh tokens.

use anon_auth_core::random;
use anon_auth_core::refresh::{
    LazyGuest, MAX_TOKEN_BYTES, RefreshError, RefreshKey, RefreshToken, decode, lazy_nonce,
};
use proptest::prelude::*;
use uuid::Uuid;

use crate::support::{bytes, text};

fn token() -> RefreshToken {
    RefreshToken {
        key_id: Uuid::from_u128(1),
        session_id: Uuid::from_u128(u128::MAX - 1),
        counter: 7,
        nonce: random::nonce(),
        guest: None,
    }
}

/// The first token of a guest of whom nothing is stored.
fn lazy_token(key: &RefreshKey, metadata: &[u8]) -> RefreshToken {
    let session_id = Uuid::from_u128(5);
    let guest = LazyGuest { user_id: Uuid::from_u128(6), created_at: -7, expires_at: 8, metadata: metadata.to_vec() };
    RefreshToken {
        key_id: Uuid::from_u128(1),
        session_id,
        counter: 0,
        nonce: lazy_nonce(key, session_id),
        guest: Some(guest),
    }
}

fn encode(token: &RefreshToken, key: &RefreshKey) -> String {
    token.encode(key).expect("it is not too long")
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
            guest: None,
        };
        let text = encode(&token, &key);
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

    #[test]
    fn W2_a_lazy_token_comes_back_as_it_went_in(
        key_id: u128, session_id: u128, user_id: u128, created_at: i64, expires_at: i64, secret: [u8; 32],
        metadata in prop::collection::vec(any::<u8>(), 0..6000),
    ) {
        let key = RefreshKey::from_bytes(&secret).unwrap();
        let session_id = Uuid::from_u128(session_id);
        let guest = LazyGuest { user_id: Uuid::from_u128(user_id), created_at, expires_at, metadata };
        let token = RefreshToken {
            key_id: Uuid::from_u128(key_id), session_id, counter: 0, nonce: lazy_nonce(&key, session_id),
            guest: Some(guest),
        };
        prop_assert_eq!(read(&encode(&token, &key), &key), Ok(token));
    }

    #[test]
    fn W2_any_bytes_as_a_lazy_token_are_refused(mut value in prop::collection::vec(any::<u8>(), 1..400)) {
        value[0] = 2;
        prop_assert!(read(&text(value), &RefreshKey::generate()).is_err());
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
        guest: None,
    };
    let encoded = bytes(&encode(&token, &key));
    let body = [&[1_u8][..], &[1; 16], &[2; 16], &[0, 0, 0, 0, 0, 0, 0, 3], &[4; 16]].concat();
    assert_eq!(encoded[..57], body);
    let mac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &[7; 32]);
    assert_eq!(encoded[57..], *aws_lc_rs::hmac::sign(&mac, &body).as_ref());
}

#[test]
fn S6_every_bit_flipped() {
    let key = RefreshKey::generate();
    let good = encode(&token(), &key);
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
    let text = encode(&token(), &RefreshKey::generate());
    assert_eq!(read(&text, &RefreshKey::generate()), Err(RefreshError::BadMac));
}

#[test]
fn S6_other_lengths_are_refused() {
    let key = RefreshKey::generate();
    let good = encode(&token(), &key);
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
    let text = encode(&token(), &key);
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

/// The layout of the first token of a guest of whom nothing is stored is fixed, too.
#[test]
fn W2_the_layout_of_a_lazy_token_does_not_change() {
    let key = RefreshKey::from_bytes(&[7; 32]).unwrap();
    let encoded = bytes(&encode(&lazy_token(&key, b"{}"), &key));
    let [one, five, six] = [1, 5, 6].map(|n| *Uuid::from_u128(n).as_bytes());
    let body = [&[2_u8][..], &one, &five, &six, &(-7_i64).to_be_bytes(), &8_i64.to_be_bytes(), b"{}"].concat();
    assert_eq!(encoded[..67], body);
    let mac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &[7; 32]);
    assert_eq!(encoded[67..], *aws_lc_rs::hmac::sign(&mac, &body).as_ref());
    let derived = aws_lc_rs::hmac::sign(&mac, &[b"lazy", &five[..]].concat());
    assert_eq!(lazy_nonce(&key, Uuid::from_u128(5)), derived.as_ref()[..16]);
}

/// Every byte counts, those of the metadata included, and bytes cannot be moved from one field to another.
#[test]
fn N20_a_lazy_token_that_was_altered() {
    let key = RefreshKey::generate();
    let value = bytes(&encode(&lazy_token(&key, br#"{"app_metadata":{"plan":"free"}}"#), &key));
    for at in 0..value.len() {
        for bit in 0..8 {
            let mut value = value.clone();
            value[at] ^= 1 << bit;
            assert!(read(&text(value), &key).is_err(), "bit {bit} of byte {at}");
        }
    }
    for (from, to) in [(value.len() - 32, value.len() - 32), (65, 66), (0, 1)] {
        let longer = [&value[..from], b"x", &value[from..]].concat();
        assert!(read(&text(longer), &key).is_err());
        let shorter = [&value[..from.min(to - 1)], &value[to..]].concat();
        assert!(read(&text(shorter), &key).is_err());
    }
    assert_eq!(read(&text(value), &RefreshKey::generate()), Err(RefreshError::BadMac));
}

/// A token of the one kind with the version of the other.
#[test]
fn N20_one_version_does_not_pass_for_the_other() {
    let key = RefreshKey::generate();
    let mut stored = bytes(&encode(&token(), &key));
    stored[0] = 2;
    assert_eq!(read(&text(stored), &key), Err(RefreshError::UnknownVersion));
    let mut lazy = bytes(&encode(&lazy_token(&key, b""), &key));
    lazy[0] = 1;
    assert_eq!(read(&text(lazy), &key), Err(RefreshError::Malformed));
}

#[test]
fn W2_a_lazy_token_is_8_kib_at_the_longest() {
    let key = RefreshKey::generate();
    let most = MAX_TOKEN_BYTES / 4 * 3 - 97;
    assert_eq!(encode(&lazy_token(&key, &vec![b'x'; most]), &key).len(), MAX_TOKEN_BYTES);
    assert_eq!(lazy_token(&key, &vec![b'x'; most + 1]).encode(&key), None);
}

#[test]
fn W2_lazy_nonces_are_the_key_s_and_the_session_s() {
    let (key, other) = (RefreshKey::generate(), RefreshKey::generate());
    let nonce = lazy_nonce(&key, Uuid::from_u128(1));
    assert_eq!(nonce, lazy_nonce(&key, Uuid::from_u128(1)));
    assert_ne!(nonce, lazy_nonce(&other, Uuid::from_u128(1)));
    assert_ne!(nonce, lazy_nonce(&key, Uuid::from_u128(2)));
}

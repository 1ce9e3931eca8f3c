//! Codes: random, bound to what they are for, read as people type them.

use std::collections::HashSet;

use anon_auth_core::code::{Binding, hash, link_token, read_typed, six_digits, typed};
use anon_auth_core::refresh::RefreshKey;
use proptest::prelude::*;
use uuid::Uuid;

#[test]
fn S8_codes_are_random() {
    let codes: Vec<String> = (0..10_000).map(|_| six_digits()).collect();
    assert!(codes.iter().all(|code| code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit())));
    // Of 10,000 draws of a million, about 9,950 differ; every first digit has a tenth of them.
    assert!(codes.iter().collect::<HashSet<_>>().len() > 9_850);
    for digit in "0123456789".chars() {
        let share = codes.iter().filter(|code| code.starts_with(digit)).count();
        assert!((800..1200).contains(&share), "{share} codes begin with {digit}");
    }
    let tokens: HashSet<String> = (0..1000).map(|_| link_token()).collect();
    assert!(tokens.len() == 1000 && tokens.iter().all(|token| token.len() == 43));
    let typed: HashSet<String> = (0..1000).map(|_| typed()).collect();
    assert!(typed.len() == 1000 && typed.iter().all(|code| read_typed(code).as_ref() == Some(code)));
}

#[test]
fn N5_a_code_is_bound_to_user_purpose_and_address() {
    let key = RefreshKey::generate();
    let binding = |user: u128, purpose, address| Binding { user: Uuid::from_u128(user), purpose, address };
    let mac = binding(1, "email_change", "ada@example.org").mac(&key, "123456");
    assert!(binding(1, "email_change", "ada@example.org").verify(&key, "123456", &mac));
    for other in [
        binding(2, "email_change", "ada@example.org"),
        binding(1, "phone_change", "ada@example.org"),
        binding(1, "email_change", "bob@example.org"),
        binding(1, "email_changea", "da@example.org"),
        binding(1, "email_change", "ada@example.org1"),
    ] {
        assert!(!other.verify(&key, "123456", &mac) && !other.verify(&key, "23456", &mac));
    }
    let same = binding(1, "email_change", "ada@example.org");
    for code in ["123457", "12345", "1234567", "", "123456 "] {
        assert!(!same.verify(&key, code, &mac), "{code}");
    }
    for mac in [&mac[..31], &[], &[&mac[..], b"x"].concat()] {
        assert!(!same.verify(&key, "123456", mac));
    }
    assert!(!same.verify(&RefreshKey::generate(), "123456", &mac));
}

#[test]
fn N5_a_token_is_bound_to_its_purpose() {
    assert_eq!(hash("a", "token"), hash("a", "token"));
    assert_ne!(hash("a", "token"), hash("b", "token"));
    assert_ne!(hash("ab", "c"), hash("a", "bc"));
}

#[test]
fn W10_a_code_is_read_as_people_type_it() {
    for text in ["01ABC-DEFGH", "01abcdefgh", " o1abc defgh ", "OlABC-DEFGH", "0IABC--DEFGH"] {
        assert_eq!(read_typed(text).as_deref(), Some("01ABC-DEFGH"), "{text}");
    }
    for text in ["", "01ABC-DEFG", "01ABC-DEFGHJ", "U1ABC-DEFGH", "01ABC_DEFGH", "01ABC-DEFGÄ", "\u{130}1ABC-DEFGH"]
    {
        assert_eq!(read_typed(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn W10_reading_never_panics(text in "\\PC*") {
        if let Some(code) = read_typed(&text) {
            prop_assert_eq!(read_typed(&code), Some(code));
        }
    }
}

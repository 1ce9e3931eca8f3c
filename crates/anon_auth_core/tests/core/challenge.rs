//! Challenges: bound to key, purpose, database and time.

use std::collections::HashSet;

use anon_auth_core::challenge::{ChallengeError, Database, create, decode};
use anon_auth_core::refresh::RefreshKey;
use proptest::prelude::*;
use uuid::Uuid;

const HERE: Database = Database { system: 7, oid: 5 };
const KEY_ID: Uuid = Uuid::from_u128(3);

#[test]
fn A3_a_challenge_is_bound_to_what_it_was_made_for() {
    let key = RefreshKey::generate();
    let text = create(KEY_ID, &key, "device", HERE, 12_345);
    let challenge = decode(&text).unwrap();
    assert_eq!(challenge.key_id(), KEY_ID);
    assert_eq!(challenge.verify(&key, "device", HERE), Ok(12_345));
    for (purpose, database) in [
        ("altcha", HERE),
        ("devic", HERE),
        ("", HERE),
        ("device", Database { system: 8, ..HERE }),
        ("device", Database { oid: 6, ..HERE }),
    ] {
        assert_eq!(challenge.verify(&key, purpose, database), Err(ChallengeError));
    }
    assert_eq!(challenge.verify(&RefreshKey::generate(), "device", HERE), Err(ChallengeError));
}

#[test]
fn A3_no_two_challenges_are_alike() {
    let key = RefreshKey::generate();
    let all: HashSet<String> = (0..1000).map(|_| create(KEY_ID, &key, "device", HERE, 1)).collect();
    assert!(all.len() == 1000 && all.iter().all(|text| text.len() == 98));
}

#[test]
fn N9_every_bit_flipped() {
    let key = RefreshKey::generate();
    let text = create(KEY_ID, &key, "device", HERE, 12_345);
    for at in 0..text.len() {
        for bit in 0..7 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let flipped = String::from_utf8(bytes).unwrap();
            let verified = decode(&flipped).and_then(|challenge| challenge.verify(&key, "device", HERE));
            assert_eq!(verified, Err(ChallengeError), "bit {bit} of byte {at}");
        }
    }
    for text in [&text[1..], &text[..97], &format!("{text}A"), ""] {
        assert_eq!(decode(text).err(), Some(ChallengeError));
    }
}

proptest! {
    #[test]
    fn N9_no_text_is_a_challenge_or_panics(text in "[-_A-Za-z0-9]{98}|\\PC*") {
        if let Ok(challenge) = decode(&text) {
            prop_assert_eq!(challenge.verify(&RefreshKey::generate(), "device", HERE), Err(ChallengeError));
        }
    }
}

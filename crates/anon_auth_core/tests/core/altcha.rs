//! ALTCHA's proof of work: interchangeable with altcha-lib, and refused where anything was altered.

use anon_auth_core::altcha::{SolutionError, create, decode};
use anon_auth_core::challenge::Database;
use anon_auth_core::refresh::RefreshKey;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

const HERE: Database = Database { system: 1, oid: 2 };
const KEY_ID: Uuid = Uuid::from_u128(0x0198_a000_0000_7000_8000_0000_0000_00aa);
const EXPIRES: i64 = 1_800_000_000;

fn key() -> RefreshKey {
    RefreshKey::from_bytes(&[7; 32]).unwrap()
}

/// A challenge that altcha-lib 2.8.0 made (`altcha-lib/v1`), with the secret of [`key`] and this database for its
/// `hmacKey`, and the number 4711.
fn by_altcha_lib() -> Value {
    json!({
        "algorithm": "SHA-256",
        "challenge": "51e2a043d6298429df803fd0c0bc79ac02434ea42e6c0e55a225f96144ff3725",
        "salt": "00112233445566778899aabbccddeeff?expires=1800000000&key=0198a0000000700080000000000000aa&",
        "signature": "a16f41c44ddb64951ab514667fe1ff9046c82d39890dda0e227be5b5b5c93b29",
        "number": 4711,
    })
}

/// What the widget sends.
fn sent(solution: &Value) -> String {
    STANDARD.encode(solution.to_string())
}

fn verify(text: &str) -> Result<i64, SolutionError> {
    let solution = decode(text)?;
    assert_eq!(solution.key_id(), KEY_ID);
    solution.verify(&key(), HERE).map(|(_, expires)| expires)
}

/// Does the work.
fn solve(mut challenge: Value) -> Value {
    let max = challenge["maxnumber"].as_u64().unwrap();
    challenge.as_object_mut().unwrap().remove("maxnumber");
    for number in 0..=max {
        challenge["number"] = number.into();
        if verify(&sent(&challenge)).is_ok() {
            assert!(number >= 1);
            return challenge;
        }
    }
    panic!("{challenge} has no solution up to {max}");
}

#[test]
fn W6_a_challenge_of_altcha_lib_with_our_key_is_ours() {
    assert_eq!(verify(&sent(&by_altcha_lib())), Ok(EXPIRES));
    let mut with_time = by_altcha_lib();
    with_time["took"] = json!(1234.5);
    assert_eq!(verify(&sent(&with_time)), Ok(EXPIRES));
}

#[test]
fn W6_what_is_made_here_is_solved_here() {
    for max in [1, 2, 100] {
        let challenge = create(KEY_ID, &key(), HERE, max, EXPIRES);
        assert_eq!(challenge["maxnumber"], max);
        let solution = solve(challenge);
        assert_eq!(verify(&sent(&solution)), Ok(EXPIRES));
    }
}

#[test]
fn W6_altered_in_any_member_it_is_refused() {
    let good = by_altcha_lib();
    let altered = |member: &str, value: Value| {
        let mut solution = good.clone();
        solution[member] = value;
        verify(&sent(&solution)).unwrap_err()
    };
    for number in [0, 4710, 4712, u64::MAX] {
        assert_eq!(altered("number", json!(number)), SolutionError::Wrong);
    }
    for number in [json!(-4711), json!(4711.5), json!("4711"), json!(null), json!([4711]), json!(1e300)] {
        assert_eq!(altered("number", number), SolutionError::Malformed);
    }
    for algorithm in ["SHA-1", "SHA-512", "SHA-384", "sha-256", "", "PBKDF2/SHA-256"] {
        assert_eq!(altered("algorithm", json!(algorithm)), SolutionError::Algorithm);
    }
    // A later end; another beginning; digits of the number moved into the salt.
    let salt = good["salt"].as_str().unwrap();
    for salt in [salt.replace("1800000000", "1900000000"), salt.replacen('0', "1", 1)] {
        assert_eq!(altered("salt", json!(salt)), SolutionError::Wrong);
    }
    let mut spliced = good.clone();
    spliced["salt"] = json!(format!("{salt}47"));
    spliced["number"] = json!(11);
    assert_eq!(verify(&sent(&spliced)).unwrap_err(), SolutionError::Malformed);
    for salt in
        ["", "?expires=", "?expires=1&key=&", "a?expires=99999999999999999999&key=0198a0000000700080000000000000aa&"]
    {
        assert_eq!(altered("salt", json!(salt)), SolutionError::Malformed);
    }
    for challenge in ["", "51e2", &"0".repeat(64), &good["challenge"].as_str().unwrap().to_uppercase()] {
        assert_eq!(altered("challenge", json!(challenge)), SolutionError::NotOurs);
    }
    for signature in ["", "a16f", &"0".repeat(64), &good["signature"].as_str().unwrap().to_uppercase()] {
        assert_eq!(altered("signature", json!(signature)), SolutionError::NotOurs);
    }
}

#[test]
fn W6_bound_to_key_and_database() {
    let text = sent(&by_altcha_lib());
    let solution = decode(&text).unwrap();
    assert!(solution.verify(&key(), HERE).is_ok());
    assert_eq!(solution.verify(&RefreshKey::generate(), HERE), Err(SolutionError::NotOurs));
    assert_eq!(solution.verify(&key(), Database { oid: 3, ..HERE }), Err(SolutionError::NotOurs));
}

#[test]
fn W6_only_base64_of_one_json_object_is_read() {
    let good = by_altcha_lib().to_string();
    for text in [
        String::new(),
        good.clone(),
        STANDARD.encode("[]"),
        STANDARD.encode("null"),
        STANDARD.encode(&good[1..]),
        STANDARD.encode(good.replacen('{', r#"{"number":4711,"#, 1)),
        format!("{}=", STANDARD.encode(&good)),
        format!("{} ", STANDARD.encode(&good)),
        STANDARD.encode(good.replace('}', &format!(r#","x":"{}"}}"#, "a".repeat(2048)))),
    ] {
        assert_eq!(decode(&text).err(), Some(SolutionError::Malformed), "{text}");
    }
}

proptest! {
    #[test]
    fn W6_no_text_panics(text in "\\PC*") {
        let _ = decode(&text);
        let _ = decode(&STANDARD.encode(&text));
    }
}

//! Passwords: Argon2id, as others compute it, and nothing but.

use anon_auth_core::password::{Cost, PasswordError, hash, verify};

const CHEAP: Cost = Cost { memory: 64, iterations: 1, parallelism: 1 };

#[test]
fn N14_a_password_matches_its_hash_and_no_other() {
    for password in ["correct horse", "", "ä", "\u{0}", &"x".repeat(1024)] {
        let stored = hash(password, CHEAP).unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{stored}");
        assert_eq!(verify(password, &stored), Ok(true));
        assert_eq!(verify(&format!("{password} "), &stored), Ok(false));
        // A salt of its own.
        assert_ne!(hash(password, CHEAP).unwrap(), stored);
    }
}

/// Made with the reference implementation: `printf password | argon2 somesalt -id -t 2 -k 65536 -p 1 -l 32 -e`; the
/// value of its own test suite.
#[test]
fn N14_hashes_of_the_reference_implementation_match() {
    let stored = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    assert_eq!(verify("password", stored), Ok(true));
    assert_eq!(verify("differentpassword", stored), Ok(false));
}

#[test]
fn N14_no_other_hash_is_taken_for_one() {
    for stored in [
        "",
        "correct horse",
        "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy",
        "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA",
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ",
        "$argon2id$v=19$m=65536,t=2,p=1",
        "$argon2id$v=99$m=64,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$argon2id$v=19$m=1,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$argon2id$v=19$m=4294967295,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
    ] {
        assert_eq!(verify("correct horse", stored), Err(PasswordError::Unknown), "{stored}");
    }
}

#[test]
fn N14_what_cannot_be_computed_is_an_error() {
    assert_eq!(hash("x", Cost { memory: 8, iterations: 1, parallelism: 16 }), Err(PasswordError::Cost));
    assert_eq!(hash("x", Cost { iterations: 0, ..CHEAP }), Err(PasswordError::Cost));
}

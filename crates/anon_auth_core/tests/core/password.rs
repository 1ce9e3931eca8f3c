//! Passwords: Argon2id, as others compute it; hashes that users bring along; and nothing but.

use anon_auth_core::password::{Cost, PasswordError, from_better_auth, hash, is_known, is_of_cost, verify};

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
        "$2b$04$co.zxPuQvFqnLtdrfivynOyEQj0fZ.LRQVyl6AWJ/ftQs.ViILzX",
        "$2b$31$co.zxPuQvFqnLtdrfivynOyEQj0fZ.LRQVyl6AWJ/ftQs.ViILzXO",
        "$2b$04$co.zxPuQvFqnLtdrfivyn!yEQj0fZ.LRQVyl6AWJ/ftQs.ViILzXO",
        "$2",
        "$scrypt$ln=14,r=8$U29kaXVtQ2hsb3JpZGU$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofI",
        "$scrypt$ln=31,r=8,p=1$U29kaXVtQ2hsb3JpZGU$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofI",
        "$scrypt$ln=14,r=4294967295,p=1$U29kaXVtQ2hsb3JpZGU$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofI",
        "$scrypt$ln=1,r=1,p=1000000$U29kaXVtQ2hsb3JpZGU$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofI",
        "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA",
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ",
        "$argon2id$v=19$m=65536,t=2,p=1",
        "$argon2id$v=99$m=64,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$argon2id$v=19$m=1,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$argon2id$v=19$m=4294967295,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$argon2id$v=19$m=64,t=4294967295,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
    ] {
        // Whether bcrypt's characters are all of its alphabet, only computing it tells.
        assert!(!is_known(stored) || stored.starts_with("$2b$04"), "{stored}");
        assert_eq!(verify("correct horse", stored), Err(PasswordError::Unknown), "{stored}");
    }
}

#[test]
fn N14_what_cannot_be_computed_is_an_error() {
    assert_eq!(hash("x", Cost { memory: 8, iterations: 1, parallelism: 16 }), Err(PasswordError::Cost));
    assert_eq!(hash("x", Cost { iterations: 0, ..CHEAP }), Err(PasswordError::Cost));
}

/// Made with the npm package bcryptjs.
#[test]
fn N14_hashes_by_bcrypt_match() {
    let stored = "$2b$04$co.zxPuQvFqnLtdrfivynOyEQj0fZ.LRQVyl6AWJ/ftQs.ViILzXO";
    for form in ["$2a", "$2b", "$2y"] {
        let stored = stored.replacen("$2b", form, 1);
        assert_eq!(verify("correct horse", &stored), Ok(true), "{stored}");
        assert!(is_known(&stored));
        assert_eq!(verify("correct hors", &stored), Ok(false), "{stored}");
        // So it is replaced at the next sign-in.
        assert!(!is_of_cost(&stored, CHEAP));
    }
    let stored = "$2b$04$ohmy/ThibvOJgwTUNRnxxOAJYXH9X72wIPU70pxmClR.QvZVsCKHq";
    assert_eq!(verify(&"x".repeat(72), stored), Ok(true));
    assert_eq!(verify(&"x".repeat(71), stored), Ok(false));
}

/// RFC 7914, section 12.
#[test]
fn N14_hashes_by_scrypt_match() {
    let stored = "$scrypt$ln=14,r=8,p=1$U29kaXVtQ2hsb3JpZGU\
                  $cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofLVQylVYT8Pz2LUlwUkKpr55h6F3A1lHkDfzwF7RVdYhw";
    assert_eq!(verify("pleaseletmein", stored), Ok(true));
    assert_eq!(verify("pleaseletmeout", stored), Ok(false));
    assert!(!is_of_cost(stored, CHEAP));
}

/// Made with better-auth 1.7.
#[test]
fn N14_hashes_of_better_auth_match() {
    let stored = from_better_auth(
        "b8a6e6e9bc8466867c42415aa31fa54e:55ded0b1f1a574d51806d2159dbae0724f8eaf3002497fed6fb81ae5fceca7da\
         1ce4b2e115879db53fbe929a75300083097ea89ef6d480b22aa421321231c1bf",
    )
    .unwrap();
    assert!(stored.starts_with("$scrypt$ln=14,r=16,p=1$"), "{stored}");
    for password in ["\u{e4}ngstrom \u{212b}", "a\u{308}ngstrom \u{c5}"] {
        assert_eq!(verify(password, &stored), Ok(true));
    }
    assert_eq!(verify("angstrom", &stored), Ok(false));
    assert!(is_known(&stored) && is_known(&hash("x", CHEAP).unwrap()));
    for text in
        ["", "x", "$2b$31$co.zxPuQvFqnLtdrfivynOyEQj0fZ.LRQVyl6AWJ/ftQs.ViILzXO", "$fbscrypt$v=1,n=14,r=8,p=1$x$y"]
    {
        assert!(!is_known(text), "{text}");
    }
    for text in ["", ":", "ab", "ab:", "ab:0", "ab:zz", "ab:\u{e4}b", &format!("ab:{}", "00".repeat(65))] {
        assert_eq!(from_better_auth(text), None, "{text}");
    }
}

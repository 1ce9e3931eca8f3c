//! Keys as bytes.

use anon_auth_core::algorithm::Algorithm;
use anon_auth_core::keys::{KeyError, SigningKey, VerifyingKey};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use proptest::prelude::*;

use crate::support::key;

const MESSAGE: &[u8] = b"a message";

fn is_invalid(result: Result<impl Sized, KeyError>) -> bool {
    matches!(result, Err(KeyError::Invalid(_)))
}

#[test]
fn S21_algorithms_have_their_jose_names() {
    for (algorithm, name) in [
        (Algorithm::HS256, "HS256"),
        (Algorithm::RS256, "RS256"),
        (Algorithm::ES256, "ES256"),
        (Algorithm::EdDSA, "EdDSA"),
    ] {
        assert_eq!(algorithm.to_string(), name);
        assert_eq!(name.parse(), Ok(algorithm));
    }
    for name in ["", "none", "es256", "ES256 ", "ES384", "EDDSA"] {
        let error = name.parse::<Algorithm>().unwrap_err().to_string();
        assert_eq!(error, format!("the algorithm {name:?} is not supported: use HS256, RS256, ES256 or EdDSA"));
    }
}

#[test]
fn S21_a_key_comes_back_from_its_bytes() {
    for algorithm in Algorithm::ALL {
        let original = key(algorithm);
        let again = SigningKey::from_private(algorithm, original.private_bytes()).unwrap();
        assert_eq!(again.private_bytes(), original.private_bytes());
        assert_eq!(again.algorithm(), algorithm);
        assert_eq!(again.public_jwk("k"), original.public_jwk("k"));
        let signature = again.sign(MESSAGE).unwrap();
        assert!(original.verifying_key().verify(MESSAGE, &signature));
        assert!(!original.verifying_key().verify(b"another", &signature));
    }
}

#[test]
fn S21_each_generated_key_is_another() {
    for algorithm in [Algorithm::HS256, Algorithm::ES256, Algorithm::EdDSA] {
        let (one, other) = (SigningKey::generate(algorithm).unwrap(), SigningKey::generate(algorithm).unwrap());
        assert_ne!(one.private_bytes(), other.private_bytes());
    }
    assert_eq!(key(Algorithm::HS256).private_bytes().len(), 32);
    assert_eq!(key(Algorithm::RS256).sign(MESSAGE).unwrap().len(), 256);
}

#[test]
fn S21_an_rsa_key_may_come_as_pkcs_1() {
    let pkcs8 = key(Algorithm::RS256).private_bytes();
    // PKCS#8 wraps PKCS#1: a sequence that fills the rest, `30 82 …`, after an octet string's header.
    let inner = pkcs8[1..].windows(2).position(|window| window == [0x30, 0x82]).unwrap() + 1;
    let again = SigningKey::from_private(Algorithm::RS256, &pkcs8[inner..]).unwrap();
    assert_eq!(again.private_bytes(), pkcs8);
}

#[test]
fn S21_bytes_of_another_kind_of_key_are_refused() {
    for wanted in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        for given in Algorithm::ALL.into_iter().filter(|given| *given != wanted) {
            assert!(is_invalid(SigningKey::from_private(wanted, key(given).private_bytes())));
        }
    }
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap().to_pkcs8v1().unwrap();
    assert!(is_invalid(SigningKey::from_private(Algorithm::ES256, p384.as_ref())));
}

#[test]
fn S21_a_short_secret_is_refused() {
    for length in 0..32 {
        assert!(is_invalid(SigningKey::from_private(Algorithm::HS256, &vec![1; length])));
        assert!(is_invalid(VerifyingKey::from_secret(&vec![1; length])));
    }
    for length in [32, 33, 64, 65, 1 << 20] {
        let secret = vec![1; length];
        let signature = SigningKey::from_private(Algorithm::HS256, &secret).unwrap().sign(MESSAGE).unwrap();
        assert!(VerifyingKey::from_secret(&secret).unwrap().verify(MESSAGE, &signature));
    }
}

#[test]
fn S21_bytes_cut_short_are_refused() {
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let private = key(algorithm).private_bytes();
        for length in 0..private.len() {
            assert!(is_invalid(SigningKey::from_private(algorithm, &private[..length])));
        }
    }
}

#[test]
fn S21_a_damaged_key_is_refused_or_whole() {
    for algorithm in [Algorithm::ES256, Algorithm::EdDSA] {
        let private = key(algorithm).private_bytes();
        for at in 0..private.len() {
            for bit in 0..8 {
                let mut private = private.to_vec();
                private[at] ^= 1 << bit;
                // Another seed is another good Ed25519 key, so it may be taken, but then it must work.
                if let Ok(key) = SigningKey::from_private(algorithm, &private) {
                    assert!(key.verifying_key().verify(MESSAGE, &key.sign(MESSAGE).unwrap()));
                }
            }
        }
    }
}

#[test]
fn N14_a_key_does_not_print_itself() {
    for algorithm in Algorithm::ALL {
        assert_eq!(format!("{:?}", key(algorithm)), format!("SigningKey({algorithm})"));
        assert_eq!(format!("{:?}", key(algorithm).verifying_key()), format!("VerifyingKey({algorithm})"));
    }
}

proptest! {
    #[test]
    fn S21_any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
        for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
            prop_assert!(is_invalid(SigningKey::from_private(algorithm, &bytes)));
        }
    }

    #[test]
    fn S21_any_message_is_signed_and_verified(message: Vec<u8>, other: Vec<u8>) {
        for algorithm in Algorithm::ALL {
            let signature = key(algorithm).sign(&message).unwrap();
            let verifying = key(algorithm).verifying_key();
            prop_assert!(verifying.verify(&message, &signature));
            prop_assert_eq!(verifying.verify(&other, &signature), other == message);
        }
    }
}

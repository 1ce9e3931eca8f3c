//! Tokens whose header must be refused (N8).

use anon_auth_core::algorithm::Algorithm;
use anon_auth_core::jwt::{self, TokenError};
use anon_auth_core::keys::SigningKey;
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::json;

use crate::support::{
    HS256, KID, PUBLIC, claims, forge, header, is_malformed, key, payload, read, text, with_header,
};

#[test]
fn N8_alg_none_in_any_case() {
    for mask in 0..16_u32 {
        let none: String = "none"
            .chars()
            .enumerate()
            .map(|(i, c)| if mask >> i & 1 == 1 { c.to_ascii_uppercase() } else { c })
            .collect();
        let header = json!({"alg": none, "typ": "JWT", "kid": KID}).to_string();
        let signed = forge(&header, payload(), key(HS256));
        let unsigned = format!("{}.{}.", text(&header), text(payload()));
        for token in [signed, unsigned] {
            assert_eq!(jwt::parse(&token).err(), Some(TokenError::UnsupportedAlgorithm));
        }
    }
}

#[test]
fn N8_any_alg_but_ours() {
    let others = [
        json!(null),
        json!(""),
        json!(" HS256"),
        json!("hs256"),
        json!("ES256\u{0}"),
        json!("HS384"),
        json!("HS512"),
        json!("RS384"),
        json!("PS256"),
        json!("ES384"),
        json!("ES256K"),
        json!("Ed25519"),
        json!("eddsa"),
        json!(256),
        json!(["HS256"]),
        json!({"alg": "HS256"}),
        json!(true),
    ];
    for alg in others {
        let token = with_header(json!({ "alg": alg }));
        assert_eq!(jwt::parse(&token).err(), Some(TokenError::UnsupportedAlgorithm), "{alg}");
    }
}

/// The texts and bytes in which a public key is to be had, each of which an attacker could use as a secret.
fn public_forms(algorithm: Algorithm) -> Vec<Vec<u8>> {
    let private = key(algorithm).private_bytes();
    let (der, raw): (PublicKeyX509Der, Vec<u8>) = match algorithm {
        Algorithm::RS256 => {
            let pair = RsaKeyPair::from_pkcs8(private).unwrap();
            (pair.public_key().as_der().unwrap(), pair.public_key().as_ref().to_vec())
        }
        Algorithm::ES256 => {
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private).unwrap();
            (pair.public_key().as_der().unwrap(), pair.public_key().as_ref().to_vec())
        }
        _ => {
            let pair = Ed25519KeyPair::from_pkcs8(private).unwrap();
            (pair.public_key().as_der().unwrap(), pair.public_key().as_ref().to_vec())
        }
    };
    let base64 = STANDARD.encode(der.as_ref());
    let lines: Vec<_> = base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", lines.join("\n"));
    let jwk = key(algorithm).public_jwk(KID).unwrap();
    vec![
        der.as_ref().to_vec(),
        raw,
        pem.clone().into_bytes(),
        format!("{pem}\n").into_bytes(),
        jwk.to_string().into_bytes(),
        serde_json::to_vec_pretty(&jwk).unwrap(),
    ]
}

#[test]
fn N8_hs256_signed_with_a_public_key() {
    for algorithm in PUBLIC {
        for secret in public_forms(algorithm) {
            let forger = SigningKey::from_private(HS256, &secret).unwrap();
            let token = jwt::encode(KID, &forger, &claims()).unwrap();
            assert_eq!(read(&token, algorithm), Err(TokenError::AlgorithmMismatch));
            let relabelled = forge(header(algorithm).to_string(), payload(), &forger);
            assert_eq!(read(&relabelled, algorithm), Err(TokenError::BadSignature));
        }
    }
}

#[test]
fn N8_an_algorithm_that_is_not_the_keys() {
    for claimed in Algorithm::ALL {
        for real in Algorithm::ALL.into_iter().filter(|real| *real != claimed) {
            let token = forge(header(claimed).to_string(), payload(), key(real));
            assert_eq!(read(&token, real), Err(TokenError::AlgorithmMismatch));
            assert_eq!(read(&token, claimed), Err(TokenError::BadSignature));
        }
    }
}

#[test]
fn N8_a_key_in_the_header() {
    let attacker = SigningKey::generate(Algorithm::ES256).unwrap();
    let jwk = attacker.public_jwk(KID).unwrap();
    let mut header = header(Algorithm::ES256);
    header["jwk"] = jwk;
    let token = forge(header.to_string(), payload(), &attacker);
    assert_eq!(jwt::parse(&token).err(), Some(TokenError::EmbeddedKey));
    for name in ["jwk", "jku", "x5u", "x5c"] {
        for value in [json!({}), json!("https://example.com/keys"), json!([]), json!(0)] {
            let token = with_header(json!({ name: value }));
            assert_eq!(jwt::parse(&token).err(), Some(TokenError::EmbeddedKey));
        }
        // A null too: the member is there.
        let header = format!(r#"{{"alg":"HS256","typ":"JWT","kid":"{KID}","{name}":null}}"#);
        let token = forge(header, payload(), key(HS256));
        assert_eq!(jwt::parse(&token).err(), Some(TokenError::EmbeddedKey));
    }
}

#[test]
fn N8_wrong_or_missing_typ() {
    let others = [
        json!(null),
        json!(""),
        json!("JWS"),
        json!("at+jwt"),
        json!("application/jwt"),
        json!("JWT "),
        json!("vnd.authgear.anonymous-request"),
        json!(1),
        json!(["JWT"]),
    ];
    for typ in others {
        let token = with_header(json!({ "typ": typ }));
        assert_eq!(jwt::parse(&token).err(), Some(TokenError::WrongType), "{typ}");
    }
}

#[test]
fn N8_missing_or_unusable_kid() {
    for kid in [json!(null), json!(""), json!(7), json!(["a"]), json!({}), json!(true)] {
        assert!(is_malformed(jwt::parse(&with_header(json!({ "kid": kid })))), "{kid}");
    }
}

#[test]
fn N8_unknown_crit() {
    for crit in [json!([]), json!(["exp"]), json!(["b64"]), json!(["x", "y"]), json!("x"), json!(1)] {
        let token = with_header(json!({"crit": crit, "x": 1}));
        assert_eq!(jwt::parse(&token).err(), Some(TokenError::UnknownCritical), "{crit}");
    }
    for b64 in [json!(false), json!(true)] {
        let token = with_header(json!({ "b64": b64 }));
        assert_eq!(jwt::parse(&token).err(), Some(TokenError::UnknownCritical));
    }
}

#[test]
fn N8_duplicate_header_members() {
    let good = format!(r#""alg":"HS256","typ":"JWT","kid":"{KID}""#);
    let more =
        [r#""alg":"none""#, r#""alg":"HS256""#, r#""\u0061lg":"none""#, r#""kid":"other""#, r#""x":{"y":1,"y":2}"#];
    for more in more {
        for header in [format!("{{{good},{more}}}"), format!("{{{more},{good}}}")] {
            let token = forge(&header, payload(), key(HS256));
            assert_eq!(jwt::parse(&token).err(), Some(TokenError::DuplicateMember), "{header}");
        }
    }
}

proptest! {
    #[test]
    fn N8_any_header_is_refused_without_a_panic(header in prop::collection::vec(any::<u8>(), 0..200), json in "[\\[\\]{}\":,a-c0-1\\\\ ]{0,60}") {
        prop_assert!(jwt::parse(&forge(header, payload(), key(HS256))).is_err());
        prop_assert!(jwt::parse(&forge(json, payload(), key(HS256))).is_err());
    }
}

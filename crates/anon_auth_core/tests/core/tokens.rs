//! Tokens that are as they should be.

use anon_auth_core::algorithm::Algorithm;
use anon_auth_core::jwt::{self, MAX_TOKEN_BYTES, TokenError};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{KID, PUBLIC, bytes, claims, key, object, read, with_header, with_payload};

/// Any JSON value, a few levels deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(".{0,6}", inner, 0..6)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn S21_claims_come_back_as_they_went_in(
        members in prop::collection::hash_map(".{0,8}", any_json(), 0..8),
        kid in ".{1,40}",
    ) {
        let claims: serde_json::Map<_, _> = members.into_iter().collect();
        for algorithm in Algorithm::ALL {
            match jwt::encode(&kid, key(algorithm), &claims) {
                Ok(token) => {
                    let parsed = jwt::parse(&token).unwrap();
                    prop_assert_eq!(parsed.kid(), kid.as_str());
                    prop_assert_eq!(parsed.algorithm(), algorithm);
                    prop_assert_eq!(parsed.verify(&key(algorithm).verifying_key()), Ok(claims.clone()));
                }
                Err(error) => prop_assert_eq!(error, TokenError::TooLong),
            }
        }
    }
}

#[test]
fn S21_the_header_names_algorithm_type_and_key() {
    for algorithm in Algorithm::ALL {
        let token = jwt::encode(KID, key(algorithm), &claims()).unwrap();
        let header: Value = serde_json::from_slice(&bytes(token.split('.').next().unwrap())).unwrap();
        assert_eq!(header, json!({"alg": algorithm.name(), "typ": "JWT", "kid": KID}));
    }
}

#[test]
fn S21_another_library_reads_our_tokens() {
    for algorithm in PUBLIC {
        let token = jwt::encode(KID, key(algorithm), &claims()).unwrap();
        let jwk = key(algorithm).public_jwk(KID).unwrap();
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(jwk).unwrap();
        let read = jsonwebtoken::decode::<Value>(
            &token,
            &jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap(),
            &jsonwebtoken::Validation::new(algorithm.into()),
        )
        .unwrap();
        assert_eq!(read.claims, Value::Object(claims()));
        assert_eq!(read.header.kid.as_deref(), Some(KID));
    }
}

#[test]
fn S21_we_read_the_tokens_of_another_library() {
    for algorithm in Algorithm::ALL {
        let private = key(algorithm).private_bytes();
        let encoding = match algorithm {
            Algorithm::HS256 => jsonwebtoken::EncodingKey::from_secret(private),
            Algorithm::ES256 => jsonwebtoken::EncodingKey::from_ec_der(private),
            Algorithm::EdDSA => jsonwebtoken::EncodingKey::from_ed_der(private),
            // It takes PKCS#1 only, which tests/core/keys.rs covers.
            Algorithm::RS256 => continue,
        };
        let mut header = jsonwebtoken::Header::new(algorithm.into());
        header.kid = Some(KID.to_owned());
        let token = jsonwebtoken::encode(&header, &claims(), &encoding).unwrap();
        assert_eq!(read(&token, algorithm), Ok(claims()));
    }
}

#[test]
fn S21_a_token_of_another_key_of_the_same_algorithm_is_refused() {
    for algorithm in Algorithm::ALL {
        let other = anon_auth_core::keys::SigningKey::generate(algorithm).unwrap();
        let token = jwt::encode(KID, &other, &claims()).unwrap();
        assert_eq!(read(&token, algorithm), Err(TokenError::BadSignature));
    }
}

#[test]
fn typ_may_be_written_in_any_case() {
    for typ in ["JWT", "jwt", "Jwt", "jWT"] {
        assert!(read(&with_header(json!({ "typ": typ })), Algorithm::HS256).is_ok());
    }
}

#[test]
fn unknown_header_members_are_ignored() {
    let token = with_header(json!({"cty": "x", "org.example": {"a": [1]}}));
    assert!(read(&token, Algorithm::HS256).is_ok());
}

#[test]
fn payloads_with_room_around_and_deep_inside_are_read() {
    let nested = format!(r#" {{"a": {}1{} }} "#, "[".repeat(120), "]".repeat(120));
    assert!(read(&with_payload(nested), Algorithm::HS256).is_ok());
    assert_eq!(read(&with_payload("{}"), Algorithm::HS256), Ok(object(json!({}))));
}

#[test]
fn a_token_without_kid_is_not_made() {
    let made = jwt::encode("", key(Algorithm::HS256), &claims());
    assert!(matches!(made, Err(TokenError::Malformed(_))));
}

#[test]
fn N8_the_limit_of_8_kib_is_exact() {
    let algorithm = Algorithm::HS256;
    let (mut at_limit, mut beyond) = (0, 0);
    // One character more of claims or kid adds one or two to the token.
    for kid in ["k", "kk", "kkk"] {
        for padding in 5900..6100 {
            let claims = object(json!({ "a": "a".repeat(padding) }));
            match jwt::encode(kid, key(algorithm), &claims) {
                Ok(token) => {
                    assert!(token.len() <= MAX_TOKEN_BYTES);
                    assert_eq!(read(&token, algorithm), Ok(claims));
                    at_limit += usize::from(token.len() == MAX_TOKEN_BYTES);
                }
                Err(error) => {
                    assert_eq!(error, TokenError::TooLong);
                    beyond += 1;
                }
            }
        }
    }
    assert!(at_limit > 0 && beyond > 0);
    let token = with_payload(format!(r#"{{"a":"{}"}}"#, "a".repeat(6100)));
    assert_eq!(jwt::parse(&token).err(), Some(TokenError::TooLong));
}

//! ID tokens of another issuer: what is accepted, and every way to be refused (N4).

use anon_auth_core::algorithm::Algorithm;
use anon_auth_core::id_token::{CLOCK_LEEWAY, Expected, IdToken, IdTokenError, NonceCheck, verify};
use anon_auth_core::jwks::KeySet;
use anon_auth_core::jwt::TokenError;
use anon_auth_core::keys::SigningKey;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::support::{HS256, KID, PUBLIC, bytes, forge, key, object, text};

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.example";
const NONCE: &str = "n-0S6_WzA2Mj";

fn audiences() -> Vec<String> {
    vec!["our-client".into(), "our-app".into()]
}

/// The issuer's keys: one of each kind, by the name of its algorithm.
fn keys() -> KeySet {
    let jwks: Vec<_> = PUBLIC.into_iter().map(|alg| key(alg).public_jwk(alg.name()).unwrap()).collect();
    KeySet::from_jwks(&json!({"keys": jwks})).unwrap()
}

fn claims() -> Map<String, Value> {
    object(json!({
        "iss": ISSUER,
        "aud": "our-client",
        "sub": "248289761001",
        "exp": NOW + 300,
        "iat": NOW,
        "nonce": NONCE,
        "email": "jane@example.com",
        "email_verified": true,
    }))
}

/// [`claims`] with `changes` made to them; null removes a member.
fn claims_with(changes: Value) -> String {
    let mut claims = claims();
    for (name, value) in object(changes) {
        match value {
            Value::Null => claims.remove(&name),
            value => claims.insert(name, value),
        };
    }
    Value::Object(claims).to_string()
}

fn sign(algorithm: Algorithm, payload: &str) -> String {
    let header = json!({"alg": algorithm.name(), "kid": algorithm.name()});
    forge(header.to_string(), payload, key(algorithm))
}

/// Verifies a token as a caller does, with the nonce of [`claims`].
fn read(token: &str) -> Result<IdToken, IdTokenError> {
    read_with(token, Some(NONCE), NonceCheck::Either)
}

fn read_with(token: &str, nonce: Option<&str>, nonce_check: NonceCheck) -> Result<IdToken, IdTokenError> {
    let audiences = audiences();
    let expected =
        Expected { issuer: ISSUER, audiences: &audiences, algorithms: &PUBLIC, nonce, nonce_check, now: NOW };
    verify(token, &keys(), &expected)
}

/// Verifies a token that has `changes` in its claims.
fn changed(changes: Value) -> Result<IdToken, IdTokenError> {
    read(&sign(Algorithm::ES256, &claims_with(changes)))
}

#[test]
fn S10_good_tokens_of_every_algorithm() {
    for algorithm in PUBLIC {
        let token = read(&sign(algorithm, &claims_with(json!({})))).unwrap();
        assert_eq!(token.subject, "248289761001");
        assert_eq!(token.email.as_deref(), Some("jane@example.com"));
        assert!(token.email_verified);
        assert_eq!(token.claims, claims());
    }
    // With a typ, whatever its case.
    for typ in ["JWT", "jwt"] {
        let header = json!({"alg": "ES256", "kid": "ES256", "typ": typ}).to_string();
        assert!(read(&forge(header, claims_with(json!({})), key(Algorithm::ES256))).is_ok());
    }
    for aud in [json!("our-app"), json!(["our-client"])] {
        assert!(changed(json!({"aud": aud})).is_ok());
    }
    assert!(changed(json!({"aud": ["their-client", "our-client"], "azp": "our-app"})).is_ok());
    assert!(changed(json!({"azp": "our-app"})).is_ok());
}

#[test]
fn N4_another_issuer() {
    for issuer in ["https://issuer.example/", "https://ISSUER.example", "http://issuer.example", "issuer.example", ""]
    {
        assert_eq!(changed(json!({"iss": issuer})).unwrap_err(), IdTokenError::Issuer(issuer.into()));
    }
    assert_eq!(changed(json!({"iss": [ISSUER]})).unwrap_err(), IdTokenError::Malformed("iss"));
}

#[test]
fn N4_another_audience() {
    let others = [
        json!("their-client"),
        json!("our-clien"),
        json!("our-client "),
        json!([]),
        json!(""),
        json!(["their-client"]),
        json!(["our-client", 1]),
        json!([["our-client"]]),
        json!({"our-client": true}),
        json!(true),
    ];
    for aud in others {
        let shown = aud.to_string();
        assert_eq!(changed(json!({"aud": aud})).unwrap_err(), IdTokenError::Audience(shown));
    }
    // Issued to another client, which asked for a token that names us.
    let party = IdTokenError::AuthorizedParty("their-client".into());
    assert_eq!(changed(json!({"azp": "their-client"})).unwrap_err(), party);
    assert_eq!(changed(json!({"aud": ["our-client", "x"], "azp": "their-client"})).unwrap_err(), party);
    assert_eq!(changed(json!({"aud": ["our-client", "x"]})).unwrap_err(), IdTokenError::Missing("azp"));
    assert_eq!(changed(json!({"azp": ["our-client"]})).unwrap_err(), IdTokenError::Malformed("azp"));
}

#[test]
fn N4_expired_or_from_the_future() {
    for expired in [json!(NOW), json!(NOW - 1), json!(0), json!(-1), json!(NOW as f64 - 0.5)] {
        assert_eq!(changed(json!({"exp": expired})).unwrap_err(), IdTokenError::Expired);
    }
    assert!(changed(json!({"exp": NOW + 1})).is_ok());
    for name in ["iat", "nbf"] {
        assert!(changed(json!({name: NOW + CLOCK_LEEWAY})).is_ok());
        assert_eq!(changed(json!({name: NOW + CLOCK_LEEWAY + 1})).unwrap_err(), IdTokenError::NotYetValid(name));
    }
    for name in ["exp", "iat", "nbf"] {
        for wrong in [json!("1800000300"), json!(true), json!([NOW]), json!({})] {
            assert_eq!(changed(json!({name: wrong})).unwrap_err(), IdTokenError::Malformed(name));
        }
    }
}

#[test]
fn N4_another_nonce() {
    let token = |nonce: &str| sign(Algorithm::ES256, &claims_with(json!({"nonce": nonce})));
    let hash: String = {
        use aws_lc_rs::digest::{SHA256, digest};
        digest(&SHA256, NONCE.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let (plain, hashed) = (token(NONCE), token(&hash));
    let check = |token: &str, nonce, check| read_with(token, nonce, check).map(|_| ());

    assert_eq!(check(&plain, Some(NONCE), NonceCheck::Exact), Ok(()));
    assert_eq!(check(&hashed, Some(NONCE), NonceCheck::Sha256), Ok(()));
    for each in [NonceCheck::Either, NonceCheck::Optional] {
        assert_eq!(check(&plain, Some(NONCE), each), Ok(()));
        assert_eq!(check(&hashed, Some(NONCE), each), Ok(()));
    }
    assert_eq!(check(&hashed, Some(NONCE), NonceCheck::Exact), Err(IdTokenError::Nonce));
    assert_eq!(check(&plain, Some(NONCE), NonceCheck::Sha256), Err(IdTokenError::Nonce));
    // What a thief reads in the token is not what was hashed.
    for each in [NonceCheck::Sha256, NonceCheck::Either, NonceCheck::Optional] {
        assert_eq!(check(&hashed, Some(&hash), each), Err(IdTokenError::Nonce));
    }
    assert_eq!(check(&token(&hash.to_uppercase()), Some(NONCE), NonceCheck::Sha256), Err(IdTokenError::Nonce));

    let without = sign(Algorithm::ES256, &claims_with(json!({"nonce": null})));
    let odd = sign(Algorithm::ES256, &claims_with(json!({"nonce": [NONCE]})));
    for each in NonceCheck::ALL {
        for other in ["", "other", "n-0S6_WzA2M", "n-0S6_WzA2Mj ", "N-0S6_WZA2MJ"] {
            assert_eq!(check(&plain, Some(other), each), Err(IdTokenError::Nonce), "{other}");
        }
        assert_eq!(check(&without, Some(NONCE), each), Err(IdTokenError::Missing("nonce")));
        assert_eq!(check(&odd, Some(NONCE), each), Err(IdTokenError::Malformed("nonce")));
        let none = if each == NonceCheck::Optional { Ok(()) } else { Err(IdTokenError::NoNonceGiven) };
        assert_eq!(check(&plain, None, each), none);
        assert_eq!(check(&without, None, each), none);
        assert_eq!(each.name().parse(), Ok(each));
    }
    assert!("Exact".parse::<NonceCheck>().is_err());
}

#[test]
fn N4_another_key() {
    let payload = claims_with(json!({}));
    for algorithm in PUBLIC {
        let header = json!({"alg": algorithm.name(), "kid": algorithm.name()}).to_string();
        // Of somebody else, under the name of the issuer's.
        let other = SigningKey::generate(algorithm).unwrap();
        let error = read(&forge(&header, &payload, &other)).unwrap_err();
        assert_eq!(error, IdTokenError::Token(TokenError::BadSignature));
        // By the issuer, of other claims.
        let (signed, signature) =
            sign(algorithm, &payload).rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let header = signed.split_once('.').unwrap().0;
        let swapped = format!("{header}.{}.{signature}", text(claims_with(json!({"sub": "1"}))));
        assert_eq!(read(&swapped).unwrap_err(), IdTokenError::Token(TokenError::BadSignature));
    }
    // A kid that is unknown, or missing.
    let header = json!({"alg": "ES256", "kid": KID}).to_string();
    let error = read(&forge(header, &payload, key(Algorithm::ES256))).unwrap_err();
    assert_eq!(error, IdTokenError::UnknownKey(KID.into()));
    let error = read(&forge(r#"{"alg":"ES256"}"#, &payload, key(Algorithm::ES256))).unwrap_err();
    assert!(matches!(error, IdTokenError::Token(TokenError::Malformed(_))));
    // A key of its own.
    for (name, value) in [("jwk", key(Algorithm::ES256).public_jwk("ES256").unwrap()), ("jku", json!("https://x"))] {
        let header = json!({"alg": "ES256", "kid": "ES256", name: value}).to_string();
        let error = read(&forge(header, &payload, key(Algorithm::ES256))).unwrap_err();
        assert_eq!(error, IdTokenError::Token(TokenError::EmbeddedKey));
    }
}

#[test]
fn N4_another_algorithm() {
    let payload = claims_with(json!({}));
    // A public key as the secret of an HMAC, by the kid of the key.
    let public = key(Algorithm::RS256).public_jwk("RS256").unwrap();
    let secret = SigningKey::from_private(HS256, &bytes(public["n"].as_str().unwrap())).unwrap();
    let header = json!({"alg": "HS256", "kid": "RS256"}).to_string();
    assert_eq!(read(&forge(header, &payload, &secret)).unwrap_err(), IdTokenError::Algorithm(HS256));
    // The key of one algorithm, the name of another.
    let header = json!({"alg": "ES256", "kid": "EdDSA"}).to_string();
    let error = read(&forge(header, &payload, key(Algorithm::EdDSA))).unwrap_err();
    assert_eq!(error, IdTokenError::Token(TokenError::AlgorithmMismatch));
    for none in ["none", "None", "nOnE", "RS384", "es256", ""] {
        let header = json!({"alg": none, "kid": "RS256"}).to_string();
        let error = read(&forge(&header, &payload, key(Algorithm::RS256))).unwrap_err();
        assert_eq!(error, IdTokenError::Token(TokenError::UnsupportedAlgorithm));
        assert!(read(&format!("{}.{}.", text(&header), text(&payload))).is_err());
    }
    // One that the provider is not to use.
    let audiences = audiences();
    let expected = Expected {
        issuer: ISSUER,
        audiences: &audiences,
        algorithms: &[Algorithm::EdDSA],
        nonce: Some(NONCE),
        nonce_check: NonceCheck::Either,
        now: NOW,
    };
    assert!(verify(&sign(Algorithm::EdDSA, &payload), &keys(), &expected).is_ok());
    let error = verify(&sign(Algorithm::ES256, &payload), &keys(), &expected).unwrap_err();
    assert_eq!(error, IdTokenError::Algorithm(Algorithm::ES256));
}

#[test]
fn N4_another_kind_of_token() {
    for typ in [json!("at+jwt"), json!("logout+jwt"), json!("dpop+jwt"), json!("secevent+jwt"), json!(""), json!(1)] {
        let header = json!({"alg": "ES256", "kid": "ES256", "typ": typ}).to_string();
        let error = read(&forge(header, claims_with(json!({})), key(Algorithm::ES256))).unwrap_err();
        assert_eq!(error, IdTokenError::Token(TokenError::WrongType));
    }
    for (name, value) in [("crit", json!(["exp"])), ("b64", json!(false))] {
        let header = json!({"alg": "ES256", "kid": "ES256", name: value}).to_string();
        let error = read(&forge(header, claims_with(json!({})), key(Algorithm::ES256))).unwrap_err();
        assert_eq!(error, IdTokenError::Token(TokenError::UnknownCritical));
    }
}

#[test]
fn N4_missing_and_doubled_claims() {
    for name in ["iss", "aud", "sub", "exp", "iat", "nonce"] {
        assert_eq!(changed(json!({name: null})).unwrap_err(), IdTokenError::Missing(name));
        let twice = claims_with(json!({})).replacen('{', &format!("{{{:?}:{},", name, claims()[name]), 1);
        let error = read(&sign(Algorithm::ES256, &twice)).unwrap_err();
        assert_eq!(error, IdTokenError::Token(TokenError::DuplicateMember), "{name}");
    }
    for sub in [json!(""), json!("x".repeat(256)), json!(1), json!(["a"])] {
        assert_eq!(changed(json!({"sub": sub})).unwrap_err(), IdTokenError::Malformed("sub"));
    }
    assert!(changed(json!({"sub": "x".repeat(255)})).is_ok());
    for holds_nul in [json!({"sub": "a\0b"}), json!({"name": {"a": ["\0"]}}), json!({"a\0": 1})] {
        assert_eq!(changed(holds_nul).unwrap_err(), IdTokenError::Nul);
    }
}

#[test]
fn N3_verified_means_true() {
    for verified in [json!(true), json!("true")] {
        assert!(changed(json!({"email_verified": verified})).unwrap().email_verified);
    }
    for not in
        [json!(null), json!(false), json!("false"), json!("TRUE"), json!(1), json!("1"), json!([true]), json!({})]
    {
        assert!(!changed(json!({"email_verified": not})).unwrap().email_verified);
    }
    assert_eq!(changed(json!({"email": ""})).unwrap().email, None);
    assert_eq!(changed(json!({"email": ["jane@example.com"]})).unwrap_err(), IdTokenError::Malformed("email"));
}

proptest! {
    #[test]
    fn N4_no_input_panics(token in ".{0,200}", header in ".{0,60}", payload in ".{0,100}") {
        prop_assert!(read(&token).is_err());
        prop_assert!(read(&forge(&header, &payload, key(Algorithm::ES256))).is_err());
        let header = json!({"alg": "ES256", "kid": "ES256"}).to_string();
        prop_assert!(read(&forge(header, &payload, key(Algorithm::ES256))).is_err());
    }
}

//! Any JSON as a JWKS: refused, or a set that is read again as it was. Any payload, signed, as an ID token: refused, or
//! for us and with a subject.
#![no_main]

use std::sync::LazyLock;

use anon_auth_core::algorithm::Algorithm;
use anon_auth_core::id_token::{self, Expected, NonceCheck};
use anon_auth_core::jwks::KeySet;
use anon_auth_core::keys::SigningKey;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use serde_json::json;

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate(Algorithm::EdDSA).unwrap());

fuzz_target!(|bytes: &[u8]| {
    if let Ok(set) = KeySet::parse(bytes) {
        let stored = set.to_jwks();
        assert_eq!(KeySet::from_jwks(&stored).unwrap().to_jwks(), stored);
    }
    let set = KeySet::from_jwks(&json!({"keys": [KEY.public_jwk("a")]})).unwrap();
    let audiences = ["us".to_owned()];
    let expected = Expected {
        issuer: "https://issuer.example",
        audiences: &audiences,
        algorithms: &[Algorithm::EdDSA],
        nonce: None,
        nonce_check: NonceCheck::Optional,
        now: 1_800_000_000,
    };
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", text(br#"{"alg":"EdDSA","kid":"a"}"#), text(bytes));
    let token = format!("{signed}.{}", text(&KEY.sign(signed.as_bytes()).unwrap()));
    if let Ok(token) = id_token::verify(&token, &set, &expected) {
        assert_eq!(token.claims["iss"], expected.issuer);
        assert!(!token.subject.is_empty());
    }
});

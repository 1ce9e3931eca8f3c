//! No token that we did not sign is ever believed; what we signed is read without a panic.
#![no_main]

use std::sync::LazyLock;

use anon_auth_core::algorithm::Algorithm;
use anon_auth_core::jwt::{self, Expected, check_claims};
use anon_auth_core::keys::SigningKey;
use libfuzzer_sys::fuzz_target;

static KEY: LazyLock<SigningKey> =
    LazyLock::new(|| SigningKey::generate(Algorithm::HS256).unwrap());

fuzz_target!(|text: &str| {
    if let Ok(parsed) = jwt::parse(text) {
        assert!(parsed.verify(&KEY.verifying_key()).is_err());
    }
    // The same text as claims: whatever is an object can be signed and read again.
    let Ok(claims) = serde_json::from_str(text) else {
        return;
    };
    let expected = Expected {
        issuer: "iss",
        audience: "aud",
        now: 0,
    };
    let _ = check_claims(&claims, &expected);
    if let Ok(token) = jwt::encode("kid", &KEY, &claims) {
        let again = jwt::parse(&token)
            .ok()
            .unwrap()
            .verify(&KEY.verifying_key())
            .unwrap();
        // Their names only: the last bit of a floating-point number may differ.
        assert!(again.keys().eq(claims.keys()));
    }
});

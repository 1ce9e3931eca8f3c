//! Any JSON as a JWK and any bytes as a private key: refused, or a key that works.
#![no_main]

use anon_auth_core::algorithm::Algorithm;
use anon_auth_core::keys::{SigningKey, VerifyingKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for algorithm in Algorithm::ALL {
        if let Ok(key) = SigningKey::from_private(algorithm, bytes) {
            works(&key);
        }
    }
    let Ok(jwk) = serde_json::from_slice(bytes) else {
        return;
    };
    if let Ok((_, key)) = SigningKey::from_jwk(&jwk) {
        works(&key);
    }
    if let Ok(key) = VerifyingKey::from_public_jwk(&jwk) {
        let _ = key.verify(b"message", bytes);
    }
});

fn works(key: &SigningKey) {
    // An RSA key with inconsistent primes may fail to sign, but never signs wrongly.
    if let Ok(signature) = key.sign(b"message") {
        assert!(key.verifying_key().verify(b"message", &signature));
    }
}

//! Any text as a device key's request, and any JSON as the key that a well-formed one brings along: refused, or a key
//! that reads the same from the form in which it is stored. Any payload, signed: refused, or a challenge within its time.
#![no_main]

use std::sync::LazyLock;

use anon_auth_core::algorithm::Algorithm;
use anon_auth_core::device_request::{Action, DeviceKey, Expected, parse};
use anon_auth_core::keys::SigningKey;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate(Algorithm::EdDSA).unwrap());

const EXPECTED: Expected = Expected { action: Action::Auth, now: 1_800_000_000, latest: 1_800_000_300 };

fn signed(jwk: &Value, payload: &[u8]) -> String {
    let header = json!({"alg": "EdDSA", "typ": "vnd.authgear.anonymous-request", "kid": "some-kid", "jwk": jwk});
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", text(header.to_string().as_bytes()), text(payload));
    format!("{signed}.{}", text(&KEY.sign(signed.as_bytes()).unwrap()))
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = parse(text);
    }
    if let Ok(jwk) = serde_json::from_slice(bytes) {
        if let Ok(key) = DeviceKey::from_jwk(&jwk) {
            assert_eq!(DeviceKey::from_jwk(key.jwk()).unwrap().jwk(), key.jwk());
        }
        let _ = parse(&signed(&jwk, b"{}"));
    }
    let jws = signed(&KEY.public_jwk("some-kid").unwrap(), bytes);
    if let Ok(mut request) = parse(&jws) {
        let key = request.key.take().unwrap();
        if request.verify(&key, &EXPECTED).is_ok() {
            let payload: Value = serde_json::from_slice(bytes).unwrap();
            assert_eq!(payload["action"], "auth");
            assert!(payload["challenge"].is_string());
        }
    }
});

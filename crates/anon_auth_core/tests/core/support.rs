//! What several tests need: keys made once, and tokens that our own `encode` would never write.

use std::sync::OnceLock;

use anon_auth_core::algorithm::Algorithm;
use anon_auth_core::jwt::{self, TokenError};
use anon_auth_core::keys::SigningKey;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

pub const KID: &str = "test-key";

pub const HS256: Algorithm = Algorithm::HS256;

/// The algorithms whose verifying key is public.
pub const PUBLIC: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// One key for each algorithm, made once: RSA takes its time.
pub fn key(algorithm: Algorithm) -> &'static SigningKey {
    static KEYS: OnceLock<[SigningKey; 4]> = OnceLock::new();
    let keys = KEYS.get_or_init(|| Algorithm::ALL.map(|each| SigningKey::generate(each).unwrap()));
    keys.iter().find(|key| key.algorithm() == algorithm).unwrap()
}

pub fn text(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn bytes(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// An object of claims.
pub fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

pub fn claims() -> Map<String, Value> {
    object(json!({"sub": "018f3c1e-7d3a-7000-8000-000000000001", "exp": 4_000_000_000_i64}))
}

/// [`claims`] as a token's payload.
pub fn payload() -> String {
    Value::Object(claims()).to_string()
}

/// The header that a good token has.
pub fn header(algorithm: Algorithm) -> Value {
    json!({"alg": algorithm.name(), "typ": "JWT", "kid": KID})
}

/// Signs any header and any payload, however wrong.
pub fn forge(header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>, key: &SigningKey) -> String {
    let signed = format!("{}.{}", text(header), text(payload));
    let signature = text(key.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

/// [`forge`] with a good header and these bytes as payload.
pub fn with_payload(payload: impl AsRef<[u8]>) -> String {
    forge(header(HS256).to_string(), payload, key(HS256))
}

/// [`forge`] with good claims, and the good header with `changes` made to it; null removes a member.
pub fn with_header(changes: Value) -> String {
    let mut header = header(HS256);
    for (name, value) in object(changes) {
        match value {
            Value::Null => header.as_object_mut().unwrap().remove(&name),
            value => header.as_object_mut().unwrap().insert(name, value),
        };
    }
    forge(header.to_string(), payload(), key(HS256))
}

/// Reads a token as a caller does: by its own kid's key, here that of `algorithm`.
pub fn read(token: &str, algorithm: Algorithm) -> Result<Map<String, Value>, TokenError> {
    jwt::parse(token)?.verify(&key(algorithm).verifying_key())
}

pub fn is_malformed(result: Result<impl Sized, TokenError>) -> bool {
    matches!(result, Err(TokenError::Malformed(_)))
}

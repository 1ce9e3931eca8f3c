//! The published keys of another issuer: a JWK Set (RFC 7517, section 5).

use serde_json::{Map, Value, json};

use crate::algorithm::Algorithm;
use crate::json;
use crate::jwk::check_public;
use crate::keys::{KeyError, VerifyingKey};

/// Keys that a set may have at most, those included that are passed over.
const MAX_KEYS: usize = 100;

/// The longest `kid`, in bytes.
const MAX_KID_BYTES: usize = 255;

/// The keys of an issuer that verify its ID tokens: at least one, each with a `kid` of its own.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
    passed_over: Vec<String>,
}

#[derive(Debug)]
struct Key {
    kid: String,
    key: VerifyingKey,
    /// The members that make up the public key, and no others.
    jwk: Value,
}

impl KeySet {
    /// Reads the bytes of a JWKS as an issuer serves it: strictly, so that no member occurs twice.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let set =
            json::object(bytes).map_err(|_| KeyError::invalid("the JWKS is not a JSON object of unique members"))?;
        Self::new(&set)
    }

    /// Reads a JWKS.
    ///
    /// Keys that are not for signatures, or whose kind or algorithm is none of ours, are passed over: issuers publish
    /// them beside the others, and RFC 7517 wants them ignored. The whole set is refused for what no issuer should
    /// publish: a shared secret, a private key, an RSA key below 2048 bits, a key that is broken, and two keys with
    /// one `kid`; and where no key is left.
    pub fn from_jwks(jwks: &Value) -> Result<Self, KeyError> {
        Self::new(jwks.as_object().ok_or_else(|| KeyError::invalid("the JWKS is not a JSON object"))?)
    }

    fn new(set: &Map<String, Value>) -> Result<Self, KeyError> {
        let Some(Value::Array(jwks)) = set.get("keys") else {
            return Err(KeyError::invalid("the JWKS has no array \"keys\""));
        };
        if jwks.len() > MAX_KEYS {
            return Err(KeyError::invalid(format!("the JWKS has more than {MAX_KEYS} keys")));
        }
        let mut set = Self { keys: Vec::new(), passed_over: Vec::new() };
        for (n, jwk) in jwks.iter().enumerate() {
            let name = match jwk.get("kid").and_then(Value::as_str) {
                Some(kid) => format!("key {:?}", shortened(kid)),
                None => format!("key number {}", n + 1),
            };
            let refused = |error| KeyError::invalid(format!("{name} of the JWKS: {error}"));
            let members = jwk.as_object().ok_or_else(|| refused(KeyError::invalid("a JWK is a JSON object")))?;
            check_public(members).map_err(refused)?;
            match why_not_usable(members) {
                Some(why) => set.passed_over.push(format!("{name} {why}")),
                None => set.add(jwk).map_err(refused)?,
            }
        }
        if set.keys.is_empty() {
            let why = set.passed_over.join(", ");
            let why = if why.is_empty() { why } else { format!(": {why}") };
            return Err(KeyError::invalid(format!("the JWKS has no key that verifies ID tokens{why}")));
        }
        Ok(set)
    }

    fn add(&mut self, jwk: &Value) -> Result<(), KeyError> {
        let key = VerifyingKey::from_public_jwk(jwk)?;
        let kid = match jwk.get("kid") {
            Some(Value::String(kid)) if (1..=MAX_KID_BYTES).contains(&kid.len()) => kid.clone(),
            Some(_) => return Err(KeyError::invalid(format!("its kid is not a text of 1 to {MAX_KID_BYTES} bytes"))),
            None => return Err(KeyError::invalid("it has no kid")),
        };
        if self.find(&kid).is_some() {
            return Err(KeyError::invalid("another key has the same kid"));
        }
        let mut kept = json!({"kid": kid, "alg": key.algorithm().name(), "use": "sig"});
        for name in ["kty", "crv", "n", "e", "x", "y"] {
            if let Some(value) = jwk.get(name) {
                kept[name] = value.clone();
            }
        }
        self.keys.push(Key { kid, key, jwk: kept });
        Ok(())
    }

    /// The key with this `kid`.
    pub fn find(&self, kid: &str) -> Option<&VerifyingKey> {
        self.keys.iter().find(|key| key.kid == kid).map(|key| &key.key)
    }

    /// The `kid` of every key.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| key.kid.as_str())
    }

    /// Which keys were passed over and why, one sentence each.
    pub fn passed_over(&self) -> &[String] {
        &self.passed_over
    }

    /// The set as a JWKS: only the keys that are used, and of them only what verifying needs.
    pub fn to_jwks(&self) -> Value {
        json!({"keys": self.keys.iter().map(|key| &key.jwk).collect::<Vec<_>>()})
    }
}

/// Why a key is to be passed over, if it is.
fn why_not_usable(jwk: &Map<String, Value>) -> Option<String> {
    let member = |name: &str| jwk.get(name).and_then(Value::as_str);
    let is_for = |operation: &str| {
        let listed = jwk.get("key_ops").and_then(Value::as_array);
        listed.is_none_or(|list| list.iter().any(|listed| listed == operation))
    };
    match (member("kty"), member("crv")) {
        (Some("RSA"), _) | (Some("EC"), Some("P-256")) | (Some("OKP"), Some("Ed25519")) => {}
        (Some(kty @ ("EC" | "OKP")), Some(crv)) => {
            return Some(format!("is of the kind {kty} {:?}", shortened(crv)));
        }
        // Broken, as `VerifyingKey` will find.
        (Some("EC" | "OKP"), None) | (None, _) => return None,
        (Some(kty), _) => return Some(format!("is of the kind {:?}", shortened(kty))),
    }
    if let Some(usage) = member("use")
        && usage != "sig"
    {
        return Some(format!("is for the use {:?}", shortened(usage)));
    }
    if !is_for("verify") {
        return Some("is not for verifying".into());
    }
    match member("alg") {
        Some(alg) if alg.parse::<Algorithm>().is_err() => Some(format!("is for {:?}", shortened(alg))),
        _ => None,
    }
}

/// A text of somebody else's, for a message.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

//! What a device key signs: Authgear's request of an anonymous user, a JWS in compact form whose header has
//! `typ: "vnd.authgear.anonymous-request"`, `kid`, `alg` and, where the key is to be registered, `jwk`, and whose
//! payload has `challenge`, `action`, `exp` and `iat`.

use std::fmt;

use base64::Engine;
use serde_json::{Map, Value, json};

use crate::BASE64URL;
use crate::algorithm::Algorithm;
use crate::jwt::{self, Kind, Parsed, TokenError, numeric_date};
use crate::keys::{KeyError, VerifyingKey};

/// What the key is asked to prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Who signs in, or whose key is registered.
    Auth,
    /// Which guest is to become permanent.
    Promote,
}

impl Action {
    const fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Promote => "promote",
        }
    }
}

/// A public key of a device.
#[derive(Debug)]
pub struct DeviceKey {
    verifying: VerifyingKey,
    jwk: Value,
}

impl DeviceKey {
    /// Reads a public JWK for RS256 (2048 to 8192 bits), ES256 or EdDSA.
    pub fn from_jwk(jwk: &Value) -> Result<Self, KeyError> {
        let jwk = without_sign_byte(jwk.clone());
        let verifying = VerifyingKey::from_public_jwk(&jwk)?;
        let names: &[&str] = match verifying.algorithm() {
            Algorithm::ES256 => &["kty", "crv", "x", "y"],
            Algorithm::EdDSA => &["kty", "crv", "x"],
            _ => &["kty", "n", "e"],
        };
        let mut members = Map::new();
        for name in names {
            members.insert((*name).into(), jwk[*name].clone());
        }
        members.insert("alg".into(), verifying.algorithm().name().into());
        Ok(Self { verifying, jwk: members.into() })
    }

    /// The key in the one form in which it is stored: its type, its numbers and its algorithm.
    pub fn jwk(&self) -> &Value {
        &self.jwk
    }
}

/// Java writes the modulus of an RSA key with a byte in front that says that it is not negative, and so do the
/// clients on Android; RFC 7518, section 6.3.1.1, has it without.
fn without_sign_byte(mut jwk: Value) -> Value {
    if let Some(Value::String(n)) = jwk.get("n")
        && let Ok(bytes) = BASE64URL.decode(n)
        && let [0, rest @ ..] = bytes.as_slice()
        && rest.first().is_some_and(|first| *first >= 0x80)
    {
        jwk["n"] = json!(BASE64URL.encode(rest));
    }
    jwk
}

/// A request whose signature is **not yet** verified.
pub struct DeviceRequest<'a> {
    parsed: Parsed<'a>,
    /// The key that it is to register.
    pub key: Option<DeviceKey>,
}

/// Reads a request's structure and, where it has one, its key.
pub fn parse(jws: &str) -> Result<DeviceRequest<'_>, RequestError> {
    let parsed = jwt::parse_kind(jws, Kind::DeviceRequest)?;
    if parsed.algorithm() == Algorithm::HS256 {
        return Err(TokenError::UnsupportedAlgorithm.into());
    }
    if !is_kid(parsed.kid()) {
        return Err(RequestError::Kid);
    }
    let key = match parsed.jwk() {
        None => None,
        Some(jwk) => {
            if jwk.get("kid").is_some_and(|kid| kid != parsed.kid()) {
                return Err(RequestError::OtherKid);
            }
            Some(DeviceKey::from_jwk(jwk)?)
        }
    };
    Ok(DeviceRequest { parsed, key })
}

/// As clients choose them: long enough not to be met by accident.
fn is_kid(kid: &str) -> bool {
    (8..=128).contains(&kid.len()) && kid.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// What a request must agree with. Times are in seconds since 1970-01-01 UTC.
#[derive(Clone, Copy)]
pub struct Expected {
    /// What is about to be done.
    pub action: Action,
    pub now: i64,
    /// `exp` is this at the latest.
    pub latest: i64,
}

impl DeviceRequest<'_> {
    /// The key's id, chosen by the client.
    pub fn kid(&self) -> &str {
        self.parsed.kid()
    }

    /// The challenge that was signed, if `key` signed this request and it says what it has to say.
    pub fn verify(self, key: &DeviceKey, expected: &Expected) -> Result<String, RequestError> {
        let claims = self.parsed.verify(&key.verifying)?;
        let action = text(&claims, "action")?;
        if action != expected.action.name() {
            return Err(RequestError::Action(expected.action));
        }
        let date =
            |name| claims.get(name).map(|value| numeric_date(value).ok_or(RequestError::Malformed(name))).transpose();
        let expires = date("exp")?.ok_or(RequestError::Missing("exp"))?;
        if expected.now >= expires {
            return Err(RequestError::Expired);
        }
        if expires > expected.latest {
            return Err(RequestError::TooFar);
        }
        // When it was signed decides nothing, since the challenge says how old it can be at the most.
        date("iat")?;
        if date("nbf")?.is_some_and(|not_before| not_before > expected.now) {
            return Err(RequestError::NotYetValid);
        }
        text(&claims, "challenge").map(str::to_owned)
    }
}

fn text<'a>(claims: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, RequestError> {
    match claims.get(name) {
        None => Err(RequestError::Missing(name)),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(RequestError::Malformed(name)),
    }
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// Its form or its signature is wrong.
    Token(TokenError),
    /// The key that it brings is not acceptable.
    Key(KeyError),
    /// Its `kid` is not of 8 to 128 letters, digits, hyphens and underscores.
    Kid,
    /// The `kid` of the key that it brings is another.
    OtherKid,
    /// Its `action` is not this one.
    Action(Action),
    /// `exp` is reached.
    Expired,
    /// `exp` is later than a challenge can be good.
    TooFar,
    /// `nbf` is not reached.
    NotYetValid,
    /// The claim is not there.
    Missing(&'static str),
    /// The claim is not what it has to be.
    Malformed(&'static str),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(TokenError::WrongType) => f.write_str("its typ is not vnd.authgear.anonymous-request"),
            Self::Token(error) => error.fmt(f),
            Self::Key(error) => write!(f, "its key cannot be used: {error}"),
            Self::Kid => f.write_str("its kid is not 8 to 128 letters, digits, hyphens and underscores"),
            Self::OtherKid => f.write_str("its jwk has another kid than its header"),
            Self::Action(action) => write!(f, "its action is not {:?}", action.name()),
            Self::Expired => f.write_str("it has expired"),
            Self::TooFar => f.write_str("its exp is further away than a challenge lives"),
            Self::NotYetValid => f.write_str("its nbf is in the future"),
            Self::Missing(claim) => write!(f, "it has no {claim}"),
            Self::Malformed(claim) => write!(f, "its {claim} is malformed"),
        }
    }
}

impl std::error::Error for RequestError {}

impl From<TokenError> for RequestError {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

impl From<KeyError> for RequestError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

//! Signed tokens: JWT in JWS compact form (RFC 7519, RFC 7515), held to RFC 8725.

mod claims;

use std::fmt;

use base64::Engine;
use serde_json::{Map, Value};

use crate::BASE64URL;
use crate::algorithm::Algorithm;
use crate::json::{self, JsonError};
use crate::keys::{KeyError, SigningKey, VerifyingKey};
pub(crate) use claims::audiences;
pub use claims::{ClaimError, Expected, check_claims, numeric_date};

/// The longest token that is made or read, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8192;

/// Header members that bring or point to a key: the key is ours to choose, never the token's (RFC 8725, section 3.5).
/// One that registers a device key brings it along, to be known from then on.
const KEY_MEMBERS: [&str; 4] = ["jwk", "jku", "x5u", "x5c"];

/// Signs `claims` with `key`; the header is `alg`, `typ` and `kid`.
///
/// Refuses an empty `kid`, and claims that make the token longer than [`MAX_TOKEN_BYTES`].
pub fn encode(kid: &str, key: &SigningKey, claims: &Map<String, Value>) -> Result<String, TokenError> {
    if kid.is_empty() {
        return Err(TokenError::Malformed("the token's kid is empty"));
    }
    let mut header = jsonwebtoken::Header::new(key.algorithm().into());
    header.kid = Some(kid.to_owned());

    let mut token = BASE64URL.encode(to_json(&header)?);
    token.push('.');
    BASE64URL.encode_string(to_json(claims)?, &mut token);
    let signature = key.sign(token.as_bytes())?;
    token.push('.');
    BASE64URL.encode_string(signature, &mut token);
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::TooLong);
    }
    Ok(token)
}

fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>, TokenError> {
    serde_json::to_vec(value).map_err(|_| TokenError::Malformed("the claims cannot be written as JSON"))
}

/// A token whose structure and header are in order, and whose signature is **not yet** verified: all that may be
/// used of it is which key to verify it with.
pub struct Parsed<'a> {
    signed: &'a str,
    kid: String,
    algorithm: Algorithm,
    jwk: Option<Value>,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// Reads a token's structure: three parts of strict base64url, and a header that is a JSON object without duplicate
/// members, with one of our algorithms, `typ` JWT and a `kid`, and without `crit`, `b64` or a key of its own.
pub fn parse(token: &str) -> Result<Parsed<'_>, TokenError> {
    parse_kind(token, Kind::AccessToken)
}

/// What a token is, and with it what its header may and must say.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    AccessToken,
    /// Of another issuer. Not every one writes `typ` into ID tokens (RFC 7519, section 5.1, leaves it to them).
    IdToken,
    /// Signed by a device key, which the header may bring along.
    DeviceRequest,
}

/// The `typ` of a device key's request: Authgear's.
const DEVICE_REQUEST: &str = "vnd.authgear.anonymous-request";

/// [`parse`], for a token of another kind.
pub(crate) fn parse_kind(token: &str, kind: Kind) -> Result<Parsed<'_>, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::TooLong);
    }
    let not_three = TokenError::Malformed("the token has not three parts");
    let (signed, signature) = token.rsplit_once('.').ok_or(not_three)?;
    let (header, payload) = signed.split_once('.').ok_or(not_three)?;
    if payload.contains('.') {
        return Err(not_three);
    }
    let mut header = json::object(&decode(header)?).map_err(|error| match error {
        JsonError::Syntax => TokenError::Malformed("the token's header is not JSON"),
        JsonError::NotAnObject => TokenError::Malformed("the token's header is not a JSON object"),
        JsonError::DuplicateMember => TokenError::DuplicateMember,
    })?;
    let algorithm = check_header(&header, kind)?;
    let kid = match header.get("kid") {
        Some(Value::String(kid)) if !kid.is_empty() => kid.clone(),
        _ => return Err(TokenError::Malformed("the token's header has no kid")),
    };
    let jwk = header.remove("jwk");
    Ok(Parsed { signed, kid, algorithm, jwk, payload: decode(payload)?, signature: decode(signature)? })
}

fn check_header(header: &Map<String, Value>, kind: Kind) -> Result<Algorithm, TokenError> {
    let algorithm = header
        .get("alg")
        .and_then(Value::as_str)
        .and_then(|alg| alg.parse().ok())
        .ok_or(TokenError::UnsupportedAlgorithm)?;
    // A media type, so its case does not matter (RFC 7519, section 5.1). Explicit typing keeps tokens that were made
    // for another purpose out (RFC 8725, section 3.11).
    let expected = if kind == Kind::DeviceRequest { DEVICE_REQUEST } else { "JWT" };
    let is_expected = match header.get("typ") {
        Some(typ) => typ.as_str().is_some_and(|typ| typ.eq_ignore_ascii_case(expected)),
        None => kind == Kind::IdToken,
    };
    if !is_expected {
        return Err(TokenError::WrongType);
    }
    // No extension is understood here, so whatever is critical is unknown. `b64` (RFC 7797) would change what is
    // signed.
    if header.contains_key("crit") || header.contains_key("b64") {
        return Err(TokenError::UnknownCritical);
    }
    let is_forbidden = |name: &&str| !(kind == Kind::DeviceRequest && *name == "jwk");
    if KEY_MEMBERS.into_iter().filter(is_forbidden).any(|name| header.contains_key(name)) {
        return Err(TokenError::EmbeddedKey);
    }
    Ok(algorithm)
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    BASE64URL.decode(part).map_err(|_| TokenError::Malformed("a part of the token is not base64url"))
}

impl Parsed<'_> {
    /// Which key the token claims to be signed with.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Which algorithm the token claims to be signed with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key that the header brings along; only a device key's request may have one.
    pub(crate) fn jwk(&self) -> Option<&Value> {
        self.jwk.as_ref()
    }

    /// The claims, if `key` signed exactly this token. The algorithm is the key's, whatever the header says: one
    /// that differs is refused (RFC 8725, section 3.1).
    ///
    /// The claims are a JSON object without duplicate members at any depth; what they say is not checked here, see
    /// [`check_claims`].
    pub fn verify(self, key: &VerifyingKey) -> Result<Map<String, Value>, TokenError> {
        if self.algorithm != key.algorithm() {
            return Err(TokenError::AlgorithmMismatch);
        }
        if !key.verify(self.signed.as_bytes(), &self.signature) {
            return Err(TokenError::BadSignature);
        }
        json::object(&self.payload).map_err(|error| match error {
            JsonError::Syntax => TokenError::Malformed("the token's payload is not JSON"),
            JsonError::NotAnObject => TokenError::Malformed("the token's payload is not a JSON object"),
            JsonError::DuplicateMember => TokenError::DuplicateMember,
        })
    }
}

/// Why a token is refused, or was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// It is longer than [`MAX_TOKEN_BYTES`].
    TooLong,
    /// It is not a JWT in compact form: why.
    Malformed(&'static str),
    /// A member name occurs twice in an object of its header or payload.
    DuplicateMember,
    /// Its `alg` is missing, "none", or none of ours.
    UnsupportedAlgorithm,
    /// Its `typ` is missing or not "JWT".
    WrongType,
    /// Its header names extensions that must be understood.
    UnknownCritical,
    /// Its header brings a key along, or an address of one.
    EmbeddedKey,
    /// Its `alg` is not that of the key.
    AlgorithmMismatch,
    /// The key did not sign it.
    BadSignature,
    /// The cryptographic library failed to sign.
    Crypto,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the token is longer than 8192 bytes",
            Self::Malformed(why) => why,
            Self::DuplicateMember => "the token has a duplicate member",
            Self::UnsupportedAlgorithm => "the token's algorithm is not supported",
            Self::WrongType => "the token's typ is not JWT",
            Self::UnknownCritical => "the token requires an extension that is not supported",
            Self::EmbeddedKey => "the token brings its own key",
            Self::AlgorithmMismatch => "the token's algorithm is not the key's",
            Self::BadSignature => "the token's signature is wrong",
            Self::Crypto => "the cryptographic library failed",
        })
    }
}

impl std::error::Error for TokenError {}

impl From<KeyError> for TokenError {
    fn from(_: KeyError) -> Self {
        Self::Crypto
    }
}

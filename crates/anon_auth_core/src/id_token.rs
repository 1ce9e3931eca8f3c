//! ID tokens of another issuer (OpenID Connect Core 1.0, sections 2 and 3.1.3.7), held to RFC 8725.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value};

use crate::algorithm::Algorithm;
use crate::json::any_holds_nul;
use crate::jwks::KeySet;
use crate::jwt::{self, Kind, TokenError, audiences, numeric_date};
use crate::keys::KeyError;

/// How far, in seconds, the issuer's clock may be ahead of ours: `iat` and `nbf` of a fresh token may be that much in
/// the future. There is no such leeway for `exp`.
pub const CLOCK_LEEWAY: i64 = 60;

/// The longest `sub`, in bytes (OpenID Connect Core, section 2: 255 ASCII characters).
const MAX_SUBJECT_BYTES: usize = 255;

/// What an ID token must agree with.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// `iss` must be exactly this.
    pub issuer: &'a str,
    /// Client ids. `aud` must have one of them, and `azp`, which must be there where `aud` has several, must be one.
    pub audiences: &'a [String],
    /// The algorithms that this issuer may sign with.
    pub algorithms: &'a [Algorithm],
    /// The nonce that the client asked with, before any hashing.
    pub nonce: Option<&'a str>,
    /// How `nonce` is compared.
    pub nonce_check: NonceCheck,
    /// The time, in seconds since 1970-01-01 UTC.
    pub now: i64,
}

/// What the claim `nonce` must be, for the nonce that the client presents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonceCheck {
    /// The SHA-256 of the nonce, in hexadecimal digits; or, where the claim does not look like one, the nonce itself.
    Either,
    /// The nonce itself (OpenID Connect Core).
    Exact,
    /// The SHA-256 of the nonce, in hexadecimal digits: what clients of Apple and Google send. Then a stolen token
    /// is worth nothing, since the nonce itself is not in it.
    Sha256,
    /// As [`Either`](Self::Either) where a nonce is presented; where none is, the claim is not looked at.
    Optional,
}

impl NonceCheck {
    /// Every way there is.
    pub const ALL: [Self; 4] = [Self::Either, Self::Exact, Self::Sha256, Self::Optional];

    /// The name by which it is chosen.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Either => "either",
            Self::Exact => "exact",
            Self::Sha256 => "sha256",
            Self::Optional => "optional",
        }
    }

    fn accepts(self, claim: &str, nonce: &str) -> bool {
        let is = |expected: &[u8]| verify_slices_are_equal(claim.as_bytes(), expected).is_ok();
        let hash: String =
            digest(&SHA256, nonce.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Exact => is(nonce.as_bytes()),
            Self::Sha256 => is(hash.as_bytes()),
            // A hash that is in the token must not do as the nonce that it hides.
            Self::Either | Self::Optional if is_hash(claim) => is(hash.as_bytes()),
            Self::Either | Self::Optional => is(nonce.as_bytes()),
        }
    }
}

/// Whether a text looks like a SHA-256 in hexadecimal digits.
fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl FromStr for NonceCheck {
    type Err = KeyError;

    fn from_str(name: &str) -> Result<Self, KeyError> {
        Self::ALL
            .into_iter()
            .find(|check| check.name() == name)
            .ok_or_else(|| KeyError::unsupported("nonce check", name, "either, exact, sha256 or optional"))
    }
}

/// A verified ID token.
#[derive(Debug)]
pub struct IdToken {
    /// The user's id at the issuer.
    pub subject: String,
    /// The e-mail address that the issuer names.
    pub email: Option<String>,
    /// Whether the issuer says that the address was verified.
    pub email_verified: bool,
    /// Every claim.
    pub claims: Map<String, Value>,
}

/// Verifies an ID token: its form, its signature by the key of `keys` that its `kid` names, and every claim that
/// [`Expected`] knows, `sub` and `iat`.
pub fn verify(token: &str, keys: &KeySet, expected: &Expected) -> Result<IdToken, IdTokenError> {
    let parsed = jwt::parse_kind(token, Kind::IdToken)?;
    if !expected.algorithms.contains(&parsed.algorithm()) {
        return Err(IdTokenError::Algorithm(parsed.algorithm()));
    }
    let key = keys.find(parsed.kid()).ok_or_else(|| IdTokenError::UnknownKey(shown(parsed.kid())))?;
    let claims = parsed.verify(key)?;
    check(&claims, expected)?;
    let subject = match text(&claims, "sub")? {
        Some(subject) if (1..=MAX_SUBJECT_BYTES).contains(&subject.len()) => subject.to_owned(),
        Some(_) => return Err(IdTokenError::Malformed("sub")),
        None => return Err(IdTokenError::Missing("sub")),
    };
    if any_holds_nul(&claims) {
        return Err(IdTokenError::Nul);
    }
    Ok(IdToken {
        subject,
        email: text(&claims, "email")?.filter(|email| !email.is_empty()).map(str::to_owned),
        // A boolean by the standard; some issuers write it as a text.
        email_verified: claims.get("email_verified").is_some_and(|value| value == true || value == "true"),
        claims,
    })
}

fn check(claims: &Map<String, Value>, expected: &Expected) -> Result<(), IdTokenError> {
    let issuer = text(claims, "iss")?.ok_or(IdTokenError::Missing("iss"))?;
    if issuer != expected.issuer {
        return Err(IdTokenError::Issuer(shown(issuer)));
    }

    let is_ours = |client: &str| expected.audiences.iter().any(|audience| audience == client);
    let aud = claims.get("aud").ok_or(IdTokenError::Missing("aud"))?;
    let listed = audiences(aud);
    if !listed.iter().any(|audience| is_ours(audience)) {
        return Err(IdTokenError::Audience(shown(&aud.to_string())));
    }
    match text(claims, "azp")? {
        Some(party) if !is_ours(party) => return Err(IdTokenError::AuthorizedParty(shown(party))),
        None if listed.len() > 1 => return Err(IdTokenError::Missing("azp")),
        _ => {}
    }

    let date =
        |name| claims.get(name).map(|value| numeric_date(value).ok_or(IdTokenError::Malformed(name))).transpose();
    if expected.now >= date("exp")?.ok_or(IdTokenError::Missing("exp"))? {
        return Err(IdTokenError::Expired);
    }
    let latest = expected.now.saturating_add(CLOCK_LEEWAY);
    if date("iat")?.ok_or(IdTokenError::Missing("iat"))? > latest {
        return Err(IdTokenError::NotYetValid("iat"));
    }
    if date("nbf")?.is_some_and(|not_before| not_before > latest) {
        return Err(IdTokenError::NotYetValid("nbf"));
    }

    match (text(claims, "nonce")?, expected.nonce) {
        (Some(claim), Some(nonce)) if expected.nonce_check.accepts(claim, nonce) => Ok(()),
        (Some(_), Some(_)) => Err(IdTokenError::Nonce),
        (None, Some(_)) => Err(IdTokenError::Missing("nonce")),
        (_, None) if expected.nonce_check == NonceCheck::Optional => Ok(()),
        (_, None) => Err(IdTokenError::NoNonceGiven),
    }
}

fn text<'a>(claims: &'a Map<String, Value>, name: &'static str) -> Result<Option<&'a str>, IdTokenError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(IdTokenError::Malformed(name)),
    }
}

/// A value of a token, for a message.
fn shown(value: &str) -> String {
    value.chars().take(200).collect()
}

/// Why an ID token is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdTokenError {
    /// Its form or its signature is wrong.
    Token(TokenError),
    /// It is signed with an algorithm that the issuer is not to use.
    Algorithm(Algorithm),
    /// Its `kid` names none of the issuer's keys.
    UnknownKey(String),
    /// `iss` is another.
    Issuer(String),
    /// `aud` has none of the client ids.
    Audience(String),
    /// `azp` is none of the client ids.
    AuthorizedParty(String),
    /// `exp` is reached.
    Expired,
    /// The claim, a time, is in the future.
    NotYetValid(&'static str),
    /// `nonce` is another.
    Nonce,
    /// The client presented no nonce.
    NoNonceGiven,
    /// The claim is not there.
    Missing(&'static str),
    /// The claim is not what the standard says.
    Malformed(&'static str),
    /// A claim holds a NUL character.
    Nul,
}

impl fmt::Display for IdTokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(error) => error.fmt(f),
            Self::Algorithm(algorithm) => write!(f, "the provider is not allowed to sign with {algorithm}"),
            Self::UnknownKey(kid) => write!(f, "the provider has no key {kid:?}"),
            Self::Issuer(issuer) => write!(f, "the token is from another issuer, {issuer:?}"),
            Self::Audience(audience) => write!(f, "the token is for another audience, {audience}"),
            Self::AuthorizedParty(party) => write!(f, "the token was issued to another client (azp), {party:?}"),
            Self::Expired => f.write_str("the token has expired"),
            Self::NotYetValid(claim) => write!(f, "the token's {claim} is in the future"),
            Self::Nonce => f.write_str("the token's nonce is another"),
            Self::NoNonceGiven => f.write_str("no nonce was given to compare with the token's"),
            Self::Missing(claim) => write!(f, "the token has no {claim}"),
            Self::Malformed(claim) => write!(f, "the token's {claim} is malformed"),
            Self::Nul => f.write_str("the token holds a NUL character"),
        }
    }
}

impl std::error::Error for IdTokenError {}

impl From<TokenError> for IdTokenError {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

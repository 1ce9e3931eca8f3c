//! The claims that decide whether a token holds here and now (RFC 7519, section 4.1).

use std::fmt;

use serde_json::{Map, Value};

/// What a token must agree with.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// `iss` must be this.
    pub issuer: &'a str,
    /// `aud` must be or contain this.
    pub audience: &'a str,
    /// The time, in seconds since 1970-01-01 UTC.
    pub now: i64,
}

/// Checks `iss`, `aud`, `exp` (all required) and `nbf`, without leeway: the clock that made the token reads it.
pub fn check_claims(claims: &Map<String, Value>, expected: &Expected) -> Result<(), ClaimError> {
    if required(claims, "iss")?.as_str() != Some(expected.issuer) {
        return Err(ClaimError::Issuer);
    }
    if !audiences(required(claims, "aud")?).contains(&expected.audience) {
        return Err(ClaimError::Audience);
    }
    let expires = numeric_date(required(claims, "exp")?).ok_or(ClaimError::NotADate("exp"))?;
    if expected.now >= expires {
        return Err(ClaimError::Expired);
    }
    if let Some(not_before) = claims.get("nbf") {
        let not_before = numeric_date(not_before).ok_or(ClaimError::NotADate("nbf"))?;
        if expected.now < not_before {
            return Err(ClaimError::NotYetValid);
        }
    }
    Ok(())
}

fn required<'a>(claims: &'a Map<String, Value>, name: &'static str) -> Result<&'a Value, ClaimError> {
    claims.get(name).ok_or(ClaimError::Missing(name))
}

/// Whom a token is for: `aud` is a string or an array of strings. Anything else is nobody.
pub(crate) fn audiences(aud: &Value) -> Vec<&str> {
    match aud {
        Value::String(audience) => vec![audience],
        Value::Array(list) => list.iter().map(Value::as_str).collect::<Option<_>>().unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// A NumericDate (RFC 7519, section 2) in whole seconds since 1970-01-01 UTC, rounded up: a clock of whole seconds
/// has reached the date exactly when it has reached this. A date beyond the range of `i64` becomes its end; anything
/// but a number is none.
pub fn numeric_date(value: &Value) -> Option<i64> {
    // A conversion from floating point with `as` saturates.
    value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds.ceil() as i64))
}

/// Why a token's claims are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimError {
    /// `iss` is another.
    Issuer,
    /// `aud` is another.
    Audience,
    /// `exp` is reached.
    Expired,
    /// `nbf` is not reached yet.
    NotYetValid,
    /// The claim is not there.
    Missing(&'static str),
    /// The claim is not a number.
    NotADate(&'static str),
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Issuer => f.write_str("the token is from another issuer"),
            Self::Audience => f.write_str("the token is for another audience"),
            Self::Expired => f.write_str("the token has expired"),
            Self::NotYetValid => f.write_str("the token is not valid yet"),
            Self::Missing(claim) => write!(f, "the token has no {claim}"),
            Self::NotADate(claim) => write!(f, "the token's {claim} is not a number"),
        }
    }
}

impl std::error::Error for ClaimError {}

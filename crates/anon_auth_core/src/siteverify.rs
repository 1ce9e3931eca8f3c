//! Captcha services that are asked by `siteverify`: what they are sent, and what their answer says.
//!
//! Both take a POST of a form and answer with a JSON object whose member `success` decides. A token is good once,
//! and for a few minutes; the service sees to both.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::json;

/// A captcha service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Turnstile,
    HCaptcha,
}

impl Service {
    pub const ALL: [Service; 2] = [Service::Turnstile, Service::HCaptcha];

    pub const fn name(self) -> &'static str {
        match self {
            Service::Turnstile => "turnstile",
            Service::HCaptcha => "hcaptcha",
        }
    }

    /// Where it verifies tokens.
    pub const fn url(self) -> &'static str {
        match self {
            Service::Turnstile => "https://challenges.cloudflare.com/turnstile/v0/siteverify",
            Service::HCaptcha => "https://api.hcaptcha.com/siteverify",
        }
    }

    /// Whether a request may name the site that the token has to be from.
    pub const fn takes_sitekey(self) -> bool {
        matches!(self, Service::HCaptcha)
    }

    /// Whether an answer names the action that the token was made for.
    pub const fn tells_action(self) -> bool {
        matches!(self, Service::Turnstile)
    }
}

impl FromStr for Service {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Service::ALL.into_iter().find(|service| service.name() == name).ok_or(())
    }
}

/// What a token has to be about, besides being good.
#[derive(Default)]
pub struct Expected<'a> {
    /// Host names of sites on which it may have been made; empty for any.
    pub hostnames: &'a [String],
    pub action: Option<&'a str>,
}

/// Why an answer lets nobody in.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The token is not good, or not for this.
    Token(String),
    /// The service could not tell: it is out of order, or it is asked in a way that it does not accept.
    Service(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Refusal::Token(why) | Refusal::Service(why)) = self;
        f.write_str(why)
    }
}

/// `error-codes` that are about the token.
const ABOUT_TOKEN: [&str; 6] = [
    "missing-input-response",
    "invalid-input-response",
    "timeout-or-duplicate",
    "expired-input-response",
    "already-seen-response",
    "invalid-or-already-seen-response",
];

/// `error-codes` that are about how the service is asked, or about itself.
const ABOUT_SERVICE: [&str; 9] = [
    "missing-input-secret",
    "invalid-input-secret",
    "sitekey-secret-mismatch",
    "not-using-dummy-passcode",
    "not-using-dummy-secret",
    "missing-remoteip",
    "invalid-remoteip",
    "bad-request",
    "internal-error",
];

/// Reads the answer to a request.
///
/// # Errors
/// Unless the answer says beyond doubt that the token is good. No error quotes the answer, which may quote the
/// request.
pub fn judge(answer: &[u8], expected: &Expected) -> Result<(), Refusal> {
    let answer = json::object(answer)
        .map_err(|_| Refusal::Service("its answer is not a JSON object of unique members".into()))?;
    match answer.get("success") {
        Some(Value::Bool(true)) => (),
        Some(Value::Bool(false)) => return Err(failure(answer.get("error-codes"))),
        _ => return Err(Refusal::Service("its answer does not say whether the token is good".into())),
    }
    let member = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default();
    let hostname = member("hostname");
    if !expected.hostnames.is_empty() && !expected.hostnames.iter().any(|name| name.eq_ignore_ascii_case(hostname)) {
        return Err(Refusal::Token("it was made on another site".into()));
    }
    if expected.action.is_some_and(|action| action != member("action")) {
        return Err(Refusal::Token("it was made for another action".into()));
    }
    Ok(())
}

fn failure(codes: Option<&Value>) -> Refusal {
    let codes: Vec<&str> = codes.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let known = |all: &[&'static str]| all.iter().copied().find(|known| codes.contains(known));
    let is_other = |code: &&str| !ABOUT_TOKEN.contains(code) && !ABOUT_SERVICE.contains(code);
    if let Some(code) = known(&ABOUT_SERVICE) {
        Refusal::Service(code.into())
    } else if codes.iter().any(is_other) {
        Refusal::Service("an error of its own".into())
    } else {
        Refusal::Token(known(&ABOUT_TOKEN).unwrap_or("refused").into())
    }
}

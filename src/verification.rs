//! Addresses that a user claims: a code is sent there, and whoever brings it back has proven the address.
//!
//! Until then the claim is a row in `auth.one_time_tokens` and nothing else. It reserves nothing: of several users
//! who claim an address, the first to prove it has it.

use crate::delivery::{self, Channel, Message};
use crate::error::{Error, Result, error, invalid};
use crate::function::{Args, writes};
use crate::guesses::{self, Subject};
use crate::jsonb::Jsonb;
use crate::limits::{self, Call};
use crate::linking::{self, Proof, Prover};
use crate::one_time_tokens::{self, OneTimeToken, Purpose, otp_expired};
use crate::settings;
use crate::users::{self, User};
use crate::{claims, client_address, clock, sessions, sql_function};
use anon_auth_core::address;
use uuid::Uuid;

/// An e-mail address or a phone number, normalised.
#[derive(Clone, PartialEq)]
pub enum Address {
    Email(String),
    Phone(String),
}

impl Address {
    /// # Errors
    /// `validation_failed`, with the text.
    pub fn email(text: &str) -> Result<Self> {
        address::email(text).map(Self::Email).map_err(|why| {
            invalid(format!("\"{}\" is not an e-mail address: {why}", shortened(text)))
                .hint("Expected: name@example.com; no quotes, comments or names around it.")
        })
    }

    /// # Errors
    /// `validation_failed`, with the text.
    pub fn phone(text: &str) -> Result<Self> {
        address::phone(text).map(Self::Phone).map_err(|why| {
            invalid(format!("\"{}\" is not a phone number: {why}", shortened(text)))
                .hint("Expected: E.164, such as +4930123456.")
        })
    }

    /// The one of the two that is given.
    ///
    /// # Errors
    /// `validation_failed` where both are, or one is malformed.
    pub fn one_of(email: Option<String>, phone: Option<String>) -> Result<Option<Self>> {
        match (email, phone) {
            (Some(email), None) => Self::email(&email).map(Some),
            (None, Some(phone)) => Self::phone(&phone).map(Some),
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(invalid("both an e-mail address and a phone number are given")),
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Address::Email(text) | Address::Phone(text) => text,
        }
    }

    /// The user for whom it has been proven.
    pub fn owner(&self) -> Result<Option<Uuid>> {
        match self {
            Address::Email(address) => users::with_proven_email(address),
            Address::Phone(number) => users::with_proven_phone(number),
        }
    }

    fn channel(&self) -> Channel {
        match self {
            Address::Email(_) => Channel::Email,
            Address::Phone(_) => Channel::Sms,
        }
    }

    fn purpose(&self) -> Purpose {
        match self {
            Address::Email(_) => Purpose::EmailChange,
            Address::Phone(_) => Purpose::PhoneChange,
        }
    }

    fn proof(&self) -> Proof<'_> {
        match self {
            Address::Email(address) => Proof::Email(address),
            Address::Phone(number) => Proof::Phone(number),
        }
    }

    /// Whether it is `user`'s own already.
    fn is_proven_of(&self, user: &User) -> bool {
        let proven = match self {
            Address::Email(_) => user.proven_email(),
            Address::Phone(_) => user.proven_phone(),
        };
        proven == Some(self.text())
    }
}

/// What a message can show of a text that may be long.
fn shortened(text: &str) -> String {
    let shown: String = text.chars().take(80).collect();
    let dots = if shown.len() < text.len() { "…" } else { "" };
    shown + dots
}

/// Sends a code to an address that a user claims, unless it is the user's already.
///
/// # Arguments
/// * `user` – as it is since its row was locked
///
/// # Errors
/// `email_exists`, `phone_exists`, `manual_linking_disabled`, `over_email_send_rate_limit`,
/// `over_sms_send_rate_limit`, `worker_unavailable`, and what delivery raises.
pub fn request(user: &User, address: &Address) -> Result<()> {
    if address.is_proven_of(user) {
        return Ok(());
    }
    check_enabled(user, address)?;
    let owner = address.owner()?;
    // Else the guest is to prove it, and signs in to that user.
    if owner.is_some() && linking::user_to_sign_in_to(user, owner)?.is_none() {
        return Err(match address {
            Address::Email(address) => linking::email_exists(address),
            Address::Phone(number) => linking::phone_exists(number),
        });
    }
    if let Some(before) = one_time_tokens::of_user(user.id, address.purpose())? {
        check_resend_interval(&before, address)?;
    }
    // Last, so that only what is sent counts; it counts though the transaction be rolled back, since a hook may have
    // sent it by then.
    let message = Subject::message(address.channel(), address.text()).of_user(user.id);
    guesses::count(&message, &client_address::current()?)?;
    send(user, address)
}

/// Changing an address is not linking one.
fn check_enabled(user: &User, address: &Address) -> Result<()> {
    let has_one = match address {
        Address::Email(_) => user.proven_email().is_some(),
        Address::Phone(_) => user.proven_phone().is_some(),
    };
    if has_one { Ok(()) } else { linking::check_enabled() }
}

fn check_resend_interval(before: &OneTimeToken, address: &Address) -> Result<()> {
    let until = before.created_at + settings::current()?.otp_resend_interval;
    if until <= clock::now() {
        return Ok(());
    }
    Err(error(429, address.channel().rate_limit_error(), "a code was sent a moment ago")
        .retry_after(clock::seconds_until(until)))
}

fn send(user: &User, address: &Address) -> Result<()> {
    let lifetime = settings::current()?.otp_lifetime;
    let (code, token_hash) =
        one_time_tokens::create_for_address(user.id, address.purpose(), address.text(), lifetime)?;
    delivery::send(&Message {
        channel: address.channel(),
        user,
        to: address.text(),
        code: &code,
        token_hash: &token_hash,
        purpose: address.purpose().name(),
        expires_at: clock::now() + lifetime,
    })
}

fn verify_otp(args: &Args) -> Result<Jsonb> {
    writes(c"auth.verify_otp()");
    limits::take(Call::Verify)?;
    let purpose = purpose(args.text(0)?)?;
    let (code, token_hash) = (args.text(1)?, args.text(2)?);
    let address = Address::one_of(args.text(3)?, args.text(4)?)?;
    match (code, token_hash) {
        (Some(code), None) => verify_code(purpose, &code, address),
        (None, Some(token)) => verify_link(purpose, &token, address),
        _ => Err(invalid("exactly one of token and token_hash is to be given")),
    }
}
sql_function!(anon_auth_verify_otp, verify_otp);

fn purpose(name: Option<String>) -> Result<Purpose> {
    let name = name.ok_or_else(|| invalid("the type of the code is missing").hint(TYPES))?;
    [Purpose::EmailChange, Purpose::PhoneChange]
        .into_iter()
        .find(|purpose| purpose.name() == name)
        .ok_or_else(|| invalid(format!("\"{}\" is not a type of code", shortened(&name))).hint(TYPES))
}

const TYPES: &str = "Types: email_change, phone_change.";

/// Six digits, from the user they were made for: nobody can try, or use up, the code of somebody else.
fn verify_code(purpose: Purpose, code: &str, address: Option<Address>) -> Result<Jsonb> {
    let (user, _) = claims::require()?;
    // Before anything is judged, and whatever becomes of this transaction.
    guesses::count(&Subject::own_code(purpose.name(), user), &client_address::current()?)?;

    let mut locked = None;
    if let Some(token) = one_time_tokens::of_user(user, purpose)? {
        locked = lock_users(&token, purpose)?;
    }
    let (user, _) = linking::lock_caller()?;
    let token = one_time_tokens::of_user(user.id, purpose)?.ok_or_else(otp_expired)?;
    if !token.is_code(code)? {
        return Err(otp_expired());
    }
    prove(&user, token, purpose, address, Prover::User, locked)
}

/// A link, which nobody can guess. It works where nobody is signed in; but then only for a user who has proven
/// nothing yet, since whoever opened it need not be whoever asked for it.
fn verify_link(purpose: Purpose, token: &str, address: Option<Address>) -> Result<Jsonb> {
    let mut locked = None;
    let token = one_time_tokens::lock_user_of(purpose, token, |token| {
        locked = lock_users(token, purpose)?;
        Ok(())
    })?;
    let user = linking::lock(token.user)?;
    let signed_in = claims::require().map(|(user, _)| user).map_err(Error::discard).ok();
    let prover = match signed_in == Some(user.id) {
        true => Prover::User,
        false => Prover::Stranger,
    };
    if prover == Prover::Stranger && !user.is_anonymous && linking::has_proven(&user)? {
        return Err(error(401, "no_authorization", "this link is good only where its user is signed in")
            .hint("Open it where you asked for it, or type the code there."));
    }
    prove(&user, token, purpose, address, prover, locked)
}

/// Locks the user of a code and, where the code may sign it in to the owner of the address, that one, too. Returns the
/// owner.
fn lock_users(token: &OneTimeToken, purpose: Purpose) -> Result<Option<Uuid>> {
    let owner = match users::find(token.user)? {
        Some(user) => linking::user_to_sign_in_to(&user, proven_by(token, purpose).owner()?)?,
        None => None,
    };
    match owner {
        Some(owner) => users::lock_both(token.user, owner)?,
        None => users::lock(token.user)?,
    }
    Ok(owner)
}

/// The address that a code proves.
fn proven_by(token: &OneTimeToken, purpose: Purpose) -> Address {
    match purpose {
        Purpose::PhoneChange => Address::Phone(token.address.clone()),
        _ => Address::Email(token.address.clone()),
    }
}

/// # Arguments
/// * `locked` – the owner of the address whose row is locked, if any
fn prove(
    user: &User,
    token: OneTimeToken,
    purpose: Purpose,
    expected: Option<Address>,
    prover: Prover,
    locked: Option<Uuid>,
) -> Result<Jsonb> {
    let address = proven_by(&token, purpose);
    if token.is_expired() || expected.is_some_and(|expected| expected != address) {
        return Err(otp_expired());
    }
    check_enabled(user, &address)?;
    token.delete()?;
    if let Some(owner) = linking::user_to_sign_in_to(user, address.owner()?)? {
        if locked != Some(owner) {
            return Err(error(409, "conflict", format!("{} has become another user's meanwhile", address.text()))
                .hint("Try again."));
        }
        return sessions::create(owner, "otp");
    }
    linking::promote(user, &address.proof(), prover)
}

fn resend(args: &Args) -> Result<()> {
    writes(c"auth.resend()");
    limits::take(Call::Otp)?;
    let purpose = purpose(args.text(0)?)?;
    let (user, _) = linking::lock_caller()?;
    let before = one_time_tokens::of_user(user.id, purpose)?.ok_or_else(|| {
        error(422, "validation_failed", "there is no address to send a code to")
            .hint("Claim one first: SELECT auth.update_user('{\"email\": …}');")
    })?;
    let address = match purpose {
        Purpose::PhoneChange => Address::Phone(before.address.clone()),
        _ => Address::Email(before.address.clone()),
    };
    request(&user, &address)
}
sql_function!(anon_auth_resend, resend);

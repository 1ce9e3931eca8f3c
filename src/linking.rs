//! How a guest becomes permanent: somebody proves that an address or an account at a provider is its own.
//!
//! The row stays, so everything that the guest owns stays its own. What came before the proof goes: every session
//! and every code, and, where nothing had been proven before, a password and linked identities, since nobody knows
//! whose they are.

use crate::error::{Error, Result, error};
use crate::function::{Args, writes};
use crate::jsonb::Jsonb;
use crate::spi::{self, Statement};
use crate::users::{self, User};
use crate::{claims, clock, delivery, hook_events, lazy_guests, sessions, settings, sql_function};
use anon_auth_core::address;
use pgrx::pg_sys;
use serde_json::{Value, json};
use uuid::Uuid;

/// An account at a provider, which the caller has just proven to be its own.
pub struct Identity {
    /// Name of the provider.
    pub provider: String,
    /// The account's id at the provider (`sub`).
    pub provider_id: String,
    /// What the provider said about the user, a JSON object.
    pub identity_data: Value,
    /// The e-mail address that the provider told, and whether the provider has verified it.
    pub email: Option<(String, bool)>,
}

/// What was proven.
pub enum Proof<'a> {
    /// That an e-mail address, normalised, is the caller's.
    Email(&'a str),
    /// That a phone number, normalised, is the caller's.
    Phone(&'a str),
    /// That an account at a provider is the caller's.
    Identity(&'a Identity),
}

/// Who proved it.
#[derive(Clone, Copy, PartialEq)]
pub enum Prover {
    /// Somebody who is signed in as the user.
    User,
    /// Somebody who is not: by a link that was opened elsewhere. Perhaps not whoever asked for the link.
    Stranger,
}

/// Links an account at a provider to the signed-in user; a guest becomes permanent. Answers with a new session.
///
/// # Errors
/// Those of [`lock_caller`], `manual_linking_disabled`, `identity_already_exists`, `email_exists`.
pub fn link(identity: &Identity) -> Result<Jsonb> {
    check_enabled()?;
    let (user, _) = lock_caller()?;
    promote(&user, &Proof::Identity(identity), Prover::User)
}

/// The user to sign in to, where a guest links what belongs to somebody else and the setting `promotion_conflict`
/// says so.
///
/// # Arguments
/// * `owner` – whose it is
pub fn user_to_sign_in_to(user: &User, owner: Option<Uuid>) -> Result<Option<Uuid>> {
    let is_login = user.is_anonymous && settings::current()?.promotion_conflict == "login";
    Ok(owner.filter(|owner| is_login && *owner != user.id))
}

/// # Errors
/// `manual_linking_disabled`.
pub fn check_enabled() -> Result<()> {
    match settings::current()?.manual_linking {
        true => Ok(()),
        false => Err(error(404, "manual_linking_disabled", "linking is switched off")
            .hint("An administrator can switch it on: SELECT auth.set_setting('manual_linking', 'true');")),
    }
}

/// The signed-in user, with the row locked, and its session. A guest of whom nothing was stored is stored.
///
/// The session may have ended while the lock was waited for: somebody else has proven an address of this user, and
/// what a caller from before may still do is nothing. So it is looked at again.
///
/// # Errors
/// Those of [`lazy_guests::stored_caller`].
pub fn lock_caller() -> Result<(User, Option<Uuid>)> {
    let (user, _) = lazy_guests::stored_caller()?;
    users::lock(user)?;
    let (user, session) = claims::require()?;
    Ok((users::find(user)?.ok_or_else(claims::not_signed_in)?, session))
}

/// The user, with the row locked against other changes to the user and its sessions.
///
/// # Errors
/// `no_authorization` where the user was deleted, `user_banned`.
pub fn lock(user: Uuid) -> Result<User> {
    users::lock(user)?;
    let user = users::find(user)?.ok_or_else(claims::not_signed_in)?;
    user.check_not_banned()?;
    Ok(user)
}

/// Notes what was proven, makes a guest permanent, ends what came before, and answers with a new session.
///
/// # Arguments
/// * `user` – as it is since its row was locked
///
/// # Errors
/// `identity_already_exists`, `email_exists`, `phone_exists`, and those of the hooks `user_promoted` and
/// `custom_access_token`.
pub fn promote(user: &User, proof: &Proof, prover: Prover) -> Result<Jsonb> {
    let nothing_was_proven = user.is_anonymous || !has_proven(user)?;
    end_what_came_before(user.id, nothing_was_proven, prover)?;
    let (provider, method) = match proof {
        Proof::Email(address) => {
            set_proven(user.id, Some(address), None)?;
            set_address_identity(user.id, "email", json!({"email": address, "email_verified": true}))?;
            ("email", "otp")
        }
        Proof::Phone(number) => {
            set_proven(user.id, None, Some(number))?;
            set_address_identity(user.id, "phone", json!({"phone": number, "phone_verified": true}))?;
            ("phone", "otp")
        }
        Proof::Identity(identity) => {
            // First: whoever owns the account owns its address as well.
            if !insert_identity(user.id, identity)? {
                return Err(identity_exists(user.id, identity));
            }
            set_proven(user.id, new_verified_email(user, identity).as_deref(), None)?;
            (identity.provider.as_str(), "oauth")
        }
    };
    crate::audit::record("identity_linked", Some(user.id), json!({"provider": provider}))?;
    if user.is_anonymous {
        crate::audit::record("user_promoted", Some(user.id), json!({"provider": provider}))?;
        hook_events::user_promoted(user.id, provider)?;
    }
    sessions::create(user.id, method)
}

/// Whether the user has proven anything to be its own.
pub fn has_proven(user: &User) -> Result<bool> {
    static IDENTITIES: Statement =
        Statement::latest(c"select from auth.identities where user_id = $1 limit 1", &[pg_sys::UUIDOID]);
    let has_address = user.proven_email().is_some() || user.proven_phone().is_some();
    Ok(has_address || IDENTITIES.run(&[spi::uuid(user.id)])? > 0)
}

/// The provider's e-mail address, if the provider has verified it and the user has none.
fn new_verified_email(user: &User, identity: &Identity) -> Option<String> {
    match (&identity.email, user.proven_email()) {
        (Some((address, true)), None) => address::email(address).ok(),
        _ => None,
    }
}

fn end_what_came_before(id: Uuid, nothing_was_proven: bool, prover: Prover) -> Result<()> {
    const OF_USER: &[pg_sys::Oid] = &[pg_sys::UUIDOID];
    static SESSIONS: Statement = Statement::latest(c"delete from auth.sessions where user_id = $1", OF_USER);
    static CODES: Statement = Statement::latest(c"delete from auth.one_time_tokens where user_id = $1", OF_USER);
    static IDENTITIES: Statement = Statement::latest(c"delete from auth.identities where user_id = $1", OF_USER);
    static PASSWORD: Statement = Statement::latest(
        c"update auth.users set encrypted_password = null where id = $1 and encrypted_password is not null",
        OF_USER,
    );
    static DEVICE_KEYS: Statement = Statement::latest(c"delete from auth.device_keys where user_id = $1", OF_USER);
    let user = [spi::uuid(id)];
    SESSIONS.run(&user)?;
    CODES.run(&user)?;
    delivery::withdraw(id)?;
    if nothing_was_proven {
        IDENTITIES.run(&user)?;
        PASSWORD.run(&user)?;
    }
    if prover == Prover::Stranger || !settings::current()?.promotion_keeps_device_keys {
        DEVICE_KEYS.run(&user)?;
    }
    Ok(())
}

/// # Arguments
/// * `email`, `phone` – what has been proven; `None` leaves it as it is
fn set_proven(user: Uuid, email: Option<&str>, phone: Option<&str>) -> Result<()> {
    static UPDATE: Statement = Statement::latest(
        c"update auth.users
          set is_anonymous = false, cleanup_blocked_at = null, updated_at = $4,
              email = coalesce($2, email), email_confirmed_at = case when $2 is null then email_confirmed_at else $4 end,
              phone = coalesce($3, phone), phone_confirmed_at = case when $3 is null then phone_confirmed_at else $4 end
          where id = $1",
        &[pg_sys::UUIDOID, pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::TIMESTAMPTZOID],
    );
    UPDATE
        .run(&[spi::uuid(user), spi::value(email), spi::value(phone), spi::timestamp(clock::now())])
        .map(|_| ())
        .map_err(|error| match error.table_and_constraint().1.as_deref() {
            Some("users_email_key") => replaced(error, email_exists(email.unwrap_or_default())),
            Some("users_phone_key") => replaced(error, phone_exists(phone.unwrap_or_default())),
            _ => error,
        })
}

fn replaced(error: Error, by: Error) -> Error {
    error.discard();
    by
}

/// The proven address is another user's.
pub fn email_exists(address: &str) -> Error {
    error(422, "email_exists", format!("{address} belongs to another user")).hint(SIGN_IN_THERE)
}

/// The proven phone number is another user's.
pub fn phone_exists(number: &str) -> Error {
    error(422, "phone_exists", format!("{number} belongs to another user")).hint(SIGN_IN_THERE)
}

const SIGN_IN_THERE: &str = "The session goes on as it was. Sign in as that user instead.";

/// An address as an identity. As is customary, its id at the "provider" is the user's own, so that the address can
/// change.
fn set_address_identity(user: Uuid, provider: &str, mut data: Value) -> Result<()> {
    static UPSERT: Statement = Statement::new(
        c"insert into auth.identities as i (user_id, provider, provider_id, identity_data, last_sign_in_at, created_at, updated_at)
          values ($1, $2, $1::text, $3, $4, $4, $4)
          on conflict (provider_id, provider) do update
          set identity_data = excluded.identity_data, last_sign_in_at = $4, updated_at = $4",
        &[pg_sys::UUIDOID, pg_sys::TEXTOID, pg_sys::JSONBOID, pg_sys::TIMESTAMPTZOID],
    );
    data["sub"] = user.to_string().into();
    let now = spi::timestamp(clock::now());
    UPSERT.run(&[spi::uuid(user), spi::value(provider), spi::value(Jsonb(data)), now]).map(|_| ())
}

/// Links an account to a user. Returns false where it is linked already.
pub fn insert_identity(user: Uuid, identity: &Identity) -> Result<bool> {
    static INSERT: Statement = Statement::new(
        c"insert into auth.identities (user_id, provider, provider_id, identity_data, last_sign_in_at, created_at, updated_at)
          values ($1, $2, $3, $4, $5, $5, $5)
          on conflict (provider_id, provider) do nothing",
        &[pg_sys::UUIDOID, pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::JSONBOID, pg_sys::TIMESTAMPTZOID],
    );
    let inserted = INSERT.run(&[
        spi::uuid(user),
        spi::value(identity.provider.as_str()),
        spi::value(identity.provider_id.as_str()),
        spi::value(Jsonb(identity.identity_data.clone())),
        spi::timestamp(clock::now()),
    ])?;
    Ok(inserted == 1)
}

fn identity_exists(user: Uuid, identity: &Identity) -> Error {
    static OWN: Statement = Statement::latest(
        c"select from auth.identities where user_id = $1 and provider = $2 and provider_id = $3",
        &[pg_sys::UUIDOID, pg_sys::TEXTOID, pg_sys::TEXTOID],
    );
    let account =
        [spi::uuid(user), spi::value(identity.provider.as_str()), spi::value(identity.provider_id.as_str())];
    let (whose, hint) = match OWN.run(&account) {
        Ok(0) => ("a user", SIGN_IN_THERE),
        Ok(_) => ("this user", "There is nothing to do."),
        Err(error) => return error,
    };
    let message = format!("this account at \"{}\" is already linked to {whose}", identity.provider);
    error(422, "identity_already_exists", message).hint(hint)
}

fn unlink_identity(args: &Args) -> Result<Jsonb> {
    static DELETE: Statement = Statement::latest(
        c"delete from auth.identities where id = $1 and user_id = $2 returning provider",
        &[pg_sys::UUIDOID, pg_sys::UUIDOID],
    );
    static COUNT: Statement =
        Statement::latest(c"select from auth.identities where user_id = $1", &[pg_sys::UUIDOID]);
    writes(c"auth.unlink_identity()");
    check_enabled()?;
    let (user, session) = lock_caller()?;
    let identity = args.get::<pgrx::Uuid>(0).map(|id| Uuid::from_bytes(*id.as_bytes())).unwrap_or_default();
    if COUNT.run(&[spi::uuid(user.id)])? == 1 {
        return Err(error(422, "single_identity_not_deletable", "it is the only identity of the user")
            .hint("Link another one first."));
    }
    let provider =
        DELETE.first(&[spi::uuid(identity), spi::uuid(user.id)], |row| Ok(row.get::<String>(1)))?.flatten();
    let provider = provider.ok_or_else(|| {
        error(422, "identity_not_found", format!("the user has no identity {identity}"))
            .hint("See identities in auth.get_user().")
    })?;
    forget_addresses_of(&provider, &user)?;
    sessions::end_others(user.id, session)?;
    crate::audit::record("identity_unlinked", Some(user.id), json!({"identity_id": identity.to_string()}))?;
    let user = users::find(user.id)?.ok_or_else(claims::not_signed_in)?;
    Ok(Jsonb(user.to_json(users::identities(user.id)?)))
}
sql_function!(anon_auth_unlink_identity, unlink_identity);

/// An address goes with the last identity that proves it, and the password with the last address.
///
/// # Arguments
/// * `provider` – of the identity that was unlinked
fn forget_addresses_of(provider: &str, user: &User) -> Result<()> {
    static PROVEN: Statement = Statement::latest(
        c"select i.identity_data->>'email'
          from auth.identities i left join auth.identity_providers p on p.name = i.provider
          where i.user_id = $1
            and (i.provider = 'email' or p.trusts_email and i.identity_data->>'email_verified' = 'true')",
        &[pg_sys::UUIDOID],
    );
    static UPDATE: Statement = Statement::latest(
        c"update auth.users
          set email = case when $2 then email end, email_confirmed_at = case when $2 then email_confirmed_at end,
              phone = case when $3 then phone end, phone_confirmed_at = case when $3 then phone_confirmed_at end,
              encrypted_password = case when $2 and email_confirmed_at is not null
                                          or $3 and phone_confirmed_at is not null then encrypted_password end,
              updated_at = $4
          where id = $1",
        &[pg_sys::UUIDOID, pg_sys::BOOLOID, pg_sys::BOOLOID, pg_sys::TIMESTAMPTZOID],
    );
    // A phone number is proven by nothing else, and proves nothing else.
    let mut keeps_email = provider == "phone";
    PROVEN.each(&[spi::uuid(user.id)], |row| {
        let text: Option<String> = row.get(1);
        keeps_email |= text.and_then(|text| address::email(&text).ok()).as_deref() == user.proven_email();
        Ok(())
    })?;
    let keeps_phone = provider != "phone";
    let now = spi::timestamp(clock::now());
    UPDATE.run(&[spi::uuid(user.id), spi::value(keeps_email), spi::value(keeps_phone), now]).map(|_| ())
}

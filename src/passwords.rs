//! Passwords: set by users who have proven an address, and signing in with one.

use crate::error::{Error, Result, error, invalid};
use crate::function::{Args, writes};
use crate::guesses::{self, Subject};
use crate::jsonb::Jsonb;
use crate::limits::{self, Call};
use crate::settings::{self, Settings};
use crate::spi::{self, Statement};
use crate::users::User;
use crate::verification::Address;
use crate::{client_address, clock, linking, sessions, sql_function};
use anon_auth_core::password::{self, Cost, PasswordError};
use pgrx::pg_sys;
use uuid::Uuid;

/// Longer ones are refused before they cost anything, in bytes.
const MAX_BYTES: usize = 1024;

/// Sets a user's password, and ends the user's other sessions.
///
/// # Arguments
/// * `user` – as it is since its row was locked
/// * `session` – the session that stays
/// * `password` – as [`count_attempt`] found it good enough
///
/// # Errors
/// `validation_failed` where the user has not proven an address yet, `same_password`.
pub fn set(user: &User, session: Option<Uuid>, password: &str) -> Result<()> {
    static UPDATE: Statement = Statement::latest(
        c"update auth.users set encrypted_password = $2, updated_at = $3 where id = $1",
        &[pg_sys::UUIDOID, pg_sys::TEXTOID, pg_sys::TIMESTAMPTZOID],
    );
    if user.proven_email().is_none() && user.proven_phone().is_none() {
        return Err(error(422, "validation_failed", "a password needs a proven e-mail address or phone number")
            .hint("Prove one first: auth.update_user('{\"email\": …}'), then auth.verify_otp(…)."));
    }
    let settings = settings::current()?;
    match stored(user.id)? {
        Some(hash) if verify(password, &hash, cost(&settings))? => {
            return Err(error(422, "same_password", "the new password is the one in use"));
        }
        Some(_) => (),
        // There was nothing to guess at.
        None => guesses::succeeded(&subject(user.id), &client_address::current()?)?,
    }
    let hash = password::hash(password, cost(&settings))?;
    UPDATE.run(&[spi::uuid(user.id), spi::value(hash.as_str()), spi::timestamp(clock::now())])?;
    sessions::end_others(user.id, session)?;
    crate::audit::record("password_changed", Some(user.id), serde_json::json!({}))
}

/// Counts an attempt to set a password: by the answer `same_password` one could guess the one in use, and setting
/// another is a wrong guess. Before the user's row is locked.
///
/// # Errors
/// `weak_password` and `validation_failed`, which tell nothing and are not counted; `over_request_rate_limit`.
pub fn count_attempt(user: Uuid, password: &str) -> Result<()> {
    limits::take(Call::Password)?;
    check_strength(password, &*settings::current()?)?;
    guesses::count(&subject(user), &client_address::current()?)
}

/// A user's password is guessed at under one name, whichever of its addresses it is tried with.
fn subject(user: Uuid) -> Subject {
    Subject::password(&user.to_string()).of_user(user)
}

fn check_strength(password: &str, settings: &Settings) -> Result<()> {
    if password.len() > MAX_BYTES {
        return Err(too_long(password));
    }
    let least = settings.password_min_length;
    if (password.chars().count() as i64) < least {
        return Err(error(422, "weak_password", format!("the password has fewer than {least} characters"))
            .hint("Choose a longer one."));
    }
    Ok(())
}

fn too_long(password: &str) -> Error {
    invalid(format!("the password has {} bytes, more than {MAX_BYTES}", password.len()))
}

fn cost(settings: &Settings) -> Cost {
    Cost {
        memory: settings.password_hash_memory as u32,
        iterations: settings.password_hash_iterations as u32,
        parallelism: settings.password_hash_parallelism as u32,
    }
}

/// The hash of a user's password, as everything committed has it.
fn stored(user: Uuid) -> Result<Option<String>> {
    static SELECT: Statement =
        Statement::latest(c"select encrypted_password from auth.users where id = $1", &[pg_sys::UUIDOID]);
    SELECT.first(&[spi::uuid(user)], |row| Ok(row.get(1))).map(Option::flatten)
}

/// Whether `hash` is that of the password. The form of the hash tells how it was made; one of no known kind matches
/// nothing, as slowly as no hash at all.
fn verify(password: &str, hash: &str, cost: Cost) -> Result<bool> {
    match password::verify(password, hash) {
        Err(PasswordError::Unknown) => Ok(password::hash(password, cost).map(|_| false)?),
        verified => Ok(verified?),
    }
}

/// Hashes a right password anew where another cost is set by now.
fn keep_up_cost(user: Uuid, password: &str, hash: &str, cost: Cost) -> Result<()> {
    static UPDATE: Statement = Statement::latest(
        c"update auth.users set encrypted_password = $2 where id = $1",
        &[pg_sys::UUIDOID, pg_sys::TEXTOID],
    );
    if !password::is_of_cost(hash, cost) {
        let hash = password::hash(password, cost)?;
        UPDATE.run(&[spi::uuid(user), spi::value(hash.as_str())])?;
    }
    Ok(())
}

fn sign_in_with_password(args: &Args) -> Result<Jsonb> {
    writes(c"auth.sign_in_with_password()");
    limits::take(Call::Password)?;
    let (email, password, phone) = (args.text(0)?, args.text(1)?, args.text(2)?);
    let address = Address::one_of(email, phone)?
        .ok_or_else(|| invalid("neither an e-mail address nor a phone number is given"))?;
    let password = password.ok_or_else(|| invalid("the password is missing"))?;
    if password.len() > MAX_BYTES {
        return Err(too_long(&password));
    }
    // Before anything is judged, and whatever becomes of this transaction.
    let owner = address.owner()?;
    let subject = owner.map_or_else(|| Subject::password(address.text()), subject);
    let client = client_address::current()?;
    guesses::count(&subject, &client)?;

    let hash = owner.map(stored).transpose()?.flatten();
    let cost = cost(&*settings::current()?);
    let matches = match &hash {
        Some(hash) => verify(&password, hash, cost)?,
        // As slow as a wrong password, so that nobody learns who has an account.
        None => password::hash(&password, cost).map(|_| false)?,
    };
    match (owner, &hash) {
        (Some(user), Some(hash)) if matches => {
            let user = linking::lock(user)?;
            // Either may have changed before the lock was free.
            if address.owner()? != owner || stored(user.id)?.as_ref() != Some(hash) {
                return Err(invalid_credentials());
            }
            keep_up_cost(user.id, &password, hash, cost)?;
            guesses::succeeded(&subject, &client)?;
            sessions::create(user.id, "password")
        }
        _ => Err(invalid_credentials()),
    }
}
sql_function!(anon_auth_sign_in_with_password, sign_in_with_password);

fn invalid_credentials() -> Error {
    error(400, "invalid_credentials", "no user with this address has this password")
}

impl From<PasswordError> for Error {
    fn from(error: PasswordError) -> Self {
        crate::error::error(500, "internal_error", error.to_string())
            .hint("See the settings password_hash_memory, password_hash_iterations and password_hash_parallelism.")
    }
}

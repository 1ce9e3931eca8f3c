//! Device keys: a user comes back with nothing but a key that its device holds.
//!
//! Whoever asks with an unknown `kid`, a wrong signature or another key of the same `kid` gets one answer, so that
//! nobody learns which keys there are.

use crate::error::{Error, Result, error};
use crate::function::{Args, writes};
use crate::jsonb::Jsonb;
use crate::limits::{self, Call};
use crate::settings;
use crate::sign_in::{self, Newcomer};
use crate::spi::{self, Statement};
use crate::users::User;
use crate::{audit, challenges, clock, guest_providers, linking, sessions, sql_function, users};
use anon_auth_core::device_request::{self, Action, DeviceKey, DeviceRequest, Expected, RequestError};
use anon_auth_core::jwt::TokenError;
use pgrx::pg_sys;
use serde_json::json;
use uuid::Uuid;

// Arguments of `auth.sign_in_with_device_key()`.
const JWS: usize = 0;
const DATA: usize = 1;
const CAPTCHA_TOKEN: usize = 2;

/// How it was proven who the user is; `amr` in tokens.
const METHOD: &str = "device_key";

fn sign_in_with_device_key(args: &Args) -> Result<Jsonb> {
    writes(c"auth.sign_in_with_device_key()");
    limits::take(Call::Verify)?;
    let jws = args.text(JWS)?.unwrap_or_default();
    let mut request = device_request::parse(&jws).map_err(refused)?;
    match (owner_of(request.kid())?, request.key.take()) {
        (Some(owner), key) => {
            let user = lock_owner(request, key, owner, Action::Auth)?;
            sessions::create(user.id, METHOD)
        }
        (None, Some(key)) => register(request, &key, args),
        (None, None) => Err(not_signed()),
    }
}
sql_function!(anon_auth_sign_in_with_device_key, sign_in_with_device_key);

/// Signs in as a guest that is to become permanent, by a request with the action "promote".
///
/// # Errors
/// Those of `auth.redeem_promotion_code()`.
pub fn sign_in_to_promote(jws: &str) -> Result<Jsonb> {
    let mut request = device_request::parse(jws).map_err(refused)?;
    let owner = owner_of(request.kid())?.ok_or_else(not_signed)?;
    let key = request.key.take();
    let user = lock_owner(request, key, owner, Action::Promote)?;
    if !user.is_anonymous {
        return Err(error(403, "not_anonymous", "the user of this device key is permanent already")
            .hint("Sign in with it: SELECT auth.sign_in_with_device_key($1) with the action \"auth\"."));
    }
    sessions::create(user.id, METHOD)
}

fn owner_of(kid: &str) -> Result<Option<Uuid>> {
    static SELECT: Statement =
        Statement::latest(c"select user_id from auth.device_keys where kid = $1", &[pg_sys::TEXTOID]);
    SELECT.first(&[spi::value(kid)], |row| Ok(row.uuid(1)))
}

/// Verifies a request by the key that is stored, uses up its challenge, and returns whose key it is, with the row
/// locked. A guest has to be one that may sign in now.
///
/// # Arguments
/// * `key` – the one that the request brings along; it must be the stored one
/// * `owner` – whose it was a moment ago
fn lock_owner(request: DeviceRequest, key: Option<DeviceKey>, owner: Uuid, action: Action) -> Result<User> {
    static USE: Statement = Statement::latest(
        c"update auth.device_keys set last_used_at = $2 where kid = $1",
        &[pg_sys::TEXTOID, pg_sys::TIMESTAMPTZOID],
    );
    let kid = request.kid().to_owned();
    users::lock(owner)?;
    // It may have been removed before the lock was free.
    let stored = stored_key(&kid, owner)?.ok_or_else(not_signed)?;
    if key.is_some_and(|key| key.jwk() != stored.jwk()) {
        return Err(not_signed());
    }
    let challenge = request.verify(&stored, &expected(action)?).map_err(refused)?;
    challenges::use_up_device(&challenge)?;
    USE.run(&[spi::value(kid.as_str()), spi::timestamp(clock::now())])?;
    let user = users::find(owner)?.ok_or_else(not_signed)?;
    if user.is_anonymous {
        sign_in::check_enabled(&*settings::current()?)?;
        guest_providers::check_enabled_for(&user)?;
    }
    Ok(user)
}

fn stored_key(kid: &str, owner: Uuid) -> Result<Option<DeviceKey>> {
    static SELECT: Statement = Statement::latest(
        c"select public_key from auth.device_keys where kid = $1 and user_id = $2",
        &[pg_sys::TEXTOID, pg_sys::UUIDOID],
    );
    let text = SELECT.first(&[spi::value(kid), spi::uuid(owner)], |row| {
        Ok(row.get::<pg_sys::Datum>(1).map(crate::json::text).unwrap_or_default())
    })?;
    // One that an administrator has damaged has signed nothing.
    text.map(|text| DeviceKey::from_jwk(&crate::json::parse(&text)?).map_err(|_| not_signed())).transpose()
}

fn expected(action: Action) -> Result<Expected> {
    let now = clock::now();
    let latest = clock::unix_seconds(now + settings::current()?.challenge_lifetime);
    Ok(Expected { action, now: clock::unix_seconds(now), latest })
}

/// Registers a key: for the guest that is signed in, or for a new one.
fn register(request: DeviceRequest, key: &DeviceKey, args: &Args) -> Result<Jsonb> {
    let kid = request.kid().to_owned();
    let challenge = request.verify(key, &expected(Action::Auth)?).map_err(refused)?;
    let Some(user) = lock_signed_in()? else {
        let newcomer = Newcomer::admit(args.get(DATA), args.text(CAPTCHA_TOKEN)?, None)?;
        challenges::use_up_device(&challenge)?;
        let (user, session) = newcomer.make_guest()?;
        insert(&kid, user, key)?;
        return Ok(session);
    };
    if !user.is_anonymous {
        return Err(error(403, "not_anonymous", "only a guest registers a device key")
            .hint("A permanent user signs in by what it has proven."));
    }
    check_limit(user.id)?;
    challenges::use_up_device(&challenge)?;
    insert(&kid, user.id, key)?;
    sessions::create(user.id, METHOD)
}

/// The user who is signed in, with the row locked; `None` where nobody is. One whose token or session is not good
/// any more is not taken for nobody.
fn lock_signed_in() -> Result<Option<User>> {
    match linking::lock_caller() {
        Ok((user, _)) => Ok(Some(user)),
        Err(error) if error.has_code("no_authorization") => {
            error.discard();
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Exact, since keys are added under the lock of the user's row only.
fn check_limit(user: Uuid) -> Result<()> {
    static COUNT: Statement =
        Statement::latest(c"select from auth.device_keys where user_id = $1", &[pg_sys::UUIDOID]);
    let limit = settings::current()?.device_keys_per_user;
    if COUNT.run(&[spi::uuid(user)])? < limit as u64 {
        return Ok(());
    }
    let message = format!("the user has the {limit} device keys that device_keys_per_user allows");
    Err(error(422, "device_key_limit_reached", message).hint("Remove one: SELECT auth.remove_device_key('…');"))
}

fn insert(kid: &str, user: Uuid, key: &DeviceKey) -> Result<()> {
    static INSERT: Statement = Statement::new(
        c"insert into auth.device_keys (kid, user_id, public_key, created_at, last_used_at)
          values ($1, $2, $3, $4, $4) on conflict do nothing",
        &[pg_sys::TEXTOID, pg_sys::UUIDOID, pg_sys::JSONBOID, pg_sys::TIMESTAMPTZOID],
    );
    let now = spi::timestamp(clock::now());
    let inserted = INSERT.run(&[spi::value(kid), spi::uuid(user), spi::value(Jsonb(key.jwk().clone())), now])?;
    if inserted == 0 {
        // Somebody has just registered it.
        return Err(not_signed());
    }
    audit::record("device_key_registered", Some(user), json!({"kid": kid}))
}

fn remove_device_key(args: &Args) -> Result<i32> {
    static DELETE: Statement = Statement::latest(
        c"delete from auth.device_keys where user_id = $1 and ($2 is null or kid = $2) returning kid",
        &[pg_sys::UUIDOID, pg_sys::TEXTOID],
    );
    writes(c"auth.remove_device_key()");
    let (user, _) = linking::lock_caller()?;
    let kid = args.text(0)?;
    let mut removed: Vec<String> = Vec::new();
    DELETE.each(&[spi::uuid(user.id), spi::value(kid.as_deref())], |row| {
        removed.extend(row.get::<String>(1));
        Ok(())
    })?;
    if let (Some(kid), true) = (kid, removed.is_empty()) {
        let shown: String = kid.chars().take(128).collect();
        return Err(error(404, "device_key_not_found", format!("the user has no device key \"{shown}\""))
            .hint("NULL removes all device keys of the user."));
    }
    for kid in &removed {
        audit::record("device_key_removed", Some(user.id), json!({"kid": kid}))?;
    }
    Ok(removed.len() as i32)
}
sql_function!(anon_auth_remove_device_key, remove_device_key);

fn refused(why: RequestError) -> Error {
    match why {
        RequestError::Token(TokenError::BadSignature | TokenError::AlgorithmMismatch) => not_signed(),
        why => bad_device_request(why.to_string()),
    }
}

fn not_signed() -> Error {
    bad_device_request("it is not signed by a key that is known by its kid")
}

fn bad_device_request(why: impl AsRef<str>) -> Error {
    error(400, "bad_device_request", format!("the request of the device key is refused: {}", why.as_ref())).hint(
        "A request is signed as \\df+ auth.sign_in_with_device_key says; an unknown key is brought along in jwk.",
    )
}

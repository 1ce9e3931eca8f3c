//! Anonymous sign-in: a guest is made, and gets its session.

use crate::error::{Result, error, invalid};
use crate::function::{Args, writes};
use crate::jsonb::Jsonb;
use crate::sessions::{self, Session};
use crate::settings::{self, Settings};
use crate::spi::{self, Statement};
use crate::users::User;
use crate::{altcha, clock, hook_events, keys, sql_function};
use pgrx::pg_sys;
use serde_json::{Value, json};
use uuid::Uuid;

// Arguments of `auth.sign_in_anonymously()`.
const DATA: usize = 0;
const CAPTCHA_TOKEN: usize = 1;
const REFRESH_TOKEN: usize = 2;

/// The metadata that a caller gives for itself.
fn user_metadata(data: Option<pg_sys::Datum>, settings: &Settings) -> Result<Value> {
    let Some(datum) = data else { return Ok(json!({})) };
    let text = crate::json::text(datum);
    settings.check_user_metadata(text.len())?;
    match crate::json::parse(&text)? {
        Value::Object(object) => Ok(Value::Object(object)),
        other => Err(invalid(format!("the metadata is {}, not a JSON object", type_name(&other)))),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn sign_in_anonymously(args: &Args) -> Result<Jsonb> {
    writes(c"auth.sign_in_anonymously()");
    let settings = settings::current()?;
    check_enabled(settings.disabled)?;
    if settings.sign_in_mode == "reuse"
        && let Some(token) = args.text(REFRESH_TOKEN)?
    {
        return sessions::refresh(&token);
    }
    admit(args.text(CAPTCHA_TOKEN)?.as_deref())?;
    make_guest(args.get(DATA)).map(|(_, session)| session)
}
sql_function!(anon_auth_sign_in_anonymously, sign_in_anonymously);

/// # Errors
/// `anonymous_provider_disabled`.
pub fn check_enabled(disabled: bool) -> Result<()> {
    if disabled {
        return Err(error(422, "anonymous_provider_disabled", "anonymous sign-in is switched off")
            .hint("An administrator can switch it on: SELECT auth.set_setting('disabled', 'false');"));
    }
    Ok(())
}

/// Refuses whoever may not become a new guest. Before anything else is locked or written.
///
/// # Errors
/// `anonymous_provider_disabled`, `captcha_failed`.
pub fn admit(captcha_token: Option<&str>) -> Result<()> {
    let settings = settings::current()?;
    check_enabled(settings.disabled)?;
    match settings.captcha {
        "altcha" => altcha::verify(captcha_token.unwrap_or_default()),
        _ => Ok(()),
    }
}

/// Makes a guest; returns its id and its session.
///
/// # Arguments
/// * `data` – its `user_metadata`, a `jsonb`
pub fn make_guest(data: Option<pg_sys::Datum>) -> Result<(Uuid, Jsonb)> {
    static INSERT: Statement = Statement::new(
        c"with guest as (
              insert into auth.users (id, aud, raw_user_meta_data, raw_app_meta_data, is_anonymous, created_at,
                                      updated_at, last_sign_in_at)
              values ($1, $2, $3, coalesce($7, '{}'), true, $4, $4, $4))
          insert into auth.sessions (id, user_id, created_at, refreshed_at, refresh_token_nonce)
          values ($5, $1, $4, $4, $6)",
        &[
            pg_sys::UUIDOID,
            pg_sys::TEXTOID,
            pg_sys::JSONBOID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::UUIDOID,
            pg_sys::BYTEAOID,
            pg_sys::JSONBOID,
        ],
    );
    let settings = settings::current()?;
    let metadata = user_metadata(data, &settings)?;
    // Stored as it was given: JSON numbers may have more digits than the token's.
    let mut stored_metadata = data.or_else(|| spi::value(Jsonb(json!({}))));
    // The keys come first: they may be made in another transaction, and nothing must be held meanwhile.
    keys::current()?;

    let now = clock::now();
    let mut user = User::new_guest(clock::new_id(now), &settings.audience, metadata, now);
    let mut app_metadata = None;
    if hook_events::before_user_created(&mut user, "anonymous")? {
        stored_metadata = spi::value(Jsonb(user.user_metadata.clone()));
        app_metadata = spi::value(Jsonb(user.app_metadata.clone()));
    }
    let session = Session::new(user.id, "anonymous", now);
    INSERT.run(&[
        spi::uuid(user.id),
        spi::value(user.aud.as_str()),
        stored_metadata,
        spi::timestamp(now),
        spi::uuid(session.id),
        spi::value(session.nonce.as_slice()),
        app_metadata,
    ])?;
    hook_events::after_user_created(&user, "anonymous")?;
    Ok((user.id, sessions::answer(&session, &user, &settings, now)?))
}

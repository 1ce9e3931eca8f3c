//! Anonymous sign-in: a guest is made, and gets its session.

use crate::error::{Result, error, invalid};
use crate::function::{Args, writes};
use crate::jsonb::Jsonb;
use crate::sessions::{self, Session};
use crate::settings::{self, Settings};
use crate::spi::{self, Statement};
use crate::users::User;
use crate::{clock, hook_events, keys, lazy_guests, sql_function};
use pgrx::pg_sys;
use serde_json::{Value, json};

// Arguments of `auth.sign_in_anonymously()`.
const DATA: usize = 0;
const REFRESH_TOKEN: usize = 2;

/// The metadata that a caller gives for itself.
fn user_metadata(args: &Args, settings: &Settings) -> Result<Value> {
    let Some(datum) = (unsafe { pgrx::fcinfo::pg_getarg_datum(args.0, DATA) }) else { return Ok(json!({})) };
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

/// Stores a new guest with its first session.
///
/// # Arguments
/// * `metadata` – those that the guest chose and those that only administrators write, as `jsonb`
pub fn store(user: &User, session: &Session, metadata: [spi::Value; 2]) -> Result<()> {
    static INSERT: Statement = Statement::new(
        c"with guest as (
              insert into auth.users (id, aud, raw_user_meta_data, raw_app_meta_data, is_anonymous, created_at,
                                      updated_at, last_sign_in_at)
              values ($1, $2, $6, $7, true, $3, $3, $3))
          insert into auth.sessions (id, user_id, created_at, refreshed_at, refresh_token_nonce)
          values ($4, $1, $3, $3, $5)",
        &[
            pg_sys::UUIDOID,
            pg_sys::TEXTOID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::UUIDOID,
            pg_sys::BYTEAOID,
            pg_sys::JSONBOID,
            pg_sys::JSONBOID,
        ],
    );
    let [user_metadata, app_metadata] = metadata;
    INSERT.run(&[
        spi::uuid(user.id),
        spi::value(user.aud.as_str()),
        spi::timestamp(user.created_at),
        spi::uuid(session.id),
        spi::value(session.nonce.as_slice()),
        user_metadata,
        app_metadata,
    ])?;
    Ok(())
}

fn sign_in_anonymously(args: &Args) -> Result<Jsonb> {
    let settings = settings::current()?;
    let is_lazy = settings.guest_storage == "lazy";
    if !is_lazy {
        writes(c"auth.sign_in_anonymously()");
    }
    if settings.disabled {
        return Err(error(422, "anonymous_provider_disabled", "anonymous sign-in is switched off")
            .hint("An administrator can switch it on: SELECT auth.set_setting('disabled', 'false');"));
    }
    if settings.sign_in_mode == "reuse"
        && let Some(token) = args.text(REFRESH_TOKEN)?
    {
        return sessions::refresh(&token);
    }
    let metadata = user_metadata(args, &settings)?;
    // The keys come first: they may be made in another transaction, and nothing must be held meanwhile.
    keys::current()?;

    let now = clock::now();
    let mut user = User::new_guest(clock::new_id(now), &settings.audience, metadata, now);
    let is_changed = hook_events::before_user_created(&mut user, "anonymous")?;
    if is_lazy {
        return lazy_guests::sign_in(&user, &settings, now);
    }
    // Stored as it was given: JSON numbers may have more digits than the token's.
    let as_given = args.get::<pg_sys::Datum>(DATA).filter(|_| !is_changed);
    let user_metadata = as_given.or_else(|| spi::value(Jsonb(user.user_metadata.clone())));
    let session = Session::new(user.id, "anonymous", now);
    store(&user, &session, [user_metadata, spi::value(Jsonb(user.app_metadata.clone()))])?;
    hook_events::after_user_created(&user, "anonymous")?;
    sessions::answer(&session, &user, &settings, now)
}
sql_function!(anon_auth_sign_in_anonymously, sign_in_anonymously);

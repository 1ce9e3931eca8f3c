//! Anonymous sign-in: a guest is made, and gets its session.

use crate::error::{Result, error, invalid};
use crate::function::{Args, writes};
use crate::guest_providers::GuestProvider;
use crate::jsonb::Jsonb;
use crate::sessions::{self, Session};
use crate::settings::{self, Settings};
use crate::spi::{self, Statement};
use crate::users::User;
use crate::{captcha, clock, guest_providers, hook_events, keys, sql_function};
use pgrx::pg_sys;
use serde_json::{Value, json};

// Arguments of `auth.sign_in_anonymously()`.
const DATA: usize = 0;
const CAPTCHA_TOKEN: usize = 1;
const REFRESH_TOKEN: usize = 2;
const PROVIDER: usize = 3;

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

fn sign_in_anonymously(args: &Args) -> Result<Jsonb> {
    static INSERT: Statement = Statement::new(
        c"with guest as (
              insert into auth.users (id, aud, raw_user_meta_data, raw_app_meta_data, is_anonymous, created_at,
                                      updated_at, last_sign_in_at)
              values ($1, $2, $3, coalesce($7, '{}'), true, $4, $4, $4))
          insert into auth.sessions (id, user_id, created_at, refreshed_at, refresh_token_nonce, not_after)
          values ($5, $1, $4, $4, $6, $8)",
        &[
            pg_sys::UUIDOID,
            pg_sys::TEXTOID,
            pg_sys::JSONBOID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::UUIDOID,
            pg_sys::BYTEAOID,
            pg_sys::JSONBOID,
            pg_sys::TIMESTAMPTZOID,
        ],
    );
    writes(c"auth.sign_in_anonymously()");
    let settings = settings::current()?;
    if settings.disabled {
        return Err(error(422, "anonymous_provider_disabled", "anonymous sign-in is switched off")
            .hint("An administrator can switch it on: SELECT auth.set_setting('disabled', 'false');"));
    }
    let provider = args.text(PROVIDER)?.map(|name| guest_providers::find_enabled(&name)).transpose()?;
    if settings.sign_in_mode == "reuse"
        && let Some(token) = args.text(REFRESH_TOKEN)?
    {
        return sessions::refresh(&token);
    }
    let metadata = user_metadata(args, &settings)?;
    // Stored as it was given: JSON numbers may have more digits than the token's.
    let mut stored_metadata = args.get::<pg_sys::Datum>(DATA).or_else(|| spi::value(Jsonb(json!({}))));
    // Before anything is locked, written or made: it may take long, and fail.
    let captcha = provider.as_ref().and_then(|provider| provider.captcha.as_deref()).unwrap_or(settings.captcha);
    let captcha_token = args.text(CAPTCHA_TOKEN)?;
    captcha::check(captcha, captcha_token.as_deref())?;
    // The keys come first: they may be made in another transaction, and nothing must be held meanwhile.
    keys::current()?;

    let now = clock::now();
    let mut user = User::new_guest(clock::new_id(now), &settings.audience, metadata, now);
    if let Some(GuestProvider { name, .. }) = &provider {
        user.app_metadata = json!({"provider": name, "providers": [name]});
    }
    let provider = provider.as_ref().map_or("anonymous", |provider| &provider.name);
    let added = hook_events::before_user_created(&mut user, provider, captcha_token.as_deref())?;
    if added {
        stored_metadata = spi::value(Jsonb(user.user_metadata.clone()));
    }
    let has_app_metadata = user.app_metadata.as_object().is_some_and(|metadata| !metadata.is_empty());
    let app_metadata = if has_app_metadata { spi::value(Jsonb(user.app_metadata.clone())) } else { None };
    let session = Session::new(&user, "anonymous", now);
    INSERT.run(&[
        spi::uuid(user.id),
        spi::value(user.aud.as_str()),
        stored_metadata,
        spi::timestamp(now),
        spi::uuid(session.id),
        spi::value(session.nonce.as_slice()),
        app_metadata,
        session.not_after.and_then(spi::timestamp),
    ])?;
    hook_events::after_user_created(&user, provider)?;
    sessions::answer(&session, &user, &settings, now)
}
sql_function!(anon_auth_sign_in_anonymously, sign_in_anonymously);

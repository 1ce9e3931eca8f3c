//! Anonymous sign-in: a guest is made, and gets its session.

use crate::error::{Result, error, invalid};
use crate::function::{Args, writes};
use crate::guest_providers::GuestProvider;
use crate::jsonb::Jsonb;
use crate::limits::{self, Call};
use crate::sessions::{self, Session};
use crate::settings::{self, Settings};
use crate::spi::{self, Statement};
use crate::users::User;
use crate::{captcha, clock, guest_providers, hook_events, keys, sql_function};
use pgrx::pg_sys;
use serde_json::{Value, json};
use uuid::Uuid;

// Arguments of `auth.sign_in_anonymously()`.
const DATA: usize = 0;
const CAPTCHA_TOKEN: usize = 1;
const REFRESH_TOKEN: usize = 2;
const PROVIDER: usize = 3;

fn sign_in_anonymously(args: &Args) -> Result<Jsonb> {
    writes(c"auth.sign_in_anonymously()");
    let settings = settings::current()?;
    check_enabled(&settings)?;
    let provider = args.text(PROVIDER)?.map(|name| guest_providers::find_enabled(&name)).transpose()?;
    if settings.sign_in_mode == "reuse"
        && let Some(token) = args.text(REFRESH_TOKEN)?
    {
        return sessions::refresh(&token);
    }
    let newcomer = Newcomer::admit(args.get(DATA), args.text(CAPTCHA_TOKEN)?, provider)?;
    newcomer.make_guest().map(|(_, session)| session)
}
sql_function!(anon_auth_sign_in_anonymously, sign_in_anonymously);

/// # Errors
/// `anonymous_provider_disabled`.
pub fn check_enabled(settings: &Settings) -> Result<()> {
    match settings.disabled {
        false => Ok(()),
        true => Err(error(422, "anonymous_provider_disabled", "anonymous sign-in is switched off")
            .hint("An administrator can switch it on: SELECT auth.set_setting('disabled', 'false');")),
    }
}

/// Somebody who may become a guest.
pub struct Newcomer {
    /// Its `user_metadata` as given, a `jsonb`: JSON numbers may have more digits than a token's.
    data: Option<pg_sys::Datum>,
    user_metadata: Value,
    captcha_token: Option<String>,
    provider: Option<GuestProvider>,
}

impl Newcomer {
    /// Refuses whoever may not become a guest. To be called before anything else is locked or written: asking a captcha
    /// service may take long, and fail.
    ///
    /// # Errors
    /// `anonymous_provider_disabled`, `over_request_rate_limit`, `validation_failed`, `captcha_failed`,
    /// `captcha_unavailable`.
    pub fn admit(
        data: Option<pg_sys::Datum>,
        captcha_token: Option<String>,
        provider: Option<GuestProvider>,
    ) -> Result<Self> {
        let settings = settings::current()?;
        check_enabled(&settings)?;
        match &provider {
            Some(GuestProvider { name, rate_limit: Some(limit), .. }) => {
                limits::take_named(Call::SignIn, name, (*limit).into())?;
            }
            _ => limits::take(Call::SignIn)?,
        }
        let user_metadata = user_metadata(data, &settings)?;
        let captcha = provider.as_ref().and_then(|provider| provider.captcha.as_deref()).unwrap_or(settings.captcha);
        captcha::check(captcha, captcha_token.as_deref())?;
        Ok(Self { data, user_metadata, captcha_token, provider })
    }

    /// Makes the guest; returns its id and its session.
    ///
    /// # Errors
    /// Those of the hooks.
    pub fn make_guest(self) -> Result<(Uuid, Jsonb)> {
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
        let settings = settings::current()?;
        // The keys come first: they may be made in another transaction, and nothing must be held meanwhile.
        keys::current()?;

        let now = clock::now();
        let mut user = User::new_guest(clock::new_id(now), &settings.audience, self.user_metadata, now);
        if let Some(GuestProvider { name, .. }) = &self.provider {
            user.app_metadata = json!({"provider": name, "providers": [name]});
        }
        let provider = self.provider.as_ref().map_or("anonymous", |provider| &provider.name);
        let is_changed = hook_events::before_user_created(&mut user, provider, self.captcha_token.as_deref())?;
        let as_given = self.data.filter(|_| !is_changed);
        let has_app_metadata = user.app_metadata.as_object().is_some_and(|metadata| !metadata.is_empty());
        let session = Session::new(&user, "anonymous", now);
        INSERT.run(&[
            spi::uuid(user.id),
            spi::value(user.aud.as_str()),
            as_given.or_else(|| spi::value(Jsonb(user.user_metadata.clone()))),
            spi::timestamp(now),
            spi::uuid(session.id),
            spi::value(session.nonce.as_slice()),
            if has_app_metadata { spi::value(Jsonb(user.app_metadata.clone())) } else { None },
            session.not_after.and_then(spi::timestamp),
        ])?;
        hook_events::after_user_created(&user, provider)?;
        Ok((user.id, sessions::answer(&session, &user, &settings, now)?))
    }
}

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

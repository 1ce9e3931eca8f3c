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
use crate::{captcha, clock, guest_providers, hook_events, keys, lazy_guests, sql_function};
use pgrx::pg_sys;
use serde_json::{Value, json};
use uuid::Uuid;

// Arguments of `auth.sign_in_anonymously()`.
const DATA: usize = 0;
const CAPTCHA_TOKEN: usize = 1;
const REFRESH_TOKEN: usize = 2;
const PROVIDER: usize = 3;

fn sign_in_anonymously(args: &Args) -> Result<Jsonb> {
    let settings = settings::current()?;
    let is_lazy = settings.guest_storage == "lazy";
    if !is_lazy {
        writes(c"auth.sign_in_anonymously()");
    }
    check_enabled(&settings)?;
    let provider = args.text(PROVIDER)?.map(|name| guest_providers::find_enabled(&name)).transpose()?;
    if settings.sign_in_mode == "reuse"
        && let Some(token) = args.text(REFRESH_TOKEN)?
    {
        return sessions::refresh(&token);
    }
    let newcomer = Newcomer::admit(args.get(DATA), args.text(CAPTCHA_TOKEN)?, provider)?;
    if is_lazy { newcomer.make_lazy_guest() } else { newcomer.make_guest().map(|(_, session)| session) }
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
        let now = clock::now();
        let data = self.data;
        let (user, is_changed) = self.into_user(now)?;
        let as_given = data.filter(|_| !is_changed);
        let user_metadata = as_given.or_else(|| spi::value(Jsonb(user.user_metadata.clone())));
        let session = Session::new(&user, "anonymous", now);
        store(&user, &session, [user_metadata, spi::value(Jsonb(user.app_metadata.clone()))])?;
        hook_events::after_user_created(&user, guest_providers::name_of(&user))?;
        let answer = sessions::answer(&session, &user, &*settings::current()?, now)?;
        Ok((user.id, answer))
    }

    /// The same without storing anything.
    fn make_lazy_guest(self) -> Result<Jsonb> {
        let now = clock::now();
        let (user, _) = self.into_user(now)?;
        lazy_guests::sign_in(&user, &*settings::current()?, now)
    }

    /// The guest, not stored yet, and whether the hook has added to it.
    fn into_user(self, now: i64) -> Result<(User, bool)> {
        // The keys come first: they may be made in another transaction, and nothing must be held meanwhile.
        keys::current()?;
        let audience = &settings::current()?.audience;
        let mut user = User::new_guest(clock::new_id(now), audience, self.user_metadata, now);
        if let Some(GuestProvider { name, .. }) = &self.provider {
            user.app_metadata = json!({"provider": name, "providers": [name]});
        }
        let provider = self.provider.as_ref().map_or(guest_providers::UNNAMED, |provider| &provider.name);
        let is_changed = hook_events::before_user_created(&mut user, provider, self.captcha_token.as_deref())?;
        Ok((user, is_changed))
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
          insert into auth.sessions (id, user_id, created_at, refreshed_at, refresh_token_nonce, not_after)
          values ($4, $1, $3, $3, $5, $8)",
        &[
            pg_sys::UUIDOID,
            pg_sys::TEXTOID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::UUIDOID,
            pg_sys::BYTEAOID,
            pg_sys::JSONBOID,
            pg_sys::JSONBOID,
            pg_sys::TIMESTAMPTZOID,
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
        session.not_after.and_then(spi::timestamp),
    ])?;
    Ok(())
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

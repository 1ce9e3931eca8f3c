//! Guest providers: what anonymous sign-in goes by. The one without a name has the settings, and its switch is
//! Realm's file; those that an administrator names in `auth.guest_providers` differ from it where they say so.

use crate::cache::Cache;
use crate::catalog::{self, LatestSnapshot};
use crate::error::{Result, error, invalid};
use crate::function::{Args, writes};
use crate::identity_providers::{check_name, shortened};
use crate::jsonb::Jsonb;
use crate::settings;
use crate::spi::{self, Statement};
use crate::sql_function;
use crate::users::User;
use pgrx::pg_sys;
use serde_json::json;
use std::rc::Rc;

/// A row of `auth.guest_providers`.
#[derive(Clone)]
pub struct GuestProvider {
    pub name: String,
    disabled: bool,
    /// Microseconds.
    session_lifetime: Option<i64>,
    /// Sign-ins an hour and client address, in place of the setting, and counted apart; 0 for no limit.
    pub rate_limit: Option<i32>,
    /// In place of the setting.
    pub captcha: Option<String>,
}

impl GuestProvider {
    /// # Errors
    /// `anonymous_provider_disabled`.
    fn check_enabled(&self) -> Result<()> {
        if !self.disabled {
            return Ok(());
        }
        let message = format!("the guest provider \"{}\" is switched off", self.name);
        Err(error(422, "anonymous_provider_disabled", message)
            .hint("An administrator can switch it on: SELECT auth.set_guest_provider(name => …, disabled => false);"))
    }
}

thread_local! {
    static CACHE: Cache<Vec<GuestProvider>> = const { Cache::new() };
}

/// Has the providers read again at their next use.
pub fn mark_stale() {
    CACHE.with(Cache::mark_stale);
}

/// What was read for this transaction only is read again in the next.
pub fn at_transaction_end() {
    if CACHE.with(Cache::take_provisional) {
        mark_stale();
    }
}

fn stored() -> Rc<Vec<GuestProvider>> {
    CACHE.with(Cache::get).unwrap_or_else(|| {
        let mut providers = Vec::new();
        if let Some(relations) = catalog::relations() {
            LatestSnapshot::take().all(relations.guest_providers, |row| {
                providers.push(GuestProvider {
                    name: row.get(c"name").unwrap_or_default(),
                    disabled: row.get(c"disabled").unwrap_or(true),
                    session_lifetime: row
                        .get::<pgrx::datum::Interval>(c"session_lifetime")
                        .map(|lifetime| lifetime.as_micros() as i64),
                    rate_limit: row.get(c"rate_limit"),
                    captcha: row.get(c"captcha"),
                });
            });
        }
        CACHE.with(|cache| cache.keep(providers, false))
    })
}

/// The provider with this name, if guests may sign in with it.
///
/// # Errors
/// `provider_not_found`, `anonymous_provider_disabled`.
pub fn find_enabled(name: &str) -> Result<GuestProvider> {
    let found = stored().iter().find(|provider| provider.name == name).cloned();
    let provider = found.ok_or_else(|| {
        error(404, "provider_not_found", format!("there is no guest provider \"{}\"", shortened(name)))
            .hint("An administrator can add it: SELECT auth.set_guest_provider(…);")
    })?;
    provider.check_enabled()?;
    Ok(provider)
}

/// What guests sign in with who name no provider.
pub const UNNAMED: &str = "anonymous";

/// The name of the provider that a guest has signed in with.
pub fn name_of(guest: &User) -> &str {
    guest.app_metadata.get("provider").and_then(|name| name.as_str()).unwrap_or(UNNAMED)
}

/// Checks that guests of this one's provider may sign in; one whose provider was removed may.
///
/// # Errors
/// `anonymous_provider_disabled`.
pub fn check_enabled_for(guest: &User) -> Result<()> {
    provider_of(guest).map_or(Ok(()), |provider| provider.check_enabled())
}

/// The provider that a guest has signed in with, if it has a name and is still there.
fn provider_of(guest: &User) -> Option<GuestProvider> {
    let name = name_of(guest);
    stored().iter().find(|provider| provider.name == name).cloned()
}

/// How long sessions of this user last in all, where the guest provider that it is of says so; in microseconds.
pub fn session_lifetime(user: &User) -> Option<i64> {
    if !user.is_anonymous {
        return None;
    }
    provider_of(user)?.session_lifetime
}

/// The shortest and the longest `session_lifetime`, in microseconds.
const SESSION_LIFETIMES: std::ops::RangeInclusive<i128> = 1_000_000..=36_525 * 86_400_000_000;

fn set(args: &Args) -> Result<Jsonb> {
    static STORE: Statement = Statement::new(
        c"insert into auth.guest_providers as p (name, disabled, session_lifetime, rate_limit, captcha)
          values ($1, coalesce($2, false), $3, $4, $5)
          on conflict (name) do update
          set disabled = coalesce($2, p.disabled), session_lifetime = coalesce($3, p.session_lifetime),
              rate_limit = coalesce($4, p.rate_limit), captcha = coalesce($5, p.captcha),
              updated_at = pg_catalog.now()
          returning pg_catalog.to_jsonb(p)",
        &[pg_sys::TEXTOID, pg_sys::BOOLOID, pg_sys::INTERVALOID, pg_sys::INT4OID, pg_sys::TEXTOID],
    );
    writes(c"auth.set_guest_provider()");
    let name = check_name(args.text(0)?, "guest provider")?;
    if let Some(lifetime) = args.get::<pgrx::datum::Interval>(2)
        && !SESSION_LIFETIMES.contains(&lifetime.as_micros())
    {
        return Err(invalid("the session lifetime is not an interval of 1 second to 36525 days"));
    }
    if let Some(limit) = args.get::<i32>(3)
        && limit < 0
    {
        return Err(invalid(format!("the rate limit {limit} is negative"))
            .hint("It is how many guests a client address can make in an hour; 0 turns the limit off."));
    }
    let captcha = args.text(4)?.map(|captcha| settings::canonical("captcha", &captcha)).transpose()?;
    let values = [
        spi::value(name),
        spi::value(args.get::<bool>(1)),
        args.get(2),
        spi::value(args.get::<i32>(3)),
        spi::value(captcha),
    ];
    let stored = STORE.first(&values, |row| {
        crate::json::parse(&row.get::<pg_sys::Datum>(1).map(crate::json::text).unwrap_or_default())
    })?;
    let stored = stored.unwrap_or_default();
    crate::audit::record("guest_provider_changed", None, stored.clone())?;
    Ok(Jsonb(stored))
}
sql_function!(anon_auth_set_guest_provider, set);

sql_function!(anon_auth_remove_guest_provider, |args| {
    static DELETE: Statement =
        Statement::new(c"delete from auth.guest_providers where name = $1", &[pg_sys::TEXTOID]);
    writes(c"auth.remove_guest_provider()");
    let name = args.text(0)?.unwrap_or_default();
    let removed = DELETE.run(&[spi::value(name.as_str())])? == 1;
    if removed {
        crate::audit::record("guest_provider_removed", None, json!({"name": name}))?;
    }
    Ok(removed)
});

/// Provider configuration in the form of Realm's `auth/providers.json`.
const PROVIDER: &str = "anon-user";

fn provider() -> Result<Jsonb> {
    Ok(Jsonb(json!({"name": PROVIDER, "type": PROVIDER, "disabled": settings::current()?.disabled})))
}

sql_function!(anon_auth_export_provider, |_| provider());

fn import_provider(args: &Args) -> Result<Jsonb> {
    let shape = "Expected: {\"name\": \"anon-user\", \"type\": \"anon-user\", \"disabled\": <boolean>}.";
    writes(c"auth.import_provider()");
    let config = crate::json::argument(args, 0)?;
    let Some(object) = config.as_object() else {
        return Err(invalid("the provider configuration is not a JSON object").hint(shape));
    };
    if let Some(key) = object.keys().find(|key| !matches!(key.as_str(), "name" | "type" | "disabled")) {
        return Err(invalid(format!("the provider configuration has an unknown key \"{key}\"")).hint(shape));
    }
    for key in ["name", "type"] {
        if object.get(key).and_then(|v| v.as_str()) != Some(PROVIDER) {
            return Err(invalid(format!("\"{key}\" of the provider configuration is not \"{PROVIDER}\"")).hint(shape));
        }
    }
    let Some(disabled) = object.get("disabled").and_then(|v| v.as_bool()) else {
        return Err(invalid("\"disabled\" of the provider configuration is not true or false").hint(shape));
    };
    settings::store("disabled", Some(if disabled { "true" } else { "false" }))?;
    provider()
}
sql_function!(anon_auth_import_provider, import_provider);

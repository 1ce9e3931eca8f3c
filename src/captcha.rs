//! Captchas: proof that whoever signs in as a guest is no machine, checked before anything is written or locked.
//!
//! Services are asked over the network, while the caller waits, and whatever goes wrong refuses the sign-in.
//! Secrets are stored as private keys are: sealed where there is a key file, and shown to nobody.

use crate::cache::Cache;
use crate::catalog::{self, LatestSnapshot, Tuple};
use crate::error::{Error, Result, error, invalid};
use crate::function::{Args, writes};
use crate::identity_providers::{shortened, shown_url, texts};
use crate::spi::{self, Row, Statement};
use crate::{altcha, client_address, https, jsonb::Jsonb, keys, settings, sql_function};
use anon_auth_core::seal;
use anon_auth_core::siteverify::{self, Expected, Refusal, Service};
use pgrx::pg_sys;
use serde_json::{Value, json};
use std::rc::Rc;
use std::time::Duration;

/// The longest token that is passed on, in bytes. Those of the services have at most a few thousand.
const TOKEN_LIMIT: usize = 8192;

/// Checks that the caller has solved a captcha.
///
/// # Arguments
/// * `kind` – what has to be solved: a value of the setting `captcha`
/// * `token` – what the caller got for it
///
/// # Errors
/// `captcha_failed`; `captcha_unavailable` where it cannot be told; an interrupt is raised.
pub fn check(kind: &str, token: Option<&str>) -> Result<()> {
    match kind {
        "off" => Ok(()),
        "turnstile" => verify(Service::Turnstile, given(token)?),
        "hcaptcha" => verify(Service::HCaptcha, given(token)?),
        "altcha" => altcha::verify(given(token)?),
        other => Err(unavailable(format!("\"{}\" is not a captcha", shortened(other)))),
    }
}

fn given(token: Option<&str>) -> Result<&str> {
    match token {
        None | Some("") => {
            Err(failed("no captcha token was given").hint("Solve the captcha, and pass its token as captcha_token."))
        }
        Some(token) if token.len() > TOKEN_LIMIT => Err(failed("the captcha token is too long")),
        Some(token) => Ok(token),
    }
}

fn failed(message: &str) -> Error {
    error(400, "captcha_failed", message)
}

fn unavailable(message: impl AsRef<str>) -> Error {
    error(503, "captcha_unavailable", message)
}

/// Asks a service whether a token is good.
fn verify(service: Service, token: &str) -> Result<()> {
    let all = stored();
    let name = service.name();
    let configured = all.iter().find(|configured| configured.name == name).ok_or_else(|| {
        unavailable(format!("the secret for {name} is not known"))
            .hint(format!("An administrator can set it: SELECT auth.set_captcha('{name}', $1);"))
    })?;
    let mut form = vec![("secret", configured.open()?), ("response", token.to_owned())];
    if let Some(address) = client_address::current()?.exact() {
        form.push(("remoteip", address.to_string()));
    }
    if let Some(sitekey) = &configured.sitekey {
        form.push(("sitekey", sitekey.clone()));
    }
    let limit = Duration::from_micros(settings::current()?.captcha_timeout.unsigned_abs());
    let url = configured.url.as_deref().unwrap_or(service.url());
    let cannot_tell = |why: &str| {
        unavailable(format!("{name} cannot verify the captcha token: {why}")).hint("Try again a little later.")
    };
    let answer =
        https::post_form(url, form, limit).map_err(|failure| cannot_tell(&failure.why).detail_log(failure.detail))?;
    let expected = Expected { hostnames: &configured.hostnames, action: configured.action.as_deref() };
    siteverify::judge(&answer, &expected).map_err(|refusal| match refusal {
        Refusal::Service(why) => cannot_tell(&why),
        Refusal::Token(why) => failed(&format!("the captcha token is not good: {why}"))
            .hint("Solve the captcha again: a token is good once, and for a few minutes."),
    })
}

/// A row of `auth.captcha_services`.
struct Configured {
    name: String,
    secret: Vec<u8>,
    sealed: bool,
    sitekey: Option<String>,
    url: Option<String>,
    hostnames: Vec<String>,
    action: Option<String>,
}

thread_local! {
    static CACHE: Cache<Vec<Configured>> = const { Cache::new() };
}

/// Has the services read again at their next use.
pub fn mark_stale() {
    CACHE.with(Cache::mark_stale);
}

/// What was read for this transaction only is read again in the next.
pub fn at_transaction_end() {
    if CACHE.with(Cache::take_provisional) {
        mark_stale();
    }
}

fn stored() -> Rc<Vec<Configured>> {
    CACHE.with(Cache::get).unwrap_or_else(|| {
        let mut services = Vec::new();
        if let Some(relations) = catalog::relations() {
            LatestSnapshot::take().all(relations.captcha_services, |row| services.extend(Configured::read(row)));
        }
        CACHE.with(|cache| cache.keep(services, false))
    })
}

impl Configured {
    fn read(row: &Tuple) -> Option<Self> {
        Some(Self {
            name: row.get(c"name")?,
            secret: row.get(c"secret")?,
            sealed: row.get(c"sealed")?,
            sitekey: row.get(c"sitekey"),
            url: row.get(c"url"),
            hostnames: row.get(c"hostnames")?,
            action: row.get(c"action"),
        })
    }

    /// The secret as the service knows it.
    fn open(&self) -> Result<String> {
        let secret = if self.sealed {
            let key = keys::sealing_key()?.ok_or_else(|| {
                unavailable(format!("the secret for {} is sealed, and anon_auth.key_file is not set", self.name))
            })?;
            seal::open(&key, &self.secret, &associated_data(&self.name))
                .map_err(|_| unavailable(format!("the secret for {} was sealed with another key file", self.name)))?
        } else {
            self.secret.clone()
        };
        String::from_utf8(secret).map_err(|_| unavailable(format!("the secret for {} is not a text", self.name)))
    }
}

/// Binds a sealed secret to its row.
fn associated_data(name: &str) -> Vec<u8> {
    format!("anon_auth captcha secret\0{name}").into_bytes()
}

fn sealed(key: &[u8; 32], name: &str, secret: &[u8]) -> Result<Vec<u8>> {
    seal::seal(key, secret, &associated_data(name))
        .map_err(|_| error(500, "signing_key_unavailable", format!("the secret for {name} could not be sealed")))
}

/// Encrypts the secrets that are stored in the clear; returns how many.
pub fn seal_stored(key: &[u8; 32]) -> Result<i32> {
    static UPDATE: Statement = Statement::new(
        c"update auth.captcha_services set secret = $2, sealed = true where name = $1 and not sealed",
        &[pg_sys::TEXTOID, pg_sys::BYTEAOID],
    );
    let mut count = 0;
    for Configured { name, secret, .. } in stored().iter().filter(|service| !service.sealed) {
        count += UPDATE.run(&[spi::value(name.as_str()), spi::value(sealed(key, name, secret)?.as_slice())])? as i32;
    }
    Ok(count)
}

fn set(args: &Args) -> Result<Jsonb> {
    static LOCK: Statement =
        Statement::new(c"select url from auth.captcha_services where name = $1 for update", &[pg_sys::TEXTOID]);
    static STORE: Statement = Statement::new(
        c"insert into auth.captcha_services as c (name, secret, sealed, sitekey, url, hostnames, action)
          values ($1, coalesce($2, ''), coalesce($3, false), nullif($4, ''), nullif($5, ''), coalesce($6, '{}'), nullif($7, ''))
          on conflict (name) do update
          set secret = coalesce($2, c.secret), sealed = coalesce($3, c.sealed),
              sitekey = nullif(coalesce($4, c.sitekey), ''), url = nullif(coalesce($5, c.url), ''),
              hostnames = coalesce($6, c.hostnames), action = nullif(coalesce($7, c.action), ''),
              updated_at = pg_catalog.now()
          returning pg_catalog.to_jsonb(c) - 'secret'",
        &[
            pg_sys::TEXTOID,
            pg_sys::BYTEAOID,
            pg_sys::BOOLOID,
            pg_sys::TEXTOID,
            pg_sys::TEXTOID,
            pg_sys::TEXTARRAYOID,
            pg_sys::TEXTOID,
        ],
    );
    writes(c"auth.set_captcha()");
    let name = args.text(0)?.unwrap_or_default();
    let service: Service = name.parse().map_err(|()| {
        let names: Vec<_> = Service::ALL.iter().map(|service| service.name()).collect();
        invalid(format!("\"{}\" is not a captcha service", shortened(&name)))
            .hint(format!("The services are: {}.", names.join(", ")))
    })?;
    let secret = args.text(1)?;
    let (sitekey, url, hostnames, action) = (args.text(2)?, args.text(3)?, texts(args, 4)?, args.text(5)?);
    if sitekey.as_deref().is_some_and(|key| !key.is_empty()) && !service.takes_sitekey() {
        return Err(invalid(format!("{name} takes no sitekey")));
    }
    if action.as_deref().is_some_and(|action| !action.is_empty()) && !service.tells_action() {
        return Err(invalid(format!("{name} tells no action")));
    }
    if let Some(url) = url.as_deref().filter(|url| !url.is_empty()) {
        https::check_url(url, https::loopback_for_caller())
            .map_err(|why| invalid(format!("\"{}\" is not a URL for {name}: {why}", shown_url(url))))?;
    }
    let before =
        LOCK.first(&[spi::value(name.as_str())], |row: &Row| Ok(row.get::<String>(1).unwrap_or_default()))?;
    // Whoever may change where the secret is sent need not be allowed to know it.
    let is_elsewhere = |before: &String| url.as_ref().is_some_and(|url| url != before);
    if secret.is_none() && before.as_ref().is_none_or(is_elsewhere) {
        return Err(invalid(format!("the secret for {name} is missing")).hint("A new service and a new URL need it."));
    }
    if secret.as_deref().is_some_and(|secret| !is_secret(secret)) {
        return Err(invalid(format!("the secret for {name} is not a text of 1 to 512 visible ASCII characters")));
    }
    let (secret, is_sealed) = match (secret, keys::sealing_key()?) {
        (None, _) => (None, None),
        (Some(secret), Some(key)) => (Some(sealed(&key, &name, secret.as_bytes())?), Some(true)),
        (Some(secret), None) => (Some(secret.into_bytes()), Some(false)),
    };
    let values = [
        spi::value(name.as_str()),
        spi::value(secret.as_deref()),
        spi::value(is_sealed),
        spi::value(sitekey),
        spi::value(url),
        spi::value(hostnames),
        spi::value(action),
    ];
    let stored: Option<Value> = STORE.first(&values, |row| {
        crate::json::parse(&row.get::<pg_sys::Datum>(1).map(crate::json::text).unwrap_or_default())
    })?;
    let stored = stored.unwrap_or_default();
    crate::audit::record("captcha_changed", None, stored.clone())?;
    Ok(Jsonb(stored))
}
sql_function!(anon_auth_set_captcha, set);

fn is_secret(text: &str) -> bool {
    (1..=512).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

sql_function!(anon_auth_remove_captcha, |args| {
    static DELETE: Statement =
        Statement::new(c"delete from auth.captcha_services where name = $1", &[pg_sys::TEXTOID]);
    writes(c"auth.remove_captcha()");
    let name = args.text(0)?.unwrap_or_default();
    let removed = DELETE.run(&[spi::value(name.as_str())])? == 1;
    if removed {
        crate::audit::record("captcha_removed", None, json!({"name": name}))?;
    }
    Ok(removed)
});

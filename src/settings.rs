//! Behaviour settings: `auth.settings`, its defaults, and the functions that read and change it.

use crate::cache::Cache;
use crate::catalog::{self, LatestSnapshot};
use crate::error::{Result, invalid};
use crate::function::{Args, writes};
use crate::jsonb::Jsonb;
use crate::spi::{self, Statement};
use crate::sql_function;
use anon_auth_core::algorithm::Algorithm;
use pgrx::{FromDatum, pg_sys};
use serde_json::json;
use std::ffi::CString;
use std::rc::Rc;

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;
/// Longer than anything meant seriously, and far from overflowing a timestamp.
const LONGEST: i64 = 36_525 * DAY;

/// The settings in force. Intervals are in microseconds.
pub struct Settings {
    pub disabled: bool,
    pub reuse_guests: bool,
    pub issuer: String,
    pub audience: String,
    pub access_token_lifetime: i64,
    pub session_idle_timeout: i64,
    pub session_lifetime: i64,
    pub refresh_token_reuse_interval: i64,
    pub user_metadata_limit: i64,
    pub signing_algorithm: Algorithm,
    pub cleanup_age: i64,
    pub cleanup_inactivity: i64,
    pub cleanup_unreachable_only: bool,
    pub cleanup_spare_owners: bool,
    pub audit_log_retention: i64,
    pub merge_keep_guests: bool,
    /// Whether a guest who proves what belongs to an account signs in to it.
    pub promotion_conflict_is_login: bool,
    pub hook_timeout: i64,
    pub site_url: String,
    pub message_retention: i64,
    pub manual_linking: bool,
    pub promotion_keeps_device_keys: bool,
    pub otp_lifetime: i64,
    pub otp_resend_interval: i64,
    pub handover_code_lifetime: i64,
    pub password_min_length: i64,
    pub password_hash_memory: i64,
    pub password_hash_iterations: i64,
    pub password_hash_parallelism: i64,
    pub otp_attempt_limit: i64,
    pub otp_attempt_limit_total: i64,
    pub otp_attempt_window: i64,
    pub otp_message_limit: i64,
    pub otp_message_limit_total: i64,
    pub otp_message_limit_client: i64,
    pub otp_message_window: i64,
    pub password_attempt_limit: i64,
    pub password_attempt_window: i64,
}

impl Settings {
    /// # Errors
    /// `validation_failed` where metadata of `bytes` are too long for a token.
    pub fn check_user_metadata(&self, bytes: usize) -> Result<()> {
        if bytes as i64 <= self.user_metadata_limit {
            return Ok(());
        }
        let limit = self.user_metadata_limit;
        Err(invalid(format!("the metadata has {bytes} bytes, more than the {limit} that user_metadata_limit allows"))
            .hint("It is part of every access token: keep larger data in a table of your own."))
    }
}

/// What values a setting takes.
enum Kind {
    Boolean,
    Word(&'static [&'static str]),
    Text,
    /// Microseconds, at least and at most.
    Interval(i64, i64),
    /// Bytes, at least and at most.
    Bytes(i64, i64),
    /// KiB, at least and at most.
    Kibibytes(i64, i64),
    /// A number, at least and at most.
    Count(i64, i64),
}

struct Definition {
    name: &'static str,
    kind: Kind,
    default: &'static str,
    description: &'static str,
}

const fn define(name: &'static str, kind: Kind, default: &'static str, description: &'static str) -> Definition {
    Definition { name, kind, default, description }
}

#[rustfmt::skip]
static DEFINITIONS: &[Definition] = &[
    define("disabled", Kind::Boolean, "false",
        "Refuse anonymous sign-in"),
    define("sign_in_mode", Kind::Word(&["new", "reuse"]), "new",
        "new: each anonymous sign-in makes a new guest; reuse: a sign-in with a valid refresh token returns the same guest"),
    define("issuer", Kind::Text, "anon_auth",
        "Issuer (iss) of access tokens; those of any other issuer are refused"),
    define("audience", Kind::Text, "authenticated",
        "Audience (aud) of access tokens; those for any other audience are refused"),
    define("access_token_lifetime", Kind::Interval(SECOND, 7 * DAY), "01:00:00",
        "How long an access token is valid"),
    define("session_idle_timeout", Kind::Interval(SECOND, LONGEST), "60 days",
        "A session ends this long after its last refresh"),
    define("session_lifetime", Kind::Interval(0, LONGEST), "00:00:00",
        "A session ends this long after sign-in, however often it is refreshed; 0 turns the limit off"),
    define("refresh_token_reuse_interval", Kind::Interval(0, 3600 * SECOND), "00:00:10",
        "For this long a replaced refresh token still gets the current one; later it ends the session"),
    define("user_metadata_limit", Kind::Bytes(2, 6144), "4096",
        "Size limit of user_metadata, which is part of every access token"),
    define("signing_algorithm", Kind::Word(&["ES256", "EdDSA", "RS256", "HS256"]), "ES256",
        "Algorithm of new signing keys"),
    define("cleanup_age", Kind::Interval(0, LONGEST), "90 days",
        "Clean-up deletes only guests created at least this long ago"),
    define("cleanup_inactivity", Kind::Interval(0, LONGEST), "90 days",
        "Clean-up deletes only guests whose last activity is at least this long ago (counted in days, UTC)"),
    define("cleanup_unreachable_only", Kind::Boolean, "true",
        "Clean-up deletes only guests with nothing left to come back with: no live session, device key or code"),
    define("cleanup_spare_owners", Kind::Boolean, "false",
        "Clean-up spares guests who own rows in application tables, whatever the foreign key's delete action"),
    define("audit_log_retention", Kind::Interval(DAY, LONGEST), "90 days",
        "Clean-up deletes audit log entries older than this"),
    define("merge_keep_guests", Kind::Boolean, "false",
        "Keep a guest after its data were merged into an account; its sessions, codes and device keys go all the same"),
    define("promotion_conflict", Kind::Word(&["error", "login"]), "error",
        "What comes of a guest who links an address or an account at a provider that another user has: error, or login, a session of that user (merge the guest then, with its token)"),
    define("hook_timeout", Kind::Interval(1000, 300 * SECOND), "00:00:05",
        "How long a hook may take before the call that it takes part in fails"),
    define("site_url", Kind::Text, "http://localhost:3000",
        "Address of your site, for the links in messages"),
    define("message_retention", Kind::Interval(0, LONGEST), "7 days",
        "Clean-up deletes messages that were sent, given up or expired this long ago (their codes go at once)"),
    define("manual_linking", Kind::Boolean, "true",
        "Guests can become permanent, and users can link further addresses and identities"),
    define("promotion_keeps_device_keys", Kind::Boolean, "true",
        "A guest that becomes permanent keeps its device keys (not: when a link was opened by somebody who is not signed in)"),
    define("otp_lifetime", Kind::Interval(SECOND, 7 * DAY), "01:00:00",
        "How long a code or a link that proves an address is good"),
    define("otp_resend_interval", Kind::Interval(0, DAY), "00:01:00",
        "A user gets the next code of the same purpose, and an address the next from anybody, this long after the one before"),
    define("handover_code_lifetime", Kind::Interval(SECOND, DAY), "00:05:00",
        "How long a promotion code or a transfer code is good"),
    define("password_min_length", Kind::Count(1, 1024), "8",
        "Characters that a new password has at the least; it has 1024 bytes at the most"),
    define("password_hash_memory", Kind::Kibibytes(128, anon_auth_core::password::MAX_MEMORY as i64), "19456",
        "Memory that hashing a password takes (Argon2id)"),
    define("password_hash_iterations", Kind::Count(1, 1000), "2",
        "Iterations of hashing a password (Argon2id)"),
    define("password_hash_parallelism", Kind::Count(1, 16), "1",
        "Degree of parallelism of hashing a password (Argon2id); it is computed on one processor all the same"),
    define("otp_attempt_limit", Kind::Count(1, 1000), "5",
        "Attempts of a user at its own codes, and of a client address at a transfer code, within otp_attempt_window; right ones count"),
    define("otp_attempt_limit_total", Kind::Count(1, 100_000), "50",
        "Attempts at a transfer code from all client addresses together within otp_attempt_window"),
    define("otp_attempt_window", Kind::Interval(SECOND, 30 * DAY), "01:00:00",
        "Attempts at codes count for this long, from the first one on"),
    define("otp_message_limit", Kind::Count(1, 1_000_000), "5",
        "Messages to one e-mail address or phone number that one client address can ask for within otp_message_window"),
    define("otp_message_limit_total", Kind::Count(1, 1_000_000), "20",
        "Messages to one e-mail address or phone number, whoever asks for them, within otp_message_window"),
    define("otp_message_limit_client", Kind::Count(1, 1_000_000), "30",
        "E-mails, and text messages, that one client address can ask for within otp_message_window"),
    define("otp_message_window", Kind::Interval(SECOND, 30 * DAY), "01:00:00",
        "Messages count for this long, from the first one on"),
    define("password_attempt_limit", Kind::Count(1, 100_000), "10",
        "Wrong passwords for one account from one client address within password_attempt_window"),
    define("password_attempt_window", Kind::Interval(SECOND, 30 * DAY), "00:15:00",
        "Wrong passwords count for this long, from the first one on"),
];

thread_local! {
    static CACHE: Cache<Settings> = const { Cache::new() };
}

/// Has the settings read again at their next use.
pub fn mark_stale() {
    CACHE.with(Cache::mark_stale);
    crate::claims::forget_verified();
}

/// What was read for this transaction only is read again in the next.
pub fn at_transaction_end() {
    if CACHE.with(Cache::take_provisional) {
        mark_stale();
    }
}

/// The settings in force now, with what this transaction changed and what others have committed.
pub fn current() -> Result<Rc<Settings>> {
    match CACHE.with(Cache::get) {
        Some(settings) => Ok(settings),
        None => {
            let settings = load()?;
            Ok(CACHE.with(|cache| cache.keep(settings, false)))
        }
    }
}

fn load() -> Result<Settings> {
    let mut stored: Vec<(String, String)> = Vec::new();
    if let Some(relations) = catalog::relations() {
        LatestSnapshot::take().all(relations.settings, |row| {
            if let (Some(name), Some(value)) = (row.get(c"name"), row.get(c"value")) {
                stored.push((name, value));
            }
        });
    }
    let text = |name: &str| -> String {
        match stored.iter().find(|(stored, _)| stored == name) {
            Some((_, value)) => value.clone(),
            None => definition(name).map(|d| d.default.to_owned()).unwrap_or_default(),
        }
    };
    let number = |name: &str| -> Result<i64> {
        match definition(name)?.kind {
            Kind::Interval(..) => interval_microseconds(&text(name)),
            _ => text(name).parse().map_err(|_| invalid(format!("setting \"{name}\" is not a number"))),
        }
    };
    let truth = |name: &str| text(name) == "true";
    Ok(Settings {
        disabled: truth("disabled"),
        reuse_guests: text("sign_in_mode") == "reuse",
        issuer: text("issuer"),
        audience: text("audience"),
        access_token_lifetime: number("access_token_lifetime")?,
        session_idle_timeout: number("session_idle_timeout")?,
        session_lifetime: number("session_lifetime")?,
        refresh_token_reuse_interval: number("refresh_token_reuse_interval")?,
        user_metadata_limit: number("user_metadata_limit")?,
        signing_algorithm: text("signing_algorithm").parse()?,
        cleanup_age: number("cleanup_age")?,
        cleanup_inactivity: number("cleanup_inactivity")?,
        cleanup_unreachable_only: truth("cleanup_unreachable_only"),
        cleanup_spare_owners: truth("cleanup_spare_owners"),
        audit_log_retention: number("audit_log_retention")?,
        merge_keep_guests: truth("merge_keep_guests"),
        promotion_conflict_is_login: text("promotion_conflict") == "login",
        hook_timeout: number("hook_timeout")?,
        site_url: text("site_url"),
        message_retention: number("message_retention")?,
        manual_linking: truth("manual_linking"),
        promotion_keeps_device_keys: truth("promotion_keeps_device_keys"),
        otp_lifetime: number("otp_lifetime")?,
        otp_resend_interval: number("otp_resend_interval")?,
        handover_code_lifetime: number("handover_code_lifetime")?,
        password_min_length: number("password_min_length")?,
        password_hash_memory: number("password_hash_memory")?,
        password_hash_iterations: number("password_hash_iterations")?,
        password_hash_parallelism: number("password_hash_parallelism")?,
        otp_attempt_limit: number("otp_attempt_limit")?,
        otp_attempt_limit_total: number("otp_attempt_limit_total")?,
        otp_attempt_window: number("otp_attempt_window")?,
        otp_message_limit: number("otp_message_limit")?,
        otp_message_limit_total: number("otp_message_limit_total")?,
        otp_message_limit_client: number("otp_message_limit_client")?,
        otp_message_window: number("otp_message_window")?,
        password_attempt_limit: number("password_attempt_limit")?,
        password_attempt_window: number("password_attempt_window")?,
    })
}

fn definition(name: &str) -> Result<&'static Definition> {
    DEFINITIONS.iter().find(|d| d.name == name).ok_or_else(|| {
        let names: Vec<_> = DEFINITIONS.iter().map(|d| d.name).collect();
        invalid(format!("there is no setting \"{name}\"")).hint(format!("The settings are: {}.", names.join(", ")))
    })
}

impl Definition {
    fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Boolean => "boolean",
            Kind::Word(_) => "enum",
            Kind::Text => "string",
            Kind::Interval(..) => "interval",
            Kind::Bytes(..) | Kind::Kibibytes(..) | Kind::Count(..) => "integer",
        }
    }

    fn unit(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Bytes(..) => Some("B"),
            Kind::Kibibytes(..) => Some("kB"),
            _ => None,
        }
    }

    fn allowed(&self) -> String {
        match self.kind {
            Kind::Boolean => "true, false".into(),
            Kind::Word(words) => words.join(", "),
            Kind::Text => "any text of 1 to 1024 bytes".into(),
            Kind::Interval(least, most) => {
                format!("{} to {} (a month counts as 30 days)", interval_text(least), interval_text(most))
            }
            Kind::Bytes(least, most) | Kind::Kibibytes(least, most) | Kind::Count(least, most) => {
                format!("{least} to {most}")
            }
        }
    }

    /// The value in the one form in which it is stored.
    fn canonical(&self, value: &str) -> Result<String> {
        let refused = || {
            let shown: String = value.chars().take(60).collect();
            let dots = if shown.len() < value.len() { "…" } else { "" };
            invalid(format!("\"{shown}{dots}\" is not a value for setting \"{}\"", self.name))
                .hint(format!("Allowed: {}.", self.allowed()))
        };
        let value = value.trim();
        match self.kind {
            Kind::Boolean => match value.to_ascii_lowercase().as_str() {
                "true" | "on" | "yes" | "1" => Ok("true".into()),
                "false" | "off" | "no" | "0" => Ok("false".into()),
                _ => Err(refused()),
            },
            Kind::Word(words) => words
                .iter()
                .find(|word| word.eq_ignore_ascii_case(value))
                .map(|word| word.to_string())
                .ok_or_else(refused),
            Kind::Text if value.is_empty() || value.len() > 1024 => Err(refused()),
            Kind::Text => Ok(value.to_owned()),
            Kind::Interval(least, most) => match interval_microseconds(value) {
                Ok(length) if (least..=most).contains(&length) => Ok(interval_text(length)),
                Ok(_) => Err(refused()),
                Err(error) => {
                    error.discard();
                    Err(refused())
                }
            },
            Kind::Bytes(least, most) | Kind::Kibibytes(least, most) | Kind::Count(least, most) => {
                match value.parse::<i64>() {
                    Ok(number) if (least..=most).contains(&number) => Ok(number.to_string()),
                    _ => Err(refused()),
                }
            }
        }
    }
}

/// Length of an interval in microseconds; a month counts as 30 days.
///
/// # Errors
/// When Postgres does not take the text for an interval, or it is beyond any sense.
fn interval_microseconds(text: &str) -> Result<i64> {
    let refused = || invalid(format!("\"{text}\" is not an interval"));
    let text = CString::new(text).map_err(|_| refused())?;
    // interval_in raises on bad input; only that is caught.
    let parsed = pgrx::PgTryBuilder::new(|| unsafe {
        let datum = pgrx::direct_function_call_as_datum(
            pg_sys::interval_in,
            &[
                Some(pg_sys::Datum::from(text.as_ptr())),
                Some(pg_sys::Datum::from(pg_sys::InvalidOid)),
                Some(pg_sys::Datum::from(-1i32)),
            ],
        )?;
        let interval = &*(datum.cast_mut_ptr::<pg_sys::Interval>());
        Some((interval.month, interval.day, interval.time))
    })
    .catch_when(pgrx::PgSqlErrorCode::ERRCODE_INVALID_DATETIME_FORMAT, |_| None)
    .catch_when(pgrx::PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW, |_| None)
    .catch_when(pgrx::PgSqlErrorCode::ERRCODE_INTERVAL_FIELD_OVERFLOW, |_| None)
    .execute();
    let (months, days, time) = parsed.ok_or_else(refused)?;
    let days = i64::from(months) * 30 + i64::from(days);
    days.checked_mul(DAY).and_then(|days| days.checked_add(time)).ok_or_else(refused)
}

/// The interval as Postgres shows it by default. Not `interval_out`, whose form depends on IntervalStyle.
fn interval_text(microseconds: i64) -> String {
    let (days, time) = (microseconds / DAY, microseconds % DAY);
    let (seconds, fraction) = (time / SECOND, time % SECOND);
    let mut text = match days {
        0 => String::new(),
        1 => "1 day".into(),
        _ => format!("{days} days"),
    };
    if time != 0 || days == 0 {
        let gap = if days == 0 { "" } else { " " };
        text += &format!("{gap}{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    }
    if fraction != 0 {
        text += format!(".{fraction:06}").trim_end_matches('0');
    }
    text
}

/// Stores a setting, or removes it where `value` is `None`; returns the value now in force.
pub fn store(name: &str, value: Option<&str>) -> Result<String> {
    static STORE: Statement = Statement::new(
        c"insert into auth.settings (name, value) values ($1, $2)
          on conflict (name) do update set value = excluded.value, updated_at = pg_catalog.now()",
        &[pg_sys::TEXTOID, pg_sys::TEXTOID],
    );
    static RESET: Statement = Statement::new(c"delete from auth.settings where name = $1", &[pg_sys::TEXTOID]);

    let definition = definition(name)?;
    let text = match value {
        Some(value) => {
            let text = definition.canonical(value)?;
            STORE.run(&[spi::value(name), spi::value(text.as_str())])?;
            text
        }
        None => {
            RESET.run(&[spi::value(name)])?;
            definition.default.to_owned()
        }
    };
    crate::audit::record("setting_changed", None, json!({"name": name, "value": text}))?;
    Ok(text)
}

sql_function!(anon_auth_setting, |args| {
    let name = args.text(0)?.unwrap_or_default();
    let definition = definition(&name)?;
    let mut value = definition.default.to_owned();
    if let Some(relations) = catalog::relations() {
        LatestSnapshot::take().all(relations.settings, |row| {
            if row.get::<String>(c"name").as_deref() == Some(definition.name) {
                value = row.get(c"value").unwrap_or_default();
            }
        });
    }
    Ok(value)
});

sql_function!(anon_auth_set_setting, |args| {
    writes(c"auth.set_setting()");
    let name = args.text(0)?.ok_or_else(|| invalid("the name of the setting is missing"))?;
    store(&name, args.text(1)?.as_deref())
});

sql_function!(anon_auth_setting_definitions, |_| {
    let all: Vec<_> = DEFINITIONS
        .iter()
        .map(|d| {
            json!({
                "name": d.name,
                "type": d.type_name(),
                "default": d.default,
                "unit": d.unit(),
                "allowed": d.allowed(),
                "description": d.description,
            })
        })
        .collect();
    Ok(Jsonb(all.into()))
});

/// Row trigger: holds plain SQL on the table to what `auth.set_setting()` would store.
fn check_setting(args: &Args) -> Result<pg_sys::Datum> {
    let trigger = args.trigger()?;
    let is_update = trigger.tg_event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_UPDATE;
    let row = if is_update { trigger.tg_newtuple } else { trigger.tg_trigtuple };
    let column = |number| unsafe {
        let mut null = false;
        let datum = pg_sys::heap_getattr(row, number, (*trigger.tg_relation).rd_att, &mut null);
        // As bytes: in a database with the encoding SQL_ASCII it may be anything.
        let bytes = <&[u8]>::from_datum(datum, null).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let (name, value) = (column(1), column(2));
    let canonical = definition(&name)?.canonical(&value)?;
    if canonical != value {
        return Err(invalid(format!("setting \"{name}\" is stored as \"{canonical}\", not \"{value}\""))
            .hint("Use auth.set_setting()."));
    }
    Ok(pg_sys::Datum::from(row))
}
sql_function!(anon_auth_check_setting, check_setting);

/// Statement trigger: every session, this one included, gets told that the table changed; this one also
/// when the change is rolled back.
fn forget_cached(args: &Args) -> Result<pg_sys::Datum> {
    let trigger = args.trigger()?;
    unsafe { pg_sys::CacheInvalidateRelcache(trigger.tg_relation) };
    Ok(pg_sys::Datum::from(0))
}
sql_function!(anon_auth_forget_cached, forget_cached);

/// Provider configuration in the form of Realm's `auth/providers.json`.
const PROVIDER: &str = "anon-user";

fn provider() -> Result<Jsonb> {
    Ok(Jsonb(json!({"name": PROVIDER, "type": PROVIDER, "disabled": current()?.disabled})))
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
    store("disabled", Some(if disabled { "true" } else { "false" }))?;
    provider()
}
sql_function!(anon_auth_import_provider, import_provider);

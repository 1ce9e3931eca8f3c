//! Behaviour settings: `auth.settings`, its defaults, and the functions that read and change it.

mod definitions;
mod values;

use crate::cache::Cache;
use crate::catalog::{self, LatestSnapshot};
use crate::error::{Result, invalid};
use crate::function::{Args, writes};
use crate::jsonb::Jsonb;
use crate::spi::{self, Statement};
use crate::sql_function;
use definitions::DEFINITIONS;
pub use definitions::Settings;
use pgrx::{FromDatum, pg_sys};
use serde_json::json;
use std::rc::Rc;
use values::Definition;

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
    Settings::read(|definition| match stored.iter().find(|(name, _)| name == definition.name) {
        Some((_, value)) => value.clone(),
        None => definition.default.to_owned(),
    })
}

fn definition(name: &str) -> Result<&'static Definition> {
    DEFINITIONS.iter().find(|d| d.name == name).ok_or_else(|| {
        let names: Vec<_> = DEFINITIONS.iter().map(|d| d.name).collect();
        invalid(format!("there is no setting \"{name}\"")).hint(format!("The settings are: {}.", names.join(", ")))
    })
}

/// A value in the form in which the setting stores it.
///
/// # Errors
/// `validation_failed` where the setting does not take it.
pub fn canonical(name: &str, value: &str) -> Result<String> {
    definition(name)?.canonical(value)
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

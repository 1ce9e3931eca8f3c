//! Signing keys as every session uses them: which one signs, which ones verify, how they are stored.

use crate::cache::Cache;
use crate::catalog::{self, LatestSnapshot, Tuple};
use crate::error::{Error, Result, error};
use crate::guc;
use crate::jsonb::Jsonb;
use crate::own_transaction::{self, Request};
use crate::spi::{self, Statement};
use anon_auth_core::algorithm::Algorithm;
use anon_auth_core::keys::{SigningKey, VerifyingKey};
use anon_auth_core::refresh::RefreshKey;
use anon_auth_core::seal;
use pgrx::pg_sys;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;
use uuid::Uuid;

/// What a key is for.
#[derive(Clone, Copy, PartialEq)]
pub enum Purpose {
    AccessToken,
    RefreshToken,
}

impl Purpose {
    pub const fn name(self) -> &'static str {
        match self {
            Purpose::AccessToken => "access_token",
            Purpose::RefreshToken => "refresh_token",
        }
    }
}

/// A stored private key.
struct Stored {
    kid: String,
    purpose: Purpose,
    algorithm: Algorithm,
    private_key: Vec<u8>,
    sealed: bool,
}

/// The key that signs access tokens; parsed at its first use.
pub struct Current {
    stored: Stored,
    key: OnceCell<SigningKey>,
}

impl Current {
    pub fn kid(&self) -> &str {
        &self.stored.kid
    }

    pub fn signing_key(&self) -> Result<&SigningKey> {
        if self.key.get().is_none() {
            let key = SigningKey::from_private(self.stored.algorithm, &self.stored.open()?)?;
            let _ = self.key.set(key);
        }
        self.key.get().ok_or_else(|| error(500, "internal_error", "the signing key was not kept"))
    }
}

/// Every key that is in use.
#[derive(Default)]
pub struct Keys {
    current: Option<Rc<Current>>,
    verifying: HashMap<String, Rc<VerifyingKey>>,
    current_refresh: Option<Uuid>,
    refresh: HashMap<Uuid, Rc<RefreshKey>>,
    /// Why a key could not be opened, if one could not: without it a token would only seem to be forged.
    trouble: Option<String>,
}

impl Keys {
    /// The key that verifies access tokens with this `kid`, unless it was revoked.
    pub fn verifying(&self, kid: &str) -> Result<Option<Rc<VerifyingKey>>> {
        self.found(self.verifying.get(kid))
    }

    /// The key of refresh tokens with this id, unless it was revoked.
    pub fn refresh(&self, id: Uuid) -> Result<Option<Rc<RefreshKey>>> {
        self.found(self.refresh.get(&id))
    }

    /// The key of refresh tokens that `is_it` says yes to, unless it was revoked.
    pub fn find_refresh(&self, is_it: impl Fn(&RefreshKey) -> bool) -> Result<Option<Rc<RefreshKey>>> {
        self.found(self.refresh.values().find(|key| is_it(key)))
    }

    fn found<T>(&self, key: Option<&Rc<T>>) -> Result<Option<Rc<T>>> {
        match (key, &self.trouble) {
            (Some(key), _) => Ok(Some(key.clone())),
            (None, Some(trouble)) => Err(unavailable(trouble)),
            (None, None) => Ok(None),
        }
    }
}

thread_local! {
    static CACHE: Cache<Keys> = const { Cache::new() };
}

/// Has the keys read again at their next use.
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

/// The keys in use now.
pub fn all() -> Rc<Keys> {
    if let Some(keys) = CACHE.with(Cache::get) {
        return keys;
    }
    let keys = load();
    // What is wrong with a key file may be put right without anything telling us.
    let only_now = keys.trouble.is_some();
    CACHE.with(|cache| cache.keep(keys, only_now))
}

/// The key that signs access tokens. Made now if there never was one.
pub fn current() -> Result<Rc<Current>> {
    let keys = with_current_keys(|keys| keys.current.is_some())?;
    keys.current.clone().ok_or_else(|| missing(&keys))
}

/// The key that authenticates new refresh tokens, and its id. Made now if there is none.
pub fn current_refresh() -> Result<(Uuid, Rc<RefreshKey>)> {
    let keys = with_current_keys(|keys| keys.current_refresh.is_some())?;
    let id = keys.current_refresh.ok_or_else(|| missing(&keys))?;
    let key = keys.refresh(id)?.ok_or_else(|| missing(&keys))?;
    Ok((id, key))
}

fn missing(keys: &Keys) -> Error {
    unavailable(keys.trouble.as_deref().unwrap_or("there is no current key, and none could be made"))
}

/// The keys, with the missing ones made first.
///
/// They are made in a transaction of their own: two sessions that both need the first key get the same one,
/// and neither waits for the other's transaction to end.
fn with_current_keys(is_there: impl Fn(&Keys) -> bool) -> Result<Rc<Keys>> {
    let keys = all();
    if is_there(&keys) || keys.trouble.is_some() {
        return Ok(keys);
    }
    if unsafe { pg_sys::RecoveryInProgress() } {
        return Err(unavailable("there is no current key, and none can be made on a standby")
            .hint("The first keys are made by the first sign-in on the primary."));
    }
    let relations =
        catalog::relations().ok_or_else(|| error(500, "internal_error", "the extension's tables are missing"))?;
    if catalog::created_here(relations.signing_keys) || unsafe { !pg_sys::IsUnderPostmaster } {
        // CREATE EXTENSION is in this very transaction, or the server is in single-user mode: there is nobody
        // else to wait, and no worker that could see the table.
        create_missing()?;
    } else {
        own_transaction::run(Request::create_keys())?;
    }
    Ok(all())
}

/// Whether there are current keys.
pub fn are_there() -> bool {
    let keys = all();
    keys.current.is_some() && keys.current_refresh.is_some()
}

/// Makes the keys that are missing; nothing where they are there, or are made at this moment.
pub fn create_missing() -> Result<()> {
    let algorithm = crate::settings::current()?.signing_algorithm;
    let access = SigningKey::generate(algorithm)?;
    insert(&new_kid(), Purpose::AccessToken, "current", &access)?;
    let refresh = SigningKey::from_private(Algorithm::HS256, RefreshKey::generate().bytes())?;
    insert(&new_kid(), Purpose::RefreshToken, "current", &refresh)?;
    Ok(())
}

/// A key id nobody else has.
pub fn new_kid() -> String {
    crate::clock::new_id(crate::clock::now()).to_string()
}

/// Stores a key, sealed where `anon_auth.key_file` is set. Returns false where that `kid` exists, or where
/// it would be a second current key.
pub fn insert(kid: &str, purpose: Purpose, status: &str, key: &SigningKey) -> Result<bool> {
    static INSERT: Statement = Statement::new(
        c"insert into auth.signing_keys (kid, purpose, algorithm, status, private_key, sealed, public_key)
          values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing",
        &[
            pg_sys::TEXTOID,
            pg_sys::TEXTOID,
            pg_sys::TEXTOID,
            pg_sys::TEXTOID,
            pg_sys::BYTEAOID,
            pg_sys::BOOLOID,
            pg_sys::JSONBOID,
        ],
    );
    let sealing_key = sealing_key()?;
    let private_key = match &sealing_key {
        Some(sealing_key) => seal(sealing_key, kid, purpose, key.algorithm(), key.private_bytes())?,
        None => key.private_bytes().to_vec(),
    };
    let inserted = INSERT.run(&[
        spi::value(kid),
        spi::value(purpose.name()),
        spi::value(key.algorithm().name()),
        spi::value(status),
        spi::value(private_key.as_slice()),
        spi::value(sealing_key.is_some()),
        key.public_jwk(kid).and_then(|jwk| spi::value(Jsonb(jwk))),
    ])?;
    Ok(inserted == 1)
}

/// Encrypts the private keys, and the secrets of captcha services, that are stored in the clear; returns how many.
pub fn seal_stored() -> Result<i32> {
    static UPDATE: Statement = Statement::new(
        c"update auth.signing_keys set private_key = $2, sealed = true where kid = $1 and not sealed",
        &[pg_sys::TEXTOID, pg_sys::BYTEAOID],
    );
    let sealing_key = sealing_key()?.ok_or_else(|| {
        unavailable("anon_auth.key_file is not set").hint(
            "Write 32 random bytes to a file outside the data directory and set anon_auth.key_file to its path.",
        )
    })?;
    let mut stored = Vec::new();
    if let Some(relations) = catalog::relations() {
        LatestSnapshot::take().all(relations.signing_keys, |row| stored.extend(Stored::read(row)));
    }
    let mut count = 0;
    for key in stored.iter().filter(|key| !key.sealed) {
        let sealed = seal(&sealing_key, &key.kid, key.purpose, key.algorithm, &key.private_key)?;
        count += UPDATE.run(&[spi::value(key.kid.as_str()), spi::value(sealed.as_slice())])? as i32;
    }
    Ok(count + crate::captcha::seal_stored(&sealing_key)?)
}

fn load() -> Keys {
    let mut keys = Keys::default();
    let mut rows = Vec::new();
    if let Some(relations) = catalog::relations() {
        LatestSnapshot::take().all(relations.signing_keys, |row| {
            let status: String = row.get(c"status").unwrap_or_default();
            let public_key = row.get::<pg_sys::Datum>(c"public_key").map(crate::json::text);
            if status != "revoked"
                && let Some(stored) = Stored::read(row)
            {
                rows.push((stored, status == "current", public_key));
            }
        });
    }
    for (stored, is_current, public_key) in rows {
        if let Err(error) = keys.add(stored, is_current, public_key) {
            keys.trouble = Some(error.message());
            error.discard();
        }
    }
    keys
}

impl Keys {
    fn add(&mut self, stored: Stored, is_current: bool, public_key: Option<String>) -> Result<()> {
        match stored.purpose {
            Purpose::RefreshToken => {
                let id = Uuid::parse_str(&stored.kid)
                    .map_err(|_| unavailable(format!("\"{}\" is not the id of a refresh token key", stored.kid)))?;
                if is_current {
                    self.current_refresh = Some(id);
                }
                self.refresh.insert(id, Rc::new(RefreshKey::from_bytes(&stored.open()?)?));
            }
            Purpose::AccessToken => {
                let verifying = match public_key {
                    Some(jwk) => VerifyingKey::from_public_jwk(&crate::json::parse(&jwk)?)?,
                    None => VerifyingKey::from_secret(&stored.open()?)?,
                };
                self.verifying.insert(stored.kid.clone(), Rc::new(verifying));
                if is_current {
                    self.current = Some(Rc::new(Current { stored, key: OnceCell::new() }));
                }
            }
        }
        Ok(())
    }
}

impl Stored {
    fn read(row: &Tuple) -> Option<Self> {
        Some(Self {
            kid: row.get(c"kid")?,
            purpose: match row.get::<String>(c"purpose")?.as_str() {
                "refresh_token" => Purpose::RefreshToken,
                _ => Purpose::AccessToken,
            },
            algorithm: row.get::<String>(c"algorithm")?.parse().ok()?,
            private_key: row.get(c"private_key")?,
            sealed: row.get(c"sealed")?,
        })
    }

    fn open(&self) -> Result<Vec<u8>> {
        if !self.sealed {
            return Ok(self.private_key.clone());
        }
        let sealing_key = sealing_key()?.ok_or_else(|| {
            unavailable(format!("key \"{}\" is sealed, and anon_auth.key_file is not set", self.kid))
        })?;
        seal::open(&sealing_key, &self.private_key, &associated_data(&self.kid, self.purpose, self.algorithm))
            .map_err(|_| unavailable(format!("key \"{}\" was sealed with another key file", self.kid)))
    }
}

fn seal(key: &[u8; 32], kid: &str, purpose: Purpose, algorithm: Algorithm, private: &[u8]) -> Result<Vec<u8>> {
    seal::seal(key, private, &associated_data(kid, purpose, algorithm))
        .map_err(|_| unavailable(format!("key \"{kid}\" could not be sealed")))
}

/// Binds a sealed key to its row, so that one cannot be passed off as another.
fn associated_data(kid: &str, purpose: Purpose, algorithm: Algorithm) -> Vec<u8> {
    format!("anon_auth signing key\0{}\0{algorithm}\0{kid}", purpose.name()).into_bytes()
}

/// The key that private keys and codes are sealed with; `None` where `anon_auth.key_file` is not set.
pub fn sealing_key() -> Result<Option<[u8; 32]>> {
    let Some(path) = guc::key_file() else { return Ok(None) };
    let bytes = std::fs::read(&path)
        .map_err(|e| unavailable(format!("the file in anon_auth.key_file cannot be read: {}", e.kind())))?;
    let key = <[u8; 32]>::try_from(bytes.as_slice())
        .map_err(|_| unavailable(format!("the file in anon_auth.key_file has {} bytes, not 32", bytes.len())))?;
    Ok(Some(key))
}

fn unavailable(message: impl AsRef<str>) -> Error {
    let message = message.as_ref();
    // A message kept from an earlier attempt has its code already.
    let message = message.strip_prefix("signing_key_unavailable: ").unwrap_or(message);
    error(500, "signing_key_unavailable", message)
}

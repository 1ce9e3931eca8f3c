//! Lazy guests: with `guest_storage` = `lazy` a sign-in stores nothing. Both tokens say what the rows are to be made
//! of, and the rows appear when the guest first matters: it refreshes its session, links something, or writes through
//! `auth.ensure_user()`.
//!
//! What is stored first is the guest's id, in `auth.lazy_guests`, where it stays until no token from before can come
//! back. As long as it is not there, such a token stands for itself; from then on nothing but the rows counts. So a
//! guest is stored once, however many try at the same time: its primary key makes the others wait. And however its
//! rows go (deletion, merge, plain SQL), no token from before makes them anew. A guest that signs out before it is
//! stored leaves its id, and no rows.

use crate::catalog::{self, LatestSnapshot};
use crate::claims::{self, Fresh, Verified};
use crate::error::{Result, error, serialization_failure};
use crate::function::{Args, writes};
use crate::jsonb::Jsonb;
use crate::sessions::{self, Session};
use crate::settings::{self, Settings};
use crate::spi::{self, Statement};
use crate::users::User;
use crate::{clock, guest_providers, hook_events, keys, sign_in, sql_function, stats};
use anon_auth_core::refresh::{LazyGuest, RefreshToken, fingerprint, lazy_nonce};
use pgrx::pg_sys;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Name of the claim that says so.
pub const CLAIM: &str = "lazy";

/// Both metadata of a user, by the names of their claims.
const METADATA: [&str; 2] = ["user_metadata", "app_metadata"];
/// What both tokens call the session's own end.
const NOT_AFTER: &str = "not_after";

/// From when until when a guest can live that is not stored, in microseconds since Postgres's epoch.
#[derive(Clone, Copy)]
pub struct Lifespan {
    created_at: i64,
    expires_at: i64,
}

impl Lifespan {
    /// What an access token that was issued before the guest was stored says of it.
    pub fn of_claims(claims: &Map<String, Value>) -> Option<Self> {
        let lazy = claims.get(CLAIM)?;
        let time = |name| lazy.get(name).and_then(Value::as_i64);
        Some(Self { created_at: time("created_at")?, expires_at: time("expires_at")? })
    }

    /// Until when the guest lives if it is not stored.
    ///
    /// # Errors
    /// `session_expired`.
    pub fn check_not_over(self) -> Result<i64> {
        sessions::check_not_expired(self.created_at, self.created_at, Some(self.expires_at))
    }
}

/// Whether the guest was stored, or signed out before it was: what it is now, the other tables know.
pub fn is_known(snapshot: &LatestSnapshot, user: Uuid) -> bool {
    catalog::relations().is_some_and(|relations| {
        snapshot.find(relations.lazy_guests, relations.lazy_guests_pkey, user, |_| ()).is_some()
    })
}

/// Signs a guest in without storing it.
///
/// # Arguments
/// * `now` – the time at which it was made
pub fn sign_in(user: &User, settings: &Settings, now: i64) -> Result<Jsonb> {
    let mut session = Session::new(user, "anonymous", now);
    let session_ends = match settings.session_lifetime {
        0 => settings.session_idle_timeout,
        lifetime => lifetime.min(settings.session_idle_timeout),
    };
    let expires_at = now.saturating_add(session_ends.max(settings.access_token_lifetime));
    let is_empty = |metadata: &Value| metadata.as_object().is_some_and(Map::is_empty);
    let mut metadata = Map::new();
    if !is_empty(&user.user_metadata) || !is_empty(&user.app_metadata) {
        metadata.insert(METADATA[0].into(), user.user_metadata.clone());
        metadata.insert(METADATA[1].into(), user.app_metadata.clone());
    }
    if let Some(not_after) = session.not_after {
        metadata.insert(NOT_AFTER.into(), not_after.into());
    }
    let metadata = if metadata.is_empty() { Vec::new() } else { Value::Object(metadata).to_string().into_bytes() };
    session.guest = Some(LazyGuest {
        user_id: user.id,
        created_at: now,
        // Whatever the access token says, the session's own end is the guest's.
        expires_at: session.not_after.map_or(expires_at, |not_after| expires_at.min(not_after)),
        metadata,
    });
    sessions::answer(&session, user, settings, now)
}

/// The claim by which an access token says that nothing is stored of its guest.
///
/// # Arguments
/// * `not_after` – when its session ends, whatever the settings say of others
pub fn claim(guest: &LazyGuest, not_after: Option<i64>) -> Value {
    let mut claim = json!({"created_at": guest.created_at, "expires_at": guest.expires_at});
    if let Some(not_after) = not_after {
        claim[NOT_AFTER] = not_after.into();
    }
    claim
}

/// Puts into that claim, where there is one, the metadata that a hook has changed in the claims: what is to be stored
/// is what they were before.
pub fn keep_metadata(claims: &mut Map<String, Value>, user: &User) {
    let metadata = METADATA.into_iter().zip([&user.user_metadata, &user.app_metadata]);
    let changed: Vec<_> = metadata.filter(|(name, before)| claims.get(*name) != Some(*before)).collect();
    if let Some(lazy) = claims.get_mut(CLAIM) {
        for (name, before) in changed {
            lazy[name] = before.clone();
        }
    }
}

/// A guest as a token from before it was stored tells of it.
pub struct Guest {
    id: Uuid,
    session: Uuid,
    lifespan: Lifespan,
    /// The session's own end, as its guest provider had it at sign-in.
    not_after: Option<i64>,
    user_metadata: Value,
    app_metadata: Value,
    /// Fingerprint of the session's nonce.
    rotation: String,
}

impl Guest {
    /// The guest of an access token, if nothing is stored of it.
    ///
    /// # Arguments
    /// * `fresh` – what was found out of it
    pub fn unstored(verified: &Verified, fresh: &Fresh) -> Option<Self> {
        let lifespan = verified.lazy.filter(|_| fresh.overlay.is_none())?;
        let lazy = verified.claims.get(CLAIM)?;
        let [user_metadata, app_metadata] = METADATA
            .map(|name| lazy.get(name).or_else(|| verified.claims.get(name)).cloned().unwrap_or_else(|| json!({})));
        Some(Self {
            id: verified.user?,
            session: verified.session?,
            lifespan,
            not_after: lazy.get(NOT_AFTER).and_then(Value::as_i64),
            user_metadata,
            app_metadata,
            rotation: verified.rotation().to_owned(),
        })
    }

    /// The guest of a refresh token that was issued before it was stored.
    pub fn of_refresh_token(token: &RefreshToken) -> Result<Option<Self>> {
        let Some(guest) = &token.guest else { return Ok(None) };
        let mut metadata = match guest.metadata.as_slice() {
            b"" => json!({}),
            text => crate::json::parse(&String::from_utf8_lossy(text))?,
        };
        let not_after = metadata.get(NOT_AFTER).and_then(Value::as_i64);
        let [user_metadata, app_metadata] =
            METADATA.map(|name| metadata.get_mut(name).map_or_else(|| json!({}), Value::take));
        Ok(Some(Self {
            id: guest.user_id,
            session: token.session_id,
            lifespan: Lifespan { created_at: guest.created_at, expires_at: guest.expires_at },
            not_after,
            user_metadata,
            app_metadata,
            rotation: fingerprint(&token.nonce),
        }))
    }

    /// The guest as a user.
    pub fn user(&self) -> Result<User> {
        let audience = &settings::current()?.audience;
        let mut user = User::new_guest(self.id, audience, self.user_metadata.clone(), self.lifespan.created_at);
        user.app_metadata = self.app_metadata.clone();
        Ok(user)
    }

    /// Stores the guest and its session, as they were at sign-in. Nothing where somebody has done it, or has ended the
    /// guest, in the meantime: what is there then, the caller has to look up.
    ///
    /// # Errors
    /// `session_expired`; `session_not_found` where the key of its refresh token was revoked, or the session is not one
    /// that was begun with it; those of the hook
    /// `after_user_created`.
    pub fn store(&self) -> Result<()> {
        if is_known(&LatestSnapshot::take(), self.id) {
            return Ok(());
        }
        self.lifespan.check_not_over()?;
        let nonce = |key: &_| lazy_nonce(key, self.session);
        let key = keys::all().find_refresh(|key| fingerprint(&nonce(key)) == self.rotation)?.ok_or_else(|| {
            error(
                401,
                "session_not_found",
                "the key that the guest's session rests on is none of this database's, or was revoked",
            )
            .hint("Sign in again.")
        })?;
        if !self.note()? {
            return Ok(());
        }
        let user = self.user()?;
        let mut session = Session::new(&user, "anonymous", self.lifespan.created_at);
        (session.id, session.nonce, session.not_after) = (self.session, nonce(&key).to_vec(), self.not_after);
        let metadata = [&user.user_metadata, &user.app_metadata].map(|metadata| spi::value(Jsonb(metadata.clone())));
        sign_in::store(&user, &session, metadata)?;
        stats::note_stored(self.lifespan.created_at)?;
        hook_events::after_user_created(&user, guest_providers::name_of(&user))
    }

    /// Ends the guest for good. Returns false where it was stored in the meantime, or ended.
    pub fn end(&self) -> Result<bool> {
        self.note()
    }

    /// Notes the id, unless it is there. Waits for whoever is doing the same. Returns whether it was new.
    fn note(&self) -> Result<bool> {
        static INSERT: Statement = Statement::latest(
            c"insert into auth.lazy_guests (user_id, expires_at) values ($1, $2) on conflict do nothing",
            &[pg_sys::UUIDOID, pg_sys::TIMESTAMPTZOID],
        );
        Ok(INSERT.run(&[spi::uuid(self.id), spi::timestamp(self.lifespan.expires_at)])? == 1)
    }
}

/// The signed-in user and its session, for functions that write rows of the user: stored now, if it was not.
///
/// # Errors
/// Those of [`claims::require`] and [`Guest::store`].
pub fn stored_caller() -> Result<(Uuid, Option<Uuid>)> {
    let (verified, fresh) = claims::caller()?;
    if let Some(guest) = Guest::unstored(&verified, &fresh) {
        guest.store()?;
    }
    verified.user_and_session()
}

/// Under REPEATABLE READ a foreign key does not see a user whom somebody else stored after the transaction's snapshot.
///
/// # Errors
/// A serialization failure.
fn check_visible(user: Uuid) -> Result<()> {
    static FIND: Statement = Statement::new(c"select from auth.users where id = $1", &[pg_sys::UUIDOID]);
    let is_repeatable = unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_REPEATABLE_READ as i32;
    match is_repeatable && FIND.run(&[spi::uuid(user)])? == 0 {
        true => Err(serialization_failure()),
        false => Ok(()),
    }
}

fn ensure_user(_: &Args) -> Result<pgrx::Uuid> {
    // A column's default is evaluated for every row, mostly for a user who is there.
    if let Some(user) = claims::stored_user() {
        return Ok(user);
    }
    let (verified, fresh) = claims::caller()?;
    if let Some(guest) = Guest::unstored(&verified, &fresh) {
        writes(c"auth.ensure_user()");
        guest.store()?;
        // Somebody may have deleted it, or signed it out, in the meantime.
        claims::require()?;
    }
    let (user, _) = verified.user_and_session()?;
    check_visible(user)?;
    Ok(pgrx::Uuid::from_bytes(*user.as_bytes()))
}
sql_function!(anon_auth_ensure_user, ensure_user);

/// Forgets ids that no token can bring back, a batch of them. Not at once: the clock of a standby, which signs guests
/// in as well, may be another.
pub fn clean_up(now: i64, batch: i64) -> Result<u64> {
    static EXPIRED: Statement = Statement::planned_for_values(
        c"delete from auth.lazy_guests where user_id in (
              select user_id from auth.lazy_guests where expires_at <= $1
              order by expires_at limit $2 for update skip locked)",
        &[pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID],
    );
    EXPIRED.run(&[spi::timestamp(now - clock::DAY), spi::value(batch)])
}

//! Sessions: what they are, whether one is live, and what a client gets of it.

mod refresh;
mod sign_out;

use refresh::refresh_token_not_found;
pub use refresh::{bearer, refresh, revoke};

use crate::catalog::{self, LatestSnapshot};
use crate::claims;
use crate::clock;
use crate::error::{Result, error, invalid};
use crate::hook_events;
use crate::jsonb::Jsonb;
use crate::lazy_guests;
use crate::settings::{self, Settings};
use crate::spi::{self, Statement};
use crate::users::{self, User};
use crate::{guest_providers, keys, postgrest, sql_function};
use anon_auth_core::random;
use anon_auth_core::refresh::{LazyGuest, RefreshToken, fingerprint, lazy_nonce};
use pgrx::pg_sys;
use serde_json::{Value, json};
use uuid::Uuid;

/// A row of `auth.sessions`. Times are in microseconds since Postgres's epoch.
pub struct Session {
    pub id: Uuid,
    user: Uuid,
    created_at: i64,
    refreshed_at: i64,
    /// When it ends, whatever the settings say of others.
    pub not_after: Option<i64>,
    method: String,
    aal: String,
    counter: i64,
    pub nonce: Vec<u8>,
    replaced: Vec<u8>,
    is_revoked: bool,
    /// The guest, where neither it nor the session is stored: its tokens say so. There is no nonce then but
    /// [`refresh::lazy_nonce`].
    pub guest: Option<LazyGuest>,
}

impl Session {
    /// A session that starts now, not stored yet.
    ///
    /// # Arguments
    /// * `method` – how it was proven who the user is; `amr` in tokens
    pub fn new(user: &User, method: &str, now: i64) -> Self {
        Self {
            id: clock::new_id(now),
            user: user.id,
            created_at: now,
            refreshed_at: now,
            not_after: guest_providers::session_lifetime(user).map(|lifetime| now.saturating_add(lifetime)),
            method: method.into(),
            aal: "aal1".into(),
            counter: 0,
            nonce: random::nonce().to_vec(),
            replaced: Vec::new(),
            is_revoked: false,
            guest: None,
        }
    }

    fn check_not_expired(&self) -> Result<i64> {
        check_not_expired(self.created_at, self.refreshed_at, self.not_after)
    }

    /// Whether a token was replaced so recently that its bearer may have missed the answer.
    fn was_replaced_recently(&self, token: &RefreshToken, settings: &Settings) -> bool {
        let oldest = clock::now() - settings.refresh_token_reuse_interval;
        replaced_tokens(&self.replaced).any(|(time, nonce)| time > oldest && nonce == token.nonce)
    }

    /// Whether a token that was replaced recently may have been forgotten, so many were since.
    fn may_have_forgotten(&self, settings: &Settings) -> bool {
        let oldest = clock::now() - settings.refresh_token_reuse_interval;
        replaced_tokens(&self.replaced).nth(REPLACED_KEPT - 1).is_some_and(|(time, _)| time > oldest)
    }

    /// What to remember once the current token is replaced: it, and those before it whose refresh token may be
    /// used again or whose access tokens may still be valid.
    fn replaced_with_current(&self, now: i64, settings: &Settings) -> Vec<u8> {
        let oldest = now - settings.refresh_token_reuse_interval.max(settings.access_token_lifetime);
        let mut kept = [&now.to_be_bytes()[..], &self.nonce].concat();
        let before = replaced_tokens(&self.replaced).filter(|(time, _)| *time > oldest);
        for (time, nonce) in before.take(REPLACED_KEPT - 1) {
            kept.extend(time.to_be_bytes());
            kept.extend(nonce);
        }
        kept
    }
}

/// Until when a session lives that is not refreshed.
///
/// # Arguments
/// * `not_after` – its own end, where it has one
///
/// # Errors
/// `session_expired`.
pub fn check_not_expired(created_at: i64, refreshed_at: i64, not_after: Option<i64>) -> Result<i64> {
    let settings = settings::current()?;
    let now = clock::now();
    let idle = refreshed_at.saturating_add(settings.session_idle_timeout);
    let total = match settings.session_lifetime {
        0 => i64::MAX,
        lifetime => created_at.saturating_add(lifetime),
    }
    .min(not_after.unwrap_or(i64::MAX));
    let limit = if now >= idle {
        "was not refreshed in time"
    } else if now >= total {
        "has reached its total lifetime"
    } else {
        return Ok(idle.min(total));
    };
    Err(error(401, "session_expired", format!("the session {limit}")).hint("Sign in again."))
}

/// Checks that an access token's session is live, and returns until when it is if nobody refreshes it. The part of
/// [`find`] that every transaction asks for.
///
/// # Arguments
/// * `rotation` – fingerprint of the rotation that the token was issued with. It must be the session's current
///   one or one that was replaced: one that was rolled back is neither.
///
/// # Errors
/// `session_not_found`, `session_expired`.
pub fn check_live(snapshot: &LatestSnapshot, id: Uuid, user: Uuid, rotation: &str) -> Result<i64> {
    let gone = || {
        error(401, "session_not_found", "the session of the access token does not exist any more")
            .hint("The user signed out, was deleted or merged, or the session was revoked. Sign in again.")
    };
    let relations = catalog::relations().ok_or_else(gone)?;
    let session = snapshot.find(relations.sessions, relations.sessions_pkey, id, |row| {
        let is_of_rotation = |nonce: &[u8]| fingerprint(nonce) == rotation;
        let bytes = |column| row.get::<Vec<u8>>(column).unwrap_or_default();
        let is_its = row.uuid(c"user_id") == user
            && (is_of_rotation(&bytes(c"refresh_token_nonce"))
                || replaced_tokens(&bytes(c"replaced_refresh_tokens")).any(|(_, nonce)| is_of_rotation(&nonce)));
        let time = |column| row.timestamp(column);
        (is_its, time(c"created_at").unwrap_or(0), time(c"refreshed_at").unwrap_or(0), time(c"not_after"))
    });
    match session {
        Some((true, created_at, refreshed_at, not_after)) if !is_revoked(snapshot, id) => {
            check_not_expired(created_at, refreshed_at, not_after)
        }
        _ => Err(gone()),
    }
}

/// Whether the session was ended because an old refresh token came back.
pub fn is_revoked(snapshot: &LatestSnapshot, id: Uuid) -> bool {
    catalog::relations().is_some_and(|relations| {
        snapshot.find(relations.session_revocations, relations.session_revocations_pkey, id, |_| ()).is_some()
    })
}

/// Replaced tokens that a session remembers at most, however fast they are replaced.
const REPLACED_KEPT: usize = 32;

/// Times and nonces in `replaced_refresh_tokens`, newest first: 8 bytes and 16 bytes each.
fn replaced_tokens(bytes: &[u8]) -> impl Iterator<Item = (i64, [u8; 16])> {
    bytes.chunks_exact(24).filter_map(|entry| {
        let (time, nonce) = entry.split_at(8);
        Some((i64::from_be_bytes(time.try_into().ok()?), nonce.try_into().ok()?))
    })
}

/// The session with this id, as everything committed and this transaction's own changes have it.
fn find(id: Uuid) -> Option<Session> {
    let relations = catalog::relations()?;
    let snapshot = LatestSnapshot::take();
    let session = snapshot.find(relations.sessions, relations.sessions_pkey, id, |row| Session {
        id,
        user: row.uuid(c"user_id"),
        created_at: row.timestamp(c"created_at").unwrap_or(0),
        refreshed_at: row.timestamp(c"refreshed_at").unwrap_or(0),
        not_after: row.timestamp(c"not_after"),
        method: row.get(c"method").unwrap_or_default(),
        aal: row.get(c"aal").unwrap_or_default(),
        counter: row.get(c"refresh_token_counter").unwrap_or(0),
        nonce: row.get(c"refresh_token_nonce").unwrap_or_default(),
        replaced: row.get(c"replaced_refresh_tokens").unwrap_or_default(),
        is_revoked: false,
        guest: None,
    });
    session.map(|session| Session { is_revoked: is_revoked(&snapshot, id), ..session })
}

/// What the client gets: both tokens and the user.
///
/// # Arguments
/// * `now` – the time at which they are issued
pub fn answer(session: &Session, user: &User, settings: &Settings, now: i64) -> Result<Jsonb> {
    let issued = clock::unix_seconds(now);
    let lifetime = settings.access_token_lifetime / 1_000_000;
    let (key_id, refresh_key) = keys::current_refresh()?;
    let nonce = match session.guest {
        Some(_) => lazy_nonce(&refresh_key, session.id),
        None => session.nonce.as_slice().try_into().map_err(|_| refresh_token_not_found())?,
    };
    let refresh_token = RefreshToken {
        key_id,
        session_id: session.id,
        counter: session.counter as u64,
        nonce,
        guest: session.guest.clone(),
    };
    let refresh_token = refresh_token.encode(&refresh_key).ok_or_else(|| {
        invalid("the metadata of the user are too large for a refresh token of 8 KiB")
            .hint("Give less user_metadata, or have the hook before_user_created add less.")
    })?;
    let identities = if user.is_anonymous { json!([]) } else { users::identities(user.id)? };
    postgrest::forbid_caching()?;
    Ok(Jsonb(json!({
        "access_token": access_token(session, &nonce, user, settings, issued)?,
        "token_type": "bearer",
        "expires_in": lifetime,
        "expires_at": issued + lifetime,
        "refresh_token": refresh_token,
        "user": user.to_json(identities),
    })))
}

/// Signs an access token (RFC 7519).
///
/// # Arguments
/// * `nonce` – of the refresh token that is issued with it
/// * `issued` – Unix time
fn access_token(session: &Session, nonce: &[u8], user: &User, settings: &Settings, issued: i64) -> Result<String> {
    let Value::Object(mut claims) = json!({
        "iss": settings.issuer,
        "sub": user.id.to_string(),
        "aud": settings.audience,
        "exp": issued + settings.access_token_lifetime / 1_000_000,
        "iat": issued,
        "email": user.proven_email().unwrap_or_default(),
        "phone": user.proven_phone().unwrap_or_default(),
        "app_metadata": user.app_metadata,
        "user_metadata": user.user_metadata,
        "role": user.role,
        "aal": session.aal,
        "amr": [{"method": session.method, "timestamp": clock::unix_seconds(session.created_at)}],
        "session_id": session.id.to_string(),
        // By it a token from a rotation that was rolled back is told from a real one.
        "session_rotation": fingerprint(nonce),
        "is_anonymous": user.is_anonymous,
    }) else {
        return Err(error(500, "internal_error", "the claims are not an object"));
    };
    let method = if session.counter == 0 { &session.method } else { "token_refresh" };
    if let Some(guest) = &session.guest {
        claims.insert(lazy_guests::CLAIM.into(), lazy_guests::claim(guest, session.not_after));
    }
    hook_events::custom_access_token(&mut claims, method)?;
    if session.guest.is_some() {
        lazy_guests::keep_metadata(&mut claims, user);
    }
    let key = keys::current()?;
    anon_auth_core::jwt::encode(key.kid(), key.signing_key()?, &claims).map_err(|_| {
        invalid("the claims of the user are too large for an access token of 8 KiB")
            .hint("Shorten raw_app_meta_data, raw_user_meta_data, or what the hook custom_access_token adds.")
    })
}

/// Signs a user in, whoever has proven to be it. Locks the user's row.
///
/// # Arguments
/// * `method` – how it was proven; `amr` in tokens
///
/// # Errors
/// `user_banned`, `user_not_found`.
pub fn create(user: Uuid, method: &str) -> Result<Jsonb> {
    static INSERT: Statement = Statement::new(
        c"insert into auth.sessions (id, user_id, created_at, refreshed_at, method, refresh_token_nonce, not_after)
          values ($1, $2, $3, $3, $4, $5, $6)",
        &[
            pg_sys::UUIDOID,
            pg_sys::UUIDOID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::TEXTOID,
            pg_sys::BYTEAOID,
            pg_sys::TIMESTAMPTZOID,
        ],
    );
    keys::current()?;
    users::lock(user)?;
    let now = clock::now();
    users::note_sign_in(user, now)?;
    let user = users::find(user)?.ok_or_else(|| error(401, "user_not_found", "the user does not exist any more"))?;
    user.check_not_banned()?;
    let session = Session::new(&user, method, now);
    INSERT.run(&[
        spi::uuid(session.id),
        spi::uuid(user.id),
        spi::timestamp(now),
        spi::value(method),
        spi::value(session.nonce.as_slice()),
        session.not_after.and_then(spi::timestamp),
    ])?;
    let settings = settings::current()?;
    answer(&session, &user, &settings, now)
}

/// Locks the sessions of a user, whose row is locked, against a refresh.
pub fn lock_all(user: Uuid) -> Result<()> {
    static LOCK: Statement =
        Statement::new(c"select from auth.sessions where user_id = $1 order by id for update", &[pg_sys::UUIDOID]);
    LOCK.run(&[spi::uuid(user)]).map(|_| ())
}

/// Ends every session of a user but `session`. The caller has locked the user's row.
pub fn end_others(user: Uuid, session: Option<Uuid>) -> Result<()> {
    static DELETE: Statement = Statement::latest(
        c"delete from auth.sessions where user_id = $1 and id is distinct from $2",
        &[pg_sys::UUIDOID, pg_sys::UUIDOID],
    );
    DELETE.run(&[spi::uuid(user), session.and_then(spi::uuid)]).map(|_| ())
}

sql_function!(anon_auth_verify_token, |args| {
    let verified = claims::verify(&args.text(0)?.unwrap_or_default())?;
    let now = claims::freshness(&verified)?;
    Ok(Jsonb(claims::overlaid(&verified, &now.overlay).into()))
});

//! Refreshing a session: its refresh token is rotated, and one that comes back too late ends it.

use super::{Session, answer, find};
use crate::error::{Error, Result, error, serialization_failure};
use crate::function::writes;
use crate::jsonb::Jsonb;
use crate::lazy_guests::Guest;
use crate::limits::{self, Call};
use crate::own_transaction::{self, Request};
use crate::settings::{self, Settings};
use crate::spi::{self, Statement};
use crate::users::{self, User};
use crate::{claims, clock, keys, sql_function};
use anon_auth_core::random;
use anon_auth_core::refresh::{self, RefreshToken};
use pgrx::pg_sys;
use serde_json::json;
use uuid::Uuid;

sql_function!(anon_auth_refresh_session, |args| { refresh(&args.text(0)?.unwrap_or_default()) });

/// Rotates a refresh token.
///
/// # Errors
/// Those of `auth.refresh_session()`.
pub fn refresh(token: &str) -> Result<Jsonb> {
    // In place, unless somebody else was faster: then there is no row to update, and the next round sees why.
    static ROTATE: Statement = Statement::new(
        c"update auth.sessions
          set refresh_token_counter = refresh_token_counter + 1, refresh_token_nonce = $3,
              replaced_refresh_tokens = $4, refreshed_at = $5
          where id = $1 and refresh_token_nonce = $2",
        &[pg_sys::UUIDOID, pg_sys::BYTEAOID, pg_sys::BYTEAOID, pg_sys::BYTEAOID, pg_sys::TIMESTAMPTZOID],
    );
    writes(c"auth.refresh_session()");
    limits::take(Call::Refresh)?;
    let settings = settings::current()?;
    let token = verify_refresh_token(token)?;
    keys::current()?;
    if let Some(guest) = Guest::of_refresh_token(&token)? {
        guest.store()?;
    }
    loop {
        let mut session = find(token.session_id).ok_or_else(session_not_found)?;
        if session.is_revoked {
            return Err(already_used());
        }
        session.check_not_expired()?;
        let user = users::find(session.user)?.ok_or_else(session_not_found)?;
        user.check_not_banned()?;

        if session.nonce == token.nonce && session.counter as u64 == token.counter {
            let now = clock::now();
            note_activity(&user, now)?;
            let nonce = random::nonce().to_vec();
            let rotated = ROTATE.run(&[
                spi::uuid(session.id),
                spi::value(session.nonce.as_slice()),
                spi::value(nonce.as_slice()),
                spi::value(session.replaced_with_current(now, &settings).as_slice()),
                spi::timestamp(now),
            ])?;
            if rotated == 1 {
                (session.nonce, session.counter) = (nonce, session.counter + 1);
                return answer(&session, &user, &settings, now);
            }
            if unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_REPEATABLE_READ as i32 {
                // The transaction's own snapshot has an older row, and would have it in every further round.
                return Err(serialization_failure());
            }
        } else if session.was_replaced_recently(&token, &settings) {
            return answer(&session, &user, &settings, clock::now());
        } else {
            return Err(refuse(&session, &token, &settings)?);
        }
    }
}

/// Why a refresh token that is neither the session's nor was until a moment ago is refused. The session may end.
fn refuse(session: &Session, token: &RefreshToken, settings: &Settings) -> Result<Error> {
    if token.counter < session.counter as u64 && !session.may_have_forgotten(settings) {
        // An old token: its bearer or the session's is a thief. This must not be undone by a rollback.
        let request = Request::RevokeSession { session: session.id, user: session.user };
        own_transaction::run(request)?;
        return Ok(already_used());
    }
    // Of the right key, but ahead of the session: minted in a transaction that was rolled back. Or so many were
    // replaced within the interval that nobody can tell: that ends no session.
    Ok(refresh_token_not_found())
}

/// The user whose live session a token belongs to, by what is committed now, whatever is to be looked up elsewhere. A
/// guest of whom nothing was stored is stored.
///
/// # Arguments
/// * `token` – an access token or a refresh token; it is not used up
///
/// # Errors
/// Those of `auth.verify_token()` or `auth.refresh_session()`.
pub fn bearer(token: &str) -> Result<Uuid> {
    // A JWT has dots, a refresh token has none.
    if token.contains('.') {
        let verified = claims::verify(token)?;
        let fresh = claims::looked_up(&verified)?;
        if let Some(guest) = Guest::unstored(&verified, &fresh) {
            guest.store()?;
            claims::looked_up(&verified)?;
        }
        return verified.user_and_session().map(|(user, _)| user);
    }
    let settings = settings::current()?;
    let token = verify_refresh_token(token)?;
    if let Some(guest) = Guest::of_refresh_token(&token)? {
        guest.store()?;
    }
    let session = find(token.session_id).ok_or_else(session_not_found)?;
    if session.is_revoked {
        return Err(already_used());
    }
    session.check_not_expired()?;
    users::find(session.user)?.ok_or_else(session_not_found)?.check_not_banned()?;
    let is_current = session.nonce == token.nonce && session.counter as u64 == token.counter;
    if is_current || session.was_replaced_recently(&token, &settings) {
        return Ok(session.user);
    }
    Err(refuse(&session, &token, &settings)?)
}

fn verify_refresh_token(token: &str) -> Result<RefreshToken> {
    let token = refresh::decode(token).map_err(|_| refresh_token_not_found())?;
    let key = keys::all().refresh(token.key_id())?.ok_or_else(refresh_token_not_found)?;
    token.verify(&key).map_err(|_| refresh_token_not_found())
}

/// Notes that the user was active today. Before the session is touched: whoever locks both, locks the user's
/// row first.
fn note_activity(user: &User, now: i64) -> Result<()> {
    static UPDATE: Statement = Statement::new(
        c"update auth.users set last_active_on = $2, cleanup_blocked_at = null
          where id = $1 and coalesce(last_active_on, '-infinity') < $2",
        &[pg_sys::UUIDOID, pg_sys::DATEOID],
    );
    if user.is_first_activity_of_day(now) {
        UPDATE.run(&[spi::uuid(user.id), Some(pg_sys::Datum::from(clock::day(now)))])?;
    }
    Ok(())
}

/// Ends a session for good. Carried out in a transaction of its own.
pub fn revoke(session: Uuid, user: Uuid) -> Result<()> {
    static INSERT: Statement = Statement::new(
        c"insert into auth.session_revocations (session_id, reason) values ($1, 'refresh_token_already_used')
          on conflict do nothing",
        &[pg_sys::UUIDOID],
    );
    if INSERT.run(&[spi::uuid(session)])? == 1 {
        let payload = json!({"session_id": session.to_string(), "reason": "refresh_token_already_used"});
        crate::audit::record("session_revoked", Some(user), payload)?;
    }
    Ok(())
}

fn session_not_found() -> Error {
    error(401, "session_not_found", "the session of the refresh token does not exist any more").hint("Sign in again.")
}

pub(super) fn refresh_token_not_found() -> Error {
    error(401, "refresh_token_not_found", "the refresh token is not one that this database issued")
        .hint("Sign in again.")
}

fn already_used() -> Error {
    error(
        401,
        "refresh_token_already_used",
        "the session was ended, since one of its replaced refresh tokens came back",
    )
    .hint("Somebody may have stolen it. Sign in again.")
}

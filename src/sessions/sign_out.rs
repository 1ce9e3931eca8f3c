//! Signing out.

use crate::error::{Result, error, invalid};
use crate::function::{Args, writes};
use crate::lazy_guests::Guest;
use crate::spi::{self, Statement};
use crate::{claims, sql_function, users};
use pgrx::pg_sys;

fn sign_out(args: &Args) -> Result<()> {
    static DELETE: Statement = Statement::latest(
        c"delete from auth.sessions
          where user_id = $1 and case $3 when 'local' then id = $2 when 'others' then id <> $2 else true end",
        &[pg_sys::UUIDOID, pg_sys::UUIDOID, pg_sys::TEXTOID],
    );
    writes(c"auth.sign_out()");
    let scope = args.text(0)?.unwrap_or_else(|| "global".into());
    if !matches!(scope.as_str(), "global" | "local" | "others") {
        return Err(
            invalid(format!("\"{scope}\" is not a scope for signing out")).hint("Scopes: global, local, others.")
        );
    }
    let (verified, fresh) = claims::caller()?;
    let (user, session) = verified.user_and_session()?;
    if session.is_none() && scope != "global" {
        // Trusted claims of a request need not name one.
        return Err(error(401, "session_not_found", "the claims of the request name no session")
            .hint("Sign out of all sessions: SELECT auth.sign_out('global');"));
    }
    // Nothing is stored of it, and there is no other session than this one.
    if let Some(guest) = Guest::unstored(&verified, &fresh)
        && (scope == "others" || guest.end()?)
    {
        return Ok(());
    }
    users::lock(user)?;
    // It may have ended while the lock was waited for; then it ends no others.
    claims::require()?;
    DELETE.run(&[spi::uuid(user), session.and_then(spi::uuid), spi::value(scope.as_str())])?;
    Ok(())
}
sql_function!(anon_auth_sign_out, sign_out);

//! `auth.authenticate()`: from an access token to the user and role of this transaction.

use crate::compat;
use crate::error::{Result, error, warning};
use crate::function::Args;
use crate::{claims, guc, sql_function, statement_user};
use pgrx::pg_sys;
use std::ffi::CString;

/// Makes the bearer of `token` the user of this transaction; returns its id.
///
/// # Errors
/// Those of [`claims::verify`] and [`claims::freshness`], and `role_not_allowed`.
pub fn authenticate(token: &str) -> Result<Option<pgrx::Uuid>> {
    let since = claims::times_forgotten();
    let verified = claims::verify(token)?;
    let now = claims::freshness(&verified)?;
    if guc::switch_role() {
        // First: a caller must not end up with the user's identity in a role of more rights.
        take_role(verified.role.as_deref().unwrap_or_default())?;
    }
    claims::take_token(token, &verified, now, since)?;
    if !unsafe { pg_sys::IsTransactionBlock() } {
        warning(
            pgrx::PgSqlErrorCode::ERRCODE_NO_ACTIVE_SQL_TRANSACTION,
            "no_active_transaction: auth.authenticate() has no effect beyond this statement",
            "Call it inside a transaction block: BEGIN; SELECT auth.authenticate($1); …; COMMIT;",
        );
    }
    Ok(verified.user.map(|user| pgrx::Uuid::from_bytes(*user.as_bytes())))
}

fn take_role(role: &str) -> Result<()> {
    let login = || unsafe {
        let name = pg_sys::GetUserNameFromId(pg_sys::GetSessionUserId(), false);
        std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned()
    };
    let name = CString::new(role).unwrap_or_default();
    let oid = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    let refused = |why: &str, hint: String| Err(error(403, "role_not_allowed", why).hint(hint));
    if oid == pg_sys::InvalidOid {
        return refused(
            &format!("the role \"{role}\" of the access token does not exist"),
            match role {
                "anon" | "authenticated" => format!("SELECT auth.create_roles('{}');", login().replace('\'', "''")),
                _ => "Create it, or change the role of the user in auth.users.".into(),
            },
        );
    }
    if !compat::may_take_role(oid) {
        let login = login();
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        return refused(
            &format!("role \"{login}\" may not take the role \"{role}\" of the access token"),
            match unsafe { pg_sys::superuser_arg(oid) } {
                true => "Change the role of the user in auth.users.".into(),
                false => format!("GRANT {} TO {};", quoted(role), quoted(&login)),
            },
        );
    }
    statement_user::changes();
    guc::set_local("role", role)
}

sql_function!(anon_auth_authenticate, |args: &Args| { authenticate(&args.text(0)?.unwrap_or_default()) });

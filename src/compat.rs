//! Where the supported versions of Postgres differ.

use pgrx::pg_sys;

/// What an `ExecutorStart` hook returns. Postgres 18 had it return a flag in its betas; the release does not.
pub type ExecutorStartResult = ();

/// Whether the session's login role may take `role`.
pub fn may_take_role(role: pg_sys::Oid) -> bool {
    unsafe {
        let login = pg_sys::GetSessionUserId();
        #[cfg(feature = "pg15")]
        return pg_sys::is_member_of_role(login, role);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::member_can_set_role(login, role);
    }
}

//! Where the supported versions of Postgres differ.

use pgrx::pg_sys;

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

/// Has a background worker end at SIGTERM as a session does, at the next safe point, and note at SIGHUP that
/// configuration files are to be read again.
pub fn handle_signals() {
    unsafe extern "C-unwind" {
        // Postgres 18 gave the server's own function a name of its own.
        #[cfg_attr(feature = "pg18", link_name = "pqsignal_be")]
        fn pqsignal(signal: i32, handler: unsafe extern "C-unwind" fn(i32));
        fn die(signal: i32);
        fn SignalHandlerForConfigReload(signal: i32);
    }
    unsafe {
        pqsignal(pg_sys::SIGTERM as i32, die);
        pqsignal(pg_sys::SIGHUP as i32, SignalHandlerForConfigReload);
    }
}

/// Where the numbers of an extension's own timers begin (`utils/timeout.h`).
#[cfg(any(feature = "pg15", feature = "pg16"))]
pub const USER_TIMEOUT: i32 = 12;
/// Where the numbers of an extension's own timers begin (`utils/timeout.h`).
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub const USER_TIMEOUT: i32 = 13;

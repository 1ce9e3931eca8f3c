//! A statement that takes another role ends, for statistics, as the role that began it.
//!
//! pg_stat_statements keeps an entry by role: with the constants of the text replaced, made when a statement is parsed;
//! where there is none when it ends, it makes one of the text as it stands. A statement that changed its role would
//! leave a token that was written into it to everybody who has that role.

use pgrx::pg_sys;
use std::cell::Cell;

thread_local! {
    /// The statement of the client's that has changed its role, and the role before.
    static CHANGED: Cell<Option<(*mut pg_sys::QueryDesc, pg_sys::Oid)>> = const { Cell::new(None) };
    static NEXT_HOOK: Cell<pg_sys::ExecutorEnd_hook_type> = const { Cell::new(None) };
}

/// The running statement is about to take another role.
pub fn changes() {
    let portal = unsafe { pg_sys::ActivePortal };
    if portal.is_null() {
        return;
    }
    let (query, user) = unsafe { ((*portal).queryDesc, pg_sys::GetUserId()) };
    // It may do so more than once.
    if !query.is_null() && CHANGED.get().is_none_or(|(changed, _)| changed != query) {
        CHANGED.set(Some((query, user)));
    }
}

/// A transaction ended, and with it whatever failed in it.
pub fn at_transaction_end() {
    CHANGED.set(None);
}

/// Installs the hook.
pub fn install_hook() {
    unsafe {
        NEXT_HOOK.set(pg_sys::ExecutorEnd_hook);
        pg_sys::ExecutorEnd_hook = Some(executor_end);
    }
}

/// Every query of every session comes by here, so not through pgrx's guard: an error jumps over this frame, which owns
/// nothing; the end of the transaction puts the role back then.
unsafe extern "C-unwind" fn executor_end(query: *mut pg_sys::QueryDesc) {
    unsafe extern "C-unwind" {
        fn standard_ExecutorEnd(query: *mut pg_sys::QueryDesc);
        fn GetUserIdAndSecContext(user: *mut pg_sys::Oid, context: *mut i32);
        fn SetUserIdAndSecContext(user: pg_sys::Oid, context: i32);
    }
    unsafe {
        let next = NEXT_HOOK.get().unwrap_or(standard_ExecutorEnd);
        match CHANGED.get() {
            Some((changed, before)) if changed == query => {
                CHANGED.set(None);
                let (mut user, mut context) = (pg_sys::InvalidOid, 0);
                GetUserIdAndSecContext(&mut user, &mut context);
                SetUserIdAndSecContext(before, context);
                next(query);
                SetUserIdAndSecContext(user, context);
            }
            _ => next(query),
        }
    }
}

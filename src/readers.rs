//! `auth.jwt()`, `auth.uid()` and the other readers: what policies call on every row.
//!
//! Each hands out a pointer to a value that `claims` keeps, without copying or parsing. They never raise an
//! error for want of a valid token: that is NULL.

use crate::claims::{self, Built};
use crate::function_info;
use pgrx::pg_sys::{Datum, FunctionCallInfo};

/// The code of every reader.
pub const ALL: [unsafe extern "C-unwind" fn(FunctionCallInfo) -> Datum; 6] =
    [anon_auth_jwt, anon_auth_uid, anon_auth_session_id, anon_auth_role, anon_auth_email, anon_auth_is_anonymous];

/// A copy of a value in the caller's memory.
///
/// # Arguments
/// * `length` – in bytes; -1 for a value that says so itself
unsafe fn copied(datum: Datum, length: isize) -> Datum {
    unsafe {
        pgrx::pg_sys::panic::pgrx_extern_c_guard(|| {
            let from = datum.cast_mut_ptr::<u8>();
            let length = if length < 0 { pgrx::varsize_any(from.cast()) } else { length as usize };
            let to = pgrx::pg_sys::palloc(length) as *mut u8;
            std::ptr::copy_nonoverlapping(from, to, length);
            Datum::from(to)
        })
    }
}

/// Exports a reader to SQL: the value in the claims, and its length for [`copied`].
macro_rules! reader {
    ($symbol:ident, $value:expr, $length:expr) => {
        #[unsafe(no_mangle)]
        unsafe extern "C-unwind" fn $symbol(fcinfo: FunctionCallInfo) -> Datum {
            let value: fn(&Built) -> Option<Datum> = $value;
            unsafe {
                match claims::current().and_then(|(built, copy)| Some((value(built)?, copy))) {
                    Some((datum, false)) => datum,
                    Some((datum, true)) => copied(datum, $length),
                    None => {
                        (*fcinfo).isnull = true;
                        Datum::from(0)
                    }
                }
            }
        }
        function_info!($symbol);
    };
}

reader!(anon_auth_jwt, |claims| Some(claims.jwt), -1);
reader!(anon_auth_uid, |claims| claims.user, 16);
reader!(anon_auth_session_id, |claims| claims.session, 16);
reader!(anon_auth_role, |claims| claims.role, -1);
reader!(anon_auth_email, |claims| claims.email, -1);

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn anon_auth_is_anonymous(fcinfo: FunctionCallInfo) -> Datum {
    match unsafe { claims::current() }.and_then(|(claims, _)| claims.is_anonymous) {
        Some(is_anonymous) => Datum::from(is_anonymous),
        None => {
            unsafe { (*fcinfo).isnull = true };
            Datum::from(0)
        }
    }
}
function_info!(anon_auth_is_anonymous);

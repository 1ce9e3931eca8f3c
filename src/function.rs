//! The border between SQL and Rust: how a function of the extension is called, and how it raises an error.

use crate::error::{Error, Result};
use pgrx::{FromDatum, IntoDatum, pg_sys};

/// Arguments of one call.
pub struct Args(pub pg_sys::FunctionCallInfo);

impl Args {
    /// Argument `n`, counted from 0; `None` for NULL. Its SQL type must be the one `T` stands for.
    pub fn get<T: FromDatum>(&self, n: usize) -> Option<T> {
        unsafe { pgrx::fcinfo::pg_getarg(self.0, n) }
    }

    /// Argument `n`, a text, counted from 0; `None` for NULL.
    ///
    /// # Errors
    /// `validation_failed` where it is not UTF-8, as may be in a database with the encoding SQL_ASCII.
    pub fn text(&self, n: usize) -> Result<Option<String>> {
        let bytes: Option<&[u8]> = self.get(n);
        bytes
            .map(|bytes| std::str::from_utf8(bytes).map(str::to_owned))
            .transpose()
            .map_err(|_| crate::error::invalid("a text argument is not valid UTF-8"))
    }

    /// What a trigger function is called for.
    ///
    /// # Errors
    /// When it was not called as a trigger.
    pub fn trigger(&self) -> Result<&pg_sys::TriggerData> {
        unsafe {
            let context = (*self.0).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return Err(crate::error::invalid("this function can be called as a trigger only"));
            }
            Ok(&*(context as *const pg_sys::TriggerData))
        }
    }

    fn null(&self) -> pg_sys::Datum {
        unsafe { pgrx::fcinfo::pg_return_null(self.0) }
    }
}

/// Refuses to go on in a read-only transaction or on a standby, by the name of the function that was called.
pub fn writes(function: &std::ffi::CStr) {
    unsafe { pg_sys::PreventCommandIfReadOnly(function.as_ptr()) };
}

/// Runs the body of an SQL function and hands its value, or its error, to Postgres.
///
/// The error is raised when every frame of the body has been left, so nothing that owns memory is skipped by
/// the `longjmp`.
///
/// # Safety
/// To be called by Postgres's function manager only, from the outermost Rust frame.
pub unsafe fn call<T: IntoDatum>(fcinfo: pg_sys::FunctionCallInfo, body: fn(&Args) -> Result<T>) -> pg_sys::Datum {
    // Declared here and not through pgrx, whose guard would turn the error into a panic of its own.
    unsafe extern "C-unwind" {
        fn ReThrowError(data: *mut pg_sys::ErrorData) -> !;
        fn ThrowErrorData(data: *mut pg_sys::ErrorData);
    }
    enum Outcome {
        Value(pg_sys::Datum),
        Ours(*mut pg_sys::ErrorData),
        Postgres(*mut pg_sys::ErrorData),
    }
    let outcome = unsafe {
        pg_sys::panic::pgrx_extern_c_guard(move || {
            let args = Args(fcinfo);
            match body(&args) {
                Ok(value) => Outcome::Value(value.into_datum().unwrap_or_else(|| args.null())),
                Err(Error::Postgres(data, _)) => Outcome::Postgres(data),
                Err(error) => Outcome::Ours(error.into_error_data()),
            }
        })
    };
    match outcome {
        Outcome::Value(datum) => datum,
        Outcome::Ours(data) => unsafe {
            ThrowErrorData(data);
            unreachable!("an error was reported below the level ERROR")
        },
        // Keeps the context lines that were collected where the error happened.
        Outcome::Postgres(data) => unsafe { ReThrowError(data) },
    }
}

/// Exports `$body` to SQL under the symbol `$symbol`, to be declared in `sql/`.
#[macro_export]
macro_rules! sql_function {
    ($symbol:ident, $body:expr) => {
        #[unsafe(no_mangle)]
        unsafe extern "C-unwind" fn $symbol(fcinfo: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
            let body: fn(&$crate::function::Args) -> $crate::error::Result<_> = $body;
            unsafe { $crate::function::call(fcinfo, body) }
        }
        $crate::function_info!($symbol);
    };
}

/// The record by which Postgres knows that a symbol follows the version 1 calling convention.
#[macro_export]
macro_rules! function_info {
    ($symbol:ident) => {
        const _: () = {
            #[unsafe(export_name = concat!("pg_finfo_", stringify!($symbol)))]
            extern "C" fn info() -> &'static pgrx::pg_sys::Pg_finfo_record {
                static RECORD: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
                &RECORD
            }
        };
    };
}

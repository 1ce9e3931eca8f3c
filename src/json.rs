//! JSON at the border with Postgres.

use crate::error::{Result, invalid};
use crate::function::Args;
use pgrx::pg_sys;
use serde_json::Value;

/// Argument `n`, a `jsonb` that is not NULL.
///
/// # Errors
/// `validation_failed` where it is NULL, nested too deeply, or holds a number out of range.
pub fn argument(args: &Args, n: usize) -> Result<Value> {
    match unsafe { pgrx::fcinfo::pg_getarg_datum(args.0, n) } {
        Some(datum) => parse(&text(datum)),
        None => Err(invalid("the JSON argument is NULL")),
    }
}

/// The text of a `jsonb` value.
pub fn text(datum: pg_sys::Datum) -> String {
    unsafe {
        match pgrx::direct_function_call_as_datum(pg_sys::jsonb_out, &[Some(datum)]) {
            Some(text) => std::ffi::CStr::from_ptr(text.cast_mut_ptr()).to_string_lossy().into_owned(),
            None => String::new(),
        }
    }
}

/// A `jsonb` object that need not hold anything: most metadata is empty, and then there is no text to be made.
pub fn object(datum: pg_sys::Datum) -> Result<Value> {
    unsafe {
        let jsonb = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()) as *mut pg_sys::Jsonb;
        if (*jsonb).root.header == pg_sys::JB_FOBJECT {
            return Ok(Value::Object(serde_json::Map::new()));
        }
    }
    parse(&text(datum))
}

/// Parses the text of a `jsonb` value. Not pgrx's `JsonB`, which panics on values that Postgres takes and
/// serde_json does not.
pub fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text)
        .map_err(|_| invalid("the JSON value is nested too deeply or holds a number out of range"))
}

/// A point in time as JSON shows it: ISO 8601 in UTC.
///
/// # Arguments
/// * `time` – microseconds since Postgres's epoch
pub fn timestamp(time: i64) -> Value {
    // MAXDATELEN is 128.
    let mut buffer = [0 as std::ffi::c_char; 129];
    let utc = 0;
    unsafe {
        pg_sys::JsonEncodeDateTime(buffer.as_mut_ptr(), pg_sys::Datum::from(time), pg_sys::TIMESTAMPTZOID, &utc);
        std::ffi::CStr::from_ptr(buffer.as_ptr()).to_string_lossy().into()
    }
}

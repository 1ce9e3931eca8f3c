//! JSON that SQL gets as `jsonb`, put together as Postgres's own parser does it. Without the way through text,
//! which costs several times as much at every sign-in.

use anon_auth_core::json::holds_nul;
use pgrx::pg_sys::JsonbIteratorToken::*;
use pgrx::pg_sys::{JsonbValue, jbvType};
use pgrx::{IntoDatum, pg_sys};
use serde_json::{Number, Value};
use std::fmt::Write;
use std::ptr::null_mut;

/// A value that becomes a `jsonb` datum.
pub struct Jsonb(pub Value);

impl IntoDatum for Jsonb {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        if holds_nul(&self.0) {
            // Postgres's parser has an error for that.
            return pgrx::JsonB(self.0).into_datum();
        }
        // One guard for all the calls: none of the frames between it and Postgres owns anything. What is pushed
        // points into self, which lives until all of it is copied into the datum.
        Some(unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                let mut state = null_mut();
                let whole = push(&mut state, WJB_ELEM, &self.0);
                raw::JsonbValueToJsonb(whole)
            })
        })
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}

/// Adds `value` to what is put together in `state`, and returns the innermost whole.
///
/// # Arguments
/// * `position` – as what a scalar is added: WJB_ELEM or WJB_VALUE
unsafe fn push(
    state: &mut *mut pg_sys::JsonbParseState,
    position: pg_sys::JsonbIteratorToken::Type,
    value: &Value,
) -> *mut JsonbValue {
    unsafe {
        match value {
            Value::Array(items) => {
                raw::pushJsonbValue(state, WJB_BEGIN_ARRAY, null_mut());
                for item in items {
                    push(state, WJB_ELEM, item);
                }
                raw::pushJsonbValue(state, WJB_END_ARRAY, null_mut())
            }
            Value::Object(members) => {
                raw::pushJsonbValue(state, WJB_BEGIN_OBJECT, null_mut());
                for (name, value) in members {
                    raw::pushJsonbValue(state, WJB_KEY, &mut string(name));
                    push(state, WJB_VALUE, value);
                }
                raw::pushJsonbValue(state, WJB_END_OBJECT, null_mut())
            }
            scalar => {
                let is_whole = state.is_null();
                if is_whole {
                    // As Postgres keeps a scalar: in an array of one.
                    raw::pushJsonbValue(state, WJB_BEGIN_ARRAY, null_mut());
                    (**state).contVal.val.array.rawScalar = true;
                }
                let pushed = raw::pushJsonbValue(state, position, &mut of_scalar(scalar));
                if is_whole { raw::pushJsonbValue(state, WJB_END_ARRAY, null_mut()) } else { pushed }
            }
        }
    }
}

unsafe fn of_scalar(value: &Value) -> JsonbValue {
    let mut scalar = JsonbValue { type_: jbvType::jbvNull, ..Default::default() };
    match value {
        Value::Bool(truth) => {
            scalar.type_ = jbvType::jbvBool;
            scalar.val.boolean = *truth;
        }
        Value::Number(number) => {
            scalar.type_ = jbvType::jbvNumeric;
            scalar.val.numeric = unsafe { numeric(number) };
        }
        Value::String(text) => return string(text),
        _ => (),
    }
    scalar
}

/// A text, not copied.
fn string(text: &str) -> JsonbValue {
    let mut string = JsonbValue { type_: jbvType::jbvString, ..Default::default() };
    string.val.string.len = text.len() as i32;
    string.val.string.val = text.as_ptr().cast_mut().cast();
    string
}

unsafe fn numeric(number: &Number) -> pg_sys::Numeric {
    if let Some(number) = number.as_i64() {
        return unsafe { raw::int64_to_numeric(number) };
    }
    // By its digits, of which a float8 would keep fewer.
    let mut digits = Digits { text: [0; 64], length: 0 };
    let _ = write!(digits, "{number}");
    unsafe {
        let (any_type, any_precision) = (pg_sys::Datum::from(0), pg_sys::Datum::from(-1i32));
        let text = digits.text.as_ptr().into();
        let collation = pg_sys::InvalidOid;
        raw::DirectFunctionCall3Coll(raw::numeric_in, collation, text, any_type, any_precision).cast_mut_ptr()
    }
}

/// A number's text, ending in NUL. The longest, of a negative float with its exponent, has less than 32 bytes.
struct Digits {
    text: [u8; 64],
    length: usize,
}

impl std::fmt::Write for Digits {
    fn write_str(&mut self, more: &str) -> std::fmt::Result {
        let end = self.length + more.len();
        let room = self.text[..63].get_mut(self.length..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(more.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// As pgrx declares them, but each without a guard of its own.
mod raw {
    use pgrx::pg_sys::{self, Datum, JsonbIteratorToken, JsonbParseState, JsonbValue, Numeric};

    unsafe extern "C-unwind" {
        pub fn pushJsonbValue(
            state: *mut *mut JsonbParseState,
            token: JsonbIteratorToken::Type,
            value: *mut JsonbValue,
        ) -> *mut JsonbValue;
        pub fn JsonbValueToJsonb(value: *mut JsonbValue) -> Datum;
        pub fn int64_to_numeric(number: i64) -> Numeric;
        pub fn numeric_in(call: pg_sys::FunctionCallInfo) -> Datum;
        pub fn DirectFunctionCall3Coll(
            function: unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> Datum,
            collation: pg_sys::Oid,
            first: Datum,
            second: Datum,
            third: Datum,
        ) -> Datum;
    }
}

//! PostgREST: the bearer token of a request, and the headers of its answer.

use crate::authenticate::authenticate;
use crate::error::{Result, error};
use crate::function::Args;
use crate::{guc, sql_function};
use pgrx::pg_sys;
use serde_json::{Value, json};
use std::ffi::CStr;

/// A setting that PostgREST makes for a request; `None` where it is missing or empty.
fn request_setting(name: &CStr) -> Option<String> {
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        if value.is_null() {
            return None;
        }
        let value = CStr::from_ptr(value).to_str().ok()?;
        (!value.is_empty()).then(|| value.to_owned())
    }
}

fn request_headers() -> Option<Value> {
    request_setting(c"request.headers").and_then(|text| serde_json::from_str(&text).ok())
}

/// The value of a header of the request; its name is case-insensitive. PostgREST gives one value for each name.
pub fn header(name: &str) -> Option<String> {
    header_value(name)?.as_str().map(str::to_owned)
}

fn header_value(name: &str) -> Option<Value> {
    let headers = request_headers()?;
    let (_, value) = headers.as_object()?.iter().find(|(other, _)| other.eq_ignore_ascii_case(name))?;
    Some(value.clone())
}

fn pre_request(_: &Args) -> Result<()> {
    let Some(authorization) = header_value("authorization") else {
        // Whatever this connection was used for before.
        return guc::set_local("anon_auth.access_token", "");
    };
    // RFC 6750, section 2.1; the scheme's name is case-insensitive.
    let token = authorization
        .as_str()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    match token {
        Some(token) => authenticate(token).map(|_| ()),
        None => Err(error(401, "bad_jwt", "the Authorization header is not \"Bearer <token>\"")),
    }
}
sql_function!(anon_auth_pre_request, pre_request);

/// Whether PostgREST is who gets the answer. An application that tells where its client is sets the headers alone.
pub fn is_request() -> bool {
    request_setting(c"request.method").is_some()
}

/// Keeps an answer that is for one user's eyes out of caches, where it goes through PostgREST.
pub fn forbid_caching() -> Result<()> {
    if !is_request() && request_setting(c"request.headers").is_none() {
        return Ok(());
    }
    let mut headers = request_setting(c"response.headers")
        .and_then(|text| serde_json::from_str::<Vec<Value>>(&text).ok())
        .unwrap_or_default();
    let header = json!({"Cache-Control": "no-store"});
    if !headers.contains(&header) {
        headers.push(header);
    }
    guc::set_local("response.headers", &Value::from(headers).to_string())
}

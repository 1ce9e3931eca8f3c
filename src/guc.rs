//! Postgres settings, `anon_auth.*`: only what belongs to a connection or a server.

use crate::error::Result;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};
use std::ffi::{CStr, CString, c_char, c_void};

static ACCESS_TOKEN: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static TRUST_REQUEST_CLAIMS: GucSetting<bool> = GucSetting::<bool>::new(false);
static SWITCH_ROLE: GucSetting<bool> = GucSetting::<bool>::new(true);
static CHECK_SESSION: GucSetting<bool> = GucSetting::<bool>::new(true);
static FORWARDED_HEADER: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static TRUSTED_PROXIES: GucSetting<i32> = GucSetting::<i32>::new(1);
static EVALUATE_ONCE: GucSetting<bool> = GucSetting::<bool>::new(false);
static KEY_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// The access token of this transaction, if one is set.
pub fn access_token() -> Option<String> {
    // Through the pointer: GucSetting::get() would fail on text that is not UTF-8, and copy twice.
    let text = unsafe { *ACCESS_TOKEN.as_ptr() };
    if text.is_null() {
        return None;
    }
    let bytes = unsafe { CStr::from_ptr(text) }.to_bytes();
    if bytes.is_empty() || bytes.len() > anon_auth_core::jwt::MAX_TOKEN_BYTES {
        return None;
    }
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// Whether `request.jwt.claims` is believed where there is no valid access token.
pub fn trust_request_claims() -> bool {
    TRUST_REQUEST_CLAIMS.get()
}

/// Whether `auth.authenticate()` takes the token's role.
pub fn switch_role() -> bool {
    SWITCH_ROLE.get()
}

/// Whether session and user of a token are looked up in every transaction.
pub fn check_session() -> bool {
    CHECK_SESSION.get()
}

/// Whether expressions over the readers are evaluated once per execution.
pub fn evaluate_once() -> bool {
    EVALUATE_ONCE.get()
}

/// Path of the file with the key that seals private keys.
pub fn key_file() -> Option<std::path::PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let path = KEY_FILE.get()?.into_bytes();
    (!path.is_empty()).then(|| std::ffi::OsString::from_vec(path).into())
}

/// Name of the header of `request.headers` that tells where a request comes from; `None` for the connection.
pub fn forwarded_header() -> Option<String> {
    FORWARDED_HEADER.get()?.into_string().ok().filter(|name| !name.is_empty())
}

/// How many proxies in front of the database append to that header.
pub fn trusted_proxies() -> usize {
    usize::try_from(TRUSTED_PROXIES.get()).unwrap_or(1)
}

/// Sets any of Postgres's settings.
///
/// # Arguments
/// * `context` – with whose rights
/// * `action` – until when: GUC_ACTION_SET for the session, _LOCAL for the transaction, _SAVE for the function
///   or nest level
///
/// Raises what Postgres raises where the value or the right to set it is missing.
pub fn set(name: &CStr, value: &CStr, context: pg_sys::GucContext::Type, action: pg_sys::GucAction::Type) {
    let source = pg_sys::GucSource::PGC_S_SESSION;
    unsafe { pg_sys::set_config_option(name.as_ptr(), value.as_ptr(), context, source, action, true, 0, false) };
}

/// Runs `body` with a setting that is put back afterwards; after an error the abort of the (sub)transaction does it.
pub fn with<T>(name: &CStr, value: &CStr, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let level = unsafe { pg_sys::NewGUCNestLevel() };
    set(name, value, pg_sys::GucContext::PGC_USERSET, pg_sys::GucAction::GUC_ACTION_SAVE);
    let result = body()?;
    unsafe { pg_sys::AtEOXact_GUC(false, level) };
    Ok(result)
}

/// `SET LOCAL`, with the value kept out of any statement text.
pub fn set_local(name: &str, value: &str) -> Result<()> {
    let (Ok(name), Ok(value)) = (CString::new(name), CString::new(value)) else {
        return Err(crate::error::invalid("a setting's value must not contain a NUL byte"));
    };
    let superuser = unsafe { pg_sys::superuser() };
    let context = if superuser { pg_sys::GucContext::PGC_SUSET } else { pg_sys::GucContext::PGC_USERSET };
    set(&name, &value, context, pg_sys::GucAction::GUC_ACTION_LOCAL);
    Ok(())
}

unsafe extern "C-unwind" fn assign_text(_value: *const c_char, _extra: *mut c_void) {
    crate::claims::forget();
}

unsafe extern "C-unwind" fn assign_switch(_value: bool, _extra: *mut c_void) {
    crate::claims::forget();
}

unsafe extern "C-unwind" fn assign_key_file(_value: *const c_char, _extra: *mut c_void) {
    crate::keys::mark_stale();
}

/// Defines the settings. Called once per backend, when the library is loaded.
pub fn define() {
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"anon_auth.access_token",
            c"Access token of the user of this transaction.",
            c"Set it through auth.authenticate(), or with set_config() and a bound parameter.",
            &ACCESS_TOKEN,
            GucContext::Userset,
            // Not in SHOW ALL or pg_settings: it is a secret of the session.
            GucFlags::NO_SHOW_ALL | GucFlags::DISALLOW_IN_FILE,
            None,
            Some(assign_text),
            None,
        );
        GucRegistry::define_bool_guc_with_hooks(
            c"anon_auth.trust_request_claims",
            c"Believe request.jwt.claims where there is no valid access token.",
            c"Only for login roles that nobody can run their own SQL as, such as PostgREST's.",
            &TRUST_REQUEST_CLAIMS,
            GucContext::Suset,
            GucFlags::empty(),
            None,
            Some(assign_switch),
            None,
        );
        GucRegistry::define_bool_guc_with_hooks(
            c"anon_auth.check_session",
            c"Look up session and user of the access token once per transaction.",
            c"Off: a token stays good until it expires, whatever has become of its session and user.",
            &CHECK_SESSION,
            GucContext::Suset,
            GucFlags::empty(),
            None,
            Some(assign_switch),
            None,
        );
        GucRegistry::define_string_guc_with_hooks(
            c"anon_auth.key_file",
            c"File of 32 bytes, outside the data directory, that private keys are sealed with.",
            c"Empty: private keys are stored as they are, and whoever reads a dump can mint tokens.",
            &KEY_FILE,
            GucContext::Suset,
            GucFlags::SUPERUSER_ONLY,
            None,
            Some(assign_key_file),
            None,
        );
    }
    GucRegistry::define_bool_guc(
        c"anon_auth.switch_role",
        c"auth.authenticate() takes the role that the access token names.",
        c"Off: the login role is kept, whose rights policies may not restrict.",
        &SWITCH_ROLE,
        GucContext::Suset,
        GucFlags::empty(),
    );
    GucRegistry::define_string_guc(
        c"anon_auth.forwarded_header",
        c"Header of request.headers that tells the client's address, such as X-Forwarded-For.",
        c"Only for login roles that nobody can run their own SQL as, behind a proxy that sets it. Empty: the connection's address counts.",
        &FORWARDED_HEADER,
        GucContext::Suset,
        GucFlags::empty(),
    );
    GucRegistry::define_int_guc(
        c"anon_auth.trusted_proxies",
        c"How many proxies of yours append to the header in anon_auth.forwarded_header.",
        c"The address that many from the right counts; what is left of it, a client may have made up.",
        &TRUSTED_PROXIES,
        1,
        16,
        GucContext::Suset,
        GucFlags::empty(),
    );
    GucRegistry::define_bool_guc(
        c"anon_auth.evaluate_once",
        c"Evaluate an expression over auth.jwt() and the other readers once per execution, not on every row.",
        c"As if it were written as a sub-select. It counts for statements that are planned after it is set.",
        &EVALUATE_ONCE,
        GucContext::Userset,
        GucFlags::empty(),
    );
    // A misspelt setting is an error, not a new setting.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"anon_auth".as_ptr()) };
}

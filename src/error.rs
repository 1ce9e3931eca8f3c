//! Errors: a stable code, a plain sentence, a SQLSTATE that PostgREST turns into an HTTP status.
//!
//! Postgres raises errors by `longjmp`. Here they travel as values until every Rust frame has been left, and
//! are raised once, at the border (`function.rs`). Errors that Postgres raised itself are kept whole, since
//! pgrx's own conversion loses SQLSTATEs that it does not know and the names of tables and constraints.

use crate::postgrest;
use pgrx::pg_sys;
use serde_json::json;
use std::ffi::CString;

/// What every fallible function of the extension returns.
pub type Result<T> = std::result::Result<T, Error>;

/// An error on its way to the border.
pub enum Error {
    /// Raised by the extension.
    Ours(Box<Report>),
    /// Raised by Postgres or by SQL that the extension ran; a copy in a memory context of the transaction. And
    /// the table that the SQL was about, where it is worth telling.
    Postgres(*mut pg_sys::ErrorData, Option<String>),
}

/// An error of the extension's own.
pub struct Report {
    sqlstate: [u8; 5],
    message: String,
    detail: Option<String>,
    /// For the server's log only.
    detail_log: Option<String>,
    hint: Option<String>,
    /// Table, qualified, and constraint.
    about: Option<(String, String)>,
    /// Seconds after which it is worth trying again.
    retry_after: Option<u64>,
}

/// An error `code: message` with SQLSTATE `PT` and the HTTP status.
///
/// # Arguments
/// * `status` – HTTP status, 400 to 599
/// * `code` – stable identifier that clients switch on, such as `session_expired`
/// * `message` – one sentence, with the offending value unless that is a secret
pub fn error(status: u16, code: &str, message: impl AsRef<str>) -> Error {
    let digit = |n: u16| b'0' + (n % 10) as u8;
    Error::Ours(Box::new(Report {
        sqlstate: [b'P', b'T', digit(status / 100), digit(status / 10), digit(status)],
        message: format!("{code}: {}", message.as_ref()),
        detail: None,
        detail_log: None,
        hint: None,
        about: None,
        retry_after: None,
    }))
}

/// An error that an application raised: its SQLSTATE, message, detail and hint, as `edit` leaves their texts.
pub fn raised(error: &Error, edit: impl Fn(&str) -> String) -> Error {
    let (detail, hint) = error.detail_and_hint();
    Error::Ours(Box::new(Report {
        sqlstate: error.sqlstate_bytes(),
        message: edit(&error.message()),
        detail: detail.as_deref().map(&edit),
        detail_log: None,
        hint: hint.as_deref().map(&edit),
        about: None,
        retry_after: None,
    }))
}

/// What Postgres says when a transaction's snapshot is too old for what it wants to change.
pub fn serialization_failure() -> Error {
    Error::Ours(Box::new(Report {
        sqlstate: *b"40001",
        message: "could not serialize access due to concurrent update".into(),
        detail: None,
        detail_log: None,
        hint: Some("Run the transaction again.".into()),
        about: None,
        retry_after: None,
    }))
}

/// Input that does not say what it has to say; HTTP status 400.
pub fn invalid(message: impl AsRef<str>) -> Error {
    error(400, "validation_failed", message)
}

impl Error {
    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Error::Ours(report) = &mut self {
            report.hint = Some(hint.into());
        }
        self
    }

    /// Adds what only the server's log is to know.
    pub fn detail_log(mut self, detail: impl Into<String>) -> Self {
        if let Error::Ours(report) = &mut self {
            report.detail_log = Some(detail.into());
        }
        self
    }

    /// Says in how many seconds to try again: first thing in the hint, and where PostgREST asks, in the answer's header
    /// `Retry-After`.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        if let Error::Ours(report) = &mut self {
            let wait = match seconds {
                1 => "1 second".into(),
                ..120 => format!("{seconds} seconds"),
                _ => format!("{} minutes", seconds.div_ceil(60)),
            };
            let rest = report.hint.take().map_or_else(String::new, |hint| format!(" {hint}"));
            report.hint = Some(format!("Try again in {wait}.{rest}"));
            report.retry_after = Some(seconds);
        }
        self
    }

    /// Names the table and constraint that it is about; the constraint may be empty.
    pub fn about(mut self, table: &str, constraint: &str) -> Self {
        match &mut self {
            Error::Ours(report) => report.about = Some((table.into(), constraint.into())),
            Error::Postgres(_, about) => *about = Some(table.into()),
        }
        self
    }

    /// The message, for a report about something that was skipped.
    pub fn message(&self) -> String {
        match self {
            Error::Ours(report) => report.message.clone(),
            Error::Postgres(data, _) => unsafe { text((**data).message) }.unwrap_or_default(),
        }
    }

    fn detail_and_hint(&self) -> (Option<String>, Option<String>) {
        match self {
            Error::Ours(report) => (report.detail.clone(), report.hint.clone()),
            Error::Postgres(data, _) => unsafe { (text((**data).detail), text((**data).hint)) },
        }
    }

    /// Table and constraint that the error is about, where it names them.
    pub fn table_and_constraint(&self) -> (Option<String>, Option<String>) {
        match self {
            Error::Ours(report) => {
                let (table, constraint) = report.about.clone().unzip();
                (table, constraint.filter(|name| !name.is_empty()))
            }
            Error::Postgres(data, about) => unsafe {
                let table = text((**data).table_name).map(|table| match text((**data).schema_name) {
                    Some(schema) => format!("{schema}.{table}"),
                    None => table,
                });
                (table.or_else(|| about.clone()), text((**data).constraint_name))
            },
        }
    }

    /// The same error with its texts as `edit` leaves them, and without what Postgres says about where it arose: that
    /// quotes the SQL it was in.
    pub fn edited(self, edit: impl Fn(&str) -> String) -> Self {
        if let Error::Postgres(data, _) = self {
            unsafe {
                let data = &mut *data;
                for field in [&mut data.message, &mut data.detail, &mut data.hint] {
                    if let Some(text) = text(*field) {
                        let text = CString::new(edit(&text)).unwrap_or_default();
                        *field = pg_sys::MemoryContextStrdup(pg_sys::TopTransactionContext, text.as_ptr());
                    }
                }
                for field in [&mut data.context, &mut data.detail_log, &mut data.internalquery] {
                    *field = std::ptr::null_mut();
                }
            }
        }
        self
    }

    /// Whether it must end the statement, whatever else could be done: the statement was cancelled or the server
    /// shuts down. An error that application code raised with such a SQLSTATE does not count.
    pub fn is_interrupt(&self) -> bool {
        match self {
            Error::Ours(_) => false,
            Error::Postgres(data, _) => unsafe {
                let is_cancel = sqlstate_text((**data).sqlerrcode).starts_with(b"57");
                // The function in which Postgres itself raises them.
                is_cancel && text((**data).funcname).is_some_and(|name| name == "ProcessInterrupts")
            },
        }
    }

    /// The table of an application that it is about, qualified and quoted.
    pub fn table(&self) -> Option<&str> {
        match self {
            Error::Ours(report) => report.about.as_ref().map(|(table, _)| table.as_str()),
            Error::Postgres(_, about) => about.as_deref(),
        }
    }

    /// Whether it is an error of the extension's own with this code.
    pub fn has_code(&self, code: &str) -> bool {
        match self {
            Error::Ours(report) => report.message.strip_prefix(code).is_some_and(|rest| rest.starts_with(':')),
            Error::Postgres(..) => false,
        }
    }

    /// Whether a lock could not be had.
    pub fn is_lock_timeout(&self) -> bool {
        self.sqlstate() == "55P03"
    }

    /// The five characters of the SQLSTATE.
    pub fn sqlstate(&self) -> String {
        String::from_utf8_lossy(&self.sqlstate_bytes()).into_owned()
    }

    fn sqlstate_bytes(&self) -> [u8; 5] {
        match self {
            Error::Ours(report) => report.sqlstate,
            Error::Postgres(data, _) => sqlstate_text(unsafe { (**data).sqlerrcode }),
        }
    }

    /// Frees what it holds, for an error that was dealt with.
    pub fn discard(self) {
        if let Error::Postgres(data, _) = self {
            unsafe { pg_sys::FreeErrorData(data) };
        }
    }

    /// The error as Postgres wants it, in palloc'd memory, so that no Rust value is alive when it is raised.
    pub fn into_error_data(self) -> *mut pg_sys::ErrorData {
        match self {
            Error::Postgres(data, _) => data,
            Error::Ours(mut report) => unsafe {
                if let Some(seconds) = report.retry_after
                    && postgrest::is_request()
                {
                    report.give_headers(json!({"Retry-After": seconds.to_string()}));
                }
                let data = pg_sys::palloc0(size_of::<pg_sys::ErrorData>()) as *mut pg_sys::ErrorData;
                (*data).elevel = pgrx::PgLogLevel::ERROR as i32;
                (*data).sqlerrcode = make_sqlstate(&report.sqlstate);
                (*data).message = palloc_text(&report.message);
                if let Some(detail) = &report.detail {
                    (*data).detail = palloc_text(detail);
                }
                if let Some(detail) = &report.detail_log {
                    (*data).detail_log = palloc_text(detail);
                }
                if let Some(hint) = &report.hint {
                    (*data).hint = palloc_text(hint);
                }
                (*data).assoc_context = pg_sys::CurrentMemoryContext;
                data
            },
        }
    }
}

impl Report {
    /// Puts it into the form by which PostgREST gives an answer headers: the body is the message, the rest the detail.
    /// The body is what PostgREST would have made of the error without.
    fn give_headers(&mut self, headers: serde_json::Value) {
        let code = String::from_utf8_lossy(&self.sqlstate).into_owned();
        let status: u16 = code.get(2..).and_then(|digits| digits.parse().ok()).unwrap_or(500);
        let (detail, hint) = (self.detail.take(), self.hint.take());
        self.message = json!({"code": code, "message": self.message, "details": detail, "hint": hint}).to_string();
        self.detail = Some(json!({"status": status, "headers": headers}).to_string());
        self.sqlstate = *b"PGRST";
    }
}

/// A warning with one of Postgres's own SQLSTATEs.
pub fn warning(sqlstate: pgrx::PgSqlErrorCode, message: &str, hint: &str) {
    pgrx::pg_sys::panic::ErrorReport::new(sqlstate, message.to_owned(), "anon_auth")
        .set_hint(hint.to_owned())
        .report(pgrx::PgLogLevel::WARNING);
}

/// `MAKE_SQLSTATE` of Postgres's `elog.h`: five characters, six bits each.
const fn make_sqlstate(state: &[u8; 5]) -> i32 {
    let mut packed = 0;
    let mut i = 0;
    while i < 5 {
        packed |= ((state[i] - b'0') as i32 & 0x3f) << (6 * i);
        i += 1;
    }
    packed
}

fn sqlstate_text(packed: i32) -> [u8; 5] {
    std::array::from_fn(|i| ((packed >> (6 * i)) & 0x3f) as u8 + b'0')
}

unsafe fn text(raw: *const std::ffi::c_char) -> Option<String> {
    (!raw.is_null()).then(|| unsafe { std::ffi::CStr::from_ptr(raw) }.to_string_lossy().into_owned())
}

fn palloc_text(text: &str) -> *mut std::ffi::c_char {
    let text = CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default();
    unsafe { pg_sys::pstrdup(text.as_ptr()) }
}

impl From<anon_auth_core::keys::KeyError> for Error {
    fn from(error: anon_auth_core::keys::KeyError) -> Self {
        invalid(format!("the key cannot be used: {error}"))
    }
}

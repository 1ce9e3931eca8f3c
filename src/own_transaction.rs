//! Writes that a rollback of the caller must not undo.
//!
//! The caller owns the transaction, so whatever a function writes goes when it raises an error or when the
//! caller rolls back. A few things must outlive that: ending a session whose old refresh token came back, and
//! the first signing key. A background worker writes them in a transaction of its own. It is started for one
//! request and needs no preloading, only a free slot in `max_worker_processes`; where none gets free soon, the
//! caller is refused.
//!
//! The worker writes rows that no caller locks (its own, or new ones), and under a `lock_timeout` all the same: a
//! wait for its own caller would be a deadlock that Postgres does not see.

use crate::error::{Result, error};
use crate::{catalog, clock, guc, keys, sessions};
use pgrx::pg_sys;
use std::ffi::{CStr, c_char};
use uuid::Uuid;

/// What the worker can be asked to do.
#[derive(Debug, PartialEq)]
pub enum Request {
    /// Make the keys that are missing.
    CreateKeys,
    /// End a session for good.
    RevokeSession { session: Uuid, user: Uuid },
}

impl Request {
    /// As text, for the 128 bytes that Postgres hands to a worker.
    fn encode(&self) -> String {
        match self {
            Request::CreateKeys => "create_keys".into(),
            Request::RevokeSession { session, user } => format!("revoke_session {session} {user}"),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        match words.next()? {
            "create_keys" => Some(Request::CreateKeys),
            "revoke_session" => Some(Request::RevokeSession {
                session: words.next()?.parse().ok()?,
                user: words.next()?.parse().ok()?,
            }),
            _ => None,
        }
    }

    fn carry_out(self) -> Result<()> {
        match self {
            Request::CreateKeys => keys::create_missing(),
            Request::RevokeSession { session, user } => sessions::revoke(session, user),
        }
    }
}

/// How long to wait for a free slot, in milliseconds, and how often to look.
const PATIENCE: i64 = 2000;
const PAUSE: i64 = 20;

/// Has the worker carry out `request`, and returns when it is done.
///
/// # Arguments
/// * `is_done` – whether what was asked is there, by what is committed now. It is the worker's verdict: a look
///   with the latest snapshot sees it under every isolation level. Another session's worker may have been
///   faster.
///
/// # Errors
/// `worker_unavailable` where no worker could be started, or it failed (the server's log tells why).
pub fn run(request: Request, is_done: impl Fn() -> bool) -> Result<()> {
    let unavailable = || {
        error(503, "worker_unavailable", "no background worker could store what has to outlast this transaction")
            .hint("Try again. If it happens often, raise max_worker_processes, or see the server's log.")
    };
    for _ in 0..PATIENCE / PAUSE {
        match start(&request) {
            Some(handle) => {
                let status = unsafe { pg_sys::WaitForBackgroundWorkerShutdown(handle) };
                unsafe { pg_sys::pfree(handle.cast()) };
                return match status == pg_sys::BgwHandleStatus::BGWH_STOPPED && is_done() {
                    true => Ok(()),
                    false => Err(unavailable()),
                };
            }
            None => clock::pause(PAUSE),
        }
        if is_done() {
            return Ok(());
        }
    }
    Err(unavailable())
}

/// Starts the worker; `None` where no slot is free.
fn start(request: &Request) -> Option<*mut pg_sys::BackgroundWorkerHandle> {
    unsafe {
        let mut worker = pg_sys::BackgroundWorker::default();
        copy(&mut worker.bgw_name, "anon_auth worker");
        copy(&mut worker.bgw_type, "anon_auth worker");
        copy(&mut worker.bgw_library_name, "anon_auth");
        copy(&mut worker.bgw_function_name, "anon_auth_worker_main");
        copy(&mut worker.bgw_extra, &request.encode());
        worker.bgw_flags = (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as i32;
        worker.bgw_start_time = pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished;
        worker.bgw_restart_time = pg_sys::BGW_NEVER_RESTART;
        worker.bgw_main_arg = pg_sys::Datum::from(pg_sys::MyDatabaseId);
        worker.bgw_notify_pid = pg_sys::MyProcPid;
        let mut handle = std::ptr::null_mut();
        pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle).then_some(handle)
    }
}

fn copy(field: &mut [c_char], text: &str) {
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = from as c_char;
    }
}

/// Where the worker's process starts.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn anon_auth_worker_main(database: pg_sys::Datum) {
    unsafe {
        crate::compat::end_on_sigterm();
        pg_sys::BackgroundWorkerUnblockSignals();
        // As the bootstrap superuser: before Postgres 17 a worker cannot connect as a role without LOGIN.
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            pg_sys::Oid::from(database.value() as u32),
            pg_sys::InvalidOid,
            0,
        );
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        for (name, value) in [(c"search_path", c"pg_catalog, pg_temp"), (c"lock_timeout", c"2s")] {
            guc::set(name, value, pg_sys::GucContext::PGC_SUSET, pg_sys::GucAction::GUC_ACTION_SET);
        }

        let request = CStr::from_ptr((*pg_sys::MyBgworkerEntry).bgw_extra.as_ptr()).to_str().ok();
        if let (Some(request), Some(relations)) = (request.and_then(Request::decode), catalog::relations()) {
            // From here on with the rights of the tables' owner only.
            let owner = catalog::owner(relations.users).unwrap_or(pg_sys::InvalidOid);
            pg_sys::SetUserIdAndSecContext(owner, pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
            if let Err(error) = request.carry_out() {
                pgrx::error!("{}", error.message());
            }
        }
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
    }
}

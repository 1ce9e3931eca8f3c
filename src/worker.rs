//! The background worker that carries out requests in transactions of its own: one for a database, started when a
//! caller needs it and ending when nobody has for a while. It needs no preloading, only a free slot in
//! `max_worker_processes`.
//!
//! What has come in meanwhile goes into one transaction, so that a crowd of callers waits for one commit. Where
//! that fails, each request gets its own, and only those that fail again are not done.

use crate::catalog::{self, LatestSnapshot};
use crate::error::{Error, Result, error};
use crate::mailbox::Mailbox;
use crate::own_transaction::{Request, Verdict};
use crate::spi::{self, Statement};
use crate::{clock, guc, guesses};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use std::cell::Cell;
use std::ffi::c_char;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

/// Callers and workers of different builds do not talk to each other.
const LIBRARY: &str = env!("CARGO_PKG_VERSION");

/// How long the worker stays without anything to do, and how often it looks after itself.
const STAYS: Duration = Duration::from_secs(30);
const ROUND: Duration = Duration::from_secs(1);

thread_local! {
    /// The mailbox that this process has mapped.
    static MAILBOX: Cell<Option<Mailbox>> = const { Cell::new(None) };
}

/// The running worker's mailbox, if there is one.
pub fn mailbox() -> Option<Mailbox> {
    if let Some(mailbox) = MAILBOX.get() {
        if !mailbox.is_closed() {
            return Some(mailbox);
        }
        MAILBOX.set(None);
        mailbox.detach();
    }
    let relations = catalog::relations()?;
    let mut segment: Option<i64> = None;
    LatestSnapshot::take().all(relations.workers, |row| {
        if row.get::<String>(c"library").as_deref() == Some(LIBRARY) {
            segment = row.get(c"segment");
        }
    });
    let mailbox = Mailbox::attach(segment?.try_into().ok()?);
    MAILBOX.set(mailbox);
    mailbox
}

/// Waits until this process is woken, or for `time`. Raises an error where the statement is cancelled.
pub fn pause(time: Duration) {
    let wake = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, wake as i32, time.as_millis() as _, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
        pgrx::check_for_interrupts!();
    }
}

/// Starts a worker and waits until it can be reached or the deadline has come. Where that fails, or somebody else
/// does it at this moment, waits a little.
pub fn start(deadline: Instant) {
    const PAUSE: Duration = Duration::from_millis(10);
    const LONGER: Duration = Duration::from_millis(250);
    // A crowd must not use up every slot for workers that find out they are one too many.
    let Some(lock) = Lock::take(Part::Start) else { return pause(PAUSE) };
    // Another one may have been started before the lock was free.
    if mailbox().is_none() {
        match register() {
            Some(worker) => {
                while Instant::now() < deadline && mailbox().is_none() {
                    if has_stopped(worker) {
                        // One that is about to end was still there, or the server's log tells why.
                        pause(LONGER);
                        break;
                    }
                    pause(PAUSE);
                }
                unsafe { pg_sys::pfree(worker.cast()) };
            }
            None => pause(LONGER),
        }
    }
    lock.release();
}

fn register() -> Option<*mut pg_sys::BackgroundWorkerHandle> {
    unsafe {
        let mut worker = pg_sys::BackgroundWorker::default();
        copy(&mut worker.bgw_name, "anon_auth worker");
        copy(&mut worker.bgw_type, "anon_auth worker");
        copy(&mut worker.bgw_library_name, "anon_auth");
        copy(&mut worker.bgw_function_name, "anon_auth_worker_main");
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

fn has_stopped(worker: *mut pg_sys::BackgroundWorkerHandle) -> bool {
    let mut pid = 0;
    unsafe { pg_sys::GetBackgroundWorkerPid(worker, &mut pid) == pg_sys::BgwHandleStatus::BGWH_STOPPED }
}

/// What a lock is about.
#[derive(Clone, Copy)]
enum Part {
    /// Being the worker; until the process ends.
    Worker = 1,
    /// Starting one; to the end of the transaction at the latest.
    Start = 2,
}

/// A lock of Postgres's, of a type that no SQL can take.
struct Lock(pg_sys::LOCKTAG);

impl Lock {
    /// `None` where somebody else has it.
    fn take(part: Part) -> Option<Self> {
        let tag = pg_sys::LOCKTAG {
            locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
            locktag_field2: catalog::relations()?.workers.to_u32(),
            locktag_field3: checksum(LIBRARY),
            locktag_field4: part as u16,
            locktag_type: pg_sys::LockTagType::LOCKTAG_USERLOCK as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        };
        lock(&tag, pg_sys::ExclusiveLock, matches!(part, Part::Worker)).then_some(Self(tag))
    }

    fn release(self) {
        unsafe { pg_sys::LockRelease(&self.0, pg_sys::ExclusiveLock as _, false) };
    }
}

fn lock(tag: &pg_sys::LOCKTAG, mode: u32, for_session: bool) -> bool {
    unsafe {
        pg_sys::LockAcquire(tag, mode as _, for_session, true) != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }
}

/// FNV-1a, to put a version into a number.
const fn checksum(text: &str) -> u32 {
    let (bytes, mut sum, mut i) = (text.as_bytes(), 0x811c_9dc5_u32, 0);
    while i < bytes.len() {
        sum = (sum ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    sum
}

/// Where the worker's process starts.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn anon_auth_worker_main(database: pg_sys::Datum) {
    let started_at = clock::now();
    unsafe {
        crate::compat::handle_signals();
        pg_sys::BackgroundWorkerUnblockSignals();
        // As the bootstrap superuser: before Postgres 17 a worker cannot connect as a role without LOGIN.
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            pg_sys::Oid::from(database.value() as u32),
            pg_sys::InvalidOid,
            0,
        );
        // Whatever the database says.
        for (name, value) in [
            (c"search_path", c"pg_catalog, pg_temp"),
            (c"lock_timeout", c"1s"),
            (c"default_transaction_isolation", c"read committed"),
            (c"default_transaction_read_only", c"off"),
        ] {
            guc::set(name, value, pg_sys::GucContext::PGC_SUSET, pg_sys::GucAction::GUC_ACTION_SET);
        }
        // What was answered must survive a crash.
        if pg_sys::synchronous_commit == pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_OFF as i32 {
            let (context, action) = (pg_sys::GucContext::PGC_SUSET, pg_sys::GucAction::GUC_ACTION_SET);
            guc::set(c"synchronous_commit", c"local", context, action);
        }
    }
    match transaction(|| open(started_at)) {
        Ok(Some(mailbox)) => Worker { mailbox, started_at }.work(),
        // Another one is there.
        Ok(None) => (),
        Err(message) => report(&message),
    }
}

/// Makes a mailbox and tells where it is.
fn open(started_at: i64) -> Result<Option<Mailbox>> {
    static PUBLISH: Statement = Statement::new(
        c"insert into auth.workers (library, segment, started_at) values ($1, $2, $3)
          on conflict (library) do update set segment = excluded.segment, started_at = excluded.started_at",
        &[pg_sys::TEXTOID, pg_sys::INT8OID, pg_sys::TIMESTAMPTZOID],
    );
    if Lock::take(Part::Worker).is_none() {
        return Ok(None);
    }
    let mailbox = Mailbox::create();
    PUBLISH.run(&[spi::value(LIBRARY), spi::value(i64::from(mailbox.handle())), spi::timestamp(started_at)])?;
    Ok(Some(mailbox))
}

struct Worker {
    mailbox: Mailbox,
    started_at: i64,
}

impl Worker {
    fn work(&self) {
        let mut last_served = Instant::now();
        let mut last_round = Instant::now();
        let mut has_served = false;
        while last_served.elapsed() < STAYS {
            let letters = self.mailbox.take();
            if !letters.is_empty() {
                if !self.serve(&letters) {
                    break;
                }
                (last_served, has_served) = (Instant::now(), true);
            }
            if last_round.elapsed() >= ROUND {
                if is_database_wanted() {
                    break;
                }
                if has_served {
                    has_served = look_after_tables();
                    if has_served {
                        last_served = Instant::now();
                    }
                }
                last_round = Instant::now();
            }
            if letters.is_empty() {
                pause(ROUND);
            } else {
                pgrx::check_for_interrupts!();
            }
            reload_configuration();
        }
        // Whoever posts from now on, or waits, looks for another worker.
        self.mailbox.close();
    }

    /// Carries out requests and answers them. False where another worker has to do the rest.
    fn serve(&self, letters: &[(usize, Request)]) -> bool {
        let carry_out = |requests: &[(usize, Request)]| -> Result<Vec<Option<Verdict>>> {
            requests.iter().map(|(_, request)| request.carry_out(self.started_at)).collect()
        };
        let mut is_all = true;
        let mut answer = |letters: &[(usize, Request)], verdicts: Vec<Option<Verdict>>| {
            for ((slot, _), verdict) in letters.iter().zip(verdicts) {
                match verdict {
                    Some(_) => self.mailbox.answer(*slot, verdict),
                    None => is_all = false,
                }
            }
        };
        match transaction(|| carry_out(letters)) {
            Ok(verdicts) => answer(letters, verdicts),
            Err(_) if letters.len() > 1 => {
                for letter in letters.chunks(1) {
                    match transaction(|| carry_out(letter)) {
                        Ok(verdicts) => answer(letter, verdicts),
                        Err(message) => {
                            report(&message);
                            self.mailbox.answer(letter[0].0, None);
                        }
                    }
                }
            }
            Err(message) => {
                report(&message);
                self.mailbox.answer(letters[0].0, None);
            }
        }
        is_all
    }
}

/// Whether somebody wants to drop, rename or copy the database, and waits for it to have no sessions.
fn is_database_wanted() -> bool {
    let tag = pg_sys::LOCKTAG {
        locktag_field1: 0,
        locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
        locktag_field3: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    let is_free = lock(&tag, pg_sys::RowExclusiveLock, true);
    if is_free {
        unsafe { pg_sys::LockRelease(&tag, pg_sys::RowExclusiveLock as _, true) };
    }
    !is_free
}

/// Returns whether there is more to do.
fn look_after_tables() -> bool {
    let is_more = transaction(guesses::forget_expired).unwrap_or_else(|message| {
        report(&message);
        false
    });
    // So that autovacuum hears of what was written.
    unsafe { pg_sys::pgstat_report_stat(true) };
    is_more
}

fn reload_configuration() {
    unsafe {
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// Runs `body` in a transaction, with the rights of the tables' owner only. Where it fails, everything that it
/// wrote is gone, and the message says why.
fn transaction<T>(body: impl FnOnce() -> Result<T>) -> std::result::Result<T, String> {
    let outcome = pgrx::PgTryBuilder::new(AssertUnwindSafe(|| unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, std::ptr::null());
        let (mut user, mut security) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut security);
        let owner = catalog::relations().and_then(|relations| catalog::owner(relations.users)).ok_or_else(missing);
        let outcome = owner.and_then(|owner| {
            pg_sys::SetUserIdAndSecContext(owner, pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
            body()
        });
        let result = outcome.map_err(|error| error.message())?;
        pg_sys::PopActiveSnapshot();
        // Still as the owner: triggers may have been deferred.
        pg_sys::CommitTransactionCommand();
        pg_sys::SetUserIdAndSecContext(user, security);
        Ok(result)
    }))
    .catch_others(|caught| {
        Err(match caught {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report.message().to_owned(),
            CaughtError::RustPanic { ereport, .. } => ereport.message().to_owned(),
        })
    })
    .execute();
    unsafe {
        if outcome.is_err() {
            pg_sys::AbortCurrentTransaction();
        }
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null());
    }
    outcome
}

fn missing() -> Error {
    error(500, "internal_error", "the extension's tables are missing")
}

fn report(message: &str) {
    pgrx::log!("anon_auth worker: {message}");
}

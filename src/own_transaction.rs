//! Writes that a rollback of the caller must not undo.
//!
//! The caller owns the transaction, so whatever a function writes goes when it raises an error or when the
//! caller rolls back. A few things must outlive that: counting a guess before it is judged, ending a session whose
//! old refresh token came back, and the first signing key. A background worker (`worker.rs`), one for a database,
//! writes them in transactions of its own and answers with its verdict. The caller does not look for itself: under
//! REPEATABLE READ it would see what was there before.
//!
//! The worker writes rows that no caller locks (its own, or new ones), and under a `lock_timeout` all the same: a
//! wait for its own caller would be a deadlock that Postgres does not see.

use crate::clock;
use crate::error::{Error, Result, error};
use crate::guesses::Guess;
use crate::mailbox::Letter;
use crate::{keys, sessions, shared_memory, worker};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// What the worker can be asked to do. It is copied through shared memory, so it owns nothing.
#[derive(Clone, Copy, Debug)]
pub enum Request {
    /// Make the keys that are missing.
    CreateKeys {
        /// When that was asked for.
        asked_at: i64,
    },
    /// End a session for good.
    RevokeSession { session: Uuid, user: Uuid },
    /// Count a guess.
    CountGuess(Guess),
    /// Take back the count of a guess that was right.
    UncountGuess(Guess),
}

/// What the worker answers, once it is committed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It is done.
    Done,
    /// It must not be, before a point in time (in microseconds since Postgres's epoch).
    Refused { until: i64 },
}

impl Request {
    /// Carries it out, in the worker.
    ///
    /// # Arguments
    /// * `started_at` – when the worker started
    ///
    /// `None` where a worker that was started later has to do it.
    pub fn carry_out(&self, started_at: i64) -> Result<Option<Verdict>> {
        match self {
            // Whether keys are sealed, and with what, may be a setting of the database, which a session gets when
            // it starts.
            Request::CreateKeys { asked_at } if *asked_at > started_at => {
                return Ok(keys::are_there().then_some(Verdict::Done));
            }
            Request::CreateKeys { .. } => keys::create_missing()?,
            Request::RevokeSession { session, user } => sessions::revoke(*session, *user)?,
            Request::CountGuess(guess) => return guess.count().map(Some),
            Request::UncountGuess(guess) => guess.uncount()?,
        }
        Ok(Some(Verdict::Done))
    }

    /// The request to make the keys that are missing.
    pub fn create_keys() -> Self {
        Request::CreateKeys { asked_at: clock::now() }
    }
}

/// How long a caller waits at the longest, and how often it looks again.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// Has the worker carry out `request`, and returns its verdict when that is committed.
///
/// # Errors
/// `worker_unavailable` where no worker could be started, or it failed (the server's log tells why). It may have
/// been done all the same.
pub fn run(request: Request) -> Result<Verdict> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match worker::mailbox() {
            Some(mailbox) => match mailbox.post(request) {
                Some(letter) => match wait_for_answer(&letter, deadline) {
                    Answer::Verdict(verdict) => return Ok(verdict),
                    Answer::Failure => break,
                    // The worker is gone; another one may have to do it again.
                    Answer::Lost => continue,
                },
                None => worker::pause(PAUSE),
            },
            None => worker::start(deadline),
        }
    }
    Err(unavailable())
}

enum Answer {
    Verdict(Verdict),
    Failure,
    Lost,
}

fn wait_for_answer(letter: &Letter, deadline: Instant) -> Answer {
    while Instant::now() < deadline {
        // First: what was answered before the worker went is an answer.
        let is_lost = letter.mailbox().is_closed();
        match letter.answer() {
            Some(Some(verdict)) => return Answer::Verdict(verdict),
            Some(None) => return Answer::Failure,
            None if is_lost => return Answer::Lost,
            None => worker::pause(Duration::from_millis(100)),
        }
    }
    Answer::Failure
}

/// Leaves `request` with the worker, if one is there and not too busy, and does not wait.
pub fn tell(request: Request) {
    if let Some(mailbox) = worker::mailbox() {
        mailbox.drop_in(request);
    }
}

fn unavailable() -> Error {
    shared_memory::get().refused_writes.note();
    error(503, "worker_unavailable", "no background worker could store what has to outlast this transaction")
        .hint("Try again. If it happens often, raise max_worker_processes, or see the server's log.")
}

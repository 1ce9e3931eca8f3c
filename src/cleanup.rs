//! Clean-up: expired guests, sessions, one-time tokens, messages and challenges go, one batch at a time.

use crate::as_owner;
use crate::challenges;
use crate::clock;
use crate::delivery;
use crate::error::{Error, Result, error, invalid};
use crate::expired_guests;
use crate::function::{Args, writes};
use crate::jsonb::Jsonb;
use crate::lazy_guests;
use crate::settings::{self, Settings};
use crate::spi::{self, Statement};
use crate::{catalog, sql_function, stats};
use pgrx::pg_sys;
use serde_json::json;
use std::collections::BTreeMap;
use uuid::Uuid;

/// What one batch did.
#[derive(Default)]
pub struct Outcome {
    pub deleted: u64,
    pub spared: u64,
    pub blocked: u64,
    /// Guests by table, what of it kept them, and whether they were spared or blocked; for an error also what it
    /// said the first time.
    by_table: BTreeMap<(String, Reason, &'static str), (u64, String)>,
    pub sessions: u64,
    one_time_tokens: u64,
    audit_log_entries: u64,
    messages: u64,
    challenges: u64,
    /// Guests that it had to leave for the first time.
    pub newly_left: u64,
    /// Guests that it found, for the first time, to have a device key or a code.
    pub set_aside: u64,
    /// Where to go on with the guests that had to be left before.
    pub recheck_after: Option<Uuid>,
    pub more: bool,
}

/// What keeps a guest: a constraint, by name, or an error, by SQLSTATE.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    Constraint(String),
    Error(String),
}

/// Characters of an error's message that are kept: it is an application's, and may be of any length.
const MESSAGE_LENGTH: usize = 200;

impl Outcome {
    fn to_json(&self) -> serde_json::Value {
        let by_table: Vec<_> = self
            .by_table
            .iter()
            .map(|((table, reason, what), (guests, message))| match reason {
                Reason::Constraint(name) => json!({"table": table, "constraint": name, *what: guests}),
                Reason::Error(sqlstate) => {
                    json!({"table": table, "error": message, "sqlstate": sqlstate, *what: guests})
                }
            })
            .collect();
        json!({
            "deleted": self.deleted,
            "spared": self.spared,
            "blocked": self.blocked,
            "by_table": by_table,
            "sessions": self.sessions,
            "one_time_tokens": self.one_time_tokens,
            "audit_log_entries": self.audit_log_entries,
            "messages": self.messages,
            "challenges": self.challenges,
            "recheck_after": self.recheck_after.map(|id| id.to_string()),
            "more": self.more,
        })
    }

    /// Whether it is worth an entry in the audit log: not if it found, again, what it found before.
    fn is_news(&self) -> bool {
        self.deleted + self.newly_left + self.sessions + self.one_time_tokens > 0
    }

    /// Notes guests whom rows of a table keep.
    pub fn keep(&mut self, table: &str, reason: Reason, message: &str, is_spared: bool, guests: usize) {
        if guests == 0 {
            return;
        }
        let guests = guests as u64;
        *(if is_spared { &mut self.spared } else { &mut self.blocked }) += guests;
        let what = if is_spared { "spared" } else { "blocked" };
        let message: String = message.lines().next().unwrap_or_default().chars().take(MESSAGE_LENGTH).collect();
        self.by_table.entry((table.into(), reason, what)).or_insert((0, message)).0 += guests;
    }

    /// Adds what a part of the batch did.
    pub fn add(&mut self, part: Outcome) {
        self.deleted += part.deleted;
        self.spared += part.spared;
        self.blocked += part.blocked;
        self.newly_left += part.newly_left;
        self.set_aside += part.set_aside;
        for (key, (guests, message)) in part.by_table {
            self.by_table.entry(key).or_insert((0, message)).0 += guests;
        }
    }
}

/// A day, in microseconds: activity is noted by day.
const DAY: i64 = 86_400_000_000;

/// The limits at the moment a batch starts, in microseconds since Postgres's epoch.
pub struct Limits {
    pub now: i64,
    pub created_by: i64,
    /// Day.
    pub idle_since: i32,
    /// Day. The search starts at `idle_since`; a guest whose session is over sooner than others' is found by that.
    pub inactive_since: i32,
    pub unreachable_only: bool,
    /// Sessions refreshed at or before this have ended.
    pub session_refreshed_by: i64,
    /// Sessions created at or before this have ended.
    pub session_created_by: i64,
    /// Sessions whose own end is at or before this go, and their guests if they are expired.
    pub session_ended_by: i64,
}

impl Limits {
    pub fn new(settings: &Settings) -> Self {
        let now = clock::now();
        // Nobody is out of reach before the sessions are: that much idleness is needed in any case, and it
        // keeps the index scan to guests who have it.
        let reachable_for = if settings.cleanup_unreachable_only { settings.session_idle_timeout } else { 0 };
        let shortest = match settings.session_lifetime {
            0 => reachable_for,
            lifetime => reachable_for.min(lifetime),
        };
        // What tells of a guest that has nothing left sooner than others stays until that guest can go.
        let is_sooner = settings.cleanup_inactivity < shortest;
        let kept_for = if is_sooner { settings.cleanup_age.max(settings.cleanup_inactivity + DAY) } else { 0 };
        Self {
            now,
            created_by: now - settings.cleanup_age,
            idle_since: clock::day(now - settings.cleanup_inactivity.max(shortest)),
            inactive_since: clock::day(now - settings.cleanup_inactivity),
            unreachable_only: settings.cleanup_unreachable_only,
            session_ended_by: now - kept_for,
            session_refreshed_by: now - settings.session_idle_timeout,
            session_created_by: match settings.session_lifetime {
                // -infinity
                0 => i64::MIN,
                lifetime => now - lifetime,
            },
        }
    }
}

fn cleanup_expired_users(args: &Args) -> Result<Jsonb> {
    let batch: i64 = match args.get::<i32>(0) {
        None => i64::MAX,
        Some(size) if size > 0 => size.into(),
        Some(size) => return Err(invalid(format!("the batch size {size} is not a positive number"))),
    };
    let dry_run = args.get::<bool>(1).unwrap_or(false);
    let recheck_after = args.get::<pgrx::Uuid>(2).map_or(Uuid::nil(), |id| Uuid::from_bytes(*id.as_bytes()));
    writes(c"auth.cleanup_expired_users()");

    let settings = settings::current()?;
    if !dry_run {
        let outcome = clean_up(batch, recheck_after, &settings)?;
        keep_records(&outcome)?;
        if outcome.is_news() {
            crate::audit::record("cleanup", None, outcome.to_json())?;
        }
        return Ok(Jsonb(outcome.to_json()));
    }
    // The real thing, rolled back: no estimate could know what triggers and constraints will do.
    let mut outcome = None;
    let rolled_back: std::result::Result<(), Error> = spi::subtransaction(|| {
        outcome = Some(clean_up(batch, recheck_after, &settings)?);
        Err(error(500, "dry_run", "rolled back"))
    })?;
    match (outcome, rolled_back) {
        (Some(outcome), Err(error)) => {
            error.discard();
            Ok(Jsonb(outcome.to_json()))
        }
        (_, Err(error)) => Err(error),
        (_, Ok(())) => Err(error(500, "internal_error", "the dry run was not rolled back")),
    }
}
sql_function!(anon_auth_cleanup_expired_users, cleanup_expired_users);

/// Notes for `auth.stats` and `auth.health` what was done, and when.
fn keep_records(outcome: &Outcome) -> Result<()> {
    /// How often, in microseconds: a batch that has nothing else to do is to cost nothing.
    const INTERVAL: i64 = 60_000_000;
    static IS_RECENT: Statement =
        Statement::new(c"select from auth.cleanup_runs where finished_at > $1", &[pg_sys::TIMESTAMPTZOID]);
    static NOTE_RUN: Statement = Statement::new(
        c"insert into auth.cleanup_runs (finished_at) values ($1)
          on conflict (is_last) do update set finished_at = excluded.finished_at",
        &[pg_sys::TIMESTAMPTZOID],
    );
    if outcome.deleted > 0 {
        stats::note_ended(outcome.deleted as i64, 0, outcome.deleted as i64)?;
    }
    let now = clock::now();
    // With an old snapshot days would be added up without what has happened since; and two at once would wait for
    // each other. The next run does it.
    let sees_all = unsafe { pg_sys::XactIsoLevel } < pg_sys::XACT_REPEATABLE_READ as i32;
    if sees_all && IS_RECENT.run(&[spi::timestamp(now - INTERVAL)])? == 0 && catalog::lock_if_free("daily_stats") {
        stats::close_days(now)?;
        NOTE_RUN.run(&[spi::timestamp(now)])?;
    }
    Ok(())
}

fn clean_up(batch: i64, recheck_after: Uuid, settings: &Settings) -> Result<Outcome> {
    // Before the first code of an application's, and where no rollback of a part can undo it.
    as_owner::settle_constraints()?;
    let limits = Limits::new(settings);
    let mut outcome = Outcome::default();
    expired_guests::clean_up(&limits, settings, batch, recheck_after, &mut outcome)?;
    if outcome.deleted == batch as u64 {
        // Their sessions and codes went with them; the others can wait until there are no more guests.
        return Ok(outcome);
    }
    outcome.sessions += delete_sessions(&limits, batch)?;
    outcome.one_time_tokens = delete_one_time_tokens(&limits, batch)?;
    outcome.audit_log_entries = delete_audit_log_entries(limits.now - settings.audit_log_retention, batch)?;
    outcome.messages = delivery::clean_up(limits.now, limits.now - settings.message_retention, batch)?;
    outcome.challenges = challenges::clean_up(limits.now, batch)?;
    let parts =
        [outcome.sessions, outcome.one_time_tokens, outcome.audit_log_entries, outcome.messages, outcome.challenges];
    outcome.more |= parts.contains(&(batch as u64));
    outcome.more |= lazy_guests::clean_up(limits.now, batch)? == batch as u64;
    Ok(outcome)
}

// What expires is found by an index, which only a plan that knows the limits is sure to use, and deleted where it
// was found and locked, without another look-up.

fn delete_sessions(limits: &Limits, batch: i64) -> Result<u64> {
    static EXPIRED: Statement = Statement::planned_for_values(
        c"delete from auth.sessions where ctid = any (array(
              select ctid from auth.sessions where active_on <= $1 and refreshed_at <= $2
              order by active_on limit $3 for update skip locked))",
        &[pg_sys::DATEOID, pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID],
    );
    // Ids grow with time, so the primary key finds the old ones.
    static OLD: Statement = Statement::planned_for_values(
        c"delete from auth.sessions where ctid = any (array(
              select ctid from auth.sessions where id < $1 and created_at <= $2
              order by id limit $3 for update skip locked))",
        &[pg_sys::UUIDOID, pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID],
    );
    static REVOKED: Statement = Statement::planned_for_values(
        c"delete from auth.sessions where ctid = any (array(
              select s.ctid from auth.session_revocations r join auth.sessions s on s.id = r.session_id
              limit $1 for update of s skip locked))",
        &[pg_sys::INT8OID],
    );
    // Not at once: the session may be of a transaction that is not committed yet, or of a lazy guest that is not stored
    // and whose tokens are good as long as a session.
    static REVOCATIONS: Statement = Statement::new(
        c"delete from auth.session_revocations r
          where r.revoked_at < $1 - interval '1 day'
            and not exists (select from auth.sessions s where s.id = r.session_id offset 0)",
        &[pg_sys::TIMESTAMPTZOID],
    );
    let expired = EXPIRED.run(&[
        Some(pg_sys::Datum::from(clock::day(limits.session_refreshed_by))),
        spi::timestamp(limits.session_refreshed_by),
        spi::value(batch),
    ])?;
    let old = match limits.session_created_by {
        i64::MIN => 0,
        time => {
            OLD.run(&[spi::uuid(clock::first_id(time)), spi::timestamp(time), spi::value(batch - expired as i64)])?
        }
    };
    let revoked = REVOKED.run(&[spi::value(batch - (expired + old) as i64)])?;
    REVOCATIONS.run(&[spi::timestamp(limits.session_refreshed_by)])?;
    Ok(expired + old + revoked)
}

fn delete_one_time_tokens(limits: &Limits, batch: i64) -> Result<u64> {
    static EXPIRED: Statement = Statement::planned_for_values(
        c"delete from auth.one_time_tokens where ctid = any (array(
              select ctid from auth.one_time_tokens where expires_at <= $1
              order by expires_at limit $2 for update skip locked))",
        &[pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID],
    );
    EXPIRED.run(&[spi::timestamp(limits.now), spi::value(batch)])
}

fn delete_audit_log_entries(before: i64, batch: i64) -> Result<u64> {
    static OLD: Statement = Statement::planned_for_values(
        c"delete from auth.audit_log_entries where ctid = any (array(
              select ctid from auth.audit_log_entries where created_at < $1
              order by created_at limit $2 for update skip locked))",
        &[pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID],
    );
    OLD.run(&[spi::timestamp(before), spi::value(batch)])
}

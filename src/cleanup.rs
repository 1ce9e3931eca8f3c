//! Clean-up: expired guests, sessions and one-time tokens go, one batch at a time.

use crate::as_owner;
use crate::clock;
use crate::deletion;
use crate::error::{Error, Result, error, invalid};
use crate::foreign_keys;
use crate::function::{Args, writes};
use crate::settings::{self, Settings};
use crate::spi::{self, Statement, Value};
use crate::sql_function;
use pgrx::{JsonB, pg_sys};
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
use uuid::Uuid;

/// What one batch did.
#[derive(Default)]
struct Outcome {
    deleted: u64,
    spared: u64,
    blocked: u64,
    /// Guests by table, what of it kept them, and whether they were spared or blocked.
    by_table: BTreeMap<(String, Reason, &'static str), u64>,
    sessions: u64,
    one_time_tokens: u64,
    audit_log_entries: u64,
    /// Guests that it had to leave for the first time.
    newly_left: u64,
    /// Where to go on with the guests that had to be left before.
    recheck_after: Option<Uuid>,
    more: bool,
}

/// What keeps a guest.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    Constraint(String),
    Error(String),
}

impl Outcome {
    fn to_json(&self) -> serde_json::Value {
        let by_table: Vec<_> = self
            .by_table
            .iter()
            .map(|((table, reason, what), guests)| match reason {
                Reason::Constraint(name) => json!({"table": table, "constraint": name, *what: guests}),
                Reason::Error(message) => json!({"table": table, "error": message, *what: guests}),
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
            "recheck_after": self.recheck_after.map(|id| id.to_string()),
            "more": self.more,
        })
    }

    /// Whether it is worth an entry in the audit log: not if it found, again, what it found before.
    fn is_news(&self) -> bool {
        self.deleted + self.newly_left + self.sessions + self.one_time_tokens > 0
    }

    fn count(&mut self, table: &str, reason: Reason, what: &'static str, guests: u64) {
        if guests > 0 {
            *self.by_table.entry((table.into(), reason, what)).or_default() += guests;
        }
    }
}

/// The limits at the moment a batch starts, in microseconds since Postgres's epoch.
struct Limits {
    now: i64,
    created_by: i64,
    /// Day.
    idle_since: i32,
    unreachable_only: bool,
    /// Sessions refreshed at or before this have ended.
    session_refreshed_by: i64,
    /// Sessions created at or before this have ended.
    session_created_by: i64,
}

impl Limits {
    fn new(settings: &Settings) -> Self {
        let now = clock::now();
        // Nobody is out of reach before the sessions are: that much idleness is needed in any case, and it
        // keeps the index scan to guests who have it.
        let reachable_for = if settings.cleanup_unreachable_only { settings.session_idle_timeout } else { 0 };
        let shortest = match settings.session_lifetime {
            0 => reachable_for,
            lifetime => reachable_for.min(lifetime),
        };
        Self {
            now,
            created_by: now - settings.cleanup_age,
            idle_since: clock::day(now - settings.cleanup_inactivity.max(shortest)),
            unreachable_only: settings.cleanup_unreachable_only,
            session_refreshed_by: now - settings.session_idle_timeout,
            session_created_by: match settings.session_lifetime {
                // -infinity
                0 => i64::MIN,
                lifetime => now - lifetime,
            },
        }
    }
}

fn cleanup_expired_users(args: &Args) -> Result<JsonB> {
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
        if outcome.is_news() {
            crate::audit::record("cleanup", None, outcome.to_json())?;
        }
        return Ok(JsonB(outcome.to_json()));
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
            Ok(JsonB(outcome.to_json()))
        }
        (_, Err(error)) => Err(error),
        (_, Ok(())) => Err(error(500, "internal_error", "the dry run was not rolled back")),
    }
}
sql_function!(anon_auth_cleanup_expired_users, cleanup_expired_users);

fn clean_up(batch: i64, recheck_after: Uuid, settings: &Settings) -> Result<Outcome> {
    // Before the first code of an application's, and where no rollback of a part can undo it.
    as_owner::settle_constraints()?;
    let limits = Limits::new(settings);
    let mut outcome = Outcome::default();
    let mut guests = new_candidates(&limits, batch)?;
    let rest = batch - guests.len() as i64;
    if rest > 0 {
        let left_before = left_before(&limits, recheck_after, rest)?;
        if left_before.len() as i64 == rest {
            outcome.more = true;
            outcome.recheck_after = left_before.last().copied();
        }
        // Most are still kept, and cost no lock and no write.
        let mut kept = HashSet::new();
        find_kept(&left_before, settings, &mut kept, &mut outcome)?;
        let freed: Vec<Uuid> = left_before.into_iter().filter(|guest| !kept.contains(guest)).collect();
        if !freed.is_empty() {
            guests.extend(freed_candidates(&limits, &freed)?);
        }
    }
    let guests = without_live_sessions(guests, &limits)?;
    if !guests.is_empty() {
        delete_or_leave(guests, settings, &mut outcome)?;
    }
    // A full batch that did nothing (others hold the guests' sessions) would be found again at once.
    outcome.more |= rest == 0 && outcome.deleted + outcome.newly_left > 0;
    outcome.sessions = delete_sessions(&limits, batch)?;
    outcome.one_time_tokens = delete_one_time_tokens(&limits, batch)?;
    outcome.audit_log_entries = delete_audit_log_entries(limits.now - settings.audit_log_retention, batch)?;
    outcome.more |= [outcome.sessions, outcome.one_time_tokens, outcome.audit_log_entries].contains(&(batch as u64));
    Ok(outcome)
}

/// What the two look-ups of candidates share.
///
/// Rows that somebody holds (a refresh, a promotion, an uncommitted row of an application that references the
/// guest) are passed over, not waited for. OFFSET 0 keeps the planner from reading all sessions into a hash table.
macro_rules! candidates {
    ($which:literal, $order:literal) => {
        concat!(
            "select u.id from auth.users u
             where u.is_anonymous and ",
            $which,
            "  and coalesce(u.last_active_on, (u.created_at at time zone 'UTC')::date) <= $1 and u.created_at <= $2
               and (not $3 or not (
                   exists (select from auth.sessions s
                           where s.user_id = u.id and s.refreshed_at > $4 and s.created_at > $5
                             and not exists (select from auth.session_revocations r where r.session_id = s.id) offset 0)
                   or exists (select from auth.device_keys d where d.user_id = u.id offset 0)
                   or exists (select from auth.one_time_tokens t
                              where t.user_id = u.id and t.expires_at > pg_catalog.clock_timestamp() offset 0)))
             ",
            $order,
            " for update of u skip locked\0"
        )
    };
}

impl Limits {
    /// `$1` to `$6` of [`candidates`].
    fn values(&self, last: Value) -> [Value; 6] {
        [
            Some(pg_sys::Datum::from(self.idle_since)),
            spi::timestamp(self.created_by),
            spi::value(self.unreachable_only),
            spi::timestamp(self.session_refreshed_by),
            spi::timestamp(self.session_created_by),
            last,
        ]
    }
}

/// Expired guests that clean-up has not had to leave before, locked.
fn new_candidates(limits: &Limits, batch: i64) -> Result<Vec<Uuid>> {
    static SELECT: Statement = Statement::new(
        spi::literal(candidates!(
            "u.cleanup_blocked_at is null",
            "order by coalesce(u.last_active_on, (u.created_at at time zone 'UTC')::date) limit $6"
        )),
        &[
            pg_sys::DATEOID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::BOOLOID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::INT8OID,
        ],
    );
    ids(&SELECT, &limits.values(spi::value(batch)))
}

/// Those of `guests`, whom nothing keeps any more, that are expired, locked.
fn freed_candidates(limits: &Limits, guests: &[Uuid]) -> Result<Vec<Uuid>> {
    static SELECT: Statement = Statement::new(
        spi::literal(candidates!("u.id = any ($6)", "")),
        &[
            pg_sys::DATEOID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::BOOLOID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::UUIDARRAYOID,
        ],
    );
    ids(&SELECT, &limits.values(spi::uuids(guests)))
}

/// Expired guests that it had to leave: what kept them may be gone. By id, from `after` on, not locked.
fn left_before(limits: &Limits, after: Uuid, batch: i64) -> Result<Vec<Uuid>> {
    static SELECT: Statement = Statement::new(
        c"select id from auth.users
          where is_anonymous and cleanup_blocked_at is not null and id > $1 and created_at <= $2
          order by id limit $3",
        &[pg_sys::UUIDOID, pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID],
    );
    ids(&SELECT, &[spi::uuid(after), spi::timestamp(limits.created_by), spi::value(batch)])
}

fn ids(statement: &Statement, values: &[Value]) -> Result<Vec<Uuid>> {
    let mut ids = Vec::new();
    statement.each(values, |row| {
        ids.push(row.uuid(1));
        Ok(())
    })?;
    Ok(ids)
}

/// Those whose sessions are all locked by us, and still ended: a refresh touches the session only, so the lock
/// on the user's row does not tell of one that is under way.
fn without_live_sessions(guests: Vec<Uuid>, limits: &Limits) -> Result<Vec<Uuid>> {
    static COUNT: Statement = Statement::new(
        c"select user_id, pg_catalog.count(*) from auth.sessions where user_id = any ($1) group by user_id",
        &[pg_sys::UUIDARRAYOID],
    );
    static LOCK: Statement = Statement::new(
        c"select s.user_id, s.refreshed_at > $2 and s.created_at > $3
                 and not exists (select from auth.session_revocations r where r.session_id = s.id)
          from auth.sessions s where s.user_id = any ($1) for update of s skip locked",
        &[pg_sys::UUIDARRAYOID, pg_sys::TIMESTAMPTZOID, pg_sys::TIMESTAMPTZOID],
    );
    let mut unlocked: HashMap<Uuid, i64> = HashMap::new();
    COUNT.each(&[spi::uuids(&guests)], |row| {
        unlocked.insert(row.uuid(1), row.get(2).unwrap_or(0));
        Ok(())
    })?;
    let mut live = HashSet::new();
    let values =
        [spi::uuids(&guests), spi::timestamp(limits.session_refreshed_by), spi::timestamp(limits.session_created_by)];
    LOCK.each(&values, |row| {
        *unlocked.entry(row.uuid(1)).or_default() -= 1;
        if row.get(2) == Some(true) {
            live.insert(row.uuid(1));
        }
        Ok(())
    })?;
    let is_free = |guest: &Uuid| {
        unlocked.get(guest).copied().unwrap_or(0) <= 0 && !(limits.unreachable_only && live.contains(guest))
    };
    Ok(guests.into_iter().filter(is_free).collect())
}

/// Deletes those guests that nothing keeps, and notes for the others that it tried.
fn delete_or_leave(guests: Vec<Uuid>, settings: &Settings, outcome: &mut Outcome) -> Result<()> {
    static LEAVE: Statement = Statement::new(
        c"update auth.users set cleanup_blocked_at = pg_catalog.clock_timestamp()
          where id = any ($1) and cleanup_blocked_at is null",
        &[pg_sys::UUIDARRAYOID],
    );
    let mut left = HashSet::new();
    find_kept(&guests, settings, &mut left, outcome)?;
    let free: Vec<Uuid> = guests.into_iter().filter(|guest| !left.contains(guest)).collect();
    delete_all_possible(&free, &mut left, &mut { LOCK_WAITS }, outcome)?;
    if !left.is_empty() {
        let left: Vec<_> = left.into_iter().collect();
        outcome.newly_left += LEAVE.run(&[spi::uuids(&left)])?;
    }
    Ok(())
}

/// Finds those guests whom rows of application tables keep, by foreign keys that forbid the deletion or, with
/// `cleanup_spare_owners`, by any.
fn find_kept(guests: &[Uuid], settings: &Settings, kept: &mut HashSet<Uuid>, outcome: &mut Outcome) -> Result<()> {
    if guests.is_empty() {
        return Ok(());
    }
    for key in foreign_keys::all()? {
        if !key.forbids() && !settings.cleanup_spare_owners {
            continue;
        }
        let what = if key.forbids() { "blocked" } else { "spared" };
        let candidates: Vec<Uuid> = guests.iter().filter(|guest| !kept.contains(guest)).copied().collect();
        let (owners, reason) = match spi::subtransaction(|| key.owners_among(&candidates))? {
            Ok(owners) => (owners, Reason::Constraint(key.name.clone())),
            // Nobody can tell whose rows are in it, and so Postgres would not delete anyone either.
            Err(error) => (candidates, Reason::Error(dealt_with(error))),
        };
        let count = owners.len() as u64;
        outcome.count(&key.table, reason, what, count);
        *(if key.forbids() { &mut outcome.blocked } else { &mut outcome.spared }) += count;
        kept.extend(owners);
    }
    Ok(())
}

fn dealt_with(error: Error) -> String {
    let message = error.message();
    error.discard();
    message
}

/// Waits for somebody else's locks that a batch has time for. Twice what it takes to find one guest in a batch.
const LOCK_WAITS: u32 = 16;

/// Deletes `guests`; where the whole lot fails, in halves, down to the one guest whose rows raise the error.
fn delete_all_possible(
    guests: &[Uuid],
    left: &mut HashSet<Uuid>,
    lock_waits: &mut u32,
    outcome: &mut Outcome,
) -> Result<()> {
    if guests.is_empty() {
        return Ok(());
    }
    match spi::subtransaction(|| deletion::delete(guests))? {
        Ok(()) => outcome.deleted += guests.len() as u64,
        Err(error) if guests.len() == 1 || error.is_lock_timeout() && *lock_waits == 0 => {
            let (table, constraint) = error.table_and_constraint();
            let reason = constraint.filter(|_| !error.is_lock_timeout());
            let reason = reason.map_or_else(|| Reason::Error(error.message()), Reason::Constraint);
            error.discard();
            outcome.count(table.as_deref().unwrap_or_default(), reason, "blocked", guests.len() as u64);
            outcome.blocked += guests.len() as u64;
            left.extend(guests);
        }
        Err(error) => {
            if error.is_lock_timeout() {
                *lock_waits -= 1;
            }
            error.discard();
            let (first, second) = guests.split_at(guests.len() / 2);
            delete_all_possible(first, left, lock_waits, outcome)?;
            delete_all_possible(second, left, lock_waits, outcome)?;
        }
    }
    Ok(())
}

fn delete_sessions(limits: &Limits, batch: i64) -> Result<u64> {
    static EXPIRED: Statement = Statement::new(
        c"delete from auth.sessions where id in (
              select id from auth.sessions where active_on <= $1 and refreshed_at <= $2
              order by active_on limit $3 for update skip locked)",
        &[pg_sys::DATEOID, pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID],
    );
    // Ids grow with time, so the primary key finds the old ones.
    static OLD: Statement = Statement::new(
        c"delete from auth.sessions where id in (
              select id from auth.sessions where id < $1 and created_at <= $2
              order by id limit $3 for update skip locked)",
        &[pg_sys::UUIDOID, pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID],
    );
    static REVOKED: Statement = Statement::new(
        c"delete from auth.sessions where id in (
              select s.id from auth.session_revocations r join auth.sessions s on s.id = r.session_id
              limit $1 for update of s skip locked)",
        &[pg_sys::INT8OID],
    );
    // Not at once: the session may be of a transaction that is not committed yet.
    static REVOCATIONS: Statement = Statement::new(
        c"delete from auth.session_revocations r
          where r.revoked_at < pg_catalog.clock_timestamp() - interval '1 day'
            and not exists (select from auth.sessions s where s.id = r.session_id)",
        &[],
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
    REVOCATIONS.run(&[])?;
    Ok(expired + old + revoked)
}

fn delete_one_time_tokens(limits: &Limits, batch: i64) -> Result<u64> {
    static EXPIRED: Statement = Statement::new(
        c"delete from auth.one_time_tokens where id in (
              select id from auth.one_time_tokens where expires_at <= $1
              order by expires_at limit $2 for update skip locked)",
        &[pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID],
    );
    EXPIRED.run(&[spi::timestamp(limits.now), spi::value(batch)])
}

fn delete_audit_log_entries(before: i64, batch: i64) -> Result<u64> {
    static OLD: Statement = Statement::new(
        c"delete from auth.audit_log_entries where id in (
              select id from auth.audit_log_entries where created_at < $1
              order by created_at limit $2 for update skip locked)",
        &[pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID],
    );
    OLD.run(&[spi::timestamp(before), spi::value(batch)])
}

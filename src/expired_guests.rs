//! The guests among what has expired: found, locked and deleted in lots, or left to a later run.

use crate::cleanup::{Limits, Outcome, Reason};
use crate::deletion;
use crate::error::{Result, error};
use crate::foreign_keys;
use crate::settings::Settings;
use crate::spi::{self, Statement, Value};
use pgrx::pg_sys;
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// Deletes a batch of expired guests.
///
/// # Arguments
/// * `batch` – guests at the most
/// * `recheck_after` – where to go on with those that had to be left before
pub fn clean_up(
    limits: &Limits,
    settings: &Settings,
    batch: i64,
    recheck_after: Uuid,
    outcome: &mut Outcome,
) -> Result<()> {
    let mut work = Work { limits, settings, outcome, lock_waits: LOCK_WAITS };
    let mut rest = batch - work.delete(Lot::New(batch))? as i64;
    if rest > 0 {
        let (sessions, guests) = ended_sessions(limits, rest)?;
        if !sessions.is_empty() {
            rest -= sessions.len() as i64;
            work.delete(Lot::These(&guests))?;
            work.outcome.sessions += delete_sessions(&sessions, &busy_ones(limits, &guests)?)?;
        }
    }
    if rest > 0 {
        let left_before = left_before(limits, recheck_after, rest)?;
        if left_before.len() as i64 == rest {
            work.outcome.more = true;
            work.outcome.recheck_after = left_before.last().copied();
        }
        // Most are still kept, and cost no lock and no write.
        let (_, left_before) = split_off_reachable(left_before, limits)?;
        let kept = find_kept(&left_before, settings, work.outcome)?;
        let freed: Vec<Uuid> = left_before.into_iter().filter(|guest| !kept.contains(guest)).collect();
        if !freed.is_empty() {
            work.delete(Lot::These(&freed))?;
        }
    }
    // A full batch that did nothing (others hold the guests' sessions) would be found again at once.
    outcome.more |= rest == 0 && outcome.deleted + outcome.newly_left + outcome.set_aside + outcome.sessions > 0;
    Ok(())
}

/// Guests to be tried together.
#[derive(Clone, Copy)]
enum Lot<'a> {
    /// So many that clean-up has not had to leave before, in as few steps as it takes if nobody is busy with them.
    New(i64),
    /// These, as far as they are expired and nobody is busy with them.
    These(&'a [Uuid]),
}

/// Waits for somebody else's locks that a batch has time for. What it takes to find one guest in a large batch.
const LOCK_WAITS: u32 = 16;

struct Work<'a> {
    limits: &'a Limits,
    settings: &'a Settings,
    outcome: &'a mut Outcome,
    lock_waits: u32,
}

impl Work<'_> {
    /// Deletes a lot; where it fails, with more care, then in halves, down to the one guest whose rows raise the error.
    /// Returns how many guests it found.
    ///
    /// They are locked in the subtransaction that deletes them. Were they locked outside of it, each row would carry
    /// two transaction ids, and Postgres would not know its index entries for dead before a VACUUM: every further
    /// batch would have to step over them.
    fn delete(&mut self, lot: Lot) -> Result<usize> {
        let mut found = Vec::new();
        let tried = spi::subtransaction(|| match lot {
            Lot::New(batch) => {
                let places = lock_new(self.limits, batch)?;
                found = places.iter().map(|(guest, _)| *guest).collect();
                self.delete_or_leave(found.clone(), |guests| {
                    delete_dependents(guests, self.limits)?;
                    let guest_set: HashSet<_> = guests.iter().collect();
                    let places = places.iter().filter(|(guest, _)| guest_set.contains(guest));
                    let places: Vec<_> = places.map(|(_, place)| *place).collect();
                    deletion::delete_alone(guests, &places)
                })
            }
            Lot::These(guests) => {
                found = lock_these(self.limits, guests)?;
                self.delete_or_leave(without_live_sessions(&found, self.limits)?, deletion::delete)
            }
        })?;
        match tried {
            Ok(part) => self.outcome.add(part),
            // Not about a guest.
            Err(error) if found.is_empty() => return Err(error),
            Err(error) if matches!(lot, Lot::New(_)) => {
                error.discard();
                self.delete(Lot::These(&found))?;
            }
            Err(error) if found.len() == 1 || error.is_lock_timeout() && self.lock_waits == 0 => {
                self.outcome.newly_left += leave(&found)?;
                let (table, constraint) = error.table_and_constraint();
                let table = table.unwrap_or_default();
                let (reason, message) = match constraint.filter(|_| !error.is_lock_timeout()) {
                    Some(constraint) => (Reason::Constraint(constraint), String::new()),
                    None => (Reason::Error(error.sqlstate()), error.message()),
                };
                error.discard();
                self.outcome.keep(&table, reason, &message, false, found.len());
            }
            Err(error) => {
                if error.is_lock_timeout() {
                    self.lock_waits -= 1;
                }
                error.discard();
                let (first, second) = found.split_at(found.len() / 2);
                self.delete(Lot::These(first))?;
                self.delete(Lot::These(second))?;
            }
        }
        Ok(found.len())
    }

    /// Deletes those guests that nothing keeps, and notes for the others that it tried. All are locked.
    fn delete_or_leave(&self, guests: Vec<Uuid>, delete: impl FnOnce(&[Uuid]) -> Result<()>) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let (reachable, guests) = split_off_reachable(guests, self.limits)?;
        let kept = find_kept(&guests, self.settings, &mut outcome)?;
        let (kept, free): (Vec<Uuid>, Vec<Uuid>) = guests.into_iter().partition(|guest| kept.contains(guest));
        if !free.is_empty() {
            delete(&free)?;
            outcome.deleted = free.len() as u64;
        }
        outcome.newly_left = leave(&kept)?;
        outcome.set_aside = leave(&reachable)?;
        Ok(outcome)
    }
}

/// Notes of guests that they have to stay for now; returns for how many it is the first time.
fn leave(guests: &[Uuid]) -> Result<u64> {
    static LEAVE: Statement = Statement::planned_for_lists(
        c"update auth.users set cleanup_blocked_at = pg_catalog.clock_timestamp()
          where id in (select id from auth.users
                       where id = any ($1) and cleanup_blocked_at is null for update skip locked)",
        &[pg_sys::UUIDARRAYOID],
    );
    if guests.is_empty() { Ok(0) } else { LEAVE.run(&[spi::uuids(guests)]) }
}

/// Those guests who can come back with a device key or a code, and the others. They may be idle for years: left to later
/// runs, like those whom rows keep, they do not stand in the way of every batch.
fn split_off_reachable(guests: Vec<Uuid>, limits: &Limits) -> Result<(Vec<Uuid>, Vec<Uuid>)> {
    static SELECT: Statement = Statement::planned_for_lists(
        c"select user_id from auth.device_keys where user_id = any ($1)
          union all
          select user_id from auth.one_time_tokens
          where user_id = any ($1) and expires_at > pg_catalog.clock_timestamp()",
        &[pg_sys::UUIDARRAYOID],
    );
    if !limits.unreachable_only {
        return Ok((Vec::new(), guests));
    }
    let reachable: HashSet<Uuid> = ids(&SELECT, &[spi::uuids(&guests)])?.into_iter().collect();
    Ok(guests.into_iter().partition(|guest| reachable.contains(guest)))
}

/// Those guests whom rows of application tables keep, by foreign keys that forbid the deletion or, with
/// `cleanup_spare_owners`, by any.
fn find_kept(guests: &[Uuid], settings: &Settings, outcome: &mut Outcome) -> Result<HashSet<Uuid>> {
    let mut kept = HashSet::new();
    if guests.is_empty() {
        return Ok(kept);
    }
    for key in foreign_keys::all()? {
        if !key.forbids() && !settings.cleanup_spare_owners {
            continue;
        }
        let candidates: Vec<Uuid> = guests.iter().filter(|guest| !kept.contains(*guest)).copied().collect();
        let (owners, reason, message) = match spi::subtransaction(|| key.owners_among(&candidates))? {
            Ok(owners) => (owners, Reason::Constraint(key.name.clone()), String::new()),
            // Nobody can tell whose rows are in it, and so Postgres would not delete anyone either.
            Err(error) => {
                let (reason, message) = (Reason::Error(error.sqlstate()), error.message());
                error.discard();
                (candidates, reason, message)
            }
        };
        outcome.keep(&key.table.name, reason, &message, !key.forbids(), owners.len());
        kept.extend(owners);
    }
    Ok(kept)
}

/// What the look-ups of candidates share.
///
/// Rows that somebody holds (a refresh, a promotion, an uncommitted row of an application that references the
/// guest) are passed over, not waited for. OFFSET 0 keeps the planner from reading all sessions into a hash table.
macro_rules! candidates {
    ($which:literal, $or_sessions:literal, $rest:literal) => {
        concat!(
            "select u.id, u.ctid from auth.users u
             where u.is_anonymous and ",
            $which,
            "  and coalesce(u.last_active_on, (u.created_at at time zone 'UTC')::date) <= $1 and u.created_at <= $2
               and (not $3 or ",
            $or_sessions,
            "  not exists (select from auth.sessions s
                              where s.user_id = u.id and s.refreshed_at > $4 and s.created_at > $5
                                and coalesce(s.not_after, 'infinity') > pg_catalog.clock_timestamp()
                                and not exists (select from auth.session_revocations r where r.session_id = s.id) offset 0))
             ",
            $rest,
            "\0"
        )
    };
}

/// Types of `$1` to `$6` of [`candidates`] where those are asked about whom a list names.
const OF_THESE: &[pg_sys::Oid] = &[
    pg_sys::DATEOID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::BOOLOID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::UUIDARRAYOID,
];

impl Limits {
    /// `$1` to `$6` of [`candidates`].
    fn values(&self, idle_since: i32, last: Value) -> [Value; 6] {
        [
            Some(pg_sys::Datum::from(idle_since)),
            spi::timestamp(self.created_by),
            spi::value(self.unreachable_only),
            spi::timestamp(self.session_refreshed_by),
            spi::timestamp(self.session_created_by),
            last,
        ]
    }
}

/// Locks expired guests that clean-up has not had to leave before; returns where their rows are.
///
/// A session that was refreshed moves its user's day, so whoever was last seen before the day in question has no live
/// one; [`delete_dependents`] sees to the truth of that.
fn lock_new(limits: &Limits, batch: i64) -> Result<Vec<(Uuid, pg_sys::ItemPointerData)>> {
    // A plan that does not know the limits would read all sessions.
    static SELECT: Statement = Statement::planned_for_values(
        spi::literal(candidates!(
            "u.cleanup_blocked_at is null",
            "coalesce(u.last_active_on, (u.created_at at time zone 'UTC')::date) < $1 or",
            "order by coalesce(u.last_active_on, (u.created_at at time zone 'UTC')::date) limit $6
             for update of u skip locked"
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
    let mut places = Vec::new();
    SELECT.each(&limits.values(limits.idle_since, spi::value(batch)), |row| {
        places.push((row.uuid(1), row.get(2).unwrap_or_default()));
        Ok(())
    })?;
    Ok(places)
}

/// Locks those of `guests` that are expired.
fn lock_these(limits: &Limits, guests: &[Uuid]) -> Result<Vec<Uuid>> {
    static SELECT: Statement = Statement::planned_for_values(
        spi::literal(candidates!("u.id = any ($6)", "", "for update of u skip locked")),
        OF_THESE,
    );
    ids(&SELECT, &limits.values(limits.inactive_since, spi::uuids(guests)))
}

/// Expired guests that it had to leave before this batch: what kept them may be gone. By id, from `after` on, not locked.
fn left_before(limits: &Limits, after: Uuid, batch: i64) -> Result<Vec<Uuid>> {
    static SELECT: Statement = Statement::new(
        c"select id from auth.users
          where is_anonymous and cleanup_blocked_at < $4 and id > $1 and created_at <= $2
          order by id limit $3",
        &[pg_sys::UUIDOID, pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID, pg_sys::TIMESTAMPTZOID],
    );
    let values = [spi::uuid(after), spi::timestamp(limits.created_by), spi::value(batch), spi::timestamp(limits.now)];
    ids(&SELECT, &values)
}

/// Sessions whose own end has passed, and whose they are. Not locked.
fn ended_sessions(limits: &Limits, batch: i64) -> Result<(Vec<Uuid>, Vec<Uuid>)> {
    static SELECT: Statement = Statement::planned_for_values(
        c"select id, user_id from auth.sessions where not_after <= $1 order by not_after limit $2",
        &[pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID],
    );
    let (mut sessions, mut users) = (Vec::new(), Vec::new());
    SELECT.each(&[spi::timestamp(limits.session_ended_by), spi::value(batch)], |row| {
        sessions.push(row.uuid(1));
        users.push(row.uuid(2));
        Ok(())
    })?;
    Ok((sessions, users))
}

/// Those of `guests` who are expired all the same once they were tried: somebody else holds their rows.
fn busy_ones(limits: &Limits, guests: &[Uuid]) -> Result<Vec<Uuid>> {
    static SELECT: Statement = Statement::planned_for_values(
        spi::literal(candidates!("u.id = any ($6) and u.cleanup_blocked_at is null", "", "")),
        OF_THESE,
    );
    ids(&SELECT, &limits.values(limits.inactive_since, spi::uuids(guests)))
}

/// Deletes those of `sessions` that are still there, but none of `busy` guests: nothing else tells of them that soon.
fn delete_sessions(sessions: &[Uuid], busy: &[Uuid]) -> Result<u64> {
    static DELETE: Statement = Statement::new(
        c"delete from auth.sessions where id in (
              select id from auth.sessions where id = any ($1) and user_id <> all ($2) for update skip locked)",
        &[pg_sys::UUIDARRAYOID, pg_sys::UUIDARRAYOID],
    );
    DELETE.run(&[spi::uuids(sessions), spi::uuids(busy)])
}

fn ids(statement: &Statement, values: &[Value]) -> Result<Vec<Uuid>> {
    let mut ids = Vec::new();
    statement.each(values, |row| {
        ids.push(row.uuid(1));
        Ok(())
    })?;
    Ok(ids)
}

/// Deletes sessions and whatever else the extension has of guests.
///
/// # Errors
/// Where a session is still live, or was refreshed meanwhile; and where somebody holds one.
fn delete_dependents(guests: &[Uuid], limits: &Limits) -> Result<()> {
    static SESSIONS: Statement = Statement::planned_for_lists(
        c"with deleted as (
              delete from auth.sessions s where s.user_id = any ($1)
              returning s.refreshed_at > $2 and s.created_at > $3
                        and coalesce(s.not_after, 'infinity') > pg_catalog.clock_timestamp()
                        and not exists (select from auth.session_revocations r where r.session_id = s.id) as is_live)
          select from deleted where is_live limit 1",
        &[pg_sys::UUIDARRAYOID, pg_sys::TIMESTAMPTZOID, pg_sys::TIMESTAMPTZOID],
    );
    static OTHERS: Statement = Statement::new(c"select auth.delete_all_but_sessions($1)", &[pg_sys::UUIDARRAYOID]);
    let values =
        [spi::uuids(guests), spi::timestamp(limits.session_refreshed_by), spi::timestamp(limits.session_created_by)];
    if SESSIONS.run(&values)? > 0 && limits.unreachable_only {
        return Err(error(409, "conflict", "a guest has come back"));
    }
    OTHERS.run(&[spi::uuids(guests)]).map(|_| ())
}

/// Those whose sessions are all locked by us, and still ended: a refresh touches the session only, so the lock
/// on the user's row does not tell of one that is under way.
fn without_live_sessions(guests: &[Uuid], limits: &Limits) -> Result<Vec<Uuid>> {
    static COUNT: Statement = Statement::planned_for_lists(
        c"select user_id, pg_catalog.count(*) from auth.sessions where user_id = any ($1) group by user_id",
        &[pg_sys::UUIDARRAYOID],
    );
    static LOCK: Statement = Statement::planned_for_lists(
        c"select s.user_id, s.refreshed_at > $2 and s.created_at > $3
                 and coalesce(s.not_after, 'infinity') > pg_catalog.clock_timestamp()
                 and not exists (select from auth.session_revocations r where r.session_id = s.id)
          from auth.sessions s where s.user_id = any ($1) for update of s skip locked",
        &[pg_sys::UUIDARRAYOID, pg_sys::TIMESTAMPTZOID, pg_sys::TIMESTAMPTZOID],
    );
    let mut unlocked: HashMap<Uuid, i64> = HashMap::new();
    COUNT.each(&[spi::uuids(guests)], |row| {
        unlocked.insert(row.uuid(1), row.get(2).unwrap_or(0));
        Ok(())
    })?;
    let mut live = HashSet::new();
    let values =
        [spi::uuids(guests), spi::timestamp(limits.session_refreshed_by), spi::timestamp(limits.session_created_by)];
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
    Ok(guests.iter().copied().filter(is_free).collect())
}

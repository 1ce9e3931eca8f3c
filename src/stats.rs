//! What the view `auth.stats` counts: what ends guests, and the days that are over.

use crate::clock;
use crate::error::Result;
use crate::spi::{self, Statement};
use pgrx::pg_sys;

/// How long after midnight (UTC) a day is added up, in microseconds: transactions of that day may take that long to
/// commit.
const GRACE: i64 = 3_600_000_000;
/// Days added up at a time.
const DAYS: u32 = 31;

/// Notes guests that ended, whose deletion the trigger `count_deleted_users` has counted or will count.
///
/// # Arguments
/// * `expired`, `merged` – how many
/// * `deleted` – how many of them were deleted
pub fn note_ended(expired: i64, merged: i64, deleted: i64) -> Result<()> {
    static INSERT: Statement = Statement::new(
        c"insert into auth.stat_changes (day, guests_expired, guests_merged, guests_deleted) values ($1, $2, $3, -$4)",
        &[pg_sys::DATEOID, pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::INT8OID],
    );
    let today = Some(pg_sys::Datum::from(clock::day(clock::now())));
    INSERT.run(&[today, spi::value(expired), spi::value(merged), spi::value(deleted)])?;
    Ok(())
}

/// Notes a guest that is stored on a later day than it has signed in: where that day was added up before, it counts as
/// created today.
///
/// # Arguments
/// * `created_at` – when it signed in, in microseconds since Postgres's epoch
pub fn note_stored(created_at: i64) -> Result<()> {
    static INSERT: Statement = Statement::new(
        c"insert into auth.stat_changes (day, guests_created)
          select $1, 1 from auth.last_closed_day where day >= $2",
        &[pg_sys::DATEOID, pg_sys::DATEOID],
    );
    let (today, created_on) = (clock::day(clock::now()), clock::day(created_at));
    if created_on < today {
        INSERT.run(&[Some(pg_sys::Datum::from(today)), Some(pg_sys::Datum::from(created_on))])?;
    }
    Ok(())
}

/// Adds up days that are over. The caller makes sure that nobody else does it at the same time, and that statements
/// see what is committed.
pub fn close_days(now: i64) -> Result<()> {
    // The first day on which anything happened and that was not added up. From here on each is found by index.
    static NEXT: Statement = Statement::new(
        c"select least(
              (select (created_at at time zone 'UTC')::date from auth.users
               where is_anonymous and created_at >= ($1 + 1)::timestamp at time zone 'UTC'
               order by created_at limit 1),
              (select (created_at at time zone 'UTC')::date from auth.users
               where not is_anonymous and created_at >= ($1 + 1)::timestamp at time zone 'UTC'
               order by created_at limit 1),
              (select coalesce(last_active_on, (created_at at time zone 'UTC')::date) from auth.users
               where is_anonymous and cleanup_blocked_at is null
                 and coalesce(last_active_on, (created_at at time zone 'UTC')::date) > $1
               order by coalesce(last_active_on, (created_at at time zone 'UTC')::date) limit 1),
              (select day from auth.stat_changes where day > $1 order by day limit 1))",
        &[pg_sys::DATEOID],
    );
    static CLOSE: Statement = Statement::planned_for_values(
        c"with changes as (
              delete from auth.stat_changes where day = $1 returning *
          )
          insert into auth.daily_stats (day, guests_created, guests_active, guests_promoted, guests_merged,
                                        guests_expired, guests_deleted, users_created)
          select $1,
                 coalesce(pg_catalog.sum(c.guests_created), 0)
                 + (select pg_catalog.count(*) from auth.users
                    where is_anonymous and created_at >= $1::timestamp at time zone 'UTC'
                      and created_at < ($1 + 1)::timestamp at time zone 'UTC'),
                 coalesce(pg_catalog.sum(c.guests_active), 0)
                 + (select pg_catalog.count(*) from auth.users
                    where is_anonymous and cleanup_blocked_at is null
                      and coalesce(last_active_on, (created_at at time zone 'UTC')::date) = $1),
                 coalesce(pg_catalog.sum(c.guests_promoted), 0), coalesce(pg_catalog.sum(c.guests_merged), 0),
                 coalesce(pg_catalog.sum(c.guests_expired), 0), coalesce(pg_catalog.sum(c.guests_deleted), 0),
                 coalesce(pg_catalog.sum(c.users_created), 0)
                 + (select pg_catalog.count(*) from auth.users
                    where not is_anonymous and created_at >= $1::timestamp at time zone 'UTC'
                      and created_at < ($1 + 1)::timestamp at time zone 'UTC')
          from changes c",
        &[pg_sys::DATEOID],
    );
    // What ended after its day had been added up. Of the users of that day nothing is to be added: they were counted
    // as they were at that moment.
    static LATE: Statement = Statement::new(
        c"with late as (
              delete from auth.stat_changes where day <= $1 returning *
          )
          insert into auth.daily_stats as d (day, guests_promoted, guests_merged, guests_expired, guests_deleted)
          select day, pg_catalog.sum(guests_promoted), pg_catalog.sum(guests_merged),
                 pg_catalog.sum(guests_expired), pg_catalog.sum(guests_deleted)
          from late group by day
          on conflict (day) do update
          set guests_promoted = d.guests_promoted + excluded.guests_promoted,
              guests_merged = d.guests_merged + excluded.guests_merged,
              guests_expired = d.guests_expired + excluded.guests_expired,
              guests_deleted = d.guests_deleted + excluded.guests_deleted",
        &[pg_sys::DATEOID],
    );
    static CLOSED: Statement = Statement::new(c"select day from auth.last_closed_day", &[]);
    let today = clock::day(now - GRACE);
    let day = |day: i32| Some(pg_sys::Datum::from(day));
    let read_day = |row: &spi::Row| Ok(row.get::<pgrx::datum::Date>(1).map(|date| date.to_pg_epoch_days()));
    let Some(mut closed) = CLOSED.first(&[], read_day)?.flatten() else { return Ok(()) };
    LATE.run(&[day(closed)])?;
    for _ in 0..DAYS {
        match NEXT.first(&[day(closed)], read_day)?.flatten() {
            Some(next) if next < today => {
                CLOSE.run(&[day(next)])?;
                closed = next;
            }
            _ => break,
        }
    }
    Ok(())
}

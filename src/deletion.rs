//! Deleting users without lending the extension's rights to anyone's trigger.
//!
//! When a foreign key cascades, Postgres 15 to 17 run the referencing table's AFTER triggers as whoever deletes
//! the referenced row, here the owner of the extension. So each key's delete action is applied first, as the
//! owner of the referencing table; when the row in `auth.users` goes, nothing is left to cascade. An AFTER
//! STATEMENT trigger would fire even then, for no row; therefore the keys that were dealt with do not get to
//! act again: their triggers are left out of that one DELETE, and what they stand for is checked after it.

use crate::error::{Error, Result, error};
use crate::executor::{self, LeftOut};
use crate::foreign_keys::ForeignKey;
use crate::spi::{self, Statement};
use crate::{as_owner, catalog, foreign_keys};
use pgrx::pg_sys;
use std::ffi::CStr;
use uuid::Uuid;

/// Deletes users, whose rows the caller holds locks on, with whatever their foreign keys say.
///
/// # Errors
/// `user_still_referenced`, and whatever triggers and constraints of the referencing tables raise.
pub fn delete(users: &[Uuid]) -> Result<()> {
    let keys = apply_delete_actions(users)?;
    delete_unreferenced(users, &keys, || check_no_rows(users, &keys))
}

/// Deletes users, as [`delete`] does, of whom the extension has nothing but the row in `auth.users`: the trigger that
/// sees to the rest does not look for it.
///
/// # Arguments
/// * `places` – where their rows are
///
/// # Errors
/// Also where a row is not in its place any more.
pub fn delete_alone(users: &[Uuid], places: &[pg_sys::ItemPointerData]) -> Result<()> {
    const SQL: &CStr = c"delete from auth.users where ctid = any ($1)";
    static DELETE: Statement = Statement::planned_for_lists(SQL, &[pg_sys::TIDARRAYOID]);

    let keys = apply_delete_actions(users)?;
    let left_out = LeftOut {
        own: catalog::relations().map(|relations| (relations.users, c"delete_dependents")),
        ..actions_of(&keys)
    };
    delete_and_check(
        &keys,
        || match executor::without_triggers(SQL, left_out, || DELETE.run(&[spi::value(places.to_vec())]))? {
            deleted if deleted == users.len() as u64 => Ok(()),
            _ => Err(conflict("a user was changed while it was being deleted")),
        },
        || check_no_rows(users, &keys),
    )
}

/// Carries out what the foreign keys to `auth.users` say of the rows of `users`; returns those keys.
fn apply_delete_actions(users: &[Uuid]) -> Result<Vec<ForeignKey>> {
    let keys = lock_foreign_keys()?;
    as_owner::settle_constraints()?;
    for key in &keys {
        key.apply_delete_action(users)?;
    }
    Ok(keys)
}

fn check_no_rows(users: &[Uuid], keys: &[ForeignKey]) -> Result<()> {
    keys.iter().try_for_each(|key| key.check_no_rows(users))
}

fn actions_of(keys: &[ForeignKey]) -> LeftOut {
    LeftOut { keys: keys.iter().map(|key| key.constraint).collect(), own: None }
}

/// The foreign keys to `auth.users`; from here on no other session adds any.
pub fn lock_foreign_keys() -> Result<Vec<ForeignKey>> {
    // Against foreign keys that other sessions add meanwhile.
    if let Some(relations) = catalog::relations() {
        catalog::lock(relations.users)?;
    }
    foreign_keys::all()
}

/// Deletes users whose rows in application tables were dealt with.
///
/// # Arguments
/// * `keys` – from [`lock_foreign_keys`]
/// * `check` – fails where there are rows of theirs; it only reads
///
/// # Errors
/// `user_still_referenced` where a foreign key was added meanwhile; `conflict` where a trigger of `auth.users` kept a
/// user; and those of `check`.
pub fn delete_unreferenced(users: &[Uuid], keys: &[ForeignKey], check: impl FnOnce() -> Result<()>) -> Result<()> {
    const SQL: &CStr = c"delete from auth.users where id = any ($1)";
    // A user who is newer than the transaction's snapshot is not left out, but a serialization failure.
    static DELETE: Statement = Statement::latest(SQL, &[pg_sys::UUIDARRAYOID]).for_lists();
    static LEFT: Statement =
        Statement::latest(c"select from auth.users where id = any ($1)", &[pg_sys::UUIDARRAYOID]).for_lists();

    let delete = || {
        let deleted = executor::without_triggers(SQL, actions_of(keys), || DELETE.run(&[spi::uuids(users)]))?;
        // One that is gone already, code of an application's has deleted.
        match deleted == users.len() as u64 || LEFT.run(&[spi::uuids(users)])? == 0 {
            true => Ok(()),
            false => Err(conflict("a trigger of auth.users did not let a user be deleted")),
        }
    };
    delete_and_check(keys, delete, check)
}

fn delete_and_check(
    keys: &[ForeignKey],
    delete: impl FnOnce() -> Result<()>,
    check: impl FnOnce() -> Result<()>,
) -> Result<()> {
    // By a trigger.
    if let Some(key) = foreign_keys::all()?.iter().find(|key| keys.iter().all(|k| k.constraint != key.constraint)) {
        let message =
            format!("foreign key \"{}\" of table {} was added during the deletion", key.name, key.table.name);
        return Err(error(409, "user_still_referenced", message).about(&key.table.name, &key.name));
    }
    delete()?;

    // Now, since a trigger of auth.users, too, may have put rows back into any of the tables. If anything is written
    // meanwhile, code of an application runs in the checks after all.
    let command = unsafe { pg_sys::GetCurrentCommandId(false) };
    check()?;
    match unsafe { pg_sys::GetCurrentCommandId(false) } == command {
        true => Ok(()),
        false => Err(conflict("a function of an application wrote rows while the user was being deleted")),
    }
}

fn conflict(message: &str) -> Error {
    error(409, "conflict", message)
}

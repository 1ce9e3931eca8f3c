//! Deleting users without lending the extension's rights to anyone's trigger.
//!
//! When a foreign key cascades, Postgres 15 to 17 run the referencing table's AFTER triggers as whoever deletes
//! the referenced row, here the owner of the extension. So each key's delete action is applied first, as the
//! owner of the referencing table; when the row in `auth.users` goes, nothing is left to cascade. An AFTER
//! STATEMENT trigger would fire even then, for no row; therefore the keys that were dealt with do not get to
//! act again: their triggers are left out of that one DELETE.

use crate::error::{Result, error};
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
    delete_unreferenced(users, apply_delete_actions(users)?)
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
    check_unreferenced(users, &keys)?;
    let left_out = LeftOut {
        own: catalog::relations().map(|relations| (relations.users, c"delete_dependents")),
        ..actions_of(&keys)
    };
    let deleted = executor::without_triggers(SQL, left_out, || DELETE.run(&[spi::value(places.to_vec())]))?;
    match deleted == users.len() as u64 {
        true => Ok(()),
        false => Err(error(409, "conflict", "a user was changed while it was being deleted")),
    }
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
/// # Errors
/// `user_still_referenced` where there are any.
pub fn delete_unreferenced(users: &[Uuid], keys: Vec<ForeignKey>) -> Result<()> {
    const SQL: &CStr = c"delete from auth.users where id = any ($1)";
    static DELETE: Statement = Statement::planned_for_lists(SQL, &[pg_sys::UUIDARRAYOID]);

    check_unreferenced(users, &keys)?;
    executor::without_triggers(SQL, actions_of(&keys), || DELETE.run(&[spi::uuids(users)]))?;
    Ok(())
}

fn check_unreferenced(users: &[Uuid], keys: &[ForeignKey]) -> Result<()> {
    // A trigger may have put rows back into any of the tables, or have added a foreign key. The checks only read, so
    // if anything was written meanwhile, code of an application ran in them after all.
    let command = unsafe { pg_sys::GetCurrentCommandId(false) };
    for key in keys {
        key.check_no_rows(users)?;
    }
    if unsafe { pg_sys::GetCurrentCommandId(false) } != command {
        return Err(error(
            409,
            "conflict",
            "a function of an application wrote rows while the user was being deleted",
        ));
    }
    if let Some(key) = foreign_keys::all()?.iter().find(|key| keys.iter().all(|k| k.constraint != key.constraint)) {
        let message =
            format!("foreign key \"{}\" of table {} was added during the deletion", key.name, key.table.name);
        return Err(error(409, "user_still_referenced", message).about(&key.table.name, &key.name));
    }
    Ok(())
}

//! Deleting users without lending the extension's rights to anyone's trigger.
//!
//! When a foreign key cascades, Postgres 15 to 17 run the referencing table's AFTER triggers as whoever deletes
//! the referenced row, here the owner of the extension. So each key's delete action is applied first, as the
//! owner of the referencing table; when the row in `auth.users` goes, nothing is left to cascade. An AFTER
//! STATEMENT trigger would fire even then, for no row; therefore the keys that were dealt with do not get to
//! act again: their triggers are left out of that one DELETE, and what they stand for is checked after it.

use crate::error::{Result, error};
use crate::executor;
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
    let keys = lock_foreign_keys()?;
    as_owner::settle_constraints()?;
    for key in &keys {
        key.apply_delete_action(users)?;
    }
    delete_unreferenced(users, &keys, || keys.iter().try_for_each(|key| key.check_no_rows(users)))
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
/// `user_still_referenced` where a foreign key was added meanwhile; and those of `check`.
pub fn delete_unreferenced(users: &[Uuid], keys: &[ForeignKey], check: impl FnOnce() -> Result<()>) -> Result<()> {
    const SQL: &CStr = c"delete from auth.users where id = any ($1)";
    static DELETE: Statement = Statement::new(SQL, &[pg_sys::UUIDARRAYOID]);

    // By a trigger.
    if let Some(key) = foreign_keys::all()?.iter().find(|key| keys.iter().all(|k| k.constraint != key.constraint)) {
        let message =
            format!("foreign key \"{}\" of table {} was added during the deletion", key.name, key.table.name);
        return Err(error(409, "user_still_referenced", message).about(&key.table.name, &key.name));
    }
    let dealt_with = keys.iter().map(|key| key.constraint).collect();
    executor::without_foreign_keys(SQL, dealt_with, || DELETE.run(&[spi::uuids(users)]))?;

    // Now, since a trigger of auth.users, too, may have put rows back into any of the tables. If anything is written
    // meanwhile, code of an application runs in the checks after all.
    let command = unsafe { pg_sys::GetCurrentCommandId(false) };
    check()?;
    if unsafe { pg_sys::GetCurrentCommandId(false) } != command {
        return Err(error(
            409,
            "conflict",
            "a function of an application wrote rows while the user was being deleted",
        ));
    }
    Ok(())
}

//! Deleting users without lending the extension's rights to anyone's trigger.
//!
//! When a foreign key cascades, Postgres 15 to 17 run the referencing table's AFTER triggers as whoever deletes
//! the referenced row, here the owner of the extension. So each key's delete action is applied first, as the
//! owner of the referencing table; when the row in `auth.users` goes, nothing is left to cascade. An AFTER
//! STATEMENT trigger would fire even then, for no row; therefore the keys that were dealt with do not get to
//! act again: their triggers are left out of that one DELETE.

use crate::error::{Result, error};
use crate::spi::{self, Statement};
use crate::{as_owner, catalog, foreign_keys};
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use uuid::Uuid;

/// Deletes users, whose rows the caller holds locks on, with whatever their foreign keys say.
///
/// # Errors
/// `user_still_referenced`, and whatever triggers and constraints of the referencing tables raise.
pub fn delete(users: &[Uuid]) -> Result<()> {
    static DELETE: Statement = Statement::new(c"delete from auth.users where id = any ($1)", &[pg_sys::UUIDARRAYOID]);

    // Against foreign keys that other sessions add meanwhile.
    if let Some(relations) = catalog::relations() {
        unsafe { pg_sys::LockRelationOid(relations.users, pg_sys::RowExclusiveLock as _) };
    }
    let keys = foreign_keys::all()?;
    as_owner::settle_constraints()?;
    for key in &keys {
        key.apply_delete_action(users)?;
    }
    // A trigger may have put rows back into any of the tables, or have added a foreign key. The checks that run
    // a cast of the application's come first; after them nothing of an application's runs.
    for is_uuid in [false, true] {
        for key in keys.iter().filter(|key| key.is_uuid == is_uuid) {
            key.check_no_rows(users)?;
        }
    }
    if let Some(key) = foreign_keys::all()?.iter().find(|key| keys.iter().all(|k| k.constraint != key.constraint)) {
        let message = format!("foreign key \"{}\" of table {} was added during the deletion", key.name, key.table);
        return Err(error(409, "user_still_referenced", message).about(&key.table, &key.name));
    }
    DEALT_WITH.set(keys.iter().map(|key| key.constraint).collect());
    IS_NEXT.set(true);
    let deleted = DELETE.run(&[spi::uuids(users)]);
    IS_NEXT.set(false);
    deleted?;
    Ok(())
}

thread_local! {
    /// Whether the DELETE of users is the query that starts next.
    static IS_NEXT: Cell<bool> = const { Cell::new(false) };
    /// Foreign keys that are not to act in it.
    static DEALT_WITH: RefCell<Vec<pg_sys::Oid>> = const { RefCell::new(Vec::new()) };
    static NEXT_HOOK: Cell<pg_sys::ExecutorStart_hook_type> = const { Cell::new(None) };
}

/// Installs the hook that [`delete`] relies on.
pub fn install_hook() {
    unsafe {
        NEXT_HOOK.set(pg_sys::ExecutorStart_hook);
        pg_sys::ExecutorStart_hook = Some(executor_start);
    }
}

/// Every query of every session comes by here, so not through pgrx's guard: an error jumps over this frame,
/// which owns nothing.
unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    unsafe extern "C-unwind" {
        fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: i32);
    }
    unsafe {
        match NEXT_HOOK.get() {
            Some(next) => next(query, flags),
            None => standard_ExecutorStart(query, flags),
        }
        if IS_NEXT.replace(false) {
            pg_sys::panic::pgrx_extern_c_guard(|| leave_out_triggers(query, &DEALT_WITH.take()));
        }
    }
}

/// Switches the action triggers of foreign keys off, in this one statement's private copy of the trigger list.
unsafe fn leave_out_triggers(query: *mut pg_sys::QueryDesc, keys: &[pg_sys::Oid]) {
    unsafe {
        let opened = (*(*query).estate).es_opened_result_relations;
        let count = if opened.is_null() { 0 } else { (*opened).length };
        for i in 0..count {
            let target = (*(*opened).elements.add(i as usize)).ptr_value as *mut pg_sys::ResultRelInfo;
            let triggers = (*target).ri_TrigDesc;
            let count = if triggers.is_null() { 0 } else { (*triggers).numtriggers };
            for n in 0..count {
                let trigger = (*triggers).triggers.add(n as usize);
                if (*trigger).tgisinternal && keys.contains(&(*trigger).tgconstraint) {
                    (*trigger).tgenabled = pg_sys::TRIGGER_DISABLED as _;
                }
            }
        }
    }
}

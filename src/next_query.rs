//! What the executor is told about the one query that we start next, through `ExecutorStart_hook`.

use crate::error::Result;
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};

/// What there is to tell.
pub enum NextQuery {
    /// It must be about this table. Names are looked up when a statement is parsed, and whoever owns a schema can
    /// put another table in the place of one that was found, checked and locked by its OID.
    MustReadOrWrite(pg_sys::Oid),
    /// The action triggers of these foreign keys do not fire in it.
    LeaveOutForeignKeys(Vec<pg_sys::Oid>),
}

thread_local! {
    static IS_SET: Cell<bool> = const { Cell::new(false) };
    static NEXT: RefCell<Option<NextQuery>> = const { RefCell::new(None) };
    static NEXT_HOOK: Cell<pg_sys::ExecutorStart_hook_type> = const { Cell::new(None) };
}

/// Runs `body`, which starts one query, and tells the executor about that query.
pub fn with<T>(next: NextQuery, body: impl FnOnce() -> Result<T>) -> Result<T> {
    NEXT.set(Some(next));
    IS_SET.set(true);
    let result = body();
    IS_SET.set(false);
    result
}

/// Installs the hook.
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
        let is_set = IS_SET.replace(false);
        let next = NEXT_HOOK.get().unwrap_or(standard_ExecutorStart);
        next(query, flags);
        if is_set {
            pg_sys::panic::pgrx_extern_c_guard(|| match NEXT.take() {
                Some(NextQuery::MustReadOrWrite(table)) => check_table(query, table),
                Some(NextQuery::LeaveOutForeignKeys(keys)) => leave_out_triggers(query, &keys),
                None => (),
            });
        }
    }
}

unsafe fn check_table(query: *mut pg_sys::QueryDesc, table: pg_sys::Oid) {
    unsafe {
        let tables = (*(*query).plannedstmt).relationOids;
        let count = if tables.is_null() { 0 } else { (*tables).length };
        if !(0..count).any(|i| (*(*tables).elements.add(i as usize)).oid_value == table) {
            pgrx::ereport!(
                pgrx::PgLogLevel::ERROR,
                pgrx::PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "a table that references auth.users was replaced by another of the same name"
            );
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

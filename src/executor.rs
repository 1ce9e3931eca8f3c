//! One query of ours in which some triggers do not fire, through `ExecutorStart_hook`.

use crate::error::Result;
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char};

/// What to leave out of which query.
struct Instruction {
    sql: CString,
    left_out: LeftOut,
    /// Where the plan has its text, once there is one: a trigger may run a query of its own with the same words.
    text: *const c_char,
}

thread_local! {
    static IS_SET: Cell<bool> = const { Cell::new(false) };
    static INSTRUCTION: RefCell<Option<Instruction>> = const { RefCell::new(None) };
    static NEXT_HOOK: Cell<pg_sys::ExecutorStart_hook_type> = const { Cell::new(None) };
}

/// The triggers that do not fire.
#[derive(Clone)]
pub struct LeftOut {
    /// Those that carry out the actions of these foreign keys.
    pub keys: Vec<pg_sys::Oid>,
    /// One of the extension's own, by its table and name.
    pub own: Option<(pg_sys::Oid, &'static CStr)>,
}

/// Puts back what was there before, also after an error: a trigger may have called us anew.
struct Restore(Option<Instruction>);

impl Drop for Restore {
    fn drop(&mut self) {
        IS_SET.set(self.0.is_some());
        INSTRUCTION.set(self.0.take());
    }
}

/// Runs `body`, which runs the query `sql`; the triggers `left_out` do not fire in that query.
pub fn without_triggers<T>(sql: &CStr, left_out: LeftOut, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let instruction = Instruction { sql: sql.to_owned(), left_out, text: std::ptr::null() };
    let _restore = Restore(INSTRUCTION.replace(Some(instruction)));
    IS_SET.set(true);
    body()
}

/// Is told of each plan of ours that is about to run.
pub fn about_to_run(plan: pg_sys::SPIPlanPtr) {
    if !IS_SET.get() {
        return;
    }
    let text = unsafe {
        let source = pg_sys::list_nth(pg_sys::SPI_plan_get_plan_sources(plan), 0) as *mut pg_sys::CachedPlanSource;
        (*source).query_string
    };
    INSTRUCTION.with_borrow_mut(|known| match known {
        Some(instruction)
            if instruction.text.is_null() && instruction.sql.as_c_str() == unsafe { CStr::from_ptr(text) } =>
        {
            instruction.text = text;
        }
        _ => {}
    });
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
        let next = NEXT_HOOK.get().unwrap_or(standard_ExecutorStart);
        next(query, flags);
        if IS_SET.get() {
            pg_sys::panic::pgrx_extern_c_guard(|| {
                if let Some(left_out) = left_out_of(query) {
                    leave_out_triggers(query, &left_out);
                }
            });
        }
    }
}

unsafe fn left_out_of(query: *mut pg_sys::QueryDesc) -> Option<LeftOut> {
    let text = unsafe { (*query).sourceText };
    INSTRUCTION.with_borrow(|known| match known {
        Some(instruction) if !text.is_null() && instruction.text == text => Some(instruction.left_out.clone()),
        _ => None,
    })
}

/// Switches triggers off, in this one statement's private copy of the trigger list.
unsafe fn leave_out_triggers(query: *mut pg_sys::QueryDesc, left_out: &LeftOut) {
    unsafe {
        let opened = (*(*query).estate).es_opened_result_relations;
        let count = if opened.is_null() { 0 } else { (*opened).length };
        for i in 0..count {
            let target = (*(*opened).elements.add(i as usize)).ptr_value as *mut pg_sys::ResultRelInfo;
            let triggers = (*target).ri_TrigDesc;
            let count = if triggers.is_null() { 0 } else { (*triggers).numtriggers };
            for n in 0..count {
                let trigger = (*triggers).triggers.add(n as usize);
                // A table that references itself has the triggers that check its rows, too; those stay.
                let is_action = pg_sys::RI_FKey_trigger_type((*trigger).tgfoid) == pg_sys::RI_TRIGGER_PK as i32;
                let is_settled =
                    (*trigger).tgisinternal && is_action && left_out.keys.contains(&(*trigger).tgconstraint);
                let is_own = left_out.own.is_some_and(|(table, name)| {
                    (*(*target).ri_RelationDesc).rd_id == table && CStr::from_ptr((*trigger).tgname) == name
                });
                if is_settled || is_own {
                    (*trigger).tgenabled = pg_sys::TRIGGER_DISABLED as _;
                }
            }
        }
    }
}

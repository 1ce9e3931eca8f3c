//! SQL from Rust: statements prepared once per backend, with bound values.
//!
//! Not pgrx's own client, for one reason: an error that SQL raises (an application's trigger, a constraint)
//! must reach the caller with its SQLSTATE, table and constraint, and pgrx keeps none of those.

use crate::error::{Error, Result};
use crate::executor;
use pgrx::{FromDatum, IntoDatum, pg_sys};
use std::cell::Cell;
use std::ffi::CStr;

/// A bound value; `None` is NULL.
pub type Value = Option<pg_sys::Datum>;

/// Binds a value of any type that has an SQL type.
pub fn value<T: IntoDatum>(value: T) -> Value {
    value.into_datum()
}

/// Binds a UUID.
pub fn uuid(id: uuid::Uuid) -> Value {
    pgrx::Uuid::from_bytes(*id.as_bytes()).into_datum()
}

/// Binds an array of UUIDs.
pub fn uuids(ids: &[uuid::Uuid]) -> Value {
    ids.iter().map(|id| pgrx::Uuid::from_bytes(*id.as_bytes())).collect::<Vec<_>>().into_datum()
}

/// Binds a time, in microseconds since Postgres's epoch.
pub fn timestamp(microseconds: i64) -> Value {
    Some(pg_sys::Datum::from(microseconds))
}

/// One row of a result, valid inside the closure that it is given to.
pub struct Row {
    tuple: pg_sys::HeapTuple,
    description: pg_sys::TupleDesc,
}

impl Row {
    /// Column `n`, counted from 1; `None` for NULL. Its SQL type must be the one `T` stands for.
    pub fn get<T: FromDatum>(&self, n: i32) -> Option<T> {
        let mut null = false;
        unsafe {
            let datum = pg_sys::SPI_getbinval(self.tuple, self.description, n, &mut null);
            T::from_datum(datum, null)
        }
    }

    /// Column `n`, a UUID that is not NULL.
    pub fn uuid(&self, n: i32) -> uuid::Uuid {
        self.get::<pgrx::Uuid>(n).map_or_else(uuid::Uuid::nil, |id| uuid::Uuid::from_bytes(*id.as_bytes()))
    }
}

/// A statement that is planned once per backend.
pub struct Statement {
    sql: &'static CStr,
    types: &'static [pg_sys::Oid],
    visibility: Visibility,
    /// CURSOR_OPT_…
    options: u32,
    plan: Cell<pg_sys::SPIPlanPtr>,
}

// A backend has one thread.
unsafe impl Sync for Statement {}

impl Statement {
    /// # Arguments
    /// * `sql` – one statement with `$1`, `$2`, …; tables qualified
    /// * `types` – the types of the parameters
    pub const fn new(sql: &'static CStr, types: &'static [pg_sys::Oid]) -> Self {
        Self { sql, types, visibility: Visibility::Statement, options: 0, plan: Cell::new(std::ptr::null_mut()) }
    }

    /// One that sees everything committed; see [`Visibility::Latest`].
    pub const fn latest(sql: &'static CStr, types: &'static [pg_sys::Oid]) -> Self {
        Self { visibility: Visibility::Latest, ..Self::new(sql, types) }
    }

    /// One that is planned anew each time, for the values it gets.
    pub const fn planned_for_values(sql: &'static CStr, types: &'static [pg_sys::Oid]) -> Self {
        Self { options: pg_sys::CURSOR_OPT_CUSTOM_PLAN, ..Self::new(sql, types) }
    }

    /// One that gets a list and finds each of it by an index, however long the list is: a plan for the list itself
    /// looks at every item of it in the statistics, and may prefer to read the whole table.
    pub const fn planned_for_lists(sql: &'static CStr, types: &'static [pg_sys::Oid]) -> Self {
        Self::new(sql, types).for_lists()
    }

    /// The same statement, planned as [`planned_for_lists`](Self::planned_for_lists) says.
    pub const fn for_lists(self) -> Self {
        Self { options: pg_sys::CURSOR_OPT_GENERIC_PLAN, ..self }
    }

    /// Runs it and returns the number of rows it returned or touched.
    pub fn run(&self, values: &[Value]) -> Result<u64> {
        self.each(values, |_| Ok(()))
    }

    /// Runs it and returns what `read` makes of the first row.
    pub fn first<T>(&self, values: &[Value], mut read: impl FnMut(&Row) -> Result<T>) -> Result<Option<T>> {
        let mut first = None;
        self.each(values, |row| {
            if first.is_none() {
                first = Some(read(row)?);
            }
            Ok(())
        })?;
        Ok(first)
    }

    /// Runs it and calls `read` for every row.
    pub fn each(&self, values: &[Value], read: impl FnMut(&Row) -> Result<()>) -> Result<u64> {
        connected(|| {
            if self.plan.get().is_null() {
                let plan = prepare(self.sql, self.types, self.options)?;
                unsafe { pg_sys::SPI_keepplan(plan) };
                self.plan.set(plan);
            }
            execute(self.plan.get(), values, self.visibility, read)
        })
    }
}

/// SQL put together from pieces at compile time; `text` ends in NUL.
pub const fn literal(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("the text does not end in NUL"),
    }
}

/// What rows a statement sees.
#[derive(Clone, Copy, PartialEq)]
pub enum Visibility {
    /// What any statement at this place would see.
    Statement,
    /// Everything committed, even under REPEATABLE READ; changing a row that is newer than the transaction's
    /// own snapshot is a serialization failure, as in referential integrity.
    Latest,
}

/// Runs a statement that has no parameters and returns no rows.
pub fn run_once(sql: &CStr) -> Result<()> {
    connected(|| {
        let plan = prepare(sql, &[], 0)?;
        execute(plan, &[], Visibility::Statement, |_| Ok(()))?;
        unsafe { pg_sys::SPI_freeplan(plan) };
        Ok(())
    })
}

/// Runs a statement made at run time, seeing everything committed.
///
/// # Arguments
/// * `sql` – one statement; every identifier quoted by the caller
/// * `types`, `values` – its parameters
/// * `check` – called when names have been looked up and nothing else has been done: planning already may run
///   functions of an application
pub fn run_checked(
    sql: &CStr,
    types: &[pg_sys::Oid],
    values: &[Value],
    check: impl FnOnce() -> Result<()>,
    read: impl FnMut(&Row) -> Result<()>,
) -> Result<u64> {
    connected(|| {
        let plan = prepare(sql, types, 0)?;
        check()?;
        let processed = execute(plan, values, Visibility::Latest, read)?;
        unsafe { pg_sys::SPI_freeplan(plan) };
        Ok(processed)
    })
}

/// Runs a query made at run time, and stores its rows, of which there may be more than fit into memory.
///
/// # Arguments
/// * `sql`, `check` – as for [`run_checked`]
/// * `store` – where the rows go
/// * `context` – memory that lives as long as `store`
pub fn store_checked(
    sql: &CStr,
    check: impl FnOnce() -> Result<()>,
    store: *mut pg_sys::Tuplestorestate,
    context: pg_sys::MemoryContext,
) -> Result<()> {
    connected(|| {
        let plan = prepare(sql, &[], 0)?;
        check()?;
        unsafe {
            let receiver = pg_sys::CreateDestReceiver(pg_sys::CommandDest::DestTuplestore);
            let (description, message) = (std::ptr::null_mut(), std::ptr::null());
            raw::SetTuplestoreDestReceiverParams(receiver, store, context, false, description, message);
            let options = pg_sys::SPIExecuteOptions { read_only: true, dest: receiver, ..Default::default() };
            let options = &raw const options;
            let code = catch(|| raw::SPI_execute_plan_extended(plan, options))?;
            if code < 0 {
                return Err(crate::error::error(500, "internal_error", format!("SPI returned code {code}")));
            }
            pg_sys::SPI_freeplan(plan);
        }
        Ok(())
    })
}

/// Runs `body` in a subtransaction: its changes stay if it succeeds, and go if it fails.
///
/// The outer `Err` is an error that has to end the statement all the same.
pub fn subtransaction<T>(body: impl FnOnce() -> Result<T>) -> Result<std::result::Result<T, Error>> {
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let outcome = pgrx::PgTryBuilder::new(std::panic::AssertUnwindSafe(|| Ok(body())))
            .catch_others(|caught| Err(Box::new(caught)))
            .execute();
        match &outcome {
            Ok(Ok(_)) => pg_sys::ReleaseCurrentSubTransaction(),
            _ => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        match outcome {
            Ok(Err(error)) if error.is_interrupt() => Err(error),
            Ok(result) => Ok(result),
            // Raised by Postgres outside of SQL, or a bug of ours: not something to carry on after.
            Err(caught) => caught.rethrow(),
        }
    }
}

fn connected<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let _unprinted = Unprinted::new();
    unsafe {
        if pg_sys::SPI_connect() != pg_sys::SPI_OK_CONNECT as i32 {
            return Err(crate::error::error(500, "internal_error", "SPI_connect failed"));
        }
        let result = body();
        // After an error the abort of the (sub)transaction disconnects.
        if result.is_ok() {
            pg_sys::SPI_finish();
        }
        result
    }
}

/// While it lives, no statement's parse tree or plan is printed: bound values stand in it, secrets among them, and
/// any caller may turn printing on and have it sent to itself (`debug_print_plan`).
pub struct Unprinted([bool; 3]);

impl Unprinted {
    pub fn new() -> Self {
        Self(Self::switch([false; 3]))
    }

    fn switch(to: [bool; 3]) -> [bool; 3] {
        // The variables behind the settings: setting those would cost more than most statements, and they are put
        // back here whatever happens.
        unsafe {
            [
                std::ptr::replace(&raw mut pg_sys::Debug_print_parse, to[0]),
                std::ptr::replace(&raw mut pg_sys::Debug_print_rewritten, to[1]),
                std::ptr::replace(&raw mut pg_sys::Debug_print_plan, to[2]),
            ]
        }
    }
}

impl Drop for Unprinted {
    fn drop(&mut self) {
        Self::switch(self.0);
    }
}

fn prepare(sql: &CStr, types: &[pg_sys::Oid], options: u32) -> Result<pg_sys::SPIPlanPtr> {
    let (text, count, types) = (sql.as_ptr(), types.len() as i32, types.as_ptr().cast_mut());
    catch(|| unsafe { raw::SPI_prepare_cursor(text, count, types, options as i32) })
}

fn execute(
    plan: pg_sys::SPIPlanPtr,
    values: &[Value],
    visibility: Visibility,
    mut read: impl FnMut(&Row) -> Result<()>,
) -> Result<u64> {
    let mut datums: Vec<pg_sys::Datum> = values.iter().map(|v| v.unwrap_or(pg_sys::Datum::from(0))).collect();
    let nulls: Vec<std::ffi::c_char> = values.iter().map(|v| if v.is_some() { b' ' } else { b'n' } as _).collect();
    let (datums, nulls) = (datums.as_mut_ptr(), nulls.as_ptr());
    executor::about_to_run(plan);
    unsafe {
        let code = if visibility == Visibility::Latest && pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32
        {
            let crosscheck = pg_sys::GetTransactionSnapshot();
            let latest = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
            let code = catch(|| raw::SPI_execute_snapshot(plan, datums, nulls, latest, crosscheck, false, true, 0))?;
            pg_sys::UnregisterSnapshot(latest);
            code
        } else {
            catch(|| raw::SPI_execute_plan(plan, datums, nulls, false, 0))?
        };
        if code < 0 {
            return Err(crate::error::error(500, "internal_error", format!("SPI returned code {code}")));
        }
        let processed = pg_sys::SPI_processed;
        let table = pg_sys::SPI_tuptable;
        if !table.is_null() {
            for i in 0..(*table).numvals {
                read(&Row { tuple: *(*table).vals.add(i as usize), description: (*table).tupdesc })?;
            }
            pg_sys::SPI_freetuptable(table);
        }
        Ok(processed)
    }
}

/// Calls one C function of Postgres and keeps the error it raises, whole.
///
/// `call` must do nothing but that call, since the error jumps out of it.
pub fn catch<T: Copy>(call: impl FnOnce() -> T) -> Result<T> {
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let exception_stack = pg_sys::PG_exception_stack;
        let error_context_stack = pg_sys::error_context_stack;
        let mut result = std::mem::MaybeUninit::<T>::uninit();
        let jumped = cee_scape::call_with_sigsetjmp(false, |jump_buffer| {
            pg_sys::PG_exception_stack = jump_buffer as *const _ as *mut pg_sys::sigjmp_buf;
            result.write(call());
            0
        });
        pg_sys::PG_exception_stack = exception_stack;
        pg_sys::error_context_stack = error_context_stack;
        if jumped == 0 {
            return Ok(result.assume_init());
        }
        // It has to outlive the subtransaction that is about to be rolled back.
        pg_sys::MemoryContextSwitchTo(pg_sys::TopTransactionContext);
        let data = pg_sys::CopyErrorData();
        pg_sys::FlushErrorState();
        pg_sys::MemoryContextSwitchTo(context);
        Err(Error::Postgres(data, None))
    }
}

/// As pgrx declares them, but without its guard, which would convert the error before `catch` sees it.
mod raw {
    use pgrx::pg_sys::{
        Datum, DestReceiver, MemoryContext, Oid, SPIExecuteOptions, SPIPlanPtr, Snapshot, TupleDesc, Tuplestorestate,
    };
    use std::ffi::{c_char, c_int, c_long};

    unsafe extern "C-unwind" {
        pub fn SPI_prepare_cursor(sql: *const c_char, count: c_int, types: *mut Oid, options: c_int) -> SPIPlanPtr;
        pub fn SPI_execute_plan(
            plan: SPIPlanPtr,
            values: *mut Datum,
            nulls: *const c_char,
            read_only: bool,
            limit: c_long,
        ) -> c_int;
        pub fn SPI_execute_plan_extended(plan: SPIPlanPtr, options: *const SPIExecuteOptions) -> c_int;
        pub fn SetTuplestoreDestReceiverParams(
            receiver: *mut DestReceiver,
            store: *mut Tuplestorestate,
            context: MemoryContext,
            detoast: bool,
            target: TupleDesc,
            map_failure: *const c_char,
        );
        pub fn SPI_execute_snapshot(
            plan: SPIPlanPtr,
            values: *mut Datum,
            nulls: *const c_char,
            snapshot: Snapshot,
            crosscheck: Snapshot,
            read_only: bool,
            fire_triggers: bool,
            limit: c_long,
        ) -> c_int;
    }
}

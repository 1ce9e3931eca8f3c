//! The extension's own tables as Postgres knows them, and look-ups of single rows by primary key.
//!
//! The look-ups are index scans by OID: no SQL is parsed, so nothing in the caller's `search_path` can take
//! part in them, and no transaction id is assigned, so they work on a standby and in a parallel worker.

use pgrx::{FromDatum, pg_sys};
use std::cell::Cell;
use std::ffi::{CStr, CString};

/// OIDs of the tables that Rust reads without SQL, and of their primary keys.
#[derive(Clone, Copy)]
pub struct Relations {
    pub users: pg_sys::Oid,
    pub users_pkey: pg_sys::Oid,
    pub sessions: pg_sys::Oid,
    pub sessions_pkey: pg_sys::Oid,
    pub session_revocations: pg_sys::Oid,
    pub session_revocations_pkey: pg_sys::Oid,
    pub lazy_guests: pg_sys::Oid,
    pub lazy_guests_pkey: pg_sys::Oid,
    pub settings: pg_sys::Oid,
    pub signing_keys: pg_sys::Oid,
    pub guesses: pg_sys::Oid,
    pub guesses_pkey: pg_sys::Oid,
    pub workers: pg_sys::Oid,
    pub hooks: pg_sys::Oid,
    pub guest_providers: pg_sys::Oid,
    pub captcha_services: pg_sys::Oid,
}

thread_local! {
    static RELATIONS: Cell<Option<Relations>> = const { Cell::new(None) };
    /// Counts how often they were forgotten.
    static FORGOTTEN: Cell<u64> = const { Cell::new(0) };
}

/// The tables; `None` where the extension is not installed in this database.
pub fn relations() -> Option<Relations> {
    if let Some(relations) = RELATIONS.get() {
        return Some(relations);
    }
    let forgotten = FORGOTTEN.get();
    let schema = unsafe { pg_sys::get_namespace_oid(c"auth".as_ptr(), true) };
    let oid = |name: &CStr| {
        let oid = unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
        (oid != pg_sys::InvalidOid).then_some(oid)
    };
    let relations = Relations {
        users: oid(c"users")?,
        users_pkey: oid(c"users_pkey")?,
        sessions: oid(c"sessions")?,
        sessions_pkey: oid(c"sessions_pkey")?,
        session_revocations: oid(c"session_revocations")?,
        session_revocations_pkey: oid(c"session_revocations_pkey")?,
        lazy_guests: oid(c"lazy_guests")?,
        lazy_guests_pkey: oid(c"lazy_guests_pkey")?,
        settings: oid(c"settings")?,
        signing_keys: oid(c"signing_keys")?,
        guesses: oid(c"guesses")?,
        guesses_pkey: oid(c"guesses_pkey")?,
        workers: oid(c"workers")?,
        hooks: oid(c"hooks")?,
        guest_providers: oid(c"guest_providers")?,
        captcha_services: oid(c"captcha_services")?,
    };
    // Unless an invalidation arrived meanwhile.
    RELATIONS.set((FORGOTTEN.get() == forgotten).then_some(relations));
    Some(relations)
}

/// What a relcache invalidation for `relation` means for the caches. Sets flags only: it is called in the
/// middle of whatever Postgres is doing.
pub fn invalidated(relation: pg_sys::Oid) {
    let known = RELATIONS.get();
    // Of an unknown table, or of all: it may be any of ours.
    let is = |table: fn(&Relations) -> pg_sys::Oid| match &known {
        Some(known) => relation == pg_sys::InvalidOid || relation == table(known),
        None => true,
    };
    let is_settings = is(|known| known.settings);
    let is_keys = is(|known| known.signing_keys);
    let is_hooks = is(|known| known.hooks);
    let is_guest_providers = is(|known| known.guest_providers);
    let is_captcha_services = is(|known| known.captcha_services);
    let is_session = is(|known| known.users)
        || is(|known| known.sessions)
        || is(|known| known.session_revocations)
        || is(|known| known.lazy_guests);
    if is_settings {
        crate::settings::mark_stale();
    }
    if is_keys {
        crate::keys::mark_stale();
    }
    if is_hooks {
        crate::hooks::mark_stale();
    }
    if is_guest_providers {
        crate::guest_providers::mark_stale();
    }
    if is_captcha_services {
        crate::captcha::mark_stale();
    }
    if is_session {
        crate::claims::forget();
    }
    if is_settings || is_keys || is_hooks || is_guest_providers || is_captcha_services || is_session {
        // A dropped and re-created extension has other OIDs.
        RELATIONS.set(None);
        FORGOTTEN.set(FORGOTTEN.get() + 1);
    }
}

/// A snapshot of everything that is committed now, and of this transaction's own changes. In a parallel
/// operation it is the query's snapshot, as no other can be had there.
pub struct LatestSnapshot(pg_sys::Snapshot);

impl LatestSnapshot {
    pub fn take() -> Self {
        unsafe {
            let snapshot =
                if pg_sys::IsInParallelMode() { pg_sys::GetActiveSnapshot() } else { pg_sys::GetLatestSnapshot() };
            Self(pg_sys::RegisterSnapshot(snapshot))
        }
    }

    /// The row of `table` whose primary key, the first column, is `id`.
    pub fn find<T>(
        &self,
        table: pg_sys::Oid,
        primary_key: pg_sys::Oid,
        id: uuid::Uuid,
        read: impl FnOnce(&Tuple) -> T,
    ) -> Option<T> {
        let mut id = *id.as_bytes();
        let mut key = pg_sys::ScanKeyData::default();
        unsafe {
            pg_sys::ScanKeyInit(
                &mut key,
                1,
                pg_sys::BTEqualStrategyNumber as _,
                pg_sys::Oid::from(pg_sys::F_UUID_EQ),
                pg_sys::Datum::from(id.as_mut_ptr()),
            );
        }
        let mut read = Some(read);
        let mut found = None;
        self.scan(table, primary_key, &mut [key], |tuple| found = read.take().map(|read| read(tuple)));
        found
    }

    /// Every row of `table`, for tables of a handful of rows.
    pub fn all(&self, table: pg_sys::Oid, read: impl FnMut(&Tuple)) {
        self.scan(table, pg_sys::InvalidOid, &mut [], read);
    }

    fn scan(
        &self,
        table: pg_sys::Oid,
        index: pg_sys::Oid,
        keys: &mut [pg_sys::ScanKeyData],
        mut read: impl FnMut(&Tuple),
    ) {
        unsafe {
            let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as _);
            let by_index = index != pg_sys::InvalidOid;
            let scan =
                pg_sys::systable_beginscan(relation, index, by_index, self.0, keys.len() as _, keys.as_mut_ptr());
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    break;
                }
                read(&Tuple { tuple, relation });
            }
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(relation, pg_sys::AccessShareLock as _);
        }
    }
}

impl Drop for LatestSnapshot {
    fn drop(&mut self) {
        // While an error unwinds, the abort of the transaction releases it.
        if !std::thread::panicking() {
            unsafe { pg_sys::UnregisterSnapshot(self.0) };
        }
    }
}

/// A row found by [`LatestSnapshot`], valid inside the closure that it is given to.
pub struct Tuple {
    tuple: pg_sys::HeapTuple,
    relation: pg_sys::Relation,
}

impl Tuple {
    /// The column named `column`, copied; `None` for NULL. Its SQL type must be the one `T` stands for.
    pub fn get<T: FromDatum>(&self, column: &CStr) -> Option<T> {
        unsafe {
            let description = (*self.relation).rd_att;
            let number = pg_sys::SPI_fnumber(description, column.as_ptr());
            assert!(number > 0, "table has no column {column:?}");
            let mut null = false;
            let datum = pg_sys::heap_getattr(self.tuple, number as _, description, &mut null);
            T::from_datum(datum, null)
        }
    }

    /// A UUID column that is not NULL.
    pub fn uuid(&self, column: &CStr) -> uuid::Uuid {
        self.get::<pgrx::Uuid>(column).map_or_else(uuid::Uuid::nil, |id| uuid::Uuid::from_bytes(*id.as_bytes()))
    }

    /// A `timestamptz` column in microseconds since Postgres's epoch.
    pub fn timestamp(&self, column: &CStr) -> Option<i64> {
        self.get::<pgrx::datum::TimestampWithTimeZone>(column).map(i64::from)
    }
}

/// Whether `table` was created in the current transaction, so that no other session can see it yet.
pub fn created_here(table: pg_sys::Oid) -> bool {
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as _);
        // 0 is InvalidSubTransactionId.
        let here = (*relation).rd_createSubid != 0;
        pg_sys::table_close(relation, pg_sys::AccessShareLock as _);
        here
    }
}

/// Locks `table` to the end of the transaction as a statement that writes it would: against every change of its
/// definition.
pub fn lock(table: pg_sys::Oid) -> crate::error::Result<()> {
    lock_in_mode(table, pg_sys::RowExclusiveLock)
}

/// Locks `table` to the end of the transaction as a statement that reads it would: against every change of its owner.
pub fn lock_against_changes(table: pg_sys::Oid) -> crate::error::Result<()> {
    lock_in_mode(table, pg_sys::AccessShareLock)
}

/// Locks `table` to the end of the transaction against everybody else who writes it.
pub fn lock_against_writers(table: pg_sys::Oid) -> crate::error::Result<()> {
    lock_in_mode(table, pg_sys::ShareRowExclusiveLock)
}

fn lock_in_mode(table: pg_sys::Oid, mode: u32) -> crate::error::Result<()> {
    unsafe extern "C-unwind" {
        // Not through pgrx's guard, which would lose what `catch` keeps.
        fn LockRelationOid(relation: pg_sys::Oid, mode: pg_sys::LOCKMODE);
    }
    crate::spi::catch(|| unsafe { LockRelationOid(table, mode as _) })
}

/// Locks a table of the extension's to the end of the transaction against others who do the same, unless somebody has
/// it; readers and writers are not held up.
pub fn lock_if_free(table: &str) -> bool {
    let mode = pg_sys::ShareUpdateExclusiveLock as _;
    find_relation("auth", table).is_some_and(|table| unsafe { pg_sys::ConditionalLockRelationOid(table, mode) })
}

/// The relation of that name.
pub fn find_relation(schema: &str, name: &str) -> Option<pg_sys::Oid> {
    let (schema, name) = (CString::new(schema).ok()?, CString::new(name).ok()?);
    unsafe {
        let oid = pg_sys::get_relname_relid(name.as_ptr(), pg_sys::get_namespace_oid(schema.as_ptr(), true));
        (oid != pg_sys::InvalidOid).then_some(oid)
    }
}

/// A name as it stands in SQL.
pub fn quoted(name: &str) -> String {
    let name = CString::new(name).unwrap_or_default();
    unsafe { CStr::from_ptr(pg_sys::quote_identifier(name.as_ptr())) }.to_string_lossy().into_owned()
}

/// The role that owns `table`; `None` where there is no such table.
pub fn owner(table: pg_sys::Oid) -> Option<pg_sys::Oid> {
    unsafe {
        let relation = pg_sys::try_relation_open(table, pg_sys::AccessShareLock as _);
        if relation.is_null() {
            return None;
        }
        let owner = (*(*relation).rd_rel).relowner;
        pg_sys::relation_close(relation, pg_sys::AccessShareLock as _);
        Some(owner)
    }
}

/// Runs `body`, which has Postgres put expressions and types into words: with all names qualified but those of
/// pg_catalog, so that they mean the same under any `search_path`.
pub fn with_qualified_names<T>(body: impl FnOnce() -> crate::error::Result<T>) -> crate::error::Result<T> {
    crate::guc::with(c"search_path", c"pg_catalog", body)
}

/// Whether there is a constraint with this OID.
pub fn constraint_exists(constraint: pg_sys::Oid) -> bool {
    let nothing = pg_sys::Datum::from(0);
    let cache = pg_sys::SysCacheIdentifier::CONSTROID as i32;
    unsafe { pg_sys::SearchSysCacheExists(cache, constraint.into(), nothing, nothing, nothing) }
}

//! Where the buckets of rate limits are: one table for the whole server, in a segment of dynamic shared memory that
//! the first process to need it makes, and that stays until the server stops.
//!
//! Where that is, a few bytes of the main shared memory say. Postgres has some to spare there for libraries that were
//! not preloaded; its own pg_prewarm did the same before version 17. So nothing has to be preloaded, no worker is
//! needed and nothing is written: it works on a standby just the same. After a crash Postgres makes all its shared
//! memory anew, and every bucket is full again.

use anon_auth_core::rate_limit::Buckets;
use pgrx::pg_sys;
use std::cell::Cell;

/// Of seven clients each: 2 MiB for 114,688 clients.
type Table = Buckets<16_384>;

/// Tables of different versions are not one.
const NAME: &std::ffi::CStr =
    match std::ffi::CStr::from_bytes_with_nul(concat!("anon_auth ", env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("a version has no NUL"),
    };

/// What no segment has (`DSM_HANDLE_INVALID`).
const NONE: pg_sys::dsm_handle = 0;

thread_local! {
    /// As this process has it mapped, to its end.
    static TABLE: Cell<Option<&'static Table>> = const { Cell::new(None) };
}

/// The table. Raises Postgres's own error where there is no memory for it.
pub fn get() -> &'static Table {
    TABLE.get().unwrap_or_else(|| {
        let table = unsafe { find_or_make() };
        TABLE.set(Some(table));
        table
    })
}

unsafe fn find_or_make() -> &'static Table {
    unsafe {
        // AddinShmemInitLock, by its number in lwlocknames.txt.
        let lock = &raw mut (*pg_sys::MainLWLockArray.add(21)).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let mut is_there = false;
        let handle = pg_sys::ShmemInitStruct(NAME.as_ptr(), size_of::<pg_sys::dsm_handle>(), &mut is_there)
            .cast::<pg_sys::dsm_handle>();
        if !is_there {
            *handle = NONE;
        }
        let table = if *handle == NONE { make(handle) } else { map(*handle) };
        pg_sys::LWLockRelease(lock);
        &*table
    }
}

unsafe fn make(handle: *mut pg_sys::dsm_handle) -> *mut Table {
    unsafe {
        let segment = pg_sys::dsm_create(size_of::<Table>(), 0);
        let table = pg_sys::dsm_segment_address(segment).cast::<Table>();
        table.write_bytes(0, 1);
        (*table).set_key();
        pg_sys::dsm_pin_mapping(segment);
        pg_sys::dsm_pin_segment(segment);
        *handle = pg_sys::dsm_segment_handle(segment);
        table
    }
}

unsafe fn map(handle: pg_sys::dsm_handle) -> *mut Table {
    unsafe {
        let segment = pg_sys::dsm_attach(handle);
        assert!(!segment.is_null(), "a segment that is pinned is there");
        pg_sys::dsm_pin_mapping(segment);
        pg_sys::dsm_segment_address(segment).cast()
    }
}

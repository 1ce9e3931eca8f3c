//! What all sessions of the server share: the buckets of rate limits, and what monitoring counts. It is in a segment of
//! dynamic shared memory that the first process to need it makes, and that stays until the server stops.
//!
//! Where that is, a few bytes of the main shared memory say. Postgres has some to spare there for libraries that were
//! not preloaded; its own pg_prewarm did the same before version 17. So nothing has to be preloaded, no worker is
//! needed and nothing is written: it works on a standby just the same. After a crash Postgres makes all its shared
//! memory anew: every bucket is full again, and nothing has been counted.

use crate::clock;
use anon_auth_core::rate_limit::Buckets;
use pgrx::pg_sys;
use std::cell::Cell;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;

/// Memory of zeros is good to begin with, but for the buckets' key.
#[repr(C)]
pub struct Shared {
    /// Of seven clients each: 2 MiB for 114,688 clients.
    pub buckets: Buckets<16_384>,
    /// Calls that a rate limit has refused.
    pub refused_calls: Refusals,
    /// Calls that were refused for want of a background worker.
    pub refused_writes: Refusals,
}

/// How often something was refused since the server started, in all its databases.
#[repr(C)]
pub struct Refusals {
    count: AtomicI64,
    /// In microseconds since Postgres's epoch.
    last_at: AtomicI64,
}

impl Refusals {
    pub fn note(&self) {
        self.last_at.store(clock::now(), Relaxed);
        self.count.fetch_add(1, Relaxed);
    }

    pub fn count(&self) -> i64 {
        self.count.load(Relaxed)
    }

    /// When the last one was, in microseconds since Postgres's epoch; `None` where there was none.
    pub fn last_at(&self) -> Option<i64> {
        (self.count() > 0).then(|| self.last_at.load(Relaxed))
    }
}

/// Segments of different versions are not one.
const NAME: &std::ffi::CStr =
    match std::ffi::CStr::from_bytes_with_nul(concat!("anon_auth ", env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("a version has no NUL"),
    };

/// What no segment has (`DSM_HANDLE_INVALID`).
const NONE: pg_sys::dsm_handle = 0;

thread_local! {
    /// As this process has it mapped, to its end.
    static SHARED: Cell<Option<&'static Shared>> = const { Cell::new(None) };
}

/// It. Raises Postgres's own error where there is no memory for it.
pub fn get() -> &'static Shared {
    SHARED.get().unwrap_or_else(|| {
        let shared = unsafe { find_or_make() };
        SHARED.set(Some(shared));
        shared
    })
}

unsafe fn find_or_make() -> &'static Shared {
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
        let shared = if *handle == NONE { make(handle) } else { map(*handle) };
        pg_sys::LWLockRelease(lock);
        &*shared
    }
}

unsafe fn make(handle: *mut pg_sys::dsm_handle) -> *mut Shared {
    unsafe {
        let segment = pg_sys::dsm_create(size_of::<Shared>(), 0);
        let shared = pg_sys::dsm_segment_address(segment).cast::<Shared>();
        shared.write_bytes(0, 1);
        (*shared).buckets.set_key();
        pg_sys::dsm_pin_mapping(segment);
        pg_sys::dsm_pin_segment(segment);
        *handle = pg_sys::dsm_segment_handle(segment);
        shared
    }
}

unsafe fn map(handle: pg_sys::dsm_handle) -> *mut Shared {
    unsafe {
        let segment = pg_sys::dsm_attach(handle);
        assert!(!segment.is_null(), "a segment that is pinned is there");
        // A build of the same version that is laid out otherwise.
        assert!(
            pg_sys::dsm_segment_map_length(segment) >= size_of::<Shared>(),
            "the shared memory is another build's: restart the server"
        );
        pg_sys::dsm_pin_mapping(segment);
        pg_sys::dsm_segment_address(segment).cast()
    }
}

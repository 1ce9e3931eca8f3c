//! Where callers leave requests for the worker and find its answers: a segment of dynamic shared memory, so that
//! nothing has to be preloaded.
//!
//! A slot belongs to whoever moved it to its present state:
//! free → (caller) writing → posted → (worker) taken → answered → (caller) free. A caller that gives up moves a
//! posted slot back to free, so that nothing is done; of a taken one it says that nobody waits any more, and the
//! worker frees it. Every move is one compare-and-swap, so that no order of events frees a slot twice or never.

use crate::own_transaction::{Request, Verdict};
use pgrx::pg_sys;
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU64};

/// Requests that can wait at a time; more callers wait for a slot.
const SLOTS: usize = 128;

/// Tells a mailbox of this build from whatever else a segment may hold.
const MAGIC: u64 = u64::from_be_bytes(*b"anonauth") ^ size_of::<Shared>() as u64;

const FREE: u8 = 0;
const WRITING: u8 = 1;
const POSTED: u8 = 2;
const TAKEN: u8 = 3;
const ABANDONED: u8 = 4;
const ANSWERED: u8 = 5;

#[repr(C)]
struct Shared {
    /// Written last. A new segment is all zeros.
    magic: AtomicU64,
    database: pg_sys::Oid,
    /// The worker's. In the main shared memory, which is at the same place in every process.
    latch: *mut pg_sys::Latch,
    is_closed: AtomicBool,
    slots: [Slot; SLOTS],
}

#[repr(C)]
struct Slot {
    state: AtomicU8,
    /// Process that waits; 0 where nobody does.
    owner: AtomicI32,
    latch: AtomicPtr<pg_sys::Latch>,
    request: UnsafeCell<MaybeUninit<Request>>,
    answer: UnsafeCell<Option<Verdict>>,
}

impl Slot {
    fn moves(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, SeqCst, SeqCst).is_ok()
    }

    /// Nobody waits for the answer any more.
    fn abandon(&self) {
        // The worker moves it on at most twice meanwhile.
        while !(self.moves(POSTED, FREE) || self.moves(TAKEN, ABANDONED) || self.moves(ANSWERED, FREE)) {}
    }
}

/// A mailbox that this process has mapped.
#[derive(Clone, Copy)]
pub struct Mailbox {
    segment: *mut pg_sys::dsm_segment,
}

impl Mailbox {
    /// Makes the worker's, to be closed when the process ends.
    pub fn create() -> Self {
        unsafe {
            let segment = pg_sys::dsm_create(size_of::<Shared>(), 0);
            let shared = pg_sys::dsm_segment_address(segment) as *mut Shared;
            shared.write_bytes(0, 1);
            (*shared).database = pg_sys::MyDatabaseId;
            (*shared).latch = pg_sys::MyLatch;
            (*shared).magic.store(MAGIC, SeqCst);
            pg_sys::dsm_pin_mapping(segment);
            pg_sys::on_dsm_detach(segment, Some(worker_leaves), pg_sys::Datum::from(0));
            Self { segment }
        }
    }

    /// Maps a caller's; `None` where the handle leads to no open mailbox of this database and build.
    pub fn attach(handle: pg_sys::dsm_handle) -> Option<Self> {
        unsafe {
            // Mapped already, so it is something else.
            if !pg_sys::dsm_find_mapping(handle).is_null() {
                return None;
            }
            let segment = pg_sys::dsm_attach(handle);
            if segment.is_null() {
                return None;
            }
            let mailbox = Self { segment };
            let is_ours = pg_sys::dsm_segment_map_length(segment) as usize >= size_of::<Shared>()
                && mailbox.shared().magic.load(SeqCst) == MAGIC
                && mailbox.shared().database == pg_sys::MyDatabaseId;
            if !is_ours || mailbox.is_closed() {
                pg_sys::dsm_detach(segment);
                return None;
            }
            pg_sys::dsm_pin_mapping(segment);
            pg_sys::on_dsm_detach(segment, Some(caller_leaves), pg_sys::Datum::from(0));
            Some(mailbox)
        }
    }

    /// Unmaps it.
    pub fn detach(self) {
        unsafe { pg_sys::dsm_detach(self.segment) };
    }

    /// By which others find it.
    pub fn handle(&self) -> pg_sys::dsm_handle {
        unsafe { pg_sys::dsm_segment_handle(self.segment) }
    }

    /// Whether the worker is gone.
    pub fn is_closed(&self) -> bool {
        self.shared().is_closed.load(SeqCst)
    }

    fn shared(&self) -> &Shared {
        unsafe { &*(pg_sys::dsm_segment_address(self.segment) as *const Shared) }
    }

    /// Posts a request and waits for nothing yet; `None` where no slot is free.
    pub fn post(&self, request: Request) -> Option<Letter> {
        let (owner, latch) = unsafe { (pg_sys::MyProcPid, pg_sys::MyLatch) };
        self.put(request, owner, latch).map(|slot| Letter { mailbox: *self, slot })
    }

    /// Posts a request that nobody waits for, unless no slot is free.
    pub fn drop_in(&self, request: Request) {
        self.put(request, 0, null_mut());
    }

    fn put(&self, request: Request, owner: i32, latch: *mut pg_sys::Latch) -> Option<usize> {
        let slots = &self.shared().slots;
        // Not all from the first one on.
        let first = unsafe { pg_sys::MyProcPid } as usize;
        let slot = (first..first + SLOTS).map(|n| n % SLOTS).find(|n| slots[*n].moves(FREE, WRITING))?;
        unsafe { (*slots[slot].request.get()).write(request) };
        slots[slot].owner.store(owner, SeqCst);
        slots[slot].latch.store(latch, SeqCst);
        slots[slot].state.store(POSTED, SeqCst);
        wake(self.shared().latch);
        Some(slot)
    }

    /// For the worker: takes what was posted.
    pub fn take(&self) -> Vec<(usize, Request)> {
        let slots = self.shared().slots.iter().enumerate();
        let taken = slots.filter(|(_, slot)| slot.moves(POSTED, TAKEN));
        taken.map(|(n, slot)| (n, unsafe { (*slot.request.get()).assume_init() })).collect()
    }

    /// For the worker: answers a request that it took; `None` where that failed.
    pub fn answer(&self, slot: usize, answer: Option<Verdict>) {
        let slot = &self.shared().slots[slot];
        let latch = slot.latch.load(SeqCst);
        unsafe { *slot.answer.get() = answer };
        if latch.is_null() || !slot.moves(TAKEN, ANSWERED) {
            slot.state.store(FREE, SeqCst);
        }
        wake(latch);
    }

    /// For the worker: answers nothing any more, and has everybody look for another one.
    pub fn close(&self) {
        self.shared().is_closed.store(true, SeqCst);
        for slot in &self.shared().slots {
            if slot.state.load(SeqCst) != FREE {
                wake(slot.latch.load(SeqCst));
            }
        }
    }
}

/// A process that is gone meanwhile, or its successor, is woken in vain.
fn wake(latch: *mut pg_sys::Latch) {
    if !latch.is_null() {
        unsafe { pg_sys::SetLatch(latch) };
    }
}

/// A request that was posted, and for whose answer its caller waits as long as it lives.
pub struct Letter {
    mailbox: Mailbox,
    slot: usize,
}

impl Letter {
    /// Where it was posted.
    pub fn mailbox(&self) -> Mailbox {
        self.mailbox
    }

    /// The answer, once there is one: the verdict, or `None` where the worker failed.
    pub fn answer(&self) -> Option<Option<Verdict>> {
        let slot = &self.mailbox.shared().slots[self.slot];
        (slot.state.load(SeqCst) == ANSWERED).then(|| unsafe { *slot.answer.get() })
    }
}

impl Drop for Letter {
    fn drop(&mut self) {
        self.mailbox.shared().slots[self.slot].abandon();
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn worker_leaves(segment: *mut pg_sys::dsm_segment, _argument: pg_sys::Datum) {
    Mailbox { segment }.close();
}

/// A process that is terminated leaves without unwinding.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn caller_leaves(segment: *mut pg_sys::dsm_segment, _argument: pg_sys::Datum) {
    let me = unsafe { pg_sys::MyProcPid };
    for slot in &(Mailbox { segment }).shared().slots {
        // In this order: whoever posts names itself first, so the owner is the one of that state or a later one.
        if matches!(slot.state.load(SeqCst), POSTED | TAKEN | ANSWERED) && slot.owner.load(SeqCst) == me {
            slot.abandon();
        }
    }
}

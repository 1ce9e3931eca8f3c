//! What a backend keeps of a table that rarely changes.

use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// A value read from a table, good until an invalidation says otherwise.
pub struct Cache<T> {
    value: RefCell<Option<Rc<T>>>,
    is_stale: Cell<bool>,
    /// Good for this transaction only. So is whatever was read with the snapshot of a parallel query, which may
    /// be older than an invalidation already taken in.
    is_provisional: Cell<bool>,
}

impl<T> Cache<T> {
    pub const fn new() -> Self {
        Self { value: RefCell::new(None), is_stale: Cell::new(false), is_provisional: Cell::new(false) }
    }

    /// Has the value read again at its next use. Sets a flag only; safe anywhere.
    pub fn mark_stale(&self) {
        self.is_stale.set(true);
    }

    /// The value, if it is known and nobody has told of a change.
    pub fn get(&self) -> Option<Rc<T>> {
        unsafe { pg_sys::AcceptInvalidationMessages() };
        if self.is_stale.get() {
            // Dropped before anything can fail: a reload that does must not leave the old value behind. And the
            // flag is cleared before reading: a change that arrives meanwhile marks it stale again.
            let dropped = self.value.take();
            self.is_stale.set(false);
            drop(dropped);
        }
        self.value.borrow().clone()
    }

    /// Keeps a value that was just read.
    ///
    /// # Arguments
    /// * `only_now` – to the end of this transaction at the longest
    pub fn keep(&self, value: T, only_now: bool) -> Rc<T> {
        let value = Rc::new(value);
        let replaced = self.value.replace(Some(value.clone()));
        self.is_provisional.set(only_now || unsafe { pg_sys::IsInParallelMode() });
        drop(replaced);
        value
    }

    /// Whether the value is good for this transaction only; asked when it ends.
    pub fn take_provisional(&self) -> bool {
        self.is_provisional.replace(false)
    }
}

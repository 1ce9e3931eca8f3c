//! Rate limits: how many calls an hour a client may make, and a table of clients that never grows.
//!
//! A client has a bucket that holds as many calls as it may make in an hour, and that fills up evenly. All there is to
//! remember of it is when it will be full again: each call moves that on by the time in which one call flows in, and
//! none may move it further than an hour from now (the generic cell rate algorithm). So an hour's calls may come all
//! at once, and the next ones one by one as the time passes. A limit that changes meanwhile leaves a bucket as full,
//! in proportion, as it was.

use crate::{digest, random};
use std::array;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::time::Duration;

/// Microseconds.
const HOUR: i64 = 3_600_000_000;

/// What a limit allows. Times are in microseconds, of any clock.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// In which one call flows in.
    interval: i64,
    /// In which an empty bucket fills up.
    capacity: i64,
}

impl Rate {
    /// # Arguments
    /// * `calls` – how many are allowed; at least one
    pub fn per_hour(calls: u32) -> Self {
        let calls = i64::from(calls.max(1));
        // Rounded up, so that never more flow in.
        let interval = (HOUR + calls - 1) / calls;
        Self { interval, capacity: calls * interval }
    }

    /// Takes a call from a bucket that is full at `full_at`, and returns when it is full again.
    ///
    /// # Errors
    /// Where it is empty: when there is a call in it again.
    pub fn take(self, full_at: i64, now: i64) -> Result<i64, i64> {
        // Not later than an empty one's: the clock may have been set back.
        let full_at = full_at.clamp(now, now.saturating_add(self.capacity)).saturating_add(self.interval);
        if full_at.saturating_sub(now) <= self.capacity { Ok(full_at) } else { Err(full_at - self.capacity) }
    }
}

/// Buckets in a set: what fits into two cache lines.
const WAYS: usize = 7;

/// The buckets of all clients, for memory that several processes share. Memory of zeros is a table of full buckets,
/// once it was given a key.
///
/// It has room for seven clients in each of its sets. Where a set is full, the bucket that is closest to being full
/// goes, which its client notices least: whoever has used up a limit is remembered longest, and many others, with
/// a call each, do not change that. Which set is a client's depends on a key that nobody knows, so that nobody can
/// choose addresses that are in the same.
#[repr(C)]
pub struct Buckets<const SETS: usize> {
    key: [u8; 32],
    sets: [Set; SETS],
}

/// Locked while a call is taken from one of its buckets: for some instructions, and never longer.
#[repr(C, align(128))]
struct Set {
    is_locked: AtomicBool,
    buckets: [Bucket; WAYS],
}

/// A bucket that is full is as good as none.
#[repr(C)]
struct Bucket {
    client: AtomicU64,
    full_at: AtomicI64,
}

impl<const SETS: usize> Buckets<SETS> {
    /// Gives a new table its key, before anybody else sees it.
    pub fn set_key(&mut self) {
        self.key = random::bytes();
    }

    /// Takes a call from the bucket of a client.
    ///
    /// # Arguments
    /// * `client` – what names the bucket
    ///
    /// # Errors
    /// Where it is empty: when there is a call in it again.
    pub fn take(&self, client: &[&str], rate: Rate, now: i64) -> Result<(), i64> {
        let digest = digest::keyed_of_parts(&self.key, client);
        let [set, client] = [0, 8].map(|at| u64::from_be_bytes(array::from_fn(|i| digest[at + i])));
        self.sets[(set % SETS as u64) as usize].take(client, rate, now)
    }
}

impl Set {
    fn take(&self, client: u64, rate: Rate, now: i64) -> Result<(), i64> {
        let _lock = Lock::take(&self.is_locked);
        let full_at = |bucket: &Bucket| bucket.full_at.load(Relaxed);
        let known = self.buckets.iter().find(|bucket| bucket.client.load(Relaxed) == client);
        let next = rate.take(known.map_or(now, full_at), now)?;
        if let Some(bucket) = known.or_else(|| self.buckets.iter().min_by_key(|bucket| full_at(bucket))) {
            bucket.client.store(client, Relaxed);
            bucket.full_at.store(next, Relaxed);
        }
        Ok(())
    }
}

/// A spin lock. Whoever dies with it takes the shared memory along: Postgres then starts all its processes again.
struct Lock<'a>(&'a AtomicBool);

impl<'a> Lock<'a> {
    fn take(is_locked: &'a AtomicBool) -> Self {
        let mut spins = 0;
        while is_locked.swap(true, Acquire) {
            spins += 1;
            if spins % 100 == 0 {
                // Whoever has it has lost its processor.
                std::thread::sleep(Duration::from_micros(100));
            }
            std::hint::spin_loop();
        }
        Self(is_locked)
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        self.0.store(false, Release);
    }
}

//! Rate limits: how many calls get in, in any order of events, and what a crowd of clients can do to the others.

use anon_auth_core::rate_limit::{Buckets, Rate};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;

/// A table with a key, as its owner makes it in shared memory.
fn table<const SETS: usize>() -> Box<Buckets<SETS>> {
    // Zeros are a valid table.
    let mut buckets = unsafe { Box::<Buckets<SETS>>::new_zeroed().assume_init() };
    buckets.set_key();
    buckets
}

/// How many of `calls` get in at one moment.
fn admitted(buckets: &Buckets<64>, client: &str, limit: u32, now: i64, calls: usize) -> usize {
    (0..calls).filter(|_| buckets.take(&[client], Rate::per_hour(limit), now).is_ok()).count()
}

#[test]
fn S16_an_hours_calls_at_once_and_then_one_by_one() {
    let buckets = table::<64>();
    assert_eq!(admitted(&buckets, "a", 30, HOUR, 64), 30);
    // One every two minutes.
    let later = |seconds: i64| HOUR + seconds * SECOND;
    assert_eq!(buckets.take(&["a"], Rate::per_hour(30), later(0)), Err(later(120)));
    assert_eq!(buckets.take(&["a"], Rate::per_hour(30), later(119)), Err(later(120)));
    assert_eq!(admitted(&buckets, "a", 30, later(120), 64), 1);
    assert_eq!(admitted(&buckets, "a", 30, later(120 * 6), 64), 5);
    // Everybody has a bucket of its own, and what it is called matters to the last part.
    assert_eq!(admitted(&buckets, "b", 30, later(120 * 6), 64), 30);
    for parts in [&["a", ""][..], &["", "a"], &["b", "a"], &["ba"], &[]] {
        assert_eq!(buckets.take(parts, Rate::per_hour(30), later(120 * 6)), Ok(()), "{parts:?}");
    }
    assert_eq!(admitted(&buckets, "a", 30, later(120 * 36), 64), 30);
}

#[test]
fn S16_a_changed_limit_leaves_a_bucket_as_full_as_it_was() {
    let buckets = table::<64>();
    assert_eq!(admitted(&buckets, "a", 30, HOUR, 15), 15);
    assert_eq!(admitted(&buckets, "a", 60, HOUR, 15), 15);
    assert_eq!(admitted(&buckets, "a", 4, HOUR, 64), 1);
    assert_eq!(admitted(&buckets, "a", 1000, HOUR, 1), 0);
    assert_eq!(admitted(&buckets, "a", 1, 2 * HOUR, 64), 1);
}

#[test]
fn S16_a_clock_that_is_set_back_locks_nobody_out() {
    let buckets = table::<64>();
    assert_eq!(admitted(&buckets, "a", 30, 10_000 * HOUR, 64), 30);
    let Err(until) = buckets.take(&["a"], Rate::per_hour(30), HOUR) else { panic!("the bucket is empty") };
    assert_eq!(until, HOUR + 120 * SECOND);
    // The refused call moved nothing; at worst it takes an hour as it would have.
    assert_eq!(Rate::per_hour(30).take(i64::MAX, HOUR), Err(HOUR + 120 * SECOND));
    assert_eq!(Rate::per_hour(30).take(i64::MIN, HOUR), Ok(HOUR + 120 * SECOND));
}

#[test]
fn S16_from_many_threads_exactly_as_many_get_in() {
    // So many calls that some would meet, were a bucket not locked meanwhile.
    let (threads, limit) = (8, 100_000);
    let buckets = table::<64>();
    let count = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| count.fetch_add(admitted(&buckets, "a", limit, HOUR, 25_000), Ordering::Relaxed));
        }
    });
    assert_eq!(count.into_inner(), limit as usize);
}

#[test]
fn S16_a_million_clients_take_no_room_and_free_nobody() {
    const SETS: usize = 256;
    assert_eq!(size_of::<Buckets<SETS>>(), (SETS + 1) * 128);
    let buckets = table::<SETS>();
    let rate = Rate::per_hour(30);
    for _ in 0..30 {
        buckets.take(&["greedy"], rate, HOUR).unwrap();
    }
    for n in 0..1_000_000 {
        assert_eq!(buckets.take(&["crowd", &n.to_string()], rate, HOUR), Ok(()));
    }
    // Far more than there is room for, and the one who has used up the limit is remembered all the same.
    assert_eq!(buckets.take(&["greedy"], rate, HOUR), Err(HOUR + 120 * SECOND));
}

#[test]
fn S16_in_a_full_set_the_fullest_bucket_goes() {
    let buckets = table::<1>();
    let rate = Rate::per_hour(30);
    let take = |client: usize, calls: usize| {
        (0..calls).filter(|_| buckets.take(&[&client.to_string()], rate, HOUR).is_ok()).count()
    };
    // Client n has made n calls.
    for client in 1..=7 {
        assert_eq!(take(client, client), client);
    }
    assert_eq!(take(8, 10), 10);
    // Client 1 is forgotten, and takes the place of client 2; the others are remembered.
    assert_eq!(take(1, 29), 29);
    for client in 3..=7 {
        assert_eq!(take(client, 64), 30 - client);
    }
    assert_eq!(take(8, 64), 20);
    assert_eq!(take(1, 64), 1);
}

#[test]
fn S16_nobody_can_tell_who_shares_a_set() {
    // Of 14 clients in two sets, who is forgotten depends on the key alone.
    let remembered = || {
        let buckets = table::<2>();
        let rate = Rate::per_hour(1);
        let clients: Vec<_> = (0..14).map(|n| n.to_string()).collect();
        clients.iter().for_each(|client| buckets.take(&[client], rate, HOUR).unwrap());
        clients.iter().map(|client| buckets.take(&[client], rate, HOUR).is_err()).collect::<Vec<_>>()
    };
    let first = remembered();
    assert!((0..32).any(|_| remembered() != first));
}

proptest! {
    /// Against a bucket that counts: calls that flow in by fractions, up to the limit.
    #[test]
    fn S16_as_many_as_a_bucket_would_give(
        limit in prop_oneof![1..100_u32, 1..1_000_000_u32],
        pauses in prop::collection::vec(prop_oneof![Just(0), 0..10 * SECOND, 0..HOUR], 1..200),
    ) {
        let rate = Rate::per_hour(limit);
        let (mut now, mut full_at) = (0, 0);
        // In units of which an hour's worth of time is one call: exact.
        let (call, capacity) = (i128::from(HOUR), i128::from(HOUR) * i128::from(limit));
        let mut level = capacity;
        // Of the interval's being rounded up: less than a microsecond for each call.
        let slack = i128::from(limit) * i128::from(limit) * (pauses.len() as i128 + 1);
        for pause in pauses {
            now += pause;
            level = capacity.min(level + i128::from(pause) * i128::from(limit));
            match rate.take(full_at, now) {
                Ok(next) => {
                    prop_assert!(level + slack >= call, "{level} was too little");
                    prop_assert!(next > full_at && next > now && next <= now + HOUR + i64::from(limit));
                    full_at = next;
                    level -= call;
                }
                Err(until) => {
                    prop_assert!(level < call + slack, "{level} was enough");
                    prop_assert!(until > now && until <= now + HOUR / i64::from(limit) + 1);
                    prop_assert!(rate.take(full_at, until - 1).is_err());
                    prop_assert!(rate.take(full_at, until).is_ok());
                }
            }
        }
    }

    /// Whatever a client does, an hour from any moment on has at most twice the limit, and any two hours three times.
    #[test]
    fn S16_never_more_than_a_bucket_and_an_hour(limit in 1..200_u32, pauses in prop::collection::vec(0..120 * SECOND, 1..600)) {
        let rate = Rate::per_hour(limit);
        let (mut now, mut full_at) = (0, 0);
        let mut calls = VecDeque::new();
        for pause in pauses {
            now += pause;
            if let Ok(next) = rate.take(full_at, now) {
                full_at = next;
                calls.push_back(now);
            }
            while calls.front().is_some_and(|call| now - call >= HOUR) {
                calls.pop_front();
            }
            prop_assert!(calls.len() <= 2 * limit as usize);
        }
    }

    #[test]
    fn S16_any_clock_is_taken_without_a_panic(limit: u32, full_at: i64, now: i64) {
        let _ = Rate::per_hour(limit).take(full_at, now);
    }
}

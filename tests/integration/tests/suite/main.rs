//! Tests over real connections, each named after the requirement it proves. One program, so that those that
//! wait run beside those that work.
#![allow(non_snake_case)]

mod attacks;
mod cleanup;
mod cost;
mod crash;
mod delivery;
mod dump;
mod evaluate_once;
mod freshness;
mod guesses;
mod hooks;
mod keys;
mod lazy;
mod linking;
mod merge;
mod merge_random;
mod openid;
mod openid_attacks;
mod pooler;
mod races;
mod refresh;
mod schedule;
mod search_path;
mod secrets;
mod standby;
mod triggers;
mod worker;

//! Tests over real connections, each named after the requirement it proves. One program, so that those that
//! wait run beside those that work.
#![allow(non_snake_case)]

mod attacks;
mod captcha;
mod cleanup;
mod clients;
mod cost;
mod crash;
mod delivery;
mod device_keys;
mod dump;
mod evaluate_once;
mod freshness;
mod guesses;
mod hooks;
mod imports;
mod keys;
mod lazy;
mod linking;
mod merge;
mod merge_random;
mod openid;
mod openid_attacks;
mod pooler;
mod postgrest;
mod proof_of_work;
mod races;
mod rate_limits;
mod refresh;
mod schedule;
mod search_path;
mod secrets;
mod standby;
mod stats;
mod triggers;
mod worker;

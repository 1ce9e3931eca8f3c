//! Taking a database to a newer Postgres, and to a newer version of the extension. `make test-upgrade` runs them.
#![allow(non_snake_case)]

mod catalog;
mod moves;
mod update;

use anon_auth_tests::repository;
use std::path::PathBuf;

/// The folder of the programs of a Postgres that has the extension.
fn programs(version: &str) -> PathBuf {
    repository().join("target/pg").join(version).join("bin").canonicalize().expect("make test-upgrade has made it")
}

/// What is moved to newer versions, see tests/run.sh.
const OLD: &str = "15.19";

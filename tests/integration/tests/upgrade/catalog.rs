//! Whether two databases have the same extension.

use anon_auth_tests::{Database, failed};
use std::collections::BTreeMap;

/// Everything that `\dx+`, `\d+`, `\df+` and `pg_dump` know of the extension.
fn catalog(db: &Database) -> BTreeMap<(String, String), String> {
    let rows = db.connect().query(include_str!("catalog.sql"), &[]).unwrap_or_else(failed("catalog.sql"));
    rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect()
}

/// What is not the same in `db` as in `expected`, a line for each property of an object.
pub fn differences(db: &Database, expected: &Database) -> Vec<String> {
    let (found, expected) = (catalog(db), catalog(expected));
    let names: std::collections::BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let show = |value: Option<&String>| value.map_or("nothing".to_owned(), |value| format!("\"{value}\""));
    names
        .into_iter()
        .filter(|name| found.get(name) != expected.get(name))
        .map(|name| format!("{} of {}: {} for {}", name.1, name.0, show(found.get(name)), show(expected.get(name))))
        .collect()
}

//! Whether two databases have the same extension.

use anon_auth_tests::{Database, failed, run, value};
use postgres::Client;
use std::collections::BTreeMap;

/// Everything that `\dx+`, `\d+`, `\df+` and `pg_dump` know of the extension.
fn catalog(db: &Database) -> BTreeMap<(String, String), String> {
    let mut client = db.connect();
    let rows = client.query(include_str!("catalog.sql"), &[]).unwrap_or_else(failed("catalog.sql"));
    let mut catalog: BTreeMap<(String, String), String> =
        rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
    for ((object, property), text) in &mut catalog {
        if object.starts_with("view ") && property == "definition" {
            *text = read_again(&mut client, text);
        }
    }
    catalog
}

/// The definition of a view as Postgres shows it when it has made the view from such a text, as a restore does. It
/// writes out types and names that were not there at first.
fn read_again(client: &mut Client, definition: &str) -> String {
    let mut transaction = client.transaction().unwrap_or_else(failed("begin"));
    run(&mut transaction, &format!("create temp view again as {definition}"));
    value(&mut transaction, "select pg_get_viewdef('pg_temp.again'::regclass)")
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

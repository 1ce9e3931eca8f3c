//! What a merge did, table by table.

use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Whose rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Guest,
    Account,
}

impl Side {
    pub fn other(self) -> Self {
        match self {
            Side::Guest => Side::Account,
            Side::Account => Side::Guest,
        }
    }
}

/// Rows of one table.
#[derive(Default)]
pub struct Counts {
    rule: &'static str,
    /// Of the guest, before.
    guest: u64,
    /// Of the account, before.
    account: u64,
    /// Of the guest, deleted.
    dropped: u64,
    /// Of the account, deleted.
    replaced: u64,
}

/// Rows of all tables, by the table's name.
#[derive(Default)]
pub struct Report(BTreeMap<String, Counts>);

impl Report {
    /// Notes rows that were there before.
    pub fn found(&mut self, table: &str, rule: &'static str, guest: u64, account: u64) {
        let counts = self.counts(table, rule);
        counts.guest += guest;
        counts.account += account;
    }

    /// Notes rows that were deleted.
    pub fn deleted(&mut self, table: &str, rule: &'static str, side: Side, rows: u64) {
        let counts = self.counts(table, rule);
        match side {
            Side::Guest => counts.dropped += rows,
            Side::Account => counts.replaced += rows,
        }
    }

    fn counts(&mut self, table: &str, rule: &'static str) -> &mut Counts {
        self.0.entry(table.to_owned()).or_insert_with(|| Counts { rule, ..Counts::default() })
    }

    /// An entry for each table: `moved` and `dropped` are rows of the guest, `kept` and `replaced` of the account.
    pub fn to_json(&self) -> Value {
        let tables = self.0.iter().map(|(table, counts)| {
            json!({
                "table": table,
                "rule": counts.rule,
                "moved": counts.guest.saturating_sub(counts.dropped),
                "kept": counts.account.saturating_sub(counts.replaced),
                "dropped": counts.dropped,
                "replaced": counts.replaced,
            })
        });
        tables.collect()
    }
}

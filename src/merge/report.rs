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
    /// As `on_conflict` has it.
    pub fn name(self) -> &'static str {
        match self {
            Side::Guest => "guest",
            Side::Account => "account",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        [Side::Guest, Side::Account].into_iter().find(|side| side.name() == name)
    }

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
    /// Of the guest and the account, before.
    guest: u64,
    account: u64,
    /// Of the guest, the account and others, deleted.
    guest_deleted: u64,
    account_deleted: u64,
    others_deleted: u64,
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

    /// Notes rows of the guest, the account and others that were deleted.
    pub fn deleted(&mut self, table: &str, rule: &'static str, guest: u64, account: u64, others: u64) {
        let counts = self.counts(table, rule);
        counts.guest_deleted += guest;
        counts.account_deleted += account;
        counts.others_deleted += others;
    }

    fn counts(&mut self, table: &str, rule: &'static str) -> &mut Counts {
        self.0.entry(table.to_owned()).or_insert_with(|| Counts { rule, ..Counts::default() })
    }

    /// An entry for each table: `moved` and `dropped` are rows of the guest, `kept` and `replaced` of the account.
    /// Rows of others that hung on rows that are gone were dropped, too.
    pub fn to_json(&self) -> Value {
        let tables = self.0.iter().map(|(table, counts)| {
            json!({
                "table": table,
                "rule": counts.rule,
                "moved": counts.guest.saturating_sub(counts.guest_deleted),
                "kept": counts.account.saturating_sub(counts.account_deleted),
                "dropped": counts.guest_deleted + counts.others_deleted,
                "replaced": counts.account_deleted,
            })
        });
        tables.collect()
    }
}

//! Rows of application tables go, and whatever references them does what its foreign key says.

use super::mover::{Mover, Whose};
use super::references::{Keys, Reference, Selection};
use super::report::Side;
use super::rows::{self, RowId};
use crate::application_table::Table;
use crate::error::{Result, error};
use crate::foreign_keys::OnDelete;
use crate::spi;
use pgrx::pg_sys;
use std::rc::Rc;

impl Mover {
    /// Deletes the rows of a table, and does to what references them what the foreign keys say.
    pub fn delete(&mut self, reference: &Reference, rows: Selection, side: Side) -> Result<u64> {
        if !rows::exists(reference, &rows)? {
            return Ok(0);
        }
        let columns = self.referenced_columns(reference.table.relation)?;
        if !columns.is_empty() {
            let found = rows::fetch(reference, &rows, &columns)?;
            return self.delete_rows(&reference.table, &found, side);
        }
        rows::check_rights(&reference.table, None, &[])?;
        let deleted = rows::run_delete(&reference.table, &rows)?;
        self.note_deleted(&reference.table, by_side(side, deleted));
        Ok(deleted)
    }

    /// The same for single rows, which are locked.
    pub fn delete_rows(&mut self, table: &Table, rows: &[RowId], side: Side) -> Result<u64> {
        let mut rows: Vec<RowId> = rows.iter().filter(|row| self.dropping.insert(row.place())).cloned().collect();
        if rows.is_empty() {
            return Ok(0);
        }
        let all = self.references(table.relation)?;
        // What is deleted by one key may be what another forbids to leave.
        let order = |child: &Reference| match child.on_delete {
            OnDelete::Cascade => 0,
            OnDelete::SetNull | OnDelete::SetDefault => 1,
            OnDelete::Forbid => 2,
        };
        let mut children: Vec<_> = all.iter().collect();
        children.sort_by_key(|child| order(child));
        let keys_for = |child: &&Rc<Reference>| {
            let mut keys = Keys::default();
            for row in &rows {
                keys.push(row.key(child), row.key(child));
            }
            (keys.len() > 0).then_some(keys)
        };
        let children: Vec<_> = children.into_iter().filter_map(|child| Some((child, keys_for(&child)?))).collect();
        let whose = self.whose(table, &rows, side)?;
        for (child, keys) in &children {
            if self.apply_delete_action(child, keys, side)? {
                // A trigger may have changed them: one that counts what hangs on them, for example.
                rows = rows::latest(table, &rows)?;
                self.dropping.extend(rows.iter().map(RowId::place));
            }
        }
        let settled: Vec<pg_sys::Oid> = all.iter().flat_map(|child| child.family.clone()).collect();
        rows::check_rights(table, None, &settled)?;
        let deleted =
            rows::without_actions(&rows::delete_statement(table, &rows::selection(&rows)), settled, || {
                rows::run_delete(table, &rows::selection(&rows))
            })?;
        if deleted != rows.len() as u64 {
            return Err(error(409, "conflict", format!("rows of table {} could not be deleted", table.name))
                .about(&table.name, "")
                .hint("A trigger of the table keeps them, or somebody else changes them at this moment."));
        }
        self.note_deleted(table, whose);
        // Again, for what a trigger added: Postgres was kept from looking after it.
        for (child, keys) in children {
            self.apply_delete_action(child, &keys, side)?;
            if !self.rows_that_stay(child, &keys)?.is_empty() {
                return Err(rows::left_behind(child));
            }
        }
        Ok(deleted)
    }

    fn note_deleted(&mut self, table: &Table, [guest, account, others]: [u64; 3]) {
        let rule = self.rules.of(table.relation).name();
        self.report.deleted(&table.name, rule, guest, account, others);
    }

    /// How many of the rows are the guest's, the account's, and others'.
    fn whose(&self, table: &Table, rows: &[RowId], side: Side) -> Result<[u64; 3]> {
        let Some(Whose { conditions: [guest, account], users }) = self.followed.get(&table.relation) else {
            return Ok(by_side(side, rows.len() as u64));
        };
        let Selection { from, condition, mut types, mut values } = rows::selection(rows);
        types.extend([pg_sys::TEXTOID; 2]);
        values.extend(users.iter().map(|user| spi::value(user.as_str())));
        let sql = format!(
            "select pg_catalog.count(*) filter (where {guest}),
                    pg_catalog.count(*) filter (where {account} and {guest} is not true)
             from {} as t{from} where {condition}",
            table.target
        );
        let (mut guest, mut account) = (0, 0);
        table.run(
            &sql,
            &types,
            &values,
            "",
            || true,
            |row| {
                guest = row.get::<i64>(1).unwrap_or(0) as u64;
                account = row.get::<i64>(2).unwrap_or(0) as u64;
                Ok(())
            },
        )?;
        Ok([guest, account, (rows.len() as u64).saturating_sub(guest + account)])
    }

    /// Does to rows what their foreign key says when the rows they reference are deleted. Returns whether there were any.
    pub fn apply_delete_action(&mut self, child: &Rc<Reference>, keys: &Keys, side: Side) -> Result<bool> {
        let found = self.rows_that_stay(child, keys)?;
        if found.is_empty() {
            return Ok(false);
        }
        let value = match child.on_delete {
            OnDelete::Cascade => {
                if !self.followed.contains_key(&child.table.relation) {
                    let rule = self.rule(child.table.relation).name();
                    let [guest, account, _] = by_side(side, self.count_deleted_once(child, keys)?);
                    self.report.found(&child.table.name, rule, guest, account);
                }
                self.delete_rows(&child.table, &found, side)?;
                return Ok(true);
            }
            OnDelete::SetNull => "null",
            OnDelete::SetDefault => "default",
            OnDelete::Forbid => {
                let message = format!(
                    "rows of table {} keep rows that would have to go, by foreign key \"{}\"",
                    child.table.name, child.name
                );
                return Err(error(409, "merge_conflict", message)
                    .about(&child.table.name, &child.name)
                    .hint("Give the foreign key another ON DELETE action, or set another merge rule."));
            }
        };
        rows::check_rights(&child.table, Some(&child.set_columns), &[])?;
        let rows = rows::selection(&found);
        let assignments: Vec<_> = child.set_columns.iter().map(|column| format!("{column} = {value}")).collect();
        let sql = rows::update_statement(&child.table, &assignments.join(", "), &rows);
        child.run(&sql, &rows, |_| Ok(()))?;
        Ok(true)
    }

    /// The rows that have one of the keys and are not about to go themselves.
    fn rows_that_stay(&mut self, child: &Reference, keys: &Keys) -> Result<Vec<RowId>> {
        let columns = self.referenced_columns(child.table.relation)?;
        let found = rows::fetch(child, &child.rows(keys), &columns)?;
        Ok(found.into_iter().filter(|row| !self.dropping.contains(&row.place())).collect())
    }
}

/// Rows that are all one side's: the guest's, the account's, others'.
fn by_side(side: Side, rows: u64) -> [u64; 3] {
    match side {
        Side::Guest => [rows, 0, 0],
        Side::Account => [0, rows, 0],
    }
}

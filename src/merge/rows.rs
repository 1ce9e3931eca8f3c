//! Rows of application tables: which they are, and the statements about them.

use super::references::{Keys, Reference, Selection};
use crate::application_table::Table;
use crate::error::{Error, Result, error};
use crate::executor::{self, LeftOut};
use crate::spi::{self, Row, Value};
use pgrx::itemptr::{item_pointer_to_u64, u64_to_item_pointer};
use pgrx::pg_sys;
use std::collections::HashSet;
use std::ffi::CString;

/// Where a row is: `tableoid` and `ctid`.
pub type Place = (pg_sys::Oid, u64);

/// A row, good until it is changed.
#[derive(Clone)]
pub struct RowId {
    place: Place,
    /// The columns by which its table is referenced, by their numbers, as text.
    keys: Vec<(i16, Option<String>)>,
}

impl RowId {
    /// Reads `tableoid` and `ctid` from column `first` on.
    pub fn read(row: &Row, first: i32, keys: Vec<(i16, Option<String>)>) -> Self {
        let table = row.get(first).unwrap_or(pg_sys::InvalidOid);
        Self { place: (table, row.get(first + 1).map_or(0, item_pointer_to_u64)), keys }
    }

    pub fn place(&self) -> Place {
        self.place
    }

    pub fn key(&self, reference: &Reference) -> Vec<Option<String>> {
        let value = |number| self.keys.iter().find(|(own, _)| *own == number).and_then(|(_, value)| value.clone());
        reference.referenced().into_iter().map(value).collect()
    }
}

/// Rows as two parameters, `oid[]` and `tid[]`.
fn places<'a>(rows: impl Iterator<Item = &'a RowId>) -> [Value; 2] {
    let pointer = |place| {
        let mut pointer = pg_sys::ItemPointerData::default();
        u64_to_item_pointer(place, &mut pointer);
        pointer
    };
    let (tables, pointers): (Vec<_>, Vec<_>) = rows.map(|row| (row.place.0, pointer(row.place.1))).unzip();
    [spi::value(tables), spi::value(pointers)]
}

/// Rows, by where they are.
pub fn selection(rows: &[RowId]) -> Selection {
    Selection {
        from: ", rows from (pg_catalog.unnest($1), pg_catalog.unnest($2)) as p(o, c)".into(),
        condition: "t.tableoid operator(pg_catalog.=) p.o and t.ctid operator(pg_catalog.=) p.c".into(),
        types: vec![pg_sys::OIDARRAYOID, pg_sys::TIDARRAYOID],
        values: places(rows.iter()).into(),
    }
}

/// The rows as far as they are still there, wherever a trigger has put their latest versions.
pub fn latest(table: &Table, rows: &[RowId]) -> Result<Vec<RowId>> {
    // Postgres's own function takes a name. OFFSET keeps it from being called again for each row of the table.
    let sql = format!(
        "select t.tableoid, t.ctid
         from (select p.o, pg_catalog.currtid2(p.o::pg_catalog.regclass::text, p.c) as c
               from rows from (pg_catalog.unnest($1), pg_catalog.unnest($2)) as p(o, c) offset 0) as p
         join {} as t on t.tableoid operator(pg_catalog.=) p.o and t.ctid operator(pg_catalog.=) p.c",
        table.target
    );
    let mut found = Vec::new();
    let read = |row: &Row| {
        found.push(RowId::read(row, 1, Vec::new()));
        Ok(())
    };
    let types = [pg_sys::OIDARRAYOID, pg_sys::TIDARRAYOID];
    table.run(&sql, &types, &places(rows.iter()), "", || true, read)?;
    Ok(found)
}

/// Adds the losers' columns to the winners'.
pub fn add_up(reference: &Reference, columns: &[String], pairs: &[(RowId, RowId)]) -> Result<()> {
    let number = |i: usize| format!("s{i}");
    let sums: String = columns
        .iter()
        .enumerate()
        .map(|(i, column)| format!(", pg_catalog.sum(l.{column}) as {}", number(i)))
        .collect();
    let assignments: Vec<_> = columns
        .iter()
        .enumerate()
        .map(|(i, column)| {
            let sum = number(i);
            format!(
                "{column} = case when s.{sum} is null then t.{column} when t.{column} is null then s.{sum}
                 else t.{column} operator(pg_catalog.+) s.{sum} end"
            )
        })
        .collect();
    let target = &reference.table.target;
    let sql = format!(
        "update {target} as t set {}
         from (select p.wo, p.wc{sums}
               from rows from (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4))
                    as p(lo, lc, wo, wc)
               join {target} as l on l.tableoid operator(pg_catalog.=) p.lo
                                 and l.ctid operator(pg_catalog.=) p.lc
               group by p.wo, p.wc) as s
         where t.tableoid operator(pg_catalog.=) s.wo and t.ctid operator(pg_catalog.=) s.wc",
        assignments.join(", ")
    );
    let [losing_tables, losers] = places(pairs.iter().map(|(loser, _)| loser));
    let [winning_tables, winners] = places(pairs.iter().map(|(_, winner)| winner));
    let of = Selection {
        from: String::new(),
        condition: String::new(),
        types: vec![pg_sys::OIDARRAYOID, pg_sys::TIDARRAYOID, pg_sys::OIDARRAYOID, pg_sys::TIDARRAYOID],
        values: vec![losing_tables, losers, winning_tables, winners],
    };
    check_rights(&reference.table, Some(columns), &[])?;
    let expected = pairs.iter().map(|(_, winner)| winner.place).collect::<HashSet<_>>().len() as u64;
    if reference.run(&sql, &of, |_| Ok(()))? != expected {
        return Err(error(409, "conflict", format!("rows of table {} could not be added up", reference.table.name))
            .about(&reference.table.name, "")
            .hint("A trigger of the table keeps them, or somebody else changes them at this moment."));
    }
    Ok(())
}

/// # Errors
/// `merge_conflict` where writing the table would lend its owner's rights.
pub fn check_rights(table: &Table, updated: Option<&[String]>, settled: &[pg_sys::Oid]) -> Result<()> {
    match table.would_lend_rights(updated, settled)? {
        None => Ok(()),
        Some(why) => Err(error(409, "merge_conflict", format!("table {} cannot be written{why}", table.name))
            .about(&table.name, "")
            .hint("Let the tables have one owner and no rewrite rules, and use a session without temporary tables of other roles.")),
    }
}

pub fn left_behind(reference: &Reference) -> Error {
    let message = format!("rows of table {} did not follow by \"{}\"", reference.table.name, reference.name);
    error(409, "merge_conflict", message)
        .about(&reference.table.name, &reference.name)
        .hint("A trigger of the table keeps or restores their key.")
}

/// Whether there are such rows.
pub fn exists(reference: &Reference, rows: &Selection) -> Result<bool> {
    exists_in(&reference.table.target, reference, rows)
}

/// Whether there are such rows in the table or in one that inherits from it.
pub fn exists_in_heirs(reference: &Reference, rows: &Selection) -> Result<bool> {
    exists_in(&reference.table.name, reference, rows)
}

fn exists_in(target: &str, reference: &Reference, rows: &Selection) -> Result<bool> {
    let sql = format!("select from {target} as t{} where {} limit 1", rows.from, rows.condition);
    Ok(reference.run(&sql, rows, |_| Ok(()))? > 0)
}

pub fn count(reference: &Reference, rows: &Selection) -> Result<u64> {
    let sql = format!(
        "select pg_catalog.count(*) from {} as t{} where {}",
        reference.table.target, rows.from, rows.condition
    );
    let mut count = 0;
    reference.run(&sql, rows, |row| {
        count = row.get::<i64>(1).unwrap_or(0) as u64;
        Ok(())
    })?;
    Ok(count)
}

/// Locks rows, as they are.
///
/// # Arguments
/// * `strength` – as in FOR UPDATE: the weakest that keeps away what is not to happen
///
/// # Errors
/// `conflict` where one is not what it was.
pub fn lock<'a>(reference: &Reference, rows: impl Iterator<Item = &'a RowId>, strength: &str) -> Result<()> {
    let mut seen = HashSet::new();
    let rows: Vec<_> = rows.filter(|row| seen.insert(row.place)).cloned().collect();
    let selected = selection(&rows);
    let sql = format!(
        "select from {} as t{} where {} for {strength} of t",
        reference.table.target, selected.from, selected.condition
    );
    if reference.run(&sql, &selected, |_| Ok(()))? != rows.len() as u64 {
        let message = format!("rows of table {} were changed meanwhile", reference.table.name);
        return Err(error(409, "conflict", message).about(&reference.table.name, ""));
    }
    Ok(())
}

/// Locks the rows, so that nobody adds any that reference them, and returns them, each once, with the columns by
/// which their table is referenced.
pub fn fetch(reference: &Reference, rows: &Selection, columns: &[i16]) -> Result<Vec<RowId>> {
    let names = reference.table.column_names(columns)?;
    let list: String = names.iter().map(|name| format!(", t.{name}::text")).collect();
    let sql = format!(
        "select t.tableoid, t.ctid{list} from {} as t{} where {} for update of t",
        reference.table.target, rows.from, rows.condition
    );
    let mut found = Vec::new();
    reference.run(&sql, rows, |row| {
        let keys = columns.iter().enumerate().map(|(i, number)| (*number, row.get(3 + i as i32))).collect();
        found.push(RowId::read(row, 1, keys));
        Ok(())
    })?;
    Ok(found)
}

/// What the keys by which `child` references rows that are about to change become, where they do. The rows are locked: nobody
/// else gives them other keys meanwhile.
pub fn changed_keys(reference: &Reference, child: &Reference, rows: &Selection) -> Result<Keys> {
    let numbers = child.referenced();
    let names = reference.table.column_names(&numbers)?;
    let old: Vec<_> = names.iter().map(|name| format!("t.{name}::text")).collect();
    let new: Vec<_> = numbers
        .iter()
        .zip(&names)
        .map(|(number, name)| match reference.new_value_of(*number) {
            Some(value) => format!("({value})::text"),
            None => format!("t.{name}::text"),
        })
        .collect();
    let sql = format!(
        "select {}, {} from {} as t{} where {} for update of t",
        old.join(", "),
        new.join(", "),
        reference.table.target,
        rows.from,
        rows.condition
    );
    let mut keys = Keys::default();
    let n = names.len() as i32;
    reference.run(&sql, rows, |row| {
        let key =
            |columns: std::ops::RangeInclusive<i32>| columns.map(|i| row.get(i)).collect::<Vec<Option<String>>>();
        let (old, new) = (key(1..=n), key(n + 1..=2 * n));
        if old != new {
            keys.push(old, new);
        }
        Ok(())
    })?;
    Ok(keys)
}

/// An UPDATE of rows that a FROM finds.
pub fn update_statement(table: &Table, assignments: &str, rows: &Selection) -> String {
    let from = rows.from.trim_start_matches(", ");
    format!("update {} as t set {assignments} from {from} where {}", table.target, rows.condition)
}

pub fn delete_statement(table: &Table, rows: &Selection) -> String {
    let using = match rows.from.as_str() {
        "" => String::new(),
        from => format!(" using {}", from.trim_start_matches(", ")),
    };
    format!("delete from {} as t{using} where {}", table.target, rows.condition)
}

pub fn run_delete(table: &Table, rows: &Selection) -> Result<u64> {
    table.run(&delete_statement(table, rows), &rows.types, &rows.values, "", || true, |_| Ok(()))
}

/// Runs `body`, which runs the statement `sql`, without the actions of the foreign keys `settled`.
pub fn without_actions<T>(sql: &str, settled: Vec<pg_sys::Oid>, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let left_out = LeftOut { keys: settled, own: None };
    executor::without_triggers(&CString::new(sql).unwrap_or_default(), left_out, body)
}

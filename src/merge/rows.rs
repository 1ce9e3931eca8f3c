//! Rows of application tables get another key, or go; whatever references them follows.
//!
//! Postgres's own actions of foreign keys would run the triggers of the next table with the rights of this one's
//! owner (up to Postgres 17), and would drop what hangs on a row that collides. So the actions are carried out here,
//! table by table, each as its owner, and are left out of the statements that would cause them.

use super::collisions::{self, Collision};
use super::references::{Keys, OnUpdate, Reference, Selection};
use super::report::{Report, Side};
use super::rules::{Rule, Rules};
use crate::application_table::Table;
use crate::error::{Error, Result, error};
use crate::executor::{self, LeftOut};
use crate::foreign_keys::OnDelete;
use crate::spi::{self, Row};
use pgrx::pg_sys;
use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::rc::Rc;

/// A row, good until it is changed.
#[derive(Clone)]
pub struct RowId {
    table: pg_sys::Oid,
    place: String,
    /// The columns by which its table is referenced, as text.
    keys: HashMap<i16, Option<String>>,
}

impl RowId {
    /// Reads `tableoid` and `ctid` from column `first` on.
    pub fn read(row: &Row, first: i32, keys: HashMap<i16, Option<String>>) -> Self {
        Self {
            table: row.get(first).unwrap_or(pg_sys::InvalidOid),
            place: row.get(first + 1).unwrap_or_default(),
            keys,
        }
    }

    fn id(&self) -> (pg_sys::Oid, String) {
        (self.table, self.place.clone())
    }

    fn key(&self, reference: &Reference) -> Vec<Option<String>> {
        reference.referenced().iter().map(|number| self.keys.get(number).cloned().flatten()).collect()
    }
}

/// Rows, by their ids.
fn selection(rows: &[&RowId]) -> Selection {
    Selection {
        from: ", rows from (pg_catalog.unnest($1), pg_catalog.unnest($2)) as p(o, c)".into(),
        condition: "t.tableoid = p.o and t.ctid = p.c::pg_catalog.tid".into(),
        types: vec![pg_sys::OIDARRAYOID, pg_sys::TEXTARRAYOID],
        values: vec![
            spi::value(rows.iter().map(|row| row.table).collect::<Vec<_>>()),
            spi::value(rows.iter().map(|row| row.place.clone()).collect::<Vec<_>>()),
        ],
    }
}

/// How deep rows may reference rows before it is taken for a circle.
const DEPTH: u32 = 100;

/// How to tell whose the rows of a table are.
pub struct Whose {
    /// SQL for "the row `t` is the guest's", who is `$3`, and for "it is the account's", which is `$4`.
    pub conditions: [String; 2],
    /// `$3` and `$4`, as text.
    pub users: [String; 2],
}

/// A merge under way.
pub struct Mover {
    rules: Rules,
    /// Whose row stays where two collide.
    preferred: Side,
    /// Tables with columns that hold the id of a user: whose their rows are, those columns tell.
    followed: HashMap<pg_sys::Oid, Whose>,
    pub report: Report,
    references: HashMap<pg_sys::Oid, Rc<Vec<Rc<Reference>>>>,
    /// Keys whose rows are in the report. Rows that come to have one of them had another.
    counted: HashSet<(Option<pg_sys::Oid>, Vec<String>)>,
    /// Rows about to go.
    dropping: HashSet<(pg_sys::Oid, String)>,
    depth: u32,
}

impl Mover {
    pub fn new(rules: Rules, preferred: Side, followed: HashMap<pg_sys::Oid, Whose>) -> Self {
        Self {
            rules,
            preferred,
            followed,
            report: Report::default(),
            references: HashMap::new(),
            counted: HashSet::new(),
            dropping: HashSet::new(),
            depth: 0,
        }
    }

    pub fn rule(&self, table: pg_sys::Oid) -> &Rule {
        self.rules.of(table)
    }

    /// What references a table.
    fn references(&mut self, table: pg_sys::Oid) -> Result<Rc<Vec<Rc<Reference>>>> {
        if let Some(known) = self.references.get(&table) {
            return Ok(known.clone());
        }
        let found = Rc::new(Reference::to(table)?.into_iter().map(Rc::new).collect::<Vec<_>>());
        self.references.insert(table, found.clone());
        Ok(found)
    }

    /// The columns by which a table is referenced.
    fn referenced_columns(&mut self, table: pg_sys::Oid) -> Result<Vec<i16>> {
        let mut columns: Vec<i16> =
            self.references(table)?.iter().flat_map(|reference| reference.referenced()).collect();
        columns.sort_unstable();
        columns.dedup();
        Ok(columns)
    }

    /// Gives rows another key: those that reference one of the old keys reference the new one from then on. Where
    /// they would collide, one of the two goes, and what references it references the other.
    ///
    /// # Arguments
    /// * `side` – whose rows they are
    ///
    /// Returns how many rows were changed or deleted.
    pub fn repoint(&mut self, reference: &Rc<Reference>, keys: &Keys, side: Side) -> Result<u64> {
        if keys.len() == 0 || !exists(reference, &reference.rows(keys))? {
            return Ok(0);
        }
        if self.depth >= DEPTH {
            let message = format!("rows of table {} reference each other in a circle", reference.table.name);
            return Err(error(409, "merge_conflict", message).about(&reference.table.name, &reference.name));
        }
        self.depth += 1;
        let is_followed = self.followed.contains_key(&reference.table.relation);
        let mut changed = 0;
        if !is_followed {
            let rule = self.rule(reference.table.relation).name();
            let movers = self.count_once(reference, keys)?;
            let existing = self.count_once(reference, &keys.swapped())?;
            let (guest, account) = if side == Side::Guest { (movers, existing) } else { (existing, movers) };
            self.report.found(&reference.table.name, rule, guest, account);
            let loser = match self.rule(reference.table.relation) {
                Rule::KeepAccount => Some(Side::Guest),
                Rule::KeepGuest => Some(Side::Account),
                _ => None,
            };
            match loser {
                Some(loser) if loser == side => {
                    changed = self.delete(reference, reference.rows(keys), side)?;
                    self.depth -= 1;
                    return Ok(changed);
                }
                Some(loser) => changed += self.delete(reference, reference.rows(&keys.swapped()), loser)?,
                None => {}
            }
        }
        changed += self.resolve(reference, keys, side)?;
        changed += self.update(reference, keys, side)?;
        self.depth -= 1;
        Ok(changed)
    }

    /// The number of rows with the old keys, as far as they have not been counted.
    fn count_once(&mut self, reference: &Reference, keys: &Keys) -> Result<u64> {
        let keys = keys.filtered(|key| self.counted.insert((reference.constraint, key.to_vec())));
        if keys.len() == 0 { Ok(0) } else { count(reference, &reference.rows(&keys)) }
    }

    /// Of rows that would collide, lets one go.
    fn resolve(&mut self, reference: &Rc<Reference>, keys: &Keys, side: Side) -> Result<u64> {
        let columns = self.referenced_columns(reference.table.relation)?;
        let mut resolved = 0;
        for _ in 0..DEPTH {
            let found = collisions::find(reference, keys, &columns)?;
            if found.is_empty() {
                return Ok(resolved);
            }
            let pairs = pairs(found, side != self.preferred);
            let loser_side = if side == self.preferred { side.other() } else { side };
            // Rows that are being added to one of the two are waited for; then all can be seen, and nobody adds more.
            lock(reference, pairs.iter().map(|(loser, _)| loser), "update")?;
            lock(reference, pairs.iter().map(|(_, winner)| winner), "no key update")?;
            // First what references them. It may be rows of this very table; then ids are not what they were.
            let mut changed = 0;
            for child in self.references(reference.table.relation)?.iter() {
                if matches!(self.rule(child.table.relation), Rule::Ignore) {
                    continue;
                }
                let mut keys = Keys::default();
                for (loser, winner) in &pairs {
                    keys.push(loser.key(child), winner.key(child));
                }
                changed += self.repoint(child, &keys, loser_side)?;
            }
            resolved += changed;
            if changed > 0 {
                continue;
            }
            if let Rule::Sum(columns) = self.rule(reference.table.relation) {
                add_up(reference, columns, &pairs)?;
            }
            let losers: Vec<RowId> = pairs.into_iter().map(|(loser, _)| loser).collect();
            resolved += self.delete_rows(&reference.table, &losers, loser_side)?;
        }
        let message = format!("rows of table {} collide again and again", reference.table.name);
        Err(error(409, "merge_conflict", message).about(&reference.table.name, ""))
    }

    /// The UPDATE, and what follows from it for tables that reference the columns that it changes.
    fn update(&mut self, reference: &Rc<Reference>, keys: &Keys, side: Side) -> Result<u64> {
        let rows = reference.rows(keys);
        if !exists(reference, &rows)? {
            return Ok(0);
        }
        let table = &reference.table;
        let numbers = reference.numbers();
        let all = self.references(table.relation)?;
        let followers: Vec<_> = all
            .iter()
            .filter(|child| child.references_any(&numbers) && child.on_update == OnUpdate::Follow)
            .collect();
        let settled: Vec<pg_sys::Oid> = followers.iter().flat_map(|child| child.family.clone()).collect();
        check_rights(table, Some(&reference.column_names()), &settled)?;

        let mut follow = Vec::new();
        for child in followers {
            follow.push((child.clone(), changed_keys(reference, child, &rows)?));
        }
        let sql = format!(
            "update {} as t set {} from {} where {}",
            table.target,
            reference.assignments(),
            rows.from.trim_start_matches(", "),
            rows.condition
        );
        let changed = without_actions(&sql, settled, || reference.run(&sql, &rows, |_| Ok(())))?;
        for (child, keys) in follow {
            self.repoint(&child, &keys, side)?;
            // Postgres was kept from looking after it.
            if exists(&child, &child.rows(&keys))? {
                return Err(left_behind(&child));
            }
        }
        Ok(changed)
    }

    /// Deletes the rows of a table, and does to what references them what the foreign keys say.
    pub fn delete(&mut self, reference: &Reference, rows: Selection, side: Side) -> Result<u64> {
        if !exists(reference, &rows)? {
            return Ok(0);
        }
        let columns = self.referenced_columns(reference.table.relation)?;
        if !columns.is_empty() {
            let found = fetch(reference, &rows, &columns)?;
            return self.delete_rows(&reference.table, &found, side);
        }
        check_rights(&reference.table, None, &[])?;
        let deleted = run_delete(&reference.table, &rows)?;
        self.note_deleted(&reference.table, by_side(side, deleted));
        Ok(deleted)
    }

    /// The same for single rows, which are locked.
    fn delete_rows(&mut self, table: &Table, rows: &[RowId], side: Side) -> Result<u64> {
        let rows: Vec<&RowId> = rows.iter().filter(|row| self.dropping.insert(row.id())).collect();
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
        for (child, keys) in &children {
            self.apply_delete_action(child, keys, side)?;
        }
        let whose = self.whose(table, &rows, side)?;
        let settled: Vec<pg_sys::Oid> = all.iter().flat_map(|child| child.family.clone()).collect();
        check_rights(table, None, &settled)?;
        let deleted = without_actions(&delete_statement(table, &selection(&rows)), settled, || {
            run_delete(table, &selection(&rows))
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
                return Err(left_behind(child));
            }
        }
        Ok(deleted)
    }

    fn note_deleted(&mut self, table: &Table, [guest, account, others]: [u64; 3]) {
        let rule = self.rules.of(table.relation).name();
        self.report.deleted(&table.name, rule, guest, account, others);
    }

    /// How many of the rows are the guest's, the account's, and others'.
    fn whose(&self, table: &Table, rows: &[&RowId], side: Side) -> Result<[u64; 3]> {
        let Some(Whose { conditions: [guest, account], users }) = self.followed.get(&table.relation) else {
            return Ok(by_side(side, rows.len() as u64));
        };
        let Selection { from, condition, mut types, mut values } = selection(rows);
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

    /// Does to rows what their foreign key says when the rows they reference are deleted.
    pub fn apply_delete_action(&mut self, child: &Rc<Reference>, keys: &Keys, side: Side) -> Result<()> {
        let found = self.rows_that_stay(child, keys)?;
        if found.is_empty() {
            return Ok(());
        }
        let value = match child.on_delete {
            OnDelete::Cascade => {
                if !self.followed.contains_key(&child.table.relation) {
                    let rule = self.rule(child.table.relation).name();
                    let rows = found.len() as u64;
                    let [guest, account, _] = by_side(side, rows);
                    self.report.found(&child.table.name, rule, guest, account);
                }
                self.delete_rows(&child.table, &found, side)?;
                return Ok(());
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
        check_rights(&child.table, Some(&child.set_columns), &[])?;
        let rows = selection(&found.iter().collect::<Vec<_>>());
        let assignments: Vec<_> = child.set_columns.iter().map(|column| format!("{column} = {value}")).collect();
        let sql = format!(
            "update {} as t set {} from {} where {}",
            child.table.target,
            assignments.join(", "),
            rows.from.trim_start_matches(", "),
            rows.condition
        );
        child.run(&sql, &rows, |_| Ok(()))?;
        Ok(())
    }

    /// The rows that have one of the keys and are not about to go themselves.
    fn rows_that_stay(&mut self, child: &Reference, keys: &Keys) -> Result<Vec<RowId>> {
        let columns = self.referenced_columns(child.table.relation)?;
        let found = fetch(child, &child.rows(keys), &columns)?;
        Ok(found.into_iter().filter(|row| !self.dropping.contains(&row.id())).collect())
    }
}

/// Rows that are all one side's: the guest's, the account's, others'.
fn by_side(side: Side, rows: u64) -> [u64; 3] {
    match side {
        Side::Guest => [rows, 0, 0],
        Side::Account => [0, rows, 0],
    }
}

/// Losers and winners; a row loses once, and a winner of this round loses in none.
fn pairs(collisions: Vec<Collision>, mover_loses: bool) -> Vec<(RowId, RowId)> {
    let mut lost = HashSet::new();
    let mut pairs = Vec::new();
    for Collision { mover, existing } in collisions {
        let (loser, winner) = if mover_loses { (mover, existing) } else { (existing, mover) };
        if lost.insert(loser.id()) {
            pairs.push((loser, winner));
        }
    }
    // Among rows that collide with each other.
    pairs.retain(|(_, winner)| !lost.contains(&winner.id()));
    pairs
}

/// Adds the losers' columns to the winners'.
fn add_up(reference: &Reference, columns: &[String], pairs: &[(RowId, RowId)]) -> Result<()> {
    let ids = |of: fn(&(RowId, RowId)) -> &RowId| {
        let tables: Vec<_> = pairs.iter().map(|pair| of(pair).table).collect();
        let places: Vec<_> = pairs.iter().map(|pair| of(pair).place.clone()).collect();
        [spi::value(tables), spi::value(places)]
    };
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
               join {target} as l on l.tableoid = p.lo and l.ctid = p.lc::pg_catalog.tid
               group by p.wo, p.wc) as s
         where t.tableoid = s.wo and t.ctid = s.wc::pg_catalog.tid",
        assignments.join(", ")
    );
    let [losing_tables, losers] = ids(|pair| &pair.0);
    let [winning_tables, winners] = ids(|pair| &pair.1);
    let of = Selection {
        from: String::new(),
        condition: String::new(),
        types: vec![pg_sys::OIDARRAYOID, pg_sys::TEXTARRAYOID, pg_sys::OIDARRAYOID, pg_sys::TEXTARRAYOID],
        values: vec![losing_tables, losers, winning_tables, winners],
    };
    check_rights(&reference.table, Some(columns), &[])?;
    let expected = pairs.iter().map(|(_, winner)| winner.id()).collect::<HashSet<_>>().len() as u64;
    if reference.run(&sql, &of, |_| Ok(()))? != expected {
        return Err(error(409, "conflict", format!("rows of table {} could not be added up", reference.table.name))
            .about(&reference.table.name, "")
            .hint("A trigger of the table keeps them, or somebody else changes them at this moment."));
    }
    Ok(())
}

/// # Errors
/// `merge_conflict` where writing the table would lend its owner's rights.
fn check_rights(table: &Table, updated: Option<&[String]>, settled: &[pg_sys::Oid]) -> Result<()> {
    match table.would_lend_rights(updated, settled)? {
        None => Ok(()),
        Some(why) => Err(error(409, "merge_conflict", format!("table {} cannot be written{why}", table.name))
            .about(&table.name, "")
            .hint("Let the tables have one owner and no rewrite rules, and use a session without temporary tables of other roles.")),
    }
}

fn left_behind(reference: &Reference) -> Error {
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

fn count(reference: &Reference, rows: &Selection) -> Result<u64> {
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
fn lock<'a>(reference: &Reference, rows: impl Iterator<Item = &'a RowId>, strength: &str) -> Result<()> {
    let mut seen = HashSet::new();
    let rows: Vec<_> = rows.filter(|row| seen.insert(row.id())).collect();
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
fn fetch(reference: &Reference, rows: &Selection, columns: &[i16]) -> Result<Vec<RowId>> {
    let names = reference.table.column_names(columns)?;
    let list: String = names.iter().map(|name| format!(", t.{name}::text")).collect();
    let sql = format!(
        "select t.tableoid, t.ctid::text{list} from {} as t{} where {} for update of t",
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

/// What the keys by which `child` references rows that are about to change become. The rows are locked: nobody
/// else gives them other keys meanwhile.
fn changed_keys(reference: &Reference, child: &Reference, rows: &Selection) -> Result<Keys> {
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
        keys.push((1..=n).map(|i| row.get(i)).collect(), (n + 1..=2 * n).map(|i| row.get(i)).collect());
        Ok(())
    })?;
    Ok(keys)
}

fn delete_statement(table: &Table, rows: &Selection) -> String {
    let using = match rows.from.as_str() {
        "" => String::new(),
        from => format!(" using {}", from.trim_start_matches(", ")),
    };
    format!("delete from {} as t{using} where {}", table.target, rows.condition)
}

fn run_delete(table: &Table, rows: &Selection) -> Result<u64> {
    table.run(&delete_statement(table, rows), &rows.types, &rows.values, "", || true, |_| Ok(()))
}

/// Runs `body`, which runs the statement `sql`, without the actions of the foreign keys `settled`.
fn without_actions<T>(sql: &str, settled: Vec<pg_sys::Oid>, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let left_out = LeftOut { keys: settled, own: None };
    executor::without_triggers(&CString::new(sql).unwrap_or_default(), left_out, body)
}

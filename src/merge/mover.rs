//! Rows of application tables get another key; whatever references them follows.
//!
//! Postgres's own actions of foreign keys would run the triggers of the next table with the rights of this one's
//! owner (up to Postgres 17), and would drop what hangs on a row that collides. So the actions are carried out here,
//! table by table, each as its owner, and are left out of the statements that would cause them.

use super::collisions::{self, Collision};
use super::references::{Keys, OnUpdate, Reference, Selection};
use super::report::{Report, Side};
use super::rows::{self, Place, RowId};
use super::rules::{Rule, Rules};
use crate::application_table::Table;
use crate::error::{Error, Result, error};
use pgrx::pg_sys;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

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
    pub rules: Rules,
    /// Whose row stays where two collide.
    preferred: Side,
    /// Tables with columns that hold the id of a user: whose their rows are, those columns tell.
    pub followed: HashMap<pg_sys::Oid, Whose>,
    pub report: Report,
    references: HashMap<pg_sys::Oid, Rc<Vec<Rc<Reference>>>>,
    /// By table: keys whose rows are in the report. Rows that come to have one of them had another.
    counted: HashMap<pg_sys::Oid, Vec<(Rc<Reference>, Keys)>>,
    /// Rows about to go.
    pub dropping: HashSet<Place>,
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
            counted: HashMap::new(),
            dropping: HashSet::new(),
            depth: 0,
        }
    }

    pub fn rule(&self, table: pg_sys::Oid) -> &Rule {
        self.rules.of(table)
    }

    /// What references a table.
    pub fn references(&mut self, table: pg_sys::Oid) -> Result<Rc<Vec<Rc<Reference>>>> {
        if let Some(known) = self.references.get(&table) {
            return Ok(known.clone());
        }
        let found = Rc::new(Reference::to(table)?.into_iter().map(Rc::new).collect::<Vec<_>>());
        self.references.insert(table, found.clone());
        Ok(found)
    }

    /// The columns by which a table is referenced.
    pub fn referenced_columns(&mut self, table: pg_sys::Oid) -> Result<Vec<i16>> {
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
        if keys.len() == 0 || !rows::exists(reference, &reference.rows(keys))? {
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
            let movers = self.uncounted(reference, keys, |_| true);
            let existing = self.uncounted(reference, &keys.swapped(), |_| true);
            let counts = (rows::count(reference, &movers)?, rows::count(reference, &existing)?);
            let (guest, account) = if side == Side::Guest { counts } else { (counts.1, counts.0) };
            self.report.found(&reference.table.name, rule, guest, account);
            let loser = match self.rule(reference.table.relation) {
                Rule::KeepAccount => Some(Side::Guest),
                Rule::KeepGuest => Some(Side::Account),
                Rule::Function(_) | Rule::FunctionMissing(_) => return Err(no_user_column(&reference.table)),
                _ => None,
            };
            if let Some(loser) = loser {
                // Not those that were counted: what has a key of the loser's by now has it in the place of rows that
                // are gone.
                changed += self.delete(reference, if loser == side { movers } else { existing }, loser)?;
            }
        }
        changed += self.resolve(reference, keys, side)?;
        changed += self.update(reference, keys, side)?;
        self.depth -= 1;
        Ok(changed)
    }

    /// The number of rows with the old keys that are about to be deleted and are not in the report yet. Those that had
    /// the key when it was counted have another by now.
    pub fn count_deleted_once(&mut self, reference: &Rc<Reference>, keys: &Keys) -> Result<u64> {
        let uncounted = self.uncounted(reference, keys, |other| other.constraints != reference.constraints);
        rows::count(reference, &uncounted)
    }

    /// The rows with the old keys that are not in the report yet, which now are: a row may be reached by several keys,
    /// and from several rows.
    ///
    /// # Arguments
    /// * `counts` – by which keys a row would have been counted
    fn uncounted(
        &mut self,
        reference: &Rc<Reference>,
        keys: &Keys,
        counts: impl Fn(&Reference) -> bool,
    ) -> Selection {
        let counted = self.counted.entry(reference.table.relation).or_default();
        let mut uncounted = Selection::default();
        reference.restrict(&mut uncounted, keys, true);
        for (other, keys) in counted.iter().filter(|(other, _)| counts(other)) {
            other.restrict(&mut uncounted, keys, false);
        }
        match counted.iter_mut().find(|(other, _)| other.constraints == reference.constraints) {
            Some((_, counted)) => counted.extend(keys),
            None => counted.push((reference.clone(), keys.clone())),
        }
        uncounted
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
            rows::lock(reference, pairs.iter().map(|(loser, _)| loser), "update")?;
            rows::lock(reference, pairs.iter().map(|(_, winner)| winner), "no key update")?;
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
                rows::add_up(reference, columns, &pairs)?;
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
        if !rows::exists(reference, &rows)? {
            return Ok(0);
        }
        let table = &reference.table;
        let assignments = reference.assignments();
        if assignments.is_empty() {
            let message = format!("the columns of \"{}\" of table {} are generated", reference.name, table.name);
            return Err(error(409, "merge_conflict", message).about(&table.name, &reference.name).hint(
                "Register the column that they are generated from: auth.set_merge_rule(…, user_columns => …).",
            ));
        }
        let numbers = reference.numbers();
        let all = self.references(table.relation)?;
        let followers: Vec<_> = all
            .iter()
            .filter(|child| child.references_any(&numbers) && child.on_update == OnUpdate::Follow)
            .collect();
        let settled: Vec<pg_sys::Oid> = followers.iter().flat_map(|child| child.family.clone()).collect();
        rows::check_rights(table, Some(&reference.column_names()), &settled)?;

        let mut follow = Vec::new();
        for child in followers {
            follow.push((child.clone(), rows::changed_keys(reference, child, &rows)?));
        }
        let sql = rows::update_statement(table, &assignments, &rows);
        let changed = rows::without_actions(&sql, settled, || reference.run(&sql, &rows, |_| Ok(())))?;
        for (child, keys) in follow {
            self.repoint(&child, &keys, side)?;
            // Postgres was kept from looking after it.
            if rows::exists(&child, &child.rows(&keys))? {
                return Err(rows::left_behind(&child));
            }
        }
        Ok(changed)
    }
}

fn no_user_column(table: &Table) -> Error {
    let table = &table.name;
    let message =
        format!("the merge rule of table {table} is a function, but no column of it holds the id of a user");
    error(409, "merge_rule_invalid", message)
        .about(table, "")
        .hint("Set the rule of the table through which its rows are a user's; see auth.owned_tables.")
}

/// Losers and winners; a row loses once, and a winner of this round loses in none.
fn pairs(collisions: Vec<Collision>, mover_loses: bool) -> Vec<(RowId, RowId)> {
    let mut lost = HashSet::new();
    let mut pairs = Vec::new();
    for Collision { mover, existing } in collisions {
        let (loser, winner) = if mover_loses { (mover, existing) } else { (existing, mover) };
        if lost.insert(loser.place()) {
            pairs.push((loser, winner));
        }
    }
    // Among rows that collide with each other.
    pairs.retain(|(_, winner)| !lost.contains(&winner.place()));
    pairs
}

//! The tables that a merge starts from: those with columns that hold the id of a user, and whose rows are in them.

use super::pair::Pair;
use super::references::{Keys, Reference, Selection};
use super::report::Side;
use super::rows;
use crate::application_table::Table;
use crate::catalog;
use crate::error::{Result, error};
use crate::spi;
use pgrx::pg_sys;
use std::collections::HashMap;
use std::rc::Rc;

/// A table with columns that hold the id of a user.
pub struct Followed {
    pub table: Table,
    /// Its foreign keys to `auth.users` and its registered columns.
    pub references: Vec<Rc<Reference>>,
    /// All of them as one.
    pub any: Rc<Reference>,
}

/// The tables with columns that hold the id of a user; a table comes after those whose rows its own rows
/// reference together with that id, since it cannot have the new id before they do.
///
/// # Errors
/// `unsupported_foreign_key`.
pub fn all() -> Result<Vec<Followed>> {
    let users = catalog::relations().map_or(pg_sys::InvalidOid, |relations| relations.users);
    let mut by_table: Vec<Vec<Rc<Reference>>> = Vec::new();
    for reference in Reference::to(users)?.into_iter().chain(Reference::registered()?) {
        // The id is the first column of auth.users.
        if reference.referenced() != [1] {
            let message = format!(
                "foreign key \"{}\" of table {} references other columns of auth.users than id",
                reference.name, reference.table.name
            );
            return Err(error(501, "unsupported_foreign_key", message));
        }
        match by_table.iter_mut().find(|known| known[0].table.relation == reference.table.relation) {
            Some(known) => known.push(Rc::new(reference)),
            None => by_table.push(vec![Rc::new(reference)]),
        }
    }
    in_order(by_table.into_iter().map(Followed::by).collect())
}

fn in_order(mut found: Vec<Followed>) -> Result<Vec<Followed>> {
    // Which tables have a key with the id of a user in it that another of them references.
    let mut after: HashMap<pg_sys::Oid, Vec<pg_sys::Oid>> = HashMap::new();
    for table in &found {
        let columns = table.any.numbers();
        for reference in Reference::to(table.table.relation)? {
            if reference.references_any(&columns) && reference.table.relation != table.table.relation {
                after.entry(reference.table.relation).or_default().push(table.table.relation);
            }
        }
    }
    let mut ordered: Vec<Followed> = Vec::new();
    while !found.is_empty() {
        let is_next = |table: &Followed| {
            let before = after.get(&table.table.relation);
            before.is_none_or(|before| found.iter().all(|other| !before.contains(&other.table.relation)))
        };
        // Where they go in a circle, any order is as good.
        let next = found.iter().position(is_next).unwrap_or(0);
        ordered.push(found.remove(next));
    }
    Ok(ordered)
}

impl Followed {
    /// # Arguments
    /// * `references` – all of one table, one at least
    fn by(references: Vec<Rc<Reference>>) -> Self {
        Self { table: references[0].table.clone(), any: Reference::any_of(&references), references }
    }

    /// SQL for "the row `t` is the user's", who is the parameter of that number.
    pub fn is_of(&self, parameter: &str) -> String {
        format!("({})", self.any.condition(|_| parameter.to_owned()))
    }

    /// The rows of one user that are not the other's as well.
    pub fn rows_of(&self, pair: &Pair, side: Side) -> Selection {
        let (own, other) = if side == Side::Guest { ("$1", "$2") } else { ("$2", "$1") };
        Selection {
            from: String::new(),
            condition: format!("{} and {} is not true", self.is_of(own), self.is_of(other)),
            types: vec![pg_sys::TEXTOID; 2],
            values: vec![spi::value(pair.guest.to_string()), spi::value(pair.account.to_string())],
        }
    }

    /// The number of the guest's rows and of those that are the account's only.
    pub fn count(&self, pair: &Pair) -> Result<(u64, u64)> {
        let (guest, account) = (self.is_of("$1"), self.is_of("$2"));
        let sql = format!(
            "select pg_catalog.count(*) filter (where {guest}), pg_catalog.count(*) filter (where {guest} is not true)
             from {} as t where {guest} or {account}",
            self.table.target
        );
        let mut counts = (0, 0);
        self.any.run(&sql, &self.rows_of(pair, Side::Guest), |row| {
            let number = |n| row.get::<i64>(n).unwrap_or(0) as u64;
            counts = (number(1), number(2));
            Ok(())
        })?;
        Ok(counts)
    }

    /// # Errors
    /// `merge_conflict` where rows of the guest are left in the table.
    pub fn check_nothing_left(&self, pair: &Pair) -> Result<()> {
        let left = |reference: &Reference, table: &str, hint: &str| {
            let message = format!("rows of the guest are left in {table}");
            Err(error(409, "merge_conflict", message).about(&self.table.name, &reference.name).hint(hint))
        };
        let guest = pair.guest.to_string();
        let keys = Keys::one(guest.clone(), guest);
        if rows::exists(&self.any, &self.any.rows(&keys))? {
            return left(
                &self.any,
                &format!("table {}", self.table.name),
                "A trigger or the function of the table's merge rule kept them or put them back.",
            );
        }
        // A foreign key is about the one table. A registered column may be meant for those that inherit it, too.
        for reference in self.references.iter().filter(|reference| reference.is_registered()) {
            if rows::exists_in_heirs(reference, &reference.rows(&keys))? {
                return left(
                    reference,
                    &format!("a table that inherits from {}", self.table.name),
                    "Register the column for that table, too: auth.set_merge_rule().",
                );
            }
        }
        Ok(())
    }
}

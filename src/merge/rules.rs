//! What an administrator said about tables: `auth.merge_rules`. And which tables a merge follows, in what order.

use super::references::Reference;
use crate::application_table::Table;
use crate::catalog;
use crate::error::{Result, error};
use crate::spi::Statement;
use pgrx::pg_sys;
use std::collections::HashMap;
use std::rc::Rc;

/// What becomes of the rows of a table.
pub enum Rule {
    /// The guest's rows move; where a unique key collides, one row stays.
    Merge,
    /// The same, and the row that stays gets the sum of these columns, quoted.
    Sum(Vec<String>),
    /// The guest's rows are dropped.
    KeepAccount,
    /// The account's rows are replaced by the guest's, where the guest has any.
    KeepGuest,
    /// The table is not followed.
    Ignore,
    /// A function of the application does it.
    Function(Function),
    /// The same, but the function of this name does not exist any more.
    FunctionMissing(String),
}

/// A function that takes the guest's id and the account's.
pub struct Function {
    pub oid: pg_sys::Oid,
    pub owner: pg_sys::Oid,
    /// Qualified and quoted.
    pub name: String,
    /// The same with its arguments, which tells it from all others.
    pub signature: String,
}

impl Rule {
    /// As in `auth.set_merge_rule()`.
    pub fn name(&self) -> &'static str {
        match self {
            Rule::Merge => "merge",
            Rule::Sum(_) => "sum",
            Rule::KeepAccount => "keep_account",
            Rule::KeepGuest => "keep_guest",
            Rule::Ignore => "ignore",
            Rule::Function(_) | Rule::FunctionMissing(_) => "function",
        }
    }
}

/// The rules by table.
pub struct Rules(HashMap<pg_sys::Oid, Rule>);

impl Rules {
    /// The rules in force.
    pub fn load() -> Result<Self> {
        // Not to_regprocedure(), which would ask for a right to use the function's schema.
        static SELECT: Statement = Statement::latest(
            c"select r.relation::oid, r.rule,
                     array(select pg_catalog.quote_ident(c) from pg_catalog.unnest(r.sum_columns) c),
                     r.function, p.oid, p.proowner,
                     case when p.oid is not null then pg_catalog.format('%I.%I', n.nspname, p.proname) end
              from auth.merge_rules r
              left join (pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace)
                on r.function is not null and p.pronargs = 2
               and p.proargtypes[0] = 'pg_catalog.uuid'::pg_catalog.regtype
               and p.proargtypes[1] = 'pg_catalog.uuid'::pg_catalog.regtype
               and pg_catalog.format('%I.%I(uuid,uuid)', n.nspname, p.proname) = r.function",
            &[],
        );
        let mut rules = HashMap::new();
        SELECT.each(&[], |row| {
            let text = |n| row.get::<String>(n).unwrap_or_default();
            let rule = match text(2).as_str() {
                "sum" => Rule::Sum(row.get(3).unwrap_or_default()),
                "keep_account" => Rule::KeepAccount,
                "keep_guest" => Rule::KeepGuest,
                "ignore" => Rule::Ignore,
                "function" => match (row.get(5), row.get(6)) {
                    (Some(oid), Some(owner)) => Rule::Function(Function {
                        oid,
                        owner,
                        name: text(7),
                        signature: text(7) + "(pg_catalog.uuid,pg_catalog.uuid)",
                    }),
                    _ => Rule::FunctionMissing(text(4)),
                },
                _ => Rule::Merge,
            };
            rules.insert(row.get(1).unwrap_or(pg_sys::InvalidOid), rule);
            Ok(())
        })?;
        Ok(Self(rules))
    }

    /// The rule of a table.
    pub fn of(&self, table: pg_sys::Oid) -> &Rule {
        self.0.get(&table).unwrap_or(&Rule::Merge)
    }
}

/// A table with columns that hold the id of a user.
pub struct Followed {
    pub table: Table,
    /// Its foreign keys to `auth.users` and its registered columns.
    pub references: Vec<Rc<Reference>>,
}

/// The tables with columns that hold the id of a user; a table comes after those whose rows its own rows
/// reference together with that id, since it cannot have the new id before they do.
///
/// # Errors
/// `unsupported_foreign_key`.
pub fn followed() -> Result<Vec<Followed>> {
    let users = catalog::relations().map_or(pg_sys::InvalidOid, |relations| relations.users);
    let mut found: Vec<Followed> = Vec::new();
    for reference in Reference::to(users)?.into_iter().chain(Reference::registered()?) {
        // The id is the first column of auth.users.
        if reference.referenced() != [1] {
            let message = format!(
                "foreign key \"{}\" of table {} references other columns of auth.users than id",
                reference.name, reference.table.name
            );
            return Err(error(501, "unsupported_foreign_key", message));
        }
        match found.iter_mut().find(|table| table.table.relation == reference.table.relation) {
            Some(table) => table.references.push(Rc::new(reference)),
            None => found.push(Followed { table: reference.table.clone(), references: vec![Rc::new(reference)] }),
        }
    }
    // Which tables have a key with the id of a user in it that another of them references.
    let mut after: HashMap<pg_sys::Oid, Vec<pg_sys::Oid>> = HashMap::new();
    for table in &found {
        let columns: Vec<i16> = table.references.iter().flat_map(|reference| reference.numbers()).collect();
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

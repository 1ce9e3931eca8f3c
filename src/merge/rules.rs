//! What an administrator said about tables: `auth.merge_rules`.

use super::pair::Pair;
use crate::application_table::Table;
use crate::as_owner;
use crate::error::{Error, Result, error};
use crate::spi::{self, Statement};
use pgrx::pg_sys;
use std::collections::HashMap;
use std::ffi::CString;

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

impl Function {
    /// Calls the function of a rule, as its owner.
    pub fn call(&self, pair: &Pair, table: &Table) -> Result<()> {
        static FIND: Statement =
            Statement::latest(c"select pg_catalog.to_regprocedure($1)::pg_catalog.oid", &[pg_sys::TEXTOID]);
        static HAS_FOREIGN_TEMPORARY_TABLES: Statement = Statement::latest(
            c"select exists (select from pg_catalog.pg_class t
                             where t.relnamespace = pg_catalog.pg_my_temp_schema() and t.relowner <> $1)",
            &[pg_sys::OIDOID],
        );
        let refused = |why: &str| {
            let message = format!("function {} of the merge rule of table {} {why}", self.name, table.name);
            error(409, "merge_conflict", message).about(&table.name, "")
        };
        let yes = HAS_FOREIGN_TEMPORARY_TABLES.first(&[spi::value(self.owner)], |row| Ok(row.get(1)))?;
        if yes.flatten() == Some(true) {
            return Err(refused("might find temporary tables of this session").hint("Use a session without them."));
        }
        let sql = CString::new(format!("select {}($1, $2)", self.name)).unwrap_or_default();
        as_owner::run(self.owner, || {
            let check = || {
                let found = FIND.first(&[spi::value(self.signature.as_str())], |row| Ok(row.get(1)))?;
                match found.flatten() == Some(self.oid) {
                    true => Ok(()),
                    false => Err(refused("was replaced meanwhile")),
                }
            };
            let types = [pg_sys::UUIDOID, pg_sys::UUIDOID];
            spi::run_checked(&sql, &types, &[spi::uuid(pair.guest), spi::uuid(pair.account)], check, |_| Ok(()))
        })
        .map_err(|error| match error {
            Error::Postgres(..) => error.about(&table.name, ""),
            ours => ours,
        })?;
        Ok(())
    }
}

/// The error about a rule of `table` that names what does not exist.
pub fn invalid_rule(table: &str, what: &str) -> Error {
    let message = format!("the merge rule of table {table} names {what} that does not exist");
    error(409, "merge_rule_invalid", message).about(table, "").hint("See auth.set_merge_rule().")
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
    ///
    /// # Errors
    /// `merge_rule_invalid` where one names a column that does not exist.
    pub fn load() -> Result<Self> {
        // Not to_regprocedure(), which would ask for a right to use the function's schema.
        static SELECT: Statement = Statement::latest(
            c"select r.relation::oid, r.rule,
                     array(select pg_catalog.quote_ident(c) from pg_catalog.unnest(r.sum_columns) c),
                     r.function, p.oid, p.proowner,
                     case when p.oid is not null then pg_catalog.format('%I.%I', n.nspname, p.proname) end,
                     pg_catalog.format('%I.%I', tn.nspname, t.relname),
                     (select c from pg_catalog.unnest(r.sum_columns || r.user_columns) c
                      where not exists (select from pg_catalog.pg_attribute a
                                        where a.attrelid = r.relation and a.attname = c and a.attnum > 0)
                      limit 1)::text
              from auth.merge_rules r
              join pg_catalog.pg_class t on t.oid = r.relation
              join pg_catalog.pg_namespace tn on tn.oid = t.relnamespace
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
            if let Some(column) = row.get::<String>(9) {
                return Err(invalid_rule(&text(8), &format!("a column \"{column}\"")));
            }
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

//! Foreign keys of application tables that reference `auth.users (id)`: found by themselves, in any schema.

use crate::application_table::Table;
use crate::catalog;
use crate::error::{Error, Result, error};
use crate::spi::{self, Row, Statement};
use crate::table_columns;
use pgrx::pg_sys;
use uuid::Uuid;

/// What a foreign key does with its rows when the user goes.
#[derive(Clone, Copy, PartialEq)]
pub enum OnDelete {
    /// NO ACTION or RESTRICT.
    Forbid,
    Cascade,
    SetNull,
    SetDefault,
}

impl OnDelete {
    /// What `pg_constraint.confdeltype` and `confupdtype` stand for.
    pub fn from_catalog(letter: &str) -> Self {
        match letter {
            "c" => OnDelete::Cascade,
            "n" => OnDelete::SetNull,
            "d" => OnDelete::SetDefault,
            _ => OnDelete::Forbid,
        }
    }
}

/// A foreign key to `auth.users (id)`.
pub struct ForeignKey {
    pub constraint: pg_sys::Oid,
    pub name: String,
    pub table: Table,
    column: String,
    on_delete: OnDelete,
    /// What SET NULL and SET DEFAULT apply to.
    set_columns: Vec<String>,
}

/// Every foreign key to `auth.users (id)` that there is now, even under REPEATABLE READ.
///
/// # Errors
/// `unsupported_foreign_key` for one that references other columns of the table.
pub fn all() -> Result<Vec<ForeignKey>> {
    // conenforced is there from Postgres 18 on.
    static SELECT: Statement = Statement::latest(
        spi::literal(concat!(
            "select ",
            table_columns!(),
            ", c.oid, c.conname::text, pg_catalog.quote_ident(a.attname), c.confdeltype::text,
                 array(select pg_catalog.quote_ident(s.attname) from pg_catalog.pg_attribute s
                       where s.attrelid = c.conrelid and s.attnum = any (coalesce(c.confdelsetcols, c.conkey))),
                 pg_catalog.cardinality(c.confkey) = 1 and r.attname = 'id'
          from pg_catalog.pg_constraint c
          join pg_catalog.pg_class t on t.oid = c.conrelid
          join pg_catalog.pg_namespace n on n.oid = t.relnamespace
          join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
          join pg_catalog.pg_attribute r on r.attrelid = c.confrelid and r.attnum = c.confkey[1]
          where c.contype = 'f' and c.confrelid = $1 and c.conparentid = 0
            and coalesce((pg_catalog.to_jsonb(c) ->> 'conenforced')::boolean, true)
          order by n.nspname, t.relname, c.conname\0"
        )),
        &[pg_sys::OIDOID],
    );
    let users = catalog::relations().map_or(pg_sys::InvalidOid, |relations| relations.users);
    let mut keys = Vec::new();
    SELECT.each(&[spi::value(users)], |row| {
        let text = |n| row.get::<String>(n).unwrap_or_default();
        let key = ForeignKey {
            table: Table::read(row, 1),
            constraint: row.get(7).unwrap_or(pg_sys::InvalidOid),
            name: text(8),
            column: text(9),
            on_delete: OnDelete::from_catalog(&text(10)),
            set_columns: row.get(11).unwrap_or_default(),
        };
        if row.get(12) != Some(true) {
            return Err(error(
                501,
                "unsupported_foreign_key",
                format!(
                    "foreign key \"{}\" of table {} references other columns of auth.users than id",
                    key.name, key.table.name
                ),
            ));
        }
        keys.push(key);
        Ok(())
    })?;
    Ok(keys)
}

impl ForeignKey {
    /// Whether the key forbids deleting a user who has rows in its table.
    pub fn forbids(&self) -> bool {
        self.on_delete == OnDelete::Forbid
    }

    /// Those of `users` who have rows in the table.
    pub fn owners_among(&self, users: &[Uuid]) -> Result<Vec<Uuid>> {
        let sql = format!("select distinct {} from {} where {}", self.user_id(), self.table.target, self.condition());
        let mut owners = Vec::new();
        self.run(&sql, users, |row| {
            owners.push(row.uuid(1));
            Ok(())
        })?;
        Ok(owners)
    }

    /// Does to the rows of `users` what the key's delete action says.
    ///
    /// # Errors
    /// `user_still_referenced` where it forbids the deletion, or rows are left; and whatever the table's
    /// triggers and constraints raise.
    pub fn apply_delete_action(&self, users: &[Uuid]) -> Result<()> {
        let assign = |value: &str| {
            let assignments: Vec<_> = self.set_columns.iter().map(|column| format!("{column} = {value}")).collect();
            format!("update {} set {} where {}", self.table.target, assignments.join(", "), self.condition())
        };
        let sql = match self.on_delete {
            OnDelete::Forbid => return self.check_no_rows(users),
            OnDelete::Cascade => format!("delete from {} where {}", self.table.target, self.condition()),
            OnDelete::SetNull => assign("null"),
            OnDelete::SetDefault => assign("default"),
        };
        let updated = (self.on_delete != OnDelete::Cascade).then_some(self.set_columns.as_slice());
        if let Some(why) = self.table.would_lend_rights(updated, &[])? {
            // Nothing is lent where there is nothing to do.
            return if self.has_rows(users)? { Err(self.still_referenced(&why)) } else { Ok(()) };
        }
        self.run(&sql, users, |_| Ok(()))
    }

    /// # Errors
    /// `user_still_referenced` where rows of `users` are left in the table.
    pub fn check_no_rows(&self, users: &[Uuid]) -> Result<()> {
        if self.has_rows(users)? { Err(self.still_referenced("")) } else { Ok(()) }
    }

    fn has_rows(&self, users: &[Uuid]) -> Result<bool> {
        // Not LIMIT 1, for which Postgres would read through a table that has an index, expecting to be done soon.
        let condition = self.condition();
        let sql = format!(
            "select from {} where {condition} having pg_catalog.count(*) operator(pg_catalog.>) 0",
            self.table.target
        );
        let mut found = false;
        self.run(&sql, users, |_| {
            found = true;
            Ok(())
        })?;
        Ok(found)
    }

    fn still_referenced(&self, why: &str) -> Error {
        let message =
            format!("rows of table {} keep the user, by foreign key \"{}\"{why}", self.table.name, self.name);
        error(409, "user_still_referenced", message)
            .about(&self.table.name, if why.is_empty() { &self.name } else { "" })
            .hint(match why {
                "" => "Delete or reassign those rows first, or give the foreign key another ON DELETE action.",
                _ => "Let both tables have one owner, and use a session without temporary tables of other roles.",
            })
    }

    fn condition(&self) -> String {
        format!("{} operator(pg_catalog.=) any ($1)", self.user_id())
    }

    /// The column may be of any type that casts to `uuid`; the cast, too, runs as the table's owner.
    fn user_id(&self) -> String {
        format!("{}::pg_catalog.uuid", self.column)
    }

    /// Runs a statement on the table as its owner.
    ///
    /// # Errors
    /// Where the table is not what it was when the key was found; and whatever the statement raises.
    fn run(&self, sql: &str, users: &[Uuid], read: impl FnMut(&Row) -> Result<()>) -> Result<()> {
        let still_holds = || catalog::constraint_exists(self.constraint);
        self.table.run(sql, &[pg_sys::UUIDARRAYOID], &[spi::uuids(users)], &self.name, still_holds, read)?;
        Ok(())
    }
}

//! A table of an application, and how a statement is run on it: as its owner, and only while it is the table
//! that was looked up.

use crate::as_owner;
use crate::catalog;
use crate::error::{Error, Result, error};
use crate::spi::{self, Row, Statement, Value};
use pgrx::pg_sys;
use std::ffi::CString;

/// A table of an application.
#[derive(Clone)]
pub struct Table {
    pub relation: pg_sys::Oid,
    pub schema: String,
    pub relation_name: String,
    /// Qualified and quoted.
    pub name: String,
    /// As it stands in SQL, with ONLY where referential integrity would say so too.
    pub target: String,
    pub owner: pg_sys::Oid,
}

impl Table {
    /// Reads the columns that [`TABLE_COLUMNS`](crate::table_columns) selects, from column `first` on.
    pub fn read(row: &Row, first: i32) -> Self {
        let text = |n| row.get::<String>(first + n).unwrap_or_default();
        let name = text(3);
        Self {
            relation: row.get(first).unwrap_or(pg_sys::InvalidOid),
            schema: text(1),
            relation_name: text(2),
            target: text(4) + &name,
            name,
            owner: row.get(first + 5).unwrap_or(pg_sys::InvalidOid),
        }
    }

    /// Runs a statement on the table as its owner, seeing everything committed; returns the number of rows it
    /// returned or touched.
    ///
    /// # Arguments
    /// * `sql` – one statement; every identifier quoted
    /// * `still_holds` – asked under the table's lock: whether what the statement relies on is still there
    /// * `why` – what the statement is about, for errors: the name of a constraint, or empty
    ///
    /// # Errors
    /// Where the table is not what it was when it was looked up; and whatever the statement raises.
    pub fn run(
        &self,
        sql: &str,
        types: &[pg_sys::Oid],
        values: &[Value],
        why: &str,
        still_holds: impl FnOnce() -> bool,
        read: impl FnMut(&Row) -> Result<()>,
    ) -> Result<u64> {
        let sql = CString::new(sql).unwrap_or_default();
        let about = |error: Error| match error {
            Error::Postgres(..) => error.about(&self.name, why),
            ours => ours,
        };
        catalog::lock(self.relation).map_err(about)?;
        // Under the lock its owner cannot change any more, nor a foreign key go.
        if catalog::owner(self.relation) != Some(self.owner) || !still_holds() {
            return Err(self.changed(why));
        }
        as_owner::run(self.owner, || {
            // Whoever owns the schema could have put another table in the place of the one that is locked.
            let check = || match catalog::find_relation(&self.schema, &self.relation_name) == Some(self.relation) {
                true => Ok(()),
                false => Err(self.changed(why)),
            };
            spi::run_checked(&sql, types, values, check, read)
        })
        .map_err(about)
    }

    /// The names of the columns with these numbers, quoted.
    pub fn column_names(&self, numbers: &[i16]) -> Result<Vec<String>> {
        static SELECT: Statement = Statement::latest(
            c"select pg_catalog.quote_ident(a.attname)
              from pg_catalog.unnest($2) with ordinality n(number, i)
              join pg_catalog.pg_attribute a on a.attrelid = $1 and a.attnum = n.number
              order by n.i",
            &[pg_sys::OIDOID, pg_sys::INT2ARRAYOID],
        );
        let mut names = Vec::new();
        SELECT.each(&[spi::value(self.relation), spi::value(numbers.to_vec())], |row| {
            names.extend(row.get::<String>(1));
            Ok(())
        })?;
        Ok(names)
    }

    fn changed(&self, why: &str) -> Error {
        let message = match why {
            "" => format!("table {} was changed meanwhile", self.name),
            _ => format!("table {} or its foreign key \"{why}\" was changed meanwhile", self.name),
        };
        error(409, "conflict", message).about(&self.name, why)
    }

    /// Whether writing the table would run somebody's code with the rights of its owner, and why.
    ///
    /// It would where the statement goes on to a table of another owner: a partition or, before Postgres 18, by a
    /// foreign key's action. And where a trigger's function that sets a `search_path` of its own would find
    /// temporary objects of the caller's in the place of the owner's tables. Also where a rewrite rule would make
    /// another statement of it, in which the actions would be left out as well. All tables it goes on to are locked, so
    /// that they stay what they are.
    ///
    /// # Arguments
    /// * `updated` – the columns that are updated, quoted; `None` where rows are deleted
    /// * `settled` – foreign keys whose actions are left out of the statement
    pub fn would_lend_rights(&self, updated: Option<&[String]>, settled: &[pg_sys::Oid]) -> Result<Option<String>> {
        // An action is a trigger of the referenced table, and as such found by an index, unlike the foreign key.
        static SELECT: Statement = Statement::latest(
            c"with recursive reached as (
                  select $1 as relation, $2 as is_delete
                  union
                  select next.relation, r.is_delete and next.is_delete
                  from reached r
                  cross join lateral (
                      select i.inhrelid as relation, true as is_delete
                      from pg_catalog.pg_inherits i where i.inhparent = r.relation
                      union all
                      select f.conrelid, f.confdeltype = 'c'
                      from pg_catalog.pg_trigger a join pg_catalog.pg_constraint f on f.oid = a.tgconstraint
                      where a.tgrelid = r.relation and a.tgisinternal
                        and f.contype = 'f' and f.confrelid = r.relation and f.conparentid = 0
                        and case when r.is_delete then f.confdeltype else f.confupdtype end in ('c', 'n', 'd')
                        and f.oid <> all ($4)
                        and (r.is_delete or r.relation <> $1
                             or f.confkey && array(select a.attnum from pg_catalog.pg_attribute a
                                                   where a.attrelid = $1 and pg_catalog.quote_ident(a.attname) = any ($5)))
                        and pg_catalog.current_setting('server_version_num')::integer < 180000) next)
              select distinct c.oid, c.oid::pg_catalog.regclass::text, c.relowner <> $3,
                     exists (select from pg_catalog.pg_trigger g where g.tgrelid = c.oid and not g.tgisinternal)
                     and exists (select from pg_catalog.pg_class t
                                 where t.relnamespace = pg_catalog.pg_my_temp_schema() and t.relowner <> $3),
                     $4 <> '{}' and exists (select from pg_catalog.pg_rewrite w where w.ev_class = c.oid)
              from reached r join pg_catalog.pg_class c on c.oid = r.relation
              order by 1",
            &[pg_sys::OIDOID, pg_sys::BOOLOID, pg_sys::OIDOID, pg_sys::OIDARRAYOID, pg_sys::TEXTARRAYOID],
        );
        let mut locked: Vec<pg_sys::Oid> = Vec::new();
        loop {
            let mut reached = Vec::new();
            let mut why = None;
            let values = [
                spi::value(self.relation),
                spi::value(updated.is_none()),
                spi::value(self.owner),
                spi::value(settled.to_vec()),
                spi::value(updated.unwrap_or_default().to_vec()),
            ];
            SELECT.each(&values, |row| {
                let name: String = row.get(2).unwrap_or_default();
                reached.extend(row.get::<pg_sys::Oid>(1));
                if row.get(3) == Some(true) {
                    why = Some(format!(": its action goes on to table {name}, which has another owner"));
                } else if row.get(4) == Some(true) {
                    why = Some(format!(": triggers of table {name} might find temporary tables of this session"));
                } else if row.get(5) == Some(true) {
                    why = Some(format!(": table {name} has a rewrite rule"));
                }
                Ok(())
            })?;
            if why.is_some() || reached.iter().all(|relation| locked.contains(relation)) {
                return Ok(why);
            }
            for relation in &reached {
                catalog::lock(*relation)?;
            }
            locked = reached;
        }
    }
}

/// The columns of `pg_class t` and `pg_namespace n` that [`Table::read`] reads.
#[macro_export]
macro_rules! table_columns {
    () => {
        "t.oid, n.nspname::text, t.relname::text, pg_catalog.format('%I.%I', n.nspname, t.relname),
         case when t.relkind = 'p' then '' else 'only ' end, t.relowner"
    };
}

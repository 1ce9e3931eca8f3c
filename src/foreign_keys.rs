//! Foreign keys of application tables that reference `auth.users (id)`: found by themselves, in any schema.

use crate::as_owner;
use crate::catalog;
use crate::error::{Error, Result, error};
use crate::spi::{self, Row, Statement};
use pgrx::pg_sys;
use std::ffi::CString;
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

/// A foreign key to `auth.users (id)`.
pub struct ForeignKey {
    pub constraint: pg_sys::Oid,
    relation: pg_sys::Oid,
    pub name: String,
    schema: String,
    relation_name: String,
    /// Qualified and quoted.
    pub table: String,
    /// As it stands in SQL, with ONLY where referential integrity would say so too.
    target: String,
    owner: pg_sys::Oid,
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
        c"select c.oid, c.conrelid, c.conname::text, pg_catalog.format('%I.%I', n.nspname, t.relname),
                 case when t.relkind = 'p' then '' else 'only ' end, t.relowner,
                 pg_catalog.quote_ident(a.attname), c.confdeltype::text,
                 array(select pg_catalog.quote_ident(s.attname) from pg_catalog.pg_attribute s
                       where s.attrelid = c.conrelid and s.attnum = any (coalesce(c.confdelsetcols, c.conkey))),
                 pg_catalog.cardinality(c.confkey) = 1 and r.attname = 'id',
                 n.nspname::text, t.relname::text
          from pg_catalog.pg_constraint c
          join pg_catalog.pg_class t on t.oid = c.conrelid
          join pg_catalog.pg_namespace n on n.oid = t.relnamespace
          join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
          join pg_catalog.pg_attribute r on r.attrelid = c.confrelid and r.attnum = c.confkey[1]
          where c.contype = 'f' and c.confrelid = $1 and c.conparentid = 0
            and coalesce((pg_catalog.to_jsonb(c) ->> 'conenforced')::boolean, true)
          order by n.nspname, t.relname, c.conname",
        &[pg_sys::OIDOID],
    );
    let users = catalog::relations().map_or(pg_sys::InvalidOid, |relations| relations.users);
    let mut keys = Vec::new();
    SELECT.each(&[spi::value(users)], |row| {
        let text = |n| row.get::<String>(n).unwrap_or_default();
        let table = text(4);
        if row.get(10) != Some(true) {
            return Err(error(
                501,
                "unsupported_foreign_key",
                format!(
                    "foreign key \"{}\" of table {table} references other columns of auth.users than id",
                    text(3)
                ),
            ));
        }
        keys.push(ForeignKey {
            schema: text(11),
            relation_name: text(12),
            constraint: row.get(1).unwrap_or(pg_sys::InvalidOid),
            relation: row.get(2).unwrap_or(pg_sys::InvalidOid),
            name: text(3),
            target: text(5) + &table,
            table,
            owner: row.get(6).unwrap_or(pg_sys::InvalidOid),
            column: text(7),
            on_delete: match text(8).as_str() {
                "c" => OnDelete::Cascade,
                "n" => OnDelete::SetNull,
                "d" => OnDelete::SetDefault,
                _ => OnDelete::Forbid,
            },
            set_columns: row.get(9).unwrap_or_default(),
        });
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
        let sql = format!("select distinct {} from {} where {}", self.user_id(), self.target, self.condition());
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
            format!("update {} set {} where {}", self.target, assignments.join(", "), self.condition())
        };
        let sql = match self.on_delete {
            OnDelete::Forbid => return self.check_no_rows(users),
            OnDelete::Cascade => format!("delete from {} where {}", self.target, self.condition()),
            OnDelete::SetNull => assign("null"),
            OnDelete::SetDefault => assign("default"),
        };
        if let Some(why) = self.would_lend_rights()? {
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
        let sql = format!("select from {} where {} limit 1", self.target, self.condition());
        let mut found = false;
        self.run(&sql, users, |_| {
            found = true;
            Ok(())
        })?;
        Ok(found)
    }

    fn changed(&self) -> Error {
        let message = format!("table {} or its foreign key \"{}\" was changed meanwhile", self.table, self.name);
        error(409, "conflict", message).about(&self.table, &self.name)
    }

    fn still_referenced(&self, why: &str) -> Error {
        let message = format!("rows of table {} keep the user, by foreign key \"{}\"{why}", self.table, self.name);
        error(409, "user_still_referenced", message)
            .about(&self.table, if why.is_empty() { &self.name } else { "" })
            .hint(match why {
                "" => "Delete or reassign those rows first, or give the foreign key another ON DELETE action.",
                _ => "Let both tables have one owner, and use a session without temporary tables of other roles.",
            })
    }

    /// Whether the delete action would run somebody's code with the rights of this table's owner, and why.
    ///
    /// It would where it goes on to a table of another owner: a partition or, before Postgres 18, by a further
    /// foreign key. And where a trigger's function that sets a `search_path` of its own would find temporary objects
    /// of the caller's in the place of the owner's tables. All tables it goes on to are locked, so that they stay
    /// what they are.
    fn would_lend_rights(&self) -> Result<Option<String>> {
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
                      from pg_catalog.pg_constraint f
                      where f.contype = 'f' and f.confrelid = r.relation and f.conparentid = 0
                        and case when r.is_delete then f.confdeltype else f.confupdtype end in ('c', 'n', 'd')
                        and pg_catalog.current_setting('server_version_num')::integer < 180000) next)
              select distinct c.oid, c.oid::pg_catalog.regclass::text, c.relowner <> $3,
                     exists (select from pg_catalog.pg_trigger g where g.tgrelid = c.oid and not g.tgisinternal)
                     and exists (select from pg_catalog.pg_class t
                                 where t.relnamespace = pg_catalog.pg_my_temp_schema() and t.relowner <> $3)
              from reached r join pg_catalog.pg_class c on c.oid = r.relation
              order by 1",
            &[pg_sys::OIDOID, pg_sys::BOOLOID, pg_sys::OIDOID],
        );
        let mut locked: Vec<pg_sys::Oid> = Vec::new();
        loop {
            let mut reached = Vec::new();
            let mut why = None;
            let is_delete = self.on_delete == OnDelete::Cascade;
            SELECT.each(&[spi::value(self.relation), spi::value(is_delete), spi::value(self.owner)], |row| {
                let name: String = row.get(2).unwrap_or_default();
                reached.extend(row.get::<pg_sys::Oid>(1));
                if row.get(3) == Some(true) {
                    why = Some(format!(": its action goes on to table {name}, which has another owner"));
                } else if row.get(4) == Some(true) {
                    why = Some(format!(": triggers of table {name} might find temporary tables of this session"));
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
        let sql = CString::new(sql).unwrap_or_default();
        let about = |error: Error| match error {
            Error::Postgres(..) => error.about(&self.table, &self.name),
            ours => ours,
        };
        catalog::lock(self.relation).map_err(about)?;
        // Under the lock its owner cannot change any more, nor the key go.
        if catalog::owner(self.relation) != Some(self.owner) || !catalog::constraint_exists(self.constraint) {
            return Err(self.changed());
        }
        as_owner::run(self.owner, || {
            // Whoever owns the schema could have put another table in the place of the one that is locked.
            let check = || match catalog::find_relation(&self.schema, &self.relation_name) == Some(self.relation) {
                true => Ok(()),
                false => Err(self.changed()),
            };
            spi::run_checked(&sql, &[pg_sys::UUIDARRAYOID], &[spi::uuids(users)], check, read)
        })
        .map_err(about)?;
        Ok(())
    }
}

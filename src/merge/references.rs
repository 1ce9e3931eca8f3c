//! What references a table: its foreign keys and, for `auth.users`, the columns that were registered. And the SQL
//! that follows them.

use crate::application_table::Table;
use crate::catalog;
use crate::error::Result;
use crate::foreign_keys::OnDelete;
use crate::spi::{self, Row, Statement, Value};
use crate::table_columns;
use pgrx::pg_sys;
use std::rc::Rc;

/// A foreign key, a registered column, or all of them that a table has to one other.
pub struct Reference {
    /// The foreign keys; none for a registered column.
    pub constraints: Vec<pg_sys::Oid>,
    /// The constraint and those derived from it for partitions: what its triggers are known by.
    pub family: Vec<pg_sys::Oid>,
    /// Of the constraint or the column.
    pub name: String,
    pub table: Table,
    columns: Vec<Column>,
    /// Whether each column is a key by itself, of which a row has one or several.
    is_any_of: bool,
    pub on_delete: OnDelete,
    pub on_update: OnUpdate,
    /// What SET NULL and SET DEFAULT apply to on deletion, quoted.
    pub set_columns: Vec<String>,
}

/// What a foreign key does when the row it references gets another key.
#[derive(Clone, Copy, PartialEq)]
pub enum OnUpdate {
    /// Its rows can follow: NO ACTION or CASCADE.
    Follow,
    /// RESTRICT, SET NULL, SET DEFAULT: Postgres itself does what it says.
    Native,
}

/// A column of a reference and the column it references.
#[derive(Clone)]
struct Column {
    /// Quoted.
    name: String,
    number: i16,
    /// Of the referenced column.
    type_name: String,
    /// Operator and right side of the comparison with a referenced value, the row being called `t`.
    comparison: String,
    referenced: i16,
    /// Whether it is the period of a temporal key: it overlaps that of the referenced row, and stays.
    is_period: bool,
    /// Whether it follows from other columns of its row.
    is_generated: bool,
}

/// Keys of rows that are referenced, and what they become: as text, a list for each column.
#[derive(Default, Clone)]
pub struct Keys {
    pub old: Vec<Vec<String>>,
    pub new: Vec<Vec<String>>,
}

impl Keys {
    /// One key of one column.
    pub fn one(old: String, new: String) -> Self {
        Self { old: vec![vec![old]], new: vec![vec![new]] }
    }

    pub fn len(&self) -> usize {
        self.old.first().map_or(0, Vec::len)
    }

    /// Adds a key, unless one of its columns is NULL: such a key references nothing.
    pub fn push(&mut self, old: Vec<Option<String>>, new: Vec<Option<String>>) {
        let (Some(old), Some(new)) = (all(old), all(new)) else { return };
        self.old.resize(old.len(), Vec::new());
        self.new.resize(new.len(), Vec::new());
        old.into_iter().zip(&mut self.old).for_each(|(value, column)| column.push(value));
        new.into_iter().zip(&mut self.new).for_each(|(value, column)| column.push(value));
    }

    /// The other way round.
    pub fn swapped(&self) -> Self {
        Self { old: self.new.clone(), new: self.old.clone() }
    }

    /// Adds others.
    pub fn extend(&mut self, other: &Self) {
        for (own, other) in [(&mut self.old, &other.old), (&mut self.new, &other.new)] {
            own.resize(other.len(), Vec::new());
            own.iter_mut().zip(other).for_each(|(own, other)| own.extend_from_slice(other));
        }
    }

    /// Whether several keys become the same.
    fn converge(&self) -> bool {
        let mut seen = std::collections::HashSet::new();
        (0..self.len()).any(|i| !seen.insert(self.new.iter().map(|column| &column[i]).collect::<Vec<_>>()))
    }

    /// A list for each of `width` columns, also where there is no key.
    fn values(keys: &[Vec<String>], width: usize) -> impl Iterator<Item = Value> {
        (0..width).map(|i| spi::value(keys.get(i).cloned().unwrap_or_default()))
    }
}

fn all(values: Vec<Option<String>>) -> Option<Vec<String>> {
    values.into_iter().collect()
}

/// A part of a statement: rows of a table called `t`, and the parameters by which they are found.
#[derive(Default)]
pub struct Selection {
    /// Further items of FROM or USING, with a comma in front; may be empty.
    pub from: String,
    pub condition: String,
    pub types: Vec<pg_sys::Oid>,
    pub values: Vec<Value>,
}

impl Reference {
    /// The foreign keys that reference `table`, now.
    pub fn to(table: pg_sys::Oid) -> Result<Vec<Self>> {
        // What is derived for partitions of the referencing table is not asked for, what is derived for the
        // referenced table being a partition is. Found by the triggers of the referenced table, which an index finds.
        static SELECT: Statement = Statement::latest(
            spi::literal(concat!(
                "select ",
                table_columns!(),
                ", c.oid, c.conname::text, c.confdeltype::text, c.confupdtype::text,
                 array(select pg_catalog.quote_ident(s.attname) from pg_catalog.pg_attribute s
                       where s.attrelid = c.conrelid and s.attnum = any (coalesce(c.confdelsetcols, c.conkey))),
                 array(with recursive family as (
                           select c.oid as member
                           union all
                           select d.oid from family join pg_catalog.pg_constraint d on d.conparentid = member)
                       select member from family),
                 k.names, k.numbers, k.types, k.comparisons, k.referenced, k.periods, k.generated
          from pg_catalog.pg_constraint c
          join pg_catalog.pg_class t on t.oid = c.conrelid
          join pg_catalog.pg_namespace n on n.oid = t.relnamespace
          cross join lateral (
              select pg_catalog.array_agg(pg_catalog.quote_ident(a.attname) order by k.i) as names,
                     pg_catalog.array_agg(a.attnum order by k.i) as numbers,
                     pg_catalog.array_agg(pg_catalog.format_type(r.atttypid, -1) order by k.i) as types,
                     pg_catalog.array_agg(
                         pg_catalog.format('operator(%I.%s) t.%I%s%s', s.nspname, o.oprname, a.attname,
                             case when y.typtype <> 'p' and a.atttypid <> y.oid
                                  then '::' || pg_catalog.format_type(y.oid, -1) end,
                             -- Equal is what the referenced column calls so, where that calls different texts equal.
                             case when r.attcollation <> a.attcollation and not l.collisdeterministic
                                  then pg_catalog.format(' collate %I.%I', ls.nspname, l.collname) end) order by k.i) as comparisons,
                     pg_catalog.array_agg(r.attnum order by k.i) as referenced,
                     -- conperiod is there from Postgres 18 on. The period comes last.
                     pg_catalog.array_agg(k.i = pg_catalog.cardinality(c.conkey)
                         and coalesce((pg_catalog.to_jsonb(c) ->> 'conperiod')::boolean, false) order by k.i) as periods,
                     pg_catalog.array_agg(a.attgenerated <> '' order by k.i) as generated
              from rows from (pg_catalog.unnest(c.conkey), pg_catalog.unnest(c.confkey), pg_catalog.unnest(c.conpfeqop))
                   with ordinality as k(own, other, operator, i)
              join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.own
              join pg_catalog.pg_attribute r on r.attrelid = c.confrelid and r.attnum = k.other
              join pg_catalog.pg_operator o on o.oid = k.operator
              join pg_catalog.pg_namespace s on s.oid = o.oprnamespace
              join pg_catalog.pg_type y on y.oid = o.oprright
              left join pg_catalog.pg_collation l on l.oid = r.attcollation
              left join pg_catalog.pg_namespace ls on ls.oid = l.collnamespace) k
          where c.oid in (select a.tgconstraint from pg_catalog.pg_trigger a where a.tgrelid = $1 and a.tgisinternal)
            and c.contype = 'f' and c.confrelid = $1
            and not exists (select from pg_catalog.pg_constraint p
                            where p.oid = c.conparentid and p.confrelid = c.confrelid)
            and coalesce((pg_catalog.to_jsonb(c) ->> 'conenforced')::boolean, true)
          order by n.nspname, t.relname, c.conname\0"
            )),
            &[pg_sys::OIDOID],
        );
        let mut references = Vec::new();
        let read = |row: &Row| {
            references.push(Self {
                constraints: row.get(7).into_iter().collect(),
                family: row.get(12).unwrap_or_default(),
                name: row.get(8).unwrap_or_default(),
                table: Table::read(row, 1),
                columns: Column::read(row, 13),
                is_any_of: false,
                on_delete: OnDelete::from_catalog(&row.get::<String>(9).unwrap_or_default()),
                on_update: match row.get::<String>(10).as_deref() {
                    Some("a" | "c") => OnUpdate::Follow,
                    _ => OnUpdate::Native,
                },
                set_columns: row.get(11).unwrap_or_default(),
            });
            Ok(())
        };
        catalog::with_qualified_names(|| SELECT.each(&[spi::value(table)], read))?;
        Ok(references)
    }

    /// The columns registered for the id of a user, as far as no foreign key of theirs references `auth.users`.
    pub fn registered() -> Result<Vec<Self>> {
        static SELECT: Statement = Statement::latest(
            spi::literal(concat!(
                "select ",
                table_columns!(),
                ", a.attname::text, array[pg_catalog.quote_ident(a.attname)], array[a.attnum],
                 array[pg_catalog.format_type(a.atttypid, -1)],
                 array[pg_catalog.format('operator(pg_catalog.=) t.%I', a.attname)], array[1::smallint], array[false], array[a.attgenerated <> '']
          from auth.merge_rules r
          cross join pg_catalog.unnest(r.user_columns) u(name)
          join pg_catalog.pg_class t on t.oid = r.relation
          join pg_catalog.pg_namespace n on n.oid = t.relnamespace
          join pg_catalog.pg_attribute a on a.attrelid = t.oid and a.attname = u.name
          where not exists (select from pg_catalog.pg_constraint c
                            where c.contype = 'f' and c.conrelid = t.oid and c.confrelid = $1
                              and c.conkey = array[a.attnum])
          order by n.nspname, t.relname, a.attname\0"
            )),
            &[pg_sys::OIDOID],
        );
        let users = catalog::relations().map_or(pg_sys::InvalidOid, |relations| relations.users);
        let mut references = Vec::new();
        let read = |row: &Row| {
            references.push(Self {
                constraints: Vec::new(),
                family: Vec::new(),
                name: row.get(7).unwrap_or_default(),
                table: Table::read(row, 1),
                columns: Column::read(row, 8),
                is_any_of: false,
                on_delete: OnDelete::Forbid,
                on_update: OnUpdate::Native,
                set_columns: Vec::new(),
            });
            Ok(())
        };
        catalog::with_qualified_names(|| SELECT.each(&[spi::value(users)], read))?;
        Ok(references)
    }

    /// References of one table to one column, as one: a row that has the key in several columns changes once, from
    /// one state that its constraints allow to another.
    pub fn any_of(references: &[Rc<Self>]) -> Rc<Self> {
        if let [only] = references {
            return only.clone();
        }
        let names: Vec<_> = references.iter().map(|reference| reference.name.as_str()).collect();
        // Several foreign keys may have the same column.
        let mut columns: Vec<Column> = Vec::new();
        for column in references.iter().flat_map(|reference| &reference.columns) {
            if columns.iter().all(|known| known.number != column.number) {
                columns.push(column.clone());
            }
        }
        Rc::new(Self {
            constraints: references.iter().flat_map(|reference| reference.constraints.clone()).collect(),
            family: Vec::new(),
            name: names.join("\", \""),
            table: references[0].table.clone(),
            columns,
            is_any_of: true,
            on_delete: OnDelete::Forbid,
            on_update: OnUpdate::Native,
            set_columns: Vec::new(),
        })
    }

    /// Runs a statement on the referencing table as its owner.
    pub fn run(&self, sql: &str, selection: &Selection, read: impl FnMut(&Row) -> Result<()>) -> Result<u64> {
        let still_holds = || self.constraints.iter().all(|constraint| catalog::constraint_exists(*constraint));
        self.table.run(sql, &selection.types, &selection.values, &self.name, still_holds, read)
    }

    /// Whether it is a registered column rather than a foreign key.
    pub fn is_registered(&self) -> bool {
        self.constraints.is_empty()
    }

    /// The numbers of its columns.
    pub fn numbers(&self) -> Vec<i16> {
        self.columns.iter().map(|column| column.number).collect()
    }

    /// Its columns, quoted.
    pub fn column_names(&self) -> Vec<String> {
        self.columns.iter().map(|column| column.name.clone()).collect()
    }

    /// The numbers of the columns it references.
    pub fn referenced(&self) -> Vec<i16> {
        self.columns.iter().map(|column| column.referenced).collect()
    }

    /// Whether one of the columns `numbers` of the table that it references is part of the key.
    pub fn references_any(&self, numbers: &[i16]) -> bool {
        self.columns.iter().any(|column| numbers.contains(&column.referenced))
    }

    /// The number of values that make a key.
    fn width(&self) -> usize {
        if self.is_any_of { 1 } else { self.columns.len() }
    }

    /// The rows that have one of the old keys; the new key is in reach of [`Self::new_value`].
    pub fn rows(&self, keys: &Keys) -> Selection {
        let n = self.width();
        let parameters: Vec<_> = (1..=2 * n).map(|i| format!("pg_catalog.unnest(${i})")).collect();
        let names: Vec<_> = (1..=n).map(|i| format!("o{i}")).chain((1..=n).map(|i| format!("n{i}"))).collect();
        Selection {
            from: format!(", rows from ({}) as m({})", parameters.join(", "), names.join(", ")),
            condition: self.condition(|i| format!("m.o{i}")),
            types: vec![pg_sys::TEXTARRAYOID; 2 * n],
            values: Keys::values(&keys.old, n).chain(Keys::values(&keys.new, n)).collect(),
        }
    }

    /// Adds to a selection that its rows have one of the old keys, or have none.
    pub fn restrict(&self, selection: &mut Selection, keys: &Keys, has_one: bool) {
        let n = self.width();
        let first = selection.types.len() + 1;
        let parameters: Vec<_> = (first..first + n).map(|i| format!("pg_catalog.unnest(${i})")).collect();
        let names: Vec<_> = (1..=n).map(|i| format!("o{i}")).collect();
        selection.condition += &format!(
            "{}{} (select from rows from ({}) as k({}) where {})",
            if selection.condition.is_empty() { "" } else { " and " },
            if has_one { "exists" } else { "not exists" },
            parameters.join(", "),
            names.join(", "),
            self.condition(|i| format!("k.o{i}"))
        );
        selection.types.extend(vec![pg_sys::TEXTARRAYOID; n]);
        selection.values.extend(Keys::values(&keys.old, n));
    }

    /// Whether the row `t` has the key whose columns `value` names, counted from 1; its types are text.
    pub fn condition(&self, value: impl Fn(usize) -> String) -> String {
        let equal: Vec<_> = (0..self.columns.len()).map(|i| self.has_value(i, &value)).collect();
        match self.is_any_of {
            true => format!("({})", equal.join(" or ")),
            false => equal.join(" and "),
        }
    }

    /// The part of [`Self::condition`] about column `i`, counted from 0.
    fn has_value(&self, i: usize, value: impl Fn(usize) -> String) -> String {
        let Column { type_name, comparison, .. } = &self.columns[i];
        format!("({})::{type_name} {comparison}", value(if self.is_any_of { 1 } else { i + 1 }))
    }

    /// Column `i`, counted from 0, of the new key of a row of [`Self::rows`].
    fn new_value(&self, i: usize) -> String {
        let Column { name, type_name, is_period, .. } = &self.columns[i];
        if *is_period {
            return format!("t.{name}");
        }
        match self.is_any_of {
            true => {
                let is_old = self.has_value(i, |_| "m.o1".into());
                format!("(case when {is_old} then (m.n1)::{type_name} else t.{name} end)")
            }
            false => format!("(m.n{})::{type_name}", i + 1),
        }
    }

    /// Whether rows that differ in their old keys may get the same new one.
    pub fn may_converge(&self, keys: &Keys) -> bool {
        self.is_any_of || keys.converge()
    }

    /// The new value of the column of that number, if it is one of the reference.
    pub fn new_value_of(&self, number: i16) -> Option<String> {
        self.columns.iter().position(|column| column.number == number).map(|i| self.new_value(i))
    }

    /// SET of an UPDATE that gives the rows of [`Self::rows`] their new key; empty where all of it is generated.
    pub fn assignments(&self) -> String {
        let all = self.columns.iter().enumerate().filter(|(_, column)| !column.is_generated);
        all.map(|(i, column)| format!("{} = {}", column.name, self.new_value(i))).collect::<Vec<_>>().join(", ")
    }
}

impl Column {
    /// Reads seven arrays, from column `first` on.
    fn read(row: &Row, first: i32) -> Vec<Self> {
        let names: Vec<String> = row.get(first).unwrap_or_default();
        let numbers: Vec<i16> = row.get(first + 1).unwrap_or_default();
        let types: Vec<String> = row.get(first + 2).unwrap_or_default();
        let comparisons: Vec<String> = row.get(first + 3).unwrap_or_default();
        let referenced: Vec<i16> = row.get(first + 4).unwrap_or_default();
        let periods: Vec<bool> = row.get(first + 5).unwrap_or_default();
        let generated: Vec<bool> = row.get(first + 6).unwrap_or_default();
        let texts = names.into_iter().zip(types).zip(comparisons);
        let columns = texts.zip(numbers).zip(referenced).zip(periods).zip(generated);
        columns
            .map(|((((((name, type_name), comparison), number), referenced), is_period), is_generated)| Self {
                name,
                number,
                type_name,
                comparison,
                referenced,
                is_period,
                is_generated,
            })
            .collect()
    }
}

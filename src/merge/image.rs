//! Rows of a table as they are to become: what the expressions of its indexes and constraints would be for them.
//!
//! Such expressions name columns as the table does, whatever it calls them. So they stand in a subquery of their own
//! that has these columns and nothing else, under the table's name; all names of ours are outside.

use super::references::{Reference, Selection};
use crate::catalog;
use crate::error::Result;
use crate::spi::{self, Row, Statement};
use pgrx::pg_sys;

/// The columns of a table.
pub struct Image {
    columns: Vec<Column>,
    /// The table's name, not qualified, quoted.
    relation: String,
}

struct Column {
    number: i16,
    /// Quoted.
    name: String,
    type_name: String,
    /// How it is generated, if it is.
    generated: Option<String>,
}

/// What is to be known of rows.
pub struct Wanted<'a> {
    /// Numbers of columns to be had as they are, as text.
    pub originals: &'a [i16],
    /// Expressions over the columns.
    pub expressions: &'a [String],
    /// Another, for the rows that are wanted.
    pub condition: Option<&'a str>,
}

impl Wanted<'_> {
    /// Names for the columns of [`Image::to_become`] and [`Image::as_they_are`].
    pub fn names(&self) -> String {
        let originals = (1..=self.originals.len()).map(|i| format!(", k{i}"));
        let expressions = (1..=self.expressions.len()).map(|i| format!(", x{i}"));
        "o, c".to_owned() + &originals.chain(expressions).collect::<String>()
    }

    fn condition(&self) -> String {
        self.condition.map(|condition| format!(" where {condition}")).unwrap_or_default()
    }
}

impl Image {
    pub fn of(reference: &Reference) -> Result<Self> {
        static SELECT: Statement = Statement::latest(
            c"select a.attnum, pg_catalog.quote_ident(a.attname), pg_catalog.format_type(a.atttypid, a.atttypmod),
                     case when a.attgenerated <> '' then pg_catalog.pg_get_expr(d.adbin, d.adrelid) end,
                     pg_catalog.quote_ident(t.relname)
              from pg_catalog.pg_attribute a
              join pg_catalog.pg_class t on t.oid = a.attrelid
              left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
              where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
              order by a.attnum",
            &[pg_sys::OIDOID],
        );
        let mut image = Self { columns: Vec::new(), relation: String::new() };
        let read = |row: &Row| {
            image.columns.push(Column {
                number: row.get(1).unwrap_or(0),
                name: row.get(2).unwrap_or_default(),
                type_name: row.get(3).unwrap_or_default(),
                generated: row.get(4),
            });
            image.relation = row.get(5).unwrap_or_default();
            Ok(())
        };
        catalog::with_qualified_names(|| SELECT.each(&[spi::value(reference.table.relation)], read))?;
        Ok(image)
    }

    /// SELECT of `tableoid`, `ctid` and what is wanted, for the rows of [`Reference::rows`] with their new keys.
    pub fn to_become(&self, reference: &Reference, rows: &Selection, wanted: &Wanted) -> String {
        let (generated, base): (Vec<_>, Vec<_>) = self.columns.iter().partition(|column| column.generated.is_some());
        let values = base.iter().map(|column| match reference.new_value_of(column.number) {
            Some(value) => format!(", {value}::{}", column.type_name),
            None => format!(", t.{}", column.name),
        });
        let value_names = (1..=base.len()).map(|i| format!(", v{i}"));
        let columns: Vec<_> =
            base.iter().enumerate().map(|(i, column)| format!("b.v{} as {}", i + 1, column.name)).collect();
        let relation = &self.relation;
        let mut row = format!("(select {}) as {relation}", columns.join(", "));
        // Generated columns follow from the others.
        if !generated.is_empty() {
            let generated = generated.iter().filter_map(|column| {
                column.generated.as_ref().map(|expression| format!(", {expression} as {}", column.name))
            });
            row = format!("(select {relation}.*{} from {row}) as {relation}", generated.collect::<String>());
        }
        format!(
            "select b.o, b.c{}, x.*
             from (select t.tableoid, t.ctid{}{} from {} as t{} where {}) as b(o, c{}{})
             cross join lateral (select {} from {row}{}) as x",
            (1..=wanted.originals.len()).map(|i| format!(", b.k{i}")).collect::<String>(),
            self.originals("t", wanted),
            values.collect::<String>(),
            reference.table.target,
            rows.from,
            rows.condition,
            (1..=wanted.originals.len()).map(|i| format!(", k{i}")).collect::<String>(),
            value_names.collect::<String>(),
            wanted.expressions.join(", "),
            wanted.condition()
        )
    }

    /// The same for all rows, as they are.
    pub fn as_they_are(&self, reference: &Reference, wanted: &Wanted) -> String {
        let relation = &self.relation;
        format!(
            "select {relation}.tableoid, {relation}.ctid{}, {} from {}{}",
            self.originals(relation, wanted),
            wanted.expressions.join(", "),
            reference.table.target,
            wanted.condition()
        )
    }

    fn originals(&self, row: &str, wanted: &Wanted) -> String {
        let name = |number| self.columns.iter().find(|column| column.number == number).map(|column| &column.name);
        wanted.originals.iter().filter_map(|number| Some(format!(", {row}.{}::text", name(*number)?))).collect()
    }
}

//! Which rows would collide with which, if rows got another key.
//!
//! Postgres itself could only tell by failing. So each unique index and each exclusion constraint that the new key
//! takes part in is asked for: what its columns, expressions and condition would be for the rows as they are to
//! become, compared by its own operators with what they are for the rows that are there.

use super::references::{Keys, Reference};
use super::rows::RowId;
use crate::error::{Result, error};
use crate::spi::{self, Statement};
use pgrx::pg_sys;

/// Two rows of which only one can stay.
pub struct Collision {
    /// The row that would get another key.
    pub mover: RowId,
    pub existing: RowId,
}

/// A unique index or the index of an exclusion constraint.
struct Index {
    name: String,
    is_exclusion: bool,
    /// Its columns or expressions, the operators by which they are compared (with a COLLATE where it matters), and
    /// its condition, for a row whose columns have their own names.
    keys: Vec<String>,
    operators: Vec<String>,
    collations: Vec<String>,
    nulls_collide: bool,
    condition: Option<String>,
}

/// The rows that would collide if those with the old keys of `reference` got the new ones: with other rows or, if
/// there are none, with each other.
///
/// # Arguments
/// * `columns` – numbers of the columns by which the table itself is referenced; see [`RowId::keys`]
///
/// # Errors
/// `merge_conflict` where it is an exclusion constraint that they would violate.
pub fn find(reference: &Reference, keys: &Keys, columns: &[i16]) -> Result<Vec<Collision>> {
    let indexes = indexes(reference)?;
    if indexes.is_empty() {
        return Ok(Vec::new());
    }
    let table = Columns::of(reference)?;
    let mut found = Vec::new();
    for index in &indexes {
        search(reference, keys, columns, index, &table, false, &mut found)?;
    }
    if found.is_empty() && keys.converge() {
        for index in &indexes {
            search(reference, keys, columns, index, &table, true, &mut found)?;
        }
    }
    Ok(found)
}

/// # Errors
/// `merge_conflict`.
pub fn check_exclusions(reference: &Reference, keys: &Keys) -> Result<()> {
    let indexes: Vec<_> = indexes(reference)?.into_iter().filter(|index| index.is_exclusion).collect();
    if indexes.is_empty() {
        return Ok(());
    }
    let table = Columns::of(reference)?;
    for index in &indexes {
        search(reference, keys, &[], index, &table, false, &mut Vec::new())?;
    }
    Ok(())
}

fn search(
    reference: &Reference,
    keys: &Keys,
    columns: &[i16],
    index: &Index,
    table: &Columns,
    among_movers: bool,
    found: &mut Vec<Collision>,
) -> Result<()> {
    let rows = reference.rows(keys);
    let target = &reference.table.target;
    let list = |prefix: &str| {
        index.keys.iter().enumerate().map(|(i, key)| format!(", {key} as \"{prefix}{i}\"")).collect::<String>()
    };
    let condition = index.condition.as_ref().map(|condition| format!(" where {condition}")).unwrap_or_default();
    // The names of our own hold a blank, so that they are no column's.
    let originals: String =
        columns.iter().map(|number| format!(", t.{0}::text as \"own {number}\"", table.name(*number))).collect();
    let passed_on: String = columns.iter().map(|number| format!(", \"own {number}\"")).collect();
    let base = format!(
        "select t.tableoid as \"row table\", t.ctid as \"row id\"{originals}, {} from {target} as t{} where {}",
        table.image(reference),
        rows.from,
        rows.condition
    );
    // Generated columns follow from the others.
    let base = match table.generated() {
        Some(generated) => format!("select *, {generated} from ({base}) as base"),
        None => base,
    };
    let image =
        format!("(select \"row table\", \"row id\"{passed_on}{} from ({base}) as image{condition})", list("key "));
    let (existing, order) = match among_movers {
        true => (image.clone(), "(m.\"row table\", m.\"row id\") > (e.\"row table\", e.\"row id\")"),
        false => (
            format!(
                "(select tableoid as \"row table\", ctid as \"row id\"{}{} from {target}{condition})",
                columns
                    .iter()
                    .map(|number| format!(", {}::text as \"own {number}\"", table.name(*number)))
                    .collect::<String>(),
                list("key ")
            ),
            "(m.\"row table\", m.\"row id\") <> (e.\"row table\", e.\"row id\")",
        ),
    };
    let equal: Vec<String> = (0..index.keys.len())
        .map(|i| {
            let (collation, operator) = (&index.collations[i], &index.operators[i]);
            let equal = format!("m.\"key {i}\"{collation} {operator} e.\"key {i}\"");
            match index.nulls_collide {
                true => format!("({equal} or m.\"key {i}\" is null and e.\"key {i}\" is null)"),
                false => equal,
            }
        })
        .collect();
    let own = |alias: &str| columns.iter().map(|number| format!(", {alias}.\"own {number}\"")).collect::<String>();
    let limit = if index.is_exclusion { "limit 1" } else { "" };
    let sql = format!(
        "select m.\"row table\", m.\"row id\"::text, e.\"row table\", e.\"row id\"::text{}{}
         from {image} as m join {existing} as e on {} where {order}
         order by m.\"row table\", m.\"row id\", e.\"row table\", e.\"row id\" {limit}",
        own("m"),
        own("e"),
        equal.join(" and ")
    );
    let count = columns.len() as i32;
    reference.run(&sql, &rows, |row| {
        if index.is_exclusion {
            let message = format!(
                "rows of the guest in table {} and rows of the account exclude each other by \"{}\"",
                reference.table.name, index.name
            );
            return Err(error(409, "merge_conflict", message)
                .about(&reference.table.name, &index.name)
                .hint("Set a rule for the table: auth.set_merge_rule(…, 'keep_account'), 'keep_guest', 'ignore' or 'function'."));
        }
        let keys = |first: i32| columns.iter().enumerate().map(|(i, number)| (*number, row.get(first + i as i32))).collect();
        found.push(Collision {
            mover: RowId::read(row, 1, keys(5)),
            existing: RowId::read(row, 3, keys(5 + count)),
        });
        Ok(())
    })?;
    Ok(())
}

/// The indexes in which the columns of `reference` take part.
fn indexes(reference: &Reference) -> Result<Vec<Index>> {
    // What expressions and conditions use is among the index's dependencies. A generated column may follow from any.
    static SELECT: Statement = Statement::latest(
        c"select x.relname::text, i.indisexclusion, i.indnullsnotdistinct,
                 pg_catalog.pg_get_expr(i.indpred, i.indrelid),
                 k.keys, k.operators, k.collations
          from pg_catalog.pg_index i
          join pg_catalog.pg_class x on x.oid = i.indexrelid
          left join pg_catalog.pg_constraint e on e.conindid = i.indexrelid and e.conexclop is not null
          cross join lateral (
              select pg_catalog.array_agg(pg_catalog.pg_get_indexdef(i.indexrelid, n, false) order by n) as keys,
                     pg_catalog.array_agg(pg_catalog.format('operator(%I.%s)', s.nspname, o.oprname) order by n) as operators,
                     pg_catalog.array_agg(case when l.oid is null then '' else pg_catalog.format(' collate %I.%I', ls.nspname, l.collname) end order by n) as collations
              from pg_catalog.generate_series(1, i.indnkeyatts) n
              join pg_catalog.pg_opclass c on c.oid = i.indclass[n - 1]
              left join pg_catalog.pg_amop a on a.amopfamily = c.opcfamily and a.amoplefttype = c.opcintype
                                            and a.amoprighttype = c.opcintype and a.amopstrategy = 3 and a.amoppurpose = 's'
              join pg_catalog.pg_operator o on o.oid = coalesce(e.conexclop[n], a.amopopr)
              join pg_catalog.pg_namespace s on s.oid = o.oprnamespace
              left join pg_catalog.pg_collation l on l.oid = i.indcollation[n - 1]
              left join pg_catalog.pg_namespace ls on ls.oid = l.collnamespace) k
          where i.indrelid = $1 and (i.indisunique or i.indisexclusion) and i.indisready
            and exists (
                select from pg_catalog.pg_attribute a
                where a.attrelid = i.indrelid and a.attnum > 0 and not a.attisdropped
                  and (a.attnum = any ($2) or a.attgenerated <> '')
                  and (a.attnum = any (i.indkey)
                       or exists (select from pg_catalog.pg_depend d
                                  where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = i.indexrelid
                                    and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                                    and d.refobjid = i.indrelid and d.refobjsubid = a.attnum)))
          order by not i.indisprimary, x.relname",
        &[pg_sys::OIDOID, pg_sys::INT2ARRAYOID],
    );
    let mut indexes = Vec::new();
    SELECT.each(&[spi::value(reference.table.relation), spi::value(reference.numbers())], |row| {
        indexes.push(Index {
            name: row.get(1).unwrap_or_default(),
            is_exclusion: row.get(2).unwrap_or(false),
            nulls_collide: row.get(3).unwrap_or(false),
            condition: row.get(4),
            keys: row.get(5).unwrap_or_default(),
            operators: row.get(6).unwrap_or_default(),
            collations: row.get(7).unwrap_or_default(),
        });
        Ok(())
    })?;
    Ok(indexes)
}

/// The columns of a table.
struct Columns(Vec<TableColumn>);

struct TableColumn {
    number: i16,
    /// Quoted.
    name: String,
    type_name: String,
    /// How it is generated, if it is.
    generated: Option<String>,
}

impl Columns {
    fn of(reference: &Reference) -> Result<Self> {
        static SELECT: Statement = Statement::latest(
            c"select a.attnum, pg_catalog.quote_ident(a.attname), pg_catalog.format_type(a.atttypid, a.atttypmod),
                     case when a.attgenerated <> '' then pg_catalog.pg_get_expr(d.adbin, d.adrelid) end
              from pg_catalog.pg_attribute a
              left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
              where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
              order by a.attnum",
            &[pg_sys::OIDOID],
        );
        let mut columns = Vec::new();
        SELECT.each(&[spi::value(reference.table.relation)], |row| {
            columns.push(TableColumn {
                number: row.get(1).unwrap_or(0),
                name: row.get(2).unwrap_or_default(),
                type_name: row.get(3).unwrap_or_default(),
                generated: row.get(4),
            });
            Ok(())
        })?;
        Ok(Self(columns))
    }

    fn name(&self, number: i16) -> &str {
        self.0.iter().find(|column| column.number == number).map_or("null", |column| &column.name)
    }

    /// The columns of the row `t` as they are to become, without those that are generated.
    fn image(&self, reference: &Reference) -> String {
        let base = self.0.iter().filter(|column| column.generated.is_none());
        let image = base.map(|column| match reference.new_value_of(column.number) {
            Some(value) => format!("{value}::{} as {}", column.type_name, column.name),
            None => format!("t.{}", column.name),
        });
        image.collect::<Vec<_>>().join(", ")
    }

    fn generated(&self) -> Option<String> {
        let generated = self.0.iter().filter_map(|column| {
            column.generated.as_ref().map(|expression| format!("{expression} as {}", column.name))
        });
        let all: Vec<_> = generated.collect();
        (!all.is_empty()).then(|| all.join(", "))
    }
}

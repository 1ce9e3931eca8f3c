//! Which rows would collide with which, if rows got another key.
//!
//! Postgres itself could only tell by failing. So each unique index and each exclusion constraint that the new key
//! takes part in is asked for: what its columns, expressions and condition would be for the rows as they are to
//! become, compared by its own operators with what they are for the rows that are there.

use super::image::{Image, Wanted};
use super::references::{Keys, Reference};
use super::rows::RowId;
use crate::catalog;
use crate::error::{Result, error};
use crate::spi::{self, Row, Statement};
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
    let image = Image::of(reference)?;
    let mut found = Vec::new();
    for index in &indexes {
        search(reference, keys, columns, index, &image, false, &mut found)?;
    }
    if found.is_empty() && reference.may_converge(keys) {
        for index in &indexes {
            search(reference, keys, columns, index, &image, true, &mut found)?;
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
    let image = Image::of(reference)?;
    for index in &indexes {
        search(reference, keys, &[], index, &image, false, &mut Vec::new())?;
    }
    Ok(())
}

fn search(
    reference: &Reference,
    keys: &Keys,
    columns: &[i16],
    index: &Index,
    image: &Image,
    among_movers: bool,
    found: &mut Vec<Collision>,
) -> Result<()> {
    let rows = reference.rows(keys);
    let wanted = Wanted { originals: columns, expressions: &index.keys, condition: index.condition.as_deref() };
    let movers = image.to_become(reference, &rows, &wanted);
    let (existing, order) = match among_movers {
        true => (movers.clone(), "operator(pg_catalog.>)"),
        false => (image.as_they_are(reference, &wanted), "operator(pg_catalog.<>)"),
    };
    let equal: Vec<String> = (0..index.keys.len())
        .map(|i| {
            let (n, collation, operator) = (i + 1, &index.collations[i], &index.operators[i]);
            let equal = format!("m.x{n}{collation} {operator} e.x{n}");
            match index.nulls_collide {
                true => format!("({equal} or m.x{n} is null and e.x{n} is null)"),
                false => equal,
            }
        })
        .collect();
    let originals = |alias: &str| (1..=columns.len()).map(|i| format!(", {alias}.k{i}")).collect::<String>();
    let sql = format!(
        "select m.o, m.c, e.o, e.c{}{}
         from ({movers}) as m({names}) join ({existing}) as e({names}) on {}
         where (m.o, m.c) {order} (e.o, e.c)
         order by m.o, m.c, e.o, e.c {}",
        originals("m"),
        originals("e"),
        equal.join(" and "),
        if index.is_exclusion { "limit 1" } else { "" },
        names = wanted.names(),
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
                .hint(
                "Set a rule for the table: auth.set_merge_rule(…, 'keep_account'), 'keep_guest', 'ignore' or 'function'."));
        }
        let keys =
            |first: i32| columns.iter().enumerate().map(|(i, number)| (*number, row.get(first + i as i32))).collect();
        found.push(Collision { mover: RowId::read(row, 1, keys(5)), existing: RowId::read(row, 3, keys(5 + count)) });
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
    let read = |row: &Row| {
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
    };
    catalog::with_qualified_names(|| {
        SELECT.each(&[spi::value(reference.table.relation), spi::value(reference.numbers())], read)
    })?;
    Ok(indexes)
}

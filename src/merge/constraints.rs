//! CHECK constraints that rows of the guest would violate as rows of the account: found before anything moves.

use super::image::{Image, Wanted};
use super::references::{Keys, Reference};
use crate::catalog;
use crate::error::{Result, error};
use crate::spi::{self, Row, Statement};
use pgrx::pg_sys;

/// Asks each CHECK constraint that is about the columns of `reference`.
///
/// # Errors
/// `merge_conflict` where a row of the guest could not be the account's.
pub fn check(reference: &Reference, keys: &Keys) -> Result<()> {
    // A generated column may follow from any. What is about the row as a whole, or where it is, is left to Postgres.
    // conenforced is there from Postgres 18 on.
    static SELECT: Statement = Statement::latest(
        c"select c.conname::text, pg_catalog.pg_get_expr(c.conbin, c.conrelid)
          from pg_catalog.pg_constraint c
          where c.contype = 'c' and c.conrelid = $1 and 0 < all (c.conkey)
            and coalesce((pg_catalog.to_jsonb(c) ->> 'conenforced')::boolean, true)
            and exists (select from pg_catalog.pg_attribute a
                        where a.attrelid = c.conrelid and a.attnum = any (c.conkey)
                          and (a.attnum = any ($2) or a.attgenerated <> ''))
          order by c.conname",
        &[pg_sys::OIDOID, pg_sys::INT2ARRAYOID],
    );
    let mut checks: Vec<(String, String)> = Vec::new();
    let read = |row: &Row| {
        checks.push((row.get(1).unwrap_or_default(), row.get(2).unwrap_or_default()));
        Ok(())
    };
    catalog::with_qualified_names(|| {
        SELECT.each(&[spi::value(reference.table.relation), spi::value(reference.numbers())], read)
    })?;
    if checks.is_empty() {
        return Ok(());
    }
    let image = Image::of(reference)?;
    let rows = reference.rows(keys);
    for (name, expression) in checks {
        let condition = format!("({expression}) is false");
        let wanted = Wanted { originals: &[], expressions: &["true".into()], condition: Some(&condition) };
        let sql = image.to_become(reference, &rows, &wanted) + " limit 1";
        if reference.run(&sql, &rows, |_| Ok(()))? > 0 {
            let table = &reference.table.name;
            let message = format!("rows of the guest in table {table} cannot be the account's, by \"{name}\"");
            return Err(error(409, "merge_conflict", message).about(table, &name).hint(
                "What becomes of them, a rule of the table can say: auth.set_merge_rule(…, 'function'), or 'ignore'.",
            ));
        }
    }
    Ok(())
}

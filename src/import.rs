//! What taking over users from elsewhere (`sql/import.sql`) needs beyond SQL.

use crate::error::{Error, Result, error, invalid};
use crate::function::Args;
use crate::verification::Address;
use crate::{as_owner, catalog, spi, sql_function};
use anon_auth_core::password;
use pgrx::pg_sys;
use std::ffi::CString;

sql_function!(anon_auth_normal_address, |args| {
    let address = args.text(1)?.unwrap_or_default();
    let address = match args.text(0)?.as_deref() {
        Some("email") => Address::email(&address),
        Some("phone") => Address::phone(&address),
        _ => return Err(invalid("the kind of address is neither email nor phone")),
    };
    Ok(address.map(|address| address.text().to_owned()).map_err(Error::discard).ok())
});

sql_function!(anon_auth_imported_password, |args| -> Result<Option<String>> {
    let hash = args.text(0)?.unwrap_or_default();
    Ok(if password::is_known(&hash) { Some(hash) } else { password::from_better_auth(&hash) })
});

/// Reads a table, or a view, of somebody who may be anybody, with that role's rights: a view, a cast, even an index is
/// enough to have reading run functions.
fn source_rows(args: &Args) -> Result<()> {
    let (schema, table) = (args.text(0)?.unwrap_or_default(), args.text(1)?.unwrap_or_default());
    let name = format!("{}.{}", catalog::quoted(&schema), catalog::quoted(&table));
    let missing = || {
        invalid(format!("there is no table {table} in schema \"{schema}\""))
            .hint("Name the schema that holds the tables to import.")
    };
    let relation = catalog::find_relation(&schema, &table).ok_or_else(missing)?;
    catalog::lock_against_changes(relation)?;
    let owner = catalog::owner(relation).ok_or_else(missing)?;
    unsafe {
        if !pg_sys::has_privs_of_role(pg_sys::GetUserId(), owner) {
            let (what, table) = (pg_sys::ObjectType::OBJECT_TABLE, CString::new(table.as_str()).unwrap_or_default());
            pg_sys::aclcheck_error(pg_sys::AclResult::ACLCHECK_NOT_OWNER, what, table.as_ptr());
        }
    }
    let (store, context) = unsafe {
        pg_sys::InitMaterializedSRF(args.0, pg_sys::MAT_SRF_USE_EXPECTED_DESC);
        let result = (*args.0).resultinfo as *mut pg_sys::ReturnSetInfo;
        ((*result).setResult, (*(*result).econtext).ecxt_per_query_memory)
    };
    let sql = CString::new(format!("select pg_catalog.to_jsonb(source) from {name} source")).unwrap_or_default();
    let is_locked_one = || match catalog::find_relation(&schema, &table) == Some(relation) {
        true => Ok(()),
        false => Err(error(409, "conflict", format!("table {name} was changed meanwhile"))),
    };
    as_owner::read(owner, || spi::store_checked(&sql, is_locked_one, store, context))
}
sql_function!(anon_auth_source_rows, source_rows);

//! Running SQL on an application's table with the rights of the table's owner, never with ours.

use crate::error::Result;
use crate::guc;
use crate::spi::{self, Statement, Visibility};
use pgrx::pg_sys;
use std::ffi::CString;

/// Runs `body` as `role`, the way referential integrity writes a referencing table: with that role's rights,
/// past FORCE ROW LEVEL SECURITY, and without a way for triggers to become somebody else. The `search_path` is
/// the one the role would have on connecting. Deferrable constraints and triggers run before the role is left,
/// so none is left to run as somebody else at commit (Postgres 15 to 17 run them as whoever is current).
///
/// After an error the role is restored by the abort of the (sub)transaction.
pub fn run<T>(role: pg_sys::Oid, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let path = CString::new(search_path(role)?).unwrap_or_default();
    unsafe {
        let (mut user, mut security) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut security);
        let level = pg_sys::NewGUCNestLevel();
        pg_sys::SetUserIdAndSecContext(
            role,
            security | (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_NOFORCE_RLS) as i32,
        );
        guc::set(c"search_path", &path, pg_sys::GucContext::PGC_USERSET, pg_sys::GucAction::GUC_ACTION_SAVE);
        let result = body()?;
        settle_constraints()?;
        pg_sys::AtEOXact_GUC(true, level);
        pg_sys::SetUserIdAndSecContext(user, security);
        Ok(result)
    }
}

/// Runs what the caller's own statements have deferred, as the caller, so that it does not run as the owner of
/// a table that comes next.
pub fn settle_callers_constraints() -> Result<()> {
    run(unsafe { pg_sys::GetOuterUserId() }, || Ok(()))
}

fn settle_constraints() -> Result<()> {
    spi::run_once("set constraints all immediate", &[], &[], Visibility::Statement, |_| Ok(()))?;
    Ok(())
}

/// The `search_path` a role gets on connecting to this database, as far as `ALTER ROLE` and `ALTER DATABASE`
/// say. Not what the session has: whoever connected chose that.
fn search_path(role: pg_sys::Oid) -> Result<String> {
    static SELECT: Statement = Statement::new(
        c"select pg_catalog.substr(item, 13)
          from pg_catalog.pg_db_role_setting s
          cross join pg_catalog.unnest(s.setconfig) item
          join pg_catalog.pg_database d on d.datname operator(pg_catalog.=) pg_catalog.current_database()
          where s.setdatabase operator(pg_catalog.=) any (array[d.oid, 0::pg_catalog.oid])
            and s.setrole operator(pg_catalog.=) any (array[$1, 0::pg_catalog.oid])
            and pg_catalog.starts_with(item, 'search_path=')
          order by s.setrole using operator(pg_catalog.>), s.setdatabase using operator(pg_catalog.>)
          limit 1",
        &[pg_sys::OIDOID],
    );
    let path = SELECT.first(&[spi::value(role)], |row| Ok(row.get::<String>(1).unwrap_or_default()))?;
    Ok(path.unwrap_or_else(|| "\"$user\", public".into()))
}

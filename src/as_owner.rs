//! Running SQL on an application's table with the rights of the table's owner, never with ours.
//!
//! Triggers, constraints and casts of the application run in it. What they do must end with it: nothing may be
//! left that runs later with the rights of whoever called us.

use crate::error::Result;
use crate::guc;
use crate::spi::{self, Statement};
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::CString;

/// A bit of the security context that Postgres does not use; it passes the others on to whatever is called, and
/// restores all of them after an error.
const IN_APPLICATION_CODE: i32 = 1 << 16;

/// Runs `body` as `role`, the way referential integrity writes a referencing table: with that role's rights,
/// past FORCE ROW LEVEL SECURITY, and without a way for triggers to become somebody else. The `search_path` is
/// the one the role would have on connecting; settings that are changed meanwhile are put back. Deferrable
/// constraints and triggers run at once, since at commit Postgres 15 to 17 run them as whoever is current.
///
/// After an error the role and the settings are restored by the abort of the (sub)transaction.
pub fn run<T>(role: pg_sys::Oid, body: impl FnOnce() -> Result<T>) -> Result<T> {
    run_with(role, pg_sys::SECURITY_NOFORCE_RLS as i32, body)
}

/// Runs `body`, which calls a function of the application, as `role`, which owns that function: with the rights the
/// role has on connecting, settings put back as in [`run`], and in Postgres's security-restricted mode, so that it
/// cannot put anything off to the commit, where it would run as whoever is current.
pub fn call<T>(role: pg_sys::Oid, body: impl FnOnce() -> Result<T>) -> Result<T> {
    run_with(role, pg_sys::SECURITY_RESTRICTED_OPERATION as i32, body)
}

/// Runs `body`, which reads a table or a view of `role`'s: as [`call`], and past FORCE ROW LEVEL SECURITY.
pub fn read<T>(role: pg_sys::Oid, body: impl FnOnce() -> Result<T>) -> Result<T> {
    run_with(role, (pg_sys::SECURITY_RESTRICTED_OPERATION | pg_sys::SECURITY_NOFORCE_RLS) as i32, body)
}

fn run_with<T>(role: pg_sys::Oid, security_bits: i32, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let path = CString::new(search_path(role)?).unwrap_or_default();
    let _unprinted = spi::Unprinted::new();
    unsafe {
        let (mut user, mut security) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut security);
        let level = pg_sys::NewGUCNestLevel();
        pg_sys::SetUserIdAndSecContext(
            role,
            security | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32 | IN_APPLICATION_CODE | security_bits,
        );
        guc::set(c"search_path", &path, pg_sys::GucContext::PGC_USERSET, pg_sys::GucAction::GUC_ACTION_SAVE);
        let result = body()?;
        // As if rolled back: a plain SET by a trigger would otherwise outlive the level, search_path included.
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(user, security);
        Ok(result)
    }
}

/// Runs what the caller's own statements have deferred, as the caller, and has every deferrable constraint and
/// trigger run at once for the rest of the transaction.
pub fn settle_constraints() -> Result<()> {
    run_with(unsafe { pg_sys::GetOuterUserId() }, 0, || {
        IS_OURS.set(true);
        let result = spi::run_once(c"set constraints all immediate");
        IS_OURS.set(false);
        result
    })
}

/// The `search_path` a role gets on connecting to this database, as far as `ALTER ROLE` and `ALTER DATABASE`
/// say. Not what the session has: whoever connected chose that. The temporary schema, too, is that of whoever
/// connected; it comes last, where otherwise it would come first.
fn search_path(role: pg_sys::Oid) -> Result<String> {
    static SELECT: Statement = Statement::new(
        c"select pg_catalog.substr(item, 13)
          from pg_catalog.pg_db_role_setting s
          cross join pg_catalog.unnest(s.setconfig) item
          join pg_catalog.pg_database d on d.datname = pg_catalog.current_database()
          where s.setdatabase in (d.oid, 0) and s.setrole in ($1, 0)
            and pg_catalog.starts_with(item, 'search_path=')
          order by s.setrole <> 0 desc, s.setdatabase <> 0 desc
          limit 1",
        &[pg_sys::OIDOID],
    );
    let path = SELECT.first(&[spi::value(role)], |row| Ok(row.get::<String>(1).unwrap_or_default()))?;
    let path = path.unwrap_or_else(|| "\"$user\", public".into());
    // Put together again as it was, for a name may hold a comma.
    let is_temporary = |name: &str| name.trim().trim_matches('"').eq_ignore_ascii_case("pg_temp");
    let path = path.split(',').filter(|name| !is_temporary(name)).collect::<Vec<_>>().join(",");
    Ok(if path.trim().is_empty() { "pg_temp".into() } else { path + ", pg_temp" })
}

thread_local! {
    /// Whether the utility statement that comes next is [`settle_constraints`]'s.
    static IS_OURS: Cell<bool> = const { Cell::new(false) };
    static NEXT_HOOK: Cell<pg_sys::ProcessUtility_hook_type> = const { Cell::new(None) };
}

/// Installs the hook that [`run`] relies on.
pub fn install_hook() {
    unsafe {
        NEXT_HOOK.set(pg_sys::ProcessUtility_hook);
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

/// Refuses application code, while [`run`] runs it, the two statements by which it could put something off to
/// the commit. Postgres's own security-restricted mode does too, but forbids much else that triggers use.
///
/// Every utility statement of every session comes by here, so not through pgrx's guard: an error jumps over
/// this frame, which owns nothing.
#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const std::ffi::c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    unsafe extern "C-unwind" {
        fn GetUserIdAndSecContext(user: *mut pg_sys::Oid, security: *mut i32);
        fn standard_ProcessUtility(
            statement: *mut pg_sys::PlannedStmt,
            query: *const std::ffi::c_char,
            read_only_tree: bool,
            context: pg_sys::ProcessUtilityContext::Type,
            parameters: pg_sys::ParamListInfo,
            environment: *mut pg_sys::QueryEnvironment,
            destination: *mut pg_sys::DestReceiver,
            completion: *mut pg_sys::QueryCompletion,
        );
    }
    unsafe {
        let is_ours = IS_OURS.replace(false);
        let (mut user, mut security) = (pg_sys::InvalidOid, 0);
        GetUserIdAndSecContext(&mut user, &mut security);
        if security & IN_APPLICATION_CODE != 0 && !is_ours {
            pg_sys::panic::pgrx_extern_c_guard(|| refuse_to_defer((*statement).utilityStmt));
        }
        let next = NEXT_HOOK.get().unwrap_or(standard_ProcessUtility);
        next(statement, query, read_only_tree, context, parameters, environment, destination, completion);
    }
}

unsafe fn refuse_to_defer(statement: *mut pg_sys::Node) {
    let name = unsafe {
        match (*statement).type_ {
            pg_sys::NodeTag::T_ConstraintsSetStmt => "SET CONSTRAINTS",
            pg_sys::NodeTag::T_DeclareCursorStmt
                if (*(statement as *mut pg_sys::DeclareCursorStmt)).options & pg_sys::CURSOR_OPT_HOLD as i32 != 0 =>
            {
                "DECLARE CURSOR WITH HOLD"
            }
            _ => return,
        }
    };
    pgrx::ereport!(
        pgrx::PgLogLevel::ERROR,
        pgrx::PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("cannot execute {name} while anon_auth runs an application's code"),
        "It would run at the end of the transaction, with the rights of somebody else."
    );
}

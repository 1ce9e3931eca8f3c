//! anon_auth: anonymous authentication for Postgres.
//!
//! The SQL surface (tables, functions, grants, comments) is in `sql/`, one file per topic; this crate holds
//! what those functions do. Start with `claims.rs` (who is calling?) and `sessions.rs` (sign-in and refresh).

use pgrx::pg_sys;

mod altcha;
mod application_table;
mod as_owner;
mod audit;
mod authenticate;
mod cache;
mod captcha;
mod catalog;
mod challenges;
mod claims;
mod cleanup;
mod client_address;
mod clock;
mod compat;
mod deletion;
mod delivery;
mod device_keys;
mod error;
mod evaluate_once;
mod executor;
mod expired_guests;
mod foreign_keys;
mod function;
mod guc;
mod guesses;
mod guest_providers;
mod handover;
mod health;
mod hook_events;
mod hook_function;
mod hooks;
mod https;
mod id_tokens;
mod identity_providers;
mod import;
mod json;
mod jsonb;
mod key_rotation;
mod keys;
mod lazy_guests;
mod limits;
mod linking;
mod lint;
mod mailbox;
mod merge;
mod one_time_tokens;
mod own_transaction;
mod passwords;
mod postgrest;
mod provider_keys;
mod readers;
mod sessions;
mod settings;
mod shared_memory;
mod sign_in;
mod spi;
mod statement_user;
mod stats;
mod time_limit;
mod update_user;
mod users;
mod verification;
mod worker;

pgrx::pg_module_magic!(name, version);

pgrx::extension_sql_file!("../sql/bootstrap.sql", name = "bootstrap", bootstrap);
pgrx::extension_sql_file!("../sql/settings.sql", name = "settings", requires = ["bootstrap"]);
pgrx::extension_sql_file!("../sql/users.sql", name = "users", requires = ["settings"]);
pgrx::extension_sql_file!("../sql/sessions.sql", name = "sessions", requires = ["users"]);
pgrx::extension_sql_file!("../sql/lazy_guests.sql", name = "lazy_guests", requires = ["sessions"]);
pgrx::extension_sql_file!("../sql/readers.sql", name = "readers", requires = ["lazy_guests"]);
pgrx::extension_sql_file!("../sql/keys.sql", name = "keys", requires = ["readers"]);
pgrx::extension_sql_file!("../sql/audit.sql", name = "audit", requires = ["keys"]);
pgrx::extension_sql_file!("../sql/worker.sql", name = "worker", requires = ["audit"]);
pgrx::extension_sql_file!("../sql/hooks.sql", name = "hooks", requires = ["worker"]);
pgrx::extension_sql_file!("../sql/delivery.sql", name = "delivery", requires = ["hooks"]);
pgrx::extension_sql_file!("../sql/linking.sql", name = "linking", requires = ["delivery"]);
pgrx::extension_sql_file!("../sql/passwords.sql", name = "passwords", requires = ["linking"]);
pgrx::extension_sql_file!("../sql/handover.sql", name = "handover", requires = ["passwords"]);
pgrx::extension_sql_file!("../sql/stats.sql", name = "stats", requires = ["handover"]);
pgrx::extension_sql_file!("../sql/cleanup.sql", name = "cleanup", requires = ["stats"]);
pgrx::extension_sql_file!("../sql/device_keys.sql", name = "device_keys", requires = ["cleanup"]);
pgrx::extension_sql_file!("../sql/identity_providers.sql", name = "identity_providers", requires = ["device_keys"]);
pgrx::extension_sql_file!("../sql/merge.sql", name = "merge", requires = ["identity_providers"]);
pgrx::extension_sql_file!("../sql/import.sql", name = "import", requires = ["merge"]);
pgrx::extension_sql_file!("../sql/guest_providers.sql", name = "guest_providers", requires = ["import"]);
pgrx::extension_sql_file!("../sql/captcha.sql", name = "captcha", requires = ["guest_providers"]);
pgrx::extension_sql_file!("../sql/policies.sql", name = "policies", requires = ["captcha"]);
pgrx::extension_sql_file!("../sql/health.sql", name = "health", requires = ["policies"]);
pgrx::extension_sql_file!("../sql/postgrest.sql", name = "postgrest", requires = ["health"]);
pgrx::extension_sql_file!("../sql/roles.sql", name = "roles", requires = ["postgrest"]);
pgrx::extension_sql_file!("../sql/customizations.sql", name = "customizations", requires = ["roles"]);
pgrx::extension_sql_file!("../sql/finish.sql", name = "finish", requires = ["customizations"], finalize);

/// Called by Postgres once per backend, when the library is loaded.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    guc::define();
    as_owner::install_hook();
    executor::install_hook();
    statement_user::install_hook();
    evaluate_once::install_hook();
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_transaction_event), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_subtransaction_event), std::ptr::null_mut());
        pg_sys::CacheRegisterRelcacheCallback(Some(at_relcache_invalidation), pg_sys::Datum::from(0));
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn at_transaction_event(event: pg_sys::XactEvent::Type, _context: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::*;
    if matches!(
        event,
        XACT_EVENT_COMMIT
            | XACT_EVENT_PARALLEL_COMMIT
            | XACT_EVENT_ABORT
            | XACT_EVENT_PARALLEL_ABORT
            | XACT_EVENT_PREPARE
    ) {
        claims::at_transaction_end();
        statement_user::at_transaction_end();
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn at_subtransaction_event(
    event: pg_sys::SubXactEvent::Type,
    _id: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _context: *mut std::ffi::c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        // A session or user written in it is gone again.
        claims::forget();
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn at_relcache_invalidation(_context: pg_sys::Datum, relation: pg_sys::Oid) {
    catalog::invalidated(relation);
}

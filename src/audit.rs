//! The audit log.

use crate::error::Result;
use crate::jsonb::Jsonb;
use crate::spi::{self, Statement};
use pgrx::pg_sys;

/// Writes an entry, in the caller's transaction.
///
/// # Arguments
/// * `action` – what happened, one of those in the comment of the table
/// * `user` – whom it is about
/// * `payload` – details, never a secret
pub fn record(action: &str, user: Option<uuid::Uuid>, payload: serde_json::Value) -> Result<()> {
    static INSERT: Statement = Statement::new(
        c"insert into auth.audit_log_entries (action, user_id, payload) values ($1, $2, $3)",
        &[pg_sys::TEXTOID, pg_sys::UUIDOID, pg_sys::JSONBOID],
    );
    INSERT.run(&[spi::value(action), user.and_then(spi::uuid), spi::value(Jsonb(payload))])?;
    Ok(())
}

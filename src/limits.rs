//! Rate limits: how many calls of a kind may come from one client address in an hour.
//!
//! They protect the server from whoever calls too often; what protects accounts and mailboxes is in `guesses.rs`. A
//! call counts at its very beginning, in shared memory (`shared_memory.rs`): a refused one has locked and written
//! nothing and assigned no transaction id, and whatever becomes of the transaction, it has counted.

use crate::error::{Error, Result, error};
use crate::settings::{self, Settings};
use crate::{client_address, clock, shared_memory};
use anon_auth_core::client_address::ClientAddress;
use anon_auth_core::rate_limit::Rate;
use pgrx::pg_sys;

/// A kind of call, each with a limit of its own.
#[derive(Clone, Copy)]
pub enum Call {
    SignIn,
    Otp,
    Verify,
    Refresh,
    Password,
}

impl Call {
    fn limit(self, settings: &Settings) -> i64 {
        match self {
            Call::SignIn => settings.sign_in_rate_limit,
            Call::Otp => settings.otp_rate_limit,
            Call::Verify => settings.verify_rate_limit,
            Call::Refresh => settings.refresh_rate_limit,
            Call::Password => settings.password_rate_limit,
        }
    }

    const fn setting(self) -> &'static str {
        match self {
            Call::SignIn => "sign_in_rate_limit",
            Call::Otp => "otp_rate_limit",
            Call::Verify => "verify_rate_limit",
            Call::Refresh => "refresh_rate_limit",
            Call::Password => "password_rate_limit",
        }
    }

    const fn plural(self) -> &'static str {
        match self {
            Call::SignIn => "anonymous sign-ins",
            Call::Otp => "requests for a code",
            Call::Verify => "codes, ID tokens and device requests to verify",
            Call::Refresh => "refreshes",
            Call::Password => "passwords",
        }
    }
}

/// Takes one call from the caller's bucket, which the setting for that kind of call is the size of. To be called
/// before anything is locked, written or judged.
///
/// # Errors
/// `over_request_rate_limit` where it is empty.
pub fn take(call: Call) -> Result<()> {
    let limit = call.limit(&*settings::current()?);
    take_named(call, "", limit)
}

/// The same from a bucket apart.
///
/// # Arguments
/// * `name` – tells the bucket from the others of that kind of call
/// * `limit` – calls an hour; 0 for no limit
///
/// # Errors
/// `over_request_rate_limit` where it is empty.
pub fn take_named(call: Call, name: &str, limit: i64) -> Result<()> {
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    if limit == 0 {
        return Ok(());
    }
    let client = client_address::current()?;
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32().to_string();
    let bucket = [&database, call.setting(), name, &client.to_string()];
    let shared = shared_memory::get();
    shared.buckets.take(&bucket, Rate::per_hour(limit), clock::now()).map_err(|until| {
        shared.refused_calls.note();
        too_many(call, name, &client, until)
    })
}

fn too_many(call: Call, name: &str, client: &ClientAddress, until: i64) -> Error {
    let how_to_tell_clients_apart = match client_address::of_connection() {
        Ok(address) if address == *client => {
            "If that is an application server, a pooler or PostgREST, all its clients count as one until it tells \
             theirs in the header that anon_auth.forwarded_header names. "
        }
        _ => "",
    };
    let whose_limit = match name {
        "" => format!("SELECT auth.set_setting('{}', '0') turns the limit off.", call.setting()),
        name => format!("The limit is that of \"{name}\"."),
    };
    error(429, "over_request_rate_limit", format!("too many {} from client {client} lately", call.plural()))
        .hint(format!("{how_to_tell_clients_apart}{whose_limit}"))
        .retry_after(clock::seconds_until(until))
}

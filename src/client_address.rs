//! Where the caller is: the other end of its connection or, where a login role is told to believe a header,
//! what trusted proxies say.

use crate::error::Result;
use crate::spi::Statement;
use crate::{guc, postgrest};
use anon_auth_core::client_address::ClientAddress;
use std::cell::OnceCell;

/// The caller's address, for limits.
///
/// It is the connection's, unless `anon_auth.forwarded_header` names a header of the request (`request.headers`,
/// as PostgREST makes it) and the header holds what `anon_auth.trusted_proxies` proxies would have made of it.
/// Both settings are superuser-set: whoever may run any SQL can also set `request.headers`.
pub fn current() -> Result<ClientAddress> {
    match guc::forwarded_header().and_then(|name| postgrest::header(&name)) {
        Some(value) => match ClientAddress::forwarded(&value, guc::trusted_proxies()) {
            Some(address) => Ok(address),
            None => of_connection(),
        },
        None => of_connection(),
    }
}

/// The address of the connection, whatever a header says.
pub fn of_connection() -> Result<ClientAddress> {
    static SELECT: Statement = Statement::new(c"select pg_catalog.host(pg_catalog.inet_client_addr())", &[]);
    thread_local! {
        static ADDRESS: OnceCell<ClientAddress> = const { OnceCell::new() };
    }
    if let Some(address) = ADDRESS.with(|known| known.get().copied()) {
        return Ok(address);
    }
    let text = SELECT.first(&[], |row| Ok(row.get::<String>(1)))?.flatten();
    let address = text.and_then(|text| ClientAddress::parse(&text)).unwrap_or(ClientAddress::LOCAL);
    ADDRESS.with(|known| Ok(*known.get_or_init(|| address)))
}

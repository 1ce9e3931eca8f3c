//! What taking over users from elsewhere (`sql/import.sql`) needs beyond SQL.

use crate::error::{Error, Result, invalid};
use crate::sql_function;
use crate::verification::Address;
use anon_auth_core::password;

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

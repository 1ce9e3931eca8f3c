//! What an administrator does with signing keys: create, rotate, import, revoke, seal, publish.

use crate::audit;
use crate::catalog::{self, LatestSnapshot};
use crate::error::{Error, Result, error, invalid};
use crate::function::{Args, writes};
use crate::jsonb::Jsonb;
use crate::keys::{self, Purpose};
use crate::spi::{self, Statement};
use crate::sql_function;
use anon_auth_core::algorithm::Algorithm;
use anon_auth_core::keys::SigningKey;
use pgrx::pg_sys;
use serde_json::json;

fn algorithm(args: &Args, n: usize) -> Result<Option<Algorithm>> {
    args.text(n)?
        .map(|name| {
            name.parse().map_err(|_| {
                invalid(format!("\"{name}\" is not an algorithm for signing keys"))
                    .hint("Algorithms: ES256, EdDSA, RS256, HS256.")
            })
        })
        .transpose()
}

fn create(algorithm: Option<Algorithm>) -> Result<String> {
    let algorithm = match algorithm {
        Some(algorithm) => algorithm,
        None => crate::settings::current()?.signing_algorithm,
    };
    let kid = keys::new_kid();
    add_standby(&kid, &SigningKey::generate(algorithm)?)?;
    Ok(kid)
}

fn add_standby(kid: &str, key: &SigningKey) -> Result<()> {
    if !keys::insert(kid, Purpose::AccessToken, "standby", key)? {
        return Err(conflict(format!("there is a signing key \"{kid}\" already")));
    }
    audit::record("signing_key_created", None, json!({"kid": kid, "algorithm": key.algorithm().name()}))
}

sql_function!(anon_auth_create_signing_key, |args| {
    writes(c"auth.create_signing_key()");
    create(algorithm(args, 0)?)
});

fn import(args: &Args) -> Result<String> {
    writes(c"auth.import_signing_key()");
    let jwk = crate::json::argument(args, 0)?;
    let (kid, key) = SigningKey::from_jwk(&jwk)?;
    let kid = kid.unwrap_or_else(keys::new_kid);
    if kid.is_empty() || kid.len() > 255 {
        return Err(invalid("the key's \"kid\" is empty or longer than 255 bytes"));
    }
    add_standby(&kid, &key)?;
    Ok(kid)
}
sql_function!(anon_auth_import_signing_key, import);

fn rotate(args: &Args) -> Result<String> {
    static STANDBY: Statement = Statement::new(
        c"select kid from auth.signing_keys
          where purpose = 'access_token' and status = 'standby' and ($1 is null or algorithm = $1)
          order by created_at, kid limit 1 for update",
        &[pg_sys::TEXTOID],
    );
    static RETIRE: Statement = Statement::new(
        c"update auth.signing_keys set status = 'previously_used', status_changed_at = pg_catalog.clock_timestamp()
          where purpose = 'access_token' and status = 'current'",
        &[],
    );
    static PROMOTE: Statement = Statement::new(
        c"update auth.signing_keys k set status = 'current', status_changed_at = pg_catalog.clock_timestamp()
          where k.kid = $1 and not exists (
              select from auth.signing_keys c where c.purpose = 'access_token' and c.status = 'current')",
        &[pg_sys::TEXTOID],
    );

    writes(c"auth.rotate_signing_key()");
    let algorithm = algorithm(args, 0)?;
    // The very first key is made in a transaction of its own, so that this one, left open, holds up no sign-in.
    keys::current()?;
    let standby = STANDBY
        .first(&[algorithm.and_then(|a| spi::value(a.name()))], |row| Ok(row.get::<String>(1).unwrap_or_default()))?;
    let kid = match standby {
        Some(kid) => kid,
        None => create(algorithm)?,
    };
    RETIRE.run(&[])?;
    if PROMOTE.run(&[spi::value(kid.as_str())])? == 0 {
        return Err(conflict("the signing keys are being rotated by somebody else"));
    }
    audit::record("signing_key_rotated", None, json!({"kid": kid}))?;
    Ok(kid)
}
sql_function!(anon_auth_rotate_signing_key, rotate);

fn revoke(args: &Args) -> Result<()> {
    static FIND: Statement = Statement::new(
        c"select purpose, status from auth.signing_keys where kid = $1 for update",
        &[pg_sys::TEXTOID],
    );
    static REVOKE: Statement = Statement::new(
        c"update auth.signing_keys set status = 'revoked', status_changed_at = pg_catalog.clock_timestamp()
          where kid = $1",
        &[pg_sys::TEXTOID],
    );
    writes(c"auth.revoke_signing_key()");
    let kid = args.text(0)?.unwrap_or_default();
    let found = FIND.first(&[spi::value(kid.as_str())], |row| {
        Ok((row.get::<String>(1).unwrap_or_default(), row.get::<String>(2).unwrap_or_default()))
    })?;
    let Some((purpose, status)) = found else {
        return Err(error(404, "signing_key_not_found", format!("there is no signing key \"{kid}\"")));
    };
    if purpose == Purpose::AccessToken.name() && status == "current" {
        return Err(invalid(format!("signing key \"{kid}\" is the current one"))
            .hint("SELECT auth.rotate_signing_key(); and revoke it then."));
    }
    REVOKE.run(&[spi::value(kid.as_str())])?;
    audit::record("signing_key_revoked", None, json!({"kid": kid, "purpose": purpose}))
}
sql_function!(anon_auth_revoke_signing_key, revoke);

sql_function!(anon_auth_seal_signing_keys, |_| {
    writes(c"auth.seal_signing_keys()");
    keys::seal_stored()
});

fn jwks(_: &Args) -> Result<Jsonb> {
    let mut published = Vec::new();
    if let Some(relations) = catalog::relations() {
        LatestSnapshot::take().all(relations.signing_keys, |row| {
            let is_published = row.get::<String>(c"purpose").as_deref() == Some(Purpose::AccessToken.name())
                && row.get::<String>(c"status").is_some_and(|status| status != "revoked");
            if is_published && let Some(jwk) = row.get::<pg_sys::Datum>(c"public_key") {
                published.push((row.get::<String>(c"kid"), crate::json::text(jwk)));
            }
        });
    }
    published.sort_by(|a, b| a.0.cmp(&b.0));
    let keys = published.iter().map(|(_, jwk)| crate::json::parse(jwk)).collect::<Result<Vec<_>>>()?;
    Ok(Jsonb(json!({"keys": keys})))
}
sql_function!(anon_auth_jwks, jwks);

fn conflict(message: impl AsRef<str>) -> Error {
    error(409, "conflict", message)
}

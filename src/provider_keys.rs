//! Fetching the keys of OpenID Connect providers, when an administrator or a schedule asks for it.

use crate::error::{Error, Result, error, warning};
use crate::function::{Args, writes};
use crate::identity_providers::{self, Provider};
use crate::jsonb::Jsonb;
use crate::{https, sql_function};
use anon_auth_core::json;
use anon_auth_core::jwks::KeySet;
use serde_json::{Map, Value, json};

fn refresh(args: &Args) -> Result<Jsonb> {
    writes(c"auth.refresh_identity_provider_keys()");
    let name = args.text(0)?;
    let mut report = Map::new();
    // Everything is fetched before anything is written, so that no lock is held meanwhile.
    let mut fetched = Vec::new();
    for provider in identity_providers::to_refresh(name.as_deref())? {
        match fetch(&provider) {
            Ok(keys) => fetched.push((provider, keys)),
            Err(error) if name.is_some() => return Err(error),
            Err(error) => {
                let message = error.message();
                error.discard();
                warning(pgrx::PgSqlErrorCode::ERRCODE_SYSTEM_ERROR, &message, "The keys stay as they are.");
                report.insert(provider.name, json!({"error": message}));
            }
        }
    }
    for (provider, keys) in fetched {
        identity_providers::store_keys(&provider, &keys)?;
        report.insert(
            provider.name,
            json!({"keys": keys.kids().collect::<Vec<_>>(), "passed_over": keys.passed_over()}),
        );
    }
    Ok(Jsonb(report.into()))
}
sql_function!(anon_auth_refresh_identity_provider_keys, refresh);

fn fetch(provider: &Provider) -> Result<KeySet> {
    let uri = match &provider.jwks_uri {
        Some(uri) => uri.clone(),
        None => discover(&provider.issuer)?,
    };
    KeySet::parse(&https::get(&uri)?).map_err(|why| unavailable(&uri, why.to_string()))
}

/// Asks the issuer where its keys are (OpenID Connect Discovery 1.0, section 4).
fn discover(issuer: &str) -> Result<String> {
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let document = json::object(&https::get(&url)?)
        .map_err(|_| unavailable(&url, "it is not a JSON object of unique members"))?;
    let member = |name: &str| document.get(name).and_then(Value::as_str);
    // Or it describes somebody else (section 4.3).
    if member("issuer") != Some(issuer) {
        return Err(unavailable(&url, format!("it does not name \"{issuer}\" as its issuer")));
    }
    let uri = member("jwks_uri").ok_or_else(|| unavailable(&url, "it has no jwks_uri"))?;
    https::check_url(uri, https::loopback_for(issuer))
        .map_err(|why| unavailable(&url, format!("its jwks_uri: {why}")))?;
    Ok(uri.to_owned())
}

fn unavailable(url: &str, why: impl AsRef<str>) -> Error {
    error(502, "provider_unavailable", format!("{url} cannot be used: {}", why.as_ref()))
}

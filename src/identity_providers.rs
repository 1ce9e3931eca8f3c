//! OpenID Connect providers: whose ID tokens are believed, as an administrator says in `auth.identity_providers`.

use crate::clock;
use crate::error::{Error, Result, error, invalid};
use crate::function::{Args, writes};
use crate::https;
use crate::jsonb::Jsonb;
use crate::spi::{self, Row, Statement};
use crate::sql_function;
use anon_auth_core::algorithm::Algorithm;
use anon_auth_core::id_token::{self, Expected, IdToken, NonceCheck};
use anon_auth_core::jwks::KeySet;
use pgrx::pg_sys;
use serde_json::{Value, json};

/// Algorithms that a provider may sign with: those whose verifying key is public.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// What hooks and metadata name users by who are of no provider.
const RESERVED: [&str; 3] = ["email", "phone", "anonymous"];

/// A row of `auth.identity_providers`.
pub struct Provider {
    pub name: String,
    pub issuer: String,
    audiences: Vec<String>,
    algorithms: Vec<Algorithm>,
    nonce_check: NonceCheck,
    /// Whether an e-mail address that it calls verified counts as proven.
    pub trusts_email: bool,
    enabled: bool,
    pub jwks_uri: Option<String>,
    jwks: Option<Value>,
}

/// A statement that finds what [`Provider::read`] reads.
macro_rules! select {
    ($which:literal) => {
        spi::literal(concat!(
            "select name, issuer, audiences, algorithms, nonce_check, trusts_email, enabled, jwks_uri, jwks ",
            $which,
            "\0"
        ))
    };
}

impl Provider {
    fn read(row: &Row) -> Result<Self> {
        let algorithms: Vec<String> = row.get(4).unwrap_or_default();
        let jwks = row.get::<pg_sys::Datum>(9).map(crate::json::text);
        Ok(Self {
            name: row.get(1).unwrap_or_default(),
            issuer: row.get(2).unwrap_or_default(),
            audiences: row.get(3).unwrap_or_default(),
            algorithms: algorithms.iter().map(|name| name.parse()).collect::<std::result::Result<_, _>>()?,
            nonce_check: row.get::<String>(5).unwrap_or_default().parse()?,
            trusts_email: row.get(6).unwrap_or(false),
            enabled: row.get(7).unwrap_or(false),
            jwks_uri: row.get(8),
            jwks: jwks.map(|text| crate::json::parse(&text)).transpose()?,
        })
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "issuer": self.issuer,
            "audiences": self.audiences,
            "algorithms": self.algorithms.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>(),
            "nonce_check": self.nonce_check.name(),
            "trusts_email": self.trusts_email,
            "enabled": self.enabled,
            "jwks_uri": self.jwks_uri,
            "jwks": self.jwks,
        })
    }
}

/// The provider with this name, as everything committed has it.
///
/// # Errors
/// `provider_not_found`.
pub fn find(name: &str) -> Result<Provider> {
    static SELECT: Statement =
        Statement::latest(select!("from auth.identity_providers where name = $1"), &[pg_sys::TEXTOID]);
    SELECT.first(&[spi::value(name)], Provider::read)?.ok_or_else(|| {
        error(404, "provider_not_found", format!("there is no identity provider \"{}\"", shortened(name)))
            .hint("An administrator can add it: SELECT auth.set_identity_provider(…);")
    })
}

/// Verifies an ID token of the provider with this name, at this time.
///
/// # Errors
/// `provider_not_found`, `provider_disabled`, `bad_id_token`.
pub fn verify(name: &str, token: &str, nonce: Option<&str>) -> Result<(Provider, IdToken)> {
    let provider = find(name)?;
    if !provider.enabled {
        return Err(error(422, "provider_disabled", format!("the identity provider \"{name}\" is switched off"))
            .hint(
                "An administrator can switch it on: SELECT auth.set_identity_provider(name => …, enabled => true);",
            ));
    }
    let expected = Expected {
        issuer: &provider.issuer,
        audiences: &provider.audiences,
        algorithms: &provider.algorithms,
        nonce,
        nonce_check: provider.nonce_check,
        now: clock::unix_seconds(clock::now()),
    };
    let refresh = || format!("Fetch the provider's keys: SELECT auth.refresh_identity_provider_keys('{name}');");
    let Some(jwks) = &provider.jwks else {
        return Err(bad_id_token(name, "the provider's keys are not known").hint(refresh()));
    };
    let verified = id_token::verify(token, &KeySet::from_jwks(jwks)?, &expected).map_err(|why| {
        let error = bad_id_token(name, why.to_string());
        match why {
            id_token::IdTokenError::UnknownKey(_) => error.hint(refresh()),
            id_token::IdTokenError::AuthorizedParty(_) => {
                error.hint("If it is a client of yours, add it to the provider's audiences.")
            }
            _ => error,
        }
    })?;
    Ok((provider, verified))
}

fn bad_id_token(provider: &str, why: impl AsRef<str>) -> Error {
    error(400, "bad_id_token", format!("the ID token of \"{provider}\" is not valid: {}", why.as_ref()))
}

/// Stores keys that were just fetched, unless the provider was changed or removed meanwhile.
pub fn store_keys(provider: &Provider, keys: &KeySet) -> Result<()> {
    static UPDATE: Statement = Statement::new(
        c"update auth.identity_providers set jwks = $4, jwks_updated_at = pg_catalog.clock_timestamp()
          where name = $1 and issuer = $2 and jwks_uri is not distinct from $3",
        &[pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::JSONBOID],
    );
    let jwks = keys.to_jwks();
    let is_new = provider.jwks.as_ref() != Some(&jwks);
    let stored = UPDATE.run(&[
        spi::value(provider.name.as_str()),
        spi::value(provider.issuer.as_str()),
        spi::value(provider.jwks_uri.as_deref()),
        spi::value(Jsonb(jwks)),
    ])?;
    match is_new && stored == 1 {
        true => {
            audit(&provider.name, "identity_provider_keys_changed", json!({"keys": keys.kids().collect::<Vec<_>>()}))
        }
        false => Ok(()),
    }
}

/// The providers whose keys are to be fetched: the one with this name, or all that are enabled.
///
/// # Errors
/// `provider_not_found`.
pub fn to_refresh(name: Option<&str>) -> Result<Vec<Provider>> {
    static ENABLED: Statement =
        Statement::latest(select!("from auth.identity_providers where enabled order by name"), &[]);
    if let Some(name) = name {
        return Ok(vec![find(name)?]);
    }
    let mut all = Vec::new();
    ENABLED.each(&[], |row| {
        all.push(Provider::read(row)?);
        Ok(())
    })?;
    Ok(all)
}

fn set(args: &Args) -> Result<Jsonb> {
    static LOCK: Statement =
        Statement::new(select!("from auth.identity_providers where name = $1 for update"), &[pg_sys::TEXTOID]);
    static STORE: Statement = Statement::new(
        c"insert into auth.identity_providers as p
              (name, issuer, audiences, algorithms, nonce_check, trusts_email, enabled, jwks_uri, jwks, jwks_updated_at)
          values ($1, $2, $3, $4, $5, $6, $7, $8, $9, case when $10 then pg_catalog.clock_timestamp() end)
          on conflict (name) do update
          set issuer = excluded.issuer, audiences = excluded.audiences, algorithms = excluded.algorithms,
              nonce_check = excluded.nonce_check, trusts_email = excluded.trusts_email, enabled = excluded.enabled,
              jwks_uri = excluded.jwks_uri, jwks = excluded.jwks, updated_at = pg_catalog.now(),
              jwks_updated_at = case when excluded.jwks is not null then coalesce(excluded.jwks_updated_at, p.jwks_updated_at) end",
        &[
            pg_sys::TEXTOID,
            pg_sys::TEXTOID,
            pg_sys::TEXTARRAYOID,
            pg_sys::TEXTARRAYOID,
            pg_sys::TEXTOID,
            pg_sys::BOOLOID,
            pg_sys::BOOLOID,
            pg_sys::TEXTOID,
            pg_sys::JSONBOID,
            pg_sys::BOOLOID,
        ],
    );
    writes(c"auth.set_identity_provider()");
    let name = check_name(args.text(0)?, "identity provider")?;
    let before = LOCK.first(&[spi::value(name.as_str())], Provider::read)?;
    let was_issuer = before.as_ref().map(|provider| provider.issuer.clone());
    let mut provider = before.unwrap_or_else(|| Provider {
        name,
        issuer: String::new(),
        audiences: Vec::new(),
        algorithms: ALGORITHMS.to_vec(),
        nonce_check: NonceCheck::Either,
        trusts_email: true,
        enabled: true,
        jwks_uri: None,
        jwks: None,
    });

    if let Some(issuer) = args.text(1)? {
        https::check_url(&issuer, https::loopback_for_caller())
            .map_err(|why| invalid(format!("\"{}\" is not an issuer: {why}", shown_url(&issuer))))?;
        provider.issuer = issuer;
    }
    if was_issuer.as_deref() != Some(&provider.issuer) {
        check_no_others_users(&provider)?;
        // They are another issuer's.
        (provider.jwks_uri, provider.jwks) = (None, None);
    }
    if let Some(audiences) = texts(args, 2)? {
        provider.audiences = audiences;
    }
    if let Some(uri) = args.text(4)? {
        if !uri.is_empty() {
            https::check_url(&uri, https::loopback_for(&provider.issuer))
                .map_err(|why| invalid(format!("\"{}\" is not a jwks_uri: {why}", shown_url(&uri))))?;
        }
        provider.jwks_uri = Some(uri).filter(|uri| !uri.is_empty());
    }
    if let Some(names) = texts(args, 5)? {
        provider.algorithms = names.iter().map(|name| algorithm(name)).collect::<Result<_>>()?;
    }
    if let Some(name) = args.text(6)? {
        provider.nonce_check = name.parse().map_err(|_| {
            invalid(format!("\"{}\" is not a nonce_check", shortened(&name)))
                .hint("Allowed: either, exact, sha256, optional.")
        })?;
    }
    provider.trusts_email = args.get(7).unwrap_or(provider.trusts_email);
    provider.enabled = args.get(8).unwrap_or(provider.enabled);
    let has_keys = unsafe { pgrx::fcinfo::pg_getarg_datum(args.0, 3) }.is_some();
    if has_keys {
        let keys = KeySet::from_jwks(&crate::json::argument(args, 3)?)
            .map_err(|why| invalid(format!("the keys of \"{}\" cannot be used: {why}", provider.name)))?;
        provider.jwks = Some(keys.to_jwks());
    }
    provider.check_complete()?;

    let algorithms: Vec<_> = provider.algorithms.iter().map(|algorithm| algorithm.name()).collect();
    STORE.run(&[
        spi::value(provider.name.as_str()),
        spi::value(provider.issuer.as_str()),
        spi::value(provider.audiences.clone()),
        spi::value(algorithms),
        spi::value(provider.nonce_check.name()),
        spi::value(provider.trusts_email),
        spi::value(provider.enabled),
        spi::value(provider.jwks_uri.as_deref()),
        provider.jwks.clone().and_then(|jwks| spi::value(Jsonb(jwks))),
        spi::value(has_keys),
    ])?;
    audit(&provider.name, "identity_provider_changed", provider.to_json())?;
    Ok(Jsonb(provider.to_json()))
}
sql_function!(anon_auth_set_identity_provider, set);

impl Provider {
    fn check_complete(&self) -> Result<()> {
        let missing = |what: &str| invalid(format!("{what} of identity provider \"{}\" are missing", self.name));
        if self.issuer.is_empty() {
            return Err(invalid(format!("the issuer of identity provider \"{}\" is missing", self.name)));
        }
        if self.audiences.is_empty() {
            return Err(missing("the audiences").hint("They are your client ids at the provider."));
        }
        if self.algorithms.is_empty() {
            return Err(missing("the algorithms").hint("Algorithms: RS256, ES256, EdDSA."));
        }
        Ok(())
    }
}

/// Refuses an issuer other than the one that the linked identities are from: its users have other ids, and one of
/// them may have that of somebody else's identity.
fn check_no_others_users(provider: &Provider) -> Result<()> {
    static SELECT: Statement = Statement::latest(
        c"select identity_data->>'iss' from auth.identities
          where provider = $1 and identity_data->>'iss' is distinct from $2 limit 1",
        &[pg_sys::TEXTOID, pg_sys::TEXTOID],
    );
    let other = SELECT.first(&[spi::value(provider.name.as_str()), spi::value(provider.issuer.as_str())], |row| {
        Ok(row.get::<String>(1).unwrap_or_default())
    })?;
    match other {
        None => Ok(()),
        Some(other) => Err(error(
            409,
            "conflict",
            format!("users are linked to accounts of \"{other}\" by the name \"{}\"", provider.name),
        )
        .hint("Give the new issuer another name; or, if it gives every user the same id, change \"iss\" in identity_data of auth.identities first.")),
    }
}

/// Checks the name that a provider is to have.
///
/// # Arguments
/// * `kind` – what it is a provider of, such as `identity provider`
pub fn check_name(name: Option<String>, kind: &str) -> Result<String> {
    let name = name.ok_or_else(|| invalid(format!("the name of the {kind} is missing")))?;
    let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > 63 || !name.bytes().all(is_allowed) {
        return Err(invalid(format!("\"{}\" cannot be the name of the {kind}", shortened(&name)))
            .hint("A name has 1 to 63 characters of a-z, 0-9, \"_\", \"-\" and \".\"."));
    }
    if RESERVED.contains(&name.as_str()) {
        return Err(invalid(format!("\"{name}\" cannot be the name of the {kind}"))
            .hint("The names email and phone stand for addresses, anonymous for guests without a named provider."));
    }
    Ok(name)
}

fn algorithm(name: &str) -> Result<Algorithm> {
    ALGORITHMS.into_iter().find(|algorithm| algorithm.name() == name).ok_or_else(|| {
        invalid(format!("\"{}\" is not an algorithm for ID tokens", shortened(name)))
            .hint("Algorithms: RS256, ES256, EdDSA.")
    })
}

/// Argument `n`, an array of texts; `None` for NULL.
pub fn texts(args: &Args, n: usize) -> Result<Option<Vec<String>>> {
    // As bytes: in a database with the encoding SQL_ASCII it may be anything.
    let Some(items) = args.get::<pgrx::Array<&[u8]>>(n) else { return Ok(None) };
    let text = |bytes| std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty()).map(str::to_owned);
    let texts: Option<Vec<_>> = items.iter().map(|item| item.and_then(text)).collect();
    texts.map(Some).ok_or_else(|| invalid("an array has an item that is NULL, empty or not valid UTF-8"))
}

fn remove(args: &Args) -> Result<bool> {
    static DELETE: Statement =
        Statement::new(c"delete from auth.identity_providers where name = $1", &[pg_sys::TEXTOID]);
    writes(c"auth.remove_identity_provider()");
    let name = args.text(0)?.unwrap_or_default();
    let removed = DELETE.run(&[spi::value(name.as_str())])? == 1;
    if removed {
        audit(&name, "identity_provider_removed", json!({}))?;
    }
    Ok(removed)
}
sql_function!(anon_auth_remove_identity_provider, remove);

fn audit(name: &str, action: &str, mut payload: Value) -> Result<()> {
    payload["name"] = name.into();
    crate::audit::record(action, None, payload)
}

/// A URL without the password that it may hold.
pub fn shown_url(url: &str) -> String {
    url.rsplit_once('@').map_or_else(|| shortened(url), |(_, rest)| format!("…@{}", shortened(rest)))
}

/// The beginning of a text that may be of any length, for an error message.
pub fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

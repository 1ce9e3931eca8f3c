//! Accounts at OpenID Connect providers: linking one, and signing in with one.

use crate::error::{Result, error, invalid};
use crate::function::{Args, writes};
use crate::jsonb::Jsonb;
use crate::limits::{self, Call};
use crate::linking::{self, Identity};
use crate::spi::{self, Statement};
use crate::users::{self, User};
use crate::{claims, clock, hook_events, identity_providers, keys, lazy_guests, sessions, settings, sql_function};
use anon_auth_core::address;
use anon_auth_core::id_token::IdToken;
use pgrx::pg_sys;
use serde_json::json;
use uuid::Uuid;

/// Claims that are about the token and not about the user.
const ABOUT_THE_TOKEN: [&str; 12] =
    ["aud", "exp", "iat", "nbf", "nonce", "azp", "jti", "sid", "at_hash", "c_hash", "s_hash", "auth_time"];

/// The account that the caller's ID token proves: arguments provider, id_token and nonce.
fn proven(args: &Args) -> Result<Identity> {
    let text = |n, name: &str| args.text(n)?.ok_or_else(|| invalid(format!("{name} is missing")));
    // An empty one is none.
    let nonce = args.text(2)?.filter(|nonce| !nonce.is_empty());
    let (provider, token) =
        identity_providers::verify(&text(0, "provider")?, &text(1, "id_token")?, nonce.as_deref())?;
    let IdToken { subject, email, email_verified, mut claims } = token;
    claims.retain(|name, _| !ABOUT_THE_TOKEN.contains(&name.as_str()));
    Ok(Identity {
        email: email.map(|address| (address, email_verified && provider.trusts_email)),
        provider: provider.name,
        provider_id: subject,
        identity_data: claims.into(),
    })
}

fn link_identity(args: &Args) -> Result<Jsonb> {
    writes(c"auth.link_identity()");
    limits::take(Call::Verify)?;
    claims::require()?;
    let identity = proven(args)?;
    linking::check_enabled()?;
    let (user, _) = lazy_guests::stored_caller()?;
    let user = users::find(user)?.ok_or_else(claims::not_signed_in)?;
    match linking::user_to_sign_in_to(&user, owner(&identity)?)? {
        Some(_) => sign_in(&identity),
        None => linking::link(&identity),
    }
}
sql_function!(anon_auth_link_identity, link_identity);

fn sign_in_with_id_token(args: &Args) -> Result<Jsonb> {
    writes(c"auth.sign_in_with_id_token()");
    limits::take(Call::Verify)?;
    sign_in(&proven(args)?)
}
sql_function!(anon_auth_sign_in_with_id_token, sign_in_with_id_token);

fn sign_in(identity: &Identity) -> Result<Jsonb> {
    let address = match &identity.email {
        Some((address, true)) => address::email(address).ok(),
        _ => None,
    };
    // The keys come first: they may be made in another transaction, and nothing must be held meanwhile.
    keys::current()?;
    loop {
        // Whoever was found may be deleted, or the account linked or unlinked, until the row is locked.
        if let Some(user) = owner(identity)? {
            users::lock(user)?;
            if note_sign_in(user, identity)? {
                return sessions::create(user, METHOD);
            }
        } else if let Some(user) = user_with(address.as_deref())? {
            users::lock(user)?;
            if user_with(address.as_deref())? == Some(user) && linking::insert_identity(user, identity)? {
                let payload = json!({"provider": identity.provider, "because_of": "email"});
                crate::audit::record("identity_linked", Some(user), payload)?;
                return sessions::create(user, METHOD);
            }
        } else {
            refuse_if_signed_in()?;
            if let Some(user) = create_user(identity, address.as_deref())? {
                return sessions::create(user, METHOD);
            }
        }
    }
}

/// `amr` of these sessions.
const METHOD: &str = "oauth";

/// The user whom an account is linked to.
fn owner(identity: &Identity) -> Result<Option<Uuid>> {
    static SELECT: Statement = Statement::latest(
        c"select user_id from auth.identities where provider = $1 and provider_id = $2",
        &[pg_sys::TEXTOID, pg_sys::TEXTOID],
    );
    SELECT.first(&account(identity), |row| Ok(row.uuid(1)))
}

fn account(identity: &Identity) -> [spi::Value; 2] {
    [spi::value(identity.provider.as_str()), spi::value(identity.provider_id.as_str())]
}

/// The user who has proven this address here.
fn user_with(address: Option<&str>) -> Result<Option<Uuid>> {
    address.map_or(Ok(None), users::with_proven_email)
}

/// Keeps what the provider says now. Returns false where the account is not linked to the user any more.
fn note_sign_in(user: Uuid, identity: &Identity) -> Result<bool> {
    static UPDATE: Statement = Statement::latest(
        c"update auth.identities set identity_data = $4, last_sign_in_at = $5, updated_at = $5
          where provider = $1 and provider_id = $2 and user_id = $3",
        &[pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::UUIDOID, pg_sys::JSONBOID, pg_sys::TIMESTAMPTZOID],
    );
    let [provider, id] = account(identity);
    let data = spi::value(Jsonb(identity.identity_data.clone()));
    Ok(UPDATE.run(&[provider, id, spi::uuid(user), data, spi::timestamp(clock::now())])? == 1)
}

fn refuse_if_signed_in() -> Result<()> {
    match claims::require() {
        Ok(_) => Err(error(409, "already_signed_in", "no user has this account, and somebody is signed in")
            .hint("Link it to that user: SELECT auth.link_identity(…); or sign in without an access token.")),
        Err(error) => {
            error.discard();
            Ok(())
        }
    }
}

/// Makes a permanent user of the account. `None` where somebody has the account or the address meanwhile.
fn create_user(identity: &Identity, address: Option<&str>) -> Result<Option<Uuid>> {
    static INSERT: Statement = Statement::new(
        c"with identity as (
              insert into auth.identities (user_id, provider, provider_id, identity_data, last_sign_in_at, created_at, updated_at)
              values ($3, $1, $2, $4, $5, $5, $5) on conflict (provider_id, provider) do nothing
              returning user_id)
          insert into auth.users (id, aud, email, email_confirmed_at, raw_user_meta_data, raw_app_meta_data,
                                  created_at, updated_at, last_sign_in_at)
          select user_id, $6, $7, case when $7 is not null then $5 end, $8, $9, $5, $5, $5 from identity
          on conflict do nothing",
        &[
            pg_sys::TEXTOID,
            pg_sys::TEXTOID,
            pg_sys::UUIDOID,
            pg_sys::JSONBOID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::TEXTOID,
            pg_sys::TEXTOID,
            pg_sys::JSONBOID,
            pg_sys::JSONBOID,
        ],
    );
    static UNDO: Statement = Statement::new(c"delete from auth.identities where user_id = $1", &[pg_sys::UUIDOID]);
    let now = clock::now();
    let mut user = User::new_permanent(clock::new_id(now), &settings::current()?.audience, address, now);
    hook_events::before_user_created(&mut user, &identity.provider, None)?;
    let [provider, id] = account(identity);
    let created = INSERT.run(&[
        provider,
        id,
        spi::uuid(user.id),
        spi::value(Jsonb(identity.identity_data.clone())),
        spi::timestamp(now),
        spi::value(user.aud.as_str()),
        spi::value(address),
        spi::value(Jsonb(user.user_metadata.clone())),
        spi::value(Jsonb(user.app_metadata.clone())),
    ])?;
    if created == 0 {
        UNDO.run(&[spi::uuid(user.id)])?;
        return Ok(None);
    }
    hook_events::after_user_created(&user, &identity.provider)?;
    Ok(Some(user.id))
}

//! Users: the row, the form in which clients see it, and what a user does with itself.

use crate::catalog::{self, LatestSnapshot};
use crate::claims;
use crate::clock;
use crate::error::{Result, error, invalid};
use crate::function::{Args, writes};
use crate::jsonb::Jsonb;
use crate::lazy_guests::Guest;
use crate::spi::{self, Statement};
use crate::{postgrest, sql_function};
use pgrx::pg_sys;
use serde_json::{Map, Value, json};
use std::ffi::CStr;
use uuid::Uuid;

/// A row of `auth.users`. Times are in microseconds since Postgres's epoch.
pub struct User {
    pub id: Uuid,
    pub aud: String,
    pub role: String,
    pub email: Option<String>,
    email_confirmed_at: Option<i64>,
    pub phone: Option<String>,
    phone_confirmed_at: Option<i64>,
    pub app_metadata: Value,
    pub user_metadata: Value,
    pub is_anonymous: bool,
    banned_until: Option<i64>,
    pub created_at: i64,
    updated_at: i64,
    last_sign_in_at: Option<i64>,
    last_active_on: Option<i32>,
}

impl User {
    /// A guest that signs in for the first time now.
    pub fn new_guest(id: Uuid, aud: &str, user_metadata: Value, now: i64) -> Self {
        Self {
            id,
            aud: aud.to_owned(),
            role: "authenticated".to_owned(),
            email: None,
            email_confirmed_at: None,
            phone: None,
            phone_confirmed_at: None,
            app_metadata: json!({}),
            user_metadata,
            is_anonymous: true,
            banned_until: None,
            created_at: now,
            updated_at: now,
            last_sign_in_at: Some(now),
            last_active_on: None,
        }
    }

    /// A permanent user that signs in for the first time now.
    ///
    /// # Arguments
    /// * `email` – an address that is proven
    pub fn new_permanent(id: Uuid, aud: &str, email: Option<&str>, now: i64) -> Self {
        Self {
            is_anonymous: false,
            email: email.map(str::to_owned),
            email_confirmed_at: email.map(|_| now),
            ..Self::new_guest(id, aud, json!({}), now)
        }
    }

    /// The e-mail address, once it was proven.
    pub fn proven_email(&self) -> Option<&str> {
        self.email_confirmed_at.and(self.email.as_deref())
    }

    /// The phone number, once it was proven.
    pub fn proven_phone(&self) -> Option<&str> {
        self.phone_confirmed_at.and(self.phone.as_deref())
    }

    /// # Errors
    /// `user_banned`.
    pub fn check_not_banned(&self) -> Result<()> {
        check_not_banned(self.banned_until)
    }

    /// Whether today's activity is yet to be noted; it is, at most once a day.
    pub fn is_first_activity_of_day(&self, now: i64) -> bool {
        clock::day(now) > self.last_active_on.unwrap_or_else(|| clock::day(self.created_at))
    }

    /// The user as clients see it.
    pub fn to_json(&self, identities: Value) -> Value {
        let time = |time: Option<i64>| time.map_or(Value::Null, crate::json::timestamp);
        json!({
            "id": self.id.to_string(),
            "aud": self.aud,
            "role": self.role,
            "email": self.email.as_deref().unwrap_or_default(),
            "email_confirmed_at": time(self.email_confirmed_at),
            "phone": self.phone.as_deref().unwrap_or_default(),
            "phone_confirmed_at": time(self.phone_confirmed_at),
            "app_metadata": self.app_metadata,
            "user_metadata": self.user_metadata,
            "identities": identities,
            "created_at": time(Some(self.created_at)),
            "updated_at": time(Some(self.updated_at)),
            "last_sign_in_at": time(self.last_sign_in_at),
            "is_anonymous": self.is_anonymous,
        })
    }
}

/// The user with this id, as everything committed and this transaction's own changes have it.
///
/// # Errors
/// `validation_failed` where its metadata hold what no token can (only plain SQL can have put it there).
pub fn find(id: Uuid) -> Result<Option<User>> {
    let Some(relations) = catalog::relations() else { return Ok(None) };
    let found = LatestSnapshot::take().find(relations.users, relations.users_pkey, id, |row| {
        let object = |column: &CStr| {
            row.get::<pg_sys::Datum>(column).map_or(Ok(json!({})), crate::json::object).map_err(|_| {
                invalid(format!(
                    "{} of user {id} is nested too deeply or holds a number out of range",
                    column.to_string_lossy()
                ))
            })
        };
        Ok(User {
            id,
            aud: row.get(c"aud").unwrap_or_default(),
            role: row.get(c"role").unwrap_or_default(),
            email: row.get(c"email"),
            email_confirmed_at: row.timestamp(c"email_confirmed_at"),
            phone: row.get(c"phone"),
            phone_confirmed_at: row.timestamp(c"phone_confirmed_at"),
            app_metadata: object(c"raw_app_meta_data")?,
            user_metadata: object(c"raw_user_meta_data")?,
            is_anonymous: row.get(c"is_anonymous").unwrap_or(false),
            banned_until: row.timestamp(c"banned_until"),
            created_at: row.timestamp(c"created_at").unwrap_or(0),
            updated_at: row.timestamp(c"updated_at").unwrap_or(0),
            last_sign_in_at: row.timestamp(c"last_sign_in_at"),
            last_active_on: row.get::<pgrx::datum::Date>(c"last_active_on").map(|date| date.to_pg_epoch_days()),
        })
    });
    found.transpose()
}

fn check_not_banned(until: Option<i64>) -> Result<()> {
    match until {
        Some(until) if clock::now() < until => {
            Err(error(403, "user_banned", "the user is banned").hint("See banned_until in auth.users."))
        }
        _ => Ok(()),
    }
}

/// What claims have to follow at once; see [`status`].
#[derive(Clone, PartialEq)]
pub struct Status {
    pub is_anonymous: bool,
    /// Once it was proven.
    pub email: Option<String>,
    /// Once it was proven.
    pub phone: Option<String>,
}

/// The part of [`find`] that every transaction asks for.
///
/// # Errors
/// `user_not_found`, `user_banned`.
pub fn status(snapshot: &LatestSnapshot, id: Uuid) -> Result<Status> {
    let found = catalog::relations().and_then(|relations| {
        snapshot.find(relations.users, relations.users_pkey, id, |row| {
            let status = Status {
                is_anonymous: row.get(c"is_anonymous").unwrap_or(false),
                email: row.timestamp(c"email_confirmed_at").and_then(|_| row.get(c"email")),
                phone: row.timestamp(c"phone_confirmed_at").and_then(|_| row.get(c"phone")),
            };
            (row.timestamp(c"banned_until"), status)
        })
    });
    let (banned_until, status) =
        found.ok_or_else(|| error(401, "user_not_found", "the user of the access token does not exist any more"))?;
    check_not_banned(banned_until)?;
    Ok(status)
}

/// The user for whom this address, normalised, has been proven.
pub fn with_proven_email(address: &str) -> Result<Option<Uuid>> {
    static SELECT: Statement = Statement::latest(
        c"select id from auth.users where lower(email) = lower($1) and email_confirmed_at is not null",
        &[pg_sys::TEXTOID],
    );
    SELECT.first(&[spi::value(address)], |row| Ok(row.uuid(1)))
}

/// The user for whom this number, normalised, has been proven.
pub fn with_proven_phone(number: &str) -> Result<Option<Uuid>> {
    static SELECT: Statement = Statement::latest(
        c"select id from auth.users where phone = $1 and phone_confirmed_at is not null",
        &[pg_sys::TEXTOID],
    );
    SELECT.first(&[spi::value(number)], |row| Ok(row.uuid(1)))
}

/// The identities linked to a user, as clients see them.
pub fn identities(user: Uuid) -> Result<Value> {
    static SELECT: Statement = Statement::new(
        c"select pg_catalog.jsonb_build_object(
              'identity_id', id, 'id', provider_id, 'user_id', user_id, 'provider', provider,
              'identity_data', identity_data, 'last_sign_in_at', last_sign_in_at,
              'created_at', created_at, 'updated_at', updated_at)
          from auth.identities where user_id = $1 order by created_at, id",
        &[pg_sys::UUIDOID],
    );
    let mut identities = Vec::new();
    SELECT.each(&[spi::uuid(user)], |row| {
        let text = row.get::<pg_sys::Datum>(1).map(crate::json::text).unwrap_or_default();
        identities.push(crate::json::parse(&text)?);
        Ok(())
    })?;
    Ok(identities.into())
}

/// Locks the row of a user who is to be deleted: waits also for rows that reference it and are not committed yet.
pub fn lock_for_deletion(id: Uuid) -> Result<()> {
    static LOCK: Statement = Statement::new(c"select from auth.users where id = $1 for update", &[pg_sys::UUIDOID]);
    LOCK.run(&[spi::uuid(id)]).map(|_| ())
}

/// Locks two users as [`lock`] does, in the order in which everybody does who locks two and waits for both.
pub fn lock_both(one: Uuid, other: Uuid) -> Result<()> {
    lock(one.min(other))?;
    lock(one.max(other))
}

/// Locks the row of a user against other changes to the user and its sessions.
pub fn lock(id: Uuid) -> Result<()> {
    static LOCK: Statement =
        Statement::new(c"select from auth.users where id = $1 for no key update", &[pg_sys::UUIDOID]);
    LOCK.run(&[spi::uuid(id)]).map(|_| ())
}

/// Notes that a user does something now that keeps it from clean-up.
pub fn note_activity(id: Uuid, now: i64) -> Result<()> {
    static UPDATE: Statement = Statement::latest(
        c"update auth.users set last_active_on = $2, cleanup_blocked_at = null where id = $1",
        &[pg_sys::UUIDOID, pg_sys::DATEOID],
    );
    UPDATE.run(&[spi::uuid(id), Some(pg_sys::Datum::from(clock::day(now)))]).map(|_| ())
}

/// Notes that a user signs in now.
pub fn note_sign_in(id: Uuid, now: i64) -> Result<()> {
    static UPDATE: Statement = Statement::latest(
        c"update auth.users set last_sign_in_at = $2, last_active_on = $3, cleanup_blocked_at = null where id = $1",
        &[pg_sys::UUIDOID, pg_sys::TIMESTAMPTZOID, pg_sys::DATEOID],
    );
    UPDATE.run(&[spi::uuid(id), spi::timestamp(now), Some(pg_sys::Datum::from(clock::day(now)))]).map(|_| ())
}

/// The signed-in user, of whom nothing need be stored.
fn signed_in() -> Result<User> {
    let (verified, fresh) = claims::caller()?;
    match Guest::unstored(&verified, &fresh) {
        Some(guest) => guest.user(),
        None => find(verified.user_and_session()?.0)?.ok_or_else(claims::not_signed_in),
    }
}

fn get_user(_: &Args) -> Result<Jsonb> {
    let user = signed_in()?;
    let identities = identities(user.id)?;
    postgrest::forbid_caching()?;
    Ok(Jsonb(user.to_json(identities)))
}
sql_function!(anon_auth_get_user, get_user);

fn user_info(_: &Args) -> Result<Jsonb> {
    let user = signed_in()?;
    let mut info = Map::new();
    let verified = user.proven_email().is_some() || user.proven_phone().is_some();
    info.insert("sub".into(), user.id.to_string().into());
    info.insert("isVerified".into(), verified.into());
    info.insert("isAnonymous".into(), user.is_anonymous.into());
    if let Some(email) = &user.email {
        info.insert("email".into(), email.as_str().into());
        info.insert("email_verified".into(), user.proven_email().is_some().into());
    }
    if let Some(phone) = &user.phone {
        info.insert("phone_number".into(), phone.as_str().into());
        info.insert("phone_number_verified".into(), user.proven_phone().is_some().into());
    }
    info.insert("updated_at".into(), clock::unix_seconds(user.updated_at).into());
    postgrest::forbid_caching()?;
    Ok(Jsonb(info.into()))
}
sql_function!(anon_auth_user_info, user_info);

fn delete_user(_: &Args) -> Result<()> {
    writes(c"auth.delete_user()");
    let (verified, fresh) = claims::caller()?;
    let (user, _) = verified.user_and_session()?;
    let is_ended = Guest::unstored(&verified, &fresh).map_or(Ok(false), |guest| guest.end())?;
    if !is_ended {
        lock_for_deletion(user)?;
        let found = find(user)?.ok_or_else(claims::not_signed_in)?;
        if !found.is_anonymous {
            return Err(error(403, "not_anonymous", "only a guest can delete itself")
                .hint("Deleting a permanent user is up to an administrator: DELETE FROM auth.users WHERE id = …"));
        }
        crate::deletion::delete(&[user])?;
    }
    crate::audit::record("user_deleted", Some(user), json!({}))
}
sql_function!(anon_auth_delete_user, delete_user);

//! What an application does: sign in, refresh, authenticate, and ask who it is.

use crate::{failed, value};
use postgres::{Error, GenericClient};
use serde_json::Value;
use uuid::Uuid;

/// What a client got from a sign-in or a refresh.
#[derive(Clone, Debug)]
pub struct Session {
    pub user: Uuid,
    pub access_token: String,
    pub refresh_token: String,
}

impl From<Value> for Session {
    fn from(answer: Value) -> Self {
        let text = |value: &Value| value.as_str().expect("the answer is complete").to_owned();
        Self {
            user: text(&answer["user"]["id"]).parse().expect("the id is a UUID"),
            access_token: text(&answer["access_token"]),
            refresh_token: text(&answer["refresh_token"]),
        }
    }
}

/// Signs a new guest in.
pub fn sign_in(client: &mut impl GenericClient) -> Session {
    try_sign_in(client).unwrap_or_else(failed("sign-in"))
}

/// # Errors
/// Those of `auth.sign_in_anonymously()`.
pub fn try_sign_in(client: &mut impl GenericClient) -> Result<Session, Error> {
    client.query_one("select auth.sign_in_anonymously()", &[]).map(|row| row.get::<_, Value>(0).into())
}

/// # Errors
/// Those of `auth.refresh_session()`.
pub fn refresh(client: &mut impl GenericClient, token: &str) -> Result<Session, Error> {
    client.query_one("select auth.refresh_session($1)", &[&token]).map(|row| row.get::<_, Value>(0).into())
}

/// # Errors
/// Those of `auth.authenticate()`. Call it inside a transaction.
pub fn authenticate(client: &mut impl GenericClient, token: &str) -> Result<Uuid, Error> {
    client.query_one("select auth.authenticate($1)", &[&token]).map(|row| row.get(0))
}

/// # Errors
/// Those of `auth.verify_token()`.
pub fn verify(client: &mut impl GenericClient, token: &str) -> Result<Value, Error> {
    client.query_one("select auth.verify_token($1)", &[&token]).map(|row| row.get(0))
}

/// Sets the access token for the rest of the connection, as a session-wide pool would.
pub fn set_token(client: &mut impl GenericClient, token: &str) {
    client
        .execute("select set_config('anon_auth.access_token', $1, false)", &[&token])
        .unwrap_or_else(failed("set_config"));
}

/// `auth.uid()` of the next transaction.
pub fn uid(client: &mut impl GenericClient) -> Option<Uuid> {
    value(client, "select auth.uid()")
}

/// The id of a user's only session.
pub fn session_id(client: &mut impl GenericClient, user: Uuid) -> Uuid {
    client
        .query_one("select id from auth.sessions where user_id = $1", &[&user])
        .unwrap_or_else(failed("session"))
        .get(0)
}

/// Whether the user still exists.
pub fn exists(client: &mut impl GenericClient, user: Uuid) -> bool {
    client
        .query_one("select exists (select from auth.users where id = $1)", &[&user])
        .unwrap_or_else(failed("users"))
        .get(0)
}

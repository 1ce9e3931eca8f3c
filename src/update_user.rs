//! `auth.update_user()`: what users change about themselves.

use crate::error::{Result, invalid};
use crate::function::{Args, writes};
use crate::jsonb::Jsonb;
use crate::limits::{self, Call};
use crate::one_time_tokens::{self, Purpose};
use crate::spi::{self, Statement};
use crate::users::{self, User};
use crate::verification::{self, Address};
use crate::{claims, clock, linking, passwords, settings, sql_function};
use pgrx::pg_sys;
use serde_json::{Map, Value};
use uuid::Uuid;

fn update_user(args: &Args) -> Result<Jsonb> {
    writes(c"auth.update_user()");
    let (user, _) = claims::require()?;
    let Value::Object(attributes) = crate::json::argument(args, 0)? else {
        return Err(invalid("the attributes are not a JSON object").hint(ATTRIBUTES));
    };
    let attributes = Attributes::read(&attributes)?;
    for _ in attributes.addresses() {
        limits::take(Call::Otp)?;
    }
    if let Some(password) = &attributes.password {
        passwords::count_attempt(user, password)?;
    }

    let (user, session) = linking::lock_caller()?;
    if attributes.has_data {
        merge_metadata(user.id, args.get(0))?;
    }
    if let Some(password) = &attributes.password {
        passwords::set(&user, session, password)?;
    }
    // Last: a message that was counted is not taken back.
    for address in attributes.addresses() {
        verification::request(&user, address)?;
    }
    answer(user.id)
}
sql_function!(anon_auth_update_user, update_user);

const ATTRIBUTES: &str = "Attributes: email, phone, password (texts), data (an object).";

/// What is to change.
struct Attributes {
    email: Option<Address>,
    phone: Option<Address>,
    password: Option<String>,
    has_data: bool,
}

impl Attributes {
    /// # Errors
    /// `validation_failed`, with the name or the value that is not acceptable.
    fn read(attributes: &Map<String, Value>) -> Result<Self> {
        if let Some(name) =
            attributes.keys().find(|name| !matches!(name.as_str(), "email" | "phone" | "password" | "data"))
        {
            return Err(invalid(format!("\"{name}\" is not an attribute that users can change")).hint(ATTRIBUTES));
        }
        let text = |name: &str| match attributes.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(invalid(format!("\"{name}\" is not a text")).hint(ATTRIBUTES)),
        };
        if attributes.get("data").is_some_and(|data| !data.is_object()) {
            return Err(invalid("\"data\" is not a JSON object").hint(ATTRIBUTES));
        }
        Ok(Self {
            email: text("email")?.map(Address::email).transpose()?,
            phone: text("phone")?.map(Address::phone).transpose()?,
            password: text("password")?.map(str::to_owned),
            has_data: attributes.contains_key("data"),
        })
    }

    fn addresses(&self) -> impl Iterator<Item = &Address> {
        [&self.email, &self.phone].into_iter().flatten()
    }
}

/// Adds the members of `data` to the user's metadata; those that are null are removed. In SQL, where numbers keep all
/// their digits.
fn merge_metadata(user: Uuid, attributes: Option<pg_sys::Datum>) -> Result<()> {
    static UPDATE: Statement = Statement::latest(
        c"update auth.users
          set raw_user_meta_data = (raw_user_meta_data || ($2->'data'))
                  - array(select key from jsonb_each($2->'data') where value = 'null'),
              updated_at = $3
          where id = $1
          returning octet_length(raw_user_meta_data::text)",
        &[pg_sys::UUIDOID, pg_sys::JSONBOID, pg_sys::TIMESTAMPTZOID],
    );
    let now = spi::timestamp(clock::now());
    let size: Option<i32> = UPDATE.first(&[spi::uuid(user), attributes, now], |row| Ok(row.get(1)))?.flatten();
    settings::current()?.check_user_metadata(size.unwrap_or(0) as usize)
}

/// The user as [`User::to_json`] has it, and the addresses that are claimed but not proven.
fn answer(user: Uuid) -> Result<Jsonb> {
    let user: User = users::find(user)?.ok_or_else(claims::not_signed_in)?;
    let mut answer = user.to_json(users::identities(user.id)?);
    for (name, purpose) in [("new_email", Purpose::EmailChange), ("new_phone", Purpose::PhoneChange)] {
        if let Some(token) = one_time_tokens::of_user(user.id, purpose)?.filter(|token| !token.is_expired()) {
            answer[name] = token.address.into();
        }
    }
    Ok(Jsonb(answer))
}

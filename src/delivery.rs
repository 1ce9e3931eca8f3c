//! Messages to users: through a hook, or through an outbox that a worker empties.
//!
//! The database sends no mail itself. Where the hook `send_email` or `send_sms` is set, it gets the message; else
//! the message goes to `auth.messages`, with a NOTIFY, and [`claim`] hands it to a worker. Codes are in that table
//! as long as they are to be sent, sealed where there is a key file, and in no dump.

use crate::clock;
use crate::error::{Result, invalid};
use crate::function::{Args, writes};
use crate::hooks::{self, Hook};
use crate::jsonb::Jsonb;
use crate::settings::{self, Settings};
use crate::spi::{self, Row, Statement};
use crate::users::{self, User};
use crate::{keys, sql_function};
use anon_auth_core::seal;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use serde_json::{Value, json};
use uuid::Uuid;

/// How a message reaches its recipient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Channel {
    Email,
    Sms,
}

impl Channel {
    pub const fn name(self) -> &'static str {
        match self {
            Channel::Email => "email",
            Channel::Sms => "sms",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Channel::Email, Channel::Sms].into_iter().find(|channel| channel.name() == name)
    }

    /// The code of the error where too many messages were sent.
    pub const fn rate_limit_error(self) -> &'static str {
        match self {
            Channel::Email => "over_email_send_rate_limit",
            Channel::Sms => "over_sms_send_rate_limit",
        }
    }

    const fn hook(self) -> Hook {
        match self {
            Channel::Email => Hook::SendEmail,
            Channel::Sms => Hook::SendSms,
        }
    }
}

/// A message with a code.
pub struct Message<'a> {
    pub channel: Channel,
    pub user: &'a User,
    /// Address or number that it goes to, normalised.
    pub to: &'a str,
    /// The six digits.
    pub code: &'a str,
    /// What a link carries instead; empty where there are no links.
    pub token_hash: &'a str,
    /// What the code is for, by its customary name: `email_change`, `phone_change`, …
    pub purpose: &'a str,
    /// When the code expires, in microseconds since Postgres's epoch; nobody is bothered with it after that.
    pub expires_at: i64,
}

impl Message<'_> {
    /// The message in the form that hooks and workers get.
    fn event(&self, settings: &Settings) -> Result<Value> {
        let mut user = self.user.to_json(users::identities(self.user.id)?);
        match self.purpose {
            "email_change" => user["new_email"] = self.to.into(),
            "phone_change" => user["new_phone"] = self.to.into(),
            _ => (),
        }
        Ok(match self.channel {
            Channel::Email => json!({
                "user": user,
                "email_data": {
                    "token": self.code,
                    "token_hash": self.token_hash,
                    "redirect_to": settings.site_url,
                    "email_action_type": self.purpose,
                    "site_url": settings.site_url,
                    // For a second code to the address so far, which is not asked for here.
                    "token_new": "",
                    "token_hash_new": "",
                },
            }),
            Channel::Sms => json!({
                "user": user,
                "sms": {"otp": self.code, "phone": self.to, "sms_type": self.purpose},
            }),
        })
    }
}

/// Sends a message, or sees to it that it will be sent when this transaction commits. It takes the place of
/// messages of the same purpose to the same user that are still waiting, whose code is no longer good.
///
/// # Errors
/// Those of [`hooks::run`] where a hook is set; `signing_key_unavailable` where the key file cannot be read.
pub fn send(message: &Message) -> Result<()> {
    let hook = message.channel.hook();
    if hooks::is_set(hook) {
        let event = message.event(&*settings::current()?)?;
        return hooks::run(hook, event).map(|_| ());
    }
    store(message)
}

/// Withdraws the messages to a user that no worker has claimed yet: their codes are void.
pub fn withdraw(user: Uuid) -> Result<()> {
    static WITHDRAW: Statement = Statement::new(
        c"update auth.messages set status = 'superseded', secret = null, finished_at = $2
          where id in (select id from auth.messages where user_id = $1 and status = 'pending' and attempts = 0
                       for update skip locked)",
        &[pg_sys::UUIDOID, pg_sys::TIMESTAMPTZOID],
    );
    WITHDRAW.run(&[spi::uuid(user), spi::timestamp(clock::now())]).map(|_| ())
}

fn store(message: &Message) -> Result<()> {
    // Not those that a worker is claiming at this moment: it would be waited for.
    static SUPERSEDE: Statement = Statement::new(
        c"update auth.messages set status = 'superseded', secret = null, finished_at = $4
          where id in (select id from auth.messages
                       where user_id = $1 and channel = $2 and purpose = $3 and status = 'pending'
                       for update skip locked)",
        &[pg_sys::UUIDOID, pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::TIMESTAMPTZOID],
    );
    static INSERT: Statement = Statement::new(
        c"insert into auth.messages
              (id, user_id, channel, recipient, purpose, secret, sealed, created_at, available_at, expires_at)
          values ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9)",
        &[
            pg_sys::UUIDOID,
            pg_sys::UUIDOID,
            pg_sys::TEXTOID,
            pg_sys::TEXTOID,
            pg_sys::TEXTOID,
            pg_sys::BYTEAOID,
            pg_sys::BOOLOID,
            pg_sys::TIMESTAMPTZOID,
            pg_sys::TIMESTAMPTZOID,
        ],
    );
    static NOTIFY: Statement =
        Statement::new(c"select pg_catalog.pg_notify('anon_auth_messages', $1)", &[pg_sys::TEXTOID]);

    let now = clock::now();
    let id = clock::new_id(now);
    let (user, channel) = (spi::uuid(message.user.id), spi::value(message.channel.name()));
    let secret = json!([message.code, message.token_hash]).to_string().into_bytes();
    let (secret, sealed) = match keys::sealing_key()? {
        Some(key) => (seal::seal(&key, &secret, &associated_data(id)).map_err(|_| not_sealed())?, true),
        None => (secret, false),
    };
    SUPERSEDE.run(&[user, channel, spi::value(message.purpose), spi::timestamp(now)])?;
    INSERT.run(&[
        spi::uuid(id),
        user,
        channel,
        spi::value(message.to),
        spi::value(message.purpose),
        spi::value(secret.as_slice()),
        spi::value(sealed),
        spi::timestamp(now),
        spi::timestamp(message.expires_at),
    ])?;
    NOTIFY.run(&[channel])?;
    Ok(())
}

fn not_sealed() -> crate::error::Error {
    crate::error::error(500, "signing_key_unavailable", "the message could not be sealed")
}

/// Binds sealed codes to their row.
fn associated_data(id: Uuid) -> Vec<u8> {
    format!("anon_auth message\0{id}").into_bytes()
}

/// A message that a worker has claimed.
struct Claimed {
    id: Uuid,
    user: Uuid,
    channel: Channel,
    to: String,
    purpose: String,
    secret: Vec<u8>,
    sealed: bool,
    attempt: i32,
    created_at: i64,
    expires_at: i64,
}

impl Claimed {
    fn read(row: &Row) -> Option<Self> {
        let text = |n| row.get::<String>(n).unwrap_or_default();
        let time = |n| row.get::<TimestampWithTimeZone>(n).map_or(0, i64::from);
        Some(Self {
            id: row.uuid(1),
            user: row.uuid(2),
            channel: Channel::named(&text(3))?,
            to: text(4),
            purpose: text(5),
            secret: row.get(6)?,
            sealed: row.get(7)?,
            attempt: row.get(8)?,
            created_at: time(9),
            expires_at: time(10),
        })
    }

    /// Code and token hash; `None` where another key file sealed them.
    fn open(&self) -> Result<Option<(String, String)>> {
        let secret = if self.sealed {
            let key = keys::sealing_key()?.ok_or_else(|| {
                crate::error::error(
                    500,
                    "signing_key_unavailable",
                    "a message is sealed, and anon_auth.key_file is not set",
                )
            })?;
            seal::open(&key, &self.secret, &associated_data(self.id)).ok()
        } else {
            Some(self.secret.clone())
        };
        Ok(secret.and_then(|secret| serde_json::from_slice(&secret).ok()))
    }

    /// The message as a worker gets it; `None` where it cannot be sent any more.
    fn to_json(&self, settings: &Settings) -> Result<Option<Value>> {
        let (Some(user), Some((code, token_hash))) = (users::find(self.user)?, self.open()?) else { return Ok(None) };
        let message = Message {
            channel: self.channel,
            user: &user,
            to: &self.to,
            code: &code,
            token_hash: &token_hash,
            purpose: &self.purpose,
            expires_at: self.expires_at,
        };
        let mut json = message.event(settings)?;
        json["id"] = self.id.to_string().into();
        json["channel"] = self.channel.name().into();
        json["to"] = self.to.as_str().into();
        json["attempt"] = self.attempt.into();
        json["created_at"] = crate::json::timestamp(self.created_at);
        json["expires_at"] = crate::json::timestamp(self.expires_at);
        Ok(Some(json))
    }
}

fn claim(args: &Args) -> Result<Jsonb> {
    static CHECK: Statement =
        Statement::new(c"select $1 between interval '1 second' and interval '1 day'", &[pg_sys::INTERVALOID]);
    static CLAIM: Statement = Statement::new(
        c"with due as (
              select id from auth.messages
              where status = 'pending' and available_at <= $1 and ($2 is null or channel = $2)
              order by available_at limit $3 for update skip locked)
          update auth.messages m set attempts = m.attempts + 1, available_at = $1 + $4
          from due where m.id = due.id
          returning m.id, m.user_id, m.channel, m.recipient, m.purpose, m.secret, m.sealed, m.attempts,
                    m.created_at, m.expires_at",
        &[pg_sys::TIMESTAMPTZOID, pg_sys::TEXTOID, pg_sys::INT4OID, pg_sys::INTERVALOID],
    );
    writes(c"auth.claim_messages()");
    let n = args.get::<i32>(0).unwrap_or(10);
    if !(1..=1000).contains(&n) {
        return Err(invalid(format!("{n} is not a number of messages from 1 to 1000")));
    }
    let lease = args.get::<pg_sys::Datum>(1);
    if CHECK.first(&[lease], |row| Ok(row.get::<bool>(1)))?.flatten() != Some(true) {
        return Err(invalid("the lease is not an interval of 1 second to 1 day"));
    }
    let channel = args.text(2)?;
    if let Some(channel) = channel.as_deref().filter(|channel| Channel::named(channel).is_none()) {
        return Err(invalid(format!("there is no channel \"{channel}\"")).hint("The channels are: email, sms."));
    }

    let now = clock::now();
    expire(now)?;
    let mut claimed = Vec::new();
    CLAIM.each(&[spi::timestamp(now), channel.as_deref().and_then(spi::value), spi::value(n), lease], |row| {
        claimed.extend(Claimed::read(row));
        Ok(())
    })?;
    claimed.sort_by_key(|message| message.id);
    let settings = settings::current()?;
    let mut messages = Vec::new();
    for message in &claimed {
        match message.to_json(&settings)? {
            Some(json) => messages.push(json),
            None => {
                finish(message.id, "failed", Some("the user was deleted, or another key file sealed the message"))?;
            }
        }
    }
    Ok(Jsonb(messages.into()))
}
sql_function!(anon_auth_claim_messages, claim);

/// Ends a message that was claimed and is pending, and erases its codes. Returns whether it was so.
fn finish(id: Uuid, status: &str, reason: Option<&str>) -> Result<bool> {
    static FINISH: Statement = Statement::new(
        c"update auth.messages set status = $2, secret = null, last_error = coalesce($3, last_error), finished_at = $4
          where id = $1 and status = 'pending' and attempts > 0",
        &[pg_sys::UUIDOID, pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::TIMESTAMPTZOID],
    );
    let finished = FINISH.run(&[
        spi::uuid(id),
        spi::value(status),
        reason.and_then(spi::value),
        spi::timestamp(clock::now()),
    ])?;
    Ok(finished == 1)
}

fn id_argument(args: &Args) -> Result<Uuid> {
    args.get::<pgrx::Uuid>(0)
        .map(|id| Uuid::from_bytes(*id.as_bytes()))
        .ok_or_else(|| invalid("the id of the message is missing"))
}

sql_function!(anon_auth_acknowledge_message, |args| {
    writes(c"auth.acknowledge_message()");
    finish(id_argument(args)?, "sent", None)
});

/// Characters of a reason that are kept.
const REASON_LENGTH: usize = 500;

sql_function!(anon_auth_fail_message, |args| {
    // Ten seconds, and twice as long each time, up to a quarter of an hour; not beyond the end of the code.
    static RETRY: Statement = Statement::new(
        c"update auth.messages
          set available_at = $2 + least(interval '15 minutes', interval '10 seconds' * 2 ^ least(attempts - 1, 10)),
              last_error = $3
          where id = $1 and status = 'pending' and attempts > 0
            and expires_at > $2 + least(interval '15 minutes', interval '10 seconds' * 2 ^ least(attempts - 1, 10))",
        &[pg_sys::UUIDOID, pg_sys::TIMESTAMPTZOID, pg_sys::TEXTOID],
    );
    writes(c"auth.fail_message()");
    let id = id_argument(args)?;
    let reason: Option<String> = args.text(1)?.map(|reason| reason.chars().take(REASON_LENGTH).collect());
    let reason = reason.as_deref();
    if args.get::<bool>(2).unwrap_or(true)
        && RETRY.run(&[spi::uuid(id), spi::timestamp(clock::now()), reason.and_then(spi::value)])? == 1
    {
        return Ok(true);
    }
    finish(id, "failed", reason)?;
    Ok(false)
});

/// Erases the codes of messages that have expired.
fn expire(now: i64) -> Result<()> {
    static EXPIRE: Statement = Statement::new(
        c"update auth.messages set status = 'expired', secret = null, finished_at = expires_at
          where id in (select id from auth.messages where status = 'pending' and expires_at <= $1
                       for update skip locked)",
        &[pg_sys::TIMESTAMPTZOID],
    );
    EXPIRE.run(&[spi::timestamp(now)]).map(|_| ())
}

/// Erases the codes of messages that have expired, and deletes messages that ended before a time; returns how many.
pub fn clean_up(now: i64, ended_before: i64, batch: i64) -> Result<u64> {
    static OLD: Statement = Statement::new(
        c"delete from auth.messages where id in (
              select id from auth.messages where finished_at < $1
              order by finished_at limit $2 for update skip locked)",
        &[pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID],
    );
    expire(now)?;
    OLD.run(&[spi::timestamp(ended_before), spi::value(batch)])
}

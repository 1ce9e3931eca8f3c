//! Guesses: codes and passwords that somebody tries; and the messages with codes that somebody asks for. Each is
//! counted before it is judged, or sent, in a transaction of its own, so that a caller who rolls back has used it up
//! all the same.
//!
//! They are counted by what is guessed at and by the client's address together: a limit on an account alone would
//! let anyone lock its owner out. Codes, which are short, have a much larger limit over all clients besides, since
//! enough clients could try all of a million. A code that only its user can try needs no such care: nobody else's
//! guess is counted there. Of guests, who are to be had for the asking, that user is one of many, and what bounds
//! their guesses together is the number of codes sent to one address.
//!
//! `auth.guesses` is written by the worker alone. A count is good for a while from its first guess on, and the row
//! is deleted after that.

use crate::catalog::{self, LatestSnapshot};
use crate::clock;
use crate::delivery::Channel;
use crate::error::{Error, Result, error};
use crate::own_transaction::{self, Request, Verdict};
use crate::settings::{self, Settings};
use crate::spi::{self, Statement};
use anon_auth_core::client_address::ClientAddress;
use anon_auth_core::digest;
use pgrx::pg_sys;
use serde_json::json;
use uuid::Uuid;

/// What is guessed at, or where a message goes.
pub struct Subject {
    kind: Kind,
    /// Purpose and whose it is.
    name: [String; 2],
    user: Option<Uuid>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    OwnCode,
    Code,
    Password,
    Message(Channel),
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Kind::OwnCode | Kind::Code => "code",
            Kind::Password => "password",
            Kind::Message(_) => "message",
        }
    }
}

impl Subject {
    /// The codes of a purpose that only this user can try, signed in: `otp_attempt_limit` guesses within
    /// `otp_attempt_window`. A new code gives no new guesses.
    ///
    /// # Arguments
    /// * `purpose` – what the code is good for
    pub fn own_code(purpose: &str, user: Uuid) -> Self {
        Self { kind: Kind::OwnCode, name: [purpose.into(), user.to_string()], user: Some(user) }
    }

    /// A short code that anybody can try: `otp_attempt_limit` guesses for each client and `otp_attempt_limit_total`
    /// for all, within `otp_attempt_window`.
    ///
    /// # Arguments
    /// * `purpose` – what the code is good for
    /// * `owner` – what names it
    pub fn code(purpose: &str, owner: &str) -> Self {
        Self { kind: Kind::Code, name: [purpose.into(), owner.into()], user: None }
    }

    /// The password of an account: `password_attempt_limit` guesses for each client within
    /// `password_attempt_window`.
    ///
    /// # Arguments
    /// * `account` – the user's id; where there is no such account, the normalised address that the caller names
    pub fn password(account: &str) -> Self {
        Self { kind: Kind::Password, name: ["password".into(), account.into()], user: None }
    }

    /// Messages with codes to an address, which may be a stranger's: within `otp_message_window`,
    /// `otp_message_limit` for each client, `otp_message_limit_total` for all, and `otp_message_limit_client` of a
    /// client to all addresses; and one within `otp_resend_interval`.
    ///
    /// # Arguments
    /// * `address` – normalised
    pub fn message(channel: Channel, address: &str) -> Self {
        Self { kind: Kind::Message(channel), name: [channel.name().into(), mailbox(address)], user: None }
    }

    /// Names the user whom an entry in the audit log will be about.
    pub fn of_user(self, user: Uuid) -> Self {
        Self { user: Some(user), ..self }
    }

    /// What counts it, the longest to wait for first.
    fn counters(&self, client: &str, settings: &Settings) -> [Option<Counter>; 4] {
        let [purpose, owner] = &self.name;
        let id = |owner: &str, client: &str| {
            let digest = digest::of_parts(&[self.kind.name(), purpose, owner, client]);
            Uuid::from_slice(&digest[..16]).unwrap_or_default()
        };
        let counter = |owner: &str, client: &str, limit: i64, window: i64| {
            Some(Counter { id: id(owner, client), limit, window, is_audited: true })
        };
        match self.kind {
            Kind::OwnCode => {
                [counter(owner, "", settings.otp_attempt_limit, settings.otp_attempt_window), None, None, None]
            }
            Kind::Code => {
                let window = settings.otp_attempt_window;
                let total = counter(owner, "", settings.otp_attempt_limit_total, window);
                [counter(owner, client, settings.otp_attempt_limit, window), total, None, None]
            }
            Kind::Password => {
                let window = settings.password_attempt_window;
                [counter(owner, client, settings.password_attempt_limit, window), None, None, None]
            }
            Kind::Message(_) => {
                let (window, interval) = (settings.otp_message_window, settings.otp_resend_interval);
                // Nothing to notice: everybody runs into it who is in a hurry.
                let pause = Counter { id: id(owner, "pause"), limit: 1, window: interval, is_audited: false };
                [
                    counter(owner, client, settings.otp_message_limit, window),
                    counter(owner, "", settings.otp_message_limit_total, window),
                    counter("", client, settings.otp_message_limit_client, window),
                    (interval > 0).then_some(pause),
                ]
            }
        }
    }
}

/// Where mail for an address ends up, at most providers: without what follows a plus sign, which whoever types the
/// address is free to make up. A phone number begins with one.
fn mailbox(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((local, domain)) => format!("{}@{domain}", local.split('+').next().unwrap_or_default()),
        None => address.into(),
    }
}

/// Counts one guess at `subject` by `client`, or one message. To be called before the guess is looked at, or the
/// message sent.
///
/// # Errors
/// `over_request_rate_limit`, for messages `over_email_send_rate_limit` or `over_sms_send_rate_limit` (PT429) where
/// there were too many already: the guess must not be judged.
/// `worker_unavailable` (PT503) where it could not be counted.
pub fn count(subject: &Subject, client: &ClientAddress) -> Result<()> {
    let guess = Guess::new(subject, client)?;
    // A count above its limit stays there until it expires, and costs the worker nothing.
    if let Some(until) = guess.refused_until() {
        return Err(too_many(subject.kind, until));
    }
    match own_transaction::run(Request::CountGuess(guess))? {
        Verdict::Done => Ok(()),
        Verdict::Refused { until } => Err(too_many(subject.kind, until)),
    }
}

/// Takes back the count of a guess that was right: those who know their password may sign in as often as they
/// like, and wrong guesses stay counted. Does not wait for it, and leaves the count where the worker is too busy.
pub fn succeeded(subject: &Subject, client: &ClientAddress) -> Result<()> {
    own_transaction::tell(Request::UncountGuess(Guess::new(subject, client)?));
    Ok(())
}

/// A guess as the worker gets it.
#[derive(Clone, Copy, Debug)]
pub struct Guess {
    kind: Kind,
    user: Option<Uuid>,
    client: ClientAddress,
    counters: [Option<Counter>; 4],
}

#[derive(Clone, Copy, Debug)]
struct Counter {
    /// 128 bits of a SHA-256: neither addresses nor users can be read from the table.
    id: Uuid,
    limit: i64,
    /// Microseconds that a count is good for.
    window: i64,
    /// Whether running into it is worth an entry in the audit log.
    is_audited: bool,
}

impl Guess {
    fn new(subject: &Subject, client: &ClientAddress) -> Result<Self> {
        let counters = subject.counters(&client.to_string(), &*settings::current()?);
        Ok(Self { kind: subject.kind, user: subject.user, client: *client, counters })
    }

    fn counters(&self) -> impl Iterator<Item = Counter> {
        self.counters.into_iter().flatten()
    }

    /// When a guess may be made again, where one was refused already.
    fn refused_until(&self) -> Option<i64> {
        let snapshot = LatestSnapshot::take();
        self.counters().find_map(|counter| match counter.read(&snapshot) {
            Some((count, until)) if count > counter.limit => Some(until),
            _ => None,
        })
    }

    /// Counts it, or refuses and counts nothing. Carried out by the worker, alone.
    pub fn count(&self) -> Result<Verdict> {
        // One above the limit says that a guess was refused.
        static REFUSE: Statement =
            Statement::new(c"update auth.guesses set count = count + 1 where id = $1", &[pg_sys::UUIDOID]);
        static COUNT: Statement = Statement::new(
            c"insert into auth.guesses as g (id, count, expires_at) values ($1, 1, $3)
              on conflict (id) do update
              set count = case when g.expires_at > $2 then g.count + 1 else 1 end,
                  expires_at = case when g.expires_at > $2 then g.expires_at else $3 end",
            &[pg_sys::UUIDOID, pg_sys::TIMESTAMPTZOID, pg_sys::TIMESTAMPTZOID],
        );
        let snapshot = LatestSnapshot::take();
        for counter in self.counters() {
            if let Some((count, until)) = counter.read(&snapshot)
                && count >= counter.limit
            {
                if count == counter.limit {
                    REFUSE.run(&[spi::uuid(counter.id)])?;
                    if counter.is_audited {
                        let payload = json!({"kind": self.kind.name(), "client": self.client.to_string()});
                        crate::audit::record("attempt_limit_reached", self.user, payload)?;
                    }
                }
                return Ok(Verdict::Refused { until });
            }
        }
        let now = clock::now();
        for counter in self.counters() {
            COUNT.run(&[spi::uuid(counter.id), spi::timestamp(now), spi::timestamp(now + counter.window)])?;
        }
        Ok(Verdict::Done)
    }

    /// Takes one count back. Carried out by the worker.
    pub fn uncount(&self) -> Result<()> {
        static UNCOUNT: Statement = Statement::new(
            c"update auth.guesses set count = count - 1 where id = $1 and count > 0",
            &[pg_sys::UUIDOID],
        );
        for counter in self.counters() {
            UNCOUNT.run(&[spi::uuid(counter.id)])?;
        }
        Ok(())
    }
}

impl Counter {
    /// The count and when it expires; `None` where there is none, or it has.
    fn read(&self, snapshot: &LatestSnapshot) -> Option<(i64, i64)> {
        let relations = catalog::relations()?;
        let (count, until) = snapshot.find(relations.guesses, relations.guesses_pkey, self.id, |row| {
            (row.get::<i64>(c"count").unwrap_or(0), row.timestamp(c"expires_at").unwrap_or(0))
        })?;
        (until > clock::now()).then_some((count, until))
    }
}

/// Deletes counts that have expired, some at a time, and returns whether there are more. Carried out by the worker.
pub fn forget_expired() -> Result<bool> {
    const BATCH: i64 = 10_000;
    static EXPIRED: Statement = Statement::new(
        c"delete from auth.guesses where id in (
              select id from auth.guesses where expires_at <= $1 order by expires_at limit $2)",
        &[pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID],
    );
    Ok(EXPIRED.run(&[spi::timestamp(clock::now()), spi::value(BATCH)])? as i64 == BATCH)
}

fn too_many(kind: Kind, until: i64) -> Error {
    let (code, message) = match kind {
        Kind::Message(channel) => (
            channel.rate_limit_error(),
            "too many messages were sent to this address, or were asked for by this client, lately",
        ),
        _ => ("over_request_rate_limit", "there were too many attempts"),
    };
    error(429, code, message).retry_after(clock::seconds_until(until))
}

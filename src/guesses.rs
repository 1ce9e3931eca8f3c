//! Guesses: codes and passwords that somebody tries. Each is counted before it is judged, in a transaction of its
//! own, so that a caller who rolls back has used it up all the same.
//!
//! They are counted by what is guessed at and by the client's address together: a limit on an account alone would
//! let anyone lock its owner out. Codes, which are short, have a much larger limit over all clients besides, since
//! enough clients could try all of a million.
//!
//! `auth.guesses` is written by the worker alone. A count is good for a while from its first guess on, and the row
//! is deleted after that.

use crate::catalog::{self, LatestSnapshot};
use crate::clock;
use crate::error::{Error, Result, error};
use crate::own_transaction::{self, Request, Verdict};
use crate::settings;
use crate::spi::{self, Statement};
use anon_auth_core::client_address::ClientAddress;
use anon_auth_core::digest;
use pgrx::pg_sys;
use serde_json::json;
use uuid::Uuid;

/// What is guessed at.
pub struct Subject {
    kind: Kind,
    /// Purpose and whose it is.
    name: [String; 2],
    user: Option<Uuid>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Code,
    Password,
}

impl Subject {
    /// A short code: `otp_attempt_limit` guesses for each client and `otp_attempt_limit_total` for all, within
    /// `otp_attempt_window`.
    ///
    /// # Arguments
    /// * `purpose` – what the code is good for
    /// * `owner` – who alone can redeem it, such as the user's id. Not the code's own id: a new code gives no new
    ///   guesses.
    pub fn code(purpose: &str, owner: &str) -> Self {
        Self { kind: Kind::Code, name: [purpose.into(), owner.into()], user: None }
    }

    /// The password of an account: `password_attempt_limit` guesses for each client within
    /// `password_attempt_window`.
    ///
    /// # Arguments
    /// * `account` – the normalised address that the caller names, whether or not there is such an account
    pub fn password(account: &str) -> Self {
        Self { kind: Kind::Password, name: ["password".into(), account.into()], user: None }
    }

    /// Names the user whom an entry in the audit log will be about.
    pub fn of_user(self, user: Uuid) -> Self {
        Self { user: Some(user), ..self }
    }
}

/// Counts one guess at `subject` by `client`. To be called before the guess is looked at.
///
/// # Errors
/// `over_request_rate_limit` (PT429) where there were too many already: the guess must not be judged.
/// `worker_unavailable` (PT503) where it could not be counted.
pub fn count(subject: &Subject, client: &ClientAddress) -> Result<()> {
    let guess = Guess::new(subject, client)?;
    // A count above its limit stays there until it expires, and costs the worker nothing.
    if let Some(until) = guess.refused_until() {
        return Err(too_many(until));
    }
    match own_transaction::run(Request::CountGuess(guess))? {
        Verdict::Done => Ok(()),
        Verdict::Refused { until } => Err(too_many(until)),
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
    by_client: Counter,
    total: Option<Counter>,
    /// Microseconds that a count is good for.
    window: i64,
}

#[derive(Clone, Copy, Debug)]
struct Counter {
    /// 128 bits of a SHA-256: neither addresses nor users can be read from the table.
    id: Uuid,
    limit: i64,
}

impl Guess {
    fn new(subject: &Subject, client: &ClientAddress) -> Result<Self> {
        let settings = settings::current()?;
        let kind = match subject.kind {
            Kind::Code => "code",
            Kind::Password => "password",
        };
        let [purpose, owner] = &subject.name;
        let counter = |client: &str, limit: i64| {
            let digest = digest::of_parts(&[kind, purpose, owner, client]);
            Counter { id: Uuid::from_slice(&digest[..16]).unwrap_or_default(), limit }
        };
        let (limit, total, window) = match subject.kind {
            Kind::Code => {
                let total = counter("", settings.otp_attempt_limit_total);
                (settings.otp_attempt_limit, Some(total), settings.otp_attempt_window)
            }
            Kind::Password => (settings.password_attempt_limit, None, settings.password_attempt_window),
        };
        let by_client = counter(&client.to_string(), limit);
        Ok(Self { kind: subject.kind, user: subject.user, client: *client, by_client, total, window })
    }

    fn counters(&self) -> impl Iterator<Item = Counter> {
        [Some(self.by_client), self.total].into_iter().flatten()
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
                    let kind = format!("{:?}", self.kind).to_lowercase();
                    let payload = json!({"kind": kind, "client": self.client.to_string()});
                    crate::audit::record("attempt_limit_reached", self.user, payload)?;
                }
                return Ok(Verdict::Refused { until });
            }
        }
        let now = clock::now();
        for counter in self.counters() {
            COUNT.run(&[spi::uuid(counter.id), spi::timestamp(now), spi::timestamp(now + self.window)])?;
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

/// Deletes counts that have expired, some at a time. Carried out by the worker.
pub fn forget_expired() -> Result<()> {
    static EXPIRED: Statement = Statement::new(
        c"delete from auth.guesses where id in (
              select id from auth.guesses where expires_at <= $1 order by expires_at limit 10000)",
        &[pg_sys::TIMESTAMPTZOID],
    );
    EXPIRED.run(&[spi::timestamp(clock::now())])?;
    Ok(())
}

fn too_many(until: i64) -> Error {
    let seconds = ((until - clock::now()) / 1_000_000 + 1).max(1);
    let wait = match seconds {
        1 => "1 second".into(),
        2..120 => format!("{seconds} seconds"),
        _ => format!("{} minutes", (seconds + 59) / 60),
    };
    error(429, "over_request_rate_limit", "there were too many attempts").hint(format!("Try again in {wait}."))
}

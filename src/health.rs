//! `auth.health`: what a monitoring system asks. Each check reads a few rows by index, whatever the tables hold, and
//! shows numbers and names of objects and roles, never a user's data or a secret.

use crate::cleanup::Limits;
use crate::error::Result;
use crate::function::Args;
use crate::jsonb::Jsonb;
use crate::spi::{Row, Statement};
use crate::{clock, guc, settings, shared_memory, spi, sql_function};
use pgrx::pg_sys;
use serde_json::{Value, json};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Limit attempts that were stopped on this many occasions in a day are more than a few users who mistype.
const MANY_LIMITS_REACHED: i64 = 100;
/// Days after which a key is to be rotated.
const OLD_KEY: i64 = 365;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Status {
    Ok,
    Warning,
    Critical,
}

use Status::{Critical, Warning};

/// Checks that were made.
#[derive(Default)]
struct Checks(Vec<Value>);

impl Checks {
    /// # Arguments
    /// * `value` – `None` where there is nothing to measure
    /// * `description` – what the value is, and what to do about it
    fn add(&mut self, name: &str, value: Option<i64>, unit: &str, status: Status, description: impl Into<String>) {
        let status = match status {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Critical => "critical",
        };
        let description: String = description.into();
        self.0
            .push(json!({"name": name, "value": value, "unit": unit, "status": status, "description": description}));
    }
}

/// `status` where it applies.
fn when(applies: bool, status: Status) -> Status {
    if applies { status } else { Status::Ok }
}

fn health(_: &Args) -> Result<Jsonb> {
    let settings = settings::current()?;
    let limits = Limits::new(&settings);
    let mut checks = Checks::default();
    check_last_cleanup(&mut checks, &limits)?;
    check_expired_guests(&mut checks, &limits)?;
    check_kept_guests(&mut checks)?;
    check_sessions(&mut checks, &limits)?;
    check_keys(&mut checks, &limits)?;
    check_limits(&mut checks, &limits)?;
    check_messages(&mut checks, &limits)?;
    check_settings(&mut checks)?;
    check_owner(&mut checks)?;
    check_objects(&mut checks)?;
    Ok(Jsonb(checks.0.into()))
}
sql_function!(anon_auth_health, health);

fn check_last_cleanup(checks: &mut Checks, limits: &Limits) -> Result<()> {
    static SELECT: Statement = Statement::new(
        c"select (select finished_at from auth.cleanup_runs), exists (select from auth.users where is_anonymous)",
        &[],
    );
    let found = SELECT.first(&[], |row| Ok((time(row, 1), row.get(2) == Some(true))))?;
    let (last_run, has_guests) = found.unwrap_or_default();
    let age = last_run.map(|at| (limits.now - at).max(0));
    let status = match age {
        None => when(has_guests, Warning),
        Some(age) if age > 7 * DAY => Critical,
        Some(age) => when(age > DAY, Warning),
    };
    let description = match age {
        None => "Clean-up has never gone through on this server: SELECT auth.schedule_cleanup();",
        Some(_) => {
            "Since clean-up last went through. If that is long: is it scheduled, and what does cron.job_run_details say?"
        }
    };
    checks.add("cleanup_last_run", age.map(|age| age / SECOND), "seconds", status, description);
    Ok(())
}

fn check_expired_guests(checks: &mut Checks, limits: &Limits) -> Result<()> {
    // Those with device keys are never out of reach; clean-up has not yet met all of them.
    static SELECT: Statement = Statement::planned_for_values(
        c"select pg_catalog.count(*), pg_catalog.min(c.active_on)
          from (select u.id, u.created_at, coalesce(u.last_active_on, (u.created_at at time zone 'UTC')::date) as active_on
                from auth.users u
                where u.is_anonymous and u.cleanup_blocked_at is null
                  and coalesce(u.last_active_on, (u.created_at at time zone 'UTC')::date) <= $1
                order by coalesce(u.last_active_on, (u.created_at at time zone 'UTC')::date) limit 1000) c
          where c.created_at <= $2
            and not ($3 and exists (select from auth.device_keys d where d.user_id = c.id offset 0))",
        &[pg_sys::DATEOID, pg_sys::TIMESTAMPTZOID, pg_sys::BOOLOID],
    );
    let values = [
        Some(pg_sys::Datum::from(limits.idle_since)),
        spi::timestamp(limits.created_by),
        spi::value(limits.unreachable_only),
    ];
    let found = SELECT.first(&values, |row| {
        let oldest = row.get::<pgrx::datum::Date>(2).map(|date| date.to_pg_epoch_days());
        Ok((row.get::<i64>(1).unwrap_or(0), oldest))
    })?;
    let (count, oldest) = found.unwrap_or_default();
    let overdue = oldest.map(|day| i64::from(limits.idle_since.saturating_sub(day)));
    let status = when(overdue.is_some_and(|days| days > 1), Warning);
    checks.add(
        "expired_guests",
        Some(count),
        "guests",
        status,
        "Guests whom clean-up may delete; 1000 stands for that many or more.",
    );
    checks.add("oldest_expired_guest", overdue, "days", status, "For how long the one that has waited longest could have been deleted. More than a day: clean-up does not run, or does not keep up.");
    Ok(())
}

fn check_kept_guests(checks: &mut Checks) -> Result<()> {
    // Not those whom clean-up has set aside because they can come back.
    static COUNT: Statement = Statement::new(
        c"select pg_catalog.count(*)
          from (select id from auth.users where is_anonymous and cleanup_blocked_at is not null limit 1000) u
          where not exists (select from auth.device_keys d where d.user_id = u.id offset 0)
            and not exists (select from auth.one_time_tokens t
                            where t.user_id = u.id and t.expires_at > pg_catalog.clock_timestamp() offset 0)",
        &[],
    );
    // Not what an error said: that is an application's, and may quote rows.
    static TABLES: Statement = Statement::new(
        c"select pg_catalog.string_agg(
                     pg_catalog.concat(t.value->>'table', ' (', coalesce(t.value->>'constraint', t.value->>'sqlstate'), ')'),
                     ', ')
          from (select e.payload
                from (select action, payload, created_at from auth.audit_log_entries order by created_at desc limit 1000) e
                where e.action = 'cleanup' and e.payload->'by_table' <> '[]'
                order by e.created_at desc limit 1) l,
               lateral pg_catalog.jsonb_array_elements(l.payload->'by_table') t",
        &[],
    );
    let kept = count(&COUNT, &[])?;
    let tables = TABLES.first(&[], |row| Ok(row.get::<String>(1)))?.flatten();
    let description = match tables.filter(|_| kept > 0) {
        Some(tables) => format!("Expired guests that clean-up had to leave, lately for rows of {tables}. See auth.users.cleanup_blocked_at."),
        None => "Expired guests that clean-up had to leave, for rows of application tables; 1000 stands for that many or more.".into(),
    };
    let spares = settings::current()?.cleanup_spare_owners;
    checks.add("kept_guests", Some(kept), "guests", when(kept > 0 && !spares, Warning), description);
    Ok(())
}

fn check_sessions(checks: &mut Checks, limits: &Limits) -> Result<()> {
    static ENDED: Statement = Statement::planned_for_values(
        c"select pg_catalog.count(*)
          from (select from auth.sessions where active_on < $1 order by active_on limit 1000) s",
        &[pg_sys::DATEOID],
    );
    static REVOKED: Statement = Statement::new(
        c"select pg_catalog.count(*)
          from (select from auth.session_revocations where revoked_at < $1 limit 1000) r",
        &[pg_sys::TIMESTAMPTZOID],
    );
    let ended = count(&ENDED, &[Some(pg_sys::Datum::from(clock::day(limits.session_refreshed_by) - 1))])?;
    let revoked = count(&REVOKED, &[spi::timestamp(limits.now - 2 * DAY)])?;
    checks.add("ended_sessions", Some(ended), "sessions", when(ended > 0, Warning), "Sessions that ended more than a day ago and that clean-up has not removed; 1000 stands for that many or more.");
    checks.add("revoked_sessions", Some(revoked), "sessions", when(revoked > 0, Warning), "Sessions that were revoked more than two days ago and that clean-up has not removed; 1000 stands for that many or more.");
    Ok(())
}

fn check_keys(checks: &mut Checks, limits: &Limits) -> Result<()> {
    static CURRENT: Statement = Statement::new(
        c"select (select status_changed_at from auth.signing_keys where status = 'current' and purpose = 'access_token'),
                 (select status_changed_at from auth.signing_keys where status = 'current' and purpose = 'refresh_token')",
        &[],
    );
    static KEYS: Statement = Statement::new(
        c"select pg_catalog.count(*) filter (where not sealed), pg_catalog.count(*) filter (where sealed)
          from auth.signing_keys where status <> 'revoked'",
        &[],
    );
    let since = CURRENT.first(&[], |row| Ok((time(row, 1), time(row, 2))))?.unwrap_or_default();
    let days = |since: Option<i64>| since.map(|at| ((limits.now - at) / DAY).max(0));
    for (name, days, description) in [
        (
            "access_token_key_age",
            days(since.0),
            "For how long the key that signs access tokens has been in use; none: it is made at the first sign-in. After a year: SELECT auth.rotate_signing_key();",
        ),
        (
            "refresh_token_key_age",
            days(since.1),
            "For how long the key of refresh tokens has been in use. Revoking it ends every session, so that is for when it may have become known.",
        ),
    ] {
        let is_old = name == "access_token_key_age" && days.is_some_and(|days| days > OLD_KEY);
        checks.add(name, days, "days", when(is_old, Warning), description);
    }
    let found = KEYS.first(&[], |row| Ok((row.get::<i64>(1).unwrap_or(0), row.get::<i64>(2).unwrap_or(0))))?;
    let (unsealed, sealed) = found.unwrap_or_default();
    let has_key_file = guc::key_file().is_some();
    let description = match has_key_file {
        true => "Private keys stored as they are, though there is a key file: SELECT auth.seal_signing_keys();",
        false => "Private keys stored as they are: whoever reads a dump can mint tokens. Set anon_auth.key_file.",
    };
    checks.add("unsealed_keys", Some(unsealed), "keys", when(unsealed > 0, Warning), description);
    let unreadable = if has_key_file { 0 } else { sealed };
    checks.add(
        "keys_without_key_file",
        Some(unreadable),
        "keys",
        when(unreadable > 0, Critical),
        "Private keys that are sealed, though anon_auth.key_file is not set here: nobody can sign in.",
    );
    Ok(())
}

fn check_limits(checks: &mut Checks, limits: &Limits) -> Result<()> {
    static REACHED: Statement = Statement::planned_for_values(
        c"select pg_catalog.count(*) filter (where e.action = 'attempt_limit_reached')
          from (select action from auth.audit_log_entries where created_at > $1 order by created_at desc limit 10000) e",
        &[pg_sys::TIMESTAMPTZOID],
    );
    let reached = count(&REACHED, &[spi::timestamp(limits.now - DAY)])?;
    checks.add("attempt_limits_reached", Some(reached), "times", when(reached >= MANY_LIMITS_REACHED, Warning), "How often in 24 hours somebody reached a limit on codes, passwords or messages, as the last 10000 entries of the audit log have it. Many: somebody is guessing.");
    let shared = shared_memory::get();
    checks.add(
        "refused_calls",
        Some(shared.refused_calls.count()),
        "calls",
        Status::Ok,
        "How many calls rate limits have refused in all databases since the server started.",
    );
    let lately = shared.refused_writes.last_at().is_some_and(|at| at > limits.now - HOUR);
    checks.add("refused_writes", Some(shared.refused_writes.count()), "calls", when(lately, Warning), "How many calls failed with worker_unavailable in all databases since the server started. If there was one in the last hour: raise max_worker_processes, or see the server's log.");
    Ok(())
}

fn check_messages(checks: &mut Checks, limits: &Limits) -> Result<()> {
    static WAITING: Statement = Statement::planned_for_values(
        c"select pg_catalog.min(m.available_at)
          from (select available_at from auth.messages
                where status = 'pending' and available_at <= $1 and expires_at > $1
                order by available_at limit 1) m",
        &[pg_sys::TIMESTAMPTZOID],
    );
    static FAILED: Statement = Statement::planned_for_values(
        c"select pg_catalog.count(*) filter (where m.status = 'failed')
          from (select status from auth.messages where finished_at > $1 order by finished_at desc limit 10000) m",
        &[pg_sys::TIMESTAMPTZOID],
    );
    let oldest = WAITING.first(&[spi::timestamp(limits.now)], |row| Ok(time(row, 1)))?.flatten();
    let waiting = oldest.map(|at| (limits.now - at).max(0));
    let failed = count(&FAILED, &[spi::timestamp(limits.now - DAY)])?;
    checks.add("message_waiting", waiting.map(|time| time / SECOND), "seconds", when(waiting.is_some_and(|time| time > 5 * MINUTE), Warning), "For how long the message that has waited longest has been due. More than five minutes: no worker claims messages.");
    checks.add(
        "messages_failed",
        Some(failed),
        "messages",
        when(failed > 0, Warning),
        "Messages given up in 24 hours, among the last 10000. SELECT * FROM auth.outbox WHERE status = 'failed';",
    );
    Ok(())
}

fn check_settings(checks: &mut Checks) -> Result<()> {
    static WEAKENED: Statement = Statement::new(
        c"with given as (
              select pg_catalog.split_part(c, '=', 1) as name,
                     pg_catalog.lower(pg_catalog.split_part(c, '=', 2)) as value,
                     pg_catalog.concat(
                         case s.setrole when 0 then ' for all roles' else ' for role ' || s.setrole::pg_catalog.regrole::text end,
                         case s.setdatabase when 0 then '' else ' in this database' end) as whom
              from pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c
              where s.setdatabase = 0
                 or s.setdatabase = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
              union all
              select name, setting, ' for the server' from pg_catalog.pg_settings
              where source in ('configuration file', 'command line', 'environment variable')
          )
          select pg_catalog.count(*), pg_catalog.string_agg(name || ' = ' || value || whom, ', ' order by name, whom)
          from given
          where (name in ('anon_auth.check_session', 'anon_auth.switch_role') and value ~ '^(of|off|f.*|n.*|0)$')
             or (name = 'anon_auth.trust_request_claims' and value ~ '^(on|t.*|y.*|1)$')",
        &[],
    );
    let (weakened, which) = count_and_names(&WEAKENED)?;
    let description = format!(
        "Settings that take away from what tokens protect{which}. Each is a choice of the administrator's; it should be a known one."
    );
    checks.add("weakened_settings", Some(weakened), "settings", when(weakened > 0, Warning), description);
    Ok(())
}

fn check_owner(checks: &mut Checks) -> Result<()> {
    static MEMBERS: Statement = Statement::new(
        c"select pg_catalog.count(distinct m.member), pg_catalog.string_agg(distinct m.member::pg_catalog.regrole::text, ', ')
          from pg_catalog.pg_auth_members m
          join pg_catalog.pg_namespace n on n.nspname = 'auth' and n.nspowner = m.roleid",
        &[],
    );
    let (members, which) = count_and_names(&MEMBERS)?;
    let description = format!(
        "Members of the role that owns the schema auth{which}: they can read every signing key. REVOKE the memberships."
    );
    checks.add("owner_role_members", Some(members), "roles", when(members > 0, Critical), description);
    Ok(())
}

fn check_objects(checks: &mut Checks) -> Result<()> {
    static CHANGED: Statement = Statement::new(
        c"with member as (
              select d.classid, d.objid as oid, coalesce(c.relowner, p.proowner) as owner, coalesce(c.relacl, p.proacl) as acl,
                     coalesce(c.relkind = 'r', false) as is_table
              from pg_catalog.pg_extension e
              join pg_catalog.pg_depend d on d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
                                         and d.refobjid = e.oid and d.deptype = 'e'
              left join pg_catalog.pg_class c on d.classid = c.tableoid and c.oid = d.objid and c.relkind in ('r', 'v')
              left join pg_catalog.pg_proc p on d.classid = p.tableoid and p.oid = d.objid
              where e.extname = 'anon_auth' and coalesce(c.oid, p.oid) is not null
          ), changed as (
              select m.classid, m.oid, true as owner_changed from member m
              join pg_catalog.pg_namespace n on n.nspname = 'auth' and n.nspowner <> m.owner
              union
              select m.classid, m.oid, false
              from member m
              join lateral pg_catalog.aclexplode(m.acl) a on a.grantee <> m.owner
              left join pg_catalog.pg_roles r on r.oid = a.grantee
              where r.rolname is distinct from 'service_role' and r.rolname is distinct from 'pg_monitor'
                -- Whom an administrator lets call a function or read a view is the administrator's business.
                and (m.is_table or a.grantee = 0
                     or exists (select from pg_catalog.pg_roles w
                                where w.rolname in ('anon', 'authenticated')
                                  and pg_catalog.pg_has_role(w.oid, a.grantee, 'member')))
                and not exists (
                    select from pg_catalog.pg_init_privs i, pg_catalog.aclexplode(i.initprivs) b
                    where i.classoid = m.classid and i.objoid = m.oid and i.objsubid = 0
                      and b.grantee = a.grantee and b.privilege_type = a.privilege_type)
          )
          select pg_catalog.count(distinct (classid, oid)),
                 pg_catalog.string_agg(distinct pg_catalog.pg_describe_object(classid, oid, 0), ', '),
                 coalesce(pg_catalog.bool_or(owner_changed), false)
          from changed",
        &[],
    );
    let found =
        CHANGED.first(&[], |row| Ok((row.get::<i64>(1).unwrap_or(0), names(row), row.get(3) == Some(true))))?;
    let (changed, which, is_owner_changed) = found.unwrap_or_default();
    let description = format!(
        "Tables, views and functions of the extension that belong to another role than its owner, or that clients were granted beyond what they have from the start, and tables that anybody was granted{which}."
    );
    let status = if is_owner_changed { Critical } else { when(changed > 0, Warning) };
    checks.add("changed_objects", Some(changed), "objects", status, description);
    Ok(())
}

/// The first column, a number.
fn count(statement: &Statement, values: &[spi::Value]) -> Result<i64> {
    Ok(statement.first(values, |row| Ok(row.get::<i64>(1)))?.flatten().unwrap_or(0))
}

/// The first column, a number, and the second, names, for a description.
fn count_and_names(statement: &Statement) -> Result<(i64, String)> {
    let found = statement.first(&[], |row| Ok((row.get::<i64>(1).unwrap_or(0), names(row))))?;
    Ok(found.unwrap_or_default())
}

/// The second column, names, to be put behind a noun.
fn names(row: &Row) -> String {
    row.get::<String>(2).map(|names| format!(" ({names})")).unwrap_or_default()
}

/// Column `n`, a time, in microseconds since Postgres's epoch.
fn time(row: &Row, n: i32) -> Option<i64> {
    row.get::<pgrx::datum::TimestampWithTimeZone>(n).map(i64::from)
}

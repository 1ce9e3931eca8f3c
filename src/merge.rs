//! Merge: a guest signs in to an account that exists, and what it has comes along.

mod collisions;
mod references;
mod report;
mod rows;
mod rules;

use crate::error::{Error, Result, error, invalid};
use crate::function::{Args, writes};
use crate::hooks::{self, Hook};
use crate::settings::{self, Settings};
use crate::spi::{self, Statement};
use crate::{as_owner, catalog, claims, clock, deletion, guc, lazy_guests, sessions, sql_function, users, worker};
use pgrx::{JsonB, pg_sys};
use references::{Keys, Selection};
use report::Side;
use rows::{Mover, Whose};
use rules::{Followed, Function, Rule, Rules};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::time::Duration;
use uuid::Uuid;

/// How long to try again when others hold rows, in microseconds.
const PATIENCE: i64 = 10_000_000;
/// How long to wait for one lock, in milliseconds. Less than it takes others to find that they wait for us and we
/// for them: then we let go, not they.
const LOCK_TIMEOUT: i32 = 200;
/// How long others get to go on; the next time twice as long, since somebody may hold a row for long,
/// and everybody else is to get on with a table that is locked for it.
const PAUSE: Duration = Duration::from_millis(50);
/// How often to try again when another's row came in between.
const RACES: u32 = 3;

/// The two users.
struct Pair {
    guest: Uuid,
    account: Uuid,
}

fn merge_anonymous_user(args: &Args) -> Result<JsonB> {
    writes(c"auth.merge_anonymous_user()");
    let token = args.text(0)?.filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| invalid("the guest's token is missing"))?;
    let on_conflict = args.text(1)?.unwrap_or_else(|| "account".into());
    let preferred = match Side::named(&on_conflict) {
        Some(side) => side,
        None => {
            return Err(invalid(format!("\"{on_conflict}\" does not say whose row stays where two collide")).hint(
                "on_conflict is account or guest; to replace all rows of a table, see auth.set_merge_rule().",
            ));
        }
    };
    let dry_run = args.get::<bool>(2).unwrap_or(false);

    let (account, _) = lazy_guests::stored_caller()?;
    let guest = sessions::bearer(&token)?;
    if guest == account {
        return Err(invalid("the guest to merge is the signed-in user itself")
            .hint("Sign in to the account first, and pass a token of the guest."));
    }
    let pair = Pair { guest, account };
    // Before the first code of an application's, and where no rollback of an attempt can undo it.
    as_owner::settle_constraints()?;
    let report = attempt(|contended| {
        let mut report = None;
        let tried = spi::subtransaction(|| {
            report = Some(merge(&pair, &token, preferred, dry_run, contended)?);
            // The real thing, rolled back: no estimate could know what triggers and constraints will do.
            if dry_run { Err(error(500, "dry_run", "rolled back")) } else { Ok(()) }
        })?;
        match (tried, report) {
            (Ok(()), Some(report)) => Ok(report),
            (Err(error), Some(report)) if dry_run => {
                error.discard();
                Ok(report)
            }
            (Err(error), _) => Err(error),
            (Ok(()), None) => Err(error(500, "internal_error", "the merge reports nothing")),
        }
    })?;
    Ok(JsonB(report))
}
sql_function!(anon_auth_merge_anonymous_user, merge_anonymous_user);

/// Tries until nobody else is in the way.
///
/// # Arguments
/// * `body` – one attempt; it is given the tables in whose rows others got in the way
fn attempt(mut body: impl FnMut(&BTreeSet<String>) -> Result<Value>) -> Result<Value> {
    // The caller's own limit counts, too.
    let patience = match unsafe { pg_sys::LockTimeout } {
        0 => PATIENCE,
        limit => PATIENCE.min(i64::from(limit) * 1000),
    };
    let give_up = clock::now() + patience;
    let mut contended = BTreeSet::new();
    let (mut races, mut pause) = (0, PAUSE);
    loop {
        let failed = match body(&contended) {
            Ok(report) => return Ok(report),
            Err(failed) => failed,
        };
        // Somebody holds a row, or waits for us as we do for them; or a row came in that collides.
        let is_locked = matches!(failed.sqlstate().as_str(), "40P01" | "55P03") && clock::now() < give_up;
        let is_race = matches!(failed.sqlstate().as_str(), "23505" | "23P01") || failed.has_code("conflict");
        races += u32::from(is_race);
        if !is_locked && (!is_race || races > RACES) {
            return Err(explained(failed));
        }
        contended.extend(failed.table().map(str::to_owned));
        failed.discard();
        worker::pause(pause);
        pause *= 2;
    }
}

/// The error with the table that it is about. The message of the application's own, but not its details: they show
/// rows that the caller may not be allowed to see.
fn explained(failed: Error) -> Error {
    let state = failed.sqlstate();
    let is_the_servers = failed.is_interrupt() || ["40001", "40P01"].contains(&state.as_str());
    let is_the_servers = is_the_servers || ["53", "57", "58", "XX"].iter().any(|class| state.starts_with(class));
    let is_ours = matches!(failed, Error::Ours(_));
    let Some(table) = failed.table().filter(|_| !is_the_servers && !is_ours).map(str::to_owned) else {
        return failed;
    };
    let explained = match failed.is_lock_timeout() {
        true => error(409, "conflict", format!("rows of table {table} are locked by somebody else"))
            .hint("Nothing was changed. Try again."),
        false => error(409, "merge_failed", format!("table {table}: {}", failed.message())).hint(
            "Nothing was changed. A constraint or a trigger of the table is in the way; see auth.set_merge_rule().",
        ),
    };
    failed.discard();
    explained.about(&table, "")
}

/// One attempt.
///
/// Those who wrote a contended table, and then wait for the users' rows, have to be waited for before those are
/// locked; and nobody must write it anew meanwhile, or there would be no end to it.
fn merge(pair: &Pair, token: &str, preferred: Side, dry_run: bool, contended: &BTreeSet<String>) -> Result<Value> {
    if contended.is_empty() {
        lock(pair, token)?;
    } else {
        with_short_waits(|| {
            for table in contended {
                if let Some(relation) = find_table(table)? {
                    catalog::lock_against_writers(relation).map_err(|error| error.about(table, ""))?;
                }
            }
            lock(pair, token)
        })?;
    }
    merge_locked(pair, token, preferred, dry_run)
}

/// The table of that qualified and quoted name, in whatever schema: to_regclass() would ask for a right to use it.
fn find_table(name: &str) -> Result<Option<pg_sys::Oid>> {
    static FIND: Statement = Statement::latest(
        c"select t.oid from pg_catalog.pg_class t join pg_catalog.pg_namespace n on n.oid = t.relnamespace
          where pg_catalog.format('%I.%I', n.nspname, t.relname) = $1",
        &[pg_sys::TEXTOID],
    );
    Ok(FIND.first(&[spi::value(name)], |row| Ok(row.get(1)))?.flatten())
}

fn merge_locked(pair: &Pair, token: &str, preferred: Side, dry_run: bool) -> Result<Value> {
    let settings = settings::current()?;
    let event = event(pair, preferred, dry_run)?;
    if let Some(event) = &event {
        hooks::run(Hook::BeforeMerge, event.clone())?;
        // It may have done anything to either of them.
        lock(pair, token)?;
    }
    let keys = deletion::lock_foreign_keys()?;
    let rules = Rules::load()?;
    let (followed, ignored): (Vec<_>, Vec<_>) =
        rules::followed()?.into_iter().partition(|table| !matches!(rules.of(table.table.relation), Rule::Ignore));
    let whose = followed.iter().map(|table| {
        let conditions = ["$3", "$4"].map(|user| is_of(table, user));
        (table.table.relation, Whose { conditions, users: [pair.guest.to_string(), pair.account.to_string()] })
    });
    let mut mover = Mover::new(rules, preferred, whose.collect());
    let (identities, guest_deleted) = with_short_waits(|| {
        count_rows(pair, &followed, &mut mover)?;
        if !settings.merge_keep_guests {
            drop_ignored(pair, &ignored, &mut mover)?;
        }
        move_rows(pair, &followed, &mut mover)?;
        let identities = take_over(pair, preferred, &settings)?;
        if settings.merge_keep_guests {
            end_access(pair.guest)?;
        } else {
            deletion::delete_unreferenced(&[pair.guest], keys)?;
        }
        // Again, for a trigger may have put rows back into any of the tables.
        for table in &followed {
            check_nothing_left(pair, table)?;
        }
        Ok((identities, !settings.merge_keep_guests))
    })?;
    let mut report = json!({
        "guest": pair.guest.to_string(),
        "account": pair.account.to_string(),
        "on_conflict": preferred.name(),
        "tables": mover.report.to_json(),
        "identities": identities,
        "guest_deleted": guest_deleted,
    });
    crate::audit::record("user_merged", Some(pair.guest), report.clone())?;
    if let Some(mut event) = event {
        event["tables"] = report["tables"].clone();
        event["guest_deleted"] = guest_deleted.into();
        hooks::run(Hook::UserMerged, event)?;
    }
    report["dry_run"] = dry_run.into();
    Ok(report)
}

/// What both hooks are told, where one is set: the two users as they were before.
fn event(pair: &Pair, preferred: Side, dry_run: bool) -> Result<Option<Value>> {
    if !hooks::is_set(Hook::BeforeMerge) && !hooks::is_set(Hook::UserMerged) {
        return Ok(None);
    }
    let user = |id| -> Result<Value> {
        let user = users::find(id)?.ok_or_else(claims::not_signed_in)?;
        Ok(user.to_json(users::identities(id)?))
    };
    let on_conflict = preferred.name();
    let event = json!({"guest": user(pair.guest)?, "user": user(pair.account)?, "on_conflict": on_conflict, "dry_run": dry_run});
    Ok(Some(event))
}

/// Locks both users, and asks again who they are, now that nobody can change it.
fn lock(pair: &Pair, token: &str) -> Result<()> {
    // Everybody who locks two users locks them in this order.
    let (first, second) = (pair.guest.min(pair.account), pair.guest.max(pair.account));
    users::lock_for_deletion(first)?;
    users::lock_for_deletion(second)?;
    sessions::lock_all(pair.guest)?;
    let (account, _) = claims::require()?;
    let guest = sessions::bearer(token)?;
    if (guest, account) != (pair.guest, pair.account) {
        return Err(error(409, "conflict", "somebody else signed in meanwhile"));
    }
    if users::find(account)?.is_none() {
        return Err(error(401, "user_not_found", "the user of the access token does not exist any more"));
    }
    if !users::find(guest)?.is_some_and(|guest| guest.is_anonymous) {
        return Err(error(403, "not_anonymous", "only a guest can be merged into another account")
            .hint("The token passed belongs to a permanent user."));
    }
    Ok(())
}

/// Runs `body` with a short limit on each wait for a lock.
fn with_short_waits<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let limit = unsafe { LOCK_TIMEOUT.min((pg_sys::DeadlockTimeout / 2).max(1)) };
    let limit = CString::new(limit.to_string()).unwrap_or_default();
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        guc::set(c"lock_timeout", &limit, pg_sys::GucContext::PGC_USERSET, pg_sys::GucAction::GUC_ACTION_SAVE);
        let result = body()?;
        pg_sys::AtEOXact_GUC(false, level);
        Ok(result)
    }
}

/// Counts what is there before anything moves, and refuses what cannot be moved.
fn count_rows(pair: &Pair, followed: &[Followed], mover: &mut Mover) -> Result<()> {
    let keys = Keys::one(pair.guest.to_string(), pair.account.to_string());
    for table in followed {
        let rule = mover.rule(table.table.relation);
        let (guest, account) = count(pair, table)?;
        if guest > 0 && matches!(rule, Rule::Merge | Rule::Sum(_)) {
            for reference in &table.references {
                collisions::check_exclusions(reference, &keys)?;
            }
        }
        let name = rule.name();
        mover.report.found(&table.table.name, name, guest, account);
    }
    Ok(())
}

/// Does to the guest's rows in tables that are not followed what their foreign keys say when the guest goes. First:
/// rows that hang on them are still known for the guest's.
fn drop_ignored(pair: &Pair, ignored: &[Followed], mover: &mut Mover) -> Result<()> {
    let foreign_keys = ignored.iter().flat_map(|table| &table.references);
    for reference in foreign_keys.filter(|reference| reference.constraint.is_some()) {
        let guest = pair.guest.to_string();
        mover.apply_delete_action(reference, &Keys::one(guest.clone(), guest), Side::Guest)?;
    }
    Ok(())
}

fn move_rows(pair: &Pair, followed: &[Followed], mover: &mut Mover) -> Result<()> {
    let keys = Keys::one(pair.guest.to_string(), pair.account.to_string());
    for table in followed {
        let (guest, account) = match mover.rule(table.table.relation) {
            Rule::Function(_) | Rule::FunctionMissing(_) => count(pair, table)?,
            _ => continue,
        };
        match mover.rule(table.table.relation) {
            Rule::Function(function) => call(function, pair, table)?,
            Rule::FunctionMissing(name) if guest > 0 => return Err(function_missing(name, table)),
            _ => {}
        }
        let (_, after) = count(pair, table)?;
        let account_deleted = account.saturating_sub(after);
        let guest_deleted = (guest + account).saturating_sub(after.max(account));
        mover.report.deleted(&table.table.name, "function", guest_deleted, account_deleted, 0);
    }
    // Tables whose rows reference those of others go first, so that nothing keeps those.
    for table in followed.iter().rev() {
        let loser = match mover.rule(table.table.relation) {
            Rule::KeepAccount => Side::Guest,
            Rule::KeepGuest if count(pair, table)?.0 > 0 => Side::Account,
            _ => continue,
        };
        mover.delete(&table.references[0], rows_of(pair, table, loser), loser)?;
    }
    let moved = followed.iter().filter(|table| mover.rule(table.table.relation).name() != "function");
    let moved: Vec<_> = moved.flat_map(|table| &table.references).collect();
    for reference in moved {
        mover.repoint(reference, &keys, Side::Guest)?;
    }
    for table in followed {
        check_nothing_left(pair, table)?;
    }
    Ok(())
}

/// SQL for "the row `t` is the user's", who is the parameter of that number.
fn is_of(table: &Followed, parameter: &str) -> String {
    let any: Vec<_> =
        table.references.iter().map(|reference| reference.condition(|_| parameter.to_owned())).collect();
    format!("({})", any.join(" or "))
}

/// The rows of one user that are not the other's as well.
fn rows_of(pair: &Pair, table: &Followed, side: Side) -> Selection {
    let (own, other) = if side == Side::Guest { ("$1", "$2") } else { ("$2", "$1") };
    Selection {
        from: String::new(),
        condition: format!("{} and {} is not true", is_of(table, own), is_of(table, other)),
        types: vec![pg_sys::TEXTOID; 2],
        values: vec![spi::value(pair.guest.to_string()), spi::value(pair.account.to_string())],
    }
}

/// The rows of the guest and those that are the account's only.
fn count(pair: &Pair, table: &Followed) -> Result<(u64, u64)> {
    let (guest, account) = (is_of(table, "$1"), is_of(table, "$2"));
    let sql = format!(
        "select pg_catalog.count(*) filter (where {guest}), pg_catalog.count(*) filter (where {guest} is not true)
         from {} as t where {guest} or {account}",
        table.table.target
    );
    let mut counts = (0, 0);
    table.references[0].run(&sql, &rows_of(pair, table, Side::Guest), |row| {
        let number = |n| row.get::<i64>(n).unwrap_or(0) as u64;
        counts = (number(1), number(2));
        Ok(())
    })?;
    Ok(counts)
}

/// # Errors
/// `merge_conflict` where rows of the guest are left in the table.
fn check_nothing_left(pair: &Pair, table: &Followed) -> Result<()> {
    for reference in &table.references {
        let guest = pair.guest.to_string();
        let rows = reference.rows(&Keys::one(guest.clone(), guest));
        if rows::exists(reference, &rows)? {
            let message = format!("rows of the guest are left in table {}", table.table.name);
            return Err(error(409, "merge_conflict", message)
                .about(&table.table.name, &reference.name)
                .hint("A trigger or the function of the table's merge rule kept them or put them back."));
        }
        // A foreign key is about the one table. A registered column may be meant for those that inherit it, too.
        if reference.constraint.is_none() && rows::exists_in_heirs(reference, &rows)? {
            let message = format!("rows of the guest are left in a table that inherits from {}", table.table.name);
            return Err(error(409, "merge_conflict", message)
                .about(&table.table.name, &reference.name)
                .hint("Register the column for that table, too: auth.set_merge_rule()."));
        }
    }
    Ok(())
}

fn function_missing(name: &str, table: &Followed) -> Error {
    let table = &table.table.name;
    let message = format!("the merge rule of table {table} names a function {name} that does not exist");
    error(409, "merge_rule_invalid", message).about(table, "").hint("See auth.set_merge_rule().")
}

/// Calls the function of a rule, as its owner.
fn call(function: &Function, pair: &Pair, table: &Followed) -> Result<()> {
    static FIND: Statement =
        Statement::latest(c"select pg_catalog.to_regprocedure($1)::pg_catalog.oid", &[pg_sys::TEXTOID]);
    static HAS_FOREIGN_TEMPORARY_TABLES: Statement = Statement::latest(
        c"select exists (select from pg_catalog.pg_class t
                         where t.relnamespace = pg_catalog.pg_my_temp_schema() and t.relowner <> $1)",
        &[pg_sys::OIDOID],
    );
    let refused = |why: &str| {
        let message = format!("function {} of the merge rule of table {} {why}", function.name, table.table.name);
        error(409, "merge_conflict", message).about(&table.table.name, "")
    };
    let yes = HAS_FOREIGN_TEMPORARY_TABLES.first(&[spi::value(function.owner)], |row| Ok(row.get(1)))?;
    if yes.flatten() == Some(true) {
        return Err(refused("might find temporary tables of this session").hint("Use a session without them."));
    }
    let sql = CString::new(format!("select {}($1, $2)", function.name)).unwrap_or_default();
    as_owner::run(function.owner, || {
        let check = || {
            let found = FIND.first(&[spi::value(function.signature.as_str())], |row| Ok(row.get(1)))?;
            match found.flatten() == Some(function.oid) {
                true => Ok(()),
                false => Err(refused("was replaced meanwhile")),
            }
        };
        let types = [pg_sys::UUIDOID, pg_sys::UUIDOID];
        spi::run_checked(&sql, &types, &[spi::uuid(pair.guest), spi::uuid(pair.account)], check, |_| Ok(()))
    })
    .map_err(|error| match error {
        Error::Postgres(..) => error.about(&table.table.name, ""),
        ours => ours,
    })?;
    Ok(())
}

/// Metadata and identities of the guest become the account's. Returns what became of the identities.
fn take_over(pair: &Pair, preferred: Side, settings: &Settings) -> Result<Value> {
    // App metadata is the administrators', and stays.
    static METADATA: Statement = Statement::new(
        c"update auth.users a
          set raw_user_meta_data = m.merged, updated_at = pg_catalog.clock_timestamp()
          from (select case when pg_catalog.octet_length(m.united::text) <= $4 then m.united
                            when $3 then g.raw_user_meta_data else o.raw_user_meta_data end as merged
                from auth.users g
                join auth.users o on o.id = $2
                cross join lateral (
                    select case when $3 then o.raw_user_meta_data || g.raw_user_meta_data
                                else g.raw_user_meta_data || o.raw_user_meta_data end as united) m
                where g.id = $1) m
          where a.id = $2 and a.raw_user_meta_data <> m.merged",
        &[pg_sys::UUIDOID, pg_sys::UUIDOID, pg_sys::BOOLOID, pg_sys::INT8OID],
    );
    static IDENTITIES: Statement = Statement::new(
        c"update auth.identities i
          set user_id = $2, updated_at = pg_catalog.clock_timestamp()
          where i.user_id = $1
            and not exists (select from auth.identities o where o.user_id = $2 and o.provider = i.provider)",
        &[pg_sys::UUIDOID, pg_sys::UUIDOID],
    );
    static LEFT: Statement = Statement::new(c"select from auth.identities where user_id = $1", &[pg_sys::UUIDOID]);
    let users = [spi::uuid(pair.guest), spi::uuid(pair.account)];
    METADATA.run(&[
        users[0],
        users[1],
        spi::value(preferred == Side::Guest),
        spi::value(settings.user_metadata_limit),
    ])?;
    let moved = IDENTITIES.run(&users)?;
    Ok(json!({"moved": moved, "dropped": LEFT.run(&users[..1])?}))
}

/// Ends every way by which a guest that is kept could come back.
fn end_access(guest: Uuid) -> Result<()> {
    static SESSIONS: Statement = Statement::new(c"delete from auth.sessions where user_id = $1", &[pg_sys::UUIDOID]);
    static CODES: Statement =
        Statement::new(c"delete from auth.one_time_tokens where user_id = $1", &[pg_sys::UUIDOID]);
    static KEYS: Statement = Statement::new(c"delete from auth.device_keys where user_id = $1", &[pg_sys::UUIDOID]);
    static IDENTITIES: Statement =
        Statement::new(c"delete from auth.identities where user_id = $1", &[pg_sys::UUIDOID]);
    static MESSAGES: Statement = Statement::new(c"delete from auth.messages where user_id = $1", &[pg_sys::UUIDOID]);
    for statement in [&SESSIONS, &CODES, &KEYS, &IDENTITIES, &MESSAGES] {
        statement.run(&[spi::uuid(guest)])?;
    }
    Ok(())
}

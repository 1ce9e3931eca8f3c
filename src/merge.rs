//! Merge: a guest signs in to an account that exists, and what it has comes along.

mod collisions;
mod constraints;
mod contention;
mod dropping;
mod followed;
mod image;
mod mover;
mod pair;
mod references;
mod report;
mod rows;
mod rules;

use crate::error::{Result, error, invalid};
use crate::foreign_keys::ForeignKey;
use crate::function::{Args, writes};
use crate::hooks::{self, Hook};
use crate::{as_owner, deletion, lazy_guests, sessions, settings, spi, sql_function};
use contention::{attempt, with_short_waits, without_writers};
use followed::Followed;
use mover::{Mover, Whose};
use pair::Pair;
use pgrx::JsonB;
use references::Keys;
use report::Side;
use rules::{Rule, Rules, invalid_rule};
use serde_json::{Value, json};
use std::collections::BTreeSet;

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
    let pair = Pair::new(guest, account);
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

/// One attempt.
fn merge(pair: &Pair, token: &str, preferred: Side, dry_run: bool, contended: &BTreeSet<String>) -> Result<Value> {
    without_writers(contended, || pair.lock(token))?;
    let settings = settings::current()?;
    let event = pair.event(preferred, dry_run)?;
    if let Some(event) = &event {
        hooks::run(Hook::BeforeMerge, event.clone())?;
        // It may have done anything to either of them.
        pair.lock(token)?;
    }
    let foreign_keys = with_short_waits(deletion::lock_foreign_keys)?;
    let rules = Rules::load()?;
    let (followed, ignored): (Vec<_>, Vec<_>) =
        followed::all()?.into_iter().partition(|table| !matches!(rules.of(table.table.relation), Rule::Ignore));
    let whose = followed.iter().map(|table| {
        let conditions = ["$3", "$4"].map(|user| table.is_of(user));
        (table.table.relation, Whose { conditions, users: [pair.guest.to_string(), pair.account.to_string()] })
    });
    let mut mover = Mover::new(rules, preferred, whose.collect());
    // At the end, since a trigger may have put rows back into any of the tables.
    let check_nothing_left = || followed.iter().try_for_each(|table| table.check_nothing_left(pair));
    let is_ignored = |key: &&ForeignKey| ignored.iter().any(|table| table.table.relation == key.table.relation);
    let identities = with_short_waits(|| {
        count_rows(pair, &followed, &mut mover)?;
        if !settings.merge_keep_guests {
            drop_ignored(pair, &ignored, &mut mover)?;
        }
        move_rows(pair, &followed, &mut mover)?;
        let identities = pair.take_over(preferred, &settings)?;
        if settings.merge_keep_guests {
            pair.end_access()?;
            check_nothing_left()?;
        } else {
            deletion::delete_unreferenced(&[pair.guest], &foreign_keys, || {
                check_nothing_left()?;
                foreign_keys.iter().filter(is_ignored).try_for_each(|key| key.check_no_rows(&[pair.guest]))
            })?;
        }
        Ok(identities)
    })?;
    let mut report = json!({
        "guest": pair.guest.to_string(),
        "account": pair.account.to_string(),
        "on_conflict": preferred.name(),
        "tables": mover.report.to_json(),
        "identities": identities,
        "guest_deleted": !settings.merge_keep_guests,
    });
    crate::audit::record("user_merged", Some(pair.guest), report.clone())?;
    crate::stats::note_ended(0, 1, (!settings.merge_keep_guests).into())?;
    if let Some(mut event) = event {
        for key in ["tables", "guest_deleted"] {
            event[key] = report[key].clone();
        }
        hooks::run(Hook::UserMerged, event)?;
    }
    report["dry_run"] = dry_run.into();
    Ok(report)
}

/// Counts what is there before anything moves, and refuses what cannot be moved.
fn count_rows(pair: &Pair, followed: &[Followed], mover: &mut Mover) -> Result<()> {
    let keys = Keys::one(pair.guest.to_string(), pair.account.to_string());
    for table in followed {
        let rule = mover.rule(table.table.relation);
        let (guest, account) = table.count(pair)?;
        if guest > 0 && matches!(rule, Rule::Merge | Rule::Sum(_)) {
            collisions::check_exclusions(&table.any, &keys)?;
            constraints::check(&table.any, &keys)?;
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
    for reference in foreign_keys.filter(|reference| !reference.is_registered()) {
        let guest = pair.guest.to_string();
        mover.apply_delete_action(reference, &Keys::one(guest.clone(), guest), Side::Guest)?;
    }
    Ok(())
}

fn move_rows(pair: &Pair, followed: &[Followed], mover: &mut Mover) -> Result<()> {
    let keys = Keys::one(pair.guest.to_string(), pair.account.to_string());
    for table in followed {
        let (guest, account) = match mover.rule(table.table.relation) {
            Rule::Function(_) | Rule::FunctionMissing(_) => table.count(pair)?,
            _ => continue,
        };
        match mover.rule(table.table.relation) {
            Rule::Function(function) => function.call(pair, &table.table)?,
            Rule::FunctionMissing(name) if guest > 0 => {
                return Err(invalid_rule(&table.table.name, &format!("a function {name}")));
            }
            _ => {}
        }
        let (_, after) = table.count(pair)?;
        let account_deleted = account.saturating_sub(after);
        let guest_deleted = (guest + account).saturating_sub(after.max(account));
        mover.report.deleted(&table.table.name, "function", guest_deleted, account_deleted, 0);
    }
    // Tables whose rows reference those of others go first, so that nothing keeps those.
    for table in followed.iter().rev() {
        let loser = match mover.rule(table.table.relation) {
            Rule::KeepAccount => Side::Guest,
            Rule::KeepGuest if table.count(pair)?.0 > 0 => Side::Account,
            _ => continue,
        };
        mover.delete(&table.any, table.rows_of(pair, loser), loser)?;
    }
    for table in followed {
        if mover.rule(table.table.relation).name() != "function" {
            mover.repoint(&table.any, &keys, Side::Guest)?;
        }
    }
    Ok(())
}

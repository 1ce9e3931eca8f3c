//! Clean-up beside everything else that goes on, and what keeps a guest.

use anon_auth_tests::*;
use postgres::{Client, Error};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Expired guests in the large test, and guests that stay; times `scale()`.
const EXPIRED: usize = 2_000;
const STAYING: usize = 8_000;
/// Of the expired ones, those that somebody refreshes meanwhile.
const REFRESHED: usize = 600;

fn batch(client: &mut Client, size: i32) -> Value {
    client.query_one("select auth.cleanup_expired_users($1)", &[&size]).unwrap().get(0)
}

/// Turns the clock of these guests back by 100 days.
fn age(client: &mut Client, users: &[Uuid]) {
    for (table, assignment) in [
        ("users", "created_at = now() - interval '100 days', last_active_on = null where id"),
        (
            "sessions",
            "created_at = now() - interval '100 days', refreshed_at = now() - interval '100 days' where user_id",
        ),
    ] {
        client.execute(&format!("update auth.{table} set {assignment} = any ($1)"), &[&users]).unwrap();
    }
}

fn expired_guests(client: &mut Client, n: usize) -> Vec<Uuid> {
    let guests: Vec<_> = (0..n).map(|_| sign_in(client).user).collect();
    age(client, &guests);
    guests
}

/// Makes guests, with a session each, that were created and last seen `days` ago.
fn insert_guests(client: &mut Client, n: usize, days: i32) {
    let sql = "with guest as (
                   insert into auth.users (id, is_anonymous, created_at)
                   select gen_random_uuid(), true, now() - make_interval(days => $2) from generate_series(1, $1)
                   returning id, created_at)
               insert into auth.sessions (id, user_id, created_at, refreshed_at)
               select gen_random_uuid(), id, created_at, created_at from guest";
    client.execute(sql, &[&(n as i32), &days]).unwrap();
}

fn remaining(client: &mut Client, users: &[Uuid]) -> Vec<Uuid> {
    let rows = client.query("select id from auth.users where id = any ($1) order by id", &[&users]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[test]
fn W8_no_live_guest_is_lost_and_no_sign_in_waits() {
    let _crowd = crowd();
    let db = Database::new();
    // Expired by inactivity alone, while their sessions are still good: so a refresh may come at any moment.
    let mut admin = db.connect_with(&[("session_idle_timeout", "365 days"), ("cleanup_unreachable_only", "false")]);
    let refreshable: Vec<_> = (0..REFRESHED * scale()).map(|_| sign_in(&mut admin)).collect();
    age(&mut admin, &refreshable.iter().map(|session| session.user).collect::<Vec<_>>());
    // These come first, so that there is time to refresh some of the others.
    insert_guests(&mut admin, EXPIRED * scale() - refreshable.len(), 110);
    insert_guests(&mut admin, STAYING * scale(), 10);
    run(
        &mut admin,
        "create table notes (user_id uuid not null references auth.users (id) on delete cascade);
                     create index on notes (user_id);
                     insert into notes select id from auth.users; analyze",
    );

    // One cleans up, one refreshes those who are about to go, four sign in.
    let done = AtomicBool::new(false);
    let outcomes = db.at_once(6, "postgres", |i, client| match i {
        0 => {
            let result = client.batch_execute("call auth.cleanup()");
            done.store(true, Ordering::Relaxed);
            (Vec::new(), Vec::new(), Duration::ZERO, result.err())
        }
        1 => refresh_all(client, &refreshable),
        _ => sign_in_until(client, &done),
    });
    let (mut refreshed, mut new, mut slowest) = (Vec::new(), Vec::new(), Duration::ZERO);
    for (sessions, signed_in, wait, error) in outcomes {
        assert!(error.is_none(), "{}", describe(&error.unwrap()));
        refreshed.extend(sessions);
        new.extend(signed_in);
        slowest = slowest.max(wait);
    }
    println!(
        "{} of {} refreshed, {} signed in, the slowest call took {slowest:?}",
        refreshed.len(),
        refreshable.len(),
        new.len()
    );
    assert!(!new.is_empty());
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    for session in refreshed.iter().chain(&new) {
        refresh(&mut admin, &session.refresh_token).expect("a guest whose call succeeded is still there");
    }
    assert_eq!(
        value::<i64>(&mut admin, "select count(*) from auth.users"),
        (STAYING * scale() + refreshed.len() + new.len()) as i64
    );
    // Whoever was not refreshed is gone, with rows and sessions.
    let left = "select count(*) from auth.users where created_at < now() - interval '90 days'";
    assert_eq!(value::<i64>(&mut admin, left), refreshed.len() as i64);
    let orphans = "select count(*) from notes n where not exists (select from auth.users u where u.id = n.user_id)";
    assert_eq!(value::<i64>(&mut admin, orphans), 0);
}

type Outcome = (Vec<Session>, Vec<Session>, Duration, Option<Error>);

/// Last first, so that it meets the clean-up, which goes the other way.
fn refresh_all(client: &mut Client, sessions: &[Session]) -> Outcome {
    let (mut refreshed, mut slowest) = (Vec::new(), Duration::ZERO);
    run(client, "set lock_timeout = '5s'");
    for session in sessions.iter().rev() {
        let start = Instant::now();
        match refresh(client, &session.refresh_token) {
            Ok(session) => refreshed.push(session),
            Err(error) if describe(&error).starts_with("PT401: session_not_found") => {}
            Err(error) => return (refreshed, Vec::new(), slowest, Some(error)),
        }
        slowest = slowest.max(start.elapsed());
    }
    (refreshed, Vec::new(), slowest, None)
}

fn sign_in_until(client: &mut Client, done: &AtomicBool) -> Outcome {
    let (mut new, mut slowest) = (Vec::new(), Duration::ZERO);
    // A wait for a lock, not slowness: that depends on the machine.
    run(client, "set lock_timeout = '100ms'");
    while !done.load(Ordering::Relaxed) {
        let start = Instant::now();
        match try_sign_in(client) {
            Ok(session) => new.push(session),
            Err(error) => return (Vec::new(), new, slowest, Some(error)),
        }
        slowest = slowest.max(start.elapsed());
    }
    (Vec::new(), new, slowest, None)
}

#[test]
fn W8_a_refresh_at_the_last_moment_keeps_the_guest() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("cleanup_age", "0"), ("cleanup_inactivity", "0")]);
    let sessions: Vec<_> = (0..100).map(|_| sign_in(&mut admin)).collect();
    let users: Vec<_> = sessions.iter().map(|session| session.user).collect();
    age(&mut admin, &users);
    // Each ends some 20 ms after the one before it.
    let sql = "update auth.sessions s
               set refreshed_at = clock_timestamp() - interval '60 days' + n * interval '20 milliseconds'
               from unnest($1::uuid[]) with ordinality u (id, n) where s.user_id = u.id";
    admin.execute(sql, &[&users]).unwrap();

    let done = AtomicBool::new(false);
    let outcomes = db.at_once(3, "postgres", |i, client| {
        if i == 0 {
            // Those that had nearly run out when it came to them.
            let refreshed: Vec<_> = sessions
                .iter()
                .filter_map(|session| {
                    sleep(19);
                    refresh(client, &session.refresh_token).map_err(expired_or_gone).ok()
                })
                .collect();
            done.store(true, Ordering::Relaxed);
            refreshed
        } else {
            while !done.load(Ordering::Relaxed) {
                run(client, "call auth.cleanup()");
            }
            Vec::new()
        }
    });
    for session in &outcomes[0] {
        refresh(&mut admin, &session.refresh_token).expect("a refreshed guest stays");
    }
    run(&mut admin, "call auth.cleanup()");
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.users"), outcomes[0].len() as i64);
}

fn expired_or_gone(error: Error) {
    let text = describe(&error);
    assert!(text.contains("session_expired") || text.contains("session_not_found"), "{text}");
}

#[test]
fn W8_two_at_once_and_one_killed_share_the_work() {
    let db = Database::new();
    let mut admin = db.connect();
    insert_guests(&mut admin, 3_000, 100);
    insert_guests(&mut admin, 50, 10);
    let expired = "select count(*) from auth.users where created_at < now() - interval '90 days'";

    let results = db.at_once(3, "postgres", |i, client| {
        if i < 2 {
            return client.batch_execute("call auth.cleanup()");
        }
        let victim = "select pid from pg_stat_activity
                      where datname = current_database() and query = 'call auth.cleanup()' and state = 'active'";
        wait_until("progress", Duration::from_secs(60), || value::<i64>(client, expired) < 2_900);
        client.batch_execute(&format!("select pg_terminate_backend(pid) from ({victim} limit 1) p"))
    });
    assert!(results.iter().filter(|result| result.is_err()).count() <= 1, "only the killed one fails");
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert!(error.is_closed() || sqlstate(error) == "57P01", "{}", describe(error));
    }
    run(&mut admin, "call auth.cleanup()");
    assert_eq!(value::<i64>(&mut admin, expired), 0);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.users"), 50);
    let counted =
        "select sum((payload->>'deleted')::bigint)::bigint from auth.audit_log_entries where action = 'cleanup'";
    assert_eq!(value::<i64>(&mut admin, counted), 3_000, "each was counted once");
}

#[test]
fn W8_a_locked_table_holds_nothing_up() {
    let db = Database::new();
    let mut admin = db.connect();
    run(&mut admin, "create table notes (user_id uuid references auth.users (id) on delete cascade)");
    let guests = expired_guests(&mut admin, 20);
    admin.execute("insert into notes select unnest($1::uuid[])", &[&&guests[..10]]).unwrap();
    let mut migration = db.connect();
    run(&mut migration, "begin; lock table notes in access exclusive mode");
    run(&mut admin, "set statement_timeout = '30s'");
    run(&mut admin, "call auth.cleanup()");
    assert_eq!(remaining(&mut admin, &guests[..10]).len(), 10);
    // Nor are the guests' own rows held meanwhile.
    let mut other = db.connect();
    run(&mut other, "set lock_timeout = '100ms'");
    sign_in(&mut other);
    other.execute("update auth.users set updated_at = now() where id = any ($1)", &[&guests]).unwrap();
    run(&mut migration, "commit");
    run(&mut admin, "call auth.cleanup()");
    assert!(remaining(&mut admin, &guests).is_empty());
}

/// Tables that keep a guest in every way there is; each of `owners` has a row in one of them.
fn keep(client: &mut Client, owners: &[Uuid]) -> Vec<&'static str> {
    run(
        client,
        "create table by_no_action (user_id uuid references auth.users (id));
         create table by_restrict (user_id uuid references auth.users (id) on delete restrict);
         create table by_deferred (user_id uuid references auth.users (id) deferrable initially deferred);
         create table by_trigger (user_id uuid references auth.users (id) on delete cascade);
         create table by_deferred_trigger (user_id uuid references auth.users (id) on delete cascade);
         create table by_not_null (user_id uuid not null references auth.users (id) on delete set null);
         create table by_grandchild_parent (id uuid primary key references auth.users (id) on delete cascade);
         create table by_grandchild (id uuid references by_grandchild_parent (id));
         create function refuse() returns trigger language plpgsql as $$
             begin raise exception 'this row is not to be deleted'; end $$;
         create trigger refuse before delete on by_trigger for each row execute function refuse();
         create constraint trigger refuse after delete on by_deferred_trigger
             deferrable initially deferred for each row execute function refuse();",
    );
    let tables = [
        "by_no_action",
        "by_restrict",
        "by_deferred",
        "by_trigger",
        "by_deferred_trigger",
        "by_not_null",
        "by_grandchild_parent",
    ];
    for (i, owner) in owners.iter().enumerate() {
        let table = tables[i % tables.len()];
        client.execute(&format!("insert into {table} values ($1)"), &[owner]).unwrap();
        if table == "by_grandchild_parent" {
            client.execute("insert into by_grandchild values ($1)", &[owner]).unwrap();
        }
    }
    tables.to_vec()
}

fn let_go(client: &mut Client) {
    run(
        client,
        "drop function refuse() cascade;
         truncate by_no_action, by_restrict, by_deferred, by_trigger, by_deferred_trigger, by_not_null,
                  by_grandchild_parent, by_grandchild",
    );
}

#[test]
fn R5_blocked_guests_are_reported_and_starve_nobody() {
    let db = Database::new();
    let mut admin = db.connect();
    // Those that cannot go come first, and are more than a batch.
    let mut blocked = expired_guests(&mut admin, 14);
    blocked.sort();
    let free = expired_guests(&mut admin, 9);
    let tables = keep(&mut admin, &blocked);
    let older = "update auth.users set created_at = created_at - interval '10 days' where id = any ($1)";
    admin.execute(older, &[&blocked]).unwrap();

    let before = admin.query("select * from auth.users order by id", &[]).unwrap().len();
    let preview: Value = value(&mut admin, "select auth.cleanup_expired_users(null, dry_run => true)");
    assert_eq!((&preview["deleted"], &preview["blocked"]), (&json!(9), &json!(14)), "{preview}");
    assert_eq!(admin.query("select * from auth.users order by id", &[]).unwrap().len(), before);

    let (mut deleted, mut rounds, mut reported) = (0, 0, std::collections::BTreeMap::<String, u64>::new());
    let mut recheck_after: Option<Uuid> = None;
    loop {
        let result: Value = admin
            .query_one("select auth.cleanup_expired_users(5, recheck_after => $1)", &[&recheck_after])
            .unwrap()
            .get(0);
        recheck_after = result["recheck_after"].as_str().map(|id| id.parse().unwrap());
        deleted += result["deleted"].as_u64().unwrap();
        for entry in result["by_table"].as_array().unwrap() {
            let table = entry["table"].as_str().unwrap().to_owned();
            *reported.entry(table).or_default() += entry["blocked"].as_u64().unwrap();
        }
        rounds += 1;
        assert!(rounds < 20, "the batches do not come to an end");
        if result["more"] == json!(false) {
            break;
        }
    }
    assert_eq!(deleted, 9);
    assert!(remaining(&mut admin, &free).is_empty());
    assert_eq!(remaining(&mut admin, &blocked), blocked);
    for table in &tables {
        // The grandchild is what forbids it, the child is whose rows cannot go.
        let named = |name: &str| reported.get(&format!("public.{name}")).copied().unwrap_or(0);
        let count = match *table {
            "by_grandchild_parent" => named("by_grandchild") + named("by_grandchild_parent"),
            table => named(table),
        };
        // Once when it comes up, and once more when those that were left are tried again.
        assert!((2..=4).contains(&count), "{table} in {reported:?}");
    }

    // A single blocked guest does not end the procedure, nor does it run for ever.
    run(&mut admin, "call auth.cleanup()");
    assert_eq!(remaining(&mut admin, &blocked), blocked);

    let_go(&mut admin);
    run(&mut admin, "call auth.cleanup()");
    assert!(remaining(&mut admin, &blocked).is_empty(), "nothing keeps them any more");
}

#[test]
fn R5_whatever_a_trigger_raises_starves_nobody() {
    let db = Database::new();
    let mut admin = db.connect();
    run(
        &mut admin,
        "create table kept (user_id uuid references auth.users (id) on delete cascade, state text);
         create function refuse() returns trigger language plpgsql as $$
             begin raise exception 'not this one' using errcode = old.state; end $$;
         create trigger refuse before delete on kept for each row execute function refuse();",
    );
    // Also those by which Postgres itself says that a statement was cancelled or has to be run again.
    let states = ["P0001", "PT409", "40001", "40P01", "53200", "53100", "57014", "57P01", "58030", "XX000", "25006"];
    let kept = expired_guests(&mut admin, states.len());
    for (user, state) in kept.iter().zip(states) {
        admin.execute("insert into kept values ($1, $2)", &[user, &state]).unwrap();
    }
    let older = "update auth.users set created_at = created_at - interval '10 days' where id = any ($1)";
    admin.execute(older, &[&kept]).unwrap();
    let free = expired_guests(&mut admin, 5);
    admin.batch_execute("call auth.cleanup()").unwrap_or_else(|error| panic!("{}", describe(&error)));
    assert!(remaining(&mut admin, &free).is_empty());
    assert_eq!(remaining(&mut admin, &kept).len(), states.len());
}

#[test]
fn R5_rows_go_or_stay_as_their_keys_say() {
    let db = Database::new();
    let mut admin = db.connect();
    run(
        &mut admin,
        "create table cascading (user_id uuid references auth.users (id) on delete cascade, n int);
         create table keeping (user_id uuid references auth.users (id) on delete set null, n int);
         create table unrelated (user_id uuid, n int);
         create domain owner_id as uuid check (value is not null);
         create table \"we\"\"ird 'one\" (\"User \"\"Id\" owner_id references auth.users (id) on delete cascade, n int);
         create table parent (user_id uuid references auth.users (id) on delete cascade, n int);
         create table child () inherits (parent)",
    );
    let guests = expired_guests(&mut admin, 3);
    let live = sign_in(&mut admin).user;
    for user in guests.iter().chain([&live]) {
        for table in ["cascading", "keeping", "unrelated", "\"we\"\"ird 'one\"", "parent", "child"] {
            admin.execute(&format!("insert into {table} values ($1::uuid, 1)"), &[user]).unwrap();
        }
    }
    run(&mut admin, "call auth.cleanup()");
    assert!(remaining(&mut admin, &guests).is_empty());
    assert_eq!(value::<i64>(&mut admin, "select count(*) from cascading"), 1);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from keeping where user_id is null"), 3);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from unrelated"), 4);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from \"we\"\"ird 'one\""), 1);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from only parent"), 1);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from child"), 4, "a foreign key is not inherited");
}

#[test]
fn R4_a_guest_is_deleted_for_good() {
    let db = Database::new();
    let mut admin = db.connect();
    let guest = sign_in(&mut admin);
    age(&mut admin, &[guest.user]);
    let result = batch(&mut admin, 10);
    assert_eq!((&result["deleted"], &result["more"]), (&json!(1), &json!(false)), "{result}");
    expect_error(refresh(&mut admin, &guest.refresh_token), "PT401", "session_not_found");
    expect_error(verify(&mut admin, &guest.access_token), "PT401", "session_not_found");
    assert_eq!(batch(&mut admin, 10)["deleted"], json!(0));
}

#[test]
fn W12_owners_of_rows_can_be_spared() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("cleanup_spare_owners", "true")]);
    run(&mut admin, "create table works (user_id uuid references auth.users (id) on delete cascade)");
    let guests = expired_guests(&mut admin, 4);
    admin.execute("insert into works select unnest($1::uuid[])", &[&&guests[..2]]).unwrap();
    let expected = |result: &Value| {
        assert_eq!((&result["deleted"], &result["spared"]), (&json!(2), &json!(2)), "{result}");
        let table = &result["by_table"][0];
        assert_eq!((&table["table"], &table["spared"]), (&json!("public.works"), &json!(2)), "{result}");
    };
    expected(&value(&mut admin, "select auth.cleanup_expired_users(null, dry_run => true)"));
    assert_eq!(remaining(&mut admin, &guests).len(), 4);
    expected(&value(&mut admin, "select auth.cleanup_expired_users(null)"));
    assert_eq!(remaining(&mut admin, &guests).len(), 2);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from works"), 2);

    run(&mut admin, "select auth.set_setting('cleanup_spare_owners', null)");
    run(&mut admin, "call auth.cleanup()");
    assert!(remaining(&mut admin, &guests).is_empty());
    assert_eq!(value::<i64>(&mut admin, "select count(*) from works"), 0);
}

#[test]
fn C5_W8_a_busy_guest_whose_session_ended_goes_later() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("cleanup_age", "1 day"), ("cleanup_inactivity", "1 day")]);
    let guests: Vec<_> = (0..2).map(|_| sign_in(&mut admin).user).collect();
    for (table, time) in [("users", "last_active_on = null"), ("sessions", "not_after = now() - interval '4 days'")] {
        run(&mut admin, &format!("update auth.{table} set created_at = now() - interval '5 days', {time}"));
    }
    let mut other = db.connect();
    let mut busy = other.transaction().unwrap();
    busy.execute("select from auth.users where id = $1 for key share", &[&guests[0]]).unwrap();
    run(&mut admin, "call auth.cleanup()");
    assert_eq!(remaining(&mut admin, &guests), [guests[0]]);
    // Its session alone says that it cannot come back, since the others' last longer.
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.sessions"), 1);
    busy.commit().unwrap();
    run(&mut admin, "call auth.cleanup()");
    assert!(remaining(&mut admin, &guests).is_empty());
}

#[test]
fn W8_a_guest_somebody_is_busy_with_is_spared() {
    let db = Database::new();
    let mut admin = db.connect();
    run(&mut admin, "create table notes (user_id uuid references auth.users (id))");
    let guests = expired_guests(&mut admin, 4);
    let [referenced, promoted, session_held, free] = guests[..] else { unreachable!() };

    let mut other = db.connect();
    let mut busy = other.transaction().unwrap();
    busy.execute("insert into notes values ($1)", &[&referenced]).unwrap();
    busy.execute("update auth.users set is_anonymous = false where id = $1", &[&promoted]).unwrap();
    busy.execute("select from auth.sessions where user_id = $1 for update", &[&session_held]).unwrap();
    run(&mut admin, "set lock_timeout = '1s'");
    run(&mut admin, "call auth.cleanup()");
    let mut spared = vec![referenced, promoted, session_held];
    spared.sort();
    assert_eq!(remaining(&mut admin, &guests), spared);
    assert!(!exists(&mut admin, free));

    busy.commit().unwrap();
    run(&mut admin, "call auth.cleanup()");
    let mut kept = vec![referenced, promoted];
    kept.sort();
    assert_eq!(remaining(&mut admin, &guests), kept, "one is referenced now, one is permanent");
}

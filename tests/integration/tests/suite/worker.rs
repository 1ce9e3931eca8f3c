//! The background worker that stores what a rollback must not undo: it comes, goes and dies without losing count.

use anon_auth_tests::*;
use postgres::Client;
use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const RUNNING: &str =
    "select count(*) from pg_stat_activity where backend_type = 'anon_auth worker' and datname = current_database()";
const PROCESS: &str =
    "select pid from pg_stat_activity where backend_type = 'anon_auth worker' and datname = current_database()";

/// Guesses a transfer code that nobody else guesses; true if the guess was counted and judged.
fn guess(client: &mut Client, n: usize) -> Result<bool, String> {
    match client.execute("select auth.redeem_transfer_code($1)", &[&code(n)]) {
        Ok(_) => panic!("a code was guessed"),
        Err(error) => match describe(&error) {
            text if text.starts_with("PT403: otp_expired") => Ok(true),
            text if text.starts_with("PT429: over_request_rate_limit") => Ok(false),
            text => Err(text),
        },
    }
}

/// The `n`-th transfer code: ten letters of Crockford's alphabet, the first five of which count as one subject.
fn code(n: usize) -> String {
    let letter = |place: u32| b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"[n / 32_usize.pow(place) % 32] as char;
    format!("{}00000", (0..5).rev().map(letter).collect::<String>())
}

/// How many subjects were guessed at, and how often.
fn counted(admin: &mut Client) -> (i64, i64) {
    let row = admin.query_one("select count(*), coalesce(sum(count), 0)::bigint from auth.guesses", &[]).unwrap();
    (row.get(0), row.get(1))
}

#[test]
fn N17_a_terminated_worker_loses_no_count() {
    let _crowd = crowd();
    let db = Database::new();
    let mut admin = db.connect();
    sign_in(&mut admin);
    let is_over = AtomicBool::new(false);
    let (connections, each) = (24, 60);
    let guessed: Vec<Vec<usize>> = db.at_once(connections + 1, APP, |i, client| {
        if i == connections {
            let mut terminated = 0;
            while !is_over.load(Ordering::Relaxed) && terminated < 20 {
                terminated +=
                    run_count(&mut admin_of(&db), &format!("select pg_terminate_backend(pid) from ({PROCESS}) w"));
                sleep(40);
            }
            assert!(terminated >= 3, "the worker was terminated {terminated} times only");
            return Vec::new();
        }
        let mine: Vec<_> = (0..each).map(|n| i * each + n).collect();
        for n in &mine {
            assert_eq!(guess(client, *n), Ok(true), "another worker takes over");
        }
        if i == 0 {
            is_over.store(true, Ordering::Relaxed);
        }
        mine
    });
    let guessed: BTreeSet<_> = guessed.into_iter().flatten().collect();
    let (subjects, guesses) = counted(&mut admin);
    // Each is counted for its client and for all; more often only where the worker had stored it before it could say so.
    assert_eq!(subjects as usize, 2 * guessed.len());
    assert!(guesses >= subjects, "{guesses} {subjects}");
}

fn admin_of(db: &Database) -> Client {
    db.connect()
}

fn run_count(client: &mut Client, sql: &str) -> usize {
    client.query(sql, &[]).unwrap().len()
}

#[test]
fn N17_counts_survive_the_crash_of_the_worker() {
    let server = Server::start(&[]);
    let db = Database::on(&server);
    let mut client = db.connect_as(APP);
    for n in 0..40 {
        assert_eq!(guess(&mut client, n), Ok(true));
    }
    assert_eq!((0..5).map(|_| guess(&mut client, 0).unwrap()).filter(|judged| *judged).count(), 4);
    let before = counted(&mut db.connect());
    let process: i32 = value(&mut db.connect(), PROCESS);
    assert!(Command::new("kill").args(["-9", &process.to_string()]).status().unwrap().success());
    wait_until("the server restarts its processes", Duration::from_secs(60), || {
        server.try_connect(&db.name, APP).is_ok_and(|mut client| client.batch_execute("select 1").is_ok())
            && client.batch_execute("select 1").is_err()
    });
    let mut client = db.connect_as(APP);
    assert_eq!(counted(&mut db.connect()), before);
    assert_eq!(guess(&mut client, 0), Ok(false));
    assert_eq!(guess(&mut client, 41), Ok(true));
}

#[test]
fn N17_one_free_slot_serves_a_crowd() {
    let _crowd = crowd();
    // Postgres itself has one worker, and pg_cron another.
    let slots = if has_pg_cron() { 3 } else { 2 };
    let server = Server::start(&[&format!("max_worker_processes={slots}"), "max_connections=100"]);
    let db = Database::on(&server);
    let counts = db.at_once(60, APP, |i, client| guess(client, i));
    assert!(counts.iter().all(|count| *count == Ok(true)), "{counts:?}");
    assert_eq!(value::<i64>(&mut db.connect(), RUNNING), 1);

    // While it is there, another database has none: it refuses, and judges nothing.
    let other = Database::on(&server);
    let mut client = other.connect_as(APP);
    let text = guess(&mut client, 0).expect_err("no slot is free");
    assert!(text.starts_with("PT503: worker_unavailable") && text.contains("max_worker_processes"), "{text}");
    assert_eq!(counted(&mut other.connect()), (0, 0));
    run(&mut db.connect(), &format!("select pg_terminate_backend(pid) from ({PROCESS}) w"));
    assert_eq!(guess(&mut client, 0), Ok(true));
}

/// Sets `statement_timeout`, in milliseconds; on a busy machine the old one may hit the SET itself.
fn set_timeout(client: &mut Client, milliseconds: usize) {
    let set = format!("set statement_timeout = {milliseconds}");
    assert!((0..100).any(|_| client.batch_execute(&set).is_ok()), "{set}");
}

#[test]
fn N17_who_gives_up_blocks_nobody() {
    let _crowd = crowd();
    let db = Database::new();
    let mut admin = db.connect();
    sign_in(&mut admin);
    // More than a mailbox has slots: cancelled while they wait, or with the whole session.
    let cut_off: usize = db
        .at_once(16, APP, |i, client| {
            (0..30)
                .filter(|n| {
                    if i % 2 == 0 {
                        set_timeout(client, 1 + n % 4);
                        let cancelled = guess(client, 1000 * i + n).is_err_and(|text| text.starts_with("57014"));
                        set_timeout(client, 0);
                        return cancelled;
                    }
                    let mut victim = db.connect_as(APP);
                    let process: i32 = value(&mut victim, "select pg_backend_pid()");
                    std::thread::scope(|scope| {
                        let guessing = scope.spawn(move || guess(&mut victim, 1000 * i + n).is_err());
                        sleep(*n as u64 % 4);
                        client.execute(&format!("select pg_terminate_backend({process})"), &[]).unwrap();
                        guessing.join().unwrap()
                    })
                })
                .count()
        })
        .iter()
        .sum();
    assert!(cut_off > 20, "only {cut_off} were cut off");
    let begun = Instant::now();
    let counts =
        db.at_once(32, APP, |i, client| (0..8).map(|n| guess(client, 100_000 + 8 * i + n)).collect::<Vec<_>>());
    assert!(counts.iter().flatten().all(|count| *count == Ok(true)), "{counts:?}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn N17_one_that_fails_takes_no_others_with_it() {
    let db = Database::new();
    let mut admin = db.connect();
    let mut client = db.connect_as(APP);
    assert_eq!(guess(&mut client, 0), Ok(true));
    // Only a superuser can: a lock on a row that the worker wants.
    let mut transaction = admin.transaction().unwrap();
    run(&mut transaction, "select from auth.guesses for update");
    let counts = db.at_once(12, APP, |i, client| guess(client, i));
    let text = counts[0].as_ref().expect_err("its row is locked");
    assert!(text.starts_with("PT503: worker_unavailable"), "{text}");
    assert!(counts[1..].iter().all(|count| *count == Ok(true)), "{counts:?}");
    transaction.rollback().unwrap();
    assert_eq!(guess(&mut client, 0), Ok(true));
    assert_eq!(counted(&mut db.connect()).1, 2 * 13);
}

#[test]
fn W11_the_worker_goes_when_its_database_does() {
    let db = Database::new();
    let mut client = db.connect_as(APP);
    assert_eq!(guess(&mut client, 0), Ok(true));
    drop(client);
    let mut admin = db.server.connect("postgres", db.server.superuser());
    for sql in
        ["create database $_copy template $", "alter database $_copy rename to $_renamed", "drop database $_renamed"]
    {
        let copy = if sql.starts_with("create") { db.name.clone() } else { format!("{}_copy", db.name) };
        if !sql.starts_with("drop") {
            let mut client = db.server.connect(&copy, db.server.superuser());
            guess(&mut client, 1).expect("a worker comes");
            assert_eq!(value::<i64>(&mut client, RUNNING), 1);
        }
        // Without FORCE: Postgres waits for five seconds at the most.
        run(&mut admin, &sql.replace('$', &db.name));
    }
}

#[test]
fn N17_the_worker_ends_when_nobody_needs_it() {
    let db = Database::new();
    let mut admin = db.connect();
    let mut client = db.connect_as(APP);
    assert_eq!(guess(&mut client, 0), Ok(true));
    assert_eq!(value::<i64>(&mut admin, RUNNING), 1);
    wait_until("it ends", Duration::from_secs(50), || value::<i64>(&mut admin, RUNNING) == 0);
    assert_eq!(guess(&mut client, 0), Ok(true), "and comes back");
    assert_eq!(counted(&mut admin), (2, 4));
}

//! Merges that race with other merges, with clean-up, and with what guest and account write meanwhile.

use anon_auth_tests::*;
use postgres::{Client, Error, IsolationLevel};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Carts, one each, with what is in them; and notes.
const SHOP: &str = "
    create table carts (
        id uuid primary key default gen_random_uuid(),
        user_id uuid not null unique references auth.users (id) on delete cascade);
    create table items (
        cart uuid not null references carts on delete cascade, product int, quantity int not null,
        primary key (cart, product));
    create table notes (user_id uuid not null references auth.users (id) on delete cascade, n int, unique (user_id, n));
    select auth.set_merge_rule('items', 'sum', array['quantity']);";

fn setup() -> (Database, Client) {
    let db = Database::new();
    let mut admin = db.connect();
    run(&mut admin, SHOP);
    (db, admin)
}

/// A permanent user who is signed in.
fn account(admin: &mut Client) -> Session {
    let account = sign_in(admin);
    admin.execute("update auth.users set is_anonymous = false where id = $1", &[&account.user]).unwrap();
    account
}

/// Puts one of each of `products` into the cart of a user.
fn fill_cart(admin: &mut Client, user: &Session, products: std::ops::Range<i32>) {
    let sql = format!(
        "insert into carts (user_id) values ($1);
         insert into items select id, p, 1 from carts, generate_series({}, {}) p where user_id = $1",
        products.start,
        products.end - 1
    );
    run(admin, &sql.replace("$1", &format!("'{}'", user.user)));
}

/// What an application does when a guest has signed in to an account.
fn merge(client: &mut Client, account: &Session, guest: &Session) -> Result<Value, Error> {
    let mut transaction = client.transaction()?;
    authenticate(&mut transaction, &account.access_token)?;
    let report = transaction.query_one("select auth.merge_anonymous_user($1)", &[&guest.access_token])?.get(0);
    transaction.commit()?;
    Ok(report)
}

fn deadlocks(admin: &mut Client) -> i64 {
    value(admin, "select deadlocks from pg_stat_database where datname = current_database()")
}

#[test]
fn N7_a_guest_is_merged_once() {
    let (db, mut admin) = setup();
    for _ in 0..10 {
        let (guest, accounts) = (sign_in(&mut admin), [account(&mut admin), account(&mut admin)]);
        fill_cart(&mut admin, &guest, 0..10);
        let results = db.at_once(6, APP, |i, client| merge(client, &accounts[i % 2], &guest));
        let (done, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!(done.len(), 1);
        for result in refused {
            expect_error(result, "PT401", "session_not_found");
        }
        assert!(!exists(&mut admin, guest.user));
        assert_eq!(value::<i64>(&mut admin, "select sum(quantity) from items"), 10);
        run(&mut admin, "delete from auth.users");
    }
    assert_eq!(deadlocks(&mut admin), 0);
}

#[test]
fn W1_many_guests_into_one_account_at_once() {
    let (db, mut admin) = setup();
    let account = account(&mut admin);
    fill_cart(&mut admin, &account, 0..20);
    let guests: Vec<_> = (0..8).map(|_| sign_in(&mut admin)).collect();
    for (i, guest) in guests.iter().enumerate() {
        let start = i as i32 * 5;
        fill_cart(&mut admin, guest, start..start + 20);
    }
    for report in db.at_once(guests.len(), APP, |i, client| merge(client, &account, &guests[i])) {
        report.unwrap_or_else(|error| panic!("{}", describe(&error)));
    }
    assert_eq!(value::<i64>(&mut admin, "select count(*) from carts"), 1);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from items"), 55);
    assert_eq!(value::<i64>(&mut admin, "select sum(quantity) from items"), 9 * 20);
    assert_eq!(deadlocks(&mut admin), 0);
}

#[test]
fn W1_while_guest_and_account_write() {
    let (db, mut admin) = setup();
    let start = Instant::now();
    let mut rounds = 0;
    while start.elapsed().as_secs() < 4 || rounds < 2 {
        let (guest, account) = (sign_in(&mut admin), account(&mut admin));
        fill_cart(&mut admin, &guest, 0..10);
        fill_cart(&mut admin, &account, 5..15);
        let merged = AtomicBool::new(false);
        // Each writer adds to a cart and writes notes, holding one row while it asks for the next.
        let written: Vec<i64> = db.at_once(5, "postgres", |i, client| {
            if i == 0 {
                sleep(50);
                run(client, &format!("set session authorization {APP}"));
                let report = merge(client, &account, &guest);
                merged.store(true, Ordering::SeqCst);
                report.unwrap_or_else(|error| panic!("{}", describe(&error)));
                return 0;
            }
            let who = if i % 2 == 0 { &account } else { &guest };
            let (mut written, mut n) = (0, 0);
            while !merged.load(Ordering::SeqCst) || n < 3 {
                n += 1;
                let mut write = || -> Result<i64, Error> {
                    let mut transaction = client.transaction()?;
                    let changed = transaction.execute(
                        "update items set quantity = quantity + 1
                         where product = 7 and cart = (select id from carts where user_id = $1)",
                        &[&who.user],
                    )?;
                    sleep(5);
                    // The same notes by both: they collide.
                    transaction.execute(
                        "insert into notes values ($1, $2) on conflict do nothing",
                        &[&who.user, &(n * 10 + i as i32 / 3)],
                    )?;
                    transaction.commit()?;
                    Ok(changed as i64)
                };
                match write() {
                    Ok(changed) => written += changed,
                    // The guest is gone.
                    Err(error) => assert_eq!(sqlstate(&error), "23503", "{}", describe(&error)),
                }
            }
            written
        });
        let quantity: i64 = value(&mut admin, "select sum(quantity) from items");
        assert_eq!(quantity, 20 + written.iter().sum::<i64>(), "nothing that was written is lost");
        assert_eq!(value::<i64>(&mut admin, "select count(*) from carts"), 1);
        let left = "select count(*) from notes n where not exists (select from auth.users u where u.id = n.user_id)";
        assert_eq!(value::<i64>(&mut admin, left), 0);
        run(&mut admin, "delete from auth.users");
        rounds += 1;
    }
    assert_eq!(deadlocks(&mut admin), 0);
}

#[test]
fn W8_while_clean_up_runs() {
    let (db, mut admin) = setup();
    for (name, value) in [("cleanup_age", "0"), ("cleanup_inactivity", "0"), ("cleanup_unreachable_only", "false")] {
        admin.execute("select auth.set_setting($1, $2)", &[&name, &value]).unwrap();
    }
    for _ in 0..10 {
        let (guest, account) = (sign_in(&mut admin), account(&mut admin));
        fill_cart(&mut admin, &guest, 0..10);
        let results = db.at_once(3, "postgres", |i, client| {
            if i == 0 {
                return Some(merge(client, &account, &guest));
            }
            run(client, "call auth.cleanup()");
            None
        });
        let merged = match results.into_iter().flatten().next().unwrap() {
            Ok(_) => 10,
            Err(error) => {
                assert!(describe(&error).contains("session_not_found"), "{}", describe(&error));
                0
            }
        };
        assert!(!exists(&mut admin, guest.user));
        assert_eq!(value::<i64>(&mut admin, "select count(*) from items"), merged);
        run(&mut admin, "delete from auth.users");
    }
    assert_eq!(deadlocks(&mut admin), 0);
}

#[test]
fn W1_rows_that_somebody_holds() {
    let (db, mut admin) = setup();
    let (guest, account) = (sign_in(&mut admin), account(&mut admin));
    fill_cart(&mut admin, &guest, 0..3);
    let mut holder = db.connect();
    let mut held = holder.transaction().unwrap();
    run(&mut held, "update carts set id = id");
    let mut app = db.connect_as(APP);
    run(&mut app, "set lock_timeout = '500ms'");
    let text = expect_error(merge(&mut app, &account, &guest), "PT409", "conflict");
    assert!(text.contains("public.carts"), "{text}");
    assert!(verify(&mut admin, &guest.access_token).is_ok(), "the guest goes on");
    // Let go in time, and it goes through.
    run(&mut app, "reset lock_timeout");
    std::thread::scope(|scope| {
        let merged = scope.spawn(|| merge(&mut app, &account, &guest).map_err(|error| describe(&error)));
        sleep(700);
        held.commit().unwrap();
        merged.join().unwrap().unwrap();
    });
    assert_eq!(value::<i64>(&mut admin, "select count(*) from items"), 3);
    assert_eq!(value::<String>(&mut app, "show lock_timeout"), "0");
}

#[test]
fn N23_under_repeatable_read() {
    let (db, mut admin) = setup();
    let (guest, account) = (sign_in(&mut admin), account(&mut admin));
    let mut app = db.connect_as(APP);
    let mut old = app.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().unwrap();
    authenticate(&mut old, &account.access_token).unwrap();
    value::<i32>(&mut old, "select 1");
    // The transaction's own snapshot does not show it.
    fill_cart(&mut admin, &guest, 0..3);
    let refused = old.query_one("select auth.merge_anonymous_user($1)", &[&guest.access_token]);
    expect_error(refused.map(|_| ()), "40001", "could not serialize");
    drop(old);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from items"), 3);
    let mut anew = app.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().unwrap();
    authenticate(&mut anew, &account.access_token).unwrap();
    run_merge(&mut anew, &guest);
    anew.commit().unwrap();
    let of_account = "select count(*) from items join carts on id = cart where user_id = $1";
    assert_eq!(admin.query_one(of_account, &[&account.user]).unwrap().get::<_, i64>(0), 3);
}

fn run_merge(client: &mut postgres::Transaction, guest: &Session) {
    let merged = client.query_one("select auth.merge_anonymous_user($1)", &[&guest.access_token]);
    merged.unwrap_or_else(|error| panic!("{}", describe(&error)));
}

#[test]
fn N14_no_secret_in_an_error_or_a_log() {
    let server = Server::shared();
    let db = Database::on(&server);
    let mut admin = db.connect();
    run(&mut admin, SHOP);
    let (guest, account) = (sign_in(&mut admin), account(&mut admin));
    run(
        &mut admin,
        "create function fail() returns trigger language plpgsql as $$ begin raise exception 'no %', current_query(); end $$;
         create trigger fail before update on carts for each row execute function fail()",
    );
    fill_cart(&mut admin, &guest, 0..3);
    let mut app = db.connect_as(APP);
    let text = expect_error(merge(&mut app, &account, &guest), "PT409", "merge_failed");
    for token in [&guest.access_token, &guest.refresh_token, &account.access_token] {
        assert!(!text.contains(token.as_str()), "{text}");
    }
}

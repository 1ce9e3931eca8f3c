//! Merges that race with other merges, with clean-up, and with what guest and account write meanwhile.

use anon_auth_tests::*;
use postgres::{Client, Error, IsolationLevel};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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

/// Has a guest claim an address; returns the code that was sent there.
fn claim(admin: &mut Client, guest: &Session, address: &str) -> String {
    set_token(admin, &guest.access_token);
    admin.execute("select auth.update_user(jsonb_build_object('email', $1::text))", &[&address]).unwrap();
    set_token(admin, "");
    let code =
        "select convert_from(secret, 'UTF8')::jsonb->>0 from auth.messages where user_id = $1 and status = 'pending'";
    admin.query_one(code, &[&guest.user]).unwrap().get(0)
}

/// Merges the guest while it proves its address by the code that was sent there; what came of both.
fn merge_while_proving(
    db: &Database,
    round: usize,
    account: &Session,
    guest: &Session,
    code: &str,
) -> [Option<String>; 2] {
    let results = db.at_once(2, APP, |i, client| -> Result<(), Error> {
        // In turn the one, the other and neither comes later.
        sleep(if round % 3 == i { 100 } else { 0 });
        if i == 0 {
            return merge(client, account, guest).map(|_| ());
        }
        let mut transaction = client.transaction()?;
        authenticate(&mut transaction, &guest.access_token)?;
        transaction.query_one("select auth.verify_otp('email_change', $1)", &[&code])?;
        transaction.commit()
    });
    let mut errors = results.into_iter().map(|result| result.err().map(|error| describe(&error)));
    [errors.next().flatten(), errors.next().flatten()]
}

/// What a guest hears that was merged a moment ago.
fn is_gone(text: &str) -> bool {
    ["session_not_found", "no_authorization", "otp_expired", "user_not_found"].iter().any(|code| text.contains(code))
}

#[test]
fn W8_while_the_guest_is_promoted() {
    let (db, mut admin) = setup();
    admin.execute("select auth.set_setting('otp_message_limit_client', '1000')", &[]).unwrap();
    let (mut merged, mut promoted) = (0, 0);
    for round in 0..15 {
        let (guest, account) = (sign_in(&mut admin), account(&mut admin));
        fill_cart(&mut admin, &guest, 0..10);
        let code = claim(&mut admin, &guest, &format!("ada{round}@example.org"));
        let owner = match merge_while_proving(&db, round, &account, &guest, &code) {
            // The token is of a session that the promotion has ended.
            [Some(text), None] if text.contains("session_not_found") || text.contains("not_anonymous") => {
                promoted += 1;
                assert!(exists(&mut admin, guest.user));
                guest.user
            }
            [None, Some(text)] if is_gone(&text) => {
                merged += 1;
                assert!(!exists(&mut admin, guest.user));
                account.user
            }
            errors => panic!("exactly one of the two comes first: {errors:?}"),
        };
        assert_eq!(value::<uuid::Uuid>(&mut admin, "select user_id from carts"), owner);
        assert_eq!(value::<i64>(&mut admin, "select count(*) from items"), 10);
        run(&mut admin, "delete from auth.users");
    }
    assert!(merged > 0 && promoted > 0, "{merged} merged, {promoted} promoted");
    assert_eq!(deadlocks(&mut admin), 0);
}

/// The address is the account's, so that the code signs the guest in there.
#[test]
fn A5_while_the_guest_signs_in_to_the_account() {
    let (db, mut admin) = setup();
    for (name, value) in [("otp_message_limit_client", "1000"), ("promotion_conflict", "login")] {
        admin.execute("select auth.set_setting($1, $2)", &[&name, &value]).unwrap();
    }
    for round in 0..12 {
        let (account, guest) = (account(&mut admin), sign_in(&mut admin));
        let address = format!("bob{round}@example.org");
        let prove = "update auth.users set email = $2, email_confirmed_at = now() where id = $1";
        admin.execute(prove, &[&account.user, &address]).unwrap();
        fill_cart(&mut admin, &guest, 0..10);
        let code = claim(&mut admin, &guest, &address);
        let [merged, signed_in] = merge_while_proving(&db, round, &account, &guest, &code);
        assert_eq!(merged, None);
        assert!(signed_in.as_ref().is_none_or(|text| is_gone(text)), "{signed_in:?}");
        assert_eq!(value::<uuid::Uuid>(&mut admin, "select user_id from carts"), account.user);
        assert_eq!(value::<i64>(&mut admin, "select count(*) from items"), 10);
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
fn W1_who_writes_for_both_gets_on_however_long_the_merge_waits() {
    let (db, mut admin) = setup();
    // Long past it: Postgres looks for a deadlock once for each wait, when it has lasted that long.
    run(&mut admin, &format!("alter database {} set deadlock_timeout = '100ms'", db.name));
    let (first, second) = (account(&mut admin), account(&mut admin));
    let guest = sign_in(&mut admin);
    let last = account(&mut admin);
    for (n, account) in [&first, &second, &last].into_iter().enumerate() {
        // In either order of the ids of those whose rows are written.
        let (before, after) = if account.user == second.user { (account, &guest) } else { (&guest, account) };
        let mut writer = db.connect();
        let mut writing = writer.transaction().unwrap();
        let write = |user: &Session| format!("insert into notes values ('{}', {n})", user.user);
        run(&mut writing, &write(before));
        let mut app = db.connect_as(APP);
        std::thread::scope(|scope| {
            let merged = scope.spawn(|| {
                let mut transaction = app.transaction().unwrap();
                authenticate(&mut transaction, &account.access_token).unwrap();
                let sql = "select auth.merge_anonymous_user($1, dry_run => true)";
                transaction.execute(sql, &[&guest.access_token]).map_err(|error| describe(&error))
            });
            let waiting =
                "select exists (select from pg_locks where waitstart < clock_timestamp() - interval '300 ms')";
            wait_until("the merge waits", Duration::from_secs(10), || value(&mut admin, waiting));
            writing.batch_execute(&write(after)).unwrap_or_else(|error| panic!("{}", describe(&error)));
            writing.commit().unwrap();
            merged.join().unwrap().unwrap();
        });
    }
    assert_eq!(deadlocks(&mut admin), 0);
    // A limit of the caller's own is no reason to speak of statements.
    let mut holder = db.connect();
    let mut held = holder.transaction().unwrap();
    run(&mut held, &format!("select from auth.users where id = '{}' for update", guest.user));
    let mut app = db.connect_as(APP);
    run(&mut app, "set lock_timeout = '200ms'");
    let text = expect_error(merge(&mut app, &first, &guest), "PT409", "conflict");
    assert!(text.contains("the guest or the account is locked by somebody else"), "{text}");
}

/// Merges while a transaction of another's has done `write`, and commits when the merge waits.
fn merge_meanwhile(db: &Database, admin: &mut Client, account: &Session, guest: &Session, write: &str) -> Value {
    let mut writer = db.connect();
    let mut writing = writer.transaction().unwrap();
    run(&mut writing, write);
    let mut app = db.connect_as(APP);
    std::thread::scope(|scope| {
        let merged = scope.spawn(|| merge(&mut app, account, guest).map_err(|error| describe(&error)));
        let waiting = "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')";
        wait_until("the merge waits", Duration::from_secs(10), || merged.is_finished() || value(admin, waiting));
        writing.commit().unwrap();
        merged.join().unwrap().unwrap_or_else(|error| panic!("{error}"))
    })
}

/// Checks anew what every foreign key says.
fn check_foreign_keys(admin: &mut Client) {
    run(
        admin,
        "do $$
         declare
             k record;
         begin
             for k in select conrelid::regclass as relation, conname from pg_constraint where contype = 'f' and connamespace = 'public'::regnamespace loop
                 update pg_constraint set convalidated = false where conname = k.conname and conrelid = k.relation;
                 execute format('alter table %s validate constraint %I', k.relation, k.conname);
             end loop;
         end
         $$",
    );
}

#[test]
fn W1_a_row_that_is_added_meanwhile_to_one_that_goes() {
    let (db, mut admin) = setup();
    run(
        &mut admin,
        "create table labels (
             cart uuid, product int, label text,
             foreign key (cart, product) references items on delete cascade,
             primary key (cart, product, label));",
    );
    // What is added, by which rule, and how much there is of it in the end.
    let item = "insert into items select id, 99, 1 from carts where user_id = $1";
    let label = "insert into labels select id, 0, 'late' from carts where user_id = $1";
    for (write, rule, guests, left) in [
        (item, "merge", true, 1),
        (label, "merge", true, 1),
        (item, "keep_account", true, 0),
        (label, "keep_account", true, 0),
        (item, "keep_guest", false, 0),
        (label, "keep_guest", false, 0),
        (item, "ignore", true, 0),
    ] {
        let (guest, account) = (sign_in(&mut admin), account(&mut admin));
        fill_cart(&mut admin, &guest, 0..3);
        fill_cart(&mut admin, &account, 0..3);
        admin.execute("select auth.set_merge_rule('carts', $1)", &[&rule]).unwrap();
        let whose = if guests { &guest } else { &account };
        let write = write.replace("$1", &format!("'{}'", whose.user));
        let report = merge_meanwhile(&db, &mut admin, &account, &guest, &write);
        let of_account =
            "select count(*) from (select cart from items where product = 99 union all select cart from labels) r
             join carts on id = cart where user_id = $1";
        let found: i64 = admin.query_one(of_account, &[&account.user]).unwrap().get(0);
        assert_eq!(found, left, "{rule} {write} {report}");
        check_foreign_keys(&mut admin);
        assert_eq!(value::<i64>(&mut admin, "select count(*) from carts"), 1);
        run(&mut admin, "delete from auth.users");
    }
    assert_eq!(deadlocks(&mut admin), 0);
}

#[test]
fn W1_rows_that_get_another_key_meanwhile() {
    let (db, mut admin) = setup();
    run(
        &mut admin,
        "create table folders (user_id uuid references auth.users (id), no int, primary key (user_id, no));
         create table files (user_id uuid, folder int, name text,
                             foreign key (user_id, folder) references folders on update cascade);
         create table shares (note uuid, n int, foreign key (note, n) references notes (user_id, n) on delete set null, hits int);
         select auth.set_merge_rule('notes', 'keep_account');",
    );
    let (guest, account) = (sign_in(&mut admin), account(&mut admin));
    admin.execute("insert into folders values ($1, 1)", &[&guest.user]).unwrap();
    admin.execute("insert into files values ($1, 1, 'a.txt')", &[&guest.user]).unwrap();
    merge_meanwhile(&db, &mut admin, &account, &guest, "update folders set no = 2");
    let file = admin.query_one("select user_id, folder from files", &[]).unwrap();
    assert_eq!((file.get::<_, uuid::Uuid>(0), file.get::<_, i32>(1)), (account.user, 2));
    check_foreign_keys(&mut admin);
    // A row that is to lose its key is changed.
    let guest = sign_in(&mut admin);
    admin.execute("insert into notes values ($1, 1)", &[&guest.user]).unwrap();
    admin.execute("insert into shares values ($1, 1, 0)", &[&guest.user]).unwrap();
    merge_meanwhile(&db, &mut admin, &account, &guest, "update shares set hits = hits + 1");
    assert_eq!(value::<i64>(&mut admin, "select count(*) from shares where note is null and hits = 1"), 1);
    check_foreign_keys(&mut admin);
}

/// What overlaps a period of the guest's follows, and keeps its own period.
#[test]
fn W1_temporal_keys() {
    let (db, mut admin) = setup();
    if value::<i32>(&mut admin, "select current_setting('server_version_num')::integer") < 180000 {
        return;
    }
    run(
        &mut admin,
        "create extension btree_gist;
         create table stays (user_id uuid references auth.users (id), during daterange, primary key (user_id, during without overlaps));
         create table meals (user_id uuid, during daterange, foreign key (user_id, period during) references stays (user_id, period during))",
    );
    let (guest, account) = (sign_in(&mut admin), account(&mut admin));
    let stay = "insert into stays select $1, r from unnest(array[daterange('2024-01-01', '2024-01-05'), daterange('2024-01-05', '2024-01-09')]) r";
    admin.execute(stay, &[&guest.user]).unwrap();
    // Over two of them.
    admin.execute("insert into meals values ($1, daterange('2024-01-04', '2024-01-06'))", &[&guest.user]).unwrap();
    admin.execute("insert into stays values ($1, daterange('2024-01-08', '2024-01-10'))", &[&account.user]).unwrap();
    let mut app = db.connect_as(APP);
    let text = expect_error(merge(&mut app, &account, &guest), "PT409", "merge_conflict");
    assert!(text.contains("stays_pkey"), "{text}");
    run(&mut admin, "delete from stays where lower(during) = '2024-01-08'");
    merge(&mut app, &account, &guest).unwrap_or_else(|error| panic!("{}", describe(&error)));
    let row = admin.query_one("select user_id, during::text from meals", &[]).unwrap();
    assert_eq!((row.get(0), row.get(1)), (account.user, "[2024-01-04,2024-01-06)".to_owned()));
    check_foreign_keys(&mut admin);
}

#[test]
fn W1_rows_held_in_a_schema_that_few_may_use() {
    let (db, mut admin) = setup();
    run(&mut admin, "create schema closed; alter table carts set schema closed; set search_path = closed, public");
    let (guest, account) = (sign_in(&mut admin), account(&mut admin));
    fill_cart(&mut admin, &guest, 0..3);
    let mut holder = db.connect();
    let mut held = holder.transaction().unwrap();
    run(&mut held, "update closed.carts set id = id");
    let mut app = db.connect_as(APP);
    std::thread::scope(|scope| {
        let merged = scope.spawn(|| merge(&mut app, &account, &guest).map_err(|error| describe(&error)));
        sleep(700);
        held.commit().unwrap();
        merged.join().unwrap().unwrap_or_else(|error| panic!("{error}"));
    });
    assert_eq!(value::<uuid::Uuid>(&mut admin, "select user_id from carts"), account.user);
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

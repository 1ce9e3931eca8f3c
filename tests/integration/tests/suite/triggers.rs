//! Triggers of application tables that clean-up and `delete_user` fire: none gets rights that are not its own.

use anon_auth_tests::*;
use postgres::Client;
use serde_json::{Value, json};
use uuid::Uuid;

/// Owns the hostile tables; a login role without any rights but CREATE in a schema of its own.
const MALLORY: &str = "it_mallory";
/// Owns a table below Mallory's.
const TRENT: &str = "it_trent";

/// What a trigger tries, each after each way of becoming somebody else.
const ATTACKS: &[&str] = &[
    "alter role it_mallory superuser",
    "grant anon_auth_owner to it_mallory",
    "grant service_role to it_mallory",
    "select private_key from auth.signing_keys",
    "select refresh_token_nonce from auth.sessions",
    "delete from auth.users",
    "update auth.users set is_anonymous = false",
    "select auth.set_setting(''disabled'', ''true'')",
    "select auth.rotate_signing_key()",
    "create function auth.backdoor() returns int language sql as ''select 1''",
    "alter table auth.users disable trigger all",
    "set anon_auth.trust_request_claims = on",
    "select pg_read_file(''postgresql.conf'')",
];
const BECOMING: &[&str] = &[
    "select 1",
    "reset role",
    "set role none",
    "set local role anon_auth_owner",
    "set role service_role",
    "set session authorization default",
    "reset session authorization",
    "set session authorization postgres",
    "set constraints all deferred",
];

fn setup() -> (Database, Client) {
    let db = Database::new();
    let mut admin = db.connect();
    for role in [MALLORY, TRENT] {
        let sql = format!(
            "do $$ begin create role {role} login; exception when duplicate_object or unique_violation then null; end $$;
             create schema {role} authorization {role}; grant usage on schema {role} to public"
        );
        run(&mut admin, &sql);
    }
    let attacks = ATTACKS.iter().map(|attack| format!("'{attack}'")).collect::<Vec<_>>().join(", ");
    let becoming = BECOMING.iter().map(|way| format!("'{way}'")).collect::<Vec<_>>().join(", ");
    run(
        &mut admin,
        &format!(
            "create table public.seen (place text, who name default current_user, did text);
             grant insert, select on public.seen to public;
             create function public.attack(place text) returns void language plpgsql as $$
             declare way text; command text;
             begin
                 insert into public.seen (place) values (place);
                 foreach way in array array[{becoming}] loop
                     foreach command in array array['select 1', {attacks}] loop
                         -- Rolled back again, lest one test's success be another's surprise.
                         begin
                             execute way;
                             execute command;
                             raise exception using message = current_user, errcode = 'ZZ001';
                         exception
                             when sqlstate 'ZZ001' then
                                 insert into public.seen (place, who, did)
                                 values (place || ', ' || way, sqlerrm, nullif(command, 'select 1'));
                             when others then null;
                         end;
                     end loop;
                 end loop;
             end $$;
             create function public.attack() returns trigger language plpgsql as $$
             begin
                 perform public.attack(tg_table_name || ' ' || tg_name);
                 return case tg_op when 'DELETE' then old else new end;
             end $$;"
        ),
    );
    (db, admin)
}

/// Has every kind of trigger on a table attack.
fn arm(owner: &mut Client, table: &str) {
    let mut sql = String::new();
    for (name, trigger) in [
        ("before_row", "trigger before_row before delete or update on {} for each row"),
        ("after_row", "trigger after_row after delete or update on {} for each row"),
        ("before_statement", "trigger before_statement before delete or update on {} for each statement"),
        ("after_statement", "trigger after_statement after delete or update on {} for each statement"),
        (
            "deferred",
            "constraint trigger deferred after delete or update on {} deferrable initially deferred for each row",
        ),
        ("deferrable", "constraint trigger deferrable_one after delete or update on {} deferrable for each row"),
    ] {
        assert!(trigger.contains(name));
        sql += &format!("create {} execute function public.attack();", trigger.replace("{}", table));
    }
    run(owner, &sql);
}

fn expire(admin: &mut Client, user: Uuid) {
    for sql in [
        "update auth.users set created_at = now() - interval '100 days' where id = $1",
        "update auth.sessions set refreshed_at = now() - interval '100 days' where user_id = $1",
    ] {
        admin.execute(sql, &[&user]).unwrap();
    }
}

/// Asserts that no trigger ran as anybody but the owners of the tables, nor did anything it must not.
fn assert_harmless(admin: &mut Client) {
    let who: Vec<String> = admin
        .query("select distinct place || ' as ' || who from seen where who not in ('it_mallory', 'it_trent')", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(who.is_empty(), "triggers ran as {who:?}");
    let did: Vec<String> = admin
        .query("select distinct place || ': ' || did from seen where did is not null", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(did.is_empty(), "triggers managed to {did:?}");
    let raised = "select exists (select from pg_roles where rolname in ('it_mallory', 'it_trent') and rolsuper)";
    assert!(!value::<bool>(admin, raised));
}

#[test]
fn N22_triggers_gain_no_rights_directly_or_by_cascade() {
    let (db, mut admin) = setup();
    let mut mallory = db.connect_as(MALLORY);
    let mut trent = db.connect_as(TRENT);
    run(
        &mut mallory,
        "create table it_mallory.cascading (id uuid primary key references auth.users (id) on delete cascade);
         create table it_mallory.nulling (user_id uuid references auth.users (id) on delete set null);
         create table it_mallory.defaulting (user_id uuid default null references auth.users (id) on delete set default);
         create table it_mallory.partitioned (user_id uuid references auth.users (id) on delete cascade) partition by hash (user_id);
         create table it_mallory.part partition of it_mallory.partitioned for values with (modulus 1, remainder 0);
         grant references on it_mallory.cascading to it_trent;
         alter table it_mallory.cascading force row level security;
         grant insert on all tables in schema it_mallory to public",
    );
    run(
        &mut trent,
        "create table it_trent.grandchild (id uuid primary key references it_mallory.cascading (id) on delete cascade);
         create table it_trent.deferred_grandchild (
             id uuid primary key references it_trent.grandchild (id) on delete cascade deferrable initially deferred)",
    );
    for table in ["cascading", "nulling", "defaulting", "part"] {
        arm(&mut mallory, &format!("it_mallory.{table}"));
    }
    for table in ["grandchild", "deferred_grandchild"] {
        arm(&mut trent, &format!("it_trent.{table}"));
    }
    let own = |admin: &mut Client, user: Uuid| {
        for table in [
            "it_mallory.cascading",
            "it_mallory.nulling",
            "it_mallory.defaulting",
            "it_mallory.partitioned",
            "it_trent.grandchild",
            "it_trent.deferred_grandchild",
        ] {
            admin.execute(&format!("insert into {table} values ($1)"), &[&user]).unwrap();
        }
    };
    let bystander = sign_in(&mut admin);

    // Clean-up, called by a superuser: the most there is to win.
    let expired = sign_in(&mut admin).user;
    own(&mut admin, expired);
    expire(&mut admin, expired);
    let report: Value = value(&mut admin, "select auth.cleanup_expired_users()");
    if value::<i32>(&mut admin, "select current_setting('server_version_num')::int") < 180_000 {
        // Trent's triggers would run as Mallory, so his rows keep the guest.
        assert_eq!((&report["deleted"], &report["blocked"]), (&json!(0), &json!(1)), "{report}");
        assert_eq!(value::<i64>(&mut admin, "select count(*) from seen"), 0, "nobody's trigger ran");
        run(
            &mut admin,
            "grant usage on schema it_trent to it_mallory;
             alter table it_trent.grandchild owner to it_mallory;
             alter table it_trent.deferred_grandchild owner to it_mallory",
        );
        let report: Value = value(&mut admin, "select auth.cleanup_expired_users()");
        assert_eq!(report["deleted"], json!(1), "{report}");
    } else {
        assert_eq!(report["deleted"], json!(1), "{report}");
    }
    assert_harmless(&mut admin);
    let places: i64 = value(&mut admin, "select count(distinct place) from seen where place not like '%,%'");
    assert_eq!(places, 6 * 6 - 2, "every trigger fired, but the statement triggers of the partition");

    // A guest that deletes itself, through the application's login role.
    run(&mut admin, "truncate seen");
    let guest = sign_in(&mut admin);
    own(&mut admin, guest.user);
    let mut app = db.connect_as(APP);
    let mut transaction = app.transaction().unwrap();
    authenticate(&mut transaction, &guest.access_token).unwrap();
    run(&mut transaction, "select auth.delete_user()");
    transaction.commit().unwrap();
    assert!(!exists(&mut admin, guest.user));
    assert_harmless(&mut admin);

    assert!(exists(&mut admin, bystander.user), "nobody else was deleted");
    refresh(&mut admin, &bystander.refresh_token).unwrap();
    let nulled = "select count(*) from it_mallory.nulling where user_id is null";
    assert_eq!(value::<i64>(&mut admin, nulled), 2);
}

/// Has clean-up (by a superuser) delete a guest with a row in Mallory's table `bait`, and the guest delete
/// itself where that failed; returns the reports.
fn take_the_bait(db: &Database, admin: &mut Client) {
    let expired = sign_in(admin).user;
    admin.execute("insert into it_mallory.bait values ($1)", &[&expired]).unwrap();
    expire(admin, expired);
    // Refused or not: what matters is what the trigger got to do. It fires at the end of the transaction at the latest.
    let mut job = db.connect();
    let _ = job.batch_execute("call auth.cleanup()");

    let guest = sign_in(admin);
    admin.execute("insert into it_mallory.bait values ($1)", &[&guest.user]).unwrap();
    let mut app = db.connect_as(APP);
    let mut transaction = app.transaction().unwrap();
    authenticate(&mut transaction, &guest.access_token).unwrap();
    if transaction.batch_execute("select auth.delete_user()").is_ok() {
        let _ = transaction.commit();
    }
}

#[test]
fn N22_a_deferred_trigger_that_defers_itself_again() {
    let (db, mut admin) = setup();
    let mut mallory = db.connect_as(MALLORY);
    run(
        &mut mallory,
        "create table it_mallory.bait (user_id uuid references auth.users (id) on delete cascade);
         create table it_mallory.later (n int);
         create function it_mallory.again() returns trigger language plpgsql as $$
         begin
             perform public.attack('again');
             if current_user = 'it_mallory' then
                 set constraints all deferred;
                 insert into it_mallory.later values (1);
             end if;
             return null;
         end $$;
         create constraint trigger again after delete on it_mallory.bait
             deferrable initially deferred for each row execute function it_mallory.again();
         create constraint trigger again after insert on it_mallory.later
             deferrable initially deferred for each row execute function it_mallory.again();",
    );
    take_the_bait(&db, &mut admin);
    assert_harmless(&mut admin);
}

#[test]
fn N22_a_trigger_that_leaves_a_cursor_for_the_commit() {
    let (db, mut admin) = setup();
    let mut mallory = db.connect_as(MALLORY);
    run(
        &mut mallory,
        "create table it_mallory.bait (user_id uuid references auth.users (id) on delete cascade);
         create function it_mallory.open() returns trigger language plpgsql as $$
         begin
             execute 'declare left_open cursor with hold for select public.attack(''cursor'')';
             return old;
         end $$;
         create trigger open before delete on it_mallory.bait for each row execute function it_mallory.open();",
    );
    take_the_bait(&db, &mut admin);
    assert_harmless(&mut admin);
}

#[test]
fn N22_a_trigger_that_puts_its_operators_in_front() {
    let (db, mut admin) = setup();
    let mut mallory = db.connect_as(MALLORY);
    run(
        &mut mallory,
        "create table it_mallory.bait (user_id uuid references auth.users (id) on delete cascade);
         create function it_mallory.same(uuid, uuid) returns boolean language plpgsql as $$
         begin
             perform public.attack('operator');
             return true;
         end $$;
         create operator it_mallory.= (leftarg = uuid, rightarg = uuid, function = it_mallory.same);
         create function it_mallory.divert() returns trigger language plpgsql as $$
         begin
             set search_path = it_mallory, pg_catalog;
             return old;
         end $$;
         create trigger divert before delete on it_mallory.bait for each row execute function it_mallory.divert();",
    );
    let bystander = sign_in(&mut admin);
    take_the_bait(&db, &mut admin);
    assert_harmless(&mut admin);
    assert!(exists(&mut admin, bystander.user));

    // Nor does it stay with whoever called the clean-up.
    let expired = sign_in(&mut admin).user;
    admin.execute("insert into it_mallory.bait values ($1)", &[&expired]).unwrap();
    expire(&mut admin, expired);
    let mut job = db.connect();
    let before: String = value(&mut job, "show search_path");
    run(&mut job, "call auth.cleanup()");
    assert_eq!(value::<String>(&mut job, "show search_path"), before);
}

#[test]
fn N22_a_trigger_that_puts_the_row_back() {
    for trigger in [
        "trigger back after delete on it_mallory.bait for each row",
        "constraint trigger back after delete on it_mallory.bait deferrable initially deferred for each row",
    ] {
        let (db, mut admin) = setup();
        let mut mallory = db.connect_as(MALLORY);
        let sql = format!(
            "create table it_mallory.bait (user_id uuid references auth.users (id) on delete cascade);
             create table it_mallory.a_bait (user_id uuid references auth.users (id) on delete cascade);
             create function it_mallory.back() returns trigger language plpgsql as $$
             begin
                 insert into it_mallory.bait values (old.user_id);
                 insert into it_mallory.a_bait values (old.user_id);
                 return null;
             end $$;
             create {trigger} execute function it_mallory.back();"
        );
        run(&mut mallory, &sql);
        let guest = sign_in(&mut admin);
        admin.execute("insert into it_mallory.bait values ($1)", &[&guest.user]).unwrap();

        let mut app = db.connect_as(APP);
        let mut transaction = app.transaction().unwrap();
        authenticate(&mut transaction, &guest.access_token).unwrap();
        let text =
            expect_error(transaction.batch_execute("select auth.delete_user()"), "PT409", "user_still_referenced");
        assert!(text.contains("it_mallory.a_bait") || text.contains("it_mallory.bait"), "{text}");
        transaction.rollback().unwrap();

        expire(&mut admin, guest.user);
        let report: Value = value(&mut admin, "select auth.cleanup_expired_users()");
        assert_eq!((&report["deleted"], &report["blocked"]), (&json!(0), &json!(1)), "{report}");
        assert!(exists(&mut admin, guest.user));
        assert_eq!(value::<i64>(&mut admin, "select count(*) from it_mallory.bait"), 1);
    }
}

#[test]
fn N22_what_the_caller_deferred_runs_as_the_caller() {
    let (db, mut admin) = setup();
    let mut mallory = db.connect_as(MALLORY);
    run(
        &mut mallory,
        "create table it_mallory.bait (user_id uuid references auth.users (id) on delete cascade);
         create table it_mallory.mine (n int);
         grant insert on it_mallory.mine to public;
         create function it_mallory.note() returns trigger language plpgsql as $$
             begin insert into public.seen (place) values ('note'); return null; end $$;
         create constraint trigger note after insert on it_mallory.mine
             deferrable initially deferred for each row execute function it_mallory.note();",
    );
    let guest = sign_in(&mut admin);
    admin.execute("insert into it_mallory.bait values ($1)", &[&guest.user]).unwrap();
    let mut app = db.connect_as(APP);
    let mut transaction = app.transaction().unwrap();
    authenticate(&mut transaction, &guest.access_token).unwrap();
    run(&mut transaction, "insert into it_mallory.mine values (1); select auth.delete_user()");
    transaction.commit().unwrap();
    assert_eq!(value::<String>(&mut admin, "select string_agg(who, ',') from seen"), "authenticated");
}

#[test]
fn N16_defaults_constraints_indexes_rules_and_policies_gain_no_rights() {
    let (db, mut admin) = setup();
    let mut mallory = db.connect_as(MALLORY);
    run(
        &mut mallory,
        "create function it_mallory.evil(place text) returns uuid language plpgsql as
             'begin perform public.attack(place); return null; end';
         create function it_mallory.evil_index(uuid) returns text language plpgsql immutable as
             'begin perform public.attack(''index''); return $1; end';
         create table it_mallory.copied (user_id uuid);
         create table it_mallory.defaulting (
             user_id uuid default it_mallory.evil('default') references auth.users (id) on delete set default,
             check (it_mallory.evil('check') is null));
         create table it_mallory.nulling (
             user_id uuid references auth.users (id) on delete set null,
             n text generated always as (it_mallory.evil_index(user_id)) stored);
         create index on it_mallory.nulling (it_mallory.evil_index(user_id));
         create table it_mallory.ruled (user_id uuid references auth.users (id) on delete cascade);
         create rule also as on delete to it_mallory.ruled do also
             insert into it_mallory.copied values (it_mallory.evil('rule'));
         create table it_mallory.guarded (user_id uuid references auth.users (id) on delete cascade);
         alter table it_mallory.guarded enable row level security;
         alter table it_mallory.guarded force row level security;
         create policy evil on it_mallory.guarded using (it_mallory.evil('policy') is null);",
    );
    let guest = sign_in(&mut admin);
    for table in ["defaulting", "nulling", "ruled", "guarded"] {
        admin.execute(&format!("insert into it_mallory.{table} (user_id) values ($1)"), &[&guest.user]).unwrap();
    }
    run(&mut admin, "truncate seen");
    expire(&mut admin, guest.user);
    let report: Value = value(&mut admin, "select auth.cleanup_expired_users()");
    assert_eq!(report["deleted"], json!(1), "{report}");
    assert_harmless(&mut admin);
    let places = "select string_agg(distinct place, ' ' order by place) from seen where place not like '%,%'";
    assert_eq!(value::<String>(&mut admin, places), "check default index rule");
}

#[test]
fn N22_a_trigger_that_calls_the_extension() {
    for call in [
        "auth.delete_user()",
        "auth.sign_out()",
        "auth.sign_in_anonymously()",
        "auth.refresh_session(old.refresh_token)",
        "auth.get_user()",
    ] {
        let (db, mut admin) = setup();
        let mut mallory = db.connect_as(MALLORY);
        let sql = format!(
            "create table it_mallory.bait (
                 user_id uuid references auth.users (id) on delete cascade, access_token text, refresh_token text);
             create function it_mallory.call() returns trigger language plpgsql as $$
             begin
                 perform set_config('anon_auth.access_token', old.access_token, true);
                 perform {call};
                 return old;
             end $$;
             create trigger call before delete on it_mallory.bait for each row execute function it_mallory.call();"
        );
        run(&mut mallory, &sql);
        let bystander = sign_in(&mut admin);
        let guests: Vec<_> = (0..2).map(|_| sign_in(&mut admin)).collect();
        for guest in &guests {
            admin
                .execute(
                    "insert into it_mallory.bait values ($1, $2, $3)",
                    &[&guest.user, &guest.access_token, &guest.refresh_token],
                )
                .unwrap();
        }
        expire(&mut admin, guests[0].user);
        run(&mut db.connect(), "call auth.cleanup()");
        let mut app = db.connect_as(APP);
        let mut transaction = app.transaction().unwrap();
        authenticate(&mut transaction, &guests[1].access_token).unwrap();
        if transaction.batch_execute("select auth.delete_user()").is_ok() {
            transaction.commit().unwrap();
        } else {
            transaction.rollback().unwrap();
        }
        // Deleted or left, but nothing in between.
        let orphans = "select count(*) from it_mallory.bait b where not exists (select from auth.users u where u.id = b.user_id)";
        assert_eq!(value::<i64>(&mut admin, orphans), 0, "{call}");
        let sessions =
            "select count(*) from auth.sessions s where not exists (select from auth.users u where u.id = s.user_id)";
        assert_eq!(value::<i64>(&mut admin, sessions), 0, "{call}");
        refresh(&mut admin, &bystander.refresh_token).unwrap();
        assert!(!value::<bool>(&mut admin, "select auth.setting('disabled')::boolean"));
    }
}

#[test]
fn N22_a_cast_that_leaves_a_trigger_for_the_caller() {
    let (db, mut admin) = setup();
    let mut mallory = db.connect_as(MALLORY);
    run(
        &mut mallory,
        "create table it_mallory.later (n int);
         create function it_mallory.later() returns trigger language plpgsql as
             'begin perform public.attack(''later''); return null; end';
         create constraint trigger later after insert on it_mallory.later
             deferrable initially deferred for each row execute function it_mallory.later();
         create type it_mallory.wrapped as (id uuid);
         create function it_mallory.unwrapped(it_mallory.wrapped) returns uuid language plpgsql as $$
         begin
             insert into it_mallory.later values (1);
             perform public.attack('cast');
             return $1.id;
         end $$;
         grant insert on it_mallory.later to public;
         create cast (it_mallory.wrapped as uuid) with function it_mallory.unwrapped(it_mallory.wrapped) as implicit;
         create table it_mallory.bait (user_id it_mallory.wrapped references auth.users (id) on delete restrict);
         create table it_mallory.other_bait (user_id it_mallory.wrapped references auth.users (id) on delete cascade);",
    );
    let guests: Vec<_> = (0..3).map(|_| sign_in(&mut admin).user).collect();
    for (guest, table) in guests.iter().zip(["bait", "other_bait"]) {
        mallory.execute(&format!("insert into it_mallory.{table} values (row($1::uuid))"), &[guest]).unwrap();
    }
    run(&mut admin, "truncate seen");
    for guest in &guests {
        expire(&mut admin, *guest);
    }
    let mut job = db.connect();
    let _ = job.batch_execute("call auth.cleanup()");
    assert_harmless(&mut admin);

    let guest = sign_in(&mut admin);
    mallory.execute("insert into it_mallory.other_bait values (row($1::uuid))", &[&guest.user]).unwrap();
    run(&mut admin, "truncate seen");
    let mut app = db.connect_as(APP);
    let mut transaction = app.transaction().unwrap();
    authenticate(&mut transaction, &guest.access_token).unwrap();
    if transaction.batch_execute("select auth.delete_user()").is_ok() {
        let _ = transaction.commit();
    }
    assert_harmless(&mut admin);
}

/// Has a guest with a row in each of Mallory's tables merged into an account with a row in some; whether it was.
fn merge_the_bait(db: &Database, admin: &mut Client, guests: &[&str], accounts: &[&str]) -> Result<Value, String> {
    let (guest, account) = (sign_in(admin), sign_in(admin));
    for (user, tables) in [(guest.user, guests), (account.user, accounts)] {
        for table in tables {
            admin.execute(&format!("insert into {table} values ($1)"), &[&user]).unwrap();
        }
    }
    run(admin, "truncate seen");
    let mut app = db.connect_as(APP);
    let mut transaction = app.transaction().unwrap();
    authenticate(&mut transaction, &account.access_token).unwrap();
    let merged = transaction.query_one("select auth.merge_anonymous_user($1)", &[&guest.access_token]);
    let report = merged.map(|row| row.get(0)).map_err(|error| describe(&error))?;
    transaction.commit().map_err(|error| describe(&error))?;
    Ok(report)
}

#[test]
fn N16_triggers_gain_no_rights_in_a_merge() {
    let (db, mut admin) = setup();
    let mut mallory = db.connect_as(MALLORY);
    let mut trent = db.connect_as(TRENT);
    run(
        &mut mallory,
        "create table it_mallory.cascading (id uuid primary key references auth.users (id) on delete cascade);
         create table it_mallory.restricting (user_id uuid references auth.users (id) on delete restrict);
         create table it_mallory.partitioned (user_id uuid references auth.users (id) on delete cascade) partition by hash (user_id);
         create table it_mallory.part partition of it_mallory.partitioned for values with (modulus 1, remainder 0);
         grant references on it_mallory.cascading to it_trent;
         alter table it_mallory.cascading force row level security;
         grant insert, select on all tables in schema it_mallory to public",
    );
    run(
        &mut trent,
        "create table it_trent.grandchild (id uuid primary key references it_mallory.cascading (id) on update cascade on delete cascade);
         create table it_trent.deferred_grandchild (
             id uuid primary key references it_trent.grandchild (id) on delete cascade deferrable initially deferred)",
    );
    for table in ["cascading", "restricting", "part"] {
        arm(&mut mallory, &format!("it_mallory.{table}"));
    }
    for table in ["grandchild", "deferred_grandchild"] {
        arm(&mut trent, &format!("it_trent.{table}"));
    }
    let tables = [
        "it_mallory.cascading",
        "it_mallory.restricting",
        "it_mallory.partitioned",
        "it_trent.grandchild",
        "it_trent.deferred_grandchild",
    ];
    merge_the_bait(&db, &mut admin, &tables, &[]).unwrap();
    assert_harmless(&mut admin);
    let by = |admin: &mut Client, who: &str| -> i64 {
        value(admin, &format!("select count(distinct place) from seen where place not like '%,%' and who = '{who}'"))
    };
    assert_eq!(
        (by(&mut admin, MALLORY), by(&mut admin, TRENT)),
        (3 * 6 - 2, 2 * 6),
        "every trigger fired, as its owner"
    );

    // Where the account has the row, the guest's is deleted, and so is what hangs on it.
    let report = merge_the_bait(&db, &mut admin, &tables, &tables).unwrap();
    let dropped: Vec<_> =
        report["tables"].as_array().unwrap().iter().map(|table| table["dropped"].as_i64()).collect();
    assert_eq!(dropped, [Some(1), Some(0), Some(0), Some(1), Some(1)], "{report:#}");
    assert_harmless(&mut admin);
    assert_eq!(
        (by(&mut admin, MALLORY), by(&mut admin, TRENT)),
        (3 * 6 - 2, 2 * 6),
        "every trigger fired, as its owner"
    );
}

#[test]
fn N16_a_partition_or_an_action_of_another_owner_is_refused() {
    let (db, mut admin) = setup();
    run(
        &mut admin,
        "create table it_mallory.events (user_id uuid references auth.users (id)) partition by hash (user_id);
         create table it_trent.events_0 partition of it_mallory.events for values with (modulus 1, remainder 0);
         alter table it_mallory.events owner to it_mallory;
         alter table it_trent.events_0 owner to it_trent;
         grant usage on schema it_trent to it_mallory",
    );
    arm(&mut db.connect_as(TRENT), "it_trent.events_0");
    let refused = merge_the_bait(&db, &mut admin, &["it_mallory.events"], &[]).unwrap_err();
    assert!(refused.contains("merge_conflict: table it_mallory.events cannot be written"), "{refused}");
    assert_harmless(&mut admin);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from seen"), 0, "nobody's trigger ran");
}

#[test]
fn N16_rules_that_become_somebody_else() {
    let (db, mut admin) = setup();
    let mut mallory = db.connect_as(MALLORY);
    run(
        &mut mallory,
        "create table it_mallory.bait (user_id uuid references auth.users (id));
         grant insert, select on it_mallory.bait to public;
         create table it_mallory.later (n int);
         create function it_mallory.later() returns trigger language plpgsql as
             'begin perform public.attack(''later''); return null; end';
         create constraint trigger later after insert on it_mallory.later
             deferrable initially deferred for each row execute function it_mallory.later();
         create function it_mallory.combine(guest uuid, account uuid) returns void language plpgsql as $$
         begin
             perform public.attack('rule');
             insert into it_mallory.later values (1);
             update it_mallory.bait set user_id = account where user_id = guest;
             set search_path = it_mallory, pg_catalog;
         end $$;
         create function it_mallory.become(guest uuid, account uuid) returns void language plpgsql as $$
         begin
             set role none;
         end $$;",
    );
    run(
        &mut admin,
        "select auth.set_merge_rule('it_mallory.bait', 'function', function => 'it_mallory.combine(uuid, uuid)')",
    );
    merge_the_bait(&db, &mut admin, &["it_mallory.bait"], &[]).unwrap();
    assert_harmless(&mut admin);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from seen where place in ('rule', 'later')"), 2);

    run(
        &mut admin,
        "select auth.set_merge_rule('it_mallory.bait', 'function', function => 'it_mallory.become(uuid, uuid)')",
    );
    let refused = merge_the_bait(&db, &mut admin, &["it_mallory.bait"], &[]).unwrap_err();
    assert!(refused.contains("merge_failed: table it_mallory.bait: cannot set parameter \"role\""), "{refused}");

    // Nor does it find what the caller put into its temporary schema.
    run(
        &mut mallory,
        "alter function it_mallory.combine(uuid, uuid) set search_path = it_mallory;
         grant create on schema it_mallory to public",
    );
    run(
        &mut admin,
        "select auth.set_merge_rule('it_mallory.bait', 'function', function => 'it_mallory.combine(uuid, uuid)')",
    );
    let (guest, account) = (sign_in(&mut admin), sign_in(&mut admin));
    let mut app = db.connect_as(APP);
    run(&mut app, "create temporary table later (n int)");
    set_token(&mut app, &account.access_token);
    let refused = app.query_one("select auth.merge_anonymous_user($1)", &[&guest.access_token]);
    let text = expect_error(refused.map(|_| ()), "PT409", "merge_conflict");
    assert!(text.contains("temporary tables"), "{text}");
}

#[test]
fn N13_operators_and_functions_in_front_change_no_merge() {
    let (db, mut admin) = setup();
    let mut mallory = db.connect_as(MALLORY);
    run(
        &mut mallory,
        "create table it_mallory.bait (user_id uuid references auth.users (id), n int, unique (user_id, n));
         grant insert, select on it_mallory.bait to public;
         create function it_mallory.same(uuid, uuid) returns boolean language plpgsql as $$
         begin perform public.attack('operator'); return true; end $$;
         create operator it_mallory.= (leftarg = uuid, rightarg = uuid, function = it_mallory.same);
         create function it_mallory.unnest(text[]) returns setof text language plpgsql as $$
         begin perform public.attack('function'); end $$;
         create function it_mallory.divert() returns trigger language plpgsql as $$
         begin set search_path = it_mallory, pg_catalog; return new; end $$;
         create trigger divert before update on it_mallory.bait for each row execute function it_mallory.divert();",
    );
    merge_the_bait(&db, &mut admin, &["it_mallory.bait"], &[]).unwrap();
    assert_harmless(&mut admin);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from seen where who <> 'it_mallory'"), 0);
    // The caller's own path does nothing either.
    let (guest, account) = (sign_in(&mut admin), sign_in(&mut admin));
    let mut app = db.connect_as(APP);
    run(&mut app, "set search_path = it_mallory, pg_catalog");
    set_token(&mut app, &account.access_token);
    app.query_one("select auth.merge_anonymous_user($1)", &[&guest.access_token]).unwrap();
    assert_harmless(&mut admin);
    assert_eq!(value::<String>(&mut app, "show search_path"), "it_mallory, pg_catalog");
}

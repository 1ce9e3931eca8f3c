//! Hooks over several connections: set in one, called in all; cancelled, dumped, restored.

use anon_auth_tests::*;
use std::time::{Duration, Instant};

/// A hook that adds the claim `plan`, and one that never ends.
const FUNCTIONS: &str = "
    create schema app;
    create function app.plan(event jsonb) returns jsonb language sql as
        $$ select jsonb_set(event, '{claims,plan}', '\"free\"') $$;
    create function app.loop(event jsonb) returns jsonb language plpgsql as
        $$ begin loop null; end loop; end $$;
    create function app.sleep(event jsonb) returns jsonb language plpgsql as
        $$ begin perform pg_sleep(60); return null; end $$;
    create function app.lock(event jsonb) returns jsonb language plpgsql as
        $$ begin lock table app.locked; return null; end $$;
    create table app.locked ();";

fn plan(client: &mut postgres::Client) -> Option<String> {
    let guest = sign_in(client);
    verify(client, &guest.access_token).unwrap()["plan"].as_str().map(str::to_owned)
}

#[test]
fn S20_a_hook_is_called_in_every_session_from_the_commit_on() {
    let db = Database::new();
    let (mut admin, mut app) = (db.connect(), db.connect_as(APP));
    run(&mut admin, FUNCTIONS);
    assert_eq!(plan(&mut app), None);
    run(&mut admin, "begin; select auth.set_hook('custom_access_token', 'app.plan(jsonb)')");
    assert_eq!(plan(&mut app), None);
    assert_eq!(plan(&mut admin).as_deref(), Some("free"));
    run(&mut admin, "commit");
    assert_eq!(plan(&mut app).as_deref(), Some("free"));
    // A change that is rolled back was none.
    run(&mut admin, "begin; select auth.set_hook('custom_access_token', null)");
    assert_eq!(plan(&mut admin), None);
    run(&mut admin, "rollback");
    assert_eq!(plan(&mut admin).as_deref(), Some("free"));
    // Under REPEATABLE READ the present counts, too.
    let mut old = app.build_transaction().isolation_level(postgres::IsolationLevel::RepeatableRead).start().unwrap();
    value::<i64>(&mut old, "select count(*) from pg_class");
    run(&mut admin, "delete from auth.hooks");
    let guest = sign_in(&mut old);
    old.commit().unwrap();
    assert!(verify(&mut app, &guest.access_token).unwrap().get("plan").is_none());
    // A function that is changed, or dropped.
    run(&mut admin, "select auth.set_hook('custom_access_token', 'app.plan(jsonb)')");
    assert_eq!(plan(&mut app).as_deref(), Some("free"));
    run(
        &mut admin,
        "create or replace function app.plan(event jsonb) returns jsonb language sql as
             $$ select jsonb_set(event, '{claims,plan}', '\"paid\"') $$",
    );
    assert_eq!(plan(&mut app).as_deref(), Some("paid"));
    run(&mut admin, "drop function app.plan(jsonb)");
    expect_error(try_sign_in(&mut app), "PT500", "hook_failed");
}

#[test]
fn S20_a_hook_that_loops_sleeps_or_waits_is_ended_and_the_session_goes_on() {
    let db = Database::new();
    let (mut admin, mut app) = (db.connect_with(&[("hook_timeout", "200 ms")]), db.connect_as(APP));
    run(&mut admin, FUNCTIONS);
    let pid: i32 = value(&mut app, "select pg_backend_pid()");
    run(&mut admin, "begin; lock table app.locked");
    let mut other = db.connect();
    for function in ["loop", "sleep", "lock"] {
        other
            .execute(
                "select auth.set_hook('after_user_created', $1::text::regprocedure)",
                &[&format!("app.{function}(jsonb)")],
            )
            .unwrap();
        let start = Instant::now();
        expect_error(try_sign_in(&mut app), "PT504", "hook_timeout");
        let elapsed = start.elapsed();
        assert!(
            elapsed >= Duration::from_millis(200) && elapsed < Duration::from_secs(20),
            "{function}: {elapsed:?}"
        );
        // Nothing is cancelled after it.
        sleep(300);
        assert_eq!(value::<i32>(&mut app, "select pg_backend_pid()"), pid);
    }
    run(&mut admin, "commit");
    // Time that is not used up cancels nothing.
    run(&mut other, "select auth.set_hook('after_user_created', 'app.lock(jsonb)')");
    sign_in(&mut app);
    run(&mut app, "select pg_sleep(0.5)");
    assert_eq!(value::<i64>(&mut other, "select count(*) from auth.users"), 1);
}

/// One that goes on after it was cancelled is cancelled again, a loop without an end included.
#[test]
fn S20_a_hook_that_catches_its_cancellation_is_ended() {
    let db = Database::new();
    let (mut admin, mut app) = (db.connect_with(&[("hook_timeout", "200 ms")]), db.connect_as(APP));
    run(
        &mut admin,
        "create schema app;
         create function app.stubborn(event jsonb) returns jsonb language plpgsql as $$
         begin
             for i in 1 .. 60 loop
                 begin
                     perform pg_sleep(1);
                 exception when query_canceled then
                     null;
                 end;
             end loop;
             return null;
         end $$;
         create function app.endless(event jsonb) returns jsonb language plpgsql as $$
         begin
             loop
                 begin
                     perform pg_sleep(1);
                 exception when query_canceled then
                     null;
                 end;
             end loop;
         end $$;",
    );
    for function in ["stubborn", "endless"] {
        run(&mut admin, &format!("select auth.set_hook('after_user_created', 'app.{function}(jsonb)')"));
        let start = Instant::now();
        expect_error(try_sign_in(&mut app), "PT504", "hook_timeout");
        assert!(start.elapsed() < Duration::from_secs(20), "{function}: {:?}", start.elapsed());
        // Nothing is cancelled after it.
        run(&mut app, "select pg_sleep(0.3)");
    }
}

/// Whoever calls decides when the call is cancelled. What the hook was doing at that moment, with a code in its hands,
/// stays the hook's secret.
#[test]
fn N14_a_hook_that_is_cancelled_tells_no_code() {
    let db = Database::new();
    let (mut admin, mut app) = (db.connect(), db.connect_as(APP));
    run(
        &mut admin,
        "create schema app;
         create table app.sent (code text);
         create function app.send(event jsonb) returns void language plpgsql as $$
         begin
             if current_setting('app.raises', true) is not null then
                 raise exception '%', event->'email_data' using errcode = current_setting('app.raises'), detail = event->'email_data', hint = event->'email_data';
             end if;
             execute format('select pg_sleep(60), %L', event);
         end $$;
         select auth.set_hook('send_email', 'app.send(jsonb)')",
    );
    let guest = sign_in(&mut app);
    set_token(&mut app, &guest.access_token);
    let mut told = Vec::new();
    for setting in [
        "statement_timeout = '300ms'",
        "app.raises = '40001'",
        "app.raises = '57014'",
        "app.raises = 'PT403'",
        "app.raises = 'P0001'",
    ] {
        run(&mut app, "set statement_timeout = 0; select auth.uid()");
        run(&mut app, &format!("set {setting}"));
        let claim = format!("{{\"email\": \"victim{}@example.org\"}}", told.len());
        let error = app.batch_execute(&format!("select auth.update_user('{claim}')")).expect_err("it was cancelled");
        let error = error.as_db_error().expect("the server answers").clone();
        told.push(error.code().code().to_owned());
        let shown = format!("{error:?}");
        assert!(!shown.contains("pg_sleep"), "{setting}: {shown}");
        // Six digits that stand alone, or the token of a link.
        let words = shown.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
        for word in words {
            assert!(!(word.len() == 6 && word.bytes().all(|b| b.is_ascii_digit())), "{setting}: {shown}");
            assert!(word.len() != 43, "{setting}: {shown}");
        }
    }
    assert_eq!(told, ["57014", "40001", "PT500", "PT403", "PT500"]);
}

#[test]
fn S20_a_call_that_waits_for_a_hook_can_be_cancelled() {
    let db = Database::new();
    let (mut admin, mut app) = (db.connect_with(&[("hook_timeout", "5 min")]), db.connect_as(APP));
    run(&mut admin, FUNCTIONS);
    run(&mut admin, "select auth.set_hook('before_user_created', 'app.loop(jsonb)')");
    let token = app.cancel_token();
    let canceller = std::thread::spawn(move || {
        sleep(300);
        token.cancel_query(postgres::NoTls).unwrap();
    });
    let error = try_sign_in(&mut app).expect_err("cancelled");
    canceller.join().unwrap();
    assert_eq!(sqlstate(&error), "57014");
    run(&mut app, "set statement_timeout = '300ms'");
    let error = try_sign_in(&mut app).expect_err("too long");
    assert_eq!(sqlstate(&error), "57014");
    run(&mut app, "set statement_timeout = 0");
    run(&mut admin, "select auth.set_hook('before_user_created', null)");
    sign_in(&mut app);
}

#[test]
fn W11_hooks_are_dumped_and_restored() {
    let db = Database::new();
    let mut admin = db.connect();
    run(&mut admin, FUNCTIONS);
    run(&mut admin, "select auth.set_hook('custom_access_token', 'app.plan(jsonb)')");
    let script = new_folder();
    db.server.program("pg_dump", &["-f", &script.to_string_lossy(), &db.name]);
    let copy = Database::empty(&db.server);
    let path = script.to_string_lossy();
    copy.server.program("psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &copy.name, "-f", &path]);
    std::fs::remove_file(&script).unwrap();
    assert_eq!(plan(&mut copy.connect_as(APP)).as_deref(), Some("free"));
}

#[test]
fn S20_many_sessions_call_a_hook_at_once() {
    let db = Database::new();
    let mut admin = db.connect();
    run(
        &mut admin,
        "create schema app;
         create role it_hook_owner nologin;
         create table app.profiles (user_id uuid primary key references auth.users (id) on delete cascade);
         create function app.profile(event jsonb) returns void language sql as
             $$ insert into app.profiles values ((event->'user'->>'id')::uuid) $$;
         grant usage on schema app to it_hook_owner;
         alter table app.profiles owner to it_hook_owner;
         alter function app.profile(jsonb) owner to it_hook_owner;
         select auth.set_hook('after_user_created', 'app.profile(jsonb)')",
    );
    let _crowd = crowd();
    db.at_once(8, APP, |_, client| (0..25).for_each(|_| drop(sign_in(client))));
    assert_eq!(value::<i64>(&mut admin, "select count(*) from app.profiles join auth.users on id = user_id"), 200);
    run(&mut admin, "drop owned by it_hook_owner");
    run(&mut admin, "drop role it_hook_owner");
}

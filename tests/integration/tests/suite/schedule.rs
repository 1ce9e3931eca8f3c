//! Clean-up by pg_cron, and what a DBA is told where there is none.

use anon_auth_tests::*;
use postgres::Client;
use std::time::Duration;

/// A login role that may administer anon_auth and is no superuser.
fn janitor(client: &mut Client, name: &str) {
    run(client, &format!("create role {name} login in role service_role"));
}

#[test]
fn C8_a_job_of_pg_cron_deletes_an_expired_guest() {
    if !has_pg_cron() {
        println!("this Postgres comes without pg_cron");
        return;
    }
    let (server, app) = (Server::shared(), environment("PGDATABASE"));
    let mut admin = server.connect(&app, server.superuser());
    prepare_roles(&mut admin);
    janitor(&mut admin, "it_janitor");
    let mut cron = server.connect(&app, "it_janitor");
    let hint = expect_error(cron.batch_execute("select auth.schedule_cleanup()"), "PT403", "pg_cron_not_allowed");
    assert!(hint.contains("GRANT USAGE ON SCHEMA cron TO it_janitor"), "{hint}");
    run(&mut admin, "grant usage on schema cron to it_janitor");
    for schedule in ["", "every minute", "61 * * * *", "* * * *"] {
        let result = cron.query("select auth.schedule_cleanup($1)", &[&schedule]);
        expect_error(result, "PT400", "validation_failed");
    }

    let guest = sign_in(&mut admin);
    let live = sign_in(&mut admin);
    for sql in [
        "update auth.users set created_at = now() - interval '100 days' where id = $1",
        "update auth.sessions set refreshed_at = now() - interval '100 days' where user_id = $1",
    ] {
        admin.execute(sql, &[&guest.user]).unwrap();
    }
    let first: i64 = value(&mut cron, "select auth.schedule_cleanup()");
    let job: i64 = value(&mut cron, "select auth.schedule_cleanup('* * * * *')");
    assert_eq!(first, job, "scheduling again replaces the job");
    let jobs = admin.query("select username, command, schedule from cron.job where jobid = $1", &[&job]).unwrap();
    assert_eq!(jobs[0].get::<_, String>(0), "it_janitor");
    assert_eq!(jobs[0].get::<_, String>(1), "call auth.cleanup()");
    assert_eq!(jobs[0].get::<_, String>(2), "* * * * *");
    // Monitoring sees the job where pg_cron shows it, and that clean-up runs in any case.
    let jobs = "select value from auth.health where name = 'cleanup_jobs'";
    assert_eq!(value::<Option<i64>>(&mut admin, jobs), Some(1));
    assert_eq!(value::<Option<i64>>(&mut cron, jobs), Some(1));
    run(&mut admin, "create role it_watcher login in role pg_monitor");
    let mut watcher = server.connect(&app, "it_watcher");
    assert_eq!(value::<Option<i64>>(&mut watcher, jobs), None);

    wait_until("pg_cron's next minute", Duration::from_secs(130), || !exists(&mut admin, guest.user));
    let succeeded =
        "select status = 'succeeded' and username = 'it_janitor' from cron.job_run_details where jobid = $1";
    wait_until("the job's report", Duration::from_secs(20), || {
        admin.query(succeeded, &[&job]).unwrap().iter().any(|row| row.get(0))
    });
    let last_run = "select value < 600 and status = 'ok' from auth.health where name = 'cleanup_last_run'";
    assert!(value::<bool>(&mut watcher, last_run));
    assert!(exists(&mut admin, live.user));
    assert!(value::<bool>(&mut cron, "select auth.unschedule_cleanup()"));
    assert!(!value::<bool>(&mut cron, "select auth.unschedule_cleanup()"));
    assert_eq!(admin.query("select from cron.job where jobid = $1", &[&job]).unwrap().len(), 0);
}

#[test]
fn C8_the_statement_to_run_where_pg_cron_is_in_another_database() {
    if !has_pg_cron() {
        println!("this Postgres comes without pg_cron");
        return;
    }
    let db = Database::new();
    let mut admin = db.connect();
    janitor(&mut admin, "it_janitor_elsewhere");
    let hint =
        expect_error(admin.batch_execute("select auth.schedule_cleanup('0 4 * * *')"), "PT501", "pg_cron_elsewhere");
    assert!(!value::<bool>(&mut admin, "select auth.unschedule_cleanup()"));

    // What it says, done there, makes the job.
    let statement = &hint[hint.find("SELECT cron.").expect("the statement")..=hint.rfind(';').expect("its end")];
    let app = environment("PGDATABASE");
    let mut there = db.server.connect(&app, db.server.superuser());
    run(&mut there, statement);
    let jobs = there.query("select jobid, command, schedule from cron.job where database = $1", &[&db.name]).unwrap();
    assert_eq!(jobs[0].get::<_, String>(1), "call auth.cleanup()");
    assert_eq!(jobs[0].get::<_, String>(2), "0 4 * * *");
    there.execute("select cron.unschedule($1::bigint)", &[&jobs[0].get::<_, i64>(0)]).unwrap();

    // A role that may not see where pg_cron runs is still told that it is not here.
    let mut janitor = db.connect_as("it_janitor_elsewhere");
    let text = expect_error(janitor.batch_execute("select auth.schedule_cleanup()"), "PT501", "pg_cron_");
    assert!(text.contains("cron."), "{text}");
}

#[test]
fn C8_what_to_do_where_pg_cron_is_missing() {
    let server = Server::start(&["shared_preload_libraries="]);
    let db = Database { server: server.clone(), name: environment("PGDATABASE") };
    let mut admin = db.connect();
    run(&mut admin, "create extension anon_auth");
    let text = expect_error(admin.batch_execute("select auth.schedule_cleanup()"), "PT501", "pg_cron_missing");
    assert!(text.contains("shared_preload_libraries") && text.contains("CREATE EXTENSION pg_cron"), "{text}");
    assert!(text.contains("call auth.cleanup()"), "{text}");
    // Any other scheduler will do; and nothing needs the library to be preloaded.
    let guest = sign_in(&mut admin);
    run(&mut admin, "call auth.cleanup()");
    assert!(exists(&mut admin, guest.user));
}

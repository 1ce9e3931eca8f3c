//! `anon_auth.evaluate_once` where two sessions meet.

use anon_auth_tests::*;
use std::time::Duration;

/// The claim is no number. No row asks for it, and Postgres looks at the row again after somebody else's change.
#[test]
fn W5_a_row_that_changes_meanwhile_raises_no_error_of_its_own() {
    let db = Database::new();
    let mut admin = db.connect();
    let token: String = value(&mut admin, r#"select auth.sign_in_anonymously('{"level": "high"}')->>'access_token'"#);
    run(
        &mut admin,
        "create table notes (kind text, level int);
         insert into notes values ('public', 1);
         grant select, update on notes to authenticated",
    );
    let condition = "where kind = 'public' or level + (auth.jwt()->'user_metadata'->>'level')::int > 0";
    for statement in [
        format!("update notes set level = level + 10 {condition} returning level"),
        format!(
            "with changed as (update notes set level = level + 10 {condition} returning *) select level from changed"
        ),
        format!("select level + 10 from notes {condition} for update"),
        format!("select * from (select level + 10 from notes {condition} for update) n"),
    ] {
        let mut change = admin.transaction().unwrap();
        run(&mut change, "update notes set level = 2");
        let level = std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let mut client = db.connect_as(APP);
                run(&mut client, "select auth.jwt(); set anon_auth.evaluate_once = on");
                let mut transaction = client.transaction().unwrap();
                authenticate(&mut transaction, &token).unwrap();
                let plan = transaction.query(&format!("explain {statement}"), &[]).unwrap();
                assert!(
                    plan.iter().any(|line| line.get::<_, String>(0).contains("InitPlan")),
                    "nothing is rewritten"
                );
                let level = transaction.query_one(&statement, &[]).map(|row| row.get::<_, i32>(0));
                level.map_err(|error| describe(&error))
            });
            let mut observer = db.connect();
            wait_until("the statement waits for the row", Duration::from_secs(20), || {
                value(
                    &mut observer,
                    "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')",
                )
            });
            change.commit().unwrap();
            waits.join().unwrap()
        });
        assert_eq!(level, Ok(12), "{statement}");
        run(&mut admin, "update notes set level = 1");
    }
}

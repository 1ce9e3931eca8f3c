//! What calls cost besides time: parallel plans that stay parallel, memory, rows that clean-up reads.

use anon_auth_tests::*;
use postgres::Client;

#[test]
fn W5_a_parallel_plan_returns_the_same_rows() {
    let db = Database::new();
    let mut admin = db.connect();
    let (one, two) = (sign_in(&mut admin), sign_in(&mut admin));
    run(
        &mut admin,
        &format!(
            "create table documents as
                 select n as id, (array['{}', '{}', gen_random_uuid()::text])[n % 3 + 1]::uuid as user_id from generate_series(1, 30000) n;
             create table lines as select id as document_id, n from documents, generate_series(1, 2) n;
             alter table documents enable row level security;
             create policy own on documents to authenticated using (user_id = auth.uid());
             alter table lines enable row level security;
             create policy own on lines to authenticated
                 using (exists (select from documents d where d.id = document_id) and (auth.jwt()->>'is_anonymous')::boolean);
             grant select on documents, lines to authenticated;
             analyze documents, lines;",
            one.user, two.user
        ),
    );
    let serial = "set max_parallel_workers_per_gather = 0";
    let parallel = "set max_parallel_workers_per_gather = 2; set min_parallel_table_scan_size = 0;
                    set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set parallel_leader_participation = off";
    let mut app = db.connect_as(APP);
    for (query, rows) in [
        ("select id, user_id::text from documents", 10000),
        ("select document_id * 10 + n, auth.uid()::text from lines", 20000),
        ("select d.id * 10 + n, user_id::text from documents d join lines l on l.document_id = d.id", 20000),
    ] {
        let mut seen = Vec::new();
        for session in [&one, &two] {
            let expected = rows_as(&mut app, session, serial, query);
            assert_eq!(expected.len(), rows, "{query}");
            assert!(expected.iter().all(|(_, owner)| *owner == session.user.to_string()), "{query}");
            assert_eq!(rows_as(&mut app, session, parallel, query), expected, "{query}");
            seen.push(expected);
        }
        assert_ne!(seen[0], seen[1]);

        // Workers took part, and the policy chose the rows in them, by its own calls of the readers.
        let mut transaction = app.transaction().unwrap();
        authenticate(&mut transaction, &one.access_token).unwrap();
        let plan = transaction.query(&format!("explain (analyze, costs off) {query}"), &[]).unwrap();
        let plan = plan.iter().map(|row| row.get(0)).collect::<Vec<String>>().join("\n");
        transaction.rollback().unwrap();
        let launched = plan.lines().any(|line| line.contains("Workers Launched:") && !line.ends_with(": 0"));
        assert!(launched && plan.contains("auth.uid()") && !plan.contains("InitPlan"), "{plan}");
    }
}

#[test]
fn W5_leader_and_workers_agree_on_who_is_calling() {
    let db = Database::new();
    let mut admin = db.connect();
    let guest = sign_in(&mut admin);
    run(
        &mut admin,
        "create table lines as select n from generate_series(1, 100000) n;
         grant select on lines to authenticated;
         analyze lines;",
    );
    let count = "select count(*) from lines where n < 0 or auth.uid() is not null";
    let mut app = db.connect_as(APP);
    run(
        &mut app,
        "set max_parallel_workers_per_gather = 2; set min_parallel_table_scan_size = 0;
         set parallel_setup_cost = 0; set parallel_tuple_cost = 0",
    );
    let mut transaction = app.transaction().unwrap();
    authenticate(&mut transaction, &guest.access_token).unwrap();
    assert!(value::<bool>(&mut transaction, "select auth.uid() is not null"));
    assert_eq!(value::<i64>(&mut transaction, count), 100_000);
    // What the leader remembers, the workers would look up anew.
    admin.execute("delete from auth.sessions where user_id = $1", &[&guest.user]).unwrap();
    assert_eq!(value::<i64>(&mut transaction, count), 0);
}

/// What a query returns to this guest, with these settings.
fn rows_as(client: &mut Client, session: &Session, settings: &str, query: &str) -> Vec<(i32, String)> {
    run(client, settings);
    let mut transaction = client.transaction().unwrap();
    authenticate(&mut transaction, &session.access_token).unwrap();
    let mut rows: Vec<_> =
        transaction.query(query, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    transaction.commit().unwrap();
    rows.sort();
    rows
}

#[test]
fn W5_no_call_makes_a_backend_grow() {
    let db = Database::new();
    // The benchmark's, with fewer calls.
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/memory.sql");
    let arguments = ["-X", "-v", "ON_ERROR_STOP=1", "-v", "calls=2500", "-d", &db.name, "-f", script];
    let printed = db.server.program("psql", &arguments);
    let mut measured = Vec::new();
    for line in printed.lines() {
        let [function, calls, bytes] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let (calls, bytes): (i32, f64) = (calls.parse().unwrap(), bytes.parse().unwrap());
        if calls > 0 {
            // The operating system gives memory in pages; one or two may come in any round.
            assert!(bytes < 1.0 + 8192.0 / f64::from(calls), "{function} grows by {bytes} bytes a call");
            measured.push(function);
        }
    }
    assert!(
        ["uid", "jwt", "authenticate", "refresh_session"].iter().all(|name| measured.contains(name)),
        "{printed}"
    );
}

#[test]
fn W8_clean_up_reads_what_has_expired_and_nothing_else() {
    let read_of = |guests: u32, expired: u32| {
        let db = Database::new();
        let mut admin = db.connect();
        let add = |n, age: &str| {
            format!(
                "with guests as (insert into auth.users (id, is_anonymous, created_at, last_active_on)
                                 select gen_random_uuid(), true, now() - interval '{age}', current_date - interval '{age}'
                                   from generate_series(1, {n}) returning id, created_at)
                 insert into auth.sessions (id, user_id, created_at, refreshed_at)
                 select gen_random_uuid(), id, created_at, created_at from guests;"
            )
        };
        run(&mut admin, &add(guests, "2 days"));
        run(&mut admin, &add(expired, "200 days"));
        // Each day is added up once, for auth.stats, which reads the users of that day.
        run(&mut admin, "insert into auth.daily_stats (day) values (current_date)");
        run(&mut admin, "analyze auth.users, auth.sessions");
        let mut transaction = admin.transaction().unwrap();
        let deleted = value::<i64>(&mut transaction, "select (auth.cleanup_expired_users()->>'deleted')::bigint");
        assert_eq!(deleted, i64::from(expired));
        value::<i64>(
            &mut transaction,
            "select sum(seq_tup_read + idx_tup_fetch)::bigint from pg_stat_xact_all_tables
             where relid in ('auth.users'::regclass, 'auth.sessions'::regclass)",
        )
    };
    // The planner looks at a row or two for the ends of an index.
    let none = read_of(4000, 0);
    assert!(none < 20, "{none} rows read where nobody has expired");
    let (few, many) = (read_of(100, 10), read_of(4000, 10));
    assert!(many < few + 20, "{many} rows read where 4000 guests stay, {few} where 100 do");
}

//! The funnel, while users change at the very moment that a day is added up.

use anon_auth_tests::*;
use postgres::Client;

/// Makes `n` guests who were created four days ago, and returns their ids.
fn guests(admin: &mut Client, n: i32) -> Vec<uuid::Uuid> {
    let sql = "insert into auth.users (id, is_anonymous, created_at)
               select gen_random_uuid(), true, clock_timestamp() - interval '4 days' from generate_series(1, $1)
               returning id";
    admin.query(sql, &[&n]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Of the day of those guests: created, active, and whether it is closed.
fn day(client: &mut Client) -> (i64, i64, bool) {
    let sql = "select guests_created, guests_active, is_closed from auth.stats
               where day = ((clock_timestamp() - interval '4 days') at time zone 'UTC')::date";
    let row = client.query_one(sql, &[]).unwrap();
    (row.get(0), row.get(1), row.get(2))
}

/// Over all days: promoted, expired, deleted.
fn ended(client: &mut Client) -> (i64, i64, i64) {
    let sql = "select sum(guests_promoted)::bigint, sum(guests_expired)::bigint, sum(guests_deleted)::bigint from auth.stats";
    let row = client.query_one(sql, &[]).unwrap();
    (row.get(0), row.get(1), row.get(2))
}

/// As if a minute had passed since the last one: days are not added up more often.
const CLEAN_UP: &str = "delete from auth.cleanup_runs; select auth.cleanup_expired_users()";

#[test]
fn W9_what_is_under_way_while_a_day_is_added_up_counts_once() {
    let db = Database::new();
    let mut admin = db.connect();
    let ids = guests(&mut admin, 4);
    let (mut first, mut second, mut third) = (db.connect(), db.connect(), db.connect());
    let mut deletion = first.transaction().unwrap();
    deletion.execute("delete from auth.users where id = $1", &[&ids[0]]).unwrap();
    let mut promotion = second.transaction().unwrap();
    promotion.execute("update auth.users set is_anonymous = false where id = $1", &[&ids[1]]).unwrap();
    let mut given_up = third.transaction().unwrap();
    given_up.execute("delete from auth.users where id = $1", &[&ids[2]]).unwrap();
    run(&mut admin, CLEAN_UP);
    assert_eq!(day(&mut admin), (4, 4, true));
    deletion.commit().unwrap();
    promotion.commit().unwrap();
    given_up.rollback().unwrap();
    assert_eq!(day(&mut admin), (4, 4, true));
    run(&mut admin, CLEAN_UP);
    assert_eq!(day(&mut admin), (4, 4, true));
    assert_eq!(ended(&mut admin), (1, 0, 1));
}

#[test]
fn W9_a_crowd_of_changes_and_clean_ups_counts_exactly() {
    let db = Database::new();
    let mut admin = db.connect();
    let ids = guests(&mut admin, 160);
    db.at_once(8, db.server.superuser(), |i, client| {
        for (n, id) in ids.iter().enumerate().filter(|(n, _)| n % 8 == i) {
            let change = match n / 8 % 3 {
                0 => "delete from auth.users where id = $1",
                1 => "update auth.users set is_anonymous = false where id = $1",
                _ => "update auth.users set last_active_on = (clock_timestamp() at time zone 'UTC')::date where id = $1",
            };
            client.execute(change, &[id]).unwrap();
            if n % 5 == 0 {
                run(client, CLEAN_UP);
            }
        }
    });
    assert_eq!(day(&mut admin), (160, 160, true));
    let by_rest = |rest| ids.iter().enumerate().filter(|(n, _)| n / 8 % 3 == rest).count() as i64;
    assert_eq!(ended(&mut admin), (by_rest(1), 0, by_rest(0)));
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.daily_stats"), 1);
}

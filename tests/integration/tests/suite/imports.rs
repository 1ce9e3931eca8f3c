//! Users of the real better-auth, whose own migrator makes its tables.

use anon_auth_tests::*;
use std::process::Command;

/// A database that better-auth has filled, with the extension beside its tables.
fn filled_by_better_auth() -> Database {
    let db = Database::empty(&Server::shared());
    let output = Command::new("node")
        .arg("fill.mjs")
        .current_dir(environment("ANON_AUTH_BETTER_AUTH"))
        .env("PGDATABASE", &db.name)
        .output()
        .expect("node starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    run(&mut db.connect(), "create extension anon_auth");
    db
}

#[test]
fn W11_users_of_better_auth_arrive() {
    let db = filled_by_better_auth();
    let mut admin = db.connect();
    // An application's table, with ids as better-auth has them.
    run(&mut admin, "create table orders as select id as user_id from \"user\" where name = 'Ada'");

    let report: Vec<(String, Option<String>)> = admin
        .query(
            "select r.problem || case when problem = 'imported' then ': ' || detail else '' end, u.name
               from auth.import_better_auth() r left join \"user\" u on u.id = r.source_id order by 1, 2",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let expected = [
        ("imported: 4 permanent users, 1 guests, 4 identities, 1 passwords", None),
        ("password_dropped", Some("Bob")),
        ("password_dropped", Some("Fay")),
        ("provider_not_set_up", None),
        ("second_factor", None),
        ("sessions_not_imported", None),
    ];
    let report: Vec<_> = report.iter().map(|(problem, name)| (problem.as_str(), name.as_deref())).collect();
    assert_eq!(report, expected);

    let users: Vec<String> = admin
        .query(
            "select concat_ws(' ', raw_user_meta_data->>'name', email, email_confirmed_at is not null, phone,
                              phone_confirmed_at is not null, is_anonymous, banned_until, left(encrypted_password, 7))
               from auth.users order by raw_user_meta_data->>'name'",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(
        users,
        [
            "Ada ada@example.org t +4930123456 t f $scrypt",
            "Anonymous f f t",
            "Bob bob@example.org f f f",
            "Eve eve@example.org t f f infinity",
            "Fay fay@example.org f f f",
        ]
    );
    let identities: String = value(
        &mut admin,
        "select string_agg(provider || ' ' || replace(provider_id, user_id::text, 'id'), ', ' order by provider, provider_id)
           from auth.identities",
    );
    assert_eq!(identities, "email id, email id, google g-1, phone id");

    // The password keeps working, however its letters are composed, and is hashed anew; by the phone, too.
    let sign_in = "select auth.sign_in_with_password(email => $1, phone => $2, password => $3)->'user'->>'id'";
    let ada: String = value(&mut admin, "select id::text from auth.users where raw_user_meta_data->>'name' = 'Ada'");
    let none = None::<&str>;
    expect_error(
        admin.query(sign_in, &[&"ada@example.org", &none, &"correct horse"]),
        "PT400",
        "invalid_credentials",
    );
    let by_email = admin.query_one(sign_in, &[&"ada@example.org", &none, &"correct horse a\u{308}"]).unwrap();
    assert_eq!(by_email.get::<_, String>(0), ada);
    assert_eq!(
        value::<String>(
            &mut admin,
            "select left(encrypted_password, 10) from auth.users where email = 'ada@example.org'"
        ),
        "$argon2id$"
    );
    expect_error(
        admin.query(sign_in, &[&"bob@example.org", &none, &"battery staple"]),
        "PT400",
        "invalid_credentials",
    );

    // The application's ids become the users'.
    run(
        &mut admin,
        "alter table orders alter column user_id type uuid using auth.imported_id(user_id);
         alter table orders add foreign key (user_id) references auth.users (id)",
    );
    assert_eq!(value::<String>(&mut admin, "select user_id::text from orders"), ada);
}

#[test]
fn S9_unproven_addresses_of_better_auth_count_only_on_request() {
    let db = filled_by_better_auth();
    let mut admin = db.connect();
    run(&mut admin, "select auth.import_better_auth('public', confirm_addresses => true)");
    let user: String =
        value(&mut admin, "select auth.sign_in_with_password('bob@example.org', 'battery staple')->'user'->>'email'");
    assert_eq!(user, "bob@example.org");
    // A guest's made-up address stays nobody's.
    let guests: i64 = value(&mut admin, "select count(*) from auth.users where is_anonymous and email is null");
    assert_eq!(guests, 1);
}

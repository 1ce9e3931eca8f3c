//! Dump and restore, and dropping the extension.

use anon_auth_tests::*;
use postgres::Client;
use std::fs;

#[test]
fn W11_dump_and_restore_lose_nothing() {
    let key_file = KeyFile::new(&[5; 32]);
    let (from, to) = (Server::start(&[&key_file.setting()]), Server::start(&[&key_file.setting()]));
    let db = Database::on(&from);
    let history = History::make(&db);
    let expected = contents(&mut db.connect());
    copy_roles(&from, &to);

    let script = dump(&db, &to, "p");
    let plain = Database::empty(&to);
    run_script(&plain, &script, "1");
    let folder = dump(&db, &to, "d");
    let parallel = Database::empty(&to);
    restore(&parallel, &folder);
    for restored in [&plain, &parallel] {
        let mut client = restored.connect();
        assert_eq!(contents(&mut client), expected);
        let forgotten =
            "select count(*) from auth.merge_rules r where not exists (select from pg_class where oid = r.relation)";
        assert_eq!(value::<i64>(&mut client, forgotten), 0, "a rule without a table is left out");
        assert_eq!(value::<i64>(&mut client, "select count(*) from auth.customizations"), 0);
        history.check(restored);
    }
    history.check(&db);
    fs::remove_file(script).unwrap();
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn N19_an_older_dump_makes_no_newer_token_valid() {
    let db = Database::new();
    let mut client = db.connect();
    let old = sign_in(&mut client);
    let script = dump(&db, &db.server, "p");

    let newer: Vec<_> = (0..3)
        .scan(old.clone(), |session, _| {
            *session = refresh(&mut client, &session.refresh_token).unwrap();
            Some(session.clone())
        })
        .collect();
    let later = sign_in(&mut client);
    run(&mut client, "select auth.rotate_signing_key()");
    let with_newer_key = sign_in(&mut client);

    let restored = Database::empty(&db.server);
    run_script(&restored, &script, "1");
    fs::remove_file(script).unwrap();
    let mut client = restored.connect();
    let refuse = |client: &mut Client| {
        for session in newer.iter().chain([&later, &with_newer_key]) {
            refresh(client, &session.refresh_token).expect_err("minted after the dump");
            verify(client, &session.access_token).expect_err("minted after the dump");
        }
    };
    refuse(&mut client);
    // The numbers are reached once more, the tokens are not.
    let mut session = old;
    for _ in 0..4 {
        session = refresh(&mut client, &session.refresh_token).unwrap();
        for stale in newer.iter().chain([&later]) {
            verify(&mut client, &stale.access_token).expect_err("minted after the dump");
        }
        sign_in(&mut client);
    }
    refuse(&mut client);
}

#[test]
fn W11_customizations_are_listed_with_their_sql() {
    let db = Database::new();
    let mut client = db.connect();
    let listed = "select kind || ' ' || name from auth.customizations order by 1";
    let list = |client: &mut Client| -> Vec<String> {
        client.query(listed, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    assert!(list(&mut client).is_empty());
    run(
        &mut client,
        "create function on_user() returns trigger language plpgsql as 'begin return new; end';
         create trigger on_user before update on auth.users for each row execute function on_user();
         alter table auth.users add column nickname text not null default 'nobody';
         create index users_nickname_idx on auth.users (lower(nickname)) where is_anonymous;
         create policy mine on auth.users for select to authenticated using (id = auth.uid());
         alter table auth.users add constraint nickname_is_short check (length(nickname) < 100);
         alter table auth.users enable row level security",
    );
    let expected = list(&mut client);
    assert_eq!(
        expected,
        [
            "column nickname",
            "constraint nickname_is_short",
            "index users_nickname_idx",
            "policy mine",
            "row security enabled",
            "trigger on_user"
        ]
    );
    let guest = sign_in(&mut client);
    client.execute("update auth.users set nickname = 'Ada' where id = $1", &[&guest.user]).unwrap();

    // Columns and what stands on them first, since the rows of the dump have them.
    let sql: Vec<String> = client
        .query("select definition from auth.customizations order by kind = 'column' desc", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let script = dump(&db, &db.server, "p");
    let restored = Database::empty(&db.server);
    let mut target = restored.connect();
    run(
        &mut target,
        "create extension anon_auth;
         create function on_user() returns trigger language plpgsql as 'begin return new; end'",
    );
    for statement in &sql {
        run(&mut target, statement);
    }
    assert_eq!(list(&mut target), expected);
    run_script(&restored, &script, "0");
    fs::remove_file(script).unwrap();
    let nickname = target.query_one("select nickname from auth.users where id = $1", &[&guest.user]).unwrap();
    assert_eq!(nickname.get::<_, String>(0), "Ada");
    assert_eq!(list(&mut target), expected);
    refresh(&mut target, &guest.refresh_token).unwrap();
}

#[test]
fn W11_dropping_the_extension() {
    let db = Database::new();
    let mut client = db.connect();
    let mut other = db.connect_as(APP);
    run(
        &mut client,
        "create table notes (user_id uuid references auth.users (id) on delete cascade);
         alter table notes enable row level security; create policy own on notes using (user_id = auth.uid())",
    );
    let guest = sign_in(&mut other);
    client.execute("insert into notes values ($1)", &[&guest.user]).unwrap();
    set_token(&mut other, &guest.access_token);
    assert_eq!(uid(&mut other), Some(guest.user));

    let error = client.batch_execute("drop extension anon_auth").unwrap_err();
    let text = describe(&error);
    assert!(sqlstate(&error) == "2BP01" && text.contains("notes_user_id_fkey") && text.contains("CASCADE"), "{text}");
    assert_eq!(uid(&mut other), Some(guest.user), "nothing happened");

    for _ in 0..2 {
        run(&mut client, "drop extension anon_auth cascade");
        assert_eq!(value::<i64>(&mut client, "select count(*) from notes"), 1, "the application's rows stay");
        let error = other.batch_execute("select auth.uid()").unwrap_err();
        assert!(matches!(sqlstate(&error), "42883" | "3F000"), "{}", describe(&error));
        // In the same session, and with others open that knew the dropped tables.
        run(&mut client, "create extension anon_auth");
        assert_eq!(uid(&mut other), None, "the old token is nobody's");
        let new = sign_in(&mut client);
        let new = refresh(&mut other, &new.refresh_token).unwrap();
        verify(&mut client, &new.access_token).unwrap();
        expect_error(refresh(&mut other, &guest.refresh_token), "PT401", "refresh_token_not_found");
        run(&mut client, "call auth.cleanup()");
    }
    run(&mut client, "begin; drop extension anon_auth; create extension anon_auth");
    sign_in(&mut client);
    run(&mut client, "rollback");
    assert_eq!(value::<i64>(&mut client, "select count(*) from auth.users"), 1);
    sign_in(&mut client);
}

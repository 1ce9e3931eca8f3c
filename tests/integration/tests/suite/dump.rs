//! Dump and restore, and dropping the extension.

use anon_auth_tests::*;
use postgres::Client;
use std::fs;
use std::path::Path;

const TABLES: &[&str] = &[
    "users",
    "identities",
    "one_time_tokens",
    "device_keys",
    "sessions",
    "session_revocations",
    "lazy_guests",
    "settings",
    "signing_keys",
    "identity_providers",
    "guest_providers",
    "captcha_services",
    "audit_log_entries",
    "merge_rules",
    "daily_stats",
    "stat_changes",
];

/// Number of rows and a digest of all of them, per table.
fn contents(client: &mut Client) -> Vec<(String, i64, String)> {
    TABLES
        .iter()
        .map(|table| {
            // A rule of a table that was dropped is in no dump.
            let condition = if *table == "merge_rules" { "relation in (select oid from pg_class)" } else { "true" };
            let sql = format!(
                "select count(*), coalesce(md5(string_agg(t::text, '|' order by t::text)), '') from auth.{table} t where {condition}"
            );
            let row = client.query_one(&sql, &[]).unwrap();
            ((*table).to_owned(), row.get(0), row.get(1))
        })
        .collect()
}

/// Roles belong to the cluster, so a database's dump has none. The superuser is there already.
fn copy_roles(from: &Server, to: &Server) {
    let script = new_folder();
    fs::write(&script, from.program("pg_dumpall", &["--roles-only"])).unwrap();
    to.program("psql", &["-X", "-q", "-d", "postgres", "-f", &script.to_string_lossy()]);
    fs::remove_file(script).unwrap();
}

fn dump_to(db: &Database, format: &str) -> std::path::PathBuf {
    let path = new_folder();
    db.server.program("pg_dump", &["-F", format, "-f", &path.to_string_lossy(), &db.name]);
    path
}

fn psql(db: &Database, script: &Path, stop: &str) {
    let stop = format!("ON_ERROR_STOP={stop}");
    db.server.program("psql", &["-X", "-q", "-v", &stop, "-d", &db.name, "-f", &script.to_string_lossy()]);
}

/// What the database before and after a restore is asked about.
struct Before {
    fresh: Session,
    refreshed: Session,
    signed_with_previous_key: Session,
    banned: Session,
    stolen: Session,
    permanent: Session,
}

fn fill(db: &Database) -> Before {
    let mut admin = db.connect_with(&[
        ("refresh_token_reuse_interval", "0"),
        ("issuer", "https://example.com/auth"),
        ("cleanup_age", "10 days"),
        ("session_lifetime", "1 year"),
    ]);
    run(
        &mut admin,
        "create table notes (id int primary key, user_id uuid not null references auth.users (id) on delete cascade);
         alter table notes enable row level security; grant select on notes to authenticated;
         create policy own on notes to authenticated using (user_id = auth.uid());
         insert into auth.daily_stats (day, guests_created) values ('2020-02-20', 20);
         insert into auth.stat_changes (day, guests_promoted) values ('2020-02-22', 22);
         create table by_name (user_id uuid references auth.users (id) deferrable initially deferred);
         create function merge_notes(uuid, uuid) returns void language sql as '';
         select auth.set_merge_rule('notes', 'function', function => 'merge_notes(uuid, uuid)');
         select auth.set_merge_rule('by_name', 'keep_account', user_columns => '{user_id}');
         create table short_lived (user_id uuid);
         select auth.set_merge_rule('short_lived', 'ignore');
         drop table short_lived",
    );
    // So many that a parallel restore has other tables' rows before them.
    run(&mut admin, "insert into auth.users (id) select gen_random_uuid() from generate_series(1, 50000)");
    let signed_with_previous_key = sign_in(&mut admin);
    let signed_with_revoked_key: String = value(&mut admin, "select auth.rotate_signing_key('EdDSA')");
    run(&mut admin, "select auth.rotate_signing_key('ES256'); select auth.create_signing_key('RS256')");
    admin.query("select auth.revoke_signing_key($1)", &[&signed_with_revoked_key]).unwrap();
    Issuer::new(&mut admin, "corp");
    run(
        &mut admin,
        "select auth.set_guest_provider('kiosk', session_lifetime => '1 hour', rate_limit => 5, captcha => 'off');
         select auth.sign_in_anonymously(provider => 'kiosk');
         select auth.set_captcha('hcaptcha', '0xsecret', hostnames => '{www.example.com}')",
    );
    let first = sign_in(&mut admin);
    let refreshed = refresh(&mut admin, &first.refresh_token).unwrap();
    let stolen = sign_in(&mut admin);
    refresh(&mut admin, &stolen.refresh_token).unwrap();
    sleep(10);
    expect_error(refresh(&mut admin, &stolen.refresh_token), "PT401", "refresh_token_already_used");
    run(
        &mut admin,
        "select auth.set_setting('guest_storage', 'lazy');
         begin; select auth.authenticate(auth.sign_in_anonymously()->>'access_token'); reset role; select auth.sign_out(); commit;
         select auth.set_setting('guest_storage', 'eager')",
    );
    let before = Before {
        fresh: sign_in(&mut admin),
        refreshed,
        signed_with_previous_key,
        banned: sign_in(&mut admin),
        stolen,
        permanent: sign_in(&mut admin),
    };
    admin.execute("update auth.users set banned_until = 'infinity' where id = $1", &[&before.banned.user]).unwrap();
    let id = &before.permanent.user;
    for sql in [
        "update auth.users set is_anonymous = false, email = 'a@example.com', email_confirmed_at = now() where id = $1",
        "insert into auth.identities (user_id, provider, provider_id) values ($1, 'email', 'a@example.com')",
        "insert into auth.device_keys values ('device', $1, '{}')",
        "insert into auth.one_time_tokens values (gen_random_uuid(), $1, 'test', 'hash', '', now(), now() + interval '1 day')",
        "insert into notes values (1, $1)",
        "insert into by_name values ($1)",
    ] {
        admin.execute(sql, &[id]).unwrap();
    }
    before
}

/// Asserts that everything that worked before works in `db`, and nothing else.
fn check(db: &Database, before: &Before) {
    let mut client = db.connect();
    for session in [&before.fresh, &before.refreshed, &before.signed_with_previous_key, &before.permanent] {
        verify(&mut client, &session.access_token).unwrap_or_else(|error| panic!("{}", describe(&error)));
        let refreshed =
            refresh(&mut client, &session.refresh_token).unwrap_or_else(|error| panic!("{}", describe(&error)));
        assert_eq!(refreshed.user, session.user);
    }
    expect_error(verify(&mut client, &before.banned.access_token), "PT403", "user_banned");
    expect_error(refresh(&mut client, &before.banned.refresh_token), "PT403", "user_banned");
    expect_error(verify(&mut client, &before.stolen.access_token), "PT401", "session_not_found");
    refresh(&mut client, &before.stolen.refresh_token).expect_err("the revocation is restored too");
    sign_in(&mut client);
    assert_eq!(value::<i64>(&mut client, "select count(*) from auth.signing_keys"), 5, "no new key is needed");

    let stray = client.batch_execute("insert into notes values (2, gen_random_uuid())");
    assert_eq!(sqlstate(&stray.unwrap_err()), "23503", "the foreign key is there");
    let mut app = db.connect_as(APP);
    let mut transaction = app.transaction().unwrap();
    authenticate(&mut transaction, &before.permanent.access_token).unwrap();
    assert_eq!(value::<i64>(&mut transaction, "select count(*) from notes"), 1);
    transaction.rollback().unwrap();
    let customized: i64 = value(&mut client, "select count(*) from auth.customizations");
    assert_eq!(customized, 0);
}

#[test]
fn W11_dump_and_restore_lose_nothing() {
    let (from, to) = (Server::start(&[]), Server::start(&[]));
    let db = Database::on(&from);
    let before = fill(&db);
    let mut source = db.connect();
    let expected = contents(&mut source);
    assert!(expected.iter().all(|(_, rows, _)| *rows > 0), "{expected:?}");
    let settings = "select string_agg(name || '=' || value, ', ' order by name) from auth.all_settings";
    let expected_settings: String = value(&mut source, settings);
    copy_roles(&from, &to);

    let script = dump_to(&db, "p");
    let plain = Database::empty(&to);
    psql(&plain, &script, "1");
    let folder = dump_to(&db, "d");
    let parallel = Database::empty(&to);
    to.program("pg_restore", &["-j", "4", "-e", "-d", &parallel.name, &folder.to_string_lossy()]);
    for restored in [&plain, &parallel] {
        let mut client = restored.connect();
        assert_eq!(contents(&mut client), expected);
        assert_eq!(value::<String>(&mut client, settings), expected_settings);
        let rules: i64 = value(&mut client, "select count(*) from auth.merge_rules");
        assert_eq!(rules, 2, "those of tables that there are");
        check(restored, &before);
    }
    check(&db, &before);
    fs::remove_file(script).unwrap();
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn N19_an_older_dump_makes_no_newer_token_valid() {
    let db = Database::new();
    let mut client = db.connect();
    let old = sign_in(&mut client);
    let script = dump_to(&db, "p");

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
    psql(&restored, &script, "1");
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
    let script = dump_to(&db, "p");
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
    psql(&restored, &script, "0");
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

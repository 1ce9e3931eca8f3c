//! From Postgres 15 to newer ones.

use crate::{OLD, catalog, programs};
use anon_auth_tests::*;
use std::fs;

/// What somebody adds to the extension's tables, and how it goes again.
const CUSTOMIZE: &str = "
    create function shop.on_user() returns trigger language plpgsql as 'begin return new; end';
    create trigger on_user before update on auth.users for each row execute function shop.on_user();
    alter table auth.users add column nickname text not null default 'nobody';
    create index users_nickname_idx on auth.users (nickname) where is_anonymous;
    create policy everybody on auth.users using (true);
    alter table auth.users enable row level security";
const UNDO: &str = "
    alter table auth.users disable row level security;
    drop policy everybody on auth.users;
    drop trigger on_user on auth.users;
    alter table auth.users drop column nickname";
const CUSTOMIZATIONS: &str = "select string_agg(definition, ' ' order by definition) from auth.customizations";

#[test]
fn W11_pg_upgrade_from_15_loses_nothing() {
    let key_file = KeyFile::new(&[5; 32]);
    let settings = [&*key_file.setting()];
    let old = Server::start_on(&programs(OLD), &settings);
    let db = Database::on(&old);
    let history = History::make(&db);
    let mut client = db.connect();
    run(&mut client, CUSTOMIZE);
    let expected = contents(&mut client);
    let messages = "select count(*) from auth.messages";
    let expected_messages: i64 = value(&mut client, messages);
    let customizations: String = value(&mut client, CUSTOMIZATIONS);
    drop(client);
    println!("15 is filled");

    old.stop();
    for version in ["17", "18"] {
        let server = old.upgrade(&programs(version), &settings);
        println!("{version} is there");
        let upgraded = Database { server: server.clone(), name: db.name.clone() };
        let mut client = upgraded.connect();
        let number = "select (current_setting('server_version_num')::int / 10000)::text";
        assert_eq!(value::<String>(&mut client, number), version);
        assert_eq!(contents(&mut client), expected);
        assert_eq!(value::<i64>(&mut client, messages), expected_messages);
        assert_eq!(value::<String>(&mut client, CUSTOMIZATIONS), customizations);
        run(&mut client, UNDO);
        assert_eq!(catalog::differences(&upgraded, &Database::on(&server)), [""; 0]);
        history.check(&upgraded);
        println!("{version} is right");
    }
    old.recover();
    history.check(&db);
}

#[test]
fn W11_dump_of_15_restored_in_18_loses_nothing() {
    let key_file = KeyFile::new(&[5; 32]);
    let settings = [&*key_file.setting()];
    let old = Server::start_on(&programs(OLD), &settings);
    let new = Server::start_on(&programs("18"), &settings);
    let db = Database::on(&old);
    let history = History::make(&db);
    let expected = contents(&mut db.connect());
    println!("15 is filled");

    copy_roles(&old, &new);
    let file = dump(&db, &new, "c");
    let restored = Database::empty(&new);
    println!("15 is dumped");
    restore(&restored, &file);
    println!("18 is there");
    assert_eq!(contents(&mut restored.connect()), expected);
    assert_eq!(catalog::differences(&restored, &Database::on(&new)), [""; 0]);
    history.check(&restored);
    println!("18 is right");
    fs::remove_file(file).unwrap();
}

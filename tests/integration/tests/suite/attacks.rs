//! What roles that may run any SQL try: forging claims, reading secrets, administering.

use anon_auth_tests::*;
use postgres::{Client, NoTls};
use serde_json::{Value, json};
use uuid::Uuid;

/// Functions that everybody may call. All others are for administrators.
const FOR_EVERYBODY: &[&str] = &[
    "jwt",
    "uid",
    "role",
    "email",
    "is_anonymous",
    "session_id",
    "sign_in_anonymously",
    "refresh_session",
    "sign_out",
    "authenticate",
    "verify_token",
    "pre_request",
    "get_user",
    "user_info",
    "delete_user",
    "jwks",
    "update_user",
    "verify_otp",
    "resend",
    "link_identity",
    "unlink_identity",
    "sign_in_with_password",
    "sign_in_with_id_token",
    "create_promotion_code",
    "redeem_promotion_code",
    "create_transfer_code",
    "redeem_transfer_code",
    "merge_anonymous_user",
    "create_challenge",
    "sign_in_with_device_key",
    "remove_device_key",
    "ensure_user",
    "pre_config",
];

/// A connection as `role`: as itself where it may log in, by SET ROLE where not.
fn connection(db: &Database, role: &str) -> Client {
    if matches!(role, "anon" | "authenticated") {
        let mut client = db.connect_as(APP);
        run(&mut client, &format!("set role {role}"));
        client
    } else {
        db.connect_as(role)
    }
}

const ROLES: &[&str] = &["anon", "authenticated", APP, STRANGER];

#[test]
fn N10_no_administrator_function_is_within_reach() {
    let db = Database::new();
    let mut admin = db.connect();
    sign_in(&mut admin);
    // Not with NULL: a strict function is not even called then.
    let calls = admin
        .query(
            "select p.proname::text, p.prokind = 'p', p.prorettype = 'trigger'::regtype,
                    format('auth.%I(%s)', p.proname,
                           (select string_agg(case t::regtype::text when 'text' then '''x''' when 'jsonb' then '''{}''' when 'integer' then '1'
                                                            when 'boolean' then 'true' else 'null::' || t::regtype end, ', ')
                            from unnest(p.proargtypes) t))
             from pg_proc p where p.pronamespace = 'auth'::regnamespace",
            &[],
        )
        .unwrap();
    assert!(calls.len() > FOR_EVERYBODY.len() + 10);
    for role in ROLES {
        let mut client = connection(&db, role);
        for row in &calls {
            let (name, is_procedure, is_trigger): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
            let call: String = row.get(3);
            if FOR_EVERYBODY.contains(&name.as_str()) || is_trigger {
                continue;
            }
            let sql = if is_procedure { format!("call {call}") } else { format!("select {call}") };
            let Err(error) = client.batch_execute(&sql) else { panic!("{role}: {sql} succeeded") };
            assert_eq!(sqlstate(&error), "42501", "{role}: {sql}: {}", describe(&error));
        }
    }
    let granted =
        "select count(*) from pg_proc p, unnest(array['anon', 'authenticated', 'it_app', 'it_stranger']) role
                   where p.pronamespace = 'auth'::regnamespace and has_function_privilege(role, p.oid, 'execute')
                     and p.proname <> all ($1)";
    assert_eq!(admin.query_one(granted, &[&FOR_EVERYBODY]).unwrap().get::<_, i64>(0), 0);
}

#[test]
fn N10_no_table_is_within_reach() {
    let db = Database::new();
    let mut admin = db.connect();
    sign_in(&mut admin);
    run(&mut admin, "analyze");
    let tables: Vec<String> = admin
        .query(
            "select oid::regclass::text from pg_class
             where relnamespace = 'auth'::regnamespace and relkind in ('r', 'v', 'm', 'p', 'S')",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(tables.len() >= 9);
    for role in ROLES {
        let mut client = connection(&db, role);
        for table in &tables {
            let owned = format!(
                "create trigger mine before insert on {table} for each row execute function auth.check_setting()"
            );
            for sql in [
                &format!("select * from {table}"),
                &format!("select count(*) from {table}"),
                &format!("copy {table} to stdout"),
                &format!("delete from {table}"),
                &format!("insert into {table} default values"),
                &format!("do $$ begin lock table {table}; end $$"),
                &format!("truncate {table} cascade"),
                &format!("comment on table {table} is 'mine'"),
                &format!("analyze {table}; create temp table copied (like {table})"),
                &owned,
            ] {
                let error = client.batch_execute(sql).expect_err(sql);
                assert!(
                    matches!(sqlstate(&error), "42501" | "42809" | "55000"),
                    "{role}: {sql}: {}",
                    describe(&error)
                );
            }
        }
        let statistics = "select count(*) from pg_stats where schemaname = 'auth'";
        assert_eq!(value::<i64>(&mut client, statistics), 0, "{role} sees values in pg_stats");
        for sql in [
            "update auth.users set is_anonymous = false",
            "update auth.users set role = 'service_role' where id = auth.uid()",
            "select id from auth.users",
            "create table auth.mine (n int)",
            "create function auth.uid(int) returns uuid language sql as 'select null::uuid'",
            "create or replace function auth.uid() returns uuid language sql as 'select null::uuid'",
            "alter function auth.uid() owner to current_user",
            "alter function auth.sign_in_anonymously(jsonb, text, text, text) set search_path = public",
            "alter schema auth rename to taken",
            "drop schema auth cascade",
            "drop extension anon_auth cascade",
            "set role anon_auth_owner",
            "set role service_role",
            "grant anon_auth_owner to current_user",
            "create temp table mine () inherits (auth.users)",
            "create temp table mine (email text references auth.users (email))",
            "alter table auth.users add column mine int",
            "create policy mine on auth.users using (true)",
            "create rule mine as on insert to auth.users do also nothing",
            "select pg_read_file('postgresql.conf')",
        ] {
            let error = client.batch_execute(sql).expect_err(sql);
            assert!(
                matches!(sqlstate(&error), "42501" | "42P16" | "0LP01" | "42830" | "42P17"),
                "{role}: {sql}: {}",
                describe(&error)
            );
        }
    }
}

/// What an attacker would like the claims to be.
fn wish(victim: Uuid) -> String {
    let victim = victim.to_string();
    json!({"sub": victim, "role": "service_role", "is_anonymous": false, "session_id": victim, "exp": 4102444800u64})
        .to_string()
}

const SETTINGS: &[&str] = &[
    "anon_auth.trust_request_claims",
    "anon_auth.check_session",
    "anon_auth.switch_role",
    "anon_auth.key_file",
    "anon_auth.access_token",
    "request.jwt.claims",
    "request.jwt.claim.sub",
    "request.jwt",
    "request.headers",
    "auth.uid",
    "app.uid",
];

#[test]
fn N11_no_setting_makes_claims() {
    let db = Database::new();
    let mut admin = db.connect();
    let victim = sign_in(&mut admin);
    let own = sign_in(&mut admin);
    let wish = wish(victim.user);
    let unsigned =
        format!("eyJhbGciOiJub25lIn0.{}.", "eyJzdWIiOiIwMTkwMDAwMC0wMDAwLTcwMDAtODAwMC0wMDAwMDAwMDAwMDAifQ");
    let values = ["on", "off", "true", wish.as_str(), &unsigned, "", "/dev/zero", &victim.refresh_token];
    for role in ROLES {
        // Two connections: one where the library is loaded, and one where the settings are still anybody's.
        for is_loaded in [true, false] {
            let mut client = connection(&db, role);
            if is_loaded {
                assert_eq!(uid(&mut client), None);
            }
            for setting in SETTINGS {
                for value in values {
                    // Refused or not: what counts is what comes of it.
                    let _ = client.query("select set_config($1, $2, false)", &[setting, &value]);
                }
            }
            let _ = client.query("select set_config('request.jwt.claims', $1, false)", &[&wish]);
            let claims: Option<Value> = value(&mut client, "select auth.jwt()");
            assert_eq!(claims, None, "{role}");
            assert_eq!(uid(&mut client), None, "{role}");
            for setting in &SETTINGS[..4] {
                for value in ["on", "off", "/dev/zero"] {
                    let result = client.query("select set_config($1, $2, false)", &[setting, &value]);
                    let error = result.expect_err("a superuser's setting");
                    assert_eq!(sqlstate(&error), "42501", "{setting}: {}", describe(&error));
                }
            }
            // With a token of its own, the claims are that token's.
            set_token(&mut client, &own.access_token);
            assert_eq!(uid(&mut client), Some(own.user));
            assert_eq!(value::<String>(&mut client, "select auth.role()"), "authenticated");
        }
    }
}

#[test]
fn N11_no_setting_outlives_revocation_or_keeps_the_role() {
    let db = Database::new();
    let mut admin = db.connect();
    let gone = sign_in(&mut admin);
    let here = sign_in(&mut admin);
    admin.execute("delete from auth.sessions where user_id = $1", &[&gone.user]).unwrap();
    let mut client = db.connect_as(APP);
    run(&mut client, "set anon_auth.check_session = off; set anon_auth.switch_role = off");
    let mut transaction = client.transaction().unwrap();
    authenticate(&mut transaction, &here.access_token).unwrap();
    assert_eq!(value::<String>(&mut transaction, "select current_user::text"), "authenticated");
    transaction.rollback().unwrap();
    set_token(&mut client, &gone.access_token);
    assert_eq!(uid(&mut client), None);

    // In the start-up packet, before there is any library, and kept for the role.
    for option in ["-canon_auth.trust_request_claims=on", "-c anon_auth.check_session=off"] {
        let mut config = db.server.config(&db.name, APP);
        let Ok(mut client) = config.options(option).connect(NoTls) else { continue };
        let claims = wish(here.user);
        client.query("select set_config('request.jwt.claims', $1, false)", &[&claims]).unwrap();
        assert_eq!(uid(&mut client), None, "{option}");
        set_token(&mut client, &gone.access_token);
        assert_eq!(uid(&mut client), None, "{option}");
    }
    for sql in [
        "alter role current_user set anon_auth.trust_request_claims = on",
        "alter role current_user set anon_auth.key_file = '/dev/zero'",
    ] {
        expect_error(db.connect_as(APP).batch_execute(sql), "42501", "permission denied");
    }
}

#[test]
fn N11_trust_in_request_claims_is_the_superusers_choice() {
    let db = Database::new();
    let mut admin = db.connect();
    let guest = sign_in(&mut admin);
    run(&mut admin, "create table seen_by (who uuid)");
    let claims = json!({"sub": guest.user.to_string(), "role": "authenticated"}).to_string();
    let mut trusted = db.server.config(&db.name, db.server.superuser());
    let mut trusted = trusted.options("-c anon_auth.trust_request_claims=on").connect(NoTls).unwrap();
    trusted.query("select set_config('request.jwt.claims', $1, false)", &[&claims]).unwrap();
    assert_eq!(uid(&mut trusted), Some(guest.user));
    // A verified token comes first.
    let other = sign_in(&mut admin);
    set_token(&mut trusted, &other.access_token);
    assert_eq!(uid(&mut trusted), Some(other.user));
}

#[test]
fn N21_no_role_is_taken_that_may_not_be() {
    let db = Database::new();
    let mut admin = db.connect();
    let guest = sign_in(&mut admin);
    let mut stranger = db.connect_as(STRANGER);
    let mut transaction = stranger.transaction().unwrap();
    let text = expect_error(authenticate(&mut transaction, &guest.access_token), "PT403", "role_not_allowed");
    assert!(text.contains("GRANT \"authenticated\" TO \"it_stranger\""), "{text}");
    transaction.rollback().unwrap();

    for role in ["service_role", "anon_auth_owner", "postgres", "pg_read_all_data", "it_nobody", "none", ""] {
        admin.execute("update auth.users set role = $2 where id = $1", &[&guest.user, &role]).unwrap();
        let session = sign_in_again(&mut admin, &guest);
        let mut client = db.connect_as(APP);
        let mut transaction = client.transaction().unwrap();
        expect_error(authenticate(&mut transaction, &session), "PT403", "role_not_allowed");
        transaction.rollback().unwrap();
        assert_eq!(uid(&mut client), None);
        assert_eq!(value::<String>(&mut client, "select current_user::text"), APP);
    }
}

/// An access token with the user's present role.
fn sign_in_again(admin: &mut Client, guest: &Session) -> String {
    run(admin, "select auth.set_setting('refresh_token_reuse_interval', '1 hour')");
    refresh(admin, &guest.refresh_token).expect("inside the interval").access_token
}

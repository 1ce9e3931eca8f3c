//! A database with a past, filled through the functions that applications and administrators call, and what must
//! hold of it wherever it was taken: by dump, `pg_upgrade` or an update.

use crate::*;
use postgres::Client;
use postgres::types::ToSql;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What the database is asked about afterwards.
pub struct History {
    fresh: Session,
    refreshed: Session,
    /// Its refresh token was used.
    used: Session,
    signed_with_previous_key: Session,
    kiosk: Session,
    /// Has no row yet.
    lazy: Session,
    banned: Session,
    stolen: Session,
    signed_out: Session,
    /// Signed out before it had a row.
    lazy_gone: Session,
    /// Has an address and a password.
    permanent: Session,
    linked: Session,
    issuer: Issuer,
    /// Its guest comes back by it.
    device: (Device, Session),
    /// Has claimed an address, and the code that proves it.
    claiming: (Session, String),
    /// Has a code to sign in elsewhere.
    moving: (Session, String),
    keys: Value,
}

const ADDRESS: &str = "ada@example.org";
const PASSWORD: &str = "correct horse battery";

impl History {
    /// Fills the database; its server uses a key file.
    pub fn make(db: &Database) -> Self {
        let mut admin = db.connect();
        run(&mut admin, include_str!("history.sql"));
        // So many that a parallel restore has other tables' rows before them.
        let many = format!(
            "with made as (insert into auth.users (id, is_anonymous, raw_user_meta_data)
                           select gen_random_uuid(), n % 2 = 0, jsonb_build_object('n', n) from generate_series(1, {}) n
                           returning id)
             insert into auth.sessions (id, user_id) select gen_random_uuid(), id from made",
            50_000 * scale()
        );
        run(&mut admin, &many);

        let signed_with_previous_key = sign_in(&mut admin);
        let revoked: String = value(&mut admin, "select auth.rotate_signing_key('EdDSA')");
        run(
            &mut admin,
            "select auth.rotate_signing_key('ES256');
             set anon_auth.key_file = '';
             select auth.create_signing_key('RS256');
             reset anon_auth.key_file",
        );
        admin.query("select auth.revoke_signing_key($1)", &[&revoked]).unwrap_or_else(failed("revoke"));

        run(&mut admin, "select auth.set_setting('guest_storage', 'lazy')");
        let lazy = sign_in(&mut admin);
        let lazy_gone = sign_in(&mut admin);
        call_as(&mut admin, &lazy_gone, "select to_jsonb(auth.sign_out()::text)", &[]);
        run(&mut admin, "select auth.set_setting('guest_storage', 'eager')");

        let issuer = Issuer::new(&mut admin, "corp");
        let linked = sign_in(&mut admin);
        let token = issuer.token(json!({"sub": "linked"}));
        let linked = link_identity(&mut admin, &linked.access_token, "corp", &token, Some("n"));
        let linked = linked.unwrap_or_else(failed("link_identity")).into();

        let (guest, code) = claim(&mut admin, ADDRESS);
        let permanent: Session = verify_code(&mut admin, &guest, &code).into();
        call_as(&mut admin, &permanent, "select auth.update_user($1)", &[&json!({"password": PASSWORD})]);

        let used = sign_in(&mut admin);
        refresh(&mut admin, &used.refresh_token).unwrap_or_else(failed("refresh"));
        let first = sign_in(&mut admin);
        let refreshed = refresh(&mut admin, &first.refresh_token).unwrap_or_else(failed("refresh"));
        let stolen = sign_in(&mut admin);
        refresh(&mut admin, &stolen.refresh_token).unwrap_or_else(failed("refresh"));
        sleep(10);
        expect_error(refresh(&mut admin, &stolen.refresh_token), "PT401", "refresh_token_already_used");
        let signed_out = sign_in(&mut admin);
        call_as(&mut admin, &signed_out, "select to_jsonb(auth.sign_out()::text)", &[]);
        let banned = sign_in(&mut admin);
        let ban = "update auth.users set banned_until = 'infinity' where id = $1";
        admin.execute(ban, &[&banned.user]).unwrap_or_else(failed(ban));
        let moving = sign_in(&mut admin);
        let code = call_as(&mut admin, &moving, "select auth.create_transfer_code()", &[]);
        let moving = (moving, code["transfer_code"].as_str().expect("a code").to_owned());

        let device = Device::new("device-1");
        let of_device = device.register(&mut admin).unwrap_or_else(failed("register"));

        for sql in
            ["insert into shop.notes (user_id, body) values ($1, 'kept')", "insert into shop.carts values ($1, 2)"]
        {
            admin.execute(sql, &[&permanent.user]).unwrap_or_else(failed(sql));
        }
        Self {
            fresh: sign_in(&mut admin),
            refreshed,
            used,
            signed_with_previous_key,
            kiosk: value::<Value>(&mut admin, "select auth.sign_in_anonymously(provider => 'kiosk')").into(),
            lazy,
            banned,
            stolen,
            signed_out,
            lazy_gone,
            permanent,
            linked,
            issuer,
            device: (device, of_device),
            claiming: claim(&mut admin, "grace@example.org"),
            moving,
            keys: value(&mut admin, "select auth.jwks()"),
        }
    }

    /// Asserts that everything that worked before works in `db`, and nothing else. Changes the database.
    pub fn check(&self, db: &Database) {
        let mut admin = db.connect();
        let keys = "select count(*) from auth.signing_keys";
        let keys_before: i64 = value(&mut admin, keys);
        self.check_sessions(&mut admin);
        self.check_linking(&mut admin);
        self.check_policies(db);
        self.check_merge(&mut admin);
        self.check_cleanup(&mut admin);
        assert_eq!(value::<Value>(&mut admin, "select auth.jwks()"), self.keys);
        assert_eq!(value::<i64>(&mut admin, keys), keys_before, "no new key was needed");
    }

    fn check_sessions(&self, admin: &mut Client) {
        for session in [
            &self.fresh,
            &self.refreshed,
            &self.signed_with_previous_key,
            &self.kiosk,
            &self.lazy,
            &self.permanent,
            &self.linked,
        ] {
            let claims = verify(admin, &session.access_token).unwrap_or_else(failed("verify"));
            assert_eq!(claims["plan"], "free", "the hook has written it");
            let refreshed = refresh(admin, &session.refresh_token).unwrap_or_else(failed("refresh"));
            assert_eq!(refreshed.user, session.user);
        }
        expect_error(refresh(admin, &self.used.refresh_token), "PT401", "refresh_token_already_used");
        expect_error(verify(admin, &self.used.access_token), "PT401", "session_not_found");
        expect_error(verify(admin, &self.banned.access_token), "PT403", "user_banned");
        expect_error(refresh(admin, &self.banned.refresh_token), "PT403", "user_banned");
        for gone in [&self.stolen, &self.signed_out, &self.lazy_gone] {
            expect_error(verify(admin, &gone.access_token), "PT401", "session_not_found");
            refresh(admin, &gone.refresh_token).expect_err("the session has ended");
        }
        let welcomes = "select count(*) from shop.welcomes";
        let before: i64 = value(admin, welcomes);
        sign_in(admin);
        assert_eq!(value::<i64>(admin, welcomes), before + 1, "the hook is called");
    }

    fn check_linking(&self, admin: &mut Client) {
        let sign_in = "select auth.sign_in_with_password($1, $2)";
        let answer =
            admin.query_one(sign_in, &[&ADDRESS, &PASSWORD]).unwrap_or_else(failed(sign_in)).get::<_, Value>(0);
        assert_eq!(Session::from(answer).user, self.permanent.user);
        // Counted, so by the background worker.
        expect_error(admin.query_one(sign_in, &[&ADDRESS, &"wrong"]), "PT400", "invalid_credentials");

        let token = self.issuer.token(json!({"sub": "linked"}));
        let answer = sign_in_with_id_token(admin, "corp", &token, Some("n")).unwrap_or_else(failed("sign_in"));
        assert_eq!(Session::from(answer).user, self.linked.user);

        let (device, guest) = &self.device;
        assert_eq!(device.sign_in(admin).unwrap_or_else(failed("sign_in")).user, guest.user);

        let (guest, code) = &self.claiming;
        let session: Session = verify_code(admin, guest, code).into();
        assert_eq!(session.user, guest.user);
        let (guest, code) = &self.moving;
        let redeem = "select auth.redeem_transfer_code($1)";
        let answer = admin.query_one(redeem, &[code]).unwrap_or_else(failed(redeem)).get::<_, Value>(0);
        assert_eq!(Session::from(answer).user, guest.user);
    }

    fn check_policies(&self, db: &Database) {
        let stray = db.connect().batch_execute("insert into shop.carts values (gen_random_uuid(), 1)");
        assert_eq!(sqlstate(&stray.unwrap_err()), "23503", "the foreign key is there");
        let mut app = db.connect_as(APP);
        for (session, seen, may_write) in [(&self.permanent, 1, true), (&self.fresh, 0, false)] {
            let mut transaction = app.transaction().unwrap_or_else(failed("begin"));
            authenticate(&mut transaction, &session.access_token).unwrap_or_else(failed("authenticate"));
            assert_eq!(value::<i64>(&mut transaction, "select count(*) from shop.notes"), seen);
            let written = transaction.batch_execute("insert into shop.notes (body) values ('new')");
            assert_eq!(written.is_ok(), may_write);
            transaction.rollback().unwrap_or_else(failed("rollback"));
        }
    }

    /// The rules name tables and functions, which have other OIDs by now.
    fn check_merge(&self, admin: &mut Client) {
        let guest = sign_in(admin);
        for sql in [
            "insert into shop.carts values ($1, 3)",
            "insert into shop.orders values (1, $1)",
            "insert into \"Odd Schema\".\"Odd Table\" values ($1::uuid::text)",
        ] {
            admin.execute(sql, &[&guest.user]).unwrap_or_else(failed(sql));
        }
        call_as(admin, &self.permanent, "select auth.merge_anonymous_user($1)", &[&guest.refresh_token]);
        let merged = "select (select items from shop.carts where user_id = $1),
                             (select moved from shop.orders where user_id = $1),
                             (select count(*) from \"Odd Schema\".\"Odd Table\" where owner = $1::uuid::text)";
        let row = admin.query_one(merged, &[&self.permanent.user]).unwrap_or_else(failed(merged));
        assert_eq!((row.get(0), row.get(1), row.get(2)), (Some(5), Some(true), 1_i64));
        assert!(!exists(admin, guest.user));
    }

    fn check_cleanup(&self, admin: &mut Client) {
        let old = "select count(*) from auth.users where created_at < now() - interval '300 days'";
        let young = "select count(*) from auth.users where created_at > now() - interval '300 days'";
        let kept: i64 = value(admin, young);
        assert_eq!(value::<i64>(admin, old), 1000);
        run(admin, "call auth.cleanup()");
        assert_eq!((value::<i64>(admin, old), value::<i64>(admin, young)), (0, kept));
    }
}

/// Number of rows, and a digest of them, of every table that a dump takes, and what the views show.
pub fn contents(client: &mut Client) -> BTreeMap<String, (i64, String)> {
    let dumped = "select c.oid::regclass::text, c.condition
                    from pg_extension, unnest(extconfig, extcondition) c(oid, condition) where extname = 'anon_auth'";
    let dumped = client.query(dumped, &[]).unwrap_or_else(failed(dumped));
    let views = ["all_settings", "all_hooks", "owned_tables"].map(|view| (format!("auth.{view}"), String::new()));
    dumped
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .chain(views)
        .map(|(table, condition): (String, String)| {
            let sql = format!(
                "select count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text from {table} t {condition}"
            );
            let row = client.query_one(&sql, &[]).unwrap_or_else(failed(&sql));
            assert!(row.get::<_, i64>(0) > 0, "{table} is empty: let History::make() fill it");
            (table, (row.get(0), row.get(1)))
        })
        .collect()
}

/// A new guest that claims an address, and the code sent there.
fn claim(admin: &mut Client, address: &str) -> (Session, String) {
    let guest = sign_in(admin);
    call_as(admin, &guest, "select auth.update_user($1)", &[&json!({"email": address})]);
    let messages: Value = value(admin, "select auth.claim_messages()");
    (guest, messages[0]["email_data"]["token"].as_str().expect("a code").to_owned())
}

fn verify_code(admin: &mut Client, guest: &Session, code: &str) -> Value {
    call_as(admin, guest, "select auth.verify_otp('email_change', $1)", &[&code])
}

/// Calls a function as this user, in a transaction of its own.
fn call_as(client: &mut Client, user: &Session, sql: &str, arguments: &[&(dyn ToSql + Sync)]) -> Value {
    let mut transaction = client.transaction().unwrap_or_else(failed("begin"));
    authenticate(&mut transaction, &user.access_token).unwrap_or_else(failed("authenticate"));
    let answer = transaction.query_one(sql, arguments).unwrap_or_else(failed(sql)).get(0);
    transaction.commit().unwrap_or_else(failed("commit"));
    answer
}

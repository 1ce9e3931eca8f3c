//! A streaming standby: reading works as on the primary, writing says why it does not.

use anon_auth_tests::*;
use serde_json::json;
use std::time::Duration;

#[test]
fn W3_a_standby_verifies_and_follows() {
    let primary = Server::start(&[]);
    let db = Database::on(&primary);
    let mut admin = db.connect();
    run(
        &mut admin,
        "create table notes (user_id uuid references auth.users (id) on delete cascade, body text);
         grant select on notes to authenticated; alter table notes enable row level security;
         create policy own on notes to authenticated using (user_id = auth.uid() and auth.is_anonymous())",
    );
    let guest = sign_in(&mut admin);
    let other = sign_in(&mut admin);
    admin.execute("insert into notes values ($1, 'mine'), ($2, 'not mine')", &[&guest.user, &other.user]).unwrap();
    let standby = primary.standby();
    let mut client = standby.connect(&db.name, APP);

    let mut transaction = client.transaction().unwrap();
    assert_eq!(authenticate(&mut transaction, &guest.access_token).unwrap(), guest.user);
    assert_eq!(uid(&mut transaction), Some(guest.user));
    assert_eq!(value::<String>(&mut transaction, "select string_agg(body, ',') from notes"), "mine");
    let reading = "select auth.role() = 'authenticated' and auth.is_anonymous() and auth.session_id() is not null
                          and auth.email() is null and auth.jwt()->>'sub' = auth.uid()::text
                          and auth.get_user()->>'id' = auth.uid()::text and auth.user_info()->>'sub' = auth.uid()::text
                          and jsonb_array_length(auth.jwks()->'keys') = 1";
    assert!(value::<bool>(&mut transaction, reading));
    for call in [
        "auth.sign_in_anonymously()",
        "auth.refresh_session($1)",
        "auth.sign_out()",
        "auth.delete_user()",
        // A guess cannot be counted there.
        "auth.verify_otp('email_change', '000000')",
        "auth.sign_in_with_password('ada@example.org', 'secret')",
        "auth.redeem_transfer_code('00000-00000')",
        "auth.sign_in_with_device_key('x')",
        "auth.remove_device_key(null)",
    ] {
        let mut inner = transaction.transaction().unwrap();
        let sql = format!("select {call}");
        let parameters: &[&(dyn postgres::types::ToSql + Sync)] =
            if call.contains("$1") { &[&guest.refresh_token] } else { &[] };
        let text = expect_error(inner.query(&sql, parameters), "25006", "cannot execute auth.");
        let name = &call[..call.find('(').unwrap()];
        assert!(text.contains(&format!("cannot execute {name}()")), "{call}: {text}");
        inner.rollback().unwrap();
    }
    transaction.commit().unwrap();
    // A3: a challenge of the standby is good on the primary.
    let device = Device::new("a-device-key");
    let request = device.request(&challenge(&mut client), json!({}), json!({}));
    sign_in_with_device_key(&mut admin, &request).unwrap();
    let mut standby_admin = standby.connect(&db.name, standby.superuser());
    for call in [
        "auth.cleanup_expired_users()",
        "auth.set_setting('disabled', 'true')",
        "auth.rotate_signing_key()",
        "auth.create_signing_key()",
        "auth.revoke_signing_key('x')",
        "auth.import_provider('{\"name\": \"anon-user\", \"type\": \"anon-user\", \"disabled\": true}')",
    ] {
        expect_error(standby_admin.batch_execute(&format!("select {call}")), "25006", "cannot execute auth.");
    }
    // Monitoring looks at a standby as well.
    assert!(value::<bool>(&mut standby_admin, "select count(*) > 10 from auth.health"));
    let seen = Duration::from_secs(20);
    wait_until("the guest with the key", seen, || {
        value::<i64>(&mut standby_admin, "select guests_created from auth.stats") == 3
    });
    assert_eq!(value::<i64>(&mut standby_admin, "select count(*) from auth.lint_policies()"), 0);

    // What the primary does shows in a session of the standby that is open already, once it is replayed.
    set_token(&mut client, &guest.access_token);
    let promote = "update auth.users set is_anonymous = $2 where id = $1";
    admin.execute(promote, &[&guest.user, &false]).unwrap();
    wait_until("the promotion", seen, || {
        value::<Option<bool>>(&mut client, "select auth.is_anonymous()") == Some(false)
    });
    admin.execute("update auth.users set banned_until = 'infinity' where id = $1", &[&guest.user]).unwrap();
    wait_until("the ban", seen, || uid(&mut client).is_none());
    set_token(&mut client, &other.access_token);
    assert_eq!(uid(&mut client), Some(other.user));
    run(&mut admin, "select auth.rotate_signing_key()");
    let new = sign_in(&mut admin);
    wait_until("the new key", seen, || verify(&mut client, &new.access_token).is_ok());
    run(&mut admin, "select auth.revoke_signing_key(kid) from auth.signing_keys where status = 'previously_used'");
    wait_until("the revoked key", seen, || uid(&mut client).is_none());
    set_token(&mut client, &new.access_token);
    admin.execute("delete from auth.sessions where user_id = $1", &[&new.user]).unwrap();
    wait_until("the sign-out", seen, || uid(&mut client).is_none());

    // When the primary is lost, the standby takes over with everything.
    let last = sign_in(&mut admin);
    let reached = "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
    let written: String = value(&mut admin, "select pg_current_wal_flush_lsn()::text");
    wait_until("the last sign-in", seen, || standby_admin.query_one(reached, &[&written]).unwrap().get(0));
    drop(admin);
    primary.kill();
    run(&mut standby_admin, "select pg_promote()");
    refresh(&mut client, &last.refresh_token).unwrap();
    sign_in(&mut client);
}

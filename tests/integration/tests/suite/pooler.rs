//! Behind a transaction pooler, no client sees another's identity.

use anon_auth_tests::*;
use postgres::{Client, Transaction};
use std::collections::HashSet;

const CLIENTS: usize = 200;
const SERVER_CONNECTIONS: usize = 4;

/// Who a client is.
#[derive(Clone)]
enum Who {
    Guest(Session),
    Permanent(Session, String),
    Nobody,
}

impl Who {
    fn session(&self) -> Option<&Session> {
        match self {
            Self::Guest(session) | Self::Permanent(session, _) => Some(session),
            Self::Nobody => None,
        }
    }
}

/// What a client does with a transaction, after it has authenticated.
type Action = fn(&Pooler, &mut Client, &Who);

/// What keeps to the transaction, or ends badly.
const ACTIONS: [Action; 8] = [
    |_, client, who| {
        let mut transaction = begin(client, who);
        if let Some(session) = who.session() {
            transaction.execute("insert into notes (body) values ($1)", &[&session.user.to_string()]).unwrap();
        }
        check(&mut transaction, who);
        transaction.commit().unwrap();
    },
    |_, client, who| begin(client, who).rollback().unwrap(),
    |_, client, who| {
        let mut transaction = begin(client, who);
        transaction.batch_execute("select 1 / 0").unwrap_err();
        // Rolled back when it is dropped.
    },
    // Whoever one is in a savepoint, one is not any more when it is rolled back; an error within changes nothing.
    |_, client, who| {
        let mut transaction = client.transaction().unwrap();
        let mut savepoint = transaction.transaction().unwrap();
        take(&mut savepoint, who);
        check(&mut savepoint, who);
        savepoint.rollback().unwrap();
        check(&mut transaction, &Who::Nobody);
        take(&mut transaction, who);
        let mut savepoint = transaction.transaction().unwrap();
        savepoint.batch_execute("reset anon_auth.access_token; select 1 / 0").unwrap_err();
        savepoint.rollback().unwrap();
        check(&mut transaction, who);
        transaction.commit().unwrap();
    },
    // A guess at who one might be.
    |_, client, who| {
        let mut transaction = begin(client, who);
        let claims = r#"{"sub": "00000000-0000-7000-8000-000000000001", "role": "authenticated"}"#;
        let forge =
            "select set_config('request.jwt.claims', $1, true), set_config('anon_auth.access_token', 'x.y.z', true)";
        transaction.execute(forge, &[&claims]).unwrap();
        check_uid(&mut transaction, None);
        transaction.rollback().unwrap();
    },
    // A table and a cursor of the transaction's own.
    |_, client, who| {
        let mut transaction = begin(client, who);
        if who.session().is_some() {
            run(&mut transaction, "declare own cursor for select body from public.notes; fetch 1 from own");
        }
        run(&mut transaction, "create temporary table users on commit drop as select auth.uid() as id");
        check_uid(&mut transaction, who.session());
        transaction.commit().unwrap();
    },
    // Outside a transaction block it is of no effect.
    |_, client, who| {
        if let Some(session) = who.session() {
            client.simple_query(&format!("select auth.authenticate('{}')", session.access_token)).unwrap();
        }
        client.simple_query("discard plans").unwrap();
    },
    // Gone in the middle of it.
    |pooler, client, who| {
        let mut lost = pooler.connect();
        let transaction = begin(&mut lost, who);
        std::mem::forget(transaction);
        drop(lost);
        check(&mut client.transaction().unwrap(), &Who::Nobody);
    },
];

/// What outlives the transaction.
const LEFT_BEHIND: [Action; 6] = [
    |_, client, who| {
        let mut transaction = begin(client, who);
        if let Some(session) = who.session() {
            set_token(&mut transaction, &session.access_token);
        }
        transaction.commit().unwrap();
    },
    |_, client, who| {
        if let Some(session) = who.session() {
            client.simple_query(&format!("set anon_auth.access_token = '{}'", session.access_token)).unwrap();
        }
    },
    |_, client, _| {
        client.simple_query("set role authenticated").unwrap();
    },
    |_, client, who| {
        let mut transaction = begin(client, who);
        run(&mut transaction, "create temporary table notes as select auth.uid() as user_id, 'not yours' as body");
        transaction.commit().unwrap();
    },
    |_, client, who| {
        let mut transaction = begin(client, who);
        run(&mut transaction, "declare kept cursor with hold for select auth.uid()");
        transaction.commit().unwrap();
    },
    |_, client, _| {
        client.simple_query("set search_path = pg_temp, public; listen secrets; prepare mine as select 1").unwrap();
    },
];

fn begin<'a>(client: &'a mut Client, who: &Who) -> Transaction<'a> {
    let mut transaction = client.transaction().unwrap();
    // Whoever was served before: nothing of it is left.
    check(&mut transaction, &Who::Nobody);
    take(&mut transaction, who);
    check(&mut transaction, who);
    transaction
}

fn take(transaction: &mut Transaction, who: &Who) {
    if let Some(session) = who.session() {
        assert_eq!(authenticate(transaction, &session.access_token).unwrap(), session.user);
    }
}

fn check_uid(transaction: &mut Transaction, expected: Option<&Session>) {
    assert_eq!(uid(transaction), expected.map(|session| session.user));
}

/// Every answer about who is calling is that of `who`, and there is nothing around that somebody else has made.
fn check(transaction: &mut Transaction, who: &Who) {
    check_uid(transaction, who.session());
    let answers: String = value(
        transaction,
        "select format('%s %s %s %s %s %s', current_user, coalesce(auth.role(), '-'), coalesce(auth.is_anonymous()::text, '-'),
                       coalesce(auth.email(), '-'), coalesce(auth.jwt()->>'sub', '-'), auth.session_id() is null)",
    );
    assert_eq!(
        answers,
        match who {
            Who::Guest(session) => format!("authenticated authenticated true - {} f", session.user),
            Who::Permanent(session, email) => format!("authenticated authenticated false {email} {} f", session.user),
            Who::Nobody => format!("{APP} - - - - t"),
        }
    );
    if let Some(session) = who.session() {
        let bodies: Option<String> = value(transaction, "select string_agg(distinct body, ',') from public.notes");
        assert!(bodies.is_none_or(|bodies| bodies == session.user.to_string()), "rows of others");
    } else {
        let others: String = value(
            transaction,
            "select format('%s %s %s %s', current_setting('search_path'), (select count(*) from pg_cursors where is_holdable),
                           (select count(*) from pg_prepared_statements where from_sql),
                           (select count(*) from pg_class where relnamespace = pg_my_temp_schema()))",
        );
        assert_eq!(others, r#""$user", public 0 0 0"#);
    }
}

/// Two hundred clients at once, each taking all of `actions` in turn, from another one on.
fn interleave(settings: &str, actions: &[Action]) {
    let db = Database::new();
    let mut admin = db.connect();
    run(
        &mut admin,
        "create table notes (user_id uuid default auth.uid(), body text);
         grant select, insert on notes to authenticated; alter table notes enable row level security;
         create policy own on notes to authenticated using (user_id = auth.uid()) with check (user_id = auth.uid())",
    );
    let everybody: Vec<_> = (0..CLIENTS)
        .map(|n| match n % 5 {
            0 => Who::Nobody,
            1 | 2 => {
                let session = sign_in(&mut admin);
                let email = format!("user{n}@example.org");
                let promote = "update auth.users set is_anonymous = false, email = $2, email_confirmed_at = now() where id = $1";
                admin.execute(promote, &[&session.user, &email]).unwrap();
                Who::Permanent(session, email)
            }
            _ => Who::Guest(sign_in(&mut admin)),
        })
        .collect();
    let pooler = &Pooler::start(&db, APP, SERVER_CONNECTIONS, settings);
    let clients: Vec<_> = everybody.iter().map(|_| pooler.connect()).collect();
    let backends: HashSet<i32> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(clients)
            .zip(&everybody)
            .map(|((n, mut client), who)| {
                scope.spawn(move || {
                    for turn in 0..actions.len() {
                        actions[(n + turn) % actions.len()](pooler, &mut client, who);
                    }
                    value(&mut begin(&mut client, who), "select pg_backend_pid()")
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no client sees anything wrong")).collect()
    });
    // Each server process served many. (One that a client left in the middle of a transaction is replaced.)
    assert!(backends.len() <= CLIENTS / 5, "{backends:?}");
    // What was written is everybody's own.
    let strangers: i64 = value(&mut admin, "select count(*) from notes where user_id::text is distinct from body");
    assert_eq!(strangers, 0);
}

#[test]
fn W4_two_hundred_clients_on_four_connections() {
    interleave("", &ACTIONS);
}

#[test]
fn W4_nothing_is_left_behind_where_the_pooler_cleans_up() {
    let all: Vec<Action> = ACTIONS.into_iter().chain(LEFT_BEHIND).collect();
    interleave("server_reset_query_always = 1", &all);
}

/// Runs `work` in one transaction on each server connection, all open at once.
fn on_each_connection(pooler: &Pooler, work: impl Fn(&mut Transaction)) {
    let mut clients: Vec<_> = (0..SERVER_CONNECTIONS).map(|_| pooler.connect()).collect();
    let mut transactions: Vec<_> = clients.iter_mut().map(|client| client.transaction().unwrap()).collect();
    let backends: HashSet<i32> =
        transactions.iter_mut().map(|transaction| value(transaction, "select pg_backend_pid()")).collect();
    assert_eq!(backends.len(), SERVER_CONNECTIONS);
    transactions.iter_mut().for_each(work);
}

#[test]
fn N12_who_has_signed_out_is_refused_on_every_connection() {
    let db = Database::new();
    let pooler = Pooler::start(&db, APP, SERVER_CONNECTIONS, "");
    let mut client = pooler.connect();
    let mut transaction = client.transaction().unwrap();
    let (gone, stays) = (sign_in(&mut transaction), sign_in(&mut transaction));
    transaction.commit().unwrap();
    on_each_connection(&pooler, |transaction| {
        assert_eq!(authenticate(transaction, &gone.access_token).unwrap(), gone.user);
    });
    let mut transaction = client.transaction().unwrap();
    authenticate(&mut transaction, &gone.access_token).unwrap();
    run(&mut transaction, "select auth.sign_out()");
    transaction.commit().unwrap();
    on_each_connection(&pooler, |transaction| {
        let mut savepoint = transaction.transaction().unwrap();
        expect_error(authenticate(&mut savepoint, &gone.access_token), "PT401", "session_not_found");
        savepoint.rollback().unwrap();
        check(transaction, &Who::Nobody);
        assert_eq!(authenticate(transaction, &stays.access_token).unwrap(), stays.user);
    });
}

#[test]
fn N10_a_guest_does_not_raise_itself_or_whoever_comes_next() {
    let db = Database::new();
    let pooler = Pooler::start(&db, APP, SERVER_CONNECTIONS, "");
    let mut client = pooler.connect();
    let mut transaction = client.transaction().unwrap();
    let guest = sign_in(&mut transaction);
    transaction.commit().unwrap();
    let mut transaction = client.transaction().unwrap();
    authenticate(&mut transaction, &guest.access_token).unwrap();
    for attempt in [
        "update auth.users set is_anonymous = false",
        "select auth.set_setting('disabled', 'true')",
        "select auth.rotate_signing_key()",
        "set role service_role",
        "set role anon_auth_owner",
        "set anon_auth.switch_role = off",
        "set anon_auth.check_session = off",
        "set anon_auth.trust_request_claims = on",
    ] {
        let mut savepoint = transaction.transaction().unwrap();
        expect_error(savepoint.batch_execute(attempt), "42501", "");
        savepoint.rollback().unwrap();
    }
    check_uid(&mut transaction, Some(&guest));
    transaction.commit().unwrap();
    on_each_connection(&pooler, |transaction| check(transaction, &Who::Nobody));
}

/// The reason why docs/clients.md says what not to do: PgBouncer by itself leaves it.
#[test]
fn W4_a_token_left_behind_ends_where_somebody_authenticates() {
    let db = Database::new();
    let mut admin = db.connect();
    let (careless, careful) = (sign_in(&mut admin), sign_in(&mut admin));
    let pooler = Pooler::start(&db, APP, 1, "");
    let (mut one, mut other) = (pooler.connect(), pooler.connect());
    let mut transaction = one.transaction().unwrap();
    set_token(&mut transaction, &careless.access_token);
    transaction.commit().unwrap();

    let mut transaction = other.transaction().unwrap();
    assert_eq!(uid(&mut transaction), Some(careless.user));
    assert_eq!(authenticate(&mut transaction, &careful.access_token).unwrap(), careful.user);
    assert_eq!(uid(&mut transaction), Some(careful.user));
    transaction.commit().unwrap();
    // Behind PostgREST, where a request may well have no token, the request decides.
    let mut transaction = other.transaction().unwrap();
    run(&mut transaction, "select set_config('request.headers', '{}', true), auth.pre_request()");
    assert_eq!(uid(&mut transaction), None);
}

#[test]
fn S16_clients_of_a_pooler_are_one_until_they_tell_their_address() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("sign_in_rate_limit", "2")]);
    let pooler = Pooler::start(&db, APP, 1, "");
    let addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2"];
    assert_eq!(addresses.map(|address| is_let_in(&pooler, address)), [true, true, false, false, false, false]);
    let sql = format!("alter role {APP} in database {} set anon_auth.forwarded_header = 'X-Forwarded-For'", db.name);
    run(&mut admin, &sql);
    // The pooler's connections get the setting when they begin.
    drop(pooler);
    let pooler = Pooler::start(&db, APP, 1, "");
    assert_eq!(addresses.map(|address| is_let_in(&pooler, address)), [true, true, true, true, false, false]);
}

/// Whether somebody gets in who comes from there, as the application says.
fn is_let_in(pooler: &Pooler, address: &str) -> bool {
    let mut client = pooler.connect();
    let mut transaction = client.transaction().unwrap();
    let headers = serde_json::json!({"x-forwarded-for": address}).to_string();
    transaction.execute("select set_config('request.headers', $1, true)", &[&headers]).unwrap();
    try_sign_in(&mut transaction).is_ok()
}

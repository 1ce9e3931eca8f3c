//! Behind a transaction pooler, no client sees another's identity.

use anon_auth_tests::*;

const CLIENTS: usize = 12;
const SERVER_CONNECTIONS: usize = 2;
const TRANSACTIONS: usize = 30;

#[test]
fn W4_clients_of_a_pooler_never_see_each_other() {
    let db = Database::new();
    let mut admin = db.connect();
    run(
        &mut admin,
        "create table notes (user_id uuid default auth.uid(), body text);
         grant select, insert on notes to authenticated; alter table notes enable row level security;
         create policy own on notes to authenticated using (user_id = auth.uid()) with check (user_id = auth.uid())",
    );
    let pooler = Pooler::start(&db, APP, SERVER_CONNECTIONS, "");
    let pooler = &pooler;
    let backends: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|i| scope.spawn(move || be_a_client(pooler, i))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no client saw anything wrong")).collect()
    });
    let mut distinct = backends.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() <= SERVER_CONNECTIONS, "{distinct:?}");
    let written = TRANSACTIONS.div_ceil(3) * CLIENTS;
    assert_eq!(value::<i64>(&mut admin, "select count(*) from notes"), written as i64);
    assert_eq!(value::<i64>(&mut admin, "select count(distinct user_id) from notes"), CLIENTS as i64);
}

/// Works as a guest, with transactions of every ending, and nobody's in between; returns the server processes
/// that served it.
fn be_a_client(pooler: &Pooler, number: usize) -> Vec<i32> {
    let mut client = pooler.connect();
    let mut transaction = client.transaction().unwrap();
    let guest = sign_in(&mut transaction);
    transaction.commit().unwrap();
    let mut backends = Vec::new();
    for n in 0..TRANSACTIONS {
        let mut transaction = client.transaction().unwrap();
        assert_eq!(uid(&mut transaction), None, "nobody's identity is left over");
        assert_eq!(value::<String>(&mut transaction, "select current_user::text"), APP);
        assert_eq!(authenticate(&mut transaction, &guest.access_token).unwrap(), guest.user);
        backends.push(value(&mut transaction, "select pg_backend_pid()"));
        match n % 3 {
            0 => {
                transaction.execute("insert into notes (body) values ($1)", &[&number.to_string()]).unwrap();
                let notes: String = value(&mut transaction, "select string_agg(distinct body, ',') from notes");
                assert_eq!((notes, uid(&mut transaction)), (number.to_string(), Some(guest.user)));
                transaction.commit().unwrap();
            }
            1 => {
                assert_eq!(uid(&mut transaction), Some(guest.user));
                transaction.rollback().unwrap();
            }
            _ => {
                transaction.batch_execute("select 1 / 0").unwrap_err();
                drop(transaction);
            }
        }
    }
    backends
}

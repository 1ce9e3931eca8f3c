//! Behind a transaction pooler, no client sees another's identity.

use anon_auth_tests::*;
use postgres::{Client, Config, NoTls};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const CLIENTS: usize = 12;
const SERVER_CONNECTIONS: usize = 2;
const TRANSACTIONS: usize = 30;

/// A PgBouncer in front of one database, in transaction mode.
struct Pooler {
    process: Child,
    dir: PathBuf,
    database: String,
}

impl Pooler {
    fn start(db: &Database) -> Self {
        let dir = new_folder();
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        let path = dir.to_string_lossy();
        let config = dir.join("pgbouncer.ini");
        let settings = format!(
            "[databases]
             {database} = host={host} port={port} dbname={database} user={APP}
             [pgbouncer]
             listen_addr =
             listen_port = 6432
             unix_socket_dir = {path}
             auth_type = any
             pool_mode = transaction
             default_pool_size = {SERVER_CONNECTIONS}
             max_client_conn = 100
             logfile = {path}/log\n",
            database = db.name,
            host = db.server.host,
            port = environment("PGPORT"),
        );
        fs::write(&config, settings.lines().map(|line| line.trim_start().to_owned() + "\n").collect::<String>())
            .unwrap();
        let program =
            if fs::exists("/usr/sbin/pgbouncer").unwrap_or(false) { "/usr/sbin/pgbouncer" } else { "pgbouncer" };
        // It refuses to run as root, like Postgres.
        let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        let mut command = if is_root {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", &environment("ANON_AUTH_RUN_AS"), "--clear-groups", program]);
            command
        } else {
            Command::new(program)
        };
        let process =
            command.arg("-q").arg(&config).stderr(Stdio::null()).current_dir("/").spawn().expect("PgBouncer starts");
        let pooler = Self { process, dir, database: db.name.clone() };
        wait_until("PgBouncer", Duration::from_secs(10), || pooler.config().connect(NoTls).is_ok());
        pooler
    }

    fn config(&self) -> Config {
        let mut config = Config::new();
        config.host_path(&self.dir).port(6432).user("whoever").dbname(&self.database);
        config
    }

    fn connect(&self) -> Client {
        self.config().connect(NoTls).unwrap_or_else(|error| panic!("{}", describe(&error)))
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

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
    let pooler = Pooler::start(&db);
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

#[test]
fn S16_clients_of_a_pooler_are_one_until_they_tell_their_address() {
    let db = Database::new();
    let mut admin = db.connect_with(&[("sign_in_rate_limit", "2")]);
    let pooler = Pooler::start(&db);
    let addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2"];
    assert_eq!(addresses.map(|address| is_let_in(&pooler, address)), [true, true, false, false, false, false]);
    let sql = format!("alter role {APP} in database {} set anon_auth.forwarded_header = 'X-Forwarded-For'", db.name);
    run(&mut admin, &sql);
    // The pooler's connections get the setting when they begin.
    drop(pooler);
    let pooler = Pooler::start(&db);
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

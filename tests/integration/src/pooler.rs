//! A transaction pooler.

use crate::{Database, describe, environment, new_folder, wait_until};
use postgres::{Client, Config, NoTls};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A PgBouncer in front of one database, in transaction mode.
pub struct Pooler {
    process: Child,
    /// The folder of its socket.
    pub dir: PathBuf,
    database: String,
}

impl Pooler {
    pub const PORT: u16 = 6432;

    /// # Arguments
    /// * `user` – who it connects as
    /// * `connections` – how many it makes to the server
    /// * `settings` – further lines of its configuration
    pub fn start(db: &Database, user: &str, connections: usize, settings: &str) -> Self {
        let dir = new_folder();
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        let path = dir.to_string_lossy();
        let config = dir.join("pgbouncer.ini");
        let content = format!(
            "[databases]
             {database} = host={host} port={port} dbname={database} user={user}
             [pgbouncer]
             listen_addr =
             listen_port = {listen}
             unix_socket_dir = {path}
             auth_type = any
             pool_mode = transaction
             default_pool_size = {connections}
             max_client_conn = 1000
             logfile = {path}/log
             {settings}\n",
            listen = Self::PORT,
            database = db.name,
            host = db.server.host,
            port = db.server.port(),
        );
        fs::write(&config, content.lines().map(|line| line.trim_start().to_owned() + "\n").collect::<String>())
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

    /// How a client reaches it.
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config.host_path(&self.dir).port(Self::PORT).user("whoever").dbname(&self.database);
        config
    }

    /// Connects through it.
    pub fn connect(&self) -> Client {
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

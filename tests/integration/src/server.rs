//! Postgres clusters: the shared one, and those that a test has to itself.

use crate::{describe, environment};
use postgres::{Client, Config, Error, NoTls};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A running Postgres cluster.
#[derive(Clone)]
pub struct Server {
    /// The folder of its socket.
    pub host: String,
    port: u16,
    user: String,
    /// The folder of its programs.
    bin: PathBuf,
    /// Removes the cluster when the last copy goes; `None` for the shared one.
    own: Option<Arc<Own>>,
}

struct Own {
    dir: PathBuf,
    bin: PathBuf,
}

impl Own {
    fn cluster(&self, command: &str, arguments: &[&str]) -> Result<String, String> {
        cluster_in(&[(BIN, &self.bin.to_string_lossy())], command, &self.dir, arguments)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.cluster("remove", &[]);
    }
}

/// The variable that names the folder of Postgres's programs.
const BIN: &str = "ANON_AUTH_PG_BIN";

fn cluster_in(environment: &[(&str, &str)], command: &str, dir: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(repository().join("tests/cluster.sh"))
        .envs(environment.iter().copied())
        .arg(command)
        .arg(dir)
        .args(arguments)
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("cluster.sh {command}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Server {
    /// The cluster that all tests share.
    pub fn shared() -> Self {
        Self {
            host: environment("PGHOST"),
            port: environment("PGPORT").parse().expect("PGPORT is a number"),
            user: environment("PGUSER"),
            bin: environment(BIN).into(),
            own: None,
        }
    }

    /// A new cluster with these Postgres settings, each `name=value`.
    pub fn start(settings: &[&str]) -> Self {
        Self::start_in(&[], settings)
    }

    /// A new cluster whose processes have these environment variables, with these Postgres settings.
    pub fn start_in(environment: &[(&str, &str)], settings: &[&str]) -> Self {
        let dir = new_folder();
        let printed = cluster_in(environment, "start", &dir, settings).unwrap();
        Self::own(dir, &printed)
    }

    /// A new cluster on the Postgres of another folder of programs.
    pub fn start_on(bin: &Path, settings: &[&str]) -> Self {
        Self::start_in(&[(BIN, &bin.to_string_lossy())], settings)
    }

    fn own(dir: PathBuf, printed: &str) -> Self {
        let value = |name: &str| {
            let line = printed.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_else(|| panic!("cluster.sh printed no {name}")).to_owned()
        };
        Self {
            host: value("PGHOST"),
            port: value("PGPORT").parse().expect("PGPORT is a number"),
            user: value("PGUSER"),
            bin: value(BIN).into(),
            own: Some(Arc::new(Own { dir, bin: value(BIN).into() })),
        }
    }

    /// A new streaming standby of this cluster.
    pub fn standby(&self) -> Self {
        let dir = new_folder();
        let printed = self.with_cluster("standby", &[&dir.to_string_lossy()]);
        Self::own(dir, &printed)
    }

    /// The same data under the Postgres of another folder of programs, in a new cluster, by `pg_upgrade`. This one is
    /// stopped, and stays as it was.
    pub fn upgrade(&self, bin: &Path, settings: &[&str]) -> Self {
        let dir = new_folder();
        let to = dir.to_string_lossy();
        let arguments: Vec<&str> = [&*to].into_iter().chain(settings.iter().copied()).collect();
        let bin = bin.to_string_lossy();
        let printed = cluster_in(&[(BIN, &bin)], "upgrade", self.dir(), &arguments).unwrap();
        Self::own(dir, &printed)
    }

    /// Stops it; `recover` starts it again.
    pub fn stop(&self) {
        self.with_cluster("stop", &[]);
    }

    /// Kills the postmaster with SIGKILL.
    pub fn kill(&self) {
        self.with_cluster("kill", &[]);
    }

    /// Starts the cluster again.
    pub fn recover(&self) {
        self.with_cluster("start", &[]);
    }

    /// The folder of a cluster that is not the shared one.
    pub fn dir(&self) -> &Path {
        &self.own_cluster().dir
    }

    fn own_cluster(&self) -> &Own {
        self.own.as_ref().expect("the shared cluster is not to be stopped")
    }

    fn with_cluster(&self, command: &str, arguments: &[&str]) -> String {
        self.own_cluster().cluster(command, arguments).unwrap()
    }

    /// Connects to `database` as `user`.
    pub fn connect(&self, database: &str, user: &str) -> Client {
        self.try_connect(database, user).unwrap_or_else(|error| panic!("{database}, {user}: {}", describe(&error)))
    }

    /// # Errors
    /// What the server says when it refuses.
    pub fn try_connect(&self, database: &str, user: &str) -> Result<Client, Error> {
        self.config(database, user).connect(NoTls)
    }

    /// How `database` is reached as `user`.
    pub fn config(&self, database: &str, user: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.host).port(self.port).user(user).dbname(database).application_name("anon_auth_tests");
        config
    }

    /// Whether it is the cluster that all tests share.
    pub fn is_shared(&self) -> bool {
        self.own.is_none()
    }

    /// The port of its socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser's name.
    pub fn superuser(&self) -> &str {
        &self.user
    }

    /// Runs one of Postgres's programs against this cluster and returns what it prints.
    pub fn program(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.command(name, arguments).output().expect("the program starts");
        assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// One of Postgres's programs, set to connect to this cluster.
    pub fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command
            .env("PGHOST", &self.host)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", &self.user)
            .env_remove("PGDATABASE")
            .args(arguments);
        command
    }
}

/// A path in the temporary folder that nothing has yet; short, since a socket's path is limited.
pub fn new_folder() -> PathBuf {
    std::env::temp_dir().join(format!("anon_auth_it.{}.{}", std::process::id(), serial()))
}

/// The folder of the sources.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A number that no other test of this run has.
pub(crate) fn serial() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

//! A database for a test, and what it takes to work in it from many connections.

use crate::{Server, failed, run, serial};
use postgres::Client;
use std::sync::{Barrier, Mutex, PoisonError};

/// The role that applications connect as; may become `anon` and `authenticated`.
pub const APP: &str = "it_app";
/// A login role that was granted nothing.
pub const STRANGER: &str = "it_stranger";

/// A database with the extension and its roles; dropped at the end.
pub struct Database {
    pub server: Server,
    pub name: String,
}

impl Database {
    /// A new database in the shared cluster.
    pub fn new() -> Self {
        Self::on(&Server::shared())
    }

    /// A new database in `server`.
    pub fn on(server: &Server) -> Self {
        let database = Self::empty(server);
        let mut client = database.connect();
        run(&mut client, "create extension anon_auth");
        prepare_roles(&mut client);
        // All tests come from one client; those of the limits turn them on again.
        run(
            &mut client,
            "insert into auth.settings (name, value)
             select name, '0' from auth.all_settings where name like '%\\_rate\\_limit'",
        );
        database
    }

    /// A new database without the extension.
    pub fn empty(server: &Server) -> Self {
        let name = format!("it_{}_{}", std::process::id(), serial());
        let mut client = server.connect("postgres", server.superuser());
        run(&mut client, &format!("create database {name}"));
        Self { server: server.clone(), name }
    }

    /// Connects as superuser.
    pub fn connect(&self) -> Client {
        self.server.connect(&self.name, self.server.superuser())
    }

    /// Connects as `user`.
    pub fn connect_as(&self, user: &str) -> Client {
        self.server.connect(&self.name, user)
    }

    /// Connects as superuser and sets settings of the extension.
    pub fn connect_with(&self, settings: &[(&str, &str)]) -> Client {
        let mut client = self.connect();
        for (name, value) in settings {
            client.execute("select auth.set_setting($1, $2)", &[name, value]).unwrap_or_else(failed(name));
        }
        client
    }

    /// Connects as superuser and lifts the limits on messages to an address.
    pub fn connect_with_unlimited_messages(&self) -> Client {
        self.connect_with(&[
            ("otp_resend_interval", "0"),
            ("otp_message_limit", "1000000"),
            ("otp_message_limit_total", "1000000"),
            ("otp_message_limit_client", "1000000"),
        ])
    }

    /// Runs `work` on `n` connections as `user` that all start at the same moment; results in their order.
    pub fn at_once<T: Send>(&self, n: usize, user: &str, work: impl Fn(usize, &mut Client) -> T + Sync) -> Vec<T> {
        let barrier = Barrier::new(n);
        let (barrier, work) = (&barrier, &work);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..n)
                .map(|i| {
                    scope.spawn(move || {
                        let client = self.server.try_connect(&self.name, user);
                        barrier.wait();
                        work(i, &mut client.expect("the server takes the connection"))
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
        })
    }
}

impl Default for Database {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // With a cluster of its own it goes anyway.
        if self.server.is_shared()
            && let Ok(mut client) = self.server.try_connect("postgres", self.server.superuser())
        {
            let _ = client.batch_execute(&format!("drop database if exists {} with (force)", self.name));
        }
    }
}

/// Makes the roles of the API and the tests' login roles. Roles belong to the cluster: two databases that make
/// them at once would collide.
pub fn prepare_roles(client: &mut Client) {
    static ROLES: Mutex<()> = Mutex::new(());
    let _guard = ROLES.lock().unwrap_or_else(PoisonError::into_inner);
    for role in [APP, STRANGER] {
        let sql = format!(
            "do $$ begin
                 if not exists (select from pg_roles where rolname = '{role}') then create role {role} login noinherit; end if;
             end $$"
        );
        run(client, &sql);
    }
    run(client, &format!("select auth.create_roles('{APP}')"));
}

//! Taking a database to another cluster by dump, with the programs of the cluster that it goes to.

use crate::{Database, Server, new_folder};
use std::fs;
use std::path::{Path, PathBuf};

/// Copies the roles: they belong to the cluster, so a database's dump has none. The superuser is there already.
pub fn copy_roles(from: &Server, to: &Server) {
    let script = new_folder();
    fs::write(&script, output(to.command("pg_dumpall", &["--roles-only"]).env("PGHOST", &from.host)))
        .expect("written");
    to.program("psql", &["-X", "-q", "-d", "postgres", "-f", &script.to_string_lossy()]);
    fs::remove_file(script).expect("removed");
}

/// Dumps `db` in one of `pg_dump`'s formats with the program of `to`, and returns where the dump is.
pub fn dump(db: &Database, to: &Server, format: &str) -> PathBuf {
    let path = new_folder();
    let arguments = ["-F", format, "-f", &path.to_string_lossy(), &db.name];
    output(to.command("pg_dump", &arguments).env("PGHOST", &db.server.host));
    path
}

/// Runs a script, such as a plain dump.
///
/// # Arguments
/// * `stop` – 1 to stop at the first error, 0 to go on
pub fn run_script(db: &Database, script: &Path, stop: &str) {
    let stop = format!("ON_ERROR_STOP={stop}");
    db.server.program("psql", &["-X", "-q", "-v", &stop, "-d", &db.name, "-f", &script.to_string_lossy()]);
}

/// Restores a dump in the formats `c` and `d` into an empty database, several tables at once.
pub fn restore(db: &Database, dump: &Path) {
    db.server.program("pg_restore", &["-j", "4", "-e", "-d", &db.name, &dump.to_string_lossy()]);
}

fn output(command: &mut std::process::Command) -> Vec<u8> {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

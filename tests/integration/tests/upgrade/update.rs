//! From one version of the extension to another, in a server that goes on running. `.ci/releases` has built them.

use crate::{catalog, programs};
use anon_auth_tests::*;
use postgres::Client;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files of a version; `None` where there is none.
fn version(name: &str) -> Option<PathBuf> {
    let files = Path::new(&environment("ANON_AUTH_RELEASES")).join(name);
    files.exists().then_some(files)
}

/// A Postgres whose extension can be replaced; deleted at the end.
struct Installation(PathBuf);

impl Installation {
    fn of(files: &Path) -> Self {
        let tree = programs("15").ancestors().find(|folder| folder.ends_with("target/pg/15")).unwrap().to_owned();
        let installation = Self(new_folder());
        let copied = Command::new("cp").arg("-R").arg(tree).arg(&installation.0).status();
        assert!(copied.unwrap().success());
        for folder in ["--pkglibdir", "--sharedir"] {
            for file in files_of_extension(&installation.folder(folder)) {
                fs::remove_file(file).unwrap();
            }
        }
        installation.install(files);
        installation
    }

    fn programs(&self) -> PathBuf {
        self.0.join("bin")
    }

    /// The folder of libraries, or of scripts, as an option of `pg_config`.
    fn folder(&self, option: &str) -> PathBuf {
        let output = Command::new(self.programs().join("pg_config")).arg(option).output().unwrap();
        let folder = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end());
        if option == "--sharedir" { folder.join("extension") } else { folder }
    }

    /// As a package manager does it: a new file takes the old one's place, and who has that open keeps it.
    fn install(&self, files: &Path) {
        for file in files_of_extension(files) {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            let folder = self.folder(if name.ends_with(".so") { "--pkglibdir" } else { "--sharedir" });
            fs::copy(&file, folder.join("new")).unwrap();
            fs::rename(folder.join("new"), folder.join(name)).unwrap();
        }
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn files_of_extension(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files.filter(|file| file.file_name().unwrap().to_string_lossy().starts_with("anon_auth")).collect()
}

/// The version that a control file names.
fn default_version(files: &Path) -> String {
    let control = fs::read_to_string(files.join("anon_auth.control")).unwrap();
    let line = control.lines().find_map(|line| line.strip_prefix("default_version = '")).unwrap();
    line.trim_end_matches('\'').to_owned()
}

/// A database in the middle of an update.
struct Update {
    db: Database,
    history: History,
    /// A session from before, which has the old library loaded, and a guest of it.
    old: Client,
    guest: Session,
    _key_file: KeyFile,
    /// Goes after the server.
    _installation: Installation,
}

impl Update {
    /// Fills a database with the version `from` and puts the files of `to` into their place.
    fn prepare(from: &Path, to: &Path) -> Self {
        let installation = Installation::of(from);
        let key_file = KeyFile::new(&[5; 32]);
        let server = Server::start_on(&installation.programs(), &[&key_file.setting()]);
        let db = Database::on(&server);
        let history = History::make(&db);
        let mut old = db.connect();
        let guest = sign_in(&mut old);
        // By the background worker of the old version.
        assert_eq!(guess(&mut old), "PT400");
        installation.install(to);
        Self { db, history, old, guest, _key_file: key_file, _installation: installation }
    }

    /// The library of the new version is in use as soon as it is there, with the declarations of the old one.
    fn check_new_library(&mut self) {
        let mut new = self.db.connect();
        let guest = sign_in(&mut new);
        verify(&mut self.old, &guest.access_token).unwrap();
        let guest = refresh(&mut new, &guest.refresh_token).unwrap();
        refresh(&mut self.old, &guest.refresh_token).unwrap();
        // The worker is that of the session's own version.
        assert_eq!(guess(&mut new), "PT400");
        run(&mut new, "select auth.cleanup_expired_users(dry_run => true)");
    }

    fn run(&self) {
        let mut client = self.db.connect();
        run(&mut client, "alter extension anon_auth update");
        // Who may call what is new.
        prepare_roles(&mut client);
    }

    /// Sessions with the old library go on with the new declarations, or are told; none crashes.
    fn check_old_library(&mut self) {
        verify(&mut self.old, &self.guest.access_token).unwrap();
        refresh(&mut self.old, &self.guest.refresh_token).unwrap();
        sign_in(&mut self.old);
        assert!(matches!(&*guess(&mut self.old), "PT400" | "PT503"));
        assert_eq!(value::<i32>(&mut self.old, "select 1"), 1);
    }

    fn differences(&self) -> Vec<String> {
        catalog::differences(&self.db, &Database::on(&self.db.server))
    }
}

/// Tries a wrong password; the SQLSTATE of the answer.
fn guess(client: &mut Client) -> String {
    let wrong = client.query("select auth.sign_in_with_password('ada@example.org', 'wrong')", &[]);
    sqlstate(&wrong.unwrap_err()).to_owned()
}

/// Updates and asserts that nothing is missing; what was updated.
fn update(from: &Path, to: &Path) -> Update {
    let mut update = Update::prepare(from, to);
    let mut admin = update.db.connect();
    let before = contents(&mut admin);
    update.check_new_library();
    let users: i64 = value(&mut admin, "select count(*) from auth.users");
    update.run();

    let version: String = value(&mut admin, "select extversion from pg_extension where extname = 'anon_auth'");
    assert_eq!(version, default_version(to));
    assert_eq!(update.differences(), [""; 0]);
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.customizations"), 0);
    for table in before.keys() {
        assert!(value::<i64>(&mut admin, &format!("select count(*) from {table}")) > 0, "{table}");
    }
    assert_eq!(value::<i64>(&mut admin, "select count(*) from auth.users"), users);
    update.check_old_library();

    // A dump has the new tables, and no privileges that the restored extension has by itself.
    let script = dump(&update.db, &update.db.server, "p");
    let restored = Database::empty(&update.db.server);
    run_script(&restored, &script, "1");
    fs::remove_file(script).unwrap();
    assert_eq!(catalog::differences(&restored, &update.db), [""; 0]);
    assert_eq!(value::<i64>(&mut restored.connect(), "select count(*) from auth.users"), users + 1);
    update.history.check(&update.db);
    update
}

#[test]
fn W11_update_from_the_previous_release_loses_nothing() {
    match version("previous") {
        Some(previous) => drop(update(&previous, &version("this").unwrap())),
        None => println!("there is no release to update from"),
    }
}

#[test]
fn W11_update_to_a_next_version_loses_nothing() {
    let mut update = update(&version("this").unwrap(), &version("next").unwrap());
    let new_function = "select auth.audit_log_size()";
    assert_eq!(value::<i64>(&mut update.db.connect(), new_function), 1);
    let error = update.old.query(new_function, &[]).unwrap_err();
    assert_eq!(sqlstate(&error), "42883", "its library does not have it: {}", describe(&error));
    sign_in(&mut update.old);
}

#[test]
fn W11_an_update_script_that_forgets_something_is_caught() {
    let (this, next) = (version("this").unwrap(), version("next").unwrap());
    let wrong = new_folder();
    fs::create_dir(&wrong).unwrap();
    for file in files_of_extension(&next) {
        fs::copy(&file, wrong.join(file.file_name().unwrap())).unwrap();
    }
    let script = format!("anon_auth--{}--{}.sql", default_version(&this), default_version(&next));
    fs::write(wrong.join(script), include_str!("next/wrong.sql")).unwrap();
    let update = Update::prepare(&this, &wrong);
    fs::remove_dir_all(wrong).unwrap();
    update.run();

    let found = update.differences();
    let expected = [
        "comment of table auth.audit_log_entries.severity",
        "definition of column table auth.settings.updated_at",
        "definition of function auth.audit_log_size()",
        "dump registration of table auth.audit_log_readers",
        "installed part of column name of auth.audit_log_readers",
        "installed part of column severity of auth.audit_log_entries",
        "installed part of constraint audit_log_readers_pkey of auth.audit_log_readers",
        "owner of function auth.audit_log_size()",
        "owner of table auth.audit_log_readers",
        "privileges at installation of function auth.audit_log_size()",
        "privileges at installation of table auth.audit_log_readers",
        "privileges of function auth.audit_log_size()",
        "privileges of table auth.audit_log_readers",
        "definition of index audit_log_readers_pkey on table auth.audit_log_readers",
    ];
    for difference in &found {
        assert!(expected.iter().any(|expected| difference.starts_with(&format!("{expected}: "))), "{difference}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

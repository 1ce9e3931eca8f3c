//! The applications of docs/clients.md, each copied from the page into an empty folder and run there with the driver
//! from its registry. What they print is what the page says.

use anon_auth_tests::*;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

static PAGE: LazyLock<String> = LazyLock::new(|| read("docs/clients.md"));

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(REPOSITORY).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The first code block of this language below a heading of a page.
fn block<'a>(page: &'a str, heading: &str, language: &str) -> &'a str {
    let after = |text: &'a str, line: &str| {
        let start = text.find(&format!("{line}\n")).unwrap_or_else(|| panic!("{heading}: no {line}"));
        &text[start + line.len() + 1..]
    };
    let code = after(after(page, heading), &format!("```{language}"));
    code.split_once("\n```").expect("the block ends").0
}

/// A server with the database that the page asks for: the README's, as pasted into psql.
fn database() -> Database {
    let server = Server::start(&[]);
    let db = Database::empty(&server);
    let readme = read("README.md");
    let sql = [
        block(&readme, "# anon_auth", "sql"),
        block(&readme, "## Use it", "sql"),
        block(&PAGE, "# From your language", "sql"),
        // All of its clients have one address.
        "select auth.set_setting(name, '1000000') from auth.all_settings
          where name in ('sign_in_rate_limit', 'otp_message_limit_client');
         delete from notes;",
    ];
    let file = new_folder();
    fs::write(&file, sql.join("\n")).unwrap();
    db.server.program("psql", &["-X", "-v", "ON_ERROR_STOP=1", "-d", &db.name, "-f", &file.to_string_lossy()]);
    fs::remove_file(file).unwrap();
    db
}

/// An empty folder; removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = new_folder();
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Writes an application of the page to a file in it.
    fn paste(&self, application: &str, file: &str) {
        let path = self.0.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{application}\n")).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where a database is reached.
struct Address {
    host: String,
    port: u16,
    database: String,
}

impl Address {
    fn of(db: &Database) -> Self {
        Self { host: db.server.host.clone(), port: db.server.port(), database: db.name.clone() }
    }

    /// Behind a pooler in front of it.
    fn behind(pooler: &Pooler, db: &Database) -> Self {
        Self { host: pooler.dir.to_string_lossy().into_owned(), port: Pooler::PORT, ..Self::of(db) }
    }

    /// Runs a program in a folder as a reader does who has set these variables; asserts that it prints what the page
    /// shows.
    fn run(&self, folder: &Folder, program: impl AsRef<OsStr>, arguments: &[&str]) {
        let Self { host, port, database } = self;
        let output = Command::new(program)
            .args(arguments)
            .current_dir(&folder.0)
            .env("PGHOST", host)
            .env("PGPORT", port.to_string())
            .env("PGDATABASE", database)
            .env("PGUSER", "web")
            .env("DATABASE_URL", format!("host={host} port={port} dbname={database} user=web"))
            .env("CARGO_TARGET_DIR", Path::new(&environment("ANON_AUTH_CLIENTS")).join("rust"))
            .output()
            .expect("the program starts");
        let printed = String::from_utf8_lossy(&output.stdout);
        let expected = block(&PAGE, "# From your language", "text");
        assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(printed.trim_end(), expected, "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn node(&self, application: &str) {
        let folder = Folder::new();
        let packages = Path::new(&environment("ANON_AUTH_CLIENTS")).join("node/node_modules");
        symlink(packages, folder.0.join("node_modules")).unwrap();
        folder.paste(application, "app.mjs");
        self.run(&folder, "node", &["app.mjs"]);
    }

    fn python(&self, application: &str) {
        let folder = Folder::new();
        folder.paste(application, "app.py");
        self.run(&folder, environment("ANON_AUTH_PYTHON"), &["app.py"]);
    }

    fn psql(&self, application: &str) {
        let folder = Folder::new();
        folder.paste(application, "app.sql");
        let program = Path::new(&environment("ANON_AUTH_PG_BIN")).join("psql");
        self.run(&folder, program, &["-X", "-q", "-A", "-t", "-f", "app.sql"]);
    }

    fn rust(&self, application: &str) {
        let folder = Folder::new();
        for file in ["Cargo.toml", "Cargo.lock"] {
            fs::write(folder.0.join(file), read(&format!("tests/clients/rust/{file}"))).unwrap();
        }
        folder.paste(application, "src/main.rs");
        self.run(&folder, "cargo", &["run", "--quiet", "--locked"]);
    }
}

/// An application of the page.
fn application(heading: &str) -> &'static str {
    let language = match heading {
        "## node-pg" | "## postgres.js" => "js",
        "## psycopg 3" | "## SQLAlchemy" => "python",
        "## tokio-postgres" => "rust",
        _ => "psql",
    };
    block(&PAGE, heading, language)
}

#[test]
fn C1_an_application_in_every_language_of_the_page() {
    let db = database();
    let mut admin = db.connect();
    run(
        &mut admin,
        "create extension pg_stat_statements; select pg_stat_statements_reset();
         create table refreshed (session uuid);
         create function note_refresh() returns trigger language plpgsql security definer as
             $$ begin insert into public.refreshed values (new.id); return null; end $$;
         create trigger note_refresh after update on auth.sessions for each row
             when (new.refresh_token_counter > old.refresh_token_counter) execute function note_refresh()",
    );
    let address = Address::of(&db);
    address.node(application("## node-pg"));
    address.node(application("## postgres.js"));
    address.python(application("## psycopg 3"));
    address.python(application("## SQLAlchemy"));
    address.rust(application("## tokio-postgres"));
    address.psql(application("## psql"));
    // They can be run again.
    address.psql(application("## psql"));

    // What is left is what each has made: an account with two notes, and no guest nor session. Each has refreshed once.
    let left: String = value(
        &mut admin,
        "select format('%s accounts, %s guests, %s sessions, %s notes, %s refreshed',
                       (select count(*) from auth.users where not is_anonymous and email is not null),
                       (select count(*) from auth.users where is_anonymous and id in (select user_id from notes)),
                       (select count(*) from auth.sessions s join auth.users u on u.id = s.user_id where not u.is_anonymous),
                       (select count(*) from notes), (select count(*) from refreshed))",
    );
    assert_eq!(left, "7 accounts, 0 guests, 0 sessions, 14 notes, 7 refreshed");
    // N14: none of their tokens is in what the server keeps of statements.
    let with = |text: &str| {
        format!("select coalesce(string_agg(query, e'\\n'), '') from pg_stat_statements where query like '%{text}%'")
    };
    assert_ne!(value::<String>(&mut admin, &with("auth.authenticate($1)")), "");
    assert_eq!(value::<String>(&mut admin, &with("eyJ")), "");
}

#[test]
fn C1_applications_behind_a_pooler() {
    let db = database();
    let pooler = Pooler::start(&db, "web", 1, "");
    let address = Address::behind(&pooler, &db);
    address.node(application("## node-pg"));
    address.psql(application("## psql"));
    // Those that prepare statements, with what the page says to change.
    let changed = |heading, old: &str, new: &str| {
        let (application, page) = (application(heading), &*PAGE);
        assert!(application.contains(old) && page.contains(&format!("`{new}`")), "{heading}");
        application.replace(old, new)
    };
    address.node(&changed("## postgres.js", "postgres()", "postgres({ prepare: false })"));
    address.python(&changed(
        "## psycopg 3",
        "ConnectionPool(min_size=1, open=True)",
        r#"ConnectionPool(min_size=1, open=True, kwargs={"prepare_threshold": None})"#,
    ));
    address.python(&changed(
        "## SQLAlchemy",
        r#"create_engine("postgresql+psycopg://")"#,
        r#"create_engine("postgresql+psycopg://", connect_args={"prepare_threshold": None})"#,
    ));
}

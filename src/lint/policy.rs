//! Policies as the catalog has them, and for whom each is.

use super::expression::Facts;
use crate::error::Result;
use crate::spi::Statement;
use pgrx::pg_sys::{self, Node, Oid};
use std::ffi::{CStr, CString};

/// A command that a policy can be for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Select,
    Insert,
    Update,
    Delete,
}

impl Command {
    pub const ALL: [Self; 4] = [Self::Select, Self::Insert, Self::Update, Self::Delete];

    pub fn name(self) -> &'static str {
        match self {
            Self::Select => "SELECT",
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

pub struct Policy {
    pub relation: Oid,
    pub schema: String,
    pub table: String,
    pub name: String,
    /// As `pg_policy.polcmd` has it.
    command: String,
    pub is_permissive: bool,
    roles: Vec<Oid>,
    using: Option<*mut Node>,
    check: Option<*mut Node>,
    /// Whether it reads the user metadata in `auth.users`.
    pub reads_metadata_column: bool,
}

impl Policy {
    pub fn command_name(&self) -> &'static str {
        Command::ALL.into_iter().find(|command| self.command == letter(*command)).map_or("ALL", Command::name)
    }

    pub fn is_for(&self, command: Command) -> bool {
        self.command == "*" || self.command == letter(command)
    }

    /// What has to be true for the command; `None` where the policy says nothing about it.
    pub fn conditions(&self, command: Command) -> Option<Vec<*mut Node>> {
        let check = self.check.or(self.using);
        let conditions: Vec<_> = match command {
            Command::Select | Command::Delete => self.using.into_iter().collect(),
            Command::Insert => check.into_iter().collect(),
            Command::Update => self.using.into_iter().chain(self.check).collect(),
        };
        (self.is_for(command) && !conditions.is_empty()).then_some(conditions)
    }

    pub fn expressions(&self) -> impl Iterator<Item = *mut Node> {
        self.using.into_iter().chain(self.check)
    }

    /// Whether the policy is for whoever acts as `role`.
    pub fn is_for_role(&self, role: Oid) -> bool {
        self.roles.iter().any(|of| *of == pg_sys::InvalidOid || unsafe { pg_sys::has_privs_of_role(role, *of) })
    }

    /// The role as which a bearer of the role `authenticated` gets at the policy: that one, or another that it may
    /// take.
    pub fn acting_role(&self, authenticated: Oid) -> Option<Oid> {
        if self.is_for_role(authenticated) {
            return Some(authenticated);
        }
        self.roles.iter().copied().find(|of| unsafe { pg_sys::is_member_of_role_nosuper(authenticated, *of) })
    }
}

fn letter(command: Command) -> &'static str {
    match command {
        Command::Select => "r",
        Command::Insert => "a",
        Command::Update => "w",
        Command::Delete => "d",
    }
}

/// The condition under which a table or a view, "c" of schema "n", is an application's own.
macro_rules! of_applications {
    () => {
        "c.relpersistence <> 't'
         and n.nspname <> 'pg_catalog' and n.nspname <> 'pg_toast' and n.nspname <> 'information_schema'
         and not exists (select from pg_catalog.pg_depend e
                         where e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and e.objid = c.oid
                           and e.deptype = 'e')"
    };
}
pub(super) use of_applications;

/// All policies on tables of applications, table by table.
pub fn all() -> Result<Vec<Policy>> {
    static SELECT: Statement = Statement::new(
        crate::spi::literal(concat!(
            "select c.oid, n.nspname::text, c.relname::text, p.polname::text, p.polcmd::text, p.polpermissive,
                    p.polroles, p.polqual::text, p.polwithcheck::text,
                    exists (select from pg_catalog.pg_depend d
                            join pg_catalog.pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
                            where d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass and d.objid = p.oid
                              and d.refobjid = 'auth.users'::pg_catalog.regclass
                              and a.attname = 'raw_user_meta_data')
             from pg_catalog.pg_policy p
             join pg_catalog.pg_class c on c.oid = p.polrelid
             join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             where ",
            of_applications!(),
            " order by n.nspname, c.relname, c.oid, p.polname\0"
        )),
        &[],
    );
    let mut rows = Vec::new();
    SELECT.each(&[], |row| {
        let text = |n| row.get::<String>(n).unwrap_or_default();
        let policy = Policy {
            relation: row.get(1).unwrap_or(pg_sys::InvalidOid),
            schema: text(2),
            table: text(3),
            name: text(4),
            command: text(5),
            is_permissive: row.get(6).unwrap_or(true),
            roles: row.get(7).unwrap_or_default(),
            using: None,
            check: None,
            reads_metadata_column: row.get(10).unwrap_or(false),
        };
        rows.push((policy, row.get::<String>(8), row.get::<String>(9)));
        Ok(())
    })?;
    // Outside of the loop, whose memory goes with it.
    let parse = |text: Option<String>| -> Option<*mut Node> {
        let text = CString::new(text?).ok()?;
        unsafe {
            let node = pg_sys::stringToNode(text.as_ptr()) as *mut Node;
            pg_sys::fix_opfuncids(node);
            Some(node)
        }
    };
    let parsed =
        rows.into_iter().map(|(policy, using, check)| Policy { using: parse(using), check: parse(check), ..policy });
    Ok(parsed.collect())
}

/// What the expressions refer to.
///
/// # Arguments
/// * `role` – whom the caller acts as
pub fn facts(role: Oid) -> Result<Facts> {
    static SELECT: Statement = Statement::new(
        c"select 'auth.jwt()'::pg_catalog.regprocedure::oid, 'auth.uid()'::pg_catalog.regprocedure::oid,
                 'auth.session_id()'::pg_catalog.regprocedure::oid, 'auth.role()'::pg_catalog.regprocedure::oid,
                 'auth.email()'::pg_catalog.regprocedure::oid, 'auth.is_anonymous()'::pg_catalog.regprocedure::oid,
                 array(select oid from pg_catalog.pg_class where relrowsecurity or relkind = 'v')",
        &[],
    );
    let facts = SELECT.first(&[], |row| {
        let oid = |n| row.get::<Oid>(n).unwrap_or(pg_sys::InvalidOid);
        let guarded: Vec<Oid> = row.get(7).unwrap_or_default();
        Ok(Facts {
            role: role_name(role),
            jwt: oid(1),
            uid: oid(2),
            session_id: oid(3),
            role_function: oid(4),
            email: oid(5),
            is_anonymous: oid(6),
            guarded_relations: guarded.into_iter().collect(),
        })
    })?;
    facts.ok_or_else(|| crate::error::error(500, "internal_error", "the readers are missing"))
}

pub fn role_name(role: Oid) -> String {
    let name = unsafe { pg_sys::GetUserNameFromId(role, true) };
    if name.is_null() { String::new() } else { unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned() }
}

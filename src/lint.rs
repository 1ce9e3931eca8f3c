//! `auth.lint_policies()`: policies that let guests in by accident, and what else is commonly wrong with policies.
//!
//! Nothing of an application is run for it: the expressions are looked at as Postgres stores them.

mod calls;
mod expression;
mod policy;
mod sub_select;
mod value;
mod verdict;

use crate::catalog::quoted;
use crate::error::Result;
use crate::function::Args;
use crate::jsonb::Jsonb;
use crate::spi::{self, Statement};
use crate::sql_function;
use expression::{Caller, Evaluation, Facts};
use pgrx::pg_sys::{self, Oid};
use policy::{Command, Policy, of_applications};
use serde_json::{Value, json};
use std::collections::HashSet;
use verdict::{Verdict, judge};

/// Bytes of a name at the most, as Postgres cuts it.
const NAME_LENGTH: usize = 63;

#[derive(Clone, Copy)]
enum Level {
    /// Somebody gets at rows who was certainly not meant to.
    Error,
    /// Somebody may get at more, or less, than was meant.
    Warning,
    /// Something to look at.
    Info,
}

#[derive(Default)]
struct Findings(Vec<Value>);

impl Findings {
    fn add(
        &mut self,
        policy: &Policy,
        command: &str,
        problem: &str,
        level: Level,
        reason: &str,
        fix: Option<String>,
    ) {
        let about = (policy.schema.as_str(), policy.table.as_str());
        self.add_about_table(about, Some((&policy.name, command)), problem, level, reason, fix);
    }

    fn add_about_table(
        &mut self,
        (schema, table): (&str, &str),
        policy: Option<(&str, &str)>,
        problem: &str,
        level: Level,
        reason: &str,
        fix: Option<String>,
    ) {
        let level = match level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Info => "info",
        };
        self.0.push(json!({
            "schema_name": schema, "table_name": table,
            "policy_name": policy.map(|(name, _)| name), "command": policy.map(|(_, command)| command),
            "problem": problem, "level": level, "reason": reason, "fix": fix,
        }));
    }
}

fn lint_policies(_: &Args) -> Result<Jsonb> {
    let mut findings = Findings::default();
    let policies = policy::all()?;
    let authenticated = unsafe { pg_sys::get_role_oid(c"authenticated".as_ptr(), true) };
    let roles: HashSet<Oid> = policies.iter().filter_map(|policy| policy.acting_role(authenticated)).collect();
    for role in roles.into_iter().filter(|_| authenticated != pg_sys::InvalidOid) {
        let facts = policy::facts(role)?;
        for of_table in policies.chunk_by(|left, right| left.relation == right.relation) {
            let mut table =
                Table { policies: of_table, authenticated, role, facts: &facts, new_names: HashSet::new() };
            table.lint(&mut findings);
        }
    }
    let facts = policy::facts(authenticated)?;
    for policy in &policies {
        lint_expressions(policy, &facts, &mut findings);
    }
    lint_tables(&mut findings)?;
    Ok(Jsonb(findings.0.into()))
}
sql_function!(anon_auth_lint_policies, lint_policies);

/// The policies of one table, as far as somebody who acts as `role` gets at them.
struct Table<'a> {
    policies: &'a [Policy],
    authenticated: Oid,
    role: Oid,
    facts: &'a Facts,
    /// Of policies that were suggested.
    new_names: HashSet<String>,
}

impl Table<'_> {
    fn lint(&mut self, findings: &mut Findings) {
        for policy in self.policies {
            if policy.acting_role(self.authenticated) != Some(self.role) {
                continue;
            }
            if policy.is_permissive {
                self.lint_permissive(policy, findings);
            } else {
                self.lint_restrictive(policy, findings);
            }
        }
    }

    fn lint_permissive(&mut self, policy: &Policy, findings: &mut Findings) {
        for verdict in [Verdict::Open, Verdict::GuestsOnly, Verdict::Unclear] {
            let concerned: Vec<_> =
                Command::ALL.into_iter().filter(|command| self.judge(policy, *command) == Some(verdict)).collect();
            if concerned.len() == Command::ALL.len() {
                self.report(policy, None, verdict, findings);
            } else {
                concerned.into_iter().for_each(|command| self.report(policy, Some(command), verdict, findings));
            }
        }
    }

    /// Whether the policy lets guests in, together with the restrictive ones that everybody has to pass.
    fn judge(&self, policy: &Policy, command: Command) -> Option<Verdict> {
        let mut conditions = policy.conditions(command)?;
        for restrictive in self.policies.iter().filter(|other| !other.is_permissive && other.is_for_role(self.role)) {
            conditions.extend(restrictive.conditions(command).unwrap_or_default());
        }
        Some(unsafe { judge(self.facts, &conditions) })
    }

    /// # Arguments
    /// * `command` – `None` for all of them
    fn report(&mut self, policy: &Policy, command: Option<Command>, verdict: Verdict, findings: &mut Findings) {
        let (does, name) = match command {
            Some(Command::Select) => ("read rows that are not their own", "SELECT"),
            Some(Command::Insert) => ("insert rows", "INSERT"),
            Some(Command::Update) => ("change rows that are not their own", "UPDATE"),
            Some(Command::Delete) => ("delete rows that are not their own", "DELETE"),
            None => ("read, insert, change and delete rows that are not their own", "ALL"),
        };
        let (problem, level, reason) = match verdict {
            Verdict::Open => {
                let level = if command == Some(Command::Select) { Level::Warning } else { Level::Error };
                (
                    "guest_access",
                    level,
                    format!(
                        "Guests {does}: neither this policy nor a restrictive one asks whether the caller is a guest, or it makes no difference."
                    ),
                )
            }
            Verdict::GuestsOnly => {
                let reason = format!(
                    "Guests {does}, and permanent users do not: the check of guest status seems to be the wrong way round."
                );
                ("guests_only", Level::Warning, reason)
            }
            _ => {
                let reason = format!(
                    "It cannot be told whether guests {does}: that is up to a function, a view, the policies of another table, or a claim of your own."
                );
                ("guest_access_unclear", Level::Info, reason)
            }
        };
        let fix = self.restrictive_policy(policy, command);
        findings.add(policy, name, problem, level, &reason, Some(fix));
    }

    /// The statement that keeps guests out.
    fn restrictive_policy(&mut self, policy: &Policy, command: Option<Command>) -> String {
        let command_suffix = command.filter(|_| policy.command_name() == "ALL");
        let suffix = match command_suffix {
            Some(command) => format!("_no_guests_{}", command.name().to_ascii_lowercase()),
            None => "_no_guests".to_owned(),
        };
        let is_taken = |name: &String, new: &HashSet<String>| {
            new.contains(name) || self.policies.iter().any(|p| p.name == *name)
        };
        let numbers = std::iter::once(String::new()).chain((2..).map(|n| n.to_string()));
        let mut names = numbers.map(|number| shortened(&policy.name, &format!("{suffix}{number}")));
        let name = names.find(|name| !is_taken(name, &self.new_names)).unwrap_or_default();
        let clause = if command == Some(Command::Insert) { "WITH CHECK" } else { "USING" };
        let statement = format!(
            "CREATE POLICY {} ON {}.{} AS RESTRICTIVE FOR {} TO {} {clause} ((SELECT auth.is_anonymous()) IS FALSE);",
            quoted(&name),
            quoted(&policy.schema),
            quoted(&policy.table),
            command.map_or("ALL", Command::name),
            quoted(&self.facts.role),
        );
        self.new_names.insert(name);
        statement
    }

    fn lint_restrictive(&self, policy: &Policy, findings: &mut Findings) {
        let is_alone = Command::ALL.into_iter().filter(|command| policy.is_for(*command)).all(|command| {
            !self.policies.iter().any(|other| {
                other.is_permissive && other.is_for_role(self.role) && other.conditions(command).is_some()
            })
        });
        if is_alone {
            let reason = "Nobody gets in: a restrictive policy takes away from what permissive ones allow, and none allows anything for this command.";
            findings.add(policy, policy.command_name(), "denies_everybody", Level::Warning, reason, None);
        }
        let keeps_out_permanent_users = Command::ALL.into_iter().any(|command| {
            let conditions = policy.conditions(command);
            conditions.is_some_and(|conditions| unsafe { judge(self.facts, &conditions) } == Verdict::GuestsOnly)
        });
        if keeps_out_permanent_users {
            let reason = "It keeps permanent users out, and lets guests pass: the check of guest status seems to be the wrong way round.";
            findings.add(policy, policy.command_name(), "guests_only", Level::Warning, reason, None);
        }
    }
}

/// What is wrong with a policy whoever it is for.
fn lint_expressions(policy: &Policy, facts: &Facts, findings: &mut Findings) {
    let mut evaluation = Evaluation::new(facts);
    let mut repeats_itself = false;
    for node in policy.expressions() {
        unsafe {
            evaluation.begin(Caller::Guest, 0);
            evaluation.value(node);
            repeats_itself |= expression::repeats_itself(node, std::ptr::null_mut());
        }
    }
    let mut add = |problem, level, reason| findings.add(policy, policy.command_name(), problem, level, reason, None);
    if evaluation.reads_user_metadata || policy.reads_metadata_column {
        add(
            "trusts_user_metadata",
            Level::Error,
            "It believes user_metadata, which every user, guests included, chooses for itself: use app_metadata, which only administrators write.",
        );
    }
    if evaluation.reads_settings {
        add(
            "reads_request_settings",
            Level::Warning,
            "It believes request.jwt.claims, which anybody who runs SQL can set: use auth.jwt() and the other readers, whose claims are verified.",
        );
    }
    if repeats_itself {
        add(
            "evaluated_per_row",
            Level::Info,
            "It computes something of the claims anew for every row: write it as (select …), or turn anon_auth.evaluate_once on.",
        );
    }
}

fn lint_tables(findings: &mut Findings) -> Result<()> {
    static OPEN: Statement = Statement::new(
        spi::literal(concat!(
            "select n.nspname::text, c.relname::text, exists (select from pg_catalog.pg_policy p where p.polrelid = c.oid)
             from pg_catalog.pg_class c
             join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             left join pg_catalog.pg_roles r on r.rolname = 'authenticated'
             where not c.relrowsecurity and c.relkind in ('r', 'p') and ",
            of_applications!(),
            " and (exists (select from pg_catalog.pg_policy p where p.polrelid = c.oid)
                   or (pg_catalog.has_schema_privilege(r.oid, n.oid, 'usage')
                       and (pg_catalog.has_table_privilege(r.oid, c.oid, 'delete, truncate')
                            or pg_catalog.has_any_column_privilege(r.oid, c.oid, 'insert, update'))))
             order by n.nspname, c.relname\0"
        )),
        &[],
    );
    // A view is read with the rights of its owner, unless it says otherwise, and so is what is below it; a materialized
    // one holds what its owner could read.
    static VIEWS: Statement = Statement::new(
        spi::literal(concat!(
            "with recursive relation as (
                 select c.oid, c.relowner as owner, c.relkind in ('v', 'm') as is_view,
                        exists (select from pg_catalog.pg_options_to_table(c.reloptions) i
                                where i.option_name = 'security_invoker' and i.option_value::pg_catalog.bool) as is_invoker
                 from pg_catalog.pg_class c where c.relkind in ('v', 'm') or c.relrowsecurity
             ), reads as (
                 select oid as view, oid as relation, owner as reader from relation where is_view and not is_invoker
                 union
                 select r.view, t.oid, case when t.is_view and not t.is_invoker then t.owner else r.reader end
                 from reads r
                 join pg_catalog.pg_rewrite w on w.ev_class = r.relation and w.ev_type = '1'
                 join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass and d.objid = w.oid
                                            and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                 join relation t on t.oid = d.refobjid
             ), bypassed as (
                 select r.view, pg_catalog.min(t.oid) as relation
                 from reads r
                 join pg_catalog.pg_roles o on o.oid = r.reader
                 join pg_catalog.pg_class t on t.oid = r.relation and t.relrowsecurity
                 where o.rolsuper or o.rolbypassrls
                    or not t.relforcerowsecurity and pg_catalog.pg_has_role(o.oid, t.relowner, 'usage')
                 group by r.view
             )
             select n.nspname::text, c.relname::text, b.relation::pg_catalog.regclass::text, c.relkind = 'm'
             from bypassed b
             join pg_catalog.pg_class c on c.oid = b.view
             join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             join pg_catalog.pg_roles r on r.rolname = 'authenticated'
             where ",
            of_applications!(),
            " and pg_catalog.has_schema_privilege(r.oid, n.oid, 'usage')
              and (pg_catalog.has_any_column_privilege(r.oid, c.oid, 'select, insert, update')
                   or pg_catalog.has_table_privilege(r.oid, c.oid, 'delete'))
             order by n.nspname, c.relname\0"
        )),
        &[],
    );
    OPEN.each(&[], |row| {
        let (schema, table) = (row.get::<String>(1).unwrap_or_default(), row.get::<String>(2).unwrap_or_default());
        let reason = match row.get(3) {
            Some(true) => "Its policies are not in force: row-level security is not enabled.",
            _ => "Every guest may write every row: authenticated has the privilege, and row-level security is not enabled.",
        };
        let fix = format!("ALTER TABLE {}.{} ENABLE ROW LEVEL SECURITY;", quoted(&schema), quoted(&table));
        findings.add_about_table((&schema, &table), None, "row_security_off", Level::Error, reason, Some(fix));
        Ok(())
    })?;
    VIEWS.each(&[], |row| {
        let text = |n| row.get::<String>(n).unwrap_or_default();
        let (schema, view) = (text(1), text(2));
        let (reason, fix) = match row.get(4) {
            Some(true) => {
                let reason = format!("In this materialized view everybody reads what its owner could read of {}, to whom policies do not apply.", text(3));
                (reason, None)
            }
            _ => {
                let reason = format!("Through this view everybody reads {} with the rights of the view's owner, to whom policies do not apply.", text(3));
                let fix = format!("ALTER VIEW {}.{} SET (security_invoker = true);", quoted(&schema), quoted(&view));
                (reason, Some(fix))
            }
        };
        findings.add_about_table((&schema, &view), None, "view_bypasses_policies", Level::Warning, &reason, fix);
        Ok(())
    })?;
    Ok(())
}

/// A name with a suffix, short enough for Postgres.
fn shortened(name: &str, suffix: &str) -> String {
    let mut end = name.len().min(NAME_LENGTH - suffix.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &name[..end])
}

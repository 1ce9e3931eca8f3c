//! Hooks: functions of the application that are called at certain moments, and may refuse.
//!
//! A hook runs with the rights of its function's owner, for at most `hook_timeout`. What is kept of it is its
//! name, so that it survives a dump, and its owner: should somebody else put a function in its place, that one
//! is not called. Whatever is wrong with a hook refuses the call that it was to take part in.
//!
//! Events and answers have the shapes that Supabase Auth made customary.

use crate::cache::Cache;
use crate::catalog::{self, LatestSnapshot};
use crate::error::{Error, Result, error, invalid, raised};
use crate::function::{Args, writes};
use crate::hook_function::Function;
use crate::jsonb::Jsonb;
use crate::spi::{self, Statement};
use crate::{client_address, clock, settings, sql_function, time_limit};
use anon_auth_core::client_address::ClientAddress;
use pgrx::pg_sys;
use serde_json::{Value, json};
use std::cell::Cell;
use std::rc::Rc;

/// The moments at which a hook can be called.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hook {
    CustomAccessToken,
    BeforeUserCreated,
    AfterUserCreated,
    UserPromoted,
    SendEmail,
    SendSms,
    BeforeMerge,
    UserMerged,
}

impl Hook {
    const ALL: [Hook; 8] = [
        Hook::CustomAccessToken,
        Hook::BeforeUserCreated,
        Hook::AfterUserCreated,
        Hook::UserPromoted,
        Hook::SendEmail,
        Hook::SendSms,
        Hook::BeforeMerge,
        Hook::UserMerged,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Hook::CustomAccessToken => "custom_access_token",
            Hook::BeforeUserCreated => "before_user_created",
            Hook::AfterUserCreated => "after_user_created",
            Hook::UserPromoted => "user_promoted",
            Hook::SendEmail => "send_email",
            Hook::SendSms => "send_sms",
            Hook::BeforeMerge => "before_merge",
            Hook::UserMerged => "user_merged",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Hook::CustomAccessToken => "Before an access token is signed: answers with its claims",
            Hook::BeforeUserCreated => "Before a user is created: may refuse, or add metadata",
            Hook::AfterUserCreated => "When a user was created, in the same transaction",
            Hook::UserPromoted => "When a guest became a permanent user, in the same transaction",
            Hook::SendEmail => "To send an e-mail, in place of the outbox",
            Hook::SendSms => "To send a text message, in place of the outbox",
            Hook::BeforeMerge => "Before a guest is merged into an account: may refuse",
            Hook::UserMerged => "When a guest was merged into an account, in the same transaction",
        }
    }

    /// The name by which events call it.
    fn event_name(self) -> String {
        match self {
            // Customary, though it is not the name it is set by.
            Hook::CustomAccessToken => "customize-access-token".into(),
            _ => self.name().replace('_', "-"),
        }
    }

    /// Whether the call cannot go on without an answer.
    fn has_to_answer(self) -> bool {
        self == Hook::CustomAccessToken
    }

    fn named(name: &str) -> Result<Self> {
        Hook::ALL.into_iter().find(|hook| hook.name() == name).ok_or_else(|| {
            let names: Vec<_> = Hook::ALL.iter().map(|hook| hook.name()).collect();
            invalid(format!("there is no hook \"{name}\"")).hint(format!("The hooks are: {}.", names.join(", ")))
        })
    }
}

/// A row of `auth.hooks`.
struct Stored {
    hook: String,
    schema: String,
    function: String,
    owner: String,
}

thread_local! {
    static CACHE: Cache<Vec<Stored>> = const { Cache::new() };
    /// Those that are being called now, a bit each.
    static RUNNING: Cell<u8> = const { Cell::new(0) };
}

/// Has the hooks read again at their next use.
pub fn mark_stale() {
    CACHE.with(Cache::mark_stale);
}

/// What was read for this transaction only is read again in the next.
pub fn at_transaction_end() {
    if CACHE.with(Cache::take_provisional) {
        mark_stale();
    }
}

fn stored() -> Rc<Vec<Stored>> {
    CACHE.with(Cache::get).unwrap_or_else(|| {
        let mut hooks = Vec::new();
        if let Some(relations) = catalog::relations() {
            LatestSnapshot::take().all(relations.hooks, |row| {
                let text = |column| row.get::<String>(column).unwrap_or_default();
                hooks.push(Stored {
                    hook: text(c"name"),
                    schema: text(c"function_schema"),
                    function: text(c"function_name"),
                    owner: text(c"function_owner"),
                });
            });
        }
        CACHE.with(|cache| cache.keep(hooks, false))
    })
}

/// Whether a hook is set: asked first where its event is costly to make.
pub fn is_set(hook: Hook) -> bool {
    stored().iter().any(|stored| stored.hook == hook.name())
}

/// Calls a hook, in this transaction.
///
/// # Arguments
/// * `event` – an object; `metadata` is added to it
///
/// Returns the hook's answer, an object or null, or `None` where no function is set.
///
/// # Errors
/// Whatever the hook refuses with: `hook_refused` with its HTTP status and message, or its own error with SQLSTATE
/// `PTnnn`. `hook_failed` (PT500) where it raised another error, answered nonsense, or is not there;
/// `hook_timeout` (PT504). None holds a code that the event holds.
pub fn run(hook: Hook, mut event: Value) -> Result<Option<Value>> {
    let all = stored();
    let Some(stored) = all.iter().find(|stored| stored.hook == hook.name()) else { return Ok(None) };
    let function = Function::find(&stored.schema, &stored.function)?
        .filter(|function| function.owner_name == stored.owner && function.fits(hook.has_to_answer()))
        .ok_or_else(|| missing(hook, stored))?;
    let _running = Running::enter(hook)?;
    event["metadata"] = metadata(hook)?;
    let secrets = secrets(&event);
    let limit = settings::current()?.hook_timeout;
    match time_limit::run(limit, || function.call(event)) {
        Ok(Some(answer)) => check(hook, answer, &secrets).map(Some),
        Ok(None) => {
            let message = format!("hook \"{}\" took longer than hook_timeout allows", hook.name());
            Err(error(504, "hook_timeout", message).hint(format!("The function is {}.", function.signature)))
        }
        Err(error) => Err(failure(hook, &function, error, &secrets)),
    }
}

/// Notes that a hook is being called, until it is dropped.
struct Running(Hook);

impl Running {
    /// # Errors
    /// `hook_failed` where it is being called already: by itself, and so on without end.
    fn enter(hook: Hook) -> Result<Self> {
        let (running, bit) = (RUNNING.get(), 1 << hook as u8);
        if running & bit != 0 {
            return Err(failed(hook, "does something that calls itself again"));
        }
        RUNNING.set(running | bit);
        Ok(Self(hook))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.set(RUNNING.get() & !(1 << self.0 as u8));
    }
}

/// What every event tells of the call.
fn metadata(hook: Hook) -> Result<Value> {
    let now = clock::now();
    let address = client_address::current()?;
    Ok(json!({
        "uuid": clock::new_id(now).to_string(),
        "time": crate::json::timestamp(now),
        "name": hook.event_name(),
        "ip_address": (address != ClientAddress::LOCAL).then(|| address.to_string()),
    }))
}

/// What an event holds and no error message may.
fn secrets(event: &Value) -> Vec<String> {
    ["/email_data/token_hash", "/email_data/token", "/sms/otp", "/captcha_token"]
        .iter()
        .filter_map(|pointer| event.pointer(pointer)?.as_str())
        .filter(|secret| !secret.is_empty())
        .map(str::to_owned)
        .collect()
}

fn without(secrets: &[String], message: &str) -> String {
    secrets.iter().fold(message.to_owned(), |message, secret| message.replace(secret, "***"))
}

/// Whether an answer lets the call go on.
fn check(hook: Hook, answer: Option<String>, secrets: &[String]) -> Result<Value> {
    let answer: Value = serde_json::from_str(answer.as_deref().unwrap_or("null"))
        .map_err(|_| failed(hook, "answered JSON that is nested too deeply or holds a number out of range"))?;
    let object = match &answer {
        Value::Object(object) => object,
        Value::Null if !hook.has_to_answer() => return Ok(answer),
        _ => return Err(failed(hook, "answered something that is not a JSON object")),
    };
    let refusal = match object.get("error") {
        None | Some(Value::Null) => return Ok(answer),
        Some(refusal) => refusal,
    };
    let status = refusal.get("http_code").map_or(Some(500), Value::as_u64);
    match (refusal.get("message").and_then(Value::as_str), status) {
        (Some(message), Some(status @ 400..=599)) if !message.is_empty() => {
            Err(error(status as u16, "hook_refused", without(secrets, message)))
        }
        _ => Err(failed(hook, "answered with an \"error\" that has no message, or no http_code of 400 to 599")),
    }
}

/// What the caller is told when a hook raised an error.
fn failure(hook: Hook, function: &Function, error: Error, secrets: &[String]) -> Error {
    let sqlstate = error.sqlstate();
    // Cancelled, or to be tried again: no matter whose code it was. When it is cancelled is up to the caller, and
    // what the hook was doing then is not its business: it may be sending a code.
    if error.is_interrupt() || sqlstate.starts_with("40") {
        return error.edited(|text| without(secrets, text));
    }
    let told = if sqlstate.starts_with("PT4") || sqlstate.starts_with("PT5") {
        raised(&error, |text| without(secrets, text))
    } else {
        failed(hook, &format!("failed: {}", without(secrets, &error.message())))
            .hint(format!("The function is {}; SQLSTATE {sqlstate}.", function.signature))
    };
    error.discard();
    told
}

/// What is wrong with a hook, told to whoever called the function that it was to take part in.
pub fn failed(hook: Hook, what: &str) -> Error {
    error(500, "hook_failed", format!("hook \"{}\" {what}", hook.name()))
}

fn missing(hook: Hook, stored: &Stored) -> Error {
    let Stored { schema, function, owner, .. } = stored;
    let what =
        format!("cannot be called: \"{schema}\".\"{function}\"(jsonb), owned by \"{owner}\", is not there any more");
    failed(hook, &what).hint("Set it again with auth.set_hook(), or remove it by setting it to NULL.")
}

fn set_hook(args: &Args) -> Result<()> {
    static STORE: Statement = Statement::new(
        c"insert into auth.hooks (name, function_schema, function_name, function_owner) values ($1, $2, $3, $4)
          on conflict (name) do update
          set function_schema = excluded.function_schema, function_name = excluded.function_name,
              function_owner = excluded.function_owner, set_at = pg_catalog.clock_timestamp()",
        &[pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::TEXTOID],
    );
    static REMOVE: Statement = Statement::new(c"delete from auth.hooks where name = $1", &[pg_sys::TEXTOID]);

    writes(c"auth.set_hook()");
    let name = args.text(0)?.ok_or_else(|| invalid("the name of the hook is missing"))?;
    let hook = Hook::named(&name)?;
    let function = args.get::<pg_sys::Oid>(1).map(|oid| usable(hook, oid)).transpose()?;
    let signature = function.as_ref().map(|function| function.signature.clone());
    as_extension_owner(|| {
        match &function {
            Some(function) => STORE.run(&[
                spi::value(name.as_str()),
                spi::value(function.schema.as_str()),
                spi::value(function.name.as_str()),
                spi::value(function.owner_name.as_str()),
            ])?,
            None => REMOVE.run(&[spi::value(name.as_str())])?,
        };
        crate::audit::record("hook_set", None, json!({"name": name, "function": signature}))
    })
}
sql_function!(anon_auth_set_hook, set_hook);

/// A function that the current role may make a hook: it will run with its owner's rights, as it would if the owner
/// had made it SECURITY DEFINER.
fn usable(hook: Hook, oid: pg_sys::Oid) -> Result<Function> {
    let function =
        Function::with_oid(oid)?.ok_or_else(|| invalid(format!("there is no function with OID {}", oid.to_u32())))?;
    if !function.fits(hook.has_to_answer()) {
        let result = if hook.has_to_answer() { "jsonb" } else { "jsonb or void" };
        return Err(invalid(format!("function {} cannot be hook \"{}\"", function.signature, hook.name())).hint(
            format!("It has to be an ordinary function with one argument of type jsonb that returns {result}."),
        ));
    }
    if function.is_temporary {
        return Err(invalid(format!("function {} is temporary", function.signature))
            .hint("Other sessions have to find it: make it in a schema of yours."));
    }
    if !unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), function.owner) } {
        let message = format!("function {} belongs to role \"{}\"", function.signature, function.owner_name);
        return Err(error(403, "not_function_owner", message).hint(
            "A hook runs with its owner's rights: only its owner, a member of that role or a superuser can set it.",
        ));
    }
    Ok(function)
}

/// Runs `body` with the rights of the role that owns the extension's tables. `set_hook` cannot be SECURITY DEFINER:
/// it has to know its caller.
fn as_extension_owner(body: impl FnOnce() -> Result<()>) -> Result<()> {
    let owner = catalog::relations()
        .and_then(|relations| catalog::owner(relations.hooks))
        .ok_or_else(|| error(500, "internal_error", "the extension's tables are missing"))?;
    unsafe {
        let (mut user, mut security) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut security);
        pg_sys::SetUserIdAndSecContext(owner, security | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
        // After an error the abort of the (sub)transaction puts it back.
        body()?;
        pg_sys::SetUserIdAndSecContext(user, security);
    }
    Ok(())
}

sql_function!(anon_auth_hook_definitions, |_| {
    let all: Vec<_> =
        Hook::ALL.iter().map(|hook| json!({"name": hook.name(), "description": hook.description()})).collect();
    Ok(Jsonb(all.into()))
});

//! Who the caller is: the verified claims of this transaction's access token.
//!
//! Three layers, each asked only when the one before it does not know:
//! 1. `CURRENT`: what the readers return on every row; good until a flag says otherwise (hot path).
//! 2. Session and user in the database: once per transaction and command, by primary key (`freshness`).
//! 3. Tokens whose signature was verified before, per backend.

use crate::catalog::LatestSnapshot;
use crate::error::{Error, Result, error};
use crate::jsonb::Jsonb;
use crate::lazy_guests::{self, Lifespan};
use crate::users::Status;
use crate::{clock, guc, keys, sessions, settings, users};
use anon_auth_core::json::any_holds_nul;
use anon_auth_core::jwt;
use pgrx::{FromDatum, IntoDatum, pg_sys};
use serde_json::{Map, Value};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char};
use std::num::NonZeroUsize;
use std::rc::Rc;
use uuid::Uuid;

/// A token whose signature, issuer, audience and times were found good.
pub struct Verified {
    pub claims: Map<String, Value>,
    /// Microseconds since Postgres's epoch.
    expires: i64,
    not_before: i64,
    pub user: Option<Uuid>,
    pub session: Option<Uuid>,
    rotation: String,
    pub role: Option<String>,
    /// Where nothing was stored of the guest when it was issued.
    pub lazy: Option<Lifespan>,
    /// A token of ours; not claims that somebody else verified.
    is_ours: bool,
    /// The claims as the readers return them, as they were built last.
    built: RefCell<Option<Rc<Built>>>,
}

/// Claims in the form that readers return, in a memory context of their own.
pub struct Built {
    overlay: Option<Status>,
    /// The transaction it was built in, if only copies of the values were handed out there.
    copied_in: Option<u64>,
    context: pg_sys::MemoryContext,
    pub jwt: pg_sys::Datum,
    pub user: Option<pg_sys::Datum>,
    pub session: Option<pg_sys::Datum>,
    pub role: Option<pg_sys::Datum>,
    pub email: Option<pg_sys::Datum>,
    pub is_anonymous: Option<bool>,
    /// The user was stored before the token was issued.
    is_stored: bool,
}

/// The answer to "who is calling?", and how long it is good for.
pub struct Current {
    /// Cleared by whatever could change the answer.
    is_known: bool,
    /// Counts how often it was cleared.
    forgotten: u64,
    /// Counts transactions.
    transaction: u64,
    command: pg_sys::CommandId,
    /// With which snapshot it was found out in a parallel query: leader and workers all look with the query's, so
    /// that they agree, and it may be older or newer than what other statements see.
    parallel_snapshot: Option<SnapshotId>,
    expires: i64,
    not_before: i64,
    built: Option<Rc<Built>>,
    /// `request.jwt.claims` at the time, where the answer depends on it. It is not a setting of ours, so nobody
    /// tells when it changes.
    request: Option<CString>,
    /// Too many values replaced in this transaction: hand out copies, so that no more have to be kept.
    pub copy: bool,
}

struct BackendLocal<T>(std::cell::UnsafeCell<T>);
// A backend has one thread.
unsafe impl<T> Sync for BackendLocal<T> {}

static CURRENT: BackendLocal<Current> = BackendLocal(std::cell::UnsafeCell::new(Current {
    is_known: false,
    forgotten: 0,
    transaction: 0,
    command: 0,
    parallel_snapshot: None,
    expires: 0,
    not_before: 0,
    built: None,
    request: None,
    copy: false,
}));

/// Tokens verified before that are kept. A pooled backend serves many users in turn.
const KEPT_TOKENS: NonZeroUsize = NonZeroUsize::new(32).unwrap();
/// Replaced values that are kept until the transaction ends, because a running query may point at them.
const KEPT_REPLACED: usize = 64;

thread_local! {
    static VERIFIED: RefCell<lru::LruCache<String, Rc<Verified>>> = RefCell::new(lru::LruCache::new(KEPT_TOKENS));
    static VERIFIED_IS_STALE: Cell<bool> = const { Cell::new(false) };
    /// `request.jwt.claims` as last seen, and what was made of it.
    static REQUEST: RefCell<Option<(String, Option<Rc<Verified>>)>> = const { RefCell::new(None) };
    static REPLACED: RefCell<Vec<pg_sys::MemoryContext>> = const { RefCell::new(Vec::new()) };
}

// Called on every row, so not through pgrx, whose guard costs more than they do. None raises an error.
unsafe extern "C-unwind" {
    fn GetConfigOption(name: *const c_char, missing_ok: bool, restrict: bool) -> *const c_char;
    fn GetCurrentCommandId(used: bool) -> pg_sys::CommandId;
    fn GetCurrentStatementStartTimestamp() -> pg_sys::TimestampTz;
    fn IsInParallelMode() -> bool;
    fn GetActiveSnapshot() -> pg_sys::Snapshot;
}

/// Tells snapshots apart by what they see: for one upper end, the transactions in progress only get fewer.
type SnapshotId = (pg_sys::TransactionId, u32, i32);

/// The snapshot of the parallel query that is running, if one is.
#[inline(always)]
fn parallel_snapshot() -> Option<SnapshotId> {
    unsafe {
        IsInParallelMode().then(|| {
            let snapshot = &*GetActiveSnapshot();
            (snapshot.xmax, snapshot.xcnt, snapshot.subxcnt)
        })
    }
}

/// The claims for a reader; `None` without a valid token. The hot path.
///
/// # Safety
/// From a function that Postgres calls, in the backend's one thread. The reference is good for that call.
#[inline(always)]
pub unsafe fn current() -> Option<(&'static Built, bool)> {
    unsafe {
        let current = &*CURRENT.0.get();
        let now = GetCurrentStatementStartTimestamp();
        // A command that wrote may have changed the session or the user: look again.
        let is_good = current.is_known
            && current.command == GetCurrentCommandId(false)
            && current.parallel_snapshot == parallel_snapshot()
            && now < current.expires
            && now >= current.not_before
            && current.request.as_deref().is_none_or(|request| request == request_text());
        if !is_good {
            pg_sys::panic::pgrx_extern_c_guard(find_current);
        }
        let current = &*CURRENT.0.get();
        current.built.as_deref().map(|built| (built, current.copy))
    }
}

/// `request.jwt.claims`, empty where it is not set.
fn request_text<'a>() -> &'a CStr {
    unsafe {
        let text = GetConfigOption(c"request.jwt.claims".as_ptr(), true, false);
        if text.is_null() { c"" } else { CStr::from_ptr(text) }
    }
}

/// Forgets who the caller is, but not which tokens are good. Sets a flag only; safe anywhere.
pub fn forget() {
    let current = unsafe { &mut *CURRENT.0.get() };
    current.is_known = false;
    current.forgotten += 1;
}

/// Forgets which tokens are good as well: keys or settings changed. Sets flags only; safe anywhere.
pub fn forget_verified() {
    VERIFIED_IS_STALE.set(true);
    forget();
}

/// A transaction ended: no query points at a replaced value any more. Unless it ended inside of a CALL, whose
/// arguments were evaluated before and live on.
pub fn at_transaction_end() {
    settings::at_transaction_end();
    keys::at_transaction_end();
    crate::hooks::at_transaction_end();
    crate::guest_providers::at_transaction_end();
    crate::captcha::at_transaction_end();
    forget();
    if unsafe { !pg_sys::ActivePortal.is_null() } {
        return;
    }
    let current = unsafe { &mut *CURRENT.0.get() };
    current.copy = false;
    current.transaction += 1;
    let replaced = REPLACED.take();
    for context in replaced {
        unsafe { pg_sys::MemoryContextDelete(context) };
    }
}

fn find_current() {
    unsafe { pg_sys::AcceptInvalidationMessages() };
    let command = unsafe { GetCurrentCommandId(false) };
    let now = unsafe { GetCurrentStatementStartTimestamp() };
    let forgotten = unsafe { (*CURRENT.0.get()).forgotten };

    let (verified, depends_on_request) = find_verified();
    let request = depends_on_request.then(|| request_text().to_owned());
    // Nobody, until something changes.
    let mut found = (None, i64::MIN, i64::MAX);
    if let Some(verified) = verified
        && now >= verified.not_before
        && now < verified.expires
    {
        match freshness(&verified) {
            Ok(fresh) => found = (Some(build(&verified, fresh.overlay)), verified.not_before, fresh.expires),
            Err(error) => error.discard(),
        }
    }
    remember(found, command, request, forgotten);
}

/// Makes it the answer of this transaction who is calling: the claims, and from when until when they are good.
///
/// # Arguments
/// * `forgotten` – [`times_forgotten`] before it was found out: if an invalidation arrived meanwhile, it is looked up
///   again
fn remember(
    found: (Option<Rc<Built>>, i64, i64),
    command: pg_sys::CommandId,
    request: Option<CString>,
    forgotten: u64,
) {
    let current = unsafe { &mut *CURRENT.0.get() };
    let replaced = std::mem::replace(&mut current.built, found.0);
    (current.not_before, current.expires) = (found.1, found.2);
    current.command = command;
    current.parallel_snapshot = parallel_snapshot();
    current.request = request;
    current.is_known = current.forgotten == forgotten;
    drop(replaced);
}

/// How often it was forgotten who the caller is; see [`take_token`].
pub fn times_forgotten() -> u64 {
    unsafe { (*CURRENT.0.get()).forgotten }
}

/// Makes `token` the one of this transaction. What was just found out about it is not looked up again by the first
/// reader, if nothing has changed meanwhile.
///
/// # Arguments
/// * `verified`, `fresh` – what [`verify`] and [`freshness`] made of the token
/// * `since` – [`times_forgotten`] before both
pub fn take_token(token: &str, verified: &Verified, fresh: Fresh, since: u64) -> Result<()> {
    let is_unchanged = times_forgotten() == since;
    guc::set_local("anon_auth.access_token", token)?;
    if is_unchanged {
        let forgotten = times_forgotten();
        let built = build(verified, fresh.overlay);
        let command = unsafe { GetCurrentCommandId(false) };
        remember((Some(built), verified.not_before, fresh.expires), command, None, forgotten);
    }
    Ok(())
}

/// The token of this transaction or, where they are trusted, the claims of the request.
fn find_verified() -> (Option<Rc<Verified>>, bool) {
    if let Some(token) = guc::access_token() {
        match verify(&token) {
            Ok(verified) => return (Some(verified), false),
            Err(error) => error.discard(),
        }
    }
    if guc::trust_request_claims() { (request_claims(), true) } else { (None, false) }
}

/// Verifies a token's signature, issuer, audience and times, or recalls that it was.
pub fn verify(token: &str) -> Result<Rc<Verified>> {
    let settings = settings::current()?;
    if VERIFIED_IS_STALE.replace(false) {
        let forgotten = VERIFIED.with_borrow_mut(|known| std::mem::replace(known, lru::LruCache::new(KEPT_TOKENS)));
        drop(forgotten);
        drop(REQUEST.take());
    }
    // Not the statement's time: a statement may run for long.
    let now = clock::now();
    if let Some(verified) = VERIFIED.with_borrow_mut(|known| known.get(token).cloned())
        && now >= verified.not_before
        && now < verified.expires
    {
        return Ok(verified);
    }
    if token.is_empty() {
        return Err(bad_jwt("it is empty"));
    }
    let parsed = jwt::parse(token).map_err(|e| bad_jwt(e.to_string()))?;
    let key = keys::all().verifying(parsed.kid())?;
    let key =
        key.ok_or_else(|| bad_jwt("it is signed with a key that this database does not know or has revoked"))?;
    let claims = parsed.verify(&key).map_err(|e| bad_jwt(e.to_string()))?;
    if any_holds_nul(&claims) {
        return Err(bad_jwt("it holds a NUL character, which jsonb cannot"));
    }
    let expected =
        jwt::Expected { issuer: &settings.issuer, audience: &settings.audience, now: clock::unix_seconds(now) };
    jwt::check_claims(&claims, &expected).map_err(|e| match e {
        jwt::ClaimError::Expired => error(401, "bad_jwt", format!("the access token is not valid: {e}"))
            .hint("Get a new one with auth.refresh_session()."),
        _ => bad_jwt(e.to_string()),
    })?;
    let verified = Rc::new(Verified::new(claims, true));
    let evicted = VERIFIED.with_borrow_mut(|known| known.push(token.to_owned(), verified.clone()));
    drop(evicted);
    Ok(verified)
}

fn bad_jwt(why: impl AsRef<str>) -> Error {
    error(401, "bad_jwt", format!("the access token is not valid: {}", why.as_ref()))
}

/// `request.jwt.claims`, PostgREST's convention: verified outside, so believed only on request.
fn request_claims() -> Option<Rc<Verified>> {
    let text = request_text().to_str().ok().filter(|text| !text.is_empty())?;
    if let Some(verified) = REQUEST.with_borrow(|known| match known {
        Some((known, verified)) if known == text => Some(verified.clone()),
        _ => None,
    }) {
        return verified;
    }
    let verified = match serde_json::from_str(text) {
        Ok(Value::Object(claims)) if !any_holds_nul(&claims) => Some(Rc::new(Verified::new(claims, false))),
        _ => None,
    };
    let replaced = REQUEST.replace(Some((text.to_owned(), verified.clone())));
    drop(replaced);
    verified
}

impl Verified {
    /// Fingerprint of the rotation that the token was issued with.
    pub fn rotation(&self) -> &str {
        &self.rotation
    }

    /// # Errors
    /// `no_authorization` where it names no user.
    pub fn user_and_session(&self) -> Result<(Uuid, Option<Uuid>)> {
        Ok((self.user.ok_or_else(not_signed_in)?, self.session))
    }

    fn new(claims: Map<String, Value>, is_ours: bool) -> Self {
        let id = |name: &str| claims.get(name).and_then(Value::as_str).and_then(|id| Uuid::parse_str(id).ok());
        let time = |name: &str| claims.get(name).and_then(jwt::numeric_date).map(clock::from_unix_seconds);
        Self {
            expires: time("exp").unwrap_or(i64::MAX),
            not_before: time("nbf").unwrap_or(i64::MIN),
            user: id("sub"),
            session: id("session_id"),
            rotation: claims.get("session_rotation").and_then(Value::as_str).unwrap_or_default().to_owned(),
            role: claims.get("role").and_then(Value::as_str).map(str::to_owned),
            // Of claims that somebody else verified, no user is made.
            lazy: if is_ours { Lifespan::of_claims(&claims) } else { None },
            is_ours,
            built: RefCell::new(None),
            claims,
        }
    }
}

/// What session and user add to a token.
pub struct Fresh {
    /// `None` where they are not to be looked up: the setting is off, or trusted claims of a request name no session;
    /// and where nothing is stored of a guest yet.
    pub overlay: Option<Status>,
    /// When the token or its session expires, in microseconds since Postgres's epoch.
    expires: i64,
}

/// What readers look up of a token, by what `anon_auth.check_session` says.
///
/// # Errors
/// Those of [`looked_up`].
pub fn freshness(verified: &Verified) -> Result<Fresh> {
    match guc::check_session() {
        true => looked_up(verified),
        false => Ok(Fresh { overlay: None, expires: verified.expires }),
    }
}

/// Looks up session and user of a token.
///
/// # Errors
/// `session_not_found`, `session_expired`, `user_not_found`, `user_banned`.
pub fn looked_up(verified: &Verified) -> Result<Fresh> {
    let is_about_no_session = !verified.is_ours && !verified.claims.contains_key("session_id");
    if is_about_no_session {
        return Ok(Fresh { overlay: None, expires: verified.expires });
    }
    let (Some(user), Some(session)) = (verified.user, verified.session) else {
        return Err(error(401, "session_not_found", "the access token names no user or no session"));
    };
    let snapshot = LatestSnapshot::take();
    if let Some(lifespan) = verified.lazy
        && !lazy_guests::is_known(&snapshot, user)
        && !sessions::is_revoked(&snapshot, session)
    {
        return Ok(Fresh { overlay: None, expires: verified.expires.min(lifespan.check_not_over()?) });
    }
    let ends = sessions::check_live(&snapshot, session, user, &verified.rotation)?;
    let overlay = Some(users::status(&snapshot, user)?);
    Ok(Fresh { overlay, expires: verified.expires.min(ends) })
}

/// The signed-in user and its session, for functions that do something in the user's name: they look both up
/// whatever `anon_auth.check_session` says, which is about what policies cost.
///
/// # Errors
/// `no_authorization` without a token, or why the token is refused.
pub fn require() -> Result<(Uuid, Option<Uuid>)> {
    caller()?.0.user_and_session()
}

/// [`require`], for functions that have to know whether the user is stored.
pub fn caller() -> Result<(Rc<Verified>, Fresh)> {
    let with_looked_up = |verified: Rc<Verified>| looked_up(&verified).map(|fresh| (verified, fresh));
    let by_token = match guc::access_token() {
        Some(token) => verify(&token).and_then(with_looked_up),
        None => Err(not_signed_in()),
    };
    match by_token {
        Err(error) if guc::trust_request_claims() => {
            error.discard();
            request_claims().ok_or_else(not_signed_in).and_then(with_looked_up)
        }
        by_token => by_token,
    }
}

/// The id of the signed-in user as the readers have it, if the user was stored before the token was issued.
pub fn stored_user() -> Option<pgrx::Uuid> {
    let (built, _) = unsafe { current() }?;
    let user = built.user.filter(|_| built.is_stored)?;
    unsafe { pgrx::Uuid::from_datum(user, false) }
}

/// Nobody is signed in.
pub fn not_signed_in() -> Error {
    error(401, "no_authorization", "nobody is signed in in this transaction")
        .hint("Call auth.authenticate($1) with an access token first, in the same transaction.")
}

/// The claims with what the database knows now.
pub fn overlaid(verified: &Verified, overlay: &Option<Status>) -> Map<String, Value> {
    let mut claims = verified.claims.clone();
    if let Some(now) = overlay {
        claims.insert("is_anonymous".into(), now.is_anonymous.into());
        claims.insert("email".into(), now.email.clone().unwrap_or_default().into());
        claims.insert("phone".into(), now.phone.clone().unwrap_or_default().into());
    }
    claims
}

/// The claims as datums; those built last, if nothing has changed.
fn build(verified: &Verified, overlay: Option<Status>) -> Rc<Built> {
    if let Some(built) = verified.built.borrow().as_ref()
        && built.overlay == overlay
    {
        return built.clone();
    }
    let claims = overlaid(verified, &overlay);
    let text =
        |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let id = |id: Option<Uuid>| id.and_then(crate::spi::uuid);
    let (role, email) = (text("role"), text("email"));
    let is_anonymous = claims.get("is_anonymous").and_then(Value::as_bool);
    let jwt = Jsonb(Value::Object(claims)).into_datum().unwrap_or(pg_sys::Datum::from(0));
    let built = unsafe {
        let context = pg_sys::AllocSetContextCreateInternal(
            pg_sys::TopMemoryContext,
            c"anon_auth claims".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
        );
        let outer = pg_sys::MemoryContextSwitchTo(context);
        let current = &*CURRENT.0.get();
        let built = Rc::new(Built {
            context,
            copied_in: current.copy.then_some(current.transaction),
            user: id(verified.user),
            session: id(verified.session),
            role: role.into_datum(),
            email: email.into_datum(),
            is_anonymous,
            is_stored: verified.is_ours && verified.lazy.is_none(),
            // Without what putting it together left behind.
            jwt: pg_sys::Datum::from(pg_sys::pg_detoast_datum_copy(jwt.cast_mut_ptr())),
            overlay,
        });
        pg_sys::MemoryContextSwitchTo(outer);
        built
    };
    let replaced = verified.built.replace(Some(built.clone()));
    drop(replaced);
    built
}

impl Drop for Built {
    /// A running query may still point at the values, so they go when the transaction ends.
    fn drop(&mut self) {
        let current = unsafe { &mut *CURRENT.0.get() };
        if self.copied_in == Some(current.transaction) {
            unsafe { pg_sys::MemoryContextDelete(self.context) };
            return;
        }
        // When the process ends, the list may be gone already, and all memory goes with it.
        let kept = REPLACED.try_with(|replaced| {
            let mut replaced = replaced.borrow_mut();
            replaced.push(self.context);
            replaced.len()
        });
        current.copy |= kept.is_ok_and(|kept| kept >= KEPT_REPLACED);
    }
}

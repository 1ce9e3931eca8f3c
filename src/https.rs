//! Requests over HTTPS, without blocking the backend's interrupts.

use crate::error::{Result, error};
use pgrx::pg_sys;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use ureq::http::Uri;
use ureq::tls::{RootCerts, TlsConfig};

/// How long fetching a document may take, from the look-up of the host's name to the last byte.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The largest answer that is read, in bytes.
const SIZE_LIMIT: u64 = 256 * 1024;

/// The longest URL, in bytes.
const URL_LIMIT: usize = 1024;

/// Whether a URL may be plain http where its host is this machine.
#[derive(Clone, Copy, PartialEq)]
pub enum Loopback {
    Allowed,
    Refused,
}

/// A provider on another machine has no say over requests to this one.
pub fn loopback_for(issuer: &str) -> Loopback {
    if issuer.starts_with("http://") { Loopback::Allowed } else { Loopback::Refused }
}

/// What listens to this machine alone often asks nobody who it is: it is for a superuser to send requests there.
pub fn loopback_for_caller() -> Loopback {
    // Not the current user, which is the owner of the function that was called.
    let is_superuser = unsafe { pg_sys::superuser_arg(pg_sys::GetOuterUserId()) };
    if is_superuser { Loopback::Allowed } else { Loopback::Refused }
}

/// Checks that a URL is one that may be fetched; says why not.
pub fn check_url(url: &str, loopback: Loopback) -> std::result::Result<(), &'static str> {
    if url.len() > URL_LIMIT {
        return Err("it is longer than 1024 bytes");
    }
    let uri: Uri = url.parse().map_err(|_| "it is not a URL")?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or("it is not an https URL")?;
    let is_loopback = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if is_loopback && loopback == Loopback::Allowed => {}
        _ => return Err("it is not an https URL"),
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        return Err("it holds a user name or password");
    }
    if authority.len() > host.len() && uri.port_u16().is_none() {
        return Err("its port is not a number up to 65535");
    }
    if url.contains('#') {
        return Err("it holds a fragment");
    }
    Ok(())
}

/// Fetches `url`, which was checked, with GET.
///
/// # Errors
/// `provider_unavailable`; an interrupt is raised.
pub fn get(url: &str) -> Result<Vec<u8>> {
    exchange(url, Request::Get, TIME_LIMIT)
        .map_err(|failure| error(502, "provider_unavailable", format!("{url} cannot be fetched: {}", failure.detail)))
}

/// Sends a form to `url`, which was checked, with POST.
///
/// # Errors
/// Why there is no answer; an interrupt is raised.
pub fn post_form(url: &str, form: Vec<(&'static str, String)>, limit: Duration) -> Answer {
    exchange(url, Request::PostForm(form), limit)
}

/// The body of an answer with status 200, or why there is none.
type Answer = std::result::Result<Vec<u8>, Failure>;

/// Why there is no answer, without a word of what was sent.
pub struct Failure {
    /// For whoever asks: the sort of it. It names no host.
    pub why: String,
    /// For administrators.
    pub detail: String,
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self { detail: why.clone(), why }
    }
}

impl From<&str> for Failure {
    fn from(why: &str) -> Self {
        why.to_owned().into()
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        error.to_string().into()
    }
}

impl From<ureq::Error> for Failure {
    fn from(error: ureq::Error) -> Self {
        let is_about_certificate = |error: &std::io::Error| {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
            matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
        };
        let why = match &error {
            ureq::Error::Timeout(_) => "timeout",
            ureq::Error::Io(error) if is_about_certificate(error) => "its certificate is not trusted",
            ureq::Error::Protocol(_) | ureq::Error::BodyExceedsLimit(_) => "its answer is not sound",
            _ => "the connection failed",
        };
        Self { why: why.into(), detail: error.to_string() }
    }
}

enum Request {
    Get,
    PostForm(Vec<(&'static str, String)>),
}

/// Requests of this backend that are under way, those included that nobody waits for any more.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// As many at the most: a caller can start one after the other and cancel each.
const MOST_UNDER_WAY: usize = 8;

/// Counts a request as under way until it is dropped.
struct UnderWay;

impl UnderWay {
    fn begin() -> Option<Self> {
        let is_one_too_many = UNDER_WAY.fetch_add(1, Ordering::Relaxed) >= MOST_UNDER_WAY;
        let counted = Self;
        (!is_one_too_many).then_some(counted)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes a request; follows no redirect. The certificate must be one that the server's operating system trusts.
///
/// A thread makes it, with every signal blocked, and touches nothing of Postgres; this one waits and takes
/// interrupts. After one, and when the time is up, the thread is left alone: it ends at about that time too.
fn exchange(url: &str, request: Request, limit: Duration) -> Answer {
    let under_way = UnderWay::begin().ok_or("too many requests of this session have no answer yet")?;
    let deadline = Instant::now() + limit;
    let (ours, theirs) = UnixStream::pair()?;
    let url = url.to_owned();
    let thread = without_signals(|| {
        std::thread::Builder::new().spawn(move || {
            let answer = send(&url, request, limit);
            drop(under_way);
            // Closing it wakes the other side; after a panic, too.
            drop(theirs);
            answer
        })
    })?;
    if !wait_until_closed(&ours, deadline) {
        return Err(format!("timeout: it took longer than {limit:?}").into());
    }
    thread.join().unwrap_or_else(|_| Err("the HTTP client failed".into()))
}

fn send(url: &str, request: Request, limit: Duration) -> Answer {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(provider)
        .build();
    let agent = ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_global(Some(limit))
        .max_redirects(0)
        .http_status_as_error(false)
        .user_agent("anon_auth")
        .build()
        .new_agent();
    let answer = match request {
        Request::Get => agent.get(url).header("Accept", "application/json").call(),
        Request::PostForm(form) => agent.post(url).header("Accept", "application/json").send_form(form),
    };
    let mut answer = answer?;
    if answer.status() != 200 {
        return Err(format!("the status is {}", answer.status().as_u16()).into());
    }
    Ok(answer.body_mut().with_config().limit(SIZE_LIMIT).read_to_vec()?)
}

/// Runs `spawn`, whose threads then get no signal: Postgres's handlers expect its one thread.
fn without_signals<T>(spawn: impl FnOnce() -> T) -> T {
    unsafe {
        let mut every: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut every);
        libc::pthread_sigmask(libc::SIG_SETMASK, &every, &mut before);
        let result = spawn();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        result
    }
}

/// Waits until the other end is closed; false if the time is up before. Interrupts are raised.
fn wait_until_closed(stream: &UnixStream, deadline: Instant) -> bool {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_SOCKET_READABLE | pg_sys::WL_EXIT_ON_PM_DEATH | pg_sys::WL_TIMEOUT;
    let (latch, socket, why) = (unsafe { pg_sys::MyLatch }, stream.as_raw_fd(), pg_sys::PG_WAIT_EXTENSION);
    loop {
        // Rounded up, or it would be asked again and again in the last millisecond.
        let left = deadline.saturating_duration_since(Instant::now()).as_millis() as i64 + 1;
        unsafe {
            let happened = pg_sys::WaitLatchOrSocket(latch, events as i32, socket, left, why);
            pg_sys::ResetLatch(latch);
            pgrx::check_for_interrupts!();
            if happened & pg_sys::WL_SOCKET_READABLE as i32 != 0 {
                return true;
            }
        }
        if Instant::now() >= deadline {
            return false;
        }
    }
}

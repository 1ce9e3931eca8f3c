//! Fetching a document over HTTPS, without blocking the backend's interrupts.

use crate::error::{Result, error};
use pgrx::pg_sys;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use ureq::http::Uri;
use ureq::tls::{RootCerts, TlsConfig};

/// How long one request may take, from the look-up of the host's name to the last byte.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The largest document that is read, in bytes.
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

/// Fetches `url`, which was checked, with GET; follows no redirect. The certificate must be one that the server's
/// operating system trusts.
///
/// A thread makes the request, with every signal blocked, and touches nothing of Postgres; this one waits and takes
/// interrupts. After one the thread is left alone: it ends within its time limit.
///
/// # Errors
/// `provider_unavailable`; an interrupt is raised.
pub fn get(url: &str) -> Result<Vec<u8>> {
    let unavailable = |why: &str| error(502, "provider_unavailable", format!("{url} cannot be fetched: {why}"));
    let (ours, theirs) = UnixStream::pair().map_err(|e| unavailable(&e.to_string()))?;
    let wanted = url.to_owned();
    let thread = without_signals(|| {
        std::thread::Builder::new().spawn(move || {
            let answer = request(&wanted);
            // Closing it wakes the other side; after a panic, too.
            drop(theirs);
            answer
        })
    })
    .map_err(|e| unavailable(&e.to_string()))?;
    wait_until_closed(&ours);
    match thread.join() {
        Ok(Ok(document)) => Ok(document),
        Ok(Err(why)) => Err(unavailable(&why)),
        Err(_) => Err(unavailable("the HTTP client failed")),
    }
}

fn request(url: &str) -> std::result::Result<Vec<u8>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(provider)
        .build();
    let agent = ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_global(Some(TIME_LIMIT))
        .max_redirects(0)
        .http_status_as_error(false)
        .user_agent("anon_auth")
        .build()
        .new_agent();
    let mut response = agent.get(url).header("Accept", "application/json").call().map_err(|e| e.to_string())?;
    if response.status() != 200 {
        return Err(format!("the status is {}", response.status().as_u16()));
    }
    response.body_mut().with_config().limit(SIZE_LIMIT).read_to_vec().map_err(|e| e.to_string())
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

/// Waits until the other end is closed. Interrupts are raised.
fn wait_until_closed(stream: &UnixStream) {
    let events = (pg_sys::WL_LATCH_SET | pg_sys::WL_SOCKET_READABLE | pg_sys::WL_EXIT_ON_PM_DEATH) as i32;
    loop {
        unsafe {
            let happened =
                pg_sys::WaitLatchOrSocket(pg_sys::MyLatch, events, stream.as_raw_fd(), -1, pg_sys::PG_WAIT_EXTENSION);
            pg_sys::ResetLatch(pg_sys::MyLatch);
            pgrx::check_for_interrupts!();
            if happened & pg_sys::WL_SOCKET_READABLE as i32 != 0 {
                return;
            }
        }
    }
}

//! A captcha service on loopback, by the protocol of Turnstile and hCaptcha, that can also misbehave.

use crate::json_response;
use serde_json::json;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The fields of a form.
pub type Form = HashMap<String, String>;

/// What the service answers to a token that is good is the token's to say: `good`, or one of the ways to misbehave
/// in [`answer`], each with a suffix that makes it another token.
pub struct Siteverify {
    pub url: String,
    forms: Arc<Mutex<Vec<Form>>>,
}

impl Siteverify {
    /// # Arguments
    /// * `secret` – the one that requests have to hold
    pub fn start(secret: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/siteverify", listener.local_addr().expect("it has one"));
        let forms = Arc::new(Mutex::new(Vec::new()));
        let (seen, secret) = (forms.clone(), Arc::new(secret.to_owned()));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, secret) = (seen.clone(), secret.clone());
                std::thread::spawn(move || respond(stream, &secret, &seen));
            }
        });
        Self { url, forms }
    }

    /// The forms that were sent so far.
    pub fn forms(&self) -> Vec<Form> {
        self.forms.lock().expect("no thread panics").clone()
    }
}

fn respond(mut stream: TcpStream, secret: &str, seen: &Mutex<Vec<Form>>) {
    let Some(form) = read(&stream) else {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        return;
    };
    let is_used = {
        let mut seen = seen.lock().expect("no thread panics");
        let is_used = seen.iter().any(|before| before.get("response") == form.get("response"));
        seen.push(form.clone());
        is_used
    };
    let error = |code: &str| json_response(&json!({"success": false, "error-codes": [code]}).to_string());
    let response = match () {
        () if form.get("secret").map(String::as_str) != Some(secret) => error("invalid-input-secret"),
        () if is_used => error("timeout-or-duplicate"),
        () => {
            match form.get("response").map(|token| token.split_once('-').map_or(token.as_str(), |(kind, _)| kind)) {
                Some(kind) => match answer(kind) {
                    Some(response) => response,
                    None => return misbehave(stream, kind),
                },
                None => error("missing-input-response"),
            }
        }
    };
    let _ = stream.write_all(response.as_bytes());
}

const GOOD: &str = r#"{"success": true, "error-codes": [], "challenge_ts": "2026-10-06T00:07:23.274Z", "hostname": "www.example.com", "action": "guest", "cdata": "", "metadata": {}}"#;

/// A whole response; `None` for those that are written in another way.
fn answer(kind: &str) -> Option<String> {
    let with_length = |length: usize| {
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{GOOD}")
    };
    let failed = |code: &str| json_response(&json!({"success": false, "error-codes": [code]}).to_string());
    Some(match kind {
        "good" => json_response(GOOD),
        "elsewhere" => json_response(&GOOD.replace("www.example.com", "evil.example")),
        "otherwise" => json_response(&GOOD.replace("\"guest\"", "\"login\"")),
        "wrong" => failed("invalid-input-response"),
        "broken" => failed("internal-error"),
        "500" => json_response(GOOD).replacen("200 OK", "500 Internal Server Error", 1),
        "204" => "HTTP/1.1 204 No Content\r\n\r\n".into(),
        // To where it would be let in.
        "redirect" => "HTTP/1.1 307 Temporary Redirect\r\nLocation: /good\r\nContent-Length: 0\r\n\r\n".into(),
        "more" => with_length(GOOD.len() + 100),
        "less" => with_length(GOOD.len() - 10),
        "negative" => with_length(0).replacen("Content-Length: 0", "Content-Length: -1", 1),
        "huge" => {
            json_response(&GOOD.replacen("\"cdata\": \"\"", &format!("\"cdata\": \"{}\"", "x".repeat(1 << 20)), 1))
        }
        "html" => json_response("<html>success</html>"),
        "twice" => json_response(&GOOD.replacen('{', "{\"success\": false, ", 1)),
        "empty" => json_response(""),
        "garbage" => "\u{0}\u{1}garbage\r\n\r\n".into(),
        _ => return None,
    })
}

fn misbehave(mut stream: TcpStream, kind: &str) {
    match kind {
        // Each byte in time, the whole not.
        "slow" | "slowhead" => {
            let response = json_response(GOOD);
            let (at_once, slowly) = response.split_at(if kind == "slow" { response.len() - GOOD.len() } else { 0 });
            let mut sent = stream.write_all(at_once.as_bytes());
            for byte in slowly.bytes() {
                if sent.is_err() {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(100));
                sent = stream.write_all(&[byte]);
            }
        }
        "close" => (),
        // Until the other side gives up.
        _ => {
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
}

/// The form of a request that is as the protocol wants it.
fn read(stream: &TcpStream) -> Option<Form> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let is_post = line.starts_with("POST /siteverify HTTP/1.1");
    let (mut length, mut is_form) = (0, false);
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let header = line.trim_end().to_ascii_lowercase();
        match header.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().ok()?,
            Some(("content-type", value)) => is_form = value == "application/x-www-form-urlencoded",
            _ if header.is_empty() => break,
            _ => (),
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8(body).ok()?;
    let form = body
        .split('&')
        .map(|pair| pair.split_once('=').map(|(name, value)| Some((name.to_owned(), decoded(value)?))));
    let form: Option<Form> = form.map(Option::flatten).collect();
    form.filter(|_| is_post && is_form)
}

/// A value of a form (URL Standard, section 5.1).
fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

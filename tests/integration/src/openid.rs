//! OpenID providers: a real one, and issuers that sign whatever a test wants.

use crate::{change, environment, unix_time};
use anon_auth_core::algorithm::Algorithm;
use anon_auth_core::jwt;
use anon_auth_core::keys::SigningKey;
use postgres::{Client, Error, GenericClient};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The program of `tests/oidc`: a real provider on loopback. Its clients are called by their algorithms.
pub struct OpenIdProvider {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub issuer: String,
}

impl OpenIdProvider {
    pub fn start() -> Self {
        let mut process = Command::new("node")
            .arg("provider.mjs")
            .current_dir(Path::new(&environment("ANON_AUTH_OPENID")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts");
        let commands = process.stdin.take().expect("stdin is piped");
        let mut answers = BufReader::new(process.stdout.take().expect("stdout is piped"));
        let mut issuer = String::new();
        answers.read_line(&mut issuer).expect("the provider starts");
        Self { process, commands, answers, issuer: issuer.trim_end().into() }
    }

    fn ask(&mut self, command: Value) -> Value {
        writeln!(self.commands, "{command}").expect("the provider reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the provider answers");
        serde_json::from_str(&answer).expect("the answer is JSON")
    }

    /// The ID token of a user with these claims, `sub` among them, who signs in at the provider.
    pub fn token(&mut self, client: &str, nonce: Option<&str>, claims: Value) -> String {
        let mut command = json!({"do": "token", "client": client, "claims": claims});
        if let Some(nonce) = nonce {
            command["nonce"] = nonce.into();
        }
        self.ask(command).as_str().expect("the provider issued an ID token").into()
    }

    /// Makes new keys; those before stay published.
    pub fn rotate_keys(&mut self) {
        self.ask(json!({"do": "rotate"}));
    }

    /// Publishes the newest keys only.
    pub fn forget_old_keys(&mut self) {
        self.ask(json!({"do": "forget"}));
    }

    /// The paths that were asked for since the last time.
    pub fn requests(&mut self) -> Vec<String> {
        serde_json::from_value(self.ask(json!({"do": "requests"}))).expect("they are texts")
    }
}

impl Drop for OpenIdProvider {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An issuer whose tokens a test writes itself; its keys are set by SQL.
pub struct Issuer {
    pub name: String,
    pub key: SigningKey,
}

impl Issuer {
    /// Adds a provider of this name, whose audience is `our-client`.
    pub fn new(admin: &mut Client, name: &str) -> Self {
        let issuer = Self { name: name.into(), key: SigningKey::generate(Algorithm::ES256).expect("a key") };
        let jwks = json!({"keys": [issuer.key.public_jwk("key-1")]});
        set_provider(admin, &issuer.name, &issuer.url(), &["our-client"]).expect("the provider is added");
        admin
            .execute("select auth.set_identity_provider($1, jwks => $2)", &[&issuer.name, &jwks])
            .expect("the keys are taken");
        issuer
    }

    pub fn url(&self) -> String {
        format!("https://{}.example", self.name)
    }

    /// A good token for the nonce `n`, with `changes` made to its claims; null removes one.
    pub fn token(&self, changes: Value) -> String {
        let now = unix_time();
        let mut claims = json!({
            "iss": self.url(), "aud": "our-client", "sub": "1", "iat": now, "exp": now + 300, "nonce": "n",
        });
        change(&mut claims, &changes);
        let claims = claims.as_object().expect("an object");
        jwt::encode("key-1", &self.key, claims).expect("a token")
    }
}

/// Adds a provider.
pub fn set_provider(admin: &mut Client, name: &str, issuer: &str, audiences: &[&str]) -> Result<Value, Error> {
    admin
        .query_one("select auth.set_identity_provider($1, $2, $3)", &[&name, &issuer, &audiences])
        .map(|row| row.get(0))
}

/// Fetches the keys of one provider, or of all.
pub fn refresh_keys(admin: &mut impl GenericClient, name: Option<&str>) -> Result<Value, Error> {
    admin.query_one("select auth.refresh_identity_provider_keys($1)", &[&name]).map(|row| row.get(0))
}

/// # Errors
/// Those of `auth.sign_in_with_id_token()`.
pub fn sign_in_with_id_token(
    client: &mut impl GenericClient,
    provider: &str,
    token: &str,
    nonce: Option<&str>,
) -> Result<Value, Error> {
    client
        .query_one("select auth.sign_in_with_id_token($1, $2, $3)", &[&provider, &token, &nonce])
        .map(|row| row.get(0))
}

/// Links an account to the user of this access token, in a transaction of its own.
///
/// # Errors
/// Those of `auth.link_identity()`.
pub fn link_identity(
    client: &mut Client,
    access_token: &str,
    provider: &str,
    token: &str,
    nonce: Option<&str>,
) -> Result<Value, Error> {
    let mut transaction = client.transaction()?;
    crate::authenticate(&mut transaction, access_token)?;
    let answer = transaction.query_one("select auth.link_identity($1, $2, $3)", &[&provider, &token, &nonce])?.get(0);
    transaction.commit()?;
    Ok(answer)
}

/// A web server on loopback that answers every request as a test wants.
pub struct Web {
    pub url: String,
    requests: Arc<AtomicUsize>,
}

impl Web {
    /// # Arguments
    /// * `answer` – the whole response to a GET of a path, head included; `None` never answers
    pub fn serve(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it has one"));
        let requests = Arc::new(AtomicUsize::new(0));
        let (answer, seen) = (Arc::new(answer), requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, seen) = (answer.clone(), seen.clone());
                std::thread::spawn(move || respond(stream, &*answer, &seen));
            }
        });
        Self { url, requests }
    }

    /// One that serves this discovery document's JWKS, and is otherwise in order.
    pub fn with_jwks(jwks: impl Into<String>) -> Self {
        let jwks = jwks.into();
        let listener_url = Arc::new(std::sync::OnceLock::<String>::new());
        let url = listener_url.clone();
        let web = Self::serve(move |path| {
            let url = url.get().expect("it is known");
            Some(json_response(&match path {
                "/.well-known/openid-configuration" => {
                    json!({"issuer": url, "jwks_uri": format!("{url}/jwks")}).to_string()
                }
                _ => jwks.clone(),
            }))
        });
        listener_url.set(web.url.clone()).expect("it is set once");
        web
    }

    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// A response that is in order.
pub fn json_response(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn respond(mut stream: TcpStream, answer: &dyn Fn(&str) -> Option<String>, seen: &AtomicUsize) {
    let mut line = String::new();
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    if reader.read_line(&mut line).is_err() {
        return;
    }
    seen.fetch_add(1, Ordering::SeqCst);
    match answer(line.split(' ').nth(1).unwrap_or_default()) {
        Some(response) => {
            let _ = stream.write_all(response.as_bytes());
        }
        // Until the other side gives up.
        None => {
            let _ = reader.read_to_end(&mut Vec::new());
        }
    }
}

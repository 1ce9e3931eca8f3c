//! Devices with keys: one by a library that others use, and one that signs whatever a test wants.

use crate::{Session, change, environment, failed, unix_time};
use anon_auth_core::algorithm::Algorithm;
use anon_auth_core::keys::SigningKey;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postgres::{Error, GenericClient};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The program of `tests/devices`: jose and altcha-lib.
pub struct NodeClient {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl NodeClient {
    pub fn start() -> Self {
        let mut process = Command::new("node")
            .arg("client.mjs")
            .current_dir(Path::new(&environment("ANON_AUTH_DEVICES")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts");
        let commands = process.stdin.take().expect("stdin is piped");
        let answers = BufReader::new(process.stdout.take().expect("stdout is piped"));
        Self { process, commands, answers }
    }

    /// What the program answers to a command.
    pub fn ask(&mut self, command: Value) -> Value {
        writeln!(self.commands, "{command}").expect("the program reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the program answers");
        serde_json::from_str(&answer).expect("the answer is JSON")
    }

    /// A request, signed by the key with this `kid`; what `header` and `payload` have goes over what is customary.
    pub fn sign(&mut self, kid: &Value, header: Value, payload: Value) -> String {
        let now = unix_time();
        let mut good = json!({"iat": now, "exp": now + 60, "action": "auth"});
        change(&mut good, &payload);
        let mut good_header = json!({"typ": "vnd.authgear.anonymous-request"});
        change(&mut good_header, &header);
        let answer = self.ask(json!({"do": "sign", "kid": kid, "header": good_header, "payload": good}));
        answer.as_str().expect("it is signed").into()
    }
}

impl Drop for NodeClient {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A device whose requests a test writes itself.
pub struct Device {
    pub kid: String,
    pub key: SigningKey,
}

impl Device {
    pub fn new(kid: &str) -> Self {
        Self { kid: kid.into(), key: SigningKey::generate(Algorithm::EdDSA).expect("a key can be made") }
    }

    pub fn jwk(&self) -> Value {
        self.key.public_jwk(&self.kid).expect("it has a public half")
    }

    /// A request for `challenge`, with changes to its header and payload.
    pub fn request(&self, challenge: &str, header: Value, payload: Value) -> String {
        let now = unix_time();
        let mut good_header =
            json!({"alg": "EdDSA", "typ": "vnd.authgear.anonymous-request", "kid": self.kid, "jwk": self.jwk()});
        change(&mut good_header, &header);
        let mut good = json!({"iat": now, "exp": now + 60, "challenge": challenge, "action": "auth"});
        change(&mut good, &payload);
        let signed = [good_header, good].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = self.key.sign(signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Registers the key and signs in as a new guest, or as the one that is signed in.
    pub fn register(&self, client: &mut impl GenericClient) -> Result<Session, Error> {
        let request = self.request(&challenge(client), json!({}), json!({}));
        sign_in_with_device_key(client, &request)
    }

    /// Signs in with the key, which is known.
    pub fn sign_in(&self, client: &mut impl GenericClient) -> Result<Session, Error> {
        let request = self.request(&challenge(client), json!({"jwk": null}), json!({}));
        sign_in_with_device_key(client, &request)
    }
}

/// A challenge for a device key.
pub fn challenge(client: &mut impl GenericClient) -> String {
    let sql = "select auth.create_challenge('device')->>'token'";
    client.query_one(sql, &[]).unwrap_or_else(failed(sql)).get(0)
}

/// # Errors
/// Those of `auth.sign_in_with_device_key()`.
pub fn sign_in_with_device_key(client: &mut impl GenericClient, jws: &str) -> Result<Session, Error> {
    client.query_one("select auth.sign_in_with_device_key($1)", &[&jws]).map(|row| row.get::<_, Value>(0).into())
}

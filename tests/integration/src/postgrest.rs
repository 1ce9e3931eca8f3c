//! What PostgREST does with a database, step by step as its documentation has it (Authentication, Transactions,
//! Functions as RPC, In-Database Configuration, Errors, Listener). PostgREST itself is in no package registry.

use crate::{APP, Database, describe, failed, sqlstate};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, Error, Transaction};
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// A PostgREST with `db-schemas = "api"`, `db-anon-role = "anon"` and `db-pre-config = "auth.pre_config"`.
pub struct Postgrest {
    /// Connected as the authenticator.
    client: Client,
    /// A connection of its own, on which it listens to the channel `pgrst`.
    listener: Client,
    /// `jwt-secret` of its configuration file, a JWK Set.
    file_secret: Option<Value>,
    /// What it is with what the database adds.
    config: Map<String, Value>,
}

/// What an HTTP client gets.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

impl Response {
    /// The value of a header; its name is case-insensitive.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn error(status: u16, code: &str, message: &str) -> Self {
        let body = json!({"code": code, "message": message, "details": null, "hint": null});
        Self { status, headers: Vec::new(), body }
    }
}

impl Postgrest {
    /// # Arguments
    /// * `file_secret` – `jwt-secret` of the configuration file, if it has one
    pub fn start(db: &Database, file_secret: Option<Value>) -> Self {
        let mut listener = db.connect_as(APP);
        listener.batch_execute("listen pgrst").unwrap_or_else(failed("listen"));
        let mut started = Self { client: db.connect_as(APP), listener, file_secret, config: Map::new() };
        started.load_config();
        started
    }

    /// Calls the pre-config function in a read-only transaction and takes the settings that it made.
    fn load_config(&mut self) {
        let mut transaction =
            self.client.build_transaction().read_only(true).start().unwrap_or_else(failed("pre-config"));
        let names = ["pgrst.jwt_secret", "pgrst.db_pre_request", "pgrst.db_anon_role", "pgrst.db_schemas"];
        let rows = transaction
            .query(
                "select name, current_setting(name, true) from unnest($1::text[]) name join auth.pre_config() on true
                  where current_setting(name, true) is not null",
                &[&names.as_slice()],
            )
            .unwrap_or_else(failed("pre-config"));
        self.config = rows.iter().map(|row| (row.get(0), Value::String(row.get(1)))).collect();
        transaction.commit().unwrap_or_else(failed("pre-config"));
    }

    /// The payloads of what it has been notified of since it was last asked; it reloads its configuration if told to.
    pub fn notified(&mut self) -> Vec<String> {
        // Notices of what is committed come with the next answer.
        self.listener.batch_execute("select 1").unwrap_or_else(failed("listen"));
        let notices = self.listener.notifications().iter().map(|notice| Ok(notice.payload().to_owned())).collect();
        let told: Vec<_> = notices.expect("the connection holds");
        if told.iter().any(|payload| payload == "reload config") {
            self.load_config();
        }
        told
    }

    /// The keys that it verifies tokens with.
    pub fn keys(&self) -> Value {
        match self.config.get("pgrst.jwt_secret").and_then(Value::as_str).filter(|text| !text.is_empty()) {
            Some(text) => serde_json::from_str(text).expect("pgrst.jwt_secret is a JWK Set"),
            None => self.file_secret.clone().unwrap_or(Value::Null),
        }
    }

    /// A request without a token.
    pub fn anonymous(&mut self, method: &str, function: &str, arguments: Value) -> Response {
        self.request(method, function, &[], arguments)
    }

    /// A request with an access token.
    pub fn bearer(&mut self, token: &str, method: &str, function: &str, arguments: Value) -> Response {
        self.request(method, function, &[("Authorization", &format!("Bearer {token}"))], arguments)
    }

    /// `METHOD /rpc/function`, with the arguments as a JSON body (POST) or as the query's parameters (GET).
    pub fn request(&mut self, method: &str, function: &str, headers: &[(&str, &str)], arguments: Value) -> Response {
        // 1. The token is verified, and its claims are those of the request. Without one they name the anonymous role.
        let authorization = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let claims = match authorization.and_then(|(_, value)| value.split_once(' ')) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => match self.verify(token) {
                Ok(claims) => claims,
                Err(response) => return response,
            },
            _ => json!({"role": "anon"}),
        };
        let role = claims["role"].as_str().unwrap_or("anon").to_owned();
        // Header names are given in lower case, one value each.
        let headers: Map<_, _> =
            headers.iter().map(|(name, value)| (name.to_lowercase(), Value::from(*value))).collect();
        let arguments = arguments.as_object().cloned().unwrap_or_default();

        // 2. The function is found by its name and the names of the arguments in the exposed schema.
        let Some(call) = Call::find(&mut self.client, function, &arguments) else {
            return Response::error(404, "PGRST202", &format!("Could not find the function api.{function}"));
        };
        // 3. GET, and functions that are not volatile, get a read-only transaction.
        let read_only = method == "GET" || !call.is_volatile;
        let pre_request = self.config.get("pgrst.db_pre_request").and_then(Value::as_str).map(str::to_owned);
        let mut transaction =
            self.client.build_transaction().read_only(read_only).start().unwrap_or_else(failed("begin"));
        let settings = [
            ("search_path", r#""api", "public""#.to_owned()),
            ("role", role.clone()),
            ("request.jwt.claims", claims.to_string()),
            ("request.method", method.to_owned()),
            ("request.path", format!("/rpc/{function}")),
            ("request.headers", Value::from(headers).to_string()),
            ("request.cookies", "{}".to_owned()),
        ];
        match run(&mut transaction, &settings, pre_request.as_deref(), &call, method, &arguments) {
            Ok(response) => {
                transaction.commit().unwrap_or_else(failed("commit"));
                response
            }
            Err(error) => {
                drop(transaction);
                refused(&error, &role)
            }
        }
    }

    /// The claims of a token that is signed with one of the keys, the one that its `kid` names, and not expired.
    fn verify(&self, token: &str) -> Result<Value, Response> {
        let refuse = |why: String| Response::error(401, "PGRST301", &why);
        if self.keys().is_null() {
            return Err(Response::error(500, "PGRST300", "Server lacks JWT secret"));
        }
        let keys: JwkSet = serde_json::from_value(self.keys()).expect("the keys are a JWK Set");
        let header = decode_header(token).map_err(|error| refuse(error.to_string()))?;
        let key = header.kid.as_deref().and_then(|kid| keys.find(kid));
        let key = key.ok_or_else(|| refuse("No suitable key was found to decode the JWT".into()))?;
        let key_algorithm = key.common.key_algorithm.map(|algorithm| algorithm.to_string());
        assert_eq!(key_algorithm, Some(format!("{:?}", header.alg)), "the key says what it is for");
        let mut validation = Validation::new(header.alg);
        validation.leeway = 30;
        validation.validate_aud = false;
        validation.required_spec_claims = HashSet::new();
        let key = DecodingKey::from_jwk(key).map_err(|error| refuse(error.to_string()))?;
        decode(token, &key, &validation).map(|token| token.claims).map_err(|error| refuse(error.to_string()))
    }
}

/// A function of the exposed schema.
struct Call {
    name: String,
    /// Arguments that are given, and their types.
    arguments: Vec<(String, String)>,
    is_volatile: bool,
    is_void: bool,
}

impl Call {
    fn find(client: &mut Client, name: &str, given: &Map<String, Value>) -> Option<Self> {
        let rows = client
            .query(
                "select coalesce(proargnames, '{}'), array(select format_type(t, null) from unnest(proargtypes) t),
                        (pronargs - pronargdefaults)::int, provolatile = 'v', prorettype = 'void'::regtype
                   from pg_proc where pronamespace = 'api'::regnamespace and proname = $1 and prokind = 'f'",
                &[&name],
            )
            .unwrap_or_else(failed("schema cache"));
        let [row] = rows.as_slice() else { return None };
        let (names, types): (Vec<String>, Vec<String>) = (row.get(0), row.get(1));
        let required = usize::try_from(row.get::<_, i32>(2)).ok()?;
        let all: Vec<_> = names.into_iter().zip(types).collect();
        if all[..required].iter().any(|(name, _)| !given.contains_key(name))
            || given.keys().any(|name| all.iter().all(|(other, _)| other != name))
        {
            return None;
        }
        let arguments = all.into_iter().filter(|(name, _)| given.contains_key(name)).collect();
        Some(Self { name: name.into(), arguments, is_volatile: row.get(3), is_void: row.get(4) })
    }

    /// The main query, whose one parameter is the JSON object with the arguments. (Those of a GET, PostgREST binds one
    /// by one.)
    fn sql(&self) -> String {
        let list = |format: &dyn Fn(&(String, String)) -> String| {
            self.arguments.iter().map(format).collect::<Vec<_>>().join(", ")
        };
        let name = &self.name;
        let call = match self.arguments.is_empty() {
            true => format!(r#"(select "api"."{name}"() result) call"#),
            false => {
                let columns = list(&|(name, kind)| format!(r#""{name}" {kind}"#));
                let arguments = list(&|(name, _)| format!(r#""{name}" := body."{name}""#));
                format!(
                    r#"(select * from json_to_record($1) as _({columns}) limit 1) body,
                       lateral (select "api"."{name}"({arguments}) result) call"#
                )
            }
        };
        format!(
            "with source as (select call.result from {call})
             select coalesce((json_agg(result)->0)::text, 'null'),
                    nullif(current_setting('response.headers', true), ''),
                    nullif(current_setting('response.status', true), ''), $1::json is null
               from (select result from source) source"
        )
    }
}

/// 4. The settings of the request, in one statement; the pre-request function; the main query.
fn run(
    transaction: &mut Transaction,
    settings: &[(&str, String)],
    pre_request: Option<&str>,
    call: &Call,
    method: &str,
    arguments: &Map<String, Value>,
) -> Result<Response, Error> {
    let each: Vec<_> =
        (1..).zip(settings).map(|(n, (name, _))| format!("set_config('{name}', ${n}, true)")).collect();
    let values: Vec<&(dyn postgres::types::ToSql + Sync)> = settings.iter().map(|(_, value)| value as _).collect();
    transaction.execute(&format!("select {}", each.join(", ")), &values)?;
    if let Some(function) = pre_request {
        transaction.execute(&format!("select {function}()"), &[])?;
    }
    let arguments = Value::from(arguments.clone());
    let row = transaction.query_one(&call.sql(), &[&arguments])?;
    let headers: Option<String> = row.get(1);
    let headers: Vec<Map<String, Value>> =
        headers.map_or_else(Vec::new, |text| serde_json::from_str(&text).expect("an array of objects with one key"));
    let status: Option<String> = row.get(2);
    Ok(Response {
        status: match status {
            Some(status) => status.parse().expect("response.status is a number"),
            None if call.is_void && method == "POST" => 204,
            None => 200,
        },
        headers: headers
            .into_iter()
            .flatten()
            .map(|(name, value)| (name, value.as_str().expect("a text").to_owned()))
            .collect(),
        body: if call.is_void { Value::Null } else { serde_json::from_str(row.get(0)).expect("JSON") },
    })
}

/// 5. An error of the database, as HTTP.
fn refused(error: &Error, role: &str) -> Response {
    let raised = error.as_db_error().unwrap_or_else(|| panic!("{}", describe(error)));
    let state = sqlstate(error);
    if state == "PGRST" {
        let parse = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        let details = parse(raised.detail().expect("status and headers"));
        let headers = details["headers"].as_object().cloned().unwrap_or_default();
        return Response {
            status: details["status"].as_u64().and_then(|status| status.try_into().ok()).expect("a status"),
            headers: headers
                .into_iter()
                .map(|(name, value)| (name, value.as_str().expect("a text").into()))
                .collect(),
            body: parse(raised.message()),
        };
    }
    let status = match state {
        _ if state.starts_with("PT") => state[2..].parse().expect("PT and a status"),
        "25006" => 405,
        "42883" => 404,
        "42501" if role == "anon" => 401,
        "42501" => 403,
        _ => 400,
    };
    let body = json!({"code": state, "message": raised.message(), "details": raised.detail(), "hint": raised.hint()});
    Response { status, headers: Vec::new(), body }
}

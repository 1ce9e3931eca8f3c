//! What an expression of a policy can be for a caller who is a guest, or is none: a value that is known, or that it
//! could be anything.

use serde_json::Value as Json;

/// Why a value is not known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// It depends on rows, on the time, on what the caller chose: on anything but who is calling.
    Rows,
    /// It may depend on who is calling, in a way that only running it would tell.
    Hidden,
}

#[derive(Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Text(String),
    Json(Json),
    /// All claims of the caller.
    Claims,
    /// What tells the caller from everybody else, such as its id, where known with the text. No row that is looked at
    /// holds it: those that do are the caller's own.
    Own(Option<String>),
    Any(Source),
}

use Value::*;

impl Value {
    pub fn from_truth(truth: Option<bool>) -> Self {
        truth.map_or(Null, Bool)
    }

    /// The value of an expression of the type boolean: `None` for NULL.
    pub fn truth(&self) -> Option<bool> {
        match self {
            Bool(truth) => Some(*truth),
            _ => None,
        }
    }

    /// Whether it is NULL; `None` where that is not known.
    pub fn is_null(&self) -> Option<bool> {
        match self {
            Null => Some(true),
            Any(_) => None,
            _ => Some(false),
        }
    }

    /// What is known of a value that is made of these in a way that is not looked into.
    pub fn made_of(parts: &[Value]) -> Self {
        if parts.iter().any(|part| matches!(part, Own(_))) {
            return Own(None);
        }
        let depends_on_caller = |part: &Value| matches!(part, Claims | Json(_) | Any(Source::Hidden));
        let is_about_caller_only = !parts.is_empty() && parts.iter().all(|part| part.is_null() == Some(false));
        Any(match parts.iter().any(depends_on_caller) || is_about_caller_only {
            true => Source::Hidden,
            false => Source::Rows,
        })
    }

    fn text(&self) -> Option<&str> {
        match self {
            Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn to_text(&self) -> Self {
        match self {
            Bool(truth) => Text(truth.to_string()),
            Json(json) => Text(json.to_string()),
            other => other.clone(),
        }
    }

    pub fn to_json(&self) -> Self {
        match self {
            Text(text) => serde_json::from_str(text).map_or(Any(Source::Rows), Json),
            other => other.clone(),
        }
    }

    pub fn to_bool(&self) -> Self {
        match self {
            Text(text) => match text.trim().to_ascii_lowercase().as_str() {
                "t" | "true" | "y" | "yes" | "on" | "1" => Bool(true),
                "f" | "false" | "n" | "no" | "off" | "0" => Bool(false),
                _ => Any(Source::Rows),
            },
            Json(Json::Bool(truth)) => Bool(*truth),
            Null | Bool(_) | Any(_) => self.clone(),
            _ => Any(Source::Hidden),
        }
    }

    /// As the operators ->> and #>> return it.
    pub fn unquoted(self) -> Self {
        match self {
            Json(Json::String(text)) => Text(text),
            Json(Json::Null) => Null,
            other => other.to_text(),
        }
    }

    /// The elements of an array that is written as a literal, as in `'{a,b}'`.
    pub fn elements(&self) -> Option<Vec<Value>> {
        let inside = self.text()?.strip_prefix('{')?.strip_suffix('}')?;
        Some(inside.split(',').map(|element| Text(element.trim_matches('"').to_owned())).collect())
    }
}

/// What an operator of Postgres's own makes of two values; both are not NULL.
pub fn operate(operator: &str, left: &Value, right: &Value) -> Value {
    match (operator, left, right) {
        ("=", ..) => equality(left, right),
        ("<>", ..) => match equality(left, right) {
            Bool(truth) => Bool(!truth),
            other => other,
        },
        ("<" | "<=" | ">" | ">=", Text(left_text), Text(right_text)) => {
            match (left_text.parse::<f64>(), right_text.parse::<f64>()) {
                (Ok(left), Ok(right)) => Bool(match operator {
                    "<" => left < right,
                    "<=" => left <= right,
                    ">" => left > right,
                    _ => left >= right,
                }),
                _ => Value::made_of(&[left.clone(), right.clone()]),
            }
        }
        ("?", Json(json), Text(key)) => Bool(json.get(key).is_some()),
        ("@>", Json(json), Json(wanted)) => Bool(contains(json, wanted)),
        // Whether rows, or parts of them, hold or match what is the caller's own.
        ("~~" | "@>" | "<@" | "&&" | "?" | "^@", ..) if is_own(left) != is_own(right) => Bool(false),
        ("!~~", ..) if is_own(left) != is_own(right) => Bool(true),
        _ => match Value::made_of(&[left.clone(), right.clone()]) {
            // The result of an ordering, say, is not the caller's own.
            Own(_) if operator != "||" => Any(Source::Rows),
            value => value,
        },
    }
}

/// As the operator @> of jsonb has it.
fn contains(json: &Json, wanted: &Json) -> bool {
    match (json, wanted) {
        (Json::Object(json), Json::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| json.get(key).is_some_and(|value| contains(value, wanted)))
        }
        (Json::Array(json), Json::Array(wanted)) => {
            wanted.iter().all(|wanted| json.iter().any(|value| contains(value, wanted)))
        }
        (json, wanted) => json == wanted,
    }
}

fn is_own(value: &Value) -> bool {
    matches!(value, Own(_))
}

fn equality(left: &Value, right: &Value) -> Value {
    match (left, right) {
        (Own(Some(own)), Text(text)) | (Text(text), Own(Some(own))) => Bool(own == text),
        (Own(_), Own(_)) => Bool(true),
        (Own(_), _) | (_, Own(_)) => Bool(false),
        (Text(left), Text(right)) => Bool(left == right),
        (Bool(left), Bool(right)) => Bool(left == right),
        (Json(left), Json(right)) => Bool(left == right),
        (Any(left), Any(right)) => Any(*left.max(right)),
        (Any(source), _) | (_, Any(source)) => Any(*source),
        _ => Any(Source::Hidden),
    }
}

/// AND, in three-valued logic.
pub fn and(truths: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let truths: Vec<_> = truths.into_iter().collect();
    if truths.contains(&Some(false)) {
        return Some(false);
    }
    (!truths.contains(&None)).then_some(true)
}

/// OR, in three-valued logic.
pub fn or(truths: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    and(truths.into_iter().map(|truth| truth.map(|truth| !truth))).map(|truth| !truth)
}

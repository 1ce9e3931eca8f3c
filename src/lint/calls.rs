//! Operators and functions in an expression: the readers, and those of Postgres's own by which people get at claims.

use super::expression::{Caller, Evaluation, cast, is_builtin, nodes};
use super::value::{self, Source, Value};
use pgrx::pg_sys::{self, NodeTag, Oid};
use serde_json::{Value as Json, json};
use std::ffi::CStr;

impl Evaluation<'_> {
    pub(super) unsafe fn operator(&mut self, operator: Oid, mut operands: Vec<Value>) -> Value {
        let name = unsafe { pg_sys::get_opname(operator) };
        if !is_builtin(operator) || name.is_null() {
            return Value::Any(Source::Hidden);
        }
        let name = unsafe { CStr::from_ptr(name) }.to_str().unwrap_or_default();
        let (Some(right), Some(left)) = (operands.pop(), operands.pop()) else {
            return Value::Any(Source::Rows);
        };
        match (name, &left, &right) {
            // All that are of interest are strict.
            (_, Value::Null, _) | (_, _, Value::Null) => Value::Null,
            ("->", ..) => self.follow(left, &[right]),
            ("->>", ..) => self.follow(left, &[right]).unquoted(),
            ("#>", ..) => self.follow_array(left, &right),
            ("#>>", ..) => self.follow_array(left, &right).unquoted(),
            ("?", Value::Claims, Value::Text(key)) => match self.claim(key) {
                Value::Any(source) => Value::Any(source),
                value => Value::Bool(value != Value::Null),
            },
            ("@>", Value::Claims, Value::Json(Json::Object(wanted))) => {
                let equal: Vec<_> = wanted
                    .iter()
                    .map(|(key, wanted)| value::operate("=", &self.claim(key), &Value::Json(wanted.clone())))
                    .collect();
                match equal.iter().find(|value| matches!(value, Value::Any(_))) {
                    Some(unknown) if !equal.contains(&Value::Bool(false)) => unknown.clone(),
                    _ => Value::from_truth(value::and(equal.iter().map(Value::truth))),
                }
            }
            _ => value::operate(name, &left, &right),
        }
    }

    /// `= any (…)`, `in (…)`, `<> all (…)`
    pub(super) unsafe fn array_operator(&mut self, operation: *mut pg_sys::ScalarArrayOpExpr) -> Value {
        unsafe {
            let args = nodes((*operation).args);
            let left = self.value(args[0]);
            let elements = match (*args[1]).type_ {
                NodeTag::T_ArrayExpr => Some(self.values((*(args[1] as *mut pg_sys::ArrayExpr)).elements)),
                _ => None,
            };
            let elements = elements.unwrap_or_else(|| {
                let right = self.value(args[1]);
                right.elements().unwrap_or(vec![right])
            });
            let mut truths = Vec::new();
            let mut unknown = None;
            for element in elements {
                match self.operator((*operation).opno, vec![left.clone(), element]) {
                    Value::Any(source) => unknown = unknown.max(Some(source)),
                    value => truths.push(value.truth()),
                }
            }
            let decides = (*operation).useOr;
            match unknown {
                Some(source) if !truths.contains(&Some(decides)) => Value::Any(source),
                _ => Value::from_truth(if decides { value::or(truths) } else { value::and(truths) }),
            }
        }
    }

    pub(super) unsafe fn function(&mut self, call: *mut pg_sys::FuncExpr) -> Value {
        let is_guest = self.caller == Caller::Guest;
        let function = unsafe { (*call).funcid };
        let args = unsafe { self.values((*call).args) };
        let facts = self.facts;
        if function == facts.jwt {
            return Value::Claims;
        } else if function == facts.uid || function == facts.session_id {
            return Value::Own(None);
        } else if function == facts.role_function {
            return self.claim("role").unquoted();
        } else if function == facts.email {
            return if is_guest { Value::Null } else { Value::Own(None) };
        } else if function == facts.is_anonymous {
            return Value::Bool(is_guest);
        } else if !is_builtin(function) {
            return Value::Any(Source::Hidden);
        }
        let result = unsafe { (*call).funcresulttype };
        let is_cast = unsafe {
            matches!(
                (*call).funcformat,
                pg_sys::CoercionForm::COERCE_EXPLICIT_CAST | pg_sys::CoercionForm::COERCE_IMPLICIT_CAST
            )
        };
        match (function.to_u32(), args.as_slice()) {
            (pg_sys::F_CURRENT_SETTING_TEXT | pg_sys::F_CURRENT_SETTING_TEXT_BOOL, [Value::Text(name), ..]) => {
                self.setting(&name.to_ascii_lowercase())
            }
            (pg_sys::F_JSONB_EXTRACT_PATH | pg_sys::F_JSON_EXTRACT_PATH, [container, ..]) => {
                let path = unsafe { self.variadic(call) };
                self.follow(container.clone(), &path)
            }
            (pg_sys::F_JSONB_EXTRACT_PATH_TEXT | pg_sys::F_JSON_EXTRACT_PATH_TEXT, [container, ..]) => {
                let path = unsafe { self.variadic(call) };
                self.follow(container.clone(), &path).unquoted()
            }
            (_, [value, ..]) if is_cast => cast(value.clone(), result),
            _ => match Value::made_of(&args) {
                // Such as whether a name starts with the caller's id.
                Value::Own(_) if result == pg_sys::BOOLOID => Value::Bool(false),
                value => value,
            },
        }
    }

    unsafe fn variadic(&mut self, call: *mut pg_sys::FuncExpr) -> Vec<Value> {
        unsafe {
            match nodes((*call).args).last() {
                Some(last) if (**last).type_ == NodeTag::T_ArrayExpr => {
                    self.values((*(*last as *mut pg_sys::ArrayExpr)).elements)
                }
                _ => vec![Value::Any(Source::Hidden)],
            }
        }
    }

    fn setting(&mut self, name: &str) -> Value {
        if name == "request.jwt.claims" {
            self.reads_settings = true;
            return Value::Claims;
        } else if let Some(claim) = name.strip_prefix("request.jwt.claim.") {
            self.reads_settings = true;
            return self.claim(claim).unquoted();
        }
        match name {
            "role" => Value::Text(self.facts.role.clone()),
            _ => Value::Any(Source::Rows),
        }
    }

    fn follow_array(&mut self, container: Value, path: &Value) -> Value {
        match path.elements() {
            Some(path) => self.follow(container, &path),
            None => Value::made_of(&[container]),
        }
    }

    /// What a path of keys leads to in JSON.
    pub(super) fn follow(&mut self, container: Value, path: &[Value]) -> Value {
        path.iter().fold(container, |container, key| match (container, key) {
            (Value::Null, _) | (_, Value::Null) => Value::Null,
            (Value::Claims, Value::Text(key)) => self.claim(key),
            (Value::Json(json), Value::Text(key)) => match (json.get(key), key.parse::<usize>()) {
                (Some(value), _) => Value::Json(value.clone()),
                (None, Ok(i)) => json.get(i).cloned().map_or(Value::Null, Value::Json),
                (None, Err(_)) => Value::Null,
            },
            (container, key) => Value::made_of(&[container, key.clone()]),
        })
    }

    fn claim(&mut self, name: &str) -> Value {
        let is_guest = self.caller == Caller::Guest;
        match name {
            "is_anonymous" => Value::Json(is_guest.into()),
            "role" => Value::Json(self.facts.role.as_str().into()),
            "sub" | "session_id" => Value::Own(None),
            "email" | "phone" => Value::Own(is_guest.then(String::new)),
            // Only an administrator gives it something.
            "app_metadata" => Value::Json(json!({})),
            "user_metadata" => {
                self.reads_user_metadata = true;
                Value::Any(Source::Rows)
            }
            "aal" if is_guest => Value::Json("aal1".into()),
            "aal" | "aud" | "iss" | "iat" | "nbf" | "exp" => Value::Any(Source::Rows),
            // "amr" has the ways in which guests sign in, and others. Anything else a hook may have put there, for some and
            // not for others.
            _ => Value::Any(Source::Hidden),
        }
    }
}

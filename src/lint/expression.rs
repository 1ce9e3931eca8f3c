//! Expressions of policies, evaluated without running anything: on the tree that Postgres stores, for a caller of whom
//! it is known whether it is a guest, and for rows that are not the caller's own.
//!
//! What is not known and decides (a column, an application's function) is an unknown truth value, an atom; whoever asks tries
//! both.

use super::value::{self, Source, Value};
use crate::evaluate_once;
use pgrx::PgList;
use pgrx::pg_sys::{self, Node, NodeTag, Oid, Query};
use serde_json::{Value as Json, json};
use std::collections::HashSet;
use std::ffi::{CStr, c_int, c_void};

unsafe extern "C-unwind" {
    #[cfg_attr(not(feature = "pg15"), link_name = "expression_tree_walker_impl")]
    fn expression_tree_walker(node: *mut Node, walker: Walker, context: *mut c_void) -> bool;
    #[cfg_attr(not(feature = "pg15"), link_name = "query_tree_walker_impl")]
    fn query_tree_walker(query: *mut Query, walker: Walker, context: *mut c_void, flags: c_int) -> bool;
}

type Walker = unsafe extern "C-unwind" fn(*mut Node, *mut c_void) -> bool;

/// Combinations of more unknowns than that are not tried.
pub const MAX_ATOMS: usize = 10;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    Guest,
    Permanent,
}

/// What expressions refer to, by OID.
pub struct Facts {
    /// The role that the caller acts as.
    pub role: String,
    pub jwt: Oid,
    pub uid: Oid,
    pub session_id: Oid,
    pub role_function: Oid,
    pub email: Oid,
    pub is_anonymous: Oid,
    /// Tables with row-level security, and views: which rows there are may depend on who is calling.
    pub guarded_relations: HashSet<Oid>,
}

struct Atom {
    node: *mut Node,
    is_in_sub_select: bool,
    source: Source,
}

pub struct Evaluation<'a> {
    facts: &'a Facts,
    caller: Caller,
    /// A bit for each atom.
    assignment: u32,
    atoms: Vec<Atom>,
    /// Of the sub-selects around: the columns of the one that a comparison is with.
    columns: Vec<Vec<Value>>,
    /// Of the CASEs around: the operand.
    operands: Vec<Value>,
    depth: u32,
    /// Whether what is evaluated is the target list of a sub-select that finds no row.
    has_no_rows: bool,
    /// Whether `user_metadata` was looked at.
    pub reads_user_metadata: bool,
    /// Whether claims were read from the settings that PostgREST makes.
    pub reads_settings: bool,
}

impl<'a> Evaluation<'a> {
    pub fn new(facts: &'a Facts) -> Self {
        Self {
            facts,
            caller: Caller::Guest,
            assignment: 0,
            atoms: Vec::new(),
            columns: Vec::new(),
            operands: Vec::new(),
            depth: 0,
            has_no_rows: false,
            reads_user_metadata: false,
            reads_settings: false,
        }
    }

    /// Whom and what the next evaluation is for.
    pub fn begin(&mut self, caller: Caller, assignment: u32) {
        self.caller = caller;
        self.assignment = assignment;
    }

    /// How many unknowns have come up.
    pub fn unknowns(&self) -> usize {
        self.atoms.len()
    }

    /// The bits of those that only running the expression would tell.
    pub fn hidden(&self) -> u32 {
        let bits = self.atoms.iter().take(MAX_ATOMS).enumerate();
        bits.filter(|(_, atom)| atom.source == Source::Hidden).map(|(i, _)| 1 << i).sum()
    }

    /// # Safety
    /// `node` is an expression as Postgres stores it.
    pub unsafe fn value(&mut self, node: *mut Node) -> Value {
        if node.is_null() {
            return Value::Null;
        }
        unsafe {
            pg_sys::check_stack_depth();
            match self.examine(node) {
                Value::Any(source) if pg_sys::exprType(node) == pg_sys::BOOLOID => {
                    Value::Bool(self.atom(node, source))
                }
                value => value,
            }
        }
    }

    unsafe fn truth(&mut self, node: *mut Node) -> Option<bool> {
        unsafe { self.value(node) }.truth()
    }

    unsafe fn values(&mut self, list: *mut pg_sys::List) -> Vec<Value> {
        unsafe { nodes(list).into_iter().map(|node| self.value(node)).collect() }
    }

    /// The truth value that this combination gives to `node`. Equal expressions have one; in a sub-select, the same
    /// column may be another table's.
    unsafe fn atom(&mut self, node: *mut Node, source: Source) -> bool {
        let is_in_sub_select = self.depth > 0;
        let known = self.atoms.iter().position(|atom| {
            atom.node == node
                || !is_in_sub_select
                    && !atom.is_in_sub_select
                    && unsafe { pg_sys::equal(atom.node.cast(), node.cast()) }
        });
        let i = known.unwrap_or_else(|| {
            self.atoms.push(Atom { node, is_in_sub_select, source });
            self.atoms.len() - 1
        });
        i < MAX_ATOMS && self.assignment >> i & 1 == 1
    }

    unsafe fn examine(&mut self, node: *mut Node) -> Value {
        use NodeTag::*;
        unsafe {
            match (*node).type_ {
                T_Const => constant(node.cast()),
                T_Var => Value::Any(Source::Rows),
                T_Param => self.param(node.cast()),
                T_RelabelType => {
                    let relabel = node as *mut pg_sys::RelabelType;
                    cast(self.value((*relabel).arg.cast()), (*relabel).resulttype)
                }
                T_CoerceViaIO => {
                    let coerce = node as *mut pg_sys::CoerceViaIO;
                    cast(self.value((*coerce).arg.cast()), (*coerce).resulttype)
                }
                T_CollateExpr => self.value((*(node as *mut pg_sys::CollateExpr)).arg.cast()),
                T_CoerceToDomain => self.value((*(node as *mut pg_sys::CoerceToDomain)).arg.cast()),
                T_ArrayCoerceExpr => self.value((*(node as *mut pg_sys::ArrayCoerceExpr)).arg.cast()),
                T_SQLValueFunction => match (*(node as *mut pg_sys::SQLValueFunction)).op {
                    pg_sys::SQLValueFunctionOp::SVFOP_CURRENT_ROLE
                    | pg_sys::SQLValueFunctionOp::SVFOP_CURRENT_USER
                    | pg_sys::SQLValueFunctionOp::SVFOP_USER => Value::Text(self.facts.role.clone()),
                    _ => Value::Any(Source::Rows),
                },
                T_FuncExpr => self.function(node.cast()),
                T_OpExpr => {
                    let operation = node as *mut pg_sys::OpExpr;
                    let operands = self.values((*operation).args);
                    self.operator((*operation).opno, operands)
                }
                T_DistinctExpr => {
                    let operation = node as *mut pg_sys::OpExpr;
                    let operands = self.values((*operation).args);
                    match (operands[0].is_null(), operands[1].is_null()) {
                        (Some(left), Some(right)) if left || right => Value::Bool(left != right),
                        _ => match self.operator((*operation).opno, operands) {
                            Value::Bool(is_equal) => Value::Bool(!is_equal),
                            Value::Null => Value::Any(Source::Rows),
                            other => other,
                        },
                    }
                }
                T_NullIfExpr => {
                    let operation = node as *mut pg_sys::OpExpr;
                    let operands = self.values((*operation).args);
                    match self.operator((*operation).opno, operands.clone()) {
                        Value::Bool(true) => Value::Null,
                        _ => operands[0].clone(),
                    }
                }
                T_ScalarArrayOpExpr => self.array_operator(node.cast()),
                T_BoolExpr => {
                    let expression = node as *mut pg_sys::BoolExpr;
                    let truths = self.values((*expression).args);
                    let truths = truths.iter().map(Value::truth);
                    Value::from_truth(match (*expression).boolop {
                        pg_sys::BoolExprType::AND_EXPR => value::and(truths),
                        pg_sys::BoolExprType::OR_EXPR => value::or(truths),
                        _ => value::and(truths).map(|truth| !truth),
                    })
                }
                T_NullTest => {
                    let test = node as *mut pg_sys::NullTest;
                    let argument = self.value((*test).arg.cast());
                    let asks_null = (*test).nulltesttype == pg_sys::NullTestType::IS_NULL;
                    match argument.is_null() {
                        Some(is_null) => Value::Bool(is_null == asks_null),
                        None => Value::made_of(&[argument]),
                    }
                }
                T_BooleanTest => {
                    let test = node as *mut pg_sys::BooleanTest;
                    let truth = self.truth((*test).arg.cast());
                    Value::Bool(match (*test).booltesttype {
                        pg_sys::BoolTestType::IS_TRUE => truth == Some(true),
                        pg_sys::BoolTestType::IS_NOT_TRUE => truth != Some(true),
                        pg_sys::BoolTestType::IS_FALSE => truth == Some(false),
                        pg_sys::BoolTestType::IS_NOT_FALSE => truth != Some(false),
                        pg_sys::BoolTestType::IS_UNKNOWN => truth.is_none(),
                        _ => truth.is_some(),
                    })
                }
                T_CaseExpr => self.case(node.cast()),
                T_CaseTestExpr => self.operands.last().cloned().unwrap_or(Value::Any(Source::Hidden)),
                T_CoalesceExpr => {
                    let values = self.values((*(node as *mut pg_sys::CoalesceExpr)).args);
                    values.into_iter().find(|value| *value != Value::Null).unwrap_or(Value::Null)
                }
                T_ArrayExpr => {
                    let elements = self.values((*(node as *mut pg_sys::ArrayExpr)).elements);
                    Value::made_of(&elements)
                }
                T_SubscriptingRef => {
                    let reference = node as *mut pg_sys::SubscriptingRef;
                    let container = self.value((*reference).refexpr.cast());
                    let path = self.values((*reference).refupperindexpr);
                    match container {
                        Value::Claims | Value::Json(_) | Value::Null => self.follow(container, &path),
                        other => Value::made_of(&[other]),
                    }
                }
                T_Aggref => {
                    let aggregate = node as *mut pg_sys::Aggref;
                    match ((*aggregate).aggfnoid.to_u32(), self.has_no_rows) {
                        (pg_sys::F_COUNT_ | pg_sys::F_COUNT_ANY, true) => Value::Text("0".into()),
                        (_, true) => Value::Null,
                        _ => Value::Any(Source::Rows),
                    }
                }
                T_SubLink => self.sub_select(node.cast()),
                _ => Value::Any(self.source(node)),
            }
        }
    }

    unsafe fn param(&self, param: *mut pg_sys::Param) -> Value {
        let (kind, number) = unsafe { ((*param).paramkind, (*param).paramid) };
        let column = self.columns.last().and_then(|columns| columns.get(usize::try_from(number - 1).ok()?));
        match column {
            Some(column) if kind == pg_sys::ParamKind::PARAM_SUBLINK => column.clone(),
            _ => Value::Any(Source::Rows),
        }
    }

    unsafe fn operator(&mut self, operator: Oid, mut operands: Vec<Value>) -> Value {
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
    unsafe fn array_operator(&mut self, operation: *mut pg_sys::ScalarArrayOpExpr) -> Value {
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

    unsafe fn function(&mut self, call: *mut pg_sys::FuncExpr) -> Value {
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
    fn follow(&mut self, container: Value, path: &[Value]) -> Value {
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
            "aal" | "amr" | "aud" | "iss" | "iat" | "nbf" | "exp" => Value::Any(Source::Rows),
            // A hook may have put it there, for some and not for others.
            _ => Value::Any(Source::Hidden),
        }
    }

    unsafe fn case(&mut self, case: *mut pg_sys::CaseExpr) -> Value {
        unsafe {
            let operand = self.value((*case).arg.cast());
            self.operands.push(operand);
            let mut found = None;
            for when in nodes((*case).args) {
                let when = when as *mut pg_sys::CaseWhen;
                let holds = self.truth((*when).expr.cast());
                let result = self.value((*when).result.cast());
                if holds == Some(true) && found.is_none() {
                    found = Some(result);
                }
            }
            self.operands.pop();
            let otherwise = self.value((*case).defresult.cast());
            found.unwrap_or(otherwise)
        }
    }

    unsafe fn sub_select(&mut self, link: *mut pg_sys::SubLink) -> Value {
        use pg_sys::SubLinkType::*;
        unsafe {
            let query = (*link).subselect as *mut Query;
            if !(*query).setOperations.is_null() || !(*query).cteList.is_null() {
                return Value::Any(self.source((*link).subselect));
            }
            self.depth += 1;
            let rows = self.rows(query);
            let is_aggregated = (*query).hasAggs && (*query).groupClause.is_null();
            let outer = std::mem::replace(&mut self.has_no_rows, rows.are_none);
            let mut columns = Vec::new();
            for target in nodes((*query).targetList) {
                columns.push(match self.value((*(target as *mut pg_sys::TargetEntry)).expr.cast()) {
                    Value::Any(source) => Value::Any(source.max(rows.source)),
                    value => value,
                });
            }
            self.has_no_rows = outer;
            let result = match (*link).subLinkType {
                EXISTS_SUBLINK if rows.are_none => Value::Bool(false),
                EXISTS_SUBLINK if rows.has_from => Value::Any(rows.source),
                EXISTS_SUBLINK => Value::Bool(true),
                EXPR_SUBLINK if rows.are_none && !is_aggregated => Value::Null,
                EXPR_SUBLINK => columns.into_iter().next().unwrap_or(Value::Null),
                ANY_SUBLINK if rows.are_none => Value::Bool(false),
                ALL_SUBLINK if rows.are_none => Value::Bool(true),
                ANY_SUBLINK | ALL_SUBLINK => {
                    self.columns.push(columns);
                    let compared = self.value((*link).testexpr);
                    self.columns.pop();
                    let decides = (*link).subLinkType == ANY_SUBLINK;
                    match compared.truth() == Some(decides) && rows.has_from {
                        // If there is a row.
                        true => Value::Any(rows.source),
                        false => compared,
                    }
                }
                _ => Value::Any(rows.source),
            };
            // An unknown of the sub-select as a whole is one of the expression around it.
            let result = match result {
                Value::Any(source) if pg_sys::exprType(link as *const Node) == pg_sys::BOOLOID => {
                    Value::Bool(self.atom(link.cast(), source))
                }
                value => value,
            };
            self.depth -= 1;
            result
        }
    }

    unsafe fn rows(&mut self, query: *mut Query) -> Rows {
        unsafe {
            let from = (*query).jointree;
            let mut rows = Rows { are_none: false, has_from: !(*from).fromlist.is_null(), source: Source::Rows };
            for item in nodes((*from).fromlist) {
                self.from_item(query, item, &mut rows);
            }
            for condition in [(*from).quals, (*query).havingQual] {
                rows.are_none |= !condition.is_null() && self.truth(condition) != Some(true);
            }
            rows
        }
    }

    unsafe fn from_item(&mut self, query: *mut Query, item: *mut Node, rows: &mut Rows) {
        use pg_sys::JoinType::*;
        unsafe {
            if (*item).type_ == NodeTag::T_JoinExpr {
                let join = item as *mut pg_sys::JoinExpr;
                let (left, right) = ((*join).larg, (*join).rarg);
                let mut optional = Rows { are_none: false, has_from: true, source: Source::Rows };
                let is_inner = (*join).jointype == JOIN_INNER;
                self.from_item(
                    query,
                    left,
                    if is_inner || (*join).jointype == JOIN_LEFT { rows } else { &mut optional },
                );
                self.from_item(
                    query,
                    right,
                    if is_inner || (*join).jointype == JOIN_RIGHT { rows } else { &mut optional },
                );
                if !(*join).quals.is_null() {
                    let matches = self.truth((*join).quals);
                    rows.are_none |= is_inner && matches != Some(true);
                }
                rows.source = rows.source.max(optional.source);
                return;
            }
            let number = (*(item as *mut pg_sys::RangeTblRef)).rtindex as usize;
            let entry = nodes((*query).rtable)[number - 1] as *mut pg_sys::RangeTblEntry;
            rows.source = rows.source.max(match (*entry).rtekind {
                pg_sys::RTEKind::RTE_RELATION if !self.facts.guarded_relations.contains(&(*entry).relid) => {
                    Source::Rows
                }
                pg_sys::RTEKind::RTE_RELATION => Source::Hidden,
                pg_sys::RTEKind::RTE_SUBQUERY => {
                    let inner = self.rows((*entry).subquery);
                    rows.are_none |= inner.are_none;
                    inner.source
                }
                pg_sys::RTEKind::RTE_FUNCTION => nodes((*entry).functions)
                    .into_iter()
                    .map(|function| self.source((*(function as *mut pg_sys::RangeTblFunction)).funcexpr))
                    .max()
                    .unwrap_or(Source::Rows),
                _ => Source::Hidden,
            });
        }
    }

    /// What an expression that is not looked into depends on.
    unsafe fn source(&self, node: *mut Node) -> Source {
        match unsafe { calls_others(node, std::ptr::null_mut()) } {
            true => Source::Hidden,
            false => Source::Rows,
        }
    }
}

/// What is known of the rows of a sub-select.
struct Rows {
    are_none: bool,
    has_from: bool,
    source: Source,
}

/// Whether functions that are not Postgres's own are called anywhere in an expression.
unsafe extern "C-unwind" fn calls_others(node: *mut Node, context: *mut c_void) -> bool {
    unsafe extern "C-unwind" fn is_other(function: Oid, _context: *mut c_void) -> bool {
        !is_builtin(function)
    }
    unsafe {
        !node.is_null()
            && (pg_sys::check_functions_in_node(node, Some(is_other), context) || walk(node, calls_others, context))
    }
}

/// Whether a row of the table makes Postgres evaluate, again, an expression over the readers that
/// `anon_auth.evaluate_once` would have evaluated once. To be called with a null context.
pub unsafe extern "C-unwind" fn repeats_itself(node: *mut Node, context: *mut c_void) -> bool {
    unsafe {
        if node.is_null() {
            return false;
        }
        match (*node).type_ {
            NodeTag::T_List | NodeTag::T_Query => {}
            NodeTag::T_SubLink => {
                let query = (*(node as *mut pg_sys::SubLink)).subselect as *mut Query;
                if (*(*query).jointree).fromlist.is_null() {
                    return false;
                }
            }
            _ if evaluate_once::is_worthwhile(node) => return true,
            _ => {}
        }
        walk(node, repeats_itself, context)
    }
}

unsafe fn walk(node: *mut Node, walker: Walker, context: *mut c_void) -> bool {
    unsafe {
        match (*node).type_ {
            NodeTag::T_Query => query_tree_walker(node.cast(), walker, context, 0),
            _ => expression_tree_walker(node, walker, context),
        }
    }
}

/// The elements of a list.
unsafe fn nodes(list: *mut pg_sys::List) -> Vec<*mut Node> {
    unsafe { PgList::<Node>::from_pg(list) }.iter_ptr().collect()
}

/// Whether a function, an operator or a type comes with Postgres.
fn is_builtin(object: Oid) -> bool {
    object.to_u32() < pg_sys::FirstNormalObjectId
}

unsafe fn constant(constant: *mut pg_sys::Const) -> Value {
    unsafe {
        let kind = (*constant).consttype;
        if (*constant).constisnull {
            return Value::Null;
        } else if kind == pg_sys::BOOLOID {
            return Value::Bool((*constant).constvalue.value() != 0);
        } else if !is_builtin(kind) {
            return Value::Any(Source::Rows);
        }
        let (mut output, mut is_variable) = (pg_sys::InvalidOid, false);
        pg_sys::getTypeOutputInfo(kind, &mut output, &mut is_variable);
        let text = pg_sys::OidOutputFunctionCall(output, (*constant).constvalue);
        cast(Value::Text(CStr::from_ptr(text).to_string_lossy().into_owned()), kind)
    }
}

fn cast(value: Value, to: Oid) -> Value {
    match to {
        pg_sys::BOOLOID => value.to_bool(),
        pg_sys::JSONOID | pg_sys::JSONBOID => value.to_json(),
        pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID | pg_sys::NAMEOID => value.to_text(),
        _ => value,
    }
}

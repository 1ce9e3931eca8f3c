//! Expressions of policies, evaluated without running anything: on the tree that Postgres stores, for a caller of whom
//! it is known whether it is a guest, and for rows that are not the caller's own.
//!
//! What is not known and decides (a column, an application's function) is an unknown truth value, an atom; whoever asks tries
//! both.

use super::value::{self, Source, Value};
use crate::evaluate_once;
use pgrx::pg_sys::{self, Node, NodeTag, Oid, Query};
use pgrx::{PgBox, PgList};
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
/// Nor are expressions looked into that are nested deeper than that, which would be more than the stack holds: one policy
/// must not be the end of the lint.
const MAX_LEVEL: u32 = 200;

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
    pub(super) facts: &'a Facts,
    pub(super) caller: Caller,
    /// A bit for each atom.
    assignment: u32,
    atoms: Vec<Atom>,
    /// Of the sub-selects around: the columns of the one that a comparison is with.
    pub(super) columns: Vec<Vec<Value>>,
    /// Of the CASEs around: the operand.
    operands: Vec<Value>,
    pub(super) depth: u32,
    /// Of expressions around.
    level: u32,
    /// Whether what is evaluated is the target list of a sub-select that finds no row.
    pub(super) has_no_rows: bool,
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
            level: 0,
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
            self.level += 1;
            let value = match self.level > MAX_LEVEL {
                true => Value::Any(Source::Hidden),
                false => self.examine(node),
            };
            self.level -= 1;
            match value {
                Value::Any(source) if pg_sys::exprType(node) == pg_sys::BOOLOID => {
                    Value::Bool(self.atom(node, source))
                }
                value => value,
            }
        }
    }

    pub(super) unsafe fn truth(&mut self, node: *mut Node) -> Option<bool> {
        unsafe { self.value(node) }.truth()
    }

    pub(super) unsafe fn values(&mut self, list: *mut pg_sys::List) -> Vec<Value> {
        unsafe { nodes(list).into_iter().map(|node| self.value(node)).collect() }
    }

    /// Whether this combination has an expression NULL since a column in it is.
    unsafe fn is_null_in_row(&mut self, node: *mut Node) -> bool {
        unsafe {
            if self.depth > 0 || !pg_sys::contain_var_clause(node) {
                return false;
            }
            let mut question = PgBox::<pg_sys::NullTest>::alloc_node(NodeTag::T_NullTest);
            question.arg = node.cast();
            question.nulltesttype = pg_sys::NullTestType::IS_NULL;
            self.atom(question.into_pg().cast(), Source::Rows)
        }
    }

    /// The truth value that this combination gives to `node`. Equal expressions have one; in a sub-select, the same
    /// column may be another table's.
    pub(super) unsafe fn atom(&mut self, node: *mut Node, source: Source) -> bool {
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
                    let mut found = Value::Null;
                    for argument in nodes((*(node as *mut pg_sys::CoalesceExpr)).args) {
                        let value = self.value(argument);
                        if found == Value::Null && value != Value::Null && !self.is_null_in_row(argument) {
                            found = value;
                        }
                    }
                    found
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

    /// What an expression that is not looked into depends on.
    pub(super) unsafe fn source(&self, node: *mut Node) -> Source {
        match unsafe { calls_others(node, std::ptr::null_mut()) } {
            true => Source::Hidden,
            false => Source::Rows,
        }
    }
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
pub(super) unsafe fn nodes(list: *mut pg_sys::List) -> Vec<*mut Node> {
    unsafe { PgList::<Node>::from_pg(list) }.iter_ptr().collect()
}

/// Whether a function, an operator or a type comes with Postgres.
pub(super) fn is_builtin(object: Oid) -> bool {
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

pub(super) fn cast(value: Value, to: Oid) -> Value {
    match to {
        pg_sys::BOOLOID => value.to_bool(),
        pg_sys::JSONOID | pg_sys::JSONBOID => value.to_json(),
        pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID | pg_sys::NAMEOID => value.to_text(),
        _ => value,
    }
}

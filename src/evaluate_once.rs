//! Expressions over the readers that are evaluated once per execution instead of once per row, behind
//! `anon_auth.evaluate_once`.
//!
//! People write `(select (auth.jwt()->>'is_anonymous')::boolean)` by hand to that end: a sub-select that depends on
//! nothing is an init plan, which runs at most once, when its value is first needed. Policies are part of a query
//! by the time it is planned, so a planner hook sees them, and writes the same.
//!
//! A call of a reader alone stays as it is: it costs as little as a constant, and Postgres estimates with its
//! value. An expression that may raise an error stays where Postgres does not wait until an init plan is needed:
//! for parallel workers, and for the second look at a row that somebody else has changed meanwhile.

use crate::{guc, readers};
use pgrx::pg_sys::{self, CmdType, Node, NodeTag, Oid, Query};
use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void};

// Not through pgrx: an error jumps over the frames of this file, which own nothing.
unsafe extern "C-unwind" {
    #[cfg_attr(not(feature = "pg15"), link_name = "expression_tree_walker_impl")]
    fn expression_tree_walker(node: *mut Node, walker: Walker, context: *mut c_void) -> bool;
    #[cfg_attr(not(feature = "pg15"), link_name = "expression_tree_mutator_impl")]
    fn expression_tree_mutator(node: *mut Node, mutator: Mutator, context: *mut c_void) -> *mut Node;
    #[cfg_attr(not(feature = "pg15"), link_name = "query_tree_mutator_impl")]
    fn query_tree_mutator(query: *mut Query, mutator: Mutator, context: *mut c_void, flags: c_int) -> *mut Query;
    fn check_functions_in_node(node: *mut Node, checker: Checker, context: *mut c_void) -> bool;
    fn copyObjectImpl(object: *const c_void) -> *mut c_void;
    fn exprType(expression: *const Node) -> Oid;
    fn fmgr_info(function: Oid, info: *mut pg_sys::FmgrInfo);
    fn func_parallel(function: Oid) -> c_char;
    fn func_volatile(function: Oid) -> c_char;
    fn get_func_leakproof(function: Oid) -> bool;
    fn get_func_namespace(function: Oid) -> Oid;
    fn get_func_retset(function: Oid) -> bool;
    fn get_namespace_oid(name: *const c_char, missing_ok: bool) -> Oid;
    fn get_typtype(r#type: Oid) -> c_char;
    fn lappend(list: *mut pg_sys::List, item: *mut c_void) -> *mut pg_sys::List;
    fn makeFromExpr(from: *mut pg_sys::List, condition: *mut Node) -> *mut pg_sys::FromExpr;
    fn makeTargetEntry(value: *mut Node, number: i16, name: *mut c_char, junk: bool) -> *mut pg_sys::TargetEntry;
    fn palloc0(size: usize) -> *mut c_void;
    fn standard_planner(
        query: *mut Query,
        text: *const c_char,
        options: c_int,
        parameters: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
}

type Walker = unsafe extern "C-unwind" fn(*mut Node, *mut c_void) -> bool;
type Mutator = unsafe extern "C-unwind" fn(*mut Node, *mut c_void) -> *mut Node;
type Checker = unsafe extern "C-unwind" fn(Oid, *mut c_void) -> bool;

thread_local! {
    static NEXT_HOOK: Cell<pg_sys::planner_hook_type> = const { Cell::new(None) };
}

/// Installs the hook.
pub fn install_hook() {
    unsafe {
        NEXT_HOOK.set(pg_sys::planner_hook);
        pg_sys::planner_hook = Some(plan);
    }
}

unsafe extern "C-unwind" fn plan(
    query: *mut Query,
    text: *const c_char,
    options: c_int,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    unsafe {
        let next = NEXT_HOOK.get().unwrap_or(standard_planner);
        if !guc::evaluate_once() {
            return next(query, text, options, parameters);
        }
        let (rewritten, may_raise) = rewritten(query, true);
        if !may_raise {
            return next(rewritten, text, options, parameters);
        }
        // The planner changes what it is given, and the two share parts.
        let plan = next(copyObjectImpl(rewritten.cast()).cast(), text, options, parameters);
        if !(*plan).parallelModeNeeded {
            return plan;
        }
        // Before it starts workers, Postgres evaluates every init plan that they may need.
        next(self::rewritten(query, false).0, text, options, parameters)
    }
}

/// What is being rewritten.
struct Rewriting {
    /// Whether expressions of the query at hand are replaced.
    replaces: bool,
    /// Whether those that may raise an error are, too.
    replaces_raising: bool,
    /// Whether the query at hand is the whole statement, or a sub-select in an expression.
    in_expression: bool,
    /// Whether an expression of the query at hand was replaced.
    has_replaced: bool,
    /// Whether one was at any level.
    has_replaced_any: bool,
    /// Whether one that may raise an error was.
    has_replaced_raising: bool,
}

/// The query with its expressions replaced, and whether one of them may raise an error. The query itself stays
/// as it is, but may share parts with the result; it is the result if nothing is to be replaced.
unsafe fn rewritten(query: *mut Query, replaces_raising: bool) -> (*mut Query, bool) {
    let mut state = Rewriting {
        replaces: false,
        replaces_raising,
        in_expression: true,
        has_replaced: false,
        has_replaced_any: false,
        has_replaced_raising: false,
    };
    let result = unsafe { rewrite_query(query, &raw mut state) };
    (if state.has_replaced_any { result } else { query }, state.has_replaced_raising)
}

unsafe fn rewrite_query(query: *mut Query, state: *mut Rewriting) -> *mut Query {
    unsafe {
        let Rewriting { replaces, replaces_raising, in_expression, has_replaced, .. } = *state;
        let command = (*query).commandType;
        let (is_select, is_insert) = (command == CmdType::CMD_SELECT, command == CmdType::CMD_INSERT);
        // Without FROM everything is evaluated once as it is. And PL/pgSQL evaluates a SELECT of that kind itself,
        // which it cannot if there is an init plan. A sub-select in FROM, however, is merged into its query.
        let has_from = !(*(*query).jointree).fromlist.is_null();
        (*state).replaces = has_from || is_select && !in_expression;
        // A row that somebody else has changed meanwhile is looked at again with every init plan evaluated.
        let looks_again = !(is_select || is_insert) || !(*query).rowMarks.is_null();
        (*state).replaces_raising = replaces_raising && !looks_again;
        (*state).in_expression = false;
        (*state).has_replaced = false;

        let result = query_tree_mutator(query, rewrite, state.cast(), 0);
        (*result).hasSubLinks |= (*state).has_replaced;
        if !(*query).groupClause.is_null() || !(*query).groupingSets.is_null() {
            // Before version 18, Postgres finds what is grouped by by comparing expressions, and two sub-selects
            // are never equal.
            (*result).targetList = (*query).targetList;
            (*result).havingQual = (*query).havingQual;
        }
        // Evaluated once, and estimated with.
        (*result).limitOffset = (*query).limitOffset;
        (*result).limitCount = (*query).limitCount;
        (*result).windowClause = (*query).windowClause;

        (*state).replaces = replaces;
        (*state).replaces_raising = replaces_raising;
        (*state).in_expression = in_expression;
        (*state).has_replaced = has_replaced;
        result
    }
}

unsafe extern "C-unwind" fn rewrite(node: *mut Node, context: *mut c_void) -> *mut Node {
    unsafe {
        if node.is_null() {
            return node;
        }
        let state = context as *mut Rewriting;
        match (*node).type_ {
            NodeTag::T_Query => return rewrite_query(node.cast(), state).cast(),
            // Functions in FROM are called once, and not inlined if there is a sub-select in an argument.
            NodeTag::T_RangeTblFunction | NodeTag::T_TableFunc | NodeTag::T_TableSampleClause => return node,
            // The rows of VALUES, each evaluated once.
            NodeTag::T_List if is_list_of_lists(node.cast()) => return node,
            NodeTag::T_List => {}
            NodeTag::T_SubLink => {
                let outer = std::mem::replace(&mut (*state).in_expression, true);
                let result = expression_tree_mutator(node, rewrite, context);
                (*state).in_expression = outer;
                return result;
            }
            _ if (*state).replaces => {
                let found = Expression::examined(node);
                if found.is_worthwhile && (!found.may_raise || (*state).replaces_raising) {
                    (*state).has_replaced = true;
                    (*state).has_replaced_any = true;
                    (*state).has_replaced_raising |= found.may_raise;
                    return sub_select(node);
                }
            }
            _ => {}
        }
        expression_tree_mutator(node, rewrite, context)
    }
}

unsafe fn is_list_of_lists(list: *mut pg_sys::List) -> bool {
    unsafe {
        let first = (*(*list).elements).ptr_value as *mut Node;
        !first.is_null() && (*first).type_ == NodeTag::T_List
    }
}

/// Whether an expression could be replaced, and is more than the call of a reader.
///
/// # Safety
/// `node` is an expression, or any other node but a list.
pub unsafe fn is_worthwhile(node: *mut Node) -> bool {
    unsafe { Expression::examined(node).is_worthwhile }
}

/// What there is to know of an expression.
struct Expression {
    /// It calls a reader.
    reads_claims: bool,
    /// It does more than call readers and test or pass on what they return.
    does_more: bool,
    may_raise: bool,
    /// Placeholders for the operand of a CASE, or the elements of an array, that are inside the expression.
    placeholders: u32,
    /// It can be replaced and is worth it.
    is_worthwhile: bool,
}

impl Expression {
    unsafe fn examined(node: *mut Node) -> Self {
        let mut found =
            Self { reads_claims: false, does_more: false, may_raise: false, placeholders: 0, is_worthwhile: false };
        unsafe {
            let is_replaceable = !examine(node, (&raw mut found).cast());
            found.is_worthwhile = is_replaceable
                && found.reads_claims
                && found.does_more
                // Such as a record, whose columns only its expression tells.
                && get_typtype(exprType(node)) as u8 != pg_sys::TYPTYPE_PSEUDO;
        }
        found
    }
}

/// Notes what there is in an expression; true, to end the search, if it cannot be replaced: it depends on a row,
/// or on more than the claims, or its value may differ from one evaluation to the next.
unsafe extern "C-unwind" fn examine(node: *mut Node, context: *mut c_void) -> bool {
    use NodeTag::*;
    unsafe {
        if node.is_null() {
            return false;
        }
        let found = context as *mut Expression;
        let is_known = match (*node).type_ {
            T_List | T_Const | T_RelabelType | T_CollateExpr | T_NullTest | T_BooleanTest | T_BoolExpr
            | T_CoalesceExpr | T_SQLValueFunction => true,
            T_FuncExpr | T_OpExpr | T_DistinctExpr | T_NullIfExpr | T_ScalarArrayOpExpr | T_CoerceViaIO => true,
            T_CaseExpr => true,
            T_CaseTestExpr => (*found).placeholders > 0,
            T_Param => (*(node as *mut pg_sys::Param)).paramkind == pg_sys::ParamKind::PARAM_EXTERN,
            T_ArrayExpr | T_ArrayCoerceExpr | T_MinMaxExpr | T_CoerceToDomain => {
                (*found).does_more = true;
                (*found).may_raise = true;
                true
            }
            T_SubscriptingRef => {
                (*found).does_more = true;
                (*found).may_raise = true;
                (*(node as *mut pg_sys::SubscriptingRef)).refassgnexpr.is_null()
            }
            _ => false,
        };
        if !is_known || check_functions_in_node(node, examine_function, context) {
            return true;
        }
        let holds_placeholders = matches!((*node).type_, T_CaseExpr | T_ArrayCoerceExpr) as u32;
        (*found).placeholders += holds_placeholders;
        let ends = expression_tree_walker(node, examine, context);
        (*found).placeholders -= holds_placeholders;
        ends
    }
}

/// Functions on `jsonb` that return NULL where there is nothing to return.
const NEVER_RAISE: [u32; 8] = [
    pg_sys::F_JSONB_OBJECT_FIELD,
    pg_sys::F_JSONB_OBJECT_FIELD_TEXT,
    pg_sys::F_JSONB_ARRAY_ELEMENT,
    pg_sys::F_JSONB_ARRAY_ELEMENT_TEXT,
    pg_sys::F_JSONB_EXTRACT_PATH,
    pg_sys::F_JSONB_EXTRACT_PATH_TEXT,
    pg_sys::F_JSONB_EXISTS,
    pg_sys::F_JSONB_CONTAINS,
];

unsafe extern "C-unwind" fn examine_function(function: Oid, context: *mut c_void) -> bool {
    unsafe {
        let found = context as *mut Expression;
        if is_reader(function) {
            (*found).reads_claims = true;
            return false;
        }
        (*found).does_more = true;
        // What is leakproof raises no error that depends on its arguments.
        (*found).may_raise |= !NEVER_RAISE.contains(&function.to_u32()) && !get_func_leakproof(function);
        func_volatile(function) as u8 == pg_sys::PROVOLATILE_VOLATILE
            || func_parallel(function) as u8 == pg_sys::PROPARALLEL_UNSAFE
            || get_func_retset(function)
    }
}

/// Whether a function is a reader of this extension, by the code that it runs.
unsafe fn is_reader(function: Oid) -> bool {
    unsafe {
        if get_func_namespace(function) != get_namespace_oid(c"auth".as_ptr(), true) {
            return false;
        }
        let mut info = pg_sys::FmgrInfo::default();
        fmgr_info(function, &mut info);
        info.fn_addr.is_some_and(|code| readers::ALL.iter().any(|reader| *reader as usize == code as usize))
    }
}

/// `(select expression)`
unsafe fn sub_select(expression: *mut Node) -> *mut Node {
    unsafe {
        let query = new_node::<Query>(NodeTag::T_Query);
        (*query).commandType = CmdType::CMD_SELECT;
        (*query).canSetTag = true;
        (*query).jointree = makeFromExpr(std::ptr::null_mut(), std::ptr::null_mut());
        let value = makeTargetEntry(expression, 1, std::ptr::null_mut(), false);
        (*query).targetList = lappend(std::ptr::null_mut(), value.cast());
        (*query).stmt_location = -1;
        let link = new_node::<pg_sys::SubLink>(NodeTag::T_SubLink);
        (*link).subLinkType = pg_sys::SubLinkType::EXPR_SUBLINK;
        (*link).subselect = query.cast();
        (*link).location = -1;
        link.cast()
    }
}

unsafe fn new_node<T>(tag: NodeTag) -> *mut T {
    unsafe {
        let node = palloc0(size_of::<T>()) as *mut Node;
        (*node).type_ = tag;
        node.cast()
    }
}

//! Sub-selects in an expression: whether they find a row for somebody who has none of its own.

use super::expression::{Evaluation, nodes};
use super::value::{Source, Value};
use pgrx::pg_sys::{self, Node, NodeTag, Query};

/// What is known of the rows of a sub-select.
struct Rows {
    are_none: bool,
    has_from: bool,
    source: Source,
}

impl Evaluation<'_> {
    pub(super) unsafe fn sub_select(&mut self, link: *mut pg_sys::SubLink) -> Value {
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
                self.look_at_item(query, item, &mut rows);
            }
            for condition in [(*from).quals, (*query).havingQual] {
                rows.are_none |= !condition.is_null() && self.truth(condition) != Some(true);
            }
            rows
        }
    }

    unsafe fn look_at_item(&mut self, query: *mut Query, item: *mut Node, rows: &mut Rows) {
        use pg_sys::JoinType::*;
        unsafe {
            if (*item).type_ == NodeTag::T_JoinExpr {
                let join = item as *mut pg_sys::JoinExpr;
                let (left, right) = ((*join).larg, (*join).rarg);
                let mut optional = Rows { are_none: false, has_from: true, source: Source::Rows };
                let is_inner = (*join).jointype == JOIN_INNER;
                self.look_at_item(
                    query,
                    left,
                    if is_inner || (*join).jointype == JOIN_LEFT { rows } else { &mut optional },
                );
                self.look_at_item(
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
}

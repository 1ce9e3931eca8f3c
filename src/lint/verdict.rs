//! Whether policies let guests in: their expressions are evaluated for a guest, and for a permanent user, under every
//! combination of what is not known.

use super::expression::{Caller, Evaluation, Facts, MAX_ATOMS};
use super::value;
use pgrx::pg_sys::Node;
use std::collections::BTreeMap;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Guests see or write rows of their own at the most, or less than permanent users do.
    Closed,
    /// Guests get in as permanent users do.
    Open,
    /// Guests get in, and permanent users do not.
    GuestsOnly,
    /// It depends on what only running it would tell.
    Unclear,
}

/// # Arguments
/// * `conditions` – expressions all of which have to be true
///
/// # Safety
/// They are expression trees as Postgres stores them.
pub unsafe fn judge(facts: &Facts, conditions: &[*mut Node]) -> Verdict {
    let mut evaluation = Evaluation::new(facts);
    // For each combination: whether a guest and a permanent user get in.
    let mut admitted = Vec::new();
    let mut assignment = 0;
    // More unknowns may come up on the way.
    while assignment < 1_u32 << evaluation.unknowns().min(MAX_ATOMS) {
        let mut admits = |caller| {
            evaluation.begin(caller, assignment);
            value::and(conditions.iter().map(|condition| unsafe { evaluation.value(*condition) }.truth()))
                == Some(true)
        };
        admitted.push((admits(Caller::Guest), admits(Caller::Permanent)));
        if evaluation.unknowns() > MAX_ATOMS {
            return Verdict::Unclear;
        }
        assignment += 1;
        pgrx::check_for_interrupts!();
    }
    // By what is hidden: whether the rest can be such that a guest gets in.
    let hidden = evaluation.hidden();
    let mut admits_guest = BTreeMap::new();
    for (assignment, (guest, _)) in admitted.iter().enumerate() {
        *admits_guest.entry(assignment as u32 & hidden).or_insert(false) |= guest;
    }
    let is_guest_status_checked = admitted.iter().any(|(guest, permanent)| *permanent && !guest);
    if is_guest_status_checked || !admits_guest.values().any(|admits| *admits) {
        Verdict::Closed
    } else if !admits_guest.values().all(|admits| *admits) {
        Verdict::Unclear
    } else if admitted.iter().any(|(_, permanent)| *permanent) {
        Verdict::Open
    } else {
        Verdict::GuestsOnly
    }
}

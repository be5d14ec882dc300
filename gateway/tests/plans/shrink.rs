//! Makes a failing plan small: whatever it fails without is left out.

use crate::{
    device::Breach,
    plan::{Plan, Step},
};

/// The smallest plan found that still fails in the same way, and how it fails.
pub(crate) fn shrink(
    plan: &Plan,
    found: &Breach,
    mut execute: impl FnMut(&Plan) -> Result<(), Breach>,
) -> (Plan, Breach) {
    let mut best = (plan.clone(), found.clone());
    let mut fails = |plan: Plan, best: &mut (Plan, Breach)| match execute(&plan) {
        Err(again) if again.kind == best.1.kind => {
            *best = (plan, again);
            true
        }
        _ => false,
    };
    let mut size = best.0.steps.len() / 2;
    while size > 0 {
        let mut place = 0;
        let mut smaller = false;
        while place < best.0.steps.len() {
            let mut plan = best.0.clone();
            plan.steps.drain(place..(place + size).min(plan.steps.len()));
            if fails(plan, &mut best) {
                smaller = true;
            } else {
                place += size;
            }
        }
        // As long as single steps can go, others may be able to go after them.
        if size > 1 || !smaller {
            size /= 2;
        }
    }
    while best.0.conversations > 1 {
        let plan = Plan { conversations: best.0.conversations - 1, ..best.0.clone() };
        if !fails(plan, &mut best) {
            break;
        }
    }
    while best.0.people > 1 {
        let plan = Plan { people: best.0.people - 1, ..best.0.clone() };
        if !fails(plan, &mut best) {
            break;
        }
    }
    for place in 0..best.0.steps.len() {
        let mut plan = best.0.clone();
        let simpler = match &mut plan.steps[place] {
            Step::Send { count, heavy, .. } if *count > 1 && !*heavy => {
                *count = 1;
                true
            }
            Step::Release { .. } => {
                plan.steps[place] = Step::Settle;
                true
            }
            _ => false,
        };
        if simpler {
            fails(plan, &mut best);
        }
    }
    best
}

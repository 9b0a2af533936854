//! Generations of data: who is newer after a separation, and how the identifiers move.
//!
//! Each disk carries the identifier of its data's generation, that of the generation a peer had when our bitmap for it
//! began to count, and some it once had. Two questions are answered here, both from what the two sides exchanged and
//! nothing else, so that both come to mirrored answers:
//!
//! - [`compare`]: a ladder of rules over the two tuples → a [`Verdict`], the strategy *and the rule that fired*;
//! - [`decide`]: the verdict, the disks' states, split-brain policies and the operator's word → a [`Decision`].
//!
//! `rotation` is the other half: what each event does to the identifiers.
//!
//! Not here: when the questions are asked, writing the identifiers to disk, sending them.

mod compare;
mod decide;
mod policy;
mod rotation;
mod rules;
#[cfg(test)]
mod tests_compare;
#[cfg(test)]
mod tests_decide;
#[cfg(test)]
mod tests_policies;
#[cfg(test)]
mod tests_rotation;
mod tuple;

pub use self::compare::compare;
pub use self::decide::{Decision, Outcome, RefuseReason, Side, decide};
pub use self::policy::{AfterSplitBrain0, AfterSplitBrain1, AfterSplitBrain2, Policies, RoleConflict};
pub use self::rotation::{
    HistoryRules, adopt_skip_initial_sync, become_primary, become_secondary, follow_source_start, new_current,
    new_current_by_admin, push, resync_finished_source, resync_finished_target, resync_may_have_ended,
    resync_started_source, resync_started_target, skip_initial_sync, tuple_of,
};
pub use self::rules::{Repair, Rule, Strategy, Verdict};
pub use self::tuple::{Context, Tuple};

//! From a verdict to what the volume does: disk states overrule identifiers, policies and the operator solve a split
//! brain, and some outcomes are refused.
//!
//! The direction follows from exchanged facts only, so both sides find opposite ones. A refusal may be one side's alone
//! (it concerns its own disk or role): the other then sees the connection end.

use std::fmt;

use super::policy::{Policies, RoleConflict};
use super::rules::{Rule, Strategy, Verdict};
use super::tuple::{Context, Tuple};
use crate::model::state::{DiskState, Role};

/// One of the two nodes, as seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This node.
    Own,
    /// The other.
    Peer,
}

impl Side {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Own => Self::Peer,
            Self::Peer => Self::Own,
        }
    }
}

/// What the volume does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Replicate at once. Bits that are set stay.
    NoSync,
    /// Resync from here; `full`: set all bits first.
    Source {
        /// Everything is copied.
        full: bool,
    },
    /// Resync from the peer; `full`: set all bits first.
    Target {
        /// Everything is copied.
        full: bool,
    },
    /// End the connection and stay alone.
    Refuse(RefuseReason),
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefuseReason {
    /// The two disks have nothing in common.
    UnrelatedData,
    /// Both sides changed data and nothing decides whose changes are lost.
    SplitBrain,
    /// Both sides must speak at least this protocol version.
    NeedsProtocol(u32),
    /// Both sides must speak this version and have these features.
    NeedsFeature {
        /// The protocol version.
        version: u32,
        /// The feature bits.
        features: u32,
    },
    /// We would be the source, but our disk has no consistent data.
    SourceInconsistent,
    /// We would be the target, but are Primary with usable data.
    PrimaryWouldBecomeTarget,
    /// One side only wanted to know.
    DryRun,
}

impl fmt::Display for RefuseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnrelatedData => f.write_str("Unrelated data, aborting!"),
            Self::DryRun => f.write_str("dry-run connect, dropping connection"),
            Self::SplitBrain => f.write_str("Split-Brain detected but unresolved, dropping connection!"),
            Self::NeedsProtocol(version) => {
                write!(f, "To resolve this both sides have to support at least protocol {version}")
            }
            Self::NeedsFeature { version, features } => {
                write!(f, "To resolve this both sides have to support at least protocol {version}")?;
                write!(f, " and feature flags 0x{features:x}")
            }
            Self::SourceInconsistent => f.write_str("I shall become SyncSource, but I am inconsistent!"),
            Self::PrimaryWouldBecomeTarget => f.write_str("I shall become SyncTarget, but I am primary!"),
        }
    }
}

/// What decided, besides the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// The rule alone.
    Rule,
    /// One disk is Inconsistent, the other is not.
    DiskStates,
    /// An after-split-brain policy, with so many Primaries.
    Policy(usize),
    /// The operator gave up one side's changes.
    DiscardMyData,
}

/// What the volume does, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What it does.
    pub outcome: Outcome,
    /// What the identifiers said; its repair is to be made unless the outcome is a refusal.
    pub verdict: Verdict,
    /// A split brain was found, solved or not: run the handler `initial-split-brain`.
    pub split_brain: bool,
    /// Become Secondary before becoming target; if that fails, run `pri-lost-after-sb` and refuse as a split brain.
    pub demote_first: bool,
    reason: Reason,
}

impl Decision {
    /// The rule that fired.
    #[must_use]
    pub fn rule(&self) -> Rule {
        self.verdict.rule
    }

    /// The line for the log, in words that users of DRBD look for.
    #[must_use]
    pub fn sentence(&self) -> String {
        let (from, role) = match self.outcome {
            Outcome::Refuse(reason) => return reason.to_string(),
            Outcome::NoSync => return format!("No resync ({})", self.verdict.rule),
            Outcome::Source { .. } => ("this", "source"),
            Outcome::Target { .. } => ("peer", "target"),
        };
        match self.reason {
            Reason::Rule => format!("Becoming sync {role} ({})", self.verdict.rule),
            Reason::DiskStates => format!("Becoming sync {role} due to disk states."),
            Reason::Policy(primaries) => {
                format!("Split-Brain detected, {primaries} primaries, automatically solved. Sync from {from} node")
            }
            Reason::DiscardMyData => format!("Split-Brain detected, manually solved. Sync from {from} node"),
        }
    }

    /// Whether the peer may have come to `other` while we came to this: opposite directions of the same extent, the
    /// same refusal, or a refusal of one side alone.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        use Outcome::{NoSync, Refuse, Source, Target};
        use RefuseReason::{PrimaryWouldBecomeTarget, SourceInconsistent};
        match (self.outcome, other.outcome) {
            (NoSync, NoSync) => true,
            (Source { full }, Target { full: other }) | (Target { full }, Source { full: other }) => full == other,
            (Refuse(SourceInconsistent), Target { .. } | Refuse(PrimaryWouldBecomeTarget))
            | (Target { .. } | Refuse(PrimaryWouldBecomeTarget), Refuse(SourceInconsistent))
            | (Refuse(PrimaryWouldBecomeTarget), Source { .. })
            | (Source { .. }, Refuse(PrimaryWouldBecomeTarget)) => true,
            (Refuse(SourceInconsistent | PrimaryWouldBecomeTarget), _) => false,
            (Refuse(own), Refuse(peer)) => own == peer,
            _ => false,
        }
    }
}

/// A direction on its way to a decision. `None`: no resync.
struct Course {
    source: Option<Side>,
    full: bool,
    reason: Reason,
    demote_first: bool,
}

/// Decides what follows from `verdict`, given both tuples and disk states (as announced, Negotiating included).
#[must_use]
pub fn decide(
    verdict: Verdict,
    own: (&Tuple, DiskState),
    peer: (&Tuple, DiskState),
    context: &Context,
    policies: &Policies,
) -> Decision {
    let settled = (own.0.settled(own.1), peer.0.settled(peer.1));
    let overridden = by_disk_states(verdict, settled);
    let is_split_brain = matches!(verdict.strategy, Strategy::SplitBrain | Strategy::SplitBrainRecoverable);
    let course = match refused_outright(verdict) {
        Some(reason) => Err(reason),
        None => overridden
            .or_else(|| by_identifiers(verdict))
            .or_else(|| by_policies(verdict, own.0, peer.0, context, policies))
            .or_else(|| by_discarding(verdict, own.0, peer.0))
            .ok_or(RefuseReason::SplitBrain),
    };
    let split_brain = is_split_brain && !matches!(&course, Ok(course) if course.reason == Reason::DiskStates);
    let (outcome, reason, demote_first) = match course {
        Err(reason) => (Outcome::Refuse(reason), Reason::Rule, false),
        Ok(course) => {
            let outcome = outcome_of(&course, own.1, settled.0, context, policies);
            (outcome, course.reason, course.demote_first)
        }
    };
    Decision { outcome, verdict, split_brain, demote_first, reason }
}

fn refused_outright(verdict: Verdict) -> Option<RefuseReason> {
    match verdict.strategy {
        Strategy::Unrelated => Some(RefuseReason::UnrelatedData),
        Strategy::NeedsProtocol(version) => Some(RefuseReason::NeedsProtocol(version)),
        Strategy::NeedsFeature { version, features } => Some(RefuseReason::NeedsFeature { version, features }),
        _ => None,
    }
}

/// An Inconsistent disk cannot be source while the other can, whatever the identifiers say.
fn by_disk_states(verdict: Verdict, (own, peer): (DiskState, DiskState)) -> Option<Course> {
    let source = match (own, peer) {
        (DiskState::Inconsistent, peer) if peer > DiskState::Inconsistent => Side::Peer,
        (own, DiskState::Inconsistent) if own > DiskState::Inconsistent => Side::Own,
        _ => return None,
    };
    let full = matches!(verdict.strategy, Strategy::SplitBrain | Strategy::SourceFull | Strategy::TargetFull);
    Some(Course { source: Some(source), full, reason: Reason::DiskStates, demote_first: false })
}

fn by_identifiers(verdict: Verdict) -> Option<Course> {
    let (source, full) = match verdict.strategy {
        Strategy::NoSync => (None, false),
        Strategy::SourceBitmap => (Some(Side::Own), false),
        Strategy::SourceFull => (Some(Side::Own), true),
        Strategy::TargetBitmap => (Some(Side::Peer), false),
        Strategy::TargetFull => (Some(Side::Peer), true),
        _ => return None,
    };
    Some(Course { source, full, reason: Reason::Rule, demote_first: false })
}

fn by_policies(verdict: Verdict, own: &Tuple, peer: &Tuple, context: &Context, policies: &Policies) -> Option<Course> {
    let full = verdict.strategy == Strategy::SplitBrain;
    if full && !policies.always {
        return None;
    }
    let solved = policies.solve(own, peer, context)?;
    let reason = Reason::Policy(context.primaries());
    Some(Course { source: Some(solved.source), full, reason, demote_first: solved.demote_first })
}

/// The operator gave up the changes of exactly one side. What the bitmaps name is copied where both count from the same
/// generation; otherwise they prove nothing and everything is copied (as DRBD 9 does; 8.4 trusts them).
fn by_discarding(verdict: Verdict, own: &Tuple, peer: &Tuple) -> Option<Course> {
    let source = match (own.discard_my_data, peer.discard_my_data) {
        (true, false) => Side::Peer,
        (false, true) => Side::Own,
        _ => return None,
    };
    let full = verdict.strategy == Strategy::SplitBrain;
    Some(Course { source: Some(source), full, reason: Reason::DiscardMyData, demote_first: false })
}

/// Turns a direction into an outcome, unless our own disk or role stands against it. `announced` is the disk's state
/// now, `settled` what it is going to be.
fn outcome_of(
    course: &Course,
    announced: DiskState,
    settled: DiskState,
    context: &Context,
    policies: &Policies,
) -> Outcome {
    let full = course.full;
    let has_users = context.role == Role::Primary && announced >= DiskState::Consistent && !course.demote_first;
    match course.source {
        None => Outcome::NoSync,
        Some(Side::Own) if settled <= DiskState::Inconsistent => Outcome::Refuse(RefuseReason::SourceInconsistent),
        Some(Side::Own) => Outcome::Source { full },
        Some(Side::Peer) if has_users && policies.role_conflict != RoleConflict::Violently => {
            Outcome::Refuse(RefuseReason::PrimaryWouldBecomeTarget)
        }
        Some(Side::Peer) => Outcome::Target { full },
    }
}

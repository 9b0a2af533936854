//! Automatic answers to a split brain, and to a Primary that would become target; all of them "no answer" by default.

use super::decide::Side;
use super::tuple::{Context, Tuple};
use crate::model::state::Role;

/// `after-sb-0pri`: nobody is Primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterSplitBrain0 {
    /// No answer.
    #[default]
    Disconnect,
    /// The side that was Primary when the link broke keeps its data.
    DiscardYoungerPrimary,
    /// The side that became Primary later keeps its data.
    DiscardOlderPrimary,
    /// A side without changes becomes target.
    DiscardZeroChanges,
    /// The side with fewer changed blocks becomes target.
    DiscardLeastChanges,
    /// We become target.
    DiscardLocal,
    /// The peer becomes target.
    DiscardRemote,
}

/// `after-sb-1pri`: one side is Primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterSplitBrain1 {
    /// No answer.
    #[default]
    Disconnect,
    /// The answer for no Primary, if it discards the Secondary's changes.
    Consensus,
    /// The Primary keeps its data.
    DiscardSecondary,
    /// The answer for no Primary; a Primary that loses is demoted first.
    CallPriLost,
    /// The answer for no Primary, even if the Primary's data changes under its users.
    Violently,
}

/// `after-sb-2pri`: both are Primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterSplitBrain2 {
    /// No answer.
    #[default]
    Disconnect,
    /// The answer for no Primary; the Primary that loses is demoted first.
    CallPriLost,
    /// The answer for no Primary, even if data changes under its users.
    Violently,
}

/// `rr-conflict`: a Primary with usable data would become target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoleConflict {
    /// Refuse.
    #[default]
    Disconnect,
    /// Run the handler `pri-lost`, and refuse.
    CallPriLost,
    /// Do it; data changes under its users.
    Violently,
    /// Refuse, and look for the peer again: the roles may be others by then.
    RetryConnect,
}

/// What the operator configured for these cases; both sides have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// Split brain, no Primary.
    pub none: AfterSplitBrain0,
    /// Split brain, one Primary.
    pub one: AfterSplitBrain1,
    /// Split brain, two Primaries.
    pub two: AfterSplitBrain2,
    /// `always-asbp`: ask the policies even where the bitmaps do not name all that differs.
    pub always: bool,
    /// A Primary would become target.
    pub role_conflict: RoleConflict,
}

/// A policy's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Solved {
    /// Where the data comes from.
    pub(super) source: Side,
    /// We are the Primary that loses: it must be demoted first, and if that fails there is no answer.
    pub(super) demote_first: bool,
}

impl Policies {
    /// What the policies say about this split brain, if anything.
    pub(super) fn solve(&self, own: &Tuple, peer: &Tuple, context: &Context) -> Option<Solved> {
        let plain = |source| Solved { source, demote_first: false };
        let polite = |source| Solved { source, demote_first: source == Side::Peer && context.role == Role::Primary };
        let as_none = || self.none.source(own, peer, context.resolve);
        let primary = if context.role == Role::Primary { Side::Own } else { Side::Peer };
        match context.primaries() {
            0 => as_none().map(plain),
            1 => match self.one {
                AfterSplitBrain1::Disconnect => None,
                AfterSplitBrain1::Consensus => as_none().filter(|&source| source == primary).map(plain),
                AfterSplitBrain1::DiscardSecondary => Some(plain(primary)),
                AfterSplitBrain1::CallPriLost => as_none().map(polite),
                AfterSplitBrain1::Violently => as_none().map(plain),
            },
            _ => match self.two {
                AfterSplitBrain2::Disconnect => None,
                AfterSplitBrain2::CallPriLost => as_none().map(polite),
                AfterSplitBrain2::Violently => as_none().map(plain),
            },
        }
    }
}

impl AfterSplitBrain0 {
    fn source(self, own: &Tuple, peer: &Tuple, resolve: bool) -> Option<Side> {
        // Bit 0 of the bitmap id tells who was Primary when the split happened.
        let earlier = match (own.bitmap.primary_flag(), peer.bitmap.primary_flag()) {
            (true, false) => Some(Side::Own),
            (false, true) => Some(Side::Peer),
            _ => None,
        };
        let (own_changes, peer_changes) = (own.changed_blocks, peer.changed_blocks);
        match self {
            Self::Disconnect => None,
            Self::DiscardLocal => Some(Side::Peer),
            Self::DiscardRemote => Some(Side::Own),
            Self::DiscardYoungerPrimary => earlier.or(Some(most_changes(own_changes, peer_changes, resolve))),
            Self::DiscardOlderPrimary => {
                earlier.map(Side::other).or(Some(most_changes(own_changes, peer_changes, resolve)))
            }
            Self::DiscardZeroChanges if own_changes != 0 && peer_changes != 0 => None,
            Self::DiscardZeroChanges | Self::DiscardLeastChanges => {
                Some(most_changes(own_changes, peer_changes, resolve))
            }
        }
    }
}

/// The side with more changed blocks; the one that resolves conflicts yields in a tie.
fn most_changes(own: u64, peer: u64, resolve: bool) -> Side {
    if own > peer || own == peer && !resolve { Side::Own } else { Side::Peer }
}

//! Names for the outcome of a comparison: strategy, rule, repair; with the numbers DRBD logs for them.

use std::fmt;

use super::rotation::{HistoryRules, push_unchecked};
use super::tuple::Tuple;
use crate::model::generation_id::{GenerationId, GenerationSet};

/// What the identifiers alone say about a resync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Nothing to do.
    NoSync,
    /// We are newer; the bitmaps name what differs.
    SourceBitmap,
    /// We are newer; everything may differ.
    SourceFull,
    /// The peer is newer; the bitmaps name what differs.
    TargetBitmap,
    /// The peer is newer; everything may differ.
    TargetFull,
    /// Both went on from the same generation: a policy may choose, the bitmaps name what differs.
    SplitBrainRecoverable,
    /// Both went on; only an operator (or `always-asbp`) may choose.
    SplitBrain,
    /// Nothing in common.
    Unrelated,
    /// The rule that would apply exists only from this protocol version on.
    NeedsProtocol(u32),
    /// The rule that would apply needs these features, which exist from that protocol version on.
    NeedsFeature {
        /// The protocol version.
        version: u32,
        /// The feature bits.
        features: u32,
    },
}

impl Strategy {
    /// The number in DRBD's log line `uuid_compare()=N by rule M`.
    #[must_use]
    pub fn number(self) -> i64 {
        match self {
            Self::NoSync => 0,
            Self::SourceBitmap => 1,
            Self::SourceFull => 2,
            Self::TargetBitmap => -1,
            Self::TargetFull => -2,
            Self::SplitBrainRecoverable => 100,
            Self::SplitBrain => -100,
            Self::Unrelated => -1000,
            Self::NeedsProtocol(version) => -1000 - i64::from(version),
            Self::NeedsFeature { version, features } => -(0x10000 + i64::from(version) + (i64::from(features) << 8)),
        }
    }

    /// What the peer must conclude when we conclude this.
    #[must_use]
    pub fn mirrored(self) -> Self {
        match self {
            Self::SourceBitmap => Self::TargetBitmap,
            Self::SourceFull => Self::TargetFull,
            Self::TargetBitmap => Self::SourceBitmap,
            Self::TargetFull => Self::SourceFull,
            both => both,
        }
    }
}

/// One row a rule: variant, number, name.
macro_rules! rules {
    ($($(#[$doc:meta])* $variant:ident $number:literal;)+) => {
        /// The rule that fired. `current`, `bitmap` and `history` are ours unless the peer's are named.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Rule { $($(#[$doc])* $variant,)+ }

        impl Rule {
            /// Every rule, in the order in which they are tried.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The number DRBD logs for the rule. Some share one.
            #[must_use]
            pub const fn number(self) -> u8 {
                match self { $(Self::$variant => $number,)+ }
            }

            /// The rule's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)+ }
            }
        }
    };
}

rules! {
    /// Both disks are fresh.
    JustCreatedBoth 10;
    /// Our disk is fresh.
    JustCreatedSelf 20;
    /// The peer's disk is fresh.
    JustCreatedPeer 30;
    /// Equal generations, only we have a bitmap id, and the peer's history shows that it finished: we missed the end.
    SourceMissedFinish 34;
    /// As 34, but the peer's history does not show it: the peer lost the id of the resync.
    TargetLostSyncId 36;
    /// Mirror of 34: the peer was source and missed the end.
    PeerMissedFinish 35;
    /// Mirror of 36.
    SelfLostSyncId 37;
    /// Equal generations, nobody crashed as Primary.
    EqualClean 40;
    /// Equal generations, somebody crashed as Primary, and somebody is Primary now.
    PresentPrimary 41;
    /// Equal generations, and somebody crashed as Primary: what was in flight there may differ.
    CrashedPrimary 40;
    /// Our current is the peer's bitmap id: the peer went on from where we are.
    BitmapPeer 50;
    /// As 50, but the peer's bitmap id is that of a resync whose beginning we missed. (DRBD finds it only while our current
    /// is also the youngest of the peer's history.)
    PeerStartedSync 51;
    /// Not one of DRBD's: our current is in the peer's history, and the peer's bitmap id is that of the resync whose end we
    /// reached: it counts from there, although the peer never heard of the end before it went on.
    PeerWentOn 52;
    /// Our current is in the peer's history.
    HistoryPeer 60;
    /// The peer's current is our bitmap id: we went on from where the peer is.
    BitmapSelf 70;
    /// As 70, but our bitmap id is that of a resync whose beginning the peer missed.
    SelfStartedSync 71;
    /// Mirror of 52.
    SelfWentOn 72;
    /// The peer's current is in our history.
    HistorySelf 80;
    /// Each side seems to descend from the other: no order of events makes such metadata. DRBD lets the first rule
    /// win, by which both become target; here it is a split brain.
    Contradiction 100;
    /// Both went on from the same generation.
    BitmapBoth 90;
    /// Not one of DRBD's: as 90, but the peer has named a resync (that was to solve it) whose beginning we missed.
    PeerStartedSolving 91;
    /// Mirror of 91.
    SelfStartedSolving 92;
    /// The histories have an entry in common (two empty ones count).
    HistoryBoth 100;
    /// Not one of DRBD's: as 100, but what they have in common is the bitmap id of one of them (or of both).
    AncestorBoth 101;
    /// No rule matched.
    NothingInCommon 100;
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.number())
    }
}

/// A lost packet that a rule found out about: what must be corrected before the resync (or its end) goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Rule 34: the resync we were source of is over. Our bitmap id moves into our history.
    OwnFinish,
    /// Rule 35: likewise at the peer; it corrects itself, we correct our copy of its tuple.
    PeerFinish,
    /// Rules 51 and 91: the peer's start of a resync never reached us; undo it in our copy of its tuple, as it does itself.
    /// Its bitmap counts from this generation.
    PeerStart(GenerationId),
    /// Rules 71 and 92: our start of a resync never reached the peer; undo it.
    OwnStart(GenerationId),
}

impl Repair {
    /// Makes the correction: in our set (entry `peer`), or in our copy of the peer's tuple.
    pub fn apply(self, set: &mut GenerationSet, peer: usize, rules: HistoryRules, peer_tuple: &mut Tuple) {
        match self {
            Self::OwnFinish => super::resync_finished_source(set, peer, rules),
            Self::OwnStart(parent) => undo_start(parent, &mut set.bitmap[peer], &mut set.history),
            Self::PeerStart(parent) => undo_start(parent, &mut peer_tuple.bitmap, &mut peer_tuple.history),
            Self::PeerFinish => {
                push_unchecked(&mut peer_tuple.history, peer_tuple.bitmap);
                peer_tuple.bitmap = GenerationId::NONE;
            }
        }
    }
}

/// Takes back what the source did at the start of a resync: the bitmap id becomes what it was, the history closes up. The
/// entry need not be the youngest, nor be there at all: the source may have gone on alone since.
fn undo_start(parent: GenerationId, bitmap: &mut GenerationId, history: &mut [GenerationId]) {
    let entry = history.iter().position(|id| id.same_as(parent));
    // A derived id has its parent's flag; before version 96 it is random, and the parent is there.
    let derived = bitmap.masked().wrapping_sub(parent.masked()).is_multiple_of(GenerationId::SYNC_OFFSET);
    let named = entry.filter(|_| !derived).map_or(*bitmap, |entry| history[entry]);
    *bitmap = parent.with_primary_flag(named.primary_flag());
    if let Some(entry) = entry {
        history[entry..].rotate_left(1);
        history[history.len() - 1] = GenerationId::NONE;
    }
}

/// What the identifiers say, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What is to be done.
    pub strategy: Strategy,
    /// The rule that fired.
    pub rule: Rule,
    /// What must be corrected first.
    pub repair: Option<Repair>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uuid_compare()={} by rule {}", self.strategy.number(), self.rule)
    }
}

//! The ladder of rules over two tuples. All comparisons ignore bit 0 (the Primary flag).
//!
//! ```text
//! fresh disks    10 20 30
//! equal current  34..37 an end of a resync was lost     40 41 a Primary crashed, or nothing happened
//! else           50 51 60 the peer is newer             70 71 80 we are newer: the same questions, sides exchanged
//!                90 91 92 100 101 both went on, or strangers
//! ```
//!
//! Each rung either asks something symmetric or is paired with its mirror, so `compare(a, b)` and `compare(b, a)` name
//! opposite directions for whatever 128 bytes are compared.

use super::rules::{Repair, Rule, Strategy, Verdict};
use super::tuple::{Context, Tuple};
use crate::model::generation_id::GenerationId;
use crate::model::state::Role;

/// Rules about lost packets at the two ends of a resync exist from this version on.
const LOST_PACKETS_VERSION: u32 = 91;
/// From this version on DRBD derives the resync's id from the source's bitmap id. We always do.
const DERIVED_SYNC_ID_VERSION: u32 = 96;
/// Resyncs named in a row that no superblock of the target has seen: the target writes it at each of them, so there are few.
const TRIES_MAX: u64 = 256;
/// What rule 41 needs: the version and the feature bit (WSAME) that tell that the peer has it.
const PRESENT_PRIMARY_NEEDS: Strategy = Strategy::NeedsFeature { version: 101, features: 4 };

/// Compares what we have with what the peer has.
#[must_use]
pub fn compare(own: &Tuple, peer: &Tuple, context: &Context) -> Verdict {
    if let Some(verdict) = compare_fresh(own, peer) {
        verdict
    } else if own.current.same_as(peer.current) {
        compare_equal(own, peer, context)
    } else {
        compare_different(own, peer, context)
    }
}

fn plain(strategy: Strategy, rule: Rule) -> Verdict {
    Verdict { strategy, rule, repair: None }
}

/// Rules about lost packets: the verdict, unless the agreed version is too old for them.
fn repaired(context: &Context, strategy: Strategy, rule: Rule, repair: Option<Repair>) -> Verdict {
    if context.version < LOST_PACKETS_VERSION {
        return plain(Strategy::NeedsProtocol(LOST_PACKETS_VERSION), rule);
    }
    Verdict { strategy, rule, repair }
}

fn compare_fresh(own: &Tuple, peer: &Tuple) -> Option<Verdict> {
    let is_fresh = |id: GenerationId| id.is_just_created() || id.is_none();
    // DRBD's rule 20 makes both sides target when both ids are 0, which no tool writes; they count as fresh here.
    let both = own.current.same_as(peer.current) && is_fresh(own.current);
    match (is_fresh(own.current), is_fresh(peer.current)) {
        (false, false) => None,
        _ if both => Some(plain(Strategy::NoSync, Rule::JustCreatedBoth)),
        (true, _) if !peer.current.is_just_created() => Some(plain(Strategy::TargetFull, Rule::JustCreatedSelf)),
        _ => Some(plain(Strategy::SourceFull, Rule::JustCreatedPeer)),
    }
}

fn compare_equal(own: &Tuple, peer: &Tuple, context: &Context) -> Verdict {
    match (own.bitmap.is_none(), peer.bitmap.is_none()) {
        (false, true) if missed_finish(own, peer) => {
            repaired(context, Strategy::SourceBitmap, Rule::SourceMissedFinish, Some(Repair::OwnFinish))
        }
        (false, true) => repaired(context, Strategy::SourceBitmap, Rule::TargetLostSyncId, None),
        (true, false) if missed_finish(peer, own) => {
            repaired(context, Strategy::TargetBitmap, Rule::PeerMissedFinish, Some(Repair::PeerFinish))
        }
        (true, false) => repaired(context, Strategy::TargetBitmap, Rule::SelfLostSyncId, None),
        _ => compare_crashes(own, peer, context),
    }
}

/// Whether the target's history shows that the resync with this source came to its end.
fn missed_finish(source: &Tuple, target: &Tuple) -> bool {
    source.bitmap.same_as(target.history[0]) && source.history[0].same_as(target.history[1])
}

fn compare_crashes(own: &Tuple, peer: &Tuple, context: &Context) -> Verdict {
    if !own.crashed_primary && !peer.crashed_primary {
        return plain(Strategy::NoSync, Rule::EqualClean);
    }
    if context.primaries() > 0 {
        let strategy = match (context.wsame, context.role, context.peer_role) {
            (false, ..) => PRESENT_PRIMARY_NEEDS,
            (_, Role::Primary, Role::Primary) => Strategy::SplitBrain,
            (_, Role::Primary, _) => Strategy::SourceBitmap,
            _ => Strategy::TargetBitmap,
        };
        return plain(strategy, Rule::PresentPrimary);
    }
    let is_source = match (own.crashed_primary, peer.crashed_primary) {
        (true, true) => !context.resolve,
        (own_crashed, _) => own_crashed,
    };
    plain(if is_source { Strategy::SourceBitmap } else { Strategy::TargetBitmap }, Rule::CrashedPrimary)
}

fn compare_different(own: &Tuple, peer: &Tuple, context: &Context) -> Verdict {
    match (descent(own, peer, context), descent(peer, own, context)) {
        (Some(_), Some(_)) => plain(Strategy::SplitBrain, Rule::Contradiction),
        (Some(Descent::Bitmap), _) => plain(Strategy::TargetBitmap, Rule::BitmapPeer),
        (Some(Descent::LostStart), _) => {
            repaired(context, Strategy::TargetBitmap, Rule::PeerStartedSync, Some(Repair::PeerStart(own.current)))
        }
        (Some(Descent::Finished), _) => plain(Strategy::TargetBitmap, Rule::PeerWentOn),
        (Some(Descent::History), _) => plain(Strategy::TargetFull, Rule::HistoryPeer),
        (_, Some(Descent::Bitmap)) => plain(Strategy::SourceBitmap, Rule::BitmapSelf),
        (_, Some(Descent::LostStart)) => {
            repaired(context, Strategy::SourceBitmap, Rule::SelfStartedSync, Some(Repair::OwnStart(peer.current)))
        }
        (_, Some(Descent::Finished)) => plain(Strategy::SourceBitmap, Rule::SelfWentOn),
        (_, Some(Descent::History)) => plain(Strategy::SourceFull, Rule::HistorySelf),
        (None, None) => compare_unordered(own, peer),
    }
}

/// How the younger side knows the older one's current generation.
enum Descent {
    /// It is the one its bitmap counts from.
    Bitmap,
    /// It is the one its bitmap counted from before a resync began of which the older side never heard.
    LostStart,
    /// It is one of those it once had, and its bitmap counts from the resync whose end the older side reached.
    Finished,
    /// It is one of those it once had.
    History,
}

/// Whether `younger` descends from `older`'s current generation, by the first rule that says so.
fn descent(older: &Tuple, younger: &Tuple, context: &Context) -> Option<Descent> {
    if older.current.same_as(younger.bitmap) {
        Some(Descent::Bitmap)
    } else if lost_start(older, younger, context) {
        Some(Descent::LostStart)
    } else if younger.history.iter().any(|id| id.same_as(older.current)) {
        let finished = !younger.bitmap.is_none() && younger.bitmap.same_as(older.history[0]);
        Some(if finished { Descent::Finished } else { Descent::History })
    } else {
        None
    }
}

fn lost_start(older: &Tuple, younger: &Tuple, context: &Context) -> bool {
    let random = context.version < DERIVED_SYNC_ID_VERSION
        && older.current.same_as(younger.history[0])
        && older.history[0].same_as(younger.history[1]);
    random || has_named_resync(younger, older.current)
}

/// Whether the bitmap id is that of a resync, and that resync's bits count from `parent`. The history may have lost `parent`:
/// a source that goes on alone remembers what it goes through. Each try derives its id from the one before; a target whose
/// disk is slow may have heard of several of which its disk, after a power loss, knows nothing.
fn has_named_resync(source: &Tuple, parent: GenerationId) -> bool {
    let tries = source.bitmap.masked().wrapping_sub(parent.masked());
    tries != 0 && tries.is_multiple_of(GenerationId::SYNC_OFFSET) && tries <= GenerationId::SYNC_OFFSET * TRIES_MAX
}

fn compare_unordered(own: &Tuple, peer: &Tuple) -> Verdict {
    if own.bitmap.same_as(peer.bitmap) && !own.bitmap.is_none() {
        return plain(Strategy::SplitBrainRecoverable, Rule::BitmapBoth);
    }
    // The resync that was to end a split brain: until its target has begun, the split brain is what it was.
    let started_unheard =
        |source: &Tuple, target: &Tuple| !target.bitmap.is_none() && has_named_resync(source, target.bitmap);
    for (started, rule, repair) in [
        (started_unheard(peer, own), Rule::PeerStartedSolving, Repair::PeerStart(own.bitmap)),
        (started_unheard(own, peer), Rule::SelfStartedSolving, Repair::OwnStart(peer.bitmap)),
    ] {
        if started {
            return Verdict { strategy: Strategy::SplitBrainRecoverable, rule, repair: Some(repair) };
        }
    }
    if own.history.iter().any(|id| peer.history.iter().any(|other| other.same_as(*id))) {
        return plain(Strategy::SplitBrain, Rule::HistoryBoth);
    }
    if have_common_ancestor(own, peer) {
        return plain(Strategy::SplitBrain, Rule::AncestorBoth);
    }
    plain(Strategy::Unrelated, Rule::NothingInCommon)
}

/// Whether one side's bitmap counts from a generation that the other knows too.
fn have_common_ancestor(own: &Tuple, peer: &Tuple) -> bool {
    let knows = |tuple: &Tuple, id: GenerationId| {
        let means_something = !id.is_none() && !id.is_just_created();
        means_something && (tuple.bitmap.same_as(id) || tuple.history.iter().any(|known| known.same_as(id)))
    };
    knows(own, peer.bitmap) || knows(peer, own.bitmap)
}

//! The ladder as a table, and what holds for any two tuples.

use super::*;
use crate::model::generation_id::{GenerationId, GenerationSet};
use crate::model::state::Role;

/// `[current, bitmap, history 1, history 2]`.
pub(super) fn tuple(ids: [u64; 4]) -> Tuple {
    let [current, bitmap, first, second] = ids.map(GenerationId);
    Tuple { current, bitmap, history: [first, second], ..Tuple::default() }
}

pub(super) const CONTEXT: Context =
    Context { version: 101, wsame: true, role: Role::Secondary, peer_role: Role::Secondary, resolve: true };

const OFFSET: u64 = GenerationId::SYNC_OFFSET;
const A: u64 = 0xa0;
const B: u64 = 0xb0;
const C: u64 = 0xc0;
const D: u64 = 0xd0;
const E: u64 = 0xe0;
const F: u64 = 0xf0;

#[track_caller]
fn case_in(context: Context, own: Tuple, peer: Tuple, strategy: Strategy, rule: Rule) -> Verdict {
    let verdict = compare(&own, &peer, &context);
    assert_eq!((verdict.strategy, verdict.rule), (strategy, rule));
    let mirror = compare(&peer, &own, &context.mirrored());
    assert_eq!(mirror.strategy, strategy.mirrored(), "the peer concludes the opposite");
    verdict
}

#[track_caller]
fn case(own: [u64; 4], peer: [u64; 4], strategy: Strategy, rule: Rule) -> Verdict {
    case_in(CONTEXT, tuple(own), tuple(peer), strategy, rule)
}

#[test]
fn fresh_disks_take_everything_from_used_ones() {
    case([4, 0, 0, 0], [4, 0, 0, 0], Strategy::NoSync, Rule::JustCreatedBoth);
    case([5, 0, 0, 0], [4, 0, 0, 0], Strategy::NoSync, Rule::JustCreatedBoth);
    case([4, 0, 0, 0], [A, 4, 0, 0], Strategy::TargetFull, Rule::JustCreatedSelf);
    case([0, 0, 0, 0], [A, 0, 0, 0], Strategy::TargetFull, Rule::JustCreatedSelf);
    case([A, 4, 0, 0], [4, 0, 0, 0], Strategy::SourceFull, Rule::JustCreatedPeer);
    case([0, 0, 0, 0], [4, 0, 0, 0], Strategy::SourceFull, Rule::JustCreatedPeer);
}

#[test]
fn a_lost_end_of_a_resync_is_made_up_for() {
    let verdict = case([A, B, C, 0], [A, 0, B, C], Strategy::SourceBitmap, Rule::SourceMissedFinish);
    assert_eq!(verdict.repair, Some(Repair::OwnFinish));
    let verdict = case([A, 0, B, C], [A, B, C, 0], Strategy::TargetBitmap, Rule::PeerMissedFinish);
    assert_eq!(verdict.repair, Some(Repair::PeerFinish));
    case([A, B, C, 0], [A, 0, D, C], Strategy::SourceBitmap, Rule::TargetLostSyncId);
    case([A, 0, 0, 0], [A | 1, B, 0, 0], Strategy::TargetBitmap, Rule::SelfLostSyncId);
}

#[test]
fn equal_generations_need_no_resync_unless_somebody_crashed() {
    let equal = tuple([A, 0, C, D]);
    let crashed = Tuple { crashed_primary: true, ..tuple([A | 1, 0, C, D]) };
    let with_primary = Context { role: Role::Primary, ..CONTEXT };
    case_in(CONTEXT, equal, tuple([A | 1, 0, E, F]), Strategy::NoSync, Rule::EqualClean);
    case_in(CONTEXT, tuple([A, B, 0, 0]), tuple([A, C, 0, 0]), Strategy::NoSync, Rule::EqualClean);
    case_in(CONTEXT, crashed, equal, Strategy::SourceBitmap, Rule::CrashedPrimary);
    case_in(CONTEXT, equal, crashed, Strategy::TargetBitmap, Rule::CrashedPrimary);
    case_in(CONTEXT, crashed, crashed, Strategy::TargetBitmap, Rule::CrashedPrimary);
    case_in(with_primary, equal, crashed, Strategy::SourceBitmap, Rule::PresentPrimary);
    case_in(with_primary.mirrored(), crashed, equal, Strategy::TargetBitmap, Rule::PresentPrimary);
    let both = Context { peer_role: Role::Primary, ..with_primary };
    case_in(both, equal, crashed, Strategy::SplitBrain, Rule::PresentPrimary);
    let old = Context { wsame: false, ..with_primary };
    let needs = Strategy::NeedsFeature { version: 101, features: 4 };
    case_in(old, equal, crashed, needs, Rule::PresentPrimary);
    assert_eq!(needs.number(), -(0x10000 + 101 + (4 << 8)));
}

#[test]
fn the_side_that_went_on_is_source() {
    // The source went on alone while it did not know whether we had finished: its bitmap still counts from the resync.
    case([B, 0, D, C], [A, D, B, C], Strategy::TargetBitmap, Rule::PeerWentOn);
    case([A, D, B, C], [B, 0, D, C], Strategy::SourceBitmap, Rule::SelfWentOn);
    case([B, 0, 0, 0], [A, B, 0, 0], Strategy::TargetBitmap, Rule::BitmapPeer);
    case([A, B | 1, 0, 0], [B, 0, 0, 0], Strategy::SourceBitmap, Rule::BitmapSelf);
    case([B, 0, 0, 0], [A, C, D, B], Strategy::TargetFull, Rule::HistoryPeer);
    case([A, C, B, D], [B, 0, 0, 0], Strategy::SourceFull, Rule::HistorySelf);
}

#[test]
fn a_lost_start_of_a_resync_is_taken_back() {
    let verdict = case([B, 0, C, 0], [A, B + OFFSET, B, D], Strategy::TargetBitmap, Rule::PeerStartedSync);
    assert_eq!(verdict.repair, Some(Repair::PeerStart(GenerationId(B))));
    let verdict = case([A, B + OFFSET, B, D], [B, 0, C, 0], Strategy::SourceBitmap, Rule::SelfStartedSync);
    assert_eq!(verdict.repair, Some(Repair::OwnStart(GenerationId(B))));
    case([B, 0, C, 0], [A, E, B, C], Strategy::TargetFull, Rule::HistoryPeer);
    // The source went on alone, twice, after a start that nobody heard: its history has lost the parent.
    case([B, 0, C, 0], [A, B + OFFSET, E, F], Strategy::TargetBitmap, Rule::PeerStartedSync);
    case([A, B + OFFSET, E, F], [B, 0, C, 0], Strategy::SourceBitmap, Rule::SelfStartedSync);
    // Three tries, of which the target's disk knows the first.
    case(
        [B + OFFSET, 0, C, 0],
        [A, B + 3 * OFFSET, B + 2 * OFFSET, B + OFFSET],
        Strategy::TargetBitmap,
        Rule::PeerStartedSync,
    );
    let before_96 = Context { version: 95, ..CONTEXT };
    case_in(before_96, tuple([B, 0, C, 0]), tuple([A, E, B, C]), Strategy::TargetBitmap, Rule::PeerStartedSync);
}

#[test]
fn both_went_on_is_a_split_brain() {
    case([A, C | 1, 0, 0], [B, C, 0, 0], Strategy::SplitBrainRecoverable, Rule::BitmapBoth);
    case([A, C, D, E], [B, F, E, 0], Strategy::SplitBrain, Rule::HistoryBoth);
    case([A, C, D, 0], [B, F, E, 0], Strategy::SplitBrain, Rule::HistoryBoth);
    // The source of D's end never heard of it and went on; then the target was promoted too.
    case([A, D, E, C], [B, C, D, F], Strategy::SplitBrain, Rule::AncestorBoth);
    case([A, 0, C, D], [B, 0, E, F], Strategy::Unrelated, Rule::NothingInCommon);
    case([A, 4, C, D], [B, 4, E, F], Strategy::SplitBrainRecoverable, Rule::BitmapBoth);
    case([A, 4, C, D], [B, 0, E, 4], Strategy::Unrelated, Rule::NothingInCommon);
}

#[test]
fn a_split_brain_stays_one_when_the_start_of_its_solution_is_lost() {
    case([A, B, 0, 0], [C, B + OFFSET, E, F], Strategy::SplitBrainRecoverable, Rule::PeerStartedSolving);
    let (split, solving) = ([A, B, 0, 0], [C, B + OFFSET, B, D]);
    let verdict = case(split, solving, Strategy::SplitBrainRecoverable, Rule::PeerStartedSolving);
    assert_eq!(verdict.repair, Some(Repair::PeerStart(GenerationId(B))));
    let verdict = case(solving, split, Strategy::SplitBrainRecoverable, Rule::SelfStartedSolving);
    assert_eq!(verdict.repair, Some(Repair::OwnStart(GenerationId(B))));
}

#[test]
fn metadata_in_a_circle_is_a_split_brain_and_not_two_targets() {
    case([A, B, 0, 0], [B, A, 0, 0], Strategy::SplitBrain, Rule::Contradiction);
    case([A, 0, B, 0], [B, A, 0, 0], Strategy::SplitBrain, Rule::Contradiction);
}

#[test]
fn rules_about_lost_packets_need_protocol_91() {
    let old = Context { version: 90, ..CONTEXT };
    let needs = Strategy::NeedsProtocol(91);
    case_in(old, tuple([A, B, C, 0]), tuple([A, 0, B, C]), needs, Rule::SourceMissedFinish);
    case_in(old, tuple([A, 0, 0, 0]), tuple([A, B, 0, 0]), needs, Rule::SelfLostSyncId);
    case_in(old, tuple([B, 0, C, 0]), tuple([A, E, B, C]), needs, Rule::PeerStartedSync);
    assert_eq!(needs.number(), -1091);
}

#[test]
fn verdicts_read_as_in_the_kernel_log() {
    let verdict = compare(&tuple([A, B, 0, 0]), &tuple([B, 0, 0, 0]), &CONTEXT);
    assert_eq!(verdict.to_string(), "uuid_compare()=1 by rule BitmapSelf (70)");
    assert_eq!(Rule::ALL.len(), 25);
}

/// Every pair of tuples over a small alphabet, at each version where a rule changes.
#[test]
fn both_sides_conclude_the_opposite_whatever_the_tuples() {
    let alphabet = [0, 4, A, B, A + OFFSET, B + OFFSET];
    let mut tuples = Vec::new();
    for current in [0, 4, A, B, A + OFFSET] {
        for bitmap in alphabet {
            for history in [[0, 0], [A, 0], [B, 0], [A, B], [B, A + OFFSET], [A + OFFSET, A], [4, A]] {
                tuples.push(tuple([current, bitmap, history[0], history[1]]));
            }
        }
    }
    for context in [CONTEXT, Context { version: 95, ..CONTEXT }, Context { version: 90, ..CONTEXT }] {
        for own in &tuples {
            for peer in &tuples {
                let here = compare(own, peer, &context);
                let there = compare(peer, own, &context.mirrored());
                assert_eq!(here.strategy, there.strategy.mirrored(), "{own:?} {peer:?}");
                assert_eq!(here.repair.map(mirrored), there.repair, "{own:?} {peer:?}");
            }
        }
    }
}

fn mirrored(repair: Repair) -> Repair {
    match repair {
        Repair::OwnFinish => Repair::PeerFinish,
        Repair::PeerFinish => Repair::OwnFinish,
        Repair::PeerStart(parent) => Repair::OwnStart(parent),
        Repair::OwnStart(parent) => Repair::PeerStart(parent),
    }
}

#[test]
fn a_repair_makes_our_copy_of_the_peer_what_the_peer_makes_of_itself() {
    for (ids, own_repair, peer_repair) in [
        ([A, B, C, D], Repair::OwnFinish, Repair::PeerFinish),
        ([A, B + OFFSET, B, D], Repair::OwnStart(GenerationId(B)), Repair::PeerStart(GenerationId(B))),
        ([A, B + OFFSET, D, B], Repair::OwnStart(GenerationId(B)), Repair::PeerStart(GenerationId(B))),
        ([A, B + 2 * OFFSET, D, E], Repair::OwnStart(GenerationId(B)), Repair::PeerStart(GenerationId(B))),
    ] {
        let mut set = GenerationSet { current: GenerationId(ids[0]), ..GenerationSet::default() };
        set.bitmap[0] = GenerationId(ids[1]);
        set.history[..2].copy_from_slice(&[GenerationId(ids[2]), GenerationId(ids[3])]);
        let (mut copy, untouched) = (tuple(ids), set.clone());
        own_repair.apply(&mut set, 0, HistoryRules::V08, &mut Tuple::default());
        peer_repair.apply(&mut untouched.clone(), 0, HistoryRules::V08, &mut copy);
        assert_eq!(tuple_of(&set, 0), copy);
    }
}

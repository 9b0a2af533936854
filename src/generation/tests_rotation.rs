//! Lives of two disks, told by their identifiers.

use super::tests_compare::CONTEXT;
use super::*;
use crate::model::generation_id::{GenerationId, GenerationSet};
use crate::model::ids::NodeId;

const OFFSET: u64 = GenerationId::SYNC_OFFSET;
const V08: HistoryRules = HistoryRules::V08;

fn v09(own: u8) -> HistoryRules {
    HistoryRules::V09 { own: NodeId::new(own).expect("a small number"), in_step: 0 }
}

/// One node: its set, its rules, and the entry it keeps for the other.
#[derive(Clone)]
struct Node {
    set: GenerationSet,
    rules: HistoryRules,
    peer: usize,
}

impl Node {
    fn tuple(&self) -> Tuple {
        tuple_of(&self.set, self.peer)
    }

    fn lose_peer(&mut self, random: u64) {
        new_current(&mut self.set, self.peer, random, true, self.rules);
    }

    #[track_caller]
    fn expect(&self, current: u64, bitmap: u64, history: [u64; 2]) {
        let tuple = self.tuple();
        let ids = (tuple.current.0, tuple.bitmap.0, tuple.history.map(|id| id.0));
        assert_eq!(ids, (current, bitmap, history), "{tuple:x?}");
    }
}

/// Two nodes with generation 0x1000 on both disks, for each mixture of formats.
fn pairs() -> [(Node, Node); 3] {
    [(V08, V08, 0, 0), (V08, v09(0), 0, 1), (v09(1), v09(0), 0, 1)].map(|(first, second, first_peer, second_peer)| {
        let set = GenerationSet { current: GenerationId(0x1000), ..GenerationSet::default() };
        (Node { set: set.clone(), rules: first, peer: first_peer }, Node { set, rules: second, peer: second_peer })
    })
}

fn start_resync(source: &mut Node, target: &mut Node) {
    let current = target.set.current;
    let sync_id = resync_started_source(&mut source.set, source.peer, current, source.rules);
    resync_started_target(&mut target.set, target.peer, sync_id, target.rules);
}

fn strategy(own: &Node, peer: &Node) -> (Strategy, Rule) {
    let verdict = compare(&own.tuple(), &peer.tuple(), &CONTEXT);
    (verdict.strategy, verdict.rule)
}

#[test]
fn a_resync_ends_with_equal_sets_on_both_sides() {
    for (mut source, mut target) in pairs() {
        source.lose_peer(0x2000);
        source.expect(0x2001, 0x1000, [0, 0]);
        assert_eq!(strategy(&source, &target), (Strategy::SourceBitmap, Rule::BitmapSelf));
        let told = source.tuple();
        start_resync(&mut source, &mut target);
        source.expect(0x2001, 0x1000 + OFFSET, [0x1000, 0]);
        target.expect(0x1000 + OFFSET, 0, [0, 0]);
        assert_eq!(strategy(&source, &target), (Strategy::SourceBitmap, Rule::BitmapSelf), "interrupted, it resumes");
        resync_finished_target(&mut target.set, target.peer, &told, false, target.rules);
        resync_finished_source(&mut source.set, source.peer, source.rules);
        source.expect(0x2001, 0, [0x1000 + OFFSET, 0x1000]);
        target.expect(0x2000, 0, [0x1000 + OFFSET, 0x1000]);
        assert_eq!(strategy(&source, &target), (Strategy::NoSync, Rule::EqualClean));
    }
}

#[test]
fn a_resync_that_resumed_ends_with_equal_sets_too() {
    for (mut source, mut target) in pairs() {
        source.lose_peer(0x2000);
        start_resync(&mut source, &mut target);
        let told = source.tuple();
        start_resync(&mut source, &mut target);
        resync_finished_target(&mut target.set, target.peer, &told, false, target.rules);
        resync_finished_source(&mut source.set, source.peer, source.rules);
        source.expect(0x2001, 0, [0x1000 + 2 * OFFSET, 0x1000 + OFFSET]);
        target.expect(0x2000, 0, [0x1000 + 2 * OFFSET, 0x1000 + OFFSET]);
    }
}

#[test]
fn whichever_packet_of_a_resync_is_lost_the_direction_stays() {
    for (mut source, mut target) in pairs() {
        source.lose_peer(0x2000);
        let told = source.tuple();
        let before = target.clone();
        start_resync(&mut source, &mut target);
        assert_eq!(strategy(&source, &before), (Strategy::SourceBitmap, Rule::SelfStartedSync));
        assert_eq!(strategy(&before, &source), (Strategy::TargetBitmap, Rule::PeerStartedSync));
        resync_finished_target(&mut target.set, target.peer, &told, false, target.rules);
        assert_eq!(strategy(&source, &target), (Strategy::SourceBitmap, Rule::SourceMissedFinish));
        assert_eq!(strategy(&target, &source), (Strategy::TargetBitmap, Rule::PeerMissedFinish));
    }
}

#[test]
fn undoing_a_start_gives_back_the_set_of_before() {
    for (mut source, target) in pairs() {
        source.lose_peer(0x2000);
        let before = source.tuple();
        resync_started_source(&mut source.set, source.peer, target.set.current, source.rules);
        Repair::OwnStart(GenerationId(0x1000)).apply(&mut source.set, source.peer, source.rules, &mut Tuple::default());
        assert_eq!(source.tuple(), before);
    }
}

#[test]
fn a_target_that_hears_of_no_start_is_recognised_however_often_that_happens() {
    for (mut source, target) in pairs() {
        source.lose_peer(0x2000);
        start_resync(&mut source, &mut target.clone());
        // The source may have lost a target at the end of a resync: it goes on under new generations.
        for random in [0x3000, 0x4000, 0x5000] {
            new_current(&mut source.set, source.peer, random, true, source.rules);
            let (strategy, _) = strategy(&source, &target);
            assert!(matches!(strategy, Strategy::SourceFull | Strategy::SourceBitmap), "{strategy:?}");
            start_resync(&mut source, &mut target.clone());
            assert!(source.set.history[0].same_as(target.set.current));
        }
    }
}

#[test]
fn a_resync_to_an_older_generation_ends_with_equal_sets() {
    for (mut source, mut target) in pairs() {
        source.lose_peer(0x2000);
        start_resync(&mut source, &mut target.clone());
        new_current(&mut source.set, source.peer, 0x3000, true, source.rules);
        let (mut told, ended) = (source.tuple(), target.set.current);
        start_resync(&mut source, &mut target);
        follow_source_start(&mut told, ended, target.set.current);
        resync_finished_target(&mut target.set, target.peer, &told, false, target.rules);
        assert_eq!(strategy(&source, &target), (Strategy::SourceBitmap, Rule::SourceMissedFinish));
        resync_finished_source(&mut source.set, source.peer, source.rules);
        source.expect(0x3001, 0, [0x1000 + OFFSET, 0x1000]);
        target.expect(0x3000, 0, [0x1000 + OFFSET, 0x1000]);
    }
}

#[test]
fn a_fresh_node_takes_over_everything() {
    for (mut source, mut target) in pairs() {
        source.set = GenerationSet { current: GenerationId::JUST_CREATED, ..GenerationSet::default() };
        target.set = source.set.clone();
        source.lose_peer(0x2000);
        assert_eq!(strategy(&source, &target), (Strategy::SourceFull, Rule::JustCreatedPeer));
        let told = source.tuple();
        start_resync(&mut source, &mut target);
        assert_eq!(strategy(&source, &target), (Strategy::SourceBitmap, Rule::BitmapSelf));
        resync_finished_target(&mut target.set, target.peer, &told, false, target.rules);
        resync_finished_source(&mut source.set, source.peer, source.rules);
        assert_eq!(strategy(&source, &target), (Strategy::NoSync, Rule::EqualClean));
        assert_eq!(source.tuple().history[0].masked(), target.tuple().history[0].masked());
    }
}

#[test]
fn two_sides_that_went_on_are_told_apart() {
    for (mut first, mut second) in pairs() {
        become_primary(&mut first.set);
        first.lose_peer(0x2000);
        second.lose_peer(0x3000);
        assert_eq!(strategy(&first, &second), (Strategy::SplitBrainRecoverable, Rule::BitmapBoth));
        assert!(first.tuple().bitmap.primary_flag(), "it was Primary when the link broke");
        assert!(!second.tuple().bitmap.primary_flag(), "it became Primary later");
    }
}

#[test]
fn the_role_is_bit_0_of_current() {
    let mut set = GenerationSet { current: GenerationId(0x1000), ..GenerationSet::default() };
    become_primary(&mut set);
    assert_eq!(set.current.0, 0x1001);
    become_secondary(&mut set);
    assert_eq!(set.current.0, 0x1000);
}

#[test]
fn skipping_the_initial_sync_leaves_equal_sets() {
    for (mut first, mut second) in pairs() {
        first.set.current = GenerationId::JUST_CREATED;
        second.set.current = GenerationId::JUST_CREATED;
        skip_initial_sync(&mut first.set, first.peer, 0x2000, false, first.rules);
        adopt_skip_initial_sync(&mut second.set, second.peer, first.set.current);
        first.expect(0x2000, 0, [0, 0]);
        second.expect(0x2000, 0, [0, 0]);
    }
}

#[test]
fn a_second_generation_keeps_what_the_bits_count_from() {
    for (mut first, second) in pairs() {
        first.lose_peer(0x2000);
        first.lose_peer(0x3000);
        first.expect(0x3001, 0x1000, [0x2000, 0]);
        assert_eq!(strategy(&first, &second), (Strategy::SourceBitmap, Rule::BitmapSelf));
    }
}

#[test]
fn seeding_by_truck_resyncs_what_changed_since_the_copy() {
    for (mut first, mut second) in pairs() {
        new_current_by_admin(&mut first.set, first.peer, 0x2000, true, first.rules);
        second.set = GenerationSet { current: first.set.current, ..GenerationSet::default() };
        new_current_by_admin(&mut first.set, first.peer, 0x3000, true, first.rules);
        first.expect(0x3001, 0x2001, [0x1000, 0]);
        assert_eq!(strategy(&first, &second), (Strategy::SourceBitmap, Rule::BitmapSelf));
    }
}

#[test]
fn unused_entries_of_v09_all_name_day_0() {
    let in_step = 1 << 2;
    let rules = HistoryRules::V09 { own: NodeId::new(1).expect("a small number"), in_step };
    let mut set = GenerationSet { current: GenerationId::JUST_CREATED, ..GenerationSet::default() };
    new_current(&mut set, 0, 0x2000, true, rules);
    let day_0 = set.bitmap[0];
    assert!(!day_0.is_just_created() && !day_0.is_none());
    for (index, &entry) in set.bitmap.iter().enumerate() {
        let expected = if index == 1 || index == 2 { GenerationId::NONE } else { day_0 };
        assert_eq!(entry, expected, "entry {index}: not our own, not of a node that gets the writes");
    }
    resync_finished_source(&mut set, 0, rules);
    new_current(&mut set, 0, 0x3000, true, rules);
    assert_eq!(set.bitmap[0].0, 0x2001);
    assert_eq!(set.bitmap[31], day_0, "day 0 stays");
}

#[test]
fn histories_follow_their_format() {
    let ids = |values: &[u64]| values.iter().map(|&id| GenerationId(id)).collect::<Vec<_>>();
    let mut set = GenerationSet { current: GenerationId(0x99), ..GenerationSet::default() };
    for id in [0x10, 0x20, 0, 0x30, 0x30] {
        push(&mut set, GenerationId(id), V08);
    }
    assert_eq!(set.history[..3], ids(&[0x30, 0x30, 0]));
    let mut set = GenerationSet { current: GenerationId(0x99), ..GenerationSet::default() };
    for id in [0x11, 0x20, 0, 4, 0x98, 0x30, 0x10] {
        push(&mut set, GenerationId(id), v09(0));
    }
    assert_eq!(set.history[..4], ids(&[0x10, 0x30, 0x20, 0]));
    (0..40).for_each(|id| push(&mut set, GenerationId(0x1000 + 2 * id), v09(0)));
    assert_eq!(set.history[31].0, 0x1000 + 2 * 8);
}

#[test]
fn no_random_value_makes_a_reserved_id() {
    for random in [0, 1, 4, 5] {
        let mut set = GenerationSet { current: GenerationId(0x10), ..GenerationSet::default() };
        new_current(&mut set, 0, random, false, V08);
        assert!(!set.current.is_none() && !set.current.is_just_created());
    }
}

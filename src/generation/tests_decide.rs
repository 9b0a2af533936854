//! From verdicts to outcomes, and the mirror property over flags, roles, disks and policies.

use super::tests_compare::{CONTEXT, tuple};
use super::*;
use crate::model::state::{DiskState, Role};

const GOOD: DiskState = DiskState::UpToDate;
const BAD: DiskState = DiskState::Inconsistent;

fn decided(own: Tuple, disks: (DiskState, DiskState), peer: Tuple, context: Context, policies: Policies) -> Decision {
    decide(compare(&own, &peer, &context), (&own, disks.0), (&peer, disks.1), &context, &policies)
}

fn newer() -> Tuple {
    tuple([0xa0, 0xb0, 0, 0])
}

fn older() -> Tuple {
    tuple([0xb0, 0, 0, 0])
}

/// Two sides that both went on from 0xc0.
fn split() -> (Tuple, Tuple) {
    (tuple([0xa0, 0xc0, 0, 0]), tuple([0xb0, 0xc0, 0, 0]))
}

fn primary() -> Context {
    Context { role: Role::Primary, ..CONTEXT }
}

#[test]
fn the_verdict_alone_decides_between_good_disks() {
    let decision = decided(newer(), (GOOD, GOOD), older(), CONTEXT, Policies::default());
    assert_eq!(decision.outcome, Outcome::Source { full: false });
    assert_eq!(decision.sentence(), "Becoming sync source (BitmapSelf (70))");
    let decision = decided(older(), (GOOD, GOOD), tuple([0xa0, 0, 0xb0, 0]), CONTEXT, Policies::default());
    assert_eq!(decision.outcome, Outcome::Target { full: true });
    let decision = decided(newer(), (GOOD, GOOD), tuple([0xd0, 0, 0xe0, 0]), CONTEXT, Policies::default());
    assert_eq!(decision.outcome, Outcome::Refuse(RefuseReason::SplitBrain), "empty history entries count as common");
    let own = tuple([0xa0, 0, 0x10, 0x20]);
    let decision = decided(own, (GOOD, GOOD), tuple([0xb0, 0, 0x30, 0x40]), CONTEXT, Policies::default());
    assert_eq!(decision.outcome, Outcome::Refuse(RefuseReason::UnrelatedData));
    assert_eq!(decision.sentence(), "Unrelated data, aborting!");
}

#[test]
fn an_inconsistent_disk_becomes_target_whatever_the_identifiers_say() {
    let decision = decided(newer(), (BAD, GOOD), older(), CONTEXT, Policies::default());
    assert_eq!(decision.outcome, Outcome::Target { full: false });
    assert_eq!(decision.sentence(), "Becoming sync target due to disk states.");
    let equal = tuple([0xa0, 0, 0, 0]);
    let decision = decided(equal, (GOOD, BAD), equal, CONTEXT, Policies::default());
    assert_eq!(decision.outcome, Outcome::Source { full: false });
    let (own, peer) = split();
    let decision = decided(own, (GOOD, BAD), peer, CONTEXT, Policies::default());
    assert_eq!((decision.outcome, decision.split_brain), (Outcome::Source { full: false }, false));
    let attaching = Tuple { inconsistent: true, ..newer() };
    let decision = decided(attaching, (DiskState::Negotiating, GOOD), older(), CONTEXT, Policies::default());
    assert_eq!(decision.outcome, Outcome::Target { full: false });
}

#[test]
fn two_inconsistent_disks_do_not_feed_each_other() {
    let decision = decided(newer(), (BAD, BAD), older(), CONTEXT, Policies::default());
    assert_eq!(decision.outcome, Outcome::Refuse(RefuseReason::SourceInconsistent));
    let decision = decided(older(), (BAD, BAD), newer(), CONTEXT, Policies::default());
    assert_eq!(decision.outcome, Outcome::Target { full: false }, "the peer refuses");
}

#[test]
fn a_primary_with_usable_data_does_not_become_target() {
    let decision = decided(older(), (GOOD, GOOD), newer(), primary(), Policies::default());
    assert_eq!(decision.outcome, Outcome::Refuse(RefuseReason::PrimaryWouldBecomeTarget));
    assert_eq!(decision.sentence(), "I shall become SyncTarget, but I am primary!");
    let decision = decided(older(), (BAD, GOOD), newer(), primary(), Policies::default());
    assert_eq!(decision.outcome, Outcome::Target { full: false });
    let violently = Policies { role_conflict: RoleConflict::Violently, ..Policies::default() };
    let decision = decided(older(), (GOOD, GOOD), newer(), primary(), violently);
    assert_eq!(decision.outcome, Outcome::Target { full: false });
}

#[test]
fn the_operators_word_solves_a_split_brain() {
    let (own, peer) = split();
    let decision = decided(own, (GOOD, GOOD), peer, CONTEXT, Policies::default());
    assert_eq!((decision.outcome, decision.split_brain), (Outcome::Refuse(RefuseReason::SplitBrain), true));
    let given_up = Tuple { discard_my_data: true, ..peer };
    let decision = decided(own, (GOOD, GOOD), given_up, CONTEXT, Policies::default());
    assert_eq!(decision.outcome, Outcome::Source { full: false });
    let both = Tuple { discard_my_data: true, ..own };
    let decision = decided(both, (GOOD, GOOD), given_up, CONTEXT, Policies::default());
    assert_eq!(decision.outcome, Outcome::Refuse(RefuseReason::SplitBrain), "both gave up: nothing is left to keep");
}

#[test]
fn policies_solve_a_split_brain_without_primaries() {
    let (own, peer) = split();
    let (busy, calm) = (Tuple { changed_blocks: 9, ..own }, Tuple { changed_blocks: 2, ..peer });
    let early = Tuple { bitmap: peer.bitmap.with_primary_flag(true), ..peer };
    let (source, target) = (Outcome::Source { full: false }, Outcome::Target { full: false });
    let refused = Outcome::Refuse(RefuseReason::SplitBrain);
    for (policy, own, peer, outcome) in [
        (AfterSplitBrain0::DiscardLeastChanges, busy, calm, source),
        (AfterSplitBrain0::DiscardLeastChanges, own, peer, target),
        (AfterSplitBrain0::DiscardZeroChanges, busy, calm, refused),
        (AfterSplitBrain0::DiscardZeroChanges, busy, peer, source),
        (AfterSplitBrain0::DiscardZeroChanges, own, peer, target),
        (AfterSplitBrain0::DiscardYoungerPrimary, busy, early, target),
        (AfterSplitBrain0::DiscardOlderPrimary, own, early, source),
        (AfterSplitBrain0::DiscardYoungerPrimary, busy, calm, source),
        (AfterSplitBrain0::DiscardLocal, busy, calm, target),
        (AfterSplitBrain0::DiscardRemote, own, calm, source),
    ] {
        let policies = Policies { none: policy, ..Policies::default() };
        assert_eq!(decided(own, (GOOD, GOOD), peer, CONTEXT, policies).outcome, outcome, "{policy:?}");
    }
}

#[test]
fn policies_respect_the_primary() {
    let (own, peer) = split();
    let secondary = Context { peer_role: Role::Primary, ..CONTEXT };
    let decide_with =
        |context, one, none| decided(own, (GOOD, GOOD), peer, context, Policies { one, none, ..Policies::default() });
    let (source, target) = (Outcome::Source { full: false }, Outcome::Target { full: false });
    let refused = Outcome::Refuse(RefuseReason::SplitBrain);
    let (local, remote) = (AfterSplitBrain0::DiscardLocal, AfterSplitBrain0::DiscardRemote);
    assert_eq!(decide_with(primary(), AfterSplitBrain1::DiscardSecondary, local).outcome, source);
    assert_eq!(decide_with(secondary, AfterSplitBrain1::DiscardSecondary, remote).outcome, target);
    assert_eq!(decide_with(primary(), AfterSplitBrain1::Consensus, local).outcome, refused);
    assert_eq!(decide_with(primary(), AfterSplitBrain1::Consensus, remote).outcome, source);
    let demoting = decide_with(primary(), AfterSplitBrain1::CallPriLost, local);
    assert_eq!((demoting.outcome, demoting.demote_first), (target, true));
    assert!(!decide_with(primary(), AfterSplitBrain1::CallPriLost, remote).demote_first);
    let both = Context { peer_role: Role::Primary, ..primary() };
    assert_eq!(decide_with(both, AfterSplitBrain1::DiscardSecondary, local).outcome, refused);
}

#[test]
fn always_asbp_solves_by_full_resync_what_bitmaps_do_not_cover() {
    let (own, peer) = (tuple([0xa0, 0xd0, 0xe0, 0]), tuple([0xb0, 0xf0, 0xe0, 0]));
    let policies = Policies { none: AfterSplitBrain0::DiscardRemote, ..Policies::default() };
    let decision = decided(own, (GOOD, GOOD), peer, CONTEXT, policies);
    assert_eq!(decision.outcome, Outcome::Refuse(RefuseReason::SplitBrain));
    let decision = decided(own, (GOOD, GOOD), peer, CONTEXT, Policies { always: true, ..policies });
    assert_eq!(decision.outcome, Outcome::Source { full: true });
    assert_eq!(decision.sentence(), "Split-Brain detected, 0 primaries, automatically solved. Sync from this node");
}

/// Tuples that reach every rung, with every combination of flags, roles, disks that a handshake may see.
#[test]
fn both_sides_decide_the_opposite() {
    const OFFSET: u64 = 1 << 48;
    let ids = [
        [4, 0, 0, 0],
        [0xa0, 0, 0, 0],
        [0xa1, 0xb0, 0, 0],
        [0xb0, 0xa0, 0, 0],
        [0xb0, 0, 0xa0, 0x10],
        [0xa0, 0xb0 + OFFSET, 0xb0, 0],
        [0xb0 + OFFSET, 0, 0, 0],
        [0xa0, 0, 0xb0 + OFFSET, 0xb0],
        [0xd0, 0xb1, 0x20, 0x30],
        [0xe0, 0, 0x40, 0x50],
    ];
    let mut tuples = Vec::new();
    for ids in ids {
        for flags in 0..8 {
            let changed_blocks = [0, 7][flags >> 2 & 1];
            let (crashed_primary, discard_my_data) = (flags & 1 != 0, flags & 2 != 0);
            tuples.push(Tuple { crashed_primary, discard_my_data, changed_blocks, ..tuple(ids) });
        }
    }
    let disks = [(BAD, BAD), (BAD, GOOD), (GOOD, BAD), (DiskState::Outdated, GOOD), (GOOD, DiskState::Consistent)];
    for context in contexts() {
        for policies in policies() {
            for own in &tuples {
                for peer in &tuples {
                    for (own_disk, peer_disk) in disks {
                        check_mirror((own, own_disk), (peer, peer_disk), context, policies);
                    }
                }
            }
        }
    }
}

#[test]
fn both_sides_decide_the_opposite_for_every_pair_of_disk_states() {
    let states = &DiskState::ALL[3..];
    let samples = [newer(), older(), split().0, split().1, tuple([4, 0, 0, 0]), tuple([0xb0, 0xa0, 0, 0])];
    for own in samples {
        for peer in samples {
            for (&own_disk, &peer_disk) in states.iter().flat_map(|own| states.iter().map(move |peer| (own, peer))) {
                for context in contexts() {
                    check_mirror((&own, own_disk), (&peer, peer_disk), context, Policies::default());
                }
            }
        }
    }
}

fn contexts() -> Vec<Context> {
    let roles = [Role::Primary, Role::Secondary];
    let pairs = roles.into_iter().flat_map(|role| roles.map(|peer_role| (role, peer_role)));
    pairs.map(|(role, peer_role)| Context { role, peer_role, ..CONTEXT }).collect()
}

fn policies() -> [Policies; 3] {
    [
        Policies::default(),
        Policies {
            none: AfterSplitBrain0::DiscardYoungerPrimary,
            one: AfterSplitBrain1::Consensus,
            two: AfterSplitBrain2::CallPriLost,
            always: true,
            role_conflict: RoleConflict::Disconnect,
        },
        Policies {
            none: AfterSplitBrain0::DiscardZeroChanges,
            one: AfterSplitBrain1::CallPriLost,
            two: AfterSplitBrain2::Violently,
            always: false,
            role_conflict: RoleConflict::Violently,
        },
    ]
}

fn check_mirror(own: (&Tuple, DiskState), peer: (&Tuple, DiskState), context: Context, policies: Policies) {
    let here = decide(compare(own.0, peer.0, &context), own, peer, &context, &policies);
    let there_context = context.mirrored();
    let there = decide(compare(peer.0, own.0, &there_context), peer, own, &there_context, &policies);
    assert!(here.agrees_with(&there), "{own:?} {peer:?} {context:?}: {:?} {:?}", here.outcome, there.outcome);
    assert!(there.agrees_with(&here), "agreement goes both ways");
}

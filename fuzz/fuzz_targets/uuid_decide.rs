//! Arbitrary generations, flags, disks and roles on both sides: the two nodes decide the opposite of each other.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use shimai::generation::{
    AfterSplitBrain0, AfterSplitBrain1, AfterSplitBrain2, Context, Policies, RoleConflict, Tuple, compare, decide,
};
use shimai::model::generation_id::GenerationId;
use shimai::model::state::{DiskState, Role};

/// What a tuple is made of: few ids, so that they meet.
#[derive(Arbitrary, Debug)]
struct Side {
    ids: [u8; 4],
    changed: bool,
    crashed_primary: bool,
    discard_my_data: bool,
    inconsistent: bool,
    skip_initial_sync: bool,
    disk: u8,
    is_primary: bool,
}

#[derive(Arbitrary, Debug)]
struct Meeting {
    own: Side,
    peer: Side,
    version: u8,
    wsame: bool,
    resolve: bool,
    policies: [u8; 4],
    always: bool,
}

fuzz_target!(|meeting: Meeting| {
    let (own, peer) = (tuple(&meeting.own), tuple(&meeting.peer));
    let (own_disk, peer_disk) = (disk(meeting.own.disk), disk(meeting.peer.disk));
    let context = Context {
        version: 86 + u32::from(meeting.version % 16),
        wsame: meeting.wsame,
        role: role(meeting.own.is_primary),
        peer_role: role(meeting.peer.is_primary),
        resolve: meeting.resolve,
    };
    let policies = policies(&meeting);
    let here = decide(compare(&own, &peer, &context), (&own, own_disk), (&peer, peer_disk), &context, &policies);
    let context = context.mirrored();
    let there = decide(compare(&peer, &own, &context), (&peer, peer_disk), (&own, own_disk), &context, &policies);
    assert!(here.agrees_with(&there), "{:?} here, {:?} there", here.outcome, there.outcome);
    assert!(there.agrees_with(&here), "agreement goes both ways");
    let _ = (here.sentence(), there.sentence(), here.rule());
});

fn tuple(side: &Side) -> Tuple {
    let [current, bitmap, first, second] = side.ids.map(id);
    Tuple {
        current,
        bitmap,
        history: [first, second],
        changed_blocks: u64::from(side.changed) * 7,
        crashed_primary: side.crashed_primary,
        discard_my_data: side.discard_my_data,
        inconsistent: side.inconsistent,
        skip_initial_sync: side.skip_initial_sync,
    }
}

/// 0 (none), 4 (just created) and six others, each with the Primary flag or without, and shifted as a resync does.
fn id(byte: u8) -> GenerationId {
    let base = [0, 4, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0][usize::from(byte & 7)];
    let shift = u64::from(base > 4 && byte & 16 != 0) << 48;
    GenerationId(base + shift + u64::from(base > 4 && byte & 8 != 0))
}

fn disk(byte: u8) -> DiskState {
    // A handshake is about disks that are there.
    let states = &DiskState::ALL[3..];
    states[usize::from(byte) % states.len()]
}

fn role(is_primary: bool) -> Role {
    if is_primary { Role::Primary } else { Role::Secondary }
}

/// Those that both sides of a pair have alike, the one-sided ones apart.
fn policies(meeting: &Meeting) -> Policies {
    let [none, one, two, conflict] = meeting.policies.map(usize::from);
    Policies {
        none: [
            AfterSplitBrain0::Disconnect,
            AfterSplitBrain0::DiscardYoungerPrimary,
            AfterSplitBrain0::DiscardOlderPrimary,
            AfterSplitBrain0::DiscardZeroChanges,
            AfterSplitBrain0::DiscardLeastChanges,
        ][none % 5],
        one: [
            AfterSplitBrain1::Disconnect,
            AfterSplitBrain1::Consensus,
            AfterSplitBrain1::DiscardSecondary,
            AfterSplitBrain1::CallPriLost,
            AfterSplitBrain1::Violently,
        ][one % 5],
        two: [AfterSplitBrain2::Disconnect, AfterSplitBrain2::CallPriLost, AfterSplitBrain2::Violently][two % 3],
        always: meeting.always,
        role_conflict: [RoleConflict::Disconnect, RoleConflict::CallPriLost, RoleConflict::Violently][conflict % 3],
    }
}

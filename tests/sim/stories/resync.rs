//! A resync on its way: its words come late, are given up, or are not the last.

use shimai::model::state::{ConnectionState, DiskState};
use shimai::replica::settings::ResyncSettings;
use shimai::wire::auth::DigestAlgorithm;
use shimai::wire::command::Command;

use super::Story;
use crate::profile::{Fault, MILLISECOND, Profile, SECOND};
use crate::world::World;

#[test]
fn resync_interrupted_resumes() {
    for seed in 50..56 {
        let mut story = Story::begin(seed, 8, false);
        let is_fresh = |facts: crate::machine::Facts| {
            facts.is_connected() && facts.disk == DiskState::Inconsistent && facts.peer_disk == DiskState::Inconsistent
        };
        story.until("both disks attached", |world| (0..2).all(|node| world.facts(node, 0).is_some_and(is_fresh)));
        story.promote(0, true);
        story.write(0, 100, 16);
        story.is_state(1, ConnectionState::SyncTarget);
        story.run_for(40 * MILLISECOND);
        let was_syncing = story.world.facts(1, 0).is_some_and(|facts| facts.disk == DiskState::Inconsistent);
        story.world.cut(Fault::Cut);
        story.run_for(100 * MILLISECOND);
        if was_syncing {
            story.lose_power(1);
            story.run_for(SECOND);
            story.start(1);
        }
        story.end();
    }
}

/// The target's disk is busy while the source, for whom the resync has begun, mirrors a write; then the connection is gone.
#[test]
fn a_write_of_a_resync_that_was_never_named_stays_off_the_disk() {
    for seed in 60..66 {
        let mut story = Story::serving(Profile::calm(seed, 16, true));
        story.lose_power(1);
        story.until_parted(0);
        (0..5).for_each(|index| {
            story.write(0, index * 64, 8);
        });
        story.until_answered();
        story.start(1);
        story.is_state(1, ConnectionState::WfSyncUuid);
        let now = story.world.now;
        story.world.nodes[1].stalled_until = now + 2 * SECOND;
        story.is_state(0, ConnectionState::SyncSource);
        story.write(0, 4000, 8);
        story.run_for(100 * MILLISECOND);
        assert_eq!(story.world.facts(1, 0).map(|facts| facts.connection), Some(ConnectionState::WfSyncUuid));
        story.world.cut(Fault::Cut);
        story.run_for(SECOND);
        story.end();
    }
}

/// The source's operator asked for a slow resync, the target's for a fast one: the peer's word counts, on either side.
#[test]
fn a_resync_keeps_the_pace_that_the_peer_told() {
    for (seed, slow_node) in [(120, 0), (121, 1)] {
        let mut profile = Profile::calm(seed, 6, false);
        profile.own_pace(1 - slow_node, ResyncSettings { rate_kib: 200_000, plan_ahead: 0, ..PACE });
        profile.own_pace(slow_node, ResyncSettings { rate_kib: 300, plan_ahead: 0, ..PACE });
        let mut story = Story::begin_with(profile);
        story.until_connected(0);
        story.promote(0, true);
        let since = story.world.now;
        story.until_in_sync();
        let seconds = (story.world.now - since) / SECOND;
        // Node 1 is the target, and asks as node 0 told it: 6 MiB.
        assert_eq!(seconds >= 15, slow_node == 0, "seed {seed}: {seconds} s");
        story.end();
    }
}

/// Writes of a resync that was given up reach the target's cache when the next one is under way, which finds them equal.
#[test]
fn equal_blocks_count_only_once_they_are_durable() {
    let places = [0, 64, 128, 192, 256, 320];
    for seed in 140..146 {
        let mut profile = Profile::plain(seed, 16);
        profile.peer.csums = DigestAlgorithm::from_name("crc32c");
        let mut story = Story::with_a_laggard(profile, &places);
        story.start(1);
        story.until("all are asked for", |world| world.tap.sent(1, Command::ChecksumResyncRequest) > 0);
        story.slow_down(1, SECOND);
        let changing = |world: &World| places.iter().all(|&at| world.nodes[1].disks[0].is_changing((at, at + 8)));
        story.until("all are being written", changing);
        story.speed_up(1);
        story.world.cut(Fault::Cut);
        story.until("found equal", |world| world.tap.sent(0, Command::ResyncIsInSync) == 6);
        story.slow_down(1, SECOND);
        for _ in 0..20 {
            story.run_for(20 * MILLISECOND);
            (0..5).for_each(|_| story.world.on_fork());
        }
        story.check();
        story.lose_power(1);
        story.run_for(SECOND);
        story.start(1);
        story.end();
    }
}

const PACE: ResyncSettings = ResyncSettings {
    rate_kib: 0,
    plan_ahead: 0,
    delay_target: 10,
    fill_target: 100,
    max_rate_kib: 400_000,
    min_rate_kib: 0,
};

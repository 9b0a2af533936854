//! Who serves, and who catches up afterwards.

use shimai::model::state::{ConnectionState, DiskState, Role};
use shimai::replica::event::{Command, Event};

use super::Story;
use crate::profile::{MILLISECOND, Profile, SECOND};

#[test]
fn first_sync() {
    let mut story = Story::begin(11, 6, false);
    story.until_connected(0);
    story.promote(0, true);
    let id = story.write(0, 100, 16);
    story.until_answered();
    assert!(story.acked(id));
    story.end();
}

#[test]
fn writes_reach_both_disks() {
    for seed in 0..10 {
        let mut story = Story::serving(Profile::calm(seed, 16, true));
        for index in 0..40 {
            story.write(0, index % 7 * 5, 16);
        }
        story.world.flush(0, 0);
        story.until_answered();
        story.end();
    }
}

#[test]
fn write_crash_failover() {
    for seed in 20..30 {
        let mut story = Story::serving(Profile::calm(seed, 16, true));
        let ids: Vec<u64> = (0..20).map(|index| story.write(0, index * 3, 8)).collect();
        story.until_answered();
        story.lose_power(0);
        story.until_parted(1);
        story.promote(1, false);
        story.world.read(1, 0, (0, 64));
        story.write(1, 4, 8);
        story.until_answered();
        assert!(ids.iter().all(|&id| story.acked(id)));
        story.start(0);
        story.end();
    }
}

#[test]
fn a_secondary_that_was_away_gets_what_it_missed() {
    for seed in 30..36 {
        let mut story = Story::serving(Profile::calm(seed, 32, true));
        story.write(0, 0, 8);
        story.until_answered();
        story.lose_power(1);
        story.until_parted(0);
        for index in 0..10 {
            story.write(0, index * 2000, 24);
        }
        story.until_answered();
        story.start(1);
        story.end();
    }
}

#[test]
fn split_brain_ends_standalone() {
    for seed in 40..46 {
        let mut story = Story::serving(Profile::calm(seed, 16, true));
        story.world.network.blocked = [true; 2];
        story.write(0, 0, 8);
        story.until("noticed", |world| {
            (0..2).all(|node| world.facts(node, 0).is_some_and(|facts| !facts.is_connected()))
        });
        story.until_answered();
        story.promote(1, false);
        story.write(1, 40, 8);
        story.until_answered();
        story.world.network.blocked = [false; 2];
        story.until("refused", |world| {
            (0..2).any(|node| world.facts(node, 0).is_some_and(|facts| facts.connection == ConnectionState::StandAlone))
        });
        story.run_for(10 * SECOND);
        let connected = (0..2).any(|node| story.world.facts(node, 0).is_some_and(|facts| facts.is_connected()));
        assert!(!connected, "a split brain must not be connected over");
    }
}

#[test]
fn a_disk_that_was_never_whole_cannot_be_outdated() {
    let mut story = Story::begin(91, 6, false);
    story.until_connected(0);
    story.world.command(0, Command::Outdate { volume: 0 });
    story.run_for(5 * SECOND);
    let disks = [0, 1].map(|node| story.world.facts(node, 0).map(|facts| facts.disk));
    assert_eq!(disks, [Some(DiskState::Inconsistent); 2]);
}

/// Whoever asked has gone away before the peer's consent comes.
#[test]
fn a_promotion_that_nobody_waits_for_does_not_come_true() {
    for seed in 92..98 {
        let mut story = Story::begin(seed, 6, true);
        story.until_in_sync();
        let now = story.world.now;
        story.world.network.links.values_mut().for_each(|link| link.stalled_until = now + 200 * MILLISECOND);
        let id = story.world.command(0, Command::Primary { force: false });
        story.run_for(20 * MILLISECOND);
        story.world.deliver(0, Event::CommandGivenUp(id.expect("it is up")));
        story.run_for(5 * SECOND);
        for node in 0..2 {
            let facts = story.world.facts(node, 0).expect("it is up");
            assert_eq!((facts.role, facts.peer_role), (Role::Secondary, Role::Secondary), "seed {seed}, node {node}");
        }
        // And it is no obstacle to the next one.
        story.promote(0, false);
        story.end();
    }
}

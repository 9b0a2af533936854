//! Two nodes that meet, each with its own idea of the past.

use shimai::model::state::{ConnectionState, DiskState};
use shimai::replica::event::Command;
use shimai::wire::command as packet;
use shimai::wire::packet::AfterSplitBrain;

use super::Story;
use crate::profile::{Fault, MICROSECOND, MILLISECOND, Profile, SECOND};
use crate::world::World;

#[test]
fn a_target_that_comes_and_goes_before_a_slow_source_is_ready_is_still_related() {
    for seed in 60..63 {
        let mut story = Story::serving(Profile::calm(seed, 16, true));
        story.write(0, 0, 8);
        story.until_answered();
        let detached = |world: &World| {
            world.facts(1, 0).is_some_and(|facts| facts.disk == DiskState::Diskless)
                && world.nodes[1].disks[0].is_idle()
        };
        for round in 0..4 {
            story.world.command(1, Command::Detach { volume: 0, force: true });
            story.until("detached", detached);
            if round == 0 {
                story.write(0, 0, 8);
                story.until_answered();
                story.world.nodes[0].stalled_until = story.world.now + 3 * SECOND;
            }
            story.world.attach(1, 0);
            story.is_state(1, ConnectionState::WfSyncUuid);
        }
        // It does not hear of the resync's beginning either.
        story.world.nodes[1].stalled_until = story.world.now + 10 * SECOND;
        story.is_state(0, ConnectionState::SyncSource);
        story.lose_power(1);
        story.run_for(SECOND);
        story.start(1);
        story.end();
    }
}

#[test]
fn an_old_disk_that_meets_a_node_without_one_stays_old() {
    for seed in 64..67 {
        let mut story = Story::with_a_laggard(Profile::calm(seed, 16, true), &[0]);
        story.world.nodes[0].stalled_until = story.world.now + 3 * SECOND;
        story.start(1);
        story.is_state(1, ConnectionState::WfSyncUuid);
        story.world.command(0, Command::Detach { volume: 0, force: true });
        story.world.cut(Fault::Cut);
        story.run_for(2 * SECOND);
        let facts = story.world.facts(1, 0).expect("it runs");
        assert!(facts.disk < DiskState::UpToDate, "{}", facts.short());
        story.until_device_free(0);
        story.run_for(100 * MILLISECOND);
        story.world.attach(0, 0);
        story.until("back", |world| world.facts(0, 0).is_some_and(|facts| facts.disk == DiskState::UpToDate));
        story.world.command(0, Command::Connect { discard_my_data: false });
        story.end();
    }
}

#[test]
fn disks_that_come_during_the_handshake_are_compared() {
    for seed in 70..76 {
        let mut story = Story::with_a_laggard(Profile::calm(seed, 16, true), &[0]);
        story.lose_power(0);
        for node in 0..2 {
            story.until_device_free(node);
            story.world.start(node);
            story.world.connect(node);
        }
        let shaking_hands = |world: &World| {
            (0..2).all(|node| {
                world.facts(node, 0).is_some_and(|facts| facts.connection == ConnectionState::WfReportParams)
            })
        };
        story.until("both know each other", shaking_hands);
        // Each has told the other of no disk, and neither has heard it.
        story.run_for(60 * MICROSECOND);
        let stall = story.world.now + SECOND;
        story.world.network.links.values_mut().for_each(|link| link.stalled_until = stall);
        (0..2).for_each(|node| story.world.attach(node, 0));
        story.end();
    }
}

/// The other node's blank disk comes up at the very moment in which this one's data is declared good.
#[test]
fn a_disk_that_comes_while_the_other_is_forced_gets_its_data() {
    for seed in 130..200 {
        let mut story = Story::begin(seed, 6, false);
        let node = (seed % 2) as usize;
        story.until("connected, with a disk", |world| {
            world.facts(node, 0).is_some_and(|facts| facts.is_connected() && facts.disk == DiskState::Inconsistent)
        });
        story.run_for(seed % 7 * 200 * MICROSECOND);
        story.promote(node, true);
        story.end();
    }
}

/// Applications write after their node has told how many of its blocks differ, and before the two compare.
#[test]
fn a_split_brain_is_judged_by_the_numbers_that_were_told() {
    for seed in 300..306 {
        let mut profile = Profile::plain(seed, 16);
        profile.peer.after_split_brain =
            [AfterSplitBrain::DiscardLeastChanges, AfterSplitBrain::Consensus, AfterSplitBrain::Disconnect];
        let mut story = Story::serving(profile);
        story.world.network.blocked = [true; 2];
        story.world.operator.disconnected(1, 0);
        story.command(1, Command::Disconnect { force: true });
        story.world.cut(Fault::Cut);
        (0..2).for_each(|node| story.until_parted(node));
        (0..2).for_each(|place| _ = story.write(0, place * 64, 8));
        story.until_answered();
        story.promote(1, false);
        (0..3).for_each(|place| _ = story.write(1, place * 64, 8));
        story.until_answered();
        story.world.close_volume(0);
        story.command(1, Command::Secondary);
        story.until_obeyed();
        story.world.open(0, 0);
        story.world.network.blocked = [false; 2];
        let told = story.world.tap.sent(0, packet::Command::Uuids);
        story.command(1, Command::Connect { discard_my_data: false });
        story.until("told", |world| world.tap.sent(0, packet::Command::Uuids) > told);
        let (link, _) = story.world.network.link_of(0, false).expect("it is connected");
        let set_deaf = |story: &mut Story, deaf| {
            let link = story.world.network.links.get_mut(&link).expect("it lives");
            link.ends.iter_mut().for_each(|end| end.deaf = deaf);
        };
        set_deaf(&mut story, true);
        (10..15).for_each(|place| _ = story.write(0, place * 64, 8));
        story.until_answered();
        story.expect(story.facts(0).connection == ConnectionState::WfReportParams, "they have not compared");
        set_deaf(&mut story, false);
        story.run_for(2 * SECOND);
        let begun = story.world.timeline.iter().any(|line| line.contains("-> WFBitMap"));
        story.expect(!begun, "by two blocks against three the Primary would lose, so nothing is decided");
    }
}

#[test]
fn a_dry_run_of_a_connection_changes_nothing() {
    for seed in 310..314 {
        let mut story = Story::with_a_laggard(Profile::plain(seed, 16), &[0, 64]);
        story.world.start(1);
        story.until_device_free(1);
        story.world.attach(1, 0);
        story.until_disk(1, DiskState::UpToDate);
        story.run_for(3 * SECOND);
        let look = |story: &Story| {
            [0, 1].map(|node| {
                let facts = story.facts(node);
                let disk = &story.world.nodes[node].disks[0];
                let superblock = crate::fork::superblock(&disk.stable, &story.world.layouts[0], disk.bytes);
                (facts.disk, facts.dirty, facts.current, superblock.map(|it| (it.generations, it.flags)))
            })
        };
        let before = look(&story);
        story.world.tap.dry_run = true;
        // A refusal has other reasons than a split brain now.
        story.world.watch.disturbed = true;
        story.world.connect(1);
        story.until("refused", |world| world.timeline.iter().any(|line| line.contains("nothing of this is done")));
        story.run_for(3 * SECOND);
        let is_same = format!("{before:?}") == format!("{:?}", look(&story));
        story.expect(is_same, "nothing has changed");
        story.world.tap.dry_run = false;
        for node in 0..2 {
            story.world.nodes[node].process.as_mut().expect("it is up").refused = false;
            story.world.connect(node);
        }
        story.end();
    }
}

/// Applications have seen what only the Primary's failed disk has. The other disk is old, whatever is not said of it yet.
#[test]
fn an_old_disk_that_is_attached_at_the_peer_of_a_primary_without_one_serves_nobody() {
    for seed in 320..326 {
        let mut story = Story::with_a_laggard(Profile::plain(seed, 16), &[0]);
        story.slow_down(0, 2 * SECOND);
        story.world.start(1);
        story.world.attach(1, 0);
        story.until_disk(1, DiskState::UpToDate);
        story.world.connect(1);
        story.is_state(1, ConnectionState::WfSyncUuid);
        story.command(0, Command::Detach { volume: 0, force: true });
        story.run_for(100 * MILLISECOND);
        story.expect(story.facts(1).disk == DiskState::Outdated, "it has been compared");
        story.take_disk(1);
        let id = story.write(0, 64, 8);
        story.world.attach(1, 0);
        let is_back = |world: &World| world.facts(1, 0).is_some_and(|facts| facts.disk == DiskState::Outdated);
        story.until("back, or taken for good", |world| {
            is_back(world) || world.facts(0, 0).is_some_and(|facts| facts.peer_disk == DiskState::UpToDate)
        });
        story.run_for(MILLISECOND);
        story.expect(story.facts(0).peer_disk < DiskState::UpToDate && !story.acked(id), "it serves nobody");
        story.until_device_free(0);
        story.run_for(100 * MILLISECOND);
        story.world.attach(0, 0);
        story.until_in_sync();
        story.end();
    }
}

/// A Primary without a disk attaches its old one, and the peer's goes before they are compared: what only that one has would
/// be missing.
#[test]
fn an_old_disk_is_not_taken_for_good_because_the_one_to_compare_with_is_gone() {
    for (seed, writes) in (330..336).flat_map(|seed| [(seed, true), (seed, false)]) {
        let mut story = Story::serving(Profile::plain(seed, 16));
        story.write(0, 0, 8);
        story.until_answered();
        story.take_disk(0);
        if writes {
            story.write(0, 0, 8);
            // Confirmed, or the peer would part as its disk goes.
            story.world.flush(0, 0);
            story.until_answered();
        }
        let (link, side) = story.world.network.link_of(1, false).expect("it is connected");
        let set_deaf = |story: &mut Story, deaf| {
            if let Some(link) = story.world.network.links.get_mut(&link) {
                link.ends[side].deaf = deaf;
            }
        };
        set_deaf(&mut story, true);
        story.world.attach(0, 0);
        story.until_disk(0, DiskState::Negotiating);
        story.take_disk(1);
        story.until("told", |world| world.facts(0, 0).is_some_and(|facts| facts.peer_disk < DiskState::Inconsistent));
        story.run_for(100 * MILLISECOND);
        let disk = story.facts(0).disk;
        if writes {
            story.expect(disk < DiskState::Inconsistent, "it is given back");
        } else {
            story.expect(disk == DiskState::UpToDate, "nothing has passed it by");
        }
        set_deaf(&mut story, false);
        story.run_for(100 * MILLISECOND);
        story.world.attach(1, 0);
        story.run_for(500 * MILLISECOND);
        story.until_device_free(0);
        story.world.attach(0, 0);
        story.end();
    }
}

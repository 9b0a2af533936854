//! What one peer can take and another cannot: sizes of packets and of disks.

use shimai::metadata::layout::Placement;
use shimai::model::state::{ConnectionState, DiskState};
use shimai::replica::event::Command;
use shimai::wire::command as packet;
use shimai::wire::framing::Features;

use super::Story;
use crate::profile::{ExternalMetadata, MILLISECOND, Profile, SECOND};
use crate::world::World;

/// It was cut before the peer was there, and waits for the activity log until the peer is.
#[test]
fn a_write_that_is_more_than_a_new_peer_takes_is_not_sent_to_it() {
    for (seed, zeroes) in [(260, false), (261, false), (262, true), (263, true)] {
        let mut profile = Profile::plain(seed, 16);
        profile.peer.version_max = 96;
        profile.features = Features::NONE.0;
        let mut story = Story::with_a_laggard(profile, &[0]);
        story.slow_down(0, 3 * SECOND);
        match zeroes {
            true => story.world.zero(0, 0, (16384, 16384 + 6144), false, false),
            false => _ = story.write(0, 16384, 2048),
        }
        story.speed_up(0);
        story.start(1);
        story.run_for(2500 * MILLISECOND);
        story.expect(story.facts(0).is_in_sync() && !story.world.client.outstanding.is_empty(), "it still waits");
        let sent = story.world.tap.sent(0, packet::Command::Data);
        story.until_answered();
        story.expect(story.world.tap.sent(0, packet::Command::Data) == sent, "it is not sent");
        story.end();
    }
}

/// The peer can be told to discard, and a discard need not read as zeroes where it must not unmap: zeroes go as data.
#[test]
fn zeroes_that_must_not_unmap_go_in_pieces_to_a_peer_that_only_discards() {
    for seed in 264..272 {
        let mut profile = Profile::plain(seed, 16);
        profile.features = Features::TRIM.0;
        let mut story = Story::serving(profile);
        story.write(0, 0, 2048);
        (0..4).for_each(|number| story.world.zero(0, 0, (number * 6144, number * 6144 + 6144), false, false));
        story.until_answered();
        story.end();
    }
}

/// A node's disk is new and has another size.
fn with_an_odd_disk(seed: u64, born_in_sync: bool, odd: usize, bytes: u64) -> Profile {
    let mut profile = Profile::plain(seed, 16);
    profile.born_in_sync = born_in_sync;
    profile.odd_disk = Some((odd, bytes));
    profile.external = Some(ExternalMetadata { device_bytes: 64 * 4096, disks: profile.disks.clone() });
    profile.volume.placement = Placement::FlexibleExternal;
    profile
}

/// The nodes meet when the given operation of one node's attach is under way; the other one's disk is attached already.
fn attach_while_they_meet(profile: Profile, node: usize, operation: u64) -> Story {
    let mut world = World::new(profile, true);
    world.operator.idle = true;
    (0..2).for_each(|node| world.start(node));
    let mut story = Story { world };
    let is_answered = |world: &World| world.operator.is_answered();
    let begun = |world: &World| world.nodes[node].metadata(&world.profile, 0).begun();
    story.world.attach(1 - node, 0);
    story.until("answered", is_answered);
    story.world.attach(node, 0);
    story.until("it is at that operation", |world| begun(world) >= operation);
    story.slow_down(node, SECOND);
    story.until("the next one is under way, or none", |world| begun(world) > operation || is_answered(world));
    story.speed_up(node);
    (0..2).for_each(|node| story.world.connect(node));
    story.run_for(500 * MILLISECOND);
    story.until("answered", is_answered);
    story
}

fn are_connected(world: &World) -> bool {
    (0..2).all(|node| world.facts(node, 0).is_some_and(|it| it.is_connected()))
}

fn have_one_size(story: &Story) {
    let sectors = story.world.layouts[0].usable_sectors;
    for node in 0..2 {
        let process = story.world.nodes[node].process.as_ref().expect("it is up");
        let facts = process.resource.volume_facts(0);
        let blocks = facts.bitmap.map(shimai::bitmap::Bitmap::blocks);
        let sizes = (facts.device_sectors, blocks);
        story.expect(sizes == (sectors, Some(sectors.div_ceil(8))), &format!("node {node} has one size: {sizes:?}"));
        let disk = story.world.nodes[node].metadata(&story.world.profile, 0);
        let superblock = crate::fork::superblock(&disk.stable, &story.world.layouts[0], disk.bytes);
        let stored = superblock.map(|it| it.effective_size_sectors);
        story.expect(stored == Ok(sectors), &format!("its disk says so: {stored:?}"));
    }
}

fn agree_on_one_size(mut story: Story, born_in_sync: bool) {
    story.until("connected", are_connected);
    if !born_in_sync {
        story.until_disk(0, DiskState::Inconsistent);
        story.promote(0, true);
    }
    story.until_in_sync();
    if born_in_sync {
        story.promote(0, false);
    }
    have_one_size(&story);
    story.write(0, 16, 8);
    story.end();
}

#[test]
fn a_larger_disk_that_is_attached_while_the_peer_connects_gets_the_size_of_the_device() {
    for (operation, born_in_sync) in (1..5).flat_map(|operation| [(operation, false), (operation, true)]) {
        let profile = with_an_odd_disk(280 + operation, born_in_sync, 0, 24 << 20);
        let mut story = attach_while_they_meet(profile, 0, operation);
        story.world.watch.full_sync_was_due[0] |= born_in_sync;
        agree_on_one_size(story, born_in_sync);
    }
}

/// It has no room for the device. Alone, it is attached, and the two agree when they connect.
#[test]
fn a_smaller_disk_that_is_attached_while_the_peer_connects_is_refused_or_makes_the_device_small() {
    for operation in 1..5 {
        let profile = with_an_odd_disk(290 + operation, false, 0, 12 << 20);
        let mut story = attach_while_they_meet(profile, 0, operation);
        if story.facts(0).disk == DiskState::Diskless {
            story.world.operator.disconnected(0, 0);
            story.command(0, Command::Disconnect { force: false });
            story.is_state(0, ConnectionState::StandAlone);
            story.world.attach(0, 0);
            story.until_disk(0, DiskState::Inconsistent);
            story.world.connect(0);
        }
        agree_on_one_size(story, false);
    }
}

/// The other node's disk is new, and has no room for what is there.
#[test]
fn a_disk_with_data_does_not_shrink_because_a_small_one_connects() {
    for operation in 1..5 {
        let profile = with_an_odd_disk(294 + operation, true, 1, 12 << 20);
        let mut story = attach_while_they_meet(profile, 0, operation);
        // A refusal has other reasons than a split brain.
        story.world.watch.disturbed = true;
        story.run_for(2 * SECOND);
        story.expect(
            story.facts(0).disk == DiskState::Diskless || !story.facts(0).is_connected(),
            "one of both is refused",
        );
        for node in 0..2 {
            story.world.operator.disconnected(node, u64::MAX);
            story.command(node, Command::Disconnect { force: true });
        }
        story.is_state(0, ConnectionState::StandAlone);
        story.world.attach(0, 0);
        story.until_disk(0, DiskState::UpToDate);
        story.expect(story.facts(0).device_sectors == 32768, "it is as large as it was");
        story.promote(0, false);
    }
}

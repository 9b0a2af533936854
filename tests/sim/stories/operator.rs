//! What operators ask for, and what is true when they are answered.

use shimai::model::state::{ConnectionState, DiskState, StateWord};
use shimai::replica::event::Command;
use shimai::wire::packet::{Packet, StateChange};

use super::Story;
use crate::profile::{MILLISECOND, Profile, SECOND};

/// Whoever copies the disk after the answer may copy blocks that are about to be written.
#[test]
fn a_bitmap_that_is_cleared_by_an_operator_keeps_the_writes_under_way() {
    for seed in 200..204 {
        let mut story = Story::serving(Profile::plain(seed, 16));
        story.write(0, 0, 8);
        story.until_answered();
        story.world.operator.disconnected(0, 0);
        story.command(0, Command::Disconnect { force: false });
        story.is_state(0, ConnectionState::StandAlone);
        story.write(0, 800, 8);
        story.until_answered();
        story.slow_down(0, SECOND);
        story.write(0, 16, 8);
        story.speed_up(0);
        story.command(0, Command::NewCurrentUuid { volume: 0, clear_bitmap: true });
        story.until_obeyed();
        story.expect(!story.world.client.outstanding.is_empty(), "the write is under way");
        story.expect(story.facts(0).dirty == Some(1) && story.is_dirty(0, 2), "only its block counts");
        story.until_answered();
        story.expect(story.facts(0).dirty == Some(1) && story.is_dirty(0, 2), "it still does");
        // To the other node this is nothing that its bitmap could have counted from.
        story.world.watch.full_sync_was_due[0] = true;
        story.command(0, Command::Connect { discard_my_data: false });
        story.end();
    }
}

/// As a kernel does whose operator disconnects it from a Primary, with fencing.
#[test]
fn a_peer_that_outdates_itself_as_it_leaves_is_gone_at_once() {
    for seed in 210..216 {
        let mut story = Story::serving(Profile::plain(seed, 16));
        story.write(0, 0, 8);
        story.until_answered();
        let before = story.facts(0).current;
        let leaving = StateChange {
            mask: StateWord::default().with_conn(31).with_disk(15),
            value: StateWord::default()
                .with_conn(ConnectionState::Disconnecting.number())
                .with_disk(DiskState::Outdated.number()),
        };
        story.world.slip_in(1, &Packet::ConnectionStateChangeRequest(leaving));
        story.run_for(5 * MILLISECOND);
        let facts = story.facts(0);
        story.expect(!facts.is_connected() && facts.peer_disk == DiskState::Outdated, "it is gone, and old");
        story.expect(facts.current != before, "a new generation has begun");
        // That the generation is durable before the answer is one of the laws.
        let id = story.write(0, 0, 8);
        story.until_answered();
        story.expect(story.acked(id), "the Primary goes on");
        story.end();
    }
}

/// The power fails as soon as the operator has been told that the copy is invalid; the bitmap may not have been written.
#[test]
fn an_invalidation_that_was_answered_is_complete_whatever_comes() {
    for (seed, is_connected) in (320..340).flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut story = Story::begin_with(Profile::plain(seed, 16));
        story.until_in_sync();
        if !is_connected {
            story.world.operator.disconnected(1, 0);
            story.command(1, Command::Disconnect { force: false });
            story.is_state(1, ConnectionState::StandAlone);
            story.until_obeyed();
        }
        story.world.oracle.copies[0][1].given_up = true;
        story.world.watch.full_sync_was_due[0] = true;
        story.slow_down(1, SECOND);
        story.command(1, Command::Invalidate { volume: 0 });
        story.until_obeyed();
        (0..2).for_each(|node| story.lose_power(node));
        story.speed_up(1);
        story.world.start(1);
        story.until_device_free(1);
        story.world.attach(1, 0);
        story.until_obeyed();
        let facts = story.facts(1);
        story.expect(facts.disk == DiskState::Inconsistent, "it stays invalid");
        story.expect(facts.dirty == Some(facts.device_sectors.div_ceil(8)), "all of it");
        story.start(0);
        story.world.connect(1);
        story.end();
    }
}

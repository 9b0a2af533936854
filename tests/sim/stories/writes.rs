//! Writes and reads under way while something else happens.

use shimai::model::state::DiskState;
use shimai::replica::event::Command;

use super::Story;
use crate::profile::{MILLISECOND, Profile, SECOND};
use crate::world::World;

/// A flush closes an epoch whose writes are still under way on a disk that is being detached.
#[test]
fn an_epoch_of_a_disk_that_is_being_detached_is_flushed_before_it_is_confirmed() {
    for seed in 70..90 {
        let mut story = Story::serving(Profile::calm(seed, 16, true));
        story.write(0, 100, 8);
        story.until_answered();
        let now = story.world.now;
        story.world.nodes[1].stalled_until = now + SECOND;
        story.write(0, 5000, 8);
        story.world.flush(0, 0);
        story.run_for(100 * MILLISECOND);
        story.world.command(1, Command::Detach { volume: 0, force: false });
        story.until_answered();
        story.until("the epoch is confirmed", |world| world.facts(0, 0).is_some_and(|facts| facts.pinned == 0));
        story.lose_power(1);
        story.until_parted(0);
        story.start(1);
        story.end();
    }
}

/// A disk that takes nothing for a while does not make its node take the whole stream into memory.
#[test]
fn a_secondary_with_a_slow_disk_stops_reading_and_goes_on() {
    let mut stopped = 0;
    for seed in 100..110 {
        let mut story = Story::serving(Profile::calm(seed, 64, true));
        let now = story.world.now;
        story.world.nodes[1].stalled_until = now + 900 * MILLISECOND;
        for index in 0..2500 {
            story.write(0, index * 16, 8);
        }
        let is_stopped =
            |world: &World| world.network.links.values().any(|link| link.ends.iter().any(|end| end.throttled));
        while story.world.now < now + 800 * MILLISECOND && !is_stopped(&story.world) {
            story.world.step(now + 800 * MILLISECOND);
        }
        story.check();
        stopped += u32::from(is_stopped(&story.world));
        story.until_answered();
        story.end();
    }
    assert!(stopped > 0, "no link was fast enough to be stopped");
}

/// The peer answers pings, but a read that a diskless Primary has asked it for never ends.
#[test]
fn a_peer_that_does_not_answer_a_read_is_knocked_out() {
    for seed in 110..114 {
        let mut story = Story::serving(Profile::calm(seed, 6, true));
        story.write(0, 0, 16);
        story.until_answered();
        story.world.command(0, Command::Detach { volume: 0, force: false });
        story.until_disk(0, DiskState::Diskless);
        let stalled_until = story.world.now + 60 * SECOND;
        story.world.nodes[1].stalled_until = stalled_until;
        story.world.read(0, 0, (0, 8));
        story.until("knocked out", |world| world.facts(0, 0).is_some_and(|facts| !facts.is_connected()));
        assert!(story.world.now < stalled_until, "seed {seed}: only the end of the read ended the wait");
        story.until_answered();
        story.run_for(60 * SECOND);
        story.world.attach(0, 0);
        story.end();
    }
}

/// Both have more to send than they like to keep, and each reads on all the same.
#[test]
fn two_nodes_with_much_to_send_do_not_wait_for_each_other() {
    let mut story = Story::serving(Profile::plain(370, 200));
    story.command(0, Command::Detach { volume: 0, force: false });
    story.until_disk(0, DiskState::Diskless);
    let (sessions, since) = (story.world.watch.sessions, story.world.now);
    let mebibyte = 2048;
    for number in 0..160 {
        story.write(0, number * mebibyte, mebibyte);
        let place = (170 + number % 20) * mebibyte;
        story.world.read(0, 0, (place, place + mebibyte));
    }
    story.until_answered();
    let seconds = (story.world.now - since) / SECOND;
    story.expect(story.world.watch.sessions == sessions, "they stayed connected");
    story.expect(seconds < 10, &format!("it took {seconds} s"));
    story.world.attach(0, 0);
    story.end();
}

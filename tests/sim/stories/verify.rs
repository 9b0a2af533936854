//! An online verify: it finds what differs, all of it and nothing else.

use std::collections::BTreeSet;

use bytes::Bytes;
use shimai::model::state::ConnectionState;
use shimai::replica::event::Command;
use shimai::wire::command::Command as Word;
use shimai::wire::packet::ReplicationProtocol;

use super::Story;
use crate::profile::{MILLISECOND, Profile, SECOND};
use crate::world::World;

fn with_a_digest(seed: u64) -> Profile {
    let mut profile = Profile::plain(seed, 16);
    profile.peer.verify_alg = "md5".into();
    profile
}

impl Story {
    fn verify(&mut self, node: usize) {
        self.command(node, Command::Verify { volume: 0, start: None, stop: None });
        self.is_state(node, ConnectionState::VerifyS);
    }

    fn until_verified(&mut self) {
        let is_over = |world: &World| {
            (0..2).all(|node| world.facts(node, 0).is_some_and(|it| it.connection == ConnectionState::Connected))
        };
        self.until("verified", is_over);
    }

    fn marked(&self, node: usize) -> BTreeSet<u64> {
        let blocks = self.world.layouts[0].usable_sectors.div_ceil(8);
        (0..blocks).filter(|&block| self.is_dirty(node, block)).collect()
    }
}

/// Bytes of the Secondary's disk change behind the machine's back. Either node may ask.
#[test]
fn what_a_disk_has_changed_by_itself_is_found_and_repaired_from_the_primary() {
    let planted = BTreeSet::from([1, 2, 3, 100, 2000]);
    for seed in 300..306 {
        let mut story = Story::serving(with_a_digest(seed));
        for place in [0, 800, 16_000] {
            story.write(0, place, 32);
        }
        story.until_answered();
        story.until_in_sync();
        // The laws know nothing of such disks.
        story.world.watch.void = true;
        for block in &planted {
            // The last sector of a block counts like the first.
            let sector = block * 8 + (block % 2) * 7;
            story.world.nodes[1].disks[0].prepare(sector * 512, &Bytes::from(vec![0xee; 512]));
        }
        story.verify((seed % 2) as usize);
        story.until_verified();
        for node in 0..2 {
            story.expect(story.marked(node) == planted, "both have marked exactly what differs");
        }
        story.world.operator.disconnected(0, 0);
        story.command(0, Command::Disconnect { force: false });
        story.is_state(0, ConnectionState::StandAlone);
        story.command(0, Command::Connect { discard_my_data: false });
        story.until_in_sync();
        story.world.watch.void = false;
        for node in 0..2 {
            story.expect(story.marked(node).is_empty(), "it is repaired");
        }
        story.end();
    }
}

/// Applications write where it compares, before and behind it: none of that is a difference.
#[test]
fn writes_on_their_way_are_no_differences() {
    let protocols = [ReplicationProtocol::A, ReplicationProtocol::B, ReplicationProtocol::C];
    for seed in 310..328 {
        let mut profile = with_a_digest(seed);
        profile.protocol = protocols[(seed % 3) as usize];
        let mut story = Story::serving(profile);
        let source = (seed % 2) as usize;
        story.verify(source);
        let mut writes = 0;
        while story.facts(source).connection == ConnectionState::VerifyS && writes < 3000 {
            let asked = story.world.tap.sent(source, Word::OnlineVerifyRequest);
            let place = (asked * 8 + seed * 7 % 61).saturating_sub(writes * 37 % 200);
            story.write(0, place.min(16_000 * 2 - 64), 8 + writes % 48);
            writes += 1;
            story.run_for(writes % 5 * MILLISECOND / 4);
        }
        story.until_verified();
        story.until_answered();
        story.expect(writes > 50, "it has met writes");
        for node in 0..2 {
            story.expect(story.marked(node).is_empty(), "a difference that is none");
        }
        story.end();
    }
}

/// The connection goes in the midst; the next verify goes on from there.
#[test]
fn a_verify_that_is_cut_off_goes_on() {
    for seed in 330..334 {
        let mut story = Story::serving(with_a_digest(seed));
        let source = (seed % 2) as usize;
        story.verify(source);
        let half = |world: &World| world.tap.sent(source, Word::OnlineVerifyRequest) > 2000;
        story.until("half is compared", half);
        story.world.cut(crate::profile::Fault::Cut);
        story.until_parted(source);
        story.until_in_sync();
        story.run_for(SECOND);
        let before = story.world.tap.sent(source, Word::OnlineVerifyRequest);
        story.verify(source);
        story.until_verified();
        let blocks = story.world.layouts[0].usable_sectors.div_ceil(8);
        let asked = story.world.tap.sent(source, Word::OnlineVerifyRequest) - before;
        story.expect(asked < blocks - 1000 && before + asked >= blocks, "it goes on, and leaves nothing out");
        story.end();
    }
}

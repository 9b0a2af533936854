//! Resyncs that were given up while the connection lived, and ranges that were put off: late words of theirs mean nothing to
//! what follows.

use shimai::model::state::{ConnectionState, DiskState};
use shimai::model::units::Sector;
use shimai::wire::auth::DigestAlgorithm;
use shimai::wire::command::Command;
use shimai::wire::packet::{BlockAck, BlockId, Packet};

use super::Story;
use crate::profile::{MILLISECOND, Profile};

const PLACES: [u64; 5] = [0, 64, 128, 192, 256];

/// The target's disk goes and comes back while something of the source is on its way to it on the data stream.
fn a_late_word(seed: u64, state: ConnectionState, word: Command) {
    let mut profile = Profile::plain(seed, 16);
    profile.peer.use_rle = true;
    let mut story = Story::with_a_laggard(profile, &PLACES);
    story.start(1);
    story.is_state(1, state);
    let (link, side) = story.world.network.link_of(1, false).expect("it is connected");
    let set_deaf = |story: &mut Story, deaf| {
        if let Some(link) = story.world.network.links.get_mut(&link) {
            link.ends[side].deaf = deaf;
        }
    };
    set_deaf(&mut story, true);
    story.until("on its way", |world| world.tap.sent(0, word) > 0);
    let sessions = story.world.watch.sessions;
    story.take_disk(1);
    story.world.attach(1, 0);
    story.until_disk(1, DiskState::Negotiating);
    set_deaf(&mut story, false);
    story.until_in_sync();
    story.expect(story.world.watch.sessions == sessions, "they stayed connected");
    story.end();
}

#[test]
fn a_bitmap_that_comes_after_the_disk_went_and_came_back_is_no_reason_to_part() {
    (220..226).for_each(|seed| a_late_word(seed, ConnectionState::WfBitMapT, Command::CompressedBitmap));
}

#[test]
fn a_resync_that_is_named_after_the_disk_went_and_came_back_is_no_reason_to_part() {
    (230..236).for_each(|seed| a_late_word(seed, ConnectionState::WfSyncUuid, Command::SyncUuid));
}

/// As a source does that goes Ahead: the answer to one range will not come, those to the others are on their way.
#[test]
fn a_range_that_is_put_off_is_asked_for_again_and_no_other() {
    for seed in 340..344 {
        let mut story = Story::with_a_laggard(Profile::plain(seed, 16), &PLACES);
        story.world.tap.held_back = vec![(0, Command::ResyncDataReply)];
        story.start(1);
        story.until("all are served", |world| world.tap.kept() == PLACES.len());
        story.world.drop_first_kept();
        let cancel = BlockAck { sector: Sector(PLACES[0]), block_id: BlockId::RESYNC, bytes: 4096, sequence: 0 };
        story.world.slip_in(0, &Packet::ResyncCancel(cancel));
        story.run_for(500 * MILLISECOND);
        let asked = story.world.tap.sent(1, Command::ResyncDataRequest);
        story.expect(asked == PLACES.len() as u64 + 1, &format!("{asked} ranges have been asked for"));
        story.world.let_go();
        story.end();
    }
}

/// The target's disk goes and comes back, once or twice, while its acknowledgements are on their way.
#[test]
fn a_source_begins_anew_only_when_the_last_acknowledgements_have_come() {
    for (seed, times) in [(350, 1), (351, 1), (352, 2), (353, 2)] {
        let mut story = Story::with_a_laggard(Profile::plain(seed, 16), &PLACES);
        story.world.tap.held_back = vec![(1, Command::ResyncWriteAck), (1, Command::PingAck)];
        story.start(1);
        story.until("acknowledged", |world| world.tap.kept() > 0);
        for _ in 0..times {
            story.take_disk(1);
            // Acknowledgements of what was there before must not count for this.
            PLACES.iter().for_each(|&place| _ = story.write(0, place, 8));
            story.until_answered();
            story.world.attach(1, 0);
            story.is_state(1, ConnectionState::WfSyncUuid);
            story.run_for(500 * MILLISECOND);
            story.expect(story.facts(0).connection == ConnectionState::WfBitMapS, "the source waits");
        }
        story.world.let_go();
        story.end();
    }
}

/// A Primary has crashed and is source of what it may have written: most of it is equal. The answers that say so are on their
/// way when the target's disk goes and comes back.
#[test]
fn a_target_asks_anew_only_when_the_last_answers_have_come() {
    for seed in 360..364 {
        let mut profile = Profile::plain(seed, 16);
        profile.peer.csums = DigestAlgorithm::from_name("crc32c");
        let mut story = Story::serving(profile);
        story.write(0, 0, 8);
        story.until_answered();
        story.lose_power(0);
        story.until_parted(1);
        story.world.tap.held_back = vec![(0, Command::ResyncIsInSync), (0, Command::PingAck)];
        story.start(0);
        story.until("found equal", |world| world.tap.kept() > 0);
        story.promote(0, false);
        story.take_disk(1);
        (0..4).for_each(|number| _ = story.write(0, number * 512, 8));
        story.until_answered();
        let asked = story.world.tap.sent(1, Command::ChecksumResyncRequest);
        story.world.attach(1, 0);
        story.is_state(1, ConnectionState::SyncTarget);
        story.run_for(500 * MILLISECOND);
        let since = story.world.tap.sent(1, Command::ChecksumResyncRequest) - asked;
        story.expect(since == 0, &format!("{since} ranges have been asked for"));
        story.world.let_go();
        story.end();
    }
}

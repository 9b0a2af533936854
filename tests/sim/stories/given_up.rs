//! Resyncs that were given up while the connection lived: their late words mean nothing to those that follow.

use shimai::model::state::ConnectionState;
use shimai::wire::command::Command;

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
    story.take_disk_and_give_it_back(1);
    story.until_disk(1, shimai::model::state::DiskState::Negotiating);
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

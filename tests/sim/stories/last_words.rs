//! The end of a resync as a kernel's target tells it: what it says of itself and what it says of blocks come on different
//! streams, and one may overtake the other.

use shimai::model::state::{ConnectionState, DiskState};
use shimai::replica::event;
use shimai::replica::settings::OnIoError;
use shimai::wire::command::Command;

use super::Story;
use crate::profile::{Fault, MILLISECOND, Profile, SECOND};

const PLACES: [u64; 5] = [0, 64, 128, 192, 256];

/// The target has said that it is done; what it says of the blocks is kept on its way.
fn an_early_word(profile: Profile, kept: &[Command], disk: DiskState) -> Story {
    let mut story = Story::with_a_laggard(profile, &PLACES);
    story.world.tap.held_back = kept.iter().map(|&command| (1, command)).collect();
    if disk == DiskState::Inconsistent {
        story.world.nodes[0].disks[0].unreadable.insert(PLACES[2] + 1);
    }
    story.start(1);
    story.is_state(1, ConnectionState::SyncTarget);
    story.is_state(1, ConnectionState::Connected);
    story.until_disk(1, disk);
    story
}

#[test]
fn a_target_that_says_it_is_done_before_its_last_acknowledgements_is_waited_for() {
    for seed in 150..156 {
        let kept = [Command::ResyncWriteAck, Command::PingAck];
        let mut story = an_early_word(Profile::plain(seed, 16), &kept, DiskState::UpToDate);
        let sessions = story.world.watch.sessions;
        story.run_for(500 * MILLISECOND);
        let facts = story.facts(0);
        let waits = (facts.connection, facts.peer_disk) == (ConnectionState::SyncSource, DiskState::Inconsistent);
        story.expect(waits, "the source waits");
        story.world.let_go();
        story.until_in_sync();
        story.expect(story.world.watch.sessions == sessions, "they stayed connected");
        story.end();
    }
}

/// One block could not be read, so the target does not end well. Acknowledgements of the others are late, or never come.
#[test]
fn a_resync_that_ends_badly_holds_no_sectors() {
    for (seed, ever) in [(160, true), (161, true), (162, false), (163, false)] {
        let mut profile = Profile::plain(seed, 16);
        profile.volume.on_io_error = OnIoError::PassOn;
        let kept = [Command::ResyncWriteAck, Command::PingAck];
        let kept = if ever { &kept[..] } else { &kept[..1] };
        let mut story = an_early_word(profile, kept, DiskState::Inconsistent);
        story.run_for(500 * MILLISECOND);
        if ever {
            story.world.let_go();
        } else {
            story.world.drop_kept();
        }
        story.is_state(0, ConnectionState::Connected);
        story.run_for(100 * MILLISECOND);
        let left = if ever { 1 } else { PLACES.len() as u64 };
        story.expect(story.facts(0).dirty == Some(left), "what was acknowledged is in sync");
        let writes = PLACES.map(|place| story.write(0, place, 8));
        story.until_answered();
        story.expect(writes.iter().all(|&id| story.acked(id)), "applications write there");
        story.world.nodes[0].disks[0].unreadable.clear();
        story.world.cut(Fault::Cut);
        story.run_for(SECOND);
        story.end();
    }
}

#[test]
fn a_source_that_loses_its_disk_serves_from_the_target_that_had_said_it_is_done() {
    for seed in 170..176 {
        let kept = [Command::ResyncWriteAck, Command::PingAck];
        let mut story = an_early_word(Profile::plain(seed, 16), &kept, DiskState::UpToDate);
        story.run_for(100 * MILLISECOND);
        story.command(0, event::Command::Detach { volume: 0, force: true });
        story.until_disk(0, DiskState::Diskless);
        story.expect(story.facts(0).peer_disk == DiskState::UpToDate, "the target's word holds");
        story.world.read(0, 0, (0, 264));
        let id = story.write(0, 64, 16);
        story.until_answered();
        story.expect(story.acked(id), "it serves");
        let errors = story.world.counts.keys().any(|what| what.starts_with("error"));
        story.expect(!errors, "nothing has failed");
        story.world.let_go();
        story.run_for(100 * MILLISECOND);
        story.world.attach(0, 0);
        story.end();
    }
}

/// The target has the write in sync while the source's own disk is still busy with it.
#[test]
fn a_write_in_sync_at_the_target_counts_once_it_is_written_here_too() {
    for seed in 180..184 {
        let mut story = Story::with_a_laggard(Profile::plain(seed, 16), &PLACES);
        story.command(0, event::Command::PauseSync { volume: 0 });
        story.start(1);
        story.is_state(0, ConnectionState::PausedSyncS);
        story.world.tap.renamed = vec![(1, Command::WriteAck, Command::ResyncWriteAck)];
        story.slow_down(0, SECOND);
        story.write(0, PLACES[1], 8);
        story.run_for(500 * MILLISECOND);
        story.expect(story.world.tap.sent(1, Command::WriteAck) == 1, "the target has it");
        story.expect(story.is_dirty(0, PLACES[1] / 8), "it may still be lost here");
        story.until_answered();
        story.expect(!story.is_dirty(0, PLACES[1] / 8), "both have it");
        story.expect(story.is_dirty(0, PLACES[0] / 8), "and no other");
        story.command(0, event::Command::ResumeSync { volume: 0 });
        story.end();
    }
}

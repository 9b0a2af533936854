//! What is decided with the peer, or about it.

use super::*;
use crate::wire::packet::StateChange;

/// Pages of the bitmap are the only metadata that is written without a flush and without FUA.
fn is_bitmap_write(operation: &DiskOperation) -> bool {
    matches!(operation, DiskOperation::Write { area: Area::Metadata, preflush: false, fua: false, .. })
}

#[test]
fn a_peer_that_leaves_and_outdates_itself_leaves_a_new_generation_at_once() {
    let mut scene = Scene::begin();
    scene.shake_hands(&EQUAL);
    scene.promote();
    assert!(scene.generations().current.same_as(COMMON));
    let mask = StateWord::default().with_conn(31).with_disk(15);
    let value =
        StateWord::default().with_conn(ConnectionState::Disconnecting.number()).with_disk(DiskState::Outdated.number());
    scene.say(Stream::Data, &Packet::ConnectionStateChangeRequest(StateChange { mask, value }));

    let generations = scene.generations();
    assert!(!generations.current.same_as(COMMON), "before its streams have ended");
    assert!(generations.bitmap[0].same_as(COMMON));
    assert_eq!(scene.state().pdsk, DiskState::Outdated);
    assert!(scene.said.contains(&Packet::ConnectionStateChangeReply(1)));
}

/// Each node is asked for what it told the other, or they come to results that do not go together: one change against two
/// is a loss for the Primary, and then nothing is done.
#[test]
fn a_split_brain_is_judged_by_the_changes_that_were_told() {
    let mut settings = settings();
    settings.peers[0].after_split_brain =
        [AfterSplitBrain::DiscardLeastChanges, AfterSplitBrain::Consensus, AfterSplitBrain::Disconnect];
    for (their_blocks, expected) in [(2, ConnectionState::StandAlone), (0, ConnectionState::WfBitMapS)] {
        let mut scene = Scene::begin_with(settings.clone());
        scene.promote();
        scene.write(1, 1);
        scene.greet(&Theirs { changed_blocks: their_blocks, ..NEWER });
        (10..13).for_each(|block| {
            scene.write(block, 1);
        });
        assert_eq!(scene.bits(), [1, 10, 11, 12]);
        scene.say_state(ConnectionState::WfReportParams, DiskState::UpToDate, DiskState::Unknown);
        assert_eq!(scene.state().conn, expected);
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    for (writes_alone, theirs) in [(false, EQUAL), (false, NEWER), (true, EQUAL)] {
        let mut scene = Scene::begin();
        if writes_alone {
            scene.promote();
            scene.write(3, 1);
        }
        // What is changed in the bitmap is written now and then.
        scene.pass(Duration::from_secs(10));
        let before = (scene.generations(), scene.bits(), scene.state().disk, scene.view.clone());
        scene.shake_hands(&Theirs { dry_run: true, ..theirs });
        assert_eq!(scene.state().conn, ConnectionState::StandAlone);
        scene.pass(Duration::from_secs(10));
        let after = (scene.generations(), scene.bits(), scene.state().disk, scene.view.clone());
        assert!(before == after, "{:?}", (after.0, after.1, after.2));
        assert!(!scene.said.iter().any(|packet| matches!(packet, Packet::Bitmap(_) | Packet::CompressedBitmap(_))));
    }
}

/// The answer does not wait for the pages of the bitmap.
#[test]
fn an_invalidated_disk_is_synced_whole_after_a_power_loss_too() {
    for connected in [false, true] {
        let mut scene = Scene::begin();
        if connected {
            scene.shake_hands(&EQUAL);
        }
        scene.holds_back = is_bitmap_write;
        let id = scene.command(Command::Invalidate { volume: 0 });
        if connected {
            scene.say(Stream::Meta, &Packet::StateChangeReply(1));
        }
        assert_eq!(scene.answers.get(&id), Some(&true));
        scene.pass(Duration::from_secs(3));
        assert!(!scene.held_back.is_empty(), "its pages are on their way");

        scene.lose_power();
        let blocks = scene.machine.device_sectors(0).div_ceil(BLOCK_SECTORS);
        assert_eq!((scene.state().disk, scene.bits().len() as u64), (DiskState::Inconsistent, blocks));
    }
}

/// On its way down a Primary demotes itself. That this is done is no answer to those who wait for the end.
#[test]
fn a_primary_that_goes_down_says_so_when_its_disk_is_closed() {
    let mut scene = Scene::begin();
    scene.promote();
    scene.write(3, 1);
    scene.holds_back = |_| true;
    let ids = [CommandId::OF_THE_LOOP, CommandId::OF_THE_MACHINE];
    scene.event(Event::Command { id: ids[0], command: Command::Down });
    let mut has_waited = false;
    while !scene.held_back.is_empty() {
        let answered = ids.map(|id| scene.answers.contains_key(&id.0));
        assert!(!answered[0], "it is {} and {}", scene.machine.role(), scene.state().disk);
        has_waited |= answered[1];
        let (ticket, operation) = scene.held_back.remove(0);
        let event = scene.end(ticket, &operation);
        scene.event(event);
    }
    assert!(has_waited, "it was demoted before its disk was closed");
    assert_eq!((scene.answers.get(&ids[0].0), scene.state().disk), (Some(&true), DiskState::Diskless));
}

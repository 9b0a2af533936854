//! Writes of applications, and what happens around them while they are under way.

use super::*;
use crate::wire::packet::Data;

fn data_of(packet: &Packet) -> Option<Data> {
    if let Packet::Data(data) = packet { Some(data.clone()) } else { None }
}

/// Whoever copies the disk after the answer may copy these blocks before they are written.
#[test]
fn a_cleared_bitmap_keeps_the_writes_that_are_under_way() {
    let mut scene = Scene::begin();
    scene.promote();
    scene.write(3, 1);
    scene.holds_back = is_data_write;
    scene.write(5, 2);
    assert_eq!(scene.bits(), [3, 5, 6]);
    scene.order(Command::NewCurrentUuid { volume: 0, clear_bitmap: true });
    assert_eq!(scene.bits(), [5, 6]);
    scene.let_go();
    assert_eq!(scene.bits(), [5, 6]);
}

#[test]
fn a_block_that_the_target_has_in_sync_stays_marked_until_it_is_written_here() {
    let mut scene = Scene::begin();
    scene.become_source(&[5]);
    assert_eq!(scene.state().conn, ConnectionState::SyncSource);
    scene.holds_back = is_data_write;
    let id = scene.write(5, 1);
    let block_id = scene.heard(data_of).block_id;
    scene.say(Stream::Meta, &Packet::ResyncWriteAck(BlockAck { block_id, ..ack(5, 1) }));
    assert_eq!(scene.bits(), [5]);
    scene.let_go();
    assert_eq!((scene.replies.get(&id), scene.bits()), (Some(&true), vec![]));
}

/// The second write waits for the first; it was cut when there was no peer.
#[test]
fn a_write_that_waits_is_not_sent_to_a_peer_that_takes_less() {
    let mut scene = Scene::begin();
    scene.promote();
    scene.holds_back = is_data_write;
    let writes = [scene.write(0, 256), scene.write(0, 256)];
    scene.shake_hands(&Theirs { request_bytes_max: 128 << 10, ..EQUAL });
    scene.say_bits(&[]);
    assert_eq!(scene.state().conn, ConnectionState::SyncSource);

    scene.let_go();
    assert_eq!(scene.heard_all(data_of).len(), 0);
    assert!(scene.state().conn < ConnectionState::Connected);
    assert_eq!(writes.map(|id| scene.replies.get(&id).copied()), [Some(true); 2]);
    assert_eq!(scene.bits(), (0..256).collect::<Vec<_>>());
}

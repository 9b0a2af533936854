//! Resyncs that end, stop and begin again, with words that come in an awkward order.

use super::*;
use crate::wire::auth::DigestAlgorithm;
use crate::wire::packet::{BlockRequest, ReadReply};

/// Names of resyncs.
const NAME: GenerationId = GenerationId(0x3000);
const NEXT_NAME: GenerationId = GenerationId(0x4000);
const SECTORS_PER_RANGE: u64 = 256;
const BLOCKS_PER_RANGE: u64 = SECTORS_PER_RANGE / BLOCK_SECTORS;

fn reply(block: u64, blocks: u64, byte: u8) -> Packet {
    let payload = Bytes::from(vec![byte; (blocks * 4096) as usize]);
    Packet::ResyncDataReply(ReadReply {
        sector: BlockIndex(block).sector(),
        block_id: BlockId::RESYNC,
        digest: Bytes::new(),
        payload,
    })
}

fn request(block: u64) -> Packet {
    Packet::ResyncDataRequest(BlockRequest {
        sector: BlockIndex(block).sector(),
        block_id: BlockId::RESYNC,
        bytes: 4096,
    })
}

/// A write that an earlier resync began ends when the next one has begun, so nothing has flushed it when the source finds
/// that both have the same.
#[test]
fn blocks_with_equal_checksums_stay_marked_until_they_are_durable() {
    for flushed in [false, true] {
        let mut settings = settings();
        settings.peers[0].csums = DigestAlgorithm::from_name("crc32c");
        let mut scene = Scene::begin_with(settings);
        scene.become_target(&[3]);
        scene.say(Stream::Data, &Packet::SyncUuid(NAME));
        scene.holds_back = is_data_write;
        scene.say(Stream::Data, &reply(3, 1, 0xee));
        scene.cut();
        scene.shake_hands(&Theirs { bitmap: NAME, ..NEWER });
        scene.say_bits(&[3]);
        scene.say(Stream::Data, &Packet::SyncUuid(NEXT_NAME));
        scene.let_go();
        assert_eq!(scene.heard_all(asked_of), [Sector(24)], "it is asked for when the old write has ended");

        scene.holds_back = is_data_flush;
        scene.say(Stream::Meta, &Packet::ResyncIsInSync(ack(3, 1)));
        assert_eq!(scene.bits(), [3]);
        if flushed {
            scene.let_go();
            assert_eq!(scene.bits(), Vec::<u64>::new());
        }
        // Changed pages of the bitmap are written now and then.
        scene.pass(Duration::from_secs(3));
        scene.lose_power();
        let expected = if flushed { (0xee, vec![]) } else { (0, vec![3]) };
        assert_eq!((scene.block_on_disk(3), scene.bits()), expected);
    }
}

/// Its last word comes on the one stream, its last acknowledgement on the other; a ping that was on its way before tells
/// nothing of it.
#[test]
fn a_target_that_is_done_is_heard_out() {
    for acknowledged in [true, false] {
        let mut scene = Scene::begin();
        scene.become_source(&[1, 2]);
        scene.pass(scene.settings.peers[0].ping_interval);
        assert_eq!(scene.heard_all(ping_of).len(), 1);
        [1, 2].into_iter().for_each(|block| scene.say(Stream::Data, &request(block)));
        scene.say(Stream::Meta, &Packet::ResyncWriteAck(ack(1, 1)));
        scene.say_state(ConnectionState::Connected, DiskState::UpToDate, DiskState::UpToDate);
        assert_eq!(scene.heard_all(ping_of).len(), 2);
        scene.say(Stream::Meta, &Packet::PingAck);
        let state = scene.state();
        assert_eq!((state.conn, state.pdsk), (ConnectionState::SyncSource, DiskState::Inconsistent));

        if acknowledged {
            scene.say(Stream::Meta, &Packet::ResyncWriteAck(ack(2, 1)));
            let state = scene.state();
            assert_eq!((state.conn, state.pdsk), (ConnectionState::Connected, DiskState::UpToDate));
            assert_eq!(scene.bits(), Vec::<u64>::new());
        } else {
            // No more comes: it has stopped early.
            scene.say(Stream::Meta, &Packet::PingAck);
            assert!(scene.state().conn < ConnectionState::Connected);
            assert_eq!(scene.bits(), [2]);
        }
    }
}

/// At once, and to a peer that is there; the own resync goes on at that pace too, whatever the peer had told.
#[test]
fn a_pace_that_an_operator_changes_is_told_to_the_peer_and_counts() {
    let mut scene = Scene::begin();
    let told = |rate_kib| SyncParam { resync_rate: rate_kib, ..SyncParam::default() };
    let adjust = |scene: &mut Scene, rate_kib| {
        scene.settings.volumes[0].resync.rate_kib = rate_kib;
        scene.said.clear();
        let (peers, volumes) = (scene.settings.peers.clone(), scene.settings.volumes.clone());
        scene.order(Command::Adjust { peers, volumes, handlers: BTreeMap::new() });
        scene.heard_all(parameters_of).iter().map(|it| it.resync_rate).collect::<Vec<_>>()
    };
    assert_eq!(adjust(&mut scene, 20_000), Vec::<u32>::new(), "there is nobody to tell");
    let blocks: Vec<u64> = (0..BLOCKS_PER_RANGE * 8).collect();
    scene.become_target(&blocks);
    assert_eq!(scene.heard(parameters_of).resync_rate, 20_000);
    scene.say(Stream::Data, &Packet::SyncParam(told(1280)));
    scene.say(Stream::Data, &Packet::SyncUuid(NAME));
    assert_eq!(scene.machine.resync_settings(0, 0).rate_kib, 1280, "the peer told last");
    assert_eq!(scene.heard_all(asked_of).len(), 1, "a tenth of a second's worth");

    assert_eq!(adjust(&mut scene, 20_000), Vec::<u32>::new(), "nothing has changed");
    assert_eq!(adjust(&mut scene, 40_000), [40_000]);
    scene.pass(Duration::from_millis(100));
    assert_eq!(scene.heard_all(asked_of).len(), 7, "all the rest");
}

#[test]
fn late_words_to_a_target_whose_disk_went_are_overlooked() {
    for is_back in [false, true] {
        for merged in [false, true] {
            let mut scene = Scene::begin();
            scene.shake_hands(&NEWER);
            if merged {
                scene.say_bits(&[3]);
            }
            scene.order(Command::Detach { volume: 0, force: true });
            if is_back {
                scene.attach();
            }
            if merged {
                scene.say(Stream::Data, &Packet::SyncUuid(NAME));
            } else {
                scene.say_bits(&[3]);
            }
            assert_eq!(scene.state().conn, ConnectionState::Connected, "back: {is_back}, merged: {merged}");
        }
    }
}

/// The refusal of the first range moves the cursor back over the others, which are still on their way.
#[test]
fn a_range_that_was_cancelled_is_asked_for_again_and_no_other() {
    let mut scene = Scene::begin();
    let blocks: Vec<u64> = (0..3 * BLOCKS_PER_RANGE).collect();
    scene.become_target(&blocks);
    scene.say(Stream::Data, &Packet::SyncUuid(NAME));
    let asked: Vec<Sector> = (0..3).map(|range| Sector(range * SECTORS_PER_RANGE)).collect();
    assert_eq!(scene.heard_all(asked_of), asked);

    scene.say(Stream::Meta, &Packet::ResyncCancel(ack(0, BLOCKS_PER_RANGE)));
    scene.pass(Duration::from_secs(1));
    assert_eq!(scene.heard_all(asked_of)[3..], [Sector(0)]);
    for range in 0..3 {
        scene.say(Stream::Data, &reply(range * BLOCKS_PER_RANGE, BLOCKS_PER_RANGE, 0xee));
    }
    assert_eq!(scene.state().conn, ConnectionState::SyncTarget);
    assert_eq!(scene.bits(), Vec::<u64>::new());
}

/// The target's disk went in the midst of a resync, and is back before its last acknowledgement is here.
#[test]
fn a_source_does_not_begin_again_before_the_echoes_are_over() {
    let mut scene = Scene::begin();
    scene.become_source(&[5]);
    scene.say(Stream::Data, &request(5));
    let name = scene.heard(sync_uuid_of);
    scene.say_state(ConnectionState::Connected, DiskState::Diskless, DiskState::UpToDate);
    scene.say_uuids(&Theirs { current: name, ..EQUAL });
    scene.say_state(ConnectionState::Connected, DiskState::Negotiating, DiskState::UpToDate);
    assert_eq!(scene.state().conn, ConnectionState::WfBitMapS);
    scene.said.clear();
    scene.say_bits(&[]);
    scene.say(Stream::Meta, &Packet::ResyncWriteAck(ack(5, 1)));
    assert_eq!((scene.heard_all(ping_of).len(), scene.heard_all(sync_uuid_of).len()), (1, 0));

    scene.say(Stream::Meta, &Packet::PingAck);
    assert_eq!((scene.state().conn, scene.bits()), (ConnectionState::SyncSource, vec![5]));
    assert_eq!(scene.heard_all(sync_uuid_of).len(), 1);
}

/// Our disk went in the midst of a resync, and is back before the last answer is here.
#[test]
fn a_target_does_not_ask_again_before_the_echoes_are_over() {
    let mut scene = Scene::begin();
    scene.become_target(&[3]);
    scene.say(Stream::Data, &Packet::SyncUuid(NAME));
    assert_eq!(scene.heard_all(asked_of).len(), 1);
    scene.order(Command::Detach { volume: 0, force: true });
    scene.attach();
    scene.say_uuids(&Theirs { bitmap: NAME, ..NEWER });
    scene.say_state(ConnectionState::Connected, DiskState::UpToDate, DiskState::Negotiating);
    assert_eq!(scene.state().conn, ConnectionState::WfBitMapT);
    scene.said.clear();
    scene.say_bits(&[3]);
    scene.say(Stream::Data, &Packet::SyncUuid(NEXT_NAME));
    scene.say(Stream::Data, &reply(3, 1, 0xaa));
    scene.pass(Duration::from_secs(1));
    assert_eq!(scene.state().conn, ConnectionState::SyncTarget);
    assert_eq!((scene.heard_all(ping_of).len(), scene.heard_all(asked_of).len()), (1, 0));
    assert_eq!(scene.block_on_disk(3), 0, "an answer to what nobody asks any more");

    scene.say(Stream::Meta, &Packet::PingAck);
    assert_eq!(scene.heard_all(asked_of).len(), 1);
    scene.say(Stream::Data, &reply(3, 1, 0xee));
    assert_eq!((scene.block_on_disk(3), scene.bits()), (0xee, vec![]));
}

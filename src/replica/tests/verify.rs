//! Online verifies: what both ends say, what they mark, and what writes in their midst make of them.

use super::*;
use crate::control::refusal::StateRefusal;
use crate::wire::auth::{self, DigestAlgorithm};
use crate::wire::packet::{BlockRequest, Data, DataFlags, StateChange};

fn verifying_settings() -> Settings {
    let mut settings = settings();
    settings.peers[0].verify_alg = "crc32c".into();
    settings
}

fn digest_of(byte: u8) -> Bytes {
    auth::digest(DigestAlgorithm::Crc32c, &[byte; 4096])
}

fn block_request(block: u64) -> BlockRequest {
    BlockRequest { sector: BlockIndex(block).sector(), block_id: BlockId::RESYNC, bytes: 4096 }
}

fn blocks(sector: Sector) -> u64 {
    sector.block().0
}

fn asked_of_verify(packet: &Packet) -> Option<u64> {
    if let Packet::OnlineVerifyRequest(request) = packet { Some(blocks(request.sector)) } else { None }
}

/// Block, and whether it differs.
fn result_of(packet: &Packet) -> Option<(u64, bool)> {
    let Packet::OnlineVerifyResult(ack) = packet else { return None };
    Some((blocks(ack.sector), ack.block_id == BlockId::OUT_OF_SYNC))
}

fn digest_in(packet: &Packet) -> Option<(u64, Bytes)> {
    let Packet::OnlineVerifyReply { request, digest } = packet else { return None };
    Some((blocks(request.sector), digest.clone()))
}

fn agreement_of(packet: &Packet) -> Option<i32> {
    if let Packet::StateChangeReply(code) = packet { Some(*code) } else { None }
}

fn wish_of(packet: &Packet) -> Option<ConnectionState> {
    let Packet::StateChangeRequest(change) = packet else { return None };
    ConnectionState::from_number(change.value.conn())
}

fn refused_of(packet: &Packet) -> Option<u64> {
    if let Packet::NegResyncDataReply(ack) = packet { Some(blocks(ack.sector)) } else { None }
}

fn state_of(packet: &Packet) -> Option<StateWord> {
    if let Packet::State(word) = packet { Some(*word) } else { None }
}

fn verify(start: Option<u64>, stop: Option<u64>) -> Command {
    Command::Verify { volume: 0, start, stop }
}

impl Scene {
    fn connected_for_verify() -> Self {
        let mut scene = Self::begin_with(verifying_settings());
        scene.shake_hands(&EQUAL);
        assert_eq!(scene.state().conn, ConnectionState::Connected);
        scene
    }

    /// VerifyS with a peer that agrees.
    fn become_verify_source(&mut self, start: Option<u64>, stop: Option<u64>) {
        self.said.clear();
        let id = self.command(verify(start, stop));
        assert_eq!(self.heard(wish_of), ConnectionState::VerifyS);
        assert_eq!(self.heard_all(asked_of_verify), Vec::<u64>::new(), "the peer has not agreed yet");
        self.say(Stream::Meta, &Packet::StateChangeReply(1));
        assert_eq!((self.answers.get(&id), self.state().conn), (Some(&true), ConnectionState::VerifyS));
    }

    /// VerifyT of a peer that asks for it; what it is answered.
    fn ask_for_verify(&mut self) -> i32 {
        let mask = StateWord::default().with_conn(31);
        let value = StateWord::default().with_conn(ConnectionState::VerifyS.number());
        self.say(Stream::Data, &Packet::StateChangeRequest(StateChange { mask, value }));
        self.heard(agreement_of)
    }

    fn say_digest(&mut self, block: u64, byte: u8) {
        let packet = Packet::OnlineVerifyReply { request: block_request(block), digest: digest_of(byte) };
        self.say(Stream::Data, &packet);
    }

    fn say_result(&mut self, block: u64, differs: bool) {
        let block_id = if differs { BlockId::OUT_OF_SYNC } else { BlockId::IN_SYNC };
        self.say(Stream::Meta, &Packet::OnlineVerifyResult(BlockAck { block_id, ..ack(block, 1) }));
    }

    fn say_write(&mut self, block: u64, byte: u8) {
        let data = Data {
            sector: BlockIndex(block).sector(),
            block_id: BlockId::from_u64(block),
            sequence: 1,
            flags: DataFlags::SEND_WRITE_ACK,
            digest: Bytes::new(),
            payload: Bytes::from(vec![byte; 4096]),
        };
        self.say(Stream::Data, &Packet::Data(data));
    }

    fn volume_blocks(&self) -> u64 {
        self.machine.device_sectors(0).div_ceil(BLOCK_SECTORS)
    }
}

/// Answers come in any order; the peer's last block is what it is.
#[test]
fn a_source_marks_what_differs_and_tells_the_target() {
    let mut scene = Scene::connected_for_verify();
    scene.become_verify_source(None, None);
    let differs = |block| matches!(block, 3 | 4 | 700);
    let mut answered = 0;
    while scene.state().conn == ConnectionState::VerifyS {
        scene.pass(Duration::from_millis(100));
        let asked = scene.heard_all(asked_of_verify)[answered..].to_vec();
        answered += asked.len();
        asked.into_iter().rev().for_each(|block| scene.say_digest(block, u8::from(differs(block))));
    }
    let whole: Vec<u64> = (0..scene.volume_blocks()).collect();
    assert_eq!(scene.heard_all(asked_of_verify), whole, "each block once");
    let mut results = scene.heard_all(result_of);
    results.sort_unstable();
    assert_eq!(results, whole.iter().map(|&block| (block, differs(block))).collect::<Vec<_>>());
    assert_eq!((scene.state().conn, scene.bits()), (ConnectionState::Connected, vec![3, 4, 700]));
    assert_eq!(scene.heard(state_of).conn(), ConnectionState::Connected.number(), "the target hears of the end");
    // Nothing forces the changed pages out, but they do not wait for long.
    scene.pass(Duration::from_secs(3));
    scene.lose_power();
    assert_eq!(scene.bits(), [3, 4, 700]);
}

#[test]
fn a_source_keeps_the_pace_of_the_resync() {
    let mut scene = Scene::connected_for_verify();
    scene.become_verify_source(None, None);
    // 10,000 KiB/s are 1,000 KiB in a tenth of a second.
    assert_eq!(scene.heard_all(asked_of_verify).len(), 250);
    scene.pass(Duration::from_millis(100));
    assert_eq!(scene.heard_all(asked_of_verify).len(), 500);
    scene.settings.volumes[0].resync.rate_kib = 400;
    let (peers, volumes) = (scene.settings.peers.clone(), scene.settings.volumes.clone());
    let handlers = scene.settings.handlers.clone();
    scene.order(Command::Adjust { peers, volumes, handlers });
    scene.pass(Duration::from_millis(100));
    assert_eq!(scene.heard_all(asked_of_verify).len(), 510, "40 KiB more");
}

/// The peer's digest is of what it had when it answered: our own write comes after it, or before.
#[test]
fn writes_of_ours_wait_for_the_comparison_and_it_for_them() {
    let mut scene = Scene::connected_for_verify();
    scene.promote();
    scene.holds_back = is_data_write;
    let early = scene.write(0, 1);
    scene.become_verify_source(None, Some(16));
    assert_eq!(scene.heard_all(asked_of_verify), [1], "the write of block 0 is under way");
    let late = scene.write(1, 1);
    assert_eq!(scene.held_back.len(), 1, "a block that is compared is not written");
    scene.say_digest(1, 0);
    assert_eq!(scene.heard_all(result_of), [(1, false)]);
    assert_eq!(scene.held_back.len(), 2, "now it is");

    scene.let_go();
    let write_ack =
        |request: u64, block: u64| Packet::WriteAck(BlockAck { block_id: BlockId::from_u64(request), ..ack(block, 1) });
    // The keys of the two writes are those of a table that was empty.
    for (key, block) in [(0, 0), (1, 1)] {
        scene.say(Stream::Meta, &write_ack(key, block));
    }
    assert_eq!(scene.replies.get(&early).and(scene.replies.get(&late)), Some(&true));
    assert_eq!(scene.heard_all(asked_of_verify), [1, 0]);
    scene.say_digest(0, early as u8);
    assert_eq!(scene.heard_all(result_of), [(1, false), (0, false)]);
    assert_eq!((scene.state().conn, scene.bits()), (ConnectionState::Connected, vec![]));
}

/// Of the peer's writes the source compares those that it received before the digest, and no others.
#[test]
fn a_source_reads_at_the_place_of_the_answer_in_the_stream() {
    let mut scene = Scene::connected_for_verify();
    scene.become_verify_source(None, Some(8));
    assert_eq!(scene.heard_all(asked_of_verify), [0]);
    scene.holds_back = is_data_write;
    scene.say_write(0, 0xaa);
    scene.say_digest(0, 0xaa);
    scene.say_write(0, 0xbb);
    assert_eq!((scene.held_back.len(), scene.heard_all(result_of)), (1, vec![]), "the first is written");
    scene.let_go();
    assert_eq!(scene.heard_all(result_of), [(0, false)]);
    assert_eq!((scene.bits(), scene.block_on_disk(0)), (vec![], 0xbb));
}

#[test]
fn a_target_answers_with_digests_and_takes_the_verdicts() {
    let mut scene = Scene::connected_for_verify();
    scene.say_write(6, 0xaa);
    assert_eq!(scene.ask_for_verify(), 1);
    assert_eq!(scene.state().conn, ConnectionState::VerifyT);
    // Before it has heard us it may say something else.
    scene.say_state(ConnectionState::Connected, DiskState::UpToDate, DiskState::UpToDate);
    (5..8).for_each(|block| scene.say(Stream::Data, &Packet::OnlineVerifyRequest(block_request(block))));
    let digests = [(5, digest_of(0)), (6, digest_of(0xaa)), (7, digest_of(0))];
    assert_eq!(scene.heard_all(digest_in), digests);
    scene.say_result(6, true);
    scene.say_result(5, false);
    assert_eq!((scene.state().conn, scene.bits()), (ConnectionState::VerifyT, vec![6]));

    // It stops there; its last verdict is on the other stream.
    scene.say_state(ConnectionState::Connected, DiskState::UpToDate, DiskState::UpToDate);
    assert_eq!((scene.state().conn, scene.heard_all(ping_of).len()), (ConnectionState::VerifyT, 1));
    scene.say_result(7, true);
    scene.say(Stream::Meta, &Packet::PingAck);
    assert_eq!((scene.state().conn, scene.bits()), (ConnectionState::Connected, vec![6, 7]));
}

#[test]
fn a_target_is_done_with_the_verdict_on_the_last_block() {
    let mut scene = Scene::connected_for_verify();
    assert_eq!(scene.ask_for_verify(), 1);
    let last = scene.volume_blocks() - 1;
    for block in [last - 1, last] {
        scene.say(Stream::Data, &Packet::OnlineVerifyRequest(block_request(block)));
        // A verdict that is said twice counts once.
        (0..2).for_each(|_| scene.say_result(last - 1, true));
    }
    assert_eq!(scene.state().conn, ConnectionState::VerifyT);
    scene.say_result(last, false);
    assert_eq!((scene.state().conn, scene.bits()), (ConnectionState::Connected, vec![last - 1]));
}

/// A write of an application waits while the target reads, and the target for it.
#[test]
fn a_target_that_is_primary_reads_between_its_writes() {
    let mut scene = Scene::connected_for_verify();
    scene.promote();
    assert_eq!(scene.ask_for_verify(), 1);
    scene.holds_back = |operation| matches!(operation, DiskOperation::Read { area: Area::Data, .. });
    scene.say(Stream::Data, &Packet::OnlineVerifyRequest(block_request(2)));
    let write = scene.write(2, 1);
    assert_eq!(scene.block_on_disk(2), 0);
    scene.let_go();
    assert_eq!((scene.heard_all(digest_in), scene.block_on_disk(2)), (vec![(2, digest_of(0))], write as u8));
    let place = |kind: fn(&Packet) -> bool| scene.said.iter().position(kind);
    let (digest, data) = (
        place(|packet| matches!(packet, Packet::OnlineVerifyReply { .. })),
        place(|packet| matches!(packet, Packet::Data(_))),
    );
    assert!(digest < data, "the write is behind the digest in the stream, too");
    // The write is not acknowledged yet: what is asked for now is what comes of it.
    scene.say(Stream::Data, &Packet::OnlineVerifyRequest(block_request(2)));
    assert_eq!(scene.heard_all(digest_in).len(), 1);
    scene.say(Stream::Meta, &Packet::WriteAck(BlockAck { block_id: BlockId::from_u64(0), ..ack(2, 1) }));
    assert_eq!(scene.heard_all(digest_in)[1], (2, digest_of(write as u8)));
}

#[test]
fn a_verify_goes_on_where_it_was_cut_off() {
    let mut scene = Scene::connected_for_verify();
    scene.become_verify_source(Some(43), None);
    assert_eq!(scene.heard_all(asked_of_verify)[..2], [5, 6], "rounded down to a block");
    for block in [5, 6, 7, 9, 10] {
        scene.say_digest(block, u8::from(block > 7));
    }
    let write = {
        scene.cut();
        scene.promote();
        scene.write(8, 1)
    };
    assert_eq!(scene.replies.get(&write), Some(&true), "nothing is held any more");
    assert_eq!(scene.bits(), [8, 9, 10]);
    let mut scene = Scene::connected_for_verify();
    scene.become_verify_source(Some(43), None);
    [5, 6, 7, 9, 10].into_iter().for_each(|block| scene.say_digest(block, 0));
    scene.cut();
    scene.shake_hands(&EQUAL);
    scene.become_verify_source(None, Some(80));
    assert_eq!(scene.heard_all(asked_of_verify), [8, 9], "and stops where it was told");
    [8, 9].into_iter().for_each(|block| scene.say_digest(block, 0));
    assert_eq!(scene.state().conn, ConnectionState::Connected);
    scene.become_verify_source(None, None);
    assert_eq!(scene.heard_all(asked_of_verify)[0], 10);
    scene.cut();
    scene.shake_hands(&EQUAL);
    let last = scene.volume_blocks() - 1;
    scene.become_verify_source(Some(u64::MAX), None);
    assert_eq!(scene.heard_all(asked_of_verify), [last], "beyond the end is the last block");
    scene.say_digest(last, 0);
    scene.become_verify_source(None, None);
    assert_eq!(scene.heard_all(asked_of_verify)[0], 0, "after the end the next one is a whole one");
}

#[test]
fn the_end_of_a_running_verify_can_be_moved() {
    let mut scene = Scene::connected_for_verify();
    scene.become_verify_source(None, None);
    let asked = scene.heard_all(asked_of_verify);
    scene.order(verify(None, Some(0)));
    scene.pass(Duration::from_secs(1));
    assert_eq!(scene.heard_all(asked_of_verify), asked, "nothing more is asked for");
    assert_eq!(scene.state().conn, ConnectionState::VerifyS, "but that is compared");
    asked.iter().for_each(|block| scene.say_digest(*block, 0));
    assert_eq!((scene.state().conn, scene.bits()), (ConnectionState::Connected, vec![]));
}

#[test]
fn a_verify_ends_with_the_disk_and_late_words_of_it_are_overlooked() {
    for ours in [true, false] {
        let mut scene = Scene::connected_for_verify();
        scene.become_verify_source(None, None);
        if ours {
            scene.order(Command::Detach { volume: 0, force: true });
        } else {
            scene.say_state(ConnectionState::Connected, DiskState::Failed, DiskState::UpToDate);
        }
        assert_eq!(scene.state().conn, ConnectionState::Connected, "ours: {ours}");
        scene.say_digest(0, 1);
        scene.say(Stream::Meta, &Packet::NegResyncDataReply(ack(1, 1)));
        assert_eq!((scene.state().conn, scene.heard_all(result_of)), (ConnectionState::Connected, vec![]));
    }
    let mut scene = Scene::connected_for_verify();
    assert_eq!(scene.ask_for_verify(), 1);
    scene.say(Stream::Data, &Packet::OnlineVerifyRequest(block_request(0)));
    scene.say_state(ConnectionState::Connected, DiskState::Failed, DiskState::UpToDate);
    scene.say(Stream::Data, &Packet::OnlineVerifyRequest(block_request(1)));
    assert_eq!((scene.heard_all(digest_in).len(), scene.heard_all(refused_of)), (1, vec![1]));
    scene.say_result(0, true);
    assert_eq!((scene.state().conn, scene.bits()), (ConnectionState::Connected, vec![0]));
}

/// What cannot be read cannot be called equal.
#[test]
fn blocks_that_the_peer_does_not_read_are_left_out() {
    let mut scene = Scene::connected_for_verify();
    scene.become_verify_source(None, Some(16));
    scene.say(Stream::Meta, &Packet::NegResyncDataReply(ack(0, 1)));
    let status = scene.machine.status(scene.now);
    let sync = status.peers[0].volumes[0].sync.as_ref().expect("it runs");
    assert_eq!((sync.total_kib, sync.left_kib, sync.failed_kib), (8, 4, 4));
    scene.say_digest(1, 0);
    assert_eq!((scene.state().conn, scene.bits()), (ConnectionState::Connected, vec![]));
}

#[test]
fn an_answer_that_nobody_asked_for_ends_the_connection() {
    let mut scene = Scene::connected_for_verify();
    scene.become_verify_source(None, Some(8));
    scene.say_digest(1, 0);
    assert!(scene.state().conn < ConnectionState::Connected);
}

#[test]
fn a_verify_that_cannot_be_is_refused_to_the_operator_and_to_the_peer() {
    let refused = |scene: &mut Scene, stop| {
        let id = scene.command(verify(None, stop));
        assert_eq!(scene.answers.get(&id), Some(&false));
    };
    let mut scene = Scene::begin_with(verifying_settings());
    refused(&mut scene, None);

    let mut scene = Scene::begin();
    scene.shake_hands(&EQUAL);
    refused(&mut scene, None);
    assert_eq!(scene.ask_for_verify(), StateRefusal::NoVerifyAlg.number());

    let mut scene = Scene::begin_with(verifying_settings());
    scene.become_source(&[1]);
    refused(&mut scene, None);
    assert_eq!(scene.ask_for_verify(), StateRefusal::ResyncRunning.number());

    let mut scene = Scene::connected_for_verify();
    scene.say_state(ConnectionState::Connected, DiskState::Inconsistent, DiskState::UpToDate);
    refused(&mut scene, None);
    assert_eq!(scene.ask_for_verify(), StateRefusal::NoUpToDateDisk.number());

    let mut scene = Scene::connected_for_verify();
    scene.order(Command::Detach { volume: 0, force: true });
    refused(&mut scene, None);
    assert_eq!(scene.ask_for_verify(), StateRefusal::NoLocalDisk.number());

    let mut scene = Scene::connected_for_verify();
    let id = scene.command(verify(None, None));
    scene.say(Stream::Meta, &Packet::StateChangeReply(StateRefusal::NoVerifyAlg.number()));
    assert_eq!((scene.answers.get(&id), scene.state().conn), (Some(&false), ConnectionState::Connected));
    scene.become_verify_source(None, None);
    assert_eq!(scene.ask_for_verify(), StateRefusal::ResyncRunning.number());
    let again = scene.command(verify(Some(0), None));
    assert_eq!(scene.answers.get(&again), Some(&false), "one that runs begins nowhere else");
}

//! Captures of the kernel's own replication traffic: every packet is understood, and written back byte for byte.
//!
//! `data/wire/` holds conversations of two in-kernel DRBD 8.4.11 nodes (or of one with a test program of an older version).
//! Addresses: 10.99.0.2 and 10.99.0.3 are kernels.

use std::fs;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use shimai::model::ids::VolumeNumber;
use shimai::model::units::Sector;
use shimai::wire::auth::{DigestAlgorithm, HmacAlgorithm, digest, hmac};
use shimai::wire::bitmap_rle::BitSource;
use shimai::wire::bitmap_transfer::{BitSink, BitmapReceiver, BitmapSender, WordSource};
use shimai::wire::command::Command;
use shimai::wire::framing::{Features, PacketReader, Stream};
use shimai::wire::packet::{BlockId, ConnectionFeatures, DataFlags, Packet, UuidFlags};

/// One direction of one TCP connection.
struct Flow {
    from: (u32, u16),
    to: (u32, u16),
    bytes: Vec<u8>,
}

/// The flows of a capture in the order of their first byte: classic pcap, Ethernet, IPv4, TCP.
fn flows(file: &str) -> Vec<Flow> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data/wire").join(file);
    let capture = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(capture[..4], 0xa1b2_c3d4_u32.to_le_bytes(), "{file} is a classic little-endian pcap");
    let mut flows: Vec<(u32, Flow)> = Vec::new();
    let mut rest = &capture[24..];
    while rest.len() >= 16 {
        let length = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        add_frame(&mut flows, &rest[16..16 + length]);
        rest = &rest[16 + length..];
    }
    flows.into_iter().map(|(_, flow)| flow).filter(|flow| !flow.bytes.is_empty()).collect()
}

/// Each flow carries the sequence number of its first byte.
fn add_frame(flows: &mut Vec<(u32, Flow)>, frame: &[u8]) {
    let u16_at = |at: usize| u16::from_be_bytes(frame[at..at + 2].try_into().unwrap());
    let u32_at = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    assert_eq!(u16_at(12), 0x0800, "IPv4");
    let tcp = 14 + usize::from(frame[14] & 0x0f) * 4;
    let end = 14 + usize::from(u16_at(16));
    let from = (u32_at(26), u16_at(tcp));
    let to = (u32_at(30), u16_at(tcp + 2));
    let sequence = u32_at(tcp + 4);
    let data = &frame[tcp + usize::from(frame[tcp + 12] >> 4) * 4..end];
    if frame[tcp + 13] & 2 != 0 {
        flows.push((sequence.wrapping_add(1), Flow { from, to, bytes: Vec::new() }));
        return;
    }
    if data.is_empty() {
        return;
    }
    let (first, flow) = flows.iter_mut().rev().find(|(_, flow)| (flow.from, flow.to) == (from, to)).expect("a SYN");
    let at = sequence.wrapping_sub(*first) as usize;
    if at + data.len() <= flow.bytes.len() {
        return;
    }
    assert!(at <= flow.bytes.len(), "captures have no gap");
    flow.bytes.truncate(at);
    flow.bytes.extend_from_slice(data);
}

/// A packet with who sent it: the last number of the sender's address.
struct Seen {
    sender: u8,
    stream: Stream,
    volume: VolumeNumber,
    packet: Packet,
}

struct Capture {
    version: u32,
    features: Features,
    /// Flow after flow.
    seen: Vec<Seen>,
}

impl Capture {
    fn count(&self, command: Command) -> usize {
        self.seen.iter().filter(|seen| seen.packet.command(self.version) == Some(command)).count()
    }

    fn from(&self, sender: u8) -> impl Iterator<Item = &Packet> {
        self.seen.iter().filter(move |seen| seen.sender == sender).map(|seen| &seen.packet)
    }
}

/// Small and reproducible: chunk lengths.
struct Chunks(u64);

impl Chunks {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = (self.0 >> 33) as usize;
        1 + random % [3, 40, 2000, 70_000][random >> 20 & 3]
    }
}

/// The stream of a flow: what the connecting end says first.
fn stream_of(flow: &Flow, flows: &[Flow]) -> Stream {
    let starts = |flow: &Flow, number: [u8; 2]| flow.bytes.get(4..6) == Some(&number[..]);
    let back = flows.iter().find(|other| (other.from, other.to) == (flow.to, flow.from));
    let meta = starts(flow, [0xff, 0xf1]) || back.is_some_and(|back| starts(back, [0xff, 0xf1]));
    if meta { Stream::Meta } else { Stream::Data }
}

/// The features packets of all flows decide; within a capture all connections agree alike.
fn agreement(flows: &[Flow]) -> (u32, Features) {
    let mut found = Vec::new();
    for flow in flows {
        let mut reader = PacketReader::new(stream_of(flow, flows));
        reader.push(flow.bytes.clone().into());
        while let Some((_, packet)) = reader.next().unwrap() {
            if let Packet::ConnectionFeatures(features) = packet {
                found.push(features);
            }
        }
    }
    assert!(found.len() >= 2 && found.len().is_multiple_of(2), "both ends say what they speak");
    let agreed: Vec<_> = found.iter().map(|peer| ConnectionFeatures::OURS.agree(peer).unwrap()).collect();
    let version = agreed.iter().map(|agreed| agreed.0).min().unwrap();
    let features = agreed.iter().fold(Features::OURS, |common, agreed| common.common(agreed.1));
    (version, features)
}

fn read(file: &str) -> Capture {
    read_in_chunks(file, &mut Chunks(1))
}

/// Decodes every flow in chunks, and checks that each packet is written back as it was.
fn read_in_chunks(file: &str, chunks: &mut Chunks) -> Capture {
    let flows = flows(file);
    let (version, features) = agreement(&flows);
    let mut capture = Capture { version, features, seen: Vec::new() };
    for flow in &flows {
        let mut rest = Bytes::from(flow.bytes.clone());
        let mut reader = PacketReader::new(stream_of(flow, &flows));
        let mut written = BytesMut::new();
        while !rest.is_empty() {
            reader.push(rest.split_to(chunks.next().min(rest.len())));
            drain(&mut reader, flow, &mut written, &mut capture);
        }
        if reader.buffered() > 0 {
            // The accepting end's half of a meta stream has nothing before the agreement: the reader has held it back.
            assert_eq!((reader.stream(), reader.buffered()), (Stream::Meta, flow.bytes.len()));
            reader.agree(version, features);
            drain(&mut reader, flow, &mut written, &mut capture);
        }
        assert_eq!(written.len(), flow.bytes.len(), "{file}: nothing is left over");
        assert_eq!(reader.buffered(), 0);
    }
    capture
}

fn drain(reader: &mut PacketReader, flow: &Flow, written: &mut BytesMut, capture: &mut Capture) {
    let Capture { version, features, seen } = capture;
    while let Some((volume, packet)) = reader.next().unwrap() {
        match &packet {
            Packet::InitialMeta | Packet::ConnectionFeatures(_) => reader.agree(*version, *features),
            Packet::Protocol(protocol) | Packet::ProtocolUpdate(protocol) => {
                let algorithm = DigestAlgorithm::from_name(&protocol.integrity_alg);
                reader.set_digest_bytes(algorithm.map_or(0, DigestAlgorithm::bytes));
            }
            _ => {}
        }
        check_bytes(&packet, *version, *features, volume, &flow.bytes, written);
        seen.push(Seen { sender: flow.from.0 as u8, stream: reader.stream(), volume, packet });
    }
}

/// Appends the packet to `written`, which must then be the beginning of `flow`, except for pads.
fn check_bytes(
    packet: &Packet,
    version: u32,
    features: Features,
    volume: VolumeNumber,
    flow: &[u8],
    written: &mut BytesMut,
) {
    let start = written.len();
    if let Some(payload) = packet.encode(version, features, volume, written) {
        written.extend_from_slice(&payload);
    }
    let ours = &written[start..];
    let mut theirs = flow[start..written.len()].to_vec();
    let head = if version >= 100 { 16 } else { 8 };
    if let Some(pad) = pads(packet) {
        theirs[head + pad.start..head + pad.end].fill(0);
    }
    assert!(ours == theirs, "{packet:?}\nours   {ours:02x?}\ntheirs {theirs:02x?}");
}

/// Fields that the kernel does not clear.
fn pads(packet: &Packet) -> Option<std::ops::Range<usize>> {
    match packet {
        Packet::Barrier(_) => Some(4..8),
        Packet::DataRequest(_)
        | Packet::ResyncDataRequest(_)
        | Packet::ThinResyncRequest(_)
        | Packet::OnlineVerifyRequest(_)
        | Packet::ChecksumResyncRequest { .. }
        | Packet::OnlineVerifyReply { .. } => Some(20..24),
        Packet::ResyncDeallocated { .. } | Packet::OutOfSync { .. } => Some(12..16),
        _ => None,
    }
}

/// A bitmap in the simplest form.
struct Bitmap {
    bits: u64,
    words: Vec<u64>,
}

impl Bitmap {
    fn new(bits: u64) -> Self {
        Self { bits, words: vec![0; bits.div_ceil(64) as usize] }
    }

    fn is_set(&self, bit: u64) -> bool {
        self.words[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }

    fn set_bits(&self) -> Vec<u64> {
        (0..self.bits).filter(|&bit| self.is_set(bit)).collect()
    }
}

impl BitSink for Bitmap {
    fn set(&mut self, first: u64, end: u64) {
        for bit in first..end {
            self.words[(bit / 64) as usize] |= 1 << (bit % 64);
        }
    }

    fn merge_words(&mut self, first_word: u64, words: &[u8]) {
        for (index, word) in words.chunks_exact(8).enumerate() {
            self.words[first_word as usize + index] |= u64::from_le_bytes(word.try_into().unwrap());
        }
    }
}

impl BitSource for Bitmap {
    fn bits(&self) -> u64 {
        self.bits
    }

    fn next_set(&self, from: u64) -> Option<u64> {
        (from..self.bits).find(|&bit| self.is_set(bit))
    }

    fn next_clear(&self, from: u64) -> Option<u64> {
        (from..self.bits).find(|&bit| !self.is_set(bit))
    }
}

impl WordSource for Bitmap {
    fn word(&self, index: u64) -> u64 {
        self.words[index as usize]
    }
}

/// The one bitmap that a node sent, and its packets.
fn bitmap(capture: &Capture, sender: u8, bits: u64) -> (Bitmap, Vec<Packet>) {
    let is_piece = |packet: &&Packet| matches!(packet, Packet::Bitmap(_) | Packet::CompressedBitmap(_));
    let packets: Vec<Packet> = capture.from(sender).filter(is_piece).cloned().collect();
    let mut bitmap = Bitmap::new(bits);
    let mut receiver = BitmapReceiver::new(bits, capture.version);
    for (index, packet) in packets.iter().enumerate() {
        let done = receiver.receive(packet, &mut bitmap).unwrap();
        assert_eq!(done, index + 1 == packets.len(), "the transfer ends with its last packet");
    }
    (bitmap, packets)
}

/// What we would send for that bitmap.
fn sent(bitmap: &Bitmap, version: u32, use_rle: bool) -> Vec<Packet> {
    let mut sender = BitmapSender::new(bitmap.bits, version, use_rle);
    std::iter::from_fn(|| sender.next(bitmap)).collect()
}

const FILES: [&str; 21] = [
    "01-handshake-auth-full-sync.pcap",
    "02-thin-full-sync.pcap",
    "03-csum-resync.pcap",
    "04-writes-protocol-c.pcap",
    "05-writes-protocol-b.pcap",
    "06-writes-protocol-a.pcap",
    "07-short-outage-bitmap-resync.pcap",
    "08-split-brain-refused.pcap",
    "09-discard-my-data.pcap",
    "10-online-verify-differences.pcap",
    "11-trim-zeroes.pcap",
    "12-data-integrity-crc32c.pcap",
    "13-admin-role-invalidate-resize-detach.pcap",
    "14-ahead-behind.pcap",
    "15-skip-initial-sync.pcap",
    "16-version-88-h80.pcap",
    "17-version-90-h80-rle.pcap",
    "18-version-96-h95.pcap",
    "19-two-volumes-sha256.pcap",
    "20-bitmap-plain-several-packets.pcap",
    "21-bitmap-mixed-several-packets.pcap",
];

#[test]
fn every_captured_packet_is_read_in_any_chunks_and_written_back_alike() {
    for (seed, file) in FILES.iter().enumerate() {
        let capture = read_in_chunks(file, &mut Chunks(seed as u64 + 100));
        let expected = match *file {
            "16-version-88-h80.pcap" => 88,
            "17-version-90-h80-rle.pcap" => 90,
            "18-version-96-h95.pcap" => 96,
            _ => 101,
        };
        assert_eq!(capture.version, expected, "{file}");
        assert_eq!(capture.features, Features::OURS, "{file}");
        for seen in &capture.seen {
            let command = seen.packet.command(capture.version).unwrap();
            assert!(command.streams().contains(seen.stream), "{file}: {command} on {}", seen.stream);
        }
    }
}

#[test]
fn both_nodes_sign_with_the_shared_secret() {
    for (file, algorithm) in [
        ("01-handshake-auth-full-sync.pcap", HmacAlgorithm::Sha1),
        ("19-two-volumes-sha256.pcap", HmacAlgorithm::Sha256),
    ] {
        let capture = read(file);
        let of = |sender, pick: fn(&Packet) -> Option<Bytes>| capture.from(sender).find_map(pick).unwrap();
        for (node, peer) in [(2, 3), (3, 2)] {
            let challenge = of(peer, |packet| match packet {
                Packet::AuthChallenge(bytes) => Some(bytes.clone()),
                _ => None,
            });
            let response = of(node, |packet| match packet {
                Packet::AuthResponse(bytes) => Some(bytes.clone()),
                _ => None,
            });
            assert_eq!(hmac(algorithm, b"tandem", &challenge), response, "{file}, node {node}");
        }
    }
}

#[test]
fn a_short_outage_leaves_four_bits_on_both_sides() {
    let capture = read("07-short-outage-bitmap-resync.pcap");
    for node in [2, 3] {
        let (bitmap, packets) = bitmap(&capture, node, 16374);
        assert_eq!(bitmap.set_bits(), [100, 101, 102, 777]);
        assert_eq!(sent(&bitmap, 101, true), packets);
    }
    let requests: Vec<_> = capture
        .from(3)
        .filter_map(|packet| match packet {
            Packet::ResyncDataRequest(request) => Some((request.sector, request.bytes)),
            _ => None,
        })
        .collect();
    assert_eq!(requests, [(Sector(800), 3 * 4096), (Sector(777 * 8), 4096)]);
}

#[test]
fn plain_bitmaps_of_several_packets_are_cut_as_the_kernel_cuts_them() {
    let capture = read("20-bitmap-plain-several-packets.pcap");
    for node in [2, 3] {
        let (bitmap, packets) = bitmap(&capture, node, 262_127);
        assert_eq!(bitmap.set_bits().len(), 8);
        assert_eq!(sent(&bitmap, 101, false), packets);
        assert_eq!(packets.len(), 10);
    }
}

#[test]
fn mixed_bitmaps_are_cut_as_the_kernel_cuts_them() {
    let capture = read("21-bitmap-mixed-several-packets.pcap");
    for node in [2, 3] {
        let (bitmap, packets) = bitmap(&capture, node, 262_127);
        assert_eq!(bitmap.set_bits().len(), 69_336);
        let plain: Vec<bool> = packets.iter().map(|packet| matches!(packet, Packet::Bitmap(_))).collect();
        assert_eq!(plain, [true, true, false, true, false]);
        assert_eq!(sent(&bitmap, 101, true), packets);
    }
}

#[test]
fn a_plain_bitmap_of_an_old_version_reads_as_all_set() {
    let capture = read("16-version-88-h80.pcap");
    for node in [1, 2] {
        let (bitmap, packets) = bitmap(&capture, node, 32);
        assert_eq!(bitmap.set_bits().len(), 32);
        assert_eq!(sent(&bitmap, 88, true), packets);
    }
}

#[test]
fn integrity_digests_cover_the_payload() {
    let capture = read("12-data-integrity-crc32c.pcap");
    let mut writes = 0;
    for packet in capture.from(2) {
        if let Packet::Data(data) = packet {
            assert_eq!(data.digest, digest(DigestAlgorithm::Crc32c, &data.payload));
            assert_eq!(data.payload.len(), 4096);
            writes += 1;
        }
    }
    assert_eq!((writes, capture.count(Command::Trim)), (4, 1));
}

#[test]
fn the_protocol_decides_which_acks_are_asked_for() {
    let cases = [
        ("04-writes-protocol-c.pcap", DataFlags::SEND_WRITE_ACK, Command::WriteAck, 9),
        ("05-writes-protocol-b.pcap", DataFlags::SEND_RECEIVE_ACK, Command::RecvAck, 9),
        ("06-writes-protocol-a.pcap", DataFlags::NONE, Command::WriteAck, 0),
    ];
    let both = DataFlags::SEND_WRITE_ACK.with(DataFlags::SEND_RECEIVE_ACK);
    for (file, flag, ack, acks) in cases {
        let capture = read(file);
        assert_eq!(capture.count(ack), acks, "{file}");
        let mut acked = 0;
        for Seen { packet, .. } in &capture.seen {
            match packet {
                Packet::Data(data) => assert_eq!(data.flags.0 & both.0, flag.0, "{file}"),
                Packet::BarrierAck { writes, .. } => acked += writes,
                _ => {}
            }
        }
        assert_eq!(acked as usize, capture.count(Command::Data), "{file}: barrier acks count every write");
    }
}

#[test]
fn discards_and_zeroes_are_told_apart() {
    let capture = read("11-trim-zeroes.pcap");
    for packet in capture.from(2) {
        match packet {
            Packet::Trim(trim) => {
                assert_eq!((trim.sector, trim.bytes, trim.flags), (Sector(2048), 65536, DataFlags(0x142)));
            }
            Packet::Zeroes(zeroes) => {
                assert_eq!((zeroes.sector, zeroes.bytes, zeroes.flags), (Sector(4096), 65536, DataFlags(0x502)));
            }
            _ => {}
        }
    }
    assert_eq!((capture.count(Command::Trim), capture.count(Command::Zeroes)), (1, 1));
}

#[test]
fn verify_finds_the_two_changed_blocks() {
    let capture = read("10-online-verify-differences.pcap");
    let mut different = Vec::new();
    for packet in capture.from(2) {
        if let Packet::OnlineVerifyResult(result) = packet {
            match result.block_id {
                BlockId::IN_SYNC => {}
                BlockId::OUT_OF_SYNC => different.push(result.sector.block().0),
                other => panic!("no verdict: {other:?}"),
            }
        }
    }
    assert_eq!(different, [17, 18]);
    assert_eq!(capture.count(Command::OnlineVerifyReply), 256);
}

#[test]
fn checksum_resync_sends_only_what_differs() {
    let capture = read("03-csum-resync.pcap");
    assert_eq!(capture.count(Command::ChecksumResyncRequest), 139);
    assert_eq!((capture.count(Command::ResyncIsInSync), capture.count(Command::ResyncDataReply)), (138, 1));
    for packet in capture.from(3) {
        if let Packet::ChecksumResyncRequest { request, digest } = packet {
            assert_eq!((request.block_id, digest.len()), (BlockId::RESYNC, 4));
        }
    }
}

#[test]
fn thin_resync_answers_zero_blocks_without_data() {
    let capture = read("02-thin-full-sync.pcap");
    assert_eq!(capture.count(Command::ThinResyncRequest), 256);
    assert_eq!((capture.count(Command::ResyncDeallocated), capture.count(Command::ResyncDataReply)), (254, 2));
}

#[test]
fn ahead_marks_instead_of_sending() {
    let capture = read("14-ahead-behind.pcap");
    assert_eq!((capture.count(Command::Data), capture.count(Command::OutOfSync)), (1, 39));
}

#[test]
fn skipping_the_initial_sync_is_a_flag_of_the_generations() {
    let capture = read("15-skip-initial-sync.pcap");
    let flagged = capture.from(2).filter(|packet| {
        matches!(packet, Packet::Uuids(uuids) if uuids.flags.contains(UuidFlags::SKIP_INITIAL_SYNC) && uuids.dirty_bits == 0)
    });
    assert_eq!(flagged.count(), 1);
}

#[test]
fn epochs_span_volumes_and_are_numbered_on_volume_0() {
    let capture = read("19-two-volumes-sha256.pcap");
    let mut written = Vec::new();
    for seen in &capture.seen {
        match seen.packet {
            Packet::Data(_) => written.push(seen.volume.0),
            Packet::Barrier(_) | Packet::BarrierAck { .. } => assert_eq!(seen.volume.0, 0),
            _ => {}
        }
    }
    written.sort_unstable();
    assert_eq!(written, [0, 1]);
}

#[test]
fn the_configuration_of_a_fresh_node_reads_as_documented() {
    let capture = read("01-handshake-auth-full-sync.pcap");
    let mut conversation = capture.from(3).skip_while(|packet| !matches!(packet, Packet::Protocol(_)));
    let Some(Packet::Protocol(protocol)) = conversation.next() else { panic!("P_PROTOCOL") };
    assert_eq!((protocol.protocol.to_string(), protocol.integrity_alg.as_str()), ("C".into(), ""));
    assert_eq!(protocol.after_sb_0pri.to_string(), "disconnect");
    let Some(Packet::SyncParam(param)) = conversation.next() else { panic!("P_SYNC_PARAM89") };
    assert_eq!((param.resync_rate, param.c_plan_ahead, param.c_max_rate), (250, 20, 102_400));
    let Some(Packet::Sizes(sizes)) = conversation.next() else { panic!("P_SIZES") };
    assert_eq!((sizes.u_size, sizes.max_bio_size), (256, 1 << 20));
    assert!(sizes.limits.is_some_and(|limits| limits.discard_enabled && !limits.write_same_capable));
    let Some(Packet::Uuids(uuids)) = conversation.next() else { panic!("P_UUIDS") };
    assert!(uuids.current.is_just_created());
    let Some(Packet::State(state)) = conversation.next() else { panic!("P_STATE") };
    assert_eq!(state.conn(), 8, "the first state is older than the connection");
}

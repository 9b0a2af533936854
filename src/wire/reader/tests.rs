//! Chunks, copies, agreement and refusals of the reader.

use proptest::prelude::*;

use crate::model::units::Sector;
use crate::wire::packet::{BlockAck, BlockId, ConnectionFeatures, Data, DataFlags};

use super::*;

const VOLUME: VolumeNumber = VolumeNumber(1);

fn agreed(stream: Stream) -> PacketReader {
    let mut reader = PacketReader::new(stream);
    reader.agree(101, Features::OURS);
    reader
}

fn encoded(packet: &Packet) -> Vec<u8> {
    let mut out = BytesMut::new();
    let payload = packet.encode(101, Features::OURS, VOLUME, &mut out);
    out.extend_from_slice(&payload.unwrap_or_default());
    out.to_vec()
}

fn write(bytes: usize) -> Packet {
    Packet::Data(Data {
        sector: Sector(8),
        block_id: BlockId::from_u64(7),
        sequence: 1,
        flags: DataFlags::SEND_WRITE_ACK,
        digest: Bytes::new(),
        payload: (0..bytes).map(|byte| byte as u8).collect(),
    })
}

fn payload_of(result: Result<Option<(VolumeNumber, Packet)>, WireError>) -> Bytes {
    match result {
        Ok(Some((VOLUME, Packet::Data(data)))) => data.payload,
        other => panic!("not a write: {other:?}"),
    }
}

/// A header of version 101 and zeros behind it.
fn raw(command: u16, length: u32) -> Bytes {
    let mut bytes = BytesMut::zeroed(16 + length.min(4096) as usize);
    let header = Header { volume: VOLUME, command: CommandNumber(command), length };
    header.encode(101, &mut bytes[..16]);
    bytes.freeze()
}

fn refused(stream: Stream, bytes: Bytes) -> WireError {
    let mut reader = agreed(stream);
    reader.push(bytes);
    let error = reader.next().unwrap_err();
    assert_eq!(reader.next(), Err(error.clone()), "a broken stream stays broken");
    error
}

#[test]
fn a_payload_within_a_chunk_is_not_copied() {
    let chunk = Bytes::from([encoded(&write(4096)), encoded(&write(512))].concat());
    let mut reader = agreed(Stream::Data);
    reader.push(chunk.clone());
    assert_eq!(payload_of(reader.next()).as_ptr(), chunk[40..].as_ptr());
    assert_eq!(payload_of(reader.next()).as_ptr(), chunk[4096 + 80..].as_ptr());
    assert_eq!(reader.next(), Ok(None));
}

#[test]
fn a_receiver_can_place_the_payload() {
    let bytes = Bytes::from(encoded(&write(4096)));
    let mut reader = agreed(Stream::Data);
    let wants = |reader: &mut PacketReader, chunk| {
        reader.push(chunk);
        assert_eq!(reader.next(), Ok(None));
        let Wants { head, payload, payload_arrived } = reader.wants();
        (head, payload, payload_arrived)
    };
    assert_eq!(wants(&mut reader, bytes.slice(..10)), (6, 0, 0));
    assert_eq!(wants(&mut reader, bytes.slice(10..20)), (20, 4096, 0));
    assert_eq!(wants(&mut reader, bytes.slice(20..40)), (0, 4096, 0));
    let placed = bytes.slice(40..);
    reader.push(placed.clone());
    assert_eq!(payload_of(reader.next()).as_ptr(), placed.as_ptr());
    assert_eq!(reader.wants(), Wants { head: 16, payload: 0, payload_arrived: 0 });
}

#[test]
fn a_payload_across_chunks_says_how_much_has_arrived() {
    let bytes = Bytes::from(encoded(&write(4096)));
    let mut reader = agreed(Stream::Data);
    reader.push(bytes.slice(..1040));
    assert_eq!(reader.next(), Ok(None));
    assert_eq!(reader.wants(), Wants { head: 0, payload: 4096, payload_arrived: 1000 });
    reader.push(bytes.slice(1040..));
    assert_eq!(payload_of(reader.next()), bytes.slice(40..));
}

#[test]
fn a_digest_belongs_to_data_but_not_to_trim() {
    let mut reader = agreed(Stream::Data);
    reader.set_digest_bytes(4);
    let Packet::Data(data) = write(512) else { unreachable!() };
    let data = Packet::Data(Data { digest: Bytes::from_static(b"abcd"), ..data });
    let trim = Packet::Trim(crate::wire::packet::Trim {
        sector: Sector(0),
        block_id: BlockId::default(),
        sequence: 2,
        flags: DataFlags::DISCARD,
        bytes: 4096,
    });
    reader.push([encoded(&data), encoded(&trim)].concat().into());
    assert_eq!(reader.next(), Ok(Some((VOLUME, data))));
    assert_eq!(reader.next(), Ok(Some((VOLUME, trim))));
}

#[test]
fn the_first_packet_names_the_stream() {
    let mut out = BytesMut::new();
    Packet::InitialMeta.encode(101, Features::OURS, VolumeNumber(0), &mut out);
    let mut reader = PacketReader::new(Stream::Data);
    reader.push(out.freeze());
    assert_eq!(reader.next(), Ok(Some((VolumeNumber(0), Packet::InitialMeta))));
    assert_eq!(reader.stream(), Stream::Meta);
}

#[test]
fn what_comes_early_waits_for_the_agreement() {
    let mut out = BytesMut::new();
    let features = Packet::ConnectionFeatures(ConnectionFeatures::OURS);
    features.encode(101, Features::OURS, VolumeNumber(0), &mut out);
    out.extend_from_slice(&encoded(&Packet::UnplugRemote));
    let mut data = PacketReader::new(Stream::Data);
    data.push(out.freeze());
    assert_eq!(data.next(), Ok(Some((VolumeNumber(0), features))));
    let mut meta = PacketReader::new(Stream::Meta);
    meta.push(encoded(&Packet::Ping).into());
    for (mut reader, packet) in [(data, Packet::UnplugRemote), (meta, Packet::Ping)] {
        assert_eq!(reader.next(), Ok(None));
        assert_eq!(reader.wants(), Wants::default());
        reader.agree(101, Features::OURS);
        assert_eq!(reader.next(), Ok(Some((VOLUME, packet))));
    }
}

#[test]
fn unknown_commands_above_256_are_skipped_by_length() {
    let mut reader = agreed(Stream::Meta);
    reader.push(raw(0x101, 100));
    reader.push(encoded(&Packet::Ping).into());
    assert_eq!(reader.next(), Ok(Some((VOLUME, Packet::Ignored(0x101)))));
    assert_eq!(reader.next(), Ok(Some((VOLUME, Packet::Ping))));
}

#[test]
fn refusals_read_as_in_the_kernels_log() {
    let case = |stream, bytes, expected: &str| assert_eq!(refused(stream, bytes).to_string(), expected);
    case(
        Stream::Data,
        Bytes::from_static(b"\xde\xad\xbe\xef............"),
        "Wrong magic value 0xdeadbeef in protocol version 101",
    );
    case(Stream::Data, raw(0x100, 0), "Unexpected data packet Unknown (0x0100)");
    case(Stream::Meta, raw(0x100, 0), "Unexpected meta packet Unknown (0x0100)");
    case(Stream::Data, raw(0x34, 28), "Unexpected data packet WriteSame (0x0034)");
    case(Stream::Meta, raw(0x00, 28), "Unexpected meta packet Data (0x0000)");
    case(Stream::Data, raw(0x13, 0), "Unexpected data packet Ping (0x0013)");
    case(Stream::Data, raw(0xfffe, 72), "Unexpected data packet ConnectionFeatures (0xfffe)");
    case(Stream::Data, raw(0x07, 5), "No payload expected UnplugRemote l:5");
    case(Stream::Data, raw(0x0c, 40), "ReportUUIDs: unexpected packet size, expected:48 received:40");
    case(Stream::Meta, raw(0x19, 2), "Wrong packet size on meta (c: 25, l: 2)");
    case(Stream::Data, raw(0x04, 4081), "ReportBitMap (0x0004): unexpected packet size, at most:4080 received:4081");
    case(
        Stream::Data,
        raw(0x00, u32::MAX),
        "Data (0x0000): unexpected packet size, at most:1048600 received:4294967295",
    );
    case(
        Stream::Data,
        raw(0x200, u32::MAX),
        "Unknown (0x0200): unexpected packet size, at most:1052672 received:4294967295",
    );
    case(Stream::Data, raw(0x00, 24), "Data: bad range, sector 0 +0");
    case(Stream::Data, raw(0x09, 24), "RSDataRequest: bad range, sector 0 +0");
    case(Stream::Data, raw(0x0b, 25), "ReportProtocol: protocol has unknown value 0");
    assert!(refused(Stream::Meta, raw(0x100, 0)).is_final());
    assert!(!refused(Stream::Data, raw(0x100, 0)).is_final());
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let ack = (0_u64..1000, any::<u64>(), 1_u32..100, any::<u32>()).prop_map(|(sector, id, sectors, sequence)| {
        let block_id = BlockId::from_u64(id);
        BlockAck { sector: Sector(sector), block_id, bytes: sectors * 512, sequence }
    });
    prop_oneof![
        (1_usize..9).prop_map(|sectors| write(sectors * 512)),
        Just(Packet::UnplugRemote),
        prop::collection::vec(any::<u8>(), 0..50).prop_map(|bytes| Packet::AuthResponse(bytes.into())),
        any::<i32>().prop_map(Packet::StateChangeReply),
        ack.prop_map(Packet::WriteAck),
        Just(Packet::Ping),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn chunks_do_not_matter(
        packets in prop::collection::vec(any_packet(), 1..12),
        chunks in prop::collection::vec(1_usize..700, 1..40),
    ) {
        for stream in [Stream::Data, Stream::Meta] {
            let on_stream = |packet: &&Packet| packet.command(101).unwrap().streams().contains(stream);
            let packets: Vec<Packet> = packets.iter().filter(on_stream).cloned().collect();
            let mut bytes: Bytes = packets.iter().flat_map(encoded).collect();
            let mut reader = agreed(stream);
            let mut found = Vec::new();
            for &chunk in chunks.iter().cycle() {
                if bytes.is_empty() {
                    break;
                }
                reader.push(bytes.split_to(chunk.min(bytes.len())));
                while let Some((volume, packet)) = reader.next().unwrap() {
                    prop_assert_eq!(volume, VOLUME);
                    found.push(packet);
                }
            }
            prop_assert_eq!(found, packets);
            prop_assert_eq!(reader.buffered(), 0);
        }
    }

    #[test]
    fn arbitrary_bodies_never_panic_and_are_written_back(
        command in prop::sample::select(Command::ALL),
        version in 86_u32..=101,
        features in 0_u32..16,
        digest in prop::sample::select(vec![0_usize, 4, 20]),
        body in prop::collection::vec(any::<u8>(), 0..700),
        volume in any::<u16>(),
    ) {
        for length in [body.len(), 0, 4, 8, 16, 24, 28, 32, 48, 56, 72, 132, 148] {
            let Some(body) = body.get(..length) else { continue };
            let volume = VolumeNumber(if version >= 100 { volume } else { 0 });
            let mut bytes = vec![0; header_bytes(version)];
            let header = Header { volume, command: CommandNumber(command.number()), length: length as u32 };
            header.encode(version, &mut bytes);
            bytes.extend_from_slice(body);
            for stream in [Stream::Data, Stream::Meta] {
                let mut reader = PacketReader::new(stream);
                reader.agree(version, Features(features));
                reader.set_digest_bytes(digest);
                reader.push(bytes.clone().into());
                let Ok(Some((found, packet))) = reader.next() else { continue };
                prop_assert_eq!(found, volume);
                if packet.supported(version, Features(features)) {
                    let mut out = BytesMut::new();
                    let payload = packet.encode(version, Features(features), volume, &mut out);
                    // Older versions lose the flags they do not have.
                    if version >= 100 {
                        reader.push(out.freeze());
                        reader.push(payload.unwrap_or_default());
                        prop_assert_eq!(reader.next(), Ok(Some((volume, packet))));
                    }
                }
            }
        }
    }

    #[test]
    fn arbitrary_streams_never_panic(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..6)) {
        for stream in [Stream::Data, Stream::Meta] {
            let mut reader = PacketReader::new(stream);
            for chunk in &chunks {
                reader.push(chunk.clone().into());
                while let Ok(Some(_)) = reader.next() {}
                let _ = reader.wants();
            }
        }
    }
}

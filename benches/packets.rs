//! Packets of the replication link: to bytes and back.

#![allow(missing_docs, reason = "criterion_group! makes public functions without documentation")]

use std::hint::black_box;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use shimai::model::ids::VolumeNumber;
use shimai::model::units::Sector;
use shimai::wire::framing::{Features, PacketReader, Stream};
use shimai::wire::packet::{BlockAck, BlockId, Data, DataFlags, Packet};

const VERSION: u32 = 101;
const VOLUME: VolumeNumber = VolumeNumber(0);
/// Packets in a received chunk.
const BATCH: usize = 32;

fn write() -> Packet {
    Packet::Data(Data {
        sector: Sector(4096),
        block_id: BlockId([7; 8]),
        sequence: 9,
        flags: DataFlags(0),
        digest: Bytes::new(),
        payload: Bytes::from(vec![5; 4096]),
    })
}

fn acknowledgement() -> Packet {
    Packet::WriteAck(BlockAck { sector: Sector(4096), block_id: BlockId([7; 8]), bytes: 4096, sequence: 9 })
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for (name, packet) in [("write of 4 KiB", write()), ("acknowledgement", acknowledgement())] {
        let mut out = BytesMut::with_capacity(1 << 16);
        group.throughput(Throughput::Elements(1)).bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                black_box(packet.encode(VERSION, Features::OURS, VOLUME, &mut out))
            });
        });
    }
    group.finish();
}

/// A chunk with a batch of the packet.
fn stream_of(packet: &Packet) -> Bytes {
    let mut stream = BytesMut::new();
    for _ in 0..BATCH {
        if let Some(payload) = packet.encode(VERSION, Features::OURS, VOLUME, &mut stream) {
            stream.extend_from_slice(&payload);
        }
    }
    stream.freeze()
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let cases = [("writes of 4 KiB", Stream::Data, write()), ("acknowledgements", Stream::Meta, acknowledgement())];
    for (name, kind, packet) in cases {
        let chunk = stream_of(&packet);
        let mut reader = PacketReader::new(kind);
        reader.agree(VERSION, Features::OURS);
        group.throughput(Throughput::Elements(BATCH as u64)).bench_function(name, |bencher| {
            bencher.iter(|| {
                reader.push(chunk.clone());
                while let Some(packet) = reader.next().expect("our own bytes") {
                    black_box(packet);
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = packets;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = encode, decode
}
criterion_main!(packets);

//! Streams cut in many ways.

use super::*;
use crate::io::buffer::is_aligned;
use crate::io::unix;
use proptest::prelude::*;

/// A frame of a client: a write with so many bytes, or (0) something without a payload.
fn nbd_frame(bytes: u32, seed: u8) -> Vec<u8> {
    let mut frame = vec![0x25, 0x60, 0x95, 0x13, 0, 0, 0, u8::from(bytes > 0)];
    frame.extend([seed; 16]);
    frame.extend(bytes.to_be_bytes());
    frame.extend((0..bytes).map(|at| (at as u8).wrapping_add(seed)));
    frame
}

/// A packet of a peer: blocks behind a digest of `lead` bytes, or (0) a barrier.
fn link_frame(bytes: u32, lead: u32, seed: u8) -> Vec<u8> {
    let length = if bytes > 0 { 24 + lead + bytes } else { 8 };
    let mut frame = vec![0x86, 0x20, 0xec, 0x20, 0, 0, 0, if bytes > 0 { 0 } else { 3 }];
    frame.extend(length.to_be_bytes());
    frame.extend([0; 4]);
    frame.extend((0..length).map(|at| (at as u8).wrapping_add(seed)));
    frame
}

/// Receives a stream in portions of these sizes, as a kernel would; what came out.
fn receive(inbox: &mut Inbox, stream: &[u8], portions: &mut dyn FnMut() -> usize) -> Vec<Bytes> {
    let (socket, _) = unix::pair().unwrap();
    let socket = Descriptor::from(socket);
    let mut out = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let mut operation = inbox.receive(socket.clone());
        let (now, later) = rest.split_at(portions().clamp(1, rest.len()));
        let unused = fill(&mut operation, now);
        rest = &stream[stream.len() - later.len() - unused..];
        inbox.on_received(operation, &mut out);
    }
    out
}

/// Puts bytes where the operation wants them; how many found no room.
fn fill(operation: &mut Operation, mut bytes: &[u8]) -> usize {
    let mut put = |chunk: &mut Chunk, len: usize| {
        let (now, later) = bytes.split_at(len.min(chunk.remaining()).min(bytes.len()));
        chunk.append(now);
        bytes = later;
    };
    match operation {
        Operation::Recv { chunk, len, .. } => put(chunk, *len),
        Operation::RecvMsg { chunks, layout, .. } => {
            layout.iter().for_each(|span| put(&mut chunks[span.chunk], span.len));
        }
        _ => panic!("not a receive"),
    }
    bytes.len()
}

#[test]
fn payloads_of_a_regular_stream_are_aligned_and_whole() {
    for (framing, frame) in [
        (Framing::Nbd, nbd_frame(4096, 1)),
        (Framing::Link, link_frame(4096, 0, 1)),
        (Framing::Nbd, nbd_frame(1 << 20, 1)),
    ] {
        let mut inbox = Inbox::new(&BufferPool::new(), framing);
        let payload_bytes = frame.len() - if framing == Framing::Nbd { 28 } else { 40 };
        let stream = frame.repeat(40);
        let mut sizes = [100, 70_000, 5000, 30, 400_000].into_iter().cycle();
        let out = receive(&mut inbox, &stream, &mut || sizes.next().unwrap());
        assert_eq!(out.concat(), stream);
        let whole = out.iter().filter(|bytes| bytes.len() == payload_bytes && is_aligned(bytes, 512)).count();
        assert!(whole >= 38, "{whole} of 40, {framing:?}");
    }
}

#[test]
fn a_frame_without_a_payload_does_not_make_the_next_payload_unexpected() {
    let mut inbox = Inbox::new(&BufferPool::new(), Framing::Nbd);
    let mut aligned = 0;
    for seed in 0..20 {
        // One request at a time, a write and a flush by turns, as a file system that syncs sends them.
        for frame in [nbd_frame(4096, seed), nbd_frame(0, seed)] {
            let out = receive(&mut inbox, &frame, &mut || frame.len());
            assert_eq!(out.concat(), frame);
            aligned += out.iter().filter(|bytes| bytes.len() == 4096 && is_aligned(bytes, 512)).count();
        }
    }
    assert!(aligned >= 19, "{aligned} of 20");
}

#[test]
fn what_follows_a_digest_is_aligned() {
    let mut inbox = Inbox::new(&BufferPool::new(), Framing::Link);
    let stream = link_frame(8192, 20, 3).repeat(10);
    let out = receive(&mut inbox, &stream, &mut || 3000);
    assert_eq!(out.concat(), stream);
    let whole = out.iter().filter(|bytes| bytes.len() == 8212 && is_aligned(&bytes.slice(20..), 512)).count();
    assert!(whole >= 9, "{whole} of 10");
}

#[test]
fn what_is_no_frame_passes_through() {
    let mut inbox = Inbox::new(&BufferPool::new(), Framing::Nbd);
    let stream: Vec<u8> = (0..100_000u32).map(|at| at as u8).collect();
    let out = receive(&mut inbox, &stream, &mut || 7000);
    assert_eq!(out.concat(), stream);
    assert_eq!(inbox.framing(), Framing::Opaque);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_stream_comes_out_as_it_went_in_and_no_payload_is_cut(
        frames in prop::collection::vec((prop::sample::select(vec![0, 0, 512, 4096, 4096, 4096, 65_536, 300_000]), any::<u8>()), 1..40),
        sizes in prop::collection::vec(prop::sample::select(vec![1usize, 27, 28, 29, 40, 4096, 4124, 50_000, 300_000]), 1..20),
        lead in prop::sample::select(vec![0, 0, 4, 20]),
        is_link: bool,
    ) {
        let framing = if is_link { Framing::Link } else { Framing::Nbd };
        let frame = |(bytes, seed): &(u32, u8)| if is_link { link_frame(*bytes, lead, *seed) } else { nbd_frame(*bytes, *seed) };
        let stream: Vec<u8> = frames.iter().flat_map(frame).collect();
        let mut inbox = Inbox::new(&BufferPool::new(), framing);
        let mut sizes = sizes.into_iter().cycle();
        let out = receive(&mut inbox, &stream, &mut || sizes.next().unwrap_or(1));
        prop_assert_eq!(out.concat(), stream);
        prop_assert_eq!(inbox.framing(), framing);
        let mut ends = Vec::new();
        let mut at = 0;
        for piece in &out {
            at += piece.len();
            ends.push(at);
        }
        let mut start = 0;
        for (bytes, seed) in &frames {
            let end = start + frame(&(*bytes, *seed)).len();
            let head = if is_link { 40 } else { 28 };
            if *bytes > 0 {
                prop_assert!(ends.iter().all(|cut| *cut <= start + head || *cut >= end), "a payload was cut");
            }
            start = end;
        }
    }
}

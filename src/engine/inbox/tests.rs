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

/// What came out of an inbox, and where the kernel had put it.
#[derive(Default)]
struct Received {
    out: Vec<Bytes>,
    put: Vec<Bytes>,
}

impl Received {
    /// Whether these bytes of the stream came out where they had been put.
    fn is_in_place(&self, range: Range<usize>) -> bool {
        let place = |pieces: &[Bytes], at| address(pieces, at);
        [range.start, range.end - 1].into_iter().all(|at| place(&self.out, at) == place(&self.put, at))
    }
}

/// Where a byte of a stream lies.
fn address(pieces: &[Bytes], at: usize) -> Option<usize> {
    let mut before = 0;
    pieces.iter().find_map(|piece| {
        let here = (before..before + piece.len()).contains(&at).then(|| piece.as_ptr() as usize + at - before);
        before += piece.len();
        here
    })
}

/// Receives a stream in portions of these sizes, as a kernel would.
fn receive_and_watch(inbox: &mut Inbox, stream: &[u8], portions: &mut dyn FnMut() -> usize) -> Received {
    let (socket, _) = unix::pair().unwrap();
    let socket = Descriptor::from(socket);
    let mut received = Received::default();
    let mut rest = stream;
    while !rest.is_empty() {
        let mut operation = inbox.receive(socket.clone());
        let (now, later) = rest.split_at(portions().clamp(1, rest.len()));
        let unused = fill(&mut operation, now, &mut received.put);
        rest = &stream[stream.len() - later.len() - unused..];
        inbox.on_received(operation, &mut received.out);
    }
    received
}

fn receive(inbox: &mut Inbox, stream: &[u8], portions: &mut dyn FnMut() -> usize) -> Vec<Bytes> {
    receive_and_watch(inbox, stream, portions).out
}

/// Puts bytes where the operation wants them; how many found no room.
fn fill(operation: &mut Operation, mut bytes: &[u8], places: &mut Vec<Bytes>) -> usize {
    let mut put = |chunk: &mut Chunk, len: usize| {
        let (now, later) = bytes.split_at(len.min(chunk.remaining()).min(bytes.len()));
        let start = chunk.filled();
        chunk.append(now);
        places.extend(chunk.bytes(start..chunk.filled()));
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

/// How many payloads of a stream of these frames are copied, behind the receive that brings the first frame.
fn copied(framing: Framing, frames: &[Vec<u8>]) -> usize {
    let mut inbox = Inbox::new(&BufferPool::new(), framing);
    let mut first = Some(frames[0].len());
    let received = receive_and_watch(&mut inbox, &frames.concat(), &mut || first.take().unwrap_or(100_000));
    assert_eq!(received.out.concat(), frames.concat());
    let head = if framing == Framing::Nbd { 28 } else { 40 };
    let mut at = 0;
    let mut copied = 0;
    for frame in frames {
        let payload = at + head..at + frame.len();
        at += frame.len();
        let has_payload = payload.len() >= 512;
        let is_first = payload.start < frames[0].len();
        copied += usize::from(has_payload && !is_first && !received.is_in_place(payload));
    }
    copied
}

#[test]
fn no_payload_is_copied_whatever_the_sizes_and_the_order() {
    let sizes = [4096, 8192, 0, 512, 0, 0, 65_536, 4096, 4096, 8192, 0, 12_288, 1 << 20, 16_384];
    let of = |at: usize| sizes[(at * 7 + at / 14 * 3) % sizes.len()];
    let nbd: Vec<_> = (0..200).map(|at| nbd_frame(of(at), at as u8)).collect();
    assert_eq!(copied(Framing::Nbd, &nbd), 0);
    for lead in [0, 20] {
        let link: Vec<_> = (0..200).map(|at| link_frame(of(at), lead, at as u8)).collect();
        assert_eq!(copied(Framing::Link, &link), 0, "digests of {lead} bytes");
    }
}

#[test]
fn what_a_change_after_a_regular_stretch_costs_is_bounded() {
    for stretch in [31, 32, 100, 320] {
        let one_round = || {
            let same = (0..stretch).map(|at| nbd_frame(4096, at as u8));
            same.chain([nbd_frame(8192, 9), nbd_frame(0, 9)])
        };
        let frames: Vec<_> = (0..10).flat_map(|_| one_round()).collect();
        let copied = copied(Framing::Nbd, &frames);
        assert!(copied * RUN_PER_FRAME <= frames.len(), "{copied} of {} frames, {stretch} alike", frames.len());
    }
}

#[test]
fn a_regular_stream_takes_fewer_receives_than_it_has_frames() {
    for frame in [nbd_frame(4096, 1), nbd_frame(0, 1)] {
        let mut inbox = Inbox::new(&BufferPool::new(), Framing::Nbd);
        receive(&mut inbox, &nbd_frame(512, 1), &mut || 1000);
        let mut receives = 0;
        let stream = frame.repeat(2000);
        receive(&mut inbox, &stream, &mut || {
            receives += 1;
            200_000
        });
        assert!(receives < 400, "{receives} receives for 2000 frames of {} bytes", frame.len());
    }
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

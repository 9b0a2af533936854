//! Rings against real files and sockets.

use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use bytes::Bytes;

use super::*;
use crate::io::block_file::{BlockFile, Create, Mode};
use crate::io::buffer::{AlignedBuffer, BufferPool, Chunk};
use crate::io::process::{self, Command};
use crate::io::wake::Mailbox;
use crate::io::{tcp, unix};

const SIZE: u64 = 8 << 20;

/// Longer than anything here takes; a test that needs it has failed.
const PATIENCE: Duration = Duration::from_secs(120);

struct Bench {
    ring: Ring,
    pool: BufferPool,
}

impl Bench {
    fn new() -> Self {
        Self { ring: Ring::new(16).unwrap(), pool: BufferPool::new() }
    }

    /// Waits for `count` completions.
    fn wait(&mut self, count: usize) -> Vec<Completion> {
        let deadline = crate::io::clock::now() + PATIENCE;
        let mut completions = Vec::new();
        while completions.len() < count {
            assert!(crate::io::clock::now() < deadline, "only {} of {count} have completed", completions.len());
            self.ring.submit_and_wait(Some(Duration::from_secs(1))).unwrap();
            self.ring.completions(&mut completions);
        }
        completions
    }

    /// Does one operation.
    fn perform(&mut self, operation: Operation) -> Completion {
        let key = self.ring.push(operation).unwrap();
        let completion = self.wait(1).remove(0);
        assert_eq!(completion.key, key);
        completion
    }

    fn write(&mut self, file: &BlockFile, offset: u64, pieces: impl Into<Pieces>, durable: bool) -> Completion {
        let file = file.descriptor().clone();
        self.perform(Operation::WriteAt { file, offset, pieces: pieces.into(), durable })
    }

    fn read(&mut self, file: &BlockFile, offset: u64, len: usize) -> Result<AlignedBuffer, RingError> {
        let (file, buffer) = (file.descriptor().clone(), self.pool.take(len));
        let completion = self.perform(Operation::ReadAt { file, offset, buffer });
        let Operation::ReadAt { buffer, .. } = completion.operation else { panic!("another operation came back") };
        completion.result.map(|_| buffer)
    }

    fn pattern(&self, len: usize, seed: u8) -> Bytes {
        let mut buffer = self.pool.take(len);
        buffer.iter_mut().enumerate().for_each(|(index, byte)| *byte = (index / 3) as u8 ^ seed);
        buffer.freeze()
    }
}

fn store(directory: impl AsRef<Path>, direct: bool) -> BlockFile {
    let mode = Mode { direct, create: Create::IfMissing { bytes: SIZE }, ..Mode::default() };
    BlockFile::open(directory.as_ref().join("disk"), mode).unwrap()
}

fn transferred(completion: &Completion) -> usize {
    match completion.result {
        Ok(Outcome::Transferred(count)) => count,
        ref other => panic!("{other:?}"),
    }
}

fn pair() -> (Descriptor, UnixStream) {
    let (ours, theirs) = unix::pair().unwrap();
    (ours.into(), theirs.into())
}

#[test]
fn what_is_written_is_read_on_every_kind_of_file() {
    for directory in [tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap()] {
        for direct in [false, true] {
            let mut bench = Bench::new();
            let file = store(&directory, direct);
            for (len, durable) in [(4096, false), (4096, true), (128 << 10, true), (1 << 20, false), (3 << 20, true)] {
                let bytes = bench.pattern(len, len.trailing_zeros() as u8);
                assert_eq!(transferred(&bench.write(&file, 4096, bytes.clone(), durable)), len);
                assert_eq!(bench.read(&file, 4096, len).unwrap()[..], bytes[..]);
            }
            let pieces = vec![bench.pattern(4096, 1), bench.pattern(8192, 2), bench.pattern(4096, 3)];
            assert_eq!(transferred(&bench.write(&file, 0, pieces.clone(), true)), 16384);
            assert_eq!(bench.read(&file, 0, 16384).unwrap()[..], pieces.concat());
            let file = file.descriptor().clone();
            bench.perform(Operation::WriteBack { file: file.clone() }).result.unwrap();
            let sync = bench.perform(Operation::Fsync { file, data_only: true });
            assert!(matches!(sync.result, Ok(Outcome::Done)));
        }
    }
}

#[test]
fn more_pieces_than_one_call_takes_are_written_in_several() {
    let directory = tempfile::tempdir().unwrap();
    let (mut bench, file) = (Bench::new(), store(&directory, false));
    let bytes = bench.pattern(100 * 2500, 9);
    let mut pieces: Vec<Bytes> = (0..2500).map(|index| bytes.slice(index * 100..(index + 1) * 100)).collect();
    pieces.insert(700, Bytes::new());
    assert_eq!(transferred(&bench.write(&file, 1, pieces, true)), bytes.len());
    assert_eq!(bench.read(&file, 1, bytes.len()).unwrap()[..], bytes[..]);
}

#[test]
fn a_direct_file_refuses_what_is_not_aligned_and_gives_it_back() {
    let directory = tempfile::tempdir().unwrap();
    let (mut bench, file) = (Bench::new(), store(&directory, true));
    if !file.is_direct() {
        return without("a file system that bypasses the page cache, in TMPDIR");
    }
    let whole = bench.pattern(16384, 0);
    let write =
        |pieces: Pieces, offset| Operation::WriteAt { file: file.descriptor().clone(), offset, pieces, durable: false };
    for operation in [
        write(whole.slice(100..4196).into(), 0),
        write(whole.slice(0..4000).into(), 0),
        write(whole.slice(0..4096).into(), 100),
        write(vec![whole.slice(0..4096), whole.slice(4096..4100)].into(), 0),
        Operation::ReadAt { file: file.descriptor().clone(), offset: 100, buffer: bench.pool.take(4096) },
        Operation::ReadAt { file: file.descriptor().clone(), offset: 0, buffer: bench.pool.take(4095) },
    ] {
        let name = operation.name();
        let refused = bench.ring.push(operation).unwrap_err();
        assert!(matches!(refused.reason, RingError::Invalid { .. }));
        assert_eq!(refused.operation.name(), name);
    }
    let pieces = vec![whole.slice(0..512), whole.slice(1024..4096)];
    bench.write(&file, 512, pieces, false).result.unwrap();
}

#[test]
fn a_read_beyond_the_end_says_how_far_it_came() {
    let directory = tempfile::tempdir().unwrap();
    for direct in [false, true] {
        let (mut bench, file) = (Bench::new(), store(&directory, direct));
        match bench.read(&file, SIZE - 4096, 8192) {
            Err(RingError::ShortTransfer { done: 4096, wanted: 8192, .. }) => (),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn zeroed_punched_and_discarded_ranges_read_as_zeroes() {
    for directory in [tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap()] {
        let (mut bench, file) = (Bench::new(), store(&directory, true));
        let (offset, len) = (1 << 20, 3 << 20);
        for kind in 0..4 {
            let bytes = bench.pattern(4 << 20, 5);
            bench.write(&file, offset, bytes.clone(), false).result.unwrap();
            let file_of = file.descriptor().clone();
            let completion = bench.perform(match kind {
                0 => Operation::Fallocate { file: file_of, offset, len, mode: FallocateMode::PunchHole },
                1 => Operation::WriteZeroes { file: file_of, offset, len, may_unmap: false },
                2 => Operation::WriteZeroes { file: file_of, offset, len, may_unmap: true },
                _ => Operation::Discard { file: file_of, offset, len },
            });
            assert!(matches!(completion.result, Ok(Outcome::Done)), "{:?}", completion.result);
            let read = bench.read(&file, offset, 4 << 20).unwrap();
            assert!(read[..3 << 20].iter().all(|byte| *byte == 0));
            assert_eq!(read[3 << 20..], bytes[3 << 20..]);
        }
    }
}

#[test]
fn a_small_queue_carries_many_operations() {
    let directory = tempfile::tempdir().unwrap();
    let (mut bench, file) = (Bench::new(), store(&directory, true));
    bench.ring = Ring::new(2).unwrap();
    bench.ring.register(file.descriptor()).unwrap();
    for index in 0..300u64 {
        let (pieces, file) = (bench.pattern(4096, index as u8).into(), file.descriptor().clone());
        let durable = index % 10 == 0;
        bench.ring.push_tagged(Operation::WriteAt { file, offset: index * 4096, pieces, durable }, index).unwrap();
    }
    let completions = bench.wait(300);
    let mut tags: Vec<u64> = completions.iter().map(|completion| completion.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..300).collect::<Vec<_>>());
    assert!(completions.iter().all(|completion| transferred(completion) == 4096));
    assert!(bench.ring.is_empty());
    for index in 0..300u64 {
        assert_eq!(bench.read(&file, index * 4096, 4096).unwrap()[..], bench.pattern(4096, index as u8)[..]);
    }
}

#[test]
fn a_registered_file_keeps_its_lock_until_it_is_unregistered() {
    let directory = tempfile::tempdir().unwrap();
    let (mut bench, file) = (Bench::new(), store(&directory, false));
    file.lock().unwrap();
    assert!(bench.ring.register(file.descriptor()).unwrap());
    assert!(bench.ring.register(file.descriptor()).unwrap(), "twice is once");
    let bytes = bench.pattern(4096, 1);
    bench.write(&file, 0, bytes, true).result.unwrap();
    let descriptor = file.descriptor().clone();
    drop(file);
    let other = store(&directory, false);
    assert!(other.lock().is_err());
    bench.ring.unregister(&descriptor).unwrap();
    drop(descriptor);
    other.wait_for_lock(PATIENCE).unwrap();
}

#[test]
fn a_chunk_is_received_into_while_its_beginning_is_in_use() {
    let (socket, peer) = pair();
    let mut bench = Bench::new();
    let mut chunk = bench.pool.chunk();
    let mut slices = Vec::new();
    for word in ["first", "second", "third"] {
        std::io::Write::write_all(&mut &peer, word.as_bytes()).unwrap();
        let before = chunk.filled();
        let completion = bench.perform(Operation::Recv { socket: socket.clone(), chunk, len: usize::MAX });
        let count = transferred(&completion);
        let Operation::Recv { chunk: returned, .. } = completion.operation else { panic!() };
        chunk = returned;
        assert_eq!(chunk.filled(), before + count);
        slices.push(chunk.bytes(before..before + count).unwrap());
    }
    assert_eq!(slices, ["first", "second", "third"]);
    assert_eq!(chunk.bytes(3..8).unwrap(), "stsec");
    drop(peer);
    let completion = bench.perform(Operation::Recv { socket, chunk, len: 100 });
    assert_eq!(transferred(&completion), 0, "the peer has closed");
}

#[test]
fn a_receive_scatters_headers_away_so_that_payloads_land_aligned() {
    let (socket, peer) = pair();
    let mut bench = Bench::new();
    let (first, second) = (bench.pattern(4096, 1), bench.pattern(4096, 2));
    let mut stream = first.to_vec();
    stream.extend([b'h'; 28]);
    stream.extend_from_slice(&second);
    stream.extend([b'i'; 10]);
    std::io::Write::write_all(&mut &peer, &stream).unwrap();
    let chunks = vec![bench.pool.chunk(), bench.pool.chunk_of(4096)];
    let layout = vec![(0, 4096), (1, 28), (0, 4096), (1, 28)];
    let layout = layout.into_iter().map(|(chunk, len)| Span { chunk, len }).collect();
    let completion = bench.perform(Operation::RecvMsg { socket, chunks, layout });
    assert_eq!(transferred(&completion), stream.len());
    let Operation::RecvMsg { mut chunks, .. } = completion.operation else { panic!() };
    assert_eq!((chunks[0].filled(), chunks[1].filled()), (8192, 38));
    assert_eq!(chunks[1].received(), [[b'h'; 28].as_slice(), [b'i'; 10].as_slice()].concat());
    let payload = chunks[0].bytes(4096..8192).unwrap();
    assert_eq!(payload, second);
    assert!(crate::io::buffer::is_aligned(&payload, 4096));
    assert_eq!(chunks[0].bytes(0..4096).unwrap(), first);
}

#[test]
fn a_receive_without_the_ring_takes_what_is_there_and_waits_for_nothing() {
    let (socket, peer) = pair();
    let bench = Bench::new();
    let layout = || [(0, 8), (1, 4), (0, 8)].map(|(chunk, len)| Span { chunk, len }).to_vec();
    let chunks = vec![bench.pool.chunk(), bench.pool.chunk_of(4096)];
    let mut operation = Operation::RecvMsg { socket: socket.clone(), chunks, layout: layout() };
    let receive = |operation: &mut Operation| receive_now(operation).map(Result::unwrap);
    assert_eq!(receive(&mut operation), None, "nothing has come");
    std::io::Write::write_all(&mut &peer, b"aaaaaaaahhhhbb").unwrap();
    assert_eq!(receive(&mut operation), Some(14));
    assert_eq!(receive(&mut operation), None);
    let Operation::RecvMsg { mut chunks, .. } = operation else { panic!() };
    assert_eq!(chunks.iter().map(Chunk::received).collect::<Vec<_>>(), [b"aaaaaaaabb".as_slice(), b"hhhh"]);

    let room = chunks[0].remaining();
    chunks[0].skip(room - 1);
    let mut operation = Operation::RecvMsg { socket, chunks, layout: layout() };
    std::io::Write::write_all(&mut &peer, b"more than there is room for").unwrap();
    assert_eq!(receive(&mut operation), None, "what does not fit is refused as by the ring");
    drop(peer);
    let Operation::RecvMsg { socket, .. } = operation else { panic!() };
    let chunks = vec![bench.pool.chunk(), bench.pool.chunk()];
    let mut operation = Operation::RecvMsg { socket, chunks, layout: layout() };
    assert_eq!([receive(&mut operation), receive(&mut operation)], [Some(20), Some(7)]);
    assert_eq!(receive(&mut operation), None, "the end is for the ring to tell");
}

/// The kernel tells an error of a socket once; whoever hears it must pass it on.
#[test]
fn a_receive_without_the_ring_tells_that_the_connection_was_reset() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = Descriptor::from(OwnedFd::from(listener.accept().unwrap().0));
    // What is not read when a socket is closed turns its end into a reset.
    nix::unistd::write(&socket, b"not read").unwrap();
    let mut byte = [0];
    peer.peek(&mut byte).unwrap();
    drop(peer);
    let bench = Bench::new();
    let layout = vec![Span { chunk: 0, len: 8 }];
    let mut operation = Operation::RecvMsg { socket, chunks: vec![bench.pool.chunk()], layout };
    let result = (0..1000).find_map(|_| receive_now(&mut operation)).expect("a reset comes at once on loopback");
    assert!(result.unwrap_err().to_string().contains("reset"));
}

#[test]
fn a_layout_that_does_not_fit_is_refused_with_its_chunks() {
    let (socket, _peer) = pair();
    let mut bench = Bench::new();
    for (chunk, len) in [(0, 4097), (1, 1), (0, 0)] {
        let operation = Operation::RecvMsg {
            socket: socket.clone(),
            chunks: vec![bench.pool.chunk_of(4096)],
            layout: vec![Span { chunk, len }],
        };
        let refused = bench.ring.push(operation).unwrap_err();
        assert!(matches!(refused.reason, RingError::Invalid { .. }));
        assert!(matches!(*refused.operation, Operation::RecvMsg { ref chunks, .. } if chunks.len() == 1));
    }
    assert!(bench.ring.is_empty());
}

/// Sends more than the buffers between the two ends hold, and receives it bit by bit.
fn stream_through(mut bench: Bench, sender: Descriptor, receiver: Descriptor) {
    let bytes = bench.pattern(6 << 20, 3);
    let mut pieces: Vec<Bytes> = bytes.chunks(7000).map(|piece| bytes.slice_ref(piece)).collect();
    pieces.insert(1, Bytes::new());
    assert!(pieces.len() < 1024);
    bench.ring.push_tagged(Operation::SendMsg { socket: sender.clone(), pieces: pieces.into() }, 1).unwrap();
    let mut received = Vec::new();
    let mut sent = false;
    let receive = |chunk: Chunk| Operation::Recv { socket: receiver.clone(), chunk, len: 50_000 };
    bench.ring.push_tagged(receive(bench.pool.chunk()), 2).unwrap();
    while received.len() < bytes.len() || !sent {
        for completion in bench.wait(1) {
            let count = transferred(&completion);
            match completion.operation {
                Operation::SendMsg { .. } => {
                    sent = true;
                    assert_eq!(count, bytes.len());
                }
                Operation::Recv { mut chunk, .. } => {
                    received.extend_from_slice(&chunk.received()[chunk.filled() - count..]);
                    if chunk.remaining() == 0 {
                        chunk = bench.pool.chunk();
                    }
                    if received.len() < bytes.len() {
                        bench.ring.push_tagged(receive(chunk), 2).unwrap();
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(received, bytes);
    let one = Operation::SendMsg { socket: sender, pieces: Bytes::from_static(b"end").into() };
    assert_eq!(transferred(&bench.perform(one)), 3);
}

#[test]
fn a_long_send_arrives_whole_over_a_socket_pair() {
    let (ours, theirs) = unix::pair().unwrap();
    stream_through(Bench::new(), ours.into(), theirs.into());
}

#[test]
fn a_ring_without_the_cheap_flags_does_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench { ring: Ring::over(set_up_plainly(4).unwrap()), pool: BufferPool::new() };
    let (file, bytes) = (store(&directory, true), bench.pattern(1 << 20, 1));
    bench.write(&file, 0, bytes.clone(), true).result.unwrap();
    assert_eq!(bench.read(&file, 0, 1 << 20).unwrap()[..], bytes[..]);
    let (ours, theirs) = unix::pair().unwrap();
    stream_through(bench, ours.into(), theirs.into());
}

#[test]
fn a_long_send_arrives_whole_between_non_blocking_sockets() {
    let (ours, theirs) = unix::pair().unwrap();
    tcp::set_nonblocking(&ours, true).unwrap();
    tcp::set_nonblocking(&theirs, true).unwrap();
    stream_through(Bench::new(), ours.into(), theirs.into());
}

#[test]
fn a_long_send_arrives_whole_over_tcp_that_the_ring_has_connected() {
    let mut bench = Bench::new();
    let options = tcp::StreamOptions::default();
    let listener = tcp::listener("127.0.0.1:0".parse().unwrap(), &options).unwrap();
    let address = tcp::local_address(&listener).unwrap();
    let socket = Descriptor::from(tcp::connecting(address, None, &options).unwrap());
    bench.ring.push(Operation::Accept { listener: listener.into() }).unwrap();
    let timeout = Some(PATIENCE);
    bench.ring.push(Operation::Connect { socket: socket.clone(), address, timeout }).unwrap();
    let mut accepted = None;
    for completion in bench.wait(2) {
        match completion.result.unwrap() {
            Outcome::Accepted(connection) => accepted = Some(connection),
            outcome => assert!(matches!(outcome, Outcome::Done)),
        }
    }
    let accepted = accepted.unwrap();
    tcp::configure(&accepted, &options).unwrap();
    stream_through(bench, socket, accepted.into());
}

#[test]
fn a_connect_to_nobody_fails_and_one_without_an_answer_times_out() {
    let mut bench = Bench::new();
    let options = tcp::StreamOptions::default();
    let listener = tcp::listener("127.0.0.1:0".parse().unwrap(), &options).unwrap();
    let address = tcp::local_address(&listener).unwrap();
    // A queue of none takes one connection or two, and then answers nobody.
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let connect = |timeout| Operation::Connect {
        socket: tcp::connecting(address, None, &options).unwrap().into(),
        address,
        timeout,
    };
    let mut kept = Vec::new();
    let timed_out = (0..5).any(|_| {
        let completion = bench.perform(connect(Some(Duration::from_millis(50))));
        let timed_out = matches!(completion.result, Err(RingError::TimedOut { .. }));
        kept.push(completion);
        timed_out
    });
    assert!(timed_out);
    drop((kept, listener));
    let completion = bench.perform(connect(Some(PATIENCE)));
    assert_eq!(completion.result.unwrap_err().errno(), Some(libc::ECONNREFUSED));
    let completion = bench.perform(connect(None));
    assert_eq!(completion.result.unwrap_err().errno(), Some(libc::ECONNREFUSED));
}

#[test]
fn a_send_to_a_peer_that_is_gone_is_an_error_and_no_signal() {
    let (socket, peer) = pair();
    drop(peer);
    let completion = Bench::new().perform(Operation::SendMsg { socket, pieces: Bytes::from_static(b"x").into() });
    assert_eq!(completion.result.unwrap_err().errno(), Some(libc::EPIPE));
}

#[test]
fn a_cancelled_receive_gives_its_chunk_back() {
    let (socket, _peer) = pair();
    let mut bench = Bench::new();
    let chunk = bench.pool.chunk();
    let key = bench.ring.push_tagged(Operation::Recv { socket, chunk, len: 10 }, 1).unwrap();
    bench.ring.submit_and_wait(Some(Duration::ZERO)).unwrap();
    bench.ring.push_tagged(Operation::Cancel { key }, 2).unwrap();
    for completion in bench.wait(2) {
        match completion.tag {
            1 => assert!(matches!(completion.result, Err(RingError::Cancelled { .. }))),
            _ => assert!(matches!(completion.result, Ok(Outcome::Done))),
        }
    }
    let completion = bench.perform(Operation::Cancel { key });
    assert_eq!(completion.result.unwrap_err().errno(), Some(libc::ENOENT), "it is there no more");
}

#[test]
fn an_operation_in_the_backlog_can_be_cancelled() {
    let (socket, _peer) = pair();
    let mut bench = Bench::new();
    bench.ring = Ring::new(2).unwrap();
    let keys: Vec<OpKey> = (0..20)
        .map(|_| {
            bench.ring.push(Operation::Recv { socket: socket.clone(), chunk: bench.pool.chunk(), len: 1 }).unwrap()
        })
        .collect();
    for key in keys {
        bench.ring.push_tagged(Operation::Cancel { key }, 1).unwrap();
    }
    let completions = bench.wait(40);
    let received = completions.iter().filter(|completion| completion.tag == 0);
    assert!(received.into_iter().all(|completion| matches!(completion.result, Err(RingError::Cancelled { .. }))));
    assert!(bench.ring.is_empty());
}

#[test]
fn a_shutdown_wakes_a_receive_and_close_ends_the_connection() {
    let (ours, theirs) = unix::pair().unwrap();
    let (socket, duplicate): (Descriptor, OwnedFd) = (ours.try_clone().unwrap().into(), ours);
    let mut bench = Bench::new();
    let chunk = bench.pool.chunk();
    bench.ring.push(Operation::Recv { socket: socket.clone(), chunk, len: 10 }).unwrap();
    bench.ring.submit_and_wait(Some(Duration::ZERO)).unwrap();
    bench.ring.push(Operation::Shutdown { socket: socket.clone(), how: Shutdown::Both }).unwrap();
    for completion in bench.wait(2) {
        completion.result.unwrap();
    }
    drop(socket);
    bench.perform(Operation::Close { descriptor: Some(duplicate) }).result.unwrap();
    let mut rest = Vec::new();
    assert_eq!(std::io::Read::read_to_end(&mut UnixStream::from(theirs), &mut rest).unwrap(), 0);
}

#[test]
fn another_thread_wakes_the_loop_through_its_mailbox() {
    let mut bench = Bench::new();
    let mailbox = Mailbox::new(100).unwrap();
    let poll = Operation::PollAdd { descriptor: mailbox.waker().descriptor().clone(), events: libc::POLLIN as u32 };
    bench.ring.push(poll).unwrap();
    let sender = mailbox.clone();
    let thread = std::thread::spawn(move || (0..50).for_each(|number| sender.post(number).unwrap()));
    let mut messages = Vec::new();
    while messages.len() < 50 {
        let completion = bench.wait(1).remove(0);
        assert!(matches!(completion.result, Ok(Outcome::Ready(events)) if events & libc::POLLIN as u32 != 0));
        mailbox.drain(&mut messages);
        bench.ring.push(completion.operation).unwrap();
    }
    thread.join().unwrap();
    assert_eq!(messages, (0..50).collect::<Vec<_>>());
}

#[test]
fn time_limits_end_waits() {
    let mut bench = Bench::new();
    bench.ring.submit_and_wait(None).unwrap();
    bench.ring.submit_and_wait(Some(Duration::from_millis(5))).unwrap();
    let completion = bench.perform(Operation::Timeout { after: Duration::from_millis(5) });
    assert!(matches!(completion.result, Ok(Outcome::Expired)));
    let key = bench.ring.push_tagged(Operation::Timeout { after: PATIENCE * 100 }, 1).unwrap();
    bench.ring.push(Operation::Cancel { key }).unwrap();
    let completions = bench.wait(2);
    assert!(completions.iter().any(|completion| matches!(completion.result, Err(RingError::Cancelled { .. }))));
}

#[test]
fn dropping_a_ring_gets_every_buffer_back_first() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, _peer) = pair();
    let file = store(&directory, true);
    let mut bench = Bench::new();
    for index in 0..40 {
        let pieces = bench.pattern(64 << 10, 1).into();
        let write = Operation::WriteAt { file: file.descriptor().clone(), offset: index << 16, pieces, durable: true };
        bench.ring.push(write).unwrap();
        bench.ring.push(Operation::Recv { socket: socket.clone(), chunk: bench.pool.chunk(), len: 1 }).unwrap();
        if index % 7 == 0 {
            bench.ring.submit_and_wait(Some(Duration::ZERO)).unwrap();
        }
    }
    let pool = bench.pool.clone();
    drop(bench);
    assert_eq!(pool.cached_bytes(), 40 * (64 << 10) + 40 * (256 << 10));
}

#[test]
fn the_ring_is_bounded() {
    let mut bench = Bench::new();
    for _ in 0..OPERATIONS_MAX {
        bench.ring.push(Operation::Timeout { after: Duration::ZERO }).unwrap();
    }
    let refused = bench.ring.push(Operation::Timeout { after: Duration::ZERO }).unwrap_err();
    assert!(matches!(refused.reason, RingError::Full { .. }));
    bench.wait(OPERATIONS_MAX);
}

/// A durable write whose two completions come as told; what follows.
fn judge_durable(completions: [(bool, i32); 2]) -> Step {
    let directory = tempfile::tempdir().unwrap();
    let file = store(&directory, false).descriptor().clone();
    let ring = IoUring::new(2).unwrap();
    let pieces = Bytes::from_static(&[0; 100]).into();
    let mut flight = Flight::new(Operation::WriteAt { file, offset: 0, pieces, durable: true }, 0, 0);
    let entries = flight.prepare(0, &FileTable::new(&ring), &mut FreeList::default());
    assert!(entries.linked.is_some());
    let [first, second] = completions;
    assert!(matches!(flight.on_result(first.0, first.1), Step::Wait));
    flight.on_result(second.0, second.1)
}

#[test]
fn a_durable_write_ends_only_after_a_sync_that_followed_all_of_it() {
    assert!(matches!(judge_durable([(false, 100), (true, 0)]), Step::Finished(Ok(Outcome::Transferred(100)))));
    assert!(matches!(judge_durable([(true, 0), (false, 100)]), Step::Again), "the sync came first");
    assert!(
        matches!(judge_durable([(false, 60), (true, -libc::ECANCELED)]), Step::Again),
        "a short write broke the link"
    );
    assert!(matches!(judge_durable([(false, 60), (true, 0)]), Step::Again));
    assert!(matches!(judge_durable([(false, 100), (true, -libc::ECANCELED)]), Step::Again));
    assert!(matches!(judge_durable([(false, 100), (true, -libc::EIO)]), Step::Finished(Err(_))));
    assert!(matches!(judge_durable([(false, -libc::EIO), (true, -libc::ECANCELED)]), Step::Finished(Err(_))));
}

#[test]
fn the_helper_thread_answers_through_the_ring() {
    let directory = tempfile::tempdir().unwrap();
    let (mut bench, file) = (Bench::new(), store(&directory, false));
    for generation in 100..103 {
        let file = file.descriptor().clone();
        let operation = Operation::Discard { file: file.clone(), offset: 0, len: 4096 };
        let index = bench.ring.flights.insert(Flight::new(operation, 0, generation));
        let key = OpKey { index: index as u32, generation };
        bench.ring.help(key, Job::Discard { file, offset: 0, len: 4096 });
        let completion = bench.wait(1).remove(0);
        assert_eq!(completion.key, key);
        assert_eq!(completion.result.unwrap_err().errno(), Some(libc::ENOTTY), "a file knows no such ioctl");
    }
}

/// What a test cannot do without. Root has it all on a machine that can run the tests; who is not root is told.
fn without(what: &str) {
    assert!(!nix::unistd::geteuid().is_root(), "this test needs {what}");
    eprintln!("not tested: it needs {what}");
}

/// A loop device over a sparse file, where that is allowed.
struct LoopDevice(String);

impl LoopDevice {
    fn new(file: &Path, sector_bytes: u32) -> Option<Self> {
        let sector_bytes = sector_bytes.to_string();
        let words = ["losetup", "--find", "--show", "--sector-size", &sector_bytes].map(AsRef::as_ref);
        let command = Command::new(words.into_iter().chain([file.as_os_str()]), PATIENCE);
        let report = process::run(&command).ok().filter(process::Report::is_success)?;
        Some(Self(String::from_utf8(report.output).ok()?.trim().to_owned()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = process::run(&Command::new(["losetup", "--detach", &self.0], PATIENCE));
    }
}

#[test]
fn a_block_device_is_exclusive_and_discards_and_zeroes() {
    let directory = tempfile::tempdir().unwrap();
    drop(store(&directory, false));
    let Some(device) = LoopDevice::new(&directory.path().join("disk"), 512) else { return without("a loop device") };
    let mode = Mode { direct: true, ..Mode::default() };
    let file = BlockFile::open(&device.0, mode).unwrap();
    assert!(file.is_block_device() && file.is_direct() && file.supports_discard());
    assert_eq!((file.size(), file.logical_block()), (SIZE, 512));
    assert!(matches!(BlockFile::open(&device.0, mode), Err(crate::io::block_file::BlockFileError::Locked { .. })));
    BlockFile::open(&device.0, Mode { read_only: true, ..mode }).unwrap();
    assert_eq!(crate::io::mapped::MappedFile::open(&device.0).unwrap().len() as u64, SIZE);
    let mut bench = Bench::new();
    let (offset, len) = (1 << 20, 2 << 20);
    for kind in 0..5 {
        let bytes = bench.pattern(2 << 20, 5);
        bench.write(&file, offset, bytes, true).result.unwrap();
        let file_of = file.descriptor().clone();
        match kind {
            0 => drop(bench.perform(Operation::Discard { file: file_of, offset, len }).result.unwrap()),
            1 => {
                let operation = Operation::Discard { file: file_of.clone(), offset, len };
                let index = bench.ring.flights.insert(Flight::new(operation, 0, 1000)) as u32;
                bench.ring.help(OpKey { index, generation: 1000 }, Job::Discard { file: file_of, offset, len });
                bench.wait(1).remove(0).result.unwrap();
            }
            2 | 3 => {
                let operation = Operation::WriteZeroes { file: file_of, offset, len, may_unmap: kind == 2 };
                bench.perform(operation).result.unwrap();
            }
            _ => {
                let mode = FallocateMode::ZeroRange;
                bench.perform(Operation::Fallocate { file: file_of, offset, len, mode }).result.unwrap();
            }
        }
        // (A loop device over a file gives zeroes after a discard as well.)
        assert!(bench.read(&file, offset, 2 << 20).unwrap().iter().all(|byte| *byte == 0), "kind {kind}");
    }
}

#[test]
fn sectors_of_a_device_with_larger_blocks_are_zeroed_one_by_one_too() {
    let directory = tempfile::tempdir().unwrap();
    drop(store(&directory, false));
    let Some(device) = LoopDevice::new(&directory.path().join("disk"), 4096) else { return without("a loop device") };
    let file = BlockFile::open(&device.0, Mode::default()).unwrap();
    assert_eq!((file.logical_block(), file.offset_alignment()), (4096, 1));
    let mut bench = Bench::new();
    for may_unmap in [true, false] {
        for (offset, len) in [(512, 512), (4096, 4096), (4096 - 512, 1024), (8192 + 1024, 40_960), (65_536, 1 << 20)] {
            let bytes = bench.pattern(2 << 20, 5);
            bench.write(&file, 0, bytes.clone(), true).result.unwrap();
            let file_of = file.descriptor().clone();
            let operation = Operation::WriteZeroes { file: file_of, offset: offset as u64, len: len as u64, may_unmap };
            bench.perform(operation).result.unwrap();
            let mut expected = bytes.to_vec();
            expected[offset..offset + len].fill(0);
            assert!(bench.read(&file, 0, 2 << 20).unwrap()[..] == expected, "{len} bytes at {offset}");
        }
    }
}

#[test]
fn zeroes_go_on_by_the_next_means_where_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = store(&directory, false).descriptor().clone();
    let ring = IoUring::new(2).unwrap();
    for errno in [libc::EINVAL, libc::EOPNOTSUPP] {
        let operation = Operation::WriteZeroes { file: file.clone(), offset: 0, len: 8192, may_unmap: true };
        let mut flight = Flight::new(operation, 0, 0);
        for means in [flight::ZeroMeans::Punch, flight::ZeroMeans::Zero] {
            assert_eq!(flight.zero_part(), (means, 8192));
            flight.prepare(0, &FileTable::new(&ring), &mut FreeList::default());
            assert!(matches!(flight.on_result(false, -errno), Step::Again));
        }
        flight.prepare(0, &FileTable::new(&ring), &mut FreeList::default());
        assert!(matches!(flight.on_result(false, 4096), Step::Again));
        assert_eq!(flight.zero_part(), (flight::ZeroMeans::Write, 4096));
        flight.prepare(0, &FileTable::new(&ring), &mut FreeList::default());
        assert!(matches!(flight.on_result(false, -errno), Step::Finished(Err(_))), "writing is the last means");
    }
}

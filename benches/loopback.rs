//! A resource's whole way, kernel included: an NBD client on a unix socket, 32 requests of 4 KiB in flight, and a file.
//!
//! Client and server share the machine, so this is not what a client elsewhere would see; for the server's own cost see
//! `cargo xtask bench peers`.

#![allow(missing_docs, reason = "criterion_group! makes public functions without documentation")]

mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use shimai::engine::offline::{MetadataPlace, NewMetadata, create_md};
use shimai::engine::{Answer, BackingPaths, NbdListen, PeerAddresses, ResourceHandle, ResourceSpec};
use shimai::io::tcp::StreamOptions;
use shimai::metadata::layout::{Format, Placement};
use shimai::nbd::client::{Client, ClientEvent};
use shimai::replica::event::Command;

/// Size of the file.
const DISK_BYTES: usize = 64 << 20;
/// Blocks that are used.
const BLOCKS: u64 = 8192;
/// Requests in flight.
const DEPTH: u64 = 32;

/// A Primary whose peer is not there.
struct Server {
    folder: tempfile::TempDir,
    handle: ResourceHandle,
}

impl Server {
    fn new(direct: bool) -> Self {
        // Beside the build, which is on a disk; the folder for temporary files may be memory.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build's folder takes files");
        let data = folder.path().join("disk");
        std::fs::write(&data, vec![0x5a; DISK_BYTES]).expect("there is room");
        let place = MetadataPlace { path: data.clone(), placement: Placement::Internal };
        let new = NewMetadata { force: true, ..NewMetadata::plain(Format::V08, 1) };
        create_md(&place, &new).expect("a file is a good disk");
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let spec = ResourceSpec {
            settings: support::settings(0),
            peers: vec![PeerAddresses { mine: nowhere, peer: nowhere, stream: StreamOptions::default() }],
            backing: vec![Some(BackingPaths { data, metadata: None, slot: None })],
            nbd: vec![NbdListen::Unix(folder.path().join("nbd"))],
            configuration: PathBuf::new(),
            direct,
            lock_patience: Duration::from_secs(10),
        };
        let server = Self { folder, handle: ResourceHandle::spawn(spec).expect("a resource can run") };
        server.ask(|answer| drop(server.handle.attach(0, answer)));
        server.ask(|answer| drop(server.handle.command(Command::Primary { force: true }, answer)));
        server
    }

    fn ask(&self, begin: impl FnOnce(Answer)) {
        let (sender, receiver) = mpsc::channel();
        begin(Box::new(move |result| drop(sender.send(result))));
        receiver.recv_timeout(Duration::from_secs(60)).expect("an answer").expect("a good one");
    }
}

/// A client that keeps its requests in flight.
struct Load {
    socket: UnixStream,
    client: Client,
    events: Vec<ClientEvent>,
    buffer: Vec<u8>,
    out: BytesMut,
    payload: Vec<u8>,
    next: u64,
}

impl Load {
    fn open(folder: &Path) -> Self {
        let mut socket = UnixStream::connect(folder.join("nbd")).expect("the resource listens");
        let (client, hello) = Client::connect_bytes("data");
        socket.write_all(&hello).expect("the resource listens");
        let (events, buffer, payload) = (Vec::new(), vec![0; 1 << 18], vec![7; 4096]);
        let mut load = Self { socket, client, events, buffer, out: BytesMut::new(), payload, next: 0 };
        while load.events.is_empty() {
            load.receive();
        }
        load
    }

    fn receive(&mut self) {
        let count = self.socket.read(&mut self.buffer).expect("the resource serves");
        assert!(count > 0, "the resource closed");
        self.client.push(Bytes::copy_from_slice(&self.buffer[..count]));
        self.client.handle(&mut self.events).expect("a good server");
    }

    /// So many requests, with `DEPTH` in flight until the last ones.
    fn run(&mut self, requests: u64, is_write: bool) {
        let (mut begun, mut ended) = (0, 0);
        while ended < requests {
            while begun < requests && begun - ended < DEPTH {
                begun += 1;
                self.next += 1;
                let offset = self.next * 7919 % BLOCKS * 4096;
                match is_write {
                    true => self.client.write(self.next, offset, &self.payload, false, &mut self.out),
                    false => self.client.read(self.next, offset, 4096, &mut self.out),
                }
            }
            self.socket.write_all(&self.out).expect("the resource serves");
            self.out.clear();
            self.events.clear();
            self.receive();
            let replies = self.events.iter().map(|event| match event {
                ClientEvent::Reply { result: Ok(_), .. } => 1,
                event => panic!("{event:?}"),
            });
            ended += replies.sum::<u64>();
        }
    }
}

fn loopback(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("loopback");
    group.sample_size(10).throughput(Throughput::Elements(1000));
    for (mode, direct) in [("direct", true), ("page cache", false)] {
        let server = Server::new(direct);
        let mut load = Load::open(server.folder.path());
        for (kind, is_write) in [("writes", true), ("reads", false)] {
            group.bench_function(format!("1000 {kind}, {mode}"), |bencher| bencher.iter(|| load.run(1000, is_write)));
        }
        drop(load);
        server.handle.stop_now().expect("it runs");
        server.handle.join();
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = loopback
}
criterion_main!(benches);

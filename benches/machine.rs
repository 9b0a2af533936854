//! A request's way through the machine alone: no kernel, disks and links that answer at once. Time, and how often memory
//! is allocated.
//!
//! The requests of one pass are begun together, as they come from one receive, and then everything that follows is
//! handled in order.

#![allow(missing_docs, reason = "criterion_group! makes public functions without documentation")]

mod support;

use std::alloc::System;
use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use shimai::metadata::activity_record::initialised_block;
use shimai::metadata::layout::{Format, Layout, Placement, Striping};
use shimai::metadata::superblock::Superblock;
use shimai::model::ids::{CommandId, RequestId, SocketId};
use shimai::model::state::DiskState;
use shimai::model::time::Instant;
use shimai::model::units::Sector;
use shimai::replica::Resource;
use shimai::replica::action::{Action, DiskOperation};
use shimai::replica::event::{Command, DeviceFacts, Event, Request, RequestKind};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Size of each node's disk.
const DISK_BYTES: usize = 16 << 20;
/// Blocks that are written, in two extents.
const BLOCKS: u64 = 2048;
/// Requests of one pass.
const DEPTH: u64 = 32;
/// Passes over which allocations are counted.
const PASSES: u64 = 1000;

/// One node with its disk.
struct Node {
    resource: Resource,
    disk: BytesMut,
    sent: [u64; 3],
}

/// One or two nodes. Socket number n of one is connected with number n of the other.
struct World {
    nodes: Vec<Node>,
    events: VecDeque<(usize, Event)>,
    actions: Vec<Action>,
    now: Instant,
    next_socket: u64,
    replies: u64,
    /// Events that machines have handled.
    handled: u64,
    payload: Bytes,
    position: u64,
}

impl World {
    /// The first node is Primary; if there are two, both have the same data.
    fn new(nodes: u8) -> Self {
        let mut world = Self {
            nodes: (0..nodes).map(Node::new).collect(),
            events: VecDeque::new(),
            actions: Vec::new(),
            now: Instant::from_nanos(1_000_000_000),
            next_socket: 1,
            replies: 0,
            handled: 0,
            payload: Bytes::from(vec![5; 4096]),
            position: 0,
        };
        let bytes = DISK_BYTES as u64;
        let facts =
            DeviceFacts { data_bytes: bytes, metadata_bytes: bytes, max_io_bytes: 1 << 20, discard_zeroes: true };
        // The second node first: it has to listen when the first one dials.
        for node in (0..world.nodes.len()).rev() {
            world.command(node, Command::Attach { volume: 0, facts });
            world.command(node, Command::Connect { discard_my_data: false });
        }
        world.command(0, Command::Primary { force: true });
        while world.nodes.iter().any(|node| node.resource.volume_facts(0).disk != DiskState::UpToDate) {
            world.wait();
        }
        world
    }

    fn command(&mut self, node: usize, command: Command) {
        self.events.push_back((node, Event::Command { id: CommandId(0), command }));
        self.settle();
    }

    fn wait(&mut self) {
        self.now = self.now + Duration::from_millis(100);
        (0..self.nodes.len()).for_each(|node| self.events.push_back((node, Event::Timer)));
        self.settle();
    }

    /// One pass of writes, to the end of all of them.
    fn write(&mut self) {
        self.pass(|world, start| RequestKind::Write { start, payload: world.payload.clone(), fua: false });
    }

    /// One pass of reads.
    fn read(&mut self) {
        self.pass(|_, start| RequestKind::Read(shimai::model::units::SectorRange { start, sectors: 8 }));
    }

    fn pass(&mut self, kind: impl Fn(&Self, Sector) -> RequestKind) {
        let before = self.replies;
        for number in 0..DEPTH {
            self.position = (self.position + 389) % BLOCKS;
            let kind = kind(self, Sector(self.position * 8));
            self.events.push_back((0, Event::Request(Request { id: RequestId(number), volume: 0, kind })));
        }
        self.settle();
        assert_eq!(self.replies - before, DEPTH, "everything is answered");
    }

    fn settle(&mut self) {
        while let Some((node, event)) = self.events.pop_front() {
            self.handled += 1;
            let mut actions = std::mem::take(&mut self.actions);
            self.nodes[node].resource.handle(self.now, event, &mut actions);
            for action in actions.drain(..) {
                self.perform(node, action);
            }
            self.actions = actions;
        }
    }

    fn perform(&mut self, node: usize, action: Action) {
        match action {
            Action::Disk { ticket, operation, .. } => {
                let result = Ok(self.nodes[node].operate(operation));
                self.events.push_back((node, Event::Disk { ticket, result }));
            }
            Action::Dial { peer } => self.dial(node, peer),
            Action::Send { socket, head, payload } => self.send(node, socket, head, payload),
            Action::Reply { result, .. } => {
                result.expect("a good disk");
                self.replies += 1;
            }
            _ => {}
        }
    }

    /// The first node connects, twice; the second one only listens.
    fn dial(&mut self, node: usize, peer: usize) {
        if node == 0 && self.nodes.len() == 2 && self.next_socket < 3 {
            let socket = SocketId(self.next_socket);
            self.next_socket += 1;
            self.events.push_back((0, Event::Dialled { peer, socket }));
            self.events.push_back((1, Event::Accepted { peer: 0, socket }));
        } else {
            self.events.push_back((node, Event::DialFailed { peer, reason: "nobody is there".to_owned() }));
        }
    }

    fn send(&mut self, node: usize, socket: SocketId, head: Bytes, payload: Option<Bytes>) {
        let sent = &mut self.nodes[node].sent[socket.0 as usize];
        *sent += (head.len() + payload.as_ref().map_or(0, Bytes::len)) as u64;
        self.events.push_back((node, Event::Sent { socket, total: *sent }));
        for bytes in [Some(head), payload].into_iter().flatten() {
            self.events.push_back((1 - node, Event::Received { socket, bytes }));
        }
    }
}

impl Node {
    fn new(number: u8) -> Self {
        let layout = Layout::compute(Format::V08, Placement::Internal, DISK_BYTES as u64, 1, Striping::default())
            .expect("the disk is large enough");
        let mut disk = BytesMut::zeroed(DISK_BYTES);
        let mut put = |offset: u64, bytes: &[u8]| disk[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        put(layout.superblock, &Superblock::fresh(&layout).encode());
        for number in 0..layout.striping.ring_blocks() {
            put(layout.activity_log_block_offset(number), &initialised_block());
        }
        Self { resource: Resource::new(support::settings(number)), disk, sent: [0; 3] }
    }

    fn operate(&mut self, operation: DiskOperation) -> Bytes {
        match operation {
            DiskOperation::Read { offset, bytes, .. } => {
                return Bytes::copy_from_slice(&self.disk[offset as usize..][..bytes as usize]);
            }
            DiskOperation::Write { offset, payload, .. } => {
                self.disk[offset as usize..][..payload.len()].copy_from_slice(&payload);
            }
            DiskOperation::Zero { offset, bytes, .. } => self.disk[offset as usize..][..bytes as usize].fill(0),
            DiskOperation::Flush { .. } => {}
        }
        Bytes::new()
    }
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("machine");
    type Pass = fn(&mut World);
    let cases: [(&str, u8, Pass); 3] =
        [("write, alone", 1, World::write), ("read, alone", 1, World::read), ("write, replicated", 2, World::write)];
    for (name, nodes, pass) in cases {
        let mut world = World::new(nodes);
        (0..PASSES).for_each(|_| pass(&mut world));
        let region = Region::new(ALLOCATOR);
        let before = world.handled;
        (0..PASSES).for_each(|_| pass(&mut world));
        let change = region.change();
        let events = (world.handled - before) / PASSES;
        let count = (change.allocations + change.reallocations) as f64 / (PASSES * DEPTH) as f64;
        let per_request = events as f64 / DEPTH as f64;
        println!("{name}: {count:.2} allocations a request, {per_request:.2} events a request on all nodes");
        // Elements are events that a machine has handled.
        group.throughput(Throughput::Elements(events));
        group.bench_function(name, |bencher| bencher.iter(|| pass(&mut world)));
    }
    group.finish();
}

criterion_group! {
    name = machine;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = requests
}
criterion_main!(machine);

//! A host for one resource: a disk in memory that answers at once, sockets that take everything, and a clock.
//!
//! After each event the resource checks its own laws.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use shimai::metadata::activity_record::initialised_block;
use shimai::metadata::layout::{Format, Layout, Placement, Striping};
use shimai::metadata::superblock::Superblock;
use shimai::model::ids::{CommandId, NodeId, RequestId, SocketId, VolumeNumber};
use shimai::model::time::Instant;
use shimai::model::units::{SECTOR_BYTES, Sector, SectorRange};
use shimai::replica::Resource;
use shimai::replica::action::{Action, DiskOperation};
use shimai::replica::event::{Command, DeviceFacts, DiskError, Event, Request, RequestKind};
use shimai::replica::settings::{PeerSettings, ResyncSettings, Settings, VolumeSettings};

/// The disk's size: room for the metadata and some hundred blocks.
const DISK_BYTES: usize = 1 << 20;

/// How many events may follow from one: more would be a machine that talks to itself.
const ECHOES_MAX: usize = 100_000;

/// The resource and its surroundings.
pub struct Host {
    resource: Resource,
    disk: Vec<u8>,
    now: Instant,
    events: VecDeque<Event>,
    actions: Vec<Action>,
    sockets: BTreeMap<SocketId, Socket>,
    next_socket: u64,
    next_name: u64,
}

#[derive(Default)]
struct Socket {
    /// Bytes that the resource has sent.
    sent: u64,
    /// Bytes that it does not want yet; `Some` while it says so.
    held_back: Option<VecDeque<Bytes>>,
}

impl Host {
    /// A resource with a fresh disk, attached and looking for its peer.
    #[must_use]
    pub fn new() -> Self {
        let layout = Layout::compute(Format::V08, Placement::Internal, DISK_BYTES as u64, 1, Striping::default())
            .expect("the disk is large enough");
        let mut host = Self {
            resource: Resource::new(settings()),
            disk: formatted(&layout),
            now: Instant::from_nanos(1_000_000_000),
            events: VecDeque::new(),
            actions: Vec::new(),
            sockets: BTreeMap::new(),
            next_socket: 0,
            next_name: 0,
        };
        let facts = DeviceFacts {
            data_bytes: DISK_BYTES as u64,
            metadata_bytes: DISK_BYTES as u64,
            max_io_bytes: 1 << 20,
            discard_zeroes: true,
        };
        host.command(Command::Attach { volume: 0, facts });
        host.command(Command::Connect { discard_my_data: false });
        host
    }

    /// The peer connects; the socket's name.
    pub fn accept(&mut self) -> SocketId {
        self.next_socket += 1;
        let socket = SocketId(self.next_socket);
        self.sockets.insert(socket, Socket::default());
        self.handle(Event::Accepted { peer: 0, socket });
        socket
    }

    /// Bytes of the peer. Ignored on a socket that has ended.
    pub fn receive(&mut self, socket: SocketId, bytes: Bytes) {
        match self.sockets.get_mut(&socket) {
            Some(Socket { held_back: Some(waiting), .. }) => waiting.push_back(bytes),
            Some(_) if !bytes.is_empty() => self.handle(Event::Received { socket, bytes }),
            _ => {}
        }
    }

    /// The peer goes away.
    pub fn close(&mut self, socket: SocketId) {
        if self.sockets.remove(&socket).is_some() {
            self.handle(Event::Closed { socket, reason: "the other end closed the connection".to_owned() });
        }
    }

    /// Time passes.
    pub fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
        if self.resource.next_deadline().is_some_and(|deadline| deadline <= self.now) {
            self.handle(Event::Timer);
        }
    }

    /// An operator asks for something.
    pub fn command(&mut self, command: Command) {
        self.next_name += 1;
        self.handle(Event::Command { id: CommandId(self.next_name), command });
    }

    /// An application asks for something; beyond the end of the device it does not.
    pub fn request(&mut self, block: u64, what: u8) {
        let range = SectorRange { start: Sector(block * 8), sectors: 8 };
        if range.end().0 > self.resource.device_sectors(0) {
            return;
        }
        let (start, fua) = (range.start, what & 8 != 0);
        let kind = match what % 8 {
            0 => RequestKind::Read(range),
            1 => RequestKind::Flush,
            2 => RequestKind::Trim { range, fua },
            3 => RequestKind::WriteZeroes { range, may_unmap: fua, fua },
            _ => RequestKind::Write { start, payload: Bytes::from(vec![what; 4096]), fua },
        };
        self.next_name += 1;
        self.handle(Event::Request(Request { id: RequestId(self.next_name), volume: 0, kind }));
    }

    /// Handles an event and all that follows from it.
    fn handle(&mut self, event: Event) {
        self.events.push_back(event);
        let mut echoes = 0;
        while let Some(event) = self.events.pop_front() {
            echoes += 1;
            assert!(echoes < ECHOES_MAX, "the resource does not come to rest");
            if self.is_stale(&event) {
                continue;
            }
            let mut actions = std::mem::take(&mut self.actions);
            self.resource.handle(self.now, event, &mut actions);
            self.resource.check();
            for action in actions.drain(..) {
                self.perform(action);
            }
            self.actions = actions;
        }
    }

    /// Whether the event is about a socket that has ended meanwhile.
    fn is_stale(&self, event: &Event) -> bool {
        match event {
            Event::Received { socket, .. } | Event::Sent { socket, .. } => !self.sockets.contains_key(socket),
            _ => false,
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Disk { ticket, operation, .. } => {
                let result = self.operate(operation);
                self.events.push_back(Event::Disk { ticket, result });
            }
            Action::Dial { peer } => {
                self.events.push_back(Event::DialFailed { peer, reason: "nobody is there".to_owned() });
            }
            Action::Send { socket, head, payload } => {
                if let Some(state) = self.sockets.get_mut(&socket) {
                    state.sent += (head.len() + payload.map_or(0, |payload| payload.len())) as u64;
                    self.events.push_back(Event::Sent { socket, total: state.sent });
                }
            }
            Action::Throttle { socket, stop } => self.throttle(socket, stop),
            Action::Close { socket, .. } => drop(self.sockets.remove(&socket)),
            Action::RunHandler { id, .. } => self.events.push_back(Event::HandlerEnded { id, exit: Some(0) }),
            Action::ReleaseDisk { .. } | Action::Reply { .. } | Action::Answer { .. } | Action::Log { .. } => {}
        }
    }

    fn throttle(&mut self, socket: SocketId, stop: bool) {
        let Some(state) = self.sockets.get_mut(&socket) else { return };
        if stop {
            state.held_back.get_or_insert_default();
        } else if let Some(waiting) = state.held_back.take() {
            self.events.extend(waiting.into_iter().map(|bytes| Event::Received { socket, bytes }));
        }
    }

    fn operate(&mut self, operation: DiskOperation) -> Result<Bytes, DiskError> {
        match operation {
            DiskOperation::Read { offset, bytes, .. } => return Ok(Bytes::copy_from_slice(self.place(offset, bytes))),
            DiskOperation::Write { offset, payload, .. } => {
                self.place(offset, payload.len() as u64).copy_from_slice(&payload);
            }
            DiskOperation::Zero { offset, bytes, .. } => self.place(offset, bytes).fill(0),
            DiskOperation::Flush { .. } => {}
        }
        Ok(Bytes::new())
    }

    fn place(&mut self, offset: u64, bytes: u64) -> &mut [u8] {
        let range = usize::try_from(offset).ok().zip(usize::try_from(bytes).ok());
        let range = range.and_then(|(start, bytes)| Some(start..start.checked_add(bytes)?));
        range.and_then(|range| self.disk.get_mut(range)).expect("the resource stays on its disk")
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

fn formatted(layout: &Layout) -> Vec<u8> {
    let mut disk = vec![0; DISK_BYTES];
    let mut put = |offset: u64, bytes: &[u8]| {
        let start = usize::try_from(offset).expect("the disk is small");
        disk[start..start + bytes.len()].copy_from_slice(bytes);
    };
    put(layout.superblock, &Superblock::fresh(layout).encode());
    for number in 0..layout.striping.ring_blocks() {
        put(layout.activity_log_block_offset(number), &initialised_block());
    }
    disk
}

fn settings() -> Settings {
    Settings {
        name: "data".to_owned(),
        node_name: "alice".to_owned(),
        node_id: NodeId::new(0).expect("0 is a node id"),
        volumes: vec![volume()],
        peers: vec![peer()],
        suspend_without_data: false,
        handlers: BTreeMap::new(),
        seed: [7; 32],
    }
}

fn volume() -> VolumeSettings {
    VolumeSettings {
        al_extents: 67,
        resync: ResyncSettings {
            rate_kib: 250_000,
            max_rate_kib: 1_000_000,
            min_rate_kib: 250_000,
            ..ResyncSettings::DEFAULT
        },
        ..VolumeSettings::with_defaults(VolumeNumber(0))
    }
}

fn peer() -> PeerSettings {
    PeerSettings {
        connect_interval: Duration::from_millis(200),
        ..PeerSettings::with_defaults("bob", NodeId::new(1).expect("1 is a node id"))
    }
}

/// Blocks that a request of the host may begin at.
pub const BLOCKS: u64 = DISK_BYTES as u64 / SECTOR_BYTES / 8;

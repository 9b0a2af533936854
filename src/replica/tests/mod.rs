//! The machine opposite a peer that says what a test lets it say, packet by packet.
//!
//! The simulator plays two real machines, so it seldom meets what needs one certain order of words on two streams. Here a
//! test writes that order down. The disk is in memory and ends its operations at once, but for those that the test holds
//! back. A loss of power is the worst one: metadata keeps what was written, data only what was flushed.
//!
//! Not here: what two machines make of each other (`tests/sim`).

mod fencing;
mod handlers;
mod resync;
mod rules;
mod verify;
mod writes;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::Resource;
use super::action::{Action, Area, DiskOperation};
use super::event::{Command, DeviceFacts, Event, Request, RequestKind};
use super::handler::Handler;
use super::settings::{PeerSettings, ResyncSettings, Settings, VolumeSettings};
use super::state::View;
use crate::bitmap::Bitmap;
use crate::metadata::activity_record::initialised_block;
use crate::metadata::flags::DeviceFlags;
use crate::metadata::layout::{Format, Layout, Placement, Striping};
use crate::metadata::superblock::Superblock;
use crate::model::generation_id::{GenerationId, GenerationSet};
use crate::model::ids::{CommandId, HandlerId, NodeId, RequestId, SocketId, Ticket, VolumeNumber};
use crate::model::state::{ConnectionState, DiskState, Role, StateWord};
use crate::model::time::Instant;
use crate::model::units::{BLOCK_SECTORS, BlockIndex, Sector};
use crate::wire::bitmap_rle::BitSource;
use crate::wire::bitmap_transfer::{BitmapSender, WordSource};
use crate::wire::framing::{Features, PacketReader, Stream};
use crate::wire::packet::{
    AfterSplitBrain, BlockAck, BlockId, BlockRequest, ConnectionFeatures, Packet, Protocol, ReadReply, Sizes,
    SyncParam, UuidFlags, Uuids,
};

const DEVICE_BYTES: usize = 4 << 20;
const VERSION: u32 = 101;
/// What both nodes had before a test begins.
const COMMON: GenerationId = GenerationId(0x1000);
/// What a peer has that went on alone.
const THEIRS: GenerationId = GenerationId(0x2000);

fn settings() -> Settings {
    let resync = ResyncSettings {
        rate_kib: 10_000,
        plan_ahead: 0,
        max_rate_kib: 100_000,
        min_rate_kib: 0,
        ..ResyncSettings::DEFAULT
    };
    let volume = VolumeSettings { al_extents: 67, resync, ..VolumeSettings::with_defaults(VolumeNumber(0)) };
    let patience = Duration::from_secs(1000);
    let peer = PeerSettings {
        use_rle: false,
        timeout: patience,
        ko_count: 0,
        ping_interval: patience,
        ping_timeout: patience,
        connect_interval: patience,
        ..PeerSettings::with_defaults("bob", NodeId::new(1).expect("a node id"))
    };
    Settings {
        name: "data".into(),
        node_name: "alice".into(),
        node_id: NodeId::new(0).expect("a node id"),
        volumes: vec![volume],
        peers: vec![peer],
        suspend_without_data: false,
        handlers: BTreeMap::new(),
        seed: [7; 32],
    }
}

/// What the peer says of itself in a handshake.
struct Theirs {
    current: GenerationId,
    bitmap: GenerationId,
    changed_blocks: u64,
    request_bytes_max: u32,
    dry_run: bool,
}

/// As good as ours was when both were last together.
const EQUAL: Theirs = Theirs {
    current: COMMON,
    bitmap: GenerationId::NONE,
    changed_blocks: 0,
    request_bytes_max: 1 << 20,
    dry_run: false,
};
/// It went on alone.
const NEWER: Theirs = Theirs { current: THEIRS, bitmap: COMMON, changed_blocks: 1, ..EQUAL };

/// What the machine has said on one socket.
struct Mouth {
    reader: PacketReader,
    bytes: u64,
}

struct Scene {
    settings: Settings,
    machine: Resource,
    now: Instant,
    view: Vec<u8>,
    stable: Vec<u8>,
    /// Which disk operations do not end by themselves.
    holds_back: fn(&DiskOperation) -> bool,
    held_back: Vec<(Ticket, DiskOperation)>,
    mouths: BTreeMap<SocketId, Mouth>,
    /// The sockets of the last link: data, meta.
    link: [SocketId; 2],
    dialled: u64,
    said: Vec<Packet>,
    answers: BTreeMap<u64, bool>,
    replies: BTreeMap<u64, bool>,
    asked: u64,
    /// Handlers that were asked for and have not ended.
    handlers: Vec<(HandlerId, Handler)>,
}

impl Scene {
    /// A disk that was in sync with the peer's, attached; no connection.
    fn begin() -> Self {
        Self::begin_with(settings())
    }

    fn begin_with(settings: Settings) -> Self {
        let layout = Layout::compute(Format::V08, Placement::Internal, DEVICE_BYTES as u64, 1, Striping::default())
            .expect("room");
        let disk = prepared(&layout);
        let mut scene = Self {
            machine: Resource::new(settings.clone()),
            settings,
            now: Instant::from_nanos(1_000_000_000),
            view: disk.clone(),
            stable: disk,
            holds_back: |_| false,
            held_back: Vec::new(),
            mouths: BTreeMap::new(),
            link: [SocketId(0); 2],
            dialled: 0,
            said: Vec::new(),
            answers: BTreeMap::new(),
            replies: BTreeMap::new(),
            asked: 0,
            handlers: Vec::new(),
        };
        scene.attach();
        scene
    }

    fn event(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut actions = Vec::new();
            self.machine.handle(self.now, event, &mut actions);
            self.machine.check();
            events.extend(actions.into_iter().filter_map(|action| self.perform(action)));
        }
    }

    fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Disk { ticket, operation, .. } if (self.holds_back)(&operation) => {
                self.held_back.push((ticket, operation));
                None
            }
            Action::Disk { ticket, operation, .. } => Some(self.end(ticket, &operation)),
            Action::Dial { peer } => {
                self.dialled += 1;
                let socket = SocketId(self.dialled);
                let stream = if self.dialled % 2 == 1 { Stream::Data } else { Stream::Meta };
                self.link[usize::from(stream == Stream::Meta)] = socket;
                self.mouths.insert(socket, Mouth { reader: PacketReader::new(stream), bytes: 0 });
                Some(Event::Dialled { peer, socket })
            }
            Action::Send { socket, head, payload } => {
                let mouth = self.mouths.get_mut(&socket)?;
                for bytes in [Some(head), payload].into_iter().flatten() {
                    mouth.bytes += bytes.len() as u64;
                    mouth.reader.push(bytes);
                }
                while let Some((_, packet)) = mouth.reader.next().expect("what we say can be understood") {
                    self.said.push(packet);
                }
                Some(Event::Sent { socket, total: mouth.bytes })
            }
            Action::Close { socket, .. } => {
                self.mouths.remove(&socket);
                None
            }
            Action::Reply { id, result } => {
                self.replies.insert(id.0, result.is_ok());
                None
            }
            Action::Answer { id, result } => {
                self.answers.insert(id.0, result.is_ok());
                None
            }
            Action::RunHandler { id, handler, .. } => {
                self.handlers.push((id, handler));
                None
            }
            Action::Log { .. } | Action::Throttle { .. } | Action::ReleaseDisk { .. } => None,
        }
    }

    /// A disk operation ends.
    fn end(&mut self, ticket: Ticket, operation: &DiskOperation) -> Event {
        let span = |offset: u64, bytes: u64| offset as usize..(offset + bytes) as usize;
        let mut result = Bytes::new();
        match operation {
            DiskOperation::Read { offset, bytes, .. } => {
                result = Bytes::copy_from_slice(&self.view[span(*offset, *bytes)]);
            }
            DiskOperation::Write { area, offset, payload, preflush, fua } => {
                if *preflush {
                    self.stable.clone_from(&self.view);
                }
                let span = span(*offset, payload.len() as u64);
                self.view[span.clone()].copy_from_slice(payload);
                if *fua || *area == Area::Metadata {
                    self.stable[span].copy_from_slice(payload);
                }
            }
            DiskOperation::Zero { offset, bytes, .. } => self.view[span(*offset, *bytes)].fill(0),
            DiskOperation::Flush { .. } => self.stable.clone_from(&self.view),
        }
        Event::Disk { ticket, result: Ok(result) }
    }

    /// All that was held back ends, and nothing is held back any more.
    fn let_go(&mut self) {
        self.holds_back = |_| false;
        for (ticket, operation) in std::mem::take(&mut self.held_back) {
            let event = self.end(ticket, &operation);
            self.event(event);
        }
    }

    /// The power fails now; a new process finds what was stable.
    fn lose_power(&mut self) {
        self.view.clone_from(&self.stable);
        self.holds_back = |_| false;
        self.held_back.clear();
        self.mouths.clear();
        self.dialled = self.dialled.next_multiple_of(2);
        self.machine = Resource::new(self.settings.clone());
        self.attach();
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(deadline) = self.machine.next_deadline().filter(|deadline| *deadline <= until) {
            self.now = self.now.max(deadline);
            self.event(Event::Timer);
        }
        self.now = until;
    }

    fn command(&mut self, command: Command) -> u64 {
        self.asked += 1;
        self.event(Event::Command { id: CommandId(self.asked), command });
        self.asked
    }

    /// A command that is carried out at once.
    fn order(&mut self, command: Command) {
        let text = format!("{command:?}");
        let id = self.command(command);
        assert_eq!(self.answers.get(&id), Some(&true), "{text}");
    }

    fn attach(&mut self) {
        let bytes = DEVICE_BYTES as u64;
        let facts =
            DeviceFacts { data_bytes: bytes, metadata_bytes: bytes, max_io_bytes: 1 << 20, discard_zeroes: false };
        self.order(Command::Attach { volume: 0, facts });
    }

    fn write(&mut self, block: u64, blocks: u64) -> u64 {
        self.asked += 1;
        let payload = Bytes::from(vec![self.asked as u8; (blocks * 4096) as usize]);
        let kind = RequestKind::Write { start: BlockIndex(block).sector(), payload, fua: false };
        self.event(Event::Request(Request { id: RequestId(self.asked), volume: 0, kind }));
        self.asked
    }

    /// Packets of the peer.
    fn say(&mut self, stream: Stream, packet: &Packet) {
        let mut bytes = BytesMut::new();
        let payload = packet.encode(VERSION, Features::OURS, VolumeNumber(0), &mut bytes);
        bytes.extend_from_slice(payload.as_deref().unwrap_or_default());
        let socket = self.link[usize::from(stream == Stream::Meta)];
        self.event(Event::Received { socket, bytes: bytes.freeze() });
    }

    fn say_state(&mut self, conn: ConnectionState, disk: DiskState, pdsk: DiskState) {
        let word = StateWord::default()
            .with_role(Role::Secondary.number())
            .with_peer(self.machine.role().number())
            .with_conn(conn.number())
            .with_disk(disk.number())
            .with_pdsk(pdsk.number());
        self.say(Stream::Data, &Packet::State(word));
    }

    fn say_uuids(&mut self, theirs: &Theirs) {
        let uuids = Uuids {
            current: theirs.current,
            bitmap: theirs.bitmap,
            history: [GenerationId::NONE; 2],
            dirty_bits: theirs.changed_blocks,
            flags: UuidFlags::default(),
        };
        self.say(Stream::Data, &Packet::Uuids(uuids));
    }

    /// The peer's bitmap, whole.
    fn say_bits(&mut self, blocks: &[u64]) {
        let mut bitmap = Bitmap::new(self.machine.device_sectors(0).div_ceil(BLOCK_SECTORS), 1);
        for block in blocks {
            bitmap.set_range(0, BlockIndex(*block), BlockIndex(block + 1));
        }
        let theirs = Bits(bitmap);
        let mut sender = BitmapSender::new(theirs.bits(), VERSION, false);
        while let Some(packet) = sender.next(&theirs) {
            self.say(Stream::Data, &packet);
        }
    }

    /// Both sockets are there, and the peer has said everything of itself but its state. What must be the same on both nodes
    /// is what the machine says.
    fn greet(&mut self, theirs: &Theirs) {
        self.said.clear();
        self.order(Command::Connect { discard_my_data: false });
        for socket in self.link {
            self.mouths.get_mut(&socket).expect("dialled").reader.agree(VERSION, Features::OURS);
        }
        self.say(Stream::Data, &Packet::ConnectionFeatures(ConnectionFeatures::OURS));
        let protocol = Protocol { dry_run: theirs.dry_run, ..self.heard(protocol_of) };
        let parameters = self.heard(parameters_of);
        let sizes = Sizes { max_bio_size: theirs.request_bytes_max, ..self.heard(sizes_of) };
        self.say(Stream::Data, &Packet::Protocol(protocol));
        self.say(Stream::Data, &Packet::SyncParam(parameters));
        self.say(Stream::Data, &Packet::Sizes(sizes));
        self.say_uuids(theirs);
    }

    fn shake_hands(&mut self, theirs: &Theirs) {
        self.greet(theirs);
        self.say_state(ConnectionState::WfReportParams, DiskState::UpToDate, DiskState::Unknown);
    }

    /// The other end of both streams goes.
    fn cut(&mut self) {
        self.event(Event::Closed { socket: self.link[0], reason: "cut".into() });
        self.cut_again();
    }

    /// A connection that was lost is given up, so that the next handshake begins anew.
    fn cut_again(&mut self) {
        self.order(Command::Disconnect { force: true });
        self.dialled = self.dialled.next_multiple_of(2);
    }

    /// Primary with a peer that agrees.
    fn promote(&mut self) {
        let id = self.command(Command::Primary { force: false });
        if self.state().conn >= ConnectionState::Connected {
            self.say(Stream::Meta, &Packet::StateChangeReply(1));
        }
        assert_eq!(self.answers.get(&id), Some(&true));
    }

    /// A Primary that has written those blocks alone is the source of a peer that lacks them.
    fn become_source(&mut self, blocks: &[u64]) {
        self.promote();
        for block in blocks {
            self.write(*block, 1);
        }
        self.shake_hands(&EQUAL);
        assert_eq!(self.state().conn, ConnectionState::WfBitMapS);
        self.say_bits(&[]);
    }

    /// The target of a peer that has written those blocks alone, before the resync has a name.
    fn become_target(&mut self, blocks: &[u64]) {
        self.shake_hands(&NEWER);
        assert_eq!(self.state().conn, ConnectionState::WfBitMapT);
        self.say_bits(blocks);
        assert_eq!(self.state().conn, ConnectionState::WfSyncUuid);
    }

    /// The handler that was asked for first and has not ended.
    fn handler(&self) -> Option<Handler> {
        self.handlers.first().map(|(_, handler)| *handler)
    }

    fn end_handler(&mut self, handler: Handler, exit: Option<u8>) {
        assert_eq!(self.handler(), Some(handler));
        let (id, _) = self.handlers.remove(0);
        self.event(Event::HandlerEnded { id, exit });
    }

    fn state(&self) -> View {
        self.machine.view(0, 0)
    }

    fn generations(&self) -> GenerationSet {
        self.machine.volume_facts(0).generations.expect("a disk").clone()
    }

    /// Marked blocks.
    fn bits(&self) -> Vec<u64> {
        let bitmap = self.machine.volume_facts(0).bitmap.expect("a disk");
        (0..bitmap.blocks()).filter(|block| bitmap.is_set(0, BlockIndex(*block))).collect()
    }

    /// The last packet of a kind that was said.
    fn heard<T>(&self, kind: fn(&Packet) -> Option<T>) -> T {
        self.said.iter().rev().find_map(kind).expect("it was said")
    }

    fn heard_all<T>(&self, kind: fn(&Packet) -> Option<T>) -> Vec<T> {
        self.said.iter().filter_map(kind).collect()
    }

    fn block_on_disk(&self, block: u64) -> u8 {
        self.view[(block * 4096) as usize]
    }
}

fn prepared(layout: &Layout) -> Vec<u8> {
    let mut disk = vec![0; DEVICE_BYTES];
    let mut superblock = Superblock::fresh(layout);
    superblock.generations.current = COMMON;
    superblock.flags = DeviceFlags::CONSISTENT | DeviceFlags::WAS_UP_TO_DATE | DeviceFlags::AL_CLEAN;
    superblock.effective_size_sectors = layout.usable_sectors;
    let mut put = |offset: u64, bytes: &[u8]| disk[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    put(layout.superblock, &superblock.encode());
    for number in 0..layout.striping.ring_blocks() {
        put(layout.activity_log_block_offset(number), &initialised_block());
    }
    disk
}

/// The peer's bitmap.
struct Bits(Bitmap);

impl BitSource for Bits {
    fn bits(&self) -> u64 {
        self.0.blocks()
    }

    fn next_set(&self, from: u64) -> Option<u64> {
        self.0.next_set(0, BlockIndex(from)).map(|block| block.0)
    }

    fn next_clear(&self, from: u64) -> Option<u64> {
        self.0.next_clear(0, BlockIndex(from)).map(|block| block.0)
    }
}

impl WordSource for Bits {
    fn word(&self, index: u64) -> u64 {
        self.0.word(0, index as usize)
    }
}

fn ack(block: u64, blocks: u64) -> BlockAck {
    BlockAck {
        sector: BlockIndex(block).sector(),
        block_id: BlockId::RESYNC,
        bytes: (blocks * 4096) as u32,
        sequence: 0,
    }
}

fn is_data_write(operation: &DiskOperation) -> bool {
    matches!(operation, DiskOperation::Write { area: Area::Data, .. })
}

fn is_data_flush(operation: &DiskOperation) -> bool {
    matches!(operation, DiskOperation::Flush { area: Area::Data })
}

fn protocol_of(packet: &Packet) -> Option<Protocol> {
    if let Packet::Protocol(protocol) = packet { Some(protocol.clone()) } else { None }
}

fn parameters_of(packet: &Packet) -> Option<SyncParam> {
    if let Packet::SyncParam(parameters) = packet { Some(parameters.clone()) } else { None }
}

fn sizes_of(packet: &Packet) -> Option<Sizes> {
    if let Packet::Sizes(sizes) = packet { Some(sizes.clone()) } else { None }
}

fn ping_of(packet: &Packet) -> Option<()> {
    matches!(packet, Packet::Ping).then_some(())
}

fn sync_uuid_of(packet: &Packet) -> Option<GenerationId> {
    if let Packet::SyncUuid(id) = packet { Some(*id) } else { None }
}

/// First sectors of what is asked for by a resync, with or without a checksum.
fn asked_of(packet: &Packet) -> Option<Sector> {
    match packet {
        Packet::ResyncDataRequest(request) | Packet::ChecksumResyncRequest { request, .. } => Some(request.sector),
        _ => None,
    }
}

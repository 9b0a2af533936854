//! Sockets come and go: from two sockets to a link, and from a link back to looking for the peer.

use std::time::Duration;

use bytes::Bytes;

use super::Resource;
use super::action::{Action, Closing, LogLevel};
use super::establish::{Establish, Pair, Step};
use super::link::{Connection, Link, Phase};
use super::promotion::Promotion;
use super::receive_epochs::ReceiveEpochs;
use super::volume::Pending;
use crate::model::ids::{SocketId, VolumeNumber};
use crate::model::state::{ConnectionState, DiskState, Role};
use crate::model::units::BLOCK_BYTES;
use crate::wire::framing::{Features, PROTOCOL_BEFORE_AGREEMENT, Stream};
use crate::wire::packet::Packet;

/// Pause before the first attempt after a connection was lost, so that the peer has noticed too.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of "initial data": a header of the oldest form.
const INTRODUCTION_BYTES: u64 = 8;
/// Bytes of writes that are taken off the wire before they are on the disk, whatever `max-buffers` says: enough to keep a
/// disk busy.
const RECEIVED_BYTES_MIN: u64 = 4 << 20;
/// Reads that a peer may have asked for and nobody has begun: more than any asks for at once.
const WISHES_MAX: u64 = 1 << 16;

impl Resource {
    /// Begins to look for the peer.
    pub(super) fn start_connecting(&mut self, peer: usize, pause: Duration) {
        let jitter = Duration::from_millis(self.random.next_u64() % 50);
        let now = self.now;
        let state = &mut self.peers[peer];
        let pause = if pause.is_zero() { pause } else { pause + jitter };
        let times = state.times();
        let establish = Establish::begin(now, pause, times, state.settings.address_is_lower);
        state.connection = Connection::Establishing(Box::new(establish));
        self.set_connection(peer, ConnectionState::Unconnected);
        self.set_connection(peer, ConnectionState::WfConnection);
        self.on_establish_timer(peer);
    }

    pub(super) fn on_establish_timer(&mut self, peer: usize) {
        let now = self.now;
        self.establish(peer, |establish, steps| establish.on_timer(now, steps));
    }

    /// Lets the establishing machine take a step and does what it asks; a complete pair becomes the link.
    fn establish(&mut self, peer: usize, step: impl FnOnce(&mut Establish, &mut Vec<Step>)) {
        let mut steps = Vec::new();
        if !matches!(self.peers[peer].connection, Connection::Establishing(_)) {
            return;
        }
        let drained = self.is_drained(peer) && self.resync_is_drained(peer) && self.generations_are_durable();
        let drained = drained && self.commands.promotion.as_ref().is_none_or(Promotion::is_fencing);
        let Connection::Establishing(establish) = &mut self.peers[peer].connection else { return };
        step(establish, &mut steps);
        // What the last connection brought must be on the disk before a new one compares generations, and nothing that it
        // compares may be moving.
        let complete = establish.is_complete() && drained;
        if complete {
            let old = std::mem::replace(&mut self.peers[peer].connection, Connection::Off);
            let Connection::Establishing(establish) = old else { unreachable!("seen above") };
            let pair = establish.finish(&mut steps);
            self.perform_establish(peer, &steps);
            self.begin_link(peer, pair);
        } else {
            self.perform_establish(peer, &steps);
        }
    }

    /// The last write of an old connection is done: a new one may go on.
    pub(super) fn after_receive_drained(&mut self, peer: usize) {
        self.establish(peer, |_, _| {});
    }

    /// A complete pair may have waited for a disk.
    pub(super) fn settle_links(&mut self) {
        for peer in 0..self.peers.len() {
            self.establish(peer, |_, _| {});
        }
    }

    /// Whether both sides are comparing what they have: neither role nor disk may change meanwhile by anybody's wish.
    pub(super) fn is_shaking_hands(&self, peer: usize) -> bool {
        (0..self.volumes.len()).any(|volume| {
            self.view(volume, peer).conn == ConnectionState::WfReportParams && !self.is_unknown_to_peer(volume, peer)
        })
    }

    /// Whether no flush and no checksum of the last connection's resync is under way: it would be taken for one of the next.
    fn resync_is_drained(&self, peer: usize) -> bool {
        !self.pending.iter().any(|(_, pending)| match pending {
            Pending::TargetFlush(_, of, _) => *of == peer,
            Pending::TargetChecksum(..) => true,
            _ => false,
        })
    }

    /// Whether what a handshake would tell of our disks is what they will say after a power loss.
    fn generations_are_durable(&self) -> bool {
        let disks = self.volumes.iter().filter(|volume| volume.has_disk()).filter_map(|volume| volume.disk.as_ref());
        disks.into_iter().all(|disk| disk.writer.superblock_is_durable())
    }

    fn perform_establish(&mut self, peer: usize, steps: &[Step]) {
        for step in steps {
            match *step {
                Step::Dial => self.actions.push(Action::Dial { peer }),
                Step::Close(socket) => self.actions.push(Action::Close { socket, how: Closing::AtOnce }),
                Step::Introduce(socket, stream) => {
                    let packet = if stream == Stream::Data { Packet::InitialData } else { Packet::InitialMeta };
                    let features = Features::default();
                    packet.encode(PROTOCOL_BEFORE_AGREEMENT, features, VolumeNumber(0), &mut self.out);
                    let head = self.out.split().freeze();
                    self.actions.push(Action::Send { socket, head, payload: None });
                }
            }
        }
    }

    pub(super) fn on_dialled(&mut self, peer: usize, socket: SocketId) {
        if !matches!(self.peers[peer].connection, Connection::Establishing(_)) {
            self.actions.push(Action::Close { socket, how: Closing::AtOnce });
            return;
        }
        let now = self.now;
        self.establish(peer, |establish, steps| establish.on_dialled(now, socket, steps));
    }

    pub(super) fn on_dial_failed(&mut self, peer: usize, reason: &str) {
        let jitter = self.random.next_u64();
        let now = self.now;
        if matches!(self.peers[peer].connection, Connection::Establishing(_)) {
            self.peers[peer].reason = Some(format!("cannot reach {}: {reason}", self.peers[peer].settings.name));
        }
        self.establish(peer, |establish, _| establish.on_dial_failed(now, jitter));
    }

    pub(super) fn on_accepted(&mut self, peer: usize, socket: SocketId) {
        if !matches!(self.peers[peer].connection, Connection::Establishing(_)) {
            self.actions.push(Action::Close { socket, how: Closing::AtOnce });
            return;
        }
        let now = self.now;
        self.establish(peer, |establish, steps| establish.on_accepted(now, socket, steps));
    }

    pub(super) fn on_received(&mut self, socket: SocketId, bytes: Bytes) {
        for peer in 0..self.peers.len() {
            match &mut self.peers[peer].connection {
                Connection::Linked(link) if link.data == socket => {
                    link.last_received = self.now;
                    link.data_reader.push(bytes);
                    return self.read_packets(peer, Stream::Data);
                }
                Connection::Linked(link) if link.meta == socket => {
                    link.last_received = self.now;
                    link.meta_reader.push(bytes);
                    return self.read_packets(peer, Stream::Meta);
                }
                Connection::Establishing(_) => {
                    let (now, bytes) = (self.now, bytes.clone());
                    self.establish(peer, |establish, steps| establish.on_received(now, socket, bytes, steps));
                }
                Connection::Linked(_) | Connection::Off => {}
            }
        }
    }

    fn begin_link(&mut self, peer: usize, pair: Pair) {
        let now = self.now;
        let state = &mut self.peers[peer];
        state.reason = None;
        // Whatever a handler finds out about a peer that was away says nothing of this one.
        state.fence = None;
        state.receive = ReceiveEpochs::new();
        state.flushes_pending = 0;
        (state.received_bytes, state.serving_bytes) = (0, 0);
        state.wishes.clear();
        state.volumes.iter_mut().for_each(super::link::PeerVolume::forget_connection);
        state.connection = Connection::Linked(Box::new(Link {
            data: pair.data,
            meta: pair.meta,
            data_reader: pair.data_reader,
            meta_reader: pair.meta_reader,
            phase: Phase::Features,
            version: PROTOCOL_BEFORE_AGREEMENT,
            features: Features::default(),
            resolve: pair.resolve,
            peer_protocol: None,
            opened: now,
            last_received: now,
            ping_sent: None,
            pings: 0,
            pings_answered: 0,
            // The introduction of a socket that we dialled was sent before anybody counted.
            data_queued: if pair.data_accepted { 0 } else { INTRODUCTION_BYTES },
            data_sent: 0,
            data_progress: now,
            throttled: false,
            replies: std::collections::VecDeque::new(),
            reply_bytes: 0,
            reads_asked: std::collections::BTreeSet::new(),
            handed: std::collections::VecDeque::new(),
            leaving: false,
            outdated: false,
        }));
        self.set_connection(peer, ConnectionState::WfReportParams);
        self.begin_handshake(peer);
        self.read_packets(peer, Stream::Data);
        self.read_packets(peer, Stream::Meta);
    }

    /// Reads every packet that is there. Reading may end the link.
    fn read_packets(&mut self, peer: usize, stream: Stream) {
        loop {
            let Some(link) = self.peers[peer].link_mut() else { return };
            let reader = if stream == Stream::Data { &mut link.data_reader } else { &mut link.meta_reader };
            match reader.next() {
                Ok(Some((volume, packet))) => self.on_packet(peer, stream, volume, packet),
                Ok(None) => return,
                Err(error) if error.is_final() => {
                    return self.stand_alone(peer, &error.to_string());
                }
                Err(error) => return self.lose_connection(peer, ConnectionState::ProtocolError, &error.to_string()),
            }
        }
    }

    /// Queues a packet of a volume on the stream it belongs to.
    pub(super) fn send(&mut self, peer: usize, stream: Stream, volume: usize, packet: &Packet) {
        let number = self.volumes.get(volume).map_or(VolumeNumber(0), |volume| volume.settings.number);
        let Connection::Linked(link) = &mut self.peers[peer].connection else { return };
        let number = if link.version < 100 { VolumeNumber(0) } else { number };
        let payload = packet.encode(link.version, link.features, number, &mut self.out);
        let head = self.out.split().freeze();
        let socket = if stream == Stream::Data { link.data } else { link.meta };
        if stream == Stream::Data {
            if link.data_queued == link.data_sent {
                link.data_progress = self.now;
            }
            let bytes = (head.len() + payload.as_ref().map_or(0, Bytes::len)) as u64;
            link.data_queued += bytes;
            if matches!(packet, Packet::DataReply(_) | Packet::ResyncDataReply(_)) {
                link.replies.push_back((link.data_queued, bytes));
                link.reply_bytes += bytes;
            }
        }
        self.actions.push(Action::Send { socket, head, payload });
        self.regulate(peer);
    }

    /// A packet that names no volume.
    pub(super) fn send_connection(&mut self, peer: usize, stream: Stream, packet: &Packet) {
        let Connection::Linked(link) = &mut self.peers[peer].connection else { return };
        packet.encode(link.version, link.features, VolumeNumber(0), &mut self.out);
        let head = self.out.split().freeze();
        let socket = if stream == Stream::Data { link.data } else { link.meta };
        if stream == Stream::Data {
            if link.data_queued == link.data_sent {
                link.data_progress = self.now;
            }
            link.data_queued += head.len() as u64;
        }
        self.actions.push(Action::Send { socket, head, payload: None });
    }

    /// Bytes queued and not taken.
    pub(super) fn backlog(&self, peer: usize) -> u64 {
        self.peers[peer].link().map_or(0, |link| link.data_queued - link.data_sent)
    }

    /// Stops reading the data stream while too much of what came waits; goes on at half of that. What ends the waiting comes
    /// from our disks and goes out by itself: two nodes that have stopped do not wait for each other.
    pub(super) fn regulate(&mut self, peer: usize) {
        let writes_max = u64::from(self.peers[peer].settings.buffers_max) * BLOCK_BYTES;
        // Writes of a source that wait for the name of its resync wait for a packet behind them.
        let wait_for_name = self.volumes.iter().any(|volume| volume.peer_write_gate == Some(u64::MAX));
        let received = if wait_for_name { 0 } else { self.peers[peer].received_bytes };
        let wishes = self.peers[peer].wishes.len() as u64;
        let loads = [(received, writes_max.max(RECEIVED_BYTES_MIN)), (wishes, WISHES_MAX)];
        let Some(link) = self.peers[peer].link_mut() else { return };
        let share = if link.throttled { 2 } else { 1 };
        let stop = loads.into_iter().any(|(load, most)| load > most / share);
        if stop != link.throttled {
            link.throttled = stop;
            let socket = link.data;
            self.actions.push(Action::Throttle { socket, stop });
        }
    }

    pub(super) fn on_sent(&mut self, socket: SocketId, total: u64) {
        let now = self.now;
        let Some(peer) =
            (0..self.peers.len()).find(|peer| self.peers[*peer].link().is_some_and(|link| link.data == socket))
        else {
            return;
        };
        let link = self.peers[peer].link_mut().expect("just found");
        if total > link.data_sent {
            link.data_sent = total;
            link.data_progress = now;
        }
        while let Some((_, bytes)) = link.replies.front().copied().filter(|(end, _)| *end <= total) {
            link.replies.pop_front();
            link.reply_bytes -= bytes;
        }
        let mut handed = Vec::new();
        while let Some((mark, write)) = link.handed.front().copied().filter(|(mark, _)| *mark <= total) {
            debug_assert!(mark <= total, "in order");
            link.handed.pop_front();
            handed.push(write);
        }
        for write in handed {
            if self.writes.contains(write) {
                self.on_handed_to_socket(write, peer);
            }
        }
        self.regulate(peer);
        // A bitmap that waited for the socket goes on.
        for volume in 0..self.volumes.len() {
            self.pump_bitmap(volume, peer);
        }
    }

    pub(super) fn on_closed(&mut self, socket: SocketId, reason: &str) {
        let now = self.now;
        for peer in 0..self.peers.len() {
            let linked = self.peers[peer].link().filter(|link| link.data == socket || link.meta == socket);
            if let Some(link) = linked {
                let state = if link.leaving { ConnectionState::TearDown } else { ConnectionState::NetworkFailure };
                let stream = if link.data == socket { "data" } else { "meta" };
                let sentence = format!("the {stream} connection ended: {reason}");
                return self.lose_connection(peer, state, &sentence);
            }
            self.establish(peer, |establish, steps| {
                establish.on_closed(now, socket, steps);
            });
        }
    }

    /// The connection is gone for a reason that another attempt may cure.
    pub(super) fn lose_connection(&mut self, peer: usize, state: ConnectionState, reason: &str) {
        if self.peers[peer].link().is_none() {
            return;
        }
        let name = self.peers[peer].settings.name.clone();
        let level = if state == ConnectionState::TearDown { LogLevel::Info } else { LogLevel::Warn };
        self.log(level, format!("connection to {name}: {reason}"));
        self.end_link(peer, state);
        self.peers[peer].reason = Some(reason.to_owned());
        if !self.going_down {
            self.start_connecting(peer, RECONNECT_PAUSE);
        } else {
            self.set_connection(peer, ConnectionState::StandAlone);
        }
    }

    /// The connection is given up until an operator connects again. The peer has been told what it takes to come to the same
    /// result, and gets the time to: a kernel's node takes the end of the meta stream for a failure of the network, and does
    /// not look at what is left on the data stream.
    pub(super) fn stand_alone(&mut self, peer: usize, reason: &str) {
        let name = self.peers[peer].settings.name.clone();
        self.log(LogLevel::Error, format!("connection to {name}: {reason}"));
        self.close_link(peer, ConnectionState::Disconnecting, Closing::Lingering);
        self.peers[peer].reason = Some(reason.to_owned());
    }

    /// Ends whatever there is of a connection. `state` says why; Disconnecting ends in StandAlone.
    pub(super) fn end_link(&mut self, peer: usize, state: ConnectionState) {
        self.close_link(peer, state, Closing::Drained);
    }

    fn close_link(&mut self, peer: usize, state: ConnectionState, how: Closing) {
        let old = std::mem::replace(&mut self.peers[peer].connection, Connection::Off);
        match old {
            Connection::Off => {}
            Connection::Establishing(establish) => {
                let mut steps = Vec::new();
                establish.abandon(&mut steps);
                self.perform_establish(peer, &steps);
            }
            Connection::Linked(link) => {
                for socket in [link.data, link.meta] {
                    self.actions.push(Action::Close { socket, how });
                }
                let pdsk = link.outdated.then_some(DiskState::Outdated);
                self.set_connection_with(peer, state, pdsk);
                self.on_link_ended(peer);
            }
        }
        if state == ConnectionState::Disconnecting {
            self.set_connection(peer, ConnectionState::StandAlone);
        }
    }

    /// What was under way on the link is given up, after the new state (and with it the freeze) holds.
    fn on_link_ended(&mut self, peer: usize) {
        self.peers[peer].role = Role::Unknown;
        for volume in 0..self.volumes.len() {
            self.decide_alone(volume);
        }
        self.give_up_unconfirmed(peer);
        self.give_up_remote_reads(peer);
        self.give_up_peer_writes(peer);
        for volume in 0..self.volumes.len() {
            self.peers[peer].volumes[volume].forget_connection();
            self.give_up_resync(volume, peer);
        }
        self.give_up_peer_request(peer);
        self.fence_lost_peer(peer);
    }

    /// No handshake will decide what a negotiating disk is worth: its own metadata does, unless writes have passed it by.
    fn decide_alone(&mut self, volume: usize) {
        if self.volumes[volume].disk_state != DiskState::Negotiating {
            return;
        }
        if self.may_show(volume).is_err() {
            return self.fail_disk(volume);
        }
        let remembered = self.volumes[volume].remembered;
        self.set_disk_state(volume, remembered);
    }

    /// The agreed version; what we speak ourselves while nothing is agreed.
    pub(super) fn version(&self, peer: usize) -> u32 {
        self.peers[peer].link().map_or(crate::wire::framing::PROTOCOL_MAX, |link| link.version)
    }

    /// Whether the peer's link has a feature.
    pub(super) fn has_feature(&self, peer: usize, feature: Features) -> bool {
        self.peers[peer].link().is_some_and(|link| link.features.contains(feature))
    }
}

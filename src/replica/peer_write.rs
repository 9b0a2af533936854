//! The peer's writes on our disk.
//!
//! ```text
//! Data ─ (protocol B: acknowledge receipt) ─▶ interval free AND epoch at the front ─▶ (hot extent, if the peer has no disk)
//!      ─▶ disk ─▶ (protocol C: acknowledge) ─▶ epoch complete ─▶ flush ─▶ acknowledge the epoch
//! ```
//!
//! What was received is written whole even if the connection ends meanwhile: its sender may have been told "received". Only
//! then may a new connection begin, or this node be promoted.

use bytes::Bytes;

use super::action::{Area, DiskOperation};
use super::conflicts::{Held, Kind};
use super::event::DiskError;
use super::receive_epochs::Step;
use super::request::Content;
use super::volume::{Owner, Pending};
use super::{Resource, mutant};
use crate::model::state::{ConnectionState, DiskState};
use crate::model::units::{Sector, SectorRange};
use crate::wire::framing::Stream;
use crate::wire::packet::{BarrierId, BlockId, Data, DataFlags, Packet, ReplicationProtocol, TRIM_BYTES_MAX, Trim};

/// A write of the peer.
#[derive(Debug)]
pub(super) struct PeerWrite {
    volume: usize,
    peer: usize,
    range: SectorRange,
    content: Content,
    flags: DataFlags,
    block_id: BlockId,
    epoch: u64,
    held: Option<Held>,
    interval_free: bool,
    epoch_open: bool,
    started: bool,
    /// The writer had no disk when it sent this: its own copy misses it, so it was marked on receipt, before bitmaps could
    /// be exchanged, and runs under the protection of our activity log.
    for_diskless: bool,
    /// Waits for its extents to become hot.
    waiting_for_log: bool,
    /// Its connection is gone: nobody wants an acknowledgement.
    orphaned: bool,
    /// Belongs to a resync that this disk has never taken the name of: it must not be written, its range stays different.
    void: bool,
    /// The incarnation of the disk in whose activity log it is pinned.
    pub(super) pin: Option<u64>,
}

impl Resource {
    pub(super) fn on_data(&mut self, volume: usize, peer: usize, data: Data) {
        if !self.digest_is_right(peer, &data.digest, &data.payload) {
            let reason = format!("Digest integrity check FAILED: {} +{}", data.sector, data.payload.len());
            return self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
        }
        let range = SectorRange::from_bytes(data.sector, data.payload.len() as u64);
        let content = Content::Data(data.payload);
        self.receive_write(volume, peer, range, content, data.flags, data.block_id);
    }

    pub(super) fn on_zeroes(&mut self, volume: usize, peer: usize, zeroes: &Trim, trim: bool) {
        if zeroes.bytes > TRIM_BYTES_MAX {
            let reason = format!("{} bytes of zeroes in one packet", zeroes.bytes);
            return self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
        }
        let range = SectorRange::from_bytes(zeroes.sector, u64::from(zeroes.bytes));
        let unmap = trim || zeroes.flags.contains(DataFlags::DISCARD);
        self.receive_write(volume, peer, range, Content::Zeroes { unmap }, zeroes.flags, zeroes.block_id);
    }

    fn receive_write(
        &mut self,
        volume: usize,
        peer: usize,
        range: SectorRange,
        content: Content,
        flags: DataFlags,
        block_id: BlockId,
    ) {
        let capacity = self.volumes[volume].device_sectors;
        if range.sectors == 0 || range.end().0 > capacity {
            let reason = format!("request from peer beyond end of local disk: {range}, capacity: {capacity}s");
            return self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
        }
        let at = &mut self.peers[peer].volumes[volume];
        at.sectors_received += range.sectors;
        at.application_sectors += range.sectors;
        at.unacked += 1;
        let for_diskless = self.view(volume, peer).pdsk < DiskState::Inconsistent && self.volumes[volume].has_disk();
        if for_diskless {
            self.mark_out_of_sync(volume, range);
        }
        let write = self.peer_writes.insert(PeerWrite {
            volume,
            peer,
            range,
            content,
            flags: self.effective_flags(peer, flags),
            block_id,
            epoch: 0,
            held: None,
            interval_free: false,
            epoch_open: false,
            started: false,
            for_diskless,
            waiting_for_log: false,
            orphaned: false,
            void: false,
            pin: None,
        });
        self.peers[peer].received_bytes += self.peer_writes[write].content.bytes();
        self.regulate(peer);
        let (epoch, now) = self.peers[peer].receive.add(write);
        let state = &mut self.peer_writes[write];
        state.epoch = epoch;
        state.epoch_open = now;
        let wants_write_ack = state.flags.contains(DataFlags::SEND_WRITE_ACK);
        if state.flags.contains(DataFlags::SEND_RECEIVE_ACK) {
            let ack = self.block_ack(volume, peer, range, block_id);
            self.send(peer, Stream::Meta, volume, &Packet::RecvAck(ack));
        }
        if mutant(5) && wants_write_ack {
            let ack = self.block_ack(volume, peer, range, block_id);
            self.send(peer, Stream::Meta, volume, &Packet::WriteAck(ack));
        }
        let (held, free) = self.volumes[volume].conflicts.hold(range, Kind::PeerWrite, Owner::PeerWrite(write));
        self.peer_writes[write].held = Some(held);
        if free {
            self.admit_peer_write(write);
        }
    }

    pub(super) fn peer_write_volume(&self, write: usize) -> usize {
        self.peer_writes[write].volume
    }

    /// Below version 100 the connection's protocol says which acknowledgement is due.
    fn effective_flags(&self, peer: usize, flags: DataFlags) -> DataFlags {
        if self.version(peer) >= 100 {
            return flags;
        }
        match self.peers[peer].settings.protocol {
            ReplicationProtocol::A => flags,
            ReplicationProtocol::B => flags.with(DataFlags::SEND_RECEIVE_ACK),
            ReplicationProtocol::C => flags.with(DataFlags::SEND_WRITE_ACK),
        }
    }

    /// Its sectors are free.
    pub(super) fn admit_peer_write(&mut self, write: usize) {
        self.peer_writes[write].interval_free = true;
        self.try_start_peer_write(write);
    }

    fn try_start_peer_write(&mut self, write: usize) {
        let state = &self.peer_writes[write];
        if state.started || !state.interval_free || !state.epoch_open {
            return;
        }
        let (volume, range, for_diskless) = (state.volume, state.range, state.for_diskless);
        if self.gate_holds_peer_writes(volume) {
            self.volumes[volume].gated_peer_writes.push(write);
            return;
        }
        self.peer_writes[write].started = true;
        if self.peer_writes[write].void {
            return self.start_peer_write(write);
        }
        if for_diskless && self.volumes[volume].has_disk() {
            if !self.begin_activity(volume, super::activity::token_of_peer_write(write), range) {
                self.peer_writes[write].waiting_for_log = true;
                return;
            }
            self.peer_writes[write].pin = self.volumes[volume].disk.as_ref().map(|disk| disk.incarnation);
        }
        self.start_peer_write(write);
    }

    pub(super) fn gate_holds_peer_writes(&self, volume: usize) -> bool {
        let state = &self.volumes[volume];
        state
            .peer_write_gate
            .is_some_and(|version| state.disk.as_ref().is_some_and(|disk| !disk.writer.is_durable(version)))
    }

    /// The superblock that foreign writes wait for is durable (or the reason to wait is gone).
    pub(super) fn open_peer_write_gate(&mut self, volume: usize) {
        if self.gate_holds_peer_writes(volume) {
            return;
        }
        self.volumes[volume].peer_write_gate = None;
        for write in std::mem::take(&mut self.volumes[volume].gated_peer_writes) {
            if self.peer_writes[write].started {
                self.start_peer_write(write);
            } else {
                self.try_start_peer_write(write);
            }
        }
    }

    /// Everything it waited for is there: to the disk, unless a resync has begun while it waited for the log.
    pub(super) fn start_peer_write(&mut self, write: usize) {
        let state = &mut self.peer_writes[write];
        state.waiting_for_log = false;
        let (volume, range) = (state.volume, state.range);
        if self.gate_holds_peer_writes(volume) {
            self.volumes[volume].gated_peer_writes.push(write);
            return;
        }
        let obstacle = match self.peer_writes[write].void {
            true => Some("its resync was given up"),
            false => (!self.volumes[volume].has_disk()).then_some("no disk"),
        };
        if let Some(reason) = obstacle {
            let (offset, bytes) = (range.start.byte(), range.bytes());
            let error = DiskError { operation: "write", offset, bytes, reason: reason.into() };
            return self.finish_peer_write(write, Err(error));
        }
        let state = &self.peer_writes[write];
        let fua = state.flags.contains(DataFlags::FUA);
        let preflush = state.flags.contains(DataFlags::FLUSH);
        let offset = range.start.byte();
        let operation = match &state.content {
            Content::Data(payload) => {
                DiskOperation::Write { area: Area::Data, offset, payload: payload.clone(), preflush, fua }
            }
            Content::Zeroes { unmap } => {
                DiskOperation::Zero { area: Area::Data, offset, bytes: range.bytes(), unmap: *unmap, fua }
            }
        };
        self.volumes[volume].counters.sectors_written += range.sectors;
        self.disk_operation(volume, Pending::PeerWrite(write), operation);
    }

    pub(super) fn on_peer_written(&mut self, write: usize, result: Result<(), DiskError>) {
        let volume = self.peer_writes[write].volume;
        if let Err(error) = &result {
            self.on_data_error(volume, error, true);
        }
        self.finish_peer_write(write, result);
    }

    fn finish_peer_write(&mut self, write: usize, result: Result<(), DiskError>) {
        let state = self.peer_writes.remove(write);
        let PeerWrite { volume, peer, range, block_id, flags, epoch, orphaned, .. } = state;
        let received = &mut self.peers[peer].received_bytes;
        *received = received.saturating_sub(state.content.bytes());
        self.regulate(peer);
        if let Some(held) = state.held {
            self.release_interval(volume, held);
        }
        if let Some(incarnation) = state.pin {
            self.end_activity(volume, incarnation, range);
        }
        if result.is_err() {
            self.mark_out_of_sync(volume, range);
        }
        if !orphaned {
            let at = &mut self.peers[peer].volumes[volume];
            at.unacked = at.unacked.saturating_sub(1);
            if result.is_err() {
                let ack = self.block_ack(volume, peer, range, block_id);
                self.send(peer, Stream::Meta, volume, &Packet::NegAck(ack));
            } else if flags.contains(DataFlags::SEND_WRITE_ACK) && !mutant(5) {
                let ack = self.block_ack(volume, peer, range, block_id);
                self.send(peer, Stream::Meta, volume, &Packet::WriteAck(ack));
            }
        }
        let mut steps = Vec::new();
        self.peers[peer].receive.ended(epoch, &mut steps);
        self.perform_epoch_steps(peer, steps);
    }

    pub(super) fn on_barrier(&mut self, peer: usize, barrier: BarrierId) {
        let mut steps = Vec::new();
        self.peers[peer].receive.barrier(barrier, &mut steps);
        self.perform_epoch_steps(peer, steps);
    }

    fn perform_epoch_steps(&mut self, peer: usize, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Start(write) => {
                    self.peer_writes[write].epoch_open = true;
                    self.try_start_peer_write(write);
                }
                Step::Flush => self.flush_epoch(peer),
                Step::Acknowledge(barrier, writes) => {
                    self.send_connection(peer, Stream::Meta, &Packet::BarrierAck { barrier, writes });
                }
            }
        }
        if self.peers[peer].receive.is_idle() {
            self.after_receive_drained(peer);
        }
    }

    /// Every disk of the resource: an epoch spans volumes. One that is being closed has its writes, too.
    fn flush_epoch(&mut self, peer: usize) {
        let holds_writes = |volume: &super::volume::Volume| {
            volume.has_disk() || volume.disk.as_ref().is_some_and(|disk| disk.closing.is_some())
        };
        let disks: Vec<usize> = (0..self.volumes.len())
            .filter(|volume| holds_writes(&self.volumes[*volume]) && self.volumes[*volume].settings.disk_flushes)
            .filter(|_| !mutant(17))
            .collect();
        self.peers[peer].flushes_pending = disks.len();
        for volume in &disks {
            let operation = DiskOperation::Flush { area: Area::Data };
            self.disk_operation(*volume, Pending::EpochFlush(*volume, peer), operation);
        }
        if disks.is_empty() {
            self.epoch_is_flushed(peer);
        }
    }

    pub(super) fn on_epoch_flushed(&mut self, volume: usize, peer: usize, result: Result<(), DiskError>) {
        if let Err(error) = result {
            // What was acknowledged may be gone with the cache: the epoch must stay unconfirmed.
            self.on_data_error(volume, &error, true);
            self.lose_connection(peer, ConnectionState::NetworkFailure, "the disk could not be flushed");
        }
        self.peers[peer].flushes_pending -= 1;
        if self.peers[peer].flushes_pending == 0 {
            self.epoch_is_flushed(peer);
        }
    }

    fn epoch_is_flushed(&mut self, peer: usize) {
        let mut steps = Vec::new();
        self.peers[peer].receive.flushed(&mut steps);
        self.perform_epoch_steps(peer, steps);
    }

    /// The connection is gone: what was received is still written, in order, but nobody is told.
    pub(super) fn give_up_peer_writes(&mut self, peer: usize) {
        for (_, write) in self.peer_writes.iter_mut().filter(|(_, write)| write.peer == peer) {
            write.orphaned = true;
        }
        for volume in 0..self.volumes.len() {
            self.give_up_unnamed_resync(volume, peer);
            self.open_peer_write_gate(volume);
        }
        let mut steps = Vec::new();
        self.peers[peer].receive.end_of_stream(&mut steps);
        self.perform_epoch_steps(peer, steps);
    }

    /// The source's writes wait from here on until the superblock names its resync.
    pub(super) fn hold_peer_writes(&mut self, volume: usize, peer: usize) {
        self.volumes[volume].peer_write_gate = Some(u64::MAX);
        self.regulate(peer);
    }

    /// Nothing will name the resync any more that writes of its source wait for: a disk that calls itself consistent under
    /// its old generation must not get them.
    pub(super) fn give_up_unnamed_resync(&mut self, volume: usize, peer: usize) {
        if self.volumes[volume].peer_write_gate != Some(u64::MAX) {
            return;
        }
        for (_, write) in self.peer_writes.iter_mut().filter(|(_, it)| it.volume == volume && it.peer == peer) {
            // For one that is on the disk's way already this has no meaning.
            write.void = true;
        }
        self.volumes[volume].peer_write_gate = None;
        self.open_peer_write_gate(volume);
    }

    /// Whether everything that was received has been written.
    pub(super) fn is_drained(&self, peer: usize) -> bool {
        self.peers[peer].receive.is_idle() && !self.peer_writes.iter().any(|(_, write)| write.peer == peer)
    }

    /// The disk is gone: the peer's writes that waited for its log fail.
    pub(super) fn fail_waiting_peer_writes(&mut self, volume: usize) {
        let waiting: Vec<usize> = self
            .peer_writes
            .iter()
            .filter(|(_, write)| write.volume == volume && write.waiting_for_log)
            .map(|(key, _)| key)
            .collect();
        for write in waiting {
            let error = DiskError { operation: "write", offset: 0, bytes: 0, reason: "the disk is gone".into() };
            self.finish_peer_write(write, Err(error));
        }
    }

    /// The peer wrote a range that it will not send.
    pub(super) fn on_out_of_sync(&mut self, volume: usize, peer: usize, sector: Sector, bytes: u32) {
        let range = SectorRange::from_bytes(sector, u64::from(bytes));
        if range.end().0 > self.volumes[volume].device_sectors {
            let reason = format!("an out-of-sync range {range} beyond the device");
            return self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
        }
        self.set_bits(volume, peer, range);
    }

    /// Confirms one of our epochs.
    pub(super) fn on_barrier_ack(&mut self, peer: usize, barrier: BarrierId, writes: u32) {
        match self.peers[peer].log.confirm(barrier, writes) {
            Ok(writes) => self.on_epoch_confirmed(peer, writes),
            Err(error) => self.lose_connection(peer, ConnectionState::ProtocolError, &error.to_string()),
        }
    }

    /// A payload of a peer's read, digest included.
    pub(super) fn digest_for(&self, peer: usize, payload: &Bytes) -> Bytes {
        self.integrity_digest(peer, payload)
    }
}

//! Reads that a peer without a usable disk sends to us.
//!
//! Its writes that came before may still wait here for their epoch (protocols A and B answer them on the way): a read waits
//! for those that it overlaps, so that whoever was answered reads what was written.

use bytes::Bytes;

use super::Resource;
use super::action::{Area, DiskOperation};
use super::conflicts::{Held, Kind};
use super::event::DiskError;
use super::volume::{Owner, Pending};
use crate::model::state::{ConnectionState, DiskState};
use crate::model::units::SectorRange;
use crate::wire::framing::Stream;
use crate::wire::packet::{BlockId, BlockRequest, Packet, REQUEST_BYTES_MAX, ReadReply};

/// A read of the peer, until our disk has answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerRead {
    volume: usize,
    peer: usize,
    range: SectorRange,
    block_id: BlockId,
    /// The connection it came from, by its data socket.
    socket: crate::model::ids::SocketId,
    held: Option<Held>,
}

impl Resource {
    pub(super) fn on_data_request(&mut self, volume: usize, peer: usize, request: BlockRequest) {
        let range = SectorRange::from_bytes(request.sector, u64::from(request.bytes));
        let device = self.volumes[volume].device_sectors;
        if range.sectors == 0 || range.end().0 > device || request.bytes > REQUEST_BYTES_MAX {
            let reason = format!("a read request for {range}, beyond the device or above 1 MiB");
            return self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
        }
        let Some(socket) = self.peers[peer].link().map(|link| link.data) else { return };
        let read = PeerRead { volume, peer, range, block_id: request.block_id, socket, held: None };
        let key = self.peer_reads.insert(read);
        self.peers[peer].serving_bytes += range.bytes();
        let (held, now) = self.volumes[volume].conflicts.hold(range, Kind::ResyncRead, Owner::PeerRead(key));
        self.peer_reads[key].held = Some(held);
        if now {
            self.start_peer_read(key);
        }
    }

    /// Reads of this connection that our disk works on.
    pub(super) fn peer_reads(&self, volume: usize, peer: usize) -> u64 {
        let is_counted = |read: &PeerRead| (read.volume, read.peer) == (volume, peer) && self.is_awaited(*read);
        let wishes = self.peers[peer].wishes.iter().filter(|(of, wish)| *of == volume && !wish.is_for_resync());
        (self.peer_reads.iter().filter(|(_, read)| is_counted(read)).count() + wishes.count()) as u64
    }

    /// Nothing that came before is in the way: read, if anybody still waits.
    pub(super) fn start_peer_read(&mut self, key: usize) {
        let read = self.peer_reads[key];
        let (volume, range) = (read.volume, read.range);
        if !self.is_awaited(read) {
            self.forget_peer_read(key);
        } else if self.volumes[volume].disk_state != DiskState::UpToDate {
            self.forget_peer_read(key);
            self.refuse_peer_read(read);
        } else {
            self.volumes[volume].counters.sectors_read += range.sectors;
            let operation = DiskOperation::Read { area: Area::Data, offset: range.start.byte(), bytes: range.bytes() };
            self.disk_operation(volume, Pending::PeerRead(key), operation);
        }
    }

    pub(super) fn peer_read_volume(&self, key: usize) -> usize {
        self.peer_reads[key].volume
    }

    fn is_awaited(&self, read: PeerRead) -> bool {
        self.peers[read.peer].link().is_some_and(|link| link.data == read.socket)
    }

    fn forget_peer_read(&mut self, key: usize) {
        let read = self.peer_reads.remove(key);
        if self.is_awaited(read) {
            self.peers[read.peer].count_served(read.range.bytes());
        }
        if let Some(held) = read.held {
            self.release_interval(read.volume, held);
        }
    }

    fn refuse_peer_read(&mut self, read: PeerRead) {
        let ack = self.block_ack(read.volume, read.peer, read.range, read.block_id);
        self.send(read.peer, Stream::Meta, read.volume, &Packet::NegDataReply(ack));
    }

    pub(super) fn on_peer_read(&mut self, key: usize, result: Result<Bytes, DiskError>) {
        let read = self.peer_reads[key];
        self.forget_peer_read(key);
        let (volume, peer, alive) = (read.volume, read.peer, self.is_awaited(read));
        match result {
            Ok(payload) if alive => {
                let digest = self.digest_for(peer, &payload);
                self.peers[peer].volumes[volume].sectors_sent += read.range.sectors;
                let reply = ReadReply { sector: read.range.start, block_id: read.block_id, digest, payload };
                self.send(peer, Stream::Data, volume, &Packet::DataReply(reply));
            }
            Ok(_) => {}
            Err(error) => {
                if alive {
                    self.refuse_peer_read(read);
                }
                self.on_data_error(volume, &error, false);
            }
        }
    }
}

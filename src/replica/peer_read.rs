//! Reads that a peer without a usable disk sends to us.

use bytes::Bytes;

use super::Resource;
use super::action::{Area, DiskOperation};
use super::event::DiskError;
use super::volume::Pending;
use crate::model::state::{ConnectionState, DiskState};
use crate::model::units::SectorRange;
use crate::wire::framing::Stream;
use crate::wire::packet::{BlockId, BlockRequest, Packet, REQUEST_BYTES_MAX, ReadReply};

/// A read of the peer, while our disk works on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerRead {
    range: SectorRange,
    block_id: BlockId,
    /// The connection it came from, by its data socket.
    socket: crate::model::ids::SocketId,
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
        let read = PeerRead { range, block_id: request.block_id, socket };
        if self.volumes[volume].disk_state != DiskState::UpToDate {
            return self.refuse_peer_read(volume, peer, read);
        }
        self.volumes[volume].counters.sectors_read += range.sectors;
        let operation = DiskOperation::Read { area: Area::Data, offset: range.start.byte(), bytes: range.bytes() };
        self.disk_operation(volume, Pending::PeerRead(volume, peer, read), operation);
    }

    /// Reads of this connection that our disk works on.
    pub(super) fn peer_reads(&self, volume: usize, peer: usize) -> u64 {
        let socket = self.peers[peer].link().map(|link| link.data);
        let is_counted = |pending: &Pending| match pending {
            Pending::PeerRead(of_volume, of_peer, read) => {
                (*of_volume, *of_peer, Some(read.socket)) == (volume, peer, socket)
            }
            _ => false,
        };
        self.pending.iter().filter(|(_, pending)| is_counted(pending)).count() as u64
    }

    fn refuse_peer_read(&mut self, volume: usize, peer: usize, read: PeerRead) {
        let ack = self.block_ack(volume, peer, read.range, read.block_id);
        self.send(peer, Stream::Meta, volume, &Packet::NegDataReply(ack));
    }

    pub(super) fn on_peer_read(
        &mut self,
        volume: usize,
        peer: usize,
        read: PeerRead,
        result: Result<Bytes, DiskError>,
    ) {
        let alive = self.peers[peer].link().is_some_and(|link| link.data == read.socket);
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
                    self.refuse_peer_read(volume, peer, read);
                }
                self.on_data_error(volume, &error, false);
            }
        }
    }
}

//! A write on its way to the peer: the packet, its flags, its epoch.

use bytes::Bytes;

use super::Resource;
use super::request::{Content, Net, ZERO_PIECE_BYTES_OLD};
use crate::model::state::DiskState;
use crate::model::units::SectorRange;
use crate::wire::framing::{Features, Stream};
use crate::wire::packet::{BlockId, Data, DataFlags, Packet, ReplicationProtocol, Trim};

/// Zeroes sent as data are cut from this.
static ZEROES: [u8; 1 << 20] = [0; 1 << 20];

impl Resource {
    /// How many bytes of zeroes one packet to this peer may cover.
    pub(super) fn zero_piece_bytes(&self, volume: usize, peer: usize, unmap: bool) -> u64 {
        match self.zero_packet(peer, unmap) {
            ZeroPacket::Data => u64::from(self.peers[peer].volumes[volume].max_request_bytes),
            ZeroPacket::Trim | ZeroPacket::Zeroes if self.has_feature(peer, Features::WSAME) => 64 << 20,
            ZeroPacket::Trim | ZeroPacket::Zeroes => ZERO_PIECE_BYTES_OLD,
        }
    }

    /// Both replicas must read as zeroes afterwards, so a discard goes as write-zeroes that may unmap. A kernel with an
    /// integrity algorithm cannot take that packet; it gets data.
    fn zero_packet(&self, peer: usize, unmap: bool) -> ZeroPacket {
        let integrity = self.peers[peer].settings.integrity.is_some();
        if self.has_feature(peer, Features::WZEROES) && !integrity {
            ZeroPacket::Zeroes
        } else if self.has_feature(peer, Features::TRIM) && unmap && !self.has_feature(peer, Features::WZEROES) {
            ZeroPacket::Trim
        } else {
            ZeroPacket::Data
        }
    }

    pub(super) fn send_write(&mut self, write: usize, volume: usize, peer: usize) {
        if self.peers[peer].log.open_writes() >= self.peers[peer].settings.epoch_writes_max as usize {
            self.close_epoch(peer);
        }
        let epoch = self.peers[peer].log.add(write, self.now);
        let state = &mut self.writes[write];
        state.epoch[peer] = Some(epoch);
        state.net[peer] = Net::Sent;
        let (range, fua, content) = (state.range, state.fua, state.content.clone());
        let at = &mut self.peers[peer].volumes[volume];
        at.sequence = at.sequence.wrapping_add(1);
        at.pending_acks += 1;
        at.sectors_sent += range.sectors;
        at.application_sectors += range.sectors;
        let sequence = at.sequence;
        let flags = self.data_flags(volume, peer, fua);
        let packet = self.write_packet(write, peer, range, content, flags, sequence);
        self.send(peer, Stream::Data, volume, &packet);
        self.note_handed(write, peer);
    }

    fn write_packet(
        &self,
        write: usize,
        peer: usize,
        range: SectorRange,
        content: Content,
        flags: DataFlags,
        sequence: u32,
    ) -> Packet {
        let block_id = BlockId::from_u64(write as u64);
        let bytes = range.bytes() as u32;
        let payload = match content {
            Content::Data(payload) => payload,
            Content::Zeroes { unmap } => match self.zero_packet(peer, unmap) {
                ZeroPacket::Data => Bytes::from_static(&ZEROES).slice(..bytes as usize),
                ZeroPacket::Trim => {
                    let flags = flags.with(DataFlags::DISCARD);
                    return Packet::Trim(Trim { sector: range.start, block_id, sequence, flags, bytes });
                }
                ZeroPacket::Zeroes => {
                    let flags = flags.with(DataFlags::ZEROES);
                    let flags = if unmap { flags.with(DataFlags::DISCARD) } else { flags };
                    return Packet::Zeroes(Trim { sector: range.start, block_id, sequence, flags, bytes });
                }
            },
        };
        let digest = self.integrity_digest(peer, &payload);
        Packet::Data(Data { sector: range.start, block_id, sequence, flags, digest, payload })
    }

    fn data_flags(&self, volume: usize, peer: usize, fua: bool) -> DataFlags {
        let version = self.version(peer);
        let mut flags = DataFlags::NONE;
        if fua {
            flags = flags.with(DataFlags::FUA);
        }
        let syncing = self.view(volume, peer).conn.is_syncing();
        let ack = match self.peers[peer].settings.protocol {
            ReplicationProtocol::C => Some(DataFlags::SEND_WRITE_ACK),
            ReplicationProtocol::B => Some(DataFlags::SEND_RECEIVE_ACK),
            ReplicationProtocol::A => None,
        };
        if let Some(ack) = ack.filter(|_| version >= 100) {
            flags = flags.with(ack);
        }
        if syncing && version >= 100 {
            flags = flags.with(DataFlags::MAY_SET_IN_SYNC).with(DataFlags::SEND_WRITE_ACK);
        }
        if self.volumes[volume].disk_state != DiskState::UpToDate && version >= 100 {
            // The peer's is the only copy that counts: the write is answered when it is there.
            flags = flags.with(DataFlags::SEND_WRITE_ACK);
        }
        flags.in_version(version)
    }

    /// Protocol A: the write is accepted once the socket has taken it.
    fn note_handed(&mut self, write: usize, peer: usize) {
        if self.peers[peer].settings.protocol != ReplicationProtocol::A {
            return;
        }
        if let Some(link) = self.peers[peer].link_mut() {
            let mark = link.data_queued;
            link.handed.push_back((mark, write));
        }
    }

    pub(super) fn on_handed_to_socket(&mut self, write: usize, peer: usize) {
        if self.writes[write].net[peer] == Net::Sent {
            self.on_net(write, peer, Net::Accepted);
        }
    }

    /// Tells the peer that a range was written here only.
    pub(super) fn send_out_of_sync(&mut self, volume: usize, peer: usize, range: SectorRange) {
        let packet = Packet::OutOfSync { sector: range.start, bytes: range.bytes() as u32 };
        self.send(peer, Stream::Data, volume, &packet);
    }

    /// Ends the open epoch, if it has writes: whatever is sent from now on comes after them.
    pub(super) fn close_epoch(&mut self, peer: usize) {
        if self.peers[peer].link().is_none() {
            return;
        }
        if let Some(barrier) = self.peers[peer].log.close() {
            self.send_connection(peer, Stream::Data, &Packet::Barrier(barrier));
        }
    }
}

enum ZeroPacket {
    Data,
    Trim,
    Zeroes,
}

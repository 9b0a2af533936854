//! What each packet of the peer means: one call per kind.

use super::Resource;
use super::action::LogLevel;
use super::link::Phase;
use super::request::Net;
use super::wishes::Wish;
use crate::model::ids::VolumeNumber;
use crate::model::state::ConnectionState;
use crate::wire::framing::Stream;
use crate::wire::packet::{BlockAck, BlockId, Packet};

impl Resource {
    pub(super) fn on_packet(&mut self, peer: usize, stream: Stream, number: VolumeNumber, packet: Packet) {
        if matches!(packet, Packet::InitialData | Packet::InitialMeta) {
            return;
        }
        match stream {
            Stream::Meta => self.on_meta_packet(peer, number, packet),
            Stream::Data => {
                let up = self.peers[peer].link().is_some_and(|link| matches!(link.phase, Phase::Up));
                if up { self.on_data_packet(peer, number, packet) } else { self.on_handshake_packet(peer, packet) }
            }
        }
    }

    fn volume_of(&self, number: VolumeNumber) -> Option<usize> {
        self.volumes.iter().position(|volume| volume.settings.number == number)
    }

    fn on_data_packet(&mut self, peer: usize, number: VolumeNumber, packet: Packet) {
        match packet {
            Packet::Barrier(barrier) => return self.on_barrier(peer, barrier),
            Packet::UnplugRemote | Packet::DelayProbe | Packet::Ignored(_) => return,
            Packet::ProtocolUpdate(theirs) => return self.on_protocol_update(peer, theirs),
            Packet::ConnectionStateChangeRequest(change) => return self.on_connection_change_request(peer, change),
            _ => {}
        }
        let Some(volume) = self.volume_of(number) else {
            return self.on_unknown_volume(peer, number, &packet);
        };
        self.on_volume_packet(volume, peer, packet);
    }

    fn on_unknown_volume(&mut self, peer: usize, number: VolumeNumber, packet: &Packet) {
        let name = self.packet_name(peer, packet);
        let sentence = format!("{name} packet received for volume {number}, which is not configured locally");
        let harmless = matches!(packet, Packet::SyncParam(_) | Packet::Sizes(_) | Packet::Uuids(_) | Packet::State(_));
        if harmless {
            self.log(LogLevel::Warn, sentence);
        } else {
            self.lose_connection(peer, ConnectionState::ProtocolError, &sentence);
        }
    }

    fn packet_name(&self, peer: usize, packet: &Packet) -> String {
        packet.command(self.version(peer)).map_or_else(|| "unknown".to_owned(), |command| command.to_string())
    }

    fn on_volume_packet(&mut self, volume: usize, peer: usize, packet: Packet) {
        match packet {
            Packet::Data(data) => self.on_data(volume, peer, data),
            Packet::Trim(trim) => self.on_zeroes(volume, peer, &trim, true),
            Packet::Zeroes(zeroes) => self.on_zeroes(volume, peer, &zeroes, false),
            Packet::DataRequest(request) => self.on_wish(volume, peer, Wish::Data(request)),
            Packet::DataReply(reply) => self.on_data_reply(volume, peer, reply),
            Packet::ResyncDataRequest(request) => {
                self.on_wish(volume, peer, Wish::Resync { request, digest: None, thin: false });
            }
            Packet::ThinResyncRequest(request) => {
                self.on_wish(volume, peer, Wish::Resync { request, digest: None, thin: true });
            }
            Packet::ChecksumResyncRequest { request, digest } => {
                self.on_wish(volume, peer, Wish::Resync { request, digest: Some(digest), thin: false });
            }
            Packet::OnlineVerifyRequest(request) => self.on_wish(volume, peer, Wish::Digest(request)),
            Packet::OnlineVerifyReply { request, digest } => self.on_verify_reply(volume, peer, request, digest),
            Packet::ResyncDataReply(reply) => self.on_resync_data(volume, peer, reply),
            Packet::ResyncDeallocated { sector, bytes } => self.on_resync_deallocated(volume, peer, sector.0, bytes),
            Packet::OutOfSync { sector, bytes } => self.on_out_of_sync(volume, peer, sector, bytes),
            Packet::Bitmap(_) | Packet::CompressedBitmap(_) => self.on_bitmap(volume, peer, &packet),
            Packet::SyncParam(parameters) => self.on_sync_parameters(volume, peer, &parameters),
            Packet::Sizes(sizes) => self.on_sizes(volume, peer, sizes),
            Packet::Uuids(uuids) => self.on_uuids(volume, peer, uuids),
            Packet::State(word) => self.on_state(volume, peer, word),
            Packet::SyncUuid(id) => self.on_sync_uuid(volume, peer, id),
            Packet::StateChangeRequest(change) => self.on_change_request(volume, peer, change),
            other => {
                let reason = format!("Unexpected data packet {}", self.packet_name(peer, &other));
                self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
            }
        }
    }

    fn on_meta_packet(&mut self, peer: usize, number: VolumeNumber, packet: Packet) {
        match packet {
            Packet::Ping => return self.send_connection(peer, Stream::Meta, &Packet::PingAck),
            Packet::PingAck => return self.on_ping_ack(peer),
            Packet::BarrierAck { barrier, writes } => return self.on_barrier_ack(peer, barrier, writes),
            Packet::ConnectionStateChangeReply(code) => return self.on_change_reply(peer, code),
            Packet::DelayProbe | Packet::Ignored(_) => return,
            _ => {}
        }
        let Some(volume) = self.volume_of(number) else {
            return self.on_unknown_volume(peer, number, &packet);
        };
        match packet {
            Packet::RecvAck(ack) => self.on_write_ack(volume, peer, &ack, Net::Accepted),
            Packet::WriteAck(ack) => self.on_write_ack(volume, peer, &ack, Net::Written),
            Packet::NegAck(ack) if ack.block_id == BlockId::RESYNC => self.on_resync_ack(volume, peer, &ack, false),
            Packet::NegAck(ack) => self.on_write_ack(volume, peer, &ack, Net::Refused),
            Packet::ResyncWriteAck(ack) if ack.block_id == BlockId::RESYNC => {
                self.on_resync_ack(volume, peer, &ack, true);
            }
            Packet::ResyncWriteAck(ack) => self.on_write_in_sync(volume, peer, &ack),
            Packet::NegDataReply(ack) => self.on_data_refused(volume, peer, &ack),
            Packet::NegResyncDataReply(ack) if self.verify_source(volume, peer).is_some() => {
                self.on_verify_refused(volume, peer, ack.sector, ack.bytes);
            }
            Packet::NegResyncDataReply(ack) => {
                self.on_resync_refused(volume, peer, ack.sector.0, ack.bytes, false);
            }
            Packet::ResyncCancel(ack) => self.on_resync_refused(volume, peer, ack.sector.0, ack.bytes, true),
            Packet::ResyncIsInSync(ack) => self.on_resync_in_sync(volume, peer, ack.sector.0, ack.bytes),
            Packet::OnlineVerifyResult(ack) => self.on_verify_result(volume, peer, &ack),
            Packet::StateChangeReply(code) => self.on_change_reply(peer, code),
            other => {
                let reason = format!("Unexpected meta packet {}", self.packet_name(peer, &other));
                self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
            }
        }
    }

    /// The peer's word on one of our writes.
    fn on_write_ack(&mut self, volume: usize, peer: usize, ack: &BlockAck, net: Net) {
        if let Some(write) = self.acknowledged_write(volume, peer, ack) {
            self.on_net(write, peer, net);
            self.retire(write);
        }
    }

    /// A write during a resync: the block is in sync now.
    fn on_write_in_sync(&mut self, volume: usize, peer: usize, ack: &BlockAck) {
        if let Some(write) = self.acknowledged_write(volume, peer, ack) {
            let range = self.writes[write].range;
            match self.writes[write].local {
                super::request::Local::Done => self.clear_bits(volume, peer, range),
                // Once it is written here as well.
                super::request::Local::Running => self.writes[write].in_sync_with = Some(peer),
                _ => {}
            }
            self.on_net(write, peer, Net::Written);
            self.retire(write);
        }
    }

    fn acknowledged_write(&mut self, volume: usize, peer: usize, ack: &BlockAck) -> Option<usize> {
        let key = usize::try_from(ack.block_id.to_u64()).unwrap_or(usize::MAX);
        let found = self
            .writes
            .get(key)
            .filter(|write| write.volume == volume && write.range.start == ack.sector && write.epoch[peer].is_some());
        if found.is_none() {
            let reason = format!("failed to find request {:#x}, sector {}", ack.block_id.to_u64(), ack.sector);
            self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
            return None;
        }
        Some(key)
    }
}

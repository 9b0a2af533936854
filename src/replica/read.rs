//! An application's read: from the local disk where that is good, else from the peer.
//!
//! A local read error is tried again at the peer, and the peer's refusal locally; an error reaches the application only when
//! every copy that could have the data has failed.

use bytes::Bytes;

use super::Resource;
use super::action::{Area, DiskOperation, RequestError};
use super::completion::Frozen;
use super::event::DiskError;
use super::volume::Pending;
use crate::model::ids::RequestId;
use crate::model::state::{ConnectionState, DiskState};
use crate::model::time::Instant;
use crate::model::units::{SECTOR_BYTES, Sector, SectorRange};
use crate::wire::framing::Stream;
use crate::wire::packet::{BlockAck, BlockId, BlockRequest, Packet, ReadReply};

/// One piece of a read.
const PIECE_BYTES: u64 = 1 << 20;

/// What a piece has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// Nobody has been asked, or everybody in vain.
    Waiting,
    Local,
    Remote {
        peer: usize,
        since: Instant,
    },
    Done(Bytes),
}

impl Piece {
    fn is_asked_of(&self, asked: usize) -> bool {
        matches!(self, Self::Remote { peer, .. } if *peer == asked)
    }
}

/// A read under way.
#[derive(Debug)]
pub(super) struct Read {
    id: RequestId,
    volume: usize,
    /// Range, state, whether the local disk and the peer have failed it.
    pieces: Vec<(SectorRange, Piece, bool, bool)>,
    left: usize,
    failed: Option<RequestError>,
}

/// A piece of a read, in a ticket or a block id: which read, which piece.
const fn key(read: usize, piece: usize) -> usize {
    read << 12 | piece
}

impl Resource {
    pub(super) fn begin_read(&mut self, id: RequestId, volume: usize, range: SectorRange) {
        let most = PIECE_BYTES.min(self.remote_read_bytes(volume)) / SECTOR_BYTES;
        let count = range.sectors.div_ceil(most);
        let pieces: Vec<_> = (0..count)
            .map(|number| {
                let start = range.start.0 + number * most;
                let piece = SectorRange { start: Sector(start), sectors: most.min(range.end().0 - start) };
                (piece, Piece::Waiting, false, false)
            })
            .collect();
        if pieces.is_empty() {
            return self.reply(id, Ok(Vec::new()));
        }
        let left = pieces.len();
        assert!(left < 1 << 12, "a request is at most 32 MiB: 1024 pieces of 32 KiB");
        let read = self.reads.insert(Read { id, volume, pieces, left, failed: None });
        for piece in 0..left {
            self.start_piece(read, piece);
        }
    }

    fn remote_read_bytes(&self, volume: usize) -> u64 {
        let connected =
            (0..self.peers.len()).filter(|peer| self.view(volume, *peer).conn >= ConnectionState::Connected);
        connected
            .map(|peer| u64::from(self.peers[peer].volumes[volume].max_request_bytes))
            .min()
            .map_or(PIECE_BYTES, |bytes| bytes.max(32 << 10))
    }

    pub(super) fn read_volume(&self, key: usize) -> usize {
        self.reads[key >> 12].volume
    }

    /// Reads of applications that are not answered.
    pub(super) fn reads_pending(&self, volume: usize) -> usize {
        self.reads.iter().filter(|(_, read)| read.volume == volume).count()
    }

    /// Pieces of reads that the peer has been asked for.
    pub(super) fn remote_pieces(&self, volume: usize, peer: usize) -> u64 {
        let reads = self.reads.iter().filter(|(_, read)| read.volume == volume);
        reads.flat_map(|(_, read)| &read.pieces).filter(|(_, piece, ..)| piece.is_asked_of(peer)).count() as u64
    }

    /// Whether our own copy of a range may be shown.
    fn may_read_locally(&self, volume: usize, range: SectorRange) -> bool {
        let state = &self.volumes[volume];
        let Some(disk) = state.disk.as_ref().filter(|_| state.has_disk()) else { return false };
        if state.disk_state == DiskState::UpToDate {
            return true;
        }
        let (first, end) = range.blocks_touched();
        let current = (0..self.peers.len()).find(|peer| self.view(volume, *peer).pdsk == DiskState::UpToDate);
        let Some(peer) = current.filter(|_| state.disk_state == DiskState::Inconsistent) else { return false };
        let slot = disk.slot(self.peers[peer].settings.node_id.index());
        disk.bitmap.next_set(slot, first).is_none_or(|set| set >= end)
    }

    fn good_peer(&self, volume: usize) -> Option<usize> {
        (0..self.peers.len()).find(|peer| {
            let view = self.view(volume, *peer);
            view.conn >= ConnectionState::Connected && view.pdsk == DiskState::UpToDate
        })
    }

    fn start_piece(&mut self, read: usize, piece: usize) {
        let Some(state) = self.reads.get(read) else { return };
        let volume = state.volume;
        let (range, _, local_failed, remote_failed) = state.pieces[piece].clone();
        if !local_failed && self.may_read_locally(volume, range) {
            self.reads[read].pieces[piece].1 = Piece::Local;
            self.volumes[volume].counters.sectors_read += range.sectors;
            let operation = DiskOperation::Read { area: Area::Data, offset: range.start.byte(), bytes: range.bytes() };
            return self.disk_operation(volume, Pending::LocalRead(key(read, piece)), operation);
        }
        if let Some(peer) = self.good_peer(volume).filter(|_| !remote_failed) {
            self.note_asked(read, piece, peer);
            let block_id = BlockId::from_u64(key(read, piece) as u64);
            let request = BlockRequest { sector: range.start, block_id, bytes: range.bytes() as u32 };
            return self.send(peer, Stream::Data, volume, &Packet::DataRequest(request));
        }
        self.reads[read].pieces[piece].1 = Piece::Waiting;
        if self.suspended_no_data {
            self.volumes[volume].frozen.push(Frozen::Read(key(read, piece)));
            return;
        }
        let error = if local_failed || remote_failed { RequestError::Disk } else { RequestError::NoData };
        self.end_piece(read, piece, Err(error));
    }

    /// Notes when the peer was asked, for `ko-count`.
    fn note_asked(&mut self, read: usize, piece: usize, peer: usize) {
        let since = self.now;
        self.reads[read].pieces[piece].1 = Piece::Remote { peer, since };
        if let Some(link) = self.peers[peer].link_mut() {
            link.reads_asked.insert((since, key(read, piece)));
        }
    }

    /// The peer has answered, or never will.
    fn forget_asked(&mut self, read: usize, piece: usize) {
        if let Piece::Remote { peer, since } = self.reads[read].pieces[piece].1
            && let Some(link) = self.peers[peer].link_mut()
        {
            link.reads_asked.remove(&(since, key(read, piece)));
        }
    }

    /// It waited for data: every copy that can be reached now is asked anew.
    pub(super) fn restart_read(&mut self, key: usize) {
        let (read, piece) = (key >> 12, key & 0xfff);
        if self.suspended_no_data {
            let volume = self.reads[read].volume;
            self.volumes[volume].frozen.push(Frozen::Read(key));
            return;
        }
        let (_, _, local_failed, remote_failed) = &mut self.reads[read].pieces[piece];
        (*local_failed, *remote_failed) = (false, false);
        self.start_piece(read, piece);
    }

    pub(super) fn on_local_read(&mut self, key: usize, result: Result<Bytes, DiskError>) {
        let (read, piece) = (key >> 12, key & 0xfff);
        match result {
            Ok(bytes) => self.end_piece(read, piece, Ok(bytes)),
            Err(error) => {
                let (volume, range) = (self.reads[read].volume, self.reads[read].pieces[piece].0);
                self.reads[read].pieces[piece].2 = true;
                self.mark_out_of_sync(volume, range);
                self.on_data_error(volume, &error, false);
                self.start_piece(read, piece);
            }
        }
    }

    fn remote_piece(&self, peer: usize, block_id: BlockId, sector: Sector) -> Option<(usize, usize)> {
        let key = usize::try_from(block_id.to_u64()).ok()?;
        let (read, piece) = (key >> 12, key & 0xfff);
        let state = self.reads.get(read)?.pieces.get(piece)?;
        (state.1.is_asked_of(peer) && state.0.start == sector).then_some((read, piece))
    }

    pub(super) fn on_data_reply(&mut self, volume: usize, peer: usize, reply: ReadReply) {
        let Some((read, piece)) = self.remote_piece(peer, reply.block_id, reply.sector) else {
            let reason = format!("an answer to a read of {} that was not asked", reply.sector);
            return self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
        };
        let range = self.reads[read].pieces[piece].0;
        if range.bytes() != reply.payload.len() as u64 || !self.digest_is_right(peer, &reply.digest, &reply.payload) {
            let reason = format!("Digest integrity check FAILED: {} +{}", reply.sector, reply.payload.len());
            return self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
        }
        self.peers[peer].volumes[volume].sectors_received += range.sectors;
        self.forget_asked(read, piece);
        self.end_piece(read, piece, Ok(reply.payload));
    }

    pub(super) fn on_data_refused(&mut self, _volume: usize, peer: usize, ack: &BlockAck) {
        if let Some((read, piece)) = self.remote_piece(peer, ack.block_id, ack.sector) {
            self.forget_asked(read, piece);
            self.reads[read].pieces[piece].3 = true;
            self.start_piece(read, piece);
        }
    }

    /// The connection is gone: what was asked there is tried here.
    pub(super) fn give_up_remote_reads(&mut self, peer: usize) {
        let lost: Vec<(usize, usize)> = self
            .reads
            .iter()
            .flat_map(|(read, state)| {
                let remote = move |(_, piece): &(usize, &(SectorRange, Piece, bool, bool))| piece.1.is_asked_of(peer);
                state.pieces.iter().enumerate().filter(remote).map(move |(piece, _)| (read, piece))
            })
            .collect();
        for (read, piece) in lost {
            self.forget_asked(read, piece);
            self.start_piece(read, piece);
        }
    }

    fn end_piece(&mut self, read: usize, piece: usize, result: Result<Bytes, RequestError>) {
        let state = &mut self.reads[read];
        match result {
            Ok(bytes) => state.pieces[piece].1 = Piece::Done(bytes),
            Err(error) => {
                state.pieces[piece].1 = Piece::Done(Bytes::new());
                state.failed = Some(error);
            }
        }
        state.left -= 1;
        if state.left > 0 {
            return;
        }
        let state = self.reads.remove(read);
        let bytes = state.pieces.into_iter().map(|(_, piece, _, _)| match piece {
            Piece::Done(bytes) => bytes,
            Piece::Waiting | Piece::Local | Piece::Remote { .. } => unreachable!("all pieces have ended"),
        });
        let result = state.failed.map_or_else(|| Ok(bytes.collect()), Err);
        self.reply(state.id, result);
    }
}

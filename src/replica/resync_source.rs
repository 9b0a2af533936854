//! The source's end of a resync: the id of the resync, reads for the target, its acknowledgements.
//!
//! A served range is held from before it is read until the target has confirmed it, so that no write of an application can
//! slip between the read and the target's write.

use bytes::Bytes;

use super::action::{Area, DiskOperation};
use super::conflicts::{Held, Kind};
use super::event::DiskError;
use super::handler::Handler;
use super::metadata_writer::Then;
use super::resync::{Resync, Side};
use super::state::View;
use super::volume::{Owner, Pending};
use super::{Resource, mutant};
use crate::generation;
use crate::model::state::{ConnectionState, DiskState};
use crate::model::units::{BLOCK_SECTORS, SectorRange};
use crate::wire::auth;
use crate::wire::framing::Stream;
use crate::wire::packet::{BlockAck, BlockId, BlockRequest, Packet, REQUEST_BYTES_MAX, ReadReply};

/// A read for the target.
#[derive(Debug)]
pub(super) struct SourceRead {
    volume: usize,
    peer: usize,
    range: SectorRange,
    block_id: BlockId,
    /// Of what the target has (checksum-based resync).
    digest: Option<Bytes>,
    /// "All zero" is a good answer.
    thin: bool,
    held: Option<Held>,
    reading: bool,
    /// The connection it came from is gone.
    abandoned: bool,
}

impl Resource {
    /// Bitmaps are merged and written (or all bits are set): name the resync, durably, then begin.
    pub(super) fn begin_source(&mut self, volume: usize, peer: usize) {
        let conn = self.view(volume, peer).conn;
        if !matches!(conn, ConnectionState::WfBitMapS | ConnectionState::StartingSyncS) {
            return;
        }
        if !self.may_begin_resync(volume, peer, Handler::BeforeResyncSource) {
            return;
        }
        let (rules, index) = (self.history_rules(volume), self.generation_index(volume, peer));
        let target = self.peer_tuple(volume, peer).map(|tuple| tuple.current).unwrap_or_default();
        let Some(disk) = self.volumes[volume].disk.as_mut() else { return };
        let generations = &mut disk.superblock.generations;
        let known = target.is_none() || target.is_just_created() || target.same_as(generations.current);
        let equal = generations.bitmap[index].is_none() && known;
        generation::resync_started_source(generations, index, target, rules);
        self.peers[peer].volumes[volume].unheard_equal_start = equal;
        self.after_superblock(volume, Then::SourceReady(peer));
    }

    /// The resync's id is durable: from here on writes are mirrored again, and the target may ask.
    pub(super) fn source_is_ready(&mut self, volume: usize, peer: usize) {
        let view = self.view(volume, peer);
        if !matches!(view.conn, ConnectionState::WfBitMapS | ConnectionState::StartingSyncS) {
            return;
        }
        if self.peers[peer].volumes[volume].gave_up_resync {
            // Acknowledgements of the former resync must not be taken for those of this one.
            let ping = self.numbered_ping(peer);
            let at = &mut self.peers[peer].volumes[volume];
            (at.gave_up_resync, at.start_after_ping) = (false, Some(ping));
            return;
        }
        if self.peers[peer].volumes[volume].start_after_ping.take().is_some_and(|ping| !self.is_answered(peer, ping)) {
            return;
        }
        let number = self.next_resync();
        let index = self.generation_index(volume, peer);
        let Some(disk) = self.volumes[volume].disk.as_ref() else { return };
        let id = disk.superblock.generations.bitmap[index];
        let total = self.bits_left(volume, peer);
        self.peers[peer].volumes[volume].resync = Some(Resync::new(number, self.now, total, Side::Source));
        self.change_fact(volume, peer, View { conn: ConnectionState::SyncSource, ..view });
        self.send_sync_uuid(volume, peer, id);
        if total == 0 && self.version(peer) < 95 {
            self.end_resync(volume, peer, true);
        }
    }

    /// The target asks for a range.
    pub(super) fn on_resync_request(
        &mut self,
        volume: usize,
        peer: usize,
        request: BlockRequest,
        digest: Option<Bytes>,
        thin: bool,
    ) {
        let range = SectorRange::from_bytes(request.sector, u64::from(request.bytes));
        if range.end().0 > self.volumes[volume].device_sectors || request.bytes > REQUEST_BYTES_MAX {
            let reason = format!("a resync request for {range}, beyond the device or above 1 MiB");
            return self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
        }
        if !self.is_source(volume, peer) {
            // It was sent before the target gave up; an answer would be held until an acknowledgement that never comes.
            return;
        }
        // It has taken the resync's id, durably: nothing else is its current generation now.
        self.peers[peer].volumes[volume].unheard_equal_start = false;
        self.peers[peer].volumes[volume].target_may_be_done = false;
        if self.volumes[volume].disk_state != DiskState::UpToDate {
            return self.refuse_source_read(volume, peer, range, request.block_id);
        }
        let read = SourceRead {
            volume,
            peer,
            range,
            block_id: request.block_id,
            digest,
            thin,
            held: None,
            reading: false,
            abandoned: false,
        };
        let read = self.resync_reads.insert(read);
        self.peers[peer].serving_bytes += range.bytes();
        if mutant(14) {
            return self.start_source_read(read);
        }
        let (held, now) = self.volumes[volume].conflicts.hold(range, Kind::ResyncRead, Owner::ResyncRead(read));
        self.resync_reads[read].held = Some(held);
        if now {
            self.start_source_read(read);
        }
    }

    fn refuse_source_read(&mut self, volume: usize, peer: usize, range: SectorRange, block_id: BlockId) {
        let ack = self.block_ack(volume, peer, range, block_id);
        self.send(peer, Stream::Meta, volume, &Packet::NegResyncDataReply(ack));
    }

    pub(super) fn start_source_read(&mut self, read: usize) {
        let state = &mut self.resync_reads[read];
        state.reading = true;
        let (volume, range) = (state.volume, state.range);
        if !self.volumes[volume].has_disk() {
            let error = DiskError { operation: "read", offset: 0, bytes: 0, reason: "the disk is gone".into() };
            return self.on_source_read(read, Err(error));
        }
        self.volumes[volume].counters.sectors_read += range.sectors;
        let operation = DiskOperation::Read { area: Area::Data, offset: range.start.byte(), bytes: range.bytes() };
        self.disk_operation(volume, Pending::SourceRead(read), operation);
    }

    pub(super) fn on_source_read(&mut self, read: usize, result: Result<Bytes, DiskError>) {
        self.resync_reads[read].reading = false;
        let (volume, peer, range) = {
            let state = &self.resync_reads[read];
            (state.volume, state.peer, state.range)
        };
        if self.resync_reads[read].abandoned {
            return self.forget_source_read(read);
        }
        match result {
            Ok(payload) => self.answer_source_read(read, payload),
            Err(error) => {
                let block_id = self.resync_reads[read].block_id;
                if let Some(resync) = self.peers[peer].volumes[volume].resync.as_mut() {
                    resync.failed += range.sectors.div_ceil(BLOCK_SECTORS);
                }
                self.refuse_source_read(volume, peer, range, block_id);
                self.forget_source_read(read);
                self.on_data_error(volume, &error, false);
            }
        }
    }

    fn answer_source_read(&mut self, read: usize, payload: Bytes) {
        let SourceRead { volume, peer, range, block_id, thin, .. } = self.resync_reads[read];
        let digest = self.resync_reads[read].digest.take();
        let algorithm = self.peers[peer].settings.csums;
        if let (Some(theirs), Some(algorithm)) = (digest, algorithm)
            && auth::digest(algorithm, &payload) == theirs
        {
            self.clear_bits(volume, peer, range);
            self.note_same(volume, peer, range);
            let ack = self.block_ack(volume, peer, range, block_id);
            self.send(peer, Stream::Meta, volume, &Packet::ResyncIsInSync(ack));
            return self.forget_source_read(read);
        }
        self.peers[peer].volumes[volume].sectors_sent += range.sectors;
        if thin && payload.iter().all(|byte| *byte == 0) {
            let packet = Packet::ResyncDeallocated { sector: range.start, bytes: range.bytes() as u32 };
            self.send(peer, Stream::Data, volume, &packet);
        } else {
            let digest = self.integrity_digest(peer, &payload);
            let reply = ReadReply { sector: range.start, block_id, digest, payload };
            self.send(peer, Stream::Data, volume, &Packet::ResyncDataReply(reply));
        }
        if mutant(4) {
            self.clear_bits(volume, peer, range);
        }
        if let Some(old) = self.peers[peer].volumes[volume].serving.insert(range.start.0, read) {
            self.forget_source_read(old);
        }
    }

    /// Whether a resync from here runs, or is paused: what was asked before still arrives.
    fn is_source(&self, volume: usize, peer: usize) -> bool {
        matches!(self.view(volume, peer).conn, ConnectionState::SyncSource | ConnectionState::PausedSyncS)
    }

    /// The target has written a range (or could not).
    pub(super) fn on_resync_ack(&mut self, volume: usize, peer: usize, ack: &BlockAck, good: bool) {
        if !self.is_source(volume, peer) {
            // A late word of a resync that is over; the bits stay.
            return;
        }
        let Some(read) = self.peers[peer].volumes[volume].serving.remove(&ack.sector.0) else {
            let reason = format!("an acknowledgement of a resync block at {} that was not sent", ack.sector);
            return self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
        };
        let range = self.resync_reads[read].range;
        if range.bytes() != u64::from(ack.bytes) {
            let reason = format!("{} bytes acknowledged of {range}", ack.bytes);
            return self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
        }
        if good {
            self.clear_bits(volume, peer, range);
        } else if let Some(resync) = self.peers[peer].volumes[volume].resync.as_mut() {
            resync.failed += range.sectors.div_ceil(BLOCK_SECTORS);
        }
        self.forget_source_read(read);
        self.rejudge_end_of_source(volume, peer);
        let failed = self.peers[peer].volumes[volume].resync.as_ref().map_or(0, |resync| resync.failed);
        let source = self.view(volume, peer).conn == ConnectionState::SyncSource;
        if source && self.version(peer) < 95 && self.bits_left(volume, peer) <= failed {
            self.end_resync(volume, peer, failed == 0);
        }
    }

    pub(super) fn source_read_volume(&self, read: usize) -> usize {
        self.resync_reads[read].volume
    }

    /// A range needed no transfer.
    pub(super) fn note_same(&mut self, volume: usize, peer: usize, range: SectorRange) {
        if let Some(resync) = self.peers[peer].volumes[volume].resync.as_mut() {
            resync.same += range.sectors.div_ceil(BLOCK_SECTORS);
        }
    }

    /// Ranges and sectors that the target has been sent and has not confirmed.
    pub(super) fn served(&self, volume: usize, peer: usize) -> (u64, u64) {
        let serving = &self.peers[peer].volumes[volume].serving;
        let sectors = serving.values().map(|read| self.resync_reads[*read].range.sectors).sum();
        (serving.len() as u64, sectors)
    }

    /// Ranges that the target has asked for and not been sent.
    pub(super) fn unserved(&self, volume: usize, peer: usize) -> u64 {
        let is_ours = |read: &SourceRead| read.volume == volume && read.peer == peer && !read.abandoned;
        let reads = self.resync_reads.iter().filter(|(_, read)| is_ours(read)).count() as u64;
        let wishes = self.peers[peer].wishes.iter().filter(|(of, wish)| *of == volume && wish.is_for_resync());
        reads.saturating_sub(self.served(volume, peer).0) + wishes.count() as u64
    }

    fn forget_source_read(&mut self, read: usize) {
        let state = self.resync_reads.remove(read);
        if let Some(held) = state.held {
            self.release_interval(state.volume, held);
        }
        if !state.abandoned {
            self.peers[state.peer].count_served(state.range.bytes());
        }
    }

    /// Nobody waits for what is being read, or is about to be.
    fn abandon_source_read(&mut self, read: usize) {
        let state = &mut self.resync_reads[read];
        state.abandoned = true;
        let (peer, bytes) = (state.peer, state.range.bytes());
        self.peers[peer].count_served(bytes);
    }

    /// The connection or the disk is gone: nobody waits for these reads.
    pub(super) fn give_up_source_reads(&mut self, volume: usize, peer: usize) {
        self.peers[peer].volumes[volume].serving.clear();
        self.peers[peer].wishes.retain(|(of, wish)| *of != volume || !wish.is_for_resync());
        let mine: Vec<usize> = self
            .resync_reads
            .iter()
            .filter(|(_, read)| read.volume == volume && read.peer == peer && !read.abandoned)
            .map(|(key, _)| key)
            .collect();
        for read in mine {
            let waiting =
                self.resync_reads[read].held.is_some_and(|held| !self.volumes[volume].conflicts.is_running(held));
            if self.resync_reads[read].reading {
                self.abandon_source_read(read);
            } else if waiting || !self.is_ready_to_run(volume, Owner::ResyncRead(read)) {
                self.forget_source_read(read);
            } else {
                self.abandon_source_read(read);
            }
        }
    }

    /// Whether an owner is in the queue of those that may run.
    pub(super) fn is_ready_to_run(&self, volume: usize, owner: Owner) -> bool {
        self.ready.contains(&(volume, owner))
    }

    pub(super) fn block_ack(&mut self, volume: usize, peer: usize, range: SectorRange, block_id: BlockId) -> BlockAck {
        let at = &mut self.peers[peer].volumes[volume];
        at.sequence = at.sequence.wrapping_add(1);
        BlockAck { sector: range.start, block_id, bytes: range.bytes() as u32, sequence: at.sequence }
    }

    /// The digest that our data carries on this connection.
    pub(super) fn integrity_digest(&self, peer: usize, payload: &Bytes) -> Bytes {
        let version = self.version(peer);
        match self.peers[peer].settings.integrity {
            Some(algorithm) if version >= 87 => auth::digest(algorithm, payload),
            _ => Bytes::new(),
        }
    }
}

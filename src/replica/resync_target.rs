//! The target's end of a resync: it asks, writes, makes durable, acknowledges.
//!
//! Nothing foreign is written before the superblock says Inconsistent and names the resync. Written ranges are collected and
//! flushed together; only then are their bits cleared and the source told.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::action::{Area, DiskOperation, LogLevel};
use super::conflicts::{Held, Kind};
use super::event::DiskError;
use super::handler::Handler;
use super::metadata_writer::Then;
use super::rate::{Controller, TICK};
use super::request::Content;
use super::resync::{Asked, Resync, Side, Target, Written};
use super::state::View;
use super::volume::{Owner, Pending};
use super::{Resource, mutant};
use crate::generation;
use crate::metadata::flags::PeerFlags;
use crate::model::generation_id::GenerationId;
use crate::model::state::{ConnectionState, DiskState};
use crate::model::time::Instant;
use crate::model::units::{BLOCK_SECTORS, SectorRange};
use crate::wire::auth;
use crate::wire::framing::Stream;
use crate::wire::packet::{BlockId, BlockRequest, Packet, ReadReply};

/// Largest resync request: what a kernel source reads in one piece.
const ASK_SECTORS_MAX: u64 = 256;
/// Application sectors in a tick above which the resync stays at its minimum rate.
const BUSY_SECTORS: u64 = 64;

/// A write of the resync.
#[derive(Debug)]
pub(super) struct TargetWrite {
    volume: usize,
    peer: usize,
    range: SectorRange,
    content: Content,
    held: Option<Held>,
    writing: bool,
    abandoned: bool,
}

impl Resource {
    /// P_SYNC_UUID has come: write the union of bits, then take the resync's generation.
    pub(super) fn on_sync_uuid(&mut self, volume: usize, peer: usize, id: GenerationId) {
        self.overtake_answer(volume, peer);
        let conn = self.view(volume, peer).conn;
        if !matches!(conn, ConnectionState::WfSyncUuid | ConnectionState::Behind) {
            if self.peers[peer].volumes[volume].gave_up_resync || !self.volumes[volume].has_disk() {
                // It was on its way when our disk went.
                return;
            }
            let reason = format!("a resync begins in state {conn}");
            return self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
        }
        let Some(disk) = self.volumes[volume].disk.as_mut() else { return };
        disk.after_pages(Then::TargetPages(peer));
        self.peers[peer].volumes[volume].sync_id = id;
        if !mutant(12) {
            self.hold_peer_writes(volume, peer);
        }
    }

    pub(super) fn begin_target(&mut self, volume: usize, peer: usize) {
        let view = self.view(volume, peer);
        if !matches!(view.conn, ConnectionState::WfSyncUuid | ConnectionState::Behind) {
            return;
        }
        if !self.may_begin_resync(volume, peer, Handler::BeforeResyncTarget) {
            return;
        }
        let (rules, index) = (self.history_rules(volume), self.generation_index(volume, peer));
        let id = self.peers[peer].volumes[volume].sync_id;
        let total = self.bits_left(volume, peer);
        let settings = self.resync_settings(volume, peer);
        let target = Target {
            controller: Controller::new(settings),
            cursor: 0,
            asked: BTreeMap::new(),
            asked_sectors: 0,
            tick_at: None,
            written: Vec::new(),
            flushing: Vec::new(),
            allowance: 0,
            ending: None,
            begins_after: None,
        };
        self.give_up_target(volume, peer);
        let number = self.next_resync();
        let source = self.peer_tuple(volume, peer);
        let Some(disk) = self.volumes[volume].disk.as_mut() else { return };
        let generations = &mut disk.superblock.generations;
        if let (Some(mut source), Some(uuids)) = (source, self.peers[peer].volumes[volume].uuids.as_mut()) {
            generation::follow_source_start(&mut source, generations.current, id);
            (uuids.bitmap, uuids.history) = (source.bitmap, source.history);
        }
        generation::resync_started_target(generations, index, id, rules);
        // The pages are out: the bits speak for themselves.
        disk.superblock.set_peer_flag(index, PeerFlags::FULL_SYNC, false);
        self.peers[peer].volumes[volume].resync =
            Some(Resync::new(number, self.now, total, Side::Target(Box::new(target))));
        // Inconsistent even if it is paused: the source's applications write here from now on.
        self.change_fact(
            volume,
            peer,
            View { conn: ConnectionState::SyncTarget, disk: DiskState::Inconsistent, ..view },
        );
        let version = self.superblock_changed(volume);
        self.volumes[volume].peer_write_gate = version.filter(|_| !mutant(12));
        self.volumes[volume].after_superblock(Then::TargetReady(peer));
        self.log(LogLevel::Info, format!("began resync as target (will sync {} KiB [{total} bits set])", total * 4));
    }

    /// The superblock is durable: ask.
    pub(super) fn target_is_ready(&mut self, volume: usize, peer: usize) {
        let ping = self.peers[peer].volumes[volume].gave_up_resync.then(|| self.numbered_ping(peer));
        let now = self.now;
        if let Some(target) = self.peers[peer].volumes[volume].resync.as_mut().and_then(Resync::target) {
            target.begins_after = ping;
            target.tick_at = ping.is_none().then_some(now);
        }
        self.on_resync_tick(volume, peer);
    }

    pub(super) fn resync_deadline(&self, volume: usize, peer: usize) -> Option<Instant> {
        match &self.peers[peer].volumes[volume].resync.as_ref()?.side {
            Side::Target(target) => target.tick_at,
            Side::Source => None,
        }
    }

    /// A tenth of a second has passed: ask for as much as the controller says.
    pub(super) fn on_resync_tick(&mut self, volume: usize, peer: usize) {
        let now = self.now;
        let running = self.view(volume, peer).conn == ConnectionState::SyncTarget;
        let most = u64::from(self.peers[peer].settings.buffers_max) * BLOCK_SECTORS / 2;
        let busy = self.is_busy_with_applications(volume, peer);
        let Some(target) = self.peers[peer].volumes[volume].resync.as_mut().and_then(Resync::target) else { return };
        if target.tick_at.is_none_or(|at| at > now) {
            return;
        }
        target.tick_at = running.then_some(now + TICK);
        if !running {
            return;
        }
        let budget = target.controller.budget_sectors();
        let budget = if busy { budget.min(BLOCK_SECTORS) } else { budget };
        let ceiling = target.controller.ceiling_sectors();
        target.allowance = if busy { 0 } else { ceiling.saturating_sub(budget) };
        self.ask(volume, peer, budget.max(BLOCK_SECTORS), most);
        self.try_finish_target(volume, peer);
    }

    /// Whether applications write so much that the resync must stay at its minimum rate, and it is above it.
    fn is_busy_with_applications(&mut self, volume: usize, peer: usize) -> bool {
        let left = self.bits_left(volume, peer);
        let mark = self.peers[peer].volumes[volume].resync.as_ref().map(|resync| resync.marks.recent());
        mark.is_some_and(|mark| self.must_spare_applications(volume, peer, mark, left))
    }

    /// The same of anything that reads or writes beside the applications; asked once a tick. `left` blocks are left, and as
    /// many as `mark` says were left then.
    pub(super) fn must_spare_applications(
        &mut self,
        volume: usize,
        peer: usize,
        mark: (Instant, u64),
        left: u64,
    ) -> bool {
        let least = u64::from(self.volumes[volume].settings.resync.min_rate_kib);
        let sectors = std::mem::take(&mut self.peers[peer].volumes[volume].application_sectors);
        let (since, before) = mark;
        let millis = self.now.since(since).as_millis().max(1) as u64;
        let rate_kib = before.saturating_sub(left) * 4 * 1000 / millis;
        least > 0 && sectors > BUSY_SECTORS && rate_kib > least
    }

    fn ask(&mut self, volume: usize, peer: usize, mut budget: u64, most: u64) {
        let limit = (u64::from(self.peers[peer].volumes[volume].max_request_bytes) / 512).min(ASK_SECTORS_MAX);
        loop {
            let Some(target) = self.peers[peer].volumes[volume].resync.as_mut().and_then(Resync::target) else {
                return;
            };
            let (cursor, outstanding) = (target.cursor, target.asked_sectors);
            if budget == 0 || outstanding >= most {
                return;
            }
            let Some(range) = self.next_range(volume, peer, cursor, limit.min(budget.next_multiple_of(BLOCK_SECTORS)))
            else {
                let target = self.target(volume, peer);
                target.cursor = u64::MAX / 2;
                return;
            };
            budget = budget.saturating_sub(range.sectors);
            let target = self.target(volume, peer);
            target.cursor = range.end().0.div_ceil(BLOCK_SECTORS);
            let is_asked = |asked: &Asked| asked.range.overlaps(range);
            if target.asked.range(..range.end().0).next_back().is_some_and(|(_, asked)| is_asked(asked)) {
                // A refusal has moved the cursor back over what is still on its way.
                continue;
            }
            self.ask_range(volume, peer, range);
        }
    }

    fn target(&mut self, volume: usize, peer: usize) -> &mut Target {
        self.peers[peer].volumes[volume].resync.as_mut().and_then(Resync::target).expect("asked while it runs")
    }

    fn ask_range(&mut self, volume: usize, peer: usize, range: SectorRange) {
        let owner = Owner::ResyncPending(range.start.0);
        let (held, now) = self.volumes[volume].conflicts.hold(range, Kind::ResyncPending, owner);
        let target = self.target(volume, peer);
        target.asked.insert(range.start.0, Asked { range, held, sent: false });
        target.asked_sectors += range.sectors;
        target.controller.requested(range.sectors);
        if now {
            self.send_resync_request(volume, range.start.0);
        }
    }

    /// No write of our own is in the way: ask, with our checksum where that is configured.
    pub(super) fn send_resync_request(&mut self, volume: usize, first: u64) {
        for peer in 0..self.peers.len() {
            let csums = self.peers[peer].settings.csums.filter(|_| self.version(peer) >= 89);
            let Some(target) = self.peers[peer].volumes[volume].resync.as_mut().and_then(Resync::target) else {
                continue;
            };
            let Some(asked) = target.asked.get_mut(&first) else { continue };
            asked.sent = true;
            let range = asked.range;
            let number = self.peers[peer].volumes[volume].resync.as_ref().map_or(0, |resync| resync.number);
            if csums.is_some() {
                let operation =
                    DiskOperation::Read { area: Area::Data, offset: range.start.byte(), bytes: range.bytes() };
                self.volumes[volume].counters.sectors_read += range.sectors;
                self.disk_operation(volume, Pending::TargetChecksum(volume, number, first), operation);
            } else {
                let packet = Packet::ResyncDataRequest(request_for(range));
                self.send(peer, Stream::Data, volume, &packet);
            }
        }
    }

    pub(super) fn on_target_checksum(
        &mut self,
        volume: usize,
        number: u64,
        first: u64,
        result: Result<Bytes, DiskError>,
    ) {
        for peer in 0..self.peers.len() {
            let csums = self.peers[peer].settings.csums;
            if self.peers[peer].volumes[volume].resync.as_ref().is_none_or(|resync| resync.number != number) {
                continue;
            }
            let Some(target) = self.peers[peer].volumes[volume].resync.as_mut().and_then(Resync::target) else {
                continue;
            };
            let Some(range) = target.asked.get(&first).map(|asked| asked.range) else { continue };
            let packet = match (&result, csums) {
                (Ok(own), Some(algorithm)) => {
                    Packet::ChecksumResyncRequest { request: request_for(range), digest: auth::digest(algorithm, own) }
                }
                _ => Packet::ResyncDataRequest(request_for(range)),
            };
            self.send(peer, Stream::Data, volume, &packet);
        }
        if let Err(error) = result {
            self.on_data_error(volume, &error, false);
        }
    }

    /// Something has arrived: keep as much on its way as `c-fill-target` says, within the ceiling of this tick. A tick alone
    /// would leave the link idle for most of a tenth of a second.
    fn top_up(&mut self, volume: usize, peer: usize) {
        let most = u64::from(self.peers[peer].settings.buffers_max) * BLOCK_SECTORS / 2;
        let running = self.view(volume, peer).conn == ConnectionState::SyncTarget;
        let Some(target) = self.peers[peer].volumes[volume].resync.as_mut().and_then(Resync::target) else { return };
        let room = target.controller.fill_sectors().saturating_sub(target.asked_sectors);
        let budget = room.min(target.allowance);
        if !running || target.tick_at.is_none() || budget < BLOCK_SECTORS || target.unflushed_sectors() >= most {
            return;
        }
        target.allowance -= budget;
        self.ask(volume, peer, budget, most);
    }

    /// Takes a range out of those asked for. Its interval stays held.
    fn answered(&mut self, volume: usize, peer: usize, sector: u64, bytes: u64) -> Option<Asked> {
        let target = self.peers[peer].volumes[volume].resync.as_mut().and_then(Resync::target)?;
        let asked = *target.asked.get(&sector).filter(|asked| asked.sent && asked.range.bytes() == bytes)?;
        target.asked.remove(&sector);
        target.asked_sectors -= asked.range.sectors;
        target.controller.arrived(asked.range.sectors);
        Some(asked)
    }

    /// The answer is nothing to write.
    fn answered_without_data(&mut self, volume: usize, peer: usize, sector: u64, bytes: u64) -> Option<SectorRange> {
        let asked = self.answered(volume, peer, sector, bytes)?;
        self.release_interval(volume, asked.held);
        Some(asked.range)
    }

    fn unasked(&mut self, volume: usize, peer: usize, what: &str, sector: u64) {
        let at = &self.peers[peer].volumes[volume];
        if at.gave_up_resync || at.resync.is_none() {
            // Of a resync that was given up: its late answers are harmless.
            return;
        }
        let reason = format!("{what} for sector {sector} that was not asked for");
        self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
    }

    /// Blocks of the source.
    pub(super) fn on_resync_data(&mut self, volume: usize, peer: usize, reply: ReadReply) {
        if !self.digest_is_right(peer, &reply.digest, &reply.payload) {
            let reason = format!("Digest integrity check FAILED: {} +{}", reply.sector, reply.payload.len());
            return self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
        }
        match self.answered(volume, peer, reply.sector.0, reply.payload.len() as u64) {
            Some(asked) => {
                self.write_resync(volume, peer, asked, Content::Data(reply.payload));
                self.top_up(volume, peer);
            }
            None => self.unasked(volume, peer, "resync data", reply.sector.0),
        }
    }

    /// The source's range is all zero.
    pub(super) fn on_resync_deallocated(&mut self, volume: usize, peer: usize, sector: u64, bytes: u32) {
        match self.answered(volume, peer, sector, u64::from(bytes)) {
            Some(asked) => {
                self.write_resync(volume, peer, asked, Content::Zeroes { unmap: true });
                self.top_up(volume, peer);
            }
            None => self.unasked(volume, peer, "a deallocated range", sector),
        }
    }

    /// Both have the same: nothing to write, but it may have come with a resync whose writes were never flushed.
    pub(super) fn on_resync_in_sync(&mut self, volume: usize, peer: usize, sector: u64, bytes: u32) {
        match self.answered_without_data(volume, peer, sector, u64::from(bytes)) {
            Some(range) => {
                self.note_same(volume, peer, range);
                self.keep_written(volume, peer, Written { range, was_equal: true });
                self.top_up(volume, peer);
            }
            None => self.unasked(volume, peer, "an equal checksum", sector),
        }
    }

    /// The source could not read, or will not now.
    pub(super) fn on_resync_refused(&mut self, volume: usize, peer: usize, sector: u64, bytes: u32, later: bool) {
        let Some(range) = self.answered_without_data(volume, peer, sector, u64::from(bytes)) else {
            return self.unasked(volume, peer, "a refusal", sector);
        };
        if let Some(resync) = self.peers[peer].volumes[volume].resync.as_mut() {
            if later {
                let again = range.start.block().0;
                if let Some(target) = resync.target() {
                    target.cursor = target.cursor.min(again);
                }
            } else {
                resync.failed += range.sectors.div_ceil(BLOCK_SECTORS);
            }
        }
        self.try_finish_target(volume, peer);
    }

    /// Our own writes that waited for the answer wait on until it is written: it is older than they are.
    fn write_resync(&mut self, volume: usize, peer: usize, asked: Asked, content: Content) {
        let Asked { range, held, .. } = asked;
        let write = TargetWrite { volume, peer, range, content, held: Some(held), writing: false, abandoned: false };
        self.peers[peer].volumes[volume].sectors_received += range.sectors;
        let write = self.resync_writes.insert(write);
        if self.volumes[volume].conflicts.turn(held, Owner::ResyncWrite(write)) {
            self.start_resync_write(write);
        }
    }

    pub(super) fn start_resync_write(&mut self, write: usize) {
        let state = &mut self.resync_writes[write];
        let (volume, range) = (state.volume, state.range);
        if state.abandoned || !self.volumes[volume].has_disk() {
            return self.forget_resync_write(write);
        }
        state.writing = true;
        let offset = range.start.byte();
        let operation = match &state.content {
            Content::Data(payload) => {
                DiskOperation::Write { area: Area::Data, offset, payload: payload.clone(), preflush: false, fua: false }
            }
            Content::Zeroes { unmap } => {
                DiskOperation::Zero { area: Area::Data, offset, bytes: range.bytes(), unmap: *unmap, fua: false }
            }
        };
        self.volumes[volume].counters.sectors_written += range.sectors;
        self.disk_operation(volume, Pending::TargetWrite(write), operation);
    }

    pub(super) fn on_target_written(&mut self, write: usize, result: Result<(), DiskError>) {
        let TargetWrite { volume, peer, range, abandoned, .. } = self.resync_writes[write];
        self.forget_resync_write(write);
        match result {
            Ok(()) if !abandoned => self.keep_written(volume, peer, Written { range, was_equal: false }),
            Ok(()) => {}
            Err(error) => {
                if !abandoned {
                    self.fail_resync_range(volume, peer, Written { range, was_equal: false });
                }
                self.on_data_error(volume, &error, true);
            }
        }
    }

    /// Ranges received and not yet acknowledged.
    pub(super) fn unacknowledged_ranges(&self, volume: usize, peer: usize) -> u64 {
        let is_ours = |write: &TargetWrite| write.volume == volume && write.peer == peer && !write.abandoned;
        let writes = self.resync_writes.iter().filter(|(_, write)| is_ours(write)).count();
        let written = match self.peers[peer].volumes[volume].resync.as_ref().map(|resync| &resync.side) {
            Some(Side::Target(target)) => target.written.len() + target.flushing.len(),
            Some(Side::Source) | None => 0,
        };
        (writes + written) as u64
    }

    /// A range differs again before what a resync wrote there is durable: it must not be confirmed.
    pub(super) fn spoil_resync_writes(&mut self, volume: usize, range: SectorRange) {
        for peer in 0..self.peers.len() {
            let target = self.peers[peer].volumes[volume].resync.as_mut().and_then(Resync::target);
            let Some(target) = target.filter(|it| !(it.written.is_empty() && it.flushing.is_empty())) else { continue };
            let mut spoiled = Vec::new();
            for list in [&mut target.written, &mut target.flushing] {
                spoiled.extend(list.extract_if(.., |written| written.range.overlaps(range)));
            }
            spoiled.into_iter().for_each(|written| self.fail_resync_range(volume, peer, written));
        }
    }

    /// A range stays different; the source is told, if it waits to hear of it.
    fn fail_resync_range(&mut self, volume: usize, peer: usize, Written { range, was_equal }: Written) {
        if let Some(resync) = self.peers[peer].volumes[volume].resync.as_mut() {
            resync.failed += range.sectors.div_ceil(BLOCK_SECTORS);
        }
        if was_equal {
            return;
        }
        let ack = self.block_ack(volume, peer, range, BlockId::RESYNC);
        self.send(peer, Stream::Meta, volume, &Packet::NegAck(ack));
    }

    pub(super) fn target_write_volume(&self, write: usize) -> usize {
        self.resync_writes[write].volume
    }

    fn forget_resync_write(&mut self, write: usize) {
        let state = self.resync_writes.remove(write);
        if let Some(held) = state.held {
            self.release_interval(state.volume, held);
        }
    }

    fn keep_written(&mut self, volume: usize, peer: usize, written: Written) {
        if let Some(target) = self.peers[peer].volumes[volume].resync.as_mut().and_then(Resync::target) {
            target.written.push(written);
        }
        self.flush_written(volume, peer);
    }

    /// Makes what has been written durable, one flush at a time.
    fn flush_written(&mut self, volume: usize, peer: usize) {
        let Some(target) = self.peers[peer].volumes[volume].resync.as_mut().and_then(Resync::target) else { return };
        if target.written.is_empty() || !target.flushing.is_empty() {
            return;
        }
        target.flushing = std::mem::take(&mut target.written);
        let operation = DiskOperation::Flush { area: Area::Data };
        let number = self.peers[peer].volumes[volume].resync.as_ref().map_or(0, |resync| resync.number);
        self.disk_operation(volume, Pending::TargetFlush(volume, peer, number), operation);
    }

    pub(super) fn on_target_flushed(&mut self, volume: usize, peer: usize, number: u64, result: Result<(), DiskError>) {
        if let Err(error) = result {
            // What was written may be gone with the cache, mirrored writes too: nothing of it may be confirmed by a later
            // flush that succeeds. Where the disk stays, the resync begins anew.
            self.on_data_error(volume, &error, true);
            return self.lose_connection(peer, ConnectionState::NetworkFailure, "the disk could not be flushed");
        }
        if self.peers[peer].volumes[volume].resync.as_ref().is_none_or(|resync| resync.number != number) {
            return;
        }
        let Some(target) = self.peers[peer].volumes[volume].resync.as_mut().and_then(Resync::target) else { return };
        for Written { range, was_equal } in std::mem::take(&mut target.flushing) {
            self.clear_bits(volume, peer, range);
            if was_equal {
                continue;
            }
            let ack = self.block_ack(volume, peer, range, BlockId::RESYNC);
            self.send(peer, Stream::Meta, volume, &Packet::ResyncWriteAck(ack));
        }
        self.flush_written(volume, peer);
        self.top_up(volume, peer);
        self.try_finish_target(volume, peer);
    }

    /// Ends the resync when nothing is left: first a ping, so that every acknowledgement has been read.
    pub(super) fn try_finish_target(&mut self, volume: usize, peer: usize) {
        let running = self.view(volume, peer).conn == ConnectionState::SyncTarget;
        let left = self.bits_left(volume, peer);
        let writing = self.resync_writes.iter().any(|(_, write)| write.volume == volume && !write.abandoned);
        let Some(resync) = self.peers[peer].volumes[volume].resync.as_mut() else { return };
        let failed = resync.failed;
        let Some(target) = resync.target() else { return };
        let busy = !target.asked.is_empty() || !target.written.is_empty() || !target.flushing.is_empty() || writing;
        if !running || busy || target.ending.is_some() || target.tick_at.is_none() {
            return;
        }
        if left > failed {
            // Bits that were set behind the cursor, or a pass that was cut short.
            if target.cursor >= u64::MAX / 2 {
                target.cursor = 0;
            }
            return;
        }
        target.tick_at = None;
        let ping = self.numbered_ping(peer);
        self.target(volume, peer).ending = Some(ping);
    }

    /// A ping has come back: what was behind it has been read. A target that has nothing left is done, one that waited for
    /// the echoes of a former resync asks; a source hears no more acknowledgements, or begins.
    pub(super) fn on_ping_ack_for_resync(&mut self, peer: usize) {
        for volume in 0..self.volumes.len() {
            let answered = self.peers[peer].link().map_or(0, |link| link.pings_answered);
            let is_answered = |ping: Option<u64>| ping.is_some_and(|ping| ping <= answered);
            if is_answered(self.peers[peer].volumes[volume].start_after_ping) {
                self.source_is_ready(volume, peer);
            }
            let now = self.now;
            let target = self.peers[peer].volumes[volume].resync.as_mut().and_then(Resync::target);
            match target {
                Some(target) if is_answered(target.ending) => self.finish_target(volume, peer),
                Some(target) if is_answered(target.begins_after) => {
                    target.begins_after = None;
                    target.tick_at = Some(now);
                    self.peers[peer].volumes[volume].gave_up_resync = false;
                    self.on_resync_tick(volume, peer);
                }
                Some(_) => {}
                None => self.rejudge_end_of_source(volume, peer),
            }
        }
    }

    fn finish_target(&mut self, volume: usize, peer: usize) {
        let (now, left) = (self.now, self.bits_left(volume, peer));
        if let Some(resync) = self.peers[peer].volumes[volume].resync.as_mut().filter(|resync| left > resync.failed)
            && let Some(target) = resync.target()
        {
            // A write of ours has failed here since: once more through the bitmap.
            (target.ending, target.cursor, target.tick_at) = (None, 0, Some(now));
            return;
        }
        let failed = self.peers[peer].volumes[volume].resync.as_ref().map_or(0, |resync| resync.failed);
        let (rules, index) = (self.history_rules(volume), self.generation_index(volume, peer));
        let source = self.peer_tuple(volume, peer);
        let primary = self.role == crate::model::state::Role::Primary;
        if let (Some(disk), Some(source), 0, false) = (self.volumes[volume].disk.as_mut(), source, failed, mutant(13)) {
            generation::resync_finished_target(&mut disk.superblock.generations, index, &source, primary, rules);
            self.equate_generations(volume, peer);
        }
        let resync = self.peers[peer].volumes[volume].resync.take();
        let seconds = resync.map_or(0, |resync| self.now.since(resync.started).as_secs());
        let disk = if failed == 0 { DiskState::UpToDate } else { DiskState::Inconsistent };
        let number = self.volumes[volume].settings.number;
        self.log(LogLevel::Info, format!("volume {number}: resync done in {seconds} s, {failed} blocks failed"));
        let view = self.view(volume, peer);
        self.change_fact(volume, peer, View { conn: ConnectionState::Connected, disk, ..view });
        if let Some(disk) = self.volumes[volume].disk.as_mut() {
            disk.after_pages(Then::TargetPagesFinal(peer));
        }
        self.run_handler(Handler::AfterResyncTarget, Some(volume), Some(peer));
    }

    /// Cleared bits are out: now the superblock, then the peer is told.
    pub(super) fn target_pages_are_final(&mut self, volume: usize, peer: usize) {
        self.after_superblock(volume, Then::TargetFinished(peer));
    }

    /// The common generation is durable: the source may end its side.
    pub(super) fn target_is_finished(&mut self, volume: usize, peer: usize) {
        if self.view(volume, peer).conn == ConnectionState::Connected {
            self.send_state(volume, peer);
        }
    }

    /// Whether data has the digest that its sender promised.
    pub(super) fn digest_is_right(&self, peer: usize, digest: &Bytes, payload: &Bytes) -> bool {
        if digest.is_empty() {
            return true;
        }
        let theirs = self.peers[peer].link().and_then(|link| link.peer_protocol.as_ref());
        let algorithm = theirs.and_then(|protocol| auth::DigestAlgorithm::from_name(&protocol.integrity_alg));
        algorithm.is_none_or(|algorithm| auth::digest(algorithm, payload) == *digest)
    }

    /// Writes of a resync that is given up: those on the disk's way end by themselves.
    pub(super) fn give_up_target_writes(&mut self, volume: usize) {
        for (_, write) in self.resync_writes.iter_mut().filter(|(_, write)| write.volume == volume) {
            write.abandoned = true;
        }
    }
}

fn request_for(range: SectorRange) -> BlockRequest {
    BlockRequest { sector: range.start, block_id: BlockId::RESYNC, bytes: range.bytes() as u32 }
}

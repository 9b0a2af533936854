//! A resync: what both ends count, and how it ends.
//!
//! ```text
//! source: bitmaps merged ─▶ pages written ─▶ SyncSource, id durable ─ P_SYNC_UUID ─▶ serve reads ─▶ target's state ends it
//! target: WFSyncUUID ─ P_SYNC_UUID ─▶ pages written ─▶ Inconsistent + id durable ─▶ ask, write, flush, acknowledge
//!                                                              └ no bits left ─▶ generation durable ─▶ P_STATE UpToDate
//! ```
//!
//! A bit is cleared at the target only when the block is durable there, and at the source only when the target says so.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Resource;
use super::conflicts::Held;
use super::link::BeforeResync;
use super::marks::Marks;
use super::rate::Controller;
use super::state::View;
use crate::generation;
use crate::metadata::flags::PeerFlags;
use crate::model::state::{ConnectionState, DiskState, StateWord};
use crate::model::time::Instant;
use crate::model::units::{BlockIndex, SectorRange};
use crate::wire::framing::Stream;
use crate::wire::packet::Packet;

/// A range that the target has asked for (or is about to).
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) range: SectorRange,
    pub(super) held: Held,
    pub(super) sent: bool,
}

/// A resync of one volume with one peer.
#[derive(Debug)]
pub(super) struct Resync {
    /// No two of this process have the same: disk operations of one that was given up belong to no other.
    pub(super) number: u64,
    pub(super) started: Instant,
    /// The target says that it is done, before all its acknowledgements have come.
    pub(super) last_word: Option<LastWord>,
    /// Bits when it began.
    pub(super) total: u64,
    /// Blocks that could not be synced.
    pub(super) failed: u64,
    /// Blocks found equal by their checksums.
    pub(super) same: u64,
    /// How long it was held, in all, and since when it is now.
    held: Duration,
    held_since: Option<Instant>,
    pub(super) side: Side,
    /// How many bits were left, and when.
    pub(super) marks: Marks,
}

/// What a target has said of its end, on the one stream, while its acknowledgements come on the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastWord {
    /// Our ping that tells whether more of them will come.
    pub(super) ping: u64,
    pub(super) word: StateWord,
    /// It is as good as its source; else some blocks could not be synced, or it was done and has failed since.
    pub(super) is_good: bool,
}

/// A range that holds what the source has, and may not be durable yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) range: SectorRange,
    /// The source found the checksums equal and waits for nothing; an earlier resync may have written here all the same.
    pub(super) was_equal: bool,
}

/// Which end we are.
#[derive(Debug)]
pub(super) enum Side {
    Source,
    Target(Box<Target>),
}

/// What only the target keeps.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) controller: Controller,
    /// Where to look for the next bit.
    pub(super) cursor: u64,
    /// Ranges asked for, by first sector.
    pub(super) asked: BTreeMap<u64, Asked>,
    pub(super) asked_sectors: u64,
    /// When to ask for more; not before the superblock names this resync.
    pub(super) tick_at: Option<Instant>,
    /// Ranges that wait for a flush before their bits are cleared and they are acknowledged.
    pub(super) written: Vec<Written>,
    pub(super) flushing: Vec<Written>,
    /// What may still be asked for before the next tick without going over `c-max-rate`, sectors.
    pub(super) allowance: u64,
    /// Nothing is left: the ping behind our last acknowledgement.
    pub(super) ending: Option<u64>,
    /// Nothing is asked for before this ping has come back: answers to a resync that was given up may still come.
    pub(super) begins_after: Option<u64>,
}

impl Target {
    /// Received, and not durable yet.
    pub(super) fn unflushed_sectors(&self) -> u64 {
        self.written.iter().chain(&self.flushing).map(|written| written.range.sectors).sum()
    }
}

impl Resync {
    pub(super) fn new(number: u64, now: Instant, total: u64, side: Side) -> Self {
        Self {
            number,
            started: now,
            last_word: None,
            total,
            failed: 0,
            same: 0,
            held: Duration::ZERO,
            held_since: None,
            side,
            marks: Marks::new(now, total),
        }
    }

    /// Somebody holds it, or nobody any more. Progress is measured anew from there.
    fn set_held(&mut self, now: Instant, is_held: bool, left: u64) {
        match (self.held_since, is_held) {
            (None, true) => self.held_since = Some(now),
            (Some(since), false) => {
                self.held += now.since(since);
                self.held_since = None;
                self.marks = Marks::new(now, left);
            }
            _ => {}
        }
    }

    /// How long it was held until `now`.
    pub(super) fn held(&self, now: Instant) -> Duration {
        self.held + self.held_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    pub(super) fn is_held(&self) -> bool {
        self.held_since.is_some()
    }

    pub(super) fn target(&mut self) -> Option<&mut Target> {
        match &mut self.side {
            Side::Source => None,
            Side::Target(target) => Some(target),
        }
    }
}

impl Resource {
    /// Bits that are set for a peer.
    pub(super) fn bits_left(&self, volume: usize, peer: usize) -> u64 {
        let node = self.peers[peer].settings.node_id.index();
        self.volumes[volume].disk.as_ref().map_or(0, |disk| disk.bitmap.count(disk.slot(node)))
    }

    /// Clears what is wholly covered by a range that is now the same on both nodes.
    pub(super) fn clear_bits(&mut self, volume: usize, peer: usize, range: SectorRange) {
        let node = self.peers[peer].settings.node_id.index();
        let device = self.volumes[volume].device_sectors;
        let Some(disk) = self.volumes[volume].disk.as_mut() else { return };
        let slot = disk.slot(node);
        let (first, end) = range.blocks_covered(device);
        disk.bitmap.clear_range(slot, first, end);
        let left = disk.bitmap.count(slot);
        let now = self.now;
        if let Some(resync) = self.peers[peer].volumes[volume].resync.as_mut() {
            resync.marks.note(now, left);
        }
    }

    /// Marks whatever is touched by a range that differs from a peer's.
    pub(super) fn set_bits(&mut self, volume: usize, peer: usize, range: SectorRange) {
        let node = self.peers[peer].settings.node_id.index();
        if let Some(disk) = self.volumes[volume].disk.as_mut() {
            let slot = disk.slot(node);
            let (first, end) = range.blocks_touched();
            disk.bitmap.set_range(slot, first, end);
        }
    }

    /// The state has changed, perhaps by a pause flag: time that is held is counted, a target that goes on asks again.
    pub(super) fn pause_changed(&mut self, volume: usize, peer: usize, old: View, new: View) {
        use ConnectionState as C;
        let now = self.now;
        let goes_on = old.conn == C::PausedSyncT && new.conn == C::SyncTarget;
        let ready = self.volumes[volume].peer_write_gate.is_none();
        let left = self.bits_left(volume, peer);
        if let Some(resync) = self.peers[peer].volumes[volume].resync.as_mut() {
            resync.set_held(now, matches!(new.conn, C::PausedSyncS | C::PausedSyncT), left);
        }
        if let Some(target) = self.peers[peer].volumes[volume].resync.as_mut().and_then(Resync::target)
            && goes_on
            && ready
            && target.begins_after.is_none()
        {
            target.tick_at = Some(now);
        }
    }

    /// The source has heard that the target is done, well or not; whether the resync is over. Its last acknowledgements may be
    /// behind that, on the other stream: a ping tells.
    pub(super) fn source_is_finished(&mut self, volume: usize, peer: usize, word: StateWord, is_good: bool) -> bool {
        if is_good && self.judge_end_of_source(volume, peer) {
            return true;
        }
        let resync = self.peers[peer].volumes[volume].resync.as_ref();
        let asked = resync.and_then(|resync| resync.last_word).map(|last| last.ping);
        let ping = asked.unwrap_or_else(|| self.numbered_ping(peer));
        if let Some(resync) = self.peers[peer].volumes[volume].resync.as_mut() {
            resync.last_word = Some(LastWord { ping, word, is_good });
        }
        false
    }

    /// Ends the source's side if every block is accounted for.
    fn judge_end_of_source(&mut self, volume: usize, peer: usize) -> bool {
        let failed = self.peers[peer].volumes[volume].resync.as_ref().map_or(0, |resync| resync.failed);
        let is_over = self.bits_left(volume, peer) <= failed;
        if is_over {
            self.end_resync(volume, peer, failed == 0);
        }
        is_over
    }

    /// Another acknowledgement has come, or a ping has come back: a target that said it is done may be.
    pub(super) fn rejudge_end_of_source(&mut self, volume: usize, peer: usize) {
        let resync = self.peers[peer].volumes[volume].resync.as_ref();
        let Some(LastWord { ping, is_good, .. }) = resync.and_then(|resync| resync.last_word) else { return };
        if !is_good {
            if self.is_answered(peer, ping) {
                self.peers[peer].volumes[volume].target_may_be_done = true;
                self.end_resync(volume, peer, false);
            }
            return;
        }
        if !self.judge_end_of_source(volume, peer) && self.is_answered(peer, ping) {
            // The target stopped early: what is left stays out of sync.
            let left = self.bits_left(volume, peer);
            let reason = format!("the target says it is done with {left} blocks left");
            self.lose_connection(peer, ConnectionState::ProtocolError, &reason);
        }
    }

    /// The number of the next resync.
    pub(super) fn next_resync(&mut self) -> u64 {
        self.resyncs += 1;
        self.resyncs
    }

    /// Ends a resync on this side: generations, then the state.
    pub(super) fn end_resync(&mut self, volume: usize, peer: usize, clean: bool) {
        let (rules, index) = (self.history_rules(volume), self.generation_index(volume, peer));
        let resync = self.peers[peer].volumes[volume].resync.take();
        self.peers[peer].volumes[volume].unheard_equal_start = false;
        // What it has not confirmed by now it never will.
        self.give_up_source_reads(volume, peer);
        if clean && let Some(disk) = self.volumes[volume].disk.as_mut() {
            generation::resync_finished_source(&mut disk.superblock.generations, index, rules);
            self.equate_generations(volume, peer);
        }
        let view = self.view(volume, peer);
        let pdsk = if clean { DiskState::UpToDate } else { view.pdsk };
        let seconds = resync.as_ref().map_or(0, |resync| self.now.since(resync.started).as_secs());
        let total = resync.as_ref().map_or(0, |resync| resync.total) * 4;
        let number = self.volumes[volume].settings.number;
        self.log(super::action::LogLevel::Info, format!("volume {number}: resync done ({total} KiB in {seconds} s)"));
        self.change_fact(volume, peer, View { conn: ConnectionState::Connected, pdsk, ..view });
        self.superblock_changed(volume);
        self.tell_unfenced(peer);
    }

    /// The connection or a disk is gone: the resync stops where it is; its bits stay.
    pub(super) fn give_up_resync(&mut self, volume: usize, peer: usize) {
        let at = &mut self.peers[peer].volumes[volume];
        at.exchange = None;
        at.start_after_ping = None;
        at.before_resync = BeforeResync::Unasked;
        if let Some(disk) = self.volumes[volume].disk.as_mut() {
            disk.writer.forget_resync(peer);
        }
        self.give_up_unnamed_resync(volume, peer);
        self.give_up_target(volume, peer);
        self.give_up_source_reads(volume, peer);
    }

    /// Ranges that were asked for, and writes of what has come, are nobody's any more.
    pub(super) fn give_up_target(&mut self, volume: usize, peer: usize) {
        let at = &mut self.peers[peer].volumes[volume];
        let Some(mut resync) = at.resync.take() else { return };
        at.gave_up_resync = true;
        if let Some(LastWord { word, .. }) = resync.last_word {
            // What it said of itself holds without the resync too.
            self.late_words.push_back((volume, peer, word));
        }
        if let Some(target) = resync.target() {
            let asked = std::mem::take(&mut target.asked);
            asked.into_values().for_each(|asked| self.release_interval(volume, asked.held));
            self.give_up_target_writes(volume);
        }
    }

    /// A resync whose blocks all are set, asked for by an operator: no bitmap exchange.
    pub(super) fn set_all_bits(&mut self, volume: usize, peer: usize) {
        let node = self.peers[peer].settings.node_id.index();
        if let Some(disk) = self.volumes[volume].disk.as_mut() {
            let slot = disk.slot(node);
            disk.bitmap.set_all(slot);
        }
    }

    /// The superblock that says Inconsistent says too that every bit counts: the pages take longer to write than it does.
    pub(super) fn need_full_sync(&mut self, volume: usize, peer: usize) {
        let index = self.generation_index(volume, peer);
        if let Some(disk) = self.volumes[volume].disk.as_mut() {
            disk.superblock.set_peer_flag(index, PeerFlags::FULL_SYNC, true);
        }
    }

    /// The next range to sync at or after a block: neighbouring bits, aligned growth, at most `most` sectors.
    pub(super) fn next_range(&self, volume: usize, peer: usize, from: u64, most: u64) -> Option<SectorRange> {
        let node = self.peers[peer].settings.node_id.index();
        let disk = self.volumes[volume].disk.as_ref()?;
        let slot = disk.slot(node);
        let first = disk.bitmap.next_set(slot, BlockIndex(from))?;
        let most_blocks = (most / crate::model::units::BLOCK_SECTORS).max(1);
        // Not across a 16 MiB boundary, which both ends lock as one.
        let boundary = (first.0 / 4096 + 1) * 4096;
        let clear = disk.bitmap.next_clear(slot, first).map_or(disk.bitmap.blocks(), |block| block.0);
        let end = clear.min(boundary).min(first.0 + most_blocks);
        let start = first.sector();
        let last = BlockIndex(end).sector().0.min(self.volumes[volume].device_sectors);
        Some(SectorRange { start, sectors: last - start.0 })
    }

    pub(super) fn send_sync_uuid(&mut self, volume: usize, peer: usize, id: crate::model::generation_id::GenerationId) {
        self.send(peer, Stream::Data, volume, &Packet::SyncUuid(id));
    }
}

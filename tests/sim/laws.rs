//! What must hold when a machine answers or has handled an event. Each failure names its law.
//!
//! D1 acknowledged means on every good connected copy · D2 flushed means stable there · D3 reads return what is legal ·
//! D6 a bit is cleared only where the copies agree · D8 no foreign block before Inconsistent is stable, no bad disk serves ·
//! D9 a good copy hides a bad disk · G6 no resync of more than was written · G1 new generation before lonely writes · G2 split brain told if and only if there is one ·
//! G4 nothing acknowledged is dropped unasked · C1 never two Primaries connected · R1, R2 the machine's manners.
//!
//! Not here: laws about the whole state of two disks (`states`).

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use shimai::metadata::superblock::DeviceFlags;
use shimai::model::state::{ConnectionState, DiskState, Role};
use shimai::model::units::EXTENT_BLOCKS;
use shimai::replica::action::{DiskOperation, RequestError};

use crate::client::{Asked, Outstanding};
use crate::contents::SECTOR;
use crate::disk::span_of;
use crate::fork;
use crate::machine::{Facts, words};
use crate::oracle::{Seen, look};
use crate::profile::{Fault, name};
use crate::world::World;

/// What the checkers remember from event to event.
pub(crate) struct Watch {
    /// Power losses so far.
    pub(crate) losses: u64,
    /// Grows whenever a connection is lost or made.
    pub(crate) sessions: u64,
    last: Vec<[Option<Facts>; 2]>,
    bitmaps: Vec<[Vec<u64>; 2]>,
    /// Kept for its memory only.
    cleared: Vec<Range<u64>>,
    /// The node that takes data, once seen.
    pub(crate) target: Vec<Option<usize>>,
    in_sync: Vec<bool>,
    /// The volume came in sync by a resync, not by a handshake that found nothing to do.
    pub(crate) resynced: Vec<bool>,
    /// Sector → id acknowledged and not covered by a flush yet, by volume and by the node that acknowledged it.
    unflushed: Vec<[BTreeMap<u64, u64>; 2]>,
    /// `Primary --force` has been asked for and not been answered.
    pub(crate) forced: bool,
    /// Processes that died, and disks that failed under them, so far.
    pub(crate) crashes: u64,
    /// By volume: a whole copy was given up, or they never were the same. Bits that such a sync has cleared may come back with
    /// a crash, since they reach the disk some time after it.
    pub(crate) full_sync_was_due: Vec<bool>,
    /// Disks have failed or gone since both copies were last good: a refusal may have other reasons than a split brain.
    pub(crate) disturbed: bool,
    /// Double faults have left no good copy: what applications read is nobody's promise any more.
    pub(crate) void: bool,
}

impl Watch {
    pub(crate) fn new(volumes: usize, born_in_sync: bool) -> Self {
        Self {
            losses: 0,
            sessions: 0,
            last: vec![[None; 2]; volumes],
            bitmaps: vec![<[Vec<u64>; 2]>::default(); volumes],
            cleared: Vec::new(),
            target: vec![None; volumes],
            in_sync: vec![false; volumes],
            resynced: vec![false; volumes],
            unflushed: vec![<[BTreeMap<u64, u64>; 2]>::default(); volumes],
            forced: false,
            crashes: 0,
            full_sync_was_due: vec![!born_in_sync; volumes],
            disturbed: false,
            void: false,
        }
    }

    /// The node's process is new.
    pub(crate) fn forget(&mut self, node: usize) {
        self.sessions += 1;
        self.last.iter_mut().for_each(|last| last[node] = None);
        self.bitmaps.iter_mut().for_each(|bitmaps| bitmaps[node].clear());
        self.in_sync.iter_mut().for_each(|in_sync| *in_sync = false);
    }

    /// Writes that power loss may have taken, or that another Primary does not owe.
    pub(crate) fn forget_unflushed(&mut self) {
        self.unflushed.iter_mut().flatten().for_each(BTreeMap::clear);
    }
}

fn add_blocks(ranges: &mut Vec<Range<u64>>, first: u64, count: u64) {
    match ranges.last_mut() {
        Some(last) if last.end == first => last.end += count,
        _ => ranges.push(first..first + count),
    }
}

/// Brings a copy of a bitmap up to date and tells which bits are clear since.
fn update_words(known: &mut Vec<u64>, new: &[u64], cleared: &mut Vec<Range<u64>>) {
    const STRIDE: usize = 32;
    known.resize(new.len(), 0);
    for (stride, (known, new)) in known.chunks_mut(STRIDE).zip(new.chunks(STRIDE)).enumerate() {
        if known == new {
            continue;
        }
        for (index, (known, &new)) in known.iter_mut().zip(new).enumerate() {
            let mut gone = *known & !new;
            while gone != 0 {
                let first = gone.trailing_zeros();
                let count = (gone >> first).trailing_ones();
                gone &= !(u64::MAX >> (64 - count) << first);
                add_blocks(cleared, (stride * STRIDE + index) as u64 * 64 + u64::from(first), u64::from(count));
            }
            *known = new;
        }
    }
}

impl World {
    pub(crate) fn check_reply(&mut self, request: u64, outstanding: &Outstanding, parts: &[Bytes]) {
        let (node, volume) = (outstanding.node, outstanding.volume);
        let Some(facts) = self.facts(node, volume) else { return };
        match &outstanding.asked {
            Asked::Read { span, legal } => self.check_read(request, outstanding, facts, *span, legal, parts),
            Asked::Flush => self.check_flush(outstanding, facts),
            Asked::Write { id, fua } => self.check_write(outstanding, facts, *id, *fua),
        }
    }

    fn check_write(&mut self, outstanding: &Outstanding, facts: Facts, id: u64, fua: bool) {
        let (node, volume, losses) = (outstanding.node, outstanding.volume, outstanding.losses);
        let views = [0, 1].map(|on| Some(&self.nodes[on].disks[volume].view));
        // It may also have been sent to a disk that has gone since: the refusal is still to come.
        let sender = (self.profile.is_asynchronous() && facts.is_connected()).then_some(node);
        // The other one said that it has the write, and lost power while we were reading that: as it would have unflushed.
        let lapsed = !facts.is_lonely() && self.watch.losses > losses;
        let everywhere = match self.oracle.acknowledge(id, views, sender, lapsed) {
            Ok(everywhere) => everywhere,
            // Power loss of the only copy between its completion and the answer cannot be told from a lie.
            Err(_) if self.watch.losses > losses || self.watch.void => return,
            Err(sector) => return self.fail("D1", format!("w{id} is acknowledged and sector {sector} is on no disk")),
        };
        let Some(span) = self.oracle.record(id).map(|record| record.span) else { return };
        for sector in span.0..span.1 {
            self.watch.unflushed[volume][node].insert(sector, id);
        }
        let other = 1 - node;
        let promised = !self.profile.is_asynchronous();
        if promised && facts.is_connected() && facts.peer_disk == DiskState::UpToDate && !everywhere[other] {
            let undisturbed = self.watch.losses == losses;
            if undisturbed && !self.is_marked(node, volume, span) {
                self.fail("D1", format!("w{id} is acknowledged, connected to a good peer that does not hold it"));
            }
        }
        // A disk that failed the write and is kept has it marked; the other copy answers for it.
        let counts = facts.disk >= DiskState::Inconsistent && !self.is_marked(node, volume, span);
        if fua && self.profile.flushes() && counts && everywhere[node] {
            self.check_stable(node, volume, id, "FUA");
        }
        let peer_counts = promised
            && facts.is_in_sync()
            && outstanding.session == Some(self.watch.sessions)
            && self.watch.losses == outstanding.losses
            && !self.is_marked(node, volume, span);
        if fua && self.profile.flushes() && peer_counts && everywhere[other] {
            self.count("checks: stable on the peer");
            self.check_stable(other, volume, id, "FUA");
        }
        let alone = !facts.is_connected() && facts.disk == DiskState::UpToDate;
        if alone && everywhere[node] && !everywhere[other] && !self.watch.void {
            self.check_new_generation(node, volume, id);
        }
        if facts.is_lonely() {
            self.oracle.keep_owed(volume, node);
        }
    }

    fn is_marked(&self, node: usize, volume: usize, span: (u64, u64)) -> bool {
        let Some(process) = &self.nodes[node].process else { return false };
        (span.0 / 8..span.1.div_ceil(8)).all(|block| crate::machine::is_dirty(&process.resource, volume, block))
    }

    /// The write, or one that came after it, is stable on that disk.
    fn check_stable(&mut self, node: usize, volume: usize, id: u64, why: &str) {
        let Some(span) = self.oracle.record(id).map(|record| record.span) else { return };
        let stable = &self.nodes[node].disks[volume].stable;
        let missing = (span.0..span.1)
            .find(|&sector| !self.oracle.is_at_least((volume, node), sector, look(sector, stable.sector(sector)), id));
        if let Some(sector) = missing {
            self.fail("D2", format!("{why} answered, but w{id} is not stable on {} at sector {sector}", name(node)));
        }
    }

    /// Alone: the generation that the other side knows must not be ours any more, durably.
    fn check_new_generation(&mut self, node: usize, volume: usize, id: u64) {
        let mut ids = [0; 2];
        for (side, current) in ids.iter_mut().enumerate() {
            let disk = self.nodes[side].metadata(&self.profile, volume);
            let Ok(superblock) = fork::superblock(&disk.stable, &self.layouts[volume], disk.bytes) else { return };
            let index = if superblock.format == shimai::metadata::layout::Format::V08 { 0 } else { 1 - side };
            if side == node && !superblock.generations.bitmap[index].is_none() {
                return;
            }
            *current = superblock.generations.current.masked();
        }
        if ids[0] == ids[1] && ids[0] != 4 {
            let text = format!("{} answers w{id} alone; both disks still say generation {:016X}", name(node), ids[0]);
            self.fail("G1", text);
        }
    }

    fn check_flush(&mut self, outstanding: &Outstanding, facts: Facts) {
        if !self.profile.flushes() || self.watch.void || self.watch.losses > outstanding.losses {
            return;
        }
        let (node, volume) = (outstanding.node, outstanding.volume);
        let due: Vec<(u64, u64)> = self.watch.unflushed[volume][node]
            .iter()
            .filter(|&(_, &id)| {
                self.oracle
                    .record(id)
                    .is_some_and(|it| it.acked && it.ended.is_some_and(|end| end <= outstanding.order))
            })
            .map(|(&sector, &id)| (sector, id))
            .collect();
        let peer_counts = !self.profile.is_asynchronous()
            && facts.is_connected()
            && facts.peer_disk == DiskState::UpToDate
            && outstanding.session == Some(self.watch.sessions);
        for (on, counts) in [(node, facts.disk == DiskState::UpToDate), (1 - node, peer_counts)] {
            let stable = &self.nodes[on].disks[volume].stable;
            let missing = due.iter().find(|&&(sector, id)| {
                counts && !self.oracle.is_at_least((volume, on), sector, look(sector, stable.sector(sector)), id)
            });
            if let Some(&(sector, id)) = missing {
                self.fail("D2", format!("flush answered, but w{id} is not stable on {} at sector {sector}", name(on)));
                return;
            }
        }
        for (sector, _) in due {
            self.watch.unflushed[volume][node].remove(&sector);
        }
    }

    fn check_read(
        &mut self,
        request: u64,
        outstanding: &Outstanding,
        facts: Facts,
        span: (u64, u64),
        before: &[[Vec<u64>; 2]],
        parts: &[Bytes],
    ) {
        let data: Vec<u8> = parts.concat();
        if data.len() as u64 != (span.1 - span.0) * SECTOR {
            let text = format!("read {request} returns {} bytes for {} sectors", data.len(), span.1 - span.0);
            return self.fail("R1", text);
        }
        if self.watch.void {
            return;
        }
        let (node, volume) = (outstanding.node, outstanding.volume);
        let own_only = outstanding.own_disk_good && facts.disk == DiskState::UpToDate;
        for (index, sector) in (span.0..span.1).enumerate() {
            let seen = look(sector, data.get(index * 512..index * 512 + 512));
            let mut ids = before[index][0].clone();
            ids.extend(self.oracle.legal(volume, node, sector));
            if !own_only {
                ids.extend(&before[index][1]);
                ids.extend(self.oracle.legal_for(node, volume, 1 - node, sector));
            }
            if !self.oracle.is_among(seen, &ids) && !self.oracle.was_under_way(seen, outstanding.order) {
                let text = format!(
                    "read {request} on {} ({}) sees {seen:?} in sector {sector} of volume {volume}; legal is {ids:?}",
                    name(node),
                    facts.short()
                );
                return self.fail("D3", text);
            }
        }
    }

    pub(crate) fn check_error_reply(&mut self, outstanding: &Outstanding, error: RequestError) {
        let (node, volume) = (outstanding.node, outstanding.volume);
        let Some(facts) = self.facts(node, volume) else { return };
        let good_peer = facts.is_connected()
            && facts.peer_disk == DiskState::UpToDate
            && outstanding.session == Some(self.watch.sessions);
        let disk_fault = matches!(error, RequestError::Disk | RequestError::NoData);
        let still_good = self.facts(1 - node, volume).is_some_and(|peer| peer.disk == DiskState::UpToDate);
        if disk_fault && good_peer && still_good && self.operator.weak != Some(1 - node) {
            self.fail("D9", format!("{} answers {error:?} although its peer is good ({})", name(node), facts.short()));
        }
    }

    /// Called for every operation on data that a machine begins.
    pub(crate) fn before_data_operation(&mut self, node: usize, volume: usize, operation: &DiskOperation) {
        let Some(((_, end), true)) = span_of(operation) else { return };
        if end > self.layouts[volume].usable_sectors {
            self.fail("D7", format!("{} writes data behind the device: {operation:?}", name(node)));
        }
        let Some(facts) = self.facts(node, volume) else { return };
        if facts.is_target() && self.is_stably_consistent(node, volume) {
            self.fail("D8", format!("{} takes foreign data before Inconsistent is stable", name(node)));
        }
        if let DiskOperation::Write { offset, payload, .. } = operation
            && facts.role == Role::Secondary
            && facts.disk < DiskState::UpToDate
            && let Seen::Write(id) = look(offset / SECTOR, payload.get(..SECTOR as usize))
            && self.oracle.is_newer_than_parting(volume, node, id)
            && self.is_of_older_generation(node, volume)
        {
            let text = format!("{} calls itself consistent under its old generation and takes w{id}", name(node));
            self.fail("D8", text);
        }
    }

    fn begin_alone(&mut self, volume: usize, node: usize) {
        if !self.oracle.copies[volume][node].alone {
            let left_behind = self.stable_generation(1 - node, volume);
            self.oracle.begin_alone(volume, node, left_behind);
        }
    }

    /// The source knows the target's generation from its history only: then nobody has counted, and everything counts. So it
    /// is after a start that was taken back although the target had just heard of it.
    fn is_known_from_history(&self, target: usize, volume: usize) -> bool {
        let disk = self.nodes[1 - target].metadata(&self.profile, volume);
        let source = fork::superblock(&disk.stable, &self.layouts[volume], disk.bytes);
        let current = self.stable_generation(target, volume);
        source.is_ok_and(|source| source.generations.history.iter().any(|old| Some(old.masked()) == current))
    }

    fn stable_generation(&self, node: usize, volume: usize) -> Option<u64> {
        let disk = self.nodes[node].metadata(&self.profile, volume);
        let superblock = fork::superblock(&disk.stable, &self.layouts[volume], disk.bytes);
        superblock.ok().map(|superblock| superblock.generations.current.masked())
    }

    /// The disk says that it is consistent, and of the generation at which the other one left it behind.
    fn is_of_older_generation(&self, node: usize, volume: usize) -> bool {
        self.is_stably_consistent(node, volume)
            && self.oracle.copies[volume][1 - node].left_behind == self.stable_generation(node, volume)
    }

    fn is_stably_consistent(&self, node: usize, volume: usize) -> bool {
        let disk = self.nodes[node].metadata(&self.profile, volume);
        fork::superblock(&disk.stable, &self.layouts[volume], disk.bytes)
            .is_ok_and(|superblock| superblock.flags.contains(DeviceFlags::CONSISTENT))
    }

    /// Called after each event of a node.
    pub(crate) fn observe(&mut self, node: usize) {
        for volume in 0..self.volumes() {
            let Some(facts) = self.facts(node, volume) else { return };
            let old = self.watch.last[volume][node];
            if old != Some(facts) {
                if self.verbose && old.is_none_or(|old| old.short() != facts.short()) {
                    self.note(|| format!("{}: volume {volume} is {}", name(node), facts.short()));
                }
                self.on_change(node, volume, old, facts);
                self.watch.last[volume][node] = Some(facts);
            }
        }
        if let Some(facts) = self.watch.last[0][node] {
            self.observe_connection(node, facts);
        }
        self.watch.forced &= self.operator.is_forcing();
    }

    fn on_change(&mut self, node: usize, volume: usize, old: Option<Facts>, new: Facts) {
        let was_connected = old.is_some_and(|old| old.is_connected());
        if was_connected != new.is_connected() {
            self.watch.sessions += 1;
            self.count(if new.is_connected() { "connections made" } else { "connections lost" });
        }
        if was_connected && !new.is_connected() && self.watch.target[volume] == Some(node) {
            // The next handshake decides anew.
            self.watch.target[volume] = None;
        }
        if was_connected != new.is_connected() || new.requests == 0 {
            self.oracle.end_transit(volume, node);
        }
        // A Primary may lose its peer and be demoted in one event.
        let was_written = old.is_some_and(|old| old.role == Role::Primary || old.peer_role == Role::Primary);
        if new.is_alone() || (was_written && new.is_lonely()) {
            self.begin_alone(volume, node);
        }
        if new.role == Role::Primary && old.is_none_or(|old| old.role != Role::Primary) {
            self.on_promoted(node, volume, new);
        }
        // A disk that fails leaves its activity log behind as a process does that dies.
        let went = new.disk <= DiskState::Failed && old.is_some_and(|old| old.disk > DiskState::Failed);
        self.watch.crashes += u64::from(went);
        // Detached, or failed.
        self.watch.disturbed |= old.is_some_and(|old| old.disk > new.disk && new.disk <= DiskState::Inconsistent);
        if new.is_target() && !old.is_some_and(|old| old.is_target()) {
            self.on_target(node, volume);
        }
        let is_receiving =
            |it: Facts| matches!(it.connection, ConnectionState::SyncTarget | ConnectionState::PausedSyncT);
        if is_receiving(new) && !old.is_some_and(is_receiving) {
            self.check_no_excess(node, volume);
        }
        if new.connection == ConnectionState::SyncTarget && !self.is_stably_consistent(node, volume) {
            let copy = &mut self.oracle.copies[volume][node];
            copy.alone = false;
            copy.forget_others_lack();
        }
        if new.dirty != old.and_then(|old| old.dirty) {
            self.on_bits_changed(node, volume, new);
        }
        let came_in_sync = new.is_in_sync() && !old.is_some_and(|old| old.is_in_sync());
        if came_in_sync && self.watch.target[volume] == Some(node) {
            // The target is done before the source hears of it.
            self.oracle.adopt(volume, node);
        }
        self.observe_pair(volume, node, new);
    }

    fn on_promoted(&mut self, node: usize, volume: usize, facts: Facts) {
        self.count("promotions");
        self.watch.forget_unflushed();
        let served_by_peer = facts.is_connected() && facts.peer_disk == DiskState::UpToDate;
        if facts.disk != DiskState::UpToDate && !served_by_peer && !self.watch.forced {
            self.fail("D8", format!("{} is Primary without good data: {}", name(node), facts.short()));
        }
        let both = self.facts(1 - node, volume).is_some_and(|peer| peer.role == Role::Primary && peer.is_connected());
        if both && facts.is_connected() {
            self.fail("C1", "two Primaries are connected");
        }
    }

    /// The node has decided (or agreed) to take the other one's data.
    fn on_target(&mut self, node: usize, volume: usize) {
        self.watch.target[volume] = Some(node);
        self.watch.unflushed[volume][node].clear();
        self.count("resyncs");
        let given_up = self.oracle.copies[volume][node].given_up;
        let views = [0, 1].map(|on| &self.nodes[on].disks[volume].view);
        let lost = self.oracle.exclusive(volume, node, views);
        if let Some((sector, id)) = lost.first()
            && !given_up
            && !self.watch.void
            && self.is_stably_consistent(node, volume)
        {
            let text = format!("{} becomes target although it alone holds w{id} in sector {sector}", name(node));
            self.fail("G4", text);
        }
    }

    /// A resync is about what was written, and after a crash about the extents of that; never about more.
    fn check_no_excess(&mut self, node: usize, volume: usize) {
        // A write that fails half way may leave an activity log that tells nothing: then everything counts.
        let log_may_be_torn = [Fault::DiskError, Fault::BadSector].iter().any(|&fault| self.profile.has(fault));
        let excused = self.watch.full_sync_was_due[volume] || self.watch.void || self.operator.gave_up_data;
        if excused || log_may_be_torn || self.is_known_from_history(node, volume) {
            return;
        }
        self.count("checks: no excess");
        let Some(process) = &self.nodes[node].process else { return };
        let grain = if self.watch.crashes > 0 { EXTENT_BLOCKS } else { 1 };
        let written = self.oracle.written(volume, grain);
        let bits = words(&process.resource, volume).iter().enumerate();
        let mut dirty = bits.flat_map(|(index, word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index as u64 * 64 + bit)
        });
        if let Some(block) = dirty.find(|block| !written.contains(&(block / grain))) {
            self.fail("G6", format!("{} asks for block {block}, which nobody has written", name(node)));
        }
    }

    /// Bits that became clear while the connection is whole: the copies agree there.
    fn on_bits_changed(&mut self, node: usize, volume: usize, facts: Facts) {
        let Some(process) = &self.nodes[node].process else { return };
        let peer = self.facts(1 - node, volume);
        let whole = facts.is_connected() && peer.is_some_and(|peer| peer.is_connected());
        let mut known = std::mem::take(&mut self.watch.bitmaps[volume][node]);
        let was_known = known.len();
        let mut cleared = std::mem::take(&mut self.watch.cleared);
        update_words(&mut known, words(&process.resource, volume), &mut cleared);
        // A bitmap that is being loaded says nothing yet.
        let loaded = facts.disk >= DiskState::Negotiating;
        let judged = whole && loaded && was_known == known.len() && !self.watch.void;
        let [a, b] = [0, 1].map(|on| &self.nodes[on].disks[volume].view);
        let is_idle = &mut |block| !self.is_busy(volume, block) && !self.peer_left(node, volume, block);
        let broken = cleared.iter().filter(|_| judged).find_map(|blocks| a.differs(b, blocks.clone(), is_idle));
        self.watch.bitmaps[volume][node] = known;
        cleared.clear();
        self.watch.cleared = cleared;
        if let Some(block) = broken {
            self.fail("D6", format!("{} clears the bit of block {block}, where the copies differ", name(node)));
        }
    }

    /// The other side has left the resync, wrote alone and keeps its own bit; this one has not heard of it yet.
    fn peer_left(&self, node: usize, volume: usize, block: u64) -> bool {
        let Some(peer) = &self.nodes[1 - node].process else { return false };
        let connection = crate::machine::facts(&peer.resource, volume).connection;
        connection == ConnectionState::Connected && crate::machine::is_dirty(&peer.resource, volume, block)
    }

    /// A write of an application or a disk works on the block.
    pub(crate) fn is_busy(&self, volume: usize, block: u64) -> bool {
        let span = (block * 8, block * 8 + 8);
        self.is_being_written(volume, block)
            || self.oracle.is_in_transit(volume, span)
            || (0..2).any(|node| self.nodes[node].disks[volume].is_changing(span))
    }

    fn observe_pair(&mut self, volume: usize, node: usize, new: Facts) {
        let peer = self.facts(1 - node, volume);
        let in_sync = new.is_in_sync() && peer.is_some_and(|peer| peer.is_in_sync());
        if in_sync && !self.watch.in_sync[volume] {
            self.check_same(volume, "after the handshake or the resync");
            let target = self.watch.target[volume].take();
            self.watch.resynced[volume] = target.is_some();
            let views = [0, 1].map(|on| &self.nodes[on].disks[volume].view);
            self.oracle.unify(volume, target, views);
            self.count("times in sync");
        }
        self.watch.in_sync[volume] = in_sync;
        if self.watch.in_sync.iter().all(|in_sync| *in_sync) {
            self.watch.disturbed = false;
        }
    }

    /// A machine that stops connecting by itself must have found a split brain.
    fn observe_connection(&mut self, node: usize, facts: Facts) {
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        if facts.connection != ConnectionState::StandAlone {
            process.connecting = true;
            return;
        }
        if !process.connecting {
            return;
        }
        process.connecting = false;
        if self.operator.was_disconnected(node) {
            return;
        }
        if let Some(process) = self.nodes[node].process.as_mut() {
            process.refused = true;
        }
        self.count("connections refused");
        // A forced promotion that power loss interrupted leaves two disks of which neither can be the source.
        let disturbed = self.watch.disturbed || self.operator.gave_up_data || facts.disk <= DiskState::Inconsistent;
        let real = (0..self.volumes()).any(|volume| self.oracle.copies[volume].iter().all(|copy| copy.alone));
        if !real && !disturbed && !self.watch.void {
            self.fail("G2", format!("{} stops connecting although no split brain has happened", name(node)));
        }
    }
}

//! When this node begins a new data generation, and who is told.
//!
//! As DRBD 8.4: at once when the peer's good data is lost while either side is Primary, when a Primary begins without a good
//! peer, when a diskless peer becomes Primary. The order is fixed: replies are frozen first, the door is asked, the new
//! identifier reaches the disk, replies leave.

use super::Resource;
use super::action::LogLevel;
use super::metadata_writer::Then;
use super::mutant;
use super::permission::OnLoss;
use super::state::View;
use crate::generation::{self, HistoryRules, Tuple};
use crate::metadata::layout::Format;
use crate::model::state::{ConnectionState, DiskState, Role};
use crate::wire::framing::Stream;
use crate::wire::packet::{Packet, UuidFlags, Uuids};

/// Whether a disk state means that its owner has data we could have to compare with.
pub(super) fn has_contents(disk: DiskState) -> bool {
    disk >= DiskState::Inconsistent && !matches!(disk, DiskState::Unknown | DiskState::Outdated)
}

/// Whether a resync from here has lost its target.
fn lost_a_target(old: View, new: View) -> bool {
    let source = matches!(old.conn, ConnectionState::SyncSource | ConnectionState::PausedSyncS);
    source && (new.conn < ConnectionState::Connected || new.pdsk <= DiskState::Failed)
}

impl Resource {
    pub(super) fn history_rules(&self, volume: usize) -> HistoryRules {
        match self.volumes[volume].disk.as_ref().map(|disk| disk.superblock.format) {
            Some(Format::V09) => HistoryRules::V09 { own: self.settings.node_id, in_step: 0 },
            Some(Format::V08) | None => HistoryRules::V08,
        }
    }

    /// The peer's entry in the set of generations.
    pub(super) fn generation_index(&self, volume: usize, peer: usize) -> usize {
        let node = self.peers[peer].settings.node_id.index();
        self.volumes[volume].disk.as_ref().map_or(0, |disk| disk.peer_index(node))
    }

    pub(super) fn generation_after_change(&mut self, volume: usize, peer: usize, old: View, new: View) {
        let lost = has_contents(old.pdsk) && !has_contents(new.pdsk);
        let somebody_writes = new.role == Role::Primary || new.peer == Role::Primary;
        // The peer's disk failed a write but stays: writes no longer go there, and its superblock may not say so yet.
        let connected = ConnectionState::Connected;
        let spoiled = (old.conn, new.conn) == (connected, connected)
            && old.pdsk == DiskState::UpToDate
            && new.pdsk == DiskState::Inconsistent;
        // Where a resync has not got a name yet, an Inconsistent peer counts from our generation like a good one.
        let left = old.conn >= connected && new.conn < connected && has_contents(old.pdsk);
        let alone_with_data = (lost || left || spoiled) && somebody_writes;
        // A disk that becomes current (again) under a Primary whom no peer follows.
        let nobody_follows = !has_contents(new.pdsk) || new.conn < ConnectionState::Connected;
        let came_alone = new.role == Role::Primary && old.disk != DiskState::UpToDate && nobody_follows;
        // A Primary without a disk writes here alone, whether it became Primary or came back as one: what its own disk once
        // had is older from now on.
        let took_over = new.pdsk < DiskState::Inconsistent
            && (old.peer != Role::Primary || old.conn < ConnectionState::Connected)
            && new.peer == Role::Primary;
        if old.disk >= DiskState::Inconsistent && new.disk <= DiskState::Failed {
            self.expose(volume, peer, old.disk);
        }
        let gone = new.conn < ConnectionState::Connected || new.pdsk <= DiskState::Failed;
        if old.conn >= ConnectionState::Connected && old.pdsk > DiskState::Failed && gone {
            self.take_back_unheard_start(volume, peer);
        }
        if lost_a_target(old, new) {
            // It may have come to the end without our knowing, whatever our own bits say (some may be set since). Our current generation may be the target's too, so it must not be ours alone.
            self.peers[peer].volumes[volume].target_may_be_done = true;
            if new.role == Role::Primary {
                match self.door.on_replica_lost() {
                    OnLoss::GoOn => self.begin_generation_after_sync(volume, peer),
                    OnLoss::Wait => self.peers[peer].volumes[volume].generation_due = true,
                }
            }
        }
        // However it came about (the second volume of a resource learns of a role from the first).
        let only_disk = somebody_writes
            && !has_contents(new.pdsk)
            && (new.role == Role::Primary || new.conn >= ConnectionState::Connected);
        // A target follows us: it takes the generation that the handshake told it, so there is none to begin before its end.
        let followed = new.conn > ConnectionState::Connected && new.conn < ConnectionState::Ahead;
        let alone = (alone_with_data || came_alone || took_over || only_disk) && !followed;
        if alone && new.disk == DiskState::UpToDate && !mutant(6) {
            self.go_on_alone(volume, peer);
        }
    }

    /// What is written from here on is ours alone: a new generation, as soon as the door lets it begin.
    pub(super) fn go_on_alone(&mut self, volume: usize, peer: usize) {
        match self.door.on_replica_lost() {
            OnLoss::GoOn => {
                self.begin_generation_after_sync(volume, peer);
                self.begin_generation_if_none(volume, peer);
            }
            OnLoss::Wait => {
                let is_due = self.needs_generation(volume, peer);
                self.peers[peer].volumes[volume].generation_due |= is_due;
            }
        }
    }

    /// Whether the peer may hold our generation as good.
    fn needs_generation(&self, volume: usize, peer: usize) -> bool {
        let index = self.generation_index(volume, peer);
        let disk = self.volumes[volume].disk.as_ref();
        let counts = disk.is_none_or(|disk| !disk.superblock.generations.bitmap[index].is_none());
        self.peers[peer].volumes[volume].target_may_be_done || !counts
    }

    /// Frozen, with a peer that does not understand why our bits should count between equal generations: the next attempt
    /// tells it of another one. True if this one must end.
    pub(super) fn begin_due_generations(&mut self, peer: usize) -> bool {
        let due: Vec<usize> =
            (0..self.volumes.len()).filter(|volume| self.peers[peer].volumes[*volume].generation_due).collect();
        for volume in &due {
            self.peers[peer].volumes[*volume].generation_due = false;
            self.begin_generation_after_sync(*volume, peer);
            self.begin_generation_if_none(*volume, peer);
        }
        !due.is_empty()
    }

    /// What applications have seen last, now that the disk (which was worth `old`) is gone. Next to a disk that was being
    /// synced it was the source's data. A generation that was still on its way to the disk has never been answered under, so
    /// its parent counts.
    fn expose(&mut self, volume: usize, peer: usize, old: DiskState) {
        if old != DiskState::UpToDate {
            self.volumes[volume].exposed = self.peer_tuple(volume, peer).map(|it| it.current).unwrap_or_default();
            return;
        }
        let index = self.generation_index(volume, peer);
        let state = &mut self.volumes[volume];
        let Some(disk) = state.disk.as_ref() else { return };
        let generations = &disk.superblock.generations;
        let pending = state.reply_gate.is_some_and(|version| !disk.writer.is_durable(version));
        let parent = generations.bitmap[index];
        state.exposed = if pending && !parent.is_none() { parent } else { generations.current };
    }

    /// The connection is gone before the target showed that it knows the id of a resync between equal generations: it may
    /// still hold our current generation as good. The id goes into the history, and the ordinary rules hold again.
    fn take_back_unheard_start(&mut self, volume: usize, peer: usize) {
        if !std::mem::take(&mut self.peers[peer].volumes[volume].unheard_equal_start) {
            return;
        }
        let (rules, index) = (self.history_rules(volume), self.generation_index(volume, peer));
        if let Some(disk) = self.volumes[volume].disk.as_mut() {
            generation::resync_finished_source(&mut disk.superblock.generations, index, rules);
        }
        self.superblock_changed(volume);
        if self.role == Role::Primary {
            match self.door.on_replica_lost() {
                OnLoss::GoOn => self.begin_generation_if_none(volume, peer),
                OnLoss::Wait => self.peers[peer].volumes[volume].generation_due = true,
            }
        }
    }

    /// Going on alone after such a loss: a new generation although the bitmap counts from the resync's id. That id stays
    /// (the bits count from there), the generation that the target may have is remembered.
    pub(super) fn begin_generation_after_sync(&mut self, volume: usize, peer: usize) {
        if std::mem::take(&mut self.peers[peer].volumes[volume].target_may_be_done) {
            self.begin_generation(volume, peer);
        }
    }

    /// A new generation, unless the bitmap counts from one already.
    pub(super) fn begin_generation_if_none(&mut self, volume: usize, peer: usize) {
        let index = self.generation_index(volume, peer);
        let counts =
            self.volumes[volume].disk.as_ref().is_none_or(|disk| !disk.superblock.generations.bitmap[index].is_none());
        if !counts {
            self.begin_generation(volume, peer);
        }
    }

    /// A new generation: durable before any reply leaves.
    pub(super) fn begin_generation(&mut self, volume: usize, peer: usize) {
        let (rules, index, random) =
            (self.history_rules(volume), self.generation_index(volume, peer), self.random.next_u64());
        let primary = self.role == Role::Primary;
        let Some(disk) = self.volumes[volume].disk.as_mut() else { return };
        generation::new_current(&mut disk.superblock.generations, index, random, primary, rules);
        let current = disk.superblock.generations.current;
        let version = self.superblock_changed(volume);
        self.volumes[volume].reply_gate = version;
        self.volumes[volume].after_superblock(Then::TellPeers);
        let number = self.volumes[volume].settings.number;
        self.log(LogLevel::Info, format!("volume {number}: new data generation {current}"));
    }

    /// The new generation is durable: a connected peer must know it.
    pub(super) fn tell_generation(&mut self, volume: usize) {
        for peer in 0..self.peers.len() {
            if self.view(volume, peer).conn >= ConnectionState::Connected {
                self.send_uuids(volume, peer);
            }
        }
    }

    /// Our generations as the peer sees them.
    pub(super) fn own_tuple(&self, volume: usize, peer: usize) -> Option<Tuple> {
        let disk = self.volumes[volume].disk.as_ref()?;
        let node = self.peers[peer].settings.node_id.index();
        let mut tuple = generation::tuple_of(&disk.superblock.generations, disk.peer_index(node));
        tuple.changed_blocks = disk.bitmap.count(disk.slot(node));
        // Frozen, we have begun no generation; what the peer may lack of this one is in our bitmap all the same.
        tuple.crashed_primary = disk.crashed_primary || self.peers[peer].volumes[volume].generation_due;
        tuple.discard_my_data = self.peers[peer].discard_my_data;
        tuple.inconsistent = self.volumes[volume].disk_state == DiskState::Negotiating
            && self.volumes[volume].remembered == DiskState::Inconsistent
            || self.volumes[volume].disk_state == DiskState::Inconsistent;
        Some(tuple)
    }

    /// Sends P_UUIDS; a node without a disk has none to send.
    pub(super) fn send_uuids(&mut self, volume: usize, peer: usize) {
        self.send_uuids_with(volume, peer, UuidFlags::default());
    }

    pub(super) fn send_uuids_with(&mut self, volume: usize, peer: usize, extra: UuidFlags) {
        let Some(tuple) = self.own_tuple(volume, peer) else { return };
        self.peers[peer].volumes[volume].told_blocks = Some(tuple.changed_blocks);
        let mut flags = extra;
        for (on, flag) in [
            (tuple.discard_my_data, UuidFlags::DISCARD_MY_DATA),
            (tuple.crashed_primary, UuidFlags::CRASHED_PRIMARY),
            (tuple.inconsistent, UuidFlags::INCONSISTENT),
        ] {
            flags = if on { flags.with(flag) } else { flags };
        }
        let uuids = Uuids {
            current: tuple.current,
            bitmap: tuple.bitmap,
            history: tuple.history,
            dirty_bits: tuple.changed_blocks,
            flags,
        };
        self.send(peer, Stream::Data, volume, &Packet::Uuids(uuids));
    }

    /// The peer's tuple as it last sent it.
    pub(super) fn peer_tuple(&self, volume: usize, peer: usize) -> Option<Tuple> {
        let uuids = self.peers[peer].volumes[volume].uuids.as_ref()?;
        Some(Tuple {
            current: uuids.current,
            bitmap: uuids.bitmap,
            history: uuids.history,
            changed_blocks: uuids.dirty_bits,
            crashed_primary: uuids.flags.contains(UuidFlags::CRASHED_PRIMARY),
            discard_my_data: uuids.flags.contains(UuidFlags::DISCARD_MY_DATA),
            inconsistent: uuids.flags.contains(UuidFlags::INCONSISTENT),
            skip_initial_sync: uuids.flags.contains(UuidFlags::SKIP_INITIAL_SYNC),
        })
    }

    /// A resync has made both sides the same: what we know of the peer's generations is what ours are now.
    pub(super) fn equate_generations(&mut self, volume: usize, peer: usize) {
        let Some(own) = self.own_tuple(volume, peer) else { return };
        if let Some(uuids) = self.peers[peer].volumes[volume].uuids.as_mut() {
            uuids.current = own.current;
            uuids.bitmap = own.bitmap;
            uuids.history = own.history;
        }
    }

    /// P_UUIDS has come.
    pub(super) fn on_uuids(&mut self, volume: usize, peer: usize, uuids: Uuids) {
        let skip = uuids.flags.contains(UuidFlags::SKIP_INITIAL_SYNC);
        let current = uuids.current;
        self.peers[peer].volumes[volume].uuids = Some(uuids);
        let view = self.view(volume, peer);
        if view.disk < DiskState::Inconsistent && self.role == Role::Primary {
            let exposed = self.volumes[volume].exposed;
            if !exposed.is_none() && !exposed.same_as(current) && view.conn < ConnectionState::Connected {
                let sentence = format!("Can only connect to data with current UUID={exposed}");
                return self.stand_alone(peer, &sentence);
            }
        }
        if view.disk < DiskState::Inconsistent && !self.is_old_to_us(volume, peer) {
            // Without a disk of our own the peer's generation is what applications see.
            self.volumes[volume].exposed = current;
        }
        let fresh = self.own_tuple(volume, peer).is_some_and(|own| own.current.is_just_created());
        if skip && fresh && view.conn == ConnectionState::Connected && self.version(peer) >= 90 {
            self.adopt_skipped_sync(volume, peer, current);
        }
    }

    /// A diskless Primary's applications have seen one generation; the disk that its peer attaches is of another one.
    pub(super) fn is_old_to_us(&self, volume: usize, peer: usize) -> bool {
        let view = self.view(volume, peer);
        let comes = view.pdsk < DiskState::Inconsistent || view.pdsk == DiskState::Outdated;
        let exposed = self.volumes[volume].exposed;
        let current = self.peers[peer].volumes[volume].uuids.as_ref().map(|uuids| uuids.current);
        let is_other = !exposed.is_none() && current.is_some_and(|current| !exposed.same_as(current));
        self.role == Role::Primary && view.disk < DiskState::Inconsistent && comes && is_other
    }

    fn adopt_skipped_sync(&mut self, volume: usize, peer: usize, current: crate::model::generation_id::GenerationId) {
        let index = self.generation_index(volume, peer);
        let Some(disk) = self.volumes[volume].disk.as_mut() else { return };
        generation::adopt_skip_initial_sync(&mut disk.superblock.generations, index, current);
        (0..disk.bitmap.slots()).for_each(|slot| disk.bitmap.clear_all(slot));
        let number = self.volumes[volume].settings.number;
        self.log(LogLevel::Info, format!("volume {number}: accepted generation {current}, initial sync skipped"));
        let view = self.view(volume, peer);
        self.change_fact(volume, peer, View { disk: DiskState::UpToDate, pdsk: DiskState::UpToDate, ..view });
        self.after_superblock(volume, Then::TargetFinished(peer));
    }
}

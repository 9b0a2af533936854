//! When a write is answered, and when it is forgotten.
//!
//! A piece has a local part and one part per peer. It is *completed* when all parts have reached the point that the protocol
//! names (A: handed to the socket, B: received, C: written); where our own copy does not have it, every protocol waits until
//! it is written. It succeeds if at least one copy has it. It is *retired* (its
//! extent cools) when its epoch is confirmed as well.
//!
//! A reply leaves only through the gate: while a new generation is not durable, or the door is closed, completed pieces wait
//! in `frozen`, in order.

use super::Resource;
use super::action::{LogLevel, RequestError};
use super::mutant;
use super::request::{Local, Net};
use crate::model::state::DiskState;
use crate::wire::packet::ReplicationProtocol;

/// Something whose reply waits for the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frozen {
    Write(usize),
    Flush(usize),
    /// A piece of a read that no copy could answer, by its key.
    Read(usize),
}

impl Resource {
    /// The disk has answered a piece.
    pub(super) fn on_local_write(&mut self, write: usize, result: Result<(), super::event::DiskError>) {
        let volume = self.writes[write].volume;
        let failed = result.is_err();
        self.writes[write].local = if failed { Local::Failed } else { Local::Done };
        if let Some(peer) = self.writes[write].in_sync_with.take().filter(|_| !failed) {
            let range = self.writes[write].range;
            self.clear_bits(volume, peer, range);
        }
        if let Err(error) = result {
            let range = self.writes[write].range;
            self.mark_out_of_sync(volume, range);
            self.on_data_error(volume, &error, true);
        }
        self.try_complete(write);
        self.retire(write);
    }

    /// A peer's part has moved.
    pub(super) fn on_net(&mut self, write: usize, peer: usize, net: Net) {
        let (volume, range) = (self.writes[write].volume, self.writes[write].range);
        let old = self.writes[write].net[peer];
        if old == Net::Written && net == Net::Accepted {
            return;
        }
        self.writes[write].net[peer] = net;
        if net != Net::Written {
            self.writes[write].in_sync_with = None;
        }
        if matches!(net, Net::Refused | Net::Lost) {
            self.mark_out_of_sync(volume, range);
        }
        if matches!(old, Net::Sent | Net::Accepted) && !matches!(net, Net::Sent | Net::Accepted) {
            let pending = &mut self.peers[peer].volumes[volume].pending_acks;
            *pending = pending.saturating_sub(1);
        }
        self.try_complete(write);
    }

    /// Whether this peer's part has reached the protocol's point.
    fn net_is_complete(&self, write: usize, peer: usize) -> bool {
        match self.writes[write].net[peer] {
            Net::Sent => false,
            Net::Accepted => self.peers[peer].settings.protocol != ReplicationProtocol::C && self.is_saved_here(write),
            Net::NotSent | Net::Written | Net::Refused | Net::Lost => true,
        }
    }

    pub(super) fn try_complete(&mut self, write: usize) {
        let state = &self.writes[write];
        if state.completed || state.frozen || matches!(state.local, Local::Waiting | Local::Running) {
            return;
        }
        if let Some(peer) = (0..self.peers.len()).find(|peer| !self.net_is_complete(write, *peer)) {
            if self.writes[write].net[peer] == Net::Accepted {
                // Our own copy does not have it: on its way is not enough, and only the end of the epoch tells more.
                self.close_epoch(peer);
            }
            return;
        }
        let (volume, starved) = (state.volume, state.starved);
        let starves = self.suspended_no_data && !self.is_saved(write);
        if starves || !self.gate_is_open(volume) {
            let state = &mut self.writes[write];
            state.frozen = true;
            state.starved |= starves;
            self.volumes[volume].frozen.push(Frozen::Write(write));
        } else if starved && !self.is_saved(write) && self.reaches_data(volume) {
            self.restart_write(write);
            self.retire(write);
        } else {
            self.complete_write(write);
            self.retire(write);
        }
    }

    /// Whether a copy that counts has the write. One in the midst of a resync is nobody's to read, and one that we cannot
    /// reach may be overruled by ours when we meet again: alone they save nothing.
    fn is_saved(&self, write: usize) -> bool {
        let state = &self.writes[write];
        let on_peer =
            |peer: usize| state.net[peer] == Net::Written && self.view(state.volume, peer).pdsk == DiskState::UpToDate;
        self.is_saved_here(write) || (0..self.peers.len()).any(on_peer)
    }

    fn is_saved_here(&self, write: usize) -> bool {
        let state = &self.writes[write];
        state.local == Local::Done && self.volumes[state.volume].disk_state == DiskState::UpToDate
    }

    /// Whether replies may leave: the generation they need is durable, nothing is suspended, the door is open.
    pub(super) fn gate_is_open(&self, volume: usize) -> bool {
        let state = &self.volumes[volume];
        let durable = state
            .reply_gate
            .is_none_or(|version| state.disk.as_ref().is_none_or(|disk| disk.writer.is_durable(version)));
        (durable || mutant(7)) && self.door.is_open(self.now)
    }

    /// The superblock has reached the disk: what waited for it goes on.
    pub(super) fn open_gates(&mut self, volume: usize) {
        if self.volumes[volume].reply_gate.is_some() && self.gate_is_open(volume) {
            self.volumes[volume].reply_gate = None;
            self.release_frozen(volume);
        }
        self.open_peer_write_gate(volume);
    }

    /// Lets frozen replies leave.
    pub(super) fn release_frozen(&mut self, volume: usize) {
        for frozen in std::mem::take(&mut self.volumes[volume].frozen) {
            match frozen {
                Frozen::Write(write) => {
                    self.writes[write].frozen = false;
                    self.try_complete(write);
                    self.retire(write);
                }
                Frozen::Flush(flush) => self.try_complete_flush(volume, flush),
                Frozen::Read(key) => self.restart_read(key),
            }
        }
    }

    fn complete_write(&mut self, write: usize) {
        let state = &mut self.writes[write];
        state.completed = true;
        let (volume, parent) = (state.volume, state.parent);
        let saved = self.is_saved(write);
        let state = &mut self.writes[write];
        let held = state.held.take().expect("a running write holds its interval");
        let epochs = state.epoch;
        self.volumes[volume].writes_running -= 1;
        self.release_interval(volume, held);
        for (peer, epoch) in epochs.into_iter().enumerate().take(self.peers.len()) {
            // Whoever sees this reply writes into a later epoch.
            if epoch.is_some_and(|epoch| epoch == self.peers[peer].log.open()) {
                self.close_epoch(peer);
            }
        }
        let failure =
            (!saved).then(|| if self.volumes[volume].has_disk() { RequestError::Disk } else { RequestError::NoData });
        self.finish_piece(parent, failure);
    }

    fn finish_piece(&mut self, parent: usize, failure: Option<RequestError>) {
        let request = &mut self.requests[parent];
        request.pieces -= 1;
        request.error = request.error.or(failure);
        if request.pieces == 0 {
            let request = self.requests.remove(parent);
            self.reply(request.id, request.error.map_or(Ok(Vec::new()), Err));
        }
    }

    pub(super) fn release_interval(&mut self, volume: usize, held: super::conflicts::Held) {
        let mut ready = Vec::new();
        self.volumes[volume].conflicts.release(held, &mut ready);
        self.ready.extend(ready.into_iter().map(|owner| (volume, owner)));
    }

    /// Forgets a piece that is answered and safe (or given up) everywhere.
    pub(super) fn retire(&mut self, write: usize) {
        let Some(state) = self.writes.get(write) else { return };
        let busy = !state.completed || state.local == Local::Running || state.epoch.iter().any(Option::is_some);
        if busy {
            return;
        }
        let state = self.writes.remove(write);
        if let Some(incarnation) = state.pin {
            self.end_activity(state.volume, incarnation, state.range);
        }
    }

    /// The peer has confirmed an epoch.
    pub(super) fn on_epoch_confirmed(&mut self, peer: usize, writes: Vec<usize>) {
        for write in writes {
            let state = &mut self.writes[write];
            state.epoch[peer] = None;
            if matches!(state.net[peer], Net::Sent | Net::Accepted) {
                self.on_net(write, peer, Net::Written);
            }
            self.retire(write);
        }
        self.settle_flushes();
    }

    /// The connection is gone: what was not confirmed may be missing there.
    pub(super) fn give_up_unconfirmed(&mut self, peer: usize) {
        for (_, write) in self.writes.iter_mut().filter(|(_, write)| write.in_sync_with == Some(peer)) {
            write.in_sync_with = None;
        }
        let writes = self.peers[peer].log.abandon();
        if !writes.is_empty() {
            let name = self.peers[peer].settings.name.clone();
            self.log(LogLevel::Debug, format!("{} unconfirmed writes to {name} marked out of sync", writes.len()));
        }
        for write in writes {
            let state = &mut self.writes[write];
            state.epoch[peer] = None;
            let acked = state.net[peer] == Net::Written;
            let range = state.range;
            let volume = state.volume;
            if acked {
                if !mutant(8) {
                    self.mark_out_of_sync(volume, range);
                }
            } else {
                self.on_net(write, peer, Net::Lost);
            }
            self.retire(write);
        }
        self.settle_flushes();
    }

    /// Whether anything of an application is under way on a volume.
    pub(super) fn is_quiet(&self, volume: usize) -> bool {
        self.volumes[volume].writes_running == 0 && self.volumes[volume].flushes.is_empty()
    }
}

//! A client's flush: every write answered before it is stable when it is answered.
//!
//! The local disk is flushed; the open epoch is closed. In protocol C the reply waits until the peer has confirmed every
//! epoch up to that one (it flushes before it confirms); DRBD does not wait for that, we do. In A and B the barrier has been
//! sent, no more.

use super::Resource;
use super::action::{Area, DiskOperation, RequestError};
use super::completion::Frozen;
use super::event::{Request, RequestKind};
use super::mutant;
use super::settings::PEERS_MAX;
use super::volume::Pending;
use crate::model::ids::RequestId;
use crate::model::state::DiskState;
use crate::wire::packet::ReplicationProtocol;

/// A flush under way.
#[derive(Debug)]
pub(super) struct Flush {
    id: RequestId,
    local_running: bool,
    failed: bool,
    /// Epochs before this number must be confirmed.
    epochs: [u64; PEERS_MAX],
    frozen: bool,
    /// Frozen because no copy that counts could be asked.
    starved: bool,
}

impl Resource {
    pub(super) fn begin_flush(&mut self, id: RequestId, volume: usize) {
        let mut epochs = [0; PEERS_MAX];
        for (peer, epoch) in epochs.iter_mut().enumerate().take(self.peers.len()) {
            self.close_epoch(peer);
            if self.peers[peer].settings.protocol == ReplicationProtocol::C && !mutant(28) {
                *epoch = self.peers[peer].log.open();
            }
        }
        let has_disk = self.volumes[volume].has_disk();
        let local_running = has_disk && !Self::skips_local_flush();
        let flush = Flush { id, local_running, failed: false, epochs, frozen: false, starved: false };
        let flush = self.volumes[volume].flushes.insert(flush);
        if local_running {
            let operation = DiskOperation::Flush { area: Area::Data };
            self.disk_operation(volume, Pending::LocalFlush(volume, flush), operation);
        }
        self.try_complete_flush_now(volume, flush);
    }

    pub(super) fn on_local_flush(&mut self, volume: usize, flush: usize, result: Result<(), super::event::DiskError>) {
        if let Some(flush) = self.volumes[volume].flushes.get_mut(flush) {
            flush.local_running = false;
            flush.failed |= result.is_err();
        }
        if let Err(error) = result {
            self.on_data_error(volume, &error, true);
        }
        self.try_complete_flush_now(volume, flush);
    }

    /// Confirmations have arrived or connections have gone.
    pub(super) fn settle_flushes(&mut self) {
        for volume in 0..self.volumes.len() {
            let flushes: Vec<usize> = self.volumes[volume].flushes.iter().map(|(flush, _)| flush).collect();
            for flush in flushes {
                self.try_complete_flush_now(volume, flush);
            }
        }
    }

    /// After thawing.
    pub(super) fn try_complete_flush(&mut self, volume: usize, flush: usize) {
        if let Some(state) = self.volumes[volume].flushes.get_mut(flush) {
            state.frozen = false;
        }
        self.try_complete_flush_now(volume, flush);
    }

    fn try_complete_flush_now(&mut self, volume: usize, flush: usize) {
        let Some(state) = self.volumes[volume].flushes.get(flush) else { return };
        let confirmed = (0..self.peers.len()).all(|peer| self.peers[peer].log.confirmed_before() >= state.epochs[peer]);
        if state.frozen || state.local_running || !confirmed {
            return;
        }
        // With the local disk gone, the peer's copy is the good one; without any copy nothing is stable.
        let peer_has_it = (0..self.peers.len()).any(|peer| self.view(volume, peer).replicates());
        let local_has_it = self.volumes[volume].disk_state == DiskState::UpToDate && !state.failed;
        let (saved, starved) = (local_has_it || peer_has_it, state.starved);
        let starves = self.suspended_no_data && !saved;
        if starves || !self.gate_is_open(volume) {
            let state = &mut self.volumes[volume].flushes[flush];
            state.frozen = true;
            state.starved |= starves;
            self.volumes[volume].frozen.push(Frozen::Flush(flush));
            return;
        }
        let state = self.volumes[volume].flushes.remove(flush);
        if starved && self.reaches_data(volume) {
            // Once more from the door: a handshake may be under way.
            let request = Request { id: state.id, volume, kind: RequestKind::Flush };
            return self.volumes[volume].blocked.push_front(request);
        }
        let result = if saved { Ok(Vec::new()) } else { Err(RequestError::Disk) };
        self.reply(state.id, result);
    }
}

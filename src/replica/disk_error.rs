//! Tickets come back: each to its owner; and what an error of the local disk means for the volume.

use bytes::Bytes;

use super::Resource;
use super::action::LogLevel;
use super::event::DiskError;
use super::handler::Handler;
use super::settings::OnIoError;
use super::volume::Pending;
use crate::model::ids::Ticket;
use crate::model::state::{ConnectionState, DiskState, Role};

impl Resource {
    pub(super) fn on_disk(&mut self, ticket: Ticket, result: Result<Bytes, DiskError>) {
        let pending = self.pending.remove(ticket.0 as usize);
        let volume = self.volume_of_pending(&pending);
        self.volumes[volume].in_flight -= 1;
        let done = result.as_ref().map(|_| ()).map_err(Clone::clone);
        match pending {
            Pending::Attach(volume) => self.on_attach_io(volume, result),
            Pending::Superblock(volume) => self.on_metadata(volume, done, Self::on_superblock_written),
            Pending::ActivityRecord(volume) => self.on_metadata(volume, done, Self::on_record_written),
            Pending::CleanClose(volume) => self.on_metadata(volume, done, Self::on_log_emptied),
            Pending::BitmapPages(volume, pages) => {
                self.on_metadata(volume, done, |resource, volume| resource.on_pages_written(volume, &pages));
            }
            Pending::LocalWrite(write) => self.on_local_write(write, done),
            Pending::LocalFlush(volume, flush) => self.on_local_flush(volume, flush, done),
            Pending::LocalRead(key) => self.on_local_read(key, result),
            Pending::PeerWrite(write) => self.on_peer_written(write, done),
            Pending::EpochFlush(volume, peer) => self.on_epoch_flushed(volume, peer, done),
            Pending::PeerRead(read) => self.on_peer_read(read, result),
            Pending::SourceRead(read) => self.on_source_read(read, result),
            Pending::TargetWrite(write) => self.on_target_written(write, done),
            Pending::TargetChecksum(volume, number, first) => self.on_target_checksum(volume, number, first, result),
            Pending::TargetFlush(volume, peer, number) => self.on_target_flushed(volume, peer, number, done),
            Pending::Comparison(key) => self.on_comparison_read(key, result),
        }
        self.release_if_drained(volume);
    }

    fn volume_of_pending(&self, pending: &Pending) -> usize {
        match pending {
            Pending::Attach(volume)
            | Pending::Superblock(volume)
            | Pending::BitmapPages(volume, _)
            | Pending::ActivityRecord(volume)
            | Pending::CleanClose(volume)
            | Pending::LocalFlush(volume, _)
            | Pending::EpochFlush(volume, _)
            | Pending::TargetChecksum(volume, ..)
            | Pending::TargetFlush(volume, ..) => *volume,
            Pending::LocalWrite(write) => self.writes[*write].volume,
            Pending::LocalRead(key) => self.read_volume(*key),
            Pending::PeerWrite(write) => self.peer_write_volume(*write),
            Pending::PeerRead(read) => self.peer_read_volume(*read),
            Pending::SourceRead(read) => self.source_read_volume(*read),
            Pending::TargetWrite(write) => self.target_write_volume(*write),
            Pending::Comparison(key) => self.comparison_volume(*key),
        }
    }

    /// Metadata that cannot be written makes the disk useless, whatever the policy.
    fn on_metadata(&mut self, volume: usize, done: Result<(), DiskError>, then: impl FnOnce(&mut Self, usize)) {
        match done {
            Ok(()) => then(self, volume),
            Err(error) => {
                self.log(LogLevel::Error, format!("metadata: {error}"));
                self.fail_disk(volume);
            }
        }
    }

    /// The local disk failed an operation on data.
    pub(super) fn on_data_error(&mut self, volume: usize, error: &DiskError, write: bool) {
        let number = self.volumes[volume].settings.number;
        self.log(LogLevel::Error, format!("volume {number}: local {error}"));
        let source = (0..self.peers.len()).any(|peer| {
            let conn = self.view(volume, peer).conn;
            matches!(conn, ConnectionState::WfBitMapS | ConnectionState::SyncSource | ConnectionState::PausedSyncS)
        });
        let alone = (0..self.peers.len()).all(|peer| self.view(volume, peer).pdsk != DiskState::UpToDate);
        match self.volumes[volume].settings.on_io_error {
            OnIoError::Detach | OnIoError::CallHandler => self.fail_disk(volume),
            // The copy that others are made from must not miss a write.
            OnIoError::PassOn if write && source => self.fail_disk(volume),
            OnIoError::PassOn if self.volumes[volume].disk_state == DiskState::UpToDate && !alone => {
                self.set_disk_state(volume, DiskState::Inconsistent);
            }
            OnIoError::PassOn => {}
        }
    }

    /// Gives the disk up at once; what is in flight on it comes back by itself.
    pub(super) fn fail_disk(&mut self, volume: usize) {
        if let Some(attach) = self.volumes[volume].attach.take() {
            let refusal = super::refusal::Refusal::configuration(
                crate::control::refusal::ConfigurationRefusal::MetadataUnreadable,
                "the disk failed while it was being attached",
            );
            self.answer(attach.command(), Err(refusal));
            self.volumes[volume].disk = None;
            self.set_disk_state(volume, DiskState::Failed);
            return self.release_if_drained(volume);
        }
        if self.volumes[volume].disk.is_none() || self.volumes[volume].disk_state == DiskState::Diskless {
            return;
        }
        let was_closing = self.volumes[volume].disk.as_mut().is_some_and(|disk| disk.closing.take().is_some());
        let is_new = self.volumes[volume].disk_state != DiskState::Failed;
        if is_new {
            if self.volumes[volume].settings.on_io_error == OnIoError::CallHandler {
                self.run_handler(Handler::LocalIoError, Some(volume), None);
            }
            self.set_disk_state(volume, DiskState::Failed);
            self.volumes[volume].reply_gate = None;
            self.on_disk_failed(volume);
        }
        if is_new || was_closing {
            for peer in (0..self.peers.len()).filter(|peer| !self.peers[*peer].receive.is_idle()).collect::<Vec<_>>() {
                // Writes that were acknowledged may be lost with the disk's cache: their epochs must stay unconfirmed.
                self.lose_connection(
                    peer,
                    ConnectionState::NetworkFailure,
                    "the disk failed with the peer's writes on it",
                );
            }
        }
        self.release_if_drained(volume);
    }

    /// The disk is given up: whoever counted on it goes on without.
    pub(super) fn on_disk_failed(&mut self, volume: usize) {
        for peer in 0..self.peers.len() {
            self.give_up_resync(volume, peer);
        }
        self.abandon_activity(volume);
        self.release_frozen(volume);
        self.open_peer_write_gate(volume);
    }

    /// The disk is closed: nobody may still count on it.
    pub(super) fn on_disk_released(&mut self, volume: usize) {
        self.promotion_lost_disk(volume);
        self.abandon_activity(volume);
        self.release_frozen(volume);
        self.open_peer_write_gate(volume);
        if self.role == Role::Primary {
            self.settle_flushes();
        }
    }
}

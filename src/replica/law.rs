//! Every law that the machine can see for itself, asserted. Tests and the simulator call it after each event.

use super::Resource;
use super::request::Local;
use super::verify::is_verify;
use crate::model::state::{ConnectionState, DiskState, Role};

impl Resource {
    /// Panics if a law of the machine is broken.
    ///
    /// # Panics
    ///
    /// See above: that is its purpose.
    pub fn check(&self) {
        for (_, write) in &self.writes {
            assert!(write.held.is_some() != write.completed, "a write holds its interval until it is completed");
            let sent = write.epoch.iter().any(Option::is_some);
            assert!(!(write.completed && !sent && write.local != Local::Running), "a write that is over is forgotten");
        }
        for (number, volume) in self.volumes.iter().enumerate() {
            if let Some(disk) = volume.disk.as_ref().filter(|_| volume.has_disk()) {
                disk.log.check();
                let running =
                    self.writes.iter().any(|(_, write)| write.volume == number && write.pin == Some(disk.incarnation));
                let foreign = self.peer_writes.iter().any(|(_, write)| write.pin == Some(disk.incarnation));
                assert!(running || foreign || disk.log.pinned_count() == 0, "an extent is pinned by nobody");
                assert!(!running || disk.log.pinned_count() > 0, "every running write is pinned");
            }
            assert!(volume.disk_state != DiskState::UpToDate || volume.disk.is_some(), "UpToDate needs a disk");
        }
        for (number, peer) in self.peers.iter().enumerate() {
            for (volume, at) in peer.volumes.iter().enumerate() {
                let conn = self.view(volume, number).conn;
                assert!(
                    at.verify.is_some() == is_verify(conn),
                    "volume {volume} is {conn} and compares nothing, or compares and is not"
                );
            }
            let replicating = peer.volumes.iter().any(|volume| volume.conn >= ConnectionState::Connected);
            assert!(
                peer.link().is_some() || !replicating || peer.conn < ConnectionState::WfReportParams,
                "a state without a link"
            );
            let both = self.role == Role::Primary && peer.role == Role::Primary;
            assert!(!both || peer.settings.allow_two_primaries, "two primaries with peer {number}");
        }
    }
}

//! The activity log's part in a write: who asks for hot extents, and who is told when they are.
//!
//! Tokens name the askers: writes of applications, and the peer's writes while the peer has no disk of its own.

use super::{Resource, mutant};
use crate::activity_log::Begin;
use crate::model::units::SectorRange;

const PEER_WRITE: u64 = 1 << 63;

/// The token of an application's write.
pub(super) const fn token_of_write(write: usize) -> u64 {
    write as u64
}

/// The token of a peer's write.
pub(super) const fn token_of_peer_write(write: usize) -> u64 {
    write as u64 | PEER_WRITE
}

impl Resource {
    /// Whether every extent of the range is hot (and pinned now). If not, the token is admitted later.
    pub(super) fn begin_activity(&mut self, volume: usize, token: u64, range: SectorRange) -> bool {
        let (first, last) = range.extents();
        let disk = self.volumes[volume].disk.as_mut().expect("only a volume with a disk has a log");
        if mutant(1) {
            disk.log.set_mode(crate::activity_log::Mode::Disabled);
        }
        disk.log.begin(token, first, last) == Begin::Hot
    }

    /// The range's extents are pinned once less.
    pub(super) fn end_activity(&mut self, volume: usize, incarnation: u64, range: SectorRange) {
        let (first, last) = range.extents();
        if let Some(disk) = self.volumes[volume].disk.as_mut().filter(|disk| disk.incarnation == incarnation) {
            disk.log.complete(first, last);
        }
    }

    /// A record is durable: these tokens' extents are hot and pinned.
    pub(super) fn run_admitted(&mut self, volume: usize, admitted: &[u64]) {
        let incarnation = self.volumes[volume].disk.as_ref().map(|disk| disk.incarnation);
        for token in admitted {
            let key = (token & !PEER_WRITE) as usize;
            if token & PEER_WRITE == 0 {
                self.writes[key].pin = incarnation;
                self.submit_write(key);
            } else {
                self.peer_writes[key].pin = incarnation;
                self.start_peer_write(key);
            }
        }
    }

    /// The disk is gone: whoever waited for its log goes on without it.
    pub(super) fn abandon_activity(&mut self, volume: usize) {
        let waiting: Vec<usize> = self
            .writes
            .iter()
            .filter(|(_, write)| write.volume == volume && write.waiting_for_log)
            .map(|(key, _)| key)
            .collect();
        for write in waiting {
            self.submit_write(write);
        }
        self.fail_waiting_peer_writes(volume);
    }
}

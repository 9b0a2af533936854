//! What a resource looks like from outside.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Resource;
use super::resync::{Resync, Side};
use super::verify::{self, Verify};
use crate::control::status::{
    PeerStatus, PeerVolumeStatus, ResourceStatus, ResyncSuspended, Suspended, SyncStatus, VolumeStatus,
};
use crate::model::state::DiskState;
use crate::model::time::Instant;
use crate::model::units::BLOCK_BYTES;
use crate::wire::packet::ReplicationProtocol;

/// KiB of a bit.
const BLOCK_KIB: u64 = BLOCK_BYTES / 1024;
/// Bytes that wait for the data socket from which on the link is congested: a request of the largest size.
const CONGESTED_BYTES: u64 = 1 << 20;
/// A resync whose oldest mark of progress (of eight, at least three seconds apart) is older has stalled.
const STALLED_AFTER: Duration = Duration::from_secs(180);

impl Resource {
    /// The whole state at `now`, for people and checkers.
    #[must_use]
    pub fn status(&self, now: Instant) -> ResourceStatus {
        ResourceStatus {
            name: self.settings.name.clone(),
            node_name: self.settings.node_name.clone(),
            node_id: self.settings.node_id.number(),
            role: self.role,
            suspended: Suspended {
                user: self.suspended,
                no_data: self.suspended_no_data,
                fencing: self.door.is_frozen(),
            },
            write_ordering: if self.volumes.iter().all(|volume| volume.settings.disk_flushes) {
                "flush"
            } else {
                "drain"
            }
            .into(),
            volumes: (0..self.volumes.len()).map(|volume| self.volume_status(volume)).collect(),
            peers: (0..self.peers.len()).map(|peer| self.peer_status(peer, now)).collect(),
        }
    }

    fn volume_status(&self, volume: usize) -> VolumeStatus {
        let state = &self.volumes[volume];
        VolumeStatus {
            number: state.settings.number.0,
            minor: state.settings.minor,
            device: state.settings.device_name.clone(),
            disk: state.disk_state,
            size_sectors: state.device_sectors,
            read_kib: state.counters.sectors_read / 2,
            written_kib: state.counters.sectors_written / 2,
            al_writes: state.counters.activity_writes,
            bm_writes: state.counters.bitmap_writes,
            upper_pending: self.upper_pending(volume),
            lower_pending: state.in_flight as u64,
            blocked_upper: self.is_blocked(volume),
            client: self.is_client(volume),
            open: state.openers > 0,
            nbd: Vec::new(),
            backing_dev: state.settings.backing_device.clone().filter(|_| state.disk.is_some()),
            reason: None,
        }
    }

    /// Whether the volume has no disk here because it is to have none.
    pub(super) fn is_client(&self, volume: usize) -> bool {
        let state = &self.volumes[volume];
        state.settings.backing_device.is_none() && state.disk_state == DiskState::Diskless
    }

    /// Requests of applications that are not answered: waiting, reading, flushing, writing.
    fn upper_pending(&self, volume: usize) -> u64 {
        let state = &self.volumes[volume];
        let writes = self.writes.iter().filter(|(_, write)| write.volume == volume && !write.completed);
        let writing: BTreeSet<usize> = writes.map(|(_, write)| write.parent).collect();
        (state.blocked.len() + self.reads_pending(volume) + state.flushes.len() + writing.len()) as u64
    }

    fn peer_status(&self, peer: usize, now: Instant) -> PeerStatus {
        let state = &self.peers[peer];
        let connection = (0..self.volumes.len()).map(|volume| self.view(volume, peer).conn).min().unwrap_or(state.conn);
        let writes = self.writes.iter().filter(|(_, write)| write.epoch[peer].is_some());
        let resync = (0..self.volumes.len())
            .map(|volume| self.target_asked(volume, peer).1 + self.served(volume, peer).1)
            .sum::<u64>();
        PeerStatus {
            name: state.settings.name.clone(),
            node_id: state.settings.node_id.number(),
            connection,
            role: state.role,
            protocol: Some(match state.settings.protocol {
                ReplicationProtocol::A => 'A',
                ReplicationProtocol::B => 'B',
                ReplicationProtocol::C => 'C',
            }),
            congested: self.backlog(peer) > CONGESTED_BYTES,
            ap_in_flight: writes.map(|(_, write)| write.range.sectors).sum(),
            rs_in_flight: resync,
            epochs: (state.log.len() + state.receive.open_epochs()) as u64,
            reason: state.reason.clone(),
            path: None,
            volumes: (0..self.volumes.len()).map(|volume| self.peer_volume_status(volume, peer, now)).collect(),
        }
    }

    /// Ranges and sectors that we, the target, have asked for.
    fn target_asked(&self, volume: usize, peer: usize) -> (u64, u64) {
        match self.peers[peer].volumes[volume].resync.as_ref().map(|resync| &resync.side) {
            Some(Side::Target(target)) => {
                let sent = target.asked.values().filter(|asked| asked.sent);
                sent.fold((0, 0), |(ranges, sectors), asked| (ranges + 1, sectors + asked.range.sectors))
            }
            Some(Side::Source) | None => (0, 0),
        }
    }

    fn peer_volume_status(&self, volume: usize, peer: usize, now: Instant) -> PeerVolumeStatus {
        let view = self.view(volume, peer);
        let state = &self.peers[peer].volumes[volume];
        let resyncing = (self.target_asked(volume, peer).0, self.served(volume, peer).0);
        let (comparing, digesting) = self.open_comparisons(volume, peer);
        let answering = self.unserved(volume, peer) + self.unacknowledged_ranges(volume, peer) + digesting;
        PeerVolumeStatus {
            number: self.volumes[volume].settings.number.0,
            replication: view.conn,
            peer_disk: view.pdsk,
            resync_suspended: ResyncSuspended { user: view.user_isp, peer: view.peer_isp },
            received_kib: state.sectors_received / 2,
            sent_kib: state.sectors_sent / 2,
            out_of_sync_kib: self.bits_left(volume, peer) * BLOCK_KIB,
            pending: state.pending_acks + self.remote_pieces(volume, peer) + resyncing.0 + resyncing.1 + comparing,
            unacked: state.unacked + self.peer_reads(volume, peer) + answering,
            sync: match (&state.resync, &state.verify) {
                (_, Some(verify)) => Some(verify_status(now, verify)),
                (Some(resync), None) => Some(self.sync_status(volume, peer, now, resync)),
                (None, None) => None,
            },
        }
    }

    fn sync_status(&self, volume: usize, peer: usize, now: Instant, resync: &Resync) -> SyncStatus {
        let left = self.bits_left(volume, peer).min(resync.total);
        let done = resync.total - left;
        let (since, bits) = resync.marks.oldest();
        let rate = rate_kib(bits.saturating_sub(left), now.since(since));
        let (elapsed, held) = (now.since(resync.started), resync.held(now));
        SyncStatus {
            done_percent: if resync.total == 0 { 100.0 } else { done as f64 * 100.0 / resync.total as f64 },
            total_kib: resync.total * BLOCK_KIB,
            left_kib: left * BLOCK_KIB,
            rate_kib_per_s: rate,
            average_kib_per_s: rate_kib(done, elapsed.saturating_sub(held)),
            want_kib_per_s: match &resync.side {
                Side::Target(target) => Some(target.controller.want_kib_per_s()),
                Side::Source => None,
            },
            seconds_left: (left * BLOCK_KIB).checked_div(rate),
            stalled: !resync.is_held() && now.since(since) > STALLED_AFTER,
            elapsed_ms: elapsed.as_millis() as u64,
            paused_ms: held.as_millis() as u64,
            failed_kib: resync.failed * BLOCK_KIB,
            same_kib: resync.same * BLOCK_KIB,
        }
    }
}

fn verify_status(now: Instant, verify: &Verify) -> SyncStatus {
    let (total, left, done) = (verify.total(), verify.left(), verify.total() - verify.left());
    let (since, before) = verify.marks.oldest();
    let rate = rate_kib(before.saturating_sub(left), now.since(since));
    let elapsed = now.since(verify.started);
    SyncStatus {
        done_percent: if total == 0 { 100.0 } else { done as f64 * 100.0 / total as f64 },
        total_kib: total * BLOCK_KIB,
        left_kib: left * BLOCK_KIB,
        rate_kib_per_s: rate,
        average_kib_per_s: rate_kib(done, elapsed),
        want_kib_per_s: match &verify.side {
            verify::Side::Source(source) => Some(source.controller.want_kib_per_s()),
            verify::Side::Target(_) => None,
        },
        seconds_left: (left * BLOCK_KIB).checked_div(rate),
        stalled: now.since(since) > STALLED_AFTER,
        elapsed_ms: elapsed.as_millis() as u64,
        paused_ms: 0,
        failed_kib: verify.skipped * BLOCK_KIB,
        same_kib: 0,
    }
}

fn rate_kib(blocks: u64, time: Duration) -> u64 {
    (u128::from(blocks) * u128::from(BLOCK_KIB) * 1000 / time.as_millis().max(1)) as u64
}

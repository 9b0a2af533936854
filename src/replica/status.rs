//! What a resource looks like from outside.

use super::Resource;
use super::resync::{Resync, Side};
use crate::control::status::{
    PeerStatus, PeerVolumeStatus, ResourceStatus, ResyncSuspended, Suspended, SyncStatus, VolumeStatus,
};
use crate::model::state::{ConnectionState, DiskState};
use crate::wire::packet::ReplicationProtocol;

impl Resource {
    /// The whole state, for people and checkers.
    #[must_use]
    pub fn status(&self) -> ResourceStatus {
        ResourceStatus {
            name: self.settings.name.clone(),
            node_name: self.settings.node_name.clone(),
            node_id: self.settings.node_id.number(),
            role: self.role,
            suspended: Suspended { user: self.suspended, no_data: self.suspended_no_data, fencing: false },
            write_ordering: if self.volumes.iter().all(|volume| volume.settings.disk_flushes) {
                "flush"
            } else {
                "drain"
            }
            .into(),
            volumes: (0..self.volumes.len()).map(|volume| self.volume_status(volume)).collect(),
            peers: (0..self.peers.len()).map(|peer| self.peer_status(peer)).collect(),
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
            upper_pending: (state.writes_running + state.flushes.len() + state.blocked.len()) as u64,
            lower_pending: state.in_flight as u64,
            al_suspended: false,
            blocked_upper: self.is_blocked(volume),
            blocked_lower: false,
            client: self.is_client(volume),
            open: state.openers > 0,
            nbd: Vec::new(),
            backing_dev: state.settings.backing_device.clone().filter(|_| state.disk.is_some()),
        }
    }

    /// Whether the volume has no disk here because it is to have none.
    pub(super) fn is_client(&self, volume: usize) -> bool {
        let state = &self.volumes[volume];
        state.settings.backing_device.is_none() && state.disk_state == DiskState::Diskless
    }

    fn peer_status(&self, peer: usize) -> PeerStatus {
        let state = &self.peers[peer];
        let connection = (0..self.volumes.len()).map(|volume| self.view(volume, peer).conn).min().unwrap_or(state.conn);
        let in_flight: u64 = self
            .writes
            .iter()
            .filter(|(_, write)| write.epoch[peer].is_some())
            .map(|(_, write)| write.range.sectors)
            .sum();
        let resync: u64 = state
            .volumes
            .iter()
            .filter_map(|volume| match &volume.resync.as_ref()?.side {
                Side::Target(target) => Some(target.asked_sectors),
                Side::Source => None,
            })
            .sum();
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
            congested: false,
            ap_in_flight: in_flight,
            rs_in_flight: resync,
            epochs: state.log.len() as u64,
            reason: state.reason.clone(),
            volumes: (0..self.volumes.len()).map(|volume| self.peer_volume_status(volume, peer)).collect(),
        }
    }

    fn peer_volume_status(&self, volume: usize, peer: usize) -> PeerVolumeStatus {
        let view = self.view(volume, peer);
        let state = &self.peers[peer].volumes[volume];
        PeerVolumeStatus {
            number: self.volumes[volume].settings.number.0,
            replication: view.conn,
            peer_disk: view.pdsk,
            resync_suspended: ResyncSuspended { user: view.user_isp, peer: view.peer_isp, dependency: false },
            received_kib: state.sectors_received / 2,
            sent_kib: state.sectors_sent / 2,
            out_of_sync_kib: self.bits_left(volume, peer) * 4,
            pending: state.pending_acks,
            unacked: state.unacked,
            sync: state.resync.as_ref().map(|resync| self.sync_status(volume, peer, view.conn, resync)),
        }
    }

    fn sync_status(&self, volume: usize, peer: usize, _conn: ConnectionState, resync: &Resync) -> SyncStatus {
        let left = self.bits_left(volume, peer).min(resync.total);
        let done = resync.total - left;
        let (since, bits) = resync.oldest_mark();
        let rate = rate_kib(bits.saturating_sub(left), self.now.since(since).as_millis());
        SyncStatus {
            done_percent: if resync.total == 0 { 100.0 } else { done as f64 * 100.0 / resync.total as f64 },
            total_kib: resync.total * 4,
            left_kib: left * 4,
            rate_kib_per_s: rate,
            average_kib_per_s: rate_kib(done, self.now.since(resync.started).as_millis()),
            seconds_left: (left * 4).checked_div(rate),
            ..SyncStatus::default()
        }
    }
}

fn rate_kib(blocks: u64, millis: u128) -> u64 {
    (u128::from(blocks) * 4 * 1000 / millis.max(1)) as u64
}

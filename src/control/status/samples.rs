//! Statuses that the renderings are tested with.

use super::{
    PathStatus, PeerStatus, PeerVolumeStatus, ResourceStatus, ResyncSuspended, Suspended, SyncStatus, VolumeStatus,
};
use crate::model::state::{ConnectionState, DiskState, Role};

/// Primary and Secondary, both up to date, one volume.
pub(super) fn pair() -> ResourceStatus {
    ResourceStatus {
        name: "data".into(),
        node_name: "alpha".into(),
        node_id: 0,
        role: Role::Primary,
        suspended: Suspended::default(),
        write_ordering: "flush".into(),
        volumes: vec![VolumeStatus {
            number: 0,
            minor: 0,
            device: "/dev/drbd0".into(),
            disk: DiskState::UpToDate,
            size_sectors: 2 << 20,
            read_kib: 12,
            written_kib: 34,
            al_writes: 5,
            bm_writes: 6,
            upper_pending: 1,
            lower_pending: 2,
            blocked_upper: false,
            client: false,
            open: true,
            nbd: vec!["nbd+unix:///data?socket=/run/shimai/nbd.sock".into()],
            backing_dev: Some("/dev/vg/data".into()),
            reason: None,
        }],
        peers: vec![PeerStatus {
            name: "bravo".into(),
            node_id: 1,
            connection: ConnectionState::Connected,
            role: Role::Secondary,
            protocol: Some('C'),
            congested: false,
            ap_in_flight: 8,
            rs_in_flight: 0,
            epochs: 1,
            reason: None,
            path: Some(PathStatus {
                this_host: "10.0.0.1:7789".parse().expect("an address"),
                remote_host: "[fd00::2]:7788".parse().expect("an address"),
            }),
            volumes: vec![PeerVolumeStatus {
                number: 0,
                replication: ConnectionState::Connected,
                peer_disk: DiskState::UpToDate,
                resync_suspended: ResyncSuspended::default(),
                received_kib: 7,
                sent_kib: 89,
                out_of_sync_kib: 0,
                pending: 3,
                unacked: 4,
                sync: None,
            }],
        }],
    }
}

/// The pair with two volumes.
pub(super) fn second_volume() -> ResourceStatus {
    let mut status = pair();
    let mut volume = status.volumes[0].clone();
    (volume.number, volume.minor) = (1, 1);
    status.volumes.push(volume);
    let mut peer_volume = status.peers[0].volumes[0].clone();
    peer_volume.number = 1;
    status.peers[0].volumes.push(peer_volume);
    status
}

/// The pair while the peer's disk is being filled.
pub(super) fn syncing() -> ResourceStatus {
    let mut status = pair();
    let volume = &mut status.peers[0].volumes[0];
    volume.replication = ConnectionState::SyncSource;
    volume.peer_disk = DiskState::Inconsistent;
    volume.out_of_sync_kib = 794_704_668;
    volume.sync = Some(SyncStatus {
        done_percent: 18.6,
        total_kib: 976_293_000,
        left_kib: 794_704_668,
        rate_kib_per_s: 40_480,
        average_kib_per_s: 38_112,
        seconds_left: Some(19_622),
        ..SyncStatus::default()
    });
    status
}

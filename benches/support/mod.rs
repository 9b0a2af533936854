//! Settings that benchmarks of whole resources share.

use std::time::Duration;

use shimai::metadata::layout::Placement;
use shimai::model::ids::{NodeId, VolumeNumber};
use shimai::replica::settings::{OnIoError, PeerSettings, ResyncSettings, Settings, VolumeSettings};
use shimai::wire::packet::{AfterSplitBrain, ReplicationProtocol};

/// A resource with one volume, on node 0 or 1 of two.
pub(crate) fn settings(number: u8) -> Settings {
    Settings {
        name: "data".to_owned(),
        node_name: name(number),
        node_id: node_id(number),
        volumes: vec![volume()],
        peers: vec![peer(1 - number)],
        suspend_without_data: false,
        seed: [number; 32],
    }
}

fn name(number: u8) -> String {
    if number == 0 { "alice" } else { "bob" }.to_owned()
}

fn node_id(number: u8) -> NodeId {
    NodeId::new(number).expect("0 and 1 are node ids")
}

fn volume() -> VolumeSettings {
    VolumeSettings {
        number: VolumeNumber(0),
        minor: 0,
        device_name: "/dev/drbd0".to_owned(),
        backing_device: None,
        placement: Placement::Internal,
        size_sectors: 0,
        al_extents: 1237,
        on_io_error: OnIoError::Detach,
        disk_flushes: true,
        md_flushes: true,
        resync: ResyncSettings {
            rate_kib: 250_000,
            plan_ahead: 0,
            delay_target: 10,
            fill_target: 100,
            max_rate_kib: 1_000_000,
            min_rate_kib: 250_000,
        },
    }
}

fn peer(number: u8) -> PeerSettings {
    PeerSettings {
        name: name(number),
        node_id: node_id(number),
        address_is_lower: number == 1,
        protocol: ReplicationProtocol::C,
        version_max: 101,
        authentication: None,
        integrity: None,
        verify_alg: String::new(),
        csums: None,
        use_rle: true,
        timeout: Duration::from_secs(6),
        ko_count: 7,
        ping_interval: Duration::from_secs(10),
        ping_timeout: Duration::from_millis(500),
        connect_interval: Duration::from_millis(200),
        epoch_writes_max: 2048,
        buffers_max: 2048,
        allow_two_primaries: false,
        after_split_brain: [AfterSplitBrain::Disconnect; 3],
    }
}

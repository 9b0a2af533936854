//! Settings that benchmarks of whole resources share.

use std::collections::BTreeMap;
use std::time::Duration;

use shimai::model::ids::{NodeId, VolumeNumber};
use shimai::replica::settings::{PeerSettings, ResyncSettings, Settings, VolumeSettings};

/// A resource with one volume, on node 0 or 1 of two.
pub(crate) fn settings(number: u8) -> Settings {
    Settings {
        name: "data".to_owned(),
        node_name: name(number).to_owned(),
        node_id: node_id(number),
        volumes: vec![volume()],
        peers: vec![peer(1 - number)],
        suspend_without_data: false,
        handlers: BTreeMap::new(),
        seed: [number; 32],
    }
}

fn name(number: u8) -> &'static str {
    if number == 0 { "alice" } else { "bob" }
}

fn node_id(number: u8) -> NodeId {
    NodeId::new(number).expect("0 and 1 are node ids")
}

fn volume() -> VolumeSettings {
    VolumeSettings {
        resync: ResyncSettings {
            rate_kib: 250_000,
            plan_ahead: 0,
            max_rate_kib: 1_000_000,
            min_rate_kib: 250_000,
            ..ResyncSettings::DEFAULT
        },
        ..VolumeSettings::with_defaults(VolumeNumber(0))
    }
}

fn peer(number: u8) -> PeerSettings {
    PeerSettings {
        address_is_lower: number == 1,
        connect_interval: Duration::from_millis(200),
        ..PeerSettings::with_defaults(name(number), node_id(number))
    }
}

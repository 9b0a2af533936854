//! What a resource looks like from outside, and its renderings.
//!
//! The value is what the daemon sends and what checkers look at; `text`, `json`, `proc_drbd` and `events` are for people
//! and for scripts that already read DRBD's.
//!
//! Sizes are in KiB except `size_sectors`, counters count since the resource came up.

pub mod events;
mod json;
mod proc_drbd;
#[cfg(test)]
mod samples;
mod text;

pub use json::json;
pub use proc_drbd::proc_drbd;
pub use text::{RenderOptions, text};

use super::names;
use crate::model::state::{ConnectionState, DiskState, Role};
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// A resource with all it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResourceStatus {
    /// As in the configuration.
    pub name: String,
    /// The host name of this node.
    pub node_name: String,
    /// This node in the resource.
    pub node_id: u8,
    /// Who may write.
    #[serde(with = "names")]
    pub role: Role,
    /// Whether the application's requests are held, and why.
    #[serde(default)]
    pub suspended: Suspended,
    /// How the order of writes is kept on the backing disks: `none`, `drain`, `flush` or `barrier`.
    pub write_ordering: String,
    /// By number.
    #[serde(default)]
    pub volumes: Vec<VolumeStatus>,
    /// By node id.
    #[serde(default)]
    pub peers: Vec<PeerStatus>,
}

/// Why requests are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Suspended {
    /// By the operator.
    pub user: bool,
    /// No disk, here or there, has the data.
    pub no_data: bool,
    /// It is not known whether the peer, which cannot be reached, is in use.
    pub fencing: bool,
}

impl Suspended {
    /// For any reason.
    #[must_use]
    pub const fn any(self) -> bool {
        self.user || self.no_data || self.fencing
    }
}

/// One volume on this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Within the resource.
    pub number: u16,
    /// The minor number that the configuration gives it.
    pub minor: u32,
    /// The `device` of the configuration.
    pub device: String,
    /// What the data on our disk is worth.
    #[serde(with = "names")]
    pub disk: DiskState,
    /// Size of the replicated device; 0 while it is not known.
    pub size_sectors: u64,
    /// Read from the backing disk.
    #[serde(default)]
    pub read_kib: u64,
    /// Written to the backing disk.
    #[serde(default)]
    pub written_kib: u64,
    /// Records written to the activity log.
    #[serde(default)]
    pub al_writes: u64,
    /// Pages written to the bitmap.
    #[serde(default)]
    pub bm_writes: u64,
    /// Requests of applications that are not answered yet.
    #[serde(default)]
    pub upper_pending: u64,
    /// Requests to the backing disk that are not answered yet.
    #[serde(default)]
    pub lower_pending: u64,
    /// New requests of applications wait.
    #[serde(default)]
    pub blocked_upper: bool,
    /// Intentionally without a disk.
    #[serde(default)]
    pub client: bool,
    /// At least one application holds the volume open.
    #[serde(default)]
    pub open: bool,
    /// Where an NBD client finds it.
    #[serde(default)]
    pub nbd: Vec<String>,
    /// The path of the backing disk, while attached.
    #[serde(default)]
    pub backing_dev: Option<String>,
    /// Why there is no disk, in words; absent while there is one, and where nobody has tried to attach one.
    #[serde(default)]
    pub reason: Option<String>,
}

/// One peer of the resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its host name.
    pub name: String,
    /// Its node in the resource.
    pub node_id: u8,
    /// DRBD 8.4's state of the connection; where volumes differ, the lowest.
    #[serde(with = "names")]
    pub connection: ConnectionState,
    /// Its role, `Unknown` while not connected.
    #[serde(with = "names")]
    pub role: Role,
    /// The protocol of the connection (`A`, `B`, `C`); absent without a network configuration.
    #[serde(default)]
    pub protocol: Option<char>,
    /// The link takes less than we have to send: more than a request waits for the socket.
    #[serde(default)]
    pub congested: bool,
    /// Sectors of applications' writes under way to it.
    #[serde(default)]
    pub ap_in_flight: u64,
    /// Sectors of resync under way.
    #[serde(default)]
    pub rs_in_flight: u64,
    /// Epochs of writes that it, or we, have not confirmed.
    #[serde(default)]
    pub epochs: u64,
    /// Why it is not connected, in words.
    #[serde(default)]
    pub reason: Option<String>,
    /// Between which addresses.
    #[serde(default)]
    pub path: Option<PathStatus>,
    /// By number.
    #[serde(default)]
    pub volumes: Vec<PeerVolumeStatus>,
}

/// The two ends of a connection, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStatus {
    /// Ours.
    pub this_host: SocketAddr,
    /// The peer's.
    pub remote_host: SocketAddr,
}

/// One volume towards one peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerVolumeStatus {
    /// Within the resource.
    pub number: u16,
    /// What replication does; below `Connected` it is off.
    #[serde(with = "names")]
    pub replication: ConnectionState,
    /// What the data on the peer's disk is worth.
    #[serde(with = "names")]
    pub peer_disk: DiskState,
    /// The resync is held, and why.
    #[serde(default)]
    pub resync_suspended: ResyncSuspended,
    /// From the peer.
    #[serde(default)]
    pub received_kib: u64,
    /// To the peer.
    #[serde(default)]
    pub sent_kib: u64,
    /// What may differ.
    #[serde(default)]
    pub out_of_sync_kib: u64,
    /// Sent, not acknowledged by the peer: writes, reads, and ranges of a resync.
    #[serde(default)]
    pub pending: u64,
    /// Received, not acknowledged by us: writes, reads, and ranges of a resync.
    #[serde(default)]
    pub unacked: u64,
    /// While a resync or verify runs or is paused.
    #[serde(default)]
    pub sync: Option<SyncStatus>,
}

/// Why a resync is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResyncSuspended {
    /// By our operator.
    pub user: bool,
    /// By the peer.
    pub peer: bool,
}

impl ResyncSuspended {
    /// For any reason.
    #[must_use]
    pub const fn any(self) -> bool {
        self.user || self.peer
    }
}

/// Where a resync or verify stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncStatus {
    /// 0 to 100.
    pub done_percent: f64,
    /// What there was to do when it began.
    pub total_kib: u64,
    /// What is left of it.
    pub left_kib: u64,
    /// Over the last seconds.
    pub rate_kib_per_s: u64,
    /// Since it began, pauses not counted.
    pub average_kib_per_s: u64,
    /// What the rate control asks for; only known where we ask the peer for blocks.
    pub want_kib_per_s: Option<u64>,
    /// At the rate of the last seconds.
    pub seconds_left: Option<u64>,
    /// No progress for minutes, although nobody holds it.
    pub stalled: bool,
    /// How long ago it began.
    pub elapsed_ms: u64,
    /// How long of that it was held.
    pub paused_ms: u64,
    /// Blocks that could not be read or written.
    pub failed_kib: u64,
    /// Blocks found equal by checksum, not transferred.
    pub same_kib: u64,
}

impl PeerStatus {
    /// Whether the peer answers: the handshake has at least begun.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connection >= ConnectionState::WfReportParams
    }

    /// The volume with that number.
    #[must_use]
    pub fn volume(&self, number: u16) -> Option<&PeerVolumeStatus> {
        self.volumes.iter().find(|volume| volume.number == number)
    }

    /// The connection in the terms of DRBD 9's tools.
    fn connection_name(&self) -> &'static str {
        match self.connection {
            ConnectionState::WfConnection => "Connecting",
            state if state >= ConnectionState::WfReportParams => "Connected",
            state => state.name(),
        }
    }
}

impl PeerVolumeStatus {
    /// The replication state in the terms of DRBD 9's tools.
    fn replication_name(&self) -> &'static str {
        match self.replication {
            ConnectionState::Connected => "Established",
            state if state < ConnectionState::Connected => "Off",
            state => state.name(),
        }
    }
}

impl ResyncSuspended {
    /// `no` or the list of reasons.
    fn list(self) -> String {
        list(&[(self.user, "user"), (self.peer, "peer")])
    }
}

impl Suspended {
    /// `no` or the list of reasons.
    fn list(self) -> String {
        list(&[(self.user, "user"), (self.no_data, "no-data"), (self.fencing, "fencing")])
    }
}

impl VolumeStatus {
    /// `no` or what is blocked.
    fn blocked(&self) -> String {
        list(&[(self.blocked_upper, "upper")])
    }
}

/// The names that are set, with commas; `no` if none is.
fn list(flags: &[(bool, &str)]) -> String {
    let set: Vec<&str> = flags.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| *name).collect();
    if set.is_empty() { "no".into() } else { set.join(",") }
}

const fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Response, decode_response, encode};

    #[test]
    fn a_status_survives_the_line_and_fits_many_times() {
        for status in [samples::pair(), samples::second_volume(), samples::syncing()] {
            let response = Response::Status(vec![status]);
            let line = encode(&response);
            assert!(line.len() < crate::control::LINE_BYTES_MAX / 100, "{} bytes", line.len());
            assert_eq!(decode_response(&line), Ok(response));
        }
    }

    #[test]
    fn states_below_connected_have_the_names_of_drbd_9() {
        let mut peer = samples::pair().peers.remove(0);
        let names = [ConnectionState::StandAlone, ConnectionState::WfConnection, ConnectionState::WfReportParams].map(
            |state| {
                peer.connection = state;
                peer.connection_name()
            },
        );
        assert_eq!(names, ["StandAlone", "Connecting", "Connected"]);
    }
}

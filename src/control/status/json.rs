//! `status --json`: DRBD 9's keys in DRBD 9's order, and `nbd` besides.
//!
//! An array with one object a resource; the brackets and the commas between objects stand on lines of their own, which
//! line-oriented readers rely on.

use super::{PathStatus, PeerStatus, PeerVolumeStatus, ResourceStatus, SyncStatus, VolumeStatus};
use crate::model::state::ConnectionState;
use core::net::SocketAddr;
use serde::Serialize;

/// The array, with a line feed at the end.
#[must_use]
pub fn json(resources: &[ResourceStatus]) -> String {
    let mut sorted: Vec<&ResourceStatus> = resources.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let objects: Vec<String> = sorted
        .into_iter()
        .map(|resource| serde_json::to_string_pretty(&Resource::of(resource)).expect("string keys and plain values"))
        .collect();
    if objects.is_empty() { "[\n]\n".into() } else { format!("[\n{}\n]\n", objects.join("\n,\n")) }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Resource<'a> {
    name: &'a str,
    node_id: u8,
    role: &'static str,
    suspended: bool,
    suspended_user: bool,
    suspended_no_data: bool,
    suspended_fencing: bool,
    suspended_quorum: bool,
    force_io_failures: bool,
    write_ordering: &'a str,
    devices: Vec<Device<'a>>,
    connections: Vec<Connection<'a>>,
}

impl<'a> Resource<'a> {
    fn of(status: &'a ResourceStatus) -> Self {
        Self {
            name: &status.name,
            node_id: status.node_id,
            role: status.role.name(),
            suspended: status.suspended.any(),
            suspended_user: status.suspended.user,
            suspended_no_data: status.suspended.no_data,
            suspended_fencing: status.suspended.fencing,
            suspended_quorum: false,
            force_io_failures: false,
            write_ordering: &status.write_ordering,
            devices: status.volumes.iter().map(Device::of).collect(),
            connections: status.peers.iter().map(|peer| Connection::of(peer, status)).collect(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Device<'a> {
    volume: u16,
    minor: u32,
    disk_state: &'static str,
    client: bool,
    open: bool,
    quorum: bool,
    size: u64,
    read: u64,
    written: u64,
    al_writes: u64,
    bm_writes: u64,
    upper_pending: u64,
    lower_pending: u64,
    nbd: &'a [String],
}

impl<'a> Device<'a> {
    fn of(status: &'a VolumeStatus) -> Self {
        Self {
            volume: status.number,
            minor: status.minor,
            disk_state: status.disk.name(),
            client: status.client,
            open: status.open,
            quorum: true,
            size: status.size_sectors / 2,
            read: status.read_kib,
            written: status.written_kib,
            al_writes: status.al_writes,
            bm_writes: status.bm_writes,
            upper_pending: status.upper_pending,
            lower_pending: status.lower_pending,
            nbd: &status.nbd,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Connection<'a> {
    peer_node_id: u8,
    name: &'a str,
    connection_state: &'static str,
    congested: bool,
    peer_role: &'static str,
    tls: bool,
    ap_in_flight: u64,
    rs_in_flight: u64,
    paths: Vec<Path>,
    #[serde(rename = "peer_devices")]
    peer_devices: Vec<PeerDevice>,
}

impl<'a> Connection<'a> {
    fn of(status: &'a PeerStatus, resource: &ResourceStatus) -> Self {
        let size_kib = |number| {
            let volume = resource.volumes.iter().find(|volume| volume.number == number);
            volume.map_or(0, |volume| volume.size_sectors / 2)
        };
        Self {
            peer_node_id: status.node_id,
            name: &status.name,
            connection_state: status.connection_name(),
            congested: status.congested,
            peer_role: status.role.name(),
            tls: false,
            ap_in_flight: status.ap_in_flight,
            rs_in_flight: status.rs_in_flight,
            paths: status.path.iter().map(|path| Path::of(path, status.is_connected())).collect(),
            peer_devices: status.volumes.iter().map(|peer| PeerDevice::of(peer, size_kib(peer.number))).collect(),
        }
    }
}

/// DRBD writes these keys with underscores.
#[derive(Serialize)]
struct Path {
    this_host: End,
    remote_host: End,
    established: bool,
}

#[derive(Serialize)]
struct End {
    address: String,
    port: u16,
    family: &'static str,
}

impl Path {
    fn of(status: &PathStatus, established: bool) -> Self {
        Self { this_host: End::of(status.this_host), remote_host: End::of(status.remote_host), established }
    }
}

impl End {
    fn of(address: SocketAddr) -> Self {
        let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        Self { address: address.ip().to_string(), port: address.port(), family }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct PeerDevice {
    volume: u16,
    replication_state: &'static str,
    peer_disk_state: &'static str,
    peer_client: bool,
    resync_suspended: String,
    received: u64,
    sent: u64,
    out_of_sync: u64,
    pending: u64,
    unacked: u64,
    has_sync_details: bool,
    has_online_verify_details: bool,
    percent_in_sync: f64,
    #[serde(flatten)]
    sync: Option<SyncDetails>,
}

impl PeerDevice {
    fn of(status: &PeerVolumeStatus, size_kib: u64) -> Self {
        let is_verify = matches!(status.replication, ConnectionState::VerifyS | ConnectionState::VerifyT);
        Self {
            volume: status.number,
            replication_state: status.replication_name(),
            peer_disk_state: status.peer_disk.name(),
            peer_client: false,
            resync_suspended: status.resync_suspended.list(),
            received: status.received_kib,
            sent: status.sent_kib,
            out_of_sync: status.out_of_sync_kib,
            pending: status.pending,
            unacked: status.unacked,
            has_sync_details: status.sync.is_some() && !is_verify,
            has_online_verify_details: status.sync.is_some() && is_verify,
            percent_in_sync: percent_in_sync(status.out_of_sync_kib, size_kib),
            sync: status.sync.map(SyncDetails::of),
        }
    }
}

/// What is known while a resync or verify runs. DRBD's raw marks are given as the two rates that come of them.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct SyncDetails {
    /// Sectors.
    rs_total: u64,
    rs_dt_start_ms: u64,
    rs_paused_ms: u64,
    /// Sectors.
    rs_failed: u64,
    /// Sectors.
    rs_same_csum: u64,
    /// KiB a second.
    want: u64,
    #[serde(rename = "db1/dt1 [MiB/s]")]
    rate: f64,
    #[serde(rename = "estimated-seconds-to-finish")]
    seconds_left: Option<u64>,
    #[serde(rename = "db/dt [MiB/s]")]
    average: f64,
    percent_resync_done: f64,
}

impl SyncDetails {
    fn of(status: SyncStatus) -> Self {
        Self {
            rs_total: status.total_kib * 2,
            rs_dt_start_ms: status.elapsed_ms,
            rs_paused_ms: status.paused_ms,
            rs_failed: status.failed_kib * 2,
            rs_same_csum: status.same_kib * 2,
            want: status.want_kib_per_s.unwrap_or(0),
            rate: hundredths(status.rate_kib_per_s as f64 / 1024.0),
            seconds_left: status.seconds_left,
            average: hundredths(status.average_kib_per_s as f64 / 1024.0),
            percent_resync_done: hundredths(status.done_percent),
        }
    }
}

/// Rounded down, so that 100 means that nothing is left.
fn percent_in_sync(out_of_sync_kib: u64, size_kib: u64) -> f64 {
    if size_kib == 0 {
        return 0.0;
    }
    let in_sync = size_kib.saturating_sub(out_of_sync_kib);
    (in_sync as f64 * 10_000.0 / size_kib as f64).floor() / 100.0
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::super::samples::{pair, syncing};
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_healthy_pair_has_drbds_keys_in_drbds_order() {
        let expected = r#"[
{
  "name": "data",
  "node-id": 0,
  "role": "Primary",
  "suspended": false,
  "suspended-user": false,
  "suspended-no-data": false,
  "suspended-fencing": false,
  "suspended-quorum": false,
  "force-io-failures": false,
  "write-ordering": "flush",
  "devices": [
    {
      "volume": 0,
      "minor": 0,
      "disk-state": "UpToDate",
      "client": false,
      "open": true,
      "quorum": true,
      "size": 1048576,
      "read": 12,
      "written": 34,
      "al-writes": 5,
      "bm-writes": 6,
      "upper-pending": 1,
      "lower-pending": 2,
      "nbd": [
        "nbd+unix:///data?socket=/run/shimai/nbd.sock"
      ]
    }
  ],
  "connections": [
    {
      "peer-node-id": 1,
      "name": "bravo",
      "connection-state": "Connected",
      "congested": false,
      "peer-role": "Secondary",
      "tls": false,
      "ap-in-flight": 8,
      "rs-in-flight": 0,
      "paths": [
        {
          "this_host": {
            "address": "10.0.0.1",
            "port": 7789,
            "family": "ipv4"
          },
          "remote_host": {
            "address": "fd00::2",
            "port": 7788,
            "family": "ipv6"
          },
          "established": true
        }
      ],
      "peer_devices": [
        {
          "volume": 0,
          "replication-state": "Established",
          "peer-disk-state": "UpToDate",
          "peer-client": false,
          "resync-suspended": "no",
          "received": 7,
          "sent": 89,
          "out-of-sync": 0,
          "pending": 3,
          "unacked": 4,
          "has-sync-details": false,
          "has-online-verify-details": false,
          "percent-in-sync": 100.0
        }
      ]
    }
  ]
}
]
"#;
        assert_eq!(json(&[pair()]), expected);
    }

    #[test]
    fn a_resync_adds_its_details() {
        let value: Value = serde_json::from_str(&json(&[syncing()])).expect("the rendering is JSON");
        let peer = &value[0]["connections"][0]["peer_devices"][0];
        assert_eq!(peer["has-sync-details"], true);
        assert_eq!(peer["percent-resync-done"], 18.6);
        assert_eq!(peer["db1/dt1 [MiB/s]"], 39.53);
        assert_eq!(peer["estimated-seconds-to-finish"], 19_622);
    }

    #[test]
    fn resources_are_separated_by_lines_and_none_is_an_empty_array() {
        assert_eq!(json(&[]), "[\n]\n");
        let mut other = pair();
        other.name = "alpha".into();
        let two = json(&[pair(), other]);
        assert!(two.contains("\n}\n,\n{\n  \"name\": \"data\""), "sorted, with the comma on its own line: {two}");
    }

    #[test]
    fn in_sync_is_rounded_down() {
        assert_eq!(percent_in_sync(1, 1 << 40), 99.99);
        assert_eq!(percent_in_sync(0, 8), 100.0);
        assert_eq!(percent_in_sync(0, 0), 0.0);
    }
}

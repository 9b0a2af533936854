//! A disk is replaced while the other node serves, by a larger one or by one that is too small; and two nodes that do not have
//! the same volumes.

use crate::harness::cluster::is_connected;
use crate::harness::configuration::RESOURCE;
use crate::harness::disks::{make_sparse, read_at, wait_until_free};
use crate::harness::load::{BLOCK, Ledger, Load};
use crate::harness::{Cluster, LONG, Options};
use shimai::model::state::{ConnectionState, DiskState, Role};

const MIB: u64 = 64;

/// Detaches bravo's disk under load, puts a blank one of that size in its place; the device's size and the load.
fn replace(cluster: &Cluster, mib: u64) -> (u64, Load) {
    let sectors = cluster.a.status().volumes[0].size_sectors;
    let blocks = (0..500).map(|at| at * 30).collect();
    let load = Load::start(&cluster.a.nbd_socket(), RESOURCE, blocks, 7, Ledger::default());
    load.wait_for(300);
    cluster.b.ok(&["detach", RESOURCE]);
    wait_until_free(&cluster.b.disks[0]);
    make_sparse(&cluster.b.disks[0], mib << 20);
    cluster.b.ok(&["create-md", "--force", RESOURCE]);
    (sectors, load)
}

#[test]
fn a_larger_disk_takes_the_place_of_one_under_load() {
    // The load alone would hold the resync at its minimum rate.
    let cluster = Cluster::with_primary(Options { disk_mib: MIB, disk: vec!["c-min-rate 0"], ..Options::default() });
    let (sectors, load) = replace(&cluster, 2 * MIB);
    cluster.b.ok(&["attach", RESOURCE]);
    cluster.b.wait("the resync is over", LONG, |status| status.volumes[0].disk == DiskState::UpToDate);
    load.wait_for(300);
    let ledger = load.stop();
    cluster.assert_in_sync_and_identical();
    for node in cluster.nodes() {
        assert_eq!(node.status().volumes[0].size_sectors, sectors, "{}: the device keeps its size", node.name);
        ledger.check(node.name, |block| read_at(&node.disks[0], block * BLOCK, BLOCK as usize));
    }
}

#[test]
fn a_disk_that_is_too_small_is_refused_and_the_other_node_serves_on() {
    let cluster = Cluster::with_primary(Options { disk_mib: MIB, ..Options::default() });
    let (sectors, load) = replace(&cluster, MIB / 2);
    let sentence = cluster.b.refused(&["attach", RESOURCE], 10);
    assert!(sentence.contains("(111)") && sentence.contains("has room for"), "{sentence}");
    load.wait_for(300);
    load.stop();
    let status = cluster.a.status();
    assert!(is_connected(&status), "the connection is whole");
    assert_eq!(status.volumes[0].size_sectors, sectors);
}

/// A volume that only one node has is no obstacle to the role of both.
#[test]
fn a_node_with_a_volume_that_its_peer_lacks_can_be_promoted() {
    let mut cluster = Cluster::new(Options { volumes: 2, ..Options::default() });
    cluster.create_md();
    let text = std::fs::read_to_string(cluster.a.config()).expect("the harness wrote it");
    let mut lines: Vec<&str> = text.lines().collect();
    while let Some(at) = lines.iter().position(|line| line.trim() == "volume 1 {") {
        let end = at + lines[at..].iter().position(|line| line.trim() == "}").expect("it ends");
        lines.drain(at..=end);
    }
    std::fs::write(cluster.a.config(), lines.join("\n")).expect("the file is ours");
    cluster.start();
    cluster.up();
    cluster.a.wait("connected", LONG, is_connected);
    cluster.a.ok(&["new-current-uuid", "--clear-bitmap", &format!("{RESOURCE}/0")]);
    cluster.b.wait("volume 0 is equal", LONG, |status| status.volumes[0].disk == DiskState::UpToDate);
    cluster.a.ok(&["primary", RESOURCE]);
    cluster.a.ok(&["secondary", RESOURCE]);
    cluster.b.ok(&["primary", "--force", RESOURCE]);
    let status = cluster.b.status();
    assert_eq!(status.role, Role::Primary);
    assert_eq!(status.peers[0].volumes[0].replication, ConnectionState::Connected);
    cluster.b.ok(&["secondary", RESOURCE]);
}

//! From two blank disks to a replicated volume, as the guides do it.

use crate::harness::cluster::{is_connected, is_in_sync, wait_disk};
use crate::harness::configuration::RESOURCE;
use crate::harness::nbd::Nbd;
use crate::harness::{Cluster, Format, LONG, MetaDisk, Options, Style};
use shimai::model::state::DiskState;

/// Fills blank disks with unlike contents, brings the pair up with a first resync, and compares.
fn first_resync(options: Options) -> Cluster {
    let mut cluster = Cluster::new(options);
    cluster.create_md();
    for (node, byte) in [(&cluster.a, 0x11), (&cluster.b, 0x22)] {
        crate::harness::disks::write_at(&node.disks[0], 1 << 20, &vec![byte; 1 << 20]);
    }
    cluster.start();
    cluster.up();
    cluster.wait_both("connected", is_connected);
    for node in cluster.nodes() {
        wait_disk(node, DiskState::Inconsistent);
    }
    cluster.a.ok(&["primary", "--force", RESOURCE]);
    cluster.wait_both("in sync", is_in_sync);
    cluster.assert_in_sync_and_identical();
    let block = crate::harness::disks::read_at(&cluster.b.disks[0], 1 << 20, 4096);
    assert_eq!(block, vec![0x11; 4096], "the promoted node's data was taken");
    cluster
}

#[test]
fn a_pair_comes_up_as_in_the_guide() {
    let cluster = first_resync(Options {
        net: vec![
            "after-sb-0pri discard-younger-primary",
            "after-sb-1pri discard-secondary",
            "after-sb-2pri disconnect",
        ],
        disk: vec!["on-io-error detach"],
        is_plain: true,
        ..Options::default()
    });
    let expected =
        "data role:Primary\n  disk:UpToDate\n  peer role:Secondary\n    replication:Established peer-disk:UpToDate\n\n";
    assert_eq!(cluster.a.ok(&["status", RESOURCE]), expected);
    assert_eq!(cluster.b.ok(&["role", RESOURCE]), "Secondary/Primary\n");
    assert_eq!(cluster.b.ok(&["cstate", RESOURCE]), "Connected\n");
    assert_eq!(cluster.b.ok(&["dstate", RESOURCE]), "UpToDate/UpToDate\n");
    let json: serde_json::Value = serde_json::from_str(&cluster.a.ok(&["status", "--json"])).expect("it is JSON");
    assert_eq!(json[0]["devices"][0]["disk-state"], "UpToDate");
    assert_eq!(json[0]["connections"][0]["peer_devices"][0]["replication-state"], "Established");
    let proc = cluster.a.ok(&["proc"]);
    assert!(proc.contains("0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----"), "{proc}");
}

#[test]
fn a_configuration_of_drbd_9_comes_up_too() {
    first_resync(Options { style: Style::Nine, ..Options::default() });
}

#[test]
fn flexible_metadata_in_a_file_of_its_own_serves() {
    first_resync(Options { meta_disk: MetaDisk::Flexible, ..Options::default() });
}

#[test]
fn indexed_metadata_in_a_file_of_its_own_serves() {
    first_resync(Options { meta_disk: MetaDisk::Indexed, formats: Format::BOTH_V08, ..Options::default() });
}

/// A node that was made anew beside one that was not: the formats are each node's own affair.
#[test]
fn a_pair_with_unlike_formats_comes_up() {
    for style in [Style::Eight, Style::Nine] {
        first_resync(Options { style, formats: Format::MIXED, ..Options::default() });
    }
}

#[test]
fn the_first_resync_may_be_skipped() {
    let cluster = Cluster::ready(Options::default());
    assert_eq!(cluster.a.ok(&["dstate", RESOURCE]), "UpToDate/UpToDate\n");
    assert_eq!(cluster.b.status().peers[0].volumes[0].received_kib, 0, "nothing was sent");
}

#[test]
fn writes_reach_both_disks_of_two_volumes() {
    let cluster = Cluster::with_primary(Options { volumes: 2, ..Options::default() });
    for volume in 0..2_u8 {
        let export = if volume == 0 { RESOURCE.to_owned() } else { format!("{RESOURCE}/{volume}") };
        let mut nbd = Nbd::open(&cluster.a.nbd_socket(), &export).expect("a Primary serves");
        nbd.write(8192, &[volume + 1; 4096]).expect("the write is done");
        nbd.flush().expect("the flush is done");
    }
    cluster.assert_in_sync_and_identical();
    for volume in 0..2_u8 {
        let block = crate::harness::disks::read_at(&cluster.b.disks[usize::from(volume)], 8192, 4096);
        assert_eq!(block, [volume + 1; 4096], "volume {volume}");
    }
}

#[test]
fn roles_change_places() {
    let cluster = Cluster::with_primary(Options::default());
    let blank = {
        let mut nbd = Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("a Primary serves");
        nbd.write(0, &[7; 4096]).expect("the write is done");
        nbd.bytes
    };
    cluster.a.wait("the client has left", LONG, |status| status.volumes.iter().all(|volume| !volume.open));
    cluster.a.ok(&["secondary", RESOURCE]);
    cluster.b.ok(&["primary", RESOURCE]);
    let mut nbd = Nbd::open(&cluster.b.nbd_socket(), RESOURCE).expect("a Primary serves");
    assert_eq!(nbd.bytes, blank, "the size is the same on both nodes");
    assert_eq!(nbd.read(0, 4096).expect("the read is done"), [7; 4096][..]);
}

//! Both sides wrote apart: nobody's data is dropped without a word from the operator or a policy.

use crate::harness::cluster::{is_connected, is_in_sync, is_stand_alone, peer};
use crate::harness::configuration::RESOURCE;
use crate::harness::nbd::Nbd;
use crate::harness::{Cluster, Format, LONG, Node, Options};

/// Writes one block on a Primary.
fn write(node: &Node, block: u64, byte: u8) {
    let mut nbd = Nbd::open(&node.nbd_socket(), RESOURCE).expect("a Primary serves");
    nbd.write(block * 4096, &[byte; 4096]).expect("the write is done");
    nbd.flush().expect("the flush is done");
}

/// Cuts the wire, promotes both, writes on both, and lets them meet again as Secondaries if `demote`.
fn diverge(options: Options, demote: bool) -> Cluster {
    let cluster = Cluster::with_primary(options);
    write(&cluster.a, 0, 0x01);
    cluster.cut(&cluster.a);
    cluster.b.wait("the loss of the peer is noticed", LONG, |status| !is_connected(status));
    cluster.b.ok(&["primary", "--force", RESOURCE]);
    write(&cluster.a, 1, 0xaa);
    write(&cluster.b, 2, 0xbb);
    write(&cluster.b, 3, 0xbb);
    if demote {
        for node in cluster.nodes() {
            node.wait("the client has left", LONG, |status| !status.volumes[0].open);
            node.ok(&["secondary", RESOURCE]);
        }
    }
    cluster.network.heal();
    cluster
}

/// Waits until the split brain is known; the one that finds out gives up, the other may go on looking.
fn wait_for_verdict(cluster: &Cluster) {
    let found = crate::harness::wait::until("somebody is StandAlone", LONG, || {
        let found = cluster.nodes().into_iter().find(|node| is_stand_alone(&node.status()));
        found.ok_or("both look for the other")
    });
    let reason = peer(&found.status()).reason.clone().unwrap_or_default();
    assert!(reason.to_lowercase().contains("split"), "{}: {reason:?}", found.name);
    let why = found.ok(&["why", RESOURCE]);
    assert!(why.contains("--discard-my-data"), "{why}");
}

#[test]
fn a_split_brain_ends_the_connection_and_the_operator_chooses() {
    let cluster = diverge(Options::default(), false);
    wait_for_verdict(&cluster);
    for (node, own, others) in [(&cluster.a, 1, 2), (&cluster.b, 2, 1)] {
        let mut nbd = Nbd::open(&node.nbd_socket(), RESOURCE).expect("it still serves");
        assert_ne!(nbd.read(own * 4096, 4096).expect("a read")[0], 0, "{} kept its own write", node.name);
        assert_eq!(nbd.read(others * 4096, 4096).expect("a read")[0], 0, "{} did not merge", node.name);
    }
    cluster.b.wait("the client has left", LONG, |status| !status.volumes[0].open);
    // Whoever still looks for the other is told to stop first, as DRBD's manual says.
    cluster.b.shimai(&["disconnect", RESOURCE]);
    cluster.b.ok(&["secondary", RESOURCE]);
    cluster.b.ok(&["connect", "--discard-my-data", RESOURCE]);
    if is_stand_alone(&cluster.a.status()) {
        cluster.a.ok(&["connect", RESOURCE]);
    }
    cluster.wait_both("in sync", is_in_sync);
    cluster.assert_in_sync_and_identical();
    let block = crate::harness::disks::read_at(&cluster.b.disks[0], 4096, 4096);
    assert_eq!(block, [0xaa; 4096], "the victim has the survivor's write");
}

#[test]
fn a_primary_cannot_discard_its_data() {
    let cluster = diverge(Options { formats: Format::MIXED, ..Options::default() }, false);
    wait_for_verdict(&cluster);
    cluster.b.shimai(&["disconnect", RESOURCE]);
    let sentence = cluster.b.refused(&["connect", "--discard-my-data", RESOURCE], 10);
    assert!(sentence.contains("(123)"), "{sentence}");
}

#[test]
fn a_policy_gives_up_the_side_that_changed_less() {
    let net = vec!["after-sb-0pri discard-least-changes"];
    let cluster = diverge(Options { net, formats: Format::BOTH_V08, ..Options::default() }, true);
    cluster.wait_both("in sync", is_in_sync);
    cluster.assert_in_sync_and_identical();
    let block = crate::harness::disks::read_at(&cluster.a.disks[0], 2 * 4096, 4096);
    assert_eq!(block, [0xbb; 4096], "the side with more changes won");
}

#[test]
fn a_policy_gives_up_the_secondary() {
    let net = vec!["after-sb-1pri discard-secondary"];
    let cluster = Cluster::with_primary(Options { net, ..Options::default() });
    cluster.cut(&cluster.a);
    cluster.b.wait("the loss of the peer is noticed", LONG, |status| !is_connected(status));
    cluster.b.ok(&["primary", "--force", RESOURCE]);
    write(&cluster.a, 1, 0xaa);
    write(&cluster.b, 2, 0xbb);
    cluster.b.wait("the client has left", LONG, |status| !status.volumes[0].open);
    cluster.b.ok(&["secondary", RESOURCE]);
    cluster.network.heal();
    cluster.assert_in_sync_and_identical();
    let block = crate::harness::disks::read_at(&cluster.b.disks[0], 4096, 4096);
    assert_eq!(block, [0xaa; 4096], "the Primary's data was kept");
}

#[test]
fn writes_on_one_side_only_are_no_split_brain() {
    let cluster = Cluster::with_primary(Options { formats: Format::BOTH_V08, ..Options::default() });
    cluster.cut(&cluster.a);
    write(&cluster.a, 1, 0xaa);
    cluster.b.wait("the loss of the peer is noticed", LONG, |status| !is_connected(status));
    cluster.network.heal();
    cluster.assert_in_sync_and_identical();
}

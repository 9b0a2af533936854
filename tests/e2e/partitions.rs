//! The wire between the daemons is cut, pulled and mended under a verifying writer.

use crate::harness::cluster::{is_connected, out_of_sync_kib, peer};
use crate::harness::configuration::RESOURCE;
use crate::harness::disks::read_at;
use crate::harness::load::{BLOCK, Dice, Ledger, Load};
use crate::harness::network::Network;
use crate::harness::{Cluster, Format, LONG, Options, rounds, seed};

/// Writes on through an outage; the resync moves what was written meanwhile: in every other round, in which the writer has
/// stopped before the peer is there again, exactly that.
fn outage(protocol: char, formats: [Format; 2], begin: fn(&Network)) {
    let cluster = Cluster::with_primary(Options { protocol, formats, disk_mib: 256, ..Options::default() });
    let mut dice = Dice::new(seed(400));
    let mut ledger = Ledger::default();
    for round in 0..rounds(2) {
        let blocks: Vec<u64> = (0..300).map(|_| dice.below(60_000)).collect();
        let writes_before = ledger.writes();
        let load = Load::start(&cluster.a.nbd_socket(), RESOURCE, blocks, dice.below(1 << 32), ledger);
        load.wait_for(200 + dice.below(1000));
        begin(&cluster.network);
        cluster.a.wait("the outage is noticed", LONG, |status| !is_connected(status));
        load.wait_for(200 + dice.below(1000));
        let (least, most, sent_before);
        if round % 2 == 1 {
            ledger = load.stop();
            least = out_of_sync_kib(&cluster.a);
            most = least;
            sent_before = sent_kib(&cluster);
            cluster.network.heal();
        } else {
            sent_before = sent_kib(&cluster);
            // In this order: a write between the two is counted twice rather than never.
            let acknowledged = load.acknowledged();
            least = out_of_sync_kib(&cluster.a);
            cluster.network.heal();
            cluster.a.wait("the peer is there again", LONG, is_connected);
            load.wait_for(200);
            ledger = load.stop();
            let writes = ledger.writes() - writes_before - acknowledged;
            most = least + writes * BLOCK / 1024;
        }
        assert!(least > 0, "round {round}: something was written during the outage");
        cluster.assert_in_sync_and_identical();
        let sent = sent_kib(&cluster) - sent_before;
        assert!((least..=most).contains(&sent), "round {round}: {sent} KiB were sent, not {least} to {most}");
        for node in cluster.nodes() {
            ledger.check(node.name, |block| read_at(&node.disks[0], block * BLOCK, BLOCK as usize));
        }
    }
}

fn sent_kib(cluster: &Cluster) -> u64 {
    peer(&cluster.a.status()).volumes[0].sent_kib
}

#[test]
fn lost_packets_in_protocol_a() {
    outage('A', Format::BOTH_V08, Network::cut);
}

#[test]
fn lost_packets_in_protocol_b() {
    outage('B', Format::MIXED, Network::cut);
}

#[test]
fn lost_packets_in_protocol_c() {
    outage('C', Format::BOTH_V09, Network::cut);
}

#[test]
fn a_pulled_cable() {
    outage('C', Format::BOTH_V08, Network::unplug);
}

#[test]
fn reset_connections() {
    outage('C', Format::BOTH_V09, Network::reject);
}

#[test]
fn during_an_outage_exactly_the_written_blocks_are_marked() {
    let cluster = Cluster::with_primary(Options { disk_mib: 256, ..Options::default() });
    cluster.cut(&cluster.a);
    let blocks: Vec<u64> = (0..100).map(|number| number * 512).collect();
    let load = Load::start(&cluster.a.nbd_socket(), RESOURCE, blocks, 1, Ledger::default());
    load.wait_for(500);
    let ledger = load.stop();
    let marked = peer(&cluster.a.status()).volumes[0].out_of_sync_kib;
    assert_eq!(marked, ledger.touched().len() as u64 * 4);
    cluster.network.heal();
    cluster.assert_in_sync_and_identical();
}

#[test]
fn an_outage_in_the_middle_of_a_resync_is_taken_up_again() {
    let cluster = Cluster::with_primary(Options {
        disk_mib: 256,
        // Slow enough to be caught in the middle.
        disk: vec!["resync-rate 8M"],
        ..Options::default()
    });
    cluster.cut(&cluster.a);
    let mut nbd = crate::harness::nbd::Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("a Primary serves");
    for mib in 0..100_u64 {
        nbd.write(mib << 20, &vec![mib as u8 + 1; 1 << 20]).expect("the write is done");
    }
    cluster.network.heal();
    let left = |status: &shimai::control::status::ResourceStatus| peer(status).volumes[0].out_of_sync_kib;
    cluster.a.wait("the resync has begun", LONG, |status| is_connected(status) && left(status) < 90 << 10);
    cluster.cut(&cluster.a);
    assert!(left(&cluster.a.status()) > 1 << 10, "it was caught in the middle");
    cluster.network.heal();
    cluster.assert_in_sync_and_identical();
}

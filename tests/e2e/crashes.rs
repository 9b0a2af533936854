//! Either daemon is killed at random moments under a verifying writer, in all three protocols.
//!
//! After each crash the resync touches no more than the activity log names, the disks are identical byte by byte, and
//! what protocol C acknowledged is there, wherever one goes on.

use crate::harness::cluster::{is_connected, peer};
use crate::harness::configuration::RESOURCE;
use crate::harness::disks::read_at;
use crate::harness::load::{BLOCK, Dice, Ledger, Load};
use crate::harness::{Cluster, LONG, Node, Options, rounds};
use std::collections::BTreeSet;

/// Blocks of an extent of the activity log.
const EXTENT_BLOCKS: u64 = (4 << 20) / BLOCK;

/// A disk that is large beside what the writer touches, so that a resync of all of it would show.
fn options(protocol: char) -> Options {
    Options { protocol, disk_mib: 256, ..Options::default() }
}

/// 400 blocks in five extents far apart.
fn blocks(dice: &mut Dice) -> Vec<u64> {
    let mut extents = BTreeSet::new();
    while extents.len() < 5 {
        // 256 MiB less the metadata: the last extent is not whole.
        extents.insert(dice.below(62));
    }
    let mut blocks = BTreeSet::new();
    while blocks.len() < 400 {
        let extent = *extents.iter().nth(dice.below(5) as usize).expect("there are five");
        blocks.insert(extent * EXTENT_BLOCKS + dice.below(EXTENT_BLOCKS));
    }
    blocks.into_iter().collect()
}

/// KiB of the extents that the writer touched: what the activity log may name.
fn touched_extents_kib(ledger: &Ledger) -> u64 {
    let extents: BTreeSet<u64> = ledger.touched().into_iter().map(|block| block / EXTENT_BLOCKS).collect();
    extents.len() as u64 * 4096
}

fn load(node: &Node, blocks: &[u64], dice: &mut Dice, ledger: Ledger) -> Load {
    Load::start(&node.nbd_socket(), RESOURCE, blocks.to_vec(), dice.below(1 << 32), ledger)
}

fn check_disk(node: &Node, ledger: &Ledger) {
    ledger.check(&format!("{}'s disk", node.name), |block| read_at(&node.disks[0], block * BLOCK, BLOCK as usize));
}

/// The Primary dies, returns, is promoted again.
fn primary_returns(protocol: char) {
    let mut cluster = Cluster::with_primary(options(protocol));
    let mut ledger = Ledger::default();
    for round in 0..rounds(1) {
        let mut dice = Dice::new(u64::from(round) + 1);
        let load = load(&cluster.a, &blocks(&mut dice), &mut dice, ledger);
        load.wait_for(200 + dice.below(2000));
        cluster.a.kill9();
        ledger = load.died();
        cluster.b.wait("the Primary is missed", LONG, |status| !is_connected(status));
        cluster.a.start();
        cluster.a.up();
        cluster.assert_in_sync_and_identical();
        let volume = peer(&cluster.a.status()).volumes[0].clone();
        let moved = volume.received_kib + volume.sent_kib;
        let bound = touched_extents_kib(&ledger);
        assert!(moved <= bound, "round {round}: {moved} KiB were resynced, the log names {bound}");
        check_disk(&cluster.a, &ledger);
        cluster.a.ok(&["primary", RESOURCE]);
    }
}

/// The Primary dies, the other is promoted and written to, the dead one returns and follows.
fn failover(protocol: char) {
    let mut cluster = Cluster::with_primary(options(protocol));
    for round in 0..rounds(1) {
        let mut dice = Dice::new(u64::from(round) + 100);
        let blocks = blocks(&mut dice);
        let load_before = load(&cluster.a, &blocks, &mut dice, Ledger::default());
        load_before.wait_for(200 + dice.below(2000));
        cluster.a.kill9();
        let ledger = load_before.died();
        cluster.b.wait("the Primary is missed", LONG, |status| !is_connected(status));
        cluster.b.ok(&["primary", RESOURCE]);
        if protocol == 'C' {
            // Before anything is written here: nothing that was acknowledged is lost.
            check_disk(&cluster.b, &ledger);
        }
        let load_after = load(&cluster.b, &blocks, &mut dice, Ledger::default());
        load_after.wait_for(100 + dice.below(500));
        cluster.a.start();
        cluster.a.up();
        load_after.wait_for(100 + dice.below(500));
        let newer = load_after.stop();
        cluster.assert_in_sync_and_identical();
        for block in newer.touched() {
            assert!(blocks.contains(&block), "the writer keeps to its blocks");
        }
        check_disk(&cluster.a, &newer);
        cluster.b.wait("the client has left", LONG, |status| !status.volumes[0].open);
        cluster.b.ok(&["secondary", RESOURCE]);
        cluster.a.ok(&["primary", RESOURCE]);
        // The next round's ledger begins at nothing, so must the blocks.
        zero(&cluster, &blocks);
    }
}

/// Overwrites the blocks with zeroes through the Primary.
fn zero(cluster: &Cluster, blocks: &[u64]) {
    let mut nbd = crate::harness::nbd::Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("a Primary serves");
    for block in blocks {
        nbd.write(block * BLOCK, &[0; BLOCK as usize]).expect("the write is done");
    }
}

/// The Secondary dies under the writer, which goes on, and returns.
fn secondary_returns(protocol: char) {
    let mut cluster = Cluster::with_primary(options(protocol));
    let mut ledger = Ledger::default();
    for round in 0..rounds(1) {
        let mut dice = Dice::new(u64::from(round) + 200);
        let load = load(&cluster.a, &blocks(&mut dice), &mut dice, ledger);
        load.wait_for(200 + dice.below(1000));
        cluster.b.kill9();
        cluster.a.wait("the Secondary is missed", LONG, |status| !is_connected(status));
        load.wait_for(200 + dice.below(1000));
        cluster.b.start();
        cluster.b.up();
        load.wait_for(200 + dice.below(1000));
        ledger = load.stop();
        cluster.assert_in_sync_and_identical();
        check_disk(&cluster.b, &ledger);
    }
}

/// Both die at once, as by a power cut of the room.
fn both_die(protocol: char) {
    let mut cluster = Cluster::with_primary(options(protocol));
    let mut dice = Dice::new(300);
    let load = load(&cluster.a, &blocks(&mut dice), &mut dice, Ledger::default());
    load.wait_for(200 + dice.below(1000));
    cluster.a.kill9();
    cluster.b.kill9();
    let ledger = load.died();
    cluster.start();
    cluster.up();
    cluster.assert_in_sync_and_identical();
    check_disk(&cluster.a, &ledger);
}

macro_rules! in_all_protocols {
    ($($name:ident $story:ident $protocol:literal;)+) => {
        $(#[test]
        fn $name() {
            $story($protocol);
        })+
    };
}

in_all_protocols! {
    a_killed_primary_returns_in_protocol_a primary_returns 'A';
    a_killed_primary_returns_in_protocol_b primary_returns 'B';
    a_killed_primary_returns_in_protocol_c primary_returns 'C';
    the_other_takes_over_in_protocol_a failover 'A';
    the_other_takes_over_in_protocol_b failover 'B';
    the_other_takes_over_in_protocol_c_and_nothing_acknowledged_is_lost failover 'C';
    a_killed_secondary_returns_in_protocol_a secondary_returns 'A';
    a_killed_secondary_returns_in_protocol_b secondary_returns 'B';
    a_killed_secondary_returns_in_protocol_c secondary_returns 'C';
    both_are_killed_in_protocol_a both_die 'A';
    both_are_killed_in_protocol_c both_die 'C';
}

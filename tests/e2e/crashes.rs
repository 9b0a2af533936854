//! Either daemon is killed at random moments under a verifying writer, in all three protocols.
//!
//! After each crash the resync touches no more than the real drbdmeta finds named in bitmap and activity log of the dead
//! disk, and that is no more than this round's writer touched; the disks are identical byte by byte; and what protocol C
//! acknowledged is there, wherever one goes on.

use crate::harness::cluster::{is_connected, moved_kib, out_of_sync_kib};
use crate::harness::configuration::RESOURCE;
use crate::harness::disks::read_at;
use crate::harness::load::{BLOCK, Dice, Ledger, Load};
use crate::harness::{Cluster, Format, LONG, Node, Options, rounds, seed};
use std::collections::BTreeSet;

/// Blocks of an extent of the activity log.
const EXTENT_BLOCKS: u64 = (4 << 20) / BLOCK;

/// A disk that is large beside what the writer touches, so that a resync of all of it would show.
fn options(protocol: char, formats: [Format; 2]) -> Options {
    Options { protocol, formats, disk_mib: 256, ..Options::default() }
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

/// KiB of the extents that the blocks are in: what an activity log names that knows of no other writes.
fn extents_kib(blocks: &[u64]) -> u64 {
    let extents: BTreeSet<u64> = blocks.iter().map(|block| block / EXTENT_BLOCKS).collect();
    extents.len() as u64 * EXTENT_BLOCKS * BLOCK / 1024
}

/// KiB that a dead node's disk names; not more than the extents of `blocks`, which were written since it was
/// attached.
fn named_kib(cluster: &Cluster, dead: &Node, blocks: &[u64]) -> u64 {
    let (named, bound) = (cluster.named_kib(dead), extents_kib(blocks));
    assert!(named <= bound, "{}'s disk names {named} KiB, the writer touched extents of {bound}", dead.name);
    named
}

/// Bounds what a returned node may have got: what was named, and what was written since that was read.
fn assert_moved(node: &Node, named: u64, writes_since: u64) {
    let (moved, bound) = (moved_kib(node), named + writes_since * BLOCK / 1024);
    println!("{}: {moved} KiB of {bound}", node.name);
    assert!(moved <= bound, "{moved} KiB came; {named} were named, {writes_since} blocks written meanwhile");
}

fn load(node: &Node, blocks: &[u64], dice: &mut Dice, ledger: Ledger) -> Load {
    Load::start(&node.nbd_socket(), RESOURCE, blocks.to_vec(), dice.below(1 << 32), ledger)
}

fn check_disk(node: &Node, ledger: &Ledger) {
    ledger.check(&format!("{}'s disk", node.name), |block| read_at(&node.disks[0], block * BLOCK, BLOCK as usize));
}

/// The Primary dies, returns, is promoted again.
fn primary_returns(protocol: char, formats: [Format; 2]) {
    let mut cluster = Cluster::with_primary(options(protocol, formats));
    let mut dice = Dice::new(seed(1));
    let mut ledger = Ledger::default();
    for _ in 0..rounds(1) {
        cluster.wait_written_back();
        let blocks = blocks(&mut dice);
        let load = load(&cluster.a, &blocks, &mut dice, ledger);
        load.wait_for(200 + dice.below(2000));
        cluster.a.kill9();
        ledger = load.died();
        cluster.b.wait("the Primary is missed", LONG, |status| !is_connected(status));
        let named = named_kib(&cluster, &cluster.a, &blocks) + out_of_sync_kib(&cluster.b);
        cluster.a.start();
        cluster.a.up();
        cluster.assert_in_sync_and_identical();
        assert_moved(&cluster.a, named, 0);
        check_disk(&cluster.a, &ledger);
        cluster.a.ok(&["primary", RESOURCE]);
    }
}

/// The Primary dies, the other is promoted and written to, the dead one returns and follows.
fn failover(protocol: char, formats: [Format; 2]) {
    let mut cluster = Cluster::with_primary(options(protocol, formats));
    let mut dice = Dice::new(seed(100));
    // Of the last round: written after the node that dies now was attached.
    let mut earlier: Vec<u64> = Vec::new();
    for _ in 0..rounds(1) {
        cluster.wait_written_back();
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
        let acknowledged = load_after.acknowledged();
        let named = named_kib(&cluster, &cluster.a, &[&earlier[..], &blocks].concat()) + out_of_sync_kib(&cluster.b);
        cluster.a.start();
        cluster.a.up();
        load_after.wait_for(100 + dice.below(500));
        let newer = load_after.stop();
        cluster.assert_in_sync_and_identical();
        assert_moved(&cluster.a, named, newer.writes() - acknowledged);
        check_disk(&cluster.a, &newer);
        cluster.b.wait("the client has left", LONG, |status| !status.volumes[0].open);
        cluster.b.ok(&["secondary", RESOURCE]);
        cluster.a.ok(&["primary", RESOURCE]);
        // The next round's ledger begins at nothing, so must the blocks.
        zero(&cluster, &blocks);
        earlier = blocks;
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
fn secondary_returns(protocol: char, formats: [Format; 2]) {
    let mut cluster = Cluster::with_primary(options(protocol, formats));
    let mut dice = Dice::new(seed(200));
    let mut ledger = Ledger::default();
    // Of the last round: written after the node that dies now was attached.
    let mut earlier: Vec<u64> = Vec::new();
    for _ in 0..rounds(1) {
        cluster.wait_written_back();
        let blocks = blocks(&mut dice);
        let writes_before = ledger.writes();
        let load = load(&cluster.a, &blocks, &mut dice, ledger);
        load.wait_for(200 + dice.below(1000));
        cluster.b.kill9();
        cluster.a.wait("the Secondary is missed", LONG, |status| !is_connected(status));
        load.wait_for(200 + dice.below(1000));
        let acknowledged = load.acknowledged();
        let named = named_kib(&cluster, &cluster.b, &[&earlier[..], &blocks].concat()) + out_of_sync_kib(&cluster.a);
        cluster.b.start();
        cluster.b.up();
        load.wait_for(200 + dice.below(1000));
        ledger = load.stop();
        cluster.assert_in_sync_and_identical();
        assert_moved(&cluster.b, named, ledger.writes() - writes_before - acknowledged);
        check_disk(&cluster.b, &ledger);
        earlier = blocks;
    }
}

/// Both die at once, as by a power cut of the room.
fn both_die(protocol: char, formats: [Format; 2]) {
    let mut cluster = Cluster::with_primary(options(protocol, formats));
    let mut dice = Dice::new(seed(300));
    let mut ledger = Ledger::default();
    for _ in 0..rounds(1) {
        cluster.wait_written_back();
        let blocks = blocks(&mut dice);
        let load = load(&cluster.a, &blocks, &mut dice, ledger);
        load.wait_for(200 + dice.below(1000));
        cluster.a.kill9();
        cluster.b.kill9();
        ledger = load.died();
        let named = named_kib(&cluster, &cluster.a, &blocks) + named_kib(&cluster, &cluster.b, &blocks);
        cluster.start();
        cluster.up();
        cluster.assert_in_sync_and_identical();
        assert_moved(&cluster.a, named, 0);
        check_disk(&cluster.a, &ledger);
        cluster.a.ok(&["primary", RESOURCE]);
    }
}

macro_rules! in_all_protocols {
    ($($name:ident $story:ident $protocol:literal $formats:ident;)+) => {
        $(#[test]
        fn $name() {
            $story($protocol, Format::$formats);
        })+
    };
}

in_all_protocols! {
    a_killed_primary_returns_in_protocol_a primary_returns 'A' BOTH_V09;
    a_killed_primary_returns_in_protocol_b primary_returns 'B' BOTH_V08;
    a_killed_primary_returns_in_protocol_c primary_returns 'C' BOTH_V09;
    a_killed_primary_of_an_older_format_returns primary_returns 'C' MIXED;
    the_other_takes_over_in_protocol_a failover 'A' BOTH_V08;
    the_other_takes_over_in_protocol_b failover 'B' BOTH_V09;
    the_other_takes_over_in_protocol_c_and_nothing_acknowledged_is_lost failover 'C' BOTH_V09;
    the_other_takes_over_with_another_format_and_nothing_acknowledged_is_lost failover 'C' MIXED;
    a_killed_secondary_returns_in_protocol_a secondary_returns 'A' BOTH_V09;
    a_killed_secondary_returns_in_protocol_b secondary_returns 'B' MIXED;
    a_killed_secondary_returns_in_protocol_c secondary_returns 'C' BOTH_V08;
    both_are_killed_in_protocol_a both_die 'A' BOTH_V09;
    both_are_killed_in_protocol_b both_die 'B' MIXED;
    both_are_killed_in_protocol_c both_die 'C' BOTH_V08;
}

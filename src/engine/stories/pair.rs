//! Two nodes and the link between them.

use super::node::{Node, addresses};
use crate::control::refusal::StateRefusal;
use crate::control::status::ResourceStatus;
use crate::engine::ResourceSpec;
use crate::model::state::{ConnectionState, DiskState, Role};
use crate::replica::event::Command;
use crate::replica::refusal::Code;
use crate::replica::settings::PeerSettings;
use crate::wire::auth::{DigestAlgorithm, HmacAlgorithm};
use crate::wire::packet::ReplicationProtocol;

const CONNECT: Command = Command::Connect { discard_my_data: false };

fn is_in_sync(status: &ResourceStatus) -> bool {
    let peer = &status.peers[0];
    status.volumes[0].disk == DiskState::UpToDate
        && peer.connection == ConnectionState::Connected
        && peer.volumes[0].peer_disk == DiskState::UpToDate
}

/// Two nodes with fresh disks, connected.
fn connected(tune: impl Fn(&mut PeerSettings)) -> [Node; 2] {
    let addresses = addresses();
    let tune = |spec: &mut ResourceSpec| spec.settings.peers.iter_mut().for_each(&tune);
    let nodes = [0, 1].map(|number| Node::tuned(number, addresses, tune));
    for node in &nodes {
        node.attach().unwrap();
        node.command(CONNECT).unwrap();
    }
    for node in &nodes {
        node.wait("connected", |status| status.peers[0].connection == ConnectionState::Connected);
    }
    nodes
}

/// As `connected`, the first node Primary, and everything transferred.
fn in_sync() -> [Node; 2] {
    in_sync_with(|_| ())
}

fn in_sync_with(tune: impl Fn(&mut PeerSettings)) -> [Node; 2] {
    let nodes = connected(tune);
    nodes[0].command(Command::Primary { force: true }).unwrap();
    for node in &nodes {
        node.wait("in sync", is_in_sync);
    }
    nodes
}

/// Both disks hold the same data.
fn assert_equal(nodes: &[Node; 2]) {
    let bytes = nodes[0].status().volumes[0].size_sectors as usize * 512;
    let images = nodes.each_ref().map(|node| std::fs::read(node.disk()).unwrap());
    let differs = (0..bytes).step_by(4096).filter(|at| images[0][*at..at + 4096] != images[1][*at..at + 4096]);
    assert_eq!(differs.collect::<Vec<_>>(), Vec::<usize>::new(), "offsets of blocks that differ");
}

fn demote(node: &Node) {
    node.wait("closed", |status| !status.volumes[0].open);
    node.command(Command::Secondary).unwrap();
}

#[test]
fn two_fresh_disks_connect_and_say_who_they_are() {
    let nodes = connected(|_| ());
    let status = nodes[0].status();
    assert_eq!(status.peers[0].role, Role::Secondary);
    assert_eq!(status.peers[0].volumes[0].peer_disk, DiskState::Inconsistent);
}

#[test]
fn two_blank_disks_are_declared_equal_as_soon_as_one_sees_the_other() {
    let addresses = addresses();
    let nodes = [0, 1].map(|number| Node::new(number, addresses));
    for node in &nodes {
        node.attach().unwrap();
        node.command(CONNECT).unwrap();
    }
    // The other one may not have finished its handshake yet.
    nodes[0].command(Command::WaitConnect).unwrap();
    nodes[0].command(Command::NewCurrentUuid { volume: 0, clear_bitmap: true }).unwrap();
    for node in &nodes {
        node.wait("equal", is_in_sync);
    }
}

#[test]
fn a_forced_primary_is_copied_to_its_peer() {
    let nodes = in_sync();
    assert_equal(&nodes);
    assert_eq!(nodes[1].open("data").err().unwrap(), "data is Secondary here; alice is Primary");
}

#[test]
fn what_is_written_here_is_there() {
    let nodes = in_sync();
    let mut client = nodes[0].open("data").unwrap();
    let offsets: Vec<u64> = (0..600).map(|index| index * 7 % 1000 * 4096 + 512).collect();
    assert_eq!(client.write_many(&offsets, &[3; 4096]), offsets.len());
    client.write(9 << 20, &vec![4; 3 << 20], true).unwrap();
    client.trim(10 << 20, 1 << 20).unwrap();
    client.zeroes(9 << 20, 8192).unwrap();
    client.flush().unwrap();
    drop(client);
    assert_equal(&nodes);
    demote(&nodes[0]);
    nodes[1].command(Command::Primary { force: false }).unwrap();
    let mut client = nodes[1].open("data").unwrap();
    assert_eq!(client.read(512, 4096).unwrap(), vec![3; 4096]);
    client.write(0, &[8; 512], false).unwrap();
    drop(client);
    assert_equal(&nodes);
}

#[test]
fn what_a_node_missed_is_made_up_for_when_it_is_back() {
    let nodes = in_sync();
    nodes[1].command(Command::Disconnect { force: false }).unwrap();
    let mut client = nodes[0].open("data").unwrap();
    client.write(1 << 20, &vec![6; 1 << 20], false).unwrap();
    // Whoever was left looks for its peer by itself, unless it was told to stand alone.
    let _ = nodes[0].command(CONNECT);
    nodes[1].command(CONNECT).unwrap();
    for node in &nodes {
        node.wait("in sync again", is_in_sync);
    }
    assert_equal(&nodes);
}

#[test]
fn a_secondary_that_crashed_catches_up() {
    let mut nodes = in_sync();
    let mut client = nodes[0].open("data").unwrap();
    client.write(0, &vec![1; 1 << 20], false).unwrap();
    nodes[1].crash();
    client.write(2 << 20, &vec![2; 1 << 20], false).unwrap();
    nodes[1].attach().unwrap();
    nodes[1].command(CONNECT).unwrap();
    for node in &nodes {
        node.wait("in sync again", is_in_sync);
    }
    assert_equal(&nodes);
}

#[test]
fn a_crashed_primary_is_followed_and_comes_back() {
    let mut nodes = in_sync();
    let mut client = nodes[0].open("data").unwrap();
    client.write(0, &vec![1; 1 << 20], false).unwrap();
    nodes[0].crash();
    nodes[1].wait("alone", |status| status.peers[0].connection < ConnectionState::WfReportParams);
    nodes[1].command(Command::Primary { force: false }).unwrap();
    let mut client = nodes[1].open("data").unwrap();
    assert_eq!(client.read(0, 1 << 20).unwrap(), vec![1; 1 << 20]);
    client.write(3 << 20, &vec![2; 1 << 20], false).unwrap();
    nodes[0].attach().unwrap();
    nodes[0].command(CONNECT).unwrap();
    for node in &nodes {
        node.wait("in sync again", is_in_sync);
    }
    assert_equal(&nodes);
}

#[test]
fn overlapping_writes_in_flight_leave_the_same_data_on_both() {
    let nodes = in_sync();
    let mut clients = [nodes[0].open("data").unwrap(), nodes[0].open("data").unwrap()];
    for round in 0..8 {
        // 128 writes to 16 blocks, some of them across a border.
        let offsets: Vec<u64> = (0..128).map(|index| (index * 5 + round) % 16 * 4096 + index % 3 * 512).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            let contents = |index: usize| vec![(index * 2 + number) as u8 ^ round as u8; 4096];
            assert_eq!(client.write_each(&offsets, contents), offsets.len());
        }
    }
    clients[0].flush().unwrap();
    assert_equal(&nodes);
}

/// Writes of all kinds and a resync, between nodes configured like this.
fn check_replicates(tune: impl Fn(&mut PeerSettings)) {
    let nodes = in_sync_with(tune);
    let mut client = nodes[0].open("data").unwrap();
    let offsets: Vec<u64> = (0..300).map(|index| index * 7 % 500 * 8192 + 512).collect();
    assert_eq!(client.write_each(&offsets, |index| vec![index as u8; 4096]), offsets.len());
    client.write(9 << 20, &vec![4; (2 << 20) + 512], true).unwrap();
    client.trim(10 << 20, 1 << 20).unwrap();
    client.flush().unwrap();
    nodes[1].command(Command::Disconnect { force: false }).unwrap();
    client.write(5 << 20, &vec![7; 1 << 20], false).unwrap();
    nodes[1].command(CONNECT).unwrap();
    let _ = nodes[0].command(CONNECT);
    for node in &nodes {
        node.wait("in sync again", is_in_sync);
    }
    client.write(6 << 20, &vec![9; 1 << 20], false).unwrap();
    client.flush().unwrap();
    assert_equal(&nodes);
}

/// Nothing is under way.
fn is_quiet(status: &ResourceStatus) -> bool {
    let (volume, peer) = (&status.volumes[0], &status.peers[0]);
    let there = &peer.volumes[0];
    (volume.upper_pending, volume.lower_pending, there.pending, there.unacked) == (0, 0, 0, 0)
        && (peer.ap_in_flight, peer.rs_in_flight, peer.epochs) == (0, 0, 0)
}

#[test]
fn what_the_status_counts_is_what_has_happened() {
    let nodes = in_sync();
    let quiet = || nodes.each_ref().map(|node| (node.wait("quiet", is_quiet), node.status()).1);
    let before = quiet();
    let mut client = nodes[0].open("data").unwrap();
    let offsets: Vec<u64> = (0..100).map(|index| index * 8192).collect();
    assert_eq!(client.write_many(&offsets, &[3; 4096]), offsets.len());
    client.write(8 << 20, &vec![4; 1 << 20], false).unwrap();
    client.flush().unwrap();
    client.read(0, 8192).unwrap();
    assert!(nodes[0].status().volumes[0].open);
    let after = quiet();
    let counted = |side: usize| {
        let of = |status: &ResourceStatus| {
            let (volume, there) = (&status.volumes[0], &status.peers[0].volumes[0]);
            [volume.written_kib, volume.read_kib, there.sent_kib, there.received_kib]
        };
        let (before, after) = (of(&before[side]), of(&after[side]));
        [0, 1, 2, 3].map(|index| after[index] - before[index])
    };
    assert_eq!(counted(0), [400 + 1024, 8, 400 + 1024, 0]);
    assert_eq!(counted(1), [400 + 1024, 0, 0, 400 + 1024]);
    let extents = |status: &ResourceStatus| status.volumes[0].al_writes;
    assert!(extents(&after[0]) > extents(&before[0]), "two extents became hot");
    assert!(after[1].volumes[0].bm_writes > 0, "the first resync cleared bits");
}

#[test]
fn a_resync_that_is_held_counts_its_time_and_no_progress() {
    let nodes = in_sync();
    nodes[1].command(Command::Disconnect { force: false }).unwrap();
    nodes[0].open("data").unwrap().write(1 << 20, &vec![6; 1 << 20], false).unwrap();
    nodes[0].command(Command::PauseSync { volume: 0 }).unwrap();
    let _ = nodes[0].command(CONNECT);
    nodes[1].command(CONNECT).unwrap();
    for node in &nodes {
        node.wait("held for a while", |status| status.peers[0].volumes[0].sync.is_some_and(|sync| sync.paused_ms > 20));
        let sync = node.status().peers[0].volumes[0].sync.unwrap();
        assert_eq!((sync.total_kib, sync.left_kib, sync.rate_kib_per_s), (1024, 1024, 0));
        assert!(sync.elapsed_ms >= sync.paused_ms && !sync.stalled, "{sync:?}");
        let is_target = node.status().volumes[0].disk == DiskState::Inconsistent;
        assert_eq!(sync.want_kib_per_s.is_some(), is_target, "only who asks wants: {sync:?}");
    }
    nodes[0].command(Command::ResumeSync { volume: 0 }).unwrap();
    for node in &nodes {
        node.wait("in sync again", is_in_sync);
    }
}

#[test]
fn every_header_version_replicates() {
    for version in [86, 95, 100] {
        check_replicates(|peer| peer.version_max = version);
    }
}

#[test]
fn protocols_a_and_b_replicate() {
    for protocol in [ReplicationProtocol::A, ReplicationProtocol::B] {
        check_replicates(|peer| peer.protocol = protocol);
    }
}

#[test]
fn peers_that_authenticate_and_check_digests_replicate() {
    check_replicates(|peer| {
        peer.authentication = Some((HmacAlgorithm::Sha1, b"secret".to_vec()));
        peer.integrity = Some(DigestAlgorithm::Sha1);
        peer.csums = Some(DigestAlgorithm::Md5);
    });
}

#[test]
fn a_second_primary_is_refused_and_a_primary_hands_over() {
    let nodes = in_sync();
    let refusal = nodes[1].command(Command::Primary { force: false }).unwrap_err();
    assert_eq!(refusal.code, Code::State(StateRefusal::TwoPrimaries), "{refusal}");
    demote(&nodes[0]);
    nodes[1].command(Command::Primary { force: false }).unwrap();
    nodes[0].wait("told", |status| status.peers[0].role == Role::Primary);
}

#[test]
fn an_invalidated_copy_is_fetched_again() {
    let nodes = in_sync();
    nodes[1].command(Command::Invalidate { volume: 0 }).unwrap();
    nodes[1].command(Command::WaitSync { volume: 0 }).unwrap();
    for node in &nodes {
        node.wait("in sync again", is_in_sync);
    }
    nodes[0].command(Command::InvalidateRemote { volume: 0 }).unwrap();
    nodes[0].command(Command::WaitSync { volume: 0 }).unwrap();
    for node in &nodes {
        node.wait("in sync again", is_in_sync);
    }
    assert_equal(&nodes);
}

#[test]
fn a_primary_without_its_disk_goes_on_through_its_peer() {
    let nodes = in_sync();
    let mut client = nodes[0].open("data").unwrap();
    client.write(0, &[1; 8192], false).unwrap();
    nodes[0].command(Command::Detach { volume: 0, force: false }).unwrap();
    assert_eq!(client.read(0, 8192).unwrap(), vec![1; 8192]);
    client.write(4096, &[2; 1 << 20], true).unwrap();
    assert_eq!(client.read(4096, 1 << 20).unwrap(), vec![2; 1 << 20]);
    nodes[0].attach().unwrap();
    for node in &nodes {
        node.wait("in sync again", is_in_sync);
    }
    assert_equal(&nodes);
}

#[test]
fn both_nodes_stop_gracefully() {
    let nodes = in_sync();
    nodes[0].stop().unwrap();
    nodes[1].stop().unwrap();
}

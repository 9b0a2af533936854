//! One node without its peer.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

use super::client::NbdClient;
use super::node::{Node, addresses};
use crate::control::refusal::{ConfigurationRefusal, StateRefusal};
use crate::engine::{NBD_CLIENTS_MAX, NbdListen};
use crate::metadata::activity_record::initialised_block;
use crate::metadata::layout::{Format, Layout, Placement, Striping};
use crate::metadata::superblock::{Superblock, UnverifiedSuperblock};
use crate::model::ids::NodeId;
use crate::model::state::{DiskState, Role};
use crate::replica::event::Command;
use crate::replica::refusal::Code;

fn primary() -> Node {
    let node = Node::new(0, addresses());
    node.attach().unwrap();
    node.command(Command::Primary { force: true }).unwrap();
    node
}

#[test]
fn a_forced_primary_serves_what_was_written() {
    let node = primary();
    let mut client = node.open("data").unwrap();
    assert!(client.bytes > 15 << 20, "{}", client.bytes);
    let payload: Vec<u8> = (0..70_000u32 / 512 * 512).map(|at| (at / 512) as u8 + 1).collect();
    client.write(4096 + 512, &payload, false).unwrap();
    client.write(1 << 20, &payload, true).unwrap();
    client.flush().unwrap();
    for offset in [4096 + 512, 1 << 20] {
        assert_eq!(client.read(offset, payload.len() as u32).unwrap(), payload);
    }
    assert_eq!(client.read(4096, 512).unwrap(), vec![0; 512]);
    client.trim(1 << 20, 65_536).unwrap();
    client.zeroes(4096 + 512, 512).unwrap();
    assert_eq!(client.read(1 << 20, 65_536).unwrap(), vec![0; 65_536]);
    assert_eq!(client.read(4096 + 512, 1024).unwrap()[..], [vec![0; 512], vec![2; 512]].concat()[..]);
    let large = vec![7; 5 << 20];
    client.write(2 << 20, &large, false).unwrap();
    assert_eq!(client.read(2 << 20, 5 << 20).unwrap(), large);
}

#[test]
fn many_writes_in_flight_are_all_answered() {
    let node = primary();
    let mut clients = [node.open("data").unwrap(), node.open("data/0").unwrap()];
    let offsets: Vec<u64> = (0..500).map(|index| index * 4096).collect();
    for client in &mut clients {
        assert_eq!(client.write_many(&offsets, &[9; 4096]), offsets.len());
    }
    assert!(clients[1].read(0, 500 * 4096).unwrap().iter().all(|byte| *byte == 9));
}

#[test]
fn clients_that_ask_for_more_than_a_ring_holds_wait_and_lose_nothing() {
    let node = primary();
    let offsets: Vec<u64> = (0..1000).map(|index| index * 4096).collect();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            let mut client = node.open("data").unwrap();
            let offsets = &offsets;
            scope.spawn(move || assert_eq!(client.write_many(offsets, &[9; 512]), offsets.len()));
        }
    });
    assert_eq!(node.status().volumes[0].disk, DiskState::UpToDate);
    assert_eq!(node.open("data").unwrap().read(999 * 4096, 512).unwrap(), vec![9; 512]);
}

#[test]
fn a_secondary_turns_clients_away_in_words() {
    let node = Node::new(0, addresses());
    assert_eq!(node.open("data").err().unwrap(), "data is Secondary here");
    assert!(node.open("other").is_err());
    node.attach().unwrap();
    assert!(node.open("data").is_err());
}

#[test]
fn an_open_export_keeps_the_node_primary() {
    let node = primary();
    let client = node.open("data").unwrap();
    let refusal = node.command(Command::Secondary).unwrap_err();
    assert_eq!(refusal.code, Code::State(StateRefusal::DeviceInUse), "{refusal}");
    drop(client);
    node.wait("closed", |status| !status.volumes[0].open);
    node.command(Command::Secondary).unwrap();
    assert_eq!(node.status().role, Role::Secondary);
}

#[test]
fn a_volume_is_attached_once_and_only_one_daemon_has_it() {
    let addresses = addresses();
    let node = Node::new(0, addresses);
    node.attach().unwrap();
    let refusal = node.attach().unwrap_err();
    assert_eq!(refusal.code, Code::Configuration(ConfigurationRefusal::AlreadyAttached));
    let disk = crate::io::block_file::BlockFile::open(node.disk(), Default::default()).unwrap();
    assert!(disk.lock().is_err());
    node.command(Command::Detach { volume: 0, force: false }).unwrap();
    disk.wait_for_lock(std::time::Duration::from_secs(100)).unwrap();
}

/// The lock stands for a disk that does not answer.
#[test]
fn a_disk_that_is_still_being_opened_says_so_and_can_be_let_go() {
    let node = Node::new(0, addresses());
    let disk = crate::io::block_file::BlockFile::open(node.disk(), Default::default()).unwrap();
    disk.lock().unwrap();
    let attach = || {
        let (sender, receiver) = mpsc::channel();
        let id = node.handle.attach(0, Box::new(move |result| drop(sender.send(result)))).unwrap();
        (id, receiver)
    };
    let sentence = || node.attach().unwrap_err().sentence;
    let (_, first) = attach();
    assert!(sentence().ends_with("is being opened for an attach that waits for it"), "{}", sentence());
    assert!(node.status().volumes[0].reason.as_deref().unwrap().contains("being opened"));
    node.command(Command::Detach { volume: 0, force: false }).unwrap();
    assert_eq!(first.recv().unwrap().unwrap_err().sentence, "detached while it was being opened");
    assert!(sentence().ends_with("is still being opened for an attach that was given up"), "{}", sentence());
    drop(disk);
    node.wait("the helper is back", |status| {
        !status.volumes[0].reason.as_deref().unwrap().contains("has not answered")
    });
    assert_eq!(node.status().volumes[0].reason.as_deref(), Some("detached while it was being opened"));
    node.attach().unwrap();
    assert!(node.attach().unwrap_err().sentence.ends_with("attached already"));
}

#[test]
fn whoever_asks_for_the_end_while_it_comes_is_told_of_the_same_end() {
    let node = primary();
    let (sender, receiver) = mpsc::channel();
    for _ in 0..3 {
        let sender = sender.clone();
        node.handle.stop_gracefully(Box::new(move |result| drop(sender.send(result)))).unwrap();
    }
    assert_eq!([(); 3].map(|()| receiver.recv().unwrap()), [Ok(()), Ok(()), Ok(())]);
}

#[test]
fn a_graceful_stop_lets_clients_go_and_leaves_clean_metadata() {
    let node = primary();
    let mut client = node.open("data").unwrap();
    client.write(0, &[1; 4096], false).unwrap();
    node.stop().unwrap();
    assert!(client.read(0, 512).is_err());
    while !node.handle.is_finished() {
        std::thread::yield_now();
    }
    assert!(!node.socket().exists());
    assert!(node.open("data").is_err());
}

#[test]
fn what_was_acknowledged_is_there_after_a_crash() {
    let mut node = primary();
    let mut client = node.open("data").unwrap();
    client.write(8192, &[5; 4096], false).unwrap();
    node.crash();
    assert!(client.read(0, 512).is_err());
    node.attach().unwrap();
    node.command(Command::Primary { force: true }).unwrap();
    assert_eq!(node.open("data").unwrap().read(8192, 4096).unwrap(), vec![5; 4096]);
}

#[test]
fn a_client_that_does_not_read_its_replies_is_not_read_from() {
    let node = primary();
    let mut client = node.open("data").unwrap();
    // 8 GiB of replies, if anybody made them.
    client.ask_without_listening(1024, 8 << 20);
    let mut other = node.open("data").unwrap();
    other.write(0, &[1; 4096], false).unwrap();
    assert_eq!(other.read(0, 4096).unwrap(), vec![1; 4096]);
    let resident = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident =
        resident.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim().trim_end_matches(" kB");
    assert!(resident.parse::<u64>().unwrap() < 2 << 20, "{resident} KiB");
    drop(client);
    other.flush().unwrap();
    drop(other);
    node.wait("closed", |status| !status.volumes[0].open);
}

#[test]
fn requests_whose_answers_nobody_reads_yet_are_answered_in_the_end() {
    let node = primary();
    let mut client = node.open("data").unwrap();
    client.ask_without_listening(4096, 4096);
    let mut other = node.open("data").unwrap();
    other.write(0, &[1; 4096], false).unwrap();
    assert_eq!(client.listen(4096), 4096);
    assert_eq!(client.read(0, 4096).unwrap(), vec![1; 4096]);
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let node = primary();
    let silent: Vec<UnixStream> = (0..NBD_CLIENTS_MAX).map(|_| UnixStream::connect(node.socket()).unwrap()).collect();
    let greeted = |mut stream: &UnixStream| stream.read_exact(&mut [0; 18]);
    silent.iter().for_each(|stream| greeted(stream).unwrap());
    let mut client = node.open("data").unwrap();
    let mut oldest = &silent[0];
    assert_eq!(oldest.read(&mut [0]).unwrap(), 0, "it had to go");
    let mut second = &silent[1];
    second.set_nonblocking(true).unwrap();
    assert_eq!(second.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    client.write(0, &[1; 512], false).unwrap();
}

#[test]
fn who_comes_when_all_places_are_taken_is_turned_away_and_comes_again() {
    let node = primary();
    let mut clients: Vec<NbdClient> = (0..NBD_CLIENTS_MAX).map(|_| node.open("data").unwrap()).collect();
    assert!(node.open("data").is_err());
    assert_eq!(clients[0].read(0, 512).unwrap(), vec![0; 512], "the others stay");
    drop(clients.pop());
    node.wait("a place", |_| node.open("data").is_ok());
}

/// What the kernel's table of connections says of the server's ends: `02` is a running keepalive.
fn timers(server: SocketAddr) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let place = format!("0100007F:{:04X}", server.port());
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Number, own address, the other's, state (01: established), queues, timer.
    rows.filter(|row| row[1] == place && row[3] == "01").map(|row| row[5][..2].to_owned()).collect()
}

#[test]
fn a_client_that_falls_silent_is_asked_whether_it_is_there() {
    let node = Node::tuned(0, addresses(), |spec| spec.nbd.push(NbdListen::Tcp("127.0.0.1:0".parse().unwrap())));
    node.attach().unwrap();
    node.command(Command::Primary { force: true }).unwrap();
    let server = tcp_place(&node);
    let mut client = NbdClient::open_tcp(server, "data").unwrap();
    client.write(0, &[1; 512], false).unwrap();
    node.wait("asking", |_| timers(server) == ["02"]);
}

#[test]
fn a_client_that_vanishes_leaves_nothing_behind() {
    let node = primary();
    for _ in 0..5 {
        node.open("data").unwrap().vanish_in_a_write();
        let mut client = node.open("data").unwrap();
        client.ask_without_listening(20, 1 << 20);
    }
    node.wait("closed", |status| !status.volumes[0].open);
    let mut client = node.open("data").unwrap();
    assert_eq!(client.read(0, 8192).unwrap(), vec![0; 8192], "half a write is none");
    drop(client);
    node.wait("closed", |status| !status.volumes[0].open);
    node.stop().unwrap();
}

/// Where a node listens that also listens on TCP.
fn tcp_place(node: &Node) -> SocketAddr {
    let places = node.status().volumes.remove(0).nbd;
    places[1].strip_prefix("nbd://").and_then(|uri| uri.strip_suffix("/data")).unwrap().parse().unwrap()
}

#[test]
fn clients_come_over_tcp_too_and_the_page_cache_may_be_used() {
    let node = Node::tuned(0, addresses(), |spec| {
        spec.nbd.push(NbdListen::Tcp("127.0.0.1:0".parse().unwrap()));
        spec.direct = false;
    });
    node.attach().unwrap();
    node.command(Command::Primary { force: true }).unwrap();
    let mut client = NbdClient::open_tcp(tcp_place(&node), "").unwrap();
    client.write(512, &[1; 70_144], true).unwrap();
    client.flush().unwrap();
    assert_eq!(node.open("data").unwrap().read(512, 70_144).unwrap(), vec![1; 70_144]);
}

#[test]
fn who_dials_a_node_that_is_stand_alone_is_refused() {
    let addresses = addresses();
    let node = Node::new(0, addresses);
    let is_refused = || {
        let result = TcpStream::connect(addresses[0]);
        result.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    };
    for _ in 0..2 {
        assert!(is_refused(), "nobody is looked for");
        node.command(Command::Connect { discard_my_data: false }).unwrap();
        node.wait("listening", |_| !is_refused());
        // The machine has answered before the thread's next pass, which closes the listener, is over.
        node.command(Command::Disconnect { force: false }).unwrap();
        node.wait("refusing", |_| is_refused());
    }
}

/// A superblock as another program left it, on the disk of a node.
fn plant(node: &Node, bytes_per_bit: u32, max_peers: u32, change: impl FnOnce(&mut Superblock)) -> Layout {
    let (place, bytes) = (Placement::Internal, std::fs::metadata(node.disk()).unwrap().len());
    let layout =
        Layout::compute_coarse(Format::V09, place, bytes, max_peers, Striping::default(), bytes_per_bit).unwrap();
    let mut superblock = Superblock::fresh(&layout);
    change(&mut superblock);
    write_at(node, layout.superblock, &superblock.encode());
    (0..8).for_each(|block| write_at(node, layout.activity_log_block_offset(block), &initialised_block()));
    layout
}

fn write_at(node: &Node, offset: u64, bytes: &[u8]) {
    std::fs::File::options().write(true).open(node.disk()).unwrap().write_all_at(bytes, offset).unwrap();
}

fn superblock_of(node: &Node, layout: &Layout) -> Superblock {
    let mut block = [0; 4096];
    std::fs::File::open(node.disk()).unwrap().read_exact_at(&mut block, layout.superblock).unwrap();
    let bytes = std::fs::metadata(node.disk()).unwrap().len();
    UnverifiedSuperblock::decode(&block).unwrap().judge(layout.placement, bytes).unwrap().0
}

#[test]
fn a_coarse_bitmap_is_not_attached() {
    let node = Node::new(0, addresses());
    plant(&node, 65536, 1, |_| ());
    let before = std::fs::read(node.disk()).unwrap();
    let refusal = node.attach().unwrap_err();
    assert_eq!(refusal.code, Code::Configuration(ConfigurationRefusal::NoMetadata));
    let expected = "one bit of the bitmap stands for 65536 bytes; only bitmaps with 4096 bytes a bit are served here";
    assert_eq!((refusal.sentence.as_str(), refusal.next.as_deref()), (expected, None));
    assert!(std::fs::read(node.disk()).unwrap() == before, "nothing was changed");
}

#[test]
fn a_peer_gets_a_slot_of_the_bitmap_that_nobody_has() {
    let node = Node::new(0, addresses());
    let layout = plant(&node, 4096, 3, |superblock| {
        superblock.node_id = NodeId::new(0);
        superblock.peers[5].bitmap_index = Some(0);
        superblock.peers[7].bitmap_index = Some(2);
    });
    node.attach().unwrap();
    node.command(Command::Primary { force: true }).unwrap();
    let mut client = node.open("data").unwrap();
    client.write(1 << 20, &[1; 4096], false).unwrap();
    drop(client);
    node.stop().unwrap();
    let peers = superblock_of(&node, &layout).peers;
    assert_eq!([1, 5, 7].map(|peer: usize| peers[peer].bitmap_index), [Some(1), Some(0), Some(2)]);
}

#[test]
fn a_disk_whose_slots_all_belong_to_others_is_refused() {
    let node = Node::new(0, addresses());
    plant(&node, 4096, 1, |superblock| superblock.peers[5].bitmap_index = Some(0));
    let refusal = node.attach().unwrap_err();
    assert_eq!(refusal.sentence, "bitmap slots: 1 needed for the configured peers, 0 free of 1");
    assert_eq!(refusal.next, None, "new metadata would lose what the slot says");
}

#[test]
fn metadata_that_cannot_be_read_is_not_to_be_replaced() {
    let node = Node::new(0, addresses());
    let layout = plant(&node, 4096, 1, |_| ());
    for (at, bytes, words, next) in [
        (0x44, &[1][..], "al_offset", None),
        (0x3C, &0x8374_026E_u32.to_be_bytes(), "metadata of a newer version (magic 0x8374026e)", None),
        (0x3C, &[0; 4], "no metadata found", Some("create-md data")),
    ] {
        write_at(&node, layout.superblock + at, bytes);
        let refusal = node.attach().unwrap_err();
        assert!(refusal.sentence.contains(words), "{refusal}");
        assert_eq!(refusal.next.as_deref(), next, "{refusal}");
    }
}

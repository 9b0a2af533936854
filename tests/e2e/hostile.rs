//! Garbage on the sockets of a running pair: the daemon lives, and so do the data.

use crate::harness::cluster::is_connected;
use crate::harness::configuration::{PORT, RESOURCE};
use crate::harness::load::{Dice, Ledger, Load};
use crate::harness::nbd::Nbd;
use crate::harness::network::{address, inside};
use crate::harness::tools::{described, nbd_script, output, run};
use crate::harness::wait::until;
use crate::harness::{Cluster, LONG, Options};
use bytes::BytesMut;
use shimai::nbd::client::Client;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Random bytes, sometimes with a beginning that a parser likes.
fn garbage(dice: &mut Dice, beginnings: &[&[u8]]) -> Vec<u8> {
    let choice = dice.below(beginnings.len() as u64 + 1) as usize;
    let mut bytes = beginnings.get(choice).map_or_else(Vec::new, |beginning| beginning.to_vec());
    let length = dice.below(5000);
    bytes.extend((0..length).map(|_| dice.below(256) as u8));
    bytes
}

/// Sends garbage to a unix socket, over and over, and reads what comes.
fn throw_at(socket: &Path, seed: u64, beginnings: &[&[u8]]) {
    let mut dice = Dice::new(seed);
    for _ in 0..100 {
        let mut stream = UnixStream::connect(socket).expect("the daemon listens");
        stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout can be set");
        // Either may fail: the daemon closes on those who make no sense.
        let _ = stream.write_all(&garbage(&mut dice, beginnings));
        let _ = stream.read(&mut [0; 4096]);
    }
}

#[test]
fn garbage_on_the_nbd_socket_harms_nobody() {
    let mut cluster = Cluster::with_primary(Options::default());
    let load = Load::start(&cluster.a.nbd_socket(), RESOURCE, (0..1000).collect(), 1, Ledger::default());
    let hello = [&[0, 0, 0, 3][..], b"IHAVEOPT", &[0, 0, 0, 7]].concat();
    throw_at(&cluster.a.nbd_socket(), 2, &[&hello, &[0, 0, 0, 1], &[0xff; 64]]);
    load.wait_for(200);
    load.stop();
    cluster.a.assert_alive();
    cluster.assert_in_sync_and_identical();
}

#[test]
fn garbage_on_the_admin_socket_harms_nobody() {
    let mut cluster = Cluster::with_primary(Options::default());
    let deep = [&b"{\"verb\":"[..], &[b'['; 4000]].concat();
    throw_at(
        &cluster.a.run_dir().join("control.sock"),
        3,
        &[&deep, b"{\"verb\":\"down\",\"resource\":\"../x\"}\n", b"\n\n"],
    );
    cluster.a.assert_alive();
    assert_eq!(cluster.a.ok(&["role", RESOURCE]), "Primary/Secondary\n");
}

/// Opens one connection, and a second one if a peer that begins well is played: then the packets that say which stream is
/// which, and a wait for the daemon's own features, 80 bytes. In the end the garbage, which the daemon may cut short.
const THROW: &str = r#"
set -e
trap '' PIPE
exec 3<>"$2"
if [ "$3" = as-peer ]; then
    exec 4<>"$2"
    printf '\x83\x74\x02\x67\xff\xf2\x00\x00' >&3
    printf '\x83\x74\x02\x67\xff\xf1\x00\x00' >&4
    [ "$(timeout 5 head -c 80 <&3 | wc -c)" = 80 ]
fi
cat "$1" >&3 || true
"#;

/// Throws from the other node's address and namespace, since the port is reached only there, with bash's own sockets.
/// Whether the daemon took it.
fn throw_at_port(cluster: &Cluster, bytes: &[u8], manner: &str) -> Result<(), String> {
    let file = cluster.scratch().join("garbage");
    std::fs::write(&file, bytes).expect("the folder is ours");
    let port = format!("/dev/tcp/{}/{PORT}", address(0));
    let mut bash = inside(&cluster.b.namespace, "/bin/bash");
    let thrown = output(bash.args(["-c", THROW, "throw"]).arg(&file).args([&port, manner]));
    if thrown.status.success() { Ok(()) } else { Err(described(&bash, &thrown)) }
}

#[test]
fn garbage_on_the_replication_port_harms_nobody() {
    let mut cluster = Cluster::with_primary(Options::default());
    let load = Load::start(&cluster.a.nbd_socket(), RESOURCE, (0..1000).collect(), 4, Ledger::default());
    let mut dice = Dice::new(5);
    // The magic numbers of the three dialects of headers, with commands and lengths that mean something or nothing.
    let beginnings: [&[u8]; 4] = [
        &[0x83, 0x74, 0x02, 0x67, 0x00, 0x0f, 0x00, 0x00],
        &[0x86, 0x20, 0xec, 0x20, 0x00, 0x00, 0xff, 0xf2, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00],
        &[0x83, 0x5a, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff],
        &[0x83, 0x74, 0x02, 0x67, 0xff, 0xf1, 0x00, 0x00, 0x86, 0x20, 0xec, 0x20],
    ];
    for _ in 0..50 {
        throw_at_port(&cluster, &garbage(&mut dice, &beginnings), "as-stranger").expect("the daemon listens");
    }
    load.wait_for(200);
    load.stop();
    cluster.a.assert_alive();
    cluster.assert_in_sync_and_identical();
}

/// A peer that begins well: the packet that opens the data stream, its features, and then nonsense.
#[test]
fn garbage_after_a_handshake_that_began_well_harms_nobody() {
    let mut cluster = Cluster::with_primary(Options::default());
    // The port is bravo's while it is connected; a stranger is heard when it is away.
    cluster.b.ok(&["disconnect", RESOURCE]);
    cluster.a.wait("the peer has left", LONG, |status| !is_connected(status));
    let load = Load::start(&cluster.a.nbd_socket(), RESOURCE, (0..1000).collect(), 4, Ledger::default());
    // An authentication challenge, the protocol, the sizes and the state, each with a length and no meaning.
    let packets: [&[u8]; 5] = [
        &[0x83, 0x74, 0x02, 0x67, 0x00, 0x10, 0x00, 0x40],
        &[0x83, 0x74, 0x02, 0x67, 0x00, 0x0b, 0x00, 0x18],
        &[0x86, 0x20, 0xec, 0x20, 0x00, 0x00, 0x00, 0x12, 0x00, 0x00, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00],
        &[0x86, 0x20, 0xec, 0x20, 0xff, 0xff, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00],
        &[0x83, 0x5a, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff],
    ];
    let mut dice = Dice::new(6);
    for _ in 0..10 {
        let bytes = [features(), garbage(&mut dice, &packets)].concat();
        until("the daemon takes a peer", LONG, || throw_at_port(&cluster, &bytes, "as-peer"));
    }
    load.wait_for(200);
    load.stop();
    cluster.a.assert_alive();
    cluster.b.ok(&["connect", RESOURCE]);
    cluster.assert_in_sync_and_identical();
}

/// Features of a peer with protocol 86 to 101.
fn features() -> Vec<u8> {
    let [lowest, none, highest] = [86_u32, 0, 101].map(u32::to_be_bytes);
    [&[0x83, 0x74, 0x02, 0x67, 0xff, 0xfe, 0x00, 0x48][..], &lowest, &none, &highest, &[0; 60]].concat()
}

#[test]
fn illegal_requests_are_refused_one_by_one() {
    let mut cluster = Cluster::with_primary(Options::default());
    let lines = run(nbd_script("illegal_requests.py").arg(cluster.a.nbd_socket()).arg(RESOURCE));
    assert!(lines.contains("a write past the end: ENOSPC"), "{lines}");
    assert!(lines.contains("a read past the end: EINVAL"), "{lines}");
    cluster.a.assert_alive();
    cluster.assert_in_sync_and_identical();
}

/// Each may ask for 128 MiB; all together get what the resource has for them.
#[test]
fn clients_that_do_not_listen_share_one_budget() {
    let mut cluster = Cluster::with_primary(Options::default());
    let open = || Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("alpha is Primary");
    let mut deaf: Vec<Nbd> = (0..24).map(|_| open()).collect();
    for client in &mut deaf {
        for _ in 0..16 {
            client.begin_read(0, 8 << 20).expect("the daemon lives");
        }
    }
    let mut other = open();
    for round in 0..200 {
        other.write(round * 4096, &[round as u8; 4096]).expect("others are served");
    }
    let resident = cluster.a.resident_bytes();
    // The budget, one request of each, what each has not taken, and the daemon itself.
    assert!(resident < (512 + 24 * 16 + 256) << 20, "{} MiB", resident >> 20);
    for client in &mut deaf {
        for _ in 0..16 {
            let (_, result) = client.reply().expect("everyone is served in the end");
            assert_eq!(result.expect("the disk is good").len(), 8 << 20);
        }
    }
    drop((deaf, other));
    cluster.a.assert_alive();
    cluster.assert_in_sync_and_identical();
}

#[test]
fn a_payload_that_is_only_announced_takes_no_memory() {
    let cluster = Cluster::with_primary(Options::default());
    let before = cluster.a.resident_bytes();
    let announcing: Vec<UnixStream> = (0..100)
        .map(|_| {
            let mut stream = UnixStream::connect(cluster.a.nbd_socket()).expect("the daemon listens");
            let (mut client, hello) = Client::connect_bytes(RESOURCE);
            let mut out = BytesMut::from(&hello[..]);
            client.write_header(1, 0, 32 << 20, false, &mut out);
            stream.write_all(&out).expect("the daemon reads");
            // The grant comes before the header is looked at, so it is followed by a request of another client.
            stream.read_exact(&mut [0; 100]).expect("the export is granted");
            stream
        })
        .collect();
    Nbd::open(&cluster.a.nbd_socket(), RESOURCE).and_then(|mut other| other.read(0, 4096)).expect("others are served");
    let grown = cluster.a.resident_bytes().saturating_sub(before);
    assert!(grown < 256 << 20, "{} MiB for 100 headers", grown >> 20);
    drop(announcing);
}

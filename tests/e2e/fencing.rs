//! Handlers run by the daemon: what they are told, what their exit codes do, and that nobody waits for them without need.

use crate::harness::cluster::{is_connected, is_in_sync, is_stand_alone, peer};
use crate::harness::configuration::RESOURCE;
use crate::harness::disks::read_at;
use crate::harness::nbd::Nbd;
use crate::harness::wait::until;
use crate::harness::{Cluster, Format, LONG, Node, Options};
use shimai::model::state::{DiskState, Role};
use std::fs;
use std::path::PathBuf;

/// Writes its environment to a file named after the handler, waits while there is a file `hold`, and ends with the code in
/// the file NAME.exit.
const SCRIPT: &str = r#"
here=${DRBD_CONF%/*}
env > "$here/$1.part" && mv "$here/$1.part" "$here/$1.env"
echo "this is $1"
while [ -e "$here/hold" ]; do sleep 0.1; done
exit "$(cat "$here/$1.exit" 2>/dev/null || echo 0)"
"#;

/// The folder of the node's configuration.
fn folder(node: &Node) -> PathBuf {
    node.config().parent().expect("a file is in a folder").to_owned()
}

fn set_exit(node: &Node, handler: &str, code: u8) {
    fs::write(folder(node).join(format!("{handler}.exit")), code.to_string()).expect("the folder is ours");
}

/// What a handler was told, once it has run.
fn told(node: &Node, handler: &str) -> Vec<String> {
    let path = folder(node).join(format!("{handler}.env"));
    let text = until(&format!("{handler} runs"), LONG, || fs::read_to_string(&path).map_err(|_| "it has not run"));
    text.lines().map(str::to_owned).collect()
}

fn has_run(node: &Node, handler: &str) -> bool {
    folder(node).join(format!("{handler}.env")).exists()
}

/// In sync, alpha Primary.
fn cluster(mut options: Options) -> Cluster {
    options.handlers = vec![
        "fence-peer \"sh ${DRBD_CONF%/*}/handler.sh fence-peer\"",
        "unfence-peer \"sh ${DRBD_CONF%/*}/handler.sh unfence-peer\"",
        "before-resync-target \"sh ${DRBD_CONF%/*}/handler.sh before-resync-target\"",
        "after-resync-target \"sh ${DRBD_CONF%/*}/handler.sh after-resync-target\"",
    ];
    let cluster = Cluster::new(options);
    for node in cluster.nodes() {
        fs::write(folder(node).join("handler.sh"), SCRIPT).expect("the folder is ours");
    }
    let cluster = cluster.made_ready();
    cluster.a.ok(&["primary", RESOURCE]);
    cluster
}

#[test]
fn writes_freeze_until_the_lost_peer_is_fenced() {
    let cluster = cluster(Options { disk: vec!["fencing resource-and-stonith"], ..Options::default() });
    let a = &cluster.a;
    set_exit(a, "fence-peer", 7);
    fs::write(folder(a).join("hold"), "").expect("the folder is ours");
    cluster.cut(a);
    let environment = told(a, "fence-peer");
    for expected in [
        "DRBD_RESOURCE=data",
        "DRBD_MINOR=0",
        "DRBD_VOLUME=0",
        "DRBD_PEERS=bravo",
        "DRBD_PEER_AF=ipv4",
        &format!("DRBD_PEER_ADDRESS={}", crate::harness::network::address(1)),
        &format!("DRBD_MY_ADDRESS={}", crate::harness::network::address(0)),
        &format!("DRBD_CONF={}", a.config().display()),
        &format!("DRBD_LL_DISK={}", a.disks[0].display()),
        "HOME=/",
    ] {
        assert!(environment.iter().any(|line| line == expected), "{expected} is missing: {environment:#?}");
    }
    let status = a.status();
    assert!(status.suspended.fencing && status.suspended.any());
    assert!(a.ok(&["status", RESOURCE]).contains("suspended:fencing"));
    let why = a.ok(&["why", RESOURCE]);
    assert!(why.contains("whether bravo is in use"), "{why}");

    let mut nbd = Nbd::open(&a.nbd_socket(), RESOURCE).expect("a Primary serves");
    nbd.begin_write(4096, &[0xaa; 4096]).expect("it can be sent");
    // The daemon has it, and answers everything else meanwhile.
    a.wait("the write waits", LONG, |status| status.volumes[0].upper_pending == 1);
    assert_eq!(read_at(&a.disks[0], 4096, 4096), [0; 4096], "it has not begun");

    fs::remove_file(folder(a).join("hold")).expect("it is there");
    nbd.reply().expect("there is an answer").1.expect("the write is done");
    let status = a.status();
    assert!(!status.suspended.any());
    assert_eq!(peer(&status).volumes[0].peer_disk, DiskState::Outdated);
    drop(nbd);

    cluster.network.heal();
    cluster.assert_in_sync_and_identical();
    assert!(told(a, "unfence-peer").iter().any(|line| line == "DRBD_PEER=bravo"));
    assert!(told(&cluster.b, "after-resync-target").iter().any(|line| line == "DRBD_RESOURCE=data"));
    let log = fs::read_to_string(a.log()).expect("there is a log");
    assert!(log.contains("handler fence-peer: this is fence-peer"), "what it says is in the log");
}

#[test]
fn a_node_alone_is_promoted_when_its_peer_is_fenced() {
    let cluster = cluster(Options {
        net: vec!["fencing resource-only"],
        style: crate::harness::configuration::Style::Nine,
        formats: Format::BOTH_V08,
        ..Options::default()
    });
    let b = &cluster.b;
    cluster.cut(b);
    set_exit(b, "fence-peer", 1);
    let sentence = b.refused(&["primary", RESOURCE], 11);
    assert!(sentence.contains("(-7)") && sentence.contains("returned 1"), "{sentence}");
    assert!(has_run(b, "fence-peer"));
    set_exit(b, "fence-peer", 4);
    b.ok(&["primary", RESOURCE]);
    let status = b.status();
    assert_eq!((status.role, peer(&status).volumes[0].peer_disk), (Role::Primary, DiskState::Outdated));
}

#[test]
fn a_target_whose_handler_refuses_keeps_its_data() {
    let cluster = cluster(Options { formats: Format::MIXED, ..Options::default() });
    let (a, b) = (&cluster.a, &cluster.b);
    set_exit(b, "before-resync-target", 1);
    cluster.cut(a);
    b.wait("the loss of the peer is noticed", LONG, |status| !is_connected(status));
    let mut nbd = Nbd::open(&a.nbd_socket(), RESOURCE).expect("a Primary serves");
    nbd.write(8192, &[0xaa; 4096]).expect("nobody is asked");
    drop(nbd);
    cluster.network.heal();
    let status = b.wait("the handler refuses", LONG, is_stand_alone);
    let reason = peer(&status).reason.clone().unwrap_or_default();
    assert!(reason.contains("before-resync-target handler returned 1"), "{reason}");
    assert_ne!(status.volumes[0].disk, DiskState::Inconsistent);
    assert_eq!(read_at(&b.disks[0], 8192, 4096), [0; 4096]);

    set_exit(b, "before-resync-target", 0);
    b.ok(&["connect", RESOURCE]);
    cluster.wait_both("in sync", is_in_sync);
    cluster.assert_in_sync_and_identical();
}

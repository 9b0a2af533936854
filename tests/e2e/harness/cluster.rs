//! The pair: made, brought up, compared, taken away.

use super::configuration::{NODES, Options, RESOURCE};
use super::disks::{first_difference, make_sparse};
use super::network::Network;
use super::node::Node;
use super::tools::assert_root;
use super::wait::{LONG, SHORT};
use shimai::control::status::{PeerStatus, ResourceStatus};
use shimai::model::state::{ConnectionState, DiskState, Role};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Two nodes and the wire between them.
pub(crate) struct Cluster {
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) network: Network,
    pub(crate) options: Options,
    /// Last, so that the files go after those who use them.
    folder: TempDir,
}

impl Cluster {
    /// Files, namespaces and configuration; nothing runs, no metadata.
    pub(crate) fn new(options: Options) -> Self {
        assert_root();
        let network = Network::new();
        let folder = tempfile::Builder::new()
            .prefix("shimai-e2e-")
            .permissions(open_to_all())
            .tempdir()
            .expect("there is room for a folder");
        let disks = [0, 1].map(|side: usize| disks(&folder.path().join(NODES[side]), &options));
        let text = options.text(&disks);
        let [a, b] = [0, 1].map(|side: usize| {
            let folder = folder.path().join(NODES[side]);
            let node = Node::new(NODES[side], network.namespaces[side].clone(), folder, disks[side].clone());
            fs::write(node.config(), &text).expect("the folder is ours");
            node
        });
        Self { a, b, network, options, folder }
    }

    /// As `new`, and both nodes are connected, Secondary and UpToDate without a first resync.
    pub(crate) fn ready(options: Options) -> Self {
        let mut cluster = Self::new(options);
        cluster.create_md();
        cluster.start();
        cluster.up();
        cluster.wait_both("connected", is_connected);
        for volume in 0..cluster.options.volumes {
            cluster.a.ok(&["new-current-uuid", "--clear-bitmap", &format!("{RESOURCE}/{volume}")]);
        }
        cluster.wait_in_sync();
        cluster
    }

    /// As `ready`, with alpha promoted.
    pub(crate) fn with_primary(options: Options) -> Self {
        let cluster = Self::ready(options);
        cluster.a.ok(&["primary", RESOURCE]);
        cluster
    }

    /// A folder for the test's own files.
    pub(crate) fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// Both nodes.
    pub(crate) fn nodes(&self) -> [&Node; 2] {
        [&self.a, &self.b]
    }

    /// Writes metadata on both nodes.
    pub(crate) fn create_md(&self) {
        for node in self.nodes() {
            node.ok(&["create-md", "--force", "--format", self.options.format.name(), RESOURCE]);
        }
    }

    /// Starts both daemons.
    pub(crate) fn start(&mut self) {
        self.a.start();
        self.b.start();
    }

    /// Brings the resource up on both nodes.
    pub(crate) fn up(&self) {
        for node in self.nodes() {
            node.up();
        }
    }

    /// Waits until both see `holds`.
    pub(crate) fn wait_both(&self, what: &str, holds: impl Fn(&ResourceStatus) -> bool) {
        for node in self.nodes() {
            node.wait(what, LONG, &holds);
        }
    }

    /// Waits until both are connected, UpToDate, and nothing is under way.
    pub(crate) fn wait_in_sync(&self) {
        self.wait_both("in sync and quiet", |status| is_in_sync(status) && is_quiet(status));
    }

    /// Compares the data areas of all volumes.
    ///
    /// # Panics
    /// At the first difference.
    pub(crate) fn assert_identical(&self) {
        let status = self.a.status();
        assert!(!status.volumes.is_empty(), "a resource has volumes");
        for (volume, disks) in status.volumes.iter().zip(self.a.disks.iter().zip(&self.b.disks)) {
            assert!(volume.size_sectors > 0, "the size is known");
            let difference = first_difference(disks.0, disks.1, volume.size_sectors * 512);
            assert!(difference.is_none(), "volume {}: {}", volume.number, difference.unwrap_or_default());
        }
    }

    /// Waits for rest and compares.
    pub(crate) fn assert_in_sync_and_identical(&self) {
        self.wait_in_sync();
        self.assert_identical();
    }

    /// Packets are lost until `heal`; returns when `survivor` has noticed.
    pub(crate) fn cut(&self, survivor: &Node) {
        self.network.cut();
        survivor.wait("the loss of the peer is noticed", LONG, |status| !is_connected(status));
    }

    /// The one that is not `node`.
    pub(crate) fn other(&self, node: &Node) -> &Node {
        if node.name == self.a.name { &self.b } else { &self.a }
    }
}

fn disks(folder: &Path, options: &Options) -> Vec<PathBuf> {
    fs::create_dir_all(folder).expect("the folder is ours");
    let paths: Vec<PathBuf> = (0..options.volumes).map(|volume| folder.join(format!("disk{volume}.img"))).collect();
    for path in &paths {
        make_sparse(path, options.disk_mib << 20);
    }
    paths
}

/// The one peer.
pub(crate) fn peer(status: &ResourceStatus) -> &PeerStatus {
    status.peers.first().expect("a pair has a peer")
}

/// Whether the peer is there with all volumes, also while a resync runs.
pub(crate) fn is_connected(status: &ResourceStatus) -> bool {
    status.peers.iter().all(|peer| peer.connection >= ConnectionState::Connected && peer.role != Role::Unknown)
}

/// Whether the connection was given up.
pub(crate) fn is_stand_alone(status: &ResourceStatus) -> bool {
    status.peers.iter().all(|peer| peer.connection == ConnectionState::StandAlone)
}

/// Whether all disks, here and there, are UpToDate and no resync runs.
pub(crate) fn is_in_sync(status: &ResourceStatus) -> bool {
    let disks = status.volumes.iter().all(|volume| volume.disk == DiskState::UpToDate);
    let mut peer_volumes = status.peers.iter().flat_map(|peer| &peer.volumes);
    disks
        && status.peers.iter().all(|peer| peer.connection == ConnectionState::Connected)
        && peer_volumes.all(|volume| volume.peer_disk == DiskState::UpToDate && volume.out_of_sync_kib == 0)
}

/// Whether no request is under way.
pub(crate) fn is_quiet(status: &ResourceStatus) -> bool {
    status.volumes.iter().all(|volume| volume.upper_pending == 0 && volume.lower_pending == 0)
        && status.peers.iter().all(|peer| peer.ap_in_flight == 0)
        && status.peers.iter().flat_map(|peer| &peer.volumes).all(|volume| volume.pending == 0 && volume.unacked == 0)
}

/// Waits until the local disk of `node` is in `state`.
pub(crate) fn wait_disk(node: &Node, state: DiskState) -> ResourceStatus {
    node.wait(&format!("disk {state}"), SHORT, |status| status.volumes.iter().all(|volume| volume.disk == state))
}

/// Other users' programs (PostgreSQL's) work in the folder too.
fn open_to_all() -> fs::Permissions {
    fs::Permissions::from_mode(0o755)
}

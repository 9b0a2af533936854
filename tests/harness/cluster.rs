//! The pair: made, brought up, compared, taken away.

use super::configuration::{Files, MetaDisk, NODES, Options, RESOURCE};
use super::disks::{first_difference, make_sparse};
use super::drbdmeta::Place;
use super::network::Network;
use super::node::Node;
use super::tools::assert_root;
use super::wait::{LONG, SHORT, until};
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
        let files = [0, 1].map(|side: usize| files(&folder.path().join(NODES[side]), &options));
        let text = options.text(&files);
        let [a, b] = [0, 1].map(|side: usize| {
            let folder = folder.path().join(NODES[side]);
            let node =
                Node::new(NODES[side], network.namespaces[side].clone(), folder, places(&files[side], &options, side));
            fs::write(node.config(), &text).expect("the folder is ours");
            node
        });
        Self { a, b, network, options, folder }
    }

    /// As `new`, and both nodes are connected, Secondary and UpToDate without a first resync.
    pub(crate) fn ready(options: Options) -> Self {
        Self::new(options).made_ready()
    }

    /// Made with `new`, and now as by `ready`.
    pub(crate) fn made_ready(mut self) -> Self {
        self.create_md();
        self.start();
        self.up();
        self.wait_both("connected", is_connected);
        for volume in 0..self.options.volumes {
            self.a.ok(&["new-current-uuid", "--clear-bitmap", &format!("{RESOURCE}/{volume}")]);
        }
        self.wait_in_sync();
        self
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
        for (node, format) in self.nodes().into_iter().zip(self.options.formats) {
            node.ok(&["create-md", "--force", "--format", format.name(), RESOURCE]);
        }
    }

    /// KiB that a dead node's disks name as possibly different: bitmap and activity log, as the real drbdmeta reads them.
    pub(crate) fn named_kib(&self, dead: &Node) -> u64 {
        dead.wait_until_buried();
        let copy = self.scratch().join("copy.img");
        dead.metadata.iter().map(|place| place.named_kib(&copy)).sum()
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

    /// Waits until the disks' own bitmaps, too, say that nothing differs; bits are written back within seconds, and a crash
    /// before that has them resynced once more.
    pub(crate) fn wait_written_back(&self) {
        for node in self.nodes() {
            until(&format!("{}: the bitmap is written back", node.name), SHORT, || {
                match node.metadata.iter().map(Place::marked_kib).sum() {
                    0_u64 => Ok(()),
                    marked => Err(format!("{marked} KiB are marked")),
                }
            });
        }
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

fn files(folder: &Path, options: &Options) -> Vec<Files> {
    fs::create_dir_all(folder).expect("the folder is ours");
    let files = (0..options.volumes).map(|volume| {
        let disk = folder.join(format!("disk{volume}.img"));
        make_sparse(&disk, options.disk_mib << 20);
        let metadata = match options.meta_disk {
            MetaDisk::Internal => disk.clone(),
            MetaDisk::Flexible | MetaDisk::Indexed => {
                let metadata = folder.join(format!("metadata{volume}.img"));
                make_sparse(&metadata, options.meta_disk.file_bytes());
                metadata
            }
        };
        Files { disk, metadata }
    });
    files.collect()
}

fn places(files: &[Files], options: &Options, side: usize) -> (Vec<PathBuf>, Vec<Place>) {
    let place = |files: &Files| Place {
        format: options.formats[side],
        meta_disk: options.meta_disk,
        file: files.metadata.clone(),
    };
    (files.iter().map(|files| files.disk.clone()).collect(), files.iter().map(place).collect())
}

/// The one peer.
pub(crate) fn peer(status: &ResourceStatus) -> &PeerStatus {
    status.peers.first().expect("a pair has a peer")
}

/// What the node knows to differ on its peer.
pub(crate) fn out_of_sync_kib(node: &Node) -> u64 {
    peer(&node.status()).volumes.iter().map(|volume| volume.out_of_sync_kib).sum()
}

/// What resyncs have moved to and from the node, and what was mirrored, since it was started.
pub(crate) fn moved_kib(node: &Node) -> u64 {
    peer(&node.status()).volumes.iter().map(|volume| volume.received_kib + volume.sent_kib).sum()
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

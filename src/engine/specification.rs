//! What a resource's thread must know besides the settings of its machine: paths and addresses.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::io::tcp::StreamOptions;
use crate::replica::settings::Settings;

/// How long an attach waits for the lock of a backing device. A daemon that was killed holds it until the last of its
/// writes has reached the disk; slow disks need seconds for that, not minutes.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// One resource, ready to be run.
#[derive(Clone, Debug)]
pub struct ResourceSpec {
    /// For the machine. Volumes and peers are named by their index in here.
    pub settings: Settings,
    /// Addresses, one for each peer of the settings.
    pub peers: Vec<PeerAddresses>,
    /// Paths, one for each volume of the settings; `None` for a volume that never has a disk here.
    pub backing: Vec<Option<BackingPaths>>,
    /// Where NBD clients are expected.
    pub nbd: Vec<NbdListen>,
    /// Bypass the page cache where the store can do that with units of 512 bytes.
    pub direct: bool,
    /// How long an attach waits for a lock; usually [`LOCK_PATIENCE`].
    pub lock_patience: Duration,
}

/// The two ends of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddresses {
    /// Where we listen, and (without its port) where we connect from.
    pub mine: SocketAddr,
    /// Where the peer listens, and (without its port) where it connects from.
    pub peer: SocketAddr,
    /// `sndbuf-size`, `rcvbuf-size` and the like.
    pub stream: StreamOptions,
}

/// A volume's backing store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingPaths {
    /// A block device or a file.
    pub data: PathBuf,
    /// Another one for the metadata; `None`: internal.
    pub metadata: Option<PathBuf>,
    /// The slot of it that is this volume's; `None`: all of it.
    pub slot: Option<u8>,
}

/// Where NBD clients may connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NbdListen {
    /// A unix socket.
    Unix(PathBuf),
    /// An address.
    Tcp(SocketAddr),
}

impl NbdListen {
    /// The URI of an export there, as libnbd and qemu read it.
    #[must_use]
    pub fn uri(&self, export: &str) -> String {
        match self {
            Self::Unix(path) => format!("nbd+unix:///{export}?socket={}", path.display()),
            Self::Tcp(address) => format!("nbd://{address}/{export}"),
        }
    }
}

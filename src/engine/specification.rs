//! What a resource's thread must know besides the settings of its machine: paths and addresses.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
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
        let export = percent_encoded(export.as_bytes());
        match self {
            Self::Unix(path) => {
                format!("nbd+unix:///{export}?socket={}", percent_encoded(path.as_os_str().as_bytes()))
            }
            Self::Tcp(address) => format!("nbd://{address}/{export}"),
        }
    }
}

/// All bytes that may mean something in a URI (RFC 3986), or nothing at all, by their numbers. A slash means itself in the
/// places that we fill.
fn percent_encoded(bytes: &[u8]) -> String {
    let mut encoded = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                encoded.push(char::from(byte))
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_every_place_and_export() {
        let unix = |path: &str| NbdListen::Unix(path.into());
        assert_eq!(unix("/run/shimai/data.nbd").uri("data/0"), "nbd+unix:///data/0?socket=/run/shimai/data.nbd");
        assert_eq!(unix("/tmp/a b&c#d%").uri("ü?"), "nbd+unix:///%C3%BC%3F?socket=/tmp/a%20b%26c%23d%25");
        assert_eq!(NbdListen::Tcp("[::1]:10809".parse().unwrap()).uri("data"), "nbd://[::1]:10809/data");
    }
}

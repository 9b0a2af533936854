//! What a resource's thread must know besides the settings of its machine: paths and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::io::tcp::StreamOptions;
use crate::nbd::uri;
use crate::replica::settings::Settings;

/// How long an attach waits for the lock of a backing device. A daemon that was killed holds it until the last of its
/// writes has reached the disk; slow disks need seconds for that, not minutes.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// How long a handler may take. DRBD waits for ever; one that takes longer than a fence device or a snapshot does hangs.
pub const HANDLER_PATIENCE: Duration = Duration::from_secs(600);

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
    /// The configuration's file, for handlers.
    pub configuration: PathBuf,
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
    /// The URI of an export there, as libnbd and qemu read it, wherever they run: a path from the root, and in the place of
    /// "any address" the node's own if it is of that family.
    #[must_use]
    pub fn uri(&self, export: &str, own: Option<IpAddr>) -> String {
        let export = uri::escaped(export);
        match self {
            Self::Unix(path) => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                format!("nbd+unix:///{export}?socket={}", uri::escaped(&path.to_string_lossy()))
            }
            Self::Tcp(address) => {
                let mut address = *address;
                if address.ip().is_unspecified() {
                    let loopback: IpAddr =
                        if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
                    address.set_ip(own.filter(|own| own.is_ipv4() == address.is_ipv4()).unwrap_or(loopback));
                }
                format!("nbd://{address}/{export}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_anywhere_can_use_the_uri() {
        let here = std::env::current_dir().unwrap();
        let case = |place: NbdListen, own: &str, expected: &str| {
            assert_eq!(place.uri("my data/1", Some(own.parse().unwrap())), expected);
        };
        let tcp = |address: &str| NbdListen::Tcp(address.parse().unwrap());
        case(NbdListen::Unix("/run/a b".into()), "::1", "nbd+unix:///my%20data/1?socket=/run/a%20b");
        let relative = format!("nbd+unix:///my%20data/1?socket={}/run/x", uri::escaped(&here.to_string_lossy()));
        case(NbdListen::Unix("run/x".into()), "::1", &relative);
        case(tcp("10.0.0.7:99"), "10.0.0.1", "nbd://10.0.0.7:99/my%20data/1");
        case(tcp("0.0.0.0:99"), "10.0.0.1", "nbd://10.0.0.1:99/my%20data/1");
        case(tcp("[::]:99"), "fd00::1", "nbd://[fd00::1]:99/my%20data/1");
        case(tcp("[::]:99"), "10.0.0.1", "nbd://[::1]:99/my%20data/1");
    }
}

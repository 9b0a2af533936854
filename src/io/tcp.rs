//! TCP sockets: listeners, and sockets about to connect.
//!
//! They are in blocking mode, which is what a ring wants: it waits for them by itself, while it answers EAGAIN for a
//! socket in non-blocking mode (the ring copes, at the price of a poll). [`set_nonblocking`] is for use with tokio.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrLike, SockaddrStorage, bind, getpeername,
    getsockname, listen, setsockopt, shutdown, socket, sockopt,
};

use super::descriptor::checked;

/// Connections that wait to be accepted: all peers and clients of a resource coming back at once.
const BACKLOG: i32 = 128;

/// What can go wrong with a socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A system call failed on an address.
    #[error("{address}: cannot {action}: {source}")]
    Address {
        /// Which address.
        address: String,
        /// What was attempted.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A system call failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was attempted.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl SocketError {
    /// Whether somebody else has the address.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        let (Self::Address { source, .. } | Self::System { source, .. }) = self;
        source.kind() == io::ErrorKind::AddrInUse
    }
}

/// What a connection may be tuned by. `None` leaves the kernel's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// Bytes the kernel may hold for the peer.
    pub send_buffer: Option<usize>,
    /// Bytes the kernel may hold for us.
    pub receive_buffer: Option<usize>,
    /// How long sent bytes may stay unacknowledged before the connection is given up.
    pub user_timeout: Option<Duration>,
    /// After how much silence, and then how often, the peer is asked whether it is there.
    pub keepalive: Option<Duration>,
}

/// A socket that listens on the address. Its port may be 0; [`local_address`] says which it became.
///
/// SO_REUSEADDR is set, so a restarted daemon need not wait for old connections; SO_REUSEPORT is not, so two daemons
/// cannot listen on one port without an error. An IPv6 listener takes IPv6 only.
///
/// # Errors
/// The address is in use or not ours.
pub fn listener(address: SocketAddr, options: &StreamOptions) -> Result<OwnedFd, SocketError> {
    let fail = |action| move |source: nix::Error| on_address(address, action, source.into());
    let socket = stream_socket(address).map_err(fail("make a socket for"))?;
    setsockopt(&socket, sockopt::ReuseAddr, &true).map_err(fail("reuse"))?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true).map_err(fail("keep apart"))?;
    }
    // Buffer sizes decide the window scale, so connections inherit them from the listener.
    set_buffers(&socket, options)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address)).map_err(fail("listen on"))?;
    begin_listening(&socket)?;
    Ok(socket)
}

/// Listens (again) on a socket that [`listener`] made.
///
/// # Errors
/// Somebody else listens on its address by now.
pub fn begin_listening(socket: &impl AsFd) -> Result<(), SocketError> {
    let result = Backlog::new(BACKLOG).and_then(|backlog| listen(socket, backlog));
    result.map_err(|error| match local_address(socket) {
        Ok(address) => on_address(address, "listen on", error.into()),
        Err(unknown) => unknown,
    })
}

/// Stops listening: who connects is refused, who waits to be accepted is reset, an accept under way fails. The socket
/// keeps its address for [`begin_listening`], if the port was not left to the kernel.
///
/// # Errors
/// The socket does not listen.
pub fn stop_listening(socket: &impl AsFd) -> Result<(), SocketError> {
    // On a socket that listens this is Linux's way to make it one that does not.
    shutdown(socket.as_fd().as_raw_fd(), Shutdown::Read).map_err(system("stop listening"))
}

/// Ends both directions of a connection; what waits on it completes. Does not block.
///
/// # Errors
/// It is not connected.
pub fn shut_down(socket: &impl AsFd) -> Result<(), SocketError> {
    shutdown(socket.as_fd().as_raw_fd(), Shutdown::Both).map_err(system("shut down"))
}

/// A socket ready to be connected to `peer`, from our address `source` with any port.
///
/// # Errors
/// `source` is not ours, or of another family than `peer`.
pub fn connecting(peer: SocketAddr, source: Option<IpAddr>, options: &StreamOptions) -> Result<OwnedFd, SocketError> {
    let fail = |action| move |error: nix::Error| on_address(peer, action, error.into());
    let socket = stream_socket(peer).map_err(fail("make a socket for"))?;
    if let Some(source) = source {
        let address = SocketAddr::new(source, 0);
        let cannot = |action| move |error: nix::Error| on_address(address, action, error.into());
        // The port is chosen at connect, where it only has to be unique for this peer.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true).map_err(cannot("defer the port of"))?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(address)).map_err(cannot("connect from"))?;
    }
    configure(&socket, options)?;
    Ok(socket)
}

/// Tunes a connection: no delay for small packets, and what the options say.
///
/// # Errors
/// The kernel refused.
pub fn configure(socket: &impl AsFd, options: &StreamOptions) -> Result<(), SocketError> {
    setsockopt(socket, sockopt::TcpNoDelay, &true).map_err(system("set no-delay"))?;
    set_buffers(socket, options)?;
    if let Some(timeout) = options.user_timeout {
        let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        setsockopt(socket, sockopt::TcpUserTimeout, &milliseconds).map_err(system("limit unacknowledged time"))?;
    }
    if let Some(interval) = options.keepalive {
        let seconds = u32::try_from(interval.as_secs()).unwrap_or(u32::MAX).clamp(1, 32_767);
        setsockopt(socket, sockopt::KeepAlive, &true).map_err(system("keep alive"))?;
        setsockopt(socket, sockopt::TcpKeepIdle, &seconds).map_err(system("keep alive"))?;
        setsockopt(socket, sockopt::TcpKeepInterval, &seconds).map_err(system("keep alive"))?;
    }
    Ok(())
}

/// The address of the other end.
///
/// # Errors
/// The socket is not connected.
pub fn peer_address(socket: &impl AsFd) -> Result<SocketAddr, SocketError> {
    let storage: SockaddrStorage = getpeername(socket.as_fd().as_raw_fd()).map_err(system("ask for the peer"))?;
    internet(&storage)
        .ok_or(SocketError::System { action: "ask for the peer", source: io::ErrorKind::Unsupported.into() })
}

/// The address of this end.
///
/// # Errors
/// The socket has none.
pub fn local_address(socket: &impl AsFd) -> Result<SocketAddr, SocketError> {
    let storage: SockaddrStorage = getsockname(socket.as_fd().as_raw_fd()).map_err(system("ask for the address"))?;
    internet(&storage)
        .ok_or(SocketError::System { action: "ask for the address", source: io::ErrorKind::Unsupported.into() })
}

/// Changes between blocking mode (for a ring) and non-blocking mode (for tokio).
///
/// # Errors
/// The kernel refused.
pub fn set_nonblocking(socket: &impl AsFd, nonblocking: bool) -> Result<(), SocketError> {
    let value = libc::c_int::from(nonblocking);
    // SAFETY: the ioctl reads one int during the call.
    checked(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::FIONBIO, &raw const value) })
        .map(drop)
        .map_err(|source| SocketError::System { action: "change the blocking mode", source })
}

fn stream_socket(address: SocketAddr) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
}

fn set_buffers(socket: &impl AsFd, options: &StreamOptions) -> Result<(), SocketError> {
    if let Some(bytes) = options.send_buffer {
        setsockopt(socket, sockopt::SndBuf, &bytes).map_err(system("set the send buffer"))?;
    }
    if let Some(bytes) = options.receive_buffer {
        setsockopt(socket, sockopt::RcvBuf, &bytes).map_err(system("set the receive buffer"))?;
    }
    Ok(())
}

fn internet(storage: &SockaddrStorage) -> Option<SocketAddr> {
    match storage.family()? {
        AddressFamily::Inet => storage.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into())),
        AddressFamily::Inet6 => storage.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())),
        _ => None,
    }
}

fn on_address(address: SocketAddr, action: &'static str, source: io::Error) -> SocketError {
    SocketError::Address { address: address.to_string(), action, source }
}

pub(in crate::io) fn system(action: &'static str) -> impl Fn(nix::Error) -> SocketError {
    move |source| SocketError::System { action, source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_listeners_on_one_port_are_refused() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let options = StreamOptions::default();
            let Ok(first) = listener(address.parse().unwrap(), &options) else { continue };
            let taken = local_address(&first).unwrap();
            assert_ne!(taken.port(), 0);
            let error = listener(taken, &options).unwrap_err();
            assert!(error.to_string().contains(&taken.to_string()), "{error}");
        }
    }

    #[test]
    fn a_listener_that_stopped_refuses_and_may_begin_again() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(probe) = listener(address.parse().unwrap(), &StreamOptions::default()) else { continue };
            let address = local_address(&probe).unwrap();
            drop(probe);
            let socket = listener(address, &StreamOptions::default()).unwrap();
            for _ in 0..2 {
                std::net::TcpStream::connect(address).unwrap();
                stop_listening(&socket).unwrap();
                let refused = std::net::TcpStream::connect(address).unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
                assert_eq!(local_address(&socket).unwrap(), address);
                begin_listening(&socket).unwrap();
            }
            stop_listening(&socket).unwrap();
            let other = listener(address, &StreamOptions::default()).unwrap();
            let error = begin_listening(&socket).unwrap_err();
            assert!(error.is_in_use() && error.to_string().contains(&address.to_string()), "{error}");
            drop(other);
            begin_listening(&socket).unwrap();
        }
    }

    #[test]
    fn a_connection_comes_from_the_address_it_was_bound_to() {
        let options = StreamOptions {
            send_buffer: Some(1 << 20),
            receive_buffer: Some(1 << 20),
            user_timeout: Some(Duration::from_secs(5)),
            keepalive: Some(Duration::from_secs(10)),
        };
        let listener = listener("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let address = local_address(&listener).unwrap();
        let source = "127.0.0.9".parse().unwrap();
        let socket = connecting(address, Some(source), &options).unwrap();
        nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
        assert_eq!(local_address(&socket).unwrap().ip(), source);
        assert_eq!(peer_address(&socket).unwrap(), address);
    }

    #[test]
    fn an_address_of_another_family_is_refused_by_name() {
        let peer = "192.0.2.1:9".parse().unwrap();
        let error = connecting(peer, Some("2001:db8::1".parse().unwrap()), &StreamOptions::default()).unwrap_err();
        assert!(error.to_string().contains("2001:db8::1"), "{error}");
    }
}

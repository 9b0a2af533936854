//! A connection to an NBD server: the protocol's machine and a socket that never blocks, in one loop.

use std::net::ToSocketAddrs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::{Buf, Bytes, BytesMut};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};

use crate::io::unix;
use crate::nbd::client::{Client, ClientEvent};
use crate::nbd::uri;

/// What one receive takes at most.
const RECEIVE_BYTES: usize = 256 << 10;
/// How long opening an export may take.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
/// NBD's own port.
const PORT: u16 = 10809;

/// Where an export is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) place: Place,
    pub(super) export: String,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Unix(PathBuf),
    /// Host and port.
    Tcp(String, u16),
}

impl FromStr for Address {
    type Err = anyhow::Error;

    /// `nbd://HOST[:PORT]/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        if let Some(rest) = text.strip_prefix("nbd+unix://") {
            let (export, socket) = rest.split_once("?socket=").context("nbd+unix:///EXPORT?socket=PATH is expected")?;
            let export = unescaped(export.strip_prefix('/').unwrap_or(export))?;
            return Ok(Self { place: Place::Unix(unescaped(socket)?.into()), export });
        }
        let Some(rest) = text.strip_prefix("nbd://") else { bail!("{text:?} is no NBD address") };
        let (server, export) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match server.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().with_context(|| format!("{port:?} is no port"))?)
            }
            _ => (server, PORT),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { place: Place::Tcp(host, port), export: unescaped(export)? })
    }
}

fn unescaped(part: &str) -> anyhow::Result<String> {
    uri::unescaped(part).with_context(|| format!("{part:?} is no part of a URI: what follows a % are two digits"))
}

/// An open export.
pub(super) struct Connection {
    socket: OwnedFd,
    client: Client,
    out: BytesMut,
    buffer: Box<[u8]>,
    events: Vec<ClientEvent>,
    /// Size of the export.
    pub(super) bytes: u64,
}

impl Connection {
    /// Opens an export.
    pub(super) fn open(address: &Address) -> anyhow::Result<Self> {
        let socket = match &address.place {
            Place::Unix(path) => unix::connect(path)?,
            Place::Tcp(host, port) => connect_tcp(host, *port)?,
        };
        let (client, greeting) = Client::connect_bytes(&address.export);
        let buffer = vec![0; RECEIVE_BYTES].into_boxed_slice();
        let mut connection =
            Self { socket, client, out: BytesMut::from(&greeting[..]), buffer, events: Vec::new(), bytes: 0 };
        let deadline = Instant::now() + OPEN_PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the server does not open the export within {} s", OPEN_PATIENCE.as_secs());
            }
            for event in connection.exchange(left)? {
                if let ClientEvent::Ready { bytes, .. } = event {
                    connection.bytes = bytes;
                    return Ok(connection);
                }
            }
        }
    }

    /// Where requests are encoded: the machine, and what is to be sent.
    pub(super) fn requests(&mut self) -> (&mut Client, &mut BytesMut) {
        (&mut self.client, &mut self.out)
    }

    /// Sends what can be sent and receives what is there; waits for at most `patience` if there is neither.
    pub(super) fn exchange(&mut self, patience: Duration) -> anyhow::Result<Vec<ClientEvent>> {
        let mut has_waited = false;
        loop {
            self.send()?;
            let is_fed = self.receive()?;
            if is_fed {
                let result = self.client.handle(&mut self.events);
                if self.events.is_empty() {
                    result?;
                    continue;
                }
                return Ok(std::mem::take(&mut self.events));
            }
            if has_waited {
                return Ok(Vec::new());
            }
            has_waited = self.wait(patience)?;
        }
    }

    fn send(&mut self) -> anyhow::Result<()> {
        while !self.out.is_empty() {
            match send(self.socket.as_raw_fd(), &self.out, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => self.out.advance(count),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("the connection to the NBD server broke"),
            }
        }
        Ok(())
    }

    /// True if something arrived.
    fn receive(&mut self) -> anyhow::Result<bool> {
        match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => bail!("the NBD server closed the connection"),
            Ok(count) => {
                let arrived = self.buffer.get(..count).unwrap_or_default();
                self.client.push(Bytes::copy_from_slice(arrived));
                Ok(true)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            Err(error) => Err(error).context("the connection to the NBD server broke"),
        }
    }

    /// True if the patience is used up.
    fn wait(&self, patience: Duration) -> anyhow::Result<bool> {
        let mut wanted = PollFlags::POLLIN;
        wanted.set(PollFlags::POLLOUT, !self.out.is_empty());
        let timeout = PollTimeout::try_from(patience.max(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.socket.as_fd(), wanted)], timeout) {
            Ok(ready) => Ok(ready == 0),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error).context("cannot wait for the NBD server"),
        }
    }

    /// Tells the server that this is the end.
    pub(super) fn close(mut self) {
        self.client.disconnect(&mut self.out);
        let _ = self.send();
    }
}

fn connect_tcp(host: &str, port: u16) -> anyhow::Result<OwnedFd> {
    let mut addresses = (host, port).to_socket_addrs().with_context(|| format!("{host} has no address"))?;
    let address = addresses.next().with_context(|| format!("{host} has no address"))?;
    let stream = std::net::TcpStream::connect(address).with_context(|| format!("cannot reach {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_that_libnbd_reads() {
        let tcp =
            |host: &str, port, export: &str| Address { place: Place::Tcp(host.into(), port), export: export.into() };
        assert_eq!("nbd://10.0.0.1:99/data".parse::<Address>().unwrap(), tcp("10.0.0.1", 99, "data"));
        assert_eq!("nbd://alpha/data/1".parse::<Address>().unwrap(), tcp("alpha", PORT, "data/1"));
        assert_eq!("nbd://[::1]:99".parse::<Address>().unwrap(), tcp("::1", 99, ""));
        let unix = Address { place: Place::Unix("/run/x.nbd".into()), export: "data".into() };
        assert_eq!("nbd+unix:///data?socket=/run/x.nbd".parse::<Address>().unwrap(), unix);
        let odd = Address { place: Place::Unix("/tmp/a b%".into()), export: "ü".into() };
        assert_eq!("nbd+unix:///%C3%BC?socket=/tmp/a%20b%25".parse::<Address>().unwrap(), odd);
        for bad in ["http://x", "nbd://x/%2", "nbd://x/%zz", "nbd://x/%FF"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}

//! One of our addresses, on which peers connect.
//!
//! ```text
//!   closed ──wanted──► open, accepting one after another ──not wanted──► closed: who connects is refused
//! ```
//!
//! It is open while one of its peers is looked for, so that a peer of a resource that is StandAlone is refused at once, as
//! by a node that is not there. The address is bound from the beginning, so that a resource whose address is in use does
//! not come up.
//!
//! Invariant: at most one accept, or one pause after an accept that failed, is in flight.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::specification::{LOCK_PATIENCE, PeerAddresses};
use super::stream;
use super::tag::Tag;
use crate::io::clock;
use crate::io::descriptor::Descriptor;
use crate::io::ring::{Completion, Outcome, Ring};
use crate::io::tcp::{self, SocketError};
use crate::model::time::Instant;

/// How long a port that is in use is waited for: the ring of a daemon that was killed holds it until its last operation
/// is done.
const LISTEN_PATIENCE: Duration = LOCK_PATIENCE;
/// How often such a port is tried again.
const LISTEN_RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// How often a port is tried again that somebody took while we did not listen.
const TAKEN_RETRY_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct PeerListener {
    pub(super) address: SocketAddr,
    tag: Tag,
    socket: Descriptor,
    is_open: bool,
    /// An accept or a pause is in flight.
    is_waiting: bool,
    /// When to try again to open.
    retry_at: Option<Instant>,
}

impl PeerListener {
    /// Takes the peer's own address, and does not listen yet.
    pub(super) fn new(peer: &PeerAddresses, number: u64) -> Result<Self, SocketError> {
        let socket = listen(peer)?;
        tcp::stop_listening(&socket)?;
        Ok(Self {
            address: peer.mine,
            tag: Tag::PeerAccept(number),
            socket: socket.into(),
            is_open: false,
            is_waiting: false,
            retry_at: None,
        })
    }

    /// Opens or closes it. Cheap when nothing changes.
    pub(super) fn set(&mut self, is_wanted: bool, now: Instant, ring: &mut Ring) {
        match (is_wanted, self.is_open) {
            (true, false) if self.retry_at.is_none_or(|at| at <= now) => self.open(now, ring),
            (false, true) => self.close(),
            (false, false) => self.retry_at = None,
            (true, false) => {}
            // The ring may have had no room for an accept.
            (true, true) => self.accept(false, ring),
        }
    }

    fn open(&mut self, now: Instant, ring: &mut Ring) {
        match tcp::begin_listening(&self.socket) {
            Ok(()) => {
                self.is_open = true;
                self.retry_at = None;
                self.accept(false, ring);
            }
            Err(error) => {
                // We can still dial; that is all that a peer sees of this, so it is worth a line.
                if self.retry_at.is_none() {
                    tracing::warn!(%error, "peers cannot connect; it is tried again");
                }
                self.retry_at = Some(now + TAKEN_RETRY_INTERVAL);
            }
        }
    }

    fn close(&mut self) {
        if let Err(error) = tcp::stop_listening(&self.socket) {
            tracing::warn!(%error, address = %self.address, "peers can still connect");
        }
        self.is_open = false;
    }

    /// When `set` must be called at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    fn accept(&mut self, is_late: bool, ring: &mut Ring) {
        // What is in flight since before it was closed ends by itself.
        if self.is_open && !self.is_waiting {
            self.is_waiting = stream::accept(&self.socket, is_late, self.tag, ring);
        }
    }

    /// An accept or a pause has ended; a connection, if it brought one.
    pub(super) fn on_accepted(&mut self, completion: Completion, ring: &mut Ring) -> Option<OwnedFd> {
        self.is_waiting = false;
        self.accept(completion.result.is_err(), ring);
        match completion.result {
            Ok(Outcome::Accepted(connection)) => Some(connection),
            Ok(_) => None,
            Err(error) if self.is_open => {
                tracing::warn!(%error, "a peer's connection was not accepted");
                None
            }
            Err(_) => None,
        }
    }
}

/// Listens on the peer's own address, waiting for a port that is in use.
#[expect(clippy::disallowed_methods, reason = "a port cannot be waited for: it is tried again, before the loop begins")]
fn listen(peer: &PeerAddresses) -> Result<OwnedFd, SocketError> {
    let deadline = clock::now() + LISTEN_PATIENCE;
    loop {
        match tcp::listener(peer.mine, &peer.stream) {
            Err(error) if error.is_in_use() && clock::now() < deadline => std::thread::sleep(LISTEN_RETRY_INTERVAL),
            result => return result,
        }
    }
}

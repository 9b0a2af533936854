//! The sockets between this node and its peers: dialling, sending, receiving, closing.
//!
//! Each own address has one listener (`peer_listener`). Who connects is told from its address alone: a connection that does not come from
//! a peer's address is closed unheard. What the bytes mean, and which socket is which stream, the machine finds out.
//!
//! Invariants: a socket's id is never used again; after the machine closed a socket it hears nothing of it any more; the
//! end of a socket that the machine did not close is told exactly once.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;

use super::framing::Framing;
use super::inbox::Inbox;
use super::peer_listener::PeerListener;
use super::specification::PeerAddresses;
use super::stream::Stream;
use super::tag::Tag;
use crate::io::buffer::BufferPool;
use crate::io::descriptor::Descriptor;
use crate::io::ring::{Completion, Operation, Ring};
use crate::io::tcp::{self, SocketError};
use crate::model::ids::SocketId;
use crate::model::time::Instant;
use crate::replica::action::Closing;
use crate::replica::event::Event;

/// Sockets at once. A connection has two; while connections cross or fail there are a few more for a moment.
const SOCKETS_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct PeerLinks {
    pool: BufferPool,
    peers: Vec<PeerAddresses>,
    /// How long a dial may take, per peer.
    dial_patience: Vec<Duration>,
    listeners: Vec<PeerListener>,
    next_socket: u64,
    dials: BTreeMap<u64, Dial>,
    sockets: BTreeMap<u64, Socket>,
}

/// A connection being made.
#[derive(Debug)]
struct Dial {
    peer: usize,
    socket: Descriptor,
}

#[derive(Debug)]
struct Socket {
    stream: Stream,
    is_throttled: bool,
    /// The machine still wants to hear of it.
    is_known: bool,
}

impl PeerLinks {
    /// Takes the own addresses; nobody can connect yet.
    pub(super) fn new(
        peers: Vec<PeerAddresses>,
        dial_patience: Vec<Duration>,
        pool: BufferPool,
    ) -> Result<Self, SocketError> {
        let mut listeners: Vec<PeerListener> = Vec::new();
        for peer in &peers {
            if listeners.iter().all(|listener| listener.address != peer.mine) {
                listeners.push(PeerListener::new(peer, listeners.len() as u64)?);
            }
        }
        let (dials, sockets) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { pool, peers, dial_patience, listeners, next_socket: 0, dials, sockets })
    }

    /// Lets peers connect to the addresses on which one is expected, and to no others.
    pub(super) fn listen(&mut self, is_expected: impl Fn(usize) -> bool, now: Instant, ring: &mut Ring) {
        let Self { listeners, peers, .. } = self;
        for listener in listeners {
            let mut users = peers.iter().enumerate().filter(|(_, peer)| peer.mine == listener.address);
            listener.set(users.any(|(peer, _)| is_expected(peer)), now, ring);
        }
    }

    pub(super) fn on_accepted(
        &mut self,
        number: u64,
        completion: Completion,
        ring: &mut Ring,
        events: &mut VecDeque<Event>,
    ) {
        let listener = usize::try_from(number).ok().and_then(|number| self.listeners.get_mut(number));
        if let Some(connection) = listener.and_then(|listener| listener.on_accepted(completion, ring)) {
            self.adopt(connection, events);
        }
    }

    fn adopt(&mut self, connection: OwnedFd, events: &mut VecDeque<Event>) {
        let Ok(address) = tcp::peer_address(&connection) else { return };
        let Some(peer) = self.peers.iter().position(|peer| is_same_host(peer.peer.ip(), address.ip())) else {
            tracing::warn!(%address, "a connection from a stranger was closed");
            return;
        };
        if self.sockets.len() >= SOCKETS_MAX {
            tracing::warn!(%address, limit = SOCKETS_MAX, "a connection was closed: there are too many");
            return;
        }
        if let Err(error) = tcp::configure(&connection, &self.peers[peer].stream) {
            tracing::debug!(%error, "accepted socket");
        }
        let socket = self.insert(connection.into());
        events.push_back(Event::Accepted { peer, socket });
    }

    fn insert(&mut self, descriptor: Descriptor) -> SocketId {
        let id = self.take_id();
        let stream = Stream::new(descriptor, Inbox::new(&self.pool, Framing::Link));
        self.sockets.insert(id, Socket { stream, is_throttled: false, is_known: true });
        SocketId(id)
    }

    fn take_id(&mut self) -> u64 {
        self.next_socket += 1;
        self.next_socket
    }

    /// Connects to a peer from our own address.
    pub(super) fn dial(&mut self, peer: usize, ring: &mut Ring, events: &mut VecDeque<Event>) {
        if let Err(reason) = self.try_dial(peer, ring) {
            events.push_back(Event::DialFailed { peer, reason });
        }
    }

    fn try_dial(&mut self, peer: usize, ring: &mut Ring) -> Result<(), String> {
        let addresses = self.peers.get(peer).ok_or("there is no such peer")?;
        let address: SocketAddr = addresses.peer;
        let socket = tcp::connecting(address, Some(addresses.mine.ip()), &addresses.stream)
            .map_err(|error| error.to_string())?;
        let socket = Descriptor::from(socket);
        let timeout = self.dial_patience.get(peer).copied();
        let id = self.take_id();
        let operation = Operation::Connect { socket: socket.clone(), address, timeout };
        ring.push_tagged(operation, Tag::PeerDial(id).encode()).map_err(|refused| refused.to_string())?;
        self.dials.insert(id, Dial { peer, socket });
        Ok(())
    }

    pub(super) fn on_dialled(&mut self, id: u64, completion: &Completion, events: &mut VecDeque<Event>) {
        let Some(Dial { peer, socket }) = self.dials.remove(&id) else { return };
        match &completion.result {
            Ok(_) => {
                let socket = self.insert(socket);
                events.push_back(Event::Dialled { peer, socket });
            }
            Err(error) => events.push_back(Event::DialFailed { peer, reason: error.to_string() }),
        }
    }

    pub(super) fn send(&mut self, socket: SocketId, head: Bytes, payload: Option<Bytes>) {
        let Some(socket) = self.known(socket) else { return };
        socket.stream.outbox.push(head);
        if let Some(payload) = payload {
            socket.stream.outbox.push(payload);
        }
    }

    pub(super) fn throttle(&mut self, socket: SocketId, stop: bool) {
        if let Some(socket) = self.known(socket) {
            socket.is_throttled = stop;
        }
    }

    pub(super) fn close(&mut self, socket: SocketId, how: Closing, now: Instant, ring: &mut Ring) {
        if let Some(socket) = self.sockets.get_mut(&socket.0) {
            socket.is_known = false;
            socket.stream.end(now, how, ring);
        }
    }

    /// Whether the machine may hear of this socket: events that were under way when it closed it must not reach it.
    pub(super) fn is_known(&self, socket: SocketId) -> bool {
        self.sockets.get(&socket.0).is_some_and(|socket| socket.is_known)
    }

    fn known(&mut self, socket: SocketId) -> Option<&mut Socket> {
        self.sockets.get_mut(&socket.0).filter(|socket| socket.is_known && socket.stream.is_open())
    }

    pub(super) fn on_received(
        &mut self,
        id: u64,
        completion: Completion,
        events: &mut VecDeque<Event>,
    ) -> Option<Ended> {
        let socket = self.sockets.get_mut(&id)?;
        let mut pieces = Vec::new();
        let result = socket.stream.on_received(completion, &mut pieces);
        let socket = SocketId(id);
        events.extend(pieces.into_iter().map(|bytes| Event::Received { socket, bytes }));
        result.err().map(|reason| Ended { socket, reason })
    }

    pub(super) fn on_sent(&mut self, id: u64, completion: &Completion, events: &mut VecDeque<Event>) -> Option<Ended> {
        let stream = &mut self.sockets.get_mut(&id)?.stream;
        let socket = SocketId(id);
        match stream.on_sent(completion) {
            Ok(total) => events.push_back(Event::Sent { socket, total }),
            Err(reason) => return Some(Ended { socket, reason }),
        }
        None
    }

    /// A socket is broken: the machine is told after what came before.
    pub(super) fn on_ended(&mut self, ended: Ended, now: Instant, ring: &mut Ring, events: &mut VecDeque<Event>) {
        let Some(socket) = self.sockets.get_mut(&ended.socket.0) else { return };
        // Between open and ended the machine is told once; what it queued meanwhile goes nowhere.
        if socket.stream.is_open() && socket.is_known {
            events.push_back(Event::Closed { socket: ended.socket, reason: ended.reason });
        }
        socket.stream.end(now, Closing::AtOnce, ring);
    }

    /// The machine has been told of the end: nothing more about this socket.
    pub(super) fn forget(&mut self, socket: SocketId) {
        if let Some(socket) = self.sockets.get_mut(&socket.0) {
            socket.is_known = false;
        }
    }

    /// Begins sends and receives, and drops what has ended.
    pub(super) fn pump(&mut self, now: Instant, ring: &mut Ring, events: &mut VecDeque<Event>) {
        let mut broken = Vec::new();
        for (id, socket) in &mut self.sockets {
            let tags = (Tag::PeerReceive(*id), Tag::PeerSend(*id));
            if let Err(reason) = socket.stream.pump(now, !socket.is_throttled, tags, ring) {
                broken.push(Ended { socket: SocketId(*id), reason });
            }
        }
        for ended in broken {
            self.on_ended(ended, now, ring, events);
        }
        // A socket whose end the machine does not know yet is kept, so that it will be told.
        self.sockets.retain(|_, socket| socket.is_known || !socket.stream.is_over());
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let sockets = self.sockets.values().filter_map(|socket| socket.stream.deadline());
        sockets.chain(self.listeners.iter().filter_map(PeerListener::deadline)).min()
    }

    /// Whether no socket is left.
    pub(super) fn is_idle(&self) -> bool {
        self.sockets.is_empty()
    }
}

/// A socket that broke.
#[derive(Debug)]
pub(super) struct Ended {
    socket: SocketId,
    reason: String,
}

/// Whether an accepted connection comes from a host; a mapped address is the IPv4 address it maps.
fn is_same_host(expected: IpAddr, actual: IpAddr) -> bool {
    expected.to_canonical() == actual.to_canonical()
}

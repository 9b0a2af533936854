//! NBD clients of a resource: listeners, sessions, and the way between commands and requests.
//!
//! A command becomes a request of the machine and its reply the command's; the two protocols agree on everything else.
//! What needs no machine is answered here: `CACHE` (done: the page cache is bypassed), the `fast` form of writing zeroes
//! where that would not be fast, and commands beyond the end of a volume that has shrunk.
//!
//! Invariants: the machine knows how many clients have a volume open before the client does; the payload that all clients
//! together hold is bounded by [`PAYLOAD_BYTES_MAX`], and [`PART_BYTES`] and one request of each: who would take more is not
//! read from until others have been answered.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use super::exports::{Exports, volume_named};
use super::nbd_client::{NbdClient, parts, request_id};
use super::specification::NbdListen;
use super::stream;
use super::tag::Tag;
use crate::io::buffer::BufferPool;
use crate::io::descriptor::Descriptor;
use crate::io::ring::{Completion, Outcome, Ring};
use crate::io::tcp::{self, SocketError, StreamOptions};
use crate::io::unix;
use crate::model::ids::RequestId;
use crate::model::time::Instant;
use crate::model::units::{SECTOR_BYTES, Sector, SectorRange};
use crate::nbd::session::{Command, CommandKind, Output, Reply};
use crate::nbd::wire::NbdErrno;
use crate::replica::action::RequestError;
use crate::replica::event::{Event, Request, RequestKind};

/// Clients at once: several connections of each of several programs.
pub const NBD_CLIENTS_MAX: usize = 128;

/// Payload that all clients together may hold, in requests and in replies that they have not taken: several clients with all
/// that one may ask for, and far more than any disk or link gains from.
const PAYLOAD_BYTES_MAX: u64 = 512 << 20;

/// What each client may hold of that whatever the others do, so that a few that do not take their replies do not hold up the
/// rest: a queue of small requests.
const PART_BYTES: u64 = 2 << 20;

/// How long a client may take to open an export.
const NEGOTIATION_PATIENCE: Duration = Duration::from_secs(30);

/// For clients over TCP. A host that vanished without a word would keep the volume open, and so the node Primary, for ever:
/// after so much silence it is asked whether it is there, and after twice that it is given up. That also ends who is there
/// but takes none of its replies for a minute.
const CLIENT_OPTIONS: StreamOptions = StreamOptions {
    send_buffer: None,
    receive_buffer: None,
    keepalive: Some(Duration::from_secs(30)),
    user_timeout: Some(Duration::from_secs(60)),
};

/// A place where clients connect.
#[derive(Debug)]
struct Listener {
    socket: Descriptor,
    place: NbdListen,
    /// An accept, or a pause after one that failed, is in flight.
    is_waiting: bool,
}

#[derive(Debug)]
pub(super) struct NbdServer {
    pool: BufferPool,
    listeners: Vec<Listener>,
    is_accepting: bool,
    next_client: u64,
    clients: BTreeMap<u64, NbdClient>,
}

impl NbdServer {
    /// Opens the listeners.
    pub(super) fn new(places: &[NbdListen], pool: BufferPool) -> Result<Self, SocketError> {
        let mut server =
            Self { pool, listeners: Vec::new(), is_accepting: true, next_client: 0, clients: BTreeMap::new() };
        for place in places {
            let socket = match place {
                NbdListen::Unix(path) => unix::listener(path)?,
                NbdListen::Tcp(address) => tcp::listener(*address, &CLIENT_OPTIONS)?,
            };
            server.listeners.push(Listener { socket: socket.into(), place: place.clone(), is_waiting: false });
        }
        Ok(server)
    }

    /// Where clients are expected; a port 0 has become a real one.
    pub(super) fn places(&self) -> impl Iterator<Item = NbdListen> + '_ {
        self.listeners.iter().map(|Listener { socket, place, .. }| match place {
            NbdListen::Tcp(address) => NbdListen::Tcp(tcp::local_address(socket).unwrap_or(*address)),
            NbdListen::Unix(path) => NbdListen::Unix(path.clone()),
        })
    }

    /// Accepts on every listener that does not. (The ring may have had no room.)
    fn listen(&mut self, ring: &mut Ring) {
        for (number, listener) in self.listeners.iter_mut().enumerate().filter(|(_, listener)| !listener.is_waiting) {
            listener.is_waiting = stream::accept(&listener.socket, false, Tag::NbdAccept(number as u64), ring);
        }
    }

    pub(super) fn on_accepted(&mut self, number: u64, completion: Completion, now: Instant, ring: &mut Ring) {
        let listener = usize::try_from(number).ok().and_then(|number| self.listeners.get_mut(number));
        let Some(listener) = listener else { return };
        let is_late = completion.result.is_err();
        listener.is_waiting = stream::accept(&listener.socket, is_late, Tag::NbdAccept(number), ring);
        let is_tcp = matches!(listener.place, NbdListen::Tcp(_));
        match completion.result {
            Ok(Outcome::Accepted(socket)) if self.is_accepting && self.make_room(now, ring) => {
                if is_tcp && let Err(error) = tcp::configure(&socket, &CLIENT_OPTIONS) {
                    tracing::warn!(%error, "a client that vanishes may not be noticed");
                }
                self.adopt(socket.into(), now);
            }
            Ok(Outcome::Accepted(_)) => tracing::warn!(limit = NBD_CLIENTS_MAX, "a client was turned away"),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "a client's connection was not accepted"),
        }
    }

    /// Whether one more client may come. If there are too many, who has been opening nothing for longest goes: connections
    /// that say nothing must not keep out those that do.
    fn make_room(&mut self, now: Instant, ring: &mut Ring) -> bool {
        if self.clients.len() < NBD_CLIENTS_MAX {
            return true;
        }
        match self.clients.values_mut().find(|client| client.is_negotiating()) {
            Some(oldest) => {
                oldest.give_up("others wait for its place, and it opened no export", now, ring);
                true
            }
            None => false,
        }
    }

    fn adopt(&mut self, socket: Descriptor, now: Instant) {
        self.next_client += 1;
        let id = self.next_client;
        self.clients.insert(id, NbdClient::new(id, socket, &self.pool, now + NEGOTIATION_PATIENCE));
    }

    pub(super) fn on_received(&mut self, id: u64, completion: Completion, now: Instant, ring: &mut Ring) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if let Err(reason) = client.on_received(completion) {
            client.on_broken(&reason, now, ring);
        }
    }

    pub(super) fn on_sent(&mut self, id: u64, completion: &Completion, now: Instant, ring: &mut Ring) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if let Err(reason) = client.stream.on_sent(completion) {
            client.on_broken(&reason, now, ring);
        }
    }

    /// Parses what clients have sent; requests go to `events`.
    pub(super) fn step(&mut self, exports: &Exports<'_>, events: &mut VecDeque<Event>) {
        let mut outputs = Vec::new();
        let mut room = Room::new(self.clients.values().map(NbdClient::payload_bytes_held));
        for client in self.clients.values_mut() {
            client.allow(room.share(client.payload_bytes_held()));
        }
        let ready: Vec<u64> = self.clients.iter().filter(|(_, client)| client.is_ready()).map(|(id, _)| *id).collect();
        for id in ready {
            // What is answered at once may make room for what waits.
            while let Some(client) = self.clients.get_mut(&id)
                && client.is_ready()
            {
                let before = client.payload_bytes_held();
                client.allow(room.share(before));
                client.step(exports, &mut outputs);
                for output in outputs.drain(..) {
                    self.on_output(id, output, exports, events);
                }
                let after = self.clients.get(&id).map_or(0, NbdClient::payload_bytes_held);
                room.change(before, after);
            }
        }
    }

    fn on_output(&mut self, id: u64, output: Output, exports: &Exports<'_>, events: &mut VecDeque<Event>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        match output {
            Output::Send(bytes) => client.send(bytes),
            Output::Close(reason) => client.close(&reason),
            Output::Opened(export) => {
                client.volume = volume_named(exports.settings, &export.name);
                let volume = client.volume;
                self.count_openers(volume, events);
            }
            Output::Command(command) => {
                let Some(volume) = client.volume else { return };
                match translate(id, volume, command, exports) {
                    Translated::Request(request) => events.push_back(Event::Request(request)),
                    Translated::Answer(slot, reply) => client.reply(slot, reply),
                    Translated::Nothing => {}
                }
            }
        }
    }

    /// The machine has answered a request.
    pub(super) fn reply(&mut self, id: RequestId, result: Result<Vec<Bytes>, RequestError>) {
        let (client, slot, is_read) = parts(id);
        let Some(client) = self.clients.get_mut(&client) else { return };
        let reply = match result {
            Ok(pieces) if is_read => Reply::Data(pieces),
            Ok(_) => Reply::Done,
            Err(error) => Reply::Error(errno(error), error.to_string()),
        };
        client.reply(slot, reply);
    }

    /// Lets go of everyone who has an export open.
    pub(super) fn close_openers(&mut self, reason: &str) {
        for client in self.clients.values_mut().filter(|client| client.volume.is_some()) {
            client.close_for(reason);
        }
    }

    /// Lets go of everyone and takes no one.
    pub(super) fn close_all(&mut self, reason: &str) {
        self.is_accepting = false;
        for client in self.clients.values_mut() {
            client.close_for(reason);
        }
    }

    /// Takes clients again.
    pub(super) fn reopen(&mut self) {
        self.is_accepting = true;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.clients.is_empty()
    }

    pub(super) fn has_openers(&self) -> bool {
        self.clients.values().any(|client| client.volume.is_some())
    }

    /// Begins accepts, sends and receives, and forgets who has gone.
    pub(super) fn pump(&mut self, now: Instant, ring: &mut Ring, events: &mut VecDeque<Event>) {
        self.listen(ring);
        let mut closed = Vec::new();
        self.clients.retain(|_, client| {
            client.pump(now, ring);
            let is_over = client.is_over();
            if is_over {
                closed.extend(client.volume);
            }
            !is_over
        });
        for volume in closed {
            self.count_openers(Some(volume), events);
        }
    }

    fn count_openers(&self, volume: Option<usize>, events: &mut VecDeque<Event>) {
        let Some(volume) = volume else { return };
        let openers = self.clients.values().filter(|client| client.volume == Some(volume)).count();
        let openers = u32::try_from(openers).expect("clients are limited");
        events.push_back(Event::Openers { volume, openers });
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.clients.values().filter_map(NbdClient::deadline).min()
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        let paths: Vec<PathBuf> = self
            .listeners
            .iter()
            .filter_map(|listener| match &listener.place {
                NbdListen::Unix(path) => Some(path.clone()),
                NbdListen::Tcp(_) => None,
            })
            .collect();
        for path in paths {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Memory that clients share.
struct Room {
    bytes_held: u64,
}

impl Room {
    fn new(held: impl Iterator<Item = u64>) -> Self {
        Self { bytes_held: held.sum() }
    }

    /// What one may have that holds so much: all that nobody else holds, or its part.
    fn share(&self, held: u64) -> u64 {
        PAYLOAD_BYTES_MAX.saturating_sub(self.bytes_held - held).max(PART_BYTES)
    }

    fn change(&mut self, before: u64, after: u64) {
        self.bytes_held = self.bytes_held - before + after;
    }
}

/// What becomes of a command.
enum Translated {
    /// The machine decides.
    Request(Request),
    /// It is answered at once.
    Answer(u32, Reply),
    /// It wants no answer.
    Nothing,
}

fn translate(client: u64, volume: usize, command: Command, exports: &Exports<'_>) -> Translated {
    let id = request_id(client, &command);
    let slot = command.slot;
    let device_bytes = exports.resource.device_sectors(volume) * SECTOR_BYTES;
    let sector = |offset: u64| Sector(offset / SECTOR_BYTES);
    let range = |offset: u64, bytes: u64| SectorRange { start: sector(offset), sectors: bytes / SECTOR_BYTES };
    let request = |end: u64, kind| {
        if end > device_bytes {
            let words = format!("the volume ends at byte {device_bytes}");
            return Translated::Answer(slot, Reply::Error(NbdErrno::EINVAL, words));
        }
        Translated::Request(Request { id, volume, kind })
    };
    match command.kind {
        CommandKind::Read { offset, bytes } => {
            request(offset + u64::from(bytes), RequestKind::Read(range(offset, bytes.into())))
        }
        CommandKind::Write { offset, payload, fua } => {
            request(offset + payload.len() as u64, RequestKind::Write { start: sector(offset), payload, fua })
        }
        CommandKind::Flush => request(0, RequestKind::Flush),
        CommandKind::Trim { offset, bytes, fua } => {
            request(offset + bytes, RequestKind::Trim { range: range(offset, bytes), fua })
        }
        CommandKind::WriteZeroes { may_unmap, fast, .. }
            if fast && !(may_unmap && exports.disks.zeroes_fast(volume)) =>
        {
            Translated::Answer(slot, Reply::Error(NbdErrno::ENOTSUP, "zeroes would be written as data".to_owned()))
        }
        CommandKind::WriteZeroes { offset, bytes, fua, may_unmap, .. } => {
            request(offset + bytes, RequestKind::WriteZeroes { range: range(offset, bytes), may_unmap, fua })
        }
        CommandKind::Cache { .. } => Translated::Answer(slot, Reply::Done),
        CommandKind::Disconnect => Translated::Nothing,
    }
}

fn errno(error: RequestError) -> NbdErrno {
    match error {
        RequestError::NotPrimary => NbdErrno::EPERM,
        RequestError::NoData | RequestError::Disk => NbdErrno::EIO,
        RequestError::GoingDown => NbdErrno::ESHUTDOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::clock;
    use crate::io::ring::Operation;

    #[test]
    fn each_has_what_nobody_else_holds_and_never_less_than_its_part() {
        const MIB: u64 = 1 << 20;
        let mut room = Room::new([100 * MIB, 0, 12 * MIB].into_iter());
        assert_eq!([100, 0, 12].map(|held| room.share(held * MIB) / MIB), [500, 400, 412]);
        room.change(100 * MIB, 511 * MIB);
        assert_eq!([511, 0, 12].map(|held| room.share(held * MIB) / MIB), [500, 2, 2]);
    }

    #[test]
    fn an_accept_that_found_no_room_in_the_ring_is_begun_later() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("nbd");
        let mut server = NbdServer::new(&[NbdListen::Unix(place.clone())], BufferPool::new()).unwrap();
        let (mut ring, mut events, mut completions) = (Ring::new(64).unwrap(), VecDeque::new(), Vec::new());
        while !ring.is_full() {
            ring.push(Operation::Timeout { after: Duration::ZERO }).unwrap();
        }
        server.pump(clock::now(), &mut ring, &mut events);
        assert!(!server.listeners[0].is_waiting);
        let _client = std::os::unix::net::UnixStream::connect(&place).unwrap();
        while server.clients.is_empty() {
            ring.submit_and_wait(Some(Duration::from_secs(1))).unwrap();
            ring.completions(&mut completions);
            for completion in completions.drain(..) {
                if let Tag::NbdAccept(number) = Tag::decode(completion.tag) {
                    server.on_accepted(number, completion, clock::now(), &mut ring);
                }
            }
            server.pump(clock::now(), &mut ring, &mut events);
        }
    }
}

//! One resource: its volumes, its peers, its role. The machine that decides what is written where, and when it is answered.
//!
//! One owner, one loop: everything that happens comes in through [`Resource::handle`], everything that is asked of the world
//! goes out as actions, in the order of beginning. The same code runs under `engine` and under the simulator.
//!
//! One write, from the top: `request` (the life of a request) → `conflicts` (who must wait) → `activity` (is its extent hot)
//! → the local disk and `transfer` (to the peer) → completions and acknowledgements → the reply. The peer's side of it is
//! `peer_write`.
//!
//! ```text
//! establish ─ handshake ─ decision ─┬─ no sync ──────────────────────────────▶ Connected
//!  two sockets  who are   what to   └─ bitmap_exchange ─ resync_source/target ─▶ Connected
//!               you       sync
//! ```
//!
//! Invariants (asserted by [`Resource::check`]): nothing overlapping is in flight; a write runs only in a hot extent; only the
//! front epoch of the peer's writes runs; no reply leaves while the generation that it needs is not durable.
//!
//! Not here: bytes (`wire`, `metadata`), what a bitmap or a log slot is (`bitmap`, `activity_log`), which generation wins
//! (`generation`), sockets and files (`engine`).

pub mod action;
pub mod event;
pub mod handler;
pub mod inspect;
pub mod refusal;
pub mod settings;
pub mod why;

mod activity;
mod attach;
mod bitmap_exchange;
mod command;
mod comparison;
mod completion;
mod conflicts;
mod connection;
mod decision;
mod disk_error;
mod effects;
mod establish;
mod fencing;
mod findings;
mod flush;
mod generations;
mod handshake;
mod keepalive;
mod law;
mod link;
mod marks;
mod metadata_writer;
mod mutants;
mod packet;
mod peer_read;
mod peer_write;
mod permission;
mod promotion;
mod random;
mod rate;
mod read;
mod receive_epochs;
mod request;
mod resync;
mod resync_source;
mod resync_target;
mod send_write;
mod state;
mod state_request;
mod status;
mod sync_parameters;
mod transfer;
mod verify;
mod verify_source;
mod verify_target;
mod volume;
mod wishes;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::BytesMut;
use slab::Slab;

pub use mutants::mutant;
pub use permission::Grant;

use self::action::{Action, LogLevel};
use self::command::Commands;
use self::event::Event;
use self::link::Peer;
use self::permission::Door;
use self::random::Random;
use self::settings::{PEERS_MAX, Settings};
use self::volume::{Owner, Pending, Volume};
use crate::model::ids::Ticket;
use crate::model::state::{Role, StateWord};
use crate::model::time::Instant;

/// Encoded heads are split off a buffer of that size; a new one is taken when it is used up, hundreds of packets later.
/// Without a size to begin with, each packet would get a buffer of its own.
const HEADS_BYTES: usize = 16 << 10;

/// A replicated resource on this node.
#[derive(Debug)]
pub struct Resource {
    settings: Settings,
    role: Role,
    /// I/O frozen by the operator.
    suspended: bool,
    /// I/O frozen because no copy of the data can be reached.
    suspended_no_data: bool,
    /// `Down` was asked for: no new connection, no new request.
    going_down: bool,
    volumes: Vec<Volume>,
    peers: Vec<Peer>,
    /// Requests being answered, each split into pieces.
    requests: Slab<request::Parent>,
    /// Pieces of writes of applications, until the peer has confirmed their epoch.
    writes: Slab<request::Write>,
    reads: Slab<read::Read>,
    peer_writes: Slab<peer_write::PeerWrite>,
    peer_reads: Slab<peer_read::PeerRead>,
    resync_reads: Slab<resync_source::SourceRead>,
    resync_writes: Slab<resync_target::TargetWrite>,
    /// Handlers asked for so far.
    handlers_run: u64,
    /// Blocks on their way through a verify.
    comparisons: Slab<comparison::Comparison>,
    /// Resyncs begun so far.
    resyncs: u64,
    /// What to do when a ticket comes back.
    pending: Slab<Pending>,
    commands: Commands,
    door: Door,
    random: Random,
    now: Instant,
    /// Encoded headers; split off packet by packet.
    out: BytesMut,
    /// Owners whose interval has become free; they run at the end of the event.
    ready: VecDeque<(usize, Owner)>,
    /// Something may be possible now that was not when `settle` last looked.
    stirred: bool,
    /// Words of targets whose resync was given up before it could end: volume, peer.
    late_words: VecDeque<(usize, usize, StateWord)>,
    /// Where actions go while an event is handled.
    actions: Vec<Action>,
}

impl Resource {
    /// A resource as configured: Secondary, diskless, without a connection.
    ///
    /// # Panics
    ///
    /// If there are more than [`PEERS_MAX`] peers; who reads the configuration refuses that with a sentence.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        assert!(settings.peers.len() <= PEERS_MAX, "more peers than the protocol's rules cover");
        let volumes: Vec<_> = settings.volumes.iter().cloned().map(Volume::new).collect();
        let peers = settings.peers.iter().map(|peer| Peer::new(peer.clone(), volumes.len())).collect();
        Self {
            role: Role::Secondary,
            suspended: false,
            suspended_no_data: false,
            going_down: false,
            volumes,
            peers,
            requests: Slab::new(),
            writes: Slab::new(),
            reads: Slab::new(),
            peer_writes: Slab::new(),
            peer_reads: Slab::new(),
            resync_reads: Slab::new(),
            resync_writes: Slab::new(),
            handlers_run: 0,
            comparisons: Slab::new(),
            resyncs: 0,
            pending: Slab::new(),
            commands: Commands::default(),
            door: Door::default(),
            random: Random::new(settings.seed),
            now: Instant::default(),
            out: BytesMut::with_capacity(HEADS_BYTES),
            ready: VecDeque::new(),
            stirred: false,
            late_words: VecDeque::new(),
            actions: Vec::new(),
            settings,
        }
    }

    /// The door: one event in, actions out. `now` was read after the event was reaped.
    pub fn handle(&mut self, now: Instant, event: Event, actions: &mut Vec<Action>) {
        self.now = now;
        std::mem::swap(&mut self.actions, actions);
        self.dispatch(event);
        self.settle();
        std::mem::swap(&mut self.actions, actions);
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Request(request) => self.on_request(request),
            Event::Command { id, command } => self.on_command(id, command),
            Event::CommandGivenUp(id) => self.commands.give_up(id),
            Event::Disk { ticket, result } => self.on_disk(ticket, result),
            Event::Dialled { peer, socket } => self.on_dialled(peer, socket),
            Event::DialFailed { peer, reason } => self.on_dial_failed(peer, &reason),
            Event::Accepted { peer, socket } => self.on_accepted(peer, socket),
            Event::Received { socket, bytes } => self.on_received(socket, bytes),
            Event::Sent { socket, total } => self.on_sent(socket, total),
            Event::Closed { socket, reason } => self.on_closed(socket, &reason),
            Event::Openers { volume, openers } => self.volumes[volume].openers = openers,
            Event::HandlerEnded { id, exit } => self.on_handler_ended(id, exit),
            Event::Timer => self.on_timer(),
        }
    }

    /// Lets everything that has become possible begin; nothing here waits.
    fn settle(&mut self) {
        loop {
            let before = self.actions.len();
            self.stirred = false;
            while let Some((volume, owner)) = self.ready.pop_front() {
                self.run_owner(volume, owner);
            }
            for volume in 0..self.volumes.len() {
                self.settle_disk(volume);
                self.settle_attach(volume);
                self.settle_blocked(volume);
            }
            self.settle_late_words();
            self.settle_fencing();
            for peer in 0..self.peers.len() {
                self.grant_wishes(peer);
                self.regulate(peer);
            }
            self.settle_links();
            self.settle_commands();
            if self.ready.is_empty() && !self.stirred && self.actions.len() == before {
                return;
            }
        }
    }

    /// When to call with [`Event::Timer`] at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let peers = (0..self.peers.len()).filter_map(|peer| self.peer_deadline(peer));
        let volumes = self.volumes.iter().filter_map(Volume::next_deadline);
        peers.chain(volumes).min()
    }

    fn on_timer(&mut self) {
        for peer in 0..self.peers.len() {
            self.on_peer_timer(peer);
        }
        for volume in 0..self.volumes.len() {
            self.on_write_back_timer(volume);
        }
    }

    fn run_owner(&mut self, volume: usize, owner: Owner) {
        match owner {
            Owner::Write(write) => self.admit_write(write),
            Owner::PeerWrite(write) => self.admit_peer_write(write),
            Owner::PeerRead(read) => self.start_peer_read(read),
            Owner::ResyncWrite(write) => self.start_resync_write(write),
            Owner::ResyncRead(read) => self.start_source_read(read),
            Owner::ResyncPending(first) => self.send_resync_request(volume, first),
            Owner::Comparison(key) => self.continue_comparison(key),
        }
    }

    fn ticket(&mut self, pending: Pending) -> Ticket {
        Ticket(self.pending.insert(pending) as u64)
    }

    fn log(&mut self, level: LogLevel, sentence: impl Into<String>) {
        self.actions.push(Action::Log { level, sentence: sentence.into() });
    }
}

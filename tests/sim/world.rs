//! Two hosts, a network between them, applications on top: one seed's world, driven by a queue ordered by time.
//!
//! The world plays the engine: it performs the machine's actions in order and brings it what happens. Everything random
//! comes from the seed; nothing depends on addresses, hashes or the clock on the wall.
//!
//! Not here: what must hold (`laws`), what people do (`operator`, `client`), what breaks (`faults`).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use shimai::metadata::activity_record::initialised_block;
use shimai::metadata::layout::{Format, Layout};
use shimai::metadata::superblock::{DeviceFlags, Superblock};
use shimai::model::generation_id::GenerationId;
use shimai::model::ids::{CommandId, NodeId, SocketId};
use shimai::model::time::Instant;
use shimai::replica::Resource;
use shimai::replica::action::{Action, DiskOperation};
use shimai::replica::event::{Command, Event};

use crate::client::Client;
use crate::disk::Disk;
use crate::laws::Watch;
use crate::machine::{Facts, facts};
use crate::network::{Arrived, EndState, Later, Network};
use crate::operator::Operator;
use crate::oracle::Oracle;
use crate::profile::{Fault, MICROSECOND, MILLISECOND, Profile, SECOND, name};
use crate::rng::{Rng, mix};

/// Lines of the timeline that are kept.
const TIMELINE_MAX: usize = 4000;
/// Events at one instant that mean the machine spins.
const SPIN_MAX: u32 = 20_000;

/// Something that will happen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Happening {
    DiskEnds { node: usize, volume: usize, number: u64 },
    Arrival { link: u64, side: usize },
    Taken { link: u64, side: usize },
    /// The process learns of its new socket.
    Opened { link: u64, side: usize },
    /// An end learns that its link is dead.
    Notice { link: u64, side: usize },
    Dial { node: usize, life: u32, peer: usize },
    DialFailed { node: usize, life: u32, peer: usize },
    Timer { node: usize, life: u32 },
    Burst { volume: usize },
    Manage,
    Fault(Fault),
    PartitionEnds,
    DiskRepaired { node: usize },
    Resume { node: usize, volume: usize },
    Restart { node: usize },
    Check,
    Fork,
}

/// A law was broken.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) law: &'static str,
    pub(crate) what: String,
}

/// A running process.
pub(crate) struct Process {
    pub(crate) resource: Resource,
    timer: Option<(u64, u64)>,
    /// Volumes whose device the engine holds open.
    pub(crate) holds: Vec<bool>,
    /// A connection has been asked for and has begun.
    pub(crate) connecting: bool,
    /// The machine has given up connecting by itself.
    pub(crate) refused: bool,
}

/// A host.
pub(crate) struct Node {
    pub(crate) process: Option<Process>,
    pub(crate) life: u32,
    pub(crate) disks: Vec<Disk>,
    pub(crate) stalled_until: u64,
    /// Failing operations that are still to come, in this many of 1000 cases.
    pub(crate) errors_left: u32,
    clock_offset: u64,
    clock_rate: u64,
}

/// Streams of randomness, so that one part does not disturb another.
pub(crate) struct Streams {
    pub(crate) disk: Rng,
    pub(crate) wire: Rng,
    pub(crate) client: Rng,
    pub(crate) operator: Rng,
    pub(crate) fault: Rng,
    pub(crate) fork: Rng,
}

/// One seed's world.
pub(crate) struct World {
    pub(crate) profile: Profile,
    pub(crate) layouts: Vec<Layout>,
    pub(crate) now: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    pub(crate) rng: Streams,
    pub(crate) nodes: [Node; 2],
    pub(crate) network: Network,
    pub(crate) client: Client,
    pub(crate) operator: Operator,
    pub(crate) oracle: Oracle,
    pub(crate) watch: Watch,
    pub(crate) healing: bool,
    pub(crate) failure: Option<Failure>,
    pub(crate) events: u64,
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) hash: u64,
    pub(crate) verbose: bool,
    pub(crate) timeline: VecDeque<String>,
    next_command: u64,
    spins: u32,
    actions: Vec<Action>,
}

impl World {
    pub(crate) fn new(profile: Profile, verbose: bool) -> Self {
        let base = Rng::new(mix(profile.seed ^ 0x5717_a015));
        let volumes = profile.device_bytes.len();
        let layouts: Vec<Layout> = (0..volumes).map(|volume| profile.layout(volume)).collect();
        let nodes = [0, 1].map(|node| Node::new(&profile, &layouts, node));
        Self {
            network: Network::new(profile.wire.clone()),
            client: Client::new(volumes),
            operator: Operator::new(&profile),
            oracle: Oracle::new(volumes),
            watch: Watch::new(volumes),
            layouts,
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            rng: Streams {
                disk: base.fork(1),
                wire: base.fork(2),
                client: base.fork(3),
                operator: base.fork(4),
                fault: base.fork(5),
                fork: base.fork(6),
            },
            nodes,
            healing: false,
            failure: None,
            events: 0,
            counts: BTreeMap::new(),
            hash: profile.seed,
            verbose,
            timeline: VecDeque::new(),
            next_command: 1,
            spins: 0,
            actions: Vec::new(),
            profile,
        }
    }

    pub(crate) fn volumes(&self) -> usize {
        self.layouts.len()
    }

    pub(crate) fn at(&mut self, time: u64, happening: Happening) -> (u64, u64) {
        self.sequence += 1;
        let key = (time.max(self.now), self.sequence);
        self.queue.insert(key, happening);
        key
    }

    pub(crate) fn after(&mut self, delay: u64, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    pub(crate) fn fail(&mut self, law: &'static str, what: impl Into<String>) {
        let what = what.into();
        if self.failure.is_none() {
            self.note(|| format!("BROKEN {law}: {what}"));
            self.failure = Some(Failure { law, what });
        }
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if self.verbose {
            if self.timeline.len() == TIMELINE_MAX {
                self.timeline.pop_front();
            }
            let time = self.now;
            self.timeline.push_back(format!("{:>6}.{:06} {}", time / SECOND, time % SECOND / 1000, line()));
        }
    }

    pub(crate) fn count(&mut self, what: &str) {
        match self.counts.get_mut(what) {
            Some(count) => *count += 1,
            None => {
                self.counts.insert(what.to_owned(), 1);
            }
        }
    }

    pub(crate) fn is_up(&self, node: usize) -> bool {
        self.nodes[node].process.is_some()
    }

    pub(crate) fn facts(&self, node: usize, volume: usize) -> Option<Facts> {
        self.nodes[node].process.as_ref().map(|process| facts(&process.resource, volume))
    }

    /// Runs the next thing in the queue. False when there is none before `until` or a law is broken.
    pub(crate) fn step(&mut self, until: u64) -> bool {
        if self.failure.is_some() {
            return false;
        }
        let Some((&(time, _), _)) = self.queue.first_key_value() else { return false };
        if time > until {
            self.now = until;
            return false;
        }
        let Some(((time, _), happening)) = self.queue.pop_first() else { return false };
        self.spins = if time > self.now { 0 } else { self.spins + 1 };
        if self.spins > SPIN_MAX {
            self.fail("L2", format!("{SPIN_MAX} events without time passing; the last is {happening:?}"));
        }
        self.now = time;
        self.hash = mix(self.hash ^ time);
        self.happen(happening);
        true
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::DiskEnds { node, volume, number } => self.on_disk_end(node, volume, number),
            Happening::Arrival { link, side } => self.on_arrival(link, side),
            Happening::Taken { link, side } => self.on_taken(link, side),
            Happening::Opened { link, side } => self.on_opened(link, side),
            Happening::Notice { link, side } => self.on_notice(link, side),
            Happening::Dial { node, life, peer } => self.on_dial(node, life, peer),
            Happening::DialFailed { node, life, peer } => self.on_dial_failed(node, life, peer),
            Happening::Timer { node, life } => self.on_timer(node, life),
            Happening::Burst { volume } => self.on_burst(volume),
            Happening::Manage => self.on_manage(),
            Happening::Fault(fault) => self.on_fault(fault),
            Happening::PartitionEnds => self.network.blocked = [false; 2],
            Happening::DiskRepaired { node } => self.nodes[node].disks.iter_mut().for_each(|disk| disk.dead = false),
            Happening::Resume { node, volume } => self.command(node, Command::ResumeSync { volume }),
            Happening::Restart { node } => self.start(node),
            Happening::Check => self.on_check(),
            Happening::Fork => self.on_fork(),
        }
    }

    /// A new process on a host.
    pub(crate) fn start(&mut self, node: usize) {
        if self.is_up(node) {
            return;
        }
        self.note(|| format!("{}: starts", name(node)));
        let volumes = self.volumes();
        let host = &mut self.nodes[node];
        host.life += 1;
        host.process = Some(Process {
            resource: Resource::new(self.profile.settings(node, host.life)),
            timer: None,
            holds: vec![false; volumes],
            connecting: false,
            refused: false,
        });
        self.watch.forget(node);
        self.operator.started(node);
        self.arm(node);
    }

    /// Gives the machine an event and does what it asks for.
    pub(crate) fn deliver(&mut self, node: usize, event: Event) {
        let clock = self.nodes[node].clock(self.now);
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        self.events += 1;
        let mut actions = std::mem::take(&mut self.actions);
        process.resource.handle(clock, event, &mut actions);
        process.resource.check();
        self.hash = mix(self.hash ^ (actions.len() as u64) << 8 ^ node as u64);
        for action in actions.drain(..) {
            self.perform(node, action);
        }
        self.actions = actions;
        self.observe(node);
        self.arm(node);
    }

    /// Commands are answered later, or never.
    pub(crate) fn command(&mut self, node: usize, command: Command) {
        if self.is_up(node) {
            self.note(|| format!("{}: {command:?}", name(node)));
            let id = CommandId(self.next_command);
            self.next_command += 1;
            self.operator.asked(id, node, &command);
            self.deliver(node, Event::Command { id, command });
        }
    }

    fn perform(&mut self, node: usize, action: Action) {
        match action {
            Action::Disk { volume, ticket, operation } => self.begin_disk(node, volume, ticket, operation),
            Action::ReleaseDisk { volume } => self.release_disk(node, volume),
            Action::Dial { peer } => {
                let life = self.nodes[node].life;
                let delay = self.rng.wire.spread(50 * MICROSECOND, 3 * self.profile.wire.latency_max);
                self.after(delay, Happening::Dial { node, life, peer });
            }
            Action::Send { socket, head, payload } => self.send(socket, head, payload),
            Action::Throttle { socket, stop } => self.throttle(socket, stop),
            Action::Close { socket, graceful } => self.close(socket, graceful),
            Action::Reply { id, result } => self.on_reply(node, id, result),
            Action::Answer { id, result } => {
                self.note(|| format!("{}: answers {result:?}", name(node)));
                if let Err(text) = self.operator.answered(id, result.is_ok()) {
                    self.fail("R1", text);
                }
            }
            Action::Log { level, sentence } => {
                self.note(|| format!("{}: [{level:?}] {sentence}", name(node)));
            }
        }
    }

    // Disks.

    fn begin_disk(
        &mut self,
        node: usize,
        volume: usize,
        ticket: shimai::model::ids::Ticket,
        operation: DiskOperation,
    ) {
        self.hash = mix(self.hash ^ ticket.0);
        self.before_disk_operation(node, volume, &operation);
        let manner = &self.profile.disks[node];
        let rng = &mut self.rng.disk;
        let mut delay = rng.within(manner.latency_min, manner.latency_max);
        if rng.chance(manner.tail) {
            delay *= rng.within(5, 100);
        }
        let host = &mut self.nodes[node];
        let fails = host.errors_left > 0 && rng.chance(300);
        host.errors_left -= u32::from(fails);
        let end = (self.now + delay).max(host.stalled_until + rng.below(delay));
        if self.verbose {
            let text = describe(&operation);
            self.note(|| format!("{}: disk {volume} #{} {text}", name(node), ticket.0));
        }
        if !self.nodes[node].process.as_ref().is_some_and(|process| process.holds[volume]) {
            self.fail("R2", format!("{} uses the disk of volume {volume} without holding it: {operation:?}", name(node)));
            return;
        }
        let life = self.nodes[node].life;
        match self.nodes[node].disks[volume].begin(life, ticket, operation, fails, &mut self.rng.disk) {
            Ok(number) => {
                self.at(end, Happening::DiskEnds { node, volume, number });
            }
            Err(text) => self.fail("D7", format!("{}, volume {volume}: {text}", name(node))),
        }
    }

    fn on_disk_end(&mut self, node: usize, volume: usize, number: u64) {
        let Some(ended) = self.nodes[node].disks[volume].end(number, &mut self.rng.disk) else { return };
        if ended.incarnation == self.nodes[node].life && self.is_up(node) {
            if self.verbose {
                let well = ended.result.is_ok();
                self.note(|| format!("{}: disk {volume} #{} ended, well: {well}", name(node), ended.ticket.0));
            }
            self.deliver(node, Event::Disk { ticket: ended.ticket, result: ended.result });
        }
    }

    fn release_disk(&mut self, node: usize, volume: usize) {
        self.note(|| format!("{}: releases disk {volume}", name(node)));
        if !self.nodes[node].disks[volume].is_idle() {
            self.fail("R2", format!("{} releases disk {volume} with operations in flight", name(node)));
        }
        if let Some(process) = self.nodes[node].process.as_mut() {
            process.holds[volume] = false;
        }
    }

    // Network.

    fn send(&mut self, socket: SocketId, head: Bytes, payload: Option<Bytes>) {
        let Some((link, side)) = self.network.find(socket) else { return };
        self.hash = mix(self.hash ^ head.len() as u64 ^ payload.as_ref().map_or(0, |bytes| (bytes.len() as u64) << 20));
        self.network.send(link, side, [Some(head), payload]);
        self.pump(link, side);
    }

    fn pump(&mut self, link: u64, side: usize) {
        let mut later = Vec::new();
        self.network.pump(link, side, self.now, &mut self.rng.wire, &mut later);
        for item in later {
            match item {
                Later::Arrival { link, side, at } => {
                    self.at(at, Happening::Arrival { link, side });
                }
                Later::Taken { link, side } => self.after(MICROSECOND, Happening::Taken { link, side }),
            }
        }
    }

    fn on_arrival(&mut self, link: u64, side: usize) {
        match self.network.arrive(link, side, self.now) {
            Arrived::Nothing => {}
            Arrived::Wait(until) => {
                self.at(until, Happening::Arrival { link, side });
            }
            Arrived::End => self.tell_closed(link, side, "closed by the peer"),
            Arrived::Piece(bytes) => {
                let Some(end) = self.network.links.get(&link).map(|link| &link.ends[side]) else { return };
                let (node, socket) = (end.node, end.socket);
                self.pump(link, 1 - side);
                // What waited behind a stall, or the end itself.
                self.at(self.now, Happening::Arrival { link, side });
                self.deliver(node, Event::Received { socket, bytes });
            }
        }
    }

    fn on_taken(&mut self, link: u64, side: usize) {
        let Some(end) = self.network.links.get(&link).map(|link| &link.ends[side]) else { return };
        if end.state == EndState::Open {
            let (node, event) = (end.node, Event::Sent { socket: end.socket, total: end.taken });
            self.deliver(node, event);
        }
    }

    fn throttle(&mut self, socket: SocketId, stop: bool) {
        let Some((link, side)) = self.network.find(socket) else { return };
        if let Some(found) = self.network.links.get_mut(&link) {
            found.ends[side].throttled = stop;
        }
    }

    /// The machine closes a socket.
    fn close(&mut self, socket: SocketId, graceful: bool) {
        let Some((link, side)) = self.network.find(socket) else { return };
        self.network.close(link, side, graceful);
        let delay = self.rng.wire.within(self.profile.wire.latency_min, self.profile.wire.latency_max);
        self.after(delay, Happening::Arrival { link, side: 1 - side });
    }

    fn on_dial(&mut self, node: usize, life: u32, peer: usize) {
        if !self.is_up(node) || self.nodes[node].life != life {
            return;
        }
        let other = 1 - node;
        let reachable = !self.network.blocked[0] && !self.network.blocked[1];
        if !reachable || !self.is_up(other) {
            let patience = if reachable { self.profile.wire.latency_max } else { 2 * SECOND };
            let delay = self.rng.wire.spread(MILLISECOND, patience.max(2 * MILLISECOND));
            self.after(delay, Happening::DialFailed { node, life, peer });
            return;
        }
        let link = self.network.connect((node, life), (other, self.nodes[other].life));
        for side in 0..2 {
            let delay = self.rng.wire.within(self.profile.wire.latency_min, self.profile.wire.latency_max);
            self.after(delay, Happening::Opened { link, side });
        }
    }

    fn on_dial_failed(&mut self, node: usize, life: u32, peer: usize) {
        if self.is_up(node) && self.nodes[node].life == life {
            self.deliver(node, Event::DialFailed { peer, reason: "no answer".into() });
        }
    }

    fn on_opened(&mut self, link: u64, side: usize) {
        let Some(found) = self.network.links.get_mut(&link) else { return };
        let cut = found.cut;
        let end = &mut found.ends[side];
        if end.state != EndState::Opening {
            return;
        }
        let (node, socket) = (end.node, end.socket);
        if self.nodes[node].process.is_none() || self.nodes[node].life != end.incarnation {
            end.state = EndState::Gone;
            self.kill_link(link, side);
            return;
        }
        end.state = EndState::Open;
        let event = if side == 0 { Event::Dialled { peer: 0, socket } } else { Event::Accepted { peer: 0, socket } };
        self.note(|| format!("{}: {event:?}", name(node)));
        self.deliver(node, event);
        if cut {
            self.after(MILLISECOND, Happening::Notice { link, side });
        }
    }

    /// One side of a link is gone without a word; the other one hears of it when the network lets it.
    fn kill_link(&mut self, link: u64, side: usize) {
        self.network.cut(link);
        self.network.lose(link, side);
        let delay = self.rng.wire.within(self.profile.wire.latency_min, self.profile.wire.latency_max);
        self.after(delay, Happening::Notice { link, side: 1 - side });
    }

    fn on_notice(&mut self, link: u64, side: usize) {
        let Some(found) = self.network.links.get(&link) else { return };
        let end = &found.ends[side];
        match end.state {
            EndState::Gone => {}
            EndState::Opening => self.after(10 * MILLISECOND, Happening::Notice { link, side }),
            EndState::Open if self.network.blocked[1 - end.node] && found.ends[1 - side].state == EndState::Gone => {
                self.after(50 * MILLISECOND, Happening::Notice { link, side });
            }
            EndState::Open => self.tell_closed(link, side, "connection reset"),
        }
    }

    fn tell_closed(&mut self, link: u64, side: usize, reason: &str) {
        let Some(found) = self.network.links.get_mut(&link) else { return };
        let end = &mut found.ends[side];
        if end.state != EndState::Open {
            return;
        }
        end.state = EndState::Gone;
        let (node, socket) = (end.node, end.socket);
        if found.ends.iter().all(|end| end.state == EndState::Gone) {
            self.network.forget(link);
        }
        self.note(|| format!("{}: socket {} ends: {reason}", name(node), socket.0));
        self.deliver(node, Event::Closed { socket, reason: reason.into() });
    }

    /// The process is gone: what becomes of its sockets. With the power gone too the peer hears nothing.
    pub(crate) fn drop_sockets(&mut self, node: usize, silently: bool) {
        let links: Vec<(u64, usize)> = self
            .network
            .links
            .iter()
            .flat_map(|(&number, link)| {
                let mine = move |side: &usize| link.ends[*side].node == node && link.ends[*side].state != EndState::Gone;
                (0..2).filter(mine).map(move |side| (number, side))
            })
            .collect();
        for (link, side) in links {
            if silently {
                self.network.cut(link);
                self.network.lose(link, side);
                // A host that is up again answers the peer's next packet with a reset.
                let delay = self.rng.wire.spread(MILLISECOND, 20 * SECOND);
                self.after(delay, Happening::Notice { link, side: 1 - side });
            } else if self.rng.wire.coin() {
                self.kill_link(link, side);
            } else {
                self.network.close(link, side, true);
                let delay = self.rng.wire.within(self.profile.wire.latency_min, self.profile.wire.latency_max);
                self.after(delay, Happening::Arrival { link, side: 1 - side });
            }
        }
    }

    // Time.

    fn arm(&mut self, node: usize) {
        let now = self.now;
        let host = &mut self.nodes[node];
        let life = host.life;
        let due = host.process.as_ref().and_then(|process| process.resource.next_deadline());
        let due = due.map(|instant| host.world_time(instant).max(now));
        let Some(process) = host.process.as_mut() else { return };
        let old = process.timer.take();
        if let (Some(key), Some(due)) = (old, due)
            && key.0 == due
            && self.queue.contains_key(&key)
        {
            process.timer = old;
            return;
        }
        if let Some(key) = old {
            self.queue.remove(&key);
        }
        let key = due.map(|due| self.at(due, Happening::Timer { node, life }));
        if let Some(process) = self.nodes[node].process.as_mut() {
            process.timer = key;
        }
    }

    fn on_timer(&mut self, node: usize, life: u32) {
        if self.nodes[node].life == life {
            if let Some(process) = self.nodes[node].process.as_mut() {
                process.timer = None;
            }
            self.deliver(node, Event::Timer);
        }
    }
}

impl Node {
    fn new(profile: &Profile, layouts: &[Layout], node: usize) -> Self {
        let disks = layouts.iter().zip(&profile.device_bytes).map(|(layout, &bytes)| prepare(profile, layout, bytes, node));
        Self {
            process: None,
            life: 0,
            disks: disks.collect(),
            stalled_until: 0,
            errors_left: 0,
            clock_offset: 1_000_000_000 * (node as u64 + 1),
            clock_rate: profile.clock_rate[node],
        }
    }

    fn clock(&self, now: u64) -> Instant {
        Instant::from_nanos(self.clock_offset + now * self.clock_rate / 1000)
    }

    /// When this node's clock will have reached that instant.
    fn world_time(&self, instant: Instant) -> u64 {
        (instant.as_nanos().saturating_sub(self.clock_offset).min(u64::MAX / 4000) * 1000).div_ceil(self.clock_rate)
    }
}

/// A disk with metadata as `create-md` leaves it, or as a pair that was in sync would.
fn prepare(profile: &Profile, layout: &Layout, bytes: u64, node: usize) -> Disk {
    let mut disk = Disk::new(bytes);
    let mut superblock = Superblock::fresh(layout);
    if profile.born_in_sync {
        superblock.generations.current = GenerationId(mix(profile.seed) & !1 | 16);
        superblock.flags = DeviceFlags::CONSISTENT | DeviceFlags::WAS_UP_TO_DATE | DeviceFlags::AL_CLEAN;
        superblock.effective_size_sectors = layout.usable_sectors;
        if layout.format == Format::V09 {
            superblock.node_id = NodeId::new(node as u8);
            superblock.peers[1 - node].bitmap_index = Some(0);
        }
    }
    disk.untorn = (layout.format == Format::V09).then_some(layout.superblock / 512);
    disk.prepare(layout.superblock, &Bytes::copy_from_slice(&superblock.encode()));
    for number in 0..layout.striping.ring_blocks() {
        disk.prepare(layout.activity_log_block_offset(number), &Bytes::copy_from_slice(&initialised_block()));
    }
    disk
}

fn describe(operation: &DiskOperation) -> String {
    match operation {
        DiskOperation::Read { offset, bytes, .. } => format!("read {} +{}", offset / 512, bytes / 512),
        DiskOperation::Write { offset, payload, preflush, fua, .. } => {
            let flags = [(*preflush, " preflush"), (*fua, " fua")].map(|(on, text)| if on { text } else { "" });
            format!("write {} +{}{}{}", offset / 512, payload.len() / 512, flags[0], flags[1])
        }
        DiskOperation::Zero { offset, bytes, .. } => format!("zero {} +{}", offset / 512, bytes / 512),
        DiskOperation::Flush { .. } => "flush".into(),
    }
}

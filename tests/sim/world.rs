//! Two hosts, a network between them, applications on top: one seed's world, driven by a queue ordered by time.
//!
//! The world plays the engine: it performs the machine's actions in order and brings it what happens. Everything random
//! comes from the seed; nothing depends on addresses, hashes or the clock on the wall.
//!
//! Not here: what must hold (`laws`), what people do (`operator`, `client`), what breaks (`faults`).

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use shimai::metadata::layout::Layout;
use shimai::model::ids::{CommandId, HandlerId};
use shimai::replica::Resource;
use shimai::replica::action::Action;
use shimai::replica::event::{Command, Event};
use shimai::replica::handler::Handler;

use crate::client::Client;
use crate::host::{Node, Process};
use crate::laws::Watch;
use crate::machine::{Facts, facts};
use crate::network::Network;
use crate::operator::Operator;
use crate::oracle::Oracle;
use crate::profile::{Fault, MICROSECOND, Profile, SECOND, name};
use crate::rng::{Rng, mix};
use crate::tap::Tap;

/// Lines of the timeline that are kept.
const TIMELINE_MAX: usize = 2_000_000;
/// Events at one instant that mean the machine spins.
const SPIN_MAX: u32 = 20_000;

/// Names of the kinds of happenings.
pub(crate) const KINDS: [&str; 11] =
    ["disk ends", "arrival", "taken", "opened", "notice", "dial", "timer", "burst", "manage", "check", "fault"];

/// Something that will happen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Happening {
    DiskEnds {
        node: usize,
        device: usize,
        number: u64,
    },
    Arrival {
        link: u64,
        side: usize,
    },
    /// An end that lingered is closed.
    Lingered {
        link: u64,
        side: usize,
    },
    Taken {
        link: u64,
        side: usize,
    },
    /// The process learns of its new socket.
    Opened {
        link: u64,
        side: usize,
    },
    /// An end learns that its link is dead.
    Notice {
        link: u64,
        side: usize,
    },
    Dial {
        node: usize,
        life: u32,
        peer: usize,
    },
    DialFailed {
        node: usize,
        life: u32,
        peer: usize,
    },
    HandlerEnds {
        node: usize,
        life: u32,
        id: HandlerId,
        exit: Option<u8>,
    },
    Timer {
        node: usize,
        life: u32,
    },
    Burst {
        volume: usize,
    },
    Manage,
    Fault(Fault),
    PartitionEnds,
    DiskRepaired {
        node: usize,
    },
    Resume {
        node: usize,
        volume: usize,
    },
    Restart {
        node: usize,
    },
    Check,
    Fork,
}

impl Happening {
    /// Its place in [`KINDS`].
    fn kind(&self) -> usize {
        match self {
            Self::DiskEnds { .. } => 0,
            Self::Arrival { .. } => 1,
            Self::Taken { .. } => 2,
            Self::Opened { .. } => 3,
            Self::Notice { .. } => 4,
            Self::Dial { .. } | Self::DialFailed { .. } => 5,
            Self::Timer { .. } => 6,
            Self::Burst { .. } => 7,
            Self::Manage => 8,
            Self::Check | Self::Fork => 9,
            _ => 10,
        }
    }
}

/// When something happens, and which of those at one instant comes first.
pub(crate) type Place = (u64, u64);

/// What the queue holds; ordered by its place alone.
#[derive(Debug)]
struct Due {
    place: Place,
    happening: Happening,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place.cmp(&other.place)
    }
}

/// A law was broken.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) law: &'static str,
    pub(crate) what: String,
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
    /// Everything but the timers of running processes, which are set anew all the time.
    queue: BinaryHeap<Reverse<Due>>,
    sequence: u64,
    pub(crate) rng: Streams,
    pub(crate) nodes: [Node; 2],
    pub(crate) network: Network,
    pub(crate) tap: Tap,
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
    /// How often each of [`KINDS`] happened.
    pub(crate) kinds: [u64; KINDS.len()],
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
            tap: Tap::new(profile.features),
            client: Client::new(volumes),
            operator: Operator::new(&profile),
            oracle: Oracle::new(volumes),
            watch: Watch::new(volumes, profile.born_in_sync),
            layouts,
            now: 0,
            queue: BinaryHeap::new(),
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
            kinds: [0; KINDS.len()],
            next_command: 1,
            spins: 0,
            actions: Vec::new(),
            profile,
        }
    }

    pub(crate) fn volumes(&self) -> usize {
        self.layouts.len()
    }

    /// The place in the order of things of what will happen then.
    fn place(&mut self, time: u64) -> Place {
        self.sequence += 1;
        (time.max(self.now), self.sequence)
    }

    pub(crate) fn at(&mut self, time: u64, happening: Happening) {
        let place = self.place(time);
        self.queue.push(Reverse(Due { place, happening }));
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
        let timers = [0, 1].map(|node| self.nodes[node].process.as_ref().and_then(|process| process.timer));
        let first = self.queue.peek().map(|Reverse(due)| due.place);
        let Some(place) = first.into_iter().chain(timers.into_iter().flatten()).min() else { return false };
        let time = place.0;
        if time > until {
            self.now = until;
            return false;
        }
        let happening = match timers.iter().position(|&timer| timer == Some(place)) {
            Some(node) => Happening::Timer { node, life: self.nodes[node].life },
            None => match self.queue.pop() {
                Some(Reverse(due)) => due.happening,
                None => return false,
            },
        };
        self.spins = if time > self.now { 0 } else { self.spins + 1 };
        if self.spins > SPIN_MAX {
            self.fail("L2", format!("{SPIN_MAX} events without time passing; the last is {happening:?}"));
        }
        self.now = time;
        self.hash = mix(self.hash ^ time);
        self.kinds[happening.kind()] += 1;
        self.happen(happening);
        true
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::DiskEnds { node, device, number } => self.on_disk_end(node, device, number),
            Happening::Arrival { link, side } => self.on_arrival(link, side),
            Happening::Lingered { link, side } => self.on_lingered(link, side),
            Happening::Taken { link, side } => self.on_taken(link, side),
            Happening::Opened { link, side } => self.on_opened(link, side),
            Happening::Notice { link, side } => self.on_notice(link, side),
            Happening::Dial { node, life, peer } => self.on_dial(node, life, peer),
            Happening::HandlerEnds { node, life, id, exit } => self.on_handler_end(node, life, id, exit),
            Happening::DialFailed { node, life, peer } => self.on_dial_failed(node, life, peer),
            Happening::Timer { node, life } => self.on_timer(node, life),
            Happening::Burst { volume } => self.on_burst(volume),
            Happening::Manage => self.on_manage(),
            Happening::Fault(fault) => self.on_fault(fault),
            Happening::PartitionEnds => self.network.blocked = [false; 2],
            Happening::DiskRepaired { node } => self.nodes[node].disks.iter_mut().for_each(|disk| disk.dead = false),
            Happening::Resume { node, volume } => {
                self.command(node, Command::ResumeSync { volume });
            }
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

    /// Commands are answered later, or never. `None` if nobody is there to hear it.
    pub(crate) fn command(&mut self, node: usize, command: Command) -> Option<CommandId> {
        if !self.is_up(node) {
            return None;
        }
        self.note(|| format!("{}: {command:?}", name(node)));
        let id = CommandId(self.next_command);
        self.next_command += 1;
        self.operator.asked(id, node, &command);
        self.deliver(node, Event::Command { id, command });
        Some(id)
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
            Action::Close { socket, how } => self.close(socket, how),
            Action::Reply { id, result } => self.on_reply(node, id, result),
            Action::Answer { id, result } => {
                self.note(|| format!("{}: answers {result:?}", name(node)));
                if let Err(text) = self.operator.answered(id, result.is_ok()) {
                    self.fail("R1", text);
                }
            }
            Action::RunHandler { id, handler, .. } => {
                self.note(|| format!("{}: runs {}", name(node), handler.name()));
                let exit = if handler == Handler::FencePeer { self.profile.fence_exit } else { Some(0) };
                let life = self.nodes[node].life;
                let delay = self.rng.wire.spread(1000 * MICROSECOND, 1_000_000 * MICROSECOND);
                self.after(delay, Happening::HandlerEnds { node, life, id, exit });
            }
            Action::Log { level, sentence } => {
                self.note(|| format!("{}: [{level:?}] {sentence}", name(node)));
            }
        }
    }

    fn arm(&mut self, node: usize) {
        let now = self.now;
        let host = &self.nodes[node];
        let due = host.process.as_ref().and_then(|process| process.resource.next_deadline());
        let due = due.map(|instant| host.world_time(instant).max(now));
        let Some(process) = host.process.as_ref() else { return };
        if process.timer.is_some() && process.timer.map(|place| place.0) == due {
            return;
        }
        let timer = due.map(|due| self.place(due));
        if let Some(process) = self.nodes[node].process.as_mut() {
            process.timer = timer;
        }
    }

    /// The process is gone; its timer goes off for nobody.
    pub(crate) fn leave_timer(&mut self, node: usize, timer: Option<Place>) {
        let happening = Happening::Timer { node, life: self.nodes[node].life };
        self.queue.extend(timer.map(|place| Reverse(Due { place, happening })));
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

//! One resource's thread: wait, handle, perform.
//!
//! ```text
//!   pump (sends, receives) ──► enter and wait ──► completions ──► events ──┐
//!      ▲                                                                   │ each: replica::handle(now), perform
//!      └───────────────────────────────────────────────────────────────────┘ until no event is left
//! ```
//!
//! Everything that a pass has made ready leaves in the one enter that waits for the next. The clock is read once a pass,
//! after reaping.
//!
//! Invariants: an event is handled to its end before the next; a machine's `Action`s are begun in order; the thread sleeps
//! only when no event waits.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::backing::Opened;
use super::disk_reasons::{Aim, DiskReasons};
use super::exports::{Exports, names};
use super::handle::{Answer, Control, EngineError, Post};
use super::handlers;
use super::local_disk::LocalDisks;
use super::nbd_server::NbdServer;
use super::peer_link::PeerLinks;
use super::specification::ResourceSpec;
use super::tag::Tag;
use crate::control::refusal::ConfigurationRefusal;
use crate::control::status::{PathStatus, ResourceStatus};
use crate::io::buffer::BufferPool;
use crate::io::clock;
use crate::io::ring::{Completion, Operation, Ring};
use crate::model::ids::CommandId;
use crate::model::state::{DiskState, Role};
use crate::model::time::Instant;
use crate::replica::Resource;
use crate::replica::action::{Action, LogLevel};
use crate::replica::event::{Command, Event};
use crate::replica::refusal::{Code, Refusal};

/// Places in the ring's queue: what one pass usually begins. More waits in the ring's backlog.
const RING_ENTRIES: u32 = 512;

/// How often something is looked at that tells nobody when it is done.
const HOUSEKEEPING: Duration = Duration::from_millis(20);

/// How long memory that was needed once is kept for the next burst.
const TRIM_INTERVAL: Duration = Duration::from_secs(10);

/// How the thread ends, and whom to tell: whoever asks while it ends already waits for the same end.
enum Stopping {
    /// Not at all.
    No,
    /// Clients are leaving.
    Clients(Vec<Answer>),
    /// The machine goes down.
    Machine(Vec<Answer>),
    /// The last bytes leave.
    Sockets(Vec<Answer>),
    /// Now.
    Now,
}

pub(super) struct ResourceLoop {
    spec: ResourceSpec,
    post: Post,
    resource: Resource,
    now: Instant,
    events: VecDeque<Event>,
    actions: Vec<Action>,
    answers: BTreeMap<CommandId, Answer>,
    /// For each volume the attach for which a helper is opening its stores. It stays here until the helper is back, whoever
    /// still waits for it: one helper at a time may hang in a disk that does not answer.
    opening: Vec<Option<CommandId>>,
    /// For people who find no disk.
    reasons: DiskReasons,
    stopping: Stopping,
    /// The ring waits for messages.
    is_polling: bool,
    pool: BufferPool,
    trim_at: Instant,
    disks: LocalDisks,
    links: PeerLinks,
    nbd: NbdServer,
    // Dropped last: it waits for what is in flight.
    ring: Ring,
}

impl ResourceLoop {
    pub(super) fn new(spec: ResourceSpec, post: Post) -> Result<Self, EngineError> {
        let pool = BufferPool::new();
        let patience = spec.settings.peers.iter().map(|peer| peer.connect_interval).collect();
        let links = PeerLinks::new(spec.peers.clone(), patience, pool.clone()).map_err(EngineError::Listen)?;
        let nbd = NbdServer::new(&spec.nbd, pool.clone())?;
        let volumes = spec.settings.volumes.len();
        Ok(Self {
            resource: Resource::new(spec.settings.clone()),
            now: clock::now(),
            events: VecDeque::new(),
            actions: Vec::new(),
            answers: BTreeMap::new(),
            opening: vec![None; volumes],
            reasons: DiskReasons::new(volumes),
            stopping: Stopping::No,
            is_polling: false,
            disks: LocalDisks::new(volumes, pool.clone()),
            pool,
            trim_at: clock::now() + TRIM_INTERVAL,
            links,
            nbd,
            ring: Ring::new(RING_ENTRIES)?,
            post,
            spec,
        })
    }

    /// Runs until somebody stops it.
    pub(super) fn run(&mut self) -> Result<(), EngineError> {
        let mut completions = Vec::new();
        loop {
            self.pump();
            self.advance_stop();
            if matches!(self.stopping, Stopping::Now) {
                return Ok(());
            }
            let patience = if self.events.is_empty() { self.patience() } else { Some(Duration::ZERO) };
            self.ring.submit_and_wait(patience)?;
            self.ring.completions(&mut completions);
            self.now = clock::now();
            for completion in completions.drain(..) {
                self.on_completion(completion);
            }
            if self.resource.next_deadline().is_some_and(|deadline| deadline <= self.now) {
                self.events.push_back(Event::Timer);
            }
            self.handle_events();
            if self.trim_at <= self.now {
                self.pool.trim();
                self.trim_at = self.now + TRIM_INTERVAL;
            }
        }
    }

    fn on_completion(&mut self, completion: Completion) {
        let Self { now, ring, events, .. } = self;
        match Tag::decode(completion.tag) {
            Tag::Ignored => {}
            Tag::Mailbox => self.on_mail(),
            Tag::Disk(job) => {
                events.extend(self.disks.on_completion(job, completion, ring));
                for (volume, error) in self.disks.take_errors() {
                    let disk = self.resource.volume_facts(volume).disk;
                    self.reasons.failed(volume, !matches!(disk, DiskState::Diskless | DiskState::Failed), &error);
                }
            }
            Tag::PeerAccept(listener) => self.links.on_accepted(listener, completion, ring, events),
            Tag::PeerDial(socket) => self.links.on_dialled(socket, &completion, events),
            Tag::PeerReceive(socket) => {
                if let Some(ended) = self.links.on_received(socket, completion, events) {
                    self.links.on_ended(ended, *now, ring, events);
                }
            }
            Tag::PeerSend(socket) => {
                if let Some(ended) = self.links.on_sent(socket, &completion, events) {
                    self.links.on_ended(ended, *now, ring, events);
                }
            }
            Tag::NbdAccept(listener) => self.nbd.on_accepted(listener, completion, *now, ring),
            Tag::NbdReceive(client) => self.nbd.on_received(client, completion, *now, ring),
            Tag::NbdSend(client) => self.nbd.on_sent(client, &completion, *now, ring),
        }
    }

    /// Handles what has happened, and what follows from it, until nothing is left.
    fn handle_events(&mut self) {
        loop {
            self.step_clients();
            let Some(event) = self.events.pop_front() else { return };
            self.handle(event);
            while let Some(event) = self.events.pop_front() {
                self.handle(event);
            }
        }
    }

    fn step_clients(&mut self) {
        let exports =
            Exports { settings: &self.spec.settings, resource: &self.resource, disks: &self.disks, now: self.now };
        self.nbd.step(&exports, &mut self.events);
    }

    fn handle(&mut self, event: Event) {
        let ended = match &event {
            Event::Received { socket, .. } | Event::Sent { socket, .. } if !self.links.is_known(*socket) => return,
            Event::Closed { socket, .. } if !self.links.is_known(*socket) => return,
            Event::Closed { socket, .. } => Some(*socket),
            _ => None,
        };
        let mut actions = std::mem::take(&mut self.actions);
        self.resource.handle(self.now, event, &mut actions);
        if let Some(socket) = ended {
            self.links.forget(socket);
        }
        for action in actions.drain(..) {
            self.perform(action);
        }
        self.actions = actions;
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Disk { volume, ticket, operation } => {
                self.events.extend(self.disks.submit(volume, ticket, operation, &mut self.ring));
            }
            Action::ReleaseDisk { volume } => self.events.extend(self.disks.release(volume, &mut self.ring)),
            Action::Dial { peer } => self.links.dial(peer, &mut self.ring, &mut self.events),
            Action::Send { socket, head, payload } => self.links.send(socket, head, payload),
            Action::Throttle { socket, stop } => self.links.throttle(socket, stop),
            Action::Close { socket, how } => self.links.close(socket, how, self.now, &mut self.ring),
            Action::Reply { id, result } => self.nbd.reply(id, result),
            Action::Answer { id, result } => self.on_answer(id, result),
            Action::RunHandler { id, handler, volume, peer } => {
                handlers::begin(&self.spec, &self.post, id, handler, (volume, peer));
            }
            Action::Log { level, sentence } => log(&self.spec.settings.name, level, &sentence),
        }
    }

    /// Begins all that has become ready, so that it leaves in one enter.
    fn pump(&mut self) {
        if self.resource.role() != Role::Primary && self.nbd.has_openers() {
            self.nbd.close_openers("the resource is no longer Primary here");
        }
        let resource = &self.resource;
        self.links.listen(|peer| resource.expects(peer), self.now, &mut self.ring);
        self.links.pump(self.now, &mut self.ring, &mut self.events);
        self.nbd.pump(self.now, &mut self.ring, &mut self.events);
        self.disks.pump(&mut self.ring, &mut self.events);
        self.poll_mailbox();
    }

    /// How long the thread may sleep; `None`: until something happens.
    fn patience(&self) -> Option<Duration> {
        let trim = (self.pool.cached_bytes() > 0).then_some(self.trim_at);
        let deadlines = [self.resource.next_deadline(), self.links.next_deadline(), self.nbd.next_deadline(), trim];
        let patience = deadlines.into_iter().flatten().min().map(|deadline| deadline.since(self.now));
        if self.disks.is_retiring() {
            Some(patience.map_or(HOUSEKEEPING, |patience| patience.min(HOUSEKEEPING)))
        } else {
            patience
        }
    }

    /// Waits for messages, if the ring has room; else the next pass will.
    fn poll_mailbox(&mut self) {
        if self.is_polling {
            return;
        }
        let descriptor = self.post.mailbox.waker().descriptor().clone();
        let operation = Operation::PollAdd { descriptor, events: u32::from(libc::POLLIN.cast_unsigned()) };
        self.is_polling = self.ring.push_tagged(operation, Tag::Mailbox.encode()).is_ok();
    }

    fn on_mail(&mut self) {
        self.is_polling = false;
        let mut messages = Vec::new();
        self.post.mailbox.drain(&mut messages);
        for message in messages {
            self.on_control(message);
        }
    }

    fn on_control(&mut self, message: Control) {
        match message {
            Control::Command { id, command, answer } => self.on_command(id, command, answer),
            Control::Attach { id, volume, answer } => self.begin_attach(id, volume, answer),
            Control::Opened { id, volume, opened } => self.on_opened(id, volume, opened),
            Control::HandlerEnded { id, exit } => self.events.push_back(Event::HandlerEnded { id, exit }),
            Control::GiveUp(id) => {
                self.answers.remove(&id);
                self.reasons.give_up(id);
                self.events.push_back(Event::CommandGivenUp(id));
            }
            Control::Status(answer) => {
                // What was told before the question belongs into the answer.
                self.handle_events();
                answer(self.status());
            }
            Control::StopGracefully(answer) => self.begin_stop(answer),
            Control::StopNow => self.stopping = Stopping::Now,
        }
    }

    fn on_command(&mut self, id: CommandId, command: Command, answer: Answer) {
        match (&self.stopping, &command) {
            (Stopping::No, _) => {}
            // The machine knows one asker of its going down, and that is us.
            (_, Command::Down) => return self.begin_stop(answer),
            (Stopping::Sockets(_) | Stopping::Now, _) => return answer(Err(stopped())),
            // What holds up the end can be let go.
            (Stopping::Clients(_) | Stopping::Machine(_), _) => {}
        }
        if let Command::Detach { volume, .. } = &command
            && self.give_up_opening(*volume)
        {
            return answer(Ok(()));
        }
        self.answers.insert(id, answer);
        if let Command::Adjust { peers, volumes, handlers } = &command {
            self.spec.settings.handlers.clone_from(handlers);
            self.spec.settings.peers.clone_from(peers);
            self.spec.settings.volumes.clone_from(volumes);
        }
        if let Command::Detach { volume, .. } = &command {
            self.reasons.begin(id, *volume, Aim::Detach);
        }
        self.events.push_back(Event::Command { id, command });
    }

    fn on_answer(&mut self, id: CommandId, result: Result<(), Refusal>) {
        self.reasons.complete(id, &result);
        if id == CommandId::OF_THE_LOOP {
            self.on_down(result);
        } else if let Some(answer) = self.answers.remove(&id) {
            answer(result);
        }
    }

    fn status(&self) -> ResourceStatus {
        let mut status = self.resource.status(self.now);
        for (peer, ends) in status.peers.iter_mut().zip(&self.spec.peers) {
            peer.path = Some(PathStatus { this_host: ends.mine, remote_host: ends.peer });
        }
        let names = names(&self.spec.settings);
        let own = self.spec.peers.first().map(|peer| peer.mine.ip());
        let volumes = self.spec.settings.volumes.iter().enumerate();
        for (index, settings) in volumes {
            let Some(volume) = status.volumes.iter_mut().find(|volume| volume.number == settings.number.0) else {
                continue;
            };
            // The last name is the volume's own; the first volume also has the resource's.
            let Some((name, _)) = names.iter().find(|(_, volume)| *volume == index) else { continue };
            if matches!(volume.disk, DiskState::Diskless | DiskState::Failed) {
                volume.reason = match self.opening[index] {
                    Some(_) => Some("it is being opened, and has not answered yet".to_owned()),
                    None => self.reasons.of(index).map(str::to_owned),
                };
            }
            volume.nbd = self.nbd.places().map(|place| place.uri(name, own)).collect();
        }
        status
    }
}

/// Attaching.
impl ResourceLoop {
    fn begin_attach(&mut self, id: CommandId, volume: usize, answer: Answer) {
        let refuse = |code: ConfigurationRefusal, sentence: String| Refusal {
            code: Code::Configuration(code),
            sentence,
            next: None,
        };
        let Some(paths) = self.spec.backing.get(volume).cloned().flatten() else {
            return answer(Err(refuse(
                ConfigurationRefusal::NoDisk,
                format!("volume {volume} has no disk configured"),
            )));
        };
        if !matches!(self.stopping, Stopping::No) {
            return answer(Err(stopped()));
        }
        if let Some(how) = self.has_disk_already(volume) {
            let code = ConfigurationRefusal::AlreadyAttached;
            return answer(Err(refuse(code, format!("{}: {how}", paths.data.display()))));
        }
        let (direct, patience, post) = (self.spec.direct, self.spec.lock_patience, self.post.clone());
        let helper = std::thread::Builder::new().name("attach".to_owned()).spawn(move || {
            let opened = Opened::open(&paths, direct, patience).map(Box::new);
            // If the resource is gone meanwhile the message is dropped, and the stores with it.
            let _ = post.post(Control::Opened { id, volume, opened });
        });
        match helper {
            Ok(_) => {
                self.opening[volume] = Some(id);
                self.reasons.begin(id, volume, Aim::Open);
                self.answers.insert(id, answer);
            }
            Err(error) => answer(Err(refuse(ConfigurationRefusal::OutOfMemory, format!("no helper thread: {error}")))),
        }
    }

    /// What stands in the way of another attach.
    fn has_disk_already(&self, volume: usize) -> Option<&'static str> {
        match self.opening[volume] {
            Some(id) if self.answers.contains_key(&id) => Some("is being opened for an attach that waits for it"),
            Some(_) => Some("is still being opened for an attach that was given up"),
            None if !self.disks.has(volume) => None,
            None => match self.resource.volume_facts(volume).disk {
                DiskState::Failed => Some("is being let go"),
                DiskState::Diskless | DiskState::Attaching => Some("is being attached"),
                _ => Some("attached already"),
            },
        }
    }

    /// Lets go of a disk that is only being opened: its attach ends. False if there is none.
    fn give_up_opening(&mut self, volume: usize) -> bool {
        let Some(id) = self.opening.get(volume).copied().flatten().filter(|id| self.answers.contains_key(id)) else {
            return false;
        };
        let (code, sentence) = (ConfigurationRefusal::Interrupted, "detached while it was being opened".to_owned());
        self.on_answer(id, Err(Refusal { code: Code::Configuration(code), sentence, next: None }));
        true
    }

    fn on_opened(&mut self, id: CommandId, volume: usize, opened: Result<Box<Opened>, Refusal>) {
        self.opening[volume] = None;
        let is_wanted = self.answers.contains_key(&id) && matches!(self.stopping, Stopping::No);
        match opened {
            Err(refusal) => self.on_answer(id, Err(refusal)),
            // Given up meanwhile: the stores are closed again.
            Ok(_) if !is_wanted => drop(self.answers.remove(&id)),
            Ok(opened) => {
                let facts = opened.facts();
                self.disks.place(volume, *opened, &mut self.ring);
                self.reasons.opened(id);
                self.events.push_back(Event::Command { id, command: Command::Attach { volume, facts } });
            }
        }
    }
}

/// Stopping.
impl ResourceLoop {
    fn begin_stop(&mut self, answer: Answer) {
        match &mut self.stopping {
            Stopping::Clients(answers) | Stopping::Machine(answers) | Stopping::Sockets(answers) => {
                answers.push(answer)
            }
            Stopping::No => {
                self.nbd.close_all("the resource is stopped");
                self.stopping = Stopping::Clients(vec![answer]);
            }
            // Dropped, as all that comes after the end.
            Stopping::Now => {}
        }
    }

    /// Takes the next step towards the end, if it is time.
    fn advance_stop(&mut self) {
        self.stopping = match std::mem::replace(&mut self.stopping, Stopping::No) {
            Stopping::Clients(answers) if self.nbd.is_idle() => {
                self.events.push_back(Event::Command { id: CommandId::OF_THE_LOOP, command: Command::Down });
                Stopping::Machine(answers)
            }
            Stopping::Sockets(answers) if self.links.is_idle() && self.disks.is_idle() => {
                answers.into_iter().for_each(|answer| answer(Ok(())));
                Stopping::Now
            }
            other => other,
        };
    }

    fn on_down(&mut self, result: Result<(), Refusal>) {
        self.stopping = match (std::mem::replace(&mut self.stopping, Stopping::No), result) {
            (Stopping::Machine(answers), Ok(())) => Stopping::Sockets(answers),
            (Stopping::Machine(answers), Err(refusal)) => {
                self.nbd.reopen();
                answers.into_iter().for_each(|answer| answer(Err(refusal.clone())));
                Stopping::No
            }
            (other, _) => other,
        };
    }
}

impl Drop for ResourceLoop {
    /// The kernel takes a ring apart some time after it was closed; the locks of the disks must not last so long.
    fn drop(&mut self) {
        self.disks.release_all(&mut self.ring);
    }
}

/// Nothing is begun any more.
fn stopped() -> Refusal {
    let code = ConfigurationRefusal::Interrupted;
    Refusal { code: Code::Configuration(code), sentence: "the resource is going down".to_owned(), next: None }
}

fn log(resource: &str, level: LogLevel, sentence: &str) {
    match level {
        LogLevel::Debug => tracing::debug!(resource, "{sentence}"),
        LogLevel::Info => tracing::info!(resource, "{sentence}"),
        LogLevel::Warn => tracing::warn!(resource, "{sentence}"),
        LogLevel::Error => tracing::error!(resource, "{sentence}"),
    }
}

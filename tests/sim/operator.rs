//! The people (or the manager) above the two nodes: they attach, connect, promote, fail over and clean up after a split brain.
//!
//! A *careful* operator promotes without the peer only where nothing can be lost; a reckless one does so anywhere, and both
//! give up a side's data only in words that the oracle hears.

use std::collections::BTreeMap;

use shimai::model::ids::CommandId;
use shimai::model::state::{ConnectionState, DiskState, Role};
use shimai::replica::event::{Command, DeviceFacts};

use crate::profile::{Fault, MILLISECOND, Profile, SECOND, name};
use crate::world::{Happening, World};

/// Sectors that one verify compares.
const VERIFIED_SECTORS: u64 = 2000;

/// Something to be done as soon as it is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Demote the Primary and promote the other one.
    Switch,
    /// Promote a node without looking.
    PromoteAnyone,
    /// Throw one copy away.
    Invalidate,
}

/// What people want.
pub(crate) struct Operator {
    /// The node whose disk fails now and then.
    pub(crate) weak: Option<usize>,
    /// Somebody's data has been given up: refusals may follow that are no split brain.
    pub(crate) gave_up_data: bool,
    /// Nobody does anything by itself (stories).
    pub(crate) idle: bool,
    plan: Option<Plan>,
    wanted_primary: usize,
    /// No connection before then.
    apart_until: [u64; 2],
    /// The last disconnect was asked for.
    disconnected: [bool; 2],
    attach_first: bool,
    first_promotion: bool,
    last_promotion: u64,
    stuck_since: Option<u64>,
    /// When to ask for the next verify, and how many were asked for.
    verify_at: u64,
    verifies: usize,
    /// The side whose data goes, while a split brain is being cleaned up.
    loser: Option<usize>,
    /// Attaches since the node was last in sync: many mean that the peer's data contradicts.
    attaches: [u32; 2],
    waiting: BTreeMap<CommandId, (usize, String)>,
}

impl Operator {
    pub(crate) fn new(profile: &Profile) -> Self {
        let disk_faults = [Fault::DiskError, Fault::BadSector, Fault::DiskDeath];
        let weak = disk_faults.iter().any(|&fault| profile.has(fault)).then_some((profile.seed & 1) as usize);
        Self {
            weak,
            gave_up_data: false,
            idle: false,
            plan: None,
            wanted_primary: (profile.seed >> 1 & 1) as usize,
            apart_until: [0; 2],
            disconnected: [false; 2],
            attach_first: profile.seed >> 2 & 3 != 0,
            first_promotion: true,
            last_promotion: 0,
            stuck_since: None,
            verify_at: 0,
            verifies: 0,
            loser: None,
            attaches: [0; 2],
            waiting: BTreeMap::new(),
        }
    }

    pub(crate) fn plan(&mut self, plan: Plan) {
        self.plan = Some(plan);
    }

    pub(crate) fn asked(&mut self, id: CommandId, node: usize, command: &Command) {
        self.waiting.insert(id, (node, format!("{command:?}")));
    }

    pub(crate) fn answered(&mut self, id: CommandId, _well: bool) -> Result<(), String> {
        let (node, text) =
            self.waiting.remove(&id).ok_or_else(|| format!("command {} is answered and nobody waits", id.0))?;
        self.attaches[node] += u32::from(text.starts_with("Attach"));
        Ok(())
    }

    /// Somebody waits for a forced promotion.
    pub(crate) fn is_forcing(&self) -> bool {
        self.waiting.values().any(|(_, text)| text == "Primary { force: true }")
    }

    /// The node's process is new; nobody waits for answers of the old one.
    pub(crate) fn started(&mut self, node: usize) {
        self.waiting.retain(|_, (on, _)| *on != node);
        self.disconnected[node] = false;
    }

    pub(crate) fn disconnected(&mut self, node: usize, until: u64) {
        self.apart_until[node] = until;
        self.disconnected[node] = true;
    }

    pub(crate) fn was_disconnected(&self, node: usize) -> bool {
        self.disconnected[node]
    }

    pub(crate) fn heal(&mut self, node: usize) {
        self.apart_until[node] = 0;
        self.plan = None;
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn unanswered(&self) -> Vec<String> {
        self.waiting.values().map(|(node, text)| format!("{}: {text}", name(*node))).collect()
    }
}

impl World {
    pub(crate) fn on_manage(&mut self) {
        if self.operator.idle {
            return;
        }
        let next = self.rng.operator.spread(10 * MILLISECOND, 300 * MILLISECOND);
        self.after(next, Happening::Manage);
        for node in 0..2 {
            self.bring_up(node);
        }
        self.clean_up();
        self.follow_plan();
        self.keep_a_primary();
        self.verify_now_and_then();
        if self.healing {
            self.unstick();
        }
    }

    /// Of disks that are the same a verify marks nothing: at the end nothing may be marked.
    fn verify_now_and_then(&mut self) {
        let Some(every) = self.profile.verifies else { return };
        if self.healing {
            return self.end_verifies();
        }
        if self.now < self.operator.verify_at {
            return;
        }
        self.operator.verify_at = self.now + every;
        self.operator.verifies += 1;
        let number = self.operator.verifies;
        let (node, volume) = (number % 2, number / 2 % self.volumes());
        if self.facts(node, volume).is_some_and(|facts| facts.is_in_sync()) {
            self.count("verifies");
            // Around one of the places that are written; all of it would be all that happens in a large world.
            let hot = &self.profile.load.hot;
            let place = hot.get(number % hot.len().max(1)).copied().unwrap_or(0);
            let start = place.saturating_sub(VERIFIED_SECTORS / 2);
            let stop = Some(start + VERIFIED_SECTORS);
            self.command(node, Command::Verify { volume, start: Some(start), stop });
        }
    }

    fn end_verifies(&mut self) {
        for node in 0..2 {
            for volume in 0..self.volumes() {
                if self.facts(node, volume).is_some_and(|facts| facts.connection == ConnectionState::VerifyS) {
                    self.command(node, Command::Verify { volume, start: None, stop: Some(0) });
                }
            }
        }
    }

    /// Attaches and connects what should be.
    pub(crate) fn bring_up(&mut self, node: usize) {
        let attach_first = self.operator.attach_first;
        for volume in 0..self.volumes() {
            if attach_first {
                self.attach(node, volume);
            }
        }
        self.connect(node);
        if !attach_first {
            for volume in 0..self.volumes() {
                self.attach(node, volume);
            }
        }
    }

    pub(crate) fn attach(&mut self, node: usize, volume: usize) {
        let host = &self.nodes[node];
        // The dead process's operations keep the devices locked until they have landed.
        let free = host.is_idle(&self.profile, volume) && !host.disks.iter().any(|disk| disk.dead);
        let (data_bytes, metadata_bytes) = (host.disks[volume].bytes, host.metadata(&self.profile, volume).bytes);
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let bare = crate::machine::facts(&process.resource, volume).disk == DiskState::Diskless;
        if free && bare && !process.holds[volume] {
            process.holds[volume] = true;
            let facts = DeviceFacts {
                data_bytes,
                metadata_bytes,
                max_io_bytes: 1 << 20,
                discard_zeroes: self.profile.seed.is_multiple_of(2),
            };
            self.command(node, Command::Attach { volume, facts });
        }
    }

    pub(crate) fn connect(&mut self, node: usize) {
        let apart = self.operator.apart_until[node] > self.now || self.operator.loser == Some(node);
        let Some(facts) = self.facts(node, 0) else { return };
        let refused = self.nodes[node].process.as_ref().is_some_and(|process| process.refused);
        if facts.connection == ConnectionState::StandAlone && !apart && !refused {
            self.operator.disconnected[node] = false;
            self.command(node, Command::Connect { discard_my_data: false });
        }
    }

    /// A split brain is resolved: one side's data goes.
    fn clean_up(&mut self) {
        let refused =
            |world: &Self, node: usize| world.nodes[node].process.as_ref().is_some_and(|process| process.refused);
        if self.operator.loser.is_none() && (refused(self, 0) || refused(self, 1)) && self.is_up(0) && self.is_up(1) {
            let patience = if self.healing { 500 } else { 100 };
            if self.rng.operator.chance(patience) {
                let loser = self.choose_loser();
                self.note(|| format!("operator: {} loses its data", name(loser)));
                self.operator.loser = Some(loser);
                self.count("split brains cleaned up");
            }
        }
        if let Some(loser) = self.operator.loser {
            self.demote_and_discard(loser);
        }
    }

    fn choose_loser(&self) -> usize {
        let facts = [0, 1].map(|node| self.facts(node, 0));
        let score = |node: usize| {
            let given_up = self.oracle.copies[0][node].given_up;
            let primary = facts[node].is_some_and(|facts| facts.role == Role::Primary);
            let good = facts[node].is_some_and(|facts| facts.disk == DiskState::UpToDate);
            (!given_up, good, primary, self.oracle.copies[0][node].exclusive.len())
        };
        usize::from(score(1) <= score(0))
    }

    fn demote_and_discard(&mut self, loser: usize) {
        let Some(facts) = self.facts(loser, 0) else {
            self.operator.loser = None;
            return;
        };
        if facts.is_connected() || !self.is_up(1 - loser) {
            self.operator.loser = None;
        } else if facts.role == Role::Primary {
            self.demote(loser);
        } else if facts.connection != ConnectionState::StandAlone {
            self.operator.disconnected[loser] = true;
            self.command(loser, Command::Disconnect { force: false });
        } else {
            for volume in 0..self.volumes() {
                self.oracle.copies[volume][loser].given_up = true;
            }
            self.operator.gave_up_data = true;
            self.operator.loser = None;
            self.nodes.iter_mut().filter_map(|node| node.process.as_mut()).for_each(|process| process.refused = false);
            self.command(loser, Command::Connect { discard_my_data: true });
            self.connect(1 - loser);
        }
    }

    fn demote(&mut self, node: usize) {
        for volume in 0..self.volumes() {
            if self.client.open[volume].is_some_and(|(on, _)| on == node) {
                self.close_volume(volume);
            }
        }
        self.command(node, Command::Secondary);
        let starves = |world: &Self, volume| {
            world.facts(node, volume).is_some_and(|facts| {
                let served = facts.is_connected() && facts.peer_disk == DiskState::UpToDate;
                facts.disk != DiskState::UpToDate && !served
            })
        };
        if (0..self.volumes()).any(|volume| starves(self, volume)) {
            // What is frozen for want of data would keep it Primary for ever.
            self.command(node, Command::ResumeIo);
        }
    }

    fn follow_plan(&mut self) {
        match self.operator.plan {
            None => {}
            Some(Plan::Switch) => self.switch(),
            Some(Plan::PromoteAnyone) => {
                self.operator.plan = None;
                let node = self.rng.operator.below(2) as usize;
                self.command(node, Command::Primary { force: false });
            }
            Some(Plan::Invalidate) => self.invalidate(),
        }
    }

    /// Applications stop, the Primary is demoted, the other one promoted (by `keep_a_primary`).
    fn switch(&mut self) {
        let Some(primary) = self.primary() else {
            self.operator.plan = None;
            self.client.paused = false;
            return;
        };
        self.client.paused = true;
        let waiting = self.client.outstanding.values().any(|request| request.node == primary);
        if !waiting || self.rng.operator.chance(100) {
            self.operator.wanted_primary = 1 - primary;
            self.demote(primary);
            self.operator.plan = None;
            self.client.paused = false;
        }
    }

    fn invalidate(&mut self) {
        self.operator.plan = None;
        let Some(node) = (0..2)
            .find(|&node| self.facts(node, 0).is_some_and(|facts| facts.is_in_sync() && facts.role == Role::Secondary))
        else {
            return;
        };
        let volume = self.rng.operator.below(self.volumes() as u64) as usize;
        let remotely = self.rng.operator.coin();
        let (on, command) = match remotely {
            true => (1 - node, Command::InvalidateRemote { volume }),
            false => (node, Command::Invalidate { volume }),
        };
        self.oracle.copies[volume][node].given_up = true;
        self.watch.full_sync_was_due[volume] = true;
        self.command(on, command);
    }

    /// Promotes a node if none is Primary and nothing can be lost by it.
    fn keep_a_primary(&mut self) {
        let busy = self.operator.loser.is_some() || self.client.paused || self.primary().is_some();
        if busy || self.now < self.operator.last_promotion + 200 * MILLISECOND {
            return;
        }
        if self.operator.first_promotion && !self.profile.born_in_sync {
            return self.promote_fresh();
        }
        let wanted = self.operator.wanted_primary;
        for node in [wanted, 1 - wanted] {
            if self.may_promote(node) {
                self.operator.last_promotion = self.now;
                self.operator.wanted_primary = node;
                self.command(node, Command::Primary { force: false });
                return;
            }
        }
    }

    /// The initial full sync begins here.
    fn promote_fresh(&mut self) {
        let node = self.operator.wanted_primary;
        let ready = (0..self.volumes())
            .all(|volume| self.facts(node, volume).is_some_and(|facts| facts.disk == DiskState::Inconsistent));
        if ready {
            self.operator.first_promotion = false;
            self.operator.last_promotion = self.now;
            self.watch.forced = true;
            self.watch.full_sync_was_due.fill(true);
            (0..self.volumes()).for_each(|volume| self.oracle.copies[volume][1 - node].given_up = true);
            self.command(node, Command::Primary { force: true });
        }
    }

    fn may_promote(&mut self, node: usize) -> bool {
        let Some(facts) = self.facts(node, 0) else { return false };
        if facts.is_connected() {
            return facts.disk == DiskState::UpToDate || facts.peer_disk == DiskState::UpToDate;
        }
        let good = (0..self.volumes())
            .all(|volume| self.facts(node, volume).is_some_and(|facts| facts.disk == DiskState::UpToDate));
        // What the other side has alone would be in a split brain with us.
        let safe = (0..self.volumes()).all(|volume| {
            let other = &self.oracle.copies[volume][1 - node];
            !other.alone && other.exclusive.is_empty()
        });
        let lonely = !self.is_up(1 - node) || self.rng.operator.chance(20);
        let reckless = self.profile.has(Fault::Reckless) && !self.healing && self.rng.operator.chance(200);
        good && lonely && (safe || reckless)
    }

    /// A disk that the handshake refuses again and again is attached without the peer, so that the split brain shows.
    fn attach_apart(&mut self) {
        for node in 0..2 {
            let Some(facts) = self.facts(node, 0) else { continue };
            if (0..self.volumes()).all(|volume| self.facts(node, volume).is_some_and(|facts| facts.is_in_sync())) {
                self.operator.attaches[node] = 0;
            }
            if self.operator.attaches[node] > 5 && facts.is_connected() {
                self.operator.attaches[node] = 0;
                self.operator.disconnected(node, self.now + SECOND);
                self.command(node, Command::Disconnect { force: true });
            }
        }
    }

    /// A resync that could not read some blocks has ended with the target Inconsistent; the next handshake tries again.
    fn part_the_half_synced(&mut self) {
        for node in 0..2 {
            let half = (0..self.volumes()).filter_map(|volume| self.facts(node, volume)).any(|facts| {
                facts.connection == ConnectionState::Connected
                    && facts.disk == DiskState::Inconsistent
                    && facts.peer_disk == DiskState::UpToDate
            });
            if half && self.rng.operator.chance(50) {
                self.operator.disconnected(node, self.now + SECOND);
                self.command(node, Command::Disconnect { force: true });
            }
        }
    }

    /// A Primary without a disk and without its peer serves nobody, and may not take its old disk back: it is demoted.
    fn give_up_diskless_primary(&mut self) {
        for node in 0..2 {
            // One such volume keeps the others apart too: the connection is the whole resource's.
            let useless = (0..self.volumes()).filter_map(|volume| self.facts(node, volume)).any(|facts| {
                facts.role == Role::Primary && facts.disk < DiskState::Inconsistent && !facts.is_connected()
            });
            if useless && self.rng.operator.chance(50) {
                self.demote(node);
                if let Some(process) = self.nodes[node].process.as_mut() {
                    process.refused = false;
                }
            }
        }
    }

    /// After double faults there may be no good copy left: a person picks one.
    fn unstick(&mut self) {
        let faults = [Fault::DiskError, Fault::BadSector, Fault::DiskDeath, Fault::Detach];
        if faults.iter().any(|&fault| self.profile.has(fault)) {
            // Without disks that fail or go, a resync comes to its end by itself or not at all.
            self.part_the_half_synced();
        }
        self.give_up_diskless_primary();
        self.attach_apart();
        let facts = [0, 1].map(|node| self.facts(node, 0));
        let both = facts.iter().flatten().count() == 2;
        let together = facts.iter().flatten().all(|facts| {
            facts.disk < DiskState::UpToDate && facts.peer_disk < DiskState::UpToDate && facts.is_connected()
        });
        // A forced promotion that did not get further than its generation: neither disk can be the source of the other.
        // The one that would be target may not have heard that the other one has refused.
        let apart = facts.iter().flatten().all(|facts| facts.disk == DiskState::Inconsistent)
            && facts.iter().flatten().any(|facts| !facts.is_connected());
        let stuck = both && (together || apart);
        if !stuck {
            self.operator.stuck_since = None;
            return;
        }
        let since = *self.operator.stuck_since.get_or_insert(self.now);
        if self.now > since + 5 * SECOND {
            self.operator.stuck_since = None;
            self.watch.void = true;
            self.watch.forced = true;
            let used = |node: &usize| {
                facts[*node].and_then(|facts| facts.current).is_some_and(|current| !current.is_just_created())
            };
            let wanted = self.operator.wanted_primary;
            let choice = self.primary().or_else(|| [wanted, 1 - wanted].into_iter().find(used));
            let node = choice.unwrap_or(wanted);
            self.count("forced promotions after double faults");
            self.command(node, Command::Primary { force: true });
        }
    }
}

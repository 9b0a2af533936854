//! What breaks: each class by its own clock, as the profile says.

use shimai::model::state::Role;
use shimai::replica::event::Command;

use crate::operator::Plan;
use crate::oracle::look;
use crate::profile::{Fault, MILLISECOND, SECOND, name};
use crate::world::{Happening, World};

impl World {
    pub(crate) fn begin_faults(&mut self) {
        let faults: Vec<(Fault, u64)> = self.profile.faults.iter().map(|(&fault, &gap)| (fault, gap)).collect();
        for (fault, gap) in faults {
            let first = self.rng.fault.spread((gap / 4).max(1), gap * 2);
            self.after(first, Happening::Fault(fault));
        }
    }

    pub(crate) fn on_fault(&mut self, fault: Fault) {
        if self.healing {
            return;
        }
        let Some(&gap) = self.profile.faults.get(&fault) else { return };
        let next = self.rng.fault.spread((gap / 4).max(1), gap * 3);
        self.after(next, Happening::Fault(fault));
        self.count(&fault.name());
        self.note(|| format!("FAULT {fault:?}"));
        self.inflict(fault);
    }

    fn inflict(&mut self, fault: Fault) {
        let node = self.rng.fault.below(2) as usize;
        let weak = self.operator.weak.unwrap_or(0);
        match fault {
            Fault::PowerLoss => self.lose_power(node, None),
            Fault::SitePowerLoss => (0..2).for_each(|node| self.lose_power(node, None)),
            Fault::Kill => self.kill(node, None),
            Fault::Partition => self.partition(),
            Fault::Cut | Fault::OneSocket | Fault::HalfOpen => self.cut(fault),
            Fault::Stall => self.stall_links(),
            Fault::DiskStall => {
                let length = self.rng.fault.spread(10 * MILLISECOND, 4 * SECOND);
                self.nodes[node].stalled_until = self.now + length;
            }
            Fault::DiskError => self.nodes[weak].errors_left += self.rng.fault.within(1, 3) as u32,
            Fault::BadSector => self.spoil_sector(weak),
            Fault::DiskDeath => {
                self.nodes[weak].disks.iter_mut().for_each(|disk| disk.dead = true);
                let length = self.rng.fault.spread(100 * MILLISECOND, 6 * SECOND);
                self.after(length, Happening::DiskRepaired { node: weak });
            }
            Fault::Switch => self.operator.plan(Plan::Switch),
            Fault::Reckless => self.operator.plan(Plan::PromoteAnyone),
            Fault::Disconnect => self.disconnect_for_a_while(node),
            Fault::Detach => {
                let (volume, force) =
                    (self.rng.fault.below(self.volumes() as u64) as usize, self.rng.fault.chance(200));
                self.command(node, Command::Detach { volume, force });
            }
            Fault::Invalidate => self.operator.plan(Plan::Invalidate),
            Fault::PauseSync => {
                let volume = self.rng.fault.below(self.volumes() as u64) as usize;
                self.command(node, Command::PauseSync { volume });
                let length = self.rng.fault.spread(MILLISECOND, 2 * SECOND);
                self.after(length, Happening::Resume { node, volume });
            }
        }
    }

    /// The host loses power. It comes back after `down`, or a random while.
    pub(crate) fn lose_power(&mut self, node: usize, down: Option<u64>) {
        let was_up = self.is_up(node);
        self.note(|| format!("{}: loses power", name(node)));
        self.watch.losses += 1;
        // A Primary goes on with what its peer has lost; one that comes back itself may have lost what its peer has.
        let serves = |world: &Self, on| world.facts(on, 0).is_some_and(|facts| facts.role == Role::Primary);
        let other_goes_on = serves(self, 1 - node) && !serves(self, node);
        self.end_process(node, true);
        for volume in 0..self.volumes() {
            let before = self.nodes[node].disks[volume].view.clone();
            let spans = self.nodes[node].lose_power(&self.profile, volume, &mut self.rng.disk);
            let usable = self.layouts[volume].usable_sectors;
            let [after, other] = [node, 1 - node].map(|on| &self.nodes[on].disks[volume].view);
            for sector in spans.into_iter().flat_map(|(from, to)| from..to).filter(|&sector| sector < usable) {
                let [before, after, other] = [&before, after, other].map(|view| look(sector, view.sector(sector)));
                if before != after {
                    self.oracle.regress(volume, node, sector, [before, after], other_goes_on.then_some(other));
                }
            }
        }
        self.watch.forget_unflushed();
        if was_up {
            self.restart_later(node, down);
        }
    }

    /// The process dies; what it gave to the kernel goes on.
    pub(crate) fn kill(&mut self, node: usize, down: Option<u64>) {
        if self.is_up(node) {
            self.note(|| format!("{}: is killed", name(node)));
            self.end_process(node, false);
            self.restart_later(node, down);
        }
    }

    fn end_process(&mut self, node: usize, power: bool) {
        if let Some(process) = self.nodes[node].process.take() {
            self.leave_timer(node, process.timer);
            self.drop_sockets(node, power);
            self.abandon_requests(node);
            self.watch.forget(node);
            self.watch.crashes += 1;
            (0..self.volumes()).for_each(|volume| self.oracle.end_transit(volume, node));
        }
    }

    fn restart_later(&mut self, node: usize, down: Option<u64>) {
        let most = if self.rng.fault.chance(300) { 20 * MILLISECOND } else { self.profile.down_max };
        let delay = down.unwrap_or_else(|| self.rng.fault.spread(200_000, most));
        self.after(delay, Happening::Restart { node });
    }

    fn partition(&mut self) {
        let kind = self.rng.fault.below(4);
        self.network.blocked = [kind != 0, kind != 1];
        let length = self.rng.fault.spread(10 * MILLISECOND, 8 * SECOND);
        self.after(length, Happening::PartitionEnds);
    }

    pub(crate) fn cut(&mut self, fault: Fault) {
        let mut links: Vec<u64> = self.network.links.iter().filter(|(_, link)| !link.cut).map(|(&it, _)| it).collect();
        if fault == Fault::OneSocket && !links.is_empty() {
            links = vec![*self.rng.fault.pick(&links)];
        }
        let late = self.rng.fault.below(2) as usize;
        for link in links {
            self.network.cut(link);
            for side in 0..2 {
                let node = self.network.links.get(&link).map_or(0, |found| found.ends[side].node);
                let longest = if fault == Fault::HalfOpen && node == late { 30 * SECOND } else { SECOND };
                let delay = self.rng.fault.spread(100_000, longest);
                self.after(delay, Happening::Notice { link, side });
            }
        }
    }

    fn stall_links(&mut self) {
        let until = self.now + self.rng.fault.spread(10 * MILLISECOND, 8 * SECOND);
        for link in self.network.links.values_mut() {
            link.stalled_until = until;
        }
    }

    fn spoil_sector(&mut self, node: usize) {
        let volume = self.rng.fault.below(self.volumes() as u64) as usize;
        let sector = *self.rng.fault.pick(&self.profile.load.hot);
        self.nodes[node].disks[volume].unreadable.insert(sector);
    }

    fn disconnect_for_a_while(&mut self, node: usize) {
        let force = self.rng.fault.chance(300);
        let length = self.rng.fault.spread(MILLISECOND, 4 * SECOND);
        self.operator.disconnected(node, self.now + length);
        self.command(node, Command::Disconnect { force });
    }

    /// No more faults: everything is repaired and runs.
    pub(crate) fn heal(&mut self) {
        self.note(|| "HEALING".into());
        self.healing = true;
        self.network.blocked = [false; 2];
        self.network.links.values_mut().for_each(|link| link.stalled_until = 0);
        for node in 0..2 {
            let host = &mut self.nodes[node];
            host.errors_left = 0;
            for disk in &mut host.disks {
                disk.dead = false;
                disk.unreadable.clear();
            }
            self.operator.heal(node);
            if !self.is_up(node) {
                self.start(node);
            }
            for volume in 0..self.volumes() {
                self.command(node, Command::ResumeSync { volume });
            }
        }
    }
}

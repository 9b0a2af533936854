//! Laws about two whole disks: what differs must be known to differ, now and after any power loss.
//!
//! D4 each differing block is dirty somewhere · D5 connected, good and idle means identical · G1, G4 a promotion of the other
//! side must not make exclusive writes vanish silently · G2 no false split brain · G5 "no sync" means identical · M1 metadata
//! survives.
//!
//! A *fork* is a copy of both disks whose power fails at once; it costs the world nothing.

use shimai::model::state::DiskState;

use crate::contents::BLOCK;
use crate::fork::{Forked, Verdict, decode, verdict, verdict_if_promoted};
use crate::machine::is_dirty;
use crate::profile::name;
use crate::world::{Happening, World};

/// Attempts to check live copies, per phase of the world.
const CHECKS: u64 = 24;
/// Forks per seed.
const FORKS: u64 = 16;

impl World {
    pub(crate) fn begin_checks(&mut self) {
        let horizon = self.profile.horizon;
        for _ in 0..CHECKS {
            let at = self.rng.fork.below(horizon);
            self.at(at, Happening::Check);
        }
        for _ in 0..FORKS {
            let at = self.rng.fork.below(horizon);
            self.at(at, Happening::Fork);
        }
    }

    pub(crate) fn on_check(&mut self) {
        for volume in 0..self.volumes() {
            let facts = [0, 1].map(|node| self.facts(node, volume));
            let [Some(a), Some(b)] = facts else { continue };
            if a.is_in_sync() && b.is_in_sync() {
                self.check_same(volume, "while connected");
            } else if a.is_connected() && b.is_connected() {
                self.check_marked(volume);
            }
        }
    }

    /// Blocks that differ and that nobody is working on.
    fn differing(&self, volume: usize) -> Vec<u64> {
        let usable = self.layouts[volume].usable_sectors;
        let [a, b] = [0, 1].map(|node| &self.nodes[node].disks[volume].view);
        a.differing_blocks(b, usable).into_iter().filter(|&block| !self.is_busy(volume, block)).collect()
    }

    pub(crate) fn check_same(&mut self, volume: usize, when: &str) {
        self.count("checks: identical");
        if let Some(&block) = self.differing(volume).first()
            && !self.watch.void
        {
            let text = self.describe_block(volume, block);
            self.fail("D5", format!("both copies claim to be good {when}, and block {block} differs: {text}"));
        }
    }

    fn check_marked(&mut self, volume: usize) {
        self.count("checks: marked");
        let is_marked = |world: &Self, block: u64| {
            let marks = |node: usize| {
                let process = world.nodes[node].process.as_ref();
                process.is_some_and(|process| is_dirty(&process.resource, volume, block))
            };
            marks(0) || marks(1)
        };
        let missed = self.differing(volume).into_iter().find(|&block| !is_marked(self, block));
        if let Some(block) = missed {
            // While a disk is being attached its activity log has not been applied.
            let is_attached = |node| self.facts(node, volume).is_some_and(|it| it.disk >= DiskState::Negotiating);
            let has_disks = (0..2).all(is_attached);
            if has_disks && !self.watch.void {
                let text = self.describe_block(volume, block);
                self.fail("D4", format!("connected, block {block} differs and is dirty in neither bitmap: {text}"));
            }
        }
    }

    fn describe_block(&self, volume: usize, block: u64) -> String {
        let mut lines = Vec::new();
        for sector in block * BLOCK..block * BLOCK + BLOCK {
            let seen = [0, 1].map(|node| {
                let view = &self.nodes[node].disks[volume].view;
                crate::oracle::look(sector, view.sector(sector))
            });
            if seen[0] != seen[1] {
                lines.push(format!("sector {sector}: {} {:?}, {} {:?}", name(0), seen[0], name(1), seen[1]));
            }
        }
        lines.join("; ")
    }

    pub(crate) fn on_fork(&mut self) {
        if self.watch.void || self.nodes.iter().any(|node| node.disks.iter().any(|disk| disk.dead)) {
            return;
        }
        for volume in 0..self.volumes() {
            self.count("forks");
            let layout = self.layouts[volume];
            let metadata = self.profile.metadata_device(volume);
            let mut disks = [0, 1].map(|node| self.nodes[node].disks[volume].clone());
            let mut external =
                (metadata != volume).then(|| [0, 1].map(|node| self.nodes[node].disks[metadata].clone()));
            for node in 0..2 {
                if let Some(external) = &mut external {
                    let proves = external[node].lose_power(&mut self.rng.fork).proves;
                    disks[node].stabilise(proves);
                }
                disks[node].lose_power(&mut self.rng.fork);
            }
            let metadata = external.as_ref().unwrap_or(&disks);
            let decoded = [0, 1].map(|node| decode(&metadata[node].view, &layout, metadata[node].bytes, node));
            let [a, b] = match decoded {
                [Ok(a), Ok(b)] => [a, b],
                [Err(text), _] | [_, Err(text)] => return self.fail("M1", format!("after a power loss: {text}")),
            };
            if !a.is_fresh() && !b.is_fresh() {
                self.check_fork(volume, [&a, &b], [&disks[0].view, &disks[1].view]);
            }
        }
    }

    fn check_fork(&mut self, volume: usize, forks: [&Forked; 2], views: [&crate::contents::Contents; 2]) {
        let found = verdict(forks);
        let story = || format!("volume {volume}, alice: {}; bob: {}", forks[0].describe(), forks[1].describe());
        let usable = self.layouts[volume].usable_sectors;
        let differing = views[0].differing_blocks(views[1], usable);
        let consistent = forks.iter().any(|fork| fork.is_consistent());
        match found {
            Verdict::NoSync if consistent => {
                if let Some(block) = differing.first() {
                    let text =
                        format!("after a power loss of both, no sync is due but block {block} differs; {}", story());
                    return self.fail("G5", text);
                }
            }
            Verdict::Bitmap(_) if consistent => {
                let missed = differing.iter().find(|&&block| !forks.iter().any(|fork| fork.is_dirty(block)));
                if let Some(block) = missed {
                    let text =
                        format!("after a power loss of both, block {block} differs and is dirty nowhere; {}", story());
                    return self.fail("D4", text);
                }
            }
            Verdict::SplitBrain | Verdict::Unrelated => {
                let real = self.oracle.copies[volume].iter().all(|copy| copy.alone);
                if !real && !self.operator.gave_up_data {
                    return self.fail("G2", format!("after a power loss of both: {found:?}, falsely; {}", story()));
                }
            }
            _ => {}
        }
        if let Verdict::Bitmap(source) | Verdict::Full(source) = found {
            self.check_direction(volume, 1 - source, forks, views, "after a power loss of both");
        }
        for who in 0..2 {
            let promotable = forks[who].is_up_to_date();
            if let Verdict::Bitmap(source) | Verdict::Full(source) = verdict_if_promoted(forks, who)
                && promotable
                && source == who
            {
                let when = format!("after a power loss of both and a promotion of {}", name(who));
                self.check_direction(volume, 1 - who, forks, views, &when);
            }
        }
    }

    fn check_direction(
        &mut self,
        volume: usize,
        target: usize,
        forks: [&Forked; 2],
        views: [&crate::contents::Contents; 2],
        when: &str,
    ) {
        if !forks[target].is_consistent() || self.oracle.copies[volume][target].given_up {
            return;
        }
        if let Some((sector, id)) = self.oracle.exclusive(volume, target, views).first() {
            let text = format!(
                "{when} {} would be target although it alone holds w{id} in sector {sector}; alice: {}; bob: {}",
                name(target),
                forks[0].describe(),
                forks[1].describe()
            );
            self.fail("G4", text);
        }
    }

    /// The end of the world: everything is whole, stable and forgotten.
    pub(crate) fn check_end(&mut self) {
        for volume in 0..self.volumes() {
            self.check_same(volume, "at the end");
            self.check_nothing_lost(volume);
            let facts = [0, 1].map(|node| self.facts(node, volume));
            let [Some(a), Some(b)] = facts else { return };
            for (node, facts) in [(0, a), (1, b)] {
                // A handshake that finds nothing to sync keeps bits that a crash or a cut-off invalidation left behind.
                if facts.dirty != Some(0) && self.watch.resynced[volume] {
                    self.fail("G5", format!("{} has {:?} dirty blocks at the end", name(node), facts.dirty));
                }
                if facts.pinned != 0 || facts.requests != 0 {
                    let (pinned, requests) = (facts.pinned, facts.requests);
                    let text = format!("{}: {pinned} extents pinned, {requests} requests at the end", name(node));
                    self.fail("L1", text);
                }
            }
            if a.current.map(|id| id.masked()) != b.current.map(|id| id.masked()) {
                self.fail("G5", format!("generations differ at the end: {:?} and {:?}", a.current, b.current));
            }
            self.check_end_on_disk(volume);
        }
        self.on_fork();
    }

    /// Every sector of both copies holds what applications were promised.
    fn check_nothing_lost(&mut self, volume: usize) {
        if self.watch.void {
            return;
        }
        self.count("checks: nothing lost");
        for node in 0..2 {
            let view = &self.nodes[node].disks[volume].view;
            if let Some((sector, seen, ids)) = self.oracle.illegal(volume, node, view) {
                let text = format!("at the end sector {sector} of {} holds {seen:?}; legal is {ids:?}", name(node));
                return self.fail("D3", text);
            }
        }
    }

    fn check_end_on_disk(&mut self, volume: usize) {
        let layout = self.layouts[volume];
        let mut ids = Vec::new();
        for node in 0..2 {
            let disk = self.nodes[node].metadata(&self.profile, volume);
            match crate::fork::superblock(&disk.stable, &layout, disk.bytes) {
                Err(text) => return self.fail("M1", text),
                Ok(superblock) => {
                    let index = if superblock.format == shimai::metadata::layout::Format::V08 { 0 } else { 1 - node };
                    let generations = &superblock.generations;
                    ids.push((generations.current.masked(), generations.bitmap[index].masked()));
                }
            }
        }
        if ids[0] != ids[1] || ids[0].1 != 0 {
            self.fail("G5", format!("current and bitmap generations on disk at the end: {ids:x?}"));
        }
    }
}

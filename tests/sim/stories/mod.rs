//! Short named stories: what a person would tell of a pair, played on the same world with the laws switched on.

mod abilities;
mod failover;
mod given_up;
mod last_words;
mod meeting;
mod operator;
mod resync;
mod verify;
mod writes;

use shimai::model::state::{ConnectionState, DiskState, Role};
use shimai::replica::event::Command;

use crate::machine::Facts;
use crate::profile::{Profile, SECOND};
use crate::world::World;

/// Plays on a world in which nothing happens by itself.
struct Story {
    world: World,
}

impl Story {
    /// Two nodes that were in sync before, or two blank ones.
    fn begin(seed: u64, mebibytes: u64, born_in_sync: bool) -> Self {
        Self::begin_with(Profile::calm(seed, mebibytes, born_in_sync))
    }

    fn begin_with(profile: Profile) -> Self {
        let mut world = World::new(profile, true);
        world.operator.idle = true;
        world.start(0);
        world.start(1);
        let mut story = Self { world };
        story.bring_up(0);
        story.bring_up(1);
        story
    }

    /// Two nodes that are in sync; the first is Primary.
    fn serving(profile: Profile) -> Self {
        let mut story = Self::begin_with(profile);
        story.until_in_sync();
        story.promote(0, false);
        story
    }

    /// The same, and the second has been without power while the first wrote the first block of each of these.
    fn with_a_laggard(profile: Profile, places: &[u64]) -> Self {
        let mut story = Self::serving(profile);
        story.lose_power(1);
        story.until_parted(0);
        places.iter().for_each(|&place| {
            story.write(0, place, 8);
        });
        story.until_answered();
        story
    }

    fn bring_up(&mut self, node: usize) {
        for volume in 0..self.world.volumes() {
            self.world.attach(node, volume);
        }
        self.world.connect(node);
    }

    /// Runs until it is so; a law broken or two minutes without it end the story.
    fn until(&mut self, what: &str, is_so: impl Fn(&World) -> bool) {
        let deadline = self.world.now + 120 * SECOND;
        while !is_so(&self.world) {
            if !self.world.step(deadline) {
                self.tell();
                let failure = self.world.failure.clone();
                let facts = [0, 1].map(|node| self.world.facts(node, 0));
                panic!("never: {what}; {failure:?}; {facts:?}");
            }
        }
    }

    fn run_for(&mut self, time: u64) {
        let until = self.world.now + time;
        while self.world.step(until) {}
        self.check();
    }

    fn check(&self) {
        if let Some(failure) = &self.world.failure {
            self.tell();
            panic!("{}: {}", failure.law, failure.what);
        }
    }

    fn tell(&self) {
        self.world.timeline.iter().rev().take(80).rev().for_each(|line| println!("{line}"));
    }

    fn until_in_sync(&mut self) {
        self.until("in sync", World::is_whole);
    }

    fn promote(&mut self, node: usize, force: bool) {
        self.world.watch.forced |= force;
        self.world.command(node, Command::Primary { force });
        self.until("Primary", |world| world.facts(node, 0).is_some_and(|facts| facts.role == Role::Primary));
        self.world.open(node, 0);
    }

    fn write(&mut self, node: usize, start: u64, sectors: u64) -> u64 {
        self.world.write(node, 0, (start, start + sectors), false)
    }

    fn until_answered(&mut self) {
        self.until("all answered", |world| world.client.outstanding.is_empty());
    }

    /// The power fails and stays away until `start`.
    fn lose_power(&mut self, node: usize) {
        self.world.lose_power(node, Some(u64::MAX / 8));
    }

    fn start(&mut self, node: usize) {
        self.world.start(node);
        self.until_device_free(node);
        self.bring_up(node);
    }

    /// Nothing that the node began on its disk is under way any more.
    fn until_device_free(&mut self, node: usize) {
        self.until("device free", |world| world.nodes[node].is_idle(&world.profile, 0));
    }

    /// The operator's commands are answered.
    fn until_obeyed(&mut self) {
        self.until("answered", |world| world.operator.is_answered());
    }

    fn until_connected(&mut self, node: usize) {
        self.until("connected", |world| world.facts(node, 0).is_some_and(|facts| facts.is_connected()));
    }

    fn is_state(&mut self, node: usize, connection: ConnectionState) {
        self.until(&format!("{connection}"), |world| {
            world.facts(node, 0).is_some_and(|facts| facts.connection == connection)
        });
    }

    /// The node has noticed that the other one is gone.
    fn until_parted(&mut self, node: usize) {
        self.until("the loss noticed", |world| world.facts(node, 0).is_some_and(|facts| !facts.is_connected()));
    }

    fn until_disk(&mut self, node: usize, disk: DiskState) {
        self.until(&format!("{disk}"), |world| world.facts(node, 0).is_some_and(|facts| facts.disk == disk));
    }

    fn command(&mut self, node: usize, command: Command) {
        self.world.command(node, command);
    }

    /// The node's disk goes, while it stays connected.
    fn take_disk(&mut self, node: usize) {
        self.command(node, Command::Detach { volume: 0, force: true });
        let detached = |world: &World| {
            let diskless = world.facts(node, 0).is_some_and(|facts| facts.disk == DiskState::Diskless);
            diskless && world.nodes[node].is_idle(&world.profile, 0)
        };
        self.until("detached", detached);
    }

    fn facts(&self, node: usize) -> Facts {
        self.world.facts(node, 0).expect("it is up")
    }

    fn is_dirty(&self, node: usize, block: u64) -> bool {
        let process = self.world.nodes[node].process.as_ref().expect("it is up");
        crate::machine::is_dirty(&process.resource, 0, block)
    }

    /// It must be so, now.
    fn expect(&self, is_so: bool, what: &str) {
        self.check();
        if !is_so {
            self.tell();
            let facts = [0, 1].map(|node| self.world.facts(node, 0).map(|facts| facts.short()));
            panic!("not so: {what}; {facts:?}");
        }
    }

    /// Operations that the disk begins from now on take that long, those under way are not touched.
    fn slow_down(&mut self, node: usize, time: u64) {
        self.world.nodes[node].stalled_until = self.world.now + time;
    }

    fn speed_up(&mut self, node: usize) {
        self.world.nodes[node].stalled_until = 0;
    }

    fn acked(&self, id: u64) -> bool {
        self.world.oracle.record(id).is_some_and(|record| record.acked)
    }

    fn end(mut self) {
        self.until_in_sync();
        self.run_for(5 * SECOND);
        self.world.check_end();
        self.check();
    }
}

//! Short named stories: what a person would tell of a pair, played on the same world with the laws switched on.

mod failover;
mod meeting;
mod resync;
mod writes;

use shimai::model::state::{ConnectionState, DiskState, Role};
use shimai::replica::event::Command;

use crate::profile::{Fault, MICROSECOND, MILLISECOND, Profile, SECOND};
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

    fn bring_up(&mut self, node: usize) {
        for volume in 0..self.world.volumes() {
            self.world.attach(node, volume);
        }
        self.world.connect(node);
    }

    /// Runs until it is so; a law broken or a minute without it ends the story.
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
        self.until("device free", |world| world.nodes[node].is_idle(&world.profile, 0));
        self.bring_up(node);
    }

    fn is_state(&mut self, node: usize, connection: ConnectionState) {
        self.until(&format!("{connection}"), |world| {
            world.facts(node, 0).is_some_and(|facts| facts.connection == connection)
        });
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

//! Short named stories: what a person would tell of a pair, played on the same world with the laws switched on.

use shimai::model::state::{ConnectionState, DiskState, Role};
use shimai::replica::event::{Command, Event};
use shimai::replica::settings::ResyncSettings;

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

#[test]
fn first_sync() {
    let mut story = Story::begin(11, 6, false);
    story.until("connected", |world| world.facts(0, 0).is_some_and(|facts| facts.is_connected()));
    story.promote(0, true);
    let id = story.write(0, 100, 16);
    story.until_answered();
    assert!(story.acked(id));
    story.end();
}

#[test]
fn writes_reach_both_disks() {
    for seed in 0..10 {
        let mut story = Story::begin(seed, 16, true);
        story.until_in_sync();
        story.promote(0, false);
        for index in 0..40 {
            story.write(0, index % 7 * 5, 16);
        }
        story.world.flush(0, 0);
        story.until_answered();
        story.end();
    }
}

#[test]
fn write_crash_failover() {
    for seed in 20..30 {
        let mut story = Story::begin(seed, 16, true);
        story.until_in_sync();
        story.promote(0, false);
        let ids: Vec<u64> = (0..20).map(|index| story.write(0, index * 3, 8)).collect();
        story.until_answered();
        story.lose_power(0);
        story.until("the loss noticed", |world| world.facts(1, 0).is_some_and(|facts| !facts.is_connected()));
        story.promote(1, false);
        story.world.read(1, 0, (0, 64));
        story.write(1, 4, 8);
        story.until_answered();
        assert!(ids.iter().all(|&id| story.acked(id)));
        story.start(0);
        story.end();
    }
}

#[test]
fn a_secondary_that_was_away_gets_what_it_missed() {
    for seed in 30..36 {
        let mut story = Story::begin(seed, 32, true);
        story.until_in_sync();
        story.promote(0, false);
        story.write(0, 0, 8);
        story.until_answered();
        story.lose_power(1);
        story.until("the loss noticed", |world| world.facts(0, 0).is_some_and(|facts| !facts.is_connected()));
        for index in 0..10 {
            story.write(0, index * 2000, 24);
        }
        story.until_answered();
        story.start(1);
        story.end();
    }
}

#[test]
fn split_brain_ends_standalone() {
    for seed in 40..46 {
        let mut story = Story::begin(seed, 16, true);
        story.until_in_sync();
        story.promote(0, false);
        story.world.network.blocked = [true; 2];
        story.write(0, 0, 8);
        story.until("noticed", |world| {
            (0..2).all(|node| world.facts(node, 0).is_some_and(|facts| !facts.is_connected()))
        });
        story.until_answered();
        story.promote(1, false);
        story.write(1, 40, 8);
        story.until_answered();
        story.world.network.blocked = [false; 2];
        story.until("refused", |world| {
            (0..2).any(|node| world.facts(node, 0).is_some_and(|facts| facts.connection == ConnectionState::StandAlone))
        });
        story.run_for(10 * SECOND);
        let connected = (0..2).any(|node| story.world.facts(node, 0).is_some_and(|facts| facts.is_connected()));
        assert!(!connected, "a split brain must not be connected over");
    }
}

#[test]
fn resync_interrupted_resumes() {
    for seed in 50..56 {
        let mut story = Story::begin(seed, 8, false);
        let is_fresh = |facts: crate::machine::Facts| {
            facts.is_connected() && facts.disk == DiskState::Inconsistent && facts.peer_disk == DiskState::Inconsistent
        };
        story.until("both disks attached", |world| (0..2).all(|node| world.facts(node, 0).is_some_and(is_fresh)));
        story.promote(0, true);
        story.write(0, 100, 16);
        story.is_state(1, ConnectionState::SyncTarget);
        story.run_for(40 * MILLISECOND);
        let was_syncing = story.world.facts(1, 0).is_some_and(|facts| facts.disk == DiskState::Inconsistent);
        story.world.cut(Fault::Cut);
        story.run_for(100 * MILLISECOND);
        if was_syncing {
            story.lose_power(1);
            story.run_for(SECOND);
            story.start(1);
        }
        story.end();
    }
}

#[test]
fn a_target_that_comes_and_goes_before_a_slow_source_is_ready_is_still_related() {
    for seed in 60..63 {
        let mut story = Story::begin(seed, 16, true);
        story.until_in_sync();
        story.promote(0, false);
        story.write(0, 0, 8);
        story.until_answered();
        let detached = |world: &World| {
            world.facts(1, 0).is_some_and(|facts| facts.disk == DiskState::Diskless)
                && world.nodes[1].disks[0].is_idle()
        };
        for round in 0..4 {
            story.world.command(1, Command::Detach { volume: 0, force: true });
            story.until("detached", detached);
            if round == 0 {
                story.write(0, 0, 8);
                story.until_answered();
                story.world.nodes[0].stalled_until = story.world.now + 3 * SECOND;
            }
            story.world.attach(1, 0);
            story.is_state(1, ConnectionState::WfSyncUuid);
        }
        // It does not hear of the resync's beginning either.
        story.world.nodes[1].stalled_until = story.world.now + 10 * SECOND;
        story.is_state(0, ConnectionState::SyncSource);
        story.lose_power(1);
        story.run_for(SECOND);
        story.start(1);
        story.end();
    }
}

#[test]
fn an_old_disk_that_meets_a_node_without_one_stays_old() {
    for seed in 64..67 {
        let mut story = Story::begin(seed, 16, true);
        story.until_in_sync();
        story.promote(0, false);
        story.lose_power(1);
        story.until("the loss noticed", |world| world.facts(0, 0).is_some_and(|facts| !facts.is_connected()));
        story.write(0, 0, 8);
        story.until_answered();
        story.world.nodes[0].stalled_until = story.world.now + 3 * SECOND;
        story.start(1);
        story.is_state(1, ConnectionState::WfSyncUuid);
        story.world.command(0, Command::Detach { volume: 0, force: true });
        story.world.cut(Fault::Cut);
        story.run_for(2 * SECOND);
        let facts = story.world.facts(1, 0).expect("it runs");
        assert!(facts.disk < DiskState::UpToDate, "{}", facts.short());
        story.until("device free", |world| world.nodes[0].disks[0].is_idle());
        story.run_for(100 * MILLISECOND);
        story.world.attach(0, 0);
        story.until("back", |world| world.facts(0, 0).is_some_and(|facts| facts.disk == DiskState::UpToDate));
        story.world.command(0, Command::Connect { discard_my_data: false });
        story.end();
    }
}

#[test]
fn disks_that_come_during_the_handshake_are_compared() {
    for seed in 70..76 {
        let mut story = Story::begin(seed, 16, true);
        story.until_in_sync();
        story.promote(0, false);
        story.lose_power(1);
        story.until("the loss noticed", |world| world.facts(0, 0).is_some_and(|facts| !facts.is_connected()));
        story.write(0, 0, 8);
        story.until_answered();
        story.lose_power(0);
        for node in 0..2 {
            story.until("device free", |world| world.nodes[node].disks[0].is_idle());
            story.world.start(node);
            story.world.connect(node);
        }
        let shaking_hands = |world: &World| {
            (0..2).all(|node| {
                world.facts(node, 0).is_some_and(|facts| facts.connection == ConnectionState::WfReportParams)
            })
        };
        story.until("both know each other", shaking_hands);
        // Each has told the other of no disk, and neither has heard it.
        story.run_for(60 * MICROSECOND);
        let stall = story.world.now + SECOND;
        story.world.network.links.values_mut().for_each(|link| link.stalled_until = stall);
        (0..2).for_each(|node| story.world.attach(node, 0));
        story.end();
    }
}

/// The target's disk is busy while the source, for whom the resync has begun, mirrors a write; then the connection is gone.
#[test]
fn a_write_of_a_resync_that_was_never_named_stays_off_the_disk() {
    for seed in 60..66 {
        let mut story = Story::begin(seed, 16, true);
        story.until_in_sync();
        story.promote(0, false);
        story.lose_power(1);
        story.until("the loss noticed", |world| world.facts(0, 0).is_some_and(|facts| !facts.is_connected()));
        (0..5).for_each(|index| {
            story.write(0, index * 64, 8);
        });
        story.until_answered();
        story.start(1);
        story.is_state(1, ConnectionState::WfSyncUuid);
        let now = story.world.now;
        story.world.nodes[1].stalled_until = now + 2 * SECOND;
        story.is_state(0, ConnectionState::SyncSource);
        story.write(0, 4000, 8);
        story.run_for(100 * MILLISECOND);
        assert_eq!(story.world.facts(1, 0).map(|facts| facts.connection), Some(ConnectionState::WfSyncUuid));
        story.world.cut(Fault::Cut);
        story.run_for(SECOND);
        story.end();
    }
}

/// A flush closes an epoch whose writes are still under way on a disk that is being detached.
#[test]
fn an_epoch_of_a_disk_that_is_being_detached_is_flushed_before_it_is_confirmed() {
    for seed in 70..90 {
        let mut story = Story::begin(seed, 16, true);
        story.until_in_sync();
        story.promote(0, false);
        story.write(0, 100, 8);
        story.until_answered();
        let now = story.world.now;
        story.world.nodes[1].stalled_until = now + SECOND;
        story.write(0, 5000, 8);
        story.world.flush(0, 0);
        story.run_for(100 * MILLISECOND);
        story.world.command(1, Command::Detach { volume: 0, force: false });
        story.until_answered();
        story.until("the epoch is confirmed", |world| world.facts(0, 0).is_some_and(|facts| facts.pinned == 0));
        story.lose_power(1);
        story.until("the loss noticed", |world| world.facts(0, 0).is_some_and(|facts| !facts.is_connected()));
        story.start(1);
        story.end();
    }
}

#[test]
fn a_disk_that_was_never_whole_cannot_be_outdated() {
    let mut story = Story::begin(91, 6, false);
    story.until("connected", |world| world.facts(0, 0).is_some_and(|facts| facts.is_connected()));
    story.world.command(0, Command::Outdate { volume: 0 });
    story.run_for(5 * SECOND);
    let disks = [0, 1].map(|node| story.world.facts(node, 0).map(|facts| facts.disk));
    assert_eq!(disks, [Some(DiskState::Inconsistent); 2]);
}

/// Whoever asked has gone away before the peer's consent comes.
#[test]
fn a_promotion_that_nobody_waits_for_does_not_come_true() {
    for seed in 92..98 {
        let mut story = Story::begin(seed, 6, true);
        story.until_in_sync();
        let now = story.world.now;
        story.world.network.links.values_mut().for_each(|link| link.stalled_until = now + 200 * MILLISECOND);
        let id = story.world.command(0, Command::Primary { force: false });
        story.run_for(20 * MILLISECOND);
        story.world.deliver(0, Event::CommandGivenUp(id.expect("it is up")));
        story.run_for(5 * SECOND);
        for node in 0..2 {
            let facts = story.world.facts(node, 0).expect("it is up");
            assert_eq!((facts.role, facts.peer_role), (Role::Secondary, Role::Secondary), "seed {seed}, node {node}");
        }
        // And it is no obstacle to the next one.
        story.promote(0, false);
        story.end();
    }
}

/// A disk that takes nothing for a while does not make its node take the whole stream into memory.
#[test]
fn a_secondary_with_a_slow_disk_stops_reading_and_goes_on() {
    let mut stopped = 0;
    for seed in 100..110 {
        let mut story = Story::begin(seed, 64, true);
        story.until_in_sync();
        story.promote(0, false);
        let now = story.world.now;
        story.world.nodes[1].stalled_until = now + 900 * MILLISECOND;
        for index in 0..2500 {
            story.write(0, index * 16, 8);
        }
        let is_stopped =
            |world: &World| world.network.links.values().any(|link| link.ends.iter().any(|end| end.throttled));
        while story.world.now < now + 800 * MILLISECOND && !is_stopped(&story.world) {
            story.world.step(now + 800 * MILLISECOND);
        }
        story.check();
        stopped += u32::from(is_stopped(&story.world));
        story.until_answered();
        story.end();
    }
    assert!(stopped > 0, "no link was fast enough to be stopped");
}

/// The peer answers pings, but a read that a diskless Primary has asked it for never ends.
#[test]
fn a_peer_that_does_not_answer_a_read_is_knocked_out() {
    for seed in 110..114 {
        let mut story = Story::begin(seed, 6, true);
        story.until_in_sync();
        story.promote(0, false);
        story.write(0, 0, 16);
        story.until_answered();
        story.world.command(0, Command::Detach { volume: 0, force: false });
        story.until("no disk", |world| world.facts(0, 0).is_some_and(|facts| facts.disk == DiskState::Diskless));
        let stalled_until = story.world.now + 60 * SECOND;
        story.world.nodes[1].stalled_until = stalled_until;
        story.world.read(0, 0, (0, 8));
        story.until("knocked out", |world| world.facts(0, 0).is_some_and(|facts| !facts.is_connected()));
        assert!(story.world.now < stalled_until, "seed {seed}: only the end of the read ended the wait");
        story.until_answered();
        story.run_for(60 * SECOND);
        story.world.attach(0, 0);
        story.end();
    }
}

/// The other node's blank disk comes up at the very moment in which this one's data is declared good.
#[test]
fn a_disk_that_comes_while_the_other_is_forced_gets_its_data() {
    for seed in 130..200 {
        let mut story = Story::begin(seed, 6, false);
        let node = (seed % 2) as usize;
        story.until("connected, with a disk", |world| {
            world.facts(node, 0).is_some_and(|facts| facts.is_connected() && facts.disk == DiskState::Inconsistent)
        });
        story.run_for(seed % 7 * 200 * MICROSECOND);
        story.promote(node, true);
        story.end();
    }
}

/// The source's operator asked for a slow resync, the target's for a fast one: the peer's word counts, on either side.
#[test]
fn a_resync_keeps_the_pace_that_the_peer_told() {
    for (seed, slow_node) in [(120, 0), (121, 1)] {
        let mut profile = Profile::calm(seed, 6, false);
        profile.own_pace(1 - slow_node, ResyncSettings { rate_kib: 200_000, plan_ahead: 0, ..PACE });
        profile.own_pace(slow_node, ResyncSettings { rate_kib: 300, plan_ahead: 0, ..PACE });
        let mut story = Story::begin_with(profile);
        story.until("connected", |world| world.facts(0, 0).is_some_and(|facts| facts.is_connected()));
        story.promote(0, true);
        let since = story.world.now;
        story.until_in_sync();
        let seconds = (story.world.now - since) / SECOND;
        // Node 1 is the target, and asks as node 0 told it: 6 MiB.
        assert_eq!(seconds >= 15, slow_node == 0, "seed {seed}: {seconds} s");
        story.end();
    }
}

const PACE: ResyncSettings = ResyncSettings {
    rate_kib: 0,
    plan_ahead: 0,
    delay_target: 10,
    fill_target: 100,
    max_rate_kib: 400_000,
    min_rate_kib: 0,
};

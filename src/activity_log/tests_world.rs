//! A log driven at random beside a ring of records that is replayed after every step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;

/// A small generator (SplitMix64), so that a failing seed is a story that can be told again.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ bits >> 31) >> 32) as u32 % end
    }
}

/// The ring on disk: a block is a whole record, or nothing that counts.
#[derive(Clone)]
struct Ring(Vec<Option<Plan>>);

impl Ring {
    fn place(&self, plan: &Plan) -> usize {
        plan.number as usize % self.0.len()
    }

    fn with(&self, plan: &Plan, block: Option<Plan>) -> Self {
        let mut ring = self.clone();
        ring.0[self.place(plan)] = block;
        ring
    }

    /// What a recovery finds hot: from the oldest record to the youngest, context first, then updates.
    fn replay(&self) -> BTreeSet<ExtentIndex> {
        let mut records: Vec<&Plan> = self.0.iter().flatten().collect();
        let Some(reference) = records.first().map(|record| record.number) else { return BTreeSet::new() };
        records.sort_by_key(|record| record.number.wrapping_sub(reference) as i32);
        let mut slots = BTreeMap::new();
        for record in records {
            for (slot, &content) in (record.context_start..).zip(&record.context) {
                slots.insert(slot, content);
            }
            slots.extend(record.updates.iter().map(|&(slot, extent)| (slot, Some(extent))));
        }
        slots.into_values().flatten().collect()
    }
}

type Range = (ExtentIndex, ExtentIndex);

fn overlap(one: Range, other: Range) -> bool {
    one.0 <= other.1 && other.0 <= one.1
}

/// The log and everything about it that is obvious.
struct World {
    log: ActivityLog,
    ring: Ring,
    random: Random,
    device_extents: u32,
    waiting: VecDeque<(u64, Range)>,
    running: Vec<Range>,
    held: Vec<Range>,
    writing: Option<Plan>,
    tokens: u64,
}

impl World {
    fn new(seed: u64, slots: u16, blocks: usize, device_extents: u32) -> Self {
        let first_number = u32::MAX - 5;
        Self {
            log: ActivityLog::new(slots, first_number),
            ring: Ring(vec![None; blocks]),
            random: Random(seed),
            device_extents,
            waiting: VecDeque::new(),
            running: Vec::new(),
            held: Vec::new(),
            writing: None,
            tokens: 0,
        }
    }

    fn range(&mut self) -> Range {
        let length = if self.random.below(4) == 0 { self.random.below(17) } else { 0 };
        // Most writes hit few extents.
        let reach = if self.random.below(2) == 0 { 20 } else { self.device_extents - 17 };
        let first = self.random.below(reach);
        (ExtentIndex(first), ExtentIndex(first + length))
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0..=5 => self.begin(),
            6..=8 => self.complete(),
            9 | 10 => self.plan(),
            11 | 12 => self.end_record(),
            13 => self.hold(),
            14 => self.release(),
            _ => self.cancel(),
        }
        self.check();
    }

    fn begin(&mut self) {
        let range = self.range();
        self.tokens += 1;
        match self.log.begin(self.tokens, range.0, range.1) {
            Begin::Hot => self.start(range),
            Begin::Queued => self.waiting.push_back((self.tokens, range)),
        }
    }

    fn start(&mut self, range: Range) {
        assert!(!self.held.iter().any(|&held| overlap(held, range)), "no write begins where resync holds");
        self.running.push(range);
    }

    fn complete(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let index = self.random.below(self.running.len() as u32) as usize;
        let range = self.running.swap_remove(index);
        self.log.complete(range.0, range.1);
    }

    fn plan(&mut self) {
        let Some(plan) = self.log.next_record() else { return };
        assert!(self.writing.is_none(), "one record at a time");
        assert!((1..=UPDATES_MAX).contains(&plan.updates.len()));
        for &evicted in &plan.evicted {
            assert!(!self.running.iter().any(|&range| overlap(range, (evicted, evicted))), "nobody is in what goes");
        }
        let slots: BTreeSet<u16> = plan.updates.iter().map(|&(slot, _)| slot).collect();
        let extents: BTreeSet<ExtentIndex> = plan.updates.iter().map(|&(_, extent)| extent).collect();
        assert_eq!((slots.len(), extents.len()), (plan.updates.len(), plan.updates.len()), "each named once");
        self.writing = Some(plan);
    }

    fn end_record(&mut self) {
        let Some(plan) = self.writing.take() else { return };
        if self.random.below(8) == 0 {
            let left = [self.ring.0[self.ring.place(&plan)].clone(), None, Some(plan.clone())];
            self.ring = self.ring.with(&plan, left[self.random.below(3) as usize].clone());
            self.log.record_failed();
            return;
        }
        self.ring = self.ring.with(&plan, Some(plan.clone()));
        let mut admitted = Vec::new();
        self.log.record_written(&mut admitted);
        self.admit(admitted);
    }

    fn admit(&mut self, admitted: Vec<u64>) {
        assert!(admitted.is_sorted(), "admitted in the order in which they came");
        for token in admitted {
            let index = self.waiting.iter().position(|&(waiting, _)| waiting == token).expect("it waited");
            let (_, range) = self.waiting.remove(index).expect("just found");
            self.start(range);
        }
    }

    fn hold(&mut self) {
        if self.held.len() < 2 {
            let first = ExtentIndex(self.random.below(self.device_extents / 4) * 4);
            let range = (first, ExtentIndex(first.0 + 3));
            let is_free = self.log.hold(range.0, range.1);
            assert_eq!(is_free, !self.running.iter().any(|&running| overlap(running, range)));
            self.held.push(range);
        }
    }

    fn release(&mut self) {
        let Some(range) = self.held.pop() else { return };
        let expected = self.waiting.iter().any(|&(_, waiting)| overlap(waiting, range));
        assert_eq!(self.log.waiters_on(range.0, range.1), expected);
        let mut admitted = Vec::new();
        self.log.release(range.0, range.1, &mut admitted);
        self.admit(admitted);
    }

    fn cancel(&mut self) {
        if self.random.below(4) == 0
            && let Some((token, _)) = self.waiting.pop_back()
        {
            assert!(self.log.cancel(token));
            assert!(!self.log.cancel(token), "only once");
        }
    }

    /// Whatever a crash leaves of the record being written, recovery names every extent in which a write runs.
    fn check(&self) {
        self.log.check();
        let pinned: BTreeSet<ExtentIndex> = self.running.iter().flat_map(|&range| extents(range.0, range.1)).collect();
        assert_eq!(self.log.pinned_count(), pinned.len());
        assert_eq!(self.log.waiting_count(), self.waiting.len());
        let torn =
            self.writing.iter().flat_map(|plan| [None, Some(plan.clone())].map(|block| self.ring.with(plan, block)));
        for ring in torn.chain([self.ring.clone()]) {
            let found = ring.replay();
            assert!(pinned.is_subset(&found), "lost: {:?}", pinned.difference(&found).collect::<Vec<_>>());
            assert!(self.writing.is_some() || self.log.hot_extents().all(|extent| found.contains(&extent)));
        }
    }

    /// With disks that work and writes that end, everybody who waits is served.
    fn drain(&mut self) {
        while !self.held.is_empty() {
            self.release();
        }
        for _ in 0..10_000 {
            if self.waiting.is_empty() && self.running.is_empty() && self.writing.is_none() {
                return;
            }
            self.complete();
            self.plan();
            self.end_record();
            self.check();
        }
        panic!("{} requests wait forever", self.waiting.len());
    }
}

#[test]
fn whatever_happens_recovery_names_every_extent_being_written() {
    for seed in 0..10 {
        let mut world = World::new(seed, SLOTS_MIN, [2, 8][seed as usize % 2], 300);
        (0..400).for_each(|_| world.step());
        world.drain();
    }
}

/// The first slots are filled and never change again; nothing but the contexts of later records keeps them known.
#[test]
fn a_context_of_several_windows_covers_a_ring_that_wrapped() {
    let mut world = World::new(1, 2000, 4, 6000);
    let begin = |world: &mut World, index: u32| {
        let range = (ExtentIndex(index * 17), ExtentIndex(index * 17 + 16));
        world.tokens += 1;
        assert_eq!(world.log.begin(world.tokens, range.0, range.1), Begin::Queued);
        world.waiting.push_back((world.tokens, range));
    };
    for index in 0..117 {
        begin(&mut world, index);
        while !world.waiting.is_empty() {
            world.plan();
            world.check();
            world.end_record();
        }
    }
    for index in 117..140 {
        let range = world.running.pop().expect("many run");
        world.log.complete(range.0, range.1);
        begin(&mut world, index);
        while !world.waiting.is_empty() {
            world.plan();
            world.check();
            world.end_record();
        }
    }
    world.drain();
}

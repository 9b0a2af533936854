//! Runs seeds, on all processors; tells what was tried; shrinks what fails.
//!
//! `SHIMAI_SIM_SEEDS=N` how many seeds, `SHIMAI_SIM_BASE=B` from which on, `SHIMAI_SIM_SEED=X` one seed with its timeline.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use nix::time::{ClockId, clock_gettime};

use crate::open::{OPEN, is_open};
use crate::profile::{Fault, MILLISECOND, Profile, SECOND, name};
use crate::rng::mix;
use crate::world::{Failure, Happening, KINDS, World};

/// Longest healing: everything must be whole by then.
const HEALING_MAX: u64 = 300 * SECOND;
/// Events in one seed: more means that something spins.
const EVENTS_MAX: u64 = 1_000_000;
/// Lines of the timeline that a failure prints.
const TAIL: usize = 120;

/// What became of a seed.
pub(crate) struct Outcome {
    pub(crate) failure: Option<Failure>,
    pub(crate) hash: u64,
    pub(crate) events: u64,
    pub(crate) virtual_time: u64,
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) timeline: Vec<String>,
}

std::thread_local! {
    /// Where this thread's last panic was.
    static PANICKED_AT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics inside a world are results; only their place is noted.
fn hear_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            let ours = place.starts_with("tests/sim/runner") || place.starts_with("tests/sim/stories");
            PANICKED_AT.with(|last| last.replace(place));
            if ours {
                usual(info);
            }
        }));
    });
}

/// Both phases of a world.
pub(crate) fn run(profile: Profile, verbose: bool) -> Outcome {
    hear_panics();
    let mut world = World::new(profile, verbose);
    let result = catch_unwind(AssertUnwindSafe(|| {
        live(&mut world);
        heal(&mut world);
    }));
    if let Err(panic) = result {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let place = PANICKED_AT.with(|place| place.take());
        let what = format!("{} ({place})", text.unwrap_or_else(|| "of unknown kind".into()));
        world.failure = Some(Failure { law: "PANIC", what });
    }
    Outcome {
        failure: world.failure.take(),
        hash: world.hash,
        events: world.events,
        virtual_time: world.now,
        counts: std::mem::take(&mut world.counts),
        timeline: world.timeline.into_iter().collect(),
    }
}

/// The phase with faults.
fn live(world: &mut World) {
    for node in 0..2 {
        let delay = world.rng.operator.spread(1, 100 * MILLISECOND);
        world.after(delay, Happening::Restart { node });
    }
    world.after(MILLISECOND, Happening::Manage);
    world.begin_load();
    world.begin_faults();
    world.begin_checks();
    let horizon = world.profile.horizon;
    while world.step(horizon) && within_events(world) {}
}

/// Faults stop; everything must become whole.
fn heal(world: &mut World) {
    if world.failure.is_some() {
        return;
    }
    world.heal();
    let deadline = world.now + HEALING_MAX;
    while !world.is_whole() {
        if !world.step(deadline) || !within_events(world) {
            break;
        }
    }
    if world.failure.is_none() && !world.is_whole() {
        let text = describe(world);
        world.fail("L1", format!("not whole {} s after the last fault: {text}", HEALING_MAX / SECOND));
    }
    let calm = world.now + 6 * SECOND;
    while world.step(calm) && within_events(world) {}
    if world.failure.is_none() {
        world.check_end();
    }
}

fn within_events(world: &mut World) -> bool {
    if world.events > EVENTS_MAX {
        let kinds: Vec<_> = KINDS.iter().zip(world.kinds).collect();
        world.fail("L2", format!("{EVENTS_MAX} events: {kinds:?}"));
    }
    world.failure.is_none()
}

fn describe(world: &World) -> String {
    let mut lines = Vec::new();
    for node in 0..2 {
        for volume in 0..world.volumes() {
            let text = world.facts(node, volume).map_or("down".into(), |facts| format!("{} {facts:?}", facts.short()));
            lines.push(format!("{}/{volume}: {text}", name(node)));
        }
    }
    let requests: Vec<String> =
        world.client.outstanding.iter().map(|(id, it)| format!("{id} {:?}", it.asked)).collect();
    lines.push(format!("requests unanswered: {}", requests.join(", ")));
    lines.push(format!("unanswered commands: {:?}", world.operator.unanswered()));
    lines.join("; ")
}

impl World {
    /// Both connected and good, nobody waits for anything.
    pub(crate) fn is_whole(&self) -> bool {
        self.client.outstanding.is_empty()
            && self.operator.is_answered()
            && (0..2).all(|node| {
                (0..self.volumes()).all(|volume| {
                    self.nodes[node].is_idle(&self.profile, volume)
                        && self.facts(node, volume).is_some_and(|facts| facts.is_in_sync() && facts.requests == 0)
                })
            })
    }
}

/// Seeds and what became of them, together.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) seeds: u64,
    events: u64,
    virtual_time: u64,
    counts: BTreeMap<String, u64>,
    /// What all these worlds did, as one number: equal before and after a change that should change nothing.
    trace: u64,
    pub(crate) failures: Vec<(u64, Failure)>,
}

/// A number from the environment.
pub(crate) fn setting(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// Runs `seeds` seeds from `base` on two threads; stops after a few failures.
pub(crate) fn run_many(base: u64, seeds: u64, draw: fn(u64) -> Profile, failures_max: usize) -> Totals {
    let next = AtomicU64::new(base);
    let totals = Mutex::new(Totals::default());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let enough = totals.lock().unwrap_or_else(PoisonError::into_inner).failures.len() >= failures_max;
            if seed >= base + seeds || enough {
                break;
            }
            let outcome = run(draw(seed), false);
            let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
            totals.seeds += 1;
            totals.events += outcome.events;
            totals.virtual_time += outcome.virtual_time;
            totals.trace ^= mix(seed ^ mix(outcome.hash ^ outcome.events));
            for (what, count) in outcome.counts {
                *totals.counts.entry(what).or_default() += count;
            }
            if let Some(failure) = outcome.failure {
                totals.failures.push((seed, failure));
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let mut totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    totals.failures.sort_by_key(|(seed, _)| *seed);
    totals
}

/// Seconds of processor time this process has used.
pub(crate) fn processor_seconds() -> f64 {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)
        .map_or(0.0, |time| time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

impl Totals {
    pub(crate) fn report(&self, processor: f64) {
        let rate = |count: u64| count as f64 / processor.max(0.001);
        println!(
            "{} seeds (trace {:016x}), {:.1} seeds/CPU-s, {:.0} events/CPU-s, {:.0} virtual s/CPU-s, {:.1} CPU-s",
            self.seeds,
            self.trace,
            rate(self.seeds),
            rate(self.events),
            rate(self.virtual_time / SECOND),
            processor
        );
        for (what, count) in &self.counts {
            println!("  {count:>9}  {what}");
        }
        let mut by_law: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (seed, failure) in &self.failures {
            by_law.entry(failure.law).or_default().push(*seed);
        }
        for (law, seeds) in by_law {
            println!("  FAILED {law}: {} seeds, for example {:?}", seeds.len(), &seeds[..seeds.len().min(8)]);
        }
        for (seed, failure) in self.failures.iter().take(12) {
            let what: String = failure.what.chars().take(400).collect();
            println!("  seed {seed}: {}: {what}", failure.law);
        }
    }
}

/// Prints how one seed went; with a failure, the end of its timeline and a smaller form of it.
pub(crate) fn explain(profile: Profile, whole_timeline: bool) {
    let seed = profile.seed;
    println!("{profile:?}");
    let outcome = run(profile.clone(), true);
    let skip = if whole_timeline { 0 } else { outcome.timeline.len().saturating_sub(TAIL) };
    outcome.timeline.iter().skip(skip).for_each(|line| println!("{line}"));
    match outcome.failure {
        None => println!("seed {seed}: well, {} events", outcome.events),
        Some(failure) => {
            println!("seed {seed}: {}: {}", failure.law, failure.what);
            println!("again: SHIMAI_SIM_SEED={seed} cargo test --release --test sim one_seed -- --nocapture");
            let (small, failure) = shrink(profile, failure);
            let kept: Vec<String> = small.faults.keys().map(|fault| fault.name()).collect();
            let (law, horizon) = (failure.law, small.horizon / MILLISECOND);
            println!("still fails ({law}) within {horizon} ms with these faults only: {kept:?}");
        }
    }
}

/// Faults off one by one, then a shorter horizon, as long as something fails.
fn shrink(mut profile: Profile, mut failure: Failure) -> (Profile, Failure) {
    for fault in Fault::ALL {
        let mut smaller = profile.clone();
        if smaller.faults.remove(&fault).is_some()
            && let Some(found) = run(smaller.clone(), false).failure
        {
            (profile, failure) = (smaller, found);
        }
    }
    for _ in 0..6 {
        let mut smaller = profile.clone();
        smaller.horizon = smaller.horizon * 2 / 3;
        match run(smaller.clone(), false).failure {
            Some(found) => (profile, failure) = (smaller, found),
            None => break,
        }
    }
    (profile, failure)
}

#[test]
fn seeds_hold_every_law() {
    let base = setting("SHIMAI_SIM_BASE").unwrap_or(1);
    let default = if cfg!(debug_assertions) { 60 } else { 2000 };
    let seeds = setting("SHIMAI_SIM_SEEDS").unwrap_or(default);
    let before = processor_seconds();
    let totals = run_many(base, seeds, Profile::draw, 20 + OPEN.len());
    totals.report(processor_seconds() - before);
    let (open, new): (Vec<_>, Vec<_>) = totals.failures.iter().partition(|(seed, failure)| is_open(*seed, failure.law));
    println!("{} seeds break a law that is known to be open (tests/sim/open.rs)", open.len());
    let range = base..base + seeds;
    let holds = |seed: &u64| !open.iter().any(|(failed, _)| failed == seed);
    let settled: Vec<u64> =
        OPEN.iter().map(|(seed, _)| *seed).filter(|seed| range.contains(seed) && holds(seed)).collect();
    assert!(
        !new.is_empty() || settled.is_empty(),
        "these seeds hold every law now; take them off the list: {settled:?}"
    );
    if let Some((seed, failure)) = new.first() {
        explain(Profile::draw(*seed), false);
        panic!("seed {seed} breaks {}: {}", failure.law, failure.what);
    }
}

#[test]
fn one_seed() {
    if let Some(seed) = setting("SHIMAI_SIM_SEED") {
        explain(Profile::draw(seed), true);
    }
}

#[test]
fn a_seed_runs_the_same_twice() {
    let seeds = if cfg!(debug_assertions) { 12 } else { 200 };
    for seed in 1..=seeds {
        let [first, second] = [0, 1].map(|_| run(Profile::draw(seed), false));
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
    }
}

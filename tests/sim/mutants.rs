//! The checker's own test: planted bugs must be found within their budgets, and without one nothing is.
//!
//! `cargo test --release --features mutants --test sim every_planted_bug_is_found -- --nocapture`; with
//! `SHIMAI_SIM_MUTANT=n` one of them only. Each runs in a process of its own, because the bug is read once.

use std::process::Command;

use crate::profile::{Fault, MILLISECOND, Profile, SECOND};
use crate::runner::{processor_seconds, run_many, setting};

/// Number, planted bug, seeds in 100,000 that a prototype needed.
const PLANTED: [(u32, &str, u64); 15] = [
    (1, "write without activity record", 54_000),
    (2, "activity record not flushed", 9_000),
    (3, "extent evicted before its bitmap page is durable", 37_000),
    (4, "dirty bit cleared before the peer's acknowledgement", 100_000),
    (5, "protocol C acknowledged on receipt", 68_000),
    (6, "no new generation when going on alone", 72_000),
    (7, "writes acknowledged before the new generation is durable", 6),
    (8, "on disconnect only unacknowledged writes are marked", 2_000),
    (9, "bitmaps not merged at the handshake", 7_000),
    (10, "crashed-primary flag ignored", 10_000),
    (11, "no replay of the activity log at attach", 29_000),
    (12, "target not marked Inconsistent first", 1_300),
    (13, "target keeps its generation after the resync", 19_000),
    (17, "barrier acknowledged without flush", 25_000),
    (18, "flush without flushing the local disk", 1_100),
];
/// Most seeds for one planted bug.
const BUDGET_MAX: u64 = 5000;

/// Seeds after which a bug is found with 99 %.
fn budget(rate: u64) -> u64 {
    (460_000 / rate).clamp(20, BUDGET_MAX)
}

/// Crash right after losing the peer, again and again.
pub(crate) fn crash_after_loss(seed: u64) -> Profile {
    let mut profile = Profile::draw(seed);
    profile.faults.clear();
    for fault in [Fault::Cut, Fault::Kill, Fault::PowerLoss, Fault::Partition, Fault::Reckless] {
        profile.faults.insert(fault, 400 * MILLISECOND);
    }
    profile.horizon = 8 * SECOND;
    profile.load.gap = 3 * MILLISECOND;
    profile.load.read = 0;
    profile.down_max = 100 * MILLISECOND;
    profile
}

#[test]
fn every_planted_bug_is_found() {
    let only = setting("SHIMAI_SIM_MUTANT");
    let mut missed = Vec::new();
    for (number, what, rate) in std::iter::once((0, "none", 460)).chain(PLANTED) {
        if only.is_some_and(|only| only != u64::from(number)) {
            continue;
        }
        let program = std::env::current_exe().expect("the test program");
        let output = Command::new(program)
            .args(["mutants::one_planted_bug", "--exact", "--nocapture"])
            .env("MUTANT", number.to_string())
            .env("SHIMAI_SIM_SEEDS", budget(rate).to_string())
            .output()
            .expect("the test program runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let found = text.lines().find(|line| line.starts_with("PLANTED")).unwrap_or("PLANTED ? no answer").to_owned();
        println!("{number:>3} {what}: {}", found.trim_start_matches("PLANTED "));
        let expected = if number == 0 { "PLANTED nothing" } else { "PLANTED found" };
        if !found.starts_with(expected) {
            missed.push(number);
        }
    }
    assert!(missed.is_empty(), "not as expected: {missed:?}");
}

/// Run by `every_planted_bug_is_found`, in a process of its own.
#[test]
fn one_planted_bug() {
    let Some(number) = setting("MUTANT") else { return };
    let seeds = setting("SHIMAI_SIM_SEEDS").unwrap_or(1000);
    let draw = if number == 7 { crash_after_loss } else { Profile::draw };
    let before = processor_seconds();
    let totals = run_many(1, seeds, draw, 1);
    let seconds = processor_seconds() - before;
    match totals.failures.first() {
        Some((seed, failure)) => println!(
            "PLANTED found after {} of {seeds} seeds ({seconds:.1} CPU-s) by {}, seed {seed}: {}",
            totals.seeds, failure.law, failure.what
        ),
        None => println!("PLANTED nothing in {} seeds ({seconds:.1} CPU-s)", totals.seeds),
    }
}

//! `shimai demo`: what shimai is for, in ten seconds, on one machine and with nothing but these programs.
//!
//! Two daemons are two nodes, sparse files are their disks, loopback is the link. A load writes blocks that say who they
//! are; its node's daemon is killed while it writes; the other node takes over; the first returns and is resynchronised;
//! and in the end every block whose write was acknowledged is read back from both.
//!
//! Not here: blocks and their check (`load`), processes and commands (`pair`), what is cleared up (`remains`), how it is told
//! (`timeline`).

mod load;
mod pair;
mod remains;
mod timeline;

use std::time::{Duration, Instant};

use anyhow::bail;

use self::load::{BLOCK_BYTES, Load, Verdict};
use self::pair::{ALICE, BOB, NodeName, Pair};
use self::timeline::Timeline;
use super::arguments::Demo;
use super::nbd::Connection;
use crate::control::Verb;

/// How long a takeover may take before the demonstration has failed.
const TAKEOVER_PATIENCE: Duration = Duration::from_secs(30);
/// Exit code: the promise was broken.
const EXIT_LOST: u8 = 42;

/// Runs the demonstration.
pub(super) fn demo(options: &Demo) -> anyhow::Result<u8> {
    let mut timeline = Timeline::begin("shimai demo: two nodes, one disk");
    let mut pair = Pair::new(options.keep)?;
    let seconds = Duration::from_secs(options.seconds);
    match play(&mut pair, &mut timeline, seconds) {
        Ok(story) => {
            let is_good = timeline.verdict(story.gap, story.acknowledged, &story.verdicts);
            match options.keep {
                true => pair.keep(),
                false => pair.end().map_err(|error| ended_early(&mut pair, error))?,
            }
            Ok(if is_good { 0 } else { EXIT_LOST })
        }
        Err(error) => Err(ended_early(&mut pair, error)),
    }
}

/// The daemons end; what they have written stays to be looked at.
fn ended_early(pair: &mut Pair, error: anyhow::Error) -> anyhow::Error {
    pair.preserve();
    let folder = pair.folder().display();
    error.context(format!("the demonstration ended early; its files and logs are in {folder}"))
}

/// What is left to be judged.
struct Story {
    gap: Duration,
    acknowledged: u64,
    verdicts: Vec<(NodeName, Verdict)>,
}

fn play(pair: &mut Pair, timeline: &mut Timeline, seconds: Duration) -> anyhow::Result<Story> {
    set_up(pair, timeline)?;
    let mut load = Load::new()?;
    let running = load.start(Connection::open(&pair.nbd(ALICE))?);
    timeline.say("load", "writes of 4 KiB, 16 in flight, each block stamped, a flush now and then");
    let running = work(running, seconds)?;
    let killed = Instant::now();
    pair.kill(ALICE)?;
    load = running.abandon()?;
    let before = load.acknowledged();
    timeline.bad("alice", &format!("killed (SIGKILL); writes in flight: {}", load.uncertain()));
    timeline.say("load", &format!("{} writes were acknowledged by alice", thousands(before)));

    let (running, promoted) = take_over(pair, load, timeline)?;
    let (running, first) = first_write(running)?;
    let gap = first.saturating_duration_since(killed);
    timeline.say(
        "bob",
        &format!(
            "first write acknowledged {} ms after the kill (promotion {} ms)",
            gap.as_millis(),
            promoted.as_millis()
        ),
    );
    let running = work(running, seconds)?;
    pair.bury(ALICE)?;
    pair.start(ALICE)?;
    pair.ask(ALICE, Verb::Up)?;
    timeline.say("alice", "started again; its activity log tells which blocks may differ");
    let resync = resynchronise(pair, timeline)?;
    load = running.stop()?;
    timeline.say("load", &format!("{} writes acknowledged by bob, {resync}", thousands(load.acknowledged() - before)));
    let verdicts = check_both(pair, &mut load, timeline)?;
    Ok(Story { gap, acknowledged: load.acknowledged(), verdicts })
}

/// Lets the load work for a while. One that ends by itself has an error to tell.
fn work(running: load::Running, seconds: Duration) -> anyhow::Result<load::Running> {
    pause(seconds);
    if running.is_finished() {
        running.stop()?;
        bail!("the load stopped by itself");
    }
    Ok(running)
}

/// Waits until the load has its first acknowledgement.
fn first_write(mut running: load::Running) -> anyhow::Result<(load::Running, Instant)> {
    let begun = Instant::now();
    loop {
        if let Some(first) = running.first_acknowledged() {
            return Ok((running, first));
        }
        if begun.elapsed() > TAKEOVER_PATIENCE {
            bail!("bob acknowledged nothing within {} s", TAKEOVER_PATIENCE.as_secs());
        }
        running = work(running, Duration::from_millis(1))?;
    }
}

/// Two nodes that are connected, in sync, with alice Primary.
fn set_up(pair: &mut Pair, timeline: &mut Timeline) -> anyhow::Result<()> {
    pair.create_metadata()?;
    timeline.say("disks", &format!("two sparse files of {} MiB in {}", Pair::DISK_MIB, pair.folder().display()));
    for node in [ALICE, BOB] {
        pair.start(node)?;
        pair.ask(node, Verb::Up)?;
    }
    timeline.say("nodes", &format!("two daemons: {}", pair.processes()));
    pair.ask(ALICE, Verb::WaitConnect)?;
    pair.declare_equal(ALICE)?;
    pair.ask(ALICE, Verb::WaitSync)?;
    timeline.say("link", "connected, protocol C; two blank disks are equal, so nothing is copied");
    pair.ask(ALICE, Verb::Primary)?;
    timeline.good("alice", &format!("Primary, serves {}", pair.uri(ALICE)));
    Ok(())
}

/// Bob is promoted as soon as the rules allow it, and the load goes on there.
fn take_over(pair: &Pair, load: Load, timeline: &mut Timeline) -> anyhow::Result<(load::Running, Duration)> {
    let begun = Instant::now();
    loop {
        match pair.ask(BOB, Verb::Primary) {
            Ok(()) => break,
            Err(error) if begun.elapsed() > TAKEOVER_PATIENCE => return Err(error.context("bob is not promoted")),
            Err(_) => pause(Duration::from_millis(5)),
        }
    }
    let promoted = begun.elapsed();
    let running = load.start(Connection::open(&pair.nbd(BOB))?);
    timeline.good("bob", &format!("Primary, serves {}", pair.uri(BOB)));
    Ok((running, promoted))
}

/// Alice gets what it missed, while the load goes on.
fn resynchronise(pair: &Pair, timeline: &mut Timeline) -> anyhow::Result<String> {
    let begun = Instant::now();
    pair.ask(ALICE, Verb::WaitConnect)?;
    pair.ask(ALICE, Verb::WaitSync)?;
    let received = pair.received_kib(ALICE)?;
    let seconds = begun.elapsed().as_secs_f64();
    timeline.good("alice", &format!("in sync again after {seconds:.1} s; bob did not stop writing for that"));
    Ok(format!("{} MiB went to alice meanwhile", received / 1024))
}

/// Reads everything back from bob, then, after changing places, from alice.
fn check_both(pair: &Pair, load: &mut Load, timeline: &mut Timeline) -> anyhow::Result<Vec<(NodeName, Verdict)>> {
    let mut verdicts = Vec::new();
    for node in [BOB, ALICE] {
        if node == ALICE {
            pair.demote(BOB)?;
            pair.ask(ALICE, Verb::Primary)?;
            timeline.say("roles", "changed: bob is Secondary, alice Primary");
        }
        let verdict = load.verify(Connection::open(&pair.nbd(node))?)?;
        let text = format!(
            "{} blocks ({} MiB) read back, {} wrong",
            thousands(verdict.blocks),
            verdict.blocks * BLOCK_BYTES / (1 << 20),
            verdict.wrong
        );
        if verdict.wrong == 0 {
            timeline.good(node.0, &text)
        } else {
            timeline.bad(node.0, &text)
        }
        verdicts.push((node, verdict));
    }
    if verdicts.iter().any(|(_, verdict)| verdict.blocks == 0) {
        bail!("nothing was written, so nothing was shown");
    }
    Ok(verdicts)
}

/// Lets time pass: for the load to work, or before asking again.
#[expect(clippy::disallowed_methods, reason = "a demonstration lasts as long as it was asked to")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// `1234567` as `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_can_be_read() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}

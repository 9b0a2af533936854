//! Online verify: the actor asks for it, and both nodes come to the same findings.

use crate::harness::configuration::Options;
use crate::harness::disks::write_at;
use crate::pair::{Lab, Pair, Side, bytes, options};

const MIB: u64 = 1 << 20;

/// Blocks that differ, as first sector and sectors of each run: the first block, a run, and one far behind.
const PLANTED: [(u64, u64); 3] = [(0, 8), (4096, 24), (100_000, 8)];

fn with_a_digest() -> Options {
    Options { net: vec!["verify-alg crc32c"], ..options() }
}

/// Bytes change on one disk, behind the machine's back. Nothing is in flight, and nobody has them in a cache that counts.
fn plant(pair: &Pair, side: Side) {
    let file = match side {
        Side::Ours => pair.ours.disks[0].clone(),
        Side::Kernels => pair.kernel().disk(0),
    };
    for (number, (start, sectors)) in PLANTED.into_iter().enumerate() {
        // One sector of each block is enough.
        for block in 0..sectors / 8 {
            write_at(&file, (start + block * 8) * 512, &bytes(90 + number as u64, 512));
        }
    }
}

fn marked_kib(pair: &Pair) -> [u64; 2] {
    let status = pair.ours.status();
    [status.peers[0].volumes[0].out_of_sync_kib, pair.kernel_state().out_of_sync]
}

fn wait_verified(pair: &Pair, kib: u64) {
    pair.wait("verified", |ours, theirs| {
        ours.starts_with("Connected") && theirs.connection == "Connected" && theirs.out_of_sync == kib
    });
    assert_eq!(marked_kib(pair), [kib, kib], "both have marked the same");
}

/// What a log names, in its order.
fn runs_in(log: &str) -> Vec<(u64, u64)> {
    let number = |text: &str, key: &str| {
        let rest = &text[text.find(key)? + key.len()..];
        rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
    };
    let lines = log.lines().filter(|line| line.contains("Out of sync: "));
    lines.filter_map(|line| Some((number(line, "start=")?, number(line, "size=")?))).collect()
}

/// The Secondary's disk has gone bad: a verify finds where, and a Primary that meets it again repairs it.
pub(crate) fn planted_differences(lab: &mut Lab, actor: Side) {
    for primary in [actor, actor.other()] {
        let pair = Pair::serving(lab, &with_a_digest(), primary);
        pair.write(primary, 0, &bytes(1, 4 * MIB as usize));
        pair.wait_in_sync();
        plant(&pair, primary.other());
        pair.act(actor, "verify data");
        wait_verified(&pair, PLANTED.iter().map(|(_, sectors)| sectors / 2).sum());
        let log = pair.kernel().sh("dmesg");
        // It compares in any order, and forgets a run that another one begins behind before it was logged.
        let named = runs_in(&log);
        let is_planted = |(start, sectors): &(u64, u64)| {
            PLANTED.iter().any(|(first, all)| start >= first && start + sectors <= first + all)
        };
        assert!(named.iter().all(is_planted), "{log}");
        assert!([PLANTED[0], PLANTED[2]].iter().all(|run| named.contains(run)), "{log}");
        let ours = std::fs::read_to_string(pair.ours.log()).expect("a log");
        assert_eq!(runs_in(&ours), PLANTED, "{ours}");
        assert!(log.contains("Online verify found 5 4k block out of sync!"), "{log}");
        pair.act(actor, "disconnect data");
        pair.wait_parted(primary);
        pair.act(actor, "connect data");
        pair.assert_identical();
        if primary == actor {
            pair.act(actor, "verify data");
            wait_verified(&pair, 0);
        }
    }
}

/// A part of the volume only, under a load that is no difference.
pub(crate) fn a_part_under_load(lab: &mut Lab, actor: Side) {
    for primary in [actor, actor.other()] {
        let pair = Pair::serving(lab, &with_a_digest(), primary);
        pair.wait_in_sync();
        plant(&pair, primary.other());
        match actor {
            Side::Ours => _ = pair.ours.ok(&["verify", "--start=4104", "--stop=100000", "data"]),
            Side::Kernels => _ = pair.kernel().sh("drbdsetup verify 0 --start=4104 --stop=100000"),
        }
        for number in 0..40 {
            pair.write(primary, 8 * MIB + number * 4096, &bytes(number, 64 << 10));
        }
        wait_verified(&pair, 8);
        // Goes on where it stopped.
        pair.act(actor, "verify data");
        wait_verified(&pair, 12);
    }
}

/// Without an algorithm there is none, whoever asks.
pub(crate) fn without_an_algorithm(lab: &mut Lab, actor: Side) {
    let pair = Pair::serving(lab, &options(), actor);
    let (exit, text) = match actor {
        Side::Ours => {
            let answer = pair.ours.shimai(&["verify", "data"]);
            (answer.exit, answer.err)
        }
        Side::Kernels => {
            let ran = pair.kernel().try_sh("drbdadm verify data 2>&1");
            (Some(ran.exit), ran.out)
        }
    };
    assert_eq!(exit, Some(11), "{text}");
    assert!(text.contains("(-14) Need a verify algorithm to start online verify"), "{text}");
}

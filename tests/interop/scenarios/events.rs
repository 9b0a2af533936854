//! What each side tells those who watch: our events against those of `drbdsetup` on a kernel with DRBD 8.4.

use crate::harness::wait::{SHORT, until};
use crate::pair::{Lab, Pair, Side, options};

/// What DRBD 9 has and 8.4 has not.
const ONLY_OURS: [&str; 10] = [
    "force-io-failures",
    "may_promote",
    "promotion_score",
    "backing_dev",
    "client",
    "open",
    "quorum",
    "peer-client",
    "ap-in-flight",
    "rs-in-flight",
];

/// The lines, sorted, without what only 9 has and without the peer's name, of which 8.4 knows none.
fn comparable(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.split(' ').nth(1) != Some("path"));
    let mut lines: Vec<String> =
        lines.map(|line| line.split(' ').filter_map(word).collect::<Vec<_>>().join(" ")).collect();
    lines.sort();
    lines
}

fn word(word: &str) -> Option<String> {
    match word.split_once(':').map(|(key, _)| key) {
        Some(key) if ONLY_OURS.contains(&key) => None,
        Some(key @ ("peer-node-id" | "conn-name")) => Some(format!("{key}:-")),
        _ => Some(word.to_owned()),
    }
}

/// Keys without values, which are counters and differ.
fn keys(lines: &[String]) -> Vec<String> {
    let key = |word: &str| word.split(':').next().unwrap_or_default().to_owned();
    lines.iter().map(|line| line.split(' ').map(key).collect::<Vec<_>>().join(" ")).collect()
}

/// Both sides tell the same of the same: in every role, with counters, and when a role changes.
pub(crate) fn told_alike(lab: &mut Lab, actor: Side) {
    let pair = Pair::serving(lab, &options(), actor);
    let ours = |words: &str| pair.ours.ok(&words.split(' ').collect::<Vec<_>>());
    let kernels = |words: &str| pair.kernel().sh(&format!("drbdsetup {words}"));
    let dump = |side: Side| match side {
        Side::Ours => comparable(&ours("events2 data --now")),
        Side::Kernels => comparable(&kernels("events2 data --now")),
    };
    pair.wait_in_sync();
    let (primary, secondary) = (dump(actor), dump(actor.other()));
    assert_eq!(primary.len(), 5, "a line for each object, and the end: {primary:#?}");
    let [mine, theirs] = [ours("events2 data --now --statistics"), kernels("events2 data --now --statistics")];
    assert_eq!(keys(&comparable(&mine)), keys(&comparable(&theirs)), "{mine}\n{theirs}");

    pair.kernel().sh("drbdsetup events2 data > /run/events & echo $! > /run/events.pid");
    let seen = |line: &str| {
        until(&format!("the kernel tells {line}"), SHORT, || {
            let text = pair.kernel().sh("cat /run/events");
            if comparable(&text).iter().any(|told| told == line) { Ok(()) } else { Err(text) }
        });
    };
    seen("exists -");
    pair.demote(actor);
    pair.promote(actor.other());
    // The same, seen from the other side.
    until("both have told of it", SHORT, || {
        let now = (dump(actor), dump(actor.other()));
        if now == (secondary.clone(), primary.clone()) { Ok(()) } else { Err(format!("{now:#?}")) }
    });
    let [own, of_peer] = match actor {
        Side::Ours => ["role:Primary", "role:Secondary"],
        Side::Kernels => ["role:Secondary", "role:Primary"],
    };
    // In the words that our own tests expect of us.
    seen(&format!("change resource name:data {own}"));
    seen(&format!("change connection name:data peer-node-id:- conn-name:- {of_peer}"));
    pair.kernel().sh("kill $(cat /run/events.pid)");
    pair.assert_identical();
}

//! The table of `tests/golden/data/after-split-brain.txt`, row by row, from both sides.

use super::tests_compare::{CONTEXT, tuple};
use super::*;
use crate::model::state::{DiskState, Role};

const TABLE: &str = include_str!("../../tests/golden/data/after-split-brain.txt");
const GOOD: DiskState = DiskState::UpToDate;
/// Changed blocks of ours and of the peer's, for each column.
const COLUMNS: [(u64, u64); 5] = [(0, 9), (2, 9), (5, 5), (9, 2), (0, 0)];

fn none_primary(word: &str) -> AfterSplitBrain0 {
    match word {
        "disconnect" => AfterSplitBrain0::Disconnect,
        "discard-younger-primary" => AfterSplitBrain0::DiscardYoungerPrimary,
        "discard-older-primary" => AfterSplitBrain0::DiscardOlderPrimary,
        "discard-zero-changes" => AfterSplitBrain0::DiscardZeroChanges,
        "discard-least-changes" => AfterSplitBrain0::DiscardLeastChanges,
        "discard-local" => AfterSplitBrain0::DiscardLocal,
        "discard-remote" => AfterSplitBrain0::DiscardRemote,
        other => panic!("{other} is no after-sb-0pri"),
    }
}

fn one_primary(word: &str) -> AfterSplitBrain1 {
    match word {
        "-" | "disconnect" => AfterSplitBrain1::Disconnect,
        "consensus" => AfterSplitBrain1::Consensus,
        "discard-secondary" => AfterSplitBrain1::DiscardSecondary,
        "call-pri-lost-after-sb" => AfterSplitBrain1::CallPriLost,
        "violently-as0p" => AfterSplitBrain1::Violently,
        other => panic!("{other} is no after-sb-1pri"),
    }
}

fn two_primaries(word: &str) -> AfterSplitBrain2 {
    match word {
        "call-pri-lost-after-sb" => AfterSplitBrain2::CallPriLost,
        "violently-as0p" => AfterSplitBrain2::Violently,
        _ => AfterSplitBrain2::Disconnect,
    }
}

/// What the other node is configured with and sees: its local is our remote.
fn mirrored(policies: Policies) -> Policies {
    let none = match policies.none {
        AfterSplitBrain0::DiscardLocal => AfterSplitBrain0::DiscardRemote,
        AfterSplitBrain0::DiscardRemote => AfterSplitBrain0::DiscardLocal,
        other => other,
    };
    Policies { none, ..policies }
}

fn survivor(own: &Tuple, peer: &Tuple, context: &Context, policies: &Policies) -> &'static str {
    let decision = decide(compare(own, peer, context), (own, GOOD), (peer, GOOD), context, policies);
    assert!(decision.split_brain, "{own} {peer}");
    match decision.outcome {
        Outcome::Source { full: false } => "ours",
        Outcome::Target { full: false } if decision.demote_first => "theirs!",
        Outcome::Target { full: false } => "theirs",
        Outcome::Refuse(RefuseReason::SplitBrain | RefuseReason::PrimaryWouldBecomeTarget) => "nobody",
        other => panic!("{other:?}"),
    }
}

/// What one of both nodes says of itself, of what both together do: the one that loses is demoted, the one that refuses
/// ends the connection for both.
fn together(here: &str, there: &str) -> &'static str {
    match (here, there) {
        ("nobody", _) | (_, "nobody") => "nobody",
        ("ours", "theirs!") => "ours!",
        ("ours", "theirs") => "ours",
        ("theirs!", "ours") => "theirs!",
        ("theirs", "ours") => "theirs",
        other => panic!("the two nodes do not agree: {other:?}"),
    }
}

#[test]
fn every_row_of_the_table_holds_on_both_nodes() {
    let mut rows = 0;
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let (left, right) = line.split_once('|').unwrap();
        let words: Vec<&str> = left.split_whitespace().collect();
        let [primaries, none, several, conflict, first] = words[..] else { panic!("{line}") };
        let role_conflict = match conflict {
            "disconnect" => RoleConflict::Disconnect,
            "violently" => RoleConflict::Violently,
            other => panic!("{other} is no rr-conflict"),
        };
        let (none, one, two) = (none_primary(none), one_primary(several), two_primaries(several));
        let policies = Policies { none, one, two, always: false, role_conflict };
        let role = |is_primary| if is_primary { Role::Primary } else { Role::Secondary };
        let (we, they) = (matches!(primaries, "ours" | "both"), primaries == "both");
        let cells: Vec<&str> = right.split_whitespace().collect();
        assert_eq!(cells.len(), COLUMNS.len(), "{line}");
        for (cell, (ours, theirs)) in cells.into_iter().zip(COLUMNS) {
            let side = |current, changed_blocks, was_first| {
                let tuple = tuple([current, 0xc0, 0, 0]);
                Tuple { changed_blocks, bitmap: tuple.bitmap.with_primary_flag(was_first), ..tuple }
            };
            let own = side(0xa0, ours, matches!(first, "ours" | "both"));
            let peer = side(0xb0, theirs, matches!(first, "theirs" | "both"));
            let expected = cell.split_once('/').unwrap_or((cell, cell));
            for (resolve, expected) in [(false, expected.0), (true, expected.1)] {
                let context = Context { role: role(we), peer_role: role(they), resolve, ..CONTEXT };
                let here = survivor(&own, &peer, &context, &policies);
                let there = survivor(&peer, &own, &context.mirrored(), &mirrored(policies));
                assert_eq!(together(here, there), expected, "{ours} against {theirs}, flag {resolve}: {line}");
            }
        }
        rows += 1;
    }
    assert!(rows > 25, "{rows} rows were read");
}

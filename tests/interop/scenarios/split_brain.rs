//! Both nodes wrote without each other: who survives, by policy, by the operator's word, or nobody. The rows are rows of
//! `tests/golden/data/after-split-brain.txt`; a kernel that read them otherwise would not come to the opposite result.

use crate::harness::Options;
use crate::harness::disks::read_at;
use crate::pair::{Lab, Pair, Side, bytes, options};

const BLOCK: u64 = 4096;
/// Where the other node writes; the actor writes at the beginning.
const THERE: u64 = 32 << 20;

/// What happens before the nodes meet again.
struct Case {
    net: &'static [&'static str],
    /// Blocks that the actor and the other one write alone.
    writes: (u64, u64),
    /// Whether the actor and the other one are still Primary when they meet.
    primaries: (bool, bool),
}

/// The actor is Primary when the connection breaks; the other one is promoted afterwards.
fn parted<'a>(lab: &'a mut Lab, actor: Side, case: &Case) -> Pair<'a> {
    parted_after(lab, actor, case, |_| ())
}

/// The same, with a change of the configuration before anything runs.
fn parted_after<'a>(lab: &'a mut Lab, actor: Side, case: &Case, prepare: impl Fn(&Pair)) -> Pair<'a> {
    let other = actor.other();
    let mut pair = Pair::new(lab, &Options { net: case.net.to_vec(), ..options() });
    prepare(&pair);
    pair.create_md();
    pair.start();
    pair.serve(actor);
    pair.write(actor, 16 << 20, &bytes(1, BLOCK as usize));
    pair.cut();
    pair.wait_parted(actor);
    pair.wait_parted(other);
    (0..case.writes.0).for_each(|block| pair.write(actor, block * BLOCK, &bytes(100 + block, BLOCK as usize)));
    pair.promote(other);
    (0..case.writes.1).for_each(|block| pair.write(other, THERE + block * BLOCK, &bytes(200 + block, BLOCK as usize)));
    for (side, stays) in [(actor, case.primaries.0), (other, case.primaries.1)] {
        if !stays {
            pair.demote(side);
        }
    }
    pair
}

/// The data of that node is on both disks now, and what the other one wrote alone is gone.
fn assert_survives(pair: &Pair, actor: Side, survivor: Side, case: &Case) {
    pair.assert_identical();
    let disk = &pair.ours.disks[0];
    let (places, seeds) = if survivor == actor { ([0, THERE], [100, 200]) } else { ([THERE, 0], [200, 100]) };
    let (kept, lost) = if survivor == actor { case.writes } else { (case.writes.1, case.writes.0) };
    for block in 0..kept {
        let found = read_at(disk, places[0] + block * BLOCK, BLOCK as usize);
        assert!(found == bytes(seeds[0] + block, BLOCK as usize), "{survivor}'s block {block} survives");
    }
    for block in 0..lost {
        let found = read_at(disk, places[1] + block * BLOCK, BLOCK as usize);
        assert!(found.iter().all(|byte| *byte == 0), "the other one's block {block} is as it was before");
    }
}

fn solved(lab: &mut Lab, actor: Side, survives: bool, case: &Case) {
    let pair = parted(lab, actor, case);
    pair.heal();
    assert_survives(&pair, actor, if survives { actor } else { actor.other() }, case);
}

fn wait_alone(pair: &Pair) {
    pair.wait("both alone", |ours, theirs| ours.starts_with("StandAlone") && theirs.connection == "StandAlone");
    let reason = pair.ours.status().peers[0].reason.clone().unwrap_or_default();
    assert!(reason.contains("Split-Brain") || reason.contains("I am primary"), "{reason}");
}

pub(crate) fn unsolved(lab: &mut Lab, actor: Side) {
    let pair = parted(lab, actor, &Case { net: &[], writes: (3, 2), primaries: (true, false) });
    pair.heal();
    wait_alone(&pair);
    // The data of each stays where it is.
    for (place, seed) in [(0, 100), (THERE, 200)] {
        let holder =
            if (place == 0) == (actor == Side::Ours) { pair.ours.disks[0].clone() } else { pair.kernel().disk(0) };
        assert!(read_at(&holder, place, BLOCK as usize) == bytes(seed, BLOCK as usize), "at {place}");
    }
}

/// The other node's operator gives up what it wrote.
pub(crate) fn discard_my_data(lab: &mut Lab, actor: Side) {
    let case = Case { net: &[], writes: (3, 2), primaries: (true, false) };
    let pair = parted(lab, actor, &case);
    pair.heal();
    wait_alone(&pair);
    pair.act(actor, "connect data");
    pair.act(actor.other(), "connect --discard-my-data data");
    assert_survives(&pair, actor, actor, &case);
}

pub(crate) fn least_changes(lab: &mut Lab, actor: Side) {
    let net = &["after-sb-0pri discard-least-changes"];
    solved(lab, actor, true, &Case { net, writes: (5, 2), primaries: (false, false) });
}

pub(crate) fn zero_changes(lab: &mut Lab, actor: Side) {
    let net = &["after-sb-0pri discard-zero-changes"];
    solved(lab, actor, false, &Case { net, writes: (0, 2), primaries: (false, false) });
}

pub(crate) fn younger_primary(lab: &mut Lab, actor: Side) {
    let net = &["after-sb-0pri discard-younger-primary"];
    solved(lab, actor, true, &Case { net, writes: (2, 5), primaries: (false, false) });
}

pub(crate) fn older_primary(lab: &mut Lab, actor: Side) {
    let net = &["after-sb-0pri discard-older-primary"];
    solved(lab, actor, false, &Case { net, writes: (5, 2), primaries: (false, false) });
}

/// The two nodes' files differ: the local one of one of them is the remote one of the other.
pub(crate) fn local_and_remote(lab: &mut Lab, actor: Side) {
    let case = Case { net: &["after-sb-0pri discard-remote"], writes: (2, 5), primaries: (false, false) };
    let pair = parted_after(lab, actor, &case, |pair| match actor {
        Side::Ours => _ = pair.kernel().sh("sed -i s/discard-remote/discard-local/ /etc/drbd.conf"),
        Side::Kernels => pair.ours.edit_config("discard-remote", "discard-local"),
    });
    pair.heal();
    assert_survives(&pair, actor, actor, &case);
}

pub(crate) fn consensus(lab: &mut Lab, actor: Side) {
    let net = &["after-sb-0pri discard-least-changes", "after-sb-1pri consensus"];
    solved(lab, actor, true, &Case { net, writes: (5, 2), primaries: (true, false) });
}

/// The policy for no Primary would discard the Primary's changes.
pub(crate) fn no_consensus(lab: &mut Lab, actor: Side) {
    let net = &["after-sb-0pri discard-least-changes", "after-sb-1pri consensus"];
    let pair = parted(lab, actor, &Case { net, writes: (2, 5), primaries: (true, false) });
    pair.heal();
    wait_alone(&pair);
}

pub(crate) fn secondary(lab: &mut Lab, actor: Side) {
    let net = &["after-sb-1pri discard-secondary"];
    solved(lab, actor, true, &Case { net, writes: (2, 5), primaries: (true, false) });
}

/// The Primary loses; nobody uses its device. Ours is demoted. The kernel's tries to, but its state machine takes no change
/// of role in a handshake: it always calls its handler, as for a Primary in use, and stays alone.
pub(crate) fn demoted(lab: &mut Lab, actor: Side) {
    let net = &["after-sb-0pri discard-least-changes", "after-sb-1pri call-pri-lost-after-sb"];
    let case = Case { net, writes: (2, 5), primaries: (true, false) };
    if actor == Side::Ours {
        return solved(lab, actor, false, &case);
    }
    let pair = parted(lab, actor, &case);
    pair.heal();
    pair.wait("the kernel is alone", |_, theirs| theirs.connection == "StandAlone");
    let called = pair.kernel().sh("cat /run/helper.log");
    assert!(called.contains("pri-lost-after-sb minor-0"), "{called}");
}

/// The Primary loses and stays Primary: its data changes under its users.
pub(crate) fn violently(lab: &mut Lab, actor: Side) {
    let net = &["after-sb-0pri discard-least-changes", "after-sb-1pri violently-as0p", "rr-conflict violently"];
    let case = Case { net, writes: (2, 5), primaries: (true, false) };
    let pair = parted(lab, actor, &case);
    pair.heal();
    assert_survives(&pair, actor, actor.other(), &case);
    assert!(pair.read(actor, THERE, BLOCK as usize) == bytes(200, BLOCK as usize), "it is still Primary");
}

/// As before, but a Primary does not become target. The other one would be its source, and goes on looking for it.
pub(crate) fn not_violently(lab: &mut Lab, actor: Side) {
    let net = &["after-sb-0pri discard-least-changes", "after-sb-1pri violently-as0p"];
    let pair = parted(lab, actor, &Case { net, writes: (2, 5), primaries: (true, false) });
    pair.heal();
    pair.wait("the Primary is alone", |ours, theirs| match actor {
        Side::Ours => ours.starts_with("StandAlone Primary UpToDate"),
        Side::Kernels => theirs.connection == "StandAlone" && theirs.roles.starts_with("Primary"),
    });
    assert!(pair.read(actor, BLOCK, BLOCK as usize) == bytes(101, BLOCK as usize), "with what it wrote");
}

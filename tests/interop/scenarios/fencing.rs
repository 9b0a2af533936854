//! Fencing opposite the kernel: who outdates whom at a parting, and a Primary that froze and has its peer back.

use crate::harness::Options;
use crate::harness::wait::LONG;
use crate::pair::{Lab, Pair, Side, bytes, options};

/// A Primary leaves, then is left: each time the other one's disk is old from then on, and nobody is fenced.
pub(crate) fn partings(lab: &mut Lab, actor: Side) {
    let disk = vec!["fencing resource-and-stonith"];
    let handlers = vec![r#"fence-peer "exit 1""#];
    let pair = Pair::serving(lab, &Options { disk, handlers, ..options() }, actor);
    for (round, leaver) in [actor, actor.other()].into_iter().enumerate() {
        let round = round as u64;
        pair.act(leaver, "disconnect data");
        pair.wait("one is Outdated", |ours, theirs| {
            let (own, peer) = ("UpToDate/Outdated", "Outdated/");
            match actor {
                Side::Ours => ours.ends_with(own) && theirs.disks.starts_with(peer),
                Side::Kernels => theirs.disks == own && ours.contains(peer),
            }
        });
        pair.write(actor, round << 20, &bytes(round, 16 << 10));
        pair.act(leaver, "connect data");
        pair.assert_identical();
    }
}

/// The handler knows nothing, so writes are held until the peer is back; then it gets what was under way.
pub(crate) fn frozen_and_back(lab: &mut Lab, actor: Side) {
    let disk = vec!["fencing resource-and-stonith"];
    let handlers = vec![r#"fence-peer "exit 1""#];
    let pair = Pair::serving(lab, &Options { disk, handlers, ..options() }, actor);
    pair.write(actor, 0, &bytes(1, 64 << 10));
    pair.cut();
    if actor == Side::Ours {
        let mut export = pair.export();
        export.begin_write(4 << 20, &bytes(2, 64 << 10)).expect("it is sent");
        pair.ours.wait("frozen", LONG, |status| status.suspended.fencing);
        assert_eq!(export.in_flight(), 1);
        pair.heal();
        export.reply().expect("there is an answer").1.expect("the write is done");
        assert!(!pair.ours.status().suspended.any());
    } else {
        pair.wait_parted(actor);
        pair.heal();
    }
    pair.assert_identical();
    pair.write(actor, 8 << 20, &bytes(3, 64 << 10));
    pair.assert_identical();
}

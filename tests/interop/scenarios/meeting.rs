//! Two nodes that get to know each other, part, and change roles.

use crate::harness::Options;
use crate::pair::{Lab, Pair, Side, bytes, options};

/// Both disks are declared equal by one of them.
pub(crate) fn skip_the_initial_sync(lab: &mut Lab, actor: Side) {
    let pair = Pair::serving(lab, &options(), actor);
    pair.write(actor, 0, &bytes(1, 4096));
    pair.assert_identical();
}

/// Two blank disks; one node is forced.
pub(crate) fn initial_sync(lab: &mut Lab, actor: Side) {
    let pair = Pair::connected(lab, &options());
    pair.act(actor, "primary --force data");
    pair.write(actor, 1 << 20, &bytes(2, 1 << 20));
    pair.assert_identical();
}

pub(crate) fn with_a_secret(lab: &mut Lab, actor: Side) {
    let net = vec!["cram-hmac-alg sha1", r#"shared-secret "a secret of both""#];
    let pair = Pair::serving(lab, &Options { net, ..options() }, actor);
    pair.write(actor, 0, &bytes(3, 8192));
    pair.assert_identical();
}

/// The actor knows another secret: both stay alone, and each says so.
pub(crate) fn with_another_secret(lab: &mut Lab, actor: Side) {
    let net = vec!["cram-hmac-alg sha1", r#"shared-secret "a secret of both""#];
    let mut pair = Pair::new(lab, &Options { net, ..options() });
    pair.create_md();
    match actor {
        Side::Ours => pair.ours.edit_config("a secret of both", "a secret of alpha"),
        Side::Kernels => _ = pair.kernel().sh("sed -i 's/a secret of both/a secret of bravo/' /etc/drbd.conf"),
    }
    pair.start();
    pair.wait("alone", |ours, theirs| ours.starts_with("StandAlone") && theirs.connection == "StandAlone");
    let reason = pair.ours.status().peers[0].reason.clone().unwrap_or_default();
    assert!(reason.contains("authentication") || reason.contains("secret"), "{reason}");
}

/// The roles go to and fro, each time with writes; whoever leaves misses some of them.
pub(crate) fn roles_and_partings(lab: &mut Lab, actor: Side) {
    let pair = Pair::serving(lab, &options(), actor);
    let mut primary = actor;
    for round in 0..4 {
        pair.write(primary, round << 20, &bytes(round, 64 << 10));
        pair.act(primary.other(), "disconnect data");
        pair.write(primary, (round + 8) << 20, &bytes(round + 8, 16 << 10));
        pair.act(primary.other(), "connect data");
        pair.wait_in_sync();
        pair.demote(primary);
        primary = primary.other();
        pair.promote(primary);
    }
    pair.assert_identical();
}

/// A second Primary is refused by either.
pub(crate) fn second_primary(lab: &mut Lab, actor: Side) {
    let pair = Pair::serving(lab, &options(), actor);
    match actor.other() {
        Side::Ours => {
            let words = pair.ours.refused(&["primary", "data"], 11);
            assert!(words.contains("Multiple primaries not allowed by config"), "{words}");
        }
        Side::Kernels => {
            let ran = pair.kernel().try_sh("drbdadm primary data");
            assert_eq!(ran.exit, 11, "{}", ran.out);
        }
    }
    pair.write(actor, 0, &bytes(4, 4096));
    pair.assert_identical();
}

/// The Primary is gone; the other one is promoted and goes on. The first comes back as it was: with nothing of its own.
pub(crate) fn failover(lab: &mut Lab, actor: Side) {
    let pair = Pair::serving(lab, &options(), actor);
    pair.write(actor, 0, &bytes(5, 1 << 20));
    pair.demote(actor);
    pair.act(actor, "down data");
    pair.wait_parted(actor.other());
    pair.promote(actor.other());
    pair.write(actor.other(), 8 << 20, &bytes(6, 1 << 20));
    pair.act(actor, "up data");
    pair.assert_identical();
}

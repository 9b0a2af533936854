//! What a node missed is made up for, and no more than that.

use crate::harness::Options;
use crate::harness::cluster::moved_kib;
use crate::harness::disks::read_at;
use crate::harness::load::{BLOCK, Load};
use crate::pair::{Lab, Pair, Side, bytes, options};

const MIB: u64 = 1 << 20;

/// The cable is cut under a Primary that writes on; afterwards exactly that is moved.
fn after_a_cut(lab: &mut Lab, actor: Side, options: &Options) {
    let pair = Pair::serving(lab, options, actor);
    pair.write(actor, 0, &bytes(1, MIB as usize));
    pair.cut();
    pair.wait_parted(actor);
    pair.wait_parted(actor.other());
    for number in 0..8 {
        pair.write(actor, number * 7 * MIB + number * 4096, &bytes(number, 16 << 10));
    }
    let before = moved_kib(&pair.ours);
    pair.heal();
    pair.assert_identical();
    let moved = moved_kib(&pair.ours) - before;
    assert_eq!(moved, 8 * 16, "KiB moved");
}

pub(crate) fn bitmap(lab: &mut Lab, actor: Side) {
    after_a_cut(lab, actor, &options());
}

pub(crate) fn plain_bitmap(lab: &mut Lab, actor: Side) {
    after_a_cut(lab, actor, &Options { net: vec!["use-rle no"], ..options() });
}

/// Most of what may differ is equal: only digests are moved for that.
pub(crate) fn checksums(lab: &mut Lab, actor: Side) {
    let pair = Pair::serving(lab, &Options { net: vec!["csums-alg crc32c"], ..options() }, actor);
    pair.write(actor, 0, &bytes(1, MIB as usize));
    pair.act(actor.other(), "disconnect data");
    pair.write(actor, 0, &bytes(1, MIB as usize));
    pair.write(actor, 8 * MIB, &bytes(2, 8192));
    let before = moved_kib(&pair.ours);
    pair.act(actor.other(), "connect data");
    pair.assert_identical();
    let moved = moved_kib(&pair.ours) - before;
    assert!(moved < 512, "{moved} KiB moved");
}

/// The actor takes the other's data, all of it.
pub(crate) fn invalidate(lab: &mut Lab, actor: Side) {
    let pair = Pair::serving(lab, &options(), actor.other());
    pair.write(actor.other(), 5 * MIB, &bytes(3, MIB as usize));
    pair.act(actor, "invalidate data");
    pair.assert_identical();
}

/// The actor gives the other its data, all of it.
pub(crate) fn invalidate_remote(lab: &mut Lab, actor: Side) {
    let pair = Pair::serving(lab, &options(), actor);
    pair.write(actor, 5 * MIB, &bytes(4, MIB as usize));
    pair.act(actor, "invalidate-remote data");
    pair.assert_identical();
}

/// Our daemon is killed: as the Primary under load, or as the Secondary of a kernel that writes on.
pub(crate) fn killed_daemon(lab: &mut Lab, actor: Side) {
    let mut pair = Pair::serving(lab, &options(), actor);
    if actor == Side::Ours {
        let load = Load::start(
            &pair.ours.nbd_socket(),
            "data",
            (0..2000).map(|number| number * 7).collect(),
            1,
            crate::harness::load::Ledger::default(),
        );
        load.wait_for(500);
        pair.ours.kill9();
        let ledger = load.died();
        pair.wait_parted(Side::Kernels);
        pair.promote(Side::Kernels);
        let disk = pair.kernel().disk(0);
        ledger.check("what the dead node has acknowledged", |block| read_at(&disk, block * BLOCK, BLOCK as usize));
    } else {
        pair.write(actor, 0, &bytes(5, MIB as usize));
        pair.ours.kill9();
        pair.wait_parted(Side::Kernels);
    }
    pair.write(Side::Kernels, 60 * MIB, &bytes(6, MIB as usize));
    pair.ours.start();
    pair.ours.up();
    pair.assert_identical();
}

/// The kernel's machine loses its power: as the Primary, or as the Secondary of ours.
pub(crate) fn pulled_plug(lab: &mut Lab, actor: Side) {
    let mut pair = Pair::serving(lab, &options(), actor);
    let written: Vec<_> = (0..8).map(|number| (number * 3 * MIB, bytes(number, 64 << 10))).collect();
    written.iter().for_each(|(place, bytes)| pair.write(actor, *place, bytes));
    pair.pull_the_plug();
    pair.wait_parted(Side::Ours);
    if actor == Side::Kernels {
        pair.promote(Side::Ours);
    }
    for (place, bytes) in &written {
        assert!(&pair.read(Side::Ours, *place, bytes.len()) == bytes, "what was acknowledged is there");
    }
    pair.write(Side::Ours, 40 * MIB, &bytes(9, MIB as usize));
    pair.kernel().sh("drbdadm up data");
    pair.assert_identical();
}

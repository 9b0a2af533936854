//! Disks change hands: what a kernel's node wrote is attached by ours and the other way round, and nothing is copied that
//! both have.

use crate::harness::cluster::moved_kib;
use crate::pair::{Lab, Pair, Side, bytes, options};
use std::fs;

const MIB: u64 = 1 << 20;

/// Both nodes are down; each gets the other's disk, with data and metadata.
fn exchange_disks(pair: &Pair) {
    let (ours, theirs) = (&pair.ours.disks[0], pair.kernel().disk(0));
    pair.kernel().sh("sync; blockdev --flushbufs /dev/vda");
    let ours_now = fs::read(ours).expect("the file is ours");
    fs::copy(&theirs, ours).expect("there is room");
    // In place: the emulator has it open.
    fs::OpenOptions::new()
        .write(true)
        .open(&theirs)
        .and_then(|file| std::os::unix::fs::FileExt::write_all_at(&file, &ours_now, 0))
        .expect("the file is ours");
    pair.kernel().sh("blockdev --flushbufs /dev/vda; echo 3 > /proc/sys/vm/drop_caches");
}

/// A pair that was in sync is in sync.
pub(crate) fn equal_disks(lab: &mut Lab, actor: Side) {
    let pair = Pair::serving(lab, &options(), actor);
    (0..8).for_each(|number| pair.write(actor, number * 5 * MIB, &bytes(number, 256 << 10)));
    pair.demote(actor);
    pair.act(actor, "down data");
    pair.act(actor.other(), "down data");
    exchange_disks(&pair);
    pair.act(actor, "up data");
    pair.act(actor.other(), "up data");
    pair.wait_in_sync();
    assert_eq!(moved_kib(&pair.ours), 0, "nothing is copied");
    pair.promote(actor);
    assert!(pair.read(actor, 35 * MIB, 256 << 10) == bytes(7, 256 << 10), "the data is there");
    pair.write(actor, MIB, &bytes(9, 4096));
    pair.assert_identical();
}

/// One disk has missed writes: exactly these are copied, whoever has the disks now.
pub(crate) fn old_disk(lab: &mut Lab, actor: Side) {
    let pair = Pair::serving(lab, &options(), actor);
    pair.write(actor, 0, &bytes(1, MIB as usize));
    pair.act(actor.other(), "down data");
    pair.wait_parted(actor);
    (0..4).for_each(|number| pair.write(actor, (10 + number) * MIB, &bytes(number, 64 << 10)));
    pair.demote(actor);
    pair.act(actor, "down data");
    exchange_disks(&pair);
    pair.act(actor, "up data");
    pair.act(actor.other(), "up data");
    pair.assert_identical();
    assert_eq!(moved_kib(&pair.ours), 4 * 64, "KiB copied");
    pair.promote(actor);
    assert!(pair.read(actor, 13 * MIB, 64 << 10) == bytes(3, 64 << 10), "the newer data is there");
}

/// A Primary has died with the disk that changes hands: its activity log says what may differ.
pub(crate) fn crashed_disk(lab: &mut Lab, actor: Side) {
    let mut pair = Pair::serving(lab, &options(), actor);
    pair.write(actor, 0, &bytes(1, MIB as usize));
    match actor {
        Side::Ours => pair.ours.kill9(),
        Side::Kernels => pair.pull_the_plug(),
    }
    pair.wait_parted(actor.other());
    if actor == Side::Ours {
        pair.ours.wait_until_buried();
        pair.ours.start();
    }
    pair.act(actor.other(), "down data");
    exchange_disks(&pair);
    pair.act(actor, "up data");
    pair.act(actor.other(), "up data");
    pair.assert_identical();
    // One extent of the activity log is hot, and the first MiB of it is equal already.
    let moved = moved_kib(&pair.ours);
    assert!((1..=8192).contains(&moved), "{moved} KiB copied");
}

//! Mirrored writes, flushes, discards and zeroes; reads and writes without a disk.

use crate::harness::Options;
use crate::pair::{DEVICE, Lab, Pair, Side, bytes, options};

const MIB: u64 = 1 << 20;

/// Requests of many sizes, at places that are whole blocks and at others.
fn mirrored(lab: &mut Lab, actor: Side, options: &Options) {
    let pair = Pair::serving(lab, options, actor);
    let sizes = [512, 1024, 4096, 8192, 65536, 131_072, 1 << 20];
    for (number, size) in sizes.into_iter().enumerate() {
        let place = (number as u64 * 5 + 1) * MIB;
        pair.write(actor, place, &bytes(number as u64, size));
        pair.write(actor, place + MIB + 512, &bytes(number as u64 + 100, size));
    }
    pair.assert_identical();
}

pub(crate) fn protocol_a(lab: &mut Lab, actor: Side) {
    mirrored(lab, actor, &Options { protocol: 'A', ..options() });
}

pub(crate) fn protocol_b(lab: &mut Lab, actor: Side) {
    mirrored(lab, actor, &Options { protocol: 'B', ..options() });
}

pub(crate) fn protocol_c(lab: &mut Lab, actor: Side) {
    mirrored(lab, actor, &options());
}

pub(crate) fn integrity(lab: &mut Lab, actor: Side) {
    mirrored(lab, actor, &Options { net: vec!["data-integrity-alg sha1"], ..options() });
}

/// Many small writes at random, verified where they were written.
pub(crate) fn random_load(lab: &mut Lab, actor: Side) {
    let pair = Pair::serving(lab, &options(), actor);
    let job = "--name=load --rw=randwrite --bsrange=512-32k --blockalign=512 --iodepth=16 --size=16m --fsync=32 \
               --verify=crc32c --do_verify=1 --verify_fatal=1";
    match actor {
        Side::Kernels => {
            pair.kernel().sh(&format!("cd /run && fio --ioengine=libaio --direct=1 --filename={DEVICE} {job}"));
        }
        Side::Ours => {
            crate::harness::clients::fio_verify(&pair.ours.nbd_uri(0), pair.folder(), 1, 16 * MIB, None);
        }
    }
    pair.assert_identical();
}

/// Ranges in whole blocks and at odd sectors, over data, both on the disk and as read.
fn emptied(
    lab: &mut Lab,
    actor: Side,
    options: &Options,
    kernel_option: &str,
    ours: fn(&mut crate::harness::nbd::Nbd, u64, u32),
) {
    let pair = Pair::serving(lab, options, actor);
    (0..6).for_each(|number| pair.write(actor, number * MIB, &bytes(number, MIB as usize)));
    let ranges = [(MIB, MIB), (3 * MIB + 4096, 64 << 10), (4 * MIB + 512, 8192), (5 * MIB + 1536, 512)];
    for (offset, length) in ranges {
        match actor {
            Side::Ours => ours(&mut pair.export(), offset, length as u32),
            Side::Kernels => {
                pair.kernel().sh(&format!("/usr/sbin/blkdiscard {kernel_option} -f -o {offset} -l {length} {DEVICE}"));
            }
        }
    }
    pair.assert_identical();
    let kept = pair.read(actor, 2 * MIB, MIB as usize);
    assert!(kept == bytes(2, MIB as usize), "what was not named is as it was");
    if kernel_option == "-z" {
        for (offset, length) in ranges {
            assert!(
                pair.read(actor, offset, length as usize).iter().all(|byte| *byte == 0),
                "{offset} reads as zeroes"
            );
        }
    }
}

pub(crate) fn discards(lab: &mut Lab, actor: Side) {
    emptied(lab, actor, &options(), "", |export, offset, length| export.trim(offset, length).expect("it is offered"));
}

pub(crate) fn zeroes(lab: &mut Lab, actor: Side) {
    emptied(lab, actor, &options(), "-z", |export, offset, length| {
        export.zeroes(offset, length).expect("it is offered")
    });
}

pub(crate) fn zeroes_with_integrity(lab: &mut Lab, actor: Side) {
    let options = Options { net: vec!["data-integrity-alg md5"], ..options() };
    emptied(lab, actor, &options, "-z", |export, offset, length| export.zeroes(offset, length).expect("it is offered"));
}

/// The Primary has no disk: it reads and writes at the other node, and gets what it missed when its disk is back.
pub(crate) fn without_a_disk(lab: &mut Lab, actor: Side) {
    let pair = Pair::serving(lab, &options(), actor);
    pair.write(actor, 0, &bytes(1, MIB as usize));
    pair.act(actor, "detach data");
    assert!(pair.read(actor, 0, MIB as usize) == bytes(1, MIB as usize), "it is read at the peer");
    pair.write(actor, 512, &bytes(2, 64 << 10));
    assert!(pair.read(actor, 512, 64 << 10) == bytes(2, 64 << 10), "and written there");
    pair.act(actor, "attach data");
    pair.assert_identical();
}

/// The Secondary has no disk for a while.
pub(crate) fn without_the_peers_disk(lab: &mut Lab, actor: Side) {
    let pair = Pair::serving(lab, &options(), actor);
    pair.act(actor.other(), "detach data");
    pair.write(actor, 2 * MIB, &bytes(3, MIB as usize));
    pair.act(actor.other(), "attach data");
    pair.assert_identical();
}

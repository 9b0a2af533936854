//! The two books of a volume: the activity log (what may differ after a crash) and the bitmap (what differs).

#![allow(missing_docs, reason = "criterion_group! makes public functions without documentation")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use shimai::activity_log::{ActivityLog, Begin};
use shimai::bitmap::Bitmap;
use shimai::model::units::{BlockIndex, ExtentIndex};

/// DRBD's default.
const SLOTS: u16 = 1237;
/// Blocks of 1 TiB.
const BLOCKS: u64 = 1 << 28;

/// Begins and ends a write in a cold extent, with the record that names it.
fn begin_cold(log: &mut ActivityLog, extent: ExtentIndex, admitted: &mut Vec<u64>) {
    if log.begin(0, extent, extent) == Begin::Queued {
        black_box(log.next_record().expect("a request waits"));
        log.record_written(admitted);
        log.admit_waiting(admitted);
    }
    log.complete(extent, extent);
    admitted.clear();
}

fn activity_log(criterion: &mut Criterion) {
    let mut log = ActivityLog::new(SLOTS, 0);
    let mut admitted = Vec::new();
    (0..u32::from(SLOTS)).for_each(|extent| begin_cold(&mut log, ExtentIndex(extent), &mut admitted));
    let mut next = 0;
    criterion.bench_function("activity log: write in a hot extent", |bencher| {
        bencher.iter(|| {
            next = (next + 389) % u32::from(SLOTS);
            let extent = ExtentIndex(next);
            assert_eq!(log.begin(0, extent, extent), Begin::Hot);
            log.complete(extent, extent);
        });
    });
    let mut next = u32::from(SLOTS);
    criterion.bench_function("activity log: write in a cold extent", |bencher| {
        bencher.iter(|| {
            next = (next + 1) % (1 << 22);
            begin_cold(&mut log, ExtentIndex(next), &mut admitted);
        });
    });
}

/// Every 1000th block.
fn scattered() -> Bitmap {
    let mut bitmap = Bitmap::new(BLOCKS, 1);
    (0..BLOCKS).step_by(1000).for_each(|block| {
        bitmap.set_range(0, BlockIndex(block), BlockIndex(block + 1));
    });
    bitmap
}

fn bitmap(criterion: &mut Criterion) {
    let mut empty = Bitmap::new(BLOCKS, 1);
    let mut block = 0;
    criterion.bench_function("bitmap of 1 TiB: set and clear a block", |bencher| {
        bencher.iter(|| {
            block = (block + 77_777_777) % BLOCKS;
            empty.set_range(0, BlockIndex(block), BlockIndex(block + 1));
            empty.clear_range(0, BlockIndex(block), BlockIndex(block + 1))
        });
    });
    criterion.bench_function("bitmap of 1 TiB: search in vain", |bencher| {
        bencher.iter(|| black_box(&empty).next_set(0, BlockIndex(1)));
    });
    let bitmap = scattered();
    criterion.bench_function("bitmap of 1 TiB: walk 268436 set bits", |bencher| {
        bencher.iter(|| {
            let mut at = BlockIndex(0);
            let mut count = 0_u64;
            while let Some(found) = bitmap.next_set(0, at) {
                at = BlockIndex(found.0 + 1);
                count += 1;
            }
            count
        });
    });
    let bytes = vec![0x11; 4096];
    criterion.bench_function("bitmap of 1 TiB: merge a page from the peer", |bencher| {
        bencher.iter_batched_ref(
            || Bitmap::new(1 << 20, 1),
            |bitmap| bitmap.merge_bytes(0, 512, black_box(&bytes)),
            BatchSize::SmallInput,
        );
    });
}

criterion_group! {
    name = books;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = activity_log, bitmap
}
criterion_main!(books);

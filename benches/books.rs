//! The two books of a volume: the activity log (what may differ after a crash) and the bitmap (what differs).

#![allow(missing_docs, reason = "criterion_group! makes public functions without documentation")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use shimai::activity_log::{ActivityLog, Begin};
use shimai::bitmap::{Bitmap, PAGE_BYTES};
use shimai::model::units::{BlockIndex, ExtentIndex};

/// DRBD's default.
const SLOTS: u16 = 1237;
/// Blocks of 1 TiB.
const BLOCKS: u64 = 1 << 28;
/// Words of a page of the bitmap, and pages of 1 TiB.
const PAGE_WORDS: usize = PAGE_BYTES / size_of::<u64>();
const PAGES: u64 = BLOCKS / (8 * PAGE_BYTES as u64);

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
    criterion.bench_function("bitmap of 1 TiB: set all and clear all", |bencher| {
        bencher.iter(|| {
            empty.set_all(0);
            empty.clear_all(0);
        });
    });
    criterion.bench_function("bitmap of 1 TiB: merge a page from the peer", |bencher| {
        bencher.iter_custom(|count| merge(&mut empty, count));
    });
    let mut whole = criterion.benchmark_group("bitmap of 1 TiB");
    whole.sample_size(20).bench_function("merge all 8192 pages from the peer", |bencher| {
        bencher.iter_custom(|count| merge(&mut empty, count * PAGES));
    });
}

/// The time for `count` merges of a page, one page after the other through the whole bitmap. Every merge sets bits: what
/// the last round set is cleared before the next, outside the time.
fn merge(bitmap: &mut Bitmap, count: u64) -> Duration {
    let bytes = vec![0x11; PAGE_BYTES];
    let mut elapsed = Duration::ZERO;
    for round in 0..count.div_ceil(PAGES) {
        bitmap.clear_all(0);
        let begin = Instant::now();
        for page in 0..(count - round * PAGES).min(PAGES) {
            let newly_set = bitmap.merge_bytes(0, page as usize * PAGE_WORDS, black_box(&bytes));
            assert_eq!(newly_set, PAGE_BYTES as u64 * 2);
        }
        elapsed += begin.elapsed();
    }
    bitmap.clear_all(0);
    elapsed
}

criterion_group! {
    name = books;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = activity_log, bitmap
}
criterion_main!(books);

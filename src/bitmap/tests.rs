//! Random operations against a bitmap made of plain booleans.

use proptest::prelude::*;

use super::*;

/// The slow, obvious bitmap: a boolean a bit, and the pages as last written.
struct Oracle {
    bits: Vec<Vec<bool>>,
    dirty: std::collections::BTreeSet<usize>,
}

impl Oracle {
    fn new(blocks: usize, slots: usize) -> Self {
        Self { bits: vec![vec![false; blocks]; slots], dirty: Default::default() }
    }

    fn page_of(&self, slot: usize, block: usize) -> usize {
        4 * (block / 32 * self.bits.len() + slot) / 4096
    }

    fn edit(&mut self, slot: usize, first: usize, end: usize, value: bool) -> u64 {
        let mut changed = 0;
        for block in first..end.min(self.bits[slot].len()) {
            if self.bits[slot][block] != value {
                self.bits[slot][block] = value;
                self.dirty.insert(self.page_of(slot, block));
                changed += 1;
            }
        }
        changed
    }

    fn agrees(&self, bitmap: &Bitmap) {
        bitmap.check();
        for (slot, bits) in self.bits.iter().enumerate() {
            assert_eq!(bitmap.count(slot), bits.iter().filter(|&&bit| bit).count() as u64);
            assert!(bits.iter().enumerate().all(|(block, &bit)| bitmap.is_set(slot, BlockIndex(block as u64)) == bit));
        }
        assert!(bitmap.dirty_pages().eq(self.dirty.iter().copied()), "exactly the changed pages are dirty");
        assert_eq!(bitmap.dirty_count(), self.dirty.len());
    }

    fn searches_agree(&self, bitmap: &Bitmap, slot: usize, from: usize, end: usize) {
        let bits = &self.bits[slot];
        let find = |value| (from..bits.len()).find(|&block| bits[block] == value).map(|block| BlockIndex(block as u64));
        let (first, last) = (BlockIndex(from as u64), BlockIndex(end as u64));
        assert_eq!(bitmap.next_set(slot, first), find(true));
        assert_eq!(bitmap.next_clear(slot, first), find(false));
        let counted = (from..end.min(bits.len())).filter(|&block| bits[block]).count();
        assert_eq!(bitmap.count_range(slot, first, last), counted as u64);
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Edit { slot: usize, first: u64, length: u64, value: bool },
    Everywhere { first: u64, length: u64, except: Option<usize> },
    All { slot: usize, value: bool },
    Merge { slot: usize, word: usize, bytes: Vec<u8> },
    MergeSlot { from: usize, into: usize },
    Take { max: usize },
    Search { slot: usize, from: u64, length: u64 },
    RoundTrip,
}

fn operation(blocks: u64, slots: usize) -> impl Strategy<Value = Operation> {
    let (slot, first) = (0..slots, 0..blocks + 70);
    let length = prop_oneof![0..130u64, 0..blocks + 10];
    prop_oneof![
        4 => (slot.clone(), first.clone(), length.clone(), any::<bool>())
            .prop_map(|(slot, first, length, value)| Operation::Edit { slot, first, length, value }),
        1 => (first.clone(), length.clone(), prop::option::of(slot.clone()))
            .prop_map(|(first, length, except)| Operation::Everywhere { first, length, except }),
        1 => (slot.clone(), any::<bool>()).prop_map(|(slot, value)| Operation::All { slot, value }),
        1 => (slot.clone(), 0..(blocks / 64 + 3) as usize, prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(slot, word, bytes)| Operation::Merge { slot, word, bytes }),
        1 => (slot.clone(), slot.clone()).prop_map(|(from, into)| Operation::MergeSlot { from, into }),
        1 => (0..4usize).prop_map(|max| Operation::Take { max }),
        2 => (slot, first, length).prop_map(|(slot, from, length)| Operation::Search { slot, from, length }),
        1 => Just(Operation::RoundTrip),
    ]
}

fn perform(bitmap: &mut Bitmap, oracle: &mut Oracle, operation: Operation) {
    match operation {
        Operation::Edit { slot, first, length, value } => {
            let (start, end) = (BlockIndex(first), BlockIndex(first + length));
            let changed = if value { bitmap.set_range(slot, start, end) } else { bitmap.clear_range(slot, start, end) };
            assert_eq!(changed, oracle.edit(slot, first as usize, (first + length) as usize, value));
        }
        Operation::Everywhere { first, length, except } => {
            bitmap.set_everywhere(BlockIndex(first), BlockIndex(first + length), except);
            for slot in (0..bitmap.slots()).filter(|&slot| Some(slot) != except) {
                oracle.edit(slot, first as usize, (first + length) as usize, true);
            }
        }
        Operation::All { slot, value } => {
            if value {
                bitmap.set_all(slot)
            } else {
                bitmap.clear_all(slot)
            }
            oracle.edit(slot, 0, usize::MAX, value);
        }
        Operation::Merge { slot, word, bytes } => {
            let newly_set = bitmap.merge_bytes(slot, word, &bytes);
            let set = (0..bytes.len() * 8).filter(|bit| bytes[bit / 8] >> (bit % 8) & 1 == 1);
            let expected: u64 = set.map(|bit| oracle.edit(slot, word * 64 + bit, word * 64 + bit + 1, true)).sum();
            assert_eq!(newly_set, expected);
        }
        Operation::MergeSlot { from, into } => {
            let newly_set = bitmap.merge_slot(from, into);
            let blocks = oracle.bits[from].clone();
            let set = (0..blocks.len()).filter(|&block| blocks[block]);
            assert_eq!(newly_set, set.map(|block| oracle.edit(into, block, block + 1, true)).sum::<u64>());
        }
        Operation::Take { max } => {
            let taken = bitmap.take_dirty(max);
            assert_eq!(taken.len(), max.min(oracle.dirty.len()));
            assert!(taken.iter().all(|page| oracle.dirty.remove(page)), "only dirty pages are taken, once");
        }
        Operation::Search { slot, from, length } => {
            oracle.searches_agree(bitmap, slot, from as usize, (from + length) as usize);
        }
        Operation::RoundTrip => {
            let copy = reloaded(bitmap);
            assert_eq!(copy.dirty_count(), 0, "loading does not make a page dirty");
            assert!((0..bitmap.slots()).all(|slot| copy.words[slot] == bitmap.words[slot]));
            copy.check();
        }
    }
    oracle.agrees(bitmap);
}

fn reloaded(bitmap: &Bitmap) -> Bitmap {
    let mut copy = Bitmap::new(bitmap.blocks(), bitmap.slots());
    for page in 0..bitmap.page_count() {
        let mut bytes = [0; PAGE_BYTES];
        bitmap.encode_page(page, &mut bytes);
        copy.load_page(page, &bytes);
    }
    copy
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn behaves_like_a_plain_list_of_bits(
        (blocks, slots, operations) in (prop_oneof![1..200u64, 1..70_000u64, Just(65536u64)], 1..4usize)
            .prop_flat_map(|(blocks, slots)| {
                (Just(blocks), Just(slots), prop::collection::vec(operation(blocks, slots), 1..12))
            }),
    ) {
        let (mut bitmap, mut oracle) = (Bitmap::new(blocks, slots), Oracle::new(blocks as usize, slots));
        for operation in operations {
            perform(&mut bitmap, &mut oracle, operation);
        }
    }

    #[test]
    fn any_bytes_can_be_loaded(blocks in 1..80_000u64, slots in 1..5usize, seed in any::<u8>()) {
        let mut bitmap = Bitmap::new(blocks, slots);
        for page in 0..bitmap.page_count() {
            let bytes: Vec<u8> = (0..PAGE_BYTES).map(|byte| seed.wrapping_mul(31).wrapping_add(byte as u8)).collect();
            bitmap.load_page(page, &bytes);
        }
        bitmap.check();
    }

    #[test]
    fn resizing_keeps_the_common_part(old in 1..70_000u64, new in 1..70_000u64, set_new: bool, slots in 1..4usize) {
        let mut bitmap = Bitmap::new(old, slots);
        bitmap.set_range(0, BlockIndex(old / 3), BlockIndex(old));
        bitmap.take_dirty(usize::MAX);
        bitmap.resize(new, set_new);
        bitmap.check();
        for block in 0..new {
            let expected = if block < old { block >= old / 3 } else { set_new };
            prop_assert_eq!(bitmap.is_set(0, BlockIndex(block)), expected);
        }
        if slots > 1 {
            prop_assert_eq!(bitmap.count(1), if set_new { new.saturating_sub(old) } else { 0 });
        }
        if new > old {
            let pages = bitmap.pages_of(BlockIndex(old), BlockIndex(new));
            prop_assert!((pages.start..bitmap.page_count()).all(|page| bitmap.is_dirty(page)));
        }
    }
}

#[test]
fn bits_past_the_end_are_never_set() {
    let mut bitmap = Bitmap::new(70, 1);
    assert_eq!(bitmap.set_range(0, BlockIndex(60), BlockIndex(1000)), 10);
    assert_eq!(bitmap.merge_bytes(0, 1, &[0xff; 16]), 0);
    bitmap.load_page(0, &[0xff; PAGE_BYTES]);
    assert_eq!((bitmap.count(0), bitmap.word(0, 1), bitmap.word(0, 2)), (70, 0x3f, 0));
    assert!(!bitmap.is_set(0, BlockIndex(70)));
}

#[test]
fn a_failed_page_write_is_taken_again() {
    let mut bitmap = Bitmap::new(200_000, 1);
    bitmap.set_range(0, BlockIndex(0), BlockIndex(1));
    bitmap.set_range(0, BlockIndex(100_000), BlockIndex(100_001));
    assert_eq!(bitmap.take_dirty(1), [0]);
    bitmap.mark_dirty(0);
    assert_eq!(bitmap.take_dirty(1), [3], "the others come first");
    assert_eq!(bitmap.take_dirty(9), [0]);
}

#[test]
fn a_volume_of_15_tib_is_searched_at_once() {
    let blocks = 15 << 28;
    let mut bitmap = Bitmap::new(blocks, 1);
    let last = BlockIndex(blocks - 1);
    assert_eq!(bitmap.next_set(0, BlockIndex(0)), None);
    bitmap.set_range(0, last, BlockIndex(blocks));
    for _ in 0..100 {
        assert_eq!(bitmap.next_set(0, BlockIndex(1)), Some(last));
    }
    assert_eq!(bitmap.count_range(0, BlockIndex(5), BlockIndex(blocks)), 1);
    assert_eq!(bitmap.words[0].capacity() as u64 * 64, blocks, "no memory but the bits");
}

/// The tables of the interleave say so, but a reader of `pages_of` relies on it: evicting an extent writes these pages.
#[test]
fn pages_of_an_extent_hold_its_bits_in_all_slots() {
    for slots in 1..=4 {
        let mut bitmap = Bitmap::new(100_000, slots);
        for first in (0..100_000).step_by(1024).map(BlockIndex) {
            let end = BlockIndex(first.0 + 1024);
            let pages = bitmap.pages_of(first, end);
            bitmap.set_everywhere(first, end, None);
            assert!(bitmap.dirty_pages().eq(pages.clone()), "{slots} slots, {first:?}");
            pages.for_each(|page| assert!(bitmap.take_page(page)));
        }
    }
}

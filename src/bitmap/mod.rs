//! Which blocks of a volume may differ from which peer: one bit a block, one slot a peer.
//!
//! The bits live in memory as 64-bit words, slot by slot; on disk the slots are interleaved (`page`). A change marks
//! the disk page it belongs to as *dirty*: a bit whose page is clean is on disk as it is in memory, provided the write
//! of every page handed out by [`Bitmap::take_dirty`] succeeded ([`Bitmap::mark_dirty`] otherwise).
//!
//! Above the words stands a tally per chunk of 32768 bits, so that sums are kept and searches over the sparse bitmap
//! of a large volume step over 128 MiB of data at a time. A volume of 15 TiB costs 480 MiB a slot, plus 240 KiB of
//! tallies and 15 KiB of marks.
//!
//! Invariants: no bit past the last block is set; tallies and sums equal the bits; a changed bit's page is dirty.
//!
//! Not here: when pages are written, the wire's compressed form, which peer owns which slot.

mod dirty;
mod edit;
mod page;
mod search;
mod tally;
#[cfg(test)]
mod tests;

use std::ops::Range;

use self::dirty::DirtyPages;
pub use self::page::PAGE_BYTES;
use self::tally::Tally;
use crate::model::units::BlockIndex;

const WORD_BITS: u64 = u64::BITS as u64;

/// The bitmaps of one volume, one slot per peer (and, with v09 metadata, per place kept for a later peer).
#[derive(Clone, Debug)]
pub struct Bitmap {
    blocks: u64,
    /// Per slot, the bits; kept apart from the tallies because the page codec reads and writes bare words.
    words: Vec<Vec<u64>>,
    tallies: Vec<Tally>,
    dirty: DirtyPages,
}

impl Bitmap {
    /// A bitmap of `blocks` blocks and `slots` slots, all clear and all clean. At least one slot is needed.
    #[must_use]
    pub fn new(blocks: u64, slots: usize) -> Self {
        assert!((1..=32).contains(&slots), "metadata knows 1 to 32 slots");
        let words = words_for(blocks);
        Self {
            blocks,
            words: (0..slots).map(|_| vec![0; words]).collect(),
            tallies: (0..slots).map(|_| Tally::new(words)).collect(),
            dirty: DirtyPages::new(page::count(blocks, slots)),
        }
    }

    /// How many blocks the volume has.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// How many slots there are.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.words.len()
    }

    /// Words of 64 bits in each slot.
    #[must_use]
    pub fn words(&self) -> usize {
        words_for(self.blocks)
    }

    /// Changes the number of blocks. New blocks are set in every slot or clear; pages that are new, and the page where
    /// old and new meet, become dirty, because the disk may hold anything there.
    pub fn resize(&mut self, blocks: u64, set_new: bool) {
        let old_blocks = self.blocks;
        if blocks < old_blocks {
            for slot in 0..self.slots() {
                self.clear_range(slot, BlockIndex(blocks), BlockIndex(old_blocks));
            }
        }
        self.blocks = blocks;
        let (words, pages) = (self.words(), page::count(blocks, self.slots()));
        for (bits, tally) in self.words.iter_mut().zip(&mut self.tallies) {
            bits.resize(words, 0);
            bits.shrink_to_fit();
            tally.resize(words);
        }
        self.dirty.resize(pages);
        if blocks > old_blocks {
            for page in page::containing(old_blocks, blocks, self.slots()).start..pages {
                self.dirty.mark(page);
            }
            if set_new {
                self.set_everywhere(BlockIndex(old_blocks), BlockIndex(blocks), None);
            }
        }
    }

    /// Whether the bit of `block` is set; false past the end.
    #[must_use]
    pub fn is_set(&self, slot: usize, block: BlockIndex) -> bool {
        block.0 < self.blocks && self.words[slot][(block.0 / WORD_BITS) as usize] >> (block.0 % WORD_BITS) & 1 == 1
    }

    /// How many bits of the slot are set. Costs nothing.
    #[must_use]
    pub fn count(&self, slot: usize) -> u64 {
        self.tallies[slot].total()
    }

    /// Word `index` of the slot: blocks `64 * index ..`, lowest bit first; 0 past the end.
    #[must_use]
    pub fn word(&self, slot: usize, index: usize) -> u64 {
        self.words[slot].get(index).copied().unwrap_or(0)
    }

    /// All words of the slot.
    #[must_use]
    pub fn slot(&self, slot: usize) -> &[u64] {
        &self.words[slot]
    }

    /// How many pages of 4096 bytes the bitmap takes on disk.
    #[must_use]
    pub fn page_count(&self) -> usize {
        page::count(self.blocks, self.slots())
    }

    /// The pages that hold the bits `first..end` of all slots.
    #[must_use]
    pub fn pages_of(&self, first: BlockIndex, end: BlockIndex) -> Range<usize> {
        page::containing(first.0, end.0.min(self.blocks), self.slots())
    }

    /// Whether the page changed since it was last taken (or loaded).
    #[must_use]
    pub fn is_dirty(&self, page: usize) -> bool {
        self.dirty.is_marked(page)
    }

    /// How many pages are dirty.
    #[must_use]
    pub fn dirty_count(&self) -> usize {
        self.dirty.count()
    }

    /// The dirty pages, in order.
    pub fn dirty_pages(&self) -> impl Iterator<Item = usize> + '_ {
        self.dirty.iter()
    }

    /// Marks up to `max` dirty pages clean and returns them, going round the area so that none waits forever. Each
    /// must be encoded now or later and written; if that fails, [`Self::mark_dirty`] it.
    pub fn take_dirty(&mut self, max: usize) -> Vec<usize> {
        self.dirty.take(max)
    }

    /// Marks one page clean, because its content as of now is about to be written; false if it was clean.
    pub fn take_page(&mut self, page: usize) -> bool {
        self.dirty.unmark(page)
    }

    /// Marks a page dirty: its write failed, or the disk holds something else.
    pub fn mark_dirty(&mut self, page: usize) {
        assert!(page < self.page_count(), "the page belongs to this bitmap");
        self.dirty.mark(page);
    }

    /// Marks every page dirty: the area on disk was never written, or moved.
    pub fn mark_all_dirty(&mut self) {
        (0..self.page_count()).for_each(|page| self.dirty.mark(page));
    }

    /// The bytes of a page as they belong on disk; `out` must be [`PAGE_BYTES`] long.
    pub fn encode_page(&self, page: usize, out: &mut [u8]) {
        assert!(page < self.page_count(), "the page belongs to this bitmap");
        let out: &mut [u8; PAGE_BYTES] = out.try_into().expect("a page buffer has 4096 bytes");
        let slots: Vec<&[u64]> = self.words.iter().map(Vec::as_slice).collect();
        page::encode_page(&slots, page, out);
    }

    /// Takes over a page as read from disk, ignoring bits past the end. The page's mark is not touched.
    pub fn load_page(&mut self, page: usize, bytes: &[u8]) {
        assert!(page < self.page_count(), "the page belongs to this bitmap");
        let bytes: &[u8; PAGE_BYTES] = bytes.try_into().expect("a page buffer has 4096 bytes");
        page::decode_page(page, bytes, &mut self.words);
        let words = page::words_in(page, self.slots(), self.words());
        for (bits, tally) in self.words.iter_mut().zip(&mut self.tallies) {
            mask_tail(bits, self.blocks);
            tally.recount(bits, words.clone());
        }
    }

    /// Asserts the invariants; slow.
    pub fn check(&self) {
        for (bits, tally) in self.words.iter().zip(&self.tallies) {
            assert_eq!(bits.len(), words_for(self.blocks), "words fit the number of blocks");
            if let Some(last) = bits.last() {
                assert_eq!(last & !tail_mask(self.blocks), 0, "no bit past the end is set");
            }
            tally.check(bits);
        }
        self.dirty.check(self.page_count());
    }
}

/// Words of 64 bits that hold `blocks` bits.
fn words_for(blocks: u64) -> usize {
    usize::try_from(blocks.div_ceil(WORD_BITS)).expect("a bitmap fits the address space")
}

/// The valid bits of the last word.
fn tail_mask(blocks: u64) -> u64 {
    match blocks % WORD_BITS {
        0 => u64::MAX,
        bits => (1 << bits) - 1,
    }
}

/// Clears what the last word holds past the end.
fn mask_tail(bits: &mut [u64], blocks: u64) {
    if let Some(last) = bits.last_mut() {
        *last &= tail_mask(blocks);
    }
}

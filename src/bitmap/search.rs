//! Looking for bits: next set, next clear, how many in a range. Uniform chunks are stepped over by their tally.

use super::tally::{CHUNK_WORDS, ones};
use super::{Bitmap, WORD_BITS, tail_mask};
use crate::model::units::BlockIndex;

impl Bitmap {
    /// The first set bit of the slot at or after `from`.
    #[must_use]
    pub fn next_set(&self, slot: usize, from: BlockIndex) -> Option<BlockIndex> {
        self.next(slot, from, 0, 0)
    }

    /// The first clear bit of the slot at or after `from`.
    #[must_use]
    pub fn next_clear(&self, slot: usize, from: BlockIndex) -> Option<BlockIndex> {
        self.next(slot, from, u64::MAX, CHUNK_WORDS as u64 * WORD_BITS)
    }

    /// How many bits of `first..end` are set in the slot.
    #[must_use]
    pub fn count_range(&self, slot: usize, first: BlockIndex, end: BlockIndex) -> u64 {
        let end = end.0.min(self.blocks);
        if first.0 >= end {
            return 0;
        }
        let bits = &self.words[slot];
        let (first_word, last_word) = ((first.0 / WORD_BITS) as usize, ((end - 1) / WORD_BITS) as usize);
        let (first_mask, last_mask) = (u64::MAX << (first.0 % WORD_BITS), tail_mask(end));
        if first_word == last_word {
            return (bits[first_word] & first_mask & last_mask).count_ones().into();
        }
        let edges = (bits[first_word] & first_mask).count_ones() + (bits[last_word] & last_mask).count_ones();
        u64::from(edges) + self.count_words(slot, first_word + 1, last_word)
    }

    /// Set bits in the words `first..end`, whole chunks by their tally.
    fn count_words(&self, slot: usize, first: usize, end: usize) -> u64 {
        let bits = &self.words[slot];
        let (first_chunk, end_chunk) = (first.div_ceil(CHUNK_WORDS), end / CHUNK_WORDS);
        if first_chunk >= end_chunk {
            return ones(&bits[first..end]);
        }
        let (head, tail) = (&bits[first..first_chunk * CHUNK_WORDS], &bits[end_chunk * CHUNK_WORDS..end]);
        ones(head) + self.tallies[slot].chunks(first_chunk..end_chunk) + ones(tail)
    }

    /// The first bit at or after `from` that is not as in `dull`; a chunk whose count is `dull_count` holds none.
    fn next(&self, slot: usize, from: BlockIndex, dull: u64, dull_count: u64) -> Option<BlockIndex> {
        if from.0 >= self.blocks {
            return None;
        }
        let (bits, tally) = (&self.words[slot], &self.tallies[slot]);
        let mut index = (from.0 / WORD_BITS) as usize;
        let mut wanted = (bits[index] ^ dull) & u64::MAX << (from.0 % WORD_BITS);
        while wanted == 0 {
            index += 1;
            while index.is_multiple_of(CHUNK_WORDS) && index < bits.len() {
                if tally.chunk(index / CHUNK_WORDS) != dull_count {
                    break;
                }
                index += CHUNK_WORDS;
            }
            wanted = bits.get(index)? ^ dull;
        }
        let found = index as u64 * WORD_BITS + u64::from(wanted.trailing_zeros());
        (found < self.blocks).then_some(BlockIndex(found))
    }
}

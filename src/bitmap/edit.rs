//! Setting, clearing and merging. Every change of a word goes through [`Bitmap::or_word`] or [`Bitmap::and_not_word`],
//! except whole chunks that turn from all clear to all set or back.

use super::tally::{CHUNK_WORDS, chunk_words};
use super::{Bitmap, WORD_BITS, page, tail_mask};
use crate::model::units::BlockIndex;

impl Bitmap {
    /// Sets the bits `first..end` of one slot (cut at the last block); returns how many were clear.
    pub fn set_range(&mut self, slot: usize, first: BlockIndex, end: BlockIndex) -> u64 {
        self.edit_range(slot, first, end, true)
    }

    /// Clears the bits `first..end` of one slot; returns how many were set.
    pub fn clear_range(&mut self, slot: usize, first: BlockIndex, end: BlockIndex) -> u64 {
        self.edit_range(slot, first, end, false)
    }

    /// Sets the bits in every slot but `except`, allocated to a peer or not: slots without a peer must know each change
    /// since the volume was made, or a peer that later inherits one loses data.
    pub fn set_everywhere(&mut self, first: BlockIndex, end: BlockIndex, except: Option<usize>) {
        for slot in (0..self.slots()).filter(|&slot| Some(slot) != except) {
            self.set_range(slot, first, end);
        }
    }

    /// Sets every bit of the slot.
    pub fn set_all(&mut self, slot: usize) {
        self.set_range(slot, BlockIndex(0), BlockIndex(self.blocks));
    }

    /// Clears every bit of the slot.
    pub fn clear_all(&mut self, slot: usize) {
        self.clear_range(slot, BlockIndex(0), BlockIndex(self.blocks));
    }

    /// Ors little endian 64-bit words into the slot from word `word_index` on; a short last word counts as padded with
    /// zeros, what lies past the end is ignored. Returns how many bits were newly set.
    pub fn merge_bytes(&mut self, slot: usize, word_index: usize, bytes: &[u8]) -> u64 {
        let mut newly_set = 0;
        for (offset, bytes) in bytes.chunks(8).enumerate() {
            let Some(index) = word_index.checked_add(offset).filter(|&index| index < self.words()) else { break };
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            newly_set += self.or_word(slot, index, u64::from_le_bytes(word));
        }
        newly_set
    }

    /// Ors the bits of slot `from` into slot `into`; returns how many were newly set there.
    pub fn merge_slot(&mut self, from: usize, into: usize) -> u64 {
        let words = self.words();
        let mut newly_set = 0;
        for chunk in 0..words.div_ceil(CHUNK_WORDS) {
            if self.tallies[from].chunk(chunk) == 0 {
                continue;
            }
            for index in chunk_words(chunk, words) {
                newly_set += self.or_word(into, index, self.words[from][index]);
            }
        }
        newly_set
    }

    fn edit_range(&mut self, slot: usize, first: BlockIndex, end: BlockIndex, set: bool) -> u64 {
        let end = end.0.min(self.blocks);
        if first.0 >= end {
            return 0;
        }
        let (first_word, last_word) = ((first.0 / WORD_BITS) as usize, ((end - 1) / WORD_BITS) as usize);
        let (first_mask, last_mask) = (u64::MAX << (first.0 % WORD_BITS), tail_mask(end));
        let mut changed = 0;
        let mut index = first_word;
        while index <= last_word {
            if let Some((next, bits)) = self.edit_chunk(slot, index, first.0, end, set) {
                (index, changed) = (next, changed + bits);
                continue;
            }
            let mut mask = u64::MAX;
            mask &= if index == first_word { first_mask } else { u64::MAX };
            mask &= if index == last_word { last_mask } else { u64::MAX };
            changed += if set { self.or_word(slot, index, mask) } else { self.and_not_word(slot, index, mask) };
            index += 1;
        }
        changed
    }

    /// The way over a chunk that lies wholly within `first..end` and is uniform; `index` is its first word. Returns the
    /// word after it and how many bits changed; `None` where words must be looked at one by one.
    fn edit_chunk(&mut self, slot: usize, index: usize, first: u64, end: u64, set: bool) -> Option<(usize, u64)> {
        let words = chunk_words(index / CHUNK_WORDS, self.words());
        let bits = words.start as u64 * WORD_BITS..(words.end as u64 * WORD_BITS).min(self.blocks);
        if words.start != index || bits.start < first || bits.end > end {
            return None;
        }
        let (chunk, size) = (index / CHUNK_WORDS, bits.end - bits.start);
        match (set, self.tallies[slot].chunk(chunk)) {
            (true, count) if count == size => return Some((words.end, 0)),
            (false, 0) => return Some((words.end, 0)),
            (true, 0) => self.tallies[slot].add(chunk, size),
            (false, count) if count == size => self.tallies[slot].subtract(chunk, size),
            _ => return None,
        }
        self.words[slot][words.clone()].fill(if set { u64::MAX } else { 0 });
        super::mask_tail(&mut self.words[slot], self.blocks);
        let pages = page::of_range(bits.start, bits.end, slot, self.slots());
        pages.for_each(|page| self.dirty.mark(page));
        Some((words.end, size))
    }

    fn or_word(&mut self, slot: usize, index: usize, mask: u64) -> u64 {
        let valid = if index + 1 == self.words[slot].len() { tail_mask(self.blocks) } else { u64::MAX };
        let word = &mut self.words[slot][index];
        let changed = mask & valid & !*word;
        *word |= changed;
        self.tallies[slot].add(index / CHUNK_WORDS, changed.count_ones().into());
        self.mark_word(slot, index, changed)
    }

    fn and_not_word(&mut self, slot: usize, index: usize, mask: u64) -> u64 {
        let word = &mut self.words[slot][index];
        let changed = mask & *word;
        *word &= !changed;
        self.tallies[slot].subtract(index / CHUNK_WORDS, changed.count_ones().into());
        self.mark_word(slot, index, changed)
    }

    /// Marks the pages of the changed bits of a word; returns how many bits changed.
    fn mark_word(&mut self, slot: usize, index: usize, changed: u64) -> u64 {
        if changed != 0 {
            let (low, high) = page::of_word(index, slot, self.slots());
            if changed as u32 != 0 {
                self.dirty.mark(low);
            }
            if changed >> 32 != 0 {
                self.dirty.mark(high);
            }
        }
        changed.count_ones().into()
    }
}

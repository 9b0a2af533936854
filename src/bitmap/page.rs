//! The bitmap's area on disk: slots interleaved in little endian words of 32 bits, in pages of 4096 bytes.
//!
//! ```text
//! area word:   0     1     2     3     4     5    ...          with 3 slots
//! holds:      w0s0  w0s1  w0s2  w1s0  w1s1  w1s2  ...          word w of slot s is area word w * slots + s
//! ```
//!
//! With one slot this is the plain bit stream of v08.

use std::ops::Range;

/// Bytes in a page.
pub const PAGE_BYTES: usize = 4096;
const PAGE_WORDS: usize = PAGE_BYTES / 4;

/// How many pages hold `blocks` bits of `slots` slots; space comes in 64 bits a slot.
pub(super) fn count(blocks: u64, slots: usize) -> usize {
    (super::words_for(blocks) * 2 * slots).div_ceil(PAGE_WORDS)
}

/// The pages that hold bits `first..end` of any slot.
pub(super) fn containing(first: u64, end: u64, slots: usize) -> Range<usize> {
    if end <= first {
        return 0..0;
    }
    let word = |bit: u64| (bit / 32) as usize * slots;
    word(first) / PAGE_WORDS..(word(end - 1) + slots - 1) / PAGE_WORDS + 1
}

/// The pages that hold bits `first..end` of one slot; the range must not be empty.
pub(super) fn of_range(first: u64, end: u64, slot: usize, slots: usize) -> Range<usize> {
    let page = |bit: u64| ((bit / 32) as usize * slots + slot) / PAGE_WORDS;
    page(first)..page(end - 1) + 1
}

/// The pages that hold the two halves of the 64-bit word `index` of one slot; often the same page.
pub(super) fn of_word(index: usize, slot: usize, slots: usize) -> (usize, usize) {
    let low = index * 2 * slots + slot;
    (low / PAGE_WORDS, (low + slots) / PAGE_WORDS)
}

/// The 64-bit words (of all slots) that may have a half in the page, cut at `words`.
pub(super) fn words_in(page: usize, slots: usize, words: usize) -> Range<usize> {
    let first = page * PAGE_WORDS / slots / 2;
    let last = ((page + 1) * PAGE_WORDS - 1) / slots / 2;
    first.min(words)..(last + 1).min(words)
}

/// Writes the page's bytes; places past the last word are zero.
pub(super) fn encode_page(slots: &[&[u64]], page: usize, out: &mut [u8; PAGE_BYTES]) {
    for (area_word, bytes) in (page * PAGE_WORDS..).zip(out.chunks_exact_mut(4)) {
        let (word, slot) = (area_word / slots.len(), area_word % slots.len());
        let pair = slots[slot].get(word / 2).copied().unwrap_or(0);
        bytes.copy_from_slice(&((pair >> (word % 2 * 32)) as u32).to_le_bytes());
    }
}

/// Takes the page's bytes over into the slots; places past the last word are ignored.
pub(super) fn decode_page(page: usize, bytes: &[u8; PAGE_BYTES], slots: &mut [Vec<u64>]) {
    for (area_word, bytes) in (page * PAGE_WORDS..).zip(bytes.chunks_exact(4)) {
        let (word, slot) = (area_word / slots.len(), area_word % slots.len());
        let half = u32::from_le_bytes(bytes.try_into().expect("chunks of four bytes"));
        if let Some(pair) = slots[slot].get_mut(word / 2) {
            let shift = word % 2 * 32;
            *pair = *pair & !(u64::from(u32::MAX) << shift) | u64::from(half) << shift;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_interleave_as_the_tool_that_owns_the_format_writes_them() {
        let slots: [&[u64]; 3] = [
            &[0x1111_1111_2222_2222, 0x3333_3333_4444_4444, 0],
            &[0xaaaa_aaaa_bbbb_bbbb, 0xcccc_cccc_dddd_dddd, 0],
            &[1, 0, 0x8000_0000_0000_0000],
        ];
        let mut page = [0xff; PAGE_BYTES];
        encode_page(&slots, 0, &mut page);
        assert_eq!(page[..12], [0x22, 0x22, 0x22, 0x22, 0xbb, 0xbb, 0xbb, 0xbb, 1, 0, 0, 0]);
        assert_eq!(page[12..24], [0x11, 0x11, 0x11, 0x11, 0xaa, 0xaa, 0xaa, 0xaa, 0, 0, 0, 0]);
        assert_eq!(page[0x44..0x48], [0, 0, 0, 0x80]);
        let mut back = vec![vec![7u64; 3]; 3];
        decode_page(0, &page, &mut back);
        assert_eq!(back, slots.map(<[u64]>::to_vec));
    }

    #[test]
    fn one_slot_is_a_plain_bit_stream() {
        let slots: [&[u64]; 1] = [&[0x0123_4567_89ab_cdef]];
        let mut page = [0; PAGE_BYTES];
        encode_page(&slots, 0, &mut page);
        assert_eq!(page[..8], [0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01]);
        assert_eq!(count(32768, 1), 1);
        assert_eq!(count(32769, 1), 2);
    }

    #[test]
    fn pages_of_a_range_cover_every_slot() {
        for slots in 1..=7 {
            for bit in (0..40_000).step_by(97) {
                let pages = containing(bit, bit + 1, slots);
                for slot in 0..slots {
                    let area_word = (bit / 32) as usize * slots + slot;
                    assert!(pages.contains(&(area_word / PAGE_WORDS)));
                    let (low, high) = of_word((bit / 64) as usize, slot, slots);
                    assert_eq!(area_word / PAGE_WORDS, if bit % 64 < 32 { low } else { high });
                }
            }
        }
    }
}

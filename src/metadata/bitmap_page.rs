//! The bitmap as it lies on disk: the slots of all peers interleaved in 32-bit little-endian words.
//!
//! ```text
//! P = 3:  | word 0 of slot 0 | word 0 of slot 1 | word 0 of slot 2 | word 1 of slot 0 | ...      4 bytes each
//! ```
//!
//! In memory each slot is a run of 64-bit words, bit `b` of a slot being bit `b % 64` of word `b / 64`; the low half
//! of such a word is the lower-numbered half word on disk. With one slot the disk is the words, little-endian.
//! A *page* is 4096 bytes of the area, 1024 half words, whatever slots they belong to.
//!
//! Not here: what a set bit means, and bits past the end of the device (they are carried along as they are).

use std::ops::Range;

use super::METADATA_BLOCK_BYTES;
use crate::model::units::BlockIndex;

const HALF_BYTES: usize = 4;
/// Half words (32 bits) in a page.
const PAGE_HALVES: usize = METADATA_BLOCK_BYTES / HALF_BYTES;
const HALF_BITS: u64 = 32;

/// How many pages `bits` bits of `max_peers` slots take: each slot in whole 64-bit words, together in whole pages.
#[must_use]
pub fn page_count(bits: u64, max_peers: u32) -> usize {
    let words = u128::from(bits.div_ceil(64)) * u128::from(max_peers);
    usize::try_from((words * 8).div_ceil(METADATA_BLOCK_BYTES as u128)).unwrap_or(usize::MAX)
}

/// 64-bit words each slot needs so that together they hold every byte of an area of `area_bytes`.
///
/// Where `max_peers` does not divide the area the last words hang over its end; pages leave those parts out.
#[must_use]
pub fn slot_words(area_bytes: u64, max_peers: u32) -> usize {
    let halves = area_bytes.div_ceil(HALF_BYTES as u64);
    halves.div_ceil(u64::from(max_peers.max(1))).div_ceil(2) as usize
}

/// The pages that hold the bits `first..end`, of all slots.
#[must_use]
pub fn pages_for_blocks(max_peers: u32, first: BlockIndex, end: BlockIndex) -> Range<usize> {
    if end <= first {
        return 0..0;
    }
    let peers = u64::from(max_peers);
    let first_half = first.0 / HALF_BITS * peers;
    let end_half = ((end.0 - 1) / HALF_BITS + 1) * peers;
    (first_half / PAGE_HALVES as u64) as usize..end_half.div_ceil(PAGE_HALVES as u64) as usize
}

/// Writes page number `page` of the area made of `slots`; a slot that ends early counts as zero behind its end.
pub fn encode_page(slots: &[&[u64]], page: usize, out: &mut [u8; METADATA_BLOCK_BYTES]) {
    if let [words] = slots {
        return encode_single(words, page, out);
    }
    let first = page * PAGE_HALVES;
    for (position, bytes) in out.as_chunks_mut::<HALF_BYTES>().0.iter_mut().enumerate() {
        *bytes = half(slots, first + position).to_le_bytes();
    }
}

/// Stores page number `page` of the area into `slots`; what lies behind the end of a slot is dropped.
pub fn decode_page(page: usize, bytes: &[u8], slots: &mut [Vec<u64>]) {
    if let [words] = slots {
        return decode_single(page, bytes, words);
    }
    let (count, first) = (slots.len(), page * PAGE_HALVES);
    if count == 0 {
        return;
    }
    for (position, bytes) in bytes.as_chunks::<HALF_BYTES>().0.iter().take(PAGE_HALVES).enumerate() {
        let (index, slot) = ((first + position) / count, (first + position) % count);
        if let Some(word) = slots[slot].get_mut(index / 2) {
            let shift = index % 2 * HALF_BITS as usize;
            *word = *word & !(0xFFFF_FFFF << shift) | u64::from(u32::from_le_bytes(*bytes)) << shift;
        }
    }
}

/// Half word `number` of the interleaved area.
fn half(slots: &[&[u64]], number: usize) -> u32 {
    if slots.is_empty() {
        return 0;
    }
    let (index, slot) = (number / slots.len(), number % slots.len());
    let word = slots[slot].get(index / 2).copied().unwrap_or(0);
    (word >> (index % 2 * HALF_BITS as usize)) as u32
}

fn encode_single(words: &[u64], page: usize, out: &mut [u8; METADATA_BLOCK_BYTES]) {
    let words = words.get(page * PAGE_HALVES / 2..).unwrap_or(&[]);
    let (mut written, chunks) = (0, out.as_chunks_mut::<8>().0);
    for (bytes, word) in chunks.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
        written += 1;
    }
    chunks[written..].fill([0; 8]);
}

fn decode_single(page: usize, bytes: &[u8], words: &mut [u64]) {
    let words = words.get_mut(page * PAGE_HALVES / 2..).unwrap_or(&mut []);
    for (bytes, word) in bytes.as_chunks::<8>().0.iter().take(PAGE_HALVES / 2).zip(words) {
        *word = u64::from_le_bytes(*bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slots_interleave_in_half_words() {
        let slots: [&[u64]; 3] = [&[0x1111111122222222, 0x3333333344444444], &[0xAAAAAAAABBBBBBBB], &[1, 0, 1 << 63]];
        let mut page = [0xFF; 4096];
        encode_page(&slots, 0, &mut page);
        let expected = "22222222bbbbbbbb0100000011111111aaaaaaaa0000000044444444";
        let found: String = page[..28].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, expected);
        assert_eq!(page[0x44..0x48], [0, 0, 0, 0x80]);
        assert!(page[0x48..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn the_pages_of_a_range_hold_its_first_and_last_bit() {
        let pages = |peers, first, end| pages_for_blocks(peers, BlockIndex(first), BlockIndex(end));
        assert_eq!(pages(1, 0, 32768), 0..1);
        assert_eq!(pages(1, 32767, 32769), 0..2);
        assert_eq!(pages(1, 5, 5), 0..0);
        assert_eq!(pages(3, 10912, 10913), 0..2, "half word 341 of slot 0 is number 1023, of slot 1 the next page's");
        assert_eq!(pages(31, 0, 1), 0..1);
        assert_eq!((page_count(0, 3), page_count(12500, 3), page_count(32768, 1), page_count(32769, 1)), (0, 2, 1, 2));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn pages_survive_the_round_trip(peers in 1usize..=31, words in 1usize..300, seed: u64) {
            let mut state = seed;
            let mut next = || { state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); state };
            let slots: Vec<Vec<u64>> = (0..peers).map(|_| (0..words).map(|_| next()).collect()).collect();
            let views: Vec<&[u64]> = slots.iter().map(Vec::as_slice).collect();
            let mut read = vec![vec![u64::MAX; words]; peers];
            let mut page = [0; 4096];
            for number in 0..page_count(words as u64 * 64, peers as u32) {
                encode_page(&views, number, &mut page);
                for (position, bytes) in page.as_chunks::<4>().0.iter().enumerate() {
                    let at = number * 1024 + position;
                    let word = slots[at % peers].get(at / peers / 2).copied().unwrap_or(0);
                    prop_assert_eq!(u32::from_le_bytes(*bytes), (word >> (at / peers % 2 * 32)) as u32);
                }
                decode_page(number, &page, &mut read);
            }
            prop_assert_eq!(read, slots);
        }

        #[test]
        fn any_bytes_can_be_decoded(bytes: Vec<u8>, page in 0usize..10, slots in 0usize..5) {
            decode_page(page, &bytes, &mut vec![vec![0; 7]; slots]);
        }
    }
}

//! Arbitrary bytes as pages of a bitmap with any number of slots of any length: what fits is written back as it was read,
//! and nothing else of the bitmap changes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shimai::metadata::bitmap_page::{decode_page, encode_page, page_count};

/// A page.
const PAGE: usize = 4096;
/// As many slots as DRBD has.
const SLOTS_MAX: usize = 32;
/// Marks what no page may change.
const FILL: u64 = 0xA5A5_5A5A_A5A5_5A5A;

fuzz_target!(|input: &[u8]| {
    let Some((&[count, page, low, high], bytes)) = input.split_first_chunk::<4>() else { return };
    let (count, page) = (usize::from(count) % (SLOTS_MAX + 1), usize::from(page) % 8);
    let words = usize::from(u16::from_le_bytes([low, high])) % 4096;
    arbitrary_length(count, page, words, bytes);
    if let Some(whole) = bytes.first_chunk::<PAGE>() {
        whole_page(count.max(1), page, whole);
    }
});

/// Slots that end anywhere, each somewhere else: once stored, a page stays as it is.
fn arbitrary_length(count: usize, page: usize, words: usize, bytes: &[u8]) {
    let mut slots: Vec<Vec<u64>> = (0..count).map(|slot| vec![FILL; words.saturating_sub(slot * 3)]).collect();
    decode_page(page, bytes, &mut slots);
    let (first, before) = (encoded(&slots, page), slots.clone());
    decode_page(page, &first, &mut slots);
    assert_eq!(slots, before, "a page that is written and read changes nothing");
    for other in (0..8).filter(|&other| other != page) {
        let untouched: Vec<Vec<u64>> = slots.iter().map(|slot| vec![FILL; slot.len()]).collect();
        assert_eq!(
            encoded(&slots, other),
            encoded(&untouched, other),
            "page {other} is none of page {page}'s business"
        );
    }
}

/// Slots that reach behind the page: all of it comes back.
fn whole_page(count: usize, page: usize, bytes: &[u8; PAGE]) {
    let mut slots = vec![vec![0; (page + 1) * PAGE / 8]; count];
    decode_page(page, bytes, &mut slots);
    assert_eq!(&encoded(&slots, page), bytes, "a page comes back as it went");
    assert!(page_count(slots[0].len() as u64 * 64, count as u32) > page, "the page is part of the area");
}

fn encoded(slots: &[Vec<u64>], page: usize) -> [u8; PAGE] {
    let views: Vec<&[u64]> = slots.iter().map(Vec::as_slice).collect();
    let mut bytes = [0; PAGE];
    encode_page(&views, page, &mut bytes);
    bytes
}

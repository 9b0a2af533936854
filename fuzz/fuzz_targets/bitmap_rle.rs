//! Arbitrary bytes as a coded piece of a bitmap, and arbitrary bitmaps coded and read back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shimai::wire::bitmap_rle::{BitSource, decode, encode_runs};

fuzz_target!(|input: &[u8]| {
    let Some((&[low, high, shift, from], rest)) = input.split_first_chunk::<4>() else { return };
    let bits = u64::from(u16::from_le_bytes([low, high])) << (shift % 48);
    let from = bits / 256 * u64::from(from);
    check_runs(rest, from, bits);
    round_trip(rest);
});

/// Runs are inside the bitmap, not empty, and in order.
fn check_runs(payload: &[u8], from: u64, bits: u64) {
    let mut position = from;
    let result = decode(payload, from, bits, &mut |first, end| {
        assert!(position <= first && first < end && end <= bits, "{first}..{end} behind {position}, of {bits}");
        position = end;
    });
    if let Ok(end) = result {
        assert!(position <= end && end <= bits.max(from), "the piece ends inside the bitmap");
    }
}

fn round_trip(words: &[u8]) {
    let source = Bits(words);
    let mut at = 0;
    while let Some((payload, end)) = encode_runs(&source, at, 64) {
        let mut copy = vec![0; words.len()];
        let decoded = decode(&payload, at, source.bits(), &mut |first, end| {
            (first..end).for_each(|bit| copy[(bit / 8) as usize] |= 1 << (bit % 8));
        });
        assert_eq!(decoded, Ok(end), "our own code is understood");
        for bit in at..end {
            assert_eq!(Bits(&copy).is_set(bit), source.is_set(bit), "bit {bit}");
        }
        at = end;
    }
}

/// Bytes as bits, searched one by one.
struct Bits<'a>(&'a [u8]);

impl Bits<'_> {
    fn is_set(&self, bit: u64) -> bool {
        self.0[(bit / 8) as usize] >> (bit % 8) & 1 == 1
    }
}

impl BitSource for Bits<'_> {
    fn bits(&self) -> u64 {
        self.0.len() as u64 * 8
    }

    fn next_set(&self, from: u64) -> Option<u64> {
        (from..self.bits()).find(|&bit| self.is_set(bit))
    }

    fn next_clear(&self, from: u64) -> Option<u64> {
        (from..self.bits()).find(|&bit| !self.is_set(bit))
    }
}

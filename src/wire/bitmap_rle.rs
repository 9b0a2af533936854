//! The run length code of `CompressedBitmap`: which bits are set, as the lengths of alternating runs.
//!
//! ```text
//! byte 0:   bits 0-3  2, the only code      bits 4-6  unused bits at the end      bit 7  value of the first run
//! then      run lengths, each a prefix and a number, filled from the lowest bit of each byte upwards
//! ```
//!
//! A run is never empty, and the last one is explicit too. The `LEVELS` are ranges of lengths; short runs have short
//! codes, so that a bitmap with scattered bits still shrinks.
//!
//! Not here: cutting a bitmap into packets (`bitmap_transfer`).

use bytes::Bytes;
use thiserror::Error;

/// The code's number in byte 0.
const CODE: u8 = 2;

/// A bitmap that can be searched.
pub trait BitSource {
    /// How many bits.
    fn bits(&self) -> u64;
    /// The first set bit at `from` or after.
    fn next_set(&self, from: u64) -> Option<u64>;
    /// The first clear bit at `from` or after.
    fn next_clear(&self, from: u64) -> Option<u64>;
}

/// Why a payload is not a piece of this bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RleError {
    /// Not even a first byte.
    #[error("empty RLE packet")]
    Empty,
    /// Byte 0 names another code.
    #[error("unknown bitmap code {0}")]
    UnknownCode(u8),
    /// The last run length is cut off.
    #[error("bitmap decoding error: {left} bits are too few for a run length")]
    Truncated {
        /// Bits that were left.
        left: u64,
    },
    /// A run goes beyond the last bit.
    #[error("bitmap overflow (e:{end}) while decoding bm RLE packet")]
    Overflow {
        /// The end of the run.
        end: u64,
    },
}

/// One range of run lengths: `prefix` in the lowest `prefix_bits`, above it the length minus `first`.
struct Level {
    bits: u32,
    prefix_bits: u32,
    prefix: u64,
    first: u64,
}

impl Level {
    const fn last(&self) -> u64 {
        self.first + ((1 << (self.bits - self.prefix_bits)) - 1)
    }

    const fn encode(&self, run: u64) -> u64 {
        (run - self.first) << self.prefix_bits | self.prefix
    }

    const fn matches(&self, window: u64) -> bool {
        window & ((1 << self.prefix_bits) - 1) == self.prefix
    }

    const fn decode(&self, window: u64) -> u64 {
        let code = if self.bits == 64 { window } else { window & ((1 << self.bits) - 1) };
        (code >> self.prefix_bits) + self.first
    }
}

const fn level(bits: u32, prefix_bits: u32, prefix: u64, first: u64) -> Level {
    Level { bits, prefix_bits, prefix, first }
}

/// Each begins one after the one before ends.
const LEVELS: [Level; 10] = [
    level(2, 1, 0x00, 1),
    level(3, 2, 0x01, 3),
    level(5, 3, 0x03, 5),
    level(7, 4, 0x07, 9),
    level(10, 5, 0x0f, 17),
    level(14, 6, 0x1f, 49),
    level(21, 8, 0x3f, 305),
    level(29, 8, 0x7f, 8497),
    level(42, 8, 0xbf, 2_105_649),
    level(64, 8, 0xff, 17_181_974_833),
];

/// Codes as many runs from bit `from` as fit `max_bytes`, byte 0 included. Returns the payload and the bit after the last
/// run; `None` when there is nothing to code, when not one run fits, or when the bits themselves would be shorter.
#[must_use]
pub fn encode_runs(source: &(impl BitSource + ?Sized), from: u64, max_bytes: usize) -> Option<(Bytes, u64)> {
    let bits = source.bits();
    if from >= bits {
        return None;
    }
    let first_is_set = source.next_clear(from) != Some(from);
    let mut writer = BitWriter::new(max_bytes.checked_sub(1)?);
    let mut set = first_is_set;
    let mut position = from;
    while position < bits {
        let end = if set { source.next_clear(position) } else { source.next_set(position) };
        let end = end.map_or(bits, |end| end.min(bits));
        assert!(end > position, "the runs of a bitmap alternate and are never empty");
        if !writer.put_run(end - position) {
            break;
        }
        position = end;
        set = !set;
    }
    let (code, unused) = writer.finish();
    if position == from || position - from < code.len() as u64 * 8 {
        return None;
    }
    let mut payload = Vec::with_capacity(1 + code.len());
    payload.push(CODE | unused << 4 | u8::from(first_is_set) << 7);
    payload.extend_from_slice(&code);
    Some((payload.into(), position))
}

/// Calls `set` for each run of set bits, `first` to `end` exclusive, of the piece that begins at bit `from` of a bitmap
/// of `bits` bits. Returns the bit after the last run. Runs before an error have been reported.
pub fn decode(payload: &[u8], from: u64, bits: u64, set: &mut impl FnMut(u64, u64)) -> Result<u64, RleError> {
    let (&first, code) = payload.split_first().ok_or(RleError::Empty)?;
    if first & 0x0f != CODE {
        return Err(RleError::UnknownCode(first & 0x0f));
    }
    let unused = u64::from(first >> 4 & 7);
    let code_bits = (code.len() as u64 * 8).saturating_sub(unused);
    let mut value = first >> 7 == 1;
    let mut position = from;
    let mut at = 0;
    while at < code_bits {
        let (run, used) = decode_run(window(code, at), code_bits - at)?;
        let end = position.saturating_add(run);
        if end > bits {
            return Err(RleError::Overflow { end });
        }
        if value {
            set(position, end);
        }
        position = end;
        value = !value;
        at += used;
    }
    Ok(position)
}

/// The run length at the low end of `window`, of which `left` bits count, and the size of its code.
fn decode_run(window: u64, left: u64) -> Result<(u64, u64), RleError> {
    let level = LEVELS.iter().find(|level| level.matches(window)).expect("the prefixes cover all bytes");
    if u64::from(level.bits) > left {
        return Err(RleError::Truncated { left });
    }
    Ok((level.decode(window), level.bits.into()))
}

/// 64 bits of `code` from bit `at`; zeros beyond its end.
fn window(code: &[u8], at: u64) -> u64 {
    let rest = code.get((at / 8) as usize..).unwrap_or_default();
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(rest.iter().take(9)) {
        *to = *from;
    }
    (u128::from_le_bytes(bytes) >> (at % 8)) as u64
}

/// Collects codes, lowest bit first.
struct BitWriter {
    bytes: Vec<u8>,
    bytes_max: usize,
    /// Bits used in all.
    bits: usize,
}

impl BitWriter {
    fn new(bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), bytes_max, bits: 0 }
    }

    /// False, and nothing written, if the code does not fit.
    fn put_run(&mut self, run: u64) -> bool {
        let Some(level) = LEVELS.iter().find(|level| run <= level.last()) else { return false };
        let after = self.bits + level.bits as usize;
        if after > self.bytes_max * 8 {
            return false;
        }
        let code = u128::from(level.encode(run)) << (self.bits % 8);
        self.bytes.resize(after.div_ceil(8), 0);
        for (to, from) in self.bytes[self.bits / 8..].iter_mut().zip(code.to_le_bytes()) {
            *to |= from;
        }
        self.bits = after;
        true
    }

    /// The bytes, and how many bits of the last one are unused.
    fn finish(self) -> (Vec<u8>, u8) {
        let unused = (self.bytes.len() * 8 - self.bits) as u8;
        (self.bytes, unused)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Set runs by their first bit and end, for bitmaps too large to hold.
    struct Runs {
        bits: u64,
        set: Vec<(u64, u64)>,
    }

    impl BitSource for Runs {
        fn bits(&self) -> u64 {
            self.bits
        }
        fn next_set(&self, from: u64) -> Option<u64> {
            self.set.iter().find(|run| run.1 > from).map(|run| run.0.max(from))
        }
        fn next_clear(&self, from: u64) -> Option<u64> {
            let clear = self.set.iter().find(|run| (run.0..run.1).contains(&from)).map_or(from, |run| run.1);
            (clear < self.bits).then_some(clear)
        }
    }

    fn decoded(payload: &[u8], from: u64, bits: u64) -> (Vec<(u64, u64)>, Result<u64, RleError>) {
        let mut runs = Vec::new();
        let result = decode(payload, from, bits, &mut |first, end| runs.push((first, end)));
        (runs, result)
    }

    #[test]
    fn all_bits_set_is_one_run() {
        let source = Runs { bits: 16374, set: vec![(0, 16374)] };
        let (payload, end) = encode_runs(&source, 0, 4080).unwrap();
        assert_eq!((&payload[..], end), (&[0xb2, 0x7f, 0xc5, 0x1e, 0x00][..], 16374));
        assert_eq!(decoded(&payload, 0, 16374), (vec![(0, 16374)], Ok(16374)));
    }

    #[test]
    fn four_scattered_bits_are_five_runs() {
        let source = Runs { bits: 16374, set: vec![(100, 103), (777, 778)] };
        let (payload, end) = encode_runs(&source, 0, 4080).unwrap();
        assert_eq!(&payload[..], [0x32, 0xdf, 0x4c, 0x7e, 0xe2, 0x02, 0x7f, 0xbb, 0x1b, 0x00]);
        assert_eq!(end, 16374);
        assert_eq!(decoded(&payload, 0, 16374), (vec![(100, 103), (777, 778)], Ok(16374)));
    }

    #[test]
    fn levels_join_without_gaps() {
        let expected_last = [2, 4, 8, 16, 48, 304, 8496, 2_105_648, 17_181_974_832, (1 << 56) + 17_181_974_832];
        let mut next = 1;
        for (level, last) in LEVELS.iter().zip(expected_last) {
            assert_eq!((level.first, level.last()), (next, last));
            next = last + 1;
        }
    }

    #[test]
    fn both_ends_of_every_level_survive() {
        for level in &LEVELS {
            for run in [level.first, level.last()] {
                let mut writer = BitWriter::new(100);
                assert!(writer.put_run(2) && writer.put_run(run) && writer.put_run(1));
                let (code, unused) = writer.finish();
                let payload = [&[CODE | unused << 4 | 0x80][..], &code].concat();
                let bits = run + 3;
                assert_eq!(decoded(&payload, 0, bits), (vec![(0, 2), (run + 2, run + 3)], Ok(bits)));
                assert_eq!(decoded(&payload, 0, bits - 1).1, Err(RleError::Overflow { end: bits }));
            }
        }
    }

    #[test]
    fn alternating_bits_are_shorter_plain() {
        let set = (0..500).map(|i| (2 * i, 2 * i + 1)).collect();
        assert_eq!(encode_runs(&Runs { bits: 1000, set }, 0, 4080), None);
    }

    #[test]
    fn a_full_packet_ends_between_runs() {
        let set = (0..500).map(|i| (100 * i, 100 * i + 50)).collect();
        let source = Runs { bits: 50_000, set };
        let (payload, end) = encode_runs(&source, 0, 20).unwrap();
        assert_eq!((payload.len(), end), (19, 500), "ten runs of 14 bits fit 152");
        let (next, end) = encode_runs(&source, end, 20).unwrap();
        assert_eq!((next[0] >> 7, end), (1, 1000));
    }

    #[test]
    fn what_is_no_code_is_refused() {
        assert_eq!(decoded(&[], 0, 100).1, Err(RleError::Empty));
        assert_eq!(decoded(&[0x03, 0], 0, 100).1, Err(RleError::UnknownCode(3)));
        assert_eq!(decoded(&[0x02, 0xff], 0, 100).1, Err(RleError::Truncated { left: 8 }));
    }

    fn from_bits(bits: u64, set: &BTreeSet<u64>) -> Runs {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for &bit in set {
            match runs.last_mut() {
                Some(run) if run.1 == bit => run.1 += 1,
                _ => runs.push((bit, bit + 1)),
            }
        }
        Runs { bits, set: runs }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn a_round_trip_keeps_every_bit(
            set in prop::collection::btree_set(0_u64..5000, 0..60),
            from in 0_u64..5000,
            max_bytes in 2_usize..200,
        ) {
            let source = from_bits(5000, &set);
            if let Some((payload, end)) = encode_runs(&source, from, max_bytes) {
                prop_assert!(payload.len() <= max_bytes);
                prop_assert!(end - from >= (payload.len() as u64 - 1) * 8);
                let (runs, result) = decoded(&payload, from, 5000);
                prop_assert_eq!(result, Ok(end));
                let found: BTreeSet<u64> = runs.into_iter().flat_map(|(first, end)| first..end).collect();
                let expected: BTreeSet<u64> = set.range(from..end).copied().collect();
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn arbitrary_bytes_stay_within_the_bitmap(payload in prop::collection::vec(any::<u8>(), 0..60), from in 0_u64..900) {
            let (runs, _) = decoded(&payload, from, 1000);
            prop_assert!(runs.iter().all(|run| from <= run.0 && run.0 < run.1 && run.1 <= 1000));
        }
    }
}

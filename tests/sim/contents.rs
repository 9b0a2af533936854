//! What a sparse device reads as: runs of bytes by their first sector; what no run covers reads as zeroes.
//!
//! Runs share their bytes with whoever wrote them, so a write, a snapshot or a comparison costs by the run.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;

/// Bytes of a sector.
pub(crate) const SECTOR: u64 = 512;
/// Sectors of a block of the bitmap.
pub(crate) const BLOCK: u64 = 8;

/// The contents of one device.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    runs: BTreeMap<u64, Bytes>,
}

fn sectors_of(bytes: &Bytes) -> u64 {
    bytes.len() as u64 / SECTOR
}

fn slice(bytes: &Bytes, first: u64, end: u64) -> Bytes {
    bytes.slice((first * SECTOR) as usize..(end * SECTOR) as usize)
}

/// What zeroes are compared with and cut from.
static ZEROES: [u8; 1 << 20] = [0; 1 << 20];

/// Whether every byte is zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROES.len()).all(|chunk| {
        let is_ours = ZEROES.as_ptr_range().contains(&chunk.as_ptr());
        is_ours || chunk == &ZEROES[..chunk.len()]
    })
}

/// The same bytes; those of one buffer are not looked at.
fn is_equal(here: &[u8], there: &[u8]) -> bool {
    here.len() == there.len() && (here.as_ptr() == there.as_ptr() || here == there)
}

impl Contents {
    /// Removes `start..end`, cutting the runs that reach over its borders.
    fn carve(&mut self, start: u64, end: u64) {
        if let Some((&first, bytes)) = self.runs.range(..start).next_back() {
            let bytes = bytes.clone();
            let run_end = first + sectors_of(&bytes);
            if run_end > start {
                self.runs.insert(first, slice(&bytes, 0, start - first));
                if run_end > end {
                    self.runs.insert(end, slice(&bytes, end - first, run_end - first));
                }
            }
        }
        while let Some((&first, bytes)) = self.runs.range(start..end).next_back() {
            let bytes = bytes.clone();
            self.runs.remove(&first);
            let run_end = first + sectors_of(&bytes);
            if run_end > end {
                self.runs.insert(end, slice(&bytes, end - first, run_end - first));
            }
        }
    }

    pub(crate) fn write(&mut self, start: u64, bytes: &Bytes) {
        self.carve(start, start + sectors_of(bytes));
        if !bytes.is_empty() && !is_zero(bytes) {
            self.runs.insert(start, bytes.clone());
        }
    }

    pub(crate) fn zero(&mut self, start: u64, sectors: u64) {
        self.carve(start, start + sectors);
    }

    /// One sector; `None` reads as zeroes.
    pub(crate) fn sector(&self, sector: u64) -> Option<&[u8]> {
        let (&first, bytes) = self.runs.range(..=sector).next_back()?;
        let at = ((sector - first) * SECTOR) as usize;
        bytes.get(at..at + SECTOR as usize)
    }

    pub(crate) fn read(&self, start: u64, sectors: u64) -> Bytes {
        let end = start + sectors;
        let first_run = self.runs.range(..=start).next_back().map_or(start, |(&first, _)| first);
        let mut result: Vec<u8> = Vec::new();
        for (&first, bytes) in self.runs.range(first_run..end) {
            let run_end = first + sectors_of(bytes);
            let (from, to) = (first.max(start), run_end.min(end));
            if from >= to {
                continue;
            }
            if from == start && to == end {
                return slice(bytes, from - first, to - first);
            }
            if result.is_empty() {
                result.resize((sectors * SECTOR) as usize, 0);
            }
            let target = ((from - start) * SECTOR) as usize..((to - start) * SECTOR) as usize;
            result[target].copy_from_slice(&slice(bytes, from - first, to - first));
        }
        if result.is_empty() { zeroes(sectors) } else { Bytes::from(result) }
    }

    /// The first of some blocks (a range of them) in which the two read differently and which `counts`.
    pub(crate) fn differs(
        &self,
        other: &Self,
        blocks: Range<u64>,
        counts: &mut impl FnMut(u64) -> bool,
    ) -> Option<u64> {
        let (start, end) = (blocks.start * BLOCK, blocks.end * BLOCK);
        let is_same = match [self, other].map(|contents| contents.whole(start, end)) {
            [Whole::Bytes(here), Whole::Bytes(there)] => is_equal(here, there),
            [Whole::Zeroes, Whole::Zeroes] => true,
            [Whole::Bytes(bytes), Whole::Zeroes] | [Whole::Zeroes, Whole::Bytes(bytes)] => is_zero(bytes),
            _ if blocks.end - blocks.start == 1 => self.read(start, BLOCK) == other.read(start, BLOCK),
            _ => false,
        };
        match blocks.end - blocks.start {
            _ if is_same => None,
            1 => Some(blocks.start).filter(|&block| counts(block)),
            _ => {
                let middle = blocks.start.midpoint(blocks.end);
                let first = self.differs(other, blocks.start..middle, counts);
                first.or_else(|| self.differs(other, middle..blocks.end, counts))
            }
        }
    }

    /// What `start..end` is if no border of a run divides it.
    fn whole(&self, start: u64, end: u64) -> Whole<'_> {
        let Some((&first, bytes)) = self.runs.range(..end).next_back() else { return Whole::Zeroes };
        let run_end = first + sectors_of(bytes);
        if run_end <= start {
            Whole::Zeroes
        } else if first <= start && run_end >= end {
            Whole::Bytes(&bytes[((start - first) * SECTOR) as usize..((end - first) * SECTOR) as usize])
        } else {
            Whole::Parts
        }
    }

    /// Blocks below sector `end` in which the two read differently.
    pub(crate) fn differing_blocks(&self, other: &Self, end: u64) -> BTreeSet<u64> {
        let mut borders: Vec<u64> = Vec::with_capacity(2 * (self.runs.len() + other.runs.len()) + 1);
        for (&first, bytes) in self.runs.range(..end).chain(other.runs.range(..end)) {
            borders.push(first);
            borders.push((first + sectors_of(bytes)).min(end));
        }
        borders.sort_unstable();
        borders.dedup();
        let mut blocks = BTreeSet::new();
        let (mut here, mut there) = (self.cursor(), other.cursor());
        for pair in borders.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            differing_sectors(here.bytes(from, to), there.bytes(from, to), from, to, &mut |sector| {
                blocks.insert(sector / BLOCK);
            });
        }
        blocks
    }

    fn cursor(&self) -> Cursor<'_> {
        let mut runs = self.runs.iter();
        let current = runs.next();
        Cursor { runs, current }
    }
}

/// See [`Contents::whole`].
enum Whole<'a> {
    Zeroes,
    Bytes(&'a [u8]),
    Parts,
}

/// Walks the runs along rising positions.
struct Cursor<'a> {
    runs: std::collections::btree_map::Iter<'a, u64, Bytes>,
    current: Option<(&'a u64, &'a Bytes)>,
}

impl<'a> Cursor<'a> {
    /// The bytes of `from..to`, which no border of a run divides.
    fn bytes(&mut self, from: u64, to: u64) -> Option<&'a [u8]> {
        while let Some((&first, bytes)) = self.current {
            if first + sectors_of(bytes) > from {
                break;
            }
            self.current = self.runs.next();
        }
        let (&first, bytes) = self.current?;
        let start = from.checked_sub(first)? * SECTOR;
        Some(&bytes[start as usize..(start + (to - from) * SECTOR) as usize])
    }
}

fn differing_sectors(here: Option<&[u8]>, there: Option<&[u8]>, from: u64, to: u64, found: &mut impl FnMut(u64)) {
    if here.is_none() && there.is_none() {
        return;
    }
    if let (Some(a), Some(b)) = (here, there)
        && is_equal(a, b)
    {
        return;
    }
    for sector in from..to {
        let at = ((sector - from) * SECTOR) as usize..((sector - from + 1) * SECTOR) as usize;
        let is_same = match (here, there) {
            (Some(here), Some(there)) => here[at.clone()] == there[at],
            (Some(bytes), None) | (None, Some(bytes)) => is_zero(&bytes[at]),
            (None, None) => true,
        };
        if !is_same {
            found(sector);
        }
    }
}

/// That many sectors of zeroes, shared where possible.
pub(crate) fn zeroes(sectors: u64) -> Bytes {
    let bytes = (sectors * SECTOR) as usize;
    if bytes <= ZEROES.len() { Bytes::from_static(&ZEROES[..bytes]) } else { Bytes::from(vec![0; bytes]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn runs_read_as_a_plain_array_would() {
        let mut rng = Rng::new(7);
        for _ in 0..200 {
            let mut contents = [Contents::default(), Contents::default()];
            let mut plain = [vec![0u8; 64 * 512], vec![0u8; 64 * 512]];
            for _ in 0..40 {
                let which = rng.below(2) as usize;
                let (start, sectors) = (rng.below(56), rng.within(1, 8));
                let value = if rng.chance(300) { 0 } else { rng.within(1, 3) as u8 };
                let range = (start * 512) as usize..((start + sectors) * 512) as usize;
                plain[which][range].fill(value);
                contents[which].write(start, &Bytes::from(vec![value; (sectors * 512) as usize]));
            }
            for which in 0..2 {
                let (start, sectors) = (rng.below(32), rng.within(1, 32));
                let range = (start * 512) as usize..((start + sectors) * 512) as usize;
                assert_eq!(contents[which].read(start, sectors), plain[which][range]);
            }
            let expected: BTreeSet<u64> = (0..64u64)
                .filter(|&s| {
                    let range = (s * 512) as usize..(s * 512 + 512) as usize;
                    plain[0][range.clone()] != plain[1][range]
                })
                .map(|s| s / BLOCK)
                .collect();
            assert_eq!(contents[0].differing_blocks(&contents[1], 64), expected);
            let (first, last) = (rng.below(8), rng.within(1, 8));
            let odd = &mut |block: u64| block % 2 == 1;
            let found = contents[0].differs(&contents[1], first..first.max(last), odd);
            assert_eq!(found, expected.range(first..first.max(last)).copied().find(|&block| odd(block)));
        }
    }
}

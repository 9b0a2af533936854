//! From the activity log of a crash to bits in the bitmap: the decision of `drbdmeta apply-al` and of an attach.
//!
//! The log counts only if writes may have been under way (PRIMARY_IND); else it is discarded. Every extent that the
//! log leaves hot may differ on all peers, so all its bits are set in all slots of the bitmap, whether a peer owns the
//! slot or not. Afterwards the caller writes, in this order and each durable before the next: the bitmap, all blocks
//! of the log as initialised, the superblock, which [`apply_al`] has marked clean.
//!
//! Bits may be set past the end of the device, in the room that the bitmap's pages have, exactly as the tool does;
//! [`mask`] clears them.
//!
//! Not here: full-sync flags and AL_DISABLED, which are questions of an attach, and reading or writing.

use std::collections::BTreeSet;
use std::ops::Range;

use thiserror::Error;

use super::activity_record::{Replay, looks_older_than_84, replay};
use super::layout::Layout;
use super::superblock::{DeviceFlags, Superblock};
use crate::model::units::{EXTENT_BYTES, ExtentIndex};

/// What to do when writes may have been under way and the log does not tell where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Fail and leave everything as it is: offline, a person decides.
    Refuse,
    /// Take everything as different: safe, and a full resync.
    SetAll,
}

/// What became of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No record was ever completed; nothing was in flight.
    Empty,
    /// No writes can have been under way; whatever the log says was discarded.
    Discarded,
    /// The hot extents have been marked.
    Marked,
    /// No usable log where there should be one: every bit has been set.
    AllSet,
    /// v08 as written before DRBD 8.4, whose log nobody reads any more; taken as empty, as the tool does.
    OlderThan84,
}

/// What has been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What became of the log.
    pub verdict: Verdict,
    /// Extents that were marked.
    pub extents_marked: u64,
    /// Hot extents that lie past the end of the bitmap: a log that belongs to a larger device.
    pub extents_beyond: u64,
    /// Bits that were clear before, in all slots together.
    pub bits_set: u64,
    /// Blocks of the log that were torn or damaged, and were ignored.
    pub corrupt_blocks: usize,
    /// Whether the blocks of the log have to be initialised. An empty log stays as it is, a torn first block included.
    pub log_is_dirty: bool,
}

/// Nothing has been changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// See [`Unusable::Refuse`].
    #[error(
        "no usable activity log, but the disk was in use by a Primary ({corrupt_blocks} damaged blocks): the blocks that \
         were being written are not known"
    )]
    NoUsableLog {
        /// Blocks that are no records.
        corrupt_blocks: usize,
    },
}

/// Applies the log in `ring` (blocks in ring order) to the bitmap and marks the superblock clean.
///
/// `words` holds one slot each, `layout.slot_words(layout.bitmap_words_bytes_for(agreed size))` words long.
pub fn apply_al(
    superblock: &mut Superblock,
    layout: &Layout,
    ring: &[&[u8]],
    words: &mut [Vec<u64>],
    unusable: Unusable,
) -> Result<Applied, ApplyError> {
    let replayed = replay(ring.iter().copied());
    let log_is_dirty = replayed != Replay::Empty;
    let mut applied = Applied {
        verdict: Verdict::Empty,
        extents_marked: 0,
        extents_beyond: 0,
        bits_set: 0,
        corrupt_blocks: corrupt_blocks(&replayed),
        log_is_dirty,
    };
    match replayed {
        Replay::Empty => {}
        _ if !superblock.flags.contains(DeviceFlags::PRIMARY_IND) => applied.verdict = Verdict::Discarded,
        Replay::Hot { extents, .. } => mark(superblock, layout, &extents, words, &mut applied),
        Replay::Unusable { corrupt_blocks } => match unusable {
            Unusable::SetAll => {
                applied.verdict = Verdict::AllSet;
                applied.bits_set = set_all(words, agreed_bits(superblock, layout));
            }
            Unusable::Refuse if is_older_than_84(superblock, ring) => applied.verdict = Verdict::OlderThan84,
            Unusable::Refuse => return Err(ApplyError::NoUsableLog { corrupt_blocks }),
        },
    }
    superblock.set_clean(true);
    Ok(applied)
}

fn corrupt_blocks(replayed: &Replay) -> usize {
    match *replayed {
        Replay::Empty => 0,
        Replay::Hot { corrupt_blocks, .. } | Replay::Unusable { corrupt_blocks } => corrupt_blocks,
    }
}

fn is_older_than_84(superblock: &Superblock, ring: &[&[u8]]) -> bool {
    let [first, second, ..] = *ring else { return false };
    looks_older_than_84(superblock.format, superblock.unclean_magic, superblock.striping, [first, second])
}

/// Bits that mean something: those of the agreed size, or of all that could be used if none was agreed.
fn agreed_bits(superblock: &Superblock, layout: &Layout) -> u64 {
    match superblock.effective_size_sectors {
        0 => layout.bits_for(layout.usable_sectors),
        sectors => layout.bits_for(sectors.min(layout.usable_sectors)),
    }
}

fn mark(
    superblock: &Superblock,
    layout: &Layout,
    extents: &BTreeSet<ExtentIndex>,
    words: &mut [Vec<u64>],
    applied: &mut Applied,
) {
    applied.verdict = Verdict::Marked;
    let area_bytes = layout.bitmap_words_bytes_for(superblock.effective_size_sectors);
    for &extent in extents {
        let bits = extent_bits(extent, layout.bytes_per_bit);
        let mut is_inside = false;
        let slots = words.len();
        for (slot, words) in words.iter_mut().enumerate() {
            let end = bits.end.min(slot_bits(area_bytes, slots, slot));
            is_inside |= bits.start < end;
            applied.bits_set += set_bits(words, bits.start..end);
        }
        if is_inside { applied.extents_marked += 1 } else { applied.extents_beyond += 1 }
    }
}

/// Bits of an extent; the extent is rounded outwards to whole bits.
fn extent_bits(extent: ExtentIndex, bytes_per_bit: u32) -> Range<u64> {
    let (start, bytes_per_bit) = (u64::from(extent.0) * EXTENT_BYTES, u64::from(bytes_per_bit));
    start / bytes_per_bit..(start + EXTENT_BYTES).div_ceil(bytes_per_bit)
}

/// Bits that the area has room for in one slot.
fn slot_bits(area_bytes: u64, slots: usize, slot: usize) -> u64 {
    (area_bytes / 4).saturating_sub(slot as u64).div_ceil(slots.max(1) as u64) * 32
}

/// Sets a range, as far as there are words. Returns how many of the bits were clear.
fn set_bits(words: &mut [u64], range: Range<u64>) -> u64 {
    let mut bits_set = 0;
    let (mut bit, end) = (range.start, range.end.min(words.len() as u64 * 64));
    while bit < end {
        let stop = end.min((bit / 64 + 1) * 64);
        let mask = u64::MAX >> (64 - (stop - bit)) << (bit % 64);
        let word = &mut words[(bit / 64) as usize];
        bits_set += u64::from((mask & !*word).count_ones());
        *word |= mask;
        bit = stop;
    }
    bits_set
}

/// Sets the first `bits` bits of all slots. Returns how many were clear.
pub fn set_all(words: &mut [Vec<u64>], bits: u64) -> u64 {
    words.iter_mut().map(|slot| set_bits(slot, 0..bits)).sum()
}

/// Clears all bits from number `bits` on, in all slots: those past the end of the device.
pub fn mask(words: &mut [Vec<u64>], bits: u64) {
    for slot in words {
        let whole = usize::try_from(bits / 64).unwrap_or(usize::MAX).min(slot.len());
        if let Some((first, rest)) = slot[whole..].split_first_mut() {
            *first &= (1 << (bits % 64)) - 1;
            rest.fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::activity_record::{ActivityRecord, RecordKind, initialised_block};
    use super::super::layout::{Format, Placement, Striping};
    use super::*;

    const GARBAGE: [u8; 4096] = [0x55; 4096];

    fn record(extents: &[u32]) -> [u8; 4096] {
        let updates = extents.iter().enumerate().map(|(slot, &extent)| (slot as u16, Some(ExtentIndex(extent))));
        let updates = updates.collect();
        let context = vec![None; 67];
        ActivityRecord { number: 0, kind: RecordKind::Update, updates, slots: 67, context_start: 0, context }.encode()
    }

    struct Disk {
        superblock: Superblock,
        layout: Layout,
        words: Vec<Vec<u64>>,
    }

    fn disk(format: Format, max_peers: u32, flags: DeviceFlags) -> Disk {
        let layout = Layout::compute(format, Placement::Internal, 64 << 20, max_peers, Striping::default());
        let layout = layout.expect("64 MiB is enough");
        let mut superblock = Superblock::fresh(&layout);
        superblock.effective_size_sectors = layout.usable_sectors;
        superblock.flags = flags;
        let length = layout.slot_words(layout.bitmap_words_bytes_for(layout.usable_sectors));
        Disk { superblock, layout, words: vec![vec![0; length]; max_peers as usize] }
    }

    impl Disk {
        fn apply(&mut self, ring: &[[u8; 4096]], unusable: Unusable) -> Result<Applied, ApplyError> {
            let ring: Vec<&[u8]> = ring.iter().map(<[u8; 4096]>::as_slice).collect();
            apply_al(&mut self.superblock, &self.layout, &ring, &mut self.words, unusable)
        }
    }

    #[test]
    fn the_outcome_depends_on_log_and_role() {
        let (empty, some) = (initialised_block(), record(&[3]));
        let (primary, other) = (DeviceFlags::PRIMARY_IND, DeviceFlags::CONSISTENT);
        let cases = [
            (vec![empty, empty], primary, Some(Verdict::Empty)),
            (vec![empty, empty], other, Some(Verdict::Empty)),
            (vec![some, GARBAGE], primary, Some(Verdict::Marked)),
            (vec![some, GARBAGE], other, Some(Verdict::Discarded)),
            (vec![GARBAGE, empty], primary, Some(Verdict::Empty)),
            (vec![empty, GARBAGE], primary, None),
            (vec![empty, GARBAGE], other, Some(Verdict::Discarded)),
            (vec![GARBAGE, GARBAGE], primary, None),
            (vec![GARBAGE, GARBAGE], other, Some(Verdict::Discarded)),
        ];
        for (ring, flags, expected) in cases {
            let mut disk = disk(Format::V09, 3, flags);
            let applied = disk.apply(&ring, Unusable::Refuse);
            assert_eq!(applied.as_ref().ok().map(|applied| applied.verdict), expected, "{applied:?}");
            assert_eq!(disk.superblock.is_clean(), expected.is_some());
        }
    }

    #[test]
    fn a_lost_log_of_a_primary_sets_every_bit_when_asked() {
        let mut disk = disk(Format::V09, 3, DeviceFlags::PRIMARY_IND);
        disk.words[1][0] = 1;
        let applied = disk.apply(&[GARBAGE; 8], Unusable::SetAll).expect("never refuses");
        let bits = disk.layout.usable_sectors / 8;
        assert_eq!((applied.verdict, applied.bits_set), (Verdict::AllSet, 3 * bits - 1));
        assert_eq!(disk.words[2].iter().map(|word| u64::from(word.count_ones())).sum::<u64>(), bits);
    }

    #[test]
    fn a_v08_disk_with_the_detached_magic_hides_a_lost_log_from_the_tool_only() {
        let mut detached = disk(Format::V08, 1, DeviceFlags::PRIMARY_IND);
        let verdict = detached.apply(&[GARBAGE; 8], Unusable::Refuse).map(|applied| applied.verdict);
        assert_eq!(verdict, Ok(Verdict::OlderThan84));
        let mut attached = disk(Format::V08, 1, DeviceFlags::PRIMARY_IND);
        attached.superblock.unclean_magic = true;
        let refused = attached.apply(&[GARBAGE; 8], Unusable::Refuse);
        assert_eq!(refused, Err(ApplyError::NoUsableLog { corrupt_blocks: 8 }));
    }

    #[test]
    fn all_slots_are_marked_and_the_rest_of_the_pages_can_be_masked() {
        let mut disk = disk(Format::V09, 3, DeviceFlags::PRIMARY_IND);
        let applied = disk.apply(&[record(&[0, 15, 4000])], Unusable::Refuse).expect("a usable log");
        assert_eq!((applied.extents_marked, applied.extents_beyond, applied.bits_set), (2, 1, 3 * 2048));
        assert_eq!(disk.words[2][240..256], [u64::MAX; 16], "past the end of the device");
        let bits = disk.layout.bits_for(disk.superblock.effective_size_sectors);
        mask(&mut disk.words, bits);
        assert_eq!(disk.words[2][255], (1 << (bits % 64)) - 1);
        assert!(disk.words.iter().all(|slot| slot[256..].iter().all(|&word| word == 0)));
    }

    #[test]
    fn extents_of_a_coarse_bitmap_round_outwards() {
        assert_eq!(extent_bits(ExtentIndex(3), 65536), 192..256);
        assert_eq!(extent_bits(ExtentIndex(3), 1 << 20), 12..16);
    }
}

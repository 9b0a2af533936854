//! One record of the activity log, and what a ring of records says after a crash.
//!
//! The log names the 4 MiB extents that may have writes in flight. It is a table of slots, each empty or holding one
//! extent; a record says which slots change (up to 64 *updates*), and shows a window of up to 919 slots as they were
//! *before* those changes (the *context*). The windows go round, so any ring that has lost its oldest records still
//! tells the whole table.
//!
//! ```text
//! 000 magic    004 number       008 crc             00c type (2)   00e updates (2)
//! 010 slots (2)  012 context start (2)              014 reserved (4 x 4)
//! 024 update slots (64 x 2)     0a4 update extents (64 x 4)        1a4 context (919 x 4)     to 1000
//! ```
//!
//! All big-endian; all ones where nothing is. A torn record fails its checksum and counts as never written: its data
//! writes had not begun. Records are ordered by number, modulo 2^32.
//!
//! Not here: which extents become hot and when to write a record (`activity_log`), and what a hot extent means for
//! the bitmap ([`super::apply`]).

use std::collections::BTreeSet;

use bytes::{Buf, BufMut};
use thiserror::Error;

use super::METADATA_BLOCK_BYTES;
use super::layout::{Format, Striping};
use crate::model::units::ExtentIndex;

/// Most slots one record can change.
pub const UPDATES_MAX: usize = 64;
/// Most slots one record can show.
pub const CONTEXT_MAX: usize = 919;
/// Most slots there can be; larger slot numbers are ignored.
pub const SLOTS_MAX: u16 = 65534;
/// Fewest slots DRBD allows.
pub const SLOTS_MIN: u16 = 67;

const MAGIC: u32 = 0x69CB_65A2;
const CRC_AT: usize = 8;
const KIND_UPDATE: u16 = 0;
const KIND_INITIALISED: u16 = 0xFFFF;
const NO_SLOT: u16 = 0xFFFF;
const NO_EXTENT: u32 = 0xFFFF_FFFF;
const HEADER_BYTES: usize = 0x24;

const _: () = assert!(HEADER_BYTES + UPDATES_MAX * (2 + 4) + CONTEXT_MAX * 4 == METADATA_BLOCK_BYTES);

/// What a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// It changes slots.
    Update,
    /// Nothing has been recorded here since the log was emptied.
    Initialised,
}

/// One block of the activity log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivityRecord {
    /// Counts all records; also decides the place in the ring.
    pub number: u32,
    /// What it is for. An initialised record has nothing else but its number.
    pub kind: RecordKind,
    /// Which slots change, and to what; at most 64.
    pub updates: Vec<(u16, Option<ExtentIndex>)>,
    /// How many slots there are.
    pub slots: u16,
    /// Slot number of the first context entry.
    pub context_start: u16,
    /// Slots from `context_start` on as they were before the updates; at most 919.
    pub context: Vec<Option<ExtentIndex>>,
}

/// Why a block is no record: never written, torn, or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Not 4096 bytes.
    #[error("an activity record has 4096 bytes, found {found}")]
    Length {
        /// How many there were.
        found: usize,
    },
    /// Something else is here.
    #[error("activity record magic: expected 0x69cb65a2, found {found:#010x}")]
    Magic {
        /// What is where the magic should be.
        found: u32,
    },
    /// The block is torn or damaged.
    #[error("activity record checksum: expected {expected:#010x}, found {found:#010x}")]
    Checksum {
        /// Computed from the block.
        expected: u32,
        /// Stored in the block.
        found: u32,
    },
}

impl ActivityRecord {
    /// The 4096 bytes for the disk. Updates and context beyond what a record can hold are a mistake of the caller.
    #[must_use]
    pub fn encode(&self) -> [u8; METADATA_BLOCK_BYTES] {
        assert!(self.updates.len() <= UPDATES_MAX, "a record changes at most 64 slots");
        assert!(self.context.len() <= CONTEXT_MAX, "a record shows at most 919 slots");
        let mut block = [0; METADATA_BLOCK_BYTES];
        let mut out = &mut block[..];
        out.put_u32(MAGIC);
        out.put_u32(self.number);
        out.put_u32(0);
        match self.kind {
            RecordKind::Initialised => out.put_u16(KIND_INITIALISED),
            RecordKind::Update => self.encode_update(&mut out),
        }
        let crc = checksum(&block);
        block[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
        block
    }

    fn encode_update(&self, out: &mut impl BufMut) {
        out.put_u16(KIND_UPDATE);
        out.put_u16(self.updates.len() as u16);
        out.put_u16(self.slots);
        out.put_u16(self.context_start);
        out.put_bytes(0, 4 * 4);
        self.updates.iter().for_each(|&(slot, _)| out.put_u16(slot));
        out.put_bytes(0xFF, (UPDATES_MAX - self.updates.len()) * 2);
        self.updates.iter().for_each(|&(_, extent)| out.put_u32(number_of(extent)));
        out.put_bytes(0xFF, (UPDATES_MAX - self.updates.len()) * 4);
        self.context.iter().for_each(|&extent| out.put_u32(number_of(extent)));
        out.put_bytes(0xFF, (CONTEXT_MAX - self.context.len()) * 4);
    }

    /// Takes a block apart. Types that nobody knows are read as updates, as drbdmeta does: rather too hot than too cold.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let block: &[u8; METADATA_BLOCK_BYTES] =
            bytes.try_into().map_err(|_| RecordError::Length { found: bytes.len() })?;
        let mut input = &block[..];
        let magic = input.get_u32();
        if magic != MAGIC {
            return Err(RecordError::Magic { found: magic });
        }
        let number = input.get_u32();
        let (found, expected) = (input.get_u32(), checksum(block));
        if found != expected {
            return Err(RecordError::Checksum { expected, found });
        }
        if input.get_u16() == KIND_INITIALISED {
            return Ok(Self::initialised(number));
        }
        let stated = usize::from(input.get_u16()).min(UPDATES_MAX);
        let (slots, context_start) = (input.get_u16(), input.get_u16());
        input.advance(4 * 4);
        let updates = decode_updates(&mut input, stated);
        let context = decode_context(input, slots.saturating_sub(context_start));
        Ok(Self { number, kind: RecordKind::Update, updates, slots, context_start, context })
    }

    fn initialised(number: u32) -> Self {
        let kind = RecordKind::Initialised;
        Self { number, kind, updates: Vec::new(), slots: 0, context_start: 0, context: Vec::new() }
    }
}

/// An entry beyond the stated count is used all the same if it names a slot.
fn decode_updates(input: &mut &[u8], stated: usize) -> Vec<(u16, Option<ExtentIndex>)> {
    let slots: [u16; UPDATES_MAX] = std::array::from_fn(|_| input.get_u16());
    let extents: [u32; UPDATES_MAX] = std::array::from_fn(|_| input.get_u32());
    let used = slots.iter().rposition(|&slot| slot != NO_SLOT).map_or(0, |last| last + 1);
    let both = slots.into_iter().zip(extents).take(stated.max(used));
    both.map(|(slot, extent)| (slot, extent_of(extent))).collect()
}

/// An entry beyond the last slot is used all the same if it names an extent.
fn decode_context(mut input: &[u8], slots_left: u16) -> Vec<Option<ExtentIndex>> {
    let entries: Vec<Option<ExtentIndex>> = (0..CONTEXT_MAX).map(|_| extent_of(input.get_u32())).collect();
    let used = entries.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    let length = used.max(usize::from(slots_left)).min(CONTEXT_MAX);
    entries.into_iter().take(length).collect()
}

fn extent_of(number: u32) -> Option<ExtentIndex> {
    (number != NO_EXTENT).then_some(ExtentIndex(number))
}

fn number_of(extent: Option<ExtentIndex>) -> u32 {
    extent.map_or(NO_EXTENT, |extent| extent.0)
}

/// CRC-32C without its usual initial and final inversion, over the block with zero in the checksum's place.
fn checksum(block: &[u8; METADATA_BLOCK_BYTES]) -> u32 {
    let before = raw_crc(0, &block[..CRC_AT]);
    let at = raw_crc(before, &[0; 4]);
    raw_crc(at, &block[CRC_AT + 4..])
}

fn raw_crc(state: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!state, bytes)
}

/// What an empty log has in every block.
#[must_use]
pub fn initialised_block() -> [u8; METADATA_BLOCK_BYTES] {
    ActivityRecord::initialised(0).encode()
}

/// How many slots a ring of that many blocks can serve: one block may be torn, the others must still show every slot.
#[must_use]
pub fn slots_limit(ring_blocks: u32) -> u32 {
    const ALWAYS_ENOUGH: u32 = 72;
    match ring_blocks {
        0 => 0,
        _ if ring_blocks > ALWAYS_ENOUGH => u32::from(SLOTS_MAX),
        _ => (ring_blocks - 1) * CONTEXT_MAX as u32,
    }
}

/// What the activity log says after a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// No record was ever completed since the log was emptied: nothing was in flight.
    Empty,
    /// These extents may have had writes in flight.
    Hot {
        /// The extents left in any slot.
        extents: BTreeSet<ExtentIndex>,
        /// Blocks that are no records, a torn newest one for example.
        corrupt_blocks: usize,
        /// What the next record may be numbered.
        next_number: u32,
    },
    /// No record survived, but there may have been some: nothing is known.
    Unusable {
        /// Blocks that are no records.
        corrupt_blocks: usize,
    },
}

/// Reads a whole ring, given in ring order (see `Layout::activity_log_block_offset`).
///
/// Records are applied from the oldest to the newest by number. In a ring that holds consecutive numbers this is ring
/// order; where the number has wrapped in a ring whose size is no power of two, it is the only right one.
pub fn replay<'a>(ring: impl IntoIterator<Item = &'a [u8]>) -> Replay {
    let (mut records, mut corrupt_blocks, mut first_is_corrupt, mut initialised) = (Vec::new(), 0, false, 0);
    for (position, block) in ring.into_iter().enumerate() {
        match ActivityRecord::decode(block) {
            Ok(record) if record.kind == RecordKind::Update => records.push(record),
            Ok(_) => initialised += 1,
            Err(_) => {
                corrupt_blocks += 1;
                first_is_corrupt |= position == 0;
            }
        }
    }
    sort_by_age(&mut records);
    match records.last() {
        Some(newest) => {
            let next_number = newest.number.wrapping_add(1);
            Replay::Hot { extents: hot_extents(&records), corrupt_blocks, next_number }
        }
        // The very first record after the log was emptied was torn.
        None if corrupt_blocks == 1 && first_is_corrupt && initialised > 0 => Replay::Empty,
        None if corrupt_blocks == 0 && initialised > 0 => Replay::Empty,
        None => Replay::Unusable { corrupt_blocks },
    }
}

/// Oldest first. Numbers wrap, so they are compared by their signed distance; a ring spans far less than half the range.
fn sort_by_age(records: &mut [ActivityRecord]) {
    let distance = |number: u32, from: u32| number.wrapping_sub(from) as i32;
    let Some(first) = records.first().map(|record| record.number) else { return };
    let oldest = records.iter().map(|record| distance(record.number, first)).min().unwrap_or(0);
    let oldest = first.wrapping_add(oldest as u32);
    records.sort_by_key(|record| record.number.wrapping_sub(oldest));
}

/// Slots up to the last one that any record names.
fn slots_named(records: &[ActivityRecord]) -> usize {
    let in_context = records.iter().map(|record| usize::from(record.context_start) + record.context.len());
    let in_updates = records.iter().flat_map(|record| &record.updates).map(|&(slot, _)| usize::from(slot) + 1);
    in_context.chain(in_updates).max().unwrap_or(0)
}

fn hot_extents(records: &[ActivityRecord]) -> BTreeSet<ExtentIndex> {
    let mut table: Vec<Option<ExtentIndex>> = vec![None; slots_named(records).min(usize::from(SLOTS_MAX))];
    for record in records {
        let start = usize::from(record.context_start);
        let context = record.context.iter().enumerate().map(|(index, &extent)| (start + index, extent));
        let updates = record.updates.iter().map(|&(slot, extent)| (usize::from(slot), extent));
        for (slot, extent) in context.chain(updates) {
            if let Some(entry) = table.get_mut(slot) {
                *entry = extent;
            }
        }
    }
    table.into_iter().flatten().collect()
}

/// Whether drbdmeta would take this for the log of a DRBD before 8.4, which it reads as "nothing in flight": v08, the
/// magic of a detached disk, the default shape, and no record's magic in the first two blocks of the ring.
///
/// A damaged log looks the same; so a v08 writer leaves the unclean magic on disk while it may be Primary.
#[must_use]
pub fn looks_older_than_84(format: Format, unclean_magic: bool, striping: Striping, first_two: [&[u8]; 2]) -> bool {
    let has_magic = |block: &[u8]| block.starts_with(&MAGIC.to_be_bytes());
    format == Format::V08 && !unclean_magic && striping == Striping::default() && !first_two.into_iter().any(has_magic)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(number: u32, updates: &[(u16, u32)], context: &[u32]) -> ActivityRecord {
        ActivityRecord {
            number,
            kind: RecordKind::Update,
            updates: updates.iter().map(|&(slot, extent)| (slot, extent_of(extent))).collect(),
            slots: 67,
            context_start: 0,
            context: (0..67).map(|slot| context.get(slot).copied().and_then(extent_of)).collect(),
        }
    }

    fn check(blocks: &[[u8; METADATA_BLOCK_BYTES]], expected: &Replay) {
        assert_eq!(replay(blocks.iter().map(<[u8; METADATA_BLOCK_BYTES]>::as_slice)), *expected);
    }

    fn hot(extents: &[u32], corrupt_blocks: usize, next_number: u32) -> Replay {
        Replay::Hot { extents: extents.iter().copied().map(ExtentIndex).collect(), corrupt_blocks, next_number }
    }

    #[test]
    fn the_checksum_is_crc32c_without_inversions() {
        assert_eq!(raw_crc(0, b"123456789"), 0x58E3_FA20);
        let block = initialised_block();
        assert_eq!(block[..16], [0x69, 0xCB, 0x65, 0xA2, 0, 0, 0, 0, 0x70, 0x9C, 0xC6, 0x51, 0xFF, 0xFF, 0, 0]);
        assert!(block[16..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn records_are_the_bytes_the_tool_reads() {
        let first = record(0, &[(0, 3), (1, 5)], &[]).encode();
        assert_eq!(first[..16], [0x69, 0xCB, 0x65, 0xA2, 0, 0, 0, 0, 0x81, 0x5F, 0x53, 0x52, 0, 0, 0, 2]);
        let third = record(2, &[(2, 15)], &[7, 5]).encode();
        assert_eq!(third[8..12], [0x02, 0x00, 0x27, 0x2B]);
    }

    #[test]
    fn updates_count_after_the_context_of_their_record() {
        let blocks = [
            record(0, &[(0, 3), (1, 5)], &[]).encode(),
            record(1, &[(0, 7)], &[3, 5]).encode(),
            record(2, &[(2, 15), (1, NO_EXTENT)], &[7, 5]).encode(),
            initialised_block(),
        ];
        check(&blocks, &hot(&[7, 15], 0, 3));
    }

    #[test]
    fn a_torn_record_is_as_if_never_written() {
        let mut torn = record(1, &[(1, 5)], &[3]).encode();
        torn[4000] ^= 1;
        check(&[record(0, &[(0, 3)], &[]).encode(), torn, initialised_block()], &hot(&[3], 1, 1));
    }

    #[test]
    fn the_order_of_numbers_wraps() {
        let blocks = [
            record(0, &[(0, 30)], &[10, 11]).encode(),
            record(1, &[(1, 31)], &[30, 11]).encode(),
            record(u32::MAX - 1, &[(0, 10)], &[]).encode(),
            record(u32::MAX, &[(1, 11)], &[10]).encode(),
        ];
        check(&blocks, &hot(&[30, 31], 0, 2));
    }

    #[test]
    fn a_ring_without_records_is_empty_or_unusable() {
        let (empty, bad) = (initialised_block(), [0x55; METADATA_BLOCK_BYTES]);
        check(&[empty, empty, empty], &Replay::Empty);
        check(&[bad, empty, empty], &Replay::Empty);
        check(&[empty, bad, empty], &Replay::Unusable { corrupt_blocks: 1 });
        check(&[bad, bad, empty], &Replay::Unusable { corrupt_blocks: 2 });
        check(&[bad, bad, bad], &Replay::Unusable { corrupt_blocks: 3 });
        check(&[], &Replay::Unusable { corrupt_blocks: 0 });
    }

    #[test]
    fn a_log_older_than_84_is_told_by_what_is_missing() {
        let (new, old) = (initialised_block(), [0; METADATA_BLOCK_BYTES]);
        let looks =
            |format, unclean, first, second| looks_older_than_84(format, unclean, Striping::default(), [first, second]);
        assert!(looks(Format::V08, false, &old, &old));
        assert!(!looks(Format::V08, true, &old, &old));
        assert!(!looks(Format::V08, false, &old, &new));
        assert!(!looks(Format::V09, false, &old, &old));
    }

    #[test]
    fn the_default_ring_serves_6433_slots() {
        assert_eq!([slots_limit(8), slots_limit(72), slots_limit(73)], [6433, 65249, 65534]);
    }

    fn any_record() -> impl Strategy<Value = ActivityRecord> {
        let extent = proptest::option::of((0..NO_EXTENT).prop_map(ExtentIndex));
        let updates = proptest::collection::vec((0..SLOTS_MAX, extent.clone()), 0..=UPDATES_MAX);
        let window = (SLOTS_MIN..=SLOTS_MAX).prop_flat_map(|slots| (Just(slots), 0..slots));
        let context = proptest::collection::vec(extent, CONTEXT_MAX);
        (any::<u32>(), updates, window, context).prop_map(|(number, updates, (slots, context_start), mut context)| {
            context.truncate(usize::from(slots - context_start));
            ActivityRecord { number, kind: RecordKind::Update, updates, slots, context_start, context }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn records_survive_the_round_trip(record in any_record()) {
            prop_assert_eq!(ActivityRecord::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn any_bytes_can_be_decoded(mut bytes in proptest::collection::vec(any::<u8>(), METADATA_BLOCK_BYTES)) {
            bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
            let block: &[u8; METADATA_BLOCK_BYTES] = bytes.as_slice().try_into().expect("as long as asked for");
            let crc = checksum(block);
            bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
            prop_assert!(ActivityRecord::decode(&bytes).is_ok());
            replay([bytes.as_slice(), &bytes[1..]]);
        }
    }
}

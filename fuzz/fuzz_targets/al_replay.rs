//! Arbitrary blocks as an activity log: a ring as it lies on a disk, or blocks made up of raw ones and of records with a
//! right checksum that say anything.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use shimai::metadata::activity_record::{ActivityRecord, CONTEXT_MAX, RecordKind, UPDATES_MAX, replay};
use shimai::model::units::ExtentIndex;

/// A block of the log.
const BLOCK: usize = 4096;
/// Blocks of a ring; the real one has eight at least.
const BLOCKS_MAX: usize = 12;

#[derive(Arbitrary, Debug)]
enum Block {
    Zeroes,
    Initialised,
    Raw(Vec<u8>),
    Record { number: u32, slots: u16, context_start: u16, updates: Vec<(u16, Option<u32>)>, context: Vec<Option<u32>> },
    Torn { number: u32, at: u16 },
}

fuzz_target!(|input: &[u8]| {
    let Some((&manner, rest)) = input.split_first() else { return };
    let ring: Vec<[u8; BLOCK]> = match manner {
        0 => rest.as_chunks::<BLOCK>().0.iter().take(BLOCKS_MAX).copied().collect(),
        _ => {
            let Ok(blocks) = Vec::<Block>::arbitrary(&mut Unstructured::new(rest)) else { return };
            blocks.iter().take(BLOCKS_MAX).map(encode).collect()
        }
    };
    for block in &ring {
        if let Ok(record) = ActivityRecord::decode(block) {
            let again = ActivityRecord::decode(&record.encode());
            assert_eq!(again.as_ref(), Ok(&record), "a record comes back as it went");
        }
    }
    let _ = replay(ring.iter().map(<[u8; BLOCK]>::as_slice));
});

fn encode(block: &Block) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    match block {
        Block::Zeroes => {}
        Block::Initialised => return shimai::metadata::activity_record::initialised_block(),
        Block::Raw(raw) => {
            let length = raw.len().min(BLOCK);
            bytes[..length].copy_from_slice(&raw[..length]);
        }
        Block::Record { number, slots, context_start, updates, context } => {
            let extent = |number: Option<u32>| number.map(ExtentIndex);
            let updates = updates.iter().take(UPDATES_MAX).map(|&(slot, number)| (slot, extent(number)));
            let context = context.iter().take(CONTEXT_MAX).map(|&number| extent(number));
            let (slots, context_start) = (*slots, *context_start);
            let (updates, context) = (updates.collect(), context.collect());
            let kind = RecordKind::Update;
            return ActivityRecord { number: *number, kind, updates, slots, context_start, context }.encode();
        }
        Block::Torn { number, at } => {
            let empty = Block::Record {
                number: *number,
                slots: 67,
                context_start: 0,
                updates: vec![(0, Some(*number))],
                context: Vec::new(),
            };
            bytes = encode(&empty);
            bytes[usize::from(*at) % BLOCK..].fill(0);
        }
    }
    bytes
}

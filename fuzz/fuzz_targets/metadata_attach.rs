//! A superblock that says anything, on a device of any size: what passes the judge passes again after it was written
//! back. It is arbitrary bytes, or a fresh superblock with some of its bytes changed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shimai::metadata::layout::{Format, Layout, Placement, Striping, superblock_offset};
use shimai::metadata::probe::probe;
use shimai::metadata::superblock::{Superblock, UnverifiedSuperblock};

/// A superblock's bytes.
const BLOCK: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let Some((&[place, unit, low, high, peers], fields)) = input.split_first_chunk::<5>() else { return };
    let placement = match place % 3 {
        0 => Placement::Internal,
        1 => Placement::FlexibleExternal,
        _ => Placement::Indexed(place / 3 % 8),
    };
    // From nothing to 64 PiB, most of it near powers of two.
    let device_bytes = (u64::from(u16::from_le_bytes([low, high])) << (unit % 41)).saturating_mul(512);
    let _ = superblock_offset(placement, device_bytes);
    let block = match peers {
        0 => raw(fields),
        _ => match fresh(placement, device_bytes, peers, fields) {
            Some(block) => block,
            None => return,
        },
    };
    let _ = probe(&block, &[fields]);
    let Ok(unverified) = UnverifiedSuperblock::decode(&block) else { return };
    let Ok((superblock, layout)) = unverified.judge(placement, device_bytes) else { return };
    let again = UnverifiedSuperblock::decode(&superblock.encode()).expect("it has the magic");
    let (superblock_again, layout_again) = again.judge(placement, device_bytes).expect("it was good before");
    assert!((superblock_again, layout_again) == (superblock, layout), "a good superblock stays as it is");
});

fn raw(fields: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let length = fields.len().min(BLOCK);
    block[..length].copy_from_slice(&fields[..length]);
    block
}

/// As `create-md` makes it, with changes: pairs of a place and what is there instead.
fn fresh(placement: Placement, device_bytes: u64, peers: u8, changes: &[u8]) -> Option<[u8; BLOCK]> {
    let (format, max_peers) = if peers & 0x80 == 0 { (Format::V08, 1) } else { (Format::V09, u32::from(peers & 0x1f)) };
    let layout = Layout::compute(format, placement, device_bytes, max_peers, Striping::default()).ok()?;
    let mut block = Superblock::fresh(&layout).encode();
    for change in changes.chunks_exact(3) {
        block[usize::from(u16::from_le_bytes([change[0], change[1]])) % BLOCK] = change[2];
    }
    Some(block)
}

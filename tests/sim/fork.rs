//! What a disk would say if its host lost power now: metadata decoded, activity log applied, and the verdict that two such
//! disks would come to. The ladder of rules is written a second time here, on purpose: it judges the machine's.

use shimai::metadata::apply::{Unusable, apply_al};
use shimai::metadata::bitmap_page;
use shimai::metadata::layout::{Format, Layout};
use shimai::metadata::superblock::{DeviceFlags, PeerFlags, Superblock, UnverifiedSuperblock};
use shimai::model::generation_id::GenerationId;

use crate::contents::{Contents, SECTOR};

/// A disk as the next attach will find it.
pub(crate) struct Forked {
    pub(crate) superblock: Superblock,
    /// Dirty blocks, as words of the peer's slot.
    words: Vec<u64>,
    all: bool,
    tuple: Tuple,
}

/// What a side says of its data.
#[derive(Clone, Copy, Debug)]
struct Tuple {
    current: u64,
    bitmap: u64,
    history: [u64; 2],
    crashed: bool,
}

/// What two disks mean for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    NoSync,
    /// Node 0 is the source; or node 1 is.
    Bitmap(usize),
    Full(usize),
    SplitBrain,
    Unrelated,
}

/// The superblock as it is there.
pub(crate) fn superblock(contents: &Contents, layout: &Layout, bytes: u64) -> Result<Superblock, String> {
    let block = contents.read(layout.superblock / SECTOR, 8);
    let unverified = UnverifiedSuperblock::decode(&block).map_err(|error| error.to_string())?;
    let judged = unverified.judge(layout.placement, bytes);
    judged.map(|(superblock, _)| superblock).map_err(|error| error.to_string())
}

/// Decodes what is there, as an attach of `node` would.
pub(crate) fn decode(contents: &Contents, layout: &Layout, bytes: u64, node: usize) -> Result<Forked, String> {
    let mut superblock = superblock(contents, layout, bytes)?;
    let peer_index = match layout.format {
        Format::V08 => 0,
        Format::V09 => 1 - node,
    };
    let area = layout.bitmap_words_bytes_for(superblock.effective_size_sectors);
    let mut words = vec![vec![0u64; layout.slot_words(area)]; 1];
    for page in 0..(area / 4096) as usize {
        let bytes = contents.read(layout.bitmap_page_offset(page) / SECTOR, 8);
        bitmap_page::decode_page(page, &bytes, &mut words);
    }
    let ring: Vec<_> = (0..layout.striping.ring_blocks())
        .map(|number| contents.read(layout.activity_log_block_offset(number) / SECTOR, 8))
        .collect();
    let blocks: Vec<&[u8]> = ring.iter().map(AsRef::as_ref).collect();
    let flags = superblock.flags;
    apply_al(&mut superblock, layout, &blocks, &mut words, Unusable::SetAll).map_err(|error| error.to_string())?;
    let crashed = flags.contains(DeviceFlags::CRASHED_PRIMARY)
        || layout.format == Format::V08 && flags.contains(DeviceFlags::PRIMARY_IND);
    let all =
        superblock.peer_flag(peer_index, PeerFlags::FULL_SYNC) || flags.contains(DeviceFlags::AL_DISABLED) && crashed;
    let ids = &superblock.generations;
    let tuple = Tuple {
        current: ids.current.masked(),
        bitmap: ids.bitmap[peer_index].masked(),
        history: [ids.history[0].masked(), ids.history[1].masked()],
        crashed,
    };
    Ok(Forked { superblock, words: words.remove(0), all, tuple })
}

impl Forked {
    pub(crate) fn is_dirty(&self, block: u64) -> bool {
        self.all || self.words.get((block / 64) as usize).is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    pub(crate) fn is_consistent(&self) -> bool {
        self.superblock.flags.contains(DeviceFlags::CONSISTENT)
    }

    pub(crate) fn is_up_to_date(&self) -> bool {
        self.is_consistent() && self.superblock.flags.contains(DeviceFlags::WAS_UP_TO_DATE)
    }

    pub(crate) fn is_fresh(&self) -> bool {
        self.superblock.generations.current.is_just_created() || self.superblock.generations.current.is_none()
    }

    /// As it would be after a promotion without the peer.
    pub(crate) fn promoted(&self) -> Promoted {
        let mut tuple = self.tuple;
        if tuple.bitmap == 0 {
            tuple.bitmap = tuple.current;
            tuple.current = 0x0123_4567_89ab_cdee;
        }
        Promoted(tuple)
    }

    pub(crate) fn describe(&self) -> String {
        let Tuple { current, bitmap, history, crashed } = self.tuple;
        format!(
            "current {current:016X} bitmap {bitmap:016X} history {:016X} {:016X} crashed {crashed} flags {:?} dirty {}{}",
            history[0],
            history[1],
            self.superblock.flags,
            self.words.iter().map(|word| word.count_ones()).sum::<u32>(),
            if self.all { " (all)" } else { "" }
        )
    }
}

/// See [`Forked::promoted`].
#[derive(Clone, Copy)]
pub(crate) struct Promoted(Tuple);

/// What the two disks mean for each other, nobody being Primary.
pub(crate) fn verdict(forks: [&Forked; 2]) -> Verdict {
    let ladder = climb(forks[0].tuple, forks[1].tuple);
    let inconsistent = forks.map(|fork| !fork.is_consistent());
    match inconsistent {
        [true, false] => override_direction(ladder, 1),
        [false, true] => override_direction(ladder, 0),
        _ => ladder,
    }
}

/// What they would mean if `promoted` (node `who` of the pair) had been promoted alone.
pub(crate) fn verdict_if_promoted(forks: [&Forked; 2], who: usize) -> Verdict {
    let mut tuples = forks.map(|fork| fork.tuple);
    tuples[who] = forks[who].promoted().0;
    climb(tuples[0], tuples[1])
}

fn override_direction(ladder: Verdict, source: usize) -> Verdict {
    match ladder {
        Verdict::Full(_) | Verdict::SplitBrain => Verdict::Full(source),
        Verdict::Unrelated => Verdict::Unrelated,
        Verdict::NoSync | Verdict::Bitmap(_) => Verdict::Bitmap(source),
    }
}

/// The rules of DRBD 8.4 in their order, for protocol versions from 96 on, with what we add to them.
fn climb(a: Tuple, b: Tuple) -> Verdict {
    let fresh = |tuple: Tuple| tuple.current == 4 || tuple.current == 0;
    match (fresh(a), fresh(b)) {
        (true, true) => return Verdict::NoSync,
        (true, false) => return Verdict::Full(1),
        (false, true) => return Verdict::Full(0),
        (false, false) => {}
    }
    if a.current == b.current {
        return match (a.bitmap != 0, b.bitmap != 0, a.crashed, b.crashed) {
            (true, false, _, _) => Verdict::Bitmap(0),
            (false, true, _, _) => Verdict::Bitmap(1),
            (_, _, false, false) => Verdict::NoSync,
            (_, _, true, false) => Verdict::Bitmap(0),
            (_, _, false, true) => Verdict::Bitmap(1),
            // Whichever; both crashed as Primary.
            (_, _, true, true) => Verdict::Bitmap(0),
        };
    }
    let known = |old: u64| old != 0 && old != 4;
    // Ours asks less than DRBD's: the source may have gone on alone since, and its history have lost the parent.
    let named_from = |parent: u64, new: Tuple| {
        (1..=256).any(|tries| parent.wrapping_add(tries * GenerationId::SYNC_OFFSET) == new.bitmap)
    };
    let missed_start = |old: Tuple, new: Tuple| named_from(old.current, new);
    if a.current == b.bitmap || missed_start(a, b) {
        return Verdict::Bitmap(1);
    }
    if b.history.contains(&a.current) {
        return Verdict::Full(1);
    }
    if b.current == a.bitmap || missed_start(b, a) {
        return Verdict::Bitmap(0);
    }
    if a.history.contains(&b.current) {
        return Verdict::Full(0);
    }
    // The last three are not DRBD's: what both know may be a bitmap's id, or what that was before a resync nobody heard of.
    let ancestor = |a: Tuple, b: Tuple| known(a.bitmap) && (b.history.contains(&a.bitmap) || named_from(a.bitmap, b));
    let both = a.bitmap == b.bitmap && a.bitmap != 0 || a.history.iter().any(|old| b.history.contains(old));
    if both || ancestor(a, b) || ancestor(b, a) {
        return Verdict::SplitBrain;
    }
    Verdict::Unrelated
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(current: u64, bitmap: u64, history: [u64; 2], crashed: bool) -> Tuple {
        Tuple { current, bitmap, history, crashed }
    }

    #[test]
    fn the_second_ladder_agrees_with_the_reference() {
        let (a, b, c, d) = (0x10, 0x20, 0x30, 0x40);
        let sync = b + GenerationId::SYNC_OFFSET;
        let cases = [
            (side(4, 0, [0; 2], false), side(4, 0, [0; 2], false), Verdict::NoSync),
            (side(4, 0, [0; 2], false), side(a, 0, [0; 2], false), Verdict::Full(1)),
            (side(a, 0, [0; 2], false), side(a, 0, [0; 2], false), Verdict::NoSync),
            (side(a, 0, [0; 2], true), side(a, 0, [0; 2], false), Verdict::Bitmap(0)),
            (side(a, b, [0; 2], false), side(a, 0, [0; 2], true), Verdict::Bitmap(0)),
            (side(a, b, [c, 0], false), side(b, 0, [c, 0], false), Verdict::Bitmap(0)),
            (side(a, sync, [b, 0], false), side(b, 0, [c, 0], false), Verdict::Bitmap(0)),
            (side(a, b, [c, d], false), side(c, 0, [d, 0], false), Verdict::Full(0)),
            (side(a, b, [c, 0], false), side(d, b, [c, 0], false), Verdict::SplitBrain),
            (side(a, sync, [c, d], false), side(b, 0, [c, 0], false), Verdict::Bitmap(0)),
            (side(a, b, [0x50, 0x60], false), side(d, c, [0x70, b], false), Verdict::SplitBrain),
            (side(a, b, [0x50, 0x60], false), side(d, sync, [0x70, 0x80], false), Verdict::SplitBrain),
            (side(a, b, [0x50, 0x60], false), side(d, c, [0x70, 0x80], false), Verdict::Unrelated),
        ];
        for (one, other, expected) in cases {
            assert_eq!(climb(one, other), expected, "{one:x?} {other:x?}");
            let mirrored = match expected {
                Verdict::Bitmap(source) => Verdict::Bitmap(1 - source),
                Verdict::Full(source) => Verdict::Full(1 - source),
                same => same,
            };
            assert_eq!(climb(other, one), mirrored, "{other:x?} {one:x?}");
        }
    }
}

//! Printing a dump, token for token as drbdmeta does.

use std::fmt::{self, Write};

use crate::metadata::layout::{Format, Layout};
use crate::metadata::superblock::{PeerFlags, Superblock};

/// Words in a line.
const ROW: usize = 4;
/// A comment with the position stands before every so many words.
const MARK_WORDS: usize = 32;
const WORD_BITS: u64 = 64;
/// No reader knows this word, so nobody restores a bitmap that lacks what the activity log would add.
pub(super) const UNCLEAN_WORD: &str = "unclean-apply-the-activity-log-first";

/// Prints the superblock and the meaningful part of the bitmap. `slots` has one run of words for each bitmap slot; what
/// a slot lacks counts as zero. A dump of unclean metadata is for reading only: every reader refuses it.
pub fn write(superblock: &Superblock, layout: &Layout, slots: &[&[u64]], out: &mut impl Write) -> fmt::Result {
    writeln!(out, "# DRBD meta data dump\n#\n\nversion \"{}\";\n", superblock.format)?;
    if !superblock.is_clean() {
        writeln!(out, "{UNCLEAN_WORD};\n")?;
    }
    match superblock.format {
        Format::V08 => write_v08_head(superblock, layout, out)?,
        Format::V09 => write_v09_head(superblock, layout, out)?,
    }
    let area_bytes = layout.bitmap_words_bytes_for(superblock.effective_size_sectors);
    write_common(superblock, area_bytes, out)?;
    let mut bits_set = 0;
    for slot in 0..layout.max_peers as usize {
        match superblock.format {
            Format::V08 => writeln!(out, "bm {{")?,
            Format::V09 => writeln!(out, "bitmap[{slot}] {{")?,
        }
        let words = slots.get(slot).copied().unwrap_or(&[]);
        bits_set = write_words(words, slot_length(area_bytes, layout.max_peers as usize, slot), out)?;
        writeln!(out, "}}")?;
    }
    // Of the last slot only; that is what the tool counts.
    writeln!(out, "# bits-set {bits_set};")
}

fn write_places(layout: &Layout, out: &mut impl Write) -> fmt::Result {
    writeln!(out, "# md_size_sect {}", layout.md_size_sectors)?;
    writeln!(out, "# md_offset {}", layout.superblock)?;
    writeln!(out, "# al_offset {}", layout.activity_log)?;
    writeln!(out, "# bm_offset {}\n", layout.bitmap)
}

fn write_v08_head(superblock: &Superblock, layout: &Layout, out: &mut impl Write) -> fmt::Result {
    write_places(layout, out)?;
    let generations = &superblock.generations;
    writeln!(out, "uuid {{")?;
    let four = [generations.current, generations.bitmap[0], generations.history[0], generations.history[1]];
    write_row("    ", &four.map(|generation| generation.0), out)?;
    writeln!(out, "    flags 0x{:08X};\n}}", superblock.flags.0)
}

fn write_v09_head(superblock: &Superblock, layout: &Layout, out: &mut impl Write) -> fmt::Result {
    writeln!(out, "max-peers {};", superblock.max_peers)?;
    write_places(layout, out)?;
    writeln!(out, "node-id {};", superblock.node_id.map_or(-1, |id| i32::from(id.number())))?;
    writeln!(out, "current-uuid 0x{};", superblock.generations.current)?;
    writeln!(out, "flags 0x{:08X};", superblock.flags.0)?;
    // Tools before 9.27 stop at the word, and all read a text without it as zero: so it is said to people only.
    if superblock.members != 0 {
        writeln!(out, "# members 0x{:016X};", superblock.members)?;
    }
    for (node, (entry, generation)) in superblock.peers.iter().zip(&superblock.generations.bitmap).enumerate() {
        writeln!(out, "peer[{node}] {{")?;
        writeln!(out, "    bitmap-index {};", entry.bitmap_index.map_or(-1, i64::from))?;
        writeln!(out, "    bitmap-uuid 0x{generation};")?;
        writeln!(out, "    bitmap-dagtag 0x{:016X};", entry.bitmap_dagtag)?;
        writeln!(out, "    flags 0x{:08X};{}\n}}", entry.flags.0, flag_remark(entry.flags))?;
    }
    writeln!(out, "history-uuids {{")?;
    for row in superblock.generations.history.chunks(ROW) {
        let row: Vec<u64> = row.iter().map(|generation| generation.0).collect();
        write_row("        ", &row, out)?;
    }
    writeln!(out, "}}")
}

fn flag_remark(flags: PeerFlags) -> String {
    const NAMES: [(PeerFlags, &str); 6] = [
        (PeerFlags::CONNECTED, "connected"),
        (PeerFlags::OUTDATED, "<=outdated"),
        (PeerFlags::FENCING, "fencing"),
        (PeerFlags::FULL_SYNC, "full-sync"),
        (PeerFlags::DEVICE_SEEN, "seen"),
        (PeerFlags::NODE_EXISTS, "exists"),
    ];
    let set: Vec<&str> = NAMES.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| *name).collect();
    if set.is_empty() { String::new() } else { format!(" # {}", set.join(" | ")) }
}

fn write_common(superblock: &Superblock, area_bytes: u64, out: &mut impl Write) -> fmt::Result {
    writeln!(out, "# al-extents {};", superblock.al_nr_extents)?;
    writeln!(out, "la-size-sect {};", superblock.effective_size_sectors)?;
    writeln!(out, "bm-byte-per-bit {};", superblock.bytes_per_bit)?;
    writeln!(out, "device-uuid 0x{:016X};", superblock.device_uuid)?;
    writeln!(out, "la-peer-max-bio-size {};", superblock.la_peer_max_bio_size)?;
    writeln!(out, "al-stripes {};", superblock.striping.stripes)?;
    writeln!(out, "al-stripe-size-4k {};", superblock.striping.stripe_blocks)?;
    writeln!(out, "# bm-bytes {area_bytes};")
}

/// Whole 64-bit words that the area has for a slot; half a word at its end is padding.
fn slot_length(area_bytes: u64, slots: usize, slot: usize) -> usize {
    let halves = (area_bytes / 4) as usize;
    halves.saturating_sub(slot).div_ceil(slots.max(1)) / 2
}

fn write_words(words: &[u64], length: usize, out: &mut impl Write) -> Result<u64, fmt::Error> {
    let word = |index: usize| words.get(index).copied().unwrap_or(0);
    let (mut index, mut bits_set) = (0, 0);
    while index < length {
        if index.is_multiple_of(MARK_WORDS) {
            writeln!(out, "   # at {}kB", index as u64 * WORD_BITS * 4)?;
        }
        let first = word(index);
        let equal = (index..length).take_while(|&other| is_uniform(first) && word(other) == first).count();
        let rows = equal / ROW;
        let count = if rows >= 2 { rows * ROW } else { ROW.min(length - index) };
        if count > ROW {
            writeln!(out, "    {count} times 0x{first:016X};")?;
            bits_set += u64::from(first.count_ones()) * count as u64;
        } else {
            let row: Vec<u64> = (index..index + count).map(word).collect();
            write_row("    ", &row, out)?;
            bits_set += row.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
        }
        index += count;
    }
    Ok(bits_set)
}

/// Only words of two equal halves are printed as runs.
fn is_uniform(word: u64) -> bool {
    word >> 32 == word & 0xFFFF_FFFF
}

fn write_row(indent: &str, words: &[u64], out: &mut impl Write) -> fmt::Result {
    out.write_str(indent)?;
    for (index, word) in words.iter().enumerate() {
        write!(out, "{}0x{word:016X};", if index == 0 { "" } else { " " })?;
    }
    writeln!(out)
}

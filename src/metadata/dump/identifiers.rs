//! The line of generation identifiers and flags that `get-gi` prints and `set-gi` reads, and `show-gi`'s page around it.

use std::fmt::Write;

use thiserror::Error;

use crate::metadata::layout::Format;
use crate::metadata::superblock::{DeviceFlags, PeerFlags, Superblock};
use crate::model::generation_id::GenerationId;
use crate::model::units::SECTOR_BYTES;

const IDENTIFIERS: usize = 4;
/// Columns of the four identifiers with their colons.
const FLAGS_COLUMN: usize = IDENTIFIERS * 17;

/// One flag of the line: where it is kept, and what it says.
struct Column {
    place: Place,
    sentence: &'static str,
}

#[derive(Clone, Copy)]
enum Place {
    Device(DeviceFlags),
    Peer(PeerFlags),
}

const fn device(flag: DeviceFlags, sentence: &'static str) -> Column {
    Column { place: Place::Device(flag), sentence }
}

const fn peer(flag: PeerFlags, sentence: &'static str) -> Column {
    Column { place: Place::Peer(flag), sentence }
}

const CONSISTENT: &str = "data is consistent";
const UP_TO_DATE: &str = "data was up to date";
const PRIMARY: &str = "writes may have been under way (Primary)";
const CRASHED: &str = "crashed as Primary, not reconciled since";
const CONNECTED: &str = "was connected to the peer";
const FULL_SYNC: &str = "every block counts as out of sync";
const OUTDATED: &str = "the peer's data was outdated or worse";

const COLUMNS_V08: &[Column] = &[
    device(DeviceFlags::CONSISTENT, CONSISTENT),
    device(DeviceFlags::WAS_UP_TO_DATE, UP_TO_DATE),
    device(DeviceFlags::PRIMARY_IND, PRIMARY),
    device(DeviceFlags::CONNECTED_IND, CONNECTED),
    device(DeviceFlags::FULL_SYNC, FULL_SYNC),
    device(DeviceFlags::PEER_OUT_DATED, OUTDATED),
    device(DeviceFlags::CRASHED_PRIMARY, CRASHED),
];

const COLUMNS_V09: &[Column] = &[
    device(DeviceFlags::CONSISTENT, CONSISTENT),
    device(DeviceFlags::WAS_UP_TO_DATE, UP_TO_DATE),
    device(DeviceFlags::PRIMARY_IND, PRIMARY),
    device(DeviceFlags::CRASHED_PRIMARY, CRASHED),
    device(DeviceFlags::AL_CLEAN, "the activity log has been applied"),
    device(DeviceFlags::AL_DISABLED, "the activity log was not kept"),
    device(DeviceFlags::PRIMARY_LOST_QUORUM, "a Primary lost quorum"),
    peer(PeerFlags::CONNECTED, CONNECTED),
    peer(PeerFlags::OUTDATED, OUTDATED),
    peer(PeerFlags::FENCING, "a fencing policy was configured"),
    peer(PeerFlags::FULL_SYNC, FULL_SYNC),
    peer(PeerFlags::DEVICE_SEEN, "the peer had a disk at least once"),
];

fn columns(format: Format) -> &'static [Column] {
    match format {
        Format::V08 => COLUMNS_V08,
        Format::V09 => COLUMNS_V09,
    }
}

/// Why a line cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GenerationLineError {
    /// An identifier is not up to 16 hexadecimal digits.
    #[error("'{found}' is no generation identifier (up to 16 hexadecimal digits)")]
    Identifier {
        /// What stands there.
        found: String,
    },
    /// A flag is neither 0 nor 1.
    #[error("'{found}' is not 0 or 1")]
    Flag {
        /// What stands there.
        found: String,
    },
    /// More fields than the format has.
    #[error("{found} fields; {format} has {fields}")]
    Fields {
        /// Format of the superblock.
        format: Format,
        /// How many the line may have.
        fields: usize,
        /// How many it has.
        found: usize,
    },
}

/// The line of `get-gi`: current, bitmap and two history generations, then the flags. `peer_index` is the node id of
/// the peer; v08 has one peer, whatever its node id.
#[must_use]
pub fn get_gi(superblock: &Superblock, peer_index: usize) -> String {
    let peer_index = entry(superblock, peer_index);
    let generations = &superblock.generations;
    let bitmap = generations.bitmap.get(peer_index).copied().unwrap_or_default();
    let mut line = format!("{}:{}:{}:{}", generations.current, bitmap, generations.history[0], generations.history[1]);
    for column in columns(superblock.format) {
        line.push_str(if is_set(superblock, peer_index, column.place) { ":1" } else { ":0" });
    }
    line
}

/// Where the generation of the bitmap of a peer is kept.
fn entry(superblock: &Superblock, peer_index: usize) -> usize {
    match superblock.format {
        Format::V08 => 0,
        Format::V09 => peer_index,
    }
}

fn is_set(superblock: &Superblock, peer_index: usize, place: Place) -> bool {
    match place {
        Place::Device(flag) => superblock.flags.contains(flag),
        Place::Peer(flag) => superblock.peer_flag(peer_index, flag),
    }
}

/// Applies a line as `set-gi` does: an empty field keeps what is there, and fields may be missing at the end. Nothing
/// changes if any field is wrong.
pub fn set_gi(superblock: &mut Superblock, peer_index: usize, line: &str) -> Result<(), GenerationLineError> {
    let peer_index = entry(superblock, peer_index);
    let mut changed = superblock.clone();
    let format = superblock.format;
    let (columns, found) = (columns(format), line.split(':').count());
    let fields = IDENTIFIERS + columns.len();
    if found > fields {
        return Err(GenerationLineError::Fields { format, fields, found });
    }
    for (index, field) in line.split(':').enumerate().filter(|(_, field)| !field.is_empty()) {
        match columns.get(index.wrapping_sub(IDENTIFIERS)) {
            Some(column) => set_flag(&mut changed, peer_index, column.place, field)?,
            None => set_identifier(&mut changed, peer_index, index, field)?,
        }
    }
    *superblock = changed;
    Ok(())
}

fn set_flag(
    superblock: &mut Superblock,
    peer_index: usize,
    place: Place,
    field: &str,
) -> Result<(), GenerationLineError> {
    let on = match field {
        "0" => false,
        "1" => true,
        _ => return Err(GenerationLineError::Flag { found: field.to_owned() }),
    };
    match place {
        Place::Device(flag) => superblock.flags.set(flag, on),
        Place::Peer(flag) => superblock.set_peer_flag(peer_index, flag, on),
    }
    Ok(())
}

fn set_identifier(
    superblock: &mut Superblock,
    peer_index: usize,
    index: usize,
    field: &str,
) -> Result<(), GenerationLineError> {
    let hexadecimal = field.len() <= 16 && field.bytes().all(|byte| byte.is_ascii_hexdigit());
    let value = u64::from_str_radix(field, 16).ok().filter(|_| hexadecimal);
    let value = value.ok_or_else(|| GenerationLineError::Identifier { found: field.to_owned() })?;
    let generations = &mut superblock.generations;
    let slot = match index {
        0 => Some(&mut generations.current),
        1 => generations.bitmap.get_mut(peer_index),
        2 => generations.history.get_mut(0),
        _ => generations.history.get_mut(1),
    };
    slot.into_iter().for_each(|slot| *slot = GenerationId(value));
    Ok(())
}

/// The page of `show-gi`: the line of [`get_gi`] with every field explained, then a summary.
#[must_use]
pub fn show_gi(superblock: &Superblock, peer_index: usize) -> String {
    let mut page = String::new();
    for (index, name) in ["current", "bitmap", "history, younger", "history, older"].iter().enumerate() {
        let stems: String = (0..index).map(|_| format!("{:<17}", "|")).collect();
        page.push_str(&format!("{stems}.-- {name} generation\n"));
    }
    let _ = writeln!(page, "{}", format!("{:<17}", "v").repeat(IDENTIFIERS).trim_end());
    let _ = writeln!(page, "{}", get_gi(superblock, peer_index));
    let columns = columns(superblock.format);
    let _ = writeln!(page, "{:FLAGS_COLUMN$}{}", "", vec!["^"; columns.len()].join(" "));
    for (index, column) in columns.iter().enumerate() {
        let stems = " |".repeat(columns.len() - 1 - index);
        let _ = writeln!(page, "{:>width$} --'{stems}", column.sentence, width = FLAGS_COLUMN + 2 * index - 3);
    }
    page.push('\n');
    summarise(superblock, peer_index, &mut page);
    page
}

fn summarise(superblock: &Superblock, peer_index: usize, page: &mut String) {
    let has = |flag| superblock.flags.contains(flag);
    let is_clean = if has(DeviceFlags::AL_CLEAN) { "clean" } else { "need apply-al" };
    let connection = if superblock.peer_flag(peer_index, PeerFlags::CONNECTED) { "Connected" } else { "StandAlone" };
    let _ = write!(page, "flags: {}, {connection}, {}", role(superblock), disk(superblock));
    for (flag, words) in [(PeerFlags::FULL_SYNC, "need full sync"), (PeerFlags::OUTDATED, "peer Outdated")] {
        if superblock.peer_flag(peer_index, flag) {
            let _ = write!(page, ", {words}");
        }
    }
    let _ = writeln!(page, "\nmeta-data: {is_clean}");
    match superblock.effective_size_sectors {
        0 => page.push_str("no size agreed with a peer yet\n"),
        sectors => {
            let size = readable(sectors / (1024 / SECTOR_BYTES));
            let _ = writeln!(page, "last agreed size: {size} ({sectors} sectors)");
            let _ = writeln!(page, "last agreed max bio size: {} Byte", superblock.la_peer_max_bio_size);
        }
    }
}

fn role(superblock: &Superblock) -> &'static str {
    let has = |flag| superblock.flags.contains(flag);
    match (has(DeviceFlags::CRASHED_PRIMARY), has(DeviceFlags::PRIMARY_IND)) {
        (false, false) => "Secondary",
        (false, true) => "Primary",
        (true, false) => "crashed Secondary",
        (true, true) => "crashed Primary",
    }
}

fn disk(superblock: &Superblock) -> &'static str {
    let has = |flag| superblock.flags.contains(flag);
    match (has(DeviceFlags::CONSISTENT), has(DeviceFlags::WAS_UP_TO_DATE)) {
        (false, _) => "Inconsistent",
        (true, false) => "Outdated",
        (true, true) => "UpToDate",
    }
}

/// A size in the smallest unit that needs no more than four digits, rounded to the nearest.
fn readable(kibibytes: u64) -> String {
    const UNITS: [&str; 5] = ["KB", "MB", "GB", "TB", "PB"];
    let (mut value, mut unit) = (kibibytes, 0);
    while value >= 10_000 && unit + 1 < UNITS.len() {
        value = (value + 512) >> 10;
        unit += 1;
    }
    format!("{value} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::layout::{Layout, Placement, Striping};

    fn fresh(format: Format) -> Superblock {
        let layout = Layout::compute(format, Placement::Internal, 64 << 20, 1, Striping::default());
        Superblock::fresh(&layout.expect("64 MiB is enough"))
    }

    #[test]
    fn the_line_goes_there_and_back() {
        let mut superblock = fresh(Format::V08);
        let line = "1234567890ABCDEE:0000000000000000:1111111111111110:2222222222222220:1:1:0:0:1:0:0";
        assert_eq!(set_gi(&mut superblock, 0, line), Ok(()));
        assert_eq!(get_gi(&superblock, 0), line);
        assert_eq!(superblock.flags.0, 0x99);
        let mut superblock = fresh(Format::V09);
        assert_eq!(set_gi(&mut superblock, 2, ":B0:::1:1:0:0:1:0:0:0:1:0:0:1"), Ok(()));
        let line = "0000000000000004:00000000000000B0:0000000000000000:0000000000000000:1:1:0:0:1:0:0:0:1:0:0:1";
        assert_eq!(get_gi(&superblock, 2), line);
        assert_eq!((superblock.generations.bitmap[2], superblock.peers[2].flags.0), (GenerationId(0xB0), 0x12));
    }

    #[test]
    fn a_wrong_field_changes_nothing() {
        let mut superblock = fresh(Format::V08);
        for line in ["5:6:x", "5:::::2", "5:+6", "11111111111111111", "5:::::::::::1"] {
            assert!(set_gi(&mut superblock, 0, line).is_err(), "{line}");
        }
        assert_eq!(superblock, fresh(Format::V08));
    }

    #[test]
    fn the_page_explains_every_field() {
        let mut superblock = fresh(Format::V08);
        superblock.flags = DeviceFlags(0x53);
        superblock.effective_size_sectors = 130_992;
        let expected = "\
.-- current generation
|                .-- bitmap generation
|                |                .-- history, younger generation
|                |                |                .-- history, older generation
v                v                v                v
0000000000000004:0000000000000000:0000000000000000:0000000000000000:1:1:1:0:0:0:1
                                                                    ^ ^ ^ ^ ^ ^ ^
                                               data is consistent --' | | | | | |
                                                data was up to date --' | | | | |
                             writes may have been under way (Primary) --' | | | |
                                              was connected to the peer --' | | |
                                        every block counts as out of sync --' | |
                                      the peer's data was outdated or worse --' |
                                     crashed as Primary, not reconciled since --'

flags: crashed Primary, StandAlone, UpToDate
meta-data: need apply-al
last agreed size: 64 MB (130992 sectors)
last agreed max bio size: 0 Byte
";
        let page = show_gi(&superblock, 0);
        assert_eq!(page, expected, "{page}");
        assert!(show_gi(&fresh(Format::V09), 1).ends_with("no size agreed with a peer yet\n"));
    }

    #[test]
    fn sizes_keep_four_digits() {
        let cases = [(9999, "9999 KB"), (10000, "10 MB"), (65400, "64 MB"), (u64::MAX >> 10, "16384 PB")];
        for (kibibytes, expected) in cases {
            assert_eq!(readable(kibibytes), expected);
        }
    }
}

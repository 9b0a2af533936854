//! Where on a device the superblock, the activity log and the bitmap live.
//!
//! ```text
//! internal:  data ........ | bitmap | activity log | superblock | 0..7 sectors | end of device
//! external:  superblock | activity log | bitmap ...... to the end of the area
//! ```
//!
//! Everything follows from the size of the device that holds the metadata, the number of bitmap slots and the shape of
//! the activity log; both DRBD and drbdmeta compute it anew each time and refuse a superblock that says otherwise.
//!
//! Invariants: all offsets are absolute bytes on the metadata device and multiples of 4096; the areas lie inside the
//! device and do not overlap.
//!
//! Not here: the fields of the superblock, and how large the *data* device of external metadata is.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::METADATA_BLOCK_BYTES;
use super::bitmap_page;
use crate::model::units::{BLOCK_BYTES, SECTOR_BYTES};

/// The size of one slot on a shared metadata device.
pub const INDEXED_AREA_BYTES: u64 = 128 << 20;
/// drbdmeta looks at this much of a device before it writes; smaller devices are refused.
pub const DEVICE_BYTES_MIN: u64 = 68 << 10;
/// DRBD's largest device.
pub const DEVICE_BYTES_MAX: u64 = 1 << 50;
/// The most bitmap slots of v09.
pub const PEERS_MAX: u32 = 31;
/// The largest activity log drbdmeta accepts (32 MiB), in blocks of 4096 bytes.
pub const RING_BLOCKS_MAX: u32 = 8192;
/// The smallest activity log, in blocks of 4096 bytes.
pub const RING_BLOCKS_MIN: u32 = 8;

const UNIT: u64 = METADATA_BLOCK_BYTES as u64;
const UNIT_SECTORS: u64 = UNIT / SECTOR_BYTES;

/// Which generation of DRBD wrote, and reads, the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// DRBD 8.0 to 8.4: one peer.
    V08,
    /// DRBD 9: up to 31 bitmap slots, 32 node ids.
    V09,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V08 => "v08",
            Self::V09 => "v09",
        })
    }
}

/// A word that names no metadata format or no placement.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("'{word}' is not a {what}; known: {known}")]
pub struct UnknownWord {
    /// The word.
    pub word: String,
    /// What it should have been.
    pub what: &'static str,
    /// What could have stood there.
    pub known: &'static str,
}

impl FromStr for Format {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "v08" => Ok(Self::V08),
            "v09" => Ok(Self::V09),
            _ => Err(UnknownWord { word: word.to_owned(), what: "metadata format", known: "v08, v09" }),
        }
    }
}

/// On which device the metadata is, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Placement {
    /// At the end of the data device.
    Internal,
    /// On a device of its own, which it uses whole.
    FlexibleExternal,
    /// In a slot of 128 MiB of a shared metadata device.
    Indexed(u8),
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Internal => f.pad("internal"),
            Self::FlexibleExternal => f.pad("flex-external"),
            Self::Indexed(index) => index.fmt(f),
        }
    }
}

/// Metadata of a placement, in a sentence.
struct Described(Placement);

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Placement::Indexed(index) => write!(f, "metadata in slot {index}"),
            placement => write!(f, "{placement} metadata"),
        }
    }
}

impl FromStr for Placement {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        match word {
            "internal" | "flex-internal" => Ok(Self::Internal),
            "flex-external" => Ok(Self::FlexibleExternal),
            _ => word.parse().map(Self::Indexed).map_err(|_| UnknownWord {
                word: word.to_owned(),
                what: "place for metadata",
                known: "internal, flex-external, 0 to 255",
            }),
        }
    }
}

/// The shape of the activity log: consecutive records are dealt out over `stripes` runs of `stripe_blocks` blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Striping {
    /// How many stripes.
    pub stripes: u32,
    /// Blocks of 4096 bytes in each.
    pub stripe_blocks: u32,
}

impl Default for Striping {
    fn default() -> Self {
        Self { stripes: 1, stripe_blocks: 8 }
    }
}

impl Striping {
    /// Blocks in the whole ring. Saturates where nonsense was read from a disk.
    #[must_use]
    pub const fn ring_blocks(self) -> u32 {
        self.stripes.saturating_mul(self.stripe_blocks)
    }

    /// The block, counted from the start of the activity log, that record `number` belongs into.
    ///
    /// The ring must not be empty.
    #[must_use]
    pub const fn block_of(self, number: u32) -> u32 {
        let position = number % self.ring_blocks();
        (position % self.stripes) * self.stripe_blocks + position / self.stripes
    }
}

/// Why there is no room, or no such thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// Too small for any metadata, or for a slot with that index.
    #[error("a device of {bytes} bytes is too small for {}: at least {minimum} bytes are needed", Described(*.placement))]
    DeviceTooSmall {
        /// What was asked for.
        placement: Placement,
        /// Size of the device.
        bytes: u64,
        /// Size it must have.
        minimum: u64,
    },
    /// Beyond 1 PiB, or too large for the fields of the superblock.
    #[error("a device of {bytes} bytes is too large: at most {maximum} bytes")]
    DeviceTooLarge {
        /// Size of the device.
        bytes: u64,
        /// Size it may have.
        maximum: u64,
    },
    /// The metadata alone would be larger than the device.
    #[error("metadata of {area_bytes} bytes does not fit a device of {bytes} bytes")]
    DoesNotFit {
        /// Size of the metadata.
        area_bytes: u64,
        /// Size of the device.
        bytes: u64,
    },
    /// v08 knows one peer, v09 at most 31.
    #[error("{format} metadata for {max_peers} peers: allowed are 1 to {maximum}")]
    Peers {
        /// Which format.
        format: Format,
        /// What was asked for.
        max_peers: u32,
        /// What is possible.
        maximum: u32,
    },
    /// The activity log is smaller than 32 KiB or larger than 32 MiB.
    #[error("an activity log of {stripes} stripes of {stripe_blocks} blocks: allowed are 8 to 8192 blocks in all")]
    Striping {
        /// Stripes asked for.
        stripes: u32,
        /// Blocks in each.
        stripe_blocks: u32,
    },
    /// Slots of a shared device have the default activity log and 4 KiB a bit, always.
    #[error("indexed metadata has an activity log of 1 stripe of 8 blocks and 4096 bytes a bit, nothing else")]
    IndexedShape,
    /// Not a power of two from 4 KiB to 1 MiB (v08: not 4 KiB).
    #[error("{bytes_per_bit} bytes a bit: allowed are 4096 and, for v09, the powers of two up to 1048576")]
    BytesPerBit {
        /// What was asked for.
        bytes_per_bit: u32,
    },
}

/// Where everything is. Offsets are bytes from the start of the device that holds the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Which format.
    pub format: Format,
    /// Which kind of place.
    pub placement: Placement,
    /// Slots in the bitmap.
    pub max_peers: u32,
    /// Shape of the activity log.
    pub striping: Striping,
    /// How many bytes of data one bit covers; the daemon works with 4096 only.
    pub bytes_per_bit: u32,
    /// Byte offset of the superblock.
    pub superblock: u64,
    /// Byte offset of the activity log.
    pub activity_log: u64,
    /// Byte offset of the bitmap.
    pub bitmap: u64,
    /// Room for the bitmap, all slots; a multiple of 4096.
    pub bitmap_bytes: u64,
    /// Sectors of the whole metadata area, as the superblock states it.
    pub md_size_sectors: u32,
    /// Activity log relative to the superblock, in sectors.
    pub al_offset_sectors: i32,
    /// Bitmap relative to the superblock, in sectors.
    pub bm_offset_sectors: i32,
    /// Sectors of data: internal, what lies before the bitmap; external, what the bitmap has room for.
    pub usable_sectors: u64,
}

impl Layout {
    /// The layout on a device of `device_bytes` bytes, with one bit for 4 KiB.
    pub fn compute(
        format: Format,
        placement: Placement,
        device_bytes: u64,
        max_peers: u32,
        striping: Striping,
    ) -> Result<Self, LayoutError> {
        Self::compute_coarse(format, placement, device_bytes, max_peers, striping, BLOCK_BYTES as u32)
    }

    /// As [`Layout::compute`], with one bit for `bytes_per_bit` bytes: metadata of DRBD 9.3 and later may have that.
    pub fn compute_coarse(
        format: Format,
        placement: Placement,
        device_bytes: u64,
        max_peers: u32,
        striping: Striping,
        bytes_per_bit: u32,
    ) -> Result<Self, LayoutError> {
        check_shape(format, placement, max_peers, striping, bytes_per_bit)?;
        if device_bytes > DEVICE_BYTES_MAX {
            return Err(LayoutError::DeviceTooLarge { bytes: device_bytes, maximum: DEVICE_BYTES_MAX });
        }
        let minimum = match placement {
            Placement::Indexed(index) => (u64::from(index) + 1) * INDEXED_AREA_BYTES,
            Placement::Internal | Placement::FlexibleExternal => DEVICE_BYTES_MIN,
        };
        if device_bytes < minimum {
            return Err(LayoutError::DeviceTooSmall { placement, bytes: device_bytes, minimum });
        }
        let parts = Parts { format, placement, device_bytes, max_peers, striping, bytes_per_bit };
        match placement {
            Placement::Internal => parts.internal(),
            Placement::FlexibleExternal => parts.external(0, device_bytes / SECTOR_BYTES),
            Placement::Indexed(index) => {
                parts.external(u64::from(index) * INDEXED_AREA_BYTES, INDEXED_AREA_BYTES / SECTOR_BYTES)
            }
        }
    }

    /// Byte offset of the block that activity record `number` belongs into. The numbers `0..ring_blocks` visit all
    /// blocks in ring order.
    #[must_use]
    pub fn activity_log_block_offset(&self, number: u32) -> u64 {
        self.activity_log + UNIT * u64::from(self.striping.block_of(number))
    }

    /// Byte offset of a page of the bitmap.
    #[must_use]
    pub fn bitmap_page_offset(&self, page: usize) -> u64 {
        self.bitmap + UNIT * page as u64
    }

    /// Bits that `data_sectors` of data need in each slot.
    #[must_use]
    pub fn bits_for(&self, data_sectors: u64) -> u64 {
        data_sectors.div_ceil(u64::from(self.bytes_per_bit) / SECTOR_BYTES)
    }

    /// Bytes of the bitmap area that mean something when the agreed size is `data_sectors`: whole 4 KiB pages, never
    /// more than there is room for. What lies behind is left alone by every tool, and may be old.
    #[must_use]
    pub fn bitmap_words_bytes_for(&self, data_sectors: u64) -> u64 {
        let pages = bitmap_page::page_count(self.bits_for(data_sectors), self.max_peers);
        (pages as u64 * UNIT).min(self.bitmap_bytes)
    }

    /// 64-bit words each slot needs so that together they hold every byte of the first `area_bytes` of the bitmap.
    #[must_use]
    pub fn slot_words(&self, area_bytes: u64) -> usize {
        bitmap_page::slot_words(area_bytes, self.max_peers)
    }
}

/// Where the superblock is, for a reader that does not know the format yet. `None` if the device is too small.
#[must_use]
pub fn superblock_offset(placement: Placement, device_bytes: u64) -> Option<u64> {
    let offset = match placement {
        Placement::Internal => device_bytes.checked_sub(UNIT)? / UNIT * UNIT,
        Placement::FlexibleExternal => 0,
        Placement::Indexed(index) => u64::from(index) * INDEXED_AREA_BYTES,
    };
    (offset + UNIT <= device_bytes).then_some(offset)
}

fn check_shape(
    format: Format,
    placement: Placement,
    max_peers: u32,
    striping: Striping,
    bytes_per_bit: u32,
) -> Result<(), LayoutError> {
    let maximum = match format {
        Format::V08 => 1,
        Format::V09 => PEERS_MAX,
    };
    if !(1..=maximum).contains(&max_peers) {
        return Err(LayoutError::Peers { format, max_peers, maximum });
    }
    if !(RING_BLOCKS_MIN..=RING_BLOCKS_MAX).contains(&striping.ring_blocks()) {
        let Striping { stripes, stripe_blocks } = striping;
        return Err(LayoutError::Striping { stripes, stripe_blocks });
    }
    let standard = bytes_per_bit == BLOCK_BYTES as u32;
    let possible =
        format == Format::V09 && bytes_per_bit.is_power_of_two() && (4096..=1 << 20).contains(&bytes_per_bit);
    if !standard && !possible {
        return Err(LayoutError::BytesPerBit { bytes_per_bit });
    }
    if matches!(placement, Placement::Indexed(_)) && (striping != Striping::default() || !standard) {
        return Err(LayoutError::IndexedShape);
    }
    Ok(())
}

/// What a layout is computed from, after it has been checked.
struct Parts {
    format: Format,
    placement: Placement,
    device_bytes: u64,
    max_peers: u32,
    striping: Striping,
    bytes_per_bit: u32,
}

impl Parts {
    fn ring_sectors(&self) -> u64 {
        u64::from(self.striping.ring_blocks()) * UNIT_SECTORS
    }

    /// The bitmap is dimensioned for the whole device, the part under the metadata included.
    fn internal(&self) -> Result<Layout, LayoutError> {
        let bits = (self.device_bytes / SECTOR_BYTES).div_ceil(u64::from(self.bytes_per_bit) / SECTOR_BYTES);
        let bitmap_bytes = bitmap_page::page_count(bits, self.max_peers) as u64 * UNIT;
        let behind_data = bitmap_bytes + self.ring_sectors() * SECTOR_BYTES;
        let superblock = superblock_offset(self.placement, self.device_bytes).unwrap_or(0);
        let bitmap = superblock
            .checked_sub(behind_data)
            .ok_or(LayoutError::DoesNotFit { area_bytes: behind_data + UNIT, bytes: self.device_bytes })?;
        let to_field = |sectors: u64| {
            i32::try_from(sectors)
                .map_err(|_| LayoutError::DeviceTooLarge { bytes: self.device_bytes, maximum: DEVICE_BYTES_MAX })
        };
        let behind_sectors = to_field(behind_data / SECTOR_BYTES)?;
        let ring_sectors = to_field(self.ring_sectors())?;
        Ok(Layout {
            format: self.format,
            placement: self.placement,
            max_peers: self.max_peers,
            striping: self.striping,
            bytes_per_bit: self.bytes_per_bit,
            superblock,
            activity_log: superblock - self.ring_sectors() * SECTOR_BYTES,
            bitmap,
            bitmap_bytes,
            md_size_sectors: behind_sectors.unsigned_abs() + UNIT_SECTORS as u32,
            al_offset_sectors: -ring_sectors,
            bm_offset_sectors: -behind_sectors,
            usable_sectors: bitmap / SECTOR_BYTES,
        })
    }

    /// drbdmeta and the kernel differ in how they round the room for the bitmap; this takes the smaller result, so
    /// that both agree to the size: whole 4 KiB pages, then whole 64-bit words in each slot.
    fn external(&self, superblock: u64, area_sectors: u64) -> Result<Layout, LayoutError> {
        let bm_offset = UNIT_SECTORS + self.ring_sectors();
        let does_not_fit = LayoutError::DoesNotFit {
            area_bytes: (bm_offset + UNIT_SECTORS) * SECTOR_BYTES,
            bytes: area_sectors * SECTOR_BYTES,
        };
        let room = area_sectors.checked_sub(bm_offset).ok_or(does_not_fit)? * SECTOR_BYTES;
        let bitmap_bytes = room / UNIT * UNIT;
        if bitmap_bytes == 0 {
            return Err(does_not_fit);
        }
        let words = bitmap_bytes / 8 / u64::from(self.max_peers);
        let largest = u64::from(u32::MAX) * SECTOR_BYTES;
        let too_large = LayoutError::DeviceTooLarge { bytes: self.device_bytes, maximum: largest };
        Ok(Layout {
            format: self.format,
            placement: self.placement,
            max_peers: self.max_peers,
            striping: self.striping,
            bytes_per_bit: self.bytes_per_bit,
            superblock,
            activity_log: superblock + UNIT,
            bitmap: superblock + bm_offset * SECTOR_BYTES,
            bitmap_bytes,
            md_size_sectors: u32::try_from(area_sectors).map_err(|_| too_large)?,
            al_offset_sectors: UNIT_SECTORS as i32,
            bm_offset_sectors: i32::try_from(bm_offset).map_err(|_| too_large)?,
            usable_sectors: words * 64 * (u64::from(self.bytes_per_bit) / SECTOR_BYTES),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn internal(device_bytes: u64, max_peers: u32, striping: Striping) -> Layout {
        let layout = Layout::compute(Format::V09, Placement::Internal, device_bytes, max_peers, striping);
        layout.expect("a layout the tool accepts")
    }

    #[test]
    fn internal_places_are_those_of_the_tool() {
        let cases = [
            (64 << 20, 1, 67104768, 67072000, 67067904, 80, 130992),
            ((64 << 20) + 1536, 1, 67104768, 67072000, 67067904, 80, 130992),
            (128 << 20, 1, 134213632, 134180864, 134176768, 80, 262064),
            ((128 << 20) + 4096, 1, 134217728, 134184960, 134176768, 88, 262064),
            (64 << 20, 3, 67104768, 67072000, 67063808, 88, 130984),
            (64 << 20, 31, 67104768, 67072000, 67006464, 200, 130872),
        ];
        for (bytes, peers, superblock, activity_log, bitmap, md_size, usable) in cases {
            let layout = internal(bytes, peers, Striping::default());
            let found = (layout.superblock, layout.activity_log, layout.bitmap);
            assert_eq!(found, (superblock, activity_log, bitmap), "{bytes} bytes, {peers} peers");
            assert_eq!((layout.md_size_sectors, layout.usable_sectors), (md_size, usable));
        }
    }

    #[test]
    fn a_coarse_bitmap_is_smaller() {
        let placement = Placement::Internal;
        let layout = Layout::compute_coarse(Format::V09, placement, 256 << 20, 2, Striping::default(), 65536);
        let layout = layout.expect("256 MiB is enough");
        assert_eq!((layout.bitmap, layout.md_size_sectors, layout.usable_sectors), (268394496, 80, 524208));
    }

    #[test]
    fn an_indexed_slot_covers_what_its_bitmap_has_room_for() {
        for (peers, usable) in [(1, 8587575296), (5, 1717514752)] {
            let layout = Layout::compute(Format::V09, Placement::Indexed(1), 256 << 20, peers, Striping::default());
            let layout = layout.expect("slot 1 ends with the device");
            assert_eq!((layout.superblock, layout.activity_log, layout.bitmap), (134217728, 134221824, 134254592));
            assert_eq!((layout.md_size_sectors, layout.usable_sectors), (262144, usable));
        }
        let beyond = Layout::compute(Format::V08, Placement::Indexed(2), 256 << 20, 1, Striping::default());
        assert!(matches!(beyond, Err(LayoutError::DeviceTooSmall { minimum: 402653184, .. })));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let compute = |format, bytes, peers, stripes, stripe_blocks| {
            Layout::compute(format, Placement::Internal, bytes, peers, Striping { stripes, stripe_blocks })
        };
        let ok = 64 << 20;
        assert!(matches!(compute(Format::V08, ok, 2, 1, 8), Err(LayoutError::Peers { maximum: 1, .. })));
        assert!(matches!(compute(Format::V09, ok, 32, 1, 8), Err(LayoutError::Peers { maximum: 31, .. })));
        assert!(matches!(compute(Format::V09, ok, 0, 1, 8), Err(LayoutError::Peers { .. })));
        assert!(matches!(compute(Format::V09, ok, 1, 1, 7), Err(LayoutError::Striping { .. })));
        assert!(matches!(compute(Format::V09, ok, 1, u32::MAX, u32::MAX), Err(LayoutError::Striping { .. })));
        assert!(matches!(compute(Format::V09, 65536, 1, 1, 8), Err(LayoutError::DeviceTooSmall { .. })));
        assert!(matches!(compute(Format::V09, 131072, 1, 1, 64), Err(LayoutError::DoesNotFit { .. })));
        assert!(matches!(compute(Format::V09, u64::MAX, 1, 1, 8), Err(LayoutError::DeviceTooLarge { .. })));
    }

    #[test]
    fn the_largest_device_with_the_most_peers_fits_the_fields() {
        assert_eq!(internal(DEVICE_BYTES_MAX, 31, Striping::default()).md_size_sectors, 31 * (1 << 26) + 72);
    }

    #[test]
    fn records_are_dealt_out_over_the_stripes() {
        let layout = internal(64 << 20, 1, Striping { stripes: 4, stripe_blocks: 8 });
        let blocks: Vec<u64> =
            (0..6).map(|n| (layout.activity_log_block_offset(n) - layout.activity_log) / 4096).collect();
        assert_eq!(blocks, [0, 8, 16, 24, 1, 9]);
        assert_eq!(layout.activity_log_block_offset(33), layout.activity_log + 8 * 4096);
    }

    #[test]
    fn only_the_agreed_size_is_meaningful() {
        let layout = internal(64 << 20, 3, Striping::default());
        assert_eq!(layout.bitmap_words_bytes_for(0), 0);
        assert_eq!(layout.bitmap_words_bytes_for(1), 4096);
        assert_eq!(layout.bitmap_words_bytes_for(100_000), 8192);
        assert_eq!(layout.bitmap_words_bytes_for(u64::MAX), 8192);
    }

    #[test]
    fn places_and_formats_have_the_names_of_the_tool() {
        for name in ["internal", "flex-external", "0", "255"] {
            assert_eq!(name.parse::<Placement>().map(|placement| placement.to_string()).as_deref(), Ok(name));
        }
        assert!("256".parse::<Placement>().is_err());
        assert_eq!("v09".parse::<Format>().map(|format| format.to_string()).as_deref(), Ok("v09"));
        assert!("v10".parse::<Format>().is_err());
    }
}

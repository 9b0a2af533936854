//! Quantities with types, so that an index, a count and a size never mix by accident.
//!
//! A *sector* is 512 bytes, always. A *block* is what one bit of the bitmap covers: 4096 bytes, 8 sectors. An *extent*
//! is what one slot of the activity log covers: 4 MiB, 1024 blocks.

use std::fmt;

/// Bytes in a sector.
pub const SECTOR_BYTES: u64 = 512;
/// Bytes in a block (one bit of the bitmap).
pub const BLOCK_BYTES: u64 = 4096;
/// Sectors in a block.
pub const BLOCK_SECTORS: u64 = BLOCK_BYTES / SECTOR_BYTES;
/// Bytes in an extent (one slot of the activity log).
pub const EXTENT_BYTES: u64 = 4 << 20;
/// Sectors in an extent.
pub const EXTENT_SECTORS: u64 = EXTENT_BYTES / SECTOR_BYTES;
/// Blocks in an extent.
pub const EXTENT_BLOCKS: u64 = EXTENT_BYTES / BLOCK_BYTES;
/// Sectors in the unit that resynchronisation locks against application writes (16 MiB).
pub const RESYNC_EXTENT_SECTORS: u64 = 4 * EXTENT_SECTORS;

/// A position on a device in units of 512 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sector(pub u64);

impl Sector {
    /// The byte this sector begins at.
    #[must_use]
    pub const fn byte(self) -> u64 {
        self.0 * SECTOR_BYTES
    }

    /// The bitmap block that holds this sector.
    #[must_use]
    pub const fn block(self) -> BlockIndex {
        BlockIndex(self.0 / BLOCK_SECTORS)
    }

    /// The activity-log extent that holds this sector.
    #[must_use]
    pub const fn extent(self) -> ExtentIndex {
        ExtentIndex((self.0 / EXTENT_SECTORS) as u32)
    }
}

impl fmt::Display for Sector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

/// A bit of the bitmap: the number of a 4 KiB block of the replicated device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(pub u64);

impl BlockIndex {
    /// The first sector of the block.
    #[must_use]
    pub const fn sector(self) -> Sector {
        Sector(self.0 * BLOCK_SECTORS)
    }
}

/// A 4 MiB extent of the replicated device, as the activity log numbers them. A device of 1 PiB has 2^28 of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtentIndex(pub u32);

impl ExtentIndex {
    /// The first sector of the extent.
    #[must_use]
    pub const fn sector(self) -> Sector {
        Sector(self.0 as u64 * EXTENT_SECTORS)
    }
}

/// A run of sectors, never empty in flight; `sectors` may be 0 only where a caller says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectorRange {
    /// The first sector.
    pub start: Sector,
    /// How many sectors.
    pub sectors: u64,
}

impl SectorRange {
    /// The range of `bytes` bytes from `start`; `bytes` must be a multiple of 512.
    #[must_use]
    pub const fn from_bytes(start: Sector, bytes: u64) -> Self {
        assert!(bytes.is_multiple_of(SECTOR_BYTES), "a range counts whole sectors");
        Self { start, sectors: bytes / SECTOR_BYTES }
    }

    /// The sector after the last one.
    #[must_use]
    pub const fn end(self) -> Sector {
        Sector(self.start.0 + self.sectors)
    }

    /// Length in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.sectors * SECTOR_BYTES
    }

    /// Whether the two ranges share a sector.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start.0 < other.start.0 + other.sectors && other.start.0 < self.start.0 + self.sectors
    }

    /// First and last extent touched. The range must not be empty.
    #[must_use]
    pub const fn extents(self) -> (ExtentIndex, ExtentIndex) {
        assert!(self.sectors > 0, "an empty range touches no extent");
        (self.start.extent(), Sector(self.start.0 + self.sectors - 1).extent())
    }

    /// Blocks touched by the range, as a half-open interval: what to *set* (rounded outwards).
    #[must_use]
    pub const fn blocks_touched(self) -> (BlockIndex, BlockIndex) {
        (BlockIndex(self.start.0 / BLOCK_SECTORS), BlockIndex((self.start.0 + self.sectors).div_ceil(BLOCK_SECTORS)))
    }

    /// Blocks wholly covered, as a half-open interval (possibly empty): what may be *cleared* (rounded inwards). A last
    /// partial block counts as covered when the range reaches `device_sectors`.
    #[must_use]
    pub const fn blocks_covered(self, device_sectors: u64) -> (BlockIndex, BlockIndex) {
        let first = self.start.0.div_ceil(BLOCK_SECTORS);
        let end = self.start.0 + self.sectors;
        let last = if end >= device_sectors { end.div_ceil(BLOCK_SECTORS) } else { end / BLOCK_SECTORS };
        (BlockIndex(first), BlockIndex(if last < first { first } else { last }))
    }
}

impl fmt::Display for SectorRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s +{}", self.start.0, self.sectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_set_outwards_and_cleared_inwards() {
        let range = SectorRange { start: Sector(7), sectors: 10 };
        assert_eq!(range.blocks_touched(), (BlockIndex(0), BlockIndex(3)));
        assert_eq!(range.blocks_covered(1000), (BlockIndex(1), BlockIndex(2)));
        assert_eq!(range.blocks_covered(17), (BlockIndex(1), BlockIndex(3)), "the device's last partial block counts");
        let inside = SectorRange { start: Sector(9), sectors: 2 };
        assert_eq!(inside.blocks_covered(1000), (BlockIndex(2), BlockIndex(2)), "nothing is wholly covered");
    }

    #[test]
    fn extents_of_a_range_are_inclusive() {
        let range = SectorRange { start: Sector(EXTENT_SECTORS - 1), sectors: 2 };
        assert_eq!(range.extents(), (ExtentIndex(0), ExtentIndex(1)));
    }
}

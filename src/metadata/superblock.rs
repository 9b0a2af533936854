//! The superblock: what a disk says about itself and its peers, v08 and v09.
//!
//! 4096 bytes, big-endian, reserved bytes zero. The first 0x70 bytes of v09:
//!
//! ```text
//! 00  agreed size            08  current generation     10  members               18  reserved (3 x 8)
//! 30  device uuid            38  flags      3c  magic   40  md size    44  al at  48  al slots  4c  bm at
//! 50  bytes per bit          54  max bio    58  slots   5c  node id    60  stripes   64  size   68  reserved
//! 70  32 peers of 32 bytes: bitmap generation, dagtag, flags, bitmap index, reserved (2 x 4)
//! 470 32 history generations
//! ```
//!
//! v08 keeps current, bitmap and two history generations at 08, the device uuid at 28, and the stripes at 58.
//!
//! There is one copy and no checksum. A torn write of the block leaves some of its 512-byte sectors old and some new:
//! each field is whole, and all fields up to the entry of peer 11 are of one write, but the entries of peers above
//! and the history may be older or newer than those. A torn write over something else leaves what was there. So a
//! superblock read from disk is [unverified](UnverifiedSuperblock) until its fields have been compared with what the
//! device demands, and with each other; no check can find an old but sound history.
//!
//! Invariants: a [`Superblock`] that came from `judge` agrees with its [`Layout`]; re-encoding what was decoded gives
//! the same bytes if the reserved ones were zero.
//!
//! Not here: when the flags and generations change, and the configured node id (see [`Superblock::check_node`]).

mod unverified;

use std::ops::RangeInclusive;

use bytes::BufMut;
use thiserror::Error;

use super::METADATA_BLOCK_BYTES;
pub use super::flags::{DeviceFlags, PeerFlags};
pub use super::layout::superblock_offset;
use super::layout::{Format, Layout, LayoutError, Striping};
use crate::model::generation_id::{GenerationId, GenerationSet};
use crate::model::ids::NodeId;
use crate::model::units::BLOCK_BYTES;
pub use unverified::UnverifiedSuperblock;

/// v08, activity log known to be applied (if AL_CLEAN is set as well).
const MAGIC_V08: u32 = 0x8374_026B;
/// v08 as an attached DRBD 8.4 writes it.
const MAGIC_V08_UNCLEAN: u32 = 0x8374_026C;
const MAGIC_V09: u32 = 0x8374_026D;
/// DRBD 0.7 and older: `0x8374026A` is v07.
const MAGICS_OLDER: RangeInclusive<u32> = 0x8374_0267..=0x8374_026A;
/// Where DRBD will put the formats that it does not have yet.
const MAGICS_NEWER: RangeInclusive<u32> = 0x8374_026E..=0x8374_02FF;
/// Where both formats have their magic.
const MAGIC_AT: usize = 0x3C;
/// What a fresh superblock says about the activity log's slots.
const AL_EXTENTS_FRESH: u32 = 257;
/// Entries in the peer table.
pub const PEER_ENTRIES: usize = 32;

/// What v09 keeps for each node id besides the bitmap generation, which is in `generations.bitmap`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerEntry {
    /// Position in the write stream when the bitmap generation was set, in sectors.
    pub bitmap_dagtag: u64,
    /// Flags of this peer. Unused in v08.
    pub flags: PeerFlags,
    /// Which slot of the bitmap belongs to this peer; `None` if no slot does.
    pub bitmap_index: Option<u32>,
}

/// All fields of either format; those a format lacks have their defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Which format it has on disk.
    pub format: Format,
    /// The last size agreed with the peers, in sectors; 0 before the first agreement.
    pub effective_size_sectors: u64,
    /// Current, bitmap and history generations. v08 uses `bitmap[0]` and two entries of history.
    pub generations: GenerationSet,
    /// v09: bit mask of the nodes in the last quorum partition; 0 when not recorded.
    pub members: u64,
    /// A free identifier; usually 0.
    pub device_uuid: u64,
    /// Flags as they are on disk. In v08 the peer's flags are among them; see [`Superblock::peer_flag`].
    pub flags: DeviceFlags,
    /// Sectors of the whole metadata area.
    pub md_size_sectors: u32,
    /// Activity log relative to the superblock, in sectors.
    pub al_offset_sectors: i32,
    /// Slots of the activity log in use (al-extents).
    pub al_nr_extents: u32,
    /// Bitmap relative to the superblock, in sectors.
    pub bm_offset_sectors: i32,
    /// Bytes of data for each bit.
    pub bytes_per_bit: u32,
    /// The largest request agreed with the peer, in bytes; may be 0.
    pub la_peer_max_bio_size: u32,
    /// Slots in the bitmap; 1 in v08.
    pub max_peers: u32,
    /// v09: own node id, once assigned.
    pub node_id: Option<NodeId>,
    /// Shape of the activity log.
    pub striping: Striping,
    /// By node id. v08 has no table: its one peer is entry 0, which owns slot 0.
    pub peers: [PeerEntry; PEER_ENTRIES],
    /// v08: the magic says "attached, activity log not applied".
    pub unclean_magic: bool,
}

/// Why a block is no superblock, or one that must not be used on this device.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SuperblockError {
    /// Fewer than 4096 bytes.
    #[error("a superblock has 4096 bytes, found {found}")]
    Length {
        /// How many there were.
        found: usize,
    },
    /// Nothing that looks like metadata.
    #[error("no metadata found (magic {magic:#010x})")]
    NoMetadata {
        /// What is where the magic should be.
        magic: u32,
    },
    /// Metadata, of a DRBD newer than this program.
    #[error("metadata of a newer version (magic {magic:#010x}); v08 and v09 can be read here")]
    NewerVersion {
        /// Its magic.
        magic: u32,
    },
    /// Metadata, of DRBD 0.7 or older.
    #[error("metadata of an older version (v07 or before, magic {magic:#010x}); v08 and v09 can be read here")]
    OlderVersion {
        /// Its magic.
        magic: u32,
    },
    /// Metadata that every tool reads, and nobody but a kernel works with.
    #[error(
        "one bit of the bitmap stands for {bytes_per_bit} bytes; only bitmaps with 4096 bytes a bit are served here"
    )]
    CoarseBitmap {
        /// How many bytes of data one bit covers.
        bytes_per_bit: u32,
    },
    /// A field is not what this device demands.
    #[error("{format} {field}: expected {expected}, found {found}")]
    Field {
        /// Format of the superblock.
        format: Format,
        /// Name of the field.
        field: &'static str,
        /// What it has to be.
        expected: i64,
        /// What it is.
        found: i64,
    },
    /// A field is outside its limits.
    #[error("{format} {field}: expected {min} to {max}, found {found}")]
    Range {
        /// Format of the superblock.
        format: Format,
        /// Name of the field.
        field: &'static str,
        /// The least it may be.
        min: i64,
        /// The most it may be.
        max: i64,
        /// What it is.
        found: i64,
    },
    /// A field of the peer table is outside its limits.
    #[error("v09 bitmap_index of peer {peer}: expected {min} to {max}, found {found}")]
    BitmapIndex {
        /// Whose entry.
        peer: usize,
        /// The least it may be.
        min: i32,
        /// The most it may be.
        max: i32,
        /// What it is.
        found: i32,
    },
    /// Clearing bits for one peer would clear those of another.
    #[error("v09 peers {first} and {second} both claim bitmap slot {slot}")]
    SharedSlot {
        /// One owner.
        first: usize,
        /// The other.
        second: usize,
        /// What they share.
        slot: u32,
    },
    /// The device cannot have such metadata at all.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The disk belongs to another node.
    #[error("node id: configured {configured}, found {found}")]
    NodeId {
        /// From the configuration.
        configured: NodeId,
        /// From the disk.
        found: NodeId,
    },
    /// All slots of the bitmap belong to peers that are not configured.
    #[error("bitmap slots: {needed} needed for the configured peers, {free} free of {max_peers}")]
    NoFreeSlot {
        /// Configured peers without a slot.
        needed: usize,
        /// Slots nobody owns.
        free: usize,
        /// Slots in all.
        max_peers: u32,
    },
}

impl SuperblockError {
    /// Whether there is no metadata at all: nothing that new metadata would destroy. What is torn, of another version or of
    /// another device is there.
    #[must_use]
    pub const fn is_absence(&self) -> bool {
        matches!(self, Self::Length { .. } | Self::NoMetadata { .. })
    }
}

impl Superblock {
    /// What create-md writes: data unrelated to anything, clean, no agreed size.
    #[must_use]
    pub fn fresh(layout: &Layout) -> Self {
        let mut superblock = Self::unplaced(layout.format);
        superblock.generations.current = GenerationId::JUST_CREATED;
        superblock.flags = DeviceFlags::AL_CLEAN;
        superblock.move_to(layout);
        superblock
    }

    /// A superblock that says nothing yet, not even where it is.
    #[must_use]
    pub(super) fn unplaced(format: Format) -> Self {
        let mut peers = [PeerEntry::default(); PEER_ENTRIES];
        // v08's only slot always belongs to its only peer.
        peers[0].bitmap_index = (format == Format::V08).then_some(0);
        Self {
            format,
            effective_size_sectors: 0,
            generations: GenerationSet::default(),
            members: 0,
            device_uuid: 0,
            flags: DeviceFlags(0),
            md_size_sectors: 0,
            al_offset_sectors: 0,
            al_nr_extents: AL_EXTENTS_FRESH,
            bm_offset_sectors: 0,
            bytes_per_bit: BLOCK_BYTES as u32,
            la_peer_max_bio_size: 0,
            max_peers: 1,
            node_id: None,
            striping: Striping::default(),
            peers,
            unclean_magic: false,
        }
    }

    /// Takes over all that the place decides.
    pub fn move_to(&mut self, layout: &Layout) {
        self.md_size_sectors = layout.md_size_sectors;
        self.al_offset_sectors = layout.al_offset_sectors;
        self.bm_offset_sectors = layout.bm_offset_sectors;
        self.bytes_per_bit = layout.bytes_per_bit;
        self.max_peers = layout.max_peers;
        self.striping = layout.striping;
    }

    /// Becomes the other version, as `drbdmeta create-md` converts: current generation, history, flags, size and the bits of
    /// the one slot stay. v08's peer becomes node 0, without a bitmap generation, since v09 cannot know which node it is;
    /// the way back takes the peer that has the slot.
    ///
    /// `layout` must be that of the new version on the same device, with one slot.
    pub fn convert(&mut self, layout: &Layout) {
        let is_clean = self.is_clean();
        let owner = self.peers.iter().position(|entry| entry.bitmap_index == Some(0)).unwrap_or(0);
        let mut converted = Self::unplaced(layout.format);
        converted.effective_size_sectors = self.effective_size_sectors;
        converted.generations.current = self.generations.current;
        converted.generations.history[..2].copy_from_slice(&self.generations.history[..2]);
        converted.device_uuid = self.device_uuid;
        converted.flags = DeviceFlags(self.flags.0 & DeviceFlags::OF_BOTH.0);
        if layout.format == Format::V08 {
            converted.generations.bitmap[0] = self.generations.bitmap[owner];
        }
        for flag in [PeerFlags::CONNECTED, PeerFlags::OUTDATED, PeerFlags::FULL_SYNC] {
            converted.set_peer_flag(0, flag, self.peer_flag(owner, flag));
        }
        converted.move_to(layout);
        converted.set_clean(is_clean);
        *self = converted;
    }

    /// Whether a kernel would attach this disk without `apply-al`.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.flags.contains(DeviceFlags::AL_CLEAN) && !self.unclean_magic
    }

    /// Marks the activity log as applied (or, while attached, as not): the flag, and in v08 the magic.
    pub fn set_clean(&mut self, clean: bool) {
        self.flags.set(DeviceFlags::AL_CLEAN, clean);
        self.unclean_magic = !clean && self.format == Format::V08;
    }

    /// Whether the bitmap is one that is worked with here: a bit for each block.
    pub fn check_granularity(&self) -> Result<(), SuperblockError> {
        match self.bytes_per_bit {
            bytes_per_bit if u64::from(bytes_per_bit) == BLOCK_BYTES => Ok(()),
            bytes_per_bit => Err(SuperblockError::CoarseBitmap { bytes_per_bit }),
        }
    }

    /// A slot of the bitmap that belongs to no peer.
    #[must_use]
    pub fn free_slot(&self) -> Option<u32> {
        (0..self.max_peers).find(|slot| self.peers.iter().all(|entry| entry.bitmap_index != Some(*slot)))
    }

    /// Whether the disk may belong to node `configured`, and has room for `peers`, the configured peers.
    pub fn check_node(&self, configured: NodeId, peers: &[NodeId]) -> Result<(), SuperblockError> {
        if let Some(found) = self.node_id.filter(|&found| found != configured) {
            return Err(SuperblockError::NodeId { configured, found });
        }
        if self.format == Format::V08 {
            return Ok(());
        }
        let owned = self.peers.iter().filter(|entry| entry.bitmap_index.is_some()).count();
        let free = (self.max_peers as usize).saturating_sub(owned);
        let needed = peers.iter().filter(|peer| self.peers[peer.index()].bitmap_index.is_none()).count();
        if needed > free {
            return Err(SuperblockError::NoFreeSlot { needed, free, max_peers: self.max_peers });
        }
        Ok(())
    }

    /// Whether a flag of a peer is set, wherever the format keeps it. v08 has one peer, whatever its index, and no place
    /// for FENCING, DEVICE_SEEN and NODE_EXISTS: they read as not set.
    #[must_use]
    pub fn peer_flag(&self, peer_index: usize, flag: PeerFlags) -> bool {
        match self.format {
            Format::V08 => v08_flag(flag).is_some_and(|flag| self.flags.contains(flag)),
            Format::V09 => self.peers.get(peer_index).is_some_and(|entry| entry.flags.contains(flag)),
        }
    }

    /// Sets or clears a flag of a peer, wherever the format keeps it; nothing happens where it has no place.
    pub fn set_peer_flag(&mut self, peer_index: usize, flag: PeerFlags, on: bool) {
        match self.format {
            Format::V08 => v08_flag(flag).into_iter().for_each(|flag| self.flags.set(flag, on)),
            Format::V09 => self.peers.get_mut(peer_index).into_iter().for_each(|entry| entry.flags.set(flag, on)),
        }
    }

    /// The 4096 bytes for the disk.
    #[must_use]
    pub fn encode(&self) -> [u8; METADATA_BLOCK_BYTES] {
        let mut block = [0; METADATA_BLOCK_BYTES];
        match self.format {
            Format::V08 => self.encode_v08(&mut block),
            Format::V09 => self.encode_v09(&mut block),
        }
        block
    }

    fn encode_v08(&self, block: &mut [u8]) {
        let mut out = block;
        out.put_u64(self.effective_size_sectors);
        out.put_u64(self.generations.current.0);
        out.put_u64(self.generations.bitmap[0].0);
        out.put_u64(self.generations.history[0].0);
        out.put_u64(self.generations.history[1].0);
        out.put_u64(self.device_uuid);
        out.put_u64(0);
        out.put_u32(self.flags.0);
        out.put_u32(if self.unclean_magic { MAGIC_V08_UNCLEAN } else { MAGIC_V08 });
        self.encode_geometry(&mut out);
        out.put_u32(self.striping.stripes);
        out.put_u32(self.striping.stripe_blocks);
    }

    fn encode_v09(&self, block: &mut [u8]) {
        let mut out = block;
        out.put_u64(self.effective_size_sectors);
        out.put_u64(self.generations.current.0);
        out.put_u64(self.members);
        out.put_bytes(0, 3 * 8);
        out.put_u64(self.device_uuid);
        out.put_u32(self.flags.0);
        out.put_u32(MAGIC_V09);
        self.encode_geometry(&mut out);
        out.put_u32(self.max_peers);
        out.put_i32(self.node_id.map_or(-1, |id| i32::from(id.number())));
        out.put_u32(self.striping.stripes);
        out.put_u32(self.striping.stripe_blocks);
        out.put_bytes(0, 2 * 4);
        for (entry, generation) in self.peers.iter().zip(&self.generations.bitmap) {
            out.put_u64(generation.0);
            out.put_u64(entry.bitmap_dagtag);
            out.put_u32(entry.flags.0);
            out.put_u32(entry.bitmap_index.unwrap_or(u32::MAX));
            out.put_bytes(0, 2 * 4);
        }
        for generation in &self.generations.history {
            out.put_u64(generation.0);
        }
    }

    /// The six fields that both formats have in a row, from 0x40.
    fn encode_geometry(&self, out: &mut impl BufMut) {
        out.put_u32(self.md_size_sectors);
        out.put_i32(self.al_offset_sectors);
        out.put_u32(self.al_nr_extents);
        out.put_i32(self.bm_offset_sectors);
        out.put_u32(self.bytes_per_bit);
        out.put_u32(self.la_peer_max_bio_size);
    }
}

/// Where v08 keeps a flag that v09 keeps per peer.
fn v08_flag(flag: PeerFlags) -> Option<DeviceFlags> {
    match flag {
        PeerFlags::CONNECTED => Some(DeviceFlags::CONNECTED_IND),
        PeerFlags::OUTDATED => Some(DeviceFlags::PEER_OUT_DATED),
        PeerFlags::FULL_SYNC => Some(DeviceFlags::FULL_SYNC),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metadata::layout::Placement;

    const DEVICE: u64 = 64 << 20;

    fn fresh(format: Format, max_peers: u32) -> Superblock {
        let layout = Layout::compute(format, Placement::Internal, DEVICE, max_peers, Striping::default());
        Superblock::fresh(&layout.expect("64 MiB is enough"))
    }

    fn judge(superblock: &Superblock) -> Result<Superblock, SuperblockError> {
        let unverified = UnverifiedSuperblock::decode(&superblock.encode())?;
        unverified.judge(Placement::Internal, DEVICE).map(|(superblock, _)| superblock)
    }

    fn refusal(change: impl FnOnce(&mut Superblock)) -> String {
        let mut superblock = fresh(Format::V09, 3);
        change(&mut superblock);
        judge(&superblock).expect_err("not acceptable").to_string()
    }

    #[test]
    fn what_the_tool_or_the_kernel_refuses_is_refused_by_name() {
        assert_eq!(refusal(|it| it.al_offset_sectors = -72), "v09 al_offset: expected -64, found -72");
        assert_eq!(refusal(|it| it.bm_offset_sectors = -72), "v09 bm_offset: expected -80, found -72");
        assert_eq!(refusal(|it| it.md_size_sectors = 80), "v09 md_size_sect: expected 88, found 80");
        assert_eq!(refusal(|it| it.max_peers = 32), "v09 metadata for 32 peers: allowed are 1 to 31");
        assert!(refusal(|it| it.striping.stripes = 0).contains("0 stripes of 8 blocks"));
        assert!(refusal(|it| it.bytes_per_bit = 512).contains("512 bytes a bit"));
        let agreed = refusal(|it| it.effective_size_sectors = 130_985);
        assert_eq!(agreed, "v09 effective_size: expected 0 to 130984, found 130985");
        let index = refusal(|it| it.peers[7].bitmap_index = Some(3));
        assert_eq!(index, "v09 bitmap_index of peer 7: expected -1 to 2, found 3");
        let own = refusal(|it| (it.node_id, it.peers[7].bitmap_index) = (NodeId::new(7), Some(0)));
        assert_eq!(own, "v09 bitmap_index of peer 7: expected -1 to -1, found 0");
        let shared = refusal(|it| it.peers[3..=20].iter_mut().for_each(|peer| peer.bitmap_index = Some(1)));
        assert_eq!(shared, "v09 peers 3 and 4 both claim bitmap slot 1");
    }

    #[test]
    fn a_node_id_beyond_31_is_refused() {
        let mut block = fresh(Format::V09, 1).encode();
        block[0x5F] = 32;
        block[0x5C..0x5F].fill(0);
        let judged = UnverifiedSuperblock::decode(&block).and_then(|it| it.judge(Placement::Internal, DEVICE));
        assert_eq!(judged.expect_err("too large").to_string(), "v09 node_id: expected -1 to 31, found 32");
    }

    #[test]
    fn a_block_without_magic_is_no_metadata() {
        let decoded = UnverifiedSuperblock::decode(&[0; METADATA_BLOCK_BYTES]);
        assert_eq!(decoded.expect_err("zeroes"), SuperblockError::NoMetadata { magic: 0 });
        let short = UnverifiedSuperblock::decode(&[0; 512]);
        assert_eq!(short.expect_err("too short"), SuperblockError::Length { found: 512 });
    }

    #[test]
    fn v08_without_stripes_has_the_default_log() {
        let mut block = fresh(Format::V08, 1).encode();
        block[0x58..0x60].fill(0);
        let judged = UnverifiedSuperblock::decode(&block).and_then(|it| it.judge(Placement::Internal, DEVICE));
        assert_eq!(judged.map(|(superblock, _)| superblock), Ok(fresh(Format::V08, 1)));
    }

    #[test]
    fn a_metadata_device_may_grow() {
        let place = |bytes| Layout::compute(Format::V09, Placement::FlexibleExternal, bytes, 2, Striping::default());
        let made = place(4 << 20).expect("large enough");
        let block = Superblock::fresh(&made).encode();
        let judge = |bytes| {
            let judged = UnverifiedSuperblock::decode(&block)?.judge(Placement::FlexibleExternal, bytes);
            judged.map(|(_, layout)| layout)
        };
        assert_eq!(judge(8 << 20), Ok(made));
        assert!(matches!(judge(2 << 20), Err(SuperblockError::Field { field: "md_size_sect", .. })));
    }

    #[test]
    fn peer_flags_have_one_door() {
        for format in [Format::V08, Format::V09] {
            let mut superblock = fresh(format, 1);
            for flag in [PeerFlags::CONNECTED, PeerFlags::OUTDATED, PeerFlags::FULL_SYNC] {
                assert!(!superblock.peer_flag(0, flag));
                superblock.set_peer_flag(0, flag, true);
                assert!(superblock.peer_flag(0, flag));
            }
            superblock.set_peer_flag(0, PeerFlags::CONNECTED, false);
            let expected = if format == Format::V08 { (0xA8, 0) } else { (0x80, 0xA) };
            assert_eq!((superblock.flags.0, superblock.peers[0].flags.0), expected);
        }
    }

    #[test]
    fn a_disk_stays_with_its_node_and_needs_a_slot_for_each_peer() {
        let node = |number| NodeId::new(number).expect("small");
        let mut superblock = fresh(Format::V09, 2);
        assert_eq!(superblock.check_node(node(0), &[node(1), node(2)]), Ok(()));
        superblock.node_id = Some(node(0));
        superblock.peers[5].bitmap_index = Some(0);
        let wrong = superblock.check_node(node(3), &[]);
        assert_eq!(wrong, Err(SuperblockError::NodeId { configured: node(3), found: node(0) }));
        assert_eq!(superblock.check_node(node(0), &[node(1), node(5)]), Ok(()));
        let full = superblock.check_node(node(0), &[node(1), node(2)]);
        assert_eq!(full, Err(SuperblockError::NoFreeSlot { needed: 2, free: 1, max_peers: 2 }));
    }

    #[test]
    fn a_free_slot_is_one_that_no_peer_has() {
        let mut superblock = fresh(Format::V09, 3);
        assert_eq!(superblock.free_slot(), Some(0));
        superblock.peers[5].bitmap_index = Some(0);
        superblock.peers[1].bitmap_index = Some(2);
        assert_eq!(superblock.free_slot(), Some(1));
        superblock.peers[2].bitmap_index = Some(1);
        assert_eq!(superblock.free_slot(), None);
        assert_eq!(fresh(Format::V08, 1).free_slot(), None);
    }

    #[test]
    fn clean_is_a_flag_and_in_v08_a_magic_too() {
        for format in [Format::V08, Format::V09] {
            let mut superblock = fresh(format, 1);
            assert!(superblock.is_clean());
            superblock.set_clean(false);
            assert_eq!((superblock.is_clean(), superblock.unclean_magic), (false, format == Format::V08));
            assert_eq!(judge(&superblock), Ok(superblock));
        }
    }

    fn any_superblock() -> impl Strategy<Value = Superblock> {
        let ids = || proptest::array::uniform32(any::<u64>().prop_map(GenerationId));
        let words = (any::<[u64; 4]>(), any::<[u32; 4]>(), any::<bool>());
        let peers = proptest::array::uniform32((any::<u64>(), any::<u32>()));
        (any::<bool>(), words, ids(), ids(), peers).prop_map(
            |(new, (wide, narrow, unclean), bitmap, history, peers)| {
                let mut superblock = fresh(if new { Format::V09 } else { Format::V08 }, if new { 3 } else { 1 });
                superblock.effective_size_sectors = wide[0] % 130_000;
                superblock.generations.current = GenerationId(wide[1]);
                superblock.device_uuid = wide[2];
                superblock.flags = DeviceFlags(narrow[0]);
                superblock.al_nr_extents = narrow[1];
                superblock.la_peer_max_bio_size = narrow[2];
                if new {
                    superblock.members = wide[3];
                    (superblock.generations.bitmap, superblock.generations.history) = (bitmap, history);
                    superblock.node_id = NodeId::new((narrow[3] % 32) as u8);
                    for (entry, (dagtag, flags)) in superblock.peers.iter_mut().zip(peers) {
                        (entry.bitmap_dagtag, entry.flags) = (dagtag, PeerFlags(flags));
                    }
                    superblock.peers[((narrow[3] + 1) % 32) as usize].bitmap_index = Some(2);
                } else {
                    superblock.unclean_magic = unclean;
                    superblock.generations.bitmap[0] = bitmap[0];
                    superblock.generations.history[..2].copy_from_slice(&history[..2]);
                }
                superblock
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn superblocks_survive_the_round_trip(superblock in any_superblock()) {
            prop_assert_eq!(judge(&superblock), Ok(superblock));
        }

        #[test]
        fn any_bytes_can_be_judged(
            mut bytes in proptest::collection::vec(any::<u8>(), METADATA_BLOCK_BYTES), magic in MAGIC_V08..=MAGIC_V09,
            plausible: bool, device_bytes: u64,
        ) {
            if plausible {
                bytes[..0x70].copy_from_slice(&fresh(Format::V09, 3).encode()[..0x70]);
            }
            bytes[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(&magic.to_be_bytes());
            for placement in [Placement::Internal, Placement::FlexibleExternal, Placement::Indexed(3)] {
                for device_bytes in [device_bytes, DEVICE] {
                    let unverified = UnverifiedSuperblock::decode(&bytes).expect("it has a magic");
                    let _ = unverified.judge(placement, device_bytes);
                }
            }
        }
    }
}

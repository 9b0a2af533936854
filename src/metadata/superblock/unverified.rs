//! Taking a superblock from disk apart, and comparing it with what the device demands.
//!
//! Three judges in one: what drbdmeta checks, what the kernel checks at an attach, and that no bitmap slot has two
//! owners, which a torn write can leave.

use bytes::Buf;

use super::{
    MAGIC_AT, MAGIC_V08, MAGIC_V08_UNCLEAN, MAGIC_V09, MAGICS_NEWER, MAGICS_OLDER, PEER_ENTRIES, PeerEntry, PeerFlags,
    Superblock, SuperblockError,
};
use crate::metadata::METADATA_BLOCK_BYTES;
use crate::metadata::layout::{Format, Layout, PEERS_MAX, Placement, Striping};
use crate::metadata::superblock::DeviceFlags;
use crate::model::generation_id::GenerationId;
use crate::model::ids::NodeId;
use crate::model::units::SECTOR_BYTES;

/// A block with the right magic; nothing in it has been compared with anything yet.
#[derive(Clone, Debug)]
pub struct UnverifiedSuperblock {
    /// All that fits the type; `node_id` and `bitmap_index` are still missing.
    fields: Superblock,
    node_id: i32,
    bitmap_indexes: [i32; PEER_ENTRIES],
}

impl UnverifiedSuperblock {
    /// Finds out the format and takes the fields apart.
    pub fn decode(bytes: &[u8]) -> Result<Self, SuperblockError> {
        let block = bytes.first_chunk::<METADATA_BLOCK_BYTES>();
        let block = block.ok_or(SuperblockError::Length { found: bytes.len() })?;
        match (&block[MAGIC_AT..]).get_u32() {
            MAGIC_V08 => Ok(decode_v08(block, false)),
            MAGIC_V08_UNCLEAN => Ok(decode_v08(block, true)),
            MAGIC_V09 => Ok(decode_v09(block)),
            magic if MAGICS_NEWER.contains(&magic) => Err(SuperblockError::NewerVersion { magic }),
            magic if MAGICS_OLDER.contains(&magic) => Err(SuperblockError::OlderVersion { magic }),
            magic => Err(SuperblockError::NoMetadata { magic }),
        }
    }

    /// Whether the block is metadata of any version, also one that cannot be read here.
    #[must_use]
    pub fn is_metadata(bytes: &[u8]) -> bool {
        Self::decode(bytes).map_or_else(|error| !error.is_absence(), |_| true)
    }

    /// Which format the magic names.
    #[must_use]
    pub fn format(&self) -> Format {
        self.fields.format
    }

    /// Compares all fields with what a device of `device_bytes` bytes demands; what drbdmeta or the kernel would refuse
    /// is refused, except that the activity log need not be clean.
    pub fn judge(self, placement: Placement, device_bytes: u64) -> Result<(Superblock, Layout), SuperblockError> {
        let Self { mut fields, node_id, bitmap_indexes } = self;
        // A device of its own may have grown since: the area is what it was made for.
        let stated_bytes = u64::from(fields.md_size_sectors) * SECTOR_BYTES;
        let area_bytes = match placement {
            Placement::FlexibleExternal => device_bytes.min(stated_bytes),
            Placement::Internal | Placement::Indexed(_) => device_bytes,
        };
        let layout = Layout::compute_coarse(
            fields.format,
            placement,
            area_bytes,
            fields.max_peers,
            fields.striping,
            fields.bytes_per_bit,
        )?;
        judge_offsets(&fields, &layout)?;
        judge_agreed_size(&fields, &layout)?;
        if fields.format == Format::V09 {
            fields.node_id = judge_node_id(node_id)?;
            for (peer, (entry, index)) in fields.peers.iter_mut().zip(bitmap_indexes).enumerate() {
                entry.bitmap_index = judge_bitmap_index(peer, index, fields.max_peers, fields.node_id)?;
            }
            judge_owners(&fields.peers)?;
        }
        Ok((fields, layout))
    }
}

fn decode_v08(block: &[u8; METADATA_BLOCK_BYTES], unclean_magic: bool) -> UnverifiedSuperblock {
    let (mut input, mut fields) = (&block[..], Superblock::unplaced(Format::V08));
    fields.unclean_magic = unclean_magic;
    fields.effective_size_sectors = input.get_u64();
    fields.generations.current = GenerationId(input.get_u64());
    fields.generations.bitmap[0] = GenerationId(input.get_u64());
    fields.generations.history[0] = GenerationId(input.get_u64());
    fields.generations.history[1] = GenerationId(input.get_u64());
    fields.device_uuid = input.get_u64();
    input.advance(8);
    fields.flags = DeviceFlags(input.get_u32());
    input.advance(4);
    decode_geometry(&mut input, &mut fields);
    let striping = Striping { stripes: input.get_u32(), stripe_blocks: input.get_u32() };
    // Before 8.4 these were reserved bytes, and the log had the size that is the default now.
    let unset = striping.stripes == 0 && striping.stripe_blocks == 0;
    fields.striping = if unset { Striping::default() } else { striping };
    UnverifiedSuperblock { fields, node_id: -1, bitmap_indexes: [-1; PEER_ENTRIES] }
}

fn decode_v09(block: &[u8; METADATA_BLOCK_BYTES]) -> UnverifiedSuperblock {
    let (mut input, mut fields) = (&block[..], Superblock::unplaced(Format::V09));
    let mut bitmap_indexes = [-1; PEER_ENTRIES];
    fields.effective_size_sectors = input.get_u64();
    fields.generations.current = GenerationId(input.get_u64());
    fields.members = input.get_u64();
    input.advance(3 * 8);
    fields.device_uuid = input.get_u64();
    fields.flags = DeviceFlags(input.get_u32());
    input.advance(4);
    decode_geometry(&mut input, &mut fields);
    fields.max_peers = input.get_u32();
    let node_id = input.get_i32();
    fields.striping = Striping { stripes: input.get_u32(), stripe_blocks: input.get_u32() };
    input.advance(2 * 4);
    for (peer, entry) in fields.peers.iter_mut().enumerate() {
        fields.generations.bitmap[peer] = GenerationId(input.get_u64());
        entry.bitmap_dagtag = input.get_u64();
        entry.flags = PeerFlags(input.get_u32());
        bitmap_indexes[peer] = input.get_i32();
        input.advance(2 * 4);
    }
    for generation in &mut fields.generations.history {
        *generation = GenerationId(input.get_u64());
    }
    UnverifiedSuperblock { fields, node_id, bitmap_indexes }
}

fn decode_geometry(input: &mut &[u8], fields: &mut Superblock) {
    fields.md_size_sectors = input.get_u32();
    fields.al_offset_sectors = input.get_i32();
    fields.al_nr_extents = input.get_u32();
    fields.bm_offset_sectors = input.get_i32();
    fields.bytes_per_bit = input.get_u32();
    fields.la_peer_max_bio_size = input.get_u32();
}

fn judge_offsets(fields: &Superblock, layout: &Layout) -> Result<(), SuperblockError> {
    let rows = [
        ("al_offset", i64::from(layout.al_offset_sectors), i64::from(fields.al_offset_sectors)),
        ("bm_offset", i64::from(layout.bm_offset_sectors), i64::from(fields.bm_offset_sectors)),
        ("md_size_sect", i64::from(layout.md_size_sectors), i64::from(fields.md_size_sectors)),
    ];
    for (field, expected, found) in rows {
        if found != expected {
            return Err(SuperblockError::Field { format: fields.format, field, expected, found });
        }
    }
    Ok(())
}

fn judge_agreed_size(fields: &Superblock, layout: &Layout) -> Result<(), SuperblockError> {
    let (found, max) = (fields.effective_size_sectors, layout.usable_sectors);
    if found > max {
        let field = if fields.format == Format::V08 { "la_size_sect" } else { "effective_size" };
        let clamped = |sectors: u64| i64::try_from(sectors).unwrap_or(i64::MAX);
        let (max, found) = (clamped(max), clamped(found));
        return Err(SuperblockError::Range { format: fields.format, field, min: 0, max, found });
    }
    Ok(())
}

fn judge_node_id(found: i32) -> Result<Option<NodeId>, SuperblockError> {
    if found == -1 {
        return Ok(None);
    }
    let (max, field) = (i64::from(NodeId::MAX), "node_id");
    let range = SuperblockError::Range { format: Format::V09, field, min: -1, max, found: i64::from(found) };
    u8::try_from(found).ok().and_then(NodeId::new).map(Some).ok_or(range)
}

/// The own entry must be empty: the kernel would take its slot for a peer's.
fn judge_bitmap_index(
    peer: usize,
    found: i32,
    max_peers: u32,
    own: Option<NodeId>,
) -> Result<Option<u32>, SuperblockError> {
    let is_own = own.is_some_and(|own| own.index() == peer);
    let max = if is_own { -1 } else { max_peers.min(PEERS_MAX) as i32 - 1 };
    match found {
        -1 => Ok(None),
        _ if (0..=max).contains(&found) => Ok(Some(found.unsigned_abs())),
        _ => Err(SuperblockError::BitmapIndex { peer, min: -1, max, found }),
    }
}

/// No tool writes a slot with two owners; a torn write that moved a slot between distant entries leaves one.
fn judge_owners(peers: &[PeerEntry; PEER_ENTRIES]) -> Result<(), SuperblockError> {
    let mut owners = [None; PEER_ENTRIES];
    for (second, entry) in peers.iter().enumerate() {
        let Some(slot) = entry.bitmap_index else { continue };
        if let Some(first) = owners[slot as usize].replace(second) {
            return Err(SuperblockError::SharedSlot { first, second, slot });
        }
    }
    Ok(())
}

//! What the two ends tell each other about one volume: sizes, generations, state.

use bytes::BufMut;

use crate::model::generation_id::GenerationId;
use crate::model::state::StateWord;

use super::error::WireError;
use super::fields::Fields;

/// How large a volume is and may become, and what its disk can take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Sectors of the backing device without metadata; 0 for a node without a disk.
    pub d_size: u64,
    /// Configured sectors; 0 for none.
    pub u_size: u64,
    /// Sectors exported now; 0 asks for an answer.
    pub c_size: u64,
    /// Largest request in bytes.
    pub max_bio_size: u32,
    /// Always 0.
    pub queue_order: u16,
    /// [`Sizes::FORCE`], [`Sizes::NO_RESYNC`].
    pub flags: u16,
    /// Present exactly when the feature WSAME was agreed.
    pub limits: Option<QueueLimits>,
}

impl Sizes {
    /// In `flags`: resize although the peer is not asked.
    pub const FORCE: u16 = 1;
    /// In `flags`: the new part of a grown device is the same on both sides; do not resynchronise it.
    pub const NO_RESYNC: u16 = 2;

    pub(super) fn decode(fields: &mut Fields, with_limits: bool) -> Result<Self, WireError> {
        Ok(Self {
            d_size: fields.u64()?,
            u_size: fields.u64()?,
            c_size: fields.u64()?,
            max_bio_size: fields.u32()?,
            queue_order: fields.u16()?,
            flags: fields.u16()?,
            limits: if with_limits { Some(QueueLimits::decode(fields)?) } else { None },
        })
    }

    pub(super) fn encode(&self, with_limits: bool, out: &mut impl BufMut) {
        debug_assert!(!with_limits || self.limits.is_some(), "the feature WSAME promises queue limits");
        out.put_u64(self.d_size);
        out.put_u64(self.u_size);
        out.put_u64(self.c_size);
        out.put_u32(self.max_bio_size);
        out.put_u16(self.queue_order);
        out.put_u16(self.flags);
        if with_limits {
            self.limits.unwrap_or_default().encode(out);
        }
    }
}

/// What the sender's disk can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Bytes.
    pub physical_block_size: u32,
    /// Bytes.
    pub logical_block_size: u32,
    /// Bytes.
    pub alignment_offset: u32,
    /// Smallest good request, bytes.
    pub io_min: u32,
    /// Best request, bytes; 0 for unknown.
    pub io_opt: u32,
    /// Discards are supported.
    pub discard_enabled: bool,
    /// A discarded range reads as zeros.
    pub discard_zeroes_data: bool,
    /// Write same is supported; we never say so.
    pub write_same_capable: bool,
}

impl Default for QueueLimits {
    /// A disk of 512-byte blocks that can do nothing special.
    fn default() -> Self {
        Self {
            physical_block_size: 512,
            logical_block_size: 512,
            alignment_offset: 0,
            io_min: 512,
            io_opt: 0,
            discard_enabled: false,
            discard_zeroes_data: false,
            write_same_capable: false,
        }
    }
}

impl QueueLimits {
    fn decode(fields: &mut Fields) -> Result<Self, WireError> {
        Ok(Self {
            physical_block_size: fields.u32()?,
            logical_block_size: fields.u32()?,
            alignment_offset: fields.u32()?,
            io_min: fields.u32()?,
            io_opt: fields.u32()?,
            discard_enabled: fields.u8()? != 0,
            discard_zeroes_data: fields.u8()? != 0,
            write_same_capable: fields.u8()? != 0,
        })
    }

    fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(self.physical_block_size);
        out.put_u32(self.logical_block_size);
        out.put_u32(self.alignment_offset);
        out.put_u32(self.io_min);
        out.put_u32(self.io_opt);
        out.put_u8(self.discard_enabled.into());
        out.put_u8(self.discard_zeroes_data.into());
        out.put_u8(self.write_same_capable.into());
        out.put_u8(0);
    }
}

/// What else a node says with its generations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UuidFlags(pub u64);

impl UuidFlags {
    /// The sender gives up its changes.
    pub const DISCARD_MY_DATA: Self = Self(1);
    /// The sender crashed while it was primary.
    pub const CRASHED_PRIMARY: Self = Self(2);
    /// The sender's disk, now Negotiating, will be Inconsistent.
    pub const INCONSISTENT: Self = Self(4);
    /// Both disks count as equal although nothing was copied (from version 90).
    pub const SKIP_INITIAL_SYNC: Self = Self(8);

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The generations of a volume's data on the sender's disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uuids {
    /// The data's generation.
    pub current: GenerationId,
    /// The generation the bitmap counts from.
    pub bitmap: GenerationId,
    /// Older ones, youngest first.
    pub history: [GenerationId; 2],
    /// Set bits in the bitmap; an estimate.
    pub dirty_bits: u64,
    /// What else there is to say.
    pub flags: UuidFlags,
}

impl Uuids {
    pub(super) fn decode(fields: &mut Fields) -> Result<Self, WireError> {
        Ok(Self {
            current: GenerationId(fields.u64()?),
            bitmap: GenerationId(fields.u64()?),
            history: [GenerationId(fields.u64()?), GenerationId(fields.u64()?)],
            dirty_bits: fields.u64()?,
            flags: UuidFlags(fields.u64()?),
        })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(self.current.0);
        out.put_u64(self.bitmap.0);
        out.put_u64(self.history[0].0);
        out.put_u64(self.history[1].0);
        out.put_u64(self.dirty_bits);
        out.put_u64(self.flags.0);
    }
}

/// A wish to change state: the fields under `mask` become those of `value`, in the *requester's* view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateChange {
    /// All ones in every field that shall change.
    pub mask: StateWord,
    /// The new values.
    pub value: StateWord,
}

impl StateChange {
    pub(super) fn decode(fields: &mut Fields) -> Result<Self, WireError> {
        Ok(Self { mask: StateWord(fields.u32()?), value: StateWord(fields.u32()?) })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(self.mask.0);
        out.put_u32(self.value.0);
    }
}

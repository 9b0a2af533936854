//! Packets about blocks: writes, reads, resync, verify, their answers and acks.
//!
//! Every range read from the wire has been judged: whole sectors, not empty unless an ack, within the limit of its kind,
//! and of a byte position that fits 63 bits. So arithmetic on it cannot overflow.

use bytes::{BufMut, Bytes};

use crate::model::units::{SECTOR_BYTES, Sector};

use super::command::Command;
use super::error::WireError;
use super::fields::Fields;

/// Largest read, resync or verify request.
pub const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Largest discard, write of zeroes, or range marked out of sync.
pub const TRIM_BYTES_MAX: u32 = 128 << 20;
/// Sectors whose byte position fits 63 bits.
const SECTOR_MAX: u64 = 1 << 54;

/// Ties an answer to a request: eight bytes that the asker chose and the answer repeats untouched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub [u8; 8]);

impl BlockId {
    /// All resync traffic.
    pub const RESYNC: Self = Self([0xff; 8]);
    /// Result of online verify: equal.
    pub const IN_SYNC: Self = Self(4711_u64.to_be_bytes());
    /// Result of online verify: different.
    pub const OUT_OF_SYNC: Self = Self(4712_u64.to_be_bytes());

    /// An id of our own, made from a number.
    #[must_use]
    pub const fn from_u64(number: u64) -> Self {
        Self(number.to_ne_bytes())
    }

    /// The number of an id of our own.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        u64::from_ne_bytes(self.0)
    }
}

/// Names an epoch: four bytes that the writer chose and the barrier ack repeats untouched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BarrierId(pub [u8; 4]);

impl BarrierId {
    /// An id of our own, made from a number.
    #[must_use]
    pub const fn from_u32(number: u32) -> Self {
        Self(number.to_ne_bytes())
    }

    /// The number of an id of our own.
    #[must_use]
    pub const fn to_u32(self) -> u32 {
        u32::from_ne_bytes(self.0)
    }
}

/// What kind of write, and which ack it wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DataFlags(pub u32);

impl DataFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Somebody waits for it.
    pub const RW_SYNC: Self = Self(2);
    /// A resync runs: when written, the receiver may clear the bits and answer `ResyncWriteAck`.
    pub const MAY_SET_IN_SYNC: Self = Self(4);
    /// Submit what is queued.
    pub const UNPLUG: Self = Self(8);
    /// Write through (from version 95).
    pub const FUA: Self = Self(16);
    /// Flush before (from version 95).
    pub const FLUSH: Self = Self(32);
    /// May unmap.
    pub const DISCARD: Self = Self(64);
    /// Answer `RecvAck` on receipt (from version 100).
    pub const SEND_RECEIVE_ACK: Self = Self(128);
    /// Answer `WriteAck` when on disk (from version 100).
    pub const SEND_WRITE_ACK: Self = Self(256);
    /// In `WriteSame`.
    pub const WSAME: Self = Self(512);
    /// In `Zeroes`.
    pub const ZEROES: Self = Self(1024);

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

    /// Without `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The flags that an agreed version has.
    #[must_use]
    pub const fn in_version(self, version: u32) -> Self {
        let acks = Self::SEND_RECEIVE_ACK.with(Self::SEND_WRITE_ACK);
        match version {
            ..=94 => self.without(acks.with(Self::FUA).with(Self::FLUSH)),
            95..=99 => self.without(acks),
            _ => self,
        }
    }
}

/// Refuses ranges that arithmetic or the limits of a kind of packet do not allow.
fn judge_range(command: Command, sector: u64, bytes: u64, min: u64, max: u64) -> Result<Sector, WireError> {
    let fits = sector <= SECTOR_MAX && (min..=max).contains(&bytes) && bytes.is_multiple_of(SECTOR_BYTES);
    if fits { Ok(Sector(sector)) } else { Err(WireError::BadRange { command, sector, bytes }) }
}

/// A mirrored write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// Where.
    pub sector: Sector,
    /// The writer's name for the write.
    pub block_id: BlockId,
    /// The sender's packet counter for this volume.
    pub sequence: u32,
    /// Hints, and which ack is wanted.
    pub flags: DataFlags,
    /// The sender's integrity digest over the payload; empty without one.
    pub digest: Bytes,
    /// The blocks.
    pub payload: Bytes,
}

impl Data {
    pub(super) fn decode(fields: &mut Fields, payload: Bytes) -> Result<Self, WireError> {
        let sector = fields.u64()?;
        let sector = judge_range(fields.command(), sector, payload.len() as u64, 1, u64::MAX)?;
        Ok(Self {
            sector,
            block_id: BlockId(fields.array()?),
            sequence: fields.u32()?,
            flags: DataFlags(fields.u32()?),
            digest: fields.rest(),
            payload,
        })
    }

    pub(super) fn encode(&self, version: u32, out: &mut impl BufMut) {
        out.put_u64(self.sector.0);
        out.put_slice(&self.block_id.0);
        out.put_u32(self.sequence);
        out.put_u32(self.flags.in_version(version).0);
        out.put_slice(&self.digest);
    }
}

/// A write without data: discard or zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trim {
    /// Where.
    pub sector: Sector,
    /// The writer's name for the write.
    pub block_id: BlockId,
    /// The sender's packet counter for this volume.
    pub sequence: u32,
    /// Hints, and which ack is wanted.
    pub flags: DataFlags,
    /// How much.
    pub bytes: u32,
}

impl Trim {
    pub(super) fn decode(fields: &mut Fields) -> Result<Self, WireError> {
        let sector = fields.u64()?;
        let block_id = BlockId(fields.array()?);
        let sequence = fields.u32()?;
        let flags = DataFlags(fields.u32()?);
        let bytes = fields.u32()?;
        let sector = judge_range(fields.command(), sector, bytes.into(), 1, TRIM_BYTES_MAX.into())?;
        Ok(Self { sector, block_id, sequence, flags, bytes })
    }

    pub(super) fn encode(&self, version: u32, out: &mut impl BufMut) {
        out.put_u64(self.sector.0);
        out.put_slice(&self.block_id.0);
        out.put_u32(self.sequence);
        out.put_u32(self.flags.in_version(version).0);
        out.put_u32(self.bytes);
    }
}

/// Blocks that were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadReply {
    /// Where.
    pub sector: Sector,
    /// The asker's name for the read.
    pub block_id: BlockId,
    /// The sender's integrity digest over the payload; empty without one.
    pub digest: Bytes,
    /// The blocks.
    pub payload: Bytes,
}

impl ReadReply {
    pub(super) fn decode(fields: &mut Fields, payload: Bytes) -> Result<Self, WireError> {
        let Data { sector, block_id, digest, payload, .. } = Data::decode(fields, payload)?;
        Ok(Self { sector, block_id, digest, payload })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(self.sector.0);
        out.put_slice(&self.block_id.0);
        out.put_u64(0);
        out.put_slice(&self.digest);
    }
}

/// Asks for a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRequest {
    /// Where.
    pub sector: Sector,
    /// The asker's name for the request.
    pub block_id: BlockId,
    /// How much.
    pub bytes: u32,
}

impl BlockRequest {
    pub(super) fn decode(fields: &mut Fields) -> Result<Self, WireError> {
        let sector = fields.u64()?;
        let block_id = BlockId(fields.array()?);
        let bytes = fields.u32()?;
        let _pad = fields.u32()?;
        let sector = judge_range(fields.command(), sector, bytes.into(), 1, REQUEST_BYTES_MAX.into())?;
        Ok(Self { sector, block_id, bytes })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(self.sector.0);
        out.put_slice(&self.block_id.0);
        out.put_u32(self.bytes);
        out.put_u32(0);
    }
}

/// Says what became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockAck {
    /// Where, as in the request.
    pub sector: Sector,
    /// As in the request, or the result of a verify.
    pub block_id: BlockId,
    /// How much, as in the request.
    pub bytes: u32,
    /// The sender's packet counter for this volume.
    pub sequence: u32,
}

impl BlockAck {
    pub(super) fn decode(fields: &mut Fields) -> Result<Self, WireError> {
        let sector = fields.u64()?;
        let block_id = BlockId(fields.array()?);
        let bytes = fields.u32()?;
        let sequence = fields.u32()?;
        let sector = judge_range(fields.command(), sector, bytes.into(), 0, u64::MAX)?;
        Ok(Self { sector, block_id, bytes, sequence })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u64(self.sector.0);
        out.put_slice(&self.block_id.0);
        out.put_u32(self.bytes);
        out.put_u32(self.sequence);
    }
}

/// A range and nothing else: all zero, or out of sync.
pub(super) fn decode_description(fields: &mut Fields) -> Result<(Sector, u32), WireError> {
    let sector = fields.u64()?;
    let bytes = fields.u32()?;
    let sector = judge_range(fields.command(), sector, bytes.into(), 1, u64::MAX)?;
    Ok((sector, bytes))
}

pub(super) fn encode_description(sector: Sector, bytes: u32, out: &mut impl BufMut) {
    out.put_u64(sector.0);
    out.put_u32(bytes);
    out.put_u32(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(sector: u64, bytes: u32) -> Result<BlockRequest, WireError> {
        let mut head = Vec::new();
        BlockRequest { sector: Sector(sector), block_id: BlockId::RESYNC, bytes }.encode(&mut head);
        BlockRequest::decode(&mut Fields::new(Command::ResyncDataRequest, head.into()))
    }

    #[test]
    fn only_whole_sectors_within_the_limit_are_asked_for() {
        assert!(request(0, 512).is_ok());
        assert!(request(8, 1 << 20).is_ok());
        for (sector, bytes) in [(0, 0), (0, 511), (0, (1 << 20) + 512), (u64::MAX, 512)] {
            assert!(matches!(request(sector, bytes), Err(WireError::BadRange { .. })), "{sector} +{bytes}");
        }
    }

    #[test]
    fn verify_results_are_numbers_in_network_order() {
        assert_eq!(BlockId::IN_SYNC.0, [0, 0, 0, 0, 0, 0, 0x12, 0x67]);
        assert_eq!(BlockId::OUT_OF_SYNC.0, [0, 0, 0, 0, 0, 0, 0x12, 0x68]);
        assert_eq!(BlockId::from_u64(77).to_u64(), 77);
    }

    #[test]
    fn old_versions_have_fewer_flags() {
        let all = DataFlags(0x7ff);
        assert_eq!(all.in_version(94), DataFlags(0x64f));
        assert_eq!(all.in_version(99), DataFlags(0x67f));
        assert_eq!(all.in_version(100), all);
    }
}

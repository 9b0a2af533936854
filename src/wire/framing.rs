//! Headers: where a packet begins, what it is and how long it is.
//!
//! ```text
//!        0         2         4         6         8                  12                 16
//! h80    | 83 74 02 67       | command | length  |
//! h95    | 83 5a   | command | length            |
//! h100   | 86 20 ec 20       | volume  | command | length            | pad, zero        |
//! ```
//!
//! Everything before the agreement has h80. From then on, on both streams: below 95 h80; 95 to 99 h80 up to a length
//! of 32768 and h95 above; from 100 h100. `length` counts what follows the header.

use std::fmt;

use bytes::BufMut;

use crate::model::ids::VolumeNumber;

use super::command::CommandNumber;
use super::error::WireError;

pub use super::reader::{PacketReader, Wants};

/// The oldest version we speak.
pub const PROTOCOL_MIN: u32 = 86;
/// The newest version we speak.
pub const PROTOCOL_MAX: u32 = 101;
/// The version in force before the features packets: plain h80 headers and nothing optional.
pub const PROTOCOL_BEFORE_AGREEMENT: u32 = 80;

const MAGIC_80: u32 = 0x8374_0267;
const MAGIC_95: u16 = 0x835a;
const MAGIC_100: u32 = 0x8620_ec20;
/// Up to this length versions 95 to 99 use h80.
const LENGTH_80_MAX_FROM_95: u32 = 32768;

/// Optional parts of the protocol, agreed independently of the version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Features(pub u32);

impl Features {
    /// None.
    pub const NONE: Self = Self(0);
    /// `Trim` may be sent.
    pub const TRIM: Self = Self(1);
    /// `ThinResyncRequest` and `ResyncDeallocated` may be sent.
    pub const THIN_RESYNC: Self = Self(2);
    /// `Sizes` carries queue limits. We offer it for that, and never send `WriteSame`.
    pub const WSAME: Self = Self(4);
    /// `Zeroes` may be sent, and `Trim` means discard only.
    pub const WZEROES: Self = Self(8);
    /// What we offer.
    pub const OURS: Self = Self(0xf);

    /// Whether all of `other` are in `self`.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What both have.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// One of the two byte streams of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Blocks, requests, and all ordered configuration and state.
    Data,
    /// Acks, pings and replies to state changes.
    Meta,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Data => "data",
            Self::Meta => "meta",
        })
    }
}

/// Size of the header in an agreed version.
#[must_use]
pub const fn header_bytes(version: u32) -> usize {
    if version >= 100 { 16 } else { 8 }
}

/// The header of one packet, as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which volume; 0 below version 100.
    pub volume: VolumeNumber,
    /// The number of the command, whether we know it or not.
    pub command: CommandNumber,
    /// Bytes that follow.
    pub length: u32,
}

impl Header {
    /// Reads a header of `header_bytes(version)` bytes; missing bytes count as zeros, so a short slice fails as a wrong
    /// magic or yields a header of length 0.
    pub(super) fn decode(bytes: &[u8], version: u32) -> Result<Self, WireError> {
        let mut all = [0; 16];
        for (to, from) in all.iter_mut().zip(bytes) {
            *to = *from;
        }
        let u16_at = |at: usize| u16::from_be_bytes([all[at], all[at + 1]]);
        let u32_at = |at: usize| u32::from_be_bytes([all[at], all[at + 1], all[at + 2], all[at + 3]]);
        let magic = u32_at(0);
        if version >= 100 && magic == MAGIC_100 {
            if u32_at(12) != 0 {
                return Err(WireError::HeaderPadding);
            }
            let volume = VolumeNumber(u16_at(4));
            Ok(Self { volume, command: CommandNumber(u16_at(6)), length: u32_at(8) })
        } else if version < 100 && magic == MAGIC_80 {
            Ok(Self { volume: VolumeNumber(0), command: CommandNumber(u16_at(4)), length: u16_at(6).into() })
        } else if (95..100).contains(&version) && u16_at(0) == MAGIC_95 {
            Ok(Self { volume: VolumeNumber(0), command: CommandNumber(u16_at(2)), length: u32_at(4) })
        } else {
            Err(WireError::WrongMagic { magic, version })
        }
    }

    /// Writes the header into the `header_bytes(version)` bytes kept free for it.
    ///
    /// # Panics
    /// Below version 95, when the length does not fit 16 bits: a truncated length would break the stream. The sizes
    /// agreed with such a peer never reach it.
    pub(super) fn encode(&self, version: u32, mut place: &mut [u8]) {
        let Self { volume, command, length } = *self;
        if version >= 100 {
            place.put_u32(MAGIC_100);
            place.put_u16(volume.0);
            place.put_u16(command.0);
            place.put_u32(length);
            place.put_u32(0);
        } else if version >= 95 && length > LENGTH_80_MAX_FROM_95 {
            place.put_u16(MAGIC_95);
            place.put_u16(command.0);
            place.put_u32(length);
        } else {
            place.put_u32(MAGIC_80);
            place.put_u16(command.0);
            place.put_u16(u16::try_from(length).expect("below version 95 packets are at most 32 KiB and their head"));
        }
    }
}

/// Whether these four bytes begin any header there is.
pub(super) fn is_any_magic(magic: [u8; 4]) -> bool {
    let number = u32::from_be_bytes(magic);
    number == MAGIC_80 || number == MAGIC_100 || number >> 16 == u32::from(MAGIC_95)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(version: u32, length: u32, expected: &[u8]) {
        let volume = VolumeNumber(if version >= 100 { 3 } else { 0 });
        let header = Header { volume, command: CommandNumber(0x0b), length };
        let mut bytes = vec![0; header_bytes(version)];
        header.encode(version, &mut bytes);
        assert_eq!(bytes, expected);
        assert_eq!(Header::decode(&bytes, version), Ok(header));
    }

    #[test]
    fn each_version_has_its_header() {
        check(86, 24, &[0x83, 0x74, 0x02, 0x67, 0, 0x0b, 0, 24]);
        check(94, 0x8018, &[0x83, 0x74, 0x02, 0x67, 0, 0x0b, 0x80, 0x18]);
        check(95, 32768, &[0x83, 0x74, 0x02, 0x67, 0, 0x0b, 0x80, 0]);
        check(99, 32769, &[0x83, 0x5a, 0, 0x0b, 0, 0, 0x80, 1]);
        check(100, 24, &[0x86, 0x20, 0xec, 0x20, 0, 3, 0, 0x0b, 0, 0, 0, 24, 0, 0, 0, 0]);
    }

    #[test]
    fn another_versions_header_is_a_wrong_magic() {
        let h95 = [0x83, 0x5a, 0, 0x0b, 0, 0, 0x80, 1];
        let error = Header::decode(&h95, 94).unwrap_err();
        assert_eq!(error.to_string(), "Wrong magic value 0x835a000b in protocol version 94");
        assert!(Header::decode(&h95, 101).is_err());
    }

    #[test]
    fn the_pad_must_be_zero() {
        let bytes = [0x86, 0x20, 0xec, 0x20, 0, 3, 0, 0x0b, 0, 0, 0, 24, 0, 0, 0, 1];
        assert_eq!(Header::decode(&bytes, 101), Err(WireError::HeaderPadding));
    }
}

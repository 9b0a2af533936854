//! Why a connection must be closed: what the peer sent that it must not send.
//!
//! Texts that the kernel also prints are worded as there, so that both logs of an incident read alike.

use thiserror::Error;

use super::command::{Command, CommandNumber};
use super::framing::{PROTOCOL_MAX, PROTOCOL_MIN, Stream};

/// The peer broke the protocol. The stream cannot be read any further.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// The stream is not at the beginning of a packet, or the peer uses another header than agreed.
    #[error("Wrong magic value {magic:#010x} in protocol version {version}")]
    WrongMagic {
        /// The first four bytes.
        magic: u32,
        /// The version whose headers were expected.
        version: u32,
    },
    /// The last field of the 16-byte header.
    #[error("Header padding is not zero")]
    HeaderPadding,
    /// A command that does not exist, or not on this stream.
    #[error("Unexpected {stream} packet {command}")]
    Unexpected {
        /// Where it came.
        stream: Stream,
        /// What came.
        command: CommandNumber,
    },
    /// More bytes than the fixed part where nothing follows it.
    #[error("No payload expected {command} l:{length}")]
    NoPayloadExpected {
        /// What came.
        command: Command,
        /// Length in the header.
        length: u32,
    },
    /// Fewer bytes than the fixed part.
    #[error("{command}: unexpected packet size, expected:{expected} received:{received}")]
    TooShort {
        /// What came.
        command: Command,
        /// The least it must have.
        expected: u32,
        /// Length in the header.
        received: u32,
    },
    /// More bytes than such a packet can have.
    #[error("{command}: unexpected packet size, at most:{max} received:{received}")]
    TooLong {
        /// What came.
        command: CommandNumber,
        /// The most it may have.
        max: u32,
        /// Length in the header.
        received: u32,
    },
    /// Packets on meta have one size each.
    #[error("Wrong packet size on meta (c: {number}, l: {length})", number = command.number())]
    WrongMetaSize {
        /// What came.
        command: Command,
        /// Length in the header.
        length: u32,
    },
    /// The first packet of a handshake has another shape.
    #[error("expected ConnectionFeatures length: 72, received: {received}")]
    FeaturesLength {
        /// Length in the header.
        received: u32,
    },
    /// No version both speak.
    #[error("incompatible DRBD dialects: I support {PROTOCOL_MIN}-{PROTOCOL_MAX}, peer supports {min}-{max}")]
    IncompatibleDialects {
        /// The peer's lowest.
        min: u32,
        /// The peer's highest.
        max: u32,
    },
    /// A range that is empty, not whole sectors, too large, or beyond what 64 bits of bytes can name.
    #[error("{command}: bad range, sector {sector} +{bytes}")]
    BadRange {
        /// What came.
        command: Command,
        /// First sector.
        sector: u64,
        /// Length of the range in bytes.
        bytes: u64,
    },
    /// A field holds a number that means nothing.
    #[error("{command}: {field} has unknown value {value}")]
    UnknownValue {
        /// What came.
        command: Command,
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u32,
    },
}

impl WireError {
    /// Whether connecting again is pointless: the peer will say the same again. An administrator must look, the
    /// connection becomes StandAlone. Everything else is a protocol error after which a new connection is tried.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Unexpected { stream: Stream::Meta, .. }
                | Self::FeaturesLength { .. }
                | Self::IncompatibleDialects { .. }
        )
    }
}

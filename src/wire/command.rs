//! The one table of packet numbers: name, stream, what must have been agreed, and which lengths are legal.
//!
//! Names are the ones the kernel prints, so that an operator finds the same words in both logs. A number that has no
//! row, or a row without a stream, is not understood by DRBD 8.4 either.

use std::fmt;

use super::framing::{Features, Stream};

/// Largest block of data in one packet, by agreed version.
#[must_use]
pub const fn data_bytes_max(version: u32) -> u32 {
    match version {
        ..=94 => 32 << 10,
        95..=99 => 128 << 10,
        _ => 1 << 20,
    }
}

/// Head and small variable parts fit one page with their header; so do the pieces of a bitmap.
pub(super) const HEAD_BYTES_MAX: u32 = 4096;
/// Longest algorithm name or secret, with its terminating zero.
pub(super) const NAME_BYTES_MAX: u32 = 64;
/// Longest digest we accept in a checksum packet; the longest hash in use has 64 bytes.
pub(super) const DIGEST_BYTES_MAX: u32 = 128;
/// Longest packet of an unknown optional command that we skip: the longest packet there can be.
pub(super) const SKIPPED_BYTES_MAX: u32 = (1 << 20) + HEAD_BYTES_MAX;

/// Which streams carry a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// Data only.
    Data,
    /// Meta only.
    Meta,
    /// Either.
    Both,
    /// No stream: a number with a name that 8.4 does not act on.
    Neither,
}

impl Streams {
    /// Whether `stream` is one of them.
    #[must_use]
    pub const fn contains(self, stream: Stream) -> bool {
        matches!((self, stream), (Self::Both, _) | (Self::Data, Stream::Data) | (Self::Meta, Stream::Meta))
    }
}

/// What follows the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Exactly so many bytes.
    Exact(u32),
    /// From, to.
    Between(u32, u32),
    /// Head of 24, the sender's integrity digest, blocks of data.
    Blocks,
    /// A piece of the bitmap of at least so many bytes.
    BitmapPiece(u32),
    /// Parameters, from version 87 with a name.
    Protocol,
    /// One of four layouts, by version.
    SyncParam,
    /// With or without queue limits, by feature.
    Sizes,
}

/// Legal lengths of what follows a header, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LengthRule {
    pub(super) min: u32,
    pub(super) max: u32,
}

macro_rules! commands {
    ($($(#[$doc:meta])* $number:literal $variant:ident $name:literal $streams:ident $version:literal $features:ident
        $body:expr;)+) => {
        /// What a packet is, as its header says.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Command { $($(#[$doc])* $variant = $number,)+ }

        impl Command {
            /// Every command, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The command with that number, if the table has it.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }

            /// The name the kernel prints.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The streams that carry it.
            #[must_use]
            pub const fn streams(self) -> Streams {
                match self { $(Self::$variant => Streams::$streams,)+ }
            }

            /// The lowest agreed version that has it.
            #[must_use]
            pub const fn version_min(self) -> u32 {
                match self { $(Self::$variant => $version,)+ }
            }

            /// The features that must have been agreed before it is sent.
            #[must_use]
            pub const fn features(self) -> Features {
                match self { $(Self::$variant => Features::$features,)+ }
            }

            pub(super) const fn body(self) -> Body {
                match self { $(Self::$variant => $body,)+ }
            }
        }
    };
}

commands! {
    /// A mirrored write.
    0x00 Data "Data" Data 86 NONE Body::Blocks;
    /// Answer to `DataRequest`.
    0x01 DataReply "DataReply" Data 86 NONE Body::Blocks;
    /// Answer to a resync request.
    0x02 ResyncDataReply "RSDataReply" Data 86 NONE Body::Blocks;
    /// End of a write epoch.
    0x03 Barrier "Barrier" Data 86 NONE Body::Exact(8);
    /// A plain piece of the bitmap.
    0x04 Bitmap "ReportBitMap" Data 86 NONE Body::BitmapPiece(0);
    /// Historical, without a handler.
    0x05 BecomeSyncTarget "BecomeSyncTarget" Neither 86 NONE Body::Exact(0);
    /// Historical, without a handler.
    0x06 BecomeSyncSource "BecomeSyncSource" Neither 86 NONE Body::Exact(0);
    /// Hint: submit what is queued.
    0x07 UnplugRemote "UnplugRemote" Data 86 NONE Body::Exact(0);
    /// Read for a node without usable local data.
    0x08 DataRequest "DataRequest" Data 86 NONE Body::Exact(24);
    /// Resync read.
    0x09 ResyncDataRequest "RSDataRequest" Data 86 NONE Body::Exact(24);
    /// Sync parameters up to version 88.
    0x0a SyncParam "SyncParam" Data 86 NONE Body::SyncParam;
    /// Parameters of the connection.
    0x0b Protocol "ReportProtocol" Data 86 NONE Body::Protocol;
    /// Data generation ids.
    0x0c Uuids "ReportUUIDs" Data 86 NONE Body::Exact(48);
    /// Sizes and limits.
    0x0d Sizes "ReportSizes" Data 86 NONE Body::Sizes;
    /// The sender's state word.
    0x0e State "ReportState" Data 86 NONE Body::Exact(4);
    /// A resync begins; its id.
    0x0f SyncUuid "ReportSyncUUID" Data 86 NONE Body::Exact(8);
    /// Random bytes to be signed.
    0x10 AuthChallenge "AuthChallenge" Data 86 NONE Body::Between(64, 128);
    /// The signature.
    0x11 AuthResponse "AuthResponse" Data 86 NONE Body::Between(0, DIGEST_BYTES_MAX);
    /// Asks the peer to agree to a change of a volume's state.
    0x12 StateChangeRequest "StateChgRequest" Data 86 NONE Body::Exact(8);
    /// Are you there?
    0x13 Ping "Ping" Meta 86 NONE Body::Exact(0);
    /// Yes.
    0x14 PingAck "PingAck" Meta 86 NONE Body::Exact(0);
    /// Write received (protocol B).
    0x15 RecvAck "RecvAck" Meta 86 NONE Body::Exact(24);
    /// Write on disk (protocol C).
    0x16 WriteAck "WriteAck" Meta 86 NONE Body::Exact(24);
    /// Write on disk, and the block is in sync now.
    0x17 ResyncWriteAck "RSWriteAck" Meta 86 NONE Body::Exact(24);
    /// Two primaries: your write lost.
    0x18 Superseded "Superseded" Meta 86 NONE Body::Exact(24);
    /// Write failed.
    0x19 NegAck "NegAck" Meta 86 NONE Body::Exact(24);
    /// Read failed.
    0x1a NegDataReply "NegDReply" Meta 86 NONE Body::Exact(24);
    /// Resync read failed.
    0x1b NegResyncDataReply "NegRSDReply" Meta 86 NONE Body::Exact(24);
    /// The epoch is on stable storage.
    0x1c BarrierAck "BarrierAck" Meta 86 NONE Body::Exact(8);
    /// Answer to `StateChangeRequest`.
    0x1d StateChangeReply "StateChgReply" Meta 86 NONE Body::Exact(4);
    /// Verify: send me your digest.
    0x1e OnlineVerifyRequest "OVRequest" Data 86 NONE Body::Exact(24);
    /// Verify: my digest.
    0x1f OnlineVerifyReply "OVReply" Data 86 NONE Body::Between(25, 24 + DIGEST_BYTES_MAX);
    /// Verify: equal or not.
    0x20 OnlineVerifyResult "OVResult" Meta 86 NONE Body::Exact(24);
    /// Resync read with the digest of what the asker has.
    0x21 ChecksumResyncRequest "CsumRSRequest" Data 89 NONE Body::Between(25, 24 + DIGEST_BYTES_MAX);
    /// Answer: digests are equal.
    0x22 ResyncIsInSync "CsumRSIsInSync" Meta 86 NONE Body::Exact(24);
    /// Sync parameters from version 89.
    0x23 SyncParam89 "SyncParam89" Data 89 NONE Body::SyncParam;
    /// A run length coded piece of the bitmap.
    0x24 CompressedBitmap "CBitmap" Data 90 NONE Body::BitmapPiece(2);
    /// Measures the delay of a stream; ignored.
    0x27 DelayProbe "DelayProbe" Both 86 NONE Body::Exact(8);
    /// Mark this range: written here, not sent.
    0x28 OutOfSync "OutOfSync" Data 96 NONE Body::Exact(16);
    /// Resync request dropped: the source went Ahead.
    0x29 ResyncCancel "RSCancel" Meta 97 NONE Body::Exact(24);
    /// Asks the peer to agree to a change of the connection's state.
    0x2a ConnectionStateChangeRequest "conn_st_chg_req" Data 100 NONE Body::Exact(8);
    /// Its answer.
    0x2b ConnectionStateChangeReply "conn_st_chg_reply" Meta 100 NONE Body::Exact(4);
    /// Two primaries: try again.
    0x2c RetryWrite "RetryWrite" Meta 100 NONE Body::Exact(24);
    /// `Protocol` while connected.
    0x2d ProtocolUpdate "protocol_update" Data 100 NONE Body::Protocol;
    /// Discard.
    0x31 Trim "Trim" Data 86 TRIM Body::Exact(28);
    /// Resync read that may be answered by `ResyncDeallocated`.
    0x32 ThinResyncRequest "rs_thin_req" Data 86 THIN_RESYNC Body::Exact(24);
    /// This range is all zero.
    0x33 ResyncDeallocated "rs_deallocated" Data 86 THIN_RESYNC Body::Exact(16);
    /// One block many times. Linux has no handler for it, and neither have we.
    0x34 WriteSame "WriteSame" Neither 86 WSAME Body::Exact(28);
    /// Write zeroes.
    0x36 Zeroes "Zeroes" Data 86 WZEROES Body::Exact(28);
    /// First packet on the meta stream.
    0xfff1 InitialMeta "InitialMeta" Both 86 NONE Body::Exact(0);
    /// First packet on the data stream.
    0xfff2 InitialData "InitialData" Both 86 NONE Body::Exact(0);
    /// Versions and features.
    0xfffe ConnectionFeatures "ConnectionFeatures" Data 86 NONE Body::Exact(72);
}

impl Command {
    /// Numbers above this one may be skipped by who does not know them.
    pub const MAY_IGNORE: u16 = 0x100;

    /// The number in the header.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// Whether packets of this kind carry the oldest header whatever was agreed: they come before the agreement.
    #[must_use]
    pub const fn precedes_agreement(self) -> bool {
        matches!(self, Self::InitialMeta | Self::InitialData | Self::ConnectionFeatures)
    }

    /// The lengths that are legal under what was agreed; `digest` is the size of the sender's integrity digest.
    pub(super) fn length_rule(self, version: u32, features: Features, digest: u32) -> LengthRule {
        let page = HEAD_BYTES_MAX - super::framing::header_bytes(version) as u32;
        let exact = |bytes| LengthRule { min: bytes, max: bytes };
        match self.body() {
            Body::Exact(bytes) => exact(bytes),
            Body::Between(min, max) => LengthRule { min, max },
            Body::Blocks => LengthRule { min: 24 + digest, max: 24 + digest + data_bytes_max(version) },
            Body::BitmapPiece(min) => LengthRule { min, max: page },
            Body::Protocol if version < 87 => exact(24),
            Body::Protocol => LengthRule { min: 25, max: 24 + NAME_BYTES_MAX },
            Body::SyncParam => match version {
                ..=87 => exact(4),
                88 => LengthRule { min: 5, max: 4 + NAME_BYTES_MAX },
                89..=94 => exact(132),
                _ => exact(148),
            },
            Body::Sizes => exact(if features.contains(Features::WSAME) { 56 } else { 32 }),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A command number from the wire as the kernel prints it: `ReportProtocol (0x000b)`, `Unknown (0x0100)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandNumber(pub u16);

impl fmt::Display for CommandNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Command::from_number(self.0).map_or("Unknown", Command::name);
        write!(f, "{name} ({:#06x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_commands_map_both_ways() {
        for &command in Command::ALL {
            assert_eq!(Command::from_number(command.number()), Some(command));
        }
        assert_eq!(Command::ALL.iter().filter(|c| c.streams() == Streams::Neither).count(), 3);
        for unknown in [0x25, 0x26, 0x2e, 0x35, 0x40, 0x100, 0xffff] {
            assert_eq!(Command::from_number(unknown), None);
        }
    }

    #[test]
    fn a_number_prints_as_in_the_kernels_log() {
        assert_eq!(CommandNumber(0x0b).to_string(), "ReportProtocol (0x000b)");
        assert_eq!(CommandNumber(0x34).to_string(), "WriteSame (0x0034)");
        assert_eq!(CommandNumber(0x100).to_string(), "Unknown (0x0100)");
    }

    #[test]
    fn lengths_follow_version_and_features() {
        let rule = |command: Command, version, features| {
            let rule = command.length_rule(version, Features(features), 4);
            (rule.min, rule.max)
        };
        assert_eq!(rule(Command::Data, 94, 0), (28, 28 + 32768));
        assert_eq!(rule(Command::Data, 99, 0), (28, 28 + 131_072));
        assert_eq!(rule(Command::Data, 101, 0), (28, 28 + 1_048_576));
        assert_eq!(rule(Command::Bitmap, 99, 0), (0, 4088));
        assert_eq!(rule(Command::Bitmap, 100, 0), (0, 4080));
        assert_eq!(rule(Command::Sizes, 86, 0xf), (56, 56));
        assert_eq!(rule(Command::Sizes, 101, 0xb), (32, 32));
        assert_eq!(rule(Command::Protocol, 86, 0), (24, 24));
        assert_eq!(rule(Command::Protocol, 87, 0), (25, 88));
        assert_eq!(rule(Command::SyncParam89, 94, 0), (132, 132));
    }
}

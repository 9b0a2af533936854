//! What the two ends of a connection settle once: version and features, rules of the connection, sync parameters.

use std::fmt;

use bytes::BufMut;

use super::command::{Command, NAME_BYTES_MAX};
use super::error::WireError;
use super::fields::Fields;
use super::framing::{Features, PROTOCOL_MAX, PROTOCOL_MIN};

/// The first packet of a handshake: what a node speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionFeatures {
    /// The oldest version.
    pub protocol_min: u32,
    /// Optional parts.
    pub features: Features,
    /// The newest version; 0 means the same as the oldest.
    pub protocol_max: u32,
}

impl ConnectionFeatures {
    /// What we speak.
    pub const OURS: Self = Self { protocol_min: PROTOCOL_MIN, features: Features::OURS, protocol_max: PROTOCOL_MAX };

    /// What two nodes speak with each other: the highest version of both, the features that both have.
    pub fn agree(&self, peer: &Self) -> Result<(u32, Features), WireError> {
        let peer_max = if peer.protocol_max == 0 { peer.protocol_min } else { peer.protocol_max };
        if self.protocol_max < peer.protocol_min || self.protocol_min > peer_max {
            return Err(WireError::IncompatibleDialects { min: peer.protocol_min, max: peer_max });
        }
        Ok((self.protocol_max.min(peer_max), self.features.common(peer.features)))
    }

    pub(super) fn decode(fields: &mut Fields) -> Result<Self, WireError> {
        let protocol_min = fields.u32()?;
        let features = Features(fields.u32()?);
        let protocol_max = fields.u32()?;
        Ok(Self { protocol_min, features, protocol_max })
    }

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_u32(self.protocol_min);
        out.put_u32(self.features.0);
        out.put_u32(self.protocol_max);
        out.put_bytes(0, 60);
    }
}

/// When a write counts as replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReplicationProtocol {
    /// Handed to the network.
    A,
    /// Received by the peer.
    B,
    /// Written by the peer.
    C,
}

impl ReplicationProtocol {
    /// The protocol with that number on the wire.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::A),
            2 => Some(Self::B),
            3 => Some(Self::C),
            _ => None,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::A => 1,
            Self::B => 2,
            Self::C => 3,
        }
    }
}

impl fmt::Display for ReplicationProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
        })
    }
}

/// One row a policy: number, variant, keyword of the configuration.
macro_rules! policies {
    ($($(#[$doc:meta])* $number:literal $variant:ident $keyword:literal;)+) => {
        /// What to do after a split brain: the value of `after-sb-0pri`, `-1pri` and `-2pri`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum AfterSplitBrain {
            $($(#[$doc])* $variant,)+
            /// A number of the peer's that we have no word for.
            Unknown(u32),
        }

        impl AfterSplitBrain {
            /// The policy with that number on the wire.
            #[must_use]
            pub const fn from_number(number: u32) -> Self {
                match number { $($number => Self::$variant,)+ other => Self::Unknown(other) }
            }

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> u32 {
                match self { $(Self::$variant => $number,)+ Self::Unknown(number) => number }
            }

            /// The policy of a keyword of the configuration.
            #[must_use]
            pub fn from_keyword(keyword: &str) -> Option<Self> {
                match keyword { $($keyword => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for AfterSplitBrain {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $(Self::$variant => f.pad($keyword),)+ Self::Unknown(number) => write!(f, "unknown ({number})") }
            }
        }
    };
}

policies! {
    /// Refuse.
    0 Disconnect "disconnect";
    /// The node that became primary last loses.
    1 DiscardYoungerPrimary "discard-younger-primary";
    /// The node that became primary first loses.
    2 DiscardOlderPrimary "discard-older-primary";
    /// A node without changes loses.
    3 DiscardZeroChanges "discard-zero-changes";
    /// The node with fewer changes loses.
    4 DiscardLeastChanges "discard-least-changes";
    /// The sender of the packet loses.
    5 DiscardLocal "discard-local";
    /// The receiver of the packet loses.
    6 DiscardRemote "discard-remote";
    /// The verdict for no primary, if it lets the primary win.
    7 Consensus "consensus";
    /// The secondary loses.
    8 DiscardSecondary "discard-secondary";
    /// A losing primary is demoted by its helper.
    9 CallPriLost "call-pri-lost-after-sb";
    /// The verdict for no primary, whatever it costs.
    10 ViolentlyAs0p "violently-as0p";
}

/// The rules of a connection; both ends must have the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// When a write counts as replicated.
    pub protocol: ReplicationProtocol,
    /// Split brain, nobody primary.
    pub after_sb_0pri: AfterSplitBrain,
    /// Split brain, one primary.
    pub after_sb_1pri: AfterSplitBrain,
    /// Split brain, two primaries.
    pub after_sb_2pri: AfterSplitBrain,
    /// The sender gives up its changes.
    pub discard_my_data: bool,
    /// Decide, tell, do nothing.
    pub dry_run: bool,
    /// Both nodes may be primary.
    pub allow_two_primaries: bool,
    /// The algorithm of the digests in the *sender's* data packets; empty for none and below version 87.
    pub integrity_alg: String,
}

impl Protocol {
    const DISCARD_MY_DATA: u32 = 1;
    const DRY_RUN: u32 = 2;

    pub(super) fn decode(fields: &mut Fields) -> Result<Self, WireError> {
        let number = fields.u32()?;
        let protocol = ReplicationProtocol::from_number(number).ok_or(WireError::UnknownValue {
            command: fields.command(),
            field: "protocol",
            value: number,
        })?;
        let after_sb_0pri = AfterSplitBrain::from_number(fields.u32()?);
        let after_sb_1pri = AfterSplitBrain::from_number(fields.u32()?);
        let after_sb_2pri = AfterSplitBrain::from_number(fields.u32()?);
        let flags = fields.u32()?;
        let allow_two_primaries = fields.u32()? != 0;
        let integrity_alg = fields.name_in_rest()?;
        Ok(Self {
            protocol,
            after_sb_0pri,
            after_sb_1pri,
            after_sb_2pri,
            discard_my_data: flags & Self::DISCARD_MY_DATA != 0,
            dry_run: flags & Self::DRY_RUN != 0,
            allow_two_primaries,
            integrity_alg,
        })
    }

    pub(super) fn encode(&self, version: u32, out: &mut impl BufMut) {
        out.put_u32(self.protocol.number());
        out.put_u32(self.after_sb_0pri.number());
        out.put_u32(self.after_sb_1pri.number());
        out.put_u32(self.after_sb_2pri.number());
        let discard = if self.discard_my_data { Self::DISCARD_MY_DATA } else { 0 };
        let dry_run = if self.dry_run { Self::DRY_RUN } else { 0 };
        out.put_u32(discard | dry_run);
        out.put_u32(self.allow_two_primaries.into());
        if version >= 87 {
            put_name(&self.integrity_alg, out);
        }
    }
}

/// How fast to resynchronise, and which digests to use for verify and checksum resync.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncParam {
    /// Fixed rate, KiB/s.
    pub resync_rate: u32,
    /// Digest of online verify; empty for none and below version 88.
    pub verify_alg: String,
    /// Digest of checksum resync; empty for none and below version 89.
    pub csums_alg: String,
    /// Controller: look ahead, 0.1 s. This and the three below exist from version 95; below they read as 0 and must not
    /// be taken over.
    pub c_plan_ahead: u32,
    /// Controller: wanted delay, 0.1 s.
    pub c_delay_target: u32,
    /// Controller: wanted fill, sectors.
    pub c_fill_target: u32,
    /// Controller: highest rate, KiB/s.
    pub c_max_rate: u32,
}

impl SyncParam {
    /// Which of the two commands carries it.
    #[must_use]
    pub const fn command(version: u32) -> Command {
        if version <= 88 { Command::SyncParam } else { Command::SyncParam89 }
    }

    pub(super) fn decode(fields: &mut Fields, version: u32) -> Result<Self, WireError> {
        let mut param = Self { resync_rate: fields.u32()?, ..Self::default() };
        if version == 88 {
            param.verify_alg = fields.name_in_rest()?;
        } else if version >= 89 {
            param.verify_alg = fields.name(NAME_BYTES_MAX as usize)?;
            param.csums_alg = fields.name(NAME_BYTES_MAX as usize)?;
        }
        if version >= 95 {
            param.c_plan_ahead = fields.u32()?;
            param.c_delay_target = fields.u32()?;
            param.c_fill_target = fields.u32()?;
            param.c_max_rate = fields.u32()?;
        }
        Ok(param)
    }

    pub(super) fn encode(&self, version: u32, out: &mut impl BufMut) {
        out.put_u32(self.resync_rate);
        if version == 88 {
            put_name(&self.verify_alg, out);
        } else if version >= 89 {
            put_padded_name(&self.verify_alg, out);
            put_padded_name(&self.csums_alg, out);
        }
        if version >= 95 {
            out.put_u32(self.c_plan_ahead);
            out.put_u32(self.c_delay_target);
            out.put_u32(self.c_fill_target);
            out.put_u32(self.c_max_rate);
        }
    }
}

/// The bytes of a name that fit with a terminating zero. The configuration admits no longer ones.
fn name_bytes(name: &str) -> &[u8] {
    debug_assert!(name.len() < NAME_BYTES_MAX as usize, "an algorithm name has at most 63 bytes: {name}");
    let bytes = name.as_bytes();
    bytes.get(..NAME_BYTES_MAX as usize - 1).unwrap_or(bytes)
}

fn put_name(name: &str, out: &mut impl BufMut) {
    out.put_slice(name_bytes(name));
    out.put_u8(0);
}

fn put_padded_name(name: &str, out: &mut impl BufMut) {
    let bytes = name_bytes(name);
    out.put_slice(bytes);
    out.put_bytes(0, NAME_BYTES_MAX as usize - bytes.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_agreed() {
        let ours = ConnectionFeatures::OURS;
        let case = |min, max, features, expected| {
            let peer = ConnectionFeatures { protocol_min: min, protocol_max: max, features: Features(features) };
            assert_eq!(ours.agree(&peer).ok(), expected, "{min}-{max}");
        };
        case(86, 101, 0xf, Some((101, Features(0xf))));
        case(86, 96, 0x1f, Some((96, Features(0xf))));
        case(100, 118, 1, Some((101, Features(1))));
        case(90, 0, 0, Some((90, Features(0))));
        case(110, 118, 0xf, None);
        case(80, 85, 0, None);
    }

    #[test]
    fn incompatible_dialects_read_as_in_the_kernels_log() {
        let peer = ConnectionFeatures { protocol_min: 110, protocol_max: 118, features: Features::NONE };
        let error = ConnectionFeatures::OURS.agree(&peer).unwrap_err();
        assert_eq!(error.to_string(), "incompatible DRBD dialects: I support 86-101, peer supports 110-118");
        assert!(error.is_final());
    }

    #[test]
    fn policies_have_numbers_and_keywords() {
        for number in 0..=10 {
            let policy = AfterSplitBrain::from_number(number);
            assert_eq!(policy.number(), number);
            assert_eq!(AfterSplitBrain::from_keyword(&policy.to_string()), Some(policy));
        }
        assert_eq!(AfterSplitBrain::from_number(77).to_string(), "unknown (77)");
    }
}

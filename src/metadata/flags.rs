//! The flag words of superblocks: bits with names, kept whole so that unknown bits survive a rewrite.

use std::fmt;

/// One row a flag: bit, constant. Gives the type, set operations and a `Debug` that prints names.
macro_rules! flags {
    ($(#[$doc:meta])* $type:ident { $($(#[$row:meta])* $name:ident $bit:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $type(pub u32);

        impl $type {
            $($(#[$row])* pub const $name: Self = Self($bit);)+

            const NAMES: &'static [(u32, &'static str)] = &[$(($bit, stringify!($name)),)+];

            /// Whether all bits of `other` are set.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Sets the bits of `other`.
            pub const fn insert(&mut self, other: Self) {
                self.0 |= other.0;
            }

            /// Clears the bits of `other`.
            pub const fn remove(&mut self, other: Self) {
                self.0 &= !other.0;
            }

            /// Sets or clears the bits of `other`.
            pub const fn set(&mut self, other: Self, on: bool) {
                if on { self.insert(other) } else { self.remove(other) }
            }
        }

        impl std::ops::BitOr for $type {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                print_names(self.0, Self::NAMES, f)
            }
        }
    };
}

flags! {
    /// The flags of the device. Bits 0x04, 0x08 and 0x20 exist in v08 only: v09 has them per peer ([`PeerFlags`]).
    DeviceFlags {
        /// The disk is better than Inconsistent.
        CONSISTENT 0x001,
        /// Writes may have been under way: the activity log counts after a crash.
        PRIMARY_IND 0x002,
        /// v08: the replication link was up.
        CONNECTED_IND 0x004,
        /// v08: read the whole bitmap as set.
        FULL_SYNC 0x008,
        /// The disk is better than Outdated.
        WAS_UP_TO_DATE 0x010,
        /// v08: the peer's disk was last known as Outdated or worse.
        PEER_OUT_DATED 0x020,
        /// Died as Primary and has not reconciled since.
        CRASHED_PRIMARY 0x040,
        /// The activity log has been applied: the disk may be attached.
        AL_CLEAN 0x080,
        /// The activity log is not kept.
        AL_DISABLED 0x100,
        /// v09: a Primary lost quorum.
        PRIMARY_LOST_QUORUM 0x200,
        /// v09: the device had quorum.
        HAVE_QUORUM 0x400,
    }
}

impl DeviceFlags {
    /// Those that v08 and v09 have alike.
    pub const OF_BOTH: Self = Self(
        Self::CONSISTENT.0
            | Self::PRIMARY_IND.0
            | Self::WAS_UP_TO_DATE.0
            | Self::CRASHED_PRIMARY.0
            | Self::AL_CLEAN.0
            | Self::AL_DISABLED.0,
    );
}

flags! {
    /// The flags of one peer (v09). In v08 CONNECTED, OUTDATED and FULL_SYNC are device flags and the rest does not exist;
    /// `Superblock::peer_flag` finds the right place.
    PeerFlags {
        /// The replication link was up.
        CONNECTED 0x0000_0001,
        /// The peer's disk was last known as Outdated or worse.
        OUTDATED 0x0000_0002,
        /// A fencing policy was configured.
        FENCING 0x0000_0004,
        /// Read this peer's bitmap as wholly set.
        FULL_SYNC 0x0000_0008,
        /// The peer once had a disk.
        DEVICE_SEEN 0x0000_0010,
        /// This node id was heard of.
        NODE_EXISTS 0x0001_0000,
    }
}

fn print_names(bits: u32, names: &[(u32, &str)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let known: Vec<&str> = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    let rest = names.iter().fold(bits, |rest, (bit, _)| rest & !bit);
    match (known.is_empty(), rest) {
        (true, 0) => f.write_str("none"),
        (true, rest) => write!(f, "{rest:#x}"),
        (false, 0) => f.write_str(&known.join(" | ")),
        (false, rest) => write!(f, "{} | {rest:#x}", known.join(" | ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_their_names_and_keep_unknown_bits() {
        assert_eq!(format!("{:?}", DeviceFlags(0x83)), "CONSISTENT | PRIMARY_IND | AL_CLEAN");
        assert_eq!(format!("{:?}", PeerFlags(0x8000_0001)), "CONNECTED | 0x80000000");
        assert_eq!(format!("{:?}", PeerFlags(0)), "none");
        let mut flags = DeviceFlags(0x8000);
        flags.insert(DeviceFlags::AL_CLEAN);
        flags.remove(DeviceFlags::CONSISTENT);
        assert_eq!(flags, DeviceFlags(0x8080));
        assert!(flags.contains(DeviceFlags::AL_CLEAN) && !flags.contains(DeviceFlags::PRIMARY_IND));
    }
}

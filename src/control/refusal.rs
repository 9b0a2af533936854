//! DRBD's reasons for saying no: number, symbol, text and the exit code of the command.
//!
//! State changes are refused with a negative number ("State change failed: (N) text"), configuration steps with one
//! above 100 ("Failure: (N) text"). Scripts look at the numbers, people at the texts.

use std::fmt;

/// The exit code of a command whose configuration step failed.
pub const EXIT_FAILURE: i32 = 10;
/// The exit code of a command whose state change was refused, where the reason has none of its own.
pub const EXIT_REFUSED: i32 = 11;

/// One row a reason: number, variant, symbol, text.
macro_rules! refusals {
    ($(#[$doc:meta])* $type:ident { $($(#[$row:meta])* $number:literal $variant:ident $symbol:literal $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $(#[doc = $text] $(#[$row])* $variant,)+ }

        impl $type {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// DRBD's number.
            #[must_use]
            pub const fn number(self) -> i32 {
                match self { $(Self::$variant => $number,)+ }
            }

            /// The reason with that number.
            #[must_use]
            pub const fn from_number(number: i32) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }

            /// DRBD's symbol, for logs.
            #[must_use]
            pub const fn symbol(self) -> &'static str {
                match self { $(Self::$variant => $symbol,)+ }
            }

            /// The reason in words.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

refusals! {
    /// Why a state change is refused.
    StateRefusal {
        -1 TwoPrimaries "TWO_PRIMARIES" "Multiple primaries not allowed by config",
        -2 NoUpToDateDisk "NO_UP_TO_DATE_DISK" "Need access to UpToDate data",
        -4 NoLocalDisk "NO_LOCAL_DISK" "Can not resync without local disk",
        -5 NoRemoteDisk "NO_REMOTE_DISK" "Can not resync without remote disk",
        -6 ConnectedOutdates "CONNECTED_OUTDATES" "Refusing to be Outdated while Connected",
        -7 PrimaryNop "PRIMARY_NOP" "Refusing to be Primary while peer is not outdated",
        -8 ResyncRunning "RESYNC_RUNNING" "Can not start OV/resync since it is already active",
        -9 AlreadyStandAlone "ALREADY_STANDALONE" "Can not disconnect a StandAlone device",
        -10 FailedByPeer "CW_FAILED_BY_PEER" "State change was refused by peer node",
        -11 IsDiskless "IS_DISKLESS" "Device is diskless, the requested operation requires a disk",
        -12 DeviceInUse "DEVICE_IN_USE" "Device is held open by someone",
        -13 NoNetConfig "NO_NET_CONFIG" "Have no net/connection configuration",
        -14 NoVerifyAlg "NO_VERIFY_ALG" "Need a verify algorithm to start online verify",
        -15 NeedConnection "NEED_CONNECTION" "Need a connection to start verify or resync",
        -16 LowerThanOutdated "LOWER_THAN_OUTDATED" "Disk state is lower than outdated",
        -17 NotSupported "NOT_SUPPORTED" "Peer does not support protocol",
        -18 InTransientState "IN_TRANSIENT_STATE" "In transient state, retry after next state change",
        -19 ConcurrentStateChange "CONCURRENT_ST_CHG" "Concurrent state changes detected and aborted",
        -20 OtherVolumePeerPrimary "O_VOL_PEER_PRI" "Other vol primary on peer not allowed by config",
        -21 OutdateWithoutConnection "OUTDATE_WO_CONN" "Need a connection for a graceful disconnect/outdate peer",
    }
}

impl StateRefusal {
    /// What the command exits with.
    #[must_use]
    pub const fn exit_code(self) -> i32 {
        match self {
            Self::NoUpToDateDisk => 17,
            Self::LowerThanOutdated => 5,
            Self::NoLocalDisk => 16,
            _ => EXIT_REFUSED,
        }
    }

    /// Whether the same request may well succeed a moment later, so that the asker should try again.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::InTransientState | Self::ConcurrentStateChange)
    }
}

impl fmt::Display for StateRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "State change failed: ({}) {}", self.number(), self.text())
    }
}

refusals! {
    /// Why a configuration step fails. Numbers that only make sense for a kernel module or its netlink are left out.
    ConfigurationRefusal {
        102 LocalAddressInUse "LOCAL_ADDR" "The local address and port are in use",
        103 PeerAddressInUse "PEER_ADDR" "The peer's address and port are in use",
        104 CannotOpenDisk "OPEN_DISK" "The backing device cannot be opened",
        105 CannotOpenMetaDisk "OPEN_MD_DISK" "The meta-disk device cannot be opened",
        107 DiskNotBlockDevice "DISK_NOT_BDEV" "The backing device is neither a block device nor a file",
        108 MetaDiskNotBlockDevice "MD_NOT_BDEV" "The meta-disk is neither a block device nor a file",
        111 DiskTooSmall "DISK_TOO_SMALL" "The backing device is smaller than the replicated device",
        112 MetaDiskTooSmall "MD_DISK_TOO_SMALL" "The meta-disk is too small",
        114 DiskClaimed "BDCLAIM_DISK" "The backing device is in use by someone else (mounted?)",
        115 MetaDiskClaimed "BDCLAIM_MD_DISK" "The meta-disk is in use by someone else (mounted?)",
        116 MetaDiskIndex "MD_IDX_INVALID" "The backing device, the meta-disk and its index do not fit together",
        118 MetadataUnreadable "IO_MD_DISK" "The metadata cannot be read or written",
        119 NoMetadata "MD_INVALID" "There is no valid metadata on the disk",
        120 AuthAlgorithmUnknown "AUTH_ALG" "The cram-hmac-alg is not known",
        121 AuthAlgorithmNoDigest "AUTH_ALG_ND" "The cram-hmac-alg is not a digest",
        122 OutOfMemory "NOMEM" "Out of memory",
        123 DiscardWhilePrimary "DISCARD_IMPOSSIBLE" "A Primary cannot discard its data",
        124 AlreadyAttached "DISK_CONFIGURED" "A backing device is attached already",
        125 AlreadyConnected "NET_CONFIGURED" "There is a network configuration already",
        129 Interrupted "INTR" "Interrupted",
        130 ResizeDuringResync "RESIZE_RESYNC" "Resizing is not possible during a resync",
        131 ResizeWithoutPrimary "NO_PRIMARY" "Resizing needs a Primary",
        132 ResyncAfterInvalid "RESYNC_AFTER" "The resync-after target does not exist",
        133 ResyncAfterCycle "RESYNC_AFTER_CYCLE" "The resync-after targets form a cycle",
        134 PauseAlreadySet "PAUSE_IS_SET" "The resync is paused already",
        135 PauseAlreadyClear "PAUSE_IS_CLEAR" "The resync is not paused",
        138 NoDisk "NO_DISK" "There is no disk to do that with",
        139 ProtocolCRequired "NOT_PROTO_C" "allow-two-primaries requires protocol C",
        140 OutOfBitmapMemory "NOMEM_BITMAP" "Out of memory for the bitmap",
        141 IntegrityAlgorithmUnknown "INTEGRITY_ALG" "The data-integrity-alg is not known",
        142 IntegrityAlgorithmNoDigest "INTEGRITY_ALG_ND" "The data-integrity-alg is not a digest",
        144 CsumsAlgorithmUnknown "CSUMS_ALG" "The csums-alg is not known",
        145 CsumsAlgorithmNoDigest "CSUMS_ALG_ND" "The csums-alg is not a digest",
        146 VerifyAlgorithmUnknown "VERIFY_ALG" "The verify-alg is not known",
        147 VerifyAlgorithmNoDigest "VERIFY_ALG_ND" "The verify-alg is not a digest",
        148 CsumsDuringResync "CSUMS_RESYNC_RUNNING" "The csums-alg cannot change during a resync",
        149 VerifyRunning "VERIFY_RUNNING" "The verify-alg cannot change during a verify",
        150 DataNotCurrent "DATA_NOT_CURRENT" "Can only attach to the data we lost last",
        151 ConnectedAlready "CONNECTED" "Need to be StandAlone",
        152 NotPermitted "PERM" "Administrator rights are needed",
        153 AssumeCleanNeedsPeer "NEED_APV_93" "The peer's protocol is too old for assume-clean",
        154 StonithNeedsBOrC "STONITH_AND_PROT_A" "resource-and-stonith only works with protocol B or C",
        155 PullAheadNeedsA "CONG_NOT_PROTO_A" "pull-ahead only works with protocol A",
        156 PausedByDependency "PIC_AFTER_DEP" "The resync stays paused by resync-after",
        157 PausedByPeer "PIC_PEER_DEP" "The resync stays paused by the peer",
        158 ResourceUnknown "RES_NOT_KNOWN" "There is no such resource",
        159 ResourceInUse "RES_IN_USE" "The resource is in use",
        160 MinorConfigured "MINOR_CONFIGURED" "The volume is still configured",
        161 VolumeExists "MINOR_OR_VOLUME_EXISTS" "The volume exists already",
        162 InvalidRequest "INVALID_REQUEST" "The request cannot be carried out",
        163 OnlineChangeNeedsPeer "NEED_APV_100" "The peer's protocol is too old to change these options while connected",
        164 BothPrimary "NEED_ALLOW_TWO_PRI" "allow-two-primaries cannot be cleared while both are Primary",
        165 MetadataUnclean "MD_UNCLEAN" "The metadata is unclean; its activity log must be applied first",
        166 RelayoutNeedsConnection "MD_LAYOUT_CONNECTED" "Changing the activity log's layout needs a connection",
        167 LayoutTooBig "MD_LAYOUT_TOO_BIG" "The new activity log is too big",
        168 LayoutTooSmall "MD_LAYOUT_TOO_SMALL" "The new activity log is too small",
        169 LayoutDoesNotFit "MD_LAYOUT_NO_FIT" "The new activity log does not fit",
        170 ImplicitShrink "IMPLICIT_SHRINK" "The device would shrink without having been told to",
    }
}

impl ConfigurationRefusal {
    /// What the command exits with.
    #[must_use]
    pub const fn exit_code(self) -> i32 {
        EXIT_FAILURE
    }
}

impl fmt::Display for ConfigurationRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure: ({}) {}", self.number(), self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_their_reasons() {
        for &refusal in StateRefusal::ALL {
            assert_eq!(StateRefusal::from_number(refusal.number()), Some(refusal));
        }
        for &refusal in ConfigurationRefusal::ALL {
            assert_eq!(ConfigurationRefusal::from_number(refusal.number()), Some(refusal));
        }
        assert_eq!(StateRefusal::from_number(-3), None, "DRBD has no -3");
    }

    #[test]
    fn three_refusals_have_an_exit_code_of_their_own() {
        assert_eq!(StateRefusal::NoUpToDateDisk.exit_code(), 17);
        assert_eq!(StateRefusal::LowerThanOutdated.exit_code(), 5);
        assert_eq!(StateRefusal::NoLocalDisk.exit_code(), 16);
        assert_eq!(StateRefusal::TwoPrimaries.exit_code(), 11);
        assert_eq!(ConfigurationRefusal::NoMetadata.exit_code(), 10);
    }

    #[test]
    fn a_refusal_reads_as_users_know_it() {
        assert_eq!(StateRefusal::NoUpToDateDisk.to_string(), "State change failed: (-2) Need access to UpToDate data");
    }
}

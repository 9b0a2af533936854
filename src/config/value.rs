//! What a configuration means: plain values in base units, ready for the daemon.
//!
//! Every field is filled, from the file or from the default in `options::TABLE`. Times are `Duration`s, sizes are bytes
//! unless the name says sectors, rates are bytes a second. Nothing here knows how values are written.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::model::ids::{NodeId, VolumeNumber};

/// One row a choice: variant and its word in the file. Gives the enum, its words and the way back.
macro_rules! choices {
    ($(#[$doc:meta])* $type:ident { $($(#[$row:meta])* $variant:ident $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $($(#[$row])* $variant,)+ }

        impl $type {
            /// The words of the configuration language, in DRBD's order.
            pub const WORDS: &'static [&'static str] = &[$($word,)+];

            /// The word of the configuration language.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The choice named by `word`.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(self.as_str()) }
        }
    };
}

choices! {
    /// When a write counts as done.
    ReplicationProtocol {
        /// Written here, handed to the network.
        A "A",
        /// Written here, received there.
        B "B",
        /// Written here and there.
        C "C",
    }
}

choices! {
    /// What to do when the backing device fails.
    OnIoError {
        /// Report reads and writes as failed.
        PassOn "pass_on",
        /// Run the `local-io-error` handler.
        CallLocalIoError "call-local-io-error",
        /// Give the disk up and serve from the peer.
        Detach "detach",
    }
}

choices! {
    /// What a Primary does before it goes on without its peer.
    Fencing {
        /// Nothing.
        DontCare "dont-care",
        /// Call `fence-peer`.
        ResourceOnly "resource-only",
        /// Freeze, call `fence-peer`, go on when it worked.
        ResourceAndStonith "resource-and-stonith",
    }
}

choices! {
    /// Split brain, no Primary.
    AfterSb0Pri {
        /// Do not decide.
        Disconnect "disconnect",
        /// The node that became Primary last loses.
        DiscardYoungerPrimary "discard-younger-primary",
        /// The node that was Primary first loses.
        DiscardOlderPrimary "discard-older-primary",
        /// A node without changes loses.
        DiscardZeroChanges "discard-zero-changes",
        /// The node with fewer changes loses.
        DiscardLeastChanges "discard-least-changes",
        /// This node loses.
        DiscardLocal "discard-local",
        /// The peer loses.
        DiscardRemote "discard-remote",
    }
}

choices! {
    /// Split brain, one Primary.
    AfterSb1Pri {
        /// Do not decide.
        Disconnect "disconnect",
        /// Decide as with no Primary, if the Secondary loses then.
        Consensus "consensus",
        /// The Secondary loses.
        DiscardSecondary "discard-secondary",
        /// Decide as with no Primary; a losing Primary calls its handler.
        CallPriLostAfterSb "call-pri-lost-after-sb",
        /// Decide as with no Primary, whoever loses.
        ViolentlyAs0p "violently-as0p",
    }
}

choices! {
    /// Split brain, two Primaries.
    AfterSb2Pri {
        /// Do not decide.
        Disconnect "disconnect",
        /// Decide as with no Primary; the loser calls its handler.
        CallPriLostAfterSb "call-pri-lost-after-sb",
        /// Decide as with no Primary, whoever loses.
        ViolentlyAs0p "violently-as0p",
    }
}

choices! {
    /// What happens when a decision would make a Primary the sync target.
    RrConflict {
        /// Stay apart.
        Disconnect "disconnect",
        /// Call the `pri-lost` handler.
        CallPriLost "call-pri-lost",
        /// Resynchronise a running Primary.
        Violently "violently",
        /// Stay apart and try again.
        RetryConnect "retry-connect",
        /// Demote the loser if nobody uses its device.
        AutoDiscard "auto-discard",
    }
}

choices! {
    /// What to do when the link cannot keep up.
    OnCongestion {
        /// Let writers wait.
        Block "block",
        /// Stop replicating and resynchronise later.
        PullAhead "pull-ahead",
        /// Drop the connection.
        Disconnect "disconnect",
    }
}

choices! {
    /// What a request gets when no good copy is reachable.
    OnNoData {
        /// An error.
        IoError "io-error",
        /// It waits.
        SuspendIo "suspend-io",
    }
}

choices! {
    /// Who answers reads while both copies are good.
    ReadBalancing {
        /// The local disk.
        PreferLocal "prefer-local",
        /// The peer.
        PreferRemote "prefer-remote",
        /// In turn.
        RoundRobin "round-robin",
        /// The side with fewer requests under way.
        LeastPending "least-pending",
        /// The peer while the local disk is congested.
        WhenCongestedRemote "when-congested-remote",
        /// In turn by 32 KiB stripes.
        Striping32K "32K-striping",
        /// In turn by 64 KiB stripes.
        Striping64K "64K-striping",
        /// In turn by 128 KiB stripes.
        Striping128K "128K-striping",
        /// In turn by 256 KiB stripes.
        Striping256K "256K-striping",
        /// In turn by 512 KiB stripes.
        Striping512K "512K-striping",
        /// In turn by 1 MiB stripes.
        Striping1M "1M-striping",
    }
}

choices! {
    /// What happens to a Primary that turns out to be outdated while its I/O is suspended.
    OnSuspendedPrimaryOutdated {
        /// It disconnects.
        Disconnect "disconnect",
        /// It is demoted.
        ForceSecondary "force-secondary",
    }
}

/// How many nodes make a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quorum {
    /// No quorum is asked for.
    Off,
    /// More than half.
    Majority,
    /// Every node.
    All,
    /// That many.
    Count(u8),
}

/// One resource as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// This node.
    pub me: Host,
    /// The nodes it replicates with, by node id.
    pub peers: Vec<Peer>,
    /// Options of the resource.
    pub options: ResourceOptions,
    /// Its volumes on this node, by number.
    pub volumes: Vec<Volume>,
    /// Handler name to shell command.
    pub handlers: BTreeMap<String, String>,
    /// How long starting waits for peers.
    pub startup: Startup,
    /// File and line of the resource's name.
    pub defined_at: (String, u32),
}

/// A node of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name as the configuration writes it.
    pub name: String,
    /// Its number.
    pub node_id: NodeId,
    /// Where it listens. With several paths or ports: the one of the first connection.
    pub address: Address,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// How to reach it.
    pub family: Family,
    /// The IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.family {
            Family::Ipv6 => write!(f, "{} [{}]:{}", self.family, self.host, self.port),
            _ => write!(f, "{} {}:{}", self.family, self.host, self.port),
        }
    }
}

choices! {
    /// Address families of the language.
    Family {
        /// IPv4.
        Ipv4 "ipv4",
        /// IPv6.
        Ipv6 "ipv6",
        /// Dolphin's sockets; parsed, not served.
        Ssocks "ssocks",
        /// Infiniband's sockets direct protocol; parsed, not served.
        Sdp "sdp",
    }
}

impl Family {
    /// The family named by `word`, by its older name too.
    #[must_use]
    pub fn from_name(word: &str) -> Option<Self> {
        match word {
            "sci" => Some(Self::Ssocks),
            word => Self::from_word(word),
        }
    }
}

/// A node this node replicates with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name as the configuration writes it.
    pub name: String,
    /// Its number.
    pub node_id: NodeId,
    /// Our end of the connection.
    pub my_address: Address,
    /// Its end of the connection.
    pub address: Address,
    /// Further address pairs (ours, its), in the order of the file.
    pub more_paths: Vec<(Address, Address)>,
    /// Options of the connection.
    pub net: NetOptions,
    /// Per volume: how to resynchronise with this peer.
    pub volumes: Vec<PeerVolume>,
    /// Per volume: whether the peer has a disk there.
    pub diskless_volumes: Vec<VolumeNumber>,
}

/// Options of one volume toward one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerVolume {
    /// The volume.
    pub number: VolumeNumber,
    /// Its options.
    pub options: PeerDeviceOptions,
}

/// A volume on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its number.
    pub number: VolumeNumber,
    /// The minor of its device.
    pub minor: u32,
    /// The device's name without `/dev/`, if one is written.
    pub device_name: Option<String>,
    /// The backing device; `None` for an intentionally diskless node.
    pub disk: Option<String>,
    /// Where its metadata lives.
    pub meta: MetaDisk,
    /// Options of the disk.
    pub options: DiskOptions,
}

/// Where metadata lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaDisk {
    /// At the end of the backing device.
    Internal,
    /// On a device of its own.
    Flexible(String),
    /// In a 128 MiB slot of a shared device.
    Indexed(String, u8),
}

/// The `net` section.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "a field is the option of the same name; options::TABLE holds the sentence")]
pub struct NetOptions {
    pub protocol: ReplicationProtocol,
    pub timeout: Duration,
    pub connect_int: Duration,
    pub ping_int: Duration,
    pub ping_timeout: Duration,
    pub ko_count: u32,
    pub socket_check_timeout: Duration,
    pub max_epoch_size: u32,
    pub max_buffers: u32,
    pub unplug_watermark: u32,
    pub sndbuf_size: u64,
    pub rcvbuf_size: u64,
    pub tcp_cork: bool,
    pub allow_two_primaries: bool,
    pub cram_hmac_alg: Option<String>,
    pub shared_secret: Option<String>,
    pub data_integrity_alg: Option<String>,
    pub csums_alg: Option<String>,
    pub csums_after_crash_only: bool,
    pub verify_alg: Option<String>,
    pub use_rle: bool,
    pub after_sb_0pri: AfterSb0Pri,
    pub after_sb_1pri: AfterSb1Pri,
    pub after_sb_2pri: AfterSb2Pri,
    pub always_asbp: bool,
    pub rr_conflict: RrConflict,
    pub on_congestion: OnCongestion,
    pub congestion_fill_sectors: u64,
    pub congestion_extents: u32,
    pub allow_remote_read: bool,
    /// From the net section (9), else from the disk section (8.4).
    pub fencing: Fencing,
}

/// The `disk` section, without what is kept per peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "a field is the option of the same name; options::TABLE holds the sentence")]
pub struct DiskOptions {
    /// 0: as large as the backing device allows.
    pub size_sectors: u64,
    pub on_io_error: OnIoError,
    pub disk_barrier: bool,
    pub disk_flushes: bool,
    pub disk_drain: bool,
    pub md_flushes: bool,
    /// The resource (or `resource/volume`, or minor) to wait for.
    pub resync_after: Option<String>,
    /// At least 67.
    pub al_extents: u32,
    pub al_updates: bool,
    pub disk_timeout: Duration,
    pub read_balancing: ReadBalancing,
    pub discard_zeroes_if_aligned: bool,
    pub disable_write_same: bool,
    pub rs_discard_granularity: u64,
}

/// How one volume is resynchronised with one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "a field is the option of the same name; options::TABLE holds the sentence")]
pub struct PeerDeviceOptions {
    /// Bytes a second.
    pub resync_rate: u64,
    /// Zero: a fixed rate.
    pub c_plan_ahead: Duration,
    pub c_delay_target: Duration,
    pub c_fill_target_sectors: u64,
    /// Bytes a second.
    pub c_max_rate: u64,
    /// Bytes a second; 0 is off.
    pub c_min_rate: u64,
    pub bitmap: bool,
}

/// The `options` section.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "a field is the option of the same name; options::TABLE holds the sentence")]
pub struct ResourceOptions {
    pub cpu_mask: Option<String>,
    pub on_no_data_accessible: OnNoData,
    pub auto_promote: bool,
    pub auto_promote_timeout: Duration,
    pub peer_ack_window_sectors: u64,
    pub peer_ack_delay: Duration,
    pub twopc_timeout: Duration,
    pub twopc_retry_timeout: Duration,
    pub max_io_depth: u32,
    pub quorum: Quorum,
    pub quorum_minimum_redundancy: Quorum,
    pub on_no_quorum: OnNoData,
    pub on_suspended_primary_outdated: OnSuspendedPrimaryOutdated,
}

/// The `startup` section. `None` waits for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "a field is the option of the same name; options::TABLE holds the sentence")]
pub struct Startup {
    pub wfc_timeout: Option<Duration>,
    pub degr_wfc_timeout: Option<Duration>,
    pub outdated_wfc_timeout: Option<Duration>,
    pub wait_after_sb: bool,
    pub become_primary_on: Vec<String>,
}

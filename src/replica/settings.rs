//! What the configuration says of one resource, in the units the machine uses.

use std::collections::BTreeMap;
use std::time::Duration;

use super::handler::Handler;
pub use crate::generation::RoleConflict;
use crate::metadata::layout::Placement;
use crate::model::ids::{NodeId, VolumeNumber};
use crate::wire::auth::{DigestAlgorithm, HmacAlgorithm};
use crate::wire::packet::{AfterSplitBrain, ReplicationProtocol};

/// The most peers a resource may have. Protocols 86..101 are spoken with one; the machine's tables are lists so that the
/// rules of several peers can come without changing their shape.
pub const PEERS_MAX: usize = 1;

/// The newest protocol version that is spoken.
pub const VERSION_MAX: u32 = 101;

/// A resource.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name.
    pub name: String,
    /// The own host.
    pub node_name: String,
    /// The own node id.
    pub node_id: NodeId,
    /// Its volumes.
    pub volumes: Vec<VolumeSettings>,
    /// The other hosts.
    pub peers: Vec<PeerSettings>,
    /// Freeze instead of failing when no data is reachable (`on-no-data-accessible suspend-io`).
    pub suspend_without_data: bool,
    /// `handlers`: what the shell is given. Who performs needs the text, the machine whether there is one.
    pub handlers: BTreeMap<Handler, String>,
    /// Seed of everything random: generation ids, challenges, jitter.
    pub seed: [u8; 32],
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSettings {
    /// Its number.
    pub number: VolumeNumber,
    /// Its minor, for status.
    pub minor: u32,
    /// Its device name, for status.
    pub device_name: String,
    /// Its backing device, for status.
    pub backing_device: Option<String>,
    /// Where its metadata is.
    pub placement: Placement,
    /// `size`, sectors; 0 for none.
    pub size_sectors: u64,
    /// `al-extents`.
    pub al_extents: u16,
    /// `on-io-error`.
    pub on_io_error: OnIoError,
    /// `disk-flushes`: flush the disk at the end of an epoch.
    pub disk_flushes: bool,
    /// `md-flushes`: flush and FUA for metadata.
    pub md_flushes: bool,
    /// Resync controller.
    pub resync: ResyncSettings,
}

impl VolumeSettings {
    /// A volume whose configuration sets no option: internal metadata, minor and device of the volume's number, no disk.
    #[must_use]
    pub fn with_defaults(number: VolumeNumber) -> Self {
        Self {
            number,
            minor: number.0.into(),
            device_name: format!("/dev/drbd{number}"),
            backing_device: None,
            placement: Placement::Internal,
            size_sectors: 0,
            al_extents: 1237,
            on_io_error: OnIoError::Detach,
            disk_flushes: true,
            md_flushes: true,
            resync: ResyncSettings::DEFAULT,
        }
    }
}

/// The resync controller's options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResyncSettings {
    /// `resync-rate`, KiB/s.
    pub rate_kib: u32,
    /// `c-plan-ahead`, tenths of a second; 0: fixed rate.
    pub plan_ahead: u32,
    /// `c-delay-target`, tenths of a second.
    pub delay_target: u32,
    /// `c-fill-target`, sectors.
    pub fill_target: u32,
    /// `c-max-rate`, KiB/s.
    pub max_rate_kib: u32,
    /// `c-min-rate`, KiB/s; 0: off.
    pub min_rate_kib: u32,
}

impl ResyncSettings {
    /// What they are where the configuration sets none.
    pub const DEFAULT: Self = Self {
        rate_kib: 250,
        plan_ahead: 20,
        delay_target: 10,
        fill_target: 100,
        max_rate_kib: 102_400,
        min_rate_kib: 250,
    };
}

/// What to do when the local disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnIoError {
    /// Report the error upwards (if the peer failed too) and become Inconsistent.
    PassOn,
    /// Give the disk up and go on through the peer.
    Detach,
    /// The same, and the handler `local-io-error` is begun before the peer hears of it.
    CallHandler,
}

/// What a Primary does about a peer that it cannot reach (`fencing`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fencing {
    /// Nothing.
    #[default]
    DontCare,
    /// Runs the handler `fence-peer` and goes on meanwhile.
    ResourceOnly,
    /// Freezes replies and new requests, runs `fence-peer`, and goes on when the peer is known not to be in use.
    ResourceAndStonith,
}

/// A connection to another host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Its name.
    pub name: String,
    /// Its node id.
    pub node_id: NodeId,
    /// Whether our address sorts before the peer's: breaks the tie when both dial at once.
    pub address_is_lower: bool,
    /// `protocol`.
    pub protocol: ReplicationProtocol,
    /// Highest protocol version to offer (86..=101).
    pub version_max: u32,
    /// `cram-hmac-alg` and `shared-secret`.
    pub authentication: Option<(HmacAlgorithm, Vec<u8>)>,
    /// `data-integrity-alg`.
    pub integrity: Option<DigestAlgorithm>,
    /// `verify-alg`, compared at connect.
    pub verify_alg: String,
    /// `csums-alg`.
    pub csums: Option<DigestAlgorithm>,
    /// `use-rle`.
    pub use_rle: bool,
    /// `timeout`.
    pub timeout: Duration,
    /// `ko-count`; 0: never.
    pub ko_count: u32,
    /// `ping-int`.
    pub ping_interval: Duration,
    /// `ping-timeout`.
    pub ping_timeout: Duration,
    /// `connect-int`.
    pub connect_interval: Duration,
    /// `max-epoch-size`, writes.
    pub epoch_writes_max: u32,
    /// `max-buffers`, 4 KiB pages.
    pub buffers_max: u32,
    /// `fencing`.
    pub fencing: Fencing,
    /// `allow-two-primaries`.
    pub allow_two_primaries: bool,
    /// `after-sb-0pri`, `-1pri`, `-2pri`: sent to the peer and compared with its own.
    pub after_split_brain: [AfterSplitBrain; 3],
    /// `always-asbp`: ask these also where the bitmaps do not name all that differs; everything is copied then.
    pub always_ask: bool,
    /// `rr-conflict`: what happens where a Primary with usable data would become target.
    pub role_conflict: RoleConflict,
}

impl PeerSettings {
    /// A connection whose configuration sets no option, to a peer whose address sorts after ours.
    #[must_use]
    pub fn with_defaults(name: &str, node_id: NodeId) -> Self {
        Self {
            name: name.to_owned(),
            node_id,
            address_is_lower: true,
            protocol: ReplicationProtocol::C,
            version_max: VERSION_MAX,
            authentication: None,
            integrity: None,
            verify_alg: String::new(),
            csums: None,
            use_rle: true,
            timeout: Duration::from_secs(6),
            ko_count: 7,
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_millis(500),
            connect_interval: Duration::from_secs(10),
            epoch_writes_max: 2048,
            buffers_max: 2048,
            fencing: Fencing::DontCare,
            allow_two_primaries: false,
            after_split_brain: [AfterSplitBrain::Disconnect; 3],
            always_ask: false,
            role_conflict: RoleConflict::Disconnect,
        }
    }
}

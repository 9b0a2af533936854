//! What one seed's world is like: sizes, speeds, settings, and which faults happen how often. Every class of fault is
//! switched on or off by a coin and has an intensity of its own, so that seeds differ in kind and not only in detail.

use std::collections::BTreeMap;
use std::time::Duration;

use shimai::metadata::layout::{Format, Layout, Placement, Striping};
use shimai::model::ids::{NodeId, VolumeNumber};
use shimai::replica::handler::Handler;
use shimai::replica::settings::{Fencing, OnIoError, PeerSettings, ResyncSettings, Settings, VolumeSettings};
use shimai::wire::auth::{DigestAlgorithm, HmacAlgorithm};
use shimai::wire::packet::ReplicationProtocol;

use crate::network::Wire;
use crate::rng::{Rng, mix};

pub(crate) const MICROSECOND: u64 = 1_000;
pub(crate) const MILLISECOND: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000_000_000;

/// Mostly the one that promises most.
const PROTOCOLS: [ReplicationProtocol; 8] = {
    use ReplicationProtocol::{A, B, C};
    [C, C, C, C, C, C, B, A]
};

/// A class of faults (or of an operator's deeds).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A host loses power.
    PowerLoss,
    /// Both hosts lose power.
    SitePowerLoss,
    /// The process dies, its host lives.
    Kill,
    /// Nothing passes in one direction or both.
    Partition,
    /// Connections die; each side notices at its own time.
    Cut,
    /// One of the two sockets of a connection dies.
    OneSocket,
    /// A connection dies and one side notices very late.
    HalfOpen,
    /// A connection stands still for a while.
    Stall,
    /// A disk stands still for a while.
    DiskStall,
    /// Single operations on one disk fail.
    DiskError,
    /// Sectors of one disk cannot be read.
    BadSector,
    /// One disk dies.
    DiskDeath,
    /// The operator moves the Primary in an orderly way.
    Switch,
    /// The operator disconnects.
    Disconnect,
    /// The operator detaches.
    Detach,
    /// The operator invalidates one side.
    Invalidate,
    /// The operator pauses the resync.
    PauseSync,
    /// The operator promotes whatever is there, even if the other side may have newer data.
    Reckless,
}

impl Fault {
    pub(crate) const ALL: [Self; 18] = [
        Self::PowerLoss,
        Self::SitePowerLoss,
        Self::Kill,
        Self::Partition,
        Self::Cut,
        Self::OneSocket,
        Self::HalfOpen,
        Self::Stall,
        Self::DiskStall,
        Self::DiskError,
        Self::BadSector,
        Self::DiskDeath,
        Self::Switch,
        Self::Disconnect,
        Self::Detach,
        Self::Invalidate,
        Self::PauseSync,
        Self::Reckless,
    ];

    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }
}

/// How the applications behave.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) in_flight_max: usize,
    /// Mean time between bursts.
    pub(crate) gap: u64,
    pub(crate) burst_max: u64,
    pub(crate) sectors_max: u64,
    /// Places (first sectors) around which writes happen.
    pub(crate) hot: Vec<u64>,
    /// In this many of 1000 cases the next place in the list is taken, so that more extents are touched in a short time
    /// than the activity log has slots.
    pub(crate) sweep: u64,
    pub(crate) read: u64,
    pub(crate) flush: u64,
    pub(crate) fua: u64,
    pub(crate) trim: u64,
}

/// How a disk behaves.
#[derive(Clone, Debug)]
pub(crate) struct DiskManner {
    pub(crate) latency_min: u64,
    pub(crate) latency_max: u64,
    /// Operations in 1000 that take up to 100 times as long.
    pub(crate) tail: u64,
}

/// Metadata on devices of their own (`meta-disk` with a path), one for each volume.
#[derive(Clone, Debug)]
pub(crate) struct ExternalMetadata {
    pub(crate) device_bytes: u64,
    pub(crate) disks: [DiskManner; 2],
}

/// One seed's world.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) seed: u64,
    pub(crate) format: Format,
    pub(crate) device_bytes: Vec<u64>,
    /// A node whose disk (of the only volume) is new and has another size. Its metadata must be external.
    pub(crate) odd_disk: Option<(usize, u64)>,
    /// The pair has been in sync before the world begins.
    pub(crate) born_in_sync: bool,
    pub(crate) protocol: ReplicationProtocol,
    /// End of the phase with faults.
    pub(crate) horizon: u64,
    pub(crate) load: Load,
    pub(crate) disks: [DiskManner; 2],
    pub(crate) wire: Wire,
    /// Rate of each node's clock in thousandths.
    pub(crate) clock_rate: [u64; 2],
    /// Mean time between two faults of the class.
    pub(crate) faults: BTreeMap<Fault, u64>,
    pub(crate) down_max: u64,
    /// `None`: at the end of the data's device.
    pub(crate) external: Option<ExternalMetadata>,
    /// What the second node's configuration says of the resync controller, if not the same as the first's.
    pub(crate) other_pace: Option<ResyncSettings>,
    /// The features that are offered, of those that both machines know.
    pub(crate) features: u32,
    /// What both nodes' configurations name.
    pub(crate) handlers: BTreeMap<Handler, String>,
    /// What `fence-peer` answers, whatever is true; all others end with 0.
    pub(crate) fence_exit: Option<u8>,
    /// The operator asks for a verify so often.
    pub(crate) verifies: Option<u64>,
    pub(crate) peer: PeerSettings,
    pub(crate) volume: VolumeSettings,
}

impl Profile {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(mix(seed));
        let rng = &mut rng;
        let large = rng.chance(250);
        let volumes = if !large && rng.chance(150) { 2 } else { 1 };
        let born_in_sync = large || rng.chance(750);
        let mebibytes = if large {
            rng.within(320, 480)
        } else if born_in_sync {
            rng.within(16, 64)
        } else {
            rng.within(4, 12)
        };
        let device_bytes: Vec<u64> = (0..volumes).map(|_| (mebibytes << 20) + rng.below(8) * 512).collect();
        let format = if rng.coin() { Format::V08 } else { Format::V09 };
        let usable = layout(format, device_bytes[0]).usable_sectors;
        let horizon = rng.spread(2 * SECOND, if large { 8 * SECOND } else { 24 * SECOND });
        let faults = draw_faults(horizon, large, rng);
        let mut profile = Self {
            seed,
            format,
            device_bytes: device_bytes.clone(),
            odd_disk: None,
            born_in_sync,
            protocol: *rng.pick(&PROTOCOLS),
            horizon,
            load: draw_load(usable, large, horizon, rng),
            disks: [draw_disk(rng), draw_disk(rng)],
            wire: draw_wire(device_bytes[0], rng),
            clock_rate: [rng.within(900, 1100), rng.within(900, 1100)],
            faults,
            down_max: rng.spread(10 * MILLISECOND, 8 * SECOND),
            external: None,
            other_pace: None,
            features: u32::MAX,
            handlers: BTreeMap::new(),
            fence_exit: Some(7),
            verifies: None,
            peer: draw_peer(volumes > 1, rng),
            volume: draw_volume(large, rng),
        };
        profile.draw_later_additions();
        profile
    }

    /// What was added since, from a stream of its own, so that a seed stays the world that it was.
    fn draw_later_additions(&mut self) {
        let rng = &mut Rng::new(mix(self.seed ^ 0x00ad_d171_0115));
        if rng.chance(150) {
            let device_bytes = rng.within(17, 60) * 4096;
            self.external = Some(ExternalMetadata { device_bytes, disks: [draw_disk(rng), draw_disk(rng)] });
            self.volume.placement = Placement::FlexibleExternal;
            // The last block may be a part of one now.
            self.load.hot.push(self.layout(0).usable_sectors - 1);
        }
        self.other_pace = rng.chance(200).then(|| draw_pace(rng));
        if rng.chance(150) {
            self.features = rng.below(16) as u32;
        }
        // Each block of a verify is some ten events: seldom, and not of much.
        let is_small = self.device_bytes.iter().sum::<u64>() <= 16 << 20;
        let every = (is_small && rng.chance(150)).then(|| rng.spread(3 * SECOND, 10 * SECOND));
        // A block that cannot be read is marked, and where the disk stays nothing takes that mark away.
        let keeps_bad_disks = self.volume.on_io_error == OnIoError::PassOn
            && [Fault::DiskError, Fault::BadSector].iter().any(|&fault| self.has(fault));
        // Elsewhere a verify could not be ended before the world does.
        let ends_early = self.peer.version_max >= 97 && self.peer.version_max != 100;
        self.verifies = every.filter(|_| ends_early && !keeps_bad_disks);
        if self.verifies.is_some() {
            self.peer.verify_alg = "crc32c".into();
        }
        self.draw_fencing();
    }

    /// Handlers that know nothing: what they say is true by chance, as in a cluster without fence devices.
    fn draw_fencing(&mut self) {
        let rng = &mut Rng::new(mix(self.seed ^ 0xfe4c_e000));
        if !rng.chance(300) {
            return;
        }
        let policies = [Fencing::DontCare, Fencing::ResourceOnly, Fencing::ResourceAndStonith];
        self.peer.fencing = *rng.pick(if self.protocol == ReplicationProtocol::A { &policies[..2] } else { &policies });
        self.fence_exit = *rng.pick(&[Some(4), Some(5), Some(7)]);
        for handler in
            ["fence-peer", "unfence-peer", "before-resync-target", "before-resync-source", "after-resync-target"]
        {
            if let Some(handler) =
                Handler::from_name(handler).filter(|handler| *handler == Handler::FencePeer || rng.coin())
            {
                self.handlers.insert(handler, handler.name().into());
            }
        }
    }

    /// A calm world of a given kind, for stories.
    pub(crate) fn calm(seed: u64, mebibytes: u64, born_in_sync: bool) -> Self {
        let mut profile = Self::draw(seed);
        profile.device_bytes = vec![mebibytes << 20];
        profile.born_in_sync = born_in_sync;
        profile.faults.clear();
        profile.handlers.clear();
        profile.peer.fencing = Fencing::DontCare;
        profile.verifies = None;
        profile.load.gap = 0;
        profile.horizon = u64::MAX / 4;
        profile.wire.window = profile.wire.window.max(1 << 16);
        profile
    }

    /// A calm world of two nodes that are fast, patient and configured as most are: only the seed's small decisions differ.
    pub(crate) fn plain(seed: u64, mebibytes: u64) -> Self {
        let mut profile = Self::calm(seed, mebibytes, true);
        let manner = || DiskManner { latency_min: 100 * MICROSECOND, latency_max: 300 * MICROSECOND, tail: 0 };
        profile.format = if seed.is_multiple_of(2) { Format::V08 } else { Format::V09 };
        profile.protocol = ReplicationProtocol::C;
        profile.features = u32::MAX;
        profile.external = None;
        profile.other_pace = None;
        profile.disks = [manner(), manner()];
        profile.wire = Wire {
            latency_min: 50 * MICROSECOND,
            latency_max: 100 * MICROSECOND,
            bandwidth: 500_000,
            window: 4 << 20,
            piece_max: 256 << 10,
        };
        profile.clock_rate = [1000; 2];
        profile.volume = VolumeSettings {
            placement: Placement::Internal,
            al_extents: 1237,
            on_io_error: OnIoError::Detach,
            resync: ResyncSettings { rate_kib: 100_000, plan_ahead: 0, min_rate_kib: 0, ..profile.volume.resync },
            ..profile.volume
        };
        profile.peer = PeerSettings {
            version_max: 101,
            authentication: None,
            integrity: None,
            csums: None,
            timeout: Duration::from_secs(6),
            ko_count: 7,
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(10),
            connect_interval: Duration::from_millis(500),
            epoch_writes_max: 2048,
            buffers_max: 2048,
            ..profile.peer
        };
        profile
    }

    /// What a node's configuration says of the resync controller.
    pub(crate) fn own_pace(&mut self, node: usize, pace: ResyncSettings) {
        if node == 0 {
            self.volume.resync = pace;
        } else {
            self.other_pace = Some(pace);
        }
    }

    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.faults.contains_key(&fault)
    }

    /// A volume as large as both nodes' disks can hold it.
    pub(crate) fn layout(&self, volume: usize) -> Layout {
        let [first, second] = [0, 1].map(|node| self.own_layout(node, volume));
        if second.usable_sectors < first.usable_sectors { second } else { first }
    }

    /// What a node's disk would hold by itself.
    pub(crate) fn own_layout(&self, node: usize, volume: usize) -> Layout {
        let data_bytes = self.data_bytes(node, volume);
        match &self.external {
            None => layout(self.format, data_bytes),
            Some(external) => {
                let (place, striping) = (Placement::FlexibleExternal, Striping::default());
                let layout = Layout::compute(self.format, place, external.device_bytes, 1, striping)
                    .expect("a metadata device with room");
                Layout { usable_sectors: layout.usable_sectors.min(data_bytes / 512), ..layout }
            }
        }
    }

    /// Size of a node's device for a volume's data.
    pub(crate) fn data_bytes(&self, node: usize, volume: usize) -> u64 {
        self.odd_disk.filter(|(odd, _)| *odd == node).map_or(self.device_bytes[volume], |(_, bytes)| bytes)
    }

    /// Size of the device that holds a volume's metadata.
    pub(crate) fn metadata_bytes(&self, volume: usize) -> u64 {
        self.external.as_ref().map_or(self.device_bytes[volume], |external| external.device_bytes)
    }

    /// The number of the device that holds a volume's metadata; the devices of the data come first.
    pub(crate) fn metadata_device(&self, volume: usize) -> usize {
        if self.external.is_some() { self.device_bytes.len() + volume } else { volume }
    }

    /// How one of a node's devices behaves.
    pub(crate) fn manner(&self, node: usize, device: usize) -> &DiskManner {
        match &self.external {
            Some(external) if device >= self.device_bytes.len() => &external.disks[node],
            _ => &self.disks[node],
        }
    }

    /// What the configuration says to one node; `life` counts its processes.
    pub(crate) fn settings(&self, node: usize, life: u32) -> Settings {
        let mut seed = [0; 32];
        for (index, chunk) in seed.chunks_mut(8).enumerate() {
            let number = mix(self.seed ^ mix((node as u64) << 40 | u64::from(life) << 8 | index as u64));
            chunk.copy_from_slice(&number.to_be_bytes());
        }
        let other = 1 - node;
        let resync = self.other_pace.filter(|_| node == 1).unwrap_or(self.volume.resync);
        let volumes = (0..self.device_bytes.len())
            .map(|volume| VolumeSettings {
                number: VolumeNumber(volume as u16),
                minor: volume as u32,
                device_name: format!("/dev/shimai{volume}"),
                resync,
                ..self.volume.clone()
            })
            .collect();
        Settings {
            name: "data".into(),
            node_name: name(node).into(),
            node_id: NodeId::new(node as u8).expect("0 or 1"),
            volumes,
            peers: vec![PeerSettings {
                name: name(other).into(),
                node_id: NodeId::new(other as u8).expect("0 or 1"),
                address_is_lower: node == 0,
                protocol: self.protocol,
                ..self.peer.clone()
            }],
            suspend_without_data: self.seed.is_multiple_of(3),
            handlers: self.handlers.clone(),
            seed,
        }
    }

    /// Writes are answered before the peer has stored them.
    pub(crate) fn is_asynchronous(&self) -> bool {
        self.protocol != ReplicationProtocol::C
    }

    /// Whether a flush makes anything stable at all.
    pub(crate) fn flushes(&self) -> bool {
        self.volume.disk_flushes
    }
}

/// The node's name.
pub(crate) fn name(node: usize) -> &'static str {
    ["alice", "bob"][node]
}

fn layout(format: Format, bytes: u64) -> Layout {
    Layout::compute(format, Placement::Internal, bytes, 1, Striping::default()).expect("a device with room")
}

fn draw_faults(horizon: u64, large: bool, rng: &mut Rng) -> BTreeMap<Fault, u64> {
    let mut faults = BTreeMap::new();
    for fault in Fault::ALL {
        let gap = rng.spread(horizon / 12, horizon * 2);
        let rare = matches!(fault, Fault::DiskError | Fault::BadSector | Fault::DiskDeath | Fault::Reckless);
        let on = if rare { rng.chance(250) } else { rng.coin() };
        // A full resync of a large device takes the time of many other seeds.
        if on && !(large && fault == Fault::Invalidate) {
            faults.insert(fault, gap);
        }
    }
    faults
}

fn draw_load(usable: u64, large: bool, horizon: u64, rng: &mut Rng) -> Load {
    let places = if large { 100 } else { rng.within(1, 12) };
    let extent = 8192;
    let extents = usable / extent;
    let mut hot: Vec<u64> = (0..places)
        .map(|place| {
            let within = rng.below(4) * 8 + rng.below(8);
            let at = if large { place % extents.max(1) } else { rng.below(extents + 1) };
            (at * extent + within).min(usable - 1)
        })
        .collect();
    if rng.chance(300) {
        hot.push(usable - 1);
    }
    Load {
        in_flight_max: rng.spread(1, 64) as usize,
        gap: if large {
            rng.spread(4 * MILLISECOND, 30 * MILLISECOND)
        } else {
            rng.spread(horizon / 400, horizon / 20)
        },
        burst_max: rng.spread(1, 16),
        sectors_max: if large { 8 } else { *rng.pick(&[1, 8, 8, 16, 32, 128]) },
        hot,
        sweep: if large { 900 } else { 0 },
        read: rng.below(400),
        flush: rng.below(150),
        fua: rng.below(200),
        trim: if rng.coin() { rng.below(100) } else { 0 },
    }
}

fn draw_disk(rng: &mut Rng) -> DiskManner {
    let latency_min = rng.spread(20 * MICROSECOND, 2 * MILLISECOND);
    DiskManner { latency_min, latency_max: latency_min * rng.within(1, 8), tail: rng.below(40) }
}

fn draw_wire(device_bytes: u64, rng: &mut Rng) -> Wire {
    let latency_min = rng.spread(30 * MICROSECOND, 5 * MILLISECOND);
    Wire {
        latency_min,
        latency_max: latency_min * rng.within(1, 5),
        bandwidth: rng.spread(20_000, 1_000_000),
        window: rng.spread(32 << 10, 4 << 20),
        // A full resync should not take a million pieces.
        piece_max: rng.spread(1 << 10, 256 << 10).max(device_bytes / 2000),
    }
}

fn draw_peer(several_volumes: bool, rng: &mut Rng) -> PeerSettings {
    PeerSettings {
        // Older versions know one volume; before 95 both ends of an empty resync finish by
        // themselves, and before 91 an interrupted resync may end in a refusal.
        version_max: if several_volumes { 101 } else { *rng.pick(&[101, 101, 101, 101, 100, 96, 95, 95]) },
        authentication: HmacAlgorithm::from_name("sha1").filter(|_| rng.chance(200)).map(|it| (it, b"secret".to_vec())),
        integrity: DigestAlgorithm::from_name("crc32c").filter(|_| rng.chance(150)),
        csums: DigestAlgorithm::from_name("crc32c").filter(|_| rng.chance(150)),
        use_rle: rng.coin(),
        timeout: Duration::from_nanos(rng.spread(500 * MILLISECOND, 3 * SECOND)),
        ko_count: rng.within(2, 7) as u32,
        ping_interval: Duration::from_nanos(rng.spread(500 * MILLISECOND, 5 * SECOND)),
        ping_timeout: Duration::from_nanos(rng.spread(150 * MILLISECOND, 500 * MILLISECOND)),
        connect_interval: Duration::from_nanos(rng.spread(500 * MILLISECOND, 3 * SECOND)),
        epoch_writes_max: *rng.pick(&[2048, 2048, 20, 3]),
        buffers_max: *rng.pick(&[2048, 8000, 256]),
        ..PeerSettings::with_defaults("", NodeId::new(0).expect("0 is a node id"))
    }
}

fn draw_volume(large: bool, rng: &mut Rng) -> VolumeSettings {
    VolumeSettings {
        al_extents: if large { 67 } else { *rng.pick(&[67, 257, 1237]) },
        on_io_error: if rng.chance(300) { OnIoError::PassOn } else { OnIoError::Detach },
        resync: draw_pace(rng),
        ..VolumeSettings::with_defaults(VolumeNumber(0))
    }
}

fn draw_pace(rng: &mut Rng) -> ResyncSettings {
    ResyncSettings {
        rate_kib: rng.spread(10_000, 250_000) as u32,
        plan_ahead: if rng.coin() { 20 } else { 0 },
        delay_target: 10,
        fill_target: if rng.coin() { 100 } else { 0 },
        max_rate_kib: rng.spread(50_000, 400_000) as u32,
        min_rate_kib: if rng.coin() { 250 } else { 0 },
    }
}

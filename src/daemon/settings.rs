//! From the configuration to what a resource runs with: the machine's settings in its units, and the engine's paths and
//! addresses.
//!
//! What the configuration may say and we do not serve is refused here, with a sentence that names it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{
    Address, Family, Fencing as ConfiguredFencing, MetaDisk, NetOptions, OnIoError as ConfiguredOnIoError, OnNoData,
    Peer, PeerDeviceOptions, ReplicationProtocol as ConfiguredProtocol, Resource, RrConflict, Volume,
};
use crate::engine::specification::LOCK_PATIENCE;
use crate::engine::{BackingPaths, NbdListen, PeerAddresses, ResourceSpec};
use crate::io::interfaces;
use crate::io::tcp::StreamOptions;
use crate::metadata::layout::Placement;
use crate::model::ids::VolumeNumber;
use crate::replica::handler::Handler;
use crate::replica::settings::{
    Fencing, OnIoError, PEERS_MAX, PeerSettings, ResyncSettings, RoleConflict, Settings, VERSION_MAX, VolumeSettings,
};
use crate::wire::auth::{DigestAlgorithm, HmacAlgorithm};
use crate::wire::packet::{AfterSplitBrain, ReplicationProtocol};

/// `al-extents` cannot be more than the metadata's activity log has room for; the machine limits it further.
const AL_EXTENTS_MAX: u32 = u16::MAX as u32;

/// Why a resource of the configuration cannot be run.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// More peers than the protocol's rules cover.
    #[error(
        "resource {resource} replicates with {peers} peers ({names}); this version serves {PEERS_MAX}: give the resource two \
         hosts"
    )]
    TooManyPeers {
        /// The resource.
        resource: String,
        /// How many.
        peers: usize,
        /// Which.
        names: String,
    },
    /// An address that is none.
    #[error("resource {resource}: {address:?} is not an IP address; write the address, not a name")]
    Address {
        /// The resource.
        resource: String,
        /// As written.
        address: String,
    },
    /// An interface that does not exist here.
    #[error("resource {resource}: {address} is at the interface {interface}, which this machine has not")]
    Interface {
        /// The resource.
        resource: String,
        /// As written.
        address: String,
        /// What follows its percent sign.
        interface: String,
    },
    /// Sockets that do not exist here.
    #[error("resource {resource}: addresses of family {family} are not served; use ipv4 or ipv6")]
    Family {
        /// The resource.
        resource: String,
        /// As written.
        family: Family,
    },
    /// An algorithm we do not have.
    #[error("resource {resource}: {option} {name} is not served; served are {known}")]
    Algorithm {
        /// The resource.
        resource: String,
        /// Which option.
        option: &'static str,
        /// Its value.
        name: String,
        /// What could stand there.
        known: String,
    },
    /// A policy that the protocol cannot keep: its replies leave before anybody can freeze them.
    #[error("resource {resource}: fencing resource-and-stonith only works with protocol B or C")]
    Stonith {
        /// The resource.
        resource: String,
    },
    /// One of two options that need each other.
    #[error("resource {resource}: {present} is set and {missing} is not; the peers need both to know each other")]
    Incomplete {
        /// The resource.
        resource: String,
        /// What is there.
        present: &'static str,
        /// What is not.
        missing: &'static str,
    },
}

/// What besides the configuration decides how a resource is run.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Where NBD clients are expected.
    pub nbd: Vec<NbdListen>,
    /// The configuration's file, for handlers.
    pub configuration: PathBuf,
    /// Bypass the page cache.
    pub direct: bool,
    /// Seed of everything random in the machine.
    pub seed: [u8; 32],
}

/// All that the engine needs to run the resource.
///
/// # Errors
/// The resource needs something that is not served.
pub fn specification(resource: &Resource, surroundings: Surroundings) -> Result<ResourceSpec, SettingsError> {
    let addresses = |peer: &Peer| {
        Ok(PeerAddresses {
            mine: socket_address(resource, &peer.my_address)?,
            peer: peer_address(resource, peer)?,
            stream: stream_options(&peer.net),
        })
    };
    Ok(ResourceSpec {
        settings: settings(resource, surroundings.seed)?,
        peers: resource.peers.iter().map(addresses).collect::<Result<_, _>>()?,
        backing: resource.volumes.iter().map(backing_paths).collect(),
        nbd: surroundings.nbd,
        configuration: surroundings.configuration,
        direct: surroundings.direct,
        lock_patience: LOCK_PATIENCE,
    })
}

/// The machine's settings.
///
/// # Errors
/// The resource needs something that is not served.
pub fn settings(resource: &Resource, seed: [u8; 32]) -> Result<Settings, SettingsError> {
    if resource.peers.len() > PEERS_MAX {
        let names: Vec<&str> = resource.peers.iter().map(|peer| peer.name.as_str()).collect();
        return Err(SettingsError::TooManyPeers {
            resource: resource.name.clone(),
            peers: names.len(),
            names: names.join(", "),
        });
    }
    Ok(Settings {
        name: resource.name.clone(),
        node_name: resource.me.name.clone(),
        node_id: resource.me.node_id,
        volumes: resource.volumes.iter().map(|volume| volume_settings(resource, volume)).collect(),
        peers: resource.peers.iter().map(|peer| peer_settings(resource, peer)).collect::<Result<_, _>>()?,
        suspend_without_data: resource.options.on_no_data_accessible == OnNoData::SuspendIo,
        handlers: handlers(resource),
        seed,
    })
}

/// What is to be run where. Names that nobody runs, `lint` has told of.
fn handlers(resource: &Resource) -> BTreeMap<Handler, String> {
    let handlers = resource.handlers.iter();
    handlers.filter_map(|(name, text)| Some((Handler::from_name(name)?, text.clone()))).collect()
}

fn volume_settings(resource: &Resource, volume: &Volume) -> VolumeSettings {
    let options = &volume.options;
    VolumeSettings {
        number: volume.number,
        minor: volume.minor,
        device_name: device_name(volume),
        backing_device: volume.disk.clone(),
        placement: placement(&volume.meta),
        size_sectors: options.size_sectors,
        al_extents: options.al_extents.min(AL_EXTENTS_MAX) as u16,
        on_io_error: match options.on_io_error {
            ConfiguredOnIoError::PassOn => OnIoError::PassOn,
            ConfiguredOnIoError::Detach => OnIoError::Detach,
            ConfiguredOnIoError::CallLocalIoError => OnIoError::CallHandler,
        },
        disk_flushes: options.disk_flushes,
        md_flushes: options.md_flushes,
        resync: resync_settings(resource, volume.number),
    }
}

/// The path of the volume's device, as status shows it.
fn device_name(volume: &Volume) -> String {
    match &volume.device_name {
        Some(name) => format!("/dev/{name}"),
        None => format!("/dev/drbd{}", volume.minor),
    }
}

/// Where the metadata of a volume is.
#[must_use]
pub fn placement(meta: &MetaDisk) -> Placement {
    match meta {
        MetaDisk::Internal => Placement::Internal,
        MetaDisk::Flexible(_) => Placement::FlexibleExternal,
        MetaDisk::Indexed(_, index) => Placement::Indexed(*index),
    }
}

/// What the first peer's connection says; without a peer nothing is ever resynchronised.
fn resync_settings(resource: &Resource, number: VolumeNumber) -> ResyncSettings {
    let volumes = resource.peers.first().map_or(&[][..], |peer| &peer.volumes);
    match volumes.iter().find(|volume| volume.number == number) {
        Some(volume) => resync_from(&volume.options),
        None => ResyncSettings::DEFAULT,
    }
}

fn resync_from(options: &PeerDeviceOptions) -> ResyncSettings {
    ResyncSettings {
        rate_kib: kib(options.resync_rate),
        plan_ahead: tenths(options.c_plan_ahead),
        delay_target: tenths(options.c_delay_target),
        fill_target: narrow(options.c_fill_target_sectors),
        max_rate_kib: kib(options.c_max_rate),
        min_rate_kib: kib(options.c_min_rate),
    }
}

fn kib(bytes: u64) -> u32 {
    narrow(bytes / 1024)
}

fn tenths(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis() / 100).unwrap_or(u32::MAX)
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The settings of a connection.
///
/// # Errors
/// The connection needs something that is not served.
pub fn peer_settings(resource: &Resource, peer: &Peer) -> Result<PeerSettings, SettingsError> {
    let net = &peer.net;
    let mine = socket_address(resource, &peer.my_address)?;
    let theirs = peer_address(resource, peer)?;
    if net.protocol == ConfiguredProtocol::A && net.fencing == ConfiguredFencing::ResourceAndStonith {
        return Err(SettingsError::Stonith { resource: resource.name.clone() });
    }
    Ok(PeerSettings {
        name: peer.name.clone(),
        node_id: peer.node_id,
        address_is_lower: (mine.ip(), mine.port()) < (theirs.ip(), theirs.port()),
        protocol: match net.protocol {
            ConfiguredProtocol::A => ReplicationProtocol::A,
            ConfiguredProtocol::B => ReplicationProtocol::B,
            ConfiguredProtocol::C => ReplicationProtocol::C,
        },
        version_max: VERSION_MAX,
        authentication: authentication(resource, net)?,
        integrity: digest(resource, "data-integrity-alg", net.data_integrity_alg.as_deref())?,
        verify_alg: net.verify_alg.clone().unwrap_or_default(),
        csums: digest(resource, "csums-alg", net.csums_alg.as_deref())?,
        use_rle: net.use_rle,
        timeout: net.timeout,
        ko_count: net.ko_count,
        ping_interval: net.ping_int,
        ping_timeout: net.ping_timeout,
        connect_interval: net.connect_int,
        epoch_writes_max: net.max_epoch_size,
        buffers_max: net.max_buffers,
        fencing: match net.fencing {
            ConfiguredFencing::DontCare => Fencing::DontCare,
            ConfiguredFencing::ResourceOnly => Fencing::ResourceOnly,
            ConfiguredFencing::ResourceAndStonith => Fencing::ResourceAndStonith,
        },
        allow_two_primaries: net.allow_two_primaries,
        after_split_brain: [
            after_split_brain(net.after_sb_0pri.as_str()),
            after_split_brain(net.after_sb_1pri.as_str()),
            after_split_brain(net.after_sb_2pri.as_str()),
        ],
        always_ask: net.always_asbp,
        role_conflict: role_conflict(net.rr_conflict),
    })
}

fn after_split_brain(word: &str) -> AfterSplitBrain {
    AfterSplitBrain::from_keyword(word).expect("the configuration has no word that the wire lacks")
}

fn role_conflict(word: RrConflict) -> RoleConflict {
    match word {
        // What is discarded by itself in DRBD 9 concerns crashed Primaries of a protocol that is not spoken here.
        RrConflict::Disconnect | RrConflict::AutoDiscard => RoleConflict::Disconnect,
        RrConflict::CallPriLost => RoleConflict::CallPriLost,
        RrConflict::Violently => RoleConflict::Violently,
        RrConflict::RetryConnect => RoleConflict::RetryConnect,
    }
}

fn authentication(resource: &Resource, net: &NetOptions) -> Result<Option<(HmacAlgorithm, Vec<u8>)>, SettingsError> {
    const ALGORITHM: &str = "cram-hmac-alg";
    const SECRET: &str = "shared-secret";
    let incomplete = |present, missing| SettingsError::Incomplete { resource: resource.name.clone(), present, missing };
    match (&net.cram_hmac_alg, &net.shared_secret) {
        // DRBD ignores a secret alone as well.
        (None, _) => Ok(None),
        (Some(_), None) => Err(incomplete(ALGORITHM, SECRET)),
        (Some(name), Some(secret)) => {
            let known = HmacAlgorithm::ALL.iter().map(|algorithm| algorithm.name());
            let found = HmacAlgorithm::from_name(name);
            let algorithm = found.ok_or_else(|| unknown_algorithm(resource, ALGORITHM, name, known))?;
            Ok(Some((algorithm, secret.clone().into_bytes())))
        }
    }
}

fn digest(
    resource: &Resource,
    option: &'static str,
    name: Option<&str>,
) -> Result<Option<DigestAlgorithm>, SettingsError> {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(None) };
    let known = DigestAlgorithm::ALL.iter().map(|algorithm| algorithm.name());
    DigestAlgorithm::from_name(name).map(Some).ok_or_else(|| unknown_algorithm(resource, option, name, known))
}

fn unknown_algorithm(
    resource: &Resource,
    option: &'static str,
    name: &str,
    known: impl Iterator<Item = &'static str>,
) -> SettingsError {
    SettingsError::Algorithm {
        resource: resource.name.clone(),
        option,
        name: name.to_owned(),
        known: known.collect::<Vec<_>>().join(", "),
    }
}

/// Where the peer is. An interface in its address is one of its own; seen from here, it is behind ours.
fn peer_address(resource: &Resource, peer: &Peer) -> Result<SocketAddr, SettingsError> {
    let mut address = peer.address.clone();
    if let (Some((host, _)), Some((_, interface))) =
        (peer.address.host.split_once('%'), peer.my_address.host.split_once('%'))
    {
        address.host = format!("{host}%{interface}");
    }
    socket_address(resource, &address)
}

fn socket_address(resource: &Resource, address: &Address) -> Result<SocketAddr, SettingsError> {
    let resource = || resource.name.clone();
    match address.family {
        Family::Ipv4 | Family::Ipv6 => {}
        family => return Err(SettingsError::Family { resource: resource(), family }),
    }
    let wrong = || SettingsError::Address { resource: resource(), address: address.host.clone() };
    let Some((host, interface)) = address.host.split_once('%') else {
        let ip: IpAddr = address.host.parse().map_err(|_| wrong())?;
        return Ok(SocketAddr::new(ip, address.port));
    };
    // The address of a link is meant with the interface that is on it.
    let ip = host.parse().map_err(|_| wrong())?;
    let scope = interfaces::index_of(interface).map_err(|_| SettingsError::Interface {
        resource: resource(),
        address: address.host.clone(),
        interface: interface.to_owned(),
    })?;
    Ok(SocketAddrV6::new(ip, address.port, 0, scope).into())
}

fn stream_options(net: &NetOptions) -> StreamOptions {
    let size = |bytes: u64| usize::try_from(bytes).ok().filter(|&bytes| bytes > 0);
    StreamOptions {
        send_buffer: size(net.sndbuf_size),
        receive_buffer: size(net.rcvbuf_size),
        // Silence is noticed by DRBD's own pings.
        ..StreamOptions::default()
    }
}

/// Where a volume's data and metadata are; `None` without a disk.
#[must_use]
pub fn backing_paths(volume: &Volume) -> Option<BackingPaths> {
    let data = PathBuf::from(volume.disk.as_ref()?);
    let metadata = match &volume.meta {
        MetaDisk::Internal => None,
        MetaDisk::Flexible(path) | MetaDisk::Indexed(path, _) => Some(PathBuf::from(path)),
    };
    let slot = match &volume.meta {
        MetaDisk::Indexed(_, slot) => Some(*slot),
        MetaDisk::Internal | MetaDisk::Flexible(_) => None,
    };
    Some(BackingPaths { data, metadata, slot })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, MemoryFiles};

    /// The resource `data` of a configuration, as alpha sees it.
    fn resource(net: &str, disk: &str, more: &str) -> Resource {
        let text = format!(
            "resource data {{
                net {{ {net} }}
                disk {{ {disk} }}
                volume 0 {{ device minor 3; disk /dev/vg/data; meta-disk internal; }}
                volume 1 {{ device /dev/drbd_logs minor 4; disk /dev/vg/logs; meta-disk /dev/vg/meta[2]; }}
                on alpha {{ node-id 0; address 10.0.0.1:7789; }}
                on bravo {{ node-id 1; address 10.0.0.2:7788; }}
                {more}
            }}"
        );
        let config = Config::load("t.res", &MemoryFiles::single("t.res", text)).unwrap_or_else(|e| panic!("{e:?}"));
        config.resolve("data", "alpha").unwrap()
    }

    fn error(resource: &Resource) -> String {
        settings(resource, [0; 32]).unwrap_err().to_string()
    }

    #[test]
    fn every_unit_arrives_as_the_machine_wants_it() {
        let disk =
            "resync-rate 33M; c-max-rate 700M; c-min-rate 4M; c-plan-ahead 15; c-fill-target 24k; c-delay-target 5;";
        let resource = resource("timeout 50; ping-timeout 7; connect-int 3; ping-int 4; sndbuf-size 1M;", disk, "");
        let settings = settings(&resource, [7; 32]).unwrap();
        let [first, second] = &settings.volumes[..] else { panic!("two volumes") };
        let expected = ResyncSettings {
            rate_kib: 33 << 10,
            plan_ahead: 15,
            delay_target: 5,
            fill_target: 48,
            max_rate_kib: 700 << 10,
            min_rate_kib: 4 << 10,
        };
        assert_eq!(first.resync, expected);
        assert_eq!((first.device_name.as_str(), second.device_name.as_str()), ("/dev/drbd3", "/dev/drbd_logs"));
        assert_eq!((first.placement, second.placement), (Placement::Internal, Placement::Indexed(2)));
        let peer = &settings.peers[0];
        let times = (peer.timeout, peer.ping_timeout, peer.connect_interval, peer.ping_interval);
        let milliseconds = [5000, 700, 3000, 4000].map(Duration::from_millis);
        assert_eq!(times, (milliseconds[0], milliseconds[1], milliseconds[2], milliseconds[3]));
        assert!(peer.address_is_lower, "the address decides before the port");
        let surroundings = Surroundings { nbd: Vec::new(), configuration: PathBuf::new(), direct: true, seed: [7; 32] };
        let spec = specification(&resource, surroundings).unwrap();
        assert_eq!(spec.peers[0].stream.send_buffer, Some(1 << 20));
        let shared = spec.backing[1].as_ref().unwrap();
        assert_eq!((shared.metadata.clone(), shared.slot), (Some("/dev/vg/meta".into()), Some(2)));
        assert_eq!(spec.backing[0].as_ref().unwrap().slot, None);
    }

    #[test]
    fn a_configuration_without_options_means_the_defaults() {
        let settings = settings(&resource("", "", ""), [7; 32]).unwrap();
        let expected = VolumeSettings {
            minor: 3,
            device_name: "/dev/drbd3".into(),
            backing_device: Some("/dev/vg/data".into()),
            ..VolumeSettings::with_defaults(VolumeNumber(0))
        };
        assert_eq!(settings.volumes[0], expected);
        assert_eq!(settings.peers[0], PeerSettings::with_defaults("bravo", settings.peers[0].node_id));
    }

    #[test]
    fn what_is_not_served_is_refused_in_words() {
        let found = error(&resource("cram-hmac-alg whirlpool; shared-secret x;", "", ""));
        assert!(
            found.starts_with("resource data: cram-hmac-alg whirlpool is not served; served are md5, sha1"),
            "{found}"
        );
        let found = error(&resource("cram-hmac-alg sha1;", "", ""));
        assert_eq!(
            found,
            "resource data: cram-hmac-alg is set and shared-secret is not; the peers need both to know each other"
        );
        let found = error(&resource("protocol A;", "fencing resource-and-stonith;", ""));
        assert_eq!(found, "resource data: fencing resource-and-stonith only works with protocol B or C");
        let mut three = resource("", "", "");
        let mut third = three.peers[0].clone();
        third.name = "charlie".into();
        three.peers.push(third);
        assert_eq!(
            error(&three),
            "resource data replicates with 2 peers (bravo, charlie); this version serves 1: give the resource two hosts"
        );
        let mut named = resource("", "", "");
        named.peers[0].address.host = "bravo.example".into();
        assert!(error(&named).contains("is not an IP address"));
        named.peers[0].address.host = "fe80::1%nowhere0".into();
        let expected = "resource data: fe80::1%nowhere0 is at the interface nowhere0, which this machine has not";
        assert_eq!(error(&named), expected);
    }

    #[test]
    fn the_address_of_a_link_is_meant_with_our_interface() {
        let mut resource = resource("", "", "");
        resource.peers[0].my_address.host = "fe80::1%lo".into();
        resource.peers[0].address.host = "fe80::2%theirs0".into();
        let surroundings = Surroundings { nbd: Vec::new(), configuration: PathBuf::new(), direct: true, seed: [7; 32] };
        let spec = specification(&resource, surroundings).unwrap();
        assert_eq!(spec.peers[0].mine.to_string(), "[fe80::1%1]:7789");
        assert_eq!(spec.peers[0].peer.to_string(), "[fe80::2%1]:7788");
    }

    #[test]
    fn every_policy_of_the_configuration_has_a_number_on_the_wire() {
        use crate::config::{AfterSb0Pri, AfterSb1Pri, AfterSb2Pri};
        for word in [AfterSb0Pri::WORDS, AfterSb1Pri::WORDS, AfterSb2Pri::WORDS].concat() {
            assert_eq!(after_split_brain(word).to_string(), word);
        }
    }

    #[test]
    fn the_strictest_fencing_of_the_volumes_counts_and_handlers_come_along() {
        let handlers = "handlers { fence-peer \"/bin/fence now\"; quorum-lost x; outdate-peer y; }";
        let fencing = |resource: &Resource| settings(resource, [0; 32]).unwrap().peers[0].fencing;
        let mut both = resource("", "fencing resource-only;", handlers);
        assert_eq!(fencing(&both), Fencing::ResourceOnly);
        assert_eq!(fencing(&resource("fencing resource-and-stonith;", "", "")), Fencing::ResourceAndStonith);
        both.handlers.insert("fence-peer".into(), "z".into());
        let expected = BTreeMap::from([(Handler::FencePeer, "z".to_owned())]);
        assert_eq!(settings(&both, [0; 32]).unwrap().handlers, expected);
        let mixed =
            "volume 2 { device minor 5; disk /dev/c; meta-disk internal; disk { fencing resource-and-stonith; } }";
        assert_eq!(fencing(&resource("", "fencing resource-only;", mixed)), Fencing::ResourceAndStonith);
    }

    #[test]
    fn authentication_needs_algorithm_and_secret() {
        let resource = resource("cram-hmac-alg sha256; shared-secret \"a b\"; data-integrity-alg crc32c;", "", "");
        let settings = settings(&resource, [0; 32]).unwrap();
        assert_eq!(settings.peers[0].authentication, Some((HmacAlgorithm::Sha256, b"a b".to_vec())));
        assert_eq!(settings.peers[0].integrity, Some(DigestAlgorithm::Crc32c));
    }
}

//! What was written: the tree of a configuration, with places, before any inheritance.

use super::error::Place;
use super::options::{OptionSpec, Section};
use super::value::Address;

/// An option as it was written.
#[derive(Clone, Debug)]
pub struct OptionLine {
    /// Its row of the table.
    pub spec: &'static OptionSpec,
    /// Its value without quotes; `yes` and `no` for booleans, empty for flags.
    pub value: String,
    /// Where.
    pub place: Place,
}

/// Options of one kind, wherever they stand.
#[derive(Clone, Debug, Default)]
pub struct Options(pub Vec<OptionLine>);

impl Options {
    /// The line that counts for `name`: the last one.
    #[must_use]
    pub fn line(&self, name: &str) -> Option<&OptionLine> {
        self.0.iter().rev().find(|line| line.spec.name == name)
    }
}

/// The sections that both `common` and a resource have.
#[derive(Clone, Debug, Default)]
pub struct Sections {
    /// `options { }`
    pub options: Options,
    /// `net { }`
    pub net: Options,
    /// `disk { }`
    pub disk: Options,
    /// `startup { }`
    pub startup: Options,
    /// `proxy { }`
    pub proxy: Proxy,
    /// `handlers { }`
    pub handlers: Options,
}

impl Sections {
    /// The options of a section; the global section is elsewhere.
    pub(super) fn of(&self, section: Section) -> Option<&Options> {
        match section {
            Section::Global => None,
            Section::Options => Some(&self.options),
            Section::Net => Some(&self.net),
            Section::Disk => Some(&self.disk),
            Section::Startup => Some(&self.startup),
            Section::Proxy => Some(&self.proxy.options),
            Section::Handlers => Some(&self.handlers),
        }
    }
}

/// `proxy { options; plugin { … } }`
#[derive(Clone, Debug, Default)]
pub struct Proxy {
    /// Its options.
    pub options: Options,
    /// Its plugins: words of each line.
    pub plugins: Vec<Vec<String>>,
    /// Where the first of them stands.
    pub plugin_place: Option<Place>,
}

/// A resource as it was written.
#[derive(Clone, Debug)]
pub struct ResourceConfig {
    /// Its name.
    pub name: String,
    /// Where its name stands.
    pub place: Place,
    /// Its sections.
    pub sections: Sections,
    /// The file it takes defaults from, and what stands there.
    pub template: Option<(String, Box<Sections>)>,
    /// Volumes that all hosts share.
    pub volumes: Vec<VolumeConfig>,
    /// Its hosts.
    pub hosts: Vec<HostConfig>,
    /// Its connections.
    pub connections: Vec<ConnectionConfig>,
    /// Its meshes.
    pub meshes: Vec<MeshConfig>,
}

/// A volume, on a host or shared.
#[derive(Clone, Debug)]
pub struct VolumeConfig {
    /// Its number.
    pub number: u16,
    /// Written without a `volume` block.
    pub implicit: bool,
    /// Where.
    pub place: Place,
    /// The device.
    pub device: Option<DeviceConfig>,
    /// The backing device, or `none`.
    pub disk: Option<Located<String>>,
    /// Where metadata lives.
    pub meta: Option<Located<MetaConfig>>,
    /// `disk { }` within the volume.
    pub disk_options: Options,
    /// `tiebreaker`
    pub tiebreaker: Option<bool>,
}

impl VolumeConfig {
    pub(super) fn new(number: u16, implicit: bool, place: Place) -> Self {
        let disk_options = Options::default();
        Self { number, implicit, place, device: None, disk: None, meta: None, disk_options, tiebreaker: None }
    }
}

/// Something with its place.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// The thing.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

/// `device NAME minor N;`
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// The name as written, with `/dev/`.
    pub name: Option<String>,
    /// The minor, written or taken from the name.
    pub minor: u32,
    /// Where.
    pub place: Place,
}

/// `meta-disk` or `flexible-meta-disk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaConfig {
    /// `internal`
    Internal,
    /// A device.
    Device(String),
    /// A slot of a device.
    Slot(String, u8),
}

/// Which machines a host section is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostKind {
    /// `on NAME…`
    On(Vec<String>),
    /// `floating ADDRESS`
    Floating,
    /// `stacked-on-top-of RESOURCE`
    Stacked(String),
}

/// A host section.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Whom it is for.
    pub kind: HostKind,
    /// Where.
    pub place: Place,
    /// `address`
    pub address: Option<Located<Address>>,
    /// `node-id`
    pub node_id: Option<Located<u8>>,
    /// Its volumes.
    pub volumes: Vec<VolumeConfig>,
    /// `options { }` for this node alone.
    pub options: Options,
    /// `proxy on … { }`
    pub proxy: Option<HostProxy>,
}

impl HostConfig {
    /// A name for people.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.kind {
            HostKind::On(names) => names.join(" "),
            HostKind::Stacked(lower) => lower.clone(),
            HostKind::Floating => self.address.as_ref().map(|address| address.value.to_string()).unwrap_or_default(),
        }
    }

    /// Whether `connection` and `connection-mesh` mean this host by `name`.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        match &self.kind {
            HostKind::On(names) => names.iter().any(|own| own == name),
            HostKind::Stacked(lower) => lower == name,
            HostKind::Floating => self.address.as_ref().is_some_and(|address| {
                let address = &address.value;
                name == address.to_string()
                    || name == format!("{}:{}", address.host, address.port)
                    || name == format!("{}:[{}]:{}", address.family, address.host, address.port)
                    || name == format!("{}:{}:{}", address.family, address.host, address.port)
            }),
        }
    }
}

/// `proxy on HOST… { inside A; outside A; }`
#[derive(Clone, Debug)]
pub struct HostProxy {
    /// Where the proxy runs.
    pub hosts: Vec<String>,
    /// Its address toward us.
    pub inside: Option<Address>,
    /// Its address toward the peer.
    pub outside: Option<Address>,
    /// Its own options.
    pub options: Proxy,
}

/// One end of a connection or path.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// The host.
    pub host: String,
    /// Where.
    pub place: Place,
    /// An address other than the host's.
    pub address: Option<Address>,
    /// A port other than the host's.
    pub port: Option<u16>,
    /// The proxy on the way.
    pub proxy: Option<HostProxy>,
}

impl EndpointConfig {
    /// The address that is written here, or follows from a port that is; `None` where that of the host holds.
    #[must_use]
    pub fn own_address(&self, host: &HostConfig) -> Option<Address> {
        let port_alone = self.port.and(host.address.as_ref()).map(|address| address.value.clone());
        let mut address = self.address.clone().or(port_alone)?;
        address.port = self.port.unwrap_or(address.port);
        Some(address)
    }
}

/// A connection.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// Where.
    pub place: Place,
    /// Its paths; each has two ends. The first may stand without a `path` block.
    pub paths: Vec<PathConfig>,
    /// `net { }`
    pub net: Options,
    /// `disk { }`
    pub disk: Options,
    /// `volume N { disk { } }`
    pub volumes: Vec<(u16, Options)>,
}

/// A path of a connection.
#[derive(Clone, Debug)]
pub struct PathConfig {
    /// Written without a `path` block.
    pub implicit: bool,
    /// Its ends.
    pub ends: Vec<EndpointConfig>,
}

/// `connection-mesh`
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// Where.
    pub place: Place,
    /// Its hosts.
    pub hosts: Vec<Located<String>>,
    /// `net { }`
    pub net: Options,
    /// `disk { }`
    pub disk: Options,
    /// `volume N { disk { } }`
    pub volumes: Vec<(u16, Options)>,
}

/// Everything that was written.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// `global { }`
    pub global: Option<Options>,
    /// `common { }`
    pub common: Option<Sections>,
    /// Versions that a kernel module would need: the statement, and where it stands.
    pub module_versions: Vec<Located<String>>,
    /// Resources in the order of the files.
    pub resources: Vec<ResourceConfig>,
}

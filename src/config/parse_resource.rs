//! The body of `resource`: hosts, volumes, connections, addresses.

use super::error::{ConfigError, ConfigErrorKind, Place};
use super::files::Files;
use super::lexer::TokenKind;
use super::options::Section;
use super::parse::{self, Cursor, expected, unknown};
use super::syntax::{
    ConnectionConfig, DeviceConfig, EndpointConfig, HostConfig, HostKind, HostProxy, Located, MeshConfig, MetaConfig,
    Options, PathConfig, Proxy, ResourceConfig, Sections, VolumeConfig,
};
use super::value::{Address, Family};
use crate::model::ids::NodeId;

/// Highest volume number of the wire protocol's 16 bits that DRBD uses.
const VOLUME_MAX: u16 = 65_534;
/// Minors have 20 bits.
const MINOR_MAX: u32 = (1 << 20) - 1;
const VOLUME_WORDS: [&str; 4] = ["device", "disk", "meta-disk", "flexible-meta-disk"];
const RESOURCE_WORDS: [&str; 18] = [
    "protocol",
    "on",
    "floating",
    "stacked-on-top-of",
    "ignore-on",
    "connection",
    "connection-mesh",
    "volume",
    "device",
    "disk",
    "meta-disk",
    "net",
    "options",
    "startup",
    "handlers",
    "proxy",
    "syncer",
    "template-file",
];

impl Cursor {
    /// `resource` is taken.
    pub(super) fn resource(&mut self, files: &dyn Files, path: &str) -> Result<ResourceConfig, ConfigError> {
        let (name, place) = self.word("a resource name")?;
        if name.is_empty() || name.len() >= 128 || name.chars().any(char::is_control) {
            let rule = "a resource name has 1 to 127 bytes and no control characters";
            self.errors.push(ConfigError::new(&place, ConfigErrorKind::Rule(rule)));
        }
        let mut resource = ResourceConfig {
            name,
            place,
            sections: Sections::default(),
            template: None,
            volumes: Vec::new(),
            hosts: Vec::new(),
            connections: Vec::new(),
            meshes: Vec::new(),
        };
        let mut seen = Vec::new();
        self.sign('{')?;
        while !self.take('}') {
            let (word, place) = self.word("a section of the resource or '}'")?;
            self.resource_item(&mut resource, &mut seen, &word, place, (files, path))?;
        }
        resource.volumes.sort_by_key(|volume| volume.number);
        Ok(resource)
    }

    fn resource_item(
        &mut self,
        resource: &mut ResourceConfig,
        seen: &mut Vec<(String, Place)>,
        word: &str,
        place: Place,
        (files, path): (&dyn Files, &str),
    ) -> Result<(), ConfigError> {
        match word {
            "skip" => self.skip()?,
            "on" => resource.hosts.push(self.on(place)?),
            "floating" => resource.hosts.push(self.floating(place)?),
            "stacked-on-top-of" => resource.hosts.push(self.stacked(place)?),
            "ignore-on" => {
                self.word("a host name")?;
                self.sign(';')?;
            }
            "connection" => resource.connections.push(self.connection(place)?),
            "connection-mesh" => resource.meshes.push(self.mesh(place)?),
            "template-file" => {
                let (name, at) = self.word("a file name")?;
                self.sign(';')?;
                let name = parse::beside(path, &name);
                let sections = parse::template(files, &name, &at, &mut self.errors)?;
                resource.template = Some((name, Box::new(sections)));
            }
            _ if self.volume_item(&mut resource.volumes, word, &place)? => {}
            _ if self.section(word, &place, &mut resource.sections, seen)? => {}
            _ => {
                let section = format!("resource {:?}", resource.name);
                return Err(unknown(&place, word, &section, RESOURCE_WORDS.into_iter()));
            }
        }
        Ok(())
    }

    fn host(place: Place, kind: HostKind) -> HostConfig {
        let options = Options::default();
        HostConfig { kind, place, address: None, node_id: None, volumes: Vec::new(), options, proxy: None }
    }

    fn on(&mut self, place: Place) -> Result<HostConfig, ConfigError> {
        let names = self.names_before_block()?;
        let mut host = Self::host(place, HostKind::On(names));
        self.host_body(&mut host)?;
        Ok(host)
    }

    fn names_before_block(&mut self) -> Result<Vec<String>, ConfigError> {
        let mut names = vec![self.word("a host name")?.0];
        while matches!(self.peek(), TokenKind::Word(..)) {
            names.push(self.word("a host name")?.0);
        }
        Ok(names)
    }

    fn floating(&mut self, place: Place) -> Result<HostConfig, ConfigError> {
        let mut host = Self::host(place, HostKind::Floating);
        let at = self.place();
        host.address = Some(Located { value: self.address()?, place: at });
        if !self.take(';') {
            self.host_body(&mut host)?;
        }
        Ok(host)
    }

    fn stacked(&mut self, place: Place) -> Result<HostConfig, ConfigError> {
        let (lower, _) = self.word("the lower resource")?;
        let mut host = Self::host(place, HostKind::Stacked(lower));
        self.host_body(&mut host)?;
        Ok(host)
    }

    fn host_body(&mut self, host: &mut HostConfig) -> Result<(), ConfigError> {
        self.sign('{')?;
        while !self.take('}') {
            let (word, place) = self.word("a setting of the host or '}'")?;
            match word.as_str() {
                "skip" => self.skip()?,
                "address" => self.host_address(host, place)?,
                "node-id" => self.node_id(host, place)?,
                "options" => host.options = self.options(Section::Options)?,
                "proxy" => host.proxy = Some(self.host_proxy()?),
                _ if self.volume_item(&mut host.volumes, &word, &place)? => {}
                _ => {
                    let known = VOLUME_WORDS.into_iter().chain(["address", "node-id", "options", "proxy", "volume"]);
                    return Err(unknown(&place, &word, &format!("host {}", host.name()), known));
                }
            }
        }
        host.volumes.sort_by_key(|volume| volume.number);
        Ok(())
    }

    fn host_address(&mut self, host: &mut HostConfig, place: Place) -> Result<(), ConfigError> {
        if host.kind == HostKind::Floating {
            let rule = "a floating host has its address in its head";
            return Err(ConfigError::new(&place, ConfigErrorKind::Rule(rule)));
        }
        let value = self.address()?;
        self.sign(';')?;
        if let Some(first) = &host.address {
            let kind = ConfigErrorKind::Twice { what: "address".to_owned(), first: first.place.clone() };
            self.errors.push(ConfigError::new(&place, kind));
        }
        host.address = Some(Located { value, place });
        Ok(())
    }

    fn node_id(&mut self, host: &mut HostConfig, place: Place) -> Result<(), ConfigError> {
        let value = self.small_number("node-id", u64::from(NodeId::MAX))?;
        self.sign(';')?;
        if let Some(first) = &host.node_id {
            let kind = ConfigErrorKind::Twice { what: "node-id".to_owned(), first: first.place.clone() };
            self.errors.push(ConfigError::new(&place, kind));
        }
        host.node_id = Some(Located { value: u8::try_from(value).unwrap_or(NodeId::MAX), place });
        Ok(())
    }

    /// Digits without suffix, at most `max`; a larger number is noted and becomes `max`.
    fn small_number(&mut self, what: &str, max: u64) -> Result<u64, ConfigError> {
        let (word, place) = self.word(&format!("a number from 0 to {max}"))?;
        let (option, value, range) = (what.to_owned(), word.clone(), format!("0 to {max}"));
        if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ConfigError::new(&place, ConfigErrorKind::NotANumber { option, value, range }));
        }
        match word.parse::<u64>() {
            Ok(number) if number <= max => Ok(number),
            _ => {
                self.errors.push(ConfigError::new(&place, ConfigErrorKind::OutOfRange { option, value, range }));
                Ok(max)
            }
        }
    }

    /// `volume N { }`, or a line of volume 0 without a block; `false` if `word` is neither.
    fn volume_item(&mut self, volumes: &mut Vec<VolumeConfig>, word: &str, place: &Place) -> Result<bool, ConfigError> {
        if word == "volume" {
            let volume = self.volume(place)?;
            if let Some(other) = volumes.iter().find(|other| other.number == volume.number && !other.implicit) {
                let kind =
                    ConfigErrorKind::Twice { what: format!("volume {}", volume.number), first: other.place.clone() };
                self.errors.push(ConfigError::new(place, kind));
            }
            volumes.push(volume);
            return Ok(true);
        }
        if !VOLUME_WORDS.contains(&word) || word == "disk" && self.peek() == &TokenKind::Sign('{') {
            return Ok(false);
        }
        let at = match volumes.iter().position(|volume| volume.implicit) {
            Some(at) => at,
            None => {
                volumes.push(VolumeConfig::new(0, true, place.clone()));
                volumes.len() - 1
            }
        };
        match volumes.get_mut(at) {
            Some(volume) => self.volume_line(volume, word, place),
            None => Ok(false),
        }
    }

    fn volume(&mut self, place: &Place) -> Result<VolumeConfig, ConfigError> {
        let number = self.small_number("volume", u64::from(VOLUME_MAX))?;
        let mut volume = VolumeConfig::new(u16::try_from(number).unwrap_or(VOLUME_MAX), false, place.clone());
        self.sign('{')?;
        while !self.take('}') {
            let (word, place) = self.word("a setting of the volume or '}'")?;
            match word.as_str() {
                "skip" => self.skip()?,
                "disk" if self.peek() == &TokenKind::Sign('{') => volume.disk_options = self.options(Section::Disk)?,
                "tiebreaker" => {
                    let (value, at) = self.word("yes or no")?;
                    if value != "yes" && value != "no" {
                        return Err(expected(&at, "yes or no", &TokenKind::Word(value, false)));
                    }
                    self.sign(';')?;
                    volume.tiebreaker = Some(value == "yes");
                }
                _ if self.volume_line(&mut volume, &word, &place)? => {}
                _ => {
                    let known = VOLUME_WORDS.into_iter();
                    return Err(unknown(&place, &word, &format!("volume {}", volume.number), known));
                }
            }
        }
        Ok(volume)
    }

    fn volume_line(&mut self, volume: &mut VolumeConfig, word: &str, place: &Place) -> Result<bool, ConfigError> {
        let earlier = match word {
            "device" => volume.device.as_ref().map(|device| device.place.clone()),
            "disk" => volume.disk.as_ref().map(|disk| disk.place.clone()),
            _ => volume.meta.as_ref().map(|meta| meta.place.clone()),
        };
        match word {
            "device" => volume.device = Some(self.device(place)?),
            "disk" => {
                let (value, _) = self.word("a backing device")?;
                volume.disk = Some(Located { value, place: place.clone() });
            }
            "meta-disk" => volume.meta = Some(Located { value: self.meta_disk()?, place: place.clone() }),
            "flexible-meta-disk" => {
                let (path, _) = self.word("a metadata device")?;
                let value = if path == "internal" { MetaConfig::Internal } else { MetaConfig::Device(path) };
                volume.meta = Some(Located { value, place: place.clone() });
            }
            _ => return Ok(false),
        }
        self.sign(';')?;
        if let Some(first) = earlier {
            self.errors.push(ConfigError::new(place, ConfigErrorKind::Twice { what: word.to_owned(), first }));
        }
        Ok(true)
    }

    fn device(&mut self, place: &Place) -> Result<DeviceConfig, ConfigError> {
        if self.take_word("minor") {
            let minor = self.minor()?;
            return Ok(DeviceConfig { name: None, minor, place: place.clone() });
        }
        let (name, at) = self.word("a device name or minor")?;
        let Some(short) = name.strip_prefix("/dev/").unwrap_or(&name).strip_prefix("drbd") else {
            let rule = "a device name begins with /dev/drbd or drbd";
            return Err(ConfigError::new(&at, ConfigErrorKind::Rule(rule)));
        };
        let in_name = short.parse::<u32>().ok().filter(|minor| *minor <= MINOR_MAX);
        let written = if self.take_word("minor") { Some(self.minor()?) } else { None };
        let minor = written.or(in_name).unwrap_or_else(|| {
            let rule = "the device name ends in no minor number, and none is written";
            self.errors.push(ConfigError::new(&at, ConfigErrorKind::Rule(rule)));
            0
        });
        let name = format!("/dev/drbd{short}");
        Ok(DeviceConfig { name: Some(name), minor, place: place.clone() })
    }

    fn minor(&mut self) -> Result<u32, ConfigError> {
        let minor = self.small_number("minor", u64::from(MINOR_MAX))?;
        Ok(u32::try_from(minor).unwrap_or(MINOR_MAX))
    }

    fn meta_disk(&mut self) -> Result<MetaConfig, ConfigError> {
        let (path, _) = self.word("internal or a metadata device")?;
        if path == "internal" {
            return Ok(MetaConfig::Internal);
        }
        if !self.take('[') {
            return Ok(MetaConfig::Device(path));
        }
        let slot = self.small_number("the slot of the metadata device", 255)?;
        self.sign(']')?;
        Ok(MetaConfig::Slot(path, u8::try_from(slot).unwrap_or(u8::MAX)))
    }

    /// `[family] host:port`
    pub(super) fn address(&mut self) -> Result<Address, ConfigError> {
        let family = match self.peek() {
            TokenKind::Word(word, false) => Family::from_word(word),
            _ => None,
        };
        if family.is_some() {
            self.word("an address family")?;
        }
        let at = self.place();
        let (host, is_six) =
            if self.take('[') { (self.bracketed()?, true) } else { (self.word("an address")?.0, false) };
        self.sign(':')?;
        let port_at = self.place();
        let port = self.small_number("port", u64::from(u16::MAX))?;
        let family = family.unwrap_or(if is_six { Family::Ipv6 } else { Family::Ipv4 });
        if is_six != (family == Family::Ipv6) {
            let rule = "an IPv6 address is written ipv6 [ADDRESS]:PORT, any other one without brackets";
            return Err(ConfigError::new(&at, ConfigErrorKind::Rule(rule)));
        }
        let is_valid = match family {
            Family::Ipv6 => host.split('%').next().unwrap_or_default().parse::<std::net::Ipv6Addr>().is_ok(),
            _ => host.parse::<std::net::Ipv4Addr>().is_ok(),
        };
        if !is_valid {
            self.errors.push(ConfigError::new(&at, ConfigErrorKind::Rule("this is no IP address of its family")));
        }
        if port == 0 {
            self.errors.push(ConfigError::new(&port_at, ConfigErrorKind::Rule("a port is a number from 1 to 65535")));
        }
        Ok(Address { family, host, port: u16::try_from(port).unwrap_or(u16::MAX) })
    }

    /// An IPv6 address up to its bracket; colons are tokens of their own.
    fn bracketed(&mut self) -> Result<String, ConfigError> {
        let mut host = String::new();
        loop {
            if self.take(']') {
                return Ok(host);
            } else if self.take(':') {
                host.push(':');
            } else {
                host.push_str(&self.word("an IPv6 address or ']'")?.0);
            }
        }
    }

    /// `proxy` is taken: `on HOST… { inside A; outside A; options { } }`
    fn host_proxy(&mut self) -> Result<HostProxy, ConfigError> {
        if !self.take_word("on") {
            return Err(self.wrong("on"));
        }
        let hosts = self.names_before_block()?;
        let mut proxy = HostProxy { hosts, inside: None, outside: None, options: Proxy::default() };
        self.sign('{')?;
        while !self.take('}') {
            let (word, place) = self.word("inside, outside, options or '}'")?;
            match word.as_str() {
                "inside" => proxy.inside = Some(self.address_line()?),
                "outside" => proxy.outside = Some(self.address_line()?),
                "options" => self.proxy_options(&mut proxy.options)?,
                "skip" => self.skip()?,
                _ => return Err(unknown(&place, &word, "proxy", ["inside", "outside", "options"].into_iter())),
            }
        }
        for (what, address) in [("inside", &proxy.inside), ("outside", &proxy.outside)] {
            if address.is_none() {
                let owner = format!("proxy on {}", proxy.hosts.join(" "));
                let kind = ConfigErrorKind::Missing { owner, what: what.to_owned() };
                self.errors.push(ConfigError::new(&self.place(), kind));
            }
        }
        Ok(proxy)
    }

    fn address_line(&mut self) -> Result<Address, ConfigError> {
        let address = self.address()?;
        self.sign(';')?;
        Ok(address)
    }

    fn connection(&mut self, place: Place) -> Result<ConnectionConfig, ConfigError> {
        if matches!(self.peek(), TokenKind::Word(..)) {
            self.word("a name")?;
        }
        let (net, disk) = (Options::default(), Options::default());
        let mut connection = ConnectionConfig { place, paths: Vec::new(), net, disk, volumes: Vec::new() };
        let mut seen = Vec::new();
        self.sign('{')?;
        while !self.take('}') {
            let (word, place) = self.word("a setting of the connection or '}'")?;
            match word.as_str() {
                "skip" => self.skip()?,
                "host" => {
                    let end = self.endpoint()?;
                    connection.add_implicit_end(end, &place)?;
                }
                "path" => connection.paths.push(self.path(&place)?),
                "net" => {
                    self.once("net", &place, &mut seen);
                    connection.net = self.options(Section::Net)?;
                }
                "disk" => {
                    self.once("disk", &place, &mut seen);
                    connection.disk = self.options(Section::Disk)?;
                }
                "volume" => connection.volumes.push(self.peer_volume()?),
                _ => {
                    let known = ["host", "path", "net", "disk", "volume"].into_iter();
                    return Err(unknown(&place, &word, "connection", known));
                }
            }
        }
        connection.check_ends()?;
        Ok(connection)
    }

    fn path(&mut self, place: &Place) -> Result<PathConfig, ConfigError> {
        let mut ends = Vec::new();
        self.sign('{')?;
        while !self.take('}') {
            let (word, at) = self.word("host or '}'")?;
            match word.as_str() {
                "skip" => self.skip()?,
                "host" => ends.push(self.endpoint()?),
                _ => return Err(unknown(&at, &word, "path", ["host"].into_iter())),
            }
        }
        if ends.len() == 2 {
            Ok(PathConfig { implicit: false, ends })
        } else {
            Err(ConfigError::new(place, ConfigErrorKind::Rule("a path has two ends")))
        }
    }

    fn endpoint(&mut self) -> Result<EndpointConfig, ConfigError> {
        let (mut host, place) = self.word("a host name")?;
        // A floating host is named by its address.
        if Family::from_word(&host).is_some() && matches!(self.peek(), TokenKind::Word(..) | TokenKind::Sign('[')) {
            let is_six = self.take('[');
            let address = if is_six { self.bracketed()? } else { self.word("an address")?.0 };
            host = if is_six { format!("{host} [{address}]") } else { format!("{host} {address}") };
        }
        while self.take(':') {
            host.push(':');
            host.push_str(&self.word("a port")?.0);
        }
        let mut end = EndpointConfig { host, place, address: None, port: None, proxy: None };
        if self.take_word("address") {
            end.address = Some(self.address()?);
        } else if self.take_word("port") {
            let port = self.small_number("port", u64::from(u16::MAX))?;
            end.port = Some(u16::try_from(port).unwrap_or(u16::MAX));
        }
        if self.take_word("via") {
            if !self.take_word("proxy") {
                return Err(self.wrong("proxy"));
            }
            end.proxy = Some(self.host_proxy()?);
            self.take(';');
            return Ok(end);
        }
        self.sign(';')?;
        Ok(end)
    }

    fn peer_volume(&mut self) -> Result<(u16, Options), ConfigError> {
        let number = self.small_number("volume", u64::from(VOLUME_MAX))?;
        let mut options = Options::default();
        self.sign('{')?;
        while !self.take('}') {
            let (word, place) = self.word("disk or '}'")?;
            match word.as_str() {
                "skip" => self.skip()?,
                "disk" => options = self.options(Section::Disk)?,
                _ => return Err(unknown(&place, &word, "a connection's volume", ["disk"].into_iter())),
            }
        }
        Ok((u16::try_from(number).unwrap_or(VOLUME_MAX), options))
    }

    fn mesh(&mut self, place: Place) -> Result<MeshConfig, ConfigError> {
        if matches!(self.peek(), TokenKind::Word(..)) {
            self.word("a name")?;
        }
        let (net, disk) = (Options::default(), Options::default());
        let mut mesh = MeshConfig { place, hosts: Vec::new(), net, disk, volumes: Vec::new() };
        let mut seen = Vec::new();
        self.sign('{')?;
        while !self.take('}') {
            let (word, place) = self.word("hosts, net or '}'")?;
            match word.as_str() {
                "skip" => self.skip()?,
                "hosts" => {
                    while !self.take(';') {
                        let (value, place) = self.word("a host name or ';'")?;
                        mesh.hosts.push(Located { value, place });
                    }
                }
                "net" => {
                    self.once("net", &place, &mut seen);
                    mesh.net = self.options(Section::Net)?;
                }
                _ => return Err(unknown(&place, &word, "connection-mesh", ["hosts", "net"].into_iter())),
            }
        }
        Ok(mesh)
    }
}

impl ConnectionConfig {
    fn add_implicit_end(&mut self, end: EndpointConfig, place: &Place) -> Result<(), ConfigError> {
        let rule = match self.paths.first_mut() {
            None => {
                self.paths.push(PathConfig { implicit: true, ends: vec![end] });
                return Ok(());
            }
            Some(path) if path.implicit && path.ends.len() < 2 => {
                path.ends.push(end);
                return Ok(());
            }
            Some(path) if path.implicit => "a connection has two ends",
            Some(_) => "a connection has either hosts or paths",
        };
        Err(ConfigError::new(place, ConfigErrorKind::Rule(rule)))
    }

    fn check_ends(&self) -> Result<(), ConfigError> {
        let rule = if self.paths.is_empty() {
            "a connection has two ends"
        } else if self.paths.len() > 1 && self.paths.iter().any(|path| path.implicit) {
            "a connection has either hosts or paths"
        } else if self.paths.iter().any(|path| path.ends.len() != 2) {
            "a connection has two ends"
        } else {
            return Ok(());
        };
        Err(ConfigError::new(&self.place, ConfigErrorKind::Rule(rule)))
    }
}

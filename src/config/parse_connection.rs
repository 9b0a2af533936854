//! Addresses, and what stands between hosts: connections, paths, meshes, proxies.

use super::error::{ConfigError, ConfigErrorKind, Place};
use super::lexer::TokenKind;
use super::options::Section;
use super::parse::{Cursor, unknown};
use super::parse_host::VOLUME_MAX;
use super::syntax::{ConnectionConfig, EndpointConfig, HostProxy, Located, MeshConfig, Options, PathConfig, Proxy};
use super::value::{Address, Family};

impl Cursor {
    /// `[family] host:port`
    pub(super) fn address(&mut self) -> Result<Address, ConfigError> {
        let family = match self.peek() {
            TokenKind::Word(word, false) => Family::from_name(word),
            _ => None,
        };
        if family.is_some() {
            self.word("an address family")?;
        }
        let at = self.place();
        let (host, is_six) =
            if self.take('[') { (self.bracketed()?, true) } else { (self.word("an address")?.0, false) };
        self.sign(':')?;
        let port = self.port()?;
        let family = family.unwrap_or(Family::Ipv4);
        if is_six != (family == Family::Ipv6) {
            let rule = "an IPv6 address is written ipv6 [ADDRESS]:PORT, any other one without brackets";
            return Err(ConfigError::new(&at, ConfigErrorKind::Rule(rule)));
        }
        let is_valid = match family {
            Family::Ipv6 => host.split('%').next().unwrap_or_default().parse::<core::net::Ipv6Addr>().is_ok(),
            _ => host.parse::<core::net::Ipv4Addr>().is_ok(),
        };
        if !is_valid {
            self.errors.push(ConfigError::new(&at, ConfigErrorKind::Rule("this is no IP address of its family")));
        }
        Ok(Address { family, host, port })
    }

    fn port(&mut self) -> Result<u16, ConfigError> {
        let port = self.small_number("port", 1..=u64::from(u16::MAX))?;
        Ok(u16::try_from(port).unwrap_or(u16::MAX))
    }

    /// An IPv6 address up to its bracket; colons are tokens of their own.
    fn bracketed(&mut self) -> Result<String, ConfigError> {
        let mut host = String::new();
        loop {
            if self.take(']') {
                return Ok(host);
            } else if self.take(':') {
                host.push(':');
            } else if self.take_stray('%') {
                host.push('%');
            } else {
                host.push_str(&self.word("an IPv6 address or ']'")?.0);
            }
        }
    }

    /// `proxy` is taken: `on HOST… { inside A; outside A; options { } }`
    pub(super) fn host_proxy(&mut self) -> Result<HostProxy, ConfigError> {
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

    pub(super) fn connection(&mut self, place: Place) -> Result<ConnectionConfig, ConfigError> {
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
        if let Some(family) = Family::from_name(&host)
            && matches!(self.peek(), TokenKind::Word(..) | TokenKind::Sign('['))
        {
            host = family.to_string();
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
            let port = self.port()?;
            end.port = Some(port);
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
        let number = self.small_number("volume", 0..=u64::from(VOLUME_MAX))?;
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

    pub(super) fn mesh(&mut self, place: Place) -> Result<MeshConfig, ConfigError> {
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

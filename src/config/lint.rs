//! What a configuration says that has no effect here, is not served, or is legal and probably not meant.
//!
//! Single lines are looked at where they stand; what options mean together (`relations`) also through inheritance. What is
//! served besides options comes from the caller as plain values ([`Served`]).

mod relations;

use super::error::Place;
use super::options::Section;
use super::resolve;
use super::syntax::{ConnectionConfig, Document, HostKind, OptionLine, Options, Proxy, ResourceConfig, Sections};
use super::value::Family;

/// What the product serves, as far as a configuration can ask for more.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// Peers of one resource.
    pub peers_max: usize,
    /// Names of digests for `cram-hmac-alg`.
    pub macs: Vec<&'static str>,
    /// Names of digests for `csums-alg` and `data-integrity-alg`.
    pub digests: Vec<&'static str>,
}

/// Options that nobody acts on and whose default says something else than what happens: they are named also where the
/// default is written.
const DEFAULTS_NOT_KEPT: &[(Section, &str)] = &[
    (Section::Options, "auto-promote"),
    (Section::Options, "auto-promote-timeout"),
    (Section::Options, "max-io-depth"),
    (Section::Options, "peer-ack-window"),
    (Section::Options, "peer-ack-delay"),
    (Section::Options, "twopc-timeout"),
    (Section::Options, "twopc-retry-timeout"),
    (Section::Net, "unplug-watermark"),
    (Section::Startup, "wfc-timeout"),
    (Section::Startup, "degr-wfc-timeout"),
    (Section::Startup, "outdated-wfc-timeout"),
];

/// One remark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// The file.
    pub file: String,
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
    /// The remark.
    pub sentence: String,
}

impl std::fmt::Display for Lint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.sentence)
    }
}

/// All remarks about a document, or about what one of its resources means, in the order of its parts.
pub(super) fn document(document: &Document, only: Option<&str>, served: &Served) -> Vec<Lint> {
    let mut lints = Lints { found: Vec::new(), served };
    for requirement in &document.module_versions {
        lints.say(&requirement.place, format!("{} is not checked: there is no kernel module", requirement.value));
    }
    if let Some(global) = &document.global {
        lints.options(global);
    }
    if let Some(common) = &document.common {
        lints.sections(common);
    }
    let is_meant = |resource: &&ResourceConfig| only.is_none_or(|name| resource.name == name);
    for resource in document.resources.iter().filter(is_meant) {
        lints.resource(document, resource);
    }
    relations::document(document, only, &mut lints);
    lints.found
}

struct Lints<'a> {
    found: Vec<Lint>,
    served: &'a Served,
}

impl Lints<'_> {
    fn say(&mut self, place: &Place, sentence: String) {
        self.found.push(Lint { file: place.file.to_string(), line: place.line, column: place.column, sentence });
    }

    /// As `say`; what many resources inherit is said once.
    fn say_once(&mut self, place: &Place, sentence: String) {
        let lint = Lint { file: place.file.to_string(), line: place.line, column: place.column, sentence };
        if !self.found.contains(&lint) {
            self.found.push(lint);
        }
    }

    fn option(&mut self, line: &OptionLine) {
        let (name, section, value) = (line.spec.name, line.spec.section, line.value.as_str());
        let is_default = line.spec.default == Some(value) && !DEFAULTS_NOT_KEPT.contains(&(section, name));
        match (section, name, value) {
            (Section::Handlers, ..) if !line.spec.effect => {
                self.say(&line.place, format!("handler {name} is not called yet"))
            }
            // Nothing is ever reported, so this is what happens.
            (Section::Global, "usage-count", "no") => {}
            (Section::Net, "cram-hmac-alg", _) => self.algorithm(line, &self.served.macs),
            (Section::Net, "verify-alg", _) => self.verify_algorithm(line),
            (Section::Net, "csums-alg" | "data-integrity-alg", _) => self.algorithm(line, &self.served.digests),
            _ if !line.spec.effect && !is_default => {
                self.say(&line.place, format!("{name} in section {} has no effect yet", section.keyword()));
            }
            _ => {}
        }
    }

    fn algorithm(&mut self, line: &OptionLine, known: &[&str]) {
        if !line.value.is_empty() && !known.contains(&line.value.as_str()) {
            let (name, known) = (line.spec.name, known.join(", "));
            self.say(
                &line.place,
                format!("{name} {} is not served, and keeps the resource down; served are {known}", line.value),
            );
        }
    }

    /// The nodes only have to name the same one to connect.
    fn verify_algorithm(&mut self, line: &OptionLine) {
        let known = &self.served.digests;
        if !line.value.is_empty() && !known.contains(&line.value.as_str()) {
            let sentence = format!(
                "verify-alg {} is not served: no verify can begin; served are {}",
                line.value,
                known.join(", ")
            );
            self.say(&line.place, sentence);
        }
    }

    fn proxy(&mut self, proxy: &Proxy) {
        if let Some(place) = &proxy.plugin_place {
            self.say(place, "plugins of the proxy have no effect yet".to_owned());
        }
    }

    fn options(&mut self, options: &Options) {
        for (at, line) in options.0.iter().enumerate() {
            self.option(line);
            let later = options.0.iter().skip(at + 1).find(|later| later.spec.name == line.spec.name);
            if let Some(later) = later {
                self.say(
                    &line.place,
                    format!("{} is written again at {}; the last one counts", line.spec.name, later.place),
                );
            }
        }
    }

    fn sections(&mut self, sections: &Sections) {
        for section in Section::ALL {
            if let Some(options) = sections.of(*section) {
                self.options(options);
            }
        }
        self.proxy(&sections.proxy);
    }

    fn resource(&mut self, document: &Document, resource: &ResourceConfig) {
        self.sections(&resource.sections);
        if let Some((_, template)) = &resource.template {
            self.sections(template);
        }
        for host in &resource.hosts {
            self.options(&host.options);
            if let HostKind::Stacked(lower) = &host.kind {
                self.say(
                    &host.place,
                    format!("resource {} is stacked on {lower}; stacking is not served", resource.name),
                );
            }
            if host.proxy.is_some() {
                self.say(&host.place, format!("the proxy of host {} is not used", host.name()));
            }
            if let Some(address) = &host.address
                && matches!(address.value.family, Family::Sdp | Family::Ssocks)
            {
                self.say(&address.place, format!("addresses of family {} are not served", address.value.family));
            }
        }
        for volume in resource.volumes.iter().chain(resource.hosts.iter().flat_map(|host| &host.volumes)) {
            self.options(&volume.disk_options);
            if volume.tiebreaker.is_some() {
                self.say(&volume.place, format!("tiebreaker of volume {} has no effect yet", volume.number));
            }
        }
        resource.connections.iter().for_each(|connection| self.connection(connection));
        resource.meshes.iter().for_each(|mesh| self.options(&mesh.net));
        self.peers(document, resource);
    }

    fn connection(&mut self, connection: &ConnectionConfig) {
        self.options(&connection.net);
        self.options(&connection.disk);
        connection.volumes.iter().for_each(|(_, options)| self.options(options));
        for path in connection.paths.iter().skip(1) {
            if let Some(end) = path.ends.first() {
                self.say(&end.place, "only the first path of a connection is used; this one is not".to_owned());
            }
        }
        for end in connection.paths.iter().flat_map(|path| &path.ends).filter(|end| end.proxy.is_some()) {
            self.say(&end.place, format!("the proxy of host {} is not used", end.host));
        }
    }

    /// What a host would be refused when the resource comes up there.
    fn peers(&mut self, document: &Document, resource: &ResourceConfig) {
        let hosts = resource.hosts.iter().filter(|host| !matches!(host.kind, HostKind::Stacked(_)));
        for host in hosts {
            let name = match &host.kind {
                HostKind::On(names) => names.first().cloned().unwrap_or_default(),
                _ => host.name(),
            };
            match resolve::resource(document, &resource.name, &name, &[]) {
                Ok(resolved) if resolved.peers.len() > self.served.peers_max => {
                    let (count, max) = (resolved.peers.len(), self.served.peers_max);
                    let sentence = format!(
                        "host {name} of resource {} replicates with {count} peers, and does not come up: {max} is served",
                        resource.name
                    );
                    self.say(&host.place, sentence);
                }
                Ok(resolved) if resolved.peers.is_empty() && resource.hosts.len() > 1 => {
                    let sentence =
                        format!("host {name} of resource {} has no connection: it runs alone", resource.name);
                    self.say(&host.place, sentence);
                }
                Err(error) if error.is_fault() => return self.say(&resource.place, error.to_string()),
                _ => {}
            }
        }
    }
}

//! What a configuration says that has no effect here, or is legal and probably not meant.
//!
//! Single lines are looked at where they stand; what options mean together (`relations`) also through inheritance.

mod relations;

use super::error::Place;
use super::options::Section;
use super::syntax::{Document, HostKind, OptionLine, Options, ResourceConfig, Sections};
use super::value::Family;

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

/// All remarks about a document, in the order of its parts.
pub(super) fn document(document: &Document) -> Vec<Lint> {
    let mut lints = Lints(Vec::new());
    // Global options are about the tools; whoever keeps them loses nothing.
    if let Some(common) = &document.common {
        lints.sections(common);
    }
    for resource in &document.resources {
        lints.resource(resource);
    }
    relations::document(document, &mut lints);
    lints.0
}

struct Lints(Vec<Lint>);

impl Lints {
    fn say(&mut self, place: &Place, sentence: String) {
        self.0.push(Lint { file: place.file.to_string(), line: place.line, column: place.column, sentence });
    }

    /// As `say`; what many resources inherit is said once.
    fn say_once(&mut self, place: &Place, sentence: String) {
        let lint = Lint { file: place.file.to_string(), line: place.line, column: place.column, sentence };
        if !self.0.contains(&lint) {
            self.0.push(lint);
        }
    }

    fn option(&mut self, line: &OptionLine) {
        let (name, section) = (line.spec.name, line.spec.section);
        if section == Section::Handlers {
            self.say(&line.place, format!("handler {name} is not called yet"));
        } else if !line.spec.effect && line.spec.default != Some(line.value.as_str()) {
            self.say(&line.place, format!("{name} in section {} has no effect yet", section.keyword()));
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
    }

    fn resource(&mut self, resource: &ResourceConfig) {
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
        }
        for connection in &resource.connections {
            self.options(&connection.net);
            self.options(&connection.disk);
            connection.volumes.iter().for_each(|(_, options)| self.options(options));
        }
        resource.meshes.iter().for_each(|mesh| self.options(&mesh.net));
        let is_unwritten = resource.connections.is_empty() && resource.meshes.is_empty();
        if is_unwritten && resource.hosts.len() > 2 {
            let sentence = format!("resource {} has more than two hosts and no connection between them", resource.name);
            self.say(&resource.place, sentence);
        }
    }
}

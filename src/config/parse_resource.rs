//! The body of `resource`.

use super::error::{ConfigError, ConfigErrorKind, Place};
use super::files::Files;
use super::parse::{self, Cursor, unknown};
use super::syntax::{ResourceConfig, Sections};

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
        let (name, place) = self.name("a resource name")?;
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
                // A dump is read elsewhere than where it was made.
                resource.template = Some((files.canonical(&name), Box::new(sections)));
            }
            _ if self.volume_item(&mut resource.volumes, word, &place)? => {}
            _ if self.section(word, &place, &mut resource.sections, seen)? => {}
            _ => {
                let section = format!("resource {:?}", resource.name);
                if let Some(error) = parse::misplaced(word, &section, &place) {
                    return Err(error);
                }
                return Err(unknown(&place, word, &section, RESOURCE_WORDS.into_iter()));
            }
        }
        Ok(())
    }
}

//! Host sections and volumes: who has which device, disk and metadata.

use std::ops::RangeInclusive;

use super::error::{ConfigError, ConfigErrorKind, Place};
use super::lexer::TokenKind;
use super::options::Section;
use super::parse::{Cursor, expected, unknown};
use super::syntax::{DeviceConfig, HostConfig, HostKind, Located, MetaConfig, Options, VolumeConfig};
use crate::model::ids::NodeId;

/// Highest volume number: the wire protocol has 16 bits for it.
pub(super) const VOLUME_MAX: u16 = u16::MAX;
/// Minors have 20 bits.
const MINOR_MAX: u32 = (1 << 20) - 1;
const VOLUME_WORDS: [&str; 4] = ["device", "disk", "meta-disk", "flexible-meta-disk"];

impl Cursor {
    fn host(place: Place, kind: HostKind) -> HostConfig {
        let options = Options::default();
        HostConfig { kind, place, address: None, node_id: None, volumes: Vec::new(), options, proxy: None }
    }

    pub(super) fn on(&mut self, place: Place) -> Result<HostConfig, ConfigError> {
        let names = self.names_before_block()?;
        let mut host = Self::host(place, HostKind::On(names));
        self.host_body(&mut host)?;
        Ok(host)
    }

    pub(super) fn names_before_block(&mut self) -> Result<Vec<String>, ConfigError> {
        let mut names = vec![self.name("a host name")?.0];
        while matches!(self.peek(), TokenKind::Word(..)) {
            names.push(self.name("a host name")?.0);
        }
        Ok(names)
    }

    pub(super) fn floating(&mut self, place: Place) -> Result<HostConfig, ConfigError> {
        let mut host = Self::host(place, HostKind::Floating);
        let at = self.place();
        host.address = Some(Located { value: self.address()?, place: at });
        if !self.take(';') {
            self.host_body(&mut host)?;
        }
        Ok(host)
    }

    pub(super) fn stacked(&mut self, place: Place) -> Result<HostConfig, ConfigError> {
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
        let value = self.small_number("node-id", 0..=u64::from(NodeId::MAX))?;
        self.sign(';')?;
        if let Some(first) = &host.node_id {
            let kind = ConfigErrorKind::Twice { what: "node-id".to_owned(), first: first.place.clone() };
            self.errors.push(ConfigError::new(&place, kind));
        }
        host.node_id = Some(Located { value: u8::try_from(value).unwrap_or(NodeId::MAX), place });
        Ok(())
    }

    /// Digits without suffix; a number that is not allowed is noted and becomes the largest one.
    pub(super) fn small_number(&mut self, what: &str, allowed: RangeInclusive<u64>) -> Result<u64, ConfigError> {
        let (word, place) = self.word(&format!("a number from {} to {}", allowed.start(), allowed.end()))?;
        let (option, value) = (what.to_owned(), word.clone());
        let range = format!("{} to {}", allowed.start(), allowed.end());
        if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ConfigError::new(&place, ConfigErrorKind::NotANumber { option, value, range }));
        }
        match word.parse::<u64>() {
            Ok(number) if allowed.contains(&number) => Ok(number),
            _ => {
                self.errors.push(ConfigError::new(&place, ConfigErrorKind::OutOfRange { option, value, range }));
                Ok(*allowed.end())
            }
        }
    }

    /// `volume N { }`, or a line of volume 0 without a block; `false` if `word` is neither.
    pub(super) fn volume_item(
        &mut self,
        volumes: &mut Vec<VolumeConfig>,
        word: &str,
        place: &Place,
    ) -> Result<bool, ConfigError> {
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
        let number = self.small_number("volume", 0..=u64::from(VOLUME_MAX))?;
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
        if let (Some(in_name), Some(written)) = (in_name, written)
            && in_name != written
        {
            let rule =
                "the device name ends in another minor number than the one that is written; leave one of them off";
            self.errors.push(ConfigError::new(&at, ConfigErrorKind::Rule(rule)));
        }
        let name = format!("/dev/drbd{short}");
        Ok(DeviceConfig { name: Some(name), minor, place: place.clone() })
    }

    fn minor(&mut self) -> Result<u32, ConfigError> {
        let minor = self.small_number("minor", 0..=u64::from(MINOR_MAX))?;
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
        let slot = self.small_number("the slot of the metadata device", 0..=255)?;
        self.sign(']')?;
        Ok(MetaConfig::Slot(path, u8::try_from(slot).unwrap_or(u8::MAX)))
    }
}

//! Rules about the whole configuration: what must be unique, what must exist, what hosts must agree on.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{ConfigError, ConfigErrorKind, Place};
use super::syntax::{
    ConnectionConfig, Document, HostConfig, HostKind, Located, MetaConfig, ResourceConfig, VolumeConfig,
};
use super::value::Address;

/// All faults of a document whose single values are right.
pub(super) fn document(document: &Document) -> Vec<ConfigError> {
    let resources = document.resources.iter().map(|resource| resource.name.as_str()).collect();
    let mut checker = Checker { errors: Vec::new(), used: BTreeMap::new(), addresses: BTreeMap::new(), resources };
    let mut names: BTreeMap<&str, &Place> = BTreeMap::new();
    for resource in &document.resources {
        match names.insert(&resource.name, &resource.place) {
            Some(first) => checker.twice(&resource.place, format!("resource {:?}", resource.name), first),
            None => checker.resource(resource),
        }
    }
    checker.errors
}

/// The volumes of a host: its own settings over those all hosts share, by number.
pub(super) fn volumes_of(resource: &ResourceConfig, host: &HostConfig) -> Vec<VolumeConfig> {
    let mut volumes: BTreeMap<u16, VolumeConfig> = BTreeMap::new();
    for shared in &resource.volumes {
        volumes.insert(shared.number, shared.clone());
    }
    for own in &host.volumes {
        let Some(volume) = volumes.get_mut(&own.number) else {
            volumes.insert(own.number, own.clone());
            continue;
        };
        volume.place = own.place.clone();
        volume.implicit = own.implicit;
        volume.device = own.device.clone().or(volume.device.take());
        volume.disk = own.disk.clone().or(volume.disk.take());
        volume.meta = own.meta.clone().or(volume.meta.take());
        volume.disk_options.0.extend(own.disk_options.0.iter().cloned());
    }
    volumes.into_values().collect()
}

/// Who uses an address.
#[derive(Clone, Copy)]
struct AddressUse<'a> {
    resource: &'a ResourceConfig,
    host: &'a HostConfig,
    place: &'a Place,
    /// Only the proxy on the host's own side speaks to it.
    is_proxied: bool,
}

struct Checker<'a> {
    errors: Vec<ConfigError>,
    /// Host and thing to its first user.
    used: BTreeMap<(String, String), (String, Place)>,
    addresses: BTreeMap<Address, Vec<AddressUse<'a>>>,
    /// The names of all resources.
    resources: BTreeSet<&'a str>,
}

impl<'a> Checker<'a> {
    fn report(&mut self, place: &Place, kind: ConfigErrorKind) {
        self.errors.push(ConfigError::new(place, kind));
    }

    fn twice(&mut self, place: &Place, what: String, first: &Place) {
        self.report(place, ConfigErrorKind::Twice { what, first: first.clone() });
    }

    fn resource(&mut self, resource: &'a ResourceConfig) {
        let mut names: BTreeMap<&str, &Place> = BTreeMap::new();
        let mut node_ids: BTreeMap<u8, &Place> = BTreeMap::new();
        for host in &resource.hosts {
            if let HostKind::On(own) = &host.kind {
                for name in own {
                    if let Some(first) = names.insert(name, &host.place) {
                        self.twice(&host.place, format!("host {name} of resource {}", resource.name), first);
                    }
                }
            }
            if let Some(Located { value, place }) = &host.node_id
                && let Some(first) = node_ids.insert(*value, place)
            {
                self.twice(place, format!("node-id {value} of resource {}", resource.name), first);
            }
            if let HostKind::Stacked(lower) = &host.kind
                && !self.resources.contains(lower.as_str())
            {
                let (owner, name) = (format!("resource {}", resource.name), lower.clone());
                self.report(&host.place, ConfigErrorKind::Dangling { owner, name, what: "resource to be stacked on" });
            }
            self.needs(resource, host);
            if let Some(Located { value, place }) = &host.address {
                self.address(value, AddressUse { resource, host, place, is_proxied: host.proxy.is_some() });
            }
            self.volumes(resource, host);
        }
        self.same_volumes(resource);
        self.connections(resource);
    }

    /// What a host must have because of the others.
    fn needs(&mut self, resource: &ResourceConfig, host: &HostConfig) {
        let owner = || format!("host {} of resource {}", host.name(), resource.name);
        let is_numbered = resource.hosts.iter().any(|other| other.node_id.is_some());
        if is_numbered && host.node_id.is_none() {
            let kind = ConfigErrorKind::Missing { owner: owner(), what: "node-id, which other hosts have".to_owned() };
            self.report(&host.place, kind);
        }
        let is_unwritten = resource.connections.is_empty() && resource.meshes.is_empty();
        let is_meshed = resource.meshes.iter().flat_map(|mesh| &mesh.hosts).any(|name| host.is_named(&name.value));
        let is_reached = is_meshed || is_unwritten && resource.hosts.len() > 1;
        if is_reached && host.address.is_none() {
            self.report(&host.place, ConfigErrorKind::Missing { owner: owner(), what: "address".to_owned() });
        }
    }

    /// An address belongs to one resource, and there to one host; behind proxies, hosts of one resource may have the same.
    fn address(&mut self, address: &Address, new: AddressUse<'a>) {
        let users = self.addresses.entry(address.clone()).or_default();
        let conflict = users.iter().copied().find(|old| {
            let is_same_host = old.host.kind == new.host.kind;
            let is_shared = old.is_proxied && new.is_proxied;
            match std::ptr::eq(old.resource, new.resource) {
                // A host may have several connections from one address.
                true => !(is_same_host || is_shared),
                false => is_same_host || !is_shared,
            }
        });
        users.push(new);
        if let Some(old) = conflict {
            let kind = ConfigErrorKind::InUse {
                what: format!("address {address}"),
                user: format!("host {} of resource {}", new.host.name(), new.resource.name),
                other: format!("host {} of resource {}", old.host.name(), old.resource.name),
                first: old.place.clone(),
            };
            self.report(new.place, kind);
        }
    }

    fn volumes(&mut self, resource: &ResourceConfig, host: &HostConfig) {
        let volumes = volumes_of(resource, host);
        let owner = |volume: &VolumeConfig| {
            format!("volume {} of host {} of resource {}", volume.number, host.name(), resource.name)
        };
        if volumes.iter().any(|volume| volume.implicit) && volumes.iter().any(|volume| !volume.implicit) {
            self.report(
                &host.place,
                ConfigErrorKind::Rule("a host has either volume blocks or a volume without block"),
            );
        }
        for volume in &volumes {
            let is_stacked = matches!(host.kind, HostKind::Stacked(_));
            for (what, is_there) in [("device", volume.device.is_some()), ("disk", volume.disk.is_some() || is_stacked)]
            {
                if !is_there {
                    let kind = ConfigErrorKind::Missing { owner: owner(volume), what: what.to_owned() };
                    self.report(&volume.place, kind);
                }
            }
            let names = match &host.kind {
                HostKind::On(names) => names.clone(),
                HostKind::Floating => vec![host.name()],
                HostKind::Stacked(_) => Vec::new(),
            };
            for name in names {
                self.volume_uses(&name, volume, &owner(volume));
            }
        }
    }

    /// Notes what a volume uses on a host.
    fn volume_uses(&mut self, host: &str, volume: &VolumeConfig, user: &str) {
        if let Some(device) = &volume.device {
            self.uses(host, format!("minor {}", device.minor), user, &device.place);
            // A name that ends in its minor is no second thing.
            if let Some(name) = device.name.as_ref().filter(|name| **name != format!("/dev/drbd{}", device.minor)) {
                self.uses(host, format!("device {name}"), user, &device.place);
            }
        }
        if let Some(disk) = volume.disk.as_ref().filter(|disk| disk.value != "none") {
            self.uses(host, format!("disk {}", disk.value), user, &disk.place);
        }
        match &volume.meta {
            Some(Located { value: MetaConfig::Device(path), place }) => {
                self.uses(host, format!("disk {path}"), user, place);
            }
            Some(Located { value: MetaConfig::Slot(path, slot), place }) => {
                self.uses(host, format!("metadata slot {path}[{slot}]"), user, place);
            }
            _ => {}
        }
    }

    fn uses(&mut self, host: &str, what: String, user: &str, place: &Place) {
        match self.used.get(&(host.to_owned(), what.clone())) {
            Some((other, first)) => {
                let (other, first) = (other.clone(), first.clone());
                self.report(place, ConfigErrorKind::InUse { what, user: user.to_owned(), other, first });
            }
            None => {
                self.used.insert((host.to_owned(), what), (user.to_owned(), place.clone()));
            }
        }
    }

    /// All hosts have the same volumes.
    fn same_volumes(&mut self, resource: &ResourceConfig) {
        let Some((first, others)) = resource.hosts.split_first() else { return };
        let expected = volumes_of(resource, first);
        for host in others {
            let volumes = volumes_of(resource, host);
            self.missing_volumes(resource, (first, &expected), (host, &volumes));
            self.missing_volumes(resource, (host, &volumes), (first, &expected));
            let differs = |volume: &VolumeConfig| {
                expected.iter().any(|other| other.number == volume.number && other.implicit != volume.implicit)
            };
            if let Some(volume) = volumes.iter().find(|volume| differs(volume)) {
                let rule = "a volume has a block on all hosts or on none";
                self.report(&volume.place, ConfigErrorKind::Rule(rule));
            }
        }
    }

    fn missing_volumes(
        &mut self,
        resource: &ResourceConfig,
        (owner, owned): (&HostConfig, &[VolumeConfig]),
        (host, volumes): (&HostConfig, &[VolumeConfig]),
    ) {
        for volume in owned {
            if !volumes.iter().any(|other| other.number == volume.number) {
                let kind = ConfigErrorKind::VolumeMissing {
                    resource: resource.name.clone(),
                    host: host.name(),
                    volume: volume.number,
                    other: owner.name(),
                };
                self.report(&volume.place, kind);
            }
        }
    }

    fn connections(&mut self, resource: &'a ResourceConfig) {
        let is_host = |name: &str| resource.hosts.iter().any(|host| host.is_named(name));
        for connection in &resource.connections {
            self.connection(resource, connection, &is_host);
        }
        for host in resource.meshes.iter().flat_map(|mesh| &mesh.hosts) {
            if !is_host(&host.value) {
                let (owner, name) = ("connection-mesh".to_owned(), host.value.clone());
                self.report(&host.place, ConfigErrorKind::Dangling { owner, name, what: "host of the resource" });
            }
        }
    }

    fn connection(
        &mut self,
        resource: &'a ResourceConfig,
        connection: &'a ConnectionConfig,
        is_host: &impl Fn(&str) -> bool,
    ) {
        for path in &connection.paths {
            for end in &path.ends {
                if !is_host(&end.host) {
                    let (owner, name) = ("connection".to_owned(), end.host.clone());
                    self.report(&end.place, ConfigErrorKind::Dangling { owner, name, what: "host of the resource" });
                }
                let host = resource.hosts.iter().find(|host| host.is_named(&end.host));
                let Some(host) = host else { continue };
                if let Some(value) = end.own_address(host) {
                    let is_proxied = end.proxy.is_some() || host.proxy.is_some();
                    self.address(&value, AddressUse { resource, host, place: &end.place, is_proxied });
                }
            }
            if let [one, other] = path.ends.as_slice()
                && one.host == other.host
            {
                self.report(&other.place, ConfigErrorKind::Rule("both ends of the connection are the same host"));
            }
        }
        let has_volume = |number: u16| {
            resource.hosts.iter().any(|host| volumes_of(resource, host).iter().any(|volume| volume.number == number))
        };
        for (number, _) in &connection.volumes {
            if !has_volume(*number) {
                let (owner, name) = ("connection".to_owned(), format!("volume {number}"));
                self.report(
                    &connection.place,
                    ConfigErrorKind::Dangling { owner, name, what: "volume of the resource" },
                );
            }
        }
    }
}

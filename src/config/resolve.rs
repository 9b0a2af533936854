//! What a resource means on one node: which host section is ours, who the peers are, what is inherited.
//!
//! A more specific place wins: common (or the template instead of it), resource, volume, host's volume; and for a peer:
//! common, resource, mesh or connection, the connection's volume.

use core::net::IpAddr;
use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use super::check::volumes_of;
use super::error::{Place, ResolveError};
use super::fill::{self, Settings};
use super::options::Section;
use super::syntax::{
    ConnectionConfig, Document, EndpointConfig, HostConfig, HostKind, MetaConfig, Options, ResourceConfig, Sections,
    VolumeConfig,
};
use super::value::{Address, Host, MetaDisk, Peer, PeerVolume, Resource, Volume};
use crate::model::ids::{NodeId, VolumeNumber};

/// What resource `name` means on `node`, or where none of its hosts has that name, on the host that has one of `addresses`.
pub(super) fn resource(
    document: &Document,
    name: &str,
    node: &str,
    addresses: &[IpAddr],
) -> Result<Resource, ResolveError> {
    let Some(resource) = document.resources.iter().find(|resource| resource.name == name) else {
        let defined = document.resources.iter().map(|resource| resource.name.clone()).collect();
        return Err(ResolveError::UnknownResource { name: name.to_owned(), defined });
    };
    let empty = Sections::default();
    let common = match &resource.template {
        Some((_, template)) => template,
        None => document.common.as_ref().unwrap_or(&empty),
    };
    let me = own_host(resource, node, addresses)?;
    let ids = node_ids(resource)?;
    View { resource, common, me, ids }.resolve()
}

/// Whether the host name of a configuration is the node's: equal but for case; if only one has a domain, without it.
pub(super) fn is_same_host(written: &str, node: &str) -> bool {
    if written.eq_ignore_ascii_case(node) {
        return true;
    }
    match (written.split_once('.'), node.split_once('.')) {
        (Some((short, _)), None) => short.eq_ignore_ascii_case(node),
        (None, Some((short, _))) => written.eq_ignore_ascii_case(short),
        _ => false,
    }
}

/// Whether a host section is for `node`. A floating one is found by its address.
fn is_own(host: &HostConfig, node: &str) -> bool {
    match &host.kind {
        HostKind::On(names) => names.iter().any(|name| is_same_host(name, node)),
        HostKind::Floating => {
            host.is_named(node) || host.address.as_ref().is_some_and(|address| address.value.host == node)
        }
        HostKind::Stacked(_) => false,
    }
}

/// Whether a floating host has one of the node's addresses. The interface of a link-local one does not matter: no other
/// node's address is on ours.
fn is_at(host: &HostConfig, addresses: &[IpAddr]) -> bool {
    let Some(address) = host.address.as_ref().filter(|_| host.kind == HostKind::Floating) else { return false };
    let written = address.value.host.split('%').next().unwrap_or_default();
    written.parse().is_ok_and(|written: IpAddr| addresses.contains(&written))
}

fn own_host<'a>(
    resource: &'a ResourceConfig,
    node: &str,
    addresses: &[IpAddr],
) -> Result<&'a HostConfig, ResolveError> {
    let exact = |host: &&HostConfig| matches!(&host.kind, HostKind::On(names) if names.iter().any(|name| name == node));
    let find = |is_ours: &dyn Fn(&HostConfig) -> bool| resource.hosts.iter().find(|host| is_ours(host));
    let own = resource.hosts.iter().find(exact);
    let own = own.or_else(|| find(&|host| is_own(host, node))).or_else(|| find(&|host| is_at(host, addresses)));
    if let Some(host) = own {
        return Ok(host);
    }
    let name = resource.name.clone();
    let lower = resource.hosts.iter().find_map(|host| match &host.kind {
        HostKind::Stacked(lower) => Some(lower.clone()),
        _ => None,
    });
    Err(match lower {
        Some(lower) => ResolveError::Stacked { name, lower },
        None => {
            let hosts = resource.hosts.iter().map(HostConfig::name).collect();
            ResolveError::NotForThisNode { name, node: node.to_owned(), hosts }
        }
    })
}

/// The node ids of all hosts, in their order; two hosts without any get theirs from their addresses.
pub(super) fn node_ids(resource: &ResourceConfig) -> Result<Vec<NodeId>, ResolveError> {
    let name = || resource.name.clone();
    if let [one, other] = resource.hosts.as_slice()
        && one.node_id.is_none()
        && other.node_id.is_none()
    {
        let order = |host: &HostConfig| {
            let address = host.address.as_ref().map(|address| &address.value);
            address.map(node_order).ok_or(ResolveError::AddressMissing { name: name(), host: host.name() })
        };
        let (Some(low), Some(high)) = (NodeId::new(0), NodeId::new(1)) else { return Ok(Vec::new()) };
        return match order(one)?.cmp(&order(other)?) {
            Ordering::Greater => Ok(vec![low, high]),
            Ordering::Less => Ok(vec![high, low]),
            Ordering::Equal => Err(ResolveError::NodeIdsUndecided { name: name() }),
        };
    }
    let id = |host: &HostConfig| {
        let written = host.node_id.as_ref().and_then(|id| NodeId::new(id.value));
        written.ok_or_else(|| ResolveError::NodeIdMissing { name: name(), host: host.name() })
    };
    resource.hosts.iter().map(id).collect()
}

/// What two hosts without node ids are ordered by: the tools' checksum of the IP address alone, compared as a signed
/// number, the higher one being node 0. Where both have one address the tools give up; here the lower port is node 0.
fn node_order(address: &Address) -> (i32, Reverse<u16>) {
    const SEED: u32 = 0x1a65_6f21;
    let checksum = !crc32c::crc32c_append(!SEED, address.host.as_bytes());
    (checksum.cast_signed(), Reverse(address.port))
}

/// A connection of ours: the peer, both addresses of each path, and what is set for it.
struct Link<'a> {
    peer: usize,
    paths: Vec<(Address, Address)>,
    net: Option<&'a Options>,
    connection: Option<&'a ConnectionConfig>,
}

struct View<'a> {
    resource: &'a ResourceConfig,
    common: &'a Sections,
    me: &'a HostConfig,
    ids: Vec<NodeId>,
}

impl<'a> View<'a> {
    fn resolve(&self) -> Result<Resource, ResolveError> {
        let own = &self.resource.sections;
        let volumes = volumes_of(self.resource, self.me);
        let mut peers: Vec<Peer> = Vec::new();
        for link in self.links()? {
            let peer = self.peer(&link, &volumes)?;
            if !peers.iter().any(|other| other.node_id == peer.node_id) {
                peers.push(peer);
            }
        }
        peers.sort_by_key(|peer| peer.node_id);
        let options = Settings::new(Section::Options, &[&self.common.options, &own.options, &self.me.options]);
        let startup = Settings::new(Section::Startup, &[&self.common.startup, &own.startup]);
        let Place { file, line, .. } = &self.resource.place;
        Ok(Resource {
            name: self.resource.name.clone(),
            me: self.host(peers.first())?,
            peers,
            options: fill::resource(&options),
            volumes: volumes.iter().map(|volume| self.volume(volume)).collect::<Result<_, _>>()?,
            handlers: self.handlers(),
            startup: fill::startup(&startup),
            defined_at: (file.to_string(), *line),
        })
    }

    fn position(&self, host: &HostConfig) -> Option<usize> {
        self.resource.hosts.iter().position(|other| std::ptr::eq(other, host))
    }

    fn id(&self, position: Option<usize>) -> NodeId {
        position.and_then(|at| self.ids.get(at)).copied().unwrap_or_default()
    }

    fn host(&self, first_peer: Option<&Peer>) -> Result<Host, ResolveError> {
        let address = match (&self.me.address, first_peer) {
            (Some(address), _) => address.value.clone(),
            (None, Some(peer)) => peer.my_address.clone(),
            (None, None) => return Err(self.no_address(self.me)),
        };
        Ok(Host { name: self.me.name(), node_id: self.id(self.position(self.me)), address })
    }

    fn no_address(&self, host: &HostConfig) -> ResolveError {
        ResolveError::AddressMissing { name: self.resource.name.clone(), host: host.name() }
    }

    fn handlers(&self) -> BTreeMap<String, String> {
        let places = [&self.common.handlers, &self.resource.sections.handlers];
        let lines = places.into_iter().flat_map(|options| &options.0);
        lines.map(|line| (line.spec.name.to_owned(), line.value.clone())).collect()
    }

    fn volume(&self, volume: &VolumeConfig) -> Result<Volume, ResolveError> {
        let incomplete = |what| ResolveError::VolumeIncomplete {
            name: self.resource.name.clone(),
            volume: volume.number,
            what,
            host: self.me.name(),
        };
        let device = volume.device.as_ref().ok_or_else(|| incomplete("device"))?;
        let disk = volume.disk.as_ref().ok_or_else(|| incomplete("disk"))?;
        let meta = match volume.meta.as_ref().map(|meta| &meta.value) {
            None | Some(MetaConfig::Internal) => MetaDisk::Internal,
            Some(MetaConfig::Device(path)) => MetaDisk::Flexible(path.clone()),
            Some(MetaConfig::Slot(path, slot)) => MetaDisk::Indexed(path.clone(), *slot),
        };
        let places = [&self.common.disk, &self.resource.sections.disk, &volume.disk_options];
        Ok(Volume {
            number: VolumeNumber(volume.number),
            minor: device.minor,
            device_name: device.name.as_ref().map(|name| name.strip_prefix("/dev/").unwrap_or(name).to_owned()),
            disk: Some(disk.value.clone()).filter(|disk| disk != "none"),
            meta,
            options: fill::disk(&Settings::new(Section::Disk, &places)),
        })
    }

    fn peer(&self, link: &Link, volumes: &[VolumeConfig]) -> Result<Peer, ResolveError> {
        let host = &self.resource.hosts[link.peer];
        let mut paths = link.paths.iter().cloned();
        let (my_address, address) = paths.next().ok_or_else(|| self.no_address(host))?;
        let own = &self.resource.sections;
        let empty = Options::default();
        let net = [&self.common.net, &own.net, link.net.unwrap_or(&empty)];
        let places = volumes.iter().map(|volume| [&self.common.disk, &own.disk, &volume.disk_options]);
        let disks: Vec<_> = places.map(|places| Settings::new(Section::Disk, &places)).collect();
        let is_diskless = |volume: &&VolumeConfig| volume.disk.as_ref().is_some_and(|disk| disk.value == "none");
        let peer_volumes = volumes_of(self.resource, host);
        Ok(Peer {
            name: host.name(),
            node_id: self.id(Some(link.peer)),
            my_address,
            address,
            more_paths: paths.collect(),
            net: fill::net(&Settings::new(Section::Net, &net), &disks),
            volumes: volumes.iter().map(|volume| self.peer_volume(link, volume)).collect(),
            diskless_volumes: peer_volumes.iter().filter(is_diskless).map(|v| VolumeNumber(v.number)).collect(),
        })
    }

    fn peer_volume(&self, link: &Link, volume: &VolumeConfig) -> PeerVolume {
        let mut places = vec![&self.common.disk, &self.resource.sections.disk, &volume.disk_options];
        if let Some(connection) = link.connection {
            places.push(&connection.disk);
            let own = connection.volumes.iter().filter(|(number, _)| *number == volume.number);
            places.extend(own.map(|(_, options)| options));
        }
        let options = fill::peer_device(&Settings::new(Section::Disk, &places));
        PeerVolume { number: VolumeNumber(volume.number), options }
    }

    /// Every connection of ours: written ones, those of meshes, or the only possible one of two hosts.
    fn links(&self) -> Result<Vec<Link<'a>>, ResolveError> {
        let mut links = Vec::new();
        for connection in &self.resource.connections {
            links.extend(self.written_link(connection)?);
        }
        for mesh in &self.resource.meshes {
            let is_mine = mesh.hosts.iter().any(|host| self.me.is_named(&host.value));
            let others = mesh.hosts.iter().filter_map(|host| self.peer_named(&host.value));
            for peer in others.filter(|_| is_mine) {
                links.push(self.plain_link(peer, Some(&mesh.net))?);
            }
        }
        let is_unwritten = self.resource.connections.is_empty() && self.resource.meshes.is_empty();
        if !is_unwritten {
            return Ok(links);
        }
        let mut others = (0..self.resource.hosts.len()).filter(|at| !std::ptr::eq(&self.resource.hosts[*at], self.me));
        match (others.next(), others.next()) {
            (None, _) => {}
            (Some(peer), None) => links.push(self.plain_link(peer, None)?),
            // To run alone is the last thing that whoever wrote three hosts wants.
            (Some(_), Some(_)) => {
                let hosts = self.resource.hosts.iter().map(HostConfig::name).collect();
                return Err(ResolveError::Unconnected { name: self.resource.name.clone(), hosts });
            }
        }
        Ok(links)
    }

    /// Another host by its name.
    fn peer_named(&self, name: &str) -> Option<usize> {
        self.resource.hosts.iter().position(|host| host.is_named(name) && !std::ptr::eq(host, self.me))
    }

    fn plain_link(&self, peer: usize, net: Option<&'a Options>) -> Result<Link<'a>, ResolveError> {
        let address = |host: &HostConfig| {
            host.address.as_ref().map(|address| address.value.clone()).ok_or_else(|| self.no_address(host))
        };
        let paths = vec![(address(self.me)?, address(&self.resource.hosts[peer])?)];
        Ok(Link { peer, paths, net, connection: None })
    }

    fn written_link(&self, connection: &'a ConnectionConfig) -> Result<Option<Link<'a>>, ResolveError> {
        let mut paths = Vec::new();
        let mut found = None;
        for path in &connection.paths {
            let mine = path.ends.iter().find(|end| self.me.is_named(&end.host));
            let other = path.ends.iter().find_map(|end| Some((end, self.peer_named(&end.host)?)));
            let (Some(mine), Some((end, peer))) = (mine, other) else { continue };
            found = Some(peer);
            paths.push((self.end_address(mine, self.me)?, self.end_address(end, &self.resource.hosts[peer])?));
        }
        Ok(found.map(|peer| Link { peer, paths, net: Some(&connection.net), connection: Some(connection) }))
    }

    fn end_address(&self, end: &EndpointConfig, host: &HostConfig) -> Result<Address, ResolveError> {
        let inherited = host.address.as_ref().map(|address| address.value.clone());
        end.own_address(host).or(inherited).ok_or_else(|| self.no_address(host))
    }
}

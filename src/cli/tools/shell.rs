//! `drbdadm sh-…`: what scripts want to know of the configuration, a value a line.

use std::io::{ErrorKind, Write};

use super::Complaint;
use crate::cli::arguments::{Common, Target};
use crate::cli::{configuration, minor};
use crate::config::{MetaDisk, ResolveError, Resource, Volume};

/// Exit code: an unknown resource, wrong usage.
const EXIT_USAGE: u8 = 1;
/// Exit code: the configuration has faults.
const EXIT_CONFIGURATION: u8 = 10;
/// Exit code: it could not be tried.
const EXIT_EXECUTION: u8 = 20;

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Query {
    /// Whether the configuration can be read.
    Nothing,
    /// The names of all resources of this node, on one line each.
    Resources,
    /// The name.
    Resource,
    /// The replicated device.
    Device,
    /// Its minor number.
    Minor,
    /// The backing device.
    LowerDevice,
    /// The device that the metadata is on.
    MetaDevice,
    /// Where on it: `internal`, `flexible` or the index of a slot.
    MetaIndex,
    /// This node's address.
    Address,
    /// Names for udev.
    Udev,
}

impl Query {
    pub(super) const ALL: [Self; 10] = [
        Self::Nothing,
        Self::Resources,
        Self::Resource,
        Self::Device,
        Self::Minor,
        Self::LowerDevice,
        Self::MetaDevice,
        Self::MetaIndex,
        Self::Address,
        Self::Udev,
    ];

    /// The question of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|query| query.name() == name)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "sh-nop",
            Self::Resources => "sh-resources",
            Self::Resource => "sh-resource",
            Self::Device => "sh-dev",
            Self::Minor => "sh-minor",
            Self::LowerDevice => "sh-ll-dev",
            Self::MetaDevice => "sh-md-dev",
            Self::MetaIndex => "sh-md-idx",
            Self::Address => "sh-ip",
            Self::Udev => "sh-udev",
        }
    }

    /// Whether it is about resources at all.
    pub(super) const fn needs_target(self) -> bool {
        !matches!(self, Self::Nothing | Self::Resources)
    }

    /// The answer about a volume.
    fn of_volume(self, resource: &Resource, volume: &Volume) -> Result<Vec<String>, Complaint> {
        let device = volume.device_name.clone().unwrap_or_else(|| format!("drbd{}", volume.minor));
        let name = &resource.name;
        let disk = volume.disk.as_deref();
        let needs_disk = || {
            let sentence =
                format!("The {} command requires a local disk, but the configuration gives none.", self.name());
            Complaint { sentence, exit: EXIT_CONFIGURATION }
        };
        Ok(match self {
            Self::Nothing | Self::Resources | Self::Resource => vec![name.clone()],
            Self::Device => vec![format!("/dev/{device}")],
            Self::Minor => vec![volume.minor.to_string()],
            Self::LowerDevice => vec![disk.unwrap_or("none").to_owned()],
            Self::MetaDevice => {
                let disk = disk.ok_or_else(needs_disk)?;
                match &volume.meta {
                    MetaDisk::Internal => vec![disk.to_owned()],
                    MetaDisk::Flexible(path) | MetaDisk::Indexed(path, _) => vec![path.clone()],
                }
            }
            Self::MetaIndex => {
                disk.ok_or_else(needs_disk)?;
                match &volume.meta {
                    MetaDisk::Internal => vec!["internal".into()],
                    MetaDisk::Flexible(_) => vec!["flexible".into()],
                    MetaDisk::Indexed(_, index) => vec![index.to_string()],
                }
            }
            // One of each path.
            Self::Address => resource
                .peers
                .iter()
                .flat_map(|peer| [&peer.my_address].into_iter().chain(peer.more_paths.iter().map(|(ours, _)| ours)))
                .map(|address| address.host.clone())
                .collect(),
            Self::Udev => {
                let is_only = matches!(&resource.volumes[..], [only] if only.number.0 == 0);
                let number = if is_only { String::new() } else { format!("/{}", volume.number) };
                let by_name = format!("drbd/by-res/{name}{number}");
                let disk = disk.unwrap_or("none");
                let disk = disk.strip_prefix("/dev/").unwrap_or(disk);
                vec![
                    format!("DEVICE={device}"),
                    format!("SYMLINK={by_name}"),
                    format!("SYMLINK_BY_RES={by_name}"),
                    format!("SYMLINK_BY_DISK=drbd/by-disk/{disk}"),
                ]
            }
        })
    }
}

/// Prints the answer about each target; the exit code.
pub(super) fn answer(common: &Common, query: Query, targets: &[String]) -> Result<u8, Complaint> {
    let everything = Target { resource: None, volume: None };
    if !query.needs_target() {
        if !targets.is_empty() {
            eprintln!("This command will ignore resource names!");
        }
        // Ignored or not, they have to be there.
        for typed in targets {
            let target = parsed(common, typed)?;
            each(common, &target, |resource| match (target.volume, &resource.volumes[..]) {
                (None, _) => Ok(()),
                (Some(number), [only]) if only.number.0 == number => Ok(()),
                (Some(_), _) => Err(usage(format!(
                    "{} operates on whole resources, but you specified a specific volume!",
                    query.name()
                ))),
            })?;
        }
        let mut lines = Vec::new();
        let exit = each(common, &everything, |resource| {
            lines.push(resource.name.clone());
            Ok(())
        })?;
        if query == Query::Resources {
            print(&lines)?;
        }
        return Ok(exit);
    }
    let mut highest = 0;
    for typed in targets {
        let target = parsed(common, typed)?;
        if query == Query::Udev && target.volume.is_none() && target.resource.is_none() {
            return Err(usage("volume not specified".into()));
        }
        highest = highest.max(each(common, &target, |resource| tell(query, resource, target.volume))?);
    }
    Ok(highest)
}

fn parsed(common: &Common, typed: &str) -> Result<Target, Complaint> {
    minor::named(common, typed.parse().map_err(usage)?).map_err(execution)?.map_err(said)
}

/// Prints the answer about a resource, or about one of its volumes.
fn tell(query: Query, resource: &Resource, number: Option<u16>) -> Result<(), Complaint> {
    let name = &resource.name;
    let is_meant = |volume: &&Volume| number.is_none_or(|number| number == volume.number.0);
    let volumes: Vec<&Volume> = resource.volumes.iter().filter(is_meant).collect();
    match (number, query) {
        (Some(number), _) if volumes.is_empty() => Err(usage(format!("Resource '{name}' has no volume {number}"))),
        (_, Query::Resource) => print(std::slice::from_ref(name)),
        (None, Query::Udev) if volumes.len() != 1 => {
            Err(usage(format!("sh-udev is about one volume: try sh-udev minor-<minor_number> or sh-udev {name}/<vnr>")))
        }
        // What is known of the first volumes is told before the complaint about a later one.
        _ => volumes.into_iter().try_for_each(|volume| print(&query.of_volume(resource, volume)?)),
    }
}

/// Does something with each resource that is meant; the exit code of those that cannot be understood.
fn each(
    common: &Common,
    target: &Target,
    mut act: impl FnMut(&Resource) -> Result<(), Complaint>,
) -> Result<u8, Complaint> {
    let node = configuration::node(common).map_err(execution)?;
    let config = configuration::load(common).map_err(said)?;
    if let Some(name) = &target.resource {
        return match config.resolve(name, &node) {
            Ok(resource) => act(&resource).map(|()| 0),
            Err(ResolveError::UnknownResource { .. } | ResolveError::NotForThisNode { .. }) => {
                Err(usage(format!("'{name}' not defined in your config (for this host).")))
            }
            Err(error) => Err(Complaint { sentence: error.to_string(), exit: EXIT_CONFIGURATION }),
        };
    }
    let meant = configuration::resources(common, target).map_err(execution)?.map_err(said)?;
    meant.resources.iter().try_for_each(act)?;
    Ok(meant.exit)
}

/// That the resource has a peer with that node id.
pub(super) fn has_peer(common: &Common, name: &str, peer: u8) -> Result<(), Complaint> {
    let target = Target { resource: Some(name.into()), volume: None };
    each(common, &target, |resource| {
        let known: Vec<String> = resource.peers.iter().map(|peer| peer.node_id.to_string()).collect();
        if known.contains(&peer.to_string()) {
            return Ok(());
        }
        let sentence = format!("{name} has no peer with node id {peer}; it has {}", known.join(", "));
        Err(Complaint { sentence, exit: EXIT_CONFIGURATION })
    })
    .map(|_| ())
}

fn usage(sentence: String) -> Complaint {
    Complaint { sentence, exit: EXIT_USAGE }
}

fn execution(error: anyhow::Error) -> Complaint {
    Complaint { sentence: format!("{error:#}"), exit: EXIT_EXECUTION }
}

/// What stands on standard error already.
fn said(exit: u8) -> Complaint {
    Complaint { sentence: String::new(), exit }
}

/// Prints lines; a reader that has seen enough is none of our business.
fn print(lines: &[String]) -> Result<(), Complaint> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Complaint { sentence: format!("cannot write: {error}"), exit: EXIT_EXECUTION })
        }
        _ => Ok(()),
    }
}

//! Verbs that work on the metadata of disks that are not in use. The lock on the disk keeps a running daemon out of the
//! way, and us out of its.

use std::fmt::Display;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::Context;

use super::arguments::{Common, CreateMd, DumpMd, Forced, RestoreMd, SetGi, Target};
use super::configuration::{is_standard_input, resources};
use crate::config::{MetaDisk, Resource, Volume};
use crate::engine::offline::{self, MetadataPlace, NewMetadata, OfflineError, Said};
use crate::io::mapped::MappedFile;
use crate::metadata::layout::{Format, Placement, Striping};
use crate::metadata::probe::Extent;

/// Exit code: wrong usage.
const EXIT_USAGE: u8 = 1;

/// One volume's metadata.
struct Place {
    /// `RESOURCE/VOLUME`.
    name: String,
    place: MetadataPlace,
    /// How many nodes may need a bitmap of their own.
    peers: u32,
    /// The peer whose generations are shown.
    peer: usize,
}

/// The places that are meant, and what has to be exited with because of others; a volume without a disk has none.
fn places(common: &Common, target: &Target) -> anyhow::Result<Result<(Vec<Place>, u8), u8>> {
    let found = match resources(common, target)? {
        Ok(found) => found,
        Err(exit) => return Ok(Err(exit)),
    };
    let mut places = Vec::new();
    for resource in &found.resources {
        let is_meant = |volume: &&Volume| target.volume.is_none_or(|number| number == volume.number.0);
        places.extend(resource.volumes.iter().filter(is_meant).filter_map(|volume| place(resource, volume)));
    }
    if places.is_empty() {
        eprintln!("{}: there is no such volume with a disk on this node", shown(target));
        return Ok(Err(found.exit.max(EXIT_USAGE)));
    }
    Ok(Ok((places, found.exit)))
}

fn place(resource: &Resource, volume: &Volume) -> Option<Place> {
    let disk = volume.disk.as_ref()?;
    let (path, placement) = match &volume.meta {
        MetaDisk::Internal => (disk, Placement::Internal),
        MetaDisk::Flexible(path) => (path, Placement::FlexibleExternal),
        MetaDisk::Indexed(path, index) => (path, Placement::Indexed(*index)),
    };
    Some(Place {
        name: format!("{}/{}", resource.name, volume.number),
        place: MetadataPlace { path: path.into(), placement },
        peers: u32::try_from(resource.peers.len()).unwrap_or(u32::MAX).max(1),
        peer: resource.peers.first().map_or(0, |peer| peer.node_id.index()),
    })
}

fn shown(target: &Target) -> String {
    match (&target.resource, target.volume) {
        (Some(name), Some(volume)) => format!("{name}/{volume}"),
        (Some(name), None) => name.clone(),
        (None, _) => "all".into(),
    }
}

/// Does something on each place; the highest exit code counts.
fn each<S: Into<Said>>(
    common: &Common,
    target: &Target,
    act: impl Fn(&Place) -> Result<S, OfflineError>,
) -> anyhow::Result<u8> {
    let (places, mut highest) = match places(common, target)? {
        Ok(places) => places,
        Err(exit) => return Ok(exit),
    };
    for place in &places {
        highest = highest.max(answer(place, act(place))?);
    }
    Ok(highest)
}

/// Does something on the only place that is meant.
fn one<S: Into<Said>>(
    common: &Common,
    target: &Target,
    act: impl FnOnce(&Place) -> anyhow::Result<Result<S, OfflineError>>,
) -> anyhow::Result<u8> {
    let (places, _) = match places(common, target)? {
        Ok(places) => places,
        Err(exit) => return Ok(exit),
    };
    let [place] = &places[..] else {
        eprintln!("{}: has {} volumes; name one, as RESOURCE/VOLUME", shown(target), places.len());
        return Ok(EXIT_USAGE);
    };
    answer(place, act(place)?)
}

fn answer(place: &Place, result: Result<impl Into<Said>, OfflineError>) -> anyhow::Result<u8> {
    match result.map(Into::into) {
        Ok(Said { text, remarks }) => {
            std::io::stdout().write_all(text.as_bytes())?;
            std::io::stderr().write_all(remarks.as_bytes())?;
            Ok(0)
        }
        Err(error) => Ok(complain(&place.name, &error)),
    }
}

fn complain(name: &str, error: &OfflineError) -> u8 {
    let say = |error: &dyn Display| eprintln!("{name}: {error}");
    say(error);
    match error {
        // Where there is something, new metadata would be the end of it.
        OfflineError::NoMetadata { reason, .. } if reason.is_absence() => eprintln!("next: shimai create-md {name}"),
        OfflineError::Unclean { .. } => eprintln!("next: shimai apply-al {name}"),
        OfflineError::CutOff { path, usable_bytes, extent, .. } => {
            if let Extent::Bytes(_) = extent {
                eprintln!("next: shrink it to {} KiB or less, or", usable_bytes >> 10);
            }
            eprintln!("next: keep the metadata on another device (`meta-disk /dev/OTHER;`), or");
            eprintln!("next: if nobody needs what is there: wipefs --all {}", path.display());
        }
        OfflineError::InTheWay { path, .. } => {
            eprintln!("next: name another device for the metadata (`meta-disk`), or");
            eprintln!("next: if nobody needs what is there: wipefs --all {}", path.display());
        }
        _ => {}
    }
    u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE)
}

/// `create-md`.
pub(super) fn create_md(common: &Common, options: &CreateMd) -> anyhow::Result<u8> {
    let format: Option<Format> = options.format.as_deref().map(str::parse).transpose()?;
    if let (Some(Format::V08), Some(max_peers @ 2..)) = (format, options.max_peers) {
        eprintln!("{}: v08 metadata has room for 1 peer, not for {max_peers}", shown(&options.target));
        return Ok(EXIT_USAGE);
    }
    let default = Striping::default();
    let striping = Striping {
        stripes: options.al_stripes.unwrap_or(default.stripes),
        stripe_blocks: options.al_stripe_size.map_or(default.stripe_blocks, |size| size.0),
    };
    each(common, &options.target, |place| {
        let new = NewMetadata {
            format,
            max_peers: options.max_peers.map_or(place.peers, u32::from),
            striping,
            peer_max_bio_size: options.peer_max_bio_size.unwrap_or(0),
            force: options.force,
        };
        offline::create_md(&place.place, &new)
    })
}

/// `dump-md`.
pub(super) fn dump_md(common: &Common, options: &DumpMd) -> anyhow::Result<u8> {
    each(common, &options.target, |place| offline::dump_md(&place.place, options.force))
}

/// Standard input is one text: the configuration or what is to be restored.
pub(super) fn refuse_two_texts(common: &Common, options: &RestoreMd) -> Result<(), u8> {
    if file_of(options).is_some() || !is_standard_input(common) {
        return Ok(());
    }
    eprintln!(
        "standard input cannot be both the configuration (-c -) and the text to restore; name a file for one of them"
    );
    Err(EXIT_USAGE)
}

/// Where the text is; `None` is standard input.
fn file_of(options: &RestoreMd) -> Option<&Path> {
    options.file.as_deref().filter(|path| path.as_os_str() != "-")
}

/// `restore-md`: one volume, one text.
pub(super) fn restore_md(common: &Common, options: &RestoreMd) -> anyhow::Result<u8> {
    one(common, &options.target, |place| {
        let restore = |text: &str| offline::restore_md(&place.place, text, options.force);
        match file_of(options) {
            // The text of a large bitmap is larger than that: it is not copied into memory to be read once.
            Some(path) if path.is_file() => {
                let file = MappedFile::open(path).with_context(|| format!("cannot read {}", path.display()))?;
                let text = std::str::from_utf8(&file).with_context(|| format!("{} is no text", path.display()))?;
                Ok(restore(text))
            }
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                Ok(restore(&text))
            }
            None => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
                Ok(restore(&text))
            }
        }
    })
}

/// `set-gi`.
pub(super) fn set_gi(common: &Common, options: &SetGi) -> anyhow::Result<u8> {
    one(common, &options.target, |place| Ok(offline::set_gi(&place.place, place.peer, &options.line)))
}

/// `wipe-md`: only when told twice, since nothing brings it back.
pub(super) fn wipe_md(common: &Common, options: &Forced) -> anyhow::Result<u8> {
    if !options.force {
        let target = shown(&options.target);
        eprintln!("{target}: without its metadata the disk is no replica any more; nothing was changed");
        eprintln!("next: shimai wipe-md --force {target}");
        return Ok(EXIT_USAGE);
    }
    each(common, &options.target, |place| offline::wipe_md(&place.place))
}

/// `apply-al`.
pub(super) fn apply_al(common: &Common, target: &Target) -> anyhow::Result<u8> {
    each(common, target, |place| offline::apply_al_md(&place.place))
}

/// `show-gi` of disks that no daemon has.
pub(super) fn show_gi(common: &Common, target: &Target) -> anyhow::Result<u8> {
    each(common, target, |place| offline::show_gi(&place.place, place.peer))
}

/// `get-gi` of disks that no daemon has.
pub(super) fn get_gi(common: &Common, target: &Target) -> anyhow::Result<u8> {
    each(common, target, |place| offline::get_gi(&place.place, place.peer))
}

/// `outdate` of disks that no daemon has.
pub(super) fn outdate(common: &Common, target: &Target) -> anyhow::Result<u8> {
    each(common, target, |place| offline::outdate(&place.place))
}

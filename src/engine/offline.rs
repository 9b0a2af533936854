//! What the CLI does to metadata while no daemon has the device: make, print, restore, wipe, look, apply.
//!
//! Every verb opens and locks the device that holds the metadata (of a shared one, its slot), so a running daemon is
//! noticed and named. Verbs return what is to be printed; errors carry the exit code that `drbdmeta` has for them. They run
//! on a runtime of their own, so they must not be called from async code.
//!
//! Invariants: nothing but blank space is overwritten unless forced, and even then nothing that is known to reach into the
//! place of the metadata; valid metadata of the other version is converted, not overwritten; a superblock is written last,
//! after everything that it speaks of is durable, and an old one is removed first: a crash in between leaves no metadata,
//! never wrong metadata.
//!
//! Not here: which path and placement a volume has (`config`), formats (`metadata`).

mod device;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use self::device::{Device, Existing};
use crate::io::block_file::BlockFileError;
use crate::io::bulk::{self, BulkError};
use crate::metadata::apply::{Applied, ApplyError, Unusable, Verdict, apply_al};
use crate::metadata::dump::{self, DumpError, GenerationLineError};
use crate::metadata::layout::{Format, Layout, LayoutError, Placement, Striping};
use crate::metadata::probe::Extent;
use crate::metadata::superblock::{DeviceFlags, Superblock, SuperblockError};
use crate::model::units::BLOCK_BYTES;

pub use self::device::Found;

/// Where a volume's metadata is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataPlace {
    /// The device or file that holds it: the backing device itself if internal.
    pub path: PathBuf,
    /// Where on it.
    pub placement: Placement,
}

/// What new metadata should be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewMetadata {
    /// Its version; `None` keeps that of what is there, and gives a blank disk v09.
    pub format: Option<Format>,
    /// Bitmap slots; v08 always has one.
    pub max_peers: u32,
    /// Shape of the activity log.
    pub striping: Striping,
    /// The largest request of the peer to assume before it says so itself, in bytes; 0 if nothing is known.
    pub peer_max_bio_size: u32,
    /// Also over what is there, unless that would cut off a file system.
    pub force: bool,
}

impl NewMetadata {
    /// Metadata of that version for blank disks, as most want it.
    #[must_use]
    pub fn plain(format: Format, max_peers: u32) -> Self {
        Self { format: Some(format), max_peers, striping: Striping::default(), peer_max_bio_size: 0, force: false }
    }
}

/// What a verb has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The answer, for standard output.
    pub text: String,
    /// What else is worth knowing, for standard error.
    pub remarks: String,
}

impl From<String> for Said {
    fn from(text: String) -> Self {
        Self { text, remarks: String::new() }
    }
}

/// Why a verb was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The device cannot be opened, or somebody has it.
    #[error(transparent)]
    Open(#[from] BlockFileError),
    /// It cannot be read or written.
    #[error(transparent)]
    Transfer(#[from] BulkError),
    /// There is nothing usable.
    #[error("{path}: {reason}", path = path.display())]
    NoMetadata {
        /// Which device.
        path: PathBuf,
        /// What is wrong with what is there.
        reason: SuperblockError,
    },
    /// Metadata does not fit.
    #[error("{path}: {reason}", path = path.display())]
    Layout {
        /// Which device.
        path: PathBuf,
        /// Why not.
        reason: LayoutError,
    },
    /// What should be written would not be read again.
    #[error("{path}: the text describes metadata that cannot be used here: {reason}; nothing was changed", path = path.display())]
    Unusable {
        /// Which device.
        path: PathBuf,
        /// What is wrong with it.
        reason: SuperblockError,
    },
    /// Metadata of the other version is there, and cannot become what is wanted.
    #[error(
        "{path}: there is {from} metadata for {max_peers} peers, which cannot be converted to {to}{}; nothing was changed \
         (wipe-md removes it)", why_not(*.max_peers, *.is_striped), path = path.display()
    )]
    Conversion {
        /// Which device.
        path: PathBuf,
        /// Its format.
        from: Format,
        /// What was asked for.
        to: Format,
        /// Slots it has.
        max_peers: u32,
        /// Another activity log was asked for than it has.
        is_striped: bool,
    },
    /// Something is there.
    #[error("{path}: there is {found}; nothing was changed (--force overwrites it)", path = path.display())]
    Occupied {
        /// Which device.
        path: PathBuf,
        /// What.
        found: Found,
    },
    /// Internal metadata would take the end of what is there; force does not help.
    #[error(
        "{path}: there is {name}{taken}; internal metadata would leave {usable} KiB, and what lies behind would be lost \
         to it; nothing was changed",
        path = path.display(),
        taken = taken(extent),
        usable = usable_bytes >> 10
    )]
    CutOff {
        /// Which device.
        path: PathBuf,
        /// What is there.
        name: &'static str,
        /// How far it reaches.
        extent: Extent,
        /// Where the data would end.
        usable_bytes: u64,
    },
    /// A device of its own for metadata is in use for something else; force does not help.
    #[error("{path}: there is {name}, which metadata on this device would destroy; nothing was changed", path = path.display())]
    InTheWay {
        /// Which device.
        path: PathBuf,
        /// What is there.
        name: &'static str,
    },
    /// The activity log has not been applied.
    #[error("{path}: the metadata is unclean; run apply-al first", path = path.display())]
    Unclean {
        /// Which device.
        path: PathBuf,
    },
    /// The text is no dump.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// The line is no line of generation ids.
    #[error(transparent)]
    Line(#[from] GenerationLineError),
    /// The activity log is of no use.
    #[error("{path}: {reason}", path = path.display())]
    Apply {
        /// Which device.
        path: PathBuf,
        /// Why.
        reason: ApplyError,
    },
    /// There is nothing that could become outdated.
    #[error("{path}: the data is Inconsistent", path = path.display())]
    Inconsistent {
        /// Which device.
        path: PathBuf,
    },
}

fn taken(extent: &Extent) -> String {
    match extent {
        Extent::Bytes(bytes) => format!(" of {} KiB", bytes.div_ceil(1024)),
        Extent::Whole | Extent::Unknown => ", which takes the whole device".to_owned(),
    }
}

fn why_not(max_peers: u32, is_striped: bool) -> &'static str {
    match (max_peers, is_striped) {
        (1, true) => " with another activity log",
        (1, false) => "",
        _ => ", which knows one",
    }
}

impl OfflineError {
    /// What the command exits with, as `drbdmeta`.
    #[must_use]
    pub const fn exit_code(&self) -> i32 {
        match self {
            Self::NoMetadata { .. } | Self::Unclean { .. } | Self::Apply { .. } => 1,
            Self::Occupied { found: Found::Metadata(_) | Found::ForeignMetadata, .. } => 1,
            Self::Occupied { .. } | Self::CutOff { .. } | Self::InTheWay { .. } => 40,
            Self::Inconsistent { .. } => 5,
            Self::Layout { .. } | Self::Unusable { .. } | Self::Conversion { .. } | Self::Dump(_) | Self::Line(_) => 10,
            Self::Open(_) | Self::Transfer(_) => 20,
        }
    }
}

const CREATED: &str =
    "initializing activity log\nWriting meta data...\nNew drbd meta data block successfully created.\n";

/// `create-md`: metadata that says "data unrelated to anything", or what is there in the other version.
///
/// # Errors
/// Something is there and `force` was not given or would not spare it, or it does not fit.
pub fn create_md(place: &MetadataPlace, new: &NewMetadata) -> Result<Said, OfflineError> {
    on_device(place, false, async |device| {
        let found = match device.find_metadata().await {
            Ok(found) => found,
            // What cannot be read can be overwritten.
            Err(_) if new.force => None,
            Err(error) => return Err(error),
        };
        let format = new.format.or(found.as_ref().and_then(Existing::format)).unwrap_or(Format::V09);
        match found {
            Some(Existing::Sound(superblock, layout))
                if new.force && layout.format != format && !superblock.generations.current.is_just_created() =>
            {
                convert(device, *superblock, &layout, format, new).await
            }
            _ => create(device, format, new).await,
        }
    })
}

async fn create(device: &Device, format: Format, new: &NewMetadata) -> Result<Said, OfflineError> {
    let max_peers = if format == Format::V08 { 1 } else { new.max_peers };
    let layout = device.layout(format, max_peers, new.striping, BLOCK_BYTES as u32)?;
    device.check_free(&layout, new.force).await?;
    let mut superblock = Superblock::fresh(&layout);
    superblock.la_peer_max_bio_size = new.peer_max_bio_size;
    device.write_all(&layout, &superblock, &[]).await?;
    Ok(CREATED.to_owned().into())
}

/// Both versions with one peer have log and bitmap at the same place, so that only the superblock changes.
async fn convert(
    device: &Device,
    mut superblock: Superblock,
    layout: &Layout,
    format: Format,
    new: &NewMetadata,
) -> Result<Said, OfflineError> {
    let is_striped = new.striping != Striping::default() && new.striping != layout.striping;
    if layout.max_peers != 1 || is_striped {
        return Err(OfflineError::Conversion {
            path: device.path(),
            from: layout.format,
            to: format,
            max_peers: layout.max_peers,
            is_striped,
        });
    }
    superblock.check_granularity().map_err(|reason| device.no_metadata(reason))?;
    let converted = Layout { format, ..*layout };
    superblock.convert(&converted);
    device.write_superblock(&converted, &superblock).await?;
    let text = format!(
        "Converting {} meta data to {format}...\nNew drbd meta data block successfully created.\n",
        layout.format
    );
    let is_narrower = format == Format::V09 && new.max_peers > 1;
    let remarks = if is_narrower { "The converted metadata has room for 1 peer.\n".to_owned() } else { String::new() };
    Ok(Said { text, remarks })
}

/// `dump-md`: the metadata as text.
///
/// # Errors
/// There is none, or it is unclean and `force` was not given; the text of unclean metadata cannot be restored.
pub fn dump_md(place: &MetadataPlace, force: bool) -> Result<String, OfflineError> {
    on_device(place, true, async |device| {
        let (superblock, layout) = device.read_superblock().await?;
        if !superblock.is_clean() && !force {
            return Err(OfflineError::Unclean { path: device.path() });
        }
        let words = device.read_bitmap(&superblock, &layout).await?;
        let slots: Vec<&[u64]> = words.iter().map(Vec::as_slice).collect();
        let mut text = String::new();
        dump::write(&superblock, &layout, &slots, &mut text).expect("a string takes everything");
        Ok(text)
    })
}

/// `restore-md`: metadata from the text of a dump. The activity log is made empty.
///
/// # Errors
/// The text is no dump, something is there and `force` was not given, or it does not fit.
pub fn restore_md(place: &MetadataPlace, text: &str, force: bool) -> Result<Said, OfflineError> {
    let dump = dump::parse(text)?;
    on_device(place, false, async |device| {
        let old = &dump.superblock;
        let layout = device.layout(old.format, old.max_peers, old.striping, old.bytes_per_bit)?;
        let superblock = dump.superblock_for(&layout);
        device.check_sound(&superblock)?;
        device.check_free(&layout, force).await?;
        device.write_all(&layout, &superblock, &dump.bitmap_for(&layout)).await?;
        let (stated, kept) = (old.effective_size_sectors, superblock.effective_size_sectors);
        let remarks = if stated == kept {
            String::new()
        } else {
            format!("la-size-sect was cut from {stated} to {kept} sectors: the device has no room for more\n")
        };
        Ok(Said { text: "Successfully restored meta data\n".to_owned(), remarks })
    })
}

/// `wipe-md`: as if there had never been any.
///
/// # Errors
/// There is none.
pub fn wipe_md(place: &MetadataPlace) -> Result<String, OfflineError> {
    on_device(place, false, async |device| {
        let (_, layout) = device.read_superblock().await?;
        device.remove_superblock(&layout).await?;
        Ok("Wiping meta data...\nDRBD meta data block successfully wiped out.\n".to_owned())
    })
}

/// `get-gi`: the generation ids in one line. `peer` is the peer's node id (0 for v08).
///
/// # Errors
/// There is no metadata.
pub fn get_gi(place: &MetadataPlace, peer: usize) -> Result<String, OfflineError> {
    on_device(place, true, async |device| {
        let (superblock, _) = device.read_superblock().await?;
        Ok(dump::get_gi(&superblock, peer) + "\n")
    })
}

/// `show-gi`: the generation ids, explained.
///
/// # Errors
/// There is no metadata.
pub fn show_gi(place: &MetadataPlace, peer: usize) -> Result<String, OfflineError> {
    on_device(place, true, async |device| {
        let (superblock, _) = device.read_superblock().await?;
        Ok(dump::show_gi(&superblock, peer))
    })
}

/// `set-gi`: other generation ids; an empty field stays as it is.
///
/// # Errors
/// There is no metadata, or the line is none.
pub fn set_gi(place: &MetadataPlace, peer: usize, line: &str) -> Result<String, OfflineError> {
    change(place, |superblock, _| {
        let before = dump::get_gi(superblock, peer);
        dump::set_gi(superblock, peer, line)?;
        Ok(format!("previously {before}\nset GI to  {}\n", dump::get_gi(superblock, peer)))
    })
}

/// `outdate`: the data is older than another copy.
///
/// # Errors
/// There is no metadata, or the data is Inconsistent anyway.
pub fn outdate(place: &MetadataPlace) -> Result<String, OfflineError> {
    change(place, |superblock, path| {
        if !superblock.flags.contains(DeviceFlags::CONSISTENT) {
            return Err(OfflineError::Inconsistent { path: path.to_owned() });
        }
        superblock.flags.remove(DeviceFlags::WAS_UP_TO_DATE);
        Ok(String::new())
    })
}

/// `apply-al`: marks in the bitmap what the activity log says may differ, and empties the log.
///
/// # Errors
/// There is no metadata, or a Primary's log is of no use.
pub fn apply_al_md(place: &MetadataPlace) -> Result<Said, OfflineError> {
    on_device(place, false, async |device| {
        let (mut superblock, layout) = device.read_superblock().await?;
        let (was, was_clean) = (superblock.clone(), superblock.is_clean());
        let blocks = device.read_log(&layout).await?;
        let ring: Vec<&[u8]> = blocks.iter().map(|block| &block[..]).collect();
        let mut words = device.read_bitmap(&superblock, &layout).await?;
        // What is called clean may have a log that is not empty all the same: a copy that was restored over it, a kernel
        // that trusts the log and not the flag.
        let applied = apply_al(&mut superblock, &layout, &ring, &mut words, Unusable::Refuse)
            .map_err(|reason| OfflineError::Apply { path: device.path(), reason })?;
        if !was_clean || applied.log_is_dirty || superblock != was {
            device.write_applied(&layout, &superblock, &words, applied.log_is_dirty).await?;
        }
        Ok(Said { text: String::new(), remarks: applied_text(&applied, layout.bytes_per_bit) })
    })
}

fn applied_text(applied: &Applied, bytes_per_bit: u32) -> String {
    let mut text = String::new();
    if applied.corrupt_blocks > 0 {
        text += &format!("{} corrupt AL transactions found\n", applied.corrupt_blocks);
    }
    if applied.verdict == Verdict::Marked {
        let megabytes = (applied.bits_set * u64::from(bytes_per_bit)).div_ceil(1 << 20);
        text += &format!("Marked additional {megabytes} MB as out-of-sync based on AL.\n");
    }
    text
}

/// Changes the superblock alone.
fn change(
    place: &MetadataPlace,
    act: impl FnOnce(&mut Superblock, &Path) -> Result<String, OfflineError>,
) -> Result<String, OfflineError> {
    on_device(place, false, async |device| {
        let (mut superblock, layout) = device.read_superblock().await?;
        let text = act(&mut superblock, &device.path())?;
        device.write_superblock(&layout, &superblock).await?;
        Ok(text)
    })
}

/// Opens, locks, acts.
fn on_device<T>(
    place: &MetadataPlace,
    read_only: bool,
    act: impl AsyncFnOnce(&Device) -> Result<T, OfflineError>,
) -> Result<T, OfflineError> {
    let device = Device::open(place, read_only)?;
    bulk::run(act(&device))?
}

/// Computes a layout with the device's name in the error.
fn layout_on(
    path: &Path,
    placement: Placement,
    bytes: u64,
    (format, max_peers, striping, bytes_per_bit): (Format, u32, Striping, u32),
) -> Result<Layout, OfflineError> {
    Layout::compute_coarse(format, placement, bytes, max_peers, striping, bytes_per_bit)
        .map_err(|reason| OfflineError::Layout { path: path.to_owned(), reason })
}

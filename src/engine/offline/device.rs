//! A device that holds metadata, and the order in which its parts are read and written.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use super::{MetadataPlace, OfflineError, layout_on};
use crate::engine::backing::slot_claim;
use crate::io::block_file::{BlockFile, Mode};
use crate::io::buffer::{AlignedBuffer, BufferPool};
use crate::io::bulk;
use crate::metadata::METADATA_BLOCK_BYTES;
use crate::metadata::activity_record::initialised_block;
use crate::metadata::bitmap_page::{decode_page, encode_page};
use crate::metadata::layout::{Format, Layout, Placement, Striping, superblock_offset};
use crate::metadata::probe::{Contents, Extent, Finding, HEAD_BYTES, UNRECOGNISED, owner, probe};
use crate::metadata::superblock::{Superblock, SuperblockError, UnverifiedSuperblock};
use crate::model::units::SECTOR_BYTES;

const BLOCK: u64 = METADATA_BLOCK_BYTES as u64;

/// How much of the end of a device is looked at: copies of partition tables lie there.
const TAIL_BYTES: u64 = 64 << 10;

/// How much of a file is read in search of data that nobody recognises, besides where the metadata goes. Holes are free; a
/// file that is larger and holds nothing but written zeroes is taken as blank.
const SEARCH_BYTES_MAX: u64 = 1 << 30;

/// How long a device that is in use is waited for: a daemon that was killed holds it until its last write is done.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// What stands where metadata should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// DRBD's metadata of that format.
    Metadata(Format),
    /// DRBD's metadata of a version that cannot be read here.
    ForeignMetadata,
    /// Something else.
    Data(&'static str),
    /// Something where nothing has a signature, from this byte on.
    DataAt(&'static str, u64),
    /// Nothing could be read.
    Unknown,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metadata(format) => write!(f, "DRBD metadata ({format})"),
            Self::ForeignMetadata => f.write_str("DRBD metadata of another version"),
            Self::Data(name) => f.write_str(name),
            Self::DataAt(name, at) => write!(f, "{name} at byte {at}"),
            Self::Unknown => f.write_str("nothing readable"),
        }
    }
}

/// Metadata where metadata should be.
pub(super) enum Existing {
    /// It is what this device demands.
    Sound(Box<Superblock>, Layout),
    /// It has the magic of a version, and contradicts itself or the device.
    Torn(Format),
    /// It is of a version that cannot be read here.
    Foreign,
}

impl Existing {
    pub(super) fn format(&self) -> Option<Format> {
        match self {
            Self::Sound(superblock, _) => Some(superblock.format),
            Self::Torn(format) => Some(*format),
            Self::Foreign => None,
        }
    }

    fn found(&self) -> Found {
        self.format().map_or(Found::ForeignMetadata, Found::Metadata)
    }
}

/// What is on a device, as far as it could be read.
struct Looked {
    existing: Option<Existing>,
    contents: Contents,
    unreadable: Option<OfflineError>,
}

pub(super) struct Device {
    file: BlockFile,
    placement: Placement,
}

impl Device {
    pub(super) fn open(place: &MetadataPlace, read_only: bool) -> Result<Self, OfflineError> {
        let slot = match place.placement {
            Placement::Indexed(slot) => Some(slot),
            Placement::Internal | Placement::FlexibleExternal => None,
        };
        let mode = Mode { read_only, direct: true, claim: slot_claim(slot), ..Mode::default() };
        let file = BlockFile::open(&place.path, mode)?;
        file.wait_for_lock(LOCK_PATIENCE)?;
        Ok(Self { file, placement: place.placement })
    }

    pub(super) fn path(&self) -> PathBuf {
        self.file.path().to_owned()
    }

    pub(super) fn layout(
        &self,
        format: Format,
        max_peers: u32,
        striping: Striping,
        bytes_per_bit: u32,
    ) -> Result<Layout, OfflineError> {
        let shape = (format, max_peers, striping, bytes_per_bit);
        layout_on(self.file.path(), self.placement, self.file.size(), shape)
    }

    pub(super) fn no_metadata(&self, reason: SuperblockError) -> OfflineError {
        OfflineError::NoMetadata { path: self.path(), reason }
    }

    /// Refuses what [`Device::read_superblock`] would refuse, before it is written.
    pub(super) fn check_sound(&self, superblock: &Superblock) -> Result<(), OfflineError> {
        let judged = UnverifiedSuperblock::decode(&superblock.encode())
            .and_then(|unverified| unverified.judge(self.placement, self.file.size()));
        judged.map(|_| ()).map_err(|reason| OfflineError::Unusable { path: self.path(), reason })
    }

    /// The superblock, judged.
    pub(super) async fn read_superblock(&self) -> Result<(Superblock, Layout), OfflineError> {
        let block = self.superblock_block().await?;
        let unverified = UnverifiedSuperblock::decode(&block).map_err(|reason| self.no_metadata(reason))?;
        unverified.judge(self.placement, self.file.size()).map_err(|reason| self.no_metadata(reason))
    }

    /// What metadata there is, sound or not.
    pub(super) async fn find_metadata(&self) -> Result<Option<Existing>, OfflineError> {
        if superblock_offset(self.placement, self.file.size()).is_none() {
            return Ok(None);
        }
        let block = self.superblock_block().await?;
        Ok(match UnverifiedSuperblock::decode(&block) {
            Err(error) if error.is_absence() => None,
            Err(_) => Some(Existing::Foreign),
            Ok(unverified) => {
                let format = unverified.format();
                let judged = unverified.judge(self.placement, self.file.size());
                Some(judged.map_or(Existing::Torn(format), |(superblock, layout)| {
                    Existing::Sound(Box::new(superblock), layout)
                }))
            }
        })
    }

    async fn superblock_block(&self) -> Result<AlignedBuffer, OfflineError> {
        let Some(offset) = superblock_offset(self.placement, self.file.size()) else {
            return Err(self.no_metadata(SuperblockError::Length { found: 0 }));
        };
        self.read(offset..offset + BLOCK).await
    }

    /// The meaningful part of the bitmap, one run of words a slot.
    pub(super) async fn read_bitmap(
        &self,
        superblock: &Superblock,
        layout: &Layout,
    ) -> Result<Vec<Vec<u64>>, OfflineError> {
        let bytes = layout.bitmap_words_bytes_for(superblock.effective_size_sectors);
        let mut slots = vec![vec![0; layout.slot_words(bytes)]; layout.max_peers as usize];
        let range = layout.bitmap..layout.bitmap + bytes;
        if range.is_empty() {
            return Ok(slots);
        }
        let mut page = 0;
        bulk::read_pieces(&self.file, range, |_, piece| {
            for bytes in piece.chunks(METADATA_BLOCK_BYTES) {
                decode_page(page, bytes, &mut slots);
                page += 1;
            }
            true
        })
        .await?;
        Ok(slots)
    }

    /// The blocks of the activity log, in ring order.
    pub(super) async fn read_log(&self, layout: &Layout) -> Result<Vec<AlignedBuffer>, OfflineError> {
        let mut blocks = Vec::new();
        for number in 0..layout.striping.ring_blocks() {
            let offset = layout.activity_log_block_offset(number);
            blocks.push(self.read(offset..offset + BLOCK).await?);
        }
        Ok(blocks)
    }

    /// Refuses unless everything that will be written, and the places where others keep what names them, are blank; of a
    /// file also the rest. Force allows more, but not to cut off what says that it reaches into the metadata's place, nor
    /// to put metadata on a device of its own over what has that device already.
    pub(super) async fn check_free(&self, layout: &Layout, force: bool) -> Result<(), OfflineError> {
        let occupied = |found| Err(OfflineError::Occupied { path: self.path(), found });
        let Looked { existing, contents, unreadable } = self.look(layout).await;
        if let Some(existing) = existing.filter(|_| !force) {
            return occupied(existing.found());
        }
        if let Contents::Data(finding) = contents {
            self.check_spared(layout, finding)?;
        }
        // What cannot be read can be overwritten.
        if force {
            return Ok(());
        }
        match (unreadable, contents) {
            (Some(error), _) => return Err(error),
            (None, Contents::Data(finding)) => return occupied(Found::Data(finding.name)),
            (None, Contents::Unknown) => return occupied(Found::Unknown),
            (None, Contents::Blank) => {}
        }
        match self.first_data(layout).await? {
            Some((name, at)) => occupied(Found::DataAt(name, at)),
            None => Ok(()),
        }
    }

    /// The metadata that is there already, and what the device holds where things have signatures.
    async fn look(&self, layout: &Layout) -> Looked {
        let mut unreadable = None;
        let mut note = |error| {
            unreadable.get_or_insert(error);
        };
        let existing = self.find_metadata().await.unwrap_or_else(|error| {
            note(error);
            None
        });
        let whole = self.file.size() / BLOCK * BLOCK;
        // A shared device begins with somebody else's slot, and ends with one.
        let is_shared = matches!(layout.placement, Placement::Indexed(1..));
        let own_start = if is_shared { layout.superblock } else { 0 };
        let tail_start = if is_shared { whole } else { whole.saturating_sub(TAIL_BYTES) };
        let mut pieces = Vec::new();
        for range in [own_start..whole.min(own_start + HEAD_BYTES as u64), tail_start..whole] {
            match self.read(range).await {
                Ok(bytes) => pieces.push(bytes),
                Err(error) => {
                    note(error);
                    pieces.push(BufferPool::with_limit(0).take(0));
                }
            }
        }
        let mut contents = probe(&pieces[0], &[&pieces[1]]);
        if is_shared {
            match self.read(0..whole.min(HEAD_BYTES as u64)).await {
                // Whoever has the whole device has this slot, too.
                Ok(head) => contents = owner(&head).map_or(contents, Contents::Data),
                Err(error) => note(error),
            }
        }
        Looked { existing, contents, unreadable }
    }

    /// The first byte that is not zero, and what it seems to be: where metadata would go, and anywhere else in a file.
    async fn first_data(&self, layout: &Layout) -> Result<Option<(&'static str, u64)>, OfflineError> {
        let log_end = layout.activity_log + u64::from(layout.striping.ring_blocks()) * BLOCK;
        let area = match layout.placement {
            Placement::Internal => layout.bitmap..layout.superblock + BLOCK,
            Placement::FlexibleExternal | Placement::Indexed(_) => {
                layout.superblock..log_end.max(layout.bitmap + layout.bitmap_bytes)
            }
        };
        if let Some(found) = self.first_data_in(area, u64::MAX).await? {
            return Ok(Some(found));
        }
        if self.file.is_block_device() || matches!(layout.placement, Placement::Indexed(_)) {
            return Ok(None);
        }
        self.first_data_in(0..self.file.size() / BLOCK * BLOCK, SEARCH_BYTES_MAX).await
    }

    async fn first_data_in(
        &self,
        range: Range<u64>,
        mut budget: u64,
    ) -> Result<Option<(&'static str, u64)>, OfflineError> {
        let mut at = range.start;
        while let Some(data) = self.file.next_data(at)?.filter(|data| data.start < range.end) {
            let start = data.start.max(at) / BLOCK * BLOCK;
            let end = data.end.next_multiple_of(BLOCK).min(range.end).min(start.saturating_add(budget));
            let mut found = None;
            bulk::read_pieces(&self.file, start..end, |offset, piece| {
                found = found.or_else(|| first_in(offset, piece));
                found.is_none()
            })
            .await?;
            budget -= end - start;
            if found.is_some() || budget == 0 {
                return Ok(found);
            }
            at = end;
        }
        Ok(None)
    }

    /// Refuses what would damage the contents without a way back.
    fn check_spared(&self, layout: &Layout, Finding { name, extent }: Finding) -> Result<(), OfflineError> {
        let usable_bytes = layout.usable_sectors * SECTOR_BYTES;
        let is_spared = match (self.placement, extent) {
            (_, Extent::Unknown) => true,
            (Placement::Internal, Extent::Bytes(bytes)) => bytes <= usable_bytes,
            (Placement::Internal, Extent::Whole) => false,
            (Placement::FlexibleExternal | Placement::Indexed(_), Extent::Bytes(_) | Extent::Whole) => false,
        };
        match (is_spared, self.placement) {
            (true, _) => Ok(()),
            (false, Placement::Internal) => Err(OfflineError::CutOff { path: self.path(), name, extent, usable_bytes }),
            (false, _) => Err(OfflineError::InTheWay { path: self.path(), name }),
        }
    }

    /// Writes everything anew. `slots` may be empty: no bit is set.
    pub(super) async fn write_all(
        &self,
        layout: &Layout,
        superblock: &Superblock,
        slots: &[Vec<u64>],
    ) -> Result<(), OfflineError> {
        self.remove_superblock(layout).await?;
        bulk::zero_range(&self.file, layout.bitmap..layout.bitmap + layout.bitmap_bytes).await?;
        let bytes = layout.bitmap_words_bytes_for(superblock.effective_size_sectors);
        if !slots.is_empty() {
            self.write_bitmap(layout, slots, bytes).await?;
        }
        self.write_empty_log(layout).await?;
        bulk::sync(&self.file).await?;
        self.write_superblock(layout, superblock).await
    }

    /// Writes what applying the log has changed: bitmap, log, superblock, each durable before the next.
    pub(super) async fn write_applied(
        &self,
        layout: &Layout,
        superblock: &Superblock,
        slots: &[Vec<u64>],
        log_is_dirty: bool,
    ) -> Result<(), OfflineError> {
        let bytes = layout.bitmap_words_bytes_for(superblock.effective_size_sectors);
        self.write_bitmap(layout, slots, bytes).await?;
        bulk::sync(&self.file).await?;
        if log_is_dirty {
            self.write_empty_log(layout).await?;
            bulk::sync(&self.file).await?;
        }
        self.write_superblock(layout, superblock).await
    }

    async fn write_bitmap(&self, layout: &Layout, slots: &[Vec<u64>], bytes: u64) -> Result<(), OfflineError> {
        let slots: Vec<&[u64]> = slots.iter().map(Vec::as_slice).collect();
        let mut pages = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
        for (number, page) in pages.as_chunks_mut::<METADATA_BLOCK_BYTES>().0.iter_mut().enumerate() {
            encode_page(&slots, number, page);
        }
        self.write(layout.bitmap, pages.into()).await
    }

    async fn write_empty_log(&self, layout: &Layout) -> Result<(), OfflineError> {
        let log = initialised_block().repeat(layout.striping.ring_blocks() as usize);
        self.write(layout.activity_log, log.into()).await
    }

    /// Writes the superblock, durably.
    pub(super) async fn write_superblock(&self, layout: &Layout, superblock: &Superblock) -> Result<(), OfflineError> {
        self.write(layout.superblock, Bytes::copy_from_slice(&superblock.encode())).await?;
        Ok(bulk::sync(&self.file).await?)
    }

    /// Makes the superblock's block blank, durably.
    pub(super) async fn remove_superblock(&self, layout: &Layout) -> Result<(), OfflineError> {
        self.write(layout.superblock, vec![0; METADATA_BLOCK_BYTES].into()).await?;
        Ok(bulk::sync(&self.file).await?)
    }

    /// Reads a range; an empty one gives no bytes.
    async fn read(&self, range: Range<u64>) -> Result<AlignedBuffer, OfflineError> {
        Ok(bulk::read_range(&self.file, range).await?)
    }

    async fn write(&self, offset: u64, bytes: Bytes) -> Result<(), OfflineError> {
        if bytes.is_empty() {
            return Ok(());
        }
        Ok(bulk::write_range(&self.file, offset, bytes).await?)
    }
}

/// The first block of a piece that is not blank, and what it seems to be.
fn first_in(offset: u64, piece: &[u8]) -> Option<(&'static str, u64)> {
    let at = piece.iter().position(|byte| *byte != 0)?;
    let block = &piece[at / METADATA_BLOCK_BYTES * METADATA_BLOCK_BYTES..];
    let is_metadata = UnverifiedSuperblock::is_metadata(block);
    Some((if is_metadata { "DRBD metadata" } else { UNRECOGNISED }, offset + at as u64))
}

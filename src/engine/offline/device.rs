//! A device that holds metadata, and the order in which its parts are read and written.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use super::{MetadataPlace, OfflineError, layout_on};
use crate::io::block_file::{BlockFile, Mode};
use crate::io::buffer::AlignedBuffer;
use crate::io::bulk;
use crate::metadata::METADATA_BLOCK_BYTES;
use crate::metadata::activity_record::initialised_block;
use crate::metadata::bitmap_page::{decode_page, encode_page};
use crate::metadata::layout::{Format, Layout, Placement, Striping, superblock_offset};
use crate::metadata::probe::{Contents, Extent, Finding, HEAD_BYTES, probe};
use crate::metadata::superblock::{Superblock, SuperblockError, UnverifiedSuperblock};
use crate::model::units::SECTOR_BYTES;

const BLOCK: u64 = METADATA_BLOCK_BYTES as u64;

/// How much of the end of a device is looked at: copies of partition tables lie there.
const TAIL_BYTES: u64 = 64 << 10;

/// How long a device that is in use is waited for: a daemon that was killed holds it until its last write is done.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// What stands where metadata should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// DRBD's metadata of that format.
    Metadata(Format),
    /// Something else.
    Data(&'static str),
    /// Nothing could be read.
    Unknown,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metadata(format) => write!(f, "DRBD metadata ({format})"),
            Self::Data(name) => f.write_str(name),
            Self::Unknown => f.write_str("nothing readable"),
        }
    }
}

pub(super) struct Device {
    file: BlockFile,
    placement: Placement,
}

impl Device {
    pub(super) fn open(place: &MetadataPlace, read_only: bool) -> Result<Self, OfflineError> {
        let file = BlockFile::open(&place.path, Mode { read_only, direct: true, ..Mode::default() })?;
        file.wait_for_lock(LOCK_PATIENCE)?;
        Ok(Self { file, placement: place.placement })
    }

    pub(super) fn path(&self) -> PathBuf {
        self.file.path().to_owned()
    }

    pub(super) fn layout(&self, format: Format, max_peers: u32, striping: Striping) -> Result<Layout, OfflineError> {
        layout_on(self.file.path(), self.placement, self.file.size(), (format, max_peers, striping))
    }

    /// The superblock, judged.
    pub(super) async fn read_superblock(&self) -> Result<(Superblock, Layout), OfflineError> {
        let no_metadata = |reason| OfflineError::NoMetadata { path: self.path(), reason };
        let block = self.superblock_block().await?;
        let unverified = UnverifiedSuperblock::decode(&block).map_err(no_metadata)?;
        unverified.judge(self.placement, self.file.size()).map_err(no_metadata)
    }

    async fn superblock_block(&self) -> Result<AlignedBuffer, OfflineError> {
        let Some(offset) = superblock_offset(self.placement, self.file.size()) else {
            let reason = SuperblockError::Length { found: 0 };
            return Err(OfflineError::NoMetadata { path: self.path(), reason });
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

    /// Refuses unless the places that will be written, and the places where others keep what names them, are blank.
    /// Force allows more, but not to cut off what says that it reaches into the metadata's place, nor to put metadata on a
    /// device of its own over what has that device already.
    pub(super) async fn check_free(&self, layout: &Layout, force: bool) -> Result<(), OfflineError> {
        let occupied = |found| Err(OfflineError::Occupied { path: self.path(), found });
        let (metadata, contents) = match self.look(layout).await {
            Ok(found) => found,
            // What cannot be read can be overwritten.
            Err(_) if force => return Ok(()),
            Err(error) => return Err(error),
        };
        if let Some(format) = metadata.filter(|_| !force) {
            return occupied(Found::Metadata(format));
        }
        match contents {
            Contents::Data(finding) => {
                self.check_spared(layout, finding)?;
                if force { Ok(()) } else { occupied(Found::Data(finding.name)) }
            }
            Contents::Unknown if !force => occupied(Found::Unknown),
            Contents::Blank | Contents::Unknown => Ok(()),
        }
    }

    /// The format of metadata that is there already, and what the device holds.
    async fn look(&self, layout: &Layout) -> Result<(Option<Format>, Contents), OfflineError> {
        let block = self.superblock_block().await?;
        let metadata = UnverifiedSuperblock::decode(&block).ok().map(|metadata| metadata.format());
        let whole = self.file.size() / BLOCK * BLOCK;
        let log = layout.activity_log..layout.activity_log + u64::from(layout.striping.ring_blocks()) * BLOCK;
        let head = self.read(0..whole.min(HEAD_BYTES as u64)).await?;
        let log = self.read(log).await?;
        let bitmap = self.read(layout.bitmap..layout.bitmap + layout.bitmap_bytes.min(TAIL_BYTES)).await?;
        let tail = self.read(whole.saturating_sub(TAIL_BYTES)..whole).await?;
        Ok((metadata, probe(&head, &[&block, &log, &bitmap, &tail])))
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

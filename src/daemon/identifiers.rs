//! The generation identifiers of a disk, read from its metadata: what would count after a crash.
//!
//! While a disk is attached its metadata belongs to the resource's thread; a reader may look, since a superblock is one
//! write of one block. Looking is done aside: a disk may not answer, and who asks others meanwhile shall not wait for it.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::config::Volume;
use crate::control::refusal::ConfigurationRefusal;
use crate::control::{Request, Response, Verb};
use crate::io::buffer::{AlignedBuffer, BufferPool};
use crate::metadata::METADATA_BLOCK_BYTES;
use crate::metadata::dump::{get_gi, show_gi};
use crate::metadata::layout::{Format, Placement, superblock_offset};
use crate::metadata::superblock::{Superblock, SuperblockError, UnverifiedSuperblock};

use super::node::Node;
use super::problem::Problem;
use super::running::volumes;
use super::server::Out;
use super::settings::{backing_paths, placement};

/// `show-gi` and `get-gi`.
pub(super) async fn show(node: &Node, request: &Request, out: &Out) -> Result<(), Problem> {
    let names = match &request.resource {
        Some(name) => vec![name.clone()],
        None => node.all()?,
    };
    for name in names {
        let resource = match node.find(&name) {
            Some(running) => running.resource(),
            None => node.resolve(&node.config(None)?, &name)?,
        };
        let peer = resource.peers.first().map_or(0, |peer| peer.node_id.index());
        for volume in volumes(&resource, request.volume)?.into_iter().filter_map(|index| resource.volumes.get(index)) {
            out.waits_for(format!("the metadata of {name}/{} to be read", volume.number));
            let superblock = read(volume).await?;
            let peer = if superblock.format == Format::V08 { 0 } else { peer };
            let text = match request.verb {
                Verb::GetGi => get_gi(&superblock, peer),
                _ => show_gi(&superblock, peer).trim_end().to_owned(),
            };
            out.say(Response::Text(text)).await;
        }
    }
    Ok(())
}

/// Why there is no superblock to look at.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The configuration has none.
    #[error("the volume has no disk on this node")]
    NoDisk,
    /// It cannot be opened or read.
    #[error("{path}: {source}", path = path.display())]
    Unreadable {
        /// Which disk.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It has no room.
    #[error("{path}: too small for metadata", path = path.display())]
    TooSmall {
        /// Which disk.
        path: PathBuf,
    },
    /// What is there is no metadata, or must not be used.
    #[error("{path}: {reason}", path = path.display())]
    Unusable {
        /// Which disk.
        path: PathBuf,
        /// What is wrong with it.
        reason: SuperblockError,
    },
    /// Whoever looked is gone.
    #[error("the disk was not looked at to the end; the daemon's log says why")]
    Interrupted,
}

impl ReadError {
    /// Whether there is no metadata at all: nothing that new metadata would destroy.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::Unusable { reason, .. } if reason.is_absence())
    }

    /// DRBD's number for it.
    pub(super) fn code(&self) -> ConfigurationRefusal {
        match self {
            Self::Unusable { .. } => ConfigurationRefusal::NoMetadata,
            _ => ConfigurationRefusal::CannotOpenDisk,
        }
    }
}

/// Reads and judges the superblock. Who gives up waiting leaves a thread behind until the disk answers.
pub(super) async fn read(volume: &Volume) -> Result<Superblock, ReadError> {
    let paths = backing_paths(volume).ok_or(ReadError::NoDisk)?;
    let (path, placement) = (paths.metadata.unwrap_or(paths.data), placement(&volume.meta));
    let looked = tokio::task::spawn_blocking(move || look(path, placement)).await;
    looked.unwrap_or(Err(ReadError::Interrupted))
}

fn look(path: PathBuf, placement: Placement) -> Result<Superblock, ReadError> {
    let (block, bytes) = match read_block(&path, placement) {
        Ok(Some(read)) => read,
        Ok(None) => return Err(ReadError::TooSmall { path }),
        Err(source) => return Err(ReadError::Unreadable { path, source }),
    };
    let judged = UnverifiedSuperblock::decode(&block).and_then(|unverified| unverified.judge(placement, bytes));
    judged.map(|(superblock, _)| superblock).map_err(|reason| ReadError::Unusable { path, reason })
}

/// The block where the superblock should be, and the size of the disk; `None` where there is no room for one.
fn read_block(path: &Path, placement: Placement) -> io::Result<Option<(AlignedBuffer, u64)>> {
    let mut file = open(path)?;
    let bytes = file.seek(SeekFrom::End(0))?;
    let Some(at) = superblock_offset(placement, bytes) else { return Ok(None) };
    let mut block = BufferPool::with_limit(0).take(METADATA_BLOCK_BYTES);
    file.read_exact_at(&mut block, at)?;
    Ok(Some((block, bytes)))
}

/// Opens without a claim on the device, past the page cache where that can be done: as the resource's thread writes.
fn open(path: &Path) -> io::Result<File> {
    let direct = File::options().read(true).custom_flags(OFlag::O_DIRECT.bits()).open(path);
    direct.or_else(|_| File::open(path))
}

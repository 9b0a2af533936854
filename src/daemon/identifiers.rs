//! The generation identifiers of a disk, read from its metadata: what would count after a crash.
//!
//! While a disk is attached its metadata belongs to the resource's thread; a reader may look, since a superblock is one
//! write of one block.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use crate::config::Volume;
use crate::control::{Request, Response, Verb};
use crate::io::buffer::BufferPool;
use crate::metadata::METADATA_BLOCK_BYTES;
use crate::metadata::dump::{get_gi, show_gi};
use crate::metadata::layout::{Format, superblock_offset};
use crate::metadata::superblock::{Superblock, UnverifiedSuperblock};

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
            Some(running) => running.resource().clone(),
            None => node.resolve(&node.config(None)?, &name)?,
        };
        let peer = resource.peers.first().map_or(0, |peer| peer.node_id.index());
        for volume in volumes(&resource, request.volume)?.into_iter().filter_map(|index| resource.volumes.get(index)) {
            let superblock = read(volume).map_err(|sentence| Problem::Metadata { sentence })?;
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

/// Reads and judges the superblock. One block: short enough to be read on a control thread.
pub(super) fn read(volume: &Volume) -> Result<Superblock, String> {
    let paths = backing_paths(volume).ok_or("the volume has no disk on this node")?;
    let path = paths.metadata.unwrap_or(paths.data);
    let placement = placement(&volume.meta);
    let at_path = |error: String| format!("{}: {error}", path.display());
    let mut file = open(&path).map_err(|error| at_path(error.to_string()))?;
    let bytes = file.seek(SeekFrom::End(0)).map_err(|error| at_path(error.to_string()))?;
    let at = superblock_offset(placement, bytes).ok_or_else(|| at_path("too small for metadata".into()))?;
    let mut block = BufferPool::with_limit(0).take(METADATA_BLOCK_BYTES);
    file.read_exact_at(&mut block, at).map_err(|error| at_path(error.to_string()))?;
    let unverified = UnverifiedSuperblock::decode(&block).map_err(|error| at_path(error.to_string()))?;
    unverified.judge(placement, bytes).map(|(superblock, _)| superblock).map_err(|error| at_path(error.to_string()))
}

/// Opens without a claim on the device, past the page cache where that can be done: as the resource's thread writes.
fn open(path: &Path) -> io::Result<File> {
    let direct = File::options().read(true).custom_flags(OFlag::O_DIRECT.bits()).open(path);
    direct.or_else(|_| File::open(path))
}

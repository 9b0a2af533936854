//! What the kernel knows about a backing store: size, units, alignment, and who has locked it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::stat::{fstat, major, minor};

use super::block_file::Holder;
use super::buffer::{ALIGNMENT, BufferPool};
use super::descriptor::{Alignment, Descriptor, DescriptorKind, checked};

/// `BLKGETSIZE64`: size in bytes.
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272;
/// `BLKSSZGET`: logical block in bytes.
const BLKSSZGET: libc::Ioctl = 0x1268;

/// The unit of everything that does not say otherwise.
const SECTOR: u32 = 512;

/// The facts that do not change while a store is open, but for the size.
#[derive(Clone, Copy, Debug)]
pub(in crate::io) struct Geometry {
    pub(in crate::io) size: u64,
    pub(in crate::io) logical_block: u32,
    /// For transfers that bypass the page cache.
    pub(in crate::io) alignment: Alignment,
    /// For `fallocate`.
    pub(in crate::io) space_unit: u32,
    pub(in crate::io) is_rotational: Option<bool>,
    pub(in crate::io) supports_discard: bool,
}

pub(in crate::io) fn measure(descriptor: &Descriptor, is_direct: bool, read_only: bool) -> io::Result<Geometry> {
    let size = size_of(descriptor)?;
    let logical_block = logical_block(descriptor)?;
    let alignment = match direct_alignment(descriptor) {
        _ if !is_direct => Alignment::NONE,
        Some(Alignment { memory, offset }) => Alignment { memory, offset: offset.max(logical_block) },
        None => fallback_alignment(descriptor, logical_block),
    };
    // A file's space may be changed by the byte; its file system zeroes ragged ends.
    let space_unit = if descriptor.kind() == DescriptorKind::BlockDevice { logical_block } else { 1 };
    let logical_block = logical_block.max(alignment.offset);
    let queue = queue_directory(descriptor);
    let supports_discard = match descriptor.kind() {
        // To give space back so that it reads as zeroes is a command of its own; after a plain discard anything may be read.
        DescriptorKind::BlockDevice => {
            attribute(queue.as_deref(), "write_zeroes_max_bytes").is_some_and(|most| most > 0)
        }
        _ => !read_only && punches_holes(descriptor, size),
    };
    let is_rotational = attribute(queue.as_deref(), "rotational").map(|value| value != 0);
    Ok(Geometry { size, logical_block, alignment, space_unit, is_rotational, supports_discard })
}

pub(in crate::io) fn size_of(descriptor: &Descriptor) -> io::Result<u64> {
    if descriptor.kind() == DescriptorKind::BlockDevice {
        let mut size: u64 = 0;
        // SAFETY: the ioctl writes one 64-bit number during the call.
        checked(unsafe { libc::ioctl(descriptor.as_raw_fd(), BLKGETSIZE64, &raw mut size) })?;
        return Ok(size);
    }
    let status = fstat(descriptor)?;
    Ok(u64::try_from(status.st_size).unwrap_or(0))
}

fn logical_block(descriptor: &Descriptor) -> io::Result<u32> {
    if descriptor.kind() != DescriptorKind::BlockDevice {
        return Ok(SECTOR);
    }
    let mut size: libc::c_int = 0;
    // SAFETY: the ioctl writes one int during the call.
    checked(unsafe { libc::ioctl(descriptor.as_raw_fd(), BLKSSZGET, &raw mut size) })?;
    Ok(u32::try_from(size).unwrap_or(SECTOR).max(SECTOR))
}

/// Alignment of memory and of offsets for O_DIRECT, if the kernel (6.1 and later) and the file system say.
fn direct_alignment(descriptor: &Descriptor) -> Option<Alignment> {
    // SAFETY: all zeroes is a valid `statx`.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an empty path with AT_EMPTY_PATH means the descriptor; the kernel fills `status` during the call.
    let result = unsafe {
        libc::statx(descriptor.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &raw mut status)
    };
    let is_known = result == 0 && status.stx_mask & libc::STATX_DIOALIGN != 0 && status.stx_dio_offset_align > 0;
    is_known.then_some(Alignment { memory: status.stx_dio_mem_align.max(1), offset: status.stx_dio_offset_align })
}

/// Where the kernel does not say: try a sector, else a page. Device: its logical block.
fn fallback_alignment(descriptor: &Descriptor, logical_block: u32) -> Alignment {
    let page = u32::try_from(ALIGNMENT).expect("a page is small");
    let unit = match descriptor.kind() {
        DescriptorKind::BlockDevice => logical_block,
        _ if reads_directly(descriptor, SECTOR as usize) => SECTOR,
        _ => page,
    };
    Alignment { memory: unit, offset: unit }
}

/// Whether a file opened with O_DIRECT really takes aligned transfers: some file systems only refuse those.
pub(in crate::io) fn takes_direct(file: &fs::File) -> bool {
    reads_directly(file, ALIGNMENT)
}

fn reads_directly(file: impl AsFd, len: usize) -> bool {
    let mut buffer = BufferPool::with_limit(0).take(len);
    !matches!(nix::sys::uio::pread(file, &mut buffer, 0), Err(nix::errno::Errno::EINVAL))
}

/// Tries to punch a hole behind the end of the file, which changes nothing.
fn punches_holes(descriptor: &Descriptor, size: u64) -> bool {
    let Ok(offset) = libc::off_t::try_from(size.next_multiple_of(ALIGNMENT as u64)) else { return false };
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: no pointers.
    checked(unsafe { libc::fallocate(descriptor.as_raw_fd(), mode, offset, ALIGNMENT as libc::off_t) }).is_ok()
}

/// The sysfs directory of the queue of the device, or of the device the file lies on.
fn queue_directory(descriptor: &Descriptor) -> Option<String> {
    let status = fstat(descriptor).ok()?;
    let device = if descriptor.kind() == DescriptorKind::BlockDevice { status.st_rdev } else { status.st_dev };
    let directory = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    // A partition has no queue of its own; its disk is one level up.
    [format!("{directory}/queue"), format!("{directory}/../queue")]
        .into_iter()
        .find(|queue| fs::metadata(queue).is_ok_and(|status| status.is_dir()))
}

fn attribute(queue: Option<&str>, name: &str) -> Option<u64> {
    fs::read_to_string(format!("{}/{name}", queue?)).ok()?.trim().parse().ok()
}

/// Who holds a `flock` on the file, from the kernel's table.
pub(in crate::io) fn lock_holder(descriptor: &Descriptor) -> Option<Holder> {
    let status = fstat(descriptor).ok()?;
    let file = format!("{:02x}:{:02x}:{}", major(status.st_dev), minor(status.st_dev), status.st_ino);
    let table = fs::read_to_string("/proc/locks").ok()?;
    let process = holder_in(&table, &file)?;
    let name = fs::read_to_string(format!("/proc/{process}/comm")).ok().map(|name| name.trim().to_owned());
    Some(Holder { process, name })
}

/// The process in the line that reads `1: FLOCK ADVISORY WRITE process major:minor:inode start end`. A line of somebody
/// who waits has an arrow in it and does not match.
fn holder_in(table: &str, file: &str) -> Option<i32> {
    table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [_, "FLOCK", _, _, process, locked, ..] if *locked == file => process.parse().ok().filter(|id| *id > 0),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_in_the_kernels_table() {
        let table = "1: POSIX  ADVISORY  WRITE 11 fe:00:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4242 fe:00:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 13 fe:00:78 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE -1 fe:00:79 0 EOF\nnonsense\n";
        assert_eq!(holder_in(table, "fe:00:77"), Some(4242));
        assert_eq!(holder_in(table, "fe:00:78"), None, "it only waits");
        assert_eq!(holder_in(table, "fe:00:79"), None, "a process of another namespace has no number here");
    }
}

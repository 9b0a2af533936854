//! A file descriptor that operations can share, and what kind of thing it names.
//!
//! An operation in flight holds a clone, so the number cannot be closed and reused for something else under it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// What a descriptor names, as far as operations differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorKind {
    /// A regular file.
    File,
    /// A block device.
    BlockDevice,
    /// A socket, an eventfd, anything else.
    Other,
}

/// What transfers must be multiples of. Some file systems would do others through the page cache without a word, and the
/// two ways must not be mixed on one file; so who bypasses the cache says so here and the ring refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Of memory addresses.
    pub memory: u32,
    /// Of offsets and of the length of each piece.
    pub offset: u32,
}

impl Alignment {
    /// Everything is allowed.
    pub const NONE: Self = Self { memory: 1, offset: 1 };

    /// Whether memory at this address with this length may be transferred.
    #[must_use]
    pub fn allows_memory(self, bytes: &[u8]) -> bool {
        (bytes.as_ptr() as usize).is_multiple_of(self.memory as usize)
            && bytes.len().is_multiple_of(self.offset as usize)
    }

    /// Whether a position or length may be used.
    #[must_use]
    pub fn allows_offset(self, offset: u64) -> bool {
        offset.is_multiple_of(u64::from(self.offset))
    }
}

/// A shared, open descriptor; closed when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Descriptor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    kind: DescriptorKind,
    alignment: Alignment,
    space_unit: u32,
}

impl Descriptor {
    /// A backing store, whose transfers must be aligned, and whose space (`fallocate`) is given out and zeroed in units.
    #[must_use]
    pub fn store(fd: OwnedFd, alignment: Alignment, space_unit: u32) -> Self {
        let kind = kind_of(fd.as_fd());
        Self(Arc::new(Inner { fd, kind, alignment, space_unit: space_unit.max(1) }))
    }

    /// What its transfers must be multiples of.
    #[must_use]
    pub fn alignment(&self) -> Alignment {
        self.0.alignment
    }

    /// What ranges of `fallocate` must be multiples of: a block device's logical block, also where transfers go through the
    /// page cache and may be smaller.
    #[must_use]
    pub fn space_unit(&self) -> u32 {
        self.0.space_unit
    }

    /// What it names.
    #[must_use]
    pub fn kind(&self) -> DescriptorKind {
        self.0.kind
    }

    /// The descriptor itself, if nobody else holds it.
    ///
    /// # Errors
    /// Somebody does; the clone comes back.
    pub fn try_into_owned(self) -> Result<OwnedFd, Self> {
        Arc::try_unwrap(self.0).map(|inner| inner.fd).map_err(Self)
    }

    /// Whether both are clones of one descriptor.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl From<OwnedFd> for Descriptor {
    fn from(fd: OwnedFd) -> Self {
        Self::store(fd, Alignment::NONE, 1)
    }
}

impl From<std::fs::File> for Descriptor {
    fn from(file: std::fs::File) -> Self {
        OwnedFd::from(file).into()
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd.as_raw_fd()
    }
}

fn kind_of(fd: BorrowedFd<'_>) -> DescriptorKind {
    let Ok(status) = nix::sys::stat::fstat(fd) else { return DescriptorKind::Other };
    match status.st_mode & libc::S_IFMT {
        libc::S_IFREG => DescriptorKind::File,
        libc::S_IFBLK => DescriptorKind::BlockDevice,
        _ => DescriptorKind::Other,
    }
}

/// Takes over a descriptor that a system call has just returned, or the error it left in `errno`.
pub(in crate::io) fn owned(result: libc::c_int) -> std::io::Result<OwnedFd> {
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the caller passes the result of a call that made a new descriptor, and nobody else has seen its number.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// A system call's result as a `Result`.
pub(in crate::io) fn checked(result: libc::c_int) -> std::io::Result<libc::c_int> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}

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

/// A shared, open descriptor; closed when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Descriptor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    kind: DescriptorKind,
}

impl Descriptor {
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
        let kind = kind_of(fd.as_fd());
        Self(Arc::new(Inner { fd, kind }))
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

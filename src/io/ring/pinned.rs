//! The small structures that the kernel reads beside the data: message headers, vectors, addresses, times.
//!
//! They live at an address of their own until the operation's last completion, because the table of operations moves its
//! entries when it grows. They are used again, so a send costs no allocation once its vector has grown.

use std::net::SocketAddr;
use std::ptr::NonNull;
use std::time::Duration;

use io_uring::types::Timespec;
use nix::sys::socket::{SockaddrLike, SockaddrStorage};

/// How many vectors the kernel takes in one call (UIO_MAXIOV).
pub(super) const VECTORS_MAX: usize = 1024;

/// How many unused ones a ring keeps: more than a resource has sends and vectored writes in flight.
const FREE_MAX: usize = 128;

pub(super) struct Parts {
    vectors: Vec<libc::iovec>,
    header: libc::msghdr,
    address: Option<SockaddrStorage>,
    time: Timespec,
}

/// An owned [`Parts`] at a fixed address. Kept as a raw pointer so that moving it asserts nothing about the contents,
/// which the kernel may be reading or, for a message header, writing.
pub(super) struct Pinned(NonNull<Parts>);

impl Pinned {
    fn new() -> Self {
        // SAFETY: all zeroes is a valid `msghdr`: null pointers with zero lengths.
        let header = unsafe { std::mem::zeroed() };
        let parts = Box::new(Parts { vectors: Vec::new(), header, address: None, time: Timespec::new() });
        Self(NonNull::from(Box::leak(parts)))
    }

    fn parts(&mut self) -> &mut Parts {
        // SAFETY: this value owns the allocation and is borrowed exclusively. Callers set parts only while no operation
        // that uses them is in flight: a flight prepares its entries when the kernel owes it nothing.
        unsafe { self.0.as_mut() }
    }

    /// Sets the vectors; how many there are.
    pub(super) fn set_vectors(&mut self, vectors: impl Iterator<Item = libc::iovec>) -> usize {
        let parts = self.parts();
        parts.vectors.clear();
        parts.vectors.extend(vectors);
        parts.vectors.len()
    }

    pub(super) fn vectors(&mut self) -> *const libc::iovec {
        self.parts().vectors.as_ptr()
    }

    /// A message header over the vectors.
    pub(super) fn header(&mut self) -> *mut libc::msghdr {
        let parts = self.parts();
        parts.header.msg_iov = parts.vectors.as_mut_ptr();
        parts.header.msg_iovlen = parts.vectors.len();
        &raw mut parts.header
    }

    pub(super) fn set_address(&mut self, address: SocketAddr) -> (*const libc::sockaddr, libc::socklen_t) {
        let storage = self.parts().address.insert(SockaddrStorage::from(address));
        (storage.as_ptr(), storage.len())
    }

    pub(super) fn set_time(&mut self, duration: Duration) -> *const Timespec {
        let parts = self.parts();
        parts.time = Timespec::from(duration);
        &raw const parts.time
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: made by `Box::leak` in `new`, and this is its only owner. The ring drops it after the last completion.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// Unused ones.
#[derive(Default)]
pub(super) struct FreeList(Vec<Pinned>);

impl FreeList {
    pub(super) fn take(&mut self) -> Pinned {
        self.0.pop().unwrap_or_else(Pinned::new)
    }

    pub(super) fn give_back(&mut self, pinned: Pinned) {
        if self.0.len() < FREE_MAX {
            self.0.push(pinned);
        }
    }
}

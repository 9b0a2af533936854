//! One block of memory: from the allocator, or mapped if it is large.
//!
//! Invariants: it is initialised (a mapped page becomes zeroes when it is touched), aligned to [`ALIGNMENT`], and given back
//! the way it was taken, which its capacity tells.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use super::ALIGNMENT;

/// Blocks of more bytes than this are mapped.
pub(super) const LARGE_BYTES: usize = 1 << 20;

/// One allocation, or, if it is large, one anonymous mapping. Whoever has the value owns the bytes.
pub(super) struct Memory {
    pub(super) start: NonNull<u8>,
    pub(super) capacity: usize,
}

// SAFETY: `Memory` is plain bytes with one owner; nothing in it belongs to a thread.
unsafe impl Send for Memory {}
// SAFETY: a shared `Memory` gives out only its address; who makes slices from it says why they do not alias.
unsafe impl Sync for Memory {}

impl Memory {
    pub(super) fn new(capacity: usize) -> Self {
        let layout = Self::layout(capacity.max(ALIGNMENT));
        let start = if layout.size() > LARGE_BYTES { Self::map(layout.size()) } else { Self::allocate(layout) };
        let Some(start) = start else { handle_alloc_error(layout) };
        Self { start, capacity: layout.size() }
    }

    /// Zeroed memory. (The allocator's own zeroing does the same for this alignment.)
    fn allocate(layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc(layout) })?;
        // SAFETY: the allocation has so many bytes, and nobody else knows of it.
        unsafe { start.as_ptr().write_bytes(0, layout.size()) };
        Some(start)
    }

    /// Zero pages, made by the kernel when they are touched; a page is aligned to itself.
    fn map(capacity: usize) -> Option<NonNull<u8>> {
        let (protection, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: no file and no address are named; a new mapping overlaps nothing.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), capacity, protection, kind, -1, 0) };
        if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) }
    }

    pub(super) fn is_mapped(&self) -> bool {
        self.capacity > LARGE_BYTES
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, ALIGNMENT).expect("a capacity is far below the address space")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.is_mapped() {
            // SAFETY: `start` came from `mmap` with this length and the owner is going away.
            let result = unsafe { libc::munmap(self.start.as_ptr().cast(), self.capacity) };
            assert_eq!(result, 0, "a mapping of ours can be taken away");
        } else {
            // SAFETY: `start` came from `alloc` with this layout and the owner is going away.
            unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
        }
    }
}

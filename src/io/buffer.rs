//! Aligned memory that is used again: buffers for one operation, and chunks that a stream is received into.
//!
//! Allocating per request costs one and a half to two times the CPU of a pooled buffer, and O_DIRECT wants alignment;
//! so all payload memory comes from a [`BufferPool`] of 4096-aligned blocks in size classes. A block has one owner
//! ([`AlignedBuffer`]) until it is frozen into [`Bytes`]; when the last of these is dropped, on whatever thread, the
//! block goes back to its pool.
//!
//! Small blocks come from the allocator. Large ones are mapped: their pages take no memory before something is put into
//! them, so a client that only announces a large payload costs nothing. A few are kept, because to have the kernel make
//! and zero the pages again costs more than all else that is done with a payload.
//!
//! A [`Chunk`] is the receiving side:
//!
//! ```text
//! 0                    filled                     limit              capacity
//! | received: shared,   | the next receive: the    | nobody's          |
//! | handed out as Bytes | kernel's while in flight |                   |
//! ```
//!
//! Invariants: memory is initialised from the beginning (zeroed when allocated), so no byte is ever undefined; a byte of
//! a chunk is written before `filled` passes it and never after, so slices handed out are immutable.
//! A small slice keeps its whole chunk alive: who keeps bytes for long copies them.

mod memory;

use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use self::memory::{LARGE_BYTES, Memory};

/// Alignment of every buffer's start: a page, and the largest logical block there is.
pub const ALIGNMENT: usize = 4096;

/// What a stream is received into at once. Larger gained nothing in measurement, smaller cost system calls.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Sizes that are kept for reuse, up to the longest request of a client. What is larger is mapped and unmapped each time.
const CLASS_BYTES: [usize; 10] =
    [4 << 10, 16 << 10, 64 << 10, 256 << 10, LARGE_BYTES, 2 << 20, 4 << 20, 8 << 20, 16 << 20, 32 << 20];

/// How much free memory a pool keeps unless told otherwise: 64 requests of 1 MiB, or all the 4 KiB requests that one
/// resource can have in flight.
const CACHED_BYTES_MAX: usize = 64 << 20;

/// How much of that in large blocks, besides: four of the longest requests, which is a queue of them.
const LARGE_CACHED_BYTES_MAX: usize = 128 << 20;

/// A source of aligned buffers. Clones share the free lists.
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    classes: [Mutex<Class>; CLASS_BYTES.len()],
    small: Cached,
    large: Cached,
}

/// Free blocks of one size.
#[derive(Default)]
struct Class {
    free: Vec<Memory>,
    /// The fewest there were since the last [`BufferPool::trim`]: so many nobody has needed.
    least: usize,
}

/// How much is kept, and how much may be.
struct Cached {
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl Cached {
    fn new(bytes_max: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), bytes_max }
    }
}

impl Default for BufferPool {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool").field("cached_bytes", &self.cached_bytes()).finish_non_exhaustive()
    }
}

impl BufferPool {
    /// An empty pool with the usual bound.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limits(CACHED_BYTES_MAX, LARGE_CACHED_BYTES_MAX)
    }

    /// An empty pool that keeps at most `cached_bytes_max` of free memory, and no large blocks.
    #[must_use]
    pub fn with_limit(cached_bytes_max: usize) -> Self {
        Self::with_limits(cached_bytes_max, 0)
    }

    fn with_limits(small: usize, large: usize) -> Self {
        let classes = std::array::from_fn(|_| Mutex::default());
        Self { shared: Arc::new(Shared { classes, small: Cached::new(small), large: Cached::new(large) }) }
    }

    /// A buffer of `len` bytes whose contents are whatever was there.
    #[must_use]
    pub fn take(&self, len: usize) -> AlignedBuffer {
        let memory = match class_of(len) {
            Some(class) => self.shared.reuse(class).unwrap_or_else(|| Memory::new(CLASS_BYTES[class])),
            None => Memory::new(len.next_multiple_of(ALIGNMENT)),
        };
        AlignedBuffer { memory: Some(memory), len, pool: Arc::clone(&self.shared) }
    }

    /// A buffer of `len` zero bytes.
    #[must_use]
    pub fn take_zeroed(&self, len: usize) -> AlignedBuffer {
        let mut buffer = self.take(len);
        buffer.fill(0);
        buffer
    }

    /// A buffer holding a copy of `bytes`: how a payload that came unaligned gets ready for O_DIRECT.
    #[must_use]
    pub fn copy_of(&self, bytes: &[u8]) -> AlignedBuffer {
        let mut buffer = self.take(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// An empty chunk of [`CHUNK_BYTES`].
    #[must_use]
    pub fn chunk(&self) -> Chunk {
        self.chunk_of(CHUNK_BYTES)
    }

    /// An empty chunk of `capacity` bytes.
    #[must_use]
    pub fn chunk_of(&self, capacity: usize) -> Chunk {
        Chunk { memory: Arc::new(self.take(capacity)), filled: 0, view: None }
    }

    /// Gives back what nobody has needed since this was called last: what a burst has left behind.
    pub fn trim(&self) {
        for class in 0..CLASS_BYTES.len() {
            let mut of = self.shared.class(class);
            let kept = of.free.len() - of.least;
            let unused = of.free.split_off(kept);
            of.least = kept;
            drop(of);
            for memory in unused {
                self.shared.cached(&memory).bytes.fetch_sub(memory.capacity, Ordering::Relaxed);
            }
        }
    }

    /// How much free memory is being kept.
    #[must_use]
    pub fn cached_bytes(&self) -> usize {
        let Shared { small, large, .. } = &*self.shared;
        small.bytes.load(Ordering::Relaxed) + large.bytes.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn class(&self, class: usize) -> MutexGuard<'_, Class> {
        self.classes[class].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reuse(&self, class: usize) -> Option<Memory> {
        let mut of = self.class(class);
        let memory = of.free.pop()?;
        of.least = of.least.min(of.free.len());
        drop(of);
        self.cached(&memory).bytes.fetch_sub(memory.capacity, Ordering::Relaxed);
        Some(memory)
    }

    fn cached(&self, memory: &Memory) -> &Cached {
        if memory.is_mapped() { &self.large } else { &self.small }
    }

    fn give_back(&self, memory: Memory) {
        let Some(class) = class_of(memory.capacity).filter(|class| CLASS_BYTES[*class] == memory.capacity) else {
            return;
        };
        // The bound may be passed by a few buffers when threads race; it is there to keep memory from growing for ever.
        let cached = self.cached(&memory);
        let bytes = cached.bytes.fetch_add(memory.capacity, Ordering::Relaxed) + memory.capacity;
        if bytes > cached.bytes_max {
            cached.bytes.fetch_sub(memory.capacity, Ordering::Relaxed);
            return;
        }
        self.class(class).free.push(memory);
    }
}

fn class_of(len: usize) -> Option<usize> {
    CLASS_BYTES.iter().position(|bytes| len <= *bytes)
}

/// A buffer with one owner, aligned to [`ALIGNMENT`]. Its memory returns to the pool when it is dropped.
pub struct AlignedBuffer {
    /// Present until drop takes it.
    memory: Option<Memory>,
    len: usize,
    pool: Arc<Shared>,
}

impl AlignedBuffer {
    /// How long it may become.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.as_ref().map_or(0, |memory| memory.capacity)
    }

    /// Changes the length. New bytes are whatever was there.
    ///
    /// # Panics
    /// `len` is more than the capacity.
    pub fn resize(&mut self, len: usize) {
        assert!(len <= self.capacity(), "a buffer of {} bytes cannot hold {len}", self.capacity());
        self.len = len;
    }

    /// The same bytes, immutable and shared. The memory returns to the pool when the last clone or slice is dropped.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// Where the bytes begin. Stays the same while the buffer is moved.
    pub(in crate::io) fn start(&self) -> *mut u8 {
        self.memory.as_ref().map_or(std::ptr::null_mut(), |memory| memory.start.as_ptr())
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let Some(memory) = &self.memory else { return &[] };
        // SAFETY: `len` is within the allocation, all of it is initialised, and `self` is borrowed. A buffer that the
        // kernel is writing into is inside the ring, where nobody can borrow it.
        unsafe { std::slice::from_raw_parts(memory.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let Some(memory) = &mut self.memory else { return &mut [] };
        // SAFETY: as for `deref`, and `self` is the only owner and exclusively borrowed.
        unsafe { std::slice::from_raw_parts_mut(memory.start.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuffer({} of {} bytes)", self.len, self.capacity())
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.give_back(memory);
        }
    }
}

/// A buffer that a stream is received into piece by piece, while what came before is already in use.
pub struct Chunk {
    /// Shared with every `Bytes` handed out; nobody makes a slice of it beyond `filled`.
    memory: Arc<AlignedBuffer>,
    /// Bytes received. Those before it never change again.
    filled: usize,
    /// The received prefix as of the last time bytes were handed out, so that a slice costs no allocation.
    view: Option<Bytes>,
}

/// Keeps a chunk's memory alive for the received prefix that `Bytes` points into.
struct Prefix {
    memory: Arc<AlignedBuffer>,
    len: usize,
}

impl AsRef<[u8]> for Prefix {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the first `len` bytes have been received, `filled` never goes back while a `Prefix` exists (`rewind`
        // checks), and whoever receives writes only beyond `filled`. So nobody writes to these bytes any more.
        unsafe { std::slice::from_raw_parts(self.memory.start(), self.len) }
    }
}

impl Chunk {
    /// How many bytes it can take in all.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.len
    }

    /// How many bytes have been received.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// How many bytes can still be received.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.capacity() - self.filled
    }

    /// What has been received.
    #[must_use]
    pub fn received(&self) -> &[u8] {
        // SAFETY: as for `Prefix`; the borrow keeps the chunk out of the ring.
        unsafe { std::slice::from_raw_parts(self.memory.start(), self.filled) }
    }

    /// A part of what has been received, without copying; `None` if it has not all been received.
    pub fn bytes(&mut self, range: Range<usize>) -> Option<Bytes> {
        if range.start > range.end || range.end > self.filled {
            return None;
        }
        if self.view.as_ref().is_none_or(|view| view.len() < range.end) {
            let prefix = Prefix { memory: Arc::clone(&self.memory), len: self.filled };
            self.view = Some(Bytes::from_owner(prefix));
        }
        self.view.as_ref().map(|view| view.slice(range))
    }

    /// Copies `bytes` behind what has been received: the beginning of a packet that did not fit the chunk before.
    ///
    /// # Panics
    /// They do not fit.
    pub fn append(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.remaining(), "{} bytes do not fit into {}", bytes.len(), self.remaining());
        // SAFETY: the bytes beyond `filled` belong to the chunk alone (no slice reaches them, and a chunk in a receive is
        // inside the ring); they fit; `bytes` cannot overlap them because no slice of them exists.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.memory.start().add(self.filled), bytes.len()) };
        self.filled += bytes.len();
    }

    /// Leaves `count` bytes unused, so that what is received next begins where the caller wants it (aligned).
    ///
    /// # Panics
    /// The chunk has fewer left.
    pub fn skip(&mut self, count: usize) {
        assert!(count <= self.remaining(), "cannot skip {count} of {} bytes", self.remaining());
        self.filled += count;
    }

    /// Empties the chunk, if no bytes of it are in use any more; whether that was so.
    #[must_use]
    pub fn rewind(&mut self) -> bool {
        self.view = None;
        let is_free = Arc::get_mut(&mut self.memory).is_some();
        if is_free {
            self.filled = 0;
        }
        is_free
    }

    /// Where the next received byte goes.
    pub(in crate::io) fn tail(&self) -> *mut u8 {
        // SAFETY: `filled` is at most the capacity, so the address is within the allocation or one past its end.
        unsafe { self.memory.start().add(self.filled) }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} of {} bytes)", self.filled, self.capacity())
    }
}

/// Whether the bytes begin at a multiple of `alignment` and fill whole units of it: what O_DIRECT asks.
#[must_use]
pub fn is_aligned(bytes: &Bytes, alignment: usize) -> bool {
    (bytes.as_ptr() as usize).is_multiple_of(alignment) && bytes.len().is_multiple_of(alignment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_in_every_class_and_beyond() {
        let pool = BufferPool::new();
        for len in [0, 1, 512, 4096, 4097, 65_536, 300_000, 1 << 20, (1 << 20) + 1, 5_000_000] {
            let buffer = pool.take(len);
            assert_eq!(buffer.len(), len);
            assert!(buffer.capacity() >= len);
            assert!(is_aligned(&buffer.freeze().slice(0..0), ALIGNMENT));
        }
    }

    #[test]
    fn memory_comes_back_when_the_last_slice_is_dropped_on_another_thread() {
        let pool = BufferPool::new();
        let buffer = pool.take(4096);
        let address = buffer.as_ptr() as usize;
        let slice = buffer.freeze().slice(100..200);
        assert_eq!(pool.cached_bytes(), 0);
        std::thread::spawn(move || drop(slice)).join().unwrap();
        assert_eq!(pool.cached_bytes(), 4096);
        assert_eq!(pool.take(1).as_ptr() as usize, address);
    }

    #[test]
    fn the_cache_is_bounded_for_small_and_for_large_buffers() {
        let pool = BufferPool::with_limits(10_000, 5 << 20);
        let buffers: Vec<_> = (0..5).map(|_| pool.take(4096)).collect();
        drop(buffers);
        assert_eq!(pool.cached_bytes(), 8192);
        let buffers = [pool.take(2 << 20), pool.take((1 << 20) + 1), pool.take(2 << 20)];
        drop(buffers);
        assert_eq!(pool.cached_bytes(), 8192 + (4 << 20));
        drop(pool.take(33 << 20));
        assert_eq!(pool.cached_bytes(), 8192 + (4 << 20), "nobody asks for that again");
    }

    #[test]
    fn what_nobody_needs_for_a_while_is_given_back() {
        let pool = BufferPool::new();
        let burst: Vec<_> = (0..10).map(|_| pool.take(32 << 20)).chain((0..10).map(|_| pool.take(4096))).collect();
        drop(burst);
        let after_the_burst = pool.cached_bytes();
        assert_eq!(after_the_burst, 4 * (32 << 20) + 10 * 4096);
        pool.trim();
        assert_eq!(pool.cached_bytes(), after_the_burst, "it was needed just now");
        // Three of the small ones at once are in use from time to time.
        drop((0..3).map(|_| pool.take(4096)).collect::<Vec<_>>());
        pool.trim();
        assert_eq!(pool.cached_bytes(), 3 * 4096);
        pool.trim();
        assert_eq!(pool.cached_bytes(), 0);
    }

    /// Which pages of a buffer take memory.
    fn resident_pages(buffer: &AlignedBuffer) -> usize {
        let mut pages = vec![0_u8; buffer.capacity() / ALIGNMENT];
        // SAFETY: the range is a mapping of ours, and there is a byte for each page of it.
        let result = unsafe { libc::mincore(buffer.start().cast(), buffer.capacity(), pages.as_mut_ptr()) };
        assert_eq!(result, 0);
        pages.iter().filter(|page| **page & 1 == 1).count()
    }

    #[test]
    fn a_large_buffer_takes_memory_only_where_it_was_written() {
        let pool = BufferPool::new();
        let mut buffer = pool.take(32 << 20);
        assert_eq!(resident_pages(&buffer), 0);
        buffer[5 << 20] = 1;
        // (A huge page, where the kernel likes those.)
        assert!((1..=512).contains(&resident_pages(&buffer)), "{}", resident_pages(&buffer));
        assert!(buffer[..5 << 20].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn copies_and_zeroed_buffers_hold_what_they_say() {
        let pool = BufferPool::new();
        drop(pool.copy_of(&[7; 4096]));
        assert!(pool.take_zeroed(4096).iter().all(|byte| *byte == 0));
        assert_eq!(pool.copy_of(b"abc").freeze(), Bytes::from_static(b"abc"));
    }

    #[test]
    fn a_chunk_hands_out_its_prefix_while_it_fills() {
        let pool = BufferPool::new();
        let mut chunk = pool.chunk_of(4096);
        chunk.append(b"header");
        let header = chunk.bytes(0..6).unwrap();
        assert_eq!(chunk.bytes(0..7), None);
        chunk.append(b"payload");
        assert_eq!(header, Bytes::from_static(b"header"));
        assert_eq!(chunk.bytes(6..13).unwrap(), Bytes::from_static(b"payload"));
        assert_eq!(chunk.bytes(4..8).unwrap(), Bytes::from_static(b"erpa"), "a slice may span two receptions");
        assert_eq!(chunk.received(), b"headerpayload");
        assert_eq!(chunk.remaining(), 4096 - 13);
    }

    #[test]
    fn a_chunk_is_rewound_only_when_nobody_holds_its_bytes() {
        let pool = BufferPool::new();
        let mut chunk = pool.chunk_of(4096);
        chunk.append(b"x");
        let held = chunk.bytes(0..1).unwrap();
        assert!(!chunk.rewind());
        assert_eq!(chunk.filled(), 1);
        drop(held);
        assert!(chunk.rewind());
        assert_eq!(chunk.filled(), 0);
    }

    #[test]
    fn skipping_puts_the_next_byte_where_it_is_wanted() {
        let pool = BufferPool::new();
        let mut chunk = pool.chunk();
        chunk.skip(4096 - 28);
        chunk.append(&[1; 28]);
        chunk.append(&[2; 4096]);
        let payload = chunk.bytes(4096..8192).unwrap();
        assert!(is_aligned(&payload, 4096));
        assert!(!is_aligned(&chunk.bytes(4068..4096).unwrap(), 512));
    }
}

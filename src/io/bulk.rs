//! Large, offline work on files: reading, writing and zeroing ranges. For making and restoring metadata and for blank
//! tests; never for a store that a ring serves at the same time.
//!
//! Runs on tokio-uring, whose operations cannot be cancelled: a dropped future leaves its transfer running. So every
//! piece of a range is a task of its own, at most `DEPTH` are in flight, and after an error the rest is still waited
//! for. Do not put these futures into a `select!` or a time limit; call them from [`run`], to their end.
//!
//! With a store opened for O_DIRECT, offsets and lengths must be multiples of its alignment; the buffers here always are
//! aligned. Writing is not durable before [`sync`].

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use bytes::Bytes;
use tokio_uring::buf::{IoBuf, IoBufMut};
use tokio_uring::fs::File;

use super::block_file::BlockFile;
use super::buffer::{AlignedBuffer, BufferPool};

/// How much one transfer moves.
const PIECE_BYTES: u64 = 1 << 20;

/// How many transfers are in flight: enough to keep a disk busy, little enough memory.
const DEPTH: usize = 8;

/// What can go wrong with bulk work.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// There is no runtime to be had.
    #[error("io_uring cannot be set up: {0}")]
    Setup(#[source] io::Error),
    /// A transfer failed.
    #[error("{path}: cannot {action} at byte {offset}: {source}")]
    Transfer {
        /// Which file.
        path: String,
        /// What was attempted.
        action: &'static str,
        /// Where.
        offset: u64,
        /// Why not.
        source: io::Error,
    },
    /// The range is not made of whole units of the store.
    #[error("{path}: bytes {start} to {end} are not aligned to {alignment}")]
    Unaligned {
        /// Which file.
        path: String,
        /// First byte.
        start: u64,
        /// Byte after the last one.
        end: u64,
        /// What both must be multiples of.
        alignment: u32,
    },
}

/// Runs bulk work on this thread until it is done. Must not be called from within an async runtime.
///
/// # Errors
/// The kernel has no io_uring or forbids it.
pub fn run<F: Future>(work: F) -> Result<F::Output, BulkError> {
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder()).map_err(BulkError::Setup)?;
    Ok(runtime.block_on(work))
}

/// Reads a whole range into one buffer.
///
/// # Errors
/// The disk's, or the end of the file.
pub async fn read_range(file: &BlockFile, range: Range<u64>) -> Result<AlignedBuffer, BulkError> {
    let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
    let mut whole = BufferPool::with_limit(0).take(len);
    let start = range.start;
    read_pieces(file, range, |offset, bytes| {
        let at = usize::try_from(offset - start).unwrap_or(usize::MAX);
        whole[at..at + bytes.len()].copy_from_slice(bytes);
        true
    })
    .await?;
    Ok(whole)
}

/// Reads a range piece by piece, in order, until `visit` says false. A piece has at most 1 MiB.
///
/// # Errors
/// The disk's, or the end of the file.
pub async fn read_pieces(
    file: &BlockFile,
    range: Range<u64>,
    mut visit: impl FnMut(u64, &[u8]) -> bool,
) -> Result<(), BulkError> {
    let opened = Opened::new(file, &range)?;
    let pool = BufferPool::new();
    let read = |piece: Range<u64>| {
        let (opened, pool) = (opened.clone(), pool.clone());
        async move { opened.read(&pool, piece).await }
    };
    pieces(range, read, |offset, buffer| visit(offset, &buffer)).await
}

/// Writes bytes from `offset`.
///
/// # Errors
/// The disk's.
pub async fn write_range(file: &BlockFile, offset: u64, bytes: Bytes) -> Result<(), BulkError> {
    let range = offset..offset.saturating_add(bytes.len() as u64);
    let opened = Opened::new(file, &range)?;
    let pool = BufferPool::new();
    let alignment = file.memory_alignment() as usize;
    let write = |piece: Range<u64>| {
        let part = bytes.slice(position(piece.start - offset)..position(piece.end - offset));
        // O_DIRECT needs an aligned address; what does not have it is copied.
        let is_aligned = (part.as_ptr() as usize).is_multiple_of(alignment);
        let part = if is_aligned { part } else { pool.copy_of(&part).freeze() };
        let opened = opened.clone();
        async move { opened.write(piece.start, part).await }
    };
    pieces(range, write, |_, ()| true).await
}

/// Makes a range read as zeroes: by the file system if it can, else by writing.
///
/// # Errors
/// The disk's.
pub async fn zero_range(file: &BlockFile, range: Range<u64>) -> Result<(), BulkError> {
    let opened = Opened::new(file, &range)?;
    if range.is_empty() {
        return Ok(());
    }
    let flags = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    match opened.file.fallocate(range.start, range.end - range.start, flags).await {
        Ok(()) => return Ok(()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV | libc::ENOSYS)) => (),
        Err(source) => return Err(opened.fail("zero", range.start, source)),
    }
    let zeroes = BufferPool::with_limit(0).take_zeroed(position(PIECE_BYTES)).freeze();
    let write = |piece: Range<u64>| {
        let (opened, part) = (opened.clone(), zeroes.slice(..position(piece.end - piece.start)));
        async move { opened.write(piece.start, part).await }
    };
    pieces(range, write, |_, ()| true).await
}

/// Makes completed writes durable.
///
/// # Errors
/// The disk's.
pub async fn sync(file: &BlockFile) -> Result<(), BulkError> {
    let opened = Opened::new(file, &(0..0))?;
    opened.file.sync_data().await.map_err(|source| opened.fail("sync", 0, source))
}

/// Runs `begin` on each piece of the range, several at a time, and `visit` on the results, in order, until that says
/// false. Waits for everything it has begun, also after an error.
async fn pieces<T, F>(
    range: Range<u64>,
    begin: impl Fn(Range<u64>) -> F,
    mut visit: impl FnMut(u64, T) -> bool,
) -> Result<(), BulkError>
where
    T: 'static,
    F: Future<Output = Result<T, BulkError>> + 'static,
{
    let mut in_flight = VecDeque::new();
    let mut next = range.start;
    let mut result = Ok(());
    let mut goes_on = true;
    loop {
        while goes_on && next < range.end && in_flight.len() < DEPTH {
            let piece = next..range.end.min(next.saturating_add(PIECE_BYTES));
            next = piece.end;
            in_flight.push_back((piece.start, tokio_uring::spawn(begin(piece))));
        }
        let Some((offset, task)) = in_flight.pop_front() else { return result };
        match task.await {
            Ok(Ok(value)) => goes_on = goes_on && visit(offset, value),
            Ok(Err(error)) => {
                goes_on = false;
                result = result.and(Err(error));
            }
            // Nobody aborts these tasks, so this is a panic in one of them: a bug of ours.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// A file of the runtime, sharing the store's open file and so its lock and flags.
#[derive(Clone)]
struct Opened {
    file: Rc<File>,
    path: Rc<str>,
}

impl Opened {
    fn new(file: &BlockFile, range: &Range<u64>) -> Result<Self, BulkError> {
        let path = file.path().display().to_string();
        let alignment = file.offset_alignment();
        let is_aligned = |position: u64| position.is_multiple_of(u64::from(alignment));
        if !is_aligned(range.start) || !is_aligned(range.end) {
            return Err(BulkError::Unaligned { path, start: range.start, end: range.end, alignment });
        }
        let duplicate: io::Result<OwnedFd> = file.descriptor().as_fd().try_clone_to_owned();
        match duplicate {
            Ok(fd) => Ok(Self { file: Rc::new(File::from_std(fd.into())), path: path.into() }),
            Err(source) => Err(BulkError::Transfer { path, action: "share", offset: range.start, source }),
        }
    }

    async fn read(&self, pool: &BufferPool, piece: Range<u64>) -> Result<AlignedBuffer, BulkError> {
        let buffer = pool.take(position(piece.end - piece.start));
        let (result, buffer) = self.file.read_exact_at(buffer, piece.start).await;
        result.map(|()| buffer).map_err(|source| self.fail("read", piece.start, source))
    }

    async fn write(&self, offset: u64, bytes: Bytes) -> Result<(), BulkError> {
        let (result, _) = self.file.write_all_at(Lent(bytes), offset).await;
        result.map_err(|source| self.fail("write", offset, source))
    }

    fn fail(&self, action: &'static str, offset: u64, source: io::Error) -> BulkError {
        BulkError::Transfer { path: self.path.to_string(), action, offset, source }
    }
}

/// A length within one piece or one buffer in memory.
fn position(bytes: u64) -> usize {
    usize::try_from(bytes).expect("what is in memory has a length in memory")
}

// SAFETY: the address stays the same while the buffer is moved, and the `len` bytes from it are initialised and owned.
unsafe impl IoBuf for AlignedBuffer {
    fn stable_ptr(&self) -> *const u8 {
        self.start()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }

    fn bytes_total(&self) -> usize {
        self.len()
    }
}

// SAFETY: as above, and the buffer has one owner.
unsafe impl IoBufMut for AlignedBuffer {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.start()
    }

    unsafe fn set_init(&mut self, _position: usize) {
        // All bytes are initialised from the beginning.
    }
}

/// Bytes lent to the kernel for a write.
struct Lent(Bytes);

// SAFETY: `Bytes` points to memory that neither moves nor changes while a clone of it exists.
unsafe impl IoBuf for Lent {
    fn stable_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.0.len()
    }

    fn bytes_total(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::block_file::{Create, Mode};
    use super::*;

    const SIZE: u64 = 20 << 20;

    fn is_zero(bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| *byte == 0)
    }

    fn store(directory: &tempfile::TempDir, name: &str, direct: bool) -> BlockFile {
        let mode = Mode { direct, create: Create::New { bytes: SIZE }, ..Mode::default() };
        BlockFile::open(directory.path().join(name), mode).unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_the_rest_stays_zero() {
        for direct in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let file = store(&directory, "a", direct);
            let bytes: Vec<u8> = (0..3 << 20).map(|index: u32| (index / 7) as u8).collect();
            let bytes = Bytes::from(bytes);
            run(async {
                write_range(&file, 4096, bytes.clone()).await.unwrap();
                sync(&file).await.unwrap();
                assert_eq!(read_range(&file, 4096..4096 + (3 << 20)).await.unwrap()[..], bytes[..]);
                assert!(is_zero(&read_range(&file, 0..4096).await.unwrap()));
                assert!(!is_zero(&read_range(&file, 0..SIZE).await.unwrap()));
                zero_range(&file, 4096..SIZE).await.unwrap();
                assert!(is_zero(&read_range(&file, 0..SIZE).await.unwrap()));
            })
            .unwrap();
        }
    }

    #[test]
    fn the_end_of_the_file_and_unaligned_ranges_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let (buffered, direct) = (store(&directory, "a", false), store(&directory, "b", true));
        run(async {
            assert!(matches!(read_range(&buffered, 0..SIZE + 1).await, Err(BulkError::Transfer { .. })));
            if direct.is_direct() {
                assert!(matches!(read_range(&direct, 1..513).await, Err(BulkError::Unaligned { .. })));
            }
        })
        .unwrap();
    }
}

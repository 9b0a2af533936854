//! A backing store: a block device or a regular file, opened once, locked, and measured.
//!
//! The descriptor that does the I/O carries the lock (`flock`, on a block device O_EXCL as well; of a store that several
//! volumes share, a range of bytes, and O_EXCL is the whole process's). That matters after a crash: writes that a killed daemon left in its ring reach the disk later, and the lock of the descriptor they use is
//! held until then. So whoever has the lock knows that nobody else's write is still to come.
//!
//! With `direct` the page cache is bypassed where the file system can do that; [`BlockFile::is_direct`] says. The two
//! ways must never be mixed on one file.
//!
//! Not here: transfers of the data path (`ring`); what is here is synchronous and for small, rare work.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::descriptor::{Descriptor, DescriptorKind, checked};
use super::exclusive::{self, Exclusive};
use super::geometry::{self, Geometry};

/// How often a lock is asked for while waiting. (`flock` can only block without a limit.)
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// What to do about a path that does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Create {
    /// Fail.
    #[default]
    Never,
    /// Make a regular file of this many bytes, sparse; an existing one is left as it is.
    IfMissing {
        /// Its length.
        bytes: u64,
    },
    /// As `IfMissing`, but fail if the path exists.
    New {
        /// Its length.
        bytes: u64,
    },
}

/// What of a store its opener wants for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Claim {
    /// All of it.
    #[default]
    Whole,
    /// Some bytes of it; others have claims on the rest.
    Part {
        /// The first byte.
        start: u64,
        /// How many there are.
        bytes: u64,
    },
}

/// How to open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// Refuse writes.
    pub read_only: bool,
    /// Bypass the page cache if the file system can.
    pub direct: bool,
    /// What to do about a missing file.
    pub create: Create,
    /// What [`BlockFile::lock`] locks.
    pub claim: Claim,
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process, as seen from here.
    pub process: i32,
    /// The name of its program, if it could be found.
    pub name: Option<String>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "process {} ({name})", self.process),
            None => write!(f, "process {}", self.process),
        }
    }
}

/// What can go wrong with a backing store.
#[derive(Debug, thiserror::Error)]
pub enum BlockFileError {
    /// A system call failed.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    System {
        /// Which file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else has it.
    #[error("{path}: in use{}", holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default(), path = path.display())]
    Locked {
        /// Which file.
        path: PathBuf,
        /// Who, if that could be found.
        holder: Option<Holder>,
    },
    /// Somebody else has the part that was asked for. The kernel does not say who.
    #[error("{path}: bytes {start} to {end} are in use by another program or volume", path = path.display())]
    PartLocked {
        /// Which file.
        path: PathBuf,
        /// The first byte.
        start: u64,
        /// The byte after the last one.
        end: u64,
    },
    /// It is a directory, a pipe or the like.
    #[error("{path}: neither a regular file nor a block device", path = path.display())]
    WrongKind {
        /// Which file.
        path: PathBuf,
    },
}

impl BlockFileError {
    /// Whether somebody else has it, who may let it go.
    #[must_use]
    pub const fn is_locked(&self) -> bool {
        matches!(self, Self::Locked { .. } | Self::PartLocked { .. })
    }
}

/// An open backing store. Clones share the descriptor, and with it the lock.
#[derive(Clone, Debug)]
pub struct BlockFile {
    path: PathBuf,
    descriptor: Descriptor,
    geometry: Geometry,
    mode: Mode,
    is_direct: bool,
    /// Keeps others away from a block device of which a part is claimed.
    _exclusive: Option<Exclusive>,
}

impl BlockFile {
    /// Opens a backing store. It is not locked yet (a block device is, against mounting and other exclusive users).
    ///
    /// # Errors
    /// It cannot be opened, is not a store, or is in use.
    pub fn open(path: impl AsRef<Path>, mode: Mode) -> Result<Self, BlockFileError> {
        let path = path.as_ref();
        let fail = |action| move |source| BlockFileError::System { path: path.to_owned(), action, source };
        // Asked before opening: to open a pipe would wait for its writer.
        if std::fs::metadata(path).is_ok_and(|status| !is_store(status.file_type())) {
            return Err(BlockFileError::WrongKind { path: path.to_owned() });
        }
        let shares = !mode.read_only && mode.claim != Claim::Whole && path.exists();
        let exclusive = if shares { exclusive::share(path).map_err(|error| cannot_open(path, error))? } else { None };
        let (file, is_direct) = open_as_asked(path, mode)?;
        let descriptor = Descriptor::from(file);
        let geometry = geometry::measure(&descriptor, is_direct, mode.read_only).map_err(fail("measure"))?;
        let fd = descriptor.try_into_owned().expect("nobody else has seen it");
        let descriptor = Descriptor::store(fd, geometry.alignment, geometry.space_unit);
        Ok(Self { path: path.to_owned(), descriptor, geometry, mode, is_direct, _exclusive: exclusive })
    }

    /// Locks what is [claimed](Mode::claim) for as long as the descriptor is open. A part is locked by itself, under a lock
    /// on the whole that those of other parts share: who claims the whole and who claims a part exclude each other.
    ///
    /// # Errors
    /// Somebody else has it.
    pub fn lock(&self) -> Result<(), BlockFileError> {
        match self.mode.claim {
            Claim::Whole => self.lock_whole(libc::LOCK_EX),
            Claim::Part { start, bytes } => {
                self.lock_whole(libc::LOCK_SH)?;
                self.lock_part(start, bytes)
            }
        }
    }

    fn lock_part(&self, start: u64, bytes: u64) -> Result<(), BlockFileError> {
        let field = |value: u64| libc::off_t::try_from(value).unwrap_or(libc::off_t::MAX);
        let lock = libc::flock {
            // The kernel gives an exclusive lock only to who may write; readers share, and exclude writers.
            l_type: if self.mode.read_only { libc::F_RDLCK } else { libc::F_WRLCK } as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: field(start),
            l_len: field(bytes),
            l_pid: 0,
        };
        // Of the open file, not of the process: one process may run several volumes, and what its ring still holds after
        // its death keeps the lock.
        match nix::fcntl::fcntl(&self.descriptor, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => Ok(()),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => {
                Err(BlockFileError::PartLocked { path: self.path.clone(), start, end: start + bytes })
            }
            Err(errno) => Err(self.fail("lock", errno.into())),
        }
    }

    fn lock_whole(&self, kind: libc::c_int) -> Result<(), BlockFileError> {
        // SAFETY: no pointers.
        match checked(unsafe { libc::flock(self.descriptor.as_raw_fd(), kind | libc::LOCK_NB) }) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(BlockFileError::Locked { path: self.path.clone(), holder: geometry::lock_holder(&self.descriptor) })
            }
            Err(error) => Err(self.fail("lock", error)),
        }
    }

    /// Takes the exclusive lock, waiting for at most `timeout` until whoever has it is gone: a daemon that was killed
    /// holds it until the last of its writes has reached the disk. Blocks the thread.
    ///
    /// # Errors
    /// Somebody else still has it.
    pub fn wait_for_lock(&self, timeout: Duration) -> Result<(), BlockFileError> {
        let deadline = super::clock::now() + timeout;
        loop {
            match self.lock() {
                Err(error) if error.is_locked() && super::clock::now() < deadline => {
                    super::clock::pause(LOCK_INTERVAL);
                }
                result => return result,
            }
        }
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What operations on a ring name it by.
    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// How many bytes it had when it was opened.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.geometry.size
    }

    /// The smallest unit the store can write, in bytes.
    #[must_use]
    pub fn logical_block(&self) -> u32 {
        self.geometry.logical_block
    }

    /// What offsets and lengths must be multiples of: the logical block when direct, 1 otherwise.
    #[must_use]
    pub fn offset_alignment(&self) -> u32 {
        self.geometry.alignment.offset
    }

    /// What memory addresses must be multiples of.
    #[must_use]
    pub fn memory_alignment(&self) -> u32 {
        self.geometry.alignment.memory
    }

    /// Whether it is a block device.
    #[must_use]
    pub fn is_block_device(&self) -> bool {
        self.descriptor.kind() == DescriptorKind::BlockDevice
    }

    /// Whether it is a spinning disk, or lies on one, if the kernel says.
    #[must_use]
    pub fn is_rotational(&self) -> Option<bool> {
        self.geometry.is_rotational
    }

    /// Whether a range can be given back so that it reads as zeroes, without writing them.
    #[must_use]
    pub fn supports_discard(&self) -> bool {
        self.geometry.supports_discard
    }

    /// Whether it bypasses the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// Drops what the page cache holds of a file whose transfers bypass it: every write would look for it there first, which
    /// costs several times the write itself. (Whoever made the file, a copy or a restore, left it there.)
    ///
    /// # Errors
    /// The disk's.
    pub fn leave_page_cache(&self) -> Result<(), BlockFileError> {
        if !self.is_direct || self.is_block_device() {
            return Ok(());
        }
        // Only pages that are clean are dropped.
        self.sync()?;
        // SAFETY: no pointers.
        match unsafe { libc::posix_fadvise(self.descriptor.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
            0 => Ok(()),
            errno => Err(self.fail("leave the page cache", io::Error::from_raw_os_error(errno))),
        }
    }

    /// Reads exactly `bytes.len()` bytes. When direct, everything must be aligned.
    ///
    /// # Errors
    /// The disk's, or the end of the file.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<(), BlockFileError> {
        self.check_alignment(bytes, offset)
            .and_then(|()| self.with_file(|file| file.read_exact_at(bytes, offset)))
            .map_err(|error| self.fail("read", error))
    }

    /// Writes all bytes. When direct, everything must be aligned.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), BlockFileError> {
        self.check_alignment(bytes, offset)
            .and_then(|()| self.with_file(|file| file.write_all_at(bytes, offset)))
            .map_err(|error| self.fail("write", error))
    }

    /// The next range at or after `offset` that a file system keeps data for: what lies before it, and behind the last one,
    /// was never written and reads as zero. All of a block device is data, since it does not tell.
    ///
    /// # Errors
    /// The file system's.
    pub fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>, BlockFileError> {
        use nix::unistd::{Whence, lseek};
        let size = self.size();
        if offset >= size {
            return Ok(None);
        }
        if self.is_block_device() {
            return Ok(Some(offset..size));
        }
        // Transfers name their offsets, so nobody minds where the descriptor points.
        let seek = |offset: u64, whence| match lseek(&self.descriptor, offset.cast_signed(), whence) {
            Ok(at) => Ok(Some(at.cast_unsigned().min(size))),
            Err(nix::errno::Errno::ENXIO) => Ok(None),
            Err(errno) => Err(self.fail("look for data", errno.into())),
        };
        let Some(start) = seek(offset, Whence::SeekData)?.filter(|start| *start < size) else { return Ok(None) };
        Ok(Some(start..seek(start, Whence::SeekHole)?.unwrap_or(size)))
    }

    /// Makes all completed writes durable.
    ///
    /// # Errors
    /// The disk's; then it is unknown which writes are durable.
    pub fn sync(&self) -> Result<(), BlockFileError> {
        self.with_file(std::fs::File::sync_data).map_err(|error| self.fail("sync", error))
    }

    fn check_alignment(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let alignment = self.geometry.alignment;
        let is_aligned = alignment.allows_memory(bytes) && alignment.allows_offset(offset);
        if is_aligned { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) }
    }

    fn with_file<T>(&self, act: impl FnOnce(&std::fs::File) -> io::Result<T>) -> io::Result<T> {
        // A duplicate shares the open file, so lock and flags are the same; closing it releases nothing.
        let duplicate: OwnedFd = self.descriptor.as_fd().try_clone_to_owned()?;
        act(&std::fs::File::from(duplicate))
    }

    fn fail(&self, action: &'static str, source: io::Error) -> BlockFileError {
        BlockFileError::System { path: self.path.clone(), action, source }
    }
}

/// Opens the file; the flag says whether the page cache is bypassed.
fn open_as_asked(path: &Path, mode: Mode) -> Result<(std::fs::File, bool), BlockFileError> {
    let fail = |source| cannot_open(path, source);
    create_if_asked(path, mode)?;
    if mode.direct {
        match open_with(path, mode, libc::O_DIRECT) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (),
            Err(error) => return Err(fail(error)),
            Ok(file) if geometry::takes_direct(&file) => return Ok((file, true)),
            // Opened, but transfers would be refused: begin again without the flag.
            Ok(file) => drop(file),
        }
    }
    open_with(path, mode, 0).map(|file| (file, false)).map_err(fail)
}

fn cannot_open(path: &Path, source: io::Error) -> BlockFileError {
    match source.raw_os_error() {
        Some(libc::EBUSY) => BlockFileError::Locked { path: path.to_owned(), holder: None },
        _ => BlockFileError::System { path: path.to_owned(), action: "open", source },
    }
}

fn is_store(kind: std::fs::FileType) -> bool {
    kind.is_file() || kind.is_block_device()
}

fn open_with(path: &Path, mode: Mode, flag: i32) -> io::Result<std::fs::File> {
    let is_device = std::fs::metadata(path).is_ok_and(|status| status.file_type().is_block_device());
    // A reader does not exclude others: images are compared while a daemon holds the device.
    let is_alone = !mode.read_only && mode.claim == Claim::Whole;
    let exclusive = if is_device && is_alone { libc::O_EXCL } else { 0 };
    std::fs::OpenOptions::new().read(true).write(!mode.read_only).custom_flags(flag | exclusive).open(path)
}

/// Makes the file if that was asked for and it is missing.
fn create_if_asked(path: &Path, mode: Mode) -> Result<(), BlockFileError> {
    let (bytes, must_be_new) = match mode.create {
        Create::Never => return Ok(()),
        Create::IfMissing { bytes } => (bytes, false),
        Create::New { bytes } => (bytes, true),
    };
    let made = std::fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    let result = match made {
        Ok(file) => file.set_len(bytes),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !must_be_new => Ok(()),
        Err(error) => Err(error),
    };
    result.map_err(|source| BlockFileError::System { path: path.to_owned(), action: "create", source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    fn mode() -> Mode {
        Mode { create: Create::IfMissing { bytes: SIZE }, ..Mode::default() }
    }

    #[test]
    fn a_new_file_has_the_size_asked_for_and_an_old_one_keeps_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        assert!(BlockFile::open(&path, Mode::default()).is_err());
        assert_eq!(BlockFile::open(&path, mode()).unwrap().size(), SIZE);
        let again = Mode { create: Create::IfMissing { bytes: 5 }, ..Mode::default() };
        let file = BlockFile::open(&path, again).unwrap();
        assert_eq!((file.size(), file.is_block_device(), file.logical_block()), (SIZE, false, 512));
        assert!(BlockFile::open(&path, Mode { create: Create::New { bytes: 5 }, ..Mode::default() }).is_err());
    }

    #[test]
    fn a_second_descriptor_is_refused_the_lock_and_told_who_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        let (first, second) = (BlockFile::open(&path, mode()).unwrap(), BlockFile::open(&path, mode()).unwrap());
        first.lock().unwrap();
        first.lock().unwrap();
        let error = second.lock().unwrap_err();
        assert!(error.to_string().contains(&format!("in use by process {}", std::process::id())), "{error}");
        assert!(second.wait_for_lock(Duration::from_millis(30)).is_err());
        let clone = first.clone();
        drop(first);
        assert!(second.lock().is_err(), "a clone shares the descriptor and keeps the lock");
        let waiter = std::thread::spawn(move || second.wait_for_lock(Duration::from_secs(10)));
        drop(clone);
        waiter.join().unwrap().unwrap();
    }

    #[test]
    fn parts_are_locked_one_by_one_and_exclude_the_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        let part = |number: u64| {
            let claim = Claim::Part { start: number * 4096, bytes: 4096 };
            BlockFile::open(&path, Mode { claim, ..mode() }).unwrap()
        };
        let (first, second, again) = (part(0), part(1), part(0));
        first.lock().unwrap();
        second.lock().unwrap();
        let error = again.lock().unwrap_err();
        assert!(error.is_locked() && error.to_string().contains("bytes 0 to 4096 are in use"), "{error}");
        let whole = BlockFile::open(&path, mode()).unwrap();
        assert!(whole.lock().unwrap_err().is_locked());
        let clone = first.clone();
        drop(first);
        assert!(again.lock().is_err(), "a clone shares the descriptor and keeps the lock");
        drop(clone);
        again.lock().unwrap();
        drop((second, again));
        whole.lock().unwrap();
        assert!(part(5).lock().unwrap_err().is_locked());
    }

    #[test]
    fn data_is_found_between_holes() {
        let directory = tempfile::tempdir().unwrap();
        let file = BlockFile::open(directory.path().join("disk"), mode()).unwrap();
        assert_eq!(file.next_data(0).unwrap(), None);
        file.write_at(&[1; 512], SIZE / 2).unwrap();
        let data = file.next_data(0).unwrap().expect("it was written");
        assert!(data.contains(&(SIZE / 2)) && data.end < SIZE, "{data:?}");
        assert_eq!(file.next_data(data.end).unwrap(), None);
        assert_eq!(file.next_data(SIZE).unwrap(), None);
    }

    #[test]
    fn transfers_go_through_whether_direct_or_not() {
        for directory in [tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap()] {
            for direct in [false, true] {
                let file = BlockFile::open(directory.path().join("disk"), Mode { direct, ..mode() }).unwrap();
                assert!(direct || !file.is_direct());
                let mut buffer = super::super::buffer::BufferPool::new().take_zeroed(4096);
                buffer.fill(7);
                file.write_at(&buffer, 8192).unwrap();
                file.sync().unwrap();
                buffer.fill(0);
                file.read_at(&mut buffer, 8192).unwrap();
                assert!(buffer.iter().all(|byte| *byte == 7));
                assert!(file.read_at(&mut buffer, SIZE).is_err(), "nothing is behind the end");
                assert!(file.offset_alignment() <= 4096 && file.memory_alignment() <= 4096);
            }
        }
    }

    #[test]
    fn a_direct_file_can_be_taken_out_of_the_page_cache() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, vec![7; 1 << 20]).unwrap();
        let file = BlockFile::open(&path, Mode { direct: true, ..Mode::default() }).unwrap();
        if !file.is_direct() {
            assert!(!nix::unistd::geteuid().is_root(), "this test needs a TMPDIR that bypasses the page cache");
            return;
        }
        let mapped = super::super::mapped::MappedFile::open(&path).unwrap();
        let resident = || {
            let mut pages = vec![0_u8; (1 << 20) / 4096];
            // SAFETY: the range is the mapping, and there is a byte for each page of it.
            assert_eq!(unsafe { libc::mincore(mapped.as_ptr().cast_mut().cast(), 1 << 20, pages.as_mut_ptr()) }, 0);
            pages.iter().filter(|page| **page & 1 == 1).count()
        };
        assert_eq!(resident(), 256, "who made it left it there");
        file.leave_page_cache().unwrap();
        assert_eq!(resident(), 0);
    }

    #[test]
    fn a_reader_cannot_write_and_other_things_are_no_store() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        drop(BlockFile::open(&path, mode()).unwrap());
        let reader = BlockFile::open(&path, Mode { read_only: true, ..Mode::default() }).unwrap();
        assert!(reader.write_at(&[0; 512], 0).is_err());
        for path in [directory.path(), Path::new("/dev/null")] {
            assert!(matches!(BlockFile::open(path, Mode::default()), Err(BlockFileError::WrongKind { .. })));
        }
    }
}

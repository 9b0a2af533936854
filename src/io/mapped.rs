//! Read-only mappings of large files: texts of bitmaps, and images looked at offline.
//!
//! A mapping is I/O that cannot return an error: a bad sector, or a file that shrinks, ends the process with a signal.
//! So it is used for offline work on files nobody else changes, never by the daemon for a store it serves.

use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::{Advice, Mmap, MmapOptions};

use super::descriptor::Descriptor;
use super::geometry;

/// A whole file as bytes.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps a regular file or block device. An empty file gives no bytes.
    ///
    /// # Errors
    /// It cannot be opened or mapped.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = Descriptor::from(std::fs::File::open(path)?);
        // Asked for by ourselves: a block device says 0 where a file says its length.
        let bytes = usize::try_from(geometry::size_of(&file)?).map_err(io::Error::other)?;
        // SAFETY: the mapping is read-only and belongs to this value. That nobody writes to or truncates the file
        // meanwhile is the caller's part, stated above: offline work on a store that is locked or at rest.
        let map = unsafe { MmapOptions::new().len(bytes).map(&file)? };
        // Only a hint.
        let _ = map.advise(Advice::Sequential);
        Ok(Self { map })
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_mapped_file_reads_as_its_bytes() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        assert!(MappedFile::open(file.path()).unwrap().is_empty());
        file.write_all(b"bitmap").unwrap();
        assert_eq!(&*MappedFile::open(file.path()).unwrap(), b"bitmap");
        assert!(MappedFile::open("/nowhere").is_err());
    }
}

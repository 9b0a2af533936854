//! Opening and locking a volume's backing stores. It may wait for a lock, so a helper thread does it.
//!
//! Stores whose smallest unit is larger than a sector are opened through the page cache even where `direct` is asked for:
//! clients and peers may write single sectors, and the kernel's read-modify-write there is correct and ordered, while our
//! own would have to serialise neighbours.

use std::time::Duration;

use super::specification::BackingPaths;
use crate::control::refusal::ConfigurationRefusal;
use crate::io::block_file::{BlockFile, BlockFileError, Mode};
use crate::io::clock;
use crate::model::units::SECTOR_BYTES;
use crate::replica::event::DeviceFacts;
use crate::replica::refusal::{Code, Refusal};

/// Largest request we give a store at once, and tell the peer of: DRBD's own limit.
const IO_BYTES_MAX: u32 = 1 << 20;

/// How often a store that is in use is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// A volume's stores, open and locked.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) data: BlockFile,
    /// `None`: internal metadata.
    pub(super) metadata: Option<BlockFile>,
}

impl Opened {
    /// Opens and locks what the paths name, waiting for locks at most until `patience` is over.
    pub(super) fn open(paths: &BackingPaths, direct: bool, patience: Duration) -> Result<Self, Refusal> {
        use ConfigurationRefusal as C;
        let data =
            open(&paths.data, direct, patience).map_err(|error| refusal(&error, C::CannotOpenDisk, C::DiskClaimed))?;
        let metadata = match &paths.metadata {
            Some(path) => Some(
                open(path, direct, patience)
                    .map_err(|error| refusal(&error, C::CannotOpenMetaDisk, C::MetaDiskClaimed))?,
            ),
            None => None,
        };
        Ok(Self { data, metadata })
    }

    pub(super) fn facts(&self) -> DeviceFacts {
        DeviceFacts {
            data_bytes: self.data.size(),
            metadata_bytes: self.metadata.as_ref().map_or(self.data.size(), BlockFile::size),
            max_io_bytes: IO_BYTES_MAX,
            discard_zeroes: self.data.supports_discard(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "neither lock can be waited for with a limit: it is tried again")]
fn open(path: &std::path::Path, direct: bool, patience: Duration) -> Result<BlockFile, BlockFileError> {
    let deadline = clock::now() + patience;
    loop {
        match open_once(path, direct) {
            Err(BlockFileError::Locked { .. }) if clock::now() < deadline => std::thread::sleep(RETRY_INTERVAL),
            result => return result,
        }
    }
}

fn open_once(path: &std::path::Path, direct: bool) -> Result<BlockFile, BlockFileError> {
    let mut file = BlockFile::open(path, Mode { direct, ..Mode::default() })?;
    if u64::from(file.offset_alignment()) > SECTOR_BYTES {
        drop(file);
        file = BlockFile::open(path, Mode::default())?;
    }
    file.lock()?;
    file.leave_page_cache()?;
    Ok(file)
}

fn refusal(error: &BlockFileError, other: ConfigurationRefusal, claimed: ConfigurationRefusal) -> Refusal {
    let code = if matches!(error, BlockFileError::Locked { .. }) { claimed } else { other };
    Refusal { code: Code::Configuration(code), sentence: error.to_string(), next: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(directory: &tempfile::TempDir) -> BackingPaths {
        let data = directory.path().join("data");
        std::fs::File::create(&data).unwrap().set_len(1 << 20).unwrap();
        BackingPaths { data, metadata: None }
    }

    #[test]
    fn an_open_store_is_locked_and_the_refusal_says_by_whom() {
        let directory = tempfile::tempdir().unwrap();
        let paths = paths(&directory);
        let opened = Opened::open(&paths, true, Duration::ZERO).unwrap();
        assert_eq!((opened.facts().data_bytes, opened.facts().metadata_bytes), (1 << 20, 1 << 20));
        let refusal = Opened::open(&paths, true, Duration::from_millis(10)).unwrap_err();
        assert_eq!(refusal.code, Code::Configuration(ConfigurationRefusal::DiskClaimed));
        assert!(refusal.sentence.contains(&format!("process {}", std::process::id())), "{refusal}");
        drop(opened);
        Opened::open(&paths, true, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_missing_metadata_device_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let paths = BackingPaths { metadata: Some(directory.path().join("absent")), ..paths(&directory) };
        let refusal = Opened::open(&paths, true, Duration::ZERO).unwrap_err();
        assert_eq!(refusal.code, Code::Configuration(ConfigurationRefusal::CannotOpenMetaDisk));
        assert!(refusal.sentence.contains("absent"), "{refusal}");
    }
}

//! Opening and locking a volume's backing stores. It may wait for a lock, so a helper thread does it.
//!
//! Stores whose smallest unit is larger than a sector are opened through the page cache even where `direct` is asked for:
//! clients and peers may write single sectors, and the kernel's read-modify-write there is correct and ordered, while our
//! own would have to serialise neighbours.

use std::path::Path;
use std::time::Duration;

use super::specification::BackingPaths;
use crate::control::refusal::ConfigurationRefusal;
use crate::io::block_file::{BlockFile, BlockFileError, Claim, Mode};
use crate::io::clock;
use crate::metadata::layout::INDEXED_AREA_BYTES;
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
        let data = open(&paths.data, direct, Claim::Whole, patience)
            .map_err(|error| refusal(&error, C::CannotOpenDisk, C::DiskClaimed))?;
        let metadata = match &paths.metadata {
            Some(path) => Some(
                open(path, direct, slot_claim(paths.slot), patience)
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

/// What a volume wants of its metadata device: a slot, where several volumes share one.
pub(super) fn slot_claim(slot: Option<u8>) -> Claim {
    match slot {
        Some(slot) => Claim::Part { start: u64::from(slot) * INDEXED_AREA_BYTES, bytes: INDEXED_AREA_BYTES },
        None => Claim::Whole,
    }
}

#[expect(clippy::disallowed_methods, reason = "neither lock can be waited for with a limit: it is tried again")]
fn open(path: &Path, direct: bool, claim: Claim, patience: Duration) -> Result<BlockFile, BlockFileError> {
    let deadline = clock::now() + patience;
    loop {
        match open_once(path, Mode { direct, claim, ..Mode::default() }) {
            Err(error) if error.is_locked() && clock::now() < deadline => std::thread::sleep(RETRY_INTERVAL),
            result => return result,
        }
    }
}

fn open_once(path: &Path, mode: Mode) -> Result<BlockFile, BlockFileError> {
    let mut file = BlockFile::open(path, mode)?;
    if u64::from(file.offset_alignment()) > SECTOR_BYTES {
        drop(file);
        file = BlockFile::open(path, Mode { direct: false, ..mode })?;
    }
    file.lock()?;
    file.leave_page_cache()?;
    Ok(file)
}

fn refusal(error: &BlockFileError, other: ConfigurationRefusal, claimed: ConfigurationRefusal) -> Refusal {
    let code = if error.is_locked() { claimed } else { other };
    Refusal { code: Code::Configuration(code), sentence: error.to_string(), next: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(directory: &tempfile::TempDir) -> BackingPaths {
        let data = directory.path().join("data");
        std::fs::File::create(&data).unwrap().set_len(1 << 20).unwrap();
        BackingPaths { data, metadata: None, slot: None }
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
    fn volumes_share_a_metadata_device_and_not_a_slot_of_it() {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let shared = directories[0].path().join("shared");
        std::fs::File::create(&shared).unwrap().set_len(2 * INDEXED_AREA_BYTES).unwrap();
        let paths =
            |volume: usize, slot| BackingPaths { metadata: Some(shared.clone()), slot, ..paths(&directories[volume]) };
        let open = |volume, slot| Opened::open(&paths(volume, slot), true, Duration::ZERO);
        let first = open(0, Some(0)).unwrap();
        let second = open(1, Some(1)).unwrap();
        for slot in [Some(0), Some(1), None] {
            let refusal = open(2, slot).unwrap_err();
            assert_eq!(refusal.code, Code::Configuration(ConfigurationRefusal::MetaDiskClaimed), "{refusal}");
        }
        drop(first);
        open(2, Some(0)).unwrap();
        drop(second);
        open(2, None).unwrap();
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

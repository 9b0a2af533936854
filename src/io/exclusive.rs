//! Block devices that several parts of this process use, and nobody else may: the exclusive claim (`O_EXCL`) that keeps
//! mount, mkfs, LVM, md and device-mapper away can be held once only, so all of the process share one.
//!
//! Another process of ours may have the claim already. It shows by the lock that each of them has on the device, which
//! those others do not take; so a device that is claimed and not locked is in use by one of them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::descriptor::checked;

/// The claim, for as long as one of its clones lives.
#[derive(Clone, Debug)]
pub(super) struct Exclusive(#[expect(dead_code, reason = "to hold it is all")] Arc<std::fs::File>);

/// The claims of this process, by the number of the device.
static CLAIMS: Mutex<BTreeMap<u64, Weak<std::fs::File>>> = Mutex::new(BTreeMap::new());

/// Claims a block device together with others of ours. `None`: it is none, or another process of ours has the claim.
///
/// # Errors
/// It cannot be opened; `EBUSY`: something else uses it.
pub(super) fn share(path: &Path) -> io::Result<Option<Exclusive>> {
    let status = std::fs::metadata(path)?;
    if !status.file_type().is_block_device() {
        return Ok(None);
    }
    let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
    claims.retain(|_, claim| claim.strong_count() > 0);
    if let Some(claim) = claims.get(&status.rdev()).and_then(Weak::upgrade) {
        return Ok(Some(Exclusive(claim)));
    }
    let open = |flags| std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
    match open(libc::O_EXCL) {
        Ok(file) => {
            let claim = Arc::new(file);
            claims.insert(status.rdev(), Arc::downgrade(&claim));
            Ok(Some(Exclusive(claim)))
        }
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) && is_locked(&open(0)?) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether anybody has a lock on the file.
fn is_locked(file: &std::fs::File) -> bool {
    // SAFETY: no pointers. The lock, if it is free, goes with the descriptor.
    checked(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).is_err()
}

//! Backing files: made sparse, compared byte by byte outside the product.

use super::tools::{run, tool};
use super::wait::{SHORT, pause};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Bytes compared at a time.
const STEP: usize = 1 << 20;

/// Makes a sparse file.
pub(crate) fn make_sparse(path: &Path, bytes: u64) {
    let file = File::create(path).expect("the folder is ours");
    file.set_len(bytes).expect("a sparse file can have any size");
}

/// Waits until nobody has the file locked, at most for a while.
///
/// The kernel takes the ring of a killed daemon apart after the process is gone, and closes the ring's files one after
/// another with those of all other processes. A file that was deleted meanwhile gives its space back there, which on a
/// slow disk holds up everybody's locks and ports for seconds. So files are deleted only when they are free.
pub(crate) fn wait_until_free(path: &Path) {
    let begin = Instant::now();
    while begin.elapsed() < SHORT {
        let Ok(file) = File::open(path) else { return };
        if Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok() {
            return;
        }
        pause();
    }
}

/// A block device over a file.
pub(crate) struct LoopDevice(String);

impl LoopDevice {
    /// With sectors of this size.
    pub(crate) fn attach(file: &Path, sector_bytes: u32) -> Self {
        let mut command = tool("losetup");
        command.args(["--find", "--show", "--sector-size", &sector_bytes.to_string()]).arg(file);
        Self(run(&mut command).trim().to_owned())
    }

    pub(crate) fn path(&self) -> &str {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // A device that is still open goes when it is closed.
        let _ = tool("losetup").args(["--detach", &self.0]).status();
    }
}

/// A folder in memory, whose files can neither be punched nor opened past the page cache.
pub(crate) struct RamFolder(PathBuf);

impl RamFolder {
    pub(crate) fn mount(path: &Path) -> Self {
        fs::create_dir_all(path).expect("the folder is ours");
        run(tool("mount").args(["-t", "ramfs", "shimai-e2e"]).arg(path));
        Self(path.to_owned())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RamFolder {
    fn drop(&mut self) {
        // It goes with the last who has it open.
        let _ = tool("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Where two files first differ within the first `bytes`, with the bytes there; `None` if nowhere.
pub(crate) fn first_difference(a: &Path, b: &Path, bytes: u64) -> Option<String> {
    let files = [a, b].map(|path| File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    let mut blocks = [vec![0; STEP], vec![0; STEP]];
    let mut offset = 0;
    while offset < bytes {
        let length = usize::try_from(bytes - offset).map_or(STEP, |left| left.min(STEP));
        for (file, block) in files.iter().zip(&mut blocks) {
            file.read_exact_at(&mut block[..length], offset).expect("the file is as long as the device");
        }
        let [left, right] = &blocks;
        if left[..length] != right[..length] {
            let at = (0..length).find(|&at| left[at] != right[at]).expect("they differ");
            return Some(difference(&left[..length], &right[..length], offset, at));
        }
        offset += length as u64;
    }
    None
}

fn difference(left: &[u8], right: &[u8], offset: u64, at: usize) -> String {
    let sector = (offset + at as u64) / 512;
    let differing = left.chunks(4096).zip(right.chunks(4096)).filter(|(left, right)| left != right).count();
    let end = (at + 16).min(left.len());
    format!(
        "first at sector {sector}: {:02x?} here, {:02x?} there; {differing} blocks of this MiB differ",
        &left[at..end],
        &right[at..end]
    )
}

/// Bytes of a file.
pub(crate) fn read_at(path: &Path, offset: u64, bytes: usize) -> Vec<u8> {
    let mut block = vec![0; bytes];
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.read_exact_at(&mut block, offset).expect("the file reaches that far");
    block
}

/// Overwrites bytes of a file.
pub(crate) fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.write_all_at(bytes, offset).expect("the file can be written");
}

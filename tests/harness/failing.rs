//! A disk that fails, or does not answer, while it is told to: a file that nbdkit serves, with a filter for errors, and nbdfuse shows.
//!
//! ```text
//!   shimaid ──► volume (FUSE) ──► nbdfuse ──► nbdkit --filter=error ──► disk.img, which the tests read
//!                                                    ▲ "fail", while it exists
//! ```

use super::tools::{kill, output, spawn, tool};
use super::wait::{SHORT, until};
use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use tempfile::TempDir;

/// The disk; to be made before the cluster that uses it, so that it is dropped after.
pub(crate) struct FailingDisk {
    server: Child,
    fuse: Child,
    folder: TempDir,
}

impl FailingDisk {
    /// A disk that works.
    pub(crate) fn new(bytes: u64) -> Self {
        let folder = TempDir::new().expect("there is room for a folder");
        let [file, socket, volume, log] =
            ["disk.img", "nbdkit.sock", "volume", "log"].map(|name| folder.path().join(name));
        super::disks::make_sparse(&file, bytes);
        fs::write(&volume, "").expect("the folder is ours");
        let mut nbdkit = tool("nbdkit");
        nbdkit.args(["--foreground", "--filter=error", "--unix"]).arg(&socket).arg("file").arg(&file);
        nbdkit.args(["error=EIO", "error-rate=100%"]).arg(format!("error-file={}", trigger(folder.path()).display()));
        let server = spawn(&mut nbdkit, &log);
        until("nbdkit listens", SHORT, || if socket.exists() { Ok(()) } else { Err("no socket") });
        let mut nbdfuse = tool("nbdfuse");
        let fuse = spawn(nbdfuse.arg(&volume).arg("--unix").arg(&socket), &log);
        let disk = Self { server, fuse, folder };
        until("nbdfuse shows the disk", SHORT, || match fs::metadata(disk.volume()) {
            Ok(metadata) if metadata.len() == bytes => Ok(()),
            other => Err(format!("{other:?}: {}", fs::read_to_string(&log).unwrap_or_default())),
        });
        disk
    }

    /// What a node uses.
    pub(crate) fn volume(&self) -> PathBuf {
        self.folder.path().join("volume")
    }

    /// What is on it, also while it fails.
    pub(crate) fn contents(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    /// From now on every read and every write fails.
    pub(crate) fn fail(&self) {
        fs::write(trigger(self.folder.path()), "").expect("the folder is ours");
    }

    /// From now on nothing that is asked of it has an answer, not even to open it.
    pub(crate) fn hang(&self) {
        self.signal_fuse(Signal::SIGSTOP);
    }

    /// It answers again.
    pub(crate) fn wake(&self) {
        self.signal_fuse(Signal::SIGCONT);
    }

    fn signal_fuse(&self, which: Signal) {
        let process = i32::try_from(self.fuse.id()).expect("process ids are small");
        signal(Pid::from_raw(process), which).expect("nbdfuse is our child");
    }

    /// It works again.
    pub(crate) fn mend(&self) {
        fs::remove_file(trigger(self.folder.path())).expect("it failed");
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        // Each may have ended by itself.
        let _ = output(tool("fusermount3").args(["-u", "-z"]).arg(self.volume()));
        kill(&mut self.fuse);
        kill(&mut self.server);
    }
}

fn trigger(folder: &Path) -> PathBuf {
    folder.join("fail")
}

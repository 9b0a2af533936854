//! A file system on a replicated volume: nbdfuse shows the volume as a file, a loop device makes it a disk, ext4 on top.
//!
//! And PostgreSQL on that, as a user of its own, on a unix socket only.

use super::node::Node;
use super::tools::{find, kill, output, run, spawn, tool};
use super::wait::{LONG, SHORT, until};
use nix::unistd::User;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// One distinct value if pgbench's books balance: three sums of balances and the sum of the history's deltas.
const BALANCED: &str = "SELECT count(DISTINCT total) FROM (
    SELECT sum(abalance) AS total FROM pgbench_accounts UNION ALL SELECT sum(tbalance) FROM pgbench_tellers
    UNION ALL SELECT sum(bbalance) FROM pgbench_branches UNION ALL SELECT coalesce(sum(delta), 0) FROM pgbench_history) AS sums";

/// A volume as a local disk, perhaps mounted; all of it is undone when dropped, also if the volume died.
pub(crate) struct Disk {
    fuse: Child,
    file: PathBuf,
    /// The loop device.
    pub(crate) device: String,
    mount: PathBuf,
}

impl Disk {
    /// Makes a disk of the node's volume 0.
    pub(crate) fn attach(node: &Node) -> Self {
        let (file, mount) = (node.folder.join("volume"), node.folder.join("mount"));
        fs::write(&file, "").expect("the folder is ours");
        fs::create_dir_all(&mount).expect("the folder is ours");
        let mut command = tool("nbdfuse");
        let fuse = spawn(command.arg(&file).arg(node.nbd_uri(0)), &node.folder.join("nbdfuse.log"));
        let mut disk = Self { fuse, file, device: String::new(), mount };
        until("nbdfuse shows the volume", SHORT, || {
            if let Some(status) = disk.fuse.try_wait().expect("it is our child") {
                let log = fs::read_to_string(node.folder.join("nbdfuse.log")).unwrap_or_default();
                panic!("nbdfuse ended with {status}: {log}");
            }
            match fs::metadata(&disk.file) {
                Ok(metadata) if metadata.len() > 0 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        disk.device = run(tool("losetup").args(["-f", "--show"]).arg(&disk.file)).trim().to_owned();
        disk
    }

    /// Makes an ext4.
    pub(crate) fn format(&self) {
        run(tool("mkfs.ext4").args(["-q", "-F", &self.device]));
    }

    /// Checks the ext4 without mending anything but its journal. The kernel may let go of an unmounted disk a moment after
    /// `umount` has said that it is done, when a process that was killed had something open there.
    pub(crate) fn check(&self) {
        until("the file system is free", SHORT, || {
            let replayed = output(tool("e2fsck").args(["-p", &self.device]));
            let words = String::from_utf8_lossy(&replayed.stdout).into_owned();
            match replayed.status.code() {
                Some(0 | 1) => Ok(()),
                _ if words.contains("is in use") => Err(words),
                code => panic!("e2fsck -p ended with {code:?}: {words}"),
            }
        });
        run(tool("e2fsck").args(["-f", "-n", &self.device]));
    }

    /// Mounts the ext4; the mount point.
    pub(crate) fn mount(&self) -> &Path {
        run(tool("mount").args(["-t", "ext4", &self.device]).arg(&self.mount));
        &self.mount
    }

    /// Unmounts it, which writes what is left. Children of a server that was killed may still be leaving.
    pub(crate) fn unmount(&self) {
        until("the file system is unmounted", SHORT, || {
            let answer = output(tool("umount").arg(&self.mount));
            if answer.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&answer.stderr).into_owned()) }
        });
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Each step may have been done, or may fail because the volume under it died.
        let _ = output(tool("umount").arg("-l").arg(&self.mount));
        if !self.device.is_empty() {
            let _ = output(tool("losetup").args(["-d", &self.device]));
        }
        let _ = output(tool("fusermount3").args(["-u", "-z"]).arg(&self.file));
        kill(&mut self.fuse);
    }
}

/// A PostgreSQL cluster in a folder.
pub(crate) struct Postgres {
    server: Child,
    socket: PathBuf,
}

impl Postgres {
    /// Makes a new cluster below a mount point.
    pub(crate) fn create(mount: &Path) {
        let (data, user) = (data(mount), postgres());
        fs::create_dir(&data).expect("the file system is fresh");
        chown(&data, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("we are root");
        run(as_postgres("initdb").args(["--data-checksums", "--auth=trust", "--encoding=UTF8", "-D"]).arg(data));
    }

    /// Starts the server and waits until it answers, which includes recovery.
    pub(crate) fn start(mount: &Path, log: &Path) -> Self {
        let user = postgres();
        let socket = log.with_extension("socket");
        fs::create_dir_all(&socket).expect("the folder is ours");
        chown(&socket, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("we are root");
        let mut command = as_postgres("postgres");
        command.arg("-D").arg(data(mount)).arg("-k").arg(&socket);
        command.args(["-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c", "max_wal_size=64MB"]);
        let mut postgres = Self { server: spawn(&mut command, log), socket };
        until("PostgreSQL answers", LONG, || {
            if let Some(status) = postgres.server.try_wait().expect("it is our child") {
                panic!("PostgreSQL ended with {status}: {}", fs::read_to_string(log).unwrap_or_default());
            }
            let answer = output(&mut postgres.client("psql", &["-c", "SELECT 1"]));
            if answer.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&answer.stderr).into_owned()) }
        });
        postgres
    }

    /// One of PostgreSQL's clients, for the database `postgres`.
    pub(crate) fn client(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = as_postgres(program);
        command.arg("-h").arg(&self.socket).args(["-U", "postgres"]).args(arguments).arg("postgres");
        command
    }

    /// The answer to a query with one value.
    pub(crate) fn query(&self, query: &str) -> String {
        run(&mut self.client("psql", &["-A", "-t", "-c", query])).trim().to_owned()
    }

    /// # Panics
    /// When pgbench's sums differ: a transaction is there in part.
    pub(crate) fn assert_balanced(&self) {
        assert_eq!(self.query(BALANCED), "1", "the books balance");
    }

    /// Stops the server at once, as a crash would; its children notice.
    pub(crate) fn kill(self) {
        // As when it is dropped.
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let server = self.server.id();
        let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap_or_default();
        kill(&mut self.server);
        // Most notice by themselves; one that waits for another that died would wait for ever, and keep the disk in use.
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn data(mount: &Path) -> PathBuf {
    mount.join("postgres")
}

/// The user that Debian's package makes.
fn postgres() -> User {
    let user = User::from_name("postgres").expect("users can be looked up");
    user.expect("there is no user postgres; install Debian's package postgresql-15")
}

/// A program run as that user.
fn as_postgres(program: &str) -> Command {
    let user = postgres();
    let mut command = Command::new(find(program));
    command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/");
    command
}

//! Programs from Debian that the tests run: found or named, run with their whole output in the message of a failure.

use super::wait;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// A program and the package it is in; the table of all we use.
const PACKAGES: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("nsenter", "util-linux"),
    ("nbdinfo", "libnbd-bin"),
    ("nbdcopy", "libnbd-bin"),
    ("nbdfuse", "libnbd-bin (from Debian 13 on: nbdfuse)"),
    ("fusermount3", "fuse3"),
    ("nbdkit", "nbdkit"),
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("fio", "fio"),
    ("losetup", "mount"),
    ("mount", "mount"),
    ("umount", "mount"),
    ("mkfs.ext4", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("drbdmeta", "drbd-utils"),
    ("postgres", "postgresql-15"),
    ("initdb", "postgresql-15"),
    ("psql", "postgresql-15"),
    ("pgbench", "postgresql-15"),
    ("pg_amcheck", "postgresql-15"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("modprobe", "kmod"),
    ("depmod", "kmod"),
    ("cpio", "cpio"),
    ("nbd-client", "nbd-client"),
    ("drbdadm", "drbd-utils"),
    ("drbdsetup", "drbd-utils"),
    ("drbdmon", "drbd-utils"),
    ("script", "bsdutils"),
    ("fsck.ext4", "e2fsprogs"),
    ("blkdiscard", "util-linux"),
    ("blockdev", "util-linux"),
];

/// Where programs are, besides `PATH`.
const FOLDERS: &[&str] = &["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/lib/postgresql/15/bin"];

/// The python that Debian's python3-libnbd belongs to; another one first in `PATH` would not find it.
const DEBIANS_PYTHON: &str = "/usr/bin/python3";

/// The program's path.
///
/// # Panics
/// When it is missing, naming the package.
pub(crate) fn find(program: &str) -> PathBuf {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths)
        .chain(FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| {
        let package = PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package);
        panic!("`{program}` is missing; install Debian's package {package}")
    })
}

/// A command for the program.
pub(crate) fn tool(program: &str) -> Command {
    Command::new(find(program))
}

/// A script of `tests/tools` in libnbd's python, with arguments to follow.
pub(crate) fn nbd_script(name: &str) -> Command {
    let module = "/usr/lib/python3/dist-packages/nbd.py";
    assert!(Path::new(module).exists(), "python's nbd module is missing; install Debian's package python3-libnbd");
    let mut command = Command::new(DEBIANS_PYTHON);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools").join(name));
    command
}

/// Runs to the end; standard output.
///
/// # Panics
/// When it cannot be run or fails, with all it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{}", described(command, &output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs to the end, whatever the end.
pub(crate) fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"))
}

/// What was run and what came of it, for messages.
pub(crate) fn described(command: &Command, output: &Output) -> String {
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    format!(
        "{}: {}\n--- its output\n{}--- its errors\n{}",
        words.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Starts in the background with both outputs into a file.
pub(crate) fn spawn(command: &mut Command, log: &Path) -> Child {
    let file = File::options().create(true).append(true).open(log).expect("the log's folder is there");
    let errors = file.try_clone().expect("a descriptor can be copied");
    command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"))
}

/// Waits for the end of what was started; its exit code, or `None` if a signal ended it.
pub(crate) fn ended(what: &str, child: &mut Child, limit: Duration) -> Option<i32> {
    let status = wait::until(&format!("the end of {what}"), limit, || {
        child.try_wait().expect("it is our child").ok_or("it still runs")
    });
    status.code()
}

/// Kills what was started and waits for its end.
pub(crate) fn kill(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

/// # Panics
/// For anyone but root.
pub(crate) fn assert_root() {
    let is_root = nix::unistd::geteuid().is_root();
    assert!(is_root, "these tests make network namespaces and mounts: run them as root");
}

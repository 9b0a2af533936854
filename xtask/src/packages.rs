//! Programs that the tests run: what is missing is installed on a Debian where we may, and named everywhere else.

use crate::steps::run;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Debian's package and a file that shows it is there; several packages have no program of their own name.
const PACKAGES: &[(&str, &[&str])] = &[
    ("drbd-utils", &["/usr/sbin/drbdmeta", "/sbin/drbdmeta"]),
    ("libnbd-bin", &["/usr/bin/nbdinfo"]),
    ("python3-libnbd", &["/usr/lib/python3/dist-packages/nbd.py"]),
    ("nbdkit", &["/usr/sbin/nbdkit", "/usr/bin/nbdkit"]),
    ("fio", &["/usr/bin/fio"]),
    ("qemu-utils", &["/usr/bin/qemu-img"]),
    ("iproute2", &["/usr/sbin/ip", "/sbin/ip", "/bin/ip"]),
    ("iptables", &["/usr/sbin/iptables", "/sbin/iptables"]),
    ("e2fsprogs", &["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"]),
    ("postgresql-15", &["/usr/lib/postgresql/15/bin/postgres"]),
    ("postgresql-contrib", &["/usr/share/postgresql/15/extension/amcheck.control"]),
    ("fuse3", &["/usr/bin/fusermount3"]),
    ("qemu-system-x86", &["/usr/bin/qemu-system-x86_64"]),
    ("busybox-static", &["/usr/bin/busybox", "/bin/busybox"]),
    ("kmod", &["/usr/sbin/modprobe", "/sbin/modprobe"]),
    ("cpio", &["/usr/bin/cpio", "/bin/cpio"]),
    ("nbd-client", &["/usr/sbin/nbd-client", "/sbin/nbd-client"]),
];

/// Names the kernel of the day, which has DRBD as a module.
const KERNEL: &str = "linux-image-amd64";

/// Where the kernel of the emulated machine is unpacked. It is not installed: nothing here boots from it, and what an
/// installation does to the machine's own way of booting is nobody's wish.
const KERNEL_FOLDER: &str = "target/kernel";

/// From Debian 13 on `nbdfuse` is not in `libnbd-bin` any more.
const NBDFUSE: (&str, &[&str]) = ("nbdfuse", &["/usr/bin/nbdfuse"]);

/// libFuzzer is C++; only the fuzz targets need it.
const COMPILER: (&str, &[&str]) = ("g++", &["/usr/bin/g++", "/usr/bin/c++"]);

/// Where Debian's PostgreSQL packages look before they make a cluster of their own.
const CLUSTER_POLICY: &str = "/etc/postgresql-common/createcluster.conf";

/// Cargo's own parts, by the command that needs them.
const COMPONENTS: &[(&str, &str)] = &[("fmt", "rustfmt"), ("clippy", "clippy")];

/// Makes sure that everything is there.
pub(crate) fn install() -> Result<()> {
    for (command, component) in COMPONENTS {
        let version = Command::new("cargo").args([command, "--version"]).output();
        if !version.is_ok_and(|output| output.status.success()) {
            run(Command::new("rustup").args(["component", "add", component]))?;
        }
    }
    let mut missing: Vec<&str> = PACKAGES.iter().filter(|row| !is_there(row)).map(|(package, _)| *package).collect();
    if missing.contains(&"postgresql-15") {
        want_no_cluster()?;
    }
    if !missing.is_empty() {
        apt_install(&missing)?;
    }
    if !is_there(&NBDFUSE) {
        missing.push(NBDFUSE.0);
        apt_install(&[NBDFUSE.0])?;
    }
    match missing.as_slice() {
        [] => println!("all {} packages are there", PACKAGES.len() + 1),
        installed => println!("installed: {}", installed.join(" ")),
    }
    unpack_kernel()
}

/// Makes sure of a kernel for the emulated machine.
fn unpack_kernel() -> Result<()> {
    let folder = Path::new(KERNEL_FOLDER);
    let is_there = fs::read_dir(folder.join("boot")).is_ok_and(|mut entries| entries.next().is_some());
    if is_there {
        return Ok(());
    }
    let listed = Command::new("apt-cache").args(["depends", "--important", KERNEL]).output().context("apt-cache")?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let name = listed.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let name =
        name.with_context(|| format!("{KERNEL} is unknown; is this Debian, and has `apt-get update` been run?"))?;
    let partial = folder.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    run(Command::new("apt-get").args(["download", "-q", name]).current_dir(&partial))?;
    let found = fs::read_dir(&partial)?.next().context("apt-get has left no package")??.path();
    run(Command::new("dpkg-deb").arg("--extract").arg(&found).arg(&partial))?;
    fs::remove_file(found)?;
    fs::rename(&partial, folder)?;
    println!("unpacked: {name}, for the emulated machine");
    Ok(())
}

/// Makes sure of the compiler that fuzzing needs.
pub(crate) fn install_compiler() -> Result<()> {
    if is_there(&COMPILER) { Ok(()) } else { apt_install(&[COMPILER.0]) }
}

/// Installing the server would make and start a cluster `main`, which nobody asked for; the tests make their own.
fn want_no_cluster() -> Result<()> {
    let path = Path::new(CLUSTER_POLICY);
    if path.exists() || !may_install() {
        return Ok(());
    }
    let folder = path.parent().context("the file is in a folder")?;
    fs::create_dir_all(folder).and_then(|()| fs::write(path, "create_main_cluster = false\n"))?;
    println!("wrote {CLUSTER_POLICY}: no cluster `main`");
    Ok(())
}

fn is_there((_, files): &(&str, &[&str])) -> bool {
    files.iter().any(|file| Path::new(file).exists())
}

fn apt_install(packages: &[&str]) -> Result<()> {
    if !may_install() {
        bail!("missing programs; install these (Debian's names) and try again: {}", packages.join(" "));
    }
    run(Command::new("apt-get").args(["update", "-q"]))?;
    let mut command = Command::new("apt-get");
    command.args(["install", "-q", "-y", "--no-install-recommends"]).args(packages);
    run(command.env("DEBIAN_FRONTEND", "noninteractive"))
}

fn may_install() -> bool {
    Path::new("/etc/debian_version").exists() && is_root()
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

//! The machine's kernel and its first file system: Debian's kernel with its modules, a few programs, three scripts of ours.

use crate::harness::tools::{find, run, tool};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Scripts of the machine, and where they go.
const SCRIPTS: &[(&str, &str)] = &[
    ("init", include_str!("../tools/kernel/init")),
    ("sbin/agent", include_str!("../tools/kernel/agent")),
    ("sbin/helper", include_str!("../tools/kernel/helper")),
];
/// Loaded in this order, with these options. The helper is what DRBD calls in place of drbdadm.
const MODULES: &[(&str, &str)] = &[
    ("virtio_pci", ""),
    ("virtio_console", ""),
    ("virtio_blk", ""),
    ("virtio_net", ""),
    ("crc32c-intel", ""),
    ("crc32_generic", ""),
    ("sha1_generic", ""),
    ("sha256_generic", ""),
    ("md5", ""),
    ("hmac", ""),
    ("ext4", ""),
    ("drbd", "usermode_helper=/sbin/helper"),
    ("nbd", "nbds_max=4"),
];
/// Programs of other packages, with the libraries that they need.
const PROGRAMS: &[&str] =
    &["drbdadm", "drbdsetup", "drbdmeta", "fio", "mkfs.ext4", "fsck.ext4", "nbd-client", "blkdiscard", "blockdev"];
/// drbdadm and drbdsetup become these when they find a kernel with DRBD 8.4.
const EIGHT_FOUR: &[&str] = &["/lib/drbd/drbdadm-84", "/lib/drbd/drbdsetup-84"];
const FOLDERS: &[&str] = &[
    "bin",
    "sbin",
    "usr/sbin",
    "usr/bin",
    "usr/lib",
    "lib/drbd",
    "dev",
    "proc",
    "sys",
    "etc",
    "run",
    "var/lib/drbd",
    "var/run/drbd",
    "var/lock",
    "mnt",
];

/// What a machine boots from.
pub(crate) struct Image {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
}

impl Image {
    /// Makes it below `folder`.
    ///
    /// # Panics
    /// When something is missing, with the name of the package.
    pub(crate) fn build(folder: &Path) -> Self {
        let (kernel, version, root) = installed_kernel();
        let tree = folder.join("image");
        for below in FOLDERS {
            fs::create_dir_all(tree.join(below)).expect("the folder is ours");
        }
        let put = |from: &Path, to: &str| {
            let to = tree.join(to.trim_start_matches('/'));
            fs::create_dir_all(to.parent().expect("it is below the tree")).expect("the folder is ours");
            fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        };
        put_modules(&root, &version, &tree, &put);
        put(&find("busybox"), "bin/busybox");
        let mut libraries = BTreeSet::new();
        let programs = PROGRAMS.iter().map(|name| (find(name), format!("usr/sbin/{name}")));
        let others = EIGHT_FOUR.iter().map(|path| (PathBuf::from(path), (*path).to_owned()));
        for (from, to) in programs.chain(others) {
            put(&from, &to);
            libraries.extend(libraries_of(&from));
        }
        libraries.iter().for_each(|library| put(Path::new(library), library));
        for (path, text) in SCRIPTS {
            let path = tree.join(path);
            fs::write(&path, text).expect("the folder is ours");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
        }
        let lines: String = MODULES.iter().map(|(name, options)| format!("{name} {options}\n")).collect();
        fs::write(tree.join("etc/modules"), lines).expect("the folder is ours");
        let initrd = folder.join("initrd");
        pack(&tree, &initrd);
        fs::remove_dir_all(&tree).expect("the folder is ours");
        Self { kernel, initrd }
    }
}

/// The kernel, its version, and the root of the file system that its modules are in.
fn installed_kernel() -> (PathBuf, String, PathBuf) {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/kernel");
    for root in [unpacked, PathBuf::from("/")] {
        let entries = fs::read_dir(root.join("boot")).into_iter().flatten().flatten();
        let kernels = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix("vmlinuz-")?.to_owned();
            let has_drbd = root.join("lib/modules").join(&version).join("kernel/drivers/block/drbd").is_dir();
            has_drbd.then(|| (entry.path(), version))
        });
        if let Some((kernel, version)) = kernels.max() {
            return (kernel, version, root);
        }
    }
    panic!("there is no kernel with DRBD; `cargo xtask test packages` fetches Debian's package linux-image-amd64")
}

fn put_modules(root: &Path, version: &str, tree: &Path, put: &impl Fn(&Path, &str)) {
    let modules = root.join("lib/modules").join(version);
    if !modules.join("modules.dep").is_file() {
        run(tool("depmod").arg("-b").arg(root).arg(version));
    }
    let mut files = BTreeSet::new();
    for (module, _) in MODULES {
        let mut command = tool("modprobe");
        command.args(["--show-depends", "--dirname"]).arg(root).args(["--set-version", version, module]);
        let listed = run(&mut command);
        files.extend(
            listed.lines().filter_map(|line| Some(line.strip_prefix("insmod ")?.split(' ').next()?.to_owned())),
        );
    }
    for file in &files {
        let path = Path::new(file);
        let below = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
        put(path, &below);
    }
    for list in ["modules.order", "modules.builtin"] {
        put(&modules.join(list), &format!("lib/modules/{version}/{list}"));
    }
    run(tool("depmod").arg("-b").arg(tree).arg(version));
}

/// Libraries of a program and the one that loads them, by the paths at which they are looked for.
fn libraries_of(program: &Path) -> Vec<String> {
    let listed = run(tool("ldd").arg(program));
    listed.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}

/// Packs a tree as the kernel unpacks it.
fn pack(tree: &Path, initrd: &Path) {
    let names = run(tool("find").current_dir(tree).arg("."));
    let out = fs::File::create(initrd).expect("the folder is ours");
    let mut command: Command = tool("cpio");
    command.current_dir(tree).args(["--create", "--format=newc", "--quiet"]);
    let mut child = command.stdin(Stdio::piped()).stdout(out).spawn().expect("cpio can be run");
    child.stdin.take().expect("it is piped").write_all(names.as_bytes()).expect("cpio reads names");
    let status = child.wait().expect("it is our child");
    assert!(status.success(), "cpio: {status}");
}

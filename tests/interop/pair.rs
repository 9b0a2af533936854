//! A shimai node and a kernel node as a pair: alpha is ours, bravo is the kernel's.
//!
//! One machine serves many scenarios, since booting it takes longer than most of them; what a scenario leaves on it is
//! cleared before the next one. Our side is made anew each time.

use crate::harness::Node;
use crate::harness::cluster::{is_in_sync, is_quiet};
use crate::harness::configuration::{Files, Format, MetaDisk, Options, RESOURCE};
use crate::harness::disks::{first_difference, make_sparse};
use crate::harness::drbdmeta::Place as MetadataPlace;
use crate::harness::nbd::Nbd;
use crate::harness::network::{inside, sweep};
use crate::harness::tools::{output, run, tool};
use crate::harness::wait::{LONG, until};
use crate::image::Image;
use crate::machine::{Machine, Place};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// The device of the kernel's node.
pub(crate) const DEVICE: &str = "/dev/drbd0";
const DISK_MIB: u64 = 64;
const INTERFACE: &str = "wire0";
/// Begins the name of the namespace and of the folder; the process id follows in the first.
const PREFIX: &str = "shimai-interop-";

/// One of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    Kernels,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Ours => Self::Kernels,
            Self::Kernels => Self::Ours,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "shimai",
            Self::Kernels => "kernel",
        })
    }
}

/// What /proc/drbd says of the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelState {
    /// `cs`
    pub(crate) connection: String,
    /// `ro`: own and the peer's.
    pub(crate) roles: String,
    /// `ds`: own and the peer's.
    pub(crate) disks: String,
    /// `oos`, KiB.
    pub(crate) out_of_sync: u64,
    /// All of it, for messages.
    pub(crate) text: String,
}

/// The machine and its cable; it lives as long as the tests.
pub(crate) struct Lab {
    machine: Option<Machine>,
    image: Image,
    namespace: String,
    folder: tempfile::TempDir,
}

impl Lab {
    /// Builds the image and boots the machine.
    pub(crate) fn new() -> Self {
        crate::harness::tools::assert_root();
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir().expect("there is room for a folder");
        sweep(PREFIX);
        let namespace = format!("{PREFIX}{}", std::process::id());
        ip(&["netns", "add", &namespace]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        ip(&["-n", &namespace, "tuntap", "add", INTERFACE, "mode", "tap"]);
        ip(&["-n", &namespace, "addr", "add", "10.77.0.1/24", "dev", INTERFACE]);
        ip(&["-n", &namespace, "link", "set", INTERFACE, "up"]);
        let image = Image::build(folder.path());
        let place = Place { namespace: namespace.clone(), interface: INTERFACE.into(), address: "10.77.0.2/24".into() };
        let kernel = folder.path().join("bravo");
        fs::create_dir_all(&kernel).expect("the folder is ours");
        ["vda.img", "vdb.img"].iter().for_each(|name| make_sparse(&kernel.join(name), DISK_MIB << 20));
        let machine = Some(Machine::boot("bravo", &image, &kernel, place));
        Self { machine, image, namespace, folder }
    }

    pub(crate) fn kernel(&self) -> &Machine {
        self.machine.as_ref().expect("it runs")
    }

    /// Pulls the plug of the machine and boots it with the disks that it had.
    pub(crate) fn pull_the_plug(&mut self) {
        let (folder, place) = self.machine.take().expect("it runs").unplugged();
        self.machine = Some(Machine::boot("bravo", &self.image, &folder, place));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.machine = None;
        let _ = output(tool("ip").args(["netns", "del", &self.namespace]));
    }
}

/// The two, with metadata and configuration of one scenario.
pub(crate) struct Pair<'a> {
    pub(crate) lab: &'a mut Lab,
    pub(crate) ours: Node,
    text: String,
    /// Where our side's files are; removed with the pair.
    folder: tempfile::TempDir,
}

impl<'a> Pair<'a> {
    /// Blank disks, the configuration on both nodes, nothing runs.
    pub(crate) fn new(lab: &'a mut Lab, options: &Options) -> Self {
        heal(&lab.namespace);
        let folder = tempfile::Builder::new().prefix("pair-").tempdir_in(lab.folder.path()).expect("there is room");
        let disk = folder.path().join("disk0.img");
        make_sparse(&disk, DISK_MIB << 20);
        let inside = PathBuf::from("/dev/vda");
        let files = [&disk, &inside].map(|disk| vec![Files { disk: disk.clone(), metadata: disk.clone() }]);
        let mut options = options.clone();
        // The loss of a peer is noticed as soon as it can be.
        options.net.extend(["ping-int 1", "connect-int 1"]);
        let text = options.text(&files);
        let place = MetadataPlace { format: options.formats[0], meta_disk: MetaDisk::Internal, file: disk.clone() };
        let ours = Node::new("alpha", lab.namespace.clone(), folder.path().to_owned(), (vec![disk], vec![place]));
        fs::write(ours.config(), &text).expect("the folder is ours");
        let kernel = lab.kernel();
        kernel.try_sh("umount /mnt; drbdsetup down data");
        kernel.sh("rm -f /run/helper.*; /usr/sbin/blkdiscard -f /dev/vda; /usr/sbin/blkdiscard -f /dev/vdb; dmesg -c > /dev/null");
        kernel.put("/etc/drbd.conf", text.as_bytes());
        Self { lab, ours, text, folder }
    }

    /// As `new`; metadata is made, both are up and connected.
    pub(crate) fn connected(lab: &'a mut Lab, options: &Options) -> Self {
        let mut pair = Self::new(lab, options);
        pair.create_md();
        pair.start();
        pair.wait_connected();
        pair
    }

    /// Connected, in sync without a resync, and that side is Primary.
    pub(crate) fn serving(lab: &'a mut Lab, options: &Options, primary: Side) -> Self {
        let pair = Self::connected(lab, options);
        pair.serve(primary);
        pair
    }

    pub(crate) fn wait_connected(&self) {
        self.wait("connected", |ours, theirs| ours.starts_with("Connected") && theirs.connection == "Connected");
    }

    /// Two blank disks that are up are declared equal by that side, which is Primary then.
    pub(crate) fn serve(&self, primary: Side) {
        self.wait_connected();
        self.act(primary, "new-current-uuid --clear-bitmap data/0");
        self.wait_in_sync();
        self.promote(primary);
    }

    pub(crate) fn kernel(&self) -> &Machine {
        self.lab.kernel()
    }

    /// For files of a scenario.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The machine loses its power and comes back; its resource is down.
    pub(crate) fn pull_the_plug(&mut self) {
        self.lab.pull_the_plug();
        self.kernel().put("/etc/drbd.conf", self.text.as_bytes());
    }

    pub(crate) fn create_md(&self) {
        self.ours.ok(&["create-md", "--force", "--format", "v08", RESOURCE]);
        self.kernel().sh("drbdadm --force create-md data < /dev/null");
    }

    pub(crate) fn start(&mut self) {
        self.ours.start();
        self.ours.up();
        self.kernel().sh("drbdadm up data");
    }

    /// Of a resource that is down, the connection is `Unconfigured`.
    pub(crate) fn kernel_state(&self) -> KernelState {
        let text = self.kernel().sh("cat /proc/drbd");
        parse_state(&text).unwrap_or(KernelState {
            connection: "Unconfigured".into(),
            roles: String::new(),
            disks: String::new(),
            out_of_sync: 0,
            text,
        })
    }

    /// Waits until it is so; ours is given as `CONNECTION ROLE DISK/PEER-DISK`.
    pub(crate) fn wait(&self, what: &str, holds: impl Fn(&str, &KernelState) -> bool) {
        until(what, LONG, || {
            let (ours, theirs) = (self.our_state(), self.kernel_state());
            if holds(&ours, &theirs) { Ok(()) } else { Err(format!("alpha {ours}; bravo {}", theirs.text)) }
        });
    }

    /// `CONNECTION ROLE DISK/PEER-DISK`
    pub(crate) fn our_state(&self) -> String {
        match self.ours.try_status() {
            Ok(status) => {
                let (volume, peer) = (&status.volumes[0], &status.peers[0]);
                let connection = peer.volumes.first().map_or(peer.connection, |it| it.replication.max(peer.connection));
                let peer_disk = peer.volumes.first().map(|it| it.peer_disk.to_string()).unwrap_or_default();
                format!("{connection} {} {}/{peer_disk}", status.role, volume.disk)
            }
            Err(error) => error,
        }
    }

    /// Connected, UpToDate, and nothing is under way on either side.
    pub(crate) fn wait_in_sync(&self) {
        self.ours.wait("in sync and quiet", LONG, |status| is_in_sync(status) && is_quiet(status));
        self.wait("in sync on both", |_, theirs| {
            theirs.connection == "Connected" && theirs.disks == "UpToDate/UpToDate" && theirs.out_of_sync == 0
        });
    }

    /// Waits for that, and compares the data areas byte for byte.
    pub(crate) fn assert_identical(&self) {
        self.wait_in_sync();
        let bytes = self.ours.status().volumes[0].size_sectors * 512;
        assert!(bytes > 60 << 20, "{bytes} bytes are no volume of {DISK_MIB} MiB");
        let difference = first_difference(&self.ours.disks[0], &self.kernel().disk(0), bytes);
        assert!(difference.is_none(), "{}\n{}", difference.unwrap_or_default(), self.kernel().log_tail());
    }

    pub(crate) fn promote(&self, side: Side) {
        self.act(side, "primary data");
    }

    pub(crate) fn demote(&self, side: Side) {
        self.act(side, "secondary data");
    }

    /// A verb that both know, which must succeed.
    pub(crate) fn act(&self, side: Side, words: &str) {
        match side {
            Side::Ours => _ = self.ours.ok(&words.split(' ').collect::<Vec<_>>()),
            Side::Kernels => _ = self.kernel().sh(&format!("drbdadm {words}")),
        }
    }

    /// Writes bytes on that side's device.
    pub(crate) fn write(&self, side: Side, offset: u64, bytes: &[u8]) {
        match side {
            Side::Ours => {
                let mut export = self.export();
                export.write(offset, bytes).and_then(|()| export.flush()).expect("it is Primary");
            }
            Side::Kernels => {
                self.kernel().put("/run/bytes", bytes);
                // One request, if it can be.
                let unit = if offset.is_multiple_of(bytes.len() as u64) { bytes.len() } else { 512 };
                let seek = offset / unit as u64;
                let words = format!("if=/run/bytes of={DEVICE} bs={unit} seek={seek} oflag=direct conv=notrunc,fsync");
                self.kernel().sh(&format!("dd {words}"));
            }
        }
    }

    /// Reads bytes of that side's device.
    pub(crate) fn read(&self, side: Side, offset: u64, length: usize) -> Vec<u8> {
        match side {
            Side::Ours => self.export().read(offset, length as u32).expect("it is Primary").to_vec(),
            Side::Kernels => {
                let (blocks, skip) = (length / 512, offset / 512);
                let words = format!("if={DEVICE} bs=512 skip={skip} count={blocks} iflag=direct");
                self.kernel().bytes_of(&format!("dd {words} 2> /dev/null"))
            }
        }
    }

    /// Waits until that side has lost the other one.
    pub(crate) fn wait_parted(&self, side: Side) {
        self.wait(&format!("{side} has noticed the loss"), |ours, theirs| match side {
            Side::Ours => !ours.starts_with("Connected"),
            Side::Kernels => theirs.connection != "Connected",
        });
    }

    /// The first volume of ours, for an NBD client.
    pub(crate) fn export(&self) -> Nbd {
        Nbd::open(&self.ours.nbd_socket(), RESOURCE).expect("it is Primary")
    }

    /// Packets are lost in both directions until `heal`.
    pub(crate) fn cut(&self) {
        for chain in ["INPUT", "OUTPUT"] {
            let end = if chain == "INPUT" { "-i" } else { "-o" };
            run(inside(&self.lab.namespace, "iptables").args(["-w", "-A", chain, end, INTERFACE, "-j", "DROP"]));
        }
    }

    pub(crate) fn heal(&self) {
        heal(&self.lab.namespace);
    }
}

impl Drop for Pair<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && self.lab.machine.is_some() {
            eprintln!("{}", self.kernel().log_tail());
        }
    }
}

fn heal(namespace: &str) {
    for chain in ["INPUT", "OUTPUT"] {
        run(inside(namespace, "iptables").args(["-w", "-F", chain]));
    }
}

fn ip(arguments: &[&str]) {
    run(tool("ip").args(arguments));
}

/// Of lines as `0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----` and the counters below.
fn parse_state(text: &str) -> Option<KernelState> {
    let begin = text.find(" 0: cs:")?;
    let text = text[begin..].trim_end();
    let value = |key: &str| {
        let begin = text.find(key)? + key.len();
        Some(text[begin..].split_whitespace().next()?.to_owned())
    };
    Some(KernelState {
        connection: value("cs:")?,
        roles: value(" ro:").unwrap_or_default(),
        disks: value(" ds:").unwrap_or_default(),
        out_of_sync: value(" oos:").and_then(|text| text.parse().ok()).unwrap_or(0),
        text: text.to_owned(),
    })
}

/// The usual options of these tests: disks of v08, which both can read.
pub(crate) fn options() -> Options {
    Options { formats: Format::BOTH_V08, ..Options::default() }
}

/// Bytes that are like no others.
pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut dice = crate::harness::load::Dice::new(seed);
    (0..length.div_ceil(8)).flat_map(|_| dice.below(u64::MAX).to_le_bytes()).take(length).collect()
}

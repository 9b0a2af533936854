//! Disks that fail or are full, under a writer: it goes on with the other node's, and nothing is lost.

use crate::harness::cluster::{is_connected, peer};
use crate::harness::configuration::RESOURCE;
use crate::harness::disks::{make_sparse, read_at};
use crate::harness::failing::FailingDisk;
use crate::harness::load::{BLOCK, Ledger, Load};
use crate::harness::nbd::Nbd;
use crate::harness::tools::{output, run, tool};
use crate::harness::{Cluster, LONG, MetaDisk, Options, SHORT};
use shimai::model::state::DiskState;
use std::path::{Path, PathBuf};

const DISK_MIB: u64 = 64;
const ALPHA: usize = 0;
const BRAVO: usize = 1;

/// A connected pair, alpha Primary, in which `side` has the disk at `volume`, whose contents are at `contents`.
fn pair_with(options: Options, side: usize, volume: &Path, contents: &Path) -> Cluster {
    let mut cluster = Cluster::new(options);
    let node = if side == ALPHA { &mut cluster.a } else { &mut cluster.b };
    let own = std::mem::replace(&mut node.disks[0], contents.to_owned());
    cluster.nodes()[side].edit_config(&format!("disk {};", own.display()), &format!("disk {};", volume.display()));
    let cluster = cluster.made_ready();
    cluster.a.ok(&["primary", RESOURCE]);
    cluster
}

fn options(policy: &'static str) -> Options {
    Options { disk_mib: DISK_MIB, disk: vec![policy], ..Options::default() }
}

fn load(cluster: &Cluster) -> Load {
    let load = Load::start(&cluster.a.nbd_socket(), RESOURCE, (0..2000).collect(), 7, Ledger::default());
    load.wait_for(300);
    load
}

fn check_disk(cluster: &Cluster, side: usize, ledger: &Ledger) {
    let node = cluster.nodes()[side];
    ledger.check(&format!("{}'s disk", node.name), |block| read_at(&node.disks[0], block * BLOCK, BLOCK as usize));
}

/// What the client reads is what it wrote, wherever it comes from.
fn check_reads(cluster: &Cluster, ledger: &Ledger) {
    let mut nbd = Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("a Primary serves");
    ledger
        .check("read by the client", |block| nbd.read(block * BLOCK, BLOCK as u32).expect("the read is done").to_vec());
}

#[test]
fn a_primary_whose_disk_fails_goes_on_with_the_peers() {
    let disk = FailingDisk::new(DISK_MIB << 20);
    let cluster = pair_with(options("on-io-error detach"), ALPHA, &disk.volume(), &disk.contents());
    let load = load(&cluster);
    disk.fail();
    cluster.a.wait("the disk is let go", SHORT, |status| status.volumes[0].disk == DiskState::Diskless);
    load.wait_for(300);
    let ledger = load.stop();
    check_disk(&cluster, BRAVO, &ledger);
    check_reads(&cluster, &ledger);
    disk.mend();
    cluster.a.ok(&["attach", RESOURCE]);
    cluster.assert_in_sync_and_identical();
    check_disk(&cluster, ALPHA, &ledger);
}

#[test]
fn a_secondary_whose_disk_fails_holds_nobody_up() {
    let disk = FailingDisk::new(DISK_MIB << 20);
    let cluster = pair_with(options("on-io-error detach"), BRAVO, &disk.volume(), &disk.contents());
    let load = load(&cluster);
    disk.fail();
    cluster.b.wait("the disk is let go", SHORT, |status| status.volumes[0].disk == DiskState::Diskless);
    cluster.a.wait("the Primary knows", SHORT, |status| peer(status).volumes[0].peer_disk == DiskState::Diskless);
    load.wait_for(300);
    let ledger = load.stop();
    check_disk(&cluster, ALPHA, &ledger);
    disk.mend();
    cluster.b.ok(&["attach", RESOURCE]);
    cluster.assert_in_sync_and_identical();
    check_disk(&cluster, BRAVO, &ledger);
}

/// The metadata is elsewhere, and well: without it no policy could keep the disk.
#[test]
fn a_failing_disk_that_is_kept_is_inconsistent_and_is_mended_by_a_resync() {
    let disk = FailingDisk::new(DISK_MIB << 20);
    let options = Options { meta_disk: MetaDisk::Flexible, ..options("on-io-error pass_on") };
    let cluster = pair_with(options, ALPHA, &disk.volume(), &disk.contents());
    let load = load(&cluster);
    disk.fail();
    cluster.a.wait("the disk is known bad", SHORT, |status| status.volumes[0].disk == DiskState::Inconsistent);
    load.wait_for(300);
    let ledger = load.stop();
    check_disk(&cluster, BRAVO, &ledger);
    check_reads(&cluster, &ledger);
    disk.mend();
    cluster.b.ok(&["disconnect", RESOURCE]);
    cluster.a.wait("the peer has left", LONG, |status| !is_connected(status));
    cluster.b.ok(&["connect", RESOURCE]);
    cluster.assert_in_sync_and_identical();
    check_disk(&cluster, ALPHA, &ledger);
}

/// A sparse disk on a small file system; unmounted when dropped, which is after the cluster that uses it.
struct FullDisk(tempfile::TempDir);

impl FullDisk {
    fn new() -> Self {
        let folder = tempfile::TempDir::new().expect("there is room for a folder");
        run(tool("mount").args(["-t", "tmpfs", "-o", "size=16M", "tmpfs"]).arg(folder.path()));
        let disk = Self(folder);
        make_sparse(&disk.file(), DISK_MIB << 20);
        disk
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("disk.img")
    }

    /// Makes room.
    fn grow(&self) {
        run(tool("mount").args(["-o", "remount,size=128M"]).arg(self.0.path()));
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        let _ = output(tool("umount").arg("-l").arg(self.0.path()));
    }
}

/// Writes 32 MiB, a number in each.
fn fill(nbd: &mut Nbd) {
    for mib in 0..32_u64 {
        nbd.write(mib << 20, &vec![mib as u8 + 1; 1 << 20]).expect("one of the disks takes it");
    }
    nbd.flush().expect("the flush is done");
}

/// Reads them from the volume and from the node's own disk.
fn check_filled(nbd: &mut Nbd, disk: &Path) {
    for mib in 0..32_u64 {
        let expected = vec![mib as u8 + 1; 4096];
        assert_eq!(nbd.read(mib << 20, 4096).expect("one of the disks answers"), expected, "MiB {mib}");
        assert_eq!(read_at(disk, mib << 20, 4096), expected, "MiB {mib} of {}", disk.display());
    }
}

fn full(side: usize) {
    let disk = FullDisk::new();
    let cluster = pair_with(options("on-io-error detach"), side, &disk.file(), &disk.file());
    let (poor, rich) = (cluster.nodes()[side], cluster.nodes()[1 - side]);
    let mut nbd = Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("a Primary serves");
    fill(&mut nbd);
    poor.wait("the disk is let go", SHORT, |status| status.volumes[0].disk == DiskState::Diskless);
    check_filled(&mut nbd, &rich.disks[0]);
    disk.grow();
    poor.ok(&["attach", RESOURCE]);
    cluster.assert_in_sync_and_identical();
    check_filled(&mut nbd, &poor.disks[0]);
}

#[test]
fn a_primary_whose_disk_is_full_goes_on_with_the_peers() {
    full(ALPHA);
}

#[test]
fn a_secondary_whose_disk_is_full_holds_nobody_up() {
    full(BRAVO);
}

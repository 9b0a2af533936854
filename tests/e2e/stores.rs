//! Stores that are not a plain file on a file system that can do everything.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;

use crate::harness::clients::nbdinfo;
use crate::harness::cluster::is_connected;
use crate::harness::configuration::RESOURCE;
use crate::harness::disks::{LoopDevice, RamFolder, make_sparse};
use crate::harness::nbd::Nbd;
use crate::harness::{Cluster, Options};

/// The flag of open(2) that asks for a block device alone.
const O_EXCL: i32 = 0o200;

/// Brings a pair up whose disks are these instead of the usual files; alpha is Primary.
fn bring_up_on(cluster: &mut Cluster, disks: [&str; 2]) {
    for (usual, disk) in [cluster.a.disks[0].clone(), cluster.b.disks[0].clone()].iter().zip(disks) {
        for node in cluster.nodes() {
            node.edit_config(&usual.display().to_string(), disk);
        }
    }
    cluster.create_md();
    cluster.start();
    cluster.up();
    cluster.wait_both("connected", is_connected);
    cluster.a.ok(&["new-current-uuid", "--clear-bitmap", &format!("{RESOURCE}/0")]);
    cluster.wait_in_sync();
    cluster.a.ok(&["primary", RESOURCE]);
}

/// A pair on loop devices with sectors of this size. The devices go after the daemons.
fn on_loop_devices(sector_bytes: u32) -> (Cluster, [LoopDevice; 2]) {
    let mut cluster = Cluster::new(Options::default());
    let devices = [&cluster.a, &cluster.b].map(|node| LoopDevice::attach(&node.disks[0], sector_bytes));
    bring_up_on(&mut cluster, [devices[0].path(), devices[1].path()]);
    (cluster, devices)
}

#[test]
fn single_sectors_are_trimmed_and_zeroed_on_a_device_with_larger_ones() {
    let (cluster, _devices) = on_loop_devices(4096);
    let mut client = Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("alpha is Primary");
    let mut expected = vec![7; 1 << 20];
    client.write(0, &expected).expect("the disk is good");
    for (offset, bytes) in [(512, 512), (4096 - 512, 1024), (8192, 4096), (65_536 + 512, 131_072)] {
        client.trim(offset, bytes).expect("a trim of whole sectors is legal");
        client.zeroes(offset + (512 << 10), bytes).expect("zeroes of whole sectors are legal");
        for start in [offset as usize, offset as usize + (512 << 10)] {
            expected[start..start + bytes as usize].fill(0);
        }
    }
    assert!(client.read(0, 1 << 20).expect("the disk is good") == expected);
    client.flush().expect("the disk is good");
    drop(client);
    cluster.assert_in_sync_and_identical();
    drop(cluster);
}

#[test]
fn a_device_that_can_unmap_offers_trim() {
    let (cluster, _devices) = on_loop_devices(512);
    assert_eq!(nbdinfo(&cluster.a.nbd_uri(0))["can_trim"], true);
    drop(cluster);
}

#[test]
fn a_store_that_cannot_unmap_offers_no_trim_and_writes_zeroes() {
    let mut cluster = Cluster::new(Options::default());
    let folder = RamFolder::mount(&cluster.scratch().join("ram"));
    let disk = folder.path().join("disk");
    make_sparse(&disk, 16 << 20);
    let other = cluster.b.disks[0].display().to_string();
    bring_up_on(&mut cluster, [&disk.display().to_string(), &other]);
    let info = nbdinfo(&cluster.a.nbd_uri(0));
    assert_eq!((&info["can_trim"], &info["can_zero"]), (&false.into(), &true.into()), "{info}");
    let mut client = Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("alpha is Primary");
    client.write(0, &[7; 65_536]).expect("the disk is good");
    client.zeroes(512, 32_768).expect("zeroes are written");
    let read = client.read(0, 65_536).expect("the disk is good");
    assert!(read.iter().enumerate().all(|(at, byte)| (*byte == 0) == (512..512 + 32_768).contains(&at)));
    let refused = client.trim(0, 4096).expect_err("it was not offered");
    assert!(refused.contains("TRIM"), "{refused}");
    drop(client);
    assert_eq!([cluster.a.stop(), cluster.b.stop()], [Some(0); 2]);
    // The folder of the cluster can be removed only when nothing is mounted in it.
    drop(folder);
    drop(cluster);
}

/// A metadata device that two volumes share is closed to everybody else, as a device of one volume is.
#[test]
fn a_shared_metadata_device_is_taken_for_others_and_one_that_others_use_is_left_alone() {
    let mut cluster = Cluster::new(Options { volumes: 2, ..Options::default() });
    let image = cluster.scratch().join("meta.img");
    make_sparse(&image, 2 * (128 << 20));
    let device = LoopDevice::attach(&image, 512);
    for (volume, disk) in cluster.a.disks.iter().enumerate() {
        let line = |meta: &str| format!("disk {};\n            meta-disk {meta};", disk.display());
        cluster.a.edit_config(&line("internal"), &line(&format!("{}[{volume}]", device.path())));
    }
    // How mount, mkfs, LVM and md ask for a device.
    let taken = || fs::File::options().read(true).custom_flags(O_EXCL).open(device.path());

    let other = taken().expect("nobody has the device");
    let sentence = cluster.a.refused(&["create-md", "--force", RESOURCE], 20);
    assert!(sentence.contains("in use"), "{sentence}");
    drop(other);

    cluster.create_md();
    cluster.start();
    cluster.up();
    cluster.wait_both("connected", is_connected);
    assert!(taken().is_err(), "both volumes have it");
    cluster.a.ok(&["detach", &format!("{RESOURCE}/0")]);
    assert!(taken().is_err(), "the second volume still has it");
    // The commands of the offline kind go beside the daemon, slot by slot.
    cluster.a.ok(&["create-md", "--force", &format!("{RESOURCE}/0")]);
    cluster.a.ok(&["attach", &format!("{RESOURCE}/0")]);
    cluster.a.ok(&["down", RESOURCE]);
    taken().expect("nobody has it any more");
    drop(cluster);
}

//! Stores that are not a plain file.

use crate::harness::clients::nbdinfo;
use crate::harness::cluster::is_connected;
use crate::harness::configuration::RESOURCE;
use crate::harness::disks::LoopDevice;
use crate::harness::nbd::Nbd;
use crate::harness::{Cluster, Options};

/// A pair on loop devices with sectors of this size; alpha is Primary.
fn on_loop_devices(sector_bytes: u32) -> (Cluster, Vec<LoopDevice>) {
    let mut cluster = Cluster::new(Options::default());
    let mut devices = Vec::new();
    for disk in [cluster.a.disks[0].clone(), cluster.b.disks[0].clone()] {
        let device = LoopDevice::attach(&disk, sector_bytes);
        for node in [&cluster.a, &cluster.b] {
            node.edit_config(&disk.display().to_string(), device.path());
        }
        devices.push(device);
    }
    cluster.create_md();
    cluster.start();
    cluster.up();
    cluster.wait_both("connected", is_connected);
    cluster.a.ok(&["new-current-uuid", "--clear-bitmap", &format!("{RESOURCE}/0")]);
    cluster.wait_in_sync();
    cluster.a.ok(&["primary", RESOURCE]);
    (cluster, devices)
}

#[test]
fn single_sectors_are_trimmed_and_zeroed_on_a_device_with_larger_ones() {
    let (cluster, devices) = on_loop_devices(4096);
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
    drop((cluster, devices));
}

#[test]
fn a_device_that_can_unmap_offers_trim() {
    let (cluster, devices) = on_loop_devices(512);
    assert_eq!(nbdinfo(&cluster.a.nbd_uri(0))["can_trim"], true);
    drop((cluster, devices));
}

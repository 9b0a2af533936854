//! A disk of 15 TiB: up within seconds, in the memory of its bitmap.

use crate::harness::cluster::wait_disk;
use crate::harness::configuration::RESOURCE;
use crate::harness::nbd::Nbd;
use crate::harness::{Cluster, Format, Options};
use shimai::model::state::DiskState;

/// One bit for each 4 KiB of 15 TiB.
const BITMAP_BYTES: u64 = 480 << 20;

/// The local node alone, promoted by force; a write at the very end.
fn fifteen_tebibytes(format: Format) {
    let formats = [format; 2];
    let mut cluster = Cluster::new(Options { disk_mib: 15 << 20, formats, ..Options::default() });
    cluster.a.ok(&["create-md", "--force", "--format", format.name(), RESOURCE]);
    cluster.a.start();
    cluster.a.up();
    let status = wait_disk(&cluster.a, DiskState::Inconsistent);
    // Its own work: what a slow disk takes for it is not counted.
    let took = cluster.a.processor_seconds();
    assert!(took < 10, "{took} s of a processor");
    cluster.a.ok(&["primary", "--force", RESOURCE]);
    let mut nbd = Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("a Primary serves");
    assert_eq!(nbd.bytes, status.volumes[0].size_sectors * 512);
    let end = nbd.bytes - 4096;
    nbd.write(end, &[0x77; 4096]).expect("the last block can be written");
    assert_eq!(nbd.read(end, 4096).expect("and read"), [0x77; 4096][..]);
    let peak = cluster.a.peak_resident_bytes();
    println!("{} MiB at most, of which {} are the bitmap", peak >> 20, BITMAP_BYTES >> 20);
    assert!(peak < BITMAP_BYTES + (64 << 20), "{} MiB were resident", peak >> 20);
}

#[test]
fn fifteen_tebibytes_come_up_in_the_memory_of_the_bitmap_in_v08() {
    fifteen_tebibytes(Format::V08);
}

#[test]
fn fifteen_tebibytes_come_up_in_the_memory_of_the_bitmap_in_v09() {
    fifteen_tebibytes(Format::V09);
}

//! The real drbdmeta reads our disks, we read its, and both mean the same.

use crate::harness::configuration::RESOURCE;
use crate::harness::load::{Ledger, Load};
use crate::harness::tools::{output, run, tool};
use crate::harness::{Cluster, Format, MetaDisk, Options, Style};
use std::fs;

/// A dump without what is said about the dump itself, which is also where both say in their own words that the activity
/// log has not been applied. Drbdmeta before 9.33 prints no flags of v08, so they are left out there.
fn values(dump: &str, format: Format) -> String {
    let lines = dump.lines().map(str::trim_end).filter(|line| !line.starts_with('#') && !line.is_empty());
    let lines = lines.filter(|line| !line.contains("unclean"));
    let lines = lines.filter(|line| format == Format::V09 || !line.trim_start().starts_with("flags"));
    lines.collect::<Vec<_>>().join("\n")
}

fn options(format: Format, meta_disk: MetaDisk) -> Options {
    let style = if format == Format::V08 { Style::Eight } else { Style::Nine };
    Options { formats: [format; 2], meta_disk, style, disk_mib: 128, ..Options::default() }
}

/// Both programs dump each node's disk alike.
fn assert_same_dumps(cluster: &Cluster) {
    for node in cluster.nodes() {
        let place = &node.metadata[0];
        let ours = node.ok(&["dump-md", "--force", RESOURCE]);
        let theirs = place.drbdmeta(&["dump-md"]);
        assert_eq!(values(&ours, place.format), values(&theirs, place.format), "{}", node.name);
    }
}

/// Both programs print each node's generations alike.
fn assert_same_generations(cluster: &Cluster) {
    for node in cluster.nodes() {
        let ours = node.ok(&["get-gi", RESOURCE]);
        assert_eq!(ours.trim(), node.metadata[0].generations().trim(), "{}", node.name);
    }
}

fn fresh_and_after_work(format: Format, meta_disk: MetaDisk) {
    let mut cluster = Cluster::new(options(format, meta_disk));
    cluster.create_md();
    assert_same_dumps(&cluster);
    drop(cluster);
    cluster = Cluster::with_primary(options(format, meta_disk));
    let load =
        Load::start(&cluster.a.nbd_socket(), RESOURCE, (0..500).map(|at| at * 40).collect(), 5, Ledger::default());
    load.wait_for(500);
    load.stop();
    cluster.assert_in_sync_and_identical();
    assert_eq!(cluster.a.stop(), Some(0));
    assert_eq!(cluster.b.stop(), Some(0));
    assert_same_dumps(&cluster);
}

/// A disk after a crash: drbdmeta reads it as we do, applies its log as we do, and we attach what it left.
fn after_a_crash(format: Format, meta_disk: MetaDisk) {
    let mut cluster = Cluster::with_primary(options(format, meta_disk));
    let blocks: Vec<u64> = (0..400).map(|at| at * 60).collect();
    let load = Load::start(&cluster.a.nbd_socket(), RESOURCE, blocks, 6, Ledger::default());
    load.wait_for(800);
    cluster.a.kill9();
    let ledger = load.died();
    cluster.b.kill9();
    cluster.nodes().iter().for_each(|node| node.wait_until_buried());
    assert_same_dumps(&cluster);
    let place = cluster.a.metadata[0].clone();
    let copy = place.copied_to(&cluster.scratch().join("copy.img"));
    copy.drbdmeta(&["apply-al"]);
    let theirs = copy.drbdmeta(&["dump-md"]);
    cluster.a.ok(&["apply-al", RESOURCE]);
    let ours = place.drbdmeta(&["dump-md"]);
    assert_eq!(values(&ours, format), values(&theirs, format), "the same bits are set");
    fs::copy(&copy.file, &place.file).expect("there is room");
    cluster.start();
    cluster.up();
    cluster.assert_in_sync_and_identical();
    ledger.check("after the crash", |block| crate::harness::disks::read_at(&cluster.a.disks[0], block * 4096, 4096));
}

/// A pair on disks that drbdmeta made.
fn disks_of_drbdmeta(format: Format, meta_disk: MetaDisk) {
    let mut cluster = Cluster::new(options(format, meta_disk));
    for node in cluster.nodes() {
        let peers: &[&str] = if format == Format::V09 { &["1"] } else { &[] };
        node.metadata[0].drbdmeta(&[&["create-md"], peers].concat());
    }
    cluster.start();
    cluster.up();
    cluster.a.wait("connected", crate::harness::LONG, crate::harness::cluster::is_connected);
    cluster.a.ok(&["primary", "--force", RESOURCE]);
    cluster.assert_in_sync_and_identical();
    assert_eq!(cluster.a.stop(), Some(0));
    assert_eq!(cluster.b.stop(), Some(0));
    assert_same_dumps(&cluster);
}

macro_rules! in_all_places {
    ($($name:ident $story:ident $format:ident $meta_disk:ident;)+) => {
        $(#[test]
        fn $name() {
            $story(Format::$format, MetaDisk::$meta_disk);
        })+
    };
}

in_all_places! {
    drbdmeta_reads_v08_disks fresh_and_after_work V08 Internal;
    drbdmeta_reads_v09_disks fresh_and_after_work V09 Internal;
    drbdmeta_reads_v08_flexible_metadata fresh_and_after_work V08 Flexible;
    drbdmeta_reads_v09_flexible_metadata fresh_and_after_work V09 Flexible;
    drbdmeta_reads_v08_indexed_metadata fresh_and_after_work V08 Indexed;
    drbdmeta_reads_v09_indexed_metadata fresh_and_after_work V09 Indexed;
    drbdmeta_applies_the_log_of_a_crashed_v08_disk_as_we_do after_a_crash V08 Internal;
    drbdmeta_applies_the_log_of_a_crashed_v09_disk_as_we_do after_a_crash V09 Internal;
    drbdmeta_applies_the_log_of_crashed_v08_flexible_metadata_as_we_do after_a_crash V08 Flexible;
    drbdmeta_applies_the_log_of_crashed_v09_flexible_metadata_as_we_do after_a_crash V09 Flexible;
    drbdmeta_applies_the_log_of_crashed_v08_indexed_metadata_as_we_do after_a_crash V08 Indexed;
    drbdmeta_applies_the_log_of_crashed_v09_indexed_metadata_as_we_do after_a_crash V09 Indexed;
    v08_disks_of_drbdmeta_are_taken_into_use disks_of_drbdmeta V08 Internal;
    v09_disks_of_drbdmeta_are_taken_into_use disks_of_drbdmeta V09 Internal;
    v08_flexible_metadata_of_drbdmeta_is_taken_into_use disks_of_drbdmeta V08 Flexible;
    v09_flexible_metadata_of_drbdmeta_is_taken_into_use disks_of_drbdmeta V09 Flexible;
    v08_indexed_metadata_of_drbdmeta_is_taken_into_use disks_of_drbdmeta V08 Indexed;
    v09_indexed_metadata_of_drbdmeta_is_taken_into_use disks_of_drbdmeta V09 Indexed;
}

#[test]
fn generations_read_alike() {
    for format in [Format::V08, Format::V09] {
        let mut cluster = Cluster::with_primary(options(format, MetaDisk::Internal));
        let before: Vec<String> = cluster.nodes().iter().map(|node| node.ok(&["get-gi", RESOURCE])).collect();
        assert_ne!(before[0], before[1], "a Primary's flags differ from a Secondary's");
        cluster.a.kill9();
        cluster.b.kill9();
        cluster.nodes().iter().for_each(|node| node.wait_until_buried());
        // The daemons are gone, so `get-gi` reads the disk.
        assert_same_generations(&cluster);
    }
}

/// A file system on a disk of 128 MiB, of which metadata of one peer leaves 131032 KiB.
#[test]
fn a_file_system_is_spared_by_us_as_by_drbdmeta() {
    let cluster = Cluster::new(options(Format::V09, MetaDisk::Internal));
    let disk = &cluster.a.disks[0];
    for (kib, exit) in [(131_072, 40), (131_033, 40), (131_032, 0), (65_536, 0)] {
        for tool_is_ours in [true, false] {
            crate::harness::disks::make_sparse(disk, 128 << 20);
            run(tool("mkfs.ext4").args(["-q", "-F", "-b", "1024"]).arg(disk).arg(kib.to_string()));
            let before = fs::read(disk).expect("there is memory");
            let found = if tool_is_ours {
                let answer = cluster.a.shimai(&["create-md", "--force", RESOURCE]);
                let advises = answer.err.contains("131032 KiB or less") && answer.err.contains("meta-disk");
                assert_eq!(advises, exit != 0, "{answer:?}");
                answer.exit
            } else {
                let mut command = tool("drbdmeta");
                command.args(["--force", "-", "v09"]).arg(disk).args(["internal", "create-md", "1"]);
                output(&mut command).status.code()
            };
            assert_eq!(found, Some(exit), "{kib} KiB, ours: {tool_is_ours}");
            let after = fs::read(disk).expect("there is memory");
            assert!(exit == 0 || before == after, "a refusal changes nothing");
            assert_eq!(before[..kib * 1024], after[..kib * 1024], "the file system is as it was");
        }
    }
}

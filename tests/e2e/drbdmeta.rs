//! The real drbdmeta reads our disks, we read its, and both mean the same.

use crate::harness::configuration::{NODES, RESOURCE};
use crate::harness::load::{Ledger, Load};
use crate::harness::tools::{output, run, tool};
use crate::harness::{Cluster, Format, Options, Style};
use std::fs;
use std::path::Path;

/// Runs drbdmeta on a file with internal metadata; standard output.
fn drbdmeta(format: Format, disk: &Path, arguments: &[&str]) -> String {
    let mut command = tool("drbdmeta");
    command.args(["--force", "-", format.name()]).arg(disk).arg("internal").args(arguments);
    let output = output(&mut command);
    assert!(output.status.success(), "{}", crate::harness::tools::described(&command, &output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A dump without what is said about the dump itself, which is also where both say in their own words that the activity
/// log has not been applied. Drbdmeta before 9.33 prints no flags of v08, so they are left out there.
fn values(dump: &str, format: Format) -> String {
    let lines = dump.lines().map(str::trim_end).filter(|line| !line.starts_with('#') && !line.is_empty());
    let lines = lines.filter(|line| !line.contains("unclean"));
    let lines = lines.filter(|line| format == Format::V09 || !line.trim_start().starts_with("flags"));
    lines.collect::<Vec<_>>().join("\n")
}

fn options(format: Format) -> Options {
    let style = if format == Format::V08 { Style::Eight } else { Style::Nine };
    Options { format, style, disk_mib: 128, ..Options::default() }
}

/// Both programs dump each node's disk alike.
fn assert_same_dumps(cluster: &Cluster) {
    let format = cluster.options.format;
    for node in cluster.nodes() {
        let ours = node.ok(&["dump-md", "--force", RESOURCE]);
        let theirs = drbdmeta(format, &node.disks[0], &["dump-md"]);
        assert_eq!(values(&ours, format), values(&theirs, format), "{}", node.name);
    }
}

/// Both programs print each node's generations alike.
fn assert_same_generations(cluster: &Cluster) {
    for (side, node) in cluster.nodes().into_iter().enumerate() {
        let ours = node.ok(&["get-gi", RESOURCE]);
        let theirs = match cluster.options.format {
            Format::V08 => drbdmeta(Format::V08, &node.disks[0], &["get-gi"]),
            Format::V09 => drbdmeta(Format::V09, &node.disks[0], &["get-gi", "--node-id", &(1 - side).to_string()]),
        };
        assert_eq!(ours.trim(), theirs.trim(), "{}", node.name);
    }
}

fn fresh_and_after_work(format: Format) {
    let mut cluster = Cluster::new(options(format));
    cluster.create_md();
    assert_same_dumps(&cluster);
    drop(cluster);
    cluster = Cluster::with_primary(options(format));
    let load =
        Load::start(&cluster.a.nbd_socket(), RESOURCE, (0..500).map(|at| at * 40).collect(), 5, Ledger::default());
    load.wait_for(500);
    load.stop();
    cluster.wait_in_sync();
    assert_eq!(cluster.a.stop(), Some(0));
    assert_eq!(cluster.b.stop(), Some(0));
    assert_same_dumps(&cluster);
}

#[test]
fn drbdmeta_reads_v08_disks() {
    fresh_and_after_work(Format::V08);
}

#[test]
fn drbdmeta_reads_v09_disks() {
    fresh_and_after_work(Format::V09);
}

/// A disk after a crash: drbdmeta reads it as we do, applies its log as we do, and we attach what it left.
fn after_a_crash(format: Format) {
    let mut cluster = Cluster::with_primary(options(format));
    let blocks: Vec<u64> = (0..400).map(|at| at * 60).collect();
    let load = Load::start(&cluster.a.nbd_socket(), RESOURCE, blocks, 6, Ledger::default());
    load.wait_for(800);
    cluster.a.kill9();
    let ledger = load.died();
    cluster.b.kill9();
    assert_same_dumps(&cluster);
    let copy = cluster.scratch().join("copy.img");
    fs::copy(&cluster.a.disks[0], &copy).expect("there is room");
    drbdmeta(format, &copy, &["apply-al"]);
    let theirs = drbdmeta(format, &copy, &["dump-md"]);
    cluster.a.ok(&["apply-al", RESOURCE]);
    let ours = drbdmeta(format, &cluster.a.disks[0], &["dump-md"]);
    assert_eq!(values(&ours, format), values(&theirs, format), "the same bits are set");
    fs::copy(&copy, &cluster.a.disks[0]).expect("there is room");
    cluster.start();
    cluster.up();
    cluster.assert_in_sync_and_identical();
    ledger.check("after the crash", |block| crate::harness::disks::read_at(&cluster.a.disks[0], block * 4096, 4096));
}

#[test]
fn drbdmeta_applies_the_log_of_a_crashed_v08_disk_as_we_do() {
    after_a_crash(Format::V08);
}

#[test]
fn drbdmeta_applies_the_log_of_a_crashed_v09_disk_as_we_do() {
    after_a_crash(Format::V09);
}

/// A pair on disks that drbdmeta made.
fn disks_of_drbdmeta(format: Format) {
    let mut cluster = Cluster::new(options(format));
    for node in cluster.nodes() {
        let peers: &[&str] = if format == Format::V09 { &["1"] } else { &[] };
        drbdmeta(format, &node.disks[0], &[&["create-md"], peers].concat());
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

#[test]
fn v08_disks_of_drbdmeta_are_taken_into_use() {
    disks_of_drbdmeta(Format::V08);
}

#[test]
fn v09_disks_of_drbdmeta_are_taken_into_use() {
    disks_of_drbdmeta(Format::V09);
}

#[test]
fn generations_read_alike() {
    for format in [Format::V08, Format::V09] {
        let mut cluster = Cluster::with_primary(options(format));
        let before: Vec<String> = cluster.nodes().iter().map(|node| node.ok(&["get-gi", RESOURCE])).collect();
        assert_ne!(before[0], before[1], "a Primary's flags differ from a Secondary's");
        cluster.a.kill9();
        cluster.b.kill9();
        // The daemons are gone, so `get-gi` reads the disk.
        assert_same_generations(&cluster);
        assert_eq!(NODES.len(), before.len());
    }
}

/// A file system on a disk of 128 MiB, of which metadata of one peer leaves 131032 KiB.
#[test]
fn a_file_system_is_spared_by_us_as_by_drbdmeta() {
    let cluster = Cluster::new(options(Format::V09));
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

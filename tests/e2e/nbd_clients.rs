//! Clients that others wrote find in the volume what a plain file would give them.

use crate::harness::clients::{fio_verify, nbdcopy, nbdinfo, nbdinfo_all, qemu_io, try_qemu_io};
use crate::harness::configuration::RESOURCE;
use crate::harness::disks::{first_difference, read_at};
use crate::harness::load::Dice;
use crate::harness::nbd::Nbd;
use crate::harness::network::{address, inside};
use crate::harness::tools::{nbd_script, run, tool};
use crate::harness::{Cluster, LONG, Options, is_full};
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

/// A file with random contents and holes.
fn sample_file(cluster: &Cluster, mib: u64) -> PathBuf {
    let path = cluster.scratch().join("sample.img");
    let mut dice = Dice::new(11);
    let mut bytes = vec![0; (mib << 20) as usize];
    for _ in 0..mib * 8 {
        let at = (dice.below(mib << 8) * 4096) as usize;
        let byte = dice.below(255) as u8 + 1;
        let end = (at + 4096 * dice.below(16) as usize).min(bytes.len());
        bytes[at..end].fill(byte);
    }
    fs::write(&path, bytes).expect("there is room");
    path
}

#[test]
fn nbdinfo_sees_what_a_volume_can_do() {
    let cluster = Cluster::with_primary(Options::default());
    let info = nbdinfo(&cluster.a.nbd_uri(0));
    assert_eq!(info["export-size"], cluster.a.status().volumes[0].size_sectors * 512);
    for can in ["can_flush", "can_fua", "can_trim", "can_zero", "can_cache", "can_df", "can_multi_conn"] {
        assert_eq!(info[can], true, "{can} in {info}");
    }
    assert_eq!(info["is_read_only"], false, "{info}");
    for (which, bytes) in [("minimum", 512), ("preferred", 4096), ("maximum", 32 << 20)] {
        assert_eq!(info[format!("block_size_{which}")], bytes, "{which} in {info}");
    }
    let session = nbdinfo_all(&["--json", &cluster.a.nbd_uri(0)]);
    assert_eq!(session["protocol"], "newstyle-fixed", "{session}");
    assert_eq!(session["structured"], true, "{session}");
}

#[test]
fn nbdinfo_lists_every_volume() {
    let cluster = Cluster::with_primary(Options { volumes: 2, ..Options::default() });
    let list = nbdinfo_all(&["--list", "--json", &cluster.a.nbd_uri(0)]);
    let exports = list["exports"].as_array().expect("a list");
    let mut names: Vec<&str> = exports.iter().filter_map(|export| export["export-name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["data", "data/0", "data/1"], "{list}");
    for export in exports {
        assert_eq!(export["export-size"], cluster.a.status().volumes[0].size_sectors * 512, "{export}");
    }
}

/// Over the wire, from the other node's namespace: in, out, and the same.
#[test]
fn a_volume_is_served_over_tcp() {
    let address = format!("{}:10809", address(0));
    let mut cluster = Cluster::new(Options::default());
    cluster.a.daemon_arguments = vec!["--nbd-listen".into(), address.clone()];
    let cluster = cluster.made_ready();
    cluster.a.ok(&["primary", RESOURCE]);
    let (sample, copy) = (sample_file(&cluster, 32), cluster.scratch().join("copy.img"));
    let uri = format!("nbd://{address}/{RESOURCE}");
    for (from, to) in [(sample.as_os_str(), OsStr::new(&uri)), (OsStr::new(&uri), copy.as_os_str())] {
        run(inside(&cluster.b.namespace, "nbdcopy").args(["--flush", "--allocated"]).args([from, to]));
    }
    assert_eq!(first_difference(&sample, &copy, 32 << 20), None);
    assert_eq!(first_difference(&sample, &cluster.b.disks[0], 32 << 20), None);
    cluster.assert_in_sync_and_identical();
}

/// The largest request there is, in both directions; what is larger is refused and harms nobody.
#[test]
fn requests_of_32_mib_are_served() {
    const LARGEST: usize = 32 << 20;
    let cluster = Cluster::with_primary(Options { disk_mib: 128, ..Options::default() });
    let mut dice = Dice::new(31);
    let block: Vec<u8> = (0..1 << 16).map(|_| dice.below(256) as u8).collect();
    let payload = block.repeat(LARGEST / block.len());
    let mut nbd = Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("a Primary serves");
    // Not at the beginning of an extent of the activity log.
    let offset = (5 << 20) + 512;
    nbd.write(offset, &payload).expect("the write is done");
    assert!(nbd.read(offset, LARGEST as u32).expect("the read is done") == payload, "the same is read");
    let refusal = nbd.read(offset, LARGEST as u32 + 512).expect_err("it is too large");
    assert!(refusal.contains("error 22") || refusal.contains("error 75"), "{refusal}");
    nbd.flush().expect("the client is served as before");
    for node in cluster.nodes() {
        assert!(read_at(&node.disks[0], offset, LARGEST) == payload, "{}'s disk holds it", node.name);
    }
    cluster.assert_in_sync_and_identical();
}

#[test]
fn nbdcopy_brings_a_file_in_and_out() {
    let cluster = Cluster::with_primary(Options::default());
    let (sample, copy) = (sample_file(&cluster, 32), cluster.scratch().join("copy.img"));
    nbdcopy(&sample.to_string_lossy(), &cluster.a.nbd_uri(0));
    nbdcopy(&cluster.a.nbd_uri(0), &copy.to_string_lossy());
    assert_eq!(first_difference(&sample, &copy, 32 << 20), None);
    cluster.assert_in_sync_and_identical();
}

#[test]
fn qemu_img_converts_into_a_volume_and_compares() {
    let cluster = Cluster::with_primary(Options::default());
    let (sample, uri) = (sample_file(&cluster, 32), cluster.a.nbd_uri(0));
    // A volume cannot be created, only filled; the image must be as large as it.
    let file = fs::File::options().write(true).open(&sample).expect("it is ours");
    file.set_len(cluster.a.status().volumes[0].size_sectors * 512).expect("it can grow");
    run(tool("qemu-img").args(["convert", "-n", "-f", "raw", "-O", "raw"]).arg(&sample).arg(&uri));
    run(tool("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]).arg(&sample).arg(&uri));
    cluster.assert_in_sync_and_identical();
}

#[test]
fn qemu_io_gets_the_same_from_a_volume_and_from_a_file() {
    let cluster = Cluster::with_primary(Options::default());
    let file = cluster.scratch().join("plain.img");
    let bytes = cluster.a.status().volumes[0].size_sectors * 512;
    crate::harness::disks::make_sparse(&file, bytes);
    let mut dice = Dice::new(21);
    let mut lines = Vec::new();
    for _ in 0..150 {
        let (offset, length) = (dice.below(8 << 11) * 512, (dice.below(256) + 1) * 512);
        lines.push(match dice.below(8) {
            0 => format!("write -z {offset} {length}"),
            1 => format!("write -z -u {offset} {length}"),
            2 => "flush".to_owned(),
            3 => format!("write -f -P {} {offset} {length}", dice.below(256)),
            _ => format!("write -P {} {offset} {length}", dice.below(256)),
        });
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    qemu_io(&file.to_string_lossy(), &lines);
    qemu_io(&cluster.a.nbd_uri(0), &lines);
    run(tool("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]).arg(&file).arg(cluster.a.nbd_uri(0)));
    cluster.assert_in_sync_and_identical();
}

#[test]
fn discarded_ranges_stay_equal_on_both_nodes() {
    let cluster = Cluster::with_primary(Options::default());
    let uri = cluster.a.nbd_uri(0);
    // Ends that lie within blocks: a discard must not eat their other halves.
    let lines = ["write -P 5 0 8M", "discard 1M 2M", "discard 4198912 524800", "discard 6M 512", "read -P 5 0 1M"];
    qemu_io(&uri, &lines);
    let qemu_read = qemu_io(&uri, &["read -P 5 3M 1M", "read -P 5 7M 1M"]);
    assert!(!qemu_read.contains("Pattern verification"), "{qemu_read}");
    cluster.assert_in_sync_and_identical();
}

#[test]
fn fio_verifies_what_four_jobs_wrote() {
    let cluster = Cluster::with_primary(Options { disk_mib: 96, ..Options::default() });
    fio_verify(&cluster.a.nbd_uri(0), cluster.scratch(), 4, 16 << 20, is_full().then_some(30));
    cluster.assert_in_sync_and_identical();
}

#[test]
fn fio_verifies_through_a_partition() {
    let cluster = Cluster::with_primary(Options { disk_mib: 96, ..Options::default() });
    std::thread::scope(|scope| {
        let fio =
            scope.spawn(|| fio_verify(&cluster.a.nbd_uri(0), cluster.scratch(), 2, 32 << 20, is_full().then_some(30)));
        let written = |status: &shimai::control::status::ResourceStatus| status.volumes[0].written_kib;
        cluster.a.wait("fio is at work", LONG, |status| written(status) > 1 << 10);
        cluster.cut(&cluster.a);
        assert!(written(&cluster.a.status()) < 64 << 10, "fio is not done");
        cluster.network.heal();
        fio.join().expect("fio finds what it wrote");
    });
    cluster.assert_in_sync_and_identical();
}

#[test]
fn a_client_of_the_old_handshake_is_served() {
    let cluster = Cluster::with_primary(Options::default());
    let size = run(nbd_script("export_name.py").arg(cluster.a.nbd_socket()).arg(RESOURCE));
    assert_eq!(size.trim(), (cluster.a.status().volumes[0].size_sectors * 512).to_string());
    cluster.assert_in_sync_and_identical();
}

#[test]
fn a_secondary_refuses_clients_and_names_the_primary() {
    let cluster = Cluster::with_primary(Options::default());
    let refusal = Nbd::open(&cluster.b.nbd_socket(), RESOURCE).err().expect("a Secondary does not serve");
    assert!(refusal.contains("alpha"), "{refusal}");
    let output = try_qemu_io(&cluster.b.nbd_uri(0), "read 0 512");
    assert!(!output.status.success());
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("alpha"), "QEMU shows the server's sentence: {words}");
}

#[test]
fn demotion_is_refused_while_a_client_is_there() {
    let cluster = Cluster::with_primary(Options::default());
    let nbd = Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("a Primary serves");
    let sentence = cluster.a.refused(&["secondary", RESOURCE], 11);
    assert!(sentence.contains("(-12)"), "{sentence}");
    drop(nbd);
    cluster.a.wait("the client has left", LONG, |status| !status.volumes[0].open);
    cluster.a.ok(&["secondary", RESOURCE]);
}

#[test]
fn the_longest_requests_go_through_and_reach_the_peer() {
    let cluster = Cluster::with_primary(Options { disk_mib: 128, ..Options::default() });
    let mut client = Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("alpha is Primary");
    let mut dice = Dice::new(12);
    let block: Vec<u8> = (0..1 << 20).map(|_| dice.below(256) as u8).collect();
    for (round, offset) in [512, (64 << 20) - 512, 32 << 20].into_iter().enumerate() {
        let payload: Vec<u8> = (0..32).flat_map(|_| block.iter().map(|byte| byte.wrapping_add(round as u8))).collect();
        client.write(offset, &payload).expect("32 MiB are what every client may send");
        assert!(client.read(offset, 32 << 20).expect("and ask for") == payload, "32 MiB at {offset}");
    }
    client.flush().expect("the disks are good");
    drop(client);
    cluster.assert_in_sync_and_identical();
}

#[test]
fn a_bench_counts_the_time_that_its_last_answers_take() {
    let cluster = Cluster::with_primary(Options::default());
    let words =
        ["bench", RESOURCE, "--load", "randwrite", "--block-bytes", "1048576", "--depth", "64", "--seconds", "1"];
    let printed = cluster.a.ok(&[&words[..], &["--json"]].concat());
    let report: serde_json::Value = serde_json::from_str(&printed).expect("it prints JSON");
    let (seconds, write) = (report["seconds"].as_f64().expect("a number"), &report["kinds"]["write"]);
    assert!(seconds > 1.0, "64 MiB are in flight when the second is over: {report}");
    let written = cluster.a.status().volumes[0].written_kib;
    assert_eq!(write["requests"].as_u64(), Some(written / 1024), "each answer is counted, the last ones too: {report}");
}

#[test]
fn a_bench_with_more_connections_than_there_are_places_says_so() {
    let cluster = Cluster::with_primary(Options::default());
    let words = cluster.a.refused(&["bench", RESOURCE, "--connections", "130", "--seconds", "1"], 20);
    assert!(words.contains("connection 129 of 130") && words.contains("128 clients"), "{words}");
}

//! Commands that look at things or are rarely needed: what each of them does, not only that it ends well.

use crate::harness::cluster::{moved_kib, peer};
use crate::harness::configuration::{PORT, RESOURCE};
use crate::harness::disks::{read_at, write_at};
use crate::harness::nbd::Nbd;
use crate::harness::node::SHIMAI;
use crate::harness::tools::ended;
use crate::harness::{Cluster, Format, LONG, Options, SHORT};
use std::fs;
use std::process::Command;

/// Writes so much at the beginning of the volume.
fn write_mib(cluster: &Cluster, mib: u64) {
    let mut nbd = Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("a Primary serves");
    for at in 0..mib {
        nbd.write(at << 20, &vec![at as u8 + 1; 1 << 20]).expect("the write is done");
    }
    nbd.flush().expect("the flush is done");
}

#[test]
fn wiped_metadata_is_gone_and_restored_metadata_is_as_before() {
    for format in [Format::V08, Format::V09] {
        let cluster = Cluster::with_primary(Options { formats: [format; 2], ..Options::default() });
        write_mib(&cluster, 4);
        cluster.wait_in_sync();
        cluster.b.ok(&["down", RESOURCE]);
        let (text, place) = (cluster.scratch().join("bravo.md"), &cluster.b.metadata[0]);
        fs::write(&text, cluster.b.ok(&["dump-md", RESOURCE])).expect("the folder is ours");
        let before = without_remarks(&place.drbdmeta(&["dump-md"]));
        let data = read_at(&cluster.b.disks[0], 0, 4 << 20);

        let sentence = cluster.b.refused(&["wipe-md", RESOURCE], 1);
        assert!(sentence.contains("nothing was changed"), "{sentence}");
        assert_eq!(without_remarks(&place.drbdmeta(&["dump-md"])), before, "without --force nothing is wiped");
        cluster.b.ok(&["wipe-md", "--force", RESOURCE]);
        let sentence = cluster.b.refused(&["up", RESOURCE], 10);
        assert!(sentence.contains("(119)"), "{sentence}");
        cluster.b.ok(&["down", RESOURCE]);

        cluster.b.ok(&["restore-md", "--force", RESOURCE, &text.to_string_lossy()]);
        assert_eq!(without_remarks(&place.drbdmeta(&["dump-md"])), before);
        assert_eq!(read_at(&cluster.b.disks[0], 0, 4 << 20), data, "the data are nobody's business here");
        cluster.b.up();
        cluster.assert_in_sync_and_identical();
        assert_eq!(moved_kib(&cluster.b), 0, "nothing had to be resynced");
    }
}

/// A dump without what drbdmeta says about the dump itself, such as when it was made.
fn without_remarks(dump: &str) -> String {
    dump.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
}

/// Bravo's disk is spoiled behind the daemon's back; only a resync of everything can heal that.
#[test]
fn an_invalidated_peer_gets_everything() {
    let cluster = Cluster::with_primary(Options::default());
    write_mib(&cluster, 4);
    cluster.wait_in_sync();
    for mib in [1, 3, 40] {
        write_at(&cluster.b.disks[0], (mib << 20) + 512, &[0xee; 512]);
    }
    let before = moved_kib(&cluster.b);
    cluster.a.ok(&["invalidate-remote", RESOURCE]);
    cluster.b.wait("all of it has arrived", LONG, |status| {
        peer(status).volumes[0].received_kib - before >= status.volumes[0].size_sectors / 2
    });
    cluster.assert_in_sync_and_identical();
}

#[test]
fn an_invalidated_node_gets_everything() {
    let cluster = Cluster::with_primary(Options::default());
    write_mib(&cluster, 4);
    cluster.wait_in_sync();
    write_at(&cluster.b.disks[0], 512, &[0xee; 512]);
    cluster.b.ok(&["invalidate", RESOURCE]);
    cluster.b.wait("all of it has arrived", LONG, |status| {
        peer(status).volumes[0].received_kib >= status.volumes[0].size_sectors / 2
    });
    cluster.assert_in_sync_and_identical();
}

/// What is dumped is a configuration, and means the same.
#[test]
fn a_dumped_configuration_brings_the_pair_up() {
    let mut cluster = Cluster::new(Options::default());
    for node in cluster.nodes() {
        let text = node.ok(&["dump", RESOURCE]);
        assert!(text.contains(&format!(":{PORT}")) && text.contains("resync-rate"), "{text}");
        fs::write(node.config(), &text).expect("the folder is ours");
        let again = node.ok(&["dump", RESOURCE]);
        assert_eq!(without_remarks(&again), without_remarks(&text), "it is dumped as it stands");
    }
    cluster.create_md();
    cluster.start();
    cluster.up();
    cluster.a.ok(&["wait-connect", RESOURCE]);
    cluster.a.ok(&["primary", "--force", RESOURCE]);
    cluster.assert_in_sync_and_identical();
    // Written in the configuration, so kept by the dump.
    assert_eq!(peer(&cluster.a.status()).protocol, Some('C'));
}

#[test]
fn lint_names_the_place_of_what_has_no_effect() {
    let cluster = Cluster::new(Options { net: vec!["tcp-cork no", "use-rle yes"], ..Options::default() });
    let text = fs::read_to_string(cluster.a.config()).expect("the harness wrote it");
    let line = text.lines().position(|line| line.contains("tcp-cork")).expect("it stands there") + 1;
    let file = cluster.a.config();
    let expected = format!("{}:{line}:9: tcp-cork in section net has no effect yet", file.display());
    let remarks = cluster.a.ok(&["lint", RESOURCE]);
    assert_eq!(remarks.lines().filter(|remark| remark.contains("tcp-cork")).collect::<Vec<_>>(), [expected]);
    assert!(!remarks.contains("use-rle"), "{remarks}");
}

#[test]
fn show_gi_explains_the_generations_that_get_gi_prints() {
    let cluster = Cluster::with_primary(Options::default());
    let show = |node: &crate::harness::Node| node.ok(&["show-gi", RESOURCE]);
    let generations = cluster.a.ok(&["get-gi", RESOURCE]);
    let current = generations.split(':').next().expect("it begins with the current one");
    assert_eq!(current.len(), 16, "{generations}");
    assert!(show(&cluster.a).contains(current), "{current} is not in\n{}", show(&cluster.a));
    // Of the dead as of the living.
    cluster.b.ok(&["down", RESOURCE]);
    let of_bravo = cluster.b.ok(&["get-gi", RESOURCE]);
    let current = of_bravo.split(':').next().expect("it begins with the current one");
    assert!(show(&cluster.b).contains(current), "{current} is not in\n{}", show(&cluster.b));
    let (explained, size) = (show(&cluster.b), cluster.a.status().volumes[0].size_sectors);
    let facts = ["current generation", "flags: Secondary, StandAlone, UpToDate", "meta-data: clean"];
    for fact in facts.map(str::to_owned).into_iter().chain([format!("({size} sectors)")]) {
        assert!(explained.contains(&fact), "{fact} is not in\n{explained}");
    }
}

#[test]
fn a_daemon_that_is_told_to_shut_down_ends_in_order() {
    let mut cluster = Cluster::with_primary(Options::default());
    write_mib(&cluster, 2);
    let mut daemon = cluster.a.taken();
    cluster.a.ok(&["shutdown"]);
    assert_eq!(ended("shimaid after shutdown", &mut daemon, SHORT), Some(0));
    assert!(
        !cluster.a.nbd_socket().exists() && !cluster.a.run_dir().join("control.sock").exists(),
        "no socket is left"
    );
    cluster.a.start();
    cluster.a.up();
    cluster.assert_in_sync_and_identical();
    assert_eq!(moved_kib(&cluster.a), 0, "nothing had to be resynced");
}

#[test]
fn bench_loads_the_volume_and_counts_what_it_did() {
    let cluster = Cluster::with_primary(Options::default());
    let before = cluster.a.status().volumes[0].written_kib;
    let text = cluster.a.ok(&[
        "bench",
        RESOURCE,
        "--load=randrw",
        "--seconds=1",
        "--depth=8",
        "--connections=2",
        "--block-bytes=4096,16384",
        "--flush-every=50",
        "--fua-percent=10",
        "--json",
    ]);
    let report: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let count =
        |kind: &str| report["kinds"][kind]["requests"].as_u64().unwrap_or_else(|| panic!("no {kind} in {text}"));
    let (reads, writes, flushes) = (count("read"), count("write"), count("flush"));
    assert!(reads > writes && writes > 0, "70 of 100 read: {text}");
    // One connection may have one flush less or one more under way.
    assert!(flushes + 2 >= writes / 50 && flushes <= writes / 50 + 2, "{text}");
    let written = cluster.a.status().volumes[0].written_kib - before;
    assert!((writes * 4..=(writes + 16) * 16).contains(&written), "{written} KiB by {writes} writes");
    cluster.assert_in_sync_and_identical();
}

#[test]
fn a_status_shows_all_and_counts() {
    let cluster = Cluster::with_primary(Options::default());
    let short = cluster.a.ok(&["status", RESOURCE]);
    write_mib(&cluster, 3);
    cluster.wait_in_sync();
    cluster.a.wait("the client has left", LONG, |status| !status.volumes[0].open);
    let status = cluster.a.status();
    let verbose = cluster.a.ok(&["status", "--verbose", RESOURCE]);
    let expected = [
        format!("node-id:{}", status.node_id),
        "bravo".into(),
        "minor:0".into(),
        format!("backing_dev:{}", cluster.a.disks[0].display()),
        "open:no".into(),
    ];
    for item in &expected {
        assert!(
            verbose.contains(item.as_str()) && !short.contains(item.as_str()),
            "{item} in\n{verbose}\nnot in\n{short}"
        );
    }
    let counters = cluster.a.ok(&["status", "--statistics", RESOURCE]);
    let words: Vec<&str> = counters.split_whitespace().collect();
    let size = format!("size:{}", status.volumes[0].size_sectors / 2);
    for counter in [size.as_str(), "written:3072", "sent:3072", "received:0", "out-of-sync:0", "upper-pending:0"] {
        assert!(words.contains(&counter), "{counter} is not in\n{counters}");
    }
    let there = cluster.b.ok(&["status", "--statistics", RESOURCE]);
    assert!(there.split_whitespace().any(|word| word == "received:3072"), "{there}");
}

#[test]
fn a_configuration_on_standard_input_serves_the_whole_command() {
    let cluster = Cluster::new(Options::default());
    let shimai = |words: &[&str]| {
        let config = fs::File::open(cluster.a.config()).expect("the harness wrote it");
        let mut command = Command::new(SHIMAI);
        command.args(["--config", "-", "--node", cluster.a.name]).args(words).stdin(config);
        let output = command.output().expect("shimai can be run");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // The number is looked up in the configuration, and so is the disk.
    assert_eq!(shimai(&["create-md", "minor-0"]), (Some(0), String::new()));
    assert_eq!(shimai(&["dump-md", "minor-0"]), (Some(0), String::new()));
    for words in [&["restore-md", RESOURCE][..], &["restore-md", "minor-0", "-"]] {
        let (exit, told) = shimai(words);
        assert!(exit == Some(1) && told.starts_with("standard input cannot be both"), "{told}");
    }
}

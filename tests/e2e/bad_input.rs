//! What operators, configurations and disks get wrong: each is refused with a sentence that names it.

use crate::harness::cluster::{is_connected, is_stand_alone, peer, wait_disk};
use crate::harness::configuration::RESOURCE;
use crate::harness::disks::{make_sparse, read_at, write_at};
use crate::harness::nbd::Nbd;
use crate::harness::tools::{ended, spawn};
use crate::harness::{Cluster, Format, LONG, Node, Options, SHORT, Style};
use shimai::model::state::DiskState;
use std::fs;

/// Brings both up after bravo's configuration was changed, and waits until somebody gives up; all reasons.
fn refusal(options: Options, from: &str, to: &str) -> String {
    let mut cluster = Cluster::new(options);
    cluster.create_md();
    cluster.b.edit_config(from, to);
    cluster.start();
    cluster.up();
    crate::harness::wait::until("somebody gives up the connection", LONG, || {
        let statuses = cluster.nodes().map(Node::status);
        assert!(!statuses.iter().any(is_connected), "they must not connect");
        let reasons: Vec<String> = statuses.iter().filter_map(|status| peer(status).reason.clone()).collect();
        if statuses.iter().any(is_stand_alone) { Ok(reasons.join("\n")) } else { Err(reasons.join("\n")) }
    })
}

const SECRET: &[&str] = &["cram-hmac-alg sha1", "shared-secret \"sesame\""];

#[test]
fn a_wrong_secret_is_refused() {
    let reasons = refusal(Options { net: SECRET.to_vec(), ..Options::default() }, "sesame", "mustard");
    assert!(reasons.to_lowercase().contains("authenticat"), "{reasons}");
}

#[test]
fn a_missing_secret_is_refused() {
    let options = Options { net: SECRET.to_vec(), ..Options::default() };
    let reasons = refusal(options, "cram-hmac-alg sha1;\n        shared-secret \"sesame\";", "").to_lowercase();
    assert!(
        reasons.contains("authenticat") || reasons.contains("secret") || reasons.contains("challenge"),
        "{reasons}"
    );
}

#[test]
fn different_protocols_are_refused() {
    let reasons = refusal(Options::default(), "protocol C", "protocol A");
    assert!(reasons.contains("protocol"), "{reasons}");
}

#[test]
fn different_integrity_digests_are_refused() {
    let options = Options { net: vec!["data-integrity-alg crc32c"], ..Options::default() };
    let reasons = refusal(options, "data-integrity-alg crc32c;", "");
    assert!(reasons.contains("data-integrity-alg"), "{reasons}");
}

#[test]
fn a_peer_that_is_too_small_is_refused() {
    let mut cluster = Cluster::with_primary(Options::default());
    cluster.b.ok(&["down", RESOURCE]);
    make_sparse(&cluster.b.disks[0], 32 << 20);
    cluster.b.ok(&["create-md", "--force", RESOURCE]);
    cluster.b.up();
    let seen = crate::harness::wait::until("the small disk is refused", LONG, || {
        let statuses = cluster.nodes().map(Node::status);
        let reasons: Vec<String> = statuses.iter().filter_map(|status| peer(status).reason.clone()).collect();
        if statuses.iter().any(is_stand_alone) { Ok(reasons.join("\n")) } else { Err(reasons.join("\n")) }
    });
    assert!(seen.contains("small"), "{seen}");
    cluster.a.assert_alive();
}

#[test]
fn data_of_another_family_is_refused() {
    let cluster = Cluster::with_primary(Options::default());
    cluster.b.ok(&["down", RESOURCE]);
    let generations = "1234567890ABCDEE:0000000000000000:1111111111111110:2222222222222220:1:1:0:0:0:0:0";
    cluster.b.metadata[0].set_generations(generations);
    cluster.b.up();
    let found = crate::harness::wait::until("somebody gives up", LONG, || {
        let found = cluster.nodes().into_iter().find(|node| is_stand_alone(&node.status()));
        found.ok_or("nobody is StandAlone")
    });
    let reason = peer(&found.status()).reason.clone().unwrap_or_default();
    assert!(reason.to_lowercase().contains("unrelated"), "{reason}");
    let why = found.ok(&["why", RESOURCE]);
    assert!(why.to_lowercase().contains("unrelated") && why.contains("create-md"), "{why}");
}

/// File, line and column of the last of some words in a node's configuration.
fn place(node: &Node, words: &str) -> String {
    let text = fs::read_to_string(node.config()).expect("the harness wrote it");
    let mut lines = text.lines().enumerate();
    let last = words.rfind(' ').map_or(0, |space| space + 1);
    let found = lines.find_map(|(number, line)| Some((number + 1, line.find(words)? + last + 1)));
    let (line, column) = found.unwrap_or_else(|| panic!("{words:?} is not in\n{text}"));
    format!("{}:{line}:{column}", node.config().display())
}

#[test]
fn a_typo_is_found_with_line_and_column_and_the_nearest_option() {
    let mut cluster = Cluster::new(Options::default());
    cluster.a.start();
    cluster.a.edit_config("protocol C", "protocl C");
    let answer = cluster.a.shimai(&["up", RESOURCE]);
    assert!(answer.exit != Some(0), "{answer:?}");
    let place = place(&cluster.a, "protocl");
    assert!(answer.err.contains(&place), "{place} is not in {}", answer.err);
    assert!(answer.err.contains("protocol"), "the nearest option is named: {}", answer.err);
}

#[test]
fn a_value_out_of_range_is_refused_with_the_range() {
    let mut cluster = Cluster::new(Options { net: vec!["max-buffers 1"], ..Options::default() });
    cluster.a.start();
    let answer = cluster.a.shimai(&["up", RESOURCE]);
    let sentence = "max-buffers 1 is out of range; it takes a number from 32 to 131072 (pages of 4 KiB)";
    let place = place(&cluster.a, "max-buffers 1");
    assert!(answer.exit != Some(0) && answer.err.contains(&format!("{place}: {sentence}")), "{place}: {answer:?}");
}

#[test]
fn a_disk_without_metadata_is_not_attached() {
    let mut cluster = Cluster::new(Options::default());
    cluster.a.start();
    let sentence = cluster.a.refused(&["up", RESOURCE], 10);
    assert!(sentence.contains("(119)") && sentence.contains("create-md"), "{sentence}");
}

/// The superblock of v08 metadata is in the last 4 KiB of the disk.
#[test]
fn a_torn_superblock_is_not_attached() {
    let cluster = Cluster::with_primary(Options { formats: Format::BOTH_V08, ..Options::default() });
    cluster.b.ok(&["down", RESOURCE]);
    let disk = &cluster.b.disks[0];
    let offset = fs::metadata(disk).expect("it is a file").len() - 4096;
    let whole = read_at(disk, offset, 4096);
    // The magic number is at 0x3c; half of it as of a torn sector.
    write_at(disk, offset + 0x3c, &[0xff, 0xff]);
    let sentence = cluster.b.refused(&["up", RESOURCE], 10);
    assert!(sentence.contains("(119) no metadata found (magic 0xffff026b)"), "{sentence}");
    write_at(disk, offset, &whole);
    cluster.b.up();
    cluster.assert_in_sync_and_identical();
}

#[test]
fn a_corrupt_superblock_of_v09_is_not_attached() {
    let cluster = Cluster::with_primary(Options { style: Style::Nine, ..Options::default() });
    cluster.b.ok(&["down", RESOURCE]);
    let disk = &cluster.b.disks[0];
    let offset = fs::metadata(disk).expect("it is a file").len() - 4096;
    // The superblock has no checksum; what gives it away are numbers that contradict each other: here, the activity
    // log's place.
    let whole = read_at(disk, offset, 4096);
    write_at(disk, offset + 0x44, &[0x12, 0x34]);
    let sentence = cluster.b.refused(&["up", RESOURCE], 10);
    assert!(sentence.contains("(119) v09 al_offset: expected -64, found 305463232"), "{sentence}");
    write_at(disk, offset, &whole);
    cluster.b.up();
    cluster.assert_in_sync_and_identical();
}

#[test]
fn another_nodes_disk_is_not_attached() {
    let options = Options { style: Style::Nine, ..Options::default() };
    let cluster = Cluster::with_primary(options);
    cluster.b.ok(&["down", RESOURCE]);
    cluster.a.ok(&["secondary", RESOURCE]);
    cluster.a.ok(&["down", RESOURCE]);
    fs::copy(&cluster.a.disks[0], &cluster.b.disks[0]).expect("there is room");
    let sentence = cluster.b.refused(&["up", RESOURCE], 10);
    assert!(sentence.contains("node"), "{sentence}");
}

#[test]
fn a_lone_node_is_not_promoted_without_up_to_date_data() {
    let mut cluster = Cluster::new(Options::default());
    cluster.create_md();
    cluster.a.start();
    cluster.a.up();
    wait_disk(&cluster.a, DiskState::Inconsistent);
    let sentence = cluster.a.refused(&["primary", RESOURCE], 17);
    assert!(sentence.contains("(-2) Need access to UpToDate data: volume 0 is Inconsistent here"), "{sentence}");
}

#[test]
fn an_outdated_node_is_not_promoted() {
    let cluster = Cluster::with_primary(Options::default());
    cluster.b.ok(&["disconnect", RESOURCE]);
    cluster.b.ok(&["outdate", RESOURCE]);
    let sentence = cluster.b.refused(&["primary", RESOURCE], 17);
    assert!(sentence.contains("(-2) Need access to UpToDate data: volume 0 is Outdated here"), "{sentence}");
}

#[test]
fn there_is_no_second_primary() {
    let cluster = Cluster::with_primary(Options::default());
    let sentence = cluster.b.refused(&["primary", RESOURCE], 11);
    assert!(sentence.contains("(-1) Multiple primaries not allowed by config"), "{sentence}");
    assert_eq!(cluster.b.ok(&["role", RESOURCE]), "Secondary/Primary\n");
}

#[test]
fn a_second_daemon_in_the_same_run_directory_ends() {
    let mut cluster = Cluster::with_primary(Options::default());
    let log = cluster.scratch().join("second.log");
    let mut second = spawn(&mut cluster.a.daemon_command(), &log);
    let code = ended("the second daemon", &mut second, SHORT);
    assert_ne!(code, Some(0));
    let words = fs::read_to_string(log).expect("it complained");
    assert!(words.contains(&cluster.a.process().to_string()), "the first is named: {words}");
    cluster.a.assert_alive();
}

#[test]
fn a_second_daemon_does_not_get_the_disk() {
    let cluster = Cluster::with_primary(Options::default());
    // Another node of another cluster, configured with the disk that is in use.
    let mut thief = Cluster::new(Options::default());
    let (own, others) = (thief.a.disks[0].display().to_string(), cluster.a.disks[0].display().to_string());
    thief.a.edit_config(&own, &others);
    thief.a.start();
    let sentence = thief.a.refused(&["up", RESOURCE], 10);
    assert!(sentence.contains("(114)") || sentence.contains("in use"), "{sentence}");
    let mut nbd = Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("a Primary serves");
    nbd.write(0, &[1; 4096]).expect("the owner goes on");
}

//! `shimai why` names the cause of a broken state and a command; doing what it says heals the state.
//!
//! A table: each row breaks a healthy pair, finds the explanation, runs its command where it says, and waits for health.

use crate::harness::cluster::{is_connected, peer};
use crate::harness::configuration::RESOURCE;
use crate::harness::nbd::Nbd;
use crate::harness::{Cluster, Format, LONG, Node, Options, SHORT, is_full};
use shimai::control::status::ResourceStatus;
use shimai::model::state::{ConnectionState, Role};

/// One broken state.
struct Row {
    /// For messages.
    name: &'static str,
    /// Breaks a healthy pair in which alpha is Primary.
    begin: fn(&mut Cluster),
    /// Where `why` is asked.
    asked: Side,
    /// Words of the fact it must state.
    fact: &'static str,
    /// How the command must begin, without `shimai`.
    command: &'static str,
    /// What an operator does before, because the explanation's note says so.
    before: fn(&mut Cluster),
    /// And after.
    after: fn(&mut Cluster),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Alpha,
    Bravo,
}
use Side::{Alpha, Bravo};

fn nothing(_: &mut Cluster) {}

/// What `why` says: facts with their commands and notes.
#[derive(Debug)]
struct Explanation {
    fact: String,
    command: String,
    note: String,
}

fn why(node: &Node) -> Vec<Explanation> {
    let text = node.ok(&["why", RESOURCE]);
    let mut found: Vec<Explanation> = Vec::new();
    for line in text.lines() {
        if let Some(fact) = line.strip_prefix(&format!("{RESOURCE}: ")) {
            found.push(Explanation { fact: fact.into(), command: String::new(), note: String::new() });
        } else if let (Some(next), Some(last)) = (line.trim().strip_prefix("next: shimai "), found.last_mut()) {
            let (command, note) = next.split_once("    (").unwrap_or((next, ""));
            (last.command, last.note) = (command.into(), note.into());
        }
    }
    found
}

fn tell(row: &Row, cluster: &mut Cluster) {
    (row.begin)(cluster);
    let explanation = crate::harness::wait::until(&format!("{}: why explains it", row.name), LONG, || {
        let asked = if row.asked == Alpha { &cluster.a } else { &cluster.b };
        let found = why(asked);
        let words = format!("{found:?}");
        let fits = |one: &Explanation| one.fact.contains(row.fact) && one.command.starts_with(row.command);
        found.into_iter().find(fits).ok_or(words)
    });
    (row.before)(cluster);
    let asked = if row.asked == Alpha { &cluster.a } else { &cluster.b };
    let is_elsewhere =
        crate::harness::configuration::NODES.iter().any(|name| explanation.note.starts_with(&format!("on {name}")));
    let node = if is_elsewhere { cluster.other(asked) } else { asked };
    for command in explanation.command.split(" && ") {
        let words = command.strip_prefix("shimai ").unwrap_or(command);
        node.ok(&words.split(' ').collect::<Vec<_>>());
    }
    (row.after)(cluster);
    if cluster.a.status().role != Role::Primary {
        cluster.a.ok(&["primary", RESOURCE]);
    }
    cluster.assert_in_sync_and_identical();
    for node in cluster.nodes() {
        let found = why(node);
        assert!(found.len() == 1 && found[0].fact == "all is well", "{}: {found:?} on {}", row.name, node.name);
    }
}

fn write_some(node: &Node) {
    let mut nbd = Nbd::open(&node.nbd_socket(), RESOURCE).expect("a Primary serves");
    nbd.write(1 << 20, &[9; 65536]).expect("the write is done");
}

fn wait_no_client(node: &Node) {
    node.wait("the client has left", LONG, |status| !status.volumes[0].open);
}

fn leave(node: &Node) {
    node.ok(&["disconnect", RESOURCE]);
}

fn miss_bravo(cluster: &Cluster) {
    cluster.a.wait("bravo is missed", LONG, |status| peer(status).connection == ConnectionState::WfConnection);
}

fn paused_resync(cluster: &mut Cluster) {
    leave(&cluster.b);
    miss_bravo(cluster);
    write_some(&cluster.a);
    cluster.a.ok(&["pause-sync", RESOURCE]);
    cluster.b.ok(&["connect", RESOURCE]);
    cluster.wait_both("the resync is held", |status| {
        matches!(peer(status).volumes[0].replication, ConnectionState::PausedSyncS | ConnectionState::PausedSyncT)
    });
}

fn split_brain(cluster: &mut Cluster) {
    leave(&cluster.b);
    miss_bravo(cluster);
    cluster.b.ok(&["primary", "--force", RESOURCE]);
    write_some(&cluster.a);
    write_some(&cluster.b);
    wait_no_client(&cluster.b);
    cluster.b.ok(&["secondary", RESOURCE]);
    cluster.b.ok(&["connect", RESOURCE]);
    cluster.b.wait("the verdict", LONG, |status| peer(status).connection != ConnectionState::WfReportParams);
}

/// Bravo has a mix of old and new and looks for alpha, which looks for nobody.
fn inconsistent_and_looking(cluster: &mut Cluster) {
    leave(&cluster.b);
    cluster.b.ok(&["invalidate", RESOURCE]);
    leave(&cluster.a);
    cluster.b.ok(&["connect", RESOURCE]);
    for (verb, exit) in [("primary", 17), ("invalidate", 11)] {
        let refused = cluster.b.refused(&[verb, RESOURCE], exit);
        assert!(refused.contains("next: shimai up data    (on alpha"), "{refused}");
    }
}

/// The newer data is on the disk that alpha has let go.
fn outdated_beside_a_detached_disk(cluster: &mut Cluster) {
    leave(&cluster.b);
    cluster.b.ok(&["outdate", RESOURCE]);
    write_some(&cluster.a);
    wait_no_client(&cluster.a);
    cluster.a.ok(&["secondary", RESOURCE]);
    cluster.a.ok(&["detach", RESOURCE]);
    cluster.b.ok(&["connect", RESOURCE]);
    cluster.b.ok(&["wait-connect", RESOURCE]);
    let refused = cluster.b.refused(&["primary", RESOURCE], 17);
    assert!(refused.contains("newer data") && refused.contains("next: shimai attach data/0    (on alpha"), "{refused}");
}

fn restarted_bravo(cluster: &mut Cluster) {
    assert_eq!(cluster.b.stop(), Some(0));
    cluster.b.start();
}

/// Gives bravo's disk generations that alpha has never heard of.
fn unrelated(cluster: &mut Cluster) {
    cluster.b.ok(&["down", RESOURCE]);
    let generations = "1234567890ABCDEE:0000000000000000:1111111111111110:2222222222222220:1:1:0:0:0:0:0";
    cluster.b.metadata[0].set_generations(generations);
    cluster.b.up();
}

fn blank_both(cluster: &mut Cluster) {
    cluster.a.ok(&["secondary", RESOURCE]);
    for node in [&cluster.a, &cluster.b] {
        node.ok(&["down", RESOURCE]);
        node.ok(&["create-md", "--force", RESOURCE]);
    }
    cluster.up();
    cluster.wait_both("connected", is_connected);
}

fn adjust_bravo(cluster: &mut Cluster, from: &str, to: &str) {
    cluster.b.edit_config(from, to);
    cluster.b.ok(&["adjust", RESOURCE]);
}

/// The one that did not find out may look on, or may have given up as well.
fn connect_alpha_if_alone(cluster: &mut Cluster) {
    if peer(&cluster.a.status()).connection == ConnectionState::StandAlone {
        cluster.a.ok(&["connect", RESOURCE]);
    }
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { name: "bravo was told to disconnect", begin: |c| leave(&c.b),
        asked: Bravo, fact: "not looking for it", command: "connect data", before: nothing, after: nothing },
    Row { name: "bravo was told to disconnect, seen from alpha", begin: |c| { leave(&c.b); miss_bravo(c); },
        asked: Alpha, fact: "bravo does not answer", command: "up data", before: nothing, after: nothing },
    Row { name: "bravo is down", begin: |c| { c.b.ok(&["down", RESOURCE]); },
        asked: Bravo, fact: "not up", command: "up data", before: nothing, after: nothing },
    Row { name: "bravo is down, seen from alpha", begin: |c| { c.b.ok(&["down", RESOURCE]); },
        asked: Alpha, fact: "bravo does not answer", command: "up data", before: nothing, after: nothing },
    Row { name: "bravo's daemon was restarted", begin: restarted_bravo,
        asked: Bravo, fact: "not up", command: "up data", before: nothing, after: nothing },
    Row { name: "bravo's disk was detached", begin: |c| { c.b.ok(&["detach", RESOURCE]); },
        asked: Bravo, fact: "no disk here", command: "attach data/0", before: nothing, after: nothing },
    Row { name: "bravo's disk was detached, seen from alpha", begin: |c| { c.b.ok(&["detach", RESOURCE]); },
        asked: Alpha, fact: "bravo has no disk", command: "attach data/0", before: nothing, after: nothing },
    Row { name: "the Primary's disk was detached", begin: |c| { c.a.ok(&["detach", RESOURCE]); },
        asked: Alpha, fact: "no disk here", command: "attach data/0", before: nothing, after: nothing },
    Row { name: "requests are suspended", begin: |c| { c.a.ok(&["suspend-io", RESOURCE]); },
        asked: Alpha, fact: "an operator suspended them", command: "resume-io data", before: nothing, after: nothing },
    Row { name: "nobody is Primary", begin: |c| { c.a.ok(&["secondary", RESOURCE]); },
        asked: Alpha, fact: "no node in sight is Primary", command: "primary data", before: nothing, after: nothing },
    Row { name: "bravo is Outdated", begin: |c| { leave(&c.b); c.b.ok(&["outdate", RESOURCE]); },
        asked: Bravo, fact: "older than the peer's", command: "connect data", before: nothing, after: nothing },
    Row { name: "bravo is Inconsistent", begin: |c| { leave(&c.b); c.b.ok(&["invalidate", RESOURCE]); },
        asked: Bravo, fact: "no good copy is in reach", command: "connect data", before: nothing, after: nothing },
    Row { name: "a resync is held here", begin: paused_resync,
        asked: Alpha, fact: "held by an operator", command: "resume-sync data/0", before: nothing, after: nothing },
    Row { name: "a resync is held there", begin: paused_resync,
        asked: Bravo, fact: "held by the peer", command: "resume-sync data/0", before: nothing, after: nothing },
    Row { name: "split brain", begin: split_brain,
        asked: Bravo, fact: "plit", command: "connect --discard-my-data data", before: nothing, after: connect_alpha_if_alone },
    Row { name: "the secrets differ", begin: |c| adjust_bravo(c, "sesame", "mustard"),
        asked: Bravo, fact: "not looking for it", command: "adjust data",
        before: |c| c.b.edit_config("mustard", "sesame"), after: connect_alpha_if_alone },
    Row { name: "the protocols differ", begin: |c| adjust_bravo(c, "protocol C", "protocol A"),
        asked: Bravo, fact: "not looking for it", command: "adjust data",
        before: |c| c.b.edit_config("protocol A", "protocol C"), after: connect_alpha_if_alone },
    Row { name: "the algorithms differ", begin: |c| adjust_bravo(c, "cram-hmac-alg sha1", "cram-hmac-alg sha256"),
        asked: Bravo, fact: "answers, and the connection ends", command: "adjust data",
        before: |c| c.b.edit_config("cram-hmac-alg sha256", "cram-hmac-alg sha1"), after: connect_alpha_if_alone },
    Row { name: "bravo is Inconsistent and alpha does not look for it", begin: inconsistent_and_looking,
        asked: Bravo, fact: "no good copy is in reach", command: "up data", before: nothing, after: nothing },
    Row { name: "bravo is Outdated and alpha's disk was detached", begin: outdated_beside_a_detached_disk,
        asked: Bravo, fact: "older than the peer's", command: "attach data/0", before: nothing, after: nothing },
    Row { name: "bravo's disk was detached in the middle of a resync", begin: |c| { paused_resync(c); c.b.ok(&["detach", RESOURCE]); },
        asked: Alpha, fact: "bravo has no disk", command: "attach data/0",
        before: |c| assert!(!c.a.ok(&["why", RESOURCE]).contains("verify")),
        after: |c| { c.a.ok(&["resume-sync", RESOURCE]); } },
    Row { name: "unrelated data", begin: unrelated,
        asked: Bravo, fact: "nrelated", command: "create-md --force data",
        before: |c| { c.b.ok(&["down", RESOURCE]); },
        after: |c| { c.b.up(); connect_alpha_if_alone(c); } },
    Row { name: "blank disks", begin: blank_both,
        asked: Alpha, fact: "Inconsistent on both nodes", command: "primary --force data", before: nothing, after: nothing },
];

/// Every second row from `first` on; all of them where there is time.
fn tell_rows(formats: [Format; 2], first: usize) {
    let net = vec!["cram-hmac-alg sha1", "shared-secret \"sesame\""];
    let mut cluster = Cluster::with_primary(Options { formats, net, ..Options::default() });
    for (_, row) in ROWS.iter().enumerate().filter(|(number, _)| is_full() || number % 2 == first) {
        println!("{}", row.name);
        tell(row, &mut cluster);
    }
}

#[test]
fn every_explanation_heals_what_it_explains_on_v08() {
    tell_rows(Format::BOTH_V08, 0);
}

#[test]
fn every_explanation_heals_what_it_explains_on_v09() {
    tell_rows(Format::BOTH_V09, 1);
}

#[test]
fn a_mistake_in_the_configuration_is_explained() {
    let mut cluster = Cluster::new(Options::default());
    cluster.create_md();
    cluster.a.start();
    cluster.a.edit_config("protocol C", "protokol C");
    let found = why(&cluster.a);
    assert!(found.iter().any(|one| one.fact.contains("protokol") && one.command == "lint"), "{found:?}");
}

#[test]
fn a_refusal_names_what_helps_and_where() {
    let cluster = Cluster::with_primary(Options::default());
    let two = cluster.b.refused(&["primary", RESOURCE], 11);
    assert!(two.contains("next: shimai secondary data    (on alpha)"), "{two}");
    cluster.a.ok(&["detach", RESOURCE]);
    let needed = cluster.a.refused(&["disconnect", RESOURCE], 17);
    assert!(needed.contains("next: shimai attach data/0\n"), "{needed}");
    cluster.a.ok(&["attach", RESOURCE]);
    cluster.wait_in_sync();
    // Bravo holds the resync that alpha would have to wait for.
    cluster.b.ok(&["pause-sync", RESOURCE]);
    let is_held = |status: &ResourceStatus| peer(status).volumes[0].resync_suspended.peer;
    cluster.a.wait("alpha knows", SHORT, is_held);
    let held = cluster.a.refused(&["resume-sync", RESOURCE], 10);
    assert!(held.contains("(157)") && held.contains("next: shimai resume-sync data/0    (on bravo)"), "{held}");
    cluster.b.ok(&["resume-sync", RESOURCE]);
    cluster.a.wait("alpha knows", SHORT, |status| !is_held(status));
    let running = cluster.a.refused(&["resume-sync", RESOURCE], 10);
    assert!(running.contains("(135)"), "{running}");
    leave(&cluster.b);
    miss_bravo(&cluster);
    let apart = cluster.a.refused(&["invalidate-remote", RESOURCE], 11);
    assert!(apart.contains("next: shimai up data    (on bravo"), "{apart}");
}

/// Requests wait for data: the disk here went first, so only the peer's has what was acknowledged last.
#[test]
fn held_requests_are_let_go_by_the_peer_that_has_the_data() {
    let mut cluster = Cluster::new(Options::default());
    for node in cluster.nodes() {
        node.edit_config("resource data {", "resource data {\n    options { on-no-data-accessible suspend-io; }");
    }
    cluster.create_md();
    cluster.start();
    cluster.up();
    cluster.wait_both("connected", is_connected);
    cluster.a.ok(&["primary", "--force", RESOURCE]);
    cluster.wait_in_sync();
    cluster.a.ok(&["detach", RESOURCE]);
    write_some(&cluster.a);
    cluster.b.kill9();
    cluster.a.wait("requests are held", LONG, |status| status.suspended.no_data);
    let found = why(&cluster.a);
    let held =
        found.iter().find(|one| one.fact.contains("requests of applications are held")).expect("it is explained");
    assert!(held.command == "up data" && held.note.starts_with("on bravo"), "{held:?}");
    cluster.b.start();
    cluster.b.up();
    cluster.a.wait("requests go on", LONG, |status| !status.suspended.no_data);
}

#[test]
fn a_volume_that_only_one_node_has_is_named() {
    let mut cluster = Cluster::new(Options { volumes: 2, ..Options::default() });
    cluster.create_md();
    let text = std::fs::read_to_string(cluster.b.config()).expect("the harness wrote it");
    let mut is_left_out = false;
    let lines = text.lines().filter(|line| {
        is_left_out |= line.contains("volume 1 {");
        let is_kept = !is_left_out;
        is_left_out &= line.trim() != "}";
        is_kept
    });
    let text: Vec<&str> = lines.collect();
    std::fs::write(cluster.b.config(), text.join("\n")).expect("the file is ours");
    cluster.start();
    cluster.up();
    crate::harness::wait::until("why names the volume", LONG, || {
        let found = why(&cluster.a);
        let is_named = found.iter().any(|one| one.fact.starts_with("bravo says nothing of volume 1"));
        if is_named { Ok(()) } else { Err(format!("{found:?}\n{}", cluster.a.ok(&["status", RESOURCE]))) }
    });
}

#[test]
fn a_disk_that_is_not_in_use_tells_why() {
    let mut cluster = Cluster::new(Options::default());
    cluster.start();
    let refused = cluster.a.shimai(&["up", RESOURCE]);
    assert_eq!(refused.exit, Some(10), "{refused:?}");
    let lost =
        |node: &Node| why(node).into_iter().find(|one| one.fact.contains("no disk here")).expect("it is explained");
    let without_metadata = lost(&cluster.a);
    assert!(without_metadata.fact.contains("metadata"), "{without_metadata:?}");
    std::fs::remove_file(&cluster.a.disks[0]).expect("it is ours");
    cluster.a.refused(&["attach", RESOURCE], 10);
    let missing = lost(&cluster.a);
    assert!(missing.fact.contains("No such file"), "{missing:?}");
}

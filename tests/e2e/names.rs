//! What monitoring and cluster agents do: they call `drbdadm` and `drbdsetup`, and read events.

use crate::harness::configuration::RESOURCE;
use crate::harness::network::inside;
use crate::harness::node::{Answer, SHIMAI};
use crate::harness::tools::find;
use crate::harness::wait::until;
use crate::harness::{Cluster, LONG, Node, Options, SHORT, Style};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// The program of `node` under another name, told by its environment where everything is.
fn tool(node: &Node, name: &str) -> Command {
    let link = node.folder.join(name);
    if !link.exists() {
        symlink(SHIMAI, &link).expect("the folder is ours");
    }
    let mut command = inside(&node.namespace, &link.to_string_lossy());
    command.env("SHIMAI_CONFIG", node.config()).env("SHIMAI_NODE", node.name).env("SHIMAI_RUN_DIR", node.run_dir());
    command.env_remove("COLUMNS").stdin(Stdio::null());
    command
}

/// What `drbdadm role data` and its like answer.
fn call(node: &Node, line: &str) -> Answer {
    let mut words = line.split(' ');
    let output = tool(node, words.next().expect("a name")).args(words).output().expect("it can be run");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Answer { exit: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[track_caller]
fn ok(node: &Node, line: &str) -> String {
    let answer = call(node, line);
    assert_eq!(answer.exit, Some(0), "{line}: {answer:?}");
    answer.out
}

#[track_caller]
fn refused(node: &Node, line: &str, exit: i32) -> String {
    let answer = call(node, line);
    assert_eq!(answer.exit, Some(exit), "{line}: {answer:?}");
    answer.err
}

/// Someone who reads events, and ends with the test.
struct Watcher {
    child: Child,
    input: Option<ChildStdin>,
    lines: PathBuf,
}

impl Watcher {
    fn new(cluster: &Cluster, node: &Node, line: &str) -> Self {
        let mut words = line.split(' ');
        let mut command = tool(node, words.next().expect("a name"));
        let watcher = Self::of(command.args(words), cluster.scratch().join(line.replace(' ', "_")));
        watcher.wait_for("exists -");
        watcher
    }

    fn of(command: &mut Command, lines: PathBuf) -> Self {
        let out = File::create(&lines).expect("the folder is ours");
        let mut child = command.stdin(Stdio::piped()).stdout(out).spawn().expect("it can be run");
        Self { input: child.stdin.take(), child, lines }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.lines).expect("the watcher writes it")).into_owned()
    }

    /// Waits for a line.
    #[track_caller]
    fn wait_for(&self, line: &str) {
        until(&format!("the line {line}"), SHORT, || {
            let text = self.text();
            if text.lines().any(|seen| seen == line) { Ok(()) } else { Err(text) }
        });
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pair() -> Cluster {
    Cluster::with_primary(Options { style: Style::Nine, ..Options::default() })
}

/// Where the test keeps its files says nothing.
fn without_folder(text: &str, folder: &Path) -> String {
    text.replace(&*folder.to_string_lossy(), "FOLDER")
}

#[test]
fn the_dump_of_events_is_that_of_drbdsetup() {
    let cluster = pair();
    cluster.a.wait("nobody has it open", LONG, |status| !status.volumes[0].open);
    let expected = "\
exists resource name:data role:Primary suspended:no force-io-failures:no may_promote:no promotion_score:10102
exists connection name:data peer-node-id:1 conn-name:bravo connection:Connected role:Secondary
exists device name:data volume:0 minor:0 backing_dev:FOLDER disk:UpToDate client:no open:no quorum:yes
exists peer-device name:data peer-node-id:1 conn-name:bravo volume:0 replication:Established peer-disk:UpToDate \
peer-client:no resync-suspended:no
exists path name:data peer-node-id:1 conn-name:bravo local:ipv4:10.77.0.1:7789 peer:ipv4:10.77.0.2:7789 established:yes
exists -
";
    for line in ["drbdsetup events2 --now", "drbdsetup events2 data --now", "drbdsetup events2 all --now --color=no"] {
        assert_eq!(without_folder(&ok(&cluster.a, line), &cluster.a.disks[0]), expected, "{line}");
    }
    for arguments in [["events2", "--now"], ["events", "--now"]] {
        assert_eq!(without_folder(&cluster.a.ok(&arguments), &cluster.a.disks[0]), expected);
    }
    let statistics = ok(&cluster.a, "drbdsetup events2 --now --statistics --timestamps");
    for (line, plain) in statistics.lines().zip(expected.lines()) {
        let kind = plain.split(' ').nth(1).expect("a kind");
        let (time, rest) = line.split_once(' ').expect("a time");
        assert!(time.len() == 32 && time.ends_with("+00:00"), "{line}");
        let counters = match kind {
            "resource" => " write-ordering:flush ",
            "connection" => " congested:no ap-in-flight:0 rs-in-flight:0",
            "device" => " al-suspended:no blocked:no",
            "peer-device" => " pending:0 unacked:0",
            _ => "",
        };
        assert!(rest.starts_with(&format!("exists {kind}")) && rest.contains(counters), "{line}");
    }
}

#[test]
fn a_change_is_told_while_it_is_watched() {
    let cluster = pair();
    let watcher = Watcher::new(&cluster, &cluster.a, "drbdsetup events2 data");
    let agent = Watcher::new(&cluster, &cluster.a, "drbdsetup events2 --full --poll");
    cluster.a.ok(&["secondary", RESOURCE]);
    watcher.wait_for("change resource name:data role:Secondary may_promote:yes promotion_score:10102");
    agent.wait_for(
        "change resource name:data role:Secondary suspended:no force-io-failures:no write-ordering:flush may_promote:yes \
         promotion_score:10102",
    );
    cluster.b.ok(&["disconnect", RESOURCE]);
    watcher.wait_for("change resource name:data may_promote:yes promotion_score:10101");
    watcher.wait_for("change connection name:data peer-node-id:1 conn-name:bravo connection:Connecting role:Unknown");
    let path = "path name:data peer-node-id:1 conn-name:bravo local:ipv4:10.77.0.1:7789 peer:ipv4:10.77.0.2:7789";
    watcher.wait_for(&format!("change {path} established:no"));
    cluster.b.ok(&["connect", RESOURCE]);
    watcher.wait_for(&format!("change {path} established:yes"));
    cluster.b.ok(&["primary", RESOURCE]);
    watcher.wait_for("change connection name:data peer-node-id:1 conn-name:bravo role:Primary");
    cluster.a.ok(&["down", RESOURCE]);
    watcher.wait_for("destroy resource name:data");
    cluster.a.up();
    until("it is there again", SHORT, || {
        let text = watcher.text();
        let is_there = text.lines().any(|line| line.starts_with("create resource name:data role:Secondary "));
        if is_there { Ok(()) } else { Err(text) }
    });
}

/// What drbd-reactor does: the counters come when they are asked for, and only of what has others than before.
#[test]
fn counters_are_told_when_standard_input_asks() {
    let cluster = pair();
    let mut watcher = Watcher::new(&cluster, &cluster.a, "drbdsetup events2 --full --poll");
    let changes = |watcher: &Watcher, of: &str| {
        watcher.text().lines().filter(|line| line.starts_with(&format!("change {of} "))).count()
    };
    let ask = |watcher: &mut Watcher| watcher.input.as_mut().expect("it is piped").write_all(b"n\n").expect("it reads");
    ask(&mut watcher);
    until("all of it is told", SHORT, || if changes(&watcher, "path") == 1 { Ok(()) } else { Err(watcher.text()) });
    let mut nbd = crate::harness::nbd::Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("a Primary serves");
    nbd.write(0, &[7; 4096]).expect("the write is done");
    drop(nbd);
    until("the write is counted", SHORT, || {
        ask(&mut watcher);
        let text = watcher.text();
        let last = text.lines().rfind(|line| line.starts_with("change device ")).map(str::to_owned);
        if last.is_some_and(|line| line.contains(" written:4 ")) { Ok(()) } else { Err(text) }
    });
    assert_eq!(changes(&watcher, "path"), 1, "it has no counters: {}", watcher.text());
}

/// DRBD's own screen, which runs the first `drbdsetup` it finds.
#[test]
fn drbdmon_shows_the_pair() {
    let cluster = pair();
    let node = &cluster.a;
    drop(tool(node, "drbdsetup"));
    let path = format!("{}:{}", node.folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = inside(&node.namespace, "script");
    command.args(["-qfc", &format!("stty rows 40 cols 120; exec {}", find("drbdmon").display()), "/dev/null"]);
    command.env("PATH", path).env("TERM", "xterm").env("SHIMAI_RUN_DIR", node.run_dir());
    let mut screen = Watcher::of(&mut command, cluster.scratch().join("screen"));
    let shows = |screen: &Watcher, words: &[&str]| {
        until(&format!("the screen shows {words:?}"), SHORT, || {
            let text = screen.text();
            if words.iter().all(|word| text.contains(word)) { Ok(()) } else { Err(text) }
        });
    };
    shows(&screen, &[RESOURCE, "Primary", "bravo", "Resources:"]);
    assert!(!screen.text().contains("degraded"), "all is well: {}", screen.text());
    cluster.b.ok(&["disconnect", RESOURCE]);
    shows(&screen, &["Connecting", "degraded"]);
    screen.input.as_mut().expect("it is piped").write_all(b"q").expect("it reads");
}

#[test]
fn the_tools_answer_by_their_names_and_exit_as_they_do() {
    let cluster = pair();
    let (a, b) = (&cluster.a, &cluster.b);
    assert_eq!(ok(a, "drbdadm role data"), "Primary/Secondary\n");
    assert_eq!(ok(a, "drbdsetup role data"), "Primary/Secondary\n");
    assert_eq!(ok(b, "drbdadm cstate data"), "Connected\n");
    assert_eq!(ok(b, "drbdsetup cstate data 0"), "Connected\n");
    assert_eq!(ok(b, "drbdsetup dstate 0"), "UpToDate/UpToDate\n");
    assert_eq!(ok(a, "drbdadm dstate all"), "UpToDate/UpToDate\n");
    assert_eq!(ok(a, "drbdsetup get-gi data 1 0"), ok(a, "drbdadm get-gi data"));
    assert!(ok(a, "drbdsetup show-gi 0").contains("UpToDate"));
    let status = ok(a, "drbdadm status");
    assert_eq!(status, ok(a, "drbdsetup status data --color=no"));
    assert_eq!(status.lines().next(), Some("data role:Primary"));
    let verbose = ok(a, "drbdsetup status data --verbose --statistics");
    assert!(verbose.contains("bravo node-id:1 connection:Connected"), "{verbose}");
    let json: serde_json::Value = serde_json::from_str(&ok(a, "drbdsetup status --json")).expect("JSON");
    assert_eq!(json[0]["connections"][0]["peer_devices"][0]["peer-disk-state"], "UpToDate");
    assert_eq!(ok(a, "drbdadm sh-dev data"), "/dev/drbd0\n");
    assert_eq!(ok(a, "drbdadm sh-ll-dev minor-0"), format!("{}\n", a.disks[0].display()));

    assert!(refused(b, "drbdadm primary data", 11).contains("State change failed: (-1)"));
    assert!(refused(a, "drbdsetup status nosuch", 10).contains("No such resource"));
    refused(a, "drbdadm role nosuch", 1);
    refused(a, "drbdadm secondary nosuch data", 1);
    assert_eq!(
        ok(a, "drbdadm role data"),
        "Secondary/Secondary\n",
        "one target that is wrong does not keep the others"
    );
    refused(a, "drbdadm nosuch", 1);
    refused(a, "drbdadm -d up data", 1);
    let sentence = refused(a, "drbdsetup cstate data 5", 10);
    assert_eq!(sentence, "drbdsetup: data has no peer with node id 5; it has 1\n");
    refused(a, "drbdsetup attach 0 /dev/x /dev/x internal", 20);

    assert_eq!(ok(b, "drbdadm primary data"), "");
    ok(b, "drbdsetup secondary data");
    ok(a, "drbdadm down data");
    assert_eq!(ok(a, "drbdadm status"), "# No currently configured DRBD found.\n");
    assert_eq!(ok(a, "drbdadm role data"), "Unconfigured\n");
    assert_eq!(ok(a, "drbdsetup events2 --now"), "exists -\n");
    ok(a, "drbdadm -v up all");
    ok(a, "drbdadm wait-connect data");
    assert_eq!(ok(a, "drbdadm -d adjust all"), "");
}

//! The program under the name of `drbdadm` against the real one (package drbd-utils): what scripts ask it without a kernel.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Questions about the configuration.
const QUERIES: [&str; 7] = ["sh-resource", "sh-dev", "sh-minor", "sh-ll-dev", "sh-md-dev", "sh-md-idx", "sh-ip"];

/// A folder with the program under both names.
struct Links(tempfile::TempDir);

impl Links {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        for name in ["drbdadm", "drbdsetup"] {
            symlink(env!("CARGO_BIN_EXE_shimai"), folder.path().join(name)).expect("the folder is ours");
        }
        Self(folder)
    }

    /// Exit code, standard output and standard error of our tool.
    fn ours(&self, tool: &str, node: &str, words: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(self.0.path().join(tool));
        command.args(words).env("SHIMAI_NODE", node).env("SHIMAI_RUN_DIR", self.0.path());
        told(command.env_remove("SHIMAI_CONFIG").stdin(Stdio::null()).output().expect("the program is built"))
    }

    fn write(&self, text: &str) -> String {
        let path = self.0.path().join("c.res");
        std::fs::write(&path, text).expect("room");
        path.to_string_lossy().into_owned()
    }
}

fn theirs(node: &str, words: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new("drbdadm");
    command.args(words).env("__DRBD_NODE__", node).env("DRBD_DRIVER_VERSION_OVERRIDE", "9.2.0").stdin(Stdio::null());
    told(command.output().unwrap_or_else(|error| panic!("drbdadm (package drbd-utils): {error}")))
}

fn told(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The configurations that both read.
fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data/config/accepted/9");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "res"));
    paths.sort();
    paths
}

/// The names behind `on` in a file.
fn hosts(path: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(path).expect("the file is ours");
    let words: Vec<&str> = text.split_whitespace().collect();
    let hosts = words.windows(2).filter(|pair| pair[0] == "on").map(|pair| pair[1].trim_matches(['"', '{']).to_owned());
    hosts.filter(|host| !host.is_empty()).collect()
}

#[test]
fn questions_about_a_configuration_are_answered_as_by_drbdadm() {
    let links = Links::new();
    let (mut differences, mut compared) = (Vec::new(), 0);
    for path in files() {
        for host in hosts(&path) {
            let file = path.to_string_lossy();
            let questions = QUERIES.iter().map(|query| vec!["-c", &file, query, "all"]);
            for words in questions.chain([vec!["-c", &file, "sh-resources"], vec!["-c", &file, "sh-nop"]]) {
                let ((exit, out, err), theirs) = (links.ours("drbdadm", &host, &words), theirs(&host, &words));
                compared += usize::from(!theirs.1.is_empty());
                if (exit, &out) != (theirs.0, &theirs.1) {
                    differences
                        .push(format!("{host}: {words:?}\n--- theirs\n{theirs:?}\n--- ours\n{exit:?} {out}{err}"));
                }
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
    assert!(compared > 200, "{compared} answers");
}

/// Volumes with and without names of their own, all kinds of metadata, and a resource of other nodes.
const RESOURCES: &str = "global { usage-count no; }
resource data {
    net { protocol C; }
    on alpha { node-id 0; address 10.0.0.1:7789;
        volume 0 { device /dev/drbd_data minor 3; disk /dev/vg/data; meta-disk internal; }
        volume 2 { device minor 4; disk /dev/vg/logs; meta-disk /dev/vg/meta[1]; } }
    on bravo { node-id 1; address 10.0.0.2:7788;
        volume 0 { device minor 3; disk /dev/vg/data; meta-disk internal; }
        volume 2 { device minor 4; disk /dev/vg/logs; meta-disk /dev/vg/meta[1]; } }
}
resource one { device minor 7; disk /dev/sdx; meta-disk /dev/sdy;
    on alpha { node-id 0; address ipv6 [fd00::1]:7790; } on bravo { node-id 1; address ipv6 [fd00::2]:7790; } }
resource far { device minor 8; disk /dev/sdx1; meta-disk internal;
    on carol { node-id 0; address 10.0.0.3:7790; } on bravo { node-id 1; address 10.0.0.2:7790; } }
";

#[test]
fn each_question_is_about_what_was_named() {
    let links = Links::new();
    let file = links.write(RESOURCES);
    let targets = ["data", "data/0", "data/2", "data/9", "one", "one/0", "far", "nosuch", "minor-4", "minor-9", "all"];
    let mut questions: Vec<Vec<&str>> = Vec::new();
    for query in QUERIES.iter().chain(&["sh-nop", "sh-resources", "sh-udev"]) {
        questions.push(vec![query]);
        // The tool answers for each target there.
        let is_about_all = *query == "sh-resources";
        if !is_about_all {
            questions.push(vec![query, "one", "data/2"]);
        }
        let targets = targets.iter().filter(|target| **target != "all" || !is_about_all);
        questions.extend(targets.map(|target| vec![*query, *target]));
    }
    questions.extend([
        vec!["nosuch"],
        vec!["role"],
        vec!["-x"],
        vec!["sh-dev", "-v", "data"],
        vec!["-d", "sh-dev", "one"],
    ]);
    questions.extend([vec!["sh-dev", "-n", "x", "data"], vec!["-S", "sh-dev", "all"]]);
    let mut differences = Vec::new();
    for question in questions {
        let words = [&["-c", &file], &question[..]].concat();
        let (ours, theirs) = (links.ours("drbdadm", "alpha", &words), theirs("alpha", &words));
        // How to use a command is said by each in its own words.
        let is_usage = theirs.1.contains("USAGE");
        if ours.0 != theirs.0 || ours.1 != theirs.1 && !is_usage {
            differences.push(format!("{question:?}\n--- theirs\n{theirs:?}\n--- ours\n{ours:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

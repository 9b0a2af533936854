//! Configuration files against the real `drbdadm` (package drbd-utils).
//!
//! `accepted/8` and `accepted/9` hold files that the tool of that generation reads; its dump and ours must say the
//! same. Compared are the words of both dumps, after taking out what says nothing: comments, white space, the order of
//! disk options (9 prints those of the peer last), and what [`IGNORED_OPTIONS`] names because the tool forgets it. The
//! tool adds node ids to two hosts without any, so node ids are compared with those we resolve.
//!
//! `refused/8` and `refused/9` hold files that the tool refuses; we refuse them too, in the words of `refused.txt`,
//! which is written anew when UPDATE_GOLDEN is set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use shimai::config::{Config, Files, Unreadable};

/// Options the tool reads and does not print: some of its own, what 9 gave up, and what 8.4 drops for other hosts.
const IGNORED_OPTIONS: [&str; 6] = [
    "udev-always-use-vnr",
    "cmd-timeout-short",
    "cmd-timeout-medium",
    "cmd-timeout-long",
    "become-primary-on",
    "resync-after",
];

/// A node no file names, so that the tool does not look for addresses on this machine.
const NODE: &str = "stranger";

struct Disk;

impl Files for Disk {
    fn read(&self, path: &str) -> Result<Vec<u8>, Unreadable> {
        std::fs::read(path).map_err(|error| Unreadable(error.to_string()))
    }

    /// Enough for these tests: a star in the last part.
    fn glob(&self, pattern: &str) -> Vec<String> {
        let (folder, name) = pattern.rsplit_once('/').expect("the tests give whole paths");
        let Some((before, after)) = name.split_once('*') else {
            return Path::new(pattern).exists().then(|| pattern.to_owned()).into_iter().collect();
        };
        let mut found: Vec<String> = std::fs::read_dir(folder)
            .map(|entries| entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
            .unwrap_or_default();
        found.retain(|name| name.starts_with(before) && name.ends_with(after));
        found.sort();
        found.into_iter().map(|name| format!("{folder}/{name}")).collect()
    }

    fn canonical(&self, path: &str) -> String {
        std::fs::canonicalize(path).map_or_else(|_| path.to_owned(), |path| path.to_string_lossy().into_owned())
    }
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data/config")
}

/// The files of a folder, each with the version of the driver the tool shall believe in.
fn files(kind: &str) -> Vec<(PathBuf, &'static str)> {
    let mut found = Vec::new();
    for (generation, version) in [("8", "8.4.11"), ("9", "9.2.0")] {
        let folder = data().join(kind).join(generation);
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "res"));
        paths.sort();
        found.extend(paths.into_iter().map(|path| (path, version)));
    }
    found
}

fn drbdadm(path: &Path, version: &str) -> Output {
    Command::new("drbdadm")
        .env("__DRBD_NODE__", NODE)
        .env("DRBD_DRIVER_VERSION_OVERRIDE", version)
        .arg("-c")
        .arg(path)
        .arg("dump")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("drbdadm (package drbd-utils): {error}"))
}

fn load(path: &Path) -> Result<Config, String> {
    Config::load(&path.to_string_lossy(), &Disk).map_err(|errors| {
        let folder = format!("{}/", path.parent().expect("a file has a folder").display());
        errors.iter().map(|error| error.to_string().replace(&folder, "")).collect::<Vec<_>>().join("\n")
    })
}

/// The words of a dump, one statement or brace a line; without comments, and without node ids unless `with_ids`.
fn words(dump: &str, with_ids: bool) -> Vec<String> {
    let lines = dump.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let says_something = |words: &Vec<&str>| {
        words.first().is_some_and(|first| {
            let name = first.trim_end_matches(';');
            !first.starts_with('#') && !IGNORED_OPTIONS.contains(&name) && (with_ids || name != "node-id")
        })
    };
    let kept: Vec<String> = lines.filter(says_something).map(|words| words.join(" ")).collect();
    // A section whose only lines are ignored is no section.
    let mut statements: Vec<String> = Vec::new();
    for line in kept {
        let is_empty = |last: &String| ["startup {", "global {", "disk {"].contains(&last.as_str());
        let closes_nothing = line == "}" && statements.last().is_some_and(is_empty);
        if closes_nothing {
            statements.pop();
            continue;
        }
        if let Some(head) = statements.iter().rposition(|earlier| line == "}" && earlier == "disk {") {
            let options = &mut statements[head + 1..];
            if !options.iter().any(|option| option.contains(['{', '}'])) {
                options.sort();
            }
        }
        statements.push(line);
    }
    statements
}

/// The node ids in a dump of the tool, by host.
fn ids(dump: &str) -> BTreeMap<(String, String), String> {
    let mut ids = BTreeMap::new();
    let (mut resource, mut host) = (String::new(), String::new());
    for line in dump.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("resource ").and_then(|line| line.strip_suffix(" {")) {
            resource = name.trim_matches('"').to_owned();
        } else if let Some(names) = line.strip_prefix("on ").and_then(|line| line.strip_suffix(" {")) {
            host = names.split(' ').next().unwrap_or_default().to_owned();
        } else if let Some(id) = line.strip_prefix("node-id ").filter(|_| !host.is_empty()) {
            ids.insert((resource.clone(), host.clone()), id.trim_matches([' ', ';']).to_owned());
        }
    }
    ids
}

#[test]
fn what_drbdadm_reads_we_read_and_print_alike() {
    let mut differences = Vec::new();
    let files = files("accepted");
    assert!(files.len() >= 30, "{} files", files.len());
    for (path, version) in files {
        let output = drbdadm(&path, version);
        let name = path.strip_prefix(data()).expect("below the data").display();
        if !output.status.success() {
            differences.push(format!("{name}: drbdadm: {}", String::from_utf8_lossy(&output.stderr)));
            continue;
        }
        let theirs = String::from_utf8_lossy(&output.stdout);
        let config = match load(&path) {
            Ok(config) => config,
            Err(errors) => {
                differences.push(format!("{name}: refused: {errors}"));
                continue;
            }
        };
        let ours = config.dump(NODE);
        let (left, right) = (words(&theirs, false), words(&ours, false));
        if left != right {
            differences.push(format!("{name}:\n--- drbdadm\n{}\n--- ours\n{}", left.join("\n"), right.join("\n")));
        }
        for ((resource, host), id) in ids(&theirs) {
            match config.resolve(&resource, &host) {
                Ok(resolved) if resolved.me.node_id.to_string() == id => {}
                Err(error) if error.to_string().contains("stacked") => {}
                other => differences.push(format!("{name}: {resource} on {host}: node-id {id}, resolved {other:?}")),
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

#[test]
fn a_dump_reads_back_as_itself() {
    for (path, _) in files("accepted") {
        let config = load(&path).unwrap_or_else(|errors| panic!("{errors}"));
        let dump = config.dump(NODE);
        let copy = path.with_file_name("dump.tmp");
        let memory = Redirect { from: copy.to_string_lossy().into_owned(), text: dump.clone() };
        let again = Config::load(&copy.to_string_lossy(), &memory)
            .unwrap_or_else(|errors| panic!("{}: {errors:?}\n{dump}", path.display()));
        assert_eq!(words(&again.dump(NODE), true), words(&dump, true), "{}", path.display());
    }
}

/// The disk, with one file in memory.
struct Redirect {
    from: String,
    text: String,
}

impl Files for Redirect {
    fn read(&self, path: &str) -> Result<Vec<u8>, Unreadable> {
        if path == self.from { Ok(self.text.clone().into_bytes()) } else { Disk.read(path) }
    }

    fn glob(&self, pattern: &str) -> Vec<String> {
        Disk.glob(pattern)
    }

    fn canonical(&self, path: &str) -> String {
        Disk.canonical(path)
    }
}

#[test]
fn what_drbdadm_refuses_we_refuse_in_a_sentence() {
    let mut report = String::new();
    let files = files("refused");
    assert!(files.len() >= 15, "{} files", files.len());
    for (path, version) in files {
        let output = drbdadm(&path, version);
        let name = path.strip_prefix(data().join("refused")).expect("below the data").display();
        assert_ne!(output.status.code(), Some(0), "drbdadm reads {name}");
        let errors = load(&path).err().unwrap_or_else(|| panic!("we read {name}"));
        report.push_str(&format!("== {name}\n{errors}\n"));
    }
    let golden = data().join("refused.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &report).expect("the golden file can be written");
    }
    let expected = std::fs::read_to_string(&golden).expect("the golden file is there");
    assert_eq!(report, expected);
}

#[test]
fn the_example_of_two_nodes_resolves_as_written() {
    let config = load(&data().join("accepted/8/data.res")).expect("the example is right");
    let resource = config.resolve("data", "ha-node1").expect("ha-node1 is named");
    assert_eq!(resource.peers.len(), 1);
    assert_eq!(resource.peers[0].name, "ha-node2");
    assert_eq!(resource.peers[0].net.after_sb_0pri.as_str(), "discard-younger-primary");
    assert_eq!(resource.volumes[0].disk.as_deref(), Some("/dev/sdb1"));
    assert_eq!(resource.me.address.to_string(), "ipv4 192.168.1.101:7789");
}

//! The house rules that a compiler does not know: which folder may know which, what pure code never touches, what stands
//! nowhere, how long a file may be.
//!
//! Each rule is a function from a path and a text to faults; one test runs it over the repository, another shows that it
//! sees a planted fault. Words that are forbidden are put together from halves here, so that this file passes too.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom. Rows from the ground up; a folder may always import itself.
const LAYERS: &[(&str, &[&str])] = &[
    ("model", &[]),
    // Beside them all. It makes `model::time::Instant`s, since only a clock can.
    ("io", &["model"]),
    ("metadata", &["model"]),
    ("wire", &["model"]),
    ("config", &["model"]),
    ("control", &["model"]),
    ("activity_log", &["model", "metadata"]),
    ("bitmap", &["model", "metadata", "wire"]),
    ("generation", &["model", "metadata", "wire"]),
    ("nbd", &["model"]),
    ("replica", &["model", "metadata", "wire", "config", "control", "activity_log", "bitmap", "generation"]),
    (
        "engine",
        &[
            "model",
            "io",
            "metadata",
            "wire",
            "config",
            "control",
            "activity_log",
            "bitmap",
            "generation",
            "nbd",
            "replica",
        ],
    ),
    (
        "daemon",
        &[
            "model",
            "io",
            "metadata",
            "wire",
            "config",
            "control",
            "activity_log",
            "bitmap",
            "generation",
            "nbd",
            "replica",
            "engine",
        ],
    ),
    // Talks to the daemon over `control`, never to its insides. Of the engine it uses `offline`: metadata of idle disks.
    (
        "cli",
        &[
            "model",
            "io",
            "metadata",
            "wire",
            "config",
            "control",
            "activity_log",
            "bitmap",
            "generation",
            "nbd",
            "engine",
        ],
    ),
    ("bin", &["cli", "daemon"]),
];

/// Folders without clock, file, socket, thread, process, async or randomness.
const PURE: &[&str] =
    &["model", "metadata", "wire", "config", "control", "activity_log", "bitmap", "generation", "replica", "nbd"];

/// What pure code does not say, and what it says instead.
const IMPURE_WORDS: &[(&str, &str)] = &[
    ("std::fs", "ask for an action, or take the bytes as an argument"),
    ("std::net", "addresses are in core::net; sockets belong to io"),
    ("std::thread", "one owner, one loop"),
    ("std::process", "ask for an action"),
    ("tokio", "futures stay in engine, daemon and io"),
    ("Instant::now", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("HashMap", "BTreeMap: order must not depend on the run"),
    ("HashSet", "BTreeSet: order must not depend on the run"),
    ("async fn", "futures stay in engine, daemon and io"),
    ("rand", "randomness is a seed or an event"),
];

/// What stands nowhere in the repository.
const FORBIDDEN: &[&str] = &[
    concat!("/", "work", "/"),
    concat!("/", "tmp", "/", "wt"),
    concat!("/root", "/"),
    concat!("todo", "!"),
    concat!("unimplemented", "!"),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("#[ign", "ore"),
];

/// A file past this many lines is hiding a second noun.
const LINES_MAX: usize = 900;

/// Folders that are not ours to judge: built, fetched or generated.
const SKIPPED: &[&str] = &["target", ".git", "fuzz/target", "fuzz/corpus", "fuzz/artifacts"];

/// A broken rule.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

#[test]
fn imports_point_down_only() {
    assert_clean(sources("src", "rs"), arrows_up);
}

#[test]
fn pure_folders_touch_nothing() {
    assert_clean(sources("src", "rs"), impurities);
}

#[test]
fn unsafe_code_lives_in_io_only() {
    assert_clean(sources("", "rs"), unsafe_code);
}

#[test]
fn forbidden_words_stand_nowhere() {
    assert_clean(sources("", ""), forbidden_words);
}

#[test]
fn no_file_is_longer_than_its_noun() {
    assert_clean(sources("", "rs"), length);
}

#[test]
fn every_source_file_begins_with_what_it_is() {
    assert_clean(sources("src", "rs"), opening);
}

#[test]
fn the_table_of_layers_names_every_folder_once_and_has_no_cycle() {
    for (row, (folder, below)) in LAYERS.iter().enumerate() {
        let earlier = &LAYERS[..row];
        assert!(earlier.iter().all(|(other, _)| other != folder), "{folder} stands in two rows");
        for target in *below {
            assert!(earlier.iter().any(|(other, _)| other == target), "{folder} -> {target} does not point down");
        }
    }
    for folder in folders_of_src() {
        assert!(LAYERS.iter().any(|(known, _)| *known == folder), "src/{folder} has no row in the table");
    }
}

#[test]
fn a_planted_arrow_that_points_up_is_caught() {
    let up = "//! Words.\nuse crate::model::ids::NodeId;\nuse crate::engine::Loop;\n";
    assert_eq!(lines(arrows_up("src/wire/data.rs", up)), [3]);
    let grouped = "//! Words.\nuse crate::{\n    model::ids::NodeId,\n    nbd::{self, Export},\n};\n";
    assert_eq!(lines(arrows_up("src/replica/peer.rs", grouped)), [4]);
    let inline = "//! Words.\nfn f() { crate::daemon::start() }\n";
    assert_eq!(lines(arrows_up("src/engine.rs", inline)), [2]);
    assert_eq!(lines(arrows_up("src/bin/shimaid.rs", "//! Words.\nfn main() { shimai::engine::run() }\n")), [2]);
    let down =
        "//! See crate::engine.\nuse crate::model::{ids, time};\nuse crate::wire::{data::{Head, Tail}, framing};\n";
    assert_eq!(arrows_up("src/replica/mod.rs", down), []);
}

#[test]
fn a_planted_clock_in_pure_code_is_caught() {
    let clock = "//! Words.\nlet now = std::time::Instant::now();\n";
    assert_eq!(lines(impurities("src/replica/peer.rs", clock)), [2]);
    assert_eq!(lines(impurities("src/wire/mod.rs", "use std::{fmt, net::IpAddr};\n")), [1]);
    assert_eq!(impurities("src/engine/resource.rs", clock), []);
    let only_in_tests =
        "//! HashMap.\nfn operand() {}\n#[cfg(test)]\nmod tests {\n    use std::collections::HashMap;\n}\n";
    assert_eq!(impurities("src/bitmap/mod.rs", only_in_tests), []);
}

#[test]
fn planted_unsafe_code_is_caught() {
    let planted = format!("//! Words.\nfn f() {{ {} {{ g() }} }}\n", concat!("un", "safe"));
    assert_eq!(lines(unsafe_code("src/wire/mod.rs", &planted)), [2]);
    assert_eq!(unsafe_code("src/io/ring.rs", &planted), []);
    assert_eq!(unsafe_code("src/lib.rs", "#![deny(unsafe_code)]\n"), []);
}

#[test]
fn planted_words_are_caught() {
    for word in FORBIDDEN {
        assert_eq!(lines(forbidden_words("docs/page.md", &format!("fine\nhere: {word}\n"))), [2], "{word}");
    }
    assert_eq!(forbidden_words("src/model/mod.rs", "a mastodon's work/main\n"), []);
}

#[test]
fn a_planted_long_file_is_caught() {
    assert_eq!(length("src/a.rs", &"x\n".repeat(LINES_MAX)), []);
    assert_eq!(lines(length("src/a.rs", &"x\n".repeat(LINES_MAX + 1))), [LINES_MAX + 1]);
}

#[test]
fn a_planted_file_without_an_opening_is_caught() {
    assert_eq!(opening("src/a.rs", "//! What it is.\n"), []);
    assert_eq!(lines(opening("src/a.rs", "use std::fmt;\n")), [1]);
}

/// Imports of a folder that the table does not allow.
fn arrows_up(path: &str, text: &str) -> Vec<Fault> {
    let Some(folder) = folder_of(path) else { return Vec::new() };
    let below = LAYERS.iter().find(|(name, _)| *name == folder).map_or(&[][..], |(_, below)| below);
    let root = if folder == "bin" { "shimai::" } else { "crate::" };
    imports(&code_of(text), root)
        .into_iter()
        .filter(|(_, target)| target != folder && LAYERS.iter().any(|(name, _)| name == target))
        .filter(|(_, target)| !below.contains(&target.as_str()))
        .map(|(line, target)| fault(path, line, format!("{folder} -> {target} points up or sideways")))
        .collect()
}

/// Words that pure folders do not say; what stands in a test module may.
fn impurities(path: &str, text: &str) -> Vec<Fault> {
    let is_pure = folder_of(path).is_some_and(|folder| PURE.contains(&folder));
    if !is_pure || path.ends_with("/tests.rs") || path.contains("/tests/") {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (number, line) in without_tests(&code_of(text)).lines().enumerate() {
        let line = spread_std_group(line);
        for (word, instead) in IMPURE_WORDS {
            if has_word(&line, word) {
                faults.push(fault(path, number + 1, format!("`{word}` in a pure folder: {instead}")));
            }
        }
    }
    faults
}

/// The keyword outside `src/io`.
fn unsafe_code(path: &str, text: &str) -> Vec<Fault> {
    if path.starts_with("src/io/") {
        return Vec::new();
    }
    let keyword = concat!("un", "safe");
    let code = code_of(text);
    let hits = code.lines().enumerate().filter(|(_, line)| has_word(&without_strings(line), keyword));
    hits.map(|(number, _)| fault(path, number + 1, format!("`{keyword}` outside src/io"))).collect()
}

fn forbidden_words(path: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for word in FORBIDDEN {
            if has_word(line, word) {
                faults.push(fault(path, number + 1, format!("`{word}`")));
            }
        }
    }
    faults
}

fn length(path: &str, text: &str) -> Vec<Fault> {
    let count = text.lines().count();
    if count <= LINES_MAX {
        return Vec::new();
    }
    vec![fault(path, count, format!("{count} lines; a second noun is hiding in a file past {LINES_MAX}"))]
}

fn opening(path: &str, text: &str) -> Vec<Fault> {
    if text.starts_with("//!") { Vec::new() } else { vec![fault(path, 1, "does not begin with `//!`".into())] }
}

/// Line and first segment of everything imported or named from the root, groups included.
fn imports(code: &str, root: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(root) {
        if code[..at].ends_with(|c: char| is_word(c) || c == ':') {
            continue;
        }
        let after = at + root.len();
        let starts = if code[after..].starts_with('{') { group_members(code, after) } else { vec![after] };
        for start in starts {
            let segment: String = code[start..].chars().take_while(|c| is_word(*c)).collect();
            found.push((code[..start].matches('\n').count() + 1, segment));
        }
    }
    found
}

/// Where the members of the group that opens at `open` begin, nested groups not entered.
fn group_members(code: &str, open: usize) -> Vec<usize> {
    let (mut depth, mut starts, mut is_expected) = (0_usize, Vec::new(), true);
    for (offset, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => is_expected = true,
            c if depth == 1 && is_expected && is_word(c) => {
                starts.push(open + offset);
                is_expected = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    starts
}

/// The text with comments blanked, line for line.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    for line in text.lines() {
        let end = without_strings(line).find("//").unwrap_or(line.len());
        code.push_str(line.get(..end).unwrap_or_default());
        code.push('\n');
    }
    code
}

/// The line with the insides of its string literals replaced, byte for byte.
fn without_strings(line: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let mut plain = String::with_capacity(line.len());
    for c in line.chars() {
        let is_inside = in_string && (c != '"' || escaped);
        if c == '"' && !escaped {
            in_string = !in_string;
        }
        escaped = in_string && c == '\\' && !escaped;
        match is_inside {
            true => plain.push_str(&"_".repeat(c.len_utf8())),
            false => plain.push(c),
        }
    }
    plain
}

/// What stands before the module of tests, which is last in a file.
fn without_tests(code: &str) -> &str {
    code.find("#[cfg(test)]\nmod tests {").map_or(code, |at| &code[..at])
}

/// `use std::{fmt, net::X};` also says `std::net`.
fn spread_std_group(line: &str) -> String {
    match line.trim_start().strip_prefix("use std::{") {
        Some(members) => members.split(',').map(|member| format!("std::{} ", member.trim())).collect(),
        None => line.to_owned(),
    }
}

/// Whether `word` stands there and is not part of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let begins = !word.starts_with(is_word) || !before.is_some_and(is_word);
        let ends = !word.ends_with(is_word) || !after.is_some_and(is_word);
        begins && ends
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// `wire` of `src/wire/data.rs` and of `src/wire.rs`; none of `src/lib.rs` and outside `src`.
fn folder_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let folder = inside.split('/').next()?.trim_end_matches(".rs");
    (folder != "lib").then_some(folder)
}

fn fault(path: &str, line: usize, what: String) -> Fault {
    Fault { path: path.into(), line, what }
}

fn lines(faults: Vec<Fault>) -> Vec<usize> {
    faults.into_iter().map(|fault| fault.line).collect()
}

fn assert_clean(files: Vec<(String, String)>, rule: fn(&str, &str) -> Vec<Fault>) {
    assert!(!files.is_empty(), "there is nothing to look at");
    let faults: Vec<String> =
        files.iter().flat_map(|(path, text)| rule(path, text)).map(|fault| fault.to_string()).collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// Asked for at run time: a build shared between two clones must not look at the other one.
fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package is").into()
}

fn folders_of_src() -> Vec<String> {
    let entries = fs::read_dir(root().join("src")).expect("the repository has sources");
    entries
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.is_dir())
        .filter_map(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
        .collect()
}

/// Path and text of every text file below `folder` with that extension; any, if it is empty.
fn sources(folder: &str, extension: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the repository can be read") {
            let path = entry.expect("the folder can be read").path();
            let name = relative(&path);
            let is_link = path.is_symlink();
            if SKIPPED.contains(&name.as_str()) || name.ends_with("/target") || is_link {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if extension.is_empty() || path.extension().is_some_and(|found| found == extension) {
                // What is not UTF-8 is a sample of bytes, without words.
                files.extend(fs::read_to_string(&path).ok().map(|text| (name, text)));
            }
        }
    }
    files.sort();
    files
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("files of the repository are below its root").to_string_lossy().replace('\\', "/")
}

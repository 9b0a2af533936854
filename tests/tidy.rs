//! The house rules that a compiler does not know: which folder may know which, what pure code never touches, what stands
//! nowhere, how long a file may be.
//!
//! Each rule is a function from a path and a text to faults; one test runs it over the repository, another shows that it
//! sees a planted fault. Words that are forbidden are put together from halves here, so that this file passes too.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom: a folder, or of a folder one module. Rows from the ground up; a folder may always import itself.
const LAYERS: &[(&str, &[&str])] = &[
    ("model", &[]),
    // Beside them all. It makes `model::time::Instant`s, since only a clock can.
    ("io", &["model"]),
    ("metadata", &["model"]),
    ("wire", &["model"]),
    ("config", &["model"]),
    ("control", &["model"]),
    ("activity_log", &["model"]),
    ("bitmap", &["model"]),
    ("generation", &["model"]),
    ("nbd", &[]),
    ("replica", &["model", "metadata", "wire", "control", "activity_log", "bitmap", "generation"]),
    ("engine", &["model", "io", "metadata", "wire", "control", "nbd", "replica"]),
    ("daemon", &["model", "io", "metadata", "wire", "config", "control", "replica", "engine"]),
    // Talks to the daemon over `control`, never to its insides. Of the engine it uses metadata of idle disks, and limits that it
    // tells people; of the wire the names of algorithms.
    (
        "cli",
        &[
            "io",
            "metadata",
            "wire::auth",
            "config",
            "control",
            "nbd",
            "engine::offline",
            "engine::PEERS_MAX",
            "engine::NBD_CLIENTS_MAX",
        ],
    ),
    ("bin", &["cli", "daemon"]),
];

/// Folders without clock, file, socket, thread, process, async or randomness.
const PURE: &[&str] =
    &["model", "metadata", "wire", "config", "control", "activity_log", "bitmap", "generation", "replica", "nbd"];

/// What pure code takes from the standard library: values, none of which knows where it runs.
const PURE_STD: &[&str] =
    &["array", "cmp", "collections", "fmt", "hint", "iter", "mem", "ops", "ptr", "str", "sync", "time"];

/// Whose code pure code uses besides: bytes, numbers, names, digests. `proptest` is for tests.
const PURE_CRATES: &[&str] =
    &["bytes", "crc32c", "hmac", "md5", "serde", "serde_json", "sha1", "sha2", "slab", "thiserror"];

/// What pure code does not say, and what it says instead.
const IMPURE_WORDS: &[(&str, &str)] = &[
    ("Instant::now", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("HashMap", "BTreeMap: order must not depend on the run"),
    ("HashSet", "BTreeSet: order must not depend on the run"),
    ("async", "futures stay in engine, daemon and io"),
    ("await", "futures stay in engine, daemon and io"),
    ("rand", "randomness is a seed or an event"),
    ("static mut", "state has an owner"),
    ("thread_local", "state has an owner"),
    ("OnceLock", "state has an owner"),
    ("LazyLock", "state has an owner"),
    ("Mutex", "one owner, no locks"),
    ("RwLock", "one owner, no locks"),
    ("Condvar", "one owner, no locks"),
    ("mpsc", "ask for an action"),
    ("atomic", "one owner, one loop"),
    ("println", "ask for an action"),
    ("eprintln", "ask for an action"),
];

/// The one exception: reads once which bug to plant, and is compiled to nothing without the feature `mutants`.
const PURE_EXCEPTION: &str = "src/replica/mutants.rs";

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
            let above = target.split("::").next();
            assert!(earlier.iter().any(|(other, _)| Some(*other) == above), "{folder} -> {target} does not point down");
        }
    }
    for folder in folders_of_src() {
        assert!(LAYERS.iter().any(|(known, _)| *known == folder), "src/{folder} has no row in the table");
    }
}

/// What is allowed and not used is a hole that nobody watches.
#[test]
fn the_tables_allow_nothing_that_nobody_uses() {
    let files = sources("src", "rs");
    let mut unused = Vec::new();
    for (folder, below) in LAYERS.iter().filter(|(folder, _)| *folder != "bin") {
        let own = files.iter().filter(|(path, _)| folder_of(path) == Some(folder));
        let used: Vec<Import> = own.flat_map(|(_, text)| imports(&code_of(text), "crate::")).collect();
        let idle = below.iter().filter(|target| !used.iter().any(|import| import.is_in(target)));
        unused.extend(idle.map(|target| format!("{folder} -> {target}")));
    }
    assert_eq!(unused, Vec::<String>::new());
    let is_pure = |path: &str| folder_of(path).is_some_and(|folder| PURE.contains(&folder));
    let pure: Vec<String> = files.iter().filter(|(path, _)| is_pure(path)).map(|(_, text)| code_of(text)).collect();
    for name in PURE_CRATES {
        assert!(pure.iter().any(|code| has_word(code, &format!("{name}::"))), "no pure folder uses {name}");
    }
    for module in PURE_STD {
        assert!(pure.iter().any(|code| imports(code, "std::").iter().any(|import| import.is_in(module))), "{module}");
    }
    assert!(
        fs::read_to_string(root().join(PURE_EXCEPTION)).is_ok_and(|text| text.contains("std::env")),
        "it is needed"
    );
}

#[test]
fn the_readme_names_every_page() {
    let readme = fs::read_to_string(root().join("README.md")).expect("there is one");
    let pages: Vec<String> = sources("docs", "md").into_iter().map(|(path, _)| path).collect();
    assert_eq!(unnamed(&pages, &readme), Vec::<&String>::new());
    assert_eq!(unnamed(&["docs/new.md".into()], &readme), ["docs/new.md"]);
}

/// Pages without a link.
fn unnamed<'a>(pages: &'a [String], readme: &str) -> Vec<&'a String> {
    pages.iter().filter(|page| !readme.contains(&format!("({page})"))).collect()
}

#[test]
fn the_root_declares_folders_and_nothing_else() {
    assert_clean(sources("src", "rs"), root_contents);
    let planted =
        "//! Words.\n\npub mod wire;\n#[allow(unsafe_code, reason = \"io\")]\npub mod io;\nuse engine::Loop;\n";
    assert_eq!(lines(root_contents("src/lib.rs", planted)), [6]);
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
    let within_reach = "//! Words.\nuse crate::engine::offline::{self, create_md};\nuse crate::engine::{offline};\n";
    assert_eq!(arrows_up("src/cli/metadata.rs", within_reach), []);
    let beside_it =
        "//! Words.\nuse crate::engine::{\n    offline::create_md,\n    resource::Loop,\n};\nuse crate::engine;\n";
    assert_eq!(lines(arrows_up("src/cli/metadata.rs", beside_it)), [4, 6]);
    let climbing = "//! Words.\nuse super::super::engine::Loop;\nuse super::framing;\n\nmod inner {\n    use super::super::engine;\n    use super::super::super::engine;\n}\n";
    assert_eq!(lines(arrows_up("src/wire/data.rs", climbing)), [2, 7]);
    assert_eq!(lines(arrows_up("src/wire/mod.rs", "//! Words.\nuse super::{model::ids, engine::Loop};\n")), [2]);
    assert_eq!(lines(arrows_up("src/wire.rs", "//! Words.\nuse super::engine;\n")), [2]);
    for renamed in ["use crate as shimai;", "use crate::{self as shimai};", "extern crate self as shimai;"] {
        assert_eq!(lines(arrows_up("src/wire/data.rs", &format!("//! Words.\n{renamed}\n"))), [2], "{renamed}");
    }
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
    let planted = [
        "use tokio::time;",
        "use tokio_uring::fs::File;",
        "use io_uring::IoUring;",
        "let pid = nix::unistd::getpid();",
        "libc::getpid();",
        "use memmap2::Mmap;",
        "let home = std::env::var(\"HOME\");",
        "use std::os::fd::AsFd;",
        "use std as s;",
        "static SEEN: std::sync::OnceLock<u32> = std::sync::OnceLock::new();",
        "static COUNT: AtomicU64 = std::sync::atomic::AtomicU64::new(0);",
        "let later = async { 1 };",
        "let later = async move { 1 };",
        "let now = later.await;",
    ];
    for line in planted {
        let faults = impurities("src/replica/peer.rs", &format!("//! Words.\n{line}\n"));
        assert!(!faults.is_empty() && faults.iter().all(|fault| fault.line == 2), "{line}: {faults:?}");
        assert_eq!(impurities(PURE_EXCEPTION, line), [], "the exception");
    }
    let group = "//! Words.\nuse std::{\n    collections::BTreeMap,\n    fmt,\n    sync::{\n        Arc,\n        RwLock,\n    },\n    fs,\n};\n";
    assert_eq!(lines(impurities("src/wire/mod.rs", group)), [7, 9]);
    let pure = "//! Words.\nuse std::{cmp, collections::BTreeMap, sync::Arc};\nuse bytes::Bytes;\nlet nix = a.tokio;\n";
    assert_eq!(impurities("src/wire/mod.rs", pure), []);
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
    let code = code_of(text);
    let mut found = imports(&code, if folder == "bin" { "shimai::" } else { "crate::" });
    found.extend(climbs(path, &code));
    found.retain(|import| !import.is_in(folder) && LAYERS.iter().any(|(name, _)| import.is_in(name)));
    found.retain(|import| !below.iter().any(|target| import.is_in(target)));
    found.sort_by_key(|import| import.line);
    // A group that goes deeper is one arrow.
    found.dedup_by(|one, other| one.line == other.line && one.folder() == other.folder());
    let arrow = |import: Import| fault(path, import.line, format!("{folder} -> {} points up or sideways", import.path));
    let mut faults: Vec<Fault> = found.into_iter().map(arrow).collect();
    for (number, line) in code.lines().enumerate() {
        if ["crate as", "crate::{self as", "crate self as"].iter().any(|words| has_word(line, words)) {
            faults.push(fault(path, number + 1, "the root goes by no other name".into()));
        }
    }
    faults
}

/// What `super::super::` reaches at the root, or `super::` from the folder's own file.
fn climbs(path: &str, code: &str) -> Vec<Import> {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    let depth = inside.split('/').count();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with(|c: char| is_word(c) || c == ':') {
            continue;
        }
        let (mut after, mut steps) = (at, 0);
        while code[after..].starts_with("super::") {
            (after, steps) = (after + "super::".len(), steps + 1);
        }
        if steps == depth + inline_modules(&code[..at]) {
            found.extend(expand(code, after, ""));
        }
    }
    found
}

/// How many `mod name {` are open at the end: rustfmt closes each at the column where it began.
fn inline_modules(code: &str) -> usize {
    let mut open: Vec<usize> = Vec::new();
    for line in code.lines() {
        let words = line.trim_start();
        let column = line.len() - words.len();
        let is_module = has_word(words, "mod") && words.trim_end().ends_with('{');
        if is_module {
            open.push(column);
        } else if words.starts_with('}') && open.last() == Some(&column) {
            open.pop();
        }
    }
    open.len()
}

/// What pure folders do not use or say; what stands in a test module may.
fn impurities(path: &str, text: &str) -> Vec<Fault> {
    let is_pure = folder_of(path).is_some_and(|folder| PURE.contains(&folder));
    if !is_pure || path == PURE_EXCEPTION || path.ends_with("/tests.rs") || path.contains("/tests/") {
        return Vec::new();
    }
    let code = code_of(text);
    let code = without_tests(&code);
    let mut faults = Vec::new();
    for import in imports(code, "std::") {
        if !PURE_STD.iter().any(|module| import.is_in(module)) {
            faults.push(fault(path, import.line, format!("`std::{}` in a pure folder", import.path)));
        }
    }
    let foreign: Vec<String> =
        dependencies().into_iter().filter(|name| !PURE_CRATES.contains(&name.as_str())).collect();
    for (number, line) in code.lines().enumerate() {
        let plain = without_strings(line);
        let of_others = foreign.iter().filter(|name| has_word(&plain, &format!("{name}::")));
        faults.extend(of_others.map(|name| fault(path, number + 1, format!("`{name}` in a pure folder"))));
        let words = IMPURE_WORDS.iter().filter(|(word, _)| has_word(&plain, word));
        faults.extend(
            words.map(|(word, instead)| fault(path, number + 1, format!("`{word}` in a pure folder: {instead}"))),
        );
        if has_word(&plain, "std as") {
            faults.push(fault(path, number + 1, "the standard library goes by no other name".into()));
        }
    }
    faults.sort_by_key(|fault| fault.line);
    faults
}

/// What the package depends on, as it is spelled in code.
fn dependencies() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the package has one");
    let section = manifest.split("\n[").find_map(|section| section.strip_prefix("dependencies]"));
    let lines = section.expect("the package has dependencies").lines();
    let names = lines.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.trim());
    names.map(|name| if name == "md-5" { "md5".to_owned() } else { name.replace('-', "_") }).collect()
}

/// The root of the library is exempt from the table, so it holds nothing that the table could be about.
fn root_contents(path: &str, text: &str) -> Vec<Fault> {
    if path != "src/lib.rs" {
        return Vec::new();
    }
    let code = code_of(text);
    let strange = code.lines().enumerate().filter(|(_, line)| {
        let declares = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';'));
        !declares.is_some_and(|name| name.chars().all(is_word)) && !line.starts_with("#[") && !line.trim().is_empty()
    });
    strange.map(|(number, line)| fault(path, number + 1, format!("`{line}`: the root declares folders"))).collect()
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

/// Something that is imported or named.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Import {
    line: usize,
    /// From the root on, as far as it is spelled.
    path: String,
}

impl Import {
    fn folder(&self) -> &str {
        self.path.split("::").next().unwrap_or_default()
    }

    /// Whether it is the module or in it.
    fn is_in(&self, module: &str) -> bool {
        self.path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    }
}

/// Everything imported or named from a root, each member of a group by itself.
fn imports(code: &str, root: &str) -> Vec<Import> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(root) {
        if !code[..at].ends_with(|c: char| is_word(c) || c == ':') {
            found.extend(expand(code, at + root.len(), ""));
        }
    }
    found
}

/// The paths that begin at `at`, below `above`.
fn expand(code: &str, at: usize, above: &str) -> Vec<Import> {
    if code[at..].starts_with('{') {
        return group_members(code, at).into_iter().flat_map(|member| expand(code, member, above)).collect();
    }
    let segment: String = code[at..].chars().take_while(|c| is_word(*c)).collect();
    let path = match (above, segment.as_str()) {
        // `self` of a group, and `*`.
        (_, "self" | "") => above.to_owned(),
        ("", _) => segment.clone(),
        _ => format!("{above}::{segment}"),
    };
    let after = at + segment.len();
    match code[after..].strip_prefix("::") {
        Some(_) if !segment.is_empty() => expand(code, after + 2, &path),
        _ => vec![Import { line: code[..at].matches('\n').count() + 1, path }],
    }
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

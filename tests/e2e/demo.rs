//! `shimai demo`, the newcomer's command: it ends well, and takes everything away, also when it is interrupted.

use crate::harness::LONG;
use crate::harness::node::SHIMAI;
use crate::harness::tools::{described, ended, kill as kill_child, output, run, spawn, tool};
use crate::harness::wait::until;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use tempfile::TempDir;

/// The demonstration with a folder of the test's for its files.
fn demo(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(SHIMAI);
    command.arg("demo").args(words).env("TMPDIR", folder).env("NO_COLOR", "1");
    command
}

/// The folder for the demonstration's files, apart from what the test writes itself.
fn folder(test: &TempDir) -> std::path::PathBuf {
    let folder = test.path().join("files");
    fs::create_dir(&folder).expect("the folder is ours");
    folder
}

/// Processes whose command line names the folder.
fn processes_in(folder: &Path) -> Vec<String> {
    let name = folder.to_string_lossy().into_owned();
    let processes = fs::read_dir("/proc").expect("/proc is there").flatten();
    // A process may end while it is looked at.
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&name)).collect()
}

fn assert_nothing_left(folder: &Path) {
    assert_eq!(processes_in(folder), Vec::<String>::new(), "daemons run on");
    let files: Vec<_> = fs::read_dir(folder).expect("the folder is ours").flatten().map(|entry| entry.path()).collect();
    assert!(files.is_empty(), "files are left: {files:?}");
}

/// The number in the line of the summary that begins with `name`.
fn summary(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
    let number = line.map(|rest| rest.trim().trim_end_matches(" ms").replace(',', ""));
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no `{name}` in\n{text}"))
}

#[test]
fn the_demonstration_ends_with_nothing_lost_and_nothing_left() {
    let test = TempDir::new().expect("there is room for a folder");
    let folder = folder(&test);
    let mut command = demo(&folder, &["--seconds", "1"]);
    let output = output(&mut command);
    assert!(output.status.success(), "{}", described(&command, &output));
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(summary(&text, "of these lost"), 0, "{text}");
    assert!(summary(&text, "writes acknowledged") > 100, "{text}");
    assert!(summary(&text, "gap without a Primary") > 0, "{text}");
    for fact in ["killed (SIGKILL)", "Primary, serves nbd://127.0.0.1:", "in sync again", "blocks (", "alice Primary"] {
        assert!(text.contains(fact), "{fact:?} is not told in\n{text}");
    }
    let place = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words} is not in {text}"));
    assert!(place("killed (SIGKILL)") < place("first write acknowledged"), "{text}");
    assert!(place("first write acknowledged") < place("started again"), "{text}");
    assert_nothing_left(&folder);
}

/// Starts it and waits until it has told `moment`; what it tells goes into `log`.
fn begin(folder: &Path, words: &[&str], log: &Path, moment: &str) -> Child {
    // Longer than it takes to be interrupted.
    let mut demo = spawn(demo(folder, words).args(["--seconds", "60"]).process_group(0), log);
    let told = || fs::read_to_string(log).unwrap_or_default();
    until(&format!("{moment:?} is told"), LONG, || {
        if let Some(status) = demo.try_wait().expect("it is our child") {
            panic!("it ended with {status}:\n{}", told());
        }
        if told().contains(moment) { Ok(()) } else { Err(told()) }
    });
    assert!(!processes_in(folder).is_empty(), "there is something to be cleaned up");
    demo
}

/// Interrupts it once it has told `moment`; it ends with `exit` and nothing is left.
fn interrupted(words: &[&str], moment: &str, exit: i32, interrupt: fn(&Child)) {
    let test = TempDir::new().expect("there is room for a folder");
    let (folder, log) = (folder(&test), test.path().join("log"));
    let mut demo = begin(&folder, words, &log, moment);
    interrupt(&demo);
    let code = ended("the demonstration", &mut demo, LONG);
    let told = fs::read_to_string(&log).unwrap_or_default();
    assert_eq!(code, Some(exit), "{told}");
    assert!(told.contains("interrupted"), "{told}");
    assert_nothing_left(&folder);
}

fn process(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("process ids are small"))
}

#[test]
fn an_interrupted_demonstration_leaves_nothing_behind() {
    interrupted(&[], "writes of 4 KiB", 130, |demo| kill(process(demo), Signal::SIGINT).expect("it runs"));
}

/// A terminal sends the signal to the daemons, too.
#[test]
fn a_demonstration_interrupted_from_a_terminal_leaves_nothing_behind() {
    interrupted(&[], "killed (SIGKILL)", 130, |demo| killpg(process(demo), Signal::SIGINT).expect("it runs"));
}

#[test]
fn a_terminated_demonstration_leaves_nothing_behind() {
    interrupted(&[], "two daemons", 143, |demo| kill(process(demo), Signal::SIGTERM).expect("it runs"));
}

#[test]
fn a_demonstration_that_would_be_kept_leaves_nothing_behind_if_it_does_not_come_to_its_end() {
    interrupted(&["--keep"], "writes of 4 KiB", 130, |demo| kill(process(demo), Signal::SIGINT).expect("it runs"));
}

#[test]
fn the_daemons_of_a_killed_demonstration_end_too() {
    let test = TempDir::new().expect("there is room for a folder");
    let (folder, log) = (folder(&test), test.path().join("log"));
    let mut demo = begin(&folder, &[], &log, "writes of 4 KiB");
    kill_child(&mut demo);
    until("the daemons have ended", LONG, || {
        let left = processes_in(&folder);
        if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
    });
}

#[test]
fn a_demonstration_without_room_does_not_begin() {
    let test = TempDir::new().expect("there is room for a folder");
    let small = folder(&test);
    run(tool("mount").args(["-t", "tmpfs", "-o", "size=16M", "none"]).arg(&small));
    let output = output(&mut demo(&small, &[]));
    run(tool("umount").arg(&small));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(20), "{errors}");
    assert!(errors.contains("needs 144 MiB") && errors.contains("16 MiB are free"), "{errors}");
}

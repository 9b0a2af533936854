//! The demonstration leaves nothing behind that it does not name, however it ends.

use crate::harness::LONG;
use crate::harness::node::SHIMAI;
use crate::harness::tools::{ended, run, tool};
use crate::harness::wait::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Starts it in a folder of its own, and waits until these words are on its standard output.
fn begin(folder: &Path, words: &[&str], told: &str) -> (Child, String) {
    let out = folder.join("out");
    let (file, errors) = (fs::File::create(&out).unwrap(), fs::File::create(folder.join("err")).unwrap());
    let room = folder.join("room");
    fs::create_dir(&room).unwrap();
    let mut command = Command::new(SHIMAI);
    command.args(words).env("TMPDIR", &room).stdin(Stdio::null()).stdout(file).stderr(errors);
    let child = command.spawn().expect("shimai can be run");
    let text = until("the demonstration is under way", LONG, || {
        let text = fs::read_to_string(&out).unwrap();
        if text.contains(told) { Ok(text) } else { Err(text) }
    });
    (child, text)
}

/// The daemons' process ids, as it tells them.
fn daemons(text: &str) -> Vec<i32> {
    let ids = text.split("(process ").skip(1).filter_map(|rest| rest.split(')').next()?.parse().ok());
    ids.collect()
}

fn wait_for_daemons(ids: &[i32]) {
    until("the daemons have ended", LONG, || {
        let left = ids.iter().find(|id| Path::new("/proc").join(id.to_string()).join("exe").exists());
        left.map_or(Ok(()), |id| Err(format!("process {id} runs")))
    });
}

fn files_left(folder: &Path) -> usize {
    fs::read_dir(folder.join("room")).unwrap().count()
}

fn interrupt(words: &[&str], signal: Signal) {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, text) = begin(folder.path(), words, "each block stamped");
    let ids = daemons(&text);
    assert_eq!(ids.len(), 2, "{text}");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    assert_eq!(ended("the demonstration", &mut child, LONG), Some(128 + signal as i32));
    wait_for_daemons(&ids);
    assert_eq!(files_left(folder.path()), 0);
    let errors = fs::read_to_string(folder.path().join("err")).unwrap();
    assert!(errors.contains("interrupted") && errors.contains("is removed"), "{errors}");
}

#[test]
fn an_interrupted_demonstration_clears_up_and_says_so() {
    interrupt(&["demo"], Signal::SIGINT);
    interrupt(&["demo"], Signal::SIGTERM);
    interrupt(&["demo", "--keep"], Signal::SIGINT);
}

#[test]
fn the_daemons_of_a_killed_demonstration_end_too() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, text) = begin(folder.path(), &["demo"], "each block stamped");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for_daemons(&daemons(&text));
}

#[test]
fn a_demonstration_to_its_end_loses_nothing_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, text) = begin(folder.path(), &["demo", "--seconds", "1"], "gap without a Primary");
    assert_eq!(ended("the demonstration", &mut child, LONG), Some(0), "{text}");
    assert_eq!(files_left(folder.path()), 0);
    let times: Vec<f64> = text.lines().filter_map(|line| line.split(" s ").next()?.trim().parse().ok()).collect();
    assert!(times.len() > 10 && times.is_sorted(), "{text}");
    let place = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words} is not in {text}"));
    assert!(place("killed (SIGKILL)") < place("first write acknowledged"), "{text}");
    assert!(place("first write acknowledged") < place("started again"), "{text}");
}

#[test]
fn a_demonstration_without_room_does_not_begin() {
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    fs::create_dir(&small).unwrap();
    run(tool("mount").args(["-t", "tmpfs", "-o", "size=16M", "none"]).arg(&small));
    let output = Command::new(SHIMAI).arg("demo").env("TMPDIR", &small).output().expect("shimai can be run");
    run(tool("umount").arg(&small));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(20), "{errors}");
    assert!(errors.contains("needs 144 MiB") && errors.contains("16 MiB are free"), "{errors}");
}

//! The command on configurations and idle disks, without a daemon: what it prints, and with what it exits.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A folder with a configuration and whatever disks it names.
struct Place(tempfile::TempDir);

impl Place {
    fn new(config: &str) -> Self {
        let place = Self(tempfile::tempdir().expect("a directory"));
        fs::write(place.path("c.res"), config).expect("room");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn disk(&self, name: &str, mib: u64) {
        fs::File::create(self.path(name)).and_then(|file| file.set_len(mib << 20)).expect("a sparse file");
    }

    fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_shimai"))
            .current_dir(self.0.path())
            .args(["--node", "alice", "--run-dir"])
            .arg(self.0.path())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program is built");
        // A program that does not read its input may be gone already.
        let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
        child.wait_with_output().expect("it ends")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(&[&["-c", "c.res"], arguments].concat(), "")
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).expect("text")
    }

    /// What it complains of; it must exit with `code`.
    #[track_caller]
    fn refused(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        said(&output)
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn resource(name: &str, minor: u8, meta: &str) -> String {
    format!(
        "resource {name} {{ device minor {minor}; disk {name}.img; meta-disk {meta};
            on alice {{ node-id 0; address 10.0.0.1:770{minor}; }}
            on bob {{ node-id 1; address 10.0.0.2:770{minor}; }} }}\n"
    )
}

/// A resource that is read and not served.
fn stacked(lower: &str) -> String {
    format!(
        "resource u {{ stacked-on-top-of {lower} {{ device minor 10; node-id 0; address 10.0.0.1:7710; }}
            on carol {{ node-id 1; device minor 10; disk x; meta-disk internal; address 10.0.0.3:7710; }} }}\n"
    )
}

#[test]
fn the_exit_code_says_whose_fault_it_is() {
    let place = Place::new(&resource("r", 0, "internal"));
    let missing = place.run_with(&["-c", "absent.res", "dump"], "");
    assert_eq!((missing.status.code(), said(&missing).trim_end()), (Some(20), MISSING));
    place.refused(&["dump", "nosuch"], 1);
    place.refused(&["create-md", "nosuch"], 1);
    for faulty in ["resource r { net { ping-itn 3; } }", "resource r {", "include \"absent.res\";"] {
        fs::write(place.path("c.res"), faulty).expect("room");
        for verb in ["dump", "lint", "create-md"] {
            place.refused(&[verb, "all"], 10);
        }
    }
    let three = resource("r", 0, "internal").replace("on bob", "on carol { node-id 2; address 10.0.0.3:7700; } on bob");
    fs::write(place.path("c.res"), three).expect("room");
    assert!(place.refused(&["create-md", "r"], 10).contains("has 3 hosts"));
    place.refused(&["lint"], 10);
    place.ok(&["dump"]);
}

const MISSING: &str = "cannot read the configuration absent.res: No such file or directory (os error 2)";

#[test]
fn a_configuration_comes_from_standard_input() {
    let place = Place::new("");
    let text = resource("r", 0, "internal");
    let output = place.run_with(&["-c", "-", "dump", "r"], &text);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("resource r {"));
    let output = place.run_with(&["-c", "-", "up", "r"], &text);
    assert_eq!(output.status.code(), Some(20));
    assert!(said(&output).contains("the daemon reads the configuration itself"), "{}", said(&output));
}

#[test]
fn the_sample_is_a_configuration() {
    let place = Place::new("");
    let sample = place.ok(&["sample-config"]);
    assert!(sample.contains("#timeout 60;"), "{sample}");
    fs::write(place.path("c.res"), sample).expect("room");
    place.ok(&["dump"]);
}

#[test]
fn lint_and_dump_are_about_what_was_asked() {
    let noisy = |name: &str, minor| resource(name, minor, "internal").replace("device", "net { tcp-cork no; } device");
    let place = Place::new(&format!("{}{}{}", noisy("r", 0), noisy("s", 1), stacked("r")));
    assert_eq!(place.ok(&["lint", "s"]).lines().count(), 1);
    // A stacked resource is a remark, and does not keep the others from theirs.
    let all = place.ok(&["lint"]);
    assert!(all.lines().count() == 3 && all.contains("resource u is stacked on r"), "{all}");
    assert!(place.refused(&["dump", "r/7"], 1).contains("whole resources"));
    assert!(place.refused(&["lint", "nosuch"], 1).contains("there is no resource nosuch"));
}

#[test]
fn a_resource_that_is_not_served_does_not_keep_the_others_from_their_metadata() {
    let place =
        Place::new(&format!("{}{}{}", resource("r", 0, "internal"), stacked("r"), resource("s", 1, "internal")));
    ["r.img", "s.img"].iter().for_each(|disk| place.disk(disk, 16));
    let output = place.run(&["create-md", "all"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(
        said(&output).contains("resource \"u\" is stacked on \"r\", which is not served; left out"),
        "{}",
        said(&output)
    );
    assert_eq!(place.ok(&["get-gi", "all"]).lines().count(), 2);
    assert!(place.refused(&["create-md", "u"], 10).contains("stacked"));
}

#[test]
fn new_metadata_has_the_shape_that_was_asked_for() {
    let place = Place::new(&resource("r", 0, "internal"));
    place.disk("r.img", 16);
    let sentence = place.refused(&["create-md", "--format", "v08", "--max-peers", "5", "r"], 1);
    assert_eq!(sentence, "r: v08 metadata has room for 1 peer, not for 5\n");
    for wrong in [["--al-stripes", "1025"], ["--al-stripe-size-kB", "33"], ["--peer-max-bio-size", "1048577"]] {
        place.refused(&["create-md", wrong[0], wrong[1], "r"], 1);
    }
    let shape = ["--al-stripes", "4", "--al-stripe-size-kB", "64", "--peer-max-bio-size", "131072"];
    place.ok(&[&["create-md"], &shape[..], &["--max-peers", "3", "r"]].concat());
    let dump = place.ok(&["dump-md", "r"]);
    for line in ["max-peers 3;", "al-stripes 4;", "al-stripe-size-4k 16;", "la-peer-max-bio-size 131072;"] {
        assert!(dump.contains(line), "{line}: {dump}");
    }
}

#[test]
fn a_dump_is_restored_from_standard_input_and_identifiers_are_set() {
    let place = Place::new(&resource("r", 0, "internal"));
    place.disk("r.img", 16);
    place.ok(&["create-md", "--format", "v08", "r"]);
    let line = "1234567890ABCDEE:00000000000000B0:0000000000000000:0000000000000000:1:1:0:0:0:0:0";
    assert!(place.ok(&["set-gi", "r", line]).ends_with(&format!("set GI to  {line}\n")));
    // The peer's node id is 1 on one of the two nodes; v08 does not know node ids.
    assert_eq!(place.ok(&["get-gi", "r"]), format!("{line}\n"));
    let dump = place.ok(&["dump-md", "r"]);
    place.ok(&["wipe-md", "--force", "r"]);
    let sentence = place.refused(&["dump-md", "r"], 1);
    assert!(sentence.contains("no metadata found") && sentence.contains("next: shimai create-md r/0"), "{sentence}");
    let output = place.run_with(&["-c", "c.res", "restore-md", "--force", "r", "-"], &dump);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(place.ok(&["dump-md", "r"]), dump);
    fs::write(place.path("text"), &dump).expect("room");
    place.ok(&["restore-md", "--force", "r", "text"]);
    assert_eq!(place.ok(&["dump-md", "r"]), dump);
    fs::write(place.path("text"), [0xFF; 9]).expect("room");
    assert!(place.refused(&["restore-md", "--force", "r", "text"], 20).contains("text is no text"));
}

/// A dump is read elsewhere than where it was made.
#[test]
fn a_template_is_named_from_the_root() {
    let place = Place::new(&resource("r", 0, "internal").replace("device", "template-file sub/common; device"));
    fs::create_dir(place.path("sub")).expect("the folder is ours");
    fs::write(place.path("sub/common"), "common { net { ping-int 3; } }").expect("room");
    let whole = fs::canonicalize(place.path("sub/common")).expect("it is there");
    assert!(place.ok(&["dump"]).contains(&format!("template-file {};", whole.display())));
}

/// New metadata is no advice where there is some that cannot be read.
#[test]
fn metadata_of_a_newer_version_is_not_to_be_replaced() {
    use std::os::unix::fs::FileExt;
    let place = Place::new(&resource("r", 0, "internal"));
    place.disk("r.img", 16);
    let disk = fs::File::options().write(true).open(place.path("r.img")).expect("the disk");
    disk.write_all_at(&0x8374_026E_u32.to_be_bytes(), (16 << 20) - 4096 + 0x3C).expect("room");
    let sentence = place.refused(&["dump-md", "r"], 1);
    let expected = "r/0: r.img: metadata of a newer version (magic 0x8374026e); v08 and v09 can be read here\n";
    assert_eq!(sentence, expected);
    assert!(place.refused(&["create-md", "r"], 1).contains("there is DRBD metadata of another version"));
}

#[test]
fn resources_share_a_metadata_device() {
    let place = Place::new(&format!("{}{}", resource("p", 0, "meta.img[0]"), resource("q", 1, "meta.img[1]")));
    place.disk("meta.img", 256);
    place.ok(&["create-md", "p"]);
    place.ok(&["create-md", "q"]);
    assert_eq!(place.ok(&["get-gi", "all"]).lines().count(), 2);
    place.refused(&["create-md", "q"], 1);
}

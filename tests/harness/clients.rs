//! NBD clients that others wrote: libnbd's, QEMU's, fio.

use super::tools::{output, run, tool};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

/// What `nbdinfo` finds out about an export.
pub(crate) fn nbdinfo(uri: &str) -> Value {
    nbdinfo_all(&["--json", uri])["exports"][0].take()
}

/// All that `nbdinfo` prints.
pub(crate) fn nbdinfo_all(arguments: &[&str]) -> Value {
    let text = run(tool("nbdinfo").args(arguments));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("nbdinfo printed {text:?}: {error}"))
}

/// Copies with `nbdcopy`; either end may be a file.
pub(crate) fn nbdcopy(from: &str, to: &str) {
    run(tool("nbdcopy").args(["--flush", "--allocated", from, to]));
}

/// Runs commands of `qemu-io` on a volume; what it printed.
pub(crate) fn qemu_io(target: &str, commands: &[&str]) -> String {
    let mut command = tool("qemu-io");
    command.args(["-f", "raw"]);
    for line in commands {
        command.args(["-c", line]);
    }
    let text = run(command.arg(target));
    assert!(!text.contains("failed"), "qemu-io: {text}");
    text
}

/// As [`qemu_io`], whatever comes of it.
pub(crate) fn try_qemu_io(target: &str, line: &str) -> Output {
    output(tool("qemu-io").args(["-f", "raw", "-c", line, target]))
}

/// Writes with `fio` at random, in random sizes, and reads back what it wrote: `jobs` clients with parts of their own, once
/// each or, where there are seconds, again and again for so long.
///
/// # Panics
/// When it finds something else than it wrote, and when it has not read back at least what one pass writes.
pub(crate) fn fio_verify(uri: &str, folder: &Path, jobs: u64, bytes_each: u64, seconds: Option<u32>) {
    let mut command = tool("fio");
    command.current_dir(folder).args(["--name=verify", "--ioengine=nbd", "--rw=randwrite", "--iodepth=16"]);
    command.args(["--bsrange=512-64k", "--blockalign=512", "--fsync=64", "--output-format=json"]);
    command.args(["--verify=crc32c", "--do_verify=1", "--verify_fatal=1"]);
    command.arg(format!("--uri={uri}")).arg(format!("--numjobs={jobs}"));
    command.arg(format!("--size={bytes_each}")).arg(format!("--offset_increment={bytes_each}"));
    if let Some(seconds) = seconds {
        command.arg("--time_based").arg(format!("--runtime={seconds}"));
    }
    let text = run(&mut command);
    // Warnings come first.
    let report = text.find('{').and_then(|begin| serde_json::from_str::<Value>(&text[begin..]).ok());
    let report = report.unwrap_or_else(|| panic!("fio printed no JSON: {text}"));
    let found = report["jobs"].as_array().map_or(&[][..], Vec::as_slice);
    assert_eq!(found.len() as u64, jobs, "{text}");
    for job in found {
        let [read, written] = ["read", "write"].map(|kind| job[kind]["io_bytes"].as_u64().unwrap_or(0));
        assert!(
            written >= bytes_each && read >= bytes_each,
            "{written} bytes written, {read} verified, of {bytes_each}"
        );
        assert_eq!(job["error"], 0, "{text}");
    }
}

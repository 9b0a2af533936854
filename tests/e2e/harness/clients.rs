//! NBD clients that others wrote: libnbd's, QEMU's, fio.

use super::tools::{output, run, tool};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

/// What `nbdinfo` finds out about an export.
pub(crate) fn nbdinfo(uri: &str) -> Value {
    let text = run(tool("nbdinfo").args(["--json", uri]));
    let mut value: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("nbdinfo printed {text:?}: {error}"));
    value["exports"][0].take()
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

/// Writes with `fio` at random and reads back what it wrote: `jobs` clients with parts of their own, `loops` times.
pub(crate) fn fio_verify(uri: &str, folder: &Path, jobs: u64, bytes_each: u64, loops: u32) {
    let mut command = tool("fio");
    command.current_dir(folder).args(["--name=verify", "--ioengine=nbd", "--rw=randwrite", "--iodepth=16"]);
    command.args(["--bsrange=512-64k", "--blockalign=512", "--fsync=64"]);
    command.args(["--verify=crc32c", "--do_verify=1", "--verify_fatal=1"]);
    command.arg(format!("--uri={uri}")).arg(format!("--numjobs={jobs}")).arg(format!("--loops={loops}"));
    command.arg(format!("--size={bytes_each}")).arg(format!("--offset_increment={bytes_each}"));
    run(&mut command);
}

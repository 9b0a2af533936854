//! What is run: one row a step.

use crate::{packages, peers, seeds};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// One step of a run.
pub(crate) struct Step {
    /// As typed.
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) heading: &'static str,
    pub(crate) work: Work,
}

/// What a step does.
pub(crate) enum Work {
    /// Cargo with these arguments, and these variables where they are not set already.
    Cargo { arguments: &'static [&'static str], environment: &'static [(&'static str, &'static str)] },
    /// `cargo test` of `tests/NAME/main.rs` or `tests/NAME.rs`, with these variables as above. A target that is not there
    /// fails the step: a test that is not run must not look like one that passed.
    Target { target: &'static str, release: bool, environment: &'static [(&'static str, &'static str)] },
    /// Rust code of this program.
    Function(fn() -> Result<()>),
}

const fn cargo(name: &'static str, heading: &'static str, arguments: &'static [&'static str]) -> Step {
    Step { name, heading, work: Work::Cargo { arguments, environment: &[] } }
}

const fn target(name: &'static str, heading: &'static str, release: bool) -> Step {
    Step { name, heading, work: Work::Target { target: name, release, environment: &[] } }
}

const FUZZ_MANIFEST: &str = "fuzz/Cargo.toml";

/// Looks at the fuzz targets with the toolchain at hand and without libFuzzer, which would need a C++ compiler; the folder
/// is the workspace's own, since most dependencies are there already.
const FUZZ_CLIPPY: &[&str] = &[
    "clippy",
    "--manifest-path",
    FUZZ_MANIFEST,
    "--target-dir",
    "target",
    "--no-default-features",
    "--all-targets",
    "--locked",
    "--",
    "-D",
    "warnings",
];

/// Comes first: whatever needs a program finds it there.
const PACKAGES: Step =
    Step { name: "packages", heading: "programs that the tests use", work: Work::Function(packages::install) };

/// Before a change goes in. The last step's summary is the last thing printed.
pub(crate) const TEST: &[Step] = &[
    PACKAGES,
    cargo("fmt", "the layout of the code", &["fmt", "--all", "--check"]),
    cargo(
        "clippy",
        "lints, warnings denied",
        &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
    ),
    cargo(
        "mutants-clippy",
        "lints of the code with planted bugs, which nothing else of this run compiles",
        &["clippy", "--all-targets", "--features", "mutants", "--locked", "--", "-D", "warnings"],
    ),
    cargo("fuzz-fmt", "the layout of the fuzz targets", &["fmt", "--manifest-path", FUZZ_MANIFEST, "--check"]),
    cargo("fuzz-clippy", "lints of the fuzz targets, which are a workspace of their own", FUZZ_CLIPPY),
    Step {
        name: "doc",
        heading: "documentation, warnings denied",
        work: Work::Cargo {
            arguments: &["doc", "--workspace", "--no-deps", "--locked"],
            environment: &[("RUSTDOCFLAGS", "-Dwarnings")],
        },
    },
    target("tidy", "layers, pure folders, words, sizes", false),
    cargo("unit", "tests beside the code", &["test", "--workspace", "--locked", "--lib", "--bins"]),
    target("golden", "exact bytes and text", false),
    target("sim", "seeded worlds and their invariants", true),
    INTEROP,
    target("e2e", "real daemons, real clients", true),
];

/// Pairs with a kernel's node.
const INTEROP: Step = target("interop", "pairs of ours and the kernel's DRBD, in an emulated machine", true);

/// What `cargo xtask interop` runs.
pub(crate) const INTEROP_ONLY: &[Step] = &[PACKAGES, INTEROP];

/// The long runs. Counts are taken from the environment where it has them.
pub(crate) const FULL: &[Step] = &[
    PACKAGES,
    Step {
        name: "sim",
        heading: "many seeded worlds (SHIMAI_SIM_SEEDS)",
        work: Work::Target {
            target: "sim",
            release: true,
            environment: &[("SHIMAI_SIM_SEEDS", "20000"), ("RUST_TEST_NOCAPTURE", "1")],
        },
    },
    Step {
        name: "mutants",
        heading: "planted bugs that the simulator must find, each within its budget of seeds",
        work: Work::Cargo {
            arguments: &[
                "test",
                "--locked",
                "--release",
                "--features",
                "mutants",
                "--test",
                "sim",
                "every_planted_bug_is_found",
                "--",
                "--nocapture",
            ],
            environment: &[],
        },
    },
    Step {
        name: "e2e",
        heading: "real daemons, many rounds (SHIMAI_E2E_ROUNDS)",
        work: Work::Target { target: "e2e", release: true, environment: &[("SHIMAI_E2E_ROUNDS", "20")] },
    },
    Step {
        name: "interop",
        heading: "pairs with the kernel's DRBD, an hour of everything at random (SHIMAI_INTEROP_SECONDS)",
        work: Work::Target { target: "interop", release: true, environment: &[("SHIMAI_INTEROP_SECONDS", "3600")] },
    },
    Step {
        name: "fuzz",
        heading: "every decoder against random bytes (SHIMAI_FUZZ_SECONDS a target)",
        work: Work::Function(fuzz),
    },
    // Last, since they need the network.
    Step { name: "deny", heading: "licences and sources of dependencies", work: Work::Function(deny) },
    Step {
        name: "advisories",
        heading: "known faults of dependencies (from the network)",
        work: Work::Function(advisories),
    },
];

/// The benchmarks.
pub(crate) const BENCH: &[Step] = &[
    PACKAGES,
    cargo("criterion", "parts of the product, one at a time", &["bench", "--locked"]),
    Step {
        name: "peers",
        heading: "CPU time of a request, here and in other NBD servers (SHIMAI_PEERS_ROUNDS)",
        work: Work::Function(peers::compare),
    },
];

/// Prints the names of all steps.
pub(crate) fn print() {
    for (command, steps) in [("test", TEST), ("full", FULL), ("bench", BENCH)] {
        for step in steps {
            println!("{command} {:11} {}", step.name, step.heading);
        }
    }
}

fn deny() -> Result<()> {
    ensure_cargo_command("deny")?;
    run(Command::new("cargo").args(["deny", "check", "bans", "licenses", "sources"]))
}

/// Apart from `deny`, since the list is fetched from GitHub and a failure may be the network's.
fn advisories() -> Result<()> {
    ensure_cargo_command("deny")?;
    run(Command::new("cargo").args(["deny", "check", "advisories"]))
}

fn fuzz() -> Result<()> {
    let targets = fuzz_targets(Path::new("fuzz/fuzz_targets"))?;
    packages::install_compiler()?;
    ensure_cargo_command("fuzz")?;
    seeds::write()?;
    let seconds = std::env::var("SHIMAI_FUZZ_SECONDS").unwrap_or_else(|_| "60".into());
    for target in targets {
        println!("-- {target}, {seconds} s");
        let mut command = Command::new("cargo");
        command.args(["fuzz", "run", &target, "--", &format!("-max_total_time={seconds}"), "-max_len=32768"]);
        let dictionary = format!("fuzz/dictionaries/{target}.dict");
        if Path::new(&dictionary).exists() {
            command.arg(format!("-dict={dictionary}"));
        }
        run(command.env("RUSTC_BOOTSTRAP", "1"))?;
    }
    Ok(())
}

fn fuzz_targets(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("there are no fuzz targets in {folder:?}"))?;
    let mut targets = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(stem) = path.file_stem()
        {
            targets.push(stem.to_string_lossy().into_owned());
        }
    }
    targets.sort();
    if targets.is_empty() {
        bail!("there are no fuzz targets in {folder:?}");
    }
    Ok(targets)
}

/// Installs `cargo-NAME` where it is missing.
fn ensure_cargo_command(name: &str) -> Result<()> {
    let is_there = Command::new("cargo").args([name, "--version"]).output().is_ok_and(|output| output.status.success());
    if is_there {
        return Ok(());
    }
    run(Command::new("cargo").args(["install", &format!("cargo-{name}"), "--locked"]))
}

/// Runs a program in the foreground; its failure is ours.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_can_be_named() {
        for steps in [TEST, FULL, BENCH] {
            for (index, step) in steps.iter().enumerate() {
                assert!(steps[..index].iter().all(|other| other.name != step.name), "{} stands twice", step.name);
            }
        }
    }

    #[test]
    fn a_test_run_ends_with_the_test_runners_summary() {
        assert!(matches!(TEST.last(), Some(Step { work: Work::Target { .. }, .. })));
    }

    #[test]
    fn fuzzing_without_targets_is_a_failure() {
        assert!(fuzz_targets(Path::new("no/such/folder")).is_err());
    }
}

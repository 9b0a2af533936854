//! The project's own commands, run as `cargo xtask COMMAND`.
//!
//! Each command is a table of steps (`steps`); a step is a heading, a program and its arguments. `test` stops at the first
//! step that fails and says which one it was; the long runs go on and say in the end which ones failed.

mod packages;
mod peers;
mod run;
mod seeds;
mod steps;

use anyhow::{Result, bail};
use run::AfterFailure;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask test [STEP...]   everything that must hold before a change goes in, or only the named steps
       cargo xtask full [NAME...]   the long runs: more seeds, more rounds, licences, fuzzing
       cargo xtask interop          pairs of ours and the kernel's DRBD
       cargo xtask bench [NAME...]  the benchmarks, and what other servers need for the same
       cargo xtask steps            the names of all steps";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    run::enter_workspace()?;
    match arguments {
        [command, names @ ..] if command == "test" => run::run("test", steps::TEST, names, AfterFailure::Stop),
        [command, names @ ..] if command == "full" => run::run("full", steps::FULL, names, AfterFailure::GoOn),
        [command, names @ ..] if command == "bench" => run::run("bench", steps::BENCH, names, AfterFailure::GoOn),
        [command] if command == "interop" => run::run("interop", steps::INTEROP_ONLY, &[], AfterFailure::Stop),
        [command] if command == "steps" => {
            steps::print();
            Ok(())
        }
        _ => bail!("no such command\n{USAGE}"),
    }
}

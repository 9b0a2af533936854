//! The command line. `shimai daemon …` is `shimaid …`: one file is enough to run both.

use clap::Parser;
use std::process::ExitCode;

use shimai::cli;
use shimai::cli::arguments::Arguments;
use shimai::daemon;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let program = words.next();
    if words.next().is_some_and(|word| word == "daemon") {
        return daemon::run(daemon::Arguments::parse_from(program.into_iter().chain(words)));
    }
    cli::run(&Arguments::parse())
}

//! The daemon.

use clap::Parser;
use std::process::ExitCode;

use shimai::daemon::{Arguments, run};

fn main() -> ExitCode {
    run(Arguments::parse())
}

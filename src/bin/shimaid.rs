//! The daemon.

use std::process::ExitCode;

use shimai::{cli, daemon};

fn main() -> ExitCode {
    cli::parsed(std::env::args_os()).map_or_else(|exit| exit, daemon::run)
}

//! The command line. `shimai daemon …` is `shimaid …`: one file is enough to run both. Called as `drbdadm` or `drbdsetup` it
//! answers as these do.

use std::process::ExitCode;

use shimai::cli::{self, arguments::Arguments};
use shimai::daemon;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let program = words.next();
    if let Some(tool) = program.as_deref().and_then(cli::Tool::named) {
        return tool.run(words);
    }
    if words.next().is_some_and(|word| word == "daemon") {
        return cli::parsed(program.into_iter().chain(words)).map_or_else(|exit| exit, daemon::run);
    }
    cli::parsed(std::env::args_os()).map_or_else(|exit| exit, |arguments: Arguments| cli::run(&arguments))
}

//! Which part of the program does what was typed.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use super::arguments::{Arguments, Command};
use super::client::ClientError;
use super::{administer, bench, configuration, demo, metadata, minor};

/// Exit code: it could not be tried.
const EXIT_EXECUTION: u8 = 20;

/// Exit code: wrong usage. The parser's own would be the one of a configuration that cannot be read.
const EXIT_USAGE: u8 = 1;

/// What was typed; if it asks for help or cannot be understood, that has been said and the exit code is returned.
///
/// # Errors
/// The exit code: zero for help and the version.
pub fn parsed<A: Parser>(words: impl IntoIterator<Item = OsString>) -> Result<A, ExitCode> {
    understood(words).map_err(ExitCode::from)
}

/// As [`parsed`], with the exit code as a number.
pub(super) fn understood<A: Parser>(words: impl IntoIterator<Item = OsString>) -> Result<A, u8> {
    A::try_parse_from(words).map_err(|error| {
        // Who asked may be gone; the exit code is told to who started us.
        let _ = error.print();
        usage_exit(&error)
    })
}

fn usage_exit(error: &clap::Error) -> u8 {
    if error.use_stderr() { EXIT_USAGE } else { 0 }
}

/// Does what was typed.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    ExitCode::from(carry_out(arguments))
}

/// As [`run`], with the exit code as a number.
pub(super) fn carry_out(arguments: &Arguments) -> u8 {
    match perform(arguments) {
        Ok(exit) => exit,
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            eprintln!("shimai: {}", sentence(&error));
            EXIT_EXECUTION
        }
    }
}

/// The error and its causes, without those that it has told already.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if sentence.is_empty() {
            sentence = cause;
        } else if !sentence.contains(&cause) {
            sentence = format!("{sentence}: {cause}");
        }
    }
    sentence
}

fn perform(arguments: &Arguments) -> anyhow::Result<u8> {
    if let Command::RestoreMd(restore) = &arguments.command
        && let Err(exit) = metadata::refuse_two_texts(&arguments.common, restore)
    {
        return Ok(exit);
    }
    let mut arguments = arguments.clone();
    if let Some(target) = arguments.command.target_mut() {
        match minor::named(&arguments.common, target.clone())? {
            Ok(named) => *target = named,
            Err(exit) => return Ok(exit),
        }
    }
    perform_named(&arguments)
}

fn perform_named(arguments: &Arguments) -> anyhow::Result<u8> {
    let common = &arguments.common;
    if let Some(request) = arguments.command.request() {
        let answered = administer::administer(arguments, request);
        let is_alone = match &answered {
            Ok(exit) => exit.is_none(),
            Err(error) => is_unreachable(error),
        };
        return match &arguments.command {
            Command::ShowGi(on) if is_alone => metadata::show_gi(common, &on.target),
            Command::GetGi(on) if is_alone => metadata::get_gi(common, &on.target),
            Command::Outdate(on) if is_alone => metadata::outdate(common, &on.target),
            Command::Why(on) if is_alone => configuration::why_no_daemon(common, &on.target),
            _ => answered.map(|exit| exit.unwrap_or(EXIT_EXECUTION)),
        };
    }
    match &arguments.command {
        Command::Dump(on) => configuration::dump(common, &on.target),
        Command::Lint(on) => configuration::lint(common, &on.target),
        Command::SampleConfig => configuration::sample(),
        Command::CreateMd(create) => metadata::create_md(common, create),
        Command::DumpMd(dump) => metadata::dump_md(common, dump),
        Command::RestoreMd(restore) => metadata::restore_md(common, restore),
        Command::SetGi(set) => metadata::set_gi(common, set),
        Command::WipeMd(forced) => metadata::wipe_md(common, forced),
        Command::ApplyAl(on) => metadata::apply_al(common, &on.target),
        Command::Demo(options) => demo::demo(options),
        Command::Bench(options) => bench::bench(common, options),
        _ => anyhow::bail!("this command has no one to carry it out"),
    }
}

fn is_unreachable(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ClientError::Unreachable { .. }))
}

/// Whoever read our output has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn wrong_usage_is_told_from_a_configuration_that_cannot_be_read() {
        let exit = |line: &str| usage_exit(&Arguments::try_parse_from(line.split(' ')).unwrap_err());
        for line in ["shimai nosuch", "shimai down", "shimai down data/x", "shimai status --nosuch", "shimai"] {
            assert_eq!(exit(line), 1, "{line}");
        }
        for line in ["shimai --help", "shimai --version", "shimai status --help"] {
            assert_eq!(exit(line), 0, "{line}");
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let source = std::io::Error::other("no room");
        let unreachable = ClientError::Unreachable { path: "/x".into(), source };
        let error = Err::<(), _>(unreachable).context("cannot start").unwrap_err();
        let told =
            "cannot start: shimaid does not answer at /x: no room; is it running, and with the same run directory?";
        assert_eq!(sentence(&error), told);
    }
}

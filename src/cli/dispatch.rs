//! Which part of the program does what was typed.

use std::process::ExitCode;

use super::arguments::{Arguments, Command};
use super::client::ClientError;
use super::{administer, bench, configuration, demo, metadata};

/// Exit code: it could not be tried.
const EXIT_EXECUTION: u8 = 20;

/// Does what was typed.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    match perform(arguments) {
        Ok(exit) => ExitCode::from(exit),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shimai: {}", sentence(&error));
            ExitCode::from(EXIT_EXECUTION)
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
    let common = &arguments.common;
    if let Some(request) = arguments.command.request() {
        let answered = administer::administer(arguments, request);
        let is_alone = matches!(&answered, Err(error) if is_unreachable(error));
        return match &arguments.command {
            Command::ShowGi(on) if is_alone => metadata::show_gi(common, &on.target),
            Command::GetGi(on) if is_alone => metadata::get_gi(common, &on.target),
            Command::Outdate(on) if is_alone => metadata::outdate(common, &on.target),
            Command::Why(on) if is_alone => configuration::why_no_daemon(common, &on.target),
            _ => answered,
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
    fn a_cause_is_told_once() {
        let source = std::io::Error::other("no room");
        let unreachable = ClientError::Unreachable { path: "/x".into(), source };
        let error = Err::<(), _>(unreachable).context("cannot start").unwrap_err();
        let told =
            "cannot start: shimaid does not answer at /x: no room; is it running, and with the same run directory?";
        assert_eq!(sentence(&error), told);
    }
}

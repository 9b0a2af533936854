//! Running steps: headings, times, and a clear word about those that fail.

use crate::steps::{Step, Work, run as run_command};
use anyhow::{Context, Result, bail};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Goes to the root of the workspace, wherever the command was typed.
pub(crate) fn enter_workspace() -> Result<()> {
    let own = std::env::var_os("CARGO_MANIFEST_DIR").context("run this as `cargo xtask`")?;
    let root = Path::new(&own).parent().context("xtask is a folder of the workspace")?;
    std::env::set_current_dir(root).with_context(|| format!("cannot enter {}", root.display()))
}

/// What comes after a step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterFailure {
    /// Nothing: the rest would say the same, or nothing anybody trusts.
    Stop,
    /// The rest: each step takes hours and has its own answer. The run fails in the end.
    GoOn,
}

/// Runs all steps, or the named ones in the table's order.
pub(crate) fn run(command: &str, steps: &[Step], names: &[String], after_failure: AfterFailure) -> Result<()> {
    let chosen = choose(steps, names)?;
    let mut times: Vec<(&str, Duration)> = Vec::new();
    let mut failed: Vec<&str> = Vec::new();
    for (index, step) in chosen.iter().enumerate() {
        let is_last = index + 1 == chosen.len();
        if is_last && !times.is_empty() {
            print_times(&times);
        }
        println!("\n== {}: {}", step.name, step.heading);
        std::io::stdout().flush()?;
        let begin = Instant::now();
        let result = perform(&step.work).with_context(|| format!("step `{}` failed", step.name));
        let elapsed = begin.elapsed();
        match result {
            Ok(()) => {
                times.push((step.name, elapsed));
                if !is_last {
                    println!("== {}: passed in {:.1} s", step.name, elapsed.as_secs_f64());
                }
            }
            Err(error) if after_failure == AfterFailure::Stop => {
                return Err(error.context(format!("again: cargo xtask {command} {}", step.name)));
            }
            Err(error) => {
                eprintln!("== {}: {error:#}", step.name);
                failed.push(step.name);
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let names = failed.join(" ");
    bail!("{} of {} steps failed; again: cargo xtask {command} {names}", failed.len(), chosen.len())
}

fn choose<'a>(steps: &'a [Step], names: &[String]) -> Result<Vec<&'a Step>> {
    if let Some(unknown) = names.iter().find(|name| steps.iter().all(|step| step.name != name.as_str())) {
        let known: Vec<&str> = steps.iter().map(|step| step.name).collect();
        bail!("there is no step `{unknown}`; there are: {}", known.join(", "));
    }
    Ok(steps.iter().filter(|step| names.is_empty() || names.iter().any(|name| name == step.name)).collect())
}

/// Printed before the last step, so that the test runner's own summary ends the run.
fn print_times(times: &[(&str, Duration)]) {
    println!("\n== passed so far");
    for (name, time) in times {
        println!("   {name:11} {:8.1} s", time.as_secs_f64());
    }
    let total: Duration = times.iter().map(|(_, time)| *time).sum();
    println!("   {:11} {:8.1} s", "total", total.as_secs_f64());
}

fn perform(work: &Work) -> Result<()> {
    match work {
        Work::Function(function) => function(),
        Work::Cargo { arguments, environment } => run_command(with_defaults(cargo().args(*arguments), environment)),
        Work::Target { target, release, environment } => {
            let folder = format!("tests/{target}/main.rs");
            let file = format!("tests/{target}.rs");
            if !Path::new(&folder).exists() && !Path::new(&file).exists() {
                bail!("there is neither {folder} nor {file}");
            }
            let mut command = cargo();
            command.args(["test", "--locked", "--test", target]);
            if *release {
                command.arg("--release");
            }
            run_command(with_defaults(&mut command, environment))
        }
    }
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Sets the variables that the caller has not set.
fn with_defaults<'a>(command: &'a mut Command, environment: &[(&str, &str)]) -> &'a mut Command {
    for (name, value) in environment {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: &[Step] = &[
        Step { name: "first", heading: "fails", work: Work::Function(|| bail!("no")) },
        Step { name: "second", heading: "passes", work: Work::Function(|| Ok(())) },
        Step { name: "third", heading: "fails, too", work: Work::Function(|| bail!("no")) },
    ];

    fn outcome(names: &[&str], after_failure: AfterFailure) -> String {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        run("all", STEPS, &names, after_failure).map_or_else(|error| format!("{error:#}"), |()| "passed".into())
    }

    #[test]
    fn a_run_that_goes_on_names_all_that_failed() {
        let expected = "2 of 3 steps failed; again: cargo xtask all first third";
        assert_eq!(outcome(&[], AfterFailure::GoOn), expected);
        assert_eq!(outcome(&["second"], AfterFailure::GoOn), "passed");
    }

    #[test]
    fn a_run_that_stops_names_the_first_that_failed() {
        assert_eq!(outcome(&[], AfterFailure::Stop), "again: cargo xtask all first: step `first` failed: no");
        assert!(outcome(&["nothing"], AfterFailure::Stop).contains("there is no step `nothing`"));
    }
}

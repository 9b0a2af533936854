//! Running steps: headings, times, and a clear word about the first that fails.

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

/// Runs all steps, or the named ones in the table's order.
pub(crate) fn run(command: &str, steps: &[Step], names: &[String]) -> Result<()> {
    let chosen = choose(steps, names)?;
    let mut times: Vec<(&str, Duration)> = Vec::new();
    for (index, step) in chosen.iter().enumerate() {
        let is_last = index + 1 == chosen.len();
        if is_last && !times.is_empty() {
            print_times(&times);
        }
        println!("\n== {}: {}", step.name, step.heading);
        std::io::stdout().flush()?;
        let begin = Instant::now();
        perform(&step.work)
            .with_context(|| format!("step `{0}` failed; again: cargo xtask {command} {0}", step.name))?;
        let elapsed = begin.elapsed();
        times.push((step.name, elapsed));
        if !is_last {
            println!("== {}: passed in {:.1} s", step.name, elapsed.as_secs_f64());
        }
    }
    Ok(())
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

//! The configuration file, for what is done without the daemon.

use std::io::Write;
use std::path::Path;

use anyhow::Context;

use super::arguments::{Common, Target};
use crate::config::{Config, ConfigError, Files, ResolveError, Resource, Unreadable};
use crate::io::files;

/// Where DRBD's tools look, in their order.
const DEFAULT_FILES: [&str; 6] = [
    "/etc/drbd-90.conf",
    "/etc/drbd-84.conf",
    "/etc/drbd-83.conf",
    "/etc/drbd-82.conf",
    "/etc/drbd-08.conf",
    "/etc/drbd.conf",
];
/// Exit code: an unknown resource.
const EXIT_USAGE: u8 = 1;
/// Exit code: the configuration cannot be used.
const EXIT_SYNTAX: u8 = 2;
/// Exit code: nothing to talk to.
const EXIT_EXECUTION: u8 = 20;

struct OnDisk;

impl Files for OnDisk {
    fn read(&self, path: &str) -> Result<Vec<u8>, Unreadable> {
        files::read(path).map_err(|error| Unreadable(error.to_string()))
    }

    fn glob(&self, pattern: &str) -> Vec<String> {
        files::glob(pattern)
    }

    fn canonical(&self, path: &str) -> String {
        files::canonical(path)
    }
}

/// Reads the configuration; its mistakes go to standard error, and become an exit code.
pub(super) fn load(common: &Common) -> Result<Config, u8> {
    read(common).map_err(|errors| {
        errors.iter().for_each(|error| eprintln!("{error}"));
        EXIT_SYNTAX
    })
}

fn read(common: &Common) -> Result<Config, Vec<ConfigError>> {
    let path = match &common.config {
        Some(path) => path.to_string_lossy().into_owned(),
        None => DEFAULT_FILES.iter().find(|path| Path::new(path).exists()).unwrap_or(&DEFAULT_FILES[5]).to_string(),
    };
    Config::load(&path, &OnDisk)
}

/// This node's name in the configuration.
pub(super) fn node(common: &Common) -> anyhow::Result<String> {
    match &common.node {
        Some(name) => Ok(name.clone()),
        None => Ok(nix::unistd::gethostname().context("no host name")?.to_string_lossy().into_owned()),
    }
}

/// The resources that are meant, as this node sees them. What cannot be goes to standard error.
pub(super) fn resources(common: &Common, target: &Target) -> anyhow::Result<Result<Vec<Resource>, u8>> {
    let node = node(common)?;
    let config = match load(common) {
        Ok(config) => config,
        Err(exit) => return Ok(Err(exit)),
    };
    let mut found = Vec::new();
    for resource in config.resources() {
        let is_named = target.resource.as_ref() == Some(&resource.name);
        if target.resource.is_some() && !is_named {
            continue;
        }
        match config.resolve(&resource.name, &node) {
            Ok(resource) => found.push(resource),
            Err(ResolveError::NotForThisNode { .. }) if !is_named => {}
            Err(error) => {
                eprintln!("{error}");
                return Ok(Err(EXIT_USAGE));
            }
        }
    }
    if let (Some(name), true) = (&target.resource, found.is_empty()) {
        let error = config.resolve(name, &node).err();
        eprintln!("{}", error.map_or_else(|| format!("there is no resource {name}"), |error| error.to_string()));
        return Ok(Err(EXIT_USAGE));
    }
    Ok(Ok(found))
}

/// `dump`: all of it, or one resource.
pub(super) fn dump(common: &Common, target: &Target) -> anyhow::Result<u8> {
    let node = node(common)?;
    let config = match load(common) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    let text = config.dump(&node);
    let mut out = std::io::stdout().lock();
    let Some(name) = &target.resource else {
        out.write_all(text.as_bytes())?;
        return Ok(0);
    };
    if config.lookup(name).is_none() {
        eprintln!("there is no resource {name} in {}", config.main_file());
        return Ok(EXIT_USAGE);
    }
    out.write_all(section(&text, name).as_bytes())?;
    Ok(0)
}

/// The part of a dump that is about one resource: from its comment to the next one's.
fn section(text: &str, name: &str) -> String {
    const OPENING: &str = "# resource ";
    let mut lines = text.lines().skip_while(|line| {
        let rest = line.strip_prefix(OPENING);
        !rest.is_some_and(|rest| rest.starts_with(&format!("{name} ")) || rest.starts_with(&format!("\"{name}\" ")))
    });
    let first = lines.next().into_iter();
    let rest = lines.take_while(|line| !line.starts_with(OPENING));
    let lines: Vec<&str> = first.chain(rest).collect();
    lines.join("\n").trim_end().to_owned() + "\n"
}

/// `lint`: remarks on standard output; mistakes make the command fail.
pub(super) fn lint(common: &Common, target: &Target) -> anyhow::Result<u8> {
    let config = match load(common) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    if let Err(exit) = resources(common, target)? {
        return Ok(exit);
    }
    let mut out = std::io::stdout().lock();
    for remark in config.lint() {
        writeln!(out, "{remark}")?;
    }
    Ok(0)
}

/// `why` without a daemon to ask.
pub(super) fn why_no_daemon(common: &Common, target: &Target) -> anyhow::Result<u8> {
    let subject = target.resource.as_deref().unwrap_or("all");
    println!("{subject}: no shimaid answers at {}", common.socket().display());
    println!("    rule: a resource runs in the daemon of its node, and with it ends");
    match read(common) {
        Ok(_) => {
            println!("    next: start shimaid --run-dir {} and then: shimai up {subject}", common.run_dir.display())
        }
        Err(errors) => {
            errors.iter().for_each(|error| println!("{subject}: {error}"));
            println!("    rule: nothing is started from a configuration with mistakes\n    next: shimai lint");
        }
    }
    Ok(EXIT_EXECUTION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_of_one_resource_is_its_part_of_the_whole() {
        let text = "# t\n\n# resource a on n: not ignored\n# defined at t:1\nresource a {\n}\n\n# resource ab on n: x\nresource ab {\n}\n";
        assert_eq!(section(text, "a"), "# resource a on n: not ignored\n# defined at t:1\nresource a {\n}\n");
        assert_eq!(section(text, "ab"), "# resource ab on n: x\nresource ab {\n}\n");
    }
}

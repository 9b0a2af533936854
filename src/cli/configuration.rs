//! The configuration file, for what is done without the daemon.

use std::cell::OnceCell;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;

use super::arguments::{Common, Target};
use crate::config::{Config, ConfigError, Files, ResolveError, Resource, Served, Unreadable, default_file};
use crate::engine::PEERS_MAX;
use crate::io::{files, interfaces};
use crate::wire::auth::{DigestAlgorithm, HmacAlgorithm};

/// Exit code: an unknown resource.
const EXIT_USAGE: u8 = 1;
/// Exit code: the configuration has faults.
const EXIT_CONFIGURATION: u8 = 10;
/// Exit code: nothing to talk to.
const EXIT_EXECUTION: u8 = 20;

/// The configuration on standard input.
const STANDARD_INPUT: &str = "-";

/// What came from standard input: it comes once, and a command may look at its configuration twice.
#[derive(Clone, Debug, Default)]
pub(super) struct StandardInput(OnceCell<Result<Vec<u8>, Unreadable>>);

impl StandardInput {
    fn text(&self, read: impl FnOnce() -> io::Result<Vec<u8>>) -> Result<Vec<u8>, Unreadable> {
        self.0.get_or_init(|| read().map_err(|error| Unreadable(error.to_string()))).clone()
    }
}

/// Whether the configuration comes from standard input.
pub(super) fn is_standard_input(common: &Common) -> bool {
    common.config.as_deref().is_some_and(|path| path.as_os_str() == STANDARD_INPUT)
}

struct OnDisk<'a> {
    standard_input: &'a StandardInput,
}

impl Files for OnDisk<'_> {
    fn read(&self, path: &str) -> Result<Vec<u8>, Unreadable> {
        match path {
            STANDARD_INPUT => self.standard_input.text(files::read_standard_input),
            path => files::read(path).map_err(|error| Unreadable(error.to_string())),
        }
    }

    fn glob(&self, pattern: &str) -> Vec<String> {
        files::glob(pattern)
    }

    fn canonical(&self, path: &str) -> String {
        files::canonical(path)
    }
}

/// Reads the configuration; its faults go to standard error, and become an exit code.
pub(super) fn load(common: &Common) -> Result<Config, u8> {
    read(common).map_err(|errors| {
        errors.iter().for_each(|error| eprintln!("{error}"));
        let is_missing = errors.iter().any(ConfigError::is_unreadable_configuration);
        if is_missing { EXIT_EXECUTION } else { EXIT_CONFIGURATION }
    })
}

fn read(common: &Common) -> Result<Config, Vec<ConfigError>> {
    let path = match &common.config {
        Some(path) => path.to_string_lossy().into_owned(),
        None => default_file(|path| Path::new(path).exists()).to_owned(),
    };
    let config = Config::load(&path, &OnDisk { standard_input: &common.standard_input })?;
    // Whoever plays another node has not that one's addresses.
    let addresses = if common.node.is_none() { interfaces::addresses().unwrap_or_default() } else { Vec::new() };
    Ok(config.at(addresses))
}

/// The path of the configuration as the daemon finds it, which runs elsewhere.
pub(super) fn path_for_daemon(path: &Path) -> anyhow::Result<String> {
    if path.as_os_str() == STANDARD_INPUT {
        anyhow::bail!("the daemon reads the configuration itself, and not from our standard input; name a file");
    }
    let path = std::path::absolute(path).with_context(|| format!("cannot name {} to the daemon", path.display()))?;
    Ok(path.to_string_lossy().into_owned())
}

/// This node's name in the configuration.
pub(super) fn node(common: &Common) -> anyhow::Result<String> {
    match &common.node {
        Some(name) => Ok(name.clone()),
        None => Ok(nix::unistd::gethostname().context("no host name")?.to_string_lossy().into_owned()),
    }
}

/// The resources that are meant.
pub(super) struct Meant {
    pub(super) resources: Vec<Resource>,
    /// What has to be exited with because of others that could not be understood; 0 if there are none.
    pub(super) exit: u8,
}

/// The resources that are meant, as this node sees them. What cannot be goes to standard error; among all of them it does
/// not keep the rest from their turn.
pub(super) fn resources(common: &Common, target: &Target) -> anyhow::Result<Result<Meant, u8>> {
    let node = node(common)?;
    Ok(load(common).and_then(|config| meant(&config, &node, target)))
}

fn meant(config: &Config, node: &str, target: &Target) -> Result<Meant, u8> {
    if let Some(name) = &target.resource {
        return match config.resolve(name, node) {
            Ok(resource) => Ok(Meant { resources: vec![resource], exit: 0 }),
            Err(error) => {
                eprintln!("{error}");
                Err(exit_of(&error))
            }
        };
    }
    let mut meant = Meant { resources: Vec::new(), exit: 0 };
    for resource in config.resources() {
        match config.resolve(&resource.name, node) {
            Ok(resource) => meant.resources.push(resource),
            Err(ResolveError::NotForThisNode { .. }) => {}
            Err(error @ ResolveError::Stacked { .. }) => eprintln!("{error}; left out"),
            Err(error) => {
                eprintln!("{error}");
                meant.exit = meant.exit.max(exit_of(&error));
            }
        }
    }
    Ok(meant)
}

fn exit_of(error: &ResolveError) -> u8 {
    match error {
        ResolveError::UnknownResource { .. } | ResolveError::NotForThisNode { .. } => EXIT_USAGE,
        _ => EXIT_CONFIGURATION,
    }
}

/// Refuses a volume where only whole resources can be meant.
fn whole(target: &Target, verb: &str) -> Result<(), u8> {
    let (Some(name), Some(volume)) = (&target.resource, target.volume) else { return Ok(()) };
    eprintln!("{verb} is about whole resources; name {name} without /{volume}");
    Err(EXIT_USAGE)
}

/// `dump`: all of it, or one resource.
pub(super) fn dump(common: &Common, target: &Target) -> anyhow::Result<u8> {
    if let Err(exit) = whole(target, "dump") {
        return Ok(exit);
    }
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

/// `lint`: remarks on standard output; faults make the command fail.
pub(super) fn lint(common: &Common, target: &Target) -> anyhow::Result<u8> {
    if let Err(exit) = whole(target, "lint") {
        return Ok(exit);
    }
    let node = node(common)?;
    let config = match load(common) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    if let Some(name) = target.resource.as_ref().filter(|name| config.lookup(name).is_none()) {
        eprintln!("there is no resource {name} in {}", config.main_file());
        return Ok(EXIT_USAGE);
    }
    let served = Served {
        peers_max: PEERS_MAX,
        macs: HmacAlgorithm::ALL.iter().map(|algorithm| algorithm.name()).collect(),
        digests: DigestAlgorithm::ALL.iter().map(|algorithm| algorithm.name()).collect(),
    };
    let mut out = std::io::stdout().lock();
    for remark in config.lint(target.resource.as_deref(), &served) {
        writeln!(out, "{remark}")?;
    }
    // What this node cannot make sense of is among the remarks already.
    let is_fault = |name: &str| config.resolve(name, &node).is_err_and(|error| error.is_fault());
    let names = config.resources().iter().map(|resource| resource.name.as_str());
    let has_fault = names.filter(|name| target.resource.as_deref().is_none_or(|only| only == *name)).any(is_fault);
    Ok(if has_fault { EXIT_CONFIGURATION } else { 0 })
}

/// `sample-config`: a configuration to begin with.
pub(super) fn sample() -> anyhow::Result<u8> {
    std::io::stdout().write_all(Config::sample_file().as_bytes())?;
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
    fn standard_input_is_read_once() {
        let input = StandardInput::default();
        assert_eq!(input.text(|| Ok(b"global {}".to_vec())).unwrap(), b"global {}");
        assert_eq!(input.text(|| unreachable!("it is at its end")).unwrap(), b"global {}");
    }

    #[test]
    fn a_dump_of_one_resource_is_its_part_of_the_whole() {
        let text = "# t\n\n# resource a on n: not ignored\n# defined at t:1\nresource a {\n}\n\n# resource ab on n: x\nresource ab {\n}\n";
        assert_eq!(section(text, "a"), "# resource a on n: not ignored\n# defined at t:1\nresource a {\n}\n");
        assert_eq!(section(text, "ab"), "# resource ab on n: x\nresource ab {\n}\n");
    }
}

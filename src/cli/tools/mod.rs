//! The program under the names of DRBD's own tools: what monitoring and cluster agents call, answered by the daemon.
//!
//! A command line of `drbdadm` or `drbdsetup` is translated into command lines of `shimai` ([`Asked::Commands`]), or is a
//! question about the configuration (`shell`). What these tools do to the kernel's module has no counterpart and is
//! refused.

mod drbdadm;
mod drbdsetup;
mod shell;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use super::arguments::Arguments;
use super::dispatch::{carry_out, understood};

/// One of DRBD's tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Which reads the configuration.
    Drbdadm,
    /// Which does not, and names minors and peers by number.
    Drbdsetup,
}

impl Tool {
    /// The tool that the program was called as, whatever folder it is in.
    #[must_use]
    pub fn named(program: &OsStr) -> Option<Self> {
        match Path::new(program).file_name()?.to_str()? {
            "drbdadm" => Some(Self::Drbdadm),
            "drbdsetup" => Some(Self::Drbdsetup),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Drbdadm => "drbdadm",
            Self::Drbdsetup => "drbdsetup",
        }
    }

    /// Does what was typed, without the program's name.
    #[must_use]
    pub fn run(self, words: impl IntoIterator<Item = OsString>) -> ExitCode {
        let words: Vec<String> = words.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let asked = match self {
            Self::Drbdadm => drbdadm::understood(&words),
            Self::Drbdsetup => drbdsetup::understood(&words),
        };
        match asked.and_then(Asked::done) {
            Ok(exit) => ExitCode::from(exit),
            Err(Complaint { sentence, exit }) => {
                if !sentence.is_empty() {
                    eprintln!("{}: {sentence}", self.name());
                }
                ExitCode::from(exit)
            }
        }
    }
}

/// What a command line means.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Commands of `shimai`, without its name, each about one target; the highest exit code counts.
    Commands(Vec<Vec<String>>),
    /// As before, of a resource that must have a peer with this node id.
    OfPeer { peer: u8, resource: String, common: Vec<String>, command: Vec<String> },
    /// About the configuration.
    Shell { query: shell::Query, common: Vec<String>, targets: Vec<String> },
    /// This text.
    Text(String),
}

impl Asked {
    fn done(self) -> Result<u8, Complaint> {
        match self {
            Self::Commands(commands) => Ok(commands.into_iter().map(shimai).max().unwrap_or(0)),
            Self::OfPeer { peer, resource, common, command } => {
                shell::has_peer(&arguments(common)?.common, &resource, peer)?;
                Ok(shimai(command))
            }
            Self::Shell { query, common, targets } => shell::answer(&arguments(common)?.common, query, &targets),
            Self::Text(text) => {
                print!("{text}");
                Ok(0)
            }
        }
    }
}

/// Does what `shimai` would do with these words; its exit code.
fn shimai(words: Vec<String>) -> u8 {
    understood(full(words)).map_or_else(|exit| exit, |arguments: Arguments| carry_out(&arguments))
}

/// What `shimai` takes from common options and the environment, whatever the command.
fn arguments(common: Vec<String>) -> Result<Arguments, Complaint> {
    let words = full(common.into_iter().chain(["sample-config".to_owned()]).collect());
    understood(words).map_err(|exit| Complaint { sentence: String::new(), exit })
}

fn full(words: Vec<String>) -> impl Iterator<Item = OsString> {
    ["shimai".to_owned()].into_iter().chain(words).map(OsString::from)
}

/// Why nothing, or nothing more, is done.
#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    /// Empty if it has been said.
    sentence: String,
    exit: u8,
}

/// An option as it was typed: its name without dashes and what was written behind `=`.
fn option(word: &str) -> Option<(&str, Option<&str>)> {
    let name = word.strip_prefix("--").filter(|name| !name.is_empty())?;
    Some(name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value))))
}

/// Options of `shimai` that it has under every name, each with a value.
const OWN_OPTIONS: [&str; 3] = ["node", "run-dir", "timeout"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides_wherever_it_is() {
        for (program, expected) in [
            ("drbdadm", Some(Tool::Drbdadm)),
            ("/usr/sbin/drbdsetup", Some(Tool::Drbdsetup)),
            ("shimai", None),
            ("drbdmeta", None),
            ("drbdadm/shimai", None),
            ("", None),
        ] {
            assert_eq!(Tool::named(OsStr::new(program)), expected, "{program}");
        }
    }
}

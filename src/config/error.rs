//! What is wrong with a configuration, and where. Display is one sentence that begins with the place.

use std::fmt;
use std::sync::Arc;

/// A place in a file; lines and columns begin at 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file as it was named.
    pub file: Arc<str>,
    /// Its line.
    pub line: u32,
    /// The column, counted in characters.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One fault of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
    /// What is wrong there.
    pub kind: Box<ConfigErrorKind>,
}

impl ConfigError {
    /// The fault `kind` at `place`.
    #[must_use]
    pub fn new(place: &Place, kind: ConfigErrorKind) -> Self {
        Self { file: place.file.to_string(), line: place.line, column: place.column, kind: Box::new(kind) }
    }
}

impl ConfigError {
    /// Whether the configuration itself cannot be read: not a fault in it, but none at all.
    #[must_use]
    pub fn is_unreadable_configuration(&self) -> bool {
        matches!(&*self.kind, ConfigErrorKind::Unreadable { path, .. } if *path == self.file)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.kind {
            // There is no place in a file that is not there.
            ConfigErrorKind::Unreadable { path, reason } if *path == self.file => {
                write!(f, "cannot read the configuration {path}: {reason}")
            }
            kind => write!(f, "{}:{}:{}: {kind}", self.file, self.line, self.column),
        }
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigErrorKind {
    /// A file cannot be read.
    #[error("cannot read {path:?}: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// Includes within includes.
    #[error("includes are nested deeper than {limit} files")]
    IncludeDepth {
        /// How deep they may be.
        limit: u32,
    },
    /// A character the language does not know.
    #[error("unexpected character {0:?}; put values that need it in double quotes")]
    StrayCharacter(char),
    /// A quoted string runs over the end of its line.
    #[error("the quoted string does not end on its line")]
    OpenString,
    /// Bytes that are no text.
    #[error("the quoted string is not UTF-8")]
    NotText,
    /// A word or string beyond the language's limits.
    #[error("the {what} is longer than {limit} characters")]
    TooLong {
        /// `word` or `quoted string`.
        what: &'static str,
        /// How long it may be.
        limit: usize,
    },
    /// Something else should stand here.
    #[error("expected {expected}, found {found}")]
    Expected {
        /// What may stand here.
        expected: String,
        /// What does.
        found: String,
    },
    /// A name that is no option or section here.
    #[error("unknown name {name:?} in {section}{}", Suggestion(.nearest))]
    UnknownName {
        /// The name.
        name: String,
        /// Where it stands.
        section: String,
        /// What was probably meant.
        nearest: Option<String>,
    },
    /// An option of another section.
    #[error("{option} does not belong in {found_in}; it belongs in section {sections}")]
    Misplaced {
        /// The option.
        option: String,
        /// Where it stands.
        found_in: String,
        /// Where it belongs.
        sections: String,
    },
    /// `no-` before an option that is not yes or no.
    #[error("there is no \"no-{option}\": {option} is not switched on and off, it takes {allowed}")]
    NotNegatable {
        /// The option.
        option: String,
        /// What it takes.
        allowed: String,
    },
    /// Not one of the words an option takes.
    #[error("{option} cannot be {value:?}; allowed values are {allowed}")]
    NotAllowed {
        /// The option.
        option: String,
        /// What was given.
        value: String,
        /// What it takes.
        allowed: String,
    },
    /// Not a number.
    #[error("{option} cannot be {value:?}; it takes a number from {range}")]
    NotANumber {
        /// The option.
        option: String,
        /// What was given.
        value: String,
        /// What it takes.
        range: String,
    },
    /// A number beyond its limits.
    #[error("{option} {value} is out of range; it takes a number from {range}")]
    OutOfRange {
        /// The option.
        option: String,
        /// What was given.
        value: String,
        /// What it takes.
        range: String,
    },
    /// Something stands twice.
    #[error("{what} is given twice; first at {first}")]
    Twice {
        /// What.
        what: String,
        /// Where first.
        first: Place,
    },
    /// Two things use what only one may use.
    #[error("{what} of {user} is already used by {other} at {first}")]
    InUse {
        /// The device, disk, address or minor.
        what: String,
        /// Who uses it here.
        user: String,
        /// Who used it first.
        other: String,
        /// Where.
        first: Place,
    },
    /// Something a section needs is not there.
    #[error("{owner} has no {what}")]
    Missing {
        /// The section.
        owner: String,
        /// What it lacks.
        what: String,
    },
    /// A name that refers to nothing.
    #[error("{owner} names {name:?}, which is no {what}")]
    Dangling {
        /// The section.
        owner: String,
        /// The name.
        name: String,
        /// What it should be.
        what: &'static str,
    },
    /// A rule of the language beyond single values.
    #[error("{0}")]
    Rule(&'static str),
    /// Volumes on one host and not on another.
    #[error("host {host} of resource {resource} has no volume {volume}, host {other} has")]
    VolumeMissing {
        /// The resource.
        resource: String,
        /// Who lacks it.
        host: String,
        /// The volume.
        volume: u16,
        /// Who has it.
        other: String,
    },
}

/// `; did you mean "x"?`, or nothing.
struct Suggestion<'a>(&'a Option<String>);

impl fmt::Display for Suggestion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, "; did you mean {name:?}?"),
            None => Ok(()),
        }
    }
}

/// Why a resource has no meaning on a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// No such resource.
    #[error("resource {name:?} is not defined; the configuration defines {}", list(.defined))]
    UnknownResource {
        /// The name asked for.
        name: String,
        /// The names there are.
        defined: Vec<String>,
    },
    /// The resource is for other nodes.
    #[error("resource {name:?} is not for node {node:?}; it names {}", list(.hosts))]
    NotForThisNode {
        /// The resource.
        name: String,
        /// This node.
        node: String,
        /// The hosts it names.
        hosts: Vec<String>,
    },
    /// Hosts without node ids.
    #[error("resource {name:?} needs a node-id for host {host:?}: only two hosts can do without")]
    NodeIdMissing {
        /// The resource.
        name: String,
        /// The host.
        host: String,
    },
    /// A host without an address for a connection.
    #[error("resource {name:?} has no address for host {host:?}")]
    AddressMissing {
        /// The resource.
        name: String,
        /// The host.
        host: String,
    },
    /// A volume without minor or disk.
    #[error("volume {volume} of resource {name:?} has no {what} on host {host:?}")]
    VolumeIncomplete {
        /// The resource.
        name: String,
        /// The volume.
        volume: u16,
        /// What it lacks.
        what: &'static str,
        /// The host.
        host: String,
    },
    /// More than two hosts, and nothing says who replicates with whom.
    #[error(
        "resource {name:?} has {} hosts ({}) and no connection between them; write connection sections or a connection-mesh",
        .hosts.len(), list(.hosts)
    )]
    Unconnected {
        /// The resource.
        name: String,
        /// Its hosts.
        hosts: Vec<String>,
    },
    /// Both hosts hash alike, so no order follows.
    #[error("resource {name:?}: node ids cannot be derived from these addresses; write node-id in both hosts")]
    NodeIdsUndecided {
        /// The resource.
        name: String,
    },
    /// Stacked resources are read and printed, not served.
    #[error("resource {name:?} is stacked on {lower:?}, which is not served")]
    Stacked {
        /// The resource.
        name: String,
        /// The resource below.
        lower: String,
    },
}

impl ResolveError {
    /// Whether the configuration is at fault, and not whoever asked for this resource on this node.
    #[must_use]
    pub const fn is_fault(&self) -> bool {
        !matches!(self, Self::UnknownResource { .. } | Self::NotForThisNode { .. } | Self::Stacked { .. })
    }
}

/// Names in a sentence.
fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

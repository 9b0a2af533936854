//! Requests of an operator and answers to them.

use super::names::{self, Named};
use super::refusal::{ConfigurationRefusal, StateRefusal};
use super::status::ResourceStatus;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// One row a verb: variant, name as typed. Gives the enum, its names and serde by name.
macro_rules! verbs {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)+) => {
        /// What the operator asks for, named as typed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Verb { $($(#[$doc])* $variant,)+ }

        impl Verb {
            /// Every verb.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name as typed on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

verbs! {
    /// Configure, attach and connect.
    Up "up",
    /// Disconnect, detach and forget.
    Down "down",
    /// Take the backing disk into use.
    Attach "attach",
    /// Let the backing disk go.
    Detach "detach",
    /// Look for the peer.
    Connect "connect",
    /// Leave the peer.
    Disconnect "disconnect",
    /// May write from now on.
    Primary "primary",
    /// May not write any more.
    Secondary "secondary",
    /// Our data is worth nothing: full sync from the peer.
    Invalidate "invalidate",
    /// The peer's data is worth nothing: full sync to it.
    InvalidateRemote "invalidate-remote",
    /// Our data is older than another copy.
    Outdate "outdate",
    /// Hold the resync.
    PauseSync "pause-sync",
    /// Let the resync go on.
    ResumeSync "resume-sync",
    /// Hold the application's requests.
    SuspendIo "suspend-io",
    /// Let the application's requests go on.
    ResumeIo "resume-io",
    /// Begin a new data generation.
    NewCurrentUuid "new-current-uuid",
    /// Begin an online verify.
    Verify "verify",
    /// Take a changed size of the backing disks into use.
    Resize "resize",
    /// Wait until connected.
    WaitConnect "wait-connect",
    /// Wait until connected and both disks are current.
    WaitSync "wait-sync",
    /// Print `Local/Peer` roles.
    Role "role",
    /// Print the connection state.
    CState "cstate",
    /// Print `Local/Peer` disk states.
    DState "dstate",
    /// The whole state as values.
    Status "status",
    /// Generation identifiers with an explanation.
    ShowGi "show-gi",
    /// Generation identifiers on one line.
    GetGi "get-gi",
    /// What `adjust` would do, as commands.
    AdjustPlan "adjust-plan",
    /// Bring what runs in line with the configuration.
    Adjust "adjust",
    /// What state a resource is in, why, and which command helps.
    Why "why",
    /// State changes as they happen, one line each.
    Events "events",
    /// The daemon's version.
    Version "version",
    /// Bring everything down and end the daemon.
    Shutdown "shutdown",
}

impl Named for Verb {
    const WHAT: &'static str = "verb";

    fn all() -> &'static [Self] {
        Self::ALL
    }

    fn name(self) -> &'static str {
        Verb::name(self)
    }
}

impl Verb {
    /// Whether the verb waits for something that has no bound of its own, so that a caller must not add one.
    #[must_use]
    pub const fn waits(self) -> bool {
        matches!(self, Self::WaitConnect | Self::WaitSync | Self::Events)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Verb {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        names::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Verb {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        names::deserialize(deserializer)
    }
}

/// One line from the CLI to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Chosen by the asker; appears in the daemon's log.
    #[serde(default)]
    pub id: u64,
    /// What to do.
    pub verb: Verb,
    /// To which resource; all of them where the verb allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// To which volume; all of the resource's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<u16>,
    /// How.
    #[serde(default, skip_serializing_if = "Options::is_default")]
    pub options: Options,
}

impl Request {
    /// A request without options for one resource, or for none.
    #[must_use]
    pub fn new(verb: Verb, resource: Option<&str>) -> Self {
        Self { id: 0, verb, resource: resource.map(str::to_owned), volume: None, options: Options::default() }
    }
}

/// The options of all verbs; a verb ignores none silently: the daemon refuses one that the verb does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// `primary`, `detach`, `disconnect`: although it may lose data, or without the peer's word.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// `connect`: in a split brain, take the peer's data.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub discard_my_data: bool,
    /// `new-current-uuid`: declare both disks equal.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub clear_bitmap: bool,
    /// `resize`: do not resync what was added.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub assume_clean: bool,
    /// `verify`: the first sector; where the last verify stopped if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_sector: Option<u64>,
    /// `verify`: the sector behind the last; the end of the volume if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_sector: Option<u64>,
    /// `events`: end after the initial dump.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub now: bool,
    /// `events`: with counters.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub statistics: bool,
    /// `events`: each line begins with the time.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub timestamps: bool,
    /// `events`: a change tells everything, not only what has changed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
    /// How long the asker wants to wait; then the daemon gives up, and says for what it waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// `up`, `adjust`, `adjust-plan`: read this file instead of the daemon's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

impl Options {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// One line from the daemon to the CLI.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Response {
    /// The request was carried out. Ends the answer.
    Done {
        /// What there is to say about it; usually nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sentence: Option<String>,
    },
    /// It takes a while; where it stands.
    Progress {
        /// What is being done or waited for.
        sentence: String,
        /// How much of it is done, 0 to 100.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        percent: Option<f64>,
        /// How fast it goes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rate_bytes_per_s: Option<u64>,
        /// How long it will take at that rate.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds_left: Option<u64>,
    },
    /// DRBD's rules do not allow it. Ends the answer.
    Refused {
        /// DRBD's number for the reason, negative.
        code: i32,
        /// What the command exits with.
        exit: i32,
        /// The reason in words.
        sentence: String,
        /// The command that helps, without the program's name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    },
    /// It was tried, or could not be. Ends the answer.
    Failed {
        /// DRBD's number for the reason (above 100), where it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<i32>,
        /// What the command exits with.
        exit: i32,
        /// What failed, with its cause.
        sentence: String,
        /// The command that helps, without the program's name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    },
    /// The answer to `status`.
    Status(Vec<ResourceStatus>),
    /// Lines for standard output, without a line feed at the end.
    Text(String),
}

impl Response {
    /// Done, with nothing to say.
    #[must_use]
    pub const fn done() -> Self {
        Self::Done { sentence: None }
    }

    /// A refused state change with DRBD's text for it.
    #[must_use]
    pub fn refused(refusal: StateRefusal, next: Option<String>) -> Self {
        Self::refused_because(refusal, refusal.text(), next)
    }

    /// A refused state change with a sentence that knows more than DRBD's text.
    #[must_use]
    pub fn refused_because(refusal: StateRefusal, sentence: impl Into<String>, next: Option<String>) -> Self {
        Self::Refused { code: refusal.number(), exit: refusal.exit_code(), sentence: sentence.into(), next }
    }

    /// A configuration step that failed with one of DRBD's numbers.
    #[must_use]
    pub fn misconfigured(refusal: ConfigurationRefusal, sentence: impl Into<String>, next: Option<String>) -> Self {
        Self::Failed { code: Some(refusal.number()), exit: refusal.exit_code(), sentence: sentence.into(), next }
    }

    /// What a failed answer has to say, as DRBD's tools say it; `None` for any other line.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        match self {
            Self::Refused { code, sentence, .. } => Some(format!("State change failed: ({code}) {sentence}")),
            Self::Failed { code: Some(code), sentence, .. } => Some(format!("Failure: ({code}) {sentence}")),
            Self::Failed { code: None, sentence, .. } => Some(sentence.clone()),
            Self::Done { .. } | Self::Progress { .. } | Self::Status(_) | Self::Text(_) => None,
        }
    }

    /// The same failure, its sentence beginning with whom it is about.
    #[must_use]
    pub fn about(mut self, name: &str) -> Self {
        if let Self::Refused { sentence, .. } | Self::Failed { sentence, .. } = &mut self {
            *sentence = format!("{name}: {sentence}");
        }
        self
    }

    /// Whether this line is the last of an answer.
    #[must_use]
    pub const fn ends_answer(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Refused { .. } | Self::Failed { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_name_of_its_own() {
        for (index, verb) in Verb::ALL.iter().enumerate() {
            assert!(Verb::ALL[..index].iter().all(|other| other.name() != verb.name()), "{verb} is there twice");
        }
    }

    #[test]
    fn only_a_verdict_ends_an_answer() {
        assert!(Response::done().ends_answer());
        assert!(Response::refused(StateRefusal::TwoPrimaries, None).ends_answer());
        assert!(!Response::Text("Primary/Secondary".into()).ends_answer());
        assert!(!Response::Status(Vec::new()).ends_answer());
    }
}

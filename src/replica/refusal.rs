//! A refusal as an operator meets it: DRBD's number, a sentence, and the command that helps.

use std::fmt;

use crate::control::refusal::{ConfigurationRefusal, StateRefusal};

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// DRBD's reason.
    pub code: Code,
    /// One sentence that names the facts.
    pub sentence: String,
    /// A command that helps, without the program's name (`connect data`).
    pub next: Option<String>,
}

/// DRBD's two families of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// A state that is not allowed.
    State(StateRefusal),
    /// A configuration step that failed.
    Configuration(ConfigurationRefusal),
}

impl Refusal {
    pub(super) fn state(code: StateRefusal, sentence: impl Into<String>) -> Self {
        Self { code: Code::State(code), sentence: sentence.into(), next: None }
    }

    pub(super) fn configuration(code: ConfigurationRefusal, sentence: impl Into<String>) -> Self {
        Self { code: Code::Configuration(code), sentence: sentence.into(), next: None }
    }

    pub(super) fn next(mut self, command: impl Into<String>) -> Self {
        self.next = Some(command.into());
        self
    }
}

impl From<StateRefusal> for Refusal {
    fn from(code: StateRefusal) -> Self {
        Self::state(code, code.text())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Code::State(code) => write!(f, "State change failed: ({}) {}", code.number(), self.sentence),
            Code::Configuration(code) => write!(f, "Failure: ({}) {}", code.number(), self.sentence),
        }
    }
}

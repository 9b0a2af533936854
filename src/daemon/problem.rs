//! What can go wrong with an operator's request, and how it is answered.

use crate::control::refusal::{ConfigurationRefusal, EXIT_FAILURE};
use crate::control::{Response, Verb};
use crate::engine::EngineError;
use crate::replica::refusal::{Code, Refusal};

use super::identifiers::ReadError;

/// Exit code: wrong usage, an unknown resource.
const EXIT_USAGE: i32 = 1;
/// Exit code of a wait that ended without what it waited for.
const EXIT_WAITED: i32 = 5;
/// Exit code: it could not be tried.
const EXIT_EXECUTION: i32 = 20;

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    /// The machine's rules do not allow it.
    #[error("{0}")]
    Refused(Refusal),
    /// The resource cannot be run or reached.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// There is no configuration to read.
    #[error("{sentence}")]
    NoConfiguration {
        /// Which file, and why.
        sentence: String,
    },
    /// The configuration has faults.
    #[error("{sentence}")]
    Configuration {
        /// Where and why.
        sentence: String,
    },
    /// The configuration says something that is not served.
    #[error("{sentence}")]
    NotServed {
        /// What.
        sentence: String,
    },
    /// There is no such resource or volume.
    #[error("{sentence}")]
    Unknown {
        /// Which one, and which there are.
        sentence: String,
    },
    /// There is no such resource, said in the words of `drbdadm status`.
    #[error("No such resource")]
    NoSuchResource,
    /// The resource is configured and not running.
    #[error("{name} is not up on this node")]
    NotUp {
        /// Which one.
        name: String,
    },
    /// The resource's thread has ended by itself.
    #[error("the thread of {name} has ended unasked, so {name} is served to nobody; the daemon's log says why")]
    Ended {
        /// Which one.
        name: String,
    },
    /// The daemon is about to end.
    #[error("this shimaid is ending and brings nothing up any more")]
    Ending,
    /// What did the work is gone.
    #[error("it was begun and not brought to its end; the daemon's log says why")]
    Interrupted,
    /// Metadata cannot be read.
    #[error(transparent)]
    Metadata(#[from] ReadError),
    /// A system call.
    #[error("cannot {action}: {source}")]
    System {
        /// What was attempted.
        action: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The deadline.
    #[error("gave up after {seconds:.0} s; waited for: {waited_for}")]
    Deadline {
        /// How long.
        seconds: f64,
        /// For what.
        waited_for: String,
        /// Whether it was asked to wait.
        verb: Verb,
    },
    /// Several resources, several answers.
    #[error("{}", told_together(.0))]
    Several(Vec<(String, Problem)>),
}

/// Whether somebody else listens where peers would connect.
fn is_address_in_use(error: &EngineError) -> bool {
    matches!(error, EngineError::Listen(error) if error.is_in_use())
}

/// Each resource's complaint, and below it the command that helps.
fn told_together(problems: &[(String, Problem)]) -> String {
    let mut lines = vec![format!("{} resources failed", problems.len())];
    for (name, problem) in problems {
        let response = problem.response();
        lines.extend(response.complaint().map(|complaint| format!("{name}: {complaint}")));
        if let Response::Refused { next: Some(next), .. } | Response::Failed { next: Some(next), .. } = response {
            lines.push(format!("next: shimai {next}"));
        }
    }
    lines.join("\n")
}

impl Problem {
    /// What went wrong with several resources, if anything did.
    pub(super) fn of_several(problems: Vec<(String, Problem)>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self::Several(problems)) }
    }

    /// The exit code of the command.
    pub(super) fn exit(&self) -> i32 {
        match self {
            Self::Refused(refusal) => match refusal.code {
                Code::State(code) => code.exit_code(),
                Code::Configuration(code) => code.exit_code(),
            },
            Self::Configuration { .. } | Self::NotServed { .. } | Self::NotUp { .. } | Self::NoSuchResource => {
                EXIT_FAILURE
            }
            Self::Engine(error) if is_address_in_use(error) => ConfigurationRefusal::LocalAddressInUse.exit_code(),
            Self::Unknown { .. } | Self::Metadata(_) => EXIT_USAGE,
            Self::Deadline { verb, .. } if verb.waits() => EXIT_WAITED,
            Self::NoConfiguration { .. }
            | Self::Engine(_)
            | Self::System { .. }
            | Self::Deadline { .. }
            | Self::Ended { .. }
            | Self::Ending
            | Self::Interrupted => EXIT_EXECUTION,
            Self::Several(problems) => {
                problems.iter().map(|(_, problem)| problem.exit()).max().unwrap_or(EXIT_EXECUTION)
            }
        }
    }

    /// The line that ends the answer.
    pub(super) fn response(&self) -> Response {
        if let Self::Several(problems) = self
            && let [(name, problem)] = &problems[..]
        {
            return problem.response().about(name);
        }
        let exit = self.exit();
        match self {
            Self::Refused(Refusal { code: Code::State(code), sentence, next }) => {
                Response::refused_because(*code, sentence, next.clone())
            }
            Self::Refused(Refusal { code: Code::Configuration(code), sentence, next }) => {
                Response::misconfigured(*code, sentence, next.clone())
            }
            Self::NotUp { name } => Response::misconfigured(
                ConfigurationRefusal::ResourceUnknown,
                format!("{name} is not up on this node"),
                Some(format!("up {name}")),
            ),
            Self::Ended { name } => {
                Response::Failed { code: None, exit, sentence: self.to_string(), next: Some(format!("up {name}")) }
            }
            Self::Engine(error) if is_address_in_use(error) => {
                Response::misconfigured(ConfigurationRefusal::LocalAddressInUse, self.to_string(), None)
            }
            problem => Response::Failed { code: None, exit, sentence: problem.to_string(), next: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::StateRefusal;

    #[test]
    fn the_highest_exit_code_of_several_resources_counts() {
        let refused = || Problem::Refused(StateRefusal::NoUpToDateDisk.into());
        let not_up = || Problem::NotUp { name: "logs".into() };
        let several = Problem::Several(vec![("logs".into(), not_up()), ("data".into(), refused())]);
        assert_eq!(several.exit(), 17);
        let Response::Failed { sentence, exit: 17, .. } = several.response() else { panic!("several failed") };
        assert_eq!(
            sentence,
            "2 resources failed\nlogs: Failure: (158) logs is not up on this node\nnext: shimai up logs\n\
             data: State change failed: (-2) Need access to UpToDate data"
        );
        let alone = Problem::Several(vec![("data".into(), refused())]).response();
        let Response::Refused { code: -2, exit: 17, sentence, .. } = alone else { panic!("{alone:?}") };
        assert_eq!(sentence, "data: Need access to UpToDate data", "of all resources this one");
    }
}

//! Commands that the daemon carries out: ask, show where it stands, print the answer, exit as DRBD's tools do.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use super::arguments::{Arguments, Command, Events, Status};
use super::client::{ClientError, ask};
use super::configuration::path_for_daemon;
use super::poll::polled;
use super::progress::{Progress, ProgressLine};
use crate::control::refusal::ConfigurationRefusal;
use crate::control::status::{RenderOptions, ResourceStatus, json, proc_drbd, text};
use crate::control::{Request, Response, Verb};
use crate::io::terminal::columns;

/// The daemon's number for a resource that is not up.
const NOT_UP: i32 = ConfigurationRefusal::ResourceUnknown.number();
/// Columns where there is no terminal to ask.
const WIDTH_DEFAULT: usize = 80;

/// Sends the command's request and prints the answer; the exit code. `None`, and nothing is printed, if the resource is not
/// up and the command can do without.
pub fn administer(arguments: &Arguments, mut request: Request) -> anyhow::Result<Option<u8>> {
    let is_offline_too = request.verb == Verb::Outdate && request.resource.is_some();
    if matches!(request.verb, Verb::Up | Verb::Adjust | Verb::AdjustPlan) {
        let path = arguments.common.config.as_deref();
        request.options.config = path.map(path_for_daemon).transpose()?;
    }
    let deadline = arguments.common.deadline(request.verb.waits() && !request.options.now);
    let subject = request.resource.clone().unwrap_or_else(|| "all".into());
    let socket = arguments.common.socket();
    let mut answer = ask(&socket, request.clone(), deadline)?;
    let mut is_down = false;
    let answered: Box<dyn Iterator<Item = Result<Response, ClientError>>> = match &arguments.command {
        Command::Events(Events { poll: true, .. }) => Box::new(polled(socket, request, answer)),
        _ => Box::new(std::iter::from_fn(|| answer.next_response().transpose())),
    };
    let responses = answered.take_while(|response| {
        is_down = is_offline_too && matches!(response, Ok(Response::Failed { code: Some(NOT_UP), .. }));
        !is_down
    });
    let mut page = Page {
        subject,
        rendering: Rendering::of(&arguments.command, width(io::stdout()), io::stdout().is_terminal()),
        out: io::stdout().lock(),
        err: io::stderr().lock(),
        progress: ProgressLine::on_stderr(width(io::stderr())),
    };
    let printed = page.print(responses);
    if is_down { Ok(None) } else { printed.map(Some) }
}

/// How a status is printed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rendering {
    Text(RenderOptions),
    Json,
    ProcDrbd,
}

impl Rendering {
    fn of(command: &Command, width: usize, is_terminal: bool) -> Self {
        match command {
            Command::Proc => Self::ProcDrbd,
            Command::Status(Status { json: true, .. }) => Self::Json,
            Command::Status(status) => Self::Text(RenderOptions {
                verbose: status.verbose,
                statistics: status.statistics,
                width,
                color: status.color == "always" || status.color == "auto" && is_terminal,
            }),
            _ => Self::Text(RenderOptions { width, ..RenderOptions::default() }),
        }
    }

    fn render(self, resources: &[ResourceStatus]) -> String {
        match self {
            Self::Text(options) => text(resources, options),
            Self::Json => json(resources),
            Self::ProcDrbd => proc_drbd(resources),
        }
    }
}

/// Where an answer goes.
struct Page<O, E, P> {
    /// What the command was about, for messages.
    subject: String,
    rendering: Rendering,
    out: O,
    err: E,
    progress: ProgressLine<P>,
}

impl<O: Write, E: Write, P: Write> Page<O, E, P> {
    /// Prints lines until the one that ends the answer.
    fn print(&mut self, responses: impl Iterator<Item = Result<Response, ClientError>>) -> anyhow::Result<u8> {
        for response in responses {
            if !matches!(response, Ok(Response::Progress { .. })) {
                self.progress.clear()?;
            }
            if let Some(exit) = self.print_one(response?)? {
                return Ok(exit);
            }
        }
        anyhow::bail!("shimaid's answer has no end")
    }

    /// Prints one line; the exit code if it ended the answer.
    fn print_one(&mut self, response: Response) -> io::Result<Option<u8>> {
        match response {
            Response::Progress { sentence, percent, rate_bytes_per_s, seconds_left } => {
                self.progress.show(&Progress { sentence: &sentence, percent, rate_bytes_per_s, seconds_left })?;
            }
            Response::Status(resources) => self.out.write_all(self.rendering.render(&resources).as_bytes())?,
            Response::Text(lines) => writeln!(self.out, "{lines}")?,
            Response::Done { sentence } => {
                sentence.map_or(Ok(()), |sentence| writeln!(self.out, "{sentence}"))?;
                self.out.flush()?;
                return Ok(Some(0));
            }
            failure @ (Response::Refused { .. } | Response::Failed { .. }) => return self.end(failure).map(Some),
        }
        self.out.flush()?;
        Ok(None)
    }

    /// Says what failed and names the command that helps. A failure never exits with 0, whatever the daemon says.
    fn end(&mut self, failure: Response) -> io::Result<u8> {
        if let Some(complaint) = failure.complaint() {
            writeln!(self.err, "{}: {complaint}", self.subject)?;
        }
        let (Response::Refused { exit, next, .. } | Response::Failed { exit, next, .. }) = failure else {
            return Ok(1);
        };
        next.map_or(Ok(()), |next| writeln!(self.err, "next: shimai {next}"))?;
        Ok(u8::try_from(exit).ok().filter(|&exit| exit != 0).unwrap_or(1))
    }
}

/// Columns of the terminal: its own word, else what the shell exports.
fn width(terminal: impl AsFd) -> usize {
    let exported = || std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    columns(terminal).or_else(exported).filter(|&columns| columns >= 20).unwrap_or(WIDTH_DEFAULT)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::control::StateRefusal;

    /// Exit code, standard output and standard error.
    fn printed(responses: Vec<Response>) -> (Option<u8>, String, String) {
        let mut page = Page {
            subject: "data".into(),
            rendering: Rendering::Text(RenderOptions::default()),
            out: Vec::new(),
            err: Vec::new(),
            progress: ProgressLine::new(Vec::new(), false, 80),
        };
        let exit = page.print(responses.into_iter().map(Ok)).ok();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("we write text");
        (exit, text(page.out), text(page.err))
    }

    #[test]
    fn a_relative_path_is_meant_from_where_it_was_typed() {
        let here = std::env::current_dir().expect("tests run somewhere");
        assert_eq!(
            path_for_daemon(Path::new("pair.res")).ok(),
            Some(here.join("pair.res").to_string_lossy().into_owned())
        );
        assert_eq!(path_for_daemon(Path::new("/etc/drbd.conf")).ok().as_deref(), Some("/etc/drbd.conf"));
    }

    #[test]
    fn text_goes_out_and_done_is_zero() {
        let answer = printed(vec![Response::Text("Primary/Secondary".into()), Response::done()]);
        assert_eq!(answer, (Some(0), "Primary/Secondary\n".into(), String::new()));
    }

    #[test]
    fn a_refusal_reads_as_drbds_and_names_what_helps() {
        let refusal = Response::refused(StateRefusal::NoUpToDateDisk, Some("connect data".into()));
        let (exit, out, err) = printed(vec![refusal]);
        assert_eq!((exit, out.as_str()), (Some(17), ""));
        assert_eq!(err, "data: State change failed: (-2) Need access to UpToDate data\nnext: shimai connect data\n");
    }

    #[test]
    fn a_failure_never_exits_with_zero() {
        let failed = |exit| vec![Response::Failed { code: None, exit, sentence: "no".into(), next: None }];
        assert_eq!(printed(failed(0)).0, Some(1));
        assert_eq!(printed(failed(256)).0, Some(1));
        assert_eq!(printed(failed(20)).0, Some(20));
    }

    #[test]
    fn an_answer_without_an_end_is_an_error() {
        assert_eq!(printed(vec![Response::Text("Primary".into())]).0, None);
    }
}

//! Programs run with a deadline: agents, handlers, fence programs. Off the data path; blocks the calling thread.
//!
//! The program gets a process group of its own, and at the deadline the whole group is killed, so nothing it started goes
//! on doing half of something behind our back. Output is captured up to a limit; what a background child that outlives
//! the program still writes is not waited for.
//!
//! Nothing runs between fork and exec (no `pre_exec`): the standard library then uses `posix_spawn`, which shares memory
//! with the parent until exec and so cannot disturb pages that the kernel is transferring to or from.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How much of each output stream is kept. Agents print a few lines, metadata some kilobytes.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;

/// How long output is waited for after the program has ended.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 3000 } else { 200 });

/// How often a running program is looked at; the interval grows to this.
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(20);

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A program and its arguments.
    Arguments(Vec<OsString>),
    /// A line for `/bin/sh -c`.
    Shell(String),
}

/// A program with its surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// What is to be run.
    pub program: Program,
    /// Variables that are added to, or if `clear_environment` instead of, our own.
    pub environment: Vec<(OsString, OsString)>,
    /// Whether our own variables are withheld, but for `PATH`.
    pub clear_environment: bool,
    /// Bytes for its standard input.
    pub input: Vec<u8>,
    /// Where it runs, if not where we do.
    pub directory: Option<PathBuf>,
    /// After how long it is killed.
    pub deadline: Duration,
}

impl Command {
    /// A program with arguments, our environment and no input.
    #[must_use]
    pub fn new<A: Into<OsString>>(arguments: impl IntoIterator<Item = A>, deadline: Duration) -> Self {
        Self::of(Program::Arguments(arguments.into_iter().map(Into::into).collect()), deadline)
    }

    /// A line for the shell.
    #[must_use]
    pub fn shell(line: impl Into<String>, deadline: Duration) -> Self {
        Self::of(Program::Shell(line.into()), deadline)
    }

    /// Adds a variable.
    #[must_use]
    pub fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    fn of(program: Program, deadline: Duration) -> Self {
        let (environment, input) = (Vec::new(), Vec::new());
        Self { program, environment, clear_environment: false, input, directory: None, deadline }
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// Killed at the deadline.
    Deadline,
}

/// What a program that ran has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How it ended.
    pub exit: Exit,
    /// What it wrote to its standard output.
    pub output: Vec<u8>,
    /// What it wrote to its standard error.
    pub errors: Vec<u8>,
}

impl Report {
    /// Whether it ended by itself with code 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.exit == Exit::Code(0)
    }
}

/// What can go wrong with running a program at all.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The command has no program.
    #[error("the command is empty")]
    Empty,
    /// It could not be started.
    #[error("{program}: cannot be started: {source}")]
    Start {
        /// Which.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// It could not be watched.
    #[error("{program}: cannot be watched: {source}")]
    Watch {
        /// Which.
        program: String,
        /// Why not.
        source: io::Error,
    },
}

/// Runs a program to its end or to its deadline.
///
/// # Errors
/// It could not be started. A program that fails is no error but a [`Report`].
pub fn run(command: &Command) -> Result<Report, ProcessError> {
    let (mut prepared, program) = prepare(command)?;
    let deadline = super::clock::now() + command.deadline;
    let mut child = match prepared.spawn() {
        Ok(child) => child,
        Err(source) => return Err(ProcessError::Start { program, source }),
    };
    let output = child.stdout.take().map(capture);
    let errors = child.stderr.take().map(capture);
    feed(&mut child, command.input.clone());
    let status = watch(&mut child, deadline).map_err(|source| ProcessError::Watch { program, source })?;
    let exit = match status {
        None => Exit::Deadline,
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, signal) => Exit::Signal(signal.unwrap_or(0)),
        },
    };
    Ok(Report { exit, output: collect(output), errors: collect(errors) })
}

fn prepare(command: &Command) -> Result<(std::process::Command, String), ProcessError> {
    let shell = |line: &String| vec![OsString::from("/bin/sh"), "-c".into(), line.into()];
    let arguments = match &command.program {
        Program::Arguments(arguments) => arguments.clone(),
        Program::Shell(line) => shell(line),
    };
    let (program, rest) = arguments.split_first().ok_or(ProcessError::Empty)?;
    let mut prepared = std::process::Command::new(program);
    prepared.args(rest).process_group(0);
    prepared.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if command.clear_environment {
        prepared.env_clear();
        prepared.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    }
    prepared.envs(command.environment.iter().map(|(name, value)| (name, value)));
    if let Some(directory) = &command.directory {
        prepared.current_dir(directory);
    }
    Ok((prepared, program.to_string_lossy().into_owned()))
}

/// Waits for the child; `None` if it had to be killed.
fn watch(child: &mut Child, deadline: crate::model::time::Instant) -> io::Result<Option<ExitStatus>> {
    let mut interval = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = deadline.since(super::clock::now());
        if left.is_zero() {
            kill_group(child);
            child.wait()?;
            return Ok(None);
        }
        super::clock::pause(interval.min(left));
        interval = (interval * 2).min(POLL_INTERVAL_MAX);
    }
}

fn kill_group(child: &mut Child) {
    // The child has not been waited for, so its number, which is its group's, still is its own.
    if let Ok(process) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(process), Signal::SIGKILL);
    }
    let _ = child.kill();
}

/// Reads a stream on a thread, so that a program is never stopped by a full pipe.
fn capture(stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut stream = stream;
        let mut kept: u64 = 0;
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            let room = usize::try_from(OUTPUT_BYTES_MAX.saturating_sub(kept)).unwrap_or(0);
            let piece = buffer[..count.min(room)].to_vec();
            kept += piece.len() as u64;
            // Nobody listens any more: go on reading, or a background child gets a signal for writing.
            let _ = sender.send(piece);
        }
    });
    receiver
}

fn collect(stream: Option<Receiver<Vec<u8>>>) -> Vec<u8> {
    let mut output = Vec::new();
    let Some(stream) = stream else { return output };
    loop {
        match stream.recv_timeout(OUTPUT_PATIENCE) {
            Ok(piece) => output.extend(piece),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return output,
        }
    }
}

/// Writes the input on a thread of its own: a program may answer before it has read everything, or never read.
fn feed(child: &mut Child, input: Vec<u8>) {
    if let Some(mut stream) = child.stdin.take()
        && !input.is_empty()
    {
        std::thread::spawn(move || stream.write_all(&input));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn output_environment_input_and_code_arrive() {
        let mut command = Command::shell("cat; echo \"$WORD\" >&2; exit 7", LONG).variable("WORD", "hello");
        command.input = b"question".to_vec();
        let report = run(&command).unwrap();
        assert_eq!(report.exit, Exit::Code(7));
        assert_eq!((report.output.as_slice(), report.errors.as_slice()), (&b"question"[..], &b"hello\n"[..]));
        assert!(!report.is_success());
    }

    #[test]
    fn the_whole_group_is_killed_at_the_deadline() {
        let command = Command::shell("sleep 100 & echo $!; wait", Duration::from_secs(10));
        let report = run(&command).unwrap();
        assert_eq!(report.exit, Exit::Deadline);
        let grandchild: i32 = String::from_utf8(report.output).unwrap().trim().parse().unwrap();
        // Gone, or a zombie that waits for init; a busy kernel needs a moment for either.
        let state = || std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_else(|_| ") Z".into());
        let deadline = super::super::clock::now() + LONG;
        while !state().contains(") Z") && super::super::clock::now() < deadline {
            super::super::clock::pause(Duration::from_millis(1));
        }
        assert!(state().contains(") Z"), "{}", state());
    }

    #[test]
    fn much_output_neither_blocks_nor_fills_memory() {
        let report = run(&Command::new(["head", "-c", "3000000", "/dev/zero"], LONG)).unwrap();
        assert!(report.is_success());
        assert_eq!(report.output.len() as u64, OUTPUT_BYTES_MAX);
    }

    #[test]
    fn a_background_child_is_not_waited_for() {
        let began = super::super::clock::now();
        let report = run(&Command::shell("sleep 60 & echo done", LONG)).unwrap();
        assert_eq!(report.output, b"done\n");
        assert!(super::super::clock::now().since(began) < Duration::from_secs(40));
    }

    #[test]
    fn a_missing_program_is_named_and_an_empty_command_refused() {
        let error = run(&Command::new(["/nowhere/agent"], LONG)).unwrap_err();
        assert!(error.to_string().contains("/nowhere/agent"));
        assert!(matches!(run(&Command::new(Vec::<OsString>::new(), LONG)), Err(ProcessError::Empty)));
    }

    #[test]
    fn a_signal_is_told_from_a_code() {
        assert_eq!(run(&Command::shell("kill -TERM $$", LONG)).unwrap().exit, Exit::Signal(15));
    }
}

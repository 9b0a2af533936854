//! The life of the daemon: one in a run directory, from its start to a clean end.

use std::fs::{DirBuilder, File};
use std::io::{IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{AccessFlags, access, getppid};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::arguments::Arguments;
use super::node::{Ending, Node};
use super::operate;
use super::server;
use crate::io::unix;

/// Time for the answer to `shutdown` to reach its asker.
const LAST_ANSWER: Duration = Duration::from_millis(100);

/// Runs the daemon until it is told to end.
#[must_use]
pub fn run(arguments: Arguments) -> ExitCode {
    let filter = EnvFilter::try_from_env("SHIMAI_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Written by a thread of its own: a resource that waited for a slow log would miss its peer's time-outs.
    let (lines, _writer) = tracing_appender::non_blocking(std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines).with_target(false);
    // Whoever read the log may be gone, or its disk full. The subscriber would complain on standard error too, and panic,
    // on whatever thread had something to say.
    let log = log.log_internal_errors(false);
    let _ = log.with_ansi(std::io::stderr().is_terminal()).try_init();
    // A mask is inherited from whoever has started us, and an end that is asked for must be heard.
    let _ = SigSet::all().thread_unblock();
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "shimaid: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What makes this daemon the only one in its run directory; dropping it lets the next one in.
struct Seat {
    _lock: Flock<File>,
    socket: PathBuf,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Takes the lock first, so that the socket that is there can only be a dead daemon's.
fn take_seat(run_dir: &Path) -> anyhow::Result<(Seat, OwnedFd)> {
    std::fs::create_dir_all(run_dir).with_context(|| format!("cannot make the run directory {}", run_dir.display()))?;
    let path = run_dir.join("shimaid.lock");
    let options = File::options().create(true).truncate(false).write(true).read(true).open(&path);
    let file = options.with_context(|| format!("cannot open {}", path.display()))?;
    let Ok(mut lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
        let holder = std::fs::read_to_string(&path).unwrap_or_default();
        bail!(
            "another shimaid (process {}) serves {}; give this one a --run-dir of its own",
            holder.trim(),
            run_dir.display()
        );
    };
    lock.set_len(0)?;
    writeln!(lock, "{}", std::process::id())?;
    let socket = run_dir.join("control.sock");
    let listener = unix::listener(&socket)?;
    Ok((Seat { _lock: lock, socket }, listener))
}

/// Makes the state directory, for us alone, or sees that what is there can be used.
fn prepare_state_dir(path: &Path) -> anyhow::Result<()> {
    let advice = || format!("the state directory {} cannot be used; give another one by --state-dir", path.display());
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(advice)?;
    access(path, AccessFlags::W_OK | AccessFlags::X_OK).with_context(advice)
}

/// Whose parent ends is told to end too, in order.
fn end_with(parent: i32) -> anyhow::Result<()> {
    set_pdeathsig(Signal::SIGTERM).context("cannot follow the parent process")?;
    if getppid().as_raw() != parent {
        bail!("process {parent}, with which this one should end, has ended");
    }
    Ok(())
}

fn serve(arguments: Arguments) -> anyhow::Result<()> {
    arguments.parent.map_or(Ok(()), end_with)?;
    let name = match &arguments.node {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname().context("no host name")?.to_string_lossy().into_owned(),
    };
    let (_seat, listener) = take_seat(&arguments.run_dir)?;
    prepare_state_dir(&arguments.state_dir)?;
    let is_up_wanted = arguments.up;
    tracing::info!("node {name}, run directory {}", arguments.run_dir.display());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control threads")?;
    let node = Arc::new(Node::new(arguments, name));
    if let Err(problem) = node.config(None).and_then(|config| node.configured(&config)) {
        tracing::warn!("nothing can be brought up yet: {problem}");
    }
    runtime.block_on(live(node, listener, is_up_wanted))?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

async fn live(node: Arc<Node>, listener: OwnedFd, is_up_wanted: bool) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut ending = node.ending.subscribe();
    let server = tokio::spawn(server::serve(Arc::clone(&node), listener));
    if is_up_wanted {
        // A disk may not answer, and whoever wants the daemon to end then must be heard.
        tokio::spawn(up_all(Arc::clone(&node)));
    }
    loop {
        tokio::select! {
            _ = terminate.recv() => break tracing::info!("ending: terminated"),
            _ = interrupt.recv() => break tracing::info!("ending: interrupted"),
            _ = ending.wait_for(|ending| *ending != Ending::No) => break tracing::info!("ending: asked to"),
            // The terminal has closed, and those who use the data are not at it.
            _ = hang_up.recv() => tracing::warn!("SIGHUP: serving on; SIGTERM or `shimai shutdown` ends, `shimai adjust` reads \
                                                  the configuration again"),
        }
    }
    node.ending.send_replace(Ending::Begun);
    operate::stop_all(&node).await;
    node.ending.send_replace(Ending::Done);
    tokio::time::sleep(LAST_ANSWER).await;
    server.abort();
    Ok(())
}

async fn up_all(node: Arc<Node>) {
    if let Err(problem) = operate::up_all(&node).await {
        tracing::error!("not everything is up: {problem}");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_state_directory_is_made_for_us_alone_and_may_be_there_already() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        for _ in 0..2 {
            prepare_state_dir(&path).unwrap();
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn a_state_directory_that_cannot_be_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "").unwrap();
        for path in [path.clone(), path.join("below"), "/proc/shimai".into()] {
            let error = format!("{:#}", prepare_state_dir(&path).unwrap_err());
            assert!(error.contains(&path.display().to_string()) && error.contains("--state-dir"), "{error}");
        }
    }
}

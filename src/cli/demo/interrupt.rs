//! Ctrl-C and SIGTERM: the demonstration ends early and still leaves nothing behind.
//!
//! A signal only sets a mark, which the story looks at between its steps and while it waits; then it ends as by an error,
//! and dropping the pair takes everything away. A handler is used and no mask: a mask would be inherited by the daemons,
//! which could not be terminated any more.
//!
//! ```text
//!   signal ──► watcher's thread ──► mark ──► `check` and `pause` fail ──► Pair::drop
//! ```

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

/// How long a person waits at most until a pause notices.
const STEP: Duration = Duration::from_millis(50);
/// No signal has this number.
const NONE: u8 = 0;
/// What a shell adds to the number of a signal that ended a program.
const EXIT_SIGNAL: u8 = 128;

/// Whether somebody has had enough.
#[derive(Clone, Debug)]
pub(super) struct Interrupt {
    signal: Arc<AtomicU8>,
}

/// Somebody has.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

impl Interrupt {
    /// Watches from now on until the program ends.
    pub(super) fn watch() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        drop(guard);
        let mark = Arc::new(AtomicU8::new(NONE));
        let theirs = Arc::clone(&mark);
        std::thread::spawn(move || {
            let kind = runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => SignalKind::interrupt(),
                    _ = terminate.recv() => SignalKind::terminate(),
                }
            });
            theirs.store(u8::try_from(kind.as_raw_value()).unwrap_or(u8::MAX - EXIT_SIGNAL), Ordering::Relaxed);
        });
        Ok(Self { signal: mark })
    }

    /// The exit code of a program that was ended by the signal, once it has come.
    fn exit_code(&self) -> Option<u8> {
        match self.signal.load(Ordering::Relaxed) {
            NONE => None,
            number => Some(EXIT_SIGNAL + number),
        }
    }

    /// As `exit_code`, also if the signal is still on its way to us.
    pub(super) fn exit_code_soon(&self) -> Option<u8> {
        // The pause fails when there is something to be told.
        let _ = self.pause(STEP);
        self.exit_code()
    }

    /// Fails once a signal has come.
    pub(super) fn check(&self) -> Result<(), Interrupted> {
        self.exit_code().map_or(Ok(()), |_| Err(Interrupted))
    }

    /// Lets time pass: for the load to work, or before asking again.
    #[expect(clippy::disallowed_methods, reason = "a demonstration lasts as long as it was asked to")]
    pub(super) fn pause(&self, duration: Duration) -> Result<(), Interrupted> {
        let end = Instant::now() + duration;
        loop {
            self.check()?;
            match end.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Ok(()),
                left => std::thread::sleep(left.min(STEP)),
            }
        }
    }
}

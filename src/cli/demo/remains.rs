//! What a demonstration would leave behind: two daemons and a folder. However it ends, it leaves nothing that it does not
//! name.
//!
//! An interrupt is waited for by a thread of its own, so that it is heard while a command or the load is waited for. That
//! thread takes the lock and never gives it back: nothing is started any more while it clears up.

use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{SigSet, Signal};

/// Interrupts that a person, a shell or an init system sends.
const INTERRUPTS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
/// By what a shell tells that a signal ended a program.
const EXIT_SIGNAL: i32 = 128;

/// Shared by who plays and who waits for an interrupt.
#[derive(Clone, Debug)]
pub(super) struct Remains(Arc<Mutex<Things>>);

/// What is there.
#[derive(Debug)]
pub(super) struct Things {
    /// Both daemons, as far as they run.
    pub(super) processes: [Option<Child>; 2],
    /// All files, unless they are to stay.
    folder: Option<PathBuf>,
}

impl Remains {
    /// Of a demonstration whose files will be in that folder.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self(Arc::new(Mutex::new(Things { processes: [None, None], folder: Some(folder) })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Things> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on an interrupt clears up and ends the program. Programs started later inherit that they do not hear any;
    /// a daemon undoes that.
    pub(super) fn clear_when_interrupted(&self) {
        let signals: SigSet = INTERRUPTS.into_iter().collect();
        if signals.thread_block().is_err() {
            return;
        }
        let remains = self.clone();
        std::thread::spawn(move || {
            let Ok(signal) = signals.wait() else { return };
            let mut things = remains.lock();
            eprintln!("\nshimai: interrupted ({signal}); {}", things.clear());
            std::process::exit(EXIT_SIGNAL + signal as i32);
        });
    }
}

impl Things {
    /// Ends the daemons.
    pub(super) fn kill(&mut self) {
        for mut process in self.processes.iter_mut().filter_map(Option::take) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Ends the daemons and removes the files; what became of them.
    pub(super) fn clear(&mut self) -> String {
        self.kill();
        match self.folder.take() {
            None => "nothing of it was to be cleared up".into(),
            Some(folder) => match std::fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    format!("the daemons have ended; {} cannot be removed: {error}", folder.display())
                }
                _ => format!("the daemons have ended and {} is removed", folder.display()),
            },
        }
    }

    /// The files stay, and so do the daemons that still run.
    pub(super) fn leave(&mut self) {
        self.folder = None;
        // Dropping a child's handle leaves the child alone.
        self.processes = [None, None];
    }
}

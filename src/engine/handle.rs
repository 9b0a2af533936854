//! How the rest of the program reaches a resource's thread: a mailbox of commands, each with a way to answer.
//!
//! An answer is a closure that the resource's thread calls once; it must not block (send into a channel). A message that
//! can no longer be answered is dropped with its closure, so that whoever waits on the other end of a channel wakes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use super::backing::Opened;
use super::resource::ResourceLoop;
use super::specification::ResourceSpec;
use crate::control::status::ResourceStatus;
use crate::io::ring::RingError;
use crate::io::tcp::SocketError;
use crate::io::wake::Mailbox;
use crate::model::ids::{CommandId, HandlerId};
use crate::replica::event::Command;
use crate::replica::refusal::Refusal;

/// Messages that wait for a resource's thread: far more than operators type, few enough to notice a thread that hangs.
const MESSAGES_MAX: usize = 1024;

/// Called once, on the resource's thread, with the outcome of a command.
pub type Answer = Box<dyn FnOnce(Result<(), Refusal>) + Send>;

/// Called once, on the resource's thread, with how the resource looks.
pub type StatusAnswer = Box<dyn FnOnce(ResourceStatus) + Send>;

/// Why a resource cannot be run or reached.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// No listener for clients.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// No listener for peers.
    #[error(transparent)]
    Listen(SocketError),
    /// No thread, no mailbox.
    #[error("cannot {action}: {source}")]
    System {
        /// What was attempted.
        action: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The lists of the specification do not fit each other.
    #[error("{what}: {found} where the settings have {expected}")]
    Mismatch {
        /// Which list.
        what: &'static str,
        /// Its length.
        found: usize,
        /// What it should be.
        expected: usize,
    },
    /// The thread has ended.
    #[error("the resource is not running")]
    NotRunning,
    /// The thread does not read its messages.
    #[error("the resource does not answer: {0} messages wait for it")]
    Busy(usize),
}

/// A message to a resource's thread.
pub(super) enum Control {
    /// For the machine.
    Command { id: CommandId, command: Command, answer: Answer },
    /// Open and lock the volume's backing store, then tell the machine.
    Attach { id: CommandId, volume: usize, answer: Answer },
    /// From the helper that opened a store.
    Opened { id: CommandId, volume: usize, opened: Result<Box<Opened>, Refusal> },
    /// From the thread that ran a handler.
    HandlerEnded { id: HandlerId, exit: Option<u8> },
    /// Who gave this command waits no more.
    GiveUp(CommandId),
    /// How does it look?
    Status(StatusAnswer),
    /// Let clients go, demote, disconnect, detach; then end. Refused: go on.
    StopGracefully(Answer),
    /// End now, as if killed, but with everything in flight waited for.
    StopNow,
}

/// What both sides share.
#[derive(Clone)]
pub(super) struct Post {
    pub(super) mailbox: Mailbox<Control>,
    /// The thread reads no more.
    pub(super) is_closed: Arc<AtomicBool>,
}

impl Post {
    pub(super) fn post(&self, message: Control) -> Result<(), EngineError> {
        self.mailbox.post(message).map_err(|_| EngineError::Busy(MESSAGES_MAX))?;
        if self.is_closed.load(Ordering::SeqCst) {
            self.close();
            return Err(EngineError::NotRunning);
        }
        Ok(())
    }

    /// Nobody reads any more: what is in the box is dropped unanswered.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.mailbox.drain(&mut Vec::new());
    }
}

/// A running resource. Dropping it stops the resource at once.
pub struct ResourceHandle {
    name: String,
    post: Post,
    next_command: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for ResourceHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResourceHandle").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ResourceHandle {
    /// Starts the resource's thread: Secondary, without disk and connection, its addresses taken. Returns when it runs.
    ///
    /// # Errors
    /// No ring, no thread, an address in use, or a specification that contradicts itself.
    pub fn spawn(spec: ResourceSpec) -> Result<Self, EngineError> {
        let mismatch = |what, found, expected| EngineError::Mismatch { what, found, expected };
        if spec.peers.len() != spec.settings.peers.len() {
            return Err(mismatch("addresses of peers", spec.peers.len(), spec.settings.peers.len()));
        }
        if spec.backing.len() != spec.settings.volumes.len() {
            return Err(mismatch("backing paths", spec.backing.len(), spec.settings.volumes.len()));
        }
        let system = |action| move |source| EngineError::System { action, source };
        let mailbox = Mailbox::new(MESSAGES_MAX).map_err(system("make a mailbox"))?;
        let post = Post { mailbox, is_closed: Arc::new(AtomicBool::new(false)) };
        let name = spec.settings.name.clone();
        let (ready, started) = mpsc::channel();
        let theirs = post.clone();
        let thread = std::thread::Builder::new()
            .name(format!("data-{name}"))
            .spawn(move || run(spec, theirs, &ready))
            .map_err(system("start a thread"))?;
        // An error of `recv` means that the thread died before it said anything.
        started.recv().map_err(|_| EngineError::NotRunning)??;
        Ok(Self { name, post, next_command: AtomicU64::new(1), thread: Some(thread) })
    }

    /// The resource's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives the machine a command. The id is for [`give_up`](Self::give_up).
    ///
    /// # Errors
    /// The resource cannot be reached; `answer` is dropped.
    pub fn command(&self, command: Command, answer: Answer) -> Result<CommandId, EngineError> {
        let id = self.next_id();
        self.post.post(Control::Command { id, command, answer })?;
        Ok(id)
    }

    /// Opens and locks the volume's backing store and attaches it.
    ///
    /// # Errors
    /// As for `command`.
    pub fn attach(&self, volume: usize, answer: Answer) -> Result<CommandId, EngineError> {
        let id = self.next_id();
        self.post.post(Control::Attach { id, volume, answer })?;
        Ok(id)
    }

    /// Nobody waits for that command's answer any more.
    ///
    /// # Errors
    /// As for `command`.
    pub fn give_up(&self, id: CommandId) -> Result<(), EngineError> {
        self.post.post(Control::GiveUp(id))
    }

    /// Asks how the resource looks.
    ///
    /// # Errors
    /// As for `command`.
    pub fn status(&self, answer: StatusAnswer) -> Result<(), EngineError> {
        self.post.post(Control::Status(answer))
    }

    /// Closes the clients' connections, demotes, disconnects and detaches; when that is done the thread ends and
    /// `answer` is called. If the machine refuses, the resource goes on running. Requests that are frozen keep their
    /// clients and so the thread: whoever cannot wait asks for `stop_now` later.
    ///
    /// # Errors
    /// Too many messages wait. That the thread has ended is no error: it may have done so because of this message, before
    /// we looked. If it ended earlier the answer is dropped.
    pub fn stop_gracefully(&self, answer: Answer) -> Result<(), EngineError> {
        match self.post.post(Control::StopGracefully(answer)) {
            Err(EngineError::NotRunning) => Ok(()),
            result => result,
        }
    }

    /// Ends the thread as it stands. What was acknowledged is on the disks; the metadata says that there was a crash.
    ///
    /// # Errors
    /// Too many messages wait. That the thread has ended already is no error.
    pub fn stop_now(&self) -> Result<(), EngineError> {
        match self.post.post(Control::StopNow) {
            Err(EngineError::NotRunning) => Ok(()),
            result => result,
        }
    }

    /// Waits until the thread has ended, which somebody must have asked for. False if it panicked.
    pub fn join(mut self) -> bool {
        self.thread.take().is_none_or(|thread| thread.join().is_ok())
    }

    /// Whether the thread has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn next_id(&self) -> CommandId {
        CommandId(self.next_command.fetch_add(1, Ordering::Relaxed))
    }
}

impl Drop for ResourceHandle {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.post.post(Control::StopNow);
            let _ = thread.join();
        }
    }
}

/// The life of the thread. `Post::close` also runs when it panics, so that nobody waits for ever.
fn run(spec: ResourceSpec, post: Post, ready: &mpsc::Sender<Result<(), EngineError>>) {
    struct CloseAtEnd(Post);
    impl Drop for CloseAtEnd {
        fn drop(&mut self) {
            self.0.close();
            if std::thread::panicking() {
                tracing::error!(
                    "the resource's thread panicked; its clients and its peer see what they see of a crash"
                );
            }
        }
    }
    let close_at_end = CloseAtEnd(post.clone());
    let span = tracing::info_span!("resource", name = %spec.settings.name);
    let _entered = span.enter();
    let mut resource = match ResourceLoop::new(spec, post) {
        Ok(resource) => resource,
        Err(error) => return drop(ready.send(Err(error))),
    };
    let _ = ready.send(Ok(()));
    if let Err(error) = resource.run() {
        tracing::error!(%error, "the resource's thread ends");
    }
    drop(resource);
    drop(close_at_end);
}

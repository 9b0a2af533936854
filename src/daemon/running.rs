//! One running resource, as the control side sees it: commands that are awaited, and given up when nobody waits any more.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::config::Resource;
use crate::control::status::ResourceStatus;
use crate::engine::{Answer, EngineError, ResourceHandle, ResourceSpec};
use crate::model::ids::CommandId;
use crate::replica::event::Command;
use crate::replica::refusal::{Code, Refusal};

use super::problem::Problem;

/// How often a command that met a transient state is tried; with the pause, four seconds.
const TRIES: u32 = 20;
/// How long to wait before the next try.
const PAUSE: Duration = Duration::from_millis(200);
/// How often to look whether a thread has ended. (A thread cannot be awaited.)
const END_INTERVAL: Duration = Duration::from_millis(5);

/// A resource that is up.
#[derive(Debug)]
pub(super) struct Running {
    handle: ResourceHandle,
    configured: Mutex<Configured>,
    /// Somebody wants the thread to end: that it has is no accident then.
    is_stopping: AtomicBool,
    /// Removed when it goes down.
    nbd_socket: PathBuf,
}

/// What of the configuration can change while a resource runs.
#[derive(Debug)]
struct Configured {
    /// What it runs with.
    used: Resource,
    /// What it was told last: what an attach begins with counts from the next attach on.
    told: Resource,
}

impl Running {
    /// Starts the resource's thread.
    pub(super) async fn start(spec: ResourceSpec, resource: Resource, nbd_socket: PathBuf) -> Result<Self, Problem> {
        let name = resource.name.clone();
        let spawned = tokio::task::spawn_blocking(move || ResourceHandle::spawn(spec)).await;
        let handle = spawned.map_err(|_| EngineError::NotRunning)??;
        tracing::info!(resource = %name, "up");
        let configured = Mutex::new(Configured { told: resource.clone(), used: resource });
        Ok(Self { handle, configured, is_stopping: AtomicBool::new(false), nbd_socket })
    }

    /// The machine was given other options. Volumes in `attached` keep until their next attach what an attach begins with.
    pub(super) fn was_told(&self, told: Resource, attached: &[usize]) {
        let mut configured = self.configured();
        let before = std::mem::replace(&mut configured.used, told.clone());
        for &index in attached {
            if let (Some(volume), Some(before)) = (configured.used.volumes.get_mut(index), before.volumes.get(index)) {
                volume.options.al_extents = before.options.al_extents;
            }
        }
        configured.told = told;
    }

    /// A disk was attached, with what the machine was told last.
    pub(super) fn was_attached(&self, index: usize) {
        let mut configured = self.configured();
        let Configured { used, told } = &mut *configured;
        if let (Some(volume), Some(told)) = (used.volumes.get_mut(index), told.volumes.get(index)) {
            volume.options = told.options.clone();
        }
    }

    fn configured(&self) -> MutexGuard<'_, Configured> {
        // A panic cannot leave a half-assigned value behind.
        self.configured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The resource's name.
    pub(super) fn name(&self) -> &str {
        self.handle.name()
    }

    /// What it runs with.
    pub(super) fn resource(&self) -> Resource {
        self.configured().used.clone()
    }

    /// The indexes of the volumes that are meant.
    pub(super) fn volumes(&self, number: Option<u16>) -> Result<Vec<usize>, Problem> {
        volumes(&self.configured().used, number)
    }

    /// Has the machine carry out a command; a transient state is waited out.
    pub(super) async fn command(&self, command: Command) -> Result<(), Problem> {
        for _ in 1..TRIES {
            match self.command_once(command.clone()).await {
                Err(Problem::Refused(Refusal { code: Code::State(code), .. })) if code.is_transient() => {
                    tokio::time::sleep(PAUSE).await;
                }
                other => return other,
            }
        }
        self.command_once(command).await
    }

    async fn command_once(&self, command: Command) -> Result<(), Problem> {
        let (answer, outcome) = channel();
        let id = self.handle.command(command, answer).map_err(|error| self.unreachable(error))?;
        self.outcome(id, outcome).await
    }

    /// Opens, locks and attaches a volume's backing store.
    pub(super) async fn attach(&self, volume: usize) -> Result<(), Problem> {
        let (answer, outcome) = channel();
        let id = self.handle.attach(volume, answer).map_err(|error| self.unreachable(error))?;
        self.outcome(id, outcome).await?;
        self.was_attached(volume);
        Ok(())
    }

    async fn outcome(&self, id: CommandId, outcome: oneshot::Receiver<Result<(), Refusal>>) -> Result<(), Problem> {
        let mut asker = Asker { handle: &self.handle, id: Some(id) };
        let result = outcome.await;
        asker.id = None;
        result.map_err(|_| self.unreachable(EngineError::NotRunning))?.map_err(Problem::Refused)
    }

    /// Why the thread does not answer: it takes no more messages once it has ended.
    fn unreachable(&self, error: EngineError) -> Problem {
        match error {
            EngineError::NotRunning if self.is_stopping() => Problem::NotUp { name: self.name().to_owned() },
            EngineError::NotRunning => Problem::Ended { name: self.name().to_owned() },
            error => Problem::Engine(error),
        }
    }

    /// How the resource looks.
    pub(super) async fn status(&self) -> Result<ResourceStatus, Problem> {
        let (sender, receiver) = oneshot::channel();
        let asked = self.handle.status(Box::new(move |status| drop(sender.send(status))));
        asked.map_err(|error| self.unreachable(error))?;
        receiver.await.map_err(|_| self.unreachable(EngineError::NotRunning))
    }

    /// Lets clients go, demotes, disconnects, detaches and ends the thread.
    pub(super) async fn stop_gracefully(&self) -> Result<(), Problem> {
        self.is_stopping.store(true, Ordering::SeqCst);
        let (answer, outcome) = channel();
        self.handle.stop_gracefully(answer)?;
        // Without an answer it has ended at somebody else's word.
        if let Ok(Err(refusal)) = outcome.await {
            self.is_stopping.store(false, Ordering::SeqCst);
            return Err(Problem::Refused(refusal));
        }
        self.ended().await;
        Ok(())
    }

    /// Ends the thread as it stands.
    pub(super) async fn stop_now(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        if self.handle.stop_now().is_ok() {
            self.ended().await;
        }
    }

    /// Whether the thread has ended, asked or not.
    pub(super) fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Whether the thread has ended and nobody had asked for it.
    pub(super) fn has_died(&self) -> bool {
        self.is_finished() && !self.is_stopping()
    }

    /// Ends the thread as a broken rule of ours would.
    #[cfg(test)]
    pub(super) fn panic(&self) {
        self.handle.status(Box::new(|_| panic!("as a test wants it"))).expect("the thread runs");
        while !self.is_finished() {
            std::thread::yield_now();
        }
    }

    async fn ended(&self) {
        while !self.handle.is_finished() {
            tokio::time::sleep(END_INTERVAL).await;
        }
        let _ = std::fs::remove_file(&self.nbd_socket);
    }
}

/// The indexes of a resource's volumes that are meant. A number that is none of them is a problem: what was asked for one
/// volume must not be done to the others.
pub(super) fn volumes(resource: &Resource, number: Option<u16>) -> Result<Vec<usize>, Problem> {
    let is_meant = |candidate: u16| number.is_none_or(|number| number == candidate);
    let all = resource.volumes.iter().enumerate();
    let found: Vec<usize> = all.filter(|(_, volume)| is_meant(volume.number.0)).map(|(index, _)| index).collect();
    let Some(number) = number.filter(|_| found.is_empty()) else { return Ok(found) };
    let there: Vec<String> = resource.volumes.iter().map(|volume| volume.number.to_string()).collect();
    let sentence = format!("{} has no volume {number}; it has {}", resource.name, there.join(", "));
    Err(Problem::Unknown { sentence })
}

/// A way to answer, and where the answer arrives.
fn channel() -> (Answer, oneshot::Receiver<Result<(), Refusal>>) {
    let (sender, receiver) = oneshot::channel();
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

/// Tells the machine when nobody waits for a command any more.
struct Asker<'a> {
    handle: &'a ResourceHandle,
    id: Option<CommandId>,
}

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            let _ = self.handle.give_up(id);
        }
    }
}

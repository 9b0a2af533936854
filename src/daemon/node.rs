//! What the daemon knows: its options and the resources that are up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::config::{Config, ResolveError, Resource};
use crate::engine::NbdListen;
use crate::io::interfaces;
use crate::io::random::fill_random;

use super::arguments::Arguments;
use super::files;
use super::life::Lives;
use super::problem::Problem;
use super::running::Running;
use super::settings::{Surroundings, specification};

/// This daemon.
#[derive(Debug)]
pub(super) struct Node {
    arguments: Arguments,
    name: String,
    running: Mutex<BTreeMap<String, Arc<Running>>>,
    /// What the last `up` of a resource died of. It leaves nothing else behind that `why` could look at.
    up_failures: Mutex<BTreeMap<String, String>>,
    /// Whose turn it is to bring which resource up or down.
    pub(super) lives: Lives,
    /// Shared by all that begin to run a resource; the end of the daemon, which wants to know them all, has it once for itself.
    starting: tokio::sync::RwLock<()>,
    /// How far the end of the daemon has come. Who asks for it and who does it are not the same: an asker may leave.
    pub(super) ending: watch::Sender<Ending>,
}

/// The end of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// Nobody thinks of it.
    No,
    /// It shall end: nothing is brought up any more.
    Begun,
    /// Nothing is left of its resources.
    Done,
}

impl Node {
    /// A daemon that runs nothing yet.
    pub(super) fn new(arguments: Arguments, name: String) -> Self {
        Self {
            arguments,
            name,
            running: Mutex::default(),
            up_failures: Mutex::default(),
            lives: Lives::default(),
            starting: tokio::sync::RwLock::default(),
            ending: watch::Sender::new(Ending::No),
        }
    }

    /// The node's name in the configuration.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A resource that is up.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Running>> {
        self.running().get(name).cloned()
    }

    /// A resource that has to be up.
    pub(super) fn need(&self, name: &str) -> Result<Arc<Running>, Problem> {
        if let Some(running) = self.find(name) {
            return Ok(running);
        }
        // What a configuration with mistakes lacks, nobody can tell.
        if let Ok(config) = self.config(None) {
            self.resolve(&config, name)?;
        }
        Err(Problem::NotUp { name: name.to_owned() })
    }

    /// The names that `all` means: what the configuration has for this node, and what is up besides.
    pub(super) fn all(&self) -> Result<Vec<String>, Problem> {
        let running = self.names();
        match self.config(None).and_then(|config| self.configured(&config)) {
            Ok(mut names) => {
                names.extend(running.into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>());
                Ok(names)
            }
            Err(problem) if running.is_empty() => Err(problem),
            // A mistake in the file does not keep anyone from what runs.
            Err(_) => Ok(running),
        }
    }

    /// The names of all that are up, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        self.running().keys().cloned().collect()
    }

    /// Forgets a resource whose thread has ended, and not one of the same name that came after it.
    pub(super) fn forget(&self, ended: &Arc<Running>) {
        let mut running = self.running();
        if running.get(ended.name()).is_some_and(|running| Arc::ptr_eq(running, ended)) {
            running.remove(ended.name());
            // It was up; what its disk or peer then missed says nothing about why it is not.
            self.remember_up(ended.name(), &Ok(()));
        }
    }

    /// Waits until all that has begun to run is known. Once the end has begun, nothing is added any more.
    pub(super) async fn all_started(&self) {
        let _starting = self.starting.write().await;
    }

    /// Reads the configuration: the file of the request, or the daemon's own.
    pub(super) fn config(&self, path: Option<&str>) -> Result<Config, Problem> {
        let config = files::load(path.map(Path::new).or(self.arguments.config.as_deref()))?;
        // Whoever plays another node has not that one's addresses.
        let addresses = match self.arguments.node {
            Some(_) => Vec::new(),
            None => interfaces::addresses().map_err(|source| {
                let action = "ask for the addresses of this machine".into();
                Problem::System { action, source }
            })?,
        };
        Ok(config.at(addresses))
    }

    /// The names of the resources that the configuration has for this node, in its order; that there is none is a problem.
    pub(super) fn configured(&self, config: &Config) -> Result<Vec<String>, Problem> {
        let (mut ours, mut others) = (Vec::new(), BTreeSet::new());
        for resource in config.resources() {
            match config.resolve(&resource.name, &self.name) {
                Err(ResolveError::NotForThisNode { hosts, .. }) => others.extend(hosts),
                // Stacked resources are not served, and not meant by `all`.
                Err(ResolveError::Stacked { .. }) => {}
                _ => ours.push(resource.name.clone()),
            }
        }
        if !ours.is_empty() {
            return Ok(ours);
        }
        let (node, file) = (&self.name, config.main_file());
        let others: Vec<String> = others.into_iter().collect();
        Err(Problem::Unknown {
            sentence: match &others[..] {
                [] => format!("{file} defines no resource"),
                names => format!("{file} has no resource for node {node}; it names {}", names.join(", ")),
            },
        })
    }

    /// Remembers why a resource did not come up, or that it did.
    pub(super) fn remember_up(&self, name: &str, result: &Result<(), Problem>) {
        let mut failures = self.up_failures.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => drop(failures.remove(name)),
            Err(problem) => drop(failures.insert(name.to_owned(), problem.to_string())),
        }
    }

    /// Why a resource is not up although somebody wanted it to be.
    pub(super) fn up_failure(&self, name: &str) -> Option<String> {
        self.up_failures.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// What a resource means here.
    pub(super) fn resolve(&self, config: &Config, name: &str) -> Result<Resource, Problem> {
        config.resolve(name, &self.name).map_err(|error| {
            let sentence = error.to_string();
            match error {
                ResolveError::UnknownResource { .. } | ResolveError::NotForThisNode { .. } => {
                    Problem::Unknown { sentence }
                }
                ResolveError::Stacked { .. } => Problem::NotServed { sentence },
                _ => Problem::Configuration { sentence },
            }
        })
    }

    /// Runs a resource, Secondary, without disk and connection.
    pub(super) async fn start(&self, config: &Config, resource: Resource) -> Result<Arc<Running>, Problem> {
        let _starting = self.starting.read().await;
        if *self.ending.borrow() != Ending::No {
            return Err(Problem::Ending);
        }
        let mut seed = [0; 32];
        fill_random(&mut seed).map_err(|source| Problem::System { action: "get random numbers".into(), source })?;
        let position = config.resources().iter().position(|other| other.name == resource.name).unwrap_or(0);
        let socket = self.nbd_socket(&resource.name);
        let mut nbd = vec![NbdListen::Unix(socket.clone())];
        nbd.extend(self.nbd_address(position).map(NbdListen::Tcp));
        let configuration = std::path::absolute(config.main_file()).unwrap_or_else(|_| config.main_file().into());
        let surroundings = Surroundings { nbd, configuration, direct: !self.arguments.buffered, seed };
        let spec = specification(&resource, surroundings)
            .map_err(|error| Problem::NotServed { sentence: error.to_string() })?;
        let name = resource.name.clone();
        let running = Arc::new(Running::start(spec, resource, socket).await?);
        self.running().insert(name, Arc::clone(&running));
        Ok(running)
    }

    fn nbd_socket(&self, resource: &str) -> PathBuf {
        self.arguments.run_dir.join(format!("{resource}.nbd"))
    }

    /// Each resource has a port of its own, by its place in the configuration.
    fn nbd_address(&self, position: usize) -> Option<SocketAddr> {
        let mut address = self.arguments.nbd_listen?;
        let port = usize::from(address.port()) + position;
        address.set_port(u16::try_from(port).ok()?);
        Some(address)
    }
}

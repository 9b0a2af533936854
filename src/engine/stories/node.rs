//! A node of a story: a temporary directory with a disk, and the resource `data` with one volume on it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::client::NbdClient;
use crate::control::status::ResourceStatus;
use crate::engine::offline::{MetadataPlace, NewMetadata, create_md};
use crate::engine::{Answer, BackingPaths, NbdListen, PeerAddresses, ResourceHandle, ResourceSpec};
use crate::io::tcp::StreamOptions;
use crate::metadata::layout::{Format, Placement};
use crate::model::ids::{NodeId, VolumeNumber};
use crate::replica::event::Command;
use crate::replica::refusal::Refusal;
use crate::replica::settings::{PeerSettings, ResyncSettings, Settings, VolumeSettings};

const DISK_BYTES: u64 = 16 << 20;

/// How long a story waits for what must come; a busy machine's disk may stall for half a minute.
const PATIENCE: Duration = Duration::from_secs(100);

pub(super) struct Node {
    directory: tempfile::TempDir,
    spec: ResourceSpec,
    pub(super) handle: ResourceHandle,
}

/// Addresses of two nodes, which no other story and no other process of this moment has.
pub(super) fn addresses() -> [SocketAddr; 2] {
    static STORIES: AtomicU8 = AtomicU8::new(0);
    let story = STORIES.fetch_add(1, Ordering::Relaxed);
    let process = (std::process::id() % 250) as u8 + 1;
    [1, 2].map(|host| SocketAddr::from(([127, process, story, host], 7789)))
}

impl Node {
    /// Node number 0 or 1 of a pair, with fresh metadata, running, not attached.
    pub(super) fn new(number: u8, addresses: [SocketAddr; 2]) -> Self {
        Self::tuned(number, addresses, |_| ())
    }

    /// As `new`, configured otherwise.
    pub(super) fn tuned(number: u8, addresses: [SocketAddr; 2], tune: impl FnOnce(&mut ResourceSpec)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("disk");
        std::fs::File::create(&disk).unwrap().set_len(DISK_BYTES).unwrap();
        let place = MetadataPlace { path: disk, placement: Placement::Internal };
        let new = NewMetadata::plain(Format::V08, 1);
        create_md(&place, &new).unwrap();
        let mut spec = spec(&directory, number, addresses);
        tune(&mut spec);
        let handle = ResourceHandle::spawn(spec.clone()).unwrap();
        Self { directory, spec, handle }
    }

    /// Ends the thread without a word, and starts it again.
    pub(super) fn crash(&mut self) {
        self.handle.stop_now().unwrap();
        while !self.handle.is_finished() {
            std::thread::yield_now();
        }
        self.handle = ResourceHandle::spawn(self.spec.clone()).unwrap();
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    pub(super) fn attach(&self) -> Result<(), Refusal> {
        self.ask(|answer| self.handle.attach(0, answer).map(|_| ()).unwrap())
    }

    pub(super) fn command(&self, command: Command) -> Result<(), Refusal> {
        self.ask(|answer| self.handle.command(command, answer).map(|_| ()).unwrap())
    }

    pub(super) fn stop(&self) -> Result<(), Refusal> {
        self.ask(|answer| self.handle.stop_gracefully(answer).unwrap())
    }

    fn ask(&self, begin: impl FnOnce(Answer)) -> Result<(), Refusal> {
        let (sender, receiver) = mpsc::channel();
        begin(Box::new(move |result| drop(sender.send(result))));
        receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no answer; {:#?}", self.status()))
    }

    pub(super) fn status(&self) -> ResourceStatus {
        let (sender, receiver) = mpsc::channel();
        self.handle.status(Box::new(move |status| drop(sender.send(status)))).unwrap();
        receiver.recv_timeout(PATIENCE).unwrap()
    }

    /// Asks until the status is as wanted.
    pub(super) fn wait(&self, what: &str, is_so: impl Fn(&ResourceStatus) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if is_so(&status) {
                return;
            }
            assert!(Instant::now() < deadline, "never {what}: {status:#?}");
            std::thread::yield_now();
        }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.directory.path().join("nbd")
    }

    pub(super) fn open(&self, export: &str) -> Result<NbdClient, String> {
        NbdClient::open(&self.socket(), export)
    }
}

fn spec(directory: &tempfile::TempDir, number: u8, addresses: [SocketAddr; 2]) -> ResourceSpec {
    let (mine, peer) = (addresses[usize::from(number)], addresses[usize::from(1 - number)]);
    let name = |number: u8| if number == 0 { "alice" } else { "bob" }.to_owned();
    let node_id = |number| NodeId::new(number).unwrap();
    let data = directory.path().join("disk");
    ResourceSpec {
        settings: Settings {
            name: "data".to_owned(),
            node_name: name(number),
            node_id: node_id(number),
            volumes: vec![volume(&data)],
            peers: vec![peer_settings(&name(1 - number), node_id(1 - number), mine < peer)],
            suspend_without_data: false,
            handlers: BTreeMap::new(),
            seed: [number; 32],
        },
        peers: vec![PeerAddresses { mine, peer, stream: StreamOptions::default() }],
        backing: vec![Some(BackingPaths { data, metadata: None, slot: None })],
        nbd: vec![NbdListen::Unix(directory.path().join("nbd"))],
        configuration: PathBuf::new(),
        direct: true,
        lock_patience: PATIENCE,
    }
}

fn volume(data: &std::path::Path) -> VolumeSettings {
    VolumeSettings {
        backing_device: Some(data.display().to_string()),
        resync: ResyncSettings {
            rate_kib: 250_000,
            max_rate_kib: 1_000_000,
            min_rate_kib: 250_000,
            ..ResyncSettings::DEFAULT
        },
        ..VolumeSettings::with_defaults(VolumeNumber(0))
    }
}

fn peer_settings(name: &str, node_id: NodeId, address_is_lower: bool) -> PeerSettings {
    PeerSettings {
        address_is_lower,
        connect_interval: Duration::from_millis(200),
        ..PeerSettings::with_defaults(name, node_id)
    }
}

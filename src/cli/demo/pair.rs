//! Two nodes on one machine: their files, their daemons, and the commands that a person would type.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::statvfs::statvfs;

use super::load::WRITTEN_BYTES;
use super::pause;
use super::remains::Remains;
use crate::cli::client::{ClientError, ask};
use crate::cli::nbd::{Address, Place};
use crate::control::status::ResourceStatus;
use crate::control::{Request, Response, Verb};
use crate::engine::offline::{MetadataPlace, NewMetadata, create_md};
use crate::io::block_file::{BlockFile, Create, Mode};
use crate::io::random::random_u64;
use crate::metadata::layout::{Format, Placement};

/// The resource.
const RESOURCE: &str = "data";
/// How long a daemon may take to answer after its start.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long a command may take.
const COMMAND_PATIENCE: Duration = Duration::from_secs(60);
/// How long a daemon may take to end.
const END_PATIENCE: Duration = Duration::from_secs(90);

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeName(pub(super) &'static str);

pub(super) const ALICE: NodeName = NodeName("alice");
pub(super) const BOB: NodeName = NodeName("bob");

/// What a demonstration writes at most: the blocks of the load on both disks, metadata, logs.
const ROOM_BYTES: u64 = 2 * WRITTEN_BYTES + (16 << 20);

/// The two nodes.
pub(super) struct Pair {
    folder: PathBuf,
    nbd_ports: [u16; 2],
    is_kept: bool,
    remains: Remains,
}

impl Pair {
    /// Size of each disk.
    pub(super) const DISK_MIB: u64 = 256;

    /// Makes the folder, the disks and the configuration.
    pub(super) fn new(is_kept: bool) -> anyhow::Result<Self> {
        let name = format!("shimai-demo-{:08x}", random_u64().context("no random numbers")? as u32);
        let folder = std::env::temp_dir().join(name);
        let [link_alice, link_bob, nbd_alice, nbd_bob] = free_ports()?;
        check_room(&std::env::temp_dir())?;
        let remains = Remains::new(folder.clone());
        remains.clear_when_interrupted();
        let pair = Self { folder, nbd_ports: [nbd_alice, nbd_bob], is_kept, remains };
        for name in [ALICE, BOB] {
            std::fs::create_dir_all(pair.run_dir(name)).context("cannot make a folder for the demonstration")?;
            let create = Create::New { bytes: Self::DISK_MIB << 20 };
            BlockFile::open(pair.disk(name), Mode { create, ..Mode::default() })?;
        }
        std::fs::write(pair.configuration(), pair.text([link_alice, link_bob]))?;
        Ok(pair)
    }

    fn text(&self, ports: [u16; 2]) -> String {
        let host = |node: NodeName, id: u8, port: u16| {
            let disk = self.disk(node);
            format!(
                "    on {} {{\n        node-id {id};\n        address 127.0.0.1:{port};\n        volume 0 {{\n            \
                 device minor 0;\n            disk \"{}\";\n            meta-disk internal;\n        }}\n    }}\n",
                node.0,
                disk.display()
            )
        };
        let (alice, bob) = (host(ALICE, 0, ports[0]), host(BOB, 1, ports[1]));
        format!(
            "resource {RESOURCE} {{\n    net {{\n        protocol C;\n        # Looks for a sign of life every second.\n        \
             ping-int 1;\n    }}\n    disk {{\n        c-max-rate 1G;\n        resync-rate 100M;\n        # The resync does \
             not make way for applications.\n        c-min-rate 0;\n    }}\n{alice}{bob}}}\n"
        )
    }

    /// Where everything is.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn configuration(&self) -> PathBuf {
        self.folder.join("demo.res")
    }

    fn run_dir(&self, node: NodeName) -> PathBuf {
        self.folder.join(node.0)
    }

    fn disk(&self, node: NodeName) -> PathBuf {
        self.folder.join(format!("{}.disk", node.0))
    }

    fn nbd_port(&self, node: NodeName) -> u16 {
        self.nbd_ports[index(node)]
    }

    /// Writes metadata on both disks.
    pub(super) fn create_metadata(&self) -> anyhow::Result<()> {
        for node in [ALICE, BOB] {
            let place = MetadataPlace { path: self.disk(node), placement: Placement::Internal };
            let new = NewMetadata::plain(Format::V09, 1);
            create_md(&place, &new)?;
        }
        Ok(())
    }

    /// Starts a node's daemon and waits until it answers.
    pub(super) fn start(&mut self, node: NodeName) -> anyhow::Result<()> {
        let log = self.folder.join(format!("{}.log", node.0));
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = daemon_command()?;
        command
            .arg("--config")
            .arg(self.configuration())
            .args(["--node", node.0, "--run-dir"])
            .arg(self.run_dir(node))
            .arg("--state-dir")
            .arg(self.run_dir(node).join("state"))
            .args(["--nbd-listen", &format!("127.0.0.1:{}", self.nbd_port(node))])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // An interrupt is ours to hear. Whose end we do not live to see ends by itself, unless it shall outlive us.
        command.process_group(0);
        if !self.is_kept {
            command.args(["--parent", &std::process::id().to_string()]);
        }
        let mut things = self.remains.lock();
        things.processes[index(node)] = Some(command.spawn().context("cannot start a daemon")?);
        drop(things);
        let begun = Instant::now();
        loop {
            match self.request(node, Request::new(Verb::Version, None), START_PATIENCE) {
                Ok(_) => return Ok(()),
                Err(error) if begun.elapsed() > START_PATIENCE => {
                    return Err(error.context(format!("{}'s daemon does not answer", node.0)));
                }
                Err(_) => pause(Duration::from_millis(5)),
            }
        }
    }

    /// `alice (process 12), bob (process 13)`.
    pub(super) fn processes(&self) -> String {
        let shown = |node: NodeName| {
            let process = self.remains.lock().processes[index(node)].as_ref().map_or(0, Child::id);
            format!("{} (process {process})", node.0)
        };
        format!("{}, {}", shown(ALICE), shown(BOB))
    }

    /// SIGKILL: no goodbye, nothing written. What the kernel has in hand for the process it still finishes; that may
    /// take a while, and is not waited for.
    pub(super) fn kill(&mut self, node: NodeName) -> anyhow::Result<()> {
        let mut things = self.remains.lock();
        let process = things.processes[index(node)].as_mut().context("the daemon does not run")?;
        process.kill().context("cannot kill the daemon")
    }

    /// Waits until nothing is left of a killed daemon.
    pub(super) fn bury(&mut self, node: NodeName) -> anyhow::Result<()> {
        let process = self.remains.lock().processes[index(node)].take();
        process.map_or(Ok(()), |mut process| Ok(process.wait().map(|_| ())?))
    }

    /// Has a node carry out a verb on the resource.
    pub(super) fn ask(&self, node: NodeName, verb: Verb) -> anyhow::Result<()> {
        self.request(node, Request::new(verb, Some(RESOURCE)), COMMAND_PATIENCE).map(|_| ())
    }

    /// Two blank disks hold the same.
    pub(super) fn declare_equal(&self, node: NodeName) -> anyhow::Result<()> {
        let mut request = Request::new(Verb::NewCurrentUuid, Some(RESOURCE));
        request.options.clear_bitmap = true;
        self.request(node, request, COMMAND_PATIENCE).map(|_| ())
    }

    /// Secondary, once the last client's departure has been noticed.
    pub(super) fn demote(&self, node: NodeName) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            match self.ask(node, Verb::Secondary) {
                Err(_) if begun.elapsed() < Duration::from_secs(5) => pause(Duration::from_millis(10)),
                result => return result,
            }
        }
    }

    /// KiB that the node got from its peer.
    pub(super) fn received_kib(&self, node: NodeName) -> anyhow::Result<u64> {
        let status = self.status(node)?;
        let volumes = status.peers.iter().flat_map(|peer| &peer.volumes);
        Ok(volumes.map(|volume| volume.received_kib).sum())
    }

    fn status(&self, node: NodeName) -> anyhow::Result<ResourceStatus> {
        let responses = self.request(node, Request::new(Verb::Status, Some(RESOURCE)), COMMAND_PATIENCE)?;
        let found = responses.into_iter().find_map(|response| match response {
            Response::Status(mut statuses) => statuses.pop(),
            _ => None,
        });
        found.context("the daemon has no status")
    }

    /// The lines of an answer; a refusal is an error.
    fn request(&self, node: NodeName, request: Request, patience: Duration) -> anyhow::Result<Vec<Response>> {
        let verb = request.verb;
        let mut answer = ask(&self.run_dir(node).join("control.sock"), request, Some(patience))?;
        let mut lines = Vec::new();
        while let Some(line) = answer.next_response()? {
            match line {
                Response::Refused { code, sentence, .. } => bail!("{} {verb}: ({code}) {sentence}", node.0),
                Response::Failed { sentence, .. } => bail!("{} {verb}: {sentence}", node.0),
                line => lines.push(line),
            }
        }
        Ok(lines)
    }

    /// Where the node serves the volume, for us.
    pub(super) fn nbd(&self, node: NodeName) -> Address {
        Address { place: Place::Tcp("127.0.0.1".into(), self.nbd_port(node)), export: RESOURCE.into() }
    }

    /// And for people.
    pub(super) fn uri(&self, node: NodeName) -> String {
        format!("nbd://127.0.0.1:{}/{RESOURCE}", self.nbd_port(node))
    }

    /// Ends both daemons and removes the files.
    pub(super) fn end(&mut self) -> anyhow::Result<()> {
        for node in [BOB, ALICE] {
            match self.request(node, Request::new(Verb::Shutdown, None), END_PATIENCE) {
                Ok(_) => {}
                // It may end faster than it answers.
                Err(error) if matches!(error.downcast_ref(), Some(ClientError::Broken { .. })) => {}
                Err(error) => return Err(error.context(format!("{}'s daemon does not end", node.0))),
            }
            self.wait_for_end(node)?;
        }
        Ok(())
    }

    fn wait_for_end(&mut self, node: NodeName) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < END_PATIENCE {
            let mut things = self.remains.lock();
            let Some(process) = things.processes[index(node)].as_mut() else { return Ok(()) };
            if let Some(status) = process.try_wait()? {
                things.processes[index(node)] = None;
                if !status.success() {
                    bail!("{}'s daemon ended with {status}", node.0);
                }
                return Ok(());
            }
            drop(things);
            pause(Duration::from_millis(5));
        }
        bail!("{}'s daemon did not end within {} s", node.0, END_PATIENCE.as_secs())
    }

    /// Files and logs stay where they are; the daemons end.
    pub(super) fn preserve(&mut self) {
        let mut things = self.remains.lock();
        things.kill();
        things.leave();
    }

    /// Says how to play with what stays.
    pub(super) fn keep(&mut self) {
        self.remains.lock().leave();
        let shimai = std::env::current_exe().unwrap_or_else(|_| "shimai".into());
        let command = |node: NodeName, words: &str| {
            format!(
                "{} --config {} --node {} --run-dir {} {words}",
                shimai.display(),
                self.configuration().display(),
                node.0,
                self.run_dir(node).display()
            )
        };
        println!("Both nodes go on running; alice is Primary and serves {}", self.uri(ALICE));
        println!("  {}", command(ALICE, "status --verbose"));
        println!("  {}", command(BOB, "why data"));
        println!("  qemu-io -f raw {} -c 'read 0 4k'      # or nbdfuse, nbd-client, qemu-system …", self.uri(ALICE));
        println!("To end it:");
        println!("  {}", command(ALICE, "shutdown"));
        println!("  {}", command(BOB, "shutdown"));
        println!("  rm -r {}", self.folder.display());
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.remains.lock().clear();
    }
}

fn index(node: NodeName) -> usize {
    usize::from(node == BOB)
}

/// Refuses to begin what would end in the middle, for want of room.
fn check_room(folder: &Path) -> anyhow::Result<()> {
    let found = statvfs(folder).with_context(|| format!("cannot look at {}", folder.display()))?;
    let free = found.blocks_available().saturating_mul(found.fragment_size());
    enough_room(folder, free)
}

fn enough_room(folder: &Path, free: u64) -> anyhow::Result<()> {
    if free < ROOM_BYTES {
        bail!(
            "the demonstration needs {} MiB in {}, and {} MiB are free there; name another folder by TMPDIR",
            ROOM_BYTES >> 20,
            folder.display(),
            free >> 20
        );
    }
    Ok(())
}

/// `shimaid` beside this program, or this program itself, which can be one.
fn daemon_command() -> anyhow::Result<Command> {
    let me = std::env::current_exe().context("cannot find this program")?;
    let sister = me.with_file_name("shimaid");
    if sister.exists() && is_of_one_build(&me, &sister) {
        return Ok(Command::new(sister));
    }
    let mut command = Command::new(me);
    command.arg("daemon");
    Ok(command)
}

/// An old daemon left beside a new program would tell another story.
fn is_of_one_build(me: &Path, sister: &Path) -> bool {
    const APART_MAX: Duration = Duration::from_secs(600);
    let modified = |path: &Path| path.metadata().and_then(|status| status.modified()).ok();
    let (Some(mine), Some(theirs)) = (modified(me), modified(sister)) else { return true };
    mine.duration_since(theirs).is_ok_and(|apart| apart <= APART_MAX) || theirs >= mine
}

/// Four ports that nobody uses now. All are held until all are known, so they differ.
fn free_ports() -> anyhow::Result<[u16; 4]> {
    let mut ports = [0; 4];
    let mut held = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0").context("no free port on loopback")?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_room_is_told_with_how_much_it_takes() {
        let error = enough_room(Path::new("/small"), 12 << 20).unwrap_err().to_string();
        assert_eq!(
            error,
            "the demonstration needs 144 MiB in /small, and 12 MiB are free there; name another folder by TMPDIR"
        );
        assert!(enough_room(Path::new("/large"), 1 << 40).is_ok());
    }
}

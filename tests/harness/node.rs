//! One side of the pair: its daemon, its `shimai`, its disks.

use super::configuration::RESOURCE;
use super::disks::wait_until_free;
use super::drbdmeta::Place;
use super::network::inside;
use super::tools::{ended, kill, spawn};
use super::wait::{LONG, SHORT, until};
use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;
use shimai::control::status::ResourceStatus;
use shimai::control::{Request, Response, Verb, decode_response, encode};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The daemon under test.
pub(crate) const SHIMAID: &str = env!("CARGO_BIN_EXE_shimaid");
/// The program that administers it.
pub(crate) const SHIMAI: &str = env!("CARGO_BIN_EXE_shimai");

/// One side.
pub(crate) struct Node {
    /// As in the configuration.
    pub(crate) name: &'static str,
    pub(crate) namespace: String,
    /// All of the node's files are below it.
    pub(crate) folder: PathBuf,
    /// The backing files, by volume.
    pub(crate) disks: Vec<PathBuf>,
    /// Their metadata.
    pub(crate) metadata: Vec<Place>,
    /// What the daemon is given besides.
    pub(crate) daemon_arguments: Vec<String>,
    daemon: Option<Child>,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) exit: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Node {
    /// A node with folders and nothing running.
    pub(crate) fn new(
        name: &'static str,
        namespace: String,
        folder: PathBuf,
        (disks, metadata): (Vec<PathBuf>, Vec<Place>),
    ) -> Self {
        for below in ["run", "state"] {
            fs::create_dir_all(folder.join(below)).expect("the folder is ours");
        }
        Self { name, namespace, folder, disks, metadata, daemon_arguments: Vec::new(), daemon: None }
    }

    /// The node's own configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.folder.join("shimai.conf")
    }

    /// Where the daemon keeps its sockets.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// What the daemon printed.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("shimaid.log")
    }

    /// Changes this node's configuration; what is replaced must be there.
    pub(crate) fn edit_config(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.config()).expect("the harness wrote it");
        assert!(text.contains(from), "{from:?} is not in\n{text}");
        fs::write(self.config(), text.replace(from, to)).expect("the file is ours");
    }

    /// The command that runs this node's daemon.
    pub(crate) fn daemon_command(&self) -> Command {
        let mut command = inside(&self.namespace, SHIMAID);
        command.arg("--config").arg(self.config()).args(["--node", self.name]);
        command.arg("--run-dir").arg(self.run_dir()).arg("--state-dir").arg(self.folder.join("state"));
        // It ends with the test, however that ends.
        command.args(["--parent", &std::process::id().to_string()]);
        command.args(&self.daemon_arguments).env("NO_COLOR", "1");
        command
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.start_with_log(&self.log());
    }

    /// Starts the daemon with another place for what it prints.
    pub(crate) fn start_with_log(&mut self, log: &Path) {
        assert!(self.daemon.is_none(), "{} runs already", self.name);
        let mut child = spawn(&mut self.daemon_command(), log);
        until(&format!("{}'s daemon answers", self.name), SHORT, || {
            if let Some(status) = child.try_wait().expect("it is our child") {
                panic!("{}'s daemon ended with {status}:\n{}", self.name, self.log_tail());
            }
            self.ask(Verb::Version, None).map(|_| ())
        });
        self.daemon = Some(child);
    }

    /// The daemon's process id.
    pub(crate) fn process(&self) -> u32 {
        self.daemon.as_ref().expect("the daemon runs").id()
    }

    /// Seconds that the daemon has computed.
    pub(crate) fn processor_seconds(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process())).expect("the daemon runs");
        let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name in brackets").1.split(' ').collect();
        let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
        // User and system time, proc(5); the kernel's interface counts hundredths everywhere.
        (ticks(11) + ticks(12)) / 100
    }

    /// The daemon's process, for a test that ends it in a way of its own.
    pub(crate) fn taken(&mut self) -> Child {
        self.daemon.take().expect("the daemon runs")
    }

    /// Ends the daemon at once, as a crash would.
    pub(crate) fn kill9(&mut self) {
        kill(&mut self.daemon.take().expect("the daemon runs"));
    }

    /// Waits until the kernel has done the last operations of a daemon that was killed, and nobody holds its disks.
    pub(crate) fn wait_until_buried(&self) {
        self.disks.iter().for_each(|disk| wait_until_free(disk));
        self.metadata.iter().for_each(|place| wait_until_free(&place.file));
    }

    /// Asks the daemon to end, as an init system would; its exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.wait_for_end()
    }

    /// Waits for the end of a daemon that somebody has asked to end; its exit code.
    pub(crate) fn wait_for_end(&mut self) -> Option<i32> {
        let mut child = self.daemon.take().expect("the daemon runs");
        ended("shimaid", &mut child, SHORT)
    }

    /// Sends a signal to the daemon.
    pub(crate) fn signal(&self, which: Signal) {
        let process = i32::try_from(self.process()).expect("process ids are small");
        signal(Pid::from_raw(process), which).expect("the daemon is our child");
    }

    /// # Panics
    /// When the daemon is not running any more.
    pub(crate) fn assert_alive(&mut self) {
        let child = self.daemon.as_mut().expect("the daemon was started");
        let ended = child.try_wait().expect("it is our child");
        assert!(ended.is_none(), "{}'s daemon ended with {ended:?}:\n{}", self.name, self.log_tail());
    }

    /// Runs `shimai` on this node.
    pub(crate) fn shimai(&self, arguments: &[&str]) -> Answer {
        let mut command = inside(&self.namespace, SHIMAI);
        command.arg("--config").arg(self.config()).args(["--node", self.name, "--run-dir"]).arg(self.run_dir());
        command.args(arguments).env_remove("COLUMNS").stdin(Stdio::null());
        let output = command.output().expect("shimai can be run");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Answer { exit: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Runs `shimai`, which must succeed; what it printed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let answer = self.shimai(arguments);
        assert_eq!(
            answer.exit,
            Some(0),
            "{}: shimai {}: {answer:?}\n{}",
            self.name,
            arguments.join(" "),
            self.log_tail()
        );
        answer.out
    }

    /// Brings the resource up. What a killed daemon still holds is waited for, longer than the product itself does: on a
    /// busy machine the kernel may take its time to close a dead process's files.
    pub(crate) fn up(&self) {
        until(&format!("{}: up", self.name), LONG, || {
            let answer = self.shimai(&["up", RESOURCE]);
            match answer.exit {
                Some(0) => Ok(()),
                _ if answer.err.contains("in use") => Err(answer.err),
                _ => panic!("{}: shimai up: {answer:?}\n{}", self.name, self.log_tail()),
            }
        });
    }

    /// Runs `shimai`, which must end with `exit`; what it complained.
    pub(crate) fn refused(&self, arguments: &[&str], exit: i32) -> String {
        let answer = self.shimai(arguments);
        assert_eq!(answer.exit, Some(exit), "{}: shimai {}: {answer:?}", self.name, arguments.join(" "));
        answer.err
    }

    /// The resource as the daemon sees it.
    ///
    /// # Panics
    /// When the daemon does not answer or has no such resource.
    pub(crate) fn status(&self) -> ResourceStatus {
        self.try_status().unwrap_or_else(|seen| panic!("{}: {seen}\n{}", self.name, self.log_tail()))
    }

    /// The resource as the daemon sees it, or why there is none.
    pub(crate) fn try_status(&self) -> Result<ResourceStatus, String> {
        let responses = self.ask(Verb::Status, Some(RESOURCE))?;
        let found = responses.into_iter().find_map(|response| match response {
            Response::Status(mut resources) => resources.pop(),
            _ => None,
        });
        found.ok_or_else(|| "the resource is not up".into())
    }

    /// Waits until the status is as `holds` wants it.
    pub(crate) fn wait(&self, what: &str, limit: Duration, holds: impl Fn(&ResourceStatus) -> bool) -> ResourceStatus {
        until(&format!("{}: {what}", self.name), limit, || {
            let status = self.try_status()?;
            if holds(&status) { Ok(status) } else { Err(summary(&status)) }
        })
    }

    /// One request over the admin socket, without `shimai`: quick enough to ask a hundred times a second.
    fn ask(&self, verb: Verb, resource: Option<&str>) -> Result<Vec<Response>, String> {
        let words = |error: std::io::Error| format!("the admin socket: {error}");
        let mut stream = UnixStream::connect(self.run_dir().join("control.sock")).map_err(words)?;
        stream.set_read_timeout(Some(SHORT)).map_err(words)?;
        stream.write_all(&encode(&Request::new(verb, resource))).map_err(words)?;
        let mut responses = Vec::new();
        for line in BufReader::new(stream).split(b'\n') {
            let response = decode_response(&line.map_err(words)?).map_err(|error| error.to_string())?;
            let is_last = response.ends_answer();
            responses.push(response);
            if is_last {
                return Ok(responses);
            }
        }
        Err("the answer has no end".into())
    }

    /// The socket of the NBD export of the resource.
    pub(crate) fn nbd_socket(&self) -> PathBuf {
        self.run_dir().join(format!("{RESOURCE}.nbd"))
    }

    /// The address of a volume for NBD clients; volume 0 bears the resource's name.
    pub(crate) fn nbd_uri(&self, volume: u16) -> String {
        let export = if volume == 0 { RESOURCE.to_owned() } else { format!("{RESOURCE}/{volume}") };
        format!("nbd+unix:///{export}?socket={}", self.nbd_socket().display())
    }

    /// Bytes of memory the daemon has resident.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Bytes of memory the daemon had resident when it had most.
    pub(crate) fn peak_resident_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, which: &str) -> u64 {
        let path = Path::new("/proc").join(self.process().to_string()).join("status");
        let text = fs::read_to_string(path).expect("the daemon runs");
        let line = text.lines().find_map(|line| line.strip_prefix(which)).expect("every process has one");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("the kernel prints a number");
        kib * 1024
    }

    /// The last lines of what the daemon printed.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(30)..];
        format!("--- the end of {}'s log\n{}\n---", self.name, tail.join("\n"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            kill(&mut daemon);
        }
        self.wait_until_buried();
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
    }
}

/// A status in one line, for messages.
pub(crate) fn summary(status: &ResourceStatus) -> String {
    let volumes = status.volumes.iter().map(|volume| {
        format!(
            "{} {} ({} pending, {} on disk)",
            volume.number, volume.disk, volume.upper_pending, volume.lower_pending
        )
    });
    let peers = status.peers.iter().map(|peer| {
        let volumes = peer.volumes.iter().map(|volume| {
            format!(
                "{} {} peer-disk {} out-of-sync {} KiB ({} pending, {} unacked)",
                volume.number,
                volume.replication,
                volume.peer_disk,
                volume.out_of_sync_kib,
                volume.pending,
                volume.unacked
            )
        });
        let reason = peer.reason.as_deref().unwrap_or("no reason");
        format!(
            "{} {} {} [{}] ({reason})",
            peer.name,
            peer.connection,
            peer.role,
            volumes.collect::<Vec<_>>().join(", ")
        )
    });
    let volumes = volumes.collect::<Vec<_>>().join(", ");
    format!("{} volumes [{volumes}] peers [{}]", status.role, peers.collect::<Vec<_>>().join(", "))
}

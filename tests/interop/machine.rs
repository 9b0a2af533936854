//! A machine with the kernel's DRBD, emulated: booted, told what to do, unplugged.

use crate::harness::network::inside;
use crate::harness::tools::find;
use crate::harness::wait::until;
use crate::image::Image;
use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// Emulated, booting takes half a minute on an idle machine.
const BOOT: Duration = Duration::from_secs(300);
/// The longest that one command may take; what takes longer runs in the background.
const COMMAND: Duration = Duration::from_secs(180);

/// Where a machine is attached.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The network namespace of the other end of its cable.
    pub(crate) namespace: String,
    /// The interface there.
    pub(crate) interface: String,
    /// Its own address, with the length of the prefix.
    pub(crate) address: String,
}

/// A machine that runs.
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    folder: PathBuf,
    place: Place,
    /// A shell that ends the emulator when its input ends: it does not outlive us.
    keeper: Child,
    control: RefCell<BufReader<UnixStream>>,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) exit: i32,
    pub(crate) out: String,
}

impl Machine {
    /// Boots one; its files are in `folder`, where its disks may be already.
    pub(crate) fn boot(name: &'static str, image: &Image, folder: &Path, place: Place) -> Self {
        let (socket, console) = (folder.join("agent.sock"), folder.join("console"));
        // Those of the last boot.
        let _ = (fs::remove_file(&socket), fs::remove_file(&console));
        let mut command = inside(&place.namespace, "sh");
        command
            .args(["-c", r#""$@" < /dev/null & read -r end; kill -9 $!; wait"#, "sh"])
            .arg(find("qemu-system-x86_64"));
        command.args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "640",
            "-display",
            "none",
            "-no-reboot",
        ]);
        command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&image.initrd);
        let words = format!("console=ttyS0 panic=-1 quiet mitigations=off name={name} address={}", place.address);
        command.args(["-append", &words]);
        command.args(["-serial", &format!("file:{}", console.display())]);
        command.args(["-chardev", &format!("socket,id=agent,path={},server=on,wait=off", socket.display())]);
        command.args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=agent"]);
        command.args(["-netdev", &format!("tap,id=net,ifname={},script=no,downscript=no", place.interface)]);
        command.args(["-device", "virtio-net-pci,netdev=net"]);
        for disk in disks(folder) {
            let drive = format!("file={},format=raw,if=virtio,cache=writeback,discard=unmap", disk.display());
            command.args(["-drive", &drive]);
        }
        command.stdin(Stdio::piped());
        let keeper = spawn_kept(&mut command, &folder.join("qemu.log"));
        let control = connected(&socket, folder);
        let machine =
            Self { name, folder: folder.to_owned(), place, keeper, control: RefCell::new(BufReader::new(control)) };
        machine.wait_until_ready();
        machine
    }

    fn wait_until_ready(&self) {
        until(&format!("{} boots", self.name), BOOT, || {
            let console = fs::read_to_string(self.folder.join("console")).unwrap_or_default();
            if console.contains("init: ready") {
                Ok(())
            } else {
                Err(console.lines().last().unwrap_or_default().to_owned())
            }
        });
        assert_eq!(self.sh("hostname").trim(), self.name);
    }

    /// The file behind a disk: the first is `/dev/vda` inside.
    pub(crate) fn disk(&self, number: usize) -> PathBuf {
        disks(&self.folder)[number].clone()
    }

    /// Runs a shell command, whatever comes of it.
    pub(crate) fn try_sh(&self, command: &str) -> Ran {
        let (exit, printed) = self.ask(&format!("run {}\n", command.len()), command.as_bytes());
        Ran { exit, out: String::from_utf8_lossy(&printed).into_owned() }
    }

    /// Runs a shell command, which must succeed; the bytes that it printed.
    pub(crate) fn bytes_of(&self, command: &str) -> Vec<u8> {
        let (exit, printed) = self.ask(&format!("run {}\n", command.len()), command.as_bytes());
        assert_eq!(exit, 0, "{}: {command}: {}\n{}", self.name, String::from_utf8_lossy(&printed), self.log_tail());
        printed
    }

    /// Runs a shell command, which must succeed; what it printed.
    pub(crate) fn sh(&self, command: &str) -> String {
        let ran = self.try_sh(command);
        assert_eq!(ran.exit, 0, "{}: {command}: {}\n{}", self.name, ran.out, self.log_tail());
        ran.out
    }

    /// Writes a file, which can be run.
    pub(crate) fn put(&self, path: &str, bytes: &[u8]) {
        let (exit, _) = self.ask(&format!("put {} {path}\n", bytes.len()), bytes);
        assert_eq!(exit, 0, "{}: {path} cannot be written", self.name);
    }

    fn ask(&self, line: &str, bytes: &[u8]) -> (i32, Vec<u8>) {
        self.try_ask(line, bytes)
            .unwrap_or_else(|error| panic!("{} does not answer: {error}\n{}", self.name, self.console_tail()))
    }

    fn try_ask(&self, line: &str, bytes: &[u8]) -> std::io::Result<(i32, Vec<u8>)> {
        let mut control = self.control.borrow_mut();
        control.get_mut().write_all(line.as_bytes())?;
        control.get_mut().write_all(bytes)?;
        let mut answer = String::new();
        control.read_line(&mut answer)?;
        let wrong = || std::io::Error::other(format!("it said {answer:?}"));
        let mut words = answer.strip_prefix("done ").ok_or_else(wrong)?.split_whitespace();
        let exit = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
        let length = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
        let mut printed = vec![0; length];
        control.read_exact(&mut printed)?;
        Ok((exit, printed))
    }

    /// Pulls the plug: what the machine has in memory is lost. Its disks and its place stay, for the next boot.
    pub(crate) fn unplugged(self) -> (PathBuf, Place) {
        (self.folder.clone(), self.place.clone())
    }

    /// The last lines of the kernel's log.
    pub(crate) fn log_tail(&self) -> String {
        let Ok((_, log)) = self.try_ask("run 18\n", b"dmesg | tail -n 40") else {
            return self.console_tail();
        };
        format!("--- the end of {}'s kernel log\n{}---", self.name, String::from_utf8_lossy(&log))
    }

    fn console_tail(&self) -> String {
        let text = fs::read_to_string(self.folder.join("console")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("--- the end of {}'s console\n{}\n---", self.name, lines[lines.len().saturating_sub(20)..].join("\n"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // It ends now, and nothing is left to be done if it has ended before.
        let _ = self.keeper.wait();
    }
}

fn disks(folder: &Path) -> [PathBuf; 2] {
    ["vda.img", "vdb.img"].map(|name| folder.join(name))
}

fn spawn_kept(command: &mut std::process::Command, log: &Path) -> Child {
    let file = fs::File::create(log).expect("the folder is ours");
    let errors = file.try_clone().expect("a descriptor can be copied");
    command.stdout(file).stderr(errors).spawn().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"))
}

fn connected(socket: &Path, folder: &Path) -> UnixStream {
    let stream = until("the emulator runs", Duration::from_secs(60), || {
        UnixStream::connect(socket).map_err(|_| fs::read_to_string(folder.join("qemu.log")).unwrap_or_default())
    });
    stream.set_read_timeout(Some(COMMAND)).expect("a limit can be set");
    stream
}

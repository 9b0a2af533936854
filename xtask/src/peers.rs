//! What a request costs here and in other NBD servers, side by side in one run.
//!
//! ```text
//!   for each load, for each round, for each server in turn (every round begins with another one):
//!       CPU time of the server ──► shimai bench on its socket ──► CPU time again ──► difference / requests
//! ```
//!
//! Cost is CPU time of the server's process for a million requests: it does not depend on how fast the disk happens to be,
//! and hardly on what else the machine does. All servers have an image on the same file system and one connection; ours is
//! a Primary that is alone. What the kernel does on its own threads (writeback) is in nobody's figure.
//!
//! Servers that use the page cache are to be compared with each other, and those that bypass it (`direct`) likewise. Before
//! each turn what the last one left in the page cache is written back, so that nobody pays for another's writes.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::steps::run;

/// Size of each server's image, and of the part that is used.
const IMAGE_BYTES: u64 = 512 << 20;
const RANGE_BYTES: u64 = 448 << 20;
/// Requests in flight.
const DEPTH: &str = "32";
/// How often each server has its turn with each load (SHIMAI_PEERS_ROUNDS).
const ROUNDS: usize = 5;
/// How long a turn is: some hundred thousand requests.
const TURN_SECONDS: &str = "2";
/// How long a server may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is measured.
const LOADS: &[&str] = &["randwrite", "randread"];
/// The server that the others are compared with.
const YARDSTICK: &str = "nbdkit file";

/// A server at work.
struct Server {
    name: &'static str,
    process: Child,
    uri: String,
    image: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What one server did with one load, all rounds together, and each round's cost for its spread.
#[derive(Default)]
struct Tally {
    requests: f64,
    cpu_seconds: f64,
    requests_per_s: Vec<f64>,
    costs: Vec<f64>,
}

/// Runs the comparison and prints its tables.
pub(crate) fn compare() -> Result<()> {
    run(Command::new("cargo").args(["build", "--release", "--locked", "--bins"]))?;
    let folder = std::env::current_dir()?.join("target/peers");
    // Left by a run that was interrupted.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let result = start_all(&folder).and_then(|servers| LOADS.iter().try_for_each(|load| measure_load(load, &servers)));
    fs::remove_dir_all(&folder)?;
    result
}

fn measure_load(load: &str, servers: &[Server]) -> Result<()> {
    let rounds = match std::env::var("SHIMAI_PEERS_ROUNDS") {
        Ok(text) => text.parse().context("SHIMAI_PEERS_ROUNDS is not a number")?,
        Err(_) => ROUNDS,
    };
    let mut tallies: Vec<Tally> = servers.iter().map(|_| Tally::default()).collect();
    for round in 0..rounds {
        for turn in 0..servers.len() {
            let index = (round + turn) % servers.len();
            servers.iter().try_for_each(|server| fs::File::open(&server.image)?.sync_all())?;
            measure(load, &servers[index], &mut tallies[index])?;
        }
    }
    print!("{}", table(load, servers.iter().map(|server| server.name).zip(&tallies)));
    Ok(())
}

/// One turn.
fn measure(load: &str, server: &Server, tally: &mut Tally) -> Result<()> {
    let range = RANGE_BYTES.to_string();
    let before = cpu_seconds(server.process.id())?;
    let mut command = Command::new(program("shimai"));
    command.args(["bench", &server.uri, "--load", load, "--depth", DEPTH, "--seconds", TURN_SECONDS]);
    let output = command.args(["--range-bytes", &range, "--json"]).stderr(Stdio::inherit()).output()?;
    let cpu = cpu_seconds(server.process.id())? - before;
    if !output.status.success() {
        bail!("{}: {load} ended with {}", server.name, output.status);
    }
    let report: Value = serde_json::from_slice(&output.stdout).context("shimai bench printed no JSON")?;
    let kind = if load == "randread" { "read" } else { "write" };
    let number = |name: &str| report["kinds"][kind][name].as_f64().with_context(|| format!("no {name} in {report}"));
    let requests = number("requests")?;
    tally.requests += requests;
    tally.cpu_seconds += cpu;
    tally.requests_per_s.push(number("requests_per_s")?);
    tally.costs.push(cpu / requests * 1e6);
    Ok(())
}

fn table<'a>(load: &str, rows: impl Iterator<Item = (&'a str, &'a Tally)> + Clone) -> String {
    let cost = |tally: &Tally| tally.cpu_seconds / tally.requests * 1e6;
    let yardstick = rows.clone().find(|(name, _)| *name == YARDSTICK).map(|(_, tally)| cost(tally));
    let mut text = format!("\n{load}, 4 KiB, {DEPTH} in flight\n");
    let head = ["server", "CPU s/1M", "least", "most", "ratio", "requests/s"];
    let [server, middle, least, most, ratio, speed] = head;
    let mut line = |cells: [String; 6]| {
        let [name, cost, least, most, ratio, speed] = cells;
        writeln!(text, "  {name:28} {cost:>9} {least:>7} {most:>7} {ratio:>7} {speed:>11}")
            .expect("a String takes all");
    };
    line([server, middle, least, most, ratio, speed].map(str::to_owned));
    for (name, tally) in rows {
        let least = tally.costs.iter().copied().fold(f64::INFINITY, f64::min);
        let most = tally.costs.iter().copied().fold(0.0, f64::max);
        let ratio = yardstick.map_or_else(String::new, |yardstick| format!("{:.2}", cost(tally) / yardstick));
        let speed = tally.requests_per_s.iter().sum::<f64>() / tally.requests_per_s.len() as f64;
        line([
            name.to_owned(),
            format!("{:.2}", cost(tally)),
            format!("{least:.2}"),
            format!("{most:.2}"),
            ratio,
            format!("{speed:.0}"),
        ]);
    }
    text
}

fn start_all(folder: &Path) -> Result<Vec<Server>> {
    let mut servers = vec![
        start_shimaid("shimaid, direct", folder, 0, &[])?,
        start_shimaid("shimaid, page cache", folder, 1, &["--buffered"])?,
    ];
    let image = image(folder, "nbdkit")?;
    let socket = folder.join("nbdkit.nbd");
    let mut nbdkit = Command::new("nbdkit");
    nbdkit.args(["--foreground", "--unix"]).arg(&socket).arg("file").arg(&image);
    servers.push(start(YARDSTICK, &mut nbdkit, &socket, image)?);
    for (name, cache, aio) in [
        ("qemu-nbd, direct, io_uring", "none", "io_uring"),
        ("qemu-nbd, direct, native", "none", "native"),
        ("qemu-nbd, page cache, uring", "writeback", "io_uring"),
    ] {
        match start_qemu(name, folder, cache, aio) {
            Ok(server) => servers.push(server),
            Err(error) => println!("without {name}: {error:#}"),
        }
    }
    Ok(servers)
}

fn start_qemu(name: &'static str, folder: &Path, cache: &str, aio: &str) -> Result<Server> {
    let stem = format!("qemu-{cache}-{aio}");
    let image = image(folder, &stem)?;
    let socket = folder.join(format!("{stem}.nbd"));
    let mut command = Command::new("qemu-nbd");
    command.args(["--persistent", "--format=raw", &format!("--cache={cache}"), &format!("--aio={aio}"), "--socket"]);
    start(name, command.arg(&socket).arg(&image), &socket, image)
}

/// A daemon with one resource whose peer does not exist, made Primary.
fn start_shimaid(name: &'static str, folder: &Path, number: u16, options: &[&str]) -> Result<Server> {
    let stem = format!("shimaid{number}");
    let folder = folder.join(&stem);
    fs::create_dir_all(&folder)?;
    let image = image(&folder, "disk")?;
    let config = folder.join("shimai.conf");
    fs::write(&config, configuration(&image, free_ports()?))?;
    let common = |program: &Path| {
        let mut command = Command::new(program);
        command.arg("--config").arg(&config).args(["--node", "here", "--run-dir"]).arg(&folder);
        command
    };
    run(common(&program("shimai")).args(["create-md", "--force", "bench"]).stdout(Stdio::null()))?;
    let mut daemon = common(&program("shimaid"));
    daemon.arg("--state-dir").arg(&folder).args(options).env("SHIMAI_LOG", "warn");
    let mut server = start(name, &mut daemon, &folder.join("control.sock"), image)?;
    run(common(&program("shimai")).args(["up", "bench"]))?;
    run(common(&program("shimai")).args(["primary", "--force", "bench"]))?;
    server.uri = format!("nbd+unix:///bench?socket={}", folder.join("bench.nbd").display());
    Ok(server)
}

fn configuration(image: &Path, [here, absent]: [u16; 2]) -> String {
    let host = |name: &str, port: u16| {
        format!(
            "  on {name} {{\n    device /dev/drbd0;\n    disk {};\n    address 127.0.0.1:{port};\n    \
             meta-disk internal;\n  }}\n",
            image.display()
        )
    };
    format!("resource bench {{\n  protocol C;\n{}{}}}\n", host("here", here), host("absent", absent))
}

/// Two ports that nobody uses now; both are held until both are known, so they differ.
fn free_ports() -> Result<[u16; 2]> {
    let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    let [here, absent] = listeners.map(|listener| listener.local_addr().map(|address| address.port()));
    Ok([here?, absent?])
}

/// Starts a server and waits for its socket.
fn start(name: &'static str, command: &mut Command, socket: &Path, image: PathBuf) -> Result<Server> {
    let process = command.stdin(Stdio::null()).spawn().with_context(|| format!("{name} cannot be started"))?;
    let mut server = Server { name, process, uri: format!("nbd+unix:///?socket={}", socket.display()), image };
    let deadline = Instant::now() + PATIENCE;
    while !socket.exists() {
        if let Some(status) = server.process.try_wait()? {
            bail!("{name} ended with {status}");
        }
        if Instant::now() > deadline {
            bail!("{name} made no socket {}", socket.display());
        }
        pause();
    }
    Ok(server)
}

#[expect(clippy::disallowed_methods, reason = "a socket that is about to appear has no event")]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// A file with all its blocks there: finding space is not what is measured.
fn image(folder: &Path, stem: &str) -> Result<PathBuf> {
    let path = folder.join(format!("{stem}.img"));
    let mut file = fs::File::create(&path)?;
    let mebibyte = vec![0x5a; 1 << 20];
    for _ in 0..IMAGE_BYTES >> 20 {
        std::io::Write::write_all(&mut file, &mebibyte)?;
    }
    file.sync_all()?;
    Ok(path)
}

/// CPU time of a process with all its threads so far, in user and kernel mode.
fn cpu_seconds(process: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).context("the server is gone")?;
    let ticks = ticks(&text).with_context(|| format!("unexpected {text:?}"))?;
    // USER_HZ, which is 100 wherever Linux runs.
    Ok(ticks as f64 / 100.0)
}

/// The 14th and 15th field; the second one may contain blanks and is in brackets.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

fn program(name: &str) -> PathBuf {
    Path::new("target/release").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_a_strange_name() {
        let stat = "7 (a) b ) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn the_table_compares_with_the_yardstick() {
        let tally = |cpu_seconds: f64| Tally {
            requests: 1e6,
            cpu_seconds,
            requests_per_s: vec![5e4],
            costs: vec![cpu_seconds],
        };
        let (ours, theirs) = (tally(5.0), tally(10.0));
        let text = table("randwrite", [("ours", &ours), (YARDSTICK, &theirs)].into_iter());
        assert!(text.contains("0.50") && text.contains("1.00"), "{text}");
    }
}

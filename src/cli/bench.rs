//! `bench`: a load on a volume from an NBD client's point of view, and what it measures.
//!
//! Each connection has a thread and keeps `depth` requests in flight: whatever is answered is replaced at once. A flush
//! goes out among the writes and is measured on its own. Everything is counted from the answer back to the request.
//!
//! A rate is what was answered by the time it took, from the first request, when all connections stand, to the last answer:
//! requests that are slow must not count as if they had been answered in time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::arguments::{Bench, Common, Target};
use super::histogram::Histogram;
use super::nbd::{Address, Connection, Place};
use crate::engine::NBD_CLIENTS_MAX;
use crate::io::random::random_u64;
use crate::nbd::client::ClientEvent;

/// How long to wait for answers before looking at the clock.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long after the end the last answers may take.
const LAST_ANSWERS: Duration = Duration::from_secs(30);
/// Requests begin at multiples of this.
const ALIGNMENT: u64 = 4096;

/// What a request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Read,
    Write,
    Flush,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Flush];

    const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
        }
    }
}

/// What one kind of request did.
#[derive(Clone, Debug, Default)]
struct Tally {
    latencies: Histogram,
    bytes: u64,
    errors: u64,
}

/// What was measured, by kind.
#[derive(Clone, Debug, Default)]
struct Tallies(BTreeMap<Kind, Tally>);

impl Tallies {
    fn merge(&mut self, other: &Self) {
        for (kind, tally) in &other.0 {
            let own = self.0.entry(*kind).or_default();
            own.latencies.merge(&tally.latencies);
            own.bytes += tally.bytes;
            own.errors += tally.errors;
        }
    }
}

/// A small generator; the quality of the places does not matter, its speed does.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// Measures a volume.
pub(super) fn bench(common: &Common, options: &Bench) -> anyhow::Result<u8> {
    let address = address(common, &options.volume)?;
    check(options)?;
    let seed = random_u64().context("no random numbers")?;
    let connections = connections(&address, options.connections)?;
    let started = Instant::now();
    let begin = |(number, connection): (u64, Connection)| {
        let options = options.clone();
        std::thread::spawn(move || worker(connection, &options, number, seed.wrapping_add(number << 32)))
    };
    let workers: Vec<_> = (0..).zip(connections).map(begin).collect();
    let (mut all, mut ended) = (Tallies::default(), started);
    for worker in workers {
        let (tallies, last_answer) = worker.join().map_err(|_| anyhow::anyhow!("a connection's thread panicked"))??;
        all.merge(&tallies);
        ended = ended.max(last_answer);
    }
    let seconds = (ended - started).as_secs_f64();
    if options.json {
        print_json(&all, seconds)
    } else {
        print_text(&all, seconds)
    }
    Ok(u8::from(all.0.values().any(|tally| tally.errors > 0)))
}

/// An address, or a resource of this node.
fn address(common: &Common, volume: &str) -> anyhow::Result<Address> {
    if volume.contains("://") {
        return volume.parse();
    }
    let target: Target = volume.parse().map_err(|error: String| anyhow::anyhow!(error))?;
    let name = target.resource.context("name one resource")?;
    let place = Place::Unix(common.run_dir.join(format!("{name}.nbd")));
    Ok(Address { place, export: volume.to_owned() })
}

fn check(options: &Bench) -> anyhow::Result<()> {
    for &bytes in &options.block_bytes {
        if bytes == 0 || !u64::from(bytes).is_multiple_of(512) || bytes > 32 << 20 {
            bail!("{bytes} bytes are no request: multiples of 512 up to 32 MiB are");
        }
    }
    Ok(())
}

/// All connections, before any of them is used.
fn connections(address: &Address, count: u32) -> anyhow::Result<Vec<Connection>> {
    let open = |number| {
        Connection::open(address).with_context(|| match number as usize > NBD_CLIENTS_MAX {
            true => format!("connection {number} of {count}: shimaid serves {NBD_CLIENTS_MAX} clients of a resource"),
            false => format!("connection {number} of {count}"),
        })
    };
    (1..=count).map(open).collect()
}

/// A request in flight.
struct InFlight {
    kind: Kind,
    bytes: u32,
    since: Instant,
}

/// One connection at work.
struct Worker<'a> {
    options: &'a Bench,
    connection: Connection,
    random: Random,
    payload: Vec<u8>,
    range_bytes: u64,
    /// Where the next request of a sequential load goes.
    position: u64,
    writes_since_flush: u32,
    in_flight: BTreeMap<u64, InFlight>,
    next_cookie: u64,
    tallies: Tallies,
}

/// What one connection measured, and when its last answer came.
fn worker(connection: Connection, options: &Bench, number: u64, seed: u64) -> anyhow::Result<(Tallies, Instant)> {
    let range_bytes = options.range_bytes.unwrap_or(u64::MAX).min(connection.bytes);
    let largest = options.block_bytes.iter().copied().max().unwrap_or(4096);
    if range_bytes < u64::from(largest) {
        bail!("a volume of {range_bytes} bytes has no room for a request of {largest}");
    }
    let mut random = Random::new(seed);
    let payload = (0..largest.div_ceil(8)).flat_map(|_| random.next().to_ne_bytes()).collect();
    let mut worker = Worker {
        options,
        connection,
        random,
        payload,
        range_bytes,
        // Sequential connections begin apart from each other.
        position: range_bytes / u64::from(options.connections) * number / ALIGNMENT * ALIGNMENT,
        writes_since_flush: 0,
        in_flight: BTreeMap::new(),
        next_cookie: 0,
        tallies: Tallies::default(),
    };
    worker.run(Instant::now() + Duration::from_secs(options.seconds))?;
    let last_answer = Instant::now();
    worker.connection.close();
    Ok((worker.tallies, last_answer))
}

impl Worker<'_> {
    fn run(&mut self, end: Instant) -> anyhow::Result<()> {
        loop {
            let now = Instant::now();
            while now < end && self.in_flight.len() < self.options.depth as usize {
                self.submit(now);
            }
            if self.in_flight.is_empty() {
                return Ok(());
            }
            if now > end + LAST_ANSWERS {
                bail!("{} requests were not answered within {} s", self.in_flight.len(), LAST_ANSWERS.as_secs());
            }
            for event in self.connection.exchange(PATIENCE)? {
                if let ClientEvent::Reply { cookie, result } = event {
                    self.count(cookie, result.is_ok());
                }
            }
        }
    }

    fn submit(&mut self, now: Instant) {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let (kind, bytes) = self.choose();
        let offset = self.place(bytes);
        let fua = self.random.below(100) < u64::from(self.options.fua_percent);
        let (client, out) = self.connection.requests();
        match kind {
            Kind::Read => client.read(cookie, offset, bytes, out),
            Kind::Write => {
                client.write(cookie, offset, self.payload.get(..bytes as usize).unwrap_or_default(), fua, out);
            }
            Kind::Flush => client.flush(cookie, out),
        }
        self.in_flight.insert(cookie, InFlight { kind, bytes, since: now });
    }

    fn choose(&mut self) -> (Kind, u32) {
        let sizes = &self.options.block_bytes;
        let size = sizes.get(self.random.below(sizes.len() as u64) as usize).copied().unwrap_or(4096);
        let reads_percent = match self.options.load.as_str() {
            "read" | "randread" => 100,
            "write" | "randwrite" => 0,
            _ => self.options.read_percent,
        };
        if self.random.below(100) < u64::from(reads_percent) {
            return (Kind::Read, size);
        }
        if self.options.flush_every > 0 && self.writes_since_flush >= self.options.flush_every {
            self.writes_since_flush = 0;
            return (Kind::Flush, 0);
        }
        self.writes_since_flush += 1;
        (Kind::Write, size)
    }

    fn place(&mut self, bytes: u32) -> u64 {
        let bytes = u64::from(bytes);
        let last = (self.range_bytes - bytes) / ALIGNMENT;
        if self.options.load.starts_with("rand") {
            return self.random.below(last + 1) * ALIGNMENT;
        }
        if self.position + bytes > self.range_bytes {
            self.position = 0;
        }
        let position = self.position;
        self.position += bytes;
        position
    }

    fn count(&mut self, cookie: u64, is_good: bool) {
        let Some(InFlight { kind, bytes, since }) = self.in_flight.remove(&cookie) else { return };
        let tally = self.tallies.0.entry(kind).or_default();
        if is_good {
            tally.latencies.add(since.elapsed());
            tally.bytes += u64::from(bytes);
        } else {
            tally.errors += 1;
        }
    }
}

fn print_text(tallies: &Tallies, seconds: f64) {
    println!(
        "{:<6} {:>10} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7}",
        "", "requests/s", "MiB/s", "p50", "p90", "p99", "p99.9", "max", "errors"
    );
    for kind in Kind::ALL {
        let Some(tally) = tallies.0.get(&kind) else { continue };
        let latencies = &tally.latencies;
        let percentile = |percent| shown(latencies.percentile(percent));
        println!(
            "{:<6} {:>10.0} {:>10.1} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7}",
            kind.name(),
            latencies.total() as f64 / seconds,
            tally.bytes as f64 / seconds / f64::from(1 << 20),
            percentile(50.0),
            percentile(90.0),
            percentile(99.0),
            percentile(99.9),
            shown(latencies.max()),
            tally.errors
        );
    }
}

fn print_json(tallies: &Tallies, seconds: f64) {
    let mut kinds = serde_json::Map::new();
    for (kind, tally) in &tallies.0 {
        let latencies = &tally.latencies;
        let micros = |percent| latencies.percentile(percent).as_secs_f64() * 1e6;
        let row = serde_json::json!({
            "requests": latencies.total(),
            "requests_per_s": latencies.total() as f64 / seconds,
            "bytes_per_s": tally.bytes as f64 / seconds,
            "errors": tally.errors,
            "latency_us": {
                "p50": micros(50.0), "p90": micros(90.0), "p99": micros(99.0), "p99.9": micros(99.9),
                "max": latencies.max().as_secs_f64() * 1e6,
            },
        });
        kinds.insert(kind.name().to_owned(), row);
    }
    println!("{}", serde_json::json!({ "seconds": seconds, "kinds": kinds }));
}

/// `87 µs`, `1.5 ms`.
fn shown(latency: Duration) -> String {
    let micros = latency.as_secs_f64() * 1e6;
    match micros {
        micros if micros < 1000.0 => format!("{micros:.0} µs"),
        micros if micros < 1e6 => format!("{:.1} ms", micros / 1e3),
        micros => format!("{:.2} s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_shown_with_their_unit() {
        assert_eq!(shown(Duration::from_micros(87)), "87 µs");
        assert_eq!(shown(Duration::from_micros(1_540)), "1.5 ms");
        assert_eq!(shown(Duration::from_millis(2_500)), "2.50 s");
    }

    #[test]
    fn places_are_spread_and_below_the_bound() {
        let mut random = Random::new(7);
        let mut seen = [0; 10];
        (0..1000).for_each(|_| seen[random.below(10) as usize] += 1);
        assert!(seen.iter().all(|&count| count > 50), "{seen:?}");
    }
}

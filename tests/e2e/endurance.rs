//! A database and a verifying writer live through deaths and outages, one after another.
//!
//! A resource with two volumes: PostgreSQL on ext4 on the first, pgbench at work all the time; fio on the second, which
//! verifies what it wrote, or a writer with a ledger where it dies together with the Primary. In each round one thing
//! happens at a random moment: the Primary's daemon is killed, the Secondary's daemon is killed, or packets are lost for a
//! while. After each, the resync has moved no more than the real drbdmeta finds named on the disks, the data areas are
//! equal, the file system is clean, and pgbench's books balance.

use crate::harness::cluster::{is_connected, moved_kib, out_of_sync_kib};
use crate::harness::configuration::RESOURCE;
use crate::harness::disks::read_at;
use crate::harness::filesystem::{Disk, Postgres};
use crate::harness::load::{BLOCK, Dice, Ledger, Load};
use crate::harness::nbd::Nbd;
use crate::harness::tools::{kill, run, spawn};
use crate::harness::wait::until;
use crate::harness::{Cluster, Format, LONG, Node, Options, clients, rounds, seed};
use std::fs;
use std::process::Child;

const VOLUMES: u16 = 2;
/// The volume without a file system.
const RAW: u16 = 1;
const RAW_EXPORT: &str = "data/1";
/// What fio writes in each of its jobs.
const FIO_BYTES: u64 = 32 << 20;
const FIO_JOBS: u64 = 2;

/// What happens in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    PrimaryDies,
    SecondaryDies,
    Outage,
}

/// The database, open and at work.
struct Work {
    disk: Disk,
    postgres: Postgres,
    pgbench: Child,
}

impl Work {
    /// Transactions that are committed, as a client sees them.
    fn commits(&self) -> u64 {
        self.postgres.query("SELECT count(*) FROM pgbench_history").parse().expect("a number")
    }

    /// Waits for more of them; how many there are then.
    fn wait_for(&self, more: u64) -> u64 {
        let goal = self.commits() + more;
        until(&format!("{more} more transactions"), LONG, || match self.commits() {
            now if now >= goal => Ok(now),
            now => Err(format!("{now} of {goal}")),
        })
    }

    /// The server ends as in a crash, the file system is unmounted and checked.
    fn end(mut self) {
        kill(&mut self.pgbench);
        self.postgres.kill();
        self.disk.unmount();
        self.disk.check();
    }

    /// The volume has died under it.
    fn died(mut self) {
        kill(&mut self.pgbench);
        self.postgres.kill();
    }
}

struct Story {
    cluster: Cluster,
    protocol: char,
    dice: Dice,
    is_alpha_primary: bool,
    /// Transactions that nobody may lose.
    commits: u64,
}

impl Story {
    fn begin(protocol: char, formats: [Format; 2]) -> Self {
        let options = Options { protocol, formats, volumes: VOLUMES, disk_mib: 256, ..Options::default() };
        let story = Self {
            cluster: Cluster::with_primary(options),
            protocol,
            dice: Dice::new(seed(protocol.into())),
            is_alpha_primary: true,
            commits: 0,
        };
        let disk = Disk::attach(story.primary());
        disk.format();
        Postgres::create(disk.mount());
        let postgres = Postgres::start(&mount(story.primary()), &story.log("create"));
        run(&mut postgres.client("pgbench", &["-i", "-q", "-s", "1"]));
        run(&mut postgres.client("psql", &["-c", "CHECKPOINT"]));
        postgres.kill();
        disk.unmount();
        story
    }

    fn primary(&self) -> &Node {
        if self.is_alpha_primary { &self.cluster.a } else { &self.cluster.b }
    }

    fn secondary(&self) -> &Node {
        self.cluster.other(self.primary())
    }

    fn node_mut(&mut self, is_alpha: bool) -> &mut Node {
        if is_alpha { &mut self.cluster.a } else { &mut self.cluster.b }
    }

    fn log(&self, name: &str) -> std::path::PathBuf {
        self.cluster.scratch().join(format!("{name}.log"))
    }

    /// The database on the Primary, as it is found there.
    fn open(&self) -> Work {
        let disk = Disk::attach(self.primary());
        disk.check();
        disk.mount();
        let mount = mount(self.primary());
        // Another process may have the dead server's number by now.
        let _ = fs::remove_file(mount.join("postgres/postmaster.pid"));
        let postgres = Postgres::start(&mount, &self.log("postgres"));
        let mut client = postgres.client("pgbench", &["-c", "4", "-T", "3600", "-n"]);
        let pgbench = spawn(&mut client, &self.log("pgbench"));
        Work { disk, postgres, pgbench }
    }

    /// As [`Self::open`], and what was committed is there.
    fn reopen(&self) -> Work {
        let work = self.open();
        let found = work.commits();
        assert!(found >= self.commits, "{found} transactions are there, {} were seen committed", self.commits);
        work.postgres.assert_balanced();
        work
    }

    fn round(&mut self, fate: Fate) {
        println!("protocol {}: {fate:?}, {} is Primary", self.protocol, self.primary().name);
        match fate {
            Fate::PrimaryDies => self.primary_dies(),
            Fate::SecondaryDies => self.secondary_dies(),
            Fate::Outage => self.outage(),
        }
    }

    fn primary_dies(&mut self) {
        let blocks: Vec<u64> = (0..400).map(|_| self.dice.below(40_000)).collect();
        zero(self.primary(), &blocks);
        let work = self.reopen();
        let socket = self.primary().nbd_socket();
        let load = Load::start(&socket, RAW_EXPORT, blocks, self.dice.below(1 << 32), Ledger::default());
        load.wait_for(100 + self.dice.below(2000));
        let commits = work.wait_for(20 + self.dice.below(100));
        let was_alpha = self.is_alpha_primary;
        self.node_mut(was_alpha).kill9();
        let ledger = load.died();
        work.died();
        self.secondary().wait("the Primary is missed", LONG, |status| !is_connected(status));
        let takes_over = self.dice.below(2) == 0;
        if takes_over {
            self.is_alpha_primary = !was_alpha;
            self.primary().ok(&["primary", RESOURCE]);
            if self.protocol == 'C' {
                self.commits = commits;
                check_raw(self.primary(), &ledger);
            }
            let work = self.reopen();
            self.commits = work.wait_for(20);
            work.end();
        }
        let survivor = if was_alpha { &self.cluster.b } else { &self.cluster.a };
        let dead = self.cluster.other(survivor);
        let named = self.cluster.named_kib(dead) + out_of_sync_kib(survivor);
        self.node_mut(was_alpha).start();
        let dead = if was_alpha { &self.cluster.a } else { &self.cluster.b };
        dead.up();
        self.cluster.assert_in_sync_and_identical();
        let moved = moved_kib(dead);
        assert!(moved <= named, "{moved} KiB were resynced, the disks name {named}");
        if !takes_over {
            self.primary().ok(&["primary", RESOURCE]);
            self.commits = commits;
            check_raw(self.primary(), &ledger);
            self.reopen().end();
        }
    }

    fn secondary_dies(&mut self) {
        let work = self.reopen();
        let was_alpha = !self.is_alpha_primary;
        let (uri, folder) = (self.primary().nbd_uri(RAW), self.cluster.scratch().to_owned());
        let goal = written_kib(&self.primary().status()) + FIO_BYTES / 1024 / 8 + self.dice.below(FIO_BYTES / 1024);
        std::thread::scope(|scope| {
            let fio = scope.spawn(|| clients::fio_verify(&uri, &folder, FIO_JOBS, FIO_BYTES, None));
            wait_written(self.primary(), goal);
            self.node_mut(was_alpha).kill9();
            fio.join().expect("fio finds what it wrote");
        });
        self.primary().wait("the Secondary is missed", LONG, |status| !is_connected(status));
        self.commits = work.wait_for(20);
        work.end();
        let named = self.cluster.named_kib(self.secondary()) + out_of_sync_kib(self.primary());
        self.node_mut(was_alpha).start();
        self.secondary().up();
        self.cluster.assert_in_sync_and_identical();
        let moved = moved_kib(self.secondary());
        assert!(moved <= named, "{moved} KiB were resynced, the disks name {named}");
    }

    fn outage(&mut self) {
        let work = self.reopen();
        let (uri, folder) = (self.primary().nbd_uri(RAW), self.cluster.scratch().to_owned());
        let goal = written_kib(&self.primary().status()) + FIO_BYTES / 1024 / 8 + self.dice.below(FIO_BYTES / 1024);
        std::thread::scope(|scope| {
            let fio = scope.spawn(|| clients::fio_verify(&uri, &folder, FIO_JOBS, FIO_BYTES, None));
            wait_written(self.primary(), goal);
            self.cluster.cut(self.primary());
            work.wait_for(20 + self.dice.below(50));
            self.cluster.network.heal();
            self.primary().wait("the peer is there again", LONG, is_connected);
            fio.join().expect("fio finds what it wrote");
        });
        self.commits = work.wait_for(20);
        work.end();
        self.cluster.assert_in_sync_and_identical();
    }
}

fn mount(node: &Node) -> std::path::PathBuf {
    node.folder.join("mount")
}

/// Overwrites the blocks with zeroes, so that a new ledger can begin at nothing.
fn zero(node: &Node, blocks: &[u64]) {
    let mut nbd = Nbd::open(&node.nbd_socket(), RAW_EXPORT).expect("a Primary serves");
    for block in blocks {
        nbd.write(block * BLOCK, &[0; BLOCK as usize]).expect("the write is done");
    }
}

fn check_raw(node: &Node, ledger: &Ledger) {
    let disk = &node.disks[usize::from(RAW)];
    ledger.check(&format!("{}'s disk", node.name), |block| read_at(disk, block * BLOCK, BLOCK as usize));
}

/// What was written to the volume without a file system.
fn written_kib(status: &shimai::control::status::ResourceStatus) -> u64 {
    status.volumes[usize::from(RAW)].written_kib
}

/// Waits until so much was written to it.
fn wait_written(node: &Node, goal: u64) {
    node.wait("fio is at work", LONG, |status| written_kib(status) >= goal);
}

fn tell(protocol: char, formats: [Format; 2]) {
    let mut story = Story::begin(protocol, formats);
    for _ in 0..rounds(1) {
        for fate in [Fate::PrimaryDies, Fate::SecondaryDies, Fate::Outage] {
            story.round(fate);
        }
    }
}

#[test]
fn a_database_and_a_verifying_writer_endure_in_protocol_a() {
    tell('A', Format::BOTH_V08);
}

#[test]
fn a_database_and_a_verifying_writer_endure_in_protocol_b() {
    tell('B', Format::BOTH_V09);
}

#[test]
fn a_database_and_a_verifying_writer_endure_in_protocol_c() {
    tell('C', Format::MIXED);
}

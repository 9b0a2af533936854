//! PostgreSQL on ext4 on a replicated volume, and what is left of it after the Primary died.

use crate::harness::cluster::is_connected;
use crate::harness::configuration::RESOURCE;
use crate::harness::filesystem::{Disk, Postgres};
use crate::harness::tools::{run, spawn};
use crate::harness::wait::until;
use crate::harness::{Cluster, Format, LONG, Options, seconds};
use std::fs;

#[test]
fn a_database_survives_the_death_of_the_primary() {
    let mut cluster = Cluster::with_primary(Options { disk_mib: 512, formats: Format::MIXED, ..Options::default() });
    let folder = cluster.scratch().to_owned();
    let disk = Disk::attach(&cluster.a);
    disk.format();
    let mount = disk.mount();
    Postgres::create(mount);
    let postgres = Postgres::start(mount, &folder.join("postgres-a.log"));
    run(&mut postgres.client("pgbench", &["-i", "-q", "-s", "1"]));
    let time = seconds(5, 60).to_string();
    run(&mut postgres.client("pgbench", &["-c", "4", "-j", "2", "-T", &time]));
    // And while it is at work, the Primary's daemon is killed.
    let log = folder.join("transactions");
    let mut client = postgres.client("pgbench", &["-c", "4", "-T", "600", "-n", "--progress=1"]);
    let mut pgbench = spawn(&mut client, &log);
    let before: u64 = postgres.query("SELECT count(*) FROM pgbench_history").parse().expect("a number");
    let acknowledged = until("pgbench is at work", LONG, || {
        let now: u64 = postgres.query("SELECT count(*) FROM pgbench_history").parse().expect("a number");
        if now > before + 40 { Ok(now) } else { Err(format!("{now} after {before}")) }
    });
    cluster.a.kill9();
    crate::harness::tools::kill(&mut pgbench);
    postgres.kill();
    drop(disk);

    cluster.b.wait("the Primary is missed", LONG, |status| !is_connected(status));
    cluster.b.ok(&["primary", RESOURCE]);
    let disk = Disk::attach(&cluster.b);
    disk.check();
    let mount = disk.mount();
    // Another process may have the dead server's number by now.
    let _ = fs::remove_file(mount.join("postgres/postmaster.pid"));
    let postgres = Postgres::start(mount, &folder.join("postgres-b.log"));
    let found: u64 = postgres.query("SELECT count(*) FROM pgbench_history").parse().expect("a number");
    assert!(found >= acknowledged, "{found} transactions are there, {acknowledged} were seen committed");
    postgres.assert_balanced();
    run(&mut postgres.client("pg_amcheck", &["--install-missing", "--heapallindexed"]));
    postgres.kill();
    disk.unmount();
    disk.check();
    drop(disk);

    cluster.a.start();
    cluster.a.up();
    cluster.assert_in_sync_and_identical();
}

#[test]
fn files_written_before_a_switchover_are_there_after_it() {
    let cluster = Cluster::with_primary(Options { disk_mib: 128, ..Options::default() });
    let disk = Disk::attach(&cluster.a);
    disk.format();
    fs::write(disk.mount().join("letter"), "to the sister").expect("the file system takes it");
    disk.unmount();
    drop(disk);
    cluster.a.wait("the client has left", LONG, |status| !status.volumes[0].open);
    cluster.a.ok(&["secondary", RESOURCE]);
    cluster.b.ok(&["primary", RESOURCE]);
    let disk = Disk::attach(&cluster.b);
    disk.check();
    let letter = fs::read_to_string(disk.mount().join("letter")).expect("the file is there");
    assert_eq!(letter, "to the sister");
    disk.unmount();
    disk.check();
    drop(disk);
    cluster.assert_in_sync_and_identical();
}

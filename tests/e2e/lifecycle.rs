//! The daemon ends in order, starts in any state, and follows a changed configuration.

use crate::harness::cluster::{is_connected, peer, wait_disk};
use crate::harness::configuration::RESOURCE;
use crate::harness::disks::{make_sparse, read_at};
use crate::harness::failing::FailingDisk;
use crate::harness::load::{BLOCK, Ledger, Load};
use crate::harness::nbd::Nbd;
use crate::harness::node::SHIMAI;
use crate::harness::tools::run;
use crate::harness::wait::until;
use crate::harness::{Cluster, Format, LONG, Options, SHORT};
use nix::sys::signal::Signal;
use shimai::model::state::{ConnectionState, DiskState};

#[test]
fn a_terminated_primary_ends_in_order_and_needs_no_resync() {
    let mut cluster = Cluster::with_primary(Options { disk_mib: 256, formats: Format::MIXED, ..Options::default() });
    let load =
        Load::start(&cluster.a.nbd_socket(), RESOURCE, (0..300).map(|at| at * 200).collect(), 1, Ledger::default());
    load.wait_for(500);
    let ledger = load.stop();
    cluster.wait_in_sync();
    assert_eq!(cluster.a.stop(), Some(0));
    cluster.a.start();
    cluster.a.up();
    cluster.assert_in_sync_and_identical();
    let volume = peer(&cluster.a.status()).volumes[0].clone();
    assert_eq!((volume.received_kib, volume.sent_kib), (0, 0), "nothing was resynced");
    ledger.check("alpha's disk", |block| read_at(&cluster.a.disks[0], block * BLOCK, BLOCK as usize));
}

#[test]
fn a_primary_terminated_under_load_loses_nothing() {
    let mut cluster = Cluster::with_primary(Options { formats: Format::BOTH_V08, ..Options::default() });
    let load = Load::start(&cluster.a.nbd_socket(), RESOURCE, (0..1000).collect(), 2, Ledger::default());
    load.wait_for(500);
    assert_eq!(cluster.a.stop(), Some(0));
    let ledger = load.died();
    cluster.b.wait("the Primary is missed", LONG, |status| !is_connected(status));
    cluster.b.ok(&["primary", RESOURCE]);
    ledger.check("bravo's disk", |block| read_at(&cluster.b.disks[0], block * BLOCK, BLOCK as usize));
}

#[test]
fn down_is_refused_while_an_application_has_the_volume_open() {
    let cluster = Cluster::with_primary(Options::default());
    let nbd = Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("a Primary serves");
    cluster.a.refused(&["down", RESOURCE], 11);
    drop(nbd);
    cluster.a.wait("the client has left", LONG, |status| !status.volumes[0].open);
    cluster.a.ok(&["down", RESOURCE]);
    assert_eq!(cluster.a.ok(&["cstate", RESOURCE]), "Unconfigured\n");
}

#[test]
fn a_daemon_starts_again_in_every_state() {
    let mut cluster = Cluster::with_primary(Options {
        disk_mib: 256,
        formats: Format::BOTH_V08,
        disk: vec!["resync-rate 8M"],
        ..Options::default()
    });
    // As a Secondary that is Outdated.
    cluster.b.ok(&["disconnect", RESOURCE]);
    cluster.b.ok(&["outdate", RESOURCE]);
    assert_eq!(cluster.b.stop(), Some(0));
    let mut nbd = Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("a Primary serves");
    for mib in 0..60_u64 {
        nbd.write(mib << 20, &vec![mib as u8 + 1; 1 << 20]).expect("the write is done");
    }
    cluster.b.start();
    cluster.b.up();
    // As the target in the middle of a resync, killed.
    cluster.b.wait("the resync runs", LONG, |status| {
        let volume = &peer(status).volumes[0];
        volume.replication == ConnectionState::SyncTarget && volume.received_kib > 4096
    });
    cluster.b.kill9();
    cluster.b.start();
    cluster.b.up();
    // As the source in the middle of a resync, terminated.
    cluster.a.wait("the resync runs again", LONG, |status| {
        peer(status).volumes[0].replication == ConnectionState::SyncSource
    });
    drop(nbd);
    assert_eq!(cluster.a.stop(), Some(0));
    wait_disk(&cluster.b, DiskState::Inconsistent);
    cluster.a.start();
    cluster.a.up();
    cluster.assert_in_sync_and_identical();
}

#[test]
fn both_start_together_and_agree() {
    let mut cluster = Cluster::with_primary(Options { formats: Format::MIXED, ..Options::default() });
    for _ in 0..3 {
        for node in [&mut cluster.a, &mut cluster.b] {
            assert_eq!(node.stop(), Some(0));
        }
        cluster.start();
        cluster.up();
        cluster.assert_in_sync_and_identical();
        cluster.a.ok(&["primary", RESOURCE]);
    }
}

#[test]
fn a_node_that_starts_alone_is_consistent_and_waits() {
    let mut cluster = Cluster::ready(Options::default());
    assert_eq!(cluster.a.stop(), Some(0));
    assert_eq!(cluster.b.stop(), Some(0));
    cluster.a.start();
    cluster.a.up();
    let status = cluster.a.wait("attached", LONG, |status| status.volumes[0].disk >= DiskState::Outdated);
    assert!(
        status.volumes[0].disk >= DiskState::Consistent,
        "it was UpToDate when it left: {}",
        status.volumes[0].disk
    );
    cluster.b.start();
    cluster.b.up();
    cluster.assert_in_sync_and_identical();
}

#[test]
fn adjust_shows_a_plan_and_then_does_it() {
    let cluster = Cluster::with_primary(Options::default());
    assert_eq!(cluster.a.ok(&["adjust", "--dry-run", RESOURCE]), "");
    for node in cluster.nodes() {
        node.edit_config("resync-rate 400M", "resync-rate 300M");
        assert_eq!(node.ok(&["adjust", "--dry-run", RESOURCE]), "adjust data    # resync\n");
        node.ok(&["adjust", RESOURCE]);
        assert_eq!(node.ok(&["adjust", "--dry-run", RESOURCE]), "");
    }
    for node in cluster.nodes() {
        node.edit_config("protocol C", "protocol A");
        let plan = node.ok(&["adjust", "--dry-run", RESOURCE]);
        assert!(plan.contains("adjust data    # net"), "{plan}");
    }
    for node in cluster.nodes() {
        node.ok(&["adjust", RESOURCE]);
    }
    for node in cluster.nodes() {
        if peer(&node.status()).connection == ConnectionState::StandAlone {
            node.ok(&["connect", RESOURCE]);
        }
    }
    cluster.wait_both("connected with protocol A", |status| is_connected(status) && peer(status).protocol == Some('A'));
}

#[test]
fn adjust_lists_what_waits_for_the_next_attach_until_it_came() {
    let cluster = Cluster::with_primary(Options { disk: vec!["al-extents 100"], ..Options::default() });
    let node = &cluster.b;
    let plan = format!("detach {RESOURCE}/0 && attach {RESOURCE}/0    # al-extents; not done by adjust\n");
    node.edit_config("al-extents 100", "al-extents 200");
    for verb in [&["adjust", "--dry-run", RESOURCE][..], &["adjust", RESOURCE], &["adjust", RESOURCE]] {
        assert_eq!(node.ok(verb), plan);
    }
    node.ok(&["detach", RESOURCE]);
    node.ok(&["attach", RESOURCE]);
    assert_eq!(node.ok(&["adjust", RESOURCE]), "");
    node.edit_config("al-extents 200", "al-extents 200; size 8M");
    let sentence = node.refused(&["adjust", RESOURCE], 10);
    assert!(sentence.contains("the size of data/0 cannot change while its disk is in use"), "{sentence}");
}

/// Each volume has a slot of the device and leaves the others to whoever has them.
#[test]
fn volumes_share_a_metadata_device() {
    let mut cluster = Cluster::new(Options { volumes: 2, ..Options::default() });
    let shared = cluster.scratch().join("meta.img");
    make_sparse(&shared, 3 * (128 << 20));
    for (volume, disk) in cluster.a.disks.iter().enumerate() {
        let line = |meta: &str| format!("disk {};\n            meta-disk {meta};", disk.display());
        cluster.a.edit_config(&line("internal"), &line(&format!("{}[{volume}]", shared.display())));
    }
    cluster.create_md();
    cluster.start();
    cluster.up();
    cluster.wait_both("connected", is_connected);
    for volume in 0..2 {
        cluster.a.ok(&["new-current-uuid", "--clear-bitmap", &format!("{RESOURCE}/{volume}")]);
    }
    cluster.wait_in_sync();
    // The daemon has two slots; the third is free, and none of the two is.
    cluster.a.refused(&["dump-md", &format!("{RESOURCE}/1")], 20);
    cluster.a.ok(&["detach", &format!("{RESOURCE}/1")]);
    cluster.a.ok(&["dump-md", "--force", &format!("{RESOURCE}/1")]);
    cluster.a.refused(&["dump-md", &format!("{RESOURCE}/0")], 20);
    cluster.a.ok(&["attach", &format!("{RESOURCE}/1")]);
    cluster.wait_in_sync();
}

#[test]
fn adjust_brings_up_what_is_down() {
    let mut cluster = Cluster::new(Options::default());
    cluster.create_md();
    cluster.start();
    for node in cluster.nodes() {
        assert_eq!(node.ok(&["adjust", "--dry-run", "all"]), "up data\n");
        node.ok(&["adjust"]);
    }
    cluster.wait_both("connected", is_connected);
}

/// A peer that hangs holds the writes for a while only: it is dropped, and taken back when it wakes up.
#[test]
fn a_frozen_peer_is_dropped_and_taken_back() {
    let cluster = Cluster::with_primary(Options { formats: Format::BOTH_V08, ..Options::default() });
    let load = Load::start(&cluster.a.nbd_socket(), RESOURCE, (0..1000).collect(), 3, Ledger::default());
    load.wait_for(200);
    cluster.b.signal(Signal::SIGSTOP);
    cluster.a.wait("the frozen peer is dropped", LONG, |status| !is_connected(status));
    load.wait_for(200);
    cluster.b.signal(Signal::SIGCONT);
    load.wait_for(200);
    load.stop();
    cluster.assert_in_sync_and_identical();
}

#[test]
fn a_wait_for_a_resync_ends_when_both_disks_are_good_and_not_before() {
    let mut cluster = Cluster::new(Options { disk: vec!["resync-rate 8M"], ..Options::default() });
    cluster.create_md();
    cluster.start();
    cluster.a.up();
    let unanswered = cluster.a.refused(&["--timeout", "2", "wait-connect", RESOURCE], 5);
    assert!(unanswered.contains("waiting for the connection"), "{unanswered}");
    cluster.b.up();
    cluster.a.ok(&["wait-connect", RESOURCE]);
    // Connected, and nobody has said which disk counts.
    let hopeless = cluster.a.refused(&["wait-sync", RESOURCE], 17);
    assert!(hopeless.contains("Inconsistent here and Inconsistent on bravo, and no resync runs"), "{hopeless}");
    cluster.a.ok(&["primary", "--force", RESOURCE]);
    cluster.a.ok(&["pause-sync", RESOURCE]);
    for node in cluster.nodes() {
        let held = node.refused(&["--timeout", "2", "wait-sync", RESOURCE], 5);
        assert!(held.contains("paused"), "{held}");
    }
    cluster.a.ok(&["resume-sync", RESOURCE]);
    for node in cluster.nodes() {
        node.ok(&["wait-sync", RESOURCE]);
        assert_eq!(node.ok(&["dstate", RESOURCE]), "UpToDate/UpToDate\n");
    }
    cluster.b.ok(&["detach", RESOURCE]);
    let here = cluster.b.refused(&["wait-sync", RESOURCE], 16);
    assert!(here.contains("Diskless here") && here.contains("why data"), "{here}");
    cluster.a.refused(&["wait-sync", RESOURCE], 11);
}

/// A log on a full disk, or whose reader has gone, is no reason to stop serving.
#[test]
fn a_daemon_whose_log_cannot_be_written_serves_on() {
    let mut cluster = Cluster::new(Options::default());
    cluster.create_md();
    cluster.a.start_with_log("/dev/full".as_ref());
    cluster.b.start();
    cluster.up();
    cluster.wait_both("connected", is_connected);
    cluster.a.ok(&["new-current-uuid", "--clear-bitmap", RESOURCE]);
    cluster.a.ok(&["primary", RESOURCE]);
    cluster.b.kill9();
    cluster.a.wait("bravo is missed", LONG, |status| !is_connected(status));
    let mut nbd = Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("a Primary serves");
    nbd.write(0, &[7; 4096]).expect("the write is done");
    cluster.a.assert_alive();
}

/// Whoever reads the log may stop reading it: what the pipe does not take waits for nobody.
#[test]
fn a_daemon_whose_log_is_not_read_serves_on() {
    use std::os::fd::AsRawFd;
    let mut cluster = Cluster::new(Options::default());
    cluster.create_md();
    let (unread, log) = std::io::pipe().expect("descriptors are left");
    // A pipe of a page is full after some lines.
    let size = nix::fcntl::fcntl(&log, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).expect("Linux pipes can be resized");
    assert_eq!(size, 4096);
    cluster.a.start_with_log(format!("/proc/self/fd/{}", log.as_raw_fd()).as_ref());
    cluster.b.start();
    cluster.up();
    cluster.wait_both("connected", is_connected);
    cluster.a.ok(&["new-current-uuid", "--clear-bitmap", RESOURCE]);
    cluster.a.ok(&["primary", RESOURCE]);
    // Each time it is left and found again it says a dozen lines.
    for _ in 0..6 {
        cluster.b.ok(&["disconnect", RESOURCE]);
        cluster.b.ok(&["connect", RESOURCE]);
        cluster.wait_in_sync();
    }
    let mut nbd = Nbd::open(&cluster.a.nbd_socket(), RESOURCE).expect("a Primary serves");
    nbd.write(0, &[7; 4096]).expect("the write is done");
    cluster.a.assert_alive();
    drop(unread);
}

/// Who asks for the end may stop waiting for it; what has not ended yet can still be looked at and let go.
#[test]
fn a_shutdown_whose_asker_has_gone_ends_in_order() {
    let mut cluster = Cluster::with_primary(Options::default());
    let load = Load::start(&cluster.a.nbd_socket(), RESOURCE, (0..1000).collect(), 4, Ledger::default());
    load.wait_for(200);
    cluster.a.ok(&["suspend-io", RESOURCE]);
    let given_up = cluster.a.refused(&["--timeout", "1", "shutdown"], 20);
    assert!(given_up.contains("all resources to go down"), "{given_up}");
    assert_eq!(cluster.a.ok(&["role", RESOURCE]), "Primary/Secondary\n");
    cluster.a.ok(&["resume-io", RESOURCE]);
    assert_eq!(cluster.a.wait_for_end(), Some(0));
    let log = std::fs::read_to_string(cluster.a.log()).expect("the daemon wrote it");
    assert!(!log.contains("did not end within"), "{log}");
    let ledger = load.died();
    ledger.check("alpha's disk", |block| read_at(&cluster.a.disks[0], block * BLOCK, BLOCK as usize));
}

#[test]
fn a_configuration_is_meant_from_where_it_was_typed() {
    let mut cluster = Cluster::new(Options::default());
    cluster.create_md();
    cluster.a.start();
    let name = cluster.a.config().file_name().expect("it is a file").to_string_lossy().into_owned();
    let command = [SHIMAI, "--config", &name, "--node", "alpha", "--run-dir", "run", "up", RESOURCE];
    let mut shimai = std::process::Command::new(command[0]);
    run(shimai.args(&command[1..]).current_dir(&cluster.a.folder));
    assert_eq!(cluster.a.ok(&["role", RESOURCE]), "Secondary/Unknown\n");
}

#[test]
fn a_disk_of_a_resource_that_is_down_is_outdated_in_its_metadata() {
    let mut cluster = Cluster::ready(Options::default());
    cluster.b.ok(&["down", RESOURCE]);
    cluster.b.ok(&["outdate", RESOURCE]);
    cluster.a.ok(&["down", RESOURCE]);
    cluster.b.ok(&["up", RESOURCE]);
    wait_disk(&cluster.b, DiskState::Outdated);
    assert_eq!(cluster.b.stop(), Some(0));
}

#[test]
fn a_deadline_is_told_as_it_was_given() {
    let mut cluster = Cluster::new(Options::default());
    cluster.create_md();
    cluster.a.start();
    cluster.a.up();
    let told = cluster.a.refused(&["--timeout", "1", "wait-connect", RESOURCE], 5);
    assert!(told.contains("gave up after 1 s"), "{told}");
    cluster.a.refused(&["--timeout", "0", "wait-connect", RESOURCE], 5);
}

/// Like one on a network whose server has gone.
#[test]
fn a_disk_that_does_not_answer_is_named_and_can_be_let_go() {
    let disk = FailingDisk::new(64 << 20);
    let mut cluster = Cluster::new(Options { disk_mib: 64, ..Options::default() });
    let node = &mut cluster.a;
    node.edit_config(&format!("disk {};", node.disks[0].display()), &format!("disk {};", disk.volume().display()));
    node.ok(&["create-md", RESOURCE]);
    disk.hang();
    // Its end is heard while it brings everything up.
    node.daemon_arguments.push("--up".into());
    node.start();
    node.wait("the disk is being opened", SHORT, |status| status.volumes[0].reason.is_some());
    assert_eq!(node.stop(), Some(0));
    node.daemon_arguments.pop();
    node.start();
    let refused = |words: &[&str], exit, part: &str| {
        let told = node.refused(&[&["--timeout", "1"], words].concat(), exit);
        assert!(told.contains(part), "{told}");
    };
    refused(&["up", RESOURCE], 20, "waited for: the disk of data/0 to be attached");
    refused(&["down", RESOURCE], 20, "waited for: the end of `up data`, which is under way");
    refused(&["attach", RESOURCE], 10, "is being opened");
    refused(&["show-gi", RESOURCE], 20, "waited for: the metadata of data/0 to be read");
    node.ok(&["detach", RESOURCE]);
    node.ok(&["down", RESOURCE]);
    disk.wake();
    node.up();
    assert!(!node.ok(&["dstate", RESOURCE]).contains("Diskless"));
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn a_terminal_that_closes_ends_nothing() {
    let mut cluster = Cluster::new(Options::default());
    cluster.create_md();
    cluster.a.start();
    cluster.a.up();
    cluster.a.signal(Signal::SIGHUP);
    until("the signal is told of", SHORT, || {
        let log = std::fs::read_to_string(cluster.a.log()).expect("the daemon writes it");
        if log.contains("SIGHUP: serving on") { Ok(()) } else { Err(log) }
    });
    assert_eq!(cluster.a.ok(&["role", RESOURCE]), "Secondary/Unknown\n");
    assert_eq!(cluster.a.stop(), Some(0));
}

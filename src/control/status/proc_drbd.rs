//! The status in the format of `/proc/drbd`, which many a script reads.
//!
//! One entry a volume, by minor number; DRBD 8.4 knows one peer, so the first one is shown. A gap in the minor numbers is
//! an empty line.

use super::{PeerStatus, PeerVolumeStatus, ResourceStatus, SyncStatus, VolumeStatus};
use crate::model::state::{ConnectionState, DiskState, Role};
use std::fmt::Write as _;

/// From this many KiB on, progress is counted in MiB.
const MEGABYTES_FROM_KIB: u64 = 4 << 20;

/// The page, version first.
#[must_use]
pub fn proc_drbd(resources: &[ResourceStatus]) -> String {
    let mut page = concat!(
        "version: 8.4.11 (api:1/proto:86-101)\n",
        "GIT-hash: 0000000000000000000000000000000000000000 build by shimai ",
        env!("CARGO_PKG_VERSION"),
        "\n"
    )
    .to_owned();
    let mut entries: Vec<(&ResourceStatus, &VolumeStatus)> =
        resources.iter().flat_map(|resource| resource.volumes.iter().map(move |volume| (resource, volume))).collect();
    entries.sort_by_key(|(_, volume)| volume.minor);
    let mut expected_minor = 0;
    for (resource, volume) in entries {
        if volume.minor != expected_minor {
            page.push('\n');
        }
        entry(&mut page, resource, volume);
        expected_minor = volume.minor.saturating_add(1);
    }
    page
}

fn entry(page: &mut String, resource: &ResourceStatus, volume: &VolumeStatus) {
    let peer = resource.peers.first();
    let there = peer.and_then(|peer| peer.volume(volume.number));
    let connection = there.map_or(ConnectionState::StandAlone, |there| there.replication);
    let is_unconfigured = connection == ConnectionState::StandAlone
        && volume.disk == DiskState::Diskless
        && resource.role == Role::Secondary;
    if is_unconfigured {
        put(page, format_args!("{:2}: cs:Unconfigured\n", volume.minor));
        return;
    }
    put(
        page,
        format_args!(
            "{:2}: cs:{connection} ro:{}/{} ds:{}/{} {} {}\n",
            volume.minor,
            resource.role,
            peer.map_or(Role::Unknown, |peer| peer.role),
            volume.disk,
            there.map_or(DiskState::Unknown, |there| there.peer_disk),
            peer.and_then(|peer| peer.protocol).unwrap_or(' '),
            flags(resource, peer, there),
        ),
    );
    counters(page, resource, volume, peer, there);
    if let Some(sync) = there.and_then(|there| there.sync)
        && (ConnectionState::SyncSource..=ConnectionState::VerifyT).contains(&connection)
    {
        progress(page, connection, sync);
    }
}

/// Six characters: running or suspended, three reasons to hold the resync (another resync, the peer, the operator),
/// congestion, activity log suspended.
fn flags(resource: &ResourceStatus, peer: Option<&PeerStatus>, there: Option<&PeerVolumeStatus>) -> String {
    let held = there.map(|there| there.resync_suspended).unwrap_or_default();
    let mark = |is_set: bool, mark: char| if is_set { mark } else { '-' };
    [
        if resource.suspended.any() { 's' } else { 'r' },
        // No resync waits for another.
        '-',
        mark(held.peer, 'p'),
        mark(held.user, 'u'),
        mark(peer.is_some_and(|peer| peer.congested), 'n'),
        // The activity log is always written.
        '-',
    ]
    .iter()
    .collect()
}

fn counters(
    page: &mut String,
    resource: &ResourceStatus,
    volume: &VolumeStatus,
    peer: Option<&PeerStatus>,
    there: Option<&PeerVolumeStatus>,
) {
    let count = |counter: fn(&PeerVolumeStatus) -> u64| there.map_or(0, counter);
    put(
        page,
        format_args!(
            "    ns:{} nr:{} dw:{} dr:{} al:{} bm:{} lo:{} pe:{} ua:{} ap:{} ep:{} wo:{} oos:{}\n",
            count(|there| there.sent_kib),
            count(|there| there.received_kib),
            volume.written_kib,
            volume.read_kib,
            volume.al_writes,
            volume.bm_writes,
            volume.lower_pending,
            count(|there| there.pending),
            count(|there| there.unacked),
            volume.upper_pending,
            peer.map_or(0, |peer| peer.epochs),
            resource.write_ordering.chars().next().unwrap_or('n'),
            count(|there| there.out_of_sync_kib),
        ),
    );
}

fn progress(page: &mut String, connection: ConnectionState, sync: SyncStatus) {
    let is_verify = matches!(connection, ConnectionState::VerifyS | ConnectionState::VerifyT);
    let thousandths = (sync.done_percent * 10.0).clamp(0.0, 1000.0) as usize;
    let twentieths = thousandths / 50;
    let (shift, unit) = if sync.total_kib > MEGABYTES_FROM_KIB { (10, 'M') } else { (0, 'K') };
    put(
        page,
        format_args!(
            "\t[{}>{}] {}{:3}.{}% ({}/{}){unit}\n",
            "=".repeat(twentieths.saturating_sub(1)),
            ".".repeat(20 - twentieths),
            if is_verify { "verified:" } else { "sync'ed:" },
            thousandths / 10,
            thousandths % 10,
            sync.left_kib >> shift,
            sync.total_kib >> shift,
        ),
    );
    let left = sync.seconds_left.unwrap_or(0);
    put(
        page,
        format_args!(
            "\tfinish: {}:{:02}:{:02} speed: {} ({}) K/sec{}{}\n",
            left / 3600,
            left / 60 % 60,
            left % 60,
            thousands(sync.rate_kib_per_s),
            thousands(sync.average_kib_per_s),
            sync.want_kib_per_s.map_or(String::new(), |want| format!(" want: {}", thousands(want))),
            if sync.stalled { " (stalled)" } else { "" },
        ),
    );
}

/// With a comma after each three digits.
fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn put(page: &mut String, line: std::fmt::Arguments<'_>) {
    page.write_fmt(line).expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::super::samples::{pair, second_volume, syncing};
    use super::*;

    /// Without the two lines of the version.
    fn body(resources: &[ResourceStatus]) -> String {
        proc_drbd(resources).split_inclusive('\n').skip(2).collect()
    }

    #[test]
    fn a_healthy_pair_reads_as_in_the_kernel() {
        let expected = " 0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----
    ns:89 nr:7 dw:34 dr:12 al:5 bm:6 lo:2 pe:3 ua:4 ap:1 ep:1 wo:f oos:0
";
        assert_eq!(body(&[pair()]), expected);
    }

    #[test]
    fn a_resync_shows_its_bar_and_its_speed() {
        let expected = " 0: cs:SyncSource ro:Primary/Secondary ds:UpToDate/Inconsistent C r-----
    ns:89 nr:7 dw:34 dr:12 al:5 bm:6 lo:2 pe:3 ua:4 ap:1 ep:1 wo:f oos:794704668
\t[==>.................] sync'ed: 18.6% (776078/953411)M
\tfinish: 5:27:02 speed: 40,480 (38,112) K/sec
";
        assert_eq!(body(&[syncing()]), expected);
    }

    #[test]
    fn a_gap_in_the_minor_numbers_is_an_empty_line() {
        let mut gapped = second_volume();
        gapped.volumes[1].minor = 3;
        assert_eq!(body(&[gapped]).lines().nth(2), Some(""));
        assert!(body(&[second_volume()]).lines().all(|line| !line.is_empty()));
    }

    #[test]
    fn a_volume_without_disk_and_network_is_unconfigured() {
        let mut status = pair();
        status.role = Role::Secondary;
        status.volumes[0].disk = DiskState::Diskless;
        status.peers.clear();
        assert_eq!(body(&[status]), " 0: cs:Unconfigured\n");
    }

    #[test]
    fn numbers_get_a_comma_after_three_digits() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}

//! `status` as text, in the layout of DRBD's own tools.
//!
//! ```text
//! data role:Primary
//!   disk:UpToDate
//!   peer role:Secondary
//!     replication:Established peer-disk:UpToDate
//! ```
//!
//! What is as it should be is left out unless asked for. A line that would pass the width of the terminal goes on below,
//! indented four columns deeper than it began.

use super::{PeerStatus, PeerVolumeStatus, ResourceStatus, SyncStatus, VolumeStatus, yes_no};
use crate::model::state::{ConnectionState, DiskState, Role};
use std::fmt::Display;

/// Columns where the output is no terminal.
const WIDTH_DEFAULT: usize = 80;
/// How much deeper a line goes on after a break.
const CONTINUATION: usize = 4;

/// How to render.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenderOptions {
    /// Everything, also what is as it should be; peers by their host names.
    pub verbose: bool,
    /// With counters.
    pub statistics: bool,
    /// Columns of the terminal.
    pub width: usize,
    /// With colours.
    pub color: bool,
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self { verbose: false, statistics: false, width: WIDTH_DEFAULT, color: false }
    }
}

impl RenderOptions {
    fn everything(self) -> bool {
        self.verbose || self.statistics
    }
}

/// The text, with a line feed after each line and an empty line after each resource.
#[must_use]
pub fn text(resources: &[ResourceStatus], options: RenderOptions) -> String {
    if resources.is_empty() {
        return "# No currently configured DRBD found.\n".into();
    }
    let mut sorted: Vec<&ResourceStatus> = resources.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut page = Page { text: String::new(), indent: 0, column: 0, options };
    for resource in sorted {
        page.resource(resource);
        page.text.push('\n');
    }
    page.text
}

/// How a value looks to someone who looks for trouble.
#[derive(Clone, Copy)]
enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
}

/// Text being laid out: items into lines, lines onto the page.
struct Page {
    text: String,
    indent: usize,
    column: usize,
    options: RenderOptions,
}

impl Page {
    fn resource(&mut self, resource: &ResourceStatus) {
        self.begin(0);
        self.word(&resource.name, Tone::Plain);
        if self.options.verbose {
            self.item("node-id", resource.node_id);
        }
        self.toned("role", resource.role, if resource.role == Role::Primary { Tone::Good } else { Tone::Plain });
        if self.options.verbose || resource.suspended.any() {
            let tone = if resource.suspended.any() { Tone::Bad } else { Tone::Plain };
            self.toned("suspended", resource.suspended.list(), tone);
        }
        self.end();
        if self.options.verbose && self.options.statistics {
            self.begin(4);
            self.item("write-ordering", &resource.write_ordering);
            self.end();
        }
        let is_trivial = !self.options.verbose && matches!(&resource.volumes[..], [only] if only.number == 0);
        for volume in &resource.volumes {
            self.volume(volume, is_trivial);
        }
        for peer in &resource.peers {
            self.peer(peer, is_trivial);
        }
    }

    fn volume(&mut self, volume: &VolumeStatus, is_trivial: bool) {
        self.begin(2);
        if !is_trivial {
            self.item("volume", volume.number);
        }
        if self.options.verbose {
            self.item("minor", volume.minor);
        }
        self.toned("disk", volume.disk, disk_tone(volume.disk));
        if volume.client || self.options.verbose && volume.disk == DiskState::Diskless {
            self.item("client", yes_no(volume.client));
        }
        if self.options.verbose {
            if let Some(path) = &volume.backing_dev {
                self.item("backing_dev", path);
            }
            self.item("open", yes_no(volume.open));
        }
        self.end();
        if self.options.statistics {
            self.volume_statistics(volume);
        }
    }

    fn volume_statistics(&mut self, volume: &VolumeStatus) {
        self.begin(6);
        self.item("size", volume.size_sectors / 2);
        self.item("read", volume.read_kib);
        self.item("written", volume.written_kib);
        self.item("al-writes", volume.al_writes);
        self.item("bm-writes", volume.bm_writes);
        self.item("upper-pending", volume.upper_pending);
        self.item("lower-pending", volume.lower_pending);
        // The activity log is always written.
        self.item("al-suspended", yes_no(false));
        if self.options.verbose || volume.blocked_upper {
            self.item("blocked", volume.blocked());
        }
        self.end();
    }

    fn peer(&mut self, peer: &PeerStatus, is_trivial: bool) {
        self.begin(2);
        self.word(if self.options.verbose { &peer.name } else { "peer" }, Tone::Plain);
        if self.options.verbose {
            self.item("node-id", peer.node_id);
        }
        if self.options.verbose || !peer.is_connected() {
            self.toned("connection", peer.connection_name(), connection_tone(peer));
        }
        if self.options.verbose || peer.is_connected() {
            self.toned("role", peer.role, if peer.role == Role::Primary { Tone::Good } else { Tone::Plain });
        }
        if self.options.verbose || peer.congested {
            self.item("congested", yes_no(peer.congested));
        }
        if self.options.statistics {
            self.item("ap-in-flight", peer.ap_in_flight);
            self.item("rs-in-flight", peer.rs_in_flight);
        }
        self.end();
        if peer.is_connected() || self.options.everything() {
            for volume in &peer.volumes {
                self.peer_volume(volume, is_trivial);
            }
        }
    }

    fn peer_volume(&mut self, volume: &PeerVolumeStatus, is_trivial: bool) {
        let is_off = volume.replication < ConnectionState::Connected;
        // A number that nothing follows would look like something that was cut off.
        let is_bare = is_off && volume.peer_disk == DiskState::Unknown && !is_trivial;
        self.begin(4);
        if !is_trivial {
            self.item("volume", volume.number);
        }
        if self.options.verbose || !is_off || is_bare {
            self.toned("replication", volume.replication_name(), replication_tone(volume.replication));
        }
        if self.options.verbose || !is_off || volume.peer_disk != DiskState::Unknown || is_bare {
            self.toned("peer-disk", volume.peer_disk, disk_tone(volume.peer_disk));
        }
        if let Some(sync) = volume.sync {
            self.item("done", format_args!("{:.2}", sync.done_percent));
        }
        if self.options.verbose || volume.resync_suspended.any() {
            self.item("resync-suspended", volume.resync_suspended.list());
        }
        self.end();
        if self.options.statistics {
            self.peer_volume_statistics(volume);
        }
    }

    fn peer_volume_statistics(&mut self, volume: &PeerVolumeStatus) {
        self.begin(8);
        self.item("received", volume.received_kib);
        self.item("sent", volume.sent_kib);
        self.item("out-of-sync", volume.out_of_sync_kib);
        self.item("pending", volume.pending);
        self.item("unacked", volume.unacked);
        if let Some(SyncStatus { rate_kib_per_s, seconds_left, .. }) = volume.sync {
            self.item("dbdt1", format_args!("{:.2}", rate_kib_per_s as f64 / 1024.0));
            self.item("eta", seconds_left.map_or("nan".into(), |seconds| seconds.to_string()));
        }
        self.end();
    }

    fn begin(&mut self, indent: usize) {
        (self.indent, self.column) = (indent, 0);
    }

    /// Ends the line; a line without an item never was.
    fn end(&mut self) {
        if self.column > 0 {
            self.text.push('\n');
            self.column = 0;
        }
    }

    fn item(&mut self, key: &str, value: impl Display) {
        self.toned(key, value, Tone::Plain);
    }

    fn toned(&mut self, key: &str, value: impl Display, tone: Tone) {
        self.place(key.len() + 1 + value.to_string().chars().count());
        self.text.push_str(key);
        self.text.push(':');
        self.paint(&value.to_string(), tone);
    }

    fn word(&mut self, word: &str, tone: Tone) {
        self.place(word.chars().count());
        self.paint(word, tone);
    }

    /// Moves to where an item of that length begins: here, after a blank, or on the next line.
    fn place(&mut self, columns: usize) {
        if self.column == 0 {
            self.text.push_str(&" ".repeat(self.indent));
            self.column = self.indent + columns;
        } else if self.column + 1 + columns > self.options.width {
            let indent = self.indent + CONTINUATION;
            self.text.push('\n');
            self.text.push_str(&" ".repeat(indent));
            self.column = indent + columns;
        } else {
            self.text.push(' ');
            self.column += 1 + columns;
        }
    }

    fn paint(&mut self, value: &str, tone: Tone) {
        let code = match tone {
            _ if !self.options.color => None,
            Tone::Plain => None,
            Tone::Good => Some(32),
            Tone::Warning => Some(33),
            Tone::Bad => Some(31),
        };
        match code {
            Some(code) => self.text.push_str(&format!("\x1b[{code}m{value}\x1b[0m")),
            None => self.text.push_str(value),
        }
    }
}

fn disk_tone(disk: DiskState) -> Tone {
    match disk {
        DiskState::UpToDate => Tone::Good,
        DiskState::Diskless | DiskState::Failed | DiskState::Inconsistent | DiskState::Outdated => Tone::Bad,
        _ => Tone::Warning,
    }
}

fn connection_tone(peer: &PeerStatus) -> Tone {
    match peer.connection {
        ConnectionState::StandAlone => Tone::Bad,
        _ if peer.is_connected() => Tone::Good,
        _ => Tone::Warning,
    }
}

fn replication_tone(replication: ConnectionState) -> Tone {
    if replication == ConnectionState::Connected { Tone::Good } else { Tone::Warning }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{pair, second_volume, syncing};
    use super::*;

    const PLAIN: RenderOptions = RenderOptions { verbose: false, statistics: false, width: 80, color: false };

    #[test]
    fn a_healthy_pair_is_four_lines() {
        let expected = "\
data role:Primary
  disk:UpToDate
  peer role:Secondary
    replication:Established peer-disk:UpToDate

";
        assert_eq!(text(&[pair()], PLAIN), expected);
    }

    #[test]
    fn verbose_with_statistics_tells_everything_within_the_width() {
        let expected = "\
data node-id:0 role:Primary suspended:no
    write-ordering:flush
  volume:0 minor:0 disk:UpToDate backing_dev:/dev/vg/data open:yes
      size:1048576 read:12 written:34 al-writes:5 bm-writes:6 upper-pending:1
          lower-pending:2 al-suspended:no blocked:no
  bravo node-id:1 connection:Connected role:Secondary congested:no
      ap-in-flight:8 rs-in-flight:0
    volume:0 replication:Established peer-disk:UpToDate resync-suspended:no
        received:7 sent:89 out-of-sync:0 pending:3 unacked:4

";
        assert_eq!(text(&[pair()], RenderOptions { verbose: true, statistics: true, ..PLAIN }), expected);
    }

    #[test]
    fn a_peer_that_is_not_there_shows_only_its_connection() {
        let mut status = pair();
        status.suspended.no_data = true;
        let peer = &mut status.peers[0];
        (peer.connection, peer.role) = (ConnectionState::WfConnection, Role::Unknown);
        peer.volumes[0].replication = ConnectionState::WfConnection;
        peer.volumes[0].peer_disk = DiskState::Unknown;
        let expected = "\
data role:Primary suspended:no-data
  disk:UpToDate
  peer connection:Connecting

";
        assert_eq!(text(&[status], PLAIN), expected);
    }

    #[test]
    fn a_resync_shows_how_much_is_done() {
        let mut status = syncing();
        status.peers[0].volumes[0].resync_suspended.user = true;
        let expected = "\
data role:Primary
  disk:UpToDate
  peer role:Secondary
    replication:SyncSource peer-disk:Inconsistent done:18.60
        resync-suspended:user

";
        assert_eq!(text(&[status], RenderOptions { width: 70, ..PLAIN }), expected);
    }

    #[test]
    fn several_volumes_are_numbered_and_resources_sorted() {
        let mut first = second_volume();
        first.name = "alpha".into();
        let expected = "\
alpha role:Primary
  volume:0 disk:UpToDate
  volume:1 disk:UpToDate
  peer role:Secondary
    volume:0 replication:Established peer-disk:UpToDate
    volume:1 replication:Established peer-disk:UpToDate

data role:Primary
  disk:UpToDate
  peer role:Secondary
    replication:Established peer-disk:UpToDate

";
        assert_eq!(text(&[pair(), first], PLAIN), expected);
    }

    #[test]
    fn a_volume_that_the_peer_does_not_know_is_off() {
        let mut status = second_volume();
        let peer = &mut status.peers[0];
        peer.connection = ConnectionState::WfReportParams;
        (peer.volumes[1].replication, peer.volumes[1].peer_disk) =
            (ConnectionState::WfReportParams, DiskState::Unknown);
        let text = text(&[status], PLAIN);
        assert!(text.ends_with("    volume:1 replication:Off peer-disk:DUnknown\n\n"), "{text}");
    }

    #[test]
    fn nothing_configured_is_said() {
        assert_eq!(text(&[], PLAIN), "# No currently configured DRBD found.\n");
    }

    #[test]
    fn colours_do_not_count_as_columns() {
        let plain = text(&[pair()], PLAIN);
        let colored = text(&[pair()], RenderOptions { color: true, ..PLAIN });
        assert!(colored.contains("disk:\x1b[32mUpToDate\x1b[0m"));
        assert_eq!(plain.lines().count(), colored.lines().count());
    }
}

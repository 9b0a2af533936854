//! `events2`: what there is and what becomes of it, a line each, as `drbdsetup events2` prints it.
//!
//! ```text
//! exists connection name:data peer-node-id:1 conn-name:bravo connection:Connected role:Secondary
//! exists -
//! change connection name:data peer-node-id:1 conn-name:bravo connection:Connecting role:Unknown
//! ```
//!
//! A status is taken apart into objects (resource, connection, device, peer-device, path), each with a name that stays and
//! fields that change; two statuses are compared object by object. Counters are printed where they are asked for, and
//! make no line by themselves: they change all the time.

use super::{PathStatus, PeerStatus, PeerVolumeStatus, ResourceStatus, VolumeStatus, yes_no};
use crate::model::state::{DiskState, Role};
use core::net::SocketAddr;
use std::collections::BTreeMap;

/// What lines tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventOptions {
    /// With counters.
    pub statistics: bool,
    /// A change tells all fields and counters, not only what has changed.
    pub full: bool,
}

/// A line for each object that there is, and `exists -` after them.
#[must_use]
pub fn initial(resources: &[ResourceStatus], options: EventOptions) -> Vec<String> {
    let objects = objects(resources);
    let lines = objects.iter().map(|object| object.whole("exists", options));
    lines.chain(["exists -".to_owned()]).collect()
}

/// A line for each object that has come, changed or gone. What goes, goes in the opposite order: a resource last.
#[must_use]
pub fn changes(before: &[ResourceStatus], after: &[ResourceStatus], options: EventOptions) -> Vec<String> {
    let (before, after) = (objects(before), objects(after));
    let (old, new) = (by_name(&before), by_name(&after));
    let gone = before.iter().rev().filter(|old| !new.contains_key(&*old.identity));
    let mut lines: Vec<String> = gone.map(|old| format!("destroy {}", old.identity)).collect();
    lines.extend(after.iter().filter_map(|new| match old.get(&*new.identity) {
        None => Some(new.whole("create", options)),
        Some(old) => new.change(old, options),
    }));
    lines
}

/// Something that lines are about.
struct Object {
    /// What it is and how it is called.
    identity: String,
    fields: Vec<Field>,
}

/// What is printed together: one value, or two that belong together; empty where there is nothing to say.
struct Field {
    text: String,
    is_counter: bool,
}

impl Object {
    /// A line with everything.
    fn whole(&self, action: &str, options: EventOptions) -> String {
        let with_counters = options.statistics || options.full;
        self.line(action, self.fields.iter().filter(|field| with_counters || !field.is_counter))
    }

    /// A line with what has changed since; none if nothing has.
    fn change(&self, old: &Self, options: EventOptions) -> Option<String> {
        // Both have the same fields in the same places.
        let changed = |at: usize| {
            let field = self.fields.get(at).filter(|field| !field.is_counter && !field.text.is_empty());
            field.is_some_and(|field| old.fields.get(at).is_none_or(|old| old.text != field.text))
        };
        if !(0..self.fields.len()).any(changed) {
            return None;
        }
        if options.full {
            return Some(self.whole("change", options));
        }
        let told = self.fields.iter().enumerate();
        let told = told.filter(|(at, field)| changed(*at) || options.statistics && field.is_counter);
        Some(self.line("change", told.map(|(_, field)| field)))
    }

    fn line<'a>(&self, action: &str, fields: impl Iterator<Item = &'a Field>) -> String {
        let mut line = format!("{action} {}", self.identity);
        for field in fields.filter(|field| !field.text.is_empty()) {
            line.push(' ');
            line.push_str(&field.text);
        }
        line
    }
}

fn state(text: String) -> Field {
    Field { text, is_counter: false }
}

fn counter(text: String) -> Field {
    Field { text, is_counter: true }
}

fn by_name(objects: &[Object]) -> BTreeMap<&str, &Object> {
    objects.iter().map(|object| (&*object.identity, object)).collect()
}

/// All objects, resources by name, in DRBD's order.
fn objects(resources: &[ResourceStatus]) -> Vec<Object> {
    let mut sorted: Vec<&ResourceStatus> = resources.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut objects = Vec::new();
    for status in sorted {
        let name = &status.name;
        objects.push(resource(status));
        objects.extend(status.peers.iter().map(|peer| connection(name, peer)));
        objects.extend(status.volumes.iter().map(|volume| device(name, volume)));
        for peer in &status.peers {
            objects.extend(peer.volumes.iter().map(|volume| peer_device(name, peer, volume)));
        }
        objects.extend(status.peers.iter().filter_map(|peer| Some(path(name, peer, peer.path?))));
    }
    objects
}

fn resource(status: &ResourceStatus) -> Object {
    let promotion = Promotion::of(status);
    Object {
        identity: format!("resource name:{}", status.name),
        fields: vec![
            state(format!("role:{}", status.role)),
            state(format!("suspended:{}", status.suspended.list())),
            // There is no such mode here.
            state("force-io-failures:no".into()),
            counter(format!("write-ordering:{}", status.write_ordering)),
            state(format!("may_promote:{} promotion_score:{}", yes_no(promotion.may_promote), promotion.score)),
        ],
    }
}

fn connection(name: &str, peer: &PeerStatus) -> Object {
    Object {
        identity: format!("connection {}", connection_name(name, peer)),
        fields: vec![
            state(format!("connection:{}", peer.connection_name())),
            state(format!("role:{}", peer.role)),
            counter(format!(
                "congested:{} ap-in-flight:{} rs-in-flight:{}",
                yes_no(peer.congested),
                peer.ap_in_flight,
                peer.rs_in_flight
            )),
        ],
    }
}

fn connection_name(name: &str, peer: &PeerStatus) -> String {
    format!("name:{name} peer-node-id:{} conn-name:{}", peer.node_id, peer.name)
}

fn device(name: &str, volume: &VolumeStatus) -> Object {
    Object {
        identity: format!("device name:{name} volume:{} minor:{}", volume.number, volume.minor),
        fields: vec![
            state(format!("backing_dev:{}", volume.backing_dev.as_deref().unwrap_or("none"))),
            state(format!("disk:{} client:{}", volume.disk, yes_no(volume.client))),
            state(format!("open:{}", yes_no(volume.open))),
            // Two nodes have no quorum to lose.
            state("quorum:yes".into()),
            counter(format!(
                "size:{} read:{} written:{} al-writes:{} bm-writes:{} upper-pending:{} lower-pending:{} al-suspended:no \
                 blocked:{}",
                volume.size_sectors / 2,
                volume.read_kib,
                volume.written_kib,
                volume.al_writes,
                volume.bm_writes,
                volume.upper_pending,
                volume.lower_pending,
                volume.blocked()
            )),
        ],
    }
}

fn peer_device(name: &str, peer: &PeerStatus, volume: &PeerVolumeStatus) -> Object {
    let done = volume.sync.map_or(String::new(), |sync| format!("done:{:.2}", sync.done_percent));
    let rate = volume.sync.map_or(String::new(), |sync| {
        let eta = sync.seconds_left.map_or("nan".into(), |seconds| seconds.to_string());
        format!("dbdt1:{:.2} eta:{eta}", sync.rate_kib_per_s as f64 / 1024.0)
    });
    Object {
        identity: format!("peer-device {} volume:{}", connection_name(name, peer), volume.number),
        fields: vec![
            state(format!("replication:{}", volume.replication_name())),
            state(format!("peer-disk:{} peer-client:no", volume.peer_disk)),
            state(format!("resync-suspended:{}", volume.resync_suspended.list())),
            state(done),
            counter(format!(
                "received:{} sent:{} out-of-sync:{} pending:{} unacked:{}",
                volume.received_kib, volume.sent_kib, volume.out_of_sync_kib, volume.pending, volume.unacked
            )),
            counter(rate),
        ],
    }
}

fn path(name: &str, peer: &PeerStatus, path: PathStatus) -> Object {
    let connection = connection_name(name, peer);
    Object {
        identity: format!("path {connection} local:{} peer:{}", end(path.this_host), end(path.remote_host)),
        fields: vec![state(format!("established:{}", yes_no(peer.is_connected())))],
    }
}

/// Family, address and port; IPv6 in brackets.
fn end(address: SocketAddr) -> String {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    format!("{family}:{address}")
}

/// How good a Primary this node would be, as DRBD 9 counts it.
struct Promotion {
    may_promote: bool,
    score: usize,
}

impl Promotion {
    fn of(status: &ResourceStatus) -> Self {
        let fewest = status.volumes.iter().map(|volume| replicas(status, volume)).min().unwrap_or(0);
        if fewest == 0 {
            return Self { may_promote: false, score: 0 };
        }
        let own = |disk: &[DiskState]| status.volumes.iter().filter(|volume| disk.contains(&volume.disk)).count();
        let has_disks =
            own(&[DiskState::UpToDate, DiskState::Consistent, DiskState::Inconsistent]) == status.volumes.len();
        let score = 10_000 * usize::from(has_disks) + 100 * own(&[DiskState::UpToDate]).min(99) + fewest.min(99);
        let has_primary = status.role == Role::Primary || status.peers.iter().any(|peer| peer.role == Role::Primary);
        Self { may_promote: !has_primary, score }
    }
}

/// On how many nodes in reach the volume's data are current.
fn replicas(status: &ResourceStatus, volume: &VolumeStatus) -> usize {
    let peers = status.peers.iter().filter_map(|peer| peer.volume(volume.number));
    let disks = peers.map(|peer| peer.peer_disk).chain([volume.disk]);
    disks.filter(|&disk| disk == DiskState::UpToDate).count()
}

#[cfg(test)]
mod tests {
    use super::super::samples::{pair, second_volume, syncing};
    use super::*;
    use crate::model::state::ConnectionState;

    const PLAIN: EventOptions = EventOptions { statistics: false, full: false };
    const STATISTICS: EventOptions = EventOptions { statistics: true, full: false };
    const FULL: EventOptions = EventOptions { statistics: false, full: true };

    /// The lines between a pair and what it became.
    fn between(options: EventOptions, change: impl Fn(&mut ResourceStatus)) -> Vec<String> {
        let mut after = pair();
        change(&mut after);
        changes(&[pair()], &[after], options)
    }

    #[test]
    fn what_there_is_comes_first_in_drbds_order() {
        let expected = [
            "exists resource name:data role:Primary suspended:no force-io-failures:no may_promote:no \
             promotion_score:10102",
            "exists connection name:data peer-node-id:1 conn-name:bravo connection:Connected role:Secondary",
            "exists device name:data volume:0 minor:0 backing_dev:/dev/vg/data disk:UpToDate client:no open:yes \
             quorum:yes",
            "exists peer-device name:data peer-node-id:1 conn-name:bravo volume:0 replication:Established \
             peer-disk:UpToDate peer-client:no resync-suspended:no",
            "exists path name:data peer-node-id:1 conn-name:bravo local:ipv4:10.0.0.1:7789 peer:ipv6:[fd00::2]:7788 \
             established:yes",
            "exists -",
        ];
        assert_eq!(initial(&[pair()], PLAIN), expected);
        assert_eq!(initial(&[], PLAIN), ["exists -"]);
    }

    #[test]
    fn counters_stand_where_drbdsetup_has_them() {
        let expected = [
            "exists resource name:data role:Primary suspended:no force-io-failures:no write-ordering:flush may_promote:no \
             promotion_score:10101",
            "exists connection name:data peer-node-id:1 conn-name:bravo connection:Connected role:Secondary congested:no \
             ap-in-flight:8 rs-in-flight:0",
            "exists device name:data volume:0 minor:0 backing_dev:/dev/vg/data disk:UpToDate client:no open:yes \
             quorum:yes size:1048576 read:12 written:34 al-writes:5 bm-writes:6 upper-pending:1 lower-pending:2 \
             al-suspended:no blocked:no",
            "exists peer-device name:data peer-node-id:1 conn-name:bravo volume:0 replication:SyncSource \
             peer-disk:Inconsistent peer-client:no resync-suspended:no done:18.60 received:7 sent:89 \
             out-of-sync:794704668 pending:3 unacked:4 dbdt1:39.53 eta:19622",
            "exists path name:data peer-node-id:1 conn-name:bravo local:ipv4:10.0.0.1:7789 peer:ipv6:[fd00::2]:7788 \
             established:yes",
            "exists -",
        ];
        assert_eq!(initial(&[syncing()], STATISTICS), expected);
        assert_eq!(initial(&[syncing()], FULL), expected);
    }

    #[test]
    fn a_change_names_the_object_and_what_is_new() {
        type Row = (fn(&mut ResourceStatus), &'static [&'static str]);
        let rows: [Row; 8] = [
            (|_| (), &[]),
            (
                |status| status.role = Role::Secondary,
                &["change resource name:data role:Secondary may_promote:yes promotion_score:10102"],
            ),
            (|status| status.suspended.no_data = true, &["change resource name:data suspended:no-data"]),
            (
                |status| {
                    let peer = &mut status.peers[0];
                    (peer.connection, peer.role) = (ConnectionState::WfConnection, Role::Unknown);
                    let volume = &mut peer.volumes[0];
                    (volume.replication, volume.peer_disk) = (ConnectionState::WfConnection, DiskState::Unknown);
                },
                &[
                    "change resource name:data may_promote:no promotion_score:10101",
                    "change connection name:data peer-node-id:1 conn-name:bravo connection:Connecting role:Unknown",
                    "change peer-device name:data peer-node-id:1 conn-name:bravo volume:0 replication:Off \
                     peer-disk:DUnknown peer-client:no",
                    "change path name:data peer-node-id:1 conn-name:bravo local:ipv4:10.0.0.1:7789 \
                     peer:ipv6:[fd00::2]:7788 established:no",
                ],
            ),
            (
                |status| (status.volumes[0].disk, status.volumes[0].backing_dev) = (DiskState::Diskless, None),
                &[
                    "change resource name:data may_promote:no promotion_score:1",
                    "change device name:data volume:0 minor:0 backing_dev:none disk:Diskless client:no",
                ],
            ),
            (|status| status.volumes[0].open = false, &["change device name:data volume:0 minor:0 open:no"]),
            (
                |status| status.peers[0].volumes[0].resync_suspended.user = true,
                &["change peer-device name:data peer-node-id:1 conn-name:bravo volume:0 resync-suspended:user"],
            ),
            (|status| status.volumes[0].written_kib += 4, &[]),
        ];
        for (change, expected) in rows {
            assert_eq!(between(PLAIN, change), expected);
        }
    }

    #[test]
    fn counters_make_no_line_and_go_with_one() {
        let write = |status: &mut ResourceStatus| status.volumes[0].written_kib += 4;
        assert_eq!(between(STATISTICS, write), Vec::<String>::new());
        assert_eq!(between(FULL, write), Vec::<String>::new());
        let close = |status: &mut ResourceStatus| {
            write(status);
            status.volumes[0].open = false;
        };
        let counters = "size:1048576 read:12 written:38 al-writes:5 bm-writes:6 upper-pending:1 lower-pending:2 \
                        al-suspended:no blocked:no";
        let object = "change device name:data volume:0 minor:0";
        assert_eq!(between(STATISTICS, close), [format!("{object} open:no {counters}")]);
        let all = "backing_dev:/dev/vg/data disk:UpToDate client:no open:no quorum:yes";
        assert_eq!(between(FULL, close), [format!("{object} {all} {counters}")]);
    }

    #[test]
    fn progress_is_a_change_and_its_end_is_told_by_the_states() {
        let (mut more, object) = (syncing(), "change peer-device name:data peer-node-id:1 conn-name:bravo volume:0");
        more.peers[0].volumes[0].sync.as_mut().expect("it syncs").done_percent = 18.71;
        assert_eq!(changes(&[syncing()], &[more.clone()], PLAIN), [format!("{object} done:18.71")]);
        more.peers[0].volumes[0].sync = None;
        assert_eq!(changes(&[syncing()], &[more], PLAIN), Vec::<String>::new());
        let end = changes(&[syncing()], &[pair()], PLAIN);
        assert_eq!(end[1], format!("{object} replication:Established peer-disk:UpToDate peer-client:no"));
    }

    #[test]
    fn what_comes_is_created_and_what_goes_is_destroyed_resource_last() {
        let actions = |lines: &[String]| -> Vec<String> {
            lines.iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
        };
        let kinds = ["resource", "connection", "device", "peer-device", "path"];
        let created = changes(&[], &[pair()], PLAIN);
        assert_eq!(actions(&created), kinds.map(|kind| format!("create {kind}")));
        let mut destroyed = kinds.map(|kind| format!("destroy {kind}"));
        destroyed.reverse();
        let lines = changes(&[pair()], &[], PLAIN);
        assert_eq!(actions(&lines), destroyed);
        assert_eq!(lines.last().map(String::as_str), Some("destroy resource name:data"));
        let second = changes(&[pair()], &[second_volume()], PLAIN);
        assert!(second.iter().any(|line| line.starts_with("create device name:data volume:1 minor:1 ")), "{second:?}");
        assert!(second.iter().any(|line| line.starts_with("create peer-device ")), "{second:?}");
    }

    #[test]
    fn the_score_is_drbds() {
        let score = |change: fn(&mut ResourceStatus)| {
            let mut status = pair();
            status.role = Role::Secondary;
            change(&mut status);
            let Promotion { may_promote, score } = Promotion::of(&status);
            (may_promote, score)
        };
        assert_eq!(score(|_| ()), (true, 10_102));
        assert_eq!(score(|status| status.peers[0].role = Role::Primary), (false, 10_102));
        assert_eq!(score(|status| status.volumes[0].disk = DiskState::Inconsistent), (true, 10_001));
        assert_eq!(score(|status| status.volumes[0].disk = DiskState::Outdated), (true, 1));
        assert_eq!(score(|status| status.volumes.clear()), (false, 0));
        let alone = |status: &mut ResourceStatus| {
            status.volumes[0].disk = DiskState::Consistent;
            status.peers[0].volumes[0].peer_disk = DiskState::Unknown;
        };
        assert_eq!(score(alone), (false, 0));
    }
}

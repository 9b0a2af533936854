//! Why a resource is in the state it is in: the facts, the rule behind them, and the command that helps.
//!
//! A pure function from what status shows. All is well when it has nothing to say: connected, both disks UpToDate, nothing
//! held. A note that needs no command is still worth a line (a resync that runs ends by itself).
//!
//! Not here: a resource that does not run, and configurations that cannot be used (`daemon`, `cli`).

use crate::control::status::{PeerStatus, PeerVolumeStatus, ResourceStatus, VolumeStatus};
use crate::model::state::{ConnectionState, DiskState, Role};

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What is the case.
    pub fact: String,
    /// Which rule makes of it what it is.
    pub rule: String,
    /// What to type; `None` where waiting is all there is to do.
    pub command: Option<String>,
}

fn explanation(fact: impl Into<String>, rule: &str, command: impl Into<Option<String>>) -> Explanation {
    Explanation { fact: fact.into(), rule: rule.to_owned(), command: command.into() }
}

/// All that is not well with a resource, the most pressing first.
#[must_use]
pub fn explain(status: &ResourceStatus) -> Vec<Explanation> {
    let mut found = suspended(status);
    for volume in &status.volumes {
        let peer = status.peers.first().and_then(|peer| Some((peer, peer.volume(volume.number)?)));
        // Of a volume that the peer lacks no better copy is to be had; the link tells of it.
        let is_lonely = peer.is_some_and(|(peer, _)| unheard(peer).contains(&volume.number));
        if !is_lonely || volume.disk <= DiskState::Failed {
            found.extend(disk(status, volume, peer));
        }
    }
    for peer in &status.peers {
        found.extend(connection(status, peer));
        for volume in &peer.volumes {
            found.extend(replication(status, peer, volume));
        }
    }
    found.extend(role(status));
    found
}

/// A command with what has to be known about it: on which node, instead of what, after what.
fn noted(command: impl AsRef<str>, notes: &[&str]) -> String {
    let command = command.as_ref();
    if notes.is_empty() { format!("shimai {command}") } else { format!("shimai {command}    ({})", notes.join("; ")) }
}

/// How the peer comes into reach. A node that looks for it already can do no more: the other one has to look too.
fn reach(name: &str, peer: Option<&PeerStatus>, notes: &[&str]) -> String {
    match peer {
        Some(peer) if peer.connection >= ConnectionState::WfReportParams => {
            noted(format!("wait-connect {name}"), notes)
        }
        Some(peer) if peer.connection != ConnectionState::StandAlone => {
            let place = format!("on {}; this node looks for it already", peer.name);
            noted(format!("up {name}"), &[&[place.as_str()], notes].concat())
        }
        _ => noted(format!("connect {name}"), notes),
    }
}

/// Requests that are held.
fn suspended(status: &ResourceStatus) -> Vec<Explanation> {
    let name = &status.name;
    let mut found = Vec::new();
    if status.suspended.user {
        found.push(explanation(
            "requests of applications are held: an operator suspended them",
            "suspend-io holds reads and writes until resume-io",
            format!("shimai resume-io {name}"),
        ));
    }
    if status.suspended.no_data {
        found.push(explanation(
            "requests of applications are held: neither this disk nor the peer's can be used",
            "on-no-data-accessible suspend-io: requests wait for data instead of failing; only the disk that was in use last \
             has it",
            data_back(status),
        ));
    }
    if status.suspended.fencing {
        let other = status.peers.first().map_or("the peer", |peer| &peer.name);
        found.push(explanation(
            format!("requests of applications are held: it is not known whether {other} is in use"),
            "fencing resource-and-stonith: they wait until the handler fence-peer says that the peer is not in use, or the \
             peer is back",
            noted(format!("up {name}"), &[
                &format!("on {other}; this node looks for it already"),
                &format!("{other} is not in use: shimai resume-io {name}"),
            ]),
        ));
    }
    found
}

/// How data comes back that neither disk gives. The peer's was in use last, unless it went first.
fn data_back(status: &ResourceStatus) -> String {
    let (name, peer) = (&status.name, status.peers.first());
    let Some(volume) = status.volumes.iter().find(|volume| volume.disk <= DiskState::Failed) else {
        return reach(name, peer, &[]);
    };
    let attach = format!("attach {name}/{}", volume.number);
    let own = format!("if this node's disk was lost last: shimai {attach}");
    match peer {
        Some(peer) if peer.connection < ConnectionState::Connected => reach(name, Some(peer), &[&own]),
        Some(peer) if peer.volume(volume.number).is_some_and(|it| it.peer_disk <= DiskState::Failed) => {
            noted(attach, &[&format!("on {}", peer.name), &own])
        }
        _ => noted(attach, &[]),
    }
}

/// The own disk.
fn disk(
    status: &ResourceStatus,
    volume: &VolumeStatus,
    peer: Option<(&PeerStatus, &PeerVolumeStatus)>,
) -> Option<Explanation> {
    let (name, number) = (&status.name, volume.number);
    let target = format!("{name}/{number}");
    let is_connected = peer.is_some_and(|(peer, _)| peer.connection >= ConnectionState::Connected);
    match volume.disk {
        DiskState::Diskless if volume.client => None,
        DiskState::Diskless => Some(explanation(
            format!(
                "volume {number} has no disk here: {}",
                volume.reason.as_deref().unwrap_or("it was not attached since the resource came up")
            ),
            "without a disk of its own a node reads and writes the peer's; a disk that failed is not taken back unasked, and \
             one without metadata is not attached",
            format!("shimai attach {target}    (a new disk first: shimai create-md {target})"),
        )),
        DiskState::Attaching => Some(explanation(
            format!("the metadata of volume {number} is being read"),
            "a disk serves nothing before its metadata has been judged",
            None,
        )),
        DiskState::Failed => Some(explanation(
            format!(
                "the disk of volume {number} failed and is being let go{}; requests still in flight on it are waited for",
                volume.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"))
            ),
            "on-io-error detach: a disk that fails is given up, the peer's serves",
            format!("shimai detach {target} --force"),
        )),
        DiskState::Negotiating => Some(explanation(
            format!("volume {number} is attached and its generations are being compared with the peer's"),
            "a disk attached while connected is judged by a new handshake",
            None,
        )),
        DiskState::Inconsistent => {
            let is_resynced = peer.is_some_and(|(_, volume)| volume.replication > ConnectionState::Connected);
            inconsistent(name, volume, is_connected && is_resynced, peer)
        }
        DiskState::Outdated => Some(explanation(
            format!("the data of volume {number} is older than the peer's"),
            "an Outdated disk is never promoted nor read: the newer copy may hold writes that were acknowledged",
            newer_data(name, number, peer),
        )),
        DiskState::Consistent => Some(explanation(
            format!("the data of volume {number} is whole, but nobody knows whether the peer has newer data"),
            "after a start without the peer a disk is Consistent; the handshake, or an operator, makes it UpToDate",
            format!("shimai wait-connect {name}    (the peer is lost for good: shimai primary --force {name})"),
        )),
        DiskState::UpToDate | DiskState::Unknown => None,
    }
}

/// How an Outdated disk gets what it misses.
fn newer_data(name: &str, number: u16, peer: Option<(&PeerStatus, &PeerVolumeStatus)>) -> String {
    let target = format!("{name}/{number}");
    match peer {
        Some((peer, volume)) if peer.connection >= ConnectionState::Connected => match volume.peer_disk {
            _ if volume.replication > ConnectionState::Connected => noted(format!("wait-sync {target}"), &[]),
            disk if disk <= DiskState::Failed => noted(format!("attach {target}"), &[&format!("on {}", peer.name)]),
            _ => noted(format!("disconnect {name} && shimai connect {name}"), &[]),
        },
        peer => {
            let lost = format!("the peer is lost for good: shimai primary --force {name}");
            reach(name, peer.map(|(peer, _)| peer), &[&lost])
        }
    }
}

fn inconsistent(
    name: &str,
    volume: &VolumeStatus,
    is_resynced: bool,
    peer: Option<(&PeerStatus, &PeerVolumeStatus)>,
) -> Option<Explanation> {
    let number = volume.number;
    match peer.map_or(DiskState::Unknown, |(_, volume)| volume.peer_disk) {
        // The resync, running or held, speaks for itself.
        _ if is_resynced => None,
        DiskState::UpToDate => Some(explanation(
            format!("the data of volume {number} is incomplete, the peer's is good, and no resync runs"),
            "a resync begins when both ends compare their generations, which they do at each connect",
            format!("shimai disconnect {name} && shimai connect {name}"),
        )),
        DiskState::Inconsistent => Some(explanation(
            format!("volume {number} is Inconsistent on both nodes: neither has ever been declared good"),
            "fresh metadata says nothing about data; somebody has to say which disk counts, once",
            format!(
                "shimai primary --force {name}    (this disk counts; two blank disks: shimai new-current-uuid --clear-bitmap \
                 {name}/{number})"
            ),
        )),
        peer_disk => Some(explanation(
            format!(
                "the data of volume {number} is a mix of old and new, or was never declared good, and no good copy is in reach"
            ),
            "an Inconsistent disk is neither promoted nor read without the good copy",
            good_copy(name, number, peer.map(|(peer, _)| peer), peer_disk),
        )),
    }
}

/// How an Inconsistent disk reaches the good copy.
fn good_copy(name: &str, number: u16, peer: Option<&PeerStatus>, peer_disk: DiskState) -> String {
    let lost = format!("there is no other copy: shimai primary --force {name}");
    match peer {
        Some(peer) if peer.connection >= ConnectionState::Connected && peer_disk <= DiskState::Failed => {
            noted(format!("attach {name}/{number}"), &[&format!("on {}", peer.name), &lost])
        }
        peer => reach(name, peer, &[&lost]),
    }
}

/// The link to a peer.
fn connection(status: &ResourceStatus, peer: &PeerStatus) -> Option<Explanation> {
    let (name, other) = (&status.name, &peer.name);
    let because = peer.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    if peer.connection != ConnectionState::StandAlone
        && peer.connection < ConnectionState::WfReportParams
        && let Some((rule, command)) = peer.reason.as_deref().and_then(|reason| disagreement(name, reason))
    {
        // It is tried again for ever, and ends the same way each time.
        return Some(explanation(format!("{other} answers, and the connection ends{because}"), rule, command));
    }
    match peer.connection {
        ConnectionState::StandAlone => Some(stand_alone(name, peer)),
        ConnectionState::Disconnecting | ConnectionState::TearDown => Some(explanation(
            format!("the connection to {other} is being closed{because}"),
            "a connection that ends is cleaned up before a new one begins",
            None,
        )),
        ConnectionState::Unconnected
        | ConnectionState::Timeout
        | ConnectionState::BrokenPipe
        | ConnectionState::NetworkFailure
        | ConnectionState::ProtocolError => Some(explanation(
            format!("the connection to {other} was lost ({}){because}", peer.connection),
            "it is tried again after connect-int",
            format!("shimai wait-connect {name}"),
        )),
        ConnectionState::WfConnection => Some(explanation(
            format!("{other} does not answer{because}"),
            "a node that looks for its peer dials and listens until it comes, or until disconnect; ports and addresses of \
             both ends must be as configured, and the peer must look too",
            format!("shimai up {name}    (on {other}; here nothing needs to be done)"),
        )),
        ConnectionState::WfReportParams if !unheard(peer).is_empty() => Some(explanation(
            format!(
                "{other} says nothing of volume {}, and volumes that it knows are connected",
                listed(&unheard(peer))
            ),
            "both nodes must have the same volumes; of one that the peer lacks there is no copy",
            format!("shimai adjust {name}    (on {other}, after giving {name} the same volumes there)"),
        )),
        ConnectionState::WfReportParams => Some(explanation(
            format!("{other} answers; the handshake is under way{because}"),
            "nothing is replicated before both ends have compared their options and data",
            format!("shimai wait-connect {name}"),
        )),
        _ => None,
    }
}

/// Volumes of which the peer has said nothing although others are connected.
fn unheard(peer: &PeerStatus) -> Vec<u16> {
    let is_heard = |volume: &&PeerVolumeStatus| volume.replication >= ConnectionState::Connected;
    if peer.connection != ConnectionState::WfReportParams || !peer.volumes.iter().any(|volume| is_heard(&volume)) {
        return Vec::new();
    }
    peer.volumes.iter().filter(|volume| !is_heard(volume)).map(|volume| volume.number).collect()
}

/// `1, 2`
fn listed(numbers: &[u16]) -> String {
    numbers.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

/// The rule by which two nodes that reach each other do not stay connected, and the way out.
fn disagreement(name: &str, reason: &str) -> Option<(&'static str, String)> {
    let lower = reason.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    // It names a node or an address, which may be called anything.
    if lower.starts_with("cannot reach") {
        None
    } else if has(&["auth", "secret", "hmac", "challenge"]) {
        Some((
            "both ends prove that they know the same shared-secret, by the same cram-hmac-alg",
            format!(
                "shimai adjust {name}    (after making net {{ cram-hmac-alg, shared-secret }} equal on both nodes)"
            ),
        ))
    } else if has(&["option", "differ", "mismatch", "incompatible", "disagree", "settings"]) {
        Some((
            "protocol, after-sb-…, allow-two-primaries, data-integrity-alg and verify-alg must be the same on both nodes",
            format!("shimai adjust {name}    (after making the net section equal on both nodes)"),
        ))
    } else if has(&["version"]) {
        Some((
            "both ends must speak one version of the protocol, from 86 to 101",
            format!("shimai connect {name}    (after updating the older node)"),
        ))
    } else {
        None
    }
}

/// What the reason for being alone reads like, the rule, and the way out.
fn stand_alone(name: &str, peer: &PeerStatus) -> Explanation {
    let other = &peer.name;
    let reason = peer.reason.as_deref().unwrap_or("nobody asked for a connection, or it was ended by disconnect");
    let fact = format!("not connected to {other}, and not looking for it: {reason}");
    let lower = reason.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&["split"]) {
        return explanation(
            fact,
            "both nodes wrote without each other; no automatic rule (after-sb-…) says whose changes to give up",
            format!(
                "shimai connect --discard-my-data {name}    (on the node whose changes are given up, as Secondary; on the \
                 other: shimai connect {name})"
            ),
        );
    }
    if has(&["unrelated"]) {
        return explanation(
            fact,
            "disks whose generations have nothing in common are never synchronised unasked: one of them may be the wrong disk",
            format!("shimai create-md --force {name}    (down, on the node whose data is given up; then up)"),
        );
    }
    if let Some((rule, command)) = disagreement(name, reason) {
        return explanation(fact, rule, command);
    }
    if has(&["smaller", "size"]) {
        return explanation(
            fact,
            "a peer whose disk is smaller than what is in use is refused: the end of the data would have no copy",
            format!("shimai connect {name}    (after giving {other} a larger disk)"),
        );
    }
    explanation(fact, "a StandAlone node stays alone until it is told to connect", format!("shimai connect {name}"))
}

/// Marked blocks are copied from the node that was Primary when the connection ended: it has begun a generation then. Of two
/// Secondaries none is newer, and they would connect again without a resync.
fn repair(status: &ResourceStatus, peer: &PeerStatus) -> String {
    let name = &status.name;
    if status.role == Role::Primary || peer.role == Role::Primary {
        return format!("shimai disconnect {name} && shimai connect {name}");
    }
    noted(
        format!("primary {name} && shimai disconnect {name} && shimai connect {name}"),
        &["on the node whose data is right"],
    )
}

/// A volume towards a connected peer.
fn replication(status: &ResourceStatus, peer: &PeerStatus, volume: &PeerVolumeStatus) -> Vec<Explanation> {
    use ConnectionState as C;
    let (name, other, number) = (&status.name, &peer.name, volume.number);
    let target = format!("{name}/{number}");
    let mut found = Vec::new();
    let own = status.volumes.iter().find(|volume| volume.number == number);
    let own = own.map_or(DiskState::Unknown, |volume| volume.disk);
    if peer.connection < C::Connected {
        return found;
    }
    let is_target = matches!(volume.replication, C::SyncTarget | C::PausedSyncT | C::WfBitMapT | C::WfSyncUuid);
    let direction = if is_target { "from" } else { "to" };
    let how_far = volume.sync.as_ref().map_or_else(String::new, |sync| format!(", {:.1}% done", sync.done_percent));
    match volume.replication {
        C::StartingSyncS | C::StartingSyncT | C::WfBitMapS | C::WfBitMapT | C::WfSyncUuid => found.push(explanation(
            format!("a resync of volume {number} {direction} {other} is about to begin ({})", volume.replication),
            "both ends first agree which blocks differ",
            None,
        )),
        C::SyncSource | C::SyncTarget => found.push(explanation(
            format!("volume {number} is resynchronised {direction} {other}{how_far}"),
            "blocks that were written while one node was away are copied; the target is Inconsistent until the end",
            format!("shimai wait-sync {target}"),
        )),
        C::PausedSyncS | C::PausedSyncT => found.push(paused(peer, volume, direction, &target, &how_far)),
        C::VerifyS | C::VerifyT => found.push(explanation(
            format!("volume {number} is compared with {other}{how_far}"),
            "an online verify reads both disks and marks what differs; it ends early with `verify --stop 0` where it was begun",
            None,
        )),
        C::Ahead | C::Behind => found.push(explanation(
            format!("volume {number} is {} {other}: the link takes less than is written", volume.replication),
            "on-congestion pull-ahead: replication pauses, and a resync follows",
            None,
        )),
        // What misses a disk is marked for a resync, which begins when the disk is back.
        _ if volume.out_of_sync_kib > 0 && volume.peer_disk > DiskState::Failed && own > DiskState::Failed => found
            .push(explanation(
                format!(
                    "{} KiB of volume {number} are marked as different from {other}, and no resync runs",
                    volume.out_of_sync_kib
                ),
                "an online verify marks what differs and repairs nothing; the next connect copies the marked blocks from the Primary",
                repair(status, peer),
            )),
        _ => {}
    }
    let is_resynced = volume.replication > C::Connected;
    if !is_resynced && matches!(volume.peer_disk, DiskState::Diskless | DiskState::Failed) {
        found.push(explanation(
            format!("{other} has no disk for volume {number}"),
            match own {
                DiskState::UpToDate => "writes are stored here only, and marked for a resync",
                own if own <= DiskState::Failed => "neither node has a disk in use: nothing can be read or written",
                _ => "this node's disk is not current: nothing can be read or written until the peer's is back",
            },
            format!("shimai attach {target}    (on {other})"),
        ));
    }
    found
}

fn paused(peer: &PeerStatus, volume: &PeerVolumeStatus, direction: &str, target: &str, how_far: &str) -> Explanation {
    let (other, number, held) = (&peer.name, volume.number, volume.resync_suspended);
    let fact = |who: &str| format!("the resync of volume {number} {direction} {other} is held by {who}{how_far}");
    let rule = "a resync runs while neither node holds it";
    if held.user {
        explanation(fact("an operator of this node"), rule, format!("shimai resume-sync {target}"))
    } else {
        explanation(fact("the peer"), rule, format!("shimai resume-sync {target}    (on {other})"))
    }
}

/// Nobody may write.
fn role(status: &ResourceStatus) -> Option<Explanation> {
    if status.role == Role::Primary || status.peers.iter().any(|peer| peer.role == Role::Primary) {
        return None;
    }
    let is_good = status.volumes.iter().all(|volume| volume.disk >= DiskState::Consistent);
    let has_good_peer = status.peers.iter().any(|peer| {
        peer.connection >= ConnectionState::Connected
            && peer.volumes.iter().all(|volume| volume.peer_disk >= DiskState::UpToDate)
    });
    (is_good || has_good_peer).then(|| {
        explanation(
            "no node in sight is Primary: an application that opens the volume for writing is refused",
            "exactly one node writes, and it is promoted by an operator or a manager",
            format!("shimai primary {}", status.name),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn well() -> Value {
        json!({
            "name": "data", "node_name": "alpha", "node_id": 0, "role": "Primary", "write_ordering": "flush",
            "volumes": [{"number": 0, "minor": 0, "device": "/dev/drbd0", "disk": "UpToDate", "size_sectors": 8}],
            "peers": [{"name": "bravo", "node_id": 1, "connection": "Connected", "role": "Secondary", "volumes": [
                {"number": 0, "replication": "Connected", "peer_disk": "UpToDate"}]}]
        })
    }

    /// The healthy pair with some values changed.
    fn status(changes: &[(&str, Value)]) -> ResourceStatus {
        let mut status = well();
        for (pointer, value) in changes {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let parent = status.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            parent.insert(key.to_owned(), value.clone());
        }
        serde_json::from_value(status).unwrap()
    }

    const ROLE: &str = "/role";
    const DISK: &str = "/volumes/0/disk";
    const LINK: &str = "/peers/0/connection";
    const REASON: &str = "/peers/0/reason";
    const PEER_ROLE: &str = "/peers/0/role";
    const PEER_DISK: &str = "/peers/0/volumes/0/peer_disk";
    const REPLICATION: &str = "/peers/0/volumes/0/replication";
    const HELD: &str = "/peers/0/volumes/0/resync_suspended";

    /// The fact contains these words, and this command helps.
    #[track_caller]
    fn case(changes: &[(&str, Value)], fact: &str, command: Option<&str>) {
        let found = explain(&status(changes));
        let is_it = |explanation: &&Explanation| {
            explanation.fact.contains(fact)
                && command.is_none_or(|words| {
                    explanation.command.as_ref().is_some_and(|found| found.starts_with(&format!("shimai {words}")))
                })
        };
        assert!(found.iter().any(|explanation| is_it(&explanation)), "{fact}: {found:#?}");
    }

    #[test]
    fn a_healthy_pair_needs_no_words() {
        assert_eq!(explain(&status(&[])), []);
    }

    #[test]
    fn every_way_to_be_alone_has_its_own_way_out() {
        let alone = |reason: &str, command: &str| {
            let changes = [(LINK, json!("StandAlone")), (REASON, json!(reason)), (PEER_ROLE, json!("Unknown"))];
            case(&changes, reason, Some(command));
        };
        alone("split brain, and no policy decides", "connect --discard-my-data data");
        alone("unrelated data", "create-md --force data");
        alone("authentication failed", "adjust data");
        alone("options differ: protocol", "adjust data");
        alone("no common version", "connect data");
        alone("the peer's disk is smaller", "connect data");
        case(&[(LINK, json!("StandAlone"))], "not looking for it", Some("connect data"));
        case(&[(LINK, json!("WFConnection"))], "does not answer", Some("up data"));
        case(&[(LINK, json!("NetworkFailure"))], "lost (NetworkFailure)", Some("wait-connect data"));
        case(&[(LINK, json!("WFReportParams"))], "handshake", Some("wait-connect data"));
    }

    #[test]
    fn every_disk_state_but_the_best_is_explained() {
        case(&[(DISK, json!("Diskless"))], "has no disk here", Some("attach data/0"));
        case(&[(DISK, json!("Failed"))], "failed", Some("detach data/0 --force"));
        case(&[(DISK, json!("Outdated")), (LINK, json!("StandAlone"))], "older", Some("connect data"));
        case(&[(DISK, json!("Consistent")), (LINK, json!("WFConnection"))], "newer data", Some("wait-connect data"));
        let both = [(DISK, json!("Inconsistent")), (PEER_DISK, json!("Inconsistent"))];
        case(&both, "on both nodes", Some("primary --force data"));
        let lone = [(DISK, json!("Inconsistent")), (LINK, json!("StandAlone")), (PEER_DISK, json!("DUnknown"))];
        case(&lone, "a mix", Some("connect data"));
        case(&[(DISK, json!("Inconsistent"))], "no resync runs", Some("disconnect data && shimai connect data"));
        case(&[(PEER_DISK, json!("Diskless"))], "bravo has no disk", Some("attach data/0"));
    }

    const VOLUME_REASON: &str = "/volumes/0/reason";
    const PEER_VOLUMES: &str = "/peers/0/volumes";

    #[test]
    fn a_peer_that_is_looked_for_already_is_brought_up_there() {
        let lone = [(LINK, json!("WFConnection")), (PEER_DISK, json!("DUnknown")), (PEER_ROLE, json!("Unknown"))];
        let with = |more: &[(&'static str, Value)]| [&lone[..], more].concat();
        let there = Some("up data    (on bravo");
        case(&with(&[(DISK, json!("Inconsistent"))]), "no good copy", there);
        case(&with(&[(DISK, json!("Outdated"))]), "older", there);
        let held = [("/suspended", json!({"no_data": true})), (DISK, json!("Diskless"))];
        case(&with(&held), "neither this disk nor the peer's", there);
        case(&with(&[(REASON, json!("cannot reach bravo: authority"))]), "does not answer", there);
    }

    #[test]
    fn data_that_only_a_detached_disk_has_is_fetched_from_there() {
        let gone = (PEER_DISK, json!("Diskless"));
        let there = Some("attach data/0    (on bravo");
        case(&[(DISK, json!("Outdated")), gone.clone()], "older", there);
        case(&[(DISK, json!("Inconsistent")), gone.clone()], "no good copy", there);
        case(&[("/suspended", json!({"no_data": true})), (DISK, json!("Diskless")), gone], "neither", there);
        case(&[(DISK, json!("Outdated")), (REPLICATION, json!("SyncTarget"))], "older", Some("wait-sync data/0"));
        case(&[(DISK, json!("Outdated"))], "older", Some("disconnect data && shimai connect data"));
    }

    #[test]
    fn marks_for_a_disk_that_is_gone_are_not_taken_for_those_of_a_verify() {
        let marked = ("/peers/0/volumes/0/out_of_sync_kib", json!(8));
        case(std::slice::from_ref(&marked), "marked as different", Some("disconnect data"));
        let idle = (ROLE, json!("Secondary"));
        case(&[marked.clone(), idle], "marked as different", Some("primary data && shimai disconnect data"));
        for lost in [(PEER_DISK, json!("Diskless")), (DISK, json!("Diskless"))] {
            let found = explain(&status(&[marked.clone(), lost]));
            assert!(found.iter().all(|one| !one.rule.contains("verify")), "{found:#?}");
        }
        let both = explain(&status(&[(PEER_DISK, json!("Diskless")), (DISK, json!("Diskless"))]));
        assert!(both.iter().all(|one| !one.rule.contains("writes are stored here")), "{both:#?}");
    }

    #[test]
    fn a_lost_disk_tells_how_it_was_lost() {
        let lost = [(DISK, json!("Diskless")), (VOLUME_REASON, json!("write: No space left on device"))];
        case(&lost, "no disk here: write: No space left on device", Some("attach data/0"));
        case(&lost[..1], "not attached since the resource came up", Some("attach data/0"));
    }

    #[test]
    fn a_refusal_that_repeats_at_each_try_is_explained_while_it_is_tried() {
        let reason = (REASON, json!("expected AuthResponse payload of wrong size: is cram-hmac-alg the same?"));
        case(&[(LINK, json!("WFConnection")), reason.clone()], "cram-hmac-alg", Some("adjust data"));
        case(&[(LINK, json!("Unconnected")), reason], "answers, and the connection ends", Some("adjust data"));
    }

    #[test]
    fn a_volume_that_the_peer_lacks_is_named() {
        let volumes = json!([
            {"number": 0, "replication": "Connected", "peer_disk": "UpToDate"},
            {"number": 1, "replication": "WFReportParams", "peer_disk": "DUnknown"}
        ]);
        let second =
            json!({"number": 1, "minor": 1, "device": "/dev/drbd1", "disk": "Inconsistent", "size_sectors": 8});
        let mut lonely = status(&[(LINK, json!("WFReportParams")), (PEER_VOLUMES, volumes.clone())]);
        lonely.volumes.push(serde_json::from_value(second).unwrap());
        let found = explain(&lonely);
        assert!(found.len() == 1, "no better copy is promised: {found:#?}");
        case(
            &[(LINK, json!("WFReportParams")), (PEER_VOLUMES, volumes)],
            "nothing of volume 1",
            Some("adjust data    (on bravo"),
        );
    }

    #[test]
    fn a_resync_tells_whether_it_runs_and_who_holds_it() {
        let target = [(DISK, json!("Inconsistent")), (REPLICATION, json!("SyncTarget"))];
        case(&target, "resynchronised from bravo", Some("wait-sync data/0"));
        let held = |who: &str| [(REPLICATION, json!("PausedSyncT")), (HELD, json!({ who: true }))];
        case(&held("user"), "held by an operator", Some("resume-sync data/0"));
        case(&held("peer"), "held by the peer", Some("resume-sync data/0"));
    }

    #[test]
    fn held_requests_name_who_holds_them() {
        case(&[("/suspended", json!({"user": true}))], "an operator suspended them", Some("resume-io data"));
        case(&[("/suspended", json!({"fencing": true}))], "whether bravo is in use", Some("up data"));
        let lost = [("/suspended", json!({"no_data": true})), (DISK, json!("Diskless"))];
        case(&lost, "neither this disk nor the peer's", Some("attach data/0"));
    }

    #[test]
    fn a_pair_of_secondaries_waits_for_a_promotion() {
        case(&[(ROLE, json!("Secondary"))], "no node in sight is Primary", Some("primary data"));
        assert_eq!(explain(&status(&[(ROLE, json!("Secondary")), (PEER_ROLE, json!("Primary"))])), []);
    }

    #[test]
    fn every_explanation_has_a_rule() {
        for disk in DiskState::ALL {
            for link in ConnectionState::ALL {
                let changes =
                    [(DISK, json!(disk.name())), (LINK, json!(link.name())), (REPLICATION, json!(link.name()))];
                for explanation in explain(&status(&changes)) {
                    assert!(!explanation.rule.is_empty() && !explanation.fact.is_empty(), "{explanation:?}");
                }
            }
        }
    }
}

//! `adjust`: what lies between what runs and what the configuration says, as commands; then those commands.
//!
//! The plan is made before anything is done, from values alone, so that `--dry-run` shows exactly what would happen. What
//! can change while the resource runs is changed; addresses, disks and the set of volumes need the resource to go down
//! and up, which is refused while it is Primary. What an attach begins with is told to the resource, and listed until the
//! disk has been attached again. Resources that the configuration no longer has are left alone, as DRBD does.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::node::Node;
use super::problem::Problem;
use super::running::{Running, volumes};
use super::server::Out;
use super::settings::settings;
use super::{identifiers, operate};
use crate::config::{Config, NetOptions, Resource, Volume};
use crate::control::refusal::{ConfigurationRefusal, StateRefusal};
use crate::control::status::ResourceStatus;
use crate::control::{Request, Response};
use crate::model::state::{ConnectionState, DiskState, Role};
use crate::replica::event::Command;
use crate::replica::refusal::{Code, Refusal};
use crate::replica::settings::Settings;

/// How long a disk has to show its metadata before what runs is taken down for it.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// It does not run.
    Up,
    /// What changed cannot change while it runs.
    Restart(&'static str),
    /// What was agreed at the handshake has to be agreed anew.
    Disconnect,
    /// What can change while it runs.
    Options(Vec<&'static str>),
    /// What counts from the next attach of the volume on; its index, and what.
    Later(usize, &'static str),
    /// A disk that is not in use; the volume's index.
    Attach(usize),
    /// Nobody looks for the peer.
    Connect,
}

/// A step in the words of the command line.
struct Shown<'a>(&'a Step, &'a Resource);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(step, resource) = self;
        let name = &resource.name;
        let number = |index: usize| resource.volumes.get(index).map_or(0, |volume| volume.number.0);
        match step {
            Step::Up => write!(f, "up {name}"),
            Step::Restart(what) => write!(f, "down {name} && up {name}    # {what}"),
            Step::Disconnect => write!(f, "disconnect {name}"),
            Step::Options(what) => write!(f, "adjust {name}    # {}", what.join(", ")),
            Step::Later(index, what) => {
                let number = number(*index);
                write!(f, "detach {name}/{number} && attach {name}/{number}    # {what}; not done by adjust")
            }
            Step::Attach(index) => write!(f, "attach {name}/{}", number(*index)),
            Step::Connect => write!(f, "connect {name}"),
        }
    }
}

/// What has to be done so that what runs is what is wanted.
fn plan(running: Option<(&Resource, &ResourceStatus)>, wanted: &Resource) -> Vec<Step> {
    let Some((now, status)) = running else { return vec![Step::Up] };
    if let Some(what) = needs_restart(now, wanted) {
        return vec![Step::Restart(what)];
    }
    let mut steps = Vec::new();
    let attached = attached(status, wanted);
    let changed = changed_options(now, wanted, &attached);
    let is_renegotiated = now.peers.iter().zip(&wanted.peers).any(|(now, wanted)| !agrees(&now.net, &wanted.net));
    let is_alone = status.peers.iter().any(|peer| peer.connection == ConnectionState::StandAlone);
    if is_renegotiated && !is_alone {
        steps.push(Step::Disconnect);
    }
    if !changed.is_empty() {
        steps.push(Step::Options(changed));
    }
    for (index, volume) in wanted.volumes.iter().enumerate() {
        let is_later = now.volumes.get(index).is_some_and(|now| now.options.al_extents != volume.options.al_extents);
        match attached.contains(&index) {
            true if is_later => steps.push(Step::Later(index, "al-extents")),
            false if volume.disk.is_some() => steps.push(Step::Attach(index)),
            _ => {}
        }
    }
    if is_alone || is_renegotiated {
        steps.push(Step::Connect);
    }
    steps
}

/// The volumes whose disk is in use.
fn attached(status: &ResourceStatus, wanted: &Resource) -> Vec<usize> {
    let is_in_use = |volume: &Volume| {
        let found = status.volumes.iter().find(|status| status.number == volume.number.0);
        found.is_some_and(|status| status.disk != DiskState::Diskless)
    };
    (0..wanted.volumes.len()).filter(|&index| is_in_use(&wanted.volumes[index])).collect()
}

/// A volume in use keeps its size: to change it both nodes must agree, which is the work of `resize`.
fn other_size(now: &Resource, status: &ResourceStatus, wanted: &Resource) -> Option<Refusal> {
    let attached = attached(status, wanted);
    let (now, wanted_volume) = attached.iter().find_map(|&index| {
        let (now, wanted) = (now.volumes.get(index)?, &wanted.volumes[index]);
        (now.number == wanted.number && now.options.size_sectors != wanted.options.size_sectors)
            .then_some((now, wanted))
    })?;
    let size = |sectors| match sectors {
        0 => "not set".to_owned(),
        sectors => format!("{sectors} sectors"),
    };
    let (before, after) = (size(now.options.size_sectors), size(wanted_volume.options.size_sectors));
    let (name, number) = (&wanted.name, now.number);
    Some(Refusal {
        code: Code::Configuration(ConfigurationRefusal::InvalidRequest),
        sentence: format!(
            "the size of {name}/{number} cannot change while its disk is in use (it is {before}, the configuration \
             says {after}); nothing was changed"
        ),
        next: Some(format!("detach {name}/{number}")),
    })
}

/// What cannot change while the resource runs.
fn needs_restart(now: &Resource, wanted: &Resource) -> Option<&'static str> {
    let place = |volume: &Volume| {
        let Volume { number, minor, device_name, disk, meta, .. } = volume;
        (*number, *minor, device_name.clone(), disk.clone(), meta.clone())
    };
    let ends = |resource: &Resource| -> Vec<_> {
        let peers = resource.peers.iter();
        peers.map(|peer| (peer.name.clone(), peer.node_id, peer.my_address.clone(), peer.address.clone())).collect()
    };
    let buffers = |resource: &Resource| -> Vec<_> {
        resource.peers.iter().map(|peer| (peer.net.sndbuf_size, peer.net.rcvbuf_size)).collect()
    };
    let rows = [
        (now.me.node_id != wanted.me.node_id, "the node id"),
        (now.volumes.len() != wanted.volumes.len(), "the set of volumes"),
        (!now.volumes.iter().map(place).eq(wanted.volumes.iter().map(place)), "a volume's device, disk or metadata"),
        (ends(now) != ends(wanted), "peers or addresses"),
        (buffers(now) != buffers(wanted), "sndbuf-size or rcvbuf-size"),
        (now.options.on_no_data_accessible != wanted.options.on_no_data_accessible, "on-no-data-accessible"),
    ];
    rows.into_iter().find(|(is_changed, _)| *is_changed).map(|(_, what)| what)
}

/// Sections with changes that are made while the resource runs. Options that nobody acts on are none, `lint` names them; nor is
/// what a volume in `attached` takes up at its next attach.
fn changed_options(now: &Resource, wanted: &Resource, attached: &[usize]) -> Vec<&'static str> {
    let (Ok(before), Ok(after)) = (settings(now, [0; 32]), settings(wanted, [0; 32])) else { return Vec::new() };
    let volumes = || before.volumes.iter().zip(&after.volumes).enumerate();
    let net = before.peers != after.peers;
    let disk = volumes().any(|(index, (before, after))| {
        let mut before = before.clone();
        before.resync = after.resync;
        if attached.contains(&index) {
            before.al_extents = after.al_extents;
        }
        before != *after
    });
    let rates = volumes().any(|(_, (before, after))| before.resync != after.resync);
    let handlers = before.handlers != after.handlers;
    let rows = [(net, "net"), (disk, "disk"), (rates, "resync"), (handlers, "handlers")];
    rows.into_iter().filter(|(is_changed, _)| *is_changed).map(|(_, what)| what).collect()
}

/// Whether what the two ends compare when they meet is the same.
fn agrees(now: &NetOptions, wanted: &NetOptions) -> bool {
    let compared = |net: &NetOptions| {
        (
            (net.protocol, net.allow_two_primaries, net.after_sb_0pri, net.after_sb_1pri, net.after_sb_2pri),
            (net.cram_hmac_alg.clone(), net.shared_secret.clone(), net.data_integrity_alg.clone()),
            (net.verify_alg.clone(), net.csums_alg.clone()),
        )
    };
    compared(now) == compared(wanted)
}

/// `adjust`.
pub(super) async fn adjust(node: &Arc<Node>, request: &Request, out: &Arc<Out>) -> Result<(), Problem> {
    let config = Arc::new(node.config(request.options.config.as_deref())?);
    let (names, volume) = (names(node, &config, request)?, request.volume);
    operate::each_in_turn(node, request, names, out, move |node, name, out| {
        let config = Arc::clone(&config);
        async move {
            let difference = difference(&node, &config, &name, volume, &out).await?;
            carry_out(&node, &config, &difference, &out).await
        }
    })
    .await
}

/// `adjust --dry-run`: looks, and so has not to wait for its turn.
pub(super) async fn dry_run(node: &Node, request: &Request, out: &Out) -> Result<(), Problem> {
    let config = node.config(request.options.config.as_deref())?;
    let mut problems = Vec::new();
    for name in names(node, &config, request)? {
        let result = difference(node, &config, &name, request.volume, out).await;
        if request.resource.is_some() {
            return result.map(|_| ());
        }
        problems.extend(result.err().map(|problem| (name, problem)));
    }
    Problem::of_several(problems)
}

fn names(node: &Node, config: &Config, request: &Request) -> Result<Vec<String>, Problem> {
    match &request.resource {
        Some(name) => Ok(vec![name.clone()]),
        None => node.configured(config),
    }
}

/// What runs, what is wanted, and the way from one to the other.
struct Difference {
    wanted: Resource,
    target: Settings,
    running: Option<(Arc<Running>, ResourceStatus)>,
    steps: Vec<Step>,
}

/// Finds the difference, and says it.
async fn difference(
    node: &Node,
    config: &Config,
    name: &str,
    volume: Option<u16>,
    out: &Out,
) -> Result<Difference, Problem> {
    let wanted = node.resolve(config, name)?;
    volumes(&wanted, volume)?;
    // Refused before anything is touched.
    let target = settings(&wanted, [0; 32]).map_err(|error| Problem::NotServed { sentence: error.to_string() })?;
    let running = match node.find(name).filter(|running| !running.is_finished()) {
        Some(running) => {
            let status = running.status().await?;
            Some((running, status))
        }
        None => None,
    };
    let now = running.as_ref().map(|(running, status)| (running.resource(), status));
    let now = now.as_ref().map(|(resource, status)| (resource, *status));
    if let Some(refusal) = now.and_then(|(now, status)| other_size(now, status, &wanted)) {
        return Err(Problem::Refused(refusal));
    }
    let steps = plan(now, &wanted);
    for step in &steps {
        out.say(Response::Text(Shown(step, &wanted).to_string())).await;
    }
    Ok(Difference { wanted, target, running, steps })
}

/// Several steps, and between two of them the resource is in nobody's intended state: to be done to the end.
async fn carry_out(node: &Node, config: &Config, difference: &Difference, out: &Out) -> Result<(), Problem> {
    let Difference { wanted, target, running, steps } = difference;
    let name = &wanted.name;
    for step in steps {
        out.waits_for(Shown(step, wanted).to_string());
        match (step, running) {
            (Step::Up, _) => operate::bring_up(node, config, name, None, out).await?,
            (Step::Restart(what), running) => {
                refuse_primary(name, what, running.as_ref().map(|(_, status)| status))?;
                refuse_useless_disks(wanted).await?;
                operate::bring_down(node, name, out).await?;
                operate::bring_up(node, config, name, None, out).await?;
            }
            (step, Some((running, status))) => {
                apply(running, step, wanted, target, &attached(status, wanted)).await?;
            }
            (_, None) => {}
        }
    }
    Ok(())
}

/// To take a Primary down is more than `adjust` was asked for.
fn refuse_primary(name: &str, what: &str, status: Option<&ResourceStatus>) -> Result<(), Problem> {
    match status {
        Some(status) if status.role == Role::Primary => Err(Problem::Refused(Refusal {
            code: Code::State(StateRefusal::DeviceInUse),
            sentence: format!("{what} can only change while {name} is down, and it is Primary"),
            next: Some(format!("secondary {name}")),
        })),
        _ => Ok(()),
    }
}

/// What runs is not taken down for a disk that could not be attached afterwards.
async fn refuse_useless_disks(wanted: &Resource) -> Result<(), Problem> {
    for volume in wanted.volumes.iter().filter(|volume| volume.disk.is_some()) {
        let (name, number) = (&wanted.name, volume.number);
        let looked = tokio::time::timeout(DISK_PATIENCE, identifiers::read(volume)).await;
        let (code, sentence, is_absence) = match looked {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => (error.code(), error.to_string(), error.is_absence()),
            Err(_) => {
                let sentence = format!("the disk of {name}/{number} does not answer");
                (ConfigurationRefusal::CannotOpenDisk, sentence, false)
            }
        };
        return Err(Problem::Refused(Refusal {
            code: Code::Configuration(code),
            sentence: format!("{sentence}; nothing was changed"),
            // Where there is something, new metadata would be the end of it.
            next: is_absence.then(|| format!("create-md {name}/{number}    (if the disk is the right one)")),
        }));
    }
    Ok(())
}

async fn apply(
    running: &Running,
    step: &Step,
    wanted: &Resource,
    target: &Settings,
    attached: &[usize],
) -> Result<(), Problem> {
    match step {
        Step::Disconnect => running.command(Command::Disconnect { force: false }).await,
        Step::Options(_) | Step::Later(..) => {
            let (peers, volumes, handlers) = (target.peers.clone(), target.volumes.clone(), target.handlers.clone());
            running.command(Command::Adjust { peers, volumes, handlers }).await?;
            running.was_told(wanted.clone(), attached);
            Ok(())
        }
        Step::Attach(volume) => running.attach(*volume).await,
        Step::Connect => running.command(Command::Connect { discard_my_data: false }).await,
        Step::Up | Step::Restart(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MemoryFiles;
    use crate::control::status::{PeerStatus, VolumeStatus};

    fn resource(net: &str, disk: &str, port: u16) -> Resource {
        let text = format!(
            "resource data {{
                net {{ {net} }} disk {{ {disk} }}
                device minor 0; disk /dev/vg/data; meta-disk internal;
                on alpha {{ node-id 0; address 10.0.0.1:{port}; }}
                on bravo {{ node-id 1; address 10.0.0.2:7788; }}
            }}"
        );
        let config = Config::load("t.res", &MemoryFiles::single("t.res", text)).unwrap_or_else(|e| panic!("{e:?}"));
        config.resolve("data", "alpha").unwrap()
    }

    fn status(connection: &str, disk: DiskState) -> ResourceStatus {
        let find = |state: &&ConnectionState| state.name() == connection;
        let connection = *ConnectionState::ALL.iter().find(find).unwrap();
        let volume: VolumeStatus = serde_json::from_value(serde_json::json!({
            "number": 0, "minor": 0, "device": "/dev/drbd0", "disk": disk.name(), "size_sectors": 0
        }))
        .unwrap();
        let peer: PeerStatus = serde_json::from_value(serde_json::json!({
            "name": "bravo", "node_id": 1, "connection": connection.name(), "role": "Unknown"
        }))
        .unwrap();
        ResourceStatus {
            name: "data".into(),
            node_name: "alpha".into(),
            node_id: 0,
            role: Role::Secondary,
            suspended: Default::default(),
            write_ordering: "flush".into(),
            volumes: vec![volume],
            peers: vec![peer],
        }
    }

    #[track_caller]
    fn case(wanted: &Resource, connection: &str, disk: DiskState, expected: &[&str]) {
        let (now, status) = (resource("", "", 7788), status(connection, disk));
        let steps = plan(Some((&now, &status)), wanted);
        let shown: Vec<String> = steps.iter().map(|step| Shown(step, wanted).to_string()).collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_plan_holds_what_differs_and_no_more() {
        let same = resource("", "", 7788);
        case(&same, "Connected", DiskState::UpToDate, &[]);
        case(&same, "WFConnection", DiskState::Diskless, &["attach data/0"]);
        case(&same, "StandAlone", DiskState::Diskless, &["attach data/0", "connect data"]);
        case(&resource("ping-int 3;", "", 7788), "Connected", DiskState::UpToDate, &["adjust data    # net"]);
        case(
            &resource("", "resync-rate 99M; al-extents 400;", 7788),
            "Connected",
            DiskState::UpToDate,
            &["adjust data    # resync", "detach data/0 && attach data/0    # al-extents; not done by adjust"],
        );
        case(
            &resource("", "al-extents 400;", 7788),
            "Connected",
            DiskState::Diskless,
            &["adjust data    # disk", "attach data/0"],
        );
        let flags = resource("tcp-cork no;", "on-io-error call-local-io-error; disk-timeout 3;", 7788);
        case(&flags, "Connected", DiskState::UpToDate, &["adjust data    # disk"]);
        case(
            &resource("", "on-io-error pass_on; size 8M;", 7788),
            "Connected",
            DiskState::Diskless,
            &["adjust data    # disk", "attach data/0"],
        );
    }

    #[test]
    fn a_disk_in_use_keeps_its_size() {
        let (now, wanted) = (resource("", "", 7788), resource("", "size 8M;", 7788));
        let refusal = other_size(&now, &status("Connected", DiskState::UpToDate), &wanted).unwrap();
        let words = "the size of data/0 cannot change while its disk is in use (it is not set, the configuration says \
                     16384 sectors); nothing was changed";
        assert_eq!(refusal.sentence, words);
        assert_eq!(other_size(&now, &status("Connected", DiskState::Diskless), &wanted), None);
        assert_eq!(other_size(&wanted, &status("Connected", DiskState::UpToDate), &wanted), None);
    }

    #[test]
    fn what_both_ends_compare_is_agreed_anew() {
        let wanted = resource("protocol A;", "", 7788);
        let steps = ["disconnect data", "adjust data    # net", "connect data"];
        case(&wanted, "Connected", DiskState::UpToDate, &steps);
        case(&wanted, "StandAlone", DiskState::UpToDate, &steps[1..]);
    }

    #[test]
    fn what_cannot_change_while_it_runs_needs_a_restart() {
        let steps = ["down data && up data    # peers or addresses"];
        case(&resource("", "", 7799), "Connected", DiskState::UpToDate, &steps);
        assert_eq!(plan(None, &resource("", "", 1)), [Step::Up]);
        let primary = ResourceStatus { role: Role::Primary, ..status("Connected", DiskState::UpToDate) };
        assert!(refuse_primary("data", "the node id", Some(&primary)).is_err());
    }
}

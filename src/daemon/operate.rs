//! Verbs that change something, each on one resource after another.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::node::{Ending, Node};
use super::problem::Problem;
use super::running::{Running, volumes};
use super::server::Out;
use crate::config::Config;
use crate::control::refusal::StateRefusal;
use crate::control::status::{PeerVolumeStatus, ResourceStatus};
use crate::control::{Request, Response, Verb};
use crate::model::state::{ConnectionState, DiskState};
use crate::replica::event::Command;
use crate::replica::refusal::{Code, Refusal};

/// How often to say how far something that is waited for has come.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// How long a resource may take to end in order before it is ended as it stands.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// Carries out the verb on every resource that is meant. One that fails does not keep the others from their turn.
pub(super) async fn every(node: &Arc<Node>, request: &Request, out: &Arc<Out>) -> Result<(), Problem> {
    if let Some(name) = &request.resource {
        return one(node, request, name, out).await;
    }
    let mut problems = Vec::new();
    for name in node.all()? {
        let result = one(node, request, &name, out).await;
        problems.extend(result.err().map(|problem| (name, problem)));
    }
    Problem::of_several(problems)
}

/// `up`: with the configuration as it is when it is asked for.
pub(super) async fn up(node: &Arc<Node>, request: &Request, out: &Arc<Out>) -> Result<(), Problem> {
    let config = Arc::new(node.config(request.options.config.as_deref())?);
    let volume = request.volume;
    let names = match &request.resource {
        Some(name) => vec![name.clone()],
        None => node.configured(&config)?,
    };
    each_in_turn(node, request, names, out, move |node, name, out| {
        let config = Arc::clone(&config);
        async move { bring_up(&node, &config, &name, volume, &out).await }
    })
    .await
}

/// `down`.
pub(super) async fn down(node: &Arc<Node>, request: &Request, out: &Arc<Out>) -> Result<(), Problem> {
    let names = match &request.resource {
        Some(name) => vec![name.clone()],
        None => node.all()?,
    };
    let volume = request.volume;
    each_in_turn(node, request, names, out, move |node, name, out| async move {
        refuse_half_a_resource(&node, &name, volume)?;
        bring_down(&node, &name, &out).await
    })
    .await
}

/// Brings up what the daemon's own configuration has for this node.
pub(super) async fn up_all(node: &Arc<Node>) -> Result<(), Problem> {
    up(node, &Request::new(Verb::Up, None), &Arc::new(Out::unread())).await
}

/// Does something that changes what runs to each of these resources when its turn has come. Waiting for the turn ends with
/// the asker; what has begun goes to its end.
///
/// All begin at once, so that one that hangs keeps nobody from its turn. Lines come in the order of the names.
pub(super) async fn each_in_turn<F>(
    node: &Arc<Node>,
    request: &Request,
    names: Vec<String>,
    out: &Arc<Out>,
    work: impl Fn(Arc<Node>, String, Arc<Out>) -> F + Clone + Send + 'static,
) -> Result<(), Problem>
where
    F: Future<Output = Result<(), Problem>> + Send + 'static,
{
    let verb = request.verb;
    let in_turn = move |node: Arc<Node>, name: String, out: Arc<Out>| {
        let work = work.clone();
        async move {
            let turn = node.lives.turn(&name, verb, &out).await;
            to_its_end(async move {
                let _turn = turn;
                work(node, name, out).await
            })
            .await
        }
    };
    if let Some(name) = &request.resource {
        return in_turn(Arc::clone(node), name.clone(), Arc::clone(out)).await;
    }
    let mut parts = Vec::new();
    for name in names {
        let (part, lines) = out.part(format!("{verb} {name}"));
        let task = Task(tokio::spawn(in_turn(Arc::clone(node), name.clone(), part)));
        parts.push((name, lines, task));
    }
    let mut problems = Vec::new();
    for (name, mut lines, mut task) in parts {
        while let Some(line) = lines.recv().await {
            out.say(line).await;
        }
        let result = (&mut task.0).await.unwrap_or(Err(Problem::Interrupted));
        problems.extend(result.err().map(|problem| (name, problem)));
    }
    Problem::of_several(problems)
}

/// Ends with its owner.
struct Task(JoinHandle<Result<(), Problem>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn one(node: &Arc<Node>, request: &Request, name: &str, out: &Out) -> Result<(), Problem> {
    let running = node.need(name)?;
    let volumes = running.volumes(request.volume)?;
    match request.verb {
        Verb::Attach => {
            for volume in volumes {
                attach(&running, volume, out).await?;
            }
            Ok(())
        }
        Verb::WaitConnect => wait(&running, Command::WaitConnect, "waiting for the connection of", alone, out).await,
        Verb::WaitSync => {
            for volume in volumes {
                let number = number(&running, volume);
                let hopeless = move |status: &ResourceStatus| alone(status).or_else(|| unsynced(status, number));
                wait(&running, Command::WaitSync { volume }, "waiting for the resync of", hopeless, out).await?;
            }
            Ok(())
        }
        _ => {
            for command in commands(request, &volumes) {
                running.command(command).await?;
            }
            Ok(())
        }
    }
}

/// A resource goes down as a whole: a target with a volume is one that has no other.
fn refuse_half_a_resource(node: &Node, name: &str, number: Option<u16>) -> Result<(), Problem> {
    let Some(number) = number else { return Ok(()) };
    let resource = match node.find(name) {
        Some(running) => running.resource(),
        None => node.resolve(&node.config(None)?, name)?,
    };
    volumes(&resource, Some(number))?;
    if resource.volumes.len() == 1 {
        return Ok(());
    }
    let others = resource.volumes.len() - 1;
    Err(Problem::Unknown {
        sentence: format!(
            "down is for all of {name}, which has {others} more volumes; detach {name}/{number} lets one disk go"
        ),
    })
}

/// The machine's commands for a verb: one for the resource, or one for each volume.
fn commands(request: &Request, volumes: &[usize]) -> Vec<Command> {
    let options = &request.options;
    let force = options.force;
    let each = |command: &dyn Fn(usize) -> Command| volumes.iter().map(|&volume| command(volume)).collect();
    match request.verb {
        Verb::Detach => each(&|volume| Command::Detach { volume, force }),
        Verb::Connect => vec![Command::Connect { discard_my_data: options.discard_my_data }],
        Verb::Disconnect => vec![Command::Disconnect { force }],
        Verb::Primary => vec![Command::Primary { force }],
        Verb::Secondary => vec![Command::Secondary],
        Verb::Invalidate => each(&|volume| Command::Invalidate { volume }),
        Verb::InvalidateRemote => each(&|volume| Command::InvalidateRemote { volume }),
        Verb::Verify => {
            let (start, stop) = (options.start_sector, options.stop_sector);
            each(&|volume| Command::Verify { volume, start, stop })
        }
        Verb::Outdate => each(&|volume| Command::Outdate { volume }),
        Verb::PauseSync => each(&|volume| Command::PauseSync { volume }),
        Verb::ResumeSync => each(&|volume| Command::ResumeSync { volume }),
        Verb::SuspendIo => vec![Command::SuspendIo],
        Verb::ResumeIo => vec![Command::ResumeIo],
        Verb::NewCurrentUuid => each(&|volume| Command::NewCurrentUuid { volume, clear_bitmap: options.clear_bitmap }),
        _ => Vec::new(),
    }
}

/// Brings a resource up, or of its disks only one volume's, and remembers why it did not come up.
pub(super) async fn bring_up(
    node: &Node,
    config: &Config,
    name: &str,
    volume: Option<u16>,
    out: &Out,
) -> Result<(), Problem> {
    let result = run(node, config, name, volume, out).await;
    node.remember_up(name, &result);
    result
}

/// Runs the resource, attaches its disks and looks for its peer; what is done already is left alone.
async fn run(node: &Node, config: &Config, name: &str, volume: Option<u16>, out: &Out) -> Result<(), Problem> {
    let running = match node.find(name) {
        Some(running) if !running.is_finished() => running,
        _ => {
            let resource = node.resolve(config, name)?;
            volumes(&resource, volume)?;
            node.start(config, resource).await?
        }
    };
    let meant = running.volumes(volume)?;
    let status = running.status().await?;
    for volume in to_attach(&running, &status).into_iter().filter(|volume| meant.contains(volume)) {
        attach(&running, volume, out).await?;
    }
    if status.peers.iter().any(|peer| peer.connection == ConnectionState::StandAlone) {
        running.command(Command::Connect { discard_my_data: false }).await?;
    }
    Ok(())
}

/// Volumes that have a disk in the configuration and none in use.
pub(super) fn to_attach(running: &Running, status: &ResourceStatus) -> Vec<usize> {
    let resource = running.resource();
    let is_diskless =
        |number: u16| status.volumes.iter().any(|volume| volume.number == number && volume.disk == DiskState::Diskless);
    let volumes = resource.volumes.iter().enumerate();
    volumes
        .filter(|(_, volume)| volume.disk.is_some() && is_diskless(volume.number.0))
        .map(|(index, _)| index)
        .collect()
}

fn number(running: &Running, volume: usize) -> u16 {
    running.resource().volumes.get(volume).map_or(0, |volume| volume.number.0)
}

async fn attach(running: &Running, volume: usize, out: &Out) -> Result<(), Problem> {
    let name = running.name();
    out.waits_for(format!("the disk of {name}/{} to be attached", number(running, volume)));
    running.attach(volume).await
}

/// Leaves the peer, lets the disks go and ends the resource's thread. Refused while an application has it open.
pub(super) async fn bring_down(node: &Node, name: &str, out: &Out) -> Result<(), Problem> {
    let Some(running) = node.find(name) else { return known(node, name) };
    out.waits_for(format!("{name} to let its peer and its disks go"));
    if !running.is_finished() {
        match running.command(Command::Down).await {
            // Gone before it could answer, as somebody else wanted.
            Ok(()) | Err(Problem::NotUp { .. }) => running.stop_gracefully().await?,
            Err(problem) => return Err(problem),
        }
    }
    node.forget(&running);
    tracing::info!(resource = name, "down");
    Ok(())
}

/// Does something that must not stop half-way when its asker stops waiting.
pub(super) async fn to_its_end(
    work: impl Future<Output = Result<(), Problem>> + Send + 'static,
) -> Result<(), Problem> {
    tokio::spawn(work).await.unwrap_or(Err(Problem::Interrupted))
}

/// What is not up is down already, if there is such a thing.
fn known(node: &Node, name: &str) -> Result<(), Problem> {
    let config = node.config(None)?;
    node.resolve(&config, name).map(|_| ())
}

/// Waits for the outcome of a command, says how far it has come, and gives up when it looks `hopeless` twice running: what
/// was about to begin has begun by then.
async fn wait(
    running: &Running,
    command: Command,
    what: &str,
    hopeless: impl Fn(&ResourceStatus) -> Option<Refusal>,
    out: &Out,
) -> Result<(), Problem> {
    out.waits_for(format!("{what} {}", running.name()));
    let work = running.command(command);
    tokio::pin!(work);
    let mut was_hopeless = false;
    loop {
        match tokio::time::timeout(PROGRESS_INTERVAL, &mut work).await {
            Ok(result) => return result,
            Err(_) => {
                let status = running.status().await?;
                let refusal = hopeless(&status);
                was_hopeless = match refusal {
                    Some(refusal) if was_hopeless => return Err(Problem::Refused(refusal)),
                    seen => seen.is_some(),
                };
                let progress = progress(&status, what);
                if let Response::Progress { sentence, .. } = &progress {
                    out.waits_for(sentence.clone());
                }
                out.say(progress).await;
            }
        }
    }
}

/// Nobody looks for the peer: what is waited for cannot come.
fn alone(status: &ResourceStatus) -> Option<Refusal> {
    let is_alone = status.peers.iter().all(|peer| peer.connection == ConnectionState::StandAlone);
    is_alone.then(|| Refusal {
        code: Code::State(StateRefusal::NeedConnection),
        sentence: format!("{} is StandAlone: nobody looks for its peer, so there is nothing to wait for", status.name),
        next: Some(format!("connect {}", status.name)),
    })
}

/// The volume needs a resync and none is under way: none will come by itself. A resync that is held counts as under way.
fn unsynced(status: &ResourceStatus, number: u16) -> Option<Refusal> {
    let volume = status.volumes.iter().find(|volume| volume.number == number)?;
    let connected = |peer: &PeerVolumeStatus| peer.number == number && peer.replication == ConnectionState::Connected;
    let (peer, theirs) =
        status.peers.iter().find_map(|peer| Some((peer, peer.volumes.iter().find(|volume| connected(volume))?)))?;
    let code = match (volume.disk, theirs.peer_disk) {
        (DiskState::Diskless, _) if !volume.client => StateRefusal::NoLocalDisk,
        (_, DiskState::Diskless) => StateRefusal::NoRemoteDisk,
        (DiskState::Inconsistent, DiskState::Inconsistent) => StateRefusal::NoUpToDateDisk,
        (disk, peer_disk) => {
            let needs_sync =
                |disk| matches!(disk, DiskState::Inconsistent | DiskState::Outdated | DiskState::Consistent);
            (needs_sync(disk) || needs_sync(peer_disk)).then_some(StateRefusal::LowerThanOutdated)?
        }
    };
    Some(Refusal {
        code: Code::State(code),
        sentence: format!(
            "{}: volume {number} is {} here and {} on {}, and no resync runs, so there is nothing to wait for",
            code.text(),
            volume.disk,
            theirs.peer_disk,
            peer.name
        ),
        next: Some(format!("why {}", status.name)),
    })
}

/// Where a resource stands on its way to being connected and in sync.
fn progress(status: &ResourceStatus, what: &str) -> Response {
    let syncing = |volume: &PeerVolumeStatus| volume.sync.is_some();
    let found = status.peers.iter().find_map(|peer| peer.volumes.iter().find(|v| syncing(v)).map(|v| (peer, v)));
    if let Some((peer, volume)) = found
        && let Some(sync) = &volume.sync
    {
        let direction = match volume.replication {
            ConnectionState::SyncTarget | ConnectionState::PausedSyncT => "from",
            _ => "to",
        };
        // What is held has no speed, and nobody knows for how long.
        let is_held = volume.resync_suspended.any();
        let paused = if is_held { ", paused" } else { "" };
        return Response::Progress {
            sentence: format!("resync of {}/{} {direction} {}{paused}", status.name, volume.number, peer.name),
            percent: Some(sync.done_percent),
            rate_bytes_per_s: (!is_held).then_some(sync.rate_kib_per_s.saturating_mul(1024)),
            seconds_left: sync.seconds_left.filter(|_| !is_held),
        };
    }
    let peers: Vec<String> =
        status.peers.iter().map(|peer| format!("{} is {}", peer.name, peer.connection.name())).collect();
    let sentence = format!("{what} {} ({})", status.name, peers.join(", "));
    Response::Progress { sentence, percent: None, rate_bytes_per_s: None, seconds_left: None }
}

/// Ends every resource: in order if it goes within [`STOP_PATIENCE`], else as it stands. Until it has gone it can be looked
/// at, and what holds it up can be let go.
pub(super) async fn stop_all(node: &Node) {
    let _ = tokio::time::timeout(STOP_PATIENCE, node.all_started()).await;
    let mut stopping = tokio::task::JoinSet::new();
    for name in node.names() {
        let Some(running) = node.find(&name) else { continue };
        stopping.spawn(async move {
            match tokio::time::timeout(STOP_PATIENCE, running.stop_gracefully()).await {
                Ok(Ok(())) => tracing::info!(resource = name, "down"),
                Ok(Err(problem)) => tracing::warn!(resource = name, "cannot end in order: {problem}"),
                Err(_) => tracing::warn!(resource = name, "did not end within {} s", STOP_PATIENCE.as_secs()),
            }
            if !running.is_finished() {
                running.stop_now().await;
            }
            running
        });
    }
    while let Some(stopped) = stopping.join_next().await {
        if let Ok(running) = stopped {
            node.forget(&running);
        }
    }
}

/// Asks for the end of the daemon and waits until nothing is left of its resources. An asker who does not wait so long ends
/// only the waiting.
pub(super) async fn shut_down(node: &Node, out: &Out) {
    out.waits_for("all resources to go down");
    let mut ending = node.ending.subscribe();
    node.ending.send_if_modified(|ending| std::mem::replace(ending, (*ending).max(Ending::Begun)) == Ending::No);
    // The daemon holds the other end as long as it lives.
    let _ = ending.wait_for(|ending| *ending == Ending::Done).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resyncing(is_held: bool) -> ResourceStatus {
        serde_json::from_value(json!({
            "name": "data", "node_name": "alpha", "node_id": 0, "role": "Primary", "write_ordering": "flush",
            "peers": [{"name": "bravo", "node_id": 1, "connection": "Connected", "role": "Secondary", "volumes": [
                {"number": 0, "replication": if is_held { "PausedSyncS" } else { "SyncSource" },
                 "peer_disk": "Inconsistent", "resync_suspended": {"peer": is_held},
                 "sync": {"done_percent": 40.0, "rate_kib_per_s": 100, "seconds_left": 7}}]}]
        }))
        .unwrap()
    }

    #[test]
    fn a_resync_that_is_held_has_no_speed() {
        let shown = |is_held| match progress(&resyncing(is_held), "") {
            Response::Progress { percent, rate_bytes_per_s, seconds_left, .. } => {
                (percent, rate_bytes_per_s, seconds_left)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(shown(false), (Some(40.0), Some(102_400), Some(7)));
        assert_eq!(shown(true), (Some(40.0), None, None));
    }
}

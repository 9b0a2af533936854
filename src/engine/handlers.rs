//! Runs the handlers that the machine asks for: each on a thread of its own, with DRBD's environment and a deadline.
//!
//! A handler is a line for `/bin/sh -c`, in a process group of its own. Like the kernel's helper it gets few variables: a
//! home, a terminal, a path, and `DRBD_*`. Its output goes to the log. The resource's loop never waits for it; how it ended
//! comes back as a message.
//!
//! Not here: when a handler runs, and what its exit code means (`replica`).

use std::net::SocketAddr;

use super::handle::{Control, Post};
use super::specification::{HANDLER_PATIENCE, ResourceSpec};
use crate::io::process::{Command, Exit, run};
use crate::model::ids::HandlerId;
use crate::replica::handler::Handler;

/// Where handlers look for programs: what the kernel's helper is given.
const PATH: &str = "/sbin:/usr/sbin:/bin:/usr/bin";

/// Begins a run; `Control::HandlerEnded` comes when it has ended, however that was.
pub(super) fn begin(
    spec: &ResourceSpec,
    post: &Post,
    id: HandlerId,
    handler: Handler,
    (volume, peer): (Option<usize>, Option<usize>),
) {
    let resource = spec.settings.name.clone();
    let ended = move |post: &Post, exit| {
        // If the resource is gone meanwhile nobody asks any more.
        let _ = post.post(Control::HandlerEnded { id, exit });
    };
    let Some(text) = spec.settings.handlers.get(&handler) else { return ended(post, None) };
    let mut command = Command::shell(text, HANDLER_PATIENCE);
    command.clear_environment = true;
    command.environment = environment(spec, volume, peer).into_iter().map(|(k, v)| (k.into(), v.into())).collect();
    tracing::info!(resource, "handler {}: {text}", handler.name());
    let theirs = post.clone();
    let name = resource.clone();
    let thread = std::thread::Builder::new().name("handler".to_owned());
    let begun = thread.spawn(move || ended(&theirs, perform(&name, handler, &command)));
    if let Err(error) = begun {
        tracing::error!(resource, "handler {}: no thread: {error}", handler.name());
        ended(post, None);
    }
}

/// Runs it to its end. The exit code; `None` if there is none.
fn perform(resource: &str, handler: Handler, command: &Command) -> Option<u8> {
    let name = handler.name();
    let report = match run(command) {
        Ok(report) => report,
        Err(error) => {
            tracing::error!(resource, "handler {name}: {error}");
            return None;
        }
    };
    for line in [&report.output, &report.errors].into_iter().flat_map(|text| text.split(|byte| *byte == b'\n')) {
        if !line.is_empty() {
            tracing::info!(resource, "handler {name}: {}", String::from_utf8_lossy(line));
        }
    }
    match report.exit {
        Exit::Code(code) => {
            tracing::info!(resource, "handler {name} ended with code {code}");
            u8::try_from(code).ok()
        }
        Exit::Signal(signal) => {
            tracing::error!(resource, "handler {name} was ended by signal {signal}");
            None
        }
        Exit::Deadline => {
            tracing::error!(resource, "handler {name} was killed after {} s", HANDLER_PATIENCE.as_secs());
            None
        }
    }
}

/// What a handler is told. About one volume, or, in lists, about all of them.
fn environment(spec: &ResourceSpec, volume: Option<usize>, peer: Option<usize>) -> Vec<(String, String)> {
    let settings = &spec.settings;
    let volumes: Vec<_> =
        settings.volumes.iter().enumerate().filter(|(index, _)| volume.is_none_or(|only| only == *index)).collect();
    let disk = |index: usize| spec.backing.get(index).and_then(Option::as_ref).map(|paths| paths.data.display());
    let disk = |index: usize| disk(index).map_or_else(|| "none".to_owned(), |path| path.to_string());
    let list = |words: Vec<String>| words.join(" ");
    let mut found: Vec<(String, String)> = Vec::new();
    let mut put = |name: &str, value: String| found.push((name.to_owned(), value));
    put("HOME", "/".into());
    put("TERM", "linux".into());
    put("PATH", PATH.into());
    put("DRBD_RESOURCE", settings.name.clone());
    put("DRBD_CONF", spec.configuration.display().to_string());
    put("DRBD_MINOR", list(volumes.iter().map(|(_, volume)| volume.minor.to_string()).collect()));
    put("DRBD_VOLUME", list(volumes.iter().map(|(_, volume)| volume.number.to_string()).collect()));
    put("DRBD_LL_DISK", list(volumes.iter().map(|(index, _)| disk(*index)).collect()));
    for (index, volume) in &volumes {
        put(&format!("DRBD_MINOR_{}", volume.number), volume.minor.to_string());
        put(&format!("DRBD_BACKING_DEV_{}", volume.number), disk(*index));
    }
    if let Some(only) = volume {
        put("DRBD_BACKING_DEV", disk(only));
    }
    put("DRBD_MY_NODE_ID", settings.node_id.to_string());
    put(&format!("DRBD_NODE_ID_{}", settings.node_id), settings.node_name.clone());
    put("DRBD_PEERS", list(settings.peers.iter().map(|peer| peer.name.clone()).collect()));
    for peer in &settings.peers {
        put(&format!("DRBD_NODE_ID_{}", peer.node_id), peer.name.clone());
    }
    // With one peer there is no doubt whom an event of a disk concerns.
    let peer = peer.or((settings.peers.len() == 1).then_some(0));
    if let Some((peer, ends)) = peer.and_then(|peer| Some((settings.peers.get(peer)?, spec.peers.get(peer)?))) {
        put("DRBD_PEER", peer.name.clone());
        put("DRBD_PEER_NODE_ID", peer.node_id.to_string());
        put("DRBD_PEER_AF", family(ends.peer).into());
        put("DRBD_PEER_ADDRESS", ends.peer.ip().to_string());
        put("DRBD_MY_AF", family(ends.mine).into());
        put("DRBD_MY_ADDRESS", ends.mine.ip().to_string());
    }
    found
}

fn family(address: SocketAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

//! Verbs that only look.

use super::node::Node;
use super::problem::Problem;
use super::running::volumes;
use super::server::Out;
use crate::control::status::{PeerStatus, ResourceStatus};
use crate::control::{Request, Response, Verb};
use crate::model::state::{ConnectionState, DiskState, Role};
use crate::replica::why::{self, Explanation};

/// The whole state as values.
pub(super) async fn status(node: &Node, request: &Request, out: &Out) -> Result<(), Problem> {
    let names = match &request.resource {
        Some(name) => {
            let running = node.need(name).map_err(|problem| match problem {
                Problem::Unknown { .. } => Problem::NoSuchResource,
                problem => problem,
            })?;
            running.volumes(request.volume)?;
            vec![name.clone()]
        }
        None => node.names(),
    };
    let (mut statuses, mut problems) = (Vec::new(), Vec::new());
    for name in names {
        let Some(running) = node.find(&name) else { continue };
        match running.status().await {
            Ok(status) => statuses.push(only(status, request.volume)),
            // It went down in between, unless it is still among what is up.
            Err(problem) if request.resource.is_some() => return Err(problem),
            Err(problem) => problems.extend(node.find(&name).map(|_| (name, problem))),
        }
    }
    // That nothing is there is said where nothing is there.
    if !statuses.is_empty() || problems.is_empty() {
        out.say(Response::Status(statuses)).await;
    }
    Problem::of_several(problems)
}

/// The part of a status that is about one volume, if one was named.
fn only(mut status: ResourceStatus, number: Option<u16>) -> ResourceStatus {
    if let Some(number) = number {
        status.volumes.retain(|volume| volume.number == number);
        status.peers.iter_mut().for_each(|peer| peer.volumes.retain(|volume| volume.number == number));
    }
    status
}

/// `role`, `cstate` and `dstate`: a line for each that is meant.
pub(super) async fn states(node: &Node, request: &Request, out: &Out) -> Result<(), Problem> {
    let names = match &request.resource {
        Some(name) => vec![name.clone()],
        None => node.all()?,
    };
    let mut lines = Vec::new();
    for name in names {
        let Some(running) = node.find(&name) else {
            volumes(&node.resolve(&node.config(None)?, &name)?, request.volume)?;
            lines.push("Unconfigured".to_owned());
            continue;
        };
        running.volumes(request.volume)?;
        lines.extend(state_lines(request.verb, &running.status().await?, request.volume));
    }
    if !lines.is_empty() {
        out.say(Response::Text(lines.join("\n"))).await;
    }
    Ok(())
}

/// Roles belong to the resource, the other states to each volume.
fn state_lines(verb: Verb, status: &ResourceStatus, number: Option<u16>) -> Vec<String> {
    let peer = status.peers.first();
    if verb == Verb::Role {
        return vec![format!("{}/{}", status.role, peer.map_or(Role::Unknown, |peer| peer.role))];
    }
    let is_meant = |candidate: u16| number.is_none_or(|number| number == candidate);
    let volumes = status.volumes.iter().filter(|volume| is_meant(volume.number));
    volumes
        .map(|volume| match verb {
            Verb::CState => connection_state(peer, volume.number).to_string(),
            _ => format!("{}/{}", volume.disk, peer_disk(peer, volume.number)),
        })
        .collect()
}

fn connection_state(peer: Option<&PeerStatus>, number: u16) -> ConnectionState {
    let Some(peer) = peer else { return ConnectionState::StandAlone };
    let volume = peer.volume(number).filter(|volume| volume.replication >= ConnectionState::Connected);
    volume.map_or(peer.connection, |volume| volume.replication)
}

fn peer_disk(peer: Option<&PeerStatus>, number: u16) -> DiskState {
    peer.and_then(|peer| peer.volume(number)).map_or(DiskState::Unknown, |volume| volume.peer_disk)
}

/// Facts, rules and commands.
pub(super) async fn why(node: &Node, request: &Request, out: &Out) -> Result<(), Problem> {
    let mistake = node.config(None).err();
    let names = match &request.resource {
        Some(name) => vec![name.clone()],
        None if mistake.is_some() => node.names(),
        None => node.all()?,
    };
    for name in names {
        let explanations = match node.find(&name) {
            Some(running) if running.has_died() => vec![why_ended(&name)],
            Some(running) => {
                running.volumes(request.volume)?;
                why::explain(&only(running.status().await?, request.volume))
            }
            None => vec![why_not_up(node, &name, request.volume)?],
        };
        out.say(Response::Text(page(&name, &explanations))).await;
    }
    if let (None, Some(problem)) = (&request.resource, mistake) {
        out.say(Response::Text(page("all", &[unusable_configuration(&problem)]))).await;
    }
    Ok(())
}

/// It ran, and something went wrong that must not.
fn why_ended(name: &str) -> Explanation {
    Explanation {
        fact: Problem::Ended { name: name.to_owned() }.to_string(),
        rule: "a broken rule of our own ends the resource at once; what was acknowledged is on the disks, as after a crash"
            .into(),
        command: Some(format!("shimai up {name}")),
    }
}

/// Nothing runs: because nobody asked, or because it cannot.
fn why_not_up(node: &Node, name: &str, volume: Option<u16>) -> Result<Explanation, Problem> {
    let config = match node.config(None) {
        Ok(config) => config,
        Err(problem) => return Ok(unusable_configuration(&problem)),
    };
    let resource = node.resolve(&config, name)?;
    volumes(&resource, volume)?;
    let here = format!("{name} is configured for node {} and not up", node.name());
    let random = [0; 32];
    if let Err(error) = super::settings::settings(&resource, random) {
        return Ok(Explanation {
            fact: error.to_string(),
            rule: "what is not served is refused as a whole rather than run in part".into(),
            command: Some(format!("shimai dump {name}")),
        });
    }
    Ok(match node.up_failure(name) {
        Some(failure) => Explanation {
            fact: format!("{here}: the last time it was brought up ended with: {failure}"),
            rule: "a resource takes its addresses when it comes up, and does not come up without them".into(),
            command: Some(format!("shimai up {name}    (after what stood in the way is gone)")),
        },
        None => Explanation {
            fact: here,
            rule: "a daemon that has just started runs nothing: resources are brought up one by one, or with --up"
                .into(),
            command: Some(format!("shimai up {name}")),
        },
    })
}

fn unusable_configuration(problem: &Problem) -> Explanation {
    Explanation {
        fact: format!("the configuration cannot be used: {problem}"),
        rule: "nothing is started from a configuration with mistakes; what runs goes on with what it has".into(),
        command: Some("shimai lint".into()),
    }
}

/// For people.
fn page(name: &str, explanations: &[Explanation]) -> String {
    if explanations.is_empty() {
        return format!("{name}: all is well");
    }
    let mut lines = Vec::new();
    for explanation in explanations {
        lines.push(format!("{name}: {}", explanation.fact));
        lines.push(format!("    rule: {}", explanation.rule));
        lines.extend(explanation.command.iter().map(|command| format!("    next: {command}")));
    }
    lines.join("\n")
}

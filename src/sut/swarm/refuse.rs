//! What is refused before a service is touched: what could not be given back, and what could not run. Pure.

use serde_json::Value as Json;

use super::spec::{self, LimitKey, Service};
use super::tasks::{Node, Task};
use crate::space::{Binding, Domain, Limit, Parameter, Value};
use crate::spec::SwarmRef;
use crate::sut::SutError;
use crate::units::Bytes;

/// Most tasks: more can't be followed at a look a probe.
const MOST_TASKS: f64 = 64.0;

fn refused(exit: u8, message: String) -> SutError {
    SutError::Refused { exit, message }
}

/// Whether the engine manages a swarm, from its `/info`.
pub fn manager(info: &Json, host: &str) -> Result<(), SutError> {
    let swarm = &info["Swarm"];
    if swarm["ControlAvailable"].as_bool() == Some(true) {
        return Ok(());
    }
    let what = match swarm["LocalNodeState"].as_str().unwrap_or("inactive") {
        "active" => "is a worker of its swarm, and services are changed on a manager: set DOCKER_HOST to one"
            .to_owned(),
        "locked" => "is a locked manager: `docker swarm unlock`".to_owned(),
        "inactive" => {
            "is in no swarm: set DOCKER_HOST to a manager of the swarm, or use kind = \"docker\"".to_owned()
        }
        other => format!("has no swarm that works (its state is \"{other}\")"),
    };
    Err(refused(69, format!("the engine at {host} {what}")))
}

/// Finds the service that `name` means, by name, id or its beginning of twelve digits.
pub fn find(all: &[Service], name: &str) -> Result<Service, SutError> {
    let is_meant = |s: &&Service| s.name == name || (name.len() >= 12 && s.id.starts_with(name));
    if let Some(found) = all.iter().find(is_meant) {
        return Ok(found.clone());
    }
    let mut names: Vec<&str> = all.iter().map(|s| s.name.as_str()).collect();
    names.sort_unstable();
    names.truncate(20);
    let there = match names.is_empty() {
        true => "the swarm has none".to_owned(),
        false => format!("there are {}", names.join(", ")),
    };
    Err(refused(
        69,
        format!("no service `{name}` in the swarm; {there} (`docker service ls`)"),
    ))
}

/// Refuses a service whose labels say that a run on another machine has it: whether that lives, nobody here can see.
pub fn elsewhere(service: &Service, host: &str) -> Result<(), SutError> {
    let (Some(run), Some(theirs)) = (service.label(spec::RUN), service.label(spec::HOST)) else {
        return Ok(());
    };
    if theirs == host {
        return Ok(());
    }
    let folder = service.label(spec::RESULTS).unwrap_or("?");
    Err(refused(
        75,
        format!(
            "service {} is in use by run {run} on {theirs} (results in {folder} there); wait for it, or, if it is gone: \
             autotune restore --space FILE",
            service.name
        ),
    ))
}

/// What the service and the space must be for trials and for giving back; returns what a person should know.
pub fn check(
    service: &Service,
    (tasks, nodes): (&[Task], &[Node]),
    parameters: &[Parameter],
    target: &SwarmRef,
) -> Result<Vec<String>, SutError> {
    let name = &service.name;
    let own = service.own_spec().map_err(|why| {
        refused(
            69,
            format!(
                "service {name} is left over from a run and {why}: give it its own spec by hand (docker stack deploy, or \
                 docker service rollback {name} as often as it takes)"
            ),
        )
    })?;
    let Some(replicas) = spec::replicas(&own) else {
        let mode = own["Mode"].as_object().and_then(|m| m.keys().next());
        return Err(refused(
            65,
            format!(
                "service {name} is not replicated (its mode is {}): a task for each node, or one that ends, can't be tuned",
                mode.map_or("unknown", String::as_str)
            ),
        ));
    };
    if spec::kept(&service.spec).is_none() {
        if matches!(
            service.update_state.as_str(),
            "updating" | "paused" | "rollback_started" | "rollback_paused"
        ) {
            return Err(refused(
                69,
                format!(
                    "an update of service {name} is {}: wait until it is through, or mend it (docker service ps {name})",
                    service.update_state.replace('_', " ")
                ),
            ));
        }
        let up = tasks.iter().filter(|t| t.is_up()).count() as u64;
        if up < replicas || replicas == 0 {
            return Err(refused(
                69,
                format!(
                    "service {name} is not whole today: {up} of {replicas} tasks run (docker service ps {name}); a study needs a \
                     service that works"
                ),
            ));
        }
    }
    if own.to_string().len() > spec::MAX_SPEC {
        return Err(refused(
            69,
            format!(
                "service {name} has a spec of more than {} KiB, which can't be kept in the swarm beside the trial's",
                spec::MAX_SPEC >> 10
            ),
        ));
    }
    places(name, &own, nodes, parameters, target)?;
    limits(nodes, parameters)?;
    Ok(notes(name, &own, nodes))
}

#[allow(clippy::cast_precision_loss)]
fn highest(p: &Parameter) -> f64 {
    match &p.domain {
        Domain::Int { high, .. } => *high as f64,
        Domain::Float { high, .. } => *high,
        Domain::Choice { values } => values.iter().filter_map(Value::as_f64).fold(0.0, f64::max),
    }
}

/// Whether the port that `template` has for the task with number `slot` is one; a port that is left out is.
fn has_port(template: &str, slot: u64) -> bool {
    let filled = SwarmRef::fill(template, "127.0.0.1", slot);
    let rest = filled.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    authority
        .rsplit_once(':')
        .is_none_or(|(_, port)| port.parse::<u16>().is_ok_and(|p| p > 0))
}

/// Tasks that would find their port taken by their neighbour, or none.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn places(
    name: &str,
    own: &Json,
    nodes: &[Node],
    parameters: &[Parameter],
    target: &SwarmRef,
) -> Result<(), SutError> {
    let asked = parameters
        .iter()
        .find(|p| p.binding == Binding::Replicas)
        .map(highest);
    let most = asked.unwrap_or_else(|| spec::replicas(own).unwrap_or(1) as f64);
    if most > MOST_TASKS {
        return Err(refused(
            65,
            format!("up to {most} tasks are asked for, {MOST_TASKS} are the most"),
        ));
    }
    // 1830{slot} is a port for nine tasks, and 183010 is none.
    let template = target.task_url.as_deref().unwrap_or_default();
    if !has_port(template, most as u64) {
        return Err(refused(
            65,
            format!(
                "up to {most} tasks are asked for, and [sut] task_url has no port for task {most} (they end at 65535): bound \
                 `replicas`, or begin with fewer digits, here and in the service's own PORT"
            ),
        ));
    }
    let usable = nodes.iter().filter(|n| n.is_ready && n.is_active).count();
    if most <= usable as f64 {
        return Ok(());
    }
    let ports = own["EndpointSpec"]["Ports"].as_array();
    let fixed = ports
        .into_iter()
        .flatten()
        .filter(|p| p["PublishMode"].as_str() == Some("host"))
        .filter_map(|p| p["PublishedPort"].as_u64().filter(|n| *n > 0))
        .next();
    if let Some(port) = fixed {
        return Err(refused(
            65,
            format!(
                "service {name} publishes port {port} in host mode, so each of the {usable} nodes takes one task, and up to {most} \
                 are asked for: bound `replicas` by {usable}, or publish through the routing mesh or a balancer"
            ),
        ));
    }
    // A port of each task's own comes from a template such as PORT=1830{{.Task.Slot}}.
    let is_templated = spec::env(own).any(|(_, v)| v.contains("{{"));
    let slots = target.task_url.as_deref().is_some_and(|t| t.contains("{slot}"));
    if let Some(t) = &target.task_url
        && !slots
    {
        return Err(refused(
            65,
            format!(
                "up to {most} tasks are asked for on {usable} nodes, and [sut] task_url ({t}) is the same for two tasks of one node: \
                 bound `replicas` by {usable}, or give each task a port of its own: PORT=1830{{{{.Task.Slot}}}} in the service, \
                 {{slot}} in task_url"
            ),
        ));
    }
    if slots && !is_templated {
        return Err(refused(
            65,
            format!(
                "[sut] task_url expects a port of each task's own, but no variable of service {name} has a template such as \
                 PORT=1830{{{{.Task.Slot}}}}"
            ),
        ));
    }
    Ok(())
}

/// A limit that no node has.
fn limits(nodes: &[Node], parameters: &[Parameter]) -> Result<(), SutError> {
    let usable = || nodes.iter().filter(|n| n.is_ready && n.is_active);
    let cpus = usable().map(|n| n.cpus).fold(0.0, f64::max);
    let memory = usable().map(|n| Bytes::new(n.memory).mib()).fold(0.0, f64::max);
    let mut wrong = Vec::new();
    for p in parameters {
        let high = highest(p);
        match p.binding {
            Binding::Limit(Limit::Cpus | Limit::CpuReservation) if cpus > 0.0 && high > cpus => {
                wrong.push(format!(
                    "parameter `{}` goes up to {high} cpus, the largest node has {cpus}",
                    p.name
                ));
            }
            Binding::Limit(Limit::Memory | Limit::MemoryReservation) if memory > 0.0 && high > memory => {
                wrong.push(format!(
                    "parameter `{}` goes up to {high} MiB, the largest node has {memory:.0}",
                    p.name
                ));
            }
            _ => {}
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(refused(65, wrong.join("; "))),
    }
}

fn notes(name: &str, own: &Json, nodes: &[Node]) -> Vec<String> {
    let mut notes = Vec::new();
    let away: Vec<&str> = nodes
        .iter()
        .filter(|n| !n.is_ready)
        .map(|n| n.name.as_str())
        .collect();
    if !away.is_empty() {
        notes.push(format!(
            "the managers don't hear from {}: trials run on the other nodes",
            away.join(", ")
        ));
    }
    let image = spec::image(own);
    if !image.contains("@sha256:") {
        notes.push(format!(
            "service {name} names its image by a tag ({image}): nodes may have different ones under it; deployed from a registry it \
             would have a digest"
        ));
    }
    let mounts = own["TaskTemplate"]["ContainerSpec"]["Mounts"].as_array();
    let written: Vec<&str> = mounts
        .into_iter()
        .flatten()
        .filter(|m| m["ReadOnly"].as_bool() != Some(true) && m["Type"].as_str() != Some("tmpfs"))
        .filter_map(|m| m["Target"].as_str())
        .collect();
    if !written.is_empty() {
        notes.push(format!(
            "the volumes at {} stay with their nodes while tasks move: does the service bear that?",
            written.join(", ")
        ));
    }
    let reserved: Vec<String> = [LimitKey::CpuReservation, LimitKey::MemoryReservation]
        .into_iter()
        .filter_map(|key| spec::shown(own, key))
        .collect();
    if !reserved.is_empty() {
        notes.push(format!(
            "each task reserves {}: a config with more tasks than the nodes have room for is infeasible",
            reserved.join(" and ")
        ));
    }
    notes
}

#[cfg(test)]
mod tests;

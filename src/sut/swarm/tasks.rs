//! What a list of tasks and nodes says: is the trial up, where is each task reached, and if not, who is to blame. Pure.
//!
//! Not here: asking for the lists, waiting.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use crate::spec::SwarmRef;
use crate::sut::redact::printable;
use crate::trial::Failure;

/// The exit status of a process that was killed.
const SIGKILL_STATUS: i64 = 137;
/// Longest error of a task that is repeated.
const MAX_ERROR: usize = 300;

/// A task, as far as is needed here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Task {
    /// Full id.
    pub id: String,
    /// Its number among the replicas, from 1.
    pub slot: u64,
    /// Id of its node; empty where none was found yet.
    pub node: String,
    /// "running", "shutdown" ...
    pub desired: String,
    /// "new" ... "running", "complete", "failed" ...
    pub state: String,
    /// The swarm's words on what went wrong.
    pub error: String,
    /// Exit status of its container.
    pub exit: i64,
    /// Id of its container.
    pub container: String,
    /// Which update made it.
    pub force: u64,
    /// Whether it has a memory limit.
    pub has_memory_limit: bool,
    /// Its addresses in the swarm's networks.
    pub addresses: Vec<String>,
}

impl Task {
    /// Reads it leniently; None where it is no task.
    #[must_use]
    pub fn from_json(json: &Json) -> Option<Self> {
        let text = |v: &Json| v.as_str().unwrap_or_default().to_owned();
        let status = &json["Status"];
        let attachments = json["NetworksAttachments"].as_array();
        Some(Self {
            id: json["ID"].as_str()?.to_owned(),
            slot: json["Slot"].as_u64().unwrap_or(0),
            node: text(&json["NodeID"]),
            desired: text(&json["DesiredState"]),
            state: text(&status["State"]),
            error: printable(status["Err"].as_str().unwrap_or_default(), MAX_ERROR),
            exit: status["ContainerStatus"]["ExitCode"].as_i64().unwrap_or(0),
            container: text(&status["ContainerStatus"]["ContainerID"]),
            force: json["Spec"]["ForceUpdate"].as_u64().unwrap_or(0),
            has_memory_limit: json["Spec"]["Resources"]["Limits"]["MemoryBytes"]
                .as_i64()
                .is_some_and(|m| m > 0),
            addresses: attachments
                .into_iter()
                .flatten()
                .flat_map(|a| a["Addresses"].as_array().into_iter().flatten())
                .filter_map(|a| Some(a.as_str()?.split('/').next()?.to_owned()))
                .collect(),
        })
    }

    /// Whether it is meant to run and does.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.desired == "running" && self.state == "running"
    }

    /// Whether its end is over.
    fn is_over(&self) -> bool {
        matches!(
            self.state.as_str(),
            "complete" | "shutdown" | "failed" | "rejected" | "remove" | "orphaned"
        )
    }

    fn ended_by_itself(&self) -> bool {
        matches!(self.state.as_str(), "complete" | "failed" | "rejected")
    }
}

/// A node, as far as is needed here.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// Its host name.
    pub name: String,
    /// Its address in the swarm; empty where the swarm does not know it.
    pub address: String,
    /// Whether the managers hear from it.
    pub is_ready: bool,
    /// Whether it takes tasks.
    pub is_active: bool,
    /// Cores.
    pub cpus: f64,
    /// Memory, bytes.
    pub memory: u64,
}

impl Node {
    /// Reads it leniently; None where it is no node.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn from_json(json: &Json) -> Option<Self> {
        let text = |v: &Json| v.as_str().unwrap_or_default().to_owned();
        let known = |a: &str| !a.is_empty() && a != "0.0.0.0" && a != "::";
        let manager = json["ManagerStatus"]["Addr"].as_str().unwrap_or_default();
        let manager = manager.rsplit_once(':').map_or("", |(host, _)| host);
        let own = json["Status"]["Addr"].as_str().unwrap_or_default();
        let address = if known(own) && (own != "127.0.0.1" || manager.is_empty()) {
            own
        } else {
            manager
        };
        let resources = &json["Description"]["Resources"];
        Some(Self {
            id: json["ID"].as_str()?.to_owned(),
            name: text(&json["Description"]["Hostname"]),
            address: address.trim_matches(['[', ']']).to_owned(),
            is_ready: json["Status"]["State"].as_str() == Some("ready"),
            is_active: json["Spec"]["Availability"].as_str() == Some("active"),
            cpus: resources["NanoCPUs"].as_f64().unwrap_or(0.0) / 1e9,
            memory: resources["MemoryBytes"].as_u64().unwrap_or(0),
        })
    }
}

/// How far an update has come.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// Every task runs and nothing else of the service does: in the order of their numbers.
    Up(Vec<Task>),
    /// Tasks of before are still ending.
    Ending(usize),
    /// So many run so far; what the swarm says of one that has no place.
    Starting {
        /// Tasks that run.
        up: usize,
        /// "no suitable node (insufficient resources on 3 nodes)".
        without_place: Option<String>,
    },
    /// A task ended or was not taken.
    Failed(Box<Task>),
}

/// What `tasks` say of the update with the counter `force` to `replicas` tasks.
#[must_use]
pub fn judge(tasks: &[Task], nodes: &[Node], force: u64, replicas: u64) -> Progress {
    let is_away = |t: &Task| nodes.iter().any(|n| n.id == t.node && !n.is_ready);
    let (ours, others): (Vec<&Task>, Vec<&Task>) = tasks.iter().partition(|t| t.force == force);
    // A task on a node that is away says nothing any more, for a day.
    if let Some(failed) = ours.iter().find(|t| t.ended_by_itself() && !is_away(t)) {
        return Progress::Failed(Box::new((*failed).clone()));
    }
    // One that is desired "ready" waits for its predecessor to end.
    let surplus = ours
        .iter()
        .filter(|t| matches!(t.desired.as_str(), "shutdown" | "remove"));
    let ending = others
        .iter()
        .chain(surplus)
        .filter(|t| !t.is_over() && !is_away(t) && !t.node.is_empty())
        .count();
    let up: BTreeMap<u64, &Task> = ours
        .iter()
        .filter(|t| t.is_up() && !is_away(t))
        .map(|t| (t.slot, *t))
        .collect();
    if ending > 0 {
        return Progress::Ending(ending);
    }
    if up.len() as u64 >= replicas {
        return Progress::Up(up.into_values().cloned().collect());
    }
    let without_place = ours
        .iter()
        .find(|t| t.state == "pending" && !t.error.is_empty())
        .map(|t| t.error.clone());
    Progress::Starting {
        up: up.len(),
        without_place,
    }
}

/// Whom the end of a task is put down to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blame {
    /// The config.
    Config(Failure, String),
    /// The swarm: a node without the image.
    Swarm(String),
}

/// Why `task` ended or was not taken.
#[must_use]
pub fn blame(task: &Task) -> Blame {
    let said = task.error.to_lowercase();
    let words = match task.error.is_empty() {
        true => format!("a task ended with status {}", task.exit),
        false => format!("task {}: {}", task.slot, task.error),
    };
    // "oom" and "OOMKilled" are words; a path or an image may have the letters in it ("chatroom").
    let out_of_memory = said
        .split(|c: char| !c.is_alphanumeric())
        .any(|w| matches!(w, "oom" | "oomkilled"))
        || ["out of memory", "memory limit too low"]
            .iter()
            .any(|w| said.contains(w));
    if task.state == "rejected"
        && ["no such image", "pull", "registry"]
            .iter()
            .any(|w| said.contains(w))
    {
        return Blame::Swarm(format!("{words}; is the image on every node?"));
    }
    let failure = if said.contains("unhealthy") {
        Failure::Unstable
    } else if out_of_memory || (task.exit == SIGKILL_STATUS && task.has_memory_limit) {
        Failure::Oom
    } else {
        Failure::Crash
    };
    Blame::Config(failure, words)
}

/// What is not as it was with the tasks that a trial has had since it was up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Its node is away.
    NodeAway(String),
    /// It ended.
    Ended(Box<Task>),
    /// It was stopped or moved, by somebody or by the swarm.
    Moved(String),
}

/// Compares the tasks of a trial, `live`, with the list of now. A node that is away comes first: what it took along did
/// not end by itself.
#[must_use]
pub fn compare(live: &[Task], now: &[Task], nodes: &[Node]) -> Option<Change> {
    let node = |t: &Task| nodes.iter().find(|n| n.id == t.node);
    let away = live.iter().filter_map(node).find(|n| !n.is_ready);
    if let Some(n) = away {
        return Some(Change::NodeAway(n.name.clone()));
    }
    let mut moved = None;
    for t in live {
        let Some(t) = now.iter().find(|n| n.id == t.id) else {
            moved = moved.or(Some(format!("task {} is gone", t.slot)));
            continue;
        };
        if t.ended_by_itself() {
            return Some(Change::Ended(Box::new(t.clone())));
        }
        if !t.is_up() {
            let on = node(t).map_or("a node", |n| n.name.as_str());
            let what = format!("task {} on {on} was stopped ({}, {})", t.slot, t.desired, t.state);
            moved = moved.or(Some(what));
        }
    }
    moved.map(Change::Moved)
}

/// The base URLs that the load goes to: each task's own by `template`, or `url`, the balancer's. An error names a node
/// whose address nobody knows.
pub fn urls(
    template: Option<&str>,
    url: &str,
    tasks: &[Task],
    nodes: &[Node],
) -> Result<Vec<String>, String> {
    let Some(template) = template else {
        return Ok(vec![url.to_owned()]);
    };
    tasks
        .iter()
        .map(|t| {
            let node = nodes.iter().find(|n| n.id == t.node);
            let address = node.map_or("", |n| n.address.as_str());
            if address.is_empty() && template.contains("{node}") {
                return Err(format!(
                    "the swarm does not say the address of node {}; write it into [sut] task_url",
                    node.map_or(t.node.as_str(), |n| n.name.as_str())
                ));
            }
            Ok(SwarmRef::fill(template, address, t.slot))
        })
        .collect()
}

/// "3 tasks on node1, node2".
#[must_use]
pub fn spread(tasks: &[Task], nodes: &[Node]) -> String {
    let names: BTreeSet<&str> = tasks
        .iter()
        .filter_map(|t| nodes.iter().find(|n| n.id == t.node))
        .map(|n| n.name.as_str())
        .collect();
    let names: Vec<&str> = names.into_iter().collect();
    let s = if tasks.len() == 1 { "" } else { "s" };
    format!("{} task{s} on {}", tasks.len(), names.join(", "))
}

/// A counter that no task of the service has had, and not its present spec either.
#[must_use]
pub fn next_force(present: u64, tasks: &[Task]) -> u64 {
    tasks
        .iter()
        .map(|t| t.force)
        .fold(present, u64::max)
        .saturating_add(1)
}

/// Tasks that run what the spec with `force` wants.
#[must_use]
pub fn running(tasks: &[Task], force: u64) -> usize {
    tasks.iter().filter(|t| t.force == force && t.is_up()).count()
}

#[cfg(test)]
mod tests;

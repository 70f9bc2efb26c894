//! The swarm of the fake engine: services with versions and the spec before, tasks that run as told, nodes that go away.
//! It does what a manager of 20.10 was seen to do: an update with an old version is 500 "update out of sequence", a
//! rollback swaps the two specs, a changed template or counter makes new tasks.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

/// What becomes of new tasks.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Tasks {
    /// They run.
    #[default]
    Run,
    /// They fail with this status and these words.
    Fail(i64, String),
    /// No node takes them.
    NoPlace(String),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct FakeService {
    pub(crate) id: String,
    pub(crate) version: u64,
    pub(crate) spec: Json,
    pub(crate) previous: Json,
    pub(crate) tasks: Vec<Json>,
    /// Updates and rollbacks so far.
    pub(crate) updates: Vec<&'static str>,
}

#[derive(Debug, Default)]
pub(crate) struct FakeSwarm {
    services: BTreeMap<String, FakeService>,
    pub(crate) nodes: Vec<Json>,
    pub(crate) outcome: Tasks,
    /// So many more reads of a service are followed by a write of the swarm's own.
    pub(crate) restless: u32,
    /// So many more looks at a service find an update of it under way.
    pub(crate) busy: u32,
    next_task: u64,
}

pub(crate) fn node(name: &str, is_ready: bool) -> Json {
    json!({"ID": format!("id-{name}"), "Description": {"Hostname": name, "Resources": {"NanoCPUs": 4_000_000_000_i64, "MemoryBytes": 8_i64 << 30}},
        "Status": {"State": if is_ready { "ready" } else { "down" }, "Addr": "127.0.0.1"}, "Spec": {"Availability": "active"}})
}

impl FakeSwarm {
    /// Puts a service there whose tasks run.
    pub(crate) fn add(&mut self, id: &str, spec: Json) {
        let mut service = FakeService {
            id: id.to_owned(),
            version: 10,
            spec,
            ..FakeService::default()
        };
        self.roll_out(&mut service);
        self.services.insert(id.to_owned(), service);
    }

    pub(crate) fn service(&self, id: &str) -> FakeService {
        self.services[id].clone()
    }

    /// Somebody updates the service.
    pub(crate) fn change(&mut self, id: &str, change: impl FnOnce(&mut Json)) {
        let mut service = self.services.remove(id).unwrap();
        service.previous = service.spec.clone();
        change(&mut service.spec);
        service.version += 1;
        self.roll_out(&mut service);
        self.services.insert(id.to_owned(), service);
    }

    /// A task becomes what `change` makes of it.
    pub(crate) fn task(&mut self, id: &str, change: impl FnOnce(&mut Json)) {
        let service = self.services.get_mut(id).unwrap();
        let running = |t: &&mut Json| t["DesiredState"] == "running";
        change(service.tasks.iter_mut().find(running).unwrap());
    }

    /// Somebody removes the service.
    pub(crate) fn remove(&mut self, id: &str) {
        self.services.remove(id);
    }

    /// The engine is no manager any more, until the nodes that this returns are put back.
    pub(crate) fn demote(&mut self) -> Vec<Json> {
        std::mem::take(&mut self.nodes)
    }

    pub(crate) fn info(&self) -> Json {
        match self.nodes.is_empty() {
            true => json!({"LocalNodeState": "inactive", "ControlAvailable": false}),
            false => {
                json!({"LocalNodeState": "active", "ControlAvailable": true, "NodeID": self.nodes[0]["ID"]})
            }
        }
    }

    fn roll_out(&mut self, service: &mut FakeService) {
        let template = &service.spec["TaskTemplate"];
        let replicas = service.spec["Mode"]["Replicated"]["Replicas"]
            .as_u64()
            .unwrap_or(1);
        for t in &mut service.tasks {
            let is_dirty = t["Spec"] != *template || t["Slot"].as_u64().unwrap_or(0) > replicas;
            if is_dirty && t["DesiredState"] == "running" {
                t["DesiredState"] = json!("shutdown");
                if t["Status"]["State"] == "running" {
                    t["Status"]["State"] = json!("shutdown");
                }
            }
        }
        let ready: Vec<Json> = self
            .nodes
            .iter()
            .filter(|n| n["Status"]["State"] == "ready")
            .map(|n| n["ID"].clone())
            .collect();
        for slot in 1..=replicas {
            let is_there = |t: &Json| t["Slot"] == slot && t["DesiredState"] == "running";
            if service.tasks.iter().any(is_there) {
                continue;
            }
            self.next_task += 1;
            let on = usize::try_from(slot).unwrap() % ready.len().max(1);
            let (status, node) = match &self.outcome {
                Tasks::Run => (json!({"State": "running"}), ready.get(on).cloned()),
                Tasks::Fail(exit, words) => (
                    json!({"State": "failed", "Err": words, "ContainerStatus": {"ExitCode": exit}}),
                    ready.get(on).cloned(),
                ),
                Tasks::NoPlace(words) => (json!({"State": "pending", "Err": words}), None),
            };
            service.tasks.push(
                json!({"ID": format!("task{}", self.next_task), "ServiceID": service.id, "Slot": slot,
                "NodeID": node, "DesiredState": "running", "Spec": template, "Status": status}),
            );
        }
    }

    fn listed(service: &FakeService) -> Json {
        let mut json = json!({"ID": service.id, "Version": {"Index": service.version}, "Spec": service.spec});
        if !service.previous.is_null() {
            json["PreviousSpec"] = service.previous.clone();
            json["UpdateStatus"] = json!({"State": "completed"});
        }
        json
    }

    /// Status and body; None where it is not about a swarm.
    pub(crate) fn answer(
        &mut self,
        method: &str,
        words: &[&str],
        query: &BTreeMap<String, String>,
        body: &[u8],
    ) -> Option<(u16, Json)> {
        let is_mine = matches!(words.first(), Some(&("services" | "tasks" | "nodes")));
        if !is_mine {
            return None;
        }
        let error = |status: u16, message: &str| Some((status, json!({ "message": message })));
        if self.nodes.is_empty() {
            return error(
                503,
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
            );
        }
        match (method, words) {
            ("GET", ["services"]) => {
                let mut all: Vec<Json> = self.services.values().map(Self::listed).collect();
                if self.busy > 0 {
                    for service in &mut all {
                        service["UpdateStatus"] = json!({"State": "updating"});
                    }
                }
                Some((200, json!(all)))
            }
            ("GET", ["nodes"]) => Some((200, json!(self.nodes))),
            ("GET", ["tasks"]) => {
                let wanted = query.get("filters").cloned().unwrap_or_default();
                let of = self.services.values().filter(|s| wanted.contains(&s.id));
                Some((200, json!(of.flat_map(|s| s.tasks.clone()).collect::<Vec<_>>())))
            }
            ("GET", ["tasks", _, "logs"]) => Some((200, json!("a line of the log"))),
            ("GET", ["services", id]) => {
                let Some(service) = self.services.get_mut(*id) else {
                    return error(404, "service not found");
                };
                let mut json = Self::listed(service);
                if self.busy > 0 {
                    self.busy -= 1;
                    json["UpdateStatus"] = json!({"State": "updating"});
                }
                if self.restless > 0 {
                    self.restless -= 1;
                    service.version += 1;
                }
                Some((200, json))
            }
            ("POST", ["services", id, "update"]) => {
                let Some(mut service) = self.services.remove(*id) else {
                    return error(404, "service not found");
                };
                let asked: Option<u64> = query.get("version").and_then(|v| v.parse().ok());
                let answer = if asked == Some(service.version) {
                    let back = query.get("rollback").is_some_and(|r| r == "previous");
                    let new = match back {
                        true => service.previous.clone(),
                        false => serde_json::from_slice(body).unwrap(),
                    };
                    service.previous = std::mem::replace(&mut service.spec, new);
                    service.version += 1;
                    service.updates.push(if back { "rollback" } else { "update" });
                    self.roll_out(&mut service);
                    Some((200, json!({ "Warnings": null })))
                } else {
                    error(500, "rpc error: code = Unknown desc = update out of sequence")
                };
                self.services.insert((*id).to_owned(), service);
                answer
            }
            _ => error(404, "page not found"),
        }
    }
}

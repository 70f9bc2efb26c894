//! Services, tasks and nodes of a swarm: the same numbered door, JSON in and out.
//!
//! A service's spec is sent back as it was read, with the fields that this version doesn't know. Not here: what is in it.

use std::time::Duration;

use serde_json::Value as Json;

use super::{Call, Engine, EngineError, WRITE_DEADLINE, raw};

/// The log of a task comes from its node, which may be away: no longer than this.
const LOG_DEADLINE: Duration = Duration::from_secs(5);

impl Engine {
    /// All services, whole. An engine that manages no swarm answers 503.
    pub async fn services(&self) -> Result<Vec<Json>, EngineError> {
        Ok(list(self.read("services", "", "/services").await?))
    }

    /// One service, by name or id.
    pub async fn service(&self, id: &str) -> Result<Json, EngineError> {
        self.read("service", id, &format!("/services/{}", raw::encode(id)))
            .await
    }

    /// The tasks of a service, those of the past that the swarm still remembers included.
    pub async fn tasks(&self, service: &str) -> Result<Vec<Json>, EngineError> {
        let filters = serde_json::json!({ "service": [service] }).to_string();
        let path = format!("/tasks?filters={}", raw::encode(&filters));
        Ok(list(self.read("tasks", service, &path).await?))
    }

    /// The swarm's nodes.
    pub async fn nodes(&self) -> Result<Vec<Json>, EngineError> {
        Ok(list(self.read("nodes", "", "/nodes").await?))
    }

    /// Gives a service another spec, or with `rollback` the one before its present one. `version` is the one that was read:
    /// where the service was changed since, the swarm refuses (see [`is_stale`]).
    pub async fn update_service(
        &self,
        id: &str,
        version: u64,
        spec: &Json,
        rollback: bool,
    ) -> Result<(), EngineError> {
        let back = if rollback { "&rollback=previous" } else { "" };
        let path = format!("/services/{}/update?version={version}{back}", raw::encode(id));
        let call = Call {
            name: if rollback { "rollback" } else { "update" },
            subject: id,
            deadline: WRITE_DEADLINE,
            changes: true,
        };
        self.call(call, raw::post_json(&self.host, &path, spec)).await
    }

    /// The last `lines` lines of a task's log, both streams in one, wherever it ran.
    pub async fn task_logs(&self, task: &str, lines: u32) -> Result<String, EngineError> {
        let path = format!(
            "/tasks/{}/logs?stdout=true&stderr=true&tail={lines}",
            raw::encode(task)
        );
        let call = Call {
            name: "task logs",
            subject: task,
            deadline: LOG_DEADLINE,
            changes: false,
        };
        let bytes = self.call(call, raw::get_bytes(&self.host, &path)).await?;
        Ok(raw::demultiplex(&bytes))
    }
}

/// Whether an update came too late: the service was changed after it had been read.
#[must_use]
pub fn is_stale(e: &EngineError) -> bool {
    matches!(e, EngineError::Status(_, m) | EngineError::Conflict(m) if m.contains("out of sequence"))
}

/// Whether the engine manages no swarm, so that there are no services; one without a leader may have some.
#[must_use]
pub fn has_no_swarm(e: &EngineError) -> bool {
    match e {
        // An engine, or something in front of it, that knows no services at all.
        EngineError::NotFound(_) => true,
        EngineError::Status(503 | 406, m) => ["docker swarm init", "Worker nodes", "not part of a swarm"]
            .iter()
            .any(|w| m.contains(w)),
        _ => false,
    }
}

fn list(json: Json) -> Vec<Json> {
    match json {
        Json::Array(all) => all,
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_without_a_swarm_has_no_services_and_one_without_a_leader_may() {
        let says = |m: &str| has_no_swarm(&EngineError::Status(503, m.into()));
        assert!(says(
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again."
        ));
        assert!(says(
            "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state."
        ));
        assert!(!says(
            "rpc error: code = Unknown desc = The swarm does not have a leader."
        ));
        assert!(!has_no_swarm(&EngineError::Away("no answer".into())));
    }

    #[test]
    fn a_stale_version_is_told_from_other_errors() {
        let of = |m: &str| is_stale(&EngineError::Status(500, m.into()));
        assert!(of("rpc error: code = Unknown desc = update out of sequence"));
        assert!(!of("rpc error: code = InvalidArgument desc = name conflicts"));
    }
}

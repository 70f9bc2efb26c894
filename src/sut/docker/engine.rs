//! The one door to the Docker Engine: every call has a number, a deadline and an error that a caller can act on.
//!
//! What changes a container goes through bollard's typed client; services, which must get back what this version does not
//! know of them, are in `services`. What only reads goes through `raw`, a plain GET
//! whose answer is taken apart leniently: bollard fails a whole inspect on one enum value that it doesn't know,
//! and giving a container back must not depend on that.
//!
//! Not here: what the calls mean (`parking`, `clone`), retries (each caller knows whether a repeat is safe).

// In a folder of its own, since it needs the numbering, which is private here.
pub mod services;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, EndpointSettings, NetworkConnectRequest};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, RenameContainerOptionsBuilder,
    StopContainerOptionsBuilder,
};
use serde_json::Value as Json;

use super::raw;
use crate::sut::SutError;

/// Longest wait for an answer of a call that only reads.
pub const READ_DEADLINE: Duration = Duration::from_secs(20);
/// Longest wait for a call that creates, starts, renames or removes.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(60);
/// Beyond a container's own grace period when it is stopped.
const STOP_MARGIN: Duration = Duration::from_secs(30);
/// bollard's own timeout, which covers the headers only: above every deadline of ours.
const CLIENT_TIMEOUT_S: u64 = 3_600;
/// Where the daemon listens unless `DOCKER_HOST` says otherwise.
pub const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

/// What a call came to, as far as callers differ by it. Messages are Docker's own, not yet redacted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// No socket, or a `DOCKER_HOST` that is not understood.
    #[error("{0}")]
    Missing(String),
    /// The socket may not be opened.
    #[error("{0}")]
    Forbidden(String),
    /// No answer: refused or reset. What the call did is unknown.
    #[error("{0}")]
    Away(String),
    /// No answer within the deadline. What the call did is unknown.
    #[error("{0}")]
    Late(String),
    /// 404.
    #[error("{0}")]
    NotFound(String),
    /// 409: name taken, or not possible in the present state.
    #[error("{0}")]
    Conflict(String),
    /// Any other status with Docker's message.
    #[error("docker answered {0}: {1}")]
    Status(u16, String),
    /// An answer that could not be read.
    #[error("{0}")]
    Unreadable(String),
}

impl EngineError {
    /// The error as the driver sees it: what is missing or forbidden ends the run, the rest is worth another try.
    #[must_use]
    pub fn into_sut(self) -> SutError {
        match self {
            Self::Missing(message) => SutError::Refused { exit: 69, message },
            Self::Forbidden(message) => SutError::Refused { exit: 77, message },
            other => SutError::Infrastructure(other.to_string()),
        }
    }
}

impl From<EngineError> for SutError {
    fn from(e: EngineError) -> Self {
        e.into_sut()
    }
}

/// A fault for tests: from the N-th call on, nothing works any more, as if the tool had died there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultPlan {
    /// The number of the call, from 1.
    pub at: u64,
    /// Whether Docker still carries that call out.
    pub carried_out: bool,
    /// Only calls that change something are counted.
    pub changes_only: bool,
}

#[derive(Debug, Default)]
struct Counters {
    calls: AtomicU64,
    changes: AtomicU64,
    /// The planned fault has happened.
    dead: AtomicBool,
    /// A change was asked for whose end nobody saw.
    unsure: AtomicBool,
}

/// A call under way; dropped before it was seen to its end, what it did is unknown.
struct UnderWay<'a> {
    counters: &'a Counters,
    changes: bool,
}

impl UnderWay<'_> {
    /// Seen to its end: docker carried it out or said no.
    fn ended(mut self) {
        self.changes = false;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.changes {
            self.counters.unsure.store(true, Ordering::Relaxed);
        }
    }
}

/// A Docker daemon. Cheap to clone; clones share the numbering.
#[derive(Debug, Clone)]
pub struct Engine {
    host: Arc<str>,
    counters: Arc<Counters>,
    plan: Option<FaultPlan>,
    /// For tests: no call waits longer.
    most: Option<Duration>,
}

/// A call before it is made: its name, the container it is about, and how long it may take.
#[derive(Debug, Clone, Copy)]
struct Call<'a> {
    name: &'static str,
    subject: &'a str,
    deadline: Duration,
    changes: bool,
}

impl Engine {
    /// The daemon that `DOCKER_HOST` names, else the default socket. Nothing is connected yet.
    pub fn from_env() -> Result<Self, EngineError> {
        let host = std::env::var("DOCKER_HOST").unwrap_or_default();
        Self::at(if host.is_empty() { DEFAULT_HOST } else { &host })
    }

    /// The daemon at `host`: unix:///path, tcp://host:port or http://host:port.
    pub fn at(host: &str) -> Result<Self, EngineError> {
        raw::Address::parse(host)?;
        Ok(Self {
            host: host.into(),
            counters: Arc::default(),
            plan: None,
            most: None,
        })
    }

    /// The same daemon with a numbering of its own and a fault for tests.
    #[must_use]
    pub fn with_faults(mut self, plan: FaultPlan) -> Self {
        self.counters = Arc::default();
        self.plan = Some(plan);
        self
    }

    /// The same daemon, of which no call waits longer than `most`; for tests of daemons that stall.
    #[must_use]
    pub fn with_deadline(mut self, most: Duration) -> Self {
        self.most = Some(most);
        self
    }

    /// Where the daemon is.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Calls so far: all, and those that change something.
    #[must_use]
    pub fn calls(&self) -> (u64, u64) {
        let c = &self.counters;
        (c.calls.load(Ordering::Relaxed), c.changes.load(Ordering::Relaxed))
    }

    /// Whether a change was asked for whose end nobody saw: the call was dropped (a signal), broke off or came too late. The
    /// daemon may carry it out yet.
    #[must_use]
    pub fn is_unsure(&self) -> bool {
        self.counters.unsure.load(Ordering::Relaxed)
    }

    /// What such calls came to was looked at.
    pub fn is_settled(&self) {
        self.counters.unsure.store(false, Ordering::Relaxed);
    }

    /// bollard keeps no idle connections here and checks that the socket exists, so a client lives for one call.
    fn client(&self) -> Result<Docker, EngineError> {
        let version = bollard::API_DEFAULT_VERSION;
        let client = if self.host.starts_with("unix://") {
            Docker::connect_with_unix(&self.host, CLIENT_TIMEOUT_S, version)
        } else {
            Docker::connect_with_http(&self.host, CLIENT_TIMEOUT_S, version)
        };
        client.map_err(|e| self.explain(e))
    }

    /// Every call of the tool to Docker passes here.
    async fn call<T, F>(&self, call: Call<'_>, work: F) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, EngineError>>,
    {
        let under_way = UnderWay {
            counters: &self.counters,
            changes: call.changes,
        };
        let outcome = self.numbered(call, work).await;
        if !matches!(outcome, Err(EngineError::Away(_) | EngineError::Late(_))) {
            under_way.ended();
        }
        outcome
    }

    async fn numbered<T, F>(&self, call: Call<'_>, work: F) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, EngineError>>,
    {
        // On the heap: bollard's bodies are several kilobytes, and every caller would carry them along.
        let work = Box::pin(work);
        let number = self.counters.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let change = self.counters.changes.load(Ordering::Relaxed) + u64::from(call.changes);
        self.counters.changes.store(change, Ordering::Relaxed);
        tracing::debug!(number, call.name, call.subject, "docker");
        let deadline = self.most.map_or(call.deadline, |most| call.deadline.min(most));
        let work = async {
            tokio::time::timeout(deadline, work).await.map_err(|_| {
                let s = deadline.as_secs_f64();
                EngineError::Late(format!("docker did not answer `{}` within {s} s", call.name))
            })?
        };
        let Some(plan) = self.plan else {
            return work.await;
        };
        let died = || EngineError::Away(format!("{}: injected fault", call.name));
        if self.counters.dead.load(Ordering::Relaxed) {
            return Err(died());
        }
        let due = if plan.changes_only {
            call.changes && change >= plan.at
        } else {
            number >= plan.at
        };
        if !due {
            return work.await;
        }
        self.counters.dead.store(true, Ordering::Relaxed);
        if plan.carried_out {
            let _ = work.await;
        }
        Err(died())
    }

    async fn change<T, F>(
        &self,
        name: &'static str,
        subject: &str,
        deadline: Duration,
        work: impl FnOnce(Docker) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, bollard::errors::Error>>,
    {
        let call = Call {
            name,
            subject,
            deadline,
            changes: true,
        };
        self.call(call, async {
            Box::pin(work(self.client()?)).await.map_err(|e| self.explain(e))
        })
        .await
    }

    async fn read(&self, name: &'static str, subject: &str, path: &str) -> Result<Json, EngineError> {
        let call = Call {
            name,
            subject,
            deadline: READ_DEADLINE,
            changes: false,
        };
        self.call(call, raw::get_json(&self.host, path)).await
    }

    /// `/version`.
    pub async fn version(&self) -> Result<Json, EngineError> {
        self.read("version", "", "/version").await
    }

    /// `/info`.
    pub async fn info(&self) -> Result<Json, EngineError> {
        self.read("info", "", "/info").await
    }

    /// All containers, stopped ones included.
    pub async fn list(&self) -> Result<Vec<Listed>, EngineError> {
        let json = self.read("list", "", "/containers/json?all=true").await?;
        Ok(json
            .as_array()
            .map(|a| a.iter().filter_map(Listed::from_json).collect())
            .unwrap_or_default())
    }

    /// Everything about one container, as Docker says it.
    pub async fn inspect(&self, id: &str) -> Result<Json, EngineError> {
        self.read("inspect", id, &format!("/containers/{}/json", raw::encode(id)))
            .await
    }

    /// Whether the image is there.
    pub async fn has_image(&self, id: &str) -> Result<bool, EngineError> {
        match self
            .read("image", id, &format!("/images/{}/json", raw::encode(id)))
            .await
        {
            Ok(_) => Ok(true),
            Err(EngineError::NotFound(_)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The last `lines` lines that a container wrote, both streams in one, at most 64 KiB.
    pub async fn logs(&self, id: &str, lines: u32) -> Result<String, EngineError> {
        let path = format!(
            "/containers/{}/logs?stdout=true&stderr=true&tail={lines}",
            raw::encode(id)
        );
        let call = Call {
            name: "logs",
            subject: id,
            deadline: READ_DEADLINE,
            changes: false,
        };
        let bytes = self.call(call, raw::get_bytes(&self.host, &path)).await?;
        Ok(raw::demultiplex(&bytes))
    }

    /// Bytes that a container has received so far, over all its networks; 0 where it has none of its own.
    pub async fn received_bytes(&self, id: &str) -> Result<u64, EngineError> {
        let path = format!("/containers/{}/stats?stream=false&one-shot=true", raw::encode(id));
        let stats = self.read("stats", id, &path).await?;
        let networks = stats["networks"].as_object();
        Ok(networks
            .into_iter()
            .flat_map(|n| n.values())
            .filter_map(|n| n["rx_bytes"].as_u64())
            .sum())
    }

    /// Opens the stream of container events that happened after `since` (seconds.nanoseconds of the daemon's clock).
    pub async fn events(&self, since: &str) -> Result<raw::Lines, EngineError> {
        // {"type":["container"],"event":[...]}: exec events of health checks would flood the stream
        let filters = r#"{"type":["container"],"event":["create","destroy","die","kill","oom","pause","rename","restart","start","stop","unpause","update"]}"#;
        let path = format!("/events?since={since}&filters={}", raw::encode(filters));
        let call = Call {
            name: "events",
            subject: "",
            deadline: READ_DEADLINE,
            changes: false,
        };
        self.call(call, raw::open_lines(&self.host, &path)).await
    }

    /// Creates a container; returns its id.
    pub async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<String, EngineError> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let created = self
            .change("create", name, WRITE_DEADLINE, |d| async move {
                d.create_container(Some(options), body).await
            })
            .await?;
        Ok(created.id)
    }

    /// Connects a container to one more network.
    pub async fn connect(
        &self,
        network: &str,
        id: &str,
        endpoint: EndpointSettings,
    ) -> Result<(), EngineError> {
        let request = NetworkConnectRequest {
            container: id.to_owned(),
            endpoint_config: Some(endpoint),
        };
        self.change("connect", id, WRITE_DEADLINE, |d| async move {
            d.connect_network(network, request).await
        })
        .await
    }

    /// Starts a container; one that runs stays as it is.
    pub async fn start(&self, id: &str) -> Result<(), EngineError> {
        self.change("start", id, WRITE_DEADLINE, |d| async move {
            d.start_container(id, None).await
        })
        .await
    }

    /// Stops a container, with `grace` between its stop signal and SIGKILL, or its own where None is given
    /// (`own_grace` then bounds the wait). One that is stopped stays as it is.
    pub async fn stop(
        &self,
        id: &str,
        grace: Option<Duration>,
        own_grace: Duration,
    ) -> Result<(), EngineError> {
        let options = grace.map(|g| {
            let seconds = i32::try_from(g.as_secs()).unwrap_or(i32::MAX);
            StopContainerOptionsBuilder::new().t(seconds).build()
        });
        let deadline = grace.unwrap_or(own_grace).saturating_add(STOP_MARGIN);
        self.change("stop", id, deadline, |d| async move {
            d.stop_container(id, options).await
        })
        .await
    }

    /// Gives a container another name.
    pub async fn rename(&self, id: &str, name: &str) -> Result<(), EngineError> {
        let options = RenameContainerOptionsBuilder::new().name(name).build();
        self.change("rename", id, WRITE_DEADLINE, |d| async move {
            d.rename_container(id, options).await
        })
        .await
    }

    /// Removes one of our own containers with its anonymous volumes; one that is gone is fine.
    pub async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let removed = self
            .change("remove", id, WRITE_DEADLINE, |d| async move {
                d.remove_container(id, Some(options)).await
            })
            .await;
        match removed {
            Err(EngineError::NotFound(_)) => Ok(()),
            // "removal of container X is already in progress": wait until it is through
            Err(EngineError::Conflict(m)) if m.contains("already in progress") => self.gone(id).await,
            other => other,
        }
    }

    async fn gone(&self, id: &str) -> Result<(), EngineError> {
        for _ in 0..60 {
            if matches!(self.inspect(id).await, Err(EngineError::NotFound(_))) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        Err(EngineError::Away(format!(
            "container {id} is still being removed"
        )))
    }

    fn explain(&self, e: bollard::errors::Error) -> EngineError {
        use bollard::errors::Error as E;
        match e {
            E::DockerResponseServerError { status_code, message } => raw::by_status(status_code, &message),
            E::SocketNotFoundError(_) => raw::missing(&self.host),
            // The message quotes the answer around the error, which may be somebody's environment.
            E::JsonDataError { .. } | E::JsonSerdeError { .. } => {
                EngineError::Unreadable("docker's answer was not understood".into())
            }
            other => raw::by_cause(&self.host, &other),
        }
    }
}

/// A container in a listing; only what every engine says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listed {
    /// Full id.
    pub id: String,
    /// Without the leading slash; legacy links' extra names left out.
    pub name: String,
    /// "running", "exited", "paused", "restarting", "created", "dead", "removing".
    pub state: String,
    /// Its labels.
    pub labels: std::collections::BTreeMap<String, String>,
    /// "bridge", a network's name, "container:ID" ...
    pub network_mode: String,
    /// Its own health check says so.
    pub is_unhealthy: bool,
}

impl Listed {
    fn from_json(json: &Json) -> Option<Self> {
        let text = |v: &Json| v.as_str().unwrap_or_default().to_owned();
        let names = json.get("Names").and_then(Json::as_array);
        let name = names
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
            .map(|n| n.trim_start_matches('/'))
            .find(|n| !n.contains('/'))
            .unwrap_or_default()
            .to_owned();
        let labels = json.get("Labels").and_then(Json::as_object);
        Some(Self {
            id: json.get("Id")?.as_str()?.to_owned(),
            name,
            state: text(&json["State"]),
            labels: labels
                .into_iter()
                .flatten()
                .map(|(k, v)| (k.clone(), text(v)))
                .collect(),
            network_mode: text(&json["HostConfig"]["NetworkMode"]),
            // "Up 2 hours (unhealthy)"
            is_unhealthy: text(&json["Status"]).contains("(unhealthy)"),
        })
    }

    /// Whether its main process runs, paused included.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.state.as_str(), "running" | "paused" | "restarting")
    }

    /// A label's value.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listing_skips_names_that_are_links_and_survives_unknown_states() {
        let json = serde_json::json!({"Id": "abc", "Names": ["/web/db", "/db"], "State": "from-the-future",
            "Labels": {"a": "b"}, "HostConfig": {"NetworkMode": "bridge"}, "Ports": [{"Type": "quic"}]});
        let c = Listed::from_json(&json).unwrap();
        assert_eq!(c.name, "db");
        assert_eq!(c.label("a"), Some("b"));
        assert!(!c.is_up());
        assert_eq!(Listed::from_json(&serde_json::json!({"Names": []})), None);
    }

    #[test]
    fn hosts_that_cannot_work_are_refused_with_a_way_out() {
        for host in [
            "ssh://me@there",
            "https://there:2376",
            "npipe:////./pipe/x",
            "unix://",
            "tcp://",
        ] {
            let e = Engine::at(host).unwrap_err().into_sut();
            assert!(
                matches!(&e, SutError::Refused { exit: 69, message } if message.contains("DOCKER_HOST")),
                "{host}: {e:?}"
            );
        }
        assert!(Engine::at("tcp://127.0.0.1:2375").is_ok());
    }
}

//! The system under test: a config becomes a running service, is watched, taken away, and what was there
//! before is given back. One trait; `docker`, `swarm`, `process`, `command` and `simulated` own their outside thing.
//!
//! Not here: load, judgement, telemetry.

pub mod child;
pub mod command;
pub mod docker;
pub mod process;
pub mod ready;
pub mod redact;
pub mod simulated;
pub mod swarm;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::space::{Binding, Config, Parameter, Value};
use crate::spec::{SutKind, SutSpec};
use crate::trial::Failure;

/// A running deployment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Deployment {
    /// Base URLs, one for each instance that is loaded directly, or the balancer's one.
    pub urls: Vec<String>,
    /// What was read back and proves that the config is live: "POOL_SIZE=12", "memory=512 MiB".
    pub proof: Vec<String>,
    /// Container ids (docker) for telemetry, an instance each, the first one first; empty elsewhere.
    pub containers: Vec<String>,
    /// Process ids (process sut) for telemetry.
    pub pids: Vec<u32>,
    /// From the deploy call to ready, seconds.
    pub ready_s: f64,
}

/// Why a deployment did not come up, or a service is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SutError {
    /// The config is to blame: told to the optimizer.
    #[error("{}: {detail}", failure.words())]
    Config {
        /// How it failed.
        failure: Failure,
        /// Redacted and bounded.
        detail: String,
    },
    /// Docker, the database or the machine is to blame: retried, never told to the optimizer.
    #[error("{0}")]
    Infrastructure(String),
    /// Somebody else changed what this run works on, or it may not be touched: the run ends.
    #[error("{message}")]
    Refused {
        /// The documented exit code (faults.md): 69, 75, 77 ...
        exit: u8,
        /// What, why, and what to do.
        message: String,
    },
    /// The original could not be given back (exit 76): the commands that do it by hand.
    #[error("could not give {name} back: {detail}; run: {commands}")]
    RestoreFailed {
        /// The container.
        name: String,
        /// Why.
        detail: String,
        /// Ready to paste.
        commands: String,
    },
}

/// What preflight found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SutFacts {
    /// One line a thing, for `check`: what was found, what will be done.
    pub lines: Vec<String>,
    /// What could go wrong but does not stop the run.
    pub warnings: Vec<String>,
    /// Values in production today, by parameter name, where they could be read.
    pub today: BTreeMap<String, Value>,
    /// Image id or executable and its hash; trials of one study share it.
    pub identity: String,
    /// For environment.toml: engine version and the like.
    pub environment: BTreeMap<String, String>,
    /// Environment variables whose values must never be shown (all but the tuned ones): for redaction.
    pub secrets: Vec<crate::spec::Secret>,
    /// Variables of today's service that nobody tunes and that count in the connection budget: `WORKERS`, `MAX_OVERFLOW`.
    pub fixed: BTreeMap<String, f64>,
    /// Addresses that the service connects to its database from, where they are known: what it holds there today is not
    /// somebody else's.
    pub addresses: Vec<String>,
}

/// How the deployment is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Up since the same start.
    Running,
    /// Ended or damaged, and the config is to blame.
    Failed(Failure, String),
    /// Could not be asked: an infrastructure fault.
    Unknown(String),
    /// Somebody changed or took away what this run works on: the run ends, exit 69. Says what to do.
    Foreign(String),
}

/// What somebody outside of this process must know to clean up when it is killed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "note", rename_all = "snake_case")]
pub enum Note {
    /// A process group was started.
    Group {
        /// Its id, the leader's pid.
        pid: u32,
        /// The leader's start, clock ticks since boot.
        started: u64,
    },
    /// It has ended.
    GroupGone {
        /// Its id.
        pid: u32,
    },
    /// A script deploys now; this takes it away.
    Deployed {
        /// Program and arguments.
        teardown: Vec<String>,
        /// Its environment. Never written to a file.
        env: BTreeMap<String, String>,
    },
    /// It was taken away.
    TakenAway,
    /// A container is about to be parked.
    Parking {
        /// Its full id.
        id: String,
        /// Its name.
        name: String,
    },
    /// It has its name back, and runs if it ran.
    GivenBack {
        /// Its full id.
        id: String,
    },
    /// A service of a swarm is about to be updated.
    ServiceUpdating {
        /// Its full id.
        id: String,
        /// Its name.
        name: String,
    },
    /// It has its own spec back.
    ServiceGivenBack {
        /// Its full id.
        id: String,
    },
}

type NoteSink = dyn Fn(&Note) + Send + Sync;

/// Where notes go; nowhere by default.
#[derive(Clone, Default)]
pub struct Notes(Option<Arc<NoteSink>>);

impl Notes {
    /// Notes go to `sink`, which must not block for long.
    pub fn to(sink: impl Fn(&Note) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(sink)))
    }

    /// Whether somebody is told.
    fn are_heard(&self) -> bool {
        self.0.is_some()
    }

    #[allow(clippy::needless_pass_by_value)] // made for this call
    fn send(&self, note: Note) {
        if let Some(sink) = &self.0 {
            sink(&note);
        }
    }
}

impl std::fmt::Debug for Notes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Notes").field(&self.0.is_some()).finish()
    }
}

/// A way to deploy. Every call has its own deadline.
#[allow(async_fn_in_trait)] // used through the enum in this crate only, never as a trait object
pub trait Sut {
    /// Looks, changes nothing.
    async fn preflight(&mut self, parameters: &[Parameter]) -> Result<SutFacts, SutError>;
    /// Puts `config` in place of what runs now, waits until it is ready, and proves that it is live.
    async fn deploy(
        &mut self,
        trial: u32,
        parameters: &[Parameter],
        config: &Config,
    ) -> Result<Deployment, SutError>;
    /// How it is, since `deploy`.
    async fn health(&mut self) -> Health;
    /// The last lines of its log, redacted and bounded.
    async fn log_tail(&mut self) -> String;
    /// Takes the deployment away. Idempotent.
    async fn teardown(&mut self) -> Result<(), SutError>;
    /// Gives back what was there before. Idempotent; also right when nothing was parked. Says what was done, if anything.
    async fn restore(&mut self) -> Result<Option<String>, SutError>;
}

/// The environment that `config` means: name and value of each active parameter bound to a variable.
#[must_use]
pub fn tuned_env(parameters: &[Parameter], config: &Config) -> BTreeMap<String, String> {
    parameters
        .iter()
        .filter_map(|p| match (&p.binding, config.get(&p.name)) {
            (Binding::Env(name), Some(v)) => Some((name.clone(), v.to_string())),
            _ => None,
        })
        .collect()
}

/// Every way to deploy, chosen by the spec.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // one for each run
pub enum AnySut {
    /// A container.
    Docker(docker::DockerSut),
    /// A service of a swarm.
    Swarm(swarm::SwarmSut),
    /// A child process; the demo API too.
    Process(process::ProcessSut),
    /// Somebody's scripts.
    Command(command::CommandSut),
    /// Arithmetic.
    Simulated(simulated::SimulatedSut),
}

/// The way to deploy that `spec` names. Nothing is touched; `results` is where what is being done is recorded.
pub fn open(spec: &SutSpec, run_id: &str, results: &Path) -> Result<AnySut, SutError> {
    Ok(match &spec.kind {
        SutKind::Docker(target) => {
            let engine = docker::engine::Engine::from_env()?;
            AnySut::Docker(docker::DockerSut::new(engine, spec, target, run_id, results))
        }
        SutKind::Swarm(target) => {
            let engine = docker::engine::Engine::from_env()?;
            AnySut::Swarm(swarm::SwarmSut::new(engine, spec, target, run_id, results))
        }
        SutKind::Process { command } => AnySut::Process(process::ProcessSut::new(spec, command.clone())),
        SutKind::Command { deploy, teardown } => {
            AnySut::Command(command::CommandSut::new(spec, deploy, teardown))
        }
        SutKind::Simulated { model } => AnySut::Simulated(simulated::SimulatedSut::new(model)),
        SutKind::Demo => {
            let own = std::env::current_exe().map_err(|e| SutError::Refused {
                exit: 74,
                message: format!("cannot find the tool's own executable: {e}"),
            })?;
            AnySut::Process(process::ProcessSut::demo(spec, &own))
        }
    })
}

impl AnySut {
    /// Who is told what must be cleaned up when this process is killed.
    pub fn set_notes(&mut self, notes: Notes) {
        match self {
            Self::Docker(s) => s.set_notes(notes),
            Self::Swarm(s) => s.set_notes(notes),
            Self::Process(s) => s.set_notes(notes),
            Self::Command(s) => s.set_notes(notes),
            Self::Simulated(_) => {}
        }
    }
}

macro_rules! each {
    ($self:ident, $s:ident => $call:expr) => {
        match $self {
            AnySut::Docker($s) => $call,
            AnySut::Swarm($s) => $call,
            AnySut::Process($s) => $call,
            AnySut::Command($s) => $call,
            AnySut::Simulated($s) => $call,
        }
    };
}

impl Sut for AnySut {
    async fn preflight(&mut self, parameters: &[Parameter]) -> Result<SutFacts, SutError> {
        each!(self, s => s.preflight(parameters).await)
    }
    async fn deploy(
        &mut self,
        trial: u32,
        parameters: &[Parameter],
        config: &Config,
    ) -> Result<Deployment, SutError> {
        each!(self, s => s.deploy(trial, parameters, config).await)
    }
    async fn health(&mut self) -> Health {
        each!(self, s => s.health().await)
    }
    async fn log_tail(&mut self) -> String {
        each!(self, s => s.log_tail().await)
    }
    async fn teardown(&mut self) -> Result<(), SutError> {
        each!(self, s => s.teardown().await)
    }
    async fn restore(&mut self) -> Result<Option<String>, SutError> {
        each!(self, s => s.restore().await)
    }
}

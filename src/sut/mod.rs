//! The system under test: a config becomes a running service, is watched, taken away, and what was there
//! before is given back. One trait; `docker`, `process`, `command` and `simulated` own their outside thing.
//!
//! Not here: load, judgement, telemetry.

use std::collections::BTreeMap;

use crate::space::{Binding, Config, Parameter, Value};
use crate::trial::Failure;

/// A running deployment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Deployment {
    /// Base URLs, one for each instance that is loaded directly, or the balancer's one.
    pub urls: Vec<String>,
    /// What was read back and proves that the config is live: "POOL_SIZE=12", "memory=512 MiB".
    pub proof: Vec<String>,
    /// Container ids (docker) for telemetry; empty elsewhere.
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
    #[error("{failure:?}: {detail}")]
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
}

/// How the deployment is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Up since the same start.
    Running,
    /// Ended or damaged, and the config is to blame.
    Failed(Failure, String),
    /// Could not be asked, or was taken away by somebody.
    Unknown(String),
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

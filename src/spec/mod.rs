//! The space file: one table of its keys (`keys`), and the one conversion to a validated `StudySpec` (`parse`).
//!
//! Every error is found in one pass, with file, line, column and a hint; later code never checks again.
//! Nothing here touches Docker, the network or the results folder; only `file` reads, the space file and those
//! that it names.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::expr::Expr;
use crate::optimizer::Search;
use crate::slo::Slo;
use crate::space::{Constraint, Space, Value};
use crate::units::{Ratio, Rps};

mod budget;
mod common;
mod context;
mod domain;
mod errors;
mod expressions;
mod file;
mod keys;
mod lists;
mod load;
mod parameters;
mod parse;
mod reader;
mod schema;
mod settings;
mod sut;

#[cfg(test)]
mod tests;

pub use budget::{Connections, Fit, MOST_INSTANCES, Usable};
pub use errors::{SpecError, SpecErrors};
pub use expressions::counts_connections;
pub use file::load;
pub(crate) use keys::MAX_AGENTS as MOST_AGENTS;
pub use parse::parse;
pub use schema::{reference, schema};

/// A validated study.
#[derive(Debug, Clone, PartialEq)]
pub struct StudySpec {
    /// Name; the folder under `results`.
    pub name: String,
    /// Longest run time.
    pub budget: Option<Duration>,
    /// Most search trials.
    pub trials: Option<u32>,
    /// The recorded seed.
    pub seed: u64,
    /// Which optimizer chooses the configs.
    pub search: Search,
    /// The results folder's parent.
    pub results: PathBuf,
    /// What is deployed; missing for ask and tell.
    pub sut: Option<SutSpec>,
    /// What is searched.
    pub space: Space,
    /// Parameters whose baseline was not given in the file and must be read from the service.
    pub baseline_unknown: Vec<String>,
    /// What is sent; missing for ask and tell.
    pub load: Option<LoadSpec>,
    /// What sustainable means.
    pub slo: Slo,
    /// How capacity is searched.
    pub capacity: CapacitySpec,
    /// What is sampled beside the load.
    pub telemetry: TelemetrySpec,
    /// How the finals are run.
    pub confirm: ConfirmSpec,
    /// What is wanted: the highest rate, or the lowest cost at a required rate.
    pub objective: Objective,
    /// What all instances together may take of the database's connections.
    pub connections: Option<ConnectionBudget>,
    /// What is odd but no mistake, each with its file, line and column.
    pub warnings: Vec<String>,
    /// Values that came from the environment or stand under `env` and `headers`: for redaction.
    pub secrets: Vec<Secret>,
    /// SHA-256 of everything that makes trials comparable: sut, parameters, constraints, load, slo, capacity, objective, budget.
    /// Names of environment variables count, the texts that `${NAME}` brought in don't.
    pub hash: String,
    /// The same by section, so that a refused resume can say what changed.
    pub section_hashes: BTreeMap<String, String>,
}

/// What the study is for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// The highest sustainable rate (default).
    SustainableRps,
    /// The cheapest config that carries this rate.
    CostAt(Rps),
}

/// The connection budget: `uses` <= `share` * usable - `headroom`.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionBudget {
    /// Usable connections where the file says them; None: ask Postgres (max_connections, less the reserved and
    /// those of others), then call [`StudySpec::limit_connections`].
    pub usable: Option<u32>,
    /// Connections that a config uses, all instances together.
    pub uses: Expr,
    /// `uses` was made from the parameters' bindings.
    pub derived: bool,
    /// Left free for others.
    pub headroom: u32,
    /// The part of the usable ones that may be taken.
    pub share: Ratio,
}

impl StudySpec {
    /// Counts the variables of the container that nobody tunes (`WORKERS=4`) in a connection budget that was made from the
    /// bindings. The file's own `[sut] env` wins over the container's.
    pub fn count_fixed(&mut self, container: &BTreeMap<String, f64>) {
        let mut fixed = container.clone();
        fixed.extend(self.sut.iter().flat_map(|s| fixed_numbers(&s.env)));
        let Some(budget) = self.connections.as_mut().filter(|b| b.derived) else {
            return;
        };
        let uses = expressions::derived_uses(&self.space.parameters, &fixed)
            .and_then(|text| Expr::compile(&text, &Space::names(&self.space.parameters)).ok());
        if let Some(uses) = uses {
            budget.uses = uses;
        }
    }
}

/// The variables that count in the connection budget, where they are numbers.
pub(crate) fn fixed_numbers(env: &BTreeMap<String, Secret>) -> BTreeMap<String, f64> {
    env.iter()
        .filter(|(name, _)| counts_connections(name))
        .filter_map(|(name, v)| {
            let n: f64 = v.expose().trim().parse().ok()?;
            (n.is_finite() && n >= 0.0).then(|| (name.clone(), n))
        })
        .collect()
}

impl ConnectionBudget {
    /// The constraint that `usable` connections make.
    pub fn constraint(&self, usable: u32) -> Result<Constraint, String> {
        let most = (self.share.get() * f64::from(usable)).floor() - f64::from(self.headroom);
        if most < 1.0 {
            return Err(format!(
                "the connection budget leaves nothing: {} of {usable} usable connections, less {} of headroom",
                self.share, self.headroom
            ));
        }
        let text = format!("({}) <= {most}", self.uses.text());
        let that = self.uses.with_text(&text).map_err(|e| format!("`{text}`: {e}"))?;
        let why = format!("the connection budget: {usable} usable connections of the database");
        Ok(Constraint { that, why })
    }
}

impl StudySpec {
    /// Adds the constraint of the connection budget, once the database has said how many are usable. An error
    /// gives the arithmetic: nothing left, or today's configuration beyond it.
    pub fn limit_connections(&mut self, usable: u32) -> Result<(), String> {
        let Some(budget) = &self.connections else {
            return Ok(());
        };
        let constraint = budget.constraint(usable)?;
        self.space.constraints.push(constraint);
        if !self.baseline_unknown.is_empty() {
            return Ok(());
        }
        match self.space.violation(&self.space.baseline()) {
            Some(why) => Err(format!("today's configuration does not fit: {why}")),
            None => Ok(()),
        }
    }

    /// Fills the baselines that the file left out with `today`, what the service has. Errors say which
    /// parameter and what to write; afterwards the baseline is known and legal.
    pub fn set_baselines(&mut self, today: &BTreeMap<String, Value>) -> Result<(), String> {
        let mut problems = Vec::new();
        for name in &self.baseline_unknown {
            let Some(p) = self.space.parameters.iter_mut().find(|p| p.name == *name) else {
                continue;
            };
            match today.get(name).map(|v| (v, p.domain.adopt(v))) {
                Some((_, Some(v))) => p.baseline = v,
                Some((v, None)) => problems.push(format!(
                    "{name} is {v} in the service today, outside {}: widen the range", p.domain
                )),
                None => problems.push(format!(
                    "what {name} is today can't be read from the service: write baseline = ... under [parameters.{name}]"
                )),
            }
        }
        if problems.is_empty()
            && let Some(why) = self.space.violation(&self.space.baseline())
        {
            problems.push(format!("today's configuration is not legal: {why}"));
        }
        if !problems.is_empty() {
            return Err(problems.join("; "));
        }
        self.baseline_unknown.clear();
        Ok(())
    }
}

/// The system under test.
#[derive(Debug, Clone, PartialEq)]
pub struct SutSpec {
    /// How it is deployed.
    pub kind: SutKind,
    /// Base URL: http(s)://host:port, port 0 where the tool picks one.
    pub url: String,
    /// When it is ready.
    pub ready: ReadySpec,
    /// Additions to its environment that are not tuned.
    pub env: BTreeMap<String, Secret>,
}

/// A text that never shows in logs: the value of an environment variable or a URL with a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// How a config becomes a running service.
#[derive(Debug, Clone, PartialEq)]
pub enum SutKind {
    /// A container, found by compose service or by name.
    Docker(DockerRef),
    /// A service of a Docker Swarm.
    Swarm(SwarmRef),
    /// A child process with environment variables.
    Process {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// Somebody's own scripts.
    Command {
        /// Run with the parameters as environment variables; must return when the service is up.
        deploy: Vec<String>,
        /// Run afterwards.
        teardown: Vec<String>,
    },
    /// An arithmetic service, for tests and for trying a space file.
    Simulated {
        /// Which one.
        model: String,
    },
    /// The tool's own demo API, as a child process.
    Demo,
}

/// How the user's container is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerRef {
    /// Compose service, and project where it is not the only one.
    Service {
        /// `com.docker.compose.service`.
        service: String,
        /// `com.docker.compose.project`.
        project: Option<String>,
    },
    /// Container name or id.
    Container(String),
}

/// A service of a swarm, and how its tasks are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwarmRef {
    /// Its name or id, as `docker service ls` shows it.
    pub service: String,
    /// Where each task is reached by itself, with {node} and {slot} in it; `url` is then not used. None: `url` is a
    /// balancer's.
    pub task_url: Option<String>,
}

impl SwarmRef {
    /// `template` for the task with number `slot` on the node with address `node`.
    #[must_use]
    pub fn fill(template: &str, node: &str, slot: u64) -> String {
        let node = match node.contains(':') {
            true => format!("[{node}]"),
            false => node.to_owned(),
        };
        template
            .replace("{node}", &node)
            .replace("{slot}", &slot.to_string())
    }
}

/// When a deployment counts as ready.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadySpec {
    /// Path that must answer 2xx.
    pub path: String,
    /// Budget from start to ready.
    pub timeout: Duration,
}

/// What is sent.
#[derive(Clone, PartialEq)]
pub struct LoadSpec {
    /// Per request, from the scheduled time.
    pub timeout: Duration,
    /// Most connections.
    pub connections: u32,
    /// Spacing of arrivals.
    pub arrivals: Arrivals,
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
    /// The mix, at least one.
    pub requests: Vec<RequestSpec>,
    /// Where "{name}" comes from.
    pub vars: BTreeMap<String, VarSource>,
    /// CPU to pin the generator's thread to.
    pub cpu: Option<usize>,
    /// A new connection for every request.
    pub keep_alive: bool,
    /// Hosts beyond loopback and private addresses that the user named.
    pub allow_remote: Vec<String>,
    /// Generators on other machines that drive the load in this one's place.
    pub agents: AgentsSpec,
}

/// Generators on other machines; none named: this machine drives the load.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AgentsSpec {
    /// "host:port", or "https://host:port".
    pub addresses: Vec<String>,
    /// The token that all of them ask for.
    pub token: Option<Secret>,
    /// Certificates that are believed, as PEM; with it all of them are spoken to over TLS.
    pub ca: Option<String>,
}

impl AgentsSpec {
    /// The token of a token file's text. The error says what is wrong with it.
    pub fn token_of(text: &str) -> Result<Secret, String> {
        let token = text.trim();
        if token.len() < MIN_TOKEN || token.len() > MAX_TOKEN {
            return Err(format!(
                "a token has {MIN_TOKEN} to {MAX_TOKEN} characters, this one {}: make one with `openssl rand -hex 32`",
                token.len()
            ));
        }
        if !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("a token is one line of visible ASCII characters".to_owned());
        }
        Ok(Secret::new(token))
    }
}

/// Shortest token, characters: shorter ones can be guessed.
const MIN_TOKEN: usize = 16;
/// Longest.
const MAX_TOKEN: usize = 512;

/// Header names; the values may be secrets.
fn header_names(headers: &[(String, String)]) -> Vec<&str> {
    headers.iter().map(|(name, _)| name.as_str()).collect()
}

impl std::fmt::Debug for LoadSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadSpec")
            .field("timeout", &self.timeout)
            .field("connections", &self.connections)
            .field("arrivals", &self.arrivals)
            .field("headers", &header_names(&self.headers))
            .field("requests", &self.requests)
            .field("vars", &self.vars.keys())
            .field("cpu", &self.cpu)
            .field("keep_alive", &self.keep_alive)
            .field("allow_remote", &self.allow_remote)
            .field("agents", &self.agents)
            .finish()
    }
}

impl std::fmt::Debug for RequestSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestSpec")
            .field("weight", &self.weight)
            .field("method", &self.method)
            .field("path", &self.path)
            .field("headers", &header_names(&self.headers))
            .field("body_bytes", &self.body.as_ref().map(Vec::len))
            .field("expect", &self.expect)
            .finish_non_exhaustive()
    }
}

/// Spacing of arrivals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// Evenly.
    #[default]
    Uniform,
    /// Exponential gaps from the seed.
    Poisson,
}

/// One request of the mix.
#[derive(Clone, PartialEq)]
pub struct RequestSpec {
    /// Share of the mix, relative to the others' sum.
    pub weight: f64,
    /// HTTP method.
    pub method: String,
    /// Path and query, with "{name}" variables.
    pub path: String,
    /// Sent with this request, after the common ones.
    pub headers: Vec<(String, String)>,
    /// Body, with "{name}" variables; read from `body_file` already.
    pub body: Option<Vec<u8>>,
    /// Statuses that are good.
    pub expect: Vec<u16>,
    /// Text that a good body contains.
    pub expect_body: Option<String>,
}

/// Values for a variable.
#[derive(Debug, Clone, PartialEq)]
pub enum VarSource {
    /// Whole numbers, inclusive, drawn from the seed.
    Range(i64, i64),
    /// These, in turn; also a CSV's column, read already.
    Values(Vec<String>),
}

/// How capacity is searched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CapacitySpec {
    /// First guess.
    pub start: Option<Rps>,
    /// Never offer more.
    pub max: Rps,
    /// Relative width at which refinement stops.
    pub precision: Ratio,
    /// Length of the confirmation window.
    pub confirm: Duration,
    /// Longest warm-up.
    pub warm_up: Duration,
}

/// What is sampled beside the load.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TelemetrySpec {
    /// Postgres URL (a secret).
    pub postgres: Option<Secret>,
    /// Redis URL (a secret).
    pub redis: Option<Secret>,
    /// Path of the API's own pool endpoint.
    pub pool: Option<String>,
}

/// How the finals are run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfirmSpec {
    /// Most rounds, each with every finalist and the baseline.
    pub pairs: u32,
    /// Kept of the budget for finals and restoring; None: computed from measured times.
    pub reserve: Option<Duration>,
}

/// A value that a parameter has in a file or a flag, typed by the domain.
pub type RawValue = Value;

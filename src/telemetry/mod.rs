//! What is sampled beside the load: the container or process of the service, Postgres, Redis, the API's own pool
//! endpoint, and the host. One background task a source, a sample a second, each with a deadline: a source that
//! hangs misses its samples and holds up nobody. What cannot be reached is a warning, never a failed run.
//!
//! Not here: judgement (that is `diagnosis`), load, deployment. Sampling costs under one percent of a core
//! (docs/diagnosis.md says how that was measured).
//!
//! The figures of a probe are a flat map; [`names`] lists every key with its unit and meaning. A key that is
//! missing was not measured: absence is never zero.

pub mod names;

mod docker;
mod host;
mod pool;
mod postgres;
mod process;
mod redis;
mod sampler;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::spec::TelemetrySpec;

pub use postgres::usable_connections;
use sampler::{Source, Worker};

pub(crate) type Figures = BTreeMap<String, f64>;

/// Longest that opening all sources takes.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);

/// What the sources said about one probe.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sampled {
    /// By the names of [`names`].
    pub figures: BTreeMap<String, f64>,
    /// What could not be sampled, in words.
    pub warnings: Vec<String>,
}

/// The open sources. Dropping it ends every background task.
#[derive(Debug)]
pub struct Telemetry {
    host: Option<Worker<host::Host>>,
    docker: Option<Worker<docker::Containers>>,
    process: Option<Worker<process::Processes>>,
    postgres: Option<Worker<postgres::Postgres>>,
    redis: Option<Worker<redis::Redis>>,
    pool: Option<Worker<pool::PoolEndpoint>>,
    warnings: Vec<String>,
}

impl Telemetry {
    /// Opens what `spec` names, before the load starts: a full database refuses later. `base_url` is where the pool
    /// endpoint is; `containers` and `pids` are what was deployed. Never fails: see [`Self::warnings`]. Takes at most
    /// five seconds, the sources being opened at the same time.
    pub async fn open(spec: &TelemetrySpec, base_url: &str, containers: &[String], pids: &[u32]) -> Self {
        let (docker, postgres, redis, pool) = tokio::join!(
            opened(
                "docker",
                !containers.is_empty(),
                docker::Containers::open(containers)
            ),
            opened(
                "postgres",
                spec.postgres.is_some(),
                postgres::Postgres::open(spec.postgres.as_ref())
            ),
            opened(
                "redis",
                spec.redis.is_some(),
                redis::Redis::open(spec.redis.as_ref())
            ),
            opened(
                "pool endpoint",
                spec.pool.is_some(),
                pool::PoolEndpoint::open(base_url, spec.pool.as_deref())
            ),
        );
        let mut warnings = Vec::new();
        let docker = docker.unwrap_or_else(|w| note(&mut warnings, w));
        let postgres = postgres.unwrap_or_else(|w| note(&mut warnings, w));
        let redis = redis.unwrap_or_else(|w| note(&mut warnings, w));
        let pool = pool.unwrap_or_else(|w| note(&mut warnings, w));
        for line in docker.iter().flat_map(|d| d.warnings.iter()) {
            warnings.push(line.clone());
        }
        let roots: Vec<process::Root> = docker
            .iter()
            .flat_map(|d| d.roots.iter().cloned())
            .chain(pids.iter().map(|&pid| process::Root { pid, container: None }))
            .collect();
        let process = process::Processes::open(&roots, !pids.is_empty());
        Self {
            host: host::Host::open().map(Worker::new),
            docker: docker.map(Worker::new),
            process: process.map(Worker::new),
            postgres: postgres.map(Worker::new),
            redis: redis.map(Worker::new),
            pool: pool.map(Worker::new),
            warnings,
        }
    }

    /// What could not be opened and what to do about it, one line each.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Samples from now on, at 1 Hz, the first at once. Must be called inside a tokio runtime. A second call without a
    /// `stop` begins anew.
    pub fn start(&mut self) {
        start(&mut self.host);
        start(&mut self.docker);
        start(&mut self.process);
        start(&mut self.postgres);
        start(&mut self.redis);
        start(&mut self.pool);
    }

    /// Ends sampling with a last sample and sums up everything since `start`. Takes at most about a second, also when
    /// a source hangs.
    pub async fn stop(&mut self) -> Sampled {
        self.stop_within(Duration::ZERO, Duration::MAX).await
    }

    /// The same for a part of the time: from `from` after `start`, for `length` (the probe's window without its
    /// lead-in and drain). A part with fewer than two samples is summed up over all of them.
    pub async fn stop_within(&mut self, from: Duration, length: Duration) -> Sampled {
        let part = sampler::Part { from, length };
        let (a, b, c, d, e, f) = tokio::join!(
            stop(&mut self.host, part),
            stop(&mut self.docker, part),
            stop(&mut self.process, part),
            stop(&mut self.postgres, part),
            stop(&mut self.redis, part),
            stop(&mut self.pool, part),
        );
        let mut all = Sampled::default();
        for one in [a, b, c, d, e, f] {
            all.figures.extend(one.figures);
            all.warnings.extend(one.warnings);
        }
        all
    }
}

fn note<T>(warnings: &mut Vec<String>, warning: String) -> Option<T> {
    warnings.push(warning);
    None
}

/// Runs an opening under the common deadline; `wanted` false means that the spec does not name the source.
async fn opened<S, F>(what: &str, wanted: bool, opening: F) -> Result<Option<S>, String>
where
    F: Future<Output = Result<S, String>>,
{
    if !wanted {
        return Ok(None);
    }
    match tokio::time::timeout(OPEN_DEADLINE, opening).await {
        Ok(Ok(source)) => Ok(Some(source)),
        Ok(Err(why)) => Err(format!("{what}: {why}")),
        Err(_) => Err(format!(
            "{what}: no answer within {} s; its figures will be missing",
            OPEN_DEADLINE.as_secs()
        )),
    }
}

fn start<S: Source>(worker: &mut Option<Worker<S>>) {
    if let Some(w) = worker {
        w.start();
    }
}

async fn stop<S: Source>(worker: &mut Option<Worker<S>>, part: sampler::Part) -> Sampled {
    match worker {
        Some(w) => w.stop(part).await,
        None => Sampled::default(),
    }
}

//! The load engine: open loop on an absolute schedule, latency from the scheduled time.
//!
//! A [`Generator`] is prepared once from the spec and driven once a probe. Requests leave when the schedule says and not
//! when answers come back, so a service that stalls is measured as its users would see it (no coordinated omission). The
//! generator also measures itself, and [`generator_verdict`](crate::measurement::generator_verdict) says when a
//! probe tells more about it than about the service.
//!
//! Reading order: `schedule` (when), `mix` (what), `engine` (one probe), `pool` and `carrier` (its connections), `link` (one exchange), `answer` (HTTP), `classify` (how it ended),
//! `ledger` (the counts), `clock` and `health` (this machine), `null` and `calibrate` (what the machine can drive), `users` (closed loop, for comparison), `share` and `agents` (one probe from several machines). Deliberately not here: whether a rate is sustainable, which
//! rate comes next, retries of failed requests, redirects, cookies, HTTP/2.

pub(crate) mod agents;
mod answer;
mod calibrate;
mod carrier;
mod classify;
mod clock;
mod endpoint;
mod engine;
mod health;
mod interval;
mod ledger;
mod link;
mod mix;
mod null;
mod pool;
pub mod schedule;
mod share;
mod users;

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::capacity::ProbePlan;
use crate::measurement::{Bin, Measurement, OutcomeClass};
use crate::spec::LoadSpec;
pub use agents::{AgentFault, Fleet};
pub use calibrate::{CalibrationRow, calibrate};
use endpoint::Endpoint;
use engine::{Event, Finished, Order, Stop};
pub use interval::Interval;
use link::Link;
#[cfg(fuzzing)]
pub use link::check as check_answer;
use mix::{Mix, Pick, Picks};
pub use null::{NullOptions, NullServer};
use pool::Setup;
use schedule::Part;
pub use share::{Brake, Progress, Share, ShareResult};
pub use users::{MOST_USERS, UsersPlan};

/// Longest wait for a connection before the first probe.
const REACH: Duration = Duration::from_secs(5);
/// Bytes of a body that a sample shows.
const SAMPLE_TEXT: usize = 4_096;

/// Why load could not be generated. What the service does wrong is never an error: it is in the measurement.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not a URL that load can be sent to.
    #[error("`{url}` cannot be used as a base URL: {why}")]
    Url {
        /// As given, without a password.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// No address for a host.
    #[error("no address found for host `{host}`: {why}")]
    Resolve {
        /// The host.
        host: String,
        /// The resolver's answer.
        why: String,
    },
    /// A public address that the user did not name.
    #[error(
        "`{host}` ({address}) is neither this machine nor a private network; if load may go there, name it: --allow-remote {host}, or [load] allow_remote = [\"{host}\"]"
    )]
    Remote {
        /// The host.
        host: String,
        /// Its public address.
        address: IpAddr,
    },
    /// A request that cannot be sent as described.
    #[error("{0}")]
    Request(String),
    /// The trust store could not be read.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// The generator's thread cannot run where it should.
    #[error("cannot pin the generator to cpu {cpu}: {why}")]
    Cpu {
        /// The CPU.
        cpu: usize,
        /// Why not.
        why: String,
    },
    /// Nobody listens there.
    #[error("cannot connect to {endpoint}: {why}; is the service running?")]
    Unreachable {
        /// Base URL.
        endpoint: String,
        /// What the connection said.
        why: String,
    },
    /// A generator on another machine cannot be used.
    #[error("agent {agent}: {why}")]
    Agent {
        /// Its address, as given.
        agent: String,
        /// What kind of trouble.
        fault: AgentFault,
        /// What happened and what to do.
        why: String,
    },
    /// Thread, timer or runtime.
    #[error("the load engine cannot run: {0}")]
    Engine(#[source] std::io::Error),
    /// The engine's thread ended without a word: a bug.
    #[error("the load engine ended without a result")]
    Died,
}

/// One request of a smoke sample and what came back.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleRow {
    /// Index in the mix.
    pub request: usize,
    /// "GET /items/7", variables filled in.
    pub line: String,
    /// Base URL it was sent to.
    pub endpoint: String,
    /// Status of the answer, where one came.
    pub status: Option<u16>,
    /// Bytes of the body.
    pub bytes: u64,
    /// From just before connecting to the last byte.
    pub latency: Duration,
    /// How it ended.
    pub class: OutcomeClass,
    /// Begin of the body, escaped and at most 200 bytes of it.
    pub body: String,
    /// What went wrong below HTTP, for people.
    pub error: Option<String>,
}

/// A prepared load: mix, endpoints and options. Each [`drive`](Self::drive) is one probe on a thread and connections of its own.
#[derive(Debug)]
pub struct Generator {
    setup: Arc<Setup>,
    /// The machines that drive the probes in this one's place, where the spec names any.
    fleet: Option<Fleet>,
    seed: u64,
    /// Probes driven so far: each has its own stream of the seed.
    probes: AtomicU64,
    /// Shortest median service time seen so far, milliseconds.
    unloaded_ms: Mutex<Option<f64>>,
}

impl Generator {
    /// Parses and resolves `base_urls` (used in turn), checks that each host is this machine, a private network or named in
    /// `spec.allow_remote` (invariant 8), and prepares the mix. The same `seed` gives the same arrivals, requests and variables, probe by probe.
    ///
    /// # Errors
    /// What is wrong with a URL, a request or the trust store; nothing has been sent then. Resolving a name may block briefly.
    pub fn prepare(spec: &LoadSpec, base_urls: &[String], seed: u64) -> Result<Self, LoadError> {
        if base_urls.is_empty() {
            return Err(LoadError::Request(
                "there is no base URL to send requests to".into(),
            ));
        }
        if spec.connections == 0 {
            return Err(LoadError::Request("`connections` must be at least 1".into()));
        }
        if spec.timeout < Duration::from_millis(1) {
            return Err(LoadError::Request("`timeout` must be at least 1ms".into()));
        }
        let endpoints = base_urls
            .iter()
            .map(|u| Endpoint::open(u, &spec.allow_remote))
            .collect::<Result<Vec<_>, _>>()?;
        let tls = match endpoints.iter().any(|e| e.tls) {
            true => Some(link::tls_connector()?),
            false => None,
        };
        Ok(Self {
            fleet: Fleet::open(spec, base_urls)?,
            setup: Arc::new(Setup {
                mix: Mix::prepare(spec, &endpoints)?,
                endpoints,
                tls,
                timeout: spec.timeout,
                connections: spec.connections,
                arrivals: spec.arrivals,
                cpu: spec.cpu,
                keep_alive: spec.keep_alive,
            }),
            seed,
            probes: AtomicU64::new(0),
            unloaded_ms: Mutex::new(None),
        })
    }

    /// Runs `plan.lead_in` and `plan.window` at `plan.rate`, then waits up to `plan.drain` until nothing is in flight. `watch` sees
    /// each finished bin of the window; `Break(reason)` ends the window there and gives up what was not sent yet.
    ///
    /// Cancel-safe: dropping the future stops the load at once and closes its connections.
    ///
    /// # Errors
    /// When the engine itself could not run. What the service did is in the measurement.
    pub async fn drive(
        &self,
        plan: &ProbePlan,
        watch: &mut (dyn FnMut(&Bin) -> ControlFlow<String> + Send),
    ) -> Result<Measurement, LoadError> {
        self.drive_logged(plan, watch, None).await
    }

    /// As [`drive`](Self::drive), and `log` is given the histograms of each second.
    ///
    /// # Errors
    /// As `drive`.
    pub async fn drive_logged(
        &self,
        plan: &ProbePlan,
        watch: &mut (dyn FnMut(&Bin) -> ControlFlow<String> + Send),
        mut log: Option<&mut (dyn FnMut(&Interval) + Send)>,
    ) -> Result<Measurement, LoadError> {
        let number = self.probes.fetch_add(1, Ordering::Relaxed);
        let seed = self.seed.wrapping_add(number);
        if let Some(fleet) = &self.fleet {
            let (mut measurement, first_ms) = fleet.drive(plan, seed, watch, log).await?;
            self.remember(&mut measurement, first_ms);
            return Ok(measurement);
        }
        let order = Order {
            rate: plan.rate,
            lead_in: plan.lead_in,
            window: plan.window,
            drain: plan.drain,
            seed,
            intervals: log.is_some(),
            bin_histograms: false,
            part: Part::WHOLE,
            start: None,
        };
        let stop = Arc::new(Stop::default());
        let mut stopping = false;
        let mut hear = |event| match event {
            Event::Bin(bin) if !stopping => {
                if let ControlFlow::Break(reason) = watch(&bin) {
                    stop.end_window(reason, None);
                    stopping = true;
                }
            }
            Event::Interval(interval) => {
                if let Some(log) = &mut log {
                    log(&interval);
                }
            }
            Event::Bin(_) | Event::Latency(..) | Event::Done(_) => {}
        };
        let mut done = self.run(order, Arc::clone(&stop), &mut hear).await?;
        self.remember(&mut done.measurement, done.first_ms);
        Ok(done.measurement)
    }

    /// Runs `order` on a thread of its own and tells `hear` what happens; dropped, it stops at once.
    async fn run(
        &self,
        order: Order,
        stop: Arc<Stop>,
        hear: &mut (dyn FnMut(Event) + Send),
    ) -> Result<Finished, LoadError> {
        raise_descriptors(self.setup.connections);
        let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
        let _guard = AbortOnDrop(Arc::clone(&stop));
        let setup = Arc::clone(&self.setup);
        std::thread::Builder::new()
            .name("autotune-load".into())
            .spawn(move || engine::run(setup, order, &stop, &sender))
            .map_err(LoadError::Engine)?;
        while let Some(event) = events.recv().await {
            match event {
                Event::Done(result) => return result.map(|finished| *finished),
                other => hear(other),
            }
        }
        Err(LoadError::Died)
    }

    /// Connects to each endpoint once, and asks each agent whether it would take part, so that what is not there is said before
    /// the first probe.
    ///
    /// # Errors
    /// [`LoadError::Unreachable`] with the endpoint and what the connection said, [`LoadError::Agent`] with an agent's refusal.
    pub async fn reach(&self) -> Result<(), LoadError> {
        let tls = self.setup.tls.as_ref().map(|t| &t.0);
        for endpoint in &self.setup.endpoints {
            let unreachable = |why: String| LoadError::Unreachable {
                endpoint: endpoint.name.clone(),
                why,
            };
            match tokio::time::timeout(REACH, Link::open(endpoint, tls)).await {
                Ok(Ok(_)) => {}
                Ok(Err(e)) => return Err(unreachable(e.why)),
                Err(_) => return Err(unreachable(format!("no connection within {} s", REACH.as_secs()))),
            }
        }
        match &self.fleet {
            Some(fleet) => fleet.check().await,
            None => Ok(()),
        }
    }

    /// Keeps the shortest service time seen: what the service takes while it has least to do.
    fn remember(&self, m: &mut Measurement, first_ms: Option<f64>) {
        let median = (m.good >= 20).then_some(m.service_ms.p50);
        let mut known = self.unloaded_ms.lock().unwrap_or_else(PoisonError::into_inner);
        *known = [*known, first_ms, median].into_iter().flatten().reduce(f64::min);
        m.generator.unloaded_service_ms = *known;
    }

    /// Sends every request of the mix `times` times to the endpoints in turn, one after the other with `gap` between, and reports
    /// what came back: a smoke test, not a measurement.
    ///
    /// # Errors
    /// None at present; a service that does not answer is in the rows.
    pub async fn sample(&self, times: u32, gap: Duration) -> Result<Vec<SampleRow>, LoadError> {
        let mix = &self.setup.mix;
        let mut picks = Picks::new(mix, self.seed);
        let mut rows = Vec::new();
        for kind in (0..times).flat_map(|_| 0..mix.len()) {
            if !rows.is_empty() {
                tokio::time::sleep(gap).await;
            }
            let pick = Pick {
                kind: u16::try_from(kind).unwrap_or(0),
                ..picks.next(mix)
            };
            rows.extend(
                self.sample_one(pick, rows.len() % self.setup.endpoints.len())
                    .await,
            );
        }
        Ok(rows)
    }

    async fn sample_one(&self, pick: Pick, at: usize) -> Option<SampleRow> {
        let endpoint = self.setup.endpoints.get(at)?;
        let request = self.setup.mix.request(pick, at)?;
        let expectation = self.setup.mix.expectation(pick)?;
        let begun = Instant::now();
        let mut row = SampleRow {
            request: usize::from(pick.kind),
            line: self.setup.mix.line(pick, at)?,
            endpoint: endpoint.name.clone(),
            status: None,
            bytes: 0,
            latency: Duration::ZERO,
            class: OutcomeClass::ClientTimeout,
            body: String::new(),
            error: None,
        };
        let tls = self.setup.tls.as_ref().map(|t| &t.0);
        let exchange = async {
            let mut link = match Link::open(endpoint, tls).await {
                Ok(link) => link,
                Err(e) => return (e.class, None, Err(e.why)),
            };
            match link.exchange(&request, expectation, true).await {
                Ok(a) => (a.class, Some(a.status), Ok((a.bytes, a.text))),
                Err(e) => (e.class, e.status, Err(e.why)),
            }
        };
        match tokio::time::timeout(self.setup.timeout, exchange).await {
            Err(_) => row.error = Some("no complete answer in time".into()),
            Ok((class, status, result)) => {
                (row.class, row.status) = (class, status);
                match result {
                    Ok((bytes, text)) => {
                        row.bytes = bytes;
                        row.body = shown_text(&text, SAMPLE_TEXT);
                    }
                    Err(why) => row.error = Some(why),
                }
            }
        }
        row.latency = begun.elapsed();
        Some(row)
    }
}

/// Stops the engine when the drive is dropped.
struct AbortOnDrop(Arc<Stop>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Raises the soft limit of open files towards the hard one where so many connections would not fit.
fn raise_descriptors(connections: u32) {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let now = getrlimit(Resource::Nofile);
        let wanted = u64::from(connections) + 256;
        if let Some(current) = now.current
            && current < wanted
        {
            let current = now.maximum.map_or(wanted, |most| most.min(wanted));
            // Refused: then connections fail as "no file descriptors", which is said.
            let _ = setrlimit(
                Resource::Nofile,
                Rlimit {
                    current: Some(current),
                    maximum: now.maximum,
                },
            );
        }
    }
    #[cfg(not(unix))]
    let _ = connections;
}

/// Bytes of an answer as one line for people: control characters escaped, bounded.
fn shown_text(bytes: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(bytes.get(..most.min(bytes.len())).unwrap_or_default());
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || c == char::REPLACEMENT_CHARACTER {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if classify::contains(bytes, b"\n") || bytes.len() > most {
        out.push('…');
    }
    out
}

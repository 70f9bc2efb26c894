//! A probe on all agents: agreed on, begun at one instant, followed while it runs, and merged.
//!
//! Each wait has a deadline. What goes wrong before anything is sent is an error; what goes wrong afterwards, an agent that dies,
//! falls silent or lags, makes the probe void and says whose fault it was. Dropping a drive closes the connections, and agents stop
//! when theirs closes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::time::timeout_at;

use super::client::{Address, AgentFault, Connection, Key, Lines, Trouble};
use super::merge::{Bins, PartDone, merge, merge_intervals};
use super::offset::{Exchange, Offset};
use super::wire::{self, Hello, Line, Load, Loaded, MOST_AGENTS, ProbeOrder, StopOrder, VERSION};
use crate::capacity::ProbePlan;
use crate::load::{Interval, LoadError};
use crate::measurement::{Bin, Measurement};
use crate::spec::{AgentsSpec, LoadSpec};
use crate::units::Rps;

/// Looks at a clock: at least, and at most where no round trip was short.
const LOOKS: (usize, usize) = (10, 40);
/// A round trip this short is short enough.
const SHORT_TRIP: u64 = 300_000;
/// From the last clock reading to the start; the second and third are for machines that were too slow for the first.
const RUN_UPS: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_millis(1_000),
    Duration::from_millis(4_000),
];
/// More run-up an agent: they are told one after the other's connection is up, at the same time.
const RUN_UP_EACH: Duration = Duration::from_millis(2);
/// An agent that has said nothing for so long is lost. It says something every half second.
const SILENCE: Duration = Duration::from_secs(4);
/// Beyond lead-in, window and drain.
const GRACE: Duration = Duration::from_secs(15);
/// From the decision to stop to the place of the schedule where all of them do.
const STOP_AHEAD: Duration = Duration::from_millis(250);
/// Longest wait for an agent to hear of a stop.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// The agents of a study, and the load that they are given.
pub struct Fleet {
    agents: Vec<Address>,
    key: Key,
    /// The load as it is sent.
    load: Bytes,
    digest: String,
    /// Counts nanoseconds of the own clock.
    epoch: Instant,
}

/// The load holds headers, which may be secrets.
impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet")
            .field("agents", &self.agents)
            .finish_non_exhaustive()
    }
}

/// An agent that would begin.
struct Ready {
    connection: Connection,
    offset: Offset,
    max_rate: Option<f64>,
}

/// What the readers tell.
type Heard = (usize, Result<Line, String>);

/// Ends the readers, and with them the connections, when the drive is over or dropped.
struct Readers(Vec<tokio::task::JoinHandle<()>>);

impl Drop for Readers {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Fleet {
    /// The fleet that `spec` names; None where it names no agents. Nothing is connected yet.
    pub(in crate::load) fn open(spec: &LoadSpec, urls: &[String]) -> Result<Option<Self>, LoadError> {
        let AgentsSpec { addresses, ca, .. } = &spec.agents;
        if addresses.is_empty() {
            return Ok(None);
        }
        if addresses.len() > MOST_AGENTS {
            return Err(LoadError::Request(format!(
                "at most {MOST_AGENTS} agents drive a probe"
            )));
        }
        let agents = addresses
            .iter()
            .map(|text| {
                Address::parse(text, ca.is_some())
                    .map_err(|why| LoadError::Request(format!("agent `{text}`: {why}")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        for (at, agent) in agents.iter().enumerate() {
            if agents[..at].contains(agent) {
                let why = format!("the agent {} is named twice", agent.name);
                return Err(LoadError::Request(why));
            }
        }
        let parts = u32::try_from(agents.len()).unwrap_or(1);
        let load = serde_json::to_vec(&Load::new(spec, urls, parts))
            .map_err(|e| LoadError::Request(format!("the load cannot be written down for agents: {e}")))?;
        let any_tls = agents.iter().any(Address::is_tls);
        Ok(Some(Self {
            key: Key::new(&spec.agents, any_tls)?,
            agents,
            digest: wire::digest(&load),
            load: Bytes::from(load),
            epoch: Instant::now(),
        }))
    }

    /// Asks every agent whether it would take part: there, of this version, with this token, and ready to send this load.
    ///
    /// # Errors
    /// What the first one says that would not.
    pub async fn check(&self) -> Result<(), LoadError> {
        self.ready().await.map(drop)
    }

    /// Runs `plan` on all agents. The probe's own `seed` fixes its arrivals and requests; `watch` and `log` see merged bins
    /// and seconds. With the shortest service time of the first answers, milliseconds.
    ///
    /// # Errors
    /// What keeps the agents from beginning; nothing was sent then.
    pub(in crate::load) async fn drive(
        &self,
        plan: &ProbePlan,
        seed: u64,
        watch: &mut (dyn FnMut(&Bin) -> ControlFlow<String> + Send),
        log: Option<&mut (dyn FnMut(&Interval) + Send)>,
    ) -> Result<(Measurement, Option<f64>), LoadError> {
        let intervals = log.is_some();
        let (lines, offsets, start) = match self.begin(plan, seed, intervals).await? {
            Begun::Running(lines, offsets, start) => (lines, offsets, start),
            Begun::TooMuch(why) => return Ok((void(plan, vec![why]), None)),
        };
        let (sender, heard) = mpsc::channel(4 * lines.len().max(8));
        let _readers = Readers(
            lines
                .into_iter()
                .enumerate()
                .map(|(at, lines)| tokio::spawn(read(at, lines, sender.clone())))
                .collect(),
        );
        drop(sender);
        let mut run = Run {
            fleet: self,
            plan,
            start,
            bins: Bins::new(plan.rate, wire::nanos(plan.window).max(1), self.agents.len()),
            seconds: BTreeMap::new(),
            next_second: 0,
            done: (0..self.agents.len()).map(|_| None).collect(),
            heard: vec![Instant::now(); self.agents.len()],
            stopping: false,
        };
        if let Err(why) = run.follow(heard, watch, log).await {
            return Ok((void(plan, vec![why]), None));
        }
        let later = self.look_again().await;
        let (bins, done) = (run.bins, run.done);
        let mut trouble = Vec::new();
        let mut parts = Vec::new();
        for (at, done) in done.into_iter().enumerate() {
            let name = self.name(at);
            let clock_error_ms = match (offsets.get(at), later.get(at)) {
                (Some(before), Some(Ok(after))) => millis(before.error_until(after)),
                (_, Some(Err(e))) => {
                    trouble.push(format!(
                        "agent {name}: its clock could not be read after the probe: {}",
                        e.why
                    ));
                    0.0
                }
                _ => 0.0,
            };
            if let Some((measurement, lag, first_ms)) = done {
                parts.push(PartDone {
                    agent: name,
                    measurement,
                    lag,
                    first_ms,
                    clock_error_ms,
                });
            }
        }
        let Some((mut measurement, first_ms)) = merge(plan.rate, &parts, &bins, plan.idle_ms) else {
            return Err(LoadError::Died);
        };
        measurement.generator.agent_trouble.extend(trouble);
        Ok((measurement, first_ms))
    }

    /// Gets all agents to begin at one instant. A machine that was too slow for the first start is given more time, twice.
    async fn begin(&self, plan: &ProbePlan, seed: u64, intervals: bool) -> Result<Begun, LoadError> {
        let mut slow = None;
        for run_up in RUN_UPS {
            let ready = self.ready().await?;
            if let Some(why) = self.too_much(plan.rate, &ready) {
                return Ok(Begun::TooMuch(why));
            }
            let each = RUN_UP_EACH * u32::try_from(ready.len()).unwrap_or(u32::MAX);
            let start = Instant::now() + run_up + each;
            let offsets: Vec<Offset> = ready.iter().map(|r| r.offset).collect();
            let own = wire::nanos(start.saturating_duration_since(self.epoch));
            let orders = ready.into_iter().enumerate().map(|(at, ready)| {
                let order = self.order(plan, seed, at, ready.offset.there(own), intervals);
                async move { (at, send(ready.connection, &order).await) }
            });
            let mut lines = Vec::new();
            let mut failed = None;
            for (at, begun) in join_all(orders).await {
                match begun {
                    Ok(l) => lines.push(l),
                    Err(trouble) => failed = failed.or(Some((at, trouble))),
                }
            }
            match failed {
                None => return Ok(Begun::Running(lines, offsets, start)),
                Some((at, trouble)) if trouble.late => slow = Some((at, trouble)),
                Some((at, trouble)) => return Err(self.trouble(at, trouble)),
            }
        }
        let (at, trouble) = slow.unwrap_or((0, Trouble::unavailable("it could not begin")));
        Err(self.trouble(at, trouble))
    }

    /// Connects to all, gives them the load where they have another, and reads their clocks, one after the other: they would
    /// disturb each other.
    async fn ready(&self) -> Result<Vec<Ready>, LoadError> {
        let met = try_join_all((0..self.agents.len()).map(|at| async move {
            let agent = &self.agents[at];
            self.meet(agent).await.map_err(|t| t.of(agent))
        }))
        .await?;
        let mut ready = Vec::with_capacity(met.len());
        for (at, (mut connection, hello)) in met.into_iter().enumerate() {
            let offset = self
                .look(&mut connection)
                .await
                .map_err(|t| self.trouble(at, t))?;
            ready.push(Ready {
                connection,
                offset,
                max_rate: hello.max_rate,
            });
        }
        Ok(ready)
    }

    async fn meet(&self, agent: &Address) -> Result<(Connection, Hello), Trouble> {
        let mut connection = Connection::open(agent, &self.key).await?;
        let hello: Hello = connection.ask("/hello", None).await?;
        if hello.version != VERSION {
            let why = format!(
                "it speaks version {} of the protocol (autotune {}), this side version {VERSION} (autotune {}): run the same autotune on both",
                hello.version,
                hello.tool,
                env!("CARGO_PKG_VERSION")
            );
            return Err(Trouble::new(AgentFault::Version, why));
        }
        if hello.loaded.as_deref() != Some(self.digest.as_str()) {
            let loaded: Loaded = connection.ask("/load", Some(self.load.clone())).await?;
            if loaded.load != self.digest {
                return Err(Trouble::unavailable("it keeps another load than it was given"));
            }
        }
        Ok((connection, hello))
    }

    /// Reads a clock until a round trip was short, or often enough.
    async fn look(&self, connection: &mut Connection) -> Result<Offset, Trouble> {
        let mut exchanges: Vec<Exchange> = Vec::with_capacity(LOOKS.1);
        while exchanges.len() < LOOKS.1 {
            exchanges.push(connection.clock(self.epoch).await?);
            if exchanges.len() >= LOOKS.0 && exchanges.iter().any(|e| e.took() <= SHORT_TRIP) {
                break;
            }
        }
        Offset::of(&exchanges).ok_or_else(|| Trouble::unavailable("its clock makes no sense"))
    }

    /// All clocks once more, after the probe.
    async fn look_again(&self) -> Vec<Result<Offset, Trouble>> {
        let opened = join_all(self.agents.iter().map(|a| Connection::open(a, &self.key))).await;
        let mut offsets = Vec::with_capacity(opened.len());
        for connection in opened {
            offsets.push(match connection {
                Ok(mut connection) => self.look(&mut connection).await,
                Err(trouble) => Err(trouble),
            });
        }
        offsets
    }

    /// Why an agent's share would be more than it sends, where it would.
    #[allow(clippy::cast_precision_loss)]
    fn too_much(&self, rate: Rps, ready: &[Ready]) -> Option<String> {
        let share = rate.get() / ready.len().max(1) as f64;
        ready.iter().enumerate().find_map(|(at, r)| {
            let most = r.max_rate.filter(|most| share > most * (1.0 + 1e-9))?;
            Some(format!(
                "agent {}: its share of {share:.0} rps is more than the {most:.0} rps that it was started for: add agents or raise its --max-rate",
                self.name(at)
            ))
        })
    }

    fn order(&self, plan: &ProbePlan, seed: u64, at: usize, start_ns: u64, intervals: bool) -> ProbeOrder {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        ProbeOrder {
            load: self.digest.clone(),
            index: number(at),
            of: number(self.agents.len()),
            seed,
            rate: plan.rate.get(),
            lead_in_ns: wire::nanos(plan.lead_in),
            window_ns: wire::nanos(plan.window),
            drain_ns: wire::nanos(plan.drain),
            start_ns,
            intervals,
        }
    }

    fn name(&self, at: usize) -> String {
        self.agents.get(at).map_or_else(String::new, |a| a.name.clone())
    }

    fn trouble(&self, at: usize, trouble: Trouble) -> LoadError {
        match self.agents.get(at) {
            Some(agent) => trouble.of(agent),
            None => LoadError::Died,
        }
    }
}

/// How a start ended.
enum Begun {
    /// All of them will begin at this instant.
    Running(Vec<Lines>, Vec<Offset>, Instant),
    /// The rate is more than they may send; nothing was ordered.
    TooMuch(String),
}

async fn send(connection: Connection, order: &ProbeOrder) -> Result<Lines, Trouble> {
    let body = serde_json::to_vec(order).map_err(|e| Trouble::unavailable(e.to_string()))?;
    connection.lines("/probe", Bytes::from(body)).await
}

/// Reads one agent's lines to the result or to what was lost.
async fn read(at: usize, mut lines: Lines, to: mpsc::Sender<Heard>) {
    // An agent's lines are bounded by the length of the probe.
    loop {
        let line = lines.next().await;
        let last = matches!(line, Err(_) | Ok(Line::Done(_) | Line::Failed(_)));
        // The other side is gone when the drive was dropped.
        if to.send((at, line)).await.is_err() || last {
            return;
        }
    }
}

/// A measurement of nothing that says why.
fn void(plan: &ProbePlan, trouble: Vec<String>) -> Measurement {
    let mut m = Measurement::empty(plan.rate, plan.window);
    m.generator.agent_trouble = trouble;
    m
}

#[allow(clippy::cast_precision_loss)]
fn millis(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// What a part told in the end: its measurement, its send lag, its first service time.
type Told = (Measurement, Histogram<u64>, Option<f64>);

/// A probe under way.
struct Run<'a> {
    fleet: &'a Fleet,
    plan: &'a ProbePlan,
    /// Of the lead-in.
    start: Instant,
    bins: Bins,
    /// Seconds that not all parts have told, by number.
    seconds: BTreeMap<u64, Vec<Interval>>,
    next_second: u64,
    done: Vec<Option<Told>>,
    /// When each was last heard of.
    heard: Vec<Instant>,
    stopping: bool,
}

impl Run<'_> {
    /// Follows the probe until all parts are done. The error says which agent was lost, and when.
    async fn follow(
        &mut self,
        mut heard: mpsc::Receiver<Heard>,
        watch: &mut (dyn FnMut(&Bin) -> ControlFlow<String> + Send),
        mut log: Option<&mut (dyn FnMut(&Interval) + Send)>,
    ) -> Result<(), String> {
        let last = self.start + self.plan.lead_in + self.plan.window + self.plan.drain + GRACE;
        // What is heard is bounded by the length of the probe, and so is silence.
        while self.done.iter().any(Option::is_none) {
            let quietest = self.quietest();
            let patience = self
                .heard
                .get(quietest)
                .map_or(last, |at| (*at).max(self.start) + SILENCE);
            let next = timeout_at(patience.min(last).into(), heard.recv()).await;
            let (at, line) = match next {
                Ok(Some(heard)) => heard,
                Ok(None) => return Err(self.lost(quietest, "the connection ended")),
                Err(_) if Instant::now() >= last => return Err(self.lost(quietest, "no result in time")),
                Err(_) => {
                    let why = format!("nothing was heard of it for {} s", SILENCE.as_secs());
                    return Err(self.lost(quietest, &why));
                }
            };
            if let Some(known) = self.heard.get_mut(at) {
                *known = Instant::now();
            }
            let line = line.map_err(|why| self.lost(at, &why))?;
            self.take(at, line, &mut log).map_err(|why| self.lost(at, &why))?;
            while let Some(bin) = self.bins.complete() {
                if self.stopping {
                    continue;
                }
                if let ControlFlow::Break(reason) = watch(&bin) {
                    self.stopping = true;
                    self.stop(reason);
                }
            }
        }
        Ok(())
    }

    /// Of those that are not done, the one that was heard of longest ago.
    fn quietest(&self) -> usize {
        let open = self
            .heard
            .iter()
            .enumerate()
            .filter(|(at, _)| self.done[*at].is_none());
        open.min_by_key(|(_, heard)| **heard).map_or(0, |(at, _)| at)
    }

    fn take(
        &mut self,
        at: usize,
        line: Line,
        log: &mut Option<&mut (dyn FnMut(&Interval) + Send)>,
    ) -> Result<(), String> {
        match line {
            Line::Beat => {}
            Line::Bin(bin) => self.bins.enter(&bin)?,
            Line::Interval(interval) => {
                let number = interval.start_ns / 1_000_000_000;
                let told = self.seconds.entry(number).or_default();
                told.push(interval.unpack()?);
                while let Some(told) = self.seconds.remove(&self.next_second) {
                    if told.len() < self.done.len() {
                        self.seconds.insert(self.next_second, told);
                        break;
                    }
                    self.next_second += 1;
                    if let (Some(log), Some(merged)) = (log.as_mut(), merge_intervals(told)) {
                        log(&merged);
                    }
                }
            }
            Line::Done(done) => {
                let first_ms = done.first_ms;
                let (measurement, lag) = done.unpack()?;
                if let Some(place) = self.done.get_mut(at) {
                    *place = Some((measurement, lag, first_ms));
                }
            }
            Line::Failed(why) => return Err(why),
        }
        Ok(())
    }

    /// Tells all agents to end the window at the same place of the schedule, a little ahead. An agent that does not hear it in
    /// time ends later than the others, which voids the probe.
    fn stop(&self, reason: String) {
        let into = Instant::now().saturating_duration_since(self.start + self.plan.lead_in);
        let Some(offset_ns) = self.bins.boundary_after(wire::nanos(into + STOP_AHEAD)) else {
            // The window is over by itself before that.
            return;
        };
        let order = StopOrder { offset_ns, reason };
        let Ok(body) = serde_json::to_vec(&order).map(Bytes::from) else {
            return;
        };
        for agent in &self.fleet.agents {
            let (agent, key, body) = (agent.clone(), self.fleet.key.clone(), body.clone());
            tokio::spawn(async move {
                let told = async {
                    let mut connection = Connection::open(&agent, &key).await?;
                    connection.ask::<serde_json::Value>("/stop", Some(body)).await
                };
                if let Ok(Err(e)) = tokio::time::timeout(STOP_WAIT, told).await {
                    tracing::debug!("agent {} did not hear the stop: {}", agent.name, e.why);
                }
            });
        }
    }

    /// What is said of an agent that was lost.
    fn lost(&self, at: usize, why: &str) -> String {
        let window = self.start + self.plan.lead_in;
        let now = Instant::now();
        let when = match now.checked_duration_since(window) {
            Some(into) if into <= self.plan.window => format!("{:.1} s into the window", into.as_secs_f64()),
            Some(_) => "after the window".to_owned(),
            None => "before the window".to_owned(),
        };
        format!("agent {}: {why} ({when})", self.fleet.name(at))
    }
}

//! What one probe measured: counts by outcome class, time bins, latency histograms, and how the generator
//! itself fared. Data only: `load` fills it, `slo` and `capacity` judge it, `report` prints it.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::units::Rps;

/// How one scheduled request ended. The names are the CSV's and the JSON's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeClass {
    /// The expected status, and the body check where one is asked.
    Good,
    /// A 2xx or 1xx that was not expected.
    UnexpectedStatus,
    /// 3xx that was not expected; redirects are not followed.
    Redirect,
    /// 4xx except 429.
    ClientError,
    /// 429: policy, not capacity.
    TooManyRequests,
    /// 5xx except 503.
    ServerError,
    /// 503.
    Unavailable,
    /// An error body that names an exhausted pool (`QueuePool limit of size` and the like), whatever its status.
    PoolTimeout,
    /// An error body that names a database without connections left (SQLSTATE 53300).
    TooManyClients,
    /// The expected status with a body that fails the check.
    BodyCheck,
    /// No complete answer within the client's timeout.
    ClientTimeout,
    /// Connection refused.
    ConnectRefused,
    /// No connection within the connect timeout.
    ConnectTimeout,
    /// Connection closed or reset before the first byte of the answer.
    ResetBeforeFirstByte,
    /// Connection closed or reset inside the answer.
    ResetInBody,
    /// Not HTTP, or beyond the bounds on headers and bodies.
    Malformed,
    /// Local: never sent, the backlog was full.
    Shed,
    /// Local: no free port (`EADDRNOTAVAIL`).
    NoPorts,
    /// Local: no file descriptor (`EMFILE`).
    NoFileDescriptors,
}

impl OutcomeClass {
    /// All, in the order of the CSV columns.
    pub const ALL: [Self; 19] = [
        Self::Good,
        Self::UnexpectedStatus,
        Self::Redirect,
        Self::ClientError,
        Self::TooManyRequests,
        Self::ServerError,
        Self::Unavailable,
        Self::PoolTimeout,
        Self::TooManyClients,
        Self::BodyCheck,
        Self::ClientTimeout,
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::ResetBeforeFirstByte,
        Self::ResetInBody,
        Self::Malformed,
        Self::Shed,
        Self::NoPorts,
        Self::NoFileDescriptors,
    ];

    /// The name in files: `pool_timeout`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::UnexpectedStatus => "unexpected_status",
            Self::Redirect => "redirect",
            Self::ClientError => "client_error",
            Self::TooManyRequests => "too_many_requests",
            Self::ServerError => "server_error",
            Self::Unavailable => "unavailable",
            Self::PoolTimeout => "pool_timeout",
            Self::TooManyClients => "too_many_clients",
            Self::BodyCheck => "body_check",
            Self::ClientTimeout => "client_timeout",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::ResetBeforeFirstByte => "reset_before_first_byte",
            Self::ResetInBody => "reset_in_body",
            Self::Malformed => "malformed",
            Self::Shed => "shed",
            Self::NoPorts => "no_ports",
            Self::NoFileDescriptors => "no_file_descriptors",
        }
    }

    /// The generator's own trouble, never the service's.
    #[must_use]
    pub fn is_local(self) -> bool {
        matches!(self, Self::Shed | Self::NoPorts | Self::NoFileDescriptors)
    }
}

/// One slice of the window, half a second wide unless the rate is very low. Stored as an array to keep the
/// journal small: 20,000 probes are read back for a report.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "BinRow", into = "BinRow")]
pub struct Bin {
    /// From the start of the window, seconds.
    pub start_s: f64,
    /// Width, seconds.
    pub width_s: f64,
    /// Arrivals that the schedule has in this bin.
    pub scheduled: u64,
    /// Of these, good by the end of the window (in a live bin: so far).
    pub scheduled_good: u64,
    /// Good answers that came within the bin, whenever they were scheduled.
    pub completed_good: u64,
    /// Answers and failures that were not good and ended within the bin.
    pub completed_bad: u64,
    /// Requests scheduled and not ended when the bin ended.
    pub in_flight_end: u64,
    /// Median latency of the good answers that came within the bin, milliseconds; 0 when none came.
    pub latency_ms_p50: f64,
    /// 95th percentile of the same.
    pub latency_ms_p95: f64,
}

type BinRow = (f64, f64, u64, u64, u64, u64, u64, f64, f64);

impl From<BinRow> for Bin {
    fn from(r: BinRow) -> Self {
        Self {
            start_s: r.0,
            width_s: r.1,
            scheduled: r.2,
            scheduled_good: r.3,
            completed_good: r.4,
            completed_bad: r.5,
            in_flight_end: r.6,
            latency_ms_p50: r.7,
            latency_ms_p95: r.8,
        }
    }
}

impl From<Bin> for BinRow {
    fn from(b: Bin) -> Self {
        let r = |x: f64| (x * 1e3).round() / 1e3;
        (
            r(b.start_s),
            r(b.width_s),
            b.scheduled,
            b.scheduled_good,
            b.completed_good,
            b.completed_bad,
            b.in_flight_end,
            r(b.latency_ms_p50),
            r(b.latency_ms_p95),
        )
    }
}

/// Quantiles of a latency histogram, milliseconds; all 0 when it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Quantiles {
    /// Arithmetic mean.
    #[serde(default)]
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Largest.
    pub max: f64,
}

impl Quantiles {
    /// Of a histogram of microseconds.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn of_micros(h: &Histogram<u64>) -> Self {
        if h.is_empty() {
            return Self::default();
        }
        let q = |p: f64| h.value_at_quantile(p) as f64 / 1e3;
        Self {
            mean: h.mean() / 1e3,
            p50: q(0.5),
            p90: q(0.9),
            p95: q(0.95),
            p99: q(0.99),
            p999: q(0.999),
            max: h.max() as f64 / 1e3,
        }
    }
}

/// How the generator fared: what decides whether the probe means anything.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GeneratorHealth {
    /// Actual minus scheduled send time of the requests that did not have to wait for a connection, milliseconds.
    pub send_lag_ms: Quantiles,
    /// Own CPU time over what the generator's thread may use, 0..=1.
    pub cpu_ratio: f64,
    /// Share of cgroup periods in which this process was throttled, 0..=1.
    pub throttled_ratio: f64,
    /// Connections opened during the window.
    pub connections_opened: u64,
    /// The cap on requests in flight was met.
    pub cap_reached: bool,
    /// Suspended or stopped during the window: boot time minus monotonic time advanced, seconds.
    pub suspended_s: f64,
    /// The client's request timeout, seconds; the lag limit depends on it.
    pub timeout_s: f64,
    /// Share of the window in which the generator's thread was ready to run and had to wait for a CPU, 0..=1.
    #[serde(default)]
    pub cpu_wait_ratio: f64,
    /// CPU time of the generator's thread over the window, seconds.
    #[serde(default)]
    pub cpu_s: f64,
    /// Requests sent again because the server had closed their idle connection.
    #[serde(default)]
    pub retried: u64,
    /// Service time while there was least to do, milliseconds, of this probe or an earlier one; None when it is not known.
    #[serde(default)]
    pub unloaded_service_ms: Option<f64>,
    /// Most connections.
    #[serde(default)]
    pub connections: u32,
    /// Each generator's part, where several drove the probe together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<AgentPart>,
    /// What was wrong with one of several generators, its name first. Any of these voids the probe.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agent_trouble: Vec<String>,
}

/// How one of several generators fared.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct AgentPart {
    /// Its address, as the space file has it.
    pub agent: String,
    /// Arrivals of its part of the schedule within the window.
    pub scheduled: u64,
    /// Of these, sent by its end.
    pub sent: u64,
    /// How far its clock may have been from the controller's at any time of the probe, milliseconds: half of the shortest round
    /// trip, and by how much the offset had moved afterwards.
    pub clock_error_ms: f64,
    /// 99th percentile of its send lag, milliseconds.
    pub send_lag_ms_p99: f64,
    /// CPU time of its thread over what that may use, 0..=1.
    pub cpu_ratio: f64,
}

/// Largest share of arrivals that the generator may shed.
const SHED_LIMIT: f64 = 0.005;
/// Largest share of what it may use that the generator's thread may be busy, or waiting for a CPU.
const BUSY_LIMIT: f64 = 0.8;
/// Largest share of the time that the generator's thread may wait for a CPU, however little it uses: beyond it, requests leave when
/// others let them.
const WAIT_LIMIT: f64 = 0.5;
/// Largest share of throttled periods: one in a window of 30 s is not what decides.
const THROTTLED_LIMIT: f64 = 0.01;
/// Smallest send lag that counts, milliseconds.
const LAG_FLOOR_MS: f64 = 1.0;
/// The same as a share of the client's timeout.
const LAG_SHARE: f64 = 0.02;
/// A service is taken as idle while its service time is below this times the unloaded one.
const IDLE_FACTOR: f64 = 1.5;

/// Why the generator, and not the service, limited this probe; empty when it did not. A probe with a reason is
/// [`Void`](crate::slo::Verdict::Void): it says "capacity at least", never a capacity. The rules are those that
/// load generators are judged by in docs/load.md.
///
/// `idle_service_ms` is the service time without load where the caller knows it; else what the generator itself has seen counts.
/// Connections that are all busy with slow answers are the service pushing back; busy with fast ones they are too few.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn generator_verdict(m: &Measurement, idle_service_ms: Option<f64>) -> Vec<String> {
    let g = &m.generator;
    let mut reasons = Vec::new();
    if !g.agent_trouble.is_empty() {
        // Each generator was judged by these rules on its own part.
        return g.agent_trouble.clone();
    }
    if m.scheduled == 0 {
        return vec!["no request was due in the window: make it longer or the rate higher".into()];
    }
    let lag_limit = LAG_FLOOR_MS.max(g.timeout_s * 1e3 * LAG_SHARE);
    if g.send_lag_ms.p99 > lag_limit {
        reasons.push(format!(
            "requests left up to {:.1} ms late (p99; limit {lag_limit:.0} ms)",
            g.send_lag_ms.p99
        ));
    }
    if g.cpu_ratio > BUSY_LIMIT {
        reasons.push(format!(
            "the generator's thread was busy {:.0} % of the time",
            g.cpu_ratio * 100.0
        ));
    } else if g.cpu_wait_ratio > WAIT_LIMIT || g.cpu_ratio + g.cpu_wait_ratio > BUSY_LIMIT {
        reasons.push(format!(
            "the generator's thread waited for a CPU {:.0} % of the time",
            g.cpu_wait_ratio * 100.0
        ));
    }
    if g.throttled_ratio > THROTTLED_LIMIT {
        reasons.push(format!(
            "its control group was throttled in {:.0} % of the periods",
            g.throttled_ratio * 100.0
        ));
    }
    if g.suspended_s > 0.0 {
        reasons.push(format!("the machine slept {:.1} s", g.suspended_s));
    }
    let ports = m.count(OutcomeClass::NoPorts);
    if ports > 0 {
        reasons.push(format!(
            "{ports} connections found no free local port: use keep-alive or a lower rate"
        ));
    }
    let files = m.count(OutcomeClass::NoFileDescriptors);
    if files > 0 {
        reasons.push(format!(
            "{files} connections found no free file descriptor: raise `ulimit -n`"
        ));
    }
    let shed = m.count(OutcomeClass::Shed) as f64 / m.scheduled as f64;
    if (shed > SHED_LIMIT || g.cap_reached && most_waited(m)) && !service_pushes_back(m, idle_service_ms) {
        let never = match shed > SHED_LIMIT {
            true => format!(", and {:.1} % of the arrivals were never sent", shed * 100.0),
            false => String::new(),
        };
        reasons.push(format!(
            "all {} connections were in use while the service answered as when idle{never}: raise `connections`",
            g.connections
        ));
    }
    reasons
}

/// Whether half of the answers had waited for a connection as long as the service itself took, or longer.
fn most_waited(m: &Measurement) -> bool {
    m.latency_ms.p50 > m.service_ms.p50 * IDLE_FACTOR + LAG_FLOOR_MS
}

/// Whether busy connections are the service's doing. Without the idle service time, a queue shows in the spread of
/// service times, and an overloaded service in what is not good.
#[allow(clippy::cast_precision_loss)]
fn service_pushes_back(m: &Measurement, idle_service_ms: Option<f64>) -> bool {
    let bad: u64 = m
        .errors
        .iter()
        .filter(|(c, _)| !c.is_local())
        .map(|(_, n)| n)
        .sum();
    if m.good == 0 || bad as f64 > 0.05 * m.scheduled as f64 {
        return true;
    }
    match idle_service_ms.or(m.generator.unloaded_service_ms) {
        Some(idle) if idle > 0.0 => m.service_ms.p50 > IDLE_FACTOR * idle,
        _ => m.service_ms.p95 > 3.0 * m.service_ms.p50.max(0.01),
    }
}

/// Full-resolution histograms, microseconds, kept beside the summary in the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Histograms {
    /// From the scheduled time to the last body byte, good answers.
    pub latency: Histogram<u64>,
    /// From the actual send, good answers.
    pub service: Histogram<u64>,
    /// From the scheduled time, by class of what was not good.
    pub by_class: BTreeMap<OutcomeClass, Histogram<u64>>,
}

impl Histograms {
    /// Adds `other`, of another part of the same probe, without loss. Bounds grow where they must.
    pub fn merge(&mut self, other: &Self) {
        let sum = |into: &mut Histogram<u64>, from: &Histogram<u64>| {
            into.auto(true);
            // With resizing allowed, only a histogram that memory cannot hold fails; the bounds in use fit.
            let _ = into.add(from);
        };
        sum(&mut self.latency, &other.latency);
        sum(&mut self.service, &other.service);
        for (class, h) in &other.by_class {
            match self.by_class.get_mut(class) {
                Some(into) => sum(into, h),
                None => drop(self.by_class.insert(*class, h.clone())),
            }
        }
    }
}

/// The result of one offered rate held for a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The rate of the schedule.
    pub offered: Rps,
    /// The measured window as it was run, seconds (shorter than planned when a watch ended it).
    pub window_s: f64,
    /// Arrivals of the schedule within the window.
    pub scheduled: u64,
    /// Requests written to a connection, by the end of the window.
    pub sent: u64,
    /// Good answers by the end of the window.
    pub good: u64,
    /// What was not good, by class, by the end of the window.
    pub errors: BTreeMap<OutcomeClass, u64>,
    /// Scheduled in the window and not ended at its end (queued ones included).
    pub in_flight_end: u64,
    /// Of these, still not ended after the drain.
    pub in_flight_after_drain: u64,
    /// Answers by HTTP status.
    pub statuses: BTreeMap<u16, u64>,
    /// Quantiles from the scheduled time, good answers.
    pub latency_ms: Quantiles,
    /// Quantiles from the actual send, good answers.
    pub service_ms: Quantiles,
    /// Quantiles from the scheduled time of what was not good (timeouts included).
    pub error_latency_ms: Quantiles,
    /// Time slices in order.
    pub bins: Vec<Bin>,
    /// The generator's own health.
    pub generator: GeneratorHealth,
    /// How long the drain took until nothing was in flight, seconds; None when it did not get there.
    pub drained_s: Option<f64>,
    /// Endpoint -> requests answered, where there are several.
    #[serde(default)]
    pub by_endpoint: BTreeMap<String, u64>,
    /// Why the window ended early, where it did.
    #[serde(default)]
    pub stopped_early: Option<String>,
    /// Full histograms; journalled apart.
    #[serde(skip)]
    pub histograms: Option<Box<Histograms>>,
}

impl Measurement {
    /// A measurement of `offered` over `window` with everything else empty; for builders and tests.
    #[must_use]
    pub fn empty(offered: Rps, window: Duration) -> Self {
        Self {
            offered,
            window_s: window.as_secs_f64(),
            scheduled: 0,
            sent: 0,
            good: 0,
            errors: BTreeMap::new(),
            in_flight_end: 0,
            in_flight_after_drain: 0,
            statuses: BTreeMap::new(),
            latency_ms: Quantiles::default(),
            service_ms: Quantiles::default(),
            error_latency_ms: Quantiles::default(),
            bins: Vec::new(),
            generator: GeneratorHealth::default(),
            drained_s: None,
            by_endpoint: BTreeMap::new(),
            stopped_early: None,
            histograms: None,
        }
    }

    /// Goodput loss: 1 - good / scheduled. What is in flight at the end of the window is not good.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn loss(&self) -> f64 {
        if self.scheduled == 0 {
            return 1.0;
        }
        (1.0 - self.good as f64 / self.scheduled as f64).max(0.0)
    }

    /// Good answers per second of the window.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn goodput_rps(&self) -> f64 {
        if self.window_s > 0.0 {
            self.good as f64 / self.window_s
        } else {
            0.0
        }
    }

    /// Requests per second that were really sent.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn achieved_rps(&self) -> f64 {
        if self.window_s > 0.0 {
            self.sent as f64 / self.window_s
        } else {
            0.0
        }
    }

    /// Share of *error responses* among answers: what other tools judge, and what hides a full pool.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn error_response_ratio(&self) -> f64 {
        let bad: u64 = self
            .errors
            .iter()
            .filter(|(c, _)| !c.is_local())
            .map(|(_, n)| n)
            .sum();
        let all = bad + self.good;
        if all == 0 { 0.0 } else { bad as f64 / all as f64 }
    }

    /// Count of one class.
    #[must_use]
    pub fn count(&self, class: OutcomeClass) -> u64 {
        if class == OutcomeClass::Good {
            return self.good;
        }
        self.errors.get(&class).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Measurement {
        let mut m = Measurement::empty(Rps::saturating(100.0), Duration::from_secs(10));
        m.scheduled = 1_000;
        m.good = 1_000;
        m.generator.timeout_s = 10.0;
        m.generator.connections = 5;
        m.generator.send_lag_ms.p99 = 0.2;
        m.service_ms = Quantiles {
            p50: 10.0,
            p95: 12.0,
            ..Quantiles::default()
        };
        m.latency_ms = m.service_ms;
        m
    }

    #[test]
    fn a_healthy_generator_has_no_reason() {
        assert_eq!(generator_verdict(&healthy(), None), Vec::<String>::new());
    }

    /// Each rule on its own voids a probe, just above its limit and not just below.
    #[test]
    fn every_rule_voids_alone() {
        type Change = fn(&mut Measurement, bool);
        let rules: [(&str, Change); 10] = [
            ("late", |m, bad| {
                m.generator.send_lag_ms.p99 = if bad { 201.0 } else { 199.0 }
            }),
            ("never sent", |m, bad| {
                m.errors.insert(OutcomeClass::Shed, if bad { 6 } else { 5 });
            }),
            ("busy", |m, bad| {
                m.generator.cpu_ratio = if bad { 0.81 } else { 0.79 }
            }),
            ("waited", |m, bad| {
                m.generator.cpu_ratio = 0.4;
                m.generator.cpu_wait_ratio = if bad { 0.41 } else { 0.39 };
            }),
            ("waited", |m, bad| {
                m.generator.cpu_ratio = 0.1;
                m.generator.cpu_wait_ratio = if bad { 0.51 } else { 0.49 };
            }),
            ("throttled", |m, bad| {
                m.generator.throttled_ratio = if bad { 0.02 } else { 0.005 }
            }),
            ("slept", |m, bad| {
                m.generator.suspended_s = if bad { 1.0 } else { 0.0 }
            }),
            ("port", |m, bad| {
                m.errors.insert(OutcomeClass::NoPorts, u64::from(bad));
            }),
            ("descriptor", |m, bad| {
                m.errors.insert(OutcomeClass::NoFileDescriptors, u64::from(bad));
            }),
            ("connections", |m, bad| {
                m.generator.cap_reached = true;
                m.generator.unloaded_service_ms = Some(10.0);
                m.service_ms.p50 = if bad { 11.0 } else { 16.0 };
                m.latency_ms.p50 = 100.0;
            }),
        ];
        for (word, change) in rules {
            let (mut bad, mut fine) = (healthy(), healthy());
            change(&mut bad, true);
            change(&mut fine, false);
            let reasons = generator_verdict(&bad, None);
            assert!(
                reasons.len() == 1 && reasons[0].contains(word),
                "{word}: {reasons:?}"
            );
            assert_eq!(generator_verdict(&fine, None), Vec::<String>::new(), "{word}");
        }
    }

    #[test]
    fn trouble_of_one_of_several_generators_voids_and_says_whose() {
        let mut m = healthy();
        m.generator.agent_trouble = vec!["agent b:1: the connection was lost".into()];
        assert_eq!(generator_verdict(&m, None), m.generator.agent_trouble);
        m.scheduled = 0;
        assert_eq!(generator_verdict(&m, None), m.generator.agent_trouble);
    }

    #[test]
    fn a_short_timeout_tightens_the_lag_limit_down_to_a_millisecond() {
        let mut m = healthy();
        m.generator.timeout_s = 0.02;
        m.generator.send_lag_ms.p99 = 1.1;
        assert_eq!(generator_verdict(&m, None).len(), 1);
    }

    #[test]
    fn slow_answers_on_all_connections_are_the_service_pushing_back() {
        let mut m = healthy();
        m.generator.cap_reached = true;
        m.latency_ms.p50 = 100.0;
        assert_eq!(generator_verdict(&m, Some(10.0)).len(), 1);
        assert!(
            generator_verdict(&m, Some(5.0)).is_empty(),
            "twice the idle service time"
        );
        m.errors.insert(OutcomeClass::ServerError, 51);
        assert!(generator_verdict(&m, Some(10.0)).is_empty(), "failing answers");
    }
}

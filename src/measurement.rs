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

/// Why this measurement says nothing about the service: each line is a limit of the generator. Empty: it was healthy.
///
/// The limits: send lag p99 over max(1 ms, 2 % of the client timeout); more than 0.5 % of arrivals shed; own CPU over
/// 80 % of what it may use, or throttled; no free ports or file descriptors; the cap on requests in flight met while
/// the service is idle; suspended. `idle_service_ms` is the service time without load, where it is known: connections
/// that are all busy with slow answers are the service pushing back, busy with fast ones they are too few.
#[must_use]
pub fn generator_verdict(m: &Measurement, idle_service_ms: Option<f64>) -> Vec<String> {
    let g = &m.generator;
    let mut why = Vec::new();
    let lag_limit = (g.timeout_s * 1e3 * 0.02).max(1.0);
    if g.send_lag_ms.p99 > lag_limit {
        why.push(format!(
            "send lag p99 {:.1} ms over {lag_limit:.1} ms",
            g.send_lag_ms.p99
        ));
    }
    if g.cpu_ratio > 0.80 {
        why.push(format!(
            "the generator used {:.0} % of its CPU",
            g.cpu_ratio * 100.0
        ));
    }
    if g.throttled_ratio > 0.05 {
        why.push(format!(
            "the generator was throttled in {:.0} % of periods",
            g.throttled_ratio * 100.0
        ));
    }
    if g.suspended_s > 0.1 {
        why.push(format!("the machine was suspended for {:.1} s", g.suspended_s));
    }
    for (class, what) in [
        (OutcomeClass::NoPorts, "no free local port (EADDRNOTAVAIL)"),
        (
            OutcomeClass::NoFileDescriptors,
            "no file descriptor left (EMFILE): raise ulimit -n",
        ),
    ] {
        if m.count(class) > 0 {
            why.push(format!("{what}, {} times", m.count(class)));
        }
    }
    if !service_pushes_back(m, idle_service_ms) {
        let shed = m.count(OutcomeClass::Shed);
        if shed as f64 > 0.005 * m.scheduled as f64 {
            let share = 100.0 * shed as f64 / m.scheduled.max(1) as f64;
            why.push(format!(
                "{share:.1} % of arrivals were never sent: too few connections"
            ));
        } else if g.cap_reached {
            why.push(
                "all connections were busy while the service answered as when idle: raise connections".into(),
            );
        }
    }
    why
}

/// Whether busy connections are the service's doing. Without the idle service time, a queue shows in the spread of
/// service times, and an overloaded service in what is not good.
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
    match idle_service_ms {
        Some(idle) if idle > 0.0 => m.service_ms.p50 > 1.5 * idle,
        _ => m.service_ms.p95 > 3.0 * m.service_ms.p50.max(0.01),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Spoil = fn(&mut Measurement);

    fn healthy() -> Measurement {
        let mut m = Measurement::empty(Rps::saturating(100.0), Duration::from_secs(10));
        m.scheduled = 1000;
        m.sent = 1000;
        m.good = 1000;
        m.generator.timeout_s = 10.0;
        m.service_ms = Quantiles {
            p50: 10.0,
            p95: 12.0,
            ..Quantiles::default()
        };
        m
    }

    #[test]
    fn each_limit_of_the_generator_is_named() {
        assert!(generator_verdict(&healthy(), Some(10.0)).is_empty());
        let cases: [(&str, Spoil); 6] = [
            ("send lag", |m| m.generator.send_lag_ms.p99 = 201.0),
            ("of its CPU", |m| m.generator.cpu_ratio = 0.9),
            ("throttled", |m| m.generator.throttled_ratio = 0.2),
            ("suspended", |m| m.generator.suspended_s = 2.0),
            ("EMFILE", |m| {
                m.errors.insert(OutcomeClass::NoFileDescriptors, 1);
            }),
            ("never sent", |m| {
                m.errors.insert(OutcomeClass::Shed, 6);
            }),
        ];
        for (word, spoil) in cases {
            let mut m = healthy();
            spoil(&mut m);
            let why = generator_verdict(&m, Some(10.0));
            assert!(why.len() == 1 && why[0].contains(word), "{word}: {why:?}");
        }
    }

    #[test]
    fn a_slow_service_that_holds_all_connections_is_not_the_generators_limit() {
        let mut m = healthy();
        m.generator.cap_reached = true;
        assert_eq!(generator_verdict(&m, Some(10.0)).len(), 1);
        assert!(generator_verdict(&m, Some(5.0)).is_empty());
    }
}

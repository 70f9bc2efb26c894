//! What the diagnosis looks at, and the few readings of it that several causes share.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::measurement::{Measurement, OutcomeClass};
use crate::slo::Verdict;
use crate::space::{Config, Domain, Parameter, Value};
use crate::spec::StudySpec;
use crate::trial::{Failure, Probe};

use super::knob::{Knob, KnobKind};

/// The evidence of one trial.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// In the order they were run, each with its telemetry.
    pub probes: &'a [Probe],
    /// What is known without measuring.
    pub facts: &'a Facts,
}

/// What the space file and the config say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// How long a request waits for a connection of the pool, seconds.
    pub pool_timeout_s: Option<f64>,
    /// Connections that the whole service may have: (size + overflow) x workers x replicas.
    pub pool_total: Option<f64>,
    /// CPUs of the database's machine; the host's where it is not known to be elsewhere.
    pub database_cores: Option<f64>,
    /// The database is on another machine: this host's CPU says nothing about it.
    #[serde(default)]
    pub database_elsewhere: bool,
    /// The objective's largest goodput loss, 0..=1.
    pub slo_errors: f64,
    /// What can be moved, with today's value.
    pub knobs: Vec<Knob>,
    /// How the trial failed, where it did.
    pub failure: Option<Failure>,
}

impl Facts {
    /// Of a config of a study. Pool figures come from the tuned parameters, or from the fixed environment of the file.
    #[must_use]
    pub fn of(spec: &StudySpec, config: &Config) -> Self {
        let knobs: Vec<Knob> = spec
            .space
            .parameters
            .iter()
            .map(|p| Knob {
                name: p.name.clone(),
                kind: KnobKind::of(p),
                value: config.get(&p.name).map(ToString::to_string),
                no_room_up: no_room(spec, config, p, true),
                no_room_down: no_room(spec, config, p, false),
            })
            .collect();
        let mut values: BTreeMap<KnobKind, f64> = BTreeMap::new();
        for (name, value) in spec.sut.iter().flat_map(|s| &s.env) {
            if let Ok(v) = value.expose().parse::<f64>() {
                values.insert(KnobKind::of_name(name), v);
            }
        }
        for k in &knobs {
            if let Some(v) = k.value.as_deref().and_then(|v| v.parse::<f64>().ok()) {
                values.insert(k.kind, v);
            }
        }
        let get = |k: KnobKind| values.get(&k).copied();
        let pool_total = get(KnobKind::Pool).map(|size| {
            (size + get(KnobKind::Overflow).unwrap_or(0.0))
                * get(KnobKind::Workers).unwrap_or(1.0)
                * get(KnobKind::Replicas).unwrap_or(1.0)
        });
        Self {
            pool_timeout_s: get(KnobKind::PoolTimeout),
            pool_total,
            database_cores: None,
            database_elsewhere: spec
                .telemetry
                .postgres
                .as_ref()
                .is_some_and(|url| is_elsewhere(url.expose())),
            slo_errors: spec.slo.errors.get(),
            knobs,
            failure: None,
        }
    }
}

/// Why `p` can't be moved one step from `config`: the end of its range, or a constraint; None where it can, or where it is
/// no number.
fn no_room(spec: &StudySpec, config: &Config, p: &Parameter, up: bool) -> Option<String> {
    let now = config.get(&p.name)?;
    let (low, high, step) = match &p.domain {
        Domain::Int { low, high, step, .. } => (*low as f64, *high as f64, *step as f64),
        Domain::Float { low, high, step, .. } => (*low, *high, step.unwrap_or((high - low) / 20.0)),
        Domain::Choice { .. } => return None,
    };
    let is = now.as_f64()?;
    let next = if up { is + step } else { is - step };
    if next > high + 1e-9 || next < low - 1e-9 {
        return Some(format!("its range ends at {now}"));
    }
    let mut moved = config.clone();
    moved.set(
        &p.name,
        match &p.domain {
            #[allow(clippy::cast_possible_truncation)] // within the range of an i64
            Domain::Int { .. } => Value::Int(next.round() as i64),
            _ => Value::Float(next),
        },
    );
    spec.space.violation(&moved)
}

/// Whether the host of a database URL is another machine: neither loopback, nor a socket, nor one of Docker's own
/// networks (172.16.0.0/12), nor a bare name, which only a network of containers resolves.
fn is_elsewhere(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, r)| r);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
    if host.starts_with('[') {
        return !host.starts_with("[::1]");
    }
    let host = host.split(':').next().unwrap_or_default();
    match host.parse::<std::net::Ipv4Addr>() {
        Ok(ip) => {
            let [a, b, ..] = ip.octets();
            !(ip.is_loopback() || a == 172 && (16..32).contains(&b))
        }
        Err(_) => host.contains('.') && !host.ends_with(".localhost"),
    }
}

/// Shared readings of the evidence.
pub(super) struct Reading<'a> {
    pub(super) f: &'a Facts,
    /// Probes that say something about the service: neither Void nor empty.
    pub(super) valid: Vec<&'a Probe>,
    /// Void probes.
    pub(super) void: Vec<&'a Probe>,
    /// The lowest rate that was not carried.
    pub(super) at_limit: Option<&'a Probe>,
    /// Every probe that was not carried.
    pub(super) failing: Vec<&'a Probe>,
    /// The lowest rate of all.
    pub(super) idle: Option<&'a Probe>,
}

impl<'a> Reading<'a> {
    pub(super) fn of(e: &Evidence<'a>) -> Self {
        let rate = |p: &&Probe| p.measurement.offered.get();
        let (void, valid): (Vec<&Probe>, Vec<&Probe>) =
            e.probes.iter().partition(|p| p.verdict == Verdict::Void);
        let valid: Vec<&Probe> = valid
            .into_iter()
            .filter(|p| p.measurement.scheduled > 0)
            .collect();
        let failing: Vec<&Probe> = valid
            .iter()
            .copied()
            .filter(|p| p.verdict == Verdict::Violates)
            .collect();
        Self {
            f: e.facts,
            at_limit: failing.iter().copied().min_by(|a, b| rate(a).total_cmp(&rate(b))),
            idle: valid.iter().copied().min_by(|a, b| rate(a).total_cmp(&rate(b))),
            failing,
            valid,
            void,
        }
    }

    /// A figure at the limit; where that probe has none, the largest of the failing probes.
    pub(super) fn figure(&self, name: &str) -> Option<f64> {
        let told = |p: &&Probe| p.telemetry.get(name).copied().filter(|v| v.is_finite());
        self.at_limit
            .as_ref()
            .and_then(told)
            .or_else(|| self.failing.iter().filter_map(told).reduce(f64::max))
    }

    /// A figure at the lowest rate that has it, where that lies well below the limit.
    pub(super) fn at_lowest(&self, name: &str) -> Option<f64> {
        let limit = self.at_limit?.measurement.offered.get();
        self.valid
            .iter()
            .filter(|p| p.measurement.offered.get() <= limit / 2.0)
            .filter_map(|p| {
                let v = p.telemetry.get(name).copied().filter(|v| v.is_finite())?;
                Some((p.measurement.offered.get(), v))
            })
            .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)))
            .map(|(_, v)| v)
    }

    /// The largest of all probes, of things that count however early they happened.
    pub(super) fn any(&self, name: &str) -> f64 {
        let all = self.valid.iter().chain(&self.void);
        all.filter_map(|p| p.telemetry.get(name).copied())
            .filter(|v| v.is_finite())
            .fold(0.0, f64::max)
    }

    /// CPU used over the quota; None without a quota.
    pub(super) fn quota_used(&self) -> Option<f64> {
        let limit = self.figure("cpu_limit").filter(|l| *l > 0.0)?;
        Some(self.figure("cpu_used")? / limit)
    }

    /// Share of `classes` among everything that was not good in the failing probes.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn share_of_bad(&self, classes: &[OutcomeClass]) -> f64 {
        let mut of = 0;
        let mut all = 0;
        for m in self.failing.iter().map(|p| &p.measurement) {
            for (class, n) in m.errors.iter().filter(|(c, _)| !c.is_local()) {
                all += n;
                of += if classes.contains(class) { *n } else { 0 };
            }
        }
        if all == 0 { 0.0 } else { of as f64 / all as f64 }
    }

    /// How many of `classes` in the failing probes.
    pub(super) fn count(&self, classes: &[OutcomeClass]) -> u64 {
        self.failing
            .iter()
            .flat_map(|p| classes.iter().map(|c| p.measurement.count(*c)))
            .sum()
    }

    /// Median of the good answers at the limit over that at the lowest rate; 1 where either is missing.
    pub(super) fn slowdown(&self) -> f64 {
        let (Some(limit), Some(idle)) = (self.at_limit, self.idle) else {
            return 1.0;
        };
        let (a, b) = (limit.measurement.latency_ms.p50, idle.measurement.latency_ms.p50);
        if a > 0.0 && b > 0.0 { a / b } else { 1.0 }
    }

    /// Goodput at the lowest and highest failing rates: `(rates' ratio, goodputs' ratio)`; None with one rate.
    pub(super) fn goodput_over_rates(&self) -> Option<(f64, f64)> {
        let rate = |p: &&Probe| p.measurement.offered.get();
        let low = self
            .failing
            .iter()
            .copied()
            .min_by(|a, b| rate(a).total_cmp(&rate(b)))?;
        let high = self
            .failing
            .iter()
            .copied()
            .max_by(|a, b| rate(a).total_cmp(&rate(b)))?;
        let (a, b) = (low.measurement.goodput_rps(), high.measurement.goodput_rps());
        let ratio = rate(&high) / rate(&low);
        (ratio > 1.0 && a > 0.0).then_some((ratio, b / a))
    }

    /// Others fill the machine while the service has next to nothing to do: what looks like a full pool may be a service
    /// that does not get the CPU it may use.
    pub(super) fn starved(&self) -> bool {
        let unthrottled = self.figure("throttled_ratio").is_none_or(|t| t < 0.05);
        let kept_waiting = self.figure("thread_cpu_wait_max").is_some_and(|w| w >= 0.3) && unthrottled;
        kept_waiting || self.at_lowest("host_cpu_ratio").is_some_and(|h| h >= 0.85)
    }

    /// CPU was looked at: without it no other cause can be sure of itself.
    pub(super) fn knows_cpu(&self) -> bool {
        self.figure("cpu_used").is_some()
    }

    /// The service's CPU is well below what it may use.
    pub(super) fn cpu_is_idle(&self) -> bool {
        let quota = self.quota_used().is_none_or(|u| u < 0.7);
        let core = self.figure("process_cpu_max").is_none_or(|c| c < 0.7);
        self.knows_cpu() && quota && core
    }

    /// A line for "not known".
    pub(super) fn describe(&self) -> String {
        let Some(p) = self.at_limit else {
            return match self.f.failure {
                Some(failure) => format!("the trial failed ({}) and left no probe", failure.name()),
                None => "there is no probe at the limit".to_owned(),
            };
        };
        let m = &p.measurement;
        let worst = m.errors.iter().max_by_key(|(_, n)| **n);
        let worst = worst.map_or_else(|| "no errors".to_owned(), |(c, n)| format!("{n} {}", c.name()));
        format!(
            "at {} {:.0} % lost ({worst}), median {:.0} ms, p95 {:.0} ms",
            m.offered,
            m.loss() * 100.0,
            m.latency_ms.p50,
            m.latency_ms.p95
        )
    }
}

/// Answers of a measurement: what ended with an HTTP status or a broken connection.
pub(super) fn answered(m: &Measurement) -> u64 {
    m.good
        + m.errors
            .iter()
            .filter(|(c, _)| !c.is_local())
            .map(|(_, n)| n)
            .sum::<u64>()
}

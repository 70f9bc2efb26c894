//! Parts of one probe become one measurement: counts are added up, histograms merged without loss, and quantiles taken from
//! the sums. Pure.
//!
//! What the parts say together is what one generator with the same schedule would have said; a test holds that to the last
//! count. Each part is judged by the generator's rules on its own, since the worst of many would drown in a common quantile.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::wire::BinLine;
use crate::load::Interval;
use crate::load::ledger::Frame;
use crate::measurement::{
    AgentPart, Bin, GeneratorHealth, Histograms, Measurement, Quantiles, generator_verdict,
};
use crate::units::Rps;

/// Clock error beyond which parts do not belong to the same half seconds, milliseconds: 2 % of a bin.
pub(super) const CLOCK_LIMIT_MS: f64 = 10.0;

/// One part's result.
#[derive(Debug)]
pub(crate) struct PartDone {
    pub(crate) agent: String,
    /// With its histograms.
    pub(crate) measurement: Measurement,
    pub(crate) lag: Histogram<u64>,
    pub(crate) first_ms: Option<f64>,
    pub(crate) clock_error_ms: f64,
}

/// The bins of all parts, merged as they come.
#[derive(Debug)]
pub(crate) struct Bins {
    frame: Frame,
    /// How many parts there are.
    parts: usize,
    /// By number: how many parts told it, and the sum.
    told: BTreeMap<usize, (usize, Bin, Histogram<u64>)>,
    /// The next one to hand over.
    next: usize,
}

impl Bins {
    pub(crate) fn new(rate: Rps, window_ns: u64, parts: usize) -> Self {
        Self {
            frame: Frame::new(rate, 0, window_ns),
            parts,
            told: BTreeMap::new(),
            next: 0,
        }
    }

    /// Enters one part's bin.
    pub(crate) fn enter(&mut self, line: &BinLine) -> Result<(), String> {
        if line.at >= self.frame.bins as usize {
            return Err(format!("a bin {} that the window does not have", line.at));
        }
        let latency = super::wire::unpack(&line.latency)?;
        match self.told.get_mut(&line.at) {
            None => {
                let bin = sum(Bin::default(), line);
                self.told.insert(line.at, (1, bin, latency));
            }
            Some((told, bin, all)) => {
                *told += 1;
                *bin = sum(*bin, line);
                add(all, &latency);
            }
        }
        Ok(())
    }

    /// The next bin that all parts have told.
    pub(crate) fn complete(&mut self) -> Option<Bin> {
        let (told, bin, latency) = self.told.get(&self.next)?;
        if *told < self.parts {
            return None;
        }
        let bin = self.placed(self.next, *bin, Some(latency), self.frame.end);
        self.next += 1;
        Some(bin)
    }

    /// The first bin's begin that is not before `offset` nanoseconds from the window's; None where the window is over by then.
    pub(crate) fn boundary_after(&self, offset: u64) -> Option<u64> {
        (0..self.frame.bins as usize)
            .map(|at| self.frame.start_of(at))
            .find(|start| *start >= offset.max(1))
    }

    #[allow(clippy::cast_precision_loss)]
    fn placed(&self, at: usize, bin: Bin, latency: Option<&Histogram<u64>>, end: u64) -> Bin {
        let start = self.frame.start_of(at);
        let over = match at + 1 == self.frame.bins as usize {
            true => end,
            false => self.frame.start_of(at + 1).min(end),
        };
        let q = latency.map_or_else(Quantiles::default, Quantiles::of_micros);
        Bin {
            start_s: start as f64 / 1e9,
            width_s: over.saturating_sub(start) as f64 / 1e9,
            latency_ms_p50: q.p50,
            latency_ms_p95: q.p95,
            ..bin
        }
    }

    /// The bins of the finished parts: their final counts, with the quantiles of what came in each.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    fn finished(&self, parts: &[PartDone]) -> Vec<Bin> {
        let Some(first) = parts.first() else {
            return Vec::new();
        };
        let end = (first.measurement.window_s * 1e9).round() as u64;
        let count = parts.iter().map(|p| p.measurement.bins.len()).max().unwrap_or(0);
        (0..count)
            .map(|at| {
                let all = parts.iter().filter_map(|p| p.measurement.bins.get(at));
                let bin = all.fold(Bin::default(), |s, b| Bin {
                    scheduled: s.scheduled + b.scheduled,
                    scheduled_good: s.scheduled_good + b.scheduled_good,
                    completed_good: s.completed_good + b.completed_good,
                    completed_bad: s.completed_bad + b.completed_bad,
                    in_flight_end: s.in_flight_end + b.in_flight_end,
                    ..s
                });
                self.placed(at, bin, self.told.get(&at).map(|t| &t.2), end)
            })
            .collect()
    }
}

fn sum(bin: Bin, line: &BinLine) -> Bin {
    Bin {
        scheduled: bin.scheduled + line.scheduled,
        scheduled_good: bin.scheduled_good + line.scheduled_good,
        completed_good: bin.completed_good + line.completed_good,
        completed_bad: bin.completed_bad + line.completed_bad,
        in_flight_end: bin.in_flight_end + line.in_flight_end,
        ..bin
    }
}

/// Adds without loss; bounds grow where they must.
fn add(into: &mut Histogram<u64>, from: &Histogram<u64>) {
    into.auto(true);
    // With resizing allowed only a histogram that memory cannot hold fails; those in use fit.
    let _ = into.add(from);
}

/// One second of all parts; None without any.
pub(crate) fn merge_intervals(parts: Vec<Interval>) -> Option<Interval> {
    let mut parts = parts.into_iter();
    let mut all = parts.next()?;
    for part in parts {
        all.width = all.width.max(part.width);
        for (tag, h) in part.histograms {
            match all.histograms.iter_mut().find(|(t, _)| *t == tag) {
                Some((_, into)) => add(into, &h),
                None => all.histograms.push((tag, h)),
            }
        }
    }
    Some(all)
}

/// The measurement of all parts of a probe at `rate`, and the shortest first service time. `idle_ms` is the service time without
/// load where it is known; it decides whether busy connections are the service's doing.
pub(crate) fn merge(
    rate: Rps,
    parts: &[PartDone],
    bins: &Bins,
    idle_ms: Option<f64>,
) -> Option<(Measurement, Option<f64>)> {
    let first = &parts.first()?.measurement;
    let mut histograms: Histograms = first.histograms.as_deref()?.clone();
    let mut lag = parts.first()?.lag.clone();
    let mut m = Measurement {
        offered: rate,
        bins: bins.finished(parts),
        generator: health(parts, idle_ms),
        ..first.clone()
    };
    for p in parts.get(1..).unwrap_or_default() {
        let o = &p.measurement;
        m.scheduled += o.scheduled;
        m.sent += o.sent;
        m.good += o.good;
        m.in_flight_end += o.in_flight_end;
        m.in_flight_after_drain += o.in_flight_after_drain;
        add_counts(&mut m.errors, &o.errors);
        add_counts(&mut m.statuses, &o.statuses);
        add_counts(&mut m.by_endpoint, &o.by_endpoint);
        m.drained_s = m.drained_s.zip(o.drained_s).map(|(a, b)| a.max(b));
        if m.stopped_early.is_none() {
            m.stopped_early.clone_from(&o.stopped_early);
        }
        histograms.merge(o.histograms.as_deref()?);
        add(&mut lag, &p.lag);
    }
    let mut bad = histograms.latency.clone();
    bad.reset();
    for (class, h) in &histograms.by_class {
        if !class.is_local() {
            add(&mut bad, h);
        }
    }
    m.latency_ms = Quantiles::of_micros(&histograms.latency);
    m.service_ms = Quantiles::of_micros(&histograms.service);
    m.error_latency_ms = Quantiles::of_micros(&bad);
    m.generator.send_lag_ms = Quantiles::of_micros(&lag);
    m.histograms = Some(Box::new(histograms));
    let first_ms = parts.iter().filter_map(|p| p.first_ms).reduce(f64::min);
    Some((m, first_ms))
}

fn add_counts<K: Ord + Clone>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, n) in from {
        *into.entry(key.clone()).or_default() += n;
    }
}

/// The generators' health together: the worst of each figure, the sum of what is counted, and what is wrong with any of them.
fn health(parts: &[PartDone], idle_ms: Option<f64>) -> GeneratorHealth {
    let mut all = GeneratorHealth::default();
    let window = parts.first().map_or(0.0, |p| p.measurement.window_s);
    for p in parts {
        let (m, g) = (&p.measurement, &p.measurement.generator);
        all.cpu_ratio = all.cpu_ratio.max(g.cpu_ratio);
        all.cpu_wait_ratio = all.cpu_wait_ratio.max(g.cpu_wait_ratio);
        all.throttled_ratio = all.throttled_ratio.max(g.throttled_ratio);
        all.suspended_s = all.suspended_s.max(g.suspended_s);
        all.timeout_s = g.timeout_s;
        all.cpu_s += g.cpu_s;
        all.connections_opened += g.connections_opened;
        all.connections += g.connections;
        all.retried += g.retried;
        all.cap_reached |= g.cap_reached;
        all.agents.push(AgentPart {
            agent: p.agent.clone(),
            scheduled: m.scheduled,
            sent: m.sent,
            clock_error_ms: p.clock_error_ms,
            send_lag_ms_p99: g.send_lag_ms.p99,
            cpu_ratio: g.cpu_ratio,
        });
        let mut say = |what: String| all.agent_trouble.push(format!("agent {}: {what}", p.agent));
        // A part may have no arrival in a short window at a low rate.
        if m.scheduled > 0 {
            generator_verdict(m, idle_ms.or(p.first_ms))
                .into_iter()
                .for_each(&mut say);
        }
        if p.clock_error_ms > CLOCK_LIMIT_MS {
            say(format!(
                "its clock may have been {:.1} ms off; the limit is {CLOCK_LIMIT_MS:.0} ms",
                p.clock_error_ms
            ));
        }
        if (m.window_s - window).abs() > 1e-6 {
            say(format!(
                "its window ended {:.0} ms from the others'",
                (m.window_s - window).abs() * 1e3
            ));
        }
    }
    all
}

#[cfg(test)]
mod tests;

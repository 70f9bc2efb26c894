//! May a running probe stop early? Bins in, "go on" or "enough, because" out.
//!
//! Gentleness lives here: a rate far over the capacity is recognised within three half-second bins. The watch never
//! passes a probe; it ends what clearly fails, and a warm-up that is over.

use std::ops::ControlFlow;

use crate::measurement::Bin;
use crate::slo::{drift, overdispersion, wald_llr};

use super::{Plan, ProbePhase, ProbePlan};

/// In flight growing faster than this share of the rate a second, for three bins, ends a probe at once.
const RUNAWAY: f64 = 0.25;
/// Wald's boundary: ln((1 - beta) / alpha) for errors of 1 % each.
const DECIDED: f64 = 4.6;

/// Watches one probe.
#[derive(Debug, Clone)]
pub struct Watch {
    phase: ProbePhase,
    errors_only: bool,
    limit: f64,
    rate: f64,
    window_s: f64,
    least_warm_s: f64,
    usual: f64,
    bins: Vec<Bin>,
    losses: Vec<(u64, u64)>,
    runaway: u32,
}

impl Watch {
    /// A watch for one run of `probe`.
    #[must_use]
    pub fn new(plan: &Plan, probe: &ProbePlan) -> Self {
        let rate = probe.rate.get();
        Self {
            phase: probe.phase,
            errors_only: plan.errors_only,
            limit: plan.slo.errors.get().clamp(0.001, 0.6),
            rate,
            window_s: probe.window.as_secs_f64(),
            least_warm_s: (plan.warm_up.as_secs_f64() / 2.0).clamp(1.0, 3.0),
            usual: rate * probe.idle_ms.map_or(0.3, |ms| ms * 3.0 / 1e3),
            bins: Vec::new(),
            losses: Vec::new(),
            runaway: 0,
        }
    }

    /// Takes the next bin of the window, in order.
    pub fn observe(&mut self, bin: &Bin) -> ControlFlow<String> {
        let before = self.bins.last().map_or(0, |b| b.in_flight_end);
        let grown = bin.in_flight_end as f64 - before as f64;
        self.bins.push(*bin);
        if self.phase == ProbePhase::Idle || self.errors_only && self.phase != ProbePhase::WarmUp {
            return ControlFlow::Continue(());
        }
        self.runaway(bin, grown)?;
        match self.phase {
            ProbePhase::WarmUp => self.settled(),
            ProbePhase::Confirm => self.hopeless(bin),
            _ => self.sequential(bin, grown),
        }
    }

    /// The queue runs away. A confirmation is at a rate that shorter probes carried, so there it takes longer to
    /// believe: a stall of a second looks the same.
    fn runaway(&mut self, bin: &Bin, grown: f64) -> ControlFlow<String> {
        let per_s = grown / bin.width_s.max(0.05) / self.rate;
        let fills = bin.in_flight_end as f64 <= self.usual;
        self.runaway = if per_s > RUNAWAY && !fills {
            self.runaway + 1
        } else {
            0
        };
        let enough = if self.phase == ProbePhase::Confirm { 6 } else { 3 };
        let twice_over = per_s > 2.0 * RUNAWAY && self.runaway >= 2 && self.phase != ProbePhase::Confirm;
        if self.runaway >= enough || twice_over {
            return ControlFlow::Break(format!(
                "{} requests in flight after {:.1} s and growing",
                bin.in_flight_end,
                bin.start_s + bin.width_s
            ));
        }
        ControlFlow::Continue(())
    }

    /// Wald's sequential test of the loss, 0.6 against 1.4 of the limit, divided by the measured overdispersion.
    fn sequential(&mut self, bin: &Bin, grown: f64) -> ControlFlow<String> {
        let queued = if bin.in_flight_end as f64 > self.usual {
            grown.max(0.0) as u64
        } else {
            0
        };
        let bad = (bin.completed_bad + queued).min(bin.scheduled.max(bin.completed_bad));
        self.losses.push((bad, bin.scheduled.max(bad)));
        if self.losses.len() < 2 {
            return ControlFlow::Continue(());
        }
        let (bad, n) = self.losses.iter().fold((0, 0), |s, b| (s.0 + b.0, s.1 + b.1));
        let llr = wald_llr(bad, n, 0.6 * self.limit, (1.4 * self.limit).min(0.99));
        if llr / overdispersion(&self.losses) > DECIDED {
            let share = 100.0 * bad as f64 / n.max(1) as f64;
            return ControlFlow::Break(format!("goodput loss {share:.0} %, decided after {} requests", n));
        }
        ControlFlow::Continue(())
    }

    /// A confirmation that cannot pass any more: more is lost for good than the limit allows the whole window, or the
    /// queue has grown beyond doubt.
    fn hopeless(&self, bin: &Bin) -> ControlFlow<String> {
        let bad: u64 = self.bins.iter().map(|b| b.completed_bad).sum();
        if bad as f64 > self.limit * self.rate * self.window_s {
            return ControlFlow::Break(format!(
                "{bad} requests lost already: more than the whole window may lose"
            ));
        }
        let span = bin.start_s + bin.width_s;
        if self.bins.len() < 10 || span < self.window_s / 8.0 || bin.in_flight_end as f64 <= self.usual {
            return ControlFlow::Continue(());
        }
        let step = self.bins.len().div_ceil(10);
        let series: Vec<f64> = self
            .bins
            .chunks(step)
            .filter(|c| c.len() == step)
            .map(|c| c.iter().map(|b| b.in_flight_end as f64).sum::<f64>() / step as f64)
            .collect();
        let d = drift(&series, series.len() as f64 * step as f64 * bin.width_s);
        if (d.per_s - 3.0 * d.se) / self.rate > 0.012 {
            return ControlFlow::Break(format!(
                "requests in flight grow by {:.1} % of the rate every second",
                100.0 * d.per_s / self.rate
            ));
        }
        ControlFlow::Continue(())
    }

    /// Over when MSER's truncation point (White 1997: drop the first d observations such that the standard error of
    /// the mean of the rest is least) lies in the first half, or the last two quarters agree within 3 %.
    fn settled(&self) -> ControlFlow<String> {
        let x: Vec<f64> = self
            .bins
            .iter()
            .filter(|b| b.completed_good > 0)
            .map(|b| b.latency_ms_p50)
            .collect();
        let span: f64 = self.bins.iter().map(|b| b.width_s).sum();
        if x.len() < 4 || span < self.least_warm_s {
            return ControlFlow::Continue(());
        }
        let n = x.len();
        let mean = |s: &[f64]| s.iter().sum::<f64>() / s.len() as f64;
        let quarter = n / 4;
        let (last, before) = (mean(&x[n - quarter..]), mean(&x[n - 2 * quarter..n - quarter]));
        let flat = (last - before).abs() <= 0.03 * before.max(0.05);
        let mser = |d: usize| {
            let rest = &x[d..];
            let m = mean(rest);
            rest.iter().map(|v| (v - m).powi(2)).sum::<f64>() / (rest.len() as f64).powi(2)
        };
        let best = (0..n - 2)
            .min_by(|a, b| mser(*a).total_cmp(&mser(*b)))
            .unwrap_or(0);
        if (best <= n / 2 && (last - before).abs() <= 0.10 * before.max(0.05)) || flat {
            return ControlFlow::Break(format!("settled at a median of {last:.1} ms after {span:.1} s"));
        }
        ControlFlow::Continue(())
    }
}

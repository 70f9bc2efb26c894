//! The probes of a search, read once: where it stands, what passed, what failed and was not overruled since.
//!
//! A fold that decides nothing: what comes next is `search`'s business.

use std::time::Duration;

use crate::slo::{Slo, Verdict};
use crate::trial::Probe;

use super::judge::loss_blocks;
use super::posterior::hint;
use super::{Plan, ProbePhase, ProbePlan};

/// Checks for a normal service after a failing probe, each twice as long as the one before: some 25 s in all.
const RECOVERY_CHECKS: u32 = 6;
/// Probes in a row that the generator could not drive before its limit is believed: others may want the CPU for a while.
pub(super) const MOST_VOIDS: u32 = 3;
/// The same at rest, where only the machine can be the reason.
const MOST_IDLE_VOIDS: u32 = 6;

/// Where the search stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Mode {
    /// Nothing is known of the service yet, or it was just deployed again.
    Idle { tries: u32 },
    /// Idle latency known; caches, pools and compilers are cold.
    Cold,
    /// Ready for a rate.
    Ready,
    /// A probe failed, or a confirmation passed: is the service back to normal?
    Recovering { checks: u32 },
    /// It did not come back.
    Tripped,
}

/// Goodput loss of the probe at index `at` of a search as it was judged, 0..=1: what a service without a queue has in flight
/// when the window ends is forgiven, as in [`Probe::loss_upper`], which is never below it. `Measurement::loss` forgives
/// nothing. None where there is no such probe or nothing was scheduled.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn judged_loss(probes: &[Probe], at: usize) -> Option<f64> {
    let (probe, before) = (probes.get(at)?, probes.get(..at)?);
    let m = &probe.measurement;
    // Only the idle latency is wanted, and that depends on no plan.
    let any = Plan::new(Slo::default(), m.offered);
    let plan = ProbePlan {
        idle_ms: Reading::of(&any, before).idle_ms,
        ..ProbePlan::new(probe.phase, m.offered, Duration::ZERO)
    };
    let (lost, n) = loss_blocks(&plan, m)
        .iter()
        .fold((0, 0), |s, b| (s.0 + b.0, s.1 + b.1));
    (n > 0).then(|| lost as f64 / n as f64)
}

/// The probes, read once.
pub(super) struct Reading<'a> {
    pub(super) mode: Mode,
    pub(super) idle_ms: Option<f64>,
    /// Probes at a real rate that mean something.
    pub(super) loads: Vec<&'a Probe>,
    /// A confirmation that passed; certain once the mode is no longer `Recovering`.
    pub(super) confirmed: Option<&'a Probe>,
    pub(super) voids: u32,
    /// The rate of the warm-up, where it was carried.
    pub(super) warmed_at: Option<f64>,
    /// Lowest rate at which the generator failed repeatedly.
    pub(super) generator_cap: Option<f64>,
    pub(super) restarts: Vec<f64>,
    pub(super) last_rate: f64,
    pub(super) unsettled: bool,
    pub(super) refused: Option<String>,
    /// It was refused because the generator could not drive the check at rest: nothing is known of the service.
    pub(super) unasked: bool,
}

impl<'a> Reading<'a> {
    pub(super) fn of(plan: &Plan, probes: &'a [Probe]) -> Self {
        let mut r = Self {
            mode: Mode::Idle { tries: 0 },
            idle_ms: None,
            loads: Vec::new(),
            confirmed: None,
            voids: 0,
            warmed_at: None,
            generator_cap: None,
            restarts: Vec::new(),
            last_rate: 0.0,
            unsettled: false,
            refused: None,
            unasked: false,
        };
        for p in probes {
            r.take(plan, p);
        }
        r
    }

    fn take(&mut self, plan: &Plan, p: &'a Probe) {
        if p.verdict == Verdict::Void {
            return self.take_void(p);
        }
        self.voids = 0;
        match p.phase {
            ProbePhase::Idle => self.take_idle(p),
            ProbePhase::WarmUp => self.take_warm_up(plan, p),
            _ => {
                self.loads.push(p);
                self.after_load(p);
            }
        }
    }

    fn take_void(&mut self, p: &Probe) {
        self.voids += 1;
        let rate = p.measurement.offered.get();
        let most = if p.phase == ProbePhase::Idle {
            MOST_IDLE_VOIDS
        } else {
            MOST_VOIDS
        };
        if self.voids < most {
            return;
        }
        self.voids = 0;
        match (p.phase, self.mode) {
            (ProbePhase::Idle, _) => {
                self.unasked = true;
                self.refused = Some(format!("not even the idle check could be driven: {}", p.reason));
            }
            (ProbePhase::WarmUp, Mode::Cold) => self.mode = Mode::Ready,
            _ => {}
        }
        if p.phase != ProbePhase::Idle {
            self.generator_cap = Some(self.generator_cap.map_or(rate, |c| c.min(rate)));
        }
    }

    fn take_idle(&mut self, p: &Probe) {
        let fine = p.verdict == Verdict::Meets;
        self.mode = match self.mode {
            Mode::Idle { .. } | Mode::Tripped => {
                if self.mode == Mode::Tripped {
                    self.restarts.push(self.last_rate);
                }
                let tries = if let Mode::Idle { tries } = self.mode {
                    tries + 1
                } else {
                    1
                };
                if fine {
                    let p50 = p.measurement.latency_ms.p50;
                    self.idle_ms = Some(self.idle_ms.map_or(p50, |i| i.min(p50)));
                    Mode::Cold
                } else {
                    if tries >= 2 {
                        self.refused = Some(p.reason.clone());
                    }
                    Mode::Idle { tries }
                }
            }
            Mode::Recovering { .. } if fine => Mode::Ready,
            Mode::Recovering { checks } if checks + 1 < RECOVERY_CHECKS => {
                Mode::Recovering { checks: checks + 1 }
            }
            Mode::Recovering { .. } => {
                self.confirmed = None;
                Mode::Tripped
            }
            other => other,
        };
    }

    fn take_warm_up(&mut self, plan: &Plan, p: &'a Probe) {
        if p.verdict == Verdict::Violates {
            // The expectation was far too high: as good as a failing step.
            self.loads.push(p);
            return self.after_load(p);
        }
        let whole = p.measurement.window_s >= plan.warm_up.as_secs_f64() * 0.98;
        self.warmed_at = Some(p.measurement.offered.get());
        self.unsettled |= whole && p.measurement.stopped_early.is_none() && !plan.warm_up.is_zero();
        self.mode = Mode::Ready;
    }

    fn after_load(&mut self, p: &'a Probe) {
        self.last_rate = p.measurement.offered.get();
        let confirmation = p.phase == ProbePhase::Confirm && p.verdict == Verdict::Meets;
        if confirmation {
            self.confirmed = Some(p);
        }
        self.mode = if p.recovered == Some(false) {
            self.confirmed = None;
            Mode::Tripped
        } else if p.verdict == Verdict::Violates || confirmation {
            Mode::Recovering { checks: 0 }
        } else {
            Mode::Ready
        };
    }

    pub(super) fn highest(&self, verdict: Verdict) -> Option<f64> {
        self.rates(verdict).reduce(f64::max)
    }

    /// The lowest rate that failed and was not overruled: as often as probes at or below it failed, others at or above
    /// it passed.
    pub(super) fn lowest_fail(&self) -> Option<f64> {
        self.standing_fails().first().copied()
    }

    /// Rates that failed and were not overruled, ascending. A failure below counts for a higher rate too, unless it was
    /// overruled itself.
    pub(super) fn standing_fails(&self) -> Vec<f64> {
        let mut failed: Vec<f64> = self.rates(Verdict::Violates).collect();
        failed.sort_by(f64::total_cmp);
        let mut standing: Vec<f64> = Vec::new();
        for f in &failed {
            let passes = self.rates(Verdict::Meets).filter(|p| *p > 0.98 * f).count();
            let close = failed.iter().filter(|x| (*x / f - 1.0).abs() < 0.02).count();
            let below = standing.iter().filter(|x| **x <= 0.98 * f).count();
            if close + below > passes {
                standing.push(*f);
            }
        }
        standing
    }

    /// A failure that shows no overload (a stall, a burst of errors) and was not seen twice: measured again first.
    pub(super) fn doubtful(&self, plan: &Plan) -> Option<f64> {
        // What tripped it is not asked again, however odd it looked.
        let last = self
            .loads
            .last()
            .filter(|p| p.verdict == Verdict::Violates && self.restarts.is_empty())?;
        let rate = last.measurement.offered.get();
        let again = self
            .rates(Verdict::Violates)
            .filter(|x| (x / rate - 1.0).abs() < 0.02)
            .count();
        let short = matches!(last.phase, ProbePhase::Growth | ProbePhase::Refine);
        // A handful of late answers is a hiccup of the machine as easily as a queue.
        let missing = last.measurement.scheduled.saturating_sub(last.measurement.good);
        let few = last.phase == ProbePhase::Growth && missing < 10;
        (short && again == 1 && (few || hint(plan, last).is_none())).then_some(rate)
    }

    pub(super) fn rates(&self, verdict: Verdict) -> impl Iterator<Item = f64> {
        self.loads
            .iter()
            .filter(move |p| p.verdict == verdict)
            .map(|p| p.measurement.offered.get())
    }

    pub(super) fn count(&self, phase: ProbePhase, verdict: Verdict) -> usize {
        self.loads
            .iter()
            .filter(|p| p.phase == phase && p.verdict == verdict)
            .count()
    }

    /// The most that may be offered: the plan's maximum, and never again what tripped the service.
    pub(super) fn ceiling(&self, plan: &Plan) -> f64 {
        let tripped = self.restarts.iter().copied().fold(f64::INFINITY, f64::min) * 0.95;
        plan.max.get().min(tripped)
    }
}

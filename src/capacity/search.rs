//! What to do next: the state machine of the capacity search, as a fold over the probes so far.
//!
//! Idle check, warm-up, growth, refinement, confirmation; after every failing probe a look whether the service came
//! back. With an incumbent the first question is whether this configuration can beat it at all. Nothing is remembered
//! between calls: the same probes give the same step, so a stored search is resumed by replaying it.

use std::time::Duration;

use crate::slo::Verdict;
use crate::trial::Probe;
use crate::units::Rps;

use super::judge::is_policy;
use super::posterior::{Posterior, hint};
use super::{Capacity, CapacityVerdict, Plan, ProbePhase, ProbePlan, Step};

/// Growth of the rate between steps: small enough that the last one overshoots by half at most.
const GROWTH: f64 = 1.5;
/// The same near a prior, or when latency has risen already.
const GROWTH_CLOSE: f64 = 1.25;
/// Checks for a normal service after a failing probe, each twice as long as the one before: some 25 s in all.
const RECOVERY_CHECKS: u32 = 6;
/// Deployments again before the search gives up.
const MOST_RESTARTS: usize = 2;
/// Failing confirmations before the search gives up.
const MOST_CONFIRMATIONS: usize = 7;
/// Probes in a row that the generator could not drive before its limit is believed: others may want the CPU for a while.
const MOST_VOIDS: u32 = 3;
/// The same at rest, where only the machine can be the reason.
const MOST_IDLE_VOIDS: u32 = 6;
/// Most refinement probes before the first confirmation.
const MOST_REFINEMENTS: usize = 6;
/// From this precision on the answer is to come quickly.
const COARSE: f64 = 0.08;
/// The rate of a confirmation: carried with this probability, as believed.
const CONFIRMED_BY: f64 = 0.8;
/// A confirmed rate this far below the middle of the belief is tried once more, higher ...
const CLIMB_FROM: f64 = 1.035;
/// ... at a rate carried with this probability.
const CLIMB_BY: f64 = 0.75;
/// A race is lost when the capacity is above this share of the incumbent's rate ...
const CLEARLY_LOST: f64 = 0.9;
/// ... with less than this probability.
const RACE_DOUBT: f64 = 0.03;

/// Where the search stands.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
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

/// The probes, read once.
struct Reading<'a> {
    mode: Mode,
    idle_ms: Option<f64>,
    /// Probes at a real rate that mean something.
    loads: Vec<&'a Probe>,
    /// A confirmation that passed; certain once the mode is no longer `Recovering`.
    confirmed: Option<&'a Probe>,
    voids: u32,
    /// The rate of the warm-up, where it was carried.
    warmed_at: Option<f64>,
    /// Lowest rate at which the generator failed repeatedly.
    generator_cap: Option<f64>,
    restarts: Vec<f64>,
    last_rate: f64,
    unsettled: bool,
    refused: Option<String>,
}

/// The next step after `probes`. Total: any probes give a step.
#[must_use]
pub fn next_step(plan: &Plan, probes: &[Probe]) -> Step {
    let r = Reading::of(plan, probes);
    if let Some(why) = &r.refused {
        return Step::Done(conclude(plan, probes, Some(why)));
    }
    if probes.len() >= plan.max_probes as usize {
        return Step::Done(conclude(
            plan,
            probes,
            Some("the bound on the number of probes was met"),
        ));
    }
    match r.mode {
        Mode::Idle { .. } => Step::Probe(after_restart(plan)),
        Mode::Cold => Step::Probe(warm_up(plan, &r)),
        Mode::Recovering { checks } => Step::Probe(recovery(plan, &r, checks)),
        Mode::Tripped if r.restarts.len() >= MOST_RESTARTS => Step::Done(conclude(
            plan,
            probes,
            Some("it tripped again after every restart"),
        )),
        Mode::Tripped => Step::Restart {
            tripped_at: Rps::saturating(r.last_rate),
        },
        Mode::Ready => ready(plan, probes, &r),
    }
}

/// The first probe of a search, and the first after a restart: a minimal rate, to see how the service is at rest.
#[must_use]
pub fn after_restart(plan: &Plan) -> ProbePlan {
    let window = Duration::from_secs_f64((plan.confirm.as_secs_f64() / 15.0).clamp(1.0, 3.0));
    let rate = (5.0 / window.as_secs_f64())
        .max(plan.min.get())
        .min(plan.max.get());
    ProbePlan::new(ProbePhase::Idle, Rps::saturating(rate), window)
}

impl<'a> Reading<'a> {
    fn of(plan: &Plan, probes: &'a [Probe]) -> Self {
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

    fn highest(&self, verdict: Verdict) -> Option<f64> {
        self.rates(verdict).reduce(f64::max)
    }

    /// The lowest rate that failed and was not overruled: as often as probes at or below it failed, others at or above
    /// it passed.
    fn lowest_fail(&self) -> Option<f64> {
        self.standing_fails().first().copied()
    }

    /// Rates that failed and were not overruled, ascending. A failure below counts for a higher rate too, unless it was
    /// overruled itself.
    fn standing_fails(&self) -> Vec<f64> {
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
    fn doubtful(&self, plan: &Plan) -> Option<f64> {
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

    fn rates(&self, verdict: Verdict) -> impl Iterator<Item = f64> {
        self.loads
            .iter()
            .filter(move |p| p.verdict == verdict)
            .map(|p| p.measurement.offered.get())
    }

    fn count(&self, phase: ProbePhase, verdict: Verdict) -> usize {
        self.loads
            .iter()
            .filter(|p| p.phase == phase && p.verdict == verdict)
            .count()
    }

    /// The most that may be offered: the plan's maximum, and never again what tripped the service.
    fn ceiling(&self, plan: &Plan) -> f64 {
        let tripped = self.restarts.iter().copied().fold(f64::INFINITY, f64::min) * 0.95;
        plan.max.get().min(tripped)
    }
}

/// Chooses the next rate of a service that is warm and at rest.
fn ready(plan: &Plan, probes: &[Probe], r: &Reading<'_>) -> Step {
    if let Some(confirmed) = r.confirmed {
        return climb(plan, r, confirmed).unwrap_or_else(|| Step::Done(conclude(plan, probes, None)));
    }
    let confirmations = r.count(ProbePhase::Confirm, Verdict::Violates);
    if confirmations >= MOST_CONFIRMATIONS {
        return Step::Done(conclude(plan, probes, Some("no confirmation passed")));
    }
    if let Some(step) = race(plan, probes, r) {
        return step;
    }
    let (pass, fail) = (r.highest(Verdict::Meets), r.lowest_fail());
    if let Some(rate) = r.doubtful(plan) {
        return load(plan, r, ProbePhase::Growth, rate);
    }
    if let Some(cap) = r.generator_cap
        && fail.is_none_or(|f| f > cap)
    {
        return generator_limited(plan, probes, r, cap, pass);
    }
    match (pass, fail) {
        (None, None) => load(plan, r, ProbePhase::Growth, first_rate(plan, r)),
        (Some(p), None) if p >= r.ceiling(plan) * 0.999 => load(plan, r, ProbePhase::Confirm, p),
        (Some(p), None) => load(plan, r, ProbePhase::Growth, p * growth(plan, r, p)),
        (None, Some(f))
            if f <= plan.min.get() * 1.001 && r.rates(Verdict::Violates).filter(|x| *x <= f).count() > 1 =>
        {
            Step::Done(conclude(
                plan,
                probes,
                Some("not even the lowest rate was carried"),
            ))
        }
        (None, Some(f)) => load(plan, r, ProbePhase::Growth, lower(plan, r, f)),
        (Some(_), Some(_)) => refine(plan, probes, r, confirmations),
    }
}

/// A confirmation that passed well below what the probes say (an unlucky failure before it, a stall): one more, higher.
/// Where that fails, the first still counts.
fn climb(plan: &Plan, r: &Reading<'_>, confirmed: &Probe) -> Option<Step> {
    let rate = confirmed.measurement.offered.get();
    let passed = r.count(ProbePhase::Confirm, Verdict::Meets);
    let last_is_it = r.loads.last().is_some_and(|p| p.number == confirmed.number);
    if passed > 1
        || !last_is_it
        || !r.restarts.is_empty()
        || plan.precision.get() >= COARSE
        || r.standing_fails().is_empty()
    {
        return None;
    }
    let belief = Posterior::of(plan, &r.loads)?;
    let higher = belief.carried(CLIMB_BY).min(r.ceiling(plan));
    let failed_there = r.loads.iter().any(|p| {
        p.phase == ProbePhase::Confirm
            && p.verdict == Verdict::Violates
            && p.measurement.offered.get() < 1.01 * higher
    });
    (belief.quantile(0.5) > CLIMB_FROM * rate && higher > 1.01 * rate && !failed_there)
        .then(|| load(plan, r, ProbePhase::Confirm, higher))
}

/// The generator is at its limit and the service is not: confirm what could be driven.
fn generator_limited(plan: &Plan, probes: &[Probe], r: &Reading<'_>, cap: f64, pass: Option<f64>) -> Step {
    let tried = probes
        .iter()
        .filter(|p| p.phase == ProbePhase::Confirm && p.verdict == Verdict::Void)
        .count();
    match pass {
        Some(_) if tried >= 2 * MOST_VOIDS as usize => Step::Done(conclude(
            plan,
            probes,
            Some("the generator could not drive a confirmation"),
        )),
        Some(p) => load(plan, r, ProbePhase::Confirm, p.min(cap * 0.95)),
        None if cap <= plan.min.get() * 1.001 || probes.len() > 40 => Step::Done(conclude(
            plan,
            probes,
            Some("the generator could not drive any rate"),
        )),
        None => load(plan, r, ProbePhase::Growth, cap / 2.0),
    }
}

/// What any service carries without a prior: one that answers one request in t carries at least 1/t, whatever its pool; half of that.
fn least(plan: &Plan, r: &Reading<'_>) -> f64 {
    match r.idle_ms {
        Some(ms) if ms > 0.0 => 500.0 / ms,
        _ => plan.min.get() * 4.0,
    }
}

/// The first step up. The warm-up was one already.
fn first_rate(plan: &Plan, r: &Reading<'_>) -> f64 {
    match (plan.prior, r.warmed_at) {
        (Some(prior), _) => prior.get() * 0.6,
        (None, Some(warm)) if warm >= least(plan, r) * 0.99 => warm * 2.0,
        (None, _) => least(plan, r),
    }
}

fn growth(plan: &Plan, r: &Reading<'_>, pass: f64) -> f64 {
    let near = plan
        .prior
        .is_some_and(|p| pass > 0.55 * p.get() && pass < 1.5 * p.get());
    let raced = plan
        .incumbent
        .is_some_and(|i| pass > 0.8 * i.get() && pass < 1.5 * i.get());
    let slower = r.idle_ms.is_some_and(|idle| {
        r.loads.iter().any(|p| {
            p.verdict == Verdict::Meets
                && p.measurement.offered.get() >= pass * 0.999
                && p.measurement.latency_ms.p50 > (1.6 * idle).max(idle + 3.0)
        })
    });
    if near || raced || slower {
        GROWTH_CLOSE
    } else {
        GROWTH
    }
}

/// Below everything that failed: a little under the goodput that was seen, half the rate otherwise.
fn lower(plan: &Plan, r: &Reading<'_>, fail: f64) -> f64 {
    let seen = r
        .loads
        .iter()
        .filter(|p| p.verdict == Verdict::Violates && p.measurement.offered.get() <= fail * 1.001)
        .filter_map(|p| hint(plan, p))
        .map(|h| h.0.exp() * 0.85)
        .fold(f64::INFINITY, f64::min);
    seen.min(fail * 0.7).max(fail / 4.0)
}

/// With an incumbent: does this configuration carry a little more than it? A clear loser is cut short after two failing
/// probes; its bracket stays as a censored observation.
fn race(plan: &Plan, probes: &[Probe], r: &Reading<'_>) -> Option<Step> {
    let incumbent = plan.incumbent?.get();
    if r.highest(Verdict::Meets)
        .is_some_and(|p| p > CLEARLY_LOST * incumbent)
    {
        return None;
    }
    let failed: Vec<f64> = r.rates(Verdict::Violates).collect();
    match failed[..] {
        [] if r.loads.is_empty() => return Some(load(plan, r, ProbePhase::Race, incumbent * 1.02)),
        [] => return None,
        // The first question, asked a second time a little lower; after a warm-up that failed already, gently.
        [only] if r.loads.len() == 1 => {
            return Some(load(
                plan,
                r,
                ProbePhase::Race,
                only.min(incumbent * (CLEARLY_LOST - 0.02)),
            ));
        }
        _ => {}
    }
    let belief = Posterior::of(plan, &r.loads)?;
    (belief.above(CLEARLY_LOST * incumbent) < RACE_DOUBT).then(|| {
        let mut c = conclude(
            plan,
            probes,
            Some("the race against the incumbent is clearly lost"),
        );
        c.verdict = CapacityVerdict::AtMost;
        c.interval_rps = [
            belief
                .quantile(0.05)
                .min(r.highest(Verdict::Meets).unwrap_or(f64::INFINITY)),
            belief.quantile(0.97),
        ];
        Step::Done(c)
    })
}

/// Probabilistic bisection until the belief is narrow, then a confirmation at its lower quartile.
fn refine(plan: &Plan, probes: &[Probe], r: &Reading<'_>, confirmations: usize) -> Step {
    let Some(belief) = Posterior::of(plan, &r.loads) else {
        return Step::Done(conclude(plan, probes, Some("the probes contradict each other")));
    };
    let [q25, q50, q75] = [0.25, 0.5, 0.75].map(|q| belief.quantile(q));
    let refined = r
        .loads
        .iter()
        .filter(|p| p.phase == ProbePhase::Refine)
        .map(|p| p.measurement.offered.get())
        .filter(|x| *x > 0.7 * q50 && *x < 1.4 * q50)
        .count();
    let near = r
        .standing_fails()
        .iter()
        .filter(|f| **f > 0.9 * q50 && **f < 1.15 * q50)
        .count();
    // Where a coarse answer is asked for, one failure near the middle and half of the refinements are enough.
    let (enough, most) = if plan.precision.get() >= COARSE {
        (1, MOST_REFINEMENTS / 2)
    } else {
        (2, MOST_REFINEMENTS)
    };
    let narrow = (q75 / q25).ln() <= plan.precision.get() && near >= enough;
    // What tripped once is approached from below and not searched for again; after a second time nothing is risked.
    let tripped = r.restarts.len();
    let pass = r.highest(Verdict::Meets).filter(|_| tripped > 0);
    let risky = pass.is_some_and(|p| tripped > 1 || p > 0.93 * q50);
    if confirmations > 0 || narrow || risky || refined >= most {
        let failed: Vec<&&Probe> = r
            .loads
            .iter()
            .filter(|p| p.phase == ProbePhase::Confirm && p.verdict == Verdict::Violates)
            .collect();
        let lowest_failed = failed
            .iter()
            .map(|p| p.measurement.offered.get())
            .fold(f64::INFINITY, f64::min);
        // Each failure must lower it, and by more each time: 1, 2, 3 % and so on. One whose loss was under the limit, only not
        // surely enough, says less (a stall in its last seconds does that).
        let clear = failed
            .iter()
            .filter(|p| p.measurement.stopped_early.is_some() || p.measurement.loss() > plan.slo.errors.get())
            .count();
        let step = if clear == 0 { 0.005 } else { 0.01 * clear as f64 };
        let rate = belief
            .carried(CONFIRMED_BY)
            .min(lowest_failed * (1.0 - step))
            .min(pass.map_or(f64::INFINITY, |p| p * if tripped > 1 { 0.95 } else { 0.98 }))
            .min(r.ceiling(plan));
        return load(plan, r, ProbePhase::Confirm, rate);
    }
    // A little above the middle: a slight overload tells the capacity itself, not only a side.
    let wide = (q75 / q25).ln() > 0.08;
    let rate = if wide { q50 } else { q50 * 1.03 };
    let careful = pass.map_or(f64::INFINITY, |p| p * 1.06);
    load(plan, r, ProbePhase::Refine, rate.min(careful))
}

/// A probe at a real rate, as long as its phase, its rate and the service's latency need.
fn load(plan: &Plan, r: &Reading<'_>, phase: ProbePhase, rate: f64) -> Step {
    let rate = rate.clamp(
        plan.min.get().min(plan.max.get()),
        r.ceiling(plan).max(plan.min.get()).min(plan.max.get()),
    );
    let confirm_s = plan.confirm.as_secs_f64();
    let idle_s = r.idle_ms.unwrap_or(0.0) / 1e3;
    let (window, lead_in) = match phase {
        ProbePhase::Confirm => {
            let requests = (10.0 * confirm_s).clamp(60.0, 300.0);
            let window = confirm_s.max((requests / rate).min(3.0 * confirm_s.max(30.0)));
            (
                window,
                (confirm_s / 30.0).clamp(0.5, 1.0).max(3.0 * idle_s).min(5.0),
            )
        }
        ProbePhase::Growth | ProbePhase::WarmUp | ProbePhase::Idle => (
            (6.0 * idle_s).max(8.0 / rate).clamp(1.0, 5.0),
            (2.0 * idle_s).clamp(0.2, 3.0),
        ),
        ProbePhase::Refine | ProbePhase::Race => {
            let least = (confirm_s / 10.0).clamp(2.0, 3.0);
            (
                (10.0 * idle_s).max(60.0 / rate).clamp(least, 6.0),
                (2.0 * idle_s).clamp(0.2, 3.0),
            )
        }
    };
    Step::Probe(ProbePlan {
        lead_in: Duration::from_secs_f64(lead_in),
        idle_ms: r.idle_ms,
        ..ProbePlan::new(phase, Rps::saturating(rate), Duration::from_secs_f64(window))
    })
}

/// At 40 % of what is expected; the watch ends it as soon as the medians settle.
fn warm_up(plan: &Plan, r: &Reading<'_>) -> ProbePlan {
    let expected = plan.prior.or(plan.incumbent).map(|x| x.get() * 0.4);
    let rate = expected
        .unwrap_or_else(|| first_rate(plan, r))
        .clamp(plan.min.get().min(plan.max.get()), plan.max.get());
    let tripped = r.restarts.iter().copied().fold(f64::INFINITY, f64::min) * 0.4;
    ProbePlan {
        idle_ms: r.idle_ms,
        ..ProbePlan::new(
            ProbePhase::WarmUp,
            Rps::saturating(rate.min(tripped)),
            plan.warm_up,
        )
    }
}

/// A few requests at rest.
fn recovery(plan: &Plan, r: &Reading<'_>, checks: u32) -> ProbePlan {
    let rate = (0.2 * r.last_rate).min(10.0).max(plan.min.get().min(1.0));
    let window = (3.0 / rate).clamp(0.5, 3.0) * f64::from(1_u32 << checks.min(4));
    ProbePlan {
        idle_ms: r.idle_ms,
        ..ProbePlan::new(
            ProbePhase::Idle,
            Rps::saturating(rate),
            Duration::from_secs_f64(window.min(8.0)),
        )
    }
}

/// The answer from `probes` as they are, with `why` the search ends where that is not a confirmation.
#[must_use]
pub fn conclude(plan: &Plan, probes: &[Probe], why: Option<&str>) -> Capacity {
    let r = Reading::of(plan, probes);
    let confirmed = r.confirmed.filter(|_| !matches!(r.mode, Mode::Tripped));
    let rate = confirmed.map(|p| p.measurement.offered.get());
    let (pass, fail) = (r.highest(Verdict::Meets), r.lowest_fail());
    let limited = r.generator_cap.is_some_and(|cap| fail.is_none_or(|f| f > cap));
    let verdict = match rate {
        _ if limited => CapacityVerdict::GeneratorLimited,
        Some(x) if x >= plan.max.get() * 0.999 && fail.is_none() => CapacityVerdict::AtLeast,
        Some(_) => CapacityVerdict::Sustainable,
        None => CapacityVerdict::None,
    };
    let open = matches!(
        verdict,
        CapacityVerdict::AtLeast | CapacityVerdict::GeneratorLimited
    );
    let interval = match (Posterior::of(plan, &r.loads), fail) {
        _ if open => [rate.or(pass).unwrap_or(0.0), plan.max.get()],
        (Some(belief), Some(_)) => [belief.quantile(0.05), belief.quantile(0.95)],
        _ => [pass.unwrap_or(0.0), fail.unwrap_or(plan.max.get())],
    };
    Capacity {
        verdict,
        sustainable_rps: rate,
        goodput_rps: confirmed.map_or(0.0, |p| p.measurement.goodput_rps()),
        interval_rps: interval,
        error_ratio_upper: confirmed.map_or(1.0, |p| p.loss_upper),
        peak_offered_rps: probes
            .iter()
            .map(|p| p.measurement.offered.get())
            .fold(0.0, f64::max),
        confirmed_by: confirmed.map(|p| p.number),
        reasons: reasons(plan, probes, &r, verdict, why),
    }
}

fn reasons(
    plan: &Plan,
    probes: &[Probe],
    r: &Reading<'_>,
    verdict: CapacityVerdict,
    why: Option<&str>,
) -> Vec<String> {
    let mut said: Vec<String> = why.map(str::to_owned).into_iter().collect();
    let mut tripped = r.restarts.clone();
    if r.mode == Mode::Tripped {
        tripped.push(r.last_rate);
    }
    for rate in tripped {
        said.push(format!(
            "METASTABLE: it did not recover after {}",
            Rps::saturating(rate)
        ));
    }
    if r.loads
        .iter()
        .any(|p| p.verdict == Verdict::Violates && is_policy(&p.measurement))
    {
        said.push("policy, not capacity: a rate limiter answers 429, no setting of a pool moves it".into());
    }
    if r.unsettled {
        said.push("the latency did not settle within the warm-up".into());
    }
    match verdict {
        CapacityVerdict::AtLeast => {
            said.push(format!("all is well at the highest rate allowed, {}", plan.max));
        }
        CapacityVerdict::GeneratorLimited => {
            let limit = probes.iter().rev().find(|p| p.verdict == Verdict::Void);
            said.push(format!(
                "generator-limited: {}",
                limit.map_or("", |p| p.reason.as_str())
            ));
        }
        CapacityVerdict::None if why.is_none() => said.push("nothing was confirmed".into()),
        _ => {}
    }
    if plan.errors_only {
        let unseen = r
            .loads
            .iter()
            .map(|p| p.measurement.in_flight_end)
            .max()
            .unwrap_or(0);
        said.push(format!(
            "judged by error responses alone: this hides requests that are never answered, up to {unseen} at the end of a probe"
        ));
    }
    said
}

//! What to do next: the state machine of the capacity search, as a fold over the probes so far.
//!
//! Idle check, warm-up, growth, refinement, confirmation; after every failing probe a look whether the service came
//! back. With an incumbent the first question is whether this configuration can beat it at all. Nothing is remembered
//! between calls: the same probes give the same step, so a stored search is resumed by replaying it.

use crate::slo::Verdict;
use crate::trial::Probe;
use crate::units::Rps;

use super::conclusion::conclude;
use super::posterior::{Posterior, hint};
use super::reading::{MOST_VOIDS, Mode, Reading};
use super::windows::{after_restart, first_rate, load, recovery, warm_up};
use super::{CapacityVerdict, Plan, ProbePhase, Step};

/// Growth of the rate between steps: small enough that the last one overshoots by half at most.
const GROWTH: f64 = 1.5;
/// The same near a prior, or when latency has risen already.
const GROWTH_CLOSE: f64 = 1.25;
/// Deployments again before the search gives up.
const MOST_RESTARTS: usize = 2;
/// Failing confirmations before the search gives up.
const MOST_CONFIRMATIONS: usize = 7;
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

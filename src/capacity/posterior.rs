//! What all probes say together about the capacity: probabilities on a grid over the logarithm of the rate.
//!
//! No probe is a hard bound. The capacity wanders between probes by a few per cent (learned from how well the probes
//! agree), a short window has a resolution, and now and then a probe is simply wrong. This is probabilistic bisection
//! (Waeber, Frazier, Henderson 2013) with one more thing to go by: an overloaded service shows its capacity as its
//! goodput, the more closely the smaller the overload.

use statrs::function::erf::erf;

use crate::slo::{Verdict, overdispersion};
use crate::trial::Probe;

use super::Plan;
use super::judge::{GROWTH_LIMIT, latency_growth, queue_growth};

/// Points of the grid.
const POINTS: usize = 400;
/// Deviation of the capacity between probes, and how much each is believed beforehand.
const NOISE: [(f64, f64); 5] = [
    (0.005, 0.20),
    (0.01, 0.30),
    (0.02, 0.30),
    (0.04, 0.15),
    (0.08, 0.05),
];
/// Share of probes that fail for a reason that is none of the rate's (a stall, a burst of errors), and its belief.
const FALSE_FAILURES: [(f64, f64); 3] = [(0.02, 0.6), (0.1, 0.25), (0.3, 0.15)];
/// Share of probes that pass by luck.
const FALSE_PASSES: f64 = 0.02;
/// How an overloaded service's goodput relates to its capacity, the same for all probes of a search, and how much each is
/// believed beforehand: goodput = capacity x (capacity / rate)^k. Flat for a queue, falling where overload itself costs;
/// None: goodput says nothing.
const RETROGRADE: [(Option<f64>, f64); 5] = [
    (Some(0.0), 0.6),
    (Some(0.5), 0.1),
    (Some(1.0), 0.1),
    (Some(2.0), 0.1),
    (None, 0.1),
];
/// Good answers below which a goodput says nothing: a short stall is not told from an overload.
const LEAST_GOOD: u64 = 12;
/// Share of overloaded probes whose goodput fits that relation.
const HINT_WEIGHT: f64 = 0.8;

/// The belief.
#[derive(Debug, Clone)]
pub(super) struct Posterior {
    ln_rate: Vec<f64>,
    weight: Vec<f64>,
    /// Deviation of the capacity between probes, as believed now.
    noise: f64,
}

/// One probe as evidence.
struct Evidence {
    ln_rate: f64,
    passed: bool,
    /// Overload that this window could not have seen, as a share.
    blind: f64,
    /// ln of the capacity that the goodput suggests, with its deviation.
    hint: Option<(f64, f64)>,
}

impl Posterior {
    /// The belief after `loads`; None without a single verdict.
    pub(super) fn of(plan: &Plan, loads: &[&Probe]) -> Option<Self> {
        let background = background(loads);
        let evidence: Vec<Evidence> = loads
            .iter()
            .filter_map(|p| Evidence::of(plan, p, background))
            .collect();
        let highest_pass = evidence
            .iter()
            .filter(|e| e.passed)
            .map(|e| e.ln_rate)
            .reduce(f64::max);
        let lowest_fail = evidence
            .iter()
            .filter(|e| !e.passed)
            .map(|e| e.ln_rate)
            .reduce(f64::min);
        let lowest_hint = evidence
            .iter()
            .filter_map(|e| e.hint.map(|h| h.0))
            .reduce(f64::min);
        let lo = highest_pass
            .into_iter()
            .chain(lowest_fail)
            .chain(lowest_hint)
            .reduce(f64::min)?
            - 0.45;
        let hi = highest_pass.into_iter().chain(lowest_fail).reduce(f64::max)? + 0.45;
        let step = (hi - lo) / (POINTS - 1) as f64;
        let ln_rate: Vec<f64> = (0..POINTS).map(|i| lo + step * i as f64).collect();
        let mut weight = vec![0.0; POINTS];
        let mut noises = (0.0, 0.0);
        for (noise, belief) in NOISE {
            for (w, x) in weight.iter_mut().zip(&ln_rate) {
                // Likelihoods of some dozens of probes stay far above the smallest double.
                let l = belief * likelihood(&evidence, *x, noise);
                *w += l;
                noises = (noises.0 + l * noise, noises.1 + l);
            }
        }
        if let Some(prior) = plan.prior {
            for (w, x) in weight.iter_mut().zip(&ln_rate) {
                *w *= normal_density((x - prior.get().ln()) / 0.35) + 0.05;
            }
        }
        let sum: f64 = weight.iter().sum();
        if !(sum.is_finite() && sum > 0.0) {
            return None;
        }
        weight.iter_mut().for_each(|w| *w /= sum);
        Some(Self {
            ln_rate,
            weight,
            noise: noises.0 / noises.1,
        })
    }

    /// The rate below which the capacity lies with probability `q`.
    pub(super) fn quantile(&self, q: f64) -> f64 {
        let mut below = 0.0;
        for (i, (x, w)) in self.ln_rate.iter().zip(&self.weight).enumerate() {
            if below + w >= q {
                let part = if *w > 0.0 { (q - below) / w - 0.5 } else { 0.0 };
                let step = self.ln_rate.get(1).map_or(0.0, |b| b - self.ln_rate[0]);
                return if i == 0 { x.exp() } else { (x + part * step).exp() };
            }
            below += w;
        }
        self.ln_rate.last().map_or(0.0, |x| x.exp())
    }

    /// The highest rate that a next probe would find carried with probability `p`: the belief, and the wandering of
    /// the capacity until then.
    pub(super) fn carried(&self, p: f64) -> f64 {
        let passes = |at: f64| -> f64 {
            self.ln_rate
                .iter()
                .zip(&self.weight)
                .map(|(x, w)| w * normal_cdf((x - at) / self.noise))
                .sum()
        };
        let i = self.ln_rate.partition_point(|x| passes(*x) >= p);
        self.ln_rate.get(i.saturating_sub(1)).map_or(0.0, |x| x.exp())
    }

    /// Probability that the capacity is above `rate`.
    pub(super) fn above(&self, rate: f64) -> f64 {
        let x = rate.ln();
        self.ln_rate
            .iter()
            .zip(&self.weight)
            .filter(|(l, _)| **l > x)
            .map(|(_, w)| w)
            .sum()
    }
}

impl Evidence {
    fn of(plan: &Plan, p: &Probe, background: f64) -> Option<Self> {
        let passed = match p.verdict {
            Verdict::Meets => true,
            Verdict::Violates => false,
            Verdict::Void => return None,
        };
        let m = &p.measurement;
        let se = [queue_growth(m), latency_growth(m)]
            .into_iter()
            .flatten()
            .map(|d| d.se)
            .fold(f64::INFINITY, f64::min);
        let blind = if se.is_finite() {
            (GROWTH_LIMIT + se).min(0.2)
        } else {
            0.1
        };
        let hint = if passed || plan.errors_only {
            None
        } else {
            hint_above(plan, p, background)
        };
        Some(Self {
            ln_rate: m.offered.get().ln(),
            passed,
            blind,
            hint,
        })
    }

    /// Probability that a probe like this passes if the capacity is exp(`x`) and wanders by `noise`.
    fn passes(&self, x: f64, noise: f64) -> f64 {
        let spread = noise.hypot(self.blind / 2.0);
        normal_cdf((x + self.blind / 2.0 - self.ln_rate) / spread)
    }
}

/// Of all `evidence`, if the capacity is exp(`x`) and wanders by `noise`.
fn likelihood(evidence: &[Evidence], x: f64, noise: f64) -> f64 {
    FALSE_FAILURES
        .iter()
        .map(|(fails, belief)| belief * likelihood_with(evidence, x, noise, *fails))
        .sum()
}

fn likelihood_with(evidence: &[Evidence], x: f64, noise: f64, false_failures: f64) -> f64 {
    let mut by_relation = RETROGRADE.map(|(_, belief)| belief);
    for e in evidence {
        let p = FALSE_PASSES + (1.0 - FALSE_PASSES - false_failures) * e.passes(x, noise);
        let outcome = if e.passed { p } else { 1.0 - p };
        for ((k, _), l) in RETROGRADE.iter().zip(&mut by_relation) {
            *l *= match (e.hint, k) {
                (Some((at, sd)), Some(k)) => {
                    // Solved for the capacity; the same change of variable scales the deviation.
                    let sd = sd.hypot(noise);
                    let z = ((at + k * e.ln_rate) / (1.0 + k) - x)
                        / (sd / (1.0 + k)).hypot(noise * k / (1.0 + k));
                    HINT_WEIGHT * normal_density(z) / sd + (1.0 - HINT_WEIGHT) * outcome
                }
                _ => outcome,
            };
        }
    }
    by_relation.iter().sum()
}

/// Share of the answers that are bad where the rate was carried: errors that are there at any load.
fn background(loads: &[&Probe]) -> f64 {
    let (good, bad) = loads
        .iter()
        .filter(|p| p.verdict == Verdict::Meets)
        .flat_map(|p| &p.measurement.bins)
        .fold((0, 0), |s, b| (s.0 + b.completed_good, s.1 + b.completed_bad));
    bad as f64 / (good + bad).max(1) as f64
}

/// The goodput under overload as a reading of the capacity: (ln rate, deviation).
pub(super) fn hint(plan: &Plan, p: &Probe) -> Option<(f64, f64)> {
    hint_above(plan, p, 0.0)
}

/// What a confirmation may lose so that its upper bound is still under the limit: 95 % one-sided, of as many requests as
/// it will have.
fn confirmable_loss(plan: &Plan, rate: f64) -> f64 {
    let limit = plan.slo.errors.get().min(0.5);
    let n = (rate * plan.confirm.as_secs_f64()).max(300.0);
    (limit - 1.645 * (limit * (1.0 - limit) / n).sqrt()).max(0.0)
}

/// The same where a share `background` of the answers is bad at any load. Where the excess is refused at once, the
/// sustainable rate is a little higher than the goodput: some loss is allowed.
fn hint_above(plan: &Plan, p: &Probe, background: f64) -> Option<(f64, f64)> {
    let m = &p.measurement;
    let span: f64 = m.bins.iter().map(|b| b.width_s).sum();
    let sum = |of: fn(&crate::measurement::Bin) -> u64| m.bins.iter().map(of).sum::<u64>();
    let (good, bad) = (sum(|b| b.completed_good), sum(|b| b.completed_bad));
    let rate = m.offered.get();
    if span <= 0.0 || good < LEAST_GOOD {
        return None;
    }
    let goodput = good as f64 / span;
    // A stall or a burst of errors: the mean of such a window is no capacity.
    let (least, most) = m.bins.iter().fold((f64::INFINITY, 0.0_f64), |(a, b), x| {
        let per_s = x.completed_good as f64 / x.width_s.max(0.05);
        (a.min(per_s), b.max(per_s))
    });
    let bin_s = span / m.bins.len() as f64;
    if most - least > 0.25 * goodput + 3.0 * (goodput / bin_s).sqrt() {
        return None;
    }
    let missing = rate * span - good as f64;
    let refused = bad as f64 > 0.6 * missing;
    let blocks: Vec<(u64, u64)> = m
        .bins
        .iter()
        .map(|b| (b.completed_bad.min(b.scheduled), b.scheduled))
        .collect();
    if refused && overdispersion(&blocks) > 3.0 + 0.02 * goodput * bin_s {
        return None;
    }
    let at = if refused {
        goodput / (1.0 - confirmable_loss(plan, goodput))
    } else {
        goodput / (1.0 - background.min(plan.slo.errors.get()).min(0.5))
    };
    let over = (rate / goodput).ln();
    if over < 0.005 {
        return None;
    }
    let sd = (0.25 / good as f64).sqrt().hypot(0.15 * (over - 0.02).max(0.0));
    Some((at.ln(), sd.max(0.003)))
}

fn normal_cdf(z: f64) -> f64 {
    0.5 * (1.0 + erf(z / std::f64::consts::SQRT_2))
}

fn normal_density(z: f64) -> f64 {
    (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

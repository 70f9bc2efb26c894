//! Service-level objective, the verdict on a probe, and the statistics of an error ratio. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use statrs::distribution::{Beta, ContinuousCDF, StudentsT};

use crate::units::Ratio;

/// What a sustainable rate must keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slo {
    /// Largest goodput loss.
    pub errors: Ratio,
    /// Largest 95th percentile from the scheduled time.
    #[serde(default)]
    pub p95: Option<Duration>,
    /// Largest 99th percentile from the scheduled time.
    #[serde(default)]
    pub p99: Option<Duration>,
    /// Largest mean latency from the scheduled time.
    #[serde(default)]
    pub mean: Option<Duration>,
}

impl Default for Slo {
    fn default() -> Self {
        Self {
            errors: Ratio::saturating(0.05),
            p95: None,
            p99: None,
            mean: None,
        }
    }
}

/// The judgement of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The service carried the rate.
    Meets,
    /// It did not.
    Violates,
    /// The probe says nothing: the generator could not drive it.
    Void,
}

/// Upper one-sided bound of a share, `bad` of `n` seen, after Clopper and Pearson (1934): the exact bound for
/// independent trials. Sizes for scale at 95 %: 59 trials without a failure put the share under 5 %.
#[must_use]
pub fn share_upper(bad: u64, n: u64, confidence: f64) -> f64 {
    if n == 0 || bad >= n {
        return 1.0;
    }
    let (k, n) = (bad as f64, n as f64);
    Beta::new(k + 1.0, n - k).map_or(1.0, |b| b.inverse_cdf(confidence))
}

/// Lower one-sided bound of the same.
#[must_use]
pub fn share_lower(bad: u64, n: u64, confidence: f64) -> f64 {
    if n == 0 || bad == 0 {
        return 0.0;
    }
    let (k, n) = (bad.min(n) as f64, n as f64);
    Beta::new(k, n - k + 1.0).map_or(0.0, |b| b.inverse_cdf(1.0 - confidence))
}

/// Upper one-sided bound of a share from time blocks of (bad, all), by Student's t over the blocks' shares.
///
/// Errors cluster, so requests are not independent but blocks of seconds nearly are; the bound is never tighter
/// than the binomial one. Fewer than three blocks say nothing of clustering: the binomial bound alone.
#[must_use]
pub fn blocks_upper(blocks: &[(u64, u64)], confidence: f64) -> f64 {
    let (bad, n) = blocks.iter().fold((0, 0), |(b, n), x| (b + x.0, n + x.1));
    let exact = share_upper(bad, n, confidence);
    let full: Vec<f64> = blocks
        .iter()
        .filter(|b| b.1 > 0)
        .map(|b| b.0 as f64 / b.1 as f64)
        .collect();
    if full.len() < 3 || n == 0 {
        return exact;
    }
    let k = full.len() as f64;
    let mean = bad as f64 / n as f64;
    let var = full.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (k - 1.0);
    let t = StudentsT::new(0.0, 1.0, k - 1.0).map_or(2.0, |d| d.inverse_cdf(confidence));
    (mean + t * (var / k).sqrt()).clamp(exact, 1.0)
}

/// Wald's log-likelihood ratio (1945) of `bad` of `n` for a share of `p1` against `p0`, nats.
#[must_use]
pub fn wald_llr(bad: u64, n: u64, p0: f64, p1: f64) -> f64 {
    let (bad, good) = (bad as f64, n.saturating_sub(bad) as f64);
    bad * (p1 / p0).ln() + good * ((1.0 - p1) / (1.0 - p0)).ln()
}

/// How much more the blocks' counts scatter than independent trials would: Pearson's statistic over its degrees of
/// freedom, at least 1.
#[must_use]
pub fn overdispersion(blocks: &[(u64, u64)]) -> f64 {
    let (bad, n) = blocks.iter().fold((0, 0), |(b, n), x| (b + x.0, n + x.1));
    if blocks.len() < 2 || bad == 0 || bad >= n {
        return 1.0;
    }
    let p = bad as f64 / n as f64;
    let chi: f64 = blocks
        .iter()
        .filter(|b| b.1 > 0)
        .map(|b| (b.0 as f64 - b.1 as f64 * p).powi(2) / (b.1 as f64 * p * (1.0 - p)))
        .sum();
    (chi / (blocks.len() - 1) as f64).max(1.0)
}

/// A trend with the standard error that a random walk of the same steps would give it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Drift {
    /// Least-squares slope, units per second.
    pub per_s: f64,
    /// Its standard error, units per second.
    pub se: f64,
}

/// The trend of `values`, equally spaced over `span_s` seconds.
///
/// A queue near its limit wanders: the slope of a random walk with steps of deviation s over k steps in time T has the
/// variance 6/5 k s^2 / T^2. An ordinary regression error takes the points for independent and calls every
/// wandering queue a growing one. A single jump (a stall) raises s and is forgiven; steady growth has none.
#[must_use]
pub fn drift(values: &[f64], span_s: f64) -> Drift {
    let k = values.len();
    if k < 3 || span_s <= 0.0 {
        return Drift::default();
    }
    let n = k as f64;
    let dt = span_s / n;
    let mean = values.iter().sum::<f64>() / n;
    let mid = (n - 1.0) / 2.0;
    let (mut cov, mut var) = (0.0, 0.0);
    for (i, v) in values.iter().enumerate() {
        cov += (i as f64 - mid) * (v - mean);
        var += (i as f64 - mid).powi(2);
    }
    let steps: Vec<f64> = values.windows(2).map(|w| w[1] - w[0]).collect();
    let m = steps.len() as f64;
    let step = steps.iter().sum::<f64>() / m;
    let s2 = steps.iter().map(|x| (x - step).powi(2)).sum::<f64>() / (m - 1.0).max(1.0);
    Drift {
        per_s: cov / var / dt,
        se: (1.2 * m * s2).sqrt() / span_s,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_bound_needs_the_textbook_numbers_of_requests() {
        assert!(share_upper(0, 59, 0.95) < 0.05);
        assert!(share_upper(0, 58, 0.95) > 0.05);
        assert!(share_upper(52, 1304, 0.95) < 0.0501);
        assert!((share_lower(5, 5, 0.95) - 0.05_f64.powf(0.2)).abs() < 1e-6);
        assert!((share_upper(0, 0, 0.95) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn clustered_errors_widen_the_bound_and_even_ones_do_not() {
        let even = [(3, 100); 10];
        let mut burst = [(0, 100); 10];
        burst[4] = (30, 100);
        assert!((blocks_upper(&even, 0.95) - share_upper(30, 1000, 0.95)).abs() < 1e-9);
        assert!(blocks_upper(&burst, 0.95) > 0.07);
        assert!(overdispersion(&burst) > 10.0);
        assert!(overdispersion(&even) < 1.1);
    }

    #[test]
    fn walds_ratio_points_to_the_nearer_share() {
        assert!(wald_llr(7, 100, 0.03, 0.07) > 0.0);
        assert!(wald_llr(3, 100, 0.03, 0.07) < 0.0);
    }

    #[test]
    fn steady_growth_is_certain_and_a_jump_is_not() {
        let line: Vec<f64> = (0..10).map(f64::from).collect();
        let d = drift(&line, 10.0);
        assert!((d.per_s - 1.0).abs() < 1e-9 && d.se < 1e-9);
        let jump: Vec<f64> = (0..10).map(|i| if i < 5 { 0.0 } else { 5.0 }).collect();
        let d = drift(&jump, 10.0);
        assert!(d.per_s - 1.5 * d.se < 0.0, "{d:?}");
        assert_eq!(drift(&[1.0], 1.0), Drift::default());
    }
}

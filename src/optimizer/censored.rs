//! Bounds as observations: "at least" from a generator at its limit, "at most" from a lost race.
//!
//! A bound is a probit likelihood of the function, and expectation propagation replaces it with the normal
//! observation that has the same effect (Rasmussen & Williams 2006, section 3.6; its moments are eqs. 3.82).
//! So a race that was cut short still pushes the model down where it was lost, by as much as it says.

use statrs::function::erf::erfc;

use super::gp::{Data, Gp, Priors, Theta};

const SWEEPS: usize = 4;
/// New sites are mixed with the old ones: parallel updates may swing.
const DAMPING: f64 = 0.8;
/// Sites wider than this say nothing.
const MAX_VARIANCE: f64 = 25.0;

/// A bound on the value of a point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bound {
    /// The point's place in the data.
    pub(super) index: usize,
    /// The bound.
    pub(super) at: f64,
    /// It is a lower bound.
    pub(super) at_least: bool,
}

/// Puts a first guess for each bound into the data: a little beyond it, and vague.
pub(super) fn guess(data: &mut Data, bounds: &[Bound]) {
    for b in bounds {
        data.y[b.index] = b.at + if b.at_least { 0.1 } else { -0.15 };
        data.variance[b.index] = 0.0625;
    }
}

/// Replaces the values of the bounded points by those that have the bounds' effect under `theta`.
pub(super) fn settle(data: &mut Data, bounds: &[Bound], theta: &Theta, priors: &Priors) {
    for _ in 0..if bounds.is_empty() { 0 } else { SWEEPS } {
        let Some(gp) = Gp::new(data.clone(), theta.clone(), priors) else {
            return;
        };
        let noise2 = gp.noise_sd().powi(2);
        let without = gp.leave_one_out();
        for b in bounds {
            let cavity = without[b.index];
            // Leave-one-out includes the site's own width.
            let variance = (cavity.sd * cavity.sd - gp.diagonal(b.index)).max(1e-6);
            let (mean, width) = site(b, cavity.mean, variance, noise2);
            data.y[b.index] += DAMPING * (mean - data.y[b.index]);
            // The learned noise comes on top of the variance of a point.
            let width = (width - noise2).max(1e-6);
            data.variance[b.index] += DAMPING * (width - data.variance[b.index]);
        }
    }
}

/// Mean and variance of the normal observation that moves N(mean, variance) as the bound does.
fn site(b: &Bound, mean: f64, variance: f64, noise2: f64) -> (f64, f64) {
    let sign = if b.at_least { 1.0 } else { -1.0 };
    let spread = (noise2 + variance).sqrt();
    let z = sign * (mean - b.at) / spread;
    let hazard = hazard(z);
    let moved = mean + sign * variance * hazard / spread;
    let shrink = variance * hazard * (z + hazard) / (noise2 + variance);
    let left = (variance * (1.0 - shrink)).max(variance * 1e-3);
    let precision = 1.0 / left - 1.0 / variance;
    if precision <= 1.0 / MAX_VARIANCE {
        return (mean.clamp(b.at - 3.0, b.at + 3.0), MAX_VARIANCE);
    }
    let at = (moved / left - mean / variance) / precision;
    (at.clamp(b.at - 3.0, b.at + 3.0), 1.0 / precision)
}

/// Density over distribution of the standard normal, also far in the tail.
fn hazard(z: f64) -> f64 {
    if z < -10.0 {
        return -z - 1.0 / z;
    }
    let density = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
    density / (0.5 * erfc(-z / std::f64::consts::SQRT_2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(at: f64, at_least: bool) -> Bound {
        Bound {
            index: 0,
            at,
            at_least,
        }
    }

    #[test]
    fn a_bound_that_is_believed_already_says_nothing() {
        let (_, width) = site(&bound(-5.0, true), 0.0, 0.01, 0.0025);
        assert!(width >= MAX_VARIANCE - 1e-9, "{width}");
    }

    #[test]
    fn a_surprising_bound_moves_the_belief_beyond_it() {
        for (at_least, sign) in [(true, 1.0), (false, -1.0)] {
            let (mean, width) = site(&bound(sign * 0.5, at_least), 0.0, 0.04, 0.0025);
            assert!(sign * mean > 0.4 && width < 0.1, "{mean} {width}");
        }
    }

    #[test]
    fn the_moments_are_those_of_numerical_integration() {
        let (mean, variance, noise2) = (0.1, 0.09, 0.0025_f64);
        let b = bound(0.3, true);
        let (mut z0, mut z1, mut z2) = (0.0, 0.0, 0.0);
        for i in -4_000..4_000 {
            let f = f64::from(i) * 5e-4;
            let prior = (-0.5 * (f - mean) * (f - mean) / variance).exp();
            let w = prior * 0.5 * erfc(-(f - b.at) / noise2.sqrt() / std::f64::consts::SQRT_2);
            z0 += w;
            z1 += w * f;
            z2 += w * f * f;
        }
        let (m, v) = (z1 / z0, z2 / z0 - (z1 / z0).powi(2));
        let (at, width) = site(&b, mean, variance, noise2);
        let precision = 1.0 / variance + 1.0 / width;
        let combined = (mean / variance + at / width) / precision;
        assert!((combined - m).abs() < 1e-4, "{combined} {m}");
        assert!((1.0 / precision - v).abs() < 1e-4, "{} {v}", 1.0 / precision);
    }

    #[test]
    fn the_hazard_is_smooth_where_its_forms_meet() {
        assert!((hazard(-10.000_001) - hazard(-9.999_999)).abs() < 0.002);
    }
}

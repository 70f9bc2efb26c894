//! Boundaries of a group-sequential test: how far a standardised mean must lie from 0 at each look, so that
//! all looks together err with a given probability.
//!
//! Spending function alpha t^3 (Kim & DeMets 1987, Biometrika 74, rho = 3) of the share t of the planned
//! rounds; the boundary of each look follows by recursive numerical integration (Armitage, McPherson & Rowe
//! 1969; Jennison & Turnbull 2000, chapter 19). Normal theory: small samples are brought here by their
//! significance level, the t quantile with the same tail.

use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// Half the width of the integration range, in deviations of the sum at the last look, and its points.
const RANGE: f64 = 6.0;
const POINTS: i32 = 160;
/// First look: nothing is decided on one pair.
pub(super) const FIRST_LOOK: u32 = 2;

/// P(Z > z).
pub(super) fn tail(z: f64) -> f64 {
    0.5 * statrs::function::erf::erfc(z / std::f64::consts::SQRT_2)
}

/// The z that is exceeded with probability `p`.
pub(super) fn z_of(p: f64) -> f64 {
    Normal::new(0.0, 1.0).map_or(f64::INFINITY, |n| {
        n.inverse_cdf((1.0 - p).clamp(0.0, 1.0 - 1e-15))
    })
}

/// The t of `freedom` degrees that is exceeded as often as the normal exceeds `z`.
pub(super) fn t_like(z: f64, freedom: f64) -> f64 {
    let p = tail(z).clamp(1e-15, 0.5);
    StudentsT::new(0.0, 1.0, freedom).map_or(f64::INFINITY, |t| -t.inverse_cdf(p))
}

/// Standardised upper boundaries for the looks `FIRST_LOOK..=last`, of `planned` rounds, that together are
/// crossed with probability `alpha` by a mean of 0. With `closing`, the last look spends all that is left.
pub(super) fn boundaries(alpha: f64, planned: u32, last: u32, closing: bool) -> Vec<f64> {
    let spent = |n: u32| {
        let t = f64::from(n) / f64::from(planned.max(1));
        if n >= planned || (closing && n == last) {
            alpha
        } else {
            alpha * t.powi(3)
        }
    };
    let step = 2.0 * RANGE * f64::from(last.max(1)).sqrt() / f64::from(POINTS);
    let at = |i: i32| f64::from(i - POINTS / 2) * step;
    let mut found = Vec::new();
    // Density of the sum of n standard normal pairs that has not crossed any boundary so far.
    let mut density: Vec<f64> = Vec::new();
    let (mut before, mut used) = (0, 0.0);
    for n in FIRST_LOOK..=last {
        let added = f64::from(n - before);
        density = if density.is_empty() {
            (0..=POINTS).map(|i| normal_density(at(i), added)).collect()
        } else {
            advance(&density, added, step)
        };
        let allowed = (spent(n) - used).max(alpha * 1e-6);
        // From the right: the largest sum beyond which no more than `allowed` lies.
        let mut mass = 0.0;
        let mut cut = POINTS;
        while cut > 0 {
            let slice = 0.5 * (density_at(&density, cut) + density_at(&density, cut - 1)) * step;
            if mass + slice > allowed {
                break;
            }
            mass += slice;
            cut -= 1;
        }
        let slice = 0.5 * (density_at(&density, cut) + density_at(&density, cut - 1)) * step;
        let share = if slice > 0.0 {
            ((allowed - mass) / slice).clamp(0.0, 1.0)
        } else {
            0.0
        };
        let boundary = at(cut) - share * step;
        found.push(boundary / f64::from(n).sqrt());
        for (i, d) in density.iter_mut().enumerate() {
            if i32::try_from(i).is_ok_and(|i| at(i) >= boundary) {
                *d = 0.0;
            }
        }
        used += allowed;
        before = n;
    }
    found
}

fn normal_density(x: f64, variance: f64) -> f64 {
    (-0.5 * x * x / variance).exp() / (2.0 * std::f64::consts::PI * variance).sqrt()
}

fn density_at(density: &[f64], i: i32) -> f64 {
    usize::try_from(i)
        .ok()
        .and_then(|i| density.get(i))
        .copied()
        .unwrap_or(0.0)
}

/// The density after `added` more pairs: a convolution on the grid.
fn advance(density: &[f64], added: f64, step: f64) -> Vec<f64> {
    let kernel: Vec<f64> = (0..density.len())
        .map(|k| normal_density(k_distance(k, step), added) * step)
        .collect();
    (0..density.len())
        .map(|i| {
            density
                .iter()
                .enumerate()
                .map(|(j, d)| d * kernel[i.abs_diff(j)])
                .sum()
        })
        .collect()
}

#[allow(clippy::cast_precision_loss)] // grid indices
fn k_distance(k: usize, step: f64) -> f64 {
    k as f64 * step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_look_is_the_plain_test() {
        let z = boundaries(0.025, 2, 2, true);
        assert!((z[0] - 1.96).abs() < 0.02, "{z:?}");
    }

    #[test]
    fn early_looks_ask_for_more_and_the_last_for_little_more_than_a_single_look() {
        let z = boundaries(0.025, 8, 8, false);
        assert_eq!(z.len(), 7);
        assert!(z.windows(2).all(|w| w[0] > w[1]), "{z:?}");
        assert!(z[0] > 3.0 && (1.96..2.25).contains(&z[6]), "{z:?}");
    }

    #[test]
    fn all_looks_together_err_as_often_as_promised() {
        use rand::{RngExt, SeedableRng};
        let z = boundaries(0.025, 8, 8, false);
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let runs = 40_000;
        let crossed = (0..runs)
            .filter(|_| {
                let mut sum = 0.0;
                (1..=8_u32).any(|n| {
                    let u: f64 = 1.0 - rng.random::<f64>();
                    let v: f64 = rng.random::<f64>();
                    sum += (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos();
                    n >= FIRST_LOOK && sum / f64::from(n).sqrt() > z[n as usize - 2]
                })
            })
            .count();
        let share = crossed as f64 / f64::from(runs);
        assert!((0.0215..0.0285).contains(&share), "{share}");
    }

    #[test]
    fn few_degrees_of_freedom_ask_for_more() {
        assert!(t_like(1.96, 4.0) > 2.7 && t_like(1.96, 1_000.0) < 1.97);
        assert!((z_of(0.025) - 1.96).abs() < 0.001);
    }
}

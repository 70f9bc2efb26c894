//! What a trial of a config is worth: log expected improvement, and expected saving.
//!
//! Expected improvement is taken as its logarithm, in a form that keeps its slope where the improvement is
//! far in the tail (Ament et al. 2023, *Unexpected Improvements to Expected Improvement*), so that the best
//! of many hopeless candidates is still found.

use statrs::function::erf::erfc;

use super::gp::Belief;
use super::model::Outlook;

const LN_SQRT_2PI: f64 = 0.918_938_533_204_672_7;

/// ln(phi(z) + z Phi(z)), for any z.
pub(super) fn log_h(z: f64) -> f64 {
    let density = |z: f64| (-0.5 * z * z - LN_SQRT_2PI).exp();
    if z > -10.0 {
        return (density(z) + z * below(z)).max(f64::MIN_POSITIVE).ln();
    }
    // Asymptotic series of the Mills ratio; its relative error is below 1e-5 from here on.
    let w = 1.0 / (z * z);
    -0.5 * z * z - LN_SQRT_2PI + w.ln() + (1.0 - w * (3.0 - w * (15.0 - 105.0 * w))).ln()
}

/// Phi(z).
fn below(z: f64) -> f64 {
    0.5 * erfc(-z / std::f64::consts::SQRT_2)
}

/// ln of the expected improvement of `b` over `best`.
pub(super) fn log_improvement(b: Belief, best: f64) -> f64 {
    let sd = b.sd.max(1e-9);
    log_h((b.mean - best) / sd) + sd.ln()
}

/// Probability that the rate is at least `level`.
pub(super) fn chance_of(b: Belief, level: f64) -> f64 {
    below((b.mean - level) / b.sd.max(1e-9))
}

/// Worth of a trial that looks for a higher rate than `best`.
pub(super) fn faster(o: &Outlook, best: f64) -> f64 {
    o.rate.map_or(0.0, |b| log_improvement(b, best)) + o.works.ln()
}

/// Worth of a trial that looks for a config cheaper than `cheapest` that carries `level`.
pub(super) fn cheaper(o: &Outlook, level: f64, cost: f64, cheapest: f64) -> f64 {
    let saving = (cheapest - cost) / cheapest.abs().max(1e-12);
    match o.rate {
        Some(b) if saving > 0.0 => {
            saving.ln() + chance_of(b, level).max(f64::MIN_POSITIVE).ln() + 2.0 * o.works.ln()
        }
        _ => f64::NEG_INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_right_near_and_smooth_far_away() {
        // E[max(x, 0)] of a standard normal is phi(0).
        assert!((log_h(0.0) + LN_SQRT_2PI).abs() < 1e-12);
        assert!((log_h(-10.000_01) - log_h(-9.999_99)).abs() < 1e-3);
        let mut last = log_h(-300.0);
        assert!(last.is_finite());
        for i in -299..40 {
            let next = log_h(f64::from(i));
            assert!(next > last, "at {i}");
            last = next;
        }
    }

    #[test]
    fn hope_and_ignorance_are_worth_a_trial_failure_is_not() {
        let look = |mean, sd, works| Outlook {
            rate: Some(Belief { mean, sd }),
            works,
        };
        assert!(faster(&look(1.0, 0.1, 1.0), 1.0) > faster(&look(0.9, 0.1, 1.0), 1.0));
        assert!(faster(&look(0.9, 0.3, 1.0), 1.0) > faster(&look(0.9, 0.1, 1.0), 1.0));
        assert!(faster(&look(1.0, 0.1, 0.1), 1.0) < faster(&look(1.0, 0.1, 0.9), 1.0));
        assert!(cheaper(&look(1.0, 0.1, 1.0), 0.9, 1.0, 2.0) > cheaper(&look(1.0, 0.1, 1.0), 0.9, 1.8, 2.0));
        assert!(cheaper(&look(1.0, 0.1, 1.0), 0.9, 2.0, 2.0).is_infinite());
    }
}

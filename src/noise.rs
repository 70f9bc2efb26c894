//! The noise floor of a study and its drift: how much the same configuration differs from itself, which gain can be
//! seen at all, and whether the machine has changed since the beginning. Pure arithmetic on logarithms of rates: a
//! gain is a ratio, and the spread of capacities is proportional to their size.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// What is believed before the first repeat: a coefficient of variation of 4 %. Measured on repeats of one config it was
/// 2.2 % where the pool binds and 8 % where the CPU does.
const PRIOR_CV: f64 = 0.04;
/// Weight of that belief, in degrees of freedom: after five repeats the data outweigh it.
const PRIOR_DF: f64 = 4.0;

/// Spread of a repeated measurement of one config.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// Standard deviation of ln(rate): the coefficient of variation, for small values.
    cv: f64,
    /// Degrees of freedom, the prior's included.
    df: f64,
    /// Repeats beyond the first of each config.
    repeats: usize,
}

impl Default for Noise {
    fn default() -> Self {
        Self {
            cv: PRIOR_CV,
            df: PRIOR_DF,
            repeats: 0,
        }
    }
}

impl Noise {
    /// From groups of repeated measurements, one group a config (the A/A baseline, anchors, finals): pooled variance of
    /// the logarithms, shrunk towards the prior (inverse-chi-squared, Gelman et al., Bayesian Data Analysis, 2.6).
    /// Rates that are not positive are left out.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn of(groups: &[Vec<f64>]) -> Self {
        let (mut ss, mut repeats) = (0.0, 0usize);
        for g in groups {
            let l = logs(g);
            if l.len() < 2 {
                continue;
            }
            let mean = l.iter().sum::<f64>() / l.len() as f64;
            ss += l.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
            repeats += l.len() - 1;
        }
        let df = PRIOR_DF + repeats as f64;
        Self {
            cv: ((PRIOR_DF * PRIOR_CV * PRIOR_CV + ss) / df).sqrt(),
            df,
            repeats,
        }
    }

    /// The coefficient of variation of one measurement, 0.04 is 4 %.
    #[must_use]
    pub fn cv(&self) -> f64 {
        self.cv
    }

    /// How many repeats it rests on.
    #[must_use]
    pub fn repeats(&self) -> usize {
        self.repeats
    }

    /// Half-width of the two-sided 95 % interval of a difference of mean logarithms, `n` measurements against `m`.
    #[must_use]
    pub fn margin(&self, n: usize, m: usize) -> f64 {
        self.t(0.975) * self.error(n, m)
    }

    /// The minimum detectable gain with `n` measurements against `m`: the smallest relative change that a two-sided 5 % test
    /// finds in 80 % of cases, 0.1 is 10 %.
    #[must_use]
    pub fn detectable(&self, n: usize, m: usize) -> f64 {
        ((self.t(0.975) + self.t(0.8)) * self.error(n, m)).exp_m1()
    }

    /// Rounds of pairs after which a gain of `gain` would be found; None when `most` are not enough.
    #[must_use]
    pub fn pairs_for(&self, gain: f64, most: usize) -> Option<usize> {
        (1..=most).find(|&n| self.detectable(n, n) <= gain)
    }

    /// Whether more repeats would only polish: the interval of the difference is narrower than `wanted`, or lies
    /// clear of 0 already.
    #[must_use]
    pub fn enough(&self, difference_ln: f64, n: usize, m: usize, wanted: f64) -> bool {
        let margin = self.margin(n, m);
        margin <= wanted.max(0.0).ln_1p() || difference_ln.abs() > 2.0 * margin
    }

    #[allow(clippy::cast_precision_loss)]
    fn error(&self, n: usize, m: usize) -> f64 {
        if n == 0 || m == 0 {
            return f64::INFINITY;
        }
        self.cv * (1.0 / n as f64 + 1.0 / m as f64).sqrt()
    }

    fn t(&self, p: f64) -> f64 {
        t_quantile(self.df, p)
    }
}

fn t_quantile(df: f64, p: f64) -> f64 {
    StudentsT::new(0.0, 1.0, df).map_or(f64::INFINITY, |t| t.inverse_cdf(p))
}

fn logs(rates: &[f64]) -> Vec<f64> {
    rates
        .iter()
        .filter(|r| r.is_finite() && **r > 0.0)
        .map(|r| r.ln())
        .collect()
}

/// One measurement of the baseline in the course of a study.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Anchor {
    /// Since the study began, hours of work (an interrupted night does not count).
    pub hours: f64,
    /// Sustainable rate, requests per second.
    pub rps: f64,
}

/// How the same configuration changed over the study.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// Relative change an hour, 0.01 is 1 %.
    pub per_hour: f64,
    /// Upper and lower end of its 95 % interval.
    pub interval: [f64; 2],
    /// The interval excludes no change, and the change over the study exceeds the noise of one measurement.
    pub significant: bool,
    /// Middle of the anchors' times, where the correction is 1.
    centre_hours: f64,
    slope_ln: f64,
}

impl Drift {
    /// Least squares of ln(rate) over time; None with fewer than three anchors or no spread in time. The residuals' spread
    /// is not taken below the study's noise: three points that happen to lie on a line prove nothing.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn of(anchors: &[Anchor], noise: &Noise) -> Option<Self> {
        let points: Vec<(f64, f64)> = anchors
            .iter()
            .filter(|a| a.rps > 0.0 && a.rps.is_finite() && a.hours.is_finite())
            .map(|a| (a.hours, a.rps.ln()))
            .collect();
        let n = points.len() as f64;
        if points.len() < 3 {
            return None;
        }
        let mx = points.iter().map(|p| p.0).sum::<f64>() / n;
        let my = points.iter().map(|p| p.1).sum::<f64>() / n;
        let sxx: f64 = points.iter().map(|p| (p.0 - mx).powi(2)).sum();
        if sxx <= 1e-12 {
            return None;
        }
        let slope = points.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum::<f64>() / sxx;
        let residual: f64 = points
            .iter()
            .map(|p| (p.1 - my - slope * (p.0 - mx)).powi(2))
            .sum();
        let sd = (residual / (n - 2.0)).sqrt().max(noise.cv());
        let margin = t_quantile(n - 2.0 + PRIOR_DF, 0.975) * sd / sxx.sqrt();
        let span = points.iter().map(|p| p.0).fold(f64::NEG_INFINITY, f64::max)
            - points.iter().map(|p| p.0).fold(f64::INFINITY, f64::min);
        Some(Self {
            per_hour: slope.exp_m1(),
            interval: [(slope - margin).exp_m1(), (slope + margin).exp_m1()],
            significant: slope.abs() > margin && (slope * span).abs() > noise.cv(),
            centre_hours: mx,
            slope_ln: slope,
        })
    }

    /// `rps` measured at `hours`, as it would have been in the middle of the study. Unchanged unless the drift is
    /// significant.
    #[must_use]
    pub fn corrected(&self, rps: f64, hours: f64) -> f64 {
        if self.significant {
            rps * (-self.slope_ln * (hours - self.centre_hours)).exp()
        } else {
            rps
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn repeats_move_the_noise_from_the_prior_to_the_data() {
        let prior = Noise::default().cv();
        let one = Noise::of(&[vec![100.0, 100.5]]).cv();
        let many = Noise::of(&[[99.0, 101.0].repeat(20)]).cv();
        assert!(
            one < prior && one > 0.02,
            "{one}: one quiet pair is not believed alone"
        );
        assert!((many - 0.0150).abs() < 0.002, "{many}");
        let loud = Noise::of(&[vec![80.0, 120.0], vec![90.0, 115.0]]).cv();
        assert!(loud > 2.0 * prior, "{loud}");
    }

    #[test]
    fn the_detectable_gain_shrinks_with_the_root_of_the_pairs() {
        let n = Noise::default();
        let (one, four) = (n.detectable(1, 1), n.detectable(4, 4));
        assert!((one.ln_1p() / four.ln_1p() - 2.0).abs() < 1e-9, "{one} {four}");
        // 4 % spread, one pair: t(0.975) + t(0.8) with 4 degrees of freedom is 2.776 + 0.941
        assert!(
            (one - (3.717_f64 * 0.04 * 2f64.sqrt()).exp_m1()).abs() < 1e-3,
            "{one}"
        );
        assert_eq!(n.pairs_for(four, 9), Some(4));
        assert_eq!(n.pairs_for(0.001, 9), None);
        assert!(n.detectable(0, 3).is_infinite());
    }

    #[test]
    fn enough_is_a_narrow_interval_or_a_clear_difference() {
        let n = Noise::default();
        assert!(n.enough(0.9, 1, 1, 0.01), "a factor of 2.5 needs no repeat");
        assert!(!n.enough(0.02, 1, 1, 0.01));
        assert!(n.enough(0.0, 400, 400, 0.01), "narrower than wanted");
    }

    fn anchors(slope: f64) -> Vec<Anchor> {
        let wobble = [0.01, -0.012, 0.004, -0.006, 0.011, -0.007];
        (0..6)
            .map(|i| {
                let hours = f64::from(i);
                Anchor {
                    hours,
                    rps: 200.0 * (slope * hours + wobble[i as usize]).exp(),
                }
            })
            .collect()
    }

    #[test]
    fn drift_is_found_and_taken_out_and_noise_is_left_alone() {
        let noise = Noise::of(&[vec![200.0, 204.0, 198.0]]);
        let d = Drift::of(&anchors(-0.05), &noise).unwrap();
        assert!(d.significant && (d.per_hour + 0.049).abs() < 0.01, "{d:?}");
        let (first, last) = (
            d.corrected(200.0, 0.0),
            d.corrected(200.0 * (-0.25_f64).exp(), 5.0),
        );
        assert!((first / last - 1.0).abs() < 0.03, "{first} {last}");
        let still = Drift::of(&anchors(0.0), &noise).unwrap();
        assert!(!still.significant, "{still:?}");
        assert!((still.corrected(150.0, 5.0) - 150.0).abs() < 1e-9);
        assert!(Drift::of(&anchors(0.1)[..2], &noise).is_none());
    }

    proptest! {
        #[test]
        fn nothing_breaks_the_arithmetic(
            groups in prop::collection::vec(prop::collection::vec(-10.0f64..1e6, 0..6), 0..6),
            hours in prop::collection::vec((-5.0f64..50.0, -1.0f64..1e4), 0..8),
            n in 0usize..50, m in 0usize..50,
        ) {
            let noise = Noise::of(&groups);
            prop_assert!(noise.cv().is_finite() && noise.cv() > 0.0);
            prop_assert!(noise.detectable(n, m) >= 0.0 && !noise.margin(n, m).is_nan());
            let anchors: Vec<Anchor> = hours.iter().map(|&(hours, rps)| Anchor { hours, rps }).collect();
            if let Some(d) = Drift::of(&anchors, &noise) {
                prop_assert!(d.interval[0] <= d.per_hour && d.per_hour <= d.interval[1]);
            }
        }
    }
}
